/* matmul_avx2.c: matrix products, eight rows at a time, lanes = rows.
 *
 * Quantised types. A strip of eight rows (r8.h) is unpacked to units of 32 k (unpack_avx2.h), each of which meets any
 * number of columns:
 *     8 times: broadcast 4 activation bytes, vpmaddubsw with a register of weights, add in 16 bits
 *     once:    vpmaddwd widens to one 32-bit sum per row; convert; multiply by the scale; multiply-add
 * There is no horizontal sum. vpmaddubsw takes unsigned weights times signed activations and saturates its sum of two
 * products, so weights keep their zero point, and what may be added in 16 bits before widening follows from the
 * largest weight (127 is the largest activation):
 *
 *   type               weight   pair sum   added in 16 bits
 *   Q4_0 Q4_1 Q4_K     0..15       3,810   8 pairs: 30,480
 *   Q5_0               0..31       7,874   8, modulo 2^16: with 16 times the lane sum taken off the result is exact
 *   Q5_1 Q5_K          0..31       7,874   4: 31,496
 *   Q6_K               0..63      16,002   2: 32,004; widening multiplies by the scale of 16 values
 *   Q3_K Q2_K          0..7, 0..3  1,778   4 (16 values); the same
 *   IQ4_NL IQ4_XS Q8_0 v + 128 = 16 high + low, both 0..15; two sums of 8, widened with 16 and 1, zero point 8 of high
 *   Q8_0, one column   |w| <= 128 times sign(w) a: 32,512, widened at once: cheaper than splitting for one use
 *
 * Several columns: units of a panel of K are unpacked once into the stack (L1) and used by four columns at a time;
 * between panels the float sums rest in y. One column: each block is unpacked and used at once, so that nothing but the
 * weights passes through the cache: decoding is bound by memory.
 *
 * Float types: each output is one chain of multiply-adds: 32 rows of one column, or 16 rows of four, are in flight to
 * hide its latency.
 *
 * Functions are inlined with constant `struct kind`, so each type has its own straight loop. Sums are exact integers or
 * follow rule 2; nothing here changes a bit with the number of rows or columns.
 */
#include "unpack_avx2.h"

enum form { NIBBLES, FIVE_BITS, SCALED_16, SPLIT, SIGNED };

struct kind {
    enum form form;
    int zero_shift;  /* zero point as a power of two; -1: none */
    bool has_min;    /* adds AT_M times the activations' sum */
    bool has_mins;   /* Q2_K: a minimum per 16 values */
    int span;        /* SCALED_16: registers added before widening */
    size_t block_len, block_bytes;
};

/* A prefetch may point behind the last strip: it never faults. */
enum { COLS = 4, PANEL_K = 1024, PREFETCH_BYTES = 1024 };

ALWAYS_INLINE __m256i broadcast4(const void *p)
{
    int32_t v;
    memcpy(&v, p, sizeof v);
    return _mm256_set1_epi32(v);
}

/* Compilers may reorder integer additions, and gcc then computes all products first and spills them. A value that
 * passes through here is opaque, so additions stay where they are written. */
ALWAYS_INLINE __m256i keep(__m256i v)
{
    __asm__("" : "+x"(v));
    return v;
}

/* Registers in a unit: what the form needs, no more. */
ALWAYS_INLINE size_t unit_size(struct kind kd)
{
    return kd.form == SCALED_16 ? 14 : kd.form == SPLIT ? 18 : 10;
}

/* ---- the integer sum of a unit with n columns: sum[c] = eight rows ---- */

ALWAYS_INLINE void sum_nibbles(__m256i *sum, const __m256i *u, const struct act_block *const *a, size_t n,
                               struct kind kd)
{
    __m256i s[COLS];
    UNROLL
    for (size_t g = 0; g < 8; g++) {
        const __m256i w = u[AT_W + g];
        UNROLL
        for (size_t c = 0; c < n; c++) {
            __m256i t = _mm256_maddubs_epi16(w, broadcast4(a[c]->q + 4 * g));
            if (g > 0)
                s[c] = keep(_mm256_add_epi16(s[c], t));
            else if (kd.zero_shift >= 0)
                s[c] = _mm256_sub_epi16(t, _mm256_slli_epi16(broadcast4(a[c]->lane), kd.zero_shift));
            else
                s[c] = t;
        }
    }
    UNROLL
    for (size_t c = 0; c < n; c++)
        sum[c] = _mm256_madd_epi16(s[c], _mm256_set1_epi16(1));
}

ALWAYS_INLINE void sum_five_bits(__m256i *sum, const __m256i *u, const struct act_block *const *a, size_t n)
{
    UNROLL
    for (size_t half = 0; half < 2; half++) {
        __m256i s[COLS];
        UNROLL
        for (size_t g = 0; g < 4; g++) {
            const __m256i w = u[AT_W + half * 4 + g];
            UNROLL
            for (size_t c = 0; c < n; c++) {
                __m256i t = _mm256_maddubs_epi16(w, broadcast4(a[c]->q + half * 16 + 4 * g));
                s[c] = g > 0 ? keep(_mm256_add_epi16(s[c], t)) : t;
            }
        }
        UNROLL
        for (size_t c = 0; c < n; c++) {
            __m256i t = _mm256_madd_epi16(s[c], _mm256_set1_epi16(1));
            sum[c] = half > 0 ? _mm256_add_epi32(sum[c], t) : t;
        }
    }
}

ALWAYS_INLINE void sum_scaled(__m256i *sum, const __m256i *u, const struct act_block *const *a, size_t n,
                              struct kind kd)
{
    UNROLL
    for (size_t c = 0; c < n; c++) {
        if (kd.zero_shift >= 0) {
            __m256i z = _mm256_madd_epi16(u[AT_SCALES], broadcast4(a[c]->sum16));
            sum[c] = _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_slli_epi32(z, kd.zero_shift));
        } else {
            sum[c] = _mm256_setzero_si256();
        }
    }
    const size_t span = (size_t)kd.span, n_parts = 8 / span;
    UNROLL
    for (size_t part = 0; part < n_parts; part++) {
        __m256i s[COLS];
        UNROLL
        for (size_t g = 0; g < span; g++) {
            const __m256i w = u[AT_W + part * span + g];
            UNROLL
            for (size_t c = 0; c < n; c++) {
                __m256i t = _mm256_maddubs_epi16(w, broadcast4(a[c]->q + 4 * (part * span + g)));
                s[c] = g > 0 ? keep(_mm256_add_epi16(s[c], t)) : t;
            }
        }
        const __m256i scale = u[AT_SCALE + part * span / 4];
        UNROLL
        for (size_t c = 0; c < n; c++)
            sum[c] = _mm256_add_epi32(sum[c], _mm256_madd_epi16(s[c], scale));
    }
}

ALWAYS_INLINE void sum_split(__m256i *sum, const __m256i *u, const struct act_block *const *a, size_t n)
{
    __m256i s[COLS];
    UNROLL
    for (size_t g = 0; g < 8; g++) {
        const __m256i w = u[AT_W + g];
        UNROLL
        for (size_t c = 0; c < n; c++) {
            __m256i t = _mm256_maddubs_epi16(w, broadcast4(a[c]->q + 4 * g));
            s[c] = g > 0 ? keep(_mm256_add_epi16(s[c], t))
                         : _mm256_sub_epi16(t, _mm256_slli_epi16(broadcast4(a[c]->lane), 3));
        }
    }
    UNROLL
    for (size_t c = 0; c < n; c++)
        sum[c] = _mm256_madd_epi16(s[c], _mm256_set1_epi16(16));
    UNROLL
    for (size_t g = 0; g < 8; g++) {
        const __m256i w = u[AT_W + 8 + g];
        UNROLL
        for (size_t c = 0; c < n; c++) {
            __m256i t = _mm256_maddubs_epi16(w, broadcast4(a[c]->q + 4 * g));
            s[c] = g > 0 ? keep(_mm256_add_epi16(s[c], t)) : t;
        }
    }
    UNROLL
    for (size_t c = 0; c < n; c++)
        sum[c] = _mm256_add_epi32(sum[c], _mm256_madd_epi16(s[c], _mm256_set1_epi16(1)));
}

/* -128 is a legal weight of Q8_0: as unsigned its magnitude is 128, and activations stay within 127. */
ALWAYS_INLINE void sum_signed(__m256i *sum, const __m256i *u, const struct act_block *const *a, size_t n)
{
    UNROLL
    for (size_t c = 0; c < n; c++)
        sum[c] = _mm256_setzero_si256();
    UNROLL
    for (size_t g = 0; g < 8; g++) {
        const __m256i w = u[AT_W + g], size = _mm256_abs_epi8(w);
        UNROLL
        for (size_t c = 0; c < n; c++) {
            __m256i t = _mm256_maddubs_epi16(size, _mm256_sign_epi8(broadcast4(a[c]->q + 4 * g), w));
            sum[c] = _mm256_add_epi32(sum[c], _mm256_madd_epi16(t, _mm256_set1_epi16(1)));
        }
    }
}

/* y[c] += the unit times column c. */
ALWAYS_INLINE void add_unit(__m256 *y, const __m256i *u, const struct act_block *const *a, size_t n, struct kind kd)
{
    __m256i sum[COLS];
    const __m256 d = _mm256_castsi256_ps(u[AT_D]);
    switch (kd.form) {
    case NIBBLES: sum_nibbles(sum, u, a, n, kd); break;
    case FIVE_BITS: sum_five_bits(sum, u, a, n); break;
    case SCALED_16: sum_scaled(sum, u, a, n, kd); break;
    case SPLIT: sum_split(sum, u, a, n); break;
    case SIGNED: sum_signed(sum, u, a, n); break;
    }
    UNROLL
    for (size_t c = 0; c < n; c++) {
        const __m256 ad = _mm256_broadcast_ss(&a[c]->d);
        y[c] = _mm256_fmadd_ps(_mm256_mul_ps(d, _mm256_cvtepi32_ps(sum[c])), ad, y[c]);
        if (kd.has_min)
            y[c] = _mm256_fmadd_ps(_mm256_castsi256_ps(u[AT_M]), _mm256_broadcast_ss(&a[c]->sd), y[c]);
        if (kd.has_mins) {
            __m256i m = _mm256_madd_epi16(u[AT_MINS], broadcast4(a[c]->sum16));
            y[c] = _mm256_fnmadd_ps(_mm256_mul_ps(_mm256_castsi256_ps(u[AT_M]), _mm256_cvtepi32_ps(m)), ad, y[c]);
        }
    }
}

/* ---- strips of eight rows ---- */

typedef void (*unpack_fn)(__m256i *u, const uint8_t *p);

ALWAYS_INLINE const uint8_t *strip_at(const struct matmul *a, size_t row)
{
    return (const uint8_t *)a->w + row / 8 * a->strip_bytes;
}

ALWAYS_INLINE void store_rows(float *y, __m256 v, size_t n_rows)
{
    if (n_rows >= 8)
        _mm256_storeu_ps(y, v);
    else
        _mm256_maskstore_ps(y, first_lanes(n_rows), v);
}

ALWAYS_INLINE __m256 load_rows(const float *y, size_t n_rows)
{
    return n_rows >= 8 ? _mm256_loadu_ps(y) : _mm256_maskload_ps(y, first_lanes(n_rows));
}

ALWAYS_INLINE void strip_one_column(const struct matmul *a, size_t row, unpack_fn unpack, struct kind kd)
{
    const size_t n_units = kd.block_len / QK, size = unit_size(kd), block_bytes = 8 * kd.block_bytes;
    const struct act_block *x = a->x;
    const uint8_t *p = strip_at(a, row), *end = p + a->k / kd.block_len * block_bytes;
    __m256i u[8 * 18];
    __m256 y = _mm256_setzero_ps();
    for (; p < end; p += block_bytes) {
        UNROLL
        for (size_t line = 0; line < block_bytes; line += 64)
            _mm_prefetch((const char *)((uintptr_t)p + line + PREFETCH_BYTES), _MM_HINT_T0);
        unpack(u, p);
        for (size_t i = 0; i < n_units; i++, x++)
            add_unit(&y, u + i * size, &x, 1, kd);
    }
    store_rows(a->y + row, y, a->n_rows - row);
}

/* n columns from `col` meet a panel of units at k. */
ALWAYS_INLINE void panel_columns(const struct matmul *a, size_t row, size_t col, size_t n, size_t k, size_t n_units,
                                 const __m256i *panel, struct kind kd)
{
    const size_t size = unit_size(kd), n_rows = a->n_rows - row;
    const struct act_block *x[COLS];
    float *out = a->y + col * a->y_stride + row;
    __m256 y[COLS];
    UNROLL
    for (size_t c = 0; c < n; c++) {
        x[c] = (const struct act_block *)((const uint8_t *)a->x + (col + c) * a->x_stride_bytes) + k / QK;
        y[c] = k == 0 ? _mm256_setzero_ps() : load_rows(out + c * a->y_stride, n_rows);
    }
    for (size_t i = 0; i < n_units; i++) {
        add_unit(y, panel + i * size, x, n, kd);
        UNROLL
        for (size_t c = 0; c < n; c++)
            x[c]++;
    }
    UNROLL
    for (size_t c = 0; c < n; c++)
        store_rows(out + c * a->y_stride, y[c], n_rows);
}

ALWAYS_INLINE void strip_columns(const struct matmul *a, size_t row, unpack_fn unpack, struct kind kd)
{
    const size_t size = unit_size(kd), per_block = kd.block_len / QK;
    const uint8_t *p = strip_at(a, row);
    __m256i panel[PANEL_K / QK * 18];
    for (size_t k = 0; k < a->k; k += PANEL_K) {
        const size_t n_units = MIN(a->k - k, (size_t)PANEL_K) / QK;
        for (size_t i = 0; i < n_units; i += per_block) {
            unpack(panel + i * size, p);
            p += 8 * kd.block_bytes;
        }
        size_t c = 0;
        for (; c + COLS <= a->n_cols; c += COLS)
            panel_columns(a, row, c, COLS, k, n_units, panel, kd);
        if (a->n_cols - c == 3)
            panel_columns(a, row, c, 3, k, n_units, panel, kd);
        else if (a->n_cols - c == 2)
            panel_columns(a, row, c, 2, k, n_units, panel, kd);
        else if (a->n_cols - c == 1)
            panel_columns(a, row, c, 1, k, n_units, panel, kd);
    }
}

/* Nothing to multiply: every output is +0. */
static void clear(const struct matmul *a)
{
    for (size_t c = 0; c < a->n_cols; c++)
        memset(a->y + c * a->y_stride, 0, a->n_rows * sizeof *a->y);
}

ALWAYS_INLINE void run(const struct matmul *a, unpack_fn unpack_one, struct kind one, unpack_fn unpack_many,
                       struct kind many)
{
    if (a->k == 0) {
        clear(a);
    } else if (a->n_cols == 1) {
        for (size_t row = 0; row < a->n_rows; row += 8)
            strip_one_column(a, row, unpack_one, one);
    } else if (a->n_cols > 1) {
        for (size_t row = 0; row < a->n_rows; row += 8)
            strip_columns(a, row, unpack_many, many);
    }
}

#define SMALL(f, zero, min, bytes) ((struct kind){ f, zero, min, false, 0, QK, bytes })
#define LARGE(f, zero, min, mins, span, bytes) ((struct kind){ f, zero, min, mins, span, QK_K, bytes })

#define ENTRY(type, one, kind_one, many, kind_many)                         \
    static void matmul_##type(const struct matmul *a)                       \
    {                                                                       \
        run(a, one, kind_one, many, kind_many);                             \
    }
#define LARGE_UNPACK(type, size)                                            \
    ALWAYS_INLINE void large_##type(__m256i *u, const uint8_t *p)            \
    {                                                                       \
        unpack_##type(u, p, size);                                          \
    }

LARGE_UNPACK(q4_k, 10)
LARGE_UNPACK(q5_k, 10)
LARGE_UNPACK(q6_k, 14)
LARGE_UNPACK(q3_k, 14)
LARGE_UNPACK(q2_k, 14)
LARGE_UNPACK(iq4_xs, 18)

ENTRY(q4_0, unpack_q4_0, SMALL(NIBBLES, 3, false, 18), unpack_q4_0, SMALL(NIBBLES, 3, false, 18))
ENTRY(q4_1, unpack_q4_1, SMALL(NIBBLES, -1, true, 20), unpack_q4_1, SMALL(NIBBLES, -1, true, 20))
ENTRY(q5_0, unpack_q5_0, SMALL(NIBBLES, 4, false, 22), unpack_q5_0, SMALL(NIBBLES, 4, false, 22))
ENTRY(q5_1, unpack_q5_1, SMALL(FIVE_BITS, -1, true, 24), unpack_q5_1, SMALL(FIVE_BITS, -1, true, 24))
ENTRY(q8_0, unpack_q8_0_signed, SMALL(SIGNED, -1, false, 34), unpack_q8_0, SMALL(SPLIT, -1, false, 34))
ENTRY(iq4_nl, unpack_iq4_nl, SMALL(SPLIT, -1, false, 18), unpack_iq4_nl, SMALL(SPLIT, -1, false, 18))
ENTRY(iq4_xs, large_iq4_xs, LARGE(SPLIT, -1, false, false, 0, 136), large_iq4_xs,
      LARGE(SPLIT, -1, false, false, 0, 136))
ENTRY(q4_k, large_q4_k, LARGE(NIBBLES, -1, true, false, 0, 144), large_q4_k, LARGE(NIBBLES, -1, true, false, 0, 144))
ENTRY(q5_k, large_q5_k, LARGE(FIVE_BITS, -1, true, false, 0, 176), large_q5_k,
      LARGE(FIVE_BITS, -1, true, false, 0, 176))
ENTRY(q6_k, large_q6_k, LARGE(SCALED_16, 5, false, false, 2, 210), large_q6_k,
      LARGE(SCALED_16, 5, false, false, 2, 210))
ENTRY(q3_k, large_q3_k, LARGE(SCALED_16, 2, false, false, 4, 110), large_q3_k,
      LARGE(SCALED_16, 2, false, false, 4, 110))
ENTRY(q2_k, large_q2_k, LARGE(SCALED_16, -1, false, true, 4, 84), large_q2_k, LARGE(SCALED_16, -1, false, true, 4, 84))

/* ---- float types ---- */

/* The eight rows of one k. */
ALWAYS_INLINE __m256 float8(const uint8_t *strip, size_t k, enum tensor_type type)
{
    if (type == TYPE_F32)
        return _mm256_loadu_ps((const float *)(const void *)strip + 8 * k);
    __m128i v = _mm_loadu_si128((const __m128i *)(const void *)(strip + 16 * k));
    return type == TYPE_F16 ? _mm256_cvtph_ps(v)
                            : _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16));
}

/* n_strips strips from `row` meet n columns from `col`. */
ALWAYS_INLINE void float_columns(const struct matmul *a, size_t row, size_t n_strips, size_t col, size_t n,
                                 enum tensor_type type)
{
    __m256 y[4][COLS];
    const uint8_t *x[COLS], *w[4];
    UNROLL
    for (size_t c = 0; c < n; c++)
        x[c] = (const uint8_t *)a->x + (col + c) * a->x_stride_bytes;
    UNROLL
    for (size_t v = 0; v < n_strips; v++) {
        w[v] = strip_at(a, row + 8 * v);
        UNROLL
        for (size_t c = 0; c < n; c++)
            y[v][c] = _mm256_setzero_ps();
    }
    for (size_t k = 0; k < a->k; k++) {
        __m256 t[4];
        UNROLL
        for (size_t v = 0; v < n_strips; v++)
            t[v] = float8(w[v], k, type);
        UNROLL
        for (size_t c = 0; c < n; c++) {
            const __m256 xc = _mm256_castsi256_ps(broadcast4(x[c] + 4 * k));
            UNROLL
            for (size_t v = 0; v < n_strips; v++)
                y[v][c] = _mm256_fmadd_ps(t[v], xc, y[v][c]);
        }
    }
    UNROLL
    for (size_t c = 0; c < n; c++) {
        UNROLL
        for (size_t v = 0; v < n_strips; v++)
            store_rows(a->y + (col + c) * a->y_stride + row + 8 * v, y[v][c], a->n_rows - row - 8 * v);
    }
}

ALWAYS_INLINE void float_strips(const struct matmul *a, size_t row, size_t n_strips, enum tensor_type type)
{
    size_t c = 0;
    if (n_strips <= 2) {
        for (; c + COLS <= a->n_cols; c += COLS)
            float_columns(a, row, n_strips, c, COLS, type);
    }
    for (; c < a->n_cols; c++)
        float_columns(a, row, n_strips, c, 1, type);
}

ALWAYS_INLINE void float_run(const struct matmul *a, enum tensor_type type)
{
    size_t row = 0;
    if (a->n_cols < COLS)
        for (; row + 24 < a->n_rows; row += 32)
            float_strips(a, row, 4, type);
    for (; row + 8 < a->n_rows; row += 16)
        float_strips(a, row, 2, type);
    if (row < a->n_rows)
        float_strips(a, row, 1, type);
}

static void matmul_f32(const struct matmul *a)
{
    float_run(a, TYPE_F32);
}

static void matmul_f16(const struct matmul *a)
{
    float_run(a, TYPE_F16);
}

static void matmul_bf16(const struct matmul *a)
{
    float_run(a, TYPE_BF16);
}

void avx2_matmul_init(struct kernels *t)
{
    t->matmul[TYPE_F32] = matmul_f32;
    t->matmul[TYPE_F16] = matmul_f16;
    t->matmul[TYPE_BF16] = matmul_bf16;
    t->matmul[TYPE_Q4_0] = matmul_q4_0;
    t->matmul[TYPE_Q4_1] = matmul_q4_1;
    t->matmul[TYPE_Q5_0] = matmul_q5_0;
    t->matmul[TYPE_Q5_1] = matmul_q5_1;
    t->matmul[TYPE_Q8_0] = matmul_q8_0;
    t->matmul[TYPE_Q2_K] = matmul_q2_k;
    t->matmul[TYPE_Q3_K] = matmul_q3_k;
    t->matmul[TYPE_Q4_K] = matmul_q4_k;
    t->matmul[TYPE_Q5_K] = matmul_q5_k;
    t->matmul[TYPE_Q6_K] = matmul_q6_k;
    t->matmul[TYPE_IQ4_NL] = matmul_iq4_nl;
    t->matmul[TYPE_IQ4_XS] = matmul_iq4_xs;
}

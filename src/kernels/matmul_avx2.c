/* matmul_avx2.c: matrix products of block types on AVX2, lanes = rows.
 *
 * A strip of eight rows (r8.h) is unpacked to units of 32 k (unpack_avx2.h), each of which meets any number of columns:
 *     8 times: broadcast 4 activation bytes, vpmaddubsw with a register of weights, add in 16 bits
 *     once:    vpmaddwd widens to one 32-bit sum per row; convert; multiply by the scale; multiply-add
 * There is no horizontal sum. vpmaddubsw takes unsigned weights times signed activations and saturates its sum of two
 * products, so weights keep their zero point, and what may be added in 16 bits before widening follows from the
 * largest weight (127 is the largest activation):
 *
 *   type               weight   pair sum   added in 16 bits
 *   Q4_0 Q4_1 Q4_K     0..15       3,810   8 pairs: 30,480
 *   Q5_0 Q5_1 Q5_K     0..31       7,874   8, modulo 2^16: with 16 times the lane sum taken off the result is exact
 *   Q6_K               0..63      16,002   2: 32,004; widening multiplies by the scale of 16 values
 *   Q3_K Q2_K          0..7, 0..3  1,778   4 (16 values); the same
 *   IQ4_NL IQ4_XS Q8_0 v + 128 = 16 high + low, both 0..15; two sums of 8, widened with 16 and 1, zero point 8 of high
 *   Q8_0, one column   |w| <= 128 times sign(w) a: 32,512, widened at once: cheaper than splitting for one use
 *
 * Several columns: a tile is 16 rows and 3 columns (2 for the types with two kinds of sums), in assembly (tile_avx2.h).
 * Units of a panel of K of two strips are unpacked once into the stack (L1) and used by all columns of a block; the
 * activations of a block and a panel stay in L2 while all strips pass. Between panels the float sums rest in y. Missing rows
 * and columns of the last tile repeat the last ones; their results are dropped.
 * 2 to 16 columns of the 4-bit types: 8 rows meet 8 columns as the weights are read (few_avx2.h).
 * One column: each block is unpacked and used at once, so that nothing but the weights passes through the cache: decoding is
 * bound by memory.
 *
 * Functions are inlined with constant `struct kind`, so each type has its own straight loop. Sums are exact integers or
 * follow rule 2; nothing here changes a bit with the number of rows or columns.
 */
#include "few_avx2.h"
#include "strips_avx2.h"
#include "tile_avx2.h"
#include "unpack_avx2.h"

enum form { NIBBLES, FIVE_BITS, SCALED_16, SPLIT, SIGNED };

typedef void (*unpack_fn)(__m256i *u, const uint8_t *p, size_t j);
typedef void (*tile_fn)(float *y, const __m256i *u, const struct act_block *const x[], size_t n);
typedef void (*few_fn)(float *y, const uint8_t *w, size_t stride, const float *dm, const struct act_block *const x[], size_t n);

struct kind {
    size_t block_len, block_bytes;
    unpack_fn unpack;
    enum form form;       /* of the one-column product */
    int zero_shift;       /* zero point as a power of two; -1: none */
    bool has_min;         /* adds AT_M times the activations' sum */
    bool has_mins;        /* Q2_K: a minimum per 16 values */
    int span;             /* SCALED_16: registers added before widening */
    unpack_fn unpack_tile; /* for several columns */
    tile_fn tile;
    size_t tile_cols, unit_size; /* unit_size: registers */
    few_fn few_4, few_8;  /* NULL: few columns go the way of many */
    size_t nibbles_at, nibbles_stride; /* few: of the units of 32 k in a strip's block */
    void (*scales)(float *dm, const uint8_t *p, size_t n_units);
};

/* A small panel for few columns: then memory must not wait while the columns are computed. A prefetch may point behind
 * the last strip: it never faults. */
enum { PANEL_K = 1024, SMALL_PANEL_K = 256, SMALL_COLS = 16, COL_BLOCK = 126, PREFETCH_BYTES = 1024, STREAMS = 4, MAX_UNIT = 18, MAX_TILE_COLS = 3 };

ALWAYS_INLINE __m256i broadcast4(const void *p)
{
    int32_t v;
    memcpy(&v, p, sizeof v);
    return _mm256_set1_epi32(v);
}

/* ---- one column: the integer sum of a unit, eight rows ---- */

ALWAYS_INLINE __m256i sum_nibbles(const __m256i *u, const struct act_block *a, struct kind kd)
{
    __m256i s = _mm256_setzero_si256();
    if (kd.zero_shift >= 0)
        s = _mm256_sub_epi16(s, _mm256_slli_epi16(broadcast4(a->lane), kd.zero_shift));
    UNROLL
    for (size_t g = 0; g < 8; g++)
        s = _mm256_add_epi16(s, _mm256_maddubs_epi16(u[AT_W + g], broadcast4(a->q + 4 * g)));
    return _mm256_madd_epi16(s, _mm256_set1_epi16(1));
}

ALWAYS_INLINE __m256i sum_five_bits(const __m256i *u, const struct act_block *a)
{
    __m256i s[2];
    UNROLL
    for (size_t half = 0; half < 2; half++) {
        s[half] = _mm256_setzero_si256();
        UNROLL
        for (size_t g = 4 * half; g < 4 * half + 4; g++)
            s[half] = _mm256_add_epi16(s[half], _mm256_maddubs_epi16(u[AT_W + g], broadcast4(a->q + 4 * g)));
        s[half] = _mm256_madd_epi16(s[half], _mm256_set1_epi16(1));
    }
    return _mm256_add_epi32(s[0], s[1]);
}

ALWAYS_INLINE __m256i sum_scaled(const __m256i *u, const struct act_block *a, struct kind kd)
{
    const size_t span = (size_t)kd.span;
    __m256i sum = kd.zero_shift < 0 ? _mm256_setzero_si256() : _mm256_madd_epi16(u[AT_SCALES], broadcast4(a->sum16));
    UNROLL
    for (size_t part = 0; part < 8 / span; part++) {
        __m256i s = _mm256_setzero_si256();
        UNROLL
        for (size_t g = part * span; g < (part + 1) * span; g++)
            s = _mm256_add_epi16(s, _mm256_maddubs_epi16(u[AT_W + g], broadcast4(a->q + 4 * g)));
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(s, u[AT_SCALE + part * span / 4]));
    }
    return sum;
}

ALWAYS_INLINE __m256i sum_split(const __m256i *u, const struct act_block *a)
{
    __m256i high = _mm256_sub_epi16(_mm256_setzero_si256(), _mm256_slli_epi16(broadcast4(a->lane), 3));
    __m256i low = _mm256_setzero_si256();
    UNROLL
    for (size_t g = 0; g < 8; g++) {
        const __m256i x = broadcast4(a->q + 4 * g);
        high = _mm256_add_epi16(high, _mm256_maddubs_epi16(u[AT_W + g], x));
        low = _mm256_add_epi16(low, _mm256_maddubs_epi16(u[AT_W + 8 + g], x));
    }
    return _mm256_add_epi32(_mm256_madd_epi16(high, _mm256_set1_epi16(16)), _mm256_madd_epi16(low, _mm256_set1_epi16(1)));
}

/* -128 is a legal weight of Q8_0: as unsigned its magnitude is 128, and activations stay within 127. */
ALWAYS_INLINE __m256i sum_signed(const __m256i *u, const struct act_block *a)
{
    __m256i sum = _mm256_setzero_si256();
    UNROLL
    for (size_t g = 0; g < 8; g++) {
        const __m256i w = u[AT_W + g];
        __m256i t = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(broadcast4(a->q + 4 * g), w));
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(t, _mm256_set1_epi16(1)));
    }
    return sum;
}

/* y + the unit times the column. */
ALWAYS_INLINE __m256 add_unit(__m256 y, const __m256i *u, const struct act_block *a, struct kind kd)
{
    const __m256 ad = _mm256_broadcast_ss(&a->d);
    __m256i sum;
    switch (kd.form) {
    case NIBBLES: sum = sum_nibbles(u, a, kd); break;
    case FIVE_BITS: sum = sum_five_bits(u, a); break;
    case SCALED_16: sum = sum_scaled(u, a, kd); break;
    case SPLIT: sum = sum_split(u, a); break;
    default: sum = sum_signed(u, a); break;
    }
    y = _mm256_fmadd_ps(_mm256_mul_ps(_mm256_castsi256_ps(u[AT_D]), _mm256_cvtepi32_ps(sum)), ad, y);
    if (kd.has_min)
        y = _mm256_fmadd_ps(_mm256_castsi256_ps(u[AT_M]), _mm256_broadcast_ss(&a->sd), y);
    if (kd.has_mins) {
        __m256i m = _mm256_madd_epi16(u[AT_MINS], broadcast4(a->sum16));
        y = _mm256_fnmadd_ps(_mm256_mul_ps(_mm256_castsi256_ps(u[AT_M]), _mm256_cvtepi32_ps(m)), ad, y);
    }
    return y;
}

ALWAYS_INLINE void prefetch(const uint8_t *p, size_t n_bytes)
{
    UNROLL
    for (size_t line = 0; line < n_bytes; line += 64)
        _mm_prefetch((const char *)((uintptr_t)p + line), _MM_HINT_T0);
}

/* Several strips side by side: one sequential stream does not fill the memory's queues, four do. */
ALWAYS_INLINE void strips_one_column(const struct matmul *a, size_t row, struct kind kd)
{
    const size_t n_units = kd.block_len / QK, block_bytes = 8 * kd.block_bytes, n_blocks = a->k / kd.block_len;
    const size_t n_strips = MIN((a->n_rows - row + 7) / 8, (size_t)STREAMS);
    const struct act_block *x = a->x;
    __m256 y[STREAMS];
    for (size_t s = 0; s < STREAMS; s++)
        y[s] = _mm256_setzero_ps();
    for (size_t i = 0; i < n_blocks; i++, x += n_units)
        for (size_t s = 0; s < n_strips; s++) {
            const uint8_t *p = strip_at(a, row + 8 * s) + i * block_bytes;
            prefetch((const uint8_t *)((uintptr_t)p + PREFETCH_BYTES), block_bytes);
            UNROLL
            for (size_t j = 0; j < n_units; j++) {
                __m256i u[MAX_UNIT];
                kd.unpack(u, p, j);
                y[s] = add_unit(y[s], u, x + j, kd);
            }
        }
    for (size_t s = 0; s < n_strips; s++)
        store_rows(a->y + row + 8 * s, y[s], a->n_rows - row - 8 * s);
}

/* ---- several columns ---- */

/* Both strips of 16 rows from k on, their units side by side. */
ALWAYS_INLINE void unpack_panel(__m256i *panel, const struct matmul *a, size_t row, size_t k, size_t n_units, struct kind kd)
{
    const size_t per_block = kd.block_len / QK, block_bytes = 8 * kd.block_bytes, spacing = 2 * kd.unit_size;
    for (size_t s = 0; s < 2; s++) {
        const uint8_t *p = strip_at(a, row + 8 * s < a->n_rows ? row + 8 * s : row) + k / kd.block_len * block_bytes;
        for (size_t i = 0; i < n_units; i += per_block, p += block_bytes) {
            prefetch((const uint8_t *)((uintptr_t)p + SMALL_PANEL_K / kd.block_len * block_bytes), block_bytes);
            for (size_t j = 0; j < per_block; j++)
                kd.unpack_tile(panel + (i + j) * spacing + s * kd.unit_size, p, j);
        }
    }
}

/* kd.tile_cols columns from `col`, as far as they are below end. */
ALWAYS_INLINE void tile_columns(const struct matmul *a, size_t row, size_t col, size_t end, size_t k, size_t n_units,
                                const __m256i *panel, struct kind kd)
{
    const struct act_block *x[MAX_TILE_COLS];
    __m256 y[2 * MAX_TILE_COLS];
    const size_t n_rows = a->n_rows - row;
    UNROLL
    for (size_t c = 0; c < kd.tile_cols; c++) {
        const size_t at = MIN(col + c, end - 1);
        const float *from = a->y + at * a->y_stride + row;
        x[c] = (const struct act_block *)((const uint8_t *)a->x + at * a->x_stride_bytes) + k / QK;
        y[2 * c] = k == 0 ? _mm256_setzero_ps() : load_rows(from, n_rows);
        y[2 * c + 1] = k == 0 || n_rows <= 8 ? _mm256_setzero_ps() : load_rows(from + 8, n_rows - 8);
    }
    kd.tile((float *)y, panel, x, n_units);
    UNROLL
    for (size_t c = 0; c < kd.tile_cols; c++) {
        if (col + c >= end)
            break;
        float *to = a->y + (col + c) * a->y_stride + row;
        store_rows(to, y[2 * c], n_rows);
        if (n_rows > 8)
            store_rows(to + 8, y[2 * c + 1], n_rows - 8);
    }
}

ALWAYS_INLINE void column_block(const struct matmul *a, size_t col, size_t end, size_t panel_k, struct kind kd)
{
    __m256i panel[PANEL_K / QK * 2 * MAX_UNIT];
    for (size_t k = 0; k < a->k; k += panel_k) {
        const size_t n_units = MIN(a->k - k, panel_k) / QK;
        for (size_t row = 0; row < a->n_rows; row += 16) {
            unpack_panel(panel, a, row, k, n_units, kd);
            for (size_t c = col; c < end; c += kd.tile_cols)
                tile_columns(a, row, c, end, k, n_units, panel, kd);
        }
    }
}

/* ---- few columns of 4-bit types ---- */

/* dm of n units of Q4_0 and Q4_1 from p on. */
ALWAYS_INLINE void scales_q4_0(float *dm, const uint8_t *p, size_t n_units)
{
    for (size_t i = 0; i < n_units; i++)
        _mm256_store_ps(dm + 16 * i, halves(p + 144 * i));
}

ALWAYS_INLINE void scales_q4_1(float *dm, const uint8_t *p, size_t n_units)
{
    for (size_t i = 0; i < n_units; i++) {
        _mm256_store_ps(dm + 16 * i, halves(p + 160 * i));
        _mm256_store_ps(dm + 16 * i + 8, halves(p + 160 * i + 16));
    }
}

ALWAYS_INLINE void scales_q4_k(float *dm, const uint8_t *p, size_t n_units)
{
    for (size_t j = 0; j < n_units; j++) {
        __m256i u[2];
        unpack_k_scales(u, p, j);
        _mm256_store_si256((__m256i *)(void *)(dm + 16 * j), u[AT_D]);
        _mm256_store_si256((__m256i *)(void *)(dm + 16 * j + 8), u[AT_M]);
    }
}

/* Up to SMALL_COLS columns of a strip, 256 k (or what is left) at a time. */
ALWAYS_INLINE void strip_few_columns(const struct matmul *a, size_t row, struct kind kd)
{
    const size_t n_groups = (a->n_cols + 7) / 8;
    const struct act_block *x[SMALL_COLS];
    __m256 y[SMALL_COLS], dm[2 * QK_K / QK];
    for (size_t c = 0; c < SMALL_COLS; c++) {
        x[c] = (const struct act_block *)((const uint8_t *)a->x + MIN(c, a->n_cols - 1) * a->x_stride_bytes);
        y[c] = _mm256_setzero_ps();
    }
    const uint8_t *p = strip_at(a, row);
    for (size_t k = 0; k < a->k; k += QK_K) {
        const size_t n_units = MIN(a->k - k, (size_t)QK_K) / QK, n_bytes = n_units * QK / kd.block_len * 8 * kd.block_bytes;
        prefetch((const uint8_t *)((uintptr_t)p + QK_K / kd.block_len * 8 * kd.block_bytes), QK_K / kd.block_len * 8 * kd.block_bytes);
        kd.scales((float *)dm, p, n_units);
        for (size_t i = 0; i < n_groups; i++)
            (a->n_cols - 8 * i <= 4 ? kd.few_4 : kd.few_8)((float *)(y + 8 * i), p + kd.nibbles_at, kd.nibbles_stride,
                                                           (const float *)dm, x + 8 * i, n_units);
        for (size_t c = 0; c < 8 * n_groups; c++)
            x[c] += n_units;
        p += n_bytes;
    }
    for (size_t c = 0; c < a->n_cols; c++)
        store_rows(a->y + c * a->y_stride + row, y[c], a->n_rows - row);
}

/* With few columns the strips are read in their order, K from end to end; with many, a panel of K of all strips at a time. */
ALWAYS_INLINE void run(const struct matmul *a, struct kind kd)
{
    if (a->k == 0) {
        clear(a);
    } else if (a->n_cols == 1) {
        for (size_t row = 0; row < a->n_rows; row += 8 * STREAMS)
            strips_one_column(a, row, kd);
    } else if (a->n_cols <= SMALL_COLS && kd.few_8) {
        for (size_t row = 0; row < a->n_rows; row += 8)
            strip_few_columns(a, row, kd);
    } else if (a->n_cols <= SMALL_COLS) {
        for (size_t row = 0; row < a->n_rows; row += 16) {
            struct matmul part = *a;
            part.w = strip_at(a, row);
            part.y += row;
            part.n_rows = MIN(a->n_rows - row, (size_t)16);
            column_block(&part, 0, a->n_cols, SMALL_PANEL_K, kd);
        }
    } else {
        for (size_t col = 0; col < a->n_cols; col += COL_BLOCK)
            column_block(a, col, MIN(col + COL_BLOCK, a->n_cols), PANEL_K, kd);
    }
}

#define ENTRY(type, ...)                                                    \
    static void matmul_##type(const struct matmul *a)                       \
    {                                                                       \
        run(a, (struct kind){ __VA_ARGS__ });                               \
    }
#define SMALL(bytes, fn) .block_len = QK, .block_bytes = bytes, .unpack = fn, .unpack_tile = fn
#define LARGE(bytes, fn) .block_len = QK_K, .block_bytes = bytes, .unpack = fn, .unpack_tile = fn
#define FEW_COLS(name, at, stride, fn) \
    .few_4 = name##_4, .few_8 = name##_8, .nibbles_at = at, .nibbles_stride = stride, .scales = fn
#define TILE(name, cols, size) .tile = name, .tile_cols = cols, .unit_size = size

ENTRY(q4_0, SMALL(18, unpack_q4_0), .form = NIBBLES, .zero_shift = 3, TILE(tile_zero_8, 3, 10),
      FEW_COLS(few_zero_8, 16, 144, scales_q4_0))
ENTRY(q4_1, SMALL(20, unpack_q4_1), .form = NIBBLES, .zero_shift = -1, .has_min = true, TILE(tile_min, 3, 10),
      FEW_COLS(few_min, 32, 160, scales_q4_1))
ENTRY(q5_0, SMALL(22, unpack_q5_0), .form = NIBBLES, .zero_shift = 4, TILE(tile_zero_16, 3, 10))
ENTRY(q5_1, SMALL(24, unpack_q5_1), .form = FIVE_BITS, .has_min = true, TILE(tile_min_16, 3, 10))
ENTRY(q8_0, .block_len = QK, .block_bytes = 34, .unpack = unpack_q8_0_signed, .unpack_tile = unpack_q8_0, .form = SIGNED,
      TILE(tile_split, 2, 18))
ENTRY(iq4_nl, SMALL(18, unpack_iq4_nl), .form = SPLIT, TILE(tile_split, 2, 18))
ENTRY(iq4_xs, LARGE(136, unpack_iq4_xs), .form = SPLIT, TILE(tile_split, 2, 18))
ENTRY(q4_k, LARGE(144, unpack_q4_k), .form = NIBBLES, .zero_shift = -1, .has_min = true, TILE(tile_min, 3, 10),
      FEW_COLS(few_min, 128, 128, scales_q4_k))
ENTRY(q5_k, LARGE(176, unpack_q5_k), .form = FIVE_BITS, .has_min = true, TILE(tile_min_16, 3, 10))
ENTRY(q6_k, LARGE(210, unpack_q6_k), .form = SCALED_16, .zero_shift = 5, .span = 2, TILE(tile_span_2, 2, 14))
ENTRY(q3_k, LARGE(110, unpack_q3_k), .form = SCALED_16, .zero_shift = 2, .span = 4, TILE(tile_span_4, 2, 14))
ENTRY(q2_k, LARGE(84, unpack_q2_k), .form = SCALED_16, .zero_shift = -1, .has_mins = true, .span = 4,
      TILE(tile_span_4_mins, 2, 14))

void avx2_matmul_init(struct kernels *t)
{
    avx2_matmul_float_init(t);
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

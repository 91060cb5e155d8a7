/* matmul_neon.c: products of quantised matrices on arm64, eight rows at a time, lanes = rows.
 *
 * Compiled three times, for three tables:
 *
 *   neon      armv8.0: SMLAL, 8 products of 8 bits into eight sums of 16
 *   dotprod   SDOT by element: four sums of 4 products; a register of weights (4 rows x 4 k) meets one lane, 4
 *             activation bytes, of a register of sixteen: no broadcast and no horizontal sum
 *   i8mm      SMMLA, 2 rows x 8 k times 8 k x 2 columns, for two and more columns (matmul_i8mm.h); SDOT for one
 *
 * Weights multiply signed by signed. With several columns the zero point is taken off when a panel is unpacked; with one
 * column it is cheaper to start the sum at -zero * sum of the activations. Both are exact integers.
 *
 * neon: what may be added in 16 bits follows from the largest weight (127 is the largest activation). A lane adds one k
 * of every group: up to 31 with all 8 groups (31,496), Q6_K up to 63 with the 4 groups of a scale (32,004), those of
 * eight bits, Q8_0 and the IQ4 types, with 2 (32,512). Pairwise additions then make sums of rows.
 *
 * dotprod, i8mm: sums of 32 bits start at the number whose bits are 2^23 + 2^22 as a float, so that the finished sum is
 * a float with that added, and one exact subtraction replaces the conversion, which many cores do at a quarter of the
 * rate. It holds for |sum| < 2^22: for all but Q6_K, which converts. Panels of Q2_K and Q3_K have -scale * weight as
 * weights (-128..124, so the sum is 2^23 + 2^22 minus that float), and need no scales in the inner loop.
 *
 * Several columns: 256 k of up to four strips are unpacked to the stack (14 to 20 KiB: L1) and meet all columns, four at
 * a time (neon: two); between panels the float sums rest in y. One column: a unit is unpacked and used in registers, so
 * that nothing but the weights passes through the cache.
 *
 * Instructions of the compiled inner loops (gcc 12) for 256 multiply-adds, and how many of them are vector arithmetic;
 * unpacking for several columns costs what one column has more, once for all of them:
 *
 *                neon, 1 column   2         dotprod, 1    4        i8mm, 4
 *     Q4_0            92 (74)    70 (57)      60 (44)   33 (27)    22 (16)
 *     Q8_0            95 (71)    94 (69)      50 (26)   33 (27)    22 (16)
 *     Q4_K           121 (101)   71 (58)      87 (69)   38 (29)    25 (18)
 *     Q6_K           151 (133)   90 (69)     113 (96)   41 (30)    33 (22)
 *
 * An estimate from these, not a measurement, of multiply-adds per cycle and core for Q4_K: neon on Cortex-A72 6 (one
 * column 4, or 2.2 bytes of weights), dotprod on Cortex-A55 8 (3, 1.6 bytes), on Cortex-A76 and Neoverse N1 with two vector
 * pipes 18 (7, 4.2 bytes), i8mm on Neoverse N2 with two 28, on V1 with four 56.
 */
#include "unpack_neon.h"

#if defined(__ARM_FEATURE_DOTPROD)
enum { HAS_DOT = 1, COLS = 4 };
#else
enum { HAS_DOT = 0, COLS = 2 }; /* sums of 16 bits take twice the registers */
#endif

enum form { PLAIN, SCALED }; /* SCALED: integer scales of 16 values */

struct kind {
    enum form form;
    int zero;          /* zero point that unpacking leaves in */
    bool is_wide;      /* weights of 8 bits */
    bool has_min;      /* adds m times the activations' sum */
    bool has_mins;     /* Q2_K: a minimum per 16 values */
    bool takes_scales; /* scale * weight fits in 8 bits */
    bool is_negated;   /* the sum is of -weights */
    size_t block_len, block_bytes;
};

/* A prefetch may point behind the last strip: it never faults. */
enum { PANEL_K = 256, PANEL_UNITS = PANEL_K / QK, STRIPS = 4, PREFETCH_BYTES = 1024 };

typedef void (*unpack_fn)(struct unit *u, const uint8_t *p, size_t j);

ALWAYS_INLINE const uint8_t *strip_at(const struct matmul *a, size_t row)
{
    return (const uint8_t *)a->w + row / R8_ROWS * a->strip_bytes;
}

ALWAYS_INLINE const struct act_block *column_at(const struct matmul *a, size_t col, size_t k)
{
    return (const struct act_block *)(const void *)((const uint8_t *)a->x + col * a->x_stride_bytes) + k / QK;
}

/* What stands behind the values of an activation block: d, sd as floats 0, 1; sum16 as 16-bit numbers 4, 5. */
_Static_assert(offsetof(struct act_block, d) == 32 && offsetof(struct act_block, sd) == 36 &&
               offsetof(struct act_block, sum16) == 40, "read by act_floats and act_sums");

ALWAYS_INLINE float32x4_t act_floats(const struct act_block *a)
{
    return vreinterpretq_f32_u8(vld1q_u8((const uint8_t *)a + offsetof(struct act_block, d)));
}

ALWAYS_INLINE int16x8_t act_sums(const struct act_block *a)
{
    return vreinterpretq_s16_f32(act_floats(a));
}

/* acc - zero * (the activations' sum, or one half of it) in every lane. */
ALWAYS_INLINE int32x4_t minus_zero(int32x4_t acc, const struct act_block *a, int zero, bool first, bool second)
{
    const int16x4_t z = vdup_n_s16((int16_t)-zero);
    if (zero != 0 && first)
        acc = vmlal_laneq_s16(acc, z, act_sums(a), 4);
    if (zero != 0 && second)
        acc = vmlal_laneq_s16(acc, z, act_sums(a), 5);
    return acc;
}

/* ---- the integer sums of a unit with n columns, as floats: f[c][v] ---- */

ALWAYS_INLINE int8x16_t weights(const struct unit *u, size_t i)
{
    return vreinterpretq_s8_u8(u->w[i]);
}

#if defined(__ARM_FEATURE_DOTPROD)

#define MAGIC 0x1.8p23f

ALWAYS_INLINE int32x4_t magic_start(void)
{
    return vreinterpretq_s32_f32(vdupq_n_f32(MAGIC));
}

/* A sum that began at magic_start, or the negated one. */
ALWAYS_INLINE float32x4_t from_magic(int32x4_t sum, bool is_negated)
{
    const float32x4_t f = vreinterpretq_f32_s32(sum), magic = vdupq_n_f32(MAGIC);
    return is_negated ? vsubq_f32(magic, f) : vsubq_f32(f, magic);
}

/* Half h of the unit, rows of v, with n columns: s[c] += the four sums. Column by column within a group: neighbouring
 * instructions do not wait for each other. */
ALWAYS_INLINE void dot_half(int32x4_t *s, const struct unit *u, size_t h, size_t v, const struct act_block *const *a,
                            size_t n)
{
    const int8x16_t w0 = weights(u, 8 * h + v), w1 = weights(u, 8 * h + v + 2);
    const int8x16_t w2 = weights(u, 8 * h + v + 4), w3 = weights(u, 8 * h + v + 6);
    UNROLL
    for (size_t c = 0; c < n; c++)
        s[c] = vdotq_laneq_s32(s[c], w0, vld1q_s8(a[c]->q + 16 * h), 0);
    UNROLL
    for (size_t c = 0; c < n; c++)
        s[c] = vdotq_laneq_s32(s[c], w1, vld1q_s8(a[c]->q + 16 * h), 1);
    UNROLL
    for (size_t c = 0; c < n; c++)
        s[c] = vdotq_laneq_s32(s[c], w2, vld1q_s8(a[c]->q + 16 * h), 2);
    UNROLL
    for (size_t c = 0; c < n; c++)
        s[c] = vdotq_laneq_s32(s[c], w3, vld1q_s8(a[c]->q + 16 * h), 3);
}

ALWAYS_INLINE void unit_sums(float32x4_t f[][2], const struct unit *u, const struct act_block *const *a, size_t n,
                             struct kind kd)
{
    const bool is_scaled = kd.form == SCALED;
    UNROLL
    for (size_t v = 0; v < 2; v++) {
        int32x4_t s[COLS], t[COLS];
        UNROLL
        for (size_t c = 0; c < n; c++) {
            s[c] = minus_zero(is_scaled ? vdupq_n_s32(0) : magic_start(), a[c], kd.zero, true, !is_scaled);
            t[c] = minus_zero(vdupq_n_s32(0), a[c], kd.zero, false, true);
        }
        dot_half(s, u, 0, v, a, n);
        dot_half(is_scaled ? t : s, u, 1, v, a, n);
        UNROLL
        for (size_t c = 0; c < n; c++) {
            if (is_scaled)
                f[c][v] = vcvtq_f32_s32(vmlaq_s32(vmulq_s32(s[c], u->sc[0][v]), t[c], u->sc[1][v]));
            else
                f[c][v] = from_magic(s[c], kd.is_negated);
        }
    }
}

#else

/* Groups [begin, end) with n columns: s[c] = rows 0 and 1, 2 and 3 ..., four sums of each. */
ALWAYS_INLINE void long_groups(int16x8_t s[][4], const struct unit *u, size_t begin, size_t end,
                               const struct act_block *const *a, size_t n)
{
    UNROLL
    for (size_t g = begin; g < end; g++) {
        UNROLL
        for (size_t c = 0; c < n; c++) {
            int32_t four;
            memcpy(&four, a[c]->q + 4 * g, sizeof four);
            const int8x16_t x = vreinterpretq_s8_s32(vdupq_n_s32(four));
            UNROLL
            for (size_t v = 0; v < 2; v++) {
                const int8x16_t w = weights(u, 2 * g + v);
                int16x8_t *t = s[c] + 2 * v;
                t[0] = g == begin ? vmull_s8(vget_low_s8(w), vget_low_s8(x)) : vmlal_s8(t[0], vget_low_s8(w), vget_low_s8(x));
                t[1] = g == begin ? vmull_high_s8(w, x) : vmlal_high_s8(t[1], w, x);
            }
        }
    }
}

ALWAYS_INLINE void unit_sums(float32x4_t f[][2], const struct unit *u, const struct act_block *const *a, size_t n,
                             struct kind kd)
{
    const size_t n_parts = kd.form == SCALED ? 2 : kd.is_wide ? 4 : 1, span = 8 / n_parts;
    int32x4_t sum[COLS][2], t[COLS][4];
    UNROLL
    for (size_t part = 0; part < n_parts; part++) {
        int16x8_t s[COLS][4];
        long_groups(s, u, part * span, (part + 1) * span, a, n);
        UNROLL
        for (size_t c = 0; c < n; c++) {
            UNROLL
            for (size_t i = 0; i < 4; i++)
                t[c][i] = part == 0 || kd.form == SCALED ? vpaddlq_s16(s[c][i]) : vpadalq_s16(t[c][i], s[c][i]);
            UNROLL
            for (size_t v = 0; v < 2; v++) {
                if (kd.form == PLAIN)
                    continue;
                int32x4_t half = minus_zero(vpaddq_s32(t[c][2 * v], t[c][2 * v + 1]), a[c], kd.zero, part == 0, part == 1);
                sum[c][v] = part == 0 ? vmulq_s32(half, u->sc[0][v]) : vmlaq_s32(sum[c][v], half, u->sc[1][v]);
            }
        }
    }
    UNROLL
    for (size_t c = 0; c < n; c++) {
        UNROLL
        for (size_t v = 0; v < 2; v++) {
            if (kd.form == PLAIN)
                sum[c][v] = minus_zero(vpaddq_s32(t[c][2 * v], t[c][2 * v + 1]), a[c], kd.zero, true, true);
            f[c][v] = vcvtq_f32_s32(sum[c][v]);
        }
    }
}

#endif

/* y[c][v] += the unit times column c. */
ALWAYS_INLINE void add_unit(float32x4_t y[][2], const struct unit *u, const struct act_block *const *a, size_t n,
                            struct kind kd)
{
    float32x4_t f[COLS][2];
    unit_sums(f, u, a, n, kd);
    UNROLL
    for (size_t c = 0; c < n; c++) {
        const float32x4_t x = act_floats(a[c]);
        y[c][0] = vfmaq_laneq_f32(y[c][0], vmulq_f32(u->d[0], f[c][0]), x, 0);
        y[c][1] = vfmaq_laneq_f32(y[c][1], vmulq_f32(u->d[1], f[c][1]), x, 0);
    }
    UNROLL
    for (size_t c = 0; c < n; c++) {
        const float32x4_t x = act_floats(a[c]);
        UNROLL
        for (size_t v = 0; v < 2; v++) {
            if (kd.has_min)
                y[c][v] = vfmaq_laneq_f32(y[c][v], u->m[v], x, 1);
            if (kd.has_mins) {
                int32x4_t m = vmull_laneq_s16(u->mn[0][v], act_sums(a[c]), 4);
                m = vmlal_laneq_s16(m, u->mn[1][v], act_sums(a[c]), 5);
                y[c][v] = vfmsq_laneq_f32(y[c][v], vmulq_f32(u->m[v], vcvtq_f32_s32(m)), x, 0);
            }
        }
    }
}

/* ---- one column ---- */

ALWAYS_INLINE void unpack_and_add(float32x4_t y[][2], const uint8_t *p, size_t j, const struct act_block *x,
                                  unpack_fn unpack, struct kind kd)
{
    struct unit u;
    unpack(&u, p, j);
    add_unit(y, &u, &x, 1, kd);
}

ALWAYS_INLINE void strip_one_column(const struct matmul *a, size_t row, unpack_fn unpack, struct kind kd)
{
    const size_t bytes = R8_ROWS * kd.block_bytes, per_block = kd.block_len / QK;
    const struct act_block *x = a->x;
    const uint8_t *p = strip_at(a, row), *end = p + a->k / kd.block_len * bytes;
    float32x4_t y[1][2] = { { vdupq_n_f32(0), vdupq_n_f32(0) } };
    for (; p < end; p += bytes, x += per_block) {
        UNROLL
        for (size_t line = 0; line < bytes; line += 64)
            __builtin_prefetch((const void *)((uintptr_t)p + line + PREFETCH_BYTES));
        unpack_and_add(y, p, 0, x, unpack, kd);
        if (per_block > 1)
            unpack_and_add(y, after(p, y[0]), 1, x + 1, unpack, kd);
        for (size_t j = 2; j < per_block; j += 2) {
            unpack_and_add(y, p, j, x + j, unpack, kd);
            unpack_and_add(y, after(p, y[0]), j + 1, x + j + 1, unpack, kd);
        }
    }
    store_rows(a->y + row, y[0], a->n_rows - row);
}

/* ---- several columns ---- */

/* The kind that the units of a panel have: no zero point, and no scales where those can go into the weights. */
ALWAYS_INLINE struct kind in_panel(struct kind kd)
{
    kd.zero = 0;
    if (HAS_DOT && kd.takes_scales) {
        kd.form = PLAIN;
        kd.is_negated = true;
    }
    return kd;
}

/* A unit as a panel has it. */
ALWAYS_INLINE void unpack_for_panel(struct unit *u, const uint8_t *p, size_t j, unpack_fn unpack, struct kind kd)
{
    static const uint8_t low_byte[16] = { 0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12 };
    unpack(u, p, j);
    if (kd.zero != 0) {
        UNROLL
        for (size_t i = 0; i < 16; i++)
            u->w[i] = vsubq_u8(u->w[i], vdupq_n_u8((uint8_t)kd.zero));
    }
    if (in_panel(kd).is_negated) {
        UNROLL
        for (size_t i = 0; i < 16; i++) {
            const uint8x16_t sc = vqtbl1q_u8(vreinterpretq_u8_s32(vnegq_s32(u->sc[i / 8][i % 2])), vld1q_u8(low_byte));
            u->w[i] = vmulq_u8(u->w[i], sc);
        }
    }
}

#if defined(__ARM_FEATURE_MATMUL_INT8)
#include "matmul_i8mm.h"
#else

typedef struct unit panel_unit;

ALWAYS_INLINE void put_unit(panel_unit *out, const struct unit *u, struct kind kd)
{
    (void)kd;
    *out = *u;
}

/* A strip's panel meets n columns. */
ALWAYS_INLINE void panel_columns(const struct matmul *a, size_t row, size_t col, size_t n, size_t k, size_t n_units,
                                 const panel_unit *panel, struct kind kd)
{
    const struct act_block *x[COLS];
    float *out = a->y + col * a->y_stride + row;
    float32x4_t y[COLS][2];
    UNROLL
    for (size_t c = 0; c < n; c++) {
        x[c] = column_at(a, col + c, k);
        y[c][0] = y[c][1] = vdupq_n_f32(0);
        if (k > 0)
            load_rows(y[c], out + c * a->y_stride, a->n_rows - row);
    }
    for (size_t i = 0; i < n_units; i++) {
        add_unit(y, panel + i, x, n, kd);
        UNROLL
        for (size_t c = 0; c < n; c++)
            x[c]++;
    }
    UNROLL
    for (size_t c = 0; c < n; c++)
        store_rows(out + c * a->y_stride, y[c], a->n_rows - row);
}

/* n columns from `col` meet the panels of all strips from `row` on. */
ALWAYS_INLINE void strips_columns(const struct matmul *a, size_t row, size_t n_strips, size_t col, size_t n, size_t k,
                                  size_t n_units, const panel_unit *panel, struct kind kd)
{
    for (size_t s = 0; s < n_strips; s++)
        panel_columns(a, row + s * R8_ROWS, col, n, k, n_units, panel + s * PANEL_UNITS, kd);
}

ALWAYS_INLINE void all_columns(const struct matmul *a, size_t row, size_t n_strips, size_t k, size_t n_units,
                               const panel_unit *panel, struct kind kd)
{
    size_t c = 0;
    for (; c + COLS <= a->n_cols; c += COLS)
        strips_columns(a, row, n_strips, c, COLS, k, n_units, panel, kd);
    if (COLS > 2 && a->n_cols - c == 3)
        strips_columns(a, row, n_strips, c, MIN(3, COLS), k, n_units, panel, kd);
    else if (COLS > 2 && a->n_cols - c == 2)
        strips_columns(a, row, n_strips, c, 2, k, n_units, panel, kd);
    else if (a->n_cols - c == 1)
        strips_columns(a, row, n_strips, c, 1, k, n_units, panel, kd);
}

#endif

ALWAYS_INLINE void several_columns(const struct matmul *a, unpack_fn unpack, struct kind kd)
{
    panel_unit panel[STRIPS * PANEL_UNITS];
    const size_t per_block = kd.block_len / QK;
    for (size_t row = 0; row < a->n_rows; row += STRIPS * R8_ROWS) {
        const size_t n_strips = MIN((a->n_rows - row + R8_ROWS - 1) / R8_ROWS, (size_t)STRIPS);
        for (size_t k = 0; k < a->k; k += PANEL_K) {
            const size_t n_units = MIN(a->k - k, (size_t)PANEL_K) / QK;
            for (size_t s = 0; s < n_strips; s++)
                for (size_t i = 0; i < n_units; i++) {
                    struct unit u;
                    const uint8_t *p = strip_at(a, row + s * R8_ROWS) + (k / QK + i) / per_block * R8_ROWS * kd.block_bytes;
                    unpack_for_panel(&u, p, i % per_block, unpack, kd);
                    put_unit(&panel[s * PANEL_UNITS + i], &u, in_panel(kd));
                }
            all_columns(a, row, n_strips, k, n_units, panel, in_panel(kd));
        }
    }
}

ALWAYS_INLINE void run(const struct matmul *a, unpack_fn unpack, struct kind kd)
{
    if (a->k == 0) {
        for (size_t c = 0; c < a->n_cols; c++)
            memset(a->y + c * a->y_stride, 0, a->n_rows * sizeof *a->y);
    } else if (a->n_cols == 1) {
        for (size_t row = 0; row < a->n_rows; row += R8_ROWS)
            strip_one_column(a, row, unpack, kd);
    } else if (a->n_cols > 1) {
        several_columns(a, unpack, kd);
    }
}

#define ENTRY(type, ...)                                                    \
    static void matmul_##type(const struct matmul *a)                       \
    {                                                                       \
        run(a, unpack_##type, (struct kind){ __VA_ARGS__ });                \
    }
ENTRY(q4_0, .zero = 8, .block_len = QK, .block_bytes = 18)
ENTRY(q4_1, .has_min = true, .block_len = QK, .block_bytes = 20)
ENTRY(q5_0, .zero = 16, .block_len = QK, .block_bytes = 22)
ENTRY(q5_1, .has_min = true, .block_len = QK, .block_bytes = 24)
ENTRY(q8_0, .is_wide = true, .block_len = QK, .block_bytes = 34)
ENTRY(iq4_nl, .is_wide = true, .block_len = QK, .block_bytes = 18)
ENTRY(iq4_xs, .is_wide = true, .block_len = QK_K, .block_bytes = 136)
ENTRY(q4_k, .has_min = true, .block_len = QK_K, .block_bytes = 144)
ENTRY(q5_k, .has_min = true, .block_len = QK_K, .block_bytes = 176)
ENTRY(q6_k, .form = SCALED, .zero = 32, .block_len = QK_K, .block_bytes = 210)
ENTRY(q3_k, .form = SCALED, .zero = 4, .takes_scales = true, .block_len = QK_K, .block_bytes = 110)
ENTRY(q2_k, .form = SCALED, .has_mins = true, .takes_scales = true, .block_len = QK_K, .block_bytes = 84)

void INIT_JOIN(KERNELS_VARIANT, matmul_init)(struct kernels *t)
{
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

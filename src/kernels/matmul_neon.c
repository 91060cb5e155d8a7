/* matmul_neon.c: matrix products with NEON, four rows at a time, lanes = rows.
 *
 * Compiled twice: plainly (armv8.0, "neon": multiply long, pairwise add long) and with the dot-product instructions
 * (armv8.2, "dotprod"), which differ in dot16 alone.
 *
 * NEON multiplies signed by signed, so zero points are simply taken off when a block is unpacked. 32 weights of one
 * row times 32 activations leave four partial sums per row; three pairwise additions turn those of four rows into one
 * register of row sums (SADDP keeps the order of rows), and the float part of rule 2 works on that.
 *
 * A panel of K of a strip of four rows is unpacked to int8 on the stack and then meets all columns, four at a time;
 * between panels the float sums rest in y. Largest sums in 16 bits (two products): Q8_0 2 * 128 * 127 = 32,512.
 *
 * Float types: 4 x 4 transposes to a panel, then one chain of multiply-adds per output, 8 rows x 4 columns or 16 rows
 * x 1 column in flight.
 */
#include "blocks.h"
#include "neon.h"

enum { COLS = 4, PANEL_K = 512 };

/* 32 values of four rows. */
struct unit {
    int8_t w[4][32];
    float d[4], m[4];            /* scale; factor of the activations' sum (Q2_K: dmin) */
    int32_t sc[2][4], mn[2][4];  /* k-quants with scales per 16 values */
};

enum form { PLAIN, WITH_MIN, SCALED, SCALED_MIN };

struct kind {
    enum form form;
    size_t block_len, block_bytes;
    void (*unpack)(struct unit *u, size_t r, const void *block); /* one row of one block: 1 or 8 units */
};

/* ---- unpacking ---- */

ALWAYS_INLINE void put(struct unit *u, size_t r, uint8x16_t low, uint8x16_t high, int zero)
{
    vst1q_s8(u->w[r], vsubq_s8(vreinterpretq_s8_u8(low), vdupq_n_s8((int8_t)zero)));
    vst1q_s8(u->w[r] + 16, vsubq_s8(vreinterpretq_s8_u8(high), vdupq_n_s8((int8_t)zero)));
}

ALWAYS_INLINE uint8x16_t low_nibbles(uint8x16_t v)
{
    return vandq_u8(v, vdupq_n_u8(15));
}

/* Each byte shifted left by n, or right by -n. */
ALWAYS_INLINE uint8x16_t shift(uint8x16_t v, int n)
{
    return vshlq_u8(v, vdupq_n_s8((int8_t)n));
}

ALWAYS_INLINE uint8x16_t bits(uint8x16_t v, int left, uint8_t mask)
{
    return vandq_u8(shift(v, left), vdupq_n_u8(mask));
}

static void unpack_q4_0(struct unit *u, size_t r, const void *block)
{
    const struct block_q4_0 *b = block;
    const uint8x16_t q = vld1q_u8(b->qs);
    u->d[r] = load_half(b->d);
    put(u, r, low_nibbles(q), vshrq_n_u8(q, 4), 8);
}

static void unpack_q4_1(struct unit *u, size_t r, const void *block)
{
    const struct block_q4_1 *b = block;
    const uint8x16_t q = vld1q_u8(b->qs);
    u->d[r] = load_half(b->d);
    u->m[r] = load_half(b->m);
    put(u, r, low_nibbles(q), vshrq_n_u8(q, 4), 0);
}

/* 16 where bits of two bytes are set, one per value. */
ALWAYS_INLINE uint8x16_t fifth_bits(const uint8_t *p)
{
    static const uint8_t mask[16] = { 1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128 };
    const uint8x16_t v = vcombine_u8(vdup_n_u8(p[0]), vdup_n_u8(p[1]));
    return vandq_u8(vtstq_u8(v, vld1q_u8(mask)), vdupq_n_u8(16));
}

static void unpack_q5_0(struct unit *u, size_t r, const void *block)
{
    const struct block_q5_0 *b = block;
    const uint8x16_t q = vld1q_u8(b->qs);
    u->d[r] = load_half(b->d);
    put(u, r, vorrq_u8(low_nibbles(q), fifth_bits(b->qh)), vorrq_u8(vshrq_n_u8(q, 4), fifth_bits(b->qh + 2)), 16);
}

static void unpack_q5_1(struct unit *u, size_t r, const void *block)
{
    const struct block_q5_1 *b = block;
    const uint8x16_t q = vld1q_u8(b->qs);
    u->d[r] = load_half(b->d);
    u->m[r] = load_half(b->m);
    put(u, r, vorrq_u8(low_nibbles(q), fifth_bits(b->qh)), vorrq_u8(vshrq_n_u8(q, 4), fifth_bits(b->qh + 2)), 0);
}

static void unpack_q8_0(struct unit *u, size_t r, const void *block)
{
    const struct block_q8_0 *b = block;
    u->d[r] = load_half(b->d);
    memcpy(u->w[r], b->qs, 32);
}

ALWAYS_INLINE void put_table(struct unit *u, size_t r, const uint8_t *qs)
{
    const int8x16_t table = vld1q_s8(iq4_table);
    const uint8x16_t q = vld1q_u8(qs);
    vst1q_s8(u->w[r], vqtbl1q_s8(table, low_nibbles(q)));
    vst1q_s8(u->w[r] + 16, vqtbl1q_s8(table, vshrq_n_u8(q, 4)));
}

static void unpack_iq4_nl(struct unit *u, size_t r, const void *block)
{
    const struct block_iq4_nl *b = block;
    u->d[r] = load_half(b->d);
    put_table(u, r, b->qs);
}

static void unpack_iq4_xs(struct unit *u, size_t r, const void *block)
{
    const struct block_iq4_xs *b = block;
    for (size_t j = 0; j < 8; j++) {
        u[j].d[r] = load_half(b->d) * (float)iq4_xs_scale(b, j);
        put_table(&u[j], r, b->qs + 16 * j);
    }
}

ALWAYS_INLINE void k_scales(struct unit *u, size_t r, const uint8_t *d, const uint8_t *dmin, const uint8_t *scales)
{
    for (size_t j = 0; j < 8; j++) {
        uint8_t sc, mn;
        k_scale_min(&sc, &mn, scales, j);
        u[j].d[r] = load_half(d) * (float)sc;
        u[j].m[r] = -(load_half(dmin) * (float)mn);
    }
}

static void unpack_q4_k(struct unit *u, size_t r, const void *block)
{
    const struct block_q4_k *b = block;
    k_scales(u, r, b->d, b->dmin, b->scales);
    for (size_t i = 0; i < 4; i++) {
        const uint8x16_t q0 = vld1q_u8(b->qs + 32 * i), q1 = vld1q_u8(b->qs + 32 * i + 16);
        put(&u[2 * i], r, low_nibbles(q0), low_nibbles(q1), 0);
        put(&u[2 * i + 1], r, vshrq_n_u8(q0, 4), vshrq_n_u8(q1, 4), 0);
    }
}

static void unpack_q5_k(struct unit *u, size_t r, const void *block)
{
    const struct block_q5_k *b = block;
    const uint8x16_t h0 = vld1q_u8(b->qh), h1 = vld1q_u8(b->qh + 16);
    k_scales(u, r, b->d, b->dmin, b->scales);
    for (int i = 0; i < 4; i++) {
        const uint8x16_t q0 = vld1q_u8(b->qs + 32 * i), q1 = vld1q_u8(b->qs + 32 * i + 16);
        put(&u[2 * i], r, vorrq_u8(low_nibbles(q0), bits(h0, 4 - 2 * i, 16)),
            vorrq_u8(low_nibbles(q1), bits(h1, 4 - 2 * i, 16)), 0);
        put(&u[2 * i + 1], r, vorrq_u8(vshrq_n_u8(q0, 4), bits(h0, 3 - 2 * i, 16)),
            vorrq_u8(vshrq_n_u8(q1, 4), bits(h1, 3 - 2 * i, 16)), 0);
    }
}

static void unpack_q6_k(struct unit *u, size_t r, const void *block)
{
    const struct block_q6_k *b = block;
    const float d = load_half(b->d);
    for (int j = 0; j < 8; j++) {
        const uint8_t *ql = b->ql + 64 * (j / 4) + 32 * (j % 2), *qh = b->qh + 32 * (j / 4);
        const int nibble = -4 * (j % 4 / 2), pair = 4 - 2 * (j % 4);
        put(&u[j], r, vorrq_u8(bits(vld1q_u8(ql), nibble, 15), bits(vld1q_u8(qh), pair, 0x30)),
            vorrq_u8(bits(vld1q_u8(ql + 16), nibble, 15), bits(vld1q_u8(qh + 16), pair, 0x30)), 32);
        u[j].d[r] = d;
        u[j].sc[0][r] = b->scales[2 * j];
        u[j].sc[1][r] = b->scales[2 * j + 1];
    }
}

static void unpack_q3_k(struct unit *u, size_t r, const void *block)
{
    const struct block_q3_k *b = block;
    const uint8x16_t h0 = vld1q_u8(b->hmask), h1 = vld1q_u8(b->hmask + 16);
    const float d = load_half(b->d);
    for (int j = 0; j < 8; j++) {
        const uint8_t *q = b->qs + 32 * (j / 4);
        const int down = -2 * (j % 4);
        put(&u[j], r, vorrq_u8(bits(vld1q_u8(q), down, 3), bits(h0, 2 - j, 4)),
            vorrq_u8(bits(vld1q_u8(q + 16), down, 3), bits(h1, 2 - j, 4)), 4);
        u[j].d[r] = d;
        u[j].sc[0][r] = q3_scale(b->scales, 2 * (size_t)j);
        u[j].sc[1][r] = q3_scale(b->scales, 2 * (size_t)j + 1);
    }
}

static void unpack_q2_k(struct unit *u, size_t r, const void *block)
{
    const struct block_q2_k *b = block;
    const float d = load_half(b->d), dmin = load_half(b->dmin);
    for (int j = 0; j < 8; j++) {
        const uint8_t *q = b->qs + 32 * (j / 4), *s = b->scales + 2 * j;
        const int down = -2 * (j % 4);
        put(&u[j], r, bits(vld1q_u8(q), down, 3), bits(vld1q_u8(q + 16), down, 3), 0);
        u[j].d[r] = d;
        u[j].m[r] = dmin;
        for (size_t h = 0; h < 2; h++) {
            u[j].sc[h][r] = s[h] & 15;
            u[j].mn[h][r] = s[h] >> 4;
        }
    }
}

/* ---- integer sums ---- */

/* acc + four partial sums of 16 products. */
ALWAYS_INLINE int32x4_t dot16(int32x4_t acc, int8x16_t w, int8x16_t a)
{
#ifdef __ARM_FEATURE_DOTPROD
    return vdotq_s32(acc, w, a);
#else
    int16x8_t t = vmull_s8(vget_low_s8(w), vget_low_s8(a));
    return vpadalq_s16(acc, vmlal_s8(t, vget_high_s8(w), vget_high_s8(a)));
#endif
}

ALWAYS_INLINE int32x4_t row_sums(int32x4_t a, int32x4_t b, int32x4_t c, int32x4_t d)
{
    return vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d));
}

ALWAYS_INLINE float32x4_t add_unit(float32x4_t y, const struct unit *u, const struct act_block *a, enum form form)
{
    const int8x16_t a0 = vld1q_s8(a->q), a1 = vld1q_s8(a->q + 16);
    const int32x4_t zero = vdupq_n_s32(0);
    int32x4_t p[4], sum;
    if (form == SCALED || form == SCALED_MIN) {
        int32x4_t h[4];
        UNROLL
        for (size_t r = 0; r < 4; r++) {
            p[r] = dot16(zero, vld1q_s8(u->w[r]), a0);
            h[r] = dot16(zero, vld1q_s8(u->w[r] + 16), a1);
        }
        sum = vmulq_s32(vld1q_s32(u->sc[0]), row_sums(p[0], p[1], p[2], p[3]));
        sum = vmlaq_s32(sum, vld1q_s32(u->sc[1]), row_sums(h[0], h[1], h[2], h[3]));
    } else {
        UNROLL
        for (size_t r = 0; r < 4; r++)
            p[r] = dot16(dot16(zero, vld1q_s8(u->w[r]), a0), vld1q_s8(u->w[r] + 16), a1);
        sum = row_sums(p[0], p[1], p[2], p[3]);
    }
    const float32x4_t ad = vdupq_n_f32(a->d);
    y = vfmaq_f32(y, vmulq_f32(vld1q_f32(u->d), vcvtq_f32_s32(sum)), ad);
    if (form == WITH_MIN)
        y = vfmaq_f32(y, vld1q_f32(u->m), vdupq_n_f32(a->sd));
    if (form == SCALED_MIN) {
        int32x4_t m = vmulq_n_s32(vld1q_s32(u->mn[0]), a->sum16[0]);
        m = vmlaq_n_s32(m, vld1q_s32(u->mn[1]), a->sum16[1]);
        y = vfmaq_f32(y, vnegq_f32(vmulq_f32(vld1q_f32(u->m), vcvtq_f32_s32(m))), ad);
    }
    return y;
}

/* ---- strips of four rows ---- */

ALWAYS_INLINE float32x4_t load_rows(const float *y, size_t n_rows)
{
    float t[4] = { 0 };
    if (n_rows >= 4)
        return vld1q_f32(y);
    memcpy(t, y, n_rows * sizeof *y);
    return vld1q_f32(t);
}

ALWAYS_INLINE void store_rows(float *y, float32x4_t v, size_t n_rows)
{
    float t[4];
    if (n_rows >= 4) {
        vst1q_f32(y, v);
    } else {
        vst1q_f32(t, v);
        memcpy(y, t, n_rows * sizeof *y);
    }
}

ALWAYS_INLINE void panel_columns(const struct matmul *a, size_t row, size_t col, size_t n, size_t k, size_t n_units,
                                 const struct unit *panel, enum form form)
{
    const struct act_block *x[COLS];
    float *out = a->y + col * a->y_stride + row;
    float32x4_t y[COLS];
    UNROLL
    for (size_t c = 0; c < n; c++) {
        x[c] = (const struct act_block *)((const uint8_t *)a->x + (col + c) * a->x_stride_bytes) + k / QK;
        y[c] = k == 0 ? vdupq_n_f32(0) : load_rows(out + c * a->y_stride, a->n_rows - row);
    }
    for (size_t i = 0; i < n_units; i++)
        UNROLL
        for (size_t c = 0; c < n; c++)
            y[c] = add_unit(y[c], &panel[i], x[c] + i, form);
    UNROLL
    for (size_t c = 0; c < n; c++)
        store_rows(out + c * a->y_stride, y[c], a->n_rows - row);
}

static void clear(const struct matmul *a)
{
    for (size_t c = 0; c < a->n_cols; c++)
        memset(a->y + c * a->y_stride, 0, a->n_rows * sizeof *a->y);
}

ALWAYS_INLINE void run(const struct matmul *a, struct kind kd)
{
    struct unit panel[PANEL_K / QK];
    const size_t per_block = kd.block_len / QK;
    if (a->k == 0)
        clear(a);
    for (size_t row = 0; row < a->n_rows; row += 4)
        for (size_t k = 0; k < a->k; k += PANEL_K) {
            const size_t n_units = MIN(a->k - k, (size_t)PANEL_K) / QK;
            for (size_t r = 0; r < 4; r++) { /* a row that does not exist repeats the last one */
                const uint8_t *b = (const uint8_t *)a->w + MIN(row + r, a->n_rows - 1) * a->w_row_bytes;
                for (size_t i = 0; i < n_units; i += per_block)
                    kd.unpack(panel + i, r, b + (k / QK + i) / per_block * kd.block_bytes);
            }
            size_t c = 0;
            for (; c + COLS <= a->n_cols; c += COLS)
                panel_columns(a, row, c, COLS, k, n_units, panel, kd.form);
            for (; c < a->n_cols; c++)
                panel_columns(a, row, c, 1, k, n_units, panel, kd.form);
        }
}

#define ENTRY(type, form, len, bytes)                                       \
    static void matmul_##type(const struct matmul *a)                       \
    {                                                                       \
        run(a, (struct kind){ form, len, bytes, unpack_##type });           \
    }
ENTRY(q4_0, PLAIN, QK, 18)
ENTRY(q4_1, WITH_MIN, QK, 20)
ENTRY(q5_0, PLAIN, QK, 22)
ENTRY(q5_1, WITH_MIN, QK, 24)
ENTRY(q8_0, PLAIN, QK, 34)
ENTRY(iq4_nl, PLAIN, QK, 18)
ENTRY(iq4_xs, PLAIN, QK_K, 136)
ENTRY(q4_k, WITH_MIN, QK_K, 144)
ENTRY(q5_k, WITH_MIN, QK_K, 176)
ENTRY(q6_k, SCALED, QK_K, 210)
ENTRY(q3_k, SCALED, QK_K, 110)
ENTRY(q2_k, SCALED_MIN, QK_K, 84)

/* ---- float types ---- */

enum { FLOAT_PANEL_K = 128, FLOAT_VECS = 4 };

ALWAYS_INLINE float32x4_t float4(const uint8_t *row, size_t k, enum tensor_type type)
{
    if (type == TYPE_F32)
        return vreinterpretq_f32_u8(vld1q_u8(row + 4 * k));
    if (type == TYPE_F16)
        return load_halves(row + 2 * k);
    return vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(vld1_u8(row + 2 * k)), 16));
}

ALWAYS_INLINE float float1(const uint8_t *row, size_t k, enum tensor_type type)
{
    if (type == TYPE_F32)
        return load_f32(row + 4 * k);
    return type == TYPE_F16 ? half_bits_to_float(load_le16(row + 2 * k)) : bf16_bits_to_float(load_le16(row + 2 * k));
}

/* panel[i] = value k + i of rows row .. row + 3. */
ALWAYS_INLINE void float_panel(float32x4_t *panel, const struct matmul *a, size_t row, size_t k, size_t n,
                               enum tensor_type type)
{
    const uint8_t *b[4];
    size_t i = 0;
    UNROLL
    for (size_t r = 0; r < 4; r++)
        b[r] = (const uint8_t *)a->w + MIN(row + r, a->n_rows - 1) * a->w_row_bytes;
    for (; i + 4 <= n; i += 4) {
        float32x4_t x0 = float4(b[0], k + i, type), x1 = float4(b[1], k + i, type);
        float32x4_t x2 = float4(b[2], k + i, type), x3 = float4(b[3], k + i, type);
        float64x2_t t0 = vreinterpretq_f64_f32(vtrn1q_f32(x0, x1)), t1 = vreinterpretq_f64_f32(vtrn2q_f32(x0, x1));
        float64x2_t t2 = vreinterpretq_f64_f32(vtrn1q_f32(x2, x3)), t3 = vreinterpretq_f64_f32(vtrn2q_f32(x2, x3));
        panel[i] = vreinterpretq_f32_f64(vtrn1q_f64(t0, t2));
        panel[i + 1] = vreinterpretq_f32_f64(vtrn1q_f64(t1, t3));
        panel[i + 2] = vreinterpretq_f32_f64(vtrn2q_f64(t0, t2));
        panel[i + 3] = vreinterpretq_f32_f64(vtrn2q_f64(t1, t3));
    }
    for (; i < n; i++) {
        float v[4];
        UNROLL
        for (size_t r = 0; r < 4; r++)
            v[r] = float1(b[r], k + i, type);
        panel[i] = vld1q_f32(v);
    }
}

ALWAYS_INLINE void float_columns(const struct matmul *a, size_t row, size_t n_vec, size_t col, size_t n, size_t k,
                                 size_t n_k, const float32x4_t *panel)
{
    float32x4_t y[FLOAT_VECS][COLS];
    float *out = a->y + col * a->y_stride + row;
    const uint8_t *x = (const uint8_t *)a->x + col * a->x_stride_bytes + 4 * k;
    UNROLL
    for (size_t c = 0; c < n; c++)
        UNROLL
        for (size_t v = 0; v < n_vec; v++)
            y[v][c] = k == 0 ? vdupq_n_f32(0) : load_rows(out + c * a->y_stride + 4 * v, a->n_rows - row - 4 * v);
    for (size_t i = 0; i < n_k; i++)
        UNROLL
        for (size_t c = 0; c < n; c++) {
            const float32x4_t t = vdupq_n_f32(load_f32(x + c * a->x_stride_bytes + 4 * i));
            UNROLL
            for (size_t v = 0; v < n_vec; v++)
                y[v][c] = vfmaq_f32(y[v][c], panel[v * FLOAT_PANEL_K + i], t);
        }
    UNROLL
    for (size_t c = 0; c < n; c++)
        UNROLL
        for (size_t v = 0; v < n_vec; v++)
            store_rows(out + c * a->y_stride + 4 * v, y[v][c], a->n_rows - row - 4 * v);
}

ALWAYS_INLINE void float_strip(const struct matmul *a, size_t row, size_t n_vec, enum tensor_type type)
{
    float32x4_t panel[FLOAT_VECS * FLOAT_PANEL_K];
    for (size_t k = 0; k < a->k; k += FLOAT_PANEL_K) {
        const size_t n_k = MIN(a->k - k, (size_t)FLOAT_PANEL_K);
        size_t c = 0;
        UNROLL
        for (size_t v = 0; v < n_vec; v++)
            float_panel(panel + v * FLOAT_PANEL_K, a, row + 4 * v, k, n_k, type);
        if (n_vec <= 2) {
            for (; c + COLS <= a->n_cols; c += COLS)
                float_columns(a, row, n_vec, c, COLS, k, n_k, panel);
        }
        for (; c < a->n_cols; c++)
            float_columns(a, row, n_vec, c, 1, k, n_k, panel);
    }
}

ALWAYS_INLINE void float_run(const struct matmul *a, enum tensor_type type)
{
    size_t row = 0;
    if (a->k == 0) {
        clear(a);
        return;
    }
    if (a->n_cols < COLS)
        for (; row + 12 < a->n_rows; row += 16)
            float_strip(a, row, 4, type);
    for (; row + 4 < a->n_rows; row += 8)
        float_strip(a, row, 2, type);
    if (row < a->n_rows)
        float_strip(a, row, 1, type);
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

#ifdef __ARM_FEATURE_DOTPROD
void dotprod_matmul_init(struct kernels *t)
#else
void neon_matmul_init(struct kernels *t)
#endif
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

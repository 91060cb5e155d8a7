/* attn_neon.c: attention over chunks of 32 tokens: the three passes of attn.h with registers of four (armv8.0, no
 * extensions).
 *
 * Scores: four rows by 16 tokens, or one to three rows by 32. Values: four rows by 16 channels, two by 32, one by 32. So
 * eight to 24 of the 32 registers hold sums. Rows of a block that see different lanes take the values one by one.
 *
 * The tile type is a constant argument of inlined functions, so each entry has its own straight code. What is left
 * over (rows, channels below a multiple of the tile) takes narrower versions of the same loops.
 */
#include "attn.h"
#include "neon.h"

enum { FEW_ROWS = 8 };

ALWAYS_INLINE size_t kv_bytes(enum kv_type type)
{
    return type == KV_F16 ? 2 : 4;
}

/* Four values from element i of a tile. */
ALWAYS_INLINE float32x4_t load4(const uint8_t *tile, size_t i, enum kv_type type)
{
    if (type == KV_F16)
        return load_halves(tile + 2 * i);
    return vreinterpretq_f32_u8(vld1q_u8(tile + 4 * i));
}

ALWAYS_INLINE float load1(const uint8_t *tile, size_t i, enum kv_type type)
{
    if (type == KV_F16)
        return half_bits_to_float(load_le16(tile + 2 * i));
    return load_f32(tile + 4 * i);
}

/* ---- scores ---- */

/* The raw scores of n_rows rows from i, n_vec registers of tokens at a time. */
ALWAYS_INLINE void score_rows(const struct rows *r, size_t i, size_t n_rows, size_t n_vec, enum kv_type type, bool is_ahead)
{
    const float *q = r->q + i * r->q_stride;
    const size_t q_stride = r->q_stride, head_dim = r->head_dim;
    for (size_t t = 0; t < CHUNK_TOKENS; t += 4 * n_vec) {
        const uint8_t *k = r->k + t * kv_bytes(type), *ahead = r->ahead_k + t * kv_bytes(type);
        float32x4_t sum[4][8];
        UNROLL
        for (size_t j = 0; j < n_rows; j++)
            UNROLL
            for (size_t x = 0; x < n_vec; x++)
                sum[j][x] = vdupq_n_f32(0);
        for (size_t d = 0; d < head_dim; d++) {
            float32x4_t qd[4];
            UNROLL
            for (size_t j = 0; j < n_rows; j++)
                qd[j] = vdupq_n_f32(q[j * q_stride + d]);
            if (is_ahead)
                __builtin_prefetch(ahead + d * CHUNK_TOKENS * kv_bytes(type));
            UNROLL
            for (size_t x = 0; x < n_vec; x++) {
                const float32x4_t key = load4(k, d * CHUNK_TOKENS + 4 * x, type);
                UNROLL
                for (size_t j = 0; j < n_rows; j++)
                    sum[j][x] = vfmaq_f32(sum[j][x], qd[j], key);
            }
        }
        UNROLL
        for (size_t j = 0; j < n_rows; j++)
            UNROLL
            for (size_t x = 0; x < n_vec; x++)
                vst1q_f32(r->w->s[i + j] + t + 4 * x, sum[j][x]);
    }
}

ALWAYS_INLINE void scores(const struct rows *r, size_t n, enum kv_type type, bool is_ahead)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        score_rows(r, i, 4, 4, type, is_ahead);
    switch (n - i) {
    case 3: score_rows(r, i, 3, 8, type, is_ahead); break;
    case 2: score_rows(r, i, 2, 8, type, is_ahead); break;
    case 1: score_rows(r, i, 1, 8, type, is_ahead); break;
    default: break;
    }
}

/* ---- soften ---- */

/* Scores to p for row i. */
static void soften_row(const struct rows *r, size_t i)
{
    const float m_old = r->m[i];
    const uint32_t first[4] = { 0, 1, 2, 3 };
    const uint32x4_t begin = vdupq_n_u32(r->w->lanes[i].begin), end = vdupq_n_u32(r->w->lanes[i].end);
    uint32x4_t lane = vld1q_u32(first);
    float32x4_t s[8], max = vdupq_n_f32(m_old);
    float *p = r->w->s[i];
    UNROLL
    for (size_t x = 0; x < 8; x++) {
        s[x] = vmulq_n_f32(vld1q_f32(p + 4 * x), r->scale);
        if (r->softcap != 0)
            s[x] = softcap4(s[x], r->softcap);
        s[x] = vbslq_f32(vandq_u32(vcgeq_u32(lane, begin), vcltq_u32(lane, end)), s[x], vdupq_n_f32(-INFINITY));
        max = larger(s[x], max);
        lane = vaddq_u32(lane, vdupq_n_u32(4));
    }
    const float m = vmaxvq_f32(max) + 0.0f;
    const float c = m_old == -INFINITY ? 0.0f : scalar_exp(m_old - m);
    UNROLL
    for (size_t x = 0; x < 8; x++) {
        s[x] = exp4(vsubq_f32(s[x], vdupq_n_f32(m)));
        vst1q_f32(p + 4 * x, s[x]);
    }
    float32x4_t low = vaddq_f32(vaddq_f32(vaddq_f32(s[0], s[2]), s[4]), s[6]);
    float32x4_t high = vaddq_f32(vaddq_f32(vaddq_f32(s[1], s[3]), s[5]), s[7]);
    r->m[i] = m;
    r->l[i] = fmaf(r->l[i], c, tree_sum(low, high));
    r->w->c[i] = c;
}

static void soften(const struct rows *r, size_t n)
{
    for (size_t i = 0; i < n; i++)
        soften_row(r, i);
}

/* ---- values ---- */

/* n_rows rows from i that see the same lanes; n_vec registers of channels from d. */
ALWAYS_INLINE void value_panel(const struct rows *r, size_t i, size_t n_rows, size_t d, size_t n_vec, enum kv_type type, bool is_ahead)
{
    const float *p = r->w->s[i];
    const size_t head_dim = r->head_dim, o_stride = r->o_stride, end = r->w->lanes[i].end;
    float *o = r->o + i * o_stride + d;
    float32x4_t sum[4][8];
    UNROLL
    for (size_t j = 0; j < n_rows; j++)
        UNROLL
        for (size_t x = 0; x < n_vec; x++)
            sum[j][x] = vmulq_n_f32(vld1q_f32(o + j * o_stride + 4 * x), r->w->c[i + j]);
    for (size_t t = r->w->lanes[i].begin; t < end; t++) {
        float32x4_t pt[4];
        UNROLL
        for (size_t j = 0; j < n_rows; j++)
            pt[j] = vdupq_n_f32(p[j * CHUNK_TOKENS + t]);
        if (is_ahead)
            __builtin_prefetch(r->ahead_v + (t * head_dim + d) * kv_bytes(type));
        UNROLL
        for (size_t x = 0; x < n_vec; x++) {
            const float32x4_t value = load4(r->v, t * head_dim + d + 4 * x, type);
            UNROLL
            for (size_t j = 0; j < n_rows; j++)
                sum[j][x] = vfmaq_f32(sum[j][x], pt[j], value);
        }
    }
    UNROLL
    for (size_t j = 0; j < n_rows; j++)
        UNROLL
        for (size_t x = 0; x < n_vec; x++)
            vst1q_f32(o + j * o_stride + 4 * x, sum[j][x]);
}

ALWAYS_INLINE void value_channel(const struct rows *r, size_t i, size_t d, enum kv_type type)
{
    float *o = r->o + i * r->o_stride + d, sum = *o * r->w->c[i];
    for (size_t t = r->w->lanes[i].begin; t < r->w->lanes[i].end; t++)
        sum = fmaf(r->w->s[i][t], load1(r->v, t * r->head_dim + d, type), sum);
    *o = sum;
}

ALWAYS_INLINE void value_rows(const struct rows *r, size_t i, size_t n_rows, size_t n_vec, enum kv_type type, bool is_ahead)
{
    size_t d = 0;
    for (; d + 4 * n_vec <= r->head_dim; d += 4 * n_vec)
        value_panel(r, i, n_rows, d, n_vec, type, is_ahead);
    for (; d + 4 <= r->head_dim; d += 4)
        value_panel(r, i, n_rows, d, 1, type, is_ahead);
    for (; d < r->head_dim; d++)
        for (size_t j = 0; j < n_rows; j++)
            value_channel(r, i + j, d, type);
}

ALWAYS_INLINE void values(const struct rows *r, size_t n, enum kv_type type, bool is_ahead)
{
    for (size_t i = 0, k; i < n; i += k)
        switch (k = alike_rows(r, i, n - i, 4)) {
        case 4: value_rows(r, i, 4, 4, type, is_ahead); break;
        case 3: k = 2; /* fall through */
        case 2: value_rows(r, i, 2, 8, type, is_ahead); break;
        default: value_rows(r, i, 1, 8, type, is_ahead); break;
        }
}

/* ---- the walk ---- */

/* 32 n values of a tile as floats. */
static void convert(float *out, const uint8_t *tile, const uint8_t *ahead, size_t n)
{
    for (size_t i = 0; i < 32 * n; i += 32) {
        __builtin_prefetch(ahead + 2 * i);
        UNROLL
        for (size_t x = 0; x < 32; x += 4)
            vst1q_f32(out + i + x, load4(tile, i + x, KV_F16));
    }
}

static void few_rows_f16(const struct rows *r, size_t n)
{
    scores(r, n, KV_F16, true);
    soften(r, n);
    values(r, n, KV_F16, true);
}

static void few_rows_f32(const struct rows *r, size_t n)
{
    scores(r, n, KV_F32, true);
    soften(r, n);
    values(r, n, KV_F32, true);
}

/* Tiles of floats that are in the cache, or will be after the first rows. */
static void many_rows_f32(const struct rows *r, size_t n)
{
    scores(r, n, KV_F32, false);
    soften(r, n);
    values(r, n, KV_F32, false);
}

static void many_rows_f16(const struct rows *tile, size_t n)
{
    struct rows r = *tile;
    convert(r.w->tile, r.k, r.ahead_k, r.head_dim);
    r.k = r.v = (const uint8_t *)r.w->tile;
    scores(&r, n, KV_F32, false);
    soften(&r, n);
    convert(r.w->tile, tile->v, r.ahead_v, r.head_dim);
    values(&r, n, KV_F32, false);
}

static void attn_walk_f16(const struct attn_walk *a)
{
    walk_chunks(a, few_rows_f16, many_rows_f16, FEW_ROWS);
}

static void attn_walk_f32(const struct attn_walk *a)
{
    walk_chunks(a, few_rows_f32, many_rows_f32, FEW_ROWS);
}

void neon_attn_init(struct kernels *t)
{
    t->attn_walk[KV_F16] = attn_walk_f16;
    t->attn_walk[KV_F32] = attn_walk_f32;
}

/* attn_neon.c: attention over chunks of 32 tokens (armv8.0, no extensions).
 *
 * As attn_avx2.c with four lanes: the 32 scores of a query row are eight registers, two rows share each load of K; 16
 * channels of two rows are eight sums over the visible tokens of V.
 */
#include "neon.h"

/* Four values from element i of a tile. */
ALWAYS_INLINE float32x4_t load4(const void *tile, size_t i, enum kv_type type)
{
    if (type == KV_F16)
        return load_halves((const uint8_t *)tile + 2 * i);
    return vld1q_f32((const float *)tile + i);
}

ALWAYS_INLINE float load1(const void *tile, size_t i, enum kv_type type)
{
    if (type == KV_F16)
        return half_bits_to_float(load_le16((const uint8_t *)tile + 2 * i));
    return load_f32((const uint8_t *)tile + 4 * i);
}

ALWAYS_INLINE void raw_scores(float32x4_t s[2][8], const struct attn_chunk *a, const float *q, size_t n_rows,
                              enum kv_type type)
{
    UNROLL
    for (size_t r = 0; r < n_rows; r++)
        UNROLL
        for (size_t j = 0; j < 8; j++)
            s[r][j] = vdupq_n_f32(0);
    for (size_t d = 0; d < a->head_dim; d++)
        UNROLL
        for (size_t j = 0; j < 8; j++) {
            const float32x4_t k = load4(a->k, d * CHUNK_TOKENS + 4 * j, type);
            UNROLL
            for (size_t r = 0; r < n_rows; r++)
                s[r][j] = vfmaq_f32(s[r][j], vdupq_n_f32(q[r * a->q_stride + d]), k);
        }
}

/* From raw scores to p[32]; updates m and l of the row and returns c, the factor of what was there before. */
ALWAYS_INLINE float soften(float p[CHUNK_TOKENS], const float32x4_t raw[8], const struct attn_chunk *a, size_t i_q)
{
    const float m_old = a->m[i_q];
    const uint32_t first[4] = { 0, 1, 2, 3 };
    const uint32x4_t begin = vdupq_n_u32((uint32_t)a->lane_begin), end = vdupq_n_u32((uint32_t)a->lane_end);
    uint32x4_t lane = vld1q_u32(first);
    float32x4_t s[8], max = vdupq_n_f32(m_old);
    UNROLL
    for (size_t j = 0; j < 8; j++) {
        s[j] = vmulq_n_f32(raw[j], a->scale);
        if (a->softcap != 0)
            s[j] = softcap4(s[j], a->softcap);
        s[j] = vbslq_f32(vandq_u32(vcgeq_u32(lane, begin), vcltq_u32(lane, end)), s[j], vdupq_n_f32(-INFINITY));
        max = larger(s[j], max);
        lane = vaddq_u32(lane, vdupq_n_u32(4));
    }
    const float m = vmaxvq_f32(max) + 0.0f;
    const float c = m_old == -INFINITY ? 0.0f : scalar_exp(m_old - m);
    UNROLL
    for (size_t j = 0; j < 8; j++) {
        s[j] = exp4(vsubq_f32(s[j], vdupq_n_f32(m)));
        vst1q_f32(p + 4 * j, s[j]);
    }
    float32x4_t low = vaddq_f32(vaddq_f32(vaddq_f32(s[0], s[2]), s[4]), s[6]);
    float32x4_t high = vaddq_f32(vaddq_f32(vaddq_f32(s[1], s[3]), s[5]), s[7]);
    a->m[i_q] = m;
    a->l[i_q] = fmaf(a->l[i_q], c, tree_sum(low, high));
    return c;
}

ALWAYS_INLINE void add_values(const struct attn_chunk *a, float *o, const float p[2][CHUNK_TOKENS], const float c[2],
                              size_t d, size_t n_vec, size_t n_rows, enum kv_type type)
{
    float32x4_t sum[2][4];
    UNROLL
    for (size_t r = 0; r < n_rows; r++)
        UNROLL
        for (size_t j = 0; j < n_vec; j++)
            sum[r][j] = vmulq_n_f32(vld1q_f32(o + r * a->o_stride + d + 4 * j), c[r]);
    for (size_t t = a->lane_begin; t < a->lane_end; t++)
        UNROLL
        for (size_t j = 0; j < n_vec; j++) {
            const float32x4_t v = load4(a->v, t * a->head_dim + d + 4 * j, type);
            UNROLL
            for (size_t r = 0; r < n_rows; r++)
                sum[r][j] = vfmaq_f32(sum[r][j], vdupq_n_f32(p[r][t]), v);
        }
    UNROLL
    for (size_t r = 0; r < n_rows; r++)
        UNROLL
        for (size_t j = 0; j < n_vec; j++)
            vst1q_f32(o + r * a->o_stride + d + 4 * j, sum[r][j]);
}

ALWAYS_INLINE void rows(const struct attn_chunk *a, size_t i_q, size_t n_rows, enum kv_type type)
{
    float32x4_t s[2][8];
    float p[2][CHUNK_TOKENS], c[2];
    float *o = a->o + i_q * a->o_stride;
    raw_scores(s, a, a->q + i_q * a->q_stride, n_rows, type);
    UNROLL
    for (size_t r = 0; r < n_rows; r++)
        c[r] = soften(p[r], s[r], a, i_q + r);
    size_t d = 0;
    for (; d + 16 <= a->head_dim; d += 16)
        add_values(a, o, p, c, d, 4, n_rows, type);
    for (; d + 4 <= a->head_dim; d += 4)
        add_values(a, o, p, c, d, 1, n_rows, type);
    for (; d < a->head_dim; d++)
        UNROLL
        for (size_t r = 0; r < n_rows; r++) {
            float sum = o[r * a->o_stride + d] * c[r];
            for (size_t t = a->lane_begin; t < a->lane_end; t++)
                sum = fmaf(p[r][t], load1(a->v, t * a->head_dim + d, type), sum);
            o[r * a->o_stride + d] = sum;
        }
}

static void attn_chunk_f16(const struct attn_chunk *a)
{
    size_t i = 0;
    for (; i + 2 <= a->n_q; i += 2)
        rows(a, i, 2, KV_F16);
    if (i < a->n_q)
        rows(a, i, 1, KV_F16);
}

static void attn_chunk_f32(const struct attn_chunk *a)
{
    size_t i = 0;
    for (; i + 2 <= a->n_q; i += 2)
        rows(a, i, 2, KV_F32);
    if (i < a->n_q)
        rows(a, i, 1, KV_F32);
}

void neon_attn_init(struct kernels *t)
{
    t->attn_chunk[KV_F16] = attn_chunk_f16;
    t->attn_chunk[KV_F32] = attn_chunk_f32;
}

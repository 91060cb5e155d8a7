/* attn_avx2.c: attention over chunks of 32 tokens.
 *
 * Scores: the 32 tokens of a chunk are four registers of independent sums. Two query rows at a time share each load
 * of K (and its conversion from fp16): eight sums in flight hide the latency of the multiply-add.
 * Values: 32 channels of two rows are eight sums again, walked over the visible tokens. What is left over (rows,
 * channels below a multiple of 8) takes narrower versions of the same loops; the order within a sum never changes.
 *
 * The tile type is a constant argument of inlined functions, so each entry has its own straight code.
 */
#include "avx2.h"

/* Eight values from element i of a tile. */
ALWAYS_INLINE __m256 load8(const void *tile, size_t i, enum kv_type type)
{
    if (type == KV_F16)
        return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)((const uint8_t *)tile + 2 * i)));
    return _mm256_loadu_ps((const float *)tile + i);
}

ALWAYS_INLINE float load1(const void *tile, size_t i, enum kv_type type)
{
    if (type == KV_F16)
        return half_bits_to_float(load_le16((const uint8_t *)tile + 2 * i));
    return load_f32((const uint8_t *)tile + 4 * i);
}

/* s[r] = the 32 raw scores of n_rows (1 or 2) query rows from q. */
ALWAYS_INLINE void raw_scores(__m256 s[2][4], const struct attn_chunk *a, const float *q, size_t n_rows,
                              enum kv_type type)
{
    UNROLL
    for (size_t r = 0; r < n_rows; r++)
        UNROLL
        for (size_t j = 0; j < 4; j++)
            s[r][j] = _mm256_setzero_ps();
    for (size_t d = 0; d < a->head_dim; d++) {
        __m256 k[4];
        UNROLL
        for (size_t j = 0; j < 4; j++)
            k[j] = load8(a->k, d * CHUNK_TOKENS + 8 * j, type);
        UNROLL
        for (size_t r = 0; r < n_rows; r++) {
            __m256 qd = _mm256_broadcast_ss(q + r * a->q_stride + d);
            UNROLL
            for (size_t j = 0; j < 4; j++)
                s[r][j] = _mm256_fmadd_ps(qd, k[j], s[r][j]);
        }
    }
}

/* From raw scores to p[32]; updates m and l of the row and returns c, the factor of what was there before. */
ALWAYS_INLINE float soften(float p[CHUNK_TOKENS], const __m256 raw[4], const struct attn_chunk *a, size_t i_q)
{
    const __m256i begin = _mm256_set1_epi32((int)a->lane_begin), end = _mm256_set1_epi32((int)a->lane_end);
    const float m_old = a->m[i_q];
    __m256 s[4], max = _mm256_set1_ps(m_old);
    __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    UNROLL
    for (size_t j = 0; j < 4; j++) {
        s[j] = _mm256_mul_ps(raw[j], _mm256_set1_ps(a->scale));
        if (a->softcap != 0)
            s[j] = softcap8(s[j], a->softcap);
        __m256i visible = _mm256_andnot_si256(_mm256_cmpgt_epi32(begin, lane), _mm256_cmpgt_epi32(end, lane));
        s[j] = _mm256_blendv_ps(_mm256_set1_ps(-INFINITY), s[j], _mm256_castsi256_ps(visible));
        max = _mm256_max_ps(s[j], max);
        lane = _mm256_add_epi32(lane, _mm256_set1_epi32(8));
    }
    __m128 h = _mm_max_ps(_mm256_castps256_ps128(max), _mm256_extractf128_ps(max, 1));
    h = _mm_max_ps(h, _mm_movehl_ps(h, h));
    const float m = _mm_cvtss_f32(_mm_max_ss(h, _mm_movehdup_ps(h))) + 0.0f;
    const float c = m_old == -INFINITY ? 0.0f : scalar_exp(m_old - m);
    UNROLL
    for (size_t j = 0; j < 4; j++) {
        s[j] = exp8(_mm256_sub_ps(s[j], _mm256_set1_ps(m)));
        _mm256_storeu_ps(p + 8 * j, s[j]);
    }
    a->m[i_q] = m;
    a->l[i_q] = fmaf(a->l[i_q], c, tree_sum(_mm256_add_ps(_mm256_add_ps(_mm256_add_ps(s[0], s[1]), s[2]), s[3])));
    return c;
}

/* o = o * c + p V for n_vec registers of channels from d, of n_rows rows. */
ALWAYS_INLINE void add_values(const struct attn_chunk *a, float *o, const float p[2][CHUNK_TOKENS], const float c[2],
                              size_t d, size_t n_vec, size_t n_rows, enum kv_type type)
{
    __m256 sum[2][4];
    UNROLL
    for (size_t r = 0; r < n_rows; r++)
        UNROLL
        for (size_t j = 0; j < n_vec; j++)
            sum[r][j] = _mm256_mul_ps(_mm256_loadu_ps(o + r * a->o_stride + d + 8 * j), _mm256_set1_ps(c[r]));
    for (size_t t = a->lane_begin; t < a->lane_end; t++)
        UNROLL
        for (size_t j = 0; j < n_vec; j++) {
            __m256 v = load8(a->v, t * a->head_dim + d + 8 * j, type);
            UNROLL
            for (size_t r = 0; r < n_rows; r++)
                sum[r][j] = _mm256_fmadd_ps(_mm256_broadcast_ss(&p[r][t]), v, sum[r][j]);
        }
    UNROLL
    for (size_t r = 0; r < n_rows; r++)
        UNROLL
        for (size_t j = 0; j < n_vec; j++)
            _mm256_storeu_ps(o + r * a->o_stride + d + 8 * j, sum[r][j]);
}

ALWAYS_INLINE void rows(const struct attn_chunk *a, size_t i_q, size_t n_rows, enum kv_type type)
{
    __m256 s[2][4];
    float p[2][CHUNK_TOKENS], c[2];
    float *o = a->o + i_q * a->o_stride;
    raw_scores(s, a, a->q + i_q * a->q_stride, n_rows, type);
    UNROLL
    for (size_t r = 0; r < n_rows; r++)
        c[r] = soften(p[r], s[r], a, i_q + r);
    size_t d = 0;
    for (; d + 32 <= a->head_dim; d += 32)
        add_values(a, o, p, c, d, 4, n_rows, type);
    for (; d + 8 <= a->head_dim; d += 8)
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

/* The key goes down a column of its tile, one half word per 64 bytes. */
static void kv_store_f16(void *k_tile, void *v_tile, size_t lane, const float *k, const float *v, size_t head_dim)
{
    uint8_t *pk = (uint8_t *)k_tile + 2 * lane, *pv = (uint8_t *)v_tile + 2 * lane * head_dim;
    size_t d = 0;
    for (; d + 8 <= head_dim; d += 8) {
        uint8_t h[16];
        _mm_storeu_si128((__m128i *)h, _mm256_cvtps_ph(_mm256_loadu_ps(k + d), _MM_FROUND_TO_NEAREST_INT));
        for (size_t j = 0; j < 8; j++)
            memcpy(pk + 2 * CHUNK_TOKENS * (d + j), h + 2 * j, 2);
        _mm_storeu_si128((__m128i *)(pv + 2 * d), _mm256_cvtps_ph(_mm256_loadu_ps(v + d), _MM_FROUND_TO_NEAREST_INT));
    }
    for (; d < head_dim; d++) {
        uint16_t hk = float_to_half_bits(k[d]), hv = float_to_half_bits(v[d]);
        memcpy(pk + 2 * CHUNK_TOKENS * d, &hk, 2);
        memcpy(pv + 2 * d, &hv, 2);
    }
}

static void attn_merge(float *m1, float *l1, float *o1, const float *m2, const float *l2, const float *o2, size_t n)
{
    if (*l2 == 0)
        return;
    if (*l1 == 0) {
        *m1 = *m2;
        *l1 = *l2;
        memcpy(o1, o2, n * sizeof *o1);
        return;
    }
    float m = *m1 > *m2 ? *m1 : *m2;
    float a = scalar_exp(*m1 - m), b = scalar_exp(*m2 - m);
    *m1 = m;
    *l1 = fmaf(*l1, a, *l2 * b);
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(o1 + i, _mm256_fmadd_ps(_mm256_loadu_ps(o1 + i), _mm256_set1_ps(a),
                                                 _mm256_mul_ps(_mm256_loadu_ps(o2 + i), _mm256_set1_ps(b))));
    for (; i < n; i++)
        o1[i] = fmaf(o1[i], a, o2[i] * b);
}

static void attn_finish(float *o, float l, size_t n)
{
    const float r = 1.0f / l;
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(o + i, _mm256_mul_ps(_mm256_loadu_ps(o + i), _mm256_set1_ps(r)));
    for (; i < n; i++)
        o[i] *= r;
}

void avx2_attn_init(struct kernels *t)
{
    t->kv_store[KV_F16] = kv_store_f16;
    t->attn_chunk[KV_F16] = attn_chunk_f16;
    t->attn_chunk[KV_F32] = attn_chunk_f32;
    t->attn_merge = attn_merge;
    t->attn_finish = attn_finish;
}

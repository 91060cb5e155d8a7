/* attn_avx2.c: attention over chunks of 32 tokens: the three passes of attn.h with registers of eight.
 *
 * Scores: four rows by 16 tokens, or one to three rows by 32. Values: four rows by 16 channels, two by 32, one by 64.
 * Tiles of registers hold eight to twelve sums, enough to hide the latency of the multiply-add. Rows of a block that see
 * different lanes (at the causal edge, or where a window opens) take the values one by one.
 *
 * Soften takes four rows at a time, so that what goes across a register (largest, sum, exp of one number) is done for
 * four rows at once.
 *
 * The tile type is a constant argument of inlined functions, so each entry has its own straight code. What is left
 * over (rows, channels below a multiple of the tile) takes narrower versions of the same loops.
 */
#include "attn.h"
#include "avx2.h"

enum { FEW_ROWS = 8 };

ALWAYS_INLINE size_t kv_bytes(enum kv_type type)
{
    return type == KV_F16 ? 2 : 4;
}

/* Eight values from element i of a tile. */
ALWAYS_INLINE __m256 load8(const uint8_t *tile, size_t i, enum kv_type type)
{
    if (type == KV_F16)
        return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(tile + 2 * i)));
    return _mm256_loadu_ps((const float *)(const void *)(tile + 4 * i));
}

ALWAYS_INLINE float load1(const uint8_t *tile, size_t i, enum kv_type type)
{
    if (type == KV_F16)
        return half_bits_to_float(load_le16(tile + 2 * i));
    return load_f32(tile + 4 * i);
}

ALWAYS_INLINE void fetch(const uint8_t *p)
{
    _mm_prefetch((const char *)p, _MM_HINT_T0);
}

/* ---- scores ---- */

/* The raw scores of n_rows rows from i, n_vec registers of tokens at a time. */
ALWAYS_INLINE void score_rows(const struct rows *r, size_t i, size_t n_rows, size_t n_vec, enum kv_type type, bool is_ahead)
{
    const float *q = r->q + i * r->q_stride;
    const size_t q_stride = r->q_stride, head_dim = r->head_dim;
    for (size_t t = 0; t < CHUNK_TOKENS; t += 8 * n_vec) {
        const uint8_t *k = r->k + t * kv_bytes(type), *ahead = r->ahead_k + t * kv_bytes(type);
        __m256 sum[4][4];
        UNROLL
        for (size_t j = 0; j < n_rows; j++)
            UNROLL
            for (size_t x = 0; x < n_vec; x++)
                sum[j][x] = _mm256_setzero_ps();
        for (size_t d = 0; d < head_dim; d++) {
            __m256 key[4];
            UNROLL
            for (size_t x = 0; x < n_vec; x++)
                key[x] = load8(k, d * CHUNK_TOKENS + 8 * x, type);
            if (is_ahead)
                fetch(ahead + d * CHUNK_TOKENS * kv_bytes(type));
            UNROLL
            for (size_t j = 0; j < n_rows; j++) {
                const __m256 qd = _mm256_broadcast_ss(q + j * q_stride + d);
                UNROLL
                for (size_t x = 0; x < n_vec; x++)
                    sum[j][x] = _mm256_fmadd_ps(qd, key[x], sum[j][x]);
            }
        }
        UNROLL
        for (size_t j = 0; j < n_rows; j++)
            UNROLL
            for (size_t x = 0; x < n_vec; x++)
                _mm256_storeu_ps(r->w->s[i + j] + t + 8 * x, sum[j][x]);
    }
}

ALWAYS_INLINE void scores(const struct rows *r, size_t n, enum kv_type type, bool is_ahead)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        score_rows(r, i, 4, 2, type, is_ahead);
    switch (n - i) {
    case 3: score_rows(r, i, 3, 4, type, is_ahead); break;
    case 2: score_rows(r, i, 2, 4, type, is_ahead); break;
    case 1: score_rows(r, i, 1, 4, type, is_ahead); break;
    default: break;
    }
}

/* ---- soften ---- */

/* All ones in those of eight lanes from `first` that are visible. */
ALWAYS_INLINE __m256 visible8(struct lanes seen, int first)
{
    const __m256i lane = _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(first));
    const __m256i too_early = _mm256_cmpgt_epi32(_mm256_set1_epi32(seen.begin), lane);
    return _mm256_castsi256_ps(_mm256_andnot_si256(too_early, _mm256_cmpgt_epi32(_mm256_set1_epi32(seen.end), lane)));
}

ALWAYS_INLINE bool is_whole(struct lanes seen)
{
    return seen.begin == 0 && seen.end == CHUNK_TOKENS;
}

/* Scores that count: scaled, capped, -infinity where the row does not see. */
ALWAYS_INLINE void scale_row(__m256 s[4], const struct rows *r, size_t i)
{
    UNROLL
    for (size_t x = 0; x < 4; x++) {
        s[x] = _mm256_mul_ps(_mm256_loadu_ps(r->w->s[i] + 8 * x), _mm256_set1_ps(r->scale));
        if (r->softcap != 0)
            s[x] = softcap8(s[x], r->softcap);
    }
    if (is_whole(r->w->lanes[i]))
        return;
    UNROLL
    for (size_t x = 0; x < 4; x++)
        s[x] = _mm256_blendv_ps(_mm256_set1_ps(-INFINITY), s[x], visible8(r->w->lanes[i], 8 * (int)x));
}

/* p of row i: exp(s - m), +0 where the row does not see (without making the exponential: see exp_of_change). */
ALWAYS_INLINE void exp_row(__m256 p[4], const struct rows *r, size_t i, __m256 m)
{
    UNROLL
    for (size_t x = 0; x < 4; x++)
        p[x] = _mm256_sub_ps(_mm256_loadu_ps(r->w->s[i] + 8 * x), m);
    if (is_whole(r->w->lanes[i])) {
        UNROLL
        for (size_t x = 0; x < 4; x++)
            p[x] = exp8(p[x]);
        return;
    }
    UNROLL
    for (size_t x = 0; x < 4; x++) {
        const __m256 visible = visible8(r->w->lanes[i], 8 * (int)x);
        p[x] = _mm256_and_ps(exp8(_mm256_and_ps(p[x], visible)), visible);
    }
}

/* Scores to p for n_rows (4 or 1) rows from i. */
ALWAYS_INLINE void soften_rows(const struct rows *r, size_t i, size_t n_rows)
{
    __m256 s[4][4];
    __m128 across[4], m_old = n_rows == 4 ? _mm_loadu_ps(r->m + i) : _mm_set1_ps(r->m[i]);
    UNROLL
    for (size_t j = 0; j < n_rows; j++) {
        scale_row(s[j], r, i + j);
        const __m256 max = _mm256_max_ps(_mm256_max_ps(s[j][0], s[j][1]), _mm256_max_ps(s[j][2], s[j][3]));
        across[j] = _mm_max_ps(_mm256_castps256_ps128(max), _mm256_extractf128_ps(max, 1));
        UNROLL
        for (size_t x = 0; x < 4; x++)
            _mm256_storeu_ps(r->w->s[i + j] + 8 * x, s[j][x]);
    }
    UNROLL
    for (size_t j = n_rows; j < 4; j++)
        across[j] = across[0];
    const __m128 m = _mm_add_ps(_mm_max_ps(max_across(across), m_old), _mm_setzero_ps());
    const __m128 c = exp_of_change(m_old, m);
    float m_of[4];
    _mm_storeu_ps(m_of, m);
    UNROLL
    for (size_t j = 0; j < n_rows; j++) {
        __m256 p[4];
        exp_row(p, r, i + j, _mm256_set1_ps(m_of[j]));
        UNROLL
        for (size_t x = 0; x < 4; x++)
            _mm256_storeu_ps(r->w->s[i + j] + 8 * x, p[x]);
        const __m256 lane = _mm256_add_ps(_mm256_add_ps(_mm256_add_ps(p[0], p[1]), p[2]), p[3]);
        across[j] = _mm_add_ps(_mm256_castps256_ps128(lane), _mm256_extractf128_ps(lane, 1));
    }
    UNROLL
    for (size_t j = n_rows; j < 4; j++)
        across[j] = across[0];
    if (n_rows == 4) {
        _mm_storeu_ps(r->m + i, m);
        _mm_storeu_ps(r->w->c + i, c);
        _mm_storeu_ps(r->l + i, _mm_fmadd_ps(_mm_loadu_ps(r->l + i), c, sum_across(across)));
    } else {
        _mm_store_ss(r->m + i, m);
        _mm_store_ss(r->w->c + i, c);
        _mm_store_ss(r->l + i, _mm_fmadd_ss(_mm_load_ss(r->l + i), c, sum_across(across)));
    }
}

static void soften(const struct rows *r, size_t n)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        soften_rows(r, i, 4);
    for (; i < n; i++)
        soften_rows(r, i, 1);
}

/* ---- values ---- */

/* n_rows rows from i that see the same lanes; n_vec registers of channels from d. */
ALWAYS_INLINE void value_panel(const struct rows *r, size_t i, size_t n_rows, size_t d, size_t n_vec, enum kv_type type, bool is_ahead)
{
    const float *p = r->w->s[i];
    const size_t head_dim = r->head_dim, o_stride = r->o_stride, end = r->w->lanes[i].end;
    float *o = r->o + i * o_stride + d;
    __m256 sum[4][8];
    UNROLL
    for (size_t j = 0; j < n_rows; j++) {
        const __m256 c = _mm256_broadcast_ss(r->w->c + i + j);
        UNROLL
        for (size_t x = 0; x < n_vec; x++)
            sum[j][x] = _mm256_mul_ps(_mm256_loadu_ps(o + j * o_stride + 8 * x), c);
    }
    for (size_t t = r->w->lanes[i].begin; t < end; t++) {
        __m256 value[8];
        UNROLL
        for (size_t x = 0; x < n_vec; x++)
            value[x] = load8(r->v, t * head_dim + d + 8 * x, type);
        if (is_ahead)
            UNROLL
            for (size_t x = 0; x < n_vec; x += 4)
                fetch(r->ahead_v + (t * head_dim + d + 8 * x) * kv_bytes(type));
        UNROLL
        for (size_t j = 0; j < n_rows; j++) {
            const __m256 pt = _mm256_broadcast_ss(p + j * CHUNK_TOKENS + t);
            UNROLL
            for (size_t x = 0; x < n_vec; x++)
                sum[j][x] = _mm256_fmadd_ps(pt, value[x], sum[j][x]);
        }
    }
    UNROLL
    for (size_t j = 0; j < n_rows; j++)
        UNROLL
        for (size_t x = 0; x < n_vec; x++)
            _mm256_storeu_ps(o + j * o_stride + 8 * x, sum[j][x]);
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
    for (; d + 8 * n_vec <= r->head_dim; d += 8 * n_vec)
        value_panel(r, i, n_rows, d, n_vec, type, is_ahead);
    for (; d + 8 <= r->head_dim; d += 8)
        value_panel(r, i, n_rows, d, 1, type, is_ahead);
    for (; d < r->head_dim; d++)
        for (size_t j = 0; j < n_rows; j++)
            value_channel(r, i + j, d, type);
}

ALWAYS_INLINE void values(const struct rows *r, size_t n, enum kv_type type, bool is_ahead)
{
    for (size_t i = 0, k; i < n; i += k)
        switch (k = alike_rows(r, i, n - i, 4)) {
        case 4: value_rows(r, i, 4, 2, type, is_ahead); break;
        case 3: k = 2; /* fall through */
        case 2: value_rows(r, i, 2, 4, type, is_ahead); break;
        default: value_rows(r, i, 1, 8, type, is_ahead); break;
        }
}

/* ---- the walk ---- */

/* 32 n values of a tile as floats, while the tile wanted next is fetched. */
static void convert(float *out, const uint8_t *tile, const uint8_t *ahead, size_t n)
{
    for (size_t i = 0; i < 32 * n; i += 32) {
        fetch(ahead + 2 * i);
        UNROLL
        for (size_t x = 0; x < 32; x += 8)
            _mm256_storeu_ps(out + i + x, load8(tile, i + x, KV_F16));
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
    t->attn_walk[KV_F16] = attn_walk_f16;
    t->attn_walk[KV_F32] = attn_walk_f32;
    t->attn_merge = attn_merge;
    t->attn_finish = attn_finish;
}

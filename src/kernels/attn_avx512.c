/* attn_avx512.c: attention over chunks of 32 tokens: the three passes of attn.h with registers of sixteen.
 *
 * Scores: eight rows by 32 tokens, or one to four. Values: four rows by 64 channels, or one by 128; what is left below
 * a multiple of 16 channels is one masked register. Eight sums or more are in flight, enough to hide the latency of
 * the multiply-add, except for a single row, which memory feeds more slowly than that anyway. Rows of a block that see
 * different lanes (at the causal edge, or where a window opens) take the values one by one.
 *
 * Soften takes four rows at a time, so that what goes across a register (largest, sum, exp of one number) is done for
 * four rows at once.
 *
 * The tile type is a constant argument of inlined functions, so each entry has its own straight code.
 */
#include "attn.h"
#include "avx512.h"

enum { FEW_ROWS = 8 };

ALWAYS_INLINE size_t kv_bytes(enum kv_type type)
{
    return type == KV_F16 ? 2 : 4;
}

/* Sixteen values from element i of a tile. */
ALWAYS_INLINE __m512 load16(const uint8_t *tile, size_t i, enum kv_type type)
{
    if (type == KV_F16)
        return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)(tile + 2 * i)));
    return _mm512_loadu_ps(tile + 4 * i);
}

/* The lanes of `mask` from element i, zero elsewhere. */
ALWAYS_INLINE __m512 load_some(const uint8_t *tile, size_t i, enum kv_type type, __mmask16 mask)
{
    if (type == KV_F16)
        return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, tile + 2 * i));
    return _mm512_maskz_loadu_ps(mask, tile + 4 * i);
}

ALWAYS_INLINE void fetch(const uint8_t *p)
{
    _mm_prefetch((const char *)p, _MM_HINT_T0);
}

/* ---- scores ---- */

/* The raw scores of n_rows rows from i. */
ALWAYS_INLINE void score_rows(const struct rows *r, size_t i, size_t n_rows, enum kv_type type, bool is_ahead)
{
    const float *q = r->q + i * r->q_stride;
    const size_t q_stride = r->q_stride, head_dim = r->head_dim;
    __m512 sum[8][2];
    UNROLL
    for (size_t j = 0; j < n_rows; j++)
        sum[j][0] = sum[j][1] = _mm512_setzero_ps();
    for (size_t d = 0; d < head_dim; d++) {
        const __m512 k0 = load16(r->k, d * CHUNK_TOKENS, type), k1 = load16(r->k, d * CHUNK_TOKENS + 16, type);
        if (is_ahead)
            for (size_t x = 0; x < CHUNK_TOKENS * kv_bytes(type); x += 64)
                fetch(r->ahead_k + d * CHUNK_TOKENS * kv_bytes(type) + x);
        UNROLL
        for (size_t j = 0; j < n_rows; j++) {
            const __m512 qd = _mm512_set1_ps(q[j * q_stride + d]);
            sum[j][0] = _mm512_fmadd_ps(qd, k0, sum[j][0]);
            sum[j][1] = _mm512_fmadd_ps(qd, k1, sum[j][1]);
        }
    }
    UNROLL
    for (size_t j = 0; j < n_rows; j++) {
        _mm512_storeu_ps(r->w->s[i + j], sum[j][0]);
        _mm512_storeu_ps(r->w->s[i + j] + 16, sum[j][1]);
    }
}

ALWAYS_INLINE void scores(const struct rows *r, size_t n, enum kv_type type, bool is_ahead)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        score_rows(r, i, 8, type, is_ahead);
    if (i + 4 <= n) {
        score_rows(r, i, 4, type, is_ahead);
        i += 4;
    }
    switch (n - i) {
    case 3: score_rows(r, i, 3, type, is_ahead); break;
    case 2: score_rows(r, i, 2, type, is_ahead); break;
    case 1: score_rows(r, i, 1, type, is_ahead); break;
    default: break;
    }
}

/* ---- soften ---- */

/* Scores that count: scaled, capped, -infinity where the row does not see. Returns the lanes it sees. */
ALWAYS_INLINE uint32_t scale_row(__m512 s[2], const struct rows *r, size_t i)
{
    const uint32_t below_end = (uint32_t)(((uint64_t)1 << r->w->lanes[i].end) - 1);
    const uint32_t seen = below_end & (uint32_t)(UINT32_MAX << r->w->lanes[i].begin);
    UNROLL
    for (size_t x = 0; x < 2; x++) {
        s[x] = _mm512_mul_ps(_mm512_loadu_ps(r->w->s[i] + 16 * x), _mm512_set1_ps(r->scale));
        if (r->softcap != 0)
            s[x] = softcap16(s[x], r->softcap);
        s[x] = _mm512_mask_blend_ps((__mmask16)(seen >> 16 * x), _mm512_set1_ps(-INFINITY), s[x]);
    }
    return seen;
}

ALWAYS_INLINE __m256 low(__m512 x)
{
    return _mm512_castps512_ps256(x);
}

ALWAYS_INLINE __m256 high(__m512 x)
{
    return _mm512_extractf32x8_ps(x, 1);
}

/* Scores to p for n_rows (4 or 1) rows from i. */
ALWAYS_INLINE void soften_rows(const struct rows *r, size_t i, size_t n_rows)
{
    __m512 s[4][2];
    uint32_t seen[4];
    __m128 across[4], m_old = n_rows == 4 ? _mm_loadu_ps(r->m + i) : _mm_set1_ps(r->m[i]);
    UNROLL
    for (size_t j = 0; j < n_rows; j++) {
        seen[j] = scale_row(s[j], r, i + j);
        const __m512 both = _mm512_max_ps(s[j][0], s[j][1]);
        const __m256 max = _mm256_max_ps(low(both), high(both));
        across[j] = _mm_max_ps(_mm256_castps256_ps128(max), _mm256_extractf128_ps(max, 1));
    }
    UNROLL
    for (size_t j = n_rows; j < 4; j++)
        across[j] = across[0];
    const __m128 m = _mm_add_ps(_mm_max_ps(max_across(across), m_old), _mm_setzero_ps());
    const __mmask16 has_old = _mm_cmp_ps_mask(m_old, _mm_set1_ps(-INFINITY), _CMP_NEQ_UQ); /* four lanes */
    const __m128 c = _mm512_castps512_ps128(exp16_some(has_old, _mm512_zextps128_ps512(_mm_sub_ps(m_old, m))));
    float m_of[4];
    _mm_storeu_ps(m_of, m);
    UNROLL
    for (size_t j = 0; j < n_rows; j++) {
        const __m512 m16 = _mm512_set1_ps(m_of[j]);
        const __m512 p0 = exp16_some((__mmask16)seen[j], _mm512_sub_ps(s[j][0], m16));
        const __m512 p1 = exp16_some((__mmask16)(seen[j] >> 16), _mm512_sub_ps(s[j][1], m16));
        _mm512_storeu_ps(r->w->s[i + j], p0);
        _mm512_storeu_ps(r->w->s[i + j] + 16, p1);
        const __m256 lane = _mm256_add_ps(_mm256_add_ps(_mm256_add_ps(low(p0), high(p0)), low(p1)), high(p1));
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

/* n_rows rows from i that see the same lanes; n_vec registers of channels from d, the last of them masked. */
ALWAYS_INLINE void value_panel(const struct rows *r, size_t i, size_t n_rows, size_t d, size_t n_vec, __mmask16 last,
                               enum kv_type type, bool is_ahead)
{
    const float *p = r->w->s[i];
    const size_t head_dim = r->head_dim, o_stride = r->o_stride, end = r->w->lanes[i].end;
    const bool is_whole = last == 0xffff;
    float *o = r->o + i * o_stride + d;
    __m512 sum[4][8];
    UNROLL
    for (size_t j = 0; j < n_rows; j++)
        UNROLL
        for (size_t x = 0; x < n_vec; x++) {
            const __m512 old = is_whole ? _mm512_loadu_ps(o + j * o_stride + 16 * x) : _mm512_maskz_loadu_ps(last, o + j * o_stride);
            sum[j][x] = _mm512_mul_ps(old, _mm512_set1_ps(r->w->c[i + j]));
        }
    for (size_t t = r->w->lanes[i].begin; t < end; t++) {
        __m512 value[8];
        UNROLL
        for (size_t x = 0; x < n_vec; x++)
            value[x] = is_whole ? load16(r->v, t * head_dim + d + 16 * x, type) : load_some(r->v, t * head_dim + d, type, last);
        if (is_ahead)
            UNROLL
            for (size_t x = 0; x < n_vec; x += 2)
                fetch(r->ahead_v + (t * head_dim + d + 16 * x) * kv_bytes(type));
        UNROLL
        for (size_t j = 0; j < n_rows; j++) {
            const __m512 pt = _mm512_set1_ps(p[j * CHUNK_TOKENS + t]);
            UNROLL
            for (size_t x = 0; x < n_vec; x++)
                sum[j][x] = _mm512_fmadd_ps(pt, value[x], sum[j][x]);
        }
    }
    UNROLL
    for (size_t j = 0; j < n_rows; j++)
        UNROLL
        for (size_t x = 0; x < n_vec; x++) {
            if (is_whole)
                _mm512_storeu_ps(o + j * o_stride + 16 * x, sum[j][x]);
            else
                _mm512_mask_storeu_ps(o + j * o_stride, last, sum[j][x]);
        }
}

ALWAYS_INLINE void value_rows(const struct rows *r, size_t i, size_t n_rows, size_t n_vec, enum kv_type type, bool is_ahead)
{
    size_t d = 0;
    for (; d + 16 * n_vec <= r->head_dim; d += 16 * n_vec)
        value_panel(r, i, n_rows, d, n_vec, 0xffff, type, is_ahead);
    for (; d + 32 <= r->head_dim; d += 32)
        value_panel(r, i, n_rows, d, 2, 0xffff, type, is_ahead);
    for (; d < r->head_dim; d += 16) {
        if (d + 16 <= r->head_dim)
            value_panel(r, i, n_rows, d, 1, 0xffff, type, is_ahead);
        else
            value_panel(r, i, n_rows, d, 1, first16(r->head_dim - d), type, is_ahead);
    }
}

ALWAYS_INLINE void values(const struct rows *r, size_t n, enum kv_type type, bool is_ahead)
{
    for (size_t i = 0, k; i < n; i += k)
        switch (k = alike_rows(r, i, n - i, 4)) {
        case 4: value_rows(r, i, 4, 4, type, is_ahead); break;
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
        _mm512_storeu_ps(out + i, load16(tile, i, KV_F16));
        _mm512_storeu_ps(out + i + 16, load16(tile, i + 16, KV_F16));
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

void avx512_attn_init(struct kernels *t)
{
    t->attn_walk[KV_F16] = attn_walk_f16;
    t->attn_walk[KV_F32] = attn_walk_f32;
}

/* ref_attn.c: attention over chunks of 32 tokens, in plain loops: the specification of rule 5.
 *
 * A chunk's K tile is [head_dim][32] so that the 32 scores are 32 independent sums over head_dim, and its V tile is
 * [32][head_dim] so that the head_dim outputs are independent sums over tokens. Query rows are independent, too: a
 * batch is a loop. The state of a row (m, l, o) is the running maximum, the sum of exponentials and the weighted sum
 * of values (online softmax); it is rescaled when a chunk raises the maximum.
 *
 * Only visible lanes of V are added. What stands in the others cannot matter: their scores are -infinity, so they
 * raise no maximum, and their p = +0 leaves S as it is.
 */
#include "attn.h"
#include "init.h"
#include "scalar.h"

static float kv_value(enum kv_type type, const void *tile, size_t i)
{
    if (type == KV_F16)
        return half_bits_to_float(load_le16((const uint8_t *)tile + 2 * i));
    return load_f32((const uint8_t *)tile + 4 * i);
}

static float group_sum(const float p[32])
{
    float g[8];
    for (size_t j = 0; j < 8; j++)
        g[j] = ((p[j] + p[j + 8]) + p[j + 16]) + p[j + 24];
    return ((g[0] + g[4]) + (g[2] + g[6])) + ((g[1] + g[5]) + (g[3] + g[7]));
}

/* One chunk, tiles k and v, for row i_q, which sees the lanes [begin, end) of it. */
static void chunk_row(const struct attn_walk *a, enum kv_type type, size_t i_q, const void *k, const void *v,
                      struct lanes lanes)
{
    const float *q = a->q + i_q * a->q_stride;
    float *o = a->o + i_q * a->o_stride;
    float p[CHUNK_TOKENS], m = a->m[i_q];
    for (size_t t = 0; t < CHUNK_TOKENS; t++) {
        float s = 0;
        for (size_t d = 0; d < a->head_dim; d++)
            s = fmaf(q[d], kv_value(type, k, d * CHUNK_TOKENS + t), s);
        s *= a->scale;
        if (a->softcap != 0)
            s = scalar_softcap(s, a->softcap);
        p[t] = t >= lanes.begin && t < lanes.end ? s : -INFINITY;
        m = p[t] > m ? p[t] : m;
    }
    m += 0.0f; /* of equal zeros, +0: whichever came first */
    float c = a->m[i_q] == -INFINITY ? 0 : scalar_exp(a->m[i_q] - m);
    for (size_t t = 0; t < CHUNK_TOKENS; t++)
        p[t] = scalar_exp(p[t] - m);
    a->m[i_q] = m;
    a->l[i_q] = fmaf(a->l[i_q], c, group_sum(p));
    for (size_t d = 0; d < a->head_dim; d++) {
        float sum = o[d] * c;
        for (size_t t = lanes.begin; t < lanes.end; t++)
            sum = fmaf(p[t], kv_value(type, v, t * a->head_dim + d), sum);
        o[d] = sum;
    }
}

static void walk(const struct attn_walk *a, enum kv_type type)
{
    for (size_t c = 0; c < a->n_chunks; c++)
        for (size_t i = 0; i < a->n_q; i++) {
            struct lanes lanes = lanes_of(a->seen[i], c);
            if (lanes.begin < lanes.end)
                chunk_row(a, type, i, a->chunks[c] + a->k_at, a->chunks[c] + a->v_at, lanes);
        }
}

static void attn_walk_f16(const struct attn_walk *a)
{
    walk(a, KV_F16);
}

static void attn_walk_f32(const struct attn_walk *a)
{
    walk(a, KV_F32);
}

static void store_le16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)(v & 255);
    p[1] = (uint8_t)(v >> 8);
}

static void kv_store_f16(void *k_tile, void *v_tile, size_t lane, const float *k, const float *v, size_t head_dim)
{
    uint8_t *pk = k_tile, *pv = v_tile;
    for (size_t d = 0; d < head_dim; d++) {
        store_le16(pk + 2 * (d * CHUNK_TOKENS + lane), float_to_half_bits(k[d]));
        store_le16(pv + 2 * (lane * head_dim + d), float_to_half_bits(v[d]));
    }
}

static void kv_store_f32(void *k_tile, void *v_tile, size_t lane, const float *k, const float *v, size_t head_dim)
{
    uint8_t *pk = k_tile, *pv = v_tile;
    for (size_t d = 0; d < head_dim; d++)
        memcpy(pk + 4 * (d * CHUNK_TOKENS + lane), &k[d], 4);
    memcpy(pv + 4 * lane * head_dim, v, 4 * head_dim);
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
    for (size_t i = 0; i < n; i++)
        o1[i] = fmaf(o1[i], a, o2[i] * b);
}

static void attn_finish(float *o, float l, size_t n)
{
    float r = 1.0f / l;
    for (size_t i = 0; i < n; i++)
        o[i] *= r;
}

void INIT_JOIN(KERNELS_VARIANT, attn_init)(struct kernels *t)
{
    t->kv_store[KV_F16] = kv_store_f16;
    t->kv_store[KV_F32] = kv_store_f32;
    t->attn_walk[KV_F16] = attn_walk_f16;
    t->attn_walk[KV_F32] = attn_walk_f32;
    t->attn_merge = attn_merge;
    t->attn_finish = attn_finish;
}

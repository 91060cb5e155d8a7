/* quant_k.c: storing weights in the types with two levels of scales, blocks of 256: Q2_K ... Q6_K and IQ4_XS.
 *
 * Such a block has 8 or 16 groups. A group's scale (and minimum) is itself a few-bit integer times the
 * block's half-precision d (and dmin). The search goes in rounds:
 *   1. each group alone: the best real scale and minimum (quant_search.c);
 *   2. d so that the largest scale meets the end of its integers; round d to half precision;
 *   3. for each group, the integer scale (and minimum) next to the wanted one that gives the least error with
 *      that d, since the neighbours' errors are not in the order of their distance once q is rounded again;
 *   4. all integers fixed, d and dmin by least squares over the whole block; back to 3 while it gets better.
 * The best state seen is kept, so a round can only help. The layouts are in blocks.h.
 *
 * Cost: step 1 dominates; steps 3 and 4 visit each weight 3 (9 with a minimum) + 1 times a round.
 */
#include <math.h>

#include "quant_load.h"

enum { MAX_ROUNDS = 4 };

static int to_int(float v, int lo, int hi)
{
    float r = rintf(v);
    return !(r > (float)lo) ? lo : r > (float)hi ? hi : (int)r;
}

/* ---- d * scale * q ---- */

struct scales { uint8_t d[2]; float value; int ls[16]; }; /* value: d as read back, in normalised units */

static float choose_scales(struct scales *c, const struct block_in *b, const struct grid *r, const float *want, int lo, int hi)
{
    float sum = 0;
    for (size_t j = 0; j < b->n_groups; j++) {
        int mid = to_int(want[j], lo, hi), best = mid;
        float least = INFINITY;
        for (int ls = mid - 1; ls <= mid + 1; ls++) {
            if (ls < lo || ls > hi)
                continue;
            float e = error_scale(&b->g[j], r, c->value * (float)ls);
            if (e < least) {
                least = e;
                best = ls;
            }
        }
        c->ls[j] = best;
        sum += least;
    }
    return sum;
}

/* Least squares for d with the integers of c. */
static float refit_d(const struct scales *c, const struct block_in *b, const struct grid *r)
{
    float num = 0, den = 0;
    for (size_t j = 0; j < b->n_groups; j++) {
        float ls = (float)c->ls[j];
        struct scale_sums t = sums_scale(&b->g[j], r, c->value * ls);
        num += ls * t.xq;
        den += ls * ls * t.qq;
    }
    return den > 0 ? num / den : 0;
}

static void fit_super(struct scales *best, const struct block_in *b, const struct grid *r, int lo, int hi)
{
    float s[16], want[16], most = 0, least = INFINITY;
    for (size_t j = 0; j < b->n_groups; j++) {
        s[j] = fit_scale(&b->g[j], r);
        if (fabsf(s[j]) > fabsf(most))
            most = s[j];
    }
    memset(best, 0, sizeof *best);
    if (most == 0)
        return;
    float d = most / (float)lo;
    for (int i = 0; i < MAX_ROUNDS; i++) {
        struct scales c;
        c.value = store_scale(c.d, d, b->exponent);
        if (c.value == 0)
            break;
        for (size_t j = 0; j < b->n_groups; j++)
            want[j] = i == 0 ? s[j] / c.value : (float)best->ls[j];
        float e = choose_scales(&c, b, r, want, lo, hi);
        if (!(e < least))
            break;
        least = e;
        *best = c;
        d = refit_d(&c, b, r);
    }
}

static const struct grid grid_q3 = { -4, 3, false, true, 2.6f, 0.2f, 11 };
static const struct grid grid_q6 = { -32, 31, false, true, 29.25f, 0.25f, 15 };
static const struct grid grid_iq4 = { -127, 113, true, true, 103.0f, 4.0f, 9 };

void put_q6_k(void *out, const float *x, const float *importance)
{
    struct block_q6_k *o = out;
    struct block_in b;
    struct scales c;
    int8_t q[QK_K];
    block_load(&b, x, importance, QK_K, 16);
    fit_super(&c, &b, &grid_q6, -128, 127);
    memcpy(o->d, c.d, 2);
    for (size_t j = 0; j < 16; j++) {
        o->scales[j] = (int8_t)c.ls[j];
        round_scale(q + 16 * j, &b.g[j], &grid_q6, c.value * (float)c.ls[j]);
    }
    memset(o->qh, 0, sizeof o->qh);
    for (size_t i = 0; i < QK_K; i++) {
        size_t half = i / 128, group = i % 128 / 32, l = i % 32;
        unsigned n = (unsigned)(q[i] + 32);
        uint8_t *ql = &o->ql[64 * half + 32 * (group % 2) + l];
        *ql = group < 2 ? (uint8_t)(n & 15) : (uint8_t)(*ql | (n & 15) << 4);
        o->qh[32 * half + l] = (uint8_t)(o->qh[32 * half + l] | (n >> 4) << 2 * group);
    }
}

void put_q3_k(void *out, const float *x, const float *importance)
{
    struct block_q3_k *o = out;
    struct block_in b;
    struct scales c;
    int8_t q[QK_K];
    block_load(&b, x, importance, QK_K, 16);
    fit_super(&c, &b, &grid_q3, -32, 31);
    memset(o, 0, sizeof *o);
    memcpy(o->d, c.d, 2);
    for (size_t j = 0; j < 16; j++) {
        unsigned ls = (unsigned)(c.ls[j] + 32);
        o->scales[j % 8] = (uint8_t)(o->scales[j % 8] | (ls & 15) << (j < 8 ? 0 : 4));
        o->scales[8 + j % 4] = (uint8_t)(o->scales[8 + j % 4] | (ls >> 4) << 2 * (j / 4));
        round_scale(q + 16 * j, &b.g[j], &grid_q3, c.value * (float)c.ls[j]);
    }
    for (size_t i = 0; i < QK_K; i++) {
        unsigned n = (unsigned)(q[i] + 4);
        uint8_t *qs = &o->qs[32 * (i / 128) + i % 32];
        *qs = (uint8_t)(*qs | (n & 3) << 2 * (i % 128 / 32));
        o->hmask[i % 32] = (uint8_t)(o->hmask[i % 32] | (n >> 2) << i / 32);
    }
}

void put_iq4_xs(void *out, const float *x, const float *importance)
{
    struct block_iq4_xs *o = out;
    struct block_in b;
    struct scales c;
    int8_t q[32];
    unsigned high = 0;
    block_load(&b, x, importance, QK_K, 32);
    fit_super(&c, &b, &grid_iq4, -32, 31);
    memset(o, 0, sizeof *o);
    memcpy(o->d, c.d, 2);
    for (size_t j = 0; j < 8; j++) {
        unsigned ls = (unsigned)(c.ls[j] + 32);
        o->scales_l[j / 2] = (uint8_t)(o->scales_l[j / 2] | (ls & 15) << 4 * (j % 2));
        high |= (ls >> 4) << 2 * j;
        round_scale(q, &b.g[j], &grid_iq4, c.value * (float)c.ls[j]);
        for (size_t i = 0; i < 16; i++)
            o->qs[16 * j + i] = (uint8_t)(iq4_index(q[i]) | iq4_index(q[i + 16]) << 4);
    }
    o->scales_h[0] = (uint8_t)(high & 255);
    o->scales_h[1] = (uint8_t)(high >> 8);
}

/* ---- d * scale * q - dmin * min ---- */

struct affine { uint8_t d[2], dmin[2]; float value, min_value; int ls[16], lm[16]; };

static float choose_affine(struct affine *c, const struct block_in *b, float n_max, const float *want, const float *want_min,
                           int hi)
{
    float sum = 0;
    for (size_t j = 0; j < b->n_groups; j++) {
        int mid = to_int(want[j], 0, hi), mid_min = to_int(want_min[j], 0, hi);
        float least = INFINITY;
        for (int k = 0; k < 9; k++) {
            int ls = mid - 1 + k / 3, lm = mid_min - 1 + k % 3;
            if (ls < 0 || ls > hi || lm < 0 || lm > hi)
                continue;
            float e = error_affine(&b->g[j], n_max, c->value * (float)ls, c->min_value * (float)lm);
            if (e < least) {
                least = e;
                c->ls[j] = ls;
                c->lm[j] = lm;
            }
        }
        sum += least;
    }
    return sum;
}

/* Least squares for d and dmin over the block: x ~ d A - dmin B with A = ls q, B = lm. */
static void refit_affine(float *d, float *dmin, const struct affine *c, const struct block_in *b, float n_max)
{
    float aa = 0, ab = 0, bb = 0, ax = 0, bx = 0;
    for (size_t j = 0; j < b->n_groups; j++) {
        float ls = (float)c->ls[j], lm = (float)c->lm[j];
        struct affine_sums t = sums_affine(&b->g[j], n_max, c->value * ls, c->min_value * lm);
        aa += ls * ls * t.qq;
        ab += ls * lm * t.q;
        bb += lm * lm * t.w;
        ax += ls * t.xq;
        bx += lm * t.x;
    }
    float det = aa * bb - ab * ab;
    if (det > 1e-6f * aa * bb) {
        *d = (ax * bb - ab * bx) / det;
        *dmin = (ab * ax - aa * bx) / det;
        if (*d >= 0 && *dmin >= 0)
            return;
    }
    *dmin = 0;
    *d = aa > 0 && ax > 0 ? ax / aa : 0;
}

static void fit_super_affine(struct affine *best, const struct block_in *b, float n_max, int hi)
{
    float s[16], m[16], want[16], want_min[16], d = 0, dmin = 0, least = INFINITY;
    for (size_t j = 0; j < b->n_groups; j++) {
        fit_affine(&s[j], &m[j], &b->g[j], n_max, false);
        d = fmaxf(d, s[j] / (float)hi);
        dmin = fmaxf(dmin, m[j] / (float)hi);
    }
    memset(best, 0, sizeof *best);
    for (int i = 0; i < MAX_ROUNDS; i++) {
        struct affine c;
        c.value = store_scale(c.d, d, b->exponent);
        c.min_value = store_scale(c.dmin, dmin, b->exponent);
        for (size_t j = 0; j < b->n_groups; j++) {
            want[j] = i > 0 ? (float)best->ls[j] : c.value > 0 ? s[j] / c.value : 0;
            want_min[j] = i > 0 ? (float)best->lm[j] : c.min_value > 0 ? m[j] / c.min_value : 0;
        }
        float e = choose_affine(&c, b, n_max, want, want_min, hi);
        if (!(e < least))
            break;
        least = e;
        *best = c;
        refit_affine(&d, &dmin, &c, b, n_max);
    }
}

void put_q2_k(void *out, const float *x, const float *importance)
{
    struct block_q2_k *o = out;
    struct block_in b;
    struct affine c;
    uint8_t q[QK_K];
    block_load(&b, x, importance, QK_K, 16);
    fit_super_affine(&c, &b, 3, 15);
    memcpy(o->d, c.d, 2);
    memcpy(o->dmin, c.dmin, 2);
    for (size_t j = 0; j < 16; j++) {
        o->scales[j] = (uint8_t)(c.ls[j] | c.lm[j] << 4);
        round_affine(q + 16 * j, &b.g[j], 3, c.value * (float)c.ls[j], c.min_value * (float)c.lm[j]);
    }
    memset(o->qs, 0, sizeof o->qs);
    for (size_t i = 0; i < QK_K; i++) {
        uint8_t *qs = &o->qs[32 * (i / 128) + i % 32];
        *qs = (uint8_t)(*qs | q[i] << 2 * (i % 128 / 32));
    }
}

/* Packs eight 6-bit scales and minimums: the inverse of k_scale_min. */
static void pack_scale_min(uint8_t s[12], const int ls[8], const int lm[8])
{
    for (size_t j = 0; j < 4; j++) {
        unsigned sc = (unsigned)ls[j + 4], mn = (unsigned)lm[j + 4];
        s[j] = (uint8_t)((unsigned)ls[j] | (sc >> 4) << 6);
        s[j + 4] = (uint8_t)((unsigned)lm[j] | (mn >> 4) << 6);
        s[j + 8] = (uint8_t)((sc & 15) | (mn & 15) << 4);
    }
}

/* The parts that Q4_K and Q5_K share; q gets the integers. */
static void fit_q4_q5(uint8_t d[2], uint8_t dmin[2], uint8_t scales[12], uint8_t q[QK_K], const float *x,
                      const float *importance, float n_max)
{
    struct block_in b;
    struct affine c;
    block_load(&b, x, importance, QK_K, 32);
    fit_super_affine(&c, &b, n_max, 63);
    memcpy(d, c.d, 2);
    memcpy(dmin, c.dmin, 2);
    pack_scale_min(scales, c.ls, c.lm);
    for (size_t j = 0; j < 8; j++)
        round_affine(q + 32 * j, &b.g[j], n_max, c.value * (float)c.ls[j], c.min_value * (float)c.lm[j]);
}

static void pack_q4(uint8_t qs[128], const uint8_t q[QK_K])
{
    for (size_t i = 0; i < 128; i++) {
        size_t at = i / 32 * 64 + i % 32;
        qs[i] = (uint8_t)((q[at] & 15) | (q[at + 32] & 15) << 4);
    }
}

void put_q4_k(void *out, const float *x, const float *importance)
{
    struct block_q4_k *o = out;
    uint8_t q[QK_K];
    fit_q4_q5(o->d, o->dmin, o->scales, q, x, importance, 15);
    pack_q4(o->qs, q);
}

void put_q5_k(void *out, const float *x, const float *importance)
{
    struct block_q5_k *o = out;
    uint8_t q[QK_K];
    fit_q4_q5(o->d, o->dmin, o->scales, q, x, importance, 31);
    pack_q4(o->qs, q);
    memset(o->qh, 0, sizeof o->qh);
    for (size_t i = 0; i < QK_K; i++)
        o->qh[i % 32] = (uint8_t)(o->qh[i % 32] | (q[i] >> 4) << i / 32);
}

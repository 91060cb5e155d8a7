/* quant.c: storing float weights in GGUF's types: rows, and the blocks of 32.
 *
 * quantize_row cuts a row into the type's blocks. Each block is loaded into groups (normalised by a power of
 * two, weighted), the search of quant_search.c finds scale and minimum, they are rounded to half precision, and
 * the integers are chosen for the rounded ones, so that what is stored is the best for what a reader computes.
 *
 * What is minimised: the sum over the block of weight * (stored - x)^2. Without importance the weight is
 * rms + |x| with the root mean square of the group: the usual weighting of Q4_K and Q5_K, here for all types,
 * because large weights matter more than their number, yet x^2 alone would give up on the small ones. With
 * importance (activations seen by each column) it is importance * sqrt(2 * mean square + x^2), as usual too.
 *
 * Extremes. Scales are half precision: below about 1e-7 a block turns to zero, above 65504 * (levels) it
 * saturates at the largest finite values; F16 saturates at 65504 and BF16 at its own largest. A value that is
 * not finite must not spoil its neighbours: in block types it is stored as 0. Callers who must not lose a value
 * look before (quantize_model refuses, naming the tensor).
 *
 * No allocation, no state, the same bytes on every machine.
 */
#include <float.h>
#include <math.h>

#include "quant_load.h"

/* ---- into groups, out of them ---- */

static float finite_or_zero(float v)
{
    return v <= FLT_MAX && v >= -FLT_MAX ? v : 0.0f;
}

/* The power of two that brings the largest |x| into [0.5, 1); 0 for a block of zeros. */
static int block_exponent(const float *x, size_t n)
{
    float amax = 0;
    int e = 0;
    for (size_t i = 0; i < n; i++)
        amax = fmaxf(amax, fabsf(finite_or_zero(x[i])));
    if (amax > 0)
        frexpf(amax, &e);
    return e;
}

/* The largest usable importance of the block; 0: there is none. */
static float importance_max(const float *importance, size_t n)
{
    float m = 0;
    for (size_t i = 0; importance && i < n; i++)
        m = fmaxf(m, finite_or_zero(importance[i]));
    return m;
}

void block_load(struct block_in *b, const float *x, const float *importance, size_t n, size_t group_len)
{
    int e = block_exponent(x, n);
    double down = ldexp(1.0, -e);
    float most = importance_max(importance, n), square = 0;
    b->exponent = e;
    b->n_groups = n / group_len;
    for (size_t j = 0; j < b->n_groups; j++) {
        struct group *g = &b->g[j];
        f4 ss = { 0, 0, 0, 0 };
        g->n4 = group_len / 4;
        for (size_t i = 0; i < group_len; i++)
            g->x[i / 4][i % 4] = (float)((double)finite_or_zero(x[j * group_len + i]) * down);
        for (size_t i = 0; i < g->n4; i++)
            ss += g->x[i] * g->x[i];
        float sum = (ss[0] + ss[2]) + (ss[1] + ss[3]), rms = sqrtf(sum / (float)group_len);
        square += sum;
        for (size_t i = 0; most <= 0 && i < group_len; i++)
            g->w[i / 4][i % 4] = rms + fabsf(g->x[i / 4][i % 4]);
    }
    if (most <= 0)
        return;
    square *= 2.0f / (float)n;
    for (size_t i = 0; i < n; i++) {
        struct group *g = &b->g[i / group_len];
        size_t k = i % group_len;
        float v = g->x[k / 4][k % 4], part = finite_or_zero(importance[i]) / most;
        /* The floor keeps a group of unseen columns from being given up altogether. */
        g->w[k / 4][k % 4] = (part > 1e-6f ? part : 1e-6f) * sqrtf(square + v * v);
    }
}

float store_scale(uint8_t out[2], float s, int exponent)
{
    const double largest = 65504.0;
    double v = ldexp((double)s, exponent);
    v = v > largest ? largest : v < -largest ? -largest : v;
    store_half(out, (float)v);
    return (float)ldexp((double)load_half(out), -exponent);
}

/* ---- blocks of 32 ---- */

static const struct grid grid_q4 = { -8, 7, false, true, 6.5f, 0.25f, 10 };
static const struct grid grid_q5 = { -16, 15, false, true, 14.25f, 0.25f, 11 };
static const struct grid grid_q8 = { -127, 127, false, false, 124.0f, 0.25f, 16 };
static const struct grid grid_iq4 = { -127, 113, true, true, 103.0f, 4.0f, 9 };

/* Scale and integers of one block. */
static void fit_block(uint8_t d[2], int8_t q[32], const float *x, const float *importance, const struct grid *r)
{
    struct block_in b;
    block_load(&b, x, importance, QK, QK);
    float s = store_scale(d, fit_scale(&b.g[0], r), b.exponent);
    round_scale(q, &b.g[0], r, s);
}

static void fit_block_min(uint8_t d[2], uint8_t m[2], uint8_t q[32], const float *x, const float *importance, float n_max)
{
    struct block_in b;
    float s, min;
    block_load(&b, x, importance, QK, QK);
    fit_affine(&s, &min, &b.g[0], n_max, true);
    s = store_scale(d, s, b.exponent);
    min = store_scale(m, -min, b.exponent);
    round_affine(q, &b.g[0], n_max, s, -min);
}

/* n[i] in 0..15 (or 0..31, with the fifth bit in qh). */
static void pack_nibbles(uint8_t qs[16], const uint8_t n[32])
{
    for (size_t i = 0; i < 16; i++)
        qs[i] = (uint8_t)((n[i] & 15) | (n[i + 16] & 15) << 4);
}

static void pack_fifth(uint8_t qh[4], const uint8_t n[32])
{
    memset(qh, 0, 4);
    for (size_t i = 0; i < 32; i++)
        qh[i / 8] = (uint8_t)(qh[i / 8] | (n[i] >> 4 & 1) << i % 8);
}

static void put_q4_0(void *out, const float *x, const float *importance)
{
    struct block_q4_0 *b = out;
    int8_t q[32];
    uint8_t n[32];
    fit_block(b->d, q, x, importance, &grid_q4);
    for (size_t i = 0; i < 32; i++)
        n[i] = (uint8_t)(q[i] + 8);
    pack_nibbles(b->qs, n);
}

static void put_q5_0(void *out, const float *x, const float *importance)
{
    struct block_q5_0 *b = out;
    int8_t q[32];
    uint8_t n[32];
    fit_block(b->d, q, x, importance, &grid_q5);
    for (size_t i = 0; i < 32; i++)
        n[i] = (uint8_t)(q[i] + 16);
    pack_nibbles(b->qs, n);
    pack_fifth(b->qh, n);
}

static void put_q8_0(void *out, const float *x, const float *importance)
{
    struct block_q8_0 *b = out;
    fit_block(b->d, b->qs, x, importance, &grid_q8);
}

static void put_iq4_nl(void *out, const float *x, const float *importance)
{
    struct block_iq4_nl *b = out;
    int8_t q[32];
    uint8_t n[32];
    fit_block(b->d, q, x, importance, &grid_iq4);
    for (size_t i = 0; i < 32; i++)
        n[i] = (uint8_t)iq4_index(q[i]);
    pack_nibbles(b->qs, n);
}

static void put_q4_1(void *out, const float *x, const float *importance)
{
    struct block_q4_1 *b = out;
    uint8_t n[32];
    fit_block_min(b->d, b->m, n, x, importance, 15);
    pack_nibbles(b->qs, n);
}

static void put_q5_1(void *out, const float *x, const float *importance)
{
    struct block_q5_1 *b = out;
    uint8_t n[32];
    fit_block_min(b->d, b->m, n, x, importance, 31);
    pack_nibbles(b->qs, n);
    pack_fifth(b->qh, n);
}

/* ---- plain types ---- */

static void put_f32(void *out, const float *x, const float *importance)
{
    uint32_t u;
    memcpy(&u, x, 4);
    uint8_t b[4] = { (uint8_t)u, (uint8_t)(u >> 8), (uint8_t)(u >> 16), (uint8_t)(u >> 24) };
    memcpy(out, b, 4);
}

static void put_f16(void *out, const float *x, const float *importance)
{
    float v = *x;
    if (v > 65504.0f && v <= FLT_MAX)
        v = 65504.0f;
    if (v < -65504.0f && v >= -FLT_MAX)
        v = -65504.0f;
    store_half(out, v);
}

static void put_bf16(void *out, const float *x, const float *importance)
{
    uint16_t h = float_to_bf16(*x);
    if (*x <= FLT_MAX && *x >= -FLT_MAX && (h & 0x7f80u) == 0x7f80u) /* rounded up to infinity */
        h = (uint16_t)(h - 1);
    uint8_t b[2] = { (uint8_t)(h & 255), (uint8_t)(h >> 8) };
    memcpy(out, b, 2);
}

/* ---- rows ---- */

bool quantize_row(void *out, const float *x, size_t n, enum tensor_type type, const float *importance)
{
    static void (*const put[TYPE_COUNT])(void *, const float *, const float *) = {
        [TYPE_F32] = put_f32,   [TYPE_F16] = put_f16,   [TYPE_BF16] = put_bf16, [TYPE_Q4_0] = put_q4_0,
        [TYPE_Q4_1] = put_q4_1, [TYPE_Q5_0] = put_q5_0, [TYPE_Q5_1] = put_q5_1, [TYPE_Q8_0] = put_q8_0,
        [TYPE_Q2_K] = put_q2_k, [TYPE_Q3_K] = put_q3_k, [TYPE_Q4_K] = put_q4_k, [TYPE_Q5_K] = put_q5_k,
        [TYPE_Q6_K] = put_q6_k, [TYPE_IQ4_NL] = put_iq4_nl, [TYPE_IQ4_XS] = put_iq4_xs,
    };
    const struct type_info *t = type_info((uint32_t)type);
    if ((size_t)type >= TYPE_COUNT || !put[type])
        return false;
    CHECK(n % t->block_len == 0);
    for (size_t i = 0; i < n / t->block_len; i++)
        put[type]((uint8_t *)out + i * t->block_bytes, x + i * t->block_len,
                  importance ? importance + i * t->block_len : NULL);
    return true;
}

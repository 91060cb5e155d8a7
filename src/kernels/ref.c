/* ref.c: every entry that works on vectors, in plain loops: the specification of rules 1, 3, 4 and 6.
 *
 * Sums over a vector have eight lanes and a fixed tree (rule 3); everything else is one value at a time. ref_attn.c
 * has rule 5, ref_matmul.c rule 2, scalar.h the exponential and what is made of it.
 */
#include "init.h"
#include "scalar.h"

/* Rule 1. Comparisons are written so that a NaN among x is passed over by the maximum and stored as -127, which is
 * what maxps and fmaxnm do; the contract only says "unspecified". */
static void quantize_act(struct act_block *out, const float *x, size_t n)
{
    for (size_t i = 0; i < n / 32; i++, out++, x += 32) {
        float amax = 0;
        int sum[2] = { 0, 0 }, lane[2] = { 0, 0 };
        for (size_t j = 0; j < 32; j++)
            amax = fabsf(x[j]) > amax ? fabsf(x[j]) : amax;
        amax = amax >= ACT_TINY ? amax : 0;
        float id = amax > 0 ? 127.0f / amax : 0;
        out->d = amax / 127.0f;
        for (size_t j = 0; j < 32; j++) {
            float v = x[j] * id;
            v = v > -127.0f ? v : -127.0f;
            v = v < 127.0f ? v : 127.0f;
            int q = (int)rintf(v);
            out->q[j] = (int8_t)q;
            sum[j / 16] += q;
            lane[j % 4 / 2] += q;
        }
        out->sd = out->d * (float)(sum[0] + sum[1]);
        for (size_t h = 0; h < 2; h++) {
            out->sum16[h] = (int16_t)sum[h];
            out->lane[h] = (int16_t)lane[h];
        }
    }
}

static float lane_tree(const float l[8])
{
    return ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]));
}

static void rms_norm(float *y, const float *x, const float *w, size_t n, float eps)
{
    float lane[8] = { 0 };
    for (size_t i = 0; i < n; i++)
        lane[i % 8] = fmaf(x[i], x[i], lane[i % 8]);
    float r = 1.0f / sqrtf(lane_tree(lane) / (float)n + eps);
    for (size_t i = 0; i < n; i++)
        y[i] = w ? x[i] * r * w[i] : x[i] * r;
}

static void layer_norm(float *y, const float *x, const float *w, const float *b, size_t n, float eps)
{
    float lane[8] = { 0 }, square[8] = { 0 };
    for (size_t i = 0; i < n; i++)
        lane[i % 8] += x[i];
    float mean = lane_tree(lane) / (float)n;
    for (size_t i = 0; i < n; i++) {
        float t = x[i] - mean;
        square[i % 8] = fmaf(t, t, square[i % 8]);
    }
    float r = 1.0f / sqrtf(lane_tree(square) / (float)n + eps);
    for (size_t i = 0; i < n; i++)
        y[i] = fmaf((x[i] - mean) * r, w ? w[i] : 1.0f, b ? b[i] : 0.0f);
}

static void add(float *y, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] += x[i];
}

static void scale(float *y, float s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] *= s;
}

static void softcap(float *y, float cap, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = scalar_softcap(y[i], cap);
}

static void exp_scaled(float *y, float shift, float rate, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = scalar_exp((y[i] - shift) * rate);
}

static void relu(float *y, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = y[i] > 0 ? y[i] : 0;
}

static void gelu(float *y, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = scalar_gelu(y[i]);
}

static void silu_mul(float *y, const float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = scalar_silu(gate[i]) * up[i];
}

static void gelu_mul(float *y, const float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = scalar_gelu(gate[i]) * up[i];
}

static void rotate(float *x0, float *x1, float cos, float sin)
{
    float a = *x0, b = *x1;
    *x0 = fmaf(a, cos, -(b * sin));
    *x1 = fmaf(a, sin, b * cos);
}

static void rope_pairs(float *x, const float *cos, const float *sin, size_t n_pairs)
{
    for (size_t i = 0; i < n_pairs; i++)
        rotate(&x[2 * i], &x[2 * i + 1], cos[i], sin[i]);
}

static void rope_halves(float *x, const float *cos, const float *sin, size_t n_pairs)
{
    for (size_t i = 0; i < n_pairs; i++)
        rotate(&x[i], &x[i + n_pairs], cos[i], sin[i]);
}

void INIT_JOIN(KERNELS_VARIANT, vector_init)(struct kernels *t)
{
    t->quantize_act = quantize_act;
    t->rms_norm = rms_norm;
    t->layer_norm = layer_norm;
    t->add = add;
    t->scale = scale;
    t->softcap = softcap;
    t->exp_scaled = exp_scaled;
    t->relu = relu;
    t->gelu = gelu;
    t->silu_mul = silu_mul;
    t->gelu_mul = gelu_mul;
    t->rope_pairs = rope_pairs;
    t->rope_halves = rope_halves;
}

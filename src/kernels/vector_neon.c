/* vector_neon.c: the entries that work on vectors, four values at a time (armv8.0, no extensions).
 *
 * The eight lanes of rule 3 are two registers. Tails are scalar: the same functions from scalar.h.
 */
#include "neon.h"

static void quantize_act(struct act_block *out, const float *x, size_t n)
{
    const float32x4_t low = vdupq_n_f32(-127.0f), high = vdupq_n_f32(127.0f);
    for (size_t i = 0; i < n / 32; i++, out++, x += 32) {
        float32x4_t m = vdupq_n_f32(0);
        int16x8_t h[4];
        for (size_t j = 0; j < 8; j++)
            m = larger(vabsq_f32(vld1q_f32(x + 4 * j)), m);
        float amax = vmaxvq_f32(m);
        amax = amax >= ACT_TINY ? amax : 0;
        const float32x4_t id = vdupq_n_f32(amax > 0 ? 127.0f / amax : 0);
        for (size_t j = 0; j < 4; j++) {
            float32x4_t a = larger(vmulq_f32(vld1q_f32(x + 8 * j), id), low);
            float32x4_t b = larger(vmulq_f32(vld1q_f32(x + 8 * j + 4), id), low);
            a = vbslq_f32(vcltq_f32(a, high), a, high);
            b = vbslq_f32(vcltq_f32(b, high), b, high);
            h[j] = vcombine_s16(vmovn_s32(vcvtnq_s32_f32(a)), vmovn_s32(vcvtnq_s32_f32(b)));
            vst1_s8(out->q + 8 * j, vmovn_s16(h[j]));
        }
        const int sum0 = vaddlvq_s16(vaddq_s16(h[0], h[1])), sum1 = vaddlvq_s16(vaddq_s16(h[2], h[3]));
        /* Pairs of all values; those with an even number belong to lane 0. */
        int32x4_t pairs = vpaddlq_s16(vaddq_s16(vaddq_s16(h[0], h[1]), vaddq_s16(h[2], h[3])));
        const int lane0 = vgetq_lane_s32(pairs, 0) + vgetq_lane_s32(pairs, 2);
        out->d = amax / 127.0f;
        out->sd = out->d * (float)(sum0 + sum1);
        out->sum16[0] = (int16_t)sum0;
        out->sum16[1] = (int16_t)sum1;
        out->lane[0] = (int16_t)lane0;
        out->lane[1] = (int16_t)(sum0 + sum1 - lane0);
    }
}

/* Adds the values of a tail to their lanes, as fma(t, t, lane) or lane + t. */
static float sum_of_squares(const float *x, float mean, size_t n)
{
    float32x4_t a = vdupq_n_f32(0), b = a;
    const float32x4_t m = vdupq_n_f32(mean);
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        float32x4_t s = vsubq_f32(vld1q_f32(x + i), m), t = vsubq_f32(vld1q_f32(x + i + 4), m);
        a = vfmaq_f32(a, s, s);
        b = vfmaq_f32(b, t, t);
    }
    float lane[8];
    vst1q_f32(lane, a);
    vst1q_f32(lane + 4, b);
    for (; i < n; i++) {
        float t = x[i] - mean;
        lane[i % 8] = fmaf(t, t, lane[i % 8]);
    }
    return tree_sum(vld1q_f32(lane), vld1q_f32(lane + 4));
}

static void rms_norm(float *y, const float *x, const float *w, size_t n, float eps)
{
    /* x - 0 is x, so one function serves both norms. */
    const float r = 1.0f / sqrtf(sum_of_squares(x, 0, n) / (float)n + eps);
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        float32x4_t v = vmulq_n_f32(vld1q_f32(x + i), r);
        vst1q_f32(y + i, w ? vmulq_f32(v, vld1q_f32(w + i)) : v);
    }
    for (; i < n; i++)
        y[i] = w ? x[i] * r * w[i] : x[i] * r;
}

static void layer_norm(float *y, const float *x, const float *w, const float *b, size_t n, float eps)
{
    float32x4_t s = vdupq_n_f32(0), t = s;
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        s = vaddq_f32(s, vld1q_f32(x + i));
        t = vaddq_f32(t, vld1q_f32(x + i + 4));
    }
    float lane[8];
    vst1q_f32(lane, s);
    vst1q_f32(lane + 4, t);
    for (; i < n; i++)
        lane[i % 8] += x[i];
    const float mean = tree_sum(vld1q_f32(lane), vld1q_f32(lane + 4)) / (float)n;
    const float r = 1.0f / sqrtf(sum_of_squares(x, mean, n) / (float)n + eps);
    for (i = 0; i + 4 <= n; i += 4) {
        float32x4_t v = vmulq_n_f32(vsubq_f32(vld1q_f32(x + i), vdupq_n_f32(mean)), r);
        vst1q_f32(y + i, vfmaq_f32(b ? vld1q_f32(b + i) : vdupq_n_f32(0), v, w ? vld1q_f32(w + i) : vdupq_n_f32(1)));
    }
    for (; i < n; i++)
        y[i] = fmaf((x[i] - mean) * r, w ? w[i] : 1.0f, b ? b[i] : 0.0f);
}

static void add(float *y, const float *x, size_t n)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        vst1q_f32(y + i, vaddq_f32(vld1q_f32(y + i), vld1q_f32(x + i)));
    for (; i < n; i++)
        y[i] += x[i];
}

static void scale(float *y, float s, size_t n)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        vst1q_f32(y + i, vmulq_n_f32(vld1q_f32(y + i), s));
    for (; i < n; i++)
        y[i] *= s;
}

static void relu(float *y, size_t n)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        vst1q_f32(y + i, larger(vld1q_f32(y + i), vdupq_n_f32(0)));
    for (; i < n; i++)
        y[i] = y[i] > 0 ? y[i] : 0;
}

static void softcap(float *y, float cap, size_t n)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        vst1q_f32(y + i, softcap4(vld1q_f32(y + i), cap));
    for (; i < n; i++)
        y[i] = scalar_softcap(y[i], cap);
}

static void exp_scaled(float *y, float shift, float rate, size_t n)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        vst1q_f32(y + i, exp4(vmulq_n_f32(vsubq_f32(vld1q_f32(y + i), vdupq_n_f32(shift)), rate)));
    for (; i < n; i++)
        y[i] = scalar_exp((y[i] - shift) * rate);
}

static void gelu(float *y, size_t n)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        vst1q_f32(y + i, gelu4(vld1q_f32(y + i)));
    for (; i < n; i++)
        y[i] = scalar_gelu(y[i]);
}

static void silu_mul(float *y, const float *gate, const float *up, size_t n)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        vst1q_f32(y + i, vmulq_f32(silu4(vld1q_f32(gate + i)), vld1q_f32(up + i)));
    for (; i < n; i++)
        y[i] = scalar_silu(gate[i]) * up[i];
}

static void gelu_mul(float *y, const float *gate, const float *up, size_t n)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        vst1q_f32(y + i, vmulq_f32(gelu4(vld1q_f32(gate + i)), vld1q_f32(up + i)));
    for (; i < n; i++)
        y[i] = scalar_gelu(gate[i]) * up[i];
}

static void rotate4(float32x4_t *x0, float32x4_t *x1, float32x4_t c, float32x4_t s)
{
    const float32x4_t a = *x0, b = *x1;
    *x0 = vfmaq_f32(vnegq_f32(vmulq_f32(b, s)), a, c);
    *x1 = vfmaq_f32(vmulq_f32(b, c), a, s);
}

static void rotate(float *x0, float *x1, float cos, float sin)
{
    float a = *x0, b = *x1;
    *x0 = fmaf(a, cos, -(b * sin));
    *x1 = fmaf(a, sin, b * cos);
}

static void rope_pairs(float *x, const float *cos, const float *sin, size_t n_pairs)
{
    size_t i = 0;
    for (; i + 4 <= n_pairs; i += 4) {
        float32x4x2_t v = vld2q_f32(x + 2 * i);
        rotate4(&v.val[0], &v.val[1], vld1q_f32(cos + i), vld1q_f32(sin + i));
        vst2q_f32(x + 2 * i, v);
    }
    for (; i < n_pairs; i++)
        rotate(&x[2 * i], &x[2 * i + 1], cos[i], sin[i]);
}

static void rope_halves(float *x, const float *cos, const float *sin, size_t n_pairs)
{
    size_t i = 0;
    for (; i + 4 <= n_pairs; i += 4) {
        float32x4_t a = vld1q_f32(x + i), b = vld1q_f32(x + n_pairs + i);
        rotate4(&a, &b, vld1q_f32(cos + i), vld1q_f32(sin + i));
        vst1q_f32(x + i, a);
        vst1q_f32(x + n_pairs + i, b);
    }
    for (; i < n_pairs; i++)
        rotate(&x[i], &x[i + n_pairs], cos[i], sin[i]);
}

static void row_f16(float *y, const void *w, size_t n)
{
    const uint8_t *p = w;
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        vst1q_f32(y + i, load_halves(p + 2 * i));
    for (; i < n; i++)
        y[i] = half_bits_to_float(load_le16(p + 2 * i));
}

void neon_vector_init(struct kernels *t)
{
    t->quantize_act = quantize_act;
    t->rms_norm = rms_norm;
    t->layer_norm = layer_norm;
    t->add = add;
    t->scale = scale;
    t->softcap = softcap;
    t->relu = relu;
    t->exp_scaled = exp_scaled;
    t->gelu = gelu;
    t->silu_mul = silu_mul;
    t->gelu_mul = gelu_mul;
    t->rope_pairs = rope_pairs;
    t->rope_halves = rope_halves;
    t->dequant_row[TYPE_F16] = row_f16;
}

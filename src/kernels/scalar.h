/* scalar.h: the small functions that the scalar kernels are made of. Private to src/kernels.
 *
 * Half precision: fp16 is 1 sign, 5 exponent, 10 fraction bits; bf16 is the upper half of binary32. Both
 * conversions to them round to nearest even and keep NaN a (quiet) NaN with its upper payload bits, which is
 * what vcvtps2ph and fcvt do, so that vector code may use those.
 *
 * exp (rule 4): x is clamped to [-104, 89], beyond which the answer is 0 or infinity anyway;
 *   n = x / ln 2 rounded to nearest (by adding and taking away 1.5 * 2^23: the low bits of the sum are n);
 *   r = x - n ln 2 in two steps (the first is exact), |r| <= 0.3466;
 *   e^r = 1 + r (1 + r q(r)), q of degree 4 fitted at Chebyshev nodes (relative error 1e-8);
 *   the result times 2^(n/2) times 2^(n - n/2), so that denormal results round once and nothing overflows early.
 * Exact 1 at 0, 0 below -103.98, infinity above 88.72, NaN for NaN; at most 1.5 ulp elsewhere (test_dequant
 * measures it).
 *
 * tanh: below 0.625 the odd polynomial x + x^3 p(x^2), because (1 - e) would cancel there; above, with
 * e = exp(-2|x|), (1 - e) / (1 + e) with the sign of x.
 *
 * gelu, tanh form: x/2 (1 + tanh u) = x / (1 + exp(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3). The right side has
 * no cancellation for negative x, and is one exp and one division like silu.
 *
 * Every function is a straight line of operations that exist in SSE, AVX and NEON with the same rounding; the two
 * sides of a choice are both computed there and blended.
 */
#ifndef HEARTH_SCALAR_H
#define HEARTH_SCALAR_H

#include <math.h>
#include <string.h>

#include "kernels.h"

#define EXP_LOW (-104.0f)
#define EXP_HIGH 89.0f
#define EXP_LOG2E 0x1.715476p+0f
#define EXP_MAGIC 0x1.8p23f         /* 1.5 * 2^23 */
#define EXP_MAGIC_BITS 0x4B400000u
#define EXP_LN2_HIGH 0x1.62e430p-1f
#define EXP_LN2_LOW (-0x1.05c610p-29f)
#define EXP_Q0 0x1.0p-1f
#define EXP_Q1 0x1.5554dcp-3f
#define EXP_Q2 0x1.555518p-5f
#define EXP_Q3 0x1.120be2p-7f
#define EXP_Q4 0x1.6d117cp-10f

#define TANH_SMALL 0.625f
#define TANH_P0 (-0x1.555552p-2f)
#define TANH_P1 0x1.110e1cp-3f
#define TANH_P2 (-0x1.b9258ap-5f)
#define TANH_P3 0x1.58048ep-6f
#define TANH_P4 (-0x1.8f8de4p-8f)

#define GELU_A 0.044715f
#define GELU_B (-0x1.988454p+0f)    /* -2 sqrt(2 / pi) */

/* Activations below this are stored as zero: 127 / amax must stay finite (rule 1). */
#define ACT_TINY 0x1p-96f

/* For vector code: unrolls a loop over registers. Left as a loop, the array of registers would live in memory. */
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

static inline uint32_t bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static inline float float_of(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static inline float half_bits_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = h & 0x7fff;
    if (rest >= 0x7c00) /* infinity, or a NaN made quiet */
        return float_of(sign | 0x7f800000 | (rest & 0x3ff) << 13 | (rest > 0x7c00 ? 0x400000u : 0));
    if (rest >= 0x400)
        return float_of(sign | ((rest << 13) + ((127u - 15u) << 23)));
    float f = (float)rest * 0x1p-24f; /* denormal or zero: exact */
    return float_of(sign | bits_of(f));
}

static inline uint16_t float_to_half_bits(float f)
{
    uint32_t u = bits_of(f), sign = u >> 16 & 0x8000, rest = u & 0x7fffffff;
    if (rest > 0x7f800000)
        return (uint16_t)(sign | 0x7e00 | (rest >> 13 & 0x3ff));
    if (rest >= 0x477ff000) /* 65520 and above round to infinity */
        return (uint16_t)(sign | 0x7c00);
    if (rest < 0x38800000) { /* below 2^-14: adding 0.5 leaves the multiple of 2^-24, rounded, in the low bits */
        uint32_t n = bits_of(float_of(rest) + 0.5f) - bits_of(0.5f);
        return (uint16_t)(sign | n);
    }
    rest += 0xfff + (rest >> 13 & 1);
    return (uint16_t)(sign | ((rest - ((127u - 15u) << 23)) >> 13));
}

static inline float bf16_bits_to_float(uint16_t h)
{
    return float_of((uint32_t)h << 16);
}

static inline uint16_t float_to_bf16_bits(float f)
{
    uint32_t u = bits_of(f);
    if ((u & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static inline float scalar_exp(float x)
{
    x = x < EXP_LOW ? EXP_LOW : x;
    x = x > EXP_HIGH ? EXP_HIGH : x;
    float z = fmaf(x, EXP_LOG2E, EXP_MAGIC);
    float n = z - EXP_MAGIC;
    float r = fmaf(n, -EXP_LN2_HIGH, x);
    r = fmaf(n, -EXP_LN2_LOW, r);
    float q = fmaf(EXP_Q4, r, EXP_Q3);
    q = fmaf(q, r, EXP_Q2);
    q = fmaf(q, r, EXP_Q1);
    q = fmaf(q, r, EXP_Q0);
    q = fmaf(q, r, 1.0f);
    q = fmaf(q, r, 1.0f);
    int32_t i = (int32_t)(bits_of(z) - EXP_MAGIC_BITS);
    int32_t half = i >> 1;
    return q * float_of((uint32_t)(half + 127) << 23) * float_of((uint32_t)(i - half + 127) << 23);
}

static inline float scalar_tanh(float x)
{
    float a = fabsf(x), s = x * x;
    if (a < TANH_SMALL) {
        float p = fmaf(TANH_P4, s, TANH_P3);
        p = fmaf(p, s, TANH_P2);
        p = fmaf(p, s, TANH_P1);
        p = fmaf(p, s, TANH_P0);
        return fmaf(p * s, x, x);
    }
    float e = scalar_exp(a * -2.0f);
    return copysignf((1.0f - e) / (1.0f + e), x);
}

static inline float scalar_silu(float x)
{
    return x / (1.0f + scalar_exp(-x));
}

static inline float scalar_gelu(float x)
{
    float t = fmaf(x * x, GELU_A, 1.0f);
    return x / (1.0f + scalar_exp((x * GELU_B) * t));
}

static inline float scalar_softcap(float x, float cap)
{
    return cap * scalar_tanh(x / cap);
}

#endif

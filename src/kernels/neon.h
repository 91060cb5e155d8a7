/* neon.h: what the NEON files share: the functions of scalar.h four at a time, the tree of rule 3, tails. Private.
 *
 * The same operations in the same order as scalar.h, so the same bits. FMAX and FMIN pass a NaN on, which is what
 * scalar_exp wants; where the reference writes `a > b ? a : b` and a NaN may come, larger() does just that.
 */
#ifndef HEARTH_NEON_H
#define HEARTH_NEON_H

#include <arm_neon.h>

#include "init.h"
#include "scalar.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* a > b ? a : b */
ALWAYS_INLINE float32x4_t larger(float32x4_t a, float32x4_t b)
{
    return vbslq_f32(vcgtq_f32(a, b), a, b);
}

/* ((l0+l4) + (l2+l6)) + ((l1+l5) + (l3+l7)), lanes 0..3 in a, 4..7 in b */
ALWAYS_INLINE float tree_sum(float32x4_t a, float32x4_t b)
{
    float32x4_t s = vaddq_f32(a, b);
    float32x2_t t = vadd_f32(vget_low_f32(s), vget_high_f32(s));
    return vget_lane_f32(t, 0) + vget_lane_f32(t, 1);
}

ALWAYS_INLINE float32x4_t exp4(float32x4_t x)
{
    x = vmaxq_f32(vdupq_n_f32(EXP_LOW), x);
    x = vminq_f32(vdupq_n_f32(EXP_HIGH), x);
    float32x4_t z = vfmaq_f32(vdupq_n_f32(EXP_MAGIC), x, vdupq_n_f32(EXP_LOG2E));
    float32x4_t n = vsubq_f32(z, vdupq_n_f32(EXP_MAGIC));
    float32x4_t r = vfmaq_f32(x, n, vdupq_n_f32(-EXP_LN2_HIGH));
    r = vfmaq_f32(r, n, vdupq_n_f32(-EXP_LN2_LOW));
    float32x4_t q = vfmaq_f32(vdupq_n_f32(EXP_Q3), vdupq_n_f32(EXP_Q4), r);
    q = vfmaq_f32(vdupq_n_f32(EXP_Q2), q, r);
    q = vfmaq_f32(vdupq_n_f32(EXP_Q1), q, r);
    q = vfmaq_f32(vdupq_n_f32(EXP_Q0), q, r);
    q = vfmaq_f32(vdupq_n_f32(1.0f), q, r);
    q = vfmaq_f32(vdupq_n_f32(1.0f), q, r);
    int32x4_t i = vsubq_s32(vreinterpretq_s32_f32(z), vdupq_n_s32((int32_t)EXP_MAGIC_BITS));
    int32x4_t half = vshrq_n_s32(i, 1), bias = vdupq_n_s32(127);
    int32x4_t s1 = vshlq_n_s32(vaddq_s32(half, bias), 23);
    int32x4_t s2 = vshlq_n_s32(vaddq_s32(vsubq_s32(i, half), bias), 23);
    return vmulq_f32(vmulq_f32(q, vreinterpretq_f32_s32(s1)), vreinterpretq_f32_s32(s2));
}

ALWAYS_INLINE float32x4_t tanh4(float32x4_t x)
{
    const float32x4_t one = vdupq_n_f32(1.0f);
    float32x4_t a = vabsq_f32(x), s = vmulq_f32(x, x);
    float32x4_t p = vfmaq_f32(vdupq_n_f32(TANH_P3), vdupq_n_f32(TANH_P4), s);
    p = vfmaq_f32(vdupq_n_f32(TANH_P2), p, s);
    p = vfmaq_f32(vdupq_n_f32(TANH_P1), p, s);
    p = vfmaq_f32(vdupq_n_f32(TANH_P0), p, s);
    p = vfmaq_f32(x, vmulq_f32(p, s), x);
    float32x4_t e = exp4(vmulq_f32(a, vdupq_n_f32(-2.0f)));
    float32x4_t t = vdivq_f32(vsubq_f32(one, e), vaddq_f32(one, e));
    t = vbslq_f32(vdupq_n_u32(0x80000000u), x, t);
    return vbslq_f32(vcltq_f32(a, vdupq_n_f32(TANH_SMALL)), p, t);
}

ALWAYS_INLINE float32x4_t silu4(float32x4_t x)
{
    return vdivq_f32(x, vaddq_f32(vdupq_n_f32(1.0f), exp4(vnegq_f32(x))));
}

ALWAYS_INLINE float32x4_t gelu4(float32x4_t x)
{
    const float32x4_t one = vdupq_n_f32(1.0f);
    float32x4_t t = vfmaq_f32(one, vmulq_f32(x, x), vdupq_n_f32(GELU_A));
    float32x4_t e = exp4(vmulq_f32(vmulq_f32(x, vdupq_n_f32(GELU_B)), t));
    return vdivq_f32(x, vaddq_f32(one, e));
}

ALWAYS_INLINE float32x4_t softcap4(float32x4_t x, float cap)
{
    float32x4_t c = vdupq_n_f32(cap);
    return vmulq_f32(c, tanh4(vdivq_f32(x, c)));
}

/* Four fp16 at any address. */
ALWAYS_INLINE float32x4_t load_halves(const uint8_t *p)
{
    return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p)));
}

/* The first n_rows of eight rows of a column; n_rows may be more. */
ALWAYS_INLINE void store_rows(float *y, const float32x4_t v[2], size_t n_rows)
{
    float t[R8_ROWS];
    float *out = n_rows >= R8_ROWS ? y : t;
    vst1q_f32(out, v[0]);
    vst1q_f32(out + 4, v[1]);
    if (n_rows < R8_ROWS)
        memcpy(y, t, n_rows * sizeof *y);
}

ALWAYS_INLINE void load_rows(float32x4_t v[2], const float *y, size_t n_rows)
{
    float t[R8_ROWS] = { 0 };
    if (n_rows < R8_ROWS) {
        memcpy(t, y, n_rows * sizeof *y);
        y = t;
    }
    v[0] = vld1q_f32(y);
    v[1] = vld1q_f32(y + 4);
}

/* p, but not known before v: what is read from it later is not read ahead, where a compiler would run out of registers. */
ALWAYS_INLINE const uint8_t *after(const uint8_t *p, float32x4_t v[2])
{
    __asm__("" : "+r"(p), "+w"(v[0]), "+w"(v[1]));
    return p;
}

#endif

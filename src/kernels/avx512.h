/* avx512.h: what the AVX-512 files share: the functions of scalar.h sixteen at a time. Private.
 *
 * The same operations in the same order as scalar.h, so the same bits, with one shortcut: vscalefps multiplies by a
 * power of two and rounds once, as the two multiplications of scalar_exp do (the first of them is exact). Operands of
 * max and min stand as in avx2.h: of a NaN and a number the second comes out.
 */
#ifndef HEARTH_AVX512_H
#define HEARTH_AVX512_H

#include "avx2.h"

/* The first n of sixteen lanes, 0 <= n <= 16. Masked loads and stores touch nothing behind. */
ALWAYS_INLINE __mmask16 first16(size_t n)
{
    return (__mmask16)((1u << n) - 1);
}

/* +0 in the lanes that `wanted` leaves out. Their exponential is not made at all: a result below the normal numbers
 * costs more than a hundred cycles. */
ALWAYS_INLINE __m512 exp16_some(__mmask16 wanted, __m512 x)
{
    x = _mm512_max_ps(_mm512_set1_ps(EXP_LOW), x);
    x = _mm512_min_ps(_mm512_set1_ps(EXP_HIGH), x);
    const __m512 z = _mm512_fmadd_ps(x, _mm512_set1_ps(EXP_LOG2E), _mm512_set1_ps(EXP_MAGIC));
    const __m512 n = _mm512_sub_ps(z, _mm512_set1_ps(EXP_MAGIC));
    __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(-EXP_LN2_HIGH), x);
    r = _mm512_fmadd_ps(n, _mm512_set1_ps(-EXP_LN2_LOW), r);
    __m512 q = _mm512_fmadd_ps(_mm512_set1_ps(EXP_Q4), r, _mm512_set1_ps(EXP_Q3));
    q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(EXP_Q2));
    q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(EXP_Q1));
    q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(EXP_Q0));
    q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(1.0f));
    q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(1.0f));
    return _mm512_maskz_scalef_ps(wanted, q, n);
}

ALWAYS_INLINE __m512 exp16(__m512 x)
{
    return exp16_some(0xffff, x);
}

ALWAYS_INLINE __m512 tanh16(__m512 x)
{
    const __m512 one = _mm512_set1_ps(1.0f), sign = _mm512_set1_ps(-0.0f);
    const __m512 a = _mm512_andnot_ps(sign, x), s = _mm512_mul_ps(x, x);
    __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(TANH_P4), s, _mm512_set1_ps(TANH_P3));
    p = _mm512_fmadd_ps(p, s, _mm512_set1_ps(TANH_P2));
    p = _mm512_fmadd_ps(p, s, _mm512_set1_ps(TANH_P1));
    p = _mm512_fmadd_ps(p, s, _mm512_set1_ps(TANH_P0));
    p = _mm512_fmadd_ps(_mm512_mul_ps(p, s), x, x);
    const __m512 e = exp16(_mm512_mul_ps(a, _mm512_set1_ps(-2.0f)));
    __m512 t = _mm512_div_ps(_mm512_sub_ps(one, e), _mm512_add_ps(one, e));
    t = _mm512_or_ps(_mm512_andnot_ps(sign, t), _mm512_and_ps(sign, x));
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, _mm512_set1_ps(TANH_SMALL), _CMP_LT_OQ), t, p);
}

ALWAYS_INLINE __m512 softcap16(__m512 x, float cap)
{
    const __m512 c = _mm512_set1_ps(cap);
    return _mm512_mul_ps(c, tanh16(_mm512_div_ps(x, c)));
}

#endif

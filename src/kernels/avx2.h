/* avx2.h: what the AVX2 files share: the functions of scalar.h eight at a time, the tree of rule 3, tails. Private.
 *
 * The same operations in the same order as scalar.h, so the same bits. Note the operand order of max and min: when
 * one operand is NaN (or both are zeros) the instruction returns the second, and `a > b ? a : b` is max(a, b).
 */
#ifndef HEARTH_AVX2_H
#define HEARTH_AVX2_H

#include <immintrin.h>

#include "init.h"
#include "scalar.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* All ones in the first n of eight lanes, 0 <= n <= 8. Masked loads and stores touch nothing behind. */
ALWAYS_INLINE __m256i first_lanes(size_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* ((l0+l4) + (l2+l6)) + ((l1+l5) + (l3+l7)) */
ALWAYS_INLINE float tree_sum(__m256 l)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(l), _mm256_extractf128_ps(l, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

/* Lane j: the largest (the sum as rule 3 has it) of the four lanes of x[j]. */
ALWAYS_INLINE __m128 max_across(const __m128 x[4])
{
    const __m128 a = _mm_max_ps(_mm_unpacklo_ps(x[0], x[1]), _mm_unpackhi_ps(x[0], x[1]));
    const __m128 b = _mm_max_ps(_mm_unpacklo_ps(x[2], x[3]), _mm_unpackhi_ps(x[2], x[3]));
    return _mm_max_ps(_mm_movelh_ps(a, b), _mm_movehl_ps(b, a));
}

ALWAYS_INLINE __m128 sum_across(const __m128 x[4])
{
    const __m128 a = _mm_add_ps(_mm_unpacklo_ps(x[0], x[1]), _mm_unpackhi_ps(x[0], x[1]));
    const __m128 b = _mm_add_ps(_mm_unpacklo_ps(x[2], x[3]), _mm_unpackhi_ps(x[2], x[3]));
    return _mm_add_ps(_mm_movelh_ps(a, b), _mm_movehl_ps(b, a));
}

ALWAYS_INLINE __m256 exp8(__m256 x)
{
    x = _mm256_max_ps(_mm256_set1_ps(EXP_LOW), x);
    x = _mm256_min_ps(_mm256_set1_ps(EXP_HIGH), x);
    __m256 z = _mm256_fmadd_ps(x, _mm256_set1_ps(EXP_LOG2E), _mm256_set1_ps(EXP_MAGIC));
    __m256 n = _mm256_sub_ps(z, _mm256_set1_ps(EXP_MAGIC));
    __m256 r = _mm256_fmadd_ps(n, _mm256_set1_ps(-EXP_LN2_HIGH), x);
    r = _mm256_fmadd_ps(n, _mm256_set1_ps(-EXP_LN2_LOW), r);
    __m256 q = _mm256_fmadd_ps(_mm256_set1_ps(EXP_Q4), r, _mm256_set1_ps(EXP_Q3));
    q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(EXP_Q2));
    q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(EXP_Q1));
    q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(EXP_Q0));
    q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(1.0f));
    q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(1.0f));
    __m256i i = _mm256_sub_epi32(_mm256_castps_si256(z), _mm256_set1_epi32((int)EXP_MAGIC_BITS));
    __m256i half = _mm256_srai_epi32(i, 1), bias = _mm256_set1_epi32(127);
    __m256i s1 = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
    __m256i s2 = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(i, half), bias), 23);
    return _mm256_mul_ps(_mm256_mul_ps(q, _mm256_castsi256_ps(s1)), _mm256_castsi256_ps(s2));
}

/* exp(m_old - m), 0 where m_old is -infinity: told apart beforehand, because a result below the normal numbers costs
 * more than a hundred cycles, also where it rounds to 0. */
ALWAYS_INLINE __m128 exp_of_change(__m128 m_old, __m128 m)
{
    const __m128 is_first = _mm_cmpeq_ps(m_old, _mm_set1_ps(-INFINITY));
    const __m256 x = _mm256_zextps128_ps256(_mm_andnot_ps(is_first, _mm_sub_ps(m_old, m)));
    return _mm_andnot_ps(is_first, _mm256_castps256_ps128(exp8(x)));
}

ALWAYS_INLINE __m256 tanh8(__m256 x)
{
    const __m256 sign = _mm256_set1_ps(-0.0f), one = _mm256_set1_ps(1.0f);
    __m256 a = _mm256_andnot_ps(sign, x), s = _mm256_mul_ps(x, x);
    __m256 p = _mm256_fmadd_ps(_mm256_set1_ps(TANH_P4), s, _mm256_set1_ps(TANH_P3));
    p = _mm256_fmadd_ps(p, s, _mm256_set1_ps(TANH_P2));
    p = _mm256_fmadd_ps(p, s, _mm256_set1_ps(TANH_P1));
    p = _mm256_fmadd_ps(p, s, _mm256_set1_ps(TANH_P0));
    p = _mm256_fmadd_ps(_mm256_mul_ps(p, s), x, x);
    __m256 e = exp8(_mm256_mul_ps(a, _mm256_set1_ps(-2.0f)));
    __m256 t = _mm256_div_ps(_mm256_sub_ps(one, e), _mm256_add_ps(one, e));
    t = _mm256_or_ps(_mm256_andnot_ps(sign, t), _mm256_and_ps(sign, x));
    return _mm256_blendv_ps(t, p, _mm256_cmp_ps(a, _mm256_set1_ps(TANH_SMALL), _CMP_LT_OQ));
}

ALWAYS_INLINE __m256 silu8(__m256 x)
{
    __m256 e = exp8(_mm256_xor_ps(x, _mm256_set1_ps(-0.0f)));
    return _mm256_div_ps(x, _mm256_add_ps(_mm256_set1_ps(1.0f), e));
}

ALWAYS_INLINE __m256 gelu8(__m256 x)
{
    __m256 one = _mm256_set1_ps(1.0f);
    __m256 t = _mm256_fmadd_ps(_mm256_mul_ps(x, x), _mm256_set1_ps(GELU_A), one);
    __m256 e = exp8(_mm256_mul_ps(_mm256_mul_ps(x, _mm256_set1_ps(GELU_B)), t));
    return _mm256_div_ps(x, _mm256_add_ps(one, e));
}

ALWAYS_INLINE __m256 softcap8(__m256 x, float cap)
{
    __m256 c = _mm256_set1_ps(cap);
    return _mm256_mul_ps(c, tanh8(_mm256_div_ps(x, c)));
}

#endif

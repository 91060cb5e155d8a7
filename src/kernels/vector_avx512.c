/* vector_avx512.c: row work sixteen values at a time, where that is measurably faster than eight: what holds an
 * exponential, and the quantisation of activations. The norms keep the eight lanes of rule 3 and stay in vector_avx2.c, as
 * do the entries that memory bounds.
 *
 * Element by element entries are one loop of whole registers and one masked register for the tail.
 */
#include "avx512.h"

/* Four sums of a block's 32 numbers as four int16 (sum16[0], sum16[1], lane[0], lane[1]), and all of them as a float. */
ALWAYS_INLINE float store_sums(struct act_block *out, __m256i q)
{
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), q); /* pair j belongs to lane j mod 2 */
    const __m256i even = _mm256_madd_epi16(pairs, _mm256_set1_epi32(1));
    const __m256i odd = _mm256_madd_epi16(pairs, _mm256_set1_epi32(1 << 16));
    __m256i t = _mm256_hadd_epi32(even, odd);
    t = _mm256_hadd_epi32(t, t); /* per half h: e[h] o[h] e[h] o[h] */
    const __m128i low = _mm256_castsi256_si128(t), high = _mm256_extracti128_si256(t, 1);
    const __m128i by_lane = _mm_add_epi32(low, high);                                  /* lane[0] lane[1] .. */
    const __m128i turned = _mm_unpacklo_epi32(low, high);                              /* e0 e1 o0 o1 */
    const __m128i by_half = _mm_add_epi32(turned, _mm_unpackhi_epi64(turned, turned)); /* sum16[0] sum16[1] .. */
    const __m128i sums = _mm_unpacklo_epi64(by_half, by_lane);
    _mm_storel_epi64((__m128i *)(void *)out->sum16, _mm_packs_epi32(sums, sums));
    return (float)_mm_cvtsi128_si32(_mm_add_epi32(by_half, _mm_srli_epi64(by_half, 32)));
}

/* Rule 1. NaN is passed over by the maximum and stored as -127, as in ref.c. |x * id| stays below 127.5. */
static void quantize_act(struct act_block *out, const float *x, size_t n)
{
    const __m512 low = _mm512_set1_ps(-127.0f);
    for (size_t i = 0; i < n / 32; i++, out++, x += 32) {
        const __m512 a = _mm512_loadu_ps(x), b = _mm512_loadu_ps(x + 16);
        const __m512 m16 = _mm512_max_ps(_mm512_abs_ps(b), _mm512_max_ps(_mm512_abs_ps(a), _mm512_setzero_ps()));
        const __m256 m8 = _mm256_max_ps(_mm512_castps512_ps256(m16), _mm512_extractf32x8_ps(m16, 1));
        __m128 m = _mm_max_ps(_mm256_castps256_ps128(m8), _mm256_extractf128_ps(m8, 1));
        m = _mm_max_ps(m, _mm_movehl_ps(m, m));
        float amax = _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
        amax = amax >= ACT_TINY ? amax : 0;
        const __m512 id = _mm512_set1_ps(amax > 0 ? 127.0f / amax : 0);
        const __m128i q0 = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(_mm512_max_ps(_mm512_mul_ps(a, id), low)));
        const __m128i q1 = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(_mm512_max_ps(_mm512_mul_ps(b, id), low)));
        const __m256i q = _mm256_set_m128i(q1, q0);
        _mm256_storeu_si256((__m256i *)(void *)out->q, q);
        out->d = amax / 127.0f;
        out->sd = out->d * store_sums(out, q);
    }
}

ALWAYS_INLINE __m512 silu16(__m512 x)
{
    const __m512 e = exp16(_mm512_xor_ps(x, _mm512_set1_ps(-0.0f)));
    return _mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1.0f), e));
}

ALWAYS_INLINE __m512 gelu16(__m512 x)
{
    const __m512 one = _mm512_set1_ps(1.0f);
    const __m512 t = _mm512_fmadd_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(GELU_A), one);
    const __m512 e = exp16(_mm512_mul_ps(_mm512_mul_ps(x, _mm512_set1_ps(GELU_B)), t));
    return _mm512_div_ps(x, _mm512_add_ps(one, e));
}

static void silu_mul(float *y, const float *gate, const float *up, size_t n)
{
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        _mm512_storeu_ps(y + i, _mm512_mul_ps(silu16(_mm512_loadu_ps(gate + i)), _mm512_loadu_ps(up + i)));
    const __mmask16 tail = first16(n - i);
    _mm512_mask_storeu_ps(y + i, tail,
                          _mm512_mul_ps(silu16(_mm512_maskz_loadu_ps(tail, gate + i)), _mm512_maskz_loadu_ps(tail, up + i)));
}

static void gelu_mul(float *y, const float *gate, const float *up, size_t n)
{
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        _mm512_storeu_ps(y + i, _mm512_mul_ps(gelu16(_mm512_loadu_ps(gate + i)), _mm512_loadu_ps(up + i)));
    const __mmask16 tail = first16(n - i);
    _mm512_mask_storeu_ps(y + i, tail,
                          _mm512_mul_ps(gelu16(_mm512_maskz_loadu_ps(tail, gate + i)), _mm512_maskz_loadu_ps(tail, up + i)));
}

static void exp_scaled(float *y, float shift, float rate, size_t n)
{
    const __m512 s = _mm512_set1_ps(shift), r = _mm512_set1_ps(rate);
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        _mm512_storeu_ps(y + i, exp16(_mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(y + i), s), r)));
    const __mmask16 tail = first16(n - i);
    const __m512 x = _mm512_mul_ps(_mm512_sub_ps(_mm512_maskz_loadu_ps(tail, y + i), s), r);
    _mm512_mask_storeu_ps(y + i, tail, exp16_some(tail, x));
}

void avx512_vector_init(struct kernels *t)
{
    t->quantize_act = quantize_act;
    t->silu_mul = silu_mul;
    t->gelu_mul = gelu_mul;
    t->exp_scaled = exp_scaled;
}

/* vec512.h: a vector of sixteen rows: two r8 strips side by side. Private; see vec256.h, which has the same names. */
#ifndef HEARTH_VEC512_H
#define HEARTH_VEC512_H

#include "avx2.h"

enum { LANES = 16, N_STRIPS = 2, VECTOR_REGISTERS = 32 };
typedef __m512i vint;
typedef __m512 vflt;

struct strips {
    const uint8_t *p[N_STRIPS];
};

ALWAYS_INLINE __m256i load_32(const uint8_t *p)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}
/* 16 bytes of each strip. */
ALWAYS_INLINE __m256i load_2x16(struct strips s, size_t at)
{
    __m128i a = _mm_loadu_si128((const __m128i *)(const void *)(s.p[0] + at));
    __m128i b = _mm_loadu_si128((const __m128i *)(const void *)(s.p[1] + at));
    return _mm256_inserti128_si256(_mm256_castsi128_si256(a), b, 1);
}
ALWAYS_INLINE __m128i load_2x8(struct strips s, size_t at)
{
    __m128i a = _mm_loadl_epi64((const __m128i *)(const void *)(s.p[0] + at));
    __m128i b = _mm_loadl_epi64((const __m128i *)(const void *)(s.p[1] + at));
    return _mm_unpacklo_epi64(a, b);
}

ALWAYS_INLINE vint load_plane(struct strips s, size_t at)
{
    return _mm512_inserti64x4(_mm512_castsi256_si512(load_32(s.p[0] + at)), load_32(s.p[1] + at), 1);
}
ALWAYS_INLINE vflt load_halves(struct strips s, size_t at)
{
    return _mm512_cvtph_ps(load_2x16(s, at));
}
ALWAYS_INLINE vint load_bytes(struct strips s, size_t at)
{
    return _mm512_cvtepu8_epi32(load_2x8(s, at));
}
ALWAYS_INLINE vint load_signed(struct strips s, size_t at)
{
    return _mm512_cvtepi8_epi32(load_2x8(s, at));
}
ALWAYS_INLINE vflt load_floats(struct strips s, size_t at)
{
    return _mm512_castsi512_ps(load_plane(s, at));
}
ALWAYS_INLINE vflt load_bf16(struct strips s, size_t at)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load_2x16(s, at)), 16));
}

#define set8(v) _mm512_set1_epi8((char)(v))
#define set16(v) _mm512_set1_epi16((short)(v))
#define set32(v) _mm512_set1_epi32(v)
#define and_bits _mm512_and_si512
#define or_bits _mm512_or_si512
#define xor_bits _mm512_xor_si512
#define shift_left16(v, n) _mm512_slli_epi16(v, (unsigned)(n))
#define shift_right16(v, n) _mm512_srli_epi16(v, (unsigned)(n))
#define shift_left32(v, n) _mm512_slli_epi32(v, (unsigned)(n))
#define shift_right32(v, n) _mm512_srli_epi32(v, (unsigned)(n))
#define sub8 _mm512_sub_epi8
#define add16 _mm512_add_epi16
#define mul16 _mm512_mullo_epi16
#define sub32 _mm512_sub_epi32
#define lookup(table, index) _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), index)

#define dot_bytes _mm512_dpbusd_epi32
#define dot_pairs _mm512_dpwssd_epi32
#define no_ints _mm512_setzero_si512
#define no_floats _mm512_setzero_ps
#define to_floats _mm512_cvtepi32_ps
#define mul_f _mm512_mul_ps
#define fma_f _mm512_fmadd_ps
#define fnma_f _mm512_fnmadd_ps
#define as_ints _mm512_castps_si512
#define as_floats _mm512_castsi512_ps

ALWAYS_INLINE vint broadcast4(const void *p)
{
    int32_t v;
    memcpy(&v, p, sizeof v);
    return _mm512_set1_epi32(v);
}
ALWAYS_INLINE vflt broadcast_f(const void *p)
{
    return as_floats(broadcast4(p));
}

ALWAYS_INLINE __mmask16 first_rows(size_t n)
{
    return (__mmask16)((1u << n) - 1);
}
ALWAYS_INLINE void store_rows(float *y, vflt v, size_t n)
{
    if (n >= LANES)
        _mm512_storeu_ps(y, v);
    else
        _mm512_mask_storeu_ps(y, first_rows(n), v);
}
ALWAYS_INLINE vflt load_rows(const float *y, size_t n)
{
    return n >= LANES ? _mm512_loadu_ps(y) : _mm512_maskz_loadu_ps(first_rows(n), y);
}

#endif

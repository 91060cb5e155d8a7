/* vec256.h: a vector of eight rows, for the kernels that are written once for 256 and 512 bits. Private.
 *
 * `struct strips` points to the r8 strips (r8.h) that a vector covers: one here, two in vec512.h. Everything that reads
 * weights goes through it, so that the same offset is read from each strip. Lanes are rows; nothing crosses them.
 *
 * A column's activations come as broadcasts from memory. dot_bytes multiplies unsigned weights by signed activations and
 * adds four products to each 32-bit lane; dot_pairs does the same with two pairs of int16. Neither saturates.
 */
#ifndef HEARTH_VEC256_H
#define HEARTH_VEC256_H

#include "avx2.h"

enum { LANES = 8, N_STRIPS = 1, VECTOR_REGISTERS = 16 };
typedef __m256i vint;
typedef __m256 vflt;

struct strips {
    const uint8_t *p[N_STRIPS];
};

/* 32 bytes of each strip: a group or a plane. */
ALWAYS_INLINE vint load_plane(struct strips s, size_t at)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)(s.p[0] + at));
}
/* Eight fp16 of each strip, one per row. */
ALWAYS_INLINE vflt load_halves(struct strips s, size_t at)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(s.p[0] + at)));
}
/* Eight bytes of each strip, one per row; unsigned and signed. */
ALWAYS_INLINE vint load_bytes(struct strips s, size_t at)
{
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(s.p[0] + at)));
}
ALWAYS_INLINE vint load_signed(struct strips s, size_t at)
{
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(s.p[0] + at)));
}
ALWAYS_INLINE vflt load_floats(struct strips s, size_t at)
{
    return _mm256_loadu_ps((const float *)(const void *)(s.p[0] + at));
}
ALWAYS_INLINE vflt load_bf16(struct strips s, size_t at)
{
    __m128i v = _mm_loadu_si128((const __m128i *)(const void *)(s.p[0] + at));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16));
}

#define set8(v) _mm256_set1_epi8((char)(v))
#define set16(v) _mm256_set1_epi16((short)(v))
#define set32(v) _mm256_set1_epi32(v)
#define and_bits _mm256_and_si256
#define or_bits _mm256_or_si256
#define xor_bits _mm256_xor_si256
#define shift_left16(v, n) _mm256_slli_epi16(v, (int)(n))
#define shift_right16(v, n) _mm256_srli_epi16(v, (int)(n))
#define shift_left32(v, n) _mm256_slli_epi32(v, (int)(n))
#define shift_right32(v, n) _mm256_srli_epi32(v, (int)(n))
#define sub8 _mm256_sub_epi8
#define add16 _mm256_add_epi16
#define mul16 _mm256_mullo_epi16
#define sub32 _mm256_sub_epi32
#define lookup(table, index) _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), index)

#define dot_bytes _mm256_dpbusd_avx_epi32
#define dot_pairs _mm256_dpwssd_avx_epi32
#define no_ints _mm256_setzero_si256
#define no_floats _mm256_setzero_ps
#define to_floats _mm256_cvtepi32_ps
#define mul_f _mm256_mul_ps
#define fma_f _mm256_fmadd_ps
#define fnma_f _mm256_fnmadd_ps
#define as_ints _mm256_castps_si256
#define as_floats _mm256_castsi256_ps

ALWAYS_INLINE vint broadcast4(const void *p)
{
    int32_t v;
    memcpy(&v, p, sizeof v);
    return _mm256_set1_epi32(v);
}
ALWAYS_INLINE vflt broadcast_f(const void *p)
{
    return as_floats(broadcast4(p));
}

/* The first n rows, n > 0; all when there are more. */
ALWAYS_INLINE void store_rows(float *y, vflt v, size_t n)
{
    if (n >= LANES)
        _mm256_storeu_ps(y, v);
    else
        _mm256_maskstore_ps(y, first_lanes(n), v);
}
ALWAYS_INLINE vflt load_rows(const float *y, size_t n)
{
    return n >= LANES ? _mm256_loadu_ps(y) : _mm256_maskload_ps(y, first_lanes(n));
}

#endif

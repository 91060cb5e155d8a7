/* unpack_avx2.h: a unit of an r8 strip (r8.h) in registers. Private to the kernels of 256 bits.
 *
 * 32 k of eight rows become registers that each hold 4 consecutive k of every row and meet a broadcast of the 4
 * activation bytes:
 *
 *   unit    [AT_D]             scale of each row, all factors multiplied in
 *           [AT_M]             what multiplies the activations' sum: minimum of each row (Q2_K: its dmin)
 *           [AT_W + g]         g = 0..7: bytes of k = 4g .. 4g+3, unsigned, zero point left in
 *           [AT_W + 8 + g]     only for types with 8-bit values v: low nibbles of v + 128; AT_W + g has the high ones
 *           [AT_SCALE + h]     h = 0, 1: integer scale of each 16 values, twice per row as int16
 *           [AT_SCALES]        both of them times -zero point as a pair of int16; [AT_MINS] a pair, the minimums of Q2_K
 *
 * An unpack function takes a pointer to the r8 unit of a block of the type and which 32 k of it are wanted (j: 0 for
 * blocks of 32, 0..7 for those of 256).
 */
#ifndef HEARTH_UNPACK_AVX2_H
#define HEARTH_UNPACK_AVX2_H

#include "avx2.h"
#include "blocks.h"

enum { AT_D = 0, AT_M = 1, AT_W = 2, AT_SCALE = 10, AT_SCALES = 12, AT_MINS = 13 };

ALWAYS_INLINE __m256i load32(const uint8_t *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}

/* Eight fp16, one per row. */
ALWAYS_INLINE __m256 halves(const uint8_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}

/* Eight bytes, one per row. */
ALWAYS_INLINE __m256i bytes8(const uint8_t *p)
{
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
}

ALWAYS_INLINE __m256i low_nibbles(__m256i v)
{
    return _mm256_and_si256(v, _mm256_set1_epi8(15));
}

ALWAYS_INLINE __m256i high_nibbles(__m256i v)
{
    return low_nibbles(_mm256_srli_epi16(v, 4));
}

ALWAYS_INLINE __m256i as_int(__m256 v)
{
    return _mm256_castps_si256(v);
}

ALWAYS_INLINE __m256 negate(__m256 v)
{
    return _mm256_xor_ps(v, _mm256_set1_ps(-0.0f));
}

/* ---- the planes of 32 k ---- */

ALWAYS_INLINE void unpack_nibbles(__m256i *w, const uint8_t *p)
{
    UNROLL
    for (size_t g = 0; g < 4; g++) {
        __m256i t = load32(p + 32 * g);
        w[g] = low_nibbles(t);
        w[g + 4] = high_nibbles(t);
    }
}

/* Bit g of every byte of the plane, as 1 << at, into register g. */
ALWAYS_INLINE void add_one_bit(__m256i *w, const uint8_t *p, int at)
{
    const __m256i t = load32(p), mask = _mm256_set1_epi8((char)(1 << at));
    UNROLL
    for (int g = 0; g < 8; g++) {
        __m256i bit = g <= at ? _mm256_slli_epi16(t, at - g) : _mm256_srli_epi16(t, g - at);
        w[g] = _mm256_or_si256(w[g], _mm256_and_si256(bit, mask));
    }
}

ALWAYS_INLINE void unpack_two_bits(__m256i *w, const uint8_t *p)
{
    const __m256i three = _mm256_set1_epi8(3);
    UNROLL
    for (int g = 0; g < 8; g++)
        w[g] = _mm256_and_si256(_mm256_srli_epi16(load32(p + 32 * (g / 4)), 2 * (g % 4)), three);
}

/* The same as bits 4 and 5. */
ALWAYS_INLINE void add_two_bits(__m256i *w, const uint8_t *p)
{
    const __m256i mask = _mm256_set1_epi8(0x30);
    UNROLL
    for (int g = 0; g < 8; g++) {
        __m256i t = load32(p + 32 * (g / 4));
        t = g % 4 < 2 ? _mm256_slli_epi16(t, 4 - 2 * (g % 4)) : _mm256_srli_epi16(t, 2 * (g % 4) - 4);
        w[g] = _mm256_or_si256(w[g], _mm256_and_si256(t, mask));
    }
}

/* The two six-bit numbers of sub-block j, eight rows. */
ALWAYS_INLINE void six_bits(__m256i *a, __m256i *b, const uint8_t *p, size_t j)
{
    const __m256i low = bytes8(p + 8 * j), high = _mm256_srli_epi32(bytes8(p + 64 + 8 * (j / 2)), 4 * (int)(j % 2));
    const __m256i top = _mm256_set1_epi32(0x30);
    *a = _mm256_or_si256(low_nibbles(low), _mm256_and_si256(_mm256_slli_epi32(high, 4), top));
    *b = _mm256_or_si256(_mm256_srli_epi32(low, 4), _mm256_and_si256(_mm256_slli_epi32(high, 2), top));
}

/* Two numbers of each row as a pair of int16. */
ALWAYS_INLINE __m256i pair_of(__m256i first, __m256i second)
{
    return _mm256_blend_epi16(first, _mm256_slli_epi32(second, 16), 0xaa);
}

/* Integer scales of the two halves of 32 values; the zero point is 1 << zero_shift. */
ALWAYS_INLINE void put_scales(__m256i *u, __m256i first, __m256i second, int zero_shift)
{
    u[AT_SCALE] = pair_of(first, first);
    u[AT_SCALE + 1] = pair_of(second, second);
    u[AT_SCALES] = _mm256_sub_epi16(_mm256_setzero_si256(), _mm256_slli_epi16(pair_of(first, second), zero_shift));
}

/* ---- blocks of 32 ---- */

ALWAYS_INLINE void unpack_q4_0(__m256i *u, const uint8_t *p, size_t j)
{
    (void)j;
    u[AT_D] = as_int(halves(p));
    unpack_nibbles(u + AT_W, p + 16);
}

ALWAYS_INLINE void unpack_q4_1(__m256i *u, const uint8_t *p, size_t j)
{
    (void)j;
    u[AT_D] = as_int(halves(p));
    u[AT_M] = as_int(halves(p + 16));
    unpack_nibbles(u + AT_W, p + 32);
}

ALWAYS_INLINE void unpack_q5_0(__m256i *u, const uint8_t *p, size_t j)
{
    (void)j;
    u[AT_D] = as_int(halves(p));
    unpack_nibbles(u + AT_W, p + 16);
    add_one_bit(u + AT_W, p + 144, 4);
}

ALWAYS_INLINE void unpack_q5_1(__m256i *u, const uint8_t *p, size_t j)
{
    (void)j;
    u[AT_D] = as_int(halves(p));
    u[AT_M] = as_int(halves(p + 16));
    unpack_nibbles(u + AT_W, p + 32);
    add_one_bit(u + AT_W, p + 160, 4);
}

/* Q8_0 as it is, for one column. */
ALWAYS_INLINE void unpack_q8_0_signed(__m256i *u, const uint8_t *p, size_t j)
{
    (void)j;
    u[AT_D] = as_int(halves(p));
    UNROLL
    for (size_t g = 0; g < 8; g++)
        u[AT_W + g] = load32(p + 16 + 32 * g);
}

/* Q8_0 as v + 128 = 16 high + low, for many. */
ALWAYS_INLINE void unpack_q8_0(__m256i *u, const uint8_t *p, size_t j)
{
    (void)j;
    u[AT_D] = as_int(halves(p));
    UNROLL
    for (size_t g = 0; g < 8; g++) {
        __m256i v = _mm256_xor_si256(load32(p + 16 + 32 * g), _mm256_set1_epi8(-128));
        u[AT_W + g] = high_nibbles(v);
        u[AT_W + 8 + g] = low_nibbles(v);
    }
}

/* Table entry + 128, its high and its low nibble. */
ALWAYS_INLINE void unpack_table(__m256i *w, const uint8_t *p)
{
    const __m256i table = _mm256_xor_si256(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)iq4_table)),
                                           _mm256_set1_epi8(-128));
    const __m256i high = high_nibbles(table), low = low_nibbles(table);
    unpack_nibbles(w, p);
    UNROLL
    for (size_t g = 0; g < 8; g++) {
        w[g + 8] = _mm256_shuffle_epi8(low, w[g]);
        w[g] = _mm256_shuffle_epi8(high, w[g]);
    }
}

ALWAYS_INLINE void unpack_iq4_nl(__m256i *u, const uint8_t *p, size_t j)
{
    (void)j;
    u[AT_D] = as_int(halves(p));
    unpack_table(u + AT_W, p + 16);
}

/* ---- blocks of 256: unit j of eight ---- */

ALWAYS_INLINE void unpack_iq4_xs(__m256i *u, const uint8_t *p, size_t j)
{
    __m256i s = low_nibbles(_mm256_srli_epi32(bytes8(p + 16 + 8 * (j / 2)), 4 * (int)(j % 2)));
    __m256i h = _mm256_and_si256(_mm256_srli_epi32(bytes8(p + 48 + 8 * (j / 4)), 2 * (int)(j % 4)), _mm256_set1_epi32(3));
    s = _mm256_sub_epi32(_mm256_or_si256(s, _mm256_slli_epi32(h, 4)), _mm256_set1_epi32(32));
    u[AT_D] = as_int(_mm256_mul_ps(halves(p), _mm256_cvtepi32_ps(s)));
    unpack_table(u + AT_W, p + 64 + 128 * j);
}

/* d * sc and -(dmin * mn) of Q4_K and Q5_K. */
ALWAYS_INLINE void unpack_k_scales(__m256i *u, const uint8_t *p, size_t j)
{
    __m256i sc, mn;
    six_bits(&sc, &mn, p + 32, j);
    u[AT_D] = as_int(_mm256_mul_ps(halves(p), _mm256_cvtepi32_ps(sc)));
    u[AT_M] = as_int(_mm256_mul_ps(negate(halves(p + 16)), _mm256_cvtepi32_ps(mn)));
}

ALWAYS_INLINE void unpack_q4_k(__m256i *u, const uint8_t *p, size_t j)
{
    unpack_k_scales(u, p, j);
    unpack_nibbles(u + AT_W, p + 128 + 128 * j);
}

ALWAYS_INLINE void unpack_q5_k(__m256i *u, const uint8_t *p, size_t j)
{
    unpack_k_scales(u, p, j);
    unpack_nibbles(u + AT_W, p + 128 + 160 * j);
    add_one_bit(u + AT_W, p + 128 + 160 * j + 128, 4);
}

ALWAYS_INLINE void unpack_q6_k(__m256i *u, const uint8_t *p, size_t j)
{
    const uint8_t *s = p + 16 + 16 * j, *part = p + 144 + 192 * j;
    u[AT_D] = as_int(halves(p));
    put_scales(u, _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)s)),
               _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(s + 8))), 5);
    unpack_nibbles(u + AT_W, part);
    add_two_bits(u + AT_W, part + 128);
}

ALWAYS_INLINE void unpack_q3_k(__m256i *u, const uint8_t *p, size_t j)
{
    const __m256i zero = _mm256_set1_epi32(32);
    const uint8_t *part = p + 112 + 96 * j;
    __m256i a, b;
    six_bits(&a, &b, p + 16, j);
    u[AT_D] = as_int(halves(p));
    put_scales(u, _mm256_sub_epi32(a, zero), _mm256_sub_epi32(b, zero), 2);
    unpack_two_bits(u + AT_W, part);
    add_one_bit(u + AT_W, part + 64, 2);
}

ALWAYS_INLINE void unpack_q2_k(__m256i *u, const uint8_t *p, size_t j)
{
    const __m256i a = bytes8(p + 32 + 16 * j), b = bytes8(p + 40 + 16 * j);
    u[AT_D] = as_int(halves(p));
    u[AT_M] = as_int(halves(p + 16));
    put_scales(u, low_nibbles(a), low_nibbles(b), 0);
    u[AT_MINS] = pair_of(_mm256_srli_epi32(a, 4), _mm256_srli_epi32(b, 4));
    unpack_two_bits(u + AT_W, p + 160 + 64 * j);
}

#endif

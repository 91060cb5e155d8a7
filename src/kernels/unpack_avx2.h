/* unpack_avx2.h: eight rows of stored weights, turned so that a register holds all eight. Private to matmul_avx2.c.
 *
 * A matrix product wants lanes that are rows (kernels.h), but GGUF stores rows one after the other. So 32 values of
 * eight rows become a *unit*: registers that each hold 4 consecutive bytes (4 consecutive k) of every row, which meet
 * a broadcast of the 4 activation bytes. 16 bytes of eight rows turn into four such registers with 4 loads, 4 merging
 * loads and 8 unpacks (turn16). It is the layout that the pack file will store; here it is made on the way.
 *
 *   unit    [AT_D]             scale of each row, all factors multiplied in
 *           [AT_M]             what multiplies the activations' sum: minimum of each row (Q2_K: its dmin)
 *           [AT_W + g]         g = 0..7: bytes of k = 4g .. 4g+3, unsigned, zero point left in
 *           [AT_W + 8 + g]     only for types with 8-bit values v: low nibbles of v + 128; AT_W + g has the high ones
 *           [AT_SCALE + h]     h = 0, 1: integer scale of each 16 values, twice per row as int16
 *           [AT_SCALES]        both of them as a pair of int16; [AT_MINS] likewise for the minimums of Q2_K
 *
 * An unpack function takes pointers to eight rows and the offset of a block, which all of them share (so the pointers
 * can stay in registers), and writes the units of the block: 1 for blocks of 32, 8 for blocks of 256. Rows that do not
 * exist repeat the last one; their results are dropped.
 */
#ifndef HEARTH_UNPACK_AVX2_H
#define HEARTH_UNPACK_AVX2_H

#include "avx2.h"
#include "blocks.h"

enum { AT_D = 0, AT_M = 1, AT_W = 2, AT_SCALE = 10, AT_SCALES = 12, AT_MINS = 13 };

ALWAYS_INLINE __m128i load16(const uint8_t *p)
{
    return _mm_loadu_si128((const __m128i *)p);
}

ALWAYS_INLINE __m256i load_two(const uint8_t *low, const uint8_t *high)
{
    return _mm256_inserti128_si256(_mm256_castsi128_si256(load16(low)), load16(high), 1);
}

/* 4 x 4 transpose of dwords in each half: x[r] has row r in the low half and r + 4 in the high one. */
ALWAYS_INLINE void turn(__m256i out[4], const __m256i x[4])
{
    __m256i a = _mm256_unpacklo_epi32(x[0], x[1]), b = _mm256_unpackhi_epi32(x[0], x[1]);
    __m256i c = _mm256_unpacklo_epi32(x[2], x[3]), d = _mm256_unpackhi_epi32(x[2], x[3]);
    out[0] = _mm256_unpacklo_epi64(a, c);
    out[1] = _mm256_unpackhi_epi64(a, c);
    out[2] = _mm256_unpacklo_epi64(b, d);
    out[3] = _mm256_unpackhi_epi64(b, d);
}

/* out[j]: bytes at + 4j .. at + 4j + 3 of the eight blocks. */
ALWAYS_INLINE void turn16(__m256i out[4], const uint8_t *const b[8], size_t at)
{
    __m256i x[4];
    UNROLL
    for (size_t r = 0; r < 4; r++)
        x[r] = load_two(b[r] + at, b[r + 4] + at);
    turn(out, x);
}

/* Eight dwords, one per row. */
ALWAYS_INLINE __m256i dwords(const uint8_t *const b[8], size_t at)
{
    return _mm256_setr_epi32((int)load_le32(b[0] + at), (int)load_le32(b[1] + at), (int)load_le32(b[2] + at),
                             (int)load_le32(b[3] + at), (int)load_le32(b[4] + at), (int)load_le32(b[5] + at),
                             (int)load_le32(b[6] + at), (int)load_le32(b[7] + at));
}

/* Eight fp16, one per row. */
ALWAYS_INLINE __m256 halves(const uint8_t *const b[8], size_t at)
{
    return _mm256_cvtph_ps(_mm_setr_epi16(
        (short)load_le16(b[0] + at), (short)load_le16(b[1] + at), (short)load_le16(b[2] + at),
        (short)load_le16(b[3] + at), (short)load_le16(b[4] + at), (short)load_le16(b[5] + at),
        (short)load_le16(b[6] + at), (short)load_le16(b[7] + at)));
}

/* The low and the high fp16 of eight dwords. */
ALWAYS_INLINE void two_halves(__m256 *low, __m256 *high, __m256i v)
{
    __m256i p = _mm256_packus_epi32(_mm256_and_si256(v, _mm256_set1_epi32(0xffff)), _mm256_srli_epi32(v, 16));
    p = _mm256_permute4x64_epi64(p, 0xd8);
    *low = _mm256_cvtph_ps(_mm256_castsi256_si128(p));
    *high = _mm256_cvtph_ps(_mm256_extracti128_si256(p, 1));
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

/* ---- blocks of 32 ---- */

ALWAYS_INLINE void unpack_nibbles(__m256i *w, const uint8_t *const b[8], size_t at)
{
    __m256i t[4];
    turn16(t, b, at);
    UNROLL
    for (size_t g = 0; g < 4; g++) {
        w[g] = low_nibbles(t[g]);
        w[g + 4] = high_nibbles(t[g]);
    }
}

/* Adds 16 where the bit of the value is set: bit i of the 32-bit number of the row. */
ALWAYS_INLINE void add_fifth_bits(__m256i *w, __m256i bits)
{
    const __m256i repeat = _mm256_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12, 0, 0, 0, 0, 4, 4, 4, 4,
                                            8, 8, 8, 8, 12, 12, 12, 12);
    UNROLL
    for (int g = 0; g < 8; g++) {
        __m256i one = _mm256_set1_epi32(g % 2 ? (int)0x80402010u : 0x08040201);
        __m256i t = _mm256_shuffle_epi8(bits, _mm256_add_epi8(repeat, _mm256_set1_epi8((char)(g / 2))));
        t = _mm256_cmpeq_epi8(_mm256_and_si256(t, one), one);
        w[g] = _mm256_or_si256(w[g], _mm256_and_si256(t, _mm256_set1_epi8(16)));
    }
}

ALWAYS_INLINE void unpack_q4_0(__m256i *u, const uint8_t *const b[8], size_t o)
{
    u[AT_D] = as_int(halves(b, o));
    unpack_nibbles(u + AT_W, b, o + 2);
}

ALWAYS_INLINE void unpack_q4_1(__m256i *u, const uint8_t *const b[8], size_t o)
{
    __m256 d, m;
    two_halves(&d, &m, dwords(b, o));
    u[AT_D] = as_int(d);
    u[AT_M] = as_int(m);
    unpack_nibbles(u + AT_W, b, o + 4);
}

ALWAYS_INLINE void unpack_q5_0(__m256i *u, const uint8_t *const b[8], size_t o)
{
    u[AT_D] = as_int(halves(b, o));
    unpack_nibbles(u + AT_W, b, o + 6);
    add_fifth_bits(u + AT_W, dwords(b, o + 2));
}

ALWAYS_INLINE void unpack_q5_1(__m256i *u, const uint8_t *const b[8], size_t o)
{
    __m256 d, m;
    two_halves(&d, &m, dwords(b, o));
    u[AT_D] = as_int(d);
    u[AT_M] = as_int(m);
    unpack_nibbles(u + AT_W, b, o + 8);
    add_fifth_bits(u + AT_W, dwords(b, o + 4));
}

/* Q8_0 as it is, for one column. */
ALWAYS_INLINE void unpack_q8_0_signed(__m256i *u, const uint8_t *const b[8], size_t o)
{
    u[AT_D] = as_int(halves(b, o));
    turn16(u + AT_W, b, o + 2);
    turn16(u + AT_W + 4, b, o + 18);
}

/* Q8_0 as v + 128 = 16 high + low, for many. */
ALWAYS_INLINE void unpack_q8_0(__m256i *u, const uint8_t *const b[8], size_t o)
{
    unpack_q8_0_signed(u, b, o);
    UNROLL
    for (size_t g = 0; g < 8; g++) {
        __m256i v = _mm256_xor_si256(u[AT_W + g], _mm256_set1_epi8(-128));
        u[AT_W + g] = high_nibbles(v);
        u[AT_W + 8 + g] = low_nibbles(v);
    }
}

/* Table entry + 128, its high and its low nibble. */
ALWAYS_INLINE void unpack_table(__m256i *w, const uint8_t *const b[8], size_t at)
{
    const __m256i table = _mm256_xor_si256(_mm256_broadcastsi128_si256(load16((const uint8_t *)iq4_table)),
                                           _mm256_set1_epi8(-128));
    const __m256i high = high_nibbles(table), low = low_nibbles(table);
    unpack_nibbles(w, b, at);
    UNROLL
    for (size_t g = 0; g < 8; g++) {
        w[g + 8] = _mm256_shuffle_epi8(low, w[g]);
        w[g] = _mm256_shuffle_epi8(high, w[g]);
    }
}

ALWAYS_INLINE void unpack_iq4_nl(__m256i *u, const uint8_t *const b[8], size_t o)
{
    u[AT_D] = as_int(halves(b, o));
    unpack_table(u + AT_W, b, o + 2);
}

/* ---- blocks of 256: eight units, `size` registers apart ---- */

ALWAYS_INLINE void unpack_iq4_xs(__m256i *u, const uint8_t *const b[8], size_t o, size_t size)
{
    __m256 d, unused;
    const __m256i first = dwords(b, o), low = dwords(b, o + 4); /* d and the high bits of the scales; their low bits */
    two_halves(&d, &unused, first);
    UNROLL
    for (int j = 0; j < 8; j++) {
        __m256i s = _mm256_and_si256(_mm256_srli_epi32(low, 4 * j), _mm256_set1_epi32(15));
        __m256i h = _mm256_and_si256(_mm256_srli_epi32(first, 16 + 2 * j), _mm256_set1_epi32(3));
        s = _mm256_sub_epi32(_mm256_or_si256(s, _mm256_slli_epi32(h, 4)), _mm256_set1_epi32(32));
        u[(size_t)j * size + AT_D] = as_int(_mm256_mul_ps(d, _mm256_cvtepi32_ps(s)));
    }
    for (size_t j = 0; j < 8; j++)
        unpack_table(u + j * size + AT_W, b, o + 8 + 16 * j);
}

/* The head of Q4_K and Q5_K, 16 bytes: d, dmin and the packed 6-bit scales and minimums (k_scale_min). */
ALWAYS_INLINE void unpack_k_scales(__m256i *u, const uint8_t *const b[8], size_t o, size_t size)
{
    const __m256i six = _mm256_set1_epi8(63), top = _mm256_set1_epi8(0x30);
    __m256i t[4], sc[2], mn[2];
    __m256 d, dmin;
    turn16(t, b, o);
    two_halves(&d, &dmin, t[0]);
    dmin = negate(dmin);
    sc[0] = _mm256_and_si256(t[1], six);
    mn[0] = _mm256_and_si256(t[2], six);
    sc[1] = _mm256_or_si256(low_nibbles(t[3]), _mm256_and_si256(_mm256_srli_epi16(t[1], 2), top));
    mn[1] = _mm256_or_si256(high_nibbles(t[3]), _mm256_and_si256(_mm256_srli_epi16(t[2], 2), top));
    UNROLL
    for (int j = 0; j < 8; j++) {
        const __m256i byte = _mm256_set1_epi32(255);
        __m256i s = _mm256_and_si256(_mm256_srli_epi32(sc[j / 4], 8 * (j % 4)), byte);
        __m256i m = _mm256_and_si256(_mm256_srli_epi32(mn[j / 4], 8 * (j % 4)), byte);
        u[(size_t)j * size + AT_D] = as_int(_mm256_mul_ps(d, _mm256_cvtepi32_ps(s)));
        u[(size_t)j * size + AT_M] = as_int(_mm256_mul_ps(dmin, _mm256_cvtepi32_ps(m)));
    }
}

/* 16 bytes from `at` hold four groups of sub-block j in the low nibbles and of j + 1 in the high ones. */
ALWAYS_INLINE void unpack_q4_k(__m256i *u, const uint8_t *const b[8], size_t o, size_t size)
{
    unpack_k_scales(u, b, o, size);
    for (size_t i = 0; i < 8; i++) {
        __m256i t[4], *w = u + i / 2 * 2 * size + AT_W + i % 2 * 4;
        turn16(t, b, o + 16 + 16 * i);
        UNROLL
        for (size_t g = 0; g < 4; g++) {
            w[g] = low_nibbles(t[g]);
            w[size + g] = high_nibbles(t[g]);
        }
    }
}

/* Bit j of every byte, as 16. */
ALWAYS_INLINE __m256i bit_to_16(__m256i v, int j)
{
    v = _mm256_and_si256(v, _mm256_set1_epi8((char)(1 << j)));
    return j < 4 ? _mm256_slli_epi16(v, 4 - j) : _mm256_srli_epi16(v, j - 4);
}

ALWAYS_INLINE void unpack_q5_k(__m256i *u, const uint8_t *const b[8], size_t o, size_t size)
{
    unpack_k_scales(u, b, o, size);
    for (size_t half = 0; half < 2; half++) {
        __m256i h[4], t[4];
        turn16(h, b, o + 16 + 16 * half);
        UNROLL
        for (int i = 0; i < 4; i++) {
            __m256i *w = u + (size_t)i * 2 * size + AT_W + half * 4;
            turn16(t, b, o + 48 + 32 * (size_t)i + 16 * half);
            UNROLL
            for (size_t g = 0; g < 4; g++) {
                w[g] = _mm256_or_si256(low_nibbles(t[g]), bit_to_16(h[g], 2 * i));
                w[size + g] = _mm256_or_si256(high_nibbles(t[g]), bit_to_16(h[g], 2 * i + 1));
            }
        }
    }
}

/* From scale bytes 2j and 2j + 1 of each row (bytes `low`, `low` + 1 of v, signed): the pair as int16. */
ALWAYS_INLINE __m256i pair_of(__m256i v, int low, int high)
{
    const int z = 0x80;
    const int d = z | low << 8 | z << 16 | (int)((unsigned)high << 24);
    const __m256i rows = _mm256_setr_epi32(0, 0x04000400, 0x08000800, 0x0c000c00, 0, 0x04000400, 0x08000800, 0x0c000c00);
    return _mm256_srai_epi16(_mm256_shuffle_epi8(v, _mm256_add_epi8(rows, _mm256_set1_epi32(d))), 8);
}

/* The scales of units 2i and 2i + 1 from four signed bytes per row. */
ALWAYS_INLINE void put_scales(__m256i *u, __m256i v, size_t size)
{
    u[AT_SCALE] = pair_of(v, 0, 0);
    u[AT_SCALE + 1] = pair_of(v, 1, 1);
    u[AT_SCALES] = pair_of(v, 0, 1);
    u[size + AT_SCALE] = pair_of(v, 2, 2);
    u[size + AT_SCALE + 1] = pair_of(v, 3, 3);
    u[size + AT_SCALES] = pair_of(v, 2, 3);
}

ALWAYS_INLINE void unpack_q6_k(__m256i *u, const uint8_t *const b[8], size_t o, size_t size)
{
    const __m256 d = halves(b, o + 208);
    const __m256i two = _mm256_set1_epi8(0x30);
    __m256i s[4];
    turn16(s, b, o + 192);
    UNROLL
    for (size_t i = 0; i < 4; i++)
        put_scales(u + 2 * i * size, s[i], size);
    for (size_t j = 0; j < 8; j++)
        u[j * size + AT_D] = as_int(d);
    for (size_t i = 0; i < 4; i++) { /* 128 values in two parts of 16 bytes, twice */
        __m256i low[4], next[4], h[4], *w = u + i / 2 * 4 * size + AT_W + i % 2 * 4;
        turn16(low, b, o + i / 2 * 64 + i % 2 * 16);
        turn16(next, b, o + i / 2 * 64 + 32 + i % 2 * 16);
        turn16(h, b, o + 128 + i * 16);
        UNROLL
        for (size_t g = 0; g < 4; g++) {
            w[g] = _mm256_or_si256(low_nibbles(low[g]), _mm256_and_si256(_mm256_slli_epi16(h[g], 4), two));
            w[size + g] = _mm256_or_si256(low_nibbles(next[g]), _mm256_and_si256(_mm256_slli_epi16(h[g], 2), two));
            w[2 * size + g] = _mm256_or_si256(high_nibbles(low[g]), _mm256_and_si256(h[g], two));
            w[3 * size + g] =
                _mm256_or_si256(high_nibbles(next[g]), _mm256_and_si256(_mm256_srli_epi16(h[g], 2), two));
        }
    }
}

/* Two bits of each value: 16 bytes hold four groups of four units. */
ALWAYS_INLINE void unpack_two_bits(__m256i *w, const __m256i t[4], size_t size)
{
    const __m256i three = _mm256_set1_epi8(3);
    UNROLL
    for (size_t g = 0; g < 4; g++) {
        w[g] = _mm256_and_si256(t[g], three);
        w[size + g] = _mm256_and_si256(_mm256_srli_epi16(t[g], 2), three);
        w[2 * size + g] = _mm256_and_si256(_mm256_srli_epi16(t[g], 4), three);
        w[3 * size + g] = _mm256_and_si256(_mm256_srli_epi16(t[g], 6), three);
    }
}

ALWAYS_INLINE void unpack_q2_k(__m256i *u, const uint8_t *const b[8], size_t o, size_t size)
{
    __m256i s[4], t[4];
    __m256 d, dmin;
    two_halves(&d, &dmin, dwords(b, o + 80));
    for (size_t j = 0; j < 8; j++) {
        u[j * size + AT_D] = as_int(d);
        u[j * size + AT_M] = as_int(dmin);
    }
    turn16(s, b, o);
    UNROLL
    for (size_t i = 0; i < 4; i++) {
        __m256i m = high_nibbles(s[i]);
        put_scales(u + 2 * i * size, low_nibbles(s[i]), size);
        u[2 * i * size + AT_MINS] = pair_of(m, 0, 1);
        u[(2 * i + 1) * size + AT_MINS] = pair_of(m, 2, 3);
    }
    for (size_t i = 0; i < 4; i++) {
        turn16(t, b, o + 16 + 16 * i);
        unpack_two_bits(u + i / 2 * 4 * size + AT_W + i % 2 * 4, t, size);
    }
}

/* Scales of Q3_K: 12 bytes and d end the block, so they are read from 2 bytes before and moved down. */
ALWAYS_INLINE void unpack_q3_scales(__m256i *u, const uint8_t *const b[8], size_t o, size_t size)
{
    const __m256i three = _mm256_set1_epi8(0x30), zero = _mm256_set1_epi8(32);
    __m256i x[4], t[4];
    __m256 d, unused;
    UNROLL
    for (size_t r = 0; r < 4; r++)
        x[r] = _mm256_bsrli_epi128(load_two(b[r] + o + 94, b[r + 4] + o + 94), 2);
    turn(t, x);
    two_halves(&d, &unused, t[3]);
    for (size_t j = 0; j < 8; j++)
        u[j * size + AT_D] = as_int(d);
    UNROLL
    for (int i = 0; i < 4; i++) {
        __m256i high = i < 2 ? _mm256_slli_epi16(t[2], 4 - 2 * i) : _mm256_srli_epi16(t[2], 2 * i - 4);
        __m256i low = i < 2 ? low_nibbles(t[i]) : high_nibbles(t[i - 2]);
        __m256i s = _mm256_sub_epi8(_mm256_or_si256(low, _mm256_and_si256(high, three)), zero);
        put_scales(u + 2 * (size_t)i * size, s, size);
    }
}

ALWAYS_INLINE void unpack_q3_k(__m256i *u, const uint8_t *const b[8], size_t o, size_t size)
{
    unpack_q3_scales(u, b, o, size);
    for (size_t part = 0; part < 2; part++) {
        __m256i h[4], t[4];
        turn16(h, b, o + 16 * part);
        UNROLL
        for (size_t i = 0; i < 2; i++) {
            __m256i *w = u + i * 4 * size + AT_W + part * 4;
            turn16(t, b, o + 32 + 32 * i + 16 * part);
            unpack_two_bits(w, t, size);
            UNROLL
            for (size_t j = 0; j < 4; j++) {
                UNROLL
                for (size_t g = 0; g < 4; g++) { /* bit 4i + j, as 4 */
                    __m256i bit = _mm256_and_si256(h[g], _mm256_set1_epi8((char)(1 << (4 * i + j))));
                    const int up = 2 - (int)(4 * i + j);
                    bit = up >= 0 ? _mm256_slli_epi16(bit, up) : _mm256_srli_epi16(bit, -up);
                    w[j * size + g] = _mm256_or_si256(w[j * size + g], bit);
                }
            }
        }
    }
}

#endif

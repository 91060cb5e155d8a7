/* blocks.h: the block formats of GGUF, byte for byte. Private to src/kernels.
 *
 * A row of weights is a sequence of blocks of 32 or 256 values that share scales. Every field is bytes,
 * so that a block has alignment 1 and may lie anywhere in a mapped file; fp16 fields are two bytes, little
 * endian, read with load_half(). The layouts are those of GGUF v3; the value of element i:
 *
 *   Q4_0    d * (n - 8)                n: element i < 16 is the low nibble of qs[i], i >= 16 the high one
 *   Q4_1    d * n + m                  of qs[i - 16]
 *   Q5_0    d * (n - 16)               the same, plus 16 when bit i of the 32-bit number qh is set
 *   Q5_1    d * n + m
 *   Q8_0    d * qs[i]
 *   IQ4_NL  d * table[n]               nibbles as in Q4_0
 *   IQ4_XS  d * (ls - 32) * table[n]   ls: 6 bits per 32 values; sub-block j has nibbles in qs[16 j ..]
 *   Q4_K    d * sc * n - dmin * mn     6-bit sc, mn per 32 values (k_scale_min); 64 values share 32 bytes:
 *   Q5_K                               first 32 low nibbles, then high ones; Q5_K adds bit (i / 32) of qh[i % 32]
 *   Q6_K    d * sc * (n - 32)          8-bit sc per 16 values; 128 values: four groups of 32 take the low
 *                                      nibbles of ql[0..31], ql[32..63], the high nibbles of both; two more
 *                                      bits are bits 2g, 2g+1 of qh[0..31]
 *   Q2_K    d * sc * n - dmin * mn     sc low, mn high nibble of scales[i / 16]; 128 values: bits 2g of qs[0..31]
 *   Q3_K    d * (sc - 32) * (n - 4)    n: 2 bits as in Q2_K plus 4 if bit (i / 32) of hmask[i % 32]; sc: q3_scale
 */
#ifndef HEARTH_BLOCKS_H
#define HEARTH_BLOCKS_H

#include <string.h>

#include "kernels.h"

#define QK 32   /* values in a small block, and in an activation block */
#define QK_K 256 /* values in a k-quant block */

struct block_q4_0 { uint8_t d[2], qs[16]; };
struct block_q4_1 { uint8_t d[2], m[2], qs[16]; };
struct block_q5_0 { uint8_t d[2], qh[4], qs[16]; };
struct block_q5_1 { uint8_t d[2], m[2], qh[4], qs[16]; };
struct block_q8_0 { uint8_t d[2]; int8_t qs[32]; };
struct block_iq4_nl { uint8_t d[2], qs[16]; };
struct block_q2_k { uint8_t scales[16], qs[64], d[2], dmin[2]; };
struct block_q3_k { uint8_t hmask[32], qs[64], scales[12], d[2]; };
struct block_q4_k { uint8_t d[2], dmin[2], scales[12], qs[128]; };
struct block_q5_k { uint8_t d[2], dmin[2], scales[12], qh[32], qs[128]; };
struct block_q6_k { uint8_t ql[128], qh[64]; int8_t scales[16]; uint8_t d[2]; };
struct block_iq4_xs { uint8_t d[2], scales_h[2], scales_l[4], qs[128]; };

_Static_assert(sizeof(struct block_q4_0) == 18 && _Alignof(struct block_q4_0) == 1, "Q4_0");
_Static_assert(sizeof(struct block_q4_1) == 20, "Q4_1");
_Static_assert(sizeof(struct block_q5_0) == 22, "Q5_0");
_Static_assert(sizeof(struct block_q5_1) == 24, "Q5_1");
_Static_assert(sizeof(struct block_q8_0) == 34, "Q8_0");
_Static_assert(sizeof(struct block_iq4_nl) == 18, "IQ4_NL");
_Static_assert(sizeof(struct block_q2_k) == 84, "Q2_K");
_Static_assert(sizeof(struct block_q3_k) == 110, "Q3_K");
_Static_assert(sizeof(struct block_q4_k) == 144, "Q4_K");
_Static_assert(sizeof(struct block_q5_k) == 176, "Q5_K");
_Static_assert(sizeof(struct block_q6_k) == 210, "Q6_K");
_Static_assert(sizeof(struct block_iq4_xs) == 136, "IQ4_XS");

/* The sixteen values of IQ4_NL and IQ4_XS. */
static const int8_t iq4_table[16] = { -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113 };

static inline float load_half(const uint8_t *p)
{
    return half_to_float(load_le16(p));
}
static inline void store_half(uint8_t *p, float f)
{
    uint16_t h = float_to_half(f);
    p[0] = (uint8_t)(h & 255);
    p[1] = (uint8_t)(h >> 8);
}

/* Q4_K, Q5_K: eight 6-bit scales and eight 6-bit minimums in 12 bytes. For j < 4 they are the low six bits of
 * s[j] and s[j + 4]; for j >= 4 the low four bits are a nibble of s[j + 4], the upper two the top bits of
 * s[j - 4] (scale) and s[j] (minimum). */
static inline void k_scale_min(uint8_t *sc, uint8_t *mn, const uint8_t s[12], size_t j)
{
    if (j < 4) {
        *sc = s[j] & 63;
        *mn = s[j + 4] & 63;
    } else {
        *sc = (uint8_t)((s[j + 4] & 15) | (s[j - 4] >> 6) << 4);
        *mn = (uint8_t)((s[j + 4] >> 4) | (s[j] >> 6) << 4);
    }
}

/* Q3_K: scale j of sixteen, -32..31. The low four bits are the low (j < 8) or high nibble of s[j % 8], the upper
 * two bits 2 (j / 4) of s[8 + j % 4]. */
static inline int q3_scale(const uint8_t s[12], size_t j)
{
    unsigned low = j < 8 ? s[j] & 15u : (unsigned)s[j - 8] >> 4;
    unsigned high = (unsigned)s[8 + j % 4] >> (2 * (j / 4)) & 3u;
    return (int)(low | high << 4) - 32;
}

/* IQ4_XS: scale j of eight, -32..31. */
static inline int iq4_xs_scale(const struct block_iq4_xs *b, size_t j)
{
    unsigned low = (unsigned)b->scales_l[j / 2] >> (4 * (j % 2)) & 15u;
    unsigned high = (unsigned)load_le16(b->scales_h) >> (2 * j) & 3u;
    return (int)(low | high << 4) - 32;
}

#endif

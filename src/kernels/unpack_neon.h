/* unpack_neon.h: 32 k of an r8 strip (r8.h) in registers. Private to the NEON products.
 *
 * A group of the strip, 4 consecutive k of eight rows, is two registers: rows 0-3 and rows 4-7, a row in each 32-bit
 * lane. So a unit of 32 k is sixteen registers of weights and what stands beside them:
 *
 *   w[2 g + v]    g = 0..7, v = 0, 1: bytes of k = 4g .. 4g+3 of rows 4v .. 4v+3, the zero point left in
 *   d[v]          scale of each row, all float factors multiplied in
 *   m[v]          what multiplies the activations' sum: minimum of each row (Q2_K: its dmin)
 *   sc[h][v]      h = 0, 1: integer scale of each 16 values (Q6_K, Q3_K, Q2_K)
 *   mn[h][v]      integer minimum of each 16 values (Q2_K)
 *
 * An unpack function takes a pointer to a unit of r8.h, that is a block of the type of eight rows, and the number j of
 * the 32 values within it (0 for blocks of 32), and fills what its type has. All of them are inlined, so that a product
 * with one column keeps everything in registers, and j's parity is known where the caller takes two at a time.
 *
 * Small scales become floats without a conversion, which is slow on many cores: the bytes 00 4b behind a number n < 2^16
 * make it the float 2^23 + n, and a subtraction takes 2^23 off exactly.
 */
#ifndef HEARTH_UNPACK_NEON_H
#define HEARTH_UNPACK_NEON_H

#include "blocks.h"
#include "neon.h"

struct unit {
    uint8x16_t w[16];
    float32x4_t d[2], m[2];
    int32x4_t sc[2][2];
    int16x4_t mn[2][2];
};

/* Eight fp16, one per row. */
ALWAYS_INLINE void halves(float32x4_t out[2], const uint8_t *p)
{
    const float16x8_t h = vreinterpretq_f16_u8(vld1q_u8(p));
    out[0] = vcvt_f32_f16(vget_low_f16(h));
    out[1] = vcvt_high_f32_f16(h);
}

/* factor * (b - bias) of eight bytes, one per row. */
ALWAYS_INLINE void times_bytes(float32x4_t out[2], const float32x4_t factor[2], uint8x8_t b, float bias)
{
    const uint16x8_t t = vmovl_u8(b), top = vdupq_n_u16(0x4b00);
    const float32x4_t off = vdupq_n_f32(0x1p23f + bias);
    out[0] = vmulq_f32(factor[0], vsubq_f32(vreinterpretq_f32_u16(vzip1q_u16(t, top)), off));
    out[1] = vmulq_f32(factor[1], vsubq_f32(vreinterpretq_f32_u16(vzip2q_u16(t, top)), off));
}

ALWAYS_INLINE void put_scales(struct unit *u, int8x8_t first, int8x8_t second)
{
    const int16x8_t a = vmovl_s8(first), b = vmovl_s8(second);
    u->sc[0][0] = vmovl_s16(vget_low_s16(a));
    u->sc[0][1] = vmovl_high_s16(a);
    u->sc[1][0] = vmovl_s16(vget_low_s16(b));
    u->sc[1][1] = vmovl_high_s16(b);
}

/* ---- the planes of 32 k ---- */

ALWAYS_INLINE void unpack_nibbles(uint8x16_t w[16], const uint8_t *p)
{
    UNROLL
    for (size_t i = 0; i < 8; i++) {
        const uint8x16_t t = vld1q_u8(p + 16 * i);
        w[i] = vandq_u8(t, vdupq_n_u8(15));
        w[i + 8] = vshrq_n_u8(t, 4);
    }
}

ALWAYS_INLINE uint8x16_t masked(uint8x16_t v, uint8_t mask)
{
    return vandq_u8(v, vdupq_n_u8(mask));
}

/* Bits 4..7 of t, moved to bit 4 and to bit 2, of four groups: w[0], w[2], w[4], w[6]. */
ALWAYS_INLINE void add_bit_4(uint8x16_t *w, uint8x16_t t)
{
    w[0] = vorrq_u8(w[0], masked(t, 16));
    w[2] = vsraq_n_u8(w[2], masked(t, 32), 1);
    w[4] = vsraq_n_u8(w[4], masked(t, 64), 2);
    w[6] = vsraq_n_u8(w[6], masked(t, 128), 3);
}
ALWAYS_INLINE void add_bit_2(uint8x16_t *w, uint8x16_t t)
{
    w[0] = vsraq_n_u8(w[0], masked(t, 16), 2);
    w[2] = vsraq_n_u8(w[2], masked(t, 32), 3);
    w[4] = vsraq_n_u8(w[4], masked(t, 64), 4);
    w[6] = vsraq_n_u8(w[6], masked(t, 128), 5);
}

/* The plane of one bit, as 16 and as 4. */
ALWAYS_INLINE void add_sixteens(uint8x16_t w[16], const uint8_t *p)
{
    UNROLL
    for (size_t v = 0; v < 2; v++) {
        const uint8x16_t t = vld1q_u8(p + 16 * v);
        add_bit_4(w + v, vshlq_n_u8(t, 4));
        add_bit_4(w + 8 + v, t);
    }
}
ALWAYS_INLINE void add_fours(uint8x16_t w[16], const uint8_t *p)
{
    UNROLL
    for (size_t v = 0; v < 2; v++) {
        const uint8x16_t t = vld1q_u8(p + 16 * v);
        add_bit_2(w + v, vshlq_n_u8(t, 4));
        add_bit_2(w + 8 + v, t);
    }
}

ALWAYS_INLINE void unpack_two_bits(uint8x16_t w[16], const uint8_t *p)
{
    UNROLL
    for (size_t i = 0; i < 4; i++) { /* plane i / 2, rows of i % 2 */
        const uint8x16_t t = vld1q_u8(p + 16 * i);
        uint8x16_t *out = w + i / 2 * 8 + i % 2;
        out[0] = masked(t, 3);
        out[2] = masked(vshrq_n_u8(t, 2), 3);
        out[4] = masked(vshrq_n_u8(t, 4), 3);
        out[6] = vshrq_n_u8(t, 6);
    }
}

/* The same planes as bits 4 and 5. */
ALWAYS_INLINE void add_two_bits(uint8x16_t w[16], const uint8_t *p)
{
    UNROLL
    for (size_t i = 0; i < 4; i++) {
        const uint8x16_t t = vld1q_u8(p + 16 * i), up = vshlq_n_u8(t, 4);
        uint8x16_t *out = w + i / 2 * 8 + i % 2;
        out[0] = vorrq_u8(out[0], masked(up, 0x30));
        out[2] = vsraq_n_u8(out[2], masked(up, 0xc0), 2);
        out[4] = vorrq_u8(out[4], masked(t, 0x30));
        out[6] = vsraq_n_u8(out[6], masked(t, 0xc0), 2);
    }
}

/* The two six-bit numbers of sub-block j, a byte per row. */
ALWAYS_INLINE void six_bits(uint8x8_t *a, uint8x8_t *b, const uint8_t *p, size_t j)
{
    const uint8x8_t low = vld1_u8(p + 8 * j), mask = vdup_n_u8(63);
    uint8x8_t high = vld1_u8(p + 64 + 8 * (j / 2));
    if (j % 2)
        high = vshr_n_u8(high, 4);
    *a = vand_u8(vsli_n_u8(low, high, 4), mask);
    *b = vand_u8(vsli_n_u8(vshr_n_u8(low, 4), vshr_n_u8(high, 2), 4), mask);
}

ALWAYS_INLINE void unpack_table(uint8x16_t w[16], const uint8_t *p)
{
    const int8x16_t table = vld1q_s8(iq4_table);
    unpack_nibbles(w, p);
    UNROLL
    for (size_t i = 0; i < 16; i++)
        w[i] = vreinterpretq_u8_s8(vqtbl1q_s8(table, w[i]));
}

/* ---- blocks of 32: j is 0 ---- */

ALWAYS_INLINE void unpack_q4_0(struct unit *u, const uint8_t *p, size_t j)
{
    (void)j;
    halves(u->d, p);
    unpack_nibbles(u->w, p + 16);
}

ALWAYS_INLINE void unpack_q4_1(struct unit *u, const uint8_t *p, size_t j)
{
    (void)j;
    halves(u->d, p);
    halves(u->m, p + 16);
    unpack_nibbles(u->w, p + 32);
}

ALWAYS_INLINE void unpack_q5_0(struct unit *u, const uint8_t *p, size_t j)
{
    (void)j;
    halves(u->d, p);
    unpack_nibbles(u->w, p + 16);
    add_sixteens(u->w, p + 144);
}

ALWAYS_INLINE void unpack_q5_1(struct unit *u, const uint8_t *p, size_t j)
{
    (void)j;
    halves(u->d, p);
    halves(u->m, p + 16);
    unpack_nibbles(u->w, p + 32);
    add_sixteens(u->w, p + 160);
}

ALWAYS_INLINE void unpack_q8_0(struct unit *u, const uint8_t *p, size_t j)
{
    (void)j;
    halves(u->d, p);
    UNROLL
    for (size_t i = 0; i < 16; i++)
        u->w[i] = vld1q_u8(p + 16 + 16 * i);
}

ALWAYS_INLINE void unpack_iq4_nl(struct unit *u, const uint8_t *p, size_t j)
{
    (void)j;
    halves(u->d, p);
    unpack_table(u->w, p + 16);
}

/* ---- blocks of 256: j = 0..7 ---- */

ALWAYS_INLINE void unpack_iq4_xs(struct unit *u, const uint8_t *p, size_t j)
{
    float32x4_t d[2];
    uint8x8_t low = vld1_u8(p + 16 + 8 * (j / 2)), high = vld1_u8(p + 48 + 8 * (j / 4));
    halves(d, p);
    low = j % 2 ? vshr_n_u8(low, 4) : vand_u8(low, vdup_n_u8(15));
    high = vand_u8(vshl_u8(high, vdup_n_s8((int8_t)(-2 * (int)(j % 4)))), vdup_n_u8(3));
    times_bytes(u->d, d, vsli_n_u8(low, high, 4), 32);
    unpack_table(u->w, p + 64 + 128 * j);
}

/* d * sc and -(dmin * mn) of sub-block j of Q4_K and Q5_K. */
ALWAYS_INLINE void unpack_k_scales(struct unit *u, const uint8_t *p, size_t j)
{
    float32x4_t d[2], dmin[2];
    uint8x8_t sc, mn;
    halves(d, p);
    halves(dmin, p + 16);
    dmin[0] = vnegq_f32(dmin[0]);
    dmin[1] = vnegq_f32(dmin[1]);
    six_bits(&sc, &mn, p + 32, j);
    times_bytes(u->d, d, sc, 0);
    times_bytes(u->m, dmin, mn, 0);
}

ALWAYS_INLINE void unpack_q4_k(struct unit *u, const uint8_t *p, size_t j)
{
    unpack_k_scales(u, p, j);
    unpack_nibbles(u->w, p + 128 + 128 * j);
}

ALWAYS_INLINE void unpack_q5_k(struct unit *u, const uint8_t *p, size_t j)
{
    unpack_k_scales(u, p, j);
    unpack_nibbles(u->w, p + 128 + 160 * j);
    add_sixteens(u->w, p + 128 + 160 * j + 128);
}

ALWAYS_INLINE void unpack_q6_k(struct unit *u, const uint8_t *p, size_t j)
{
    const int8x16_t s = vreinterpretq_s8_u8(vld1q_u8(p + 16 + 16 * j));
    const uint8_t *part = p + 144 + 192 * j;
    halves(u->d, p);
    put_scales(u, vget_low_s8(s), vget_high_s8(s));
    unpack_nibbles(u->w, part);
    add_two_bits(u->w, part + 128);
}

ALWAYS_INLINE void unpack_q3_k(struct unit *u, const uint8_t *p, size_t j)
{
    const int8x8_t zero = vdup_n_s8(32);
    const uint8_t *part = p + 112 + 96 * j;
    uint8x8_t a, b;
    six_bits(&a, &b, p + 16, j);
    halves(u->d, p);
    put_scales(u, vsub_s8(vreinterpret_s8_u8(a), zero), vsub_s8(vreinterpret_s8_u8(b), zero));
    unpack_two_bits(u->w, part);
    add_fours(u->w, part + 64);
}

ALWAYS_INLINE void unpack_q2_k(struct unit *u, const uint8_t *p, size_t j)
{
    const uint8x16_t s = vld1q_u8(p + 32 + 16 * j), sc = vandq_u8(s, vdupq_n_u8(15)), mn = vshrq_n_u8(s, 4);
    const int16x8_t first = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(mn)));
    const int16x8_t second = vreinterpretq_s16_u16(vmovl_high_u8(mn));
    halves(u->d, p);
    halves(u->m, p + 16);
    put_scales(u, vreinterpret_s8_u8(vget_low_u8(sc)), vreinterpret_s8_u8(vget_high_u8(sc)));
    u->mn[0][0] = vget_low_s16(first);
    u->mn[0][1] = vget_high_s16(first);
    u->mn[1][0] = vget_low_s16(second);
    u->mn[1][1] = vget_high_s16(second);
    unpack_two_bits(u->w, p + 160 + 64 * j);
}

#endif

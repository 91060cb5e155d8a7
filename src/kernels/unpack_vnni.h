/* unpack_vnni.h: 32 k of an r8 strip (r8.h) in registers, for instructions that multiply bytes and add four products
 * to a 32-bit lane. Private; after vec256.h or vec512.h, which say how many rows a register has.
 *
 *   unit    [AT_W + g]         g = 0..7: bytes of k = 4g .. 4g+3, unsigned: value plus `zero` of the type's struct kind
 *           [AT_D]             what multiplies the integer sum of each row
 *           [AT_M]             what multiplies the activations' sum: minimum of each row (Q2_K: its dmin)
 *           [AT_MINS]          Q2_K: minimums of the two halves as a pair of int16
 *           [AT_PAIR]          Q6_K: -32 times the two integer scales as a pair of int16
 *           [AT_SCALE + h]     Q6_K: the integer scale of each half, as float
 *
 * An unpack function takes the r8 unit of a block and the number j of its 32 k (0 in blocks of 32).
 *
 * The small integer scales of Q2_K and Q3_K are multiplied into the weights, so that both halves share one sum: their
 * products fit a byte (Q2_K 3 * 15 = 45; Q3_K -124..128, with 127 added 3..255). Two bytes are multiplied at once as
 * one 16-bit number: each digit of the result fits its byte, so that no carry leaves it.
 */
#ifndef HEARTH_UNPACK_VNNI_H
#define HEARTH_UNPACK_VNNI_H

#include "blocks.h"

enum { AT_W = 0, AT_D = 8, AT_M = 9, AT_MINS = 10, AT_PAIR = 9, AT_SCALE = 10, UNIT_MAX = 12 };

ALWAYS_INLINE struct strips advance(struct strips s, size_t bytes)
{
    for (size_t i = 0; i < N_STRIPS; i++)
        s.p[i] += bytes;
    return s;
}

ALWAYS_INLINE vint low_nibbles(vint v)
{
    return and_bits(v, set8(15));
}

ALWAYS_INLINE vflt negate(vflt v)
{
    return as_floats(xor_bits(as_ints(v), set32(INT32_MIN)));
}

/* ---- the planes of 32 k ---- */

ALWAYS_INLINE void unpack_nibbles(vint *u, struct strips s, size_t at)
{
    UNROLL
    for (size_t g = 0; g < 4; g++) {
        vint t = load_plane(s, at + 32 * g);
        u[AT_W + g] = low_nibbles(t);
        u[AT_W + g + 4] = low_nibbles(shift_right16(t, 4));
    }
}

/* Bit g of every byte of the plane, as 1 << bit, into register g. */
ALWAYS_INLINE void add_one_bit(vint *u, struct strips s, size_t at, size_t bit)
{
    const vint t = load_plane(s, at), mask = set8(1 << bit);
    UNROLL
    for (size_t g = 0; g < 8; g++) {
        vint moved = g <= bit ? shift_left16(t, bit - g) : shift_right16(t, g - bit);
        u[AT_W + g] = or_bits(u[AT_W + g], and_bits(moved, mask));
    }
}

ALWAYS_INLINE void unpack_two_bits(vint *u, struct strips s, size_t at)
{
    UNROLL
    for (size_t g = 0; g < 8; g++)
        u[AT_W + g] = and_bits(shift_right16(load_plane(s, at + 32 * (g / 4)), 2 * (g % 4)), set8(3));
}

/* The same as bits 4 and 5. */
ALWAYS_INLINE void add_two_bits(vint *u, struct strips s, size_t at)
{
    UNROLL
    for (size_t g = 0; g < 8; g++) {
        vint t = load_plane(s, at + 32 * (g / 4));
        t = g % 4 < 2 ? shift_left16(t, 4 - 2 * (g % 4)) : shift_right16(t, 2 * (g % 4) - 4);
        u[AT_W + g] = or_bits(u[AT_W + g], and_bits(t, set8(0x30)));
    }
}

/* The two six-bit numbers of sub-block j. */
ALWAYS_INLINE void six_bits(vint *a, vint *b, struct strips s, size_t at, size_t j)
{
    const vint low = load_bytes(s, at + 8 * j), high = shift_right32(load_bytes(s, at + 64 + 8 * (j / 2)), 4 * (j % 2));
    *a = or_bits(low_nibbles(low), and_bits(shift_left32(high, 4), set32(0x30)));
    *b = or_bits(shift_right32(low, 4), and_bits(shift_left32(high, 2), set32(0x30)));
}

/* Two numbers of each row as a pair of int16. */
ALWAYS_INLINE vint pair_of(vint first, vint second)
{
    return or_bits(and_bits(first, set32(0xffff)), shift_left32(second, 16));
}

/* A number of each row twice, as int16. */
ALWAYS_INLINE vint twice(vint v)
{
    return pair_of(v, v);
}

/* ---- blocks of 32 ---- */

ALWAYS_INLINE void unpack_q4_0(vint *u, struct strips s, size_t j)
{
    (void)j;
    u[AT_D] = as_ints(load_halves(s, 0));
    unpack_nibbles(u, s, 16);
}

ALWAYS_INLINE void unpack_q4_1(vint *u, struct strips s, size_t j)
{
    (void)j;
    u[AT_D] = as_ints(load_halves(s, 0));
    u[AT_M] = as_ints(load_halves(s, 16));
    unpack_nibbles(u, s, 32);
}

ALWAYS_INLINE void unpack_q5_0(vint *u, struct strips s, size_t j)
{
    unpack_q4_0(u, s, j);
    add_one_bit(u, s, 144, 4);
}

ALWAYS_INLINE void unpack_q5_1(vint *u, struct strips s, size_t j)
{
    unpack_q4_1(u, s, j);
    add_one_bit(u, s, 160, 4);
}

ALWAYS_INLINE void unpack_q8_0(vint *u, struct strips s, size_t j)
{
    (void)j;
    u[AT_D] = as_ints(load_halves(s, 0));
    UNROLL
    for (size_t g = 0; g < 8; g++)
        u[AT_W + g] = xor_bits(load_plane(s, 16 + 32 * g), set8(-128));
}

/* Table entries plus 128. */
ALWAYS_INLINE void look_up(vint *u)
{
    const __m128i table = _mm_xor_si128(_mm_loadu_si128((const __m128i *)(const void *)iq4_table), _mm_set1_epi8(-128));
    UNROLL
    for (size_t g = 0; g < 8; g++)
        u[AT_W + g] = lookup(table, u[AT_W + g]);
}

ALWAYS_INLINE void unpack_iq4_nl(vint *u, struct strips s, size_t j)
{
    unpack_q4_0(u, s, j);
    look_up(u);
}

/* ---- blocks of 256 ---- */

ALWAYS_INLINE void unpack_iq4_xs(vint *u, struct strips s, size_t j)
{
    vint low = shift_right32(load_bytes(s, 16 + 8 * (j / 2)), 4 * (j % 2));
    vint high = shift_right32(load_bytes(s, 48 + 8 * (j / 4)), 2 * (j % 4));
    vint scale = or_bits(and_bits(low, set32(15)), and_bits(shift_left32(high, 4), set32(0x30)));
    u[AT_D] = as_ints(mul_f(load_halves(s, 0), to_floats(sub32(scale, set32(32)))));
    unpack_nibbles(u, s, 64 + 128 * j);
    look_up(u);
}

/* d * sc and -(dmin * mn) of sub-block j of Q4_K and Q5_K. */
ALWAYS_INLINE void unpack_k_scales(vint *u, struct strips s, size_t j)
{
    vint sc, mn;
    six_bits(&sc, &mn, s, 32, j);
    u[AT_D] = as_ints(mul_f(load_halves(s, 0), to_floats(sc)));
    u[AT_M] = as_ints(mul_f(negate(load_halves(s, 16)), to_floats(mn)));
}

ALWAYS_INLINE void unpack_q4_k(vint *u, struct strips s, size_t j)
{
    unpack_k_scales(u, s, j);
    unpack_nibbles(u, s, 128 + 128 * j);
}

ALWAYS_INLINE void unpack_q5_k(vint *u, struct strips s, size_t j)
{
    unpack_k_scales(u, s, j);
    unpack_nibbles(u, s, 128 + 160 * j);
    add_one_bit(u, s, 128 + 160 * j + 128, 4);
}

ALWAYS_INLINE void unpack_q6_k(vint *u, struct strips s, size_t j)
{
    const vint a = load_signed(s, 16 + 16 * j), b = load_signed(s, 24 + 16 * j);
    u[AT_D] = as_ints(load_halves(s, 0));
    u[AT_PAIR] = pair_of(shift_left32(sub32(no_ints(), a), 5), shift_left32(sub32(no_ints(), b), 5));
    u[AT_SCALE] = as_ints(to_floats(a));
    u[AT_SCALE + 1] = as_ints(to_floats(b));
    unpack_nibbles(u, s, 144 + 192 * j);
    add_two_bits(u, s, 144 + 192 * j + 128);
}

ALWAYS_INLINE void unpack_q3_k(vint *u, struct strips s, size_t j)
{
    vint sc[2];
    six_bits(&sc[0], &sc[1], s, 16, j);
    u[AT_D] = as_ints(load_halves(s, 0));
    unpack_two_bits(u, s, 112 + 96 * j);
    add_one_bit(u, s, 112 + 96 * j + 64, 2);
    UNROLL
    for (size_t h = 0; h < 2; h++) {
        /* sc * n + (127 - 4 sc) in both bytes of 16 bits */
        const vint scale = sub32(sc[h], set32(32)), offset = sub32(set32(127), shift_left32(scale, 2));
        const vint times = twice(scale), plus = twice(or_bits(offset, shift_left32(offset, 8)));
        UNROLL
        for (size_t g = 4 * h; g < 4 * h + 4; g++)
            u[AT_W + g] = add16(mul16(u[AT_W + g], times), plus);
    }
}

ALWAYS_INLINE void unpack_q2_k(vint *u, struct strips s, size_t j)
{
    const vint a = load_bytes(s, 32 + 16 * j), b = load_bytes(s, 40 + 16 * j);
    const vint times[2] = { twice(low_nibbles(a)), twice(low_nibbles(b)) };
    u[AT_D] = as_ints(load_halves(s, 0));
    u[AT_M] = as_ints(load_halves(s, 16));
    u[AT_MINS] = pair_of(shift_right32(a, 4), shift_right32(b, 4));
    unpack_two_bits(u, s, 160 + 64 * j);
    UNROLL
    for (size_t g = 0; g < 8; g++)
        u[AT_W + g] = mul16(u[AT_W + g], times[g / 4]);
}

/* ---- what the loops must know of a type ---- */

typedef void (*unpack_fn)(vint *u, struct strips s, size_t j);

/* Constant in every caller, so that each type has its own straight loop. */
struct kind {
    int zero;        /* what AT_W has too much */
    bool has_min;    /* adds AT_M times the activations' sum */
    bool has_mins;   /* Q2_K */
    bool has_halves; /* Q6_K */
    size_t n_units;  /* 32 k each, in a block */
    size_t block_bytes; /* of a strip */
};

#define SMALL(zero, min, bytes) ((struct kind){ zero, min, false, false, 1, 8 * (bytes) })
#define LARGE(zero, min, bytes) ((struct kind){ zero, min, false, false, 8, 8 * (bytes) })
/* One multiply-add per 32 k: what tiles are good for. */
#define FOR_EACH_PLAIN_KIND(X)                                              \
    X(q4_0, TYPE_Q4_0, SMALL(8, false, 18))                                 \
    X(q5_0, TYPE_Q5_0, SMALL(16, false, 22))                                \
    X(q8_0, TYPE_Q8_0, SMALL(128, false, 34))                               \
    X(iq4_nl, TYPE_IQ4_NL, SMALL(128, false, 18))                           \
    X(iq4_xs, TYPE_IQ4_XS, LARGE(128, false, 136))
#define FOR_EACH_KIND(X)                                                    \
    FOR_EACH_PLAIN_KIND(X)                                                  \
    X(q4_1, TYPE_Q4_1, SMALL(0, true, 20))                                  \
    X(q5_1, TYPE_Q5_1, SMALL(0, true, 24))                                  \
    X(q4_k, TYPE_Q4_K, LARGE(0, true, 144))                                 \
    X(q5_k, TYPE_Q5_K, LARGE(0, true, 176))                                 \
    X(q3_k, TYPE_Q3_K, LARGE(127, false, 110))                              \
    X(q2_k, TYPE_Q2_K, ((struct kind){ 0, false, true, false, 8, 8 * 84 })) \
    X(q6_k, TYPE_Q6_K, ((struct kind){ 32, false, false, true, 8, 8 * 210 }))

/* Registers in a unit of the kind. */
ALWAYS_INLINE size_t unit_size(struct kind kd)
{
    return kd.has_halves ? 12 : kd.has_mins ? 11 : kd.has_min ? 10 : 9;
}

#endif

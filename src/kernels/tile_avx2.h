/* tile_avx2.h: the inner loops of prefill on AVX2, in assembly: 16 rows meet 3 (or 2) columns. Private to matmul_avx2.c.
 *
 * Why assembly: 16 rows give two multiplications per broadcast, and with 3 columns everything that lives through the loop
 * fills the sixteen registers; compilers spill. Per unit of 32 k (unpack_avx2.h; those of two strips side by side in L1):
 *
 *   ymm0-5    sums in 16 bits, column c of strip s in 2c + s      ymm12, 13   weights of group g of both strips
 *   ymm6-11   float sums, likewise                                ymm14, 15   a broadcast of 4 activation bytes, products
 *
 *   for g in 0..7:  load two registers of weights; for each column: one broadcast, two vpmaddubsw, two vpaddw
 *   then            vpmaddwd widens, convert, times the rows' scale, multiply-add onto the float sums
 *
 * That is 20 vector operations and 7 loads for 256 multiply-adds, and no stores. (Four columns with the float sums in memory
 * have fewer loads, but every store then may delay loads of the next unit that share its low 12 address bits; it was the
 * slower way.) Types with 16-wide scales or 8-bit values need sums of 32 bits beside those of 16, so they take 2 columns.
 *
 * The zero point z costs nothing per row: the sum of (w - z) a is the sum of w a minus z times the sum of a. Each 16-bit
 * lane collects the products of k mod 4 in {0,1} or {2,3}, so it starts at -z times that lane's sum of activations, which
 * act_block has. Sums are right modulo 2^16, and the final ones fit: 16 products of at most 16 * 127 make 32,512.
 *
 *   y    float sums [column][strip] of 8, aligned to 32; n >= 1 units
 */
#ifndef HEARTH_TILE_AVX2_H
#define HEARTH_TILE_AVX2_H

#include "avx2.h"

/* Distances in bytes: within act_block, and within the two units of a tile (unpack_avx2.h: AT_D, AT_M, AT_W ...). */
#define X_D "32"
#define X_SD "36"
#define X_SUM16 "40"
#define X_LANE "44"
#define X_NEXT "48"

#define R(i) "%%ymm" #i
#define LOAD_WEIGHTS(at, size) \
    "vmovdqa " at "(%[u]), %%ymm12\n\t" \
    "vmovdqa " at "+" size "(%[u]), %%ymm13\n\t"
#define BROADCAST(at, x, r) "vpbroadcastd " at "(%[" x "]), " r "\n\t"

/* A group of a column: the first products are the sums, the others are added to them. */
#define FIRST(at, x, s0, s1) \
    BROADCAST(at, x, "%%ymm14") \
    "vpmaddubsw %%ymm14, %%ymm12, " s0 "\n\t" \
    "vpmaddubsw %%ymm14, %%ymm13, " s1 "\n\t"
#define NEXT(at, x, s0, s1) \
    BROADCAST(at, x, "%%ymm14") \
    "vpmaddubsw %%ymm14, %%ymm12, %%ymm15\n\t" \
    "vpmaddubsw %%ymm14, %%ymm13, %%ymm14\n\t" \
    "vpaddw %%ymm15, " s0 ", " s0 "\n\t" \
    "vpaddw %%ymm14, " s1 ", " s1 "\n\t"

/* What the zero point takes off the sums. */
#define START_NONE(x, s0, s1)
#define START_AT(x, s0, s1, shift) \
    BROADCAST(X_LANE, x, "%%ymm14") \
    "vpsllw $" shift ", %%ymm14, %%ymm14\n\t" \
    "vpsubw %%ymm14, " s0 ", " s0 "\n\t" \
    "vpsubw %%ymm14, " s1 ", " s1 "\n\t"
#define START_8(x, s0, s1) START_AT(x, s0, s1, "3")
#define START_16(x, s0, s1) START_AT(x, s0, s1, "4")

static const struct {
    int16_t one[16], sixteen[16];
} times __attribute__((aligned(32))) = {
    { 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1 },
    { 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16 },
};
#define ALL_REGISTERS \
    "memory", "cc", "ymm0", "ymm1", "ymm2", "ymm3", "ymm4", "ymm5", "ymm6", "ymm7", "ymm8", "ymm9", "ymm10", "ymm11", "ymm12", \
        "ymm13", "ymm14", "ymm15"

/* ---- three columns: all values of a row's 32 fit one scale and 16 bits ---- */

#define GROUP3(g) \
    LOAD_WEIGHTS("64+32*" #g, "320") \
    NEXT("4*" #g, "x0", R(0), R(1)) \
    NEXT("4*" #g, "x1", R(2), R(3)) \
    NEXT("4*" #g, "x2", R(4), R(5))

/* The sums of one column onto its floats; WIDEN may add to the integers, MIN to the floats. */
#define FINISH3(x, s0, s1, f0, f1, WIDEN, MIN) \
    "vpmaddwd %[one], " s0 ", " s0 "\n\t" \
    "vpmaddwd %[one], " s1 ", " s1 "\n\t" \
    WIDEN(x, s0, s1) \
    "vcvtdq2ps " s0 ", " s0 "\n\t" \
    "vcvtdq2ps " s1 ", " s1 "\n\t" \
    "vbroadcastss " X_D "(%[" x "]), %%ymm14\n\t" \
    "vmulps (%[u]), " s0 ", " s0 "\n\t" \
    "vmulps 320(%[u]), " s1 ", " s1 "\n\t" \
    "vfmadd231ps " s0 ", %%ymm14, " f0 "\n\t" \
    "vfmadd231ps " s1 ", %%ymm14, " f1 "\n\t" \
    MIN(x, f0, f1)
#define WIDEN_NONE(x, s0, s1)
/* Weights 0..31 as 16 + (-16..15): 16 times the sum of the activations comes back. */
#define WIDEN_16(x, s0, s1) \
    BROADCAST(X_SUM16, x, "%%ymm15") \
    "vpmaddwd %[sixteen], %%ymm15, %%ymm15\n\t" \
    "vpaddd %%ymm15, " s0 ", " s0 "\n\t" \
    "vpaddd %%ymm15, " s1 ", " s1 "\n\t"
#define MIN_NONE(x, f0, f1)
#define MIN_SD(x, f0, f1) \
    "vbroadcastss " X_SD "(%[" x "]), %%ymm15\n\t" \
    "vfmadd231ps 32(%[u]), %%ymm15, " f0 "\n\t" \
    "vfmadd231ps 32+320(%[u]), %%ymm15, " f1 "\n\t"

#define TILE3(name, START, WIDEN, MIN)                                                                                   \
    static void name(float *y, const __m256i *u, const struct act_block *const x[3], size_t n)                          \
    {                                                                                                                    \
        const struct act_block *x0 = x[0], *x1 = x[1], *x2 = x[2];                                                       \
        __asm__ volatile(                                                                                                \
            "vmovaps (%[y]), %%ymm6\n\t"                                                                                 \
            "vmovaps 32(%[y]), %%ymm7\n\t"                                                                               \
            "vmovaps 64(%[y]), %%ymm8\n\t"                                                                               \
            "vmovaps 96(%[y]), %%ymm9\n\t"                                                                               \
            "vmovaps 128(%[y]), %%ymm10\n\t"                                                                             \
            "vmovaps 160(%[y]), %%ymm11\n\t"                                                                             \
            ".p2align 5\n"                                                                                               \
            "1:\n\t"                                                                                                     \
            LOAD_WEIGHTS("64", "320")                                                                                    \
            FIRST("0", "x0", R(0), R(1)) START("x0", R(0), R(1))                                                         \
            FIRST("0", "x1", R(2), R(3)) START("x1", R(2), R(3))                                                         \
            FIRST("0", "x2", R(4), R(5)) START("x2", R(4), R(5))                                                         \
            GROUP3(1) GROUP3(2) GROUP3(3) GROUP3(4) GROUP3(5) GROUP3(6) GROUP3(7)                                        \
            FINISH3("x0", R(0), R(1), R(6), R(7), WIDEN, MIN)                                                            \
            FINISH3("x1", R(2), R(3), R(8), R(9), WIDEN, MIN)                                                            \
            FINISH3("x2", R(4), R(5), R(10), R(11), WIDEN, MIN)                                                          \
            "add $640, %[u]\n\t"                                                                                         \
            "add $" X_NEXT ", %[x0]\n\t"                                                                                 \
            "add $" X_NEXT ", %[x1]\n\t"                                                                                 \
            "add $" X_NEXT ", %[x2]\n\t"                                                                                 \
            "dec %[n]\n\t"                                                                                               \
            "jnz 1b\n\t"                                                                                                 \
            "vmovaps %%ymm6, (%[y])\n\t"                                                                                 \
            "vmovaps %%ymm7, 32(%[y])\n\t"                                                                               \
            "vmovaps %%ymm8, 64(%[y])\n\t"                                                                               \
            "vmovaps %%ymm9, 96(%[y])\n\t"                                                                               \
            "vmovaps %%ymm10, 128(%[y])\n\t"                                                                             \
            "vmovaps %%ymm11, 160(%[y])\n\t"                                                                             \
            : [u] "+r"(u), [x0] "+r"(x0), [x1] "+r"(x1), [x2] "+r"(x2), [n] "+r"(n)                                      \
            : [y] "r"(y), [one] "m"(times.one), [sixteen] "m"(times.sixteen)                                             \
            : ALL_REGISTERS);                                                                                            \
    }

TILE3(tile_zero_8, START_8, WIDEN_NONE, MIN_NONE)     /* Q4_0 */
TILE3(tile_zero_16, START_16, WIDEN_NONE, MIN_NONE)   /* Q5_0 */
TILE3(tile_min, START_NONE, WIDEN_NONE, MIN_SD)       /* Q4_1, Q4_K */
TILE3(tile_min_16, START_16, WIDEN_16, MIN_SD)        /* Q5_1, Q5_K */

/* ---- two columns: ymm0-3 sums of 16 bits, ymm4-7 of 32, ymm8-11 floats ---- */

#define GROUP2(at, g, size) \
    LOAD_WEIGHTS(at "+32*" #g, size) \
    NEXT("4*" #g, "x0", R(0), R(1)) \
    NEXT("4*" #g, "x1", R(2), R(3))
#define GROUP2_FIRST(at, g, size) \
    LOAD_WEIGHTS(at "+32*" #g, size) \
    FIRST("4*" #g, "x0", R(0), R(1)) \
    FIRST("4*" #g, "x1", R(2), R(3))

/* Sums of 16 bits times what stands in w0, w1, onto the sums of 32. */
#define WIDEN2(w0, w1) \
    "vpmaddwd " w0 ", %%ymm0, %%ymm0\n\t" \
    "vpmaddwd " w1 ", %%ymm1, %%ymm1\n\t" \
    "vpmaddwd " w0 ", %%ymm2, %%ymm2\n\t" \
    "vpmaddwd " w1 ", %%ymm3, %%ymm3\n\t" \
    "vpaddd %%ymm0, %%ymm4, %%ymm4\n\t" \
    "vpaddd %%ymm1, %%ymm5, %%ymm5\n\t" \
    "vpaddd %%ymm2, %%ymm6, %%ymm6\n\t" \
    "vpaddd %%ymm3, %%ymm7, %%ymm7\n\t"
#define WIDEN_SCALED(h) WIDEN2("320+32*" #h "(%[u])", "320+32*" #h "+448(%[u])")
/* They start at what the zero point takes off: AT_SCALES holds -zero times the scales. */
#define START_SCALED \
    BROADCAST(X_SUM16, "x0", R(14)) \
    BROADCAST(X_SUM16, "x1", R(15)) \
    "vpmaddwd 384(%[u]), %%ymm14, %%ymm4\n\t" \
    "vpmaddwd 384+448(%[u]), %%ymm14, %%ymm5\n\t" \
    "vpmaddwd 384(%[u]), %%ymm15, %%ymm6\n\t" \
    "vpmaddwd 384+448(%[u]), %%ymm15, %%ymm7\n\t"
#define START_ZERO \
    "vpxor %%ymm4, %%ymm4, %%ymm4\n\t" \
    "vpxor %%ymm5, %%ymm5, %%ymm5\n\t" \
    "vpxor %%ymm6, %%ymm6, %%ymm6\n\t" \
    "vpxor %%ymm7, %%ymm7, %%ymm7\n\t"

#define FINISH2(x, s0, s1, f0, f1, size, MINS) \
    "vcvtdq2ps " s0 ", " s0 "\n\t" \
    "vcvtdq2ps " s1 ", " s1 "\n\t" \
    "vbroadcastss " X_D "(%[" x "]), %%ymm14\n\t" \
    "vmulps (%[u]), " s0 ", " s0 "\n\t" \
    "vmulps " size "(%[u]), " s1 ", " s1 "\n\t" \
    "vfmadd231ps " s0 ", %%ymm14, " f0 "\n\t" \
    "vfmadd231ps " s1 ", %%ymm14, " f1 "\n\t" \
    MINS(x, f0, f1)
#define MINS_NONE(x, f0, f1)
/* Minimums of 16 values (AT_MINS, AT_M). ymm14 is the activations' scale. */
#define MINS_16(x, f0, f1) \
    BROADCAST(X_SUM16, x, "%%ymm15") \
    "vpmaddwd 416(%[u]), %%ymm15, %%ymm12\n\t" \
    "vpmaddwd 416+448(%[u]), %%ymm15, %%ymm13\n\t" \
    "vcvtdq2ps %%ymm12, %%ymm12\n\t" \
    "vcvtdq2ps %%ymm13, %%ymm13\n\t" \
    "vmulps 32(%[u]), %%ymm12, %%ymm12\n\t" \
    "vmulps 32+448(%[u]), %%ymm13, %%ymm13\n\t" \
    "vfnmadd231ps %%ymm14, %%ymm12, " f0 "\n\t" \
    "vfnmadd231ps %%ymm14, %%ymm13, " f1 "\n\t"

#define TILE2(name, size, two_sizes, BODY, MINS)                                                                         \
    static void name(float *y, const __m256i *u, const struct act_block *const x[2], size_t n)                          \
    {                                                                                                                    \
        const struct act_block *x0 = x[0], *x1 = x[1];                                                                   \
        __asm__ volatile(                                                                                                \
            "vmovaps (%[y]), %%ymm8\n\t"                                                                                 \
            "vmovaps 32(%[y]), %%ymm9\n\t"                                                                               \
            "vmovaps 64(%[y]), %%ymm10\n\t"                                                                              \
            "vmovaps 96(%[y]), %%ymm11\n\t"                                                                              \
            ".p2align 5\n"                                                                                               \
            "1:\n\t"                                                                                                     \
            BODY                                                                                                         \
            FINISH2("x0", R(4), R(5), R(8), R(9), size, MINS)                                                            \
            FINISH2("x1", R(6), R(7), R(10), R(11), size, MINS)                                                          \
            "add $" two_sizes ", %[u]\n\t"                                                                               \
            "add $" X_NEXT ", %[x0]\n\t"                                                                                 \
            "add $" X_NEXT ", %[x1]\n\t"                                                                                 \
            "dec %[n]\n\t"                                                                                               \
            "jnz 1b\n\t"                                                                                                 \
            "vmovaps %%ymm8, (%[y])\n\t"                                                                                 \
            "vmovaps %%ymm9, 32(%[y])\n\t"                                                                               \
            "vmovaps %%ymm10, 64(%[y])\n\t"                                                                              \
            "vmovaps %%ymm11, 96(%[y])\n\t"                                                                              \
            : [u] "+r"(u), [x0] "+r"(x0), [x1] "+r"(x1), [n] "+r"(n)                                                     \
            : [y] "r"(y), [one] "m"(times.one), [sixteen] "m"(times.sixteen)                                             \
            : ALL_REGISTERS);                                                                                            \
    }

/* Weights up to 63: two products of a pair fit 16 bits. */
#define BODY_SPAN_2 \
    START_SCALED \
    GROUP2_FIRST("64", 0, "448") GROUP2("64", 1, "448") WIDEN_SCALED(0) \
    GROUP2_FIRST("64", 2, "448") GROUP2("64", 3, "448") WIDEN_SCALED(0) \
    GROUP2_FIRST("64", 4, "448") GROUP2("64", 5, "448") WIDEN_SCALED(1) \
    GROUP2_FIRST("64", 6, "448") GROUP2("64", 7, "448") WIDEN_SCALED(1)
/* Weights up to 7: all four of 16 values do. */
#define BODY_SPAN_4(START) \
    START \
    GROUP2_FIRST("64", 0, "448") GROUP2("64", 1, "448") GROUP2("64", 2, "448") GROUP2("64", 3, "448") WIDEN_SCALED(0) \
    GROUP2_FIRST("64", 4, "448") GROUP2("64", 5, "448") GROUP2("64", 6, "448") GROUP2("64", 7, "448") WIDEN_SCALED(1)
/* v + 128 = 16 high + low: the high nibbles with zero point 8, widened with 16; the low ones from their own registers. */
#define BODY_SPLIT \
    START_ZERO \
    GROUP2_FIRST("64", 0, "576") START_8("x0", R(0), R(1)) START_8("x1", R(2), R(3)) \
    GROUP2("64", 1, "576") GROUP2("64", 2, "576") GROUP2("64", 3, "576") GROUP2("64", 4, "576") \
    GROUP2("64", 5, "576") GROUP2("64", 6, "576") GROUP2("64", 7, "576") \
    WIDEN2("%[sixteen]", "%[sixteen]") \
    GROUP2_FIRST("320", 0, "576") GROUP2("320", 1, "576") GROUP2("320", 2, "576") GROUP2("320", 3, "576") \
    GROUP2("320", 4, "576") GROUP2("320", 5, "576") GROUP2("320", 6, "576") GROUP2("320", 7, "576") \
    WIDEN2("%[one]", "%[one]")

TILE2(tile_span_2, "448", "896", BODY_SPAN_2, MINS_NONE)                  /* Q6_K */
TILE2(tile_span_4, "448", "896", BODY_SPAN_4(START_SCALED), MINS_NONE)    /* Q3_K */
TILE2(tile_span_4_mins, "448", "896", BODY_SPAN_4(START_ZERO), MINS_16)   /* Q2_K */
TILE2(tile_split, "576", "1152", BODY_SPLIT, MINS_NONE)                   /* Q8_0, IQ4_NL, IQ4_XS */

#endif

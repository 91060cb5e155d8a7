/* few_avx2.h: 2 to 16 columns of the 4-bit types on AVX2, in assembly. Private to matmul_avx2.c.
 *
 * A few columns (drafted tokens, several conversations, a short prompt) use each weight too rarely to unpack it into
 * memory first: nibbles are split in registers and meet 4 or 8 columns at once. Eight rows; per unit of 32 k
 *
 *   ymm0-7   sums in 16 bits, one per column       ymm8, 9   groups g and g + 4
 *   ymm12    15 in every byte                      ymm10, 11, 13   a broadcast, products
 *
 * The float sums rest in memory. The start values and the order of the rest are those of tile_avx2.h.
 *
 *   y     float sums [column] of 8, aligned to 32      w    the nibbles of n >= 1 units, `stride` bytes apart
 *   dm    per unit the rows' scales, then what multiplies the activations' sum: 16 floats, aligned to 32
 *   x     8 (or 4) columns from the first unit's k on
 */
#ifndef HEARTH_FEW_AVX2_H
#define HEARTH_FEW_AVX2_H

#include "tile_avx2.h"

/* Bytes 32g of the nibbles: k = 4g.. to ymm8, k = 16 + 4g.. to ymm9. */
#define SPLIT_NIBBLES(g) \
    "vmovdqu 32*" #g "(%[w]), %%ymm9\n\t" \
    "vpand %%ymm12, %%ymm9, %%ymm8\n\t" \
    "vpsrlw $4, %%ymm9, %%ymm9\n\t" \
    "vpand %%ymm12, %%ymm9, %%ymm9\n\t"
#define FEW_FIRST(x, s, START) \
    "vpbroadcastd (%[" x "]), %%ymm10\n\t" \
    "vpbroadcastd 16(%[" x "]), %%ymm11\n\t" \
    "vpmaddubsw %%ymm10, %%ymm8, " s "\n\t" \
    "vpmaddubsw %%ymm11, %%ymm9, %%ymm11\n\t" \
    "vpaddw %%ymm11, " s ", " s "\n\t" \
    START(x, s)
#define FEW_NEXT(g, x, s) \
    "vpbroadcastd 4*" #g "(%[" x "]), %%ymm10\n\t" \
    "vpbroadcastd 16+4*" #g "(%[" x "]), %%ymm11\n\t" \
    "vpmaddubsw %%ymm10, %%ymm8, %%ymm10\n\t" \
    "vpmaddubsw %%ymm11, %%ymm9, %%ymm11\n\t" \
    "vpaddw %%ymm10, " s ", " s "\n\t" \
    "vpaddw %%ymm11, " s ", " s "\n\t"
#define FEW_START_NONE(x, s)
#define FEW_START_8(x, s) \
    BROADCAST(X_LANE, x, "%%ymm13") \
    "vpsllw $3, %%ymm13, %%ymm13\n\t" \
    "vpsubw %%ymm13, " s ", " s "\n\t"

#define FEW_FINISH(c, x, s, MIN) \
    "vpmaddwd %[one], " s ", " s "\n\t" \
    "vcvtdq2ps " s ", " s "\n\t" \
    "vbroadcastss " X_D "(%[" x "]), %%ymm10\n\t" \
    "vmulps %%ymm8, " s ", " s "\n\t" \
    "vfmadd213ps 32*" #c "(%[y]), %%ymm10, " s "\n\t" \
    MIN(x, s) \
    "vmovaps " s ", 32*" #c "(%[y])\n\t" \
    "add $" X_NEXT ", %[" x "]\n\t"
#define FEW_MIN_NONE(x, s)
#define FEW_MIN_SD(x, s) \
    "vbroadcastss " X_SD "(%[" x "]), %%ymm11\n\t" \
    "vfmadd231ps %%ymm9, %%ymm11, " s "\n\t"

#define GROUP_OF_4(g) \
    SPLIT_NIBBLES(g) FEW_NEXT(g, "x0", R(0)) FEW_NEXT(g, "x1", R(1)) FEW_NEXT(g, "x2", R(2)) FEW_NEXT(g, "x3", R(3))
#define GROUP_OF_8(g) \
    GROUP_OF_4(g) FEW_NEXT(g, "x4", R(4)) FEW_NEXT(g, "x5", R(5)) FEW_NEXT(g, "x6", R(6)) FEW_NEXT(g, "x7", R(7))
#define FEW_BEGIN \
    "vpcmpeqb %%ymm12, %%ymm12, %%ymm12\n\t" \
    "vpsrlw $12, %%ymm12, %%ymm12\n\t" \
    "vpackuswb %%ymm12, %%ymm12, %%ymm12\n\t" \
    ".p2align 5\n" \
    "1:\n\t"
#define FEW_SCALES \
    "vmovaps (%[dm]), %%ymm8\n\t" \
    "vmovaps 32(%[dm]), %%ymm9\n\t"
#define FEW_END \
    "add %[stride], %[w]\n\t" \
    "add $64, %[dm]\n\t" \
    "decq %[n]\n\t" \
    "jnz 1b\n\t"

#define FEW(name, START, MIN)                                                                                            \
    static void name##_4(float *y, const uint8_t *w, size_t stride, const float *dm, const struct act_block *const x[4], size_t n) \
    {                                                                                                                    \
        const struct act_block *x0 = x[0], *x1 = x[1], *x2 = x[2], *x3 = x[3];                                           \
        __asm__ volatile(                                                                                                \
            FEW_BEGIN                                                                                                    \
            SPLIT_NIBBLES(0)                                                                                             \
            FEW_FIRST("x0", R(0), START) FEW_FIRST("x1", R(1), START) FEW_FIRST("x2", R(2), START) FEW_FIRST("x3", R(3), START) \
            GROUP_OF_4(1) GROUP_OF_4(2) GROUP_OF_4(3)                                                                    \
            FEW_SCALES                                                                                                   \
            FEW_FINISH(0, "x0", R(0), MIN) FEW_FINISH(1, "x1", R(1), MIN)                                                \
            FEW_FINISH(2, "x2", R(2), MIN) FEW_FINISH(3, "x3", R(3), MIN)                                                \
            FEW_END                                                                                                      \
            : [w] "+r"(w), [dm] "+r"(dm), [x0] "+r"(x0), [x1] "+r"(x1), [x2] "+r"(x2), [x3] "+r"(x3), [n] "+r"(n)        \
            : [y] "r"(y), [stride] "r"(stride), [one] "m"(times.one)                                                     \
            : ALL_REGISTERS);                                                                                            \
    }                                                                                                                    \
    static void name##_8(float *y, const uint8_t *w, size_t stride, const float *dm, const struct act_block *const x[8], size_t n) \
    {                                                                                                                    \
        const struct act_block *x0 = x[0], *x1 = x[1], *x2 = x[2], *x3 = x[3], *x4 = x[4], *x5 = x[5], *x6 = x[6], *x7 = x[7]; \
        __asm__ volatile(                                                                                                \
            FEW_BEGIN                                                                                                    \
            SPLIT_NIBBLES(0)                                                                                             \
            FEW_FIRST("x0", R(0), START) FEW_FIRST("x1", R(1), START) FEW_FIRST("x2", R(2), START) FEW_FIRST("x3", R(3), START) \
            FEW_FIRST("x4", R(4), START) FEW_FIRST("x5", R(5), START) FEW_FIRST("x6", R(6), START) FEW_FIRST("x7", R(7), START) \
            GROUP_OF_8(1) GROUP_OF_8(2) GROUP_OF_8(3)                                                                    \
            FEW_SCALES                                                                                                   \
            FEW_FINISH(0, "x0", R(0), MIN) FEW_FINISH(1, "x1", R(1), MIN)                                                \
            FEW_FINISH(2, "x2", R(2), MIN) FEW_FINISH(3, "x3", R(3), MIN)                                                \
            FEW_FINISH(4, "x4", R(4), MIN) FEW_FINISH(5, "x5", R(5), MIN)                                                \
            FEW_FINISH(6, "x6", R(6), MIN) FEW_FINISH(7, "x7", R(7), MIN)                                                \
            FEW_END                                                                                                      \
            : [w] "+r"(w), [dm] "+r"(dm), [x0] "+r"(x0), [x1] "+r"(x1), [x2] "+r"(x2), [x3] "+r"(x3), [x4] "+r"(x4),     \
              [x5] "+r"(x5), [x6] "+r"(x6), [x7] "+r"(x7), [n] "+m"(n)                                                   \
            : [y] "r"(y), [stride] "m"(stride), [one] "m"(times.one)                                                     \
            : ALL_REGISTERS);                                                                                            \
    }

FEW(few_zero_8, FEW_START_8, FEW_MIN_NONE) /* Q4_0 */
FEW(few_min, FEW_START_NONE, FEW_MIN_SD)   /* Q4_1, Q4_K */

#endif

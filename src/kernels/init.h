/* init.h: what each source file of src/kernels puts into a table. Private to the folder.
 *
 * A table is filled in layers: the scalar entries first (dequant.c and the ref files), then those an instruction
 * set makes faster. The ref files are compiled once per table with that table's compiler flags and a different
 * KERNELS_VARIANT: plainly for "ref", and with -mfma and so on for the entries that "avx2" leaves as they are. The
 * bits do not depend on it: fmaf rounds once with and without the instruction, and nothing else may be contracted.
 */
#ifndef HEARTH_KERNELS_INIT_H
#define HEARTH_KERNELS_INIT_H

#include "kernels.h"

#define INIT_JOIN2(variant, what) variant##_##what
#define INIT_JOIN(variant, what) INIT_JOIN2(variant, what)

void dequant_init(struct kernels *t);

/* ref.c, ref_matmul.c, ref_attn.c, bench_ref.c, once per variant. */
#ifdef KERNELS_VARIANT
void INIT_JOIN(KERNELS_VARIANT, vector_init)(struct kernels *t);
void INIT_JOIN(KERNELS_VARIANT, matmul_init)(struct kernels *t);
void INIT_JOIN(KERNELS_VARIANT, attn_init)(struct kernels *t);
void INIT_JOIN(KERNELS_VARIANT, bench_init)(struct kernels *t);
#endif
void ref_vector_init(struct kernels *t);
void ref_matmul_init(struct kernels *t);
void ref_attn_init(struct kernels *t);
void ref_bench_init(struct kernels *t);

#if defined(__x86_64__) || defined(__i386__)
void scalar_avx2_vector_init(struct kernels *t);
void scalar_avx2_matmul_init(struct kernels *t);
void scalar_avx2_attn_init(struct kernels *t);
void avx2_vector_init(struct kernels *t);
void avx2_matmul_init(struct kernels *t);
void avx2_matmul_float_init(struct kernels *t);
void avx2_attn_init(struct kernels *t);
void avx2_bench_init(struct kernels *t);
void avxvnni_matmul_init(struct kernels *t);
void avxvnni_bench_init(struct kernels *t);
void avx512_vector_init(struct kernels *t);
void avx512_matmul_init(struct kernels *t);
void avx512_attn_init(struct kernels *t);
void avx512_bench_init(struct kernels *t);
void amx_matmul_init(struct kernels *t);
/* The products of the AVX-512 table by type, NULL where it has none of its own: for what the tiles do not take. */
extern void (*const avx512_matmul[TYPE_COUNT])(const struct matmul *a);
#endif

#if defined(__aarch64__)
void neon_vector_init(struct kernels *t);
void neon_attn_init(struct kernels *t);
void neon_matmul_float_init(struct kernels *t);
void neon_matmul_init(struct kernels *t);
void neon_bench_init(struct kernels *t);
void dotprod_matmul_init(struct kernels *t);
void dotprod_bench_init(struct kernels *t);
void i8mm_matmul_init(struct kernels *t);
void i8mm_bench_init(struct kernels *t);
#endif

#endif

/* bench_avxvnni.c: the int8 rate of 256-bit registers with vpdpbusd; see bench_vnni.h. */
#include <immintrin.h>
#include <string.h>

#include "init.h"

#define VEC __m256i
#define VECF __m256
#define ZERO _mm256_setzero_si256()
#define SPLAT(v) _mm256_set1_epi8(v)
#define SPLATF(v) _mm256_set1_ps(v)
#define DOT(s, w, x) _mm256_dpbusd_avx_epi32(s, w, x)
#define TO_FLOAT(s) _mm256_cvtepi32_ps(s)
#define MUL(a, b) _mm256_mul_ps(a, b)
#define FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define MACS 32
#include "bench_vnni.h"

void avxvnni_bench_init(struct kernels *t)
{
    t->bench_int8 = bench_int8;
    t->bench_int8_mix = "8 vpdpbusd of 256 bits, convert, multiply, fma";
}

/* bench_avx2.c: what this machine can do at most with AVX2: read memory, and multiply 8-bit integers in the mix
 * of instructions that the 4-bit kernels are made of, everything in registers. hearth bench divides by these.
 *
 * The mix for 256 multiply-adds: 8 vpmaddubsw, 7 vpaddw, 1 vpmaddwd, 1 vcvtdq2ps, 1 multiplication, 1 fused
 * multiply-add. Two independent chains, so that latency does not count. The operands pass through an empty asm
 * statement in every round, or the compiler would do the work once.
 */
#include <immintrin.h>

#include "init.h"

/* Eight streams side by side; see bench_ref.c. */
static uint64_t bench_read(const void *data, size_t n_bytes)
{
    enum { STREAMS = 8 };
    const uint8_t *p = data;
    size_t part = n_bytes / STREAMS / 64 * 64;
    __m256i a = _mm256_setzero_si256(), b = a;
    uint64_t out[4];
    for (size_t i = 0; i < part; i += 64)
        for (size_t s = 0; s < STREAMS; s++) {
            a = _mm256_xor_si256(a, _mm256_loadu_si256((const __m256i *)(p + s * part + i)));
            b = _mm256_xor_si256(b, _mm256_loadu_si256((const __m256i *)(p + s * part + i + 32)));
        }
    for (size_t i = STREAMS * part; i < n_bytes; i += 64) {
        a = _mm256_xor_si256(a, _mm256_loadu_si256((const __m256i *)(p + i)));
        b = _mm256_xor_si256(b, _mm256_loadu_si256((const __m256i *)(p + i + 32)));
    }
    _mm256_storeu_si256((__m256i *)out, _mm256_xor_si256(a, b));
    return out[0] ^ out[1] ^ out[2] ^ out[3];
}

/* 256 multiply-adds of unsigned w with signed x0, x1, added to y. */
static inline __m256 block(__m256i w0, __m256i w1, __m256i w2, __m256i w3, __m256i x0, __m256i x1, __m256i ones, __m256 d, __m256 y)
{
    __m256i s = _mm256_maddubs_epi16(w0, x0);
    s = _mm256_add_epi16(s, _mm256_maddubs_epi16(w1, x0));
    s = _mm256_add_epi16(s, _mm256_maddubs_epi16(w2, x0));
    s = _mm256_add_epi16(s, _mm256_maddubs_epi16(w3, x0));
    s = _mm256_add_epi16(s, _mm256_maddubs_epi16(w0, x1));
    s = _mm256_add_epi16(s, _mm256_maddubs_epi16(w1, x1));
    s = _mm256_add_epi16(s, _mm256_maddubs_epi16(w2, x1));
    s = _mm256_add_epi16(s, _mm256_maddubs_epi16(w3, x1));
    __m256 i = _mm256_cvtepi32_ps(_mm256_madd_epi16(s, ones));
    return _mm256_fmadd_ps(_mm256_mul_ps(d, i), d, y);
}

static uint64_t bench_int8(size_t n_rounds, float *out)
{
    __m256i w0 = _mm256_set1_epi8(3), w1 = _mm256_set1_epi8(5), w2 = _mm256_set1_epi8(7), w3 = _mm256_set1_epi8(11);
    __m256i x0 = _mm256_set1_epi8(-9), x1 = _mm256_set1_epi8(13), x2 = _mm256_set1_epi8(17), x3 = _mm256_set1_epi8(-23);
    __m256i ones = _mm256_set1_epi16(1);
    __m256 d = _mm256_set1_ps(0x1p-20f), a = _mm256_setzero_ps(), b = a;
    for (size_t r = 0; r < n_rounds; r++) {
        __asm__ volatile("" : "+x"(w0), "+x"(w1), "+x"(w2), "+x"(w3), "+x"(x0), "+x"(x1), "+x"(x2), "+x"(x3));
        a = block(w0, w1, w2, w3, x0, x1, ones, d, a);
        b = block(w0, w1, w2, w3, x2, x3, ones, d, b);
    }
    float lanes[8];
    _mm256_storeu_ps(lanes, _mm256_add_ps(a, b));
    *out = lanes[0];
    return (uint64_t)n_rounds * 2 * 256 * 2;
}

void avx2_bench_init(struct kernels *t)
{
    t->bench_read = bench_read;
    t->bench_int8 = bench_int8;
    t->bench_int8_mix = "8 maddubs, 7 paddw, 1 pmaddwd, convert, multiply, fma";
}

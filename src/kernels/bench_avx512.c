/* bench_avx512.c: the int8 rate of 512-bit registers with vpdpbusd (see bench_vnni.h), and reading memory with them. */
#include <immintrin.h>
#include <string.h>

#include "init.h"

#define VEC __m512i
#define VECF __m512
#define ZERO _mm512_setzero_si512()
#define SPLAT(v) _mm512_set1_epi8(v)
#define SPLATF(v) _mm512_set1_ps(v)
#define DOT(s, w, x) _mm512_dpbusd_epi32(s, w, x)
#define TO_FLOAT(s) _mm512_cvtepi32_ps(s)
#define MUL(a, b) _mm512_mul_ps(a, b)
#define FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define MACS 64
#include "bench_vnni.h"

/* Eight streams side by side; see bench_ref.c. */
static uint64_t bench_read(const void *data, size_t n_bytes)
{
    enum { STREAMS = 8 };
    const uint8_t *p = data;
    size_t part = n_bytes / STREAMS / 64 * 64;
    __m512i a = _mm512_setzero_si512(), b = a;
    uint64_t out[8];
    for (size_t i = 0; i < part; i += 64)
        for (size_t s = 0; s < STREAMS; s += 2) {
            a = _mm512_xor_si512(a, _mm512_loadu_si512(p + s * part + i));
            b = _mm512_xor_si512(b, _mm512_loadu_si512(p + (s + 1) * part + i));
        }
    for (size_t i = STREAMS * part; i < n_bytes; i += 64)
        a = _mm512_xor_si512(a, _mm512_loadu_si512(p + i));
    _mm512_storeu_si512(out, _mm512_xor_si512(a, b));
    return out[0] ^ out[1] ^ out[2] ^ out[3] ^ out[4] ^ out[5] ^ out[6] ^ out[7];
}

void avx512_bench_init(struct kernels *t)
{
    t->bench_read = bench_read;
    t->bench_int8 = bench_int8;
    t->bench_int8_mix = "8 vpdpbusd of 512 bits, convert, multiply, fma";
}

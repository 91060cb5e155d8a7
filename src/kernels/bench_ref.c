/* bench_ref.c: what the machine can do at most, as plain loops: the two entries of a table that hearth bench
 * divides by. Compiled once per table like the other ref files, so that a table without its own version still
 * gets what the compiler makes of these with that table's flags.
 *
 * They return a value that depends on all the work, and the inputs pass through an empty asm statement, so that
 * the compiler can neither drop the work nor do it once and multiply.
 */
#include "init.h"

/* Several streams side by side: a core that reads one line after the other has too few of them under way, and on some
 * machines gets half of what memory gives. */
static uint64_t bench_read(const void *data, size_t n_bytes)
{
    enum { STREAMS = 8, LINE = 8 };
    const uint64_t *p = data;
    size_t part = n_bytes / 8 / STREAMS / LINE * LINE;
    uint64_t sum[LINE] = { 0 }, rest = 0;
    for (size_t i = 0; i < part; i += LINE)
        for (size_t s = 0; s < STREAMS; s++)
            for (size_t k = 0; k < LINE; k++)
                sum[k] ^= p[s * part + i + k];
    for (size_t i = STREAMS * part; i < n_bytes / 8; i++)
        rest ^= p[i];
    return rest ^ sum[0] ^ sum[1] ^ sum[2] ^ sum[3] ^ sum[4] ^ sum[5] ^ sum[6] ^ sum[7];
}

/* Dot products of 64 bytes, the float epilogue once per 32, as a matrix product has it. */
static uint64_t bench_int8(size_t n_rounds, float *out)
{
    uint8_t w[64];
    int8_t x[64];
    float y = 0;
    for (size_t i = 0; i < 64; i++) {
        w[i] = (uint8_t)(i % 16);
        x[i] = (int8_t)(i * 3 % 255 - 127);
    }
    for (size_t r = 0; r < n_rounds; r++) {
        __asm__ volatile("" : "+m"(w), "+m"(x));
        for (size_t b = 0; b < 64; b += 32) {
            int32_t sum = 0;
            for (size_t i = b; i < b + 32; i++)
                sum += w[i] * x[i];
            y += (float)sum * 0.5f;
        }
    }
    *out = y;
    return (uint64_t)n_rounds * 128;
}

void INIT_JOIN(KERNELS_VARIANT, bench_init)(struct kernels *t)
{
    t->bench_read = bench_read;
    t->bench_int8 = bench_int8;
    t->bench_int8_mix = "plain loops";
}

/* bench_neon.c: what an arm64 machine can do at most: read memory, and multiply 8-bit integers in the mix of instructions
 * that the 4-bit products of each table are made of, everything in registers. hearth bench divides by these.
 *
 * Compiled once per table, as matmul_neon.c. For 256 multiply-adds, that is 32 k of eight rows and one column:
 *
 *   neon      8 SMULL, 24 SMLAL (and second halves), 4 SADDLP, 2 ADDP, 2 SCVTF, 2 FMUL, 2 FMLA
 *   dotprod   16 SDOT, 2 FSUB, 2 FMUL, 2 FMLA; the sums start at a constant, which is a move each
 *   i8mm      8 SMMLA, the rest as dotprod
 *
 * A round is four independent blocks of 256, so that latency does not count. The operands pass through an empty asm
 * statement in every round, or the compiler would do the work once.
 */
#include "neon.h"

enum { BLOCKS = 4 };

static uint64_t bench_read(const void *data, size_t n_bytes)
{
    const uint8_t *p = data;
    uint8x16_t s[8];
    UNROLL
    for (size_t i = 0; i < 8; i++)
        s[i] = vdupq_n_u8(0);
    for (const uint8_t *end = p + n_bytes / 128 * 128; p < end; p += 128) {
        UNROLL
        for (size_t i = 0; i < 8; i++)
            s[i] = veorq_u8(s[i], vld1q_u8(p + 16 * i));
    }
    UNROLL
    for (size_t i = 1; i < 8; i++)
        s[0] = veorq_u8(s[0], s[i]);
    const uint64x2_t t = vreinterpretq_u64_u8(s[0]);
    return vgetq_lane_u64(t, 0) ^ vgetq_lane_u64(t, 1);
}

/* 256 multiply-adds of w and x as two registers of floats. */
#if defined(__ARM_FEATURE_MATMUL_INT8)
#define MIX "8 smmla, 2 moves, 2 subtract, 2 multiply, 2 fma"
ALWAYS_INLINE void products(float32x4_t f[2], const int8x16_t w[4], const int8x16_t x[2])
{
    const float32x4_t magic = vdupq_n_f32(0x1.8p23f);
    UNROLL
    for (size_t v = 0; v < 2; v++) {
        int32x4_t s = vreinterpretq_s32_f32(magic);
        UNROLL
        for (size_t i = 0; i < 4; i++)
            s = vmmlaq_s32(s, w[i], x[v]);
        f[v] = vsubq_f32(vreinterpretq_f32_s32(s), magic);
    }
}
#elif defined(__ARM_FEATURE_DOTPROD)
#define MIX "16 sdot, 2 moves, 2 subtract, 2 multiply, 2 fma"
ALWAYS_INLINE void products(float32x4_t f[2], const int8x16_t w[4], const int8x16_t x[2])
{
    const float32x4_t magic = vdupq_n_f32(0x1.8p23f);
    UNROLL
    for (size_t v = 0; v < 2; v++) {
        int32x4_t s = vreinterpretq_s32_f32(magic);
        UNROLL
        for (size_t i = 0; i < 4; i++)
            s = vdotq_laneq_s32(vdotq_laneq_s32(s, w[i], x[v], 0), w[i], x[v], 1);
        f[v] = vsubq_f32(vreinterpretq_f32_s32(s), magic);
    }
}
#else
#define MIX "32 smlal, 4 saddlp, 2 addp, 2 convert, 2 multiply, 2 fma"
ALWAYS_INLINE void products(float32x4_t f[2], const int8x16_t w[4], const int8x16_t x[2])
{
    UNROLL
    for (size_t v = 0; v < 2; v++) {
        int16x8_t s = vmull_s8(vget_low_s8(w[0]), vget_low_s8(x[v])), t = vmull_high_s8(w[0], x[v]);
        UNROLL
        for (size_t i = 1; i < 8; i++) {
            s = vmlal_s8(s, vget_low_s8(w[i % 4]), vget_low_s8(x[(i / 4 + v) % 2]));
            t = vmlal_high_s8(t, w[i % 4], x[(i / 4 + v) % 2]);
        }
        f[v] = vcvtq_f32_s32(vpaddq_s32(vpaddlq_s16(s), vpaddlq_s16(t)));
    }
}
#endif

static uint64_t bench_int8(size_t n_rounds, float *out)
{
    int8x16_t w[4] = { vdupq_n_s8(3), vdupq_n_s8(-5), vdupq_n_s8(7), vdupq_n_s8(-2) };
    int8x16_t x[2] = { vdupq_n_s8(-9), vdupq_n_s8(13) };
    const float32x4_t d = vdupq_n_f32(0x1p-20f);
    float32x4_t y[BLOCKS][2];
    UNROLL
    for (size_t i = 0; i < 2 * BLOCKS; i++)
        y[i / 2][i % 2] = vdupq_n_f32(0);
    for (size_t r = 0; r < n_rounds; r++) {
        UNROLL
        for (size_t b = 0; b < BLOCKS; b++) {
            float32x4_t f[2];
            __asm__ volatile("" : "+w"(w[0]), "+w"(w[1]), "+w"(w[2]), "+w"(w[3]), "+w"(x[0]), "+w"(x[1]));
            products(f, w, x);
            y[b][0] = vfmaq_f32(y[b][0], vmulq_f32(d, f[0]), d);
            y[b][1] = vfmaq_f32(y[b][1], vmulq_f32(d, f[1]), d);
        }
    }
    float32x4_t sum = vaddq_f32(y[0][0], y[0][1]);
    UNROLL
    for (size_t b = 1; b < BLOCKS; b++)
        sum = vaddq_f32(sum, vaddq_f32(y[b][0], y[b][1]));
    *out = vaddvq_f32(sum);
    return (uint64_t)n_rounds * BLOCKS * 256 * 2;
}

void INIT_JOIN(KERNELS_VARIANT, bench_init)(struct kernels *t)
{
    t->bench_read = bench_read;
    t->bench_int8 = bench_int8;
    t->bench_int8_mix = MIX;
}

/* bench_vnni.h: the int8 rate of registers that hold a 4-byte dot product (vpdpbusd), for bench_avxvnni.c and
 * bench_avx512.c, which name the vector type and its operations:
 *
 *   VEC, VECF              integers and floats of one register
 *   ZERO, DOT(s, w, x)     vpdpbusd: s[lane] += the four products of the lane's bytes, w unsigned, x signed
 *   TO_FLOAT, MUL, FMA     the epilogue of a block
 *   MACS                   multiply-adds of one DOT
 *
 * The mix for a block of 32 k: 8 vpdpbusd, a conversion, a multiplication, a fused multiply-add. Ten sums are in flight: two
 * vpdpbusd per clock with a latency of five need no more, and with two registers of weights, one of activations, the scale and
 * two float sums they fill sixteen registers. All go through an empty asm statement in every round: the compiler can neither
 * see that they are equal nor do the work once.
 */
#define EACH(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7) f(8) f(9)
#define START(i) VEC s##i = ZERO;
#define HIDE(i) __asm__ volatile("" : "+v"(s##i));
#define STEP0(i) s##i = DOT(s##i, w0, x);
#define STEP1(i) s##i = DOT(s##i, w1, x);
#define FINISH(y, i) y = FMA(MUL(d, TO_FLOAT(s##i)), d, y);

static uint64_t bench_int8(size_t n_rounds, float *out)
{
    VEC w0 = SPLAT(3), w1 = SPLAT(5), x = SPLAT(-9);
    VECF d = SPLATF(0x1p-20f), y0 = SPLATF(0), y1 = SPLATF(0);
    for (size_t r = 0; r < n_rounds; r++) {
        EACH(START)
        __asm__ volatile("" : "+v"(w0), "+v"(w1), "+v"(x));
        EACH(HIDE)
        EACH(STEP0) EACH(STEP1) EACH(STEP0) EACH(STEP1)
        EACH(STEP0) EACH(STEP1) EACH(STEP0) EACH(STEP1)
        FINISH(y0, 0) FINISH(y1, 1) FINISH(y0, 2) FINISH(y1, 3) FINISH(y0, 4)
        FINISH(y1, 5) FINISH(y0, 6) FINISH(y1, 7) FINISH(y0, 8) FINISH(y1, 9)
    }
    float lanes[sizeof(VECF) / sizeof(float)];
    y0 = FMA(y1, d, y0);
    memcpy(lanes, &y0, sizeof lanes);
    *out = lanes[0];
    return (uint64_t)n_rounds * 10 * 8 * MACS * 2;
}

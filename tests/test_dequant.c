/* test_dequant.c: what stored weights mean, and how exact the reference's functions are.
 *
 * Dequantisation is compared bit for bit with a second reader that takes one value at a time from bit positions, as
 * the format is described, in double precision, and shares nothing with src/kernels. Every product and difference in
 * it is exact in double (at most 50 bits), so rounding it once to float is the right answer.
 *
 * exp, tanh, silu, gelu are compared with libm in double; the norms, products and attention of ref with plain double
 * sums. That is what makes "equal to ref" (check_kernels.c) worth something.
 */
#include "support.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "kernels/kernels.h"

static uint64_t seed = 7;

static double unit(void) /* [-1, 1) */
{
    return (double)(int64_t)test_random(&seed) * 0x1p-63;
}

/* ---- the second reader ---- */

static unsigned bits(const uint8_t *p, size_t first, size_t n)
{
    unsigned v = 0;
    for (size_t i = 0; i < n; i++)
        v |= (unsigned)(p[(first + i) / 8] >> ((first + i) % 8) & 1) << i;
    return v;
}

static double half(const uint8_t *p)
{
    unsigned exponent = bits(p, 10, 5), fraction = bits(p, 0, 10);
    double v = exponent == 31 ? (fraction ? NAN : INFINITY)
               : exponent     ? ldexp(1024.0 + fraction, (int)exponent - 25)
                              : ldexp(fraction, -24);
    return bits(p, 15, 1) ? -v : v;
}

/* Element i of 32: a nibble, low nibbles are the first sixteen. */
static unsigned nibble(const uint8_t *p, size_t i)
{
    return bits(p, i < 16 ? 8 * i : 8 * (i - 16) + 4, 4);
}

static double table(unsigned n)
{
    static const int v[] = { -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113 };
    return v[n];
}

/* Six-bit scale (at 0) or minimum (at 4) number j of Q4_K and Q5_K. */
static double six_bits(const uint8_t *s, size_t j, size_t at)
{
    if (j < 4)
        return bits(s + at, 8 * j, 6);
    return bits(s + 8, 8 * (j - 4) + at, 4) | bits(s + at, 8 * (j - 4) + 6, 2) << 4;
}

static double read_small(enum tensor_type type, const uint8_t *b, size_t i)
{
    double d = half(b);
    switch (type) {
    case TYPE_Q4_0: return d * ((int)nibble(b + 2, i) - 8);
    case TYPE_Q4_1: return d * nibble(b + 4, i) + half(b + 2);
    case TYPE_Q5_0: return d * ((int)(nibble(b + 6, i) | bits(b + 2, i, 1) << 4) - 16);
    case TYPE_Q5_1: return d * (nibble(b + 8, i) | bits(b + 4, i, 1) << 4) + half(b + 2);
    case TYPE_Q8_0: return d * ((int)bits(b + 2, 8 * i, 8) - (bits(b + 2, 8 * i + 7, 1) ? 256 : 0));
    default: return d * table(nibble(b + 2, i)); /* IQ4_NL */
    }
}

static double read_large(enum tensor_type type, const uint8_t *b, size_t i)
{
    size_t byte = 32 * (i / 128) + i % 32, quarter = i % 128 / 32, j = i / 32;
    unsigned q;
    int s;
    switch (type) {
    case TYPE_Q2_K:
        q = bits(b + 16, 8 * byte + 2 * quarter, 2);
        return half(b + 80) * bits(b, 8 * (i / 16), 4) * q - half(b + 82) * bits(b, 8 * (i / 16) + 4, 4);
    case TYPE_Q3_K: {
        const uint8_t *sc = b + 96;
        size_t k = i / 16;
        q = bits(b + 32, 8 * byte + 2 * quarter, 2) | bits(b, 8 * (i % 32) + j, 1) << 2;
        s = (int)(bits(sc, k < 8 ? 8 * k : 8 * (k - 8) + 4, 4) | bits(sc + 8, 8 * (k % 4) + 2 * (k / 4), 2) << 4);
        return half(b + 108) * (s - 32) * ((int)q - 4);
    }
    case TYPE_Q4_K:
        q = bits(b + 16, 8 * (32 * (i / 64) + i % 32) + 4 * (j % 2), 4);
        return half(b) * six_bits(b + 4, j, 0) * q - half(b + 2) * six_bits(b + 4, j, 4);
    case TYPE_Q5_K:
        q = bits(b + 48, 8 * (32 * (i / 64) + i % 32) + 4 * (j % 2), 4) | bits(b + 16, 8 * (i % 32) + j, 1) << 4;
        return half(b) * six_bits(b + 4, j, 0) * q - half(b + 2) * six_bits(b + 4, j, 4);
    case TYPE_Q6_K:
        q = bits(b, 8 * (64 * (i / 128) + 32 * (quarter % 2) + i % 32) + 4 * (quarter / 2), 4);
        q |= bits(b + 128, 8 * byte + 2 * quarter, 2) << 4;
        s = (int)b[192 + i / 16] - (b[192 + i / 16] > 127 ? 256 : 0);
        return half(b + 208) * s * ((int)q - 32);
    default: /* IQ4_XS */
        s = (int)(bits(b + 4, 4 * j, 4) | bits(b + 2, 2 * j, 2) << 4);
        return half(b) * (s - 32) * table(nibble(b + 8 + 16 * j, i % 32));
    }
}

static double read_value(enum tensor_type type, const uint8_t *w, size_t i)
{
    const struct type_info *t = type_info(type);
    const uint8_t *b = w + i / t->block_len * t->block_bytes;
    uint8_t wide[4] = { 0 };
    float f;
    switch (type) {
    case TYPE_F16: return half(b);
    case TYPE_BF16: memcpy(wide + 2, b, 2); break;
    case TYPE_F32: memcpy(wide, b, 4); break;
    default: return t->block_len == 32 ? read_small(type, b, i % 32) : read_large(type, b, i % 256);
    }
    memcpy(&f, wide, 4);
    return (double)f;
}

/* Where scales of a block stand; so that edge scales are met often. */
static void put_edge_scales(enum tensor_type type, uint8_t *b)
{
    static const uint16_t edge[] = { 0x0000, 0x8000, 0x0001, 0x8001, 0x03ff, 0x0400, 0x7bff, 0xfbff, 0x7c00, 0xfc00,
                                     0x7e00, 0x3c00, 0x2e66 };
    static const uint8_t at[TYPE_COUNT][2] = {
        [TYPE_Q2_K] = { 80, 82 }, [TYPE_Q3_K] = { 108, 108 }, [TYPE_Q6_K] = { 208, 208 }, [TYPE_Q4_1] = { 0, 2 },
        [TYPE_Q5_1] = { 0, 2 }, [TYPE_Q4_K] = { 0, 2 }, [TYPE_Q5_K] = { 0, 2 },
    };
    for (size_t i = 0; i < 2; i++) {
        uint16_t h = edge[test_random(&seed) % ARRAY_LEN(edge)];
        b[at[type][i]] = (uint8_t)(h & 255);
        b[at[type][i] + 1] = (uint8_t)(h >> 8);
    }
}

static void check_dequant(const struct kernels *k, enum tensor_type type, size_t round)
{
    enum { N = 2048 };
    static uint8_t w[N * 4];
    static float y[N];
    const struct type_info *t = type_info(type);
    const size_t n_bytes = N / t->block_len * t->block_bytes;
    for (size_t i = 0; i < n_bytes; i++)
        w[i] = (uint8_t)(test_random(&seed) >> 50);
    for (size_t i = 0; t->is_quantised && round % 2 && i < n_bytes; i += t->block_bytes)
        put_edge_scales(type, w + i);
    k->dequant_row[type](y, w, N);
    for (size_t i = 0; i < N; i++) {
        const double v = read_value(type, w, i);
        const float want = (float)v;
        if (memcmp(&want, &y[i], 4) != 0 && !(isnan(want) && isnan(y[i])))
            fail_msg("%s %s: value %zu is %.9g, should be %.9g", k->name, t->name, i, (double)y[i], (double)want);
    }
}

static void values_are_those_of_the_format(void **state)
{
    size_t n_types = 0;
    for (const char *const *name = kernels_names(); *name; name++) {
        const struct kernels *k = kernels_by_name(*name);
        for (uint32_t type = 0; k && type < TYPE_COUNT; type++) {
            assert_int_equal(k->dequant_row[type] != NULL, type_info(type)->is_readable);
            assert_int_equal(k->matmul[type] != NULL, type_info(type)->is_readable);
            for (size_t round = 0; k->dequant_row[type] && round < 40; round++)
                check_dequant(k, (enum tensor_type)type, round);
            n_types += k->dequant_row[type] != NULL;
        }
    }
    assert_true(n_types >= 15);
}

/* ---- half precision ---- */

static void halves_convert_exactly(void **state)
{
    for (uint32_t h = 0; h < 65536; h++) {
        const uint8_t b[2] = { (uint8_t)(h & 255), (uint8_t)(h >> 8) };
        const float f = half_to_float((uint16_t)h), want = (float)half(b);
        assert_true(isnan(want) ? isnan(f) : memcmp(&f, &want, 4) == 0);
        if (isnan(want)) {
            assert_true(isnan(half_to_float(float_to_half(f))));
            continue;
        }
        assert_int_equal(float_to_half(f), h);
        if ((h & 0x7fff) >= 0x7bff)
            continue;
        /* The neighbour is one step further from zero; halfway goes to the even one. */
        const float next = half_to_float((uint16_t)(h + 1)), middle = f + (next - f) / 2;
        assert_int_equal(float_to_half(middle), h % 2 ? h + 1 : h);
        assert_int_equal(float_to_half(nextafterf(middle, f)), h);
        assert_int_equal(float_to_half(nextafterf(middle, next)), h + 1);
    }
    assert_int_equal(float_to_half(65519.996f), 0x7bff);
    assert_int_equal(float_to_half(65520.0f), 0x7c00);
    assert_int_equal(float_to_half(-1e30f), 0xfc00);
    assert_int_equal(float_to_half(1e-30f), 0);
    assert_int_equal(float_to_bf16(bf16_to_float(0x4049)), 0x4049);
    assert_int_equal(float_to_bf16(1.00390625f), 0x3f80);  /* halfway: even */
    assert_int_equal(float_to_bf16(1.01171875f), 0x3f82);
    assert_int_equal(float_to_bf16(3.4e38f), 0x7f80);
    assert_true(isnan(bf16_to_float(float_to_bf16(NAN))));
}

/* ---- functions: error in units of the last place of the right answer ---- */

static double ulps(float got, double want)
{
    const double size = fmax(fabs(want), (double)FLT_MIN);
    int exponent;
    frexp(size, &exponent);
    return fabs((double)got - want) / ldexp(1.0, exponent - 24);
}

static float silu_of(const struct kernels *k, float x)
{
    float y, one = 1.0f;
    k->silu_mul(&y, &x, &one, 1);
    return y;
}
static float gelu_of(const struct kernels *k, float x)
{
    k->gelu(&x, 1);
    return x;
}
static float tanh_of(const struct kernels *k, float x)
{
    k->softcap(&x, 1.0f, 1);
    return x;
}
static double gelu_double(double x)
{
    return x / 2 * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
}

static void functions_are_accurate(void **state)
{
    const struct kernels *k = kernels_by_name("ref");
    double worst_exp = 0, worst_tanh = 0, worst_silu = 0, worst_gelu = 0;
    for (int i = 0; i < 2000000; i++) {
        const float x = (float)(unit() * 104.0), t = (float)(unit() * (i % 2 ? 1.0 : 10.0));
        worst_exp = fmax(worst_exp, x < 88.7f ? ulps(ref_exp(x), exp((double)x)) : 0);
        worst_tanh = fmax(worst_tanh, ulps(tanh_of(k, t), tanh((double)t)));
        worst_silu = fmax(worst_silu, x > -87.0f ? ulps(silu_of(k, x), (double)x / (1 + exp(-(double)x))) : 0);
        /* libm's 1 + tanh cancels below -3; there the error of exp's argument grows with it: stated relative to x. */
        worst_gelu = fmax(worst_gelu, fabs((double)gelu_of(k, t) - gelu_double((double)t)) / fabs((double)t));
    }
    print_message("largest errors: exp %.2f ulp, tanh %.2f ulp, silu %.2f ulp; gelu %.2g |x|\n", worst_exp, worst_tanh,
                  worst_silu, worst_gelu);
    assert_true(worst_exp < 1.0);
    assert_true(worst_tanh < 3.0);
    assert_true(worst_silu < 3.0);
    assert_true(worst_gelu < 2.5e-7);
}

static void functions_keep_their_edges(void **state)
{
    const struct kernels *k = kernels_by_name("ref");
    assert_true(ref_exp(0.0f) == 1.0f && ref_exp(-0.0f) == 1.0f);
    assert_true(ref_exp(-INFINITY) == 0.0f && ref_exp(-104.0f) == 0.0f && ref_exp(-1e30f) == 0.0f);
    assert_true(ref_exp(-103.9f) > 0.0f);
    assert_true(ref_exp(INFINITY) == INFINITY && ref_exp(88.73f) == INFINITY && ref_exp(88.72f) < INFINITY);
    assert_true(isnan(ref_exp(NAN)));
    assert_true(tanh_of(k, 0.0f) == 0.0f && tanh_of(k, 50.0f) == 1.0f && tanh_of(k, -50.0f) == -1.0f);
    assert_true(tanh_of(k, 1e-30f) == 1e-30f);
    assert_true(tanh_of(k, -0.0f) == 0.0f);
    assert_true(silu_of(k, 1e30f) == 1e30f && silu_of(k, -200.0f) == 0.0f);
    assert_true(gelu_of(k, 1e30f) == 1e30f && gelu_of(k, -1e20f) == 0.0f && gelu_of(k, 0.0f) == 0.0f);
}

/* ---- sums of ref against double ---- */

static void near(float got, double want, double tolerance)
{
    if (!(fabs((double)got - want) <= tolerance))
        fail_msg("%.9g, should be %.9g within %.2g", (double)got, want, tolerance);
}

static void norms_are_right(void **state)
{
    const struct kernels *k = kernels_by_name("ref");
    enum { N = 777 };
    float x[N], w[N], b[N], y[N], z[N];
    double ss = 0, mean = 0, var = 0;
    for (size_t i = 0; i < N; i++) {
        x[i] = (float)unit() + 0.3f, w[i] = (float)unit(), b[i] = (float)unit();
        ss += (double)x[i] * (double)x[i] / N;
        mean += (double)x[i] / N;
    }
    for (size_t i = 0; i < N; i++)
        var += ((double)x[i] - mean) * ((double)x[i] - mean) / N;
    k->rms_norm(y, x, w, N, 1e-5f);
    k->layer_norm(z, x, w, b, N, 1e-5f);
    for (size_t i = 0; i < N; i++) {
        near(y[i], (double)x[i] / sqrt(ss + 1e-5) * (double)w[i], 2e-6);
        near(z[i], ((double)x[i] - mean) / sqrt(var + 1e-5) * (double)w[i] + (double)b[i], 3e-6);
    }
    k->rms_norm(y, x, NULL, N, 1e-5f);
    k->layer_norm(z, x, NULL, NULL, N, 1e-5f);
    near(y[N - 1], (double)x[N - 1] / sqrt(ss + 1e-5), 2e-6);
    near(z[N - 1], ((double)x[N - 1] - mean) / sqrt(var + 1e-5), 3e-6);
}

static void rotation_is_right(void **state)
{
    const struct kernels *k = kernels_by_name("ref");
    float x[9], y[9], c[4], s[4];
    for (size_t i = 0; i < 9; i++)
        y[i] = x[i] = (float)unit();
    for (size_t i = 0; i < 4; i++)
        c[i] = cosf((float)i + 0.5f), s[i] = sinf((float)i + 0.5f);
    k->rope_pairs(x, c, s, 4);
    for (size_t i = 0; i < 4; i++) {
        near(x[2 * i], (double)(y[2 * i] * c[i] - y[2 * i + 1] * s[i]), 1e-6);
        near(x[2 * i + 1], (double)(y[2 * i] * s[i] + y[2 * i + 1] * c[i]), 1e-6);
    }
    memcpy(x, y, sizeof x);
    k->rope_halves(x, c, s, 4);
    for (size_t i = 0; i < 4; i++) {
        near(x[i], (double)(y[i] * c[i] - y[i + 4] * s[i]), 1e-6);
        near(x[i + 4], (double)(y[i] * s[i] + y[i + 4] * c[i]), 1e-6);
    }
    assert_true(x[8] == y[8]);
}

static void activations_are_right(void **state)
{
    const struct kernels *k = kernels_by_name("ref");
    float x[96] = { 0 };
    struct act_block a[3];
    for (size_t i = 0; i < 32; i++)
        x[i] = (float)unit() * 5.0f;
    x[40] = 1e-35f; /* below the threshold: stored as zero */
    x[64] = -2.0f, x[65] = 1.0f;
    k->quantize_act(a, x, 96);
    int sum[2] = { 0, 0 }, lane[2] = { 0, 0 }, largest = 0;
    for (size_t i = 0; i < 32; i++) {
        near((float)a[0].q[i] * a[0].d, (double)x[i], (double)a[0].d * 0.501);
        sum[i / 16] += a[0].q[i];
        lane[i % 4 / 2] += a[0].q[i];
        largest = MAX(largest, a[0].q[i] < 0 ? -a[0].q[i] : a[0].q[i]);
    }
    assert_int_equal(largest, 127);
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(a[0].sum16[i], sum[i]);
        assert_int_equal(a[0].lane[i], lane[i]);
    }
    assert_true(a[0].sd == a[0].d * (float)(sum[0] + sum[1]));
    assert_true(a[1].d == 0 && a[1].q[8] == 0 && a[1].sd == 0);
    assert_int_equal(a[2].q[0], -127);
    assert_int_equal(a[2].q[1], 64); /* 63.5 goes to even */
}

/* Products: the sum of dequantised weights times what the activation blocks stand for, in double. */
static void products_are_right(void **state)
{
    const struct kernels *k = kernels_by_name("ref");
    enum { K = 512 };
    static uint8_t w[K * 4], strip[R8_ROWS * sizeof w];
    float x[K], y;
    double values[K];
    struct act_block a[K / 32];
    for (uint32_t type = 0; type < TYPE_COUNT; type++) {
        const struct type_info *t = type_info(type);
        if (!t->is_readable)
            continue;
        const size_t n_bytes = K / t->block_len * t->block_bytes;
        struct matmul m = { strip, a, &y, R8_ROWS * n_bytes, sizeof a, 1, 1, 1, K };
        for (size_t i = 0; i < n_bytes; i++) /* any two bytes: an fp16 between 1 and 2; any four: a float near 1 */
            w[i] = i % 2 ? (uint8_t)(0x3c | (test_random(&seed) & 3)) : (uint8_t)(test_random(&seed) >> 40);
        for (size_t i = 0; i < K; i++)
            x[i] = (float)unit();
        k->quantize_act(a, x, K);
        if (!t->is_quantised)
            m.x = x;
        for (size_t i = 0; i < K; i++)
            values[i] = t->is_quantised ? (double)a[i / 32].q[i % 32] * (double)a[i / 32].d : (double)x[i];
        double want = 0, size = 0;
        for (size_t i = 0; i < K; i++) {
            want += read_value((enum tensor_type)type, w, i) * values[i];
            size += fabs(read_value((enum tensor_type)type, w, i) * values[i]);
        }
        r8_pack(strip, w, n_bytes, 1, (enum tensor_type)type, K);
        k->matmul[type](&m);
        /* Block types take offsets out of the sum: 1e-6 of the absolute sum allows for that. */
        if (!(fabs((double)y - want) <= 2e-6 * size))
            fail_msg("%s: %.9g, should be %.9g, terms %.3g", t->name, (double)y, want, size);
    }
}

static void attention_is_right(void **state)
{
    enum { HD = 40, N = 75, CHUNKS = 3, FIRST = 5 };
    enum { TILE = HD * 32 };
    static float kk[N][HD], vv[N][HD];
    static uint8_t chunks[KV_TYPE_COUNT][CHUNKS][2 * TILE * sizeof(float)]; /* K, behind it V */
    const struct kernels *k = kernels_by_name("ref");
    float q[HD], o[HD];
    for (size_t i = 0; i < HD; i++)
        q[i] = (float)unit() * 3.0f;
    for (size_t t = 0; t < N; t++) {
        for (size_t i = 0; i < HD; i++) {
            kk[t][i] = half_to_float(float_to_half((float)unit()));
            vv[t][i] = half_to_float(float_to_half((float)unit()));
        }
        k->kv_store[KV_F32](chunks[KV_F32][t / 32], chunks[KV_F32][t / 32] + TILE * 4, t % 32, kk[t], vv[t], HD);
        k->kv_store[KV_F16](chunks[KV_F16][t / 32], chunks[KV_F16][t / 32] + TILE * 2, t % 32, kk[t], vv[t], HD);
    }
    for (int type = 0; type < KV_TYPE_COUNT; type++)
        for (int capped = 0; capped < 2; capped++) {
            float m = -INFINITY, l = 0;
            double p[N], sum = 0;
            memset(o, 0, sizeof o);
            const uint8_t *list[CHUNKS];
            const struct attn_span seen = { FIRST, N };
            for (size_t c = 0; c < CHUNKS; c++)
                list[c] = chunks[type][c];
            const struct attn_walk a = { .q = q, .chunks = list, .seen = &seen, .m = &m, .l = &l, .o = o,
                                         .v_at = TILE * (type == KV_F16 ? 2 : 4), .n_chunks = CHUNKS, .n_q = 1,
                                         .head_dim = HD, .scale = 0.7f, .softcap = capped ? 2.0f : 0.0f };
            k->attn_walk[type](&a);
            k->attn_finish(o, l, HD);
            for (size_t t = FIRST; t < N; t++) {
                double s = 0;
                for (size_t i = 0; i < HD; i++)
                    s += (double)q[i] * (double)kk[t][i];
                s *= 0.7f;
                p[t] = exp(capped ? 2 * tanh(s / 2) : s);
                sum += p[t];
            }
            for (size_t i = 0; i < HD; i++) {
                double want = 0;
                for (size_t t = FIRST; t < N; t++)
                    want += p[t] * (double)vv[t][i] / sum;
                near(o[i], want, 3e-6);
            }
        }
}

/* Two halves of a history, merged, are the whole. */
static void merging_is_right(void **state)
{
    const struct kernels *k = kernels_by_name("ref");
    float m1 = 1.5f, l1 = 2.0f, o1[3] = { 1, 2, 3 }, m2 = 0.5f, l2 = 4.0f, o2[3] = { 5, -6, 7 };
    const double b = exp(-1.0);
    k->attn_merge(&m1, &l1, o1, &m2, &l2, o2, 3);
    assert_true(m1 == 1.5f);
    near(l1, 2 + 4 * b, 1e-6);
    near(o1[1], 2 - 6 * b, 1e-6);
    float m3 = -INFINITY, l3 = 0, o3[3] = { 0, 0, 0 };
    k->attn_merge(&m3, &l3, o3, &m2, &l2, o2, 3);
    assert_true(m3 == m2 && l3 == l2 && o3[2] == o2[2]);
    m1 = -INFINITY, l1 = 0;
    k->attn_merge(&m3, &l3, o3, &m1, &l1, o1, 3);
    assert_true(m3 == m2 && l3 == l2 && o3[2] == o2[2]);
}

static void unknown_names_are_refused(void **state)
{
    assert_null(kernels_by_name("abacus"));
    assert_string_equal(kernels_names()[0], "ref");
    assert_ptr_equal(kernels_get(NULL), kernels_get(NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_those_of_the_format),
        cmocka_unit_test(halves_convert_exactly),
        cmocka_unit_test(functions_are_accurate),
        cmocka_unit_test(functions_keep_their_edges),
        cmocka_unit_test(norms_are_right),
        cmocka_unit_test(rotation_is_right),
        cmocka_unit_test(activations_are_right),
        cmocka_unit_test(products_are_right),
        cmocka_unit_test(attention_is_right),
        cmocka_unit_test(merging_is_right),
        cmocka_unit_test(unknown_names_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* test_quant.c: weights into block formats.
 *
 * What is stored is read back by read_value below: the format's definition, element by element from bit
 * positions, sharing nothing with src/kernels. Measured are the error on Gaussian data (against bounds that
 * the usual tools' own quantiser, on the same data, does not meet or just meets), the distance of the search
 * from exhaustive search, exactness on the grid, extremes, importance, and that every machine writes the
 * same bytes.
 */
#include "support.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"

/* ---- an independent reader ---- */

static double half(const uint8_t *p)
{
    unsigned h = p[0] | (unsigned)p[1] << 8, e = h >> 10 & 31, f = h & 1023;
    double v = e == 0 ? ldexp(f, -24) : e < 31 ? ldexp(1024 + f, (int)e - 25) : f ? NAN : INFINITY;
    return h & 0x8000 ? -v : v;
}

static unsigned bits(const uint8_t *p, size_t first, size_t n)
{
    unsigned v = 0;
    for (size_t i = 0; i < n; i++)
        v |= (unsigned)(p[(first + i) / 8] >> (first + i) % 8 & 1) << i;
    return v;
}

static double iq4(unsigned n)
{
    static const int t[16] = { -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113 };
    return t[n];
}

/* Nibble of element i of 32: low halves first. */
static unsigned nibble(const uint8_t *qs, size_t i)
{
    return bits(qs, 8 * (i % 16) + 4 * (i / 16), 4);
}

/* Scale and minimum j of Q4_K and Q5_K. */
static void scale_min(const uint8_t *s, size_t j, unsigned *sc, unsigned *mn)
{
    if (j < 4) {
        *sc = bits(s, 8 * j, 6);
        *mn = bits(s, 8 * (j + 4), 6);
    } else {
        *sc = bits(s, 8 * (j + 4), 4) + 16 * bits(s, 8 * (j - 4) + 6, 2);
        *mn = bits(s, 8 * (j + 4) + 4, 4) + 16 * bits(s, 8 * j + 6, 2);
    }
}

static double read_value(enum tensor_type type, const uint8_t *b, size_t i)
{
    unsigned sc, mn, n;
    size_t j;
    switch (type) {
    case TYPE_Q4_0: return half(b) * ((int)nibble(b + 2, i) - 8);
    case TYPE_Q4_1: return half(b) * nibble(b + 4, i) + half(b + 2);
    case TYPE_Q5_0: return half(b) * ((int)(nibble(b + 6, i) + 16 * bits(b + 2, i, 1)) - 16);
    case TYPE_Q5_1: return half(b) * (nibble(b + 8, i) + 16 * bits(b + 4, i, 1)) + half(b + 2);
    case TYPE_Q8_0: return half(b) * (int8_t)b[2 + i];
    case TYPE_IQ4_NL: return half(b) * iq4(nibble(b + 2, i));
    case TYPE_IQ4_XS:
        j = i / 32;
        sc = bits(b + 4, 4 * j, 4) + 16 * bits(b + 2, 2 * j, 2);
        return half(b) * ((int)sc - 32) * iq4(nibble(b + 8 + 16 * j, i % 32));
    case TYPE_Q4_K:
        scale_min(b + 4, i / 32, &sc, &mn);
        n = bits(b + 16 + i / 64 * 32, 8 * (i % 32) + 4 * (i / 32 % 2), 4);
        return half(b) * sc * n - half(b + 2) * mn;
    case TYPE_Q5_K:
        scale_min(b + 4, i / 32, &sc, &mn);
        n = bits(b + 48 + i / 64 * 32, 8 * (i % 32) + 4 * (i / 32 % 2), 4) + 16 * bits(b + 16, 8 * (i % 32) + i / 32, 1);
        return half(b) * sc * n - half(b + 2) * mn;
    case TYPE_Q6_K:
        j = i % 128; /* four groups of 32 in each half: ql low, ql low of the next 32 bytes, then the high nibbles */
        n = bits(b + 64 * (i / 128) + 32 * (j / 32 % 2), 8 * (j % 32) + 4 * (j / 64), 4) +
            16 * bits(b + 128 + 32 * (i / 128), 8 * (j % 32) + 2 * (j / 32), 2);
        return half(b + 208) * (int8_t)b[192 + i / 16] * ((int)n - 32);
    case TYPE_Q2_K:
        n = bits(b + 16 + 32 * (i / 128), 8 * (i % 32) + 2 * (i % 128 / 32), 2);
        return half(b + 80) * bits(b, 8 * (i / 16), 4) * n - half(b + 82) * bits(b, 8 * (i / 16) + 4, 4);
    case TYPE_Q3_K:
        j = i / 16;
        sc = bits(b + 96, 8 * (j % 8) + 4 * (j / 8), 4) + 16 * bits(b + 104, 8 * (j % 4) + 2 * (j / 4), 2);
        n = bits(b + 32 + 32 * (i / 128), 8 * (i % 32) + 2 * (i % 128 / 32), 2) + 4 * bits(b, 8 * (i % 32) + i / 32, 1);
        return half(b + 108) * ((int)sc - 32) * ((int)n - 4);
    case TYPE_F16: return half(b);
    case TYPE_BF16: {
        uint32_t u = (uint32_t)(b[0] | (unsigned)b[1] << 8) << 16;
        float f;
        memcpy(&f, &u, 4);
        return (double)f;
    }
    default: {
        float f;
        memcpy(&f, b, 4);
        return (double)f;
    }
    }
}

static const enum tensor_type all_types[] = {
    TYPE_F32,  TYPE_F16,  TYPE_BF16, TYPE_Q4_0, TYPE_Q4_1, TYPE_Q5_0,   TYPE_Q5_1,   TYPE_Q8_0,
    TYPE_Q2_K, TYPE_Q3_K, TYPE_Q4_K, TYPE_Q5_K, TYPE_Q6_K, TYPE_IQ4_NL, TYPE_IQ4_XS,
};

/* Stores and reads back n values; guard bytes behind must stay. */
static void round_trip(double *y, const float *x, size_t n, enum tensor_type type, const float *importance)
{
    static uint8_t out[4 * 65536 + 16];
    const struct type_info *t = type_info((uint32_t)type);
    size_t bytes;
    assert_true(type_row_bytes(&bytes, (uint32_t)type, n) && bytes + 16 <= sizeof out);
    memset(out, 0xa5, bytes + 16);
    assert_true(quantize_row(out, x, n, type, importance));
    for (size_t i = 0; i < 16; i++)
        assert_int_equal(out[bytes + i], 0xa5);
    for (size_t i = 0; i < n; i++)
        y[i] = read_value(type, out + i / t->block_len * t->block_bytes, i % t->block_len);
}

/* ---- data ---- */

static double uniform(uint64_t *s)
{
    return (double)(test_random(s) >> 11) * 0x1p-53;
}

static double gauss(uint64_t *s)
{
    double u = uniform(s);
    return sqrt(-2 * log(u + 1e-300)) * cos(6.283185307179586 * uniform(s));
}

enum { N = 65536 };
static float data[N], weight[N];
static double back[N];

static void fill_gauss(double sigma, uint64_t seed)
{
    for (size_t i = 0; i < N; i++)
        data[i] = (float)(sigma * gauss(&seed));
}

static double relative_error(const float *w)
{
    double e = 0, s = 0;
    for (size_t i = 0; i < N; i++) {
        double d = back[i] - (double)data[i], k = w ? (double)w[i] : 1;
        e += k * d * d;
        s += k * (double)data[i] * (double)data[i];
    }
    return sqrt(e / s);
}

/* ---- tests ---- */

/* Relative root-mean-square error on Gaussian data. `usual` is what the usual tools' quantiser gives on such data (512
 * Ki values); ours must be below the bound, which leaves 1 % to the noise of this sample. */
static void gaussian_error_is_small(void **state)
{
    static const struct { enum tensor_type type; double bound, usual; } expect[] = {
        { TYPE_F32, 1e-12, 0 },         { TYPE_F16, 2.4e-4, 2.4e-4 },   { TYPE_BF16, 1.9e-3, 1.9e-3 },
        { TYPE_Q4_0, 0.0825, 0.0860 },  { TYPE_Q4_1, 0.0705, 0.0784 },  { TYPE_Q5_0, 0.0407, 0.0428 },
        { TYPE_Q5_1, 0.0341, 0.0379 },  { TYPE_Q8_0, 0.0049, 0.00536 }, { TYPE_IQ4_NL, 0.0746, 0.0763 },
        { TYPE_Q2_K, 0.2676, 0.2973 },  { TYPE_Q3_K, 0.1469, 0.1512 },  { TYPE_Q4_K, 0.0711, 0.0715 },
        { TYPE_Q5_K, 0.0351, 0.0362 },  { TYPE_Q6_K, 0.0170, 0.0178 },  { TYPE_IQ4_XS, 0.0753, 0.0769 },
    };
    fill_gauss(0.02, 1);
    for (size_t k = 0; k < ARRAY_LEN(expect); k++) {
        round_trip(back, data, N, expect[k].type, NULL);
        double e = relative_error(NULL);
        printf("%-7s relative rms error %.5f (bound %.5f, usual %.5f)\n", type_info((uint32_t)expect[k].type)->name, e,
               expect[k].bound, expect[k].usual);
        assert_true(e <= expect[k].bound);
    }
}

/* The kernels' own reader and this file's agree on everything the quantiser writes. */
static void readers_agree(void **state)
{
    const struct kernels *k = kernels_by_name("ref");
    static float y[4096];
    static uint8_t out[4 * 4096];
    fill_gauss(1, 2);
    for (size_t t = 0; t < ARRAY_LEN(all_types); t++) {
        const struct type_info *info = type_info((uint32_t)all_types[t]);
        assert_true(quantize_row(out, data, 4096, all_types[t], NULL));
        k->dequant_row[all_types[t]](y, out, 4096);
        for (size_t i = 0; i < 4096; i++) {
            double v = read_value(all_types[t], out + i / info->block_len * info->block_bytes, i % info->block_len);
            assert_true(fabs((double)y[i] - v) <= 1e-6 * (fabs(v) + 1));
        }
    }
}

/* Weighted error of a block for a real scale s, in double; the weights are those of quant.c. */
static double block_error(const float *x, double s, double min, int lo, int hi, const double *w)
{
    double e = 0;
    for (size_t i = 0; i < 32; i++) {
        double q = s != 0 ? nearbyint(((double)x[i] - min) / s) : 0;
        q = q < lo ? lo : q > hi ? hi : q;
        double d = (double)x[i] - s * q - min;
        e += w[i] * d * d;
    }
    return e;
}

static void block_weights(double w[32], const float *x)
{
    double ss = 0;
    for (size_t i = 0; i < 32; i++)
        ss += (double)x[i] * (double)x[i];
    for (size_t i = 0; i < 32; i++)
        w[i] = sqrt(ss / 32) + fabs((double)x[i]);
}

/* The search against exhaustive search: 3000 scales of both signs, and least squares is not even needed at that
 * density. The mean of the ratio over 200 blocks; a search that kept the plain maximum would be at 1.1 and more. */
static void search_is_near_exhaustive(void **state)
{
    static const struct { enum tensor_type type; int lo, hi; double bound; } cases[] = {
        { TYPE_Q4_0, -8, 7, 1.02 }, { TYPE_Q5_0, -16, 15, 1.04 },
    };
    for (size_t c = 0; c < ARRAY_LEN(cases); c++) {
        double sum = 0;
        fill_gauss(1, 3 + c);
        round_trip(back, data, N, cases[c].type, NULL);
        for (size_t b = 0; b < 200; b++) {
            const float *x = data + 32 * b;
            double w[32], best = INFINITY, ours = 0, amax = 0;
            block_weights(w, x);
            for (size_t i = 0; i < 32; i++) {
                amax = fmax(amax, fabs((double)x[i]));
                ours += w[i] * pow(back[32 * b + i] - (double)x[i], 2);
            }
            for (int k = 0; k < 3000; k++) {
                double s = amax / (cases[c].hi * (0.6 + 0.0003 * k));
                best = fmin(best, block_error(x, s, 0, cases[c].lo, cases[c].hi, w));
                best = fmin(best, block_error(x, -s, 0, cases[c].lo, cases[c].hi, w));
            }
            sum += ours / best;
        }
        printf("%s: %.4f of exhaustive search\n", type_info((uint32_t)cases[c].type)->name, sum / 200);
        assert_true(sum / 200 < cases[c].bound);
    }
}

/* The same with a minimum: both ends on a grid of 60 x 60. */
static void affine_search_is_near_exhaustive(void **state)
{
    double sum = 0;
    fill_gauss(1, 9);
    round_trip(back, data, N, TYPE_Q4_1, NULL);
    for (size_t b = 0; b < 100; b++) {
        const float *x = data + 32 * b;
        double w[32], best = INFINITY, ours = 0, lo = INFINITY, hi = -INFINITY;
        block_weights(w, x);
        for (size_t i = 0; i < 32; i++) {
            lo = fmin(lo, (double)x[i]);
            hi = fmax(hi, (double)x[i]);
            ours += w[i] * pow(back[32 * b + i] - (double)x[i], 2);
        }
        for (int k = 0; k < 3600; k++) {
            double low = lo + (hi - lo) * 0.0025 * (k / 60 - 12), high = hi - (hi - lo) * 0.0025 * (k % 60 - 12);
            best = fmin(best, block_error(x, (high - low) / 15, low, 0, 15, w));
        }
        sum += ours / best;
    }
    printf("Q4_1: %.4f of exhaustive search\n", sum / 100);
    assert_true(sum / 100 < 1.06);
}

/* Values that the format can hold come back as they were. */
static void grid_values_are_exact(void **state)
{
    static const struct { enum tensor_type type; int lo, hi; double step, min; } cases[] = {
        { TYPE_Q4_0, -8, 7, 0.0078125, 0 },   { TYPE_Q5_0, -16, 15, 3, 0 },       { TYPE_Q8_0, -127, 127, 0.25, 0 },
        { TYPE_Q4_1, 0, 15, 0.125, -0.75 },   { TYPE_Q5_1, 0, 31, 0.5, 100 },     { TYPE_Q4_1, 0, 15, 0.0009765625, 5 },
        { TYPE_Q4_0, -8, 7, -0.0546875, 0 },  { TYPE_Q5_0, -16, 15, 0x1p-20, 0 }, { TYPE_F16, -1000, 1000, 0.25, 0 },
        { TYPE_BF16, -100, 100, 0x1p100, 0 },
    };
    for (size_t c = 0; c < ARRAY_LEN(cases); c++) {
        uint64_t seed = 77 + c;
        int span = cases[c].hi - cases[c].lo + 1;
        for (size_t i = 0; i < 4096; i++) {
            int q = i % 32 == 0 ? cases[c].lo : i % 32 == 1 ? cases[c].hi : cases[c].lo + (int)(test_random(&seed) % (unsigned)span);
            data[i] = (float)(cases[c].min + cases[c].step * q);
        }
        round_trip(back, data, 4096, cases[c].type, NULL);
        for (size_t i = 0; i < 4096; i++)
            if (back[i] != (double)data[i])
                fail_msg("%s case %zu element %zu: %.9g came back as %.9g", type_info((uint32_t)cases[c].type)->name, c, i,
                         (double)data[i], back[i]);
    }
}

/* Storing what was read back changes nothing any more, for the types of one scale. */
static void storing_twice_changes_nothing(void **state)
{
    static const enum tensor_type types[] = { TYPE_Q4_0, TYPE_Q5_0, TYPE_Q8_0, TYPE_Q4_1, TYPE_Q5_1, TYPE_IQ4_NL };
    for (size_t t = 0; t < ARRAY_LEN(types); t++) {
        fill_gauss(0.3, 30 + t);
        round_trip(back, data, N, types[t], NULL);
        for (size_t i = 0; i < N; i++)
            data[i] = (float)back[i];
        round_trip(back, data, N, types[t], NULL);
        double e = relative_error(NULL);
        printf("%-7s stored again: %.2e\n", type_info((uint32_t)types[t])->name, e);
        assert_true(e == 0);
    }
}

static void zeros_and_constants(void **state)
{
    static const double values[] = { 1, -1, 0.02, -0.3, 1e-3, 77.7, -4096 };
    for (size_t t = 0; t < ARRAY_LEN(all_types); t++) {
        for (size_t i = 0; i < 512; i++)
            data[i] = i % 3 ? 0.0f : -0.0f;
        round_trip(back, data, 512, all_types[t], NULL);
        for (size_t i = 0; i < 512; i++)
            assert_true(back[i] == 0);
        for (size_t k = 0; k < ARRAY_LEN(values); k++) {
            for (size_t i = 0; i < 512; i++)
                data[i] = (float)values[k];
            round_trip(back, data, 512, all_types[t], NULL);
            /* The scale of a scale is a number of few bits in half precision when the weights are small. */
            double near = fabs(values[k]) < 0.01 ? 0.02 : fabs(values[k]) < 0.25 ? 0.01 : 0.005;
            for (size_t i = 0; i < 512; i++)
                if (fabs(back[i] - values[k]) > near * fabs(values[k]))
                    fail_msg("%s: constant %g came back as %g", type_info((uint32_t)all_types[t])->name, values[k], back[i]);
        }
    }
}

/* One block of zeros beside one of ordinary values, and groups of zeros inside a block. */
static void zero_groups_stay_zero(void **state)
{
    for (size_t t = 0; t < ARRAY_LEN(all_types); t++) {
        fill_gauss(1, 50);
        for (size_t i = 0; i < N; i++)
            if (i / 32 % 3 == 1)
                data[i] = 0;
        round_trip(back, data, N, all_types[t], NULL);
        for (size_t i = 0; i < N; i++)
            if (i / 32 % 3 == 1 && all_types[t] != TYPE_IQ4_XS) /* whose table has no zero */
                assert_true(back[i] == 0);
            else
                assert_true(fabs(back[i] - (double)data[i]) < 1.5);
    }
}

/* Everything finite gives something finite; where the scale is representable the relative error is the usual one. */
static void magnitudes(void **state)
{
    static const double sizes[] = { 1e-42, 1e-30, 1e-12, 1e-9, 1e-4, 1, 300, 1e4, 1e5, 1e9, 1e20, 3e37 };
    for (size_t t = 0; t < ARRAY_LEN(all_types); t++)
        for (size_t k = 0; k < ARRAY_LEN(sizes); k++) {
            fill_gauss(sizes[k], 60 + k);
            round_trip(back, data, 4096, all_types[t], NULL);
            double e = 0, s = 0;
            for (size_t i = 0; i < 4096; i++) {
                assert_true(isfinite(back[i]));
                assert_true(fabs(back[i]) <= 3e38 * 1.01);
                e += pow((back[i] - (double)data[i]) / sizes[k], 2);
                s += pow((double)data[i] / sizes[k], 2);
            }
            if (sizes[k] >= 1e-4 && sizes[k] <= 1e4)
                assert_true(sqrt(e / s) < 0.29);
            else if (sizes[k] < 1e-9 && all_types[t] != TYPE_F32 && all_types[t] != TYPE_BF16)
                for (size_t i = 0; i < 4096; i++)
                    assert_true(back[i] == 0); /* below half precision: turns to zero, never to noise */
        }
    /* Saturation keeps the sign and gives the largest value there is. */
    for (size_t i = 0; i < 256; i++)
        data[i] = i % 2 ? 1e30f : -1e30f;
    round_trip(back, data, 256, TYPE_F16, NULL);
    assert_true(back[0] == -65504 && back[1] == 65504);
    round_trip(back, data, 256, TYPE_Q8_0, NULL);
    assert_true(back[0] == -65504.0 * 127 && back[1] == 65504.0 * 127);
    data[0] = FLT_MAX;
    round_trip(back, data, 256, TYPE_BF16, NULL);
    assert_true(isfinite(back[0]) && back[0] > 3e38);
}

/* A value that is not finite does not spoil its block. */
static void not_finite_is_contained(void **state)
{
    static const float bad[] = { NAN, INFINITY, -INFINITY };
    for (size_t t = 3; t < ARRAY_LEN(all_types); t++) /* the block types */
        for (size_t k = 0; k < ARRAY_LEN(bad); k++) {
            fill_gauss(1, 70);
            data[17] = bad[k];
            round_trip(back, data, 512, all_types[t], NULL);
            for (size_t i = 0; i < 512; i++)
                assert_true(isfinite(back[i]) && (i == 17 || fabs(back[i] - (double)data[i]) < 1.2));
        }
}

/* A single outlier of 100 sigma: it must come back within a step, the others within half a step of its scale. */
static void outliers(void **state)
{
    static const struct { enum tensor_type type; double near; } cases[] = {
        { TYPE_Q8_0, 0.01 }, { TYPE_Q6_K, 0.04 }, { TYPE_Q5_K, 0.05 }, { TYPE_Q4_K, 0.09 }, { TYPE_Q4_0, 0.12 },
        { TYPE_Q5_0, 0.06 }, { TYPE_IQ4_NL, 0.12 }, { TYPE_Q3_K, 0.25 },
    };
    for (size_t c = 0; c < ARRAY_LEN(cases); c++)
        for (int sign = -1; sign <= 1; sign += 2) {
            fill_gauss(1, 80 + c);
            data[100] = 100.0f * (float)sign;
            round_trip(back, data, 512, cases[c].type, NULL);
            assert_true(fabs(back[100] - (double)data[100]) < 100 * cases[c].near);
            for (size_t i = 256; i < 512; i++) /* the next block knows nothing of it */
                assert_true(fabs(back[i] - (double)data[i]) < 1.2);
        }
}

/* Importance moves the error to where it does not matter. */
static void importance_lowers_the_weighted_error(void **state)
{
    uint64_t seed = 90;
    for (size_t i = 0; i < N; i++)
        weight[i] = (float)exp(1.5 * gauss(&seed));
    fill_gauss(0.05, 91);
    for (size_t t = 3; t < ARRAY_LEN(all_types); t++) {
        round_trip(back, data, N, all_types[t], NULL);
        double without = relative_error(weight), plain_without = relative_error(NULL);
        round_trip(back, data, N, all_types[t], weight);
        double with = relative_error(weight), plain_with = relative_error(NULL);
        printf("%-7s weighted error %.5f without importance, %.5f with\n", type_info((uint32_t)all_types[t])->name, without, with);
        assert_true(with < 0.98 * without);
        assert_true(plain_with > plain_without);
    }
    /* All zero, or not a number: as if there were none. Scaling all of it changes nothing. */
    static double other[N];
    round_trip(back, data, N, TYPE_Q4_K, NULL);
    for (size_t i = 0; i < N; i++)
        weight[i] = i % 2 ? 0.0f : NAN;
    round_trip(other, data, N, TYPE_Q4_K, weight);
    assert_memory_equal(back, other, sizeof other);
    for (size_t i = 0; i < N; i++)
        weight[i] = i % 5 ? 3.0f : 0.0f;
    round_trip(back, data, N, TYPE_Q4_K, weight);
    for (size_t i = 0; i < N; i++)
        weight[i] *= 0x1p20f;
    round_trip(other, data, N, TYPE_Q4_K, weight);
    assert_memory_equal(back, other, sizeof other);
}

/* The bytes are the same on every machine and with every compiler: a hash of them. The data come from integers
 * alone, so that no library's log or cos takes part. */
static void bytes_are_the_same_everywhere(void **state)
{
    static const struct { enum tensor_type type; uint64_t plain, weighted; } expect[] = {
        { TYPE_Q4_0, 0xd528ec1ea7ca689d, 0x1457c9b98dec3867 },
        { TYPE_Q4_1, 0xe91ffa491518bfa3, 0x32613081ef9f5fd4 },
        { TYPE_Q5_0, 0x325d4e92ab573c1b, 0x41573f55288ec92b },
        { TYPE_Q5_1, 0x6938b97d2533c4b6, 0xd16cf16c43bea3c4 },
        { TYPE_Q8_0, 0x5d92dbb490d622d7, 0x9a74e228c0dec74a },
        { TYPE_Q2_K, 0x3baf3b81aedf5ff8, 0x374a709ff29421db },
        { TYPE_Q3_K, 0x5552bc5118062b44, 0x2a068f27655fa058 },
        { TYPE_Q4_K, 0x84231c00a67bda98, 0xc4e87e55dc039dbe },
        { TYPE_Q5_K, 0xa40887e0d5b1c87d, 0x9fbd2973a970d3bf },
        { TYPE_Q6_K, 0xf093eb277de021bc, 0xb5dac0ff85017eb4 },
        { TYPE_IQ4_NL, 0xfabf5c5a6d3fe583, 0xb1ba7ef5ef35acba },
        { TYPE_IQ4_XS, 0xf10bf8f566ae3883, 0xc6a4762cee41ecfc },
        { TYPE_F16, 0x51e9951f6c9ece35, 0x51e9951f6c9ece35 },
        { TYPE_BF16, 0x384654415b374f95, 0x384654415b374f95 },
    };
    static uint8_t out[4 * N];
    uint64_t seed = 5;
    for (size_t i = 0; i < N; i++) {
        int32_t sum = 0;
        for (int k = 0; k < 4; k++)
            sum += (int32_t)(test_random(&seed) >> 44) - (1 << 19);
        data[i] = (float)sum * 0x1p-22f;
        weight[i] = (float)(test_random(&seed) >> 50);
    }
    for (size_t k = 0; k < ARRAY_LEN(expect); k++)
        for (int weighted = 0; weighted < 2; weighted++) {
            size_t bytes;
            uint64_t h = 14695981039346656037u;
            assert_true(type_row_bytes(&bytes, (uint32_t)expect[k].type, N));
            assert_true(quantize_row(out, data, N, expect[k].type, weighted ? weight : NULL));
            for (size_t i = 0; i < bytes; i++)
                h = (h ^ out[i]) * 1099511628211u;
            if (h != (weighted ? expect[k].weighted : expect[k].plain))
                fail_msg("%s %s: hash is %016llx", type_info((uint32_t)expect[k].type)->name, weighted ? "weighted" : "plain",
                         (unsigned long long)h);
        }
}

static void what_cannot_be_written(void **state)
{
    uint8_t out[1024];
    fill_gauss(1, 99);
    assert_false(quantize_row(out, data, 256, TYPE_IQ2_XXS, NULL));
    assert_false(quantize_row(out, data, 256, TYPE_Q8_K, NULL));
    assert_false(quantize_row(out, data, 256, TYPE_I32, NULL));
    assert_false(quantize_row(out, data, 256, TYPE_COUNT, NULL));
    for (size_t t = 0; t < ARRAY_LEN(all_types); t++)
        assert_true(quantize_row(out, data, 0, all_types[t], NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gaussian_error_is_small),
        cmocka_unit_test(readers_agree),
        cmocka_unit_test(search_is_near_exhaustive),
        cmocka_unit_test(affine_search_is_near_exhaustive),
        cmocka_unit_test(grid_values_are_exact),
        cmocka_unit_test(storing_twice_changes_nothing),
        cmocka_unit_test(zeros_and_constants),
        cmocka_unit_test(zero_groups_stay_zero),
        cmocka_unit_test(magnitudes),
        cmocka_unit_test(not_finite_is_contained),
        cmocka_unit_test(outliers),
        cmocka_unit_test(importance_lowers_the_weighted_error),
        cmocka_unit_test(bytes_are_the_same_everywhere),
        cmocka_unit_test(what_cannot_be_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

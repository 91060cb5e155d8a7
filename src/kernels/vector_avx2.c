/* vector_avx2.c: the entries that work on vectors, eight values at a time.
 *
 * Element by element entries are one loop of whole vectors and one masked vector for the tail. The norms keep the
 * eight lanes of rule 3 in one register; a masked tail adds fma(0, 0, lane) = lane to the lanes it lacks.
 * Dequantisation converts 16-bit floats here; the block types stay scalar (they fetch one embedding per token).
 */
#include "avx2.h"

/* One activation block of 32. NaN is passed over by the maximum and stored as -127, as in ref.c. */
static void quantize_act(struct act_block *out, const float *x, size_t n)
{
    const __m256 abs = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    const __m256 low = _mm256_set1_ps(-127.0f), high = _mm256_set1_ps(127.0f);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (size_t i = 0; i < n / 32; i++, out++, x += 32) {
        __m256 v[4], m = _mm256_setzero_ps();
        for (size_t j = 0; j < 4; j++) {
            v[j] = _mm256_loadu_ps(x + 8 * j);
            m = _mm256_max_ps(_mm256_and_ps(v[j], abs), m);
        }
        __m128 h = _mm_max_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps(m, 1));
        h = _mm_max_ps(h, _mm_movehl_ps(h, h));
        float amax = _mm_cvtss_f32(_mm_max_ss(h, _mm_movehdup_ps(h)));
        amax = amax >= ACT_TINY ? amax : 0;
        float id = amax > 0 ? 127.0f / amax : 0;
        __m256i q[4];
        for (size_t j = 0; j < 4; j++) {
            __m256 t = _mm256_mul_ps(v[j], _mm256_set1_ps(id));
            t = _mm256_min_ps(_mm256_max_ps(t, low), high);
            q[j] = _mm256_cvtps_epi32(t);
        }
        /* The packs work within 128-bit halves; `order` puts the groups of four back into place. */
        __m256i b = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
        b = _mm256_permutevar8x32_epi32(b, order);
        _mm256_storeu_si256((__m256i *)out->q, b);
        __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), b); /* pair j belongs to lane j mod 2 */
        __m256i even = _mm256_madd_epi16(pairs, _mm256_set1_epi32(1));
        __m256i odd = _mm256_madd_epi16(pairs, _mm256_set1_epi32(1 << 16));
        __m256i t = _mm256_hadd_epi32(even, odd);
        t = _mm256_hadd_epi32(t, t); /* per half: even, odd, even, odd */
        int e0 = _mm256_extract_epi32(t, 0), o0 = _mm256_extract_epi32(t, 1);
        int e1 = _mm256_extract_epi32(t, 4), o1 = _mm256_extract_epi32(t, 5);
        out->d = amax / 127.0f;
        out->sd = out->d * (float)(e0 + o0 + e1 + o1);
        out->sum16[0] = (int16_t)(e0 + o0);
        out->sum16[1] = (int16_t)(e1 + o1);
        out->lane[0] = (int16_t)(e0 + e1);
        out->lane[1] = (int16_t)(o0 + o1);
    }
}

static void rms_norm(float *y, const float *x, const float *w, size_t n, float eps)
{
    const size_t whole = n / 8 * 8;
    const __m256i tail = first_lanes(n - whole);
    const __m256 last = n > whole ? _mm256_maskload_ps(x + whole, tail) : _mm256_setzero_ps();
    __m256 lane = _mm256_setzero_ps();
    for (size_t i = 0; i < whole; i += 8) {
        __m256 v = _mm256_loadu_ps(x + i);
        lane = _mm256_fmadd_ps(v, v, lane);
    }
    lane = _mm256_fmadd_ps(last, last, lane);
    const float r = 1.0f / sqrtf(tree_sum(lane) / (float)n + eps);
    const __m256 r8 = _mm256_set1_ps(r);
    for (size_t i = 0; i < whole; i += 8) {
        __m256 v = _mm256_mul_ps(_mm256_loadu_ps(x + i), r8);
        _mm256_storeu_ps(y + i, w ? _mm256_mul_ps(v, _mm256_loadu_ps(w + i)) : v);
    }
    if (n > whole) {
        __m256 v = _mm256_mul_ps(last, r8);
        _mm256_maskstore_ps(y + whole, tail, w ? _mm256_mul_ps(v, _mm256_maskload_ps(w + whole, tail)) : v);
    }
}

static void layer_norm(float *y, const float *x, const float *w, const float *b, size_t n, float eps)
{
    const size_t whole = n / 8 * 8;
    const __m256i tail = first_lanes(n - whole);
    const __m256 last = n > whole ? _mm256_maskload_ps(x + whole, tail) : _mm256_setzero_ps();
    const __m256 one = _mm256_set1_ps(1.0f), zero = _mm256_setzero_ps();
    __m256 lane = zero, square = zero;
    for (size_t i = 0; i < whole; i += 8)
        lane = _mm256_add_ps(lane, _mm256_loadu_ps(x + i));
    lane = _mm256_add_ps(lane, last);
    const __m256 mean = _mm256_set1_ps(tree_sum(lane) / (float)n);
    for (size_t i = 0; i < whole; i += 8) {
        __m256 t = _mm256_sub_ps(_mm256_loadu_ps(x + i), mean);
        square = _mm256_fmadd_ps(t, t, square);
    }
    __m256 t = _mm256_and_ps(_mm256_sub_ps(last, mean), _mm256_castsi256_ps(tail));
    square = _mm256_fmadd_ps(t, t, square);
    const __m256 r = _mm256_set1_ps(1.0f / sqrtf(tree_sum(square) / (float)n + eps));
    for (size_t i = 0; i < whole; i += 8) {
        __m256 v = _mm256_mul_ps(_mm256_sub_ps(_mm256_loadu_ps(x + i), mean), r);
        _mm256_storeu_ps(y + i, _mm256_fmadd_ps(v, w ? _mm256_loadu_ps(w + i) : one, b ? _mm256_loadu_ps(b + i) : zero));
    }
    if (n > whole)
        _mm256_maskstore_ps(y + whole, tail,
                            _mm256_fmadd_ps(_mm256_mul_ps(t, r), w ? _mm256_maskload_ps(w + whole, tail) : one,
                                            b ? _mm256_maskload_ps(b + whole, tail) : zero));
}

static void add(float *y, const float *x, size_t n)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, _mm256_add_ps(_mm256_loadu_ps(y + i), _mm256_loadu_ps(x + i)));
    for (; i < n; i++)
        y[i] += x[i];
}

static void scale(float *y, float s, size_t n)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, _mm256_mul_ps(_mm256_loadu_ps(y + i), _mm256_set1_ps(s)));
    for (; i < n; i++)
        y[i] *= s;
}

static void relu(float *y, size_t n)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, _mm256_max_ps(_mm256_loadu_ps(y + i), _mm256_setzero_ps()));
    for (; i < n; i++)
        y[i] = y[i] > 0 ? y[i] : 0;
}

static void softcap(float *y, float cap, size_t n)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, softcap8(_mm256_loadu_ps(y + i), cap));
    for (; i < n; i++)
        y[i] = scalar_softcap(y[i], cap);
}

static void exp_scaled(float *y, float shift, float rate, size_t n)
{
    __m256 s = _mm256_set1_ps(shift), r = _mm256_set1_ps(rate);
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, exp8(_mm256_mul_ps(_mm256_sub_ps(_mm256_loadu_ps(y + i), s), r)));
    for (; i < n; i++)
        y[i] = scalar_exp((y[i] - shift) * rate);
}

static void gelu(float *y, size_t n)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, gelu8(_mm256_loadu_ps(y + i)));
    for (; i < n; i++)
        y[i] = scalar_gelu(y[i]);
}

static void silu_mul(float *y, const float *gate, const float *up, size_t n)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, _mm256_mul_ps(silu8(_mm256_loadu_ps(gate + i)), _mm256_loadu_ps(up + i)));
    for (; i < n; i++)
        y[i] = scalar_silu(gate[i]) * up[i];
}

static void gelu_mul(float *y, const float *gate, const float *up, size_t n)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, _mm256_mul_ps(gelu8(_mm256_loadu_ps(gate + i)), _mm256_loadu_ps(up + i)));
    for (; i < n; i++)
        y[i] = scalar_gelu(gate[i]) * up[i];
}

static void rotate(float *x0, float *x1, float cos, float sin)
{
    float a = *x0, b = *x1;
    *x0 = fmaf(a, cos, -(b * sin));
    *x1 = fmaf(a, sin, b * cos);
}

/* Four pairs: with cs = c s c s ..., the result is fma(a a .., cs, -+(b b .. * sc)). */
static void rope_pairs(float *x, const float *cos, const float *sin, size_t n_pairs)
{
    const __m256 minus_even = _mm256_castsi256_ps(_mm256_set1_epi64x(0x80000000));
    size_t i = 0;
    for (; i + 4 <= n_pairs; i += 4) {
        __m128 c = _mm_loadu_ps(cos + i), s = _mm_loadu_ps(sin + i);
        __m256 cs = _mm256_set_m128(_mm_unpackhi_ps(c, s), _mm_unpacklo_ps(c, s));
        __m256 v = _mm256_loadu_ps(x + 2 * i);
        __m256 t = _mm256_mul_ps(_mm256_movehdup_ps(v), _mm256_permute_ps(cs, 0xb1));
        t = _mm256_xor_ps(t, minus_even);
        _mm256_storeu_ps(x + 2 * i, _mm256_fmadd_ps(_mm256_moveldup_ps(v), cs, t));
    }
    for (; i < n_pairs; i++)
        rotate(&x[2 * i], &x[2 * i + 1], cos[i], sin[i]);
}

static void rope_halves(float *x, const float *cos, const float *sin, size_t n_pairs)
{
    size_t i = 0;
    for (; i + 8 <= n_pairs; i += 8) {
        __m256 a = _mm256_loadu_ps(x + i), b = _mm256_loadu_ps(x + n_pairs + i);
        __m256 c = _mm256_loadu_ps(cos + i), s = _mm256_loadu_ps(sin + i);
        _mm256_storeu_ps(x + i, _mm256_fmsub_ps(a, c, _mm256_mul_ps(b, s)));
        _mm256_storeu_ps(x + n_pairs + i, _mm256_fmadd_ps(a, s, _mm256_mul_ps(b, c)));
    }
    for (; i < n_pairs; i++)
        rotate(&x[i], &x[i + n_pairs], cos[i], sin[i]);
}

static void row_f16(float *y, const void *w, size_t n)
{
    const uint8_t *p = w;
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 2 * i))));
    for (; i < n; i++)
        y[i] = half_bits_to_float(load_le16(p + 2 * i));
}

static void row_bf16(float *y, const void *w, size_t n)
{
    const uint8_t *p = w;
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256i v = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(p + 2 * i)));
        _mm256_storeu_si256((__m256i *)(y + i), _mm256_slli_epi32(v, 16));
    }
    for (; i < n; i++)
        y[i] = bf16_bits_to_float(load_le16(p + 2 * i));
}

void avx2_vector_init(struct kernels *t)
{
    t->quantize_act = quantize_act;
    t->rms_norm = rms_norm;
    t->layer_norm = layer_norm;
    t->add = add;
    t->scale = scale;
    t->softcap = softcap;
    t->exp_scaled = exp_scaled;
    t->relu = relu;
    t->gelu = gelu;
    t->silu_mul = silu_mul;
    t->gelu_mul = gelu_mul;
    t->rope_pairs = rope_pairs;
    t->rope_halves = rope_halves;
    t->dequant_row[TYPE_F16] = row_f16;
    t->dequant_row[TYPE_BF16] = row_bf16;
}

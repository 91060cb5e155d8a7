/* ref_matmul.c: matrix products as rule 2 of kernels.h says, in plain loops: the specification.
 *
 * A strip is taken apart into the eight rows it came from (r8.c), a unit at a time; then one output at a time: a block
 * of a row meets its activations and is added to the sum so far, in ascending k. Each type has a function for that
 * step. Integer weights of 32 values are unpacked to int8 without their zero point, so the integer sum is the sum of
 * the definition; vector code may move zero points elsewhere, because integer sums are exact.
 *
 * It is slow on purpose: nothing here is worth a second look for speed, and everything is worth reading twice.
 */
#include "blocks.h"
#include "init.h"
#include "r8.h"
#include "scalar.h"

/* y + the product of k values of a row with k activations. */
typedef float (*dot_fn)(float y, const void *w, const void *x, size_t k);

enum { PLAIN_STEP = 32, STEP_BYTES = 256 }; /* values of plain types taken at once; the largest block or step */

static void each_output(const struct matmul *a, enum tensor_type type, dot_fn dot)
{
    const struct type_info *info = type_info((uint32_t)type);
    uint8_t rows[R8_ROWS][STEP_BYTES];
    for (size_t c = 0; c < a->n_cols; c++)
        for (size_t r = 0; r < a->n_rows; r++)
            a->y[c * a->y_stride + r] = 0;
    for (size_t row = 0; row < a->n_rows; row += R8_ROWS) {
        const uint8_t *strip = (const uint8_t *)a->w + row / R8_ROWS * a->strip_bytes;
        const size_t n_rows = MIN(a->n_rows - row, (size_t)R8_ROWS);
        for (size_t k = 0, n; k < a->k; k += n) {
            n = info->is_quantised ? info->block_len : MIN(a->k - k, (size_t)PLAIN_STEP);
            CHECK(n / info->block_len * info->block_bytes <= STEP_BYTES);
            r8_unpack_part(rows, STEP_BYTES, n_rows, strip, type, k / info->block_len, n);
            for (size_t c = 0; c < a->n_cols; c++) {
                const uint8_t *x = (const uint8_t *)a->x + c * a->x_stride_bytes +
                                   (info->is_quantised ? k / QK * sizeof(struct act_block) : k * sizeof(float));
                float *y = a->y + c * a->y_stride + row;
                for (size_t r = 0; r < n_rows; r++)
                    y[r] = dot(y[r], rows[r], x, n);
            }
        }
    }
}

/* ---- plain types ---- */

static float dot_f32(float y, const void *w, const void *x, size_t k)
{
    const uint8_t *p = w, *px = x;
    for (size_t i = 0; i < k; i++)
        y = fmaf(load_f32(p + 4 * i), load_f32(px + 4 * i), y);
    return y;
}

static float dot_f16(float y, const void *w, const void *x, size_t k)
{
    const uint8_t *p = w, *px = x;
    for (size_t i = 0; i < k; i++)
        y = fmaf(half_bits_to_float(load_le16(p + 2 * i)), load_f32(px + 4 * i), y);
    return y;
}

static float dot_bf16(float y, const void *w, const void *x, size_t k)
{
    const uint8_t *p = w, *px = x;
    for (size_t i = 0; i < k; i++)
        y = fmaf(bf16_bits_to_float(load_le16(p + 2 * i)), load_f32(px + 4 * i), y);
    return y;
}

/* ---- blocks of 32 ---- */

static int32_t dot16(const int8_t *w, const int8_t *q)
{
    int32_t sum = 0;
    for (size_t i = 0; i < 16; i++)
        sum += w[i] * q[i];
    return sum;
}

static int32_t dot32(const int8_t *w, const int8_t *q)
{
    return dot16(w, q) + dot16(w + 16, q + 16);
}

static void nibbles(int8_t w[32], const uint8_t qs[16], int zero)
{
    for (size_t i = 0; i < 16; i++) {
        w[i] = (int8_t)((qs[i] & 15) - zero);
        w[i + 16] = (int8_t)((qs[i] >> 4) - zero);
    }
}

static void fifth_bits(int8_t w[32], const uint8_t qh[4])
{
    uint32_t bits = load_le32(qh);
    for (size_t i = 0; i < 32; i++)
        w[i] = (int8_t)(w[i] + (int)(bits >> i & 1) * 16);
}

static float dot_q4_0(float y, const void *w, const void *x, size_t k)
{
    const struct block_q4_0 *b = w;
    const struct act_block *a = x;
    for (size_t i = 0; i < k / QK; i++) {
        int8_t v[32];
        nibbles(v, b[i].qs, 8);
        y = fmaf(load_half(b[i].d) * (float)dot32(v, a[i].q), a[i].d, y);
    }
    return y;
}

static float dot_q4_1(float y, const void *w, const void *x, size_t k)
{
    const struct block_q4_1 *b = w;
    const struct act_block *a = x;
    for (size_t i = 0; i < k / QK; i++) {
        int8_t v[32];
        nibbles(v, b[i].qs, 0);
        y = fmaf(load_half(b[i].d) * (float)dot32(v, a[i].q), a[i].d, y);
        y = fmaf(load_half(b[i].m), a[i].sd, y);
    }
    return y;
}

static float dot_q5_0(float y, const void *w, const void *x, size_t k)
{
    const struct block_q5_0 *b = w;
    const struct act_block *a = x;
    for (size_t i = 0; i < k / QK; i++) {
        int8_t v[32];
        nibbles(v, b[i].qs, 16);
        fifth_bits(v, b[i].qh);
        y = fmaf(load_half(b[i].d) * (float)dot32(v, a[i].q), a[i].d, y);
    }
    return y;
}

static float dot_q5_1(float y, const void *w, const void *x, size_t k)
{
    const struct block_q5_1 *b = w;
    const struct act_block *a = x;
    for (size_t i = 0; i < k / QK; i++) {
        int8_t v[32];
        nibbles(v, b[i].qs, 0);
        fifth_bits(v, b[i].qh);
        y = fmaf(load_half(b[i].d) * (float)dot32(v, a[i].q), a[i].d, y);
        y = fmaf(load_half(b[i].m), a[i].sd, y);
    }
    return y;
}

static float dot_q8_0(float y, const void *w, const void *x, size_t k)
{
    const struct block_q8_0 *b = w;
    const struct act_block *a = x;
    for (size_t i = 0; i < k / QK; i++)
        y = fmaf(load_half(b[i].d) * (float)dot32(b[i].qs, a[i].q), a[i].d, y);
    return y;
}

static void table_values(int8_t w[32], const uint8_t qs[16])
{
    nibbles(w, qs, 0);
    for (size_t i = 0; i < 32; i++)
        w[i] = iq4_table[w[i]];
}

static float dot_iq4_nl(float y, const void *w, const void *x, size_t k)
{
    const struct block_iq4_nl *b = w;
    const struct act_block *a = x;
    for (size_t i = 0; i < k / QK; i++) {
        int8_t v[32];
        table_values(v, b[i].qs);
        y = fmaf(load_half(b[i].d) * (float)dot32(v, a[i].q), a[i].d, y);
    }
    return y;
}

/* ---- blocks of 256: eight activation blocks each ---- */

static float dot_iq4_xs(float y, const void *w, const void *x, size_t k)
{
    const struct block_iq4_xs *b = w;
    const struct act_block *a = x;
    for (size_t i = 0; i < k / QK_K; i++)
        for (size_t j = 0; j < 8; j++, a++) {
            int8_t v[32];
            table_values(v, b[i].qs + 16 * j);
            float d = load_half(b[i].d) * (float)iq4_xs_scale(&b[i], j);
            y = fmaf(d * (float)dot32(v, a->q), a->d, y);
        }
    return y;
}

/* Sub-block j of Q4_K and Q5_K: 32 bytes hold the low nibbles of one and the high nibbles of the next. */
static void k_nibbles(int8_t w[32], const uint8_t qs[128], size_t j)
{
    for (size_t i = 0; i < 32; i++)
        w[i] = (int8_t)(qs[32 * (j / 2) + i] >> (4 * (j % 2)) & 15);
}

static float dot_q4_k(float y, const void *w, const void *x, size_t k)
{
    const struct block_q4_k *b = w;
    const struct act_block *a = x;
    for (size_t i = 0; i < k / QK_K; i++)
        for (size_t j = 0; j < 8; j++, a++) {
            int8_t v[32];
            uint8_t sc, mn;
            k_nibbles(v, b[i].qs, j);
            k_scale_min(&sc, &mn, b[i].scales, j);
            y = fmaf((load_half(b[i].d) * (float)sc) * (float)dot32(v, a->q), a->d, y);
            y = fmaf(-(load_half(b[i].dmin) * (float)mn), a->sd, y);
        }
    return y;
}

static float dot_q5_k(float y, const void *w, const void *x, size_t k)
{
    const struct block_q5_k *b = w;
    const struct act_block *a = x;
    for (size_t i = 0; i < k / QK_K; i++)
        for (size_t j = 0; j < 8; j++, a++) {
            int8_t v[32];
            uint8_t sc, mn;
            k_nibbles(v, b[i].qs, j);
            for (size_t l = 0; l < 32; l++)
                v[l] = (int8_t)(v[l] | (b[i].qh[l] >> j & 1) << 4);
            k_scale_min(&sc, &mn, b[i].scales, j);
            y = fmaf((load_half(b[i].d) * (float)sc) * (float)dot32(v, a->q), a->d, y);
            y = fmaf(-(load_half(b[i].dmin) * (float)mn), a->sd, y);
        }
    return y;
}

static float dot_q6_k(float y, const void *w, const void *x, size_t k)
{
    const struct block_q6_k *b = w;
    const struct act_block *a = x;
    for (size_t i = 0; i < k / QK_K; i++)
        for (size_t j = 0; j < 8; j++, a++) {
            const uint8_t *ql = b[i].ql + 64 * (j / 4) + 32 * (j % 2), *qh = b[i].qh + 32 * (j / 4);
            int8_t v[32];
            for (size_t l = 0; l < 32; l++) {
                int low = ql[l] >> (4 * (j / 2 % 2)) & 15, high = qh[l] >> (2 * (j % 4)) & 3;
                v[l] = (int8_t)((low | high << 4) - 32);
            }
            int32_t sum = b[i].scales[2 * j] * dot16(v, a->q) + b[i].scales[2 * j + 1] * dot16(v + 16, a->q + 16);
            y = fmaf(load_half(b[i].d) * (float)sum, a->d, y);
        }
    return y;
}

/* Two bits of each of the 32 values of sub-block j of Q2_K and Q3_K. */
static void k_pairs(int8_t w[32], const uint8_t qs[64], size_t j)
{
    for (size_t i = 0; i < 32; i++)
        w[i] = (int8_t)(qs[32 * (j / 4) + i] >> (2 * (j % 4)) & 3);
}

static float dot_q3_k(float y, const void *w, const void *x, size_t k)
{
    const struct block_q3_k *b = w;
    const struct act_block *a = x;
    for (size_t i = 0; i < k / QK_K; i++)
        for (size_t j = 0; j < 8; j++, a++) {
            int8_t v[32];
            k_pairs(v, b[i].qs, j);
            for (size_t l = 0; l < 32; l++)
                v[l] = (int8_t)(v[l] + (b[i].hmask[l] >> j & 1) * 4 - 4);
            int32_t sum = q3_scale(b[i].scales, 2 * j) * dot16(v, a->q) +
                          q3_scale(b[i].scales, 2 * j + 1) * dot16(v + 16, a->q + 16);
            y = fmaf(load_half(b[i].d) * (float)sum, a->d, y);
        }
    return y;
}

static float dot_q2_k(float y, const void *w, const void *x, size_t k)
{
    const struct block_q2_k *b = w;
    const struct act_block *a = x;
    for (size_t i = 0; i < k / QK_K; i++)
        for (size_t j = 0; j < 8; j++, a++) {
            int8_t v[32];
            const uint8_t *s = b[i].scales + 2 * j;
            k_pairs(v, b[i].qs, j);
            int32_t sum = (s[0] & 15) * dot16(v, a->q) + (s[1] & 15) * dot16(v + 16, a->q + 16);
            int32_t min = (s[0] >> 4) * a->sum16[0] + (s[1] >> 4) * a->sum16[1];
            y = fmaf(load_half(b[i].d) * (float)sum, a->d, y);
            y = fmaf(-(load_half(b[i].dmin) * (float)min), a->d, y);
        }
    return y;
}

#define MATMUL(type, number)                                \
    static void matmul_##type(const struct matmul *a)       \
    {                                                       \
        each_output(a, number, dot_##type);                 \
    }
MATMUL(f32, TYPE_F32)
MATMUL(f16, TYPE_F16)
MATMUL(bf16, TYPE_BF16)
MATMUL(q4_0, TYPE_Q4_0)
MATMUL(q4_1, TYPE_Q4_1)
MATMUL(q5_0, TYPE_Q5_0)
MATMUL(q5_1, TYPE_Q5_1)
MATMUL(q8_0, TYPE_Q8_0)
MATMUL(q2_k, TYPE_Q2_K)
MATMUL(q3_k, TYPE_Q3_K)
MATMUL(q4_k, TYPE_Q4_K)
MATMUL(q5_k, TYPE_Q5_K)
MATMUL(q6_k, TYPE_Q6_K)
MATMUL(iq4_nl, TYPE_IQ4_NL)
MATMUL(iq4_xs, TYPE_IQ4_XS)

void INIT_JOIN(KERNELS_VARIANT, matmul_init)(struct kernels *t)
{
    t->matmul[TYPE_F32] = matmul_f32;
    t->matmul[TYPE_F16] = matmul_f16;
    t->matmul[TYPE_BF16] = matmul_bf16;
    t->matmul[TYPE_Q4_0] = matmul_q4_0;
    t->matmul[TYPE_Q4_1] = matmul_q4_1;
    t->matmul[TYPE_Q5_0] = matmul_q5_0;
    t->matmul[TYPE_Q5_1] = matmul_q5_1;
    t->matmul[TYPE_Q8_0] = matmul_q8_0;
    t->matmul[TYPE_Q2_K] = matmul_q2_k;
    t->matmul[TYPE_Q3_K] = matmul_q3_k;
    t->matmul[TYPE_Q4_K] = matmul_q4_k;
    t->matmul[TYPE_Q5_K] = matmul_q5_k;
    t->matmul[TYPE_Q6_K] = matmul_q6_k;
    t->matmul[TYPE_IQ4_NL] = matmul_iq4_nl;
    t->matmul[TYPE_IQ4_XS] = matmul_iq4_xs;
}

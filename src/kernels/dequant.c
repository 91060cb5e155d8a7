/* dequant.c: half-precision conversions, and the values that stored weights stand for.
 *
 * dequant_row[type] follows the definition in blocks.h literally, one value after the other. The products in it
 * are exact in binary32 (11 bits of d times 6..8 bits of scale times 5..6 bits of value), so each result is the
 * correctly rounded exact value, and any vector version that keeps the grouping has the same bits. It is used to
 * fetch embeddings, by the converter and by tests; matrix products never dequantise.
 *
 * Compiled once: these entries are the same in every table unless an instruction set replaces them.
 */
#include "blocks.h"
#include "init.h"
#include "scalar.h"

float half_to_float(uint16_t h)
{
    return half_bits_to_float(h);
}
uint16_t float_to_half(float f)
{
    return float_to_half_bits(f);
}
float bf16_to_float(uint16_t h)
{
    return bf16_bits_to_float(h);
}
uint16_t float_to_bf16(float f)
{
    return float_to_bf16_bits(f);
}
float ref_exp(float x)
{
    return scalar_exp(x);
}

static void row_f32(float *y, const void *w, size_t n)
{
    memcpy(y, w, n * sizeof *y);
}

static void row_f16(float *y, const void *w, size_t n)
{
    const uint8_t *p = w;
    for (size_t i = 0; i < n; i++)
        y[i] = half_bits_to_float(load_le16(p + 2 * i));
}

static void row_bf16(float *y, const void *w, size_t n)
{
    const uint8_t *p = w;
    for (size_t i = 0; i < n; i++)
        y[i] = bf16_bits_to_float(load_le16(p + 2 * i));
}

static unsigned nibble(const uint8_t *qs, size_t i) /* of 32: low ones first */
{
    return i < 16 ? qs[i] & 15u : (unsigned)qs[i - 16] >> 4;
}

static void row_q4_0(float *y, const void *w, size_t n)
{
    const struct block_q4_0 *b = w;
    for (size_t k = 0; k < n; k++)
        y[k] = load_half(b[k / QK].d) * (float)((int)nibble(b[k / QK].qs, k % QK) - 8);
}

static void row_q4_1(float *y, const void *w, size_t n)
{
    const struct block_q4_1 *b = w;
    for (size_t k = 0; k < n; k++)
        y[k] = load_half(b[k / QK].d) * (float)nibble(b[k / QK].qs, k % QK) + load_half(b[k / QK].m);
}

static unsigned five_bits(const uint8_t *qs, const uint8_t *qh, size_t i)
{
    return nibble(qs, i) | (load_le32(qh) >> i & 1u) << 4;
}

static void row_q5_0(float *y, const void *w, size_t n)
{
    const struct block_q5_0 *b = w;
    for (size_t k = 0; k < n; k++)
        y[k] = load_half(b[k / QK].d) * (float)((int)five_bits(b[k / QK].qs, b[k / QK].qh, k % QK) - 16);
}

static void row_q5_1(float *y, const void *w, size_t n)
{
    const struct block_q5_1 *b = w;
    for (size_t k = 0; k < n; k++)
        y[k] = load_half(b[k / QK].d) * (float)five_bits(b[k / QK].qs, b[k / QK].qh, k % QK) + load_half(b[k / QK].m);
}

static void row_q8_0(float *y, const void *w, size_t n)
{
    const struct block_q8_0 *b = w;
    for (size_t k = 0; k < n; k++)
        y[k] = load_half(b[k / QK].d) * (float)b[k / QK].qs[k % QK];
}

static void row_iq4_nl(float *y, const void *w, size_t n)
{
    const struct block_iq4_nl *b = w;
    for (size_t k = 0; k < n; k++)
        y[k] = load_half(b[k / QK].d) * (float)iq4_table[nibble(b[k / QK].qs, k % QK)];
}

static void row_iq4_xs(float *y, const void *w, size_t n)
{
    const struct block_iq4_xs *b = w;
    for (; n; n -= QK_K, y += QK_K, b++)
        for (size_t i = 0; i < QK_K; i++) {
            float d = load_half(b->d) * (float)iq4_xs_scale(b, i / 32);
            y[i] = d * (float)iq4_table[nibble(b->qs + 16 * (i / 32), i % 32)];
        }
}

static void row_q2_k(float *y, const void *w, size_t n)
{
    const struct block_q2_k *b = w;
    for (; n; n -= QK_K, y += QK_K, b++)
        for (size_t i = 0; i < QK_K; i++) {
            unsigned q = (unsigned)b->qs[32 * (i / 128) + i % 32] >> (2 * (i / 32 % 4)) & 3u;
            float d = load_half(b->d) * (float)(b->scales[i / 16] & 15);
            float m = load_half(b->dmin) * (float)(b->scales[i / 16] >> 4);
            y[i] = d * (float)q - m;
        }
}

static void row_q3_k(float *y, const void *w, size_t n)
{
    const struct block_q3_k *b = w;
    for (; n; n -= QK_K, y += QK_K, b++)
        for (size_t i = 0; i < QK_K; i++) {
            unsigned q = (unsigned)b->qs[32 * (i / 128) + i % 32] >> (2 * (i / 32 % 4)) & 3u;
            q |= ((unsigned)b->hmask[i % 32] >> (i / 32) & 1u) << 2;
            float d = load_half(b->d) * (float)q3_scale(b->scales, i / 16);
            y[i] = d * (float)((int)q - 4);
        }
}

static void row_q4_k(float *y, const void *w, size_t n)
{
    const struct block_q4_k *b = w;
    uint8_t sc, mn;
    for (; n; n -= QK_K, y += QK_K, b++)
        for (size_t i = 0; i < QK_K; i++) {
            k_scale_min(&sc, &mn, b->scales, i / 32);
            unsigned q = (unsigned)b->qs[32 * (i / 64) + i % 32] >> (4 * (i / 32 % 2)) & 15u;
            y[i] = load_half(b->d) * (float)sc * (float)q - load_half(b->dmin) * (float)mn;
        }
}

static void row_q5_k(float *y, const void *w, size_t n)
{
    const struct block_q5_k *b = w;
    uint8_t sc, mn;
    for (; n; n -= QK_K, y += QK_K, b++)
        for (size_t i = 0; i < QK_K; i++) {
            k_scale_min(&sc, &mn, b->scales, i / 32);
            unsigned q = (unsigned)b->qs[32 * (i / 64) + i % 32] >> (4 * (i / 32 % 2)) & 15u;
            q |= ((unsigned)b->qh[i % 32] >> (i / 32) & 1u) << 4;
            y[i] = load_half(b->d) * (float)sc * (float)q - load_half(b->dmin) * (float)mn;
        }
}

static void row_q6_k(float *y, const void *w, size_t n)
{
    const struct block_q6_k *b = w;
    for (; n; n -= QK_K, y += QK_K, b++)
        for (size_t i = 0; i < QK_K; i++) {
            size_t h = i / 128, g = i / 32 % 4;
            unsigned q = (unsigned)b->ql[64 * h + 32 * (g % 2) + i % 32] >> (4 * (g / 2)) & 15u;
            q |= ((unsigned)b->qh[32 * h + i % 32] >> (2 * g) & 3u) << 4;
            y[i] = load_half(b->d) * (float)b->scales[i / 16] * (float)((int)q - 32);
        }
}

void dequant_init(struct kernels *t)
{
    t->dequant_row[TYPE_F32] = row_f32;
    t->dequant_row[TYPE_F16] = row_f16;
    t->dequant_row[TYPE_BF16] = row_bf16;
    t->dequant_row[TYPE_Q4_0] = row_q4_0;
    t->dequant_row[TYPE_Q4_1] = row_q4_1;
    t->dequant_row[TYPE_Q5_0] = row_q5_0;
    t->dequant_row[TYPE_Q5_1] = row_q5_1;
    t->dequant_row[TYPE_Q8_0] = row_q8_0;
    t->dequant_row[TYPE_Q2_K] = row_q2_k;
    t->dequant_row[TYPE_Q3_K] = row_q3_k;
    t->dequant_row[TYPE_Q4_K] = row_q4_k;
    t->dequant_row[TYPE_Q5_K] = row_q5_k;
    t->dequant_row[TYPE_Q6_K] = row_q6_k;
    t->dequant_row[TYPE_IQ4_NL] = row_iq4_nl;
    t->dequant_row[TYPE_IQ4_XS] = row_iq4_xs;
}

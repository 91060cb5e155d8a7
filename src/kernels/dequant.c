/* dequant.c: half-precision conversions, and the values that stored weights stand for.
 *
 * dequant_row[type] follows the definition in blocks.h literally, sub-block by sub-block. The products in it
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
    for (; n; n -= QK, y += QK, b++) {
        const float d = load_half(b->d);
        for (size_t i = 0; i < QK; i++)
            y[i] = d * (float)((int)nibble(b->qs, i) - 8);
    }
}

static void row_q4_1(float *y, const void *w, size_t n)
{
    const struct block_q4_1 *b = w;
    for (; n; n -= QK, y += QK, b++) {
        const float d = load_half(b->d), m = load_half(b->m);
        for (size_t i = 0; i < QK; i++)
            y[i] = d * (float)nibble(b->qs, i) + m;
    }
}

static unsigned five_bits(const uint8_t *qs, uint32_t high, size_t i)
{
    return nibble(qs, i) | (high >> i & 1u) << 4;
}

static void row_q5_0(float *y, const void *w, size_t n)
{
    const struct block_q5_0 *b = w;
    for (; n; n -= QK, y += QK, b++) {
        const float d = load_half(b->d);
        const uint32_t high = load_le32(b->qh);
        for (size_t i = 0; i < QK; i++)
            y[i] = d * (float)((int)five_bits(b->qs, high, i) - 16);
    }
}

static void row_q5_1(float *y, const void *w, size_t n)
{
    const struct block_q5_1 *b = w;
    for (; n; n -= QK, y += QK, b++) {
        const float d = load_half(b->d), m = load_half(b->m);
        const uint32_t high = load_le32(b->qh);
        for (size_t i = 0; i < QK; i++)
            y[i] = d * (float)five_bits(b->qs, high, i) + m;
    }
}

static void row_q8_0(float *y, const void *w, size_t n)
{
    const struct block_q8_0 *b = w;
    for (; n; n -= QK, y += QK, b++) {
        const float d = load_half(b->d);
        for (size_t i = 0; i < QK; i++)
            y[i] = d * (float)b->qs[i];
    }
}

static void row_iq4_nl(float *y, const void *w, size_t n)
{
    const struct block_iq4_nl *b = w;
    for (; n; n -= QK, y += QK, b++) {
        const float d = load_half(b->d);
        for (size_t i = 0; i < QK; i++)
            y[i] = d * (float)iq4_table[nibble(b->qs, i)];
    }
}

/* Blocks of 256: j counts sub-blocks of 32. */

static void row_iq4_xs(float *y, const void *w, size_t n)
{
    const struct block_iq4_xs *b = w;
    for (; n; n -= QK_K, b++)
        for (size_t j = 0; j < 8; j++, y += 32) {
            const float d = load_half(b->d) * (float)iq4_xs_scale(b, j);
            for (size_t i = 0; i < 32; i++)
                y[i] = d * (float)iq4_table[nibble(b->qs + 16 * j, i)];
        }
}

static void row_q2_k(float *y, const void *w, size_t n)
{
    const struct block_q2_k *b = w;
    for (; n; n -= QK_K, b++)
        for (size_t j = 0; j < 16; j++, y += 16) {
            const uint8_t *qs = b->qs + 32 * (j / 8) + 16 * (j % 2);
            const float d = load_half(b->d) * (float)(b->scales[j] & 15);
            const float m = load_half(b->dmin) * (float)(b->scales[j] >> 4);
            for (size_t i = 0; i < 16; i++)
                y[i] = d * (float)(qs[i] >> (2 * (j / 2 % 4)) & 3) - m;
        }
}

static void row_q3_k(float *y, const void *w, size_t n)
{
    const struct block_q3_k *b = w;
    for (; n; n -= QK_K, b++)
        for (size_t j = 0; j < 16; j++, y += 16) {
            const uint8_t *qs = b->qs + 32 * (j / 8) + 16 * (j % 2), *high = b->hmask + 16 * (j % 2);
            const float d = load_half(b->d) * (float)q3_scale(b->scales, j);
            for (size_t i = 0; i < 16; i++) {
                int q = (qs[i] >> (2 * (j / 2 % 4)) & 3) | (high[i] >> (j / 2) & 1) << 2;
                y[i] = d * (float)(q - 4);
            }
        }
}

static void row_q4_k(float *y, const void *w, size_t n)
{
    const struct block_q4_k *b = w;
    for (; n; n -= QK_K, b++)
        for (size_t j = 0; j < 8; j++, y += 32) {
            const uint8_t *qs = b->qs + 32 * (j / 2);
            uint8_t sc, mn;
            k_scale_min(&sc, &mn, b->scales, j);
            const float d = load_half(b->d) * (float)sc, m = load_half(b->dmin) * (float)mn;
            for (size_t i = 0; i < 32; i++)
                y[i] = d * (float)(qs[i] >> (4 * (j % 2)) & 15) - m;
        }
}

static void row_q5_k(float *y, const void *w, size_t n)
{
    const struct block_q5_k *b = w;
    for (; n; n -= QK_K, b++)
        for (size_t j = 0; j < 8; j++, y += 32) {
            const uint8_t *qs = b->qs + 32 * (j / 2);
            uint8_t sc, mn;
            k_scale_min(&sc, &mn, b->scales, j);
            const float d = load_half(b->d) * (float)sc, m = load_half(b->dmin) * (float)mn;
            for (size_t i = 0; i < 32; i++)
                y[i] = d * (float)((qs[i] >> (4 * (j % 2)) & 15) | (b->qh[i] >> j & 1) << 4) - m;
        }
}

static void row_q6_k(float *y, const void *w, size_t n)
{
    const struct block_q6_k *b = w;
    for (; n; n -= QK_K, b++)
        for (size_t j = 0; j < 16; j++, y += 16) {
            const size_t g = j / 2 % 4, at = 16 * (j % 2); /* group of 32 in a half of 128; which half of the group */
            const uint8_t *ql = b->ql + 64 * (j / 8) + 32 * (g % 2) + at, *qh = b->qh + 32 * (j / 8) + at;
            const float d = load_half(b->d) * (float)b->scales[j];
            for (size_t i = 0; i < 16; i++) {
                int q = (ql[i] >> (4 * (g / 2)) & 15) | (qh[i] >> (2 * g) & 3) << 4;
                y[i] = d * (float)(q - 32);
            }
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

/* matmul_float_neon.c: products of F32, F16 and BF16 matrices on arm64 (armv8.0, for all tables).
 *
 * A strip of these types is the eight values of one k after the other, so nothing is unpacked beside the widening to
 * float. Each output is one chain of multiply-adds; sixteen registers of sums (16 rows x 4 columns), or eight for one
 * column (32 rows), are in flight to hide its latency. Four k of a column are one register whose lanes multiply: four k of
 * 16 x 4 outputs are 64 FMLA, in a compiled loop of 118 instructions for F32, 122 for F16 (16 of them FCVTL).
 */
#include "neon.h"

enum { MAX_COLS = 4, MAX_STRIPS = 4 };

/* The eight rows of one k. */
ALWAYS_INLINE void rows_of(float32x4_t w[2], const uint8_t *strip, size_t k, enum tensor_type type)
{
    if (type == TYPE_F32) {
        w[0] = vreinterpretq_f32_u8(vld1q_u8(strip + 32 * k));
        w[1] = vreinterpretq_f32_u8(vld1q_u8(strip + 32 * k + 16));
        return;
    }
    const uint16x8_t v = vreinterpretq_u16_u8(vld1q_u8(strip + 16 * k));
    if (type == TYPE_F16) {
        w[0] = vcvt_f32_f16(vget_low_f16(vreinterpretq_f16_u16(v)));
        w[1] = vcvt_high_f32_f16(vreinterpretq_f16_u16(v));
    } else {
        w[0] = vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(v), 16));
        w[1] = vreinterpretq_f32_u32(vshll_high_n_u16(v, 16));
    }
}

/* One k of n_strips strips with n columns; x[c] is what multiplies, in every lane. */
ALWAYS_INLINE void add_k(float32x4_t y[][MAX_COLS][2], const uint8_t *const *w, size_t n_strips, size_t k,
                         const float32x4_t *x, size_t n, enum tensor_type type)
{
    UNROLL
    for (size_t s = 0; s < n_strips; s++) {
        float32x4_t t[2];
        rows_of(t, w[s], k, type);
        UNROLL
        for (size_t c = 0; c < n; c++) {
            y[s][c][0] = vfmaq_f32(y[s][c][0], t[0], x[c]);
            y[s][c][1] = vfmaq_f32(y[s][c][1], t[1], x[c]);
        }
    }
}

/* n_strips strips from `row` meet n columns from `col`. */
ALWAYS_INLINE void columns(const struct matmul *a, size_t row, size_t n_strips, size_t col, size_t n,
                           enum tensor_type type)
{
    float32x4_t y[MAX_STRIPS][MAX_COLS][2];
    const uint8_t *w[MAX_STRIPS], *x = (const uint8_t *)a->x + col * a->x_stride_bytes;
    UNROLL
    for (size_t s = 0; s < n_strips; s++) {
        w[s] = (const uint8_t *)a->w + (row / R8_ROWS + s) * a->strip_bytes;
        UNROLL
        for (size_t c = 0; c < n; c++)
            y[s][c][0] = y[s][c][1] = vdupq_n_f32(0);
    }
    size_t k = 0;
    for (; k + 4 <= a->k; k += 4) {
        float32x4_t four[MAX_COLS];
        UNROLL
        for (size_t c = 0; c < n; c++)
            four[c] = vreinterpretq_f32_u8(vld1q_u8(x + c * a->x_stride_bytes + 4 * k));
        UNROLL
        for (size_t i = 0; i < 4; i++) {
            float32x4_t t[MAX_COLS];
            UNROLL
            for (size_t c = 0; c < n; c++)
                t[c] = vdupq_n_f32(four[c][i]);
            add_k(y, w, n_strips, k + i, t, n, type);
        }
    }
    for (; k < a->k; k++) {
        float32x4_t t[MAX_COLS];
        UNROLL
        for (size_t c = 0; c < n; c++)
            t[c] = vdupq_n_f32(load_f32(x + c * a->x_stride_bytes + 4 * k));
        add_k(y, w, n_strips, k, t, n, type);
    }
    UNROLL
    for (size_t s = 0; s < n_strips; s++) {
        const size_t at = row + R8_ROWS * s;
        UNROLL
        for (size_t c = 0; c < n; c++)
            store_rows(a->y + (col + c) * a->y_stride + at, y[s][c], a->n_rows - at);
    }
}

ALWAYS_INLINE void strips(const struct matmul *a, size_t row, size_t n_strips, enum tensor_type type)
{
    size_t c = 0;
    if (n_strips <= 2)
        for (; c + MAX_COLS <= a->n_cols; c += MAX_COLS)
            columns(a, row, n_strips, c, MAX_COLS, type);
    for (; c < a->n_cols; c++)
        columns(a, row, n_strips, c, 1, type);
}

ALWAYS_INLINE void run(const struct matmul *a, enum tensor_type type)
{
    size_t row = 0;
    if (a->n_cols < MAX_COLS)
        for (; row + 24 < a->n_rows; row += 32)
            strips(a, row, MAX_STRIPS, type);
    for (; row + 8 < a->n_rows; row += 16)
        strips(a, row, 2, type);
    if (row < a->n_rows)
        strips(a, row, 1, type);
}

static void matmul_f32(const struct matmul *a)
{
    run(a, TYPE_F32);
}

static void matmul_f16(const struct matmul *a)
{
    run(a, TYPE_F16);
}

static void matmul_bf16(const struct matmul *a)
{
    run(a, TYPE_BF16);
}

void neon_matmul_float_init(struct kernels *t)
{
    t->matmul[TYPE_F32] = matmul_f32;
    t->matmul[TYPE_F16] = matmul_f16;
    t->matmul[TYPE_BF16] = matmul_bf16;
}

/* matmul_float_avx2.c: matrix products of F32, F16 and BF16 on AVX2: each output is one chain of multiply-adds in ascending
 * k; 32 rows of one column, or 16 rows of four, are in flight to hide its latency.
 */
#include "strips_avx2.h"

enum { COLS = 4 };

/* The eight rows of one k. */
ALWAYS_INLINE __m256 float8(const uint8_t *strip, size_t k, enum tensor_type type)
{
    if (type == TYPE_F32)
        return _mm256_loadu_ps((const float *)(const void *)strip + 8 * k);
    __m128i v = _mm_loadu_si128((const __m128i *)(const void *)(strip + 16 * k));
    return type == TYPE_F16 ? _mm256_cvtph_ps(v)
                            : _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16));
}

/* n_strips strips from `row` meet n columns from `col`. */
ALWAYS_INLINE void float_columns(const struct matmul *a, size_t row, size_t n_strips, size_t col, size_t n,
                                 enum tensor_type type)
{
    __m256 y[4][COLS];
    const uint8_t *x[COLS], *w[4];
    UNROLL
    for (size_t c = 0; c < n; c++)
        x[c] = (const uint8_t *)a->x + (col + c) * a->x_stride_bytes;
    UNROLL
    for (size_t v = 0; v < n_strips; v++) {
        w[v] = strip_at(a, row + 8 * v);
        UNROLL
        for (size_t c = 0; c < n; c++)
            y[v][c] = _mm256_setzero_ps();
    }
    for (size_t k = 0; k < a->k; k++) {
        __m256 t[4];
        UNROLL
        for (size_t v = 0; v < n_strips; v++)
            t[v] = float8(w[v], k, type);
        UNROLL
        for (size_t c = 0; c < n; c++) {
            const __m256 xc = _mm256_broadcast_ss((const float *)(const void *)(x[c] + 4 * k));
            UNROLL
            for (size_t v = 0; v < n_strips; v++)
                y[v][c] = _mm256_fmadd_ps(t[v], xc, y[v][c]);
        }
    }
    UNROLL
    for (size_t c = 0; c < n; c++) {
        UNROLL
        for (size_t v = 0; v < n_strips; v++)
            store_rows(a->y + (col + c) * a->y_stride + row + 8 * v, y[v][c], a->n_rows - row - 8 * v);
    }
}

ALWAYS_INLINE void float_strips(const struct matmul *a, size_t row, size_t n_strips, enum tensor_type type)
{
    size_t c = 0;
    if (n_strips <= 2) {
        for (; c + COLS <= a->n_cols; c += COLS)
            float_columns(a, row, n_strips, c, COLS, type);
    }
    for (; c < a->n_cols; c++)
        float_columns(a, row, n_strips, c, 1, type);
}

ALWAYS_INLINE void float_run(const struct matmul *a, enum tensor_type type)
{
    size_t row = 0;
    if (a->n_cols < COLS)
        for (; row + 24 < a->n_rows; row += 32)
            float_strips(a, row, 4, type);
    for (; row + 8 < a->n_rows; row += 16)
        float_strips(a, row, 2, type);
    if (row < a->n_rows)
        float_strips(a, row, 1, type);
}

static void matmul_f32(const struct matmul *a)
{
    float_run(a, TYPE_F32);
}

static void matmul_f16(const struct matmul *a)
{
    float_run(a, TYPE_F16);
}

static void matmul_bf16(const struct matmul *a)
{
    float_run(a, TYPE_BF16);
}

void avx2_matmul_float_init(struct kernels *t)
{
    t->matmul[TYPE_F32] = matmul_f32;
    t->matmul[TYPE_F16] = matmul_f16;
    t->matmul[TYPE_BF16] = matmul_bf16;
}

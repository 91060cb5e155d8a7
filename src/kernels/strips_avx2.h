/* strips_avx2.h: where the strips of a product begin, and its results eight rows at a time. Private to matmul_*avx2.c. */
#ifndef HEARTH_STRIPS_AVX2_H
#define HEARTH_STRIPS_AVX2_H

#include "avx2.h"

ALWAYS_INLINE const uint8_t *strip_at(const struct matmul *a, size_t row)
{
    return (const uint8_t *)a->w + row / R8_ROWS * a->strip_bytes;
}

ALWAYS_INLINE void store_rows(float *y, __m256 v, size_t n_rows)
{
    if (n_rows >= 8)
        _mm256_storeu_ps(y, v);
    else
        _mm256_maskstore_ps(y, first_lanes(n_rows), v);
}

ALWAYS_INLINE __m256 load_rows(const float *y, size_t n_rows)
{
    return n_rows >= 8 ? _mm256_loadu_ps(y) : _mm256_maskload_ps(y, first_lanes(n_rows));
}

/* Nothing to multiply: every output is +0. */
ALWAYS_INLINE void clear(const struct matmul *a)
{
    for (size_t c = 0; c < a->n_cols; c++)
        memset(a->y + c * a->y_stride, 0, a->n_rows * sizeof *a->y);
}

#endif

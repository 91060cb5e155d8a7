/* strips_vnni.h: walking strips and columns, for matmul_vnni.h and matmul_amx.c. Private; after vec256.h or vec512.h. */
#ifndef HEARTH_STRIPS_VNNI_H
#define HEARTH_STRIPS_VNNI_H

#include "unpack_vnni.h"

enum { PREFETCH_BYTES = 1536 };

/* ---- columns ---- */

/* Activations of up to twelve columns from one unit on; few pointers, because an address may add a register once or twice. */
struct columns {
    const uint8_t *at[4];
    size_t stride;
};

ALWAYS_INLINE struct columns columns_at(const struct matmul *a, size_t col, size_t i_unit)
{
    struct columns x = { .stride = a->x_stride_bytes };
    UNROLL
    for (size_t i = 0; i < 4; i++)
        x.at[i] = (const uint8_t *)a->x + (col + 3 * i) * x.stride + i_unit * sizeof(struct act_block);
    return x;
}

ALWAYS_INLINE const struct act_block *column(const struct columns *x, size_t c)
{
    return (const struct act_block *)(const void *)(x->at[c / 3] + c % 3 * x->stride);
}

ALWAYS_INLINE void next_unit(struct columns *x)
{
    UNROLL
    for (size_t i = 0; i < 4; i++)
        x->at[i] += sizeof(struct act_block);
}

/* ---- rows ---- */

/* The strips of a vector of rows from `row` on. Behind the last strip it is read again, and nothing of it is stored. */
ALWAYS_INLINE struct strips strips_at(const struct matmul *a, size_t row)
{
    struct strips s;
    UNROLL
    for (size_t i = 0; i < N_STRIPS; i++) {
        const size_t r = row + i * R8_ROWS < a->n_rows ? row + i * R8_ROWS : row;
        s.p[i] = (const uint8_t *)a->w + r / R8_ROWS * a->strip_bytes;
    }
    return s;
}

/* Asks for n bytes that stand `ahead` bytes behind `at` in each strip or, past its end, at the start of the next vector
 * of rows. It may point behind the last strip: a prefetch never faults. */
ALWAYS_INLINE void prefetch(const struct matmul *a, struct strips s, size_t at, size_t done, size_t n)
{
    size_t ahead = at + PREFETCH_BYTES;
    if (done + ahead >= a->strip_bytes)
        ahead += (N_STRIPS - 1) * a->strip_bytes;
    UNROLL
    for (size_t i = 0; i < N_STRIPS; i++)
        UNROLL
        for (size_t line = 0; line < n; line += 64)
            _mm_prefetch((const char *)((uintptr_t)s.p[i] + ahead + line), _MM_HINT_T0);
}

/* Unpacks a panel of n_v vectors of rows. */
ALWAYS_INLINE void unpack_panel(vint *panel, const struct strips *s, size_t n_v, size_t n_units, unpack_fn unpack, struct kind kd)
{
    const size_t size = unit_size(kd);
    for (size_t v = 0; v < n_v; v++) {
        struct strips at = s[v];
        for (size_t i = 0; i < n_units; i += kd.n_units) {
            for (size_t j = 0; j < kd.n_units; j++)
                unpack(panel + ((i + j) * n_v + v) * size, at, j);
            at = advance(at, kd.block_bytes);
        }
    }
}

/* Nothing to multiply: every output is +0. */
static inline void clear(const struct matmul *a)
{
    for (size_t c = 0; c < a->n_cols; c++)
        memset(a->y + c * a->y_stride, 0, a->n_rows * sizeof *a->y);
}

#endif

/* matmul_vnni.h: matrix products with byte dot products, written once for 256 and 512 bits. Private; after vec256.h or
 * vec512.h. An instruction set's file includes it and gets matmul_of[type].
 *
 * A vector's lanes are rows. 32 k of them (unpack_vnni.h) meet the activations of any number of columns:
 *     8 times: dot_bytes of a register of weights with 4 activation bytes, broadcast
 *     once:    convert the sum, multiply by the scale, multiply-add
 * Weights are unsigned for the instruction, so they carry a zero point; the sum starts at minus the zero point times the
 * sum of the activations, which one dot_pairs makes of the two halves' sums.
 *
 * Few columns (direct): every block is unpacked and used at once by all columns; float sums stay in registers for the
 * whole row, and nothing but the weights passes through the cache: this is bound by memory, and the next bytes are
 * asked for ahead of time, jumping from the end of a strip to where the next vector of rows begins.
 *
 * Many columns (panels): units of a panel of K for two vectors of rows are unpacked once into the stack (L1), and each
 * load of weights and each broadcast is used several times; between panels the float sums rest in y.
 *
 * Sums are exact integers or follow rule 2 of kernels.h; nothing here changes a bit with the number of rows or columns.
 */
#ifndef HEARTH_MATMUL_VNNI_H
#define HEARTH_MATMUL_VNNI_H

#include "strips_vnni.h"

enum {
    DIRECT_COLS = VECTOR_REGISTERS == 32 ? 8 : 4, /* at most */
    TILE_ROWS = 2,                                /* vectors */
    TILE_COLS = VECTOR_REGISTERS == 32 ? 6 : 3,
    PANEL_UNITS = 16
};

/* ---- a unit of n_v vectors of rows meets n columns ---- */

/* Sums of four registers of weights from `from` on are added to sum[v][c]. */
ALWAYS_INLINE void add_products(vint (*sum)[DIRECT_COLS], const vint *u, size_t n_v, size_t from, size_t n_groups,
                                const struct columns *x, size_t n, size_t size)
{
    UNROLL
    for (size_t g = from; g < from + n_groups; g++)
        UNROLL
        for (size_t c = 0; c < n; c++) {
            const vint q = broadcast4(column(x, c)->q + 4 * g);
            UNROLL
            for (size_t v = 0; v < n_v; v++)
                sum[v][c] = dot_bytes(sum[v][c], u[v * size + AT_W + g], q);
        }
}

/* The integer sum of each output, as float. */
ALWAYS_INLINE void sums(vflt (*out)[DIRECT_COLS], const vint *u, size_t n_v, const struct columns *x, size_t n, struct kind kd)
{
    const size_t size = unit_size(kd);
    vint s[TILE_ROWS][DIRECT_COLS];
    UNROLL
    for (size_t c = 0; c < n; c++) {
        vint start = no_ints();
        if (kd.zero && !kd.has_halves)
            start = dot_pairs(start, set16(-kd.zero), broadcast4(column(x, c)->sum16));
        UNROLL
        for (size_t v = 0; v < n_v; v++)
            s[v][c] = start;
    }
    add_products(s, u, n_v, 0, kd.has_halves ? 4 : 8, x, n, size);
    UNROLL
    for (size_t v = 0; v < n_v; v++)
        UNROLL
        for (size_t c = 0; c < n; c++)
            out[v][c] = to_floats(s[v][c]);
}

/* Q6_K: sc0 * A0 + sc1 * A1 - 32 * (sc0 * s0 + sc1 * s1), where A are sums of weights with their zero point and s sums of
 * activations. Every step is an integer below 2^24, so floats are exact. They start at +0, which keeps the sign of zero. */
ALWAYS_INLINE void sums_of_halves(vflt (*out)[DIRECT_COLS], const vint *u, size_t n_v, const struct columns *x, size_t n,
                                  struct kind kd)
{
    const size_t size = unit_size(kd);
    UNROLL
    for (size_t v = 0; v < n_v; v++)
        UNROLL
        for (size_t c = 0; c < n; c++)
            out[v][c] = to_floats(dot_pairs(no_ints(), u[v * size + AT_PAIR], broadcast4(column(x, c)->sum16)));
    UNROLL
    for (size_t h = 0; h < 2; h++) {
        vint s[TILE_ROWS][DIRECT_COLS];
        UNROLL
        for (size_t v = 0; v < n_v; v++)
            UNROLL
            for (size_t c = 0; c < n; c++)
                s[v][c] = no_ints();
        add_products(s, u, n_v, 4 * h, 4, x, n, size);
        UNROLL
        for (size_t v = 0; v < n_v; v++)
            UNROLL
            for (size_t c = 0; c < n; c++)
                out[v][c] = fma_f(as_floats(u[v * size + AT_SCALE + h]), to_floats(s[v][c]), out[v][c]);
    }
}

/* y[v][c] += unit of vector v times column c. Units of the vectors lie one behind the other. */
ALWAYS_INLINE void add_units(vflt (*y)[DIRECT_COLS], const vint *u, size_t n_v, const struct columns *x, size_t n,
                             struct kind kd)
{
    const size_t size = unit_size(kd);
    vflt i[TILE_ROWS][DIRECT_COLS];
    if (kd.has_halves)
        sums_of_halves(i, u, n_v, x, n, kd);
    else
        sums(i, u, n_v, x, n, kd);
    UNROLL
    for (size_t c = 0; c < n; c++) {
        const struct act_block *b = column(x, c);
        const vflt d = broadcast_f(&b->d);
        UNROLL
        for (size_t v = 0; v < n_v; v++) {
            const vint *uv = u + v * size;
            y[v][c] = fma_f(mul_f(as_floats(uv[AT_D]), i[v][c]), d, y[v][c]);
            if (kd.has_min)
                y[v][c] = fma_f(as_floats(uv[AT_M]), broadcast_f(&b->sd), y[v][c]);
            if (kd.has_mins) {
                vflt min = to_floats(dot_pairs(no_ints(), uv[AT_MINS], broadcast4(b->sum16)));
                y[v][c] = fnma_f(mul_f(as_floats(uv[AT_M]), min), d, y[v][c]);
            }
        }
    }
}

/* ---- rows ---- */

ALWAYS_INLINE void direct(const struct matmul *a, size_t row, size_t col, size_t n, unpack_fn unpack, struct kind kd)
{
    struct strips s = strips_at(a, row);
    struct columns x = columns_at(a, col, 0);
    vflt y[1][DIRECT_COLS];
    UNROLL
    for (size_t c = 0; c < n; c++)
        y[0][c] = no_floats();
    for (size_t k = 0, done = 0; k < a->k; k += kd.n_units * QK) {
        for (size_t j = 0; j < kd.n_units; j++) {
            vint u[UNIT_MAX];
            prefetch(a, s, j * (kd.block_bytes / kd.n_units), done, kd.block_bytes / kd.n_units);
            unpack(u, s, j);
            add_units(y, u, 1, &x, n, kd);
            next_unit(&x);
        }
        s = advance(s, kd.block_bytes);
        done += kd.block_bytes;
    }
    UNROLL
    for (size_t c = 0; c < n; c++)
        store_rows(a->y + (col + c) * a->y_stride + row, y[0][c], a->n_rows - row);
}

/* n columns from `col` meet a panel of units at i_unit. */
ALWAYS_INLINE void panel_columns(const struct matmul *a, size_t row, size_t n_v, size_t col, size_t n, size_t i_unit,
                                 size_t n_units, const vint *panel, struct kind kd)
{
    const size_t size = unit_size(kd), left = a->n_rows - row;
    float *out = a->y + col * a->y_stride + row;
    struct columns x = columns_at(a, col, i_unit);
    vflt y[TILE_ROWS][DIRECT_COLS];
    UNROLL
    for (size_t c = 0; c < n; c++)
        UNROLL
        for (size_t v = 0; v < n_v; v++)
            y[v][c] = i_unit == 0 ? no_floats() : load_rows(out + c * a->y_stride + v * LANES, left - v * LANES);
    for (size_t i = 0; i < n_units; i++) {
        add_units(y, panel + i * n_v * size, n_v, &x, n, kd);
        next_unit(&x);
    }
    UNROLL
    for (size_t c = 0; c < n; c++)
        UNROLL
        for (size_t v = 0; v < n_v; v++)
            store_rows(out + c * a->y_stride + v * LANES, y[v][c], left - v * LANES);
}

ALWAYS_INLINE void panels(const struct matmul *a, size_t row, size_t n_v, unpack_fn unpack, struct kind kd)
{
    const size_t n_units = a->k / QK;
    struct strips s[TILE_ROWS];
    vint panel[PANEL_UNITS * TILE_ROWS * UNIT_MAX];
    UNROLL
    for (size_t v = 0; v < n_v; v++)
        s[v] = strips_at(a, row + v * LANES);
    for (size_t i = 0; i < n_units; i += PANEL_UNITS) {
        const size_t n = MIN(n_units - i, (size_t)PANEL_UNITS);
        unpack_panel(panel, s, n_v, n, unpack, kd);
        UNROLL
        for (size_t v = 0; v < n_v; v++)
            s[v] = advance(s[v], n / kd.n_units * kd.block_bytes);
        size_t c = 0;
        for (; c + TILE_COLS <= a->n_cols; c += TILE_COLS)
            panel_columns(a, row, n_v, c, TILE_COLS, i, n, panel, kd);
        if (TILE_COLS > 4 && a->n_cols - c >= 4) {
            panel_columns(a, row, n_v, c, 4, i, n, panel, kd);
            c += 4;
        }
        if (a->n_cols - c >= 2) {
            panel_columns(a, row, n_v, c, 2, i, n, panel, kd);
            c += 2;
        }
        if (a->n_cols > c)
            panel_columns(a, row, n_v, c, 1, i, n, panel, kd);
    }
}

ALWAYS_INLINE void run_direct(const struct matmul *a, unpack_fn unpack, struct kind kd)
{
    for (size_t row = 0; row < a->n_rows; row += LANES) {
        size_t c = 0;
        if (DIRECT_COLS >= 8)
            for (; a->n_cols - c >= 8; c += 8)
                direct(a, row, c, 8, unpack, kd);
        for (; a->n_cols - c >= 4; c += 4)
            direct(a, row, c, 4, unpack, kd);
        switch (a->n_cols - c) {
        case 3: direct(a, row, c, 3, unpack, kd); break;
        case 2: direct(a, row, c, 2, unpack, kd); break;
        case 1: direct(a, row, c, 1, unpack, kd); break;
        default: break;
        }
    }
}

ALWAYS_INLINE void run_panels(const struct matmul *a, unpack_fn unpack, struct kind kd)
{
    size_t row = 0;
    for (; row + LANES < a->n_rows; row += TILE_ROWS * LANES)
        panels(a, row, TILE_ROWS, unpack, kd);
    if (row < a->n_rows)
        panels(a, row, 1, unpack, kd);
}

ALWAYS_INLINE void run(const struct matmul *a, unpack_fn unpack, struct kind kd)
{
    if (a->k == 0)
        clear(a);
    else if (a->n_cols <= DIRECT_COLS)
        run_direct(a, unpack, kd);
    else
        run_panels(a, unpack, kd);
}

#define MATMUL_VNNI(name, type, kind)                       \
    static void matmul_##name(const struct matmul *a)       \
    {                                                       \
        run(a, unpack_##name, kind);                        \
    }
FOR_EACH_KIND(MATMUL_VNNI)

#endif

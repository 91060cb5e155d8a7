/* quant_search.h: choosing the scale (and minimum) of a group of weights. Private to src/kernels.
 *
 * The problem: x[i] is to be stored as s * q[i] (or s * q[i] - m) with few-bit integers q, so that the sum of
 * w[i] * error[i]^2 is small. For a fixed s the best q is a rounding; for fixed q the best s (and m) is weighted least
 * squares. Neither alone finds the optimum, because the error as a function of s has dozens of valleys. So
 * the search here tries inverse scales around "the largest value meets the end of the grid", solves least
 * squares for each, re-rounds with the solution, and keeps the best; the idea is that of the usual k-quants,
 * with more starting points and the alternation added. test_quant.c measures it against exhaustive search.
 *
 * Groups have 16 or 32 values, held as vectors of four floats (a compiler extension that gcc and clang lower to
 * SSE or NEON). The four lanes are summed in one fixed order and nothing is fused, so every machine finds the
 * same bits. Values are normalised beforehand (largest of the block in [0.5, 1)), so that squares neither
 * overflow nor vanish.
 */
#ifndef HEARTH_QUANT_SEARCH_H
#define HEARTH_QUANT_SEARCH_H

#include "blocks.h"

typedef float f4 __attribute__((vector_size(16)));

struct group {
    f4 x[8], w[8]; /* [n4] values and their weights, w >= 0 */
    size_t n4;     /* 4 or 8 */
};

/* The integers q may be, and where to look for scales: the largest |x| is mapped to edge_begin + i * edge_step,
 * i < n_edges, with both signs where the grid is lopsided. */
struct grid {
    float lo, hi;      /* ends of the grid; linear unless is_table */
    bool is_table;     /* the values of iq4_table */
    bool is_lopsided;  /* lo != -hi: the sign of the scale matters */
    float edge_begin, edge_step;
    int n_edges;
};

/* x ~ s * q. Returns s, 0 when nothing is better than all zero. */
float fit_scale(const struct group *g, const struct grid *r);
/* x ~ s * q - m with q in 0..n_max and, unless m_is_free, m >= 0. */
void fit_affine(float *s, float *m, const struct group *g, float n_max, bool m_is_free);

/* Weighted squared error with the best q for this scale. */
float error_scale(const struct group *g, const struct grid *r, float s);
float error_affine(const struct group *g, float n_max, float s, float m);

/* The best q. For tables: the value, not its index. */
void round_scale(int8_t *q, const struct group *g, const struct grid *r, float s);
void round_affine(uint8_t *q, const struct group *g, float n_max, float s, float m);

/* Weighted sums over one group for the least squares of a whole block, with these q. */
struct scale_sums { float xq, qq; };
struct affine_sums { float xq, qq, q, x, w; };
struct scale_sums sums_scale(const struct group *g, const struct grid *r, float s);
struct affine_sums sums_affine(const struct group *g, float n_max, float s, float m);

#endif

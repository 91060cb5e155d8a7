/* quant_load.h: a block's values on their way into the search, and its scales on their way out. Private to
 * src/kernels; shared by quant.c (blocks of 32) and quant_k.c (blocks of 256).
 */
#ifndef HEARTH_QUANT_LOAD_H
#define HEARTH_QUANT_LOAD_H

#include "quant_search.h"

/* A block cut into groups, normalised: value = x * 2^exponent, the largest |x| in [0.5, 1). */
struct block_in {
    struct group g[16];
    size_t n_groups;
    int exponent;
};

/* Loads n values as groups of group_len (16 or 32). Without importance the weight of a value is the root mean
 * square of its group plus its own size; with it, importance * sqrt(2 * mean square of the block + x^2). A value
 * that is not finite counts as 0. */
void block_load(struct block_in *b, const float *x, const float *importance, size_t n, size_t group_len);

/* Stores s * 2^exponent in half precision, saturating at the largest finite one, and returns what a reader will find
 * there, in the normalised units. */
float store_scale(uint8_t out[2], float s, int exponent);

/* One block of 256. */
void put_q2_k(void *out, const float *x, const float *importance);
void put_q3_k(void *out, const float *x, const float *importance);
void put_q4_k(void *out, const float *x, const float *importance);
void put_q5_k(void *out, const float *x, const float *importance);
void put_q6_k(void *out, const float *x, const float *importance);
void put_iq4_xs(void *out, const float *x, const float *importance);

/* Index in iq4_table of one of its values. */
static inline unsigned iq4_index(int8_t value)
{
    unsigned i = 0;
    while (i < 15 && iq4_table[i] != value)
        i++;
    return i;
}

#endif

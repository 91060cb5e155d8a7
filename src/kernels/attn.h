/* attn.h: what the attention files share: the walk over chunks, and who sees what. Private to src/kernels.
 *
 * An instruction set brings two functions that take some rows of a walk through one chunk: one for few rows (decoding:
 * the query heads of a group, a token or two), which works on the tile as it lies in memory and fetches the next
 * chunk's tile meanwhile, because chunks are not neighbours in memory; and one for many (prefill), which converts the tile
 * to floats once. Both make three passes:
 *
 *   scores   s[row][32] = q[row] . K        a tile of rows x tokens in registers, one step per channel
 *   soften   s becomes p; m, l and the factor c of what was there before
 *   values   o[row] = o[row] c + p[row] V   a tile of rows x channels in registers, one step per token
 *
 * Lanes are tokens, then channels: independent sums, so blocking changes no bit (rule 5).
 *
 * Spans only rise from row to row, so the rows that see something of a chunk stand side by side.
 */
#ifndef HEARTH_KERNELS_ATTN_H
#define HEARTH_KERNELS_ATTN_H

#include "kernels.h"

/* Visible lanes [begin, end) of one chunk. */
struct lanes {
    uint8_t begin, end;
};

/* What a span leaves of chunk i_chunk; begin >= end: nothing. */
static inline struct lanes lanes_of(struct attn_span span, size_t i_chunk)
{
    const size_t first = i_chunk * CHUNK_TOKENS;
    const size_t begin = span.begin > first ? span.begin - first : 0, end = span.end > first ? span.end - first : 0;
    return (struct lanes){ (uint8_t)MIN(begin, (size_t)CHUNK_TOKENS), (uint8_t)MIN(end, (size_t)CHUNK_TOKENS) };
}

enum { GROUP_ROWS = 64 }; /* rows that share one conversion of a tile */

/* What a walk keeps on its stack. */
struct work {
    float s[GROUP_ROWS][CHUNK_TOKENS];
    float c[GROUP_ROWS];
    struct lanes lanes[GROUP_ROWS];
    float tile[LIMIT_HEAD_DIM * CHUNK_TOKENS];
};

/* Up to GROUP_ROWS rows of a walk against one chunk. */
struct rows {
    struct work *w;
    const float *q;
    float *m, *l, *o;
    const uint8_t *k, *v, *ahead_k, *ahead_v; /* this chunk's tiles; those wanted next */
    size_t q_stride, o_stride, head_dim;
    float scale, softcap;
};

typedef void (*rows_fn)(const struct rows *r, size_t n);

/* few takes up to few_rows of them, many takes more. */
static inline void walk_chunks(const struct attn_walk *a, rows_fn few, rows_fn many, size_t few_rows)
{
    struct work w;
    for (size_t c = 0; c < a->n_chunks; c++) {
        const uint8_t *chunk = a->chunks[c], *ahead = a->chunks[MIN(c + 1, a->n_chunks - 1)];
        const size_t first = c * CHUNK_TOKENS;
        size_t i = 0, end = a->n_q;
        while (i < end && a->seen[i].end <= first)
            i++;
        while (i < end && a->seen[end - 1].begin >= first + CHUNK_TOKENS)
            end--;
        for (size_t n; i < end; i += n) {
            n = MIN(end - i, (size_t)GROUP_ROWS);
            const struct rows r = {
                .w = &w, .q = a->q + i * a->q_stride, .m = a->m + i, .l = a->l + i, .o = a->o + i * a->o_stride,
                .k = chunk + a->k_at, .v = chunk + a->v_at, .ahead_k = ahead + a->k_at, .ahead_v = ahead + a->v_at,
                .q_stride = a->q_stride, .o_stride = a->o_stride, .head_dim = a->head_dim,
                .scale = a->scale, .softcap = a->softcap,
            };
            for (size_t j = 0; j < n; j++)
                w.lanes[j] = lanes_of(a->seen[i + j], c);
            (n <= few_rows ? few : many)(&r, n);
        }
    }
}

/* Of n rows from i, those (at most `most`) that see the same lanes. */
static inline size_t alike_rows(const struct rows *r, size_t i, size_t n, size_t most)
{
    const struct lanes *l = r->w->lanes + i;
    size_t k = 1;
    while (k < n && k < most && l[k].begin == l[0].begin && l[k].end == l[0].end)
        k++;
    return k;
}

#endif

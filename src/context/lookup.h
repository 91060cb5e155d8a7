/* lookup.h: where the end of a history stood before; private to this folder.
 *
 * An earlier place where the last 3 tokens stand, else the last 2, else the last one; of several the one with the
 * longest match, the newest of these. Found in constant time, kept up token by token, rolled back exactly.
 */
#ifndef HEARTH_LOOKUP_H
#define HEARTH_LOOKUP_H

#include "base/base.h"

enum { LOOKUP_GRAM_MAX = 3, LOOKUP_MATCH_MAX = 16 };

struct lookup {
    uint32_t *heads[LOOKUP_GRAM_MAX];  /* [1 << n_bits] newest position in each bucket, plus 1; 0: none */
    uint32_t *before[LOOKUP_GRAM_MAX]; /* [n_max] the next older position in the bucket of each, plus 1 */
    size_t n, n_max;                   /* tokens known, at most */
    unsigned n_bits;
    uint32_t *pages;
    size_t bytes;
};
/* tokens[next - len .. next) are the last len tokens of the history; len 0: they never stood before. */
struct match {
    size_t next;
    size_t len; /* at most LOOKUP_MATCH_MAX */
};

/* A zeroed struct is closed and may be asked for its bytes only. false: no memory. n_max < 2^32 - 1. */
MUST_CHECK bool lookup_open(struct lookup *l, size_t n_max);
void lookup_close(struct lookup *l);
/* tokens[l->n] joins. tokens: the whole history, here and below. */
void lookup_push(struct lookup *l, const int32_t *tokens);
/* Forgets the tokens from n on, as if they had never been pushed. They must still be readable. */
void lookup_truncate(struct lookup *l, const int32_t *tokens, size_t n);
struct match lookup_find(const struct lookup *l, const int32_t *tokens);
/* What followed the match, n_max tokens to out; where it reaches the end of the history it goes on in out itself, so
 * that what repeats goes on repeating. out may lie at tokens + l->n. */
void lookup_copy(const struct lookup *l, const int32_t *tokens, struct match m, int32_t *out, size_t n);

#endif

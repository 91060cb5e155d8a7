/* context.h: a conversation's tokens and the K/V under them.
 *
 * The token history is the truth, K/V a cache of it. For now a context lives in this process and its
 * chunks are plain slots (chunk.c); packing, swapping and sharing come behind this same header.
 */
#ifndef HEARTH_CONTEXT_H
#define HEARTH_CONTEXT_H

#include "engine/engine.h"

struct context;

/* n_ctx: most tokens it may hold. Chunks are claimed as tokens come. */
MUST_CHECK enum hearth_status context_open(struct context **out, struct engine *en, size_t n_ctx, struct err *e);
void context_close(struct context *c); /* accepts NULL */

const int32_t *context_tokens(const struct context *c, size_t *n);
size_t context_limit(const struct context *c);
size_t context_kv_bytes(const struct context *c); /* held now */

/* Called between batches of a long prefill: tokens done of total. */
typedef void (*context_progress)(size_t n_done, size_t n_total, void *arg);

/* Makes the history equal to tokens[0..n), n >= 1: keeps the longest common prefix, drops the rest, runs the
 * remaining tokens in batches. Afterwards context_logits() is for the last token, which is always computed. *n_kept (may be NULL): tokens not
 * computed.
 * ELIMIT when n exceeds n_ctx. ECANCELLED leaves a shorter, valid history. */
MUST_CHECK enum hearth_status context_sync(struct context *c, const int32_t *tokens, size_t n, size_t *n_kept,
                                const atomic_int *cancel, context_progress progress, void *arg, struct err *e);
/* Appends one token and computes its logits. ELIMIT when full. */
MUST_CHECK enum hearth_status context_append(struct context *c, int32_t token, const atomic_int *cancel, struct err *e);
/* Logits [n_vocab] after the last token; valid until the next sync/append; the sampler may scribble on them. */
float *context_logits(struct context *c);
/* Drops tokens from n on. */
void context_truncate(struct context *c, size_t n);

#endif

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
size_t context_kv_bytes(const struct context *c); /* held now, guesses included */

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

/* ---- speculation: guesses about the next tokens, computed in the same step as the last one ---- */

/* Prepares drafts of up to max_draft <= LIMIT_DRAFT tokens: an index of the history and a row of logits for each token of
 * a step, all allocated here. Once; again with no larger number it does nothing. EINVAL, ENOMEM. */
MUST_CHECK enum hearth_status context_speculate(struct context *c, size_t max_draft, struct err *e);
/* As context_append: the history, its logits, every status are the same, bit for bit. But up to max_draft tokens that
 * may follow are computed in the same step when that is likely to pay; appending just these tokens next then takes no step.
 * Without context_speculate none are. K/V of guesses is held until the next call that shows them wrong, or a truncation. */
MUST_CHECK enum hearth_status context_append_ahead(struct context *c, int32_t token, size_t max_draft, const atomic_int *cancel,
                                                   struct err *e);
/* Since context_open: tokens guessed and computed, those of them that were right, and steps that held guesses. */
struct draft_stats { uint64_t n_drafted, n_accepted, n_steps; };
struct draft_stats context_draft_stats(const struct context *c);
/* In place of prompt lookup, for measurements and tests: writes at most max guesses about what follows history[0..n) and
 * returns how many. All of them are run, whatever they cost. NULL: prompt lookup again. Needs context_speculate. */
typedef size_t (*context_drafter)(int32_t *draft, size_t max, const int32_t *history, size_t n, void *arg);
void context_draft_with(struct context *c, context_drafter drafter, void *arg);


/* Logits [n_vocab] after the last token; valid until the next sync/append; the sampler may scribble on them. */
float *context_logits(struct context *c);
/* Drops tokens from n on, and guesses behind them. */
void context_truncate(struct context *c, size_t n);

#endif

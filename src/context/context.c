/* context.c: one conversation: its token history, and K/V kept equal to it.
 *
 * The caller states the history it wants (sync); what is already computed and equal stays, the rest is dropped and
 * computed anew, in batches of the engine's size:
 *
 *   held:    t0 t1 t2 t3 t4 t5           sync: t0 t1 t2 x3 x4
 *   common:  t0 t1 t2                    drop t3.., run x3 x4, logits of x4
 *
 * Invariants, after every call, failed or not: tokens[0..n) and the K/V of exactly these tokens are held; the view's
 * n_tokens is that n. A cancelled or failed batch adds nothing, those before it stay: a later sync goes on there.
 * The last token is always computed, even when the whole history is kept: the logits of the previous call may have
 * been changed by the sampler.
 *
 * Costs: no allocation per token; a slot of pages per 32 tokens (chunk.c). Comparing histories is linear in their
 * common part. Left out for now: forks, tiers, several contexts over one budget.
 */
#include "context/context.h"

#include <string.h>

#include "context/chunk.h"

struct context {
    struct engine *en;
    struct arena arena;      /* this struct and all arrays */
    struct kv_view view;
    struct chunk_list chunks;
    int32_t *tokens;         /* [n_ctx]; the first view.n_tokens are held */
    float *logits;           /* [n_vocab] */
    size_t n_ctx;
};

static enum hearth_status check_limit(const struct engine *en, size_t n_ctx, struct err *e)
{
    const struct model_info *info = engine_info(en);
    if (n_ctx < 1 || n_ctx > LIMIT_CONTEXT)
        return err_set(e, HEARTH_EINVAL, "a context of %zu tokens was asked; 1 to %u are possible", n_ctx, LIMIT_CONTEXT);
    if (info->n_ctx_max && n_ctx > info->n_ctx_max)
        return err_set(e, HEARTH_ELIMIT, "a context of %zu tokens was asked, but this model has %zu positions", n_ctx,
                       info->n_ctx_max);
    return HEARTH_OK;
}

enum hearth_status context_open(struct context **out, struct engine *en, size_t n_ctx, struct err *e)
{
    size_t n_chunks = (n_ctx + CHUNK_TOKENS - 1) / CHUNK_TOKENS, n_vocab = engine_info(en)->n_vocab;
    struct arena arena;
    enum hearth_status st = check_limit(en, n_ctx, e);
    *out = NULL;
    if (st != HEARTH_OK)
        return st;
    arena_init(&arena, 0);
    struct context *c = ARENA_NEW(&arena, struct context, 1);
    if (!c || !(c->tokens = ARENA_NEW(&arena, int32_t, n_ctx)) || !(c->logits = ARENA_NEW(&arena, float, n_vocab)) ||
        !(c->view.chunks = ARENA_NEW(&arena, uint8_t *, n_chunks))) {
        arena_free(&arena);
        return err_set(e, HEARTH_ENOMEM, "no memory for a context of %zu tokens", n_ctx);
    }
    c->en = en;
    c->arena = arena;
    c->n_ctx = n_ctx;
    c->view.n_ctx = n_ctx;
    chunk_list_init(&c->chunks, engine_kv_layout(en), c->view.chunks, n_chunks);
    *out = c;
    return HEARTH_OK;
}

void context_close(struct context *c)
{
    if (!c)
        return;
    struct arena arena = c->arena; /* it holds *c, too */
    chunk_list_close(&c->chunks);
    arena_free(&arena);
}

const int32_t *context_tokens(const struct context *c, size_t *n)
{
    *n = c->view.n_tokens;
    return c->tokens;
}

size_t context_limit(const struct context *c)
{
    return c->n_ctx;
}

size_t context_kv_bytes(const struct context *c)
{
    return c->chunks.n_claimed * c->chunks.layout->chunk_bytes;
}

float *context_logits(struct context *c)
{
    return c->logits;
}

void context_truncate(struct context *c, size_t n)
{
    if (n >= c->view.n_tokens)
        return;
    chunk_list_truncate(&c->chunks, n);
    c->view.n_tokens = n;
    c->view.n_chunks = c->chunks.n_claimed;
}

/* Runs n more tokens, at most a batch; logits for the last if wanted. All or nothing. */
static enum hearth_status extend(struct context *c, const int32_t *tokens, size_t n, bool wants_logits, const atomic_int *cancel,
                                 struct err *e)
{
    size_t n_before = c->view.n_tokens;
    struct slice s = { .kv = &c->view, .tokens = tokens, .n_tokens = n, .n_logits = wants_logits, .logits = c->logits };
    enum hearth_status st = chunk_list_reserve(&c->chunks, n_before + n, e);
    c->view.n_chunks = c->chunks.n_claimed;
    if (st == HEARTH_OK)
        st = engine_step(c->en, &s, 1, cancel, e);
    if (st != HEARTH_OK) {
        chunk_list_truncate(&c->chunks, n_before);
        c->view.n_chunks = c->chunks.n_claimed;
        return st;
    }
    memcpy(c->tokens + n_before, tokens, n * sizeof *tokens);
    return HEARTH_OK;
}

static size_t common_prefix(const struct context *c, const int32_t *tokens, size_t n)
{
    size_t i = 0, end = MIN(n, c->view.n_tokens);
    while (i < end && c->tokens[i] == tokens[i])
        i++;
    return i;
}

enum hearth_status context_sync(struct context *c, const int32_t *tokens, size_t n, size_t *n_kept, const atomic_int *cancel,
                                context_progress progress, void *arg, struct err *e)
{
    size_t keep, batch = engine_max_batch(c->en);
    enum hearth_status st;
    if (n < 1)
        return err_set(e, HEARTH_EINVAL, "an empty history was asked");
    if (n > c->n_ctx)
        return err_set(e, HEARTH_ELIMIT, "%zu tokens do not fit a context of %zu", n, c->n_ctx);
    keep = MIN(common_prefix(c, tokens, n), n - 1);
    context_truncate(c, keep);
    if (n_kept)
        *n_kept = keep;
    for (size_t i = keep; i < n;) {
        size_t n_now = MIN(batch, n - i);
        if ((st = extend(c, tokens + i, n_now, i + n_now == n, cancel, e)) != HEARTH_OK)
            return st;
        i += n_now;
        if (progress)
            progress(i - keep, n - keep, arg);
    }
    return HEARTH_OK;
}

enum hearth_status context_append(struct context *c, int32_t token, const atomic_int *cancel, struct err *e)
{
    if (c->view.n_tokens >= c->n_ctx)
        return err_set(e, HEARTH_ELIMIT, "the context of %zu tokens is full", c->n_ctx);
    return extend(c, &token, 1, true, cancel, e);
}

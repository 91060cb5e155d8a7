/* context.c: one conversation: its token history, and K/V kept equal to it, or a few guesses ahead of it.
 *
 * The caller states the history it wants (sync); what is already computed and equal stays, the rest is dropped and
 * computed anew, in batches of the engine's size:
 *
 *   held:    t0 t1 t2 t3 t4 t5           sync: t0 t1 t2 x3 x4
 *   common:  t0 t1 t2                    drop t3.., run x3 x4, logits of x4
 *
 * Speculation (lookup.c guesses, speculate.c decides how much) runs guesses behind the last token in its step:
 *
 *   append_ahead t3:  t0 t1 t2 t3 | g4 g5 g6      one step over t3 g4 g5 g6, four rows of logits
 *   append_ahead t4:  t0 t1 t2 t3 t4 | g5 g6      when t4 = g4: no step, the next row holds its logits
 *   append_ahead t5:  t0 t1 t2 t3 t4 t5           when t5 != g5: g5 g6 are dropped, a step over t5 (and new guesses)
 *
 * A row is bit for bit what a step over that token alone gives (engine.h), so a caller who picks tokens from the logits
 * and appends them gets the same ones, guesses or not. He needs to know nothing about it.
 *
 * Invariants, after every call, failed or not: tokens[0..n_tokens) are the history and its K/V is held; behind it may
 * stand guesses, up to the view's n_tokens, and then what wrong guesses left (context_truncate clears it). A cancelled or failed batch adds nothing, those
 * before it stay: a later sync goes on there. A guess never makes a call fail that would have gone well without it.
 * The last token is always computed, even when the whole history is kept: the logits of the previous call may have
 * been changed by the sampler.
 *
 * Costs: no heap allocation per token; a slot of pages per 32 tokens (chunk.c). Comparing histories is linear in their
 * common part. Left out for now: forks, tiers, several contexts over one budget.
 */
#include "context/context.h"

#include <string.h>

#include "context/chunk.h"
#include "context/lookup.h"
#include "context/speculate.h"

struct context {
    struct engine *en;
    struct arena arena;      /* this struct and all arrays */
    struct kv_view view;
    struct chunk_list chunks;
    int32_t *tokens;         /* [n_ctx]; the first n_tokens are the history, up to view.n_tokens guesses */
    size_t n_tokens, n_ctx;
    size_t n_written;        /* lanes that may not be zero: of tokens, guesses and wrong guesses */
    float *logits;           /* [1 or 1 + max_draft, n_vocab] */
    size_t i_row;            /* the row of the last token of the history */
    /* Speculation. max_draft 0: none. */
    size_t max_draft;
    float *rows;             /* pages that logits lie in */
    size_t rows_bytes;
    struct lookup lookup;    /* knows the history, not the guesses */
    struct speculator speculator;
    struct draft_stats stats;
    context_drafter drafter;
    void *drafter_arg;
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
    lookup_close(&c->lookup);
    pages_free(c->rows, c->rows_bytes);
    arena_free(&arena);
}

const int32_t *context_tokens(const struct context *c, size_t *n)
{
    *n = c->n_tokens;
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
    return c->logits + c->i_row * engine_info(c->en)->n_vocab;
}

/* ---- the history ---- */

void context_truncate(struct context *c, size_t n)
{
    n = MIN(n, c->n_tokens);
    if (n == c->n_written && c->chunks.n_claimed * CHUNK_TOKENS < n + CHUNK_TOKENS)
        return;
    if (c->max_draft)
        lookup_truncate(&c->lookup, c->tokens, n);
    chunk_list_truncate(&c->chunks, n);
    c->view.n_tokens = c->n_tokens = c->n_written = n;
    c->view.n_chunks = c->chunks.n_claimed;
}

/* Runs tokens[n_tokens .. n_tokens + n), which the caller has written there, at most a batch; logits for the last n_logits.
 * All or nothing; the history does not grow yet. */
static enum hearth_status run(struct context *c, size_t n, size_t n_logits, const atomic_int *cancel, struct err *e)
{
    size_t n_before = c->n_tokens;
    struct slice s = { .kv = &c->view, .tokens = c->tokens + n_before, .n_tokens = n, .n_logits = n_logits, .logits = c->logits };
    enum hearth_status st = chunk_list_reserve(&c->chunks, n_before + n, e);
    c->view.n_chunks = c->chunks.n_claimed;
    if (st == HEARTH_OK)
        st = engine_step(c->en, &s, 1, cancel, e);
    if (st == HEARTH_OK) {
        c->i_row = 0;
        c->n_written = MAX(c->n_written, c->view.n_tokens);
        return st;
    }
    chunk_list_truncate(&c->chunks, n_before);
    c->n_written = n_before;
    c->view.n_chunks = c->chunks.n_claimed;
    return st;
}

/* n more of the tokens that are computed become history. */
static void grow(struct context *c, size_t n)
{
    c->n_tokens += n;
    CHECK(c->n_tokens <= c->view.n_tokens);
    while (c->max_draft && c->lookup.n < c->n_tokens)
        lookup_push(&c->lookup, c->tokens);
}

static size_t common_prefix(const struct context *c, const int32_t *tokens, size_t n)
{
    size_t i = 0, end = MIN(n, c->n_tokens);
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
        memcpy(c->tokens + i, tokens + i, n_now * sizeof *tokens);
        if ((st = run(c, n_now, i + n_now == n, cancel, e)) != HEARTH_OK)
            return st;
        grow(c, n_now);
        i += n_now;
        if (progress)
            progress(i - keep, n - keep, arg);
    }
    return HEARTH_OK;
}

/* ---- one token, and guesses behind it ---- */

enum hearth_status context_speculate(struct context *c, size_t max_draft, struct err *e)
{
    size_t n_vocab = engine_info(c->en)->n_vocab, bytes = (1 + max_draft) * n_vocab * sizeof(float);
    struct lookup lookup;
    if (max_draft > LIMIT_DRAFT)
        return err_set(e, HEARTH_EINVAL, "drafts of %zu tokens were asked; at most %d are possible", max_draft, LIMIT_DRAFT);
    if (max_draft <= c->max_draft)
        return HEARTH_OK;
    float *rows = pages_alloc(bytes);
    if (!rows || !lookup_open(&lookup, c->n_ctx)) {
        pages_free(rows, bytes);
        return err_set(e, HEARTH_ENOMEM, "no memory for drafts of %zu tokens", max_draft);
    }
    memcpy(rows, context_logits(c), n_vocab * sizeof *rows);
    context_truncate(c, c->n_tokens);
    lookup_close(&c->lookup);
    pages_free(c->rows, c->rows_bytes);
    if (c->max_draft == 0)
        speculator_init(&c->speculator);
    c->logits = c->rows = rows;
    c->rows_bytes = bytes;
    c->i_row = 0;
    c->max_draft = max_draft;
    c->lookup = lookup;
    grow(c, 0);
    return HEARTH_OK;
}

struct draft_stats context_draft_stats(const struct context *c)
{
    return c->stats;
}

void context_draft_with(struct context *c, context_drafter drafter, void *arg)
{
    CHECK(c->max_draft || !drafter);
    c->drafter = drafter;
    c->drafter_arg = arg;
}

static size_t ask_drafter(struct context *c, size_t n, size_t max)
{
    size_t n_vocab = engine_info(c->en)->n_vocab, k = 0, n_guesses = MIN(c->drafter(c->tokens + n, max, c->tokens, n, c->drafter_arg), max);
    while (k < n_guesses && c->tokens[n + k] >= 0 && (size_t)c->tokens[n + k] < n_vocab)
        k++; /* no further than the ids are tokens */
    return k;
}

/* Writes guesses behind the n tokens that the lookup knows, at most max; how many. */
static size_t guess(struct context *c, size_t n, size_t max)
{
    if (max == 0)
        return 0;
    if (c->drafter)
        return ask_drafter(c, n, max);
    struct match m = lookup_find(&c->lookup, c->tokens);
    size_t k = m.len ? speculator_choose(&c->speculator, m.len, max) : 0;
    lookup_copy(&c->lookup, c->tokens, m, c->tokens + n, k);
    return k;
}

/* The token at the end of the history is news for the odds. */
static void learn(struct context *c, int32_t token)
{
    CHECK(c->lookup.n == c->n_tokens);
    if (c->n_tokens == 0)
        return;
    struct match m = lookup_find(&c->lookup, c->tokens);
    int32_t guessed = token;
    lookup_copy(&c->lookup, c->tokens, m, &guessed, m.len > 0);
    speculator_saw_token(&c->speculator, m.len, guessed == token);
}

/* Computes the token that stands behind the history, with guesses. */
static enum hearth_status step_ahead(struct context *c, size_t max_draft, const atomic_int *cancel, struct err *e)
{
    size_t n = c->n_tokens, k = 0;
    if (c->max_draft) {
        CHECK(c->lookup.n == n);
        lookup_push(&c->lookup, c->tokens);
        k = guess(c, n + 1, MIN(MIN(max_draft, c->max_draft), MIN(c->n_ctx - n, engine_max_batch(c->en)) - 1));
        lookup_truncate(&c->lookup, c->tokens, n);
    }
    if (k && chunk_list_reserve(&c->chunks, n + 1 + k, NULL) != HEARTH_OK)
        k = 0; /* the token alone may still fit */
    uint64_t begin = clock_ns();
    enum hearth_status st = run(c, 1 + k, 1 + k, cancel, e);
    if (st == HEARTH_OK && c->max_draft)
        speculator_saw_step(&c->speculator, 1 + k, (double)(clock_ns() - begin));
    if (st == HEARTH_OK && k) {
        c->stats.n_drafted += k;
        c->stats.n_steps++;
    }
    return st;
}

enum hearth_status context_append_ahead(struct context *c, int32_t token, size_t max_draft, const atomic_int *cancel, struct err *e)
{
    size_t n = c->n_tokens;
    enum hearth_status st = HEARTH_OK;
    if (n >= c->n_ctx)
        return err_set(e, HEARTH_ELIMIT, "the context of %zu tokens is full", c->n_ctx);
    if (n < c->view.n_tokens && c->tokens[n] == token) {
        if (cancel && atomic_load_explicit(cancel, memory_order_relaxed))
            return err_set(e, HEARTH_ECANCELLED, "cancelled");
        c->i_row++;
        c->stats.n_accepted++;
        speculator_saved_step(&c->speculator);
    } else {
        c->view.n_tokens = n; /* guesses that were wrong */
        c->tokens[n] = token;
        st = step_ahead(c, max_draft, cancel, e);
    }
    if (st == HEARTH_OK && c->max_draft)
        learn(c, token);
    if (st == HEARTH_OK)
        grow(c, 1);
    return st;
}

enum hearth_status context_append(struct context *c, int32_t token, const atomic_int *cancel, struct err *e)
{
    return context_append_ahead(c, token, 0, cancel, e);
}

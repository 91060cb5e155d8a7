/* window.c: see window.h.
 *
 * The engine takes batches of bounded size and gives logits for the last rows of a batch. Positions that are not
 * scored go through in the largest batches, without logits; scored ones in batches small enough that their logits
 * stay below LOGITS_BYTES, whatever the vocabulary. How the text is split does not change a bit (engine.h).
 *
 * Chunks are taken once and used again for every window: rows behind the current position are masked, and their old
 * values are finite, so they do not matter.
 */
#include <stdlib.h>

#include "quantize/window.h"

enum { LOGITS_BYTES = 32 << 20 };

enum hearth_status runner_open(struct runner *r, struct engine *en, size_t n_ctx, struct err *e)
{
    const struct kv_layout *l = engine_kv_layout(en);
    size_t n_chunks = (n_ctx + CHUNK_TOKENS - 1) / CHUNK_TOKENS;
    *r = (struct runner){ .engine = en, .n_vocab = engine_info(en)->n_vocab };
    r->max_rows = MIN(MAX(LOGITS_BYTES / (r->n_vocab * sizeof(float)), 1u), engine_max_batch(en));
    r->view.n_ctx = n_ctx;
    if (size_mul(&r->kv_bytes, n_chunks, l->chunk_bytes))
        r->kv = pages_alloc(r->kv_bytes);
    r->view.chunks = calloc(n_chunks, sizeof *r->view.chunks);
    r->logits = malloc(r->max_rows * r->n_vocab * sizeof(float));
    if (!r->kv || !r->view.chunks || !r->logits) {
        runner_close(r);
        return err_set(e, HEARTH_ENOMEM, "no memory for a context of %zu tokens", n_ctx);
    }
    r->view.n_chunks = n_chunks;
    for (size_t i = 0; i < n_chunks; i++)
        r->view.chunks[i] = r->kv + i * l->chunk_bytes;
    return HEARTH_OK;
}

void runner_close(struct runner *r)
{
    if (r->kv)
        pages_free(r->kv, r->kv_bytes);
    free(r->view.chunks);
    free(r->logits);
    *r = (struct runner){ .engine = NULL };
}

void runner_restart(struct runner *r)
{
    r->view.n_tokens = 0;
}

enum hearth_status runner_skip(struct runner *r, const int32_t *tokens, size_t n, const atomic_int *cancel, struct err *e)
{
    enum hearth_status st = HEARTH_OK;
    for (size_t i = 0, part; st == HEARTH_OK && i < n; i += part) {
        part = MIN(n - i, engine_max_batch(r->engine));
        struct slice s = { .kv = &r->view, .tokens = tokens + i, .n_tokens = part };
        st = engine_step(r->engine, &s, 1, cancel, e);
    }
    return st;
}

enum hearth_status runner_score(struct runner *r, const int32_t *tokens, size_t n, const atomic_int *cancel, struct err *e)
{
    struct slice s = { .kv = &r->view, .tokens = tokens, .n_tokens = n, .n_logits = n, .logits = r->logits };
    CHECK(n >= 1 && n <= r->max_rows);
    return engine_step(r->engine, &s, 1, cancel, e);
}

/* A file may hold a vocabulary that is larger than its matrices. */
enum hearth_status check_ids(const int32_t *ids, size_t n, size_t n_vocab, struct err *e)
{
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || (size_t)ids[i] >= n_vocab)
            return err_set(e, HEARTH_EINVAL, "token %d is not one of the model's %zu", (int)ids[i], n_vocab);
    return HEARTH_OK;
}

enum hearth_status windows_open(struct windows *w, const struct tokenizer *t, const char *text, size_t n, size_t n_ctx,
                                const struct model_info *info, struct err *e)
{
    const struct vocab *v = tokenizer_vocab(t);
    enum hearth_status st;
    *w = (struct windows){ .n_ctx = n_ctx, .first = n_ctx / 2 };
    if (n_ctx < 4)
        return err_set(e, HEARTH_EINVAL, "windows of %zu tokens are too short to score; at least 4 are needed", n_ctx);
    if (info->n_ctx_max && n_ctx > info->n_ctx_max)
        return err_set(e, HEARTH_ELIMIT, "windows of %zu tokens: the model has %zu positions", n_ctx, info->n_ctx_max);
    if ((st = tokenizer_encode(t, text, n, ENCODE_BOS, NULL, 0, &w->ids, NULL, e)) != HEARTH_OK)
        return st;
    w->n_windows = w->ids.n / n_ctx;
    if (w->n_windows == 0) {
        st = err_set(e, HEARTH_EINVAL, "the text has %zu tokens; one window is %zu", w->ids.n, n_ctx);
        windows_close(w);
        return st;
    }
    for (size_t i = 0; v->add_bos && v->bos >= 0 && i < w->n_windows; i++)
        w->ids.v[i * n_ctx] = v->bos;
    if ((st = check_ids(w->ids.v, w->ids.n, info->n_vocab, e)) != HEARTH_OK)
        windows_close(w);
    return st;
}

void windows_close(struct windows *w)
{
    ids_free(&w->ids);
}

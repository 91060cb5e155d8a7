/* engine_run.c: see engine_run.h. */
#include "engine_run.h"

#include <stdlib.h>
#include <string.h>

#include "support.h"

void run_open(struct run *r, const char *path, const struct engine_options *o)
{
    struct err e = { 0 };
    struct engine_options shared = *o;
    shared.share_above = o->share_above ? o->share_above : 1; /* these models are tiny; their jobs shall be shared out */
    arena_init(&r->arena, 0);
    assert_ok(gguf_open(&r->g, path, &r->arena, &e), &e);
    assert_ok(engine_open(&r->en, &r->g, &shared, &e), &e);
}

void run_open_tiny(struct run *r, const struct tiny *t, enum tensor_type type, const struct engine_options *o)
{
    const char *path = scratch_path("tiny.gguf");
    tiny_write(t, path, type);
    run_open(r, path, o);
}

void run_close(struct run *r)
{
    engine_close(r->en);
    gguf_close(&r->g);
    arena_free(&r->arena);
}

void seq_open(struct seq *s, const struct engine *en, size_t n_ctx)
{
    size_t n = (n_ctx + CHUNK_TOKENS - 1) / CHUNK_TOKENS;
    *s = (struct seq){ .kv.n_chunks = n, .kv.n_ctx = n_ctx, .chunk_bytes = engine_kv_layout(en)->chunk_bytes };
    s->kv.chunks = calloc(n, sizeof *s->kv.chunks);
    CHECK(s->kv.chunks);
    for (size_t i = 0; i < n; i++)
        CHECK(s->kv.chunks[i] = calloc(1, s->chunk_bytes));
}

void seq_close(struct seq *s)
{
    for (size_t i = 0; i < s->kv.n_chunks; i++)
        free(s->kv.chunks[i]);
    free(s->kv.chunks);
}

float *run_sequence(struct engine *en, const int32_t *tokens, size_t n, size_t n_ctx, const size_t *steps, size_t n_steps)
{
    size_t n_vocab = engine_info(en)->n_vocab, done = 0;
    float *logits = calloc(n * n_vocab, sizeof *logits);
    struct err e = { 0 };
    struct seq s;
    CHECK(logits);
    seq_open(&s, en, n_ctx);
    for (size_t i = 0; done < n; i++) {
        size_t now = MIN(MIN(steps[i % n_steps], engine_max_batch(en)), n - done);
        struct slice sl = { .kv = &s.kv, .tokens = tokens + done, .n_tokens = now, .n_logits = now, .logits = logits + done * n_vocab };
        assert_ok(engine_step(en, &sl, 1, NULL, &e), &e);
        done += now;
        assert_int_equal(s.kv.n_tokens, done);
    }
    seq_close(&s);
    return logits;
}

int32_t *random_tokens(size_t n, size_t n_vocab, uint64_t seed)
{
    int32_t *ids = calloc(n, sizeof *ids);
    uint64_t state = seed * 2 + 1;
    CHECK(ids);
    for (size_t i = 0; i < n; i++)
        ids[i] = (int32_t)(test_random(&state) % n_vocab);
    return ids;
}

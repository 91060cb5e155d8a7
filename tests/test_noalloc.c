/* test_noalloc.c: no heap allocation while tokens are made, and a clean end when there is no memory. The linker sends
 * the library's allocations through the counters here (--wrap).
 *
 * Between two readings of the counter, steps, syncs, appends, guesses and picks of all kinds run. Truncation gives slots back;
 * the pages of new ones come from the system directly. Then every allocation of opening an engine and a context, pages
 * included, fails once, and for ever: each time one error, nothing leaked, and a second try works.
 */
#include "support.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "context/context.h"
#include "engine_run.h"

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__real_aligned_alloc(size_t align, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_aligned_alloc(size_t align, size_t n);
void *__real_pages_alloc(size_t n);
void *__wrap_pages_alloc(size_t n);
void __real_pages_free(void *p, size_t n);
void __wrap_pages_free(void *p, size_t n);
void __real_free(void *p);
void __wrap_free(void *p);

static atomic_size_t n_allocations; /* from the heap, since the start */
static atomic_long n_held;          /* heap blocks and page ranges not yet given back */
static atomic_long fail_after = -1; /* allocations that still succeed; negative: all do */
static bool fails_for_ever;

static bool must_fail(void)
{
    if (atomic_load(&fail_after) < 0)
        return false;
    if (atomic_load(&fail_after) > 0) {
        atomic_fetch_sub(&fail_after, 1);
        return false;
    }
    if (!fails_for_ever)
        atomic_store(&fail_after, -1);
    return true;
}

static void *held(void *p)
{
    if (p)
        atomic_fetch_add(&n_held, 1);
    return p;
}

void *__wrap_malloc(size_t n)
{
    atomic_fetch_add(&n_allocations, 1);
    return must_fail() ? NULL : held(__real_malloc(n));
}

void *__wrap_calloc(size_t n, size_t size)
{
    atomic_fetch_add(&n_allocations, 1);
    return must_fail() ? NULL : held(__real_calloc(n, size));
}

void *__wrap_realloc(void *p, size_t n)
{
    atomic_fetch_add(&n_allocations, 1);
    if (must_fail())
        return NULL;
    return p ? __real_realloc(p, n) : held(__real_realloc(p, n));
}

void *__wrap_aligned_alloc(size_t align, size_t n)
{
    atomic_fetch_add(&n_allocations, 1);
    return must_fail() ? NULL : held(__real_aligned_alloc(align, n));
}

void __wrap_free(void *p)
{
    if (p)
        atomic_fetch_sub(&n_held, 1);
    __real_free(p);
}

void *__wrap_pages_alloc(size_t n)
{
    return must_fail() ? NULL : held(__real_pages_alloc(n));
}

void __wrap_pages_free(void *p, size_t n)
{
    if (p)
        atomic_fetch_sub(&n_held, 1);
    __real_pages_free(p, n);
}

/* A draft of random tokens, now and then the right ones. */
static size_t draft_some(int32_t *draft, size_t max, const int32_t *history, size_t n, void *arg)
{
    for (size_t i = 0; i < max; i++)
        draft[i] = history[test_random(arg) % n];
    return max;
}

static struct draft_stats run_and_count(const struct tiny_spec *spec, enum tensor_type type)
{
    const struct engine_options o = { .n_threads = 2, .max_batch = 32 };
    struct tiny t;
    struct run r;
    struct context *c[2];
    struct sampler *s;
    struct sampler_params p = sampler_defaults();
    struct err e = { 0 };
    int32_t *tokens = random_tokens(200, spec->n_vocab, 1);
    uint64_t rnd = 1;
    tiny_build(&t, spec);
    p.temperature = 0.3f; /* likely enough to be guessed */
    p.repeat_penalty = 1.1f;
    run_open_tiny(&r, &t, type, &o);
    assert_ok(context_open(&c[0], r.en, 190, &e), &e);
    assert_ok(context_open(&c[1], r.en, 190, &e), &e);
    assert_ok(context_speculate(c[1], 7, &e), &e);
    assert_ok(sampler_open(&s, &p, spec->n_vocab, &r.arena, &e), &e);

    size_t before = atomic_load(&n_allocations);
    assert_true(before > 0); /* the counter works */
    for (int i = 0; i < 2; i++) {
        assert_ok(context_sync(c[i], tokens + 3 * i, 70, NULL, NULL, NULL, NULL, &e), &e);
        for (int k = 0; k < 60; k++) {
            size_t n;
            const int32_t *history = context_tokens(c[i], &n);
            int32_t id = sampler_pick(s, context_logits(c[i]), history, n, n);
            if (i == 1)
                context_draft_with(c[i], k < 30 ? draft_some : NULL, &rnd);
            assert_ok(context_append_ahead(c[i], id, 7, NULL, &e), &e);
        }
        context_truncate(c[i], 33);
        assert_ok(context_sync(c[i], tokens, 180, NULL, NULL, NULL, NULL, &e), &e);
        assert_int_equal(context_append(c[i], -1, NULL, NULL), HEARTH_EINVAL); /* an error costs none either */
    }
    assert_int_equal(atomic_load(&n_allocations) - before, 0);
    struct draft_stats stats = context_draft_stats(c[1]);
    context_close(c[0]);
    context_close(c[1]);
    run_close(&r);
    tiny_free(&t);
    free(tokens);
    return stats;
}

static void no_step_allocates(void **state)
{
    uint64_t n_right = 0, n_wrong = 0;
    for (const struct tiny_spec *s = tiny_specs; s->arch; s++) {
        struct draft_stats stats = run_and_count(s, TYPE_F16);
        n_right += stats.n_accepted;
        n_wrong += stats.n_drafted - stats.n_accepted;
    }
    assert_true(n_right > 20 && n_wrong > 20); /* guesses of both kinds were among them */
}

static void no_quantised_step_allocates(void **state)
{
    struct tiny_spec s = tiny_specs[0];
    s.n_embd = 256, s.n_heads = 8, s.head_dim = 32, s.n_ff = 256;
    (void)run_and_count(&s, TYPE_Q4_K);
}

/* One life of an engine, a context and a sampler. */
static enum hearth_status live(const struct gguf *g, const int32_t *tokens, struct err *e)
{
    const struct engine_options o = { .n_threads = 2, .max_batch = 16, .share_above = 1 };
    const struct sampler_params p = sampler_defaults();
    struct engine *en = NULL;
    struct context *c = NULL;
    struct sampler *s;
    struct arena a;
    arena_init(&a, 0);
    enum hearth_status st = engine_open(&en, g, &o, e);
    if (st == HEARTH_OK)
        st = context_open(&c, en, 100, e);
    if (st == HEARTH_OK)
        st = context_speculate(c, 3, e);
    if (st == HEARTH_OK)
        st = sampler_open(&s, &p, engine_info(en)->n_vocab, &a, e);
    if (st == HEARTH_OK)
        st = context_sync(c, tokens, 70, NULL, NULL, NULL, NULL, e);
    if (st == HEARTH_OK)
        st = context_append(c, tokens[70], NULL, e);
    context_close(c);
    engine_close(en);
    arena_free(&a);
    return st;
}

/* Where there is no memory for guesses, there are none. */
static void guesses_need_no_memory_that_is_not_there(void **state)
{
    const struct engine_options o = { .n_threads = 1, .max_batch = 16 };
    struct tiny t;
    struct run r;
    struct context *c;
    struct err e = { 0 };
    uint64_t rnd = 1;
    int32_t *tokens = random_tokens(CHUNK_TOKENS, tiny_specs[0].n_vocab, 1);
    tiny_build(&t, &tiny_specs[0]);
    run_open_tiny(&r, &t, TYPE_F16, &o);
    assert_ok(context_open(&c, r.en, 100, &e), &e);
    assert_ok(context_speculate(c, 7, &e), &e);
    assert_ok(context_sync(c, tokens, CHUNK_TOKENS - 1, NULL, NULL, NULL, NULL, &e), &e);
    context_draft_with(c, draft_some, &rnd);
    fails_for_ever = true;
    atomic_store(&fail_after, 0);
    enum hearth_status st = context_append_ahead(c, tokens[CHUNK_TOKENS - 1], 7, NULL, &e); /* fills the last slot */
    enum hearth_status full = context_append_ahead(c, 0, 7, NULL, &e);
    atomic_store(&fail_after, -1);
    assert_int_equal(st, HEARTH_OK);
    assert_int_equal(full, HEARTH_ENOMEM);
    assert_int_equal(context_draft_stats(c).n_drafted, 0);
    err_clear(&e);
    assert_ok(context_append_ahead(c, 0, 7, NULL, &e), &e);
    assert_int_equal(context_draft_stats(c).n_drafted, 7);
    context_close(c);
    run_close(&r);
    tiny_free(&t);
    free(tokens);
}

static void every_lack_of_memory_ends_cleanly(void **state)
{
    struct tiny t;
    struct gguf g;
    struct arena a;
    struct err e = { 0 };
    int32_t *tokens = random_tokens(71, tiny_specs[4].n_vocab, 1);
    tiny_build(&t, &tiny_specs[4]); /* phi3: with copied factors */
    for (size_t i = 0; i < t.n_tensors; i++)
        if (t.tensors[i].n_dims == 1)
            t.tensors[i].type = TYPE_F16; /* vectors that need a copy */
    tiny_write(&t, scratch_path("oom.gguf"), TYPE_F16);
    arena_init(&a, 0);
    assert_ok(gguf_open(&g, scratch_path("oom.gguf"), &a, &e), &e);
    assert_ok(live(&g, tokens, &e), &e); /* kernels and the like are set up once */
    for (int how = 0; how < 2; how++) {
        enum hearth_status st = HEARTH_ENOMEM;
        long n;
        fails_for_ever = how == 1;
        for (n = 0; st != HEARTH_OK; n++) {
            long before = atomic_load(&n_held);
            err_clear(&e);
            atomic_store(&fail_after, n);
            st = live(&g, tokens, &e);
            atomic_store(&fail_after, -1);
            assert_int_equal(atomic_load(&n_held), before);
            assert_true(st == HEARTH_OK || (st == HEARTH_ENOMEM && e.text[0]));
            assert_true(n < 1000);
        }
        assert_true(n > 8); /* there were allocations to fail */
    }
    gguf_close(&g);
    arena_free(&a);
    tiny_free(&t);
    free(tokens);
}

/* Masks, their application, steps and steps taken back; the small cache is collected again and again meanwhile. */
static void no_grammar_allocates(void **state)
{
    static const char name[] = "vocab/ggml-vocab-llama-spm.gguf", schema[] = "{\"type\": \"array\", \"items\": {\"maxLength\": 900}}";
    need_data(name);
    struct arena a;
    struct gguf file;
    struct vocab v;
    struct tokenizer *t;
    struct grammar_vocab *trie;
    struct grammar *g;
    struct grammar_cache *c[2];
    struct err e = { 0 };
    arena_init(&a, 0);
    assert_ok(gguf_open(&file, data_path(name), &a, &e), &e);
    assert_ok(vocab_from_gguf(&v, &file, &a, &e), &e);
    assert_ok(tokenizer_open(&t, &v, &a, &e), &e);
    assert_ok(grammar_vocab_open(&trie, t, &a, &e), &e);
    assert_ok(grammar_from_schema(&g, schema, strlen(schema), 0, &a, &e), &e);
    for (int i = 0; i < 2; i++)
        assert_ok(grammar_cache_open(&c[i], g, trie, (size_t)i, &a, &e), &e);
    float *logits = ARENA_NEW(&a, float, v.n_tokens);
    assert_non_null(logits);
    size_t before = atomic_load(&n_allocations), used = a.used_bytes;
    for (int i = 0; i < 2; i++)
        for (int round = 0; round < 8; round++) {
            struct grammar_run r;
            assert_ok(grammar_run_open(&r, c[i], &e), &e);
            assert_true(grammar_accept_bytes(&r, "[\"", 2));
            for (int k = 0; k < 90; k++) {
                const uint32_t *mask;
                assert_ok(grammar_mask(&r, &mask, &e), &e);
                grammar_apply(mask, logits, v.n_tokens);
                assert_true(grammar_accept_bytes(&r, "a\\nb \xc3\xa4", 7) && grammar_accept_bytes(&r, "cde", 3));
                grammar_rollback(&r, k % 3 ? 1 : 2);
            }
            grammar_run_close(&r);
        }
    assert_true(grammar_cache_stats(c[1]).n_collections > 0);
    assert_int_equal(atomic_load(&n_allocations), before);
    assert_int_equal(a.used_bytes, used);
    tokenizer_close(t);
    gguf_close(&file);
    arena_free(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_grammar_allocates),
        cmocka_unit_test(no_step_allocates),
        cmocka_unit_test(no_quantised_step_allocates),
        cmocka_unit_test(guesses_need_no_memory_that_is_not_there),
        cmocka_unit_test(every_lack_of_memory_ends_cleanly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

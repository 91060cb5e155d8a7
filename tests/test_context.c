/* test_context.c: histories kept equal to what is asked: the same logits as computing everything anew, after any
 * sequence of syncs, appends, truncations, cancels and failures.
 */
#include "support.h"

#include <stdlib.h>
#include <string.h>

#include "context/context.h"
#include "engine_run.h"

enum { BATCH = 16, N_CTX = 150 };

static struct run r;
static size_t n_vocab;

static int setup(void **state)
{
    const struct engine_options o = { .n_threads = 2, .max_batch = BATCH };
    struct tiny t;
    for (const struct tiny_spec *s = tiny_specs; s->arch; s++)
        if (strcmp(s->arch, "opt") == 0) /* learned positions: 200 at most */
            tiny_build(&t, s);
    run_open_tiny(&r, &t, TYPE_F32, &o);
    n_vocab = engine_info(r.en)->n_vocab;
    tiny_free(&t);
    return 0;
}

static int teardown(void **state)
{
    run_close(&r);
    return 0;
}

/* The context's logits are those of its history run in one piece. */
static void assert_logits(struct context *c)
{
    const size_t step = BATCH;
    size_t n;
    const int32_t *tokens = context_tokens(c, &n);
    float *want = run_sequence(r.en, tokens, n, N_CTX, &step, 1);
    assert_memory_equal(context_logits(c), want + (n - 1) * n_vocab, n_vocab * sizeof *want);
    free(want);
}

static void assert_history(const struct context *c, const int32_t *tokens, size_t n)
{
    size_t held;
    const int32_t *have = context_tokens(c, &held);
    assert_int_equal(held, n);
    assert_memory_equal(have, tokens, n * sizeof *tokens);
    assert_int_equal(context_kv_bytes(c), (n + CHUNK_TOKENS - 1) / CHUNK_TOKENS * engine_kv_layout(r.en)->chunk_bytes);
}

static struct context *open_context(void)
{
    struct context *c;
    struct err e = { 0 };
    assert_ok(context_open(&c, r.en, N_CTX, &e), &e);
    assert_int_equal(context_limit(c), N_CTX);
    return c;
}

static void sync_keeps_the_common_prefix(void **state)
{
    struct context *c = open_context();
    struct err e = { 0 };
    int32_t *a = random_tokens(N_CTX, n_vocab, 1);
    size_t kept = 99;
    assert_history(c, a, 0);
    assert_ok(context_sync(c, a, 70, &kept, NULL, NULL, NULL, &e), &e);
    assert_int_equal(kept, 0);
    assert_history(c, a, 70);
    assert_logits(c);
    assert_ok(context_sync(c, a, 100, &kept, NULL, NULL, NULL, &e), &e);
    assert_int_equal(kept, 70);
    assert_logits(c);
    a[50] = (a[50] + 1) % (int32_t)n_vocab; /* another continuation from 50 on */
    assert_ok(context_sync(c, a, 80, &kept, NULL, NULL, NULL, &e), &e);
    assert_int_equal(kept, 50);
    assert_history(c, a, 80);
    assert_logits(c);
    context_logits(c)[0] = 1e9f; /* a sampler's trace; the last token is computed again */
    assert_ok(context_sync(c, a, 80, &kept, NULL, NULL, NULL, &e), &e);
    assert_int_equal(kept, 79);
    assert_logits(c);
    assert_ok(context_sync(c, a, 33, &kept, NULL, NULL, NULL, &e), &e); /* shorter */
    assert_int_equal(kept, 32);
    assert_history(c, a, 33);
    assert_logits(c);
    context_close(c);
    free(a);
}

static void appending_equals_syncing(void **state)
{
    struct context *c = open_context();
    struct err e = { 0 };
    int32_t *a = random_tokens(N_CTX + 1, n_vocab, 2);
    assert_ok(context_sync(c, a, 20, NULL, NULL, NULL, NULL, &e), &e);
    for (size_t i = 20; i < N_CTX; i++) {
        assert_ok(context_append(c, a[i], NULL, &e), &e);
        if (i % 31 == 0 || i + 1 == N_CTX)
            assert_logits(c);
    }
    assert_history(c, a, N_CTX);
    assert_int_equal(context_append(c, a[N_CTX], NULL, &e), HEARTH_ELIMIT);
    err_clear(&e);
    assert_int_equal(context_sync(c, a, N_CTX + 1, NULL, NULL, NULL, NULL, &e), HEARTH_ELIMIT);
    assert_history(c, a, N_CTX);
    context_close(c);
    context_close(NULL);
    free(a);
}

struct watch {
    atomic_int *cancel;
    size_t after, n_calls, last_done, total;
};

static void count(size_t n_done, size_t n_total, void *arg)
{
    struct watch *w = arg;
    w->n_calls++;
    assert_true(n_done > w->last_done && n_done <= n_total);
    w->last_done = n_done;
    w->total = n_total;
    if (w->cancel && n_done >= w->after)
        atomic_store(w->cancel, 1);
}

static void a_cancelled_prefill_goes_on_where_it_was(void **state)
{
    struct context *c = open_context();
    struct err e = { 0 };
    atomic_int cancel = 0;
    struct watch w = { .cancel = &cancel, .after = 3 * BATCH };
    int32_t *a = random_tokens(N_CTX, n_vocab, 3);
    size_t kept;
    assert_int_equal(context_sync(c, a, 100, NULL, &cancel, count, &w, &e), HEARTH_ECANCELLED);
    assert_int_equal(w.total, 100);
    assert_history(c, a, 3 * BATCH);
    atomic_store(&cancel, 0);
    err_clear(&e);
    w = (struct watch){ 0 };
    assert_ok(context_sync(c, a, 100, &kept, &cancel, count, &w, &e), &e);
    assert_int_equal(kept, 3 * BATCH);
    assert_int_equal(w.last_done, 100 - 3 * BATCH);
    assert_int_equal(w.n_calls, (100 - 3 * BATCH + BATCH - 1) / BATCH);
    assert_logits(c);
    context_close(c);
    free(a);
}

static void bad_tokens_change_nothing(void **state)
{
    struct context *c = open_context();
    struct err e = { 0 };
    int32_t *a = random_tokens(N_CTX, n_vocab, 4);
    assert_ok(context_sync(c, a, 40, NULL, NULL, NULL, NULL, &e), &e);
    assert_int_equal(context_append(c, (int32_t)n_vocab, NULL, &e), HEARTH_EINVAL);
    assert_history(c, a, 40);
    int32_t good = a[60];
    a[60] = -1;
    err_clear(&e);
    assert_int_equal(context_sync(c, a, 70, NULL, NULL, NULL, NULL, &e), HEARTH_EINVAL);
    size_t n;
    context_tokens(c, &n);
    assert_true(n >= 40 && n <= 60); /* whole batches before the bad one */
    assert_history(c, a, n);
    assert_int_equal(context_sync(c, a, 0, NULL, NULL, NULL, NULL, NULL), HEARTH_EINVAL);
    a[60] = good;
    err_clear(&e);
    assert_ok(context_sync(c, a, 70, NULL, NULL, NULL, NULL, &e), &e);
    assert_logits(c);
    context_close(c);
    free(a);
}

static void limits_are_stated(void **state)
{
    struct context *c;
    struct err e = { 0 };
    assert_int_equal(context_open(&c, r.en, 201, &e), HEARTH_ELIMIT);
    assert_non_null(strstr(e.text, "200 positions"));
    assert_null(c);
    assert_int_equal(context_open(&c, r.en, 0, NULL), HEARTH_EINVAL);
    assert_int_equal(context_open(&c, r.en, (size_t)LIMIT_CONTEXT + 1, NULL), HEARTH_EINVAL);
}

/* Random operations against the plain truth. */
static void any_sequence_of_operations_is_consistent(void **state)
{
    struct context *c = open_context();
    struct err e = { 0 };
    uint64_t rnd = 11;
    int32_t truth[N_CTX], *fresh;
    size_t n = 0;
    for (int step = 0; step < 120; step++) {
        size_t k = test_random(&rnd) % 4;
        fresh = random_tokens(N_CTX, n_vocab, test_random(&rnd) % 1000);
        if (k == 0) {
            size_t to = test_random(&rnd) % (N_CTX + 1);
            n = MIN(n, to);
            context_truncate(c, n);
        } else if (k == 1 && n < N_CTX) {
            truth[n++] = fresh[0];
            assert_ok(context_append(c, fresh[0], NULL, &e), &e);
        } else if (k >= 2) {
            size_t common = test_random(&rnd) % (n + 1), more = 1 + test_random(&rnd) % 50;
            n = MIN(common + more, (size_t)N_CTX);
            memcpy(truth + common, fresh, (n - MIN(common, n)) * sizeof *fresh);
            if (n)
                assert_ok(context_sync(c, truth, n, NULL, NULL, NULL, NULL, &e), &e);
        }
        assert_history(c, truth, n);
        if (k && n && step % 6 == 0)
            assert_logits(c);
        free(fresh);
    }
    context_close(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sync_keeps_the_common_prefix),
        cmocka_unit_test(appending_equals_syncing),
        cmocka_unit_test(a_cancelled_prefill_goes_on_where_it_was),
        cmocka_unit_test(bad_tokens_change_nothing),
        cmocka_unit_test(limits_are_stated),
        cmocka_unit_test(any_sequence_of_operations_is_consistent),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

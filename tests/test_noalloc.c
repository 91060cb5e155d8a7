/* test_noalloc.c: no heap allocation while tokens are made. The linker sends every malloc, calloc, realloc and
 * aligned_alloc of the library through the counters here (--wrap); between two readings of the counter, steps, syncs,
 * appends and picks of all kinds run. Truncation gives slots back; the pages of new ones come from the system directly.
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

static atomic_size_t n_allocations;

void *__wrap_malloc(size_t n)
{
    atomic_fetch_add(&n_allocations, 1);
    return __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
    atomic_fetch_add(&n_allocations, 1);
    return __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n)
{
    atomic_fetch_add(&n_allocations, 1);
    return __real_realloc(p, n);
}

void *__wrap_aligned_alloc(size_t align, size_t n)
{
    atomic_fetch_add(&n_allocations, 1);
    return __real_aligned_alloc(align, n);
}

static void run_and_count(const struct tiny_spec *spec, enum tensor_type type)
{
    const struct engine_options o = { .n_threads = 2, .max_batch = 32 };
    struct tiny t;
    struct run r;
    struct context *c[2];
    struct sampler *s;
    struct sampler_params p = sampler_defaults();
    struct err e = { 0 };
    int32_t *tokens = random_tokens(200, spec->n_vocab, 1);
    tiny_build(&t, spec);
    p.repeat_penalty = 1.1f;
    run_open_tiny(&r, &t, type, &o);
    assert_ok(context_open(&c[0], r.en, 190, &e), &e);
    assert_ok(context_open(&c[1], r.en, 190, &e), &e);
    assert_ok(sampler_open(&s, &p, spec->n_vocab, &r.arena, &e), &e);

    size_t before = atomic_load(&n_allocations);
    assert_true(before > 0); /* the counter works */
    for (int i = 0; i < 2; i++) {
        assert_ok(context_sync(c[i], tokens + 3 * i, 70, NULL, NULL, NULL, NULL, &e), &e);
        for (int k = 0; k < 40; k++) {
            size_t n;
            const int32_t *history = context_tokens(c[i], &n);
            int32_t id = sampler_pick(s, context_logits(c[i]), history, n, n);
            assert_ok(context_append(c[i], id, NULL, &e), &e);
        }
        context_truncate(c[i], 33);
        assert_ok(context_sync(c[i], tokens, 180, NULL, NULL, NULL, NULL, &e), &e);
        assert_int_equal(context_append(c[i], -1, NULL, NULL), HEARTH_EINVAL); /* an error costs none either */
    }
    assert_int_equal(atomic_load(&n_allocations) - before, 0);
    context_close(c[0]);
    context_close(c[1]);
    run_close(&r);
    tiny_free(&t);
    free(tokens);
}

static void no_step_allocates(void **state)
{
    for (const struct tiny_spec *s = tiny_specs; s->arch; s++)
        run_and_count(s, TYPE_F16);
}

static void no_quantised_step_allocates(void **state)
{
    struct tiny_spec s = tiny_specs[0];
    s.n_embd = 256, s.n_heads = 8, s.head_dim = 32, s.n_ff = 256;
    run_and_count(&s, TYPE_Q4_K);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_step_allocates),
        cmocka_unit_test(no_quantised_step_allocates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

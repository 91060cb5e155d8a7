/* test_sampler.c: the chain against a plain sorted reimplementation, the draw's frequencies, ties, odd logits, the
 * generator's published vectors, and that the whole thing is fast on a large vocabulary.
 */
#include "support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"

static struct arena arena;

static int setup(void **state)
{
    arena_init(&arena, 0);
    return 0;
}

static int teardown(void **state)
{
    arena_free(&arena);
    return 0;
}

static struct sampler *open_sampler(struct sampler_params p, size_t n_vocab)
{
    struct sampler *s;
    struct err e = { 0 };
    assert_ok(sampler_open(&s, &p, n_vocab, &arena, &e), &e);
    return s;
}

static struct sampler_params plain(void)
{
    return (struct sampler_params){ .temperature = 1, .top_p = 1, .repeat_penalty = 1, .penalty_window = 64 };
}

static double uniform(uint64_t *state)
{
    return (double)(test_random(state) >> 11) * 0x1p-53;
}

static void random_logits(float *l, size_t n, uint64_t seed)
{
    uint64_t state = seed * 2 + 1;
    for (size_t i = 0; i < n; i++)
        l[i] = (float)(8 * (uniform(&state) + uniform(&state) + uniform(&state) - 1.5));
}

/* Salmon et al., Random123's kat_vectors. */
static void the_generator_has_its_published_values(void **state)
{
    static const struct { uint32_t c[4], k[2], want[4]; } v[] = {
        { { 0, 0, 0, 0 }, { 0, 0 }, { 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 } },
        { { ~0u, ~0u, ~0u, ~0u }, { ~0u, ~0u }, { 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd } },
        { { 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344 }, { 0xa4093822, 0x299f31d0 },
          { 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1 } },
    };
    for (size_t i = 0; i < ARRAY_LEN(v); i++) {
        uint32_t x[4];
        memcpy(x, v[i].c, sizeof x);
        philox4x32(x, v[i].k[0], v[i].k[1]);
        assert_memory_equal(x, v[i].want, sizeof x);
    }
}

/* ---- the chain, the plain way ---- */

struct entry { double logit; int32_t id; };

static int by_logit(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit < y->logit ? 1 : -1;
    return x->id < y->id ? -1 : 1;
}

/* p[n]: the probability of each id. */
static void plain_chain(double *p, const float *logits, size_t n, const struct sampler_params *s)
{
    struct entry *c = calloc(n, sizeof *c);
    size_t kept = n, i;
    double sum = 0, mass = 0, total = 0;
    CHECK(c);
    for (i = 0; i < n; i++)
        c[i] = (struct entry){ (double)logits[i], (int32_t)i };
    qsort(c, n, sizeof *c, by_logit);
    if (s->top_k > 0 && (size_t)s->top_k < kept)
        kept = (size_t)s->top_k;
    for (i = 0; i < kept; i++)
        mass += exp(c[i].logit - c[0].logit);
    if (s->top_p < 1) {
        for (i = 0; i < kept && sum < (double)s->top_p * mass; i++)
            sum += exp(c[i].logit - c[0].logit);
        kept = MAX(i, (size_t)1);
    }
    for (i = 1; i < kept && exp(c[i].logit - c[0].logit) >= (double)s->min_p; i++)
        ;
    kept = MIN(kept, i);
    memset(p, 0, n * sizeof *p);
    for (i = 0; i < kept; i++)
        total += p[c[i].id] = exp((c[i].logit - c[0].logit) / (double)s->temperature);
    for (i = 0; i < n; i++)
        p[i] /= total;
    free(c);
}

static void frequencies_follow_the_chain(void **state)
{
    enum { N = 50, DRAWS = 20000 };
    static const struct { float temperature, top_p, min_p; int32_t top_k; } sets[] = {
        { 1, 1, 0, 0 },      { 0.7f, 1, 0, 0 },     { 1.5f, 1, 0.05f, 0 }, { 1, 1, 0, 5 },   { 1, 0.8f, 0, 0 },
        { 0.8f, 0.95f, 0.05f, 40 }, { 2, 0.5f, 0, 10 }, { 1, 0.9f, 0.2f, 0 }, { 1, 1, 0.3f, 8 }, { 1, 1, 0, N + 5 },
    };
    float logits[N], work[N];
    random_logits(logits, N, 3);
    for (size_t k = 0; k < ARRAY_LEN(sets); k++) {
        struct sampler_params p = plain();
        double want[N];
        int hits[N] = { 0 };
        p.temperature = sets[k].temperature, p.top_p = sets[k].top_p, p.min_p = sets[k].min_p, p.top_k = sets[k].top_k;
        p.seed = 42 + k;
        struct sampler *s = open_sampler(p, N);
        plain_chain(want, logits, N, &p);
        for (size_t i = 0; i < DRAWS; i++) {
            memcpy(work, logits, sizeof work);
            hits[sampler_pick(s, work, NULL, 0, i)]++;
        }
        for (size_t i = 0; i < N; i++) {
            double spread = sqrt(DRAWS * want[i] * (1 - want[i]));
            if (want[i] == 0 ? hits[i] != 0 : fabs(hits[i] - DRAWS * want[i]) > 5 * spread + 1)
                fail_msg("set %zu: id %zu drawn %d times, %.1f were expected", k, i, hits[i], DRAWS * want[i]);
        }
    }
}

static void the_same_seed_and_position_give_the_same_token(void **state)
{
    enum { N = 200 };
    float logits[N], work[N];
    int32_t first[64];
    struct sampler_params p = sampler_defaults();
    size_t n_other = 0;
    random_logits(logits, N, 4);
    for (int round = 0; round < 3; round++) {
        p.seed = round == 2 ? 8 : 7;
        struct sampler *s = open_sampler(p, N);
        for (size_t i = 0; i < 64; i++) {
            size_t position = round == 1 ? 63 - i : i; /* in another order */
            memcpy(work, logits, sizeof work);
            int32_t id = sampler_pick(s, work, NULL, 0, position);
            if (round == 0)
                first[position] = id;
            else if (round == 1)
                assert_int_equal(id, first[position]);
            else
                n_other += id != first[position];
        }
    }
    assert_true(n_other > 10);
}

/* Fixed answers: the same on every machine. */
static void picks_are_the_same_everywhere(void **state)
{
    enum { N = 32000 };
    float *logits = calloc(N, sizeof *logits), *work = calloc(N, sizeof *work);
    struct sampler_params sets[3] = { sampler_defaults(), plain(), plain() };
    uint64_t sum = 0;
    sets[1].top_p = 0.9f;
    sets[2].temperature = 0.5f;
    random_logits(logits, N, 5);
    for (size_t k = 0; k < 3; k++) {
        struct sampler *s = open_sampler(sets[k], N);
        for (size_t i = 0; i < 20; i++) {
            memcpy(work, logits, N * sizeof *work);
            sum = sum * 31 + (uint64_t)sampler_pick(s, work, NULL, 0, i * 1000003);
        }
    }
    assert_int_equal(sum, UINT64_C(0x50beca7f3e61312e));
    free(logits), free(work);
}

static void greedy_takes_the_best_and_lowest(void **state)
{
    struct sampler_params p = plain();
    float ties[8] = { 1, 3, 2, 3, 3, -1, 0, 2 }, infinite[4] = { -INFINITY, 1, INFINITY, INFINITY };
    float nothing[3] = { -INFINITY, -INFINITY, -INFINITY }, nan[4] = { NAN, 1, NAN, 2 }, all_nan[2] = { NAN, NAN };
    for (int how = 0; how < 3; how++) {
        p.temperature = how == 0 ? 0 : 1;
        p.top_k = how == 1 ? 1 : 0;
        assert_int_equal(sampler_pick(open_sampler(p, 3), nothing, NULL, 0, 0), 0);
        assert_int_equal(sampler_pick(open_sampler(p, 4), infinite, NULL, 0, 0), 2);
        assert_int_equal(sampler_pick(open_sampler(p, 2), all_nan, NULL, 0, 0), 0);
        if (how == 2)
            continue;
        assert_int_equal(sampler_pick(open_sampler(p, 8), ties, NULL, 0, 0), 1);
        assert_int_equal(sampler_pick(open_sampler(p, 4), nan, NULL, 0, 0), 3);
    }
}

static void nan_is_never_chosen(void **state)
{
    enum { N = 64 };
    static const int32_t top_ks[] = { 0, 3, 20, 64 };
    for (size_t k = 0; k < ARRAY_LEN(top_ks) * 2; k++) {
        struct sampler_params p = plain();
        p.top_k = top_ks[k / 2];
        p.top_p = k % 2 ? 0.9f : 1;
        struct sampler *s = open_sampler(p, N);
        for (size_t i = 0; i < 300; i++) {
            float l[N];
            random_logits(l, N, i);
            for (size_t j = 0; j < N; j += 1 + i % 3)
                l[j] = i % 2 ? NAN : -INFINITY;
            l[1] = 0;
            int32_t id = sampler_pick(s, l, NULL, 0, i);
            assert_true(isfinite(l[id]));
        }
    }
}

/* top_k at a tie keeps the lower ids. */
static void ties_at_the_edge_go_to_the_lowest(void **state)
{
    struct sampler_params p = plain();
    p.top_k = 3;
    struct sampler *s = open_sampler(p, 6);
    for (size_t i = 0; i < 500; i++) {
        float l[6] = { 1, 0, 1, 1, 1, 0 };
        int32_t id = sampler_pick(s, l, NULL, 0, i);
        assert_true(id == 0 || id == 2 || id == 3);
    }
}

/* ---- bias and penalties ---- */

static void penalties_change_logits_as_defined(void **state)
{
    enum { N = 8 };
    const int32_t history[] = { 7, 7, 7, 1, 2, 1, -5, 100, 1, 3 }; /* the window of 9 drops the first */
    float l[N] = { 1, 4, -2, 3, 2, 0.5f, 0, 2 };
    struct sampler_params p = plain();
    p.temperature = 0, p.repeat_penalty = 2, p.presence_penalty = 0.25f, p.frequency_penalty = 0.5f, p.penalty_window = 9;
    struct sampler *s = open_sampler(p, N);
    for (int round = 0; round < 2; round++) { /* the counts are clean again */
        float work[N];
        memcpy(work, l, sizeof work);
        int32_t id = sampler_pick(s, work, history, ARRAY_LEN(history), 0);
        assert_true(work[0] == 1 && work[4] == 2 && work[5] == 0.5f && work[6] == 0);
        assert_true(work[1] == 4 / 2.0f - 3 * 0.5f - 0.25f); /* three times */
        assert_true(work[2] == -2 * 2.0f - 0.5f - 0.25f);
        assert_true(work[3] == 3 / 2.0f - 0.5f - 0.25f);
        assert_true(work[7] == 2 / 2.0f - 2 * 0.5f - 0.25f);
        assert_int_equal(id, 4);
    }
    p.penalty_window = 0;
    s = open_sampler(p, N);
    assert_int_equal(sampler_pick(s, l, history, ARRAY_LEN(history), 0), 1);
}

static void biases_are_added_first(void **state)
{
    const struct logit_bias bias[] = { { 2, 10 }, { 0, -INFINITY }, { 2, -1 } };
    struct sampler_params p = plain();
    float l[4] = { 100, 1, -5, 2 };
    p.temperature = 0, p.bias = bias, p.n_bias = 3;
    assert_int_equal(sampler_pick(open_sampler(p, 4), l, NULL, 0, 0), 2);
    assert_true(l[2] == 4 && l[0] == -INFINITY);
}

static void odd_parameters_are_refused(void **state)
{
    static const struct logit_bias wrong[] = { { 10, 1 }, { -1, 1 }, { 3, NAN } };
    struct sampler_params p[16];
    struct sampler *s;
    for (size_t i = 0; i < ARRAY_LEN(p); i++)
        p[i] = plain();
    p[0].temperature = -1;
    p[1].temperature = NAN;
    p[2].temperature = INFINITY;
    p[3].top_k = -1;
    p[4].top_p = 1.1f;
    p[5].top_p = -0.1f;
    p[6].min_p = 2;
    p[7].min_p = NAN;
    p[8].repeat_penalty = 0;
    p[9].repeat_penalty = -1;
    p[10].presence_penalty = 1000;
    p[11].frequency_penalty = NAN;
    for (size_t i = 0; i < 3; i++)
        p[12 + i].bias = &wrong[i], p[12 + i].n_bias = 1;
    p[15].repeat_penalty = NAN;
    for (size_t i = 0; i < ARRAY_LEN(p); i++) {
        struct err e = { 0 };
        if (sampler_open(&s, &p[i], 10, &arena, &e) != HEARTH_EINVAL)
            fail_msg("set %zu was taken", i);
        assert_true(e.text[0] && !s);
    }
    p[0] = plain();
    assert_int_equal(sampler_open(&s, &p[0], 0, &arena, NULL), HEARTH_EINVAL);
    struct arena small;
    arena_init(&small, 1000);
    assert_int_equal(sampler_open(&s, &p[0], 1000, &small, NULL), HEARTH_ENOMEM);
    arena_free(&small);
}

/* Counted, not timed: a pick may not sort a vocabulary of 128 k. A generous bound on time catches what is quadratic. */
static void large_vocabularies_are_quick(void **state)
{
    enum { N = 128256 };
    float *logits = calloc(N, sizeof *logits), *work = calloc(N, sizeof *work);
    const struct { const char *name; int32_t top_k; float top_p; } sets[] = { { "top_k 40", 40, 0.95f }, { "top_p", 0, 0.95f }, { "neither", 0, 1 } };
    random_logits(logits, N, 6);
    for (size_t k = 0; k < ARRAY_LEN(sets); k++) {
        struct sampler_params p = plain();
        p.top_k = sets[k].top_k, p.top_p = sets[k].top_p, p.min_p = 0.01f;
        struct sampler *s = open_sampler(p, N);
        uint64_t best = UINT64_MAX;
        for (size_t i = 0; i < 10; i++) {
            memcpy(work, logits, N * sizeof *work);
            uint64_t t = clock_ns();
            sampler_pick(s, work, NULL, 0, i);
            best = MIN(best, clock_ns() - t);
        }
        print_message("%s of %d: %.2f ms\n", sets[k].name, N, (double)best * 1e-6);
        assert_true(best < 500000000);
    }
    free(logits), free(work);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_generator_has_its_published_values),
        cmocka_unit_test(frequencies_follow_the_chain),
        cmocka_unit_test(the_same_seed_and_position_give_the_same_token),
        cmocka_unit_test(picks_are_the_same_everywhere),
        cmocka_unit_test(greedy_takes_the_best_and_lowest),
        cmocka_unit_test(nan_is_never_chosen),
        cmocka_unit_test(ties_at_the_edge_go_to_the_lowest),
        cmocka_unit_test(penalties_change_logits_as_defined),
        cmocka_unit_test(biases_are_added_first),
        cmocka_unit_test(odd_parameters_are_refused),
        cmocka_unit_test(large_vocabularies_are_quick),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

/* test_speculate.c: guessing ahead changes nothing but the time.
 *
 * The index of a history against a plain search. The choice of the draft's length against simulated machines and texts: it
 * gains where text repeats, loses next to nothing elsewhere. Then the whole: picking tokens and appending them
 * gives the same ids, logits, statuses and K/V with prompt lookup, and with drafters that are always right, never
 * right, or right now and then, as without any; on trained and on random models, greedy and drawn, with penalties.
 */
#include "support.h"

#include <stdlib.h>
#include <string.h>

#include "context/context.h"
#include "context/lookup.h"
#include "context/speculate.h"
#include "engine_run.h"

/* ---- the index ---- */

/* The contract in plain words: of the 8 newest earlier places of the last 3 tokens, else 2, else 1, the longest match. */
static struct match search(const int32_t *t, size_t n)
{
    for (size_t gram = MIN(n, (size_t)3); gram >= 1; gram--) {
        struct match best = { 0, 0 };
        size_t n_found = 0;
        for (size_t at = n - 1; at >= gram && n_found < 8; at--) { /* at: behind the earlier place */
            size_t len = 0;
            while (len < 16 && len < at && t[at - 1 - len] == t[n - 1 - len])
                len++;
            n_found += len >= gram;
            if (len >= gram && len > best.len)
                best = (struct match){ at, len };
        }
        if (best.len)
            return best;
    }
    return (struct match){ 0, 0 };
}

/* An index of the same history that was never anything else. */
static void assert_fresh(const struct lookup *l, const int32_t *t)
{
    struct lookup fresh;
    assert_true(lookup_open(&fresh, l->n_max));
    while (fresh.n < l->n)
        lookup_push(&fresh, t);
    for (size_t i = 0; i < LOOKUP_GRAM_MAX; i++) {
        assert_memory_equal(fresh.heads[i], l->heads[i], sizeof(uint32_t) << l->n_bits);
        assert_memory_equal(fresh.before[i], l->before[i], l->n * sizeof(uint32_t));
    }
    lookup_close(&fresh);
}

static void the_index_finds_what_a_search_finds(void **state)
{
    enum { N = 4000 };
    static int32_t t[N];
    static const int32_t alphabets[] = { 1, 2, 3, 10, 100, 2000 };
    uint64_t rnd = 5;
    for (size_t a = 0; a < ARRAY_LEN(alphabets); a++) {
        struct lookup l;
        size_t n_matches = 0;
        assert_true(lookup_open(&l, 60000)); /* many buckets: hardly a collision */
        for (int i = 0; i < 6000; i++) {
            uint64_t what = test_random(&rnd) % 100;
            if (l.n == N || what == 0) {
                lookup_truncate(&l, t, test_random(&rnd) % (l.n + 1));
                if (what == 0)
                    assert_fresh(&l, t);
            } else {
                /* Half of it is quoted. */
                bool quotes = l.n > 20 && what % 2;
                t[l.n] = quotes ? t[l.n - 20] : (int32_t)(test_random(&rnd) % (uint64_t)alphabets[a]);
                lookup_push(&l, t);
            }
            if (l.n == 0)
                continue;
            struct match m = lookup_find(&l, t), want = search(t, l.n);
            assert_int_equal(m.len, want.len);
            assert_int_equal(m.next, want.next);
            n_matches += m.len >= 3;
        }
        assert_true(n_matches > 100);
        lookup_close(&l);
    }
}

static void collisions_never_make_a_match_up(void **state)
{
    enum { N = 3000 };
    static int32_t t[N];
    struct lookup l;
    uint64_t rnd = 6;
    size_t n_same = 0;
    assert_true(lookup_open(&l, N));
    l.n_bits = 3; /* as if everything had been made to collide */
    for (size_t i = 0; i < N; i++) {
        t[i] = i > 50 && i % 3 ? t[i - 50] : (int32_t)(test_random(&rnd) % 300);
        lookup_push(&l, t);
        struct match m = lookup_find(&l, t);
        for (size_t k = 0; k < m.len; k++)
            assert_int_equal(t[m.next - 1 - k], t[i - k]);
        assert_true(m.next <= i);
        n_same += m.len == search(t, l.n).len;
    }
    assert_true(n_same > N / 4);
    lookup_truncate(&l, t, 0);
    for (size_t i = 0; i < LOOKUP_GRAM_MAX; i++)
        for (size_t b = 0; b < (size_t)1 << l.n_bits; b++)
            assert_int_equal(l.heads[i][b], 0);
    lookup_close(&l);
    assert_false(lookup_open(&l, SIZE_MAX / 2));
    lookup_close(&l);
}

static void copies_go_on_repeating(void **state)
{
    int32_t t[32] = { 7, 1, 2, 3, 1, 2, 3 };
    const int32_t want[] = { 1, 2, 3, 1, 2, 3, 1, 2 };
    struct lookup l;
    assert_true(lookup_open(&l, 32));
    while (l.n < 7)
        lookup_push(&l, t);
    struct match m = lookup_find(&l, t);
    assert_int_equal(m.next, 4);
    assert_int_equal(m.len, 3);
    lookup_copy(&l, t, m, t + 7, 8);
    assert_memory_equal(t + 7, want, sizeof want);
    lookup_close(&l);
}

/* ---- the length of drafts ---- */

struct machine {
    double first, next; /* cost of the first and of each further guess, in steps */
    double noise;       /* steps take up to so much more */
    bool is_disturbed;  /* one step in 50 takes 5 times as long */
};

static double chance(uint64_t *rnd)
{
    return (double)(test_random(rnd) >> 11) * 0x1p-53;
}

/* The time of the last n - n_prompt tokens without guesses over that with them. */
static double simulate(const struct machine *mc, const int32_t *t, size_t n_prompt, size_t n, uint64_t seed)
{
    struct speculator s;
    struct lookup l;
    int32_t draft[LIMIT_DRAFT];
    double time = 0;
    size_t n_ahead = 0;
    assert_true(lookup_open(&l, n));
    speculator_init(&s);
    while (l.n < n_prompt)
        lookup_push(&l, t);
    for (size_t i = n_prompt; i < n; i++) {
        struct match m = lookup_find(&l, t);
        bool was_right = m.len && t[m.next] == t[i];
        lookup_push(&l, t);
        if (n_ahead) {
            n_ahead--;
            speculator_saved_step(&s);
        } else {
            struct match next = lookup_find(&l, t);
            size_t k = next.len ? speculator_choose(&s, next.len, MIN((size_t)15, n - i - 1)) : 0;
            double cost = 1 + (k ? mc->first + mc->next * (double)(k - 1) : 0), seen = cost * (1 + mc->noise * chance(&seed));
            assert_true(k <= 15);
            lookup_copy(&l, t, next, draft, k);
            time += cost;
            speculator_saw_step(&s, 1 + k, 1e7 * (mc->is_disturbed && chance(&seed) < 0.02 ? 5 * seen : seen));
            while (n_ahead < k && draft[n_ahead] == t[i + 1 + n_ahead])
                n_ahead++;
        }
        speculator_saw_token(&s, m.len, was_right);
    }
    lookup_close(&l);
    return (double)(n - n_prompt) / time;
}

/* Words of a few tokens, common ones more often; without is_quoting a new text, else the first third with changes. */
static void make_text(int32_t *t, size_t n, bool is_quoting, uint64_t seed)
{
    for (size_t i = 0, from = 0; i < n;) {
        if (is_quoting && i > n / 3 && chance(&seed) < 0.8) {
            for (size_t k = 4 + test_random(&seed) % 30; k && i < n; k--)
                t[i++] = t[from++ % (n / 3)];
            continue;
        }
        double u = chance(&seed);
        size_t word = (size_t)(u * u * u * 900), len = 1 + word % 3;
        for (size_t k = 0; k < len && i < n; k++)
            t[i++] = (int32_t)(word * 3 + k);
    }
}

static const struct machine machines[] = {
    { 0.4, 0.2, 0, false },    { 0.4, 0.2, 0.3, true },   /* as AVX2 */
    { 0.05, 0.03, 0, false },  { 0.05, 0.03, 0.3, true }, /* products that cost nothing */
    { 1, 1, 0, false },        { 1, 1, 0.3, true },       /* guesses never pay */
    { 3, 0.1, 0, false },      { 3, 0.1, 0.3, true },     /* the first is dear */
};

static void plain_text_loses_next_to_nothing(void **state)
{
    static int32_t t[1500];
    for (size_t i = 0; i < ARRAY_LEN(machines); i++)
        for (uint64_t seed = 1; seed <= 20; seed++) {
            make_text(t, ARRAY_LEN(t), false, seed);
            double speed = simulate(&machines[i], t, 500, ARRAY_LEN(t), seed);
            if (speed < 0.97)
                fail_msg("machine %zu, seed %d: %.3f", i, (int)seed, speed);
        }
}

static void quotations_gain(void **state)
{
    static int32_t t[1500];
    static const double wanted[] = { 1.4, 1.2, 2.5, 2, 0.97, 0.97, 0.97, 0.97 };
    for (size_t i = 0; i < ARRAY_LEN(machines); i++) {
        double sum = 0;
        for (uint64_t seed = 1; seed <= 20; seed++) {
            make_text(t, ARRAY_LEN(t), true, seed);
            double speed = simulate(&machines[i], t, 500, ARRAY_LEN(t), seed);
            if (speed < 0.96)
                fail_msg("machine %zu, seed %d: %.3f", i, (int)seed, speed);
            sum += speed / 20;
        }
        if (sum < wanted[i])
            fail_msg("machine %zu: %.3f", i, sum);
    }
}

static void nothing_is_drafted_before_steps_are_known(void **state)
{
    struct speculator s;
    speculator_init(&s);
    assert_int_equal(speculator_choose(&s, 16, LIMIT_DRAFT), 0);
    for (int i = 0; i < 3; i++)
        speculator_saw_step(&s, 1, 1e6);
    assert_true(speculator_choose(&s, 16, LIMIT_DRAFT) > 0);
    assert_int_equal(speculator_choose(&s, 16, 0), 0);
    for (int i = 0; i < 200; i++) /* always wrong */
        speculator_saw_token(&s, 16, false);
    for (size_t w = 2; w <= 4; w++)
        speculator_saw_step(&s, w, 2e6);
    assert_int_equal(speculator_choose(&s, 16, LIMIT_DRAFT), 0);
}

/* ---- the whole ---- */

enum { N_CTX = 190, N_PROMPT = 40 };

/* One model, a reference run of ids and logits, and a run with guesses beside it. */
struct twin {
    struct run r;
    size_t n_vocab;
    int32_t ids[N_CTX + 1]; /* prompt and answer of the reference */
    size_t n_ids;
    float *logits;          /* [N_CTX + 1, n_vocab]: row i chose ids[i] */
    uint64_t rnd;
    int how;                /* of the drafter */
};

enum { RIGHT, WRONG, MIXED, TOO_LONG, N_DRAFTERS, LOOKUP = N_DRAFTERS };

static size_t draft(int32_t *out, size_t max, const int32_t *history, size_t n, void *arg)
{
    struct twin *w = arg;
    assert_memory_equal(history, w->ids, n * sizeof *history);
    size_t k = w->how == MIXED ? test_random(&w->rnd) % (max + 1) : max;
    for (size_t i = 0; i < k; i++) {
        out[i] = n + i < w->n_ids ? w->ids[n + i] : 0;
        if (w->how == WRONG || (w->how == MIXED && test_random(&w->rnd) % 4 == 0))
            out[i] = (out[i] + 1) % (int32_t)w->n_vocab;
        if (w->how == MIXED && test_random(&w->rnd) % 50 == 0)
            out[i] = test_random(&w->rnd) % 2 ? -1 : (int32_t)w->n_vocab; /* no token at all */
    }
    return w->how == TOO_LONG ? max + 100 : k;
}

static struct sampler *open_sampler(struct twin *w, const struct sampler_params *p)
{
    struct sampler *s;
    struct err e = { 0 };
    assert_ok(sampler_open(&s, p, w->n_vocab, &w->r.arena, &e), &e);
    return s;
}

static struct context *open_prompted(struct twin *w, size_t max_draft)
{
    struct context *c;
    struct err e = { 0 };
    assert_ok(context_open(&c, w->r.en, N_CTX, &e), &e);
    if (max_draft)
        assert_ok(context_speculate(c, max_draft, &e), &e);
    assert_ok(context_sync(c, w->ids, N_PROMPT, NULL, NULL, NULL, NULL, &e), &e);
    return c;
}

/* Without guesses, until the context is full. */
static void run_reference(struct twin *w, const struct sampler_params *p)
{
    struct sampler *s = open_sampler(w, p);
    struct context *c = open_prompted(w, 0);
    struct err e = { 0 };
    enum hearth_status st = HEARTH_OK;
    for (w->n_ids = N_PROMPT; st == HEARTH_OK;) {
        memcpy(w->logits + w->n_ids * w->n_vocab, context_logits(c), w->n_vocab * sizeof(float));
        w->ids[w->n_ids] = sampler_pick(s, context_logits(c), w->ids, w->n_ids, w->n_ids);
        st = context_append(c, w->ids[w->n_ids++], NULL, &e);
    }
    assert_int_equal(st, HEARTH_ELIMIT);
    assert_int_equal(w->n_ids, N_CTX + 1);
    context_close(c);
}

/* The same with guesses; every row of logits is that of the reference. */
static struct draft_stats run_guessing(struct twin *w, const struct sampler_params *p, int how, size_t max_draft)
{
    struct sampler *s = open_sampler(w, p);
    struct context *c = open_prompted(w, max_draft);
    struct err e = { 0 };
    enum hearth_status st = HEARTH_OK;
    size_t n = N_PROMPT, n_held;
    w->how = how;
    if (how != LOOKUP)
        context_draft_with(c, draft, w);
    while (st == HEARTH_OK) {
        const int32_t *history = context_tokens(c, &n_held);
        assert_int_equal(n_held, n);
        assert_memory_equal(history, w->ids, n * sizeof *history);
        assert_memory_equal(context_logits(c), w->logits + n * w->n_vocab, w->n_vocab * sizeof(float));
        int32_t id = sampler_pick(s, context_logits(c), history, n, n);
        assert_int_equal(id, w->ids[n]);
        st = context_append_ahead(c, id, max_draft, NULL, &e);
        n++;
    }
    assert_int_equal(st, HEARTH_ELIMIT);
    assert_int_equal(n, N_CTX + 1);
    struct draft_stats stats = context_draft_stats(c);
    assert_true(stats.n_accepted <= stats.n_drafted && stats.n_steps <= stats.n_drafted);
    context_close(c);
    return stats;
}

static void twin_open(struct twin *w, const char *path, const struct tiny_spec *spec)
{
    const struct engine_options o = { .n_threads = 1, .max_batch = 12 };
    struct tiny t;
    *w = (struct twin){ .rnd = 3 };
    if (spec) {
        tiny_build(&t, spec);
        run_open_tiny(&w->r, &t, TYPE_F32, &o);
        tiny_free(&t);
    } else
        run_open(&w->r, path, &o);
    w->n_vocab = engine_info(w->r.en)->n_vocab;
    w->logits = malloc((N_CTX + 1) * w->n_vocab * sizeof *w->logits);
    assert_non_null(w->logits);
    int32_t *prompt = random_tokens(N_PROMPT, MIN(w->n_vocab, (size_t)12), 9); /* few ids: something to find */
    memcpy(w->ids, prompt, N_PROMPT * sizeof *prompt);
    free(prompt);
}

static void twin_close(struct twin *w)
{
    free(w->logits);
    run_close(&w->r);
}

/* max: of the drafts that are always right or wrong. */
static void compare(struct twin *w, const struct sampler_params *p, size_t max)
{
    uint64_t n = N_CTX - N_PROMPT, k = MIN(max, (size_t)11); /* the batch's */
    run_reference(w, p);
    struct draft_stats right = run_guessing(w, p, RIGHT, max), wrong = run_guessing(w, p, WRONG, max);
    assert_int_equal(right.n_accepted, right.n_drafted);
    assert_int_equal(right.n_steps, (n + k) / (k + 1) - (n % (k + 1) == 1)); /* the last step may have no room for guesses */
    assert_int_equal(wrong.n_accepted, 0);
    assert_int_equal(wrong.n_steps, n - 1);
    assert_true(wrong.n_drafted >= (n - k) * k);
    run_guessing(w, p, TOO_LONG, max);
    struct draft_stats mixed = run_guessing(w, p, MIXED, 7);
    assert_true(mixed.n_accepted > 10 && mixed.n_drafted > mixed.n_accepted + 10);
    run_guessing(w, p, LOOKUP, LIMIT_DRAFT);
}

static void trained_models_say_the_same(void **state)
{
    struct twin w;
    twin_open(&w, source_path("models/stories260K.gguf"), NULL);
    for (uint64_t seed = 1; seed <= 6; seed++) {
        struct sampler_params p = sampler_defaults();
        p.seed = seed;
        p.temperature = seed == 1 ? 0 : 0.4f * (float)seed;
        p.top_k = seed == 3 ? 0 : 40;
        p.top_p = seed == 4 ? 1 : 0.9f;
        p.repeat_penalty = seed % 2 ? 1 : 1.2f;
        p.presence_penalty = seed == 5 ? 0.5f : 0;
        p.frequency_penalty = seed == 6 ? 0.3f : 0;
        compare(&w, &p, 5 * seed);
    }
    twin_close(&w);
}

static void every_architecture_says_the_same(void **state)
{
    for (const struct tiny_spec *s = tiny_specs; s->arch; s++) {
        struct twin w;
        struct sampler_params p = sampler_defaults();
        twin_open(&w, NULL, s);
        compare(&w, &p, 1 + (size_t)(s - tiny_specs));
        twin_close(&w);
    }
}

/* A model that repeats itself, so that prompt lookup has something to win. */
static void lookup_finds_loops(void **state)
{
    struct twin w;
    struct sampler_params p = sampler_defaults();
    struct draft_stats stats = { 0 };
    p.temperature = 0;
    twin_open(&w, source_path("models/stories260K.gguf"), NULL);
    for (int i = 0; i < N_PROMPT; i++)
        w.ids[i] = 300 + i % 8;
    run_reference(&w, &p);
    for (int i = 0; i < 5 && stats.n_accepted == 0; i++) /* how much is drafted depends on the clock */
        stats = run_guessing(&w, &p, LOOKUP, 15);
    assert_true(stats.n_accepted > 0);
    twin_close(&w);
}

/* Syncs, truncations, appends of right and wrong tokens in any order, with and without guesses. */
static void any_operation_may_follow(void **state)
{
    struct twin w;
    struct sampler_params p = sampler_defaults();
    struct err e = { 0 };
    atomic_int cancel = 0;
    twin_open(&w, NULL, &tiny_specs[0]);
    run_reference(&w, &p);
    struct context *plain = open_prompted(&w, 0), *c = open_prompted(&w, 5);
    w.how = MIXED;
    int32_t history[N_CTX];
    for (int step = 0; step < 600; step++) {
        size_t n, n_plain;
        bool has_logits = true;
        enum hearth_status st = HEARTH_OK, want = HEARTH_OK;
        uint64_t what = test_random(&w.rnd) % 20;
        const int32_t *held = context_tokens(c, &n);
        memcpy(history, held, n * sizeof *history);
        if (step == 300)
            assert_ok(context_speculate(c, 9, &e), &e); /* longer drafts from now on */
        bool is_right = what != 3 && what != 4 && memcmp(history, w.ids, n * sizeof *history) == 0;
        context_draft_with(c, is_right ? draft : NULL, &w);
        if (what == 0 || n == N_CTX) {
            n = N_PROMPT / 2 + test_random(&w.rnd) % n;
            has_logits = false;
            context_truncate(c, n);
            context_truncate(plain, n);
        } else if (what == 1) {
            st = context_sync(c, w.ids, N_PROMPT + n % 30, NULL, NULL, NULL, NULL, &e);
            want = context_sync(plain, w.ids, N_PROMPT + n % 30, NULL, NULL, NULL, NULL, &e);
        } else if (what == 2) {
            atomic_store(&cancel, 1);
            assert_int_equal(context_append_ahead(c, w.ids[n], 9, &cancel, &e), HEARTH_ECANCELLED);
            atomic_store(&cancel, 0);
            err_clear(&e);
        } else if (what == 3) {
            assert_int_equal(context_append_ahead(c, (int32_t)w.n_vocab, 9, NULL, &e), HEARTH_EINVAL);
            err_clear(&e);
        } else {
            int32_t id = what == 4 ? (w.ids[n] + 1) % (int32_t)w.n_vocab : w.ids[n];
            st = what == 5 ? context_append(c, id, NULL, &e) : context_append_ahead(c, id, what, NULL, &e);
            want = context_append(plain, id, NULL, &e);
        }
        assert_int_equal(st, want);
        const int32_t *have = context_tokens(c, &n), *want_tokens = context_tokens(plain, &n_plain);
        assert_int_equal(n, n_plain);
        assert_memory_equal(have, want_tokens, n * sizeof *have);
        if (has_logits && what != 2 && what != 3)
            assert_memory_equal(context_logits(c), context_logits(plain), w.n_vocab * sizeof(float));
        if (what % 7 == 0) {
            context_truncate(c, SIZE_MAX);
            assert_int_equal(context_kv_bytes(c), context_kv_bytes(plain));
        }
    }
    assert_true(context_draft_stats(c).n_accepted > 50);
    context_close(plain);
    context_close(c);
    twin_close(&w);
}

static void limits_are_stated(void **state)
{
    struct twin w;
    struct err e = { 0 };
    twin_open(&w, NULL, &tiny_specs[0]);
    struct context *c = open_prompted(&w, 0);
    assert_int_equal(context_speculate(c, LIMIT_DRAFT + 1, &e), HEARTH_EINVAL);
    err_clear(&e);
    assert_ok(context_speculate(c, 0, &e), &e);
    assert_ok(context_append_ahead(c, 1, 9, NULL, &e), &e); /* nothing was prepared, so nothing is guessed */
    assert_int_equal(context_draft_stats(c).n_drafted, 0);
    context_close(c);
    twin_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_index_finds_what_a_search_finds),
        cmocka_unit_test(collisions_never_make_a_match_up),
        cmocka_unit_test(copies_go_on_repeating),
        cmocka_unit_test(plain_text_loses_next_to_nothing),
        cmocka_unit_test(quotations_gain),
        cmocka_unit_test(nothing_is_drafted_before_steps_are_known),
        cmocka_unit_test(trained_models_say_the_same),
        cmocka_unit_test(every_architecture_says_the_same),
        cmocka_unit_test(lookup_finds_loops),
        cmocka_unit_test(any_operation_may_follow),
        cmocka_unit_test(limits_are_stated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

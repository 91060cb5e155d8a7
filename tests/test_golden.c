/* test_golden.c: trained models, from their original checkpoint files through convert, give the known answers: ids and
 * texts exactly, logits within 1e-3 with F32 K/V and 3e-2 with F16 (expected.json beside each model was computed
 * elsewhere in double precision; the text of stories260K is its makers' own). With every set of kernels of this machine;
 * and a forward pass that is made wrong must leave the tolerance.
 */
#define _DEFAULT_SOURCE
#include "support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "context/context.h"
#include "engine_run.h"
#include "quantize/quantize.h"

struct golden {
    struct run run;
    struct vocab vocab;
    struct tokenizer *tokenizer;
    struct context *context;
    json_t *expected;
};

static double tolerance(enum kv_type kv)
{
    return kv == KV_F32 ? 1e-3 : 3e-2;
}

static void golden_open(struct golden *g, const char *model, const char *checkpoint, const char *vocab, const struct kernels *k,
                        enum kv_type kv)
{
    struct err e = { 0 };
    struct engine_options o = { .n_threads = 2, .kernels = k, .kv_type = kv };
    struct convert_options c = { .type = TYPE_COUNT };
    struct progress silent = { 0 };
    char name[128], path[1024], tokenizer[1024], *text;
    size_t n;
    *g = (struct golden){ 0 };
    snprintf(name, sizeof name, "models/%s/expected.json", model);
    need_data(name);
    snprintf(path, sizeof path, "%s", data_path(checkpoint));
    if (vocab) {
        snprintf(tokenizer, sizeof tokenizer, "%s", data_path(vocab));
        c.tokenizer = tokenizer;
    }
    assert_ok(convert_model(path, scratch_path("golden.gguf"), &c, silent, &e), &e);
    run_open(&g->run, scratch_path("golden.gguf"), &o);
    assert_ok(vocab_from_gguf(&g->vocab, &g->run.g, &g->run.arena, &e), &e);
    assert_ok(tokenizer_open(&g->tokenizer, &g->vocab, &g->run.arena, &e), &e);
    assert_ok(context_open(&g->context, g->run.en, engine_info(g->run.en)->n_ctx_train, &e), &e);
    assert_ok(file_read_all(&text, &n, data_path(name), MIB, &g->run.arena, &e), &e);
    assert_ok(json_parse(&g->expected, text, n, name, &e), &e);
}

static void golden_close(struct golden *g)
{
    json_decref(g->expected);
    context_close(g->context);
    tokenizer_close(g->tokenizer);
    run_close(&g->run);
}

static int32_t best(const struct golden *g)
{
    const float *l = context_logits(g->context);
    int32_t id = 0;
    for (size_t i = 1; i < engine_info(g->run.en)->n_vocab; i++)
        if (l[i] > l[id])
            id = (int32_t)i;
    return id;
}

static void sync(struct golden *g, const struct ids *ids)
{
    struct err e = { 0 };
    assert_ok(context_sync(g->context, ids->v, ids->n, NULL, NULL, NULL, NULL, &e), &e);
}

/* Greedy ids behind what the context holds; ends after stop (-1: none), which is kept. */
static void continue_greedily(struct golden *g, struct ids *out, size_t n, int32_t stop)
{
    struct err e = { 0 };
    for (size_t i = 0; i < n; i++) {
        int32_t id = best(g);
        CHECK(ids_push(out, id));
        if (id == stop)
            return;
        if (i + 1 < n)
            assert_ok(context_append(g->context, id, NULL, &e), &e);
    }
}

static double top_difference(const struct golden *g, const json_t *top)
{
    const float *l = context_logits(g->context);
    double worst = 0;
    size_t i;
    json_t *pair;
    assert_int_equal(json_array_size(top), 8);
    json_array_foreach(top, i, pair) {
        json_int_t id = json_integer_value(json_array_get(pair, 0));
        worst = fmax(worst, fabs((double)l[id] - json_real_value(json_array_get(pair, 1))));
    }
    return worst;
}

static void assert_text(const struct golden *g, const struct ids *ids, bool show_control, const char *want)
{
    struct buf text;
    buf_init(&text, MIB);
    struct err e = { 0 };
    assert_ok(tokenizer_decode(g->tokenizer, ids->v, ids->n, show_control, &text), &e);
    assert_string_equal(text.data, want);
    buf_free(&text);
}

static void ids_of_json(struct ids *out, const json_t *a)
{
    size_t i;
    json_t *v;
    json_array_foreach(a, i, v)
        CHECK(ids_push(out, (int32_t)json_integer_value(v)));
}

static double nll_of(const float *logits, size_t n_vocab, int32_t id)
{
    double top = -INFINITY, sum = 0;
    for (size_t i = 0; i < n_vocab; i++)
        top = fmax(top, (double)logits[i]);
    for (size_t i = 0; i < n_vocab; i++)
        sum += exp((double)logits[i] - top);
    return log(sum) + top - (double)logits[id];
}

/* Sum over all positions but the first, from one run with logits everywhere. */
static double sum_nll(const struct golden *g, const struct ids *ids)
{
    const size_t all = ids->n;
    size_t n_vocab = engine_info(g->run.en)->n_vocab;
    double sum = 0;
    float *l = run_sequence(g->run.en, ids->v, ids->n, ids->n, &all, 1);
    for (size_t i = 0; i + 1 < ids->n; i++)
        sum += nll_of(l + i * n_vocab, n_vocab, ids->v[i + 1]);
    free(l);
    return sum;
}

/* ---- the three models ---- */

static void check_stories260k(const struct kernels *k, enum kv_type kv)
{
    struct golden g;
    struct ids ids = { 0 }, out = { 0 };
    golden_open(&g, "stories260K", "models/stories260K/stories260K.bin", "models/stories260K/tok512.bin", k, kv);
    CHECK(ids_push(&ids, g.vocab.bos));
    sync(&g, &ids);
    continue_greedily(&g, &out, 200, g.vocab.bos);
    assert_int_equal(out.n, 200);
    assert_text(&g, &out, false, json_string_value(json_object_get(g.expected, "expected_text")));
    ids_free(&ids), ids_free(&out);
    golden_close(&g);
}

static void check_tinystories656k(const struct kernels *k, enum kv_type kv)
{
    struct golden g;
    size_t i;
    json_t *c;
    golden_open(&g, "tinystories-656k", "models/tinystories-656k", NULL, k, kv);
    json_array_foreach(json_object_get(g.expected, "greedy"), i, c) {
        struct ids prompt = { 0 }, want = { 0 }, got = { 0 };
        ids_of_json(&prompt, json_object_get(c, "prompt_ids"));
        ids_of_json(&want, json_object_get(c, "greedy_ids"));
        sync(&g, &prompt);
        double d = top_difference(&g, json_object_get(c, "first_top8"));
        if (!(d < tolerance(kv)))
            fail_msg("%s: a logit differs by %g", k->name, d);
        continue_greedily(&g, &got, want.n, -1);
        assert_memory_equal(got.v, want.v, want.n * sizeof *want.v);
        ids_free(&prompt), ids_free(&want), ids_free(&got);
    }
    json_array_foreach(json_object_get(g.expected, "nll"), i, c) {
        struct ids ids = { 0 };
        ids_of_json(&ids, json_object_get(c, "ids"));
        double sum = sum_nll(&g, &ids), want = json_real_value(json_object_get(c, "sum_nll"));
        assert_true(fabs(sum - want) < tolerance(kv) * (double)(ids.n - 1));
        ids_free(&ids);
    }
    golden_close(&g);
}

static void check_tinychat(const struct kernels *k, enum kv_type kv)
{
    static const char end[] = "<|end|>";
    struct golden g;
    struct err e = { 0 };
    size_t i;
    json_t *c;
    golden_open(&g, "tinychat-relu", "models/tinychat-relu", NULL, k, kv);
    json_array_foreach(json_object_get(g.expected, "greedy"), i, c) {
        const char *prompt = json_string_value(json_object_get(c, "prompt"));
        const char *want = json_string_value(json_object_get(c, "greedy_text"));
        struct ids ids = { 0 }, got = { 0 };
        assert_ok(tokenizer_encode(g.tokenizer, prompt, strlen(prompt), ENCODE_SPECIAL, NULL, 0, &ids, NULL, &e), &e);
        assert_int_equal(ids.n, strlen(prompt)); /* characters */
        sync(&g, &ids);
        double d = top_difference(&g, json_object_get(c, "first_top8"));
        if (!(d < tolerance(kv)))
            fail_msg("%s: a logit differs by %g", k->name, d);
        continue_greedily(&g, &got, strlen(want), -1);
        assert_string_equal(want + strlen(want) - strlen(end), end);
        assert_text(&g, &got, true, want);
        ids_free(&ids), ids_free(&got);
    }
    json_array_foreach(json_object_get(g.expected, "teacher"), i, c) {
        struct ids ids = { 0 };
        ids_of_json(&ids, json_object_get(c, "ids"));
        sync(&g, &ids);
        assert_true(top_difference(&g, json_object_get(c, "last_top8")) < tolerance(kv));
        double mean = sum_nll(&g, &ids) / (double)(ids.n - 1);
        assert_true(fabs(mean - json_real_value(json_object_get(c, "mean_nll"))) < tolerance(kv));
        ids_free(&ids);
    }
    golden_close(&g);
}

static void for_all_kernels(void (*check)(const struct kernels *, enum kv_type))
{
    for (const char *const *name = kernels_names(); *name; name++) {
        const struct kernels *k = kernels_by_name(*name);
        if (!k)
            continue;
        check(k, KV_F32);
        check(k, KV_F16);
    }
}

static void stories260k_tells_its_story(void **state)
{
    for_all_kernels(check_stories260k);
}

static void tinystories656k_gives_its_ids_and_logits(void **state)
{
    for_all_kernels(check_tinystories656k);
}

static void tinychat_gives_its_answers_and_logits(void **state)
{
    for_all_kernels(check_tinychat);
}

static void mutations_leave_the_tolerance(void **state)
{
    struct golden g;
    const json_t *c;
    golden_open(&g, "tinystories-656k", "models/tinystories-656k", NULL, NULL, KV_F32);
    c = json_array_get(json_object_get(g.expected, "greedy"), 0);
    for (enum engine_mutation m = MUTATE_NONE; m <= MUTATE_SWAP_GATE_UP; m++) {
        struct ids prompt = { 0 };
        if (m == MUTATE_NO_WINDOW)
            continue; /* it has none */
        ids_of_json(&prompt, json_object_get(c, "prompt_ids"));
        engine_mutate(g.run.en, m);
        context_truncate(g.context, 0);
        sync(&g, &prompt);
        double d = top_difference(&g, json_object_get(c, "first_top8"));
        assert_true(m == MUTATE_NONE ? d < 1e-3 : d > 1e-2);
        ids_free(&prompt);
    }
    golden_close(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stories260k_tells_its_story),
        cmocka_unit_test(tinystories656k_gives_its_ids_and_logits),
        cmocka_unit_test(tinychat_gives_its_answers_and_logits),
        cmocka_unit_test(mutations_leave_the_tolerance),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* test_perplexity.c: what rounding costs a trained model, and that the measure measures.
 *
 * TinyStories-656K goes through convert, quantize_model to every mix, and perplexity_run on a slice of stories that
 * it was not trained on. Scores are checked against the published sum of an independent computation, and the windows
 * against plain calls, one window at a time.
 */
#include "support.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "quantize/quantize.h"

#define MODEL "models/tinystories-656k"
#define TEXT "text/tinystories-valid-a.txt"

/* A model opened for running. */
struct run {
    struct arena arena;
    struct gguf gguf;
    struct engine *engine;
    struct vocab vocab;
    struct tokenizer *tokenizer;
};

static const struct progress quiet;
static struct arena text_arena;
static char *text;
static size_t text_bytes;

/* Before each test; the work is done once: the F32 file and the text. */
static void prepare(void)
{
    struct err e = { 0 };
    struct convert_options o = { .type = TYPE_F32 };
    need_data(MODEL "/model.safetensors");
    need_data(TEXT);
    if (text)
        return;
    arena_init(&text_arena, 0);
    assert_ok(convert_model(data_path(MODEL), scratch_path("f32.gguf"), &o, quiet, &e), &e);
    assert_ok(file_read_all(&text, &text_bytes, data_path(TEXT), 8 * MIB, &text_arena, &e), &e);
    assert_true(text_bytes > 16384);
}

static void run_open(struct run *r, const char *path, enum kv_type kv)
{
    struct err e = { 0 };
    struct engine_options o = { .n_threads = 2, .kv_type = kv };
    prepare();
    memset(r, 0, sizeof *r);
    arena_init(&r->arena, 0);
    assert_ok(gguf_open(&r->gguf, path, &r->arena, &e), &e);
    assert_ok(engine_open(&r->engine, &r->gguf, &o, &e), &e);
    assert_ok(vocab_from_gguf(&r->vocab, &r->gguf, &r->arena, &e), &e);
    assert_ok(tokenizer_open(&r->tokenizer, &r->vocab, &r->arena, &e), &e);
}

static void run_close(struct run *r)
{
    tokenizer_close(r->tokenizer);
    engine_close(r->engine);
    gguf_close(&r->gguf);
    arena_free(&r->arena);
}

static int finish(void **state)
{
    arena_free(&text_arena);
    return 0;
}

/* ---- the scores ---- */

static void known_sum_of_log_probabilities(void **state)
{
    struct run r;
    struct err e = { 0 };
    struct arena a;
    char *json;
    size_t n;
    json_t *root = NULL;
    prepare();
    arena_init(&a, 0);
    assert_ok(file_read_all(&json, &n, data_path(MODEL "/expected.json"), MIB, &a, &e), &e);
    assert_ok(json_parse(&root, json, n, "expected.json", &e), &e);
    run_open(&r, scratch_path("f32.gguf"), KV_F32);
    json_t *cases = json_object_get(root, "nll"), *c;
    size_t i, n_cases = 0;
    json_array_foreach(cases, i, c) {
        int32_t ids[256];
        double out[256], sum = 0;
        json_t *list = json_object_get(c, "ids");
        size_t n_ids = json_array_size(list);
        assert_in_range(n_ids, 2, 256);
        for (size_t k = 0; k < n_ids; k++)
            ids[k] = (int32_t)json_integer_value(json_array_get(list, k));
        assert_ok(logprobs_run(out, r.engine, ids, n_ids, NULL, &e), &e);
        for (size_t k = 0; k + 1 < n_ids; k++)
            sum -= out[k];
        printf("sum of -ln p: %.5f, expected %.5f\n", sum, json_number_value(json_object_get(c, "sum_nll")));
        assert_true(fabs(sum - json_number_value(json_object_get(c, "sum_nll"))) < 1e-2);
        n_cases++;
    }
    assert_true(n_cases > 0);
    run_close(&r);
    json_decref(root);
    arena_free(&a);
}

static void softmax_of_extremes(void **state)
{
    const float x[4] = { 1000, -1000, 999, 0 };
    assert_true(fabs(logprob_of(x, 4, 0) + log(1 + exp(-1.0))) < 1e-12);
    assert_true(fabs(logprob_of(x, 4, 1) + 2000 + log(1 + exp(-1.0))) < 1e-9);
    const float same[3] = { -7, -7, -7 };
    assert_true(fabs(logprob_of(same, 3, 2) + log(3)) < 1e-15);
}

/* The same numbers from the windows' definition, one plain call a window. */
static void windows_are_as_documented(void **state)
{
    enum { CTX = 50 };
    struct run r;
    struct err e = { 0 };
    struct ids ids = { NULL, 0, 0 };
    struct perplexity p;
    double out[CTX], sum = 0, squares = 0;
    size_t n = 0, n_text = 1500;
    run_open(&r, scratch_path("f32.gguf"), KV_F16);
    assert_true(r.vocab.add_bos);
    assert_ok(tokenizer_encode(r.tokenizer, text, n_text, ENCODE_BOS, NULL, 0, &ids, NULL, &e), &e);
    assert_ok(perplexity_run(&p, r.engine, r.tokenizer, text, n_text, CTX, NULL, quiet, &e), &e);
    assert_int_equal(p.n_windows, ids.n / CTX);
    assert_true(p.n_windows >= 4);
    for (size_t w = 0; w < ids.n / CTX; w++) {
        ids.v[w * CTX] = r.vocab.bos;
        assert_ok(logprobs_run(out, r.engine, ids.v + w * CTX, CTX, NULL, &e), &e);
        for (size_t i = CTX / 2; i <= CTX - 2; i++, n++) {
            sum -= out[i];
            squares += out[i] * out[i];
        }
    }
    assert_int_equal(p.n_tokens_scored, n);
    assert_int_equal(n, p.n_windows * (CTX - 1 - CTX / 2));
    double mean = sum / (double)n, error = exp(mean) * sqrt((squares / (double)n - mean * mean) / (double)(n - 1));
    assert_true(p.nll_sum == sum); /* batches and windows change no bit */
    assert_true(fabs(p.ppl - exp(mean)) < 1e-9 && fabs(p.ppl_error - error) < 1e-9);
    ids_free(&ids);
    run_close(&r);
}

/* ---- what each mix costs ---- */

enum { SLICE = 10000, CTX = 256 };

/* Perplexity may be off by the share `ppl` of that of F32 either way, the mean divergence be `kl`: about 1.6 times what was
 * measured, and far below what a mistake in a type gives. Rows of 128 values hold no k-quants, so those mixes fall back (for the mixes of plain types only the tied embedding does: it wants Q6_K). Mixes that fall
 * back to the same file as another one here are left out. */
static const struct { const char *mix; double ppl, kl; bool falls_back; } costs[] = {
    { "F32", 1e-09, 1e-12, false },
    { "F16", 0.0005, 1e-05, false },
    { "Q8_0", 0.002, 0.0012, false },
    { "Q5_K_M", 0.015, 0.011, true },
    { "Q5_1", 0.025, 0.015, true },
    { "Q5_0", 0.035, 0.02, true },
    { "Q4_K_M", 0.025, 0.016, true },
    { "IQ4_NL", 0.06, 0.06, true },
    { "Q4_1", 0.06, 0.055, true },
    { "Q4_0", 0.06, 0.075, true },
    { "Q3_K_M", 0.045, 0.037, true },
    { "Q2_K", 0.06, 0.075, true },
};

static void quantised_models_stay_close(void **state)
{
    struct run base;
    struct err e = { 0 };
    struct perplexity f32;
    run_open(&base, scratch_path("f32.gguf"), KV_F16);
    assert_ok(perplexity_run(&f32, base.engine, base.tokenizer, text, SLICE, CTX, NULL, quiet, &e), &e);
    printf("F32      perplexity %.4f +/- %.4f over %zu tokens\n", f32.ppl, f32.ppl_error, f32.n_tokens_scored);
    assert_true(f32.n_tokens_scored > 1000);
    for (size_t i = 0; i < ARRAY_LEN(costs); i++) {
        struct run r;
        struct quantize_stats stats;
        struct divergence d;
        assert_ok(quantize_model(scratch_path("f32.gguf"), scratch_path("q.gguf"), mix_by_name(costs[i].mix), 2, quiet, &stats, &e), &e);
        run_open(&r, scratch_path("q.gguf"), KV_F16);
        assert_ok(divergence_run(&d, base.engine, r.engine, base.tokenizer, text, SLICE, CTX, NULL, quiet, &e), &e);
        printf("%-8s perplexity %.4f (%+.2f %%), divergence %.6f +/- %.6f, same top %.1f %%, %.2f bits a weight%s\n", costs[i].mix,
               d.other_ppl, 100 * (d.other_ppl / d.base_ppl - 1), d.kl_mean, d.kl_error, 100 * d.same_top,
               8.0 * (double)stats.bytes_out / (double)engine_info(r.engine)->n_params, stats.n_fell_back ? ", fell back" : "");
        assert_true(fabs(d.base_ppl / f32.ppl - 1) < 1e-12);
        assert_int_equal(d.n_tokens_scored, f32.n_tokens_scored);
        assert_true(fabs(d.other_ppl / d.base_ppl - 1) < costs[i].ppl);
        assert_true(d.kl_mean < costs[i].kl);
        assert_int_equal(stats.n_fell_back > 0, costs[i].falls_back);
        run_close(&r);
    }
    run_close(&base);
}

static void a_model_does_not_differ_from_itself(void **state)
{
    struct run a, b;
    struct err e = { 0 };
    struct divergence d;
    run_open(&a, scratch_path("f32.gguf"), KV_F16);
    run_open(&b, scratch_path("f32.gguf"), KV_F16);
    assert_ok(divergence_run(&d, a.engine, b.engine, a.tokenizer, text, 2000, 64, NULL, quiet, &e), &e);
    assert_true(d.kl_mean == 0 && d.kl_max == 0 && d.same_top == 1 && d.base_ppl == d.other_ppl);
    run_close(&a);
    run_close(&b);
}

/* A wrong model is seen: swapped gate and up. */
static void a_wrong_model_is_far(void **state)
{
    struct run a, b;
    struct err e = { 0 };
    struct divergence d;
    run_open(&a, scratch_path("f32.gguf"), KV_F16);
    run_open(&b, scratch_path("f32.gguf"), KV_F16);
    engine_mutate(b.engine, MUTATE_SWAP_GATE_UP);
    assert_ok(divergence_run(&d, a.engine, b.engine, a.tokenizer, text, 2000, 64, NULL, quiet, &e), &e);
    assert_true(d.kl_mean > 0.5 && d.same_top < 0.9 && d.other_ppl > 1.5 * d.base_ppl);
    run_close(&a);
    run_close(&b);
}

/* ---- refusals ---- */

static void count_windows(const char *what, uint64_t done, uint64_t total, void *arg)
{
    uint64_t *last = arg;
    assert_int_equal(done, *last + 1);
    assert_true(done <= total && strstr(what, "perplexity"));
    *last = done;
}

static void refusals(void **state)
{
    struct run r;
    struct err e = { 0 };
    struct perplexity p;
    uint64_t last = 0;
    atomic_int cancel;
    double out[4];
    const int32_t bad[3] = { 1, 2048, 5 }, short_text[1] = { 1 };
    run_open(&r, scratch_path("f32.gguf"), KV_F16);
    assert_int_equal(perplexity_run(&p, r.engine, r.tokenizer, text, 100, 256, NULL, quiet, &e), HEARTH_EINVAL);
    assert_non_null(strstr(e.text, "256"));
    err_clear(&e);
    assert_int_equal(perplexity_run(&p, r.engine, r.tokenizer, text, 1000, 3, NULL, quiet, &e), HEARTH_EINVAL);
    err_clear(&e);
    assert_int_equal(perplexity_run(&p, r.engine, r.tokenizer, "", 0, 64, NULL, quiet, &e), HEARTH_EINVAL);
    err_clear(&e);
    assert_int_equal(logprobs_run(out, r.engine, bad, 3, NULL, &e), HEARTH_EINVAL);
    assert_non_null(strstr(e.text, "2048"));
    err_clear(&e);
    assert_int_equal(logprobs_run(out, r.engine, short_text, 1, NULL, &e), HEARTH_EINVAL);
    err_clear(&e);
    atomic_init(&cancel, 1);
    assert_int_equal(perplexity_run(&p, r.engine, r.tokenizer, text, 2000, 64, &cancel, quiet, &e), HEARTH_ECANCELLED);
    err_clear(&e);
    struct progress counted = { count_windows, &last, NULL };
    assert_ok(perplexity_run(&p, r.engine, r.tokenizer, text, 2000, 64, NULL, counted, &e), &e);
    assert_int_equal(last, p.n_windows);
    run_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_sum_of_log_probabilities), cmocka_unit_test(softmax_of_extremes),
        cmocka_unit_test(windows_are_as_documented),      cmocka_unit_test(quantised_models_stay_close),
        cmocka_unit_test(a_model_does_not_differ_from_itself), cmocka_unit_test(a_wrong_model_is_far),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests(tests, NULL, finish);
}

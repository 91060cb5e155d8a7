/* test_make_model.c: random models must be valid, reproducible, of the right size, and able to fail: wrong code on them
 * has to give visibly wrong logits.
 */
#define _GNU_SOURCE
#include "support.h"

#include <math.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "context/context.h"
#include "quantize/shapes.h"

struct model {
    struct arena arena;
    struct gguf gguf;
    struct engine *engine;
    struct err err;
};

static void model_open(struct model *m, const char *path)
{
    *m = (struct model){ 0 };
    arena_init(&m->arena, 0);
    assert_ok(gguf_open(&m->gguf, path, &m->arena, &m->err), &m->err);
    const struct engine_options o = { .n_threads = 1, .max_batch = 64, .kv_type = KV_F32 };
    assert_ok(engine_open(&m->engine, &m->gguf, &o, &m->err), &m->err);
}

static void model_close(struct model *m)
{
    engine_close(m->engine);
    gguf_close(&m->gguf);
    arena_free(&m->arena);
}

static void make(const char *path, const struct make_model_options *o)
{
    struct err e = { 0 };
    assert_ok(make_model(path, o, (struct progress){ 0 }, &e), &e);
}

static size_t best(const float *logits, size_t n)
{
    size_t b = 0;
    for (size_t i = 1; i < n; i++)
        if (logits[i] > logits[b])
            b = i;
    return b;
}

static const char *const tiny[] = { "tiny-llama", "tiny-llama3", "tiny-phi3", "tiny-qwen2", "tiny-qwen3",
                                    "tiny-gemma2", "tiny-gemma3", "tiny-opt", "tiny-gpt-postln" };

/* 64 greedy tokens; how many different ones. */
static size_t n_distinct(struct model *m)
{
    static const int32_t prompt[] = { 1, 300, 411, 322, 700, 333 };
    size_t n_vocab = engine_info(m->engine)->n_vocab, n = 0;
    bool *seen = calloc(n_vocab, sizeof *seen);
    struct context *c;
    assert_non_null(seen);
    assert_ok(context_open(&c, m->engine, 128, &m->err), &m->err);
    assert_ok(context_sync(c, prompt, ARRAY_LEN(prompt), NULL, NULL, NULL, NULL, &m->err), &m->err);
    for (size_t i = 0; i < 64; i++) {
        size_t t = best(context_logits(c), n_vocab);
        assert_true(isfinite(context_logits(c)[t]));
        n += !seen[t];
        seen[t] = true;
        assert_ok(context_append(c, (int32_t)t, NULL, &m->err), &m->err);
    }
    context_close(c);
    free(seen);
    return n;
}

static void every_architecture_speaks(void **state)
{
    for (size_t i = 0; i < ARRAY_LEN(tiny); i++) {
        struct model m;
        const char *path = scratch_path("speak.gguf");
        make(path, &(struct make_model_options){ .shape = tiny[i], .seed = 5 });
        model_open(&m, path);
        size_t n = n_distinct(&m);
        print_message("%s: %zu different tokens of 64\n", tiny[i], n);
        assert_true(n >= 20);
        model_close(&m);
    }
}

/* Logits after n_tokens random ones, under a mutation. */
static void logits_of(struct model *m, enum engine_mutation mutation, float *out)
{
    enum { N = 40 }; /* beyond the windows of tiny-gemma2 and tiny-gemma3 */
    int32_t ids[N];
    uint64_t state = 11;
    struct context *c;
    size_t n_vocab = engine_info(m->engine)->n_vocab;
    for (size_t i = 0; i < N; i++)
        ids[i] = i ? (int32_t)(test_random(&state) % n_vocab) : 1;
    engine_mutate(m->engine, mutation);
    assert_ok(context_open(&c, m->engine, 64, &m->err), &m->err);
    assert_ok(context_sync(c, ids, N, NULL, NULL, NULL, NULL, &m->err), &m->err);
    memcpy(out, context_logits(c), n_vocab * sizeof *out);
    context_close(c);
    engine_mutate(m->engine, MUTATE_NONE);
}

static bool applies(enum engine_mutation mutation, const struct model_shape *s)
{
    switch (mutation) {
    case MUTATE_NO_ROPE: return !s->arch->has_positions;
    case MUTATE_NO_WINDOW: return s->arch->window_period != 0;
    case MUTATE_SWAP_GATE_UP: return !s->arch->has_positions;
    default: return true;
    }
}

static void every_mistake_shows(void **state)
{
    static const struct { const char *name; enum engine_mutation mutation; } mistakes[] = {
        { "no rope", MUTATE_NO_ROPE }, { "no mask", MUTATE_NO_MASK }, { "wrong head group", MUTATE_WRONG_GQA },
        { "no window", MUTATE_NO_WINDOW }, { "gate and up swapped", MUTATE_SWAP_GATE_UP },
    };
    for (size_t i = 0; i < ARRAY_LEN(tiny); i++) {
        struct model m;
        struct model_shape shape;
        const char *path = scratch_path("mutate.gguf");
        assert_true(shape_by_name(&shape, tiny[i]));
        make(path, &(struct make_model_options){ .shape = tiny[i], .seed = 6 });
        model_open(&m, path);
        size_t n = engine_info(m.engine)->n_vocab;
        float *right = malloc(n * sizeof *right), *wrong = malloc(n * sizeof *wrong);
        assert_true(right && wrong);
        logits_of(&m, MUTATE_NONE, right);
        for (size_t k = 0; k < ARRAY_LEN(mistakes); k++) {
            double sum = 0;
            if (!applies(mistakes[k].mutation, &shape))
                continue;
            logits_of(&m, mistakes[k].mutation, wrong);
            for (size_t j = 0; j < n; j++)
                sum += fabs((double)wrong[j] - (double)right[j]);
            print_message("%s, %s: logits differ by %.2f on average\n", tiny[i], mistakes[k].name, sum / (double)n);
            assert_true(sum / (double)n > 0.2);
        }
        free(right);
        free(wrong);
        model_close(&m);
    }
}

/* ---- the bytes ---- */

static char *slurp(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");
    CHECK(f && fseek(f, 0, SEEK_END) == 0);
    *n = (size_t)ftell(f);
    rewind(f);
    char *p = malloc(*n);
    CHECK(p && fread(p, 1, *n, f) == *n);
    fclose(f);
    return p;
}

static bool same_files(const char *a, const char *b)
{
    size_t n = 0, m = 0;
    char *p = slurp(a, &n), *q = slurp(b, &m);
    bool same = n == m && memcmp(p, q, n) == 0;
    free(p);
    free(q);
    return same;
}

static void bytes_depend_on_the_seed_alone(void **state)
{
    const char *a = scratch_path("a.gguf"), *b = scratch_path("b.gguf"), *c = scratch_path("c.gguf");
    cpu_set_t all, one;
    const struct make_model_options o = { .arch = "phi3", .seed = 9 };
    make(a, &o);
    assert_int_equal(sched_getaffinity(0, sizeof all, &all), 0);
    CPU_ZERO(&one);
    for (int i = 0; i < CPU_SETSIZE && CPU_COUNT(&one) == 0; i++)
        if (CPU_ISSET(i, &all))
            CPU_SET(i, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    make(b, &o); /* one thread */
    assert_int_equal(sched_setaffinity(0, sizeof all, &all), 0);
    assert_true(same_files(a, b));
    make(c, &(struct make_model_options){ .arch = "phi3", .seed = 10 });
    assert_false(same_files(a, c));
}

static void weights_have_the_stated_spread(void **state)
{
    struct arena a;
    struct gguf g;
    struct err e = { 0 };
    const char *path = scratch_path("spread.gguf");
    arena_init(&a, 0);
    make(path, &(struct make_model_options){ .shape = "tiny-llama", .seed = 3 });
    assert_ok(gguf_open(&g, path, &a, &e), &e);
    const struct gguf_tensor *gate = gguf_find_tensor(&g, "blk.0.ffn_gate.weight"), *norm = gguf_find_tensor(&g, "blk.1.ffn_norm.weight");
    assert_true(gate && norm && gate->type == TYPE_F16 && norm->type == TYPE_F32);
    uint16_t w[256];
    float v[256];
    double sum = 0, squares = 0, norm_sum = 0, norm_squares = 0;
    for (size_t r = 0; r < 64; r++) {
        assert_ok(file_read(&g.files[0], w, sizeof w, gate->offset + r * sizeof w, &e), &e);
        for (size_t i = 0; i < 256; i++) {
            double x = (double)half_to_float(w[i]);
            sum += x;
            squares += x * x;
        }
    }
    assert_true(fabs(sum / 16384) < 0.003);
    assert_true(fabs(sqrt(squares / 16384) - 1.5 / 16) < 0.002); /* 1.5 / sqrt(256) */
    assert_ok(file_read(&g.files[0], v, sizeof v, norm->offset, &e), &e);
    for (size_t i = 0; i < 256; i++) {
        norm_sum += (double)v[i];
        norm_squares += (double)v[i] * (double)v[i];
    }
    assert_true(fabs(norm_sum / 256 - 1) < 0.05 && fabs(norm_squares / 256 - norm_sum / 256 * norm_sum / 256 - 0.04) < 0.015);
    gguf_close(&g);
    arena_free(&a);
}

/* ---- sizes ---- */

static void presets_have_the_published_sizes(void **state)
{
    static const struct { const char *name; uint64_t n; } known[] = {
        { "Llama-3.2-1B", 1235814400 },   { "Llama-3.2-3B", 3212749824 },  { "Llama-3.1-8B", 8030261248 },
        { "Llama-2-7B", 6738415616 },     { "TinyLlama-1.1B", 1100048384 }, { "SmolLM2-135M", 134515008 },
        { "Phi-3-mini", 3821079552 },     { "Phi-3-mini-128k", 3821079552 }, { "Qwen2.5-0.5B", 494032768 },
        { "Qwen2.5-1.5B", 1543714304 },   { "Qwen3-0.6B", 596049920 },     { "Qwen3-1.7B", 1720574976 },
        { "Gemma-2-2B", 2614341888 },     { "Gemma-3-1B", 999885952 },     { "OPT-125M", 125239296 },
        { "OPT-1.3B", 1315758080 },
    };
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        struct model_shape s;
        assert_true(shape_by_name(&s, known[i].name));
        if (shape_params(&s) != known[i].n)
            fail_msg("%s: %llu weights, published are %llu", known[i].name, (unsigned long long)shape_params(&s),
                     (unsigned long long)known[i].n);
    }
    for (const char *const *name = make_model_shapes(); *name; name++) {
        struct model_shape s;
        struct err e = { 0 };
        assert_true(shape_by_name(&s, *name));
        assert_ok(shape_check(&s, *name, &e), &e);
    }
}

static void a_file_holds_what_the_plan_says(void **state)
{
    for (size_t i = 0; i < ARRAY_LEN(tiny); i++) {
        struct model_shape s;
        struct arena a;
        struct gguf g;
        struct err e = { 0 };
        uint64_t n = 0;
        const char *path = scratch_path("plan.gguf");
        arena_init(&a, 0);
        assert_true(shape_by_name(&s, tiny[i]));
        make(path, &(struct make_model_options){ .shape = tiny[i] });
        assert_ok(gguf_open(&g, path, &a, &e), &e);
        for (size_t t = 0; t < g.n_tensors; t++)
            if (g.tensors[t].name.n < 5 || memcmp(g.tensors[t].name.p, "rope_", 5) != 0)
                n += g.tensors[t].dims[0] * g.tensors[t].dims[1];
        assert_int_equal(n, shape_params(&s));
        gguf_close(&g);
        arena_free(&a);
    }
}

/* ---- options ---- */

static void numbers_can_be_overridden(void **state)
{
    struct model m;
    const char *path = scratch_path("override.gguf");
    make(path, &(struct make_model_options){ .arch = "gemma2", .n_layers = 2, .n_embd = 512, .n_heads = 4, .n_kv_heads = 1, .head_dim = 32,
                                             .n_ff = 256, .n_vocab = 700, .n_ctx = 333, .window = 7 });
    model_open(&m, path);
    const struct model_info *i = engine_info(m.engine);
    assert_int_equal(i->n_layers, 2);
    assert_int_equal(i->n_embd, 512);
    assert_int_equal(i->n_heads, 4);
    assert_int_equal(i->n_kv_heads, 1);
    assert_int_equal(i->head_dim, 32);
    assert_int_equal(i->n_ff, 256);
    assert_int_equal(i->n_vocab, 700);
    assert_int_equal(i->n_ctx_train, 333);
    assert_int_equal(i->window, 7);
    assert_true(i->is_tied);
    model_close(&m);
    make(path, &(struct make_model_options){ .arch = "qwen2", .untied = true });
    model_open(&m, path);
    assert_false(engine_info(m.engine)->is_tied);
    model_close(&m);
}

static void types_follow_the_mix(void **state)
{
    struct model m;
    const char *path = scratch_path("mix.gguf");
    const struct mix *q4 = mix_by_name("q4_0");
    assert_non_null(q4);
    make(path, &(struct make_model_options){ .arch = "llama", .type = q4 });
    model_open(&m, path);
    assert_int_equal(gguf_find_tensor(&m.gguf, "blk.1.ffn_up.weight")->type, TYPE_Q4_0);
    assert_int_equal(gguf_find_tensor(&m.gguf, "blk.1.ffn_norm.weight")->type, TYPE_F32);
    assert_true(n_distinct(&m) >= 20);
    model_close(&m);
}

/* Large quantised matrices are dealt from a stock: they too must depend on the seed alone, have the stated spread, and
 * make a model that speaks. */
static void large_matrices_are_as_good(void **state)
{
    struct model m;
    const char *path = scratch_path("large.gguf"), *again = scratch_path("large2.gguf");
    static uint8_t row[256];
    float v[256], first[256] = { 0 };
    double squares = 0;
    size_t n_equal = 0;
    const struct make_model_options o = { .arch = "llama", .n_layers = 2, .n_vocab = 32768, .type = mix_by_name("q4_0"), .seed = 4 };
    make(path, &o);
    make(again, &o);
    assert_true(same_files(path, again));
    model_open(&m, path);
    const struct gguf_tensor *t = gguf_find_tensor(&m.gguf, "token_embd.weight");
    assert_true(t && t->type == TYPE_Q4_0 && t->dims[0] == 256);
    for (size_t r = 0; r < 1000; r++) {
        assert_ok(file_read(&m.gguf.files[0], row, 144, t->offset + r * 144, &m.err), &m.err);
        kernels_by_name("ref")->dequant_row[TYPE_Q4_0](v, row, 256);
        for (size_t i = 0; i < 256; i++)
            squares += (double)v[i] * (double)v[i];
        n_equal += memcmp(v, first, sizeof v) == 0;
        if (r == 0)
            memcpy(first, v, sizeof v);
    }
    assert_true(fabs(sqrt(squares / 256000) - 1) < 0.02); /* an untied embedding has the spread 1 */
    assert_true(n_equal <= 2);
    assert_true(n_distinct(&m) >= 20);
    model_close(&m);
}

static void a_real_vocabulary_is_taken(void **state)
{
    struct model m;
    struct vocab v;
    need_data("vocab/ggml-vocab-llama-spm.gguf");
    const char *path = scratch_path("vocab.gguf");
    make(path, &(struct make_model_options){ .arch = "llama", .vocab = data_path("vocab/ggml-vocab-llama-spm.gguf") });
    model_open(&m, path);
    assert_int_equal(engine_info(m.engine)->n_vocab, 32000);
    assert_ok(vocab_from_gguf(&v, &m.gguf, &m.arena, &m.err), &m.err);
    assert_int_equal(v.n_tokens, 32000);
    assert_true(str_eqz(v.tokens[263].text, "\xe2\x96\x81" "a"));
    model_close(&m);
    /* A larger embedding than the vocabulary: padded. */
    make(path, &(struct make_model_options){ .arch = "llama", .n_vocab = 32064, .vocab = data_path("vocab/ggml-vocab-llama-spm.gguf") });
    model_open(&m, path);
    assert_ok(vocab_from_gguf(&v, &m.gguf, &m.arena, &m.err), &m.err);
    assert_true(v.n_tokens == 32064 && str_eqz(v.tokens[32063].text, "[PAD32063]") && v.tokens[32063].type == TOKEN_UNUSED);
    model_close(&m);
}

static void nonsense_is_refused(void **state)
{
    static const struct { struct make_model_options o; const char *says; } cases[] = {
        { { 0 }, "needs an architecture" },
        { { .arch = "bloom" }, "bloom" },
        { { .shape = "Llama-9" }, "Llama-9" },
        { { .arch = "qwen2", .shape = "Llama-3.2-1B" }, "not a qwen2" },
        { { .arch = "llama", .n_vocab = 100 }, "at least" },
        { { .arch = "llama", .n_heads = 7 }, "do not divide" },
        { { .arch = "llama", .n_heads = 8, .n_kv_heads = 3 }, "cannot share" },
        { { .arch = "llama", .n_layers = 100000 }, "number of layers" },
        { { .arch = "llama", .n_embd = (size_t)1 << 40, .head_dim = 64 }, "embedding length" },
        { { .arch = "gemma2", .untied = true }, "untied" },
        { { .arch = "llama", .vocab = "/nonexistent/vocab.gguf" }, "nonexistent" },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct err e = { 0 };
        const char *path = scratch_path("refused.gguf");
        assert_true(make_model(path, &cases[i].o, (struct progress){ 0 }, &e) != HEARTH_OK);
        if (!strstr(e.text, cases[i].says))
            fail_msg("case %zu says \"%s\", not \"%s\"", i, e.text, cases[i].says);
        assert_int_not_equal(access(path, F_OK), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_architecture_speaks),
        cmocka_unit_test(every_mistake_shows),
        cmocka_unit_test(bytes_depend_on_the_seed_alone),
        cmocka_unit_test(weights_have_the_stated_spread),
        cmocka_unit_test(presets_have_the_published_sizes),
        cmocka_unit_test(a_file_holds_what_the_plan_says),
        cmocka_unit_test(numbers_can_be_overridden),
        cmocka_unit_test(types_follow_the_mix),
        cmocka_unit_test(large_matrices_are_as_good),
        cmocka_unit_test(a_real_vocabulary_is_taken),
        cmocka_unit_test(nonsense_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

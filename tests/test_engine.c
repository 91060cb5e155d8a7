/* test_engine.c: the forward pass: equal to an independent double-precision implementation for every architecture,
 * bit-identical however the work is cut, wrong when it is made wrong, and clean when a step fails.
 */
#define _DEFAULT_SOURCE
#include "support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "engine_run.h"
#include "oracle_f64.h"

static const size_t uneven_steps[] = { 7, 1, 32, 1, 1, 64, 3 };

static double largest_difference(const float *got, const double *want, size_t n)
{
    double worst = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - want[i]);
        if (!(d <= worst)) /* NaN counts */
            worst = d;
    }
    return worst;
}

static double difference_of_type(const struct tiny *t, enum tensor_type type, size_t n, size_t n_ctx, enum engine_mutation m,
                                 struct engine_options o)
{
    struct run r;
    size_t n_values = n * t->spec.n_vocab;
    int32_t *tokens = random_tokens(n, t->spec.n_vocab, t->spec.seed);
    double *want = calloc(n_values, sizeof *want), worst;
    run_open_tiny(&r, t, type, &o);
    engine_mutate(r.en, m);
    float *got = run_sequence(r.en, tokens, n, n_ctx, uneven_steps, ARRAY_LEN(uneven_steps));
    oracle_logits(want, t, tokens, n, n_ctx);
    worst = largest_difference(got, want, n_values);
    run_close(&r);
    free(got), free(want), free(tokens);
    return worst;
}

static double difference_with(const struct tiny *t, size_t n, size_t n_ctx, enum engine_mutation m, struct engine_options o)
{
    return difference_of_type(t, TYPE_F32, n, n_ctx, m, o);
}

static double difference_from_oracle(const struct tiny *t, size_t n, size_t n_ctx, enum engine_mutation m)
{
    return difference_with(t, n, n_ctx, m, (struct engine_options){ .n_threads = 2, .max_batch = 64, .kv_type = KV_F32 });
}

static void every_architecture_matches_the_oracle(void **state)
{
    for (const struct tiny_spec *s = tiny_specs; s->arch; s++) {
        struct tiny t;
        tiny_build(&t, s);
        double d = difference_from_oracle(&t, 150, s->n_ctx, MUTATE_NONE);
        print_message("%-10s seed %2d: largest difference of a logit %.2e\n", s->arch, (int)s->seed, d);
        assert_true(d < 1e-3);
        tiny_free(&t);
    }
}

static const struct tiny_spec *spec_of(const char *arch)
{
    for (const struct tiny_spec *s = tiny_specs; s->arch; s++)
        if (strcmp(s->arch, arch) == 0)
            return s;
    abort();
}

static void longrope_follows_the_context_length(void **state)
{
    struct tiny t;
    struct engine_options o = { .n_threads = 1, .kv_type = KV_F32 };
    struct run r;
    const size_t n = 60, all = 64;
    tiny_build(&t, spec_of("phi3"));
    assert_true(difference_from_oracle(&t, n, 64, MUTATE_NONE) < 1e-3);
    assert_true(difference_from_oracle(&t, n, 65, MUTATE_NONE) < 1e-3);
    int32_t *tokens = random_tokens(n, t.spec.n_vocab, 1);
    run_open_tiny(&r, &t, TYPE_F32, &o);
    float *a = run_sequence(r.en, tokens, n, 64, &all, 1), *b = run_sequence(r.en, tokens, n, 65, &all, 1);
    assert_memory_not_equal(a, b, n * t.spec.n_vocab * sizeof *a);
    run_close(&r);
    free(a), free(b), free(tokens);
    tiny_free(&t);
}

/* GGUF users run phi3 without its window; who asks for it gets it, on every layer. */
static void phi3_has_its_window_when_asked(void **state)
{
    struct tiny_spec s = *spec_of("phi3");
    struct engine_options o = { .n_threads = 1, .kv_type = KV_F32 };
    struct tiny t;
    s.window = 11;
    tiny_build(&t, &s);
    o.use_sliding_window_phi3 = true;
    assert_true(difference_with(&t, 60, 100, MUTATE_NONE, o) < 1e-3);
    assert_true(difference_with(&t, 60, 100, MUTATE_NO_WINDOW, o) > 0.02);
    o.use_sliding_window_phi3 = false;
    t.spec.window = 0; /* what the oracle looks at; the key stays */
    tiny_set_u32(&t, ".attention.sliding_window", 11);
    assert_true(difference_with(&t, 60, 100, MUTATE_NONE, o) < 1e-3);
    tiny_free(&t);
}

/* q, k, v as three tensors with biases, or as one: the same model. */
static void fused_rows_are_the_same_model(void **state)
{
    struct tiny t;
    const size_t all = 20;
    const struct engine_options o = { .n_threads = 1 };
    static const char *const parts[] = { "attn_q", "attn_k", "attn_v" };
    float *got[2];
    tiny_build(&t, spec_of("qwen2"));
    int32_t *tokens = random_tokens(20, t.spec.n_vocab, 1);
    for (int i = 0; i < 2; i++) {
        struct run r;
        for (size_t l = 0; i && l < t.spec.n_layers; l++)
            for (int is_bias = 0; is_bias < 2; is_bias++) {
                char name[64];
                size_t n_rows = (t.spec.n_heads + 2 * t.spec.n_kv_heads) * t.spec.head_dim, at = 0;
                snprintf(name, sizeof name, "blk.%zu.attn_qkv.%s", l, is_bias ? "bias" : "weight");
                tiny_add_tensor(&t, name, is_bias ? n_rows : t.spec.n_embd, is_bias ? 0 : n_rows);
                struct tiny_tensor *fused = tiny_find(&t, name);
                float *data = fused->data;
                for (size_t k = 0; k < 3; k++) {
                    snprintf(name, sizeof name, "blk.%zu.%s.%s", l, parts[k], is_bias ? "bias" : "weight");
                    struct tiny_tensor *x = tiny_find(&t, name);
                    size_t n = (size_t)(x->dims[0] * x->dims[1]);
                    memcpy(data + at, x->data, n * sizeof *data);
                    at += n;
                    tiny_drop_tensor(&t, name);
                }
            }
        run_open_tiny(&r, &t, TYPE_F32, &o);
        got[i] = run_sequence(r.en, tokens, 20, 20, &all, 1);
        run_close(&r);
    }
    assert_memory_equal(got[0], got[1], 20 * t.spec.n_vocab * sizeof *got[0]);
    free(got[0]), free(got[1]), free(tokens);
    tiny_free(&t);
}

/* More than two ranges of 512 tokens, one K/V head: attention is split over ranges and merged. */
static void long_sequences_match_the_oracle(void **state)
{
    struct tiny_spec s = *spec_of("llama");
    struct tiny t;
    s.n_heads = 2, s.n_kv_heads = 1, s.head_dim = 16, s.n_embd = 32, s.n_layers = 2, s.n_ctx = 2048;
    tiny_build(&t, &s);
    assert_true(difference_from_oracle(&t, 1150, 2048, MUTATE_NONE) < 1e-3);
    tiny_free(&t);
}

/* Attention leaves its output quantised: by the thread that finished a unit when its heads make whole blocks of 32,
 * else afterwards. Rounding of weights and activations to 8 bits moves these logits by 0.6 at most,
 * stale activations by 9. */
static void quantised_attention_is_close_to_the_oracle(void **state)
{
    static const size_t n_kv_heads[] = { 1, 2, 4 };
    const struct engine_options o = { .n_threads = 3, .max_batch = 64, .kv_type = KV_F32, .share_above = 1 };
    for (size_t i = 0; i < ARRAY_LEN(n_kv_heads); i++) {
        struct tiny_spec s = *spec_of("llama");
        struct tiny t;
        s.n_heads = 4, s.n_kv_heads = n_kv_heads[i], s.head_dim = 24, s.n_embd = 96, s.n_ff = 96, s.n_layers = 2, s.n_ctx = 1024;
        tiny_build(&t, &s);
        double d = difference_of_type(&t, TYPE_Q8_0, 600, 1024, MUTATE_NONE, o);
        print_message("%zu K/V heads of 24: largest difference of a logit %.2e\n", n_kv_heads[i], d);
        assert_true(d < 1.5);
        tiny_free(&t);
    }
}

static bool is_applicable(const struct tiny_spec *s, enum engine_mutation m)
{
    bool has_rope = strcmp(s->arch, "opt") != 0 && strcmp(s->arch, "gpt-postln") != 0;
    switch (m) {
    case MUTATE_NO_ROPE: case MUTATE_SWAP_GATE_UP: return has_rope;
    case MUTATE_WRONG_GQA: return s->n_kv_heads > 1;
    case MUTATE_NO_WINDOW: return s->window > 0;
    default: return true;
    }
}

static void every_mutation_is_noticed(void **state)
{
    static const char *const names[] = { "none", "no rope", "no mask", "wrong group", "no window", "gate and up swapped" };
    size_t n_tried = 0;
    for (const struct tiny_spec *s = tiny_specs; s->arch; s++) {
        struct tiny t;
        tiny_build(&t, s);
        for (enum engine_mutation m = MUTATE_NO_ROPE; m <= MUTATE_SWAP_GATE_UP; m++) {
            if (!is_applicable(s, m))
                continue;
            double d = difference_from_oracle(&t, 64, s->n_ctx, m);
            if (!(d > 0.02))
                fail_msg("%s (seed %d), %s: differs by %g only", s->arch, (int)s->seed, names[m], d);
            n_tried++;
        }
        tiny_free(&t);
    }
    assert_true(n_tried >= 40);
}

/* ---- the same bits, however the work is cut ---- */

/* Rows of 256 so that every type fits. */
static const struct tiny_spec wide = { .arch = "llama", .n_layers = 2, .n_embd = 256, .n_heads = 4, .n_kv_heads = 2, .head_dim = 64,
                                       .n_ff = 256, .n_vocab = 40, .n_ctx = 1024, .is_untied = true, .seed = 77 };

struct way {
    size_t n_threads, max_batch;
    size_t steps[4];
    size_t n_steps;
    const char *kernels;
};

/* The long tests take only the first few. */
static const struct way ways[] = {
    { 4, 64, { 64 }, 1, "ref" },          { 3, 64, { 1, 2, 31, 33 }, 4, NULL }, { 1, 200, { 200 }, 1, NULL },
    { 1, 64, { 1 }, 1, NULL },            { 4, 17, { 17, 5 }, 2, NULL },        { 2, 64, { 33 }, 1, "avx2" },
    { 2, 64, { 33 }, 1, "neon" },         { 1, 64, { 61 }, 1, "ref" },
};

static void same_bits(const struct tiny_spec *spec, enum tensor_type type, enum kv_type kv, size_t n, size_t n_ways)
{
    struct tiny t;
    float *first = NULL;
    tiny_build(&t, spec);
    tiny_write(&t, scratch_path("bits.gguf"), type);
    int32_t *tokens = random_tokens(n, spec->n_vocab, 5);
    for (size_t i = 0; i < n_ways; i++) {
        const struct way *w = &ways[i];
        struct engine_options o = { .n_threads = w->n_threads, .max_batch = w->max_batch, .kv_type = kv, .share_above = 1 };
        struct run r;
        if (w->kernels && !(o.kernels = kernels_by_name(w->kernels)))
            continue;
        run_open(&r, scratch_path("bits.gguf"), &o);
        float *got = run_sequence(r.en, tokens, n, n, w->steps, w->n_steps);
        if (!first) {
            first = got;
        } else {
            if (memcmp(first, got, n * spec->n_vocab * sizeof *got) != 0)
                fail_msg("%s, %s: way %zu gives other bits", spec->arch, type_info((uint32_t)type)->name, i);
            free(got);
        }
        run_close(&r);
    }
    free(first), free(tokens);
    tiny_free(&t);
}

static void architectures_keep_their_bits(void **state)
{
    for (const struct tiny_spec *s = tiny_specs; s->arch; s++)
        same_bits(s, s->seed % 2 ? TYPE_F32 : TYPE_F16, s->seed % 3 ? KV_F16 : KV_F32, 70, ARRAY_LEN(ways));
}

static void types_keep_their_bits(void **state)
{
    static const enum tensor_type types[] = { TYPE_Q4_0, TYPE_Q4_1, TYPE_Q5_0, TYPE_Q5_1, TYPE_Q8_0, TYPE_Q2_K, TYPE_Q3_K,
                                              TYPE_Q4_K, TYPE_Q5_K, TYPE_Q6_K, TYPE_IQ4_NL, TYPE_IQ4_XS, TYPE_BF16 };
    for (size_t i = 0; i < ARRAY_LEN(types); i++)
        same_bits(&wide, types[i], KV_F16, 34, ARRAY_LEN(ways));
}

static void long_contexts_keep_their_bits(void **state)
{
    struct tiny_spec s = *spec_of("gemma3");
    s.n_ctx = 2048, s.window = 530, s.n_layers = 3, s.n_heads = 2, s.head_dim = 16, s.n_embd = 32;
    same_bits(&s, TYPE_F32, KV_F16, 1060, 3);
}

/* Many ranges for many rows and threads: more than there is room for side by side, so attention takes them in turns. */
static void many_ranges_keep_their_bits(void **state)
{
    enum { N = 2200 };
    struct tiny_spec s = *spec_of("llama");
    struct tiny t;
    const struct engine_options o[] = { { .n_threads = 16, .max_batch = 126, .share_above = 1 }, { .n_threads = 1, .max_batch = 200 } };
    const size_t steps[] = { 126, 200 };
    float *got[2];
    s.n_heads = 32, s.n_kv_heads = 1, s.head_dim = 4, s.n_embd = 32, s.n_layers = 1, s.n_ff = 32, s.n_ctx = N;
    tiny_build(&t, &s);
    int32_t *tokens = random_tokens(N, s.n_vocab, 5);
    for (size_t i = 0; i < 2; i++) {
        struct run r;
        run_open_tiny(&r, &t, TYPE_F32, &o[i]);
        got[i] = run_sequence(r.en, tokens, N, N, &steps[i], 1);
        run_close(&r);
    }
    assert_memory_equal(got[0], got[1], N * s.n_vocab * sizeof *got[0]);
    free(got[0]), free(got[1]), free(tokens);
    tiny_free(&t);
}

/* A sequence alone, and the same one among others of other lengths, in other steps. */
static void company_changes_no_bit(void **state)
{
    enum { N = 70, OTHERS = 3 };
    struct tiny t;
    struct engine_options o = { .n_threads = 3, .max_batch = 64 };
    struct run r;
    struct err e = { 0 };
    struct seq mine, others[OTHERS];
    const size_t whole = 64;
    tiny_build(&t, spec_of("phi3")); /* with LongRoPE: each sequence has its own table */
    size_t n_vocab = t.spec.n_vocab;
    run_open_tiny(&r, &t, TYPE_F32, &o);
    int32_t *tokens = random_tokens(N, n_vocab, 9), *noise = random_tokens(N * OTHERS, n_vocab, 10);
    float *alone = run_sequence(r.en, tokens, N, 400, &whole, 1);
    float *got = calloc(N * n_vocab, sizeof *got), *other = calloc(64 * n_vocab, sizeof *other);
    seq_open(&mine, r.en, 400);
    for (size_t i = 0; i < OTHERS; i++)
        seq_open(&others[i], r.en, i == 1 ? 64 : 300);
    for (size_t done = 0, i = 0; done < N; i++) {
        size_t n = MIN(1 + i % 5, N - done);
        struct slice s[1 + OTHERS];
        for (size_t k = 0; k < OTHERS; k++)
            s[k] = (struct slice){ .kv = &others[k].kv, .tokens = noise + k * N + others[k].kv.n_tokens % 20,
                                   .n_tokens = others[k].kv.n_tokens < 50 ? 1 + k : 1, .n_logits = k == 2, .logits = other };
        s[OTHERS] = s[i % OTHERS]; /* mine stands now here, now there */
        s[i % OTHERS] = (struct slice){ .kv = &mine.kv, .tokens = tokens + done, .n_tokens = n, .n_logits = n,
                                        .logits = got + done * n_vocab };
        assert_ok(engine_step(r.en, s, 1 + OTHERS, NULL, &e), &e);
        done += n;
    }
    assert_memory_equal(alone, got, N * n_vocab * sizeof *got);
    seq_close(&mine);
    for (size_t i = 0; i < OTHERS; i++)
        seq_close(&others[i]);
    run_close(&r);
    free(alone), free(got), free(other), free(tokens), free(noise);
    tiny_free(&t);
}

/* More sequences than the output matrix takes at once, a vocabulary of several pieces, a cap on the logits. */
static void logits_of_many_sequences_are_their_own(void **state)
{
    enum { SEQUENCES = 21 };
    struct tiny t;
    struct engine_options o = { .n_threads = 2, .max_batch = SEQUENCES, .share_above = 1 };
    struct run r;
    struct err e = { 0 };
    struct seq seqs[SEQUENCES];
    struct slice slices[SEQUENCES];
    const size_t one = 1;
    struct tiny_spec spec = *spec_of("gemma2");
    spec.n_vocab = 20000;
    tiny_build(&t, &spec);
    run_open_tiny(&r, &t, TYPE_F32, &o);
    int32_t *tokens = random_tokens(SEQUENCES, spec.n_vocab, 11);
    float *got = calloc(SEQUENCES * spec.n_vocab, sizeof *got);
    for (size_t i = 0; i < SEQUENCES; i++) {
        seq_open(&seqs[i], r.en, 32);
        slices[i] = (struct slice){ .kv = &seqs[i].kv, .tokens = tokens + i, .n_tokens = 1, .n_logits = i != 4,
                                    .logits = i != 4 ? got + (SEQUENCES - 1 - i) * spec.n_vocab : NULL };
    }
    assert_ok(engine_step(r.en, slices, SEQUENCES, NULL, &e), &e);
    for (size_t i = 0; i < SEQUENCES; i++) {
        float *alone = run_sequence(r.en, tokens + i, 1, 32, &one, 1);
        if (i != 4)
            assert_memory_equal(alone, slices[i].logits, spec.n_vocab * sizeof *alone);
        free(alone);
        seq_close(&seqs[i]);
    }
    run_close(&r);
    free(got), free(tokens);
    tiny_free(&t);
}

/* Values of a forgotten continuation behind the end must not be seen. */
static void stale_lanes_change_no_bit(void **state)
{
    struct tiny t;
    struct engine_options o = { .n_threads = 1 };
    struct run r;
    struct err e = { 0 };
    struct seq s;
    tiny_build(&t, spec_of("gemma2"));
    size_t n_vocab = t.spec.n_vocab;
    float *a = calloc(n_vocab, sizeof *a), *b = calloc(n_vocab, sizeof *b);
    int32_t *tokens = random_tokens(50, n_vocab, 3);
    run_open_tiny(&r, &t, TYPE_F32, &o);
    seq_open(&s, r.en, 64);
    struct slice sl = { .kv = &s.kv, .tokens = tokens, .n_tokens = 40, .n_logits = 1, .logits = a };
    assert_ok(engine_step(r.en, &sl, 1, NULL, &e), &e);
    s.kv.n_tokens = 35;
    sl = (struct slice){ .kv = &s.kv, .tokens = tokens + 35, .n_tokens = 5, .n_logits = 1, .logits = b };
    assert_ok(engine_step(r.en, &sl, 1, NULL, &e), &e);
    assert_memory_equal(a, b, n_vocab * sizeof *a);
    seq_close(&s);
    run_close(&r);
    free(a), free(b), free(tokens);
    tiny_free(&t);
}

/* ---- memory, failures ---- */

static void the_plan_is_what_is_held(void **state)
{
    for (const struct tiny_spec *s = tiny_specs; s->arch; s++) {
        struct tiny t;
        struct run r;
        struct memory_plan p;
        struct err e = { 0 };
        struct engine_options o = { .n_threads = 1 + s->seed % 4, .max_batch = 16 * s->seed, .kv_type = s->seed % 2 ? KV_F16 : KV_F32 };
        tiny_build(&t, s);
        run_open_tiny(&r, &t, TYPE_F16, &o);
        assert_ok(engine_plan(&p, &r.g, &o, 70, &e), &e);
        assert_int_equal(p.scratch_bytes, engine_scratch_bytes(r.en));
        assert_int_equal(p.weight_bytes, engine_info(r.en)->weight_bytes);
        assert_int_equal(p.kv_bytes_per_chunk, engine_kv_layout(r.en)->chunk_bytes);
        assert_int_equal(p.kv_bytes, 3 * p.kv_bytes_per_chunk);
        assert_int_equal(p.kv_bytes_per_chunk,
                         s->n_layers * s->n_kv_heads * s->head_dim * 2 * CHUNK_TOKENS * (o.kv_type == KV_F16 ? 2 : 4));
        assert_int_equal(p.total_bytes, p.weight_bytes + p.kv_bytes + p.scratch_bytes);
        run_close(&r);
        tiny_free(&t);
    }
}

/* The scratch that is planned is also resident: no later step can fail for want of it. */
static void scratch_is_really_there(void **state)
{
    struct tiny t;
    struct run r;
    struct memory_plan p;
    struct err e = { 0 };
    struct engine_options o = { .n_threads = 1, .max_batch = 4096 };
#ifdef __SANITIZE_THREAD__
    skip(); /* its shadow memory is resident, too */
#endif
    tiny_build(&t, &wide);
    tiny_write(&t, scratch_path("wide.gguf"), TYPE_F32);
    size_t before = memory_now_bytes();
    run_open(&r, scratch_path("wide.gguf"), &o);
    size_t held = memory_now_bytes() - before;
    assert_ok(engine_plan(&p, &r.g, &o, 32, &e), &e);
    assert_true(p.scratch_bytes > 12 * MIB);
    assert_true(held > p.scratch_bytes - p.scratch_bytes / 20);
    assert_true(held < p.scratch_bytes + p.scratch_bytes / 10 + 4 * MIB);
    run_close(&r);
    tiny_free(&t);
}

static void bad_steps_are_refused(void **state)
{
    struct tiny t;
    struct run r;
    struct seq s;
    struct err e = { 0 };
    struct engine_options o = { .n_threads = 1, .max_batch = 8 };
    int32_t tokens[9] = { 1, 2, 3, 4, 5, 6, 7, 8, 9 }, high = 47, low = -1;
    float logits[9 * 64];
    tiny_build(&t, spec_of("opt")); /* 47 tokens, 200 positions */
    run_open_tiny(&r, &t, TYPE_F32, &o);
    seq_open(&s, r.en, 256);
    struct slice good = { .kv = &s.kv, .tokens = tokens, .n_tokens = 8, .n_logits = 8, .logits = logits }, bad[8], two[2] = { good, good };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        bad[i] = good;
    bad[0].n_tokens = 9;
    bad[1].n_tokens = 0;
    bad[2].n_logits = 9;
    bad[3].logits = NULL;
    bad[4].tokens = &high, bad[4].n_tokens = bad[4].n_logits = 1;
    bad[5].tokens = &low, bad[5].n_tokens = bad[5].n_logits = 1;
    bad[6].n_tokens = SIZE_MAX;
    bad[7].n_tokens = SIZE_MAX - 31;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        err_clear(&e);
        assert_int_equal(engine_step(r.en, &bad[i], 1, NULL, &e), HEARTH_EINVAL);
        assert_true(e.text[0]);
    }
    two[0].n_tokens = two[1].n_tokens = two[0].n_logits = two[1].n_logits = 4;
    assert_int_equal(engine_step(r.en, two, 2, NULL, NULL), HEARTH_EINVAL); /* one sequence twice */
    assert_int_equal(engine_step(r.en, NULL, 0, NULL, NULL), HEARTH_EINVAL);
    assert_int_equal(s.kv.n_tokens, 0);
    for (size_t i = 0; i < 25; i++)
        assert_int_equal(engine_step(r.en, &good, 1, NULL, NULL), HEARTH_OK);
    err_clear(&e);
    assert_int_equal(engine_step(r.en, &good, 1, NULL, &e), HEARTH_ELIMIT); /* position 200 */
    assert_non_null(strstr(e.text, "200 positions"));
    s.kv.n_chunks = 6;
    assert_int_equal(engine_step(r.en, &good, 1, NULL, NULL), HEARTH_EINVAL); /* no chunk for it */
    s.kv.n_chunks = 8;
    seq_close(&s);
    run_close(&r);
    tiny_free(&t);
}

static void a_cancelled_step_changes_nothing(void **state)
{
    struct tiny t;
    struct run r;
    struct seq s;
    atomic_int cancel = 1;
    struct engine_options o = { .n_threads = 2 };
    int32_t *tokens = random_tokens(40, 61, 4);
    float a[61], b[61];
    const size_t all = 40;
    tiny_build(&t, spec_of("llama"));
    run_open_tiny(&r, &t, TYPE_F32, &o);
    seq_open(&s, r.en, 64);
    struct slice sl = { .kv = &s.kv, .tokens = tokens, .n_tokens = 40, .n_logits = 1, .logits = b };
    assert_int_equal(engine_step(r.en, &sl, 1, &cancel, NULL), HEARTH_ECANCELLED);
    assert_int_equal(s.kv.n_tokens, 0);
    atomic_store(&cancel, 0);
    assert_int_equal(engine_step(r.en, &sl, 1, &cancel, NULL), HEARTH_OK);
    float *want = run_sequence(r.en, tokens, 40, 64, &all, 1);
    memcpy(a, want + 39 * 61, sizeof a);
    assert_memory_equal(a, b, sizeof a);
    seq_close(&s);
    run_close(&r);
    free(want), free(tokens);
    tiny_free(&t);
}

static void a_file_cut_short_fails_the_step(void **state)
{
    struct tiny t;
    struct run r;
    struct seq s;
    struct err e = { 0 };
    struct engine_options o = { .n_threads = 2 };
    int32_t token = 3;
    float logits[100];
    tiny_build(&t, &wide);
    tiny_write(&t, scratch_path("cut.gguf"), TYPE_F32);
    run_open(&r, scratch_path("cut.gguf"), &o);
    seq_open(&s, r.en, 64);
    struct slice sl = { .kv = &s.kv, .tokens = &token, .n_tokens = 1, .n_logits = 1, .logits = logits };
    assert_ok(engine_step(r.en, &sl, 1, NULL, &e), &e);
    assert_int_equal(truncate(scratch_path("cut.gguf"), 64 * 1024), 0);
    for (int i = 0; i < 2; i++) {
        err_clear(&e);
        assert_int_equal(engine_step(r.en, &sl, 1, NULL, &e), HEARTH_EIO);
        assert_non_null(strstr(e.text, "cut.gguf"));
        assert_int_equal(s.kv.n_tokens, 1);
    }
    seq_close(&s);
    run_close(&r);
    tiny_free(&t);
}

static void odd_options_are_refused(void **state)
{
    struct tiny t;
    struct gguf g;
    struct arena a;
    struct engine *en;
    struct err e = { 0 };
    const struct engine_options bad[] = { { .max_batch = LIMIT_BATCH + 1 }, { .n_threads = LIMIT_THREADS + 1 }, { .kv_type = KV_TYPE_COUNT },
                                          { .power = 101 }, { .affinity = "0-" }, { .affinity = "" }, { .affinity = "1023,1023" } };
    arena_init(&a, 0);
    tiny_build(&t, tiny_specs);
    tiny_write(&t, scratch_path("o.gguf"), TYPE_F32);
    assert_ok(gguf_open(&g, scratch_path("o.gguf"), &a, &e), &e);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(engine_open(&en, &g, &bad[i], NULL), HEARTH_EINVAL);
        assert_null(en);
    }
    static const char *const bad_threads[] = { "0", "-1", "x", "3x", "257", "99999999999999999999" };
    for (size_t i = 0; i < ARRAY_LEN(bad_threads); i++) {
        setenv("HEARTH_THREADS", bad_threads[i], 1);
        err_clear(&e);
        assert_int_equal(engine_open(&en, &g, NULL, &e), HEARTH_EINVAL);
        assert_non_null(strstr(e.text, "HEARTH_THREADS"));
    }
    setenv("HEARTH_THREADS", "3", 1);
    static const struct { const char *name, *value; } bad_load[] = { { "HEARTH_POWER", "101" }, { "HEARTH_POWER", "0" }, { "HEARTH_AFFINITY", "all" } };
    for (size_t i = 0; i < ARRAY_LEN(bad_load); i++) {
        setenv(bad_load[i].name, bad_load[i].value, 1);
        err_clear(&e);
        assert_int_equal(engine_open(&en, &g, NULL, &e), HEARTH_EINVAL);
        assert_non_null(strstr(e.text, bad_load[i].value));
        unsetenv(bad_load[i].name);
    }
    err_clear(&e);
    assert_ok(engine_open(&en, &g, NULL, &e), &e);
    assert_int_equal(pool_threads(engine_pool(en)), 3);
    assert_int_equal(engine_max_batch(en), 512);
    engine_close(en);
    engine_close(NULL);
    unsetenv("HEARTH_THREADS");
    gguf_close(&g);
    arena_free(&a);
    tiny_free(&t);
}

static void a_profile_accounts_for_the_time(void **state)
{
    enum { N = 48 };
    struct tiny t;
    struct engine_options o = { .n_threads = 2, .max_batch = 16, .share_above = 1 };
    struct engine_profile p = { 0 };
    struct run r;
    const size_t steps[] = { 16, 1, 15 }; /* 4 steps for 48 tokens */
    uint64_t ns = 0;
    tiny_build(&t, spec_of("llama"));
    int32_t *tokens = random_tokens(N, t.spec.n_vocab, 3);
    run_open_tiny(&r, &t, TYPE_Q8_0, &o);
    float *plain = run_sequence(r.en, tokens, N, N, steps, ARRAY_LEN(steps));
    engine_profile_attach(r.en, &p);
    uint64_t begin = clock_ns();
    float *measured = run_sequence(r.en, tokens, N, N, steps, ARRAY_LEN(steps));
    uint64_t wall = clock_ns() - begin;
    engine_profile_attach(r.en, NULL);
    assert_memory_equal(plain, measured, N * t.spec.n_vocab * sizeof *plain);
    assert_int_equal(p.n_steps, 4);
    for (size_t i = 0; i < PHASE_COUNT; i++) {
        const struct phase_times *x = &p.phases[i];
        ns += x->ns;
        assert_true(x->ns > 0 && x->run_ns <= x->ns && x->wait_ns <= x->run_ns && x->busy_ns <= 2 * x->run_ns);
        assert_true(i == PHASE_ROWS || i == PHASE_ATTENTION || x->n_jobs == p.n_steps * (i == PHASE_LOGITS ? 1 : t.spec.n_layers));
    }
    assert_true(ns <= wall);
    free(plain);
    plain = run_sequence(r.en, tokens, N, N, steps, ARRAY_LEN(steps));
    assert_int_equal(p.n_steps, 4); /* nothing is measured any more */
    run_close(&r);
    free(plain), free(measured), free(tokens);
    tiny_free(&t);
}

/* Where threads run and how much they may work: the bits stay, and an engine without work uses no CPU. */
static void load_settings_change_no_bit(void **state)
{
    enum { N = 40 };
    struct tiny t;
    struct run r;
    struct cpu_list all;
    char first[16];
    const size_t steps[] = { 24, 1 };
    cpu_list_now(&all);
    snprintf(first, sizeof first, "%d", all.cpus[0]);
    const struct engine_options options[] = {
        { .n_threads = 2, .max_batch = 24 }, { .n_threads = 2, .max_batch = 24, .power = 40, .share_above = 1 },
        { .max_batch = 24, .affinity = first, .share_above = 1 }, { .n_threads = 3, .max_batch = 24, .affinity = "none", .share_above = 1 },
    };
    const size_t n_threads[] = { 2, 2, 1, 3 };
    float *right = NULL;
    tiny_build(&t, spec_of("llama"));
    int32_t *tokens = random_tokens(N, t.spec.n_vocab, 3);
    for (size_t i = 0; i < ARRAY_LEN(options); i++) {
        run_open_tiny(&r, &t, TYPE_Q8_0, &options[i]);
        assert_int_equal(pool_threads(engine_pool(r.en)), n_threads[i]);
        float *got = run_sequence(r.en, tokens, N, N, steps, ARRAY_LEN(steps));
        if (!right)
            right = got;
        assert_memory_equal(got, right, N * t.spec.n_vocab * sizeof *got);
        usleep(20000);
        clock_t before = clock();
        usleep(200000);
        assert_true(clock() - before < CLOCKS_PER_SEC / 100);
        run_close(&r);
        if (got != right)
            free(got);
    }
    free(right), free(tokens);
    tiny_free(&t);
}

/* Jobs shared by the threads end with a barrier: at most four in a layer when one token is computed, near or far from the
 * beginning, and one for the logits. */
static void one_token_meets_four_barriers_a_layer(void **state)
{
    enum { FAR = 700 };
    const size_t starts[] = { 5, FAR };
    struct tiny t;
    struct run r;
    struct seq s;
    struct err e = { 0 };
    const struct engine_options o = { .n_threads = 2, .max_batch = FAR, .share_above = 1 };
    tiny_build(&t, &wide);
    int32_t *tokens = random_tokens(FAR + 1, t.spec.n_vocab, 3);
    float *logits = malloc(t.spec.n_vocab * sizeof *logits);
    run_open_tiny(&r, &t, TYPE_Q8_0, &o);
    for (size_t i = 0; i < ARRAY_LEN(starts); i++) {
        struct pool_times times = { 0 };
        seq_open(&s, r.en, FAR + 1);
        struct slice prompt = { .kv = &s.kv, .tokens = tokens, .n_tokens = starts[i] };
        struct slice next = { .kv = &s.kv, .tokens = tokens + starts[i], .n_tokens = 1, .n_logits = 1, .logits = logits };
        assert_ok(engine_step(r.en, &prompt, 1, NULL, &e), &e);
        pool_measure(engine_pool(r.en), &times);
        assert_ok(engine_step(r.en, &next, 1, NULL, &e), &e);
        pool_measure(engine_pool(r.en), NULL);
        assert_true(times.n_jobs > t.spec.n_layers); /* it was shared at all */
        assert_true(times.n_jobs <= 4 * t.spec.n_layers + 1);
        seq_close(&s);
    }
    run_close(&r);
    free(tokens), free(logits);
    tiny_free(&t);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_architecture_matches_the_oracle),
        cmocka_unit_test(longrope_follows_the_context_length),
        cmocka_unit_test(phi3_has_its_window_when_asked),
        cmocka_unit_test(fused_rows_are_the_same_model),
        cmocka_unit_test(long_sequences_match_the_oracle),
        cmocka_unit_test(quantised_attention_is_close_to_the_oracle),
        cmocka_unit_test(every_mutation_is_noticed),
        cmocka_unit_test(architectures_keep_their_bits),
        cmocka_unit_test(types_keep_their_bits),
        cmocka_unit_test(long_contexts_keep_their_bits),
        cmocka_unit_test(many_ranges_keep_their_bits),
        cmocka_unit_test(company_changes_no_bit),
        cmocka_unit_test(logits_of_many_sequences_are_their_own),
        cmocka_unit_test(stale_lanes_change_no_bit),
        cmocka_unit_test(the_plan_is_what_is_held),
        cmocka_unit_test(scratch_is_really_there),
        cmocka_unit_test(bad_steps_are_refused),
        cmocka_unit_test(a_cancelled_step_changes_nothing),
        cmocka_unit_test(a_file_cut_short_fails_the_step),
        cmocka_unit_test(odd_options_are_refused),
        cmocka_unit_test(a_profile_accounts_for_the_time),
        cmocka_unit_test(load_settings_change_no_bit),
        cmocka_unit_test(one_token_meets_four_barriers_a_layer),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

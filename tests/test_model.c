/* test_model.c: what engine_open accepts and refuses: every hyper-parameter at its limits, every key with every kind of
 * value, every tensor missing or of another shape, tensors that do not belong, architectures and scalings that are not
 * known. Each refusal is one sentence that names the key or the tensor.
 */
#define _DEFAULT_SOURCE
#include "support.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine_run.h"

static struct err last; /* of the last try_open */

/* Writes the model, plans and opens it; both must agree. */
static enum hearth_status try_open(const struct tiny *t, enum tensor_type type)
{
    const struct engine_options o = { .n_threads = 1, .max_batch = 1 };
    struct memory_plan plan;
    struct engine *en = NULL;
    struct arena a;
    struct gguf g;
    struct err e = { 0 };
    arena_init(&a, 0);
    err_clear(&last);
    tiny_write(t, scratch_path("model.gguf"), type);
    assert_ok(gguf_open(&g, scratch_path("model.gguf"), &a, &e), &e);
    enum hearth_status planned = engine_plan(&plan, &g, &o, 100, &e), st = engine_open(&en, &g, &o, &last);
    assert_int_equal(planned, st);
    assert_string_equal(e.text, last.text);
    assert_true((st == HEARTH_OK) == (en != NULL));
    if (st != HEARTH_OK)
        assert_non_null(strstr(last.text, "model.gguf"));
    if (en) { /* what is accepted must also run */
        int32_t token = 0;
        struct seq s;
        float *logits = calloc(engine_info(en)->n_vocab, sizeof *logits);
        seq_open(&s, en, 1);
        struct slice sl = { .kv = &s.kv, .tokens = &token, .n_tokens = 1, .n_logits = 1, .logits = logits };
        assert_ok(engine_step(en, &sl, 1, NULL, &e), &e);
        seq_close(&s);
        free(logits);
    }
    engine_close(en);
    gguf_close(&g);
    arena_free(&a);
    return st;
}

static void assert_refused(const struct tiny *t, enum hearth_status want, const char *named)
{
    enum hearth_status st = try_open(t, TYPE_F32);
    if (st != want || !strstr(last.text, named))
        fail_msg("status %s instead of %s, or \"%s\" is not named: %s", hearth_status_name(st), hearth_status_name(want), named,
                 last.text);
}

static void assert_accepted(const struct tiny *t)
{
    if (try_open(t, TYPE_F32) != HEARTH_OK)
        fail_msg("%s", last.text);
}

static struct tiny_spec blank(const char *arch)
{
    return (struct tiny_spec){ .arch = arch, .n_layers = 1, .n_embd = 4, .n_heads = 1, .n_kv_heads = 1, .head_dim = 4, .n_ff = 4,
                               .n_vocab = 3, .n_ctx = 16, .is_blank = true, .has_biases = strcmp(arch, "opt") == 0, .seed = 1 };
}

/* ---- limits ---- */

static void check_spec(struct tiny_spec s, enum hearth_status want, const char *named)
{
    struct tiny t;
    tiny_build(&t, &s);
    if (strcmp(s.arch, "opt") == 0 && s.head_dim * s.n_heads != s.n_embd)
        tiny_set_u32(&t, ".attention.key_length", s.head_dim);
    if (want == HEARTH_OK)
        assert_accepted(&t);
    else
        assert_refused(&t, want, named);
    tiny_free(&t);
}

/* The key alone says the value, the tensors fit another. */
static void check_key(struct tiny_spec s, const char *key, uint64_t v, enum hearth_status want)
{
    struct tiny t;
    tiny_build(&t, &s);
    tiny_set_u32(&t, key, v);
    if (want == HEARTH_OK)
        assert_accepted(&t);
    else
        assert_refused(&t, want, key);
    tiny_free(&t);
}

#define FIELD(field) offsetof(struct tiny_spec, field)

static void sizes_at_their_limits(void **state)
{
    static const struct { const char *arch, *key; size_t field, lo, hi; } rows[] = {
        { "llama", ".block_count", FIELD(n_layers), 1, LIMIT_LAYERS },
        { "opt", ".embedding_length", FIELD(n_embd), 1, 0 },
        { "llama", ".embedding_length", FIELD(n_embd), 1, LIMIT_EMBD },
        { "llama", ".feed_forward_length", FIELD(n_ff), 1, LIMIT_FF },
        { "llama", ".context_length", FIELD(n_ctx), 1, LIMIT_CONTEXT },
        { "llama", ".attention.head_count", FIELD(n_heads), 1, LIMIT_HEADS },
        { "opt", ".attention.key_length", FIELD(head_dim), 1, LIMIT_HEAD_DIM },
        { "llama", "token_embd", FIELD(n_vocab), 1, LIMIT_VOCAB },
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct tiny_spec s = blank(rows[i].arch);
        size_t *field = (size_t *)((char *)&s + rows[i].field);
        bool is_key = rows[i].key[0] == '.';
        if (rows[i].field == FIELD(n_heads) || rows[i].field == FIELD(n_embd))
            s.head_dim = 2;
        if (is_key)
            check_key(s, rows[i].key, rows[i].lo - 1, HEARTH_EDAMAGED);
        *field = rows[i].lo;
        check_spec(s, HEARTH_OK, NULL);
        if (!rows[i].hi)
            continue;
        *field = rows[i].hi;
        check_spec(s, HEARTH_OK, NULL);
        *field = rows[i].hi + 1;
        check_spec(s, HEARTH_EDAMAGED, rows[i].key);
        if (is_key)
            check_key(s, rows[i].key, UINT64_MAX, HEARTH_EDAMAGED);
    }
}

static void numbers_at_their_limits(void **state)
{
    static const struct { const char *arch, *key; uint64_t v; enum hearth_status want; } rows[] = {
        { "llama", ".attention.head_count_kv", 0, HEARTH_EDAMAGED },
        { "llama", ".attention.head_count_kv", LIMIT_HEADS + 1, HEARTH_EDAMAGED },
        { "llama", ".attention.key_length", 0, HEARTH_EDAMAGED },
        { "llama", ".attention.value_length", 0, HEARTH_EDAMAGED },
        { "llama", ".attention.value_length", LIMIT_HEAD_DIM + 1, HEARTH_EDAMAGED },
        { "llama", ".rope.dimension_count", 1, HEARTH_EDAMAGED },
        { "llama", ".rope.dimension_count", 2, HEARTH_OK },
        { "llama", ".rope.dimension_count", 3, HEARTH_EDAMAGED },
        { "llama", ".rope.dimension_count", 4, HEARTH_OK },
        { "llama", ".rope.dimension_count", 5, HEARTH_EDAMAGED },
        { "llama", ".vocab_size", 0, HEARTH_EDAMAGED },
        { "llama", ".vocab_size", 4, HEARTH_EDAMAGED },
        { "llama", ".vocab_size", LIMIT_VOCAB + 1, HEARTH_EDAMAGED },
        { "llama", ".rope.scaling.original_context_length", 0, HEARTH_EDAMAGED },
        { "llama", ".rope.scaling.original_context_length", 1, HEARTH_OK },
        { "llama", ".rope.scaling.original_context_length", LIMIT_CONTEXT, HEARTH_OK },
        { "llama", ".rope.scaling.original_context_length", LIMIT_CONTEXT + 1, HEARTH_EDAMAGED },
        { "gemma2", ".attention.sliding_window", 0, HEARTH_OK },
        { "gemma2", ".attention.sliding_window", LIMIT_CONTEXT, HEARTH_OK },
        { "gemma2", ".attention.sliding_window", LIMIT_CONTEXT + 1, HEARTH_EDAMAGED },
        { "gemma3", ".attention.sliding_window_pattern", 0, HEARTH_EDAMAGED },
        { "gemma3", ".attention.sliding_window_pattern", 1, HEARTH_OK },
        { "gemma3", ".attention.sliding_window_pattern", LIMIT_LAYERS, HEARTH_OK },
        { "gemma3", ".attention.sliding_window_pattern", LIMIT_LAYERS + 1, HEARTH_EDAMAGED },
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        check_key(blank(rows[i].arch), rows[i].key, rows[i].v, rows[i].want);
}

static void fractions_at_their_limits(void **state)
{
    static const struct { const char *arch, *key; double v; bool is_ok; } rows[] = {
        { "llama", ".attention.layer_norm_rms_epsilon", -1e-9, false }, { "llama", ".attention.layer_norm_rms_epsilon", 0, true },
        { "llama", ".attention.layer_norm_rms_epsilon", 1, true },      { "llama", ".attention.layer_norm_rms_epsilon", 1.01, false },
        { "opt", ".attention.layer_norm_epsilon", -1e-9, false },       { "opt", ".attention.layer_norm_epsilon", 1.01, false },
        { "llama", ".rope.freq_base", 0.99, false },                    { "llama", ".rope.freq_base", 1, true },
        { "llama", ".rope.freq_base", 1e15, true },                     { "llama", ".rope.freq_base", 2e15, false },
        { "llama", ".rope.scaling.factor", -1, false },                 { "llama", ".rope.scaling.factor", 0, true },
        { "llama", ".rope.scaling.factor", 1e6, true },                 { "llama", ".rope.scaling.factor", 2e6, false },
        { "llama", ".rope.scale_linear", -1, false },                   { "llama", ".rope.scaling.attn_factor", 0, false },
        { "llama", ".rope.scaling.attn_factor", 2e6, false },           { "llama", ".rope.scaling.yarn_beta_fast", 0, false },
        { "llama", ".rope.scaling.yarn_beta_slow", -1, false },         { "gemma3", ".rope.freq_base_swa", 0.5, false },
        { "gemma2", ".attn_logit_softcapping", -1, false },             { "gemma2", ".attn_logit_softcapping", 0, true },
        { "gemma2", ".final_logit_softcapping", -1, false },            { "gemma2", ".final_logit_softcapping", 2e6, false },
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct tiny_spec s = blank(rows[i].arch);
        struct tiny t;
        tiny_build(&t, &s);
        tiny_set_f32(&t, rows[i].key, rows[i].v);
        if (rows[i].is_ok)
            assert_accepted(&t);
        else
            assert_refused(&t, HEARTH_EDAMAGED, rows[i].key);
        tiny_free(&t);
    }
}

static void heads_must_divide(void **state)
{
    struct tiny_spec s = blank("llama");
    struct tiny t;
    s.n_heads = 6, s.n_kv_heads = 4;
    check_spec(s, HEARTH_EDAMAGED, "6 heads cannot share 4");
    s.n_kv_heads = 12;
    check_spec(s, HEARTH_EDAMAGED, "6 heads cannot share 12");
    tiny_build(&t, &tiny_specs[0]);
    tiny_set_u32(&t, ".attention.value_length", 16);
    assert_refused(&t, HEARTH_EUNSUPPORTED, "V heads");
    tiny_free(&t);
}

/* YaRN with numbers that make its logarithms degenerate gives an error or finite angles, never a NaN. */
static void yarn_stays_finite(void **state)
{
    struct tiny_spec s = blank("llama");
    struct tiny t;
    s.rope_scaling = "yarn", s.rope_factor = 4, s.ctx_original = 1;
    for (int i = 0; i < 2; i++) {
        s.rope_base = i ? 1 : 10000;
        tiny_build(&t, &s);
        tiny_set_f32(&t, ".rope.scaling.yarn_beta_fast", 0.15915494309189535); /* 1 / 2 pi: log 1 */
        enum hearth_status st = try_open(&t, TYPE_F32);
        assert_true(st == HEARTH_OK || st == HEARTH_EDAMAGED);
        tiny_free(&t);
    }
}

/* ---- kinds ---- */

enum class { CLASS_INT, CLASS_FLOAT, CLASS_STRING, CLASS_BOOL, CLASS_ARRAY };

static enum class class_of(enum gguf_kind k)
{
    switch (k) {
    case GGUF_F32: case GGUF_F64: return CLASS_FLOAT;
    case GGUF_STRING: return CLASS_STRING;
    case GGUF_BOOL: return CLASS_BOOL;
    case GGUF_ARRAY: return CLASS_ARRAY;
    default: return CLASS_INT;
    }
}

static void confuse(struct tiny *t, const char *key, enum class right)
{
    for (enum gguf_kind k = 0; k < GGUF_KIND_COUNT; k++) {
        tiny_set_kind(t, key, k);
        enum hearth_status st = try_open(t, TYPE_F32);
        if (class_of(k) == right)
            continue; /* another value, maybe a bad one; here it only must not crash */
        if (st != HEARTH_EDAMAGED || !strstr(last.text, key))
            fail_msg("%s of kind %d: %s: %s", key, (int)k, hearth_status_name(st), last.text);
    }
}

static void every_key_with_every_kind(void **state)
{
    static const struct { const char *key; enum class right; } more[] = {
        { "general.type", CLASS_STRING },                       { ".attention.key_length", CLASS_INT },
        { ".attention.value_length", CLASS_INT },               { ".rope.dimension_count", CLASS_INT },
        { ".rope.freq_base", CLASS_FLOAT },                     { ".rope.scaling.type", CLASS_STRING },
        { ".rope.scaling.factor", CLASS_FLOAT },                { ".rope.scale_linear", CLASS_FLOAT },
        { ".rope.scaling.attn_factor", CLASS_FLOAT },           { ".rope.scaling.original_context_length", CLASS_INT },
        { ".rope.scaling.yarn_beta_fast", CLASS_FLOAT },        { ".rope.scaling.yarn_beta_slow", CLASS_FLOAT },
        { ".rope.freq_base_swa", CLASS_FLOAT },                 { ".attention.sliding_window", CLASS_INT },
        { ".attention.sliding_window_pattern", CLASS_INT },     { ".attn_logit_softcapping", CLASS_FLOAT },
        { ".final_logit_softcapping", CLASS_FLOAT },            { ".vocab_size", CLASS_INT },
    };
    for (const struct tiny_spec *s = tiny_specs; s->arch; s++) {
        struct tiny_spec b = blank(s->arch);
        struct tiny t;
        size_t n;
        b.has_biases = s->has_biases, b.is_fused = s->is_fused, b.window = s->window, b.is_untied = s->is_untied;
        tiny_build(&t, &b);
        n = t.n_keys;
        tiny_free(&t);
        for (size_t i = 0; i < n; i++) {
            tiny_build(&t, &b);
            confuse(&t, t.keys[i].name, class_of(t.keys[i].kv.kind));
            tiny_free(&t);
        }
    }
    for (size_t i = 0; i < ARRAY_LEN(more); i++) {
        struct tiny_spec b = blank("gemma3");
        struct tiny t;
        tiny_build(&t, &b);
        confuse(&t, more[i].key, more[i].right);
        tiny_free(&t);
    }
}

static void needed_keys_are_named(void **state)
{
    static const char *const optional[] = { "general.name", "gemma3.attention.sliding_window", ".vocab_size", ".rope.", ".head_count_kv",
                                            "softcapping", "sliding_window", "key_length", "value_length" };
    for (const struct tiny_spec *s = tiny_specs; s->arch; s++) {
        struct tiny t;
        size_t n = 1;
        for (size_t i = 0; i < n; i++) {
            char key[96];
            bool is_needed = true;
            tiny_build(&t, s);
            n = t.n_keys;
            strcpy(key, t.keys[i].name);
            for (size_t k = 0; k < ARRAY_LEN(optional); k++)
                is_needed = is_needed && !strstr(key, optional[k]);
            tiny_drop_key(&t, key);
            if (is_needed)
                assert_refused(&t, HEARTH_EDAMAGED, key);
            else
                try_open(&t, TYPE_F32);
            tiny_free(&t);
        }
    }
}

/* ---- tensors ---- */

static bool is_optional(const struct tiny *t, const char *name)
{
    bool is_llama = strcmp(t->spec.arch, "llama") == 0;
    return strcmp(name, "output.weight") == 0 || strcmp(name, "rope_freqs.weight") == 0 ||
           (is_llama && strstr(name, ".bias")) || strstr(name, "attn_qkv");
}

static void every_tensor_is_needed(void **state)
{
    for (const struct tiny_spec *s = tiny_specs; s->arch; s++) {
        struct tiny t;
        size_t n = 1;
        for (size_t i = 0; i < n; i++) {
            char name[LIMIT_GGUF_NAME_BYTES + 1];
            tiny_build(&t, s);
            n = t.n_tensors;
            strcpy(name, t.tensors[i].name);
            tiny_drop_tensor(&t, name);
            if (strstr(name, "attn_qkv"))
                assert_refused(&t, HEARTH_EDAMAGED, "attn_q.weight is missing");
            else if (is_optional(&t, name))
                assert_accepted(&t);
            else
                assert_refused(&t, HEARTH_EDAMAGED, name);
            assert_true(is_optional(&t, name) || strstr(last.text, "missing"));
            tiny_free(&t);
        }
    }
}

static void reshape(struct tiny_tensor *x, uint64_t a, uint64_t b, uint64_t c)
{
    x->dims[0] = a, x->dims[1] = b, x->dims[2] = c;
    x->n_dims = c > 1 ? 3 : x->n_dims;
    free(x->data);
    CHECK(x->data = calloc((size_t)(a * b * c), sizeof *x->data));
}

static void every_shape_is_checked(void **state)
{
    for (const struct tiny_spec *s = tiny_specs; s->arch; s++) {
        struct tiny t;
        size_t n = 1;
        for (size_t i = 0; i < n; i++)
            for (int how = 0; how < 4; how++) {
                tiny_build(&t, s);
                n = t.n_tensors;
                struct tiny_tensor *x = &t.tensors[i];
                bool is_matrix = x->n_dims == 2, is_vocab = strcmp(x->name, "token_embd.weight") == 0;
                char name[LIMIT_GGUF_NAME_BYTES + 1];
                strcpy(name, x->name);
                uint64_t k = x->dims[0], rows = x->dims[1];
                bool must_fail = true;
                switch (how) {
                case 0: reshape(x, k + 1, rows, 1); break;
                case 1: /* more rows of the embedding are a larger vocabulary, where nothing else states its size */
                    reshape(x, k, is_matrix ? rows + 1 : rows, is_matrix ? 1 : 2);
                    must_fail = !is_vocab || s->is_untied || tiny_global(&t, "position_embd.weight") == NULL;
                    break;
                case 2: reshape(x, k, rows, 2); break;
                default: reshape(x, rows, k, 1); must_fail = k != rows && is_matrix; break; /* transposed */
                }
                if (must_fail && is_vocab && how == 1) {
                    try_open(&t, TYPE_F32);
                    assert_int_equal(last.status, HEARTH_EDAMAGED);
                } else if (must_fail) {
                    assert_refused(&t, HEARTH_EDAMAGED, name);
                }
                tiny_free(&t);
            }
    }
}

static void strangers_are_refused(void **state)
{
    static const struct { const char *arch, *name; bool is_harmless; } rows[] = {
        { "qwen3", "blk.0.attn_q.bias", false },      { "qwen3", "output.bias", false },
        { "llama", "blk.3.attn_q.weight", false },    { "llama", "blk.0.ffn_gate_inp.weight", false },
        { "gemma2", "blk.0.attn_q_norm.weight", false }, { "gemma3", "per_layer_model_proj.weight", false },
        { "qwen2", "blk.0.attn_output.bias", false }, { "opt", "project_in.weight", false },
        { "phi3", "blk.0.ffn_gate.weight", false },   { "phi3", "blk.1.attn_q.weight", false },
        { "llama", "position_embd.weight", false },   { "llama", "blk.0.attn_rot_embd.weight", true },
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const struct tiny_spec *s = tiny_specs;
        struct tiny t;
        while (strcmp(s->arch, rows[i].arch) != 0)
            s++;
        tiny_build(&t, s);
        tiny_add_tensor(&t, rows[i].name, s->n_embd, 0);
        if (rows[i].is_harmless)
            assert_accepted(&t);
        else
            assert_refused(&t, HEARTH_EUNSUPPORTED, rows[i].name);
        tiny_free(&t);
    }
}

static void types_are_checked(void **state)
{
    static const enum tensor_type unreadable[] = { TYPE_IQ2_XXS, TYPE_IQ1_S, TYPE_I32, TYPE_F64, TYPE_Q8_1, TYPE_TQ1_0, TYPE_MXFP4 };
    static const char *const names[] = { "token_embd.weight", "blk.0.attn_k.weight", "blk.0.ffn_norm.weight", "blk.0.ffn_down.weight" };
    struct tiny_spec s = blank("llama");
    s.n_embd = s.n_ff = 256, s.head_dim = 256;
    for (size_t i = 0; i < ARRAY_LEN(unreadable); i++)
        for (size_t k = 0; k < ARRAY_LEN(names); k++) {
            struct tiny t;
            tiny_build(&t, &s);
            tiny_find(&t, names[k])->type = unreadable[i];
            assert_refused(&t, HEARTH_EUNSUPPORTED, names[k]);
            assert_non_null(strstr(last.text, type_info((uint32_t)unreadable[i])->name));
            tiny_free(&t);
        }
}

/* Vectors in half precision are taken over as floats: the logits are those of the same values in F32. */
static void vectors_may_be_half(void **state)
{
    struct tiny_spec s = tiny_specs[0];
    struct tiny t;
    const size_t all = 8;
    float *got[2];
    int32_t *tokens = random_tokens(8, s.n_vocab, 1);
    tiny_build(&t, &s);
    for (size_t i = 0; i < t.n_tensors; i++) {
        struct tiny_tensor *x = &t.tensors[i];
        for (size_t k = 0; k < x->dims[0] && x->n_dims == 1; k++)
            x->data[k] = half_to_float(float_to_half(x->data[k]));
    }
    for (int i = 0; i < 2; i++) {
        const struct engine_options o = { .n_threads = 1 };
        struct run r;
        for (size_t k = 0; k < t.n_tensors; k++)
            if (t.tensors[k].n_dims == 1)
                t.tensors[k].type = i ? TYPE_F16 : TYPE_F32;
        run_open_tiny(&r, &t, TYPE_F32, &o);
        got[i] = run_sequence(r.en, tokens, 8, 8, &all, 1);
        run_close(&r);
    }
    assert_memory_equal(got[0], got[1], 8 * s.n_vocab * sizeof *got[0]);
    free(got[0]), free(got[1]), free(tokens);
    tiny_free(&t);
}

/* ---- what is not supported says so ---- */

static void refuse_string(const char *arch, const char *key, const char *v, enum hearth_status want, const char *named)
{
    struct tiny_spec s = blank(arch);
    struct tiny t;
    s.has_biases = strcmp(arch, "llama") != 0;
    tiny_build(&t, &s);
    tiny_set_str(&t, key, v);
    assert_refused(&t, want, named);
    tiny_free(&t);
}

static void unknown_pieces_are_named(void **state)
{
    refuse_string("llama", "general.architecture", "mamba", HEARTH_EUNSUPPORTED, "\"mamba\"");
    refuse_string("llama", "general.architecture", "", HEARTH_EUNSUPPORTED, "\"\"");
    refuse_string("llama", "general.type", "adapter", HEARTH_EUNSUPPORTED, "adapter");
    refuse_string("llama", ".rope.scaling.type", "su", HEARTH_EUNSUPPORTED, "\"su\"");
    refuse_string("gpt-postln", ".norm_position", "pre", HEARTH_EUNSUPPORTED, "norm_position");
    refuse_string("gemma3", ".rope.scaling.type", "yarn", HEARTH_EUNSUPPORTED, "yarn");
    struct tiny t;
    tiny_build(&t, tiny_specs);
    tiny_set_u32(&t, ".expert_count", 8);
    assert_refused(&t, HEARTH_EUNSUPPORTED, "mixture of experts");
    tiny_set_u32(&t, ".expert_count", 0);
    assert_accepted(&t);
    tiny_set_f32(&t, ".logit_scale", 0.5);
    assert_refused(&t, HEARTH_EUNSUPPORTED, "llama.logit_scale");
    tiny_set_f32(&t, ".logit_scale", 1);
    assert_accepted(&t);
    tiny_free(&t);
}

static void per_layer_numbers(void **state)
{
    static const uint32_t equal[] = { 4, 4, 4 }, unequal[] = { 4, 2, 4 }, local[] = { 1, 0, 1 };
    struct tiny_spec s = tiny_specs[0];
    struct tiny t;
    tiny_build(&t, &s);
    tiny_set_u32s(&t, ".attention.head_count_kv", equal, 3);
    assert_accepted(&t);
    tiny_set_u32s(&t, ".attention.head_count_kv", unequal, 3);
    assert_refused(&t, HEARTH_EUNSUPPORTED, "head_count_kv differs between layers");
    tiny_set_u32s(&t, ".attention.head_count_kv", equal, 2);
    assert_refused(&t, HEARTH_EDAMAGED, "2 values for 3 layers");
    tiny_free(&t);
    s = blank("gemma3");
    s.n_layers = 3, s.window = 5;
    tiny_build(&t, &s);
    tiny_set_u32s(&t, ".attention.sliding_window_pattern", local, 3);
    assert_accepted(&t);
    tiny_set_u32s(&t, ".attention.sliding_window_pattern", equal, 3);
    assert_refused(&t, HEARTH_EDAMAGED, "is not a flag");
    tiny_set_u32s(&t, ".attention.sliding_window_pattern", local, 2);
    assert_refused(&t, HEARTH_EDAMAGED, "2 values for 3 layers");
    tiny_free(&t);
}

/* A list of flags says the same as the period it spells out. */
static void a_flag_per_layer_equals_the_period(void **state)
{
    static const uint32_t flags[] = { 1, 1, 0, 1, 1, 0, 1 };
    struct tiny_spec s;
    struct tiny t;
    const size_t all = 60;
    float *got[2];
    for (size_t i = 0; tiny_specs[i].arch; i++)
        if (strcmp(tiny_specs[i].arch, "gemma3") == 0)
            s = tiny_specs[i];
    int32_t *tokens = random_tokens(60, s.n_vocab, 1);
    for (int i = 0; i < 2; i++) {
        const struct engine_options o = { .n_threads = 1 };
        struct run r;
        tiny_build(&t, &s);
        if (i)
            tiny_set_u32s(&t, ".attention.sliding_window_pattern", flags, 7);
        run_open_tiny(&r, &t, TYPE_F32, &o);
        got[i] = run_sequence(r.en, tokens, 60, 60, &all, 1);
        run_close(&r);
        tiny_free(&t);
    }
    assert_memory_equal(got[0], got[1], 60 * s.n_vocab * sizeof *got[0]);
    free(got[0]), free(got[1]), free(tokens);
}

static void vocabulary_files_are_no_models(void **state)
{
    struct engine *en;
    struct gguf g;
    struct arena a;
    struct err e = { 0 };
    need_data("vocab/ggml-vocab-phi-3.gguf");
    arena_init(&a, 0);
    assert_ok(gguf_open(&g, data_path("vocab/ggml-vocab-phi-3.gguf"), &a, &e), &e);
    assert_int_equal(engine_open(&en, &g, NULL, &e), HEARTH_EDAMAGED);
    assert_non_null(strstr(e.text, "token_embd.weight is missing"));
    gguf_close(&g);
    arena_free(&a);
}

/* A model whose tensors lie in two files is the same model; either file cut short fails the step. */
static void a_split_model_runs(void **state)
{
    const struct engine_options o = { .n_threads = 1 };
    struct tiny_spec s = tiny_specs[0];
    struct tiny part[2];
    struct run r;
    const size_t all = 9;
    float *want, *got;
    int32_t *tokens = random_tokens(9, s.n_vocab, 1);
    tiny_build(&part[0], &s);
    run_open_tiny(&r, &part[0], TYPE_F32, &o);
    want = run_sequence(r.en, tokens, 9, 9, &all, 1);
    run_close(&r);
    for (size_t i = 0; i < 2; i++) {
        if (i)
            tiny_build(&part[i], &s);
        tiny_set_kind(&part[i], "split.no", GGUF_U16);
        part[i].keys[part[i].n_keys - 1].kv.v.u = i;
        tiny_set_kind(&part[i], "split.count", GGUF_U16);
        tiny_set_kind(&part[i], "split.tensors.count", GGUF_I32);
        part[i].keys[part[i].n_keys - 1].kv.v.i = (int64_t)part[i].n_tensors;
    }
    size_t n = part[0].n_tensors, n_first = n / 3;
    for (size_t i = 0; i < n; i++) {
        char name[LIMIT_GGUF_NAME_BYTES + 1];
        strcpy(name, part[i < n_first ? 1 : 0].tensors[i < n_first ? 0 : n_first].name);
        tiny_drop_tensor(&part[i < n_first ? 1 : 0], name);
    }
    tiny_write(&part[0], scratch_path("split-00001-of-00002.gguf"), TYPE_F32);
    tiny_write(&part[1], scratch_path("split-00002-of-00002.gguf"), TYPE_F32);
    run_open(&r, scratch_path("split-00001-of-00002.gguf"), &o);
    got = run_sequence(r.en, tokens, 9, 9, &all, 1);
    assert_memory_equal(got, want, 9 * s.n_vocab * sizeof *got);
    assert_int_equal(truncate(scratch_path("split-00002-of-00002.gguf"), 4096), 0);
    struct seq q;
    struct err e = { 0 };
    seq_open(&q, r.en, 9);
    struct slice sl = { .kv = &q.kv, .tokens = tokens, .n_tokens = 9, .n_logits = 9, .logits = got };
    assert_int_equal(engine_step(r.en, &sl, 1, NULL, &e), HEARTH_EIO);
    assert_non_null(strstr(e.text, "split-00002-of-00002.gguf"));
    seq_close(&q);
    run_close(&r);
    free(want), free(got), free(tokens);
    tiny_free(&part[0]);
    tiny_free(&part[1]);
}

/* Opens whatever the bytes are; if it is a model, runs a token. */
static bool open_bytes(const char *path)
{
    const struct engine_options o = { .n_threads = 1, .max_batch = 4 };
    struct engine *en = NULL;
    struct arena a;
    struct gguf g;
    struct err e = { 0 };
    arena_init(&a, 0);
    enum hearth_status st = gguf_open(&g, path, &a, &e);
    if (st == HEARTH_OK)
        st = engine_open(&en, &g, &o, &e);
    assert_true(st == HEARTH_OK || (e.status == st && e.text[0]));
    if (en) {
        int32_t tokens[2] = { 0, 0 };
        struct seq s;
        float *logits = calloc(engine_info(en)->n_vocab, sizeof *logits);
        seq_open(&s, en, 2);
        struct slice sl = { .kv = &s.kv, .tokens = tokens, .n_tokens = 2, .n_logits = 1, .logits = logits };
        st = engine_step(en, &sl, 1, NULL, &e);
        assert_true(st == HEARTH_OK || st == HEARTH_ELIMIT); /* ELIMIT: one position only */
        seq_close(&s);
        free(logits);
        engine_close(en);
    }
    gguf_close(&g);
    arena_free(&a);
    return en != NULL;
}

/* Bytes of the directory changed at random, in every architecture: an error or a model that runs, never a crash. */
static void damaged_directories_never_crash(void **state)
{
    enum { TRIES = 120 };
    uint64_t rnd = 20;
    size_t n_models = 0, n_refused = 0;
    for (const struct tiny_spec *s = tiny_specs; s->arch; s++) {
        struct tiny t;
        struct arena a;
        struct err e = { 0 };
        char *whole;
        size_t n, n_data = 0;
        struct tiny_spec small = *s;
        small.n_layers = MIN(s->n_layers, (size_t)2);
        tiny_build(&t, &small);
        tiny_write(&t, scratch_path("whole.gguf"), TYPE_F16);
        for (size_t i = 0; i < t.n_tensors; i++)
            n_data += (size_t)(t.tensors[i].dims[0] * t.tensors[i].dims[1]) * (t.tensors[i].n_dims == 1 ? 4 : 2);
        tiny_free(&t);
        arena_init(&a, 0);
        assert_ok(file_read_all(&whole, &n, scratch_path("whole.gguf"), 64 * MIB, &a, &e), &e);
        char *bytes = malloc(n);
        CHECK(bytes);
        for (size_t i = 0; i < TRIES; i++) {
            memcpy(bytes, whole, n);
            for (size_t k = 0; k <= i % 3; k++) {
                size_t at = test_random(&rnd) % (n - n_data);
                bytes[at] = (char)(i % 4 == 0 ? bytes[at] ^ 1 << test_random(&rnd) % 8 : (int)(test_random(&rnd) % 256));
            }
            write_file(scratch_path("damaged.gguf"), bytes, n);
            if (open_bytes(scratch_path("damaged.gguf")))
                n_models++;
            else
                n_refused++;
        }
        free(bytes);
        arena_free(&a);
    }
    print_message("%zu damaged directories: %zu refused, %zu still models\n", n_models + n_refused, n_refused, n_models);
    assert_true(n_refused > n_models && n_models > 0);
}

static void the_description_is_right(void **state)
{
    for (const struct tiny_spec *s = tiny_specs; s->arch; s++) {
        const struct engine_options o = { .n_threads = 1, .max_batch = 1 };
        struct tiny t;
        struct run r;
        size_t n_params = 0;
        tiny_build(&t, s);
        for (size_t i = 0; i < t.n_tensors; i++)
            n_params += (size_t)(t.tensors[i].dims[0] * t.tensors[i].dims[1]);
        run_open_tiny(&r, &t, TYPE_F32, &o);
        const struct model_info *f = engine_info(r.en);
        assert_true(str_eqz(f->arch, s->arch) && str_eqz(f->name, "tiny"));
        assert_int_equal(f->n_layers, s->n_layers);
        assert_int_equal(f->n_embd, s->n_embd);
        assert_int_equal(f->n_heads, s->n_heads);
        assert_int_equal(f->n_kv_heads, s->n_kv_heads);
        assert_int_equal(f->head_dim, s->head_dim);
        assert_int_equal(f->n_ff, s->n_ff);
        assert_int_equal(f->n_vocab, s->n_vocab);
        assert_int_equal(f->n_ctx_train, s->n_ctx);
        assert_int_equal(f->n_ctx_max, tiny_global(&t, "position_embd.weight") ? s->n_ctx : 0);
        assert_int_equal(f->n_params, n_params);
        assert_int_equal(f->weight_bytes, n_params * 4);
        assert_int_equal(f->is_tied, !s->is_untied);
        run_close(&r);
        tiny_free(&t);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_at_their_limits),
        cmocka_unit_test(numbers_at_their_limits),
        cmocka_unit_test(fractions_at_their_limits),
        cmocka_unit_test(heads_must_divide),
        cmocka_unit_test(yarn_stays_finite),
        cmocka_unit_test(every_key_with_every_kind),
        cmocka_unit_test(needed_keys_are_named),
        cmocka_unit_test(every_tensor_is_needed),
        cmocka_unit_test(every_shape_is_checked),
        cmocka_unit_test(strangers_are_refused),
        cmocka_unit_test(types_are_checked),
        cmocka_unit_test(vectors_may_be_half),
        cmocka_unit_test(unknown_pieces_are_named),
        cmocka_unit_test(per_layer_numbers),
        cmocka_unit_test(a_flag_per_layer_equals_the_period),
        cmocka_unit_test(vocabulary_files_are_no_models),
        cmocka_unit_test(a_split_model_runs),
        cmocka_unit_test(damaged_directories_never_crash),
        cmocka_unit_test(the_description_is_right),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

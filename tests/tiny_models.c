/* tiny_models.c: see tiny_models.h.
 *
 * Weights are uniform random numbers of a spread chosen per matrix: q and k large enough that attention is far from
 * flat, the blocks' outputs about as large as the stream they are added to. The same seed gives the same model.
 */
#include "tiny_models.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "support.h"

/* Thousands of models are written and read back at once; waiting for the disk each time would be most of the test. */
int fsync(int fd)
{
    (void)fd;
    return 0;
}

const struct tiny_spec tiny_specs[] = {
    { .arch = "llama", .n_layers = 3, .n_embd = 64, .n_heads = 8, .n_kv_heads = 4, .head_dim = 8, .n_ff = 96, .n_vocab = 61,
      .n_ctx = 256, .seed = 1 },
    { .arch = "llama", .n_layers = 2, .n_embd = 48, .n_heads = 3, .n_kv_heads = 3, .head_dim = 16, .n_ff = 80, .n_vocab = 40,
      .n_ctx = 256, .is_untied = true, .has_biases = true, .rope_scaling = "linear", .rope_factor = 4, .seed = 2 },
    { .arch = "llama", .n_layers = 2, .n_embd = 64, .n_heads = 4, .n_kv_heads = 1, .head_dim = 64, .n_ff = 64, .n_vocab = 33,
      .n_ctx = 4096, .is_untied = true, .has_rope_freqs = true, .rope_base = 500000, .seed = 3 },
    { .arch = "llama", .n_layers = 2, .n_embd = 32, .n_heads = 2, .n_kv_heads = 1, .head_dim = 256, .n_ff = 40, .n_vocab = 31,
      .n_ctx = 1024, .rope_scaling = "yarn", .rope_factor = 8, .ctx_original = 128, .seed = 4 },
    { .arch = "phi3", .n_layers = 2, .n_embd = 96, .n_heads = 2, .n_kv_heads = 2, .head_dim = 48, .n_ff = 72, .n_vocab = 50,
      .n_ctx = 512, .is_untied = true, .is_fused = true, .has_long_factors = true, .rope_scaling = "longrope",
      .ctx_original = 64, .attn_factor = 1.19, .seed = 5 },
    { .arch = "phi3", .n_layers = 2, .n_embd = 64, .n_heads = 4, .n_kv_heads = 2, .head_dim = 16, .n_rot = 12, .n_ff = 64,
      .n_vocab = 50, .n_ctx = 256, .is_fused = true, .seed = 6 },
    { .arch = "qwen2", .n_layers = 3, .n_embd = 56, .n_heads = 7, .n_kv_heads = 1, .head_dim = 8, .n_ff = 100, .n_vocab = 45,
      .n_ctx = 256, .has_biases = true, .rope_base = 1e6, .seed = 7 },
    { .arch = "qwen3", .n_layers = 3, .n_embd = 40, .n_heads = 4, .n_kv_heads = 2, .head_dim = 32, .n_ff = 64, .n_vocab = 45,
      .n_ctx = 256, .rope_base = 1e6, .seed = 8 },
    { .arch = "gemma2", .n_layers = 4, .n_embd = 48, .n_heads = 4, .n_kv_heads = 2, .head_dim = 24, .n_ff = 64, .n_vocab = 50,
      .n_ctx = 256, .window = 20, .attn_cap = 8, .final_cap = 6, .seed = 9 },
    { .arch = "gemma3", .n_layers = 7, .n_embd = 48, .n_heads = 4, .n_kv_heads = 1, .head_dim = 24, .n_ff = 64, .n_vocab = 50,
      .n_ctx = 256, .window = 13, .period = 3, .rope_base = 1e6, .rope_scaling = "linear", .rope_factor = 8, .seed = 10 },
    { .arch = "opt", .n_layers = 3, .n_embd = 48, .n_heads = 6, .n_kv_heads = 6, .head_dim = 8, .n_ff = 96, .n_vocab = 47,
      .n_ctx = 200, .has_biases = true, .seed = 11 },
    { .arch = "gpt-postln", .n_layers = 3, .n_embd = 64, .n_heads = 4, .n_kv_heads = 4, .head_dim = 16, .n_ff = 96,
      .n_vocab = 47, .n_ctx = 200, .is_untied = true, .has_biases = true, .seed = 12 },
    { .arch = NULL },
};

static bool is_arch(const struct tiny *t, const char *name)
{
    return strcmp(t->spec.arch, name) == 0;
}

static bool is_gemma(const struct tiny *t)
{
    return is_arch(t, "gemma2") || is_arch(t, "gemma3");
}

static bool has_layer_norm(const struct tiny *t)
{
    return is_arch(t, "opt") || is_arch(t, "gpt-postln");
}

/* ---- keys ---- */

static struct tiny_key *key_slot(struct tiny *t, const char *key)
{
    char name[96];
    snprintf(name, sizeof name, "%s%s", key[0] == '.' ? t->spec.arch : "", key);
    for (size_t i = 0; i < t->n_keys; i++)
        if (strcmp(t->keys[i].name, name) == 0)
            return &t->keys[i];
    t->keys = realloc(t->keys, (t->n_keys + 1) * sizeof *t->keys);
    CHECK(t->keys);
    struct tiny_key *k = &t->keys[t->n_keys++];
    *k = (struct tiny_key){ .kv.kind = GGUF_U32 };
    strcpy(k->name, name);
    return k;
}

void tiny_set_u32(struct tiny *t, const char *key, uint64_t v)
{
    struct tiny_key *k = key_slot(t, key);
    k->kv.kind = v > UINT32_MAX ? GGUF_U64 : GGUF_U32;
    k->kv.v.u = v;
}

void tiny_set_f32(struct tiny *t, const char *key, double v)
{
    struct tiny_key *k = key_slot(t, key);
    k->kv.kind = GGUF_F32;
    k->kv.v.f = v;
}

void tiny_set_str(struct tiny *t, const char *key, const char *v)
{
    struct tiny_key *k = key_slot(t, key);
    k->kv.kind = GGUF_STRING;
    k->kv.v.s = (struct str){ v, strlen(v) };
}

void tiny_set_u32s(struct tiny *t, const char *key, const uint32_t *v, size_t n)
{
    struct tiny_key *k = key_slot(t, key);
    k->kv.kind = GGUF_ARRAY;
    k->kv.v.a = (struct gguf_array){ .kind = GGUF_U32, .count = n, .data = (const uint8_t *)v };
}

void tiny_set_kind(struct tiny *t, const char *key, enum gguf_kind kind)
{
    static const float numbers[] = { 1, 2 };
    struct tiny_key *k = key_slot(t, key);
    k->kv.kind = kind;
    switch (kind) {
    case GGUF_U8: case GGUF_U16: case GGUF_U32: case GGUF_U64: k->kv.v.u = 2; break;
    case GGUF_I8: case GGUF_I16: case GGUF_I32: case GGUF_I64: k->kv.v.i = 2; break;
    case GGUF_F32: case GGUF_F64: k->kv.v.f = 2; break;
    case GGUF_BOOL: k->kv.v.b = true; break;
    case GGUF_STRING: k->kv.v.s = (struct str)STR("2"); break;
    default: k->kv.v.a = (struct gguf_array){ .kind = GGUF_F32, .count = 2, .data = (const uint8_t *)numbers }; break;
    }
}

void tiny_drop_key(struct tiny *t, const char *key)
{
    struct tiny_key *k = key_slot(t, key);
    *k = t->keys[--t->n_keys];
}

/* ---- tensors ---- */

struct tiny_tensor *tiny_find(const struct tiny *t, const char *name)
{
    for (size_t i = 0; i < t->n_tensors; i++)
        if (strcmp(t->tensors[i].name, name) == 0)
            return &t->tensors[i];
    return NULL;
}

const float *tiny_layer(const struct tiny *t, size_t layer, const char *name)
{
    char full[LIMIT_GGUF_NAME_BYTES + 1];
    snprintf(full, sizeof full, "blk.%zu.%s", layer, name);
    return tiny_global(t, full);
}

const float *tiny_global(const struct tiny *t, const char *name)
{
    struct tiny_tensor *found = tiny_find(t, name);
    return found ? found->data : NULL;
}

void tiny_drop_tensor(struct tiny *t, const char *name)
{
    struct tiny_tensor *found = tiny_find(t, name);
    CHECK(found);
    free(found->data);
    memmove(found, found + 1, (size_t)(t->tensors + --t->n_tensors - found) * sizeof *found);
}

struct tiny_tensor *tiny_add_tensor(struct tiny *t, const char *name, uint64_t k, uint64_t n_rows)
{
    t->tensors = realloc(t->tensors, (t->n_tensors + 1) * sizeof *t->tensors);
    CHECK(t->tensors && strlen(name) <= LIMIT_GGUF_NAME_BYTES);
    struct tiny_tensor *new = &t->tensors[t->n_tensors++];
    *new = (struct tiny_tensor){ .n_dims = n_rows ? 2 : 1, .dims = { k, n_rows ? n_rows : 1, 1, 1 }, .type = TYPE_COUNT };
    strcpy(new->name, name);
    new->data = calloc((size_t)(k * (n_rows ? n_rows : 1)), sizeof *new->data);
    CHECK(new->data);
    return new;
}

/* Uniform in [-1, 1) times spread, plus centre. */
static void fill(struct tiny *t, struct tiny_tensor *x, double centre, double spread, uint64_t *state)
{
    for (size_t i = 0; i < x->dims[0] * x->dims[1] && !t->spec.is_blank; i++)
        x->data[i] = (float)(centre + spread * ((double)(test_random(state) >> 11) * 0x1p-52 - 1));
}

#define NO_LAYER SIZE_MAX

struct builder {
    struct tiny *t;
    uint64_t state;
    size_t layer;
};

static struct tiny_tensor *add(struct builder *b, const char *what, size_t k, size_t n_rows)
{
    char name[LIMIT_GGUF_NAME_BYTES + 1];
    if (b->layer == NO_LAYER)
        snprintf(name, sizeof name, "%s", what);
    else
        snprintf(name, sizeof name, "blk.%zu.%s", b->layer, what);
    return tiny_add_tensor(b->t, name, k, n_rows);
}

static void matrix(struct builder *b, const char *what, size_t k, size_t n_rows, double gain)
{
    fill(b->t, add(b, what, k, n_rows), 0, gain * sqrt(3.0 / (double)k), &b->state);
}

static void vector(struct builder *b, const char *what, size_t n, double centre, double spread)
{
    fill(b->t, add(b, what, n, 0), centre, spread, &b->state);
}

static void norm(struct builder *b, const char *weight, const char *bias, double centre)
{
    vector(b, weight, b->t->spec.n_embd, centre, 0.3);
    if (has_layer_norm(b->t))
        vector(b, bias, b->t->spec.n_embd, 0, 0.2);
}

static void build_layer(struct builder *b)
{
    const struct tiny_spec *s = &b->t->spec;
    size_t n = s->n_embd, nq = s->n_heads * s->head_dim, nkv = s->n_kv_heads * s->head_dim;
    norm(b, "attn_norm.weight", "attn_norm.bias", 1);
    if (s->is_fused) {
        matrix(b, "attn_qkv.weight", n, nq + 2 * nkv, 1.6);
    } else {
        matrix(b, "attn_q.weight", n, nq, 2);
        matrix(b, "attn_k.weight", n, nkv, 2);
        matrix(b, "attn_v.weight", n, nkv, 1);
    }
    matrix(b, "attn_output.weight", nq, n, 1);
    if (s->has_biases) {
        vector(b, "attn_q.bias", nq, 0, 0.5);
        vector(b, "attn_k.bias", nkv, 0, 0.5);
        vector(b, "attn_v.bias", nkv, 0, 0.5);
    }
    if (s->has_biases && !is_arch(b->t, "qwen2")) {
        vector(b, "attn_output.bias", n, 0, 0.2);
        vector(b, "ffn_up.bias", s->n_ff, 0, 0.3);
        vector(b, "ffn_down.bias", n, 0, 0.2);
    }
    if (s->has_biases && is_arch(b->t, "llama"))
        vector(b, "ffn_gate.bias", s->n_ff, 0, 0.3);
    if (is_arch(b->t, "qwen3") || is_arch(b->t, "gemma3")) {
        vector(b, "attn_q_norm.weight", s->head_dim, 1.5, 0.3);
        vector(b, "attn_k_norm.weight", s->head_dim, 1.5, 0.3);
    }
    if (is_gemma(b->t)) {
        norm(b, "post_attention_norm.weight", NULL, 1);
        norm(b, "post_ffw_norm.weight", NULL, 1);
    }
    norm(b, "ffn_norm.weight", "ffn_norm.bias", 1);
    matrix(b, "ffn_up.weight", n, is_arch(b->t, "phi3") ? 2 * s->n_ff : s->n_ff, 1.5);
    if (!is_arch(b->t, "phi3") && !has_layer_norm(b->t))
        matrix(b, "ffn_gate.weight", n, s->n_ff, 1.5);
    matrix(b, "ffn_down.weight", s->n_ff, n, 1.2);
}

static void build_tensors(struct tiny *t)
{
    const struct tiny_spec *s = &t->spec;
    struct builder b = { t, s->seed * 0x9E3779B97F4A7C15u + 1, NO_LAYER };
    size_t n_rot = s->n_rot ? s->n_rot : s->head_dim;
    matrix(&b, "token_embd.weight", s->n_embd, s->n_vocab, is_gemma(t) ? 1 : sqrt((double)s->n_embd));
    if (has_layer_norm(t))
        matrix(&b, "position_embd.weight", s->n_embd, s->n_ctx + (is_arch(t, "opt") ? 2 : 0), sqrt((double)s->n_embd));
    if (s->has_rope_freqs)
        vector(&b, "rope_freqs.weight", n_rot / 2, 4, 3);
    if (s->has_long_factors) {
        vector(&b, "rope_factors_short.weight", n_rot / 2, 1.5, 0.5);
        vector(&b, "rope_factors_long.weight", n_rot / 2, 8, 7);
    }
    for (size_t i = 0; i < s->n_layers; i++) {
        b.layer = i;
        build_layer(&b);
    }
    b.layer = NO_LAYER;
    norm(&b, "output_norm.weight", "output_norm.bias", 1);
    if (s->is_untied)
        matrix(&b, "output.weight", s->n_embd, s->n_vocab, 2);
    else if (!is_gemma(t)) /* a tied head of unit rows would give logits of sqrt(n_embd); damp them by the last norm */
        for (size_t i = 0; i < s->n_embd; i++)
            tiny_find(t, "output_norm.weight")->data[i] *= 2 / sqrtf((float)s->n_embd);
}

static void build_keys(struct tiny *t)
{
    const struct tiny_spec *s = &t->spec;
    bool has_rope = !has_layer_norm(t);
    tiny_set_str(t, "general.architecture", s->arch);
    tiny_set_str(t, "general.name", "tiny");
    tiny_set_u32(t, ".block_count", s->n_layers);
    tiny_set_u32(t, ".embedding_length", s->n_embd);
    tiny_set_u32(t, ".context_length", s->n_ctx);
    tiny_set_u32(t, ".feed_forward_length", s->n_ff);
    tiny_set_u32(t, ".attention.head_count", s->n_heads);
    tiny_set_f32(t, has_rope ? ".attention.layer_norm_rms_epsilon" : ".attention.layer_norm_epsilon", 1e-5);
    if (is_arch(t, "gpt-postln"))
        tiny_set_str(t, ".norm_position", "post");
    if (!has_rope)
        return;
    tiny_set_u32(t, ".attention.head_count_kv", s->n_kv_heads);
    tiny_set_u32(t, ".vocab_size", s->n_vocab);
    tiny_set_u32(t, ".rope.dimension_count", s->n_rot ? s->n_rot : s->head_dim);
    if (s->head_dim * s->n_heads != s->n_embd) {
        tiny_set_u32(t, ".attention.key_length", s->head_dim);
        tiny_set_u32(t, ".attention.value_length", s->head_dim);
    }
    if (s->rope_base > 0)
        tiny_set_f32(t, ".rope.freq_base", s->rope_base);
    if (s->rope_scaling)
        tiny_set_str(t, ".rope.scaling.type", s->rope_scaling);
    if (s->rope_factor > 0)
        tiny_set_f32(t, ".rope.scaling.factor", s->rope_factor);
    if (s->ctx_original)
        tiny_set_u32(t, ".rope.scaling.original_context_length", s->ctx_original);
    if (s->attn_factor > 0)
        tiny_set_f32(t, ".rope.scaling.attn_factor", s->attn_factor);
    if (s->window)
        tiny_set_u32(t, ".attention.sliding_window", s->window);
    if (s->period)
        tiny_set_u32(t, ".attention.sliding_window_pattern", s->period);
    if (s->attn_cap > 0)
        tiny_set_f32(t, ".attn_logit_softcapping", s->attn_cap);
    if (s->final_cap > 0)
        tiny_set_f32(t, ".final_logit_softcapping", s->final_cap);
}

void tiny_build(struct tiny *t, const struct tiny_spec *s)
{
    *t = (struct tiny){ .spec = *s };
    build_keys(t);
    build_tensors(t);
}

void tiny_free(struct tiny *t)
{
    for (size_t i = 0; i < t->n_tensors; i++)
        free(t->tensors[i].data);
    free(t->tensors);
    free(t->keys);
    *t = (struct tiny){ 0 };
}

/* ---- the file ---- */

static enum tensor_type type_of(const struct tiny_tensor *x, enum tensor_type type)
{
    size_t bytes;
    if (x->type != TYPE_COUNT)
        return x->type;
    if (x->n_dims == 1 || !type_row_bytes(&bytes, (uint32_t)type, (size_t)x->dims[0]))
        return TYPE_F32;
    return type;
}

static void write_tensor(struct gguf_writer *w, const struct tiny_tensor *x, enum tensor_type type, struct err *e)
{
    size_t n_rows = (size_t)(x->dims[1] * x->dims[2] * x->dims[3]), k = (size_t)x->dims[0], row_bytes = 0;
    if (type == TYPE_F32) {
        assert_ok(gguf_write_data(w, x->data, n_rows * k * sizeof(float), e), e);
        return;
    }
    CHECK(type_row_bytes(&row_bytes, (uint32_t)type, k));
    void *row = calloc(1, row_bytes);
    CHECK(row);
    for (size_t i = 0; i < n_rows; i++) {
        if (type_info((uint32_t)type)->is_readable)
            CHECK(quantize_row(row, x->data + i * k, k, type, NULL));
        assert_ok(gguf_write_data(w, row, row_bytes, e), e);
    }
    free(row);
}

void tiny_write(const struct tiny *t, const char *path, enum tensor_type type)
{
    struct gguf_writer *w;
    struct arena a;
    struct err e = { 0 };
    arena_init(&a, 0);
    unlink(path); /* replacing a file makes some file systems wait for the disk, too */
    assert_ok(gguf_writer_open(&w, path, &a, &e), &e);
    for (size_t i = 0; i < t->n_keys; i++) {
        struct gguf_kv kv = t->keys[i].kv;
        kv.key = (struct str){ t->keys[i].name, strlen(t->keys[i].name) };
        gguf_put_kv(w, &kv);
    }
    for (size_t i = 0; i < t->n_tensors; i++) {
        const struct tiny_tensor *x = &t->tensors[i];
        gguf_put_tensor(w, (struct str){ x->name, strlen(x->name) }, type_of(x, type), x->n_dims, x->dims);
    }
    assert_ok(gguf_begin_data(w, &e), &e);
    for (size_t i = 0; i < t->n_tensors; i++)
        write_tensor(w, &t->tensors[i], type_of(&t->tensors[i], type), &e);
    assert_ok(gguf_writer_commit(w, &e), &e);
    arena_free(&a);
}

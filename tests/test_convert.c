/* test_convert.c: checkpoints to GGUF. Each architecture gets a small folder of made-up numbers here, written out with
 * names and transformations that this file states independently of the converter's tables; every value of the output is
 * compared. Then the trained models, and what must be refused.
 */
#define _DEFAULT_SOURCE
#include "support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "context/context.h"
#include "quantize/quantize.h"

/* support.h's paths live in eight slots; folders need theirs longer. 64 at a time. */
static const char *keep(const char *path)
{
    static char paths[64][512];
    static unsigned i;
    char *p = paths[i++ % 64];
    CHECK(snprintf(p, 512, "%s", path) < 512);
    return p;
}
static const char *scratch(const char *name)
{
    return keep(scratch_path(name));
}

/* ---- made-up folders ---- */

enum { E = 64, HEADS = 4, KV = 2, HD = 16, FF = 96, VOCAB = 48, CTX = 128 };
enum how { AS_IS, PLUS_ONE, WOVEN_Q, WOVEN_K };

/* One tensor: its name in the source (%d: layer), in the GGUF, its shape there, and what happens to it. */
struct row {
    const char *source, *gguf;
    int rows, cols; /* rows 0: a vector */
    enum how how;
};

struct folder {
    const char *arch, *config; /* the architecture's own part of config.json */
    const struct row *rows;
    int n_layers;
    bool untied;
};

#define LLAMA_LIKE(how_q, how_k)                                                              \
    { "model.embed_tokens.weight", "token_embd.weight", VOCAB, E, AS_IS },                    \
    { "model.norm.weight", "output_norm.weight", 0, E, AS_IS },                               \
    { "model.layers.%d.input_layernorm.weight", "blk.%d.attn_norm.weight", 0, E, AS_IS },     \
    { "model.layers.%d.post_attention_layernorm.weight", "blk.%d.ffn_norm.weight", 0, E, AS_IS }, \
    { "model.layers.%d.self_attn.q_proj.weight", "blk.%d.attn_q.weight", HEADS * HD, E, how_q },  \
    { "model.layers.%d.self_attn.k_proj.weight", "blk.%d.attn_k.weight", KV * HD, E, how_k }, \
    { "model.layers.%d.self_attn.v_proj.weight", "blk.%d.attn_v.weight", KV * HD, E, AS_IS }, \
    { "model.layers.%d.self_attn.o_proj.weight", "blk.%d.attn_output.weight", E, HEADS * HD, AS_IS }, \
    { "model.layers.%d.mlp.gate_proj.weight", "blk.%d.ffn_gate.weight", FF, E, AS_IS },       \
    { "model.layers.%d.mlp.up_proj.weight", "blk.%d.ffn_up.weight", FF, E, AS_IS },           \
    { "model.layers.%d.mlp.down_proj.weight", "blk.%d.ffn_down.weight", E, FF, AS_IS }

static const struct row llama_rows[] = { LLAMA_LIKE(WOVEN_Q, WOVEN_K), { "lm_head.weight", "output.weight", VOCAB, E, AS_IS }, { 0 } };
static const struct row llama_tied_rows[] = {
    LLAMA_LIKE(WOVEN_Q, WOVEN_K),
    { "model.layers.%d.self_attn.q_proj.bias", "blk.%d.attn_q.bias", 0, HEADS * HD, WOVEN_Q },
    { "model.layers.%d.self_attn.k_proj.bias", "blk.%d.attn_k.bias", 0, KV * HD, WOVEN_K },
    { "model.layers.%d.self_attn.v_proj.bias", "blk.%d.attn_v.bias", 0, KV * HD, AS_IS },
    { "model.layers.%d.self_attn.o_proj.bias", "blk.%d.attn_output.bias", 0, E, AS_IS },
    { 0 },
};
static const struct row qwen2_rows[] = {
    LLAMA_LIKE(AS_IS, AS_IS),
    { "model.layers.%d.self_attn.q_proj.bias", "blk.%d.attn_q.bias", 0, HEADS * HD, AS_IS },
    { "model.layers.%d.self_attn.k_proj.bias", "blk.%d.attn_k.bias", 0, KV * HD, AS_IS },
    { "model.layers.%d.self_attn.v_proj.bias", "blk.%d.attn_v.bias", 0, KV * HD, AS_IS },
    { 0 },
};
static const struct row qwen3_rows[] = {
    LLAMA_LIKE(AS_IS, AS_IS),
    { "model.layers.%d.self_attn.q_norm.weight", "blk.%d.attn_q_norm.weight", 0, HD, AS_IS },
    { "model.layers.%d.self_attn.k_norm.weight", "blk.%d.attn_k_norm.weight", 0, HD, AS_IS },
    { "lm_head.weight", "output.weight", VOCAB, E, AS_IS },
    { 0 },
};
static const struct row phi3_rows[] = {
    { "model.embed_tokens.weight", "token_embd.weight", VOCAB, E, AS_IS },
    { "model.norm.weight", "output_norm.weight", 0, E, AS_IS },
    { "lm_head.weight", "output.weight", VOCAB, E, AS_IS },
    { "model.layers.%d.input_layernorm.weight", "blk.%d.attn_norm.weight", 0, E, AS_IS },
    { "model.layers.%d.post_attention_layernorm.weight", "blk.%d.ffn_norm.weight", 0, E, AS_IS },
    { "model.layers.%d.self_attn.qkv_proj.weight", "blk.%d.attn_qkv.weight", (HEADS + 2 * KV) * HD, E, AS_IS },
    { "model.layers.%d.self_attn.o_proj.weight", "blk.%d.attn_output.weight", E, HEADS * HD, AS_IS },
    { "model.layers.%d.mlp.gate_up_proj.weight", "blk.%d.ffn_up.weight", 2 * FF, E, AS_IS },
    { "model.layers.%d.mlp.down_proj.weight", "blk.%d.ffn_down.weight", E, FF, AS_IS },
    { 0 },
};
#define GEMMA_LIKE                                                                                     \
    { "model.embed_tokens.weight", "token_embd.weight", VOCAB, E, AS_IS },                             \
    { "model.norm.weight", "output_norm.weight", 0, E, PLUS_ONE },                                     \
    { "model.layers.%d.input_layernorm.weight", "blk.%d.attn_norm.weight", 0, E, PLUS_ONE },           \
    { "model.layers.%d.post_attention_layernorm.weight", "blk.%d.post_attention_norm.weight", 0, E, PLUS_ONE }, \
    { "model.layers.%d.pre_feedforward_layernorm.weight", "blk.%d.ffn_norm.weight", 0, E, PLUS_ONE },  \
    { "model.layers.%d.post_feedforward_layernorm.weight", "blk.%d.post_ffw_norm.weight", 0, E, PLUS_ONE }, \
    { "model.layers.%d.self_attn.q_proj.weight", "blk.%d.attn_q.weight", HEADS * HD, E, AS_IS },       \
    { "model.layers.%d.self_attn.k_proj.weight", "blk.%d.attn_k.weight", KV * HD, E, AS_IS },          \
    { "model.layers.%d.self_attn.v_proj.weight", "blk.%d.attn_v.weight", KV * HD, E, AS_IS },          \
    { "model.layers.%d.self_attn.o_proj.weight", "blk.%d.attn_output.weight", E, HEADS * HD, AS_IS },  \
    { "model.layers.%d.mlp.gate_proj.weight", "blk.%d.ffn_gate.weight", FF, E, AS_IS },                \
    { "model.layers.%d.mlp.up_proj.weight", "blk.%d.ffn_up.weight", FF, E, AS_IS },                    \
    { "model.layers.%d.mlp.down_proj.weight", "blk.%d.ffn_down.weight", E, FF, AS_IS }
static const struct row gemma2_rows[] = { GEMMA_LIKE, { 0 } };
static const struct row gemma3_rows[] = {
    GEMMA_LIKE,
    { "model.layers.%d.self_attn.q_norm.weight", "blk.%d.attn_q_norm.weight", 0, HD, PLUS_ONE },
    { "model.layers.%d.self_attn.k_norm.weight", "blk.%d.attn_k_norm.weight", 0, HD, PLUS_ONE },
    { 0 },
};
static const struct row opt_rows[] = {
    { "model.decoder.embed_tokens.weight", "token_embd.weight", VOCAB, E, AS_IS },
    { "model.decoder.embed_positions.weight", "position_embd.weight", CTX + 2, E, AS_IS },
    { "model.decoder.final_layer_norm.weight", "output_norm.weight", 0, E, AS_IS },
    { "model.decoder.final_layer_norm.bias", "output_norm.bias", 0, E, AS_IS },
    { "model.decoder.layers.%d.self_attn_layer_norm.weight", "blk.%d.attn_norm.weight", 0, E, AS_IS },
    { "model.decoder.layers.%d.self_attn_layer_norm.bias", "blk.%d.attn_norm.bias", 0, E, AS_IS },
    { "model.decoder.layers.%d.self_attn.q_proj.weight", "blk.%d.attn_q.weight", E, E, AS_IS },
    { "model.decoder.layers.%d.self_attn.q_proj.bias", "blk.%d.attn_q.bias", 0, E, AS_IS },
    { "model.decoder.layers.%d.self_attn.k_proj.weight", "blk.%d.attn_k.weight", E, E, AS_IS },
    { "model.decoder.layers.%d.self_attn.k_proj.bias", "blk.%d.attn_k.bias", 0, E, AS_IS },
    { "model.decoder.layers.%d.self_attn.v_proj.weight", "blk.%d.attn_v.weight", E, E, AS_IS },
    { "model.decoder.layers.%d.self_attn.v_proj.bias", "blk.%d.attn_v.bias", 0, E, AS_IS },
    { "model.decoder.layers.%d.self_attn.out_proj.weight", "blk.%d.attn_output.weight", E, E, AS_IS },
    { "model.decoder.layers.%d.self_attn.out_proj.bias", "blk.%d.attn_output.bias", 0, E, AS_IS },
    { "model.decoder.layers.%d.final_layer_norm.weight", "blk.%d.ffn_norm.weight", 0, E, AS_IS },
    { "model.decoder.layers.%d.final_layer_norm.bias", "blk.%d.ffn_norm.bias", 0, E, AS_IS },
    { "model.decoder.layers.%d.fc1.weight", "blk.%d.ffn_up.weight", FF, E, AS_IS },
    { "model.decoder.layers.%d.fc1.bias", "blk.%d.ffn_up.bias", 0, FF, AS_IS },
    { "model.decoder.layers.%d.fc2.weight", "blk.%d.ffn_down.weight", E, FF, AS_IS },
    { "model.decoder.layers.%d.fc2.bias", "blk.%d.ffn_down.bias", 0, E, AS_IS },
    { 0 },
};

#define COMMON "\"hidden_size\":64,\"num_attention_heads\":4,\"vocab_size\":48,\"max_position_embeddings\":128,"
#define GATED COMMON "\"num_key_value_heads\":2,\"intermediate_size\":96,\"rms_norm_eps\":1e-5,"
#define FACTORS "[1.0,1.5,2.0,3.0,5.0,8.0,13.0,21.0]"

static const struct folder folders[] = {
    { "LlamaForCausalLM", GATED "\"tie_word_embeddings\":false,\"rope_theta\":500000.0,\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8.0,"
      "\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,\"original_max_position_embeddings\":64}", llama_rows, 2, true },
    { "LlamaForCausalLM", GATED "\"tie_word_embeddings\":true,\"attention_bias\":true,\"rope_scaling\":{\"type\":\"linear\",\"factor\":2.0}",
      llama_tied_rows, 2, false },
    { "MistralForCausalLM", GATED "\"tie_word_embeddings\":false,\"sliding_window\":null,\"head_dim\":16", llama_rows, 2, true },
    { "Phi3ForCausalLM", GATED "\"tie_word_embeddings\":false,\"original_max_position_embeddings\":32,\"sliding_window\":77,"
      "\"rope_scaling\":{\"type\":\"longrope\",\"long_factor\":" FACTORS ",\"short_factor\":[1,1,1,1,1,1,1.1,1.2]}", phi3_rows, 2, true },
    { "Qwen2ForCausalLM", GATED "\"tie_word_embeddings\":true,\"rope_theta\":1000000.0,\"use_sliding_window\":false,\"sliding_window\":32768",
      qwen2_rows, 2, false },
    { "Qwen3ForCausalLM", GATED "\"tie_word_embeddings\":false,\"head_dim\":16,\"rope_theta\":1000000,\"attention_bias\":false", qwen3_rows, 2, true },
    { "Gemma2ForCausalLM", GATED "\"head_dim\":16,\"query_pre_attn_scalar\":16,\"sliding_window\":24,\"hidden_activation\":\"gelu_pytorch_tanh\","
      "\"attn_logit_softcapping\":40.0,\"final_logit_softcapping\":20.0", gemma2_rows, 2, false },
    { "Gemma3ForCausalLM", GATED "\"head_dim\":16,\"query_pre_attn_scalar\":16,\"sliding_window\":24,\"rope_local_base_freq\":10000.0,"
      "\"rope_theta\":1000000.0", gemma3_rows, 6, false },
    { "OPTForCausalLM", COMMON "\"ffn_dim\":96,\"do_layer_norm_before\":true,\"word_embed_proj_dim\":64,\"activation_function\":\"relu\"", opt_rows, 2,
      false },
};
enum { LLAMA3 = 0, LLAMA_TIED = 1, MISTRAL = 2, PHI3 = 3, QWEN2 = 4, QWEN3 = 5, GEMMA2 = 6, GEMMA3 = 7, OPT = 8 };

/* Value i of the source tensor of that name: any formula will do that differs between names and places. */
static float value(const char *name, size_t i)
{
    uint64_t h = 1469598103934665603u;
    for (; *name; name++)
        h = (h ^ (uint8_t)*name) * 1099511628211u;
    h = (h ^ i) * 0x9e3779b97f4a7c15u;
    return (float)((int64_t)(h >> 56) - 128) / 256.0f; /* exact in F16 and BF16 too */
}

struct writer {
    struct buf header, data;
    enum tensor_type type;
    const char *omit, *extra; /* omit this tensor; add one of this name */
    const char *strip;        /* drop this prefix of the names */
    const char *spoil;        /* the last value of this one becomes `with` */
    float with;
};

static void put_value(struct writer *w, float v, enum tensor_type type)
{
    union { float f; uint32_t u; } f = { v };
    union { double d; uint64_t u; } d = { (double)v };
    uint16_t half = type == TYPE_F16 ? float_to_half(v) : float_to_bf16(v);
    if (type == TYPE_F32)
        buf_append(&w->data, &f.u, 4);
    else if (type == TYPE_F64)
        buf_append(&w->data, &d.u, 8);
    else
        buf_append(&w->data, &half, 2);
}

static void put_source(struct writer *w, const char *name, int rows, int cols)
{
    static const char *const names[] = { [TYPE_F32] = "F32", [TYPE_F16] = "F16", [TYPE_BF16] = "BF16", [TYPE_F64] = "F64" };
    size_t begin = w->data.len, n = (size_t)MAX(rows, 1) * (size_t)cols;
    if (w->omit && strcmp(w->omit, name) == 0)
        return;
    const char *stored = w->strip && strncmp(name, w->strip, strlen(w->strip)) == 0 ? name + strlen(w->strip) : name;
    for (size_t i = 0; i < n; i++)
        put_value(w, w->spoil && strcmp(w->spoil, name) == 0 && i == n - 1 ? w->with : value(name, i), w->type);
    buf_printf(&w->header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", w->header.len ? "," : "{", stored, names[w->type]);
    if (rows)
        buf_printf(&w->header, "%d,", rows);
    buf_printf(&w->header, "%d],\"data_offsets\":[%zu,%zu]}", cols, begin, w->data.len);
}

static void save(struct writer *w, const char *path)
{
    struct buf all;
    buf_init(&all, 0);
    buf_append(&w->header, "}", 1);
    uint64_t n = w->header.len;
    for (int i = 0; i < 8; i++) {
        uint8_t byte = (uint8_t)(n >> (8 * i));
        buf_append(&all, &byte, 1);
    }
    buf_append(&all, w->header.data, w->header.len);
    buf_append(&all, w->data.data, w->data.len);
    write_file(path, all.data, all.len);
    buf_free(&all);
    buf_free(&w->header);
    buf_free(&w->data);
}

static const char *in(const char *dir, const char *name)
{
    static char path[1200];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static void put_layers(struct writer *w, const struct row *r, int n_layers)
{
    char name[128];
    bool per_layer = strstr(r->source, "%d");
    for (int i = 0; i < (per_layer ? n_layers : 1); i++) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        snprintf(name, sizeof name, r->source, i);
#pragma GCC diagnostic pop
        put_source(w, name, r->rows, r->cols);
    }
}

static void write_vocab(const char *dir)
{
    struct buf v;
    buf_init(&v, 0);
    buf_append(&v, "[", 1);
    for (int i = 0; i < 40; i++) /* fewer than VOCAB: the rest is padded */
        buf_printf(&v, "%s\"%c\"", i ? "," : "", 'A' + i == '\\' ? '~' : 'A' + i);
    buf_append(&v, "]", 1);
    write_file(in(dir, "vocab.json"), v.data, v.len);
    buf_free(&v);
}

/* Writes folder f with the writer's peculiarities; config_more is appended to config.json and wins over nothing: JSON
 * with a key twice is refused, so tests replace a part of the text instead. */
static const char *write_folder(const struct folder *f, struct writer w, const char *replace, const char *by)
{
    static int serial;
    char name[32], config[4096], *at;
    snprintf(name, sizeof name, "folder-%d", serial++);
    const char *dir = scratch(name);
    CHECK(mkdir(dir, 0700) == 0);
    snprintf(config, sizeof config, "{\"architectures\":[\"%s\"],\"num_hidden_layers\":%d,%s}", f->arch, f->n_layers, f->config);
    if (replace) {
        char copy[4096];
        memcpy(copy, config, sizeof copy);
        CHECK((at = strstr(copy, replace)));
        snprintf(config, sizeof config, "%.*s%s%s", (int)(at - copy), copy, by, at + strlen(replace));
    }
    write_file(in(dir, "config.json"), config, strlen(config));
    buf_init(&w.header, 0);
    buf_init(&w.data, 0);
    for (const struct row *r = f->rows; r->source; r++)
        put_layers(&w, r, f->n_layers);
    put_source(&w, "model.layers.0.self_attn.rotary_emb.inv_freq", 0, HD / 2); /* always harmless */
    if (w.extra)
        put_source(&w, w.extra, 0, 4);
    save(&w, in(dir, "model.safetensors"));
    write_vocab(dir);
    return dir;
}

/* ---- reading back ---- */

struct opened {
    struct arena arena;
    struct gguf gguf;
    struct err err;
};

static void open_gguf(struct opened *o, const char *path)
{
    *o = (struct opened){ 0 };
    arena_init(&o->arena, 0);
    assert_ok(gguf_open(&o->gguf, path, &o->arena, &o->err), &o->err);
}

static void close_gguf(struct opened *o)
{
    gguf_close(&o->gguf);
    arena_free(&o->arena);
}

static void convert(const char *source, const char *out, enum tensor_type type, const char *tokenizer)
{
    struct err e = { 0 };
    const struct convert_options o = { .type = type, .tokenizer = tokenizer };
    assert_ok(convert_model(source, out, &o, (struct progress){ 0 }, &e), &e);
}

static float *values_of(struct opened *o, const char *name, size_t *n)
{
    const struct gguf_tensor *t = gguf_find_tensor(&o->gguf, name);
    if (!t)
        fail_msg("no tensor %s", name);
    *n = (size_t)(t->dims[0] * t->dims[1]);
    uint8_t *raw = malloc(t->size_bytes);
    float *v = malloc(*n * sizeof *v);
    assert_true(raw && v);
    assert_ok(file_read(&o->gguf.files[t->i_file], raw, t->size_bytes, t->offset, &o->err), &o->err);
    kernels_by_name("ref")->dequant_row[t->type](v, raw, *n);
    free(raw);
    return v;
}

/* Where value (row, col) of the output comes from, in the source's own order. */
static size_t origin(const struct row *r, size_t row, size_t col, size_t cols)
{
    size_t unit = r->rows ? cols : 1, k = r->rows ? row : col;
    if (r->how == WOVEN_Q || r->how == WOVEN_K) {
        size_t head = k / HD, d = k % HD; /* pair d/2, member d%2: the source keeps members HD/2 apart */
        k = head * HD + (d % 2 == 0 ? d / 2 : HD / 2 + d / 2);
    }
    return r->rows ? k * unit + col : k;
}

static void check_tensor(struct opened *o, const struct row *r, int layer, enum tensor_type matrices)
{
    char source[128], name[128];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    snprintf(source, sizeof source, r->source, layer);
    snprintf(name, sizeof name, r->gguf, layer);
#pragma GCC diagnostic pop
    size_t n = 0, cols = (size_t)r->cols, rows = (size_t)MAX(r->rows, 1);
    float *v = values_of(o, name, &n);
    const struct gguf_tensor *t = gguf_find_tensor(&o->gguf, name);
    assert_true(t->n_dims == (r->rows ? 2u : 1u) && t->dims[0] == cols && t->dims[1] == rows);
    assert_int_equal(t->type, r->rows && strcmp(name, "position_embd.weight") != 0 ? matrices : TYPE_F32);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < cols; j++) {
            float want = value(source, origin(r, i, j, cols)) + (r->how == PLUS_ONE ? 1.0f : 0.0f);
            float tolerance = matrices == TYPE_Q8_0 && r->rows ? 0.004f : 0;
            if (!(fabsf(v[i * cols + j] - want) <= tolerance))
                fail_msg("%s[%zu][%zu] is %g, not %g", name, i, j, (double)v[i * cols + j], (double)want);
        }
    free(v);
}

static void check_folder(const struct folder *f, const char *out, enum tensor_type matrices)
{
    struct opened o;
    size_t n = 0;
    open_gguf(&o, out);
    for (const struct row *r = f->rows; r->source; r++)
        for (int i = 0; i < (strstr(r->source, "%d") ? f->n_layers : 1); i++, n++)
            check_tensor(&o, r, i, matrices);
    n += gguf_find_tensor(&o.gguf, "rope_freqs.weight") ? 1 : 0;
    n += gguf_find_tensor(&o.gguf, "rope_factors_long.weight") ? 2 : 0;
    assert_int_equal(o.gguf.n_tensors, n);
    assert_true(!gguf_find_tensor(&o.gguf, "output.weight") == !f->untied);
    close_gguf(&o);
}

/* The file must also run: finite logits that differ from token to token. */
static void check_runs(const char *path)
{
    struct opened o;
    struct engine *en;
    struct context *c;
    static const int32_t ids[] = { 3, 7, 1, 39, 20 };
    const struct engine_options options = { .n_threads = 1, .max_batch = 32, .kv_type = KV_F32 };
    open_gguf(&o, path);
    assert_ok(engine_open(&en, &o.gguf, &options, &o.err), &o.err);
    assert_int_equal(engine_info(en)->n_vocab, VOCAB);
    assert_ok(context_open(&c, en, 64, &o.err), &o.err);
    assert_ok(context_sync(c, ids, ARRAY_LEN(ids), NULL, NULL, NULL, NULL, &o.err), &o.err);
    float *logits = context_logits(c), spread = 0;
    for (size_t i = 0; i < VOCAB; i++) {
        assert_true(isfinite(logits[i]));
        spread = MAX(spread, fabsf(logits[i] - logits[0]));
    }
    assert_true(spread > 0.01f);
    context_close(c);
    engine_close(en);
    close_gguf(&o);
}

static void every_architecture_converts(void **state)
{
    const char *out = scratch("arch.gguf");
    for (size_t i = 0; i < ARRAY_LEN(folders); i++) {
        const char *dir = write_folder(&folders[i], (struct writer){ .type = TYPE_F32 }, NULL, NULL);
        convert(dir, out, TYPE_COUNT, NULL);
        check_folder(&folders[i], out, TYPE_F32);
        check_runs(out);
    }
}

/* Checkpoints of the bare model lack "model."; OPT's lack that or more. */
static void prefixes_may_be_absent(void **state)
{
    const char *out = scratch("prefix.gguf");
    convert(write_folder(&folders[LLAMA3], (struct writer){ .type = TYPE_F16, .strip = "model." }, NULL, NULL), out, TYPE_COUNT, NULL);
    check_folder(&folders[LLAMA3], out, TYPE_F16);
    convert(write_folder(&folders[OPT], (struct writer){ .type = TYPE_F16, .strip = "model." }, NULL, NULL), out, TYPE_COUNT, NULL);
    check_folder(&folders[OPT], out, TYPE_F16);
    convert(write_folder(&folders[OPT], (struct writer){ .type = TYPE_F16, .strip = "model.decoder." }, NULL, NULL), out, TYPE_COUNT, NULL);
    check_folder(&folders[OPT], out, TYPE_F16);
}

/* The embedding and every second tensor behind it in another file. */
static void shards_are_joined(void **state)
{
    const struct folder *f = &folders[QWEN3];
    const char *dir = write_folder(f, (struct writer){ .type = TYPE_BF16 }, NULL, NULL), *out = scratch("shards.gguf");
    struct writer w[2] = { { .type = TYPE_BF16 }, { .type = TYPE_BF16 } };
    struct buf index;
    size_t n = 0;
    char name[128];
    CHECK(remove(in(dir, "model.safetensors")) == 0);
    buf_init(&index, 0);
    buf_printf(&index, "{\"metadata\":{},\"weight_map\":{");
    for (int k = 0; k < 2; k++) {
        buf_init(&w[k].header, 0);
        buf_init(&w[k].data, 0);
    }
    for (const struct row *r = f->rows; r->source; r++)
        for (int i = 0; i < (strstr(r->source, "%d") ? f->n_layers : 1); i++, n++) {
            const char *at = strstr(r->source, "%d");
            if (at)
                snprintf(name, sizeof name, "%.*s%d%s", (int)(at - r->source), r->source, i, at + 2);
            else
                snprintf(name, sizeof name, "%s", r->source);
            put_source(&w[n % 2], name, r->rows, r->cols);
            buf_printf(&index, "%s\"%s\":\"part-%zu.safetensors\"", n ? "," : "", name, n % 2);
        }
    buf_printf(&index, "}}");
    save(&w[0], in(dir, "part-0.safetensors"));
    save(&w[1], in(dir, "part-1.safetensors"));
    write_file(in(dir, "model.safetensors.index.json"), index.data, index.len);
    buf_free(&index);
    convert(dir, out, TYPE_COUNT, NULL);
    check_folder(f, out, TYPE_BF16);
}

static void every_source_type_is_read(void **state)
{
    static const enum tensor_type types[] = { TYPE_F16, TYPE_BF16, TYPE_F64 };
    const char *out = scratch("types.gguf");
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        const char *dir = write_folder(&folders[GEMMA2], (struct writer){ .type = types[i] }, NULL, NULL);
        convert(dir, out, TYPE_COUNT, NULL);
        check_folder(&folders[GEMMA2], out, types[i] == TYPE_F64 ? TYPE_F32 : types[i]);
        convert(dir, out, TYPE_F32, NULL);
        check_folder(&folders[GEMMA2], out, TYPE_F32);
        convert(dir, out, TYPE_F16, NULL);
        check_folder(&folders[GEMMA2], out, TYPE_F16);
        check_runs(out);
        convert(dir, out, TYPE_Q8_0, NULL);
        check_folder(&folders[GEMMA2], out, TYPE_Q8_0);
    }
}

/* ---- keys ---- */

static void has_u32(struct opened *o, const char *key, uint64_t want)
{
    uint64_t v = 0;
    if (gguf_get_u64(&o->gguf, key, 0, UINT64_MAX, &v, &o->err) != HEARTH_OK || v != want)
        fail_msg("%s is %llu, not %llu", key, (unsigned long long)v, (unsigned long long)want);
}
static void has_f32(struct opened *o, const char *key, double want)
{
    double v = NAN;
    if (gguf_get_f64(&o->gguf, key, &v, &o->err) != HEARTH_OK || !(fabs(v - want) <= 1e-6 * fabs(want)))
        fail_msg("%s is %g, not %g", key, v, want);
}
static void has_str(struct opened *o, const char *key, const char *want)
{
    struct str v = { "", 0 };
    if (gguf_get_str(&o->gguf, key, &v, &o->err) != HEARTH_OK || !str_eqz(v, want))
        fail_msg("%s is %.*s, not %s", key, STR_FMT(v), want);
}
static void has_not(struct opened *o, const char *key)
{
    if (gguf_find(&o->gguf, key))
        fail_msg("%s is there", key);
}

static void convert_folder(struct opened *o, size_t i)
{
    const char *out = scratch("keys.gguf");
    convert(write_folder(&folders[i], (struct writer){ .type = TYPE_BF16 }, NULL, NULL), out, TYPE_COUNT, NULL);
    open_gguf(o, out);
}

static void keys_are_those_of_gguf(void **state)
{
    struct opened o;
    size_t n = 0;
    convert_folder(&o, LLAMA3);
    has_str(&o, "general.architecture", "llama");
    has_str(&o, "general.type", "model");
    has_u32(&o, "general.file_type", 32);
    has_u32(&o, "llama.context_length", CTX);
    has_u32(&o, "llama.embedding_length", E);
    has_u32(&o, "llama.block_count", 2);
    has_u32(&o, "llama.feed_forward_length", FF);
    has_u32(&o, "llama.attention.head_count", HEADS);
    has_u32(&o, "llama.attention.head_count_kv", KV);
    has_u32(&o, "llama.rope.dimension_count", HD);
    has_u32(&o, "llama.vocab_size", VOCAB);
    has_f32(&o, "llama.rope.freq_base", 500000);
    has_f32(&o, "llama.attention.layer_norm_rms_epsilon", 1e-5);
    has_not(&o, "llama.rope.scaling.type");
    float *f = values_of(&o, "rope_freqs.weight", &n);
    assert_int_equal(n, HD / 2);
    /* Waves of 2 pi b^(i/8): those below 64/4 are kept, those above 64 divided by 8, and pair 1 lies between. */
    double wave1 = 6.283185307179586 * pow(500000, 1.0 / 8), smooth = (64 / wave1 - 1) / 3;
    assert_true(f[0] == 1.0f && f[2] == 8.0f && f[7] == 8.0f && fabs((double)f[1] - 1 / ((1 - smooth) / 8 + smooth)) < 1e-5);
    free(f);
    close_gguf(&o);

    convert_folder(&o, LLAMA_TIED);
    has_str(&o, "llama.rope.scaling.type", "linear");
    has_f32(&o, "llama.rope.scaling.factor", 2);
    has_f32(&o, "llama.rope.freq_base", 10000);
    close_gguf(&o);

    convert_folder(&o, PHI3);
    has_u32(&o, "phi3.rope.scaling.original_context_length", 32);
    has_f32(&o, "phi3.rope.scaling.attn_factor", sqrt(1 + log(4.0) / log(32.0)));
    has_u32(&o, "phi3.attention.sliding_window", 77);
    has_u32(&o, "phi3.rope.dimension_count", HD);
    f = values_of(&o, "rope_factors_long.weight", &n);
    assert_true(n == 8 && f[0] == 1.0f && f[1] == 1.5f && f[7] == 21.0f);
    free(f);
    f = values_of(&o, "rope_factors_short.weight", &n);
    assert_true(n == 8 && f[6] == 1.1f);
    free(f);
    close_gguf(&o);

    convert_folder(&o, QWEN2);
    has_not(&o, "qwen2.attention.sliding_window");
    has_f32(&o, "qwen2.rope.freq_base", 1000000);
    close_gguf(&o);

    convert_folder(&o, QWEN3);
    has_u32(&o, "qwen3.attention.key_length", HD);
    has_u32(&o, "qwen3.attention.value_length", HD);
    close_gguf(&o);

    convert_folder(&o, GEMMA2);
    has_u32(&o, "gemma2.attention.sliding_window", 24);
    has_u32(&o, "gemma2.attention.key_length", HD);
    has_f32(&o, "gemma2.attn_logit_softcapping", 40);
    has_f32(&o, "gemma2.final_logit_softcapping", 20);
    close_gguf(&o);

    convert_folder(&o, GEMMA3);
    has_u32(&o, "gemma3.attention.sliding_window", 24);
    has_f32(&o, "gemma3.rope.freq_base", 1000000);
    has_not(&o, "gemma3.attn_logit_softcapping");
    close_gguf(&o);

    convert_folder(&o, OPT);
    has_f32(&o, "opt.attention.layer_norm_epsilon", 1e-5);
    has_u32(&o, "opt.context_length", CTX);
    has_not(&o, "opt.rope.freq_base");
    close_gguf(&o);
}

static void vocabulary_and_template_come_along(void **state)
{
    struct opened o;
    struct vocab v;
    static const char text[] = "{% for m in messages %}{{ m['content'] }}{% endfor %}";
    const char *dir = write_folder(&folders[QWEN2], (struct writer){ .type = TYPE_F16 }, "\"tie_word_embeddings\":true",
                                   "\"tie_word_embeddings\":true,\"bos_token_id\":5,\"eos_token_id\":[6,7]");
    const char *out = scratch("vocab.gguf");
    write_file(in(dir, "chat_template.jinja"), text, strlen(text));
    convert(dir, out, TYPE_COUNT, NULL);
    open_gguf(&o, out);
    has_str(&o, "tokenizer.chat_template", text);
    assert_ok(vocab_from_gguf(&v, &o.gguf, &o.arena, &o.err), &o.err);
    assert_int_equal(v.n_tokens, VOCAB);
    assert_true(v.kind == VOCAB_CHAR && str_eqz(v.tokens[2].text, "C") && str_eqz(v.tokens[47].text, "[PAD47]"));
    assert_true(v.bos == 5 && v.eos == 6);
    close_gguf(&o);
}

/* ---- what must be refused, with its name ---- */

static void refuse(const char *source, const struct convert_options *o, enum hearth_status status, const char *says)
{
    struct err e = { 0 };
    const char *out = scratch_path("refused.gguf");
    enum hearth_status st = convert_model(source, out, o, (struct progress){ 0 }, &e);
    if (st != status || !strstr(e.text, says))
        fail_msg("%s: \"%s\" should be %s and name \"%s\"", hearth_status_name(st), e.text, hearth_status_name(status), says);
    assert_int_not_equal(access(out, F_OK), 0);
}

static void tensors_must_match_exactly(void **state)
{
    const struct convert_options o = { .type = TYPE_F16 };
    static const char *const gone[] = { "model.layers.1.mlp.up_proj.weight", "model.norm.weight", "model.embed_tokens.weight", "lm_head.weight" };
    for (size_t i = 0; i < ARRAY_LEN(gone); i++)
        refuse(write_folder(&folders[LLAMA3], (struct writer){ .type = TYPE_F32, .omit = gone[i] }, NULL, NULL), &o, HEARTH_EDAMAGED, gone[i]);
    refuse(write_folder(&folders[QWEN2], (struct writer){ .type = TYPE_F32, .omit = "model.layers.0.self_attn.k_proj.bias" }, NULL, NULL), &o,
           HEARTH_EDAMAGED, "model.layers.0.self_attn.k_proj.bias");
    static const char *const extra[] = { "model.layers.2.mlp.up_proj.weight", "model.layers.0.self_attn.q_norm.weight", "surprise" };
    for (size_t i = 0; i < ARRAY_LEN(extra); i++)
        refuse(write_folder(&folders[LLAMA3], (struct writer){ .type = TYPE_F32, .extra = extra[i] }, NULL, NULL), &o, HEARTH_EUNSUPPORTED, extra[i]);
    refuse(write_folder(&folders[LLAMA3], (struct writer){ .type = TYPE_BF16, .spoil = "model.layers.1.mlp.down_proj.weight", .with = NAN }, NULL, NULL), &o,
           HEARTH_EDAMAGED, "model.layers.1.mlp.down_proj.weight");
    refuse(write_folder(&folders[LLAMA3], (struct writer){ .type = TYPE_F32, .spoil = "lm_head.weight", .with = 70000 }, NULL, NULL), &o,
           HEARTH_EUNSUPPORTED, "lm_head.weight holds 70000");
    refuse(write_folder(&folders[LLAMA3], (struct writer){ .type = TYPE_F32 }, "\"intermediate_size\":96", "\"intermediate_size\":100"), &o,
           HEARTH_EDAMAGED, "mlp.gate_proj.weight");
}

static void configurations_are_not_ignored(void **state)
{
    static const struct { int folder; const char *replace, *by, *says; enum hearth_status status; } cases[] = {
        { LLAMA3, "LlamaForCausalLM", "BloomForCausalLM", "BloomForCausalLM", HEARTH_EUNSUPPORTED },
        { LLAMA3, "[\"LlamaForCausalLM\"]", "[]", "architectures", HEARTH_EDAMAGED },
        { LLAMA3, "\"hidden_size\":64,", "", "hidden_size", HEARTH_EDAMAGED },
        { LLAMA3, "\"hidden_size\":64", "\"hidden_size\":-64", "hidden_size", HEARTH_EDAMAGED },
        { LLAMA3, "\"hidden_size\":64", "\"hidden_size\":1e300", "hidden_size", HEARTH_EDAMAGED },
        { LLAMA3, "\"hidden_size\":64", "\"hidden_size\":9223372036854775807", "hidden_size", HEARTH_EDAMAGED },
        { LLAMA3, "\"num_attention_heads\":4", "\"num_attention_heads\":5", "num_attention_heads", HEARTH_EDAMAGED },
        { LLAMA3, "\"num_key_value_heads\":2", "\"num_key_value_heads\":3", "cannot share", HEARTH_EINVAL },
        { LLAMA3, "\"llama3\"", "\"dynamic\"", "dynamic", HEARTH_EUNSUPPORTED },
        { LLAMA3, "\"high_freq_factor\":4.0", "\"high_freq_factor\":1.0", "high_freq_factor", HEARTH_EDAMAGED },
        { LLAMA3, "\"rms_norm_eps\":1e-5", "\"rms_norm_eps\":\"tiny\"", "rms_norm_eps", HEARTH_EDAMAGED },
        { LLAMA3, "\"rms_norm_eps\":1e-5", "\"rms_norm_eps\":1e-5,\"hidden_act\":\"gelu\"", "gelu", HEARTH_EUNSUPPORTED },
        { LLAMA3, "\"rms_norm_eps\":1e-5", "\"rms_norm_eps\":1e-5,\"quantization_config\":{\"bits\":4}", "quantization_config", HEARTH_EUNSUPPORTED },
        { LLAMA3, "\"rms_norm_eps\":1e-5", "\"rms_norm_eps\":1e-5,\"partial_rotary_factor\":0.5", "partial_rotary_factor", HEARTH_EUNSUPPORTED },
        { LLAMA3, "\"rms_norm_eps\":1e-5", "\"rms_norm_eps\":1e-5,\"rope_interleaved\":true", "rope_interleaved", HEARTH_EUNSUPPORTED },
        { PHI3, FACTORS, "[1,2,3]", "long_factor", HEARTH_EDAMAGED },
        { PHI3, FACTORS, "[1,2,3,4,5,6,7,0]", "long_factor", HEARTH_EDAMAGED },
        { QWEN2, "\"use_sliding_window\":false", "\"use_sliding_window\":true", "use_sliding_window", HEARTH_EUNSUPPORTED },
        { GEMMA2, "\"query_pre_attn_scalar\":16", "\"query_pre_attn_scalar\":32", "query_pre_attn_scalar", HEARTH_EUNSUPPORTED },
        { GEMMA2, "\"gelu_pytorch_tanh\"", "\"silu\"", "hidden_activation", HEARTH_EUNSUPPORTED },
        { GEMMA2, "\"sliding_window\":24,", "", "sliding_window", HEARTH_EDAMAGED },
        { GEMMA3, "\"sliding_window\":24", "\"sliding_window\":24,\"sliding_window_pattern\":4", "6th", HEARTH_EUNSUPPORTED },
        { OPT, "\"word_embed_proj_dim\":64", "\"word_embed_proj_dim\":32", "word_embed_proj_dim", HEARTH_EUNSUPPORTED },
        { OPT, "\"do_layer_norm_before\":true", "\"do_layer_norm_before\":false", "do_layer_norm_before", HEARTH_EUNSUPPORTED },
        { OPT, "\"activation_function\":\"relu\"", "\"activation_function\":\"gelu\"", "activation_function", HEARTH_EUNSUPPORTED },
    };
    const struct convert_options o = { .type = TYPE_F16 };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        refuse(write_folder(&folders[cases[i].folder], (struct writer){ .type = TYPE_F16 }, cases[i].replace, cases[i].by), &o, cases[i].status,
               cases[i].says);
}

static void sources_that_are_none(void **state)
{
    const struct convert_options o = { .type = TYPE_F16 }, k = { .type = TYPE_Q4_K };
    const char *empty = scratch("empty-folder"), *gguf = scratch("already.gguf"), *few = scratch("few.bin");
    CHECK(mkdir(empty, 0700) == 0);
    refuse(empty, &o, HEARTH_ENOTFOUND, "config.json");
    refuse(scratch("nowhere"), &o, HEARTH_ENOTFOUND, "nowhere");
    write_file(gguf, "GGUF....", 8);
    refuse(gguf, &o, HEARTH_EINVAL, "GGUF file already");
    write_file(few, "1234", 4);
    refuse(few, &o, HEARTH_EDAMAGED, "few.bin");
    refuse(few, &k, HEARTH_EINVAL, "Q4_K");
}

/* ---- llama2.c ---- */

static const char *stories_source(const char *name)
{
    char path[64];
    snprintf(path, sizeof path, "models/stories260K/%s", name);
    return keep(data_path(path));
}

static void stories_convert(void **state)
{
    struct opened o;
    size_t n = 0;
    need_data("models/stories260K/stories260K.bin");
    const char *out = scratch("stories.gguf");
    convert(stories_source("stories260K.bin"), out, TYPE_COUNT, stories_source("tok512.bin"));
    open_gguf(&o, out);
    has_u32(&o, "llama.embedding_length", 64);
    has_u32(&o, "llama.feed_forward_length", 172);
    has_u32(&o, "llama.block_count", 5);
    has_u32(&o, "llama.attention.head_count", 8);
    has_u32(&o, "llama.attention.head_count_kv", 4);
    has_u32(&o, "llama.context_length", 512);
    has_u32(&o, "llama.vocab_size", 512);
    has_str(&o, "general.name", "stories260K");
    assert_int_equal(o.gguf.n_tensors, 2 + 5 * 9); /* tied */
    assert_null(gguf_find_tensor(&o.gguf, "output.weight"));

    /* Independent offsets: embedding, 5 attention norms, then q of layer 0 ... */
    FILE *f = fopen(stories_source("stories260K.bin"), "rb");
    float file[64];
    size_t at[] = { 28, 28 + 4 * (512 * 64), 28 + 4 * (512 * 64 + 5 * 64 + 3 * 64 * 64) };
    const char *names[] = { "token_embd.weight", "blk.0.attn_norm.weight", "blk.3.attn_q.weight" };
    for (size_t i = 0; i < ARRAY_LEN(at); i++) {
        float *v = values_of(&o, names[i], &n);
        CHECK(f && fseek(f, (long)at[i], SEEK_SET) == 0 && fread(file, 4, 64, f) == 64);
        assert_memory_equal(file, v, sizeof file);
        free(v);
    }
    fclose(f);
    close_gguf(&o);
}

/* Largest difference and root mean square of a tensor in two files. */
static void compare(struct opened *a, struct opened *b, const char *name, double *rms, double *worst)
{
    size_t n = 0, m = 0;
    float *x = values_of(a, name, &n), *y = values_of(b, name, &m);
    double sum = 0, w = 0;
    assert_int_equal(n, m);
    for (size_t i = 0; i < n; i++) {
        sum += (double)x[i] * (double)x[i];
        w = MAX(w, fabs((double)x[i] - (double)y[i]));
    }
    *rms = sqrt(sum / (double)n);
    *worst = w;
    free(x);
    free(y);
}

static void int8_checkpoints_are_the_same_model(void **state)
{
    struct opened a, b;
    need_data("models/stories260K/stories260K-q80.bin");
    const char *plain = scratch("plain.gguf"), *int8 = scratch("int8.gguf");
    convert(stories_source("stories260K.bin"), plain, TYPE_F32, stories_source("tok512.bin"));
    convert(stories_source("stories260K-q80.bin"), int8, TYPE_COUNT, stories_source("tok512.bin"));
    open_gguf(&a, plain);
    open_gguf(&b, int8);
    assert_int_equal(a.gguf.n_tensors, b.gguf.n_tensors);
    for (size_t i = 0; i < a.gguf.n_tensors; i++) {
        char name[80];
        double rms, worst;
        snprintf(name, sizeof name, "%.*s", STR_FMT(a.gguf.tensors[i].name));
        assert_int_equal(gguf_find_tensor(&b.gguf, name)->type, TYPE_F32);
        compare(&a, &b, name, &rms, &worst);
        if (!(worst < 0.05 * rms)) /* half a step of a group's largest value / 127 */
            fail_msg("%s: differs by %g where values are %g", name, worst, rms);
    }
    close_gguf(&a);
    close_gguf(&b);
}

static void checkpoints_of_any_other_length_are_refused(void **state)
{
    const struct convert_options o = { .type = TYPE_F16, .tokenizer = stories_source("tok512.bin") };
    static const char *const names[] = { "stories260K.bin", "stories260K-q80.bin" };
    need_data("models/stories260K/stories260K.bin");
    for (size_t k = 0; k < ARRAY_LEN(names); k++) {
        struct arena a;
        struct err e = { 0 };
        char *all = NULL;
        size_t n = 0, n_cases = 0;
        const char *cut = scratch("cut.bin");
        arena_init(&a, 0);
        assert_ok(file_read_all(&all, &n, stories_source(names[k]), 16 * MIB, &a, &e), &e);
        for (size_t len = 0; len < n; len += len < 300 ? 7 : len < n - 9 ? MIN(n / 23 + 1, n - 5 - len) : 1) {
            write_file(cut, all, len);
            refuse(cut, &o, HEARTH_EDAMAGED, "cut.bin");
            n_cases++;
        }
        char *longer = malloc(n + 1);
        CHECK(longer);
        memcpy(longer, all, n);
        longer[n] = 0;
        write_file(cut, longer, n + 1);
        refuse(cut, &o, HEARTH_EDAMAGED, "the file has");
        free(longer);
        assert_true(n_cases > 40);
        arena_free(&a);
    }
}

/* Each header number replaced by hostile ones: an error that names the file, whatever it is, and no crash. */
static void hostile_headers_are_refused(void **state)
{
    static const uint32_t values[] = { 0, 1, 0x7fffffff, 0x80000000u, 0xffffffffu, 65536, 3 };
    const struct convert_options o = { .type = TYPE_F16, .tokenizer = stories_source("tok512.bin") };
    static const struct { const char *name; size_t first, n; } files[] = { { "stories260K.bin", 0, 7 }, { "stories260K-q80.bin", 4, 7 } }; /* the last number, seq_len, shows in the size of version 0 only */
    need_data("models/stories260K/stories260K.bin");
    const char *source = scratch("hostile.bin"), *out = scratch("hostile.gguf");
    for (size_t k = 0; k < ARRAY_LEN(files); k++) {
        struct arena a;
        struct err e = { 0 };
        char *all = NULL;
        size_t n = 0;
        arena_init(&a, 0);
        assert_ok(file_read_all(&all, &n, stories_source(files[k].name), 16 * MIB, &a, &e), &e);
        for (size_t field = 0; field < files[k].n; field++)
            for (size_t v = 0; v < ARRAY_LEN(values); v++) {
                char saved[4], *at = all + files[k].first + 4 * field;
                memcpy(saved, at, 4);
                for (int b = 0; b < 4; b++)
                    at[b] = (char)(values[v] >> (8 * b));
                write_file(source, all, n);
                e = (struct err){ 0 };
                if (convert_model(source, out, &o, (struct progress){ 0 }, &e) == HEARTH_OK)
                    fail_msg("field %zu = %u is accepted", field, values[v]);
                assert_non_null(strstr(e.text, "hostile.bin"));
                memcpy(at, saved, 4);
            }
        arena_free(&a);
    }
}

static void a_vocabulary_is_needed(void **state)
{
    const struct convert_options o = { .type = TYPE_F16 };
    need_data("models/stories260K/stories260K.bin");
    refuse(stories_source("stories260K.bin"), &o, HEARTH_ENOTFOUND, "--tokenizer");
}

/* ---- the trained folders ---- */

static void tinystories_converts(void **state)
{
    struct opened o;
    struct vocab v;
    need_data("models/tinystories-656k/model.safetensors");
    const char *out = scratch("tinystories.gguf");
    convert(data_path("models/tinystories-656k"), out, TYPE_COUNT, NULL);
    open_gguf(&o, out);
    has_str(&o, "general.name", "tinystories-656k");
    has_u32(&o, "llama.embedding_length", 128);
    has_u32(&o, "llama.vocab_size", 2048);
    assert_non_null(gguf_find_tensor(&o.gguf, "token_embd.weight")); /* from lm_head.weight: tied */
    assert_null(gguf_find_tensor(&o.gguf, "output.weight"));
    assert_int_equal(o.gguf.n_tensors, 2 + 2 * 9);
    assert_ok(vocab_from_gguf(&v, &o.gguf, &o.arena, &o.err), &o.err);
    assert_true(v.n_tokens == 2048 && v.bos == 1 && v.eos == 2);
    close_gguf(&o);
}

static void tinychat_converts(void **state)
{
    struct opened o;
    struct vocab v;
    struct template *t;
    struct rendered r;
    need_data("models/tinychat-relu/model.safetensors");
    const char *out = scratch("tinychat.gguf");
    convert(data_path("models/tinychat-relu"), out, TYPE_COUNT, NULL);
    open_gguf(&o, out);
    has_str(&o, "general.architecture", "gpt-postln");
    has_str(&o, "gpt-postln.norm_position", "post");
    has_u32(&o, "gpt-postln.context_length", 128);
    has_u32(&o, "gpt-postln.attention.head_count", 4);
    has_f32(&o, "gpt-postln.attention.layer_norm_epsilon", 1e-5);
    assert_int_equal(o.gguf.n_tensors, 5 + 3 * 16);
    assert_ok(vocab_from_gguf(&v, &o.gguf, &o.arena, &o.err), &o.err);
    assert_true(v.kind == VOCAB_CHAR && v.n_tokens == 59 && str_eqz(v.tokens[10].text, "A"));

    assert_ok(template_compile(&t, v.chat_template.p, v.chat_template.n, "tinychat", &o.arena, &o.err), &o.err);
    json_t *messages = json_loads("[{\"role\":\"user\",\"content\":\"Hello!\"},{\"role\":\"assistant\",\"content\":\"Hi\"},"
                                  "{\"role\":\"user\",\"content\":\"Bye\"}]", 0, NULL);
    rendered_init(&r);
    assert_ok(chat_render(t, &(struct chat_options){ .messages = messages, .add_generation_prompt = true }, &r, &o.err), &o.err);
    assert_string_equal(r.text.data, "<|user|>Hello!<|bot|>Hi<|end|><|user|>Bye<|bot|>");
    rendered_free(&r);
    json_decref(messages);
    close_gguf(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_architecture_converts),
        cmocka_unit_test(prefixes_may_be_absent),
        cmocka_unit_test(shards_are_joined),
        cmocka_unit_test(every_source_type_is_read),
        cmocka_unit_test(keys_are_those_of_gguf),
        cmocka_unit_test(vocabulary_and_template_come_along),
        cmocka_unit_test(tensors_must_match_exactly),
        cmocka_unit_test(configurations_are_not_ignored),
        cmocka_unit_test(sources_that_are_none),
        cmocka_unit_test(stories_convert),
        cmocka_unit_test(int8_checkpoints_are_the_same_model),
        cmocka_unit_test(checkpoints_of_any_other_length_are_refused),
        cmocka_unit_test(hostile_headers_are_refused),
        cmocka_unit_test(a_vocabulary_is_needed),
        cmocka_unit_test(tinystories_converts),
        cmocka_unit_test(tinychat_converts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

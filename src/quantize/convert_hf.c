/* convert_hf.c: a Hugging Face folder to a struct conversion.
 *
 *   config.json        numbers of the model -> struct model_shape
 *   *.safetensors      weights; every tensor must find a row of the architecture's table, every row its tensor
 *   tokenizer.*        the vocabulary (vocab_from_files); chat_template.jinja wins over tokenizer_config.json
 *
 * The folder `architecture: gpt-postln` of small trained decoders describes itself with its own keys; the rest of the
 * way is the same.
 *
 * What the source says and hearth's forward pass cannot do is refused by the name of the key: an unknown activation, a
 * rope scaling, an attention scale, layer patterns. A configuration that is silently ignored would give a model that
 * runs and is wrong. The one exception is Mistral's old sliding window, which GGUF's llama never had: a warning.
 *
 * Knowingly skipped tensors: precomputed rotary tables, causal mask buffers, and a copy of the embedding as the head of
 * a tied model. All else that no rule names is an error.
 *
 * Facts: config.json as the transformers library defines it, per architecture; GGUF's names as in shapes.c.
 */
#include "convert.h"

#include <math.h>
#include <string.h>

#define LIMIT_CONFIG_BYTES (4 * MIB)
#define LIMIT_CHAT_TEMPLATE_FILE LIMIT_TEMPLATE_BYTES

/* ---- config.json: getters with one sticky error, so that reading it is a straight line ---- */

struct config {
    json_t *root;   /* owned */
    const char *path;
    enum hearth_status st;
    struct err *e;
};

#define cfg_fail(c, status, ...)                                    \
    ((c)->st == HEARTH_OK ? (void)((c)->st = err_set((c)->e, (status), __VA_ARGS__)) : (void)0)

static json_t *present(json_t *obj, const char *key)
{
    json_t *v = json_object_get(obj, key);
    return json_is_null(v) ? NULL : v;
}

/* An integer in [1, hi]; fallback when absent, SIZE_MAX meaning that it must be there. */
static size_t cfg_size(struct config *c, const char *key, size_t hi, size_t fallback)
{
    json_t *v = present(c->root, key);
    if (!v && fallback != SIZE_MAX)
        return fallback;
    if (!v)
        cfg_fail(c, HEARTH_EDAMAGED, "%s: no %s", c->path, key);
    else if (!json_is_integer(v) || json_integer_value(v) < 1 || (json_int_t)hi < json_integer_value(v))
        cfg_fail(c, HEARTH_EDAMAGED, "%s: %s is no whole number between 1 and %zu", c->path, key, hi);
    else
        return (size_t)json_integer_value(v);
    return 1;
}

static double number_in(struct config *c, json_t *obj, const char *key, double fallback)
{
    json_t *v = present(obj, key);
    if (!v && !isnan(fallback))
        return fallback;
    if (!v || !json_is_number(v) || !isfinite(json_number_value(v)))
        cfg_fail(c, HEARTH_EDAMAGED, "%s: %s is %s", c->path, key, v ? "no number" : "missing");
    else
        return json_number_value(v);
    return 1;
}

static bool cfg_bool(struct config *c, const char *key, bool fallback)
{
    json_t *v = present(c->root, key);
    if (v && !json_is_boolean(v))
        cfg_fail(c, HEARTH_EDAMAGED, "%s: %s is neither true nor false", c->path, key);
    return v ? json_is_true(v) : fallback;
}

static const char *cfg_str(struct config *c, const char *key, const char *fallback)
{
    json_t *v = present(c->root, key);
    if (v && !json_is_string(v))
        cfg_fail(c, HEARTH_EDAMAGED, "%s: %s is no text", c->path, key);
    return json_is_string(v) ? json_string_value(v) : fallback;
}

static void cfg_must_be(struct config *c, const char *key, const char *value, const char *allowed)
{
    if (strcmp(value, allowed) != 0)
        cfg_fail(c, HEARTH_EUNSUPPORTED, "%s: %s is \"%.60s\"; this architecture is supported with \"%s\" only", c->path, key, value, allowed);
}

static void cfg_must_be_bool(struct config *c, const char *key, bool value)
{
    if (cfg_bool(c, key, value) != value)
        cfg_fail(c, HEARTH_EUNSUPPORTED, "%s: %s is %s, which is not supported", c->path, key, value ? "false" : "true");
}

static enum hearth_status config_open(struct config *c, struct conversion *v, struct err *e)
{
    char *text = NULL, *path = NULL;
    size_t n = 0, len = strlen(v->source) + sizeof "/config.json";
    *c = (struct config){ .e = e };
    if (!(path = ARENA_NEW(v->arena, char, len)))
        return err_set(e, HEARTH_ENOMEM, "%s: no memory", v->source);
    snprintf(path, len, "%s/config.json", v->source);
    c->path = path;
    if ((c->st = file_read_all(&text, &n, path, LIMIT_CONFIG_BYTES, v->arena, e)) != HEARTH_OK ||
        (c->st = json_parse(&c->root, text, n, path, e)) != HEARTH_OK)
        return c->st;
    if (!json_is_object(c->root))
        cfg_fail(c, HEARTH_EDAMAGED, "%s: not an object", path);
    return c->st;
}

/* ---- rope ---- */

/* transformers 4 says rope_scaling {type or rope_type} beside rope_theta; 5 says rope_parameters, which gemma3 has once
 * per kind of layer. */
static json_t *rope_object(struct config *c)
{
    json_t *params = present(c->root, "rope_parameters");
    json_t *full = json_is_object(params) ? present(params, "full_attention") : NULL;
    if (!params)
        params = present(c->root, "rope_scaling");
    if (params && !json_is_object(params))
        cfg_fail(c, HEARTH_EDAMAGED, "%s: rope_scaling is no object", c->path);
    return json_is_object(full) ? full : json_is_object(params) ? params : NULL;
}

static const float *factor_array(struct config *c, struct arena *a, json_t *rope, const char *key, size_t n)
{
    json_t *v = present(rope, key);
    if (!json_is_array(v) || json_array_size(v) != n) {
        cfg_fail(c, HEARTH_EDAMAGED, "%s: rope_scaling.%s should hold %zu numbers", c->path, key, n);
        return NULL;
    }
    float *out = ARENA_NEW(a, float, n);
    if (!out)
        cfg_fail(c, HEARTH_ENOMEM, "%s: no memory", c->path);
    for (size_t i = 0; out && i < n; i++) {
        double d = json_number_value(json_array_get(v, i));
        if (!(d > 0 && d < 1e9))
            cfg_fail(c, HEARTH_EDAMAGED, "%s: rope_scaling.%s[%zu] is no positive number", c->path, key, i);
        out[i] = (float)d;
    }
    return out;
}

static void read_longrope(struct config *c, struct model_shape *s, json_t *rope, const char *kind, struct arena *a)
{
    if (strcmp(s->arch->name, "phi3") != 0) {
        cfg_fail(c, HEARTH_EUNSUPPORTED, "%s: rope_scaling of kind \"%s\" is supported for phi3 only", c->path, kind);
        return;
    }
    s->rope = ROPE_LONG;
    s->rope_long = factor_array(c, a, rope, "long_factor", s->rope_dim / 2);
    s->rope_short = factor_array(c, a, rope, "short_factor", s->rope_dim / 2);
    double stretch = (double)s->n_ctx / (double)s->rope_orig_ctx;
    s->rope_attn_factor = strcmp(kind, "yarn") == 0 ? (stretch > 1 ? 0.1 * log(stretch) + 1 : 1)
                                                    : shape_longrope_attn_factor(s->n_ctx, s->rope_orig_ctx);
}

static size_t original_context(struct config *c, json_t *rope, size_t fallback)
{
    double d = rope ? number_in(c, rope, "original_max_position_embeddings", 0) : 0;
    if (d == 0)
        return cfg_size(c, "original_max_position_embeddings", LIMIT_CONTEXT, fallback);
    if (!(d >= 2 && d <= LIMIT_CONTEXT))
        cfg_fail(c, HEARTH_EDAMAGED, "%s: original_max_position_embeddings is %g", c->path, d);
    return c->st == HEARTH_OK ? (size_t)d : 2;
}

static void read_rope(struct config *c, struct model_shape *s, struct arena *a)
{
    json_t *rope = rope_object(c), *params = present(c->root, "rope_parameters");
    s->rope = ROPE_PLAIN;
    double base = strcmp(s->arch->name, "gemma3") == 0 ? 1e6 : 10000;
    base = number_in(c, c->root, "rope_theta", base);
    s->rope_base = params && rope ? number_in(c, rope, "rope_theta", base) : base;
    if (strcmp(s->arch->name, "phi3") == 0)
        s->rope_orig_ctx = original_context(c, rope, MIN(s->n_ctx, 4096u));
    if (!rope || c->st != HEARTH_OK)
        return;
    json_t *kind_json = present(rope, "rope_type") ? present(rope, "rope_type") : present(rope, "type");
    const char *kind = json_is_string(kind_json) ? json_string_value(kind_json) : "default";
    if (strcmp(kind, "default") == 0)
        return;
    if (strcmp(kind, "longrope") == 0 || strcmp(kind, "su") == 0 || (strcmp(kind, "yarn") == 0 && present(rope, "long_factor"))) {
        read_longrope(c, s, rope, kind, a);
    } else if (strcmp(kind, "llama3") == 0 && strcmp(s->arch->name, "llama") == 0) {
        s->rope = ROPE_LLAMA3;
        s->rope_factor = number_in(c, rope, "factor", 8);
        s->rope_low = number_in(c, rope, "low_freq_factor", 1);
        s->rope_high = number_in(c, rope, "high_freq_factor", 4);
        s->rope_orig_ctx = original_context(c, rope, 8192);
        if (!(s->rope_factor >= 1 && s->rope_low > 0 && s->rope_high > s->rope_low))
            cfg_fail(c, HEARTH_EDAMAGED, "%s: rope_scaling's factor, low_freq_factor and high_freq_factor contradict each other", c->path);
    } else if (strcmp(kind, "linear") == 0 || strcmp(kind, "yarn") == 0) {
        s->rope = strcmp(kind, "linear") == 0 ? ROPE_LINEAR : ROPE_YARN;
        s->rope_factor = number_in(c, rope, "factor", (double)NAN);
        if (s->rope == ROPE_YARN)
            s->rope_orig_ctx = original_context(c, rope, s->n_ctx);
        if (!(s->rope_factor >= 1))
            cfg_fail(c, HEARTH_EDAMAGED, "%s: rope_scaling.factor is below 1", c->path);
    } else {
        cfg_fail(c, HEARTH_EUNSUPPORTED, "%s: rope_scaling of kind \"%.40s\" is not supported for %s", c->path, kind, s->arch->name);
    }
}

/* ---- numbers, per architecture ---- */

/* Every n-th layer attends globally, which is all that GGUF's gemmas can say. */
static void check_layer_types(struct config *c, const struct model_shape *s)
{
    json_t *types = present(c->root, "layer_types");
    size_t period = cfg_size(c, "sliding_window_pattern", LIMIT_LAYERS, s->arch->window_period);
    bool same = period == s->arch->window_period && (!types || json_array_size(types) == s->n_layers);
    for (size_t i = 0; same && i < json_array_size(types); i++) {
        const char *t = json_string_value(json_array_get(types, i));
        bool is_global = (i + 1) % period == 0;
        same = t && strcmp(t, is_global ? "full_attention" : "sliding_attention") == 0;
    }
    if (!same)
        cfg_fail(c, HEARTH_EUNSUPPORTED, "%s: only every layer but each %zuth with a sliding window is supported", c->path, s->arch->window_period);
}

static void read_gemma(struct config *c, struct model_shape *s)
{
    bool is_2 = strcmp(s->arch->name, "gemma2") == 0;
    /* transformers overrides the old files' "gelu" by the tanh form unless hidden_activation says otherwise. */
    cfg_must_be(c, "hidden_activation", cfg_str(c, "hidden_activation", "gelu_pytorch_tanh"), "gelu_pytorch_tanh");
    s->window = cfg_size(c, "sliding_window", LIMIT_CONTEXT, SIZE_MAX);
    s->attn_softcap = number_in(c, c->root, "attn_logit_softcapping", is_2 ? 50 : 0);
    s->final_softcap = number_in(c, c->root, "final_logit_softcapping", is_2 ? 30 : 0);
    if (s->attn_softcap < 0 || s->final_softcap < 0 || (!is_2 && s->attn_softcap > 0))
        cfg_fail(c, HEARTH_EUNSUPPORTED, "%s: attn_logit_softcapping %g and final_logit_softcapping %g are not supported for %s", c->path,
                 s->attn_softcap, s->final_softcap, s->arch->name);
    /* GGUF cannot say the attention scale: readers take 1/sqrt(head), or of n_embd / n_heads for the 27B models. */
    bool is_27b = s->n_layers == (is_2 ? 46u : 62u);
    double scale = number_in(c, c->root, "query_pre_attn_scalar", 256);
    if (scale != (double)(is_27b ? s->n_embd / s->n_heads : s->head_dim))
        cfg_fail(c, HEARTH_EUNSUPPORTED, "%s: query_pre_attn_scalar is %g where the head size is %zu", c->path, scale, s->head_dim);
    if (!is_2) {
        json_t *params = present(c->root, "rope_parameters"), *local = params ? present(params, "sliding_attention") : NULL;
        s->rope_base_local = local ? number_in(c, local, "rope_theta", 10000) : number_in(c, c->root, "rope_local_base_freq", 10000);
        cfg_must_be_bool(c, "use_bidirectional_attention", false);
    }
    check_layer_types(c, s);
}

static void read_opt(struct config *c, struct model_shape *s)
{
    size_t proj = cfg_size(c, "word_embed_proj_dim", LIMIT_EMBD, s->n_embd);
    if (proj != s->n_embd)
        cfg_fail(c, HEARTH_EUNSUPPORTED, "%s: word_embed_proj_dim %zu differs from hidden_size %zu, which is not supported", c->path, proj, s->n_embd);
    cfg_must_be_bool(c, "do_layer_norm_before", true);
    cfg_must_be_bool(c, "_remove_final_layer_norm", false);
    cfg_must_be_bool(c, "enable_bias", true);
    cfg_must_be_bool(c, "layer_norm_elementwise_affine", true);
    cfg_must_be(c, "activation_function", cfg_str(c, "activation_function", "relu"), "relu");
    s->norm_eps = 1e-5;
    s->rope = ROPE_NONE;
}

static void read_numbers(struct config *c, struct model_shape *s, struct arena *a)
{
    const char *arch = s->arch->name;
    bool is_opt = strcmp(arch, "opt") == 0, is_gemma = strncmp(arch, "gemma", 5) == 0, is_gemma3 = strcmp(arch, "gemma3") == 0;
    s->n_layers = cfg_size(c, "num_hidden_layers", LIMIT_LAYERS, SIZE_MAX);
    s->n_embd = cfg_size(c, "hidden_size", LIMIT_EMBD, SIZE_MAX);
    s->n_heads = cfg_size(c, "num_attention_heads", LIMIT_HEADS, SIZE_MAX);
    s->n_kv_heads = is_opt ? s->n_heads : cfg_size(c, "num_key_value_heads", LIMIT_HEADS, is_gemma3 ? 4 : s->n_heads);
    bool says_head = present(c->root, "head_dim") || is_gemma;
    s->head_dim = says_head ? cfg_size(c, "head_dim", LIMIT_HEAD_DIM, 256) : strcmp(arch, "qwen3") == 0 ? 128 : s->n_embd / s->n_heads;
    if (!says_head && s->head_dim * s->n_heads != s->n_embd && strcmp(arch, "qwen3") != 0)
        cfg_fail(c, HEARTH_EDAMAGED, "%s: hidden_size %zu is no multiple of num_attention_heads %zu", c->path, s->n_embd, s->n_heads);
    s->n_ff = cfg_size(c, is_opt ? "ffn_dim" : "intermediate_size", LIMIT_FF, SIZE_MAX);
    s->n_vocab = cfg_size(c, "vocab_size", LIMIT_VOCAB, SIZE_MAX);
    s->n_ctx = cfg_size(c, "max_position_embeddings", LIMIT_CONTEXT, is_gemma3 ? 131072 : SIZE_MAX);
    s->tied = s->arch->always_tied || cfg_bool(c, "tie_word_embeddings", is_opt);
    s->rope_dim = s->head_dim;
    if (is_opt) {
        read_opt(c, s);
        return;
    }
    s->norm_eps = number_in(c, c->root, "rms_norm_eps", 1e-6);
    double partial = number_in(c, c->root, "partial_rotary_factor", 1);
    if (partial != 1 && strcmp(arch, "phi3") == 0 && partial > 0 && partial < 1)
        s->rope_dim = (size_t)(partial * (double)s->n_embd) / s->n_heads;
    else if (partial != 1)
        cfg_fail(c, HEARTH_EUNSUPPORTED, "%s: partial_rotary_factor %g is not supported for %s", c->path, partial, arch);
    read_rope(c, s, a);
    if (is_gemma)
        read_gemma(c, s);
    else
        cfg_must_be(c, "hidden_act", cfg_str(c, "hidden_act", "silu"), "silu");
    if (strcmp(arch, "phi3") == 0)
        s->window = present(c->root, "sliding_window") ? cfg_size(c, "sliding_window", LIMIT_CONTEXT, 0) : 0;
    if (strncmp(arch, "qwen", 4) == 0) {
        cfg_must_be_bool(c, "use_sliding_window", false);
        if (strcmp(arch, "qwen3") == 0)
            cfg_must_be_bool(c, "attention_bias", false);
    }
    if (strcmp(arch, "llama") == 0)
        cfg_must_be_bool(c, "rope_interleaved", false); /* would need the rows as they are */
    if (strcmp(arch, "llama") == 0 && present(c->root, "sliding_window") && cfg_size(c, "sliding_window", LIMIT_CONTEXT, 1) < s->n_ctx)
        log_line(LOG_WARN, "%s: sliding_window is not kept: GGUF's llama attends to everything", c->path);
}

/* The folder that describes itself with "architecture": its own key names. */
static void read_postln(struct config *c, struct model_shape *s)
{
    s->n_layers = cfg_size(c, "n_layers", LIMIT_LAYERS, SIZE_MAX);
    s->n_embd = cfg_size(c, "d_model", LIMIT_EMBD, SIZE_MAX);
    s->n_heads = s->n_kv_heads = cfg_size(c, "n_heads", LIMIT_HEADS, SIZE_MAX);
    s->head_dim = cfg_size(c, "head_dim", LIMIT_HEAD_DIM, s->n_embd / s->n_heads);
    s->n_ff = cfg_size(c, "d_ff", LIMIT_FF, SIZE_MAX);
    s->n_vocab = cfg_size(c, "vocab_size", LIMIT_VOCAB, SIZE_MAX);
    s->n_ctx = cfg_size(c, "max_positions", LIMIT_CONTEXT, SIZE_MAX);
    s->tied = cfg_bool(c, "tied_embeddings", false);
    s->norm_eps = number_in(c, c->root, "norm_eps", 1e-5);
    s->rope_dim = s->head_dim;
    cfg_must_be(c, "activation", cfg_str(c, "activation", "relu"), "relu");
    cfg_must_be(c, "attention_scale", cfg_str(c, "attention_scale", "1/sqrt(head_dim)"), "1/sqrt(head_dim)");
    cfg_must_be_bool(c, "head_bias", false);
}

static const struct { const char *source, *arch; } known[] = {
    { "LlamaForCausalLM", "llama" },   { "MistralForCausalLM", "llama" }, { "Phi3ForCausalLM", "phi3" },
    { "Qwen2ForCausalLM", "qwen2" },   { "Qwen3ForCausalLM", "qwen3" },   { "Gemma2ForCausalLM", "gemma2" },
    { "Gemma3ForCausalLM", "gemma3" }, { "OPTForCausalLM", "opt" },
};

static void read_arch(struct config *c, struct model_shape *s, struct arena *a)
{
    json_t *own = present(c->root, "architecture"), *list = present(c->root, "architectures");
    const char *name = json_is_string(own) ? json_string_value(own) : json_string_value(json_array_get(list, 0));
    if (!name) {
        cfg_fail(c, HEARTH_EDAMAGED, "%s: no architectures", c->path);
        return;
    }
    if (strcmp(name, "gpt-postln") == 0)
        s->arch = arch_by_name(name);
    for (size_t i = 0; i < ARRAY_LEN(known) && !s->arch; i++)
        if (strcmp(name, known[i].source) == 0)
            s->arch = arch_by_name(known[i].arch);
    if (!s->arch)
        cfg_fail(c, HEARTH_EUNSUPPORTED,
                 "%s: the architecture %.80s is not supported (Llama, Mistral, Phi3, Qwen2, Qwen3, Gemma2, Gemma3, OPT ForCausalLM are)",
                 c->path, name);
    else if (present(c->root, "quantization_config"))
        cfg_fail(c, HEARTH_EUNSUPPORTED, "%s: the weights are quantised (quantization_config); convert takes F32, F16, BF16 and F64", c->path);
    else if (strcmp(name, "gpt-postln") == 0)
        read_postln(c, s);
    else
        read_numbers(c, s, a);
}

/* ---- tensors ---- */

struct matcher {
    struct conversion *c;
    bool *used;
    struct err *e;
};

/* The source's tensor by "prefix + name", or by name alone where checkpoints of the bare model drop the prefix. */
static const struct st_tensor *find(const struct matcher *m, const char *name, char full[192])
{
    const char *prefix = m->c->shape.arch->source_prefix;
    snprintf(full, 192, "%s%s", prefix, name);
    const struct st_tensor *t = st_find(&m->c->safetensors, full);
    for (const char *p = prefix; !t && *p; p = strchr(p, '.') + 1) {
        char shorter[192];
        snprintf(shorter, sizeof shorter, "%s%s", strchr(p, '.') + 1, name);
        t = st_find(&m->c->safetensors, shorter);
    }
    return t;
}

static bool is_weights(enum tensor_type t)
{
    return t == TYPE_F32 || t == TYPE_F16 || t == TYPE_BF16 || t == TYPE_F64;
}

static enum hearth_status check_tensor(const struct matcher *m, const struct st_tensor *t, const struct tensor_rule *r,
                                       const char *name, struct err *e)
{
    const struct model_shape *s = &m->c->shape;
    uint64_t rows = shape_dim(s, r->rows), cols = shape_dim(s, r->cols);
    bool fits = r->rows == '1' ? t->n_dims == 1 && t->dims[0] == cols : t->n_dims == 2 && t->dims[0] == rows && t->dims[1] == cols;
    if (!fits && t->n_dims == 2)
        return err_set(e, HEARTH_EDAMAGED, "%s: tensor %s is %llu x %llu, config.json makes it %llu x %llu", m->c->source, name,
                       (unsigned long long)t->dims[0], (unsigned long long)t->dims[1], (unsigned long long)rows, (unsigned long long)cols);
    if (!fits)
        return err_set(e, HEARTH_EDAMAGED, "%s: tensor %s has %u dimensions, the first %llu long; config.json makes it %llu x %llu",
                       m->c->source, name, t->n_dims, (unsigned long long)t->dims[0], (unsigned long long)rows, (unsigned long long)cols);
    if (!is_weights(t->type))
        return err_set(e, HEARTH_EUNSUPPORTED, "%s: tensor %s is stored as %s; convert takes F32, F16, BF16 and F64", m->c->source, name,
                       type_info(t->type)->name);
    return HEARTH_OK;
}

static enum hearth_status add_tensor(struct matcher *m, const struct tensor_rule *r, const struct st_tensor *t, const char *gguf_name)
{
    const struct model_shape *s = &m->c->shape;
    struct out_tensor *o = conversion_add(m->c, "%s", gguf_name);
    char *name = o ? arena_strndup(m->c->arena, t->name.p, t->name.n) : NULL;
    if (!name)
        return err_set(m->e, HEARTH_ENOMEM, "%s: no room for tensor %s", m->c->source, gguf_name);
    o->source_name = name;
    o->n_dims = r->rows == '1' ? 1 : 2;
    o->rows = shape_dim(s, r->rows);
    o->cols = shape_dim(s, r->cols);
    o->is_f32 = r->flags & RULE_F32;
    o->file = &m->c->safetensors.files[t->i_file];
    o->offset = t->offset;
    o->source_type = t->type;
    if (r->flags & RULE_SHIFT)
        o->shift = 1;
    if (r->flags & (RULE_PERMUTE_Q | RULE_PERMUTE_K)) {
        o->permute_rows = s->head_dim;
        if (o->n_dims == 1) /* a bias: one value per row */
            o->rows = o->cols, o->cols = 1;
    }
    m->used[t - m->c->safetensors.tensors] = true;
    return HEARTH_OK;
}

/* One rule; layer SIZE_MAX for the globals. A missing tensor is an error unless the rule is optional. */
static enum hearth_status match_rule(struct matcher *m, const struct tensor_rule *r, size_t layer)
{
    char name[128], full[192], gguf_name[LIMIT_GGUF_NAME_BYTES];
    const struct arch_info *a = m->c->shape.arch;
    if (layer == SIZE_MAX) {
        snprintf(name, sizeof name, "%s", r->source);
        snprintf(gguf_name, sizeof gguf_name, "%s", r->gguf);
    } else {
        snprintf(name, sizeof name, "%s%zu.%s", a->layer_prefix, layer, r->source);
        snprintf(gguf_name, sizeof gguf_name, "blk.%zu.%s", layer, r->gguf);
    }
    const struct st_tensor *t = find(m, name, full);
    if (!t && r->role == ROLE_EMBED && m->c->shape.tied) /* a tied matrix may be stored under the head's name */
        t = st_find(&m->c->safetensors, a->output_source);
    if (!t && (r->flags & RULE_OPTIONAL))
        return HEARTH_OK;
    if (!t)
        return err_set(m->e, HEARTH_EDAMAGED, "%s: no tensor %s", m->c->source, full);
    enum hearth_status st = check_tensor(m, t, r, full, m->e);
    return st == HEARTH_OK ? add_tensor(m, r, t, gguf_name) : st;
}

/* The head: absent when tied; a copy beside a tied embedding is skipped. */
static enum hearth_status match_output(struct matcher *m, bool says_untied)
{
    struct model_shape *s = &m->c->shape;
    const struct tensor_rule rule = { "output.weight", s->arch->output_source, 'V', 'E', ROLE_OUTPUT, 0 };
    const struct st_tensor *t = st_find(&m->c->safetensors, rule.source);
    if (s->tied) {
        if (t)
            m->used[t - m->c->safetensors.tensors] = true;
        return HEARTH_OK;
    }
    if (!t && says_untied)
        return err_set(m->e, HEARTH_EDAMAGED, "%s: no tensor %s, and config.json says that the embedding is not tied", m->c->source, rule.source);
    s->tied = !t;
    if (!t)
        return HEARTH_OK;
    enum hearth_status st = check_tensor(m, t, &rule, rule.source, m->e);
    return st == HEARTH_OK ? add_tensor(m, &rule, t, rule.gguf) : st;
}

static bool ends_with(struct str s, const char *end)
{
    size_t n = strlen(end);
    return s.n >= n && memcmp(s.p + s.n - n, end, n) == 0;
}

static enum hearth_status check_all_used(const struct matcher *m)
{
    static const char *const skipped[] = { "rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached",
                                           "rotary_pos_emb.inv_freq", "attn.masked_bias", "attention.masked_bias" };
    for (size_t i = 0; i < m->c->safetensors.n_tensors; i++) {
        struct str name = m->c->safetensors.tensors[i].name;
        bool known_skip = m->used[i];
        for (size_t k = 0; k < ARRAY_LEN(skipped); k++)
            known_skip |= ends_with(name, skipped[k]);
        if (!known_skip)
            return err_set(m->e, HEARTH_EUNSUPPORTED, "%s: tensor %.*s has no place in the architecture %s with %zu layers", m->c->source,
                           STR_FMT(name), m->c->shape.arch->name, m->c->shape.n_layers);
    }
    return HEARTH_OK;
}

static enum hearth_status add_factors(struct conversion *c, const char *name, const float *values, struct err *e)
{
    struct out_tensor *t = values ? conversion_add(c, "%s", name) : NULL;
    if (!t)
        return err_set(e, HEARTH_ENOMEM, "%s: no room for tensor %s", c->source, name);
    t->n_dims = 1;
    t->rows = 1;
    t->cols = c->shape.rope_dim / 2;
    t->is_f32 = true;
    t->source_type = TYPE_F32;
    t->values = values;
    return HEARTH_OK;
}

static enum hearth_status add_rope_tensors(struct conversion *c, struct err *e)
{
    enum hearth_status st = HEARTH_OK;
    if (c->shape.rope == ROPE_LLAMA3) {
        float *factors = ARENA_NEW(c->arena, float, c->shape.rope_dim / 2);
        if (factors)
            shape_llama3_factors(&c->shape, factors);
        st = add_factors(c, "rope_freqs.weight", factors, e);
    }
    if (c->shape.rope == ROPE_LONG && (st = add_factors(c, "rope_factors_long.weight", c->shape.rope_long, e)) == HEARTH_OK)
        st = add_factors(c, "rope_factors_short.weight", c->shape.rope_short, e);
    return st;
}

static enum hearth_status match_tensors(struct conversion *c, bool says_untied, struct err *e)
{
    enum hearth_status st;
    const struct arch_info *a = c->shape.arch;
    struct matcher m = { c, ARENA_NEW(c->arena, bool, c->safetensors.n_tensors + 1), e };
    if (!m.used)
        return err_set(e, HEARTH_ENOMEM, "%s: no room for %zu tensors", c->source, c->safetensors.n_tensors);
    for (const struct tensor_rule *r = a->globals; r->gguf; r++)
        if ((st = match_rule(&m, r, SIZE_MAX)) != HEARTH_OK)
            return st;
    for (size_t i = 0; i < c->shape.n_layers; i++)
        for (const struct tensor_rule *r = a->layers; r->gguf; r++)
            if ((st = match_rule(&m, r, i)) != HEARTH_OK)
                return st;
    if ((st = match_output(&m, says_untied)) != HEARTH_OK || (st = check_all_used(&m)) != HEARTH_OK)
        return st;
    return add_rope_tensors(c, e);
}

/* ---- vocabulary and name ---- */

/* The ids of config.json where the tokenizer's own files name none; eos may be a list, whose first is taken. */
static void default_id(int32_t *id, json_t *v)
{
    if (json_is_array(v))
        v = json_array_get(v, 0);
    if (*id < 0 && json_is_integer(v) && json_integer_value(v) >= 0 && json_integer_value(v) < LIMIT_VOCAB)
        *id = (int32_t)json_integer_value(v);
}

static enum hearth_status read_template_file(struct conversion *c, struct err *e)
{
    char path[4096], *text = NULL;
    struct file f;
    size_t n = 0;
    if (snprintf(path, sizeof path, "%s/chat_template.jinja", c->source) >= (int)sizeof path)
        return HEARTH_OK; /* config.json beside it was found by the same path, so this is a path at the limit */
    if (file_open(&f, path, NULL) != HEARTH_OK)
        return HEARTH_OK;
    file_close(&f);
    enum hearth_status st = file_read_all(&text, &n, path, LIMIT_CHAT_TEMPLATE_FILE, c->arena, e);
    if (st == HEARTH_OK)
        c->vocab.chat_template = (struct str){ text, n };
    return st;
}

static const char postln_template[] =
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '<|user|>' + message['content'] }}"
    "{% elif message['role'] == 'assistant' %}{{ '<|bot|>' + message['content'] + '<|end|>' }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported') }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|bot|>' }}{% endif %}";

static enum hearth_status read_vocab(struct conversion *c, const struct config *cfg, const struct convert_options *o, struct err *e)
{
    enum hearth_status st = vocab_from_files(&c->vocab, o->tokenizer ? o->tokenizer : c->source, c->arena, e);
    if (st != HEARTH_OK || (st = read_template_file(c, e)) != HEARTH_OK)
        return st;
    default_id(&c->vocab.bos, present(cfg->root, "bos_token_id"));
    default_id(&c->vocab.eos, present(cfg->root, "eos_token_id"));
    default_id(&c->vocab.pad, present(cfg->root, "pad_token_id"));
    const char *format = json_string_value(present(cfg->root, "chat_format"));
    if (format && strcmp(format, "<|user|>{user}<|bot|>{answer}<|end|>") == 0 && !c->vocab.chat_template.n) {
        c->vocab.chat_template = STR(postln_template);
        c->stop_text = STR("<|end|>");
    }
    return vocab_fit(&c->vocab, c->shape.n_vocab, c->source, c->arena, e);
}

/* general.name: asked for, or the folder's own. */
static enum hearth_status choose_name(struct conversion *c, const struct convert_options *o, struct err *e)
{
    const char *s = o->name ? o->name : c->source;
    size_t n = strlen(s);
    while (!o->name && n > 1 && s[n - 1] == '/')
        n--;
    size_t begin = n;
    while (!o->name && begin > 0 && s[begin - 1] != '/')
        begin--;
    if (o->name)
        begin = 0;
    char *copy = arena_strndup(c->arena, s + begin, n - begin);
    if (!copy)
        return err_set(e, HEARTH_ENOMEM, "%s: no memory", c->source);
    c->name = (struct str){ copy, n - begin };
    return HEARTH_OK;
}

enum hearth_status convert_hf(struct conversion *c, const struct convert_options *o, struct err *e)
{
    struct config cfg;
    enum hearth_status st = config_open(&cfg, c, e);
    if (st != HEARTH_OK)
        goto done;
    read_arch(&cfg, &c->shape, c->arena);
    if ((st = cfg.st) != HEARTH_OK || (st = shape_check(&c->shape, cfg.path, e)) != HEARTH_OK)
        goto done;
    json_t *tie = present(cfg.root, "tie_word_embeddings");
    bool says_untied = json_is_false(tie) || json_is_false(present(cfg.root, "tied_embeddings"));
    if ((st = st_open(&c->safetensors, c->source, c->arena, e)) != HEARTH_OK ||
        (st = match_tensors(c, says_untied, e)) != HEARTH_OK || (st = choose_name(c, o, e)) != HEARTH_OK)
        goto done;
    st = read_vocab(c, &cfg, o, e);
done:
    json_decref(cfg.root);
    return st;
}

/* model.c: from a GGUF's directory to a struct model: hyper-parameters, matrices, tables.
 *
 * All architectures are one decoder with options; a row of the table below says which. Reading goes
 *
 *   general.architecture -> table row -> numbers "ARCH.key" within limits.h -> tensors by name, each shape
 *   tested against the numbers -> every tensor of the file accounted for -> rope tables
 *
 * Names and meanings of keys and tensors, defaults included, are llama.cpp's (its GGUF files are what people
 * have); `opt` and `gpt-postln` are ours and use the same vocabulary of names:
 *   token_embd position_embd output_norm output blk.N.{attn_norm attn_q attn_k attn_v attn_output ffn_norm
 *   ffn_up ffn_down}.{weight bias}; for gpt-postln attn_norm and ffn_norm are the norms *after* the sums.
 *
 * Invariants after model_open: every matrix has the shape the forward pass assumes and a readable type, every
 * vector is float, head_dim * n_heads etc. were computed without overflow. No tensor of the file is ignored
 * unless it is known to be harmless: a bias that we do not add would change every answer.
 *
 * Refused by name: mixtures of experts, per-layer head counts, K and V heads of different size, unknown rope
 * scaling, scaling keys of other families (residual_scale ...).
 *
 * Rope: inv_freq[i] = base^(-2i/n_rot), divided by rope_freqs (Llama 3) or LongRoPE's factors (Phi-3), times
 * 1/factor (linear), or YaRN's blend of both (arXiv:2309.00071): pairs that turn often within the original
 * context keep their angle, slow ones are interpolated, a ramp between; magnitude 1 + 0.1 ln(factor).
 *
 * Costs: one pass over the directory; small vectors that are not F32 are copied as float.
 */
#include "engine/engine_internal.h"

#include <math.h>
#include <string.h>

static const struct arch archs[] = {
    { .name = "llama", .rope = ROPE_PAIRS, .qkv_bias = NEED_MAYBE, .out_bias = NEED_MAYBE, .ffn_bias = NEED_MAYBE },
    { .name = "phi3", .rope = ROPE_HALVES, .wants_fused_ffn = true },
    { .name = "qwen2", .rope = ROPE_HALVES, .qkv_bias = NEED_YES },
    { .name = "qwen3", .rope = ROPE_HALVES, .has_qk_norm = true },
    { .name = "gemma2", .rope = ROPE_HALVES, .ffn = FFN_GELU_GATED, .has_post_norms = true, .scales_embd = true,
      .window_default = 4096, .window_period = 2, .layers_of_27b = 46, .attn_cap_default = 50, .final_cap_default = 30 },
    { .name = "gemma3", .rope = ROPE_HALVES, .ffn = FFN_GELU_GATED, .has_post_norms = true, .scales_embd = true,
      .has_qk_norm = true, .window_period = 6, .rope_base_local = 10000, .layers_of_27b = 62 },
    { .name = "opt", .ffn = FFN_RELU, .has_layer_norm = true, .has_positions = true, .position_offset = 2,
      .qkv_bias = NEED_YES, .out_bias = NEED_YES, .ffn_bias = NEED_YES },
    { .name = "gpt-postln", .ffn = FFN_RELU, .has_layer_norm = true, .is_post_ln = true, .has_positions = true,
      .qkv_bias = NEED_YES, .out_bias = NEED_YES, .ffn_bias = NEED_YES },
};

/* What reading carries along. */
struct reader {
    struct model *m;
    const struct gguf *g;
    const struct engine_options *o;
    const struct kernels *kernels;
    struct arena *arena;
    struct err *e;
    bool *used;           /* [n_tensors] */
    char key[LIMIT_GGUF_KEY_BYTES];
    size_t n_rot, ctx_original;
    double rope_base, rope_base_local, scale, attn_factor;
    bool is_yarn;
    double beta_fast, beta_slow;
    size_t window, window_period;
};

static const char *key_of(struct reader *r, const char *name)
{
    snprintf(r->key, sizeof r->key, "%s.%s", r->m->arch->name, name);
    return r->key;
}

/* ---- numbers ---- */

static enum hearth_status need_size(struct reader *r, size_t *out, const char *name, size_t lo, size_t hi)
{
    uint64_t v = 0;
    enum hearth_status st = gguf_get_u64(r->g, key_of(r, name), lo, hi, &v, r->e);
    if (st == HEARTH_ENOTFOUND)
        return err_set(r->e, HEARTH_EDAMAGED, "%s: key %s is missing", r->g->path, r->key);
    *out = (size_t)v;
    return st;
}

/* Leaves *out alone when the key is absent. */
static enum hearth_status maybe_size(struct reader *r, size_t *out, const char *name, size_t lo, size_t hi)
{
    uint64_t v = *out;
    enum hearth_status st = gguf_get_u64(r->g, key_of(r, name), lo, hi, &v, r->e);
    *out = (size_t)v;
    return st == HEARTH_ENOTFOUND ? HEARTH_OK : st;
}

static enum hearth_status maybe_f64(struct reader *r, double *out, const char *name, double lo, double hi)
{
    enum hearth_status st = gguf_get_f64(r->g, key_of(r, name), out, r->e);
    if (st == HEARTH_ENOTFOUND)
        return HEARTH_OK;
    if (st == HEARTH_OK && !(*out >= lo && *out <= hi))
        return err_set(r->e, HEARTH_EDAMAGED, "%s: %s is %g, outside %g to %g", r->g->path, r->key, *out, lo, hi);
    return st;
}

static bool element_u64(uint64_t *out, const struct gguf_array *a, size_t i)
{
    switch (a->kind) {
    case GGUF_U32:
        *out = load_le32(a->data + 4 * i);
        return true;
    case GGUF_I32:
        *out = load_le32(a->data + 4 * i);
        return *out <= INT32_MAX;
    case GGUF_U64:
    case GGUF_I64:
        *out = load_le64(a->data + 8 * i);
        return true;
    case GGUF_BOOL:
        *out = a->data[i];
        return *out <= 1;
    default:
        return false;
    }
}

/* A number that some families give per layer. Only equal values are supported, and said so. */
static enum hearth_status uniform_size(struct reader *r, size_t *out, const char *name, size_t lo, size_t hi, bool is_needed)
{
    const struct gguf_kv *kv = gguf_find(r->g, key_of(r, name));
    uint64_t first = 0, v = 0;
    if (!kv || kv->kind != GGUF_ARRAY)
        return is_needed ? need_size(r, out, name, lo, hi) : maybe_size(r, out, name, lo, hi);
    if (kv->v.a.count != r->m->info.n_layers)
        return err_set(r->e, HEARTH_EDAMAGED, "%s: %s has %zu values for %zu layers", r->g->path, r->key, kv->v.a.count,
                       r->m->info.n_layers);
    for (size_t i = 0; i < kv->v.a.count; i++) {
        if (!element_u64(&v, &kv->v.a, i) || v < lo || v > hi)
            return err_set(r->e, HEARTH_EDAMAGED, "%s: %s[%zu] is not a number from %zu to %zu", r->g->path, r->key, i, lo, hi);
        if (i == 0)
            first = v;
        else if (v != first)
            return err_set(r->e, HEARTH_EUNSUPPORTED, "%s: %s differs between layers, which hearth cannot run yet",
                           r->g->path, r->key);
    }
    *out = (size_t)first;
    return HEARTH_OK;
}

/* Keys of other families whose effect hearth would silently leave out. */
static enum hearth_status refuse_foreign_keys(struct reader *r)
{
    static const struct { const char *name; double harmless; } foreign[] = {
        { "expert_count", 0 },    { "logit_scale", 1 },        { "residual_scale", 1 },
        { "embedding_scale", 1 }, { "attention.scale", 0 },    { "attention.clamp_kqv", 0 },
        { "attention.max_alibi_bias", 0 }, { "attention.temperature_scale", 0 }, { "nextn_predict_layers", 0 },
        { "rope.scaling.yarn_log_multiplier", 0 }, { "use_parallel_residual", 0 }, { "attention.causal", 1 },
    };
    for (size_t i = 0; i < ARRAY_LEN(foreign); i++) {
        const struct gguf_kv *kv = gguf_find(r->g, key_of(r, foreign[i].name));
        double v = foreign[i].harmless;
        if (!kv)
            continue;
        switch (kv->kind) {
        case GGUF_F32: case GGUF_F64: v = kv->v.f; break;
        case GGUF_U8: case GGUF_U16: case GGUF_U32: case GGUF_U64: v = (double)kv->v.u; break;
        case GGUF_I8: case GGUF_I16: case GGUF_I32: case GGUF_I64: v = (double)kv->v.i; break;
        case GGUF_BOOL: v = kv->v.b; break;
        default:
            return err_set(r->e, HEARTH_EDAMAGED, "%s: %s is not a number", r->g->path, r->key);
        }
        if (v != foreign[i].harmless)
            return err_set(r->e, HEARTH_EUNSUPPORTED, "%s: %s = %g is not supported%s", r->g->path, r->key, v,
                           i == 0 ? " (a mixture of experts)" : "");
    }
    return HEARTH_OK;
}

static enum hearth_status read_arch(struct reader *r)
{
    struct str name;
    enum hearth_status st = gguf_get_str(r->g, "general.type", &name, r->e);
    if (st == HEARTH_OK && !str_eqz(name, "model"))
        return err_set(r->e, HEARTH_EUNSUPPORTED, "%s: holds \"%.*s\", not a model", r->g->path, STR_FMT(name));
    if (st != HEARTH_OK && st != HEARTH_ENOTFOUND)
        return st;
    if ((st = gguf_get_str(r->g, "general.architecture", &name, r->e)) == HEARTH_ENOTFOUND)
        return err_set(r->e, HEARTH_EDAMAGED, "%s: key general.architecture is missing", r->g->path);
    if (st != HEARTH_OK)
        return st;
    for (size_t i = 0; i < ARRAY_LEN(archs); i++)
        if (str_eqz(name, archs[i].name)) {
            r->m->arch = &archs[i];
            r->m->info.arch = name;
            st = gguf_get_str(r->g, "general.name", &r->m->info.name, r->e);
            return st == HEARTH_ENOTFOUND ? HEARTH_OK : st;
        }
    return err_set(r->e, HEARTH_EUNSUPPORTED, "%s: architecture \"%.*s\" is not supported", r->g->path, STR_FMT(name));
}

static enum hearth_status read_heads(struct reader *r)
{
    struct model_info *f = &r->m->info;
    size_t v_dim;
    enum hearth_status st;
    if ((st = uniform_size(r, &f->n_heads, "attention.head_count", 1, LIMIT_HEADS, true)) != HEARTH_OK)
        return st;
    f->n_kv_heads = f->n_heads;
    if ((st = uniform_size(r, &f->n_kv_heads, "attention.head_count_kv", 1, LIMIT_HEADS, false)) != HEARTH_OK)
        return st;
    if (f->n_kv_heads > f->n_heads || f->n_heads % f->n_kv_heads)
        return err_set(r->e, HEARTH_EDAMAGED, "%s: %zu heads cannot share %zu K/V heads evenly", r->g->path, f->n_heads,
                       f->n_kv_heads);
    f->head_dim = f->n_embd / f->n_heads;
    if ((st = maybe_size(r, &f->head_dim, "attention.key_length", 1, LIMIT_HEAD_DIM)) != HEARTH_OK)
        return st;
    v_dim = f->head_dim;
    if ((st = maybe_size(r, &v_dim, "attention.value_length", 1, LIMIT_HEAD_DIM)) != HEARTH_OK)
        return st;
    if (f->head_dim < 1 || f->head_dim > LIMIT_HEAD_DIM)
        return err_set(r->e, HEARTH_EDAMAGED, "%s: head size %zu (%zu values, %zu heads) is outside 1 to %d", r->g->path,
                       f->head_dim, f->n_embd, f->n_heads, LIMIT_HEAD_DIM);
    if (v_dim != f->head_dim)
        return err_set(r->e, HEARTH_EUNSUPPORTED, "%s: K heads of %zu and V heads of %zu values: they must be equal",
                       r->g->path, f->head_dim, v_dim);
    return HEARTH_OK;
}

static enum hearth_status read_norm_position(struct reader *r)
{
    struct str s = STR("");
    enum hearth_status st;
    if (!r->m->arch->is_post_ln)
        return HEARTH_OK;
    st = gguf_get_str(r->g, key_of(r, "norm_position"), &s, r->e);
    if (st == HEARTH_ENOTFOUND)
        return err_set(r->e, HEARTH_EDAMAGED, "%s: key %s is missing", r->g->path, r->key);
    if (st == HEARTH_OK && !str_eqz(s, "post"))
        return err_set(r->e, HEARTH_EUNSUPPORTED, "%s: %s is \"%.*s\"; only \"post\" is supported", r->g->path, r->key,
                       STR_FMT(s));
    return st;
}

static enum hearth_status read_sizes(struct reader *r)
{
    struct model *m = r->m;
    struct model_info *f = &m->info;
    double eps = -1, attn_cap = m->arch->attn_cap_default, final_cap = m->arch->final_cap_default;
    const char *eps_key = m->arch->has_layer_norm ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon";
    enum hearth_status st;
    if ((st = need_size(r, &f->n_layers, "block_count", 1, LIMIT_LAYERS)) != HEARTH_OK ||
        (st = need_size(r, &f->n_embd, "embedding_length", 1, LIMIT_EMBD)) != HEARTH_OK ||
        (st = need_size(r, &f->n_ctx_train, "context_length", 1, LIMIT_CONTEXT)) != HEARTH_OK ||
        (st = uniform_size(r, &f->n_ff, "feed_forward_length", 1, LIMIT_FF, true)) != HEARTH_OK ||
        (st = read_heads(r)) != HEARTH_OK || (st = maybe_f64(r, &eps, eps_key, 0, 1)) != HEARTH_OK)
        return st;
    if (eps < 0)
        return err_set(r->e, HEARTH_EDAMAGED, "%s: key %s is missing", r->g->path, key_of(r, eps_key));
    if ((st = maybe_f64(r, &attn_cap, "attn_logit_softcapping", 0, 1e6)) != HEARTH_OK ||
        (st = maybe_f64(r, &final_cap, "final_logit_softcapping", 0, 1e6)) != HEARTH_OK)
        return st;
    size_t per_head = f->head_dim;
    if (m->arch->layers_of_27b && f->n_layers == m->arch->layers_of_27b)
        per_head = MAX(f->n_embd / f->n_heads, (size_t)1);
    m->attn_scale = 1.0f / sqrtf((float)per_head);
    m->embd_scale = m->arch->scales_embd ? sqrtf((float)f->n_embd) : 1.0f;
    m->eps = (float)eps;
    /* A cap on a family whose definition has none would be silently ignored elsewhere; here the file is obeyed. */
    m->attn_cap = (float)attn_cap;
    m->final_cap = (float)final_cap;
    return read_norm_position(r);
}

static enum hearth_status read_rope_type(struct reader *r)
{
    struct str type = STR("none");
    enum hearth_status st = gguf_get_str(r->g, key_of(r, "rope.scaling.type"), &type, r->e);
    bool is_given = st == HEARTH_OK;
    if (st != HEARTH_OK && st != HEARTH_ENOTFOUND)
        return st;
    if (is_given && !str_eqz(type, "none") && !str_eqz(type, "linear") && !str_eqz(type, "yarn") &&
        !str_eqz(type, "longrope"))
        return err_set(r->e, HEARTH_EUNSUPPORTED, "%s: rope scaling \"%.*s\" is not supported", r->g->path, STR_FMT(type));
    r->is_yarn = str_eqz(type, "yarn");
    if (is_given && str_eqz(type, "none"))
        r->scale = 1; /* a factor beside type "none" is not used */
    if (r->is_yarn && r->m->arch->rope_base_local > 0)
        return err_set(r->e, HEARTH_EUNSUPPORTED, "%s: rope scaling \"yarn\" is not supported for %s", r->g->path,
                       r->m->arch->name);
    return HEARTH_OK;
}

static enum hearth_status read_rope_numbers(struct reader *r)
{
    const struct model_info *f = &r->m->info;
    double factor = 0, old_factor = 0;
    enum hearth_status st;
    r->n_rot = f->head_dim;
    r->ctx_original = f->n_ctx_train;
    r->rope_base = 10000;
    r->rope_base_local = r->m->arch->rope_base_local;
    r->attn_factor = 1;
    r->beta_fast = 32;
    r->beta_slow = 1;
    if (r->m->arch->rope == ROPE_NONE)
        return HEARTH_OK;
    if ((st = maybe_size(r, &r->n_rot, "rope.dimension_count", 2, f->head_dim)) != HEARTH_OK ||
        (st = maybe_f64(r, &r->rope_base, "rope.freq_base", 1, 1e15)) != HEARTH_OK ||
        (st = maybe_f64(r, &old_factor, "rope.scale_linear", 0, 1e6)) != HEARTH_OK ||
        (st = maybe_f64(r, &factor, "rope.scaling.factor", 0, 1e6)) != HEARTH_OK ||
        (st = maybe_f64(r, &r->attn_factor, "rope.scaling.attn_factor", 1e-6, 1e6)) != HEARTH_OK ||
        (st = maybe_f64(r, &r->beta_fast, "rope.scaling.yarn_beta_fast", 1e-6, 1e6)) != HEARTH_OK ||
        (st = maybe_f64(r, &r->beta_slow, "rope.scaling.yarn_beta_slow", 1e-6, 1e6)) != HEARTH_OK ||
        (st = maybe_size(r, &r->ctx_original, "rope.scaling.original_context_length", 1, LIMIT_CONTEXT)) != HEARTH_OK)
        return st;
    if (r->m->arch->window_period && (st = maybe_f64(r, &r->rope_base_local, "rope.freq_base_swa", 1, 1e15)) != HEARTH_OK)
        return st;
    if (r->n_rot % 2)
        return err_set(r->e, HEARTH_EDAMAGED, "%s: %s is %zu; rotation needs pairs", r->g->path,
                       key_of(r, "rope.dimension_count"), r->n_rot);
    if (factor == 0)
        factor = old_factor;
    r->scale = factor > 0 ? 1 / factor : 1;
    return read_rope_type(r);
}

/* The number of layers in a period whose last is global, or one flag per layer. */
static enum hearth_status read_window(struct reader *r)
{
    const struct arch *a = r->m->arch;
    const struct gguf_kv *kv;
    enum hearth_status st;
    r->window = a->window_default;
    r->window_period = a->window_period;
    if ((st = maybe_size(r, &r->window, "attention.sliding_window", 0, LIMIT_CONTEXT)) != HEARTH_OK)
        return st;
    if (a->window_period == 0) { /* llama, phi3 ...: GGUF users run these without their window */
        bool is_wanted = r->o && r->o->use_sliding_window_phi3 && strcmp(a->name, "phi3") == 0;
        r->window = is_wanted ? r->window : 0;
        return HEARTH_OK;
    }
    kv = gguf_find(r->g, key_of(r, "attention.sliding_window_pattern"));
    if (kv && kv->kind == GGUF_ARRAY) {
        if (kv->v.a.count != r->m->info.n_layers)
            return err_set(r->e, HEARTH_EDAMAGED, "%s: %s has %zu values for %zu layers", r->g->path, r->key,
                           kv->v.a.count, r->m->info.n_layers);
        return HEARTH_OK;
    }
    return maybe_size(r, &r->window_period, "attention.sliding_window_pattern", 1, LIMIT_LAYERS);
}

static enum hearth_status layer_window(struct reader *r, size_t i_layer, size_t *out)
{
    const struct gguf_kv *kv = gguf_find(r->g, key_of(r, "attention.sliding_window_pattern"));
    bool is_local = r->window_period && i_layer % r->window_period < r->window_period - 1;
    uint64_t v;
    if (r->m->arch->window_period && kv && kv->kind == GGUF_ARRAY) {
        if (!element_u64(&v, &kv->v.a, i_layer) || v > 1)
            return err_set(r->e, HEARTH_EDAMAGED, "%s: %s[%zu] is not a flag", r->g->path, r->key, i_layer);
        is_local = v == 1;
    }
    *out = is_local || !r->m->arch->window_period ? r->window : 0;
    return HEARTH_OK;
}

/* ---- tensors ---- */

static const struct tensor *use_tensor(struct reader *r, const char *name)
{
    const struct tensor *t = weights_find(r->m->weights, name);
    if (t)
        r->used[t - weights_at(r->m->weights, 0)] = true;
    return t;
}

static const char *tensor_name(char name[LIMIT_GGUF_NAME_BYTES + 1], int layer, const char *what)
{
    if (layer < 0)
        snprintf(name, LIMIT_GGUF_NAME_BYTES + 1, "%s", what);
    else
        snprintf(name, LIMIT_GGUF_NAME_BYTES + 1, "blk.%d.%s", layer, what);
    return name;
}

static enum hearth_status missing(struct reader *r, const char *name)
{
    return err_set(r->e, HEARTH_EDAMAGED, "%s: tensor %s is missing", r->g->path, name);
}

static enum hearth_status wrong_shape(struct reader *r, const struct tensor *t, size_t k, size_t n_rows)
{
    return err_set(r->e, HEARTH_EDAMAGED, "%s: tensor %.*s is %zu x %zu%s; %zu x %zu was expected", r->g->path,
                   STR_FMT(t->name), t->dims[0], t->dims[1], t->n_dims > 2 && t->dims[2] * t->dims[3] > 1 ? " x ..." : "", k,
                   n_rows);
}

static enum hearth_status check_type(struct reader *r, const struct tensor *t)
{
    const struct type_info *info = type_info((uint32_t)t->type);
    if (info->is_readable)
        return HEARTH_OK;
    return err_set(r->e, HEARTH_EUNSUPPORTED, "%s: tensor %.*s has type %s, which hearth cannot compute with", r->g->path,
                   STR_FMT(t->name), info->name ? info->name : "?");
}

/* A matrix row by row. n_rows 0: any number of rows up to max_rows. */
static enum hearth_status view_rows(struct reader *r, struct matrix *out, const struct tensor *t, size_t k, size_t n_rows,
                                    size_t max_rows)
{
    bool is_plain = t->dims[2] == 1 && t->dims[3] == 1;
    if (!is_plain || t->dims[0] != k || (n_rows ? t->dims[1] != n_rows : t->dims[1] > max_rows))
        return wrong_shape(r, t, k, n_rows ? n_rows : max_rows);
    *out = (struct matrix){ .data = t->data, .n_rows = t->dims[1], .k = k, .row_bytes = t->row_bytes,
                            .strip_bytes = t->strip_bytes, .type = t->type };
    return check_type(r, t);
}

/* The same matrix as strips, for products. */
static enum hearth_status view_strips(struct reader *r, struct matrix *out, const struct tensor *t)
{
    return weights_strips(r->m->weights, t, &out->data, &out->strip_bytes, r->e);
}

/* A matrix for products. */
static enum hearth_status need_matrix(struct reader *r, struct matrix *out, int layer, const char *what, size_t k, size_t n_rows)
{
    char name[LIMIT_GGUF_NAME_BYTES + 1];
    const struct tensor *t = use_tensor(r, tensor_name(name, layer, what));
    enum hearth_status st = t ? view_rows(r, out, t, k, n_rows, 0) : missing(r, name);
    return st == HEARTH_OK ? view_strips(r, out, t) : st;
}

/* A vector of n floats: borrowed from the mapping when it is F32, else copied. NULL when absent and not needed. */
static enum hearth_status take_vector(struct reader *r, const float **out, int layer, const char *what, size_t n, enum need need)
{
    char name[LIMIT_GGUF_NAME_BYTES + 1];
    const struct tensor *t;
    *out = NULL;
    tensor_name(name, layer, what);
    if (need == NEED_NO)
        return HEARTH_OK; /* a tensor of that name stays unused and is refused as a stranger */
    if (!(t = use_tensor(r, name)))
        return need == NEED_YES ? missing(r, name) : HEARTH_OK;
    if (t->dims[0] != n || t->dims[1] != 1 || t->dims[2] != 1 || t->dims[3] != 1)
        return wrong_shape(r, t, n, 1);
    if (t->strip_bytes)
        return err_set(r->e, HEARTH_EDAMAGED, "%s: tensor %s is a vector, but packed as a matrix", r->g->path, name);
    if (t->type == TYPE_F32 && (uintptr_t)t->data % _Alignof(float) == 0) {
        *out = t->data;
        return HEARTH_OK;
    }
    enum hearth_status st = check_type(r, t);
    if (st != HEARTH_OK)
        return st;
    float *copy = ARENA_NEW(r->arena, float, n);
    if (!copy)
        return err_set(r->e, HEARTH_ENOMEM, "%s: no memory for %s", r->g->path, name);
    r->kernels->dequant_row[t->type](copy, t->data, n);
    *out = copy;
    return HEARTH_OK;
}

static enum hearth_status take_norm(struct reader *r, const float **w, const float **b, int layer, const char *what)
{
    char name[LIMIT_GGUF_NAME_BYTES + 1];
    size_t n = r->m->info.n_embd;
    enum hearth_status st;
    snprintf(name, sizeof name, "%s.weight", what);
    if ((st = take_vector(r, w, layer, name, n, NEED_YES)) != HEARTH_OK)
        return st;
    snprintf(name, sizeof name, "%s.bias", what);
    return take_vector(r, b, layer, name, n, r->m->arch->has_layer_norm ? NEED_YES : NEED_NO);
}

/* q, k and v: three tensors, or one with their rows one after the other, which is how their results stand anyway. */
static enum hearth_status take_qkv(struct reader *r, struct layer *l, int i)
{
    char name[LIMIT_GGUF_NAME_BYTES + 1];
    const struct model *m = r->m;
    size_t n = m->info.n_embd, nq = width_q(m), nkv = width_kv(m);
    enum need bias = m->arch->qkv_bias;
    const float *fused_bias;
    enum hearth_status st;
    if (weights_find(m->weights, tensor_name(name, i, "attn_qkv.weight"))) {
        if ((st = need_matrix(r, &l->q, i, "attn_qkv.weight", n, nq + 2 * nkv)) != HEARTH_OK ||
            (st = take_vector(r, &fused_bias, i, "attn_qkv.bias", nq + 2 * nkv, bias)) != HEARTH_OK)
            return st;
        if (fused_bias) {
            l->q_bias = fused_bias;
            l->k_bias = fused_bias + nq;
            l->v_bias = fused_bias + nq + nkv;
        }
        return HEARTH_OK;
    }
    if ((st = need_matrix(r, &l->q, i, "attn_q.weight", n, nq)) != HEARTH_OK ||
        (st = need_matrix(r, &l->k, i, "attn_k.weight", n, nkv)) != HEARTH_OK ||
        (st = need_matrix(r, &l->v, i, "attn_v.weight", n, nkv)) != HEARTH_OK ||
        (st = take_vector(r, &l->q_bias, i, "attn_q.bias", nq, bias)) != HEARTH_OK ||
        (st = take_vector(r, &l->k_bias, i, "attn_k.bias", nkv, bias)) != HEARTH_OK)
        return st;
    return take_vector(r, &l->v_bias, i, "attn_v.bias", nkv, bias);
}

static enum hearth_status take_ffn(struct reader *r, struct layer *l, int i)
{
    const struct arch *a = r->m->arch;
    size_t n = r->m->info.n_embd, n_ff = r->m->info.n_ff;
    enum hearth_status st;
    if (a->wants_fused_ffn) {
        if ((st = need_matrix(r, &l->gate, i, "ffn_up.weight", n, 2 * n_ff)) != HEARTH_OK)
            return st;
    } else {
        if ((st = need_matrix(r, &l->up, i, "ffn_up.weight", n, n_ff)) != HEARTH_OK ||
            (st = take_vector(r, &l->up_bias, i, "ffn_up.bias", n_ff, a->ffn_bias)) != HEARTH_OK)
            return st;
        if (a->ffn != FFN_RELU &&
            ((st = need_matrix(r, &l->gate, i, "ffn_gate.weight", n, n_ff)) != HEARTH_OK ||
             (st = take_vector(r, &l->gate_bias, i, "ffn_gate.bias", n_ff, a->ffn_bias)) != HEARTH_OK))
            return st;
    }
    if ((st = need_matrix(r, &l->down, i, "ffn_down.weight", n_ff, n)) != HEARTH_OK)
        return st;
    return take_vector(r, &l->down_bias, i, "ffn_down.bias", n, a->ffn_bias);
}

static bool wants_act(const struct matrix *m)
{
    return m->data && type_info((uint32_t)m->type)->is_quantised;
}

static enum hearth_status take_layer(struct reader *r, size_t i_layer)
{
    struct layer *l = &r->m->layers[i_layer];
    const struct arch *a = r->m->arch;
    const struct model_info *f = &r->m->info;
    const float *no_bias;
    int i = (int)i_layer;
    enum hearth_status st;
    if ((st = take_norm(r, &l->attn_norm, &l->attn_norm_b, i, "attn_norm")) != HEARTH_OK ||
        (st = take_qkv(r, l, i)) != HEARTH_OK ||
        (st = need_matrix(r, &l->o, i, "attn_output.weight", width_q(r->m), f->n_embd)) != HEARTH_OK ||
        (st = take_vector(r, &l->o_bias, i, "attn_output.bias", f->n_embd, a->out_bias)) != HEARTH_OK ||
        (st = take_norm(r, &l->ffn_norm, &l->ffn_norm_b, i, "ffn_norm")) != HEARTH_OK ||
        (st = take_ffn(r, l, i)) != HEARTH_OK)
        return st;
    if (a->has_post_norms &&
        ((st = take_norm(r, &l->attn_post_norm, &no_bias, i, "post_attention_norm")) != HEARTH_OK ||
         (st = take_norm(r, &l->ffn_post_norm, &no_bias, i, "post_ffw_norm")) != HEARTH_OK))
        return st;
    if (a->has_qk_norm && ((st = take_vector(r, &l->q_norm, i, "attn_q_norm.weight", f->head_dim, NEED_YES)) != HEARTH_OK ||
                           (st = take_vector(r, &l->k_norm, i, "attn_k_norm.weight", f->head_dim, NEED_YES)) != HEARTH_OK))
        return st;
    l->qkv_wants_act = wants_act(&l->q) || wants_act(&l->k) || wants_act(&l->v);
    l->o_wants_act = wants_act(&l->o);
    l->up_wants_act = wants_act(&l->up) || wants_act(&l->gate);
    l->down_wants_act = wants_act(&l->down);
    if ((st = layer_window(r, i_layer, &l->window)) != HEARTH_OK)
        return st;
    l->i_rope = r->rope_base_local > 0 && l->window ? 1 : 0;
    return HEARTH_OK;
}

/* Vocabulary size: what the embedding has, and every other place that states it must agree. */
static enum hearth_status check_vocab(struct reader *r)
{
    struct model_info *f = &r->m->info;
    const struct gguf_kv *tokens = gguf_find(r->g, "tokenizer.ggml.tokens");
    size_t stated = f->n_vocab;
    enum hearth_status st = maybe_size(r, &stated, "vocab_size", 1, LIMIT_VOCAB);
    if (st != HEARTH_OK)
        return st;
    if (stated != f->n_vocab)
        return err_set(r->e, HEARTH_EDAMAGED, "%s: %s is %zu, but token_embd.weight has %zu rows", r->g->path, r->key, stated,
                       f->n_vocab);
    if (tokens && tokens->kind == GGUF_ARRAY && tokens->v.a.count != f->n_vocab)
        return err_set(r->e, HEARTH_EDAMAGED, "%s: tokenizer.ggml.tokens has %zu entries, but token_embd.weight has %zu rows",
                       r->g->path, tokens->v.a.count, f->n_vocab);
    return HEARTH_OK;
}

static enum hearth_status take_global(struct reader *r)
{
    struct model *m = r->m;
    struct model_info *f = &m->info;
    const struct tensor *t;
    size_t n_positions;
    enum hearth_status st;
    if (!(t = use_tensor(r, "token_embd.weight")))
        return missing(r, "token_embd.weight");
    if ((st = view_rows(r, &m->embd, t, f->n_embd, 0, LIMIT_VOCAB)) != HEARTH_OK)
        return st;
    f->n_vocab = m->embd.n_rows;
    if ((st = check_vocab(r)) != HEARTH_OK)
        return st;
    if (m->arch->has_positions) {
        const struct tensor *p = use_tensor(r, "position_embd.weight");
        n_positions = f->n_ctx_train + m->arch->position_offset;
        if (!p)
            return missing(r, "position_embd.weight");
        if ((st = view_rows(r, &m->positions, p, f->n_embd, n_positions, 0)) != HEARTH_OK)
            return st;
        f->n_ctx_max = f->n_ctx_train;
    }
    f->is_tied = !weights_find(m->weights, "output.weight");
    if (f->is_tied) {
        if ((st = view_strips(r, &m->embd, t)) != HEARTH_OK)
            return st;
        m->output = m->embd;
    } else if ((st = need_matrix(r, &m->output, -1, "output.weight", f->n_embd, f->n_vocab)) != HEARTH_OK) {
        return st;
    }
    m->output_wants_act = wants_act(&m->output);
    return take_norm(r, &m->output_norm, &m->output_norm_b, -1, "output_norm");
}

static bool is_harmless(struct str name)
{
    static const char *const suffixes[] = { "attn_rot_embd.weight", "rotary_emb.inv_freq" };
    for (size_t i = 0; i < ARRAY_LEN(suffixes); i++) {
        size_t n = strlen(suffixes[i]);
        if (name.n >= n && memcmp(name.p + name.n - n, suffixes[i], n) == 0)
            return true;
    }
    return false;
}

static enum hearth_status refuse_strangers(struct reader *r)
{
    struct model_info *f = &r->m->info;
    for (size_t i = 0; i < r->g->n_tensors; i++) {
        const struct tensor *t = weights_at(r->m->weights, i);
        if (!r->used[i] && !is_harmless(t->name))
            return err_set(r->e, HEARTH_EUNSUPPORTED, "%s: tensor %.*s is no part of the architecture %s as hearth knows it",
                           r->g->path, STR_FMT(t->name), r->m->arch->name);
        /* dims fit the file's size times its block length, so the product fits too */
        f->n_params += t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3];
    }
    f->weight_bytes = weights_bytes(r->m->weights);
    return HEARTH_OK;
}

/* ---- rope ---- */

/* The pair index at which a pair turns n_turns times within the original context. */
static double yarn_pair(const struct reader *r, double n_turns, double base)
{
    const double pi = 3.14159265358979323846;
    return (double)r->n_rot * log((double)r->ctx_original / (n_turns * 2 * pi)) / (2 * log(base));
}

static void fill_inv_freq(const struct reader *r, double *out, size_t n_pairs, double base, double scale, const float *factors)
{
    double low = MAX(0.0, floor(yarn_pair(r, r->beta_fast, base)));
    double high = MIN((double)r->n_rot - 1, ceil(yarn_pair(r, r->beta_slow, base)));
    for (size_t i = 0; i < n_pairs; i++) {
        double f = pow(base, -2.0 * (double)i / (double)r->n_rot);
        if (factors)
            f /= factors[i];
        if (r->is_yarn) {
            double y = ((double)i - low) / MAX(0.001, high - low);
            double keep = 1 - MIN(1.0, MAX(0.0, y));
            out[i] = f * scale * (1 - keep) + f * keep;
        } else {
            out[i] = f * scale;
        }
    }
}

static enum hearth_status check_factors(struct reader *r, const float *factors, const char *name, size_t n)
{
    for (size_t i = 0; factors && i < n; i++)
        if (!(factors[i] > 0 && isfinite(factors[i])))
            return err_set(r->e, HEARTH_EDAMAGED, "%s: %s[%zu] is %g; a positive number was expected", r->g->path, name, i,
                           (double)factors[i]);
    return HEARTH_OK;
}

static enum hearth_status take_factors(struct reader *r, const float **out, const char *name)
{
    size_t n = r->n_rot / 2;
    enum hearth_status st = take_vector(r, out, -1, name, n, NEED_MAYBE);
    return st == HEARTH_OK ? check_factors(r, *out, name, n) : st;
}

static enum hearth_status build_rope(struct reader *r)
{
    struct rope *p = &r->m->rope;
    const float *freqs, *short_f, *long_f;
    double bases[ROPE_TABLES] = { r->rope_base, r->rope_base_local > 0 ? r->rope_base_local : r->rope_base };
    double scales[ROPE_TABLES] = { r->scale, r->m->arch->rope_base_local > 0 ? 1 : r->scale };
    enum hearth_status st;
    p->kind = r->m->arch->rope;
    if (p->kind == ROPE_NONE)
        return HEARTH_OK;
    if ((st = take_factors(r, &freqs, "rope_freqs.weight")) != HEARTH_OK ||
        (st = take_factors(r, &short_f, "rope_factors_short.weight")) != HEARTH_OK ||
        (st = take_factors(r, &long_f, "rope_factors_long.weight")) != HEARTH_OK)
        return st;
    if (!short_f != !long_f)
        return missing(r, short_f ? "rope_factors_long.weight" : "rope_factors_short.weight");
    if (freqs && short_f)
        return err_set(r->e, HEARTH_EUNSUPPORTED, "%s: has rope_freqs and LongRoPE factors at once", r->g->path);
    p->n_pairs = r->n_rot / 2;
    p->n_tables = short_f || r->rope_base_local > 0 ? 2 : 1;
    p->long_above = short_f ? r->ctx_original : 0;
    for (size_t t = 0; t < p->n_tables; t++) {
        const float *factors = short_f ? (t ? long_f : short_f) : freqs;
        p->inv_freq[t] = ARENA_NEW(r->arena, double, p->n_pairs);
        if (!p->inv_freq[t])
            return err_set(r->e, HEARTH_ENOMEM, "%s: no memory for a rope table", r->g->path);
        fill_inv_freq(r, p->inv_freq[t], p->n_pairs, bases[t], scales[t], factors);
        for (size_t i = 0; i < p->n_pairs; i++)
            if (!isfinite(p->inv_freq[t][i]))
                return err_set(r->e, HEARTH_EDAMAGED, "%s: its rope numbers give no angle for pair %zu", r->g->path, i);
        p->magnitude[t] = r->attn_factor * (r->is_yarn && r->scale < 1 ? 1 - 0.1 * log(r->scale) : 1);
    }
    return HEARTH_OK;
}

enum hearth_status model_open(struct model *m, const struct gguf *g, const struct engine_options *o, const struct kernels *k,
                              struct arena *a, struct err *e)
{
    struct reader r = { .m = m, .g = g, .o = o, .kernels = k, .arena = a, .e = e, .scale = 1 };
    enum hearth_status st;
    *m = (struct model){ .info.name = STR("") };
    if ((st = read_arch(&r)) != HEARTH_OK || (st = refuse_foreign_keys(&r)) != HEARTH_OK ||
        (st = read_sizes(&r)) != HEARTH_OK || (st = read_rope_numbers(&r)) != HEARTH_OK || (st = read_window(&r)) != HEARTH_OK)
        return st;
    if (g->n_tensors == 0)
        return missing(&r, "token_embd.weight");
    if ((st = weights_open(&m->weights, g, a, e)) != HEARTH_OK)
        return st;
    r.used = ARENA_NEW(a, bool, g->n_tensors);
    m->layers = ARENA_NEW(a, struct layer, m->info.n_layers);
    if (!r.used || !m->layers)
        return err_set(e, HEARTH_ENOMEM, "%s: no memory for %zu layers", g->path, m->info.n_layers);
    if ((st = take_global(&r)) != HEARTH_OK)
        return st;
    for (size_t i = 0; i < m->info.n_layers; i++)
        if ((st = take_layer(&r, i)) != HEARTH_OK)
            return st;
    m->info.window = r.window;
    if ((st = build_rope(&r)) != HEARTH_OK || (st = refuse_strangers(&r)) != HEARTH_OK)
        return st;
    return weights_check(m->weights, e); /* factors and copied vectors were read through the mapping */
}

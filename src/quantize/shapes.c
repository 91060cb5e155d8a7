/* shapes.c: the architectures' tensors, the keys of GGUF, and the shapes of well-known models.
 *
 * Tensor and key names of llama, phi3, qwen2, qwen3, gemma2 and gemma3 are those of the GGUF files that the usual
 * tools write and read; the sources' names are those of Hugging Face checkpoints. opt and gpt-postln are hearth's own:
 * keys as for gpt2 behind their own prefix.
 *
 * Traps worth knowing:
 *   - rope_freqs.weight and rope_factors_*.weight hold divisors of the frequencies, not frequencies;
 *   - gemma's norms are stored by the source as w - 1 (RULE_SHIFT);
 *   - only llama's q and k are permuted: its rope turns adjacent pairs, the others' turns halves;
 *   - opt's position table has two rows before position 0, and keeps them in the GGUF;
 *   - in gpt-postln attn_norm and ffn_norm come behind their block, as its key norm_position says.
 *
 * Everything here is tables and arithmetic on a few numbers. No I/O, no threads. Left out: experts, vision towers,
 * per-layer head counts.
 */
#include "shapes.h"

#include <math.h>
#include <string.h>
#include <strings.h>

#define NORM RULE_F32

static const struct tensor_rule llama_globals[] = {
    { "token_embd.weight", "embed_tokens.weight", 'V', 'E', ROLE_EMBED, 0 },
    { "output_norm.weight", "norm.weight", '1', 'E', ROLE_OUTPUT_NORM, NORM },
    { 0 },
};
static const struct tensor_rule llama_layers[] = {
    { "attn_norm.weight", "input_layernorm.weight", '1', 'E', ROLE_NORM, NORM },
    { "attn_q.weight", "self_attn.q_proj.weight", 'Q', 'E', ROLE_Q, RULE_PERMUTE_Q },
    { "attn_k.weight", "self_attn.k_proj.weight", 'K', 'E', ROLE_K, RULE_PERMUTE_K },
    { "attn_v.weight", "self_attn.v_proj.weight", 'K', 'E', ROLE_V, 0 },
    { "attn_output.weight", "self_attn.o_proj.weight", 'E', 'Q', ROLE_ATTN_OUT, 0 },
    { "attn_q.bias", "self_attn.q_proj.bias", '1', 'Q', ROLE_QK_BIAS, RULE_OPTIONAL | RULE_PERMUTE_Q | RULE_ONLY_SOURCE },
    { "attn_k.bias", "self_attn.k_proj.bias", '1', 'K', ROLE_QK_BIAS, RULE_OPTIONAL | RULE_PERMUTE_K | RULE_ONLY_SOURCE },
    { "attn_v.bias", "self_attn.v_proj.bias", '1', 'K', ROLE_BIAS, RULE_OPTIONAL | RULE_ONLY_SOURCE },
    { "attn_output.bias", "self_attn.o_proj.bias", '1', 'E', ROLE_OUT_BIAS, RULE_OPTIONAL | RULE_ONLY_SOURCE },
    { "ffn_norm.weight", "post_attention_layernorm.weight", '1', 'E', ROLE_NORM, NORM },
    { "ffn_gate.weight", "mlp.gate_proj.weight", 'F', 'E', ROLE_GATE, 0 },
    { "ffn_up.weight", "mlp.up_proj.weight", 'F', 'E', ROLE_UP, 0 },
    { "ffn_down.weight", "mlp.down_proj.weight", 'E', 'F', ROLE_DOWN, 0 },
    { "ffn_gate.bias", "mlp.gate_proj.bias", '1', 'F', ROLE_BIAS, RULE_OPTIONAL | RULE_ONLY_SOURCE },
    { "ffn_up.bias", "mlp.up_proj.bias", '1', 'F', ROLE_BIAS, RULE_OPTIONAL | RULE_ONLY_SOURCE },
    { "ffn_down.bias", "mlp.down_proj.bias", '1', 'E', ROLE_OUT_BIAS, RULE_OPTIONAL | RULE_ONLY_SOURCE },
    { 0 },
};

static const struct tensor_rule phi3_layers[] = {
    { "attn_norm.weight", "input_layernorm.weight", '1', 'E', ROLE_NORM, NORM },
    { "attn_qkv.weight", "self_attn.qkv_proj.weight", 'A', 'E', ROLE_QKV, 0 },
    { "attn_output.weight", "self_attn.o_proj.weight", 'E', 'Q', ROLE_ATTN_OUT, 0 },
    { "ffn_norm.weight", "post_attention_layernorm.weight", '1', 'E', ROLE_NORM, NORM },
    { "ffn_up.weight", "mlp.gate_up_proj.weight", 'G', 'E', ROLE_GATE_UP, 0 },
    { "ffn_down.weight", "mlp.down_proj.weight", 'E', 'F', ROLE_DOWN, 0 },
    { 0 },
};

static const struct tensor_rule qwen2_layers[] = {
    { "attn_norm.weight", "input_layernorm.weight", '1', 'E', ROLE_NORM, NORM },
    { "attn_q.weight", "self_attn.q_proj.weight", 'Q', 'E', ROLE_Q, 0 },
    { "attn_k.weight", "self_attn.k_proj.weight", 'K', 'E', ROLE_K, 0 },
    { "attn_v.weight", "self_attn.v_proj.weight", 'K', 'E', ROLE_V, 0 },
    { "attn_q.bias", "self_attn.q_proj.bias", '1', 'Q', ROLE_QK_BIAS, 0 },
    { "attn_k.bias", "self_attn.k_proj.bias", '1', 'K', ROLE_QK_BIAS, 0 },
    { "attn_v.bias", "self_attn.v_proj.bias", '1', 'K', ROLE_BIAS, 0 },
    { "attn_output.weight", "self_attn.o_proj.weight", 'E', 'Q', ROLE_ATTN_OUT, 0 },
    { "ffn_norm.weight", "post_attention_layernorm.weight", '1', 'E', ROLE_NORM, NORM },
    { "ffn_gate.weight", "mlp.gate_proj.weight", 'F', 'E', ROLE_GATE, 0 },
    { "ffn_up.weight", "mlp.up_proj.weight", 'F', 'E', ROLE_UP, 0 },
    { "ffn_down.weight", "mlp.down_proj.weight", 'E', 'F', ROLE_DOWN, 0 },
    { 0 },
};

static const struct tensor_rule qwen3_layers[] = {
    { "attn_norm.weight", "input_layernorm.weight", '1', 'E', ROLE_NORM, NORM },
    { "attn_q.weight", "self_attn.q_proj.weight", 'Q', 'E', ROLE_Q, 0 },
    { "attn_k.weight", "self_attn.k_proj.weight", 'K', 'E', ROLE_K, 0 },
    { "attn_v.weight", "self_attn.v_proj.weight", 'K', 'E', ROLE_V, 0 },
    { "attn_q_norm.weight", "self_attn.q_norm.weight", '1', 'H', ROLE_QK_NORM, NORM },
    { "attn_k_norm.weight", "self_attn.k_norm.weight", '1', 'H', ROLE_QK_NORM, NORM },
    { "attn_output.weight", "self_attn.o_proj.weight", 'E', 'Q', ROLE_ATTN_OUT, 0 },
    { "ffn_norm.weight", "post_attention_layernorm.weight", '1', 'E', ROLE_NORM, NORM },
    { "ffn_gate.weight", "mlp.gate_proj.weight", 'F', 'E', ROLE_GATE, 0 },
    { "ffn_up.weight", "mlp.up_proj.weight", 'F', 'E', ROLE_UP, 0 },
    { "ffn_down.weight", "mlp.down_proj.weight", 'E', 'F', ROLE_DOWN, 0 },
    { 0 },
};

#define GNORM (RULE_F32 | RULE_SHIFT)
static const struct tensor_rule gemma_globals[] = {
    { "token_embd.weight", "embed_tokens.weight", 'V', 'E', ROLE_EMBED, 0 },
    { "output_norm.weight", "norm.weight", '1', 'E', ROLE_OUTPUT_NORM, GNORM },
    { 0 },
};
static const struct tensor_rule gemma2_layers[] = {
    { "attn_norm.weight", "input_layernorm.weight", '1', 'E', ROLE_NORM, GNORM },
    { "attn_q.weight", "self_attn.q_proj.weight", 'Q', 'E', ROLE_Q, 0 },
    { "attn_k.weight", "self_attn.k_proj.weight", 'K', 'E', ROLE_K, 0 },
    { "attn_v.weight", "self_attn.v_proj.weight", 'K', 'E', ROLE_V, 0 },
    { "attn_output.weight", "self_attn.o_proj.weight", 'E', 'Q', ROLE_ATTN_OUT, 0 },
    { "post_attention_norm.weight", "post_attention_layernorm.weight", '1', 'E', ROLE_POST_NORM, GNORM },
    { "ffn_norm.weight", "pre_feedforward_layernorm.weight", '1', 'E', ROLE_NORM, GNORM },
    { "ffn_gate.weight", "mlp.gate_proj.weight", 'F', 'E', ROLE_GATE, 0 },
    { "ffn_up.weight", "mlp.up_proj.weight", 'F', 'E', ROLE_UP, 0 },
    { "ffn_down.weight", "mlp.down_proj.weight", 'E', 'F', ROLE_DOWN, 0 },
    { "post_ffw_norm.weight", "post_feedforward_layernorm.weight", '1', 'E', ROLE_POST_NORM, GNORM },
    { 0 },
};
static const struct tensor_rule gemma3_layers[] = {
    { "attn_norm.weight", "input_layernorm.weight", '1', 'E', ROLE_NORM, GNORM },
    { "attn_q.weight", "self_attn.q_proj.weight", 'Q', 'E', ROLE_Q, 0 },
    { "attn_k.weight", "self_attn.k_proj.weight", 'K', 'E', ROLE_K, 0 },
    { "attn_v.weight", "self_attn.v_proj.weight", 'K', 'E', ROLE_V, 0 },
    { "attn_q_norm.weight", "self_attn.q_norm.weight", '1', 'H', ROLE_QK_NORM, GNORM },
    { "attn_k_norm.weight", "self_attn.k_norm.weight", '1', 'H', ROLE_QK_NORM, GNORM },
    { "attn_output.weight", "self_attn.o_proj.weight", 'E', 'Q', ROLE_ATTN_OUT, 0 },
    { "post_attention_norm.weight", "post_attention_layernorm.weight", '1', 'E', ROLE_POST_NORM, GNORM },
    { "ffn_norm.weight", "pre_feedforward_layernorm.weight", '1', 'E', ROLE_NORM, GNORM },
    { "ffn_gate.weight", "mlp.gate_proj.weight", 'F', 'E', ROLE_GATE, 0 },
    { "ffn_up.weight", "mlp.up_proj.weight", 'F', 'E', ROLE_UP, 0 },
    { "ffn_down.weight", "mlp.down_proj.weight", 'E', 'F', ROLE_DOWN, 0 },
    { "post_ffw_norm.weight", "post_feedforward_layernorm.weight", '1', 'E', ROLE_POST_NORM, GNORM },
    { 0 },
};

static const struct tensor_rule opt_globals[] = {
    { "token_embd.weight", "embed_tokens.weight", 'V', 'E', ROLE_EMBED, 0 },
    { "position_embd.weight", "embed_positions.weight", 'P', 'E', ROLE_POSITION, RULE_F32 },
    { "output_norm.weight", "final_layer_norm.weight", '1', 'E', ROLE_OUTPUT_NORM, NORM },
    { "output_norm.bias", "final_layer_norm.bias", '1', 'E', ROLE_NORM_BIAS, NORM },
    { 0 },
};
static const struct tensor_rule opt_layers[] = {
    { "attn_norm.weight", "self_attn_layer_norm.weight", '1', 'E', ROLE_NORM, NORM },
    { "attn_norm.bias", "self_attn_layer_norm.bias", '1', 'E', ROLE_NORM_BIAS, NORM },
    { "attn_q.weight", "self_attn.q_proj.weight", 'Q', 'E', ROLE_Q, 0 },
    { "attn_q.bias", "self_attn.q_proj.bias", '1', 'Q', ROLE_QK_BIAS, 0 },
    { "attn_k.weight", "self_attn.k_proj.weight", 'K', 'E', ROLE_K, 0 },
    { "attn_k.bias", "self_attn.k_proj.bias", '1', 'K', ROLE_QK_BIAS, 0 },
    { "attn_v.weight", "self_attn.v_proj.weight", 'K', 'E', ROLE_V, 0 },
    { "attn_v.bias", "self_attn.v_proj.bias", '1', 'K', ROLE_BIAS, 0 },
    { "attn_output.weight", "self_attn.out_proj.weight", 'E', 'Q', ROLE_ATTN_OUT, 0 },
    { "attn_output.bias", "self_attn.out_proj.bias", '1', 'E', ROLE_OUT_BIAS, 0 },
    { "ffn_norm.weight", "final_layer_norm.weight", '1', 'E', ROLE_NORM, NORM },
    { "ffn_norm.bias", "final_layer_norm.bias", '1', 'E', ROLE_NORM_BIAS, NORM },
    { "ffn_up.weight", "fc1.weight", 'F', 'E', ROLE_RELU_UP, 0 },
    { "ffn_up.bias", "fc1.bias", '1', 'F', ROLE_RELU_BIAS, 0 },
    { "ffn_down.weight", "fc2.weight", 'E', 'F', ROLE_RELU_DOWN, 0 },
    { "ffn_down.bias", "fc2.bias", '1', 'E', ROLE_OUT_BIAS, 0 },
    { 0 },
};

static const struct tensor_rule postln_globals[] = {
    { "token_embd.weight", "tok_emb.weight", 'V', 'E', ROLE_EMBED, 0 },
    { "position_embd.weight", "pos_emb.weight", 'P', 'E', ROLE_POSITION, RULE_F32 },
    { "output_norm.weight", "ln_f.weight", '1', 'E', ROLE_OUTPUT_NORM, NORM },
    { "output_norm.bias", "ln_f.bias", '1', 'E', ROLE_NORM_BIAS, NORM },
    { 0 },
};
static const struct tensor_rule postln_layers[] = {
    { "attn_q.weight", "attn.q.weight", 'Q', 'E', ROLE_Q, 0 },
    { "attn_q.bias", "attn.q.bias", '1', 'Q', ROLE_QK_BIAS, 0 },
    { "attn_k.weight", "attn.k.weight", 'K', 'E', ROLE_K, 0 },
    { "attn_k.bias", "attn.k.bias", '1', 'K', ROLE_QK_BIAS, 0 },
    { "attn_v.weight", "attn.v.weight", 'K', 'E', ROLE_V, 0 },
    { "attn_v.bias", "attn.v.bias", '1', 'K', ROLE_BIAS, 0 },
    { "attn_output.weight", "attn.o.weight", 'E', 'Q', ROLE_ATTN_OUT, 0 },
    { "attn_output.bias", "attn.o.bias", '1', 'E', ROLE_OUT_BIAS, 0 },
    { "attn_norm.weight", "ln1.weight", '1', 'E', ROLE_POST_NORM, NORM },
    { "attn_norm.bias", "ln1.bias", '1', 'E', ROLE_NORM_BIAS, NORM },
    { "ffn_up.weight", "ffn.up.weight", 'F', 'E', ROLE_RELU_UP, 0 },
    { "ffn_up.bias", "ffn.up.bias", '1', 'F', ROLE_RELU_BIAS, 0 },
    { "ffn_down.weight", "ffn.down.weight", 'E', 'F', ROLE_RELU_DOWN, 0 },
    { "ffn_down.bias", "ffn.down.bias", '1', 'E', ROLE_OUT_BIAS, 0 },
    { "ffn_norm.weight", "ln2.weight", '1', 'E', ROLE_POST_NORM, NORM },
    { "ffn_norm.bias", "ln2.bias", '1', 'E', ROLE_NORM_BIAS, NORM },
    { 0 },
};

enum { LLAMA, PHI3, QWEN2, QWEN3, GEMMA2, GEMMA3, OPT, POSTLN, N_ARCHS };
static const struct arch_info archs[N_ARCHS] = {
    [LLAMA] = { "llama", "model.", "layers.", llama_globals, llama_layers, "lm_head.weight", .has_rope_dim_key = true },
    [PHI3] = { "phi3", "model.", "layers.", llama_globals, phi3_layers, "lm_head.weight", .has_rope_dim_key = true },
    [QWEN2] = { "qwen2", "model.", "layers.", llama_globals, qwen2_layers, "lm_head.weight" },
    [QWEN3] = { "qwen3", "model.", "layers.", llama_globals, qwen3_layers, "lm_head.weight", .has_key_length = true },
    [GEMMA2] = { "gemma2", "model.", "layers.", gemma_globals, gemma2_layers, "lm_head.weight", .window_period = 2,
                 .always_tied = true, .has_key_length = true },
    [GEMMA3] = { "gemma3", "model.", "layers.", gemma_globals, gemma3_layers, "lm_head.weight", .window_period = 6,
                 .always_tied = true, .has_key_length = true },
    [OPT] = { "opt", "model.decoder.", "layers.", opt_globals, opt_layers, "lm_head.weight", .has_layer_norm = true,
              .has_positions = true, .position_offset = 2 },
    [POSTLN] = { "gpt-postln", "", "layers.", postln_globals, postln_layers, "head.weight", .has_layer_norm = true,
                 .has_positions = true },
};

const struct arch_info *arch_by_name(const char *name)
{
    for (size_t i = 0; i < N_ARCHS; i++)
        if (strcmp(name, archs[i].name) == 0)
            return &archs[i];
    return NULL;
}

const char *const *arch_names(void)
{
    static const char *const names[] = { "llama", "phi3", "qwen2", "qwen3", "gemma2", "gemma3", "opt", "gpt-postln", NULL };
    _Static_assert(ARRAY_LEN(names) == N_ARCHS + 1, "one name per architecture");
    return names;
}

size_t shape_dim(const struct model_shape *s, char symbol)
{
    size_t q = s->n_heads * s->head_dim, k = s->n_kv_heads * s->head_dim; /* shape_check bounds them */
    switch (symbol) {
    case 'E': return s->n_embd;
    case 'Q': return q;
    case 'K': return k;
    case 'A': return q + 2 * k;
    case 'H': return s->head_dim;
    case 'F': return s->n_ff;
    case 'G': return 2 * s->n_ff;
    case 'V': return s->n_vocab;
    case 'P': return s->n_ctx + s->arch->position_offset;
    default: CHECK(symbol == '1'); return 1;
    }
}

static enum hearth_status in_range(const char *what, const char *name, size_t v, size_t hi, struct err *e)
{
    if (v < 1 || v > hi)
        return err_set(e, v < 1 ? HEARTH_EINVAL : HEARTH_ELIMIT, "%s: %s is %zu; hearth takes 1 to %zu", what, name, v, hi);
    return HEARTH_OK;
}

enum hearth_status shape_check(const struct model_shape *s, const char *what, struct err *e)
{
    enum hearth_status st;
    const struct { const char *name; size_t v, hi; } rows[] = {
        { "number of layers", s->n_layers, LIMIT_LAYERS },   { "embedding length", s->n_embd, LIMIT_EMBD },
        { "number of heads", s->n_heads, LIMIT_HEADS },      { "number of key/value heads", s->n_kv_heads, LIMIT_HEADS },
        { "head size", s->head_dim, LIMIT_HEAD_DIM },        { "feed-forward length", s->n_ff, LIMIT_FF },
        { "vocabulary size", s->n_vocab, LIMIT_VOCAB },      { "context length", s->n_ctx, LIMIT_CONTEXT },
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if ((st = in_range(what, rows[i].name, rows[i].v, rows[i].hi, e)) != HEARTH_OK)
            return st;
    if (s->n_heads % s->n_kv_heads)
        return err_set(e, HEARTH_EINVAL, "%s: %zu heads cannot share %zu key/value heads evenly", what, s->n_heads, s->n_kv_heads);
    if (s->n_heads * s->head_dim > LIMIT_EMBD)
        return err_set(e, HEARTH_ELIMIT, "%s: %zu heads of %zu values exceed the limit of %d", what, s->n_heads, s->head_dim, LIMIT_EMBD);
    if (!s->arch->has_positions && (s->rope_dim % 2 || s->rope_dim < 2 || s->rope_dim > s->head_dim))
        return err_set(e, HEARTH_EINVAL, "%s: %zu rotated values in a head of %zu make no pairs", what, s->rope_dim, s->head_dim);
    if (!(s->norm_eps >= 0 && s->norm_eps < 1))
        return err_set(e, HEARTH_EINVAL, "%s: a norm epsilon of %g makes no sense", what, s->norm_eps);
    if (!s->arch->has_positions && !(s->rope_base > 1 && s->rope_base < 1e12))
        return err_set(e, HEARTH_EINVAL, "%s: a rope base of %g makes no sense", what, s->rope_base);
    return HEARTH_OK;
}

/* ---- keys ---- */

struct prefixed {
    struct gguf_writer *w;
    const char *arch;
    char key[96];
};
static const char *key_of(struct prefixed *p, const char *name)
{
    snprintf(p->key, sizeof p->key, "%s.%s", p->arch, name);
    return p->key;
}
static void put_u32(struct prefixed *p, const char *name, size_t v)
{
    gguf_put_u32(p->w, key_of(p, name), (uint32_t)v);
}
static void put_f32(struct prefixed *p, const char *name, double v)
{
    gguf_put_f32(p->w, key_of(p, name), (float)v);
}

static void put_rope_keys(const struct model_shape *s, struct prefixed *p)
{
    if (s->arch->has_rope_dim_key || s->rope_dim != s->head_dim)
        put_u32(p, "rope.dimension_count", s->rope_dim);
    put_f32(p, "rope.freq_base", s->rope_base);
    if (s->rope_base_local > 0)
        put_f32(p, "rope.freq_base_swa", s->rope_base_local);
    if (s->rope == ROPE_LINEAR || s->rope == ROPE_YARN) {
        gguf_put_str(p->w, key_of(p, "rope.scaling.type"), s->rope == ROPE_LINEAR ? STR("linear") : STR("yarn"));
        put_f32(p, "rope.scaling.factor", s->rope_factor);
    }
    if (s->rope == ROPE_LONG)
        put_f32(p, "rope.scaling.attn_factor", s->rope_attn_factor);
    if (s->rope_orig_ctx && (s->rope == ROPE_LONG || s->rope == ROPE_YARN || strcmp(s->arch->name, "phi3") == 0))
        put_u32(p, "rope.scaling.original_context_length", s->rope_orig_ctx);
}

void shape_put_keys(const struct model_shape *s, struct gguf_writer *w)
{
    const struct arch_info *a = s->arch;
    struct prefixed p = { w, a->name, "" };
    gguf_put_str(w, "general.architecture", (struct str){ a->name, strlen(a->name) });
    gguf_put_str(w, "general.type", STR("model"));
    if (a == &archs[LLAMA])
        put_u32(&p, "vocab_size", s->n_vocab);
    put_u32(&p, "context_length", s->n_ctx);
    put_u32(&p, "embedding_length", s->n_embd);
    put_u32(&p, "block_count", s->n_layers);
    put_u32(&p, "feed_forward_length", s->n_ff);
    put_u32(&p, "attention.head_count", s->n_heads);
    put_u32(&p, "attention.head_count_kv", s->n_kv_heads);
    put_f32(&p, a->has_layer_norm ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon", s->norm_eps);
    if (a->has_key_length || s->head_dim * s->n_heads != s->n_embd) {
        put_u32(&p, "attention.key_length", s->head_dim);
        put_u32(&p, "attention.value_length", s->head_dim);
    }
    if (!a->has_positions)
        put_rope_keys(s, &p);
    if (s->window || a == &archs[PHI3]) /* phi3 states its absence too: that is how its later models are told apart */
        put_u32(&p, "attention.sliding_window", s->window);
    if (s->attn_softcap > 0)
        put_f32(&p, "attn_logit_softcapping", s->attn_softcap);
    if (s->final_softcap > 0)
        put_f32(&p, "final_logit_softcapping", s->final_softcap);
    if (a == &archs[POSTLN])
        gguf_put_str(w, key_of(&p, "norm_position"), STR("post"));
}

/* ---- rotary factors ---- */

/* Frequencies whose wave is longer than the old context are divided by the factor, short ones are kept, and those
 * between get a mixture: the rule published with Llama 3.1. */
void shape_llama3_factors(const struct model_shape *s, float *out)
{
    double old = (double)s->rope_orig_ctx, low = old / s->rope_low, high = old / s->rope_high;
    for (size_t i = 0; i < s->rope_dim / 2; i++) {
        double freq = pow(s->rope_base, -2.0 * (double)i / (double)s->rope_dim);
        double wave = 2 * 3.14159265358979323846 / freq;
        double smooth = (old / wave - s->rope_low) / (s->rope_high - s->rope_low);
        if (wave < high)
            out[i] = 1;
        else if (wave > low)
            out[i] = (float)s->rope_factor;
        else
            out[i] = (float)(1 / ((1 - smooth) / s->rope_factor + smooth));
    }
}

double shape_longrope_attn_factor(size_t n_ctx, size_t orig_ctx)
{
    double scale = (double)n_ctx / (double)orig_ctx;
    return scale > 1 ? sqrt(1 + log(scale) / log((double)orig_ctx)) : 1;
}

/* shapes.h (private to quantize/): what a model of each architecture consists of.
 *
 * One table row per tensor serves everybody who makes model files: convert reads the source's name from it,
 * make-model the role that decides how the random numbers are scaled, both the shape. struct model_shape holds
 * the numbers that the GGUF keys state, and shape_put_keys is the only place that writes those keys.
 *
 * A shape is written as two letters, rows then columns:
 *   E n_embd   Q n_heads * head_dim   K n_kv_heads * head_dim   H head_dim   F n_ff   V n_vocab
 *   P rows of the position table   A Q + 2K (phi3's fused q, k, v)   G 2F (phi3's fused gate, up)   '1' one row
 */
#ifndef HEARTH_QUANTIZE_SHAPES_H
#define HEARTH_QUANTIZE_SHAPES_H

#include "quantize/quantize.h"

/* What a tensor does, for the scale of random numbers. */
enum tensor_role {
    ROLE_EMBED, ROLE_POSITION, ROLE_OUTPUT, ROLE_NORM, ROLE_NORM_BIAS, ROLE_OUTPUT_NORM, ROLE_POST_NORM, ROLE_QK_NORM,
    ROLE_Q, ROLE_K, ROLE_V, ROLE_QKV, ROLE_ATTN_OUT, ROLE_GATE, ROLE_UP, ROLE_GATE_UP, ROLE_DOWN, ROLE_BIAS, ROLE_QK_BIAS,
    ROLE_OUT_BIAS, ROLE_RELU_UP, ROLE_RELU_BIAS, ROLE_RELU_DOWN,
};

enum {
    RULE_OPTIONAL = 1,  /* the source may lack it */
    RULE_PERMUTE_Q = 2, /* convert: rotate-half rows to adjacent pairs, per query head */
    RULE_PERMUTE_K = 4, /* the same, per key head */
    RULE_SHIFT = 8,     /* convert: the source stores w - 1 */
    RULE_F32 = 16,      /* never in a narrower type */
    RULE_ONLY_SOURCE = 32, /* make-model leaves it out */
};

struct tensor_rule {
    const char *gguf;   /* behind "blk.N." in a layer */
    const char *source; /* behind the architecture's layer prefix in a layer */
    char rows, cols;
    uint8_t role, flags;
};

enum rope_kind { ROPE_NONE, ROPE_PLAIN, ROPE_LINEAR, ROPE_YARN, ROPE_LLAMA3, ROPE_LONG };

struct arch_info {
    const char *name;         /* GGUF's */
    const char *source_prefix; /* "model."; may be absent in the source's names */
    const char *layer_prefix; /* "layers." */
    const struct tensor_rule *globals, *layers; /* end with a NULL name; globals[0] is token_embd */
    const char *output_source; /* the untied head's name in the source */
    size_t window_period;     /* every n-th layer attends globally; 0: no pattern */
    bool always_tied, has_layer_norm, has_positions, has_rope_dim_key, has_key_length;
    size_t position_offset;   /* rows of the position table before position 0 */
};
/* NULL when unknown. */
const struct arch_info *arch_by_name(const char *name);
/* The architectures, for messages: NULL-terminated. */
const char *const *arch_names(void);

struct model_shape {
    const struct arch_info *arch;
    size_t n_layers, n_embd, n_heads, n_kv_heads, head_dim, n_ff, n_vocab, n_ctx;
    size_t window;            /* tokens; 0: none */
    size_t rope_dim;          /* values of a head that are rotated */
    double norm_eps, rope_base, attn_softcap, final_softcap;
    double rope_base_local;   /* of sliding layers, 0: not said */
    enum rope_kind rope;
    double rope_factor, rope_low, rope_high, rope_attn_factor;
    size_t rope_orig_ctx;
    const float *rope_long, *rope_short; /* [rope_dim / 2] for ROPE_LONG */
    bool tied;
};

size_t shape_dim(const struct model_shape *s, char symbol);
/* EINVAL, ELIMIT: a sentence about the number that makes no sense. what: file or preset, for the message. */
MUST_CHECK enum hearth_status shape_check(const struct model_shape *s, const char *what, struct err *e);
/* general.architecture and all keys of the architecture. */
void shape_put_keys(const struct model_shape *s, struct gguf_writer *w);
/* Divisors of the rotary frequencies that Llama 3 stores as rope_freqs.weight: out[rope_dim / 2]. */
void shape_llama3_factors(const struct model_shape *s, float *out);
/* The factor on cos and sin of LongRoPE for a model stretched from rope_orig_ctx to n_ctx. */
double shape_longrope_attn_factor(size_t n_ctx, size_t orig_ctx);
/* A preset's numbers, any case; false: no such name. rope_long and rope_short stay NULL. */
bool shape_by_name(struct model_shape *s, const char *name);
/* Weights of all tensors that make-model writes, without rotary factors. */
uint64_t shape_params(const struct model_shape *s);

/* Makes the vocabulary as long as the embedding: absent tokens are called [PADn] and unused, surplus added ones are
 * dropped as the usual tools do; surplus ordinary ones are an error. */
MUST_CHECK enum hearth_status vocab_fit(struct vocab *v, size_t n_vocab, const char *what, struct arena *a, struct err *e);

#endif

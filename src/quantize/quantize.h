/* quantize.h: making model files, and measuring what that costs in quality.
 *
 * convert: Hugging Face folders and llama2.c checkpoints to GGUF. quantize: GGUF to GGUF with other types.
 * make_model: seeded random weights at real shapes, for benchmarks and oracles. perplexity: the usual measure.
 * Long work reports through a progress callback; output files appear whole or not at all.
 */
#ifndef HEARTH_QUANTIZE_H
#define HEARTH_QUANTIZE_H

#include "engine/engine.h"

/* what: "blk.3.ffn_up.weight"; done of total bytes or windows. */
typedef void (*progress_fn)(const char *what, uint64_t done, uint64_t total, void *arg);
/* fn may be NULL. cancel: NULL, or a number that turns non-zero (in a signal handler, say) when the work shall stop with
 * ECANCELLED and no file; quantize_model looks at it. */
struct progress { progress_fn fn; void *arg; const atomic_int *cancel; };

struct convert_options {
    const char *tokenizer;   /* llama2.c's tokenizer.bin, or a folder/file of a vocabulary; NULL: look in the source */
    enum tensor_type type;   /* of the matrices: F32, F16, BF16, Q8_0 ...; norms stay F32. TYPE_COUNT: as the source has them */
    const char *name;        /* general.name; NULL: from the source */
};
MUST_CHECK enum hearth_status convert_model(const char *source, const char *out, const struct convert_options *o, struct progress p, struct err *e);

/* A mix chooses a type per tensor, as the usual tools do: "Q4_K_M" and so on; a plain type is its own mix. */
struct mix;
const struct mix *mix_by_name(const char *name); /* any case; NULL when unknown */
const char *const *mix_names(void);              /* NULL-terminated */
const char *mix_name(const struct mix *m);
/* The type for one tensor of a model; falls back (and says so through *fell_back) when a row is no multiple of the block. */
enum tensor_type mix_choose(const struct mix *m, const struct model_info *info, struct str tensor, size_t n_dims,
                            const uint64_t *dims, bool tied, bool *fell_back);
/* Whether a tensor of this name is a matrix that mixes convert; others (norms, biases, positions ...) stay as they are, and
 * mix_choose gives F32 for them. */
bool mix_is_matrix(struct str tensor, size_t n_dims);
uint32_t mix_file_type(const struct mix *m);     /* general.file_type */

/* bytes: of all tensors, before and after. n_converted: tensors whose type changed. */
struct quantize_stats { uint64_t bytes_in, bytes_out; size_t n_tensors, n_converted, n_fell_back; };
/* Any readable GGUF (split ones too) to one with the types of the mix; keys are copied, general.file_type and
 * quantization_version set. stats may be NULL; n_threads 0: the CPUs of this process. Refuses a value that is not finite, and
 * one that the type's half-precision scales cannot hold. Memory: a slab of some 16 MiB beside the directory. */
MUST_CHECK enum hearth_status quantize_model(const char *in, const char *out, const struct mix *m, size_t n_threads,
                                  struct progress p, struct quantize_stats *stats, struct err *e);

struct make_model_options {
    const char *arch;   /* llama phi3 qwen2 qwen3 gemma2 gemma3 opt gpt-postln; may be NULL beside a shape */
    const char *shape;  /* a preset ("Llama-3.2-1B"), or NULL: the architecture's tiny one */
    size_t n_layers, n_embd, n_heads, n_kv_heads, head_dim, n_ff, n_vocab, n_ctx; /* 0: preset's */
    size_t window;      /* sliding window, 0: the architecture's */
    bool untied;
    const struct mix *type; /* NULL: F16 */
    const char *vocab;  /* GGUF or tokenizer files for a real vocabulary; NULL: a synthetic one. A longer one than the shape's
                         * stretches the embedding unless n_vocab is given */
    uint64_t seed;
};
MUST_CHECK enum hearth_status make_model(const char *out, const struct make_model_options *o, struct progress p, struct err *e);
const char *const *make_model_shapes(void); /* NULL-terminated names */

/* ---- measuring (perplexity.c, divergence.c) ---- */

struct perplexity { double nll_sum, ppl, ppl_error; size_t n_tokens_scored, n_windows; };
/* Non-overlapping windows of n_ctx tokens (BOS first where the vocabulary adds one), the second half of each scored:
 * the windowing of llama.cpp's tool: positions n_ctx / 2 .. n_ctx - 2 each predict the next token, so a window scores
 * n_ctx - 1 - n_ctx / 2 of them; what does not fill a window is left out. Control tokens in the text are text. ppl_error is one
 * standard error. EINVAL when the text has not one window, or n_ctx is below 4; ELIMIT when it is more positions than the model
 * has. progress counts windows and shows the perplexity so far. cancel may be NULL. */
MUST_CHECK enum hearth_status perplexity_run(struct perplexity *out, struct engine *en, const struct tokenizer *t, const char *text, size_t n,
                                  size_t n_ctx, const atomic_int *cancel, struct progress p, struct err *e);

/* How far `other` is from `base` on the same text and windows, at every scored position: KL divergence of base's
 * distribution from other's, in nats. base_ppl and other_ppl come along. */
struct divergence {
    double kl_mean, kl_error; /* standard error of the mean */
    double kl_max;
    double same_top;          /* share of positions where both have the same most likely token */
    double base_ppl, other_ppl;
    size_t n_tokens_scored, n_windows;
};
/* t: base's tokenizer. EINVAL when the vocabularies differ in size. */
MUST_CHECK enum hearth_status divergence_run(struct divergence *out, struct engine *base, struct engine *other, const struct tokenizer *t,
                                  const char *text, size_t n, size_t n_ctx, const atomic_int *cancel, struct progress p, struct err *e);

/* out[i] = ln p(tokens[i + 1] | tokens[0..i]) for i < n - 1; n >= 2. The softmax is taken in double. */
MUST_CHECK enum hearth_status logprobs_run(double *out, struct engine *en, const int32_t *tokens, size_t n, const atomic_int *cancel,
                                struct err *e);
/* ln of the softmax of logits[n] at id: x[id] - ln sum exp(x), in double. */
double logprob_of(const float *logits, size_t n, int32_t id);

#endif

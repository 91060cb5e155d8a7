/* engine.h: tokens and K/V in, logits out. One model, no sessions.
 *
 * engine_open reads a GGUF's hyper-parameters, checks every tensor's shape against them, and sizes the
 * scratch. engine_step runs one batch: any number of sequences, each with some new tokens, each with its
 * own K/V behind a struct kv_view. It appends K and V to the views and gives logits for the rows asked.
 *
 * The same tokens give bit-identical logits for any thread count, any split into steps and any company in
 * the batch (kernels.h has the order of arithmetic that this stands on).
 */
#ifndef HEARTH_ENGINE_H
#define HEARTH_ENGINE_H

#include <stdatomic.h>

#include "weights/weights.h"

/* What the model is, for people and for sizing. */
struct model_info {
    struct str arch, name;
    size_t n_layers, n_embd, n_heads, n_kv_heads, head_dim, n_ff, n_vocab;
    size_t n_ctx_train;    /* positions the model was trained for */
    size_t n_ctx_max;      /* hard limit (learned positions); 0: none */
    size_t n_params;
    size_t weight_bytes;
    size_t window;         /* sliding window of the local layers; 0: none */
    bool is_tied;          /* the embedding is also the output matrix */
};

/* How one chunk's K/V lie in memory: [layer][K tiles of all heads | V tiles of all heads];
 * K tile [head_dim][32], V tile [32][head_dim], elements of type. */
struct kv_layout {
    enum kv_type type;
    size_t n_layers, n_kv_heads, head_dim;
    size_t tile_bytes;   /* one head's K (or V) tile */
    size_t layer_bytes;  /* 2 * n_kv_heads * tile_bytes */
    size_t chunk_bytes;  /* n_layers * layer_bytes */
};
static inline size_t kv_k_offset(const struct kv_layout *l, size_t i_layer, size_t i_head)
{
    return i_layer * l->layer_bytes + i_head * l->tile_bytes;
}
static inline size_t kv_v_offset(const struct kv_layout *l, size_t i_layer, size_t i_head)
{
    return i_layer * l->layer_bytes + (l->n_kv_heads + i_head) * l->tile_bytes;
}

/* What attention may read and append to: one sequence's K/V as a list of chunks. The owner (context/) fills
 * chunks[] far enough for the tokens it will add; slots must be zeroed before their first use. The engine
 * writes positions n_tokens.. and advances n_tokens when a step succeeds; a failed step leaves it. */
struct kv_view {
    uint8_t **chunks;    /* [n_chunks], each chunk_bytes; chunk i holds positions 32i .. 32i+31 */
    size_t n_chunks;
    size_t n_tokens;     /* positions already filled */
    size_t n_ctx;        /* the context length this sequence was created with: chooses LongRoPE's table */
};

struct engine_options {
    size_t n_threads;       /* 0: HEARTH_THREADS, or one for each CPU that affinity leaves */
    const char *affinity;   /* "0,2-5": thread i stays on the i-th of these CPUs, the opener's as thread 0; "none": the system
                             * chooses. NULL: HEARTH_AFFINITY, or the system chooses, among the fast CPUs where some are slow */
    unsigned power;         /* percent of the time that each thread may work; 0: HEARTH_POWER or 100 */
    size_t max_batch;       /* tokens per step the scratch is sized for; 0: 512 */
    enum kv_type kv_type;
    bool use_sliding_window_phi3; /* off: as GGUF users have it */
    const struct kernels *kernels; /* NULL: kernels_get() */
    weights_progress progress; /* of packing the weights, in bytes; may be NULL */
    void *progress_arg;
    size_t share_above;     /* multiply-adds; a smaller job stays on the caller's thread. 0: what pays (tests: 1) */
};

struct engine;
/* Opens model, weights, scratch, workers. EUNSUPPORTED names the missing piece. g must outlive the engine. */
MUST_CHECK enum hearth_status engine_open(struct engine **out, const struct gguf *g, const struct engine_options *o, struct err *e);
void engine_close(struct engine *en); /* accepts NULL */
const struct model_info *engine_info(const struct engine *en);
const struct kv_layout *engine_kv_layout(const struct engine *en);
struct pool *engine_pool(struct engine *en);
size_t engine_max_batch(const struct engine *en);
/* Bytes held besides weights and K/V: scratch, tables, directory. */
size_t engine_scratch_bytes(const struct engine *en);

/* What opening and running with one context of n_ctx tokens would need, before any weight is read. scratch_bytes is
 * exactly what engine_scratch_bytes will say; kv_bytes counts whole chunks. */
struct memory_plan { size_t weight_bytes, kv_bytes_per_chunk, kv_bytes, scratch_bytes, total_bytes; };
MUST_CHECK enum hearth_status engine_plan(struct memory_plan *p, const struct gguf *g, const struct engine_options *o, size_t n_ctx, struct err *e);

/* The memory that steps read matrices from (of all layers, and the output's), for measuring: at most max spans are written, their number is
 * returned. */
struct weight_span {
    const void *data;
    size_t bytes;
};
size_t engine_weight_spans(const struct engine *en, struct weight_span *out, size_t max);
enum { MATRICES_PER_LAYER = 7 };

/* One sequence's part of a step. */
struct slice {
    struct kv_view *kv;
    const int32_t *tokens;
    size_t n_tokens;     /* >= 1; sum over slices <= max_batch */
    size_t n_logits;     /* of the last rows; 0..n_tokens */
    float *logits;       /* [n_logits, n_vocab], caller's; NULL when n_logits is 0 */
};
/* Each view at most once per step. EINVAL: bad token id, no room in the view, more tokens than max_batch. ELIMIT: past
 * n_ctx_max. ECANCELLED when *cancel turned non-zero (looked at before each layer; may be NULL). EIO: the model file
 * shrank. After a failure the views' n_tokens are unchanged, though lanes behind them may hold values; zero them or
 * let the next step overwrite them. No heap allocation. One caller at a time. */
MUST_CHECK enum hearth_status engine_step(struct engine *en, struct slice *slices, size_t n_slices, const atomic_int *cancel, struct err *e);

/* Where the time of steps goes, added up over all steps while attached. Phases are what the caller's thread waits for:
 * the products by what they compute, attention, and row work (norms, rope, activations, quantisation, embedding). */
enum engine_phase { PHASE_QKV, PHASE_ATTENTION, PHASE_OUT, PHASE_UP, PHASE_DOWN, PHASE_LOGITS, PHASE_ROWS, PHASE_COUNT };
struct phase_times {
    uint64_t ns;      /* wall clock */
    uint64_t run_ns;  /* of these, with a job shared by all threads; in the rest only the caller worked */
    uint64_t wait_ns; /* of run_ns, the caller waited for the workers */
    uint64_t busy_ns; /* all threads' time in slices of shared jobs */
    size_t n_jobs;    /* shared jobs: each has a barrier at its end */
};
struct engine_profile {
    size_t n_steps;
    struct phase_times phases[PHASE_COUNT];
    struct pool_times pool, seen; /* the engine's own: totals now, and at the end of the last phase */
    uint64_t last_ns;
};
/* p zeroed, or NULL: nothing is measured (the default, without cost). Between steps only; p must stay until another call. */
void engine_profile_attach(struct engine *en, struct engine_profile *p);

/* For tests that must be able to fail: makes the forward pass wrong on purpose. 0 is right. */
enum engine_mutation { MUTATE_NONE, MUTATE_NO_ROPE, MUTATE_NO_MASK, MUTATE_WRONG_GQA, MUTATE_NO_WINDOW, MUTATE_SWAP_GATE_UP };
void engine_mutate(struct engine *en, enum engine_mutation m);

/* ---- sampler (sampler.c) ---- */

struct logit_bias { int32_t id; float bias; };
struct sampler_params {
    float temperature;      /* 0: greedy */
    int32_t top_k;          /* 0: off */
    float top_p, min_p;     /* 1 and 0: off */
    float repeat_penalty, presence_penalty, frequency_penalty; /* 1, 0, 0: off */
    size_t penalty_window;  /* last tokens looked at; 0: off */
    uint64_t seed;
    const struct logit_bias *bias;
    size_t n_bias;
};
struct sampler;
MUST_CHECK enum hearth_status sampler_open(struct sampler **out, const struct sampler_params *p, size_t n_vocab, struct arena *a, struct err *e);
/* Chooses the token for `position` given the logits (which it may change) and the history before it. The same
 * (seed, position, logits, history) gives the same token on every machine. No allocation. */
int32_t sampler_pick(struct sampler *s, float *logits, const int32_t *history, size_t n_history, size_t position);
/* Philox4x32-10: x becomes the random block of counter x under key (k0, k1). Here for its test vectors. */
void philox4x32(uint32_t x[4], uint32_t k0, uint32_t k1);
/* The defaults of hearth run: temperature 0.8, top_k 40, top_p 0.95, min_p 0.05, no penalties. */
struct sampler_params sampler_defaults(void);

#endif

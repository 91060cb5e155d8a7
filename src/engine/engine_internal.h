/* engine_internal.h: what model.c, forward.c and attention.c share; nobody else includes it.
 *
 * model.c turns a GGUF into a struct model: numbers, and for each layer the matrices and vectors by name.
 * forward.c runs batches through it; products.c and attention.c are its parts that read weights and K/V chunks.
 *
 *   struct model     what the file says; read-only after open
 *   struct scratch   every buffer a step uses, cut once from one block
 *   struct step      one call of engine_step: its rows, and where their results go
 */
#ifndef HEARTH_ENGINE_INTERNAL_H
#define HEARTH_ENGINE_INTERNAL_H

#include "engine/engine.h"

/* ---- the model ---- */

enum rope_kind { ROPE_NONE, ROPE_PAIRS, ROPE_HALVES };
enum ffn_kind { FFN_SILU_GATED, FFN_GELU_GATED, FFN_RELU };
enum need { NEED_NO, NEED_MAYBE, NEED_YES };

/* One architecture: what differs between the families, and nothing else. */
struct arch {
    const char *name;
    enum rope_kind rope;
    enum ffn_kind ffn;
    bool has_layer_norm;  /* LayerNorm with biases; else RMSNorm */
    bool is_post_ln;      /* norm after each residual sum instead of before each block */
    bool has_post_norms;  /* a second norm on each block's output, before the residual sum */
    bool has_qk_norm;     /* RMSNorm on each head of q and k before rope */
    bool scales_embd;     /* embedding times sqrt(n_embd) */
    bool has_positions;   /* learned position table */
    size_t position_offset; /* its first rows that no token uses */
    bool wants_fused_ffn; /* ffn_up holds gate and up */
    enum need qkv_bias, out_bias, ffn_bias;
    size_t window_default, window_period; /* every window_period-th layer is global; 0: no local layers of its own */
    double rope_base_local; /* of the local layers; 0: as the global ones */
    size_t layers_of_27b; /* the one size that scales attention by n_embd / n_heads instead of the head size */
    double attn_cap_default, final_cap_default;
};

/* A matrix: rows of k values, as r8 strips when products use it, else (embeddings) row by row. */
struct matrix {
    const void *data;    /* NULL: there is none */
    size_t n_rows, k;
    size_t strip_bytes;  /* of eight rows; 0: row-major, row_bytes apart */
    size_t row_bytes;
    enum tensor_type type;
};

struct layer {
    struct matrix q, k, v, o, gate, up, down; /* fused in the file: q holds the rows of k and v too, gate those of up */
    const float *q_bias, *k_bias, *v_bias, *o_bias, *gate_bias, *up_bias, *down_bias; /* NULL: none */
    const float *attn_norm, *attn_norm_b, *ffn_norm, *ffn_norm_b;
    const float *attn_post_norm, *ffn_post_norm, *q_norm, *k_norm;
    bool qkv_wants_act, o_wants_act, up_wants_act, down_wants_act; /* some matrix wants quantised activations */
    size_t window;     /* keys with q_pos - k_pos < window are visible; 0: all */
    size_t i_rope;     /* which rope table; for LongRoPE the slice decides */
};

/* Angles per position of each rotated pair. Table 0 is the usual one; table 1 that of local layers (gemma3)
 * or LongRoPE's long factors. */
enum { ROPE_TABLES = 2 };
struct rope {
    enum rope_kind kind;
    size_t n_pairs, n_tables;
    double *inv_freq[ROPE_TABLES]; /* [n_pairs] */
    double magnitude[ROPE_TABLES]; /* factor on cos and sin */
    size_t long_above;             /* n_ctx above this takes table 1; 0: layers decide */
};

struct model {
    const struct arch *arch;
    struct model_info info;
    struct rope rope;
    struct weights *weights;
    struct layer *layers; /* [info.n_layers] */
    struct matrix embd, output, positions;
    bool output_wants_act;
    const float *output_norm, *output_norm_b;
    float eps, attn_scale, attn_cap, final_cap, embd_scale;
};

/* Reads and checks everything but starts nothing. The arena keeps the results; m->weights is to be closed by
 * the caller, also after a failure. k: for the dequantisation of small vectors. */
MUST_CHECK enum hearth_status model_open(struct model *m, const struct gguf *g, const struct engine_options *o,
                                         const struct kernels *k, struct arena *a, struct err *e);

/* ---- a step ---- */

struct row {
    struct slice *slice;
    size_t position;
    int32_t token;
};

/* Consecutive rows of one slice whose attention is computed together. */
struct block {
    struct slice *slice;
    size_t i_row, n_rows;
};

/* Steps of at most so many rows (a token, a few guesses or a few sequences) are bound by reading the weights; their row work
 * is done inside the jobs of the products. */
enum { FEW_ROWS = 16 };

/* Every buffer, cut from one block of pages at open. Sizes in scratch_layout (forward.c). */
struct scratch {
    uint8_t *base;
    size_t bytes;
    struct row *rows;       /* [max_batch] */
    struct block *blocks;   /* [max_batch] */
    size_t *logit_rows;     /* [max_batch]  which rows give logits, in the order of slices */
    float **logits;         /* [max_batch]  where they go */
    float *x;               /* [max_batch, n_embd]  the residual stream */
    float *h;               /* [max_batch, n_embd]  normed input of a block, then its output */
    float *qkv;             /* [max_batch, n_q + 2 * n_kv] values of the heads */
    float *att;             /* [max_batch, n_q] */
    float *ffn;             /* [max_batch, width_ffn] gate | up; shares its memory with qkv and att */
    struct act_block *act;  /* [max_batch, max_k / 32] */
    struct act_block *act_few; /* [FEW_ROWS, max_k / 32]  what is made while others still read act */
    atomic_uint *head_left;    /* [n_kv_heads]  slices of q, k, v rows still to come */
    atomic_uint *head_ready;   /* [n_kv_heads]  latches: q, k and v of this head are there */
    float *cos, *sin;       /* [ROPE_TABLES][max_batch, n_pairs] */
    float *thread_attn;     /* [n_threads] of attn_thread_floats */
    float *part_o;          /* [part rows, head_dim]: attention split over ranges */
    float *part_m, *part_l; /* [part rows] */
    float *total_m, *total_l; /* [part rows] */
    atomic_uint *units_done; /* [split units] ranges that a unit has behind it; 0 between jobs */
};

struct engine {
    struct model model;
    struct kv_layout kv;
    const struct kernels *k;
    struct pool *pool;
    struct arena arena;     /* directory, tables, this struct */
    struct scratch s;
    size_t n_threads, max_batch;
    unsigned power;
    struct cpu_list cpus;   /* n 0: the system chooses among all */
    bool pins;              /* one thread on each of them */
    size_t max_k;           /* longest row of activations */
    size_t block_tokens;    /* tokens per attention block */
    size_t block_rows;      /* query rows of one K/V head in it */
    size_t share_above;     /* multiply-adds below which a job is not worth waking workers for */
    enum engine_mutation mutation;
    struct engine_profile *profile; /* NULL: nobody asks */
};

/* Runs the slices of a job of about n_macs multiply-adds: on the pool, or here when handing it over would cost more
 * (small models on a busy machine would wait for workers most of their time). The bits are the same. */
static inline void run_job(struct engine *en, pool_fn fn, void *arg, size_t n_slices, size_t n_macs)
{
    if (n_macs < en->share_above) {
        pool_rest(en->pool);
        for (size_t i = 0; i < n_slices; i++)
            fn(arg, i, 0);
    } else
        pool_run(en->pool, fn, arg, n_slices);
}

/* Everything since the last call was this phase. */
void profile_phase(struct engine *en, enum engine_phase phase);
static inline void phase_done(struct engine *en, enum engine_phase phase)
{
    if (en->profile)
        profile_phase(en, phase);
}

struct step {
    struct engine *en;
    struct slice *slices;
    size_t n_slices, n_rows, n_blocks, n_logit_rows;
    size_t n_ranges_end;    /* one behind the last range of ATTN_RANGE_TOKENS that any row sees */
    size_t attn_macs;       /* about the multiply-adds of one layer's attention */
};

/* Values of all query heads, and of all K (or V) heads, in one row. */
static inline size_t width_q(const struct model *m)
{
    return m->info.n_heads * m->info.head_dim;
}
static inline size_t width_kv(const struct model *m)
{
    return m->info.n_kv_heads * m->info.head_dim;
}

/* Values of the hidden layer's products in one row. */
static inline size_t width_ffn(const struct model *m)
{
    return m->arch->ffn == FFN_RELU ? m->info.n_ff : 2 * m->info.n_ff;
}

/* ---- products.c ---- */

/* What products read: rows of floats, and the same rows quantised for matrices that want them so. */
struct input {
    const float *x;
    size_t x_stride;
    const struct act_block *act;
};

/* y[row][i] = w[i] . x[row] for one matrix; several matrices share a job when they share x. */
struct product {
    const struct matrix *w;
    float *y;
    size_t y_stride;
};

/* Rows [row, row + n) of w times n_cols rows of activations; y: where the first of them goes. row: a multiple of 8. */
void multiply(const struct engine *en, const struct matrix *w, size_t row, size_t n, const struct input *in, size_t n_cols, float *y,
              size_t y_stride);
/* Rows of a matrix that make a good slice of a job, a multiple of `unit`; n_rows: of activations. */
size_t strip_rows_for(const struct engine *en, size_t n_weight_rows, size_t strip_bytes, size_t n_rows, size_t unit);
/* All products of the same input. The last ones may have no matrix: what the file fuses is one product. */
void run_products(struct step *st, enum engine_phase phase, struct input in, const struct product *p, size_t n);

/* ---- attention.c ---- */

/* Tokens whose attention is computed together, so that a K/V tile is read once for all of them. */
size_t attn_block_tokens(const struct model *m);
/* Attention split over ranges of the context: query rows of partial results, and units of work at most; 0 with one
 * thread. */
size_t attn_part_rows(const struct engine *en);
size_t attn_split_units(const struct engine *en);
size_t attn_thread_floats(const struct engine *en);
/* Fills s.blocks and what else depends on the step's rows only. */
void attn_plan(struct step *st);
/* att[row] for all rows, and act[row] where the layer's output product wants it. K and V of these rows are in the chunks
 * already. */
void attn_run(struct step *st, size_t i_layer);

/* One layer's attention as a job. */
struct attn_job {
    struct step *st;
    struct act_block *act; /* where quantised outputs go, if the output product wants them */
    size_t i_layer, n_units, n_slices;
    size_t first_range, end_range; /* all that rows of this layer see */
    size_t n_at_once;         /* ranges side by side; 0: units stay whole */
    size_t i_range, n_ranges; /* those computed side by side now */
    bool is_first, is_last;   /* of all ranges of the layer */
};
/* True: running attn_slice for all of n_slices is all there is to do. It is attn_run that does it otherwise. */
bool attn_open(struct attn_job *j, struct step *st, size_t i_layer, struct act_block *act);
void attn_slice(void *job, size_t i_slice, size_t i_thread);
/* The K/V head whose q, k and v (of all rows) a slice reads. The first n_kv_heads slices are of different heads. */
size_t attn_slice_head(const struct attn_job *j, size_t i_slice);

#endif

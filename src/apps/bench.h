/* bench.h: what the files of hearth bench share.
 *
 *   bench.c           the verb: options, what is measured, set-up, rounds
 *   bench_measure.c   the machine's limits, and one measurement after the other
 *   bench_child.c     loading and peak memory, each time in a process of its own
 *   bench_peer.c      another engine on the same file, in turn with hearth
 *   bench_report.c    medians and tables: text, Markdown, JSON
 *   bench_profile.c   where the time of a step goes
 *   bench_speculate.c what guessing ahead gains and costs, on replayed answers
 *   bench_start.c     the time to the first token, warm and cold
 *   bench_kernels.c   the tables of kernels without a model; bench_vectors.c their part that is no product
 */
#ifndef HEARTH_APPS_BENCH_H
#define HEARTH_APPS_BENCH_H

#include "apps/apps.h"

enum { LIST_MAX = 8, MEASURES_MAX = 2 * LIST_MAX + 2, ROUNDS_MAX = 101, SEQUENCES_MAX = 64 };

struct bench_options {
    size_t n_rounds, n_decode, n_new, n_sequences, n_threads, power;
    const char *prefill, *decode, *peer, *peer_args, *affinity;
    int kv;
    bool json, markdown, profile, kernels, no_pack, start;
    const char *isa, *type;
    struct str_list speculate;
};
extern const char *const bench_kv_names[];

struct series {
    double v[ROUNDS_MAX];
    size_t n;
};
struct spread {
    double median, lo, hi;
};

/* A prompt; tokens one by one behind a history; some more tokens behind a history; one token for each of many sequences. */
enum measure_kind { MEASURE_PREFILL, MEASURE_DECODE, MEASURE_APPEND, MEASURE_BATCH };
struct measure {
    enum measure_kind kind;
    size_t size;                  /* length of the prompt, or tokens of the history */
    size_t n_new, n_sequences;    /* tokens that a step adds to each of the sequences */
    size_t n_steps;               /* steps of one run */
    bool skipped;                 /* longer than the model's context */
    double ops, bytes;            /* of one step */
    struct series rate, share;    /* new tokens per second; of the limit */
    struct series peer_rate, ratio; /* ratio: hearth's rate to the peer's in the same round */
    struct engine_profile profile;
    struct context *context;      /* of decode and append */
};

/* What a process of its own found: see bench_child.c. */
struct load_report {
    double load_s;
    uint64_t peak_bytes, base_bytes, kv_bytes; /* base: before the model */
    size_t n_vocab, n_threads;
    char error[480];                           /* empty: it worked */
};

struct bench_child {
    int pid, to, from; /* to, from: -1 when not open */
};
struct peer;
struct bench {
    struct bench_options o;
    const char *path;
    struct gguf g;
    struct engine *engine;
    const struct kernels *kernels;
    struct measure m[MEASURES_MAX];
    size_t n_measures, n_ctx;
    struct context *prefill_context;
    struct kv_view *views;     /* [n_sequences] of the batch */
    uint8_t *batch_kv;
    size_t batch_kv_bytes;
    float *batch_logits;
    int32_t *batch_tokens;
    int32_t *tokens;           /* [n_ctx + 1] */
    struct series read_rate, buffer_rate, int8_rate; /* of the weights where they are, of other memory, of the mix */
    struct weight_span *pieces; /* the weights in pieces of at most PIECE_BYTES */
    size_t n_pieces;
    double piece_bytes;
    uint8_t *buffer;
    size_t buffer_bytes;
    struct bench_child child;
    struct series load_s, peer_load_s;
    struct load_report run, peer_run; /* of a prompt and some tokens */
    struct peer *peer;         /* NULL: none */
    const atomic_int *cancel;
    struct bar bar;
    size_t n_done, n_bar_steps;
};

/* ---- bench_report.c ---- */

struct spread spread_of(const struct series *s);
void record(struct series *s, double v);
double seconds_since(uint64_t begin_ns);
json_t *json_spread(const struct series *s); /* {median, min, max} */
/* "AMD EPYC ..." as the system calls it, or the architecture. */
const char *bench_cpu_name(void);
/* "prefill of 512", "decode at depth 2048" ... in a static buffer. */
const char *measure_name(const struct measure *m);
void bench_report(const struct bench *b);

/* ---- bench_measure.c ---- */

/* Is it a tensor of a layer, or the output matrix? */
bool bench_is_layer(const struct gguf_tensor *t);
bool bench_is_output(const struct bench *b, const struct gguf_tensor *t);
/* Work of every measurement; see the top of bench.c. */
void bench_count_work(struct bench *b);
/* The memory of limits, contexts and batches. */
MUST_CHECK enum hearth_status bench_measure_open(struct bench *b, struct arena *a, struct err *e);
MUST_CHECK enum hearth_status bench_fill(struct bench *b, struct err *e);
void bench_measure_close(struct bench *b);
/* One round of everything, the peer's part included. */
MUST_CHECK enum hearth_status bench_round(struct bench *b, struct err *e);
void bench_step_done(struct bench *b, const char *what);

/* ---- bench_child.c ---- */

/* Before any thread is started. */
MUST_CHECK enum hearth_status bench_child_open(struct bench_child *c, struct bench *b, struct err *e);
void bench_child_close(struct bench_child *c);
/* Opens the model in a fresh process; with_run: and runs a prompt of RUN_PROMPT tokens and RUN_TOKENS more. */
enum { RUN_PROMPT = 512, RUN_TOKENS = 16 };
MUST_CHECK enum hearth_status bench_child_measure(struct bench_child *c, bool with_run, struct load_report *out, struct err *e);

/* ---- bench_peer.c ---- */

/* Finds or installs the peer that b->o.peer names ("": node-llama-cpp; else a llama-bench). */
MUST_CHECK enum hearth_status peer_find(struct peer **out, const struct bench *b, struct err *e);
void peer_close(struct peer *p); /* accepts NULL */
/* "node-llama-cpp 3.22.1 (haswell)"; complete once a model was loaded. */
const char *peer_name(const struct peer *p);
/* As bench_child_measure. Does nothing for a llama-bench, whose prompts tell their peak when they run. */
MUST_CHECK enum hearth_status peer_load(struct peer *p, const struct bench *b, bool with_run, struct load_report *out, struct err *e);
/* Loads the model for good, and fills its contexts. */
MUST_CHECK enum hearth_status peer_start(struct peer *p, struct bench *b, struct err *e);
bool peer_can(const struct peer *p, const struct measure *m);
MUST_CHECK enum hearth_status peer_run(struct peer *p, const struct bench *b, const struct measure *m, double *seconds, struct err *e);

/* ---- bench_kernels.c ---- */

/* Measures and prints the tables of kernels. EINVAL, ENOMEM, ECANCELLED. */
enum hearth_status bench_kernels(const struct bench_options *o, struct err *e);

/* ---- bench_start.c ---- */

/* Measures and prints how long it takes to the first token, warm and cold. */
enum hearth_status bench_start(const char *path, const struct bench_options *o, struct err *e);

/* ---- bench_vectors.c ---- */

/* Row work and attention of a table, one thread; prints unless JSON is asked. memory: finite fp16 numbers. */
json_t *bench_vectors(const struct kernels *t, const uint8_t *memory, size_t n_bytes, const struct bench_options *o);

/* ---- bench_speculate.c ---- */

/* Measures and prints what guessing ahead gains on the texts of o->speculate. Statuses of opening a model; EINVAL, ECANCELLED. */
enum hearth_status bench_speculate(const struct bench_options *o, const char *path, struct err *e);

/* ---- bench_profile.c ---- */

/* Where the time of every measurement went, as tables, or as a list of objects. */
void bench_print_profiles(const struct bench *b);
json_t *bench_json_profiles(const struct bench *b);

#endif

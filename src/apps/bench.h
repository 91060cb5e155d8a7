/* bench.h: what the files of hearth bench share. bench.c has the verb, the rounds and the report, bench_profile.c the table of
 * where the time goes.
 */
#ifndef HEARTH_APPS_BENCH_H
#define HEARTH_APPS_BENCH_H

#include "apps/apps.h"

enum { LIST_MAX = 8, ROUNDS_MAX = 101 };

struct bench_options {
    size_t n_rounds, n_decode, n_threads, power;
    const char *prefill, *decode, *affinity;
    int kv;
    bool json, profile, kernels, no_pack;
    const char *isa, *type;
};
struct series {
    double v[ROUNDS_MAX];
    size_t n;
};
struct spread {
    double median, lo, hi;
};
struct measure {
    size_t size; /* length of the prompt, or depth */
    bool skipped;
    double work; /* operations of a prefill, or bytes of a decode step */
    struct engine_profile profile;
    struct series rate, share; /* tokens/s; work per second as a share of the round's limit */
    struct context *context;   /* of a decode */
};
struct bench {
    struct bench_options o;
    struct gguf g;
    struct engine *engine;
    const struct kernels *kernels;
    struct context *prefill_context;
    struct measure prefill[LIST_MAX], decode[LIST_MAX];
    size_t n_prefill, n_decode, n_ctx;
    struct series read_rate, int8_rate; /* bytes/s, operations/s */
    uint8_t *buffer;
    int32_t *tokens; /* [n_ctx] */
    size_t buffer_bytes;
    const atomic_int *cancel;
    struct bar bar;
    size_t n_done, n_steps;
};


struct spread spread_of(const struct series *s);
void record(struct series *s, double v);
double seconds_since(uint64_t begin_ns);

/* Is it a tensor of a layer, or the output matrix? */
bool bench_is_layer(const struct gguf_tensor *t);
bool bench_is_output(const struct bench *b, const struct gguf_tensor *t);

json_t *json_spread(const struct series *s); /* {median, min, max} */
/* "AMD EPYC ..." as the system calls it, or the architecture. */
const char *bench_cpu_name(void);

/* ---- bench_kernels.c ---- */

/* Measures and prints the tables of kernels. EINVAL, ENOMEM, ECANCELLED. */
enum hearth_status bench_kernels(const struct bench_options *o, struct err *e);

/* ---- bench_vectors.c ---- */

/* Row work and attention of a table, one thread; prints unless JSON is asked. memory: finite fp16 numbers. */
json_t *bench_vectors(const struct kernels *t, const uint8_t *memory, size_t n_bytes, const struct bench_options *o);

/* ---- bench_profile.c ---- */

/* Where the time of every measurement went, as tables, or as a list of objects. */
void bench_print_profiles(const struct bench *b);
json_t *bench_json_profiles(const struct bench *b);

#endif

/* bench.c: hearth bench MODEL: how fast, compared with what this machine can do, and with another engine.
 *
 * Each round measures the machine's read bandwidth (all threads stream the weights where they lie), its rate of 8-bit
 * multiplications (all threads, registers only, the mix of instructions the kernels are made of), then every measurement, one after the
 * other, so that a machine that drifts drifts for all of them. With --peer each measurement of hearth is followed by the peer's. Medians over
 * the rounds, with the smallest and the largest; ratios are taken within a round.
 *
 * What is counted. Operations: 2 per weight that a token is multiplied with, over all matrices of the layers
 * for each token, and the output matrix once per row that gets logits (one for a prompt); attention and
 * everything else is left out. Bytes: the weights that one step must read (layers and output matrix) and the
 * K/V of the history.
 *
 *   prefill of N             operations, of the int8 rate
 *   decode at depth D        bytes, of the bandwidth
 *   N new tokens at depth D  the longer of the two bounds, of the time it took
 *   N sequences              the same, one new token each
 *
 * Depth is real: a context is filled once by a real prefill, and after each measurement cut back to the depth.
 * Tokens are arbitrary: speed does not depend on them. Load time and peak memory are those of processes of their own (bench_child.c).
 *
 * With --profile the same measurements also say where their time goes: the engine reads the clock between phases, which
 * costs some microseconds per step.
 */
#include "apps/bench.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

const char *const bench_kv_names[] = { "f16", "f32", NULL };
#define O(field) offsetof(struct bench_options, field)
static const struct option options[] = {
    { "reps", 'r', OPT_SIZE, O(n_rounds), "N", "rounds (5)", 1, ROUNDS_MAX },
    { "prefill", 0, OPT_STR, O(prefill), "N,N", "lengths of prompts (32,128,512)" },
    { "decode", 0, OPT_STR, O(decode), "N,N", "depths at which to decode (0,512,2048)" },
    { "tokens", 'n', OPT_SIZE, O(n_decode), "N", "tokens to decode per measurement (16)", 1, 4096 },
    { "new", 0, OPT_SIZE, O(n_new), "N", "tokens that come together at the greatest depth (8; 0: none)", 0, 512 },
    { "sequences", 0, OPT_SIZE, O(n_sequences), "N", "sequences of a small batch (8; 0: none)", 0, SEQUENCES_MAX },
    { "threads", 0, OPT_SIZE, O(n_threads), "N", "threads (one per CPU, or HEARTH_THREADS)", 1, LIMIT_THREADS },
    { "affinity", 0, OPT_STR, O(affinity), "CPUS", AFFINITY_HELP },
    { "power", 0, OPT_SIZE, O(power), "N", POWER_HELP, 1, 100 },
    { "kv", 0, OPT_CHOICE, O(kv), "f16|f32", "type of the K/V cache (f16)", 0, 0, bench_kv_names },
    { "json", 0, OPT_FLAG, O(json), NULL, "one JSON object" },
    { "no-pack", 0, OPT_FLAG, O(no_pack), NULL, "pack the weights in memory, neither look for a pack nor make one" },
    { "markdown", 0, OPT_FLAG, O(markdown), NULL, "tables to paste into a document" },
    { "start", 0, OPT_FLAG, O(start), NULL, "measure the time to the first token instead, warm and from a cold page cache" },
    { "profile", 0, OPT_FLAG, O(profile), NULL, "say where the time goes, phase by phase" },
    { "speculate", 0, OPT_LIST, O(speculate), "TEXT", "instead replay this file's answer with and without guessing ahead (may be repeated)" },
};
static const struct option peer_options[] = {
    { "peer", 0, OPT_MAYBE, O(peer), "PATH", "in turn with node-llama-cpp, or with the llama-bench at PATH" },
    { "peer-args", 0, OPT_STR, O(peer_args), "ARGS", "more options for that llama-bench, as \"-rtr 1\"" },
};
static const struct option kernel_options[] = {
    { "kernels", 0, OPT_FLAG, O(kernels), NULL, "measure the kernels instead of a model" },
    { "isa", 0, OPT_STR, O(isa), "NAME", "of the kernels only this instruction set" },
    { "type", 0, OPT_STR, O(type), "T", "of the kernels only this weight type" },
};

/* ---- what is measured ---- */

/* "32,128,512": a measurement each. */
static bool add_list(struct bench *b, enum measure_kind kind, const char *text, size_t lo)
{
    const char *p = text;
    for (size_t n = 0; n < LIST_MAX; n++) {
        char *end;
        unsigned long v = strtoul(p, &end, 10);
        if (*p < '0' || *p > '9' || v < lo || v > LIMIT_CONTEXT)
            return false;
        b->m[b->n_measures++] = (struct measure){
            .kind = kind, .size = v, .n_sequences = 1, .n_new = kind == MEASURE_PREFILL ? v : 1, .n_steps = kind == MEASURE_PREFILL ? 1 : b->o.n_decode
        };
        if (!*end)
            return true;
        if (*end != ',')
            return false;
        p = end + 1;
    }
    return false;
}

static void add_small_batches(struct bench *b, const struct measure *deepest)
{
    if (b->o.n_new)
        b->m[b->n_measures++] = (struct measure){ .kind = MEASURE_APPEND, .size = deepest->size, .n_new = b->o.n_new, .n_sequences = 1, .n_steps = 1 };
    if (b->o.n_sequences)
        b->m[b->n_measures++] = (struct measure){ .kind = MEASURE_BATCH, .size = 1, .n_new = 1, .n_sequences = b->o.n_sequences,
                                                  .n_steps = b->o.n_decode };
}

/* Leaves out what is too long for the model, adds the small batches, and counts the steps of the bar. */
static void plan(struct bench *b)
{
    const struct model_info *info = engine_info(b->engine);
    size_t limit = info->n_ctx_max ? info->n_ctx_max : info->n_ctx_train ? info->n_ctx_train : SIZE_MAX;
    struct measure none = { .size = 1 };
    const struct measure *deepest = &none;
    for (size_t i = 0; i < b->n_measures; i++)
        if (b->m[i].kind == MEASURE_DECODE && b->m[i].size + MAX(b->o.n_decode, b->o.n_new) < limit && b->m[i].size > deepest->size)
            deepest = &b->m[i];
    add_small_batches(b, deepest);
    b->n_ctx = MIN(limit, (size_t)RUN_PROMPT);
    for (size_t i = 0; i < b->n_measures; i++) {
        struct measure *m = &b->m[i];
        size_t n = m->kind == MEASURE_PREFILL ? m->size : MAX(m->size, 1u) + m->n_new * m->n_steps;
        m->skipped = n > limit || (m->kind == MEASURE_BATCH && m->n_sequences > engine_max_batch(b->engine));
        if (m->skipped)
            continue;
        b->n_ctx = MAX(b->n_ctx, n);
        b->n_bar_steps += b->o.n_rounds * (b->peer && peer_can(b->peer, m) ? 2 : 1) + 1;
    }
    b->n_bar_steps += b->o.n_rounds;
}

/* ---- the run ---- */

static enum hearth_status measure_peer_load(struct bench *b, bool with_run, struct err *e)
{
    struct load_report r = { 0 };
    enum hearth_status st = b->peer ? peer_load(b->peer, b, with_run, &r, e) : HEARTH_OK;
    if (r.load_s > 0)
        record(&b->peer_load_s, r.load_s);
    if (with_run)
        b->peer_run = r;
    return st;
}

/* Each round a fresh process; the first one also runs the model. All before the model is opened here, so that
 * never more processes than needed hold it. A model that does not open is left to open_model to explain. */
static enum hearth_status measure_loads(struct bench *b, struct err *e)
{
    enum hearth_status st = bench_child_measure(&b->child, true, &b->run, e);
    if (st != HEARTH_OK || b->run.error[0])
        return st;
    if (b->o.peer)
        st = peer_find(&b->peer, b, e);
    record(&b->load_s, b->run.load_s);
    if (st == HEARTH_OK)
        st = measure_peer_load(b, true, e);
    for (size_t i = 1; i < b->o.n_rounds && st == HEARTH_OK && !atomic_load(b->cancel); i++) {
        struct load_report r = { 0 };
        st = bench_child_measure(&b->child, false, &r, e);
        record(&b->load_s, r.load_s);
        if (st == HEARTH_OK)
            st = measure_peer_load(b, false, e);
    }
    return st;
}

static enum hearth_status open_model(struct bench *b, struct arena *a, struct err *e)
{
    struct engine_options eo = { .n_threads = b->o.n_threads, .affinity = b->o.affinity, .power = (unsigned)b->o.power, .kv_type = (enum kv_type)b->o.kv };
    enum hearth_status st = engine_open(&b->engine, &b->g, &eo, e);
    if (st != HEARTH_OK)
        return st;
    if (b->run.error[0] && b->o.peer)
        return err_set(e, HEARTH_EUNSUPPORTED, "%s", b->run.error);
    b->kernels = kernels_get(e);
    if (!b->kernels)
        return e->status;
    plan(b);
    bench_count_work(b);
    return bench_measure_open(b, a, e);
}

static enum hearth_status measure_all(struct bench *b, struct arena *a, struct err *e)
{
    enum hearth_status st = bench_child_open(&b->child, b, e);
    b->cancel = interrupts_catch();
    signal(SIGPIPE, SIG_IGN); /* a process beside us that ends early is an error, not our end */
    bar_open(&b->bar, "bench", "steps");
    if (st == HEARTH_OK)
        st = packs_open(&b->g, b->path, b->o.no_pack, b->o.n_threads, a, e);
    if (st == HEARTH_OK)
        st = measure_loads(b, e);
    if (st == HEARTH_OK)
        st = open_model(b, a, e);
    if (st == HEARTH_OK)
        st = bench_fill(b, e);
    if (st == HEARTH_OK && b->peer)
        st = peer_start(b->peer, b, e);
    for (size_t i = 0; i < b->o.n_rounds && st == HEARTH_OK; i++)
        st = bench_round(b, e);
    bar_close(&b->bar);
    if (st != HEARTH_OK && atomic_load(b->cancel)) {
        err_clear(e);
        st = err_set(e, HEARTH_ECANCELLED, "interrupted");
    }
    return st;
}

static void tear_down(struct bench *b)
{
    peer_close(b->peer);
    bench_child_close(&b->child);
    bench_measure_close(b);
    engine_close(b->engine);
    gguf_close(&b->g);
}

/* ---- the verb ---- */

static bool name_is_among(const char *name, const char *const *names)
{
    for (; *names; names++)
        if (strcmp(name, *names) == 0)
            return true;
    return false;
}

/* -1 to go on, or the exit code. */
static int check_options(struct bench *b, size_t n_args)
{
    struct bench_options *o = &b->o;
    if (!o->prefill)
        o->prefill = o->peer ? "128,512" : "32,128,512";
    if (!o->decode)
        o->decode = o->peer ? "0,2048" : "0,512,2048";
    if (!add_list(b, MEASURE_PREFILL, o->prefill, 1))
        return (int)usage_error("bench", "--prefill needs up to %d lengths, as 32,128,512, not \"%s\"", LIST_MAX, o->prefill);
    if (!add_list(b, MEASURE_DECODE, o->decode, 0))
        return (int)usage_error("bench", "--decode needs up to %d depths, as 0,512,2048, not \"%s\"", LIST_MAX, o->decode);
    if (o->kernels == (n_args == 1))
        return (int)usage_error("bench", n_args ? "--kernels takes no model" : "missing argument: hearth bench MODEL.gguf | --kernels");
    if (o->isa && !name_is_among(o->isa, kernels_names()))
        return (int)usage_error("bench", "--isa: \"%s\" is not built in", o->isa);
    if (o->type && type_by_name(o->type) == TYPE_COUNT)
        return (int)usage_error("bench", "--type: no type \"%s\"", o->type);
    if (o->speculate.n && (o->kernels || o->peer || o->markdown || o->profile))
        return (int)usage_error("bench", "--speculate stands without --kernels, --peer, --markdown and --profile");
    if (o->json && o->markdown)
        return (int)usage_error("bench", "--json or --markdown, not both");
    if (o->peer_args && (!o->peer || !*o->peer))
        return (int)usage_error("bench", "--peer-args are for a llama-bench: --peer=PATH");
    return -1;
}

int verb_bench(int argc, char **argv)
{
    struct bench *b = calloc(1, sizeof *b);
    struct arena a;
    struct err e = { 0 };
    enum hearth_status st;
    size_t n_args;
    CHECK(b);
    b->o = (struct bench_options){ .n_rounds = 5, .n_decode = 16, .n_new = 8, .n_sequences = 8 };
    b->child = (struct bench_child){ 0, -1, -1 };
    const struct command c = {
        "bench", "MODEL.gguf | --kernels", "Measures prefill and decode, as tokens/s and as a share of what this machine can do.",
        "The machine's read bandwidth and its rate of int8 multiplications are measured in the same rounds. --peer puts\n"
        "node-llama-cpp into ~/.cache/hearth/peer with npm on first use; HEARTH_CPU holds for it, too.",
        { { "Options", options, ARRAY_LEN(options), &b->o }, { "Another engine beside", peer_options, ARRAY_LEN(peer_options), &b->o },
          { "Kernels instead of a model", kernel_options, ARRAY_LEN(kernel_options), &b->o } },
        0, 1,
    };
    arena_init(&a, 0);
    int code = options_parse(&c, argc, argv, &n_args);
    if (code < 0)
        code = check_options(b, n_args);
    if (code < 0) {
        b->path = argv[0];
        bool has_report = !b->o.kernels && !b->o.start && !b->o.speculate.n;
        st = has_report     ? measure_all(b, &a, &e)
             : b->o.kernels ? bench_kernels(&b->o, &e)
             : b->o.start   ? bench_start(argv[0], &b->o, &e)
                            : bench_speculate(&b->o, argv[0], &e);
        if (st == HEARTH_OK && has_report)
            bench_report(b);
        code = (int)(st == HEARTH_OK ? finish_output("bench", EXIT_DONE) : fail("bench", st, &e));
        tear_down(b);
    }
    arena_free(&a);
    free(b);
    return code;
}

/* bench.c: hearth bench MODEL: how fast, and how fast compared with what this machine can do.
 *
 * Each round measures the machine's read bandwidth (all threads stream a large buffer), its rate of 8-bit
 * multiplications (all threads, registers only, the mix of instructions the kernels are made of), then prefill at
 * each length and decode at each depth, one after the other, so that a machine that drifts drifts for all of them. Medians over the
 * rounds, with the smallest and the largest.
 *
 * What is counted. Prefill: 2 operations per weight that a token is multiplied with, over all matrices of the layers
 * for each token, and the output matrix once, because logits are made for the last row only; attention and
 * everything else is left out. Decode: the bytes of the weights that one step must read (layers and output matrix) and the
 * K/V of the depth. Shares divide these by the two limits of the same round.
 *
 * With --profile the same measurements also say where their time goes: the engine reads the clock between phases, which
 * costs some microseconds per step.
 *
 * Depth is real: a context is filled once by a real prefill, and after each measurement cut back to the depth.
 * Tokens are arbitrary: speed does not depend on them.
 */
#include "apps/bench.h"

#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

enum { BUFFER_BYTES = 512 << 20, PIECE_BYTES = 1 << 20, MEASURE_NS = 200 * 1000 * 1000 };

static const char *const kv_names[] = { "f16", "f32", NULL };
static const struct option options[] = {
    { "reps", 'r', OPT_SIZE, offsetof(struct bench_options, n_rounds), "N", "rounds (5)", 1, ROUNDS_MAX },
    { "prefill", 0, OPT_STR, offsetof(struct bench_options, prefill), "N,N", "lengths of prompts (32,128,512)" },
    { "decode", 0, OPT_STR, offsetof(struct bench_options, decode), "N,N", "depths at which to decode (0,512,2048)" },
    { "tokens", 'n', OPT_SIZE, offsetof(struct bench_options, n_decode), "N", "tokens to decode per measurement (16)", 1, 4096 },
    { "threads", 0, OPT_SIZE, offsetof(struct bench_options, n_threads), "N", "threads (one per CPU, or HEARTH_THREADS)", 1, LIMIT_THREADS },
    { "affinity", 0, OPT_STR, offsetof(struct bench_options, affinity), "CPUS", AFFINITY_HELP },
    { "power", 0, OPT_SIZE, offsetof(struct bench_options, power), "N", POWER_HELP, 1, 100 },
    { "kv", 0, OPT_CHOICE, offsetof(struct bench_options, kv), "f16|f32", "type of the K/V cache (f16)", 0, 0, kv_names },
    { "json", 0, OPT_FLAG, offsetof(struct bench_options, json), NULL, "one JSON object" },
    { "no-pack", 0, OPT_FLAG, offsetof(struct bench_options, no_pack), NULL, "pack the weights in memory, neither look for a pack nor make one" },
    { "profile", 0, OPT_FLAG, offsetof(struct bench_options, profile), NULL, "say where the time goes, phase by phase" },
};
static const struct option kernel_options[] = {
    { "kernels", 0, OPT_FLAG, offsetof(struct bench_options, kernels), NULL, "measure the kernels instead of a model" },
    { "isa", 0, OPT_STR, offsetof(struct bench_options, isa), "NAME", "of the kernels only this instruction set" },
    { "type", 0, OPT_STR, offsetof(struct bench_options, type), "T", "of the kernels only this weight type" },
};

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

struct spread spread_of(const struct series *s)
{
    double v[ROUNDS_MAX];
    if (!s->n)
        return (struct spread){ 0 };
    memcpy(v, s->v, s->n * sizeof *v);
    qsort(v, s->n, sizeof *v, by_value);
    double median = s->n % 2 ? v[s->n / 2] : (v[s->n / 2 - 1] + v[s->n / 2]) / 2;
    return (struct spread){ median, v[0], v[s->n - 1] };
}

void record(struct series *s, double v)
{
    CHECK(s->n < ROUNDS_MAX);
    s->v[s->n++] = v;
}

double seconds_since(uint64_t begin_ns)
{
    return (double)MAX(clock_ns() - begin_ns, 1u) * 1e-9;
}

const char *bench_cpu_name(void)
{
    static char name[128], line[256];
    FILE *f = name[0] ? NULL : fopen("/proc/cpuinfo", "r");
    while (f && fgets(line, sizeof line, f)) {
        const char *at = strchr(line, ':');
        if (strncmp(line, "model name", 10) == 0 && at && !name[0])
            snprintf(name, sizeof name, "%.*s", (int)strcspn(at + 2, "\n"), at + 2);
    }
    if (f)
        fclose(f);
    struct utsname u;
    if (!name[0] && uname(&u) == 0)
        snprintf(name, sizeof name, "%s", u.machine);
    return name;
}

/* ---- the machine ---- */

static atomic_uint_fast64_t consumed; /* what the loops computed goes here, so that they are not dropped */

static void read_piece(void *arg, size_t i_slice, size_t i_thread)
{
    struct bench *b = arg;
    (void)i_thread;
    atomic_fetch_xor(&consumed, b->kernels->bench_read(b->buffer + i_slice * PIECE_BYTES, PIECE_BYTES));
}

static double measure_read(struct bench *b)
{
    uint64_t begin = clock_ns();
    size_t bytes = 0;
    do {
        pool_run(engine_pool(b->engine), read_piece, b, b->buffer_bytes / PIECE_BYTES);
        bytes += b->buffer_bytes;
    } while (clock_ns() - begin < MEASURE_NS);
    return (double)bytes / seconds_since(begin);
}

struct multiply_job {
    const struct kernels *kernels;
    size_t n_rounds;
    atomic_uint_fast64_t n_ops;
};

static void multiply_piece(void *arg, size_t i_slice, size_t i_thread)
{
    struct multiply_job *j = arg;
    float out;
    (void)i_slice, (void)i_thread;
    atomic_fetch_add(&j->n_ops, j->kernels->bench_int8(j->n_rounds, &out));
    atomic_fetch_xor(&consumed, (uint64_t)(out != 0));
}

static double measure_int8(struct bench *b)
{
    struct multiply_job j = { .kernels = b->kernels, .n_rounds = 20000 };
    uint64_t begin = clock_ns();
    do
        pool_run(engine_pool(b->engine), multiply_piece, &j, 4 * pool_threads(engine_pool(b->engine)));
    while (clock_ns() - begin < MEASURE_NS);
    return (double)atomic_load(&j.n_ops) / seconds_since(begin);
}

/* ---- the model ---- */

bool bench_is_layer(const struct gguf_tensor *t)
{
    return t->name.n > 4 && memcmp(t->name.p, "blk.", 4) == 0;
}

bool bench_is_output(const struct bench *b, const struct gguf_tensor *t)
{
    return str_eqz(t->name, engine_info(b->engine)->is_tied ? "token_embd.weight" : "output.weight");
}

/* The honest counts: see the top of the file. */
static void count_work(struct bench *b)
{
    const struct kv_layout *kv = engine_kv_layout(b->engine);
    double layer_weights = 0, output_weights = 0, step_bytes = 0;
    for (size_t i = 0; i < b->g.n_tensors; i++) {
        const struct gguf_tensor *t = &b->g.tensors[i];
        double n = (double)t->dims[0] * (double)t->dims[1];
        if (!bench_is_layer(t) && !bench_is_output(b, t))
            continue;
        step_bytes += (double)t->size_bytes;
        if (t->n_dims >= 2)
            *(bench_is_layer(t) ? &layer_weights : &output_weights) += n;
    }
    for (size_t i = 0; i < b->n_prefill; i++)
        b->prefill[i].work = 2 * (layer_weights * (double)b->prefill[i].size + output_weights);
    for (size_t i = 0; i < b->n_decode; i++)
        b->decode[i].work = step_bytes + (double)kv->chunk_bytes / CHUNK_TOKENS * (double)b->decode[i].size;
}

static void step_done(struct bench *b, const char *what)
{
    bar_update(&b->bar, what, ++b->n_done, b->n_steps);
}

static enum hearth_status measure_prefill(struct bench *b, struct measure *m, double limit, struct err *e)
{
    context_truncate(b->prefill_context, 0);
    engine_profile_attach(b->engine, b->o.profile ? &m->profile : NULL);
    uint64_t begin = clock_ns();
    enum hearth_status st = context_sync(b->prefill_context, b->tokens, m->size, NULL, b->cancel, NULL, NULL, e);
    double s = seconds_since(begin);
    engine_profile_attach(b->engine, NULL);
    record(&m->rate, (double)m->size / s);
    record(&m->share, m->work / s / limit);
    return st;
}

/* From `depth` tokens on (at least one: something must stand there). */
static enum hearth_status measure_decode(struct bench *b, struct measure *m, double limit, struct err *e)
{
    size_t n_filled = MAX(m->size, 1u);
    enum hearth_status st = HEARTH_OK;
    engine_profile_attach(b->engine, b->o.profile ? &m->profile : NULL);
    uint64_t begin = clock_ns();
    for (size_t i = 0; i < b->o.n_decode && st == HEARTH_OK; i++)
        st = context_append(m->context, b->tokens[n_filled + i], b->cancel, e);
    double s = seconds_since(begin) / (double)b->o.n_decode;
    engine_profile_attach(b->engine, NULL);
    context_truncate(m->context, n_filled);
    record(&m->rate, 1 / s);
    record(&m->share, m->work / s / limit);
    return st;
}

static enum hearth_status one_round(struct bench *b, struct err *e)
{
    enum hearth_status st = HEARTH_OK;
    double read_limit = measure_read(b), int8_limit = measure_int8(b);
    record(&b->read_rate, read_limit);
    record(&b->int8_rate, int8_limit);
    step_done(b, "limits");
    for (size_t i = 0; i < b->n_prefill && st == HEARTH_OK; i++)
        if (!b->prefill[i].skipped) {
            st = measure_prefill(b, &b->prefill[i], int8_limit, e);
            step_done(b, "prefill");
        }
    for (size_t i = 0; i < b->n_decode && st == HEARTH_OK; i++)
        if (!b->decode[i].skipped) {
            st = measure_decode(b, &b->decode[i], read_limit, e);
            step_done(b, "decode");
        }
    return st;
}

/* Fills a context to each depth. */
static enum hearth_status fill_contexts(struct bench *b, struct err *e)
{
    enum hearth_status st = HEARTH_OK;
    for (size_t i = 0; i < b->n_decode && st == HEARTH_OK; i++) {
        struct measure *m = &b->decode[i];
        if (m->skipped)
            continue;
        st = context_open(&m->context, b->engine, m->size + b->o.n_decode + 1, e);
        if (st == HEARTH_OK)
            st = context_sync(m->context, b->tokens, MAX(m->size, 1u), NULL, b->cancel, NULL, NULL, e);
        step_done(b, "filling contexts");
    }
    return st;
}

/* ---- set-up ---- */

/* "32,128,512" */
static bool parse_list(struct measure *out, size_t *n, const char *text, size_t lo)
{
    const char *p = text;
    for (*n = 0; *n < LIST_MAX; ) {
        char *end;
        unsigned long v = strtoul(p, &end, 10);
        if (*p < '0' || *p > '9' || v < lo || v > LIMIT_CONTEXT)
            return false;
        out[(*n)++].size = v;
        if (!*end)
            return true;
        if (*end != ',')
            return false;
        p = end + 1;
    }
    return false;
}

static void skip_what_is_too_long(struct bench *b)
{
    const struct model_info *info = engine_info(b->engine);
    size_t limit = info->n_ctx_max ? info->n_ctx_max : info->n_ctx_train ? info->n_ctx_train : SIZE_MAX;
    b->n_ctx = 1;
    for (size_t i = 0; i < b->n_prefill; i++) {
        b->prefill[i].skipped = b->prefill[i].size > limit;
        b->n_steps += b->prefill[i].skipped ? 0 : b->o.n_rounds;
        if (!b->prefill[i].skipped)
            b->n_ctx = MAX(b->n_ctx, b->prefill[i].size);
    }
    for (size_t i = 0; i < b->n_decode; i++) {
        size_t n = MAX(b->decode[i].size, 1u) + b->o.n_decode;
        b->decode[i].skipped = n > limit;
        b->n_steps += b->decode[i].skipped ? 0 : b->o.n_rounds + 1;
        if (!b->decode[i].skipped)
            b->n_ctx = MAX(b->n_ctx, n);
    }
    b->n_steps += b->o.n_rounds;
}

static enum hearth_status set_up(struct bench *b, const char *path, struct arena *a, struct err *e)
{
    struct engine_options eo = { .n_threads = b->o.n_threads, .affinity = b->o.affinity, .power = (unsigned)b->o.power, .kv_type = (enum kv_type)b->o.kv };
    enum hearth_status st = packs_open(&b->g, path, b->o.no_pack, b->o.n_threads, a, e);
    if (st == HEARTH_OK)
        st = engine_open(&b->engine, &b->g, &eo, e);
    if (st != HEARTH_OK)
        return st;
    skip_what_is_too_long(b);
    count_work(b);
    b->kernels = kernels_get(e);
    b->buffer_bytes = MIN((size_t)BUFFER_BYTES, memory_total_bytes() / 8 / PIECE_BYTES * PIECE_BYTES);
    b->buffer = pages_alloc(b->buffer_bytes);
    b->tokens = ARENA_NEW(a, int32_t, b->n_ctx + 1);
    if (!b->kernels)
        return e->status;
    if (!b->buffer || !b->tokens)
        return err_set(e, HEARTH_ENOMEM, "no memory for a buffer of %s", human_bytes(b->buffer_bytes));
    memset(b->buffer, 1, b->buffer_bytes); /* pages that were never written share one page of zeros */
    uint64_t x = 88172645463325252u;
    for (size_t i = 0; i <= b->n_ctx; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        b->tokens[i] = (int32_t)(x % engine_info(b->engine)->n_vocab);
    }
    return context_open(&b->prefill_context, b->engine, b->n_ctx, e);
}

static void tear_down(struct bench *b)
{
    for (size_t i = 0; i < b->n_decode; i++)
        context_close(b->decode[i].context);
    context_close(b->prefill_context);
    pages_free(b->buffer, b->buffer_bytes);
    engine_close(b->engine);
    gguf_close(&b->g);
}

/* ---- the report ---- */

static void print_text_report(const struct bench *b, const char *path)
{
    const struct model_info *info = engine_info(b->engine);
    struct spread r = spread_of(&b->read_rate), m = spread_of(&b->int8_rate);
    printf("model    %s: %.4g million parameters, weights %s, K/V %s\n", path, (double)info->n_params * 1e-6,
           human_bytes(info->weight_bytes), kv_names[b->o.kv]);
    printf("machine  %zu threads, kernels %s; medians of %zu rounds (smallest to largest)\n", pool_threads(engine_pool(b->engine)),
           b->kernels->name, b->o.n_rounds);
    printf("         reads %.1f GB/s (%.1f to %.1f), multiplies %.1f GOPS of int8 (%.1f to %.1f: %s)\n\n", r.median * 1e-9, r.lo * 1e-9,
           r.hi * 1e-9, m.median * 1e-9, m.lo * 1e-9, m.hi * 1e-9, b->kernels->bench_int8_mix);
    printf("%-14s %10s  %-20s %s\n", "prefill", "tokens/s", "", "share of the int8 rate");
    for (size_t i = 0; i < b->n_prefill; i++) {
        const struct measure *p = &b->prefill[i];
        struct spread t = spread_of(&p->rate), s = spread_of(&p->share);
        if (p->skipped)
            printf("%6zu tokens  skipped: longer than the model's context\n", p->size);
        else
            printf("%6zu tokens  %10.1f  (%.1f to %.1f)  %.1f %% (%.1f to %.1f)\n", p->size, t.median, t.lo, t.hi, 100 * s.median,
                   100 * s.lo, 100 * s.hi);
    }
    printf("\n%-14s %10s  %-20s %s\n", "decode", "tokens/s", "", "share of the read bandwidth");
    for (size_t i = 0; i < b->n_decode; i++) {
        const struct measure *d = &b->decode[i];
        struct spread t = spread_of(&d->rate), s = spread_of(&d->share);
        if (d->skipped)
            printf("depth %6zu   skipped: longer than the model's context\n", d->size);
        else
            printf("depth %6zu   %10.1f  (%.1f to %.1f)  %.1f %% (%.1f to %.1f)\n", d->size, t.median, t.lo, t.hi, 100 * s.median,
                   100 * s.lo, 100 * s.hi);
    }
    if (b->o.profile)
        bench_print_profiles(b);
}

json_t *json_spread(const struct series *s)
{
    struct spread p = spread_of(s);
    return json_pack("{s:f, s:f, s:f}", "median", p.median, "min", p.lo, "max", p.hi);
}

static json_t *json_measures(const struct measure *m, size_t n, const char *size_name, const char *work_name)
{
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++) {
        json_t *j = json_pack("{s:I, s:b}", size_name, (json_int_t)m[i].size, "skipped", m[i].skipped);
        if (!m[i].skipped) {
            json_object_set_new(j, "tokens_per_s", json_spread(&m[i].rate));
            json_object_set_new(j, "share", json_spread(&m[i].share));
            json_object_set_new(j, work_name, json_real(m[i].work));
        }
        json_array_append_new(list, j);
    }
    return list;
}

static void print_json_report(const struct bench *b, const char *path)
{
    const struct model_info *info = engine_info(b->engine);
    json_t *root = json_pack("{s:o, s:I, s:I, s:s, s:I, s:s, s:I, s:s}", "model", text_to_json((struct str){ path, strlen(path) }),
                             "parameters", (json_int_t)info->n_params, "weight_bytes", (json_int_t)info->weight_bytes, "kv",
                             kv_names[b->o.kv], "threads", (json_int_t)pool_threads(engine_pool(b->engine)), "kernels",
                             b->kernels->name, "rounds", (json_int_t)b->o.n_rounds, "int8_mix", b->kernels->bench_int8_mix);
    CHECK(root);
    json_object_set_new(root, "read_bytes_per_s", json_spread(&b->read_rate));
    json_object_set_new(root, "int8_ops_per_s", json_spread(&b->int8_rate));
    json_object_set_new(root, "prefill", json_measures(b->prefill, b->n_prefill, "tokens", "ops"));
    json_object_set_new(root, "decode", json_measures(b->decode, b->n_decode, "depth", "bytes"));
    if (b->o.profile)
        json_object_set_new(root, "profiles", bench_json_profiles(b));
    json_dumpf(root, stdout, JSON_INDENT(1));
    printf("\n");
    json_decref(root);
}

static enum hearth_status measure_all(struct bench *b, const char *path, struct arena *a, struct err *e)
{
    enum hearth_status st = set_up(b, path, a, e);
    if (st != HEARTH_OK)
        return st;
    b->cancel = interrupts_catch();
    bar_open(&b->bar, "bench", "steps");
    st = fill_contexts(b, e);
    /* Bring the weights in before anything counts. */
    if (st == HEARTH_OK)
        st = context_sync(b->prefill_context, b->tokens, MIN(b->n_ctx, 32u), NULL, b->cancel, NULL, NULL, e);
    for (size_t i = 0; i < b->o.n_rounds && st == HEARTH_OK; i++)
        st = one_round(b, e);
    bar_close(&b->bar);
    return st;
}

static bool name_is_among(const char *name, const char *const *names)
{
    for (; *names; names++)
        if (strcmp(name, *names) == 0)
            return true;
    return false;
}

int verb_bench(int argc, char **argv)
{
    struct bench *b = calloc(1, sizeof *b);
    struct arena a;
    struct err e = { 0 };
    size_t n_args;
    CHECK(b);
    b->o = (struct bench_options){ .n_rounds = 5, .n_decode = 16, .prefill = "32,128,512", .decode = "0,512,2048" };
    const struct command c = {
        "bench", "MODEL.gguf | --kernels", "Measures prefill and decode, as tokens/s and as a share of what this machine can do.",
        "The machine's read bandwidth and its rate of int8 multiplications are measured in the same rounds.",
        { { "Options", options, ARRAY_LEN(options), &b->o }, { "Kernels instead of a model", kernel_options, ARRAY_LEN(kernel_options), &b->o } },
        0, 1,
    };
    arena_init(&a, 0);
    int code = options_parse(&c, argc, argv, &n_args);
    if (code < 0 && !parse_list(b->prefill, &b->n_prefill, b->o.prefill, 1))
        code = usage_error("bench", "--prefill needs up to %d lengths, as 32,128,512, not \"%s\"", LIST_MAX, b->o.prefill);
    if (code < 0 && !parse_list(b->decode, &b->n_decode, b->o.decode, 0))
        code = usage_error("bench", "--decode needs up to %d depths, as 0,512,2048, not \"%s\"", LIST_MAX, b->o.decode);
    if (code < 0 && b->o.kernels == (n_args == 1))
        code = usage_error("bench", n_args ? "--kernels takes no model" : "missing argument: hearth bench MODEL.gguf | --kernels");
    if (code < 0 && b->o.isa && !name_is_among(b->o.isa, kernels_names()))
        code = usage_error("bench", "--isa: \"%s\" is not built in", b->o.isa);
    if (code < 0 && b->o.type && type_by_name(b->o.type) == TYPE_COUNT)
        code = usage_error("bench", "--type: no type \"%s\"", b->o.type);
    if (code < 0 && b->o.kernels) {
        enum hearth_status st = bench_kernels(&b->o, &e);
        code = st == HEARTH_OK ? finish_output("bench", EXIT_DONE) : fail("bench", st, &e);
    }
    if (code < 0) {
        enum hearth_status st = measure_all(b, argv[0], &a, &e);
        if (st == HEARTH_OK && b->o.json)
            print_json_report(b, argv[0]);
        else if (st == HEARTH_OK)
            print_text_report(b, argv[0]);
        code = st == HEARTH_OK ? finish_output("bench", EXIT_DONE) : fail("bench", st, &e);
        tear_down(b);
    }
    arena_free(&a);
    free(b);
    return code;
}

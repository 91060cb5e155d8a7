/* bench_report.c: medians over the rounds, and the tables made of them: for people, as Markdown, as JSON. */
#include "apps/bench.h"

#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

/* ---- series ---- */

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

json_t *json_spread(const struct series *s)
{
    struct spread p = spread_of(s);
    return json_pack("{s:f, s:f, s:f}", "median", p.median, "min", p.lo, "max", p.hi);
}

/* ---- names ---- */

const char *bench_cpu_name(void)
{
    static char name[128], line[256];
    FILE *f = name[0] ? NULL : fopen("/proc/cpuinfo", "r");
    struct utsname u;
    while (f && fgets(line, sizeof line, f)) {
        const char *at = strchr(line, ':');
        if (strncmp(line, "model name", 10) == 0 && at && !name[0])
            snprintf(name, sizeof name, "%.*s", (int)strcspn(at + 2, "\n"), at + 2);
    }
    if (f)
        fclose(f);
    if (!name[0] && uname(&u) == 0)
        snprintf(name, sizeof name, "%s", u.machine);
    return name;
}

const char *measure_name(const struct measure *m)
{
    static char name[64];
    switch (m->kind) {
    case MEASURE_PREFILL:
        snprintf(name, sizeof name, "prefill of %zu", m->size);
        break;
    case MEASURE_DECODE:
        snprintf(name, sizeof name, "decode at depth %zu", m->size);
        break;
    case MEASURE_APPEND:
        snprintf(name, sizeof name, "%zu new tokens at depth %zu", m->n_new, m->size);
        break;
    case MEASURE_BATCH:
        snprintf(name, sizeof name, "%zu sequences", m->n_sequences);
        break;
    }
    return name;
}

static const char *limit_name(const struct measure *m)
{
    return m->kind == MEASURE_PREFILL ? "of the int8 rate" : m->kind == MEASURE_DECODE ? "of the bandwidth" : "of the nearer bound";
}

/* ---- tables ---- */

/* One line: what, hearth, share of the limit, peer, ratio; the last two may be empty. */
struct line {
    char what[64], hearth[64], share[64], peer[64], ratio[64];
};

static void print_line(const struct bench *b, const struct line *l)
{
    if (b->o.markdown && b->peer)
        printf("| %s | %s | %s | %s | %s |\n", l->what, l->hearth, l->share, l->peer, l->ratio);
    else if (b->o.markdown)
        printf("| %s | %s | %s |\n", l->what, l->hearth, l->share);
    else if (b->peer)
        printf("%-28s %-30s %-38s %-30s %s\n", l->what, l->hearth, l->share, l->peer, l->ratio);
    else
        printf("%-28s %-30s %s\n", l->what, l->hearth, l->share);
}

static void format_rate(char *out, size_t size, const struct series *s)
{
    struct spread p = spread_of(s);
    if (s->n)
        snprintf(out, size, "%.1f tok/s (%.1f to %.1f)", p.median, p.lo, p.hi);
}

/* The time of n_new tokens at once, which is the time to the first token of the answer. */
static void format_delay(char *out, size_t size, const struct series *rate, double work)
{
    struct spread p = spread_of(rate);
    if (rate->n)
        snprintf(out, size, "%.4g s (%.4g to %.4g)", work / p.median, work / p.hi, work / p.lo);
}

static void measure_line(const struct bench *b, const struct measure *m)
{
    struct line l = { .peer = "-", .ratio = "-" };
    struct spread share = spread_of(&m->share), ratio = spread_of(&m->ratio);
    bool is_delay = m->kind == MEASURE_APPEND;
    snprintf(l.what, sizeof l.what, "%s", measure_name(m));
    if (m->skipped) {
        snprintf(l.hearth, sizeof l.hearth, "skipped: longer than the model's context");
    } else {
        snprintf(l.share, sizeof l.share, "%.1f %% %s (%.1f to %.1f)", 100 * share.median, limit_name(m), 100 * share.lo, 100 * share.hi);
        if (is_delay)
            format_delay(l.hearth, sizeof l.hearth, &m->rate, (double)m->n_new);
        else
            format_rate(l.hearth, sizeof l.hearth, &m->rate);
    }
    if (is_delay)
        format_delay(l.peer, sizeof l.peer, &m->peer_rate, (double)m->n_new);
    else
        format_rate(l.peer, sizeof l.peer, &m->peer_rate);
    if (m->ratio.n)
        snprintf(l.ratio, sizeof l.ratio, "%.2f x (%.2f to %.2f)", ratio.median, ratio.lo, ratio.hi);
    print_line(b, &l);
}

static void load_lines(const struct bench *b)
{
    struct spread mine = spread_of(&b->load_s), theirs = spread_of(&b->peer_load_s);
    struct line load = { .what = "load", .peer = "-", .ratio = "-" }, peak = { .what = "peak memory", .peer = "-", .ratio = "-" };
    double file_and_kv = (double)engine_info(b->engine)->weight_bytes + (double)b->run.kv_bytes;
    if (b->run.error[0]) {
        snprintf(load.hearth, sizeof load.hearth, "%.60s", b->run.error);
        print_line(b, &load);
        return;
    }
    snprintf(load.hearth, sizeof load.hearth, "%.3f s (%.3f to %.3f)", mine.median, mine.lo, mine.hi);
    if (b->peer_load_s.n) {
        snprintf(load.peer, sizeof load.peer, "%.3f s (%.3f to %.3f)", theirs.median, theirs.lo, theirs.hi);
        snprintf(load.ratio, sizeof load.ratio, "%.2f x", theirs.median / mine.median);
    }
    print_line(b, &load);
    snprintf(peak.hearth, sizeof peak.hearth, "%s", human_bytes(b->run.peak_bytes));
    snprintf(peak.share, sizeof peak.share, "weights and K/V %+.0f MB", ((double)b->run.peak_bytes - file_and_kv) * 1e-6);
    if (b->peer_run.peak_bytes) {
        snprintf(peak.peer, sizeof peak.peer, "%s", human_bytes(b->peer_run.peak_bytes));
        snprintf(peak.ratio, sizeof peak.ratio, "%.2f x", (double)b->peer_run.peak_bytes / (double)b->run.peak_bytes);
    }
    print_line(b, &peak);
}

static void print_head(const struct bench *b)
{
    const struct model_info *info = engine_info(b->engine);
    struct spread r = spread_of(&b->read_rate), f = spread_of(&b->buffer_rate), m = spread_of(&b->int8_rate);
    const char *item = b->o.markdown ? "- " : "";
    printf("%smodel    %s: %.4g million parameters, weights %s, K/V %s\n", item, b->path, (double)info->n_params * 1e-6,
           human_bytes(info->weight_bytes), bench_kv_names[b->o.kv]);
    printf("%smachine  %s, %zu threads; hearth %s, kernels %s; medians of %zu rounds (smallest to largest)\n", item, bench_cpu_name(),
           pool_threads(engine_pool(b->engine)), hearth_version(), b->kernels->name, b->o.n_rounds);
    printf("%slimits   reads %.1f GB/s of its weights (%.1f to %.1f), %.1f of other memory; multiplies %.1f GOPS of int8 (%.1f to %.1f: %s)\n", item,
           r.median * 1e-9, r.lo * 1e-9, r.hi * 1e-9, f.median * 1e-9, m.median * 1e-9, m.lo * 1e-9, m.hi * 1e-9, b->kernels->bench_int8_mix);
    if (b->peer)
        printf("%speer     %s, on the same file, each measurement in turn\n", item, peer_name(b->peer));
    printf("\n");
}

static void print_tables(const struct bench *b)
{
    struct line head = { .what = "", .hearth = "hearth", .share = "share of the limit", .ratio = "ratio" };
    print_head(b);
    if (b->peer)
        snprintf(head.peer, sizeof head.peer, "%s", peer_name(b->peer));
    print_line(b, &head);
    if (b->o.markdown)
        printf(b->peer ? "| --- | --- | --- | --- | --- |\n" : "| --- | --- | --- |\n");
    for (size_t i = 0; i < b->n_measures; i++)
        measure_line(b, &b->m[i]);
    load_lines(b);
    if (b->o.profile)
        bench_print_profiles(b);
}

/* ---- JSON ---- */

static json_t *json_measures(const struct bench *b, enum measure_kind kind)
{
    json_t *list = json_array();
    for (size_t i = 0; i < b->n_measures; i++) {
        const struct measure *m = &b->m[i];
        if (m->kind != kind)
            continue;
        json_t *j = json_pack("{s:I, s:I, s:I, s:b}", kind == MEASURE_PREFILL ? "tokens" : "depth", (json_int_t)m->size, "new_tokens",
                              (json_int_t)m->n_new, "sequences", (json_int_t)m->n_sequences, "skipped", m->skipped);
        json_array_append_new(list, j);
        if (m->skipped)
            continue;
        json_object_set_new(j, "tokens_per_s", json_spread(&m->rate));
        json_object_set_new(j, "share", json_spread(&m->share));
        json_object_set_new(j, "ops", json_real(m->ops));
        json_object_set_new(j, "bytes", json_real(m->bytes));
        if (m->ratio.n) {
            json_object_set_new(j, "peer_tokens_per_s", json_spread(&m->peer_rate));
            json_object_set_new(j, "ratio", json_spread(&m->ratio));
        }
    }
    return list;
}

static json_t *json_load(const struct series *load_s, const struct load_report *run)
{
    if (run->error[0])
        return json_pack("{s:s}", "error", run->error);
    json_t *j = json_pack("{s:I}", "peak_bytes", (json_int_t)run->peak_bytes);
    if (load_s->n)
        json_object_set_new(j, "load_s", json_spread(load_s));
    if (run->kv_bytes)
        json_object_set_new(j, "kv_bytes", json_integer((json_int_t)run->kv_bytes));
    return j;
}

static void print_json(const struct bench *b)
{
    const struct model_info *info = engine_info(b->engine);
    json_t *root = json_pack("{s:o, s:I, s:I, s:s, s:s, s:I, s:s, s:I, s:s}", "model", text_to_json((struct str){ b->path, strlen(b->path) }),
                             "parameters", (json_int_t)info->n_params, "weight_bytes", (json_int_t)info->weight_bytes, "kv",
                             bench_kv_names[b->o.kv], "cpu", bench_cpu_name(), "threads", (json_int_t)pool_threads(engine_pool(b->engine)), "kernels",
                             b->kernels->name, "rounds", (json_int_t)b->o.n_rounds, "int8_mix", b->kernels->bench_int8_mix);
    CHECK(root);
    json_object_set_new(root, "read_bytes_per_s", json_spread(&b->read_rate));
    json_object_set_new(root, "buffer_bytes_per_s", json_spread(&b->buffer_rate));
    json_object_set_new(root, "int8_ops_per_s", json_spread(&b->int8_rate));
    json_object_set_new(root, "prefill", json_measures(b, MEASURE_PREFILL));
    json_object_set_new(root, "decode", json_measures(b, MEASURE_DECODE));
    json_object_set_new(root, "append", json_measures(b, MEASURE_APPEND));
    json_object_set_new(root, "batch", json_measures(b, MEASURE_BATCH));
    json_object_set_new(root, "start", json_load(&b->load_s, &b->run));
    if (b->peer)
        json_object_set_new(root, "peer", json_pack("{s:s, s:o}", "name", peer_name(b->peer), "start", json_load(&b->peer_load_s, &b->peer_run)));
    if (b->o.profile)
        json_object_set_new(root, "profiles", bench_json_profiles(b));
    json_dumpf(root, stdout, JSON_INDENT(1));
    printf("\n");
    json_decref(root);
}

void bench_report(const struct bench *b)
{
    if (b->o.json)
        print_json(b);
    else
        print_tables(b);
}

/* bench_profile.c: where the time of a step goes, phase by phase.
 *
 * The engine adds up wall-clock time per phase (struct engine_profile). A phase is slow for one of three reasons, and the
 * columns keep them apart: its own work is slow (the share of the limit says how slow), only the caller had work while the
 * other threads stood by ("alone"), or threads waited for each other at a barrier ("wait": the caller for the workers;
 * "idle": all threads' time that went into nothing, waiting and waking included).
 *
 * The limit of a product is the smaller of two: the bytes of its weights at the round's read bandwidth, and its operations
 * at the round's int8 rate. A long prefill runs against the second, decoding against the first.
 */
#include "apps/bench.h"

#include <string.h>

static const char *const phase_names[PHASE_COUNT] = { "qkv", "attention", "out", "gate, up", "down", "logits", "rows" };
static const char *const phase_keys[PHASE_COUNT] = { "qkv", "attention", "out", "gate_up", "down", "logits", "rows" };

/* The product a tensor belongs to; PHASE_COUNT: none. */
static enum engine_phase phase_of(const struct bench *b, const struct gguf_tensor *t)
{
    static const struct {
        const char *part;
        enum engine_phase phase;
    } parts[] = {
        { ".attn_q.", PHASE_QKV }, { ".attn_k.", PHASE_QKV }, { ".attn_v.", PHASE_QKV }, { ".attn_qkv.", PHASE_QKV },
        { ".attn_output.", PHASE_OUT }, { ".ffn_gate.", PHASE_UP }, { ".ffn_up.", PHASE_UP }, { ".ffn_down.", PHASE_DOWN },
    };
    if (t->n_dims < 2)
        return PHASE_COUNT;
    if (bench_is_output(b, t))
        return PHASE_LOGITS;
    for (size_t i = 0; i < ARRAY_LEN(parts) && bench_is_layer(t); i++) {
        size_t n = strlen(parts[i].part);
        for (size_t k = 0; k + n <= t->name.n; k++)
            if (memcmp(t->name.p + k, parts[i].part, n) == 0)
                return parts[i].phase;
    }
    return PHASE_COUNT;
}

/* One measurement, in milliseconds per step; that of a long prefill takes several steps of the engine. */
struct phase_line {
    double ms, share, alone_ms, wait_ms, idle, n_jobs; /* idle: of all threads' time */
    double ops, bytes, limit_share;                     /* per step; 0 where nothing is counted */
};

static void fill_lines(const struct bench *b, const struct measure *m, struct phase_line *lines, double *total_ms)
{
    const struct engine_profile *p = &m->profile;
    double n_runs = (double)(m->rate.n * m->n_steps), n_columns = (double)(m->n_new * m->n_sequences), n_logits = (double)m->n_sequences;
    double n_threads = (double)pool_threads(engine_pool(b->engine));
    double read_rate = spread_of(&b->read_rate).median, int8_rate = spread_of(&b->int8_rate).median;
    *total_ms = 0;
    memset(lines, 0, PHASE_COUNT * sizeof *lines);
    for (size_t i = 0; i < b->g.n_tensors; i++) {
        const struct gguf_tensor *t = &b->g.tensors[i];
        enum engine_phase phase = phase_of(b, t);
        if (phase == PHASE_COUNT)
            continue;
        lines[phase].bytes += (double)t->size_bytes * (phase == PHASE_LOGITS ? 1 : (double)p->n_steps / n_runs);
        lines[phase].ops += 2 * (double)t->dims[0] * (double)t->dims[1] * (phase == PHASE_LOGITS ? n_logits : n_columns);
    }
    for (size_t i = 0; i < PHASE_COUNT; i++)
        *total_ms += (double)p->phases[i].ns * 1e-6 / n_runs;
    for (size_t i = 0; i < PHASE_COUNT; i++) {
        const struct phase_times *t = &p->phases[i];
        struct phase_line *l = &lines[i];
        double ns = (double)MAX(t->ns, 1u), alone = (double)(t->ns - MIN(t->run_ns, t->ns));
        l->ms = ns * 1e-6 / n_runs;
        l->share = l->ms / *total_ms;
        l->alone_ms = alone * 1e-6 / n_runs;
        l->wait_ms = (double)t->wait_ns * 1e-6 / n_runs;
        l->idle = MAX(0.0, 1 - ((double)t->busy_ns + alone) / (n_threads * ns));
        l->n_jobs = (double)t->n_jobs / n_runs;
        l->limit_share = MAX(l->bytes / read_rate, l->ops / int8_rate) / (l->ms * 1e-3);
    }
}

static void print_profile(const struct bench *b, const struct measure *m)
{
    struct phase_line lines[PHASE_COUNT];
    double total_ms;
    fill_lines(b, m, lines, &total_ms);
    if (b->o.markdown)
        printf("\n%s: %.2f ms\n\n| phase | ms | share | alone ms | wait ms | idle | jobs | GOPS | GB/s | of the limit |\n"
               "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n", measure_name(m), total_ms);
    else
        printf("\n%s: %.2f ms\n%-10s %9s %7s %9s %9s %7s %6s %8s %8s  %s\n", measure_name(m), total_ms, "", "ms", "share", "alone ms", "wait ms",
               "idle", "jobs", "GOPS", "GB/s", "of the limit");
    for (size_t i = 0; i < PHASE_COUNT; i++) {
        const struct phase_line *l = &lines[i];
        const char *bar = b->o.markdown ? " |" : "";
        printf("%s%-10s%s %9.3f%s %5.1f %%%s %9.3f%s %9.3f%s %5.1f %%%s %6.0f%s", b->o.markdown ? "| " : "", phase_names[i], bar, l->ms, bar,
               100 * l->share, bar, l->alone_ms, bar, l->wait_ms, bar, 100 * l->idle, bar, l->n_jobs, bar);
        if (l->ops > 0)
            printf(" %8.1f%s %8.2f%s %5.1f %%%s", l->ops / l->ms * 1e-6, bar, l->bytes / l->ms * 1e-6, bar, 100 * l->limit_share, bar);
        else if (b->o.markdown)
            printf(" | | |");
        printf("\n");
    }
}

void bench_print_profiles(const struct bench *b)
{
    for (size_t i = 0; i < b->n_measures; i++)
        if (!b->m[i].skipped)
            print_profile(b, &b->m[i]);
}

static json_t *json_profile(const struct bench *b, const struct measure *m)
{
    static const char *const kinds[] = { "prefill", "decode", "append", "batch" };
    struct phase_line lines[PHASE_COUNT];
    double total_ms;
    json_t *phases = json_object();
    fill_lines(b, m, lines, &total_ms);
    for (size_t i = 0; i < PHASE_COUNT; i++) {
        const struct phase_line *l = &lines[i];
        json_t *j = json_pack("{s:f, s:f, s:f, s:f, s:f, s:f}", "ms", l->ms, "share", l->share, "alone_ms", l->alone_ms, "wait_ms", l->wait_ms,
                              "idle", l->idle, "jobs", l->n_jobs);
        if (l->ops > 0)
            json_object_update_new(j, json_pack("{s:f, s:f, s:f}", "ops", l->ops, "bytes", l->bytes, "limit_share", l->limit_share));
        json_object_set_new(phases, phase_keys[i], j);
    }
    return json_pack("{s:s, s:I, s:f, s:o}", "what", kinds[m->kind], "size", (json_int_t)m->size, "ms", total_ms, "phases", phases);
}

json_t *bench_json_profiles(const struct bench *b)
{
    json_t *list = json_array();
    for (size_t i = 0; i < b->n_measures; i++)
        if (!b->m[i].skipped)
            json_array_append_new(list, json_profile(b, &b->m[i]));
    return list;
}

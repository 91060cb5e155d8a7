/* bench_kernels.c: hearth bench --kernels: every instruction set of this CPU, every weight type, against what the CPU can do.
 *
 * For each type a product of random weights with 1, 8 and 128 columns: one reads weights from memory as decoding does, eight
 * are a small batch over the same stream, 128 are a tile of a prefill on weights that stay in the cache. Beside them, in turn, so that
 * a machine that drifts drifts for all: reading the same memory, and the table's own mix of int8 operations in registers. Medians over
 * the rounds.
 *
 * One thread is measured by its processor time, which other programs on the machine do not lengthen (though they take
 * bandwidth and cache away); all threads by the clock, which is only worth something on a quiet machine.
 *
 * The share of a limit is that of the nearer one: bytes of weights per second of the read bandwidth, or operations (2 per
 * multiply-add) per second of the int8 mix. Float types do not multiply in that mix: only the bandwidth counts for them.
 */
#include "apps/bench.h"

#include <stdlib.h>
#include <string.h>

enum { K = 4096, MAX_COLUMNS = 128, TILE_ROWS = 1024, REF_ROWS = 64, WEIGHTS_BYTES = 256 << 20, BATCH_BYTES = 64 << 20 };
enum { ONE_THREAD, ALL_THREADS, N_MODES };
static const size_t column_counts[] = { 1, 8, MAX_COLUMNS };
enum { N_COUNTS = ARRAY_LEN(column_counts), SHORTEST_NS = 20 * 1000 * 1000 };

struct lab {
    const struct bench_options *o;
    struct pool *pool;
    const struct kernels *t;
    uint8_t *w; /* random weights of any type, n_bytes */
    float *x, *y;
    size_t n_bytes, y_floats, at; /* at: where the next small batch begins, so that it finds its weights in memory */
    struct bar bar;
    size_t n_done, n_steps;
    const atomic_int *cancel;
    atomic_uint_fast64_t sink;
};

/* What one table does with one type: [columns][mode]. */
struct type_figures {
    struct series read_rate[N_MODES], int8_rate[N_MODES];
    struct series byte_rate[N_COUNTS][N_MODES], op_rate[N_COUNTS][N_MODES], share[N_COUNTS][N_MODES];
};

/* ---- one measurement ---- */

/* Runs the slices often enough to be measured; seconds per run. */
static double seconds_per_run(struct lab *lab, int mode, pool_fn fn, void *arg, size_t n_slices)
{
    size_t n = 0;
    uint64_t begin = mode == ONE_THREAD ? clock_thread_ns() : clock_ns(), now;
    do {
        if (mode == ALL_THREADS)
            pool_run(lab->pool, fn, arg, n_slices);
        else
            for (size_t i = 0; i < n_slices; i++)
                fn(arg, i, 0);
        n++;
        now = mode == ONE_THREAD ? clock_thread_ns() : clock_ns();
    } while (now - begin < SHORTEST_NS);
    return (double)(now - begin) * 1e-9 / (double)n;
}

static size_t slices(const struct lab *lab)
{
    return 8 * pool_threads(lab->pool);
}

static void read_slice(void *arg, size_t i, size_t i_thread)
{
    struct lab *lab = arg;
    size_t part = lab->n_bytes / slices(lab) / 128 * 128;
    (void)i_thread;
    atomic_fetch_xor(&lab->sink, lab->t->bench_read(lab->w + i * part, part));
}

enum { INT8_ROUNDS = 2000 };
static void int8_slice(void *arg, size_t i, size_t i_thread)
{
    struct lab *lab = arg;
    float out;
    (void)i, (void)i_thread;
    lab->t->bench_int8(INT8_ROUNDS, &out);
    atomic_fetch_xor(&lab->sink, (uint64_t)(out != 0));
}

struct product_run {
    const struct kernels *t;
    uint32_t type;
    struct matmul a;
    size_t n_slices;
};

static void product_slice(void *arg, size_t i, size_t i_thread)
{
    const struct product_run *p = arg;
    struct matmul a = p->a;
    size_t n_strips = (a.n_rows + R8_ROWS - 1) / R8_ROWS, first = n_strips * i / p->n_slices, end = n_strips * (i + 1) / p->n_slices;
    (void)i_thread;
    if (first == end)
        return;
    a.w = (const uint8_t *)a.w + first * a.strip_bytes;
    a.y += first * R8_ROWS;
    a.n_rows = MIN(end * R8_ROWS, a.n_rows) - first * R8_ROWS;
    p->t->matmul[p->type](&a);
}

/* The weights one measurement reads; see the top of the file. ref is slow and gets little. */
static size_t product_rows(const struct lab *lab, size_t n_columns, size_t strip_bytes)
{
    size_t n_bytes = n_columns == 1 ? lab->n_bytes : MIN(lab->n_bytes, (size_t)BATCH_BYTES);
    if (strcmp(lab->t->name, "ref") == 0)
        return REF_ROWS * (n_columns == 1 ? 8 : 1);
    return n_columns == MAX_COLUMNS ? (size_t)TILE_ROWS : n_bytes / strip_bytes * R8_ROWS;
}

static void measure_product(struct lab *lab, struct type_figures *f, uint32_t type, size_t i_count, int mode, double read_rate,
                            double int8_rate)
{
    size_t n_columns = column_counts[i_count], strip_bytes = 0;
    bool is_quantised = type_info(type)->is_quantised;
    CHECK(r8_strip_bytes(&strip_bytes, type, K));
    size_t n_rows = product_rows(lab, n_columns, strip_bytes), n_bytes = n_rows / R8_ROWS * strip_bytes;
    if (lab->at + n_bytes > lab->n_bytes)
        lab->at = 0;
    struct product_run p = { lab->t, type, {
        .w = lab->w + lab->at, .x = lab->x, .y = lab->y, .strip_bytes = strip_bytes,
        .x_stride_bytes = is_quantised ? K / 32 * sizeof(struct act_block) : K * sizeof(float),
        .y_stride = n_rows, .n_rows = n_rows, .n_cols = n_columns, .k = K }, slices(lab) };
    CHECK(n_columns * n_rows <= lab->y_floats);
    double s = seconds_per_run(lab, mode, product_slice, &p, p.n_slices), ops = 2.0 * (double)n_rows * K * (double)n_columns;
    lab->at += n_bytes;
    record(&f->byte_rate[i_count][mode], (double)n_bytes / s);
    record(&f->op_rate[i_count][mode], ops / s);
    record(&f->share[i_count][mode], MAX((double)n_bytes / s / read_rate, is_quantised ? ops / s / int8_rate : 0));
}

static void measure_type(struct lab *lab, struct type_figures *f, uint32_t type)
{
    for (size_t c = 0; c < MAX_COLUMNS; c++) {
        const float *row = (const float *)(const void *)lab->w + c * K; /* any numbers near 1 */
        if (type_info(type)->is_quantised)
            lab->t->quantize_act((struct act_block *)(void *)lab->x + c * (K / 32), row, K);
        else
            memcpy(lab->x + c * K, row, K * sizeof *row);
    }
    for (size_t i = 0; i < lab->o->n_rounds && !atomic_load(lab->cancel); i++) {
        for (int mode = 0; mode < N_MODES; mode++) {
            double read_s = seconds_per_run(lab, mode, read_slice, lab, slices(lab));
            double int8_s = seconds_per_run(lab, mode, int8_slice, lab, slices(lab));
            float out;
            double ops = (double)lab->t->bench_int8(INT8_ROUNDS, &out) * (double)slices(lab);
            double read_rate = (double)(lab->n_bytes / slices(lab) / 128 * 128 * slices(lab)) / read_s, int8_rate = ops / int8_s;
            record(&f->read_rate[mode], read_rate);
            record(&f->int8_rate[mode], int8_rate);
            for (size_t k = 0; k < N_COUNTS; k++)
                measure_product(lab, f, type, k, mode, read_rate, int8_rate);
        }
        bar_update(&lab->bar, type_info(type)->name, ++lab->n_done, lab->n_steps);
    }
}

/* ---- the report ---- */

static double median(const struct series *s)
{
    return spread_of(s).median;
}

static void print_type(const struct type_figures *f, uint32_t type, bool is_first)
{
    if (is_first)
        printf("%-8s |%-29s|%s\n%-8s", "", "        one thread", "        all threads", "");
    for (int mode = 0; mode < N_MODES && is_first; mode++)
        printf(" | 1: GB/s     8: GOPS    128: GOPS   reads GB/s, mix GOPS");
    if (is_first)
        printf("\n");
    printf("%-8s", type_info(type)->name);
    for (int mode = 0; mode < N_MODES; mode++) {
        printf(" |");
        for (size_t k = 0; k < N_COUNTS; k++)
            printf(" %6.1f %3.0f %%", median(k ? &f->op_rate[k][mode] : &f->byte_rate[k][mode]) * 1e-9, 100 * median(&f->share[k][mode]));
        printf("  %5.1f %6.1f", median(&f->read_rate[mode]) * 1e-9, median(&f->int8_rate[mode]) * 1e-9);
    }
    printf("\n");
    fflush(stdout);
}

static json_t *type_to_json(const struct lab *lab, const struct type_figures *f, uint32_t type)
{
    json_t *list = json_array();
    for (int mode = 0; mode < N_MODES; mode++)
        for (size_t k = 0; k < N_COUNTS; k++)
            json_array_append_new(list, json_pack("{s:I, s:I, s:o, s:o, s:o, s:o, s:o}", "columns", (json_int_t)column_counts[k], "threads",
                                                  (json_int_t)(mode == ONE_THREAD ? 1 : pool_threads(lab->pool)), "bytes_per_s",
                                                  json_spread(&f->byte_rate[k][mode]), "ops_per_s", json_spread(&f->op_rate[k][mode]), "share",
                                                  json_spread(&f->share[k][mode]), "read_bytes_per_s", json_spread(&f->read_rate[mode]),
                                                  "int8_ops_per_s", json_spread(&f->int8_rate[mode])));
    return json_pack("{s:s, s:o}", "type", type_info(type)->name, "products", list);
}

/* ---- the verb ---- */

static bool is_wanted(const struct bench_options *o, const struct kernels *t, uint32_t type)
{
    return t->matmul[type] && (!o->type || type_by_name(o->type) == (enum tensor_type)type);
}

static enum hearth_status lab_open(struct lab *lab, const struct bench_options *o, struct err *e)
{
    size_t n_threads = o->n_threads ? o->n_threads : (size_t)cpu_count();
    uint64_t v = 88172645463325252u;
    enum hearth_status st = pool_open(&lab->pool, n_threads, e);
    if (st != HEARTH_OK)
        return st;
    lab->o = o;
    lab->n_bytes = MIN((size_t)WEIGHTS_BYTES, memory_total_bytes() / 16 / 4096 * 4096);
    lab->y_floats = lab->n_bytes / 64; /* the smallest type has more than a byte for four values, times eight columns of a quarter */
    lab->y_floats = MAX(lab->y_floats, (size_t)TILE_ROWS * MAX_COLUMNS);
    lab->w = pages_alloc(lab->n_bytes);
    lab->x = pages_alloc(MAX_COLUMNS * K * sizeof *lab->x);
    lab->y = pages_alloc(lab->y_floats * sizeof *lab->y);
    if (!lab->w || !lab->x || !lab->y)
        return err_set(e, HEARTH_ENOMEM, "no memory for a buffer of %s", human_bytes(lab->n_bytes));
    for (size_t i = 0; i + 8 <= lab->n_bytes; i += 8) {
        v ^= v << 13, v ^= v >> 7, v ^= v << 17;
        uint64_t near_one = (v & 0x033f033f033f033fu) | 0x3c003c003c003c00u; /* any two or four bytes: a number near 1 */
        memcpy(lab->w + i, &near_one, 8);
    }
    for (const char *const *name = kernels_names(); *name; name++)
        for (uint32_t type = 0; type < TYPE_COUNT; type++)
            if ((lab->t = kernels_by_name(*name)) && (!o->isa || strcmp(o->isa, *name) == 0) && is_wanted(o, lab->t, type))
                lab->n_steps += o->n_rounds;
    return HEARTH_OK;
}

static void lab_close(struct lab *lab)
{
    pool_close(lab->pool);
    pages_free(lab->w, lab->n_bytes);
    pages_free(lab->x, MAX_COLUMNS * K * sizeof *lab->x);
    pages_free(lab->y, lab->y_floats * sizeof *lab->y);
}

static json_t *measure_table(struct lab *lab)
{
    struct type_figures *f = calloc(1, sizeof *f);
    json_t *types = json_array();
    bool is_first = true;
    CHECK(f);
    if (!lab->o->json)
        printf("\n%s: %s\n", lab->t->name, lab->t->bench_int8_mix);
    for (uint32_t type = 0; type < TYPE_COUNT && !atomic_load(lab->cancel); type++) {
        if (!is_wanted(lab->o, lab->t, type))
            continue;
        *f = (struct type_figures){ 0 };
        measure_type(lab, f, type);
        json_array_append_new(types, type_to_json(lab, f, type));
        if (!lab->o->json) {
            bar_close(&lab->bar);
            print_type(f, type, is_first);
            bar_open(&lab->bar, "bench", "steps");
        }
        is_first = false;
    }
    free(f);
    return json_pack("{s:s, s:s, s:o, s:o}", "name", lab->t->name, "int8_mix", lab->t->bench_int8_mix, "types", types, "other",
                     bench_vectors(lab->t, lab->w, lab->n_bytes, lab->o));
}

enum hearth_status bench_kernels(const struct bench_options *o, struct err *e)
{
    struct lab lab = { 0 };
    json_t *tables = json_array(), *absent = json_array();
    enum hearth_status st = lab_open(&lab, o, e);
    lab.cancel = interrupts_catch();
    if (st == HEARTH_OK && !o->json)
        printf("%s, %zu threads; products of rows of %d values with 1, 8 and %d columns; medians of %zu rounds\n"
               "one thread: by its processor time; shares: of the nearer limit, memory or multiplying, measured in turn\n",
               bench_cpu_name(), pool_threads(lab.pool), K, MAX_COLUMNS, o->n_rounds);
    bar_open(&lab.bar, "bench", "steps");
    for (const char *const *name = kernels_names(); *name && st == HEARTH_OK; name++) {
        if (!(lab.t = kernels_by_name(*name)))
            json_array_append_new(absent, json_string(*name));
        else if (!o->isa || strcmp(o->isa, *name) == 0)
            json_array_append_new(tables, measure_table(&lab));
        if (atomic_load(lab.cancel))
            st = err_set(e, HEARTH_ECANCELLED, "interrupted");
    }
    bar_close(&lab.bar);
    if (st == HEARTH_OK && o->json) {
        json_t *root = json_pack("{s:s, s:I, s:I, s:I, s:O, s:O}", "cpu", bench_cpu_name(), "threads", (json_int_t)pool_threads(lab.pool), "rounds",
                                 (json_int_t)o->n_rounds, "k", (json_int_t)K, "tables", tables, "not_on_this_cpu", absent);
        json_dumpf(root, stdout, JSON_INDENT(1));
        printf("\n");
        json_decref(root);
    } else if (st == HEARTH_OK) {
        printf("\nbuilt in, but not on this CPU:%s", json_array_size(absent) ? "" : " none");
        for (size_t i = 0; i < json_array_size(absent); i++)
            printf(" %s", json_string_value(json_array_get(absent, i)));
        printf("\n");
    }
    json_decref(tables);
    json_decref(absent);
    lab_close(&lab);
    return st;
}

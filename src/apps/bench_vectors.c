/* bench_vectors.c: the part of hearth bench --kernels that is no matrix product: row work and attention, one thread, by its
 * processor time, medians over the rounds.
 *
 * Row work has its values in the first cache. Attention on fp16 K/V walks ranges of 16 chunks, every row seeing everything: with
 * many rows the same range again and again, as a prefill does, which has it in the cache; with few rows one range after the other through a
 * long cache, as decoding does. Chunks are 1 MiB apart, as those of a model are.
 */
#include "apps/bench.h"

#include <math.h>
#include <string.h>

enum { N_VALUES = 4096, MAX_ROWS = 128, RANGE_CHUNKS = ATTN_RANGE_TOKENS / CHUNK_TOKENS, CHUNK_STEP = 1 << 20 };
enum { SHORTEST_NS = 10 * 1000 * 1000 };

struct task {
    const struct kernels *t;
    const uint8_t *memory;
    size_t n_bytes, head_dim, n_rows;
    float *x, *y;
    struct act_block *act;
};
/* Does the work once, and says in what amount. */
typedef double (*task_fn)(const struct task *k);

static double quantize_act(const struct task *k)
{
    k->t->quantize_act(k->act, k->x, N_VALUES);
    return N_VALUES;
}

static double rms_norm(const struct task *k)
{
    k->t->rms_norm(k->y, k->x, k->x, N_VALUES, 1e-5f);
    return N_VALUES;
}

static double silu_mul(const struct task *k)
{
    k->t->silu_mul(k->y, k->x, k->x, N_VALUES);
    return N_VALUES;
}

/* n_ranges ranges, i_step chunks apart; bytes of K and V. */
static double walk(const struct task *k, size_t i_pair, size_t n_ranges, size_t range_step)
{
    static float q[MAX_ROWS * LIMIT_HEAD_DIM], o[MAX_ROWS * LIMIT_HEAD_DIM], m[MAX_ROWS], l[MAX_ROWS];
    static struct attn_span seen[MAX_ROWS];
    const uint8_t *chunks[RANGE_CHUNKS];
    size_t tile = k->head_dim * CHUNK_TOKENS * 2;
    struct attn_walk a = { .q = q, .chunks = chunks, .seen = seen, .m = m, .l = l, .o = o, .n_chunks = RANGE_CHUNKS,
                           .k_at = 2 * tile * i_pair, .v_at = 2 * tile * i_pair + tile, .q_stride = k->head_dim, .o_stride = k->head_dim,
                           .n_q = k->n_rows, .head_dim = k->head_dim, .scale = 0.1f };
    for (size_t i = 0; i < k->n_rows; i++) {
        seen[i] = (struct attn_span){ 0, ATTN_RANGE_TOKENS };
        m[i] = -INFINITY;
        l[i] = 0;
        memcpy(q + i * k->head_dim, k->x, k->head_dim * sizeof *q);
    }
    for (size_t r = 0; r < n_ranges; r++) {
        for (size_t c = 0; c < RANGE_CHUNKS; c++)
            chunks[c] = k->memory + (r * range_step + c) * CHUNK_STEP;
        k->t->attn_walk[KV_F16](&a);
    }
    return (double)(n_ranges * RANGE_CHUNKS * 2 * tile);
}

static double walk_cached(const struct task *k)
{
    return walk(k, 0, 1, 0);
}

/* Pair after pair of tiles, as many as stand between two chunks. */
static double walk_memory(const struct task *k)
{
    size_t n_pairs = CHUNK_STEP / (2 * k->head_dim * CHUNK_TOKENS * 2), n_ranges = k->n_bytes / ((size_t)CHUNK_STEP * RANGE_CHUNKS);
    double n_bytes = 0;
    for (size_t i = 0; i < MIN(n_pairs, (size_t)8); i++)
        n_bytes += walk(k, i, n_ranges, RANGE_CHUNKS);
    return n_bytes;
}

/* Amount per second. */
static double rate(task_fn fn, const struct task *k)
{
    enum { TIMES = 8 }; /* reading the clock of a thread costs a system call */
    double n = 0;
    uint64_t begin = clock_thread_ns(), now;
    do {
        for (size_t i = 0; i < (fn == walk_memory ? 1 : TIMES); i++)
            n += fn(k);
        now = clock_thread_ns();
    } while (now - begin < SHORTEST_NS);
    return n / ((double)(now - begin) * 1e-9);
}

static struct series rates(task_fn fn, const struct task *k, size_t n_rounds)
{
    struct series s = { .n = 0 };
    rate(fn, k);
    for (size_t i = 0; i < n_rounds; i++)
        record(&s, rate(fn, k));
    return s;
}

static json_t *row_work(const struct task *k, const struct bench_options *o)
{
    static const struct {
        const char *name;
        task_fn fn;
    } tasks[] = { { "quantize_act", quantize_act }, { "rms_norm", rms_norm }, { "silu_mul", silu_mul } };
    json_t *out = json_object();
    for (size_t i = 0; i < ARRAY_LEN(tasks); i++) {
        struct series s = rates(tasks[i].fn, k, o->n_rounds);
        json_object_set_new(out, tasks[i].name, json_spread(&s));
        if (!o->json)
            printf("%s%s %.2f", i ? ", " : "", tasks[i].name, 1e9 / spread_of(&s).median);
    }
    if (!o->json)
        printf(" ns per value\n");
    return out;
}

static json_t *attention(struct task *k, const struct bench_options *o)
{
    static const size_t dims[] = { 64, 96, 128 }, rows[] = { 1, 4, 8, 32, MAX_ROWS };
    json_t *out = json_array();
    for (size_t d = 0; d < ARRAY_LEN(dims); d++) {
        if (!o->json)
            printf("attention f16, head %3zu:", dims[d]);
        for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
            bool is_cold = rows[i] <= 8;
            k->head_dim = dims[d];
            k->n_rows = rows[i];
            struct series s = rates(is_cold ? walk_memory : walk_cached, k, o->n_rounds);
            double flops_per_byte = 2.0 * (double)rows[i] / 2; /* a multiply-add per row and stored value of two bytes */
            double bytes_per_s = spread_of(&s).median;
            json_array_append_new(out, json_pack("{s:I, s:I, s:b, s:o, s:f}", "head_dim", (json_int_t)dims[d], "rows", (json_int_t)rows[i],
                                                 "from_memory", is_cold, "bytes_per_s", json_spread(&s), "flops_per_s",
                                                 bytes_per_s * flops_per_byte));
            if (!o->json && is_cold)
                printf("  %zu rows %.1f GB/s", rows[i], bytes_per_s * 1e-9);
            else if (!o->json)
                printf("  %zu rows %.1f GFLOPS", rows[i], bytes_per_s * flops_per_byte * 1e-9);
        }
        if (!o->json)
            printf("\n");
    }
    return out;
}

json_t *bench_vectors(const struct kernels *t, const uint8_t *memory, size_t n_bytes, const struct bench_options *o)
{
    static float x[N_VALUES], y[N_VALUES];
    static struct act_block act[N_VALUES / 32];
    struct task k = { .t = t, .memory = memory, .n_bytes = n_bytes, .x = x, .y = y, .act = act };
    bool is_slow = strcmp(t->name, "ref") == 0;
    memcpy(x, memory, sizeof x);
    json_t *out = json_pack("{s:o}", "values_per_s", row_work(&k, o));
    if (!is_slow)
        json_object_set_new(out, "attention", attention(&k, o));
    return out;
}

/* bench_measure.c: the machine's limits and the model's measurements, one at a time.
 *
 * The bandwidth is that of reading the weights where products read them (mapped or packed, in whatever pages), in pieces
 * that the threads take from one counter; other memory is read too, to tell a slow mapping from slow memory.
 */
#define _DEFAULT_SOURCE
#include <time.h>

#include "apps/bench.h"

#include <stdlib.h>
#include <string.h>

enum { BUFFER_BYTES = 512 << 20, PASS_BYTES = 64 << 20, PIECE_BYTES = 1 << 20, LIMIT_NS = 200 * 1000 * 1000, SETTLE_NS = 20 * 1000 * 1000 };

/* ---- limits ---- */

static atomic_uint_fast64_t consumed; /* what the loops computed goes here, so that they are not dropped */

static void read_piece(void *arg, size_t i_slice, size_t i_thread)
{
    struct bench *b = arg;
    (void)i_thread;
    const struct weight_span *piece = &b->pieces[i_slice % b->n_pieces];
    atomic_fetch_xor(&consumed, b->kernels->bench_read(piece->data, piece->bytes));
}

static void read_buffer(void *arg, size_t i_slice, size_t i_thread)
{
    struct bench *b = arg;
    (void)i_thread;
    atomic_fetch_xor(&consumed, b->kernels->bench_read(b->buffer + i_slice * PIECE_BYTES, PIECE_BYTES));
}

struct multiply_job {
    const struct kernels *kernels;
    atomic_uint_fast64_t n_ops;
};

static void multiply_piece(void *arg, size_t i_slice, size_t i_thread)
{
    struct multiply_job *j = arg;
    float out;
    (void)i_slice, (void)i_thread;
    atomic_fetch_add(&j->n_ops, j->kernels->bench_int8(20000, &out));
    atomic_fetch_xor(&consumed, (uint64_t)(out != 0));
}

/* Amount per second of runs of `amount` each. */
static double measure_limit(struct bench *b, pool_fn fn, void *arg, size_t n_slices, double amount)
{
    double done = 0;
    uint64_t begin = clock_ns();
    do {
        pool_run(engine_pool(b->engine), fn, arg, n_slices);
        done += amount;
    } while (clock_ns() - begin < LIMIT_NS);
    return done / seconds_since(begin);
}

static double measure_int8(struct bench *b)
{
    struct multiply_job j = { .kernels = b->kernels };
    uint64_t begin = clock_ns();
    measure_limit(b, multiply_piece, &j, 4 * pool_threads(engine_pool(b->engine)), 0);
    return (double)atomic_load(&j.n_ops) / seconds_since(begin);
}

/* ---- what the measurements do ---- */

bool bench_is_layer(const struct gguf_tensor *t)
{
    return t->name.n > 4 && memcmp(t->name.p, "blk.", 4) == 0;
}

bool bench_is_output(const struct bench *b, const struct gguf_tensor *t)
{
    return str_eqz(t->name, engine_info(b->engine)->is_tied ? "token_embd.weight" : "output.weight");
}

void bench_count_work(struct bench *b)
{
    const struct kv_layout *kv = engine_kv_layout(b->engine);
    double layer_weights = 0, output_weights = 0, weight_bytes = 0;
    for (size_t i = 0; i < b->g.n_tensors; i++) {
        const struct gguf_tensor *t = &b->g.tensors[i];
        double n = (double)t->dims[0] * (double)t->dims[1];
        if (!bench_is_layer(t) && !bench_is_output(b, t))
            continue;
        weight_bytes += (double)t->size_bytes;
        if (t->n_dims >= 2)
            *(bench_is_layer(t) ? &layer_weights : &output_weights) += n;
    }
    for (size_t i = 0; i < b->n_measures; i++) {
        struct measure *m = &b->m[i];
        double n_sequences = (double)m->n_sequences, depth = m->kind == MEASURE_PREFILL ? 0 : (double)m->size;
        m->ops = 2 * n_sequences * (layer_weights * (double)m->n_new + output_weights);
        m->bytes = weight_bytes + (double)kv->chunk_bytes / CHUNK_TOKENS * depth * n_sequences;
    }
}

static enum hearth_status run_batch(struct bench *b, const struct measure *m, struct err *e)
{
    struct slice slices[SEQUENCES_MAX];
    size_t n_vocab = engine_info(b->engine)->n_vocab;
    enum hearth_status st = HEARTH_OK;
    for (size_t k = 0; k < m->n_steps && st == HEARTH_OK; k++) {
        for (size_t i = 0; i < m->n_sequences; i++)
            slices[i] = (struct slice){ .kv = &b->views[i], .tokens = &b->tokens[(k + i) % b->n_ctx], .n_tokens = 1, .n_logits = 1,
                                        .logits = b->batch_logits + i * n_vocab };
        st = engine_step(b->engine, slices, m->n_sequences, b->cancel, e);
    }
    return st;
}

static enum hearth_status run_steps(struct bench *b, struct measure *m, struct err *e)
{
    size_t n_filled = MAX(m->size, 1u);
    enum hearth_status st = HEARTH_OK;
    switch (m->kind) {
    case MEASURE_PREFILL:
        return context_sync(b->prefill_context, b->tokens, m->size, NULL, b->cancel, NULL, NULL, e);
    case MEASURE_APPEND:
        return context_sync(m->context, b->tokens, n_filled + m->n_new, NULL, b->cancel, NULL, NULL, e);
    case MEASURE_BATCH:
        return run_batch(b, m, e);
    case MEASURE_DECODE:
        for (size_t i = 0; i < m->n_steps && st == HEARTH_OK; i++)
            st = context_append(m->context, b->tokens[n_filled + i], b->cancel, e);
    }
    return st;
}

static void cut_back(struct bench *b, struct measure *m)
{
    for (size_t i = 0; i < m->n_sequences && m->kind == MEASURE_BATCH; i++)
        b->views[i].n_tokens = 1;
    if (m->context)
        context_truncate(m->context, MAX(m->size, 1u));
}

static void pause_ns(uint64_t ns)
{
    struct timespec t = { .tv_nsec = (long)ns };
    nanosleep(&t, NULL);
}

static enum hearth_status measure(struct bench *b, struct measure *m, double read_rate, double int8_rate, struct err *e)
{
    double work = (double)(m->n_new * m->n_sequences * m->n_steps), steps = (double)m->n_steps, peer_s = 0;
    if (m->kind == MEASURE_PREFILL)
        context_truncate(b->prefill_context, 0);
    engine_profile_attach(b->engine, b->o.profile ? &m->profile : NULL);
    uint64_t begin = clock_ns();
    enum hearth_status st = run_steps(b, m, e);
    double s = seconds_since(begin);
    engine_profile_attach(b->engine, NULL);
    cut_back(b, m);
    double read_bound = m->bytes * steps / read_rate, int8_bound = m->ops * steps / int8_rate;
    record(&m->rate, work / s);
    record(&m->share, (m->kind == MEASURE_PREFILL ? int8_bound : m->kind == MEASURE_DECODE ? read_bound : MAX(read_bound, int8_bound)) / s);
    bench_step_done(b, measure_name(m));
    if (st != HEARTH_OK || !b->peer || !peer_can(b->peer, m))
        return st;
    /* Each engine has the machine for itself: the other one's threads get time to fall asleep. */
    pause_ns(SETTLE_NS);
    st = peer_run(b->peer, b, m, &peer_s, e);
    pause_ns(SETTLE_NS);
    if (st == HEARTH_OK) {
        record(&m->peer_rate, work / peer_s);
        record(&m->ratio, peer_s / s);
    }
    bench_step_done(b, measure_name(m));
    return st;
}

enum hearth_status bench_round(struct bench *b, struct err *e)
{
    enum hearth_status st = HEARTH_OK;
    size_t n_passes = PASS_BYTES / (size_t)b->piece_bytes + 1; /* of a job: a small model's one would end before it began */
    double read_rate = measure_limit(b, read_piece, b, n_passes * b->n_pieces, (double)n_passes * b->piece_bytes);
    double int8_rate = measure_int8(b);
    record(&b->read_rate, read_rate);
    record(&b->int8_rate, int8_rate);
    record(&b->buffer_rate, measure_limit(b, read_buffer, b, b->buffer_bytes / PIECE_BYTES, (double)b->buffer_bytes));
    bench_step_done(b, "limits");
    for (size_t i = 0; i < b->n_measures && st == HEARTH_OK; i++)
        if (!b->m[i].skipped)
            st = measure(b, &b->m[i], read_rate, int8_rate, e);
    return st;
}

void bench_step_done(struct bench *b, const char *what)
{
    bar_update(&b->bar, what, ++b->n_done, b->n_bar_steps);
}

/* ---- set-up ---- */

static enum hearth_status fill_batch(struct bench *b, const struct measure *m, struct err *e)
{
    struct slice slices[SEQUENCES_MAX];
    for (size_t i = 0; i < m->n_sequences; i++)
        slices[i] = (struct slice){ .kv = &b->views[i], .tokens = b->tokens, .n_tokens = 1 };
    return engine_step(b->engine, slices, m->n_sequences, b->cancel, e);
}

/* A context that another measurement filled to the same depth serves again. */
static struct context *context_at(const struct bench *b, const struct measure *m)
{
    for (const struct measure *k = b->m; k < m; k++)
        if (k->context && k->size == m->size)
            return k->context;
    return NULL;
}

enum hearth_status bench_fill(struct bench *b, struct err *e)
{
    /* The weights are brought in before anything counts. */
    enum hearth_status st = context_sync(b->prefill_context, b->tokens, MIN(b->n_ctx, 32u), NULL, b->cancel, NULL, NULL, e);
    for (size_t i = 0; i < b->n_measures && st == HEARTH_OK; i++) {
        struct measure *m = &b->m[i];
        if (m->skipped)
            continue;
        if (m->kind == MEASURE_BATCH)
            st = fill_batch(b, m, e);
        else if (m->kind != MEASURE_PREFILL && !(m->context = context_at(b, m))) {
            st = context_open(&m->context, b->engine, MAX(m->size, 1u) + MAX(b->o.n_decode, b->o.n_new), e);
            if (st == HEARTH_OK)
                st = context_sync(m->context, b->tokens, MAX(m->size, 1u), NULL, b->cancel, NULL, NULL, e);
        }
        bench_step_done(b, "filling contexts");
    }
    return st;
}

/* The spans that products read, cut into pieces. */
static bool cut_pieces(struct bench *b, struct arena *a)
{
    size_t max = (engine_info(b->engine)->n_layers + 1) * MATRICES_PER_LAYER, n_pieces = 0;
    struct weight_span *spans = ARENA_NEW(a, struct weight_span, max);
    size_t n = spans ? engine_weight_spans(b->engine, spans, max) : 0;
    for (size_t i = 0; i < n; i++)
        n_pieces += spans[i].bytes / PIECE_BYTES + 1;
    b->pieces = n ? ARENA_NEW(a, struct weight_span, n_pieces) : NULL;
    for (size_t i = 0; i < n && b->pieces; i++)
        for (size_t at = 0; at + 128 <= spans[i].bytes; at += PIECE_BYTES) {
            size_t bytes = MIN(spans[i].bytes - at, (size_t)PIECE_BYTES) / 128 * 128;
            b->pieces[b->n_pieces++] = (struct weight_span){ (const uint8_t *)spans[i].data + at, bytes };
            b->piece_bytes += (double)bytes;
        }
    return b->n_pieces > 0;
}

static bool open_batch(struct bench *b, const struct measure *m, struct arena *a)
{
    const struct kv_layout *kv = engine_kv_layout(b->engine);
    size_t n = m->n_sequences, n_chunks = (1 + m->n_steps + CHUNK_TOKENS - 1) / CHUNK_TOKENS;
    b->batch_kv_bytes = n * n_chunks * kv->chunk_bytes;
    b->batch_kv = pages_alloc(b->batch_kv_bytes);
    b->views = ARENA_NEW(a, struct kv_view, n);
    b->batch_logits = ARENA_NEW(a, float, n * engine_info(b->engine)->n_vocab);
    uint8_t **chunks = ARENA_NEW(a, uint8_t *, n * n_chunks);
    if (!b->batch_kv || !b->views || !b->batch_logits || !chunks)
        return false;
    for (size_t i = 0; i < n * n_chunks; i++)
        chunks[i] = b->batch_kv + i * kv->chunk_bytes;
    for (size_t i = 0; i < n; i++)
        b->views[i] = (struct kv_view){ .chunks = chunks + i * n_chunks, .n_chunks = n_chunks, .n_ctx = n_chunks * CHUNK_TOKENS };
    return true;
}

enum hearth_status bench_measure_open(struct bench *b, struct arena *a, struct err *e)
{
    uint64_t x = 88172645463325252u;
    b->buffer_bytes = MIN((size_t)BUFFER_BYTES, memory_total_bytes() / 8 / PIECE_BYTES * PIECE_BYTES);
    b->buffer = pages_alloc(b->buffer_bytes);
    b->tokens = ARENA_NEW(a, int32_t, b->n_ctx + 1);
    if (!b->buffer || !b->tokens || !cut_pieces(b, a))
        return err_set(e, HEARTH_ENOMEM, "no memory for a buffer of %s", human_bytes(b->buffer_bytes));
    memset(b->buffer, 1, b->buffer_bytes); /* pages that were never written share one page of zeros */
    for (size_t i = 0; i <= b->n_ctx; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        b->tokens[i] = (int32_t)(x % engine_info(b->engine)->n_vocab);
    }
    for (size_t i = 0; i < b->n_measures; i++)
        if (b->m[i].kind == MEASURE_BATCH && !b->m[i].skipped && !open_batch(b, &b->m[i], a))
            return err_set(e, HEARTH_ENOMEM, "no memory for %zu sequences", b->m[i].n_sequences);
    return context_open(&b->prefill_context, b->engine, b->n_ctx, e);
}

void bench_measure_close(struct bench *b)
{
    for (size_t i = 0; i < b->n_measures; i++)
        if (b->m[i].context && !context_at(b, &b->m[i]))
            context_close(b->m[i].context);
    context_close(b->prefill_context);
    pages_free(b->buffer, b->buffer_bytes);
    pages_free(b->batch_kv, b->batch_kv_bytes);
}

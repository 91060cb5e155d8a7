/* engine.c: opening and closing an engine: what it holds, and how much of it.
 *
 *   options, GGUF --prepare--> model (checked), sizes --> scratch + workers = an engine ready for steps
 *                          \--> engine_plan: the same numbers, then everything is closed again
 *
 * Planning runs the very code of opening up to the point where memory is taken, so a plan cannot drift from
 * the truth. Mapping the weights reads none of them.
 *
 * Memory has two parts beside weights and K/V: an arena (the directory of layers, rope tables, copied
 * vectors) and one block of pages that `cut_scratch` divides among the buffers of a step. The block is
 * made resident at open: what the plan says is then really held, and no step can run out of memory.
 *
 * The hidden layer's buffer lies over those of the heads: the two are never alive at once.
 */
#include "engine/engine_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Some ten microseconds of one core: twice what handing a job to a waiting worker costs. */
enum { SHARE_ABOVE_MACS = 1 << 18 };

/* ---- scratch ---- */

/* Cuts aligned pieces off a block; with base NULL it only measures. */
struct cutter {
    uint8_t *base;
    size_t at;
    bool overflowed;
};

static void *cut(struct cutter *c, size_t n_rows, size_t n_per_row, size_t size)
{
    size_t bytes, start;
    if (!size_align(&start, c->at, 64) || !size_mul(&bytes, n_rows, n_per_row) || !size_mul(&bytes, bytes, size) ||
        !size_add(&c->at, start, bytes) || c->at > PTRDIFF_MAX) {
        c->overflowed = true;
        c->at = 0;
        return NULL;
    }
    return c->base ? c->base + start : NULL;
}

static bool cut_scratch(struct scratch *s, const struct engine *en, uint8_t *base)
{
    struct cutter c = { .base = base };
    const struct model *m = &en->model;
    size_t n = en->max_batch, n_qkv = width_q(m) + 2 * width_kv(m), dim = m->info.head_dim;
    size_t n_parts = attn_part_rows(en), overlay, ffn_at;
    *s = (struct scratch){ .base = base };
    s->rows = cut(&c, n, 1, sizeof *s->rows);
    s->blocks = cut(&c, n, 1, sizeof *s->blocks);
    s->logit_rows = cut(&c, n, 1, sizeof *s->logit_rows);
    s->logits = cut(&c, n, 1, sizeof *s->logits);
    s->x = cut(&c, n, m->info.n_embd, sizeof(float));
    s->h = cut(&c, n, m->info.n_embd, sizeof(float));
    s->act = cut(&c, n, en->max_k / 32, sizeof *s->act);
    s->act_few = cut(&c, MIN(n, (size_t)FEW_ROWS), en->max_k / 32, sizeof *s->act_few);
    s->head_left = cut(&c, m->info.n_kv_heads, 1, sizeof *s->head_left);
    s->head_ready = cut(&c, m->info.n_kv_heads, 1, sizeof *s->head_ready);
    s->cos = cut(&c, n * m->rope.n_tables, m->rope.n_pairs, sizeof(float));
    s->sin = cut(&c, n * m->rope.n_tables, m->rope.n_pairs, sizeof(float));
    s->thread_attn = cut(&c, en->n_threads, attn_thread_floats(en), sizeof(float));
    s->part_o = cut(&c, n_parts, dim, sizeof(float));
    s->part_m = cut(&c, n_parts, 1, sizeof(float));
    s->part_l = cut(&c, n_parts, 1, sizeof(float));
    s->total_m = cut(&c, n_parts, 1, sizeof(float));
    s->total_l = cut(&c, n_parts, 1, sizeof(float));
    s->units_done = cut(&c, attn_split_units(en), 1, sizeof *s->units_done);
    ffn_at = c.at;
    s->qkv = cut(&c, n, n_qkv, sizeof(float));
    s->att = cut(&c, n, width_q(m), sizeof(float));
    overlay = c.at;
    c.at = ffn_at;
    s->ffn = cut(&c, n, width_ffn(m), sizeof(float));
    c.at = MAX(c.at, overlay);
    s->bytes = c.at;
    return !c.overflowed;
}

/* ---- sizes ---- */

/* A whole number from 1 to `most` in the environment; 0 when the variable is unset or empty. */
static enum hearth_status env_number(size_t *out, const char *name, size_t most, struct err *e)
{
    const char *text = getenv(name);
    char *end;
    *out = 0;
    if (!text || !*text)
        return HEARTH_OK;
    errno = 0;
    unsigned long n = strtoul(text, &end, 10);
    if (errno || *end || text[0] < '0' || text[0] > '9' || n < 1 || n > most)
        return err_set(e, HEARTH_EINVAL, "%s is \"%.40s\"; a number from 1 to %zu was expected", name, text, most);
    *out = n;
    return HEARTH_OK;
}

/* Where threads run. On a machine with slow CPUs too, the fast ones are taken unless somebody says otherwise. */
static enum hearth_status choose_cpus(struct engine *en, const struct engine_options *o, struct err *e)
{
    const char *env = getenv("HEARTH_AFFINITY"), *text = o->affinity ? o->affinity : env && *env ? env : NULL;
    size_t n_mine = (size_t)cpu_count();
    if (text && strcmp(text, "none") == 0)
        return HEARTH_OK;
    if (text) {
        en->pins = true;
        return cpu_list_parse(&en->cpus, text, e);
    }
    cpu_list_fast(&en->cpus, NULL);
    if (en->cpus.n == n_mine)
        en->cpus.n = 0;
    return HEARTH_OK;
}

static enum hearth_status choose_threads(struct engine *en, const struct engine_options *o, struct err *e)
{
    size_t power = o->power;
    enum hearth_status st = choose_cpus(en, o, e);
    en->n_threads = o->n_threads;
    if (st == HEARTH_OK && !en->n_threads)
        st = env_number(&en->n_threads, "HEARTH_THREADS", LIMIT_THREADS, e);
    if (st == HEARTH_OK && !en->n_threads)
        en->n_threads = MIN(en->cpus.n ? en->cpus.n : (size_t)cpu_count(), (size_t)LIMIT_THREADS);
    if (st == HEARTH_OK && !power)
        st = env_number(&power, "HEARTH_POWER", 100, e);
    if (st == HEARTH_OK && power > 100)
        st = err_set(e, HEARTH_EINVAL, "a power of %zu percent was asked; 1 to 100 are possible", power);
    en->power = (unsigned)power;
    return st;
}

static enum hearth_status size_kv(struct kv_layout *l, const struct model_info *f, enum kv_type type, struct err *e)
{
    size_t element = type == KV_F16 ? 2 : 4;
    *l = (struct kv_layout){ .type = type, .n_layers = f->n_layers, .n_kv_heads = f->n_kv_heads, .head_dim = f->head_dim };
    l->tile_bytes = f->head_dim * CHUNK_TOKENS * element;
    l->layer_bytes = 2 * f->n_kv_heads * l->tile_bytes;
    if (!size_mul(&l->chunk_bytes, l->n_layers, l->layer_bytes))
        return err_set(e, HEARTH_ENOMEM, "a chunk of %zu layers of %zu bytes is more than memory can address", l->n_layers,
                       l->layer_bytes);
    return HEARTH_OK;
}

static size_t longest_row(const struct model *m)
{
    size_t k = MAX(m->info.n_embd, width_q(m));
    return MAX(k, m->info.n_ff);
}

/* Everything but scratch memory and workers. On failure the engine is closed. */
static enum hearth_status prepare(struct engine **out, const struct gguf *g, const struct engine_options *o, struct err *e)
{
    static const struct engine_options defaults;
    struct arena arena;
    struct engine *en;
    enum hearth_status st;
    *out = NULL;
    if (!o)
        o = &defaults;
    arena_init(&arena, 0);
    if (!(en = ARENA_NEW(&arena, struct engine, 1)))
        return err_set(e, HEARTH_ENOMEM, "%s: no memory for an engine", g->path);
    en->arena = arena;
    en->share_above = o->share_above ? o->share_above : SHARE_ABOVE_MACS;
    en->max_batch = o->max_batch ? o->max_batch : 512;
    en->k = o->kernels ? o->kernels : kernels_get(e);
    if (!en->k) {
        st = err_set(e, HEARTH_EINVAL, "no kernels for this machine");
        goto fail;
    }
    if ((st = choose_threads(en, o, e)) != HEARTH_OK)
        goto fail;
    if (en->max_batch > LIMIT_BATCH || en->n_threads > LIMIT_THREADS || (unsigned)o->kv_type >= KV_TYPE_COUNT) {
        st = err_set(e, HEARTH_EINVAL, "a batch of %zu tokens on %zu threads was asked; at most %d on %d are possible",
                     en->max_batch, en->n_threads, LIMIT_BATCH, LIMIT_THREADS);
        goto fail;
    }
    if ((st = model_open(&en->model, g, o, en->k, &en->arena, e)) != HEARTH_OK ||
        (st = size_kv(&en->kv, &en->model.info, o->kv_type, e)) != HEARTH_OK)
        goto fail;
    en->max_k = (longest_row(&en->model) + 31) / 32 * 32;
    en->block_tokens = attn_block_tokens(&en->model);
    en->block_rows = en->block_tokens * (en->model.info.n_heads / en->model.info.n_kv_heads);
    if (!cut_scratch(&en->s, en, NULL)) {
        st = err_set(e, HEARTH_ENOMEM, "%s: batches of %zu tokens need more than memory can address", g->path, en->max_batch);
        goto fail;
    }
    *out = en;
    return HEARTH_OK;
fail:
    engine_close(en);
    return st;
}

/* ---- the contract ---- */

enum hearth_status engine_open(struct engine **out, const struct gguf *g, const struct engine_options *o, struct err *e)
{
    struct engine *en;
    enum hearth_status st = prepare(&en, g, o, e);
    *out = NULL;
    if (st != HEARTH_OK)
        return st;
    weights_read_ahead(en->model.weights);
    uint8_t *base = pages_alloc(en->s.bytes);
    if (!base) {
        st = err_set(e, HEARTH_ENOMEM, "%s: no memory for %zu bytes of scratch (batches of %zu tokens)", g->path, en->s.bytes,
                     en->max_batch);
        goto fail;
    }
    CHECK(cut_scratch(&en->s, en, base));
    if (!pages_commit(base, en->s.bytes)) {
        st = err_set(e, HEARTH_ENOMEM, "%s: no memory for %zu bytes of scratch (batches of %zu tokens)", g->path, en->s.bytes,
                     en->max_batch);
        goto fail;
    }
    const struct pool_options po = { .n_threads = en->n_threads, .power = en->power, .cpus = &en->cpus, .pins = en->pins };
    if ((st = pool_open_with(&en->pool, &po, e)) != HEARTH_OK)
        goto fail;
    if ((st = weights_load(en->model.weights, en->pool, o ? o->progress : NULL, o ? o->progress_arg : NULL, e)) != HEARTH_OK)
        goto fail;
    *out = en;
    return HEARTH_OK;
fail:
    engine_close(en);
    return st;
}

void engine_close(struct engine *en)
{
    if (!en)
        return;
    struct arena arena = en->arena; /* it holds *en, too */
    pool_close(en->pool);
    if (en->s.base)
        pages_free(en->s.base, en->s.bytes);
    weights_close(en->model.weights);
    arena_free(&arena);
}

enum hearth_status engine_plan(struct memory_plan *p, const struct gguf *g, const struct engine_options *o, size_t n_ctx, struct err *e)
{
    struct engine *en;
    enum hearth_status st = prepare(&en, g, o, e);
    *p = (struct memory_plan){ 0 };
    if (st != HEARTH_OK)
        return st;
    p->weight_bytes = en->model.info.weight_bytes;
    p->kv_bytes_per_chunk = en->kv.chunk_bytes;
    p->scratch_bytes = engine_scratch_bytes(en);
    if (!size_mul(&p->kv_bytes, n_ctx / CHUNK_TOKENS + (n_ctx % CHUNK_TOKENS != 0), en->kv.chunk_bytes) ||
        !size_add(&p->total_bytes, p->weight_bytes, p->kv_bytes) ||
        !size_add(&p->total_bytes, p->total_bytes, p->scratch_bytes))
        st = err_set(e, HEARTH_ENOMEM, "%s: a context of %zu tokens needs more than memory can address", g->path, n_ctx);
    engine_close(en);
    return st;
}

const struct model_info *engine_info(const struct engine *en)
{
    return &en->model.info;
}

const struct kv_layout *engine_kv_layout(const struct engine *en)
{
    return &en->kv;
}

struct pool *engine_pool(struct engine *en)
{
    return en->pool;
}

size_t engine_max_batch(const struct engine *en)
{
    return en->max_batch;
}

size_t engine_scratch_bytes(const struct engine *en)
{
    return en->arena.used_bytes + en->s.bytes;
}

size_t engine_weight_spans(const struct engine *en, struct weight_span *out, size_t max)
{
    const struct model *m = &en->model;
    size_t n = 0;
    for (size_t i = 0; i <= m->info.n_layers; i++) {
        const struct layer *l = &m->layers[MIN(i, m->info.n_layers - 1)];
        const struct matrix *all[MATRICES_PER_LAYER] = { &l->q, &l->k, &l->v, &l->o, &l->gate, &l->up, &l->down };
        if (i == m->info.n_layers)
            all[0] = &m->output;
        for (size_t k = 0; k < (i == m->info.n_layers ? 1 : ARRAY_LEN(all)) && n < max; k++) {
            size_t n_strips = (all[k]->n_rows + R8_ROWS - 1) / R8_ROWS;
            if (all[k]->data && all[k]->strip_bytes)
                out[n++] = (struct weight_span){ all[k]->data, n_strips * all[k]->strip_bytes };
        }
    }
    return n;
}

void engine_profile_attach(struct engine *en, struct engine_profile *p)
{
    en->profile = p;
    pool_measure(en->pool, p ? &p->pool : NULL);
}

void profile_phase(struct engine *en, enum engine_phase phase)
{
    struct engine_profile *p = en->profile;
    struct phase_times *t = &p->phases[phase];
    uint64_t now = clock_ns();
    t->ns += now - p->last_ns;
    t->run_ns += p->pool.run_ns - p->seen.run_ns;
    t->wait_ns += p->pool.wait_ns - p->seen.wait_ns;
    t->busy_ns += p->pool.busy_ns - p->seen.busy_ns;
    t->n_jobs += p->pool.n_jobs - p->seen.n_jobs;
    p->seen = p->pool;
    p->last_ns = now;
}

void engine_mutate(struct engine *en, enum engine_mutation m)
{
    en->mutation = m;
}

/* attention.c: query rows against the K/V chunks of their sequence.
 *
 * The rows of a slice are cut into blocks of a few consecutive tokens. A unit of work is (block, K/V head): all
 * query heads of the group, for all tokens of the block, so that a K/V tile is fetched and converted once for
 * many rows. Inside a unit:
 *
 *   gather q -> for each range of 512 tokens: (m, l, o) = nothing
 *                 attn_walk over its chunks, each token with what it sees of them
 *               merge the range into the row's total      -> finish -> att[row][head] -> quantise -> act[row]
 *
 * Ranges lie at fixed absolute positions and are merged left to right, so the bits do not depend on who
 * computes them. Two ways through the same work:
 *
 *   whole   a thread walks all ranges of a unit. For prompts: many units, the longest first.
 *   split   every (range, unit) is a slice of the job; its (m, l, o) goes to a part of its own, and whoever is the last
 *           at a unit merges and finishes it. For few new tokens before a long context: threads finish together
 *           to within a range, and one barrier ends it, as with whole units. When the parts do not hold all ranges, they
 *           are filled several times, with a barrier each.
 *
 * attn_open, attn_slice: the same as slices of a job that begins with something else (forward.c), where one job is enough.
 * What attn_run guarantees: when it returns, att[row] holds every row's output, and where the layer's output product
 * wants quantised activations, act[row] holds them too. One job (and so one barrier) but for the cases above, and where a
 * unit's heads do not make whole blocks of 32 activations. It reads qkv and the chunks, and writes att and act only.
 *
 * Visible to a row at position p: keys max(0, p - window + 1) .. p. Chunks without a visible lane are not
 * touched, so a window costs what it shows. A block's rows differ only in the chunks where a window opens or
 * the causal edge falls.
 */
#include "engine/engine_internal.h"

#include <math.h>
#include <string.h>

/* Rows per unit: enough to pay for converting a tile, few enough that q, o and the tile stay near. */
enum { BLOCK_ROWS_AIM = 64 };
/* Units per thread above which they need no splitting to end together; and below which it is worth several barriers. */
enum { UNITS_PER_THREAD_ENOUGH = 32, UNITS_PER_THREAD_FEW = 4 };

_Static_assert(sizeof(struct attn_span) == 2 * sizeof(float), "a span takes the room of two floats");

size_t attn_block_tokens(const struct model *m)
{
    size_t group = m->info.n_heads / m->info.n_kv_heads;
    return MAX(BLOCK_ROWS_AIM / group, (size_t)1);
}

/* 8 tokens of 32 heads before 4,096 others on two threads, one before 64 k. */
size_t attn_part_rows(const struct engine *en)
{
    return en->n_threads > 1 ? 2048 + 1024 * en->n_threads : 0;
}

size_t attn_split_units(const struct engine *en)
{
    return en->n_threads > 1 ? UNITS_PER_THREAD_ENOUGH * en->n_threads : 0;
}

/* q, o of a range, then m and l of a range and of the total, and the spans. */
size_t attn_thread_floats(const struct engine *en)
{
    return en->block_rows * (2 * en->model.info.head_dim + 6);
}

void attn_plan(struct step *st)
{
    struct scratch *s = &st->en->s;
    size_t i_row = 0, end = 0;
    st->n_blocks = st->attn_macs = 0;
    for (size_t i = 0; i < st->n_slices; i++) {
        struct slice *sl = &st->slices[i];
        for (size_t k = 0; k < sl->n_tokens; k += st->en->block_tokens)
            s->blocks[st->n_blocks++] = (struct block){
                .slice = sl, .i_row = i_row + k, .n_rows = MIN(st->en->block_tokens, sl->n_tokens - k)
            };
        i_row += sl->n_tokens;
        end = MAX(end, sl->kv->n_tokens + sl->n_tokens);
        st->attn_macs += sl->n_tokens * (sl->kv->n_tokens + sl->n_tokens) * 2 * width_q(&st->en->model);
    }
    st->n_ranges_end = (end + ATTN_RANGE_TOKENS - 1) / ATTN_RANGE_TOKENS;
}

/* One K/V head of one block in one layer, and the state of its rows: [n_tokens * group], tokens outermost. */
struct unit {
    struct engine *en;
    const struct block *block;
    const uint8_t *const *chunks;
    size_t i_head, group, k_offset, v_offset, window;
    bool wants_act;   /* the output product takes quantised activations */
    struct act_block *act; /* where they go, row 0 */
    bool is_unmasked; /* the mutation: every key of the step's end is visible */
    float *q, *o, *m, *l;
    struct attn_span *seen;
};

static void gather_q(const struct unit *u)
{
    const struct model *m = &u->en->model;
    size_t n = u->group * m->info.head_dim;
    for (size_t t = 0; t < u->block->n_rows; t++)
        memcpy(u->q + t * n, u->en->s.qkv + (u->block->i_row + t) * (width_q(m) + 2 * width_kv(m)) + u->i_head * n,
               n * sizeof *u->q);
}

/* Keys [*begin, *end) that token t of the block sees. */
static void visible_keys(const struct unit *u, size_t t, size_t *begin, size_t *end)
{
    size_t p = u->en->s.rows[u->block->i_row + t].position;
    *begin = u->window && p >= u->window ? p - u->window + 1 : 0;
    *end = u->is_unmasked ? u->block->slice->kv->n_tokens + u->block->slice->n_tokens : p + 1;
}

/* Tokens [*first, *last) of the block see something of [begin, end), and what: u->seen, one span per query row. */
static void span_rows(const struct unit *u, size_t begin, size_t end, size_t *first, size_t *last)
{
    *first = *last = 0;
    for (size_t t = 0; t < u->block->n_rows; t++) {
        size_t from, to;
        visible_keys(u, t, &from, &to);
        from = MAX(from, begin);
        to = MIN(to, end);
        if (from >= to)
            continue;
        if (*last == 0)
            *first = t;
        *last = t + 1;
        for (size_t i = t * u->group; i < (t + 1) * u->group; i++)
            u->seen[i] = (struct attn_span){ (uint32_t)(from - begin), (uint32_t)(to - begin) };
    }
}

static void attend_range(const struct unit *u, size_t i_range)
{
    const struct engine *en = u->en;
    const struct slice *sl = u->block->slice;
    size_t n_rows = u->block->n_rows * u->group, dim = en->model.info.head_dim, first, last;
    size_t begin = i_range * ATTN_RANGE_TOKENS, end = MIN(begin + ATTN_RANGE_TOKENS, sl->kv->n_tokens + sl->n_tokens);
    for (size_t i = 0; i < n_rows; i++) {
        u->m[i] = -INFINITY;
        u->l[i] = 0;
    }
    memset(u->o, 0, n_rows * dim * sizeof *u->o);
    span_rows(u, begin, end, &first, &last);
    size_t i = first * u->group;
    const struct attn_walk a = {
        .q = u->q + i * dim, .chunks = u->chunks + begin / CHUNK_TOKENS, .seen = u->seen + i,
        .m = u->m + i, .l = u->l + i, .o = u->o + i * dim, .k_at = u->k_offset, .v_at = u->v_offset,
        .n_chunks = (end - begin + CHUNK_TOKENS - 1) / CHUNK_TOKENS, .q_stride = dim, .o_stride = dim,
        .n_q = (last - first) * u->group, .head_dim = dim, .scale = en->model.attn_scale, .softcap = en->model.attn_cap,
    };
    en->k->attn_walk[en->kv.type](&a);
}

/* Ranges that hold a key some row of the block may see: [*begin, *end). */
static void range_bounds(const struct unit *u, size_t *begin, size_t *end)
{
    const struct row *rows = u->en->s.rows + u->block->i_row;
    size_t p = rows[0].position, last = rows[u->block->n_rows - 1].position;
    *begin = (u->window && p >= u->window ? p - u->window + 1 : 0) / ATTN_RANGE_TOKENS;
    if (u->is_unmasked)
        last = u->block->slice->kv->n_tokens + u->block->slice->n_tokens - 1;
    *end = last / ATTN_RANGE_TOKENS + 1;
}

static struct unit unit_of(const struct attn_job *j, size_t i_unit)
{
    struct engine *en = j->st->en;
    size_t n_kv = en->model.info.n_kv_heads, i_head = i_unit % n_kv;
    size_t kv_head = en->mutation == MUTATE_WRONG_GQA ? (i_head + 1) % n_kv : i_head;
    const struct block *b = &en->s.blocks[i_unit / n_kv];
    return (struct unit){
        .en = en, .block = b, .chunks = (const uint8_t *const *)b->slice->kv->chunks, .i_head = i_head,
        .group = en->model.info.n_heads / n_kv,
        .k_offset = kv_k_offset(&en->kv, j->i_layer, kv_head), .v_offset = kv_v_offset(&en->kv, j->i_layer, kv_head),
        .window = en->mutation == MUTATE_NO_WINDOW ? 0 : en->model.layers[j->i_layer].window,
        .wants_act = en->model.layers[j->i_layer].o_wants_act, .act = j->act,
        .is_unmasked = en->mutation == MUTATE_NO_MASK,
    };
}

static float *att_row(const struct unit *u, size_t i)
{
    const struct model *m = &u->en->model;
    size_t i_row = u->block->i_row + i / u->group, i_head = u->i_head * u->group + i % u->group;
    return u->en->s.att + i_row * width_q(m) + i_head * m->info.head_dim;
}

static void clear_totals(const struct unit *u, float *m, float *l)
{
    size_t n_rows = u->block->n_rows * u->group, dim = u->en->model.info.head_dim;
    for (size_t i = 0; i < n_rows; i++) {
        m[i] = -INFINITY;
        l[i] = 0;
        memset(att_row(u, i), 0, dim * sizeof(float));
    }
}

static void merge_range(const struct unit *u, float *m, float *l)
{
    size_t n_rows = u->block->n_rows * u->group, dim = u->en->model.info.head_dim;
    for (size_t i = 0; i < n_rows; i++)
        u->en->k->attn_merge(&m[i], &l[i], att_row(u, i), &u->m[i], &u->l[i], u->o + i * dim, dim);
}

/* The heads of a unit lie side by side in att, so their blocks of activations do too. */
static bool is_quantised_here(const struct unit *u)
{
    return u->wants_act && u->group * u->en->model.info.head_dim % 32 == 0;
}

static void finish(const struct unit *u, const float *l)
{
    size_t n_rows = u->block->n_rows * u->group, dim = u->en->model.info.head_dim, nq = width_q(&u->en->model);
    for (size_t i = 0; i < n_rows; i++)
        u->en->k->attn_finish(att_row(u, i), l[i], dim);
    for (size_t t = 0; t < u->block->n_rows && is_quantised_here(u); t++) {
        size_t at = (u->block->i_row + t) * nq + u->i_head * u->group * dim;
        u->en->k->quantize_act(u->act + at / 32, u->en->s.att + at, u->group * dim);
    }
}

static void use_thread_scratch(struct unit *u, size_t i_thread, float **total_m, float **total_l)
{
    struct engine *en = u->en;
    size_t n = en->block_rows, dim = en->model.info.head_dim;
    u->q = en->s.thread_attn + i_thread * attn_thread_floats(en);
    u->o = u->q + n * dim;
    u->m = u->o + n * dim;
    u->l = u->m + n;
    *total_m = u->l + n;
    *total_l = *total_m + n;
    u->seen = (struct attn_span *)(void *)(*total_l + n);
}

/* From the last unit to the first: later tokens see more, and what is long should not be left for the end. */
static void run_whole(void *arg, size_t i_slice, size_t i_thread)
{
    const struct attn_job *j = arg;
    struct unit u = unit_of(j, j->n_units - 1 - i_slice);
    size_t begin, end;
    float *total_m, *total_l;
    use_thread_scratch(&u, i_thread, &total_m, &total_l);
    gather_q(&u);
    clear_totals(&u, total_m, total_l);
    range_bounds(&u, &begin, &end);
    for (size_t r = begin; r < end; r++) {
        attend_range(&u, r);
        merge_range(&u, total_m, total_l);
    }
    finish(&u, total_l);
}

/* Query rows of all units before this one. */
static size_t rows_before(const struct unit *u)
{
    return u->block->i_row * u->en->model.info.n_heads + u->i_head * u->block->n_rows * u->group;
}

/* Parts lie [range of those side by side][row of a unit]. */
static void use_part(struct unit *u, const struct step *st, size_t i_side)
{
    struct scratch *s = &u->en->s;
    size_t i = i_side * st->n_rows * u->en->model.info.n_heads + rows_before(u);
    u->o = s->part_o + i * u->en->model.info.head_dim;
    u->m = s->part_m + i;
    u->l = s->part_l + i;
}

/* The parts of a unit, left to right, into its total; after the last of all ranges it is finished. */
static void merge_parts(const struct attn_job *j, struct unit *u, size_t begin, size_t end)
{
    float *m = u->en->s.total_m + rows_before(u), *l = u->en->s.total_l + rows_before(u);
    if (j->is_first)
        clear_totals(u, m, l);
    for (size_t i = 0; i < j->n_ranges; i++) {
        if (j->i_range + i < begin || j->i_range + i >= end)
            continue;
        use_part(u, j->st, i);
        merge_range(u, m, l);
    }
    if (j->is_last)
        finish(u, l);
}

static void run_split(void *arg, size_t i_slice, size_t i_thread)
{
    const struct attn_job *j = arg;
    size_t i_side = i_slice / j->n_units, i_unit = i_slice % j->n_units, i_range = j->i_range + i_side, begin, end;
    struct unit u = unit_of(j, i_unit);
    float *unused_m, *unused_l;
    range_bounds(&u, &begin, &end);
    if (i_range >= begin && i_range < end) {
        use_thread_scratch(&u, i_thread, &unused_m, &unused_l);
        use_part(&u, j->st, i_side);
        gather_q(&u);
        attend_range(&u, i_range);
    }
    /* Acquire what the others wrote into their parts, release our own: the last one sees them all. */
    atomic_uint *n_done = &u.en->s.units_done[i_unit];
    if (atomic_fetch_add_explicit(n_done, 1, memory_order_acq_rel) + 1 < j->n_ranges)
        return;
    atomic_store_explicit(n_done, 0, memory_order_relaxed); /* for the next job, which begins after a barrier */
    merge_parts(j, &u, begin, end);
}

/* Ranges [*begin, *end) hold all that rows of this layer may see. */
static void step_ranges(const struct attn_job *j, size_t *begin, size_t *end)
{
    *begin = *end = j->st->n_ranges_end;
    for (size_t i = 0; i < j->n_units; i += j->st->en->model.info.n_kv_heads) {
        const struct unit u = unit_of(j, i);
        size_t b, e;
        range_bounds(&u, &b, &e);
        *begin = MIN(*begin, b);
    }
}

/* How many ranges to compute side by side; 0: units stay whole. */
static size_t ranges_at_once(const struct attn_job *j, size_t n_ranges)
{
    const struct engine *en = j->st->en;
    size_t n = attn_part_rows(en) / (j->st->n_rows * en->model.info.n_heads);
    if (n_ranges < 2 || n < 2 || j->n_units >= UNITS_PER_THREAD_ENOUGH * en->n_threads)
        return 0;
    return n >= n_ranges ? n_ranges : j->n_units < UNITS_PER_THREAD_FEW * en->n_threads ? n : 0;
}

static void quantise_block(void *arg, size_t i_block, size_t i_thread)
{
    const struct attn_job *j = arg;
    const struct engine *en = j->st->en;
    const struct block *b = &en->s.blocks[i_block];
    size_t nq = width_q(&en->model), at = b->i_row * nq;
    (void)i_thread;
    en->k->quantize_act(j->act + at / 32, en->s.att + at, b->n_rows * nq);
}

static void set_pass(struct attn_job *j, size_t i_range)
{
    j->i_range = i_range;
    j->n_ranges = MIN(j->n_at_once, j->end_range - i_range);
    j->is_first = i_range == j->first_range;
    j->is_last = i_range + j->n_ranges >= j->end_range;
}

static bool leaves_act(const struct attn_job *j)
{
    const struct unit u = unit_of(j, 0);
    return u.wants_act && !is_quantised_here(&u);
}

bool attn_open(struct attn_job *j, struct step *st, size_t i_layer, struct act_block *act)
{
    *j = (struct attn_job){ .st = st, .i_layer = i_layer, .act = act, .n_units = st->n_blocks * st->en->model.info.n_kv_heads };
    step_ranges(j, &j->first_range, &j->end_range);
    j->n_at_once = ranges_at_once(j, j->end_range - j->first_range);
    set_pass(j, j->first_range);
    j->n_slices = j->n_units * (j->n_at_once ? j->n_ranges : 1);
    return (j->n_at_once == 0 || j->is_last) && !leaves_act(j);
}

void attn_slice(void *arg, size_t i_slice, size_t i_thread)
{
    const struct attn_job *j = arg;
    (j->n_at_once ? run_split : run_whole)(arg, i_slice, i_thread);
}

size_t attn_slice_head(const struct attn_job *j, size_t i_slice)
{
    size_t i_unit = j->n_at_once ? i_slice % j->n_units : j->n_units - 1 - i_slice;
    return i_unit % j->st->en->model.info.n_kv_heads;
}

void attn_run(struct step *st, size_t i_layer)
{
    struct engine *en = st->en;
    struct attn_job j;
    (void)attn_open(&j, st, i_layer, en->s.act);
    if (j.n_at_once == 0)
        run_job(en, run_whole, &j, j.n_units, st->attn_macs);
    for (size_t r = j.first_range; j.n_at_once && r < j.end_range; r += j.n_at_once) {
        set_pass(&j, r);
        run_job(en, run_split, &j, j.n_units * j.n_ranges, st->attn_macs);
    }
    if (leaves_act(&j))
        run_job(en, quantise_block, &j, st->n_blocks, st->n_rows * width_q(&en->model));
}

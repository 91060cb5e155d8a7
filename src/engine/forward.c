/* forward.c: one step, as one straight line of kernel calls: tokens in, logits out.
 *
 * Rows are all new tokens of all slices, one after the other; everything below works on rows [row, width].
 *
 *   embed ─> x
 *   for each layer:      h = norm(x)            qkv = W h        heads: bias, norm, rope, store K V
 *                        att = attention        h = Wo att       x += h
 *                        h = norm(x)            ffn = W h        activation
 *                        h = Wdown ffn          x += h
 *   h = norm(x) of the rows asked   ─>   logits = Wout h
 *
 * Post-LN models (gpt-postln) feed x itself to the products and norm it after each sum; gemma norms a
 * block's output once more before the sum. Those are the only bends.
 *
 * Two kinds of work alternate. *Products* are split over the pool by strips of weight rows, so that each
 * byte of weights is read by one thread, once per step, whatever the number of rows. *Row work* (norms,
 * rope, activations, quantisation for the next product) is split over rows when there are several, else the
 * caller does it while the workers spin. Steps of few rows go further: heads and hidden layer are finished inside the
 * jobs of their products, by whoever computed them, and attention begins head by head while other heads are still being
 * multiplied. So a layer of one token has four barriers: before and behind the output product, and before and behind Wdown.
 * (While a profile is attached, attention is a job of its own, to be told apart.)
 *
 * Every value of a row is computed from that row alone, the weights, and K/V of its own sequence, in the
 * order of kernels.h: so threads, splits and neighbours cannot change a bit.
 *
 * No allocation; all buffers come from engine.c. Left out on purpose: skipping the last layer for rows
 * without logits, and graph-level fusion.
 */
#include "engine/engine_internal.h"

#include <math.h>
#include <string.h>

/* ---- row work ---- */

typedef void (*row_fn)(struct step *st, size_t i_layer, size_t i_row);

struct row_job {
    struct step *st;
    row_fn fn;
    size_t i_layer, n_rows;
};

/* A value of row work (norms, exponentials, conversions) costs about as much as so many multiply-adds. */
enum { ROWS_PER_SLICE = 4, MACS_PER_VALUE = 32 };

static void row_slice(void *arg, size_t i, size_t i_thread)
{
    const struct row_job *j = arg;
    (void)i_thread;
    for (size_t r = i * ROWS_PER_SLICE; r < MIN((i + 1) * ROWS_PER_SLICE, j->n_rows); r++)
        j->fn(j->st, j->i_layer, r);
}

static void run_rows(struct step *st, row_fn fn, size_t i_layer, size_t n_rows)
{
    struct row_job j = { st, fn, i_layer, n_rows };
    run_job(st->en, row_slice, &j, (n_rows + ROWS_PER_SLICE - 1) / ROWS_PER_SLICE,
            n_rows * st->en->model.info.n_embd * MACS_PER_VALUE);
    phase_done(st->en, PHASE_ROWS);
}

static float *x_row(const struct step *st, size_t i)
{
    return st->en->s.x + i * st->en->model.info.n_embd;
}

static float *h_row(const struct step *st, size_t i)
{
    return st->en->s.h + i * st->en->model.info.n_embd;
}

static void norm(const struct engine *en, float *y, const float *x, const float *w, const float *b)
{
    if (en->model.arch->has_layer_norm)
        en->k->layer_norm(y, x, w, b, en->model.info.n_embd, en->model.eps);
    else
        en->k->rms_norm(y, x, w, en->model.info.n_embd, en->model.eps);
}

/* Row i of the activations of the next product, whose rows are k long. */
static void quantise(struct step *st, size_t i, const float *x, size_t k)
{
    st->en->k->quantize_act(st->en->s.act + i * (k / 32), x, k);
}

static void add_bias(const struct engine *en, float *y, const float *bias, size_t n)
{
    if (bias)
        en->k->add(y, bias, n);
}

/* What the products of a block read: the normed row, or with post-LN the stream itself. */
static struct input block_input(const struct step *st)
{
    const struct engine *en = st->en;
    return (struct input){ en->model.arch->is_post_ln ? en->s.x : en->s.h, en->model.info.n_embd, en->s.act };
}

static void open_block(struct step *st, size_t i, const float *w, const float *b, bool wants_act)
{
    const struct engine *en = st->en;
    size_t n = en->model.info.n_embd;
    if (!en->model.arch->is_post_ln)
        norm(en, h_row(st, i), x_row(st, i), w, b);
    if (wants_act)
        quantise(st, i, block_input(st).x + i * n, n);
}

/* x += h, with the bias of the product that made h, and the norms that follow it. */
static void close_block(struct step *st, size_t i, const float *bias, const float *post_norm, const float *w, const float *b)
{
    const struct engine *en = st->en;
    float *x = x_row(st, i), *h = h_row(st, i);
    add_bias(en, h, bias, en->model.info.n_embd);
    if (post_norm)
        norm(en, h, h, post_norm, NULL);
    en->k->add(x, h, en->model.info.n_embd);
    if (en->model.arch->is_post_ln)
        norm(en, x, x, w, b);
}

/* y = row i of a matrix of either form. */
static void read_row(const struct engine *en, float *y, const struct matrix *w, size_t i)
{
    if (w->strip_bytes)
        r8_dequant_row(en->k, y, (const uint8_t *)w->data + i / R8_ROWS * w->strip_bytes, i % R8_ROWS, w->type, w->k);
    else
        en->k->dequant_row[w->type](y, (const uint8_t *)w->data + i * w->row_bytes, w->k);
}

static void embed_row(struct step *st, size_t i_layer, size_t i)
{
    const struct engine *en = st->en;
    const struct model *m = &en->model;
    const struct row *row = &en->s.rows[i];
    size_t n = m->info.n_embd;
    (void)i_layer;
    read_row(en, x_row(st, i), &m->embd, (size_t)row->token);
    if (m->arch->scales_embd)
        en->k->scale(x_row(st, i), m->embd_scale, n);
    if (m->arch->has_positions) {
        size_t i_pos = row->position + m->arch->position_offset;
        read_row(en, h_row(st, i), &m->positions, i_pos);
        en->k->add(x_row(st, i), h_row(st, i), n);
    }
}

static size_t rope_table(const struct model *m, const struct layer *l, const struct slice *s)
{
    return m->rope.long_above ? s->kv->n_ctx > m->rope.long_above : l->i_rope;
}

/* cos and sin of this row's position, for every table that a layer may ask for. */
static void rope_row(struct step *st, size_t i_layer, size_t i)
{
    const struct engine *en = st->en;
    const struct rope *p = &en->model.rope;
    const struct row *row = &en->s.rows[i];
    (void)i_layer;
    for (size_t t = 0; t < p->n_tables; t++) {
        float *c = en->s.cos + (t * en->max_batch + i) * p->n_pairs, *s = en->s.sin + (t * en->max_batch + i) * p->n_pairs;
        if (p->long_above && t != rope_table(&en->model, NULL, row->slice))
            continue;
        for (size_t k = 0; k < p->n_pairs; k++) {
            double angle = (double)row->position * p->inv_freq[t][k];
            c[k] = (float)(cos(angle) * p->magnitude[t]);
            s[k] = (float)(sin(angle) * p->magnitude[t]);
        }
    }
}

static void open_attention(struct step *st, size_t i_layer, size_t i)
{
    const struct layer *l = &st->en->model.layers[i_layer];
    open_block(st, i, l->attn_norm, l->attn_norm_b, l->qkv_wants_act);
}

/* n heads side by side: their norm, then rotation. */
static void turn_heads(const struct step *st, const struct layer *l, size_t i, float *x, const float *w, size_t n)
{
    const struct engine *en = st->en;
    const struct model *m = &en->model;
    const struct rope *p = &m->rope;
    size_t dim = m->info.head_dim;
    for (size_t k = 0; k < n && w; k++)
        en->k->rms_norm(x + k * dim, x + k * dim, w, dim, m->eps);
    if (p->kind == ROPE_NONE || en->mutation == MUTATE_NO_ROPE)
        return;
    size_t at = (rope_table(m, l, en->s.rows[i].slice) * en->max_batch + i) * p->n_pairs;
    for (size_t k = 0; k < n; k++)
        (p->kind == ROPE_PAIRS ? en->k->rope_pairs : en->k->rope_halves)(x + k * dim, en->s.cos + at, en->s.sin + at, p->n_pairs);
}

/* K/V head h of row i and the query heads that share it: bias, norm, rotation; K and V go to their chunk. */
static void finish_head(struct step *st, size_t i_layer, size_t i, size_t h)
{
    const struct engine *en = st->en;
    const struct model *m = &en->model;
    const struct layer *l = &m->layers[i_layer];
    const struct row *row = &en->s.rows[i];
    size_t nq = width_q(m), nkv = width_kv(m), dim = m->info.head_dim, group = m->info.n_heads / m->info.n_kv_heads;
    float *q = en->s.qkv + i * (nq + 2 * nkv) + h * group * dim, *k = en->s.qkv + i * (nq + 2 * nkv) + nq + h * dim, *v = k + nkv;
    add_bias(en, q, l->q_bias ? l->q_bias + h * group * dim : NULL, group * dim);
    add_bias(en, k, l->k_bias ? l->k_bias + h * dim : NULL, dim);
    add_bias(en, v, l->v_bias ? l->v_bias + h * dim : NULL, dim);
    turn_heads(st, l, i, q, l->q_norm, group);
    turn_heads(st, l, i, k, l->k_norm, 1);
    uint8_t *chunk = row->slice->kv->chunks[row->position / CHUNK_TOKENS];
    en->k->kv_store[en->kv.type](chunk + kv_k_offset(&en->kv, i_layer, h), chunk + kv_v_offset(&en->kv, i_layer, h),
                                 row->position % CHUNK_TOKENS, k, v, dim);
}

static void finish_heads(struct step *st, size_t i_layer, size_t i)
{
    for (size_t h = 0; h < st->en->model.info.n_kv_heads; h++)
        finish_head(st, i_layer, i, h);
}

static void between_blocks(struct step *st, size_t i_layer, size_t i)
{
    const struct layer *l = &st->en->model.layers[i_layer];
    close_block(st, i, l->o_bias, l->attn_post_norm, l->attn_norm, l->attn_norm_b);
    open_block(st, i, l->ffn_norm, l->ffn_norm_b, l->up_wants_act);
}

/* Values [first, first + n) of the hidden layer's row i, once their products are there: bias, activation, and the
 * quantisation for the next product (into act, the whole row's), which wants whole blocks of 32. */
static void activate_part(const struct engine *en, const struct layer *l, size_t i, size_t first, size_t n, struct act_block *act)
{
    size_t n_ff = en->model.info.n_ff;
    float *gate = en->s.ffn + i * width_ffn(&en->model) + first, *up = gate + n_ff;
    switch (en->model.arch->ffn) {
    case FFN_SILU_GATED:
    case FFN_GELU_GATED:
        add_bias(en, gate, l->gate_bias ? l->gate_bias + first : NULL, n);
        add_bias(en, up, l->up_bias ? l->up_bias + first : NULL, n);
        if (en->mutation == MUTATE_SWAP_GATE_UP) {
            float *t = gate;
            gate = up;
            up = t;
        }
        (en->model.arch->ffn == FFN_SILU_GATED ? en->k->silu_mul : en->k->gelu_mul)(gate, gate, up, n);
        if (en->mutation == MUTATE_SWAP_GATE_UP)
            memcpy(up, gate, n * sizeof *up);
        break;
    case FFN_RELU:
        add_bias(en, gate, l->up_bias ? l->up_bias + first : NULL, n);
        en->k->relu(gate, n);
        break;
    }
    if (l->down_wants_act)
        en->k->quantize_act(act + first / 32, en->s.ffn + i * width_ffn(&en->model) + first, n);
}

static void activate(struct step *st, size_t i_layer, size_t i)
{
    const struct engine *en = st->en;
    size_t n_ff = en->model.info.n_ff;
    activate_part(en, &en->model.layers[i_layer], i, 0, n_ff, en->s.act + i * (n_ff / 32));
}

static void close_layer(struct step *st, size_t i_layer, size_t i)
{
    const struct model *m = &st->en->model;
    const struct layer *l = &m->layers[i_layer];
    close_block(st, i, l->down_bias, l->ffn_post_norm, l->ffn_norm, l->ffn_norm_b);
    if (i_layer + 1 < m->info.n_layers)
        open_attention(st, i_layer + 1, i);
}

static void open_logits(struct step *st, size_t i_layer, size_t i)
{
    struct engine *en = st->en;
    const struct model *m = &en->model;
    (void)i_layer;
    norm(en, h_row(st, i), x_row(st, en->s.logit_rows[i]), m->output_norm, m->output_norm_b);
    if (m->output_wants_act)
        quantise(st, i, h_row(st, i), m->info.n_embd);
}

/* ---- heads ---- */

/* For few rows: q, k, v and attention as one job. Its first slices are products, head after head, of the rows of q, k and
 * v that belong to one K/V head; who computes the last of them finishes the head. Then come the slices of attention, each
 * of which waits for its head alone. */
struct heads_job {
    struct step *st;
    size_t i_layer;
    struct input in;
    struct attn_job attn;
    size_t slice_rows, per_head, n_slices; /* of products */
};

/* Rows [row, row + n) of all that belongs to head h: those of its query heads, then k, then v. */
static void multiply_head(const struct heads_job *j, size_t h, size_t row, size_t n)
{
    const struct engine *en = j->st->en;
    const struct model *m = &en->model;
    const struct layer *l = &m->layers[j->i_layer];
    size_t nq = width_q(m), nkv = width_kv(m), dim = m->info.head_dim, group = m->info.n_heads / m->info.n_kv_heads, first = 0;
    const struct {
        const struct matrix *w;
        size_t row, n, y;
    } parts[] = {
        { &l->q, h * group * dim, group * dim, h * group * dim },
        { l->k.data ? &l->k : &l->q, (l->k.data ? 0 : nq) + h * dim, dim, nq + h * dim },
        { l->v.data ? &l->v : &l->q, (l->v.data ? 0 : nq + nkv) + h * dim, dim, nq + nkv + h * dim },
    };
    for (size_t i = 0; i < ARRAY_LEN(parts); first += parts[i++].n) {
        size_t begin = MAX(row, first), end = MIN(row + n, first + parts[i].n);
        if (begin < end)
            multiply(en, parts[i].w, parts[i].row + begin - first, end - begin, &j->in, j->st->n_rows,
                     en->s.qkv + parts[i].y + begin - first, nq + 2 * nkv);
    }
}

static void heads_slice(void *arg, size_t i_slice, size_t i_thread)
{
    struct heads_job *j = arg;
    struct engine *en = j->st->en;
    size_t group = en->model.info.n_heads / en->model.info.n_kv_heads, n_rows = (group + 2) * en->model.info.head_dim;
    if (i_slice >= j->n_slices) {
        i_slice -= j->n_slices;
        pool_latch_wait(en->pool, &en->s.head_ready[attn_slice_head(&j->attn, i_slice)]);
        attn_slice(&j->attn, i_slice, i_thread);
        return;
    }
    size_t h = attn_slice_head(&j->attn, i_slice / j->per_head), row = i_slice % j->per_head * j->slice_rows;
    multiply_head(j, h, row, MIN(j->slice_rows, n_rows - row));
    /* Acquire what others computed of the head, release our own. */
    if (atomic_fetch_sub_explicit(&en->s.head_left[h], 1, memory_order_acq_rel) > 1)
        return;
    for (size_t i = 0; i < j->st->n_rows; i++)
        finish_head(j->st, j->i_layer, i, h);
    pool_latch_open(&en->s.head_ready[h]);
}

/* att = attention of this layer; returns it as the input of the product behind it. */
static struct input run_heads(struct step *st, size_t i_layer)
{
    struct engine *en = st->en;
    const struct model *m = &en->model;
    const struct layer *l = &m->layers[i_layer];
    struct scratch *s = &en->s;
    size_t nq = width_q(m), nkv = width_kv(m), n_qkv = nq + 2 * nkv, n_kv_heads = m->info.n_kv_heads;
    struct heads_job j = { .st = st, .i_layer = i_layer, .in = block_input(st) };
    bool is_one_job = st->n_rows <= FEW_ROWS && m->info.head_dim % R8_ROWS == 0 && !en->profile && !en->mutation;
    if (is_one_job && attn_open(&j.attn, st, i_layer, s->act_few)) {
        j.slice_rows = MIN(strip_rows_for(en, n_qkv, l->q.strip_bytes, st->n_rows, R8_ROWS), n_qkv / n_kv_heads);
        j.per_head = (n_qkv / n_kv_heads + j.slice_rows - 1) / j.slice_rows;
        j.n_slices = j.per_head * n_kv_heads;
        for (size_t h = 0; h < n_kv_heads; h++) {
            atomic_store_explicit(&s->head_left[h], (unsigned)j.per_head, memory_order_relaxed);
            atomic_store_explicit(&s->head_ready[h], 0, memory_order_relaxed);
        }
        run_job(en, heads_slice, &j, j.n_slices + j.attn.n_slices, n_qkv * l->q.k * st->n_rows + st->attn_macs);
        return (struct input){ s->att, nq, s->act_few };
    }
    run_products(st, PHASE_QKV, block_input(st), (struct product[]){
        { &l->q, s->qkv, n_qkv }, { &l->k, s->qkv + nq, n_qkv }, { &l->v, s->qkv + nq + nkv, n_qkv } }, 3);
    run_rows(st, finish_heads, i_layer, st->n_rows);
    attn_run(st, i_layer);
    phase_done(en, PHASE_ATTENTION);
    return (struct input){ s->att, nq, s->act };
}

/* ---- the hidden layer ---- */

/* For few rows: slices of matching rows of gate and up, activated and quantised by who computed them. So the work between
 * the two products is shared, and nobody waits for it. */
struct hidden_job {
    struct step *st;
    const struct layer *l;
    struct input in;
    const struct matrix *first, *second; /* second NULL: none (ReLU) */
    size_t second_row;                   /* where it begins: 0, or behind gate where the file fuses them */
    size_t strip_rows;
};

static void hidden_strip(void *arg, size_t i_strip, size_t i_thread)
{
    const struct hidden_job *j = arg;
    const struct engine *en = j->st->en;
    size_t n_ff = en->model.info.n_ff, width = width_ffn(&en->model), row = i_strip * j->strip_rows, n = MIN(j->strip_rows, n_ff - row);
    (void)i_thread;
    multiply(en, j->first, row, n, &j->in, j->st->n_rows, en->s.ffn + row, width);
    if (j->second)
        multiply(en, j->second, j->second_row + row, n, &j->in, j->st->n_rows, en->s.ffn + n_ff + row, width);
    for (size_t i = 0; i < j->st->n_rows; i++)
        activate_part(en, j->l, i, row, n, en->s.act_few + i * (n_ff / 32));
}

/* ffn = the activated hidden layer; returns it as the input of the product behind it. */
static struct input run_hidden(struct step *st, size_t i_layer)
{
    struct engine *en = st->en;
    const struct model *m = &en->model;
    const struct layer *l = &m->layers[i_layer];
    struct scratch *s = &en->s;
    size_t n_ff = m->info.n_ff;
    struct input in = block_input(st), out = { s->ffn, width_ffn(m), s->act };
    if (st->n_rows <= FEW_ROWS && n_ff % R8_ROWS == 0) {
        struct hidden_job j = { .st = st, .l = l, .in = in, .first = l->gate.data ? &l->gate : &l->up };
        if (l->gate.data) {
            j.second = l->up.data ? &l->up : &l->gate;
            j.second_row = l->up.data ? 0 : n_ff;
        }
        size_t strip_bytes = j.first->strip_bytes * (j.second ? 2 : 1);
        j.strip_rows = strip_rows_for(en, n_ff, strip_bytes, st->n_rows, 32);
        run_job(en, hidden_strip, &j, (n_ff + j.strip_rows - 1) / j.strip_rows, (j.second ? 2 : 1) * n_ff * j.first->k * st->n_rows);
        phase_done(en, PHASE_UP);
        out.act = s->act_few;
        return out;
    }
    if (l->gate.data)
        run_products(st, PHASE_UP, in, (struct product[]){ { &l->gate, s->ffn, 2 * n_ff }, { &l->up, s->ffn + n_ff, 2 * n_ff } }, 2);
    else
        run_products(st, PHASE_UP, in, &(struct product){ &l->up, s->ffn, n_ff }, 1);
    run_rows(st, activate, i_layer, st->n_rows);
    return out;
}

/* ---- the line ---- */

/* h of this layer's open_attention is there; afterwards that of the next. */
static void run_layer(struct step *st, size_t i_layer)
{
    const struct layer *l = &st->en->model.layers[i_layer];
    struct scratch *s = &st->en->s;
    size_t n = st->en->model.info.n_embd;
    run_products(st, PHASE_OUT, run_heads(st, i_layer), &(struct product){ &l->o, s->h, n }, 1);
    run_rows(st, between_blocks, i_layer, st->n_rows);
    run_products(st, PHASE_DOWN, run_hidden(st, i_layer), &(struct product){ &l->down, s->h, n }, 1);
    run_rows(st, close_layer, i_layer, st->n_rows);
}

struct logits_job {
    struct step *st;
    size_t strip_rows;
};

/* n rows of the output matrix from `row` on for the rows of several slices. Their logits lie apart, so they come through the
 * thread's scratch, some columns and rows at a time: the weights are read once for all of them. */
static void logits_of_many(const struct step *st, size_t row, size_t n, size_t i_thread)
{
    enum { COLS = 16 };
    const struct engine *en = st->en;
    const struct matrix *w = &en->model.output;
    const size_t n_floats = attn_thread_floats(en), per_piece = MAX(n_floats / COLS / R8_ROWS, (size_t)1) * R8_ROWS;
    float *y = en->s.thread_attn + i_thread * n_floats;
    CHECK(n_floats >= COLS * R8_ROWS);
    for (size_t r = row; r < row + n; r += per_piece)
        for (size_t c = 0; c < st->n_logit_rows; c += COLS) {
            const size_t n_rows = MIN(per_piece, row + n - r), n_cols = MIN(st->n_logit_rows - c, (size_t)COLS);
            const struct input in = { en->s.h + c * w->k, w->k, en->s.act + c * (w->k / 32) };
            multiply(en, w, r, n_rows, &in, n_cols, y, n_rows);
            for (size_t i = 0; i < n_cols; i++)
                memcpy(en->s.logits[c + i] + r, y + i * n_rows, n_rows * sizeof *y);
        }
}

/* One strip of the output matrix for the rows of every slice. */
static void logits_strip(void *arg, size_t i_strip, size_t i_thread)
{
    const struct logits_job *j = arg;
    const struct step *st = j->st;
    const struct engine *en = st->en;
    const struct matrix *w = &en->model.output;
    const size_t row = i_strip * j->strip_rows, n = MIN(j->strip_rows, w->n_rows - row);
    const struct input in = { en->s.h, w->k, en->s.act };
    if (st->slices[st->n_slices - 1].n_logits == st->n_logit_rows) /* all in the last slice, the only one usually */
        multiply(en, w, row, n, &in, st->n_logit_rows, en->s.logits[0] + row, w->n_rows);
    else
        logits_of_many(st, row, n, i_thread);
    for (size_t c = 0; c < st->n_logit_rows && en->model.final_cap > 0; c++)
        en->k->softcap(en->s.logits[c] + row, en->model.final_cap, n);
}

static void run_logits(struct step *st)
{
    struct logits_job j = { .st = st };
    size_t n_vocab = st->en->model.output.n_rows;
    if (st->n_logit_rows == 0)
        return;
    run_rows(st, open_logits, 0, st->n_logit_rows);
    j.strip_rows = strip_rows_for(st->en, n_vocab, st->en->model.output.strip_bytes, st->n_logit_rows, R8_ROWS);
    run_job(st->en, logits_strip, &j, (n_vocab + j.strip_rows - 1) / j.strip_rows,
            n_vocab * st->en->model.output.k * st->n_logit_rows);
    phase_done(st->en, PHASE_LOGITS);
}

/* ---- the call ---- */

static enum hearth_status check_slice(const struct engine *en, const struct slice *s, size_t i, struct err *e)
{
    const struct model_info *f = &en->model.info;
    size_t end;
    if (s->n_tokens < 1 || s->n_logits > s->n_tokens || (s->n_logits && !s->logits))
        return err_set(e, HEARTH_EINVAL, "slice %zu: %zu tokens with logits of %zu", i, s->n_tokens, s->n_logits);
    if (!size_add(&end, s->kv->n_tokens, s->n_tokens) || s->kv->n_chunks < end / CHUNK_TOKENS + (end % CHUNK_TOKENS != 0))
        return err_set(e, HEARTH_EINVAL, "slice %zu: %zu tokens after %zu do not fit %zu chunks", i, s->n_tokens,
                       s->kv->n_tokens, s->kv->n_chunks);
    if (f->n_ctx_max && end > f->n_ctx_max)
        return err_set(e, HEARTH_ELIMIT, "%zu tokens were asked, but this model has %zu positions", end, f->n_ctx_max);
    for (size_t k = 0; k < s->n_tokens; k++)
        if (s->tokens[k] < 0 || (size_t)s->tokens[k] >= f->n_vocab)
            return err_set(e, HEARTH_EINVAL, "token id %d is outside the vocabulary of %zu", s->tokens[k], f->n_vocab);
    return HEARTH_OK;
}

static enum hearth_status fill_rows(struct step *st, struct err *e)
{
    struct engine *en = st->en;
    struct scratch *sc = &en->s;
    enum hearth_status status;
    for (size_t i = 0; i < st->n_slices; i++) {
        struct slice *s = &st->slices[i];
        if ((status = check_slice(en, s, i, e)) != HEARTH_OK)
            return status;
        if (s->n_tokens > en->max_batch - st->n_rows)
            return err_set(e, HEARTH_EINVAL, "a step of more than %zu tokens was asked", en->max_batch);
        for (size_t k = 0; k < i; k++)
            if (st->slices[k].kv == s->kv)
                return err_set(e, HEARTH_EINVAL, "slices %zu and %zu of a step share one sequence", k, i);
        for (size_t k = 0; k < s->n_logits; k++) {
            sc->logits[st->n_logit_rows] = s->logits + k * en->model.info.n_vocab;
            sc->logit_rows[st->n_logit_rows++] = st->n_rows + s->n_tokens - s->n_logits + k;
        }
        for (size_t k = 0; k < s->n_tokens; k++)
            sc->rows[st->n_rows++] = (struct row){ .slice = s, .position = s->kv->n_tokens + k, .token = s->tokens[k] };
    }
    return st->n_rows ? HEARTH_OK : err_set(e, HEARTH_EINVAL, "a step without tokens was asked");
}

static bool is_cancelled(const atomic_int *cancel)
{
    return cancel && atomic_load_explicit(cancel, memory_order_relaxed);
}

static enum hearth_status run_all_layers(struct step *st, const atomic_int *cancel, struct err *e)
{
    const struct model *m = &st->en->model;
    enum hearth_status status;
    for (size_t i = 0; i < m->info.n_layers; i++) {
        if (is_cancelled(cancel))
            return err_set(e, HEARTH_ECANCELLED, "cancelled");
        if ((status = weights_pin(m->weights, (int)i, e)) != HEARTH_OK)
            return status;
        if (i == 0)
            run_rows(st, open_attention, 0, st->n_rows);
        run_layer(st, i);
        weights_unpin(m->weights, (int)i);
    }
    return HEARTH_OK;
}

enum hearth_status engine_step(struct engine *en, struct slice *slices, size_t n_slices, const atomic_int *cancel, struct err *e)
{
    struct step st = { .en = en, .slices = slices, .n_slices = n_slices };
    struct weights *w = en->model.weights;
    enum hearth_status status;
    if (en->profile) {
        en->profile->last_ns = clock_ns();
        en->profile->n_steps++;
    }
    status = fill_rows(&st, e);
    if (status != HEARTH_OK || (status = weights_pin(w, LAYER_GLOBAL, e)) != HEARTH_OK)
        return status;
    pool_heed(en->pool, cancel);
    attn_plan(&st);
    if (en->model.rope.kind != ROPE_NONE)
        run_rows(&st, rope_row, 0, st.n_rows);
    run_rows(&st, embed_row, 0, st.n_rows);
    status = run_all_layers(&st, cancel, e);
    if (status == HEARTH_OK && is_cancelled(cancel))
        status = err_set(e, HEARTH_ECANCELLED, "cancelled");
    if (status == HEARTH_OK) {
        run_logits(&st);
        status = weights_check(w, e);
    }
    weights_unpin(w, LAYER_GLOBAL);
    pool_heed(en->pool, NULL);
    for (size_t i = 0; i < n_slices && status == HEARTH_OK; i++)
        slices[i].kv->n_tokens += slices[i].n_tokens;
    return status;
}

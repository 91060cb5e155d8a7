/* make_model.c: model files with real shapes and random weights, for benchmarks and for oracles.
 *
 * A benchmark needs a model's sizes, a comparison of two engines needs a model that punishes mistakes; neither needs
 * knowledge. The usual tiny normal weights would punish nothing: attention would be uniform, so that masks, heads and
 * rotations hardly matter, and the stream would be the embedding alone. So the scales are chosen (n_embd = E, unit
 * variance behind each norm):
 *
 *   embedding    spread e; the stream starts there           attention scores  spread SCORE: a few tokens get most weight
 *   blocks       each adds about BLOCK * e                   gate, up          different spreads, as silu is not symmetric
 *   norms        1 with a spread of a fifth                  biases            a fifth to a half of what they are added to
 *   logits       spread LOGIT, so that greedy choices are clear and vary
 *
 * A tied head would see its own embedding in the stream and repeat the last token for ever; the final norm of tied
 * models therefore has random signs, which breaks that echo and changes nothing else. LongRoPE's factors differ
 * from 1 and from each other; soft caps lie where scores and logits reach.
 *
 * Values come from a counter, not from a state: value i of a tensor is a hash of (seed, tensor's name, i), four
 * 16-bit parts of which are added (Irwin-Hall, near enough to a normal one, bounded at 3.5 sigma). So the file is the same
 * for any number of threads, and rows can be made in any order. The finalizer is that of SplitMix64 (Steele, Lea,
 * Flood, "Fast splittable pseudorandom number generators", 2014).
 *
 * A piece of at most PIECE_BYTES is made by the pool and written; memory does not depend on the model's size. About 1.5 ns
 * a value and core, and what rounding to the type costs. For block formats that is a hundred times more than making the
 * value, so large matrices of those are dealt from a stock instead: STOCK_VALUES values of the right spread are made and
 * rounded once, and runs of 256 (or 32) of them are copied in random order. Rows of one matrix then share runs, but
 * hardly ever two. Left out: weights with outlier channels.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "shapes.h"

#define PIECE_BYTES (8 * MIB)
#define SLICE_VALUES (64 * KIB)
#define STOCK_VALUES (1 * MIB)
#define LARGE_VALUES (4 * MIB) /* matrices from here on are dealt from a stock */

static const double SCORE = 2.5, BLOCK = 0.7, LOGIT = 3.5, NORM_SPREAD = 0.2;

/* ---- the plan: tensors and their scales ---- */

struct made_tensor {
    struct str name;
    enum tensor_type type;
    enum tensor_role role;
    uint32_t n_dims;
    size_t rows, cols, row_bytes;
    const float *values; /* given ones; NULL: random */
};

/* Rounded random values of one type and spread. */
struct stock {
    enum tensor_type type;
    double spread;
    size_t run;       /* values that are copied together */
    size_t run_bytes, n_runs;
    uint8_t *bytes;   /* malloc'd */
};

struct maker {
    struct arena arena;
    struct model_shape shape;
    struct vocab vocab;
    struct gguf vocab_file;
    const struct make_model_options *o;
    struct made_tensor *tensors;
    size_t n_tensors, cap;
    double embed; /* e */
    struct stock stocks[64]; /* a role has one spread, a mix a few types per role */
    size_t n_stocks;
};

static struct made_tensor *add(struct maker *m, const struct tensor_rule *r, size_t layer, struct err *e)
{
    char name[LIMIT_GGUF_NAME_BYTES];
    int n = layer == SIZE_MAX ? snprintf(name, sizeof name, "%s", r->gguf) : snprintf(name, sizeof name, "blk.%zu.%s", layer, r->gguf);
    char *copy = arena_strndup(&m->arena, name, (size_t)n);
    if (!copy) {
        err_set(e, HEARTH_ENOMEM, "no room for tensor %s", name);
        return NULL;
    }
    CHECK(m->n_tensors < m->cap);
    struct made_tensor *t = &m->tensors[m->n_tensors++];
    *t = (struct made_tensor){ .name = { copy, (size_t)n }, .role = r->role, .n_dims = r->rows == '1' ? 1 : 2 };
    t->rows = shape_dim(&m->shape, r->rows);
    t->cols = shape_dim(&m->shape, r->cols);
    return t;
}

static enum hearth_status add_rules(struct maker *m, const struct tensor_rule *r, size_t layer, struct err *e)
{
    for (; r->gguf; r++)
        if (!(r->flags & RULE_ONLY_SOURCE) && !add(m, r, layer, e))
            return HEARTH_ENOMEM;
    return HEARTH_OK;
}

static enum hearth_status add_given(struct maker *m, const char *name, const float *values, struct err *e)
{
    const struct tensor_rule rule = { name, NULL, '1', 'H', ROLE_NORM, RULE_F32 };
    struct made_tensor *t = add(m, &rule, SIZE_MAX, e);
    if (!t || !values)
        return err_set(e, HEARTH_ENOMEM, "no room for tensor %s", name);
    t->cols = m->shape.rope_dim / 2;
    t->values = values;
    return HEARTH_OK;
}

static enum hearth_status add_rope(struct maker *m, struct err *e)
{
    struct model_shape *s = &m->shape;
    size_t n = s->rope_dim / 2;
    if (s->rope == ROPE_LLAMA3) {
        float *f = ARENA_NEW(&m->arena, float, n);
        if (f)
            shape_llama3_factors(s, f);
        return add_given(m, "rope_freqs.weight", f, e);
    }
    if (s->rope != ROPE_LONG)
        return HEARTH_OK;
    float *factors = ARENA_NEW(&m->arena, float, 2 * n);
    for (size_t i = 0; factors && i < n; i++) {
        float t = (float)i / (float)n;
        factors[i] = 1.05f + 48.0f * t * t * t;      /* long */
        factors[n + i] = 1.02f + 2.0f * t * t;       /* short */
    }
    s->rope_attn_factor = shape_longrope_attn_factor(s->n_ctx, s->rope_orig_ctx);
    enum hearth_status st = add_given(m, "rope_factors_long.weight", factors, e);
    return st == HEARTH_OK ? add_given(m, "rope_factors_short.weight", factors + n, e) : st;
}

static void model_info_of(const struct model_shape *s, struct model_info *out)
{
    *out = (struct model_info){
        .arch = { s->arch->name, strlen(s->arch->name) }, .n_layers = s->n_layers, .n_embd = s->n_embd, .n_heads = s->n_heads,
        .n_kv_heads = s->n_kv_heads, .head_dim = s->head_dim, .n_ff = s->n_ff, .n_vocab = s->n_vocab, .n_ctx_train = s->n_ctx,
        .n_ctx_max = s->arch->has_positions ? s->n_ctx : 0, .n_params = (size_t)shape_params(s), .window = s->window, .is_tied = s->tied,
    };
}

static enum hearth_status choose_types(struct maker *m, struct err *e)
{
    struct model_info info;
    model_info_of(&m->shape, &info);
    for (size_t i = 0; i < m->n_tensors; i++) {
        struct made_tensor *t = &m->tensors[i];
        uint64_t dims[2] = { t->cols, t->rows };
        bool fell_back = false;
        if (t->n_dims == 1 || t->role == ROLE_POSITION)
            t->type = TYPE_F32;
        else if (!m->o->type)
            t->type = TYPE_F16;
        else
            t->type = mix_choose(m->o->type, &info, t->name, t->n_dims, dims, m->shape.tied, &fell_back);
        if (fell_back)
            log_line(LOG_WARN, "%.*s: rows of %zu values; written as %s", STR_FMT(t->name), t->cols, type_info(t->type)->name);
        if (!type_row_bytes(&t->row_bytes, t->type, t->cols))
            return err_set(e, HEARTH_EUNSUPPORTED, "tensor %.*s: rows of %zu values have no %s form", STR_FMT(t->name), t->cols,
                           type_info(t->type)->name);
    }
    return HEARTH_OK;
}

static enum hearth_status plan(struct maker *m, struct err *e)
{
    static const struct tensor_rule head = { "output.weight", NULL, 'V', 'E', ROLE_OUTPUT, 0 };
    const struct arch_info *a = m->shape.arch;
    enum hearth_status st;
    m->cap = 16 + m->shape.n_layers * 32;
    if (!(m->tensors = ARENA_NEW(&m->arena, struct made_tensor, m->cap)))
        return err_set(e, HEARTH_ENOMEM, "no room for %zu tensors", m->cap);
    if ((st = add_rules(m, a->globals, SIZE_MAX, e)) != HEARTH_OK)
        return st;
    if (!m->shape.tied && !add(m, &head, SIZE_MAX, e))
        return HEARTH_ENOMEM;
    if ((st = add_rope(m, e)) != HEARTH_OK)
        return st;
    for (size_t i = 0; i < m->shape.n_layers; i++)
        if ((st = add_rules(m, a->layers, i, e)) != HEARTH_OK)
            return st;
    /* A tied head has the embedding's spread: e * sqrt(E) is that of the logits. gemma multiplies by sqrt(E) on the way in. */
    m->embed = !m->shape.tied ? 1 : a->always_tied ? 1 / sqrt((double)m->shape.n_embd) : LOGIT / sqrt((double)m->shape.n_embd);
    return choose_types(m, e);
}

/* mean + spread * z, or with a random sign before the mean. */
struct scale { double mean, spread; bool random_sign; };

static struct scale scale_of(const struct maker *m, const struct made_tensor *t, size_t row)
{
    const struct model_shape *s = &m->shape;
    double e = sqrt((double)s->n_embd), q = sqrt((double)(s->n_heads * s->head_dim)), f = sqrt((double)s->n_ff);
    bool is_gemma = s->arch->always_tied;
    double score = sqrt(MAX(SCORE, s->attn_softcap / 12)); /* of q and of k; larger where the cap lies far out */
    double add_to = is_gemma ? 1 : m->embed;               /* gemma's post norms bring the blocks to size */
    enum tensor_role role = t->role;
    if (role == ROLE_QKV)
        role = row < shape_dim(s, 'Q') ? ROLE_Q : row < shape_dim(s, 'Q') + shape_dim(s, 'K') ? ROLE_K : ROLE_V;
    if (role == ROLE_GATE_UP)
        role = row < s->n_ff ? ROLE_GATE : ROLE_UP;
    switch (role) {
    case ROLE_EMBED: return (struct scale){ 0, m->embed, false };
    case ROLE_POSITION: return (struct scale){ 0, m->embed, false };
    case ROLE_OUTPUT: return (struct scale){ 0, LOGIT / e, false };
    case ROLE_NORM: return (struct scale){ 1, NORM_SPREAD, false };
    case ROLE_POST_NORM: return is_gemma ? (struct scale){ BLOCK, NORM_SPREAD * BLOCK, false } : (struct scale){ 1, NORM_SPREAD, false };
    case ROLE_OUTPUT_NORM: {
        double mean = is_gemma ? LOGIT : 1;
        return (struct scale){ mean, NORM_SPREAD * mean, s->tied };
    }
    case ROLE_QK_NORM: return (struct scale){ score, NORM_SPREAD * score, false };
    case ROLE_NORM_BIAS: return (struct scale){ 0, 0.1, false };
    case ROLE_Q:
    case ROLE_K: return (struct scale){ 0, score / e, false };
    case ROLE_V: return (struct scale){ 0, 1 / e, false };
    case ROLE_GATE: return (struct scale){ 0, 1.5 / e, false };
    case ROLE_UP: return (struct scale){ 0, 1.2 / e, false };
    case ROLE_ATTN_OUT: return (struct scale){ 0, 1.6 * BLOCK * add_to / q, false }; /* averaging has shrunk the values */
    case ROLE_DOWN: return (struct scale){ 0, BLOCK * add_to / f, false };
    /* ReLU gets a bias that leaves one value in four positive, as trained ones do; without it the mean of what passes
     * would be the same for every token, pile up in the stream and drown the rest. */
    case ROLE_RELU_UP: return (struct scale){ 0, 1.5 / e, false };
    case ROLE_RELU_BIAS: return (struct scale){ -1, 0.3, false };
    case ROLE_RELU_DOWN: return (struct scale){ 0, 1.7 * BLOCK * add_to / f, false };
    case ROLE_BIAS: return (struct scale){ 0, 0.3, false };
    case ROLE_QK_BIAS: return (struct scale){ 0, 0.5, false };
    case ROLE_OUT_BIAS: return (struct scale){ 0, 0.1 * add_to, false };
    default: CHECK(false); return (struct scale){ 0 };
    }
}

/* ---- random values ---- */

static uint64_t mix64(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static uint64_t stream_key(uint64_t seed, struct str name)
{
    uint64_t h = mix64(seed + 0x9e3779b97f4a7c15u);
    for (size_t i = 0; i < name.n; i++)
        h = mix64(h ^ (uint8_t)name.p[i]) + 0x9e3779b97f4a7c15u;
    return h;
}

static void random_row(float *out, size_t n, uint64_t key, uint64_t first, struct scale s)
{
    /* The sum of four 16-bit parts has the variance 4 * 65536^2 / 12. */
    const float unit = (float)(s.spread * 1.7320508075688772 / 65536.0), mean = (float)s.mean;
    for (size_t i = 0; i < n; i++) {
        uint64_t h = mix64(key + (first + i) * 0x9e3779b97f4a7c15u);
        int32_t sum = (int32_t)((h & 0xffff) + (h >> 16 & 0xffff) + (h >> 32 & 0xffff) + (h >> 48)) - 2 * 65535;
        out[i] = mean + unit * (float)sum;
    }
    if (s.random_sign)
        for (size_t i = 0; i < n; i++)
            if (mix64(~key + (first + i) * 0x9e3779b97f4a7c15u) & 1)
                out[i] = -out[i];
}

/* ---- stocks ---- */

static bool wants_stock(const struct made_tensor *t)
{
    return type_info(t->type)->is_quantised && (uint64_t)t->rows * t->cols >= LARGE_VALUES && t->cols % 32 == 0;
}

static size_t run_of(const struct made_tensor *t)
{
    return t->cols % 256 == 0 ? 256 : type_info(t->type)->block_len;
}

static const struct stock *find_stock(const struct maker *m, const struct made_tensor *t, double spread)
{
    for (size_t i = 0; i < m->n_stocks; i++)
        if (m->stocks[i].type == t->type && m->stocks[i].spread == spread && m->stocks[i].run == run_of(t))
            return &m->stocks[i];
    return NULL;
}

struct stocking { const struct stock *s; uint64_t key; };

static void fill_stock(void *arg, size_t i_slice, size_t i_thread)
{
    const struct stocking *f = arg;
    float values[256];
    size_t first = i_slice * 64, end = MIN(first + 64, f->s->n_runs);
    for (size_t i = first; i < end; i++) {
        random_row(values, f->s->run, f->key, (uint64_t)i * f->s->run, (struct scale){ 0, f->s->spread, false });
        CHECK(quantize_row(f->s->bytes + i * f->s->run_bytes, values, f->s->run, f->s->type, NULL));
    }
}

static enum hearth_status add_stock(struct maker *m, const struct made_tensor *t, double spread, struct pool *pool, struct err *e)
{
    if (find_stock(m, t, spread))
        return HEARTH_OK;
    CHECK(m->n_stocks < ARRAY_LEN(m->stocks));
    struct stock *s = &m->stocks[m->n_stocks];
    *s = (struct stock){ .type = t->type, .spread = spread, .run = run_of(t), .n_runs = STOCK_VALUES / run_of(t) };
    CHECK(s->run <= 256 && type_row_bytes(&s->run_bytes, s->type, s->run));
    if (!(s->bytes = malloc(s->n_runs * s->run_bytes)))
        return err_set(e, HEARTH_ENOMEM, "no room for random values of %.*s", STR_FMT(t->name));
    struct stocking f = { s, stream_key(m->o->seed, STR("stock")) };
    pool_run(pool, fill_stock, &f, (s->n_runs + 63) / 64);
    m->n_stocks++;
    return HEARTH_OK;
}

/* The stocks that a tensor needs: one, or one per part of a fused matrix. */
static enum hearth_status add_stocks(struct maker *m, const struct made_tensor *t, struct pool *pool, struct err *e)
{
    enum hearth_status st = HEARTH_OK;
    double before = -1;
    for (size_t r = 0; r < t->rows && st == HEARTH_OK; r++) {
        double spread = scale_of(m, t, r).spread;
        if (spread != before)
            st = add_stock(m, t, spread, pool, e);
        before = spread;
    }
    return st;
}

static void deal_row(uint8_t *out, const struct made_tensor *t, const struct stock *s, uint64_t key, uint64_t row)
{
    size_t n = t->cols / s->run;
    for (size_t i = 0; i < n; i++) {
        uint64_t pick = mix64(key + (row * n + i) * 0x9e3779b97f4a7c15u) % s->n_runs;
        memcpy(out + i * s->run_bytes, s->bytes + pick * s->run_bytes, s->run_bytes);
    }
}

/* ---- writing ---- */

struct piece {
    const struct maker *m;
    const struct made_tensor *t;
    uint64_t key;
    size_t row0, n_rows, rows_per_slice;
    uint8_t *out;
    float *rows; /* [n_threads][cols] */
    bool is_dealt;
};

static void make_slice(void *arg, size_t i_slice, size_t i_thread)
{
    const struct piece *p = arg;
    const struct made_tensor *t = p->t;
    float *row = p->rows + i_thread * t->cols;
    size_t end = MIN((i_slice + 1) * p->rows_per_slice, p->n_rows);
    for (size_t r = i_slice * p->rows_per_slice; r < end; r++) {
        size_t at = p->row0 + r;
        uint8_t *out = p->out + r * t->row_bytes;
        struct scale scale = scale_of(p->m, t, at);
        if (p->is_dealt) {
            deal_row(out, t, find_stock(p->m, t, scale.spread), p->key, at);
            continue;
        }
        if (t->values)
            memcpy(row, t->values + at * t->cols, t->cols * sizeof *row);
        else
            random_row(row, t->cols, p->key, (uint64_t)at * t->cols, scale);
        CHECK(quantize_row(out, row, t->cols, t->type, NULL));
    }
}

static enum hearth_status write_tensor(struct maker *m, const struct made_tensor *t, struct pool *pool, struct gguf_writer *w,
                                       struct progress progress, uint64_t *done, uint64_t total, struct err *e)
{
    size_t rows = MIN(MAX(PIECE_BYTES / t->row_bytes, 1u), t->rows);
    struct piece p = { m, t, stream_key(m->o->seed, t->name), .rows_per_slice = MAX(SLICE_VALUES / t->cols, 1u) };
    p.out = malloc(rows * t->row_bytes);
    p.rows = malloc(pool_threads(pool) * t->cols * sizeof(float));
    enum hearth_status st = p.out && p.rows ? HEARTH_OK : err_set(e, HEARTH_ENOMEM, "no room for a piece of %.*s", STR_FMT(t->name));
    p.is_dealt = wants_stock(t);
    if (st == HEARTH_OK && p.is_dealt)
        st = add_stocks(m, t, pool, e);
    for (; st == HEARTH_OK && p.row0 < t->rows; p.row0 += p.n_rows) {
        p.n_rows = MIN(rows, t->rows - p.row0);
        pool_run(pool, make_slice, &p, (p.n_rows + p.rows_per_slice - 1) / p.rows_per_slice);
        st = gguf_write_data(w, p.out, p.n_rows * t->row_bytes, e);
        *done += p.n_rows * t->row_bytes;
        if (progress.fn)
            progress.fn(t->name.p, *done, total, progress.arg);
    }
    free(p.out);
    free(p.rows);
    return st;
}

/* general.name is the vocabulary's: readers recognise Phi-3 by it and then expect its special tokens. */
static void put_keys(const struct maker *m, struct gguf_writer *w)
{
    char text[128];
    snprintf(text, sizeof text, "%.80s with random weights", m->o->shape ? m->o->shape : m->shape.arch->name);
    shape_put_keys(&m->shape, w);
    gguf_put_str(w, "general.name", m->vocab.name.n ? m->vocab.name : STR("random weights"));
    gguf_put_str(w, "general.description", (struct str){ text, strlen(text) });
    gguf_put_u32(w, "general.file_type", m->o->type ? mix_file_type(m->o->type) : 1);
    gguf_put_u32(w, "general.quantization_version", 2);
    gguf_put_u64(w, "hearth.seed", m->o->seed);
    vocab_to_gguf(&m->vocab, w);
}

static enum hearth_status write_model(struct maker *m, const char *out, struct progress progress, struct err *e)
{
    struct gguf_writer *w = NULL;
    struct pool *pool = NULL;
    uint64_t done = 0, total = 0;
    enum hearth_status st = pool_open(&pool, (size_t)cpu_count(), e);
    if (st != HEARTH_OK)
        return st;
    if ((st = gguf_writer_open(&w, out, &m->arena, e)) != HEARTH_OK)
        goto done;
    put_keys(m, w);
    for (size_t i = 0; i < m->n_tensors; i++) {
        const struct made_tensor *t = &m->tensors[i];
        uint64_t dims[2] = { t->cols, t->rows };
        gguf_put_tensor(w, t->name, t->type, t->n_dims, dims);
        total += (uint64_t)t->rows * t->row_bytes;
    }
    st = gguf_begin_data(w, e);
    for (size_t i = 0; st == HEARTH_OK && i < m->n_tensors; i++)
        st = write_tensor(m, &m->tensors[i], pool, w, progress, &done, total, e);
    if (st == HEARTH_OK)
        st = gguf_writer_commit(w, e);
done:
    gguf_writer_abandon(w);
    pool_close(pool);
    return st;
}

/* ---- vocabulary ---- */

enum { N_BYTES = 256, FIRST_PIECE = 3 + N_BYTES };

/* Piece k >= 0 of the made-up words: the space mark, the letters, then all words of letters, shortest first, so that
 * each longer word is a shorter one and a letter and merging can reach it. */
static size_t spell(size_t k, char out[16])
{
    if (k == 0) {
        memcpy(out, "\xe2\x96\x81", 3);
        return 3;
    }
    size_t len = 1, block = 26;
    for (k--; k >= block; k -= block, block *= 26)
        len++;
    for (size_t i = len; i-- > 0; k /= 26)
        out[i] = (char)('a' + k % 26);
    return len;
}

/* A SentencePiece-like vocabulary of any size: <unk> <s> </s>, the bytes, then made-up words. */
static enum hearth_status synthetic_vocab(struct vocab *v, size_t n, struct arena *a, struct err *e)
{
    if (n < FIRST_PIECE + 27)
        return err_set(e, HEARTH_EINVAL, "a made-up vocabulary needs at least %d tokens, not %zu", FIRST_PIECE + 27, n);
    struct vocab_token *tokens = ARENA_NEW(a, struct vocab_token, n);
    for (size_t i = 0; tokens && i < n; i++) {
        static const char *const specials[] = { "<unk>", "<s>", "</s>" };
        char text[16];
        size_t len = i < 3                ? (size_t)snprintf(text, sizeof text, "%s", specials[i])
                     : i < FIRST_PIECE ? (size_t)snprintf(text, sizeof text, "<0x%02X>", (unsigned)(i - 3))
                                       : spell(i - FIRST_PIECE, text);
        char *copy = arena_strndup(a, text, len);
        if (!copy)
            tokens = NULL;
        else
            tokens[i] = (struct vocab_token){ .text = { copy, len },
                .score = i < FIRST_PIECE ? 0 : -(float)(i - FIRST_PIECE),
                .type = i == 0 ? TOKEN_UNKNOWN : i < 3 ? TOKEN_CONTROL : i < FIRST_PIECE ? TOKEN_BYTE : TOKEN_NORMAL };
    }
    if (!tokens)
        return err_set(e, HEARTH_ENOMEM, "no room for a vocabulary of %zu tokens", n);
    *v = (struct vocab){ .kind = VOCAB_SPM, .pre = STR("default"), .tokens = tokens, .n_tokens = n, .bos = 1, .eos = 2, .unk = 0,
                         .eot = -1, .pad = -1, .sep = -1, .cls = -1, .mask = -1, .add_bos = true, .add_space_prefix = true,
                         .byte_fallback = true };
    return HEARTH_OK;
}

static bool is_gguf(const char *path)
{
    size_t n = strlen(path);
    return n > 5 && strcmp(path + n - 5, ".gguf") == 0;
}

static enum hearth_status read_vocab(struct maker *m, struct err *e)
{
    enum hearth_status st;
    struct model_shape *s = &m->shape;
    const char *path = m->o->vocab;
    if (!path)
        return synthetic_vocab(&m->vocab, s->n_vocab, &m->arena, e);
    if (is_gguf(path)) {
        if ((st = gguf_open(&m->vocab_file, path, &m->arena, e)) == HEARTH_OK)
            st = vocab_from_gguf(&m->vocab, &m->vocab_file, &m->arena, e);
    } else {
        st = vocab_from_files(&m->vocab, path, &m->arena, e);
    }
    if (st != HEARTH_OK)
        return st;
    if (!m->o->n_vocab && s->n_vocab < m->vocab.n_tokens)
        s->n_vocab = m->vocab.n_tokens; /* the preset's size counts as a minimum */
    return vocab_fit(&m->vocab, s->n_vocab, path, &m->arena, e);
}

/* ---- the shape asked for ---- */

static enum hearth_status base_shape(struct model_shape *s, const struct make_model_options *o, struct err *e)
{
    char name[64];
    if (!o->shape && !o->arch)
        return err_set(e, HEARTH_EINVAL, "make-model needs an architecture or the name of a shape");
    if (o->arch && !arch_by_name(o->arch))
        return err_set(e, HEARTH_EUNSUPPORTED, "unknown architecture %.60s (llama, phi3, qwen2, qwen3, gemma2, gemma3, opt, gpt-postln)", o->arch);
    snprintf(name, sizeof name, "%s%.40s", o->shape ? "" : "tiny-", o->shape ? o->shape : o->arch);
    if (!shape_by_name(s, name))
        return err_set(e, HEARTH_EUNSUPPORTED, "unknown shape %.60s", name);
    if (o->arch && strcmp(o->arch, s->arch->name) != 0)
        return err_set(e, HEARTH_EINVAL, "shape %.60s is a %s, not a %.40s", name, s->arch->name, o->arch);
    return HEARTH_OK;
}

static void override(size_t *v, size_t asked)
{
    if (asked)
        *v = asked;
}

static enum hearth_status choose_shape(struct model_shape *s, const struct make_model_options *o, struct err *e)
{
    enum hearth_status st = base_shape(s, o, e);
    if (st != HEARTH_OK)
        return st;
    override(&s->n_layers, o->n_layers);
    override(&s->n_embd, o->n_embd);
    override(&s->n_heads, o->n_heads);
    override(&s->n_ff, o->n_ff);
    override(&s->n_vocab, o->n_vocab);
    override(&s->n_ctx, o->n_ctx);
    override(&s->window, o->window);
    if (o->head_dim)
        s->head_dim = o->head_dim;
    else if (o->n_embd || o->n_heads) {
        if (s->n_embd % s->n_heads)
            return err_set(e, HEARTH_EINVAL, "%zu values do not divide into %zu heads; give the head size too", s->n_embd, s->n_heads);
        s->head_dim = s->n_embd / s->n_heads;
    }
    override(&s->n_kv_heads, o->n_kv_heads);
    if (!o->n_kv_heads && (strcmp(s->arch->name, "opt") == 0 || s->n_heads % s->n_kv_heads))
        s->n_kv_heads = s->n_heads;
    if (strcmp(s->arch->name, "gpt-postln") == 0 && !o->n_kv_heads)
        s->n_kv_heads = s->n_heads;
    s->rope_dim = s->head_dim;
    if (o->untied && s->arch->always_tied)
        return err_set(e, HEARTH_EINVAL, "%s has no untied form", s->arch->name);
    if (o->untied)
        s->tied = false;
    return shape_check(s, o->shape ? o->shape : o->arch, e);
}

enum hearth_status make_model(const char *out, const struct make_model_options *o, struct progress p, struct err *e)
{
    struct maker m = { .o = o };
    arena_init(&m.arena, 0);
    enum hearth_status st = choose_shape(&m.shape, o, e);
    if (st == HEARTH_OK && (st = read_vocab(&m, e)) == HEARTH_OK && (st = plan(&m, e)) == HEARTH_OK)
        st = write_model(&m, out, p, e);
    for (size_t i = 0; i < m.n_stocks; i++)
        free(m.stocks[i].bytes);
    gguf_close(&m.vocab_file);
    arena_free(&m.arena);
    return st;
}

/* convert_llama2c.c: checkpoints of llama2.c to a struct conversion.
 *
 * Version 0 ("legacy"): seven int32 (dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len), then float32
 * tensors, each for all layers at once: embedding, attention norms, q, k, v, o, ffn norms, w1 (gate), w2 (down), w3
 * (up), final norm, two tables of rotary cosines and sines that nobody needs, and the head unless it is shared. A
 * negative vocab_size says that it is not shared.
 *
 * Version 2 (magic "ak42"): a header of 256 bytes (magic, version, the seven numbers, a byte "shared", int32 group
 * size), then the norms as float32 (attention, ffn, final), then the matrices as int8 values followed by one float32
 * scale per group of consecutive values: embedding, q, k, v, o, w1, w2, w3, head. Groups run across the ends of
 * rows where the row is no multiple of the group, hence flat indices.
 *
 * Both must fill the file exactly: a truncated or wrongly described checkpoint never has that size by accident. The
 * rotary form is already GGUF's (adjacent pairs). Base 10000 and epsilon 1e-5 are what that program compiles in.
 *
 * Format: karpathy/llama2.c, export.py and run.c, runq.c. Version 1 (float32 behind the 256-byte header) is refused.
 */
#include "convert.h"

#include <stdlib.h>
#include <string.h>

#define MAGIC_AK42 0x616b3432u
#define HEADER_AK42 256u

struct layout {
    struct conversion *c;
    uint64_t at;      /* next byte of the file */
    size_t group;     /* 0: float32 matrices */
    bool overflow;
    struct err *e;
};

/* Takes count * size bytes; the file's size is compared once, at the end. */
static uint64_t take(struct layout *l, uint64_t count, uint64_t size)
{
    uint64_t begin = l->at, bytes;
    if (__builtin_mul_overflow(count, size, &bytes) || __builtin_add_overflow(l->at, bytes, &l->at))
        l->overflow = true;
    return begin;
}

/* One kind of tensor for n_layers layers (0: a global one): consecutive in the file, scattered in the GGUF. */
static enum hearth_status put(struct layout *l, const char *name, size_t n_layers, size_t rows, size_t cols, bool is_matrix)
{
    uint64_t n = (uint64_t)rows * cols;
    size_t group = is_matrix ? l->group : 0;
    if (group && n % group)
        return err_set(l->e, HEARTH_EDAMAGED, "%s: %s has %llu values, no multiple of the group size %zu", l->c->source, name,
                       (unsigned long long)n, group);
    for (size_t i = 0; i < MAX(n_layers, 1u); i++) {
        struct out_tensor *t = n_layers ? conversion_add(l->c, "blk.%zu.%s.weight", i, name) : conversion_add(l->c, "%s.weight", name);
        if (!t)
            return err_set(l->e, HEARTH_ENOMEM, "%s: no room for tensor %s", l->c->source, name);
        t->n_dims = is_matrix ? 2 : 1;
        t->rows = rows;
        t->cols = cols;
        t->is_f32 = !is_matrix;
        t->file = &l->c->file;
        t->source_type = group ? TYPE_I8 : TYPE_F32;
        t->group = group;
        t->offset = take(l, n, group ? 1 : 4);
        if (group)
            t->scales_offset = take(l, n / group, 4);
    }
    return HEARTH_OK;
}

static enum hearth_status put_all(struct layout *l, const char *const *order)
{
    enum hearth_status st = HEARTH_OK;
    const struct model_shape *s = &l->c->shape;
    static const struct { const char *name; bool per_layer; char rows, cols; } kinds[] = {
        { "token_embd", false, 'V', 'E' },   { "attn_norm", true, '1', 'E' }, { "attn_q", true, 'Q', 'E' },
        { "attn_k", true, 'K', 'E' },        { "attn_v", true, 'K', 'E' },    { "attn_output", true, 'E', 'Q' },
        { "ffn_norm", true, '1', 'E' },      { "ffn_gate", true, 'F', 'E' },  { "ffn_down", true, 'E', 'F' },
        { "ffn_up", true, 'F', 'E' },        { "output_norm", false, '1', 'E' }, { "output", false, 'V', 'E' },
    };
    for (; *order && st == HEARTH_OK; order++) {
        if (strcmp(*order, "freqs") == 0) {
            take(l, 2 * (uint64_t)s->n_ctx * (s->head_dim / 2), 4);
            continue;
        }
        if (strcmp(*order, "output") == 0 && s->tied)
            continue;
        size_t k = 0;
        while (strcmp(kinds[k].name, *order) != 0)
            CHECK(++k < ARRAY_LEN(kinds));
        st = put(l, *order, kinds[k].per_layer ? s->n_layers : 0, shape_dim(s, kinds[k].rows), shape_dim(s, kinds[k].cols),
                 kinds[k].rows != '1');
    }
    return st;
}

/* The seven numbers, still unsigned here: shape_check's ranges also refuse what was negative. */
static void read_shape(struct model_shape *s, const uint8_t *h)
{
    size_t n[7];
    for (size_t i = 0; i < 7; i++)
        n[i] = load_le32(h + 4 * i);
    *s = (struct model_shape){
        .arch = arch_by_name("llama"), .n_embd = n[0], .n_ff = n[1], .n_layers = n[2], .n_heads = n[3], .n_kv_heads = n[4],
        .n_vocab = n[5], .n_ctx = n[6], .norm_eps = 1e-5, .rope_base = 10000, .rope = ROPE_PLAIN,
    };
    s->head_dim = s->n_heads ? s->n_embd / s->n_heads : 0;
    s->rope_dim = s->head_dim;
}

static enum hearth_status check_header(const struct conversion *c, struct err *e)
{
    const struct model_shape *s = &c->shape;
    enum hearth_status st = shape_check(s, c->source, e);
    if (st == HEARTH_OK && s->head_dim * s->n_heads != s->n_embd)
        st = err_set(e, HEARTH_EDAMAGED, "%s: dim %zu is no multiple of n_heads %zu", c->source, s->n_embd, s->n_heads);
    return st;
}

static enum hearth_status lay_out(struct conversion *c, uint64_t at, size_t group, const char *const *order, struct err *e)
{
    struct layout l = { c, at, group, false, e };
    enum hearth_status st = put_all(&l, order);
    if (st != HEARTH_OK)
        return st;
    if (l.overflow || l.at != c->file.size_bytes)
        return err_set(e, HEARTH_EDAMAGED, "%s: its header describes %llu bytes, the file has %llu", c->source, (unsigned long long)l.at,
                       (unsigned long long)c->file.size_bytes);
    return HEARTH_OK;
}

static enum hearth_status read_version0(struct conversion *c, const uint8_t *h, struct err *e)
{
    static const char *const order[] = { "token_embd", "attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm",
                                         "ffn_gate", "ffn_down", "ffn_up", "output_norm", "freqs", "output", NULL };
    read_shape(&c->shape, h);
    c->shape.tied = c->shape.n_vocab < 0x80000000u;
    if (!c->shape.tied)
        c->shape.n_vocab = 0x100000000u - c->shape.n_vocab;
    enum hearth_status st = check_header(c, e);
    return st == HEARTH_OK ? lay_out(c, 28, 0, order, e) : st;
}

static enum hearth_status read_version2(struct conversion *c, const uint8_t *h, struct err *e)
{
    static const char *const order[] = { "attn_norm", "ffn_norm", "output_norm", "token_embd", "attn_q", "attn_k", "attn_v",
                                         "attn_output", "ffn_gate", "ffn_down", "ffn_up", "output", NULL };
    uint32_t version = load_le32(h + 4), group = load_le32(h + 37);
    if (version != 2)
        return err_set(e, HEARTH_EUNSUPPORTED, "%s: llama2.c checkpoint of version %u; hearth reads versions 0 and 2", c->source, version);
    read_shape(&c->shape, h + 8);
    c->shape.tied = h[36] != 0;
    if (group < 1 || group > 65536)
        return err_set(e, HEARTH_EDAMAGED, "%s: a group size of %u makes no sense", c->source, group);
    enum hearth_status st = check_header(c, e);
    return st == HEARTH_OK ? lay_out(c, HEADER_AK42, group, order, e) : st;
}

/* tokenizer.bin as asked, or beside the checkpoint; any other vocabulary file goes through vocab_from_files. */
static enum hearth_status read_vocab(struct conversion *c, const struct convert_options *o, struct err *e)
{
    char beside[4096];
    const char *path = o->tokenizer, *slash = strrchr(c->source, '/');
    if (!path) {
        int dir = slash ? (int)(slash - c->source) + 1 : 0;
        struct file f;
        if (snprintf(beside, sizeof beside, "%.*stokenizer.bin", dir, c->source) >= (int)sizeof beside || file_open(&f, beside, NULL) != HEARTH_OK)
            return err_set(e, HEARTH_ENOTFOUND, "%s: a llama2.c checkpoint holds no vocabulary; name its tokenizer.bin with --tokenizer",
                           c->source);
        file_close(&f);
        path = beside;
    }
    size_t n = strlen(path);
    enum hearth_status st = n > 4 && strcmp(path + n - 4, ".bin") == 0
                                ? vocab_from_llama2c(&c->vocab, path, c->shape.n_vocab, c->arena, e)
                                : vocab_from_files(&c->vocab, path, c->arena, e);
    return st == HEARTH_OK ? vocab_fit(&c->vocab, c->shape.n_vocab, path, c->arena, e) : st;
}

/* token_embd first, as write_model wants it; the rest keeps its order. */
static void embedding_first(struct conversion *c)
{
    for (size_t i = 0; i < c->n_tensors; i++)
        if (str_eqz(c->tensors[i].name, "token_embd.weight")) {
            struct out_tensor t = c->tensors[i];
            memmove(c->tensors + 1, c->tensors, i * sizeof t);
            c->tensors[0] = t;
            return;
        }
}

static void choose_name(struct conversion *c, const struct convert_options *o)
{
    const char *slash = strrchr(c->source, '/'), *base = o->name ? o->name : slash ? slash + 1 : c->source;
    size_t n = strlen(base);
    if (!o->name && n > 4 && strcmp(base + n - 4, ".bin") == 0)
        n -= 4;
    c->name = (struct str){ base, n };
}

enum hearth_status convert_llama2c(struct conversion *c, const struct convert_options *o, struct err *e)
{
    uint8_t h[HEADER_AK42] = { 0 };
    enum hearth_status st = file_open(&c->file, c->source, e);
    if (st != HEARTH_OK)
        return st;
    size_t have = (size_t)MIN(c->file.size_bytes, (uint64_t)sizeof h);
    if (have < 28)
        return err_set(e, HEARTH_EDAMAGED, "%s: %zu bytes are too few for a llama2.c checkpoint", c->source, have);
    if ((st = file_read(&c->file, h, have, 0, e)) != HEARTH_OK)
        return st;
    st = load_le32(h) == MAGIC_AK42 ? read_version2(c, h, e) : read_version0(c, h, e);
    if (st != HEARTH_OK || (st = read_vocab(c, o, e)) != HEARTH_OK)
        return st;
    embedding_first(c);
    choose_name(c, o);
    return HEARTH_OK;
}

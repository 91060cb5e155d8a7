/* convert.c: checkpoints of other tools to GGUF: the entry, and the writer behind the readers.
 *
 *   source folder or file --> convert_hf / convert_llama2c --> struct conversion --> this file --> GGUF
 *
 * A tensor goes through three buffers of about a mebibyte each: bytes as stored, floats, bytes as written. So memory
 * is bounded by the vocabulary and the directory, not by the weights. What may happen to a value on its way:
 * widening to F32, a scale (int8 checkpoints), a shift (gemma's norms), a new row order (llama's q and k), rounding.
 *
 * Invariants: the readers have checked that each source range lies in its file and that shapes agree; the output
 * appears whole or not at all. A value that is not finite, or that F16 cannot hold, stops the conversion with the
 * tensor's name: a silent infinity would surface as nonsense much later.
 *
 * Matrices get the type asked for; vectors, norms and position tables stay F32, as the usual tools have it. Rows
 * that a block format cannot divide fall back to F16 and are reported. k-quants are the work of hearth quantize,
 * which chooses a type per tensor.
 */
#include "convert.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define PIECE_BYTES (1 * MIB)

struct out_tensor *conversion_add(struct conversion *c, const char *fmt, ...)
{
    char name[LIMIT_GGUF_NAME_BYTES + 1];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(name, sizeof name, fmt, args);
    va_end(args);
    CHECK(n > 0 && (size_t)n < sizeof name); /* our own names are short */
    if (c->n_tensors == c->cap) {
        size_t cap = c->cap ? 2 * c->cap : 256;
        struct out_tensor *more = ARENA_NEW(c->arena, struct out_tensor, cap);
        if (!more)
            return NULL;
        if (c->n_tensors)
            memcpy(more, c->tensors, c->n_tensors * sizeof *more);
        c->tensors = more;
        c->cap = cap;
    }
    char *copy = arena_strndup(c->arena, name, (size_t)n);
    if (!copy)
        return NULL;
    struct out_tensor *t = &c->tensors[c->n_tensors++];
    t->name = (struct str){ copy, (size_t)n };
    t->source_name = copy;
    return t;
}

/* ---- types ---- */

/* The types convert writes, with general.file_type's number. */
static const struct { enum tensor_type type; uint32_t file_type; } file_types[] = {
    { TYPE_F32, 0 },  { TYPE_F16, 1 },  { TYPE_Q4_0, 2 }, { TYPE_Q4_1, 3 },
    { TYPE_Q8_0, 7 }, { TYPE_Q5_0, 8 }, { TYPE_Q5_1, 9 }, { TYPE_BF16, 32 },
};

static bool file_type_of(uint32_t *out, enum tensor_type type)
{
    for (size_t i = 0; i < ARRAY_LEN(file_types); i++)
        if (file_types[i].type == type) {
            *out = file_types[i].file_type;
            return true;
        }
    return false;
}

static enum tensor_type as_source(enum tensor_type source)
{
    return source == TYPE_F16 || source == TYPE_BF16 ? source : TYPE_F32; /* doubles and scaled bytes become F32 */
}

static enum tensor_type out_type(const struct out_tensor *t, enum tensor_type wanted)
{
    if (t->is_f32 || t->n_dims < 2)
        return TYPE_F32;
    enum tensor_type type = wanted == TYPE_COUNT ? as_source(t->source_type) : wanted;
    if (t->cols % type_info(type)->block_len == 0)
        return type;
    log_line(LOG_WARN, "%.*s: rows of %zu values are no multiple of %s's blocks; written as F16", STR_FMT(t->name), t->cols,
             type_info(type)->name);
    return TYPE_F16;
}

/* ---- one tensor ---- */

struct pipe {
    uint8_t *in, *out;
    float *values, *scales;
    size_t rows;       /* per piece */
};

static size_t value_bytes(enum tensor_type source)
{
    return source == TYPE_I8 ? 1 : source == TYPE_F64 ? 8 : source == TYPE_F32 ? 4 : 2;
}

static void widen(float *y, const uint8_t *x, size_t n, enum tensor_type type)
{
    switch (type) {
    case TYPE_F32:
        for (size_t i = 0; i < n; i++)
            y[i] = load_f32(x + 4 * i);
        break;
    case TYPE_F16:
        for (size_t i = 0; i < n; i++)
            y[i] = half_to_float(load_le16(x + 2 * i));
        break;
    case TYPE_BF16:
        for (size_t i = 0; i < n; i++)
            y[i] = bf16_to_float(load_le16(x + 2 * i));
        break;
    case TYPE_F64:
        for (size_t i = 0; i < n; i++) {
            union { uint64_t u; double d; } v = { load_le64(x + 8 * i) };
            y[i] = (float)v.d;
        }
        break;
    default:
        CHECK(type == TYPE_I8);
        for (size_t i = 0; i < n; i++)
            y[i] = (float)(int8_t)x[i];
    }
}

/* The source row that becomes row r: the two halves of a head are woven, 0 h 1 h+1 2 h+2 ... */
static size_t source_row(const struct out_tensor *t, size_t r)
{
    if (!t->permute_rows)
        return r;
    size_t in_head = r % t->permute_rows;
    return r - in_head + (in_head % 2) * (t->permute_rows / 2) + in_head / 2;
}

/* Multiplies values[0..n), which begin at value `first` of the tensor, by the scales of their groups. */
static enum hearth_status apply_scales(const struct out_tensor *t, struct pipe *p, size_t first, size_t n, struct err *e)
{
    size_t g0 = first / t->group, n_groups = (first + n - 1) / t->group - g0 + 1;
    enum hearth_status st = file_read(t->file, p->scales, n_groups * 4, t->scales_offset + 4 * (uint64_t)g0, e);
    if (st != HEARTH_OK)
        return st;
    for (size_t i = 0; i < n; i++)
        p->values[i] *= load_f32(&p->scales[(first + i) / t->group - g0]);
    return HEARTH_OK;
}

static enum hearth_status read_rows(const struct out_tensor *t, struct pipe *p, size_t r0, size_t n_rows, struct err *e)
{
    enum hearth_status st;
    size_t row_bytes = t->cols * value_bytes(t->source_type);
    if (!t->file) {
        memcpy(p->values, t->values + r0 * t->cols, n_rows * t->cols * sizeof(float));
        return HEARTH_OK;
    }
    size_t step = t->permute_rows ? 1 : n_rows;
    for (size_t r = 0; r < n_rows; r += step) {
        uint64_t at = t->offset + (uint64_t)source_row(t, r0 + r) * row_bytes;
        if ((st = file_read(t->file, p->in + r * row_bytes, step * row_bytes, at, e)) != HEARTH_OK)
            return st;
    }
    widen(p->values, p->in, n_rows * t->cols, t->source_type);
    if (t->group && (st = apply_scales(t, p, r0 * t->cols, n_rows * t->cols, e)) != HEARTH_OK)
        return st;
    if (t->shift != 0)
        for (size_t i = 0; i < n_rows * t->cols; i++)
            p->values[i] += t->shift;
    return HEARTH_OK;
}

static enum hearth_status check_values(const struct out_tensor *t, const float *x, size_t n, enum tensor_type type, struct err *e)
{
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(x[i]))
            return err_set(e, HEARTH_EDAMAGED, "%s: tensor %s holds a value that is not a finite number", t->file ? t->file->path : "model",
                           t->source_name);
        if (type == TYPE_F16 && fabsf(x[i]) >= 65520.0f)
            return err_set(e, HEARTH_EUNSUPPORTED, "%s: tensor %s holds %g, which F16 cannot; use F32 or BF16", t->file ? t->file->path : "model",
                           t->source_name, (double)x[i]);
    }
    return HEARTH_OK;
}

static enum hearth_status pipe_open(struct pipe *p, const struct out_tensor *t, struct err *e)
{
    size_t n = MIN(MAX(PIECE_BYTES / (4 * t->cols), 1), t->rows), values = n * t->cols; /* cols <= LIMIT_FF or LIMIT_VOCAB */
    *p = (struct pipe){ .rows = n };
    p->in = malloc(values * 8);
    p->out = malloc(values * 4 + 64);
    p->values = malloc(values * sizeof(float));
    p->scales = malloc((t->group ? values / t->group + 2 : 1) * sizeof(float));
    if (!p->in || !p->out || !p->values || !p->scales)
        return err_set(e, HEARTH_ENOMEM, "no room for a piece of tensor %s", t->source_name);
    return HEARTH_OK;
}

static void pipe_close(struct pipe *p)
{
    free(p->in);
    free(p->out);
    free(p->values);
    free(p->scales);
}

static enum hearth_status write_tensor(const struct out_tensor *t, enum tensor_type type, struct gguf_writer *w,
                                       struct progress progress, uint64_t *done, uint64_t total, struct err *e)
{
    struct pipe p;
    enum hearth_status st = pipe_open(&p, t, e);
    for (size_t r = 0; st == HEARTH_OK && r < t->rows; r += p.rows) {
        size_t n_rows = MIN(p.rows, t->rows - r), n = n_rows * t->cols, bytes = 0;
        if ((st = read_rows(t, &p, r, n_rows, e)) != HEARTH_OK || (st = check_values(t, p.values, n, type, e)) != HEARTH_OK)
            break;
        CHECK(type_row_bytes(&bytes, type, n) && quantize_row(p.out, p.values, n, type, NULL));
        st = gguf_write_data(w, p.out, bytes, e);
        *done += bytes;
        if (progress.fn)
            progress.fn(t->name.p, *done, total, progress.arg);
    }
    pipe_close(&p);
    return st;
}

/* ---- the file ---- */

static void put_general(const struct conversion *c, enum tensor_type matrices, struct gguf_writer *w)
{
    uint32_t file_type = 0;
    shape_put_keys(&c->shape, w);
    if (c->name.n)
        gguf_put_str(w, "general.name", c->name);
    CHECK(file_type_of(&file_type, matrices));
    gguf_put_u32(w, "general.file_type", file_type);
    if (type_info(matrices)->is_quantised)
        gguf_put_u32(w, "general.quantization_version", 2);
    if (c->stop_text.n)
        gguf_put_strs(w, "hearth.stop_strings", &c->stop_text, 1);
    vocab_to_gguf(&c->vocab, w);
}

static enum hearth_status write_model(struct conversion *c, const char *out, const struct convert_options *o, struct progress p,
                                      struct err *e)
{
    struct gguf_writer *w = NULL;
    uint64_t total = 0, done = 0;
    enum tensor_type *types = ARENA_NEW(c->arena, enum tensor_type, c->n_tensors);
    if (!types)
        return err_set(e, HEARTH_ENOMEM, "%s: no room for %zu tensors", out, c->n_tensors);
    enum hearth_status st = gguf_writer_open(&w, out, c->arena, e);
    if (st != HEARTH_OK)
        return st;
    for (size_t i = 0; i < c->n_tensors; i++) {
        const struct out_tensor *t = &c->tensors[i];
        size_t row = 0;
        types[i] = out_type(t, o->type);
        CHECK(type_row_bytes(&row, types[i], t->cols));
        total += (uint64_t)row * t->rows;
    }
    put_general(c, types[0], w); /* tensor 0 is the embedding */
    for (size_t i = 0; i < c->n_tensors; i++) {
        const struct out_tensor *t = &c->tensors[i];
        uint64_t dims[2] = { t->n_dims == 1 ? (uint64_t)t->rows * t->cols : t->cols, t->rows };
        gguf_put_tensor(w, t->name, types[i], t->n_dims, dims);
    }
    st = gguf_begin_data(w, e);
    for (size_t i = 0; st == HEARTH_OK && i < c->n_tensors; i++)
        st = write_tensor(&c->tensors[i], types[i], w, p, &done, total, e);
    if (st == HEARTH_OK)
        st = gguf_writer_commit(w, e);
    gguf_writer_abandon(w);
    return st;
}

/* ---- the vocabulary's length ---- */

static void drop_special(int32_t *id, size_t n)
{
    if (*id >= 0 && (size_t)*id >= n)
        *id = -1;
}

enum hearth_status vocab_fit(struct vocab *v, size_t n_vocab, const char *what, struct arena *a, struct err *e)
{
    for (size_t i = n_vocab; i < v->n_tokens; i++)
        if (v->tokens[i].type == TOKEN_NORMAL || v->tokens[i].type == TOKEN_BYTE)
            return err_set(e, HEARTH_EDAMAGED, "%s: the vocabulary has %zu tokens, the embedding %zu rows", what, v->n_tokens, n_vocab);
    if (n_vocab > v->n_tokens) {
        struct vocab_token *t = ARENA_NEW(a, struct vocab_token, n_vocab);
        if (!t)
            return err_set(e, HEARTH_ENOMEM, "%s: no room for %zu tokens", what, n_vocab);
        memcpy(t, v->tokens, v->n_tokens * sizeof *t);
        for (size_t i = v->n_tokens; i < n_vocab; i++) {
            char name[32];
            int n = snprintf(name, sizeof name, "[PAD%zu]", i);
            char *copy = arena_strndup(a, name, (size_t)n);
            if (!copy)
                return err_set(e, HEARTH_ENOMEM, "%s: no room for %zu tokens", what, n_vocab);
            t[i] = (struct vocab_token){ .text = { copy, (size_t)n }, .score = -10000, .type = TOKEN_UNUSED };
        }
        v->tokens = t;
    }
    v->n_tokens = n_vocab;
    int32_t *ids[] = { &v->bos, &v->eos, &v->eot, &v->unk, &v->pad, &v->sep, &v->cls, &v->mask };
    for (size_t i = 0; i < ARRAY_LEN(ids); i++)
        drop_special(ids[i], n_vocab);
    return HEARTH_OK;
}

/* ---- the entry ---- */

static enum hearth_status check_options(const struct convert_options *o, struct err *e)
{
    uint32_t unused;
    if (o->type == TYPE_COUNT || file_type_of(&unused, o->type))
        return HEARTH_OK;
    const char *name = type_info(o->type)->name;
    return err_set(e, HEARTH_EINVAL, "convert writes F32, F16, BF16, Q8_0, Q5_1, Q5_0, Q4_1 and Q4_0, not %s; hearth quantize makes the others",
                   name ? name : "that type");
}

static enum hearth_status refuse_known(const char *source, struct err *e)
{
    struct file f;
    uint8_t magic[4];
    enum hearth_status st = file_open(&f, source, e);
    if (st != HEARTH_OK)
        return st;
    if (f.size_bytes >= 4 && file_read(&f, magic, 4, 0, NULL) == HEARTH_OK && memcmp(magic, "GGUF", 4) == 0)
        st = err_set(e, HEARTH_EINVAL, "%s is a GGUF file already; hearth quantize changes its types", source);
    size_t n = strlen(source);
    if (n > 12 && strcmp(source + n - 12, ".safetensors") == 0)
        st = err_set(e, HEARTH_EINVAL, "%s: give the folder, which also holds config.json and the tokenizer", source);
    file_close(&f);
    return st;
}

enum hearth_status convert_model(const char *source, const char *out, const struct convert_options *o, struct progress p,
                                 struct err *e)
{
    struct arena a;
    struct stat sb;
    enum hearth_status st = check_options(o, e);
    if (st != HEARTH_OK)
        return st;
    if (stat(source, &sb) != 0)
        return err_set(e, HEARTH_ENOTFOUND, "%s: no such file or folder", source);
    arena_init(&a, 0);
    struct conversion c = { .arena = &a, .source = source, .file = { .fd = -1 } };
    if (S_ISDIR(sb.st_mode))
        st = convert_hf(&c, o, e);
    else if ((st = refuse_known(source, e)) == HEARTH_OK)
        st = convert_llama2c(&c, o, e);
    if (st == HEARTH_OK)
        st = write_model(&c, out, o, p, e);
    st_close(&c.safetensors);
    file_close(&c.file);
    arena_free(&a);
    return st;
}

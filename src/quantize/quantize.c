/* quantize.c: a GGUF file again, with other types for its matrices.
 *
 * How data moves: the directory of the input is read and checked, every tensor gets its type from the mix, the
 * whole directory of the output is written, then the tensors stream through one after the other in slabs of
 * rows: read, each worker turns its rows into floats and those into the new type, write. What the mix leaves
 * alone (norms, biases, tables) and what has its type already is copied byte for byte.
 *
 * Rows are independent, so the number of threads and the size of slabs do not change a byte. Memory is one slab
 * of input, one of output and one row of floats per worker, whatever the size of the model. The file appears
 * under its name when it is whole; an error or a cancel leaves nothing.
 *
 * Values are looked at on the way: one that is not finite, or that half precision cannot hold where the type
 * has half-precision scales, ends the work with the tensor's name instead of a silently damaged block.
 *
 * Left out: importance from calibration text (quantize_row takes it; nothing here makes it yet), and writing splits:
 * the output is one file.
 */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "quantize/quantize.h"

enum { SLAB_VALUES = 4 << 20, SLICE_VALUES = 32 << 10 };
#define HALF_MAX 65504.0f

/* What becomes of one tensor. */
struct conversion {
    const struct gguf_tensor *from;
    enum tensor_type type;
    size_t n_columns, n_rows, row_in, row_out; /* row bytes; unused when the bytes are copied */
    size_t size_out;
    bool is_copied;
};

struct job {
    struct arena arena;
    struct gguf in;
    struct conversion *tensors;
    struct gguf_writer *out;
    struct pool *pool;
    const struct kernels *kernels;
    const struct mix *mix;
    struct progress progress;
    struct quantize_stats stats;
    uint64_t done; /* of stats.bytes_in */
};

/* ---- which tensor gets which type ---- */

/* A number of the architecture; 0 where the file does not say (or says it per layer). */
static size_t arch_number(const struct gguf *g, const char *key)
{
    struct str arch;
    char full[LIMIT_GGUF_KEY_BYTES + 1];
    uint64_t v = 0;
    if (gguf_get_str(g, "general.architecture", &arch, NULL) != HEARTH_OK)
        return 0;
    snprintf(full, sizeof full, "%.*s.%s", STR_FMT(arch), key);
    return gguf_get_u64(g, full, 0, LIMIT_LAYERS + LIMIT_HEADS, &v, NULL) == HEARTH_OK ? (size_t)v : 0;
}

/* What the mixes ask for. Any file with named matrices will do, whether the engine knows its architecture or not. */
static struct model_info facts_for_mix(const struct gguf *g)
{
    return (struct model_info){
        .n_layers = arch_number(g, "block_count"),
        .n_heads = arch_number(g, "attention.head_count"),
        .n_kv_heads = arch_number(g, "attention.head_count_kv"),
    };
}

static enum hearth_status plan_tensor(struct job *j, struct conversion *c, const struct model_info *facts, bool tied, struct err *e)
{
    const struct gguf_tensor *t = c->from;
    const struct type_info *from = type_info((uint32_t)t->type);
    char what[320];
    bool fell_back = false;
    c->type = mix_is_matrix(t->name, t->n_dims)
                  ? mix_choose(j->mix, facts, t->name, t->n_dims, t->dims, tied, &fell_back)
                  : t->type;
    c->is_copied = c->type == t->type;
    c->size_out = t->size_bytes;
    if (c->is_copied)
        return HEARTH_OK;
    if (!from->is_readable)
        return err_set(e, HEARTH_EUNSUPPORTED, "%s: tensor '%.*s' is of type %s, which hearth cannot read", j->in.path,
                       STR_FMT(t->name), from->name);
    snprintf(what, sizeof what, "%.200s: tensor '%.*s'", j->in.path, STR_FMT(t->name));
    enum hearth_status st = tensor_extent(&c->size_out, (uint32_t)c->type, t->n_dims, t->dims, what, e);
    if (st != HEARTH_OK)
        return st;
    c->n_columns = (size_t)t->dims[0];
    CHECK(type_row_bytes(&c->row_in, (uint32_t)t->type, c->n_columns));
    CHECK(type_row_bytes(&c->row_out, (uint32_t)c->type, c->n_columns));
    c->n_rows = t->size_bytes / c->row_in;
    CHECK(c->n_rows * c->row_in == t->size_bytes && c->n_rows * c->row_out == c->size_out);
    j->stats.n_converted++;
    j->stats.n_fell_back += fell_back;
    if (fell_back)
        log_line(LOG_INFO, "%.*s: rows of %zu values do not fit the type of %s; stored as %s", STR_FMT(t->name),
                 c->n_columns, mix_name(j->mix), type_info((uint32_t)c->type)->name);
    return HEARTH_OK;
}

static enum hearth_status plan(struct job *j, struct err *e)
{
    const struct model_info facts = facts_for_mix(&j->in);
    const bool tied = !gguf_find_tensor(&j->in, "output.weight");
    if (j->in.is_pack)
        return err_set(e, HEARTH_EINVAL, "%s is a pack; hearth pack --undo makes the plain file that can be quantized", j->in.path);
    if (j->in.n_tensors == 0)
        return err_set(e, HEARTH_EINVAL, "%s has no tensors to convert", j->in.path);
    j->tensors = ARENA_NEW(&j->arena, struct conversion, j->in.n_tensors);
    if (!j->tensors)
        return err_set(e, HEARTH_ENOMEM, "%s: no memory for %zu tensors", j->in.path, j->in.n_tensors);
    j->stats.n_tensors = j->in.n_tensors;
    for (size_t i = 0; i < j->in.n_tensors; i++) {
        j->tensors[i].from = &j->in.tensors[i];
        enum hearth_status st = plan_tensor(j, &j->tensors[i], &facts, tied, e);
        if (st != HEARTH_OK)
            return st;
        j->stats.bytes_in += j->in.tensors[i].size_bytes;
        j->stats.bytes_out += j->tensors[i].size_out;
    }
    return HEARTH_OK;
}

/* ---- the directory of the output ---- */

static enum hearth_status put_directory(struct job *j, struct err *e)
{
    for (size_t i = 0; i < j->in.n_kvs; i++) {
        const struct gguf_kv *kv = &j->in.kvs[i];
        bool is_split = kv->key.n > 6 && memcmp(kv->key.p, "split.", 6) == 0;
        if (!is_split && !str_eqz(kv->key, "general.file_type") && !str_eqz(kv->key, "general.quantization_version"))
            gguf_put_kv(j->out, kv);
    }
    gguf_put_u32(j->out, "general.quantization_version", 2);
    gguf_put_u32(j->out, "general.file_type", mix_file_type(j->mix));
    for (size_t i = 0; i < j->in.n_tensors; i++)
        gguf_put_tensor(j->out, j->in.tensors[i].name, j->tensors[i].type, j->in.tensors[i].n_dims, j->in.tensors[i].dims);
    return gguf_begin_data(j->out, e);
}

/* ---- the weights ---- */

/* Rows of one tensor on their way through the workers. */
struct slab {
    const struct conversion *c;
    void (*dequant)(float *y, const void *w, size_t n);
    const uint8_t *in;
    uint8_t *out;
    float *rows; /* one per thread */
    size_t n_rows, rows_per_slice;
    float largest; /* that the type can hold */
    atomic_size_t bad_row; /* the first one with a value that cannot be stored; SIZE_MAX: none */
};

static bool all_within(const float *x, size_t n, float largest)
{
    bool fine = true;
    for (size_t i = 0; i < n; i++)
        fine &= fabsf(x[i]) <= largest; /* false for NaN */
    return fine;
}

static void convert_slice(void *arg, size_t i_slice, size_t i_thread)
{
    struct slab *s = arg;
    float *x = s->rows + i_thread * s->c->n_columns;
    size_t first = i_slice * s->rows_per_slice, end = MIN(first + s->rows_per_slice, s->n_rows);
    for (size_t r = first; r < end; r++) {
        s->dequant(x, s->in + r * s->c->row_in, s->c->n_columns);
        if (!all_within(x, s->c->n_columns, s->largest)) {
            size_t seen = atomic_load(&s->bad_row);
            while (r < seen && !atomic_compare_exchange_weak(&s->bad_row, &seen, r))
                ;
            continue;
        }
        CHECK(quantize_row(s->out + r * s->c->row_out, x, s->c->n_columns, s->c->type, NULL));
    }
}

static enum hearth_status refuse_row(const struct job *j, const struct slab *s, size_t row0, struct err *e)
{
    size_t r = atomic_load(&s->bad_row);
    const struct gguf_tensor *t = s->c->from;
    float *x = s->rows;
    s->dequant(x, s->in + r * s->c->row_in, s->c->n_columns);
    for (size_t i = 0; i < s->c->n_columns; i++)
        if (!(fabsf(x[i]) <= FLT_MAX))
            return err_set(e, HEARTH_EDAMAGED, "%s: tensor '%.*s', row %zu, column %zu: a weight is not a finite number", j->in.path,
                           STR_FMT(t->name), row0 + r, i);
    size_t worst = 0;
    for (size_t i = 0; i < s->c->n_columns; i++)
        if (fabsf(x[i]) > fabsf(x[worst]))
            worst = i;
    return err_set(e, HEARTH_EINVAL, "%s: tensor '%.*s', row %zu, column %zu: the weight %g is more than %s can hold (%g); F32 and BF16 can",
                   j->in.path, STR_FMT(t->name), row0 + r, worst, (double)x[worst], type_info((uint32_t)s->c->type)->name,
                   (double)s->largest);
}

static enum hearth_status step_done(struct job *j, const struct conversion *c, size_t bytes_in, struct err *e)
{
    char name[LIMIT_GGUF_NAME_BYTES + 1];
    j->done += bytes_in;
    snprintf(name, sizeof name, "%.*s", STR_FMT(c->from->name));
    if (j->progress.fn)
        j->progress.fn(name, j->done, j->stats.bytes_in, j->progress.arg);
    if (j->progress.cancel && atomic_load(j->progress.cancel))
        return err_set(e, HEARTH_ECANCELLED, "stopped at tensor '%s'; nothing was written", name);
    return HEARTH_OK;
}

static enum hearth_status copy_tensor(struct job *j, const struct conversion *c, uint8_t *buffer, size_t buffer_bytes, struct err *e)
{
    const struct file *f = &j->in.files[c->from->i_file];
    enum hearth_status st = HEARTH_OK;
    for (size_t at = 0, n; st == HEARTH_OK && at < c->from->size_bytes; at += n) {
        n = MIN(buffer_bytes, c->from->size_bytes - at);
        if ((st = file_read(f, buffer, n, c->from->offset + at, e)) == HEARTH_OK &&
            (st = gguf_write_data(j->out, buffer, n, e)) == HEARTH_OK)
            st = step_done(j, c, n, e);
    }
    return st;
}

static enum hearth_status convert_rows(struct job *j, struct slab *s, uint8_t *in, size_t rows_per_slab, struct err *e)
{
    const struct conversion *c = s->c;
    const struct file *f = &j->in.files[c->from->i_file];
    enum hearth_status st = HEARTH_OK;
    for (size_t row = 0; st == HEARTH_OK && row < c->n_rows; row += s->n_rows) {
        s->n_rows = MIN(rows_per_slab, c->n_rows - row);
        if ((st = file_read(f, in, s->n_rows * c->row_in, c->from->offset + row * c->row_in, e)) != HEARTH_OK)
            return st;
        pool_run(j->pool, convert_slice, s, (s->n_rows + s->rows_per_slice - 1) / s->rows_per_slice);
        if (atomic_load(&s->bad_row) != SIZE_MAX)
            return refuse_row(j, s, row, e);
        if ((st = gguf_write_data(j->out, s->out, s->n_rows * c->row_out, e)) == HEARTH_OK)
            st = step_done(j, c, s->n_rows * c->row_in, e);
    }
    return st;
}

static bool has_half_scales(enum tensor_type t)
{
    return t == TYPE_F16 || type_info((uint32_t)t)->is_quantised;
}

static enum hearth_status convert_tensor(struct job *j, const struct conversion *c, struct err *e)
{
    size_t rows = MIN(MAX(SLAB_VALUES / c->n_columns, 1u), c->n_rows);
    uint8_t *in = malloc(rows * c->row_in), *out = malloc(rows * c->row_out);
    float *floats = malloc(pool_threads(j->pool) * c->n_columns * sizeof *floats);
    enum hearth_status st;
    if (in && out && floats) {
        struct slab s = {
            .c = c, .dequant = j->kernels->dequant_row[c->from->type], .in = in, .out = out, .rows = floats,
            .rows_per_slice = MAX(SLICE_VALUES / c->n_columns, 1u), .largest = has_half_scales(c->type) ? HALF_MAX : FLT_MAX,
        };
        atomic_init(&s.bad_row, SIZE_MAX);
        st = convert_rows(j, &s, in, rows, e);
    } else {
        st = err_set(e, HEARTH_ENOMEM, "%s: no memory for %zu rows of tensor '%.*s'", j->in.path, rows, STR_FMT(c->from->name));
    }
    free(in);
    free(out);
    free(floats);
    return st;
}

static enum hearth_status convert_all(struct job *j, struct err *e)
{
    enum { COPY_BYTES = 1 << 20 };
    uint8_t *buffer = malloc(COPY_BYTES);
    enum hearth_status st = buffer ? HEARTH_OK : err_set(e, HEARTH_ENOMEM, "no memory to copy tensors");
    for (size_t i = 0; st == HEARTH_OK && i < j->in.n_tensors; i++) {
        const struct conversion *c = &j->tensors[i];
        st = c->is_copied ? copy_tensor(j, c, buffer, COPY_BYTES, e) : convert_tensor(j, c, e);
    }
    free(buffer);
    return st;
}

/* Writing over the file that is being read would work, and lose the better weights for good. */
static enum hearth_status check_not_same(const struct gguf *in, const char *out, struct err *e)
{
    struct stat a, b;
    if (stat(out, &b) != 0)
        return HEARTH_OK;
    for (size_t i = 0; i < in->n_files; i++)
        if (fstat(in->files[i].fd, &a) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino)
            return err_set(e, HEARTH_EINVAL, "%s is the file being read; give the result another name", out);
    return HEARTH_OK;
}

enum hearth_status quantize_model(const char *in, const char *out, const struct mix *m, size_t n_threads, struct progress p,
                                  struct quantize_stats *stats, struct err *e)
{
    struct job j = { .mix = m, .progress = p };
    enum hearth_status st;
    arena_init(&j.arena, 0);
    if ((st = gguf_open(&j.in, in, &j.arena, e)) != HEARTH_OK)
        goto end;
    j.kernels = kernels_get(e);
    if (!j.kernels) {
        st = err_set(e, HEARTH_EINVAL, "no kernels for this CPU");
        goto end;
    }
    if ((st = check_not_same(&j.in, out, e)) != HEARTH_OK || (st = plan(&j, e)) != HEARTH_OK ||
        (st = pool_open(&j.pool, n_threads ? n_threads : (size_t)cpu_count(), e)) != HEARTH_OK ||
        (st = gguf_writer_open(&j.out, out, &j.arena, e)) != HEARTH_OK)
        goto end;
    if ((st = put_directory(&j, e)) == HEARTH_OK && (st = convert_all(&j, e)) == HEARTH_OK)
        st = gguf_writer_commit(j.out, e);
    if (stats && st == HEARTH_OK)
        *stats = j.stats;
end:
    gguf_writer_abandon(j.out);
    pool_close(j.pool);
    gguf_close(&j.in);
    arena_free(&j.arena);
    return st;
}

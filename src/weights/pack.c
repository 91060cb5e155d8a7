/* pack.c: the pack file: a model whose matrices are stored as the products read them.
 *
 *   GGUF --keys, in order--> GGUF with hearth.layout "r8/1"     matrices:   rows   --r8_pack-->   strips of eight rows
 *        <--pack_undo------                                     the others: bytes  --copied--->   bytes
 *
 * A pack is a GGUF (docs/FORMATS.md) that other readers refuse by its type numbers. It has what its source has, bit for
 * bit, in another order, so nothing is lost and the source can be made again. It is mapped, not read: opening one costs
 * no packing and no private memory, and processes share it.
 *
 * Which tensors become strips is a rule on names and types that mirrors what the engine multiplies with. It need not be
 * exact: a matrix that is missing here is packed in memory when the engine opens, a table that stands here as strips
 * is read row by row from them.
 *
 * Keys: general.alignment becomes 4096 where it stands (in front when it was not there) and its old value is kept in
 * hearth.source.alignment; split.* is dropped, a pack is one file; hearth.source.* says what it was made from.
 *
 * How data moves: a piece of the mapped source through the pool into a buffer, to the writer, and the source's pages go back
 * to the page cache. Memory: one piece. The file grows beside its name and is renamed when it is whole (base.h, outfile).
 */
#include "weights/weights.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { PACK_ALIGNMENT = 4096, PIECE_BYTES = 16 << 20, SLICE_BYTES = 128 << 10, HEAD_BYTES = 64 << 10 };

/* ---- what it was made from ---- */

static uint64_t fnv(uint64_t h, const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}

enum hearth_status pack_source_of(struct pack_source *s, const struct file *files, size_t n_files, struct err *e)
{
    uint8_t *head = malloc(HEAD_BYTES);
    enum hearth_status st = head ? HEARTH_OK : err_set(e, HEARTH_ENOMEM, "no memory to look at a model file");
    *s = (struct pack_source){ .n_files = n_files, .head = 0xcbf29ce484222325u };
    for (size_t i = 0; i < n_files && st == HEARTH_OK; i++) {
        size_t n = (size_t)MIN(files[i].size_bytes, (uint64_t)HEAD_BYTES);
        struct stat now;
        if (fstat(files[i].fd, &now) != 0) {
            st = err_set(e, HEARTH_EIO, "%s: cannot be looked at", files[i].path);
        } else if ((st = file_read(&files[i], head, n, 0, e)) == HEARTH_OK) {
            uint64_t ns = (uint64_t)now.st_mtim.tv_sec * 1000000000u + (uint64_t)now.st_mtim.tv_nsec;
            s->n_bytes += files[i].size_bytes;
            s->mtime_ns = MAX(s->mtime_ns, ns);
            s->head = fnv(s->head, head, n);
        }
    }
    free(head);
    return st;
}

bool pack_source_read(struct pack_source *s, struct str *path, const struct gguf *g)
{
    struct str p = { "", 0 };
    *s = (struct pack_source){ 0 };
    bool is_there = g->is_pack && gguf_get_u64(g, "hearth.source.files", 1, LIMIT_GGUF_SPLITS, &s->n_files, NULL) == HEARTH_OK &&
                    gguf_get_u64(g, "hearth.source.bytes", 0, UINT64_MAX, &s->n_bytes, NULL) == HEARTH_OK &&
                    gguf_get_u64(g, "hearth.source.mtime_ns", 0, UINT64_MAX, &s->mtime_ns, NULL) == HEARTH_OK &&
                    gguf_get_u64(g, "hearth.source.head", 0, UINT64_MAX, &s->head, NULL) == HEARTH_OK &&
                    gguf_get_str(g, "hearth.source.path", &p, NULL) == HEARTH_OK;
    if (path)
        *path = p;
    return is_there;
}

/* ---- which tensors, and how large ---- */

static bool becomes_strips(const struct gguf *g, const struct gguf_tensor *t)
{
    if (t->n_dims != 2 || t->dims[1] < R8_ROWS || t->type >= TYPE_COUNT || !type_info(t->type)->is_readable)
        return false;
    if (str_eqz(t->name, "position_embd.weight"))
        return false;
    /* The embedding is read row by row, and multiplied with only when it is the output matrix too. */
    return !str_eqz(t->name, "token_embd.weight") || !gguf_find_tensor(g, "output.weight");
}

static uint64_t strips_bytes(const struct gguf_tensor *t)
{
    return t->size_bytes / t->dims[1] * ((t->dims[1] + R8_ROWS - 1) / R8_ROWS * R8_ROWS);
}

size_t pack_matrix_bytes(const struct gguf *g)
{
    size_t sum = 0;
    for (size_t i = 0; i < g->n_tensors; i++)
        if (becomes_strips(g, &g->tensors[i]))
            sum += g->tensors[i].size_bytes;
    return sum;
}

uint64_t pack_file_bytes(const struct gguf *g)
{
    uint64_t sum = 64 * KIB;
    if (g->n_tensors)
        sum += g->tensors[0].offset; /* the keys */
    for (size_t i = 0; i < g->n_tensors; i++) {
        const struct gguf_tensor *t = &g->tensors[i];
        sum += (becomes_strips(g, t) ? strips_bytes(t) : t->size_bytes) + PACK_ALIGNMENT;
    }
    return sum;
}

/* ---- keys ---- */

static bool begins(struct str s, const char *prefix)
{
    size_t n = strlen(prefix);
    return s.n >= n && memcmp(s.p, prefix, n) == 0;
}

static void put_source(struct gguf_writer *w, const struct pack_source *s, const char *path)
{
    char *real = path_real(path);
    gguf_put_str(w, "hearth.layout", STR(LAYOUT_R8));
    gguf_put_str(w, "hearth.source.path", real ? (struct str){ real, strlen(real) } : (struct str){ path, strlen(path) });
    gguf_put_u32(w, "hearth.source.files", (uint32_t)s->n_files);
    gguf_put_u64(w, "hearth.source.bytes", s->n_bytes);
    gguf_put_u64(w, "hearth.source.mtime_ns", s->mtime_ns);
    gguf_put_u64(w, "hearth.source.head", s->head);
    free(real);
}

static void put_pack_keys(struct gguf_writer *w, const struct gguf *g, const struct pack_source *s, const char *path)
{
    const struct gguf_kv *old = gguf_find(g, "general.alignment");
    put_source(w, s, path);
    if (old)
        gguf_put_u32(w, "hearth.source.alignment", g->alignment);
    else
        gguf_put_u32(w, "general.alignment", PACK_ALIGNMENT);
    for (size_t i = 0; i < g->n_kvs; i++) {
        if (&g->kvs[i] == old)
            gguf_put_u32(w, "general.alignment", PACK_ALIGNMENT);
        else if (!begins(g->kvs[i].key, "split.") && !begins(g->kvs[i].key, "hearth.source.") && !str_eqz(g->kvs[i].key, "hearth.layout"))
            gguf_put_kv(w, &g->kvs[i]);
    }
}

static void put_plain_keys(struct gguf_writer *w, const struct gguf *g)
{
    uint64_t alignment = 0;
    bool had_one = gguf_get_u64(g, "hearth.source.alignment", LIMIT_GGUF_ALIGN_MIN, LIMIT_GGUF_ALIGN_MAX, &alignment, NULL) == HEARTH_OK;
    for (size_t i = 0; i < g->n_kvs; i++) {
        struct str key = g->kvs[i].key;
        if (str_eqz(key, "general.alignment")) {
            if (had_one)
                gguf_put_u32(w, "general.alignment", (uint32_t)alignment);
        } else if (!begins(key, "hearth.source.") && !str_eqz(key, "hearth.layout")) {
            gguf_put_kv(w, &g->kvs[i]);
        }
    }
}

/* ---- tensors ---- */

/* One piece of one matrix on its way through the pool: strips [begin, end), the first of them at `buffer`. */
struct piece {
    const struct tensor *t;
    uint8_t *buffer;
    size_t strip_bytes, begin, end, per_slice;
    bool undo;
};

static void turn_slice(void *arg, size_t i_slice, size_t i_thread)
{
    const struct piece *p = arg;
    const struct tensor *t = p->t;
    const uint8_t *data = t->data;
    size_t first = p->begin + i_slice * p->per_slice, last = MIN(first + p->per_slice, p->end);
    (void)i_thread;
    for (size_t i = first; i < last; i++) {
        size_t n_rows = MIN((size_t)R8_ROWS, t->dims[1] - i * R8_ROWS);
        if (p->undo)
            r8_unpack(p->buffer + (i - p->begin) * R8_ROWS * t->row_bytes, t->row_bytes, n_rows, data + i * p->strip_bytes, t->type, t->dims[0]);
        else
            r8_pack(p->buffer + (i - p->begin) * p->strip_bytes, data + i * R8_ROWS * t->row_bytes, t->row_bytes, n_rows, t->type,
                    t->dims[0]);
    }
}

struct turn {
    const struct gguf *g;
    struct weights *weights;
    struct gguf_writer *out;
    struct pool *pool;
    uint8_t *buffer;
    size_t buffer_bytes, n_done, n_total;
    weights_progress progress;
    void *arg;
    const atomic_int *cancel;
};

static enum hearth_status piece_done(struct turn *r, size_t i_tensor, size_t offset, size_t n, struct err *e)
{
    enum hearth_status st = weights_check(r->weights, e);
    weights_forget(r->weights, i_tensor, offset, n);
    r->n_done += n;
    if (r->progress)
        r->progress(r->n_done, r->n_total, r->arg);
    if (st == HEARTH_OK && r->cancel && atomic_load(r->cancel))
        st = err_set(e, HEARTH_ECANCELLED, "stopped at tensor %.*s; nothing was written", STR_FMT(r->g->tensors[i_tensor].name));
    return st;
}

static enum hearth_status copy_tensor(struct turn *r, size_t i, struct err *e)
{
    const struct tensor *t = weights_at(r->weights, i);
    enum hearth_status st = HEARTH_OK;
    for (size_t at = 0, n; at < t->size_bytes && st == HEARTH_OK; at += n) {
        n = MIN(t->size_bytes - at, (size_t)PIECE_BYTES);
        if ((st = gguf_write_data(r->out, (const uint8_t *)t->data + at, n, e)) == HEARTH_OK)
            st = piece_done(r, i, at, n, e);
    }
    return st;
}

static enum hearth_status turn_tensor(struct turn *r, size_t i, bool undo, struct err *e)
{
    struct piece p = { .t = weights_at(r->weights, i), .buffer = r->buffer, .undo = undo };
    enum hearth_status st = HEARTH_OK;
    CHECK(r8_strip_bytes(&p.strip_bytes, (uint32_t)p.t->type, p.t->dims[0]));
    const size_t n_strips = (p.t->dims[1] + R8_ROWS - 1) / R8_ROWS, per_piece = MAX(r->buffer_bytes / p.strip_bytes, (size_t)1);
    p.per_slice = MAX(SLICE_BYTES / p.strip_bytes, (size_t)1);
    for (; p.begin < n_strips && st == HEARTH_OK; p.begin = p.end) {
        p.end = MIN(p.begin + per_piece, n_strips);
        pool_run(r->pool, turn_slice, &p, (p.end - p.begin + p.per_slice - 1) / p.per_slice);
        size_t rows_at = p.begin * R8_ROWS * p.t->row_bytes, rows_end = MIN(p.end * R8_ROWS, p.t->dims[1]) * p.t->row_bytes;
        size_t strips_at = p.begin * p.strip_bytes, strips_end = p.end * p.strip_bytes;
        st = gguf_write_data(r->out, r->buffer, undo ? rows_end - rows_at : strips_end - strips_at, e);
        if (st == HEARTH_OK)
            st = undo ? piece_done(r, i, strips_at, strips_end - strips_at, e) : piece_done(r, i, rows_at, rows_end - rows_at, e);
    }
    return st;
}

/* The longest strip decides how large a piece is. */
static enum hearth_status take_buffer(struct turn *r, struct err *e)
{
    r->buffer_bytes = PIECE_BYTES;
    for (size_t i = 0; i < r->g->n_tensors; i++) {
        const struct tensor *t = weights_at(r->weights, i);
        size_t strip_bytes = 0;
        r->n_total += t->size_bytes;
        if (t->n_dims == 2 && type_info((uint32_t)t->type)->is_readable && !r8_strip_bytes(&strip_bytes, (uint32_t)t->type, t->dims[0]))
            return err_set(e, HEARTH_EDAMAGED, "%s: tensor %.*s: its rows overflow", r->g->path, STR_FMT(t->name));
        r->buffer_bytes = MAX(r->buffer_bytes, strip_bytes);
    }
    r->buffer = pages_alloc(r->buffer_bytes);
    return r->buffer ? HEARTH_OK : err_set(e, HEARTH_ENOMEM, "%s: no memory for a piece of %zu bytes", r->g->path, r->buffer_bytes);
}

static enum hearth_status turn_all(struct turn *r, bool undo, struct err *e)
{
    enum hearth_status st = take_buffer(r, e);
    weights_read_ahead(r->weights);
    for (size_t i = 0; i < r->g->n_tensors; i++) {
        const struct gguf_tensor *t = &r->g->tensors[i];
        uint32_t type = undo ? (t->type >= TYPE_R8 ? t->type - TYPE_R8 : t->type) : becomes_strips(r->g, t) ? t->type + TYPE_R8 : t->type;
        gguf_put_tensor(r->out, t->name, type, t->n_dims, t->dims);
    }
    if (st == HEARTH_OK)
        st = gguf_begin_data(r->out, e);
    for (size_t i = 0; i < r->g->n_tensors && st == HEARTH_OK; i++) {
        const struct gguf_tensor *t = &r->g->tensors[i];
        st = (undo ? t->type >= TYPE_R8 : becomes_strips(r->g, t)) ? turn_tensor(r, i, undo, e) : copy_tensor(r, i, e);
    }
    pages_free(r->buffer, r->buffer_bytes);
    return st;
}

/* Writing over a file that is being read would lose it. */
static enum hearth_status check_not_same(const struct gguf *g, const char *out, struct err *e)
{
    struct stat a, b;
    for (size_t i = 0; i < g->n_files && stat(out, &b) == 0; i++)
        if (fstat(g->files[i].fd, &a) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino)
            return err_set(e, HEARTH_EINVAL, "%s is the file being read; give the result another name", out);
    return HEARTH_OK;
}

static enum hearth_status turn_file(const struct gguf *g, const char *path, const char *out, bool undo, struct turn *r, struct err *e)
{
    struct pack_source source;
    struct arena a;
    enum hearth_status st = check_not_same(g, out, e);
    arena_init(&a, 0);
    if (st == HEARTH_OK && !undo)
        st = pack_source_of(&source, g->files, g->n_files, e);
    if (st == HEARTH_OK && (st = weights_open(&r->weights, g, &a, e)) == HEARTH_OK &&
        (st = gguf_writer_open(&r->out, out, &a, e)) == HEARTH_OK) {
        if (undo)
            put_plain_keys(r->out, g);
        else
            put_pack_keys(r->out, g, &source, path);
        if ((st = turn_all(r, undo, e)) == HEARTH_OK)
            st = gguf_writer_commit(r->out, e);
        else
            gguf_writer_abandon(r->out);
    }
    weights_close(r->weights);
    arena_free(&a);
    return st;
}

enum hearth_status pack_write(const struct gguf *g, const char *path, const char *out, struct pool *pool, weights_progress progress,
                              void *arg, const atomic_int *cancel, struct err *e)
{
    struct turn r = { .g = g, .pool = pool, .progress = progress, .arg = arg, .cancel = cancel };
    if (g->is_pack)
        return err_set(e, HEARTH_EINVAL, "%s is a pack already", g->path);
    return turn_file(g, path, out, false, &r, e);
}

enum hearth_status pack_undo(const struct gguf *g, const char *out, struct pool *pool, weights_progress progress, void *arg,
                             const atomic_int *cancel, struct err *e)
{
    struct turn r = { .g = g, .pool = pool, .progress = progress, .arg = arg, .cancel = cancel };
    if (!g->is_pack)
        return err_set(e, HEARTH_EINVAL, "%s is not a pack", g->path);
    return turn_file(g, NULL, out, true, &r, e);
}

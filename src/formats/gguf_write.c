/* gguf_write.c: writes a GGUF file (version 3, little-endian): keys, tensor table, weights.
 *
 * How data moves: keys are serialised at once into one growing buffer, tensors are remembered;
 * gguf_begin_data lays the tensors out one behind the other (each on a multiple of the alignment) and writes
 * header, keys and table; then the weights stream through in the declared order and the gaps are filled with
 * zeros, behind the last tensor too, as other writers do. The file grows beside its final name and is renamed
 * by commit (base.h, outfile).
 *
 * Errors are sticky: the put functions return nothing, so that a caller writes thirty keys as thirty lines;
 * the first failure is kept and every later call does nothing until a call that can report it. The writer
 * refuses what the reader would refuse (limits, names, duplicates, sizes), so that hearth never writes a file
 * it cannot open.
 *
 * Costs: the metadata once in memory (at most LIMIT_GGUF_META_BYTES); weights are not buffered beyond stdio.
 * Left out: splits, big-endian hosts (the assertion below).
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "formats/gguf_private.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers are written as they lie in memory");

/* A name for the hash of duplicates: where it stands in the key buffer, or with its tensor. */
struct declared {
    struct str name;
    uint32_t type;
    uint32_t n_dims;
    uint64_t dims[LIMIT_TENSOR_DIMS];
    size_t size_bytes;
};

struct gguf_writer {
    struct outfile out;
    struct arena *arena;
    struct err err; /* the first failure */
    const char *path;
    struct buf kvs;     /* serialised */
    struct buf keys;    /* of struct str */
    struct buf tensors; /* of struct declared */
    uint32_t alignment;
    bool data_begun;
    size_t i_tensor;   /* the one being written */
    size_t done_bytes; /* of it */
};

static bool is_failed(const struct gguf_writer *w)
{
    return w->err.status != HEARTH_OK;
}

static enum hearth_status report(const struct gguf_writer *w, struct err *e)
{
    return is_failed(w) ? err_set(e, w->err.status, "%s", w->err.text) : HEARTH_OK;
}

static size_t n_keys(const struct gguf_writer *w)
{
    return w->keys.len / sizeof(struct str);
}

static size_t n_declared(const struct gguf_writer *w)
{
    return w->tensors.len / sizeof(struct declared);
}

static const struct declared *declared(const struct gguf_writer *w)
{
    return (const void *)w->tensors.data; /* malloc's alignment */
}

static void append(struct gguf_writer *w, struct buf *b, const void *p, size_t n)
{
    if (is_failed(w) || buf_append(b, p, n))
        return;
    if (b->max_bytes && n > b->max_bytes - b->len)
        err_set(&w->err, HEARTH_ELIMIT, "%s: the metadata is larger than the limit of %zu bytes", w->path,
                b->max_bytes);
    else
        err_set(&w->err, HEARTH_ENOMEM, "%s: no memory for its metadata", w->path);
}

enum hearth_status gguf_writer_open(struct gguf_writer **out, const char *path, struct arena *a,
                                    struct err *e)
{
    struct gguf_writer *w = ARENA_NEW(a, struct gguf_writer, 1);
    enum hearth_status st;
    *out = NULL;
    if (!w || !(w->path = arena_strndup(a, path, strlen(path))))
        return err_set(e, HEARTH_ENOMEM, "%s: no memory to write it", path);
    w->arena = a;
    w->alignment = 32;
    buf_init(&w->kvs, LIMIT_GGUF_META_BYTES);
    buf_init(&w->keys, 0);
    buf_init(&w->tensors, 0);
    st = outfile_open(&w->out, path, e);
    if (st == HEARTH_OK)
        *out = w;
    return st;
}

/* ---- keys ---- */

static bool check_name(struct gguf_writer *w, struct str name, size_t limit, const char *what)
{
    bool is_fine = name.n > 0 && name.n <= limit;
    for (size_t i = 0; i < name.n && is_fine; i++)
        is_fine = name.p[i] >= 0x20 && name.p[i] <= 0x7e;
    if (!is_fine)
        err_set(&w->err, HEARTH_EINVAL, "%s: %s '%.*s' must be 1 to %zu bytes of printable ASCII", w->path,
                what, STR_FMT(name), limit);
    return is_fine;
}

/* Key and kind; false when nothing may follow. */
static bool put_key(struct gguf_writer *w, struct str key, enum gguf_kind kind)
{
    struct str kept = { NULL, key.n };
    uint64_t n = key.n;
    uint32_t k = kind;
    if (is_failed(w) || !check_name(w, key, LIMIT_GGUF_KEY_BYTES, "key"))
        return false;
    if (w->data_begun)
        err_set(&w->err, HEARTH_EINVAL, "%s: key '%.*s' comes after the data has begun", w->path,
                STR_FMT(key));
    if (!(kept.p = arena_strndup(w->arena, key.p, key.n)))
        err_set(&w->err, HEARTH_ENOMEM, "%s: no memory for its metadata", w->path);
    if (n_keys(w) == LIMIT_GGUF_KEYS)
        err_set(&w->err, HEARTH_ELIMIT, "%s: more than %d keys", w->path, LIMIT_GGUF_KEYS);
    append(w, &w->keys, &kept, sizeof kept);
    append(w, &w->kvs, &n, 8);
    append(w, &w->kvs, key.p, key.n);
    append(w, &w->kvs, &k, 4);
    return !is_failed(w);
}

static void put_scalar(struct gguf_writer *w, struct str key, enum gguf_kind kind, const void *v)
{
    if (put_key(w, key, kind))
        append(w, &w->kvs, v, gguf_kinds[kind].bytes);
}

static void put_u32(struct gguf_writer *w, struct str key, uint32_t v)
{
    if (str_eqz(key, "general.alignment")) {
        if (v < LIMIT_GGUF_ALIGN_MIN || v > LIMIT_GGUF_ALIGN_MAX || (v & (v - 1)))
            err_set(&w->err, HEARTH_EINVAL,
                    "%s: general.alignment %" PRIu32 " must be a power of two from %d to %d", w->path, v,
                    LIMIT_GGUF_ALIGN_MIN, LIMIT_GGUF_ALIGN_MAX);
        else
            w->alignment = v;
    }
    put_scalar(w, key, GGUF_U32, &v);
}

static struct str z(const char *s)
{
    return (struct str){ s, strlen(s) };
}

void gguf_put_u32(struct gguf_writer *w, const char *key, uint32_t v)
{
    put_u32(w, z(key), v);
}

void gguf_put_u64(struct gguf_writer *w, const char *key, uint64_t v)
{
    put_scalar(w, z(key), GGUF_U64, &v);
}

void gguf_put_i32(struct gguf_writer *w, const char *key, int32_t v)
{
    put_scalar(w, z(key), GGUF_I32, &v);
}

void gguf_put_f32(struct gguf_writer *w, const char *key, float v)
{
    put_scalar(w, z(key), GGUF_F32, &v);
}

void gguf_put_bool(struct gguf_writer *w, const char *key, bool v)
{
    uint8_t byte = v;
    put_scalar(w, z(key), GGUF_BOOL, &byte);
}

static void put_string(struct gguf_writer *w, struct str key, struct str s)
{
    size_t limit = gguf_string_limit(key);
    uint64_t n = s.n;
    if (!is_failed(w) && s.n > limit)
        err_set(&w->err, HEARTH_ELIMIT, "%s: key '%.*s': a string of %zu bytes, the limit is %zu", w->path,
                STR_FMT(key), s.n, limit);
    append(w, &w->kvs, &n, 8);
    append(w, &w->kvs, s.p, s.n);
}

void gguf_put_str(struct gguf_writer *w, const char *key, struct str v)
{
    if (put_key(w, z(key), GGUF_STRING))
        put_string(w, z(key), v);
}

static bool put_array_head(struct gguf_writer *w, struct str key, enum gguf_kind kind, size_t n)
{
    uint64_t count = n;
    uint32_t k = kind;
    if (!put_key(w, key, GGUF_ARRAY))
        return false;
    CHECK(kind < GGUF_KIND_COUNT && kind != GGUF_ARRAY);
    if (n > LIMIT_GGUF_ARRAY_ELEMENTS)
        err_set(&w->err, HEARTH_ELIMIT, "%s: key '%.*s': an array of %zu values, the limit is %u", w->path,
                STR_FMT(key), n, LIMIT_GGUF_ARRAY_ELEMENTS);
    append(w, &w->kvs, &k, 4);
    append(w, &w->kvs, &count, 8);
    return !is_failed(w);
}

static void put_strs(struct gguf_writer *w, struct str key, const struct str *v, size_t n)
{
    if (put_array_head(w, key, GGUF_STRING, n))
        for (size_t i = 0; i < n && !is_failed(w); i++)
            put_string(w, key, v[i]);
}

void gguf_put_strs(struct gguf_writer *w, const char *key, const struct str *v, size_t n)
{
    put_strs(w, z(key), v, n);
}

static void put_array(struct gguf_writer *w, struct str key, enum gguf_kind kind, const void *v, size_t n)
{
    CHECK(kind != GGUF_STRING);
    if (put_array_head(w, key, kind, n))
        append(w, &w->kvs, v, n * gguf_kinds[kind].bytes);
}

void gguf_put_array(struct gguf_writer *w, const char *key, enum gguf_kind kind, const void *v, size_t n)
{
    put_array(w, z(key), kind, v, n);
}

static void put_array_of_strings(struct gguf_writer *w, struct str key, const struct gguf_array *v)
{
    struct gguf_strings s = gguf_strings(v);
    if (!put_array_head(w, key, GGUF_STRING, v->count))
        return;
    for (size_t i = 0; i < v->count; i++)
        put_string(w, key, gguf_next_string(&s));
}

void gguf_put_kv(struct gguf_writer *w, const struct gguf_kv *kv)
{
    float f32;
    uint8_t byte;
    switch (kv->kind) {
    case GGUF_U32:
        put_u32(w, kv->key, (uint32_t)kv->v.u);
        break;
    /* The low bytes come first, so the narrow ones are written from the wide one. */
    case GGUF_U8:
    case GGUF_U16:
    case GGUF_U64:
        put_scalar(w, kv->key, kv->kind, &kv->v.u);
        break;
    case GGUF_I8:
    case GGUF_I16:
    case GGUF_I32:
    case GGUF_I64:
        put_scalar(w, kv->key, kv->kind, &kv->v.i);
        break;
    case GGUF_F32:
        f32 = (float)kv->v.f;
        put_scalar(w, kv->key, GGUF_F32, &f32);
        break;
    case GGUF_F64:
        put_scalar(w, kv->key, GGUF_F64, &kv->v.f);
        break;
    case GGUF_BOOL:
        byte = kv->v.b;
        put_scalar(w, kv->key, GGUF_BOOL, &byte);
        break;
    case GGUF_STRING:
        if (put_key(w, kv->key, GGUF_STRING))
            put_string(w, kv->key, kv->v.s);
        break;
    case GGUF_ARRAY:
        if (kv->v.a.kind == GGUF_STRING)
            put_array_of_strings(w, kv->key, &kv->v.a);
        else
            put_array(w, kv->key, kv->v.a.kind, kv->v.a.data, kv->v.a.count);
        break;
    case GGUF_KIND_COUNT:
        CHECK(kv->kind < GGUF_KIND_COUNT);
    }
}

/* ---- tensors ---- */

void gguf_put_tensor(struct gguf_writer *w, struct str name, uint32_t type, uint32_t n_dims,
                     const uint64_t *dims)
{
    struct declared t = { .type = type, .n_dims = n_dims };
    char what[320];
    if (is_failed(w) || !check_name(w, name, LIMIT_GGUF_NAME_BYTES, "tensor"))
        return;
    snprintf(what, sizeof what, "%.200s: tensor '%.*s'", w->path, STR_FMT(name));
    if (w->data_begun)
        err_set(&w->err, HEARTH_EINVAL, "%s comes after the data has begun", what);
    else if (n_declared(w) == LIMIT_GGUF_TENSORS)
        err_set(&w->err, HEARTH_ELIMIT, "%s: more than %d tensors", w->path, LIMIT_GGUF_TENSORS);
    else if (tensor_extent(&t.size_bytes, type, n_dims, dims, what, &w->err) == HEARTH_OK) {
        t.name = (struct str){ arena_strndup(w->arena, name.p, name.n), name.n };
        memcpy(t.dims, dims, n_dims * sizeof *dims);
        if (!t.name.p)
            err_set(&w->err, HEARTH_ENOMEM, "%s: no memory", what);
        append(w, &w->tensors, &t, sizeof t);
    }
}

static void put_bytes(struct gguf_writer *w, const void *p, size_t n)
{
    if (!is_failed(w) && n && fwrite(p, 1, n, w->out.stream) != n)
        err_set(&w->err, HEARTH_EIO, "%s: cannot write: %s", w->path, strerror(errno));
}

/* Zeros up to the next multiple of the alignment, given how many bytes stand before. */
static void pad(struct gguf_writer *w, uint64_t at)
{
    static const uint8_t zeros[4096];
    size_t n = (size_t)(-at & (w->alignment - 1));
    while (n && !is_failed(w)) {
        size_t part = MIN(n, sizeof zeros);
        put_bytes(w, zeros, part);
        n -= part;
    }
}

static void check_duplicates(struct gguf_writer *w, const void *entries, size_t stride, size_t n,
                             const char *what)
{
    struct names names;
    if (is_failed(w) || n == 0)
        return;
    if (!names_init(&names, entries, stride, n, w->arena)) {
        err_set(&w->err, HEARTH_ENOMEM, "%s: no memory for its metadata", w->path);
        return;
    }
    for (size_t i = 0; i < n; i++)
        if (names_add(&names, i) != NAMES_NONE) {
            struct str s;
            memcpy(&s, (const char *)entries + i * stride, sizeof s);
            err_set(&w->err, HEARTH_EINVAL, "%s: %s '%.*s' was put twice", w->path, what, STR_FMT(s));
            return;
        }
}

static void put_table(struct gguf_writer *w, struct buf *table)
{
    uint64_t offset = 0;
    for (size_t i = 0; i < n_declared(w) && !is_failed(w); i++) {
        const struct declared *t = &declared(w)[i];
        uint64_t n = t->name.n, end;
        uint32_t type = t->type;
        append(w, table, &n, 8);
        append(w, table, t->name.p, t->name.n);
        append(w, table, &t->n_dims, 4);
        append(w, table, t->dims, t->n_dims * sizeof t->dims[0]);
        append(w, table, &type, 4);
        append(w, table, &offset, 8);
        if (__builtin_add_overflow(offset, t->size_bytes + (uint64_t)w->alignment - 1, &end) ||
            end > INT64_MAX)
            err_set(&w->err, HEARTH_EINVAL, "%s: its tensors are larger than a file can be", w->path);
        offset = end & ~(uint64_t)(w->alignment - 1);
    }
}

enum hearth_status gguf_begin_data(struct gguf_writer *w, struct err *e)
{
    uint64_t counts[2] = { n_declared(w), n_keys(w) };
    uint32_t version = 3;
    struct buf table;
    if (is_failed(w) || w->data_begun)
        return report(w, e);
    w->data_begun = true;
    buf_init(&table, 0);
    check_duplicates(w, w->keys.data, sizeof(struct str), n_keys(w), "key");
    check_duplicates(w, w->tensors.data, sizeof(struct declared), n_declared(w), "tensor");
    put_table(w, &table);
    if (!is_failed(w) && 24 + w->kvs.len + table.len > LIMIT_GGUF_META_BYTES)
        err_set(&w->err, HEARTH_ELIMIT, "%s: the metadata is larger than the limit of %zu bytes", w->path,
                LIMIT_GGUF_META_BYTES);
    put_bytes(w, "GGUF", 4);
    put_bytes(w, &version, 4);
    put_bytes(w, counts, sizeof counts);
    put_bytes(w, w->kvs.data, w->kvs.len);
    put_bytes(w, table.data, table.len);
    pad(w, 24 + w->kvs.len + table.len);
    buf_free(&table);
    buf_free(&w->kvs);
    return report(w, e);
}

enum hearth_status gguf_write_data(struct gguf_writer *w, const void *data, size_t bytes, struct err *e)
{
    const struct declared *t;
    if (is_failed(w))
        return report(w, e);
    if (!w->data_begun || (w->i_tensor == n_declared(w) && bytes)) {
        err_set(&w->err, HEARTH_EINVAL, "%s: data %s", w->path,
                w->data_begun ? "behind the last tensor" : "before gguf_begin_data");
        return report(w, e);
    }
    if (bytes == 0)
        return HEARTH_OK;
    t = &declared(w)[w->i_tensor];
    if (bytes > t->size_bytes - w->done_bytes) {
        err_set(&w->err, HEARTH_EINVAL, "%s: tensor '%.*s' has %zu bytes, more were written", w->path,
                STR_FMT(t->name), t->size_bytes);
        return report(w, e);
    }
    put_bytes(w, data, bytes);
    w->done_bytes += bytes;
    if (w->done_bytes == t->size_bytes) {
        pad(w, t->size_bytes); /* it began aligned */
        w->i_tensor++;
        w->done_bytes = 0;
    }
    return report(w, e);
}

static void release(struct gguf_writer *w)
{
    buf_free(&w->kvs);
    buf_free(&w->keys);
    buf_free(&w->tensors);
    outfile_abandon(&w->out);
}

enum hearth_status gguf_writer_commit(struct gguf_writer *w, struct err *e)
{
    enum hearth_status st = gguf_begin_data(w, e);
    if (st == HEARTH_OK && w->i_tensor != n_declared(w)) {
        const struct declared *t = &declared(w)[w->i_tensor];
        st = err_set(e, HEARTH_EINVAL, "%s: tensor '%.*s' got %zu of its %zu bytes", w->path,
                     STR_FMT(t->name), w->done_bytes, t->size_bytes);
    }
    if (st == HEARTH_OK)
        st = outfile_commit(&w->out, e);
    release(w);
    return st;
}

void gguf_writer_abandon(struct gguf_writer *w)
{
    if (w)
        release(w);
}

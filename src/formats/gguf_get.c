/* gguf_get.c: what callers ask an opened GGUF: entries by name, values of a kind and range; and
 * tensor_extent, the one computation of a tensor's size that every reader and writer uses.
 *
 * A getter never converts between numbers, strings and arrays: a value of another kind is a damaged file,
 * said in one sentence with the key and both kinds. Integers of any width and sign answer for one another
 * because writers differ in that and the range test follows anyway. "Absent" is not an error here: the caller
 * decides.
 *
 * tensor_extent guards against the classic overflow (dimensions whose product wraps to something small): the
 * product and the bytes are both kept below half of the address space, in 64 bits, whatever size_t is.
 */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "formats/gguf_private.h"

const struct gguf_kind_info gguf_kinds[GGUF_KIND_COUNT] = {
    [GGUF_U8] = { "u8", 1 },
    [GGUF_I8] = { "i8", 1 },
    [GGUF_U16] = { "u16", 2 },
    [GGUF_I16] = { "i16", 2 },
    [GGUF_U32] = { "u32", 4 },
    [GGUF_I32] = { "i32", 4 },
    [GGUF_F32] = { "f32", 4 },
    [GGUF_BOOL] = { "bool", 1 },
    [GGUF_STRING] = { "string", 8 /* at least */ },
    [GGUF_ARRAY] = { "array", 12 /* at least */ },
    [GGUF_U64] = { "u64", 8 },
    [GGUF_I64] = { "i64", 8 },
    [GGUF_F64] = { "f64", 8 },
};

size_t gguf_string_limit(struct str key)
{
    static const char prefix[] = "tokenizer.chat_template";
    bool is_template = key.n >= sizeof prefix - 1 && memcmp(key.p, prefix, sizeof prefix - 1) == 0;
    return is_template ? LIMIT_TEMPLATE_BYTES : LIMIT_GGUF_STRING_BYTES;
}

enum hearth_status tensor_extent(size_t *bytes, uint32_t type, uint32_t n_dims, const uint64_t *dims,
                                 const char *what, struct err *e)
{
    const struct type_info *info = type_info(type);
    const bool is_strips = type >= TYPE_R8;
    uint64_t n = 1, n_bytes;
    *bytes = 0;
    if (n_dims < 1 || n_dims > LIMIT_TENSOR_DIMS)
        return err_set(e, HEARTH_EDAMAGED, "%s: has %" PRIu32 " dimensions, 1 to %d are possible", what,
                       n_dims, LIMIT_TENSOR_DIMS);
    if (!info->name)
        return err_set(e, HEARTH_EUNSUPPORTED, "%s: is of type number %" PRIu32 ", which %s", what, type,
                       type < TYPE_COUNT ? "the format has withdrawn" : "is unknown");
    if (is_strips && n_dims != 2)
        return err_set(e, HEARTH_EDAMAGED, "%s: has %" PRIu32 " dimensions, but type %s is for matrices", what, n_dims, info->name);
    for (uint32_t d = 0; d < n_dims; d++) {
        uint64_t dim = dims[d];
        if (dim == 0)
            return err_set(e, HEARTH_EDAMAGED, "%s: dimension %" PRIu32 " is zero", what, d);
        if (is_strips && d == 1 && dim <= UINT64_MAX - R8_ROWS)
            dim = (dim + R8_ROWS - 1) / R8_ROWS * R8_ROWS;
        if (__builtin_mul_overflow(n, dim, &n))
            return err_set(e, HEARTH_EDAMAGED, "%s: its dimensions multiply to more than 2^64", what);
    }
    if (dims[0] % info->block_len)
        return err_set(e, HEARTH_EDAMAGED, "%s: rows of %" PRIu64 " values are not whole %s blocks of %d",
                       what, dims[0], info->name, info->block_len);
    /* Half of the address space, so that neither a count nor a pointer difference can turn negative. */
    if (n > PTRDIFF_MAX ||
        __builtin_mul_overflow(n / info->block_len, (uint64_t)info->block_bytes, &n_bytes) ||
        n_bytes > PTRDIFF_MAX)
        return err_set(e, HEARTH_EDAMAGED,
                       "%s: %" PRIu64 " values of type %s are more than memory can address", what, n,
                       info->name);
    *bytes = (size_t)n_bytes;
    return HEARTH_OK;
}

/* ---- strings of an array ---- */

struct gguf_strings gguf_strings(const struct gguf_array *a)
{
    if (a->kind != GGUF_STRING)
        return (struct gguf_strings){ 0 };
    return (struct gguf_strings){ a->data, a->data + a->n_bytes };
}

struct str gguf_next_string(struct gguf_strings *s)
{
    struct str text = { "", 0 };
    if (s->end - s->p < 8)
        return text;
    uint64_t n = load_le64(s->p);
    if (n > (uint64_t)(s->end - s->p - 8)) {
        s->p = s->end;
        return text;
    }
    text = (struct str){ (const char *)s->p + 8, (size_t)n };
    s->p += 8 + n;
    return text;
}

/* ---- looking up ---- */

const struct gguf_kv *gguf_find(const struct gguf *g, const char *key)
{
    const struct gguf_index *ix = g->index;
    size_t i = ix ? names_find(&ix->kvs, (struct str){ key, strlen(key) }) : NAMES_NONE;
    return i == NAMES_NONE ? NULL : &g->kvs[i];
}

const struct gguf_tensor *gguf_find_tensor(const struct gguf *g, const char *name)
{
    const struct gguf_index *ix = g->index;
    size_t i = ix ? names_find(&ix->tensors, (struct str){ name, strlen(name) }) : NAMES_NONE;
    return i == NAMES_NONE ? NULL : &g->tensors[i];
}

static enum hearth_status wrong_kind(const struct gguf *g, const struct gguf_kv *kv, const char *want,
                                     struct err *e)
{
    return err_set(e, HEARTH_EDAMAGED, "%s: key '%.*s': is of kind %s, it must be %s", g->path,
                   STR_FMT(kv->key), gguf_kinds[kv->kind].name, want);
}

enum hearth_status gguf_get_u64(const struct gguf *g, const char *key, uint64_t lo, uint64_t hi,
                                uint64_t *out, struct err *e)
{
    const struct gguf_kv *kv = gguf_find(g, key);
    uint64_t v;
    if (!kv)
        return HEARTH_ENOTFOUND;
    switch (kv->kind) {
    case GGUF_U8:
    case GGUF_U16:
    case GGUF_U32:
    case GGUF_U64:
        v = kv->v.u;
        break;
    case GGUF_I8:
    case GGUF_I16:
    case GGUF_I32:
    case GGUF_I64:
        if (kv->v.i < 0)
            return err_set(e, HEARTH_EDAMAGED,
                           "%s: key '%s': is %" PRId64 ", allowed is %" PRIu64 " to %" PRIu64, g->path, key,
                           kv->v.i, lo, hi);
        v = (uint64_t)kv->v.i;
        break;
    default:
        return wrong_kind(g, kv, "an integer", e);
    }
    if (v < lo || v > hi)
        return err_set(e, HEARTH_EDAMAGED, "%s: key '%s': is %" PRIu64 ", allowed is %" PRIu64 " to %" PRIu64,
                       g->path, key, v, lo, hi);
    *out = v;
    return HEARTH_OK;
}

enum hearth_status gguf_get_f64(const struct gguf *g, const char *key, double *out, struct err *e)
{
    const struct gguf_kv *kv = gguf_find(g, key);
    if (!kv)
        return HEARTH_ENOTFOUND;
    if (kv->kind != GGUF_F32 && kv->kind != GGUF_F64)
        return wrong_kind(g, kv, "f32 or f64", e);
    if (!isfinite(kv->v.f))
        return err_set(e, HEARTH_EDAMAGED, "%s: key '%s': is not a finite number", g->path, key);
    *out = kv->v.f;
    return HEARTH_OK;
}

enum hearth_status gguf_get_bool(const struct gguf *g, const char *key, bool *out, struct err *e)
{
    const struct gguf_kv *kv = gguf_find(g, key);
    if (!kv)
        return HEARTH_ENOTFOUND;
    if (kv->kind != GGUF_BOOL)
        return wrong_kind(g, kv, "bool", e);
    *out = kv->v.b;
    return HEARTH_OK;
}

enum hearth_status gguf_get_str(const struct gguf *g, const char *key, struct str *out, struct err *e)
{
    const struct gguf_kv *kv = gguf_find(g, key);
    if (!kv)
        return HEARTH_ENOTFOUND;
    if (kv->kind != GGUF_STRING)
        return wrong_kind(g, kv, "a string", e);
    *out = kv->v.s;
    return HEARTH_OK;
}

enum hearth_status gguf_get_array(const struct gguf *g, const char *key, enum gguf_kind kind,
                                  struct gguf_array *out, struct err *e)
{
    const struct gguf_kv *kv = gguf_find(g, key);
    if (!kv)
        return HEARTH_ENOTFOUND;
    if (kv->kind != GGUF_ARRAY)
        return wrong_kind(g, kv, "an array", e);
    if (kv->v.a.kind != kind)
        return err_set(e, HEARTH_EDAMAGED, "%s: key '%s': is an array of %s, it must be one of %s", g->path,
                       key, gguf_kinds[kv->v.a.kind].name, gguf_kinds[kind].name);
    *out = kv->v.a;
    return HEARTH_OK;
}

/* gguf.c: reads the directory of GGUF files: metadata and tensor table, alone or split over several files.
 *
 * Format (the ggml project's document "GGUF", version 3, little-endian; version 2 has the same layout):
 *   "GGUF"  u32 version  u64 n_tensors  u64 n_kvs
 *   n_kvs x     { string key, u32 kind, value }     string: u64 length, bytes
 *                                                   array: u32 kind, u64 count, values
 *   n_tensors x { string name, u32 n_dims, u64 dims[n_dims], u32 type, u64 offset }
 *   zeros to a multiple of general.alignment (32 when absent); offsets count from there.
 * Split files are whole GGUF files; the first holds the metadata, and split.no, split.count,
 * split.tensors.count tie them together (the metadata decides; file names only say where the others lie).
 *
 * How data moves: a reader takes bytes by position from a held descriptor through a small buffer. Values land in the
 * caller's arena: strings and short arrays as they stand, entries in tables, names in a hash (names.h). Arrays of
 * MAPPED_BYTES and more, in practice a vocabulary's, are looked at in a mapping and stay there: 400,000 strings cost a walk over
 * their lengths and no memory of this process. A mapping can change and shrink, so who reads such an array later tests what
 * it reads (gguf_next_string); when the file shrinks under this walk, the mapping's flag turns it into an error. The
 * weights are not touched.
 *
 * Invariants, whatever the file says: a take tests what is left first; a count is compared with the bytes
 * that are left, then with its limit, before memory is taken for it; the memory used is at most about three
 * times the metadata; each loop step consumes input; the first failure is sticky and its sentence is kept.
 * After gguf_open every tensor lies inside its file, aligned, of exactly tensor_extent() bytes, and overlaps
 * no other.
 *
 * Costs: one pass, one hash insertion per name, a sort only when tensors are not in file order.
 * Left out: version 1 (32-bit counts), big-endian files, nested arrays (nobody writes them), non-ASCII names.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/gguf_private.h"

/* ---- reader ---- */

enum { BUFFER_BYTES = 8192, MAPPED_BYTES = 4096, WILL_NEED_BYTES = 4 << 20 };

/* What is being read, for the sentence of a failure; put into words only then. */
enum place { IN_HEADER, IN_KEY, IN_TENSOR };

struct reader {
    const struct file *f;
    uint64_t pos;     /* of the next byte to be taken */
    size_t at, have;  /* buf[at, have) are the bytes from pos on */
    size_t meta_left; /* of LIMIT_GGUF_META_BYTES, for all splits together */
    enum place place;
    uint64_t i_item;       /* which key or tensor */
    struct str name;       /* of it, once known */
    enum hearth_status st; /* sticky */
    struct arena *arena;
    struct err *e;
    struct map map;        /* of f, once an array was long enough */
    bool is_pack;
    uint8_t buf[BUFFER_BYTES];
};

static const char *place_text(const struct reader *r, char out[128])
{
    const char *kind = r->place == IN_KEY ? "key" : "tensor";
    if (r->place == IN_HEADER)
        snprintf(out, 128, "header");
    else if (r->name.p)
        snprintf(out, 128, "%s '%.*s'", kind, (int)MIN(r->name.n, 100u), r->name.p);
    else
        snprintf(out, 128, "%s number %" PRIu64, kind, r->i_item);
    return out;
}

/* The end of a path too long for a sentence. */
static const char *path_tail(const char *path)
{
    size_t n = strlen(path);
    return path + (n > 160 ? n - 160 : 0);
}

/* Fails with "FILE: PLACE: SENTENCE"; the first failure stays. */
static void fail(struct reader *r, enum hearth_status st, const char *fmt, ...) PRINTF_LIKE(3, 4);
static void fail(struct reader *r, enum hearth_status st, const char *fmt, ...)
{
    char sentence[256], place[128];
    va_list args;
    if (r->st != HEARTH_OK)
        return;
    va_start(args, fmt);
    vsnprintf(sentence, sizeof sentence, fmt, args);
    va_end(args);
    r->st = err_set(r->e, st, "%s: %s: %s", path_tail(r->f->path), place_text(r, place), sentence);
}

static uint64_t bytes_left(const struct reader *r)
{
    return r->f->size_bytes - r->pos;
}

/* True when n more bytes may be taken; else the failure is set. */
static bool has_bytes(struct reader *r, uint64_t n)
{
    if (r->st != HEARTH_OK)
        return false;
    if (n > bytes_left(r))
        fail(r, HEARTH_EDAMAGED,
             "needs %" PRIu64 " bytes at byte %" PRIu64 ", but the file ends at byte %" PRIu64, n, r->pos,
             r->f->size_bytes);
    else if (n > r->meta_left)
        fail(r, HEARTH_ELIMIT, "the metadata is larger than the limit of %zu bytes", LIMIT_GGUF_META_BYTES);
    return r->st == HEARTH_OK;
}

/* n bytes to out; zeros after a failure. */
static void take(struct reader *r, void *out, size_t n)
{
    size_t from_buf = MIN(n, r->have - r->at), rest = n - from_buf;
    if (!has_bytes(r, n)) {
        memset(out, 0, n);
        return;
    }
    if (from_buf)
        memcpy(out, r->buf + r->at, from_buf);
    r->at += from_buf;
    r->pos += from_buf;
    if (rest >= BUFFER_BYTES) {
        r->st = file_read(r->f, (uint8_t *)out + from_buf, rest, r->pos, r->e);
        r->pos += rest;
    } else if (rest) {
        size_t fill = (size_t)MIN(bytes_left(r), (uint64_t)BUFFER_BYTES);
        r->at = r->have = 0;
        r->st = file_read(r->f, r->buf, fill, r->pos, r->e);
        if (r->st == HEARTH_OK) {
            memcpy((uint8_t *)out + from_buf, r->buf, rest);
            r->have = fill;
            r->at = rest;
            r->pos += rest;
        }
    }
    r->meta_left -= n;
    if (r->st != HEARTH_OK)
        memset(out, 0, n);
}

static uint64_t take_le(struct reader *r, size_t n)
{
    uint8_t b[8] = { 0 };
    take(r, b, n);
    return load_le64(b);
}

static uint32_t take_u32(struct reader *r)
{
    return (uint32_t)take_le(r, 4);
}

static uint64_t take_u64(struct reader *r)
{
    return take_le(r, 8);
}

static void no_memory(struct reader *r, uint64_t n)
{
    fail(r, HEARTH_ENOMEM, "no memory for %" PRIu64 " bytes", n);
}

/* n bytes into the arena; n is already known to be small enough for the limits. */
static const char *take_bytes(struct reader *r, size_t n)
{
    char *p;
    if (!has_bytes(r, n))
        return NULL;
    p = arena_push(r->arena, n ? n : 1, 1, 1);
    if (!p) {
        no_memory(r, n);
        return NULL;
    }
    take(r, p, n);
    return p;
}

static struct str take_string(struct reader *r, size_t limit, const char *what)
{
    struct str s = { "", 0 };
    uint64_t n = take_u64(r);
    const char *p;
    if (!has_bytes(r, n))
        return s;
    if (n > limit) {
        fail(r, HEARTH_ELIMIT, "%s of %" PRIu64 " bytes, the limit is %zu", what, n, limit);
        return s;
    }
    p = take_bytes(r, (size_t)n);
    if (r->st == HEARTH_OK)
        s = (struct str){ p, (size_t)n };
    return s;
}

/* Keys and tensor names are printable ASCII: they appear in messages and on terminals, and C strings find
 * them. */
static struct str take_name(struct reader *r, size_t limit, const char *what)
{
    struct str s = take_string(r, limit, what);
    if (r->st == HEARTH_OK && s.n == 0)
        fail(r, HEARTH_EDAMAGED, "%s is empty", what);
    for (size_t i = 0; r->st == HEARTH_OK && i < s.n; i++)
        if (s.p[i] < 0x20 || s.p[i] > 0x7e)
            fail(r, HEARTH_EDAMAGED, "%s holds byte 0x%02x, only printable ASCII is allowed", what,
                 (unsigned char)s.p[i]);
    return s;
}

/* ---- values ---- */

static enum gguf_kind take_kind(struct reader *r)
{
    uint32_t kind = take_u32(r);
    if (r->st == HEARTH_OK && kind >= GGUF_KIND_COUNT) {
        fail(r, HEARTH_EDAMAGED, "value kind %" PRIu32 " does not exist (0 to %d do)", kind,
             GGUF_KIND_COUNT - 1);
        kind = GGUF_U8;
    }
    return (enum gguf_kind)kind;
}

static void check_bools(struct reader *r, const uint8_t *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (b[i] > 1) {
            fail(r, HEARTH_EDAMAGED, "a bool holds %d, only 0 and 1 are allowed", b[i]);
            return;
        }
}

static bool map_file(struct reader *r)
{
    if (r->st == HEARTH_OK && !r->map.data) {
        file_will_need(r->f, r->pos, WILL_NEED_BYTES);
        r->st = map_open(&r->map, r->f, r->e);
    }
    return r->st == HEARTH_OK;
}

/* Goes on behind n bytes that were looked at in the mapping; has_bytes(r, n) holds. */
static void skip(struct reader *r, size_t n)
{
    r->pos += n;
    r->meta_left -= n;
    r->at = r->have = 0;
    if (map_is_damaged(&r->map))
        fail(r, HEARTH_EIO, "the file became shorter while it was read");
}

/* Walks over count strings; returns how many of them can be taken, and their bytes. */
static size_t measure_strings(const struct reader *r, size_t count, size_t limit, size_t *n_bytes)
{
    const uint8_t *begin = r->map.data + r->pos, *p = begin;
    size_t left = (size_t)MIN(bytes_left(r), (uint64_t)r->meta_left), i;
    for (i = 0; i < count && left >= 8; i++) {
        uint64_t n = load_le64(p);
        if (n > limit || n > left - 8)
            break;
        p += 8 + n;
        left -= 8 + (size_t)n;
    }
    *n_bytes = (size_t)(p - begin);
    return i;
}

static void take_strings(struct reader *r, struct gguf_array *v)
{
    size_t limit = gguf_string_limit(r->name), n;
    if (!map_file(r))
        return;
    v->data = r->map.data + r->pos;
    n = measure_strings(r, v->count, limit, &v->n_bytes);
    skip(r, v->n_bytes);
    if (n < v->count) { /* taking the next one says what is wrong */
        (void)take_string(r, limit, "an array holds a string");
        fail(r, HEARTH_EIO, "the file changed while it was read");
    }
}

static void take_scalars(struct reader *r, struct gguf_array *v)
{
    v->n_bytes = v->count * gguf_kinds[v->kind].bytes;
    if (v->n_bytes < MAPPED_BYTES) {
        v->data = (const uint8_t *)take_bytes(r, v->n_bytes);
    } else if (map_file(r)) {
        v->data = r->map.data + r->pos;
        skip(r, v->n_bytes);
    }
}

static void take_array(struct reader *r, struct gguf_array *v)
{
    uint64_t count, n_max;
    v->kind = take_kind(r);
    count = take_u64(r);
    if (r->st != HEARTH_OK)
        return;
    n_max = bytes_left(r) / gguf_kinds[v->kind].bytes;
    if (v->kind == GGUF_ARRAY) {
        fail(r, HEARTH_EUNSUPPORTED, "arrays inside arrays are not supported");
    } else if (count > n_max) {
        fail(r, HEARTH_EDAMAGED,
             "an array says it has %" PRIu64 " values of kind %s, but the file has room for %" PRIu64, count,
             gguf_kinds[v->kind].name, n_max);
    } else if (count > LIMIT_GGUF_ARRAY_ELEMENTS) {
        fail(r, HEARTH_ELIMIT, "an array of %" PRIu64 " values, the limit is %u", count,
             LIMIT_GGUF_ARRAY_ELEMENTS);
    } else if (has_bytes(r, count * gguf_kinds[v->kind].bytes)) {
        v->count = (size_t)count;
        if (v->kind == GGUF_STRING)
            take_strings(r, v);
        else
            take_scalars(r, v);
        if (v->kind == GGUF_BOOL && r->st == HEARTH_OK)
            check_bools(r, v->data, v->count);
    }
}

static void take_value(struct reader *r, struct gguf_kv *kv)
{
    uint64_t u = 0;
    uint8_t b;
    union {
        uint32_t u;
        float f;
    } f32;
    if (kv->kind != GGUF_STRING && kv->kind != GGUF_ARRAY)
        u = take_le(r, gguf_kinds[kv->kind].bytes);
    switch (kv->kind) {
    case GGUF_U8:
    case GGUF_U16:
    case GGUF_U32:
    case GGUF_U64:
        kv->v.u = u;
        break;
    case GGUF_I8:
        kv->v.i = (int8_t)u;
        break;
    case GGUF_I16:
        kv->v.i = (int16_t)u;
        break;
    case GGUF_I32:
        kv->v.i = (int32_t)u;
        break;
    case GGUF_I64:
        kv->v.i = (int64_t)u;
        break;
    case GGUF_F32:
        f32.u = (uint32_t)u;
        kv->v.f = (double)f32.f;
        break;
    case GGUF_F64:
        memcpy(&kv->v.f, &u, sizeof u);
        break;
    case GGUF_BOOL:
        b = (uint8_t)u;
        check_bools(r, &b, 1);
        kv->v.b = b == 1;
        break;
    case GGUF_STRING:
        kv->v.s = take_string(r, gguf_string_limit(r->name), "a string");
        break;
    case GGUF_ARRAY:
        take_array(r, &kv->v.a);
        break;
    case GGUF_KIND_COUNT:
        CHECK(kv->kind < GGUF_KIND_COUNT);
    }
}

/* ---- one file ---- */

/* What one file says before its tensor table. */
struct head {
    uint64_t n_tensors;
    uint32_t version, alignment;
    bool is_pack;
    struct gguf_kv *kvs;
    size_t n_kvs;
    struct names names;
};

static void check_magic(struct reader *r)
{
    char magic[4];
    take(r, magic, sizeof magic);
    if (r->st != HEARTH_OK || memcmp(magic, "GGUF", 4) == 0)
        return;
    /* Little-endian words 'ggml', 'ggmf', 'ggjt', 'ggla': what ggml wrote before GGUF. */
    if (memcmp(magic, "lmgg", 4) == 0 || memcmp(magic, "fmgg", 4) == 0 || memcmp(magic, "tjgg", 4) == 0 ||
        memcmp(magic, "algg", 4) == 0)
        fail(r, HEARTH_EUNSUPPORTED, "a ggml file from before GGUF; it has to be converted to GGUF");
    else
        fail(r, HEARTH_EDAMAGED, "not a GGUF file: it does not begin with the letters GGUF");
}

static void check_version(struct reader *r, uint32_t version)
{
    if (r->st != HEARTH_OK || version == 2 || version == 3)
        return;
    if (version == 1)
        fail(r, HEARTH_EUNSUPPORTED, "GGUF version 1 is not supported (2 and 3 are)");
    else if (version != 0 && (version & 0xffff) == 0)
        fail(r, HEARTH_EUNSUPPORTED, "a big-endian GGUF file is not supported (little-endian ones are)");
    else
        fail(r, HEARTH_EUNSUPPORTED, "GGUF version %" PRIu32 " is not supported (2 and 3 are)", version);
}

/* A count of items that take at least min_bytes each. */
static uint64_t take_count(struct reader *r, uint64_t min_bytes, uint64_t limit, const char *what)
{
    uint64_t n = take_u64(r);
    if (r->st != HEARTH_OK)
        return 0;
    if (n > bytes_left(r) / min_bytes)
        fail(r, HEARTH_EDAMAGED, "says there are %" PRIu64 " %s, but the file has room for %" PRIu64, n, what,
             bytes_left(r) / min_bytes);
    else if (n > limit)
        fail(r, HEARTH_ELIMIT, "%" PRIu64 " %s, the limit is %" PRIu64, n, what, limit);
    return r->st == HEARTH_OK ? n : 0;
}

/* Before the value is looked at, its kind is: a string read as a number was a hole elsewhere. */
static void read_alignment(struct reader *r, struct head *h)
{
    size_t i = names_find(&h->names, STR("general.alignment"));
    const struct gguf_kv *kv = i == NAMES_NONE ? NULL : &h->kvs[i];
    h->alignment = 32;
    if (!kv)
        return;
    r->name = kv->key;
    if (kv->kind != GGUF_U32)
        fail(r, HEARTH_EDAMAGED, "is of kind %s, it must be u32", gguf_kinds[kv->kind].name);
    else if (kv->v.u < LIMIT_GGUF_ALIGN_MIN || kv->v.u > LIMIT_GGUF_ALIGN_MAX || (kv->v.u & (kv->v.u - 1)))
        fail(r, HEARTH_EDAMAGED, "is %" PRIu64 ", it must be a power of two from %d to %d", kv->v.u,
             LIMIT_GGUF_ALIGN_MIN, LIMIT_GGUF_ALIGN_MAX);
    else
        h->alignment = (uint32_t)kv->v.u;
}

/* Strips of another layout would be read as nonsense; a file that names no layout has none. */
static void read_layout(struct reader *r, struct head *h)
{
    size_t i = names_find(&h->names, STR("hearth.layout"));
    const struct gguf_kv *kv = i == NAMES_NONE ? NULL : &h->kvs[i];
    if (!kv)
        return;
    r->name = kv->key;
    if (kv->kind != GGUF_STRING)
        fail(r, HEARTH_EDAMAGED, "is of kind %s, it must be a string", gguf_kinds[kv->kind].name);
    else if (!str_eqz(kv->v.s, LAYOUT_R8))
        fail(r, HEARTH_EUNSUPPORTED, "a pack of layout \"%.*s\"; this hearth knows " LAYOUT_R8 ": make it again from its source",
             (int)MIN(kv->v.s.n, 40u), kv->v.s.p);
    else
        h->is_pack = true;
}

static void read_kvs(struct reader *r, struct head *h)
{
    h->kvs = ARENA_NEW(r->arena, struct gguf_kv, h->n_kvs);
    if (!h->kvs || !names_init(&h->names, h->kvs, sizeof *h->kvs, h->n_kvs, r->arena)) {
        no_memory(r, h->n_kvs * sizeof *h->kvs);
        return;
    }
    for (size_t i = 0; i < h->n_kvs && r->st == HEARTH_OK; i++) {
        struct gguf_kv *kv = &h->kvs[i];
        r->place = IN_KEY;
        r->i_item = i;
        r->name = (struct str){ NULL, 0 };
        kv->key = take_name(r, LIMIT_GGUF_KEY_BYTES, "its name");
        if (r->st != HEARTH_OK)
            return;
        r->name = kv->key;
        kv->kind = take_kind(r);
        if (r->st == HEARTH_OK)
            take_value(r, kv);
        if (r->st == HEARTH_OK && names_add(&h->names, i) != NAMES_NONE)
            fail(r, HEARTH_EDAMAGED, "is there twice");
    }
}

static void read_head(struct reader *r, struct head *h)
{
    *h = (struct head){ .version = 0 };
    r->place = IN_HEADER;
    check_magic(r);
    h->version = take_u32(r);
    check_version(r, h->version);
    /* The shortest tensor entry: name of one byte, one dimension. The shortest key: one byte, a u8. */
    h->n_tensors = take_count(r, 8 + 1 + 4 + 8 + 4 + 8, LIMIT_GGUF_TENSORS, "tensors");
    h->n_kvs = (size_t)take_count(r, 8 + 1 + 4 + 1, LIMIT_GGUF_KEYS, "keys");
    if (r->st == HEARTH_OK)
        read_kvs(r, h);
    if (r->st == HEARTH_OK)
        read_alignment(r, h);
    if (r->st == HEARTH_OK)
        read_layout(r, h);
    r->is_pack = h->is_pack;
}

static void read_tensor(struct reader *r, struct gguf_tensor *t)
{
    char place[128], what[320];
    uint32_t type;
    t->name = take_name(r, LIMIT_GGUF_NAME_BYTES, "its name");
    if (r->st != HEARTH_OK)
        return;
    r->name = t->name;
    t->n_dims = take_u32(r);
    if (r->st == HEARTH_OK && (t->n_dims < 1 || t->n_dims > LIMIT_TENSOR_DIMS))
        fail(r, HEARTH_EDAMAGED, "has %" PRIu32 " dimensions, 1 to %d are possible", t->n_dims,
             LIMIT_TENSOR_DIMS);
    for (uint32_t d = 0; d < LIMIT_TENSOR_DIMS && r->st == HEARTH_OK; d++)
        t->dims[d] = d < t->n_dims ? take_u64(r) : 1;
    type = take_u32(r);
    t->offset = take_u64(r); /* from the start of the data until place_tensors */
    if (r->st != HEARTH_OK)
        return;
    if (type >= TYPE_R8 && !r->is_pack) {
        fail(r, HEARTH_EUNSUPPORTED, "is of type number %" PRIu32 ", which is unknown", type);
        return;
    }
    snprintf(what, sizeof what, "%s: %s", path_tail(r->f->path), place_text(r, place));
    r->st = tensor_extent(&t->size_bytes, type, t->n_dims, t->dims, what, r->e);
    t->type = type;
}

/* tensors[0..n) of this file; the earlier ones of other splits stand before them. */
static void read_tensors(struct reader *r, struct gguf_tensor *all, size_t i_first, size_t n, uint32_t i_file,
                         struct names *names)
{
    for (size_t i = i_first; i < i_first + n && r->st == HEARTH_OK; i++) {
        r->place = IN_TENSOR;
        r->i_item = i - i_first;
        r->name = (struct str){ NULL, 0 };
        read_tensor(r, &all[i]);
        all[i].i_file = i_file;
        if (r->st == HEARTH_OK && names_add(names, i) != NAMES_NONE)
            fail(r, HEARTH_EDAMAGED, "is there twice");
    }
}

/* ---- extents ---- */

static int by_offset(const void *a, const void *b)
{
    const struct gguf_tensor *const *x = a, *const *y = b;
    return ((*x)->offset > (*y)->offset) - ((*x)->offset < (*y)->offset);
}

/* Most files have their tensors in order; the others are sorted by pointer. */
static void check_overlaps(struct reader *r, const struct gguf_tensor *t, size_t n)
{
    const struct gguf_tensor **order;
    bool is_sorted = true;
    for (size_t i = 1; i < n && is_sorted; i++)
        is_sorted = t[i - 1].offset + t[i - 1].size_bytes <= t[i].offset;
    if (is_sorted)
        return;
    order = ARENA_NEW(r->arena, const struct gguf_tensor *, n);
    if (!order) {
        no_memory(r, n * sizeof *order);
        return;
    }
    for (size_t i = 0; i < n; i++)
        order[i] = &t[i];
    qsort(order, n, sizeof *order, by_offset);
    for (size_t i = 1; i < n && r->st == HEARTH_OK; i++) {
        r->name = order[i]->name;
        if (order[i - 1]->offset + order[i - 1]->size_bytes > order[i]->offset)
            fail(r, HEARTH_EDAMAGED,
                 "at byte %" PRIu64 " overlaps tensor '%.*s' of %zu bytes at byte %" PRIu64, order[i]->offset,
                 STR_FMT(order[i - 1]->name), order[i - 1]->size_bytes, order[i - 1]->offset);
    }
}

/* Offsets become absolute; each tensor inside the file, aligned, alone. The reader stands behind the table.
 */
static void place_tensors(struct reader *r, struct gguf_tensor *t, size_t n, uint32_t alignment)
{
    uint64_t start = (r->pos + alignment - 1) & ~(uint64_t)(alignment - 1), size = r->f->size_bytes;
    for (size_t i = 0; i < n && r->st == HEARTH_OK; i++) {
        r->name = t[i].name;
        if (t[i].offset % alignment)
            fail(r, HEARTH_EDAMAGED, "its offset %" PRIu64 " is not a multiple of the alignment %" PRIu32,
                 t[i].offset, alignment);
        else if (start > size || t[i].offset > size - start || t[i].size_bytes > size - start - t[i].offset)
            fail(r, HEARTH_EDAMAGED,
                 "%zu bytes at offset %" PRIu64
                 " of the data go past the end of the file (data from byte %" PRIu64 ", end at byte %" PRIu64
                 ")",
                 t[i].size_bytes, t[i].offset, start, size);
        t[i].offset += start;
    }
    if (r->st == HEARTH_OK)
        check_overlaps(r, t, n);
}

/* ---- splits ---- */

struct split {
    uint64_t no, count, n_tensors;
};

static const char part_pattern[] = "-00001-of-00001.gguf";
enum { PART_DIGITS = 5, PART_BYTES = sizeof part_pattern - 1 };

/* Whether the path ends like "-00002-of-00003.gguf". */
static bool is_part_name(const char *path)
{
    size_t n = strlen(path);
    if (n < PART_BYTES)
        return false;
    for (size_t i = 0; i < PART_BYTES; i++) {
        char want = part_pattern[i], is = path[n - PART_BYTES + i];
        if (want == '0' || want == '1' ? is < '0' || is > '9' : is != want)
            return false;
    }
    return true;
}

/* The path of part no (from 0), for a path that is_part_name. */
static char *part_path(struct arena *a, const char *path, uint64_t no, uint64_t count)
{
    size_t n = strlen(path), n_base = n - PART_BYTES;
    char *p = arena_strndup(a, path, n);
    if (p)
        snprintf(p + n_base, PART_BYTES + 1, "-%05u-of-%05u.gguf", (unsigned)(no + 1) % 100000u,
                 (unsigned)count % 100000u);
    return p;
}

/* An optional integer key of one file; the kind may be any integer kind (writers differ). */
static bool head_u64(struct reader *r, const struct head *h, const char *key, uint64_t hi, uint64_t *out)
{
    size_t i = names_find(&h->names, (struct str){ key, strlen(key) });
    const struct gguf_kv *kv = i == NAMES_NONE ? NULL : &h->kvs[i];
    if (!kv)
        return false;
    r->place = IN_KEY;
    r->name = kv->key;
    switch (kv->kind) {
    case GGUF_U8:
    case GGUF_U16:
    case GGUF_U32:
    case GGUF_U64:
        *out = kv->v.u;
        break;
    case GGUF_I8:
    case GGUF_I16:
    case GGUF_I32:
    case GGUF_I64:
        *out = kv->v.i < 0 ? UINT64_MAX : (uint64_t)kv->v.i;
        break;
    default:
        fail(r, HEARTH_EDAMAGED, "is of kind %s, it must be an integer", gguf_kinds[kv->kind].name);
        return false;
    }
    if (*out > hi)
        fail(r, HEARTH_EDAMAGED, "is out of its range 0 to %" PRIu64, hi);
    return r->st == HEARTH_OK;
}

static void read_split(struct reader *r, const struct head *h, struct split *s)
{
    bool has_no, has_total;
    *s = (struct split){ .count = 0 };
    if (!head_u64(r, h, "split.count", INT32_MAX, &s->count) || s->count <= 1)
        return;
    if (s->count > LIMIT_GGUF_SPLITS) {
        fail(r, HEARTH_ELIMIT, "%" PRIu64 " parts, the limit is %d", s->count, LIMIT_GGUF_SPLITS);
        return;
    }
    has_no = head_u64(r, h, "split.no", s->count - 1, &s->no);
    has_total = head_u64(r, h, "split.tensors.count", LIMIT_GGUF_TENSORS, &s->n_tensors);
    r->place = IN_HEADER;
    if (!has_no || !has_total)
        fail(r, HEARTH_EDAMAGED, "split.count says %" PRIu64 " parts, but %s is missing", s->count,
             has_no ? "split.tensors.count" : "split.no");
    else if (h->n_tensors > s->n_tensors)
        fail(r, HEARTH_EDAMAGED, "%" PRIu64 " tensors in one part, but split.tensors.count is %" PRIu64,
             h->n_tensors, s->n_tensors);
}

/* The first file is the right one to open, and its name tells where the others are. */
static void check_first_part(struct reader *r, const struct split *s, const char *path)
{
    char *first;
    if (s->count <= 1)
        return;
    r->place = IN_HEADER;
    if (!is_part_name(path)) {
        fail(r, HEARTH_EINVAL,
             "part %" PRIu64 " of %" PRIu64
             " of a split model, but the file name does not end in -%05u-of-%05u.gguf",
             s->no + 1, s->count, (unsigned)s->no + 1, (unsigned)s->count);
        return;
    }
    first = part_path(r->arena, path, 0, s->count);
    if (!first)
        no_memory(r, strlen(path));
    else if (s->no != 0)
        fail(r, HEARTH_EINVAL, "part %" PRIu64 " of %" PRIu64 " of a split model; open the first part, %s",
             s->no + 1, s->count, first);
    else if (strcmp(first, path) != 0)
        fail(r, HEARTH_EINVAL, "part 1 of %" PRIu64 " of a split model, so its name should be %s", s->count,
             first);
}

static void check_other_part(struct reader *r, const struct head *h, const struct split *want, uint64_t no)
{
    struct split s;
    read_split(r, h, &s);
    r->place = IN_HEADER;
    if (r->st == HEARTH_OK && (s.no != no || s.count != want->count || s.n_tensors != want->n_tensors))
        fail(r, HEARTH_EDAMAGED,
             "is part %" PRIu64 " of %" PRIu64 " with %" PRIu64 " tensors in all, expected was part %" PRIu64
             " of %" PRIu64 " with %" PRIu64,
             s.no + 1, s.count, s.n_tensors, no + 1, want->count, want->n_tensors);
}

/* ---- opening ---- */

static void reader_start(struct reader *r, const struct file *f)
{
    map_close(&r->map); /* what other parts say beside their tensors is only checked */
    r->f = f;
    r->pos = 0;
    r->at = r->have = 0;
    r->place = IN_HEADER;
}

static void read_other_parts(struct reader *r, struct gguf *g, struct gguf_tensor *all, const struct split *s,
                             struct gguf_index *ix)
{
    struct file *files = ARENA_NEW(r->arena, struct file, s->count);
    if (!files) {
        no_memory(r, s->count * sizeof *files);
        return;
    }
    files[0] = g->files[0]; /* the descriptor moves with it */
    g->files = files;
    for (uint64_t no = 1; no < s->count && r->st == HEARTH_OK; no++) {
        struct head h;
        char *path = part_path(r->arena, g->path, no, s->count);
        if (!path) {
            no_memory(r, strlen(g->path));
            return;
        }
        r->st = file_open(&files[no], path, r->e);
        if (r->st != HEARTH_OK)
            return;
        g->n_files++;
        reader_start(r, &files[no]);
        read_head(r, &h);
        if (r->st == HEARTH_OK)
            check_other_part(r, &h, s, no);
        if (r->st == HEARTH_OK && h.n_tensors > s->n_tensors - g->n_tensors)
            fail(r, HEARTH_EDAMAGED, "more tensors in the parts than split.tensors.count, %" PRIu64,
                 s->n_tensors);
        if (r->st != HEARTH_OK)
            return;
        read_tensors(r, all, g->n_tensors, (size_t)h.n_tensors, (uint32_t)no, &ix->tensors);
        place_tensors(r, all + g->n_tensors, (size_t)h.n_tensors, h.alignment);
        g->n_tensors += (size_t)h.n_tensors;
    }
    reader_start(r, &g->files[0]);
    if (r->st == HEARTH_OK && g->n_tensors != s->n_tensors)
        fail(r, HEARTH_EDAMAGED, "%zu tensors in all parts, but split.tensors.count is %" PRIu64,
             g->n_tensors, s->n_tensors);
}

static void read_all(struct reader *r, struct gguf *g)
{
    struct gguf_index *ix = ARENA_NEW(r->arena, struct gguf_index, 1);
    struct gguf_tensor *all;
    struct head h;
    struct split s;
    size_t n_all;
    read_head(r, &h);
    if (r->st == HEARTH_OK)
        read_split(r, &h, &s);
    if (r->st == HEARTH_OK)
        check_first_part(r, &s, g->path);
    if (r->st != HEARTH_OK)
        return;
    n_all = (size_t)(s.count > 1 ? s.n_tensors : h.n_tensors);
    all = ARENA_NEW(r->arena, struct gguf_tensor, n_all);
    if (!ix || !all || !names_init(&ix->tensors, all, sizeof *all, n_all, r->arena)) {
        no_memory(r, n_all * sizeof *all);
        return;
    }
    ix->kvs = h.names;
    g->index = ix;
    g->kvs = h.kvs;
    g->n_kvs = h.n_kvs;
    g->tensors = all;
    g->version = h.version;
    g->alignment = h.alignment;
    g->is_pack = h.is_pack;
    read_tensors(r, all, 0, (size_t)h.n_tensors, 0, &ix->tensors);
    place_tensors(r, all, (size_t)h.n_tensors, h.alignment);
    g->n_tensors = (size_t)h.n_tensors;
    g->map = r->map;
    r->map = (struct map){ .slot = -1 };
    if (r->st == HEARTH_OK && s.count > 1)
        read_other_parts(r, g, all, &s, ix);
}

enum hearth_status gguf_open(struct gguf *g, const char *path, struct arena *a, struct err *e)
{
    struct reader r = { .meta_left = LIMIT_GGUF_META_BYTES, .arena = a, .e = e };
    *g = (struct gguf){ .n_files = 0 };
    g->path = arena_strndup(a, path, strlen(path));
    g->files = ARENA_NEW(a, struct file, 1);
    if (!g->path || !g->files) {
        *g = (struct gguf){ .n_files = 0 };
        return err_set(e, HEARTH_ENOMEM, "%s: no memory to open it", path);
    }
    r.st = file_open(&g->files[0], path, e);
    if (r.st == HEARTH_OK) {
        g->n_files = 1;
        reader_start(&r, &g->files[0]);
        read_all(&r, g);
    }
    map_close(&r.map);
    if (r.st != HEARTH_OK)
        gguf_close(g);
    return r.st;
}

void gguf_close(struct gguf *g)
{
    map_close(&g->map);
    for (size_t i = 0; i < g->n_files; i++)
        file_close(&g->files[i]);
    *g = (struct gguf){ .n_files = 0 };
}

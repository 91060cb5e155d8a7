/* safetensors.c: reads the directory of Hugging Face checkpoints: one safetensors file, or a folder of them.
 *
 * Format (huggingface/safetensors, "Format"): u64 length n, little-endian; n bytes of JSON; then the data.
 *   { "NAME": { "dtype": "F16", "shape": [rows, columns], "data_offsets": [begin, end] }, ...,
 *     "__metadata__": { string: string } }
 * Offsets count from the first byte behind the JSON. A checkpoint of several files ("shards") has a
 * model.safetensors.index.json whose weight_map says which file holds which tensor.
 *
 * How data moves: the header is read by position into a scratch arena, scanned (json_scan) and parsed; names
 * and extents go to the caller's arena, the rest is freed. The weights are not touched.
 *
 * Invariants: header <= 16 MiB, depth <= 4, at most 65,536 tensors in all shards; every tensor's bytes are
 * exactly shape x dtype (tensor_extent); the tensors of a file follow one another without gap or overlap and
 * end where the file ends, so no byte is shared and none is hidden; names are unique over all shards; the
 * index and the shards name the same tensors; a shard's name is a plain file name beside the index.
 *
 * Costs: linear in the header but for a sort when the tensors are not in file order.
 * Left out: dtypes that hearth has no number for (U8, BOOL, F8 ...), tensors without elements, more than four
 * dimensions: all refused by name. The metadata is checked and dropped.
 */
#define _POSIX_C_SOURCE 200809L
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "formats/json.h"
#include "formats/names.h"

enum {
    HEADER_DEPTH = 4,
    /* An entry is an object, a string, two arrays, up to four dimensions and two offsets; then the metadata.
     */
    HEADER_VALUES = LIMIT_SAFETENSORS_ENTRIES * 12 + 65536,
    INDEX_VALUES = LIMIT_SAFETENSORS_ENTRIES * 2 + 65536,
    FILE_NAME_BYTES = 255,
};
static const char index_name[] = "model.safetensors.index.json", single_name[] = "model.safetensors";

/* Everything that one st_open carries along. */
struct opening {
    struct safetensors *s;
    struct st_tensor *tensors; /* [n_max], s->n_tensors are filled */
    size_t n_max;
    struct names *names;
    struct arena *arena;  /* the result */
    struct arena scratch; /* one header's or index's text */
    struct err *e;
};

static enum hearth_status no_memory(struct opening *o, const char *path)
{
    return err_set(o->e, HEARTH_ENOMEM, "%s: no memory for its directory", path);
}

/* Names appear in messages and become GGUF names: printable ASCII. */
static bool is_plain_name(const char *s, size_t n, size_t limit)
{
    if (n == 0 || n > limit)
        return false;
    for (size_t i = 0; i < n; i++)
        if (s[i] < 0x20 || s[i] > 0x7e)
            return false;
    return true;
}

/* ---- one entry ---- */

static enum tensor_type dtype(const char *name)
{
    static const enum tensor_type known[] = { TYPE_F32, TYPE_F16, TYPE_BF16, TYPE_F64,
                                              TYPE_I8,  TYPE_I16, TYPE_I32,  TYPE_I64 };
    for (size_t i = 0; i < ARRAY_LEN(known); i++)
        if (strcmp(type_info(known[i])->name, name) == 0)
            return known[i];
    return TYPE_COUNT;
}

static bool get_size(uint64_t *out, const json_t *v)
{
    if (!json_is_integer(v) || json_integer_value(v) < 0)
        return false;
    *out = (uint64_t)json_integer_value(v);
    return true;
}

static enum hearth_status read_shape(struct st_tensor *t, const json_t *shape, const char *what,
                                     struct err *e)
{
    size_t n = json_array_size(shape);
    if (!json_is_array(shape))
        return err_set(e, HEARTH_EDAMAGED, "%s: shape is not an array", what);
    if (n > LIMIT_TENSOR_DIMS)
        return err_set(e, HEARTH_EUNSUPPORTED, "%s: %zu dimensions, at most %d are supported", what, n,
                       LIMIT_TENSOR_DIMS);
    t->n_dims = (uint32_t)n;
    for (size_t i = 0; i < LIMIT_TENSOR_DIMS; i++) {
        t->dims[i] = 1;
        if (i < n && !get_size(&t->dims[i], json_array_get(shape, i)))
            return err_set(e, HEARTH_EDAMAGED, "%s: dimension %zu is not a whole number from 0 on", what, i);
        if (t->dims[i] == 0)
            return err_set(e, HEARTH_EUNSUPPORTED,
                           "%s: dimension %zu is 0; tensors without elements are not supported", what, i);
    }
    return HEARTH_OK;
}

static enum hearth_status read_offsets(struct st_tensor *t, const json_t *offsets, uint64_t n_data,
                                       const char *what, struct err *e)
{
    uint64_t begin, end;
    if (json_array_size(offsets) != 2 || !get_size(&begin, json_array_get(offsets, 0)) ||
        !get_size(&end, json_array_get(offsets, 1)))
        return err_set(e, HEARTH_EDAMAGED, "%s: data_offsets is not two whole numbers from 0 on", what);
    if (begin > end || end > n_data)
        return err_set(e, HEARTH_EDAMAGED,
                       "%s: data_offsets [%" PRIu64 ", %" PRIu64 "] do not lie in order inside the %" PRIu64
                       " bytes of data",
                       what, begin, end, n_data);
    if (end - begin != t->size_bytes)
        return err_set(e, HEARTH_EDAMAGED,
                       "%s: data_offsets [%" PRIu64 ", %" PRIu64 "] hold %" PRIu64
                       " bytes, its shape and dtype need %zu",
                       what, begin, end, end - begin, t->size_bytes);
    t->offset = begin;
    return HEARTH_OK;
}

static enum hearth_status read_entry(struct st_tensor *t, const json_t *entry, uint64_t n_data,
                                     const char *what, struct err *e)
{
    const char *type = json_string_value(json_object_get(entry, "dtype"));
    const json_t *shape = json_object_get(entry, "shape"), *offsets = json_object_get(entry, "data_offsets");
    enum hearth_status st;
    if (!json_is_object(entry) || json_object_size(entry) != 3 || !type || !shape || !offsets)
        return err_set(e, HEARTH_EDAMAGED,
                       "%s: an entry must have dtype (a string), shape and data_offsets, and nothing else",
                       what);
    t->type = dtype(type);
    if (t->type == TYPE_COUNT)
        return err_set(e, HEARTH_EUNSUPPORTED, "%s: dtype %.20s is not supported", what,
                       is_plain_name(type, strlen(type), 20) ? type : "(unreadable)");
    if ((st = read_shape(t, shape, what, e)) != HEARTH_OK)
        return st;
    /* A scalar is one value; plain types have no blocks, so the order of the dimensions does not matter. */
    if ((st = tensor_extent(&t->size_bytes, t->type, MAX(t->n_dims, 1), t->dims, what, e)) != HEARTH_OK)
        return st;
    return read_offsets(t, offsets, n_data, what, e);
}

/* ---- one file ---- */

static int by_offset(const void *a, const void *b)
{
    const struct st_tensor *const *x = a, *const *y = b;
    return ((*x)->offset > (*y)->offset) - ((*x)->offset < (*y)->offset);
}

/* The tensors of one file are exactly its data, in some order; offsets become absolute. */
static enum hearth_status check_cover(struct opening *o, const struct file *f, struct st_tensor *t, size_t n,
                                      uint64_t start)
{
    struct st_tensor **order = ARENA_NEW(&o->scratch, struct st_tensor *, n);
    uint64_t at = 0, n_data = f->size_bytes - start;
    if (!order)
        return no_memory(o, f->path);
    for (size_t i = 0; i < n; i++)
        order[i] = &t[i];
    qsort(order, n, sizeof *order, by_offset);
    for (size_t i = 0; i < n; i++) {
        if (order[i]->offset != at)
            return err_set(o->e, HEARTH_EDAMAGED,
                           "%s: tensor '%.*s': begins at byte %" PRIu64
                           " of the data, but the tensor before it ends at byte %" PRIu64 " (%s)",
                           f->path, STR_FMT(order[i]->name), order[i]->offset, at,
                           order[i]->offset < at ? "they overlap" : "a hole");
        at += order[i]->size_bytes;
        order[i]->offset += start;
    }
    if (at != n_data)
        return err_set(o->e, HEARTH_EDAMAGED,
                       "%s: the tensors end at byte %" PRIu64 " of %" PRIu64 " bytes of data", f->path, at,
                       n_data);
    return HEARTH_OK;
}

static enum hearth_status check_metadata(const struct file *f, const json_t *metadata, struct err *e)
{
    const char *key;
    const json_t *value;
    void *iter;
    if (!json_is_object(metadata))
        return err_set(e, HEARTH_EDAMAGED, "%s: __metadata__ is not an object", f->path);
    for (iter = json_object_iter((json_t *)(uintptr_t)metadata); iter;
         iter = json_object_iter_next((json_t *)(uintptr_t)metadata, iter)) {
        key = json_object_iter_key(iter);
        value = json_object_iter_value(iter);
        if (!json_is_string(value))
            return err_set(e, HEARTH_EDAMAGED, "%s: __metadata__: '%s' is not a string", f->path,
                           is_plain_name(key, strlen(key), 100) ? key : "(unreadable)");
    }
    return HEARTH_OK;
}

static enum hearth_status add_tensor(struct opening *o, const struct file *f, uint32_t i_file,
                                     const char *name, const json_t *entry, uint64_t n_data)
{
    struct safetensors *s = o->s;
    struct st_tensor *t;
    size_t n = strlen(name);
    char what[440];
    enum hearth_status st;
    if (!is_plain_name(name, n, LIMIT_GGUF_KEY_BYTES))
        return err_set(o->e, HEARTH_EDAMAGED, "%s: a tensor's name must be 1 to %d bytes of printable ASCII",
                       f->path, LIMIT_GGUF_KEY_BYTES);
    if (s->n_tensors == o->n_max)
        return err_set(o->e, HEARTH_EDAMAGED, "%s: more tensors than the index lists (%zu)", f->path,
                       o->n_max);
    t = &o->tensors[s->n_tensors];
    snprintf(what, sizeof what, "%.160s: tensor '%.200s'", f->path, name);
    if ((st = read_entry(t, entry, n_data, what, o->e)) != HEARTH_OK)
        return st;
    t->i_file = i_file;
    t->name = (struct str){ arena_strndup(o->arena, name, n), n };
    if (!t->name.p)
        return no_memory(o, f->path);
    if (names_add(o->names, s->n_tensors) != NAMES_NONE)
        return err_set(o->e, HEARTH_EDAMAGED, "%s: is in two files", what);
    s->n_tensors++;
    return HEARTH_OK;
}

/* The header's JSON object, from the scratch arena; *start is the first byte of the data. */
static enum hearth_status read_header(struct opening *o, const struct file *f, json_t **out, uint64_t *start)
{
    uint8_t head[8];
    uint64_t n;
    char *text;
    enum hearth_status st;
    *out = NULL;
    if (f->size_bytes < 8)
        return err_set(o->e, HEARTH_EDAMAGED, "%s: %" PRIu64 " bytes are too few for a safetensors file",
                       f->path, f->size_bytes);
    if ((st = file_read(f, head, 8, 0, o->e)) != HEARTH_OK)
        return st;
    n = load_le64(head);
    if (n > f->size_bytes - 8)
        return err_set(o->e, HEARTH_EDAMAGED,
                       "%s: a header of %" PRIu64 " bytes does not fit into the file's %" PRIu64, f->path, n,
                       f->size_bytes);
    if (n > LIMIT_SAFETENSORS_HEADER_BYTES)
        return err_set(o->e, HEARTH_ELIMIT, "%s: a header of %" PRIu64 " bytes, the limit is %zu", f->path, n,
                       LIMIT_SAFETENSORS_HEADER_BYTES);
    text = arena_push(&o->scratch, (size_t)n + 1, 1, 1);
    if (!text)
        return no_memory(o, f->path);
    if ((st = file_read(f, text, (size_t)n, 8, o->e)) != HEARTH_OK)
        return st;
    if (text[0] != '{')
        return err_set(o->e, HEARTH_EDAMAGED,
                       "%s: not a safetensors file: the header does not begin with '{'", f->path);
    if ((st = json_scan(text, (size_t)n, HEADER_DEPTH, HEADER_VALUES, f->path, o->e)) != HEARTH_OK)
        return st;
    *start = 8 + n;
    return json_parse(out, text, (size_t)n, f->path, o->e);
}

/* Room for the tensors; known from the index, or from the header of the only file. */
static enum hearth_status make_room(struct opening *o, const char *path, size_t n)
{
    if (n > LIMIT_SAFETENSORS_ENTRIES)
        return err_set(o->e, HEARTH_ELIMIT, "%s: %zu tensors, the limit is %d", path, n,
                       LIMIT_SAFETENSORS_ENTRIES);
    o->n_max = n;
    o->tensors = ARENA_NEW(o->arena, struct st_tensor, n);
    o->names = ARENA_NEW(o->arena, struct names, 1);
    if (!o->tensors || !o->names || !names_init(o->names, o->tensors, sizeof *o->tensors, n, o->arena))
        return no_memory(o, path);
    o->s->tensors = o->tensors;
    o->s->index = o->names;
    return HEARTH_OK;
}

static enum hearth_status read_file(struct opening *o, uint32_t i_file)
{
    const struct file *f = &o->s->files[i_file];
    size_t i_first = o->s->n_tensors;
    uint64_t start = 0;
    json_t *root;
    const json_t *metadata;
    enum hearth_status st = read_header(o, f, &root, &start);
    if (st != HEARTH_OK)
        return st;
    metadata = json_object_get(root, "__metadata__");
    if (metadata)
        st = check_metadata(f, metadata, o->e);
    if (st == HEARTH_OK && !o->tensors)
        st = make_room(o, f->path, json_object_size(root) - (metadata != NULL));
    for (void *i = json_object_iter(root); i && st == HEARTH_OK; i = json_object_iter_next(root, i))
        if (json_object_iter_value(i) != metadata)
            st = add_tensor(o, f, i_file, json_object_iter_key(i), json_object_iter_value(i),
                            f->size_bytes - start);
    if (st == HEARTH_OK)
        st = check_cover(o, f, o->tensors + i_first, o->s->n_tensors - i_first, start);
    json_decref(root);
    arena_reset(&o->scratch);
    return st;
}

static enum hearth_status add_file(struct opening *o, const char *path)
{
    enum hearth_status st = file_open(&o->s->files[o->s->n_files], path, o->e);
    if (st == HEARTH_OK)
        o->s->n_files++;
    return st;
}

static enum hearth_status open_single(struct opening *o, const char *path)
{
    enum hearth_status st;
    o->s->files = ARENA_NEW(o->arena, struct file, 1);
    if (!o->s->files)
        return no_memory(o, path);
    st = add_file(o, path);
    return st == HEARTH_OK ? read_file(o, 0) : st;
}

/* ---- a folder with an index ---- */

static char *join(struct arena *a, const char *dir, const char *name)
{
    size_t n = strlen(dir) + 1 + strlen(name) + 1;
    char *p = arena_push(a, n, 1, 1);
    if (p)
        snprintf(p, n, "%s/%s", dir, name);
    return p;
}

/* One file of the checkpoint. Begins with the name, for struct names. */
struct shard {
    struct str name;
};

static enum hearth_status check_shard_name(const char *path, const char *name, size_t n, struct err *e)
{
    if (is_plain_name(name, n, FILE_NAME_BYTES) && !memchr(name, '/', n) && !memchr(name, '\\', n) &&
        name[0] != '.')
        return HEARTH_OK;
    return err_set(e, HEARTH_EDAMAGED,
                   "%s: weight_map names a file that is not a plain file name in this folder", path);
}

/* The different file names of the weight_map, in its order. */
static enum hearth_status list_shards(struct opening *o, const char *path, json_t *map, struct shard **out,
                                      struct names *names, size_t *n_out)
{
    size_t n_max = json_object_size(map), n = 0;
    struct shard *shards = ARENA_NEW(o->arena, struct shard, n_max);
    enum hearth_status st;
    if (!shards || !names_init(names, shards, sizeof *shards, n_max, o->arena))
        return no_memory(o, path);
    for (void *i = json_object_iter(map); i; i = json_object_iter_next(map, i)) {
        const json_t *v = json_object_iter_value(i);
        struct str name = { json_string_value(v), json_string_length(v) };
        if (!name.p)
            return err_set(o->e, HEARTH_EDAMAGED, "%s: weight_map holds something else than file names",
                           path);
        if ((st = check_shard_name(path, name.p, name.n, o->e)) != HEARTH_OK)
            return st;
        if (names_find(names, name) != NAMES_NONE)
            continue;
        if (n == LIMIT_GGUF_SPLITS)
            return err_set(o->e, HEARTH_ELIMIT, "%s: more than %d files", path, LIMIT_GGUF_SPLITS);
        shards[n].name = (struct str){ arena_strndup(o->arena, name.p, name.n), name.n };
        if (!shards[n].name.p)
            return no_memory(o, path);
        names_add(names, n++);
    }
    *out = shards;
    *n_out = n;
    return HEARTH_OK;
}

/* Every tensor of the map is in the file the map says; the counts are equal, so no file holds another one. */
static enum hearth_status check_map(struct opening *o, const char *path, json_t *map,
                                    const struct names *shards)
{
    for (void *i = json_object_iter(map); i; i = json_object_iter_next(map, i)) {
        const char *name = json_object_iter_key(i);
        const json_t *v = json_object_iter_value(i);
        size_t i_tensor = names_find(o->names, (struct str){ name, strlen(name) });
        size_t i_shard = names_find(shards, (struct str){ json_string_value(v), json_string_length(v) });
        CHECK(i_shard != NAMES_NONE);
        if (i_tensor == NAMES_NONE || o->tensors[i_tensor].i_file != i_shard)
            return err_set(o->e, HEARTH_EDAMAGED,
                           "%s: tensor '%.100s' is not in %.100s, where weight_map says it is", path,
                           is_plain_name(name, strlen(name), LIMIT_GGUF_KEY_BYTES) ? name : "(unreadable)",
                           json_string_value(v));
    }
    return HEARTH_OK;
}

static enum hearth_status open_shards(struct opening *o, const char *dir, const char *path, json_t *map)
{
    struct names names;
    struct shard *shards = NULL;
    size_t n = 0;
    enum hearth_status st = list_shards(o, path, map, &shards, &names, &n);
    if (st == HEARTH_OK)
        st = make_room(o, path, json_object_size(map));
    if (st != HEARTH_OK)
        return st;
    o->s->files = ARENA_NEW(o->arena, struct file, n);
    if (!o->s->files)
        return no_memory(o, path);
    for (size_t i = 0; i < n && st == HEARTH_OK; i++) {
        char *shard_path = join(o->arena, dir, shards[i].name.p);
        if (!shard_path)
            return no_memory(o, path);
        st = add_file(o, shard_path);
        if (st == HEARTH_OK)
            st = read_file(o, (uint32_t)i);
    }
    return st == HEARTH_OK ? check_map(o, path, map, &names) : st;
}

static enum hearth_status open_index(struct opening *o, const char *dir, const char *path)
{
    char *text;
    size_t n;
    json_t *root = NULL, *map;
    enum hearth_status st = file_read_all(&text, &n, path, LIMIT_SAFETENSORS_HEADER_BYTES, &o->scratch, o->e);
    if (st == HEARTH_OK)
        st = json_scan(text, n, HEADER_DEPTH, INDEX_VALUES, path, o->e);
    if (st == HEARTH_OK)
        st = json_parse(&root, text, n, path, o->e);
    if (st != HEARTH_OK)
        return st;
    arena_reset(&o->scratch);
    map = json_object_get(root, "weight_map");
    if (json_object_size(map) == 0)
        st = err_set(o->e, HEARTH_EDAMAGED, "%s: no weight_map with tensors in it", path);
    else
        st = open_shards(o, dir, path, map);
    json_decref(root);
    return st;
}

/* ---- exported ---- */

static bool exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

static enum hearth_status open_any(struct opening *o, const char *path)
{
    struct stat info;
    const char *single, *index;
    if (stat(path, &info) != 0 || !S_ISDIR(info.st_mode))
        return open_single(o, path);
    single = join(o->arena, path, single_name);
    index = join(o->arena, path, index_name);
    if (!single || !index)
        return no_memory(o, path);
    if (exists(single))
        return open_single(o, single);
    if (exists(index))
        return open_index(o, path, index);
    return err_set(o->e, HEARTH_ENOTFOUND, "%s: neither %s nor %s is in this folder", path, single_name,
                   index_name);
}

enum hearth_status st_open(struct safetensors *s, const char *path, struct arena *a, struct err *e)
{
    struct opening o = { .s = s, .arena = a, .e = e };
    enum hearth_status st;
    *s = (struct safetensors){ .n_files = 0 };
    arena_init(&o.scratch, 0);
    st = open_any(&o, path);
    arena_free(&o.scratch);
    if (st != HEARTH_OK)
        st_close(s);
    return st;
}

void st_close(struct safetensors *s)
{
    for (size_t i = 0; i < s->n_files; i++)
        file_close(&s->files[i]);
    *s = (struct safetensors){ .n_files = 0 };
}

const struct st_tensor *st_find(const struct safetensors *s, const char *name)
{
    size_t i = s->index ? names_find(s->index, (struct str){ name, strlen(name) }) : NAMES_NONE;
    return i == NAMES_NONE ? NULL : &s->tensors[i];
}

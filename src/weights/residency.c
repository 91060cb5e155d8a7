/* residency.c: weights as mapped files, and as strips packed from them.
 *
 * Every file of a (split) GGUF is mapped read-only once; a struct tensor is a view into its mapping, with
 * the bytes that the directory's check has promised. The page cache decides what is in memory, so opening
 * costs nothing, several processes share one copy, and the bytes are those of the file.
 *
 *   directory entry {file, offset, size} --> map[file].data + offset --> struct tensor --pack--> strips
 *
 * Matrices that are multiplied with are packed to strips in memory of our own when the engine starts. It goes in pieces,
 * each on all threads; the pages of a piece are given back to the page cache, so that the process never
 * holds two copies. A pack (pack.c) has its matrices as strips already: they are used where they are mapped.
 *
 * Invariants: a tensor lies wholly inside its file (tested again here against the size the mapping has,
 * since the engine reads without further checks). Pins are counted per layer; they cost nothing and hold
 * nothing, but an unpin without its pin is a bug that other residencies would pay for, so it stops here.
 *
 * If a file is cut short while it is mapped, reads behind its end give zeros and a flag (base/os_linux.c);
 * weights_check turns the flag into one error, and it stays: the pages are zeros until the file is opened
 * anew.
 *
 * Left out on purpose: locking and huge pages (a later residency's business).
 */
#include "weights/weights.h"

#include "readahead.h"

#include <string.h>

struct weights {
    const struct gguf *g;
    struct map *maps;       /* [g->n_files] */
    struct tensor *tensors; /* [g->n_tensors], in the directory's order */
    struct strips {
        void *data;         /* NULL: not asked for */
        size_t strip_bytes, size_bytes;
    } *strips;              /* [g->n_tensors] */
    struct file_range *ranges; /* [g->n_tensors] in the order of use, for readahead */
    struct readahead *readahead;
    uint32_t n_pins[LIMIT_LAYERS + 1]; /* [0] is LAYER_GLOBAL */
    size_t bytes;
};

static enum hearth_status view_tensor(struct tensor *t, const struct gguf_tensor *src, const struct gguf *g,
                                      const struct map *maps, struct err *e)
{
    const struct map *m = &maps[src->i_file];
    size_t n_rows = 1;
    const bool is_strips = src->type >= TYPE_R8;
    *t = (struct tensor){ .name = src->name, .n_dims = src->n_dims, .size_bytes = src->size_bytes };
    t->type = (enum tensor_type)(is_strips ? src->type - TYPE_R8 : src->type);
    for (size_t i = 0; i < LIMIT_TENSOR_DIMS; i++) {
        t->dims[i] = i < src->n_dims ? (size_t)src->dims[i] : 1;
        if (i > 0 && !size_mul(&n_rows, n_rows, t->dims[i]))
            return err_set(e, HEARTH_EDAMAGED, "%s: tensor %.*s: its size overflows", g->path, STR_FMT(src->name));
    }
    if (src->offset > m->size_bytes || src->size_bytes > m->size_bytes - (size_t)src->offset)
        return err_set(e, HEARTH_EDAMAGED, "%s: tensor %.*s ends behind the end of the file (%zu bytes)",
                       g->files[src->i_file].path, STR_FMT(src->name), m->size_bytes);
    if (is_strips)
        CHECK(r8_strip_bytes(&t->strip_bytes, (uint32_t)t->type, t->dims[0]) && type_row_bytes(&t->row_bytes, (uint32_t)t->type, t->dims[0]));
    else
        t->row_bytes = n_rows ? src->size_bytes / n_rows : 0;
    t->data = m->data + src->offset;
    return HEARTH_OK;
}

enum hearth_status weights_open(struct weights **out, const struct gguf *g, struct arena *a, struct err *e)
{
    enum hearth_status st = HEARTH_OK;
    struct weights *w = ARENA_NEW(a, struct weights, 1);
    *out = NULL;
    if (!w || !(w->maps = ARENA_NEW(a, struct map, g->n_files)) ||
        !(w->tensors = ARENA_NEW(a, struct tensor, MAX(g->n_tensors, (size_t)1))) ||
        !(w->strips = ARENA_NEW(a, struct strips, MAX(g->n_tensors, (size_t)1))) ||
        !(w->ranges = ARENA_NEW(a, struct file_range, MAX(g->n_tensors, (size_t)1))))
        return err_set(e, HEARTH_ENOMEM, "%s: no memory for a table of %zu tensors", g->path, g->n_tensors);
    w->g = g;
    for (size_t i = 0; i < g->n_files; i++)
        w->maps[i] = (struct map){ .slot = -1 };
    for (size_t i = 0; i < g->n_files && st == HEARTH_OK; i++)
        st = map_open(&w->maps[i], &g->files[i], e);
    for (size_t i = 0; i < g->n_tensors && st == HEARTH_OK; i++) {
        st = view_tensor(&w->tensors[i], &g->tensors[i], g, w->maps, e);
        w->bytes += g->tensors[i].size_bytes; /* cannot overflow: disjoint parts of files that are mapped */
    }
    if (st != HEARTH_OK) {
        weights_close(w);
        return st;
    }
    *out = w;
    return HEARTH_OK;
}

void weights_close(struct weights *w)
{
    if (!w)
        return;
    readahead_close(w->readahead);
    for (size_t i = 0; i < w->g->n_tensors; i++)
        pages_free(w->strips[i].data, w->strips[i].size_bytes);
    for (size_t i = 0; i < w->g->n_files; i++)
        map_close(&w->maps[i]);
}

/* ---- strips ---- */

enum { PIECE_BYTES = 16 << 20, SLICE_BYTES = 128 << 10 };

enum hearth_status weights_strips(struct weights *w, const struct tensor *t, const void **strips, size_t *strip_bytes, struct err *e)
{
    struct strips *s = &w->strips[t - w->tensors];
    if (t->strip_bytes) {
        *strips = t->data;
        *strip_bytes = t->strip_bytes;
        return HEARTH_OK;
    }
    if (!s->data) {
        size_t n_strips = t->dims[1] / R8_ROWS + (t->dims[1] % R8_ROWS != 0);
        CHECK(r8_strip_bytes(&s->strip_bytes, (uint32_t)t->type, t->dims[0]));
        if (!size_mul(&s->size_bytes, n_strips, s->strip_bytes) || !(s->data = pages_alloc(s->size_bytes)))
            return err_set(e, HEARTH_ENOMEM, "%s: no memory to pack tensor %.*s", w->g->path, STR_FMT(t->name));
    }
    *strips = s->data;
    *strip_bytes = s->strip_bytes;
    return HEARTH_OK;
}

/* Some strips of one tensor, [begin, end). */
struct pack_job {
    const struct tensor *t;
    const struct strips *s;
    size_t begin, end, per_slice;
};

static void pack_slice(void *arg, size_t i_slice, size_t i_thread)
{
    const struct pack_job *j = arg;
    const struct tensor *t = j->t;
    size_t first = j->begin + i_slice * j->per_slice, last = MIN(first + j->per_slice, j->end);
    (void)i_thread;
    for (size_t i = first; i < last; i++)
        r8_pack((uint8_t *)j->s->data + i * j->s->strip_bytes, (const uint8_t *)t->data + i * R8_ROWS * t->row_bytes, t->row_bytes,
                MIN((size_t)R8_ROWS, t->dims[1] - i * R8_ROWS), t->type, t->dims[0]);
}

enum hearth_status weights_load(struct weights *w, struct pool *pool, weights_progress progress, void *arg, struct err *e)
{
    size_t n_done = 0, n_total = 0;
    for (size_t i = 0; i < w->g->n_tensors; i++)
        n_total += w->strips[i].data ? w->strips[i].size_bytes : 0;
    for (size_t i = 0; i < w->g->n_tensors; i++) {
        const struct tensor *t = &w->tensors[i];
        const struct strips *s = &w->strips[i];
        if (!s->data)
            continue;
        const size_t n_strips = s->size_bytes / s->strip_bytes, per_piece = MAX(PIECE_BYTES / s->strip_bytes, (size_t)1);
        for (size_t at = 0; at < n_strips; at += per_piece) {
            struct pack_job j = { t, s, at, MIN(at + per_piece, n_strips), MAX(SLICE_BYTES / s->strip_bytes, (size_t)1) };
            pool_run(pool, pack_slice, &j, (j.end - at + j.per_slice - 1) / j.per_slice);
            size_t begin = at * R8_ROWS * t->row_bytes, end = MIN(j.end * R8_ROWS, t->dims[1]) * t->row_bytes;
            weights_forget(w, i, begin, end - begin);
            n_done += (j.end - at) * s->strip_bytes;
            if (progress)
                progress(n_done, n_total, arg);
        }
    }
    return weights_check(w, e);
}

/* ---- a cold file ---- */

/* When a tensor is used: packing goes through the directory; a step through the layers, then the output. The embedding is
 * used first, a few rows of it, or last, when it is the output matrix too. */
static uint32_t turn_of(const struct weights *w, size_t i, bool is_tied)
{
    struct str name = w->g->tensors[i].name;
    uint32_t layer = 0;
    if (!w->g->is_pack)
        return 0;
    if (name.n < 5 || memcmp(name.p, "blk.", 4) != 0)
        return str_eqz(name, "token_embd.weight") && !is_tied ? UINT32_MAX : LIMIT_LAYERS;
    for (size_t k = 4; k < name.n && name.p[k] >= '0' && name.p[k] <= '9' && layer < LIMIT_LAYERS; k++)
        layer = layer * 10 + (uint32_t)(name.p[k] - '0');
    return MIN(layer, (uint32_t)LIMIT_LAYERS - 1);
}

void weights_read_ahead(struct weights *w)
{
    const bool is_tied = !gguf_find_tensor(w->g, "output.weight");
    struct file_range *ranges = w->ranges;
    size_t n_of_turn[LIMIT_LAYERS + 2] = { 0 }, n = 0;
    if (w->readahead)
        return;
    for (size_t i = 0; i < w->g->n_tensors; i++) { /* counting sort by turn; the directory's order within one */
        uint32_t turn = turn_of(w, i, is_tied);
        if (turn <= LIMIT_LAYERS)
            n_of_turn[turn + 1]++, n++;
    }
    for (size_t k = 1; k < ARRAY_LEN(n_of_turn); k++)
        n_of_turn[k] += n_of_turn[k - 1];
    for (size_t i = 0; i < w->g->n_tensors; i++) {
        const struct gguf_tensor *t = &w->g->tensors[i];
        uint32_t turn = turn_of(w, i, is_tied);
        if (turn <= LIMIT_LAYERS)
            ranges[n_of_turn[turn]++] = (struct file_range){ t->i_file, t->offset, t->size_bytes };
    }
    w->readahead = readahead_open(w->g->files, ranges, n);
}

const struct tensor *weights_find(const struct weights *w, const char *name)
{
    const struct gguf_tensor *t = gguf_find_tensor(w->g, name);
    return t ? &w->tensors[t - w->g->tensors] : NULL;
}

const struct tensor *weights_at(const struct weights *w, size_t i)
{
    CHECK(i < w->g->n_tensors);
    return &w->tensors[i];
}

enum hearth_status weights_pin(struct weights *w, int layer, struct err *e)
{
    (void)e;
    CHECK(layer >= LAYER_GLOBAL && layer < LIMIT_LAYERS);
    w->n_pins[layer + 1]++;
    return HEARTH_OK;
}

void weights_unpin(struct weights *w, int layer)
{
    CHECK(layer >= LAYER_GLOBAL && layer < LIMIT_LAYERS && w->n_pins[layer + 1] > 0);
    w->n_pins[layer + 1]--;
}

enum hearth_status weights_check(const struct weights *w, struct err *e)
{
    for (size_t i = 0; i < w->g->n_files; i++)
        if (map_is_damaged(&w->maps[i]))
            return err_set(e, HEARTH_EIO, "%s: became shorter while the model was running; open it again",
                           w->g->files[i].path);
    return HEARTH_OK;
}

void weights_forget(const struct weights *w, size_t i, size_t offset, size_t n)
{
    const struct gguf_tensor *t = &w->g->tensors[i];
    map_forget(&w->maps[t->i_file], (size_t)t->offset + offset, n);
}

size_t weights_bytes(const struct weights *w)
{
    return w->bytes;
}

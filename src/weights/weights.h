/* weights.h: where weights live while a model runs.
 *
 * A struct tensor is a checked view of one tensor as the file has it: type, shape, bytes. Products want matrices as r8
 * strips (kernels/r8.h): the engine asks for those it multiplies with (weights_strips), and weights_load makes them. weights_pin(layer)
 * makes the tensors of a layer readable until weights_unpin; with the residencies there are so far both are
 * free, but the engine calls them, so that streamed weights change nothing above.
 */
#ifndef HEARTH_WEIGHTS_H
#define HEARTH_WEIGHTS_H

#include <stdatomic.h>

#include "formats/formats.h"

struct tensor {
    struct str name;
    enum tensor_type type;
    size_t n_dims;
    size_t dims[LIMIT_TENSOR_DIMS]; /* dims[0] columns (k, contiguous), dims[1] rows */
    size_t row_bytes, size_bytes;
    size_t strip_bytes; /* of a pack's matrix, whose data are strips of eight rows (kernels/r8.h); 0: rows */
    const void *data;
};

enum { LAYER_GLOBAL = -1 }; /* embeddings, output, final norm */

struct weights; /* opaque; model lifetime */

/* Maps all files of g. g must outlive w. ENOMEM, EIO. */
MUST_CHECK enum hearth_status weights_open(struct weights **out, const struct gguf *g, struct arena *a, struct err *e);
void weights_close(struct weights *w); /* accepts NULL */
const struct tensor *weights_find(const struct weights *w, const char *name); /* NULL when absent */
const struct tensor *weights_at(const struct weights *w, size_t i); /* in the directory's order, i < g->n_tensors */
/* Where the strips of a matrix (dims[0] = k, dims[1] rows, a readable type) stand after weights_load: in a pack where they
 * are, else in memory of our own, reserved now (pages that cost nothing until they are written). Asking twice gives the same.
 * ENOMEM. */
MUST_CHECK enum hearth_status weights_strips(struct weights *w, const struct tensor *t, const void **strips, size_t *strip_bytes,
                                             struct err *e);
/* Packs what weights_strips reserved, on the pool's threads. Called once, before any step. progress (may be NULL) gets bytes.
 * ENOMEM is not possible: the memory is there. EIO when a file shrank. */
typedef void (*weights_progress)(size_t n_done, size_t n_total, void *arg);
MUST_CHECK enum hearth_status weights_load(struct weights *w, struct pool *pool, weights_progress progress, void *arg, struct err *e);
/* Starts reading the tensors from the disk in the order of their use, when the page cache is cold; weights_close ends it. Called
 * behind the last weights_strips, before weights_load. */
void weights_read_ahead(struct weights *w);
MUST_CHECK enum hearth_status weights_pin(struct weights *w, int layer, struct err *e);
void weights_unpin(struct weights *w, int layer);
/* After a step: HEARTH_EIO with a sentence if a file shrank under us while it was read. Free otherwise. */
MUST_CHECK enum hearth_status weights_check(const struct weights *w, struct err *e);
size_t weights_bytes(const struct weights *w); /* of all tensors */
/* Bytes [offset, offset + n) of tensor i will not be read soon: their pages need not count as this process's. */
void weights_forget(const struct weights *w, size_t i, size_t offset, size_t n);

/* ---- packs (pack.c): a GGUF whose matrices are strips already ---- */

/* What a pack remembers of the file it was made from. Equal: the same source, as far as its sizes, times and the first bytes
 * of each of its files tell. */
struct pack_source {
    uint64_t n_files, n_bytes, mtime_ns, head; /* all files' bytes, the newest time, a hash of how they begin */
};
MUST_CHECK enum hearth_status pack_source_of(struct pack_source *s, const struct file *files, size_t n_files, struct err *e);
/* What the pack g says; false when it does not. *path (may be NULL): where the source was. */
bool pack_source_read(struct pack_source *s, struct str *path, const struct gguf *g);

/* Bytes of the matrices that a pack of g would hold as strips; and of the whole file, nearly. */
size_t pack_matrix_bytes(const struct gguf *g);
uint64_t pack_file_bytes(const struct gguf *g);

/* Writes the pack of g: every key, every tensor in its order, matrices as strips, tensors on 4 KiB. path: where g is, to be
 * remembered. Threads of the pool pack; progress (may be NULL) gets bytes of tensors; *cancel (may be NULL) ends it. The file
 * appears whole or not at all. EINVAL when g is a pack, EIO, ENOMEM, ECANCELLED. */
MUST_CHECK enum hearth_status pack_write(const struct gguf *g, const char *path, const char *out, struct pool *pool,
                                         weights_progress progress, void *arg, const atomic_int *cancel, struct err *e);
/* The inverse: a plain GGUF (one file) with the tensors' bytes as they were. EINVAL when g is no pack. */
MUST_CHECK enum hearth_status pack_undo(const struct gguf *g, const char *out, struct pool *pool, weights_progress progress, void *arg,
                                        const atomic_int *cancel, struct err *e);

#endif

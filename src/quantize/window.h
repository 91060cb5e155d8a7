/* window.h: running one model over windows of a text and looking at its logits. Private to src/quantize.
 */
#ifndef HEARTH_WINDOW_H
#define HEARTH_WINDOW_H

#include "quantize/quantize.h"

/* One engine with K/V for one window, and room for some rows of logits. */
struct runner {
    struct engine *engine;
    struct kv_view view;
    uint8_t *kv;          /* all chunks in one piece */
    size_t kv_bytes;
    float *logits;        /* [max_rows, n_vocab] */
    size_t max_rows, n_vocab;
};
/* On failure *r is closed. */
MUST_CHECK enum hearth_status runner_open(struct runner *r, struct engine *en, size_t n_ctx, struct err *e);
void runner_close(struct runner *r); /* accepts a closed (zeroed) one */
void runner_restart(struct runner *r);
/* Appends n tokens, any number; no logits. */
MUST_CHECK enum hearth_status runner_skip(struct runner *r, const int32_t *tokens, size_t n, const atomic_int *cancel, struct err *e);
/* Appends n <= max_rows tokens; r->logits[i] follow token i. */
MUST_CHECK enum hearth_status runner_score(struct runner *r, const int32_t *tokens, size_t n, const atomic_int *cancel, struct err *e);

MUST_CHECK enum hearth_status check_ids(const int32_t *ids, size_t n, size_t n_vocab, struct err *e);

/* A text cut into windows. */
struct windows {
    struct ids ids;
    size_t n_ctx, n_windows, first; /* position of the first scored row: n_ctx / 2 */
};
MUST_CHECK enum hearth_status windows_open(struct windows *w, const struct tokenizer *t, const char *text, size_t n, size_t n_ctx,
                                const struct model_info *info, struct err *e);
void windows_close(struct windows *w);

#endif

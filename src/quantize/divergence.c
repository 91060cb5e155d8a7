/* divergence.c: how far one model's next-token distributions are from another's.
 *
 * KL(base || other) = sum_i p_i (ln p_i - ln q_i) at each scored position, p and q the softmaxes of both models on
 * the same tokens. It sees what perplexity hides: a quantised model may be wrong as often in the text's favour as
 * against it. Both engines go through the window in lockstep, so that only one batch of logits of each is held.
 *
 * Everything is in double; a tiny negative value of rounding is set to 0. Windows are those of perplexity.c.
 */
#include <math.h>

#include "quantize/window.h"

/* What one position adds. */
struct comparison { double kl, base_logprob, other_logprob; bool same_top; };

struct rows {
    const float *base, *other;
    const int32_t *next;
    size_t n_vocab;
    struct comparison *out;
};

static size_t top_of(const float *x, size_t n)
{
    size_t top = 0;
    for (size_t i = 1; i < n; i++)
        if (x[i] > x[top])
            top = i;
    return top;
}

/* ln sum exp(x - most) + most. */
static double log_total(const float *x, size_t n, double most)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += exp((double)x[i] - most);
    return most + log(sum);
}

static void compare_row(void *arg, size_t i_slice, size_t i_thread)
{
    const struct rows *r = arg;
    const float *p = r->base + i_slice * r->n_vocab, *q = r->other + i_slice * r->n_vocab;
    size_t top_p = top_of(p, r->n_vocab), top_q = top_of(q, r->n_vocab), next = (size_t)r->next[i_slice];
    double zp = log_total(p, r->n_vocab, (double)p[top_p]), zq = log_total(q, r->n_vocab, (double)q[top_q]), kl = 0;
    for (size_t i = 0; i < r->n_vocab; i++) {
        double lp = (double)p[i] - zp, lq = (double)q[i] - zq;
        kl += exp(lp) * (lp - lq);
    }
    r->out[i_slice] = (struct comparison){ fmax(kl, 0), (double)p[next] - zp, (double)q[next] - zq, top_p == top_q };
}

struct tally { double kl, kl_squares, kl_max, base, other; size_t n, n_same; };

static void add_up(struct tally *t, const struct comparison *c, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        t->kl += c[i].kl;
        t->kl_squares += c[i].kl * c[i].kl;
        t->kl_max = fmax(t->kl_max, c[i].kl);
        t->base -= c[i].base_logprob;
        t->other -= c[i].other_logprob;
        t->n_same += c[i].same_top;
    }
    t->n += n;
}

static void conclude(struct divergence *out, const struct tally *t, size_t n_windows)
{
    double n = (double)t->n, mean = t->kl / n, variance = t->kl_squares / n - mean * mean;
    *out = (struct divergence){
        .kl_mean = mean, .kl_max = t->kl_max, .same_top = (double)t->n_same / n, .base_ppl = exp(t->base / n),
        .other_ppl = exp(t->other / n), .n_tokens_scored = t->n, .n_windows = n_windows,
    };
    if (t->n > 1 && variance > 0)
        out->kl_error = sqrt(variance / (n - 1));
}

static enum hearth_status compare_window(struct tally *t, struct runner *base, struct runner *other, const struct windows *w,
                                         size_t i_window, struct comparison *scratch, const atomic_int *cancel, struct err *e)
{
    const int32_t *tokens = w->ids.v + i_window * w->n_ctx;
    size_t max_rows = MIN(base->max_rows, other->max_rows);
    enum hearth_status st;
    runner_restart(base);
    runner_restart(other);
    if ((st = runner_skip(base, tokens, w->first, cancel, e)) != HEARTH_OK ||
        (st = runner_skip(other, tokens, w->first, cancel, e)) != HEARTH_OK)
        return st;
    for (size_t i = w->first, part; i + 1 < w->n_ctx; i += part) {
        part = MIN(w->n_ctx - 1 - i, max_rows);
        if ((st = runner_score(base, tokens + i, part, cancel, e)) != HEARTH_OK ||
            (st = runner_score(other, tokens + i, part, cancel, e)) != HEARTH_OK)
            return st;
        struct rows rows = { base->logits, other->logits, tokens + i + 1, base->n_vocab, scratch };
        pool_run(engine_pool(base->engine), compare_row, &rows, part);
        add_up(t, scratch, part);
    }
    return HEARTH_OK;
}

enum hearth_status divergence_run(struct divergence *out, struct engine *base, struct engine *other, const struct tokenizer *t,
                                  const char *text, size_t n, size_t n_ctx, const atomic_int *cancel, struct progress p, struct err *e)
{
    const struct model_info *a = engine_info(base), *b = engine_info(other);
    struct windows w;
    struct runner runners[2] = { { .engine = NULL }, { .engine = NULL } };
    struct tally tally = { .n = 0 };
    struct arena arena;
    struct comparison *scratch;
    enum hearth_status st;
    if (a->n_vocab != b->n_vocab)
        return err_set(e, HEARTH_EINVAL, "the models have %zu and %zu tokens; only those with one vocabulary can be compared",
                       a->n_vocab, b->n_vocab);
    if ((st = windows_open(&w, t, text, n, n_ctx, a->n_ctx_max && (!b->n_ctx_max || a->n_ctx_max < b->n_ctx_max) ? a : b, e)) != HEARTH_OK)
        return st;
    arena_init(&arena, 0);
    if (!(scratch = ARENA_NEW(&arena, struct comparison, n_ctx)))
        st = err_set(e, HEARTH_ENOMEM, "no memory for the scores of %zu tokens", n_ctx);
    else if ((st = runner_open(&runners[0], base, n_ctx, e)) == HEARTH_OK)
        st = runner_open(&runners[1], other, n_ctx, e);
    for (size_t i = 0; st == HEARTH_OK && i < w.n_windows; i++) {
        char what[64];
        if ((st = compare_window(&tally, &runners[0], &runners[1], &w, i, scratch, cancel, e)) != HEARTH_OK)
            break;
        conclude(out, &tally, i + 1);
        snprintf(what, sizeof what, "divergence %.6f +/- %.6f", out->kl_mean, out->kl_error);
        if (p.fn)
            p.fn(what, i + 1, w.n_windows, p.arg);
    }
    runner_close(&runners[0]);
    runner_close(&runners[1]);
    windows_close(&w);
    arena_free(&arena);
    return st;
}

/* perplexity.c: how surprised a model is by a text.
 *
 * Perplexity is exp of the mean of -ln p(next token). The windowing is that of llama.cpp's tool, so that figures can
 * be compared: see perplexity_run in quantize.h. Its standard error takes the scored tokens as independent, which they
 * nearly are: sd(nll) / sqrt(n - 1), times the perplexity (the derivative of exp).
 *
 * The softmax is in double with libm's exp: figures agree to about 1e-12 between machines, not to the last bit.
 */
#include <math.h>
#include <string.h>

#include "quantize/window.h"

double logprob_of(const float *logits, size_t n, int32_t id)
{
    double most = (double)logits[0], sum = 0;
    CHECK(id >= 0 && (size_t)id < n);
    for (size_t i = 1; i < n; i++)
        most = fmax(most, (double)logits[i]);
    for (size_t i = 0; i < n; i++)
        sum += exp((double)logits[i] - most);
    return (double)logits[id] - most - log(sum);
}

/* Rows of one batch; workers take one row each. */
struct rows {
    const float *logits;
    const int32_t *next; /* the token after each row */
    size_t n_vocab;
    double *out;
};

static void logprob_row(void *arg, size_t i_slice, size_t i_thread)
{
    const struct rows *r = arg;
    r->out[i_slice] = logprob_of(r->logits + i_slice * r->n_vocab, r->n_vocab, r->next[i_slice]);
}

/* Log-probabilities of tokens[1..n) given what r holds and those before them. out[n - 1] */
static enum hearth_status score(double *out, struct runner *r, const int32_t *tokens, size_t n, const atomic_int *cancel, struct err *e)
{
    enum hearth_status st = HEARTH_OK;
    for (size_t i = 0, part; st == HEARTH_OK && i + 1 < n; i += part) {
        part = MIN(n - 1 - i, r->max_rows);
        if ((st = runner_score(r, tokens + i, part, cancel, e)) != HEARTH_OK)
            return st;
        struct rows rows = { r->logits, tokens + i + 1, r->n_vocab, out + i };
        pool_run(engine_pool(r->engine), logprob_row, &rows, part);
    }
    return st;
}

enum hearth_status logprobs_run(double *out, struct engine *en, const int32_t *tokens, size_t n, const atomic_int *cancel,
                                struct err *e)
{
    struct runner r;
    enum hearth_status st;
    if (n < 2)
        return err_set(e, HEARTH_EINVAL, "%zu tokens: at least 2 are needed to score one", n);
    if ((st = check_ids(tokens, n, engine_info(en)->n_vocab, e)) != HEARTH_OK || (st = runner_open(&r, en, n, e)) != HEARTH_OK)
        return st;
    st = score(out, &r, tokens, n, cancel, e);
    runner_close(&r);
    return st;
}

/* ---- windows ---- */

struct tally { double sum, sum_squares; size_t n; };

static void conclude(struct perplexity *out, const struct tally *t, size_t n_windows)
{
    double mean = t->sum / (double)t->n, variance = t->sum_squares / (double)t->n - mean * mean;
    *out = (struct perplexity){ .nll_sum = t->sum, .ppl = exp(mean), .n_tokens_scored = t->n, .n_windows = n_windows };
    if (t->n > 1 && variance > 0)
        out->ppl_error = out->ppl * sqrt(variance / (double)(t->n - 1));
}

static enum hearth_status score_window(struct tally *t, struct runner *r, const struct windows *w, size_t i_window, double *logprobs,
                                       const atomic_int *cancel, struct err *e)
{
    const int32_t *tokens = w->ids.v + i_window * w->n_ctx;
    enum hearth_status st;
    runner_restart(r);
    if ((st = runner_skip(r, tokens, w->first, cancel, e)) != HEARTH_OK ||
        (st = score(logprobs, r, tokens + w->first, w->n_ctx - w->first, cancel, e)) != HEARTH_OK)
        return st;
    for (size_t i = 0; i + 1 < w->n_ctx - w->first; i++) {
        t->sum -= logprobs[i];
        t->sum_squares += logprobs[i] * logprobs[i];
        t->n++;
    }
    return HEARTH_OK;
}

enum hearth_status perplexity_run(struct perplexity *out, struct engine *en, const struct tokenizer *t, const char *text, size_t n,
                                  size_t n_ctx, const atomic_int *cancel, struct progress p, struct err *e)
{
    struct windows w;
    struct runner r = { .engine = NULL };
    struct arena a;
    struct tally tally = { .n = 0 };
    double *logprobs;
    enum hearth_status st = windows_open(&w, t, text, n, n_ctx, engine_info(en), e);
    if (st != HEARTH_OK)
        return st;
    arena_init(&a, 0);
    if (!(logprobs = ARENA_NEW(&a, double, n_ctx)))
        st = err_set(e, HEARTH_ENOMEM, "no memory for the scores of %zu tokens", n_ctx);
    else
        st = runner_open(&r, en, n_ctx, e);
    for (size_t i = 0; st == HEARTH_OK && i < w.n_windows; i++) {
        char what[64];
        if ((st = score_window(&tally, &r, &w, i, logprobs, cancel, e)) != HEARTH_OK)
            break;
        conclude(out, &tally, i + 1);
        snprintf(what, sizeof what, "perplexity %.4f +/- %.4f", out->ppl, out->ppl_error);
        if (p.fn)
            p.fn(what, i + 1, w.n_windows, p.arg);
    }
    runner_close(&r);
    windows_close(&w);
    arena_free(&a);
    return st;
}

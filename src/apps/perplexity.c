/* perplexity.c: hearth perplexity MODEL FILE: how well a model predicts a text.
 *
 * exp of the mean negative log-likelihood per token. The windowing is that of the usual tools, so that the figures can
 * be compared: the text is cut into windows of the context length that do not overlap, the second half of each is scored
 * with the first half as its context, and a rest that fills no window is left out. The output says all that.
 *
 * With --kl both models read the same windows, and the mean Kullback-Leibler divergence of BASE's predictions from MODEL's
 * says what was lost between them: much finer than the difference of two perplexities.
 */
#include "apps/apps.h"

#include <string.h>

enum { TEXT_MAX_MIB = 256, USUAL_CTX = 512 };

struct perplexity_options {
    struct session_options model;
    const char *base;
    int format;
};
static const char *const formats[] = { "text", "json", NULL };
static const char *const kv_names[] = { "f16", "f32", NULL };
#define M(field) offsetof(struct perplexity_options, model.field)
static const struct option options[] = {
    { "ctx", 0, OPT_SIZE, M(n_ctx), "N", "tokens in a window (512, or what the model was trained for if less)", 2, LIMIT_CONTEXT },
    { "threads", 0, OPT_SIZE, M(n_threads), "N", "threads (one per CPU, or HEARTH_THREADS)", 1, LIMIT_THREADS },
    { "affinity", 0, OPT_STR, M(affinity), "CPUS", AFFINITY_HELP },
    { "power", 0, OPT_SIZE, M(power), "N", POWER_HELP, 1, 100 },
    { "kv", 0, OPT_CHOICE, M(kv_type), "f16|f32", "type of the K/V cache (f16)", 0, 0, kv_names },
    { "kl", 0, OPT_STR, offsetof(struct perplexity_options, base), "BASE", "also how far MODEL's predictions are from those of the model BASE" },
    { "format", 0, OPT_CHOICE, offsetof(struct perplexity_options, format), "text|json", "how to print the result", 0, 0, formats },
};

#define WINDOWING "non-overlapping windows, the second half of each scored"

static void print_windowing(const struct session *s, size_t n_windows, size_t n_ctx, size_t n_scored)
{
    printf("%zu windows of %zu tokens that do not overlap%s; the second half of each is scored, %zu tokens in all\n", n_windows, n_ctx,
           s->vocab.add_bos ? ", each with the begin token first" : "", n_scored);
}

static void print_result(const struct perplexity_options *o, const struct session *s, const struct perplexity *p, size_t n_ctx, uint64_t ns)
{
    double nll = p->n_tokens_scored ? p->nll_sum / (double)p->n_tokens_scored : 0;
    if (o->format) {
        json_t *j = json_pack("{s:o, s:f, s:f, s:f, s:I, s:I, s:I, s:s, s:f}", "model",
                              text_to_json((struct str){ s->path, strlen(s->path) }), "perplexity", p->ppl, "error", p->ppl_error,
                              "mean_nll", nll, "tokens_scored", (json_int_t)p->n_tokens_scored, "windows", (json_int_t)p->n_windows,
                              "window_tokens", (json_int_t)n_ctx, "windowing", WINDOWING, "seconds",
                              (double)ns * 1e-9);
        CHECK(j);
        json_dumpf(j, stdout, JSON_INDENT(1));
        printf("\n");
        json_decref(j);
        return;
    }
    printf("perplexity %.4f +/- %.4f\n", p->ppl, p->ppl_error);
    print_windowing(s, p->n_windows, n_ctx, p->n_tokens_scored);
}

static void print_divergence(const struct perplexity_options *o, const struct session *s, const struct session *base,
                             const struct divergence *d, size_t n_ctx)
{
    if (o->format) {
        json_t *j = json_pack("{s:o, s:o, s:f, s:f, s:f, s:f, s:f, s:f, s:I, s:I, s:I, s:s}", "model",
                              text_to_json((struct str){ s->path, strlen(s->path) }), "base",
                              text_to_json((struct str){ base->path, strlen(base->path) }), "perplexity", d->other_ppl, "base_perplexity",
                              d->base_ppl, "kl_mean", d->kl_mean, "kl_error", d->kl_error, "kl_max", d->kl_max, "same_top", d->same_top,
                              "tokens_scored", (json_int_t)d->n_tokens_scored, "windows", (json_int_t)d->n_windows, "window_tokens",
                              (json_int_t)n_ctx, "windowing", WINDOWING);
        CHECK(j);
        json_dumpf(j, stdout, JSON_INDENT(1));
        printf("\n");
        json_decref(j);
        return;
    }
    printf("perplexity %.4f, base %.4f\n", d->other_ppl, d->base_ppl);
    printf("divergence %.6f +/- %.6f nats per token, largest %.4f; the same best token at %.2f %%\n", d->kl_mean, d->kl_error, d->kl_max,
           100 * d->same_top);
    print_windowing(s, d->n_windows, n_ctx, d->n_tokens_scored);
}

static enum hearth_status measure(const struct perplexity_options *o, const char *model, const char *path, struct err *e)
{
    struct session s, base = { 0 };
    struct perplexity p;
    struct divergence d;
    struct bar bar;
    char *text;
    size_t n;
    struct session_options so = o->model;
    so.raw = true;
    so.no_pack = true; /* many files, once each */
    enum hearth_status st = session_open(&s, model, &so, e);
    if (st == HEARTH_OK && o->base)
        st = session_open(&base, o->base, &so, e);
    size_t n_ctx = o->model.n_ctx ? o->model.n_ctx : MIN(s.n_ctx, USUAL_CTX);
    if (st == HEARTH_OK)
        st = file_read_all(&text, &n, path, TEXT_MAX_MIB * MIB, &s.arena, e);
    if (st != HEARTH_OK)
        goto done;
    uint64_t begin = clock_ns();
    bar_open(&bar, "perplexity", "windows");
    if (o->base)
        st = divergence_run(&d, base.engine, s.engine, base.tokenizer, text, n, n_ctx, interrupts_catch(), bar_progress(&bar), e);
    else
        st = perplexity_run(&p, s.engine, s.tokenizer, text, n, n_ctx, interrupts_catch(), bar_progress(&bar), e);
    bar_close(&bar);
    if (st == HEARTH_OK && o->base)
        print_divergence(o, &s, &base, &d, n_ctx);
    else if (st == HEARTH_OK)
        print_result(o, &s, &p, n_ctx, clock_ns() - begin);
done:
    session_close(&base);
    session_close(&s);
    return st;
}

int verb_perplexity(int argc, char **argv)
{
    struct perplexity_options o = { 0 };
    const struct command c = {
        "perplexity", "MODEL.gguf TEXTFILE", "Measures how well a model predicts a text.",
        "Windows of the context length that do not overlap; the second half of each is scored, as the usual\n"
        "tools do. Figures compare only between models with the same vocabulary, at the same --ctx.",
        { { "Options", options, ARRAY_LEN(options), &o } }, 2, 2,
    };
    struct err e = { 0 };
    size_t n_args;
    int code = options_parse(&c, argc, argv, &n_args);
    if (code >= 0)
        return code;
    enum hearth_status st = measure(&o, argv[0], argv[1], &e);
    return st == HEARTH_OK ? finish_output("perplexity", EXIT_DONE) : fail("perplexity", st, &e);
}

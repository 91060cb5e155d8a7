/* bench_speculate.c: hearth bench MODEL --speculate TEXT: what guessing ahead gains and costs.
 *
 * Speed depends on how well the text can be guessed, and random weights say nothing that could be. So an answer is replayed:
 * TEXT holds a prompt and the answer a person gave, with a line of "====" between; without that line its first half is
 * the prompt. The prompt is computed, then the tokens of the answer are appended one by one, as if the sampler had picked them.
 * What is computed for each token is what a model that gives this answer would compute; only the picking is left out.
 *
 * Two contexts do that, one that guesses and one that does not. They take turns every TURN tokens, so that a machine that
 * drifts drifts for both, and which one begins alternates. Each round starts with new contexts, so the guessing one learns
 * the machine and the text anew; a conversation has that behind it after its first answers. With one thread its processor time
 * counts, which other programs on the machine do not lengthen (though the context, which decides by the wall's clock, sees them).
 *
 * Beside that, the time of a step over 1 to 16 tokens behind the first prompt, all with logits: what guesses cost.
 */
#include "apps/bench.h"

#include <stdlib.h>
#include <string.h>

enum { TURN = 16, N_DRAFT = 15 };
static const size_t widths[] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16 };

struct replay {
    const char *path;
    struct ids prompt, answer;
    struct series plain, ahead, gain; /* tokens/s without and with guesses; their ratio */
    struct draft_stats stats;         /* of the last round */
};
struct speculation {
    const struct bench_options *o;
    struct arena arena;
    struct gguf g;
    struct vocab vocab;
    struct tokenizer *tokenizer;
    struct engine *engine;
    struct replay replays[STR_LIST_MAX];
    struct series steps[ARRAY_LEN(widths)]; /* seconds */
    const atomic_int *cancel;
    struct bar bar;
    size_t n_done;
};

static uint64_t now_ns(const struct speculation *s)
{
    return pool_threads(engine_pool(s->engine)) == 1 ? clock_thread_ns() : clock_ns();
}

static double seconds_from(const struct speculation *s, uint64_t begin_ns)
{
    return (double)MAX(now_ns(s) - begin_ns, 1u) * 1e-9;
}

/* ---- texts ---- */

static enum hearth_status encode(struct speculation *s, const char *text, size_t n, unsigned flags, struct ids *out, const char *path,
                                 struct err *e)
{
    enum hearth_status st = tokenizer_encode(s->tokenizer, text, n, flags, NULL, 0, out, NULL, e);
    if (st == HEARTH_OK && out->n < 8)
        st = err_set(e, HEARTH_EINVAL, "%s: a prompt and an answer of at least 8 tokens each were expected", path);
    return st;
}

static enum hearth_status read_replay(struct speculation *s, struct replay *r, struct err *e)
{
    char *text;
    size_t n, n_prompt, answer;
    enum hearth_status st = file_read_all(&text, &n, r->path, MIB, &s->arena, e);
    if (st != HEARTH_OK)
        return st;
    const char *line = strstr(text, "\n====\n");
    n_prompt = line ? (size_t)(line - text) + 1 : n / 2;
    answer = line ? n_prompt + 5 : n_prompt;
    if ((st = encode(s, text, n_prompt, ENCODE_BOS, &r->prompt, r->path, e)) == HEARTH_OK)
        st = encode(s, text + answer, n - answer, 0, &r->answer, r->path, e);
    return st;
}

/* ---- measuring ---- */

/* The context of one run, behind its prompt. */
static enum hearth_status open_run(struct context **c, struct speculation *s, const struct replay *r, size_t n_draft, struct err *e)
{
    enum hearth_status st = context_open(c, s->engine, r->prompt.n + r->answer.n + 1, e);
    if (st == HEARTH_OK)
        st = context_speculate(*c, n_draft, e);
    if (st == HEARTH_OK)
        st = context_sync(*c, r->prompt.v, r->prompt.n, NULL, s->cancel, NULL, NULL, e);
    return st;
}

/* Tokens [first, first + TURN) of the answer; adds their seconds. */
static enum hearth_status take_turn(struct context *c, double *seconds, struct speculation *s, const struct replay *r, size_t first,
                                    size_t n_draft, struct err *e)
{
    size_t end = MIN(first + TURN, r->answer.n);
    enum hearth_status st = HEARTH_OK;
    uint64_t begin = now_ns(s);
    for (size_t i = first; i < end && st == HEARTH_OK; i++)
        st = context_append_ahead(c, r->answer.v[i], MIN(n_draft, r->answer.n - i - 1), s->cancel, e);
    *seconds += seconds_from(s, begin);
    return st;
}

static enum hearth_status replay(struct speculation *s, struct replay *r, size_t i_round, struct err *e)
{
    struct context *c[2] = { NULL, NULL };
    double seconds[2] = { 0, 0 };
    enum hearth_status st = HEARTH_OK;
    for (size_t k = 0; k < 2 && st == HEARTH_OK; k++)
        st = open_run(&c[k], s, r, k ? N_DRAFT : 0, e);
    for (size_t at = 0; at < r->answer.n && st == HEARTH_OK; at += TURN)
        for (size_t k = 0; k < 2 && st == HEARTH_OK; k++) {
            size_t which = (i_round + at / TURN + k) % 2;
            st = take_turn(c[which], &seconds[which], s, r, at, which ? N_DRAFT : 0, e);
        }
    if (st == HEARTH_OK) {
        double n = (double)r->answer.n;
        record(&r->plain, n / seconds[0]);
        record(&r->ahead, n / seconds[1]);
        record(&r->gain, seconds[0] / seconds[1]);
        r->stats = context_draft_stats(c[1]);
    }
    context_close(c[0]);
    context_close(c[1]);
    return st;
}

/* Guesses whatever: what they are does not change the time. */
static size_t draft_any(int32_t *draft, size_t max, const int32_t *history, size_t n, void *arg)
{
    for (size_t i = 0; i < max; i++)
        draft[i] = history[(n * 7 + i) % n];
    return max;
}

static enum hearth_status measure_steps(struct speculation *s, struct err *e)
{
    const struct replay *r = &s->replays[0];
    struct context *c = NULL;
    enum hearth_status st = open_run(&c, s, r, N_DRAFT, e);
    if (st == HEARTH_OK)
        context_draft_with(c, draft_any, NULL);
    for (size_t round = 0; round <= s->o->n_rounds && st == HEARTH_OK; round++) /* the first is not counted */
        for (size_t i = 0; i < ARRAY_LEN(widths) && st == HEARTH_OK; i++) {
            uint64_t begin = now_ns(s);
            st = context_append_ahead(c, r->answer.v[0], MIN(widths[i], r->answer.n) - 1, s->cancel, e);
            if (round)
                record(&s->steps[i], seconds_from(s, begin));
            context_truncate(c, r->prompt.n);
        }
    context_close(c);
    return st;
}

/* ---- the report ---- */

static void print_report(const struct speculation *s, const char *path)
{
    double one = spread_of(&s->steps[0]).median;
    size_t n_threads = pool_threads(engine_pool(s->engine));
    printf("model    %s, %zu threads%s; medians of %zu rounds (smallest to largest)\n\n", path, n_threads,
           n_threads == 1 ? " (its processor time)" : "", s->o->n_rounds);
    for (size_t i = 0; i < s->o->speculate.n; i++) {
        const struct replay *r = &s->replays[i];
        struct spread p = spread_of(&r->plain), a = spread_of(&r->ahead), g = spread_of(&r->gain);
        printf("%s: %zu tokens behind %zu\n  without %.2f tokens/s, with guesses %.2f: %.3f times (%.3f to %.3f)\n"
               "  %llu guessed, %llu of them right\n", r->path, r->answer.n, r->prompt.n, p.median, a.median, g.median, g.lo, g.hi,
               (unsigned long long)r->stats.n_drafted, (unsigned long long)r->stats.n_accepted);
    }
    printf("\n%-14s %9s  %s\n", "step over", "ms", "steps over one");
    for (size_t i = 0; i < ARRAY_LEN(widths); i++)
        printf("%4zu tokens    %9.2f  %.2f\n", widths[i], 1e3 * spread_of(&s->steps[i]).median, spread_of(&s->steps[i]).median / one);
}

static void print_json(const struct speculation *s, const char *path)
{
    json_t *texts = json_array(), *steps = json_array();
    for (size_t i = 0; i < s->o->speculate.n; i++) {
        const struct replay *r = &s->replays[i];
        json_array_append_new(texts, json_pack("{s:o, s:I, s:I, s:o, s:o, s:o, s:I, s:I}", "text", text_to_json((struct str){ r->path, strlen(r->path) }),
                                               "prompt_tokens", (json_int_t)r->prompt.n, "answer_tokens", (json_int_t)r->answer.n,
                                               "plain_tokens_per_s", json_spread(&r->plain), "tokens_per_s", json_spread(&r->ahead), "gain",
                                               json_spread(&r->gain), "drafted", (json_int_t)r->stats.n_drafted, "accepted",
                                               (json_int_t)r->stats.n_accepted));
    }
    for (size_t i = 0; i < ARRAY_LEN(widths); i++)
        json_array_append_new(steps, json_pack("{s:I, s:o}", "tokens", (json_int_t)widths[i], "seconds", json_spread(&s->steps[i])));
    json_t *root = json_pack("{s:o, s:s, s:I, s:I, s:o, s:o}", "model", text_to_json((struct str){ path, strlen(path) }), "cpu", bench_cpu_name(),
                             "threads", (json_int_t)pool_threads(engine_pool(s->engine)), "rounds", (json_int_t)s->o->n_rounds, "texts", texts,
                             "steps", steps);
    CHECK(root);
    json_dumpf(root, stdout, JSON_INDENT(1));
    printf("\n");
    json_decref(root);
}

/* ---- the whole ---- */

static enum hearth_status set_up(struct speculation *s, const char *path, struct err *e)
{
    const struct bench_options *o = s->o;
    struct engine_options eo = { .n_threads = o->n_threads, .affinity = o->affinity, .power = (unsigned)o->power, .kv_type = (enum kv_type)o->kv };
    enum hearth_status st = packs_open(&s->g, path, o->no_pack, o->n_threads, &s->arena, e);
    if (st == HEARTH_OK)
        st = vocab_from_gguf(&s->vocab, &s->g, &s->arena, e);
    if (st == HEARTH_ENOTFOUND)
        st = err_set(e, HEARTH_EUNSUPPORTED, "%s: holds no vocabulary to read a text with", path);
    if (st == HEARTH_OK)
        st = tokenizer_open(&s->tokenizer, &s->vocab, &s->arena, e);
    for (size_t i = 0; i < o->speculate.n && st == HEARTH_OK; i++) {
        s->replays[i].path = o->speculate.v[i];
        st = read_replay(s, &s->replays[i], e);
    }
    if (st == HEARTH_OK)
        st = engine_open(&s->engine, &s->g, &eo, e);
    return st;
}

static void tear_down(struct speculation *s)
{
    for (size_t i = 0; i < STR_LIST_MAX; i++) {
        ids_free(&s->replays[i].prompt);
        ids_free(&s->replays[i].answer);
    }
    engine_close(s->engine);
    tokenizer_close(s->tokenizer);
    gguf_close(&s->g);
    arena_free(&s->arena);
}

enum hearth_status bench_speculate(const struct bench_options *o, const char *path, struct err *e)
{
    struct speculation *s = calloc(1, sizeof *s);
    if (!s)
        return err_set(e, HEARTH_ENOMEM, "out of memory");
    s->o = o;
    arena_init(&s->arena, 0);
    enum hearth_status st = set_up(s, path, e);
    s->cancel = interrupts_catch();
    bar_open(&s->bar, "bench", "steps");
    if (st == HEARTH_OK)
        st = measure_steps(s, e);
    for (size_t round = 0; round < o->n_rounds && st == HEARTH_OK; round++)
        for (size_t i = 0; i < o->speculate.n && st == HEARTH_OK; i++) {
            st = replay(s, &s->replays[i], round, e);
            bar_update(&s->bar, o->speculate.v[i], ++s->n_done, o->n_rounds * o->speculate.n);
        }
    bar_close(&s->bar);
    if (st == HEARTH_OK && o->json)
        print_json(s, path);
    else if (st == HEARTH_OK)
        print_report(s, path);
    tear_down(s);
    free(s);
    return st;
}

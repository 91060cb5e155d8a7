/* bench_start.c: hearth bench --start MODEL: how long it takes until the first token, step by step.
 *
 * Warm: the file is in the page cache, as for every start but the first after boot. Cold: its pages are dropped before
 * (file_forget: of this file only, no privilege needed), and the same bytes are then read once more, plainly, from front to
 * back: what the disk can do. A cold start reads all weights before the first token, so it can at best take as long.
 * All in one process and in alternation, as the other measurements; the prompt has eight tokens, so that computing is
 * short beside reading. Where pages cannot be dropped (files in memory, mapped by others), the cold figures are warm ones: then
 * the share of bytes that were in the cache all the same is said.
 */
#include "apps/bench.h"

#include <stdlib.h>
#include <string.h>

enum { PROMPT_TOKENS = 8, READ_BYTES = 4 << 20, PROBE_EVERY = 1 << 20 };

/* Seconds since the start of the verb's work. */
struct start { double directory, vocabulary, engine, first_token; };

static enum hearth_status start_once(struct start *s, const char *path, const struct bench_options *o, struct err *e)
{
    struct engine_options eo = { .n_threads = o->n_threads, .kv_type = (enum kv_type)o->kv };
    struct engine *en = NULL;
    struct context *c = NULL;
    struct tokenizer *t = NULL;
    struct vocab v;
    struct arena a;
    struct gguf g;
    int32_t tokens[PROMPT_TOKENS] = { 0 };
    uint64_t begin = clock_ns();
    arena_init(&a, 0);
    enum hearth_status st = packs_open(&g, path, o->no_pack, o->n_threads, &a, e);
    s->directory = seconds_since(begin);
    if (st == HEARTH_OK && (st = vocab_from_gguf(&v, &g, &a, e)) == HEARTH_OK)
        st = tokenizer_open(&t, &v, &a, e);
    s->vocabulary = seconds_since(begin);
    if (st == HEARTH_OK && (st = engine_open(&en, &g, &eo, e)) == HEARTH_OK)
        st = context_open(&c, en, PROMPT_TOKENS, e);
    s->engine = seconds_since(begin);
    for (size_t i = 0; st == HEARTH_OK && i < PROMPT_TOKENS; i++)
        tokens[i] = (int32_t)(i % engine_info(en)->n_vocab);
    if (st == HEARTH_OK)
        st = context_sync(c, tokens, PROMPT_TOKENS, NULL, interrupts_catch(), NULL, NULL, e);
    s->first_token = seconds_since(begin);
    context_close(c);
    engine_close(en);
    tokenizer_close(t);
    gguf_close(&g);
    arena_free(&a);
    return st;
}

/* Drops the files from the page cache; *left: the share of places looked at that are there all the same. */
static void forget(const struct gguf *g, double *left)
{
    size_t n = 0, n_left = 0;
    for (size_t i = 0; i < g->n_files; i++)
        file_forget(&g->files[i]);
    for (size_t i = 0; i < g->n_files; i++)
        for (uint64_t at = 0; at < g->files[i].size_bytes; at += PROBE_EVERY, n++)
            n_left += file_is_cached(&g->files[i], at);
    *left = n ? (double)n_left / (double)n : 0;
}

static enum hearth_status read_plainly(double *seconds, const struct gguf *g, struct err *e)
{
    uint64_t begin = clock_ns();
    enum hearth_status st = HEARTH_OK;
    uint8_t *buffer = malloc(READ_BYTES);
    if (!buffer)
        return err_set(e, HEARTH_ENOMEM, "no memory to read a file");
    for (size_t i = 0; i < g->n_files; i++)
        for (uint64_t at = 0; at < g->files[i].size_bytes && st == HEARTH_OK; at += READ_BYTES)
            st = file_read(&g->files[i], buffer, (size_t)MIN(g->files[i].size_bytes - at, (uint64_t)READ_BYTES), at, e);
    free(buffer);
    *seconds = seconds_since(begin);
    return st;
}

struct report {
    struct series directory, vocabulary, engine, first_token, cold, plain, share, left;
    uint64_t file_bytes;
};

static enum hearth_status one_round(struct report *r, const char *path, const struct gguf *g, const struct bench_options *o, struct err *e)
{
    struct start warm, cold;
    double plain = 0, left;
    enum hearth_status st = start_once(&warm, path, o, e);
    forget(g, &left);
    if (st == HEARTH_OK)
        st = start_once(&cold, path, o, e);
    record(&r->left, left);
    forget(g, &left);
    if (st == HEARTH_OK)
        st = read_plainly(&plain, g, e);
    if (st != HEARTH_OK)
        return st;
    record(&r->directory, warm.directory);
    record(&r->vocabulary, warm.vocabulary - warm.directory);
    record(&r->engine, warm.engine - warm.vocabulary);
    record(&r->first_token, warm.first_token);
    record(&r->cold, cold.first_token);
    record(&r->plain, plain);
    record(&r->share, plain / cold.first_token);
    return HEARTH_OK;
}

static void print_line(const char *what, const struct series *s, double factor, const char *unit)
{
    struct spread p = spread_of(s);
    printf("  %-28s %8.1f %s  (%.1f to %.1f)\n", what, factor * p.median, unit, factor * p.lo, factor * p.hi);
}

static void print_report(const struct report *r, const char *path, size_t n_rounds)
{
    printf("model    %s: %s; medians of %zu rounds (smallest to largest)\n\nwarm page cache\n", path, human_bytes(r->file_bytes), n_rounds);
    print_line("opening the file", &r->directory, 1e3, "ms");
    print_line("vocabulary", &r->vocabulary, 1e3, "ms");
    print_line("engine", &r->engine, 1e3, "ms");
    print_line("first token after", &r->first_token, 1e3, "ms");
    printf("cold page cache (%.0f %% of the file could not be dropped)\n", 100 * spread_of(&r->left).median);
    print_line("first token after", &r->cold, 1e3, "ms");
    print_line("plain read of the file", &r->plain, 1e3, "ms");
    print_line("share of the disk's rate", &r->share, 100, "% ");
}

enum hearth_status bench_start(const char *path, const struct bench_options *o, struct err *e)
{
    struct report *r = calloc(1, sizeof *r);
    struct arena a;
    struct gguf g;
    CHECK(r);
    arena_init(&a, 0);
    enum hearth_status st = packs_open(&g, path, o->no_pack, o->n_threads, &a, e);
    for (size_t i = 0; st == HEARTH_OK && i < g.n_files; i++)
        r->file_bytes += g.files[i].size_bytes;
    for (size_t i = 0; i < o->n_rounds && st == HEARTH_OK; i++)
        st = one_round(r, path, &g, o, e);
    if (st == HEARTH_OK && o->json) {
        json_t *j = json_pack("{s:s, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "model", path, "file_bytes", (json_int_t)r->file_bytes,
                              "open_s", json_spread(&r->directory), "vocabulary_s", json_spread(&r->vocabulary), "engine_s",
                              json_spread(&r->engine), "first_token_s", json_spread(&r->first_token), "cold_first_token_s",
                              json_spread(&r->cold), "plain_read_s", json_spread(&r->plain), "share", json_spread(&r->share), "left",
                              json_spread(&r->left));
        json_dumpf(j, stdout, JSON_INDENT(1));
        printf("\n");
        json_decref(j);
    } else if (st == HEARTH_OK) {
        print_report(r, path, o->n_rounds);
    }
    gguf_close(&g);
    arena_free(&a);
    free(r);
    return st;
}

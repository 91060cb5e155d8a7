/* run.c: hearth run MODEL [PROMPT ...]: one prompt, one answer, streamed.
 *
 * The prompt is the words after MODEL joined by spaces, "-" among them standing for stdin. When stdin is a
 * pipe or a file and "-" is not among the words, its text goes in front of them, an empty line between
 * (cat notes.txt | hearth run M "sum up"). One newline at the end of stdin is not part of it.
 *
 * A model with a chat template gets the prompt as a user's message, in which control tokens are ordinary text.
 * Without a template the model continues the text. --raw means: this is the whole prompt as the model shall
 * see it, control tokens included, as hearth render prints it.
 *
 * --format binds the answer to a grammar (docs/GRAMMAR.md): each token is chosen among those that keep it in the format.
 *
 * Without any prompt a model without a template begins a text of its own; one with a template needs something
 * to answer and says so.
 */
#include "apps/apps.h"

#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { STDIN_MAX_MIB = 64 };

struct run_options {
    bool raw, no_bos, json, verbose, echo;
    const char *system, *format;
};
static const struct option options[] = {
    { "system", 0, OPT_STR, offsetof(struct run_options, system), "TEXT", "the system message" },
    { "raw", 0, OPT_FLAG, offsetof(struct run_options, raw), NULL, "no template: the prompt as it stands, control tokens count" },
    { "no-bos", 0, OPT_FLAG, offsetof(struct run_options, no_bos), NULL, "no begin token in front (where no template is used)" },
    { "echo", 0, OPT_FLAG, offsetof(struct run_options, echo), NULL, "print the prompt before the answer" },
    { "format", 0, OPT_STR, offsetof(struct run_options, format), "FILE", "bind the answer: a JSON schema, a .gbnf grammar, or json for any object" },
    { "json", 0, OPT_FLAG, offsetof(struct run_options, json), NULL, "one JSON object instead of the streamed text" },
    { "verbose", 'v', OPT_FLAG, offsetof(struct run_options, verbose), NULL, "timings, memory and seed on stderr" },
};

struct run {
    struct run_options o;
    struct sampling_options sampling;
    struct session_options model;
};

/* ---- the prompt ---- */

/* Is there something behind stdin that is meant for us? Not a terminal, not /dev/null. */
static bool stdin_is_input(void)
{
    struct stat st;
    return fstat(STDIN_FILENO, &st) == 0 && (S_ISFIFO(st.st_mode) || S_ISREG(st.st_mode) || S_ISSOCK(st.st_mode));
}

static enum hearth_status append_stdin(struct buf *out, struct err *e)
{
    size_t before = out->len;
    enum hearth_status st = read_stdin(out, STDIN_MAX_MIB * MIB, e);
    if (st == HEARTH_OK && out->len > before && out->data[out->len - 1] == '\n')
        out->len--;
    return st;
}

static enum hearth_status read_prompt(struct buf *out, char **words, size_t n_words, struct err *e)
{
    bool has_dash = false;
    enum hearth_status st = HEARTH_OK;
    for (size_t i = 0; i < n_words; i++)
        has_dash = has_dash || strcmp(words[i], "-") == 0;
    if (!has_dash && stdin_is_input()) {
        if ((st = append_stdin(out, e)) != HEARTH_OK)
            return st;
        if (out->len && n_words)
            buf_append(out, "\n\n", 2);
    }
    for (size_t i = 0; i < n_words && st == HEARTH_OK; i++) {
        if (i)
            buf_append(out, " ", 1);
        if (strcmp(words[i], "-") == 0)
            st = append_stdin(out, e);
        else
            buf_append(out, words[i], strlen(words[i]));
    }
    if (st == HEARTH_OK && out->failed)
        st = err_set(e, HEARTH_ENOMEM, "out of memory for the prompt");
    return st;
}

static enum hearth_status encode_prompt(struct session *s, const struct run *r, const struct buf *prompt, struct ids *ids, struct err *e)
{
    const char *text = prompt->data ? prompt->data : "";
    if (!s->template) {
        unsigned flags = (r->o.no_bos ? (unsigned)RAW_NO_BOS : 0u) | (r->o.raw ? (unsigned)RAW_SPECIAL : 0u);
        return session_encode_raw(s, text, prompt->len, flags, ids, e);
    }
    json_t *messages = json_array(), *content = text_to_json((struct str){ text, prompt->len });
    if (r->o.system)
        json_array_append_new(messages, json_pack("{s:s, s:o}", "role", "system", "content",
                                                  text_to_json((struct str){ r->o.system, strlen(r->o.system) })));
    json_array_append_new(messages, json_pack("{s:s, s:o}", "role", "user", "content", content));
    enum hearth_status st = session_encode_chat(s, messages, ids, e);
    json_decref(messages);
    return st;
}

/* ---- the answer ---- */

static void print_json(const struct session *s, const struct generated *g, uint64_t seed)
{
    json_t *tokens = json_array();
    for (size_t i = 0; i < g->ids.n; i++)
        json_array_append_new(tokens, json_integer(g->ids.v[i]));
    json_t *root = json_pack(
        "{s:o, s:o, s:o, s:s, s:{s:I, s:I, s:I}, s:{s:f, s:f, s:f, s:f, s:f}, s:{s:I, s:I}, s:{s:I, s:I, s:I, s:I, s:I}}",
        "model", text_to_json((struct str){ s->path, strlen(s->path) }),
        "text", text_to_json((struct str){ g->text.data ? g->text.data : "", g->text.len }),
        "tokens", tokens, "finish_reason", finish_name(g->reason),
        "usage", "prompt_tokens", (json_int_t)g->n_prompt, "kept_tokens", (json_int_t)g->n_kept, "completion_tokens", (json_int_t)g->ids.n,
        "timings", "load_s", (double)s->load_ns * 1e-9, "prompt_s", (double)g->prompt_ns * 1e-9, "prompt_tokens_per_s",
        per_second(g->n_prompt - g->n_kept, g->prompt_ns), "decode_s", (double)g->decode_ns * 1e-9, "decode_tokens_per_s",
        per_second(g->n_steps, g->decode_ns),
        "speculation", "drafted", (json_int_t)g->n_drafted, "accepted", (json_int_t)g->n_accepted,
        "memory", "weights", (json_int_t)s->plan.weight_bytes, "kv", (json_int_t)s->plan.kv_bytes, "scratch",
        (json_int_t)s->plan.scratch_bytes, "predicted", (json_int_t)s->predicted_bytes, "peak", (json_int_t)memory_peak_bytes());
    CHECK(root);
    /* A 64-bit seed may not fit a JSON integer of every reader. */
    json_object_set_new(root, "seed", seed <= INT64_MAX ? json_integer((json_int_t)seed) : json_sprintf("%" PRIu64, seed));
    json_dumpf(root, stdout, JSON_INDENT(1));
    printf("\n");
    json_decref(root);
}

/* What --format names: "json", a GBNF file (by its ending) or a JSON schema. NULL when the option is not given. */
static enum hearth_status read_format(struct grammar **out, const char *name, struct arena *a, struct err *e)
{
    char *text;
    size_t n, len = name ? strlen(name) : 0;
    *out = NULL;
    if (!name)
        return HEARTH_OK;
    if (strcmp(name, "json") == 0)
        return grammar_any_json(out, false, a, e);
    enum hearth_status st = file_read_all(&text, &n, name, LIMIT_GRAMMAR_BYTES, a, e);
    if (st != HEARTH_OK)
        return st;
    if (len > 5 && strcmp(name + len - 5, ".gbnf") == 0)
        return grammar_from_gbnf(out, text, n, a, e);
    return grammar_from_schema(out, text, n, 0, a, e);
}

static enum hearth_status answer(struct session *s, const struct run *r, const struct grammar *grammar, const struct buf *prompt,
                                 struct generated *g, struct err *e)
{
    struct generate_options go;
    struct ids ids = { 0 };
    struct printer printer = { .skip_space = s->template != NULL };
    enum hearth_status st = encode_prompt(s, r, prompt, &ids, e);
    sampling_apply(&go, &r->sampling);
    go.grammar = grammar;
    if (st == HEARTH_OK && r->o.echo && !r->o.json && prompt->len)
        print_text(stdout, prompt->data, prompt->len);
    if (st == HEARTH_OK)
        st = session_generate(s, &ids, &go, interrupts_catch(), r->o.json ? NULL : print_piece, &printer, g, e);
    ids_free(&ids);
    if (st != HEARTH_OK && !r->o.json && printer.last && printer.last != '\n')
        printf("\n");
    if (st != HEARTH_OK)
        return st;
    if (r->o.json)
        print_json(s, g, go.sampling.seed);
    else if (printer.last != '\n')
        printf("\n");
    fflush(stdout);
    if (g->reason == FINISH_CONTEXT && !common.quiet)
        fprintf(stderr, "hearth run: the context of %zu tokens is full; --ctx makes it larger\n", s->n_ctx);
    if (r->o.verbose) {
        print_timings(s, g);
        fprintf(stderr, "seed      %" PRIu64 "\n", go.sampling.seed);
    }
    return HEARTH_OK;
}

static int run(const struct run *r, const char *path, char **words, size_t n_words)
{
    struct session s;
    struct generated g;
    struct buf prompt;
    struct err e = { 0 };
    struct arena arena;
    struct grammar *grammar;
    int code;
    generated_init(&g);
    buf_init(&prompt, 0);
    arena_init(&arena, 0);
    s = (struct session){ 0 };
    enum hearth_status st = read_format(&grammar, r->o.format, &arena, &e); /* a mistake shows before the model is read */
    if (st == HEARTH_OK)
        st = session_open(&s, path, &r->model, &e);
    if (st == HEARTH_OK)
        st = read_prompt(&prompt, words, n_words, &e);
    if (st == HEARTH_OK && s.template && prompt.len == 0)
        code = usage_error("run", "no prompt: give one, pipe one in, or use hearth chat");
    else if (st == HEARTH_OK && !s.template && r->o.system)
        code = usage_error("run", "--system needs a chat template, and %s", r->o.raw ? "--raw uses none" : "this model has none");
    else {
        if (st == HEARTH_OK)
            st = answer(&s, r, grammar, &prompt, &g, &e);
        code = st != HEARTH_OK ? fail("run", st, &e) : g.reason == FINISH_INTERRUPTED ? EXIT_INTERRUPTED : EXIT_DONE;
        code = finish_output("run", (enum exit_code)code);
    }
    generated_free(&g);
    buf_free(&prompt);
    session_close(&s);
    arena_free(&arena);
    return code;
}

int verb_run(int argc, char **argv)
{
    struct run r = { 0 };
    sampling_options_init(&r.sampling);
    const struct command c = {
        "run", "MODEL.gguf [PROMPT ...]", "Answers one prompt and streams the answer.",
        "PROMPT may be -, for stdin. Text piped in goes in front of PROMPT:\n"
        "  cat notes.txt | hearth run MODEL.gguf \"sum up\"\n"
        "The model's chat template is used when it has one; else the model continues the text.\n"
        "Ctrl-C stops the answer, a second one quits at once.",
        { { "Options", options, ARRAY_LEN(options), &r.o },
          { "Choosing tokens", sampling_table, N_SAMPLING_OPTIONS, &r.sampling },
          { "Model", session_table, N_SESSION_OPTIONS, &r.model } },
        1, SIZE_MAX,
    };
    size_t n_args;
    int code = options_parse(&c, argc, argv, &n_args);
    if (code >= 0)
        return code;
    r.model.raw = r.o.raw;
    return run(&r, argv[0], argv + 1, n_args - 1);
}

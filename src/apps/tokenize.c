/* tokenize.c: hearth tokenize MODEL TEXT|-: the tokens of a text, one per line with its id, or the ids alone.
 *
 * Works on any GGUF that holds a vocabulary, with or without weights. The text counts as trusted: control
 * tokens written in it are recognised, as templates need it, unless --no-special says otherwise.
 */
#include "apps/apps.h"

#include <string.h>

struct tokenize_options {
    bool no_bos, ids, no_special;
};
static const struct option options[] = {
    { "no-bos", 0, OPT_FLAG, offsetof(struct tokenize_options, no_bos), NULL, "without the begin and end tokens of the vocabulary" },
    { "ids", 0, OPT_FLAG, offsetof(struct tokenize_options, ids), NULL, "only the ids, as [1, 2, 3]" },
    { "no-special", 0, OPT_FLAG, offsetof(struct tokenize_options, no_special), NULL, "control tokens in the text are ordinary text" },
};

static void print_tokens(const struct tokenizer *t, const struct ids *ids, bool only_ids)
{
    char piece[32];
    if (only_ids)
        printf("[");
    for (size_t i = 0; i < ids->n; i++) {
        if (only_ids) {
            printf(i ? ", %d" : "%d", ids->v[i]);
            continue;
        }
        printf("%7d  \"", ids->v[i]);
        print_quoted(stdout, tokenizer_piece(t, ids->v[i], true, piece), LIMIT_TOKEN_BYTES);
        printf("\"\n");
    }
    if (only_ids)
        printf("]\n");
}

static enum hearth_status tokenize(const char *path, const char *text, const struct tokenize_options *o, struct arena *a, struct err *e)
{
    struct gguf g;
    struct vocab v;
    struct tokenizer *t = NULL;
    struct ids ids = { 0 };
    struct buf input;
    unsigned flags = (o->no_bos ? 0u : (unsigned)ENCODE_BOS) | (o->no_special ? 0u : (unsigned)ENCODE_SPECIAL);
    enum hearth_status st = gguf_open(&g, path, a, e);
    if (st != HEARTH_OK)
        return st;
    buf_init(&input, 0);
    st = vocab_from_gguf(&v, &g, a, e);
    if (st == HEARTH_OK)
        st = tokenizer_open(&t, &v, a, e);
    if (st == HEARTH_OK && strcmp(text, "-") == 0)
        st = read_stdin(&input, GIB, e);
    else if (st == HEARTH_OK && !buf_append(&input, text, strlen(text)))
        st = err_set(e, HEARTH_ENOMEM, "out of memory");
    if (st == HEARTH_OK)
        st = tokenizer_encode(t, input.data ? input.data : "", input.len, flags, NULL, 0, &ids, NULL, e);
    if (st == HEARTH_OK)
        print_tokens(t, &ids, o->ids);
    ids_free(&ids);
    buf_free(&input);
    tokenizer_close(t);
    gguf_close(&g);
    return st;
}

int verb_tokenize(int argc, char **argv)
{
    struct tokenize_options o = { 0 };
    const struct command c = {
        "tokenize", "MODEL TEXT|-", "Shows the tokens of a text (- reads it from stdin), with their ids.",
        "MODEL is any GGUF with a vocabulary. A text that begins with a dash stands behind --.",
        { { "Options", options, ARRAY_LEN(options), &o } }, 2, 2,
    };
    struct arena a;
    struct err e = { 0 };
    size_t n_args;
    int code = options_parse(&c, argc, argv, &n_args);
    if (code >= 0)
        return code;
    arena_init(&a, 0);
    enum hearth_status st = tokenize(argv[0], argv[1], &o, &a, &e);
    arena_free(&a);
    return st == HEARTH_OK ? finish_output("tokenize", EXIT_DONE) : fail("tokenize", st, &e);
}

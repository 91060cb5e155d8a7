/* tool_tokenize.c: a tokenizer on standard input and output, for the clients that compare ids with other programs.
 *
 *     tool_tokenize VOCABULARY < lines
 *     tool_tokenize VOCABULARY OUT.gguf      writes the vocabulary as a GGUF file instead
 *
 * VOCABULARY is a GGUF file, a folder, or a file of a folder. Each line of input is JSON, {"text": "...", "special": true,
 * "bos": true}; each line of output is {"ids": [...], "text": "what they decode to"}.
 */
#include <stdlib.h>
#include <string.h>

#include "formats/formats.h"

struct tool { struct arena a; struct gguf g; struct vocab v; struct tokenizer *t; };

static enum hearth_status tool_open(struct tool *o, const char *path, struct err *e)
{
    size_t n = strlen(path);
    bool is_gguf = n > 5 && strcmp(path + n - 5, ".gguf") == 0;
    enum hearth_status st;
    if (is_gguf && (st = gguf_open(&o->g, path, &o->a, e)) != HEARTH_OK)
        return st;
    st = is_gguf ? vocab_from_gguf(&o->v, &o->g, &o->a, e) : vocab_from_files(&o->v, path, &o->a, e);
    return st == HEARTH_OK ? tokenizer_open(&o->t, &o->v, &o->a, e) : st;
}

static enum hearth_status answer(const struct tool *o, const json_t *q, struct err *e)
{
    const json_t *text = json_object_get(q, "text");
    unsigned flags = (json_is_true(json_object_get(q, "special")) ? ENCODE_SPECIAL : 0u) |
                     (json_is_true(json_object_get(q, "bos")) ? ENCODE_BOS : 0u);
    struct ids ids = { 0 };
    struct buf out;
    enum hearth_status st = tokenizer_encode(o->t, json_string_value(text), json_string_length(text), flags, NULL, 0, &ids, NULL, e);
    buf_init(&out, 0);
    if (st == HEARTH_OK && (st = tokenizer_decode(o->t, ids.v, ids.n, true, &out)) == HEARTH_OK) {
        json_t *list = json_array(), *reply;
        for (size_t i = 0; i < ids.n; i++)
            json_array_append_new(list, json_integer(ids.v[i]));
        reply = json_pack("{so}", "ids", list);
        json_t *decoded = json_stringn(out.data ? out.data : "", out.len);
        if (decoded)
            json_object_set_new(reply, "text", decoded);
        json_dumpf(reply, stdout, JSON_COMPACT);
        putchar('\n');
        json_decref(reply);
    }
    buf_free(&out);
    ids_free(&ids);
    return st;
}

static enum hearth_status write_gguf(struct tool *o, const char *path, struct err *e)
{
    struct gguf_writer *w;
    enum hearth_status st = gguf_writer_open(&w, path, &o->a, e);
    if (st != HEARTH_OK)
        return st;
    gguf_put_str(w, "general.architecture", STR("llama")); /* what llama.cpp asks for before it looks at the vocabulary */
    gguf_put_u32(w, "llama.context_length", 2048);
    gguf_put_u32(w, "llama.embedding_length", 64);
    gguf_put_u32(w, "llama.block_count", 1);
    gguf_put_u32(w, "llama.feed_forward_length", 64);
    gguf_put_u32(w, "llama.attention.head_count", 1);
    gguf_put_f32(w, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    vocab_to_gguf(&o->v, w);
    return gguf_writer_commit(w, e);
}

int main(int argc, char **argv)
{
    struct tool o = { 0 };
    struct err e = { 0 };
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    enum hearth_status st = HEARTH_OK;
    if (argc != 2 && argc != 3) {
        fputs("usage: tool_tokenize VOCABULARY < lines\n       tool_tokenize VOCABULARY OUT.gguf\n", stderr);
        return 2;
    }
    arena_init(&o.a, 0);
    st = tool_open(&o, argv[1], &e);
    if (st == HEARTH_OK && argc == 3)
        st = write_gguf(&o, argv[2], &e);
    while (st == HEARTH_OK && argc == 2 && (n = getline(&line, &cap, stdin)) > 0) {
        json_t *q;
        if ((st = json_parse(&q, line, (size_t)n, "a line of input", &e)) == HEARTH_OK)
            st = answer(&o, q, &e);
        json_decref(q);
    }
    free(line);
    if (st != HEARTH_OK)
        fprintf(stderr, "tool_tokenize: %s\n", e.text);
    tokenizer_close(o.t);
    gguf_close(&o.g);
    arena_free(&o.a);
    return st != HEARTH_OK;
}

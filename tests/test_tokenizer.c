/* test_tokenizer.c: text to ids and back, against vectors no one here wrote. */
#include "support.h"

#include <stdlib.h>
#include <string.h>

#include "formats/formats.h"

/* ---- opened tokenizers ---- */

struct opened { struct arena a; struct gguf g; struct vocab v; struct tokenizer *t; };

static void open_gguf(struct opened *o, const char *path)
{
    struct err e = { 0 };
    arena_init(&o->a, 0);
    assert_ok(gguf_open(&o->g, path, &o->a, &e), &e);
    assert_ok(vocab_from_gguf(&o->v, &o->g, &o->a, &e), &e);
    assert_ok(tokenizer_open(&o->t, &o->v, &o->a, &e), &e);
}

static void close_opened(struct opened *o)
{
    tokenizer_close(o->t);
    gguf_close(&o->g);
    arena_free(&o->a);
}

static void encode_ok(const struct tokenizer *t, const char *text, size_t n, unsigned flags, struct ids *ids)
{
    struct err e = { 0 };
    ids->n = 0;
    assert_ok(tokenizer_encode(t, text, n, flags, NULL, 0, ids, NULL, &e), &e);
}

/* ---- the .inp / .out vectors ---- */

static void check_ids(const char *what, size_t i_case, const char *text, size_t n, const struct ids *got, const int32_t *want, size_t n_want)
{
    bool same = got->n == n_want && memcmp(got->v, want, n_want * sizeof *want) == 0;
    if (same)
        return;
    printf("%s, case %zu: \"%.*s\"\n  want:", what, i_case, (int)n, text);
    for (size_t i = 0; i < n_want; i++)
        printf(" %d", want[i]);
    printf("\n  got: ");
    for (size_t i = 0; i < got->n; i++)
        printf(" %d", got->v[i]);
    printf("\n");
    fail_msg("%s: case %zu differs", what, i_case);
}

static size_t check_vectors(const struct tokenizer *t, const char *base)
{
    static const char separator[] = "\n__ggml_vocab_test__\n";
    char name[256], *in, *out, *end;
    size_t n_in, n_out, n_cases = 0;
    struct arena a;
    struct err e = { 0 };
    struct ids ids = { 0 };
    arena_init(&a, 0);
    snprintf(name, sizeof name, "%s.inp", base);
    assert_ok(file_read_all(&in, &n_in, data_path(name), 1 << 20, &a, &e), &e);
    snprintf(name, sizeof name, "%s.out", base);
    assert_ok(file_read_all(&out, &n_out, data_path(name), 1 << 20, &a, &e), &e);
    for (end = in; end && *out; in = end + sizeof separator - 1) {
        int32_t want[1024];
        size_t n_want = 0;
        char *line_end = strchr(out, '\n');
        end = strstr(in, separator);
        assert_non_null(line_end);
        for (char *p = out; p < line_end;) {
            want[n_want++] = (int32_t)strtol(p, &p, 10);
            while (*p == ' ')
                p++;
        }
        out = line_end + 1;
        size_t n = end ? (size_t)(end - in) : strlen(in);
        encode_ok(t, in, n, 0, &ids);
        check_ids(base, n_cases, in, n, &ids, want, n_want);
        n_cases++;
        if (!end)
            break;
    }
    ids_free(&ids);
    arena_free(&a);
    return n_cases;
}

/* ---- every vocabulary of the data folder ---- */

struct source { const char *name, *path, *vectors; size_t n_tokens; bool is_lossless; };
static const struct source sources[] = {
    { "llama-spm", "vocab/ggml-vocab-llama-spm.gguf", "vocab/ggml-vocab-llama-spm.gguf", 32000, true },
    { "phi-3", "vocab/ggml-vocab-phi-3.gguf", "vocab/ggml-vocab-phi-3.gguf", 32064, true },
    { "gpt-2", "vocab/ggml-vocab-gpt-2.gguf", "vocab/ggml-vocab-gpt-2.gguf", 50257, true },
    { "bert", "vocab/ggml-vocab-bert-bge.gguf", "vocab/ggml-vocab-bert-bge.gguf", 30522, false },
    { "qwen2", "vocab/qwen2", "vocab/qwen2/ggml-vocab-qwen2.gguf", 151646, true },
    { "llama3", "vocab/llama3/tokenizer.model", "vocab/llama3/ggml-vocab-llama-bpe.gguf", 128256, true },
    { "opt", "vocab/opt", NULL, 50265, true },
    { "tinystories-656k", "models/tinystories-656k", NULL, 2048, true },
    { "tinychat-relu", "models/tinychat-relu/vocab.json", NULL, 59, false },
    { "stories260K", "models/stories260K/tok512.bin", NULL, 512, true },
};

static void open_source(struct opened *o, const struct source *s)
{
    const char *path = data_path(s->path);
    size_t n = strlen(path);
    struct err e = { 0 };
    need_data(s->path);
    *o = (struct opened){ 0 };
    if (strcmp(path + n - 5, ".gguf") == 0) {
        open_gguf(o, path);
        return;
    }
    arena_init(&o->a, 0);
    if (strcmp(path + n - 4, ".bin") == 0)
        assert_ok(vocab_from_llama2c(&o->v, path, s->n_tokens, &o->a, &e), &e);
    else
        assert_ok(vocab_from_files(&o->v, path, &o->a, &e), &e);
    assert_ok(tokenizer_open(&o->t, &o->v, &o->a, &e), &e);
}

static const struct source *find_source(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(sources); i++) {
        if (strcmp(sources[i].name, name) == 0)
            return &sources[i];
    }
    fail();
    return NULL;
}

/* The same vocabulary, written to a GGUF file and read again. */
static void reopen(struct opened *again, const struct opened *o, const char *name)
{
    struct gguf_writer *w;
    struct arena a;
    struct err e = { 0 };
    char file[128];
    snprintf(file, sizeof file, "%s.gguf", name);
    const char *path = scratch_path(file);
    arena_init(&a, 0);
    assert_ok(gguf_writer_open(&w, path, &a, &e), &e);
    gguf_put_str(w, "general.architecture", STR("llama"));
    if (o->v.name.n)
        gguf_put_str(w, "general.name", o->v.name);
    vocab_to_gguf(&o->v, w);
    assert_ok(gguf_writer_commit(w, &e), &e);
    arena_free(&a);
    open_gguf(again, path);
}

static void assert_str(struct str a, struct str b)
{
    assert_int_equal(a.n, b.n);
    assert_memory_equal(a.p ? a.p : "", b.p ? b.p : "", a.n);
}

static void same_vocab(const struct vocab *a, const struct vocab *b)
{
    assert_int_equal(a->kind, b->kind);
    assert_str(a->pre, b->pre);
    assert_int_equal(a->n_tokens, b->n_tokens);
    for (size_t i = 0; i < a->n_tokens; i++) {
        assert_str(a->tokens[i].text, b->tokens[i].text);
        assert_int_equal(a->tokens[i].type, b->tokens[i].type);
        assert_int_equal(a->tokens[i].flags, b->tokens[i].flags);
        if (a->kind == VOCAB_SPM || a->kind == VOCAB_UGM)
            assert_true(a->tokens[i].score == b->tokens[i].score);
    }
    assert_int_equal(a->n_merges, b->n_merges);
    for (size_t i = 0; i < a->n_merges; i++) {
        assert_str(a->merges[i].left, b->merges[i].left);
        assert_str(a->merges[i].right, b->merges[i].right);
    }
    const int32_t ids_a[] = { a->bos, a->eos, a->eot, a->unk, a->pad, a->sep, a->cls, a->mask };
    const int32_t ids_b[] = { b->bos, b->eos, b->eot, b->unk, b->pad, b->sep, b->cls, b->mask };
    assert_memory_equal(ids_a, ids_b, sizeof ids_a);
    const bool bools_a[] = { a->add_bos, a->add_eos, a->add_space_prefix, a->remove_extra_whitespaces, a->ignore_merges,
                             a->byte_fallback, a->lowercase, a->strip_accents };
    const bool bools_b[] = { b->add_bos, b->add_eos, b->add_space_prefix, b->remove_extra_whitespaces, b->ignore_merges,
                             b->byte_fallback, b->lowercase, b->strip_accents };
    assert_memory_equal(bools_a, bools_b, sizeof bools_a);
    assert_str(a->charsmap, b->charsmap);
    assert_str(a->chat_template, b->chat_template);
}

/* Vectors, sizes, and all of it again after a trip through a file of ours. */
static void check_source(const char *name)
{
    const struct source *s = find_source(name);
    struct opened o, again;
    open_source(&o, s);
    assert_int_equal(o.v.n_tokens, s->n_tokens);
    if (s->vectors)
        assert_int_equal(check_vectors(o.t, s->vectors), 46);
    reopen(&again, &o, s->name);
    same_vocab(&o.v, &again.v);
    if (s->vectors)
        assert_int_equal(check_vectors(again.t, s->vectors), 46);
    close_opened(&again);
    close_opened(&o);
}

static void vectors_llama_spm(void **state) { check_source("llama-spm"); }
static void vectors_phi_3(void **state) { check_source("phi-3"); }
static void vectors_gpt_2(void **state) { check_source("gpt-2"); }
static void vectors_bert(void **state) { check_source("bert"); }
static void vectors_qwen2(void **state) { check_source("qwen2"); }
static void vectors_llama3(void **state) { check_source("llama3"); }
static void files_opt(void **state) { check_source("opt"); }
static void files_tinystories(void **state) { check_source("tinystories-656k"); }
static void files_tinychat(void **state) { check_source("tinychat-relu"); }
static void files_stories260k(void **state) { check_source("stories260K"); }

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vectors_llama_spm),
        cmocka_unit_test(vectors_phi_3),
        cmocka_unit_test(vectors_gpt_2),
        cmocka_unit_test(vectors_bert),
        cmocka_unit_test(vectors_qwen2),
        cmocka_unit_test(vectors_llama3),
        cmocka_unit_test(files_opt),
        cmocka_unit_test(files_tinystories),
        cmocka_unit_test(files_tinychat),
        cmocka_unit_test(files_stories260k),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

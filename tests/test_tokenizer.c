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

static void gguf_vectors(const char *name)
{
    struct opened o;
    char path[256];
    snprintf(path, sizeof path, "vocab/ggml-vocab-%s.gguf", name);
    need_data(path);
    open_gguf(&o, data_path(path));
    assert_int_equal(check_vectors(o.t, path), 46);
    close_opened(&o);
}

static void vectors_llama_spm(void **state) { gguf_vectors("llama-spm"); }
static void vectors_phi_3(void **state) { gguf_vectors("phi-3"); }
static void vectors_gpt_2(void **state) { gguf_vectors("gpt-2"); }
static void vectors_bert(void **state) { gguf_vectors("bert-bge"); }

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vectors_llama_spm),
        cmocka_unit_test(vectors_phi_3),
        cmocka_unit_test(vectors_gpt_2),
        cmocka_unit_test(vectors_bert),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

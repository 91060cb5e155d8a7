/* test_tokenizer_time.c: no text takes more than linear time (V14).
 *
 * Work is counted in steps by the tokenizer itself, so the test does not depend on the machine: twice the text may take at
 * most 2.3 times the steps (2 and a logarithm). Pattern matching is not counted in steps; for it there is a bound in
 * seconds per MiB, wide enough for sanitizers and a busy machine, that quadratic matching (minutes) breaks.
 * Every fourth family at 32 KiB and 64 KiB with each vocabulary, one at 512 KiB and 1 MiB, in turn; HEARTH_SOAK=1: all.
 */
#include "support.h"

#include <stdlib.h>
#include <string.h>

#include "formats/formats.h"

/* A family: `unit` over and over, or, where NULL, what `make` writes. */
struct family { const char *name, *unit; void (*make)(char *p, size_t n); };

static void make_random_bytes(char *p, size_t n)
{
    uint64_t seed = 3;
    for (size_t i = 0; i < n; i++)
        p[i] = (char)test_random(&seed);
}

static void make_random_letters(char *p, size_t n)
{
    uint64_t seed = 4;
    for (size_t i = 0; i < n; i++)
        p[i] = (char)('a' + test_random(&seed) % 26);
}

static void make_random_ascii(char *p, size_t n)
{
    uint64_t seed = 5;
    for (size_t i = 0; i < n; i++)
        p[i] = (char)(' ' + test_random(&seed) % 95);
}

static void make_two_letters(char *p, size_t n)
{
    uint64_t seed = 6;
    for (size_t i = 0; i < n; i++)
        p[i] = test_random(&seed) & 1 ? 'a' : 'b';
}

/* The longest word at the very end of spaces, and the other way round. */
static void make_spaces_then_letter(char *p, size_t n)
{
    memset(p, ' ', n);
    p[n - 1] = 'x';
}

static void make_letters_then_space(char *p, size_t n)
{
    memset(p, 'x', n);
    p[n - 1] = ' ';
}

static void make_spaces_then_newline(char *p, size_t n)
{
    memset(p, ' ', n);
    p[n - 1] = '\n';
}

static void make_runs(char *p, size_t n) /* runs of spaces that grow */
{
    for (size_t i = 0, run = 1; i < n; run++) {
        for (size_t k = 0; k < run && i < n; k++)
            p[i++] = ' ';
        if (i < n)
            p[i++] = 'a';
    }
}

static const struct family families[] = {
    { "a", "a", NULL }, { "spaces", " ", NULL }, { "newlines", "\n", NULL }, { "crlf", "\r\n", NULL }, { "tabs", "\t", NULL },
    { "digits", "1", NULL }, { "more digits", "1234567890", NULL }, { "other digits", "\xD9\xA3", NULL }, { "capitals", "A", NULL },
    { "AaAa", "Aa", NULL }, { "apostrophes", "'", NULL }, { "short forms", "'s", NULL }, { "nul", NULL, make_random_bytes },
    { "marks", "\xCC\x81", NULL }, { "letter and marks", "e\xCC\x81\xCC\x82", NULL }, { "space marks", "\xE2\x96\x81", NULL },
    { "emoji", "\xF0\x9F\x91\xA9\xE2\x80\x8D", NULL }, { "flags", "\xF0\x9F\x87\xA9", NULL }, { "han", "\xE6\x97\xA5\xE6\x9C\xAC", NULL },
    { "hangul", "\xED\x95\x9C", NULL }, { "thai", "\xE0\xB8\xAA\xE0\xB8\xA7\xE0\xB8\xB1", NULL }, { "arabic", "\xD9\x85\xD8\xB1", NULL },
    { "mixed scripts", "a\xE6\x97\xA5\xD9\x85 1", NULL }, { "unclosed", "<|", NULL }, { "nearly special", "<|im_end|", NULL },
    { "nearly eot", "<|eot_id<|", NULL }, { "special", "<|im_end|>", NULL }, { "special and spaces", "<|end|>  ", NULL }, { "end of text", "<|endoftext|>", NULL },
    { "</s>", "</s>", NULL }, { "punctuation", "!?.,", NULL }, { "brackets", "[[[[", NULL }, { "slashes", "/", NULL }, { "no-break spaces", "\xC2\xA0", NULL },
    { "nearly white", "\xE1\xA0\x8E", NULL }, { "space and newline", " \n", NULL }, { "equals", "=", NULL }, { "dashes", "-", NULL },
    { "bad bytes", "\xFF", NULL }, { "cut characters", "\xF0\x9F\x91", NULL }, { "letters", NULL, make_random_letters },
    { "ascii", NULL, make_random_ascii }, { "a or b", NULL, make_two_letters }, { "spaces, letter", NULL, make_spaces_then_letter },
    { "letters, space", NULL, make_letters_then_space }, { "spaces, newline", NULL, make_spaces_then_newline }, { "runs", NULL, make_runs },
    { "words", "the quick brown fox ", NULL }, { "long s", "'\xC5\xBF", NULL }, { "byte tokens", "<0x41>", NULL },
};
_Static_assert(ARRAY_LEN(families) >= 30, "V14 asks for thirty");

static void fill(const struct family *f, char *p, size_t n)
{
    if (f->make) {
        f->make(p, n);
        return;
    }
    for (size_t i = 0, k = 0; i < n; i++, k = f->unit[k + 1] ? k + 1 : 0)
        p[i] = f->unit[k];
}

static uint64_t steps_of(const struct tokenizer *t, const char *text, size_t n)
{
    struct ids ids = { 0 };
    struct err e = { 0 };
    uint64_t steps = 0;
    assert_ok(tokenizer_encode(t, text, n, ENCODE_BOS | ENCODE_SPECIAL, NULL, 0, &ids, &steps, &e), &e);
    ids_free(&ids);
    return steps;
}

static void check_family(const struct tokenizer *t, const char *name, const struct family *f, size_t n, char *text)
{
    uint64_t start, once, twice;
    fill(f, text, n);
    once = steps_of(t, text, n);
    fill(f, text, 2 * n);
    start = clock_ns();
    twice = steps_of(t, text, 2 * n);
    double seconds = (double)(clock_ns() - start) / 1e9, mib = (double)(2 * n) / (double)MIB;
    if ((double)twice > 2.3 * (double)once)
        fail_msg("%s, %s: %zu bytes take %llu steps, twice as many %llu", name, f->name, n, (unsigned long long)once, (unsigned long long)twice);
    if (seconds > 60 * mib)
        fail_msg("%s, %s: %zu bytes take %.1f s", name, f->name, 2 * n, seconds);
    if (twice > 120 * 2 * (uint64_t)n)
        fail_msg("%s, %s: %llu steps a byte", name, f->name, (unsigned long long)(twice / (2 * n)));
}

static void check_tokenizer(const struct tokenizer *t, const char *name, size_t turn)
{
    enum { SMALL = 32 * 1024, LARGE = 512 * 1024 };
    const char *soak = getenv("HEARTH_SOAK");
    bool all = soak && *soak == '1';
    char *text = malloc(2 * LARGE);
    assert_non_null(text);
    for (size_t i = 0; i < ARRAY_LEN(families); i++) {
        if (all || i % 4 == turn % 4)
            check_family(t, name, &families[i], SMALL, text);
        if (all || i == (turn * 7) % ARRAY_LEN(families))
            check_family(t, name, &families[i], LARGE, text);
    }
    free(text);
}

static void check_path(const char *path, size_t turn)
{
    struct arena a;
    struct gguf g = { 0 };
    struct vocab v;
    struct tokenizer *t;
    struct err e = { 0 };
    bool is_gguf = strstr(path, ".gguf") != NULL;
    need_data(path);
    arena_init(&a, 0);
    if (is_gguf)
        assert_ok(gguf_open(&g, data_path(path), &a, &e), &e);
    if (is_gguf)
        assert_ok(vocab_from_gguf(&v, &g, &a, &e), &e);
    else
        assert_ok(vocab_from_files(&v, data_path(path), &a, &e), &e);
    assert_ok(tokenizer_open(&t, &v, &a, &e), &e);
    check_tokenizer(t, path, turn);
    tokenizer_close(t);
    if (is_gguf)
        gguf_close(&g);
    arena_free(&a);
}

static void texts_take_linear_time(void **state)
{
    static const char *const paths[] = { "vocab/ggml-vocab-llama-spm.gguf", "vocab/ggml-vocab-phi-3.gguf", "vocab/ggml-vocab-gpt-2.gguf",
                                         "vocab/ggml-vocab-bert-bge.gguf", "vocab/qwen2", "vocab/llama3/tokenizer.model",
                                         "models/tinystories-656k", "models/tinychat-relu/vocab.json" };
    for (size_t i = 0; i < ARRAY_LEN(paths); i++)
        check_path(paths[i], i);
}

/* ---- pre-split rules without their vocabularies ---- */

enum { N_ALPHABET = 256 };

/* The byte alphabet and a few merges under each rule: what counts is the matching. */
static void every_pre_split_rule_is_linear(void **state)
{
    static const char *const names[] = { "default", "gpt-2", "llama-bpe", "qwen2", "qwen35", "gpt-4o", "tekken", "smollm", "falcon",
                                         "deepseek-llm", "deepseek-coder", "deepseek-v3", "bloom", "viking", "bailingmoe", "seed-coder", "minicpm5" };
    static char texts[N_ALPHABET][3];
    struct vocab_token tokens[N_ALPHABET] = { 0 };
    size_t n_printed = 0;
    for (unsigned b = 0; b < N_ALPHABET; b++) {
        bool prints = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
        unsigned c = prints ? b : 0x100 + (unsigned)n_printed++;
        size_t n = c < 0x80 ? 1 : 2;
        if (n == 1)
            texts[b][0] = (char)c;
        else
            texts[b][0] = (char)(0xC0 | c >> 6), texts[b][1] = (char)(0x80 | (c & 63));
        tokens[b] = (struct vocab_token){ .text = { texts[b], n }, .type = TOKEN_NORMAL };
    }
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        struct vocab v = { .kind = VOCAB_BPE, .pre = { names[i], strlen(names[i]) }, .tokens = tokens, .n_tokens = N_ALPHABET,
                           .bos = -1, .eos = -1, .eot = -1, .unk = -1, .pad = -1, .sep = -1, .cls = -1, .mask = -1 };
        struct arena a;
        struct tokenizer *t;
        struct err e = { 0 };
        arena_init(&a, 0);
        assert_ok(tokenizer_open(&t, &v, &a, &e), &e);
        check_tokenizer(t, names[i], i);
        tokenizer_close(t);
        arena_free(&a);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_take_linear_time),
        cmocka_unit_test(every_pre_split_rule_is_linear),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

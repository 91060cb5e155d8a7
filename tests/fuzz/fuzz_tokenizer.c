/* fuzz_tokenizer.c: any bytes as a vocabulary file, and any text for a tokenizer.
 *
 * The first byte chooses: '{' tokenizer.json, '[' vocab.json of characters, 'G' a GGUF file (the byte is part of it), 'b'
 * llama2.c's tokenizer.bin, 'm' merges.txt beside a fixed vocab.json, 'c' tokenizer_config.json beside a fixed
 * tokenizer.json, 't' a text for fixed vocabularies of every kind, anything else tokenizer.model. Whatever opens
 * tokenizes a difficult text and random ids are decoded: no id out of range, streams of whole characters.
 */
#include "fuzz.h"

#include <string.h>
#include <unistd.h>

#include "formats/formats.h"

#define BYTES(s) s, sizeof s - 1

static const char difficult[] = " a<|x|>b\n\nab  1234 \xE2\x96\x81\xC3\xA9<0x41>\xFF\xF0\x9F\x98</s> 's";
static const char small_json[] = "{\"added_tokens\":[{\"id\":3,\"content\":\"<|x|>\",\"special\":true}],\"normalizer\":{\"type\":\"Prepend\",\"prepend\":\"\xE2\x96\x81\"},"
                                 "\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]}}";
static const char small_vocab[] = "{\"a\":0,\"b\":1,\"ab\":2,\"\xC4\xA0\":3,\"\xC4\xA0" "ab\":4,\"<|x|>\":5,\"1\":6}";
static const char small_chars[] = "[\"a\",\"b\",\" \",\"\xC3\xA9\"]";

static void check_text(const struct tokenizer *t, const char *text, size_t n, unsigned salt)
{
    struct err e = { 0 };
    struct ids ids = { 0 };
    struct buf whole;
    struct decoder d;
    struct text_span span = { n ? salt % n : 0, n };
    size_t n_vocab = tokenizer_vocab(t)->n_tokens;
    uint64_t steps;
    CHECK(tokenizer_encode(t, text, n, salt & 3, &span, salt >> 2 & 1, &ids, &steps, &e) == HEARTH_OK);
    buf_init(&whole, 64 * MIB);
    for (size_t i = 0; i < ids.n; i++)
        CHECK(ids.v[i] >= 0 && (size_t)ids.v[i] < n_vocab);
    CHECK(tokenizer_decode(t, ids.v, ids.n, salt & 1, &whole) == HEARTH_OK);
    decoder_init(&d, t, salt & 1, salt >> 1 & 1);
    for (size_t i = 0; i < 64; i++)
        decoder_push(&d, (int32_t)((salt * 2654435761u + i * 40503u) % n_vocab), &whole);
    decoder_flush(&d, &whole);
    buf_free(&whole);
    ids_free(&ids);
}

static void check_vocab(const struct vocab *v, const char *text, size_t n, unsigned salt)
{
    struct arena a;
    struct tokenizer *t;
    struct err e = { 0 };
    arena_init(&a, 256 * MIB);
    if (tokenizer_open(&t, v, &a, &e) == HEARTH_OK) {
        check_text(t, text, n, salt);
        check_text(t, text, n, ~salt);
        tokenizer_close(t);
    } else {
        CHECK(!t && e.text[0]);
    }
    arena_free(&a);
}

static void from_files(const char *path, const char *text, size_t n, unsigned salt)
{
    struct arena a;
    struct vocab v;
    struct err e = { 0 };
    arena_init(&a, 64 * MIB);
    enum hearth_status st = vocab_from_files(&v, path, &a, &e);
    if (st == HEARTH_OK)
        check_vocab(&v, text, n, salt);
    else
        CHECK(st == e.status && e.text[0]);
    arena_free(&a);
}

static void from_gguf(const uint8_t *data, size_t n, unsigned salt)
{
    struct arena a;
    struct gguf g;
    struct vocab v;
    struct err e = { 0 };
    arena_init(&a, 64 * MIB);
    if (gguf_open(&g, fuzz_file("v.gguf", data, n), &a, &e) == HEARTH_OK) {
        if (vocab_from_gguf(&v, &g, &a, &e) == HEARTH_OK)
            check_vocab(&v, BYTES(difficult), salt);
        gguf_close(&g);
    }
    arena_free(&a);
}

static void from_bin(const uint8_t *data, size_t n, unsigned salt)
{
    struct arena a;
    struct vocab v;
    struct err e = { 0 };
    arena_init(&a, 64 * MIB);
    if (n && vocab_from_llama2c(&v, fuzz_file("t.bin", data + 1, n - 1), data[0] % 8, &a, &e) == HEARTH_OK)
        check_vocab(&v, BYTES(difficult), salt);
    arena_free(&a);
}

/* Only the named files may be in the folder. */
static void keep(const char *const *names)
{
    static const char *const all[] = { "tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "tokenizer_config.json" };
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        bool wanted = false;
        for (const char *const *p = names; *p; p++)
            wanted |= strcmp(*p, all[i]) == 0;
        if (!wanted)
            unlink(fuzz_path(all[i]));
    }
}

static void text_for_all(const uint8_t *data, size_t n, unsigned salt)
{
    const char *text = (const char *)data;
    fuzz_file("tokenizer.json", BYTES(small_json));
    from_files(fuzz_path("tokenizer.json"), text, n, salt);
    fuzz_file("vocab.json", BYTES(small_vocab));
    fuzz_file("merges.txt", BYTES("a b\n\xC4\xA0 ab\n"));
    from_files(fuzz_path("vocab.json"), text, n, salt);
    unlink(fuzz_path("merges.txt"));
    fuzz_file("vocab.json", BYTES(small_chars));
    from_files(fuzz_path("vocab.json"), text, n, salt);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    unsigned salt = (unsigned)n * 7919u;
    for (size_t i = 0; i < n && i < 64; i++)
        salt = salt * 31 + data[i];
    keep((const char *const[]){ NULL });
    switch (n ? data[0] : 0) {
    case '{': fuzz_file("tokenizer.json", data, n); break;
    case '[': fuzz_file("vocab.json", data, n); break;
    case 'G': from_gguf(data, n, salt); return 0;
    case 'b': from_bin(data + 1, n - 1, salt); return 0;
    case 'm':
        fuzz_file("vocab.json", BYTES(small_vocab));
        fuzz_file("merges.txt", data + 1, n - 1);
        break;
    case 'c':
        fuzz_file("tokenizer.json", BYTES(small_json));
        fuzz_file("tokenizer_config.json", data + 1, n - 1);
        break;
    case 't': text_for_all(data + 1, n - 1, salt); return 0;
    default: fuzz_file("tokenizer.model", data, n); break;
    }
    from_files(fuzz_path(""), BYTES(difficult), salt);
    return 0;
}

/* test_vocab.c: readers of vocabularies: what they must refuse (V6), and that all forms of one vocabulary give the same. */
#include "support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "formats/formats.h"

/* ---- small vocabularies by hand ---- */

static struct str z(const char *s)
{
    return (struct str){ s, strlen(s) };
}

enum { MAX_TOKENS = 400, MAX_MERGES = 32 };

struct small { struct vocab v; struct vocab_token tokens[MAX_TOKENS]; struct vocab_merge merges[MAX_MERGES]; };

static void small_init(struct small *s, enum vocab_kind kind, const char *pre)
{
    *s = (struct small){ .v = { .kind = kind, .pre = z(pre), .bos = -1, .eos = -1, .eot = -1, .unk = -1, .pad = -1, .sep = -1, .cls = -1, .mask = -1 } };
    s->v.tokens = s->tokens;
    s->v.merges = s->merges;
}

static int32_t add(struct small *s, const char *text, float score, int type)
{
    s->tokens[s->v.n_tokens] = (struct vocab_token){ z(text), score, (uint8_t)type, 0 };
    return (int32_t)s->v.n_tokens++;
}

/* -1 where no token is called that. */
static int32_t id_of(const struct small *s, const char *text)
{
    for (size_t i = 0; i < s->v.n_tokens; i++)
        if (str_eqz(s->tokens[i].text, text))
            return (int32_t)i;
    return -1;
}

static void add_merge(struct small *s, const char *left, const char *right)
{
    s->merges[s->v.n_merges++] = (struct vocab_merge){ id_of(s, left), id_of(s, right) };
}

static void add_bytes(struct small *s)
{
    static char texts[256][8];
    for (int b = 0; b < 256; b++) {
        snprintf(texts[b], sizeof texts[b], "<0x%02X>", (unsigned)b);
        add(s, texts[b], 0, TOKEN_BYTE);
    }
}

/* Texts of the tokens of `text`, with | between; "" when it cannot be opened. */
static const char *pieces(const struct vocab *v, const char *text, unsigned flags)
{
    static char out[4096];
    struct arena a;
    struct tokenizer *t;
    struct err e = { 0 };
    struct ids ids = { 0 };
    size_t n = 0;
    arena_init(&a, 0);
    assert_ok(tokenizer_open(&t, v, &a, &e), &e);
    assert_ok(tokenizer_encode(t, text, strlen(text), flags, NULL, 0, &ids, NULL, &e), &e);
    out[0] = 0;
    for (size_t i = 0; i < ids.n; i++) {
        struct str piece = v->tokens[ids.v[i]].text;
        assert_true(n + piece.n + 2 < sizeof out);
        n += (size_t)snprintf(out + n, sizeof out - n, "%s%.*s", i ? "|" : "", (int)piece.n, piece.p);
    }
    ids_free(&ids);
    tokenizer_close(t);
    arena_free(&a);
    return out;
}

static void assert_refused(const struct vocab *v, enum hearth_status status, const char *says)
{
    struct arena a;
    struct tokenizer *t;
    struct err e = { 0 };
    arena_init(&a, 0);
    assert_int_equal(tokenizer_open(&t, v, &a, &e), status);
    assert_null(t);
    if (!strstr(e.text, says))
        fail_msg("\"%s\" does not say \"%s\"", e.text, says);
    arena_free(&a);
}

/* ---- families, by small examples ---- */

static void scores_and_ranks_decide(void **state)
{
    struct small s;
    small_init(&s, VOCAB_SPM, "default");
    s.v.unk = add(&s, "<unk>", 0, TOKEN_UNKNOWN);
    static const char *const letters[] = { "a", "b", "c", "\xE2\x96\x81" };
    for (size_t i = 0; i < 4; i++)
        add(&s, letters[i], -100, TOKEN_NORMAL);
    add(&s, "ab", -2, TOKEN_NORMAL);
    add(&s, "bc", -1, TOKEN_NORMAL);
    add(&s, "abc", -3, TOKEN_NORMAL);
    add(&s, "\xE2\x96\x81" "a", -1.5f, TOKEN_NORMAL);
    assert_string_equal(pieces(&s.v, "abc", 0), "abc"); /* bc first, then a + bc */
    assert_string_equal(pieces(&s.v, "abab", 0), "ab|ab");
    assert_string_equal(pieces(&s.v, "aab", 0), "a|ab");
    assert_string_equal(pieces(&s.v, "abd", 0), "ab|<unk>");
    assert_string_equal(pieces(&s.v, "dd", 0), "<unk>"); /* neighbours share one */
    s.v.add_space_prefix = true;
    assert_string_equal(pieces(&s.v, "abc", 0), "\xE2\x96\x81" "a|bc");
    assert_string_equal(pieces(&s.v, "a bc", 0), "\xE2\x96\x81" "a|\xE2\x96\x81|bc");
    assert_string_equal(pieces(&s.v, "", 0), "");
    /* Ranked: only a + b and ab + c are in the list, so bc never forms. */
    add_merge(&s, "a", "b");
    add_merge(&s, "ab", "c");
    s.v.add_space_prefix = false;
    assert_string_equal(pieces(&s.v, "abcbc", 0), "abc|b|c");
    assert_string_equal(pieces(&s.v, " ab", 0), "\xE2\x96\x81|ab");
}

static void unused_tokens_fall_apart(void **state)
{
    struct small s;
    small_init(&s, VOCAB_SPM, "default");
    s.v.unk = add(&s, "<unk>", 0, TOKEN_UNKNOWN);
    static const char *const letters[] = { "a", "b", "c", "d" };
    for (size_t i = 0; i < 4; i++)
        add(&s, letters[i], -100, TOKEN_NORMAL);
    add(&s, "ab", -1, TOKEN_NORMAL);
    add(&s, "cd", -2, TOKEN_UNUSED);
    add(&s, "abcd", -3, TOKEN_UNUSED);
    assert_string_equal(pieces(&s.v, "abcd", 0), "ab|c|d");
    assert_string_equal(pieces(&s.v, "cdab", 0), "c|d|ab");
    add(&s, "abcdab", -4, TOKEN_NORMAL); /* made out of an unused one, itself in use */
    assert_string_equal(pieces(&s.v, "abcdab", 0), "abcdab");
}

static void bytes_stand_in(void **state)
{
    struct small s;
    small_init(&s, VOCAB_SPM, "default");
    s.v.unk = add(&s, "<unk>", 0, TOKEN_UNKNOWN);
    add_bytes(&s);
    add(&s, "a", -1, TOKEN_NORMAL);
    assert_string_equal(pieces(&s.v, "a\xC3\xA9", 0), "a|<0xC3>|<0xA9>");
    assert_string_equal(pieces(&s.v, "\xFF" "a\xE2\x82", 0), "<0xFF>|a|<0xE2>|<0x82>");
    assert_string_equal(pieces(&s.v, "<0x41>", 0), "<0x3C>|<0x30>|<0x78>|<0x34>|<0x31>|<0x3E>"); /* the text of a byte token is text */
}

static void added_tokens_have_flags(void **state)
{
    struct small s;
    small_init(&s, VOCAB_CHAR, "default");
    s.v.unk = add(&s, "?", 0, TOKEN_NORMAL);
    add(&s, " ", 0, TOKEN_NORMAL);
    add(&s, "a", 0, TOKEN_NORMAL);
    s.tokens[add(&s, "<l>", 0, TOKEN_CONTROL)].flags = TOKEN_LSTRIP;
    s.tokens[add(&s, "<r>", 0, TOKEN_CONTROL)].flags = TOKEN_RSTRIP;
    s.tokens[add(&s, "ham", 0, TOKEN_USER_DEFINED)].flags = TOKEN_SINGLE_WORD;
    add(&s, "<r>>", 0, TOKEN_CONTROL);
    assert_string_equal(pieces(&s.v, "a <l> a", ENCODE_SPECIAL), "a|<l>| |a");
    assert_string_equal(pieces(&s.v, "a <r> \n\t\xE2\x80\x83" "a", ENCODE_SPECIAL), "a| |<r>|a");
    assert_string_equal(pieces(&s.v, "<r> <l>", ENCODE_SPECIAL), "<r>|<l>");
    assert_string_equal(pieces(&s.v, "<r>>a", ENCODE_SPECIAL), "<r>>|a"); /* the longest */
    assert_string_equal(pieces(&s.v, "ham", 0), "ham");
    assert_string_equal(pieces(&s.v, "a ham a", 0), "a| |ham| |a");
    assert_string_equal(pieces(&s.v, "hama", 0), "?|a|?|a");
    assert_string_equal(pieces(&s.v, "aham", 0), "a|?|a|?");
    assert_string_equal(pieces(&s.v, "\xC3\xA9ham", 0), "?|?|a|?");
    assert_string_equal(pieces(&s.v, "<l>", 0), "?|?|?"); /* not asked for */
}

static void characters_are_tokens(void **state)
{
    struct small s;
    small_init(&s, VOCAB_CHAR, "default");
    add(&s, "a", 0, TOKEN_NORMAL);
    add(&s, "\xC3\xA9", 0, TOKEN_NORMAL);
    assert_string_equal(pieces(&s.v, "a\xC3\xA9xa", 0), "a|\xC3\xA9|a"); /* nothing stands for x */
}

/* A map that writes "A" for "a" and nothing for "z": the double array by hand. */
static size_t make_charsmap(char *out)
{
    uint32_t units[256] = { 0 };
    enum { BASE = 1 };
    size_t n = sizeof units;
    units[0] = BASE << 10;
    /* Node of a label sits at BASE ^ label; its value at node ^ offset. */
    units[BASE ^ 'a'] = 'a' | 1u << 8 | (uint32_t)((BASE ^ 'a') ^ 2) << 10;
    units[2] = 1u << 31 | 0; /* -> "A" */
    units[BASE ^ 'z'] = 'z' | 1u << 8 | (uint32_t)((BASE ^ 'z') ^ 3) << 10;
    units[3] = 1u << 31 | 2; /* -> "" */
    out[0] = (char)(n & 255), out[1] = (char)(n >> 8), out[2] = out[3] = 0;
    for (size_t i = 0; i < 256; i++) {
        for (int b = 0; b < 4; b++)
            out[4 + 4 * i + (size_t)b] = (char)(units[i] >> (8 * b));
    }
    memcpy(out + 4 + n, "A\0\0", 3);
    return 4 + n + 3;
}

static void unigram_takes_the_best_sum(void **state)
{
    struct small s;
    char map[2048];
    small_init(&s, VOCAB_UGM, "default");
    s.v.unk = add(&s, "<unk>", 0, TOKEN_UNKNOWN);
    s.v.add_space_prefix = true;
    add(&s, "\xE2\x96\x81", -3, TOKEN_NORMAL);
    add(&s, "a", -3, TOKEN_NORMAL);
    add(&s, "b", -3, TOKEN_NORMAL);
    add(&s, "ab", -4, TOKEN_NORMAL);
    add(&s, "\xE2\x96\x81" "a", -4, TOKEN_NORMAL);
    add(&s, "bab", -4.5f, TOKEN_NORMAL);
    assert_string_equal(pieces(&s.v, "ab", 0), "\xE2\x96\x81|ab"); /* -7; _a b is -7 too, found later */
    assert_string_equal(pieces(&s.v, "abab", 0), "\xE2\x96\x81" "a|bab");
    assert_string_equal(pieces(&s.v, "axxb", 0), "\xE2\x96\x81" "a|<unk>|b");
    s.v.remove_extra_whitespaces = true;
    assert_string_equal(pieces(&s.v, "  a   b ", 0), "\xE2\x96\x81" "a|\xE2\x96\x81|b");
    assert_string_equal(pieces(&s.v, "   ", 0), "");
    s.v.charsmap = (struct str){ map, make_charsmap(map) };
    add(&s, "A", -1, TOKEN_NORMAL);
    assert_string_equal(pieces(&s.v, "zazb", 0), "\xE2\x96\x81|A|b");
}

static void wordpiece_follows_its_flags(void **state)
{
    struct small s;
    small_init(&s, VOCAB_WPM, "default");
    s.v.unk = add(&s, "[UNK]", 0, TOKEN_CONTROL);
    add(&s, "\xE2\x96\x81" "cafe", 0, TOKEN_NORMAL);
    add(&s, "\xE2\x96\x81" "Caf\xC3\xA9", 0, TOKEN_NORMAL);
    add(&s, "s", 0, TOKEN_NORMAL);
    add(&s, "\xE2\x96\x81,", 0, TOKEN_NORMAL);
    add(&s, "\xE2\x96\x81\xE6\x97\xA5", 0, TOKEN_NORMAL);
    assert_string_equal(pieces(&s.v, "Caf\xC3\xA9s,", 0), "\xE2\x96\x81" "Caf\xC3\xA9|s|\xE2\x96\x81,");
    s.v.lowercase = s.v.strip_accents = true;
    assert_string_equal(pieces(&s.v, "CAFE\xCC\x81s,caf\xC3\xA9", 0), "\xE2\x96\x81" "cafe|s|\xE2\x96\x81,|\xE2\x96\x81" "cafe");
    assert_string_equal(pieces(&s.v, "\xE6\x97\xA5\xE6\x97\xA5x\xFF", 0), "\xE2\x96\x81\xE6\x97\xA5|\xE2\x96\x81\xE6\x97\xA5|[UNK]");
}

/* ---- refused (V6) ---- */

static void bad_vocabularies_are_refused(void **state)
{
    struct small s;
    small_init(&s, VOCAB_SPM, "default");
    assert_refused(&s.v, HEARTH_ENOTFOUND, "no tokens");
    for (size_t i = 0; i < 6; i++) {
        static const char *const texts[] = { "<0x-1>", "<0x1>", "<0xGG>", "<0x100>", "0x41", "" };
        small_init(&s, VOCAB_SPM, "default");
        add(&s, texts[i], 0, TOKEN_BYTE);
        assert_refused(&s.v, HEARTH_EDAMAGED, "byte token 0");
    }
    for (size_t i = 0; i < 3; i++) {
        const float scores[] = { NAN, INFINITY, -INFINITY };
        small_init(&s, VOCAB_UGM, "default");
        add(&s, "a", scores[i], TOKEN_NORMAL);
        assert_refused(&s.v, HEARTH_EDAMAGED, "score of token 0");
    }
    small_init(&s, VOCAB_SPM, "default");
    add(&s, "a", 0, 7);
    assert_refused(&s.v, HEARTH_EDAMAGED, "type 7");
    small_init(&s, VOCAB_SPM, "default");
    add(&s, "a", 0, TOKEN_NORMAL);
    s.v.eos = 1;
    assert_refused(&s.v, HEARTH_EDAMAGED, "special token id 1");
    s.v.eos = -2;
    assert_refused(&s.v, HEARTH_EDAMAGED, "special token id -2");
    s.v.eos = -1;
    s.v.n_tokens = LIMIT_VOCAB + 1;
    assert_refused(&s.v, HEARTH_ELIMIT, "at most");
    small_init(&s, VOCAB_BPE, "no-such-rule");
    add(&s, "a", 0, TOKEN_NORMAL);
    assert_refused(&s.v, HEARTH_EUNSUPPORTED, "\"no-such-rule\"");
    small_init(&s, VOCAB_BPE, "gpt-2");
    add(&s, "a", 0, TOKEN_NORMAL);
    add(&s, "b", 0, TOKEN_NORMAL);
    add_merge(&s, "a", "b");
    assert_refused(&s.v, HEARTH_EDAMAGED, "merge 0 (\"a\" \"b\") names a token that is not there");
    small_init(&s, VOCAB_BPE, "gpt-2");
    static char huge[LIMIT_TOKEN_BYTES + 2];
    memset(huge, 'a', sizeof huge - 1);
    add(&s, huge, 0, TOKEN_NORMAL);
    assert_refused(&s.v, HEARTH_ELIMIT, "token 0 has");
}

/* A merge that would spell a control token is not made. */
static void merges_cannot_make_control_tokens(void **state)
{
    struct small s;
    small_init(&s, VOCAB_BPE, "gpt-2");
    add(&s, "a", 0, TOKEN_NORMAL);
    add(&s, "b", 0, TOKEN_NORMAL);
    add(&s, "ab", 0, TOKEN_CONTROL);
    add_merge(&s, "a", "b");
    assert_string_equal(pieces(&s.v, "ab", 0), "a|b");
    s.v.ignore_merges = true;
    assert_string_equal(pieces(&s.v, "ab", 0), "a|b");
    assert_string_equal(pieces(&s.v, "ab", ENCODE_SPECIAL), "ab");
    small_init(&s, VOCAB_SPM, "default");
    add(&s, "a", 0, TOKEN_NORMAL);
    add(&s, "b", 0, TOKEN_NORMAL);
    add(&s, "ab", 5, TOKEN_CONTROL);
    assert_string_equal(pieces(&s.v, "ab", 0), "a|b");
}

/* ---- files ---- */

static const char *folder_of(const char *name)
{
    const char *path = scratch_path(name);
    mkdir(path, 0700);
    return path;
}

static void put(const char *folder, const char *name, const void *data, size_t n)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    write_file(path, data, n);
}

static void assert_file_refused(const char *name, const void *data, size_t n, enum hearth_status status, const char *says)
{
    static int count;
    char folder[32];
    struct arena a;
    struct vocab v;
    struct err e = { 0 };
    snprintf(folder, sizeof folder, "bad-%d", count++);
    const char *path = folder_of(folder);
    put(path, name, data, n);
    arena_init(&a, 0);
    enum hearth_status st = vocab_from_files(&v, path, &a, &e);
    if (st != status || !strstr(e.text, says))
        fail_msg("%s gives %s, \"%s\", not \"%s\"", name, hearth_status_name(st), e.text, says);
    arena_free(&a);
}

static void bad_tokenizer_json_is_refused(void **state)
{
    static const struct { const char *text; enum hearth_status status; const char *says; } cases[] = {
        { "", HEARTH_EDAMAGED, "not JSON" },
        { "{\"model\":{}}", HEARTH_EDAMAGED, "no model with a vocabulary" },
        { "{\"model\":{\"type\":\"Wordle\",\"vocab\":{}}}", HEARTH_EUNSUPPORTED, "\"Wordle\"" },
        { "{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":0}}}", HEARTH_EUNSUPPORTED, "\"WordLevel\"" },
        { "{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"vocab\":{\"a\":-1},\"merges\":[]}}", HEARTH_EDAMAGED, "has no id" },
        { "{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"vocab\":{\"a\":\"x\"},\"merges\":[]}}", HEARTH_EDAMAGED, "has no id" },
        { "{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"vocab\":{\"a\":4000000000},\"merges\":[]}}", HEARTH_ELIMIT, "at most" },
        { "{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"vocab\":{\"a\":0}}}", HEARTH_EDAMAGED, "without merges" },
        { "{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"vocab\":{\"a\":0},\"merges\":[\"a\"]}}", HEARTH_EDAMAGED, "merge 0" },
        { "{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"vocab\":{\"a\":0},\"merges\":[\"a b\"]}}", HEARTH_EDAMAGED, "merge 0" },
        { "{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]}}", HEARTH_EDAMAGED, "merge 0" },
        { "{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"vocab\":{\"a\":0},\"merges\":[7]}}", HEARTH_EDAMAGED, "merge 0" },
        { "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]}}", HEARTH_EUNSUPPORTED, "neither byte-level nor SentencePiece" },
        { "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[],\"end_of_word_suffix\":\"</w>\"}}", HEARTH_EUNSUPPORTED, "</w>" },
        { "{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"x+\"},\"behavior\":\"Isolated\"},{\"type\":\"ByteLevel\",\"use_regex\":false}]},"
          "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]}}", HEARTH_EUNSUPPORTED, "Split:x+" },
        { "{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Whitespace\"},{\"type\":\"ByteLevel\"}]},\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]}}",
          HEARTH_EUNSUPPORTED, "\"Whitespace\"" },
        { "{\"normalizer\":{\"type\":\"Lowercase\"},\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"vocab\":{\"a\":0},\"merges\":[]}}", HEARTH_EUNSUPPORTED, "\"Lowercase\"" },
        { "{\"added_tokens\":[{\"content\":\"x\"}],\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"vocab\":{\"a\":0},\"merges\":[]}}", HEARTH_EDAMAGED, "added token 0" },
        { "{\"added_tokens\":[{\"id\":-5,\"content\":\"x\"}],\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"vocab\":{\"a\":0},\"merges\":[]}}", HEARTH_EDAMAGED, "added token 0" },
        { "{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\"]]}}", HEARTH_EDAMAGED, "piece 0" },
        { "{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",1e999]]}}", HEARTH_EDAMAGED, "" },
        { "{\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"AAAA\"},\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",0]]}}", HEARTH_EDAMAGED, "precompiled_charsmap" },
        { "{\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"A\"},\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",0]]}}", HEARTH_EDAMAGED, "precompiled_charsmap" },
        { "{\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"x\"}},{\"Sequence\":{\"id\":\"A\"}}]},"
          "\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",0]]}}", HEARTH_EDAMAGED, "post_processor" },
        { "{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}", HEARTH_ENOTFOUND, "no tokens" },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        assert_file_refused("tokenizer.json", cases[i].text, strlen(cases[i].text), cases[i].status, cases[i].says);
}

static void bad_tokenizer_model_is_refused(void **state)
{
#define BYTES(s) s, sizeof s - 1
    static const struct { const char *data; size_t n; enum hearth_status status; const char *says; } cases[] = {
        { BYTES(""), HEARTH_EDAMAGED, "not a SentencePiece model" },
        { BYTES("\n"), HEARTH_EDAMAGED, "malformed" },                                   /* a length is missing */
        { BYTES("\x0a\x05\x0a\x01" "a"), HEARTH_EDAMAGED, "malformed" },                 /* longer than the file */
        { BYTES("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), HEARTH_EDAMAGED, "malformed" }, /* 2^64 - 1 bytes */
        { BYTES("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), HEARTH_EDAMAGED, "malformed" }, /* eleven bytes of a number */
        { BYTES("\x0a\x03\x0a\x09" "a"), HEARTH_EDAMAGED, "malformed" },                 /* longer than its piece */
        { BYTES("\x0b\x0c"), HEARTH_EDAMAGED, "malformed" },                             /* a group */
        { BYTES("\x02\x00"), HEARTH_EDAMAGED, "malformed" },                             /* field 0 */
        { BYTES("\x0a\x05\x0a\x01" "a\x18\x09"), HEARTH_EDAMAGED, "type 9" },
        { BYTES("\x0a\x08\x0a\x01" "a\x15\x00\x00\xc0\x7f"), HEARTH_EDAMAGED, "score of token 0" }, /* NaN */
        { BYTES("\x0a\x0a\x0a\x06<0x-1>\x18\x06"), HEARTH_EDAMAGED, "byte token 0" },
        { BYTES("\x0a\x03\x0a\x01" "a\x12\x02\x18\x03"), HEARTH_EUNSUPPORTED, "type 3" },
        { BYTES("\x0a\x03\x0a\x01" "a\x12\x03\xc0\x01\x01"), HEARTH_EUNSUPPORTED, "treat_whitespace_as_suffix" },
        { BYTES("\x0a\x03\x0a\x01" "a\x12\x03\xc8\x02\x09"), HEARTH_EDAMAGED, "special token id 9" },
        { BYTES("\x0a\x03\x0a\x01" "a\x1a\x06\x12\x04" "abcd"), HEARTH_EDAMAGED, "precompiled_charsmap" },
        { BYTES("QQ== 0\nQ 1\n"), HEARTH_EDAMAGED, "line 2" },                           /* half of a base64 group */
        { BYTES("QQ== 0\nQ$== 1\n"), HEARTH_EDAMAGED, "line 2" },
        { BYTES("QQ== 0\nQg==\n"), HEARTH_EDAMAGED, "line 2" },
        { BYTES("QQ== 0\nQg== x\n"), HEARTH_EDAMAGED, "line 2" },
        { BYTES("QQ== 0\nQg== 99999999999\n"), HEARTH_EDAMAGED, "line 2" },
        { BYTES("QQ== 0\nQg== 1048576\n"), HEARTH_ELIMIT, "at most" },
        { BYTES("QQ== 0\nQg== 0\n"), HEARTH_EDAMAGED, "comes twice" },
        { BYTES("QQ== 0\nQg== 2\n"), HEARTH_EDAMAGED, "rank 1 of 3 is missing" },
        { BYTES("QQ== 0\nQg== 1\n"), HEARTH_EUNSUPPORTED, "2 ranks" },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        assert_file_refused("tokenizer.model", cases[i].data, cases[i].n, cases[i].status, cases[i].says);
}

static void bad_vocab_json_and_bin_are_refused(void **state)
{
    static const struct { const char *data; size_t n, n_tokens; } bins[] = {
        { BYTES(""), 1 }, { BYTES("\1\0\0\0"), 1 }, { BYTES("\1\0\0\0\0\0\0\0\1\0\0\0"), 1 },
        { BYTES("\1\0\0\0\0\0\0\0\xff\xff\xff\xff" "a"), 1 }, { BYTES("\1\0\0\0\0\0\0\0\1\0\0\0" "ab"), 1 },
        { BYTES("\1\0\0\0\0\0\0\0\1\0\0\0" "a"), 2 }, { BYTES("\1\0\0\0\0\0\xc0\x7f\1\0\0\0" "a"), 1 },
    };
    struct arena a;
    struct vocab v;
    struct err e = { 0 };
    assert_file_refused("vocab.json", BYTES("[\"ab\"]"), HEARTH_EDAMAGED, "entry 0");
    assert_file_refused("vocab.json", BYTES("[1]"), HEARTH_EDAMAGED, "entry 0");
    assert_file_refused("vocab.json", BYTES("{\"ab\":0}"), HEARTH_EDAMAGED, "\"ab\"");
    assert_file_refused("vocab.json", BYTES("{\"a\":-1}"), HEARTH_EDAMAGED, "\"a\"");
    assert_file_refused("vocab.json", BYTES("[]"), HEARTH_ENOTFOUND, "no tokens");
    assert_file_refused("nothing", BYTES(""), HEARTH_ENOTFOUND, "holds no tokenizer.json");
    const char *folder = folder_of("merges");
    put(folder, "vocab.json", BYTES("{\"a\":0,\"b\":1}"));
    put(folder, "merges.txt", BYTES("#version: 0.2\na c\n"));
    arena_init(&a, 0);
    assert_int_equal(vocab_from_files(&v, folder, &a, &e), HEARTH_EDAMAGED);
    assert_non_null(strstr(e.text, "merge 0 (\"a c\")"));
    err_clear(&e);
    assert_int_equal(vocab_from_files(&v, "/nonexistent", &a, &e), HEARTH_ENOTFOUND);
    for (size_t i = 0; i < ARRAY_LEN(bins); i++) {
        const char *path = scratch_path("bad.bin");
        write_file(path, bins[i].data, bins[i].n);
        err_clear(&e);
        assert_int_equal(vocab_from_llama2c(&v, path, bins[i].n_tokens, &a, &e), HEARTH_EDAMAGED);
        assert_non_null(strstr(e.text, "bad.bin"));
    }
    arena_free(&a);
}

/* ---- GGUF ---- */

static void bad_gguf_vocabularies_are_refused(void **state)
{
    static const struct str two[] = { { "a", 1 }, { "b", 1 } }, merge[] = { { "ab", 2 } };
    static const float scores[] = { 0, 0, 0 };
    static const int32_t types[] = { 1, 9, 1 };
    static const struct { int what; enum hearth_status status; const char *says; } cases[] = {
        { 0, HEARTH_ENOTFOUND, "no vocabulary" }, { 1, HEARTH_EUNSUPPORTED, "\"rwkv\"" }, { 2, HEARTH_EDAMAGED, "tokens is missing" },
        { 3, HEARTH_EDAMAGED, "scores has 3 entries for 2 tokens" }, { 4, HEARTH_EDAMAGED, "token_type has 3 entries" },
        { 5, HEARTH_EDAMAGED, "eos_token_id is 2" }, { 6, HEARTH_EDAMAGED, "type 9" }, { 7, HEARTH_EDAMAGED, "merge 0" },
        { 8, HEARTH_EDAMAGED, "merges is missing" }, { 9, HEARTH_EDAMAGED, "flags has 1 entries" }, { 10, HEARTH_EDAMAGED, "precompiled_charsmap" },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        int what = cases[i].what;
        struct gguf_writer *w;
        struct arena a;
        struct gguf g;
        struct vocab v;
        struct err e = { 0 };
        const char *path = scratch_path("bad.gguf");
        arena_init(&a, 0);
        assert_ok(gguf_writer_open(&w, path, &a, &e), &e);
        gguf_put_str(w, "general.architecture", STR("llama"));
        if (what > 0)
            gguf_put_str(w, "tokenizer.ggml.model", what == 1 ? STR("rwkv") : what == 7 || what == 8 ? STR("gpt2") : what == 10 ? STR("t5") : STR("llama"));
        if (what > 2)
            gguf_put_strs(w, "tokenizer.ggml.tokens", two, 2);
        if (what == 3)
            gguf_put_array(w, "tokenizer.ggml.scores", GGUF_F32, scores, 3);
        if (what == 4 || what == 6)
            gguf_put_array(w, "tokenizer.ggml.token_type", GGUF_I32, types, what == 4 ? 3 : 2);
        if (what == 5)
            gguf_put_u32(w, "tokenizer.ggml.eos_token_id", 2);
        if (what == 7)
            gguf_put_strs(w, "tokenizer.ggml.merges", merge, 1);
        if (what == 9)
            gguf_put_array(w, "tokenizer.hearth.flags", GGUF_U8, "x", 1);
        if (what == 10)
            gguf_put_array(w, "tokenizer.ggml.precompiled_charsmap", GGUF_U8, "abcdefgh", 8);
        assert_ok(gguf_writer_commit(w, &e), &e);
        assert_ok(gguf_open(&g, path, &a, &e), &e);
        assert_int_equal(vocab_from_gguf(&v, &g, &a, &e), cases[i].status);
        if (!strstr(e.text, cases[i].says))
            fail_msg("\"%s\" does not say \"%s\"", e.text, cases[i].says);
        gguf_close(&g);
        arena_free(&a);
    }
}

/* ---- one vocabulary, all its forms ---- */

static void put_varint(struct buf *b, uint64_t v)
{
    do {
        char c = (char)((v & 0x7f) | (v > 0x7f ? 0x80 : 0));
        buf_append(b, &c, 1);
        v >>= 7;
    } while (v);
}

/* The Llama vocabulary as a tokenizer.model: the same ids for the corpus and the same ids of special tokens. */
static void sentencepiece_files_are_read(void **state)
{
    struct arena a;
    struct gguf g;
    struct vocab v, from_file;
    struct tokenizer *t1, *t2;
    struct ids ids1 = { 0 }, ids2 = { 0 };
    struct err e = { 0 };
    struct buf proto, piece;
    char *text;
    size_t n;
    need_data("vocab/ggml-vocab-llama-spm.gguf");
    arena_init(&a, 0);
    buf_init(&proto, 0);
    buf_init(&piece, 0);
    assert_ok(gguf_open(&g, data_path("vocab/ggml-vocab-llama-spm.gguf"), &a, &e), &e);
    assert_ok(vocab_from_gguf(&v, &g, &a, &e), &e);
    for (size_t i = 0; i < v.n_tokens; i++) {
        piece.len = 0;
        put_varint(&piece, 1 << 3 | 2);
        put_varint(&piece, v.tokens[i].text.n);
        buf_append(&piece, v.tokens[i].text.p, v.tokens[i].text.n);
        put_varint(&piece, 2 << 3 | 5);
        buf_append(&piece, &v.tokens[i].score, 4);
        put_varint(&piece, 3 << 3);
        put_varint(&piece, v.tokens[i].type);
        put_varint(&proto, 1 << 3 | 2);
        put_varint(&proto, piece.len);
        buf_append(&proto, piece.data, piece.len);
    }
    /* trainer_spec {BPE, byte fallback, pad -1, an unknown string}, normalizer_spec {prefix, keep white space} */
    buf_append(&proto, BYTES("\x12\x14\x18\x02\x98\x02\x01\xd8\x02\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x0a\x01x"));
    buf_append(&proto, BYTES("\x1a\x04\x18\x01\x20\x00"));
    const char *folder = folder_of("spm");
    put(folder, "tokenizer.model", proto.data, proto.len);
    assert_ok(vocab_from_files(&from_file, folder, &a, &e), &e);
    assert_int_equal(from_file.kind, VOCAB_SPM);
    assert_true(from_file.add_bos && from_file.byte_fallback && !from_file.remove_extra_whitespaces);
    assert_true(from_file.bos == 1 && from_file.eos == 2 && from_file.unk == 0 && from_file.pad == -1);
    assert_ok(tokenizer_open(&t1, &v, &a, &e), &e);
    assert_ok(tokenizer_open(&t2, &from_file, &a, &e), &e);
    assert_ok(file_read_all(&text, &n, data_path("text/tinystories-valid-a.txt"), 2 << 20, &a, &e), &e);
    n = MIN(n, 100000u);
    assert_ok(tokenizer_encode(t1, text, n, ENCODE_BOS, NULL, 0, &ids1, NULL, &e), &e);
    assert_ok(tokenizer_encode(t2, text, n, ENCODE_BOS, NULL, 0, &ids2, NULL, &e), &e);
    assert_int_equal(ids1.n, ids2.n);
    assert_memory_equal(ids1.v, ids2.v, ids1.n * sizeof *ids1.v);
    ids_free(&ids1);
    ids_free(&ids2);
    buf_free(&proto);
    buf_free(&piece);
    tokenizer_close(t1);
    tokenizer_close(t2);
    gguf_close(&g);
    arena_free(&a);
}

static void configuration_around_a_vocabulary(void **state)
{
    static const char tokenizer[] = "{\"added_tokens\":[{\"id\":1,\"content\":\"<e>\",\"special\":true,\"rstrip\":true},{\"id\":4,\"content\":\"hi\",\"special\":false}],"
                                    "\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\xE2\x96\x81\"},"
                                    "\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"unk_token\":\"u\",\"vocab\":{\"u\":0,\"a\":2,\"aa\":3},\"merges\":[[\"a\",\"a\"]]}}";
    static const char config[] = "{\"model_max_length\": 1000000000000000019884624838656, \"eos_token\":{\"content\":\"<e>\"},\"bos_token\":null,"
                                 "\"add_bos_token\":false,\"chat_template\":[{\"name\":\"tool_use\",\"template\":\"no\"},{\"name\":\"default\",\"template\":\"yes\"}]}";
    struct arena a;
    struct vocab v;
    struct err e = { 0 };
    const char *folder = folder_of("phi-3-mini");
    put(folder, "tokenizer.json", tokenizer, sizeof tokenizer - 1);
    put(folder, "tokenizer_config.json", config, sizeof config - 1);
    put(folder, "config.json", BYTES("{\"vocab_size\": 8}"));
    arena_init(&a, 0);
    assert_ok(vocab_from_files(&v, folder, &a, &e), &e);
    assert_int_equal(v.n_tokens, 8);
    assert_int_equal(v.eos, 1);
    assert_int_equal(v.bos, -1);
    assert_int_equal(v.unk, 0);
    assert_int_equal(v.tokens[1].flags, TOKEN_RSTRIP); /* as the file says, not as the folder's name would */
    assert_int_equal(v.tokens[4].type, TOKEN_USER_DEFINED);
    assert_int_equal(v.tokens[4].flags, 0);
    assert_int_equal(v.tokens[7].type, TOKEN_UNUSED);
    assert_true(v.chat_template.n == 3 && memcmp(v.chat_template.p, "yes", 3) == 0);
    assert_true(v.name.n == 10 && memcmp(v.name.p, "phi-3-mini", 10) == 0);
    assert_string_equal(pieces(&v, "aaahi<e> a", ENCODE_SPECIAL), "aa|a|hi|<e>|a");
    arena_free(&a);
    put(folder, "tokenizer_config.json", BYTES("{}"));
    put(folder, "chat_template.jinja", BYTES("{{ x }}"));
    assert_ok(vocab_from_files(&v, folder, &a, &e), &e);
    assert_true(v.chat_template.n == 7 && memcmp(v.chat_template.p, "{{ x }}", 7) == 0);
    arena_free(&a);
}

/* ---- memory that runs out ---- */

static void memory_that_runs_out_is_an_error(void **state)
{
    enum hearth_status st = HEARTH_ENOMEM;
    need_data("models/tinystories-656k");
    for (size_t cap = 1000; st != HEARTH_OK; cap += cap / 3) {
        struct arena a;
        struct vocab v;
        struct tokenizer *t = NULL;
        struct err e = { 0 };
        arena_init(&a, cap);
        st = vocab_from_files(&v, data_path("models/tinystories-656k"), &a, &e);
        if (st == HEARTH_OK)
            st = tokenizer_open(&t, &v, &a, &e);
        assert_true(st == HEARTH_OK || st == HEARTH_ENOMEM);
        assert_true(st == HEARTH_OK || (e.text[0] && !t));
        tokenizer_close(t);
        arena_free(&a);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scores_and_ranks_decide),
        cmocka_unit_test(unused_tokens_fall_apart),
        cmocka_unit_test(bytes_stand_in),
        cmocka_unit_test(added_tokens_have_flags),
        cmocka_unit_test(characters_are_tokens),
        cmocka_unit_test(unigram_takes_the_best_sum),
        cmocka_unit_test(wordpiece_follows_its_flags),
        cmocka_unit_test(bad_vocabularies_are_refused),
        cmocka_unit_test(merges_cannot_make_control_tokens),
        cmocka_unit_test(bad_tokenizer_json_is_refused),
        cmocka_unit_test(bad_tokenizer_model_is_refused),
        cmocka_unit_test(bad_vocab_json_and_bin_are_refused),
        cmocka_unit_test(bad_gguf_vocabularies_are_refused),
        cmocka_unit_test(sentencepiece_files_are_read),
        cmocka_unit_test(configuration_around_a_vocabulary),
        cmocka_unit_test(memory_that_runs_out_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

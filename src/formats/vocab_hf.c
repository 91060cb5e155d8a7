/* vocab_hf.c: tokenizer.json of Hugging Face's tokenizers library.
 *
 * The file lists steps: normalizer, pre_tokenizer, model, post_processor, decoder, each a tree of typed objects. hearth
 * has families, not steps, so each part is recognised as what a family does or refused by the name of its type:
 *
 *   model BPE with a ByteLevel step          -> byte-level BPE; the other pre_tokenizer steps are written down as a
 *                                               signature, which names the pre-split rule (tokenizer_pre.c)
 *   model BPE with byte_fallback or U+2581   -> SentencePiece with ranked pairs
 *   model WordPiece, model Unigram           -> those
 *
 * Token texts are brought to the form GGUF uses: WordPiece's "##x" becomes "x" and "x" becomes U+2581 "x". Ranked
 * SentencePiece vocabularies get scores too: minus the rank of the first merge that makes a token, so that readers
 * which know only scores merge in almost the same order.
 *
 * NFC normalisation of byte-level families (Qwen) is left out, as in GGUF files: text is tokenized as it is written.
 */
#include "formats/vocab_files.h"

#include <string.h>

static const char *type_of(const json_t *o)
{
    const char *type = json_string_value(json_object_get(o, "type"));
    return type ? type : "";
}

static bool is_true(const json_t *o, const char *key)
{
    return json_is_true(json_object_get(o, key));
}

/* The parts of a Sequence, or the one object. i counts up; NULL behind the last. */
static const json_t *step(const json_t *o, const char *list, size_t i)
{
    if (!json_is_object(o))
        return NULL;
    if (strcmp(type_of(o), "Sequence") == 0)
        return json_array_get(json_object_get(o, list), i);
    return i == 0 ? o : NULL;
}

static bool has_step(const json_t *o, const char *list, const char *type)
{
    const json_t *s;
    for (size_t i = 0; (s = step(o, list, i)); i++) {
        if (strcmp(type_of(s), type) == 0)
            return true;
    }
    return false;
}

static enum hearth_status refuse(struct vocab_build *b, const char *part, const json_t *s, struct err *e)
{
    return err_set(e, HEARTH_EUNSUPPORTED, "%s: %s step \"%.60s\" is not supported", b->what, part, type_of(s));
}

/* ---- added tokens ---- */

static enum hearth_status read_added(struct vocab_build *b, const json_t *list, struct err *e)
{
    size_t i;
    json_t *item;
    json_array_foreach(list, i, item) {
        const json_t *id = json_object_get(item, "id"), *content = json_object_get(item, "content");
        unsigned flags = (is_true(item, "lstrip") ? TOKEN_LSTRIP : 0u) | (is_true(item, "rstrip") ? TOKEN_RSTRIP : 0u) |
                         (is_true(item, "single_word") ? TOKEN_SINGLE_WORD : 0u);
        if (!json_is_integer(id) || json_integer_value(id) < 0 || !json_is_string(content))
            return err_set(e, HEARTH_EDAMAGED, "%s: added token %zu has no id or no content", b->what, i);
        struct str text = json_text(content, b->a);
        enum hearth_status st = build_token(b, (uint64_t)json_integer_value(id), text, 0,
                                            is_true(item, "special") ? TOKEN_CONTROL : TOKEN_USER_DEFINED, flags, e);
        if (st != HEARTH_OK)
            return st;
    }
    return HEARTH_OK;
}

/* ---- BPE ---- */

static enum hearth_status read_vocab_object(struct vocab_build *b, const json_t *vocab, bool has_bytes, struct err *e)
{
    const char *key;
    json_t *id;
    json_object_foreach((json_t *)vocab, key, id) {
        size_t n = strlen(key);
        char *copy = arena_strndup(b->a, key, n);
        struct str text = { copy, n };
        if (!json_is_integer(id) || json_integer_value(id) < 0)
            return err_set(e, HEARTH_EDAMAGED, "%s: token \"%.60s\" has no id", b->what, key);
        int type = has_bytes && copy && byte_token_value(text) >= 0 ? TOKEN_BYTE : TOKEN_NORMAL;
        enum hearth_status st = build_token(b, (uint64_t)json_integer_value(id), text, 0, type, 0, e);
        if (st != HEARTH_OK)
            return st;
    }
    return HEARTH_OK;
}

static enum hearth_status read_merge(struct vocab_build *b, struct vocab_merge *m, const json_t *item, size_t i,
                                     const struct text_index *index, struct err *e)
{
    const json_t *left = json_array_get(item, 0), *right = json_array_get(item, 1);
    bool ok;
    if (json_is_array(item)) {
        ok = json_is_string(left) && json_is_string(right) && json_array_size(item) == 2;
        if (ok) {
            struct str l = json_text(left, b->a), r = json_text(right, b->a);
            m->left = l.p ? text_index_find(index, l.p, l.n) : -1;
            m->right = r.p ? text_index_find(index, r.p, r.n) : -1;
            if (m->left < 0 || m->right < 0)
                return err_set(e, HEARTH_EDAMAGED, "%s: merge %zu (\"%.*s\" \"%.*s\") names a token that is not there", b->what, i,
                               STR_FMT(l), STR_FMT(r));
        }
    } else {
        ok = json_is_string(item);
        if (ok) {
            struct str line = json_text(item, b->a);
            if (line.p && !vocab_split_merge(m, index, line))
                return err_set(e, HEARTH_EDAMAGED, "%s: merge %zu (\"%.*s\") is not two tokens", b->what, i, STR_FMT(line));
        }
    }
    if (!ok)
        return err_set(e, HEARTH_EDAMAGED, "%s: merge %zu is not a pair of tokens", b->what, i);
    return HEARTH_OK;
}

static enum hearth_status read_merges(struct vocab_build *b, const json_t *list, struct err *e)
{
    struct vocab *v = b->v;
    struct text_index index;
    struct arena scratch;
    enum hearth_status st = HEARTH_OK;
    size_t n = json_array_size(list);
    if (!json_is_array(list))
        return err_set(e, HEARTH_EDAMAGED, "%s: a BPE model without merges", b->what);
    if (n > LIMIT_MERGES)
        return err_set(e, HEARTH_ELIMIT, "%s: %zu merges; at most %u are taken", b->what, n, LIMIT_MERGES);
    v->merges = ARENA_NEW(b->a, struct vocab_merge, n);
    arena_init(&scratch, 0);
    if (!v->merges || !text_index_build(&index, v->tokens, v->n_tokens, &scratch))
        st = err_set(e, HEARTH_ENOMEM, "%s: no room for %zu merges", b->what, n);
    for (size_t i = 0; i < n && st == HEARTH_OK; i++)
        st = read_merge(b, &v->merges[i], json_array_get(list, i), i, &index, e);
    v->n_merges = st == HEARTH_OK ? n : 0;
    arena_free(&scratch);
    return st;
}

static enum hearth_status set_rank_scores(struct vocab_build *b, struct err *e)
{
    struct vocab *v = b->v;
    struct text_index index;
    struct arena scratch;
    struct buf both;
    enum hearth_status st = HEARTH_OK;
    arena_init(&scratch, 0);
    buf_init(&both, 0);
    if (!text_index_build(&index, v->tokens, v->n_tokens, &scratch))
        st = err_set(e, HEARTH_ENOMEM, "%s: no room for its tokens", b->what);
    for (size_t i = 0; i < v->n_tokens && st == HEARTH_OK; i++)
        v->tokens[i].score = v->tokens[i].type == TOKEN_NORMAL ? -(float)v->n_merges - 1 : 0;
    for (size_t i = v->n_merges; i-- > 0 && st == HEARTH_OK;) { /* backwards, so that the first merge counts */
        struct str left = v->tokens[v->merges[i].left].text, right = v->tokens[v->merges[i].right].text;
        both.len = 0;
        if (!buf_append(&both, left.p, left.n) || !buf_append(&both, right.p, right.n)) {
            st = err_set(e, HEARTH_ENOMEM, "%s: no room for its merges", b->what);
            break;
        }
        int32_t id = text_index_find(&index, both.data, both.len);
        if (id >= 0)
            v->tokens[id].score = -(float)i;
    }
    buf_free(&both);
    arena_free(&scratch);
    return st;
}

/* One line a step; false: a step that no signature knows. */
static bool pre_signature(struct buf *out, const json_t *pre, const json_t **culprit, bool *prefix)
{
    const json_t *s;
    for (size_t i = 0; (s = step(pre, "pretokenizers", i)); i++) {
        const char *type = type_of(s), *line = out->len ? "\n" : "";
        const json_t *pattern = json_object_get(s, "pattern");
        const char *regex = json_string_value(json_object_get(pattern, "Regex"));
        *culprit = s;
        if (strcmp(type, "Split") == 0) {
            const char *behaviour = json_string_value(json_object_get(s, "behavior"));
            regex = regex ? regex : json_string_value(json_object_get(pattern, "String"));
            bool invert = is_true(s, "invert");
            /* "Removed, inverted" keeps what matches: with patterns that match everything, the same as "Isolated". */
            if (!regex || !behaviour || !((strcmp(behaviour, "Isolated") == 0 && !invert) || (strcmp(behaviour, "Removed") == 0 && invert)))
                return false;
            buf_printf(out, "%sSplit:%s", line, regex);
        } else if (strcmp(type, "Digits") == 0) {
            buf_printf(out, "%sDigits%s", line, is_true(s, "individual_digits") ? ":each" : "");
        } else if (strcmp(type, "Punctuation") == 0) {
            buf_printf(out, "%sPunctuation", line);
        } else if (strcmp(type, "ByteLevel") == 0) {
            *prefix |= is_true(s, "add_prefix_space");
            if (!json_is_false(json_object_get(s, "use_regex")))
                buf_printf(out, "%sByteLevel", line);
        } else {
            return false;
        }
    }
    return true;
}

static enum hearth_status read_pre(struct vocab_build *b, const json_t *pre, struct err *e)
{
    const json_t *culprit = NULL;
    struct buf signature;
    const char *name = NULL;
    bool prefix = false, known;
    buf_init(&signature, 64 * KIB);
    known = pre_signature(&signature, pre, &culprit, &prefix);
    if (known && signature.data)
        name = pre_name_of_signature(signature.data);
    /* Of the families that cut alike, other readers take words whole for the one name and not for the other. */
    if (name && strcmp(name, "llama-bpe") == 0 && !b->v->ignore_merges)
        name = "smaug-bpe";
    if (name)
        b->v->pre = (struct str){ name, strlen(name) };
    b->v->add_space_prefix = prefix;
    enum hearth_status st = HEARTH_OK;
    if (!known && culprit)
        st = refuse(b, "pre_tokenizer", culprit, e);
    else if (!name)
        st = err_set(e, HEARTH_EUNSUPPORTED, "%s: its pre_tokenizer is of no known family: \"%.300s\"", b->what,
                     signature.data ? signature.data : "");
    buf_free(&signature);
    return st;
}

static bool is_spaces_mark(const json_t *s)
{
    const char *p = json_string_value(s);
    return p && strcmp(p, "\xE2\x96\x81") == 0;
}

/* How SentencePiece's steps look here: Prepend and Replace, or Metaspace. */
static enum hearth_status read_spm_normalizer(struct vocab_build *b, const json_t *root, struct err *e)
{
    const json_t *normalizer = json_object_get(root, "normalizer"), *pre = json_object_get(root, "pre_tokenizer"), *s;
    for (size_t i = 0; (s = step(normalizer, "normalizers", i)); i++) {
        const char *type = type_of(s);
        if (strcmp(type, "Prepend") == 0 && is_spaces_mark(json_object_get(s, "prepend")))
            b->v->add_space_prefix = true;
        else if (!(strcmp(type, "Replace") == 0 && is_spaces_mark(json_object_get(s, "content"))) && strcmp(type, "NFC") != 0)
            return refuse(b, "normalizer", s, e);
    }
    for (size_t i = 0; (s = step(pre, "pretokenizers", i)); i++) {
        const char *scheme = json_string_value(json_object_get(s, "prepend_scheme"));
        if (strcmp(type_of(s), "Metaspace") == 0)
            b->v->add_space_prefix |= scheme ? strcmp(scheme, "never") != 0 : !json_is_false(json_object_get(s, "add_prefix_space"));
        else if (strcmp(type_of(s), "Split") != 0) /* of spaces, which are gone by then */
            return refuse(b, "pre_tokenizer", s, e);
    }
    return HEARTH_OK;
}

static enum hearth_status read_bpe(struct vocab_build *b, const json_t *root, const json_t *model, struct err *e)
{
    const json_t *pre = json_object_get(root, "pre_tokenizer"), *s;
    struct vocab *v = b->v;
    enum hearth_status st;
    const char *suffix = json_string_value(json_object_get(model, "end_of_word_suffix"));
    v->kind = has_step(pre, "pretokenizers", "ByteLevel") ? VOCAB_BPE : VOCAB_SPM;
    v->byte_fallback = is_true(model, "byte_fallback");
    v->ignore_merges = is_true(model, "ignore_merges");
    if (suffix && *suffix)
        return err_set(e, HEARTH_EUNSUPPORTED, "%s: BPE with the word suffix \"%.20s\" is not supported", b->what, suffix);
    if (v->kind == VOCAB_SPM && !v->byte_fallback && !json_is_object(json_object_get(root, "normalizer")) && !has_step(pre, "pretokenizers", "Metaspace"))
        return err_set(e, HEARTH_EUNSUPPORTED, "%s: BPE that is neither byte-level nor SentencePiece is not supported", b->what);
    if ((st = read_vocab_object(b, json_object_get(model, "vocab"), v->kind == VOCAB_SPM && v->byte_fallback, e)) != HEARTH_OK ||
        (st = read_merges(b, json_object_get(model, "merges"), e)) != HEARTH_OK)
        return st;
    if (v->kind == VOCAB_SPM) {
        v->pre = STR("default");
        return (st = set_rank_scores(b, e)) == HEARTH_OK ? read_spm_normalizer(b, root, e) : st;
    }
    for (size_t i = 0; (s = step(json_object_get(root, "normalizer"), "normalizers", i)); i++) {
        if (strcmp(type_of(s), "NFC") != 0)
            return refuse(b, "normalizer", s, e);
    }
    return read_pre(b, pre, e);
}

/* ---- WordPiece ---- */

static enum hearth_status read_wordpiece(struct vocab_build *b, const json_t *root, const json_t *model, struct err *e)
{
    const char *prefix = json_string_value(json_object_get(model, "continuing_subword_prefix"));
    const json_t *s;
    size_t n_prefix;
    enum hearth_status st = read_vocab_object(b, json_object_get(model, "vocab"), false, e);
    if (st != HEARTH_OK)
        return st;
    prefix = prefix ? prefix : "##";
    n_prefix = strlen(prefix);
    b->v->kind = VOCAB_WPM;
    b->v->pre = STR("default");
    for (size_t i = 0; i < b->v->n_tokens; i++) {
        struct str *text = &b->v->tokens[i].text;
        if (text->n > n_prefix && memcmp(text->p, prefix, n_prefix) == 0) {
            text->p += n_prefix, text->n -= n_prefix;
            continue;
        }
        char *copy = arena_push(b->a, text->n + 3, 1, 1);
        if (!copy)
            return err_set(e, HEARTH_ENOMEM, "%s: no room for its tokens", b->what);
        memcpy(copy, "\xE2\x96\x81", 3);
        if (text->n)
            memcpy(copy + 3, text->p, text->n);
        *text = (struct str){ copy, text->n + 3 };
    }
    for (size_t i = 0; (s = step(json_object_get(root, "normalizer"), "normalizers", i)); i++) {
        const char *type = type_of(s);
        const json_t *strip = json_object_get(s, "strip_accents");
        if (strcmp(type, "BertNormalizer") == 0) {
            b->v->lowercase = is_true(s, "lowercase");
            b->v->strip_accents = json_is_boolean(strip) ? json_is_true(strip) : b->v->lowercase;
        } else if (strcmp(type, "Lowercase") == 0) {
            b->v->lowercase = true;
        } else if (strcmp(type, "StripAccents") == 0) {
            b->v->strip_accents = true;
        } else if (strcmp(type, "NFD") != 0 && strcmp(type, "NFKD") != 0) {
            return refuse(b, "normalizer", s, e);
        }
    }
    return HEARTH_OK;
}

/* ---- unigram ---- */

static int base64_digit(char c)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *p = c ? strchr(digits, c) : NULL;
    return p ? (int)(p - digits) : -1;
}

bool base64_decode(struct str *out, struct str in, struct arena *a)
{
    uint32_t bits = 0;
    size_t n = 0, i;
    char *p = arena_push(a, in.n + 1, 1, 1);
    if (!p || in.n % 4)
        return false;
    for (i = 0; i < in.n && in.p[i] != '='; i++) {
        int d = base64_digit(in.p[i]);
        if (d < 0)
            return false;
        bits = bits << 6 | (uint32_t)d;
        if (i % 4) /* the second, third and fourth digit complete a byte each */
            p[n++] = (char)(bits >> (6 - 2 * (i % 4)));
    }
    size_t n_pad = in.n - i;
    if (n_pad > 2 || (n_pad == 2 && in.p[i + 1] != '='))
        return false;
    *out = (struct str){ p, n };
    return true;
}

static enum hearth_status read_unigram_normalizer(struct vocab_build *b, const json_t *root, struct err *e)
{
    const json_t *s;
    struct vocab *v = b->v;
    for (size_t i = 0; (s = step(json_object_get(root, "normalizer"), "normalizers", i)); i++) {
        const char *type = type_of(s);
        const json_t *map = json_object_get(s, "precompiled_charsmap");
        if (strcmp(type, "Precompiled") == 0) {
            if (json_is_null(map) || (json_is_string(map) && json_string_length(map) == 0))
                continue;
            if (!json_is_string(map) || !base64_decode(&v->charsmap, (struct str){ json_string_value(map), json_string_length(map) }, b->a) ||
                !charsmap_is_sane(v->charsmap))
                return err_set(e, HEARTH_EDAMAGED, "%s: precompiled_charsmap contradicts its own sizes", b->what);
        } else if (strcmp(type, "Replace") == 0) { /* " {2,}" -> " " */
            v->remove_extra_whitespaces = true;
        } else if (strcmp(type, "Strip") != 0) {
            return refuse(b, "normalizer", s, e);
        }
    }
    for (size_t i = 0; (s = step(json_object_get(root, "pre_tokenizer"), "pretokenizers", i)); i++) {
        const char *type = type_of(s), *scheme = json_string_value(json_object_get(s, "prepend_scheme"));
        if (strcmp(type, "WhitespaceSplit") == 0)
            v->remove_extra_whitespaces = true;
        else if (strcmp(type, "Metaspace") == 0)
            v->add_space_prefix = scheme ? strcmp(scheme, "never") != 0 : !json_is_false(json_object_get(s, "add_prefix_space"));
        else
            return refuse(b, "pre_tokenizer", s, e);
    }
    return HEARTH_OK;
}

static enum hearth_status read_unigram(struct vocab_build *b, const json_t *root, const json_t *model, struct err *e)
{
    const json_t *unk = json_object_get(model, "unk_id");
    size_t i;
    json_t *item;
    b->v->kind = VOCAB_UGM;
    b->v->pre = STR("default");
    b->v->byte_fallback = is_true(model, "byte_fallback");
    json_array_foreach(json_object_get(model, "vocab"), i, item) {
        const json_t *text = json_array_get(item, 0), *score = json_array_get(item, 1);
        if (!json_is_string(text) || !json_is_number(score))
            return err_set(e, HEARTH_EDAMAGED, "%s: piece %zu is not [text, score]", b->what, i);
        struct str copy = json_text(text, b->a);
        bool is_unk = json_is_integer(unk) && (json_int_t)i == json_integer_value(unk);
        bool is_byte = b->v->byte_fallback && copy.p && byte_token_value(copy) >= 0;
        enum hearth_status st = build_token(b, i, copy, (float)json_number_value(score),
                                            is_unk ? TOKEN_UNKNOWN : is_byte ? TOKEN_BYTE : TOKEN_NORMAL, 0, e);
        if (st != HEARTH_OK)
            return st;
        if (is_unk)
            b->v->unk = (int32_t)i;
    }
    return read_unigram_normalizer(b, root, e);
}

/* ---- what is put around a text ---- */

static int32_t named_id(const struct vocab_build *b, const json_t *name)
{
    return json_is_string(name) ? build_find(b, (struct str){ json_string_value(name), json_string_length(name) }) : -1;
}

static enum hearth_status read_template(struct vocab_build *b, const json_t *s, struct err *e)
{
    size_t i;
    json_t *item;
    bool behind = false;
    int n_front = 0, n_back = 0;
    json_array_foreach(json_object_get(s, "single"), i, item) {
        int32_t id = named_id(b, json_object_get(json_object_get(item, "SpecialToken"), "id"));
        if (json_object_get(item, "Sequence"))
            behind = true;
        else if (id < 0)
            return err_set(e, HEARTH_EDAMAGED, "%s: the post_processor puts a token around texts that is not there", b->what);
        else if (behind)
            n_back++, b->v->eos = id, b->v->add_eos = true;
        else
            n_front++, b->v->bos = id, b->v->add_bos = true;
    }
    if (n_front > 1 || n_back > 1)
        return err_set(e, HEARTH_EUNSUPPORTED, "%s: the post_processor puts more than one token before or behind a text", b->what);
    return HEARTH_OK;
}

static enum hearth_status read_post(struct vocab_build *b, const json_t *post, struct err *e)
{
    const json_t *s;
    enum hearth_status st;
    for (size_t i = 0; (s = step(post, "processors", i)); i++) {
        const char *type = type_of(s);
        if (strcmp(type, "TemplateProcessing") == 0) {
            if ((st = read_template(b, s, e)) != HEARTH_OK)
                return st;
        } else if (strcmp(type, "BertProcessing") == 0 || strcmp(type, "RobertaProcessing") == 0) {
            b->v->bos = named_id(b, json_array_get(json_object_get(s, "cls"), 0));
            b->v->eos = named_id(b, json_array_get(json_object_get(s, "sep"), 0));
            b->v->add_bos = b->v->add_eos = true;
        } else if (strcmp(type, "ByteLevel") != 0) {
            return refuse(b, "post_processor", s, e);
        }
    }
    if (b->v->kind == VOCAB_WPM) {
        b->v->cls = b->v->bos;
        b->v->sep = b->v->eos;
    }
    return HEARTH_OK;
}

enum hearth_status vocab_from_tokenizer_json(struct vocab_build *b, const json_t *root, struct err *e)
{
    const json_t *model = json_object_get(root, "model"), *vocab = json_object_get(model, "vocab");
    const char *type = type_of(model);
    enum hearth_status st;
    if (!json_is_object(model) || !(json_is_object(vocab) || json_is_array(vocab)))
        return err_set(e, HEARTH_EDAMAGED, "%s: has no model with a vocabulary", b->what);
    if (strcmp(type, "BPE") == 0 || (!*type && json_object_get(model, "merges")))
        st = read_bpe(b, root, model, e);
    else if (strcmp(type, "WordPiece") == 0)
        st = read_wordpiece(b, root, model, e);
    else if (strcmp(type, "Unigram") == 0 || (!*type && json_is_array(vocab)))
        st = read_unigram(b, root, model, e);
    else
        return err_set(e, HEARTH_EUNSUPPORTED, "%s: tokenizer models of type \"%.60s\" are not supported", b->what, type);
    if (st != HEARTH_OK || (st = read_added(b, json_object_get(root, "added_tokens"), e)) != HEARTH_OK)
        return st;
    if (b->v->unk < 0) {
        const json_t *unk = json_object_get(model, "unk_token");
        b->v->unk = named_id(b, unk);
        if (b->v->unk < 0 && b->v->kind == VOCAB_WPM)
            b->v->unk = build_find(b, STR("[UNK]"));
    }
    return read_post(b, json_object_get(root, "post_processor"), e);
}

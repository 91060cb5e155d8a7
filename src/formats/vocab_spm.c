/* vocab_spm.c: SentencePiece's tokenizer.model, tiktoken's text, llama2.c's tokenizer.bin.
 *
 * tokenizer.model is a protobuf (ModelProto of sentencepiece_model.proto). It is read by hand with a cursor that cannot
 * leave its field: a varint has at most ten bytes, a length is tested against what is left, groups are refused, unknown
 * fields are skipped. Fields used: pieces = 1 {piece 1, score 2, type 3}; trainer_spec = 2 {model_type 3,
 * treat_whitespace_as_suffix 24, byte_fallback 35, unk 40, bos 41, eos 42, pad 43}; normalizer_spec = 3
 * {precompiled_charsmap 2, add_dummy_prefix 3, remove_extra_whitespaces 4}.
 *
 * tiktoken's text is one token a line: base64 of its bytes, a space, its rank, which is its id. There are no merges;
 * they follow: merging the bytes of token r with all tokens below r ends in two parts, and these are merge r (the token's
 * own rank). A token that does not end in two parts can only be met whole. Special tokens are not in the file;
 * those of the one published family in this form, Llama 3 (128000 ranks, 256 special tokens), are added by rule.
 *
 * tokenizer.bin: int32 longest token, then for each token float score, int32 bytes, bytes; little-endian. Token 0 is
 * <unk>, 1 and 2 begin and end a text, byte tokens read <0xHH>.
 */
#include "formats/vocab_files.h"

#include <stdlib.h>
#include <string.h>

/* ---- protobuf ---- */

struct cursor { const uint8_t *p, *end; bool bad; };

static uint64_t take_varint(struct cursor *c)
{
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 70 && c->p < c->end; shift += 7) {
        uint8_t b = *c->p++;
        if (shift == 63 && b > 1)
            break; /* more than 64 bits */
        v |= (uint64_t)(b & 0x7f) << shift;
        if (!(b & 0x80))
            return v;
    }
    c->bad = true;
    return 0;
}

/* One field: its number, or 0 at the end or when the message is bad. */
struct field { uint32_t number; unsigned wire; uint64_t value; struct cursor bytes; };

static uint32_t take_field(struct cursor *c, struct field *f)
{
    *f = (struct field){ 0 };
    if (c->p == c->end || c->bad)
        return 0;
    uint64_t key = take_varint(c);
    f->wire = key & 7;
    if (c->bad || key >> 3 == 0 || key >> 3 > 0x1fffffff) {
        c->bad = true;
        return 0;
    }
    size_t left, n = f->wire == 1 ? 8 : f->wire == 5 ? 4 : 0;
    if (f->wire == 0 || f->wire == 2)
        f->value = take_varint(c);
    left = (size_t)(c->end - c->p);
    if (f->wire == 2)
        n = f->value > left ? SIZE_MAX : (size_t)f->value;
    if (c->bad || n > left || f->wire == 3 || f->wire == 4 || f->wire > 5) {
        c->bad = true;
        return 0;
    }
    if (f->wire == 5)
        f->value = load_le32(c->p);
    f->bytes = (struct cursor){ c->p, c->p + n, false };
    c->p += n;
    return f->number = (uint32_t)(key >> 3);
}

static struct str field_str(const struct field *f)
{
    return (struct str){ (const char *)f->bytes.p, (size_t)(f->bytes.end - f->bytes.p) };
}

static enum hearth_status damaged(struct vocab_build *b, const char *part, struct err *e)
{
    return err_set(e, HEARTH_EDAMAGED, "%s: not a SentencePiece model (%s is cut short or malformed)", b->what, part);
}

static enum hearth_status read_piece(struct vocab_build *b, struct cursor c, struct err *e)
{
    struct field f;
    struct str text = { "", 0 };
    union { uint32_t u; float f; } score = { 0 };
    uint64_t type = TOKEN_NORMAL;
    while (take_field(&c, &f)) {
        if (f.number == 1 && f.wire == 2)
            text = field_str(&f);
        else if (f.number == 2 && f.wire == 5)
            score.u = (uint32_t)f.value;
        else if (f.number == 3 && f.wire == 0)
            type = f.value;
    }
    if (c.bad)
        return damaged(b, "a piece", e);
    if (type < TOKEN_NORMAL || type > TOKEN_BYTE)
        return err_set(e, HEARTH_EDAMAGED, "%s: piece %zu has type %llu, which does not exist", b->what, b->v->n_tokens,
                       (unsigned long long)type);
    /* The file's bytes stay in the arena, so the text may point into them. */
    return build_token(b, b->v->n_tokens, text, score.f, (int)type, 0, e);
}

/* Negative ids (none) are ten-byte varints. */
static int32_t field_id(const struct field *f)
{
    return f->value <= INT32_MAX ? (int32_t)f->value : -1;
}

static enum hearth_status read_trainer(struct vocab_build *b, struct cursor c, struct err *e)
{
    struct field f;
    struct vocab *v = b->v;
    uint64_t model_type = 1;
    while (take_field(&c, &f)) {
        if (f.wire != 0)
            continue;
        switch (f.number) {
        case 3: model_type = f.value; break;
        case 24:
            if (f.value)
                return err_set(e, HEARTH_EUNSUPPORTED, "%s: treat_whitespace_as_suffix is not supported", b->what);
            break;
        case 35: v->byte_fallback = f.value != 0; break;
        case 40: v->unk = field_id(&f); break;
        case 41: v->bos = field_id(&f); break;
        case 42: v->eos = field_id(&f); break;
        case 43: v->pad = field_id(&f); break;
        default: break;
        }
    }
    if (c.bad)
        return damaged(b, "trainer_spec", e);
    if (model_type != 1 && model_type != 2)
        return err_set(e, HEARTH_EUNSUPPORTED, "%s: SentencePiece models of type %llu (word or char) are not supported", b->what,
                       (unsigned long long)model_type);
    v->kind = model_type == 1 ? VOCAB_UGM : VOCAB_SPM;
    return HEARTH_OK;
}

static enum hearth_status read_normalizer(struct vocab_build *b, struct cursor c, struct err *e)
{
    struct field f;
    while (take_field(&c, &f)) {
        if (f.number == 2 && f.wire == 2)
            b->v->charsmap = field_str(&f);
        else if (f.number == 3 && f.wire == 0)
            b->v->add_space_prefix = f.value != 0;
        else if (f.number == 4 && f.wire == 0)
            b->v->remove_extra_whitespaces = f.value != 0;
    }
    if (c.bad)
        return damaged(b, "normalizer_spec", e);
    if (b->v->charsmap.n && !charsmap_is_sane(b->v->charsmap))
        return err_set(e, HEARTH_EDAMAGED, "%s: precompiled_charsmap contradicts its own sizes", b->what);
    return HEARTH_OK;
}

enum hearth_status vocab_from_sentencepiece(struct vocab_build *b, const char *data, size_t n, struct err *e)
{
    struct cursor c = { (const uint8_t *)data, (const uint8_t *)data + n, false };
    struct field f;
    struct vocab *v = b->v;
    enum hearth_status st = HEARTH_OK;
    v->kind = VOCAB_UGM;
    v->pre = STR("default");
    v->unk = 0, v->bos = 1, v->eos = 2;
    v->add_space_prefix = v->remove_extra_whitespaces = true;
    while (st == HEARTH_OK && take_field(&c, &f)) {
        if (f.wire != 2)
            continue;
        if (f.number == 1)
            st = read_piece(b, f.bytes, e);
        else if (f.number == 2)
            st = read_trainer(b, f.bytes, e);
        else if (f.number == 3)
            st = read_normalizer(b, f.bytes, e);
    }
    if (st != HEARTH_OK)
        return st;
    if (c.bad || v->n_tokens == 0)
        return damaged(b, "the message", e);
    v->add_bos = v->kind == VOCAB_SPM && v->bos >= 0;
    v->add_eos = v->kind == VOCAB_UGM && v->eos >= 0;
    vocab_apply_family_flags(v);
    return HEARTH_OK;
}

/* ---- tiktoken ---- */

/* Bytes in the alphabet of byte-level BPE. */
static struct str to_alphabet(struct str bytes, struct arena *a)
{
    char *p = arena_push(a, bytes.n * 2 + 1, 1, 1);
    size_t n = 0;
    for (size_t i = 0; p && i < bytes.n; i++)
        n += utf8_put(p + n, byte_to_alphabet((uint8_t)bytes.p[i]));
    return (struct str){ p, n };
}

static enum hearth_status read_rank(struct vocab_build *b, struct str line, size_t i_line, struct err *e)
{
    const char *space = memchr(line.p, ' ', line.n);
    struct str digits = { line.p, space ? (size_t)(space - line.p) : 0 }, bytes;
    uint64_t rank = 0;
    struct arena scratch;
    enum hearth_status st;
    arena_init(&scratch, 0);
    bool ok = space && digits.n > 0 && digits.n < LIMIT_TOKEN_BYTES && base64_decode(&bytes, digits, &scratch) && bytes.n > 0;
    size_t n_digits = ok ? line.n - digits.n - 1 : 0;
    ok = ok && n_digits > 0 && n_digits < 10;
    for (size_t i = 0; ok && i < n_digits; i++) {
        ok = space[1 + i] >= '0' && space[1 + i] <= '9';
        rank = rank * 10 + (uint64_t)(space[1 + i] - '0');
    }
    if (!ok)
        st = err_set(e, HEARTH_EDAMAGED, "%s: line %zu is not base64, a space and a rank", b->what, i_line + 1);
    else if (rank < b->v->n_tokens && b->v->tokens[rank].type)
        st = err_set(e, HEARTH_EDAMAGED, "%s: line %zu: rank %llu comes twice", b->what, i_line + 1, (unsigned long long)rank);
    else
        st = build_token(b, rank, to_alphabet(bytes, b->a), 0, TOKEN_NORMAL, 0, e);
    arena_free(&scratch);
    return st;
}

/* The two parts of token `id` under the ranks below it; false: it is not made of two. */
static bool split_token(struct work *w, struct vocab_merge *m, int32_t id)
{
    struct str text = w->t->v.tokens[id].text;
    w->n_symbols = 0;
    for (size_t i = 0, len; i < text.n; i += len) {
        len = utf8_len(text.p + i, text.n - i);
        if (!push_symbol(w, (uint32_t)i, (uint32_t)len, -1))
            return false;
    }
    if (w->n_symbols < 2 || !merge_symbols(w, text.p, MERGE_BY_ID, id))
        return false;
    const struct symbol *left = &w->symbols[0], *right = left->next < 0 ? NULL : &w->symbols[left->next];
    if (!right || right->next >= 0)
        return false;
    m->left = text_index_find(&w->t->index, text.p, left->len);
    m->right = text_index_find(&w->t->index, text.p + right->start, right->len);
    return m->left >= 0 && m->right >= 0;
}

static enum hearth_status derive_merges(struct vocab_build *b, struct err *e)
{
    struct tokenizer t = { .v = *b->v };
    struct work w = { .t = &t, .e = e };
    struct arena scratch;
    struct vocab *v = b->v;
    v->merges = ARENA_NEW(b->a, struct vocab_merge, v->n_tokens);
    arena_init(&scratch, 0);
    for (size_t i = 0; i < v->n_tokens; i++)
        t.max_token_bytes = MAX(t.max_token_bytes, v->tokens[i].text.n);
    bool ok = v->merges && text_index_build(&t.index, v->tokens, v->n_tokens, &scratch);
    for (size_t i = 0; ok && i < v->n_tokens; i++)
        v->n_merges += split_token(&w, &v->merges[v->n_merges], (int32_t)i);
    free(w.symbols);
    free(w.heap);
    arena_free(&scratch);
    return ok ? HEARTH_OK : err_set(e, HEARTH_ENOMEM, "%s: no room for its merges", b->what);
}

static enum hearth_status add_llama3_specials(struct vocab_build *b, struct err *e)
{
    static const char *const names[] = {
        "<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>",
        "<|finetune_right_pad_id|>", "<|reserved_special_token_2|>", "<|start_header_id|>", "<|end_header_id|>",
        "<|eom_id|>", "<|eot_id|>", "<|python_tag|>",
    };
    struct vocab *v = b->v;
    for (size_t i = 0; i < 256; i++) {
        char text[64];
        int n = i < ARRAY_LEN(names) ? snprintf(text, sizeof text, "%s", names[i])
                                     : snprintf(text, sizeof text, "<|reserved_special_token_%zu|>", i - 8);
        struct str copy = { arena_strndup(b->a, text, (size_t)n), (size_t)n };
        enum hearth_status st = build_token(b, 128000 + i, copy, 0, TOKEN_CONTROL, 0, e);
        if (st != HEARTH_OK)
            return st;
    }
    v->pre = STR("llama-bpe");
    v->bos = 128000;
    v->eos = 128001;
    v->eot = 128009;
    v->add_bos = v->ignore_merges = true;
    return HEARTH_OK;
}

enum hearth_status vocab_from_tiktoken(struct vocab_build *b, const char *data, size_t n, struct err *e)
{
    const char *p = data, *end = data + n;
    enum hearth_status st = HEARTH_OK;
    b->v->kind = VOCAB_BPE;
    for (size_t i_line = 0; p < end && st == HEARTH_OK; i_line++) {
        const char *newline = memchr(p, '\n', (size_t)(end - p));
        struct str line = { p, (size_t)((newline ? newline : end) - p) };
        p = newline ? newline + 1 : end;
        if (line.n && line.p[line.n - 1] == '\r')
            line.n--;
        if (line.n > 0)
            st = read_rank(b, line, i_line, e);
    }
    for (size_t i = 0; st == HEARTH_OK && i < b->v->n_tokens; i++) {
        if (!b->v->tokens[i].type)
            st = err_set(e, HEARTH_EDAMAGED, "%s: rank %zu of %zu is missing", b->what, i, b->v->n_tokens);
    }
    if (st != HEARTH_OK)
        return st;
    if (b->v->n_tokens != 128000)
        return err_set(e, HEARTH_EUNSUPPORTED, "%s: a tiktoken file of %zu ranks; only that of Llama 3 (128000) is known", b->what,
                       b->v->n_tokens);
    return (st = derive_merges(b, e)) == HEARTH_OK ? add_llama3_specials(b, e) : st;
}

/* ---- llama2.c ---- */

static struct str with_space_marks(const char *p, size_t n, struct arena *a)
{
    char *copy = arena_push(a, n * 3 + 1, 1, 1);
    size_t m = 0;
    for (size_t i = 0; copy && i < n; i++) {
        if (p[i] == ' ') {
            memcpy(copy + m, "\xE2\x96\x81", 3);
            m += 3;
        } else {
            copy[m++] = p[i];
        }
    }
    return (struct str){ copy, m };
}

enum hearth_status vocab_from_llama2c(struct vocab *v, const char *path, size_t n_tokens, struct arena *a, struct err *e)
{
    struct vocab_build b = { v, a, path, 0 };
    char *data, *p, *end;
    size_t n;
    enum hearth_status st = file_read_all(&data, &n, path, LIMIT_VOCAB_FILE_BYTES, a, e);
    vocab_init(v);
    if (st != HEARTH_OK)
        return st;
    v->kind = VOCAB_SPM;
    v->pre = STR("default");
    v->add_bos = v->add_space_prefix = v->byte_fallback = true;
    v->unk = 0, v->bos = 1, v->eos = 2;
    end = data + n;
    p = n >= 4 ? data + 4 : end;
    for (size_t i = 0; i < n_tokens; i++) {
        static const char *const specials[] = { "<unk>", "<s>", "</s>" };
        if (end - p < 8 || (size_t)(end - p - 8) < load_le32(p + 4))
            return err_set(e, HEARTH_EDAMAGED, "%s: ends at token %zu of %zu", path, i, n_tokens);
        float score = load_f32(p);
        struct str text = with_space_marks(p + 8, load_le32(p + 4), a);
        p += 8 + load_le32(p + 4);
        int type = i == 0 ? TOKEN_UNKNOWN : i < 3 ? TOKEN_CONTROL : text.p && byte_token_value(text) >= 0 ? TOKEN_BYTE : TOKEN_NORMAL;
        if (i < 3)
            text = (struct str){ specials[i], strlen(specials[i]) };
        if ((st = build_token(&b, i, text, score, type, 0, e)) != HEARTH_OK)
            return st;
    }
    if (p != end)
        return err_set(e, HEARTH_EDAMAGED, "%s: %zu bytes behind token %zu, the last", path, (size_t)(end - p), n_tokens);
    const char *slash = strrchr(path, '/');
    v->name = (struct str){ slash ? slash + 1 : path, strlen(slash ? slash + 1 : path) };
    return vocab_check(v, path, e);
}

/* vocab.c: vocabularies in GGUF: read, checked, written so that reading gives the same back.
 *
 * Keys are those of the GGUF specification (tokenizer.ggml.*, tokenizer.chat_template). What they cannot say stands
 * in keys of ours, which other readers skip: tokenizer.hearth.flags (one byte a token: lstrip, rstrip, single_word),
 * tokenizer.hearth.merges_rank (an SPM vocabulary whose merges decide, not its scores), tokenizer.hearth.ignore_merges,
 * tokenizer.hearth.complete (what is not said is not so: no habits).
 *
 * Where keys are missing the family's habits hold, as llama.cpp has them: SentencePiece puts BOS and a space in front;
 * BERT adds [CLS] and [SEP]; byte-level BPE adds nothing, unless its pre-split rule says so (llama-bpe, tekken).
 *
 * Every id is tested against the number of tokens, every score for being finite, every array for its length, every
 * byte token for its two digits (V6). Merges are checked when the tokenizer is opened, which needs the texts' index.
 *
 * Strings borrow from the file's arena or mapping; nothing is copied but the tables. A mapping may change under us:
 * what is checked here is what was copied, and a text's bytes may be anything at any time.
 */
#include "formats/tokenizer_impl.h"

#include <ctype.h>
#include <math.h>
#include <string.h>

#define ID_KEYS(X) \
    X("tokenizer.ggml.bos_token_id", bos) \
    X("tokenizer.ggml.eos_token_id", eos) \
    X("tokenizer.ggml.eot_token_id", eot) \
    X("tokenizer.ggml.unknown_token_id", unk) \
    X("tokenizer.ggml.padding_token_id", pad) \
    X("tokenizer.ggml.seperator_token_id", sep) \
    X("tokenizer.ggml.cls_token_id", cls) \
    X("tokenizer.ggml.mask_token_id", mask)
#define BOOL_KEYS(X) \
    X("tokenizer.ggml.add_bos_token", add_bos) \
    X("tokenizer.ggml.add_eos_token", add_eos) \
    X("tokenizer.ggml.add_space_prefix", add_space_prefix) \
    X("tokenizer.ggml.remove_extra_whitespaces", remove_extra_whitespaces) \
    X("tokenizer.ggml.normalizer.lowercase", lowercase) \
    X("tokenizer.ggml.normalizer.strip_accents", strip_accents) \
    X("tokenizer.hearth.ignore_merges", ignore_merges) \
    X("tokenizer.hearth.byte_fallback", byte_fallback)

static const struct { enum vocab_kind kind; const char *model; } models[] = {
    { VOCAB_SPM, "llama" }, { VOCAB_BPE, "gpt2" }, { VOCAB_WPM, "bert" }, { VOCAB_UGM, "t5" }, { VOCAB_CHAR, "char" },
    { VOCAB_SPM, "gemma4" }, /* SentencePiece's alphabet, ranked pairs */
};

void vocab_init(struct vocab *v)
{
    *v = (struct vocab){ .bos = -1, .eos = -1, .eot = -1, .unk = -1, .pad = -1, .sep = -1, .cls = -1, .mask = -1 };
}

static bool is_id(const struct vocab *v, int32_t id)
{
    return id >= -1 && (id < 0 || (size_t)id < v->n_tokens);
}

enum hearth_status vocab_check(struct vocab *v, const char *what, struct err *e)
{
    const int32_t ids[] = { v->bos, v->eos, v->eot, v->unk, v->pad, v->sep, v->cls, v->mask };
    if (v->n_tokens == 0)
        return err_set(e, HEARTH_ENOTFOUND, "%s: no tokens", what);
    if (v->n_tokens > LIMIT_VOCAB || v->n_merges > LIMIT_MERGES)
        return err_set(e, HEARTH_ELIMIT, "%s: %zu tokens and %zu merges; at most %u and %u are taken", what, v->n_tokens,
                       v->n_merges, LIMIT_VOCAB, LIMIT_MERGES);
    for (size_t i = 0; i < v->n_tokens; i++) {
        const struct vocab_token *k = &v->tokens[i];
        if (k->text.n > LIMIT_TOKEN_BYTES)
            return err_set(e, HEARTH_ELIMIT, "%s: token %zu has %zu bytes; at most %zu are taken", what, i, k->text.n,
                           (size_t)LIMIT_TOKEN_BYTES);
        if (!isfinite(k->score))
            return err_set(e, HEARTH_EDAMAGED, "%s: the score of token %zu is not a number", what, i);
        if (k->type < TOKEN_NORMAL || k->type > TOKEN_BYTE)
            return err_set(e, HEARTH_EDAMAGED, "%s: token %zu has type %d, which does not exist", what, i, k->type);
        if (k->type == TOKEN_BYTE && byte_token_value(k->text) < 0 && v->kind != VOCAB_BPE)
            return err_set(e, HEARTH_EDAMAGED, "%s: byte token %zu reads \"%.*s\", not <0xHH>", what, i, STR_FMT(k->text));
    }
    for (size_t i = 0; i < ARRAY_LEN(ids); i++) {
        if (!is_id(v, ids[i]))
            return err_set(e, HEARTH_EDAMAGED, "%s: special token id %d is outside the %zu tokens", what, (int)ids[i],
                           v->n_tokens);
    }
    return HEARTH_OK;
}

static bool name_contains(struct str name, const char *what)
{
    size_t n = strlen(what);
    for (size_t i = 0; i + n <= name.n; i++) {
        size_t k = 0;
        while (k < n && tolower((unsigned char)name.p[i + k]) == what[k])
            k++;
        if (k == n)
            return true;
    }
    return false;
}

void vocab_apply_family_flags(struct vocab *v)
{
    bool is_phi3 = name_contains(v->name, "phi-3") || name_contains(v->name, "phi3");
    bool is_jina = name_contains(v->pre, "jina-v2"), is_modern_bert = name_contains(v->name, "modern-bert");
    for (size_t i = 0; i < v->n_tokens; i++) {
        struct vocab_token *k = &v->tokens[i];
        bool is_special = k->type == TOKEN_CONTROL || k->type == TOKEN_USER_DEFINED || k->type == TOKEN_UNKNOWN;
        if (is_phi3 && is_special && !str_eqz(k->text, "<unk>") && !str_eqz(k->text, "<s>") && !str_eqz(k->text, "<|endoftext|>"))
            k->flags |= TOKEN_RSTRIP;
        if ((is_jina && str_eqz(k->text, "<mask>")) || (is_modern_bert && str_eqz(k->text, "[MASK]")))
            k->flags |= TOKEN_LSTRIP;
    }
}

/* ---- reading ---- */

/* An array of one of the given length, or ENOTFOUND. */
static enum hearth_status get_list(const struct gguf *g, const char *key, enum gguf_kind kind, size_t n,
                                   struct gguf_array *out, struct err *e)
{
    enum hearth_status st = gguf_get_array(g, key, kind, out, e);
    if (st == HEARTH_OK && out->count != n)
        return err_set(e, HEARTH_EDAMAGED, "%s: %s has %zu entries for %zu tokens", g->path, key, out->count, n);
    return st;
}

static enum hearth_status read_tokens(struct vocab *v, const struct gguf *g, struct arena *a, struct err *e)
{
    struct gguf_array texts, scores, types, flags;
    enum hearth_status st = gguf_get_array(g, "tokenizer.ggml.tokens", GGUF_STRING, &texts, e), st_types, st_flags;
    if (st == HEARTH_ENOTFOUND)
        return err_set(e, HEARTH_EDAMAGED, "%s: tokenizer.ggml.tokens is missing", g->path);
    if (st != HEARTH_OK)
        return st;
    if (texts.count > LIMIT_VOCAB)
        return err_set(e, HEARTH_ELIMIT, "%s: %zu tokens; at most %u are taken", g->path, texts.count, LIMIT_VOCAB);
    st = get_list(g, "tokenizer.ggml.scores", GGUF_F32, texts.count, &scores, e);
    const struct gguf_kv *kv = gguf_find(g, "tokenizer.ggml.token_type"); /* signed or not, as writers differ */
    bool is_u32 = kv && kv->kind == GGUF_ARRAY && kv->v.a.kind == GGUF_U32;
    st_types = get_list(g, "tokenizer.ggml.token_type", is_u32 ? GGUF_U32 : GGUF_I32, texts.count, &types, e);
    st_flags = get_list(g, "tokenizer.hearth.flags", GGUF_U8, texts.count, &flags, e);
    if ((st && st != HEARTH_ENOTFOUND) || (st_types && st_types != HEARTH_ENOTFOUND) ||
        (st_flags && st_flags != HEARTH_ENOTFOUND))
        return st && st != HEARTH_ENOTFOUND ? st : st_types && st_types != HEARTH_ENOTFOUND ? st_types : st_flags;
    v->n_tokens = texts.count;
    v->tokens = ARENA_NEW(a, struct vocab_token, texts.count);
    if (!v->tokens)
        return err_set(e, HEARTH_ENOMEM, "%s: no room for %zu tokens", g->path, texts.count);
    struct gguf_strings text = gguf_strings(&texts);
    for (size_t i = 0; i < texts.count; i++) {
        struct vocab_token *k = &v->tokens[i];
        uint32_t type = st_types == HEARTH_OK ? load_le32(types.data + 4 * i) : TOKEN_NORMAL;
        k->text = gguf_next_string(&text);
        k->score = st == HEARTH_OK ? load_f32(scores.data + 4 * i) : 0;
        k->type = type == 0 ? TOKEN_NORMAL : (uint8_t)MIN(type, 255u); /* 0: "undefined" of old files */
        k->flags = st_flags == HEARTH_OK ? flags.data[i] & (TOKEN_LSTRIP | TOKEN_RSTRIP | TOKEN_SINGLE_WORD) : 0;
    }
    if (st_flags == HEARTH_ENOTFOUND)
        vocab_apply_family_flags(v);
    return HEARTH_OK;
}

bool vocab_split_merge(struct vocab_merge *m, const struct text_index *x, struct str line)
{
    enum { MAX_TRIES = 32 };
    int n_tries = 0;
    /* Nearly always there is one space; where tokens hold spaces themselves, the halves must be tokens. */
    for (size_t i = 1; i + 1 < line.n && n_tries < MAX_TRIES; i++) {
        if (line.p[i] != ' ')
            continue;
        n_tries++;
        m->left = text_index_find(x, line.p, i);
        m->right = m->left < 0 ? -1 : text_index_find(x, line.p + i + 1, line.n - i - 1);
        if (m->right >= 0)
            return true;
    }
    return false;
}

/* Cuts n <= FIND_MANY / 2 lines at their first space; an id is -1 where that does not give two tokens. */
static void split_merges(struct vocab_merge *m, const struct text_index *x, const struct str *lines, size_t n)
{
    struct str halves[FIND_MANY];
    int32_t ids[FIND_MANY];
    for (size_t k = 0; k < n; k++) {
        struct str s = lines[k];
        const char *space = s.n > 1 ? memchr(s.p + 1, ' ', s.n - 1) : NULL;
        size_t cut = space ? (size_t)(space - s.p) : s.n;
        halves[2 * k] = (struct str){ s.p, cut };
        halves[2 * k + 1] = (struct str){ s.p + MIN(cut + 1, s.n), s.n - MIN(cut + 1, s.n) };
    }
    text_index_find_many(ids, x, halves, 2 * n);
    for (size_t k = 0; k < n; k++)
        m[k] = (struct vocab_merge){ ids[2 * k], halves[2 * k + 1].n ? ids[2 * k + 1] : -1 };
}

static enum hearth_status read_merges(struct vocab *v, const struct gguf *g, struct arena *a, struct err *e)
{
    struct gguf_array lines;
    struct gguf_strings line;
    struct text_index *index;
    enum hearth_status st = gguf_get_array(g, "tokenizer.ggml.merges", GGUF_STRING, &lines, e);
    if (st == HEARTH_ENOTFOUND && v->kind == VOCAB_BPE)
        return err_set(e, HEARTH_EDAMAGED, "%s: tokenizer.ggml.merges is missing", g->path);
    if (st != HEARTH_OK)
        return st == HEARTH_ENOTFOUND ? HEARTH_OK : st;
    if (lines.count > LIMIT_MERGES)
        return err_set(e, HEARTH_ELIMIT, "%s: %zu merges; at most %u are taken", g->path, lines.count, LIMIT_MERGES);
    v->merges = ARENA_NEW(a, struct vocab_merge, lines.count);
    index = ARENA_NEW(a, struct text_index, 1);
    if (!v->merges || !index || !text_index_build(index, v->tokens, v->n_tokens, a))
        return err_set(e, HEARTH_ENOMEM, "%s: no room for %zu merges", g->path, lines.count);
    v->index = index;
    v->n_merges = lines.count;
    line = gguf_strings(&lines);
    for (size_t i = 0, n; i < lines.count; i += n) {
        struct str text[FIND_MANY / 2];
        n = MIN(ARRAY_LEN(text), lines.count - i);
        for (size_t k = 0; k < n; k++)
            text[k] = gguf_next_string(&line);
        split_merges(&v->merges[i], index, text, n);
        for (size_t k = 0; k < n; k++) {
            struct vocab_merge *m = &v->merges[i + k];
            if ((m->left < 0 || m->right < 0) && !vocab_split_merge(m, index, text[k]))
                return err_set(e, HEARTH_EDAMAGED, "%s: merge %zu (\"%.*s\") is not two tokens", g->path, i + k, STR_FMT(text[k]));
        }
    }
    return HEARTH_OK;
}

/* What holds where a file is silent. */
static void set_habits(struct vocab *v)
{
    const struct pre_rule *rule = v->kind == VOCAB_BPE ? pre_rule_find(v->pre) : NULL;
    switch (v->kind) {
    case VOCAB_SPM:
        v->bos = 1, v->eos = 2, v->unk = 0;
        v->add_bos = v->add_space_prefix = v->byte_fallback = true;
        break;
    case VOCAB_WPM:
        v->cls = v->bos = 101, v->unk = 100, v->sep = 102, v->pad = 0, v->mask = 103;
        v->add_bos = v->add_eos = true;
        break;
    case VOCAB_UGM:
        v->eos = 1, v->unk = 2, v->pad = 0;
        v->add_eos = v->add_space_prefix = true;
        break;
    default:
        v->add_bos = rule && (rule->flags & PRE_ADD_BOS);
        v->ignore_merges = rule && (rule->flags & PRE_IGNORE_MERGES);
        break;
    }
    int32_t *ids[] = { &v->bos, &v->eos, &v->unk, &v->sep, &v->cls, &v->pad, &v->mask };
    for (size_t i = 0; i < ARRAY_LEN(ids); i++)
        *ids[i] = *ids[i] >= 0 && (size_t)*ids[i] < v->n_tokens ? *ids[i] : -1;
}

/* No token of ordinary text has a capital letter: the texts were trained in lower case. */
static bool is_uncased(const struct vocab *v)
{
    for (size_t i = 0; i < v->n_tokens; i++) {
        const struct vocab_token *k = &v->tokens[i];
        if (k->type != TOKEN_NORMAL || (k->text.n && k->text.p[0] == '['))
            continue;
        for (size_t b = 0; b < k->text.n; b++) {
            if (k->text.p[b] >= 'A' && k->text.p[b] <= 'Z')
                return false;
        }
    }
    return true;
}

static enum hearth_status read_id(int32_t *id, const struct vocab *v, const struct gguf *g, const char *key, struct err *e)
{
    uint64_t u;
    enum hearth_status st = gguf_get_u64(g, key, 0, UINT32_MAX, &u, e);
    if (st != HEARTH_OK)
        return st == HEARTH_ENOTFOUND ? HEARTH_OK : st;
    if (u >= v->n_tokens)
        return err_set(e, HEARTH_EDAMAGED, "%s: %s is %llu, outside the %zu tokens", g->path, key, (unsigned long long)u,
                       v->n_tokens);
    *id = (int32_t)u;
    return HEARTH_OK;
}

static enum hearth_status read_settings(struct vocab *v, const struct gguf *g, struct arena *a, struct err *e)
{
    enum hearth_status st;
    struct gguf_array map;
    if (v->kind == VOCAB_WPM)
        v->lowercase = v->strip_accents = is_uncased(v);
#define READ_ID(key, field) \
    if ((st = read_id(&v->field, v, g, key, e)) != HEARTH_OK) \
        return st;
    ID_KEYS(READ_ID)
#undef READ_ID
#define READ_BOOL(key, field) \
    if ((st = gguf_get_bool(g, key, &v->field, e)) != HEARTH_OK && st != HEARTH_ENOTFOUND) \
        return st;
    BOOL_KEYS(READ_BOOL)
#undef READ_BOOL
    st = gguf_get_array(g, "tokenizer.ggml.precompiled_charsmap", GGUF_U8, &map, NULL);
    if (st == HEARTH_EDAMAGED)
        st = gguf_get_array(g, "tokenizer.ggml.precompiled_charsmap", GGUF_I8, &map, e);
    if (st != HEARTH_OK && st != HEARTH_ENOTFOUND)
        return st;
    if (st == HEARTH_OK)
        v->charsmap = (struct str){ arena_strndup(a, (const char *)map.data, map.count), map.count }; /* so that it stays as checked */
    if (v->charsmap.n && !v->charsmap.p)
        return err_set(e, HEARTH_ENOMEM, "%s: no room for tokenizer.ggml.precompiled_charsmap", g->path);
    if (v->charsmap.n && !charsmap_is_sane(v->charsmap))
        return err_set(e, HEARTH_EDAMAGED, "%s: tokenizer.ggml.precompiled_charsmap contradicts its own sizes", g->path);
    st = gguf_get_str(g, "tokenizer.chat_template", &v->chat_template, e);
    return st == HEARTH_ENOTFOUND ? HEARTH_OK : st;
}

enum hearth_status vocab_from_gguf(struct vocab *v, const struct gguf *g, struct arena *a, struct err *e)
{
    struct str model;
    bool is_complete = false;
    enum hearth_status st = gguf_get_str(g, "tokenizer.ggml.model", &model, e);
    vocab_init(v);
    if (st == HEARTH_ENOTFOUND || (st == HEARTH_OK && str_eqz(model, "none")) || (st == HEARTH_OK && str_eqz(model, "no_vocab")))
        return err_set(e, HEARTH_ENOTFOUND, "%s: holds no vocabulary (tokenizer.ggml.model)", g->path);
    if (st != HEARTH_OK)
        return st;
    for (size_t i = 0; i < ARRAY_LEN(models); i++) {
        if (str_eqz(model, models[i].model))
            v->kind = models[i].kind;
    }
    if (v->kind == VOCAB_NONE)
        return err_set(e, HEARTH_EUNSUPPORTED, "%s: vocabularies of kind \"%.*s\" are not supported", g->path, STR_FMT(model));
    v->pre = str_eqz(model, "gemma4") ? STR("gemma4") : STR("default");
    if (((st = gguf_get_str(g, "tokenizer.ggml.pre", &v->pre, e)) != HEARTH_OK && st != HEARTH_ENOTFOUND) ||
        ((st = gguf_get_str(g, "general.name", &v->name, e)) != HEARTH_OK && st != HEARTH_ENOTFOUND))
        return st;
    if ((st = read_tokens(v, g, a, e)) != HEARTH_OK)
        return st;
    if ((st = gguf_get_bool(g, "tokenizer.hearth.complete", &is_complete, e)) != HEARTH_OK && st != HEARTH_ENOTFOUND)
        return st;
    if (!is_complete)
        set_habits(v);
    if (str_eqz(model, "gemma4"))
        v->add_space_prefix = false;
    bool ranked = v->kind == VOCAB_BPE || str_eqz(model, "gemma4");
    if ((st = gguf_get_bool(g, "tokenizer.hearth.merges_rank", &ranked, e)) != HEARTH_OK && st != HEARTH_ENOTFOUND)
        return st;
    if (ranked && (st = read_merges(v, g, a, e)) != HEARTH_OK)
        return st;
    if ((st = read_settings(v, g, a, e)) != HEARTH_OK)
        return st;
    return vocab_check(v, g->path, e);
}

/* ---- writing ---- */

static void put_merges(const struct vocab *v, struct gguf_writer *w)
{
    struct arena a;
    arena_init(&a, 0);
    struct str *lines = ARENA_NEW(&a, struct str, v->n_merges);
    for (size_t i = 0; lines && i < v->n_merges; i++) {
        struct str left = v->tokens[v->merges[i].left].text, right = v->tokens[v->merges[i].right].text;
        char *line = arena_push(&a, left.n + right.n + 1, 1, 1);
        if (!line) {
            lines = NULL;
            break;
        }
        memcpy(line, left.p, left.n);
        line[left.n] = ' ';
        memcpy(line + left.n + 1, right.p, right.n);
        lines[i] = (struct str){ line, left.n + right.n + 1 };
    }
    CHECK(lines); /* a few MiB, beside a vocabulary that was just read */
    gguf_put_strs(w, "tokenizer.ggml.merges", lines, v->n_merges);
    arena_free(&a);
}

static void put_tokens(const struct vocab *v, struct gguf_writer *w)
{
    struct arena a;
    arena_init(&a, 0);
    struct str *texts = ARENA_NEW(&a, struct str, v->n_tokens);
    float *scores = ARENA_NEW(&a, float, v->n_tokens);
    int32_t *types = ARENA_NEW(&a, int32_t, v->n_tokens);
    uint8_t *flags = ARENA_NEW(&a, uint8_t, v->n_tokens);
    CHECK(texts && scores && types && flags);
    for (size_t i = 0; i < v->n_tokens; i++) {
        texts[i] = v->tokens[i].text;
        scores[i] = v->tokens[i].score;
        types[i] = v->tokens[i].type;
        flags[i] = v->tokens[i].flags;
    }
    gguf_put_strs(w, "tokenizer.ggml.tokens", texts, v->n_tokens);
    if (v->kind == VOCAB_SPM || v->kind == VOCAB_UGM)
        gguf_put_array(w, "tokenizer.ggml.scores", GGUF_F32, scores, v->n_tokens);
    gguf_put_array(w, "tokenizer.ggml.token_type", GGUF_I32, types, v->n_tokens);
    gguf_put_array(w, "tokenizer.hearth.flags", GGUF_U8, flags, v->n_tokens);
    arena_free(&a);
}

void vocab_to_gguf(const struct vocab *v, struct gguf_writer *w)
{
    for (size_t i = 0; i < ARRAY_LEN(models); i++) {
        if (models[i].kind == v->kind && (v->kind != VOCAB_SPM || str_eqz(v->pre, "gemma4") == (i == ARRAY_LEN(models) - 1)))
            gguf_put_str(w, "tokenizer.ggml.model", (struct str){ models[i].model, strlen(models[i].model) });
    }
    gguf_put_str(w, "tokenizer.ggml.pre", v->pre);
    put_tokens(v, w);
    if (v->n_merges)
        put_merges(v, w);
    if (v->kind == VOCAB_SPM)
        gguf_put_bool(w, "tokenizer.hearth.merges_rank", v->n_merges > 0);
    gguf_put_bool(w, "tokenizer.hearth.complete", true);
#define PUT_ID(key, field) \
    if (v->field >= 0) \
        gguf_put_u32(w, key, (uint32_t)v->field);
    ID_KEYS(PUT_ID)
#undef PUT_ID
#define PUT_BOOL(key, field) gguf_put_bool(w, key, v->field);
    BOOL_KEYS(PUT_BOOL)
#undef PUT_BOOL
    if (v->charsmap.n)
        gguf_put_array(w, "tokenizer.ggml.precompiled_charsmap", GGUF_U8, v->charsmap.p, v->charsmap.n);
    if (v->chat_template.n)
        gguf_put_str(w, "tokenizer.chat_template", v->chat_template);
}

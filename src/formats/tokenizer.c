/* tokenizer.c: text to token ids: opening a tokenizer, and cutting texts at added tokens.
 *
 * Problem: a text is mostly ordinary, but some stretches are tokens as they stand: control tokens ("<|im_end|>"), which
 * only the template may bring in, and user-defined ones, which anybody may write. Text from outside must never turn
 * into control tokens (threat T24), also where it meets the template's text.
 *
 * How: two Aho-Corasick machines over the reversed texts of the added tokens are run backwards over the text
 * (tokenizer_trie.c says why): the user-defined one over all of it, the control one over each trusted range by itself,
 * so a control token neither lies in nor reaches into an untrusted range. Each gives the longest token that begins at a
 * place; a walk forwards then takes the leftmost, the longer of the two, and hands the stretches between to
 * the family's encoder. Everything is linear in the text.
 *
 * Flags of added tokens: lstrip and rstrip swallow white space on their side, single_word wants no word character
 * at either side. White space swallowed by a token of the template may belong to text from outside.
 *
 * Unknown-type tokens count as control tokens here ("<unk>" in a text is not the unknown token).
 */
#include "formats/tokenizer_impl.h"

#include <stdlib.h>
#include <string.h>

/* ---- the struct work of one call ---- */

enum hearth_status work_nomem(struct work *w)
{
    return err_set(w->e, HEARTH_ENOMEM, "no memory to tokenize a text");
}

bool work_reserve(struct work *w, void *array, size_t *cap, size_t need, size_t size)
{
    void **p = array, *q;
    size_t n = *cap ? *cap : 64, bytes;
    (void)w;
    if (need <= *cap)
        return true;
    while (n < need)
        n *= 2;
    if (!size_mul(&bytes, n, size) || !(q = realloc(*p, bytes)))
        return false;
    *p = q;
    *cap = n;
    return true;
}

bool work_text(struct work *w, const char *p, size_t n)
{
    if (w->n_text + n > w->cap_text && !work_reserve(w, &w->text, &w->cap_text, w->n_text + n, 1))
        return false;
    memcpy(w->text + w->n_text, p, n);
    w->n_text += n;
    return true;
}

bool work_push(struct work *w, int32_t id)
{
    w->steps++;
    return ids_push(w->out, id);
}

void ids_free(struct ids *ids)
{
    free(ids->v);
    *ids = (struct ids){ 0 };
}

bool ids_push(struct ids *ids, int32_t id)
{
    if (ids->n == ids->cap) {
        size_t cap = ids->cap ? ids->cap * 2 : 64, bytes;
        int32_t *v = size_mul(&bytes, cap, sizeof *v) ? realloc(ids->v, bytes) : NULL;
        if (!v)
            return false;
        ids->v = v;
        ids->cap = cap;
    }
    ids->v[ids->n++] = id;
    return true;
}

/* ---- opening ---- */

/* SentencePiece finds user-defined pieces after spaces became U+2581; here they are looked for before. */
static struct str added_text(const struct tokenizer *t, const struct vocab_token *k, struct arena *a)
{
    char *copy;
    size_t n = 0;
    if (k->type != TOKEN_USER_DEFINED || (t->v.kind != VOCAB_SPM && t->v.kind != VOCAB_UGM))
        return k->text;
    copy = arena_push(a, k->text.n + 1, 1, 1);
    if (!copy)
        return k->text;
    for (size_t i = 0; i < k->text.n; i++) {
        if (k->text.n - i >= 3 && memcmp(k->text.p + i, "\xE2\x96\x81", 3) == 0)
            copy[n++] = ' ', i += 2;
        else
            copy[n++] = k->text.p[i];
    }
    return (struct str){ copy, n };
}

static bool is_added(const struct vocab_token *k, bool control)
{
    return control ? k->type == TOKEN_CONTROL || k->type == TOKEN_UNKNOWN : k->type == TOKEN_USER_DEFINED;
}

static enum hearth_status open_added(struct tokenizer *t, struct trie *trie, bool control, struct arena *a, struct err *e)
{
    size_t bytes = 0;
    for (size_t i = 0; i < t->v.n_tokens; i++)
        bytes += is_added(&t->v.tokens[i], control) ? t->v.tokens[i].text.n : 0;
    if (bytes == 0)
        return HEARTH_OK;
    if (bytes > LIMIT_ADDED_TOKEN_BYTES)
        return err_set(e, HEARTH_ELIMIT, "vocabulary: the added tokens have %zu bytes of text; at most %zu are taken", bytes,
                       (size_t)LIMIT_ADDED_TOKEN_BYTES);
    if (!trie_init(trie, bytes, true, a))
        return err_set(e, HEARTH_ENOMEM, "no room for the added tokens of the vocabulary");
    for (size_t i = 0; i < t->v.n_tokens; i++) {
        if (is_added(&t->v.tokens[i], control)) {
            struct str text = added_text(t, &t->v.tokens[i], a);
            trie_insert(trie, text.p, text.n, true, (int32_t)i);
        }
    }
    return trie_link(trie, a) ? HEARTH_OK : err_set(e, HEARTH_ENOMEM, "no room for the added tokens of the vocabulary");
}

static void find_bytes(struct tokenizer *t)
{
    t->has_bytes = true;
    memset(t->byte_ids, 0xff, sizeof t->byte_ids);
    if (t->v.kind == VOCAB_SPM || t->v.kind == VOCAB_UGM) {
        for (size_t i = 0; i < t->v.n_tokens; i++) {
            int byte = byte_token_value(t->v.tokens[i].text);
            if (byte >= 0 && (t->v.tokens[i].type == TOKEN_BYTE || t->byte_ids[byte] < 0))
                t->byte_ids[byte] = (int32_t)i;
        }
    }
    for (int b = 0; b < 256; b++)
        t->has_bytes &= t->byte_ids[b] >= 0;
}

/* Texts that end a generation wherever they are control tokens or end-of-turn ids say nothing. */
static const char *const eog_texts[] = {
    "<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|endoftext|>", "<|end_of_text|>",
    "<end_of_turn>", "<eos>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<end_of_utterance>", "<turn|>",
    ("<\xEF\xBD\x9C" "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>"), /* DeepSeek: full-width bars, marked spaces */
};

static void open_eog(struct tokenizer *t)
{
    const struct vocab *v = &t->v;
    int32_t ret = text_index_find(&t->index, "<|return|>", 10), call = text_index_find(&t->index, "<|call|>", 8);
    for (size_t i = 0; i < ARRAY_LEN(eog_texts); i++) {
        int32_t id = text_index_find(&t->index, eog_texts[i], strlen(eog_texts[i]));
        if (id < 0 || v->tokens[id].type == TOKEN_NORMAL || v->tokens[id].type == TOKEN_BYTE)
            continue;
        /* Where both exist, "<|end|>" only ends a message, not the turn. */
        if (ret >= 0 && call >= 0 && strcmp(eog_texts[i], "<|end|>") == 0)
            continue;
        t->eog[t->n_eog++] = id;
    }
    if (v->eos >= 0)
        t->eog[t->n_eog++] = v->eos;
    if (v->eot >= 0)
        t->eog[t->n_eog++] = v->eot;
}
_Static_assert(ARRAY_LEN(eog_texts) + 2 <= MAX_EOG, "room for every token that ends a generation");

static enum hearth_status open_family(struct tokenizer *t, struct arena *a, struct err *e)
{
    switch (t->v.kind) {
    case VOCAB_SPM:
        return open_spm(t, a, e);
    case VOCAB_BPE:
        return open_bpe(t, a, e);
    case VOCAB_WPM:
        return open_wpm(t, a, e);
    case VOCAB_UGM:
        return open_unigram(t, a, e);
    case VOCAB_CHAR:
        return HEARTH_OK;
    case VOCAB_NONE:
        break;
    }
    return err_set(e, HEARTH_ENOTFOUND, "there is no vocabulary");
}

enum hearth_status tokenizer_open(struct tokenizer **out, const struct vocab *v, struct arena *a, struct err *e)
{
    struct tokenizer *t = ARENA_NEW(a, struct tokenizer, 1);
    enum hearth_status st;
    *out = NULL;
    if (!t)
        return err_set(e, HEARTH_ENOMEM, "no room for a tokenizer");
    t->v = *v;
    if ((st = vocab_check(&t->v, "vocabulary", e)) != HEARTH_OK)
        return st;
    for (size_t i = 0; i < v->n_tokens; i++)
        t->max_token_bytes = MAX(t->max_token_bytes, v->tokens[i].text.n);
    bool has_index = v->index && v->index->tokens == v->tokens && v->index->n_tokens == v->n_tokens;
    if (has_index)
        t->index = *v->index;
    if ((!has_index && !text_index_build(&t->index, v->tokens, v->n_tokens, a)) || !open_plain(t, a))
        return err_set(e, HEARTH_ENOMEM, "no room for the %zu tokens of the vocabulary", v->n_tokens);
    open_eog(t);
    find_bytes(t);
    if ((st = open_added(t, &t->user, false, a, e)) == HEARTH_OK &&
        (st = open_added(t, &t->control, true, a, e)) == HEARTH_OK)
        st = open_family(t, a, e);
    if (st != HEARTH_OK) {
        close_bpe(t);
        return st;
    }
    *out = t;
    return HEARTH_OK;
}

void tokenizer_close(struct tokenizer *t)
{
    if (t)
        close_bpe(t);
}

const struct vocab *tokenizer_vocab(const struct tokenizer *t)
{
    return &t->v;
}

bool tokenizer_is_eog(const struct tokenizer *t, int32_t id)
{
    for (size_t i = 0; i < t->n_eog; i++) {
        if (t->eog[i] == id)
            return true;
    }
    return false;
}

/* ---- added tokens in a text ---- */

/* Appends, from right to left, the longest token of the machine that begins at each place of text[begin..end). */
static bool find_hits(struct work *w, const struct trie *trie, const char *text, size_t begin, size_t end)
{
    uint32_t state = 0;
    if (trie->n_states == 0)
        return true;
    for (size_t i = end; i-- > begin;) {
        uint8_t byte = (uint8_t)text[i];
        uint32_t next;
        w->steps++;
        while ((next = trie_child(trie, state, byte)) == 0 && state) {
            state = trie->fail[state];
            w->steps++;
        }
        state = next;
        if (trie->value[state] < 0)
            continue;
        if (!work_reserve(w, &w->hits, &w->cap_hits, w->n_hits + 1, sizeof *w->hits))
            return false;
        w->hits[w->n_hits++] = (struct added_hit){ i, trie->value[state] };
    }
    return true;
}

static bool find_control_hits(struct work *w, const char *text, size_t n, const struct text_span *untrusted, size_t n_untrusted)
{
    size_t end = n;
    for (size_t i = n_untrusted; i-- > 0; end = untrusted[i].begin) {
        if (!find_hits(w, &w->t->control, text, untrusted[i].end, end))
            return false;
    }
    return find_hits(w, &w->t->control, text, 0, end);
}

static bool space_before(const char *text, size_t begin, size_t *at)
{
    uint32_t cp;
    bool is_valid;
    size_t from;
    if (*at == begin)
        return false;
    from = MAX(utf8_floor(text, *at - 1), begin);
    utf8_take(text + from, *at - from, &cp, &is_valid);
    if (!is_valid || !cp_is_space(cp))
        return false;
    *at = from;
    return true;
}

static bool space_after(const char *text, size_t end, size_t *at)
{
    uint32_t cp;
    bool is_valid;
    size_t len;
    if (*at == end)
        return false;
    len = utf8_take(text + *at, end - *at, &cp, &is_valid);
    if (!is_valid || !cp_is_space(cp))
        return false;
    *at += len;
    return true;
}

static bool stands_alone(const char *text, size_t n, size_t begin, size_t end)
{
    uint32_t cp;
    bool is_valid;
    if (begin > 0) {
        size_t from = utf8_floor(text, begin - 1);
        utf8_take(text + from, begin - from, &cp, &is_valid);
        if (is_valid && cp_is_word(cp))
            return false;
    }
    if (end < n) {
        utf8_take(text + end, n - end, &cp, &is_valid);
        if (is_valid && cp_is_word(cp))
            return false;
    }
    return true;
}

static enum hearth_status encode_plain(struct work *w, const char *text, size_t n, bool is_first)
{
    if (n == 0)
        return HEARTH_OK;
    w->prev_was_unk = false;
    switch (w->t->v.kind) {
    case VOCAB_SPM:
        return encode_spm(w, text, n, is_first);
    case VOCAB_BPE:
        return encode_bpe(w, text, n, is_first);
    case VOCAB_WPM:
        return encode_wpm(w, text, n, is_first);
    case VOCAB_UGM:
        return encode_unigram(w, text, n, is_first);
    default:
        return encode_char(w, text, n, is_first);
    }
}

static size_t hit_bytes(const struct work *w, const struct added_hit *h)
{
    /* As it stands in the text: for SentencePiece one byte where the token has the three of U+2581. */
    return w->t->v.kind == VOCAB_WPM ? w->t->v.tokens[h->id].text.n : token_plain(w->t, h->id).n;
}

/* hits[0..n_control) and hits[n_control..n_hits) are each ordered from right to left. */
static enum hearth_status encode_between(struct work *w, const char *text, size_t n, size_t n_control)
{
    size_t c = n_control, u = w->n_hits, done = 0;
    bool is_first = true;
    enum hearth_status st;
    while (c > 0 || u > n_control) {
        struct added_hit *h;
        if (u == n_control || (c > 0 && w->hits[c - 1].at < w->hits[u - 1].at))
            h = &w->hits[--c];
        else if (c == 0 || w->hits[u - 1].at < w->hits[c - 1].at)
            h = &w->hits[--u];
        else
            h = hit_bytes(w, &w->hits[--u]) > hit_bytes(w, &w->hits[--c]) ? &w->hits[u] : &w->hits[c];
        uint8_t flags = w->t->v.tokens[h->id].flags;
        size_t begin = h->at, end = begin + hit_bytes(w, h);
        if (begin < done || ((flags & TOKEN_SINGLE_WORD) && !stands_alone(text, n, begin, end)))
            continue;
        while ((flags & TOKEN_LSTRIP) && space_before(text, done, &begin))
            ;
        while ((flags & TOKEN_RSTRIP) && space_after(text, n, &end))
            ;
        if ((st = encode_plain(w, text + done, begin - done, is_first)) != HEARTH_OK)
            return st;
        if (!work_push(w, h->id))
            return work_nomem(w);
        is_first = true;
        done = end;
    }
    return encode_plain(w, text + done, n - done, is_first);
}

static bool push_begin(struct work *w)
{
    const struct vocab *v = &w->t->v;
    int32_t id = v->kind == VOCAB_WPM && v->cls >= 0 ? v->cls : v->bos;
    return !v->add_bos || id < 0 || work_push(w, id);
}

static bool push_end(struct work *w)
{
    const struct vocab *v = &w->t->v;
    int32_t id = v->kind == VOCAB_WPM && v->sep >= 0 ? v->sep : v->eos;
    return !v->add_eos || id < 0 || work_push(w, id);
}

static enum hearth_status encode(struct work *w, const char *text, size_t n, unsigned flags,
                                 const struct text_span *untrusted, size_t n_untrusted)
{
    enum hearth_status st;
    size_t n_control;
    if ((flags & ENCODE_SPECIAL) && !find_control_hits(w, text, n, untrusted, n_untrusted))
        return work_nomem(w);
    n_control = w->n_hits;
    if (!find_hits(w, &w->t->user, text, 0, n))
        return work_nomem(w);
    if ((flags & ENCODE_BOS) && !push_begin(w))
        return work_nomem(w);
    if ((st = encode_between(w, text, n, n_control)) != HEARTH_OK)
        return st;
    return (flags & ENCODE_BOS) && !push_end(w) ? work_nomem(w) : HEARTH_OK;
}

enum hearth_status tokenizer_encode(const struct tokenizer *t, const char *text, size_t n, unsigned flags,
                                    const struct text_span *untrusted, size_t n_untrusted, struct ids *out,
                                    uint64_t *n_steps, struct err *e)
{
    struct work w = { .t = t, .out = out, .e = e };
    size_t n_before = out->n;
    enum hearth_status st;
    for (size_t i = 0; i < n_untrusted; i++)
        CHECK(untrusted[i].begin <= untrusted[i].end && untrusted[i].end <= n &&
              (i == 0 || untrusted[i - 1].end <= untrusted[i].begin));
    if (n > LIMIT_TEXT_BYTES)
        return err_set(e, HEARTH_ELIMIT, "a text of %zu bytes; at most %zu are tokenized at once", n, (size_t)LIMIT_TEXT_BYTES);
    st = encode(&w, text, n, flags, untrusted, n_untrusted);
    if (st != HEARTH_OK)
        out->n = n_before;
    if (n_steps)
        *n_steps = w.steps;
    free(w.symbols);
    free(w.heap);
    free(w.hits);
    free(w.text);
    free(w.split);
    free(w.lattice);
    work_free_bpe(&w);
    return st;
}

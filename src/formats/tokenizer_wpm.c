/* tokenizer_wpm.c: WordPiece as BERT's: clean, cut into words and punctuation, then the longest pieces from the left.
 *
 * Each character goes through the normaliser (control characters and U+FFFD dropped; accents taken off by canonical
 * decomposition and lower case made where the vocabulary wants it) and then either ends a word (white space), is a
 * word of its own (punctuation, CJK) or goes on with the word. A finished word is matched against a trie of all
 * pieces, in which the first piece of a word begins with U+2581, as GGUF stores them; a word that cannot be
 * covered, or of more than MAX_WORD_CHARS characters, is the unknown token as a whole.
 *
 * Each word is walked at most (its length) x (the longest piece), and words are bounded, so time is linear.
 * A decomposition is at most MAX_DECOMPOSED code points (the longest in Unicode is 18).
 *
 * Sources: Devlin et al., arXiv 1810.04805; BertNormalizer and BertPreTokenizer of the tokenizers library.
 */
#include "formats/tokenizer_impl.h"

#include <string.h>

#include <utf8proc.h>

enum { MAX_WORD_CHARS = 100, MAX_DECOMPOSED = 64 };

enum hearth_status open_wpm(struct tokenizer *t, struct arena *a, struct err *e)
{
    size_t bytes = 0;
    for (size_t i = 0; i < t->v.n_tokens; i++)
        bytes += token_is_plain(&t->v.tokens[i]) ? t->v.tokens[i].text.n : 0;
    if (bytes > TRIE_MAX_BYTES)
        return err_set(e, HEARTH_ELIMIT, "vocabulary: %zu bytes of pieces; at most %d are taken", bytes, TRIE_MAX_BYTES);
    if (!trie_init(&t->pieces, bytes, false, a))
        return err_set(e, HEARTH_ENOMEM, "no room for %zu bytes of pieces of the vocabulary", bytes);
    for (size_t i = 0; i < t->v.n_tokens; i++) {
        if (token_is_plain(&t->v.tokens[i]))
            trie_insert(&t->pieces, t->v.tokens[i].text.p, t->v.tokens[i].text.n, false, (int32_t)i);
    }
    return HEARTH_OK;
}

static bool is_cjk(uint32_t c)
{
    return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) ||
           (c >= 0x2A700 && c <= 0x2B73F) || (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) ||
           (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

/* The word in w->text (behind U+2581) becomes tokens. */
static bool flush_word(struct work *w, size_t *n_chars)
{
    const struct trie *trie = &w->t->pieces;
    size_t n_before = w->out->n, i = 0;
    if (*n_chars == 0)
        return true;
    while (i < w->n_text && *n_chars <= MAX_WORD_CHARS) {
        uint32_t state = 0;
        size_t longest = 0;
        int32_t id = -1;
        for (size_t k = i; k < w->n_text; k++) {
            state = trie_child(trie, state, (uint8_t)w->text[k]);
            w->steps++;
            if (state == 0)
                break;
            if (trie->value[state] >= 0) {
                id = trie->value[state];
                longest = k + 1 - i;
            }
        }
        if (longest == 0)
            break;
        if (!work_push(w, id))
            return false;
        i += longest;
    }
    if (i < w->n_text) {
        w->out->n = n_before;
        if (w->t->v.unk >= 0 && !work_push(w, w->t->v.unk))
            return false;
    }
    w->n_text = *n_chars = 0;
    return true;
}

static bool add_char(struct work *w, uint32_t c, size_t *n_chars)
{
    char text[4];
    if (*n_chars == 0 && !work_text(w, "\xE2\x96\x81", 3))
        return false;
    ++*n_chars;
    /* A word that is too long anyway need not be kept. */
    return *n_chars > MAX_WORD_CHARS || work_text(w, text, utf8_put(text, c));
}

static bool take_char(struct work *w, uint32_t c, size_t *n_chars)
{
    const struct vocab *v = &w->t->v;
    if (cp_is_space(c))
        return flush_word(w, n_chars);
    if (c == 0 || c == 0xFFFD || cp_is_control(c) || (v->strip_accents && cp_is_mark_nonspacing(c)))
        return true;
    if (v->lowercase)
        c = (uint32_t)utf8proc_tolower((utf8proc_int32_t)c);
    if (is_cjk(c) || cp_is_punctuation(c) || (c < 0x7F && cp_is_symbol(c)))
        return flush_word(w, n_chars) && add_char(w, c, n_chars) && flush_word(w, n_chars);
    return add_char(w, c, n_chars);
}

enum hearth_status encode_wpm(struct work *w, const char *text, size_t n, bool is_first)
{
    size_t n_chars = 0, len;
    bool is_valid, ok = true;
    uint32_t cp;
    (void)is_first;
    w->n_text = 0;
    for (size_t i = 0; i < n && ok; i += len) {
        utf8proc_int32_t parts[MAX_DECOMPOSED];
        utf8proc_ssize_t n_parts = 0;
        int boundary = 0;
        len = utf8_take(text + i, n - i, &cp, &is_valid);
        w->steps++;
        if (w->t->v.strip_accents && cp >= 0x80)
            n_parts = utf8proc_decompose_char((utf8proc_int32_t)cp, parts, MAX_DECOMPOSED, UTF8PROC_DECOMPOSE, &boundary);
        if (n_parts <= 0 || n_parts > MAX_DECOMPOSED) {
            ok = take_char(w, cp, &n_chars);
            continue;
        }
        for (utf8proc_ssize_t k = 0; k < n_parts && ok; k++)
            ok = take_char(w, (uint32_t)parts[k], &n_chars);
    }
    return ok && flush_word(w, &n_chars) ? HEARTH_OK : work_nomem(w);
}

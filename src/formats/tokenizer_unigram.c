/* tokenizer_unigram.c: SentencePiece's unigram model, and vocabularies of single characters.
 *
 * Unigram: of all ways to cut the normalised text into pieces, take the one with the greatest sum of scores. A
 * lattice of one cell per byte (best sum that ends here, token, where it began) is filled from the left: from each
 * character boundary a trie gives all pieces that begin there. A character that is no piece counts as unknown, at the
 * lowest score of the vocabulary less 10. Ties keep the earlier found, that is the shorter last piece.
 * Costs: length x longest piece; 24 bytes of memory per byte of text.
 *
 * The best sum at a place where every path must pass can be cut there; texts are cut at LIMIT_PIECE_BYTES in front of a
 * space, which no piece crosses in the families that use this (a piece has its space in front), so memory is bounded.
 *
 * Characters: each character that is a token gives it; others give the unknown token, or nothing if there is none.
 *
 * Source: Kudo, arXiv 1804.10959.
 */
#include "formats/tokenizer_impl.h"

#include <float.h>
#include <string.h>

struct cell { double sum; uint32_t from; int32_t id; };

enum hearth_status open_unigram(struct tokenizer *t, struct arena *a, struct err *e)
{
    size_t bytes = 0;
    float lowest = FLT_MAX;
    for (size_t i = 0; i < t->v.n_tokens; i++) {
        const struct vocab_token *k = &t->v.tokens[i];
        bytes += token_is_plain(k) ? k->text.n : 0;
        if (k->type == TOKEN_NORMAL)
            lowest = MIN(lowest, k->score);
    }
    if (bytes > TRIE_MAX_BYTES)
        return err_set(e, HEARTH_ELIMIT, "vocabulary: %zu bytes of pieces; at most %d are taken", bytes, TRIE_MAX_BYTES);
    t->unk_score = (lowest == FLT_MAX ? 0 : lowest) - 10;
    if (!trie_init(&t->pieces, bytes, false, a))
        return err_set(e, HEARTH_ENOMEM, "no room for %zu bytes of pieces of the vocabulary", bytes);
    for (size_t i = 0; i < t->v.n_tokens; i++) {
        if (token_is_plain(&t->v.tokens[i]))
            trie_insert(&t->pieces, t->v.tokens[i].text.p, t->v.tokens[i].text.n, false, (int32_t)i);
    }
    return HEARTH_OK;
}

static void relax(struct cell *to, double sum, size_t from, int32_t id)
{
    if (sum > to->sum)
        *to = (struct cell){ sum, (uint32_t)from, id };
}

static void fill_lattice(struct work *w, struct cell *cells, const char *p, size_t n)
{
    const struct tokenizer *t = w->t;
    for (size_t i = 0; i <= n; i++)
        cells[i] = (struct cell){ -DBL_MAX, 0, -1 };
    cells[0].sum = 0;
    for (size_t i = 0, len; i < n; i += len) {
        uint32_t state = 0;
        bool has_single = false;
        len = utf8_len(p + i, n - i);
        for (size_t k = i; k < n; k++) {
            state = trie_child(&t->pieces, state, (uint8_t)p[k]);
            w->steps++;
            if (state == 0)
                break;
            int32_t id = t->pieces.value[state];
            if (id < 0)
                continue;
            has_single |= k + 1 - i == len;
            /* An added token always wins over its parts. */
            double score = t->v.tokens[id].type == TOKEN_USER_DEFINED ? 0 : t->v.tokens[id].score;
            relax(&cells[k + 1], cells[i].sum + score, i, id);
        }
        if (!has_single)
            relax(&cells[i + len], cells[i].sum + t->unk_score, i, -1);
    }
}

static bool push_unknown(struct work *w, const char *p, size_t n)
{
    if (w->t->has_bytes && w->t->v.byte_fallback) {
        for (size_t i = 0; i < n; i++) {
            if (!work_push(w, w->t->byte_ids[(uint8_t)p[i]]))
                return false;
        }
        return true;
    }
    if (w->prev_was_unk || w->t->v.unk < 0)
        return true;
    w->prev_was_unk = true;
    return work_push(w, w->t->v.unk);
}

static bool encode_lattice(struct work *w, const char *p, size_t n)
{
    struct cell *cells;
    if (!work_reserve(w, &w->lattice, &w->cap_lattice, n + 1, sizeof *cells))
        return false;
    cells = w->lattice;
    fill_lattice(w, cells, p, n);
    /* Turn the path round: from then on `from` of a cell is the end of the piece that begins there. */
    size_t end = n, next_end = n;
    while (end > 0) {
        size_t begin = cells[end].from;
        int32_t id = cells[end].id;
        cells[end].from = (uint32_t)next_end;
        next_end = end;
        end = begin;
        cells[begin].sum = id; /* ids are exact in a double */
    }
    for (size_t begin = 0, to = next_end; begin < n; begin = to, to = cells[to].from) {
        int32_t id = (int32_t)cells[begin].sum;
        if (id < 0 ? !push_unknown(w, p + begin, to - begin) : !work_push(w, id))
            return false;
        if (id >= 0)
            w->prev_was_unk = false;
    }
    return true;
}

enum hearth_status encode_unigram(struct work *w, const char *text, size_t n, bool is_first)
{
    size_t at = 0;
    if (!normalise_pieces(w, text, n, is_first))
        return work_nomem(w);
    while (at < w->n_text) {
        size_t len = w->n_text - at, cut;
        if (len > LIMIT_PIECE_BYTES) {
            for (cut = LIMIT_PIECE_BYTES - 3; cut > LIMIT_PIECE_BYTES / 2; cut--) {
                if (memcmp(w->text + at + cut, "\xE2\x96\x81", 3) == 0)
                    break;
            }
            len = cut > LIMIT_PIECE_BYTES / 2 ? cut : utf8_floor(w->text + at, LIMIT_PIECE_BYTES);
        }
        if (!encode_lattice(w, w->text + at, len))
            return work_nomem(w);
        at += len;
    }
    return HEARTH_OK;
}

enum hearth_status encode_char(struct work *w, const char *text, size_t n, bool is_first)
{
    bool is_valid;
    uint32_t cp;
    (void)is_first;
    for (size_t i = 0, len; i < n; i += len) {
        len = utf8_take(text + i, n - i, &cp, &is_valid);
        int32_t id = find_plain(w->t, text + i, len);
        w->steps++;
        id = id >= 0 ? id : w->t->v.unk;
        if (id >= 0 && !work_push(w, id))
            return work_nomem(w);
    }
    return HEARTH_OK;
}

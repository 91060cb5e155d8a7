/* tokenizer_spm.c: SentencePiece's BPE: spaces become U+2581, pairs merge by score, what is left becomes bytes.
 *
 * A stretch of text is normalised (normalise_pieces, shared with unigram), cut into characters, merged
 * (tokenizer_merge.c) and each symbol that is left gives its token, or its bytes' tokens, or the unknown token.
 *
 * Scores decide, or, where the vocabulary came with ranked pairs, the ranks: then a pair of tokens may be joined only
 * if the list says so. That is how vocabularies trained elsewhere with byte fallback behave, whose merges may cross
 * words.
 *
 * Between two characters that stand side by side in no token nothing can ever merge. A bitmap of such neighbours
 * (hashed to 2^20 bits; a collision only costs speed) cuts the text there, exactly, so the list and the heap stay
 * as small as words although the rule looks at the whole text.
 *
 * A token of type "unused" may take part in merges but must not come out: it falls apart again into the halves it
 * was made of, as in SentencePiece.
 *
 * Sources: Sennrich et al., arXiv 1508.07909; Kudo and Richardson, arXiv 1808.06226.
 */
#include "formats/tokenizer_impl.h"

#include <stdlib.h>
#include <string.h>

enum { ADJACENT_BITS = 1 << 20 };

static size_t adjacent_slot(uint32_t left, uint32_t right)
{
    uint64_t h = ((uint64_t)left << 32 | right) * 0x9E3779B97F4A7C15u;
    return (size_t)(h >> 44);
}

static bool may_merge(const struct tokenizer *t, uint32_t left, uint32_t right)
{
    size_t bit = adjacent_slot(left, right);
    return t->adjacent[bit / 64] >> (bit % 64) & 1;
}

/* A byte that is no UTF-8 is a character of its own here, different from all others. */
static size_t take_symbol(const char *p, size_t n, uint32_t *cp)
{
    bool is_valid;
    size_t len = utf8_take(p, n, cp, &is_valid);
    if (is_valid)
        return len;
    *cp = 0x110000u + (uint8_t)*p;
    return 1;
}

static void note_neighbours(struct tokenizer *t, struct str text)
{
    uint32_t left = 0, cp;
    for (size_t i = 0, len; i < text.n; i += len) {
        len = take_symbol(text.p + i, text.n - i, &cp);
        if (i > 0) {
            size_t bit = adjacent_slot(left, cp);
            t->adjacent[bit / 64] |= (uint64_t)1 << (bit % 64);
        }
        left = cp;
    }
}

enum hearth_status open_spm(struct tokenizer *t, struct arena *a, struct err *e)
{
    t->adjacent = ARENA_NEW(a, uint64_t, ADJACENT_BITS / 64);
    if (!t->adjacent)
        return err_set(e, HEARTH_ENOMEM, "no room for the tables of the vocabulary");
    for (size_t i = 0; i < t->v.n_tokens; i++) {
        const struct vocab_token *k = &t->v.tokens[i];
        if (token_is_plain(k))
            note_neighbours(t, k->text);
        t->has_unused |= k->type == TOKEN_UNUSED;
    }
    return t->v.n_merges ? open_pairs(t, a, e) : HEARTH_OK;
}

static bool push_bytes(struct work *w, const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int32_t id = w->t->byte_ids[(uint8_t)p[i]];
        if (id < 0) { /* no byte tokens: neighbours that are unknown share one token */
            if (w->t->v.unk >= 0 && !w->prev_was_unk && !work_push(w, w->t->v.unk))
                return false;
            w->prev_was_unk = true;
            return true;
        }
        if (!work_push(w, id))
            return false;
        w->prev_was_unk = false;
    }
    return true;
}

/* Tokens of one merged symbol. The heap is empty by now, so its room serves as the stack of halves. */
static bool push_piece(struct work *w, const char *text, const struct symbol *s)
{
    size_t n_stack = 1;
    if (!work_reserve(w, &w->heap, &w->cap_heap, 2, sizeof *w->heap))
        return false;
    w->heap[0] = (struct candidate){ .right = s->start, .size = s->len, .merged = s->id };
    while (n_stack > 0) {
        struct candidate c = w->heap[--n_stack];
        int32_t id = c.merged >= 0 ? c.merged : find_plain(w->t, text + c.right, c.size);
        uint32_t left = id >= 0 && w->split && w->t->v.tokens[id].type == TOKEN_UNUSED ? w->split[id] : 0;
        w->steps++;
        if (left > 0 && left < c.size) {
            if (!work_reserve(w, &w->heap, &w->cap_heap, n_stack + 2, sizeof *w->heap))
                return false;
            w->heap[n_stack++] = (struct candidate){ .right = c.right + left, .size = c.size - left, .merged = -1 };
            w->heap[n_stack++] = (struct candidate){ .right = c.right, .size = left, .merged = -1 };
            continue;
        }
        if (id < 0 ? !push_bytes(w, text + c.right, c.size) : !work_push(w, id))
            return false;
        if (id >= 0)
            w->prev_was_unk = false;
    }
    return true;
}

static bool flush_symbols(struct work *w, const char *text)
{
    if (!merge_symbols(w, text, w->t->v.n_merges ? MERGE_BY_PAIR : MERGE_BY_SCORE, 0))
        return false;
    for (int32_t i = w->n_symbols ? 0 : -1; i >= 0; i = w->symbols[i].next) {
        if (!push_piece(w, text, &w->symbols[i]))
            return false;
    }
    w->n_symbols = 0;
    return true;
}

enum hearth_status encode_spm(struct work *w, const char *text, size_t n, bool is_first)
{
    const struct tokenizer *t = w->t;
    uint32_t left = 0, cp;
    if (!normalise_pieces(w, text, n, is_first))
        return work_nomem(w);
    if (t->has_unused && !w->split && !(w->split = calloc(t->v.n_tokens, sizeof *w->split)))
        return work_nomem(w);
    w->n_symbols = 0;
    for (size_t i = 0, len; i < w->n_text; i += len) {
        len = take_symbol(w->text + i, w->n_text - i, &cp);
        w->steps++;
        if (w->n_symbols > 0 && !may_merge(t, left, cp) && !flush_symbols(w, w->text))
            return work_nomem(w);
        if (!push_symbol(w, (uint32_t)i, (uint32_t)len, t->v.n_merges ? find_plain(t, w->text + i, len) : -1))
            return work_nomem(w);
        left = cp;
    }
    return flush_symbols(w, w->text) ? HEARTH_OK : work_nomem(w);
}

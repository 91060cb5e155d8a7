/* tokenizer_tables.c: the two hash tables of a tokenizer: text -> id, and pair of ids -> rank.
 *
 * Both are open addressing with at most half of the slots used, built once. The text hash is keyed with a random
 * number of this process, so that a vocabulary file cannot bring its own collisions; nothing that is printed or
 * stored depends on it. Costs: 4 bytes a slot for texts, 16 for pairs; a lookup is one or two cache misses.
 */
#include "formats/tokenizer_impl.h"

#include <string.h>

static uint64_t hash_text(uint64_t seed, const char *p, size_t n)
{
    uint64_t h = seed ^ n, word;
    while (n >= 8) {
        memcpy(&word, p, 8);
        h = (h ^ word) * 0x9E3779B97F4A7C15u;
        h ^= h >> 29;
        p += 8, n -= 8;
    }
    for (word = 0; n > 0; n--)
        word = word << 8 | (uint8_t)p[n - 1];
    h = (h ^ word) * 0xBF58476D1CE4E5B9u;
    h ^= h >> 32;
    return h * 0x94D049BB133111EBu >> 17;
}

bool text_index_build(struct text_index *x, const struct vocab_token *tokens, size_t n_tokens, struct arena *a)
{
    size_t n_slots = 64;
    while (n_slots < n_tokens * 2)
        n_slots *= 2;
    *x = (struct text_index){ .tokens = tokens, .slots = ARENA_NEW(a, int32_t, n_slots), .mask = n_slots - 1 };
    random_bytes(&x->seed, sizeof x->seed);
    if (!x->slots)
        return false;
    memset(x->slots, 0xff, n_slots * sizeof *x->slots);
    for (size_t id = 0; id < n_tokens; id++) {
        const struct vocab_token *k = &tokens[id];
        size_t i = hash_text(x->seed, k->text.p, k->text.n) & x->mask;
        while (x->slots[i] >= 0 && !str_eq(tokens[x->slots[i]].text, k->text))
            i = (i + 1) & x->mask;
        if (x->slots[i] < 0 || token_is_plain(k) || !token_is_plain(&tokens[x->slots[i]]))
            x->slots[i] = (int32_t)id;
    }
    return true;
}

int32_t text_index_find(const struct text_index *x, const char *p, size_t n)
{
    for (size_t i = hash_text(x->seed, p, n) & x->mask; x->slots[i] >= 0; i = (i + 1) & x->mask) {
        const struct str *s = &x->tokens[x->slots[i]].text;
        if (s->n == n && memcmp(s->p, p, n) == 0)
            return x->slots[i];
    }
    return -1;
}

static size_t hash_pair(int32_t left, int32_t right)
{
    uint64_t h = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9E3779B97F4A7C15u;
    return (size_t)((h ^ h >> 32) * 0xBF58476D1CE4E5B9u >> 20);
}

const struct pair_slot *pair_find(const struct pair_table *t, int32_t left, int32_t right)
{
    for (size_t i = hash_pair(left, right) & t->mask; t->slots[i].left >= 0; i = (i + 1) & t->mask) {
        if (t->slots[i].left == left && t->slots[i].right == right)
            return &t->slots[i];
    }
    return NULL;
}

/* Every merge must join two tokens to a third. One whose result may not come out of text (a control token) is
 * left out, so that no text can spell it. Of equal pairs the first counts. */
static enum hearth_status add_merge(struct tokenizer *t, size_t rank, struct buf *both, struct err *e)
{
    const struct vocab_merge *m = &t->v.merges[rank];
    int32_t left = text_index_find(&t->index, m->left.p, m->left.n);
    int32_t right = text_index_find(&t->index, m->right.p, m->right.n), merged;
    both->len = 0;
    if (!buf_append(both, m->left.p, m->left.n) || !buf_append(both, m->right.p, m->right.n))
        return err_set(e, HEARTH_ENOMEM, "no room for merge %zu of the vocabulary", rank);
    merged = text_index_find(&t->index, both->data, both->len);
    if (left < 0 || right < 0 || merged < 0)
        return err_set(e, HEARTH_EDAMAGED, "vocabulary: merge %zu (\"%.*s\" \"%.*s\") names a token that is not there",
                       rank, STR_FMT(m->left), STR_FMT(m->right));
    if (!token_is_plain(&t->v.tokens[merged]))
        return HEARTH_OK;
    size_t i = hash_pair(left, right) & t->pairs.mask;
    for (; t->pairs.slots[i].left >= 0; i = (i + 1) & t->pairs.mask) {
        if (t->pairs.slots[i].left == left && t->pairs.slots[i].right == right)
            return HEARTH_OK;
    }
    t->pairs.slots[i] = (struct pair_slot){ left, right, merged, (uint32_t)rank };
    return HEARTH_OK;
}

enum hearth_status open_pairs(struct tokenizer *t, struct arena *a, struct err *e)
{
    enum hearth_status st = HEARTH_OK;
    size_t n_slots = 64;
    struct buf both;
    while (n_slots < t->v.n_merges * 2)
        n_slots *= 2;
    t->pairs = (struct pair_table){ ARENA_NEW(a, struct pair_slot, n_slots), n_slots - 1 };
    if (!t->pairs.slots)
        return err_set(e, HEARTH_ENOMEM, "no room for %zu merges of the vocabulary", t->v.n_merges);
    for (size_t i = 0; i < n_slots; i++)
        t->pairs.slots[i].left = -1;
    buf_init(&both, 0);
    for (size_t rank = 0; rank < t->v.n_merges && st == HEARTH_OK; rank++)
        st = add_merge(t, rank, &both, e);
    buf_free(&both);
    return st;
}

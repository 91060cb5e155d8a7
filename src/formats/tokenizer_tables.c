/* tokenizer_tables.c: the two hash tables of a tokenizer: text -> id, and pair of ids -> rank.
 *
 * Both are open addressing, built in one pass at open: a vocabulary of 128,000 tokens and 280,000 merges asks for
 * about a million look-ups before the first token, and every page they touch is memory of this process. So slots
 * are small (8 bytes a text, 4 a pair, whose ids stand in the vocabulary's list already), and building works on a few
 * entries at once: hash them all and ask for their slots, then look. The text hash is keyed with a random number of this
 * process, so that a vocabulary file cannot bring its own collisions; nothing that is printed or stored depends on it.
 */
#include "formats/tokenizer_impl.h"

#include <string.h>

enum { AT_ONCE = 16 }; /* entries whose cache misses overlap */

static uint64_t load_native64(const char *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static uint64_t load_native32(const char *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* The last eight bytes or fewer are one word; overlapping loads see each byte of it. */
static uint64_t hash_text(uint64_t seed, const char *p, size_t n)
{
    uint64_t h = seed ^ n * 0x9E3779B97F4A7C15u, word = 0;
    for (; n > 8; p += 8, n -= 8) {
        h = (h ^ load_native64(p)) * 0x9E3779B97F4A7C15u;
        h ^= h >> 29;
    }
    if (n >= 4)
        word = load_native32(p) | load_native32(p + n - 4) << 32;
    else if (n > 0)
        word = (uint64_t)(uint8_t)p[0] | (uint64_t)(uint8_t)p[n / 2] << 8 | (uint64_t)(uint8_t)p[n - 1] << 16;
    h = (h ^ word) * 0xBF58476D1CE4E5B9u;
    h ^= h >> 32;
    return h * 0x94D049BB133111EBu;
}

/* The place comes from the upper bits of the hash, the tag in the slot from lower ones. */
static size_t place_of(const struct text_index *x, uint64_t hash)
{
    return (size_t)(hash >> 40) & x->mask;
}
static uint32_t tag_of(uint64_t hash)
{
    return (uint32_t)(hash >> 8);
}

/* The slot that has the text, or the free one where it belongs. */
static size_t probe(const struct text_index *x, const char *p, size_t n, uint64_t hash)
{
    size_t i = place_of(x, hash);
    uint32_t tag = tag_of(hash);
    for (; x->slots[i].id_1; i = (i + 1) & x->mask) {
        const struct str *s = &x->tokens[x->slots[i].id_1 - 1].text;
        if (x->slots[i].hash == tag && s->n == n && memcmp(s->p, p, n) == 0)
            return i;
    }
    return i;
}

bool text_index_build(struct text_index *x, const struct vocab_token *tokens, size_t n_tokens, struct arena *a)
{
    size_t n_slots = 64;
    CHECK(n_tokens <= LIMIT_VOCAB); /* place_of gives 24 bits */
    while (n_slots < n_tokens + n_tokens / 2)
        n_slots *= 2;
    *x = (struct text_index){ .tokens = tokens, .n_tokens = n_tokens, .slots = ARENA_NEW(a, struct text_slot, n_slots),
                              .mask = n_slots - 1 };
    random_bytes(&x->seed, sizeof x->seed);
    if (!x->slots)
        return false;
    for (size_t first = 0; first < n_tokens; first += AT_ONCE) {
        size_t n = MIN((size_t)AT_ONCE, n_tokens - first);
        uint64_t hash[AT_ONCE];
        for (size_t k = 0; k < n; k++) {
            hash[k] = hash_text(x->seed, tokens[first + k].text.p, tokens[first + k].text.n);
            __builtin_prefetch(&x->slots[place_of(x, hash[k])], 1);
        }
        for (size_t k = 0; k < n; k++) {
            const struct vocab_token *t = &tokens[first + k];
            struct text_slot *s = &x->slots[probe(x, t->text.p, t->text.n, hash[k])];
            if (!s->id_1 || token_is_plain(t) || !token_is_plain(&tokens[s->id_1 - 1]))
                *s = (struct text_slot){ (uint32_t)(first + k) + 1, tag_of(hash[k]) };
        }
    }
    return true;
}

int32_t text_index_find(const struct text_index *x, const char *p, size_t n)
{
    return (int32_t)x->slots[probe(x, p, n, hash_text(x->seed, p, n))].id_1 - 1;
}

void text_index_find_many(int32_t *ids, const struct text_index *x, const struct str *texts, size_t n)
{
    uint64_t hash[FIND_MANY];
    CHECK(n <= FIND_MANY);
    for (size_t k = 0; k < n; k++) {
        hash[k] = hash_text(x->seed, texts[k].p, texts[k].n);
        __builtin_prefetch(&x->slots[place_of(x, hash[k])]);
    }
    for (size_t k = 0; k < n; k++) {
        uint32_t id_1 = x->slots[place_of(x, hash[k])].id_1;
        if (id_1)
            __builtin_prefetch(&x->tokens[id_1 - 1].text);
    }
    for (size_t k = 0; k < n; k++) {
        uint32_t id_1 = x->slots[place_of(x, hash[k])].id_1;
        if (id_1)
            __builtin_prefetch(x->tokens[id_1 - 1].text.p);
    }
    for (size_t k = 0; k < n; k++)
        ids[k] = (int32_t)x->slots[probe(x, texts[k].p, texts[k].n, hash[k])].id_1 - 1;
}

/* ---- pairs ---- */

static size_t hash_pair(int32_t left, int32_t right)
{
    uint64_t h = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9E3779B97F4A7C15u;
    return (size_t)((h ^ h >> 32) * 0xBF58476D1CE4E5B9u >> 20);
}

int32_t pair_find(const struct pair_table *t, int32_t left, int32_t right)
{
    for (size_t i = hash_pair(left, right) & t->mask; t->slots[i]; i = (i + 1) & t->mask) {
        const struct vocab_merge *m = &t->pairs[t->slots[i] - 1];
        if (m->left == left && m->right == right)
            return (int32_t)t->slots[i] - 1;
    }
    return -1;
}

/* A few merges on their way into the table. */
struct merge_batch {
    size_t first, n;
    struct buf text;           /* what the merges make, one behind the other */
    int32_t merged[AT_ONCE];
};

static enum hearth_status spell_batch(struct merge_batch *b, const struct tokenizer *t, struct err *e)
{
    struct str texts[AT_ONCE];
    b->text.len = 0;
    for (size_t k = 0; k < b->n; k++) {
        const struct vocab_merge *m = &t->v.merges[b->first + k];
        if (m->left < 0 || (size_t)m->left >= t->v.n_tokens || m->right < 0 || (size_t)m->right >= t->v.n_tokens)
            return err_set(e, HEARTH_EDAMAGED, "vocabulary: merge %zu (%d %d) names a token that is not there", b->first + k,
                           (int)m->left, (int)m->right);
        struct str left = t->v.tokens[m->left].text, right = t->v.tokens[m->right].text;
        if (!buf_append(&b->text, left.p, left.n) || !buf_append(&b->text, right.p, right.n))
            return err_set(e, HEARTH_ENOMEM, "no room for merge %zu of the vocabulary", b->first + k);
        texts[k].n = left.n + right.n;
        __builtin_prefetch(&t->pairs.slots[hash_pair(m->left, m->right) & t->pairs.mask], 1);
    }
    for (size_t k = 0, at = 0; k < b->n; at += texts[k++].n)
        texts[k].p = b->text.data + at;
    text_index_find_many(b->merged, &t->index, texts, b->n);
    return HEARTH_OK;
}

/* Every merge must join two tokens to a third. One whose result may not come out of text (a control token) is
 * left out, so that no text can spell it. Of equal pairs the first counts. */
static enum hearth_status add_batch(struct tokenizer *t, const struct merge_batch *b, struct err *e)
{
    struct pair_table *p = &t->pairs;
    for (size_t k = 0; k < b->n; k++) {
        size_t rank = b->first + k, i;
        const struct vocab_merge *m = &p->pairs[rank];
        p->merged[rank] = -1;
        if (b->merged[k] < 0)
            return err_set(e, HEARTH_EDAMAGED, "vocabulary: merge %zu (\"%.*s\" \"%.*s\") names a token that is not there", rank,
                           STR_FMT(t->v.tokens[m->left].text), STR_FMT(t->v.tokens[m->right].text));
        if (!token_is_plain(&t->v.tokens[b->merged[k]]) || pair_find(p, m->left, m->right) >= 0)
            continue;
        for (i = hash_pair(m->left, m->right) & p->mask; p->slots[i];)
            i = (i + 1) & p->mask;
        p->slots[i] = (uint32_t)rank + 1;
        p->merged[rank] = b->merged[k];
    }
    return HEARTH_OK;
}

enum hearth_status open_pairs(struct tokenizer *t, struct arena *a, struct err *e)
{
    enum hearth_status st = HEARTH_OK;
    size_t n_slots = 64, n_merges = t->v.n_merges;
    struct merge_batch b;
    while (n_slots < n_merges + n_merges / 2)
        n_slots *= 2;
    t->pairs = (struct pair_table){ t->v.merges, ARENA_NEW(a, int32_t, n_merges + 1), ARENA_NEW(a, uint32_t, n_slots), n_slots - 1 };
    if (!t->pairs.slots || !t->pairs.merged)
        return err_set(e, HEARTH_ENOMEM, "no room for %zu merges of the vocabulary", n_merges);
    buf_init(&b.text, 0);
    for (b.first = 0; b.first < n_merges && st == HEARTH_OK; b.first += b.n) {
        b.n = MIN((size_t)AT_ONCE, n_merges - b.first);
        st = spell_batch(&b, t, e);
        if (st == HEARTH_OK)
            st = add_batch(t, &b, e);
    }
    buf_free(&b.text);
    return st;
}

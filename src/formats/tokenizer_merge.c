/* tokenizer_merge.c: byte-pair merging: join the best pair of neighbours until none is left.
 *
 * The symbols of a stretch of text form a doubly linked list over an array; every pair of neighbours that may be
 * joined waits in a binary heap, ordered by (rank or score, then position from the left). Joining two symbols makes
 * their other pairs stale; stale entries are recognised when they come up, by their length, and dropped: the text
 * between two symbol starts names the symbol, so equal lengths at equal starts mean nothing changed.
 *
 * n symbols make at most n - 1 pairs at first and two more with each of at most n - 1 merges: O(n log n) whatever
 * the text. Looking a pair up costs its length when texts decide, which is bounded by the longest token.
 *
 * Rules differ between families (enum merge_rule); the loop does not. Short stretches, which is what nearly all are,
 * skip the heap and look for the best pair by eye.
 */
#include "formats/tokenizer_impl.h"

#include <string.h>

enum { BY_EYE = 12 }; /* below this many symbols a scan beats the heap */

/* Orders floats as unsigned numbers, the higher score first. */
static uint32_t score_order(float score)
{
    union { float f; uint32_t u; } v = { score + 0.0f }; /* -0 becomes 0 */
    uint32_t ascending = v.u & 0x80000000u ? ~v.u : v.u | 0x80000000u;
    return ~ascending;
}

struct judge { struct work *w; const char *text; enum merge_rule rule; int32_t below; };

/* May the symbols l and r be joined, into what, and how soon? */
static bool judge_pair(const struct judge *j, int32_t l, int32_t r, struct candidate *c)
{
    const struct tokenizer *t = j->w->t;
    const struct symbol *left = &j->w->symbols[l], *right = &j->w->symbols[r];
    uint32_t order;
    c->size = left->len + right->len;
    c->right = (uint32_t)r;
    j->w->steps++;
    if (j->rule == MERGE_BY_PAIR) {
        int32_t rank = left->id < 0 || right->id < 0 ? -1 : pair_find(&t->pairs, left->id, right->id);
        if (rank < 0)
            return false;
        c->merged = t->pairs.merged[rank];
        order = (uint32_t)rank;
    } else {
        c->merged = find_plain(t, j->text + left->start, c->size);
        if (c->merged < 0 || (j->rule == MERGE_BY_ID && c->merged >= j->below))
            return false;
        order = j->rule == MERGE_BY_ID ? (uint32_t)c->merged : score_order(t->v.tokens[c->merged].score);
        if (t->has_unused && j->w->split && t->v.tokens[c->merged].type == TOKEN_UNUSED)
            j->w->split[c->merged] = left->len;
    }
    c->key = (uint64_t)order << 32 | (uint32_t)l;
    return true;
}

static void heap_push(struct work *w, const struct candidate *c)
{
    size_t i = w->n_heap++;
    struct candidate *h = w->heap;
    while (i > 0 && c->key < h[(i - 1) / 2].key) {
        h[i] = h[(i - 1) / 2];
        i = (i - 1) / 2;
        w->steps++;
    }
    h[i] = *c;
}

static struct candidate heap_pop(struct work *w)
{
    struct candidate *h = w->heap, top = h[0], last = h[--w->n_heap];
    size_t i = 0, n = w->n_heap;
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && h[child + 1].key < h[child].key)
            child++;
        if (last.key <= h[child].key)
            break;
        h[i] = h[child];
        w->steps++;
    }
    h[i] = last;
    return top;
}

/* Joins the right symbol into the left one. */
static void join(struct work *w, int32_t l, const struct candidate *c)
{
    struct symbol *left = &w->symbols[l], *right = &w->symbols[c->right];
    left->len = c->size;
    left->id = c->merged;
    left->next = right->next;
    right->len = 0;
    if (right->next >= 0)
        w->symbols[right->next].prev = l;
}

static void merge_by_heap(struct judge *j)
{
    struct work *w = j->w;
    struct candidate c;
    w->n_heap = 0;
    for (int32_t i = 0; w->symbols[i].next >= 0; i = w->symbols[i].next) {
        if (judge_pair(j, i, w->symbols[i].next, &c))
            heap_push(w, &c);
    }
    while (w->n_heap > 0) {
        struct candidate top = heap_pop(w);
        int32_t l = (int32_t)(uint32_t)top.key;
        struct symbol *left = &w->symbols[l], *right = &w->symbols[top.right];
        if (left->len == 0 || right->len == 0 || left->len + right->len != top.size)
            continue; /* one of the two has been merged with somebody else since */
        join(w, l, &top);
        if (left->prev >= 0 && judge_pair(j, left->prev, l, &c))
            heap_push(w, &c);
        if (left->next >= 0 && judge_pair(j, l, left->next, &c))
            heap_push(w, &c);
    }
}

static void merge_by_eye(struct judge *j)
{
    struct work *w = j->w;
    struct candidate pair[BY_EYE]; /* of symbol i and its right neighbour; key UINT64_MAX: none */
    const struct candidate none = { .key = UINT64_MAX };
    for (int32_t i = 0; i >= 0; i = w->symbols[i].next) {
        if (w->symbols[i].next < 0 || !judge_pair(j, i, w->symbols[i].next, &pair[i]))
            pair[i] = none;
    }
    for (;;) {
        int32_t best = 0, prev, next;
        for (int32_t i = 0; i >= 0; i = w->symbols[i].next) {
            if (pair[i].key < pair[best].key)
                best = i;
        }
        if (pair[best].key == UINT64_MAX)
            return;
        join(w, best, &pair[best]);
        prev = w->symbols[best].prev;
        next = w->symbols[best].next;
        if (next < 0 || !judge_pair(j, best, next, &pair[best]))
            pair[best] = none;
        if (prev >= 0 && !judge_pair(j, prev, best, &pair[prev]))
            pair[prev] = none;
    }
}

bool merge_symbols(struct work *w, const char *text, enum merge_rule rule, int32_t below)
{
    struct judge j = { w, text, rule, below };
    if (w->n_symbols < 2)
        return true;
    if (w->n_symbols <= BY_EYE) {
        merge_by_eye(&j);
        return true;
    }
    /* n - 1 pairs at first; each merge takes one out and puts at most two in. */
    if (!work_reserve(w, &w->heap, &w->cap_heap, 2 * w->n_symbols, sizeof *w->heap))
        return false;
    merge_by_heap(&j);
    return true;
}

bool push_symbol(struct work *w, uint32_t start, uint32_t len, int32_t id)
{
    if (!work_reserve(w, &w->symbols, &w->cap_symbols, w->n_symbols + 1, sizeof *w->symbols))
        return false;
    int32_t i = (int32_t)w->n_symbols++;
    if (i > 0)
        w->symbols[i - 1].next = i;
    w->symbols[i] = (struct symbol){ start, len, i - 1, -1, id };
    return true;
}

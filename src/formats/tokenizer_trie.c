/* tokenizer_trie.c: many strings at once: tries, and Aho-Corasick machines made of them.
 *
 * Problem: added tokens must be found anywhere in a text, and the longest piece at a position must be found for
 * WordPiece and unigram, in time that a hostile vocabulary cannot make quadratic.
 *
 * Added tokens are entered backwards and the text is read backwards: then the longest suffix that is a pattern,
 * which is what such a machine knows at each step, is the longest added token that *begins* there. Leftmost-longest
 * partition is one more walk forwards over these hits. (Reading forwards needs restarts, hence is not linear.)
 *
 * A state is a number below 2^24; edges lie in one open-addressing table keyed by (state, byte), which costs 16
 * bytes a state whatever the alphabet; the root, where almost every byte of ordinary text ends, has a plain table.
 * The hash is multiplicative and the keys are our own state numbers, so a file cannot choose collisions freely.
 *
 * Source: Aho and Corasick, "Efficient string matching", CACM 18 (1975).
 */
#include "formats/tokenizer_impl.h"

#include <string.h>

bool trie_init(struct trie *t, size_t n_bytes, bool will_link, struct arena *a)
{
    size_t n_slots = 64, n_states = n_bytes + 1;
    CHECK(n_bytes <= TRIE_MAX_BYTES);
    while (n_slots < n_bytes * 2)
        n_slots *= 2;
    *t = (struct trie){ .mask = n_slots - 1, .n_states = 1 };
    t->edges = ARENA_NEW(a, struct trie_edge, n_slots);
    t->value = ARENA_NEW(a, int32_t, n_states);
    if (!t->edges || !t->value)
        return false;
    memset(t->value, 0xff, n_states * sizeof *t->value);
    if (will_link) {
        t->parent = ARENA_NEW(a, uint32_t, n_states);
        t->depth = ARENA_NEW(a, uint32_t, n_states);
        t->byte = ARENA_NEW(a, uint8_t, n_states);
        return t->parent && t->depth && t->byte;
    }
    return true;
}

static uint32_t add_child(struct trie *t, uint32_t state, uint8_t byte)
{
    uint32_t child = t->n_states++, key = state << 8 | byte;
    CHECK(child < 1u << 24);
    if (t->parent) {
        t->parent[child] = state;
        t->depth[child] = t->depth[state] + 1;
        t->byte[child] = byte;
    }
    if (state == 0) {
        t->root[byte] = child;
        return child;
    }
    size_t i = (key * (uint64_t)0x9E3779B97F4A7C15u >> 32) & t->mask;
    while (t->edges[i].to)
        i = (i + 1) & t->mask;
    t->edges[i] = (struct trie_edge){ key, child };
    return child;
}

void trie_insert(struct trie *t, const char *p, size_t n, bool backwards, int32_t id)
{
    uint32_t state = 0;
    for (size_t i = 0; i < n; i++) {
        uint8_t byte = (uint8_t)p[backwards ? n - 1 - i : i];
        uint32_t child = trie_child(t, state, byte);
        state = child ? child : add_child(t, state, byte);
    }
    if (n)
        t->value[state] = id;
}

/* States in order of depth, so that the failure link of a state is known before its children need it. */
static uint32_t *states_by_depth(const struct trie *t, struct arena *a)
{
    uint32_t *order = ARENA_NEW(a, uint32_t, t->n_states), *first, max_depth = 0;
    for (uint32_t s = 0; s < t->n_states; s++)
        max_depth = MAX(max_depth, t->depth[s]);
    first = ARENA_NEW(a, uint32_t, (size_t)max_depth + 2);
    if (!order || !first)
        return NULL;
    for (uint32_t s = 0; s < t->n_states; s++)
        first[t->depth[s] + 1]++;
    for (uint32_t d = 0; d <= max_depth; d++)
        first[d + 1] += first[d];
    for (uint32_t s = 0; s < t->n_states; s++)
        order[first[t->depth[s]]++] = s;
    return order;
}

bool trie_link(struct trie *t, struct arena *a)
{
    uint32_t *order = states_by_depth(t, a);
    t->fail = ARENA_NEW(a, uint32_t, t->n_states);
    if (!order || !t->fail)
        return false;
    for (uint32_t i = 1; i < t->n_states; i++) {
        uint32_t s = order[i], f = t->parent[s], to = 0;
        while (f) { /* the longest proper suffix of the parent that goes on with this byte */
            f = t->fail[f];
            to = trie_child(t, f, t->byte[s]);
            if (to || f == 0)
                break;
        }
        t->fail[s] = to == s ? 0 : to;
        if (t->value[s] < 0)
            t->value[s] = t->value[t->fail[s]];
    }
    t->parent = t->depth = NULL;
    t->byte = NULL;
    return true;
}

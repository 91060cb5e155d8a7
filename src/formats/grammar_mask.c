/* grammar_mask.c: which tokens of a vocabulary may come next.
 *
 * The tokens' bytes form a trie in preorder: arrays of byte, depth, end of the subtree, tokens that end here. A mask is one walk
 * over it from front to back: walk[d] is the lazy state after the first d bytes; where a byte leads nowhere, its whole subtree
 * is skipped. So a mask costs a few nanoseconds per node that is alive: the inside of a string (nearly all of 128 k tokens)
 * about a millisecond, everything else much less. Masks are kept per lazy state, the least recently used one goes.
 *
 * A token is choosable when it is ordinary text, a byte or user-defined, has at least one byte, at most
 * LIMIT_GRAMMAR_TOKEN_BYTES, and does not end generation. Tokens that end generation are in the mask where the text may end.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/grammar_run.h"
#include "formats/tokenizer_impl.h"

/* ---- the trie ---- */

struct entry {
    uint64_t head; /* the first eight bytes, so that most comparisons look no further */
    const uint8_t *p;
    uint32_t n;
    int32_t id;
};

struct str vocab_bytes_of(const struct grammar_vocab *v, int32_t id)
{
    static const struct str none = { "", 0 };
    if (id < 0 || (size_t)id >= v->n_tokens || tokenizer_is_eog(v->t, id))
        return none;
    uint8_t type = v->t->v.tokens[id].type;
    struct str text = token_plain(v->t, id);
    bool is_text = type == TOKEN_NORMAL || type == TOKEN_BYTE || type == TOKEN_USER_DEFINED;
    return is_text && text.n <= LIMIT_GRAMMAR_TOKEN_BYTES ? text : none;
}

static int by_bytes(const void *x, const void *y)
{
    const struct entry *a = x, *b = y;
    if (a->head != b->head)
        return a->head < b->head ? -1 : 1;
    uint32_t n = MIN(a->n, b->n);
    int order = n > 8 ? memcmp(a->p + 8, b->p + 8, n - 8) : 0;
    if (order)
        return order;
    return a->n != b->n ? (a->n < b->n ? -1 : 1) : a->id < b->id ? -1 : 1;
}

static size_t list_tokens(struct entry *list, struct grammar_vocab *v)
{
    size_t n = 0;
    for (size_t i = 0; i < v->n_tokens; i++) {
        struct str text = vocab_bytes_of(v, (int32_t)i);
        if (!text.n)
            continue;
        struct entry x = { .p = (const uint8_t *)text.p, .n = (uint32_t)text.n, .id = (int32_t)i };
        for (uint32_t k = 0; k < 8; k++)
            x.head = x.head << 8 | (k < x.n ? x.p[k] : 0);
        list[n++] = x;
    }
    qsort(list, n, sizeof *list, by_bytes);
    return n;
}

static uint32_t common(const struct entry *a, const struct entry *b)
{
    uint32_t n = MIN(a->n, b->n), i = 0;
    while (i < n && a->p[i] == b->p[i])
        i++;
    return i;
}

static size_t count_nodes(const struct entry *list, size_t n)
{
    size_t nodes = 0;
    for (size_t i = 0; i < n; i++)
        nodes += list[i].n - (i ? common(&list[i - 1], &list[i]) : 0);
    return nodes;
}

static void fill_trie(struct grammar_vocab *v, const struct entry *list, size_t n)
{
    uint32_t open[LIMIT_GRAMMAR_TOKEN_BYTES + 1]; /* the node of each depth on the way to here */
    uint32_t node = 0;
    size_t n_open = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t same = i ? common(&list[i - 1], &list[i]) : 0;
        for (; n_open > same; n_open--)
            v->next[open[n_open]] = node;
        for (uint32_t d = same; d < list[i].n; d++) {
            open[++n_open] = node;
            v->byte[node] = list[i].p[d];
            v->depth[node] = (uint16_t)(d + 1);
            v->token[node++] = (uint32_t)i; /* for an inner node: the first token behind it, as it has none */
        }
        v->ids[i] = list[i].id;
    }
    for (; n_open > 0; n_open--)
        v->next[open[n_open]] = node;
    v->token[node] = (uint32_t)n;
    CHECK(node == v->n_nodes);
}

enum hearth_status grammar_vocab_open(struct grammar_vocab **out, const struct tokenizer *t, struct arena *a, struct err *e)
{
    size_t before = a->used_bytes;
    struct grammar_vocab *v = ARENA_NEW(a, struct grammar_vocab, 1);
    struct entry *list = calloc(t->v.n_tokens + 1, sizeof *list);
    *out = NULL;
    if (!v || !list)
        goto fail;
    *v = (struct grammar_vocab){ .t = t, .n_tokens = t->v.n_tokens, .n_words = (t->v.n_tokens + 31) / 32 };
    size_t n = list_tokens(list, v);
    v->n_nodes = count_nodes(list, n);
    if (v->n_nodes > UINT32_MAX / 2)
        goto fail;
    for (size_t i = 0; i < v->n_tokens; i++)
        v->n_ends += tokenizer_is_eog(t, (int32_t)i);
    v->byte = ARENA_NEW(a, uint8_t, v->n_nodes + 1);
    v->depth = ARENA_NEW(a, uint16_t, v->n_nodes + 1);
    v->next = ARENA_NEW(a, uint32_t, v->n_nodes + 1);
    v->token = ARENA_NEW(a, uint32_t, v->n_nodes + 1);
    v->ids = ARENA_NEW(a, int32_t, n + 1);
    v->ends = ARENA_NEW(a, int32_t, v->n_ends + 1);
    if (!v->byte || !v->depth || !v->next || !v->token || !v->ids || !v->ends)
        goto fail;
    fill_trie(v, list, n);
    free(list);
    v->n_ends = 0;
    for (size_t i = 0; i < v->n_tokens; i++)
        if (tokenizer_is_eog(t, (int32_t)i))
            v->ends[v->n_ends++] = (int32_t)i;
    v->bytes = a->used_bytes - before;
    *out = v;
    return HEARTH_OK;
fail:
    free(list);
    return err_set(e, HEARTH_ENOMEM, "no memory for a trie of %zu tokens", t->v.n_tokens);
}

size_t grammar_vocab_bytes(const struct grammar_vocab *v) { return v->bytes; }

/* ---- masks ---- */

static void set_bit(uint32_t *mask, int32_t id) { mask[id / 32] |= (uint32_t)1 << (id % 32); }

/* walk[0] is the state; returns whether any token fits. */
static bool fill_mask(struct grammar_cache *c, uint32_t *mask)
{
    const struct grammar_vocab *v = c->vocab;
    bool any = false;
    for (uint32_t i = 0; i < v->n_nodes;) {
        size_t d = v->depth[i];
        c->n_walk = d;
        uint32_t to = lazy_step(c, d - 1, v->byte[i]);
        if (to == LAZY_DEAD) {
            i = v->next[i];
            continue;
        }
        c->walk[d] = to;
        for (uint32_t k = v->token[i]; k < v->token[i + 1]; k++) {
            set_bit(mask, v->ids[k]);
            any = true;
        }
        i++;
    }
    return any;
}

/* A free mask, or the one that was not used for the longest time. */
static uint32_t take_mask(struct grammar_cache *c)
{
    uint32_t best = 0;
    for (uint32_t i = 0; i < c->n_masks; i++) {
        if (!c->mask_owner[i])
            return i;
        if (c->mask_used[i] < c->mask_used[best])
            best = i;
    }
    c->states[c->mask_owner[best]].mask = NO_MASK;
    c->mask_owner[best] = 0;
    return best;
}

enum hearth_status grammar_mask(struct grammar_run *r, const uint32_t **mask, struct err *e)
{
    struct grammar_cache *c = r->cache;
    const size_t i_state = r->n_steps % ARRAY_LEN(r->states), n_words = c->vocab->n_words;
    uint32_t slot = c->states[r->states[i_state]].mask;
    *mask = NULL;
    if (slot != NO_MASK) {
        c->stats.n_masks_found++;
        c->mask_used[slot] = ++c->time;
        *mask = c->masks + slot * n_words;
        return HEARTH_OK;
    }
    slot = take_mask(c);
    uint32_t *bits = c->masks + slot * n_words;
    memset(bits, 0, n_words * sizeof *bits);
    c->overflow = false;
    c->walk[0] = r->states[i_state];
    c->n_walk = 1;
    bool any = fill_mask(c, bits);
    c->n_walk = 0;
    c->stats.n_masks_made++;
    if (c->overflow)
        return err_set(e, HEARTH_ELIMIT, "too complex: the text so far can go on in more ways than the grammar's cache holds");
    if (c->states[r->states[i_state]].can_end) {
        for (size_t i = 0; i < c->vocab->n_ends; i++)
            set_bit(bits, c->vocab->ends[i]);
        any = true;
    }
    if (!any)
        return err_set(e, HEARTH_ELIMIT, "no token of the vocabulary fits what the grammar wants next");
    c->mask_owner[slot] = r->states[i_state];
    c->mask_used[slot] = ++c->time;
    c->states[r->states[i_state]].mask = slot;
    *mask = bits;
    return HEARTH_OK;
}

void grammar_apply(const uint32_t *mask, float *logits, size_t n_logits)
{
    for (size_t i = 0; i < n_logits; i += 32) {
        uint32_t word = mask[i / 32];
        size_t n = MIN(n_logits - i, (size_t)32);
        if (word == UINT32_MAX)
            continue;
        if (word == 0) {
            for (size_t k = 0; k < n; k++)
                logits[i + k] = -INFINITY;
            continue;
        }
        for (size_t k = 0; k < n; k++)
            logits[i + k] = word >> k & 1 ? logits[i + k] : -INFINITY;
    }
}

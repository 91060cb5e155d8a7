/* lookup.c: an index of all n-grams of a history, n = 1, 2, 3, for guessing what comes next.
 *
 * After A. Saxena, "Prompt lookup decoding" (2023): where the last tokens stood before, what followed them there is a
 * good guess of what follows now. Summaries, quotations, edited code and chat names all repeat their context.
 *
 *   tokens   t0 t1 t2 a  b  c  d  e  ...  a  b  c |        the 3-gram abc ends at 5 and at the end:
 *                           ^5 +--> guess d e ...           before[2][end] leads to 5
 *
 * For each n a table of buckets holds the newest position at which a gram of that bucket ends, and `before` chains
 * each position to the next older one of its bucket. The end of the history is itself the newest of its bucket, so a
 * search begins at before[end] without hashing. Candidates are compared with the tokens: a guess may be useless, never
 * made up. Of the newest PLACES that a gram stood at the one with the longest match is taken: who quotes goes on in
 * the same sentence, even if its next words stand elsewhere, too. Pushing a token writes one head and one link per n; taking the newest token away puts the link back into the
 * head, which undoes the push exactly.
 *
 * Buckets that different grams share make chains longer. A search follows HOPS links at most; then an older
 * place may be missed, which costs a guess and nothing else, and text that was made to collide costs no time.
 *
 * Costs: 12 bytes per token of the history, and 12 per bucket (as many buckets as tokens, up to 2^18), all from zero
 * pages that are only touched as the history grows. No allocation after opening.
 */
#include "context/lookup.h"

enum { BITS_MIN = 8, BITS_MAX = 18, HOPS = 64, PLACES = 8 };

bool lookup_open(struct lookup *l, size_t n_max)
{
    *l = (struct lookup){ .n_max = n_max, .n_bits = BITS_MIN };
    size_t n_words;
    while (l->n_bits < BITS_MAX && (size_t)1 << l->n_bits < n_max)
        l->n_bits++;
    if (n_max >= UINT32_MAX || !size_add(&n_words, n_max, (size_t)1 << l->n_bits) ||
        !size_mul(&l->bytes, n_words, LOOKUP_GRAM_MAX * sizeof *l->pages) || !(l->pages = pages_alloc(l->bytes))) {
        *l = (struct lookup){ 0 };
        return false;
    }
    for (size_t i = 0; i < LOOKUP_GRAM_MAX; i++) {
        l->heads[i] = l->pages + i * n_words;
        l->before[i] = l->heads[i] + ((size_t)1 << l->n_bits);
    }
    return true;
}

void lookup_close(struct lookup *l)
{
    pages_free(l->pages, l->bytes);
    *l = (struct lookup){ 0 };
}

/* The bucket of the gram of n tokens that ends at position i >= n - 1. */
static uint32_t *head_of(const struct lookup *l, const int32_t *tokens, size_t i, size_t n)
{
    uint64_t h = 0;
    for (size_t k = 0; k < n; k++)
        h = (h ^ (uint32_t)tokens[i - k]) * 0x9E3779B97F4A7C15u;
    return &l->heads[n - 1][h >> (64 - l->n_bits)];
}

void lookup_push(struct lookup *l, const int32_t *tokens)
{
    size_t i = l->n++;
    CHECK(i < l->n_max);
    for (size_t n = 1; n <= MIN(i + 1, (size_t)LOOKUP_GRAM_MAX); n++) {
        uint32_t *head = head_of(l, tokens, i, n);
        l->before[n - 1][i] = *head;
        *head = (uint32_t)i + 1;
    }
}

void lookup_truncate(struct lookup *l, const int32_t *tokens, size_t to)
{
    while (l->n > to) {
        size_t i = --l->n;
        for (size_t n = 1; n <= MIN(i + 1, (size_t)LOOKUP_GRAM_MAX); n++)
            *head_of(l, tokens, i, n) = l->before[n - 1][i];
    }
}

/* How many tokens that end at a, at most max, equal those that end at b > a. */
static size_t equal_tokens(const int32_t *tokens, size_t a, size_t b, size_t max)
{
    size_t n = 0, most = MIN(max, a + 1);
    while (n < most && tokens[a - n] == tokens[b - n])
        n++;
    return n;
}

/* The longest match among the newest places of the last n tokens; the newest of the longest. */
static struct match find_gram(const struct lookup *l, const int32_t *tokens, size_t n)
{
    struct match best = { 0, 0 };
    size_t end = l->n - 1, n_hops = 0, n_found = 0;
    for (uint32_t at = l->before[n - 1][end]; at && n_hops < HOPS && n_found < PLACES; at = l->before[n - 1][at - 1], n_hops++) {
        size_t len = equal_tokens(tokens, at - 1, end, LOOKUP_MATCH_MAX);
        if (len < n)
            continue;
        n_found++;
        if (len > best.len)
            best = (struct match){ at, len };
    }
    return best;
}

struct match lookup_find(const struct lookup *l, const int32_t *tokens)
{
    struct match m = { 0, 0 };
    for (size_t n = MIN(l->n, (size_t)LOOKUP_GRAM_MAX); n >= 1 && m.len == 0; n--)
        m = find_gram(l, tokens, n);
    return m;
}

void lookup_copy(const struct lookup *l, const int32_t *tokens, struct match m, int32_t *out, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = m.next + i < l->n ? tokens[m.next + i] : out[m.next + i - l->n];
}

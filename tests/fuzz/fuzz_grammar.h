/* fuzz_grammar.h: what the targets of grammars share: a grammar that was made is run.
 *
 * What must hold: a status with a sentence or a grammar; it can be opened; a text accepted in one go is accepted byte by byte,
 * also with a cache so small that collections happen, and after steps are taken back; it is deterministic.
 */
#ifndef FUZZ_GRAMMAR_H
#define FUZZ_GRAMMAR_H

#include "fuzz.h"

#include "formats/formats.h"

/* How many bytes of p fit, taken one at a time, each taken back once. */
static inline size_t fitting(struct grammar_run *r, const char *p, size_t n)
{
    size_t i = 0;
    while (i < n && grammar_accept_bytes(r, p + i, 1)) {
        bool can_end = grammar_can_end(r), is_over = grammar_is_over(r);
        CHECK(!is_over || can_end);
        grammar_rollback(r, 1);
        CHECK(grammar_accept_bytes(r, p + i, 1) && grammar_can_end(r) == can_end && grammar_is_over(r) == is_over);
        i++;
    }
    return i;
}

static inline void fuzz_run(enum hearth_status st, const struct err *e, const struct grammar *g, const char *p, size_t n, struct arena *a)
{
    struct grammar_cache *large, *small;
    struct grammar_run one, two;
    struct err again = { 0 };
    CHECK(st == e->status && (st == HEARTH_OK) == !e->text[0] && (st == HEARTH_OK) == (g != NULL));
    if (st != HEARTH_OK)
        return;
    CHECK(grammar_cache_open(&large, g, NULL, 0, a, &again) == HEARTH_OK && grammar_cache_open(&small, g, NULL, 1, a, &again) == HEARTH_OK);
    st = grammar_run_open(&one, large, &again);
    CHECK(st == HEARTH_OK || st == HEARTH_ELIMIT);
    if (st != HEARTH_OK || grammar_run_open(&two, small, &again) != HEARTH_OK) {
        grammar_run_close(&one);
        return;
    }
    n = MIN(n, (size_t)2000);
    size_t n_large = fitting(&one, p, n), n_small = fitting(&two, p, n);
    CHECK(n_small <= n_large); /* less when its tables overflow */
    grammar_run_close(&one);
    CHECK(grammar_run_open(&one, large, &again) == HEARTH_OK && grammar_accept_bytes(&one, p, n_large));
    grammar_run_close(&one);
    grammar_run_close(&two);
}

#endif

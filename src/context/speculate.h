/* speculate.h: how many guessed tokens are worth computing now; private to this folder.
 *
 * Learns from what it is told: how long steps of each width take, and how often a guess with a match of each length is
 * right. Knows no tokens and reads no clock.
 */
#ifndef HEARTH_SPECULATE_H
#define HEARTH_SPECULATE_H

#include "base/base.h"

enum { ODDS_CLASSES = 7 };

struct speculator {
    double step_ns;          /* a step of one token now; 0: none seen */
    double credit;           /* what drafts may lose, in steps of one token */
    uint64_t n_tokens;       /* seen so far: the time of everything below */
    struct step_width {
        double ratio;        /* its time in steps of one token */
        double n_seen;       /* 0: never */
        uint64_t seen_at;
    } widths[LIMIT_DRAFT + 2]; /* [w] steps of w tokens */
    struct odds { double p, n; } odds[ODDS_CLASSES];
};

void speculator_init(struct speculator *s);
/* A token came. match_len: how much stood before it where the guess was taken from; 0: there was no guess. */
void speculator_saw_token(struct speculator *s, size_t match_len, bool was_right);
/* A step of n_wide tokens, all but the first drafted, took ns. 1 <= n_wide <= LIMIT_DRAFT + 1. */
void speculator_saw_step(struct speculator *s, size_t n_wide, double ns);
/* A drafted token was right: its step is saved. */
void speculator_saved_step(struct speculator *s);
/* How many tokens, at most max <= LIMIT_DRAFT, to draft behind a match of match_len >= 1. */
size_t speculator_choose(const struct speculator *s, size_t match_len, size_t max);

#endif

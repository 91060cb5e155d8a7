/* speculate.c: the length of a draft, from measured step times and measured luck.
 *
 * A step over the last token and k guessed ones costs r(k + 1) times a step over one token and gives 1 + (how many of
 * the k are right) tokens. The k with the most tokens per time is taken; often it is 0.
 *
 * Luck. While a guess goes on being right its match grows, so one table will do: the chance that the next token is right
 * behind a match of this length. Each token that comes answers the question "would the guess have been right?" whether
 * it was drafted or not; so the table learns at no cost, and text that begins to repeat itself is noticed without trying.
 * Old answers fade: a class remembers about MEMORY of them.
 *
 * Times are kept as ratios to a step of one token, whose own time follows the machine as it becomes slower or faster. What
 * disturbs a step only adds time, so a sample below an estimate is believed sooner than one above it, and one far above
 * counts as FACTOR_MAX times as much at most. A width not seen for some time (the longer the more often it
 * was seen) lies on the line between its neighbours that were; beyond the widest of them each further token costs the mean
 * of those up to there, with SLOPE_UNKNOWN (about what matrix products cost that no longer wait for memory) as one more.
 * Where wide steps pay all the time, a plain one in PLAIN_EVERY tokens keeps the measure true.
 *
 * What it may lose. Each token adds a little credit, each drafted step takes what it costs more than a plain one, each
 * right guess gives a step back, and a draft must be covered by the credit. So whatever the text and the machine, drafts
 * lose at most CREDIT_START steps and CREDIT_PER_TOKEN of the time, but for the error of the ratios. Luck earns
 * credit for longer drafts within a few tokens. Credit also pays for trying short drafts whose time is unknown.
 *
 * tests/test_speculate.c simulates machines with noisy clocks: plain text loses at most 3 %, on machines where a guess costs as
 * much as a step, too; text that mostly quotes gains 1.4 times where each guess costs 0.2 steps, 2.5 times where it costs
 * 0.03. hearth bench --speculate measures real ones.
 */
#include "context/speculate.h"

static const double MEMORY = 48;            /* tokens */
static const double SLOPE_UNKNOWN = 0.25;   /* steps for one more token in a step */
static const double BELIEVED_FOR = 16;      /* tokens, times the square of the number of samples */
static const double SAMPLES_MAX = 8;
static const double PLAIN_FIRST = 3, PLAIN_EVERY = 128; /* plain steps before any other; tokens for one */
static const double CREDIT_START = 0.5, CREDIT_PER_TOKEN = 0.01, CREDIT_MAX = 8;
static const double WORTHWHILE = 1.05;      /* gains below this are noise */
static const double FACTOR_MAX = 2;
static const double STEP_RATE = 0.125, RATIO_RATE = 0.1;

/* Classes of match lengths: from how long on, and what is believed before anything was seen. */
static const struct { size_t from; double p; } classes[ODDS_CLASSES] = {
    { 1, 0.15 }, { 2, 0.35 }, { 3, 0.5 }, { 4, 0.6 }, { 6, 0.75 }, { 9, 0.9 }, { 16, 0.95 },
};
static const double CLASS_BELIEF = 4; /* worth so many answers */

void speculator_init(struct speculator *s)
{
    *s = (struct speculator){ .credit = CREDIT_START, .widths[1].ratio = 1 };
    for (size_t i = 0; i < ODDS_CLASSES; i++)
        s->odds[i] = (struct odds){ classes[i].p, CLASS_BELIEF };
}

static size_t class_of(size_t match_len)
{
    size_t i = ODDS_CLASSES - 1;
    while (i > 0 && match_len < classes[i].from)
        i--;
    return i;
}

void speculator_saw_token(struct speculator *s, size_t match_len, bool was_right)
{
    s->n_tokens++;
    s->credit = MIN(s->credit + CREDIT_PER_TOKEN, CREDIT_MAX);
    if (match_len == 0)
        return;
    struct odds *o = &s->odds[class_of(match_len)];
    o->n = MIN(o->n + 1, MEMORY);
    o->p += ((was_right ? 1 : 0) - o->p) / o->n;
}

void speculator_saved_step(struct speculator *s)
{
    s->credit = MIN(s->credit + 1, CREDIT_MAX);
}

static bool is_known(const struct speculator *s, size_t w)
{
    const struct step_width *width = &s->widths[w];
    return w == 1 || (width->n_seen > 0 && (double)(s->n_tokens - width->seen_at) < width->n_seen * width->n_seen * BELIEVED_FOR);
}

/* The time of a step of w tokens in steps of one. */
static double ratio_of(const struct speculator *s, size_t w)
{
    size_t lo = w, hi = w;
    while (!is_known(s, lo))
        lo--;
    while (hi <= LIMIT_DRAFT + 1 && !is_known(s, hi))
        hi++;
    if (lo == w)
        return s->widths[w].ratio;
    double at = s->widths[lo].ratio, slope = (at - 1 + SLOPE_UNKNOWN) / (double)lo;
    if (hi <= LIMIT_DRAFT + 1)
        slope = (s->widths[hi].ratio - at) / (double)(hi - lo);
    return at + slope * (double)(w - lo);
}

void speculator_saw_step(struct speculator *s, size_t w, double ns)
{
    struct step_width *width = &s->widths[w];
    CHECK(w >= 1 && w <= LIMIT_DRAFT + 1);
    double expected = width->n_seen > 0 ? width->ratio : ratio_of(s, w), rate;
    ns = MAX(ns, 1);
    if (s->step_ns <= 0)
        s->step_ns = ns / expected;
    double took = ns / s->step_ns, off = MIN(took / expected, FACTOR_MAX) - 1;
    width->n_seen = MIN(width->n_seen + 1, SAMPLES_MAX);
    width->seen_at = s->n_tokens;
    if (w == 1) {
        rate = off > 0 ? STEP_RATE : width->n_seen <= PLAIN_FIRST ? 1 : 4 * STEP_RATE;
        s->step_ns *= 1 + off * rate;
        return;
    }
    rate = MAX(1 / width->n_seen, RATIO_RATE);
    width->ratio = MAX(expected * (1 + off * (off > 0 ? rate : MIN(2 * rate, 1))), 1);
    s->credit -= width->ratio - 1;
}

/* A width whose time is worth knowing and paid for; 0: none. */
static size_t width_to_try(const struct speculator *s, size_t max)
{
    for (size_t w = 2; w <= MIN(max + 1, (size_t)4); w *= 2)
        if (!is_known(s, w))
            return 2 * (ratio_of(s, w) - 1) <= s->credit ? w : 0;
    return 0;
}

size_t speculator_choose(const struct speculator *s, size_t match_len, size_t max)
{
    double expected = 1, chance = 1, best_rate = WORTHWHILE;
    size_t best = 0;
    CHECK(max <= LIMIT_DRAFT);
    if (s->widths[1].n_seen < PLAIN_FIRST || (double)(s->n_tokens - s->widths[1].seen_at) >= PLAIN_EVERY)
        return 0;
    for (size_t k = 1; k <= max; k++) {
        double ratio = ratio_of(s, k + 1);
        chance *= s->odds[class_of(match_len + k - 1)].p;
        expected += chance;
        if (ratio - 1 > s->credit)
            continue;
        if (expected / ratio > best_rate) {
            best_rate = expected / ratio;
            best = k;
        }
    }
    if (best == 0 && (best = width_to_try(s, max)) > 0)
        best--;
    return best;
}

/* sampler.c: from logits to one token.
 *
 * The usual chain, in the usual order:
 *
 *   bias -> penalties -> (greedy: the best) | top_k -> top_p -> min_p -> temperature -> draw
 *
 * Only as much of the vocabulary is sorted as the chain looks at. With top_k a heap of k candidates meets each logit
 * once, and most lose against its root at once; with top_p alone the whole vocabulary becomes a heap (linear) and
 * candidates are popped until their mass suffices; with neither nothing is sorted and the draw goes in order of ids.
 *
 * Candidates have a total order: higher logit first, then lower id; so ties are the same everywhere. exp is
 * the kernels' own, sums are in double and in a fixed order, randomness is Philox4x32-10 (Salmon et al., "Parallel Random
 * Numbers: As Easy as 1, 2, 3", SC 2011) with key = seed and counter = position: the same (seed, position, logits,
 * history) gives the same token on every machine, and a token drawn twice (regenerated, drafted) comes out the same.
 *
 * A NaN among the logits is never chosen. If nothing is left (all -infinity), the answer is the lowest id.
 *
 * Penalties, per token seen n times in the window: l = l > 0 ? l / repeat : l * repeat; l -= n * frequency + presence.
 * min_p keeps candidates whose probability is at least min_p times the best one's. top_p keeps the fewest best ones
 * whose mass, among those top_k left, reaches top_p.
 *
 * Costs: no allocation per pick; 16 bytes per token of the vocabulary, held.
 */
#include "engine/engine.h"

#include <math.h>
#include <string.h>

struct candidate {
    float logit;
    int32_t id;
};

struct sampler {
    struct sampler_params p;
    size_t n_vocab;
    const struct kernels *k;
    struct candidate *c; /* [n_vocab] */
    float *w;            /* [n_vocab] weights */
    uint32_t *counts;    /* [n_vocab], all zero between picks */
    struct logit_bias *bias; /* copy of the caller's */
};

struct sampler_params sampler_defaults(void)
{
    return (struct sampler_params){ .temperature = 0.8f, .top_k = 40, .top_p = 0.95f, .min_p = 0.05f, .repeat_penalty = 1,
                                    .penalty_window = 64 };
}

static enum hearth_status check_params(const struct sampler_params *p, size_t n_vocab, struct err *e)
{
    const struct { const char *name; float v, lo, hi; } ranges[] = {
        { "temperature", p->temperature, 0, 100 },
        { "top_p", p->top_p, 0, 1 },
        { "min_p", p->min_p, 0, 1 },
        { "repeat_penalty", p->repeat_penalty, 0.01f, 100 },
        { "presence_penalty", p->presence_penalty, -100, 100 },
        { "frequency_penalty", p->frequency_penalty, -100, 100 },
    };
    for (size_t i = 0; i < ARRAY_LEN(ranges); i++)
        if (!(ranges[i].v >= ranges[i].lo && ranges[i].v <= ranges[i].hi))
            return err_set(e, HEARTH_EINVAL, "%s is %g; %g to %g are possible", ranges[i].name, (double)ranges[i].v,
                           (double)ranges[i].lo, (double)ranges[i].hi);
    if (p->top_k < 0)
        return err_set(e, HEARTH_EINVAL, "top_k is %d; 0 (off) or more was expected", p->top_k);
    for (size_t i = 0; i < p->n_bias; i++)
        if (p->bias[i].id < 0 || (size_t)p->bias[i].id >= n_vocab || isnan(p->bias[i].bias))
            return err_set(e, HEARTH_EINVAL, "logit bias for token %d: no such token or no number", p->bias[i].id);
    return HEARTH_OK;
}

enum hearth_status sampler_open(struct sampler **out, const struct sampler_params *p, size_t n_vocab, struct arena *a, struct err *e)
{
    enum hearth_status st = check_params(p, n_vocab, e);
    struct sampler *s;
    *out = NULL;
    if (st != HEARTH_OK)
        return st;
    if (n_vocab < 1 || n_vocab > LIMIT_VOCAB)
        return err_set(e, HEARTH_EINVAL, "a vocabulary of %zu tokens; 1 to %u are possible", n_vocab, LIMIT_VOCAB);
    if (!(s = ARENA_NEW(a, struct sampler, 1)) || !(s->c = ARENA_NEW(a, struct candidate, n_vocab)) ||
        !(s->w = ARENA_NEW(a, float, n_vocab)) || !(s->counts = ARENA_NEW(a, uint32_t, n_vocab)) ||
        (p->n_bias && !(s->bias = ARENA_NEW(a, struct logit_bias, p->n_bias))))
        return err_set(e, HEARTH_ENOMEM, "no memory for a sampler of %zu tokens", n_vocab);
    if (!(s->k = kernels_get(e)))
        return err_set(e, HEARTH_EINVAL, "no kernels for this machine");
    s->p = *p;
    s->n_vocab = n_vocab;
    if (p->n_bias)
        memcpy(s->bias, p->bias, p->n_bias * sizeof *s->bias);
    s->p.bias = s->bias;
    *out = s;
    return HEARTH_OK;
}

/* ---- changing logits ---- */

static void apply_penalties(struct sampler *s, float *logits, const int32_t *history, size_t n_history)
{
    const struct sampler_params *p = &s->p;
    size_t first = n_history > p->penalty_window ? n_history - p->penalty_window : 0;
    if (p->repeat_penalty == 1 && p->presence_penalty == 0 && p->frequency_penalty == 0)
        return;
    for (size_t i = first; i < n_history; i++)
        if (history[i] >= 0 && (size_t)history[i] < s->n_vocab)
            s->counts[history[i]]++;
    for (size_t i = first; i < n_history; i++) {
        int32_t id = history[i];
        if (id < 0 || (size_t)id >= s->n_vocab || s->counts[id] == 0)
            continue;
        float l = logits[id];
        l = l > 0 ? l / p->repeat_penalty : l * p->repeat_penalty;
        logits[id] = l - ((float)s->counts[id] * p->frequency_penalty + p->presence_penalty);
        s->counts[id] = 0; /* done; also leaves the table clean */
    }
}

/* ---- order ---- */

static bool is_before(struct candidate a, struct candidate b)
{
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

static struct candidate candidate_of(const float *logits, size_t i)
{
    return (struct candidate){ logits[i], (int32_t)i };
}

/* Moves c[i] down until its children come after it (is_worst_first: before it). */
static void sift(struct candidate *c, size_t n, size_t i, bool is_worst_first)
{
    struct candidate moving = c[i];
    for (size_t child = 2 * i + 1; child < n; child = 2 * i + 1) {
        if (child + 1 < n && is_before(c[child + 1], c[child]) != is_worst_first)
            child++;
        if (is_before(c[child], moving) == is_worst_first)
            break;
        c[i] = c[child];
        i = child;
    }
    c[i] = moving;
}

static void heapify(struct candidate *c, size_t n, bool is_worst_first)
{
    for (size_t i = n / 2; i-- > 0;)
        sift(c, n, i, is_worst_first);
}

/* The k best of logits[0..n) into c[0..k), as a heap with the worst in front. */
static void select_best(struct candidate *c, const float *logits, size_t n, size_t k)
{
    for (size_t i = 0; i < k; i++)
        c[i] = candidate_of(logits, i);
    heapify(c, k, true);
    for (size_t i = k; i < n; i++) {
        if (!(logits[i] > c[0].logit)) /* an equal logit has a higher id than all before it */
            continue;
        c[0] = candidate_of(logits, i);
        sift(c, k, 0, true);
    }
}

/* Takes the best off a heap of n with the best in front, and puts it to c[n - 1]. */
static struct candidate pop_best(struct candidate *c, size_t n)
{
    struct candidate best = c[0];
    c[0] = c[n - 1];
    sift(c, n - 1, 0, false);
    return c[n - 1] = best;
}

/* The best, lowest id first; a NaN becomes -infinity on the way. */
static int32_t best_id(float *logits, size_t n)
{
    size_t best = 0;
    for (size_t i = 0; i < n; i++) {
        if (isnan(logits[i]))
            logits[i] = -INFINITY;
        if (logits[i] > logits[best])
            best = i;
    }
    return (int32_t)best;
}

/* ---- the draw ---- */

void philox4x32(uint32_t x[4], uint32_t k0, uint32_t k1)
{
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)x[0] * 0xD2511F53u, b = (uint64_t)x[2] * 0xCD9E8D57u;
        uint32_t y[4] = { (uint32_t)(b >> 32) ^ x[1] ^ k0, (uint32_t)b, (uint32_t)(a >> 32) ^ x[3] ^ k1, (uint32_t)a };
        memcpy(x, y, sizeof y);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

/* In [0, 1), 53 bits. */
static double uniform(uint64_t seed, uint64_t position)
{
    uint32_t x[4] = { (uint32_t)position, (uint32_t)(position >> 32), 0, 0 };
    philox4x32(x, (uint32_t)seed, (uint32_t)(seed >> 32));
    return (double)((uint64_t)x[0] << 21 | x[1] >> 11) * 0x1p-53;
}

/* The temperature as a factor; below this one every draw is the best anyway. */
static float rate_of(const struct sampler_params *p)
{
    return 1 / MAX(p->temperature, 1e-6f);
}

/* Weights of all logits relative to the best into s->w, and their sum. */
static double weigh_all(struct sampler *s, const float *logits, float best, float rate)
{
    double sum = 0;
    memcpy(s->w, logits, s->n_vocab * sizeof *s->w);
    s->k->exp_scaled(s->w, best, rate, s->n_vocab);
    for (size_t i = 0; i < s->n_vocab; i++)
        sum += (double)s->w[i];
    return sum;
}

static double weigh(struct candidate c, float best, float rate)
{
    return (double)ref_exp((c.logit - best) * rate);
}

/* c[0..n) is a heap with the best in front; mass: the weight of all its candidates. Pops what top_p and min_p leave
 * (the i-th best ends up in c[n - 1 - i]) and returns how many. */
static size_t pop_kept(const struct sampler_params *p, struct candidate *c, size_t n, double mass)
{
    float best = c[0].logit;
    double sum = 0;
    size_t i = 0;
    while (i < n && (i == 0 || p->top_p >= 1 || sum < (double)p->top_p * mass)) {
        double w = weigh(c[0], best, 1);
        if (i > 0 && w < (double)p->min_p)
            break;
        pop_best(c, n - i);
        sum += w;
        i++;
    }
    return i;
}

/* c is what pop_kept left: one of the best n_kept of n. */
static int32_t draw_kept(const struct sampler_params *p, const struct candidate *c, size_t n, size_t n_kept, double u)
{
    float best = c[n - 1].logit, rate = rate_of(p);
    double total = 0, sum = 0;
    for (size_t i = 0; i < n_kept; i++)
        total += weigh(c[n - 1 - i], best, rate);
    for (size_t i = 0; i < n_kept; i++) {
        sum += weigh(c[n - 1 - i], best, rate);
        if (sum > u * total)
            return c[n - 1 - i].id;
    }
    return c[n - 1].id;
}

/* Neither top_k nor top_p: nothing needs an order. */
static int32_t draw_any(struct sampler *s, float *logits, int32_t best, double u)
{
    double total, sum = 0;
    if (s->p.min_p > 0) {
        (void)weigh_all(s, logits, logits[best], 1);
        for (size_t i = 0; i < s->n_vocab; i++)
            logits[i] = s->w[i] >= s->p.min_p ? logits[i] : -INFINITY;
    }
    total = weigh_all(s, logits, logits[best], rate_of(&s->p));
    for (size_t i = 0; i < s->n_vocab; i++) {
        sum += (double)s->w[i];
        if (sum > u * total)
            return (int32_t)i;
    }
    return best;
}

/* top_k, top_p or both. */
static int32_t draw_best(struct sampler *s, const float *logits, int32_t best, double u)
{
    const struct sampler_params *p = &s->p;
    size_t n = s->n_vocab;
    double mass = 0;
    if (p->top_k > 0 && (size_t)p->top_k < n) {
        n = (size_t)p->top_k;
        select_best(s->c, logits, s->n_vocab, n);
        for (size_t i = 0; i < n; i++)
            mass += weigh(s->c[i], logits[best], 1);
    } else {
        mass = weigh_all(s, logits, logits[best], 1);
        for (size_t i = 0; i < n; i++)
            s->c[i] = candidate_of(logits, i);
    }
    heapify(s->c, n, false);
    return draw_kept(p, s->c, n, pop_kept(p, s->c, n, mass), u);
}

int32_t sampler_pick(struct sampler *s, float *logits, const int32_t *history, size_t n_history, size_t position)
{
    const struct sampler_params *p = &s->p;
    for (size_t i = 0; i < p->n_bias; i++)
        logits[p->bias[i].id] += p->bias[i].bias;
    apply_penalties(s, logits, history, n_history);
    int32_t best = best_id(logits, s->n_vocab);
    /* An infinite best leaves no finite distance to weigh by. */
    if (p->temperature == 0 || p->top_k == 1 || !isfinite(logits[best]))
        return best;
    double u = uniform(p->seed, position);
    return p->top_k == 0 && p->top_p >= 1 ? draw_any(s, logits, best, u) : draw_best(s, logits, best, u);
}

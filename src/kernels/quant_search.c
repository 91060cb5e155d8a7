/* quant_search.c: see quant_search.h.
 *
 * A "pass" rounds a group with one inverse scale and takes the sums that least squares needs; everything else
 * is choosing which passes to make. For a scale alone, the error after least squares is
 * sum w x^2 - (sum w x q)^2 / (sum w q^2), so candidates are compared by the second term without another pass.
 * With a minimum it is a 2 x 2 system; where its solution would put the minimum above zero, which the k-quants
 * cannot store, the minimum is zero and the scale is solved alone.
 *
 * Cost: about 10 vector instructions per four values and pass; a Q4_K weight is visited some 50 times.
 */
#include "quant_search.h"

typedef int32_t i4 __attribute__((vector_size(16)));

/* iq4_nearest[i]: the value of iq4_table nearest to (i - 256) / 2 + 1/4. */
#define R4(v) v, v, v, v
#define R16(v) R4(v), R4(v), R4(v), R4(v)
static const int8_t iq4_nearest[512] = {
    R16(-127), R4(-127), R4(-127), -127,
    R16(-104), R16(-104), R4(-104), R4(-104), R4(-104),
    R16(-83), R16(-83), R4(-83), -83, -83, -83,
    R16(-65), R16(-65), -65, -65,
    R16(-49), R4(-49), R4(-49), R4(-49), -49, -49,
    R16(-35), R4(-35), R4(-35), -35, -35, -35,
    R16(-22), R4(-22), R4(-22), -22,
    R16(-10), R4(-10), -10, -10, -10,
    R16(1), R4(1), 1, 1, 1,
    R16(13), R4(13), R4(13),
    R16(25), R4(25), R4(25), 25,
    R16(38), R4(38), R4(38), R4(38),
    R16(53), R4(53), R4(53), R4(53), 53, 53, 53,
    R16(69), R16(69), R4(69),
    R16(89), R16(89), R4(89), R4(89), R4(89),
    R16(113), R16(113), R16(113), R4(113), 113, 113,
};

static inline f4 splat(float v)
{
    return (f4){ v, v, v, v };
}
static inline f4 pick(i4 mask, f4 yes, f4 no)
{
    return (f4)((mask & (i4)yes) | (~mask & (i4)no));
}
static inline float total(f4 v)
{
    return (v[0] + v[2]) + (v[1] + v[3]);
}
static inline f4 clamp(f4 v, float lo, float hi)
{
    v = pick(v < splat(lo), splat(lo), v);
    return pick(v > splat(hi), splat(hi), v);
}
/* To the nearest integer, halves to even, for |v| < 2^22: adding 1.5 * 2^23 leaves no room for a fraction. */
static inline f4 nearest(f4 v)
{
    return (v + splat(12582912.0f)) - splat(12582912.0f);
}

/* The nearest table value. All midpoints are multiples of one half, so the nearest is constant between them and a table
 * of 512 half-unit steps from -128 answers; at a midpoint either neighbour is as near. */
static inline f4 nearest_in_table(f4 v)
{
    i4 at = __builtin_convertvector(clamp(v, -128.0f, 127.5f) * splat(2.0f) + splat(256.0f), i4);
    return (f4){ iq4_nearest[at[0]], iq4_nearest[at[1]], iq4_nearest[at[2]], iq4_nearest[at[3]] };
}

static inline f4 on_grid(f4 v, float lo, float hi, bool is_table)
{
    return is_table ? nearest_in_table(v) : nearest(clamp(v, lo, hi));
}

static inline float inverse(float s)
{
    return s != 0.0f ? 1.0f / s : 0.0f;
}

static inline struct scale_sums pass_scale(const struct group *g, float id, float lo, float hi, bool is_table)
{
    f4 xq = splat(0), qq = splat(0);
    for (size_t i = 0; i < g->n4; i++) {
        f4 q = on_grid(g->x[i] * splat(id), lo, hi, is_table);
        f4 wq = g->w[i] * q;
        xq += wq * g->x[i];
        qq += wq * q;
    }
    return (struct scale_sums){ total(xq), total(qq) };
}

static struct scale_sums pass_linear(const struct group *g, float id, float lo, float hi)
{
    return pass_scale(g, id, lo, hi, false);
}

static struct scale_sums pass_table(const struct group *g, float id)
{
    return pass_scale(g, id, 0, 0, true);
}

static struct scale_sums pass(const struct group *g, const struct grid *r, float id)
{
    return r->is_table ? pass_table(g, id) : pass_linear(g, id, r->lo, r->hi);
}

struct scale_sums sums_scale(const struct group *g, const struct grid *r, float s)
{
    return pass(g, r, inverse(s));
}

static float largest(const struct group *g)
{
    float a = 0;
    for (size_t i = 0; i < g->n4; i++)
        for (size_t k = 0; k < 4; k++) {
            float v = g->x[i][k] < 0 ? -g->x[i][k] : g->x[i][k];
            a = v > a ? v : a;
        }
    return a;
}

float fit_scale(const struct group *g, const struct grid *r)
{
    float amax = largest(g), best = 0, s = 0;
    if (amax < 1e-18f) /* squares would vanish, and so would the scale in half precision */
        return 0;
    for (int sign = 1; sign >= (r->is_lopsided ? -1 : 1); sign -= 2)
        for (int i = 0; i < r->n_edges; i++) {
            float edge = r->edge_begin + (float)i * r->edge_step;
            struct scale_sums t = pass(g, r, (float)sign * edge / amax);
            if (t.qq > 0 && t.xq * t.xq > best * t.qq) {
                best = t.xq * t.xq / t.qq;
                s = t.xq / t.qq;
            }
        }
    for (int i = 0; i < 4 && s != 0; i++) {
        struct scale_sums t = pass(g, r, 1.0f / s);
        if (!(t.qq > 0 && t.xq * t.xq > best * t.qq))
            break;
        best = t.xq * t.xq / t.qq;
        s = t.xq / t.qq;
    }
    return s;
}

static inline float error_with(const struct group *g, float s, float lo, float hi, bool is_table)
{
    float id = inverse(s);
    f4 e = splat(0);
    for (size_t i = 0; i < g->n4; i++) {
        f4 d = g->x[i] - splat(s) * on_grid(g->x[i] * splat(id), lo, hi, is_table);
        e += g->w[i] * d * d;
    }
    return total(e);
}

float error_scale(const struct group *g, const struct grid *r, float s)
{
    return r->is_table ? error_with(g, s, 0, 0, true) : error_with(g, s, r->lo, r->hi, false);
}

void round_scale(int8_t *q, const struct group *g, const struct grid *r, float s)
{
    float id = inverse(s);
    for (size_t i = 0; i < g->n4; i++) {
        f4 v = on_grid(g->x[i] * splat(id), r->lo, r->hi, r->is_table);
        for (size_t k = 0; k < 4; k++)
            q[4 * i + k] = (int8_t)v[k];
    }
}

/* ---- with a minimum ---- */

/* v in 0..hi; where v is negative its bits are cleared. */
static inline f4 clamp_from_zero(f4 v, float hi)
{
    v = (f4)(~(v < splat(0)) & (i4)v);
    return pick(v > splat(hi), splat(hi), v);
}

static inline f4 on_affine_grid(f4 x, float m, float id, float n_max)
{
    return nearest(clamp_from_zero((x + splat(m)) * splat(id), n_max));
}

/* The sums that do not depend on q. */
static struct affine_sums group_sums(const struct group *g)
{
    f4 sx = splat(0), sw = splat(0);
    for (size_t i = 0; i < g->n4; i++) {
        sx += g->w[i] * g->x[i];
        sw += g->w[i];
    }
    return (struct affine_sums){ .x = total(sx), .w = total(sw) };
}

static struct affine_sums pass_affine(const struct group *g, const struct affine_sums *fixed, float n_max, float id, float m)
{
    f4 xq = splat(0), qq = splat(0), sq = splat(0);
    for (size_t i = 0; i < g->n4; i++) {
        f4 q = on_affine_grid(g->x[i], m, id, n_max);
        f4 wq = g->w[i] * q;
        xq += wq * g->x[i];
        qq += wq * q;
        sq += wq;
    }
    return (struct affine_sums){ total(xq), total(qq), total(sq), fixed->x, fixed->w };
}

struct affine_sums sums_affine(const struct group *g, float n_max, float s, float m)
{
    struct affine_sums fixed = group_sums(g);
    return pass_affine(g, &fixed, n_max, inverse(s), m);
}

/* Least squares for these q; the part of sum w x^2 that it explains. */
static float solve_affine(float *s, float *m, const struct affine_sums *t, bool m_is_free)
{
    float det = t->w * t->qq - t->q * t->q;
    if (det > 1e-6f * t->w * t->qq) {
        *s = (t->w * t->xq - t->x * t->q) / det;
        *m = (t->q * t->xq - t->qq * t->x) / det;
        if (m_is_free || *m >= 0)
            return *s * t->xq - *m * t->x;
    } else if (m_is_free) { /* all q equal: the minimum alone explains what can be explained */
        *s = 0;
        *m = t->w > 0 ? -t->x / t->w : 0;
        return -*m * t->x;
    }
    *m = 0;
    *s = t->qq > 0 ? t->xq / t->qq : 0;
    return *s * t->xq;
}

/* Rounds with (id, m0) and solves; true when it beat *best. */
static bool try_affine(float *s, float *m, float *best, const struct group *g, const struct affine_sums *fixed, float n_max,
                       float id, float m0, bool m_is_free)
{
    struct affine_sums t = pass_affine(g, fixed, n_max, id, m0);
    float si, mi, explained = solve_affine(&si, &mi, &t, m_is_free);
    if (si < 0 || !(explained > *best))
        return false;
    *best = explained;
    *s = si;
    *m = mi;
    return true;
}

/* The group with its middle moved to zero, so that sums of squares are about the spread and not about the mean. */
static float centred(struct group *h, const struct group *g, float middle)
{
    h->n4 = g->n4;
    for (size_t i = 0; i < g->n4; i++) {
        h->x[i] = g->x[i] - splat(middle);
        h->w[i] = g->w[i];
    }
    return middle;
}

static void extent(float *lo, float *hi, const struct group *g)
{
    *lo = *hi = g->x[0][0];
    for (size_t i = 0; i < g->n4; i++)
        for (size_t k = 0; k < 4; k++) {
            *lo = g->x[i][k] < *lo ? g->x[i][k] : *lo;
            *hi = g->x[i][k] > *hi ? g->x[i][k] : *hi;
        }
}

/* All starts for a group with values in lo..hi: the ends of the grid go to the ends of the values, and around them;
 * `below` levels are cut off at the low end. Fewer levels gain more from cutting. */
static void search_affine(float *s, float *m, const struct group *g, float n_max, float lo, float hi, bool m_is_free)
{
    const bool few = n_max <= 3;
    const int n_low = few ? 3 : 2, n_high = 8, first = few ? -2 : -3;
    const float low_step = few ? 0.2f : 0.4f, high_step = few ? 0.15f : 0.25f;
    const struct affine_sums fixed = group_sums(g);
    float best = 0;
    *s = 0;
    *m = -lo;
    for (int a = 0; a < n_low; a++)
        for (int b = first; b < first + n_high; b++) {
            float below = low_step * (float)a;
            float id = (n_max + below + high_step * (float)b) / (hi - lo);
            try_affine(s, m, &best, g, &fixed, n_max, id, -lo - below / id, m_is_free);
        }
    for (int i = 0; i < 5 && *s > 0; i++)
        if (!try_affine(s, m, &best, g, &fixed, n_max, 1.0f / *s, *m, m_is_free))
            break;
}

void fit_affine(float *s, float *m, const struct group *g, float n_max, bool m_is_free)
{
    float lo, hi;
    extent(&lo, &hi, g);
    if (!m_is_free && lo > 0)
        lo = 0;
    *s = 0;
    *m = -lo;
    if (hi - lo < 1e-18f)
        return;
    if (!m_is_free) {
        search_affine(s, m, g, n_max, lo, hi, false);
        return;
    }
    struct group h;
    float middle = centred(&h, g, 0.5f * lo + 0.5f * hi);
    search_affine(s, m, &h, n_max, lo - middle, hi - middle, true);
    *m -= middle;
}

float error_affine(const struct group *g, float n_max, float s, float m)
{
    float id = inverse(s);
    f4 e = splat(0);
    for (size_t i = 0; i < g->n4; i++) {
        f4 q = on_affine_grid(g->x[i], m, id, n_max);
        f4 d = (g->x[i] + splat(m)) - splat(s) * q;
        e += g->w[i] * d * d;
    }
    return total(e);
}

void round_affine(uint8_t *q, const struct group *g, float n_max, float s, float m)
{
    float id = inverse(s);
    for (size_t i = 0; i < g->n4; i++) {
        f4 v = on_affine_grid(g->x[i], m, id, n_max);
        for (size_t k = 0; k < 4; k++)
            q[4 * i + k] = (uint8_t)v[k];
    }
}

/* grammar_build.c: the automaton of a grammar, fragment by fragment, and what is checked at its end.
 *
 * States lie in one array; a fragment made in one go is a run of it, so that a repeat copies states by moving their targets.
 * Sets of characters become alternatives of UTF-8 byte sequences (each range of code points is cut where the length of the
 * encoding changes and where a leading byte's continuation bytes are not all allowed); sets that need more than a few states are
 * rules of their own, made once (build_chars_ready makes them beforehand, so that a copied fragment does not hold them).
 *
 * builder_finish
 *   1. finds what can come to an end: a state that cannot (an empty set, a rule that needs itself) is removed, because a mask
 *      that let a model in there would never let it out; if the beginning is such a state, no text matches;
 *   2. refuses left recursion, on which the run's closure would grow its stack for ever;
 *   3. shortens chains of empty steps and marks calls at the end of a rule (OP_TAIL), which need no stack, so that right
 *      recursion is a loop;
 *   4. finds the classes of bytes that no state tells apart.
 * All of it is linear in the states. Nothing calls itself.
 */
#include "formats/grammar_impl.h"
#include "formats/tokenizer_impl.h"

#include <stdlib.h>
#include <string.h>

void builder_open(struct builder *b, const char *what, struct arena *out, struct err *e)
{
    *b = (struct builder){ .out = out, .e = e, .what = what };
    arena_init(&b->scratch, 64 * MIB);
    build_open_state(b);
    if (b->n)
        b->s[0].op = OP_DEAD;
}

enum hearth_status build_fail(struct builder *b, enum hearth_status st, const char *fmt, ...)
{
    char text[300];
    va_list args;
    if (b->st != HEARTH_OK)
        return b->st;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    return b->st = err_set(b->e, st, "%s", text);
}

bool build_step(struct builder *b, uint64_t n)
{
    b->n_steps += n;
    if (b->n_steps > LIMIT_GRAMMAR_STEPS)
        build_fail(b, HEARTH_ELIMIT, "too complex: the %s takes more than %d steps to prepare", b->what, LIMIT_GRAMMAR_STEPS);
    return b->st == HEARTH_OK;
}

bool build_grow(struct builder *b, void **v, size_t n, size_t *cap, size_t size)
{
    size_t wanted = *cap ? 2 * *cap : 64;
    void *grown;
    if (n < *cap)
        return b->st == HEARTH_OK;
    if (!(grown = arena_push(&b->scratch, wanted, size, 16))) {
        build_fail(b, HEARTH_ENOMEM, "no memory for the %s", b->what);
        return false;
    }
    if (n)
        memcpy(grown, *v, n * size);
    *v = grown;
    *cap = wanted;
    return true;
}

/* ---- states ---- */

static uint32_t add_state(struct builder *b, enum op op, uint8_t lo, uint8_t hi, uint32_t to, uint32_t other)
{
    size_t cap = b->cap;
    void *v = b->s;
    if (b->n >= LIMIT_GRAMMAR_STATES)
        build_fail(b, HEARTH_ELIMIT, "too complex: the %s needs more than %u states", b->what, LIMIT_GRAMMAR_STATES);
    if (!build_step(b, 1) || !build_grow(b, &v, b->n, &cap, sizeof *b->s))
        return NOWHERE;
    b->s = v;
    b->cap = (uint32_t)cap;
    b->s[b->n] = (struct nfa_state){ (uint8_t)op, lo, hi, to, other };
    return b->n++;
}

uint32_t build_open_state(struct builder *b) { return add_state(b, OP_EPS, 0, 0, NOWHERE, NOWHERE); }

uint32_t build_rule(struct builder *b)
{
    size_t cap = b->cap_rules;
    void *v = b->rules;
    if (!build_grow(b, &v, b->n_rules, &cap, sizeof *b->rules))
        return 0;
    b->rules = v;
    b->cap_rules = (uint32_t)cap;
    b->rules[b->n_rules] = (struct rule){ 0 };
    return b->n_rules++;
}

uint32_t build_rule_begin(struct builder *b, uint32_t rule)
{
    uint32_t at = build_open_state(b);
    if (b->st == HEARTH_OK) {
        CHECK(rule < b->n_rules && !b->rules[rule].is_defined);
        b->rules[rule].start = at;
        b->rules[rule].is_defined = true;
    }
    return at;
}

void build_rule_end(struct builder *b, uint32_t rule, uint32_t at)
{
    uint32_t end = add_state(b, OP_END, 0, 0, NOWHERE, NOWHERE);
    if (b->st == HEARTH_OK)
        b->rules[rule].end = end;
    build_link(b, at, end);
}

void build_link(struct builder *b, uint32_t at, uint32_t to)
{
    if (b->st != HEARTH_OK || at == NOWHERE)
        return;
    CHECK(at < b->n && to < b->n && b->s[at].op == OP_EPS && b->s[at].a == NOWHERE);
    b->s[at].a = to;
}

uint32_t build_fork(struct builder *b, uint32_t at, uint32_t *other)
{
    uint32_t one = build_open_state(b), two = build_open_state(b);
    *other = two;
    if (b->st == HEARTH_OK && at != NOWHERE) {
        CHECK(b->s[at].op == OP_EPS && b->s[at].a == NOWHERE);
        b->s[at] = (struct nfa_state){ OP_SPLIT, 0, 0, one, two };
    }
    return one;
}

/* The open state itself becomes the byte: one state for each. */
uint32_t build_byte(struct builder *b, uint32_t at, uint8_t lo, uint8_t hi)
{
    uint32_t next = build_open_state(b);
    if (b->st == HEARTH_OK && at != NOWHERE) {
        CHECK(b->s[at].op == OP_EPS && b->s[at].a == NOWHERE);
        b->s[at] = (struct nfa_state){ OP_BYTE, lo, hi, next, NOWHERE };
    }
    return next;
}

uint32_t build_text(struct builder *b, uint32_t at, const char *p, size_t n)
{
    for (size_t i = 0; i < n && b->st == HEARTH_OK; i++)
        at = build_byte(b, at, (uint8_t)p[i], (uint8_t)p[i]);
    return at;
}

uint32_t build_call(struct builder *b, uint32_t at, uint32_t rule)
{
    uint32_t next = build_open_state(b);
    if (b->st == HEARTH_OK && at != NOWHERE) {
        CHECK(b->s[at].op == OP_EPS && b->s[at].a == NOWHERE);
        b->s[at] = (struct nfa_state){ OP_CALL, 0, 0, rule, next };
    }
    return next;
}

static uint32_t moved(uint32_t to, uint32_t begin, uint32_t end, uint32_t by)
{
    return to >= begin && to < end ? to + by : to;
}

void build_copy(struct builder *b, uint32_t begin, uint32_t end_states, uint32_t *start, uint32_t *end)
{
    uint32_t by = b->n - begin;
    for (uint32_t i = begin; i < end_states && b->st == HEARTH_OK; i++) {
        struct nfa_state s = b->s[i];
        if (s.op != OP_CALL)
            s.a = moved(s.a, begin, end_states, by);
        s.b = moved(s.b, begin, end_states, by);
        add_state(b, (enum op)s.op, s.lo, s.hi, s.a, s.b);
    }
    *start += by;
    *end += by;
    if (b->st != HEARTH_OK)
        *start = *end = NOWHERE;
}

/* ---- sets of characters ---- */

enum { SURROGATE_LO = 0xD800, SURROGATE_HI = 0xDFFF, CODE_POINT_MAX = 0x10FFFF };

void ranges_add(struct builder *b, struct ranges *r, uint32_t lo, uint32_t hi)
{
    void *v = r->v;
    if (lo > hi || !build_step(b, 1) || !build_grow(b, &v, r->n, &r->cap, sizeof *r->v))
        return;
    r->v = v;
    r->v[r->n++] = (struct range){ lo, hi };
}

static int by_lo(const void *x, const void *y)
{
    const struct range *a = x, *b = y;
    return a->lo != b->lo ? (a->lo < b->lo ? -1 : 1) : a->hi != b->hi ? (a->hi < b->hi ? -1 : 1) : 0;
}

void ranges_tidy(struct ranges *r)
{
    size_t n = 0;
    if (!r->n)
        return;
    qsort(r->v, r->n, sizeof *r->v, by_lo);
    for (size_t i = 0; i < r->n; i++) {
        struct range x = r->v[i];
        if (x.lo >= SURROGATE_LO && x.lo <= SURROGATE_HI)
            x.lo = SURROGATE_HI + 1;
        if (x.hi >= SURROGATE_LO && x.hi <= SURROGATE_HI)
            x.hi = SURROGATE_LO - 1;
        x.hi = MIN(x.hi, (uint32_t)CODE_POINT_MAX);
        if (x.lo > x.hi)
            continue;
        if (n && x.lo <= r->v[n - 1].hi + 1)
            r->v[n - 1].hi = MAX(r->v[n - 1].hi, x.hi);
        else
            r->v[n++] = x;
    }
    r->n = n; /* a range across the surrogates stays whole: the encoder takes them out */
}

void ranges_invert(struct builder *b, struct ranges *r)
{
    struct ranges out = { 0 };
    uint32_t lo = 0;
    ranges_tidy(r);
    for (size_t i = 0; i < r->n; i++) {
        if (r->v[i].lo > lo)
            ranges_add(b, &out, lo, r->v[i].lo - 1);
        lo = r->v[i].hi + 1;
    }
    if (lo <= CODE_POINT_MAX)
        ranges_add(b, &out, lo, CODE_POINT_MAX);
    ranges_tidy(&out);
    *r = out;
}

/* Where code points from lo on stop being one product of byte ranges: the last one of that product. */
static uint32_t product_end(uint32_t lo, uint32_t hi)
{
    static const uint32_t ends[] = { 0x7F, 0x7FF, SURROGATE_LO - 1, 0xFFFF, CODE_POINT_MAX };
    for (size_t i = 0; i < ARRAY_LEN(ends); i++)
        if (lo <= ends[i] && hi > ends[i])
            hi = ends[i];
    size_t n_tail = lo < 0x80 ? 0 : lo < 0x800 ? 1 : lo < 0x10000 ? 2 : 3;
    for (size_t i = 1; i <= n_tail; i++) {
        uint32_t m = (1u << (6 * i)) - 1;
        if ((lo & ~m) == (hi & ~m))
            continue;
        if (lo & m) /* up to the end of lo's block */
            return MIN(hi, lo | m);
        if ((hi & m) != m) /* whole blocks, without the last, unfinished one */
            hi = (hi & ~m) - 1;
    }
    return hi;
}

/* One range as UTF-8, each product a way of its own from *at to join; *at is the way that is left. */
static void add_range(struct builder *b, uint32_t *at, uint32_t join, struct range r)
{
    while (r.lo <= r.hi && b->st == HEARTH_OK) {
        char lo[4], hi[4];
        if (r.lo >= SURROGATE_LO && r.lo <= SURROGATE_HI)
            r.lo = SURROGATE_HI + 1;
        if (r.lo > r.hi)
            break;
        uint32_t end = product_end(r.lo, r.hi), way = build_fork(b, *at, at);
        size_t n = utf8_put(lo, r.lo);
        utf8_put(hi, end);
        for (size_t i = 0; i < n; i++)
            way = build_byte(b, way, (uint8_t)lo[i], (uint8_t)hi[i]);
        build_link(b, way, join);
        r.lo = end + 1;
    }
}

/* The escape of JSON for a control character, '"' or '\\'. */
static void add_escape(struct builder *b, uint32_t *at, uint32_t join, uint32_t cp)
{
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
    const char *found = cp ? strchr(from, (int)cp) : NULL;
    uint32_t way = build_byte(b, build_fork(b, *at, at), '\\', '\\'), upper;
    if (found) {
        way = build_byte(b, way, (uint8_t)to[found - from], (uint8_t)to[found - from]);
    } else {
        uint8_t digit = (uint8_t)(cp & 15);
        way = build_text(b, way, "u00", 3);
        way = build_byte(b, way, (uint8_t)('0' + (cp >> 4)), (uint8_t)('0' + (cp >> 4)));
        if (digit < 10) {
            way = build_byte(b, way, (uint8_t)('0' + digit), (uint8_t)('0' + digit));
        } else {
            way = build_byte(b, build_fork(b, way, &upper), (uint8_t)('a' + digit - 10), (uint8_t)('a' + digit - 10));
            build_link(b, build_byte(b, upper, (uint8_t)('A' + digit - 10), (uint8_t)('A' + digit - 10)), join);
        }
    }
    build_link(b, way, join);
}

static bool needs_escape(uint32_t cp) { return cp < 0x20 || cp == '"' || cp == '\\'; }

static void add_json_range(struct builder *b, uint32_t *at, uint32_t join, struct range r)
{
    uint32_t lo = r.lo;
    for (uint32_t cp = r.lo; cp <= r.hi && cp <= '\\'; cp++) {
        if (!needs_escape(cp))
            continue;
        if (cp > lo)
            add_range(b, at, join, (struct range){ lo, cp - 1 });
        add_escape(b, at, join, cp);
        lo = cp + 1;
    }
    if (lo <= r.hi)
        add_range(b, at, join, (struct range){ lo, r.hi });
}

static uint32_t add_ways(struct builder *b, uint32_t at, const struct range *v, size_t n, bool is_json)
{
    uint32_t join = build_open_state(b);
    for (size_t i = 0; i < n && b->st == HEARTH_OK; i++) {
        if (is_json)
            add_json_range(b, &at, join, v[i]);
        else
            add_range(b, &at, join, v[i]);
    }
    return join; /* what is left at `at` leads nowhere */
}

/* The rule of a set, made when it is new. */
static uint32_t chars_rule(struct builder *b, const struct ranges *r, bool is_json)
{
    void *v = b->chars;
    for (size_t i = 0; i < b->n_chars; i++)
        if (build_step(b, 1) && b->chars[i].n == r->n && b->chars[i].is_json == is_json &&
            (!r->n || memcmp(b->chars[i].v, r->v, r->n * sizeof *r->v) == 0))
            return b->chars[i].rule;
    struct range *copy = ARENA_NEW(&b->scratch, struct range, r->n + 1);
    if (!copy || !build_grow(b, &v, b->n_chars, &b->cap_chars, sizeof *b->chars))
        return build_fail(b, HEARTH_ENOMEM, "no memory for the %s", b->what), 0;
    b->chars = v;
    if (r->n)
        memcpy(copy, r->v, r->n * sizeof *copy);
    uint32_t rule = build_rule(b), first = build_rule_begin(b, rule);
    build_rule_end(b, rule, add_ways(b, first, r->v, r->n, is_json));
    b->chars[b->n_chars++] = (struct char_rule){ copy, r->n, is_json, rule };
    return rule;
}

static bool is_one_byte(const struct ranges *r, bool is_json) { return r->n == 1 && r->v[0].hi < 0x80 && !is_json; }

void build_chars_ready(struct builder *b, const struct ranges *r, bool is_json)
{
    if (!is_one_byte(r, is_json))
        chars_rule(b, r, is_json);
}

uint32_t build_chars(struct builder *b, uint32_t at, const struct ranges *r, bool is_json)
{
    if (is_one_byte(r, is_json))
        return build_byte(b, at, (uint8_t)r->v[0].lo, (uint8_t)r->v[0].hi);
    return build_call(b, at, chars_rule(b, r, is_json));
}

/* ---- the end ---- */

/* Who leads to a state, and who calls a rule, as lists in one array each. */
struct links { uint32_t *first, *from; };

static bool links_make(struct builder *b, struct links *l, uint32_t n_targets, bool is_calls)
{
    if (!(l->first = ARENA_NEW(&b->scratch, uint32_t, n_targets + 2)) || !(l->from = ARENA_NEW(&b->scratch, uint32_t, 2 * (size_t)b->n + 1)))
        return build_fail(b, HEARTH_ENOMEM, "no memory for the %s", b->what), false;
    for (int pass = 0; pass < 2; pass++) {
        for (uint32_t i = 0; i < b->n; i++) {
            const struct nfa_state *s = &b->s[i];
            uint32_t to[2] = { s->op == OP_CALL ? (is_calls ? s->a : s->b) : s->a, s->b };
            int n_to = s->op == OP_SPLIT ? 2 : s->op == OP_EPS || s->op == OP_BYTE || s->op == OP_CALL ? 1 : 0;
            if ((s->op == OP_CALL) < is_calls)
                continue;
            for (int k = 0; k < n_to; k++) {
                if (pass == 0)
                    l->first[to[k] + 2]++;
                else
                    l->from[l->first[to[k] + 1]++] = i;
            }
        }
        for (uint32_t i = 0; pass == 0 && i < n_targets; i++)
            l->first[i + 2] += l->first[i + 1];
    }
    return true;
}

/* mark[s]: from s the end of its rule can be reached (through_bytes: or, without, by an empty text). */
static bool mark_reaching_end(struct builder *b, const struct links *to, const struct links *calls, bool through_bytes, uint8_t *mark,
                              uint8_t *rule_mark)
{
    uint32_t *queue = ARENA_NEW(&b->scratch, uint32_t, b->n + 1), *rule_of = ARENA_NEW(&b->scratch, uint32_t, b->n + 1);
    uint32_t n_queue = 0;
    if (!queue || !rule_of)
        return build_fail(b, HEARTH_ENOMEM, "no memory for the %s", b->what), false;
    for (uint32_t r = 0; r < b->n_rules; r++)
        if (b->rules[r].is_defined)
            rule_of[b->rules[r].start] = r + 1;
    for (uint32_t i = 0; i < b->n; i++)
        if (b->s[i].op == OP_END) {
            mark[i] = 1;
            queue[n_queue++] = i;
        }
    for (uint32_t i_queue = 0; i_queue < n_queue && build_step(b, 1); i_queue++) {
        uint32_t s = queue[i_queue];
        for (uint32_t k = to->first[s]; k < to->first[s + 1]; k++) {
            const uint32_t p = to->from[k];
            bool passes = b->s[p].op == OP_CALL ? rule_mark[b->s[p].a] : b->s[p].op != OP_BYTE || through_bytes;
            if (passes && !mark[p]) {
                mark[p] = 1;
                queue[n_queue++] = p;
            }
        }
        if (!rule_of[s])
            continue;
        uint32_t r = rule_of[s] - 1;
        rule_mark[r] = 1;
        for (uint32_t k = calls->first[r]; k < calls->first[r + 1]; k++) {
            uint32_t p = calls->from[k];
            if (!mark[p] && mark[b->s[p].b]) {
                mark[p] = 1;
                queue[n_queue++] = p;
            }
        }
    }
    return b->st == HEARTH_OK;
}

/* Rules that begin with themselves, perhaps through others. first_calls: pairs (rule, a rule it may begin with). Rules without
 * such beginnings are taken away until none is left; what stays is a circle. */
static bool refuse_left_recursion(struct builder *b, const uint8_t *empty_rule)
{
    uint32_t *todo = ARENA_NEW(&b->scratch, uint32_t, b->n + 1), *seen = ARENA_NEW(&b->scratch, uint32_t, b->n + 1);
    uint32_t *n_in = ARENA_NEW(&b->scratch, uint32_t, b->n_rules + 1), *order = ARENA_NEW(&b->scratch, uint32_t, b->n_rules + 1);
    uint32_t *first = ARENA_NEW(&b->scratch, uint32_t, b->n_rules + 2), *pairs = NULL;
    size_t n_pairs = 0, cap_pairs = 0, n_order = 0;
    if (!todo || !seen || !n_in || !order || !first)
        return build_fail(b, HEARTH_ENOMEM, "no memory for the %s", b->what), false;
    for (uint32_t r = 0; r < b->n_rules; r++) {
        uint32_t n_todo = 0;
        first[r] = (uint32_t)n_pairs;
        if (b->rules[r].is_defined)
            todo[n_todo++] = b->rules[r].start;
        while (n_todo && build_step(b, 1)) {
            uint32_t i = todo[--n_todo];
            const struct nfa_state s = b->s[i];
            uint32_t to[2] = { s.op == OP_EPS || s.op == OP_SPLIT ? s.a : NOWHERE, NOWHERE };
            if (s.op == OP_SPLIT)
                to[1] = s.b;
            if (s.op == OP_CALL) {
                void *v = pairs;
                if (!build_grow(b, &v, n_pairs, &cap_pairs, sizeof *pairs))
                    return false;
                pairs = v;
                pairs[n_pairs++] = s.a;
                n_in[s.a]++;
                to[0] = empty_rule[s.a] ? s.b : NOWHERE;
            }
            for (int k = 0; k < 2; k++)
                if (to[k] != NOWHERE && seen[to[k]] != r + 1) {
                    seen[to[k]] = r + 1;
                    todo[n_todo++] = to[k];
                }
        }
    }
    first[b->n_rules] = (uint32_t)n_pairs;
    for (uint32_t r = 0; r < b->n_rules; r++)
        if (!n_in[r])
            order[n_order++] = r;
    for (size_t i = 0; i < n_order; i++)
        for (uint32_t k = first[order[i]]; k < first[order[i] + 1]; k++)
            if (--n_in[pairs[k]] == 0)
                order[n_order++] = pairs[k];
    if (n_order < b->n_rules)
        build_fail(b, HEARTH_EUNSUPPORTED, "the %s has a rule or reference that begins with itself (left recursion)", b->what);
    return b->st == HEARTH_OK;
}

/* Behind empty steps; bounded, so that a circle of them stays what it is: a state that does nothing. */
static uint32_t behind(const struct builder *b, uint32_t i)
{
    for (int hops = 0; hops < 64 && b->s[i].op == OP_EPS; hops++)
        i = b->s[i].a;
    return i;
}

static void find_classes(struct grammar *g)
{
    bool begins[257] = { false };
    for (uint32_t i = 0; i < g->n; i++)
        if (g->s[i].op == OP_BYTE)
            begins[g->s[i].lo] = begins[g->s[i].hi + 1] = true;
    for (int c = 0; c < 256; c++) {
        if (c == 0 || begins[c])
            g->byte_of[g->n_classes++] = (uint8_t)c;
        g->class_of[c] = (uint8_t)(g->n_classes - 1);
    }
}

static enum hearth_status copy_out(struct builder *b, struct grammar **out, uint32_t root, const uint8_t *can_end)
{
    struct grammar *g = ARENA_NEW(b->out, struct grammar, 1);
    struct nfa_state *s = g ? ARENA_NEW(b->out, struct nfa_state, b->n) : NULL;
    if (!s)
        return build_fail(b, HEARTH_ENOMEM, "no memory for the %s", b->what);
    for (uint32_t i = 0; i < b->n; i++) {
        s[i] = b->s[i];
        if (!can_end[i]) {
            s[i] = (struct nfa_state){ .op = OP_DEAD };
            continue;
        }
        if (s[i].op == OP_CALL) {
            uint32_t ret = behind(b, s[i].b);
            s[i].a = behind(b, b->rules[b->s[i].a].start);
            s[i].b = ret;
            if (b->s[ret].op == OP_END)
                s[i].op = OP_TAIL;
        } else if (s[i].op != OP_END) {
            s[i].a = behind(b, s[i].a);
            s[i].b = s[i].op == OP_SPLIT ? behind(b, s[i].b) : NOWHERE;
        }
    }
    *g = (struct grammar){ .s = s, .n = b->n, .start = behind(b, b->rules[root].start) };
    find_classes(g);
    *out = g;
    return HEARTH_OK;
}

static void finish(struct builder *b, struct grammar **out, uint32_t root)
{
    struct links to, calls;
    uint8_t *can_end = ARENA_NEW(&b->scratch, uint8_t, b->n + 1), *is_empty = ARENA_NEW(&b->scratch, uint8_t, b->n + 1);
    uint8_t *rule_ends = ARENA_NEW(&b->scratch, uint8_t, b->n_rules + 1), *rule_empty = ARENA_NEW(&b->scratch, uint8_t, b->n_rules + 1);
    if (!can_end || !is_empty || !rule_ends || !rule_empty) {
        build_fail(b, HEARTH_ENOMEM, "no memory for the %s", b->what);
        return;
    }
    if (!links_make(b, &to, b->n, false) || !links_make(b, &calls, b->n_rules, true) ||
        !mark_reaching_end(b, &to, &calls, true, can_end, rule_ends))
        return;
    if (!rule_ends[root]) {
        build_fail(b, HEARTH_EINVAL, "nothing satisfies the %s", b->what);
        return;
    }
    if (mark_reaching_end(b, &to, &calls, false, is_empty, rule_empty) && refuse_left_recursion(b, rule_empty))
        copy_out(b, out, root, can_end);
}

enum hearth_status builder_finish(struct builder *b, struct grammar **out, uint32_t root)
{
    *out = NULL;
    if (b->st == HEARTH_OK)
        finish(b, out, root);
    arena_free(&b->scratch);
    return b->st;
}

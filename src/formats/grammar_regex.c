/* grammar_regex.c: patterns of schemas (ECMA-262 regular expressions) to deterministic automata.
 *
 *   pattern ──parse──> NFA over code points ──subsets──> DFA ──> states of the grammar, each character as JSON writes it
 *
 * The pattern is read once, open parentheses on a stack; a repeat copies its item's states, as in GBNF. Code points that no set
 * of the pattern tells apart are one class. Subset construction gives a DFA of at most LIMIT_PATTERN_STATES; nothing ever
 * backtracks. Lengths are counted by a product: state (q, n) exists when n more characters still lead to an end in time, so that
 * no text gets stuck.
 *
 * A schema's pattern may match anywhere in the string: any characters go in front and behind unless ^ and $ forbid it. ^ and $ are
 * conditions on empty steps, so they may stand anywhere.
 *
 * Known: literals, ., sets, \d \w \s \D \W \S, \t \n \r \f \v \0 \xHH \uHHHH (also in pairs) \u{H} \cX, | ( (?: (?<name>,
 * * + ? {m} {m,} {m,n} and their lazy forms. Refused by name: look-around, back references, \b, \p{...}, flags.
 */
#include <stdlib.h>
#include <string.h>

#include "formats/grammar_impl.h"
#include "formats/tokenizer_impl.h"

enum re_op { RE_OPEN, RE_SPLIT, RE_SET, RE_BEGIN, RE_FINISH, RE_MATCH };
enum { RE_STATES_MAX = 8192, RE_CLASSES_MAX = 1024 };

struct re_state {
    uint8_t op;
    uint32_t a, b; /* RE_SET: b is the set */
};
struct re_group { uint32_t start, join, untaken, outer; };

struct regex {
    struct builder *b;
    const char *p, *end, *what;
    struct re_state *s;
    size_t n, cap;
    struct ranges *sets;
    size_t n_sets, cap_sets;
    uint32_t *bounds; /* first code points of the classes, sorted */
    size_t n_classes;
    uint8_t *in_set; /* [n_sets][n_classes] */
};

static void refuse(struct regex *r, enum hearth_status st, const char *why)
{
    build_fail(r->b, st, "%s: %s", r->what, why);
}

/* ---- states ---- */

static uint32_t re_add(struct regex *r, enum re_op op, uint32_t to, uint32_t other)
{
    void *v = r->s;
    if (r->n == RE_STATES_MAX)
        build_fail(r->b, HEARTH_ELIMIT, "too complex: %s needs more than %d states", r->what, RE_STATES_MAX);
    if (!build_step(r->b, 1) || !build_grow(r->b, &v, r->n, &r->cap, sizeof *r->s))
        return 0;
    r->s = v;
    r->s[r->n] = (struct re_state){ (uint8_t)op, to, other };
    return (uint32_t)r->n++;
}

static uint32_t re_open(struct regex *r) { return re_add(r, RE_OPEN, 0, 0); }

/* at, an open state, becomes op and leads to a new open one. */
static uint32_t re_set(struct regex *r, uint32_t at, enum re_op op, uint32_t set)
{
    uint32_t next = re_open(r);
    if (r->b->st == HEARTH_OK)
        r->s[at] = (struct re_state){ (uint8_t)op, next, set };
    return next;
}

static void re_link(struct regex *r, uint32_t at, uint32_t to)
{
    if (r->b->st == HEARTH_OK)
        r->s[at].a = to;
}

static uint32_t re_fork(struct regex *r, uint32_t at, uint32_t *other)
{
    uint32_t one = re_open(r), two = re_open(r);
    *other = two;
    if (r->b->st == HEARTH_OK)
        r->s[at] = (struct re_state){ RE_SPLIT, one, two };
    return one;
}

static void re_copy(struct regex *r, uint32_t begin, uint32_t end, uint32_t *start, uint32_t *last)
{
    uint32_t by = (uint32_t)r->n - begin;
    for (uint32_t i = begin; i < end && r->b->st == HEARTH_OK; i++) {
        struct re_state s = r->s[i];
        if (s.a >= begin && s.a < end)
            s.a += by;
        if (s.op == RE_SPLIT && s.b >= begin && s.b < end)
            s.b += by;
        re_add(r, (enum re_op)s.op, s.a, s.b);
    }
    *start += by;
    *last += by;
}

static uint32_t add_set(struct regex *r, const struct ranges *set)
{
    void *v = r->sets;
    if (!build_grow(r->b, &v, r->n_sets, &r->cap_sets, sizeof *r->sets))
        return 0;
    r->sets = v;
    r->sets[r->n_sets] = *set;
    return (uint32_t)r->n_sets++;
}

/* ---- reading ---- */

static int re_peek(const struct regex *r) { return r->p < r->end ? (uint8_t)*r->p : -1; }
static bool re_take(struct regex *r, const char *text)
{
    size_t n = strlen(text);
    if ((size_t)(r->end - r->p) < n || memcmp(r->p, text, n) != 0)
        return false;
    r->p += n;
    return true;
}

static bool re_hex(struct regex *r, int n_digits, uint32_t *v)
{
    *v = 0;
    for (int i = 0; i < n_digits; i++) {
        int c = r->p + i < r->end ? (uint8_t)r->p[i] : -1;
        int digit = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
        if (digit < 0)
            return false;
        *v = *v << 4 | (uint32_t)digit;
    }
    r->p += n_digits;
    return true;
}

/* Behind "\u". */
static uint32_t take_unicode(struct regex *r)
{
    uint32_t hi, lo;
    if (re_take(r, "{")) {
        hi = 0;
        for (int i = 0; i < 8 && re_hex(r, 1, &lo); i++)
            hi = hi << 4 | lo;
        if (!re_take(r, "}") || hi > 0x10FFFF)
            refuse(r, HEARTH_EINVAL, "a damaged \\u{...}");
        return hi;
    }
    if (!re_hex(r, 4, &hi)) {
        refuse(r, HEARTH_EINVAL, "\\u needs four hexadecimal digits");
        return 0;
    }
    const char *back = r->p;
    if (hi >= 0xD800 && hi < 0xDC00 && re_take(r, "\\u") && re_hex(r, 4, &lo) && lo >= 0xDC00 && lo < 0xE000)
        return 0x10000 + ((hi - 0xD800) << 10) + (lo - 0xDC00);
    r->p = back;
    return hi;
}

static void named_set(struct regex *r, struct ranges *out, int c)
{
    struct builder *b = r->b;
    struct ranges set = { 0 };
    static const struct range spaces[] = { { 9, 13 }, { 32, 32 }, { 0xA0, 0xA0 }, { 0x1680, 0x1680 }, { 0x2000, 0x200A },
                                           { 0x2028, 0x2029 }, { 0x202F, 0x202F }, { 0x205F, 0x205F }, { 0x3000, 0x3000 }, { 0xFEFF, 0xFEFF } };
    if ((c | 32) == 'd' || (c | 32) == 'w')
        ranges_add(b, &set, '0', '9');
    if ((c | 32) == 'w') {
        ranges_add(b, &set, 'A', 'Z');
        ranges_add(b, &set, '_', '_');
        ranges_add(b, &set, 'a', 'z');
    }
    for (size_t i = 0; (c | 32) == 's' && i < ARRAY_LEN(spaces); i++)
        ranges_add(b, &set, spaces[i].lo, spaces[i].hi);
    if (!(c & 32))
        ranges_invert(b, &set);
    for (size_t i = 0; i < set.n; i++)
        ranges_add(b, out, set.v[i].lo, set.v[i].hi);
}

/* Behind a backslash: a named set into *set, or a character. is_set says which. */
static uint32_t take_escape(struct regex *r, struct ranges *set, bool *is_set)
{
    int c = re_peek(r);
    uint32_t v = 0;
    *is_set = false;
    r->p += c >= 0;
    switch (c) {
    case 'd': case 'D': case 'w': case 'W': case 's': case 'S':
        named_set(r, set, c);
        *is_set = true;
        return 0;
    case 't': return '\t';
    case 'n': return '\n';
    case 'r': return '\r';
    case 'f': return '\f';
    case 'v': return '\v';
    case '0': return 0;
    case 'u': return take_unicode(r);
    case 'x':
        if (!re_hex(r, 2, &v))
            refuse(r, HEARTH_EINVAL, "\\x needs two hexadecimal digits");
        return v;
    case 'c':
        c = re_peek(r);
        if ((c | 32) >= 'a' && (c | 32) <= 'z') {
            r->p++;
            return (uint32_t)c & 31;
        }
        refuse(r, HEARTH_EINVAL, "\\c needs a letter");
        return 0;
    case 'b': case 'B':
        refuse(r, HEARTH_EUNSUPPORTED, "\\b is not supported");
        return 0;
    case 'p': case 'P':
        refuse(r, HEARTH_EUNSUPPORTED, "\\p{...} is not supported");
        return 0;
    case 'k': case '1': case '2': case '3': case '4': case '5': case '6': case '7': case '8': case '9':
        refuse(r, HEARTH_EUNSUPPORTED, "back references are not supported");
        return 0;
    default:
        if (c < 0 || c >= 0x80 || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z')) {
            refuse(r, HEARTH_EINVAL, "an unknown escape");
            return 0;
        }
        return (uint32_t)c;
    }
}

static uint32_t take_literal(struct regex *r)
{
    uint32_t cp = 0;
    bool is_valid = false;
    r->p += utf8_take(r->p, (size_t)(r->end - r->p), &cp, &is_valid);
    if (!is_valid)
        refuse(r, HEARTH_EINVAL, "not UTF-8");
    return cp;
}

/* One member of a bracketed set; is_set: it is a named one, already added. */
static uint32_t take_member(struct regex *r, struct ranges *set, bool *is_set)
{
    *is_set = false;
    if (r->p == r->end) {
        refuse(r, HEARTH_EINVAL, "a set has no end");
        return 0;
    }
    if (!re_take(r, "\\"))
        return take_literal(r);
    if (re_take(r, "b"))
        return '\b';
    if (re_take(r, "-"))
        return '-';
    return take_escape(r, set, is_set);
}

/* Behind the bracket. */
static void take_brackets(struct regex *r, struct ranges *set)
{
    bool is_negated = re_take(r, "^"), is_set, is_set_too;
    while (r->b->st == HEARTH_OK && !re_take(r, "]")) {
        uint32_t lo = take_member(r, set, &is_set), hi = lo;
        if (r->b->st == HEARTH_OK && re_peek(r) == '-' && r->p + 1 < r->end && r->p[1] != ']') {
            r->p++;
            hi = take_member(r, set, &is_set_too);
            if (is_set || is_set_too || hi < lo)
                refuse(r, HEARTH_EINVAL, "a range of a set makes no sense");
        }
        if (!is_set)
            ranges_add(r->b, set, lo, hi);
    }
    ranges_tidy(set);
    if (is_negated)
        ranges_invert(r->b, set);
}

static size_t re_count(struct regex *r)
{
    size_t v = 0;
    for (; re_peek(r) >= '0' && re_peek(r) <= '9'; r->p++)
        v = MIN(v * 10 + (size_t)(*r->p - '0'), (size_t)1000000);
    if (v > LIMIT_GRAMMAR_REPEAT)
        build_fail(r->b, HEARTH_ELIMIT, "too complex: %s repeats an item more than %d times", r->what, LIMIT_GRAMMAR_REPEAT);
    return v;
}

static bool re_repeat(struct regex *r, size_t *lo, size_t *hi)
{
    *lo = 0;
    *hi = SIZE_MAX;
    if (re_take(r, "*")) {
    } else if (re_take(r, "+")) {
        *lo = 1;
    } else if (re_take(r, "?")) {
        *hi = 1;
    } else if (re_take(r, "{")) {
        if (re_peek(r) < '0' || re_peek(r) > '9')
            refuse(r, HEARTH_EINVAL, "{ needs a number behind it");
        *lo = *hi = re_count(r);
        if (re_take(r, ","))
            *hi = re_peek(r) == '}' ? SIZE_MAX : re_count(r);
        if (!re_take(r, "}") || *hi < *lo)
            refuse(r, HEARTH_EINVAL, "a damaged repeat");
    } else {
        return false;
    }
    re_take(r, "?"); /* lazy: the same texts */
    if (re_peek(r) == '*' || re_peek(r) == '+' || re_peek(r) == '?')
        refuse(r, HEARTH_EINVAL, "nothing to repeat");
    return true;
}

static uint32_t repeated(struct regex *r, uint32_t at, uint32_t begin, uint32_t start, uint32_t end, size_t lo, size_t hi)
{
    uint32_t states_end = (uint32_t)r->n, done = re_open(r), other;
    size_t n = hi == SIZE_MAX ? MAX(lo, (size_t)1) : hi;
    for (size_t i = 0; i < n && r->b->st == HEARTH_OK; i++) {
        uint32_t s = start, e = end, from = at;
        if (i + 1 < n)
            re_copy(r, begin, states_end, &s, &e);
        if (i >= lo) {
            from = re_fork(r, at, &other);
            re_link(r, other, done);
        }
        re_link(r, from, s);
        at = e;
        if (hi == SIZE_MAX && i + 1 == n) {
            at = re_fork(r, e, &other);
            re_link(r, other, s);
        }
    }
    re_link(r, at, done);
    return done;
}

static struct re_group re_group_begin(struct regex *r, uint32_t outer)
{
    struct re_group q = { .outer = outer };
    q.start = q.untaken = re_open(r);
    q.join = re_open(r);
    return q;
}

/* Behind "(": what kind of group. */
static void group_kind(struct regex *r)
{
    if (!re_take(r, "?") || re_take(r, ":"))
        return;
    if (re_peek(r) == '<' && r->p + 1 < r->end && r->p[1] != '=' && r->p[1] != '!') {
        while (r->p < r->end && *r->p != '>')
            r->p++;
        if (re_take(r, ">"))
            return;
    }
    refuse(r, HEARTH_EUNSUPPORTED, "look-around and flags are not supported");
}

/* A character or set. */
static uint32_t re_atom(struct regex *r, uint32_t at)
{
    struct ranges set = { 0 };
    bool is_set = false;
    uint32_t cp = 0;
    if (re_take(r, "[")) {
        take_brackets(r, &set);
        is_set = true;
    } else if (re_take(r, ".")) {
        static const uint32_t ends[] = { '\n', '\r', 0x2028, 0x2029 };
        for (size_t i = 0; i < ARRAY_LEN(ends); i++)
            ranges_add(r->b, &set, ends[i], ends[i]);
        ranges_invert(r->b, &set);
        is_set = true;
    } else if (re_take(r, "\\")) {
        cp = take_escape(r, &set, &is_set);
    } else {
        cp = take_literal(r);
    }
    if (!is_set)
        ranges_add(r->b, &set, cp, cp);
    ranges_tidy(&set);
    return re_set(r, at, RE_SET, add_set(r, &set));
}

/* The pattern between two states. */
static uint32_t re_parse(struct regex *r, uint32_t at)
{
    struct re_group groups[LIMIT_GRAMMAR_DEPTH];
    size_t n_groups = 1, lo, hi;
    groups[0] = re_group_begin(r, 0);
    re_link(r, at, groups[0].start);
    at = re_fork(r, groups[0].untaken, &groups[0].untaken);
    while (r->p < r->end && build_step(r->b, 1)) {
        struct re_group *q = &groups[n_groups - 1];
        uint32_t begin = (uint32_t)r->n, start, end;
        if (re_take(r, "|")) {
            re_link(r, at, q->join);
            at = re_fork(r, q->untaken, &q->untaken);
            continue;
        }
        if (re_take(r, "^")) {
            at = re_set(r, at, RE_BEGIN, 0);
            continue;
        }
        if (re_take(r, "$")) {
            at = re_set(r, at, RE_FINISH, 0);
            continue;
        }
        if (re_take(r, "(")) {
            group_kind(r);
            if (n_groups == LIMIT_GRAMMAR_DEPTH) {
                build_fail(r->b, HEARTH_ELIMIT, "too complex: %s nests parentheses deeper than %d", r->what, LIMIT_GRAMMAR_DEPTH);
                break;
            }
            q = &groups[n_groups++];
            *q = re_group_begin(r, at);
            at = re_fork(r, q->untaken, &q->untaken);
            continue;
        }
        if (re_take(r, ")")) {
            if (n_groups == 1) {
                refuse(r, HEARTH_EINVAL, ") without (");
                break;
            }
            re_link(r, at, q->join);
            n_groups--;
            begin = start = q->start;
            end = q->join;
            at = q->outer;
        } else {
            if (re_peek(r) == '*' || re_peek(r) == '+' || re_peek(r) == '?' || re_peek(r) == '{') {
                refuse(r, HEARTH_EINVAL, "nothing to repeat");
                break;
            }
            start = re_open(r);
            end = re_atom(r, start);
        }
        if (re_repeat(r, &lo, &hi)) {
            at = repeated(r, at, begin, start, end, lo, hi);
        } else {
            re_link(r, at, start);
            at = end;
        }
    }
    if (n_groups > 1)
        refuse(r, HEARTH_EINVAL, "( without )");
    re_link(r, at, groups[0].join);
    return groups[0].join;
}

/* ---- classes of code points ---- */

static int by_number(const void *x, const void *y)
{
    uint32_t a = *(const uint32_t *)x, b = *(const uint32_t *)y;
    return a < b ? -1 : a > b;
}

static void find_classes(struct regex *r)
{
    size_t n = 1, n_all = 1;
    for (size_t i = 0; i < r->n_sets; i++)
        n_all += 2 * r->sets[i].n;
    if (!(r->bounds = ARENA_NEW(&r->b->scratch, uint32_t, n_all + 1)))
        return (void)build_fail(r->b, HEARTH_ENOMEM, "no memory for %s", r->what);
    for (size_t i = 0; i < r->n_sets; i++)
        for (size_t k = 0; k < r->sets[i].n; k++) {
            r->bounds[n++] = r->sets[i].v[k].lo;
            r->bounds[n++] = r->sets[i].v[k].hi + 1;
        }
    qsort(r->bounds, n, sizeof *r->bounds, by_number);
    for (size_t i = 0; i < n; i++)
        if ((i == 0 || r->bounds[i] != r->bounds[i - 1]) && r->bounds[i] <= 0x10FFFF)
            r->bounds[r->n_classes++] = r->bounds[i];
    r->bounds[r->n_classes] = 0x110000;
    if (r->n_classes > RE_CLASSES_MAX || !build_step(r->b, r->n_sets * r->n_classes / 8))
        return (void)build_fail(r->b, HEARTH_ELIMIT, "too complex: %s tells too many characters apart", r->what);
    if (!(r->in_set = ARENA_NEW(&r->b->scratch, uint8_t, r->n_sets * r->n_classes + 1)))
        return (void)build_fail(r->b, HEARTH_ENOMEM, "no memory for %s", r->what);
    for (size_t i = 0; i < r->n_sets; i++)
        for (size_t c = 0, k = 0; c < r->n_classes; c++) {
            while (k < r->sets[i].n && r->sets[i].v[k].hi < r->bounds[c])
                k++;
            r->in_set[i * r->n_classes + c] = k < r->sets[i].n && r->sets[i].v[k].lo <= r->bounds[c];
        }
}

/* ---- subsets ---- */

struct dfa {
    struct regex *r;
    uint32_t *members, *first; /* sorted NFA states of each DFA state: members[first[q] .. first[q + 1]) */
    size_t n_members, cap_members, cap_first;
    uint32_t *next;            /* [n][n_classes]; 0: dead */
    size_t n, cap_next;
    uint8_t *accepts;
    size_t cap_accepts;
    uint32_t *slots;           /* hash */
    uint32_t *stack, *stamp, now, *found;
    size_t n_found;
};

/* Adds what is reached from s without reading. at_begin, at_finish: whether ^ and $ hold here. Returns whether it matches. */
static bool re_closure(struct dfa *d, uint32_t s, bool at_begin, bool at_finish)
{
    size_t n = 0;
    bool matches = false;
    d->stack[n++] = s;
    while (n && build_step(d->r->b, 1)) {
        uint32_t i = d->stack[--n];
        const struct re_state *q = &d->r->s[i];
        if (d->stamp[i] == d->now)
            continue;
        d->stamp[i] = d->now;
        if (q->op == RE_SET || q->op == RE_MATCH || q->op == RE_FINISH)
            d->found[d->n_found++] = i;
        if (q->op == RE_MATCH)
            matches = true;
        if ((q->op == RE_OPEN && q->a) || (q->op == RE_BEGIN && at_begin) || (q->op == RE_FINISH && at_finish))
            d->stack[n++] = q->a;
        if (q->op == RE_SPLIT) {
            d->stack[n++] = q->b;
            d->stack[n++] = q->a;
        }
    }
    return matches;
}

enum { RE_SLOTS = 32768 };

/* The DFA state with the members in found; 0 on failure, which is also the dead one. */
static uint32_t dfa_state(struct dfa *d)
{
    struct builder *b = d->r->b;
    uint32_t h = 1;
    qsort(d->found, d->n_found, sizeof *d->found, by_number);
    for (size_t i = 0; i < d->n_found; i++)
        h = (h ^ d->found[i]) * 0x9E3779B1u, h ^= h >> 15;
    if (!d->n_found || !build_step(b, d->n_found))
        return 0;
    uint32_t at = h % RE_SLOTS;
    for (; d->slots[at]; at = (at + 1) % RE_SLOTS) {
        uint32_t q = d->slots[at];
        if (d->first[q + 1] - d->first[q] == d->n_found && memcmp(d->members + d->first[q], d->found, d->n_found * sizeof *d->found) == 0)
            return q;
    }
    if (d->n > LIMIT_PATTERN_STATES) {
        build_fail(b, HEARTH_ELIMIT, "too complex: %s needs more than %d states", d->r->what, LIMIT_PATTERN_STATES);
        return 0;
    }
    void *first = d->first, *accepts = d->accepts;
    for (size_t i = 0; i < d->n_found; i++) {
        void *m = d->members;
        if (!build_grow(b, &m, d->n_members, &d->cap_members, sizeof *d->members))
            return 0;
        d->members = m;
        d->members[d->n_members++] = d->found[i];
    }
    if (!build_grow(b, &first, d->n + 1, &d->cap_first, sizeof *d->first) || !build_grow(b, &accepts, d->n, &d->cap_accepts, 1))
        return 0;
    d->first = first;
    d->accepts = accepts;
    d->first[d->n + 1] = (uint32_t)d->n_members;
    d->slots[at] = (uint32_t)d->n;
    return (uint32_t)d->n++;
}

/* Can the state's text end here? Follows $ too. */
static bool dfa_accepts(struct dfa *d, uint32_t q, bool at_begin)
{
    bool matches = false;
    d->now++;
    d->n_found = 0;
    for (uint32_t i = d->first[q]; i < d->first[q + 1]; i++)
        matches |= re_closure(d, d->members[i], at_begin, true);
    return matches;
}

static bool dfa_row(struct dfa *d, uint32_t q)
{
    size_t n_classes = d->r->n_classes;
    for (size_t c = 0; c < n_classes; c++) {
        d->now++;
        d->n_found = 0;
        for (uint32_t i = d->first[q]; i < d->first[q + 1]; i++) {
            const struct re_state *s = &d->r->s[d->members[i]];
            if (build_step(d->r->b, 1) && s->op == RE_SET && d->r->in_set[s->b * n_classes + c])
                re_closure(d, s->a, false, false);
        }
        uint32_t to = dfa_state(d);
        void *v = d->next;
        if (!build_grow(d->r->b, &v, q * n_classes + c, &d->cap_next, sizeof *d->next))
            return false;
        d->next = v;
        d->next[q * n_classes + c] = to;
    }
    return true;
}

static bool dfa_make(struct dfa *d, struct regex *r, uint32_t start)
{
    struct arena *a = &r->b->scratch;
    void *first = NULL, *accepts = NULL, *next = NULL;
    *d = (struct dfa){ .r = r, .n = 1 };
    d->slots = ARENA_NEW(a, uint32_t, RE_SLOTS);
    d->stack = ARENA_NEW(a, uint32_t, 4 * r->n + 16);
    d->stamp = ARENA_NEW(a, uint32_t, r->n + 1);
    d->found = ARENA_NEW(a, uint32_t, r->n + 1);
    if (!d->slots || !d->stack || !d->stamp || !d->found)
        return build_fail(r->b, HEARTH_ENOMEM, "no memory for %s", r->what), false;
    /* State 0 is dead and has no members; its row is zeros. */
    if (!build_grow(r->b, &first, 0, &d->cap_first, sizeof *d->first) || !build_grow(r->b, &accepts, 0, &d->cap_accepts, 1))
        return false;
    d->first = first;
    d->accepts = accepts;
    d->first[0] = d->first[1] = 0;
    d->accepts[0] = 0;
    for (size_t c = 0; c < r->n_classes; c++) {
        next = d->next;
        if (!build_grow(r->b, &next, c, &d->cap_next, sizeof *d->next))
            return false;
        d->next = next;
        d->next[c] = 0;
    }
    d->now = 1;
    re_closure(d, start, true, false);
    dfa_state(d);
    memset(d->slots, 0, RE_SLOTS * sizeof *d->slots); /* the beginning is not found again: ^ holds nowhere else */
    for (uint32_t q = 1; q < d->n && r->b->st == HEARTH_OK; q++) {
        if (!dfa_row(d, q))
            return false;
        d->accepts[q] = dfa_accepts(d, q, q == 1);
    }
    return r->b->st == HEARTH_OK;
}

/* ---- into the grammar ---- */

/* dist[q]: the fewest characters from q to an end; UINT32_MAX: none. Rounds over all edges; each adds a distance. */
static uint32_t *distances(struct dfa *d)
{
    struct builder *b = d->r->b;
    size_t n_classes = d->r->n_classes;
    uint32_t *dist = ARENA_NEW(&b->scratch, uint32_t, d->n), *queue = ARENA_NEW(&b->scratch, uint32_t, d->n);
    uint32_t *head = ARENA_NEW(&b->scratch, uint32_t, d->n + 2), *from = ARENA_NEW(&b->scratch, uint32_t, d->n * n_classes + 1);
    size_t n_queue = 0;
    if (!dist || !queue || !head || !from || !build_step(b, d->n * n_classes / 4))
        return build_fail(b, HEARTH_ENOMEM, "no memory for %s", d->r->what), NULL;
    for (int pass = 0; pass < 2; pass++) {
        for (uint32_t q = 1; q < d->n; q++)
            for (size_t c = 0; c < n_classes; c++) {
                uint32_t to = d->next[q * n_classes + c];
                if (to && pass == 0)
                    head[to + 2]++;
                else if (to)
                    from[head[to + 1]++] = q;
            }
        for (size_t i = 1; pass == 0 && i < d->n + 2; i++)
            head[i] += head[i - 1];
    }
    for (uint32_t q = 0; q < d->n; q++) {
        dist[q] = d->accepts[q] ? 0 : UINT32_MAX;
        if (d->accepts[q])
            queue[n_queue++] = q;
    }
    for (size_t i = 0; i < n_queue; i++)
        for (uint32_t k = head[queue[i]]; k < head[queue[i] + 1]; k++)
            if (dist[from[k]] == UINT32_MAX) {
                dist[from[k]] = dist[queue[i]] + 1;
                queue[n_queue++] = from[k];
            }
    return dist;
}

/* One edge for each successor of q: the set of all classes that lead there. */
static void emit_row(struct dfa *d, uint32_t *at, uint32_t q, const uint32_t *places, const uint8_t *usable)
{
    struct regex *r = d->r;
    const uint32_t *row = d->next + q * r->n_classes;
    for (size_t c = 0; c < r->n_classes && r->b->st == HEARTH_OK; c++) {
        struct ranges set = { 0 };
        bool is_first = row[c] && usable[row[c]];
        for (size_t k = 0; k < c && is_first; k++)
            is_first = row[k] != row[c];
        if (!build_step(r->b, c / 16 + 1) || !is_first)
            continue;
        for (size_t k = c; k < r->n_classes; k++)
            if (row[k] == row[c])
                ranges_add(r->b, &set, r->bounds[k], r->bounds[k + 1] - 1);
        ranges_tidy(&set);
        if (set.n)
            build_link(r->b, build_chars(r->b, build_fork(r->b, *at, at), &set, true), places[row[c]]);
    }
}

/* Without lengths: one place for each state. With: layers, one for each number of characters read, the last ones without way out;
 * where no maximum is set, the layer of min_len goes round to itself. */
static uint32_t emit(struct dfa *d, uint32_t at, size_t min_len, size_t max_len)
{
    struct builder *b = d->r->b;
    const uint32_t *dist = distances(d);
    size_t last = max_len != SIZE_MAX ? max_len : min_len;
    uint32_t *here = ARENA_NEW(&b->scratch, uint32_t, d->n), *there = ARENA_NEW(&b->scratch, uint32_t, d->n);
    uint8_t *live = ARENA_NEW(&b->scratch, uint8_t, d->n), *usable = ARENA_NEW(&b->scratch, uint8_t, d->n);
    uint32_t done = build_open_state(b);
    if (b->st != HEARTH_OK || !dist || !here || !there || !live || !usable)
        return build_fail(b, HEARTH_ENOMEM, "no memory for %s", d->r->what), NOWHERE;
    if (d->n > 1 && dist[1] <= max_len) {
        live[1] = 1;
        here[1] = at;
    }
    for (size_t n = 0; n <= last && b->st == HEARTH_OK; n++) {
        bool loops = n == last && max_len == SIZE_MAX;
        if (loops) /* all states that can end, whether they are reached or not */
            for (uint32_t q = 1; q < d->n; q++)
                if (dist[q] != UINT32_MAX && !live[q]) {
                    live[q] = 1;
                    here[q] = build_open_state(b);
                }
        for (uint32_t q = 1; q < d->n && build_step(b, 1); q++) {
            usable[q] = loops ? live[q] : n < last && dist[q] != UINT32_MAX && (max_len == SIZE_MAX || dist[q] <= max_len - n - 1);
            there[q] = loops ? here[q] : NOWHERE;
        }
        for (uint32_t q = 1; q < d->n && !loops && build_step(b, 1); q++) /* places of the next layer, for what is reached */
            for (size_t c = 0; live[q] && c < d->r->n_classes; c++) {
                uint32_t to = d->next[q * d->r->n_classes + c];
                if (to && usable[to] && there[to] == NOWHERE)
                    there[to] = build_open_state(b);
            }
        for (uint32_t q = 1; q < d->n && b->st == HEARTH_OK; q++) {
            uint32_t way = here[q], end;
            if (!live[q])
                continue;
            if (d->accepts[q] && n >= min_len) {
                end = build_fork(b, way, &way);
                build_link(b, end, done);
            }
            emit_row(d, &way, q, there, usable);
        }
        for (uint32_t q = 1; q < d->n && !loops; q++) {
            live[q] = there[q] != NOWHERE;
            here[q] = there[q];
        }
    }
    return done;
}

uint32_t build_pattern(struct builder *b, uint32_t at, const char *p, size_t n, size_t min_len, size_t max_len, const char *what)
{
    struct regex r = { .b = b, .p = p, .end = p + n, .what = what };
    struct dfa d;
    struct ranges all = { 0 };
    if (n > LIMIT_PATTERN_BYTES)
        return build_fail(b, HEARTH_ELIMIT, "too complex: %s has %zu bytes; %d are possible", what, n, LIMIT_PATTERN_BYTES), NOWHERE;
    ranges_add(b, &all, 0, 0x10FFFF);
    uint32_t any = add_set(&r, &all), loop, way;
    re_open(&r); /* 0 stays unused: an open state that leads to 0 leads nowhere */
    uint32_t start = re_open(&r);
    way = re_fork(&r, start, &loop);
    re_link(&r, re_set(&r, loop, RE_SET, any), start);
    uint32_t end = re_parse(&r, way), match, rest;
    way = re_fork(&r, end, &rest);
    match = re_set(&r, rest, RE_SET, any);
    re_link(&r, match, end);
    if (b->st == HEARTH_OK)
        r.s[way].op = RE_MATCH;
    if (b->st == HEARTH_OK)
        find_classes(&r);
    if (b->st != HEARTH_OK || !dfa_make(&d, &r, start))
        return NOWHERE;
    return emit(&d, at, min_len, max_len);
}

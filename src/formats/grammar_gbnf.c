/* grammar_gbnf.c: GBNF, llama.cpp's notation of grammars.
 *
 *   root ::= "yes" | "no" reason?       # alternatives, a rule, at most once
 *   reason ::= ", " [a-z ]{3,40} ("." | "!")
 *
 * A rule ends with its line, except behind "::=", behind and in front of "|", and inside parentheses. Items: "text" and [set]
 * with the escapes \xHH \uHHHH \UHHHHHHHH \t \r \n \\ \" \[ \], [^set], . (any character), name, ( ... ), each with *, +, ?, {m},
 * {m,}, {m,n} behind it. # begins a comment.
 *
 * Read once from left to right; open parentheses lie on a stack of 64. A repeat copies the states of its item, so sizes
 * multiply and meet the limit on states. What llama.cpp takes and this does not: tokens by number or name (<[7]>, <think>),
 * left recursion (builder_finish finds it), a second definition of a rule (there the later one wins in silence).
 */
#include "formats/grammar_impl.h"
#include "formats/tokenizer_impl.h"

#include <string.h>

struct group {
    uint32_t start, join; /* its first state, before all others of it, and its last */
    uint32_t untaken;     /* the fork that the next alternative begins at */
    uint32_t outer;       /* the open state in front of it */
};

struct name { const char *p; size_t n; uint32_t rule; };

struct gbnf {
    struct builder b;
    const char *text, *p, *end;
    struct name *names;
    size_t n_names, cap_names;
};

static void mistake(struct gbnf *g, const char *what)
{
    size_t line = 1, column = 1;
    for (const char *c = g->text; c < g->p; c++) {
        column = *c == '\n' ? 1 : column + 1;
        line += *c == '\n';
    }
    build_fail(&g->b, HEARTH_EDAMAGED, "grammar, line %zu, column %zu: %s", line, column, what);
}

static int peek(const struct gbnf *g) { return g->p < g->end ? (uint8_t)*g->p : -1; }

static bool take(struct gbnf *g, char c)
{
    if (peek(g) != (uint8_t)c)
        return false;
    g->p++;
    return true;
}

static void skip_space(struct gbnf *g, bool over_lines)
{
    for (int c; (c = peek(g)) >= 0; g->p++) {
        if (c == '#') {
            while (g->p + 1 < g->end && g->p[1] != '\n')
                g->p++;
        } else if (c != ' ' && c != '\t' && !(over_lines && (c == '\n' || c == '\r'))) {
            return;
        }
    }
}

static bool is_word(int c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

/* The number of the rule with the name at p. */
static uint32_t take_name(struct gbnf *g)
{
    const char *first = g->p;
    void *v = g->names;
    while (is_word(peek(g)))
        g->p++;
    size_t n = (size_t)(g->p - first);
    for (size_t i = 0; i < g->n_names && build_step(&g->b, 1); i++)
        if (g->names[i].n == n && memcmp(g->names[i].p, first, n) == 0)
            return g->names[i].rule;
    if (g->n_names == LIMIT_GRAMMAR_NODES)
        build_fail(&g->b, HEARTH_ELIMIT, "too complex: the grammar has more than %d rules", LIMIT_GRAMMAR_NODES);
    if (!build_grow(&g->b, &v, g->n_names, &g->cap_names, sizeof *g->names))
        return 0;
    g->names = v;
    uint32_t rule = build_rule(&g->b);
    g->names[g->n_names++] = (struct name){ first, n, rule };
    return rule;
}

/* ---- characters ---- */

static uint32_t take_hex(struct gbnf *g, int n_digits)
{
    uint32_t v = 0;
    for (int i = 0; i < n_digits; i++, g->p++) {
        int c = peek(g), digit = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
        if (digit < 0) {
            mistake(g, "a hexadecimal digit was expected");
            return 0;
        }
        v = v << 4 | (uint32_t)digit;
    }
    if (v > 0x10FFFF || (v >= 0xD800 && v <= 0xDFFF))
        mistake(g, "no such character in Unicode");
    return v;
}

static uint32_t take_char(struct gbnf *g)
{
    uint32_t cp = 0;
    bool is_valid = false;
    if (g->p == g->end) {
        mistake(g, "the text ends inside a string or a set");
        return 0;
    }
    if (!take(g, '\\')) {
        g->p += utf8_take(g->p, (size_t)(g->end - g->p), &cp, &is_valid);
        if (!is_valid)
            mistake(g, "not UTF-8");
        return cp;
    }
    int c = peek(g);
    g->p += c >= 0;
    switch (c) {
    case 'x': return take_hex(g, 2);
    case 'u': return take_hex(g, 4);
    case 'U': return take_hex(g, 8);
    case 't': return '\t';
    case 'r': return '\r';
    case 'n': return '\n';
    case '\\': case '"': case '[': case ']': return (uint32_t)c;
    default:
        g->p -= c >= 0;
        mistake(g, "unknown escape");
        return 0;
    }
}

/* Behind the opening quote. */
static uint32_t literal(struct gbnf *g, uint32_t at)
{
    while (g->b.st == HEARTH_OK && !take(g, '"')) {
        char utf8[4];
        uint32_t cp = take_char(g);
        if (g->b.st == HEARTH_OK)
            at = build_text(&g->b, at, utf8, utf8_put(utf8, cp));
    }
    return at;
}

/* Behind the opening bracket. */
static void take_set(struct gbnf *g, struct ranges *r)
{
    bool is_negated = take(g, '^');
    while (g->b.st == HEARTH_OK && !take(g, ']')) {
        uint32_t lo = take_char(g), hi = lo;
        if (peek(g) == '-' && g->p + 1 < g->end && g->p[1] != ']') {
            g->p++;
            hi = take_char(g);
            if (hi < lo)
                mistake(g, "the range ends before it begins");
        }
        ranges_add(&g->b, r, lo, hi);
    }
    ranges_tidy(r);
    if (is_negated)
        ranges_invert(&g->b, r);
}

/* ---- repeats ---- */

static size_t take_count(struct gbnf *g)
{
    size_t v = 0;
    if (peek(g) < '0' || peek(g) > '9')
        mistake(g, "a number was expected");
    while (peek(g) >= '0' && peek(g) <= '9') {
        v = MIN(v * 10 + (size_t)(*g->p - '0'), (size_t)1000000);
        g->p++;
    }
    if (v > LIMIT_GRAMMAR_REPEAT)
        build_fail(&g->b, HEARTH_ELIMIT, "too complex: the grammar repeats an item %zu times or more; %d are possible", v, LIMIT_GRAMMAR_REPEAT);
    return v;
}

/* What stands behind an item. false: nothing. SIZE_MAX: no end. */
static bool take_repeat(struct gbnf *g, size_t *lo, size_t *hi)
{
    *lo = 0;
    *hi = SIZE_MAX;
    if (take(g, '*'))
        return true;
    if (take(g, '+'))
        return *lo = 1, true;
    if (take(g, '?'))
        return *hi = 1, true;
    if (!take(g, '{'))
        return false;
    skip_space(g, true);
    if (peek(g) != ',')
        *hi = *lo = take_count(g);
    skip_space(g, true);
    if (take(g, ',')) {
        skip_space(g, true);
        *hi = peek(g) == '}' ? SIZE_MAX : take_count(g);
        skip_space(g, true);
    }
    if (!take(g, '}'))
        mistake(g, "} was expected");
    if (*hi < *lo)
        mistake(g, "the repeat ends before it begins");
    return true;
}

/* The item's states are those from begin on; at is the open state before it. */
static uint32_t repeat(struct builder *b, uint32_t at, uint32_t begin, uint32_t start, uint32_t end, size_t lo, size_t hi)
{
    uint32_t end_states = b->n, done = build_open_state(b);
    size_t n = hi == SIZE_MAX ? MAX(lo, (size_t)1) : hi;
    if (n == 0) /* {0}: the item is written and not used */
        return build_link(b, at, done), done;
    for (size_t i = 0; i < n && b->st == HEARTH_OK; i++) {
        uint32_t s = start, e = end, other, from = at;
        if (i + 1 < n) /* the last one is the item itself, until then it stays open to be copied */
            build_copy(b, begin, end_states, &s, &e);
        if (i >= lo) {
            from = build_fork(b, at, &other);
            build_link(b, other, done);
        }
        if (hi == SIZE_MAX && i + 1 == n) { /* the last one is a loop */
            uint32_t again;
            build_link(b, from, s);
            at = build_fork(b, e, &again);
            build_link(b, again, s);
            continue;
        }
        build_link(b, from, s);
        at = e;
    }
    build_link(b, at, done);
    return done;
}

/* ---- rules ---- */

/* What one place in a rule knows. */
struct place {
    uint32_t at;          /* the open state */
    size_t n_groups;
    struct group groups[LIMIT_GRAMMAR_DEPTH];
};

static struct group group_begin(struct gbnf *g, uint32_t outer)
{
    struct group q = { .outer = outer };
    q.start = q.untaken = build_open_state(&g->b);
    q.join = build_open_state(&g->b);
    return q;
}

static uint32_t alternative(struct gbnf *g, struct group *q) { return build_fork(&g->b, q->untaken, &q->untaken); }

/* Adds the finished item [start, end) with whatever repeats stand behind it. */
static void add_item(struct gbnf *g, struct place *w, uint32_t begin, uint32_t start, uint32_t end)
{
    size_t lo, hi;
    bool in_group = w->n_groups > 1;
    skip_space(g, in_group);
    if (!take_repeat(g, &lo, &hi)) {
        build_link(&g->b, w->at, start);
        w->at = end;
        return;
    }
    w->at = repeat(&g->b, w->at, begin, start, end, lo, hi);
    skip_space(g, in_group);
    if (g->b.st == HEARTH_OK && (peek(g) == '*' || peek(g) == '+' || peek(g) == '?' || peek(g) == '{'))
        mistake(g, "a repeat of a repeat needs parentheses");
}

/* One item that is no parenthesis, whose first character is c. */
static void simple_item(struct gbnf *g, struct place *w, int c)
{
    struct ranges r = { 0 };
    g->p += c == '"' || c == '[' || c == '.';
    if (c == '[')
        take_set(g, &r);
    else if (c == '.')
        ranges_invert(&g->b, &r);
    if (c == '[' || c == '.')
        build_chars_ready(&g->b, &r, false);
    uint32_t begin = g->b.n, start = build_open_state(&g->b), end;
    if (c == '"')
        end = literal(g, start);
    else if (c == '[' || c == '.')
        end = build_chars(&g->b, start, &r, false);
    else
        end = build_call(&g->b, start, take_name(g));
    add_item(g, w, begin, start, end);
}

static void rule_body(struct gbnf *g, uint32_t rule)
{
    struct place w = { .n_groups = 1 };
    w.groups[0] = group_begin(g, NOWHERE);
    build_link(&g->b, build_rule_begin(&g->b, rule), w.groups[0].start);
    w.at = alternative(g, &w.groups[0]);
    while (build_step(&g->b, 1)) {
        struct group *q = &w.groups[w.n_groups - 1];
        skip_space(g, w.n_groups > 1);
        int c = peek(g);
        if (w.n_groups == 1 && (c == '\n' || c == '\r')) {
            const char *line_end = g->p;
            skip_space(g, true);
            if (peek(g) != '|') { /* the next line is the next rule */
                g->p = line_end;
                break;
            }
            c = '|';
        }
        if (c == '|') {
            g->p++;
            skip_space(g, true);
            build_link(&g->b, w.at, q->join);
            w.at = alternative(g, q);
        } else if (c == '(') {
            g->p++;
            if (w.n_groups == LIMIT_GRAMMAR_DEPTH) {
                build_fail(&g->b, HEARTH_ELIMIT, "too complex: the grammar nests parentheses deeper than %d", LIMIT_GRAMMAR_DEPTH);
                break;
            }
            q = &w.groups[w.n_groups++];
            *q = group_begin(g, w.at);
            w.at = alternative(g, q);
        } else if (c == ')' && w.n_groups > 1) {
            struct group done = *q;
            g->p++;
            build_link(&g->b, w.at, done.join);
            w.n_groups--;
            w.at = done.outer;
            add_item(g, &w, done.start, done.start, done.join);
        } else if (c == '"' || c == '[' || c == '.' || is_word(c)) {
            simple_item(g, &w, c);
        } else if (c < 0 && w.n_groups == 1) {
            break;
        } else {
            mistake(g, c < 0 ? ") was expected" : c == '<' ? "tokens in grammars are not known here" : "an item was expected");
        }
    }
    build_link(&g->b, w.at, w.groups[0].join);
    build_rule_end(&g->b, rule, w.groups[0].join);
}

static void rule(struct gbnf *g)
{
    if (!is_word(peek(g))) {
        mistake(g, "the name of a rule was expected");
        return;
    }
    const char *first = g->p;
    uint32_t r = take_name(g);
    if (g->b.st == HEARTH_OK && g->b.rules[r].is_defined) {
        g->p = first;
        mistake(g, "this rule is defined already");
    }
    skip_space(g, false);
    if (g->b.st != HEARTH_OK)
        return;
    if (g->end - g->p < 3 || memcmp(g->p, "::=", 3) != 0) {
        mistake(g, "::= was expected");
        return;
    }
    g->p += 3;
    skip_space(g, true);
    rule_body(g, r);
}

enum hearth_status grammar_from_gbnf(struct grammar **out, const char *text, size_t n, struct arena *a, struct err *e)
{
    struct gbnf g = { .text = text, .p = text, .end = text + n };
    uint32_t root = UINT32_MAX;
    *out = NULL;
    if (n > LIMIT_GRAMMAR_BYTES)
        return err_set(e, HEARTH_ELIMIT, "too complex: the grammar has %zu bytes; %zu are possible", n, LIMIT_GRAMMAR_BYTES);
    builder_open(&g.b, "grammar", a, e);
    skip_space(&g, true);
    while (g.p < g.end && g.b.st == HEARTH_OK) {
        rule(&g);
        skip_space(&g, true);
    }
    for (size_t i = 0; i < g.n_names && g.b.st == HEARTH_OK; i++) {
        const struct name *m = &g.names[i];
        if (!g.b.rules[m->rule].is_defined)
            build_fail(&g.b, HEARTH_EDAMAGED, "grammar: the rule \"%.*s\" is used and not defined", (int)MIN(m->n, (size_t)60), m->p);
        if (m->n == 4 && memcmp(m->p, "root", 4) == 0)
            root = m->rule;
    }
    if (g.b.st == HEARTH_OK && root == UINT32_MAX)
        build_fail(&g.b, HEARTH_EDAMAGED, "grammar: there is no rule \"root\"");
    return builder_finish(&g.b, out, root);
}

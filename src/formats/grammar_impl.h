/* grammar_impl.h: what the grammar files share; private to formats/.
 *
 *   GBNF text ──grammar_gbnf──┐                       ┌─ grammar_run: states on demand, a stack of rules
 *   schema ──grammar_schema───┼─> builder ──finish──> struct grammar
 *     └ patterns ─ _regex ────┤   (grammar_build)     └─ grammar_mask: trie of tokens, masks
 *     └ numbers ── _number ───┘
 *
 * The automaton is Thompson's, one fragment per rule, plus calls: OP_CALL goes to the start of a rule and comes back to
 * its own b. Nothing here calls itself: fragments are made from left to right, schemas wait in a queue.
 *
 * Building style: `at` is an open state (OP_EPS whose target is not yet known); each build_ function continues there and
 * returns the next open state. An open state that is never linked leads nowhere. After a failure (b->st) all of them still
 * return a state, so that only loops need to look.
 */
#ifndef FORMATS_GRAMMAR_IMPL_H
#define FORMATS_GRAMMAR_IMPL_H

#include "formats/formats.h"

enum op {
    OP_DEAD,  /* nothing */
    OP_EPS,   /* -> a */
    OP_SPLIT, /* -> a or b */
    OP_BYTE,  /* a byte in [lo, hi] -> a */
    OP_CALL,  /* rule a, then -> b; in a finished grammar a is the rule's first state */
    OP_TAIL,  /* finished grammar only: -> a, the rule that ends where this one ends */
    OP_END,   /* the rule is done */
};
enum { NOWHERE = 0 }; /* state 0 is OP_DEAD */

struct nfa_state {
    uint8_t op, lo, hi;
    uint32_t a, b;
};

struct grammar {
    struct nfa_state *s; /* [n] */
    uint32_t n, start;
    uint32_t n_classes;      /* bytes that no state tells apart are one class */
    uint8_t class_of[256], byte_of[256]; /* and one byte of each class */
};

struct rule {
    uint32_t start, end;
    bool is_defined;
};
struct range { uint32_t lo, hi; }; /* of code points, both ends included */

/* A set of code points: sorted, apart, without surrogates once build_ranges_tidy has seen it. */
struct ranges { struct range *v; size_t n, cap; };

struct char_rule { struct range *v; size_t n; bool is_json; uint32_t rule; };

struct builder {
    struct arena scratch;     /* everything until finish */
    struct arena *out;        /* the grammar */
    struct err *e;
    enum hearth_status st;    /* the first failure */
    struct nfa_state *s;
    uint32_t n, cap;
    struct rule *rules;
    uint32_t n_rules, cap_rules;
    struct char_rule *chars;  /* sets of characters that are rules already */
    size_t n_chars, cap_chars;
    uint64_t n_steps;
    const char *what;         /* "schema", "grammar": for messages */
};

void builder_open(struct builder *b, const char *what, struct arena *out, struct err *e);
/* Checks, shortens and copies the automaton to the arena; closes the builder whatever happens. */
enum hearth_status builder_finish(struct builder *b, struct grammar **out, uint32_t root);
/* First failure only; returns b->st. */
enum hearth_status build_fail(struct builder *b, enum hearth_status st, const char *fmt, ...) PRINTF_LIKE(3, 4);
bool build_step(struct builder *b, uint64_t n); /* counts work; false: failed, now or before */
/* Room for n + 1 elements of size bytes; moves them as needed. false: failed. */
bool build_grow(struct builder *b, void **v, size_t n, size_t *cap, size_t size);

uint32_t build_open_state(struct builder *b);
uint32_t build_rule(struct builder *b);                    /* declares one */
uint32_t build_rule_begin(struct builder *b, uint32_t rule); /* its first open state */
void build_rule_end(struct builder *b, uint32_t rule, uint32_t at);
void build_link(struct builder *b, uint32_t at, uint32_t to);
/* at becomes a fork; returns one way, *other is the other. */
uint32_t build_fork(struct builder *b, uint32_t at, uint32_t *other);
uint32_t build_byte(struct builder *b, uint32_t at, uint8_t lo, uint8_t hi);
uint32_t build_text(struct builder *b, uint32_t at, const char *p, size_t n);
uint32_t build_call(struct builder *b, uint32_t at, uint32_t rule);
/* The same states again: those from `begin` on, which hold one fragment [start, end) with end open. */
void build_copy(struct builder *b, uint32_t begin, uint32_t end_states, uint32_t *start, uint32_t *end);

void ranges_add(struct builder *b, struct ranges *r, uint32_t lo, uint32_t hi);
void ranges_tidy(struct ranges *r);   /* sorts, joins, takes surrogates out */
void ranges_invert(struct builder *b, struct ranges *r); /* tidy before and after */
/* One character of a tidy set as UTF-8; is_json: as the inside of a JSON string writes it, in one way only: escapes where
 * they must be, short ones where there are. */
uint32_t build_chars(struct builder *b, uint32_t at, const struct ranges *r, bool is_json);

/* Makes what build_chars will call, so that its states do not lie in the fragment that is being made. */
void build_chars_ready(struct builder *b, const struct ranges *r, bool is_json);

/* ---- parts of schemas ---- */

/* The inside of a JSON string whose text matches an ECMA-262 pattern anywhere (or as its anchors say), with at least
 * min_len and at most max_len (SIZE_MAX: any number of) characters. what: for messages. */
uint32_t build_pattern(struct builder *b, uint32_t at, const char *p, size_t n, size_t min_len, size_t max_len, const char *what);

/* A bound of numbers: a decimal fraction. */
enum { NUMBER_INT_DIGITS = 16, NUMBER_FRACTION_DIGITS = 16, NUMBER_DIGITS_MAX = 352 };
struct bound {
    bool is_set, is_open, is_negative;     /* is_open: the bound itself is outside */
    char digits[2 * NUMBER_DIGITS_MAX];    /* before the point, behind it; no other zeros at either end */
    size_t n_int, n_fraction;
};
bool bound_from_double(struct bound *out, double v); /* false: not finite */
int bound_compare(const struct bound *a, const struct bound *b); /* by value */
/* Numbers in [lo, hi] without exponent; is_integer: without point. */
uint32_t build_number(struct builder *b, uint32_t at, const struct bound *lo, const struct bound *hi, bool is_integer);

/* Rules that every JSON grammar uses; rule numbers, valid after build_json_rules. */
struct json_rules { uint32_t ws, chr, string, number, integer, value, object, array; };
void build_json_rules(struct builder *b, struct json_rules *j);

/* Dates and so on as patterns; NULL: no such format is known. */
const char *format_pattern(struct str name);

/* ---- merging schemas (grammar_merge.c) ---- */

/* Both together as one object of keywords, without combinators: the part of allOf. New values are kept alive by `keep`.
 * NULL: failed. is_exact as SCHEMA_EXACT. */
json_t *schema_merge(struct builder *b, json_t *keep, json_t *x, json_t *y);
/* Do two branches have no value in common, for certain? Both plain or $ref already followed. */
bool schemas_are_apart(const json_t *x, const json_t *y);
enum { T_NULL = 1, T_BOOL = 2, T_INTEGER = 4, T_FRACTION = 8, T_STRING = 16, T_ARRAY = 32, T_OBJECT = 64, T_ALL = 127 };
/* The types a schema's own type, const and enum admit. */
unsigned schema_types(const json_t *schema);
unsigned type_of_value(const json_t *v);
bool json_same(const json_t *x, const json_t *y); /* 1 equals 1.0 */

#endif

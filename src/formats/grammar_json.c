/* grammar_json.c: what all JSON grammars are made of: white space, strings, numbers, any value; bounds of numbers; formats.
 *
 * What is written here is a part of JSON that every reader takes and that cannot run away:
 *   white space   behind { [ , : and in front of } ]: none, one space, or a newline and at most 20 spaces
 *   strings       valid UTF-8, escapes \" \\ \/ \b \f \n \r \t \uXXXX (surrogates only in pairs)
 *   numbers       at most 16 digits before the point, 16 behind it, 3 of exponent; integers have no point, and none is -0
 *
 * A bound of numbers is a digit automaton. For each count of digits before the point (1 .. 16) the digits run along the bound's
 * own as long as they are equal ("tight"), and once they differ to the right side they are free; the free rest is shared. So a
 * bound costs about three states for each of its digits. Negative numbers are "-" and the mirrored range of magnitudes without 0.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/grammar_impl.h"

/* ---- rules of every JSON grammar ---- */

static uint32_t optional(struct builder *b, uint32_t at, uint32_t *skip) { return build_fork(b, at, skip); }

static uint32_t digit(struct builder *b, uint32_t at) { return build_byte(b, at, '0', '9'); }

/* Up to n digits. */
static uint32_t digits_up_to(struct builder *b, uint32_t at, size_t n)
{
    uint32_t done = build_open_state(b), skip;
    for (size_t i = 0; i < n; i++) {
        at = digit(b, optional(b, at, &skip));
        build_link(b, skip, done);
    }
    build_link(b, at, done);
    return done;
}

static uint32_t hex(struct builder *b, uint32_t at, const char *classes)
{
    uint32_t join = build_open_state(b), rest = at;
    for (const char *c = classes; *c; c += 2)
        build_link(b, build_byte(b, build_fork(b, rest, &rest), (uint8_t)c[0], (uint8_t)c[1]), join);
    return join;
}

static const char any_hex[] = "09afAF";

/* \uXXXX behind "\u": no surrogate, or a pair of them. */
static uint32_t unicode_escape(struct builder *b, uint32_t at)
{
    uint32_t join = build_open_state(b), way, rest;
    way = hex(b, build_fork(b, at, &rest), "09acACefEF");
    for (int i = 0; i < 3; i++)
        way = hex(b, way, any_hex);
    build_link(b, way, join);
    way = hex(b, hex(b, build_fork(b, rest, &rest), "ddDD"), "07");
    way = hex(b, hex(b, way, any_hex), any_hex);
    build_link(b, way, join);
    way = hex(b, hex(b, rest, "ddDD"), "89abAB");
    way = build_text(b, hex(b, hex(b, way, any_hex), any_hex), "\\u", 2);
    way = hex(b, hex(b, way, "ddDD"), "cfCF");
    build_link(b, hex(b, hex(b, way, any_hex), any_hex), join);
    return join;
}

static void rule_chr(struct builder *b, uint32_t rule)
{
    struct ranges plain = { 0 };
    uint32_t at, way, rest, join;
    ranges_add(b, &plain, 0, 31);
    ranges_add(b, &plain, '"', '"');
    ranges_add(b, &plain, '\\', '\\');
    ranges_invert(b, &plain);
    build_chars_ready(b, &plain, false);
    at = build_rule_begin(b, rule);
    join = build_open_state(b);
    build_link(b, build_chars(b, build_fork(b, at, &rest), &plain, false), join);
    at = build_byte(b, rest, '\\', '\\');
    for (const char *c = "\"\\/bfnrt"; *c; c++)
        build_link(b, build_byte(b, build_fork(b, at, &at), (uint8_t)*c, (uint8_t)*c), join);
    way = build_byte(b, at, 'u', 'u');
    build_link(b, unicode_escape(b, way), join);
    build_rule_end(b, rule, join);
}

static void rule_ws(struct builder *b, uint32_t rule)
{
    uint32_t at = build_rule_begin(b, rule), done = build_open_state(b), way, rest;
    build_link(b, build_fork(b, at, &rest), done);
    way = build_fork(b, rest, &rest);
    build_link(b, build_byte(b, way, ' ', ' '), done);
    at = build_byte(b, rest, '\n', '\n');
    for (int i = 0; i < 20; i++) {
        at = build_byte(b, build_fork(b, at, &rest), ' ', ' ');
        build_link(b, rest, done);
    }
    build_link(b, at, done);
    build_rule_end(b, rule, done);
}

static void rule_string(struct builder *b, uint32_t rule, uint32_t chr)
{
    uint32_t at = build_byte(b, build_rule_begin(b, rule), '"', '"'), loop = build_open_state(b), out;
    build_link(b, at, loop);
    at = build_call(b, build_fork(b, loop, &out), chr);
    build_link(b, at, loop);
    build_rule_end(b, rule, build_byte(b, out, '"', '"'));
}

/* Digits before the point, no 0 in front of others. */
static uint32_t int_part(struct builder *b, uint32_t at)
{
    uint32_t join = build_open_state(b), rest;
    build_link(b, build_byte(b, build_fork(b, at, &rest), '0', '0'), join);
    build_link(b, digits_up_to(b, build_byte(b, rest, '1', '9'), NUMBER_INT_DIGITS - 1), join);
    return join;
}

static uint32_t fraction(struct builder *b, uint32_t at)
{
    uint32_t join = build_open_state(b), skip;
    at = digit(b, build_byte(b, build_fork(b, at, &skip), '.', '.'));
    build_link(b, skip, join);
    build_link(b, digits_up_to(b, at, NUMBER_FRACTION_DIGITS - 1), join);
    return join;
}

static uint32_t exponent(struct builder *b, uint32_t at)
{
    uint32_t join = build_open_state(b), skip, sign = build_open_state(b), rest;
    build_link(b, hex(b, build_fork(b, at, &skip), "eeEE"), sign);
    build_link(b, skip, join);
    at = build_open_state(b);
    build_link(b, hex(b, build_fork(b, sign, &rest), "++--"), at);
    build_link(b, rest, at);
    build_link(b, digits_up_to(b, digit(b, at), 2), join);
    return join;
}

static uint32_t minus(struct builder *b, uint32_t at)
{
    uint32_t join = build_open_state(b), skip;
    build_link(b, build_byte(b, build_fork(b, at, &skip), '-', '-'), join);
    build_link(b, skip, join);
    return join;
}

static void rule_object(struct builder *b, const struct json_rules *j)
{
    uint32_t at = build_rule_begin(b, j->object), end = build_open_state(b), skip, again, loop = build_open_state(b);
    at = build_call(b, build_byte(b, at, '{', '{'), j->ws);
    at = build_fork(b, at, &skip);
    build_link(b, skip, end);
    build_link(b, at, loop);
    at = build_byte(b, build_call(b, loop, j->string), ':', ':');
    at = build_call(b, build_call(b, at, j->ws), j->value);
    at = build_fork(b, at, &again);
    build_link(b, build_call(b, build_byte(b, again, ',', ','), j->ws), loop);
    build_link(b, build_call(b, at, j->ws), end);
    build_rule_end(b, j->object, build_byte(b, end, '}', '}'));
}

static void rule_array(struct builder *b, const struct json_rules *j)
{
    uint32_t at = build_rule_begin(b, j->array), end = build_open_state(b), skip, again, loop = build_open_state(b);
    at = build_call(b, build_byte(b, at, '[', '['), j->ws);
    at = build_fork(b, at, &skip);
    build_link(b, skip, end);
    build_link(b, at, loop);
    at = build_fork(b, build_call(b, loop, j->value), &again);
    build_link(b, build_call(b, build_byte(b, again, ',', ','), j->ws), loop);
    build_link(b, build_call(b, at, j->ws), end);
    build_rule_end(b, j->array, build_byte(b, end, ']', ']'));
}

static void rule_value(struct builder *b, const struct json_rules *j)
{
    uint32_t at = build_rule_begin(b, j->value), join = build_open_state(b);
    const uint32_t calls[] = { j->string, j->number, j->object, j->array };
    for (size_t i = 0; i < ARRAY_LEN(calls); i++)
        build_link(b, build_call(b, build_fork(b, at, &at), calls[i]), join);
    build_link(b, build_text(b, build_fork(b, at, &at), "true", 4), join);
    build_link(b, build_text(b, build_fork(b, at, &at), "false", 5), join);
    build_link(b, build_text(b, at, "null", 4), join);
    build_rule_end(b, j->value, join);
}

void build_json_rules(struct builder *b, struct json_rules *j)
{
    uint32_t *all[] = { &j->ws, &j->chr, &j->string, &j->number, &j->integer, &j->value, &j->object, &j->array };
    const struct bound none = { 0 };
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        *all[i] = build_rule(b);
    rule_ws(b, j->ws);
    rule_chr(b, j->chr);
    rule_string(b, j->string, j->chr);
    build_rule_end(b, j->number, exponent(b, fraction(b, int_part(b, minus(b, build_rule_begin(b, j->number))))));
    build_rule_end(b, j->integer, build_number(b, build_rule_begin(b, j->integer), &none, &none, true));
    rule_object(b, j);
    rule_array(b, j);
    rule_value(b, j);
}

enum hearth_status grammar_any_json(struct grammar **out, bool any_value, struct arena *a, struct err *e)
{
    struct builder b;
    struct json_rules j;
    builder_open(&b, "grammar", a, e);
    build_json_rules(&b, &j);
    return builder_finish(&b, out, any_value ? j.value : j.object);
}

/* ---- bounds ---- */

bool bound_from_double(struct bound *out, double v)
{
    char text[40], *exp_at;
    int precision = 1, exponent_value;
    *out = (struct bound){ .is_set = true, .is_negative = v < 0 };
    if (!isfinite(v))
        return false;
    do /* the shortest decimal that is this double */
        snprintf(text, sizeof text, "%.*e", precision - 1, fabs(v));
    while (strtod(text, NULL) != fabs(v) && ++precision <= 17);
    exp_at = strchr(text, 'e');
    exponent_value = (int)strtol(exp_at + 1, NULL, 10);
    /* text is d.ddd e x: the point stands behind the first x + 1 digits. */
    char digits[32];
    size_t n = 0;
    for (const char *c = text; c < exp_at; c++)
        if (*c >= '0' && *c <= '9')
            digits[n++] = *c;
    while (n > 1 && digits[n - 1] == '0')
        n--;
    if (v == 0)
        return true; /* no digits at all */
    int point = exponent_value + 1;
    for (int i = MIN(0, point); i < MAX((int)n, point); i++) {
        char c = i >= 0 && i < (int)n ? digits[i] : '0';
        if (i < point)
            out->digits[out->n_int++] = c;
        else
            out->digits[out->n_int + out->n_fraction++] = c;
    }
    return true;
}

static int compare_magnitude(const struct bound *a, const struct bound *b)
{
    if (a->n_int != b->n_int)
        return a->n_int < b->n_int ? -1 : 1;
    size_t na = a->n_int + a->n_fraction, nb = b->n_int + b->n_fraction, n = MIN(na, nb);
    int order = n ? memcmp(a->digits, b->digits, n) : 0;
    return order ? order : na < nb ? -1 : na > nb;
}

int bound_compare(const struct bound *a, const struct bound *b)
{
    if (a->is_negative != b->is_negative)
        return a->is_negative ? -1 : 1;
    return a->is_negative ? compare_magnitude(b, a) : compare_magnitude(a, b);
}

/* ---- ranges of magnitudes ---- */

struct magnitudes {
    struct builder *b;
    const struct bound *lo, *hi; /* not negative; hi may be unset */
    bool is_integer;
    uint32_t done;
    uint32_t free_int[NUMBER_INT_DIGITS + 1], free_fraction[NUMBER_FRACTION_DIGITS + 1]; /* shared rests: k more digits; 0: not made */
};

/* The digit of a bound at a place: 0 .. L-1 before the point of a number with L such digits, then behind it. */
static char digit_at(const struct bound *x, size_t n_int, size_t i)
{
    if (i < n_int) {
        size_t pad = n_int - MIN(n_int, x->n_int);
        return i < pad ? '0' : x->digits[i - pad];
    }
    size_t k = i - n_int;
    return k < x->n_fraction ? x->digits[x->n_int + k] : '0';
}

/* Are all digits of a bound from place i on zero? */
static bool is_zero_from(const struct bound *x, size_t n_int, size_t i)
{
    for (; i < n_int + x->n_fraction; i++)
        if (digit_at(x, n_int, i) != '0')
            return false;
    return true;
}

/* k more digits behind the point, which is there: any, and the number may end. */
static uint32_t free_fraction(struct magnitudes *m, size_t k)
{
    struct builder *b = m->b;
    if (!m->free_fraction[k]) {
        m->free_fraction[k] = build_open_state(b);
        build_link(b, digits_up_to(b, m->free_fraction[k], k), m->done);
    }
    return m->free_fraction[k];
}

/* Exactly k more digits before the point, then perhaps a fraction. */
static uint32_t free_int(struct magnitudes *m, size_t k)
{
    struct builder *b = m->b;
    if (!m->free_int[k]) {
        uint32_t at = m->free_int[k] = build_open_state(b);
        for (size_t i = 0; i < k; i++)
            at = digit(b, at);
        build_link(b, m->is_integer ? at : fraction(b, at), m->done);
    }
    return m->free_int[k];
}

/* May a number end at place i, being equal to a tight bound so far? */
static bool may_end(const struct magnitudes *m, size_t n_int, size_t i, bool tight_lo, bool tight_hi)
{
    if (tight_lo && !(is_zero_from(m->lo, n_int, i) && !m->lo->is_open))
        return false; /* below, or equal and outside */
    return !(tight_hi && is_zero_from(m->hi, n_int, i) && m->hi->is_open);
}

/* A way along the bounds: at place i, equal to them so far as the flags say. Flags only fall: at most three ways are open. */
struct way { uint32_t at; size_t i; bool tight_lo, tight_hi; };

static void one_digit(struct magnitudes *m, uint32_t *at, size_t n_int, const struct way *w, struct way *todo, size_t *n_todo)
{
    struct builder *b = m->b;
    bool in_int = w->i < n_int;
    char lo = w->tight_lo ? digit_at(m->lo, n_int, w->i) : '0', hi = w->tight_hi ? digit_at(m->hi, n_int, w->i) : '9';
    char first = w->i == 0 && n_int > 1 && in_int ? '1' : '0';
    for (char c = MAX(lo, first); c <= hi && b->st == HEARTH_OK; c++) {
        bool tlo = w->tight_lo && c == lo, thi = w->tight_hi && c == hi;
        if (tlo || thi) {
            uint32_t next = build_byte(b, build_fork(b, *at, at), (uint8_t)c, (uint8_t)c);
            todo[(*n_todo)++] = (struct way){ next, w->i + 1, tlo, thi };
            continue;
        }
        char last = w->tight_hi ? (char)(hi - 1) : hi; /* a run of free digits */
        uint32_t next = build_byte(b, build_fork(b, *at, at), (uint8_t)c, (uint8_t)last);
        build_link(b, next, in_int ? free_int(m, n_int - w->i - 1) : free_fraction(m, NUMBER_FRACTION_DIGITS - (w->i - n_int) - 1));
        c = last;
    }
}

static void tight(struct magnitudes *m, uint32_t at, size_t n_int, size_t i, bool tight_lo, bool tight_hi)
{
    struct way todo[4 * (NUMBER_INT_DIGITS + NUMBER_FRACTION_DIGITS)];
    size_t n_todo = 0;
    struct builder *b = m->b;
    todo[n_todo++] = (struct way){ at, i, tight_lo, tight_hi };
    while (n_todo && build_step(b, 1)) {
        struct way w = todo[--n_todo];
        size_t behind = w.i > n_int ? w.i - n_int : 0;
        if (w.i >= n_int && may_end(m, n_int, w.i, w.tight_lo, w.tight_hi))
            build_link(b, build_fork(b, w.at, &w.at), m->done);
        if (w.i >= n_int && (m->is_integer || behind == NUMBER_FRACTION_DIGITS))
            continue;
        if (w.i == n_int) /* no end right behind the point: the next digit is forced below */
            w.at = build_byte(b, w.at, '.', '.');
        one_digit(m, &w.at, n_int, &w, todo, &n_todo);
    }
}

static uint32_t magnitudes(struct builder *b, uint32_t at, const struct bound *lo, const struct bound *hi, bool is_integer)
{
    struct magnitudes m = { .b = b, .lo = lo, .hi = hi, .is_integer = is_integer, .done = build_open_state(b) };
    for (size_t n_int = 1; n_int <= NUMBER_INT_DIGITS && b->st == HEARTH_OK; n_int++) {
        /* A magnitude below 1 is written with one digit, 0, before the point. */
        bool can_lo = lo->n_int <= n_int, can_hi = !hi->is_set || MAX(hi->n_int, (size_t)1) >= n_int;
        if (!can_lo || !can_hi)
            continue;
        bool tight_lo = MAX(lo->n_int, (size_t)1) == n_int, tight_hi = hi->is_set && MAX(hi->n_int, (size_t)1) == n_int;
        uint32_t way = build_fork(b, at, &at);
        if (tight_lo || tight_hi)
            tight(&m, way, n_int, 0, tight_lo, tight_hi);
        else if (n_int == 1)
            build_link(b, digit(b, way), free_int(&m, 0));
        else
            build_link(b, build_byte(b, way, '1', '9'), free_int(&m, n_int - 1));
    }
    return m.done;
}

/* The same bound for integers: the fraction goes. Cutting it moves the bound towards 0: into the range for a negative lower and a
 * positive upper bound, which then belongs to it; out of the range for the others, which then does not. */
static void to_integer(struct bound *x, bool is_lo)
{
    if (!x->n_fraction)
        return;
    x->is_open = x->is_negative != is_lo;
    x->n_fraction = 0;
    if (!x->n_int)
        x->is_negative = false; /* there is one 0 */
}

uint32_t build_number(struct builder *b, uint32_t at, const struct bound *lo_in, const struct bound *hi_in, bool is_integer)
{
    struct bound lo = *lo_in, hi = *hi_in;
    const struct bound zero = { .is_set = true }, above_zero = { .is_set = true, .is_open = true };
    uint32_t join = build_open_state(b), way;
    if (is_integer && lo.is_set)
        to_integer(&lo, true);
    if (is_integer && hi.is_set)
        to_integer(&hi, false);
    if (lo.is_set && hi.is_set) {
        int order = bound_compare(&lo, &hi);
        if (order > 0 || (order == 0 && (lo.is_open || hi.is_open)))
            return join; /* nothing: join is never reached */
    }
    bool has_negative = !lo.is_set || lo.is_negative, has_positive = !hi.is_set || !hi.is_negative;
    if (has_positive) {
        const struct bound *from = lo.is_set && !lo.is_negative ? &lo : &zero;
        build_link(b, magnitudes(b, build_fork(b, at, &at), from, &hi, is_integer), join);
    }
    if (has_negative) {
        struct bound from = hi.is_set && hi.is_negative ? hi : above_zero, to = lo;
        from.is_negative = to.is_negative = false;
        way = build_byte(b, build_fork(b, at, &at), '-', '-');
        build_link(b, magnitudes(b, way, &from, &to, is_integer), join);
    }
    return join;
}

/* ---- formats ---- */

#define TIME "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
#define LEAP "([0-9]{2}(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)"
#define DATE                                                                                                     \
    "([0-9]{4}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))|" LEAP "-02-29)"

const char *format_pattern(struct str name)
{
    static const struct { const char *name, *pattern; } formats[] = {
        { "date", "^" DATE "$" },
        { "time", "^" TIME "$" },
        { "date-time", "^" DATE "[Tt]" TIME "$" },
        { "uuid", "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$" },
    };
    for (size_t i = 0; i < ARRAY_LEN(formats); i++)
        if (str_eqz(name, formats[i].name))
            return formats[i].pattern;
    return NULL;
}

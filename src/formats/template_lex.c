/* template_lex.c: a template's text as tokens.
 *
 * Text outside tags is one T_DATA token up to the next "{{", "{%" or "{#"; comments vanish; {% raw %}
 * is data. The whitespace rules are those that chat templates are written for (trim_blocks and
 * lstrip_blocks on): a newline right behind "%}" or "#}" is dropped; spaces and tabs between the start
 * of a line and "{%" or "{#" are dropped; "-" inside a tag's edge strips all whitespace on that side, and
 * "+" keeps it. Line ends become \n first, and one newline at the very end of the source goes.
 *
 * Inside a tag, "}}" and "%}" end it only while no bracket is open, so {{ {'a': {}} }} works. String
 * escapes are Python's. Integers beyond 64 bits are refused: Python has them, templates do not.
 *
 * The lexer runs on demand, one token ahead of the parser, in time linear in the source: whatever is
 * passed over is never looked at again. It allocates only for strings with escapes.
 */
#include "formats/template.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { MODE_DATA, MODE_VARIABLE, MODE_BLOCK };
enum { WANT_NOTHING, WANT_VARIABLE, WANT_BLOCK, WANT_COMMENT, WANT_RAW };

bool template_fail(struct err *e, struct str name, uint32_t line, enum hearth_status st, const char *fmt, ...)
{
    char text[400];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    err_set(e, st, "%.*s, line %u: %s", STR_FMT(name), (unsigned)line, text);
    return false;
}

static uint32_t line_here(struct lexer *x)
{
    for (; x->line_at < x->at; x->line_at++)
        x->line += x->p[x->line_at] == '\n';
    return x->line;
}

#define lex_fail(x, ...) template_fail((x)->e, (x)->name, line_here(x), HEARTH_EINVAL, __VA_ARGS__)

static bool lex_memory(struct lexer *x)
{
    return template_fail(x->e, x->name, line_here(x), HEARTH_ENOMEM, "no memory left to compile the template");
}

bool lexer_open(struct lexer *x, const char *text, size_t n, struct str name, struct arena *a, struct err *e)
{
    char *copy = arena_push(a, n + 1, 1, 1);
    size_t len = 0;
    *x = (struct lexer){ .p = copy, .line = 1, .name = name, .arena = a, .e = e };
    if (!copy)
        return lex_memory(x);
    for (size_t i = 0; i < n; i++) {
        if (text[i] == '\r' && i + 1 < n && text[i + 1] == '\n')
            continue;
        copy[len++] = text[i] == '\r' ? '\n' : text[i];
    }
    if (len && copy[len - 1] == '\n')
        len--;
    x->n = len;
    return utf8_valid(copy, len) || template_fail(e, name, 1, HEARTH_EINVAL, "the template is not valid UTF-8");
}

/* ---- text outside tags ---- */

static size_t skip_space(const struct lexer *x, size_t at)
{
    while (at < x->n) {
        size_t next = at;
        if (!is_space(utf8_next(x->p, x->n, &next)))
            break;
        at = next;
    }
    return at;
}

static bool starts(const struct lexer *x, size_t at, const char *z)
{
    size_t n = strlen(z);
    return at <= x->n && x->n - at >= n && memcmp(x->p + at, z, n) == 0;
}

/* The position behind an end mark at `at` (sign, mark, and what the sign or trim_blocks swallows);
 * 0 when there is none. */
static size_t end_mark(const struct lexer *x, size_t at, const char *mark, bool trim_newline)
{
    char sign = at < x->n ? x->p[at] : 0;
    size_t after = at + (sign == '-' || sign == '+');
    if ((sign == '+' && !trim_newline) || !starts(x, after, mark))
        return 0;
    after += 2;
    if (sign == '-')
        return skip_space(x, after);
    if (trim_newline && sign != '+' && after < x->n && x->p[after] == '\n')
        after++;
    return after;
}

/* "{%- raw -%}": the position behind it, or 0. */
static size_t raw_tag(const struct lexer *x, size_t at, const char *word, bool trim_newline)
{
    if (!starts(x, at, "{%"))
        return 0;
    at += 2;
    if (at < x->n && (x->p[at] == '-' || x->p[at] == '+'))
        at++;
    at = skip_space(x, at);
    if (!starts(x, at, word))
        return 0;
    return end_mark(x, skip_space(x, at + strlen(word)), "%}", trim_newline);
}

/* What is left of text [begin, end) in front of an opening mark with that sign. */
static size_t strip_before(const struct lexer *x, size_t begin, size_t end, char sign, bool is_variable)
{
    size_t at = end, line;
    if (sign == '-') {
        for (size_t i = begin; i < end;) { /* forward: UTF-8 has no cheap backward step */
            bool space = is_space(utf8_next(x->p, end, &i));
            if (!space)
                begin = i;
        }
        return begin;
    }
    if (sign == '+' || is_variable)
        return end;
    while (at > begin && x->p[at - 1] != '\n')
        at--;
    line = at;
    if (at == begin && begin > 0 && x->p[begin - 1] != '\n')
        return end; /* the tag does not begin a line */
    return skip_space(x, at) >= end ? line : end;
}

static size_t find_tag(const struct lexer *x, size_t at)
{
    for (; at < x->n; at++) {
        const char *brace = memchr(x->p + at, '{', x->n - at);
        if (!brace)
            return x->n;
        at = (size_t)(brace - x->p);
        if (at + 1 < x->n && strchr("{%#", x->p[at + 1]) && x->p[at + 1])
            return at;
    }
    return x->n;
}

static bool skip_comment(struct lexer *x)
{
    for (size_t at = x->at; at < x->n; at++) {
        size_t after = (x->p[at] == '#' || x->p[at] == '-' || x->p[at] == '+') ? 0 : SIZE_MAX;
        if (after == 0 && (after = end_mark(x, at, "#}", true)) != 0) {
            x->at = after;
            return true;
        }
    }
    return lex_fail(x, "a comment has no end");
}

static bool lex_raw(struct lexer *x, struct token *out)
{
    for (size_t at = x->at; at < x->n; at++) {
        size_t after = x->p[at] == '{' ? raw_tag(x, at, "endraw", true) : 0;
        if (!after)
            continue;
        char sign = x->p[at + 2];
        size_t end = strip_before(x, x->at, at, sign == '-' || sign == '+' ? sign : 0, false);
        out->kind = T_DATA;
        out->text = (struct str){ x->p + x->at, end - x->at };
        x->at = after;
        return true;
    }
    return lex_fail(x, "{%% raw %%} has no {%% endraw %%}");
}

/* Text up to the next tag, and what kind of tag that is. */
static bool lex_data(struct lexer *x, struct token *out)
{
    size_t begin = x->at, tag = find_tag(x, begin), end = tag, raw;
    char sign = 0;
    x->want = WANT_NOTHING;
    if (tag < x->n) {
        char mark = x->p[tag + 1];
        if (tag + 2 < x->n && (x->p[tag + 2] == '-' || x->p[tag + 2] == '+'))
            sign = x->p[tag + 2];
        end = strip_before(x, begin, tag, sign, mark == '{');
        raw = mark == '%' ? raw_tag(x, tag, "raw", false) : 0;
        x->want = raw ? WANT_RAW : mark == '{' ? WANT_VARIABLE : mark == '%' ? WANT_BLOCK : WANT_COMMENT;
        x->at = raw ? raw : tag + 2 + (sign != 0);
    } else {
        x->at = x->n;
    }
    out->kind = T_DATA;
    out->text = (struct str){ x->p + begin, end - begin };
    return true;
}

static bool lex_outside(struct lexer *x, struct token *out)
{
    for (;;) {
        switch (x->want) {
        case WANT_VARIABLE:
        case WANT_BLOCK:
            out->kind = x->want == WANT_VARIABLE ? T_VAR_BEGIN : T_BLOCK_BEGIN;
            x->mode = x->want == WANT_VARIABLE ? MODE_VARIABLE : MODE_BLOCK;
            x->want = WANT_NOTHING;
            return true;
        case WANT_COMMENT:
            x->want = WANT_NOTHING;
            if (!skip_comment(x))
                return false;
            break;
        case WANT_RAW:
            x->want = WANT_NOTHING;
            return lex_raw(x, out);
        default:
            if (x->at >= x->n) {
                out->kind = T_EOF;
                return true;
            }
            lex_data(x, out);
            if (out->text.n)
                return true;
        }
    }
}

/* ---- strings and numbers ---- */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Up to `most` digits of a base at *at; the number of digits taken is *taken. */
static uint32_t escape_digits(const char *p, size_t n, size_t *at, int base, int most, int *taken)
{
    uint32_t v = 0;
    for (*taken = 0; *taken < most && *at < n; ++*taken, ++*at) {
        int d = hex_digit(p[*at]);
        if (d < 0 || d >= base)
            break;
        v = v * (uint32_t)base + (uint32_t)d;
    }
    return v;
}

static size_t put_utf8(char *out, uint32_t c)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xc0 | c >> 6);
        out[1] = (char)(0x80 | (c & 63));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xe0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 63));
        out[2] = (char)(0x80 | (c & 63));
        return 3;
    }
    out[0] = (char)(0xf0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 63));
    out[2] = (char)(0x80 | (c >> 6 & 63));
    out[3] = (char)(0x80 | (c & 63));
    return 4;
}

/* One escape behind its backslash at *at; appends to out. An unknown one stays as written. An escape
 * is never shorter than what it stands for, so out needs no more room than the source. */
static bool lex_escape(struct lexer *x, const char *p, size_t n, size_t *at, char *out, size_t *len)
{
    static const char plain[] = "\\\\''\"\"a\ab\bf\fn\nr\rt\tv\v";
    char c = p[(*at)++];
    int taken, most = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    uint32_t code;
    if (c == '\n')
        return true;
    for (size_t i = 0; i + 1 < sizeof plain; i += 2) {
        if (plain[i] == c) {
            out[(*len)++] = plain[i + 1];
            return true;
        }
    }
    if (c == 'N')
        return template_fail(x->e, x->name, line_here(x), HEARTH_EUNSUPPORTED, "\\N{...} in a string is not supported");
    if (c >= '0' && c <= '7') {
        --*at;
        code = escape_digits(p, n, at, 8, 3, &taken);
    } else if (most) {
        code = escape_digits(p, n, at, 16, most, &taken);
        if (taken < most || code > 0x10ffff)
            return lex_fail(x, "a \\%c escape in a string is malformed", c);
    } else {
        out[(*len)++] = '\\';
        --*at; /* the character itself is copied as any other, it may be part of UTF-8 */
        return true;
    }
    if (code >= 0xd800 && code < 0xe000)
        return lex_fail(x, "a string holds half of a surrogate pair");
    *len += put_utf8(out + *len, code);
    return true;
}

static bool lex_string(struct lexer *x, struct token *out)
{
    char quote = x->p[x->at];
    size_t begin = x->at + 1, end = begin, len = 0, at = 0, n;
    bool escapes = false;
    while (end < x->n && x->p[end] != quote) {
        escapes |= x->p[end] == '\\';
        end += 1 + (x->p[end] == '\\');
    }
    if (end >= x->n)
        return lex_fail(x, "a string has no end");
    out->kind = T_STRING;
    out->text = (struct str){ x->p + begin, n = end - begin };
    if (escapes) {
        const char *p = x->p + begin;
        char *copy = arena_push(x->arena, n + 1, 1, 1);
        if (!copy)
            return lex_memory(x);
        while (at < n) {
            if (p[at] != '\\')
                copy[len++] = p[at++];
            else if (at++, !lex_escape(x, p, n, &at, copy, &len))
                return false;
        }
        out->text = (struct str){ copy, len };
    }
    x->at = end + 1;
    return true;
}

/* digits of a base with single underscores between; the end, or begin when there is none. */
static size_t digits_end(const struct lexer *x, size_t at, int base)
{
    size_t end = at;
    while (at < x->n) {
        int d = hex_digit(x->p[at]);
        if (d >= 0 && d < base)
            end = ++at;
        else if (x->p[at] == '_' && end == at && at + 1 < x->n && hex_digit(x->p[at + 1]) >= 0 && end > 0 &&
                 hex_digit(x->p[end - 1]) >= 0)
            at++;
        else
            break;
    }
    return end;
}

/* The end of a float that begins here, or 0. */
static size_t float_end(const struct lexer *x)
{
    size_t at = digits_end(x, x->at, 10), end = 0, t;
    if (x->at > 0 && x->p[x->at - 1] == '.')
        return 0;
    if (at < x->n && x->p[at] == '.' && (t = digits_end(x, at + 1, 10)) > at + 1)
        end = at = t;
    if (at < x->n && (x->p[at] == 'e' || x->p[at] == 'E')) {
        t = at + 1;
        if (t < x->n && (x->p[t] == '+' || x->p[t] == '-'))
            t++;
        if (digits_end(x, t, 10) > t)
            end = digits_end(x, t, 10);
    }
    return end;
}

static bool lex_number(struct lexer *x, struct token *out)
{
    size_t end = float_end(x), begin = x->at;
    int base = 10;
    if (end) {
        char text[64];
        size_t len = 0;
        bool ok;
        for (size_t i = begin; i < end && len < sizeof text; i++)
            if (x->p[i] != '_')
                text[len++] = x->p[i];
        if (len == sizeof text)
            return lex_fail(x, "a number is too long");
        out->kind = T_FLOAT;
        out->f = parse_double(text, len, &ok);
        x->at = end;
        return true;
    }
    if (x->p[begin] == '0' && begin + 1 < x->n) {
        char c = (char)(x->p[begin + 1] | 0x20);
        int other = c == 'x' ? 16 : c == 'o' ? 8 : c == 'b' ? 2 : 10;
        if (other != 10 && digits_end(x, begin + 2, other) > begin + 2) {
            base = other;
            begin += 2;
        }
    }
    end = digits_end(x, begin, base);
    if (base == 10 && x->p[begin] == '0') /* 0 and 00 are numbers, 01 is two */
        for (end = begin; end < x->n && (x->p[end] == '0' || x->p[end] == '_');)
            end++;
    out->kind = T_INT;
    for (size_t i = begin; i < end; i++)
        if (x->p[i] != '_' && (__builtin_mul_overflow(out->i, (int64_t)base, &out->i) ||
                               __builtin_add_overflow(out->i, (int64_t)hex_digit(x->p[i]), &out->i)))
            return template_fail(x->e, x->name, line_here(x), HEARTH_ELIMIT, "an integer is beyond 64 bits");
    x->at = end;
    return true;
}

/* ---- inside tags ---- */

static bool is_name_byte(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || (c & 0x80);
}

static bool lex_operator(struct lexer *x, struct token *out)
{
    static const struct { char text[3]; uint8_t op; } ops[] = {
        { "//", OP_FLOORDIV }, { "**", OP_POW }, { "==", OP_EQ }, { "!=", OP_NE }, { ">=", OP_GE }, { "<=", OP_LE },
        { "+", OP_ADD }, { "-", OP_SUB }, { "*", OP_MUL }, { "/", OP_DIV }, { "%", OP_MOD }, { "~", OP_TILDE },
        { "[", OP_LBRACKET }, { "]", OP_RBRACKET }, { "(", OP_LPAREN }, { ")", OP_RPAREN }, { "{", OP_LBRACE },
        { "}", OP_RBRACE }, { ">", OP_GT }, { "<", OP_LT }, { "=", OP_ASSIGN }, { ".", OP_DOT }, { ":", OP_COLON },
        { "|", OP_PIPE }, { ",", OP_COMMA }, { ";", OP_SEMICOLON },
    };
    char c = x->p[x->at];
    out->kind = T_OP;
    for (size_t i = 0; i < ARRAY_LEN(ops); i++) {
        if (starts(x, x->at, ops[i].text)) {
            out->op = ops[i].op;
            x->at += strlen(ops[i].text);
            if (c == '(' || c == '[' || c == '{') {
                if (x->n_open == sizeof x->open)
                    return template_fail(x->e, x->name, line_here(x), HEARTH_ELIMIT, "more than %zu brackets are open",
                                         sizeof x->open);
                x->open[x->n_open++] = c == '(' ? ')' : (char)(c + 2);
            } else if ((c == ')' || c == ']' || c == '}') && (!x->n_open || x->open[--x->n_open] != c)) {
                return lex_fail(x, "unexpected '%c'", c);
            }
            return true;
        }
    }
    return lex_fail(x, c > ' ' && c < 127 ? "unexpected character '%c'" : "unexpected byte %d", c);
}

static bool lex_inside(struct lexer *x, struct token *out)
{
    x->at = skip_space(x, x->at);
    out->line = line_here(x);
    if (x->at >= x->n)
        return lex_fail(x, "a tag has no end");
    if (!x->n_open) {
        bool block = x->mode == MODE_BLOCK;
        size_t after = end_mark(x, x->at, block ? "%}" : "}}", block);
        if (after) {
            out->kind = block ? T_BLOCK_END : T_VAR_END;
            x->at = after;
            x->mode = MODE_DATA;
            return true;
        }
    }
    char c = x->p[x->at];
    if (c >= '0' && c <= '9')
        return lex_number(x, out);
    if (c == '\'' || c == '"')
        return lex_string(x, out);
    if (is_name_byte(c)) {
        size_t begin = x->at;
        while (x->at < x->n && is_name_byte(x->p[x->at]))
            x->at++;
        out->kind = T_NAME;
        out->text = (struct str){ x->p + begin, x->at - begin };
        return true;
    }
    return lex_operator(x, out);
}

bool lexer_next(struct lexer *x, struct token *out)
{
    *out = (struct token){ .line = line_here(x) };
    return x->mode == MODE_DATA ? lex_outside(x, out) : lex_inside(x, out);
}

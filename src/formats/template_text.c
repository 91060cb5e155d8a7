/* template_text.c: strings that know where their bytes came from, and Python's operations on them.
 *
 * A string is immutable and often a view: cutting copies nothing. Building goes through struct sbuf,
 * which keeps one flag as long as all its bytes are of one origin and allocates a mask when the second
 * origin arrives. Joining a + b where a is the newest thing in its buffer extends that buffer in place
 * (nobody can see the bytes behind a), so a template that collects its output in a variable stays linear.
 *
 * Characters are code points, as in Python. Case mapping is Unicode's (utf8proc), with the expansions
 * that Python makes for letters without a capital of their own (sharp s, ligatures, letters with marks)
 * taken from their decomposition; the Greek iota-subscript letters alone keep their one-letter form.
 *
 * Every byte moved costs fuel (spend), and no string grows beyond the output limit: that is what stops
 * 'x' * 10**9, repeated doubling and joins of joins.
 */
#define _GNU_SOURCE /* memmem: in every libc, and in POSIX since 2024 */
#include "formats/template.h"

#include <string.h>
#include <utf8proc.h>

/* ---- UTF-8 ---- */

uint32_t utf8_next(const char *p, size_t n, size_t *at)
{
    unsigned char c = (unsigned char)p[*at];
    int more = c < 0x80 ? 0 : c < 0xe0 ? 1 : c < 0xf0 ? 2 : 3;
    uint32_t code = more == 0 ? c : (uint32_t)c & (0x3fu >> more);
    for (++*at; more && *at < n; more--, ++*at)
        code = code << 6 | ((unsigned char)p[*at] & 63);
    return code;
}

bool utf8_valid(const char *p, size_t n)
{
    for (size_t i = 0; i < n;) {
        if ((unsigned char)p[i] < 0x80) {
            i++;
            continue;
        }
        utf8proc_int32_t code;
        utf8proc_ssize_t len = utf8proc_iterate((const utf8proc_uint8_t *)p + i, (utf8proc_ssize_t)(n - i), &code);
        if (len <= 0)
            return false;
        i += (size_t)len;
    }
    return true;
}

bool is_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

bool is_line_end(uint32_t c)
{
    return (c >= 10 && c <= 13) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

size_t find_bytes(const char *p, size_t n, const char *what, size_t n_what, size_t from)
{
    const char *hit;
    if (from > n || !n_what)
        return from <= n ? from : SIZE_MAX;
    hit = memmem(p + from, n - from, what, n_what); /* linear, also for the worst of needles */
    return hit ? (size_t)(hit - p) : SIZE_MAX;
}

/* The last place where part ends at or before `end`. Quadratic at worst, so comparisons are paid for. */
bool find_last(struct interp *in, const struct string *s, const struct string *part, size_t end, size_t *at)
{
    size_t m = part->n;
    *at = SIZE_MAX;
    if (m > end)
        return true;
    for (size_t i = end - m + 1; i-- > 0;) {
        if (m && (s->p[i] != part->p[0] || s->p[i + m - 1] != part->p[m - 1]))
            continue;
        if (!spend(in, 1 + m / 64))
            return false;
        if (m && memcmp(s->p + i, part->p, m) != 0)
            continue;
        *at = i;
        break;
    }
    return true;
}

/* ---- building ---- */

static bool sb_room(struct interp *in, struct sbuf *b, size_t n_more)
{
    size_t need, cap;
    if (!size_add(&need, b->len, n_more) || need > LIMIT_TEMPLATE_OUTPUT_BYTES)
        return interp_fail(in, HEARTH_ELIMIT, "text grows beyond %zu bytes", LIMIT_TEMPLATE_OUTPUT_BYTES);
    if (!spend(in, n_more / 64))
        return false;
    if (need <= b->cap)
        return true;
    cap = b->cap ? MAX(b->cap * 2, need) : MAX(need, 16u);
    char *text = arena_push(&in->arena, cap, 1, 1);
    uint8_t *mask = text && b->mask ? arena_push(&in->arena, cap, 1, 1) : NULL;
    if (!text || (b->mask && !mask))
        return interp_memory(in);
    if (b->len)
        memcpy(text, b->text, b->len);
    if (mask)
        memcpy(mask, b->mask, b->len);
    b->text = text;
    b->mask = mask;
    b->cap = cap;
    return true;
}

static bool sb_mix(struct interp *in, struct sbuf *b)
{
    b->mask = arena_push(&in->arena, b->cap, 1, 1);
    if (!b->mask)
        return interp_memory(in);
    memset(b->mask, b->tainted, b->len);
    return true;
}

bool sb_put(struct interp *in, struct sbuf *b, const char *p, size_t n, const uint8_t *mask, bool tainted)
{
    if (!n)
        return true;
    if (!sb_room(in, b, n))
        return false;
    if (!b->len && !b->mask)
        b->tainted = mask ? mask[0] : tainted;
    if (!b->mask && (mask || tainted != b->tainted) && !sb_mix(in, b))
        return false;
    memcpy(b->text + b->len, p, n);
    if (b->mask && mask)
        memcpy(b->mask + b->len, mask, n);
    else if (b->mask)
        memset(b->mask + b->len, tainted, n);
    b->len += n;
    return true;
}

bool sb_str(struct interp *in, struct sbuf *b, const struct string *s)
{
    return sb_put(in, b, s->p, s->n, s->mask, s->tainted);
}

bool sb_lit(struct interp *in, struct sbuf *b, const char *z)
{
    return sb_put(in, b, z, strlen(z), NULL, false);
}

bool sb_code(struct interp *in, struct sbuf *b, uint32_t code, bool tainted)
{
    utf8proc_uint8_t bytes[4];
    utf8proc_ssize_t n = utf8proc_encode_char((utf8proc_int32_t)code, bytes);
    return sb_put(in, b, (const char *)bytes, n > 0 ? (size_t)n : 0, NULL, tainted);
}

struct sbuf *sb_new(struct interp *in)
{
    struct sbuf *b = ARENA_NEW(&in->arena, struct sbuf, 1);
    if (!b)
        interp_memory(in);
    return b;
}

static bool string_alloc(struct interp *in, struct string s, const struct string **out)
{
    struct string *copy = ARENA_NEW(&in->arena, struct string, 1);
    if (!copy)
        return interp_memory(in);
    *copy = s;
    copy->n_chars = s.n ? UINT32_MAX : 0;
    *out = copy;
    return true;
}

bool sb_string(struct interp *in, struct sbuf *b, const struct string **out)
{
    return string_alloc(in, (struct string){ b->text ? b->text : "", b->len, b->mask, b, 0, b->tainted && b->len }, out);
}

bool string_new(struct interp *in, const char *p, size_t n, bool tainted, const struct string **out)
{
    return string_alloc(in, (struct string){ .p = p, .n = n, .tainted = tainted }, out);
}

bool string_part(struct interp *in, const struct string *s, size_t begin, size_t end, const struct string **out)
{
    CHECK(begin <= end && end <= s->n);
    if (begin == 0 && end == s->n) {
        *out = s;
        return true;
    }
    return string_alloc(in, (struct string){ s->p + begin, end - begin, s->mask ? s->mask + begin : NULL, NULL, 0, s->tainted },
                        out);
}

bool string_concat(struct interp *in, const struct string *a, const struct string *b, const struct string **out)
{
    struct sbuf *sb = a->owner;
    if (!b->n || !a->n) {
        *out = b->n ? b : a;
        return true;
    }
    /* b may lie in the same buffer: sb_put copies before it lets go of anything, and arenas free nothing. */
    if (!sb || a->p != sb->text || a->n != sb->len || (a->mask == NULL) != (sb->mask == NULL)) {
        sb = sb_new(in);
        if (!sb || !sb_room(in, sb, a->n + b->n) || !sb_str(in, sb, a))
            return false;
    }
    return sb_str(in, sb, b) && sb_string(in, sb, out);
}

/* ---- characters ---- */

size_t string_chars(const struct string *s)
{
    if (s->n_chars == UINT32_MAX) {
        uint32_t n = 0;
        for (size_t i = 0; i < s->n; i++)
            n += ((unsigned char)s->p[i] & 0xc0) != 0x80;
        ((struct string *)s)->n_chars = n; /* a cache: the string stays what it is */
    }
    return s->n_chars;
}

size_t string_offset(const struct string *s, size_t i_char)
{
    size_t at = 0;
    if (string_chars(s) == s->n || i_char >= s->n_chars)
        return i_char >= s->n_chars ? s->n : i_char;
    while (i_char--)
        utf8_next(s->p, s->n, &at);
    return at;
}

bool string_equal(const struct string *a, const struct string *b)
{
    return a->n == b->n && (a->p == b->p || !a->n || memcmp(a->p, b->p, a->n) == 0);
}

/* ---- case ---- */

static bool put_upper(struct interp *in, struct sbuf *b, uint32_t c, bool title, bool taint)
{
    utf8proc_int32_t up = title ? utf8proc_totitle((utf8proc_int32_t)c) : utf8proc_toupper((utf8proc_int32_t)c);
    utf8proc_int32_t parts[8];
    utf8proc_ssize_t n;
    if (c == 0xdf)
        return sb_code(in, b, 'S', taint) && sb_code(in, b, title ? 's' : 'S', taint);
    if ((uint32_t)up != c || c < 0x80 || utf8proc_category((utf8proc_int32_t)c) != UTF8PROC_CATEGORY_LL)
        return sb_code(in, b, (uint32_t)up, taint);
    n = utf8proc_decompose_char((utf8proc_int32_t)c, parts, ARRAY_LEN(parts), UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT, NULL);
    if (n < 2 || n > (utf8proc_ssize_t)ARRAY_LEN(parts))
        return sb_code(in, b, c, taint);
    for (utf8proc_ssize_t i = 0; i < n; i++) {
        utf8proc_int32_t part = title && i ? parts[i] : utf8proc_toupper(parts[i]);
        if (!sb_code(in, b, (uint32_t)part, taint))
            return false;
    }
    return true;
}

static bool is_cased(uint32_t c)
{
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return k == UTF8PROC_CATEGORY_LU || k == UTF8PROC_CATEGORY_LL || k == UTF8PROC_CATEGORY_LT || c == 0xaa || c == 0xba;
}

static bool is_case_ignorable(uint32_t c)
{
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return k == UTF8PROC_CATEGORY_MN || k == UTF8PROC_CATEGORY_ME || k == UTF8PROC_CATEGORY_CF || k == UTF8PROC_CATEGORY_LM ||
           k == UTF8PROC_CATEGORY_SK || c == '\'' || c == '.' || c == ':' || c == 0xb7 || c == 0x2019;
}

/* A capital sigma is final where a letter stands before it and none behind, marks between them aside. */
static bool sigma_is_final(const struct string *s, size_t before, size_t after)
{
    bool cased = false;
    for (size_t i = 0; i < before;) {
        uint32_t c = utf8_next(s->p, s->n, &i);
        if (!is_case_ignorable(c))
            cased = is_cased(c);
    }
    while (cased && after < s->n) {
        uint32_t c = utf8_next(s->p, s->n, &after);
        if (!is_case_ignorable(c))
            return !is_cased(c);
    }
    return cased;
}

static bool put_lower(struct interp *in, struct sbuf *b, const struct string *s, size_t at, size_t after, uint32_t c, bool taint)
{
    if (c == 0x130)
        return sb_code(in, b, 'i', taint) && sb_code(in, b, 0x307, taint);
    if (c == 0x3a3)
        return spend(in, s->n / 64) && sb_code(in, b, sigma_is_final(s, at, after) ? 0x3c2 : 0x3c3, taint);
    return sb_code(in, b, (uint32_t)utf8proc_tolower((utf8proc_int32_t)c), taint);
}

/* Where the title filter begins a word: Jinja's own idea of it, not Python's. */
static bool splits_words(uint32_t c)
{
    return is_space(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<';
}

bool text_case(struct interp *in, const struct string *s, enum text_case how, const struct string **out)
{
    struct sbuf *b = sb_new(in);
    bool first = true; /* the next character begins a word (or the string) */
    if (!b || !spend(in, s->n / 16))
        return false;
    for (size_t at = 0; at < s->n;) {
        size_t next = at;
        uint32_t c = utf8_next(s->p, s->n, &next);
        bool taint = string_taint_at(s, at), upper, title = false;
        switch (how) {
        case CASE_UPPER: upper = true; break;
        case CASE_LOWER: upper = false; break;
        case CASE_SWAP: upper = utf8proc_tolower((utf8proc_int32_t)c) == (utf8proc_int32_t)c; break;
        case CASE_JINJA_TITLE: upper = first; break;
        default: upper = title = first;
        }
        if (!(upper ? put_upper(in, b, c, title, taint) : put_lower(in, b, s, at, next, c, taint)))
            return false;
        first = how == CASE_TITLE ? !is_cased(c) : how == CASE_JINJA_TITLE ? splits_words(c) : false;
        at = next;
    }
    return sb_string(in, b, out);
}

/* ---- cutting ---- */

static bool in_set(const struct string *chars, const char *p, size_t n)
{
    size_t at = 0;
    if (!chars) {
        size_t zero = 0;
        return is_space(utf8_next(p, n, &zero));
    }
    while (at < chars->n) {
        size_t begin = at;
        utf8_next(chars->p, chars->n, &at);
        if (at - begin == n && memcmp(chars->p + begin, p, n) == 0)
            return true;
    }
    return false;
}

static size_t char_before(const char *p, size_t at)
{
    do
        at--;
    while (at && ((unsigned char)p[at] & 0xc0) == 0x80);
    return at;
}

bool text_strip(struct interp *in, const struct string *s, const struct string *chars, int sides, const struct string **out)
{
    size_t begin = 0, end = s->n, paid = 0;
    size_t cost = chars ? chars->n / 16 : 0; /* each character is looked for in the set */
    while ((sides & STRIP_LEFT) && begin < end) {
        size_t next = begin;
        utf8_next(s->p, s->n, &next);
        if (!in_set(chars, s->p + begin, next - begin))
            break;
        begin = next;
        if (!spend(in, cost + (paid++ % 16 == 0)))
            return false;
    }
    while ((sides & STRIP_RIGHT) && end > begin) {
        size_t last = char_before(s->p, end);
        if (!in_set(chars, s->p + last, end - last))
            break;
        end = last;
        if (!spend(in, cost + (paid++ % 16 == 0)))
            return false;
    }
    return string_part(in, s, begin, end, out);
}

/* Appends what lies between separators. */
static bool push_part(struct interp *in, struct seq *q, const struct string *s, size_t begin, size_t end)
{
    const struct string *part;
    return string_part(in, s, begin, end, &part) && seq_push(in, q, v_string(part));
}

static bool split_space(struct interp *in, const struct string *s, int64_t max, struct seq *q)
{
    size_t at = 0;
    for (;;) {
        size_t begin, next = at;
        while (at < s->n && is_space(utf8_next(s->p, s->n, &next)))
            at = next;
        if (at >= s->n)
            return true;
        begin = next = at;
        if (max >= 0 && (int64_t)q->n == max)
            return push_part(in, q, s, begin, s->n); /* with the space at its end, as in Python */
        while (at < s->n && !is_space(utf8_next(s->p, s->n, &next)))
            at = next;
        if (!push_part(in, q, s, begin, at))
            return false;
        next = at;
    }
}

static void reverse_values(struct value *v, size_t n)
{
    for (size_t i = 0; i < n / 2; i++) {
        struct value t = v[i];
        v[i] = v[n - 1 - i];
        v[n - 1 - i] = t;
    }
}

static bool rsplit_space(struct interp *in, const struct string *s, int64_t max, struct seq *q)
{
    size_t end = s->n;
    for (;;) {
        size_t begin;
        while (end && in_set(NULL, s->p + char_before(s->p, end), end - char_before(s->p, end)))
            end = char_before(s->p, end);
        if (!end)
            break;
        if (max >= 0 && (int64_t)q->n == max) {
            if (!push_part(in, q, s, 0, end))
                return false;
            break;
        }
        for (begin = end; begin && !in_set(NULL, s->p + char_before(s->p, begin), begin - char_before(s->p, begin));)
            begin = char_before(s->p, begin);
        if (!push_part(in, q, s, begin, end))
            return false;
        end = begin;
    }
    reverse_values(q->v, q->n);
    return true;
}

bool text_split(struct interp *in, const struct string *s, const struct string *sep, int64_t max, bool from_right, struct seq **out)
{
    struct seq *q;
    size_t at = 0, end = s->n, hit;
    if (sep && !sep->n)
        return interp_fail(in, HEARTH_EINVAL, "empty separator");
    if (!spend(in, s->n / 16) || !seq_new(in, SEQ_LIST, 4, &q))
        return false;
    *out = q;
    if (!sep)
        return from_right ? rsplit_space(in, s, max, q) : split_space(in, s, max, q);
    if (!from_right) {
        while ((max < 0 || (int64_t)q->n < max) && (hit = find_bytes(s->p, s->n, sep->p, sep->n, at)) != SIZE_MAX) {
            if (!push_part(in, q, s, at, hit))
                return false;
            at = hit + sep->n;
        }
        return push_part(in, q, s, at, s->n);
    }
    while (max < 0 || (int64_t)q->n < max) {
        if (!find_last(in, s, sep, end, &hit))
            return false;
        if (hit == SIZE_MAX)
            break;
        if (!push_part(in, q, s, hit + sep->n, end))
            return false;
        end = hit;
    }
    if (!push_part(in, q, s, 0, end))
        return false;
    reverse_values(q->v, q->n);
    return true;
}

bool text_lines(struct interp *in, const struct string *s, bool keep_ends, struct seq **out)
{
    size_t begin = 0, at = 0;
    if (!spend(in, s->n / 16) || !seq_new(in, SEQ_LIST, 4, out))
        return false;
    while (at < s->n) {
        size_t end = at;
        uint32_t c = utf8_next(s->p, s->n, &at);
        if (!is_line_end(c))
            continue;
        if (c == '\r' && at < s->n && s->p[at] == '\n')
            at++;
        if (!push_part(in, *out, s, begin, keep_ends ? at : end))
            return false;
        begin = at;
    }
    return begin == s->n || push_part(in, *out, s, begin, s->n);
}

/* ---- joining ---- */

/* Python puts the new text between all characters, and at both ends, where the old one is empty. */
static bool replace_empty(struct interp *in, struct sbuf *b, const struct string *s, const struct string *to, int64_t count)
{
    size_t at = 0;
    for (; count != 0; count--) {
        size_t begin = at;
        if (!sb_str(in, b, to) || !spend(in, 1))
            return false;
        if (at >= s->n)
            return true;
        utf8_next(s->p, s->n, &at);
        if (!sb_put(in, b, s->p + begin, at - begin, s->mask ? s->mask + begin : NULL, s->tainted))
            return false;
    }
    return sb_put(in, b, s->p + at, s->n - at, s->mask ? s->mask + at : NULL, s->tainted);
}

bool text_replace(struct interp *in, const struct string *s, const struct string *from, const struct string *to, int64_t count,
                  const struct string **out)
{
    struct sbuf *b;
    size_t at = 0, hit = from->n ? find_bytes(s->p, s->n, from->p, from->n, 0) : 0;
    if (!spend(in, s->n / 64))
        return false;
    if (hit == SIZE_MAX || count == 0) {
        *out = s;
        return true;
    }
    b = sb_new(in);
    if (!b)
        return false;
    if (!from->n)
        return replace_empty(in, b, s, to, count) && sb_string(in, b, out);
    for (; hit != SIZE_MAX && count != 0; count--) {
        if (!spend(in, 1) || !sb_put(in, b, s->p + at, hit - at, s->mask ? s->mask + at : NULL, s->tainted) || !sb_str(in, b, to))
            return false;
        at = hit + from->n;
        hit = find_bytes(s->p, s->n, from->p, from->n, at);
    }
    return sb_put(in, b, s->p + at, s->n - at, s->mask ? s->mask + at : NULL, s->tainted) && sb_string(in, b, out);
}

bool text_repeat(struct interp *in, const struct string *s, int64_t times, const struct string **out)
{
    size_t bytes;
    struct sbuf *b;
    if (times <= 0 || !s->n)
        return string_new(in, "", 0, false, out);
    if (!size_mul(&bytes, s->n, (size_t)times) || bytes > LIMIT_TEMPLATE_OUTPUT_BYTES)
        return interp_fail(in, HEARTH_ELIMIT, "text grows beyond %zu bytes", LIMIT_TEMPLATE_OUTPUT_BYTES);
    b = sb_new(in);
    if (!b || !spend(in, (uint64_t)times / 4) || !sb_room(in, b, bytes))
        return false;
    while (times--)
        if (!sb_str(in, b, s))
            return false;
    return sb_string(in, b, out);
}

bool text_escape(struct interp *in, const struct string *s, const struct string **out)
{
    struct sbuf *b = sb_new(in);
    if (!b || !spend(in, s->n / 16))
        return false;
    for (size_t i = 0; i < s->n; i++) {
        char c = s->p[i];
        const char *to = c == '&' ? "&amp;" : c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '\'' ? "&#39;" : c == '"' ? "&#34;" : NULL;
        if (!sb_put(in, b, to ? to : &c, to ? strlen(to) : 1, NULL, string_taint_at(s, i)))
            return false;
    }
    return sb_string(in, b, out);
}

/* ---- JSON, as json.dumps writes it ---- */

static bool json_quote(struct interp *in, struct sbuf *b, const struct string *s, bool ensure_ascii)
{
    static const char short_names[] = "\"\"\\\\\bb\ff\nn\rr\tt";
    size_t plain = 0, at = 0;
    if (!sb_lit(in, b, "\"") || !spend(in, s->n / 16))
        return false;
    while (at < s->n) {
        size_t begin = at;
        uint32_t c = utf8_next(s->p, s->n, &at);
        char text[16];
        if (c >= 0x20 && c != '"' && c != '\\' && (c < 0x7f || !ensure_ascii || c == 0x7f))
            continue;
        if (!sb_put(in, b, s->p + plain, begin - plain, s->mask ? s->mask + plain : NULL, s->tainted))
            return false;
        plain = at;
        text[0] = 0;
        for (size_t i = 0; i + 1 < sizeof short_names; i += 2)
            if ((uint32_t)short_names[i] == c)
                snprintf(text, sizeof text, "\\%c", short_names[i + 1]);
        if (!text[0] && c >= 0x10000)
            snprintf(text, sizeof text, "\\u%04x\\u%04x", (unsigned)(0xd800 + ((c - 0x10000) >> 10)),
                     (unsigned)(0xdc00 + ((c - 0x10000) & 0x3ff)));
        else if (!text[0])
            snprintf(text, sizeof text, "\\u%04x", (unsigned)c);
        if (!sb_put(in, b, text, strlen(text), NULL, string_taint_at(s, begin)))
            return false;
    }
    return sb_put(in, b, s->p + plain, s->n - plain, s->mask ? s->mask + plain : NULL, s->tainted) && sb_lit(in, b, "\"");
}

static bool json_newline(struct interp *in, struct sbuf *b, const struct json_style *style, unsigned level)
{
    if (!style->indent)
        return true;
    if (!sb_lit(in, b, "\n"))
        return false;
    while (level--)
        if (!sb_str(in, b, style->indent))
            return false;
    return true;
}

static bool json_separator(struct interp *in, struct sbuf *b, const struct json_style *style)
{
    return style->item_separator ? sb_str(in, b, style->item_separator) : sb_lit(in, b, style->indent ? "," : ", ");
}

static bool json_number(struct interp *in, struct sbuf *b, struct value v)
{
    char text[40];
    if (v.kind == V_INT)
        snprintf(text, sizeof text, "%lld", (long long)v.u.i);
    else
        float_repr(v.u.f, text);
    if (v.kind == V_FLOAT && v.u.f != v.u.f)
        strcpy(text, "NaN");
    else if (v.kind == V_FLOAT && (v.u.f > 1.7976931348623157e308 || v.u.f < -1.7976931348623157e308))
        strcpy(text, v.u.f > 0 ? "Infinity" : "-Infinity");
    return sb_lit(in, b, text);
}

/* Keys other than strings are written as strings; those of a kind JSON cannot name are refused. */
static bool json_key(struct interp *in, struct sbuf *b, struct value key, const struct json_style *style)
{
    switch (key.kind) {
    case V_STRING: return json_quote(in, b, key.u.s, style->ensure_ascii);
    case V_NONE: return sb_lit(in, b, "\"null\"");
    case V_BOOL: return sb_lit(in, b, key.u.b ? "\"true\"" : "\"false\"");
    case V_INT:
    case V_FLOAT: return sb_lit(in, b, "\"") && json_number(in, b, key) && sb_lit(in, b, "\"");
    default: return interp_fail(in, HEARTH_EINVAL, "keys must be str, int, float, bool or None, not %s", type_name(key));
    }
}

static bool json_dict(struct interp *in, struct sbuf *b, const struct dict *d, const struct json_style *style, unsigned level)
{
    const struct pair *pairs = d->pairs;
    if (style->sort_keys) {
        struct pair *sorted = ARENA_NEW(&in->arena, struct pair, d->n);
        if (!sorted)
            return interp_memory(in);
        for (size_t i = 0; i < d->n; i++) { /* by insertion: few keys, and fuel bounds many */
            size_t k = i;
            for (; k > 0; k--) {
                int order;
                if (!spend(in, 1) || !values_order(in, d->pairs[i].key, sorted[k - 1].key, "<", &order))
                    return false;
                if (order >= 0)
                    break;
                sorted[k] = sorted[k - 1];
            }
            sorted[k] = d->pairs[i];
        }
        pairs = sorted;
    }
    if (!d->n)
        return sb_lit(in, b, "{}");
    if (!sb_lit(in, b, "{"))
        return false;
    for (size_t i = 0; i < d->n; i++) {
        if ((i && !json_separator(in, b, style)) || !json_newline(in, b, style, level + 1) ||
            !json_key(in, b, pairs[i].key, style) ||
            !(style->key_separator ? sb_str(in, b, style->key_separator) : sb_lit(in, b, ": ")) ||
            !text_json(in, b, pairs[i].val, style, level + 1))
            return false;
    }
    return json_newline(in, b, style, level) && sb_lit(in, b, "}");
}

bool text_json(struct interp *in, struct sbuf *b, struct value v, const struct json_style *style, unsigned level)
{
    if (!spend(in, 1))
        return false;
    if (level > LIMIT_TEMPLATE_NESTING)
        return interp_fail(in, HEARTH_ELIMIT, "data is nested deeper than %d", LIMIT_TEMPLATE_NESTING);
    switch (v.kind) {
    case V_NONE: return sb_lit(in, b, "null");
    case V_BOOL: return sb_lit(in, b, v.u.b ? "true" : "false");
    case V_INT:
    case V_FLOAT: return json_number(in, b, v);
    case V_STRING: return json_quote(in, b, v.u.s, style->ensure_ascii);
    case V_DICT: return json_dict(in, b, v.u.dict, style, level);
    case V_SEQ:
        if (v.u.seq->flavour > SEQ_TUPLE)
            break;
        if (!v.u.seq->n)
            return sb_lit(in, b, "[]");
        if (!sb_lit(in, b, "["))
            return false;
        for (size_t i = 0; i < v.u.seq->n; i++)
            if ((i && !json_separator(in, b, style)) || !json_newline(in, b, style, level + 1) ||
                !text_json(in, b, v.u.seq->v[i], style, level + 1))
                return false;
        return json_newline(in, b, style, level) && sb_lit(in, b, "]");
    default: break;
    }
    return interp_fail(in, HEARTH_EINVAL, "Object of type %s is not JSON serializable", type_name(v));
}

/* ---- formatting ---- */

static bool format_argument(struct interp *in, const struct args *args, struct str name, size_t *next, struct value *out)
{
    if (name.n && (name.p[0] < '0' || name.p[0] > '9')) {
        for (size_t i = 0; i < args->n_kw; i++) {
            if (str_eq(args->kw[i].name, name)) {
                *out = args->kw[i].v;
                return true;
            }
        }
        return interp_fail(in, HEARTH_EINVAL, "format has no argument '%.*s'", STR_FMT(name));
    }
    size_t i = name.n ? 0 : (*next)++;
    for (size_t k = 0; k < name.n && i < 1000; k++)
        i = i * 10 + (size_t)(name.p[k] - '0');
    if (i >= args->n_pos)
        return interp_fail(in, HEARTH_EINVAL, "format has %zu arguments, not %zu", args->n_pos, i + 1);
    *out = args->pos[i];
    return true;
}

/* '{} {0} {name}'.format(...): the plain fields, without attributes or format specifications. */
bool text_format(struct interp *in, const struct string *f, const struct args *args, const struct string **out)
{
    struct sbuf *b = sb_new(in);
    size_t next = 0, at = 0;
    if (!b)
        return false;
    while (at < f->n) {
        char c = f->p[at];
        if ((c == '{' || c == '}') && at + 1 < f->n && f->p[at + 1] == c) {
            at++;
        } else if (c == '{') {
            struct value v;
            const struct string *s;
            size_t end = find_bytes(f->p, f->n, "}", 1, at);
            if (end == SIZE_MAX)
                return interp_fail(in, HEARTH_EINVAL, "expected '}' before end of string");
            struct str name = { f->p + at + 1, end - at - 1 };
            for (size_t i = 0; i < name.n; i++)
                if (strchr(".[:!{", name.p[i]) || (unsigned char)name.p[i] < ' ' ||
                    (name.p[0] <= '9' && (name.p[i] < '0' || name.p[i] > '9')))
                    return interp_fail(in, HEARTH_EUNSUPPORTED, "str.format with '{%.*s}' is not supported", STR_FMT(name));
            if (!format_argument(in, args, name, &next, &v) || !value_str(in, v, &s) || !sb_str(in, b, s))
                return false;
            at = end + 1;
            continue;
        } else if (c == '}') {
            return interp_fail(in, HEARTH_EINVAL, "Single '}' encountered in format string");
        }
        if (!sb_put(in, b, f->p + at, 1, NULL, string_taint_at(f, at)))
            return false;
        at++;
    }
    return sb_string(in, b, out);
}

struct percent {
    char flags[8];
    int width, precision; /* precision -1: none */
    char type;
};

static bool percent_number(struct interp *in, struct sbuf *b, const struct percent *c, struct value v)
{
    char spec[40], text[600];
    if (!is_number(v))
        return interp_fail(in, HEARTH_EINVAL, "%%%c format: a real number is required, not %s", c->type, type_name(v));
    int n = snprintf(spec, sizeof spec, "%%%s*", c->flags);
    if (c->precision >= 0)
        n += snprintf(spec + n, sizeof spec - (size_t)n, ".%d", c->precision);
    if (strchr("diuxXo", c->type)) {
        double d = to_double(v);
        long long i = v.kind == V_FLOAT ? 0 : v.kind == V_BOOL ? v.u.b : v.u.i;
        if (v.kind == V_FLOAT && !(d > -9e18 && d < 9e18))
            return interp_fail(in, HEARTH_ELIMIT, "an integer is beyond 64 bits");
        if (v.kind == V_FLOAT)
            i = (long long)d;
        if (i < 0 && strchr("xXo", c->type))
            return interp_fail(in, HEARTH_EUNSUPPORTED, "%%%c of a negative number is not supported", c->type);
        snprintf(spec + n, sizeof spec - (size_t)n, "ll%c", c->type == 'u' ? 'd' : c->type);
        snprintf(text, sizeof text, spec, c->width, i);
        return sb_lit(in, b, text);
    }
    snprintf(spec + n, sizeof spec - (size_t)n, "%c", c->type);
    snprintf(text, sizeof text, spec, c->width, to_double(v));
    for (char *p = text; *p; p++)
        if (*p == ',')
            *p = '.'; /* a locale's decimal point */
    return sb_lit(in, b, text);
}

static bool percent_text(struct interp *in, struct sbuf *b, const struct percent *c, struct value v)
{
    const struct string *s;
    struct sbuf *repr = sb_new(in);
    if (!repr || !(c->type == 'r' ? value_repr(in, repr, v, 0) && sb_string(in, repr, &s) : value_str(in, v, &s)))
        return false;
    if (c->precision >= 0 && !string_part(in, s, 0, string_offset(s, (size_t)c->precision), &s))
        return false;
    size_t n = string_chars(s), pad = (size_t)c->width > n ? (size_t)c->width - n : 0;
    bool left = strchr(c->flags, '-') != NULL;
    for (size_t i = 0; !left && i < pad; i++)
        if (!sb_lit(in, b, " "))
            return false;
    if (!sb_str(in, b, s))
        return false;
    for (size_t i = 0; left && i < pad; i++)
        if (!sb_lit(in, b, " "))
            return false;
    return true;
}

static bool parse_percent(struct interp *in, const struct string *f, size_t *at, struct percent *c)
{
    size_t n_flags = 0;
    *c = (struct percent){ .precision = -1 };
    while (*at < f->n && f->p[*at] && strchr("-+ #0", f->p[*at])) {
        if (n_flags + 1 < sizeof c->flags)
            c->flags[n_flags++] = f->p[*at];
        ++*at;
    }
    for (; *at < f->n && f->p[*at] >= '0' && f->p[*at] <= '9'; ++*at)
        c->width = MIN(c->width * 10 + f->p[*at] - '0', 1000);
    if (*at < f->n && f->p[*at] == '.')
        for (++*at, c->precision = 0; *at < f->n && f->p[*at] >= '0' && f->p[*at] <= '9'; ++*at)
            c->precision = MIN(c->precision * 10 + f->p[*at] - '0', 1000);
    if (*at >= f->n)
        return interp_fail(in, HEARTH_EINVAL, "incomplete format");
    c->type = f->p[(*at)++];
    if (c->width > 200 || c->precision > 200)
        return interp_fail(in, HEARTH_ELIMIT, "a format width is beyond 200");
    if (!c->type || !strchr("sraiduxXofFeEgGc%", c->type) || c->type == 'a' || c->type == 'c')
        return interp_fail(in, HEARTH_EUNSUPPORTED, "unsupported format character '%c'", c->type);
    return true;
}

/* '%s has %d' % values, and '%(name)s' % mapping (args->kw). mapping: what has keys may be left unused. */
bool text_percent(struct interp *in, const struct string *f, const struct args *args, bool mapping, const struct string **out)
{
    struct sbuf *b = sb_new(in);
    size_t next = 0, at = 0;
    if (!b)
        return false;
    while (at < f->n) {
        size_t pct = find_bytes(f->p, f->n, "%", 1, at);
        struct percent c;
        struct value v;
        struct str name = { NULL, 0 };
        if (pct == SIZE_MAX)
            pct = f->n;
        if (!sb_put(in, b, f->p + at, pct - at, f->mask ? f->mask + at : NULL, f->tainted))
            return false;
        if ((at = pct) >= f->n)
            break;
        if (++at < f->n && f->p[at] == '(') {
            size_t end = find_bytes(f->p, f->n, ")", 1, at);
            if (end == SIZE_MAX)
                return interp_fail(in, HEARTH_EINVAL, "incomplete format key");
            name = (struct str){ f->p + at + 1, end - at - 1 };
            at = end + 1;
            mapping = true;
        }
        if (!parse_percent(in, f, &at, &c) || !spend(in, 1))
            return false;
        if (c.type == '%') {
            if (!sb_put(in, b, "%", 1, NULL, string_taint_at(f, pct)))
                return false;
            continue;
        }
        if (!format_argument(in, args, name, &next, &v))
            return false;
        if (!(strchr("sr", c.type) ? percent_text(in, b, &c, v) : percent_number(in, b, &c, v)))
            return false;
    }
    if (!mapping && next < args->n_pos)
        return interp_fail(in, HEARTH_EINVAL, "not all arguments converted during string formatting");
    return sb_string(in, b, out);
}

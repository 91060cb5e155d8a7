/* template_methods.c: methods of strings, lists, dicts and loops, and the global functions.
 *
 * Only what stands in these tables can be called; there is no way from a template to anything else. A
 * method of Python's that is missing here is still a known name (so that x.encode is defined, and a
 * dict's key of that name is shadowed as in Python) but calling it is refused by name.
 *
 * Lists and dicts of a render are its own copies, so append, pop and update change nothing outside.
 * The environment chat templates run in forbids them; engines that templates are also tried with do
 * not, and some templates use them: they are allowed.
 *
 * Dates are formatted here and not by strftime(), whose names follow the machine's locale.
 */
#include "formats/template.h"

#include <string.h>
#include <time.h>
#include <utf8proc.h>

#define FN(name) static bool name(struct interp *in, struct value self, const struct args *raw, const struct value *a, struct value *out)

static bool put(bool ok, const struct string *const *s, struct value *out)
{
    if (ok)
        *out = v_string(*s);
    return ok;
}

static bool yes(struct value *out, bool b)
{
    *out = v_bool(b);
    return true;
}

static bool given(struct value v)
{
    return v.kind != V_MISSING && v.kind != V_NONE;
}

static bool text_arg(struct interp *in, struct value v, const struct string **out)
{
    *out = v.u.s;
    return v.kind == V_STRING || interp_fail(in, HEARTH_EINVAL, "must be str, not %s", type_name(v));
}

static bool int_arg(struct interp *in, struct value v, int64_t missing, int64_t *out)
{
    *out = v.kind == V_MISSING ? missing : v.kind == V_BOOL ? v.u.b : v.u.i;
    return v.kind == V_MISSING || v.kind == V_BOOL || v.kind == V_INT ||
           interp_fail(in, HEARTH_EINVAL, "'%s' object cannot be interpreted as an integer", type_name(v));
}

/* ---- strings ---- */

FN(m_upper)
{
    const struct string *s;
    return put(text_case(in, self.u.s, CASE_UPPER, &s), &s, out);
}

FN(m_lower)
{
    const struct string *s;
    return put(text_case(in, self.u.s, CASE_LOWER, &s), &s, out);
}

FN(m_title)
{
    const struct string *s;
    return put(text_case(in, self.u.s, CASE_TITLE, &s), &s, out);
}

FN(m_capitalize)
{
    const struct string *s;
    return put(text_case(in, self.u.s, CASE_CAPITALIZE, &s), &s, out);
}

FN(m_swapcase)
{
    const struct string *s;
    return put(text_case(in, self.u.s, CASE_SWAP, &s), &s, out);
}

static bool strip(struct interp *in, struct value self, const struct value *a, int sides, struct value *out)
{
    const struct string *s, *chars = NULL;
    return (!given(a[0]) || text_arg(in, a[0], &chars)) && put(text_strip(in, self.u.s, chars, sides, &s), &s, out);
}

FN(m_strip) { return strip(in, self, a, STRIP_LEFT | STRIP_RIGHT, out); }
FN(m_lstrip) { return strip(in, self, a, STRIP_LEFT, out); }
FN(m_rstrip) { return strip(in, self, a, STRIP_RIGHT, out); }

static bool split(struct interp *in, struct value self, const struct value *a, bool from_right, struct value *out)
{
    const struct string *separator = NULL;
    struct seq *q;
    int64_t max;
    if ((given(a[0]) && !text_arg(in, a[0], &separator)) || !int_arg(in, a[1], -1, &max) ||
        !text_split(in, self.u.s, separator, max, from_right, &q))
        return false;
    *out = v_seq(q);
    return true;
}

FN(m_split) { return split(in, self, a, false, out); }
FN(m_rsplit) { return split(in, self, a, true, out); }

FN(m_splitlines)
{
    struct seq *q;
    if (!text_lines(in, self.u.s, a[0].kind != V_MISSING && truth(a[0]), &q))
        return false;
    *out = v_seq(q);
    return true;
}

FN(m_replace)
{
    const struct string *from, *to, *s;
    int64_t count;
    return text_arg(in, a[0], &from) && text_arg(in, a[1], &to) && int_arg(in, a[2], -1, &count) &&
           put(text_replace(in, self.u.s, from, to, count, &s), &s, out);
}

static bool at_edge(const struct string *s, const struct string *part, bool end)
{
    return part->n <= s->n && (!part->n || memcmp(s->p + (end ? s->n - part->n : 0), part->p, part->n) == 0);
}

/* startswith, endswith: a string or a tuple of them; start and end cut as a slice does. */
static bool edge(struct interp *in, struct value self, const struct value *a, bool end, struct value *out)
{
    const struct string *part;
    bool hit = false;
    if ((given(a[1]) || given(a[2])) &&
        !value_slice(in, self, given(a[1]) ? a[1] : v_none(), given(a[2]) ? a[2] : v_none(), v_none(), &self))
        return false;
    if (a[0].kind == V_SEQ && a[0].u.seq->flavour == SEQ_TUPLE) {
        for (size_t i = 0; i < a[0].u.seq->n && !hit; i++) {
            if (!text_arg(in, a[0].u.seq->v[i], &part) || !spend(in, 1 + part->n / 64))
                return false;
            hit = at_edge(self.u.s, part, end);
        }
        return yes(out, hit);
    }
    return text_arg(in, a[0], &part) && spend(in, part->n / 64) && yes(out, at_edge(self.u.s, part, end));
}

FN(m_startswith) { return edge(in, self, a, false, out); }
FN(m_endswith) { return edge(in, self, a, true, out); }

static bool find(struct interp *in, struct value self, const struct value *a, bool last, bool must, struct value *out)
{
    const struct string *part;
    int64_t start;
    size_t hit, before = 0;
    if (!text_arg(in, a[0], &part) || !int_arg(in, a[1], 0, &start) || !spend(in, self.u.s->n / 32))
        return false;
    const struct string *s = self.u.s;
    if (start && !last) {
        int64_t n = (int64_t)string_chars(s);
        start = start < 0 ? MAX(start + n, 0) : start;
        before = start > n ? SIZE_MAX : string_offset(s, (size_t)start);
    }
    hit = before == SIZE_MAX || last ? SIZE_MAX : find_bytes(s->p, s->n, part->p, part->n, before);
    if (last && !find_last(in, s, part, s->n, &hit))
        return false;
    if (hit == SIZE_MAX && must)
        return interp_fail(in, HEARTH_EINVAL, "substring not found");
    struct string head = { .p = s->p, .n = hit, .n_chars = UINT32_MAX };
    *out = v_int(hit == SIZE_MAX ? -1 : (int64_t)string_chars(&head));
    return true;
}

FN(m_find) { return find(in, self, a, false, false, out); }
FN(m_rfind) { return find(in, self, a, true, false, out); }
FN(m_index) { return find(in, self, a, false, true, out); }
FN(m_rindex) { return find(in, self, a, true, true, out); }

FN(m_count)
{
    const struct string *part, *s = self.u.s;
    int64_t n = 0;
    if (!text_arg(in, a[0], &part) || !spend(in, s->n / 32))
        return false;
    if (!part->n)
        n = (int64_t)string_chars(s) + 1;
    for (size_t at = 0; part->n && (at = find_bytes(s->p, s->n, part->p, part->n, at)) != SIZE_MAX; at += part->n)
        n++;
    *out = v_int(n);
    return true;
}

FN(m_join)
{
    struct sbuf *b = sb_new(in);
    struct value *items;
    const struct string *s;
    size_t n;
    if (!b || !value_items(in, a[0], &items, &n))
        return false;
    for (size_t i = 0; i < n; i++) {
        if (items[i].kind != V_STRING)
            return interp_fail(in, HEARTH_EINVAL, "sequence item %zu: expected str instance, %s found", i, type_name(items[i]));
        if (!spend(in, 1) || (i && !sb_str(in, b, self.u.s)) || !sb_str(in, b, items[i].u.s))
            return false;
    }
    return put(sb_string(in, b, &s), &s, out);
}

FN(m_format)
{
    const struct string *s;
    return put(text_format(in, self.u.s, raw, &s), &s, out);
}

static bool partition(struct interp *in, struct value self, const struct value *a, bool last, struct value *out)
{
    const struct string *part, *s = self.u.s, *head, *mid, *tail;
    struct seq *q;
    size_t hit;
    if (!text_arg(in, a[0], &part) || !spend(in, s->n / 32) || !seq_new(in, SEQ_TUPLE, 3, &q))
        return false;
    if (!part->n)
        return interp_fail(in, HEARTH_EINVAL, "empty separator");
    hit = last ? SIZE_MAX : find_bytes(s->p, s->n, part->p, part->n, 0);
    if (last && !find_last(in, s, part, s->n, &hit))
        return false;
    size_t begin = hit != SIZE_MAX ? hit : last ? 0 : s->n, end = hit != SIZE_MAX ? hit + part->n : begin;
    if (!string_part(in, s, 0, begin, &head) || !string_part(in, s, begin, end, &mid) || !string_part(in, s, end, s->n, &tail))
        return false;
    *out = v_seq(q);
    return seq_push(in, q, v_string(head)) && seq_push(in, q, v_string(mid)) && seq_push(in, q, v_string(tail));
}

FN(m_partition) { return partition(in, self, a, false, out); }
FN(m_rpartition) { return partition(in, self, a, true, out); }

FN(m_removeprefix)
{
    const struct string *part, *s = self.u.s;
    return text_arg(in, a[0], &part) && put(string_part(in, s, at_edge(s, part, false) ? part->n : 0, s->n, &s), &s, out);
}

FN(m_removesuffix)
{
    const struct string *part, *s = self.u.s;
    return text_arg(in, a[0], &part) && put(string_part(in, s, 0, s->n - (at_edge(s, part, true) ? part->n : 0), &s), &s, out);
}

/* Fills up to a width, `left` characters of it before the text. */
static bool pad(struct interp *in, const struct string *s, int64_t left, int64_t right, struct value fill, struct value *out)
{
    struct sbuf *b = sb_new(in);
    const struct string *f, *side;
    if (!b || (fill.kind == V_MISSING ? !string_new(in, " ", 1, false, &f) : !text_arg(in, fill, &f)))
        return false;
    if (string_chars(f) != 1)
        return interp_fail(in, HEARTH_EINVAL, "The fill character must be exactly one character long");
    return text_repeat(in, f, left, &side) && sb_str(in, b, side) && sb_str(in, b, s) && text_repeat(in, f, right, &side) &&
           sb_str(in, b, side) && put(sb_string(in, b, &s), &s, out);
}

static bool justify(struct interp *in, struct value self, const struct value *a, int how, struct value *out)
{
    int64_t width, missing, left;
    if (!int_arg(in, a[0], 0, &width))
        return false;
    missing = MAX(width - (int64_t)string_chars(self.u.s), 0);
    left = how < 0 ? 0 : how > 0 ? missing : missing / 2 + (missing & width & 1);
    return pad(in, self.u.s, left, missing - left, a[1], out);
}

FN(m_ljust) { return justify(in, self, a, -1, out); }
FN(m_rjust) { return justify(in, self, a, 1, out); }
FN(m_center) { return justify(in, self, a, 0, out); }

FN(m_zfill)
{
    const struct string *s = self.u.s, *sign, *rest, *zero;
    struct value tail;
    int64_t width;
    bool has_sign = s->n && (s->p[0] == '-' || s->p[0] == '+');
    if (!int_arg(in, a[0], 0, &width) || !string_new(in, "0", 1, false, &zero) || !string_part(in, s, 0, has_sign, &sign) ||
        !string_part(in, s, has_sign, s->n, &rest) ||
        !pad(in, rest, MAX(width - (int64_t)string_chars(s), 0), 0, v_string(zero), &tail))
        return false;
    return put(string_concat(in, sign, tail.u.s, &s), &s, out);
}

enum char_class { IS_ALPHA, IS_DIGIT, IS_ALNUM, IS_SPACE, IS_ASCII, IS_LOWER, IS_UPPER };

static bool all_are(struct interp *in, const struct string *s, enum char_class class, struct value *out)
{
    bool all = true, some = class == IS_ASCII;
    if (!spend(in, s->n / 16))
        return false;
    for (size_t at = 0; at < s->n && all;) {
        uint32_t c = utf8_next(s->p, s->n, &at);
        utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
        bool letter = k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO;
        bool lower = k == UTF8PROC_CATEGORY_LL, upper = k == UTF8PROC_CATEGORY_LU, title = k == UTF8PROC_CATEGORY_LT;
        bool number = k >= UTF8PROC_CATEGORY_ND && k <= UTF8PROC_CATEGORY_NO;
        switch (class) {
        case IS_ALPHA: all = letter; break;
        case IS_DIGIT: all = k == UTF8PROC_CATEGORY_ND; break;
        case IS_ALNUM: all = letter || number; break;
        case IS_SPACE: all = is_space(c); break;
        case IS_ASCII: all = c < 128; break;
        case IS_LOWER: all = !upper && !title; break;
        case IS_UPPER: all = !lower && !title; break;
        }
        some |= class == IS_LOWER ? lower : class == IS_UPPER ? upper : true;
    }
    return yes(out, all && some);
}

FN(m_isalpha) { return all_are(in, self.u.s, IS_ALPHA, out); }
FN(m_isdigit) { return all_are(in, self.u.s, IS_DIGIT, out); }
FN(m_isalnum) { return all_are(in, self.u.s, IS_ALNUM, out); }
FN(m_isspace) { return all_are(in, self.u.s, IS_SPACE, out); }
FN(m_isascii) { return all_are(in, self.u.s, IS_ASCII, out); }
FN(m_islower) { return all_are(in, self.u.s, IS_LOWER, out); }
FN(m_isupper) { return all_are(in, self.u.s, IS_UPPER, out); }

static const struct builtin str_methods[] = {
    { "capitalize", 0, "", m_capitalize }, { "center", 1, "width fillchar", m_center }, { "count", 1, "sub", m_count },
    { "endswith", 1, "suffix start end", m_endswith }, { "find", 1, "sub start", m_find }, { "format", VARARGS, NULL, m_format },
    { "index", 1, "sub start", m_index }, { "isalnum", 0, "", m_isalnum }, { "isalpha", 0, "", m_isalpha },
    { "isascii", 0, "", m_isascii }, { "isdecimal", 0, "", m_isdigit }, { "isdigit", 0, "", m_isdigit },
    { "islower", 0, "", m_islower }, { "isspace", 0, "", m_isspace }, { "isupper", 0, "", m_isupper },
    { "join", 1, "iterable", m_join }, { "ljust", 1, "width fillchar", m_ljust }, { "lower", 0, "", m_lower },
    { "lstrip", 0, "chars", m_lstrip }, { "partition", 1, "sep", m_partition }, { "removeprefix", 1, "prefix", m_removeprefix },
    { "removesuffix", 1, "suffix", m_removesuffix }, { "replace", 2, "old new count", m_replace }, { "rfind", 1, "sub", m_rfind },
    { "rindex", 1, "sub", m_rindex }, { "rjust", 1, "width fillchar", m_rjust }, { "rpartition", 1, "sep", m_rpartition },
    { "rsplit", 0, "sep maxsplit", m_rsplit }, { "rstrip", 0, "chars", m_rstrip }, { "split", 0, "sep maxsplit", m_split },
    { "splitlines", 0, "keepends", m_splitlines }, { "startswith", 1, "prefix start end", m_startswith },
    { "strip", 0, "chars", m_strip }, { "swapcase", 0, "", m_swapcase }, { "title", 0, "", m_title }, { "upper", 0, "", m_upper },
    { "zfill", 1, "width", m_zfill },
    { "casefold", 0, "", NULL }, { "encode", 0, "", NULL }, { "expandtabs", 0, "", NULL }, { "format_map", 0, "", NULL },
    { "isidentifier", 0, "", NULL }, { "isnumeric", 0, "", NULL }, { "isprintable", 0, "", NULL }, { "istitle", 0, "", NULL },
    { "maketrans", 0, "", NULL }, { "translate", 0, "", NULL },
};

/* ---- lists ---- */

FN(m_append)
{
    *out = v_none();
    return seq_push(in, self.u.seq, a[0]);
}

FN(m_extend)
{
    struct value *items;
    size_t n;
    *out = v_none();
    if (!value_items(in, a[0], &items, &n))
        return false;
    for (size_t i = 0; i < n; i++)
        if (!seq_push(in, self.u.seq, items[i]))
            return false;
    return true;
}

FN(m_insert)
{
    struct seq *q = self.u.seq;
    int64_t i, n = (int64_t)q->n;
    *out = v_none();
    if (!int_arg(in, a[0], 0, &i) || !spend(in, q->n / 8) || !seq_push(in, q, a[1]))
        return false;
    i = i < 0 ? MAX(i + n, 0) : MIN(i, n);
    memmove(q->v + i + 1, q->v + i, (size_t)(n - i) * sizeof *q->v);
    q->v[i] = a[1];
    return true;
}

FN(m_pop)
{
    struct seq *q = self.u.seq;
    int64_t i;
    if (!int_arg(in, a[0], -1, &i) || !spend(in, q->n / 8))
        return false;
    i += i < 0 ? (int64_t)q->n : 0;
    if (i < 0 || i >= (int64_t)q->n)
        return interp_fail(in, HEARTH_EINVAL, q->n ? "pop index out of range" : "pop from empty list");
    *out = q->v[i];
    memmove(q->v + i, q->v + i + 1, (q->n - (size_t)i - 1) * sizeof *q->v);
    q->n--;
    return true;
}

FN(m_list_index)
{
    bool same = false;
    size_t i = 0;
    for (; i < self.u.seq->n && !same; i++)
        if (!values_equal(in, self.u.seq->v[i], a[0], &same))
            return false;
    *out = v_int((int64_t)i - 1);
    return same || interp_fail(in, HEARTH_EINVAL, "the value is not in the %s", type_name(self));
}

FN(m_list_count)
{
    int64_t n = 0;
    bool same;
    for (size_t i = 0; i < self.u.seq->n; i++, n += same)
        if (!values_equal(in, self.u.seq->v[i], a[0], &same))
            return false;
    *out = v_int(n);
    return true;
}

FN(m_list_copy)
{
    return value_slice(in, self, v_none(), v_none(), v_none(), out);
}

FN(m_list_reverse)
{
    struct seq *q = self.u.seq;
    for (size_t i = 0; i < q->n / 2; i++) {
        struct value t = q->v[i];
        q->v[i] = q->v[q->n - 1 - i];
        q->v[q->n - 1 - i] = t;
    }
    *out = v_none();
    return spend(in, q->n / 8);
}

static const struct builtin list_methods[] = {
    { "append", 1, "object", m_append },     { "copy", 0, "", m_list_copy },     { "count", 1, "value", m_list_count },
    { "extend", 1, "iterable", m_extend },   { "index", 1, "value", m_list_index }, { "insert", 2, "index object", m_insert },
    { "pop", 0, "index", m_pop },            { "reverse", 0, "", m_list_reverse },
    { "clear", 0, "", NULL },                { "remove", 0, "", NULL },          { "sort", 0, "", NULL },
};
static const struct builtin tuple_methods[] = { { "count", 1, "value", m_list_count }, { "index", 1, "value", m_list_index } };

/* ---- dicts ---- */

static bool dict_view(struct interp *in, const struct dict *d, enum seq_flavour flavour, struct value *out)
{
    struct seq *q;
    if (!seq_new(in, flavour, d->n, &q))
        return false;
    for (size_t i = 0; i < d->n; i++) {
        struct value v = flavour == SEQ_KEYS ? d->pairs[i].key : d->pairs[i].val;
        if (flavour == SEQ_ITEMS) {
            struct seq *pair;
            if (!seq_new(in, SEQ_TUPLE, 2, &pair))
                return false;
            pair->v[0] = d->pairs[i].key;
            pair->v[1] = d->pairs[i].val;
            pair->n = 2;
            v = v_seq(pair);
        }
        if (!seq_push(in, q, v))
            return false;
    }
    *out = v_seq(q);
    return true;
}

FN(m_items) { return dict_view(in, self.u.dict, SEQ_ITEMS, out); }
FN(m_keys) { return dict_view(in, self.u.dict, SEQ_KEYS, out); }
FN(m_values) { return dict_view(in, self.u.dict, SEQ_VALUES, out); }

FN(m_get)
{
    struct pair *p;
    if (!dict_get(in, self.u.dict, a[0], &p))
        return false;
    *out = p ? p->val : a[1].kind == V_MISSING ? v_none() : a[1];
    return true;
}

/* Adds the pairs of a mapping, or of an iterable of pairs, then the keyword arguments. */
static bool dict_fill(struct interp *in, struct dict *d, const struct args *raw, const char *what)
{
    struct value *items, *pair;
    size_t n, n_pair;
    if (raw->n_pos > 1)
        return interp_fail(in, HEARTH_EINVAL, "%s expected at most 1 argument, got %zu", what, raw->n_pos);
    if (raw->n_pos && (raw->pos[0].kind == V_DICT || raw->pos[0].kind == V_NAMESPACE)) {
        const struct dict *from = raw->pos[0].u.dict;
        for (size_t i = 0; i < from->n; i++)
            if (!dict_set(in, d, from->pairs[i].key, from->pairs[i].val))
                return false;
    } else if (raw->n_pos) {
        if (!value_items(in, raw->pos[0], &items, &n))
            return false;
        for (size_t i = 0; i < n; i++) {
            if (!value_items(in, items[i], &pair, &n_pair))
                return false;
            if (n_pair != 2)
                return interp_fail(in, HEARTH_EINVAL, "%s: an element of length %zu is not a pair", what, n_pair);
            if (!dict_set(in, d, pair[0], pair[1]))
                return false;
        }
    }
    for (size_t i = 0; i < raw->n_kw; i++) {
        const struct string *name;
        if (!string_new(in, raw->kw[i].name.p, raw->kw[i].name.n, false, &name) || !dict_set(in, d, v_string(name), raw->kw[i].v))
            return false;
    }
    return true;
}

FN(m_update)
{
    *out = v_none();
    return dict_fill(in, self.u.dict, raw, "update");
}

FN(m_dict_copy)
{
    struct args args = { &self, 1, NULL, 0 };
    struct dict *d;
    if (!dict_new(in, &d) || !dict_fill(in, d, &args, "copy"))
        return false;
    *out = (struct value){ .kind = V_DICT, .u.dict = d };
    return true;
}

FN(m_dict_pop)
{
    bool found;
    if (!dict_remove(in, self.u.dict, a[0], out, &found))
        return false;
    if (!found)
        *out = a[1];
    return found || a[1].kind != V_MISSING || interp_fail(in, HEARTH_EINVAL, "pop: there is no such key");
}

FN(m_setdefault)
{
    struct pair *p;
    if (!dict_get(in, self.u.dict, a[0], &p))
        return false;
    *out = p ? p->val : a[1].kind == V_MISSING ? v_none() : a[1];
    return p || dict_set(in, self.u.dict, a[0], *out);
}

static const struct builtin dict_methods[] = {
    { "copy", 0, "", m_dict_copy },   { "get", 1, "key default", m_get },     { "items", 0, "", m_items },
    { "keys", 0, "", m_keys },        { "pop", 1, "key default", m_dict_pop }, { "setdefault", 1, "key default", m_setdefault },
    { "update", VARARGS, NULL, m_update }, { "values", 0, "", m_values },
    { "clear", 0, "", NULL },         { "fromkeys", 0, "", NULL },            { "popitem", 0, "", NULL },
};

/* ---- loops ---- */

FN(m_cycle)
{
    if (!raw->n_pos)
        return interp_fail(in, HEARTH_EINVAL, "no items for cycling given");
    *out = raw->pos[self.u.loop->i % raw->n_pos];
    return true;
}

FN(m_changed)
{
    struct seq *now;
    bool same = false;
    if (!seq_new(in, SEQ_TUPLE, raw->n_pos, &now))
        return false;
    for (size_t i = 0; i < raw->n_pos; i++)
        if (!seq_push(in, now, raw->pos[i]))
            return false;
    if (self.u.loop->changed.kind != V_MISSING && !values_equal(in, self.u.loop->changed, v_seq(now), &same))
        return false;
    self.u.loop->changed = v_seq(now);
    return yes(out, !same);
}

static const struct builtin loop_methods[] = { { "changed", VARARGS, NULL, m_changed }, { "cycle", VARARGS, NULL, m_cycle } };

bool loop_attribute(struct interp *in, struct loop *l, struct str name, struct value *out)
{
    int64_t i = (int64_t)l->i, n = (int64_t)l->n;
    const struct { const char *name; struct value v; } all[] = {
        { "index", v_int(i + 1) },      { "index0", v_int(i) },          { "revindex", v_int(n - i) },
        { "revindex0", v_int(n - i - 1) }, { "first", v_bool(i == 0) },  { "last", v_bool(i == n - 1) },
        { "length", v_int(n) },         { "depth", v_int(l->depth0 + 1) }, { "depth0", v_int(l->depth0) },
        { "previtem", i > 0 ? l->items[i - 1] : v_undefined(NULL) },
        { "nextitem", i + 1 < n ? l->items[i + 1] : v_undefined(NULL) },
    };
    for (size_t k = 0; k < ARRAY_LEN(all); k++) {
        if (str_eqz(name, all[k].name)) {
            *out = all[k].v;
            return true;
        }
    }
    return false;
}

const struct builtin *method_find(struct value self, struct str name)
{
    switch (self.kind) {
    case V_STRING: return builtin_find(str_methods, ARRAY_LEN(str_methods), name);
    case V_DICT: return builtin_find(dict_methods, ARRAY_LEN(dict_methods), name);
    case V_LOOP: return builtin_find(loop_methods, ARRAY_LEN(loop_methods), name);
    case V_SEQ:
        if (self.u.seq->flavour == SEQ_LIST)
            return builtin_find(list_methods, ARRAY_LEN(list_methods), name);
        return self.u.seq->flavour == SEQ_TUPLE ? builtin_find(tuple_methods, ARRAY_LEN(tuple_methods), name) : NULL;
    default: return NULL;
    }
}

/* ---- global functions ---- */

FN(g_range)
{
    int64_t start = 0, stop, step = 1, n;
    int64_t *kept;
    struct seq *q;
    if (!int_arg(in, a[0], 0, &stop) || (a[1].kind != V_MISSING && ((start = stop), !int_arg(in, a[1], 0, &stop))) ||
        !int_arg(in, a[2], 1, &step))
        return false;
    if (!step)
        return interp_fail(in, HEARTH_EINVAL, "range() arg 3 must not be zero");
    double span = step > 0 ? (double)stop - (double)start : (double)start - (double)stop;
    double width = step > 0 ? (double)step : -(double)step;
    if (span / width > LIMIT_TEMPLATE_RANGE)
        return interp_fail(in, HEARTH_ELIMIT, "a range has more than %d elements", LIMIT_TEMPLATE_RANGE);
    /* A short range of huge numbers still fits: the difference below is exact or the test above refused. */
    uint64_t distance = step > 0 ? (stop > start ? (uint64_t)stop - (uint64_t)start : 0)
                                 : (start > stop ? (uint64_t)start - (uint64_t)stop : 0);
    uint64_t stride = step > 0 ? (uint64_t)step : 0 - (uint64_t)step;
    n = (int64_t)(distance / stride + (distance % stride != 0));
    kept = ARENA_NEW(&in->arena, int64_t, 3);
    if (!kept)
        return interp_memory(in);
    if (!spend(in, (uint64_t)n / 4) || !seq_new(in, SEQ_RANGE, (size_t)n, &q))
        return false;
    kept[0] = start;
    kept[1] = stop;
    kept[2] = step;
    q->range = kept;
    for (int64_t i = 0; i < n; i++)
        q->v[q->n++] = v_int((int64_t)((uint64_t)start + (uint64_t)i * (uint64_t)step));
    *out = v_seq(q);
    return true;
}

FN(g_namespace)
{
    struct dict *d;
    if (!dict_new(in, &d) || !dict_fill(in, d, raw, "namespace"))
        return false;
    *out = (struct value){ .kind = V_NAMESPACE, .u.dict = d };
    return true;
}

FN(g_dict)
{
    struct dict *d;
    if (!dict_new(in, &d) || !dict_fill(in, d, raw, "dict"))
        return false;
    *out = (struct value){ .kind = V_DICT, .u.dict = d };
    return true;
}

FN(g_raise)
{
    const struct string *s;
    if (!value_str(in, a[0], &s))
        return false;
    in->raised = true;
    err_set(in->e, HEARTH_EINVAL, "%.*s", (int)MIN(s->n, sizeof in->e->text), s->p);
    return false;
}

/* Monday is 1, Sunday 0: the day of the week of a date (Zeller, with years beginning in March). */
static int weekday(int year, int month, int day)
{
    static const int shift[] = { 0, 3, 2, 5, 0, 3, 5, 1, 4, 6, 2, 4 };
    year -= month < 3;
    return (year + year / 4 - year / 100 + year / 400 + shift[month - 1] + day) % 7;
}

static bool the_time(struct interp *in, struct tm *t)
{
    time_t now = time(NULL);
    int year, month, day, n = 0;
    if (!in->date)
        return localtime_r(&now, t) || interp_fail(in, HEARTH_EIO, "the clock cannot be read");
    if (sscanf(in->date, "%4d-%2d-%2d%n", &year, &month, &day, &n) != 3 || in->date[n] || year < 1 || month < 1 || month > 12 ||
        day < 1 || day > 31)
        return interp_fail(in, HEARTH_EINVAL, "the date '%.40s' is not YYYY-MM-DD", in->date);
    static const int before[] = { 0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334 };
    bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    *t = (struct tm){ .tm_year = year - 1900, .tm_mon = month - 1, .tm_mday = day, .tm_wday = weekday(year, month, day),
                      .tm_yday = before[month - 1] + day - 1 + (leap && month > 2) };
    return true;
}

/* One directive of strftime in English; 0: not one we know. */
static int put_time(char out[40], char c, const struct tm *t)
{
    static const char *const days[] = { "Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday" };
    static const char *const months[] = { "January", "February", "March", "April", "May", "June", "July", "August", "September",
                                          "October", "November", "December" };
    int hour12 = t->tm_hour % 12 ? t->tm_hour % 12 : 12;
    switch (c) {
    case 'a': return snprintf(out, 40, "%.3s", days[t->tm_wday]);
    case 'A': return snprintf(out, 40, "%s", days[t->tm_wday]);
    case 'b':
    case 'h': return snprintf(out, 40, "%.3s", months[t->tm_mon]);
    case 'B': return snprintf(out, 40, "%s", months[t->tm_mon]);
    case 'd': return snprintf(out, 40, "%02d", t->tm_mday);
    case 'e': return snprintf(out, 40, "%2d", t->tm_mday);
    case 'D': return snprintf(out, 40, "%02d/%02d/%02d", t->tm_mon + 1, t->tm_mday, t->tm_year % 100);
    case 'f': return snprintf(out, 40, "000000");
    case 'F': return snprintf(out, 40, "%d-%02d-%02d", t->tm_year + 1900, t->tm_mon + 1, t->tm_mday);
    case 'H': return snprintf(out, 40, "%02d", t->tm_hour);
    case 'I': return snprintf(out, 40, "%02d", hour12);
    case 'j': return snprintf(out, 40, "%03d", t->tm_yday + 1);
    case 'm': return snprintf(out, 40, "%02d", t->tm_mon + 1);
    case 'M': return snprintf(out, 40, "%02d", t->tm_min);
    case 'p': return snprintf(out, 40, "%s", t->tm_hour < 12 ? "AM" : "PM");
    case 'R': return snprintf(out, 40, "%02d:%02d", t->tm_hour, t->tm_min);
    case 'S': return snprintf(out, 40, "%02d", t->tm_sec);
    case 'T':
    case 'X': return snprintf(out, 40, "%02d:%02d:%02d", t->tm_hour, t->tm_min, t->tm_sec);
    case 'u': return snprintf(out, 40, "%d", t->tm_wday ? t->tm_wday : 7);
    case 'w': return snprintf(out, 40, "%d", t->tm_wday);
    case 'x': return snprintf(out, 40, "%02d/%02d/%02d", t->tm_mon + 1, t->tm_mday, t->tm_year % 100);
    case 'y': return snprintf(out, 40, "%02d", t->tm_year % 100);
    case 'Y': return snprintf(out, 40, "%d", t->tm_year + 1900);
    case 'Z':
    case 'z': out[0] = 0; return -1; /* a time without a zone prints nothing */
    case '%': return snprintf(out, 40, "%%");
    default: return 0;
    }
}

FN(g_strftime_now)
{
    const struct string *f, *s;
    struct sbuf *b = sb_new(in);
    struct tm t;
    if (!b || !text_arg(in, a[0], &f) || !the_time(in, &t) || !spend(in, f->n / 4))
        return false;
    for (size_t i = 0; i < f->n; i++) {
        char text[40], *p = text;
        if (f->p[i] != '%' || i + 1 == f->n) {
            if (!sb_put(in, b, f->p + i, 1, NULL, string_taint_at(f, i)))
                return false;
            continue;
        }
        bool bare = f->p[i + 1] == '-' && i + 2 < f->n; /* %-d: without the leading zero */
        i += 1 + bare;
        if (!put_time(text, f->p[i], &t))
            return interp_fail(in, HEARTH_EUNSUPPORTED, "strftime_now: '%%%c' is not supported", f->p[i]);
        while (bare && (*p == '0' || *p == ' ') && p[1])
            p++;
        if (!sb_lit(in, b, p))
            return false;
    }
    return put(sb_string(in, b, &s), &s, out);
}

static const struct builtin globals[] = {
    { "dict", VARARGS, NULL, g_dict },
    { "namespace", VARARGS, NULL, g_namespace },
    { "raise_exception", 1, "message", g_raise },
    { "range", 1, "start stop step", g_range },
    { "strftime_now", 1, "format", g_strftime_now },
};

const struct builtin *global_find(struct str name)
{
    return builtin_find(globals, ARRAY_LEN(globals), name);
}

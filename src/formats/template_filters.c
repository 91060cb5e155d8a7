/* template_filters.c: the filters (x|name) and tests (x is name) that chat templates use.
 *
 * Each does what Jinja's own does, checked against its definitions: which arguments, in which order, by
 * which names; what Undefined gives; where an error is raised. tojson is not Jinja's but the one chat
 * templates are written for: json.dumps with ensure_ascii=False and no HTML escaping. map, select and
 * their relatives give a generator, which is true, has no length and is consumed by the first loop over
 * it; here its items exist at once, so an error in them comes earlier than in Jinja.
 *
 * Left out, and refused by name when a template is compiled: filters for web pages (urlize, xmlattr,
 * striptags, wordwrap, urlencode, filesizeformat), random, pprint, groupby and attr. `safe` and `escape` give plain
 * text: there is no autoescaping here, so no notion of text that is safe.
 */
#include "formats/template.h"

#include <math.h>
#include <string.h>
#include <utf8proc.h>

#define FN(name) static bool name(struct interp *in, struct value self, const struct args *raw, const struct value *a, struct value *out)

static bool put(bool ok, const struct string *const *s, struct value *out)
{
    if (ok)
        *out = v_string(*s);
    return ok;
}

/* An argument that must be an integer; missing gives the default. */
static bool int_arg(struct interp *in, struct value v, int64_t missing, const char *what, int64_t *out)
{
    *out = v.kind == V_MISSING || v.kind == V_NONE ? missing : v.kind == V_BOOL ? v.u.b : v.u.i;
    return v.kind == V_MISSING || v.kind == V_NONE || v.kind == V_BOOL || v.kind == V_INT ||
           interp_fail(in, HEARTH_EINVAL, "%s must be an integer, not %s", what, type_name(v));
}

static bool flag(struct value v)
{
    return v.kind != V_MISSING && truth(v);
}

/* ---- attributes, keys, order ---- */

/* "a.b.0" or 3: what map(attribute=...), sort and the rest look up in each item. */
static bool by_attribute(struct interp *in, struct value item, struct value attribute, struct value fallback, struct value *out)
{
    const struct string *s = attribute.kind == V_STRING ? attribute.u.s : NULL;
    size_t at = 0;
    *out = item;
    if (attribute.kind == V_MISSING || attribute.kind == V_NONE)
        return true;
    for (bool more = true; more;) {
        struct value key = attribute;
        const struct string *part;
        more = false;
        if (s) {
            size_t dot = find_bytes(s->p, s->n, ".", 1, at), end = dot == SIZE_MAX ? s->n : dot;
            bool digits = end > at && end - at < 18;
            int64_t i = 0;
            for (size_t k = at; k < end && digits; k++) {
                digits = s->p[k] >= '0' && s->p[k] <= '9';
                i = i * 10 + (s->p[k] - '0');
            }
            if (!string_part(in, s, at, end, &part))
                return false;
            key = digits ? v_int(i) : v_string(part);
            more = dot != SIZE_MAX;
            at = end + 1;
        }
        if (!spend(in, 1) || !value_item(in, *out, key, out))
            return false;
        if (out->kind == V_UNDEFINED && fallback.kind != V_MISSING && fallback.kind != V_NONE)
            *out = fallback;
    }
    return true;
}

static bool fold_case(struct interp *in, bool sensitive, struct value *v)
{
    const struct string *s;
    if (sensitive || v->kind != V_STRING)
        return true;
    return put(text_case(in, v->u.s, CASE_LOWER, &s), &s, v);
}

struct keyed {
    struct value key, item;
};

/* The key of an item: one value, or a list for "a,b". */
static bool sort_key(struct interp *in, struct value item, struct value attribute, bool sensitive, struct value *out)
{
    const struct string *s = attribute.kind == V_STRING ? attribute.u.s : NULL, *part;
    struct seq *keys;
    if (!s || find_bytes(s->p, s->n, ",", 1, 0) == SIZE_MAX)
        return by_attribute(in, item, attribute, v_none(), out) && fold_case(in, sensitive, out);
    if (!seq_new(in, SEQ_LIST, 2, &keys))
        return false;
    for (size_t at = 0; at <= s->n;) {
        size_t comma = find_bytes(s->p, s->n, ",", 1, at), end = comma == SIZE_MAX ? s->n : comma;
        struct value v;
        if (!string_part(in, s, at, end, &part) || !by_attribute(in, item, v_string(part), v_none(), &v) ||
            !fold_case(in, sensitive, &v) || !seq_push(in, keys, v))
            return false;
        at = end + 1;
    }
    *out = v_seq(keys);
    return true;
}

/* listed: Jinja's sort wraps keys in a list, which asks for equality before order: so [none, none] sorts. */
static bool keys_order(struct interp *in, struct value a, struct value b, bool listed, int *order)
{
    bool same = false;
    if (listed && !is_number(a) && a.kind != V_STRING && !values_equal(in, a, b, &same))
        return false;
    *order = 0;
    return same || values_order(in, a, b, "<", order);
}

/* Merges runs of growing width: stable in both directions, n log n comparisons. */
static bool sort_keyed(struct interp *in, struct keyed *v, size_t n, bool reverse, bool listed)
{
    struct keyed *from = v, *to = ARENA_NEW(&in->arena, struct keyed, n ? n : 1);
    if (!to)
        return interp_memory(in);
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t begin = 0; begin < n; begin += 2 * width) {
            size_t mid = MIN(begin + width, n), end = MIN(begin + 2 * width, n), l = begin, r = mid;
            for (size_t k = begin; k < end; k++) {
                int order = -1;
                if (l < mid && r < end) {
                    if (!keys_order(in, from[r].key, from[l].key, listed, &order))
                        return false;
                    order = order == 2 ? 1 : reverse ? -order : order;
                }
                to[k] = l < mid && (r >= end || order >= 0) ? from[l++] : from[r++];
            }
        }
        struct keyed *t = from;
        from = to;
        to = t;
    }
    if (from != v)
        memcpy(v, from, n * sizeof *v);
    return true;
}

static bool sorted_items(struct interp *in, struct value self, struct value attribute, bool sensitive, bool reverse, struct keyed **out,
                         size_t *n)
{
    struct value *items;
    if (!value_items(in, self, &items, n))
        return false;
    *out = ARENA_NEW(&in->arena, struct keyed, *n ? *n : 1);
    if (!*out)
        return interp_memory(in);
    for (size_t i = 0; i < *n; i++) {
        (*out)[i].item = items[i];
        if (!sort_key(in, items[i], attribute, sensitive, &(*out)[i].key))
            return false;
    }
    return sort_keyed(in, *out, *n, reverse, true);
}

FN(f_sort)
{
    struct keyed *v;
    struct seq *q;
    size_t n;
    if (!sorted_items(in, self, a[2], flag(a[1]), flag(a[0]), &v, &n) || !seq_new(in, SEQ_LIST, n, &q))
        return false;
    for (size_t i = 0; i < n; i++)
        q->v[q->n++] = v[i].item;
    *out = v_seq(q);
    return true;
}

static bool pair_tuple(struct interp *in, struct value a, struct value b, struct value *out)
{
    struct seq *q;
    if (!seq_new(in, SEQ_TUPLE, 2, &q) || !seq_push(in, q, a) || !seq_push(in, q, b))
        return false;
    *out = v_seq(q);
    return true;
}

FN(f_dictsort)
{
    bool by_value = a[1].kind == V_STRING && str_eqz(string_str(a[1].u.s), "value");
    struct keyed *v;
    struct seq *q;
    if (self.kind != V_DICT)
        return interp_fail(in, HEARTH_EINVAL, "dictsort needs a mapping, not %s", type_name(self));
    if (a[1].kind != V_MISSING && !by_value && !(a[1].kind == V_STRING && str_eqz(string_str(a[1].u.s), "key")))
        return interp_fail(in, HEARTH_EINVAL, "You can only sort by either \"key\" or \"value\"");
    size_t n = self.u.dict->n;
    v = ARENA_NEW(&in->arena, struct keyed, n ? n : 1);
    if (!v)
        return interp_memory(in);
    for (size_t i = 0; i < n; i++) {
        const struct pair *p = &self.u.dict->pairs[i];
        v[i].key = by_value ? p->val : p->key;
        if (!fold_case(in, flag(a[0]), &v[i].key) || !pair_tuple(in, p->key, p->val, &v[i].item))
            return false;
    }
    if (!sort_keyed(in, v, n, flag(a[2]), false) || !seq_new(in, SEQ_LIST, n, &q))
        return false;
    for (size_t i = 0; i < n; i++)
        q->v[q->n++] = v[i].item;
    *out = v_seq(q);
    return true;
}

static bool extreme(struct interp *in, struct value self, const struct value *a, int sign, struct value *out)
{
    struct value *items, best = { .kind = V_MISSING };
    size_t n;
    if (!value_items(in, self, &items, &n))
        return false;
    *out = v_undefined(NULL);
    for (size_t i = 0; i < n; i++) {
        struct value key;
        int order;
        if (!by_attribute(in, items[i], a[1], v_none(), &key) || !fold_case(in, flag(a[0]), &key))
            return false;
        if (best.kind != V_MISSING) {
            if (!values_order(in, key, best, sign < 0 ? "<" : ">", &order))
                return false;
            if (order != sign)
                continue;
        }
        best = key;
        *out = items[i];
    }
    return true;
}

FN(f_min)
{
    return extreme(in, self, a, -1, out);
}

FN(f_max)
{
    return extreme(in, self, a, 1, out);
}

FN(f_unique)
{
    struct value *items, key;
    struct dict *seen;
    struct pair *p;
    struct seq *q;
    size_t n;
    if (!value_items(in, self, &items, &n) || !dict_new(in, &seen) || !seq_new(in, SEQ_ITER, 0, &q))
        return false;
    for (size_t i = 0; i < n; i++) {
        if (!by_attribute(in, items[i], a[1], v_none(), &key) || !fold_case(in, flag(a[0]), &key) || !dict_get(in, seen, key, &p))
            return false;
        if (!p && (!dict_set(in, seen, key, v_none()) || !seq_push(in, q, items[i])))
            return false;
    }
    *out = v_seq(q);
    return true;
}

FN(f_sum)
{
    struct value *items, sum = a[1].kind == V_MISSING ? v_int(0) : a[1];
    size_t n;
    if (!value_items(in, self, &items, &n))
        return false;
    if (sum.kind == V_STRING)
        return interp_fail(in, HEARTH_EINVAL, "sum() can't sum strings");
    for (size_t i = 0; i < n; i++) {
        struct value v;
        if (!by_attribute(in, items[i], a[0], v_none(), &v) || !spend(in, 1) || !interp_arith(in, OP_ADD, sum, v, &sum))
            return false;
    }
    *out = sum;
    return true;
}

/* ---- over sequences ---- */

FN(f_map)
{
    struct value attribute = { .kind = V_MISSING }, fallback = v_none(), *items;
    struct args rest = *raw;
    const struct builtin *fn = NULL;
    struct seq *q;
    size_t n;
    if (raw->n_pos) {
        if (raw->pos[0].kind != V_STRING || !(fn = filter_find(string_str(raw->pos[0].u.s))))
            return interp_fail(in, HEARTH_EUNSUPPORTED, "map: no filter named '%.*s'",
                               raw->pos[0].kind == V_STRING ? (int)MIN(raw->pos[0].u.s->n, 100u) : 0,
                               raw->pos[0].kind == V_STRING ? raw->pos[0].u.s->p : "");
        rest.pos++;
        rest.n_pos--;
    }
    for (size_t i = 0; !fn && i < raw->n_kw; i++) {
        if (str_eqz(raw->kw[i].name, "attribute"))
            attribute = raw->kw[i].v;
        else if (str_eqz(raw->kw[i].name, "default"))
            fallback = raw->kw[i].v;
        else
            return interp_fail(in, HEARTH_EINVAL, "Unexpected keyword argument '%.*s'", STR_FMT(raw->kw[i].name));
    }
    if (!fn && attribute.kind == V_MISSING)
        return interp_fail(in, HEARTH_EINVAL, "map requires a filter argument");
    if (!seq_new(in, SEQ_ITER, 0, &q) || (truth(self) && !value_items(in, self, &items, &n)))
        return false;
    for (size_t i = 0; truth(self) && i < n; i++) {
        struct value v;
        if (!(fn ? builtin_call(in, fn, items[i], &rest, &v) : by_attribute(in, items[i], attribute, fallback, &v)) ||
            !seq_push(in, q, v))
            return false;
    }
    *out = v_seq(q);
    return true;
}

/* select, reject, selectattr, rejectattr: [attribute,] [test, its arguments]. */
static bool pick(struct interp *in, struct value self, const struct args *raw, bool by_attr, bool keep, struct value *out)
{
    struct value attribute = { .kind = V_MISSING }, *items;
    struct args rest = *raw;
    const struct builtin *fn = NULL;
    struct seq *q;
    size_t n, off = by_attr;
    if (!seq_new(in, SEQ_ITER, 0, &q))
        return false;
    *out = v_seq(q);
    if (!truth(self))
        return true;
    if (raw->n_pos < off)
        return interp_fail(in, HEARTH_EINVAL, "Missing parameter for attribute name");
    if (by_attr)
        attribute = raw->pos[0];
    if (raw->n_pos > off) {
        struct value name = raw->pos[off++];
        if (name.kind != V_STRING || !(fn = test_find(string_str(name.u.s))))
            return interp_fail(in, HEARTH_EUNSUPPORTED, "no test named '%.*s'", name.kind == V_STRING ? (int)MIN(name.u.s->n, 100u) : 0,
                               name.kind == V_STRING ? name.u.s->p : "");
        rest.pos += off;
        rest.n_pos -= off;
    }
    if (!value_items(in, self, &items, &n))
        return false;
    for (size_t i = 0; i < n; i++) {
        struct value v;
        if (!spend(in, 1) || !by_attribute(in, items[i], attribute, v_none(), &v) || (fn && !builtin_call(in, fn, v, &rest, &v)))
            return false;
        if (truth(v) == keep && !seq_push(in, q, items[i]))
            return false;
    }
    return true;
}

FN(f_select)
{
    return pick(in, self, raw, false, true, out);
}

FN(f_reject)
{
    return pick(in, self, raw, false, false, out);
}

FN(f_selectattr)
{
    return pick(in, self, raw, true, true, out);
}

FN(f_rejectattr)
{
    return pick(in, self, raw, true, false, out);
}

FN(f_first)
{
    struct value *items;
    size_t n;
    if (self.kind == V_SEQ && self.u.seq->flavour == SEQ_ITER) {
        struct seq *q = self.u.seq;
        *out = q->pos < q->n ? q->v[q->pos++] : v_undefined(NULL);
        return true;
    }
    if (self.kind == V_STRING && self.u.s->n)
        return value_item(in, self, v_int(0), out);
    if (!value_items(in, self, &items, &n))
        return false;
    *out = n ? items[0] : v_undefined(NULL);
    return true;
}

FN(f_last)
{
    struct value *items;
    size_t n;
    if (self.kind == V_SEQ && self.u.seq->flavour == SEQ_ITER)
        return interp_fail(in, HEARTH_EINVAL, "'generator' object is not reversible");
    if (self.kind == V_STRING && self.u.s->n)
        return value_item(in, self, v_int(-1), out);
    if (!value_items(in, self, &items, &n))
        return false;
    *out = n ? items[n - 1] : v_undefined(NULL);
    return true;
}

FN(f_length)
{
    size_t n;
    if (!value_length(in, self, &n))
        return false;
    *out = v_int((int64_t)n);
    return true;
}

FN(f_list)
{
    struct value *items;
    struct seq *q;
    size_t n;
    if (!value_items(in, self, &items, &n) || !spend(in, n / 4) || !seq_new(in, SEQ_LIST, n, &q))
        return false;
    if (n)
        memcpy(q->v, items, n * sizeof *items);
    q->n = n;
    *out = v_seq(q);
    return true;
}

FN(f_items)
{
    struct seq *q;
    struct value pair;
    if (!seq_new(in, SEQ_ITER, self.kind == V_DICT ? self.u.dict->n : 0, &q))
        return false;
    *out = v_seq(q);
    if (self.kind == V_UNDEFINED)
        return true;
    if (self.kind != V_DICT)
        return interp_fail(in, HEARTH_EINVAL, "Can only get item pairs from a mapping.");
    for (size_t i = 0; i < self.u.dict->n; i++)
        if (!pair_tuple(in, self.u.dict->pairs[i].key, self.u.dict->pairs[i].val, &pair) || !seq_push(in, q, pair))
            return false;
    return true;
}

FN(f_reverse)
{
    struct value *items;
    struct seq *q;
    size_t n;
    if (self.kind == V_STRING)
        return value_slice(in, self, v_none(), v_none(), v_int(-1), out);
    if (!value_items(in, self, &items, &n) || !spend(in, n / 4) || !seq_new(in, SEQ_ITER, n, &q))
        return false;
    if (self.kind == V_SEQ && self.u.seq->flavour == SEQ_ITER)
        q->flavour = SEQ_LIST;
    while (n--)
        q->v[q->n++] = items[n];
    *out = v_seq(q);
    return true;
}

FN(f_batch)
{
    struct value *items;
    struct seq *q, *row = NULL;
    int64_t width;
    size_t n;
    if (!int_arg(in, a[0], 0, "batch", &width) || !value_items(in, self, &items, &n) || !seq_new(in, SEQ_ITER, 0, &q))
        return false;
    for (size_t i = 0; i < n; i++) {
        if ((!row || (int64_t)row->n == width) && (!seq_new(in, SEQ_LIST, 0, &row) || !seq_push(in, q, v_seq(row))))
            return false;
        if (!seq_push(in, row, items[i]))
            return false;
    }
    while (row && a[1].kind != V_MISSING && a[1].kind != V_NONE && (int64_t)row->n < width)
        if (!seq_push(in, row, a[1]))
            return false;
    *out = v_seq(q);
    return true;
}

FN(f_slice)
{
    struct value *items;
    struct seq *q, *row;
    int64_t slices;
    size_t n, at = 0;
    if (!int_arg(in, a[0], 0, "slice", &slices) || !value_items(in, self, &items, &n) || !seq_new(in, SEQ_ITER, 0, &q))
        return false;
    if (slices <= 0)
        return interp_fail(in, HEARTH_EINVAL, "slice needs a positive number of slices");
    for (int64_t i = 0; i < slices; i++) {
        size_t take = n / (size_t)slices + (i < (int64_t)(n % (size_t)slices));
        if (!seq_new(in, SEQ_LIST, 0, &row) || !seq_push(in, q, v_seq(row)))
            return false;
        while (take--)
            if (!seq_push(in, row, items[at++]))
                return false;
        if (a[1].kind != V_MISSING && a[1].kind != V_NONE && i >= (int64_t)(n % (size_t)slices) && !seq_push(in, row, a[1]))
            return false;
    }
    *out = v_seq(q);
    return true;
}

FN(f_join)
{
    struct sbuf *b = sb_new(in);
    const struct string *separator = NULL, *s;
    struct value *items, v;
    size_t n;
    if (!b || (a[0].kind != V_MISSING && !value_str(in, a[0], &separator)) || !value_items(in, self, &items, &n))
        return false;
    for (size_t i = 0; i < n; i++)
        if (!spend(in, 1) || (i && separator && !sb_str(in, b, separator)) || !by_attribute(in, items[i], a[1], v_none(), &v) ||
            !value_str(in, v, &s) || !sb_str(in, b, s))
            return false;
    return put(sb_string(in, b, &s), &s, out);
}

/* ---- text ---- */

static bool cased(struct interp *in, struct value self, enum text_case how, struct value *out)
{
    const struct string *s;
    return value_str(in, self, &s) && put(text_case(in, s, how, &s), &s, out);
}

FN(f_upper)
{
    return cased(in, self, CASE_UPPER, out);
}

FN(f_lower)
{
    return cased(in, self, CASE_LOWER, out);
}

FN(f_title)
{
    return cased(in, self, CASE_JINJA_TITLE, out);
}

FN(f_capitalize)
{
    return cased(in, self, CASE_CAPITALIZE, out);
}

FN(f_string)
{
    const struct string *s;
    return put(value_str(in, self, &s), &s, out);
}

FN(f_escape)
{
    const struct string *s;
    return value_str(in, self, &s) && put(text_escape(in, s, &s), &s, out);
}

FN(f_trim)
{
    const struct string *s, *chars = NULL;
    if (!value_str(in, self, &s))
        return false;
    if (a[0].kind == V_STRING)
        chars = a[0].u.s;
    else if (a[0].kind != V_MISSING && a[0].kind != V_NONE)
        return interp_fail(in, HEARTH_EINVAL, "strip arg must be None or str, not %s", type_name(a[0]));
    return put(text_strip(in, s, chars, STRIP_LEFT | STRIP_RIGHT, &s), &s, out);
}

FN(f_replace)
{
    const struct string *s, *from, *to;
    int64_t count;
    return value_str(in, self, &s) && value_str(in, a[0], &from) && value_str(in, a[1], &to) &&
           int_arg(in, a[2], -1, "replace's count", &count) && put(text_replace(in, s, from, to, count, &s), &s, out);
}

static bool ends_line(const struct string *s)
{
    size_t at = s->n - 1;
    while (at && ((unsigned char)s->p[at] & 0xc0) == 0x80)
        at--;
    return is_line_end(utf8_next(s->p, s->n, &at));
}

FN(f_indent)
{
    static const struct string nothing = { .p = "" };
    const struct string *width, *s;
    struct sbuf *b = sb_new(in), *spaces = sb_new(in);
    struct seq *lines;
    int64_t n_spaces;
    if (!b || !spaces)
        return false;
    if (self.kind != V_STRING)
        return interp_fail(in, HEARTH_EINVAL, "indent needs a string, not %s", type_name(self));
    if (a[0].kind == V_STRING) {
        width = a[0].u.s;
    } else {
        if (!int_arg(in, a[0], 4, "indent's width", &n_spaces) || !string_new(in, " ", 1, false, &s) ||
            !text_repeat(in, s, n_spaces, &width))
            return false;
    }
    if (!text_lines(in, self.u.s, false, &lines))
        return false;
    /* Jinja adds a newline before it splits, so a text that ends a line, or is empty, has one more. */
    size_t n = lines->n, n_text = self.u.s->n;
    if (!n_text || (self.u.s->p[n_text - 1] != '\r' && ends_line(self.u.s)))
        n++;
    for (size_t i = 0; i < n; i++) {
        const struct string *line = i < lines->n ? lines->v[i].u.s : &nothing;
        bool wanted = i ? flag(a[2]) || line->n : flag(a[1]);
        if ((i && !sb_lit(in, b, "\n")) || (wanted && !sb_str(in, b, width)) || !sb_str(in, b, line))
            return false;
    }
    return put(sb_string(in, b, &s), &s, out);
}

FN(f_truncate)
{
    int64_t length, leeway, n_end = 3;
    const struct string *s, *end = NULL;
    size_t cut;
    struct sbuf *b = sb_new(in);
    if (!b || !int_arg(in, a[0], 255, "truncate's length", &length) || !int_arg(in, a[3], 5, "truncate's leeway", &leeway))
        return false;
    *out = self;
    if (self.kind == V_UNDEFINED)
        return true;
    if (self.kind != V_STRING || (a[2].kind != V_MISSING && a[2].kind != V_STRING))
        return interp_fail(in, HEARTH_EINVAL, "truncate needs a string");
    if (a[2].kind == V_STRING) {
        end = a[2].u.s;
        n_end = (int64_t)string_chars(end);
    }
    if (length < n_end || leeway < 0)
        return interp_fail(in, HEARTH_EINVAL, "expected length >= %lld and leeway >= 0", (long long)n_end);
    if ((int64_t)string_chars(self.u.s) <= length + leeway)
        return true;
    cut = string_offset(self.u.s, (size_t)(length - n_end));
    for (size_t i = cut; !flag(a[1]) && i > 0; i--) {
        if (self.u.s->p[i - 1] == ' ') {
            cut = i - 1;
            break;
        }
    }
    return spend(in, cut / 64) && string_part(in, self.u.s, 0, cut, &s) && sb_str(in, b, s) &&
           (end ? sb_str(in, b, end) : sb_lit(in, b, "...")) && put(sb_string(in, b, &s), &s, out);
}

FN(f_center)
{
    const struct string *s;
    int64_t width;
    struct sbuf *b = sb_new(in);
    if (!b || !value_str(in, self, &s) || !int_arg(in, a[0], 80, "center's width", &width))
        return false;
    int64_t pad = width - (int64_t)string_chars(s), left = pad / 2 + (pad & width & 1);
    if (pad <= 0)
        return put(true, &s, out);
    if (pad > (int64_t)LIMIT_TEMPLATE_OUTPUT_BYTES)
        return interp_fail(in, HEARTH_ELIMIT, "text grows beyond %zu bytes", LIMIT_TEMPLATE_OUTPUT_BYTES);
    for (int64_t i = 0; i <= pad; i++)
        if (!spend(in, i % 16 == 0) || !(i == left ? sb_str(in, b, s) : true) || (i < pad && !sb_lit(in, b, " ")))
            return false;
    return put(sb_string(in, b, &s), &s, out);
}

FN(f_wordcount)
{
    const struct string *s;
    int64_t n = 0;
    bool inside = false;
    if (!value_str(in, self, &s) || !spend(in, s->n / 16))
        return false;
    for (size_t at = 0; at < s->n;) {
        uint32_t c = utf8_next(s->p, s->n, &at);
        utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
        bool word = c == '_' || (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO) ||
                    (k >= UTF8PROC_CATEGORY_ND && k <= UTF8PROC_CATEGORY_NO);
        n += word && !inside;
        inside = word;
    }
    *out = v_int(n);
    return true;
}

FN(f_format)
{
    const struct string *s;
    return value_str(in, self, &s) && put(text_percent(in, s, raw, raw->n_kw > 0, &s), &s, out);
}

FN(f_tojson)
{
    struct json_style style = { .ensure_ascii = flag(a[0]), .sort_keys = flag(a[3]) };
    const struct string *s;
    struct sbuf *b = sb_new(in);
    int64_t width;
    if (!b)
        return false;
    if (a[1].kind == V_STRING) {
        style.indent = a[1].u.s;
    } else if (a[1].kind != V_MISSING && a[1].kind != V_NONE) {
        if (!int_arg(in, a[1], 0, "tojson's indent", &width) || !string_new(in, " ", 1, false, &s) ||
            !text_repeat(in, s, width, &style.indent))
            return false;
    }
    if (a[2].kind != V_MISSING && a[2].kind != V_NONE) {
        struct value *items;
        size_t n;
        if (!value_items(in, a[2], &items, &n))
            return false;
        if (n != 2 || items[0].kind != V_STRING || items[1].kind != V_STRING)
            return interp_fail(in, HEARTH_EINVAL, "tojson's separators must be two strings");
        style.item_separator = items[0].u.s;
        style.key_separator = items[1].u.s;
    }
    return text_json(in, b, self, &style, 0) && put(sb_string(in, b, &s), &s, out);
}

/* ---- numbers ---- */

FN(f_abs)
{
    *out = self;
    if (!is_number(self))
        return interp_fail(in, HEARTH_EINVAL, "bad operand type for abs(): '%s'", type_name(self));
    if (self.kind == V_FLOAT)
        *out = v_float(fabs(self.u.f));
    else if (self.kind == V_BOOL || self.u.i < 0)
        return interp_arith(in, self.kind == V_BOOL ? OP_ADD : OP_SUB, v_int(0), self, out);
    return true;
}

static struct str stripped(const struct string *s)
{
    struct str t = { s->p, s->n };
    while (t.n && is_space((unsigned char)t.p[0]))
        t.p++, t.n--;
    while (t.n && is_space((unsigned char)t.p[t.n - 1]))
        t.n--;
    return t;
}

/* Python's int(text, base); *ok false where it raises ValueError. */
static bool parse_int(struct interp *in, struct str t, int64_t base, bool *ok, int64_t *out)
{
    bool negative = t.n && t.p[0] == '-', digit_before = false;
    size_t i = t.n && (t.p[0] == '-' || t.p[0] == '+');
    char mark = i + 1 < t.n && t.p[i] == '0' ? (char)(t.p[i + 1] | 0x20) : 0;
    int64_t prefixed = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 0;
    *ok = false;
    *out = 0;
    if (prefixed && (base == prefixed || base == 0)) {
        i += 2;
        base = prefixed;
        digit_before = true; /* 0x_ff is fine */
    }
    base = base ? base : 10;
    if (base < 2 || base > 36 || i >= t.n)
        return true;
    for (; i < t.n; i++) {
        char c = t.p[i];
        int64_t digit = c >= '0' && c <= '9' ? c - '0' : (c | 0x20) >= 'a' && (c | 0x20) <= 'z' ? (c | 0x20) - 'a' + 10 : 99;
        if (c == '_' && digit_before && i + 1 < t.n) {
            digit_before = false;
            continue;
        }
        if (digit >= base)
            return true;
        digit_before = true;
        if (__builtin_mul_overflow(*out, base, out) || __builtin_sub_overflow(*out, digit, out))
            return interp_fail(in, HEARTH_ELIMIT, "an integer is beyond 64 bits");
    }
    if (!negative && __builtin_sub_overflow(0, *out, out)) /* collected below zero, where there is one more */
        return interp_fail(in, HEARTH_ELIMIT, "an integer is beyond 64 bits");
    *ok = digit_before;
    return true;
}

static bool float_to_int(struct interp *in, double d, struct value missing, struct value *out)
{
    *out = missing;
    if (!isfinite(d))
        return true;
    if (d < -9223372036854775808.0 || d >= 9223372036854775808.0)
        return interp_fail(in, HEARTH_ELIMIT, "an integer is beyond 64 bits");
    *out = v_int((int64_t)d);
    return true;
}

FN(f_int)
{
    struct value missing = a[0].kind == V_MISSING ? v_int(0) : a[0];
    int64_t base, i;
    bool ok;
    if (!int_arg(in, a[1], 10, "int's base", &base))
        return false;
    *out = missing;
    switch (self.kind) {
    case V_BOOL: *out = v_int(self.u.b); return true;
    case V_INT: *out = self; return true;
    case V_FLOAT:
        if (isinf(self.u.f))
            return interp_fail(in, HEARTH_EINVAL, "cannot convert float infinity to integer");
        return float_to_int(in, self.u.f, missing, out);
    case V_STRING:
        if (!parse_int(in, stripped(self.u.s), base, &ok, &i))
            return false;
        if (ok) {
            *out = v_int(i);
            return true;
        }
        double d = parse_double(stripped(self.u.s).p, stripped(self.u.s).n, &ok);
        return !ok || float_to_int(in, d, missing, out);
    case V_UNDEFINED: return interp_arith(in, OP_ADD, self, self, out); /* fails as any use of it */
    default: return true;
    }
}

FN(f_float)
{
    bool ok;
    *out = a[0].kind == V_MISSING ? v_float(0) : a[0];
    if (self.kind == V_UNDEFINED)
        return interp_arith(in, OP_ADD, self, self, out);
    if (is_number(self)) {
        *out = v_float(to_double(self));
    } else if (self.kind == V_STRING) {
        double d = parse_double(stripped(self.u.s).p, stripped(self.u.s).n, &ok);
        if (ok)
            *out = v_float(d);
    }
    return true;
}

/* Python's round(): to even in exact halves of the decimal value, which printf does, too. */
static bool round_common(struct interp *in, struct value v, int64_t digits, struct value *out)
{
    char text[400];
    bool ok;
    if (v.kind != V_FLOAT && digits >= 0)
        return interp_arith(in, OP_ADD, v, v_int(0), out);
    if (digits < 0) {
        double scale = pow(10, (double)MIN(-digits, 308)), r = nearbyint(to_double(v) / scale) * scale;
        *out = v.kind == V_FLOAT ? v_float(r) : v_int((int64_t)r);
        return true;
    }
    *out = v;
    if (digits > 60 || !isfinite(v.u.f) || fabs(v.u.f) > 1e300)
        return true;
    snprintf(text, sizeof text, "%.*f", (int)digits, v.u.f);
    for (char *p = text; *p; p++)
        if ((*p < '0' || *p > '9') && *p != '-')
            *p = '.';
    *out = v_float(parse_double(text, strlen(text), &ok));
    return true;
}

FN(f_round)
{
    int64_t digits;
    const char *method = "common";
    if (!int_arg(in, a[0], 0, "round's precision", &digits))
        return false;
    if (!is_number(self))
        return interp_fail(in, HEARTH_EINVAL, "round needs a number, not %s", type_name(self));
    if (a[1].kind == V_STRING)
        method = str_eqz(string_str(a[1].u.s), "ceil") ? "ceil" : str_eqz(string_str(a[1].u.s), "floor") ? "floor"
                 : str_eqz(string_str(a[1].u.s), "common") ? "common" : "";
    else if (a[1].kind != V_MISSING)
        method = "";
    if (!*method)
        return interp_fail(in, HEARTH_EINVAL, "method must be common, ceil or floor");
    if (*method == 'c' && method[1] == 'o')
        return round_common(in, self, digits, out);
    double scale = pow(10, (double)digits), d = to_double(self) * scale;
    *out = v_float((*method == 'c' ? ceil(d) : floor(d)) / scale);
    return true;
}

FN(f_default)
{
    struct value fallback = a[0];
    if (fallback.kind == V_MISSING) {
        const struct string *empty;
        if (!string_new(in, "", 0, false, &empty))
            return false;
        fallback = v_string(empty);
    }
    *out = self.kind == V_UNDEFINED || (flag(a[1]) && !truth(self)) ? fallback : self;
    return true;
}

static const struct builtin filters[] = {
    { "abs", 0, "", f_abs },
    { "batch", 1, "linecount fill_with", f_batch },
    { "capitalize", 0, "", f_capitalize },
    { "center", 0, "width", f_center },
    { "count", 0, "", f_length },
    { "d", 0, "default_value boolean", f_default },
    { "default", 0, "default_value boolean", f_default },
    { "dictsort", 0, "case_sensitive by reverse", f_dictsort },
    { "e", 0, "", f_escape },
    { "escape", 0, "", f_escape },
    { "first", 0, "", f_first },
    { "float", 0, "default", f_float },
    { "forceescape", 0, "", f_escape },
    { "format", VARARGS, NULL, f_format },
    { "indent", 0, "width first blank", f_indent },
    { "int", 0, "default base", f_int },
    { "items", 0, "", f_items },
    { "join", 0, "d attribute", f_join },
    { "last", 0, "", f_last },
    { "length", 0, "", f_length },
    { "list", 0, "", f_list },
    { "lower", 0, "", f_lower },
    { "map", VARARGS, NULL, f_map },
    { "max", 0, "case_sensitive attribute", f_max },
    { "min", 0, "case_sensitive attribute", f_min },
    { "reject", VARARGS, NULL, f_reject },
    { "rejectattr", VARARGS, NULL, f_rejectattr },
    { "replace", 2, "old new count", f_replace },
    { "reverse", 0, "", f_reverse },
    { "round", 0, "precision method", f_round },
    { "safe", 0, "", f_string },
    { "select", VARARGS, NULL, f_select },
    { "selectattr", VARARGS, NULL, f_selectattr },
    { "slice", 1, "slices fill_with", f_slice },
    { "sort", 0, "reverse case_sensitive attribute", f_sort },
    { "string", 0, "", f_string },
    { "sum", 0, "attribute start", f_sum },
    { "title", 0, "", f_title },
    { "tojson", 0, "ensure_ascii indent separators sort_keys", f_tojson },
    { "trim", 0, "chars", f_trim },
    { "truncate", 0, "length killwords end leeway", f_truncate },
    { "unique", 0, "case_sensitive attribute", f_unique },
    { "upper", 0, "", f_upper },
    { "wordcount", 0, "", f_wordcount },
};

const struct builtin *builtin_find(const struct builtin *table, size_t n, struct str name)
{
    for (size_t i = 0; i < n; i++)
        if (str_eqz(name, table[i].name))
            return &table[i];
    return NULL;
}

const struct builtin *filter_find(struct str name)
{
    return builtin_find(filters, ARRAY_LEN(filters), name);
}

/* ---- tests ---- */

static bool yes(struct value *out, bool b)
{
    *out = v_bool(b);
    return true;
}

FN(t_defined) { return yes(out, self.kind != V_UNDEFINED); }
FN(t_undefined) { return yes(out, self.kind == V_UNDEFINED); }
FN(t_none) { return yes(out, self.kind == V_NONE); }
FN(t_boolean) { return yes(out, self.kind == V_BOOL); }
FN(t_true) { return yes(out, self.kind == V_BOOL && self.u.b); }
FN(t_false) { return yes(out, self.kind == V_BOOL && !self.u.b); }
FN(t_integer) { return yes(out, self.kind == V_INT); }
FN(t_float) { return yes(out, self.kind == V_FLOAT); }
FN(t_number) { return yes(out, is_number(self)); }
FN(t_string) { return yes(out, self.kind == V_STRING); }
FN(t_mapping) { return yes(out, self.kind == V_DICT); }
FN(t_escaped) { return yes(out, false); }
FN(t_callable) { return yes(out, self.kind >= V_MACRO || self.kind == V_UNDEFINED); }
FN(t_filter) { return yes(out, self.kind == V_STRING && filter_find(string_str(self.u.s))); }
FN(t_test) { return yes(out, self.kind == V_STRING && test_find(string_str(self.u.s))); }

FN(t_sequence)
{
    return yes(out, self.kind == V_UNDEFINED || self.kind == V_STRING || self.kind == V_DICT ||
                        (self.kind == V_SEQ && self.u.seq->flavour <= SEQ_RANGE));
}

FN(t_iterable)
{
    return yes(out, self.kind == V_UNDEFINED || self.kind == V_STRING || self.kind == V_DICT || self.kind == V_SEQ ||
                        self.kind == V_LOOP);
}

/* Python's identity, as far as values without addresses have one. */
FN(t_sameas)
{
    bool same = self.kind == a[0].kind;
    if (same && self.kind != V_NONE && self.kind != V_UNDEFINED) {
        if (self.kind == V_SEQ || self.kind == V_DICT || self.kind == V_NAMESPACE)
            same = (const void *)self.u.seq == (const void *)a[0].u.seq;
        else
            return values_equal(in, self, a[0], &same) && yes(out, same);
    }
    return yes(out, same);
}

static bool remainder_is(struct interp *in, struct value v, struct value by, int64_t wanted, struct value *out)
{
    bool same;
    if (v.kind == V_STRING)
        return interp_fail(in, HEARTH_EINVAL, "not all arguments converted during string formatting");
    return interp_arith(in, OP_MOD, v, by, &v) && values_equal(in, v, v_int(wanted), &same) && yes(out, same);
}

FN(t_odd) { return remainder_is(in, self, v_int(2), 1, out); }
FN(t_even) { return remainder_is(in, self, v_int(2), 0, out); }
FN(t_divisibleby) { return remainder_is(in, self, a[0], 0, out); }

/* All letters that have a case have this one, and there is at least one. */
static bool has_case(struct interp *in, struct value self, bool upper, struct value *out)
{
    const struct string *s;
    bool some = false, all = true;
    if (!value_str(in, self, &s) || !spend(in, s->n / 16))
        return false;
    for (size_t at = 0; at < s->n;) {
        utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)utf8_next(s->p, s->n, &at));
        bool cased_letter = k == UTF8PROC_CATEGORY_LU || k == UTF8PROC_CATEGORY_LL || k == UTF8PROC_CATEGORY_LT;
        some |= cased_letter;
        all &= !cased_letter || k == (upper ? UTF8PROC_CATEGORY_LU : UTF8PROC_CATEGORY_LL);
    }
    return yes(out, some && all);
}

FN(t_lower) { return has_case(in, self, false, out); }
FN(t_upper) { return has_case(in, self, true, out); }

static bool related(struct interp *in, enum op op, struct value self, const struct value *a, struct value *out)
{
    bool holds;
    return interp_compare(in, op, self, a[0], &holds) && yes(out, holds);
}

FN(t_eq) { return related(in, OP_EQ, self, a, out); }
FN(t_ne) { return related(in, OP_NE, self, a, out); }
FN(t_gt) { return related(in, OP_GT, self, a, out); }
FN(t_ge) { return related(in, OP_GE, self, a, out); }
FN(t_lt) { return related(in, OP_LT, self, a, out); }
FN(t_le) { return related(in, OP_LE, self, a, out); }
FN(t_in) { return related(in, OP_IN, self, a, out); }

static const struct builtin tests[] = {
    { "boolean", 0, "", t_boolean },   { "callable", 0, "", t_callable },   { "defined", 0, "", t_defined },
    { "divisibleby", 1, "num", t_divisibleby }, { "eq", 1, "b", t_eq },     { "equalto", 1, "b", t_eq },
    { "==", 1, "b", t_eq },            { "escaped", 0, "", t_escaped },     { "even", 0, "", t_even },
    { "false", 0, "", t_false },       { "filter", 0, "", t_filter },       { "float", 0, "", t_float },
    { "ge", 1, "b", t_ge },            { ">=", 1, "b", t_ge },              { "gt", 1, "b", t_gt },
    { "greaterthan", 1, "b", t_gt },   { ">", 1, "b", t_gt },               { "in", 1, "seq", t_in },
    { "integer", 0, "", t_integer },   { "iterable", 0, "", t_iterable },   { "le", 1, "b", t_le },
    { "<=", 1, "b", t_le },            { "lower", 0, "", t_lower },         { "lt", 1, "b", t_lt },
    { "lessthan", 1, "b", t_lt },      { "<", 1, "b", t_lt },               { "mapping", 0, "", t_mapping },
    { "ne", 1, "b", t_ne },            { "!=", 1, "b", t_ne },              { "none", 0, "", t_none },
    { "number", 0, "", t_number },     { "odd", 0, "", t_odd },             { "sameas", 1, "other", t_sameas },
    { "sequence", 0, "", t_sequence }, { "string", 0, "", t_string },       { "test", 0, "", t_test },
    { "true", 0, "", t_true },         { "undefined", 0, "", t_undefined }, { "upper", 0, "", t_upper },
};

const struct builtin *test_find(struct str name)
{
    return builtin_find(tests, ARRAY_LEN(tests), name);
}

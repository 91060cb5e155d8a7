/* template_value.c: values as a Python program would see them.
 *
 * Templates are written against Python: 1 == 1.0 == True, and they are one key in a dict; a list is not
 * equal to a tuple; an empty container is false but a generator is true; {{ x }} of a list prints its
 * items as Python's repr does. This file holds those rules: truth, equality, order, hashing, printing,
 * lookup by key and by name, slices, and the conversion from JSON.
 *
 * Dicts keep insertion order in an array; from DICT_INDEX entries on an open-addressing index of
 * positions stands beside it. Collisions cost fuel as everything does, so a chosen set of keys can end a
 * render but not stall it. Walks over nested data stop at LIMIT_TEMPLATE_NESTING: a list that contains
 * itself is refused there.
 *
 * Left out: integers beyond 64 bits (an error says so), complex numbers, sets, bytes.
 */
#include "formats/template.h"

#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

enum { DICT_INDEX = 9 };

static bool too_deep(struct interp *in)
{
    return interp_fail(in, HEARTH_ELIMIT, "data is nested deeper than %d", LIMIT_TEMPLATE_NESTING);
}

const char *type_name(struct value v)
{
    static const char *const seqs[] = { "list", "tuple", "range", "dict_keys", "dict_values", "dict_items", "generator" };
    switch (v.kind) {
    case V_NONE: return "NoneType";
    case V_BOOL: return "bool";
    case V_INT: return "int";
    case V_FLOAT: return "float";
    case V_STRING: return "str";
    case V_SEQ: return seqs[v.u.seq->flavour];
    case V_DICT: return "dict";
    case V_NAMESPACE: return "Namespace";
    case V_MACRO: return "Macro";
    case V_FUNC:
    case V_METHOD: return "function";
    case V_LOOP: return "LoopContext";
    default: return "Undefined";
    }
}

bool truth(struct value v)
{
    switch (v.kind) {
    case V_MISSING:
    case V_UNDEFINED:
    case V_NONE: return false;
    case V_BOOL: return v.u.b;
    case V_INT: return v.u.i != 0;
    case V_FLOAT: return v.u.f != 0;
    case V_STRING: return v.u.s->n != 0;
    case V_SEQ: return v.u.seq->flavour == SEQ_ITER || v.u.seq->n != 0;
    case V_DICT: return v.u.dict->n != 0;
    default: return true;
    }
}

/* ---- numbers ---- */

bool is_number(struct value v)
{
    return v.kind == V_BOOL || v.kind == V_INT || v.kind == V_FLOAT;
}

static int64_t to_int(struct value v)
{
    return v.kind == V_BOOL ? v.u.b : v.u.i;
}

double to_double(struct value v)
{
    return v.kind == V_FLOAT ? v.u.f : (double)to_int(v);
}

/* Exact where a double cannot hold the integer. 2: a NaN is in it. */
static int order_int_double(int64_t i, double d)
{
    if (isnan(d))
        return 2;
    if (d >= 9223372036854775808.0)
        return -1;
    if (d < -9223372036854775808.0)
        return 1;
    double whole = trunc(d);
    int64_t w = (int64_t)whole;
    if (i != w)
        return i < w ? -1 : 1;
    return d > whole ? -1 : d < whole ? 1 : 0;
}

static int order_numbers(struct value a, struct value b)
{
    if (a.kind == V_FLOAT && b.kind == V_FLOAT)
        return isnan(a.u.f) || isnan(b.u.f) ? 2 : a.u.f < b.u.f ? -1 : a.u.f > b.u.f;
    if (a.kind == V_FLOAT) {
        int order = order_int_double(to_int(b), a.u.f);
        return order == 2 ? 2 : -order;
    }
    if (b.kind == V_FLOAT)
        return order_int_double(to_int(a), b.u.f);
    return to_int(a) < to_int(b) ? -1 : to_int(a) > to_int(b);
}

/* strtod reads the locale's decimal point; templates and JSON have a dot. */
double parse_double(const char *s, size_t n, bool *ok)
{
    char text[400], *end;
    const char *point = localeconv()->decimal_point;
    size_t len = 0;
    *ok = false;
    for (size_t i = 0; i < n; i++) {
        if (len + 8 > sizeof text)
            return 0;
        if (s[i] == '_' && i && i + 1 < n && s[i - 1] >= '0' && s[i - 1] <= '9' && s[i + 1] >= '0' && s[i + 1] <= '9')
            continue;
        if (!strchr("0123456789+-.eEinfatyINFATY", s[i]) || !s[i])
            return 0;
        if (s[i] == '.')
            len += (size_t)snprintf(text + len, 8, "%s", point);
        else
            text[len++] = s[i];
    }
    text[len] = 0;
    double d = strtod(text, &end);
    *ok = len && *end == 0;
    return d;
}

/* The shortest digits that give the same double again, laid out as Python lays them out. */
void float_repr(double f, char out[32])
{
    char digits[40] = "", *exp_mark;
    int n_digits = 17, exponent = 0, len = 0;
    if (!isfinite(f)) {
        strcpy(out, isnan(f) ? "nan" : f > 0 ? "inf" : "-inf");
        return;
    }
    for (int precision = 0; precision < 17; precision++) {
        char text[40];
        snprintf(text, sizeof text, "%.*e", precision, f);
        if (strtod(text, NULL) == f || precision == 16) {
            exp_mark = strchr(text, 'e');
            exponent = atoi(exp_mark + 1);
            n_digits = 0;
            for (char *p = text; p < exp_mark; p++)
                if (*p >= '0' && *p <= '9')
                    digits[n_digits++] = *p;
            break;
        }
    }
    while (n_digits > 1 && digits[n_digits - 1] == '0')
        n_digits--;
    digits[n_digits] = 0;
    const char *sign = signbit(f) ? "-" : "";
    if (exponent < -4 || exponent >= 16) {
        len = snprintf(out, 32, "%s%c%s%s", sign, digits[0], n_digits > 1 ? "." : "", digits + 1);
        snprintf(out + len, 32 - (size_t)len, "e%c%02d", exponent < 0 ? '-' : '+', abs(exponent));
    } else if (exponent < 0) {
        snprintf(out, 32, "%s0.%.*s%s", sign, -exponent - 1, "0000", digits);
    } else if (n_digits <= exponent + 1) {
        snprintf(out, 32, "%s%s%.*s.0", sign, digits, exponent + 1 - n_digits, "00000000000000000");
    } else {
        snprintf(out, 32, "%s%.*s.%s", sign, exponent + 1, digits, digits + exponent + 1);
    }
}

/* ---- equality and order ---- */

static bool equal_level(struct interp *in, struct value a, struct value b, unsigned level, bool *out);

static bool seqs_equal(struct interp *in, const struct seq *a, const struct seq *b, unsigned level, bool *out)
{
    *out = a == b;
    if (a == b || a->flavour != b->flavour || a->flavour > SEQ_RANGE || a->n != b->n)
        return true;
    *out = true;
    for (size_t i = 0; i < a->n && *out; i++)
        if (!equal_level(in, a->v[i], b->v[i], level + 1, out))
            return false;
    return true;
}

static bool dicts_equal(struct interp *in, const struct dict *a, const struct dict *b, unsigned level, bool *out)
{
    *out = a == b;
    if (a == b || a->n != b->n)
        return true;
    *out = true;
    for (size_t i = 0; i < a->n && *out; i++) {
        struct pair *p;
        if (!dict_get(in, b, a->pairs[i].key, &p))
            return false;
        *out = p != NULL;
        if (p && !equal_level(in, a->pairs[i].val, p->val, level + 1, out))
            return false;
    }
    return true;
}

static bool equal_level(struct interp *in, struct value a, struct value b, unsigned level, bool *out)
{
    if (!spend(in, 1))
        return false;
    if (level > LIMIT_TEMPLATE_NESTING)
        return too_deep(in);
    *out = false;
    if (is_number(a) && is_number(b)) {
        *out = order_numbers(a, b) == 0;
        return true;
    }
    if (a.kind != b.kind)
        return true;
    switch (a.kind) {
    case V_UNDEFINED:
    case V_NONE: *out = true; return true;
    case V_STRING: *out = string_equal(a.u.s, b.u.s); return spend(in, *out ? a.u.s->n / 256 : 0);
    case V_SEQ: return seqs_equal(in, a.u.seq, b.u.seq, level, out);
    case V_DICT: return dicts_equal(in, a.u.dict, b.u.dict, level, out);
    case V_NAMESPACE: *out = a.u.dict == b.u.dict; return true;
    case V_MACRO: *out = a.u.macro == b.u.macro; return true;
    case V_FUNC: *out = a.u.fn == b.u.fn; return true;
    case V_LOOP: *out = a.u.loop == b.u.loop; return true;
    default: return true;
    }
}

bool values_equal(struct interp *in, struct value a, struct value b, bool *out)
{
    return equal_level(in, a, b, 0, out);
}

static bool order_level(struct interp *in, struct value a, struct value b, const char *op, unsigned level, int *out)
{
    if (!spend(in, 1))
        return false;
    if (level > LIMIT_TEMPLATE_NESTING)
        return too_deep(in);
    if (is_number(a) && is_number(b)) {
        *out = order_numbers(a, b);
        return true;
    }
    if (a.kind == V_STRING && b.kind == V_STRING) { /* UTF-8 sorts as its code points do */
        size_t n = MIN(a.u.s->n, b.u.s->n);
        int c = n ? memcmp(a.u.s->p, b.u.s->p, n) : 0;
        *out = c ? (c < 0 ? -1 : 1) : a.u.s->n < b.u.s->n ? -1 : a.u.s->n > b.u.s->n;
        return spend(in, n / 256);
    }
    if (a.kind == V_SEQ && b.kind == V_SEQ && a.u.seq->flavour == b.u.seq->flavour && a.u.seq->flavour <= SEQ_TUPLE) {
        const struct seq *p = a.u.seq, *q = b.u.seq;
        for (size_t i = 0; i < p->n && i < q->n; i++) {
            bool same;
            if (!equal_level(in, p->v[i], q->v[i], level + 1, &same))
                return false;
            if (!same)
                return order_level(in, p->v[i], q->v[i], op, level + 1, out);
        }
        *out = p->n < q->n ? -1 : p->n > q->n;
        return true;
    }
    if (a.kind == V_UNDEFINED || b.kind == V_UNDEFINED) {
        const struct string *name = a.kind == V_UNDEFINED ? a.u.name : b.u.name;
        return interp_fail(in, HEARTH_EINVAL, "'%.*s' is undefined", name ? (int)MIN(name->n, 100u) : 0, name ? name->p : "");
    }
    return interp_fail(in, HEARTH_EINVAL, "'%s' not supported between instances of '%s' and '%s'", op, type_name(a), type_name(b));
}

bool values_order(struct interp *in, struct value a, struct value b, const char *op, int *out)
{
    return order_level(in, a, b, op, 0, out);
}

bool value_contains(struct interp *in, struct value container, struct value item, bool *out)
{
    struct value *items;
    struct pair *p;
    size_t n;
    *out = false;
    if (container.kind == V_STRING) {
        if (item.kind != V_STRING)
            return interp_fail(in, HEARTH_EINVAL, "'in <string>' requires string as left operand, not %s", type_name(item));
        const struct string *s = container.u.s, *what = item.u.s;
        *out = find_bytes(s->p, s->n, what->p, what->n, 0) != SIZE_MAX;
        return spend(in, s->n / 64);
    }
    if (container.kind == V_DICT) {
        if (!dict_get(in, container.u.dict, item, &p))
            return false;
        *out = p != NULL;
        return true;
    }
    if (container.kind != V_SEQ && container.kind != V_UNDEFINED)
        return interp_fail(in, HEARTH_EINVAL, "argument of type '%s' is not iterable", type_name(container));
    if (!value_items(in, container, &items, &n))
        return false;
    for (size_t i = 0; i < n && !*out; i++)
        if (!values_equal(in, items[i], item, out))
            return false;
    return true;
}

/* ---- sequences ---- */

bool seq_new(struct interp *in, enum seq_flavour flavour, size_t cap, struct seq **out)
{
    struct seq *q = ARENA_NEW(&in->arena, struct seq, 1);
    if (!q || (cap && !(q->v = ARENA_NEW(&in->arena, struct value, cap))))
        return interp_memory(in);
    q->flavour = (uint8_t)flavour;
    q->cap = cap;
    *out = q;
    return true;
}

bool seq_push(struct interp *in, struct seq *q, struct value v)
{
    if (q->n == q->cap) {
        size_t cap = q->cap ? q->cap * 2 : 4;
        struct value *wider = ARENA_NEW(&in->arena, struct value, cap);
        if (!wider)
            return interp_memory(in);
        if (q->n)
            memcpy(wider, q->v, q->n * sizeof *wider);
        q->v = wider;
        q->cap = cap;
    }
    q->v[q->n++] = v;
    return spend(in, 1);
}

bool value_length(struct interp *in, struct value v, size_t *out)
{
    switch (v.kind) {
    case V_UNDEFINED: *out = 0; return true;
    case V_STRING: *out = string_chars(v.u.s); return spend(in, v.u.s->n / 256);
    case V_DICT: *out = v.u.dict->n; return true;
    case V_LOOP: *out = v.u.loop->n; return true;
    case V_SEQ:
        if (v.u.seq->flavour != SEQ_ITER) {
            *out = v.u.seq->n;
            return true;
        }
    }
    return interp_fail(in, HEARTH_EINVAL, "object of type '%s' has no len()", type_name(v));
}

bool value_items(struct interp *in, struct value v, struct value **items, size_t *n)
{
    struct seq *q;
    switch (v.kind) {
    case V_UNDEFINED: *items = NULL; *n = 0; return true;
    case V_SEQ:
        q = v.u.seq;
        *items = q->v ? q->v + q->pos : NULL;
        *n = q->n - q->pos;
        if (q->flavour == SEQ_ITER)
            q->pos = q->n;
        return true;
    case V_DICT:
        if (!seq_new(in, SEQ_LIST, v.u.dict->n, &q))
            return false;
        for (size_t i = 0; i < v.u.dict->n; i++)
            if (!seq_push(in, q, v.u.dict->pairs[i].key))
                return false;
        break;
    case V_STRING:
        if (!seq_new(in, SEQ_LIST, string_chars(v.u.s), &q))
            return false;
        for (size_t at = 0; at < v.u.s->n;) {
            const struct string *c;
            size_t begin = at;
            utf8_next(v.u.s->p, v.u.s->n, &at);
            if (!string_part(in, v.u.s, begin, at, &c) || !seq_push(in, q, v_string(c)))
                return false;
        }
        break;
    default: return interp_fail(in, HEARTH_EINVAL, "'%s' object is not iterable", type_name(v));
    }
    *items = q->v;
    *n = q->n;
    return true;
}

/* ---- dicts ---- */

static bool hash_level(struct interp *in, struct value v, unsigned level, uint64_t *out)
{
    uint64_t h = 14695981039346656037u;
    if (!spend(in, 1))
        return false;
    if (level > LIMIT_TEMPLATE_NESTING)
        return too_deep(in);
    switch (v.kind) {
    case V_STRING:
        for (size_t i = 0; i < v.u.s->n; i++)
            h = (h ^ (unsigned char)v.u.s->p[i]) * 1099511628211u;
        *out = h;
        return spend(in, v.u.s->n / 64);
    case V_BOOL:
    case V_INT: *out = ((uint64_t)to_int(v) + 1) * 0x9e3779b97f4a7c15u; return true;
    case V_FLOAT: {
        union { double d; uint64_t u; } bits = { v.u.f };
        bool whole = v.u.f >= -9.2e18 && v.u.f <= 9.2e18 && (double)(int64_t)v.u.f == v.u.f;
        *out = ((whole ? (uint64_t)(int64_t)v.u.f : bits.u) + 1) * 0x9e3779b97f4a7c15u;
        return true;
    }
    case V_NONE: *out = 77; return true;
    case V_UNDEFINED: *out = 78; return true;
    case V_SEQ:
        if (v.u.seq->flavour != SEQ_TUPLE)
            break;
        for (size_t i = 0; i < v.u.seq->n; i++) {
            uint64_t item;
            if (!hash_level(in, v.u.seq->v[i], level + 1, &item))
                return false;
            h = (h ^ item) * 1099511628211u;
        }
        *out = h;
        return true;
    default: break;
    }
    return interp_fail(in, HEARTH_EINVAL, "unhashable type: '%s'", type_name(v));
}

bool dict_new(struct interp *in, struct dict **out)
{
    *out = ARENA_NEW(&in->arena, struct dict, 1);
    return *out || interp_memory(in);
}

static void index_put(struct dict *d, size_t i)
{
    size_t at = (size_t)d->pairs[i].hash & (d->n_index - 1);
    while (d->index[at])
        at = (at + 1) & (d->n_index - 1);
    d->index[at] = (uint32_t)i + 1;
}

static bool dict_find(struct interp *in, const struct dict *d, struct value key, uint64_t hash, struct pair **out)
{
    bool same;
    *out = NULL;
    if (!d->index) {
        for (size_t i = 0; i < d->n; i++) {
            if (d->pairs[i].hash != hash)
                continue;
            if (!values_equal(in, d->pairs[i].key, key, &same))
                return false;
            if (same) {
                *out = &d->pairs[i];
                return true;
            }
        }
        return true;
    }
    for (size_t at = (size_t)hash & (d->n_index - 1); d->index[at]; at = (at + 1) & (d->n_index - 1)) {
        struct pair *p = &d->pairs[d->index[at] - 1];
        if (!spend(in, 1))
            return false;
        if (p->hash != hash)
            continue;
        if (!values_equal(in, p->key, key, &same))
            return false;
        if (same) {
            *out = p;
            return true;
        }
    }
    return true;
}

static bool dict_reindex(struct interp *in, struct dict *d, size_t n_index)
{
    d->index = ARENA_NEW(&in->arena, uint32_t, n_index);
    if (!d->index)
        return interp_memory(in);
    d->n_index = n_index;
    for (size_t i = 0; i < d->n; i++)
        index_put(d, i);
    return true;
}

static bool dict_grow(struct interp *in, struct dict *d)
{
    size_t cap = d->cap ? d->cap * 2 : 4;
    struct pair *wider = ARENA_NEW(&in->arena, struct pair, cap);
    if (!wider)
        return interp_memory(in);
    if (d->n)
        memcpy(wider, d->pairs, d->n * sizeof *wider);
    d->pairs = wider;
    d->cap = cap;
    return cap < DICT_INDEX || dict_reindex(in, d, cap * 2);
}

bool dict_set(struct interp *in, struct dict *d, struct value key, struct value val)
{
    uint64_t hash;
    struct pair *p;
    if (!hash_level(in, key, 0, &hash) || !dict_find(in, d, key, hash, &p))
        return false;
    if (p) {
        p->val = val;
        return true;
    }
    if (d->n == d->cap && !dict_grow(in, d))
        return false;
    d->pairs[d->n++] = (struct pair){ key, val, hash };
    if (d->index)
        index_put(d, d->n - 1);
    return true;
}

bool dict_get(struct interp *in, const struct dict *d, struct value key, struct pair **out)
{
    uint64_t hash;
    return hash_level(in, key, 0, &hash) && dict_find(in, d, key, hash, out);
}

bool dict_getz(struct interp *in, const struct dict *d, struct str key, struct pair **out)
{
    struct string s = { .p = key.p, .n = key.n, .n_chars = UINT32_MAX };
    return dict_get(in, d, v_string(&s), out);
}

bool dict_remove(struct interp *in, struct dict *d, struct value key, struct value *out, bool *found)
{
    struct pair *p;
    if (!dict_get(in, d, key, &p))
        return false;
    *found = p != NULL;
    if (!p)
        return true;
    *out = p->val;
    size_t i = (size_t)(p - d->pairs);
    memmove(p, p + 1, (d->n - i - 1) * sizeof *p);
    d->n--;
    return spend(in, d->n / 8) && (!d->index || dict_reindex(in, d, d->n_index));
}

/* ---- lookup ---- */

static bool bound_method(struct interp *in, struct value obj, const struct builtin *fn, struct value *out)
{
    struct method *m = ARENA_NEW(&in->arena, struct method, 1);
    if (!m)
        return interp_memory(in);
    *m = (struct method){ obj, fn };
    *out = (struct value){ .kind = V_METHOD, .u.method = m };
    return true;
}

static bool undefined_object(struct interp *in, struct value obj)
{
    return interp_fail(in, HEARTH_EINVAL, "'%.*s' is undefined", obj.u.name ? (int)MIN(obj.u.name->n, 100u) : 0,
                       obj.u.name ? obj.u.name->p : "");
}

/* The methods and loop attributes that a name stands for; *found false when none. */
static bool own_attribute(struct interp *in, struct value obj, const struct string *name, struct value *out, bool *found)
{
    const struct builtin *fn;
    struct pair *p;
    *found = true;
    if (obj.kind == V_LOOP && loop_attribute(in, obj.u.loop, string_str(name), out))
        return true;
    if (obj.kind == V_NAMESPACE) {
        if (!dict_getz(in, obj.u.dict, string_str(name), &p))
            return false;
        *found = p != NULL;
        if (p)
            *out = p->val;
        return true;
    }
    fn = method_find(obj, string_str(name));
    *found = fn != NULL;
    return !fn || bound_method(in, obj, fn, out);
}

/* Python's obj[key]; *found false where Python would raise a lookup or type error. */
static bool own_item(struct interp *in, struct value obj, struct value key, struct value *out, bool *found)
{
    struct pair *p;
    *found = false;
    if (obj.kind == V_DICT) {
        if (key.kind == V_SEQ && key.u.seq->flavour != SEQ_TUPLE)
            return true;
        if (key.kind == V_DICT || !dict_get(in, obj.u.dict, key, &p))
            return key.kind == V_DICT;
        *found = p != NULL;
        if (p)
            *out = p->val;
        return true;
    }
    if (key.kind != V_INT && key.kind != V_BOOL)
        return true;
    int64_t i = to_int(key), n;
    if (obj.kind == V_SEQ && obj.u.seq->flavour <= SEQ_RANGE) {
        n = (int64_t)obj.u.seq->n;
        i += i < 0 ? n : 0;
        *found = i >= 0 && i < n;
        if (*found)
            *out = obj.u.seq->v[i];
    } else if (obj.kind == V_STRING) {
        const struct string *s = obj.u.s, *part;
        n = (int64_t)string_chars(s);
        i += i < 0 ? n : 0;
        if (i < 0 || i >= n)
            return true;
        size_t begin = string_offset(s, (size_t)i), end = begin;
        utf8_next(s->p, s->n, &end);
        if (!spend(in, (size_t)n == s->n ? 0 : s->n / 32) || !string_part(in, s, begin, end, &part))
            return false;
        *found = true;
        *out = v_string(part);
    }
    return true;
}

bool value_attribute(struct interp *in, struct value obj, const struct string *name, struct value *out)
{
    bool found;
    if (obj.kind == V_UNDEFINED)
        return undefined_object(in, obj);
    if (!own_attribute(in, obj, name, out, &found))
        return false;
    if (!found && !own_item(in, obj, v_string(name), out, &found))
        return false;
    if (!found)
        *out = v_undefined(name);
    return true;
}

bool value_item(struct interp *in, struct value obj, struct value key, struct value *out)
{
    bool found;
    if (obj.kind == V_UNDEFINED)
        return undefined_object(in, obj);
    if (!own_item(in, obj, key, out, &found))
        return false;
    if (!found && key.kind == V_STRING && !own_attribute(in, obj, key.u.s, out, &found))
        return false;
    if (!found)
        *out = v_undefined(key.kind == V_STRING ? key.u.s : NULL);
    return true;
}

static bool slice_bound(struct interp *in, struct value v, int64_t n, int64_t lo, int64_t hi, int64_t missing, int64_t *out)
{
    if (v.kind == V_NONE) {
        *out = missing;
        return true;
    }
    if (v.kind != V_INT && v.kind != V_BOOL)
        return interp_fail(in, HEARTH_EINVAL, "slice indices must be integers or None, not %s", type_name(v));
    int64_t i = to_int(v);
    i = i < 0 ? (i < -n ? lo : i + n) : i;
    *out = MAX(lo, MIN(i, hi));
    return true;
}

static bool slice_string(struct interp *in, const struct string *s, int64_t start, int64_t stop, int64_t step, size_t n_out,
                         struct value *out)
{
    const struct string *part;
    struct sbuf *b;
    if (!spend(in, s->n / 64 + (step == 1 ? 0 : n_out / 8)))
        return false;
    if (step == 1 || !n_out) {
        size_t begin = n_out ? string_offset(s, (size_t)start) : 0;
        size_t end = n_out ? string_offset(s, (size_t)stop) : 0;
        if (!string_part(in, s, begin, end, &part))
            return false;
        *out = v_string(part);
        return true;
    }
    /* Offsets of all characters once: a step over UTF-8 cannot be taken backwards cheaply. */
    uint32_t *at = ARENA_NEW(&in->arena, uint32_t, string_chars(s) + 1);
    if (!at)
        return interp_memory(in);
    if (!(b = sb_new(in)))
        return false;
    size_t n = 0;
    for (size_t i = 0; i < s->n; n++) {
        at[n] = (uint32_t)i;
        utf8_next(s->p, s->n, &i);
    }
    at[n] = (uint32_t)s->n;
    for (size_t k = 0; k < n_out; k++) {
        size_t i = (size_t)(start + (int64_t)k * step);
        if (!sb_put(in, b, s->p + at[i], at[i + 1] - at[i], s->mask ? s->mask + at[i] : NULL, s->tainted))
            return false;
    }
    if (!sb_string(in, b, &part))
        return false;
    *out = v_string(part);
    return true;
}

bool value_slice(struct interp *in, struct value obj, struct value vstart, struct value vstop, struct value vstep,
                 struct value *out)
{
    int64_t n, start, stop, step = 1, n_out = 0;
    struct seq *q;
    if (obj.kind == V_UNDEFINED)
        return undefined_object(in, obj);
    if (obj.kind != V_STRING && (obj.kind != V_SEQ || obj.u.seq->flavour > SEQ_RANGE)) /* unlike x[1], not Undefined */
        return interp_fail(in, HEARTH_EINVAL, "'%s' object cannot be sliced", type_name(obj));
    n = obj.kind == V_STRING ? (int64_t)string_chars(obj.u.s) : (int64_t)obj.u.seq->n;
    if (vstep.kind != V_NONE) {
        if (vstep.kind != V_INT && vstep.kind != V_BOOL)
            return interp_fail(in, HEARTH_EINVAL, "slice indices must be integers or None, not %s", type_name(vstep));
        step = MAX(MIN(to_int(vstep), INT32_MAX), -INT32_MAX);
        if (!step)
            return interp_fail(in, HEARTH_EINVAL, "slice step cannot be zero");
    }
    int64_t lo = step < 0 ? -1 : 0, hi = step < 0 ? n - 1 : n;
    if (!slice_bound(in, vstart, n, lo, hi, step < 0 ? hi : lo, &start) || !slice_bound(in, vstop, n, lo, hi, step < 0 ? lo : hi, &stop))
        return false;
    if (step > 0 && stop > start)
        n_out = (stop - start + step - 1) / step;
    if (step < 0 && stop < start)
        n_out = (start - stop - step - 1) / -step;
    if (obj.kind == V_STRING)
        return slice_string(in, obj.u.s, start, stop, step, (size_t)n_out, out);
    if (!seq_new(in, obj.u.seq->flavour == SEQ_TUPLE ? SEQ_TUPLE : SEQ_LIST, (size_t)n_out, &q) || !spend(in, (uint64_t)n_out / 16))
        return false;
    for (int64_t k = 0; k < n_out; k++)
        q->v[q->n++] = obj.u.seq->v[start + k * step];
    *out = v_seq(q);
    return true;
}

/* ---- printing ---- */

static bool is_printable(uint32_t c)
{
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP: return false;
    case UTF8PROC_CATEGORY_ZS: return c == ' ';
    default: return true;
    }
}

/* Single quotes, unless the text has some and no double ones. */
static bool repr_string(struct interp *in, struct sbuf *b, const struct string *s)
{
    bool singles = s->n && memchr(s->p, '\'', s->n), doubles = s->n && memchr(s->p, '"', s->n);
    char quote = singles && !doubles ? '"' : '\'';
    char quotes[2] = { quote, 0 };
    size_t plain = 0, at = 0;
    if (!sb_lit(in, b, quotes) || !spend(in, s->n / 16))
        return false;
    while (at < s->n) {
        size_t begin = at;
        uint32_t c = utf8_next(s->p, s->n, &at);
        char text[16];
        if (c == (uint32_t)quote || c == '\\')
            snprintf(text, sizeof text, "\\%c", (char)c);
        else if (c == '\n' || c == '\r' || c == '\t')
            snprintf(text, sizeof text, "\\%c", c == '\n' ? 'n' : c == '\r' ? 'r' : 't');
        else if ((c >= 0x20 && c < 0x7f) || (c > 0x7f && is_printable(c)))
            continue;
        else
            snprintf(text, sizeof text, c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x", (unsigned)c);
        if (!sb_put(in, b, s->p + plain, begin - plain, s->mask ? s->mask + plain : NULL, s->tainted) ||
            !sb_put(in, b, text, strlen(text), NULL, string_taint_at(s, begin)))
            return false;
        plain = at;
    }
    return sb_put(in, b, s->p + plain, s->n - plain, s->mask ? s->mask + plain : NULL, s->tainted) && sb_lit(in, b, quotes);
}

static bool repr_dict(struct interp *in, struct sbuf *b, const struct dict *d, unsigned level)
{
    if (!sb_lit(in, b, "{"))
        return false;
    for (size_t i = 0; i < d->n; i++)
        if ((i && !sb_lit(in, b, ", ")) || !value_repr(in, b, d->pairs[i].key, level + 1) || !sb_lit(in, b, ": ") ||
            !value_repr(in, b, d->pairs[i].val, level + 1))
            return false;
    return sb_lit(in, b, "}");
}

static bool repr_seq(struct interp *in, struct sbuf *b, const struct seq *q, unsigned level)
{
    static const char *const open[] = { "[", "(", "range(", "dict_keys([", "dict_values([", "dict_items([" };
    static const char *const close[] = { "]", ")", ")", "])", "])", "])" };
    char text[80];
    if (q->flavour == SEQ_ITER)
        return sb_lit(in, b, "<generator object>");
    if (q->flavour == SEQ_RANGE) {
        snprintf(text, sizeof text, q->range[2] == 1 ? "range(%lld, %lld)" : "range(%lld, %lld, %lld)", (long long)q->range[0],
                 (long long)q->range[1], (long long)q->range[2]);
        return sb_lit(in, b, text);
    }
    if (!sb_lit(in, b, open[q->flavour]))
        return false;
    for (size_t i = 0; i < q->n; i++)
        if ((i && !sb_lit(in, b, ", ")) || !value_repr(in, b, q->v[i], level + 1))
            return false;
    return (q->flavour != SEQ_TUPLE || q->n != 1 || sb_lit(in, b, ",")) && sb_lit(in, b, close[q->flavour]);
}

bool value_repr(struct interp *in, struct sbuf *b, struct value v, unsigned level)
{
    char text[40];
    if (!spend(in, 1))
        return false;
    if (level > LIMIT_TEMPLATE_NESTING)
        return too_deep(in);
    switch (v.kind) {
    case V_UNDEFINED: return sb_lit(in, b, "Undefined");
    case V_NONE: return sb_lit(in, b, "None");
    case V_BOOL: return sb_lit(in, b, v.u.b ? "True" : "False");
    case V_INT: snprintf(text, sizeof text, "%lld", (long long)v.u.i); return sb_lit(in, b, text);
    case V_FLOAT: float_repr(v.u.f, text); return sb_lit(in, b, text);
    case V_STRING: return repr_string(in, b, v.u.s);
    case V_SEQ: return repr_seq(in, b, v.u.seq, level);
    case V_DICT: return repr_dict(in, b, v.u.dict, level);
    case V_NAMESPACE: return sb_lit(in, b, "<Namespace ") && repr_dict(in, b, v.u.dict, level) && sb_lit(in, b, ">");
    case V_MACRO:
        return sb_lit(in, b, "<Macro '") &&
               (!v.u.macro->def->sym || sb_put(in, b, v.u.macro->def->sym->name.p, v.u.macro->def->sym->name.n, NULL, false)) &&
               sb_lit(in, b, "'>");
    case V_LOOP:
        snprintf(text, sizeof text, "<LoopContext %zu/%zu>", v.u.loop->i + 1, v.u.loop->n);
        return sb_lit(in, b, text);
    default: return sb_lit(in, b, "<function>");
    }
}

bool value_str(struct interp *in, struct value v, const struct string **out)
{
    struct sbuf *b;
    if (v.kind == V_STRING) {
        *out = v.u.s;
        return true;
    }
    if (v.kind == V_UNDEFINED)
        return string_new(in, "", 0, false, out);
    b = sb_new(in);
    return b && value_repr(in, b, v, 0) && sb_string(in, b, out);
}

/* ---- from JSON ---- */

bool value_from_json(struct interp *in, const json_t *j, bool tainted, unsigned level, struct value *out)
{
    const struct string *s;
    if (level > LIMIT_JSON_DEPTH)
        return too_deep(in);
    switch (json_typeof(j)) {
    case JSON_STRING:
        if (!string_new(in, json_string_value(j), json_string_length(j), tainted, &s))
            return false;
        *out = v_string(s);
        return true;
    case JSON_INTEGER: *out = v_int(json_integer_value(j)); return true;
    case JSON_REAL: *out = v_float(json_real_value(j)); return true;
    case JSON_TRUE:
    case JSON_FALSE: *out = v_bool(json_is_true(j)); return true;
    case JSON_NULL: *out = v_none(); return true;
    case JSON_ARRAY: {
        struct seq *q;
        if (!seq_new(in, SEQ_LIST, json_array_size(j), &q))
            return false;
        for (size_t i = 0; i < json_array_size(j); i++, q->n++)
            if (!value_from_json(in, json_array_get(j, i), tainted, level + 1, &q->v[i]))
                return false;
        *out = v_seq(q);
        return true;
    }
    default: break;
    }
    struct dict *d;
    if (!dict_new(in, &d))
        return false;
    /* jansson iterates in the order of the text; its iterators take a non-const object but change nothing. */
    for (void *it = json_object_iter((json_t *)j); it; it = json_object_iter_next((json_t *)j, it)) {
        const char *key = json_object_iter_key(it);
        struct value val;
        if (!string_new(in, key, strlen(key), tainted, &s) ||
            !value_from_json(in, json_object_iter_value(it), tainted, level + 1, &val) || !dict_set(in, d, v_string(s), val))
            return false;
    }
    *out = (struct value){ .kind = V_DICT, .u.dict = d };
    return true;
}

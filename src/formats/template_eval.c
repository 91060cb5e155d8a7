/* template_eval.c: runs a compiled template.
 *
 * Expressions give a struct value, statements write to in->out, the innermost sink: the output itself,
 * or a buffer while a macro, a set block or a filter block is being captured. Scopes are a chain; a
 * loop body, macro, with, set block, filter block and generation block each open one, `if` does not, so
 * {% set %} inside a loop is gone after the iteration (namespace() is the way out), as in Jinja. A macro
 * remembers the scope it was defined in.
 *
 * Each node costs one step; enter() bounds how deep expressions, statements, macros and loops nest while
 * running. Everything a render makes lies in its arena and goes with it. A compiled template is never
 * written to, so any number of threads may render it.
 *
 * Differences from Python that remain: integers stop at 64 bits (an error), generators are evaluated when
 * they are made, and a loop sees the list as it was when it began.
 */
#include "formats/template.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum flow { FLOW_NEXT, FLOW_BREAK, FLOW_CONTINUE };

static bool eval(struct interp *in, const struct node *n, struct scope *s, struct value *out);
static bool exec_list(struct interp *in, const struct node *n, struct scope *s, enum flow *flow);

bool interp_fail(struct interp *in, enum hearth_status st, const char *fmt, ...)
{
    char text[400];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    return template_fail(in->e, in->t->name, in->line, st, "%s", text);
}

bool interp_memory(struct interp *in)
{
    return interp_fail(in, HEARTH_ELIMIT, "rendering needs more than %zu bytes of memory", in->arena.limit_bytes);
}

bool spend(struct interp *in, uint64_t steps)
{
    if (steps > in->steps_left)
        return interp_fail(in, HEARTH_ELIMIT, "rendering takes more than %d steps", LIMIT_TEMPLATE_STEPS);
    in->steps_left -= steps;
    return true;
}

static bool enter(struct interp *in)
{
    if (in->depth >= LIMIT_TEMPLATE_EVAL_DEPTH)
        return interp_fail(in, HEARTH_ELIMIT, "macros, loops and expressions nest deeper than %d", LIMIT_TEMPLATE_EVAL_DEPTH);
    in->depth++;
    return spend(in, 1);
}

/* ---- scopes ---- */

static bool scope_new(struct interp *in, struct scope *parent, struct scope **out)
{
    *out = ARENA_NEW(&in->arena, struct scope, 1);
    if (!*out)
        return interp_memory(in);
    (*out)->parent = parent;
    return true;
}

static bool scope_set(struct interp *in, struct scope *s, const struct symbol *sym, struct value v)
{
    for (size_t i = 0; i < s->n; i++) {
        if (s->v[i].sym == sym) {
            s->v[i].v = v;
            return spend(in, i / 16);
        }
    }
    if (s->n == s->cap) {
        size_t cap = s->cap ? s->cap * 2 : 4;
        struct binding *wider = ARENA_NEW(&in->arena, struct binding, cap);
        if (!wider)
            return interp_memory(in);
        if (s->n)
            memcpy(wider, s->v, s->n * sizeof *wider);
        s->v = wider;
        s->cap = cap;
    }
    s->v[s->n++] = (struct binding){ sym, v };
    return spend(in, s->n / 16);
}

static bool lookup(struct interp *in, const struct scope *s, const struct symbol *sym, const struct string *name, struct value *out)
{
    size_t n_seen = 0;
    for (; s; s = s->parent) {
        for (size_t i = 0; i < s->n; i++) {
            if (s->v[i].sym == sym) {
                *out = s->v[i].v;
                return spend(in, (n_seen + i) / 16);
            }
        }
        n_seen += s->n + 1;
    }
    *out = sym->global ? (struct value){ .kind = V_FUNC, .u.fn = sym->global } : v_undefined(name);
    return spend(in, n_seen / 16);
}

static bool assign(struct interp *in, const struct node *target, struct scope *s, struct value v)
{
    struct value *items, ns;
    size_t n, n_targets = 0;
    if (target->kind == N_NAME)
        return scope_set(in, s, target->sym, v);
    if (target->kind == N_NSREF) {
        if (!lookup(in, s, target->sym, NULL, &ns))
            return false;
        if (ns.kind != V_NAMESPACE)
            return interp_fail(in, HEARTH_EINVAL, "cannot assign attribute on non-namespace object");
        return dict_set(in, ns.u.dict, target->v, v);
    }
    for (const struct node *t = target->a; t; t = t->next)
        n_targets++;
    if (!enter(in) || !value_items(in, v, &items, &n))
        return false;
    if (n != n_targets)
        return interp_fail(in, HEARTH_EINVAL, n < n_targets ? "not enough values to unpack (expected %zu, got %zu)"
                                                            : "too many values to unpack (expected %zu, got %zu)", n_targets, n);
    for (const struct node *t = target->a; t; t = t->next)
        if (!assign(in, t, s, *items++))
            return false;
    in->depth--;
    return true;
}

/* ---- operators ---- */

static bool operand_error(struct interp *in, const char *op, struct value a, struct value b)
{
    struct value undef = a.kind == V_UNDEFINED ? a : b;
    if (undef.kind == V_UNDEFINED)
        return interp_fail(in, HEARTH_EINVAL, "'%.*s' is undefined", undef.u.name ? (int)MIN(undef.u.name->n, 100u) : 0,
                           undef.u.name ? undef.u.name->p : "");
    if (*op == '+' && a.kind == V_STRING)
        return interp_fail(in, HEARTH_EINVAL, "can only concatenate str (not \"%s\") to str", type_name(b));
    return interp_fail(in, HEARTH_EINVAL, "unsupported operand type(s) for %s: '%s' and '%s'", op, type_name(a), type_name(b));
}

static bool overflow(struct interp *in)
{
    return interp_fail(in, HEARTH_ELIMIT, "an integer is beyond 64 bits");
}

static bool zero_division(struct interp *in)
{
    return interp_fail(in, HEARTH_EINVAL, "division by zero");
}

static bool int_pow(struct interp *in, int64_t base, int64_t exponent, struct value *out)
{
    int64_t result = 1;
    if (exponent < 0) {
        if (!base)
            return zero_division(in);
        *out = v_float(pow((double)base, (double)exponent));
        return true;
    }
    if (base == 0 || base == 1 || base == -1) {
        *out = v_int(base == -1 && exponent % 2 == 0 ? 1 : exponent ? base : 1);
        return true;
    }
    while (exponent--)
        if (__builtin_mul_overflow(result, base, &result)) /* at most 63 rounds */
            return overflow(in);
    *out = v_int(result);
    return true;
}

static bool int_arith(struct interp *in, enum op op, int64_t a, int64_t b, struct value *out)
{
    int64_t r = 0;
    bool bad = false;
    switch (op) {
    case OP_ADD: bad = __builtin_add_overflow(a, b, &r); break;
    case OP_SUB: bad = __builtin_sub_overflow(a, b, &r); break;
    case OP_MUL: bad = __builtin_mul_overflow(a, b, &r); break;
    case OP_POW: return int_pow(in, a, b, out);
    default:
        if (!b)
            return zero_division(in);
        if (op == OP_DIV) {
            *out = v_float((double)a / (double)b);
            return true;
        }
        if (b == -1) { /* INT64_MIN / -1 traps */
            bad = __builtin_sub_overflow(0, a, &r);
            r = op == OP_MOD ? 0 : r;
            bad = bad && op != OP_MOD;
        } else {
            r = op == OP_MOD ? a % b : a / b;
            if (a % b != 0 && (a < 0) != (b < 0))
                r += op == OP_MOD ? b : -1;
        }
    }
    *out = v_int(r);
    return !bad || overflow(in);
}

/* Python rounds the quotient down and gives the remainder the divisor's sign. */
static bool float_arith(struct interp *in, enum op op, double a, double b, struct value *out)
{
    double mod, div;
    switch (op) {
    case OP_ADD: *out = v_float(a + b); return true;
    case OP_SUB: *out = v_float(a - b); return true;
    case OP_MUL: *out = v_float(a * b); return true;
    case OP_POW:
        if (a == 0 && b < 0)
            return zero_division(in);
        if (a < 0 && isfinite(b) && b != floor(b))
            return interp_fail(in, HEARTH_EUNSUPPORTED, "complex numbers are not supported");
        *out = v_float(pow(a, b));
        return !isinf(out->u.f) || isinf(a) || isinf(b) || interp_fail(in, HEARTH_EINVAL, "a power is too large for a float");
    default: break;
    }
    if (b == 0)
        return zero_division(in);
    if (op == OP_DIV) {
        *out = v_float(a / b);
        return true;
    }
    mod = fmod(a, b);
    div = (a - mod) / b;
    if (mod != 0 && (b < 0) != (mod < 0)) {
        mod += b;
        div -= 1;
    }
    if (mod == 0)
        mod = copysign(0, b);
    div = div != 0 ? floor(div) + (div - floor(div) > 0.5) : copysign(0, a / b);
    *out = v_float(op == OP_MOD ? mod : div);
    return true;
}

static bool repeat(struct interp *in, struct value v, int64_t times, struct value *out)
{
    struct seq *q;
    size_t n;
    if (v.kind == V_STRING) {
        const struct string *s;
        if (!text_repeat(in, v.u.s, times, &s))
            return false;
        *out = v_string(s);
        return true;
    }
    times = times < 0 ? 0 : times;
    if (!size_mul(&n, v.u.seq->n, (size_t)times) || n > LIMIT_TEMPLATE_STEPS)
        return interp_fail(in, HEARTH_ELIMIT, "rendering takes more than %d steps", LIMIT_TEMPLATE_STEPS);
    if (!spend(in, n) || !seq_new(in, v.u.seq->flavour, n, &q))
        return false;
    for (; q->n < n; q->n++)
        q->v[q->n] = v.u.seq->v[q->n % v.u.seq->n];
    *out = v_seq(q);
    return true;
}

static bool add_seqs(struct interp *in, const struct seq *a, const struct seq *b, struct value *out)
{
    struct seq *q;
    if (!spend(in, (a->n + b->n) / 4) || !seq_new(in, a->flavour, a->n + b->n, &q))
        return false;
    if (a->n)
        memcpy(q->v, a->v, a->n * sizeof *q->v);
    if (b->n)
        memcpy(q->v + a->n, b->v, b->n * sizeof *q->v);
    q->n = a->n + b->n;
    *out = v_seq(q);
    return true;
}

static bool is_plain_seq(struct value v)
{
    return v.kind == V_SEQ && v.u.seq->flavour <= SEQ_TUPLE;
}

static bool percent(struct interp *in, const struct string *format, struct value v, struct value *out)
{
    struct args args = { &v, 1, NULL, 0 };
    const struct string *s;
    if (v.kind == V_SEQ && v.u.seq->flavour == SEQ_TUPLE)
        args = (struct args){ v.u.seq->v, v.u.seq->n, NULL, 0 };
    if (v.kind == V_DICT) {
        args.kw = ARENA_NEW(&in->arena, struct kwarg, v.u.dict->n);
        if (!args.kw)
            return interp_memory(in);
        for (size_t i = 0; i < v.u.dict->n; i++)
            if (v.u.dict->pairs[i].key.kind == V_STRING)
                args.kw[args.n_kw++] = (struct kwarg){ string_str(v.u.dict->pairs[i].key.u.s), v.u.dict->pairs[i].val };
    }
    bool mapping = v.kind == V_DICT || v.kind == V_UNDEFINED || (v.kind == V_SEQ && v.u.seq->flavour == SEQ_LIST);
    if (!text_percent(in, format, &args, mapping, &s))
        return false;
    *out = v_string(s);
    return true;
}

bool interp_arith(struct interp *in, enum op op, struct value a, struct value b, struct value *out)
{
    static const char *const names[] = { "+", "-", "*", "/", "//", "%", "** or pow()" };
    const struct string *s;
    if (is_number(a) && is_number(b)) {
        if (a.kind == V_FLOAT || b.kind == V_FLOAT)
            return float_arith(in, op, to_double(a), to_double(b), out);
        return int_arith(in, op, a.kind == V_BOOL ? a.u.b : a.u.i, b.kind == V_BOOL ? b.u.b : b.u.i, out);
    }
    if (op == OP_ADD && a.kind == V_STRING && b.kind == V_STRING) {
        if (!string_concat(in, a.u.s, b.u.s, &s))
            return false;
        *out = v_string(s);
        return true;
    }
    if (op == OP_ADD && is_plain_seq(a) && is_plain_seq(b) && a.u.seq->flavour == b.u.seq->flavour)
        return add_seqs(in, a.u.seq, b.u.seq, out);
    if (op == OP_MUL && (a.kind == V_INT || a.kind == V_BOOL)) {
        struct value t = a;
        a = b;
        b = t;
    }
    if (op == OP_MUL && (b.kind == V_INT || b.kind == V_BOOL) && (a.kind == V_STRING || is_plain_seq(a)))
        return repeat(in, a, b.kind == V_BOOL ? b.u.b : b.u.i, out);
    if (op == OP_MOD && a.kind == V_STRING)
        return percent(in, a.u.s, b, out);
    return operand_error(in, names[op], a, b);
}

bool interp_compare(struct interp *in, enum op op, struct value a, struct value b, bool *out)
{
    static const char *const names[] = { [OP_GT] = ">", [OP_GE] = ">=", [OP_LT] = "<", [OP_LE] = "<=" };
    int order = 0;
    switch (op) {
    case OP_EQ:
    case OP_NE:
        if (!values_equal(in, a, b, out))
            return false;
        *out ^= op == OP_NE;
        return true;
    case OP_IN:
    case OP_NOT_IN:
        if (!value_contains(in, b, a, out))
            return false;
        *out ^= op == OP_NOT_IN;
        return true;
    default: break;
    }
    if (!values_order(in, a, b, names[op], &order))
        return false;
    *out = order != 2 && (op == OP_GT ? order > 0 : op == OP_GE ? order >= 0 : op == OP_LT ? order < 0 : order <= 0);
    return true;
}

/* ---- calls ---- */

static bool star_args(struct interp *in, struct value v, struct args *args)
{
    struct value *items, *wider;
    size_t n;
    if (!value_items(in, v, &items, &n))
        return false;
    wider = ARENA_NEW(&in->arena, struct value, args->n_pos + n);
    if (!wider)
        return interp_memory(in);
    if (args->n_pos)
        memcpy(wider, args->pos, args->n_pos * sizeof *wider);
    if (n)
        memcpy(wider + args->n_pos, items, n * sizeof *wider);
    args->pos = wider;
    args->n_pos += n;
    return spend(in, n);
}

static bool add_kwarg(struct interp *in, struct args *args, size_t *cap, struct str name, struct value v)
{
    for (size_t i = 0; i < args->n_kw; i++)
        if (str_eq(args->kw[i].name, name))
            return interp_fail(in, HEARTH_EINVAL, "got multiple values for keyword argument '%.*s'", STR_FMT(name));
    if (args->n_kw == *cap) {
        size_t wide = *cap ? *cap * 2 : 4;
        struct kwarg *wider = ARENA_NEW(&in->arena, struct kwarg, wide);
        if (!wider)
            return interp_memory(in);
        if (args->n_kw)
            memcpy(wider, args->kw, args->n_kw * sizeof *wider);
        args->kw = wider;
        *cap = wide;
    }
    args->kw[args->n_kw++] = (struct kwarg){ name, v };
    return spend(in, 1 + args->n_kw / 16);
}

static bool star_kwargs(struct interp *in, struct value v, struct args *args, size_t *cap)
{
    if (v.kind != V_DICT)
        return interp_fail(in, HEARTH_EINVAL, "argument after ** must be a mapping, not %s", type_name(v));
    for (size_t i = 0; i < v.u.dict->n; i++) {
        if (v.u.dict->pairs[i].key.kind != V_STRING)
            return interp_fail(in, HEARTH_EINVAL, "keywords must be strings");
        if (!add_kwarg(in, args, cap, string_str(v.u.dict->pairs[i].key.u.s), v.u.dict->pairs[i].val))
            return false;
    }
    return true;
}

static bool eval_args(struct interp *in, const struct node *list, struct scope *s, struct args *args)
{
    size_t n_pos = 0, cap = 0;
    *args = (struct args){ NULL, 0, NULL, 0 };
    for (const struct node *n = list; n; n = n->next)
        n_pos += n->kind == A_POSITIONAL;
    if (n_pos && !(args->pos = ARENA_NEW(&in->arena, struct value, n_pos)))
        return interp_memory(in);
    for (const struct node *n = list; n; n = n->next) {
        struct value v;
        if (!eval(in, n->a, s, &v))
            return false;
        if (n->kind == A_POSITIONAL)
            args->pos[args->n_pos++] = v;
        else if (!(n->kind == A_KEYWORD ? add_kwarg(in, args, &cap, string_str(n->v.u.s), v)
                   : n->kind == A_STAR  ? star_args(in, v, args)
                                        : star_kwargs(in, v, args, &cap)))
            return false;
    }
    return true;
}

static bool capture(struct interp *in, const struct node *body, struct scope *s, enum flow *flow, const struct string **out)
{
    struct sbuf *outer = in->out, *b = sb_new(in);
    bool ok;
    if (!b)
        return false;
    in->out = b;
    ok = exec_list(in, body, s, flow);
    in->out = outer;
    return ok && sb_string(in, b, out);
}

static const struct symbol *symbol(const struct interp *in, const char *name)
{
    return template_symbol(in->t, (struct str){ name, strlen(name) });
}

static bool is_param(const struct node *def, struct str name)
{
    for (const struct node *p = def->b; p; p = p->next)
        if (str_eq(p->sym->name, name))
            return true;
    return false;
}

/* What a macro gets beyond its parameters: as varargs and kwargs if its body uses them, else an error. */
static bool bind_extras(struct interp *in, const struct node *def, const struct args *args, size_t n_params, struct scope *s)
{
    static const struct string caller_name = { .p = "caller", .n = 6, .n_chars = 6 };
    struct str macro_name = def->sym ? def->sym->name : STR("caller");
    struct value caller = v_undefined(&caller_name);
    struct seq *more;
    struct dict *kwargs;
    if (!dict_new(in, &kwargs) || !seq_new(in, SEQ_TUPLE, 0, &more))
        return false;
    for (size_t i = n_params; i < args->n_pos; i++)
        if (!seq_push(in, more, args->pos[i]))
            return false;
    for (size_t i = 0; i < args->n_kw; i++) {
        const struct string *name;
        if (is_param(def, args->kw[i].name))
            continue;
        if ((def->flags & MACRO_CALLER) && str_eqz(args->kw[i].name, "caller")) {
            caller = args->kw[i].v;
            continue;
        }
        if (!(def->flags & MACRO_KWARGS))
            return interp_fail(in, HEARTH_EINVAL, "macro '%.*s' takes no keyword argument '%.*s'", STR_FMT(macro_name),
                               STR_FMT(args->kw[i].name));
        if (!string_new(in, args->kw[i].name.p, args->kw[i].name.n, false, &name) ||
            !dict_set(in, kwargs, v_string(name), args->kw[i].v))
            return false;
    }
    if (more->n && !(def->flags & MACRO_VARARGS))
        return interp_fail(in, HEARTH_EINVAL, "macro '%.*s' takes not more than %zu argument(s)", STR_FMT(macro_name), n_params);
    return (!(def->flags & MACRO_CALLER) || is_param(def, STR("caller")) || scope_set(in, s, symbol(in, "caller"), caller)) &&
           (!(def->flags & MACRO_VARARGS) || scope_set(in, s, symbol(in, "varargs"), v_seq(more))) &&
           (!(def->flags & MACRO_KWARGS) ||
            scope_set(in, s, symbol(in, "kwargs"), (struct value){ .kind = V_DICT, .u.dict = kwargs }));
}

static bool call_macro(struct interp *in, const struct macro *m, const struct args *args, struct value *out)
{
    const struct node *def = m->def;
    const struct string *text;
    struct scope *s;
    enum flow flow;
    size_t i = 0;
    if (!scope_new(in, m->scope, &s))
        return false;
    for (const struct node *p = def->b; p; p = p->next, i++) {
        struct value v = v_undefined(p->v.u.s);
        bool given = i < args->n_pos;
        if (given)
            v = args->pos[i];
        for (size_t k = 0; k < args->n_kw; k++) {
            if (!str_eq(args->kw[k].name, p->sym->name))
                continue;
            if (given)
                return interp_fail(in, HEARTH_EINVAL, "macro takes no keyword argument '%.*s'", STR_FMT(p->sym->name));
            v = args->kw[k].v;
            given = true;
        }
        if (!given && p->a && !eval(in, p->a, s, &v))
            return false;
        if (!scope_set(in, s, p->sym, v))
            return false;
    }
    if (!bind_extras(in, def, args, i, s) || !capture(in, def->c, s, &flow, &text))
        return false;
    *out = v_string(text);
    return true;
}

static bool exec_for(struct interp *in, const struct node *n, struct value iterable, struct scope *outer, int64_t depth0, enum flow *flow);

static bool call_loop(struct interp *in, struct loop *l, const struct args *args, struct value *out)
{
    struct sbuf *outer = in->out, *b = sb_new(in);
    const struct string *text;
    enum flow flow;
    bool ok;
    if (!l->recursive)
        return interp_fail(in, HEARTH_EINVAL, "the loop must have the 'recursive' marker to be called recursively");
    if (args->n_pos != 1 || args->n_kw)
        return interp_fail(in, HEARTH_EINVAL, "loop() takes one argument");
    if (!b)
        return false;
    in->out = b;
    ok = exec_for(in, l->def, args->pos[0], l->scope, l->depth0 + 1, &flow);
    in->out = outer;
    if (!ok || !sb_string(in, b, &text))
        return false;
    *out = v_string(text);
    return true;
}

/* Binds by position and name; what is not given is V_MISSING. */
bool builtin_call(struct interp *in, const struct builtin *b, struct value self, const struct args *args, struct value *out)
{
    struct value bound[BUILTIN_PARAMS] = { { .kind = V_MISSING } };
    const char *p = b->params;
    size_t n_params = 0, n_used = 0;
    if (!b->fn)
        return interp_fail(in, HEARTH_EUNSUPPORTED, "%s of %s is not supported", b->name, type_name(self));
    if (b->n_required == VARARGS)
        return b->fn(in, self, args, bound, out);
    while (p && *p) {
        size_t len = strcspn(p, " ");
        struct str name = { p, len };
        bound[n_params].kind = V_MISSING;
        if (n_params < args->n_pos)
            bound[n_params] = args->pos[n_params];
        for (size_t i = 0; i < args->n_kw; i++) {
            if (!str_eq(args->kw[i].name, name))
                continue;
            if (n_params < args->n_pos)
                return interp_fail(in, HEARTH_EINVAL, "%s() got multiple values for argument '%.*s'", b->name, STR_FMT(name));
            bound[n_params] = args->kw[i].v;
            n_used++;
        }
        if (bound[n_params].kind == V_MISSING && n_params < b->n_required)
            return interp_fail(in, HEARTH_EINVAL, "%s() needs the argument '%.*s'", b->name, STR_FMT(name));
        n_params++;
        p += len + (p[len] == ' ');
    }
    if (args->n_pos > n_params || n_used < args->n_kw)
        return interp_fail(in, HEARTH_EINVAL, "%s() got an unexpected argument", b->name);
    return b->fn(in, self, args, bound, out);
}

bool interp_call(struct interp *in, struct value callee, const struct args *args, struct value *out)
{
    unsigned depth = in->depth;
    bool ok;
    if (!enter(in))
        return false;
    switch (callee.kind) {
    case V_MACRO: ok = call_macro(in, callee.u.macro, args, out); break;
    case V_LOOP: ok = call_loop(in, callee.u.loop, args, out); break;
    case V_FUNC: ok = builtin_call(in, callee.u.fn, v_none(), args, out); break;
    case V_METHOD: ok = builtin_call(in, callee.u.method->fn, callee.u.method->self, args, out); break;
    case V_UNDEFINED: return operand_error(in, "()", callee, callee);
    default: return interp_fail(in, HEARTH_EINVAL, "'%s' object is not callable", type_name(callee));
    }
    in->depth = depth;
    return ok;
}

/* ---- expressions ---- */

/* caller: given to the call at the end of the chain (a call block), or NULL. */
static bool eval_link(struct interp *in, const struct node *link, struct scope *s, const struct value *caller, struct value *v)
{
    struct value key, parts[3] = { v_none(), v_none(), v_none() };
    struct args args;
    in->line = link->line;
    switch (link->kind) {
    case P_ATTR: return value_attribute(in, *v, link->v.u.s, v);
    case P_ITEM: return eval(in, link->a, s, &key) && value_item(in, *v, key, v);
    case P_SLICE:
        return (!link->a || eval(in, link->a, s, &parts[0])) && (!link->b || eval(in, link->b, s, &parts[1])) &&
               (!link->c || eval(in, link->c, s, &parts[2])) && value_slice(in, *v, parts[0], parts[1], parts[2], v);
    default: break;
    }
    if (!eval_args(in, link->b, s, &args))
        return false;
    in->line = link->line;
    if (link->kind == P_CALL) {
        size_t cap = args.n_kw;
        if (caller && !link->next && !add_kwarg(in, &args, &cap, STR("caller"), *caller))
            return false;
        return interp_call(in, *v, &args, v);
    }
    if (!builtin_call(in, link->fn, *v, &args, v))
        return false;
    if (link->kind == P_TEST && link->flags)
        *v = v_bool(!truth(*v));
    return true;
}

static bool eval_chain(struct interp *in, const struct node *n, struct scope *s, const struct value *caller, struct value *out)
{
    struct value v;
    if (!eval(in, n->a, s, &v))
        return false;
    for (const struct node *link = n->b; link; link = link->next)
        if (!spend(in, 1) || !eval_link(in, link, s, caller, &v))
            return false;
    *out = v;
    return true;
}

static bool eval_items(struct interp *in, const struct node *n, struct scope *s, struct value *out)
{
    struct seq *q;
    if (!seq_new(in, n->kind == N_TUPLE ? SEQ_TUPLE : SEQ_LIST, 0, &q))
        return false;
    for (const struct node *item = n->a; item; item = item->next) {
        struct value v;
        if (!eval(in, item, s, &v) || !seq_push(in, q, v))
            return false;
    }
    *out = v_seq(q);
    return true;
}

static bool eval_dict(struct interp *in, const struct node *n, struct scope *s, struct value *out)
{
    struct dict *d;
    if (!dict_new(in, &d))
        return false;
    for (const struct node *pair = n->a; pair; pair = pair->next) {
        struct value key, val;
        if (!eval(in, pair->a, s, &key) || !eval(in, pair->b, s, &val) || !dict_set(in, d, key, val))
            return false;
    }
    *out = (struct value){ .kind = V_DICT, .u.dict = d };
    return true;
}

static bool eval_arith(struct interp *in, const struct node *n, struct scope *s, struct value *out)
{
    struct value v, right;
    if (!eval(in, n->a, s, &v))
        return false;
    for (const struct node *step = n->b; step; step = step->next) {
        if (!eval(in, step->a, s, &right))
            return false;
        in->line = step->line;
        if (!interp_arith(in, step->op, v, right, &v))
            return false;
    }
    *out = v;
    return true;
}

static bool eval_compare(struct interp *in, const struct node *n, struct scope *s, struct value *out)
{
    struct value left, right;
    bool holds = true;
    if (!eval(in, n->a, s, &left))
        return false;
    for (const struct node *step = n->b; step && holds; step = step->next) {
        if (!eval(in, step->a, s, &right))
            return false;
        in->line = step->line;
        if (!interp_compare(in, step->op, left, right, &holds))
            return false;
        left = right;
    }
    *out = v_bool(holds);
    return true;
}

static bool eval_concat(struct interp *in, const struct node *n, struct scope *s, struct value *out)
{
    const struct string *text = NULL, *part;
    for (const struct node *item = n->a; item; item = item->next) {
        struct value v;
        if (!eval(in, item, s, &v) || !value_str(in, v, &part) || (text && !string_concat(in, text, part, &part)))
            return false;
        text = part;
    }
    *out = v_string(text);
    return true;
}

/* and, or: the value that decides, as in Python. */
static bool eval_logic(struct interp *in, const struct node *n, struct scope *s, struct value *out)
{
    for (const struct node *item = n->a; item; item = item->next) {
        if (!eval(in, item, s, out))
            return false;
        if (truth(*out) == (n->kind == N_OR))
            break;
    }
    return true;
}

static bool eval_sign(struct interp *in, const struct node *n, struct scope *s, struct value *out)
{
    struct value v;
    if (!eval(in, n->a, s, &v))
        return false;
    if (v.kind == V_UNDEFINED || !is_number(v))
        return v.kind == V_UNDEFINED ? operand_error(in, "-", v, v)
                                     : interp_fail(in, HEARTH_EINVAL, "bad operand type for unary %c: '%s'", n->kind == N_NEG ? '-' : '+',
                                                   type_name(v));
    if (v.kind == V_FLOAT)
        *out = v_float(n->kind == N_NEG ? -v.u.f : v.u.f);
    else
        return int_arith(in, n->kind == N_NEG ? OP_SUB : OP_ADD, 0, v.kind == V_BOOL ? v.u.b : v.u.i, out);
    return true;
}

static bool eval(struct interp *in, const struct node *n, struct scope *s, struct value *out)
{
    struct value v;
    bool ok;
    if (!enter(in))
        return false;
    in->line = n->line;
    switch (n->kind) {
    case N_CONST: *out = n->v; ok = true; break;
    case N_NAME: ok = lookup(in, s, n->sym, n->v.u.s, out); break;
    case N_LIST:
    case N_TUPLE: ok = eval_items(in, n, s, out); break;
    case N_DICT: ok = eval_dict(in, n, s, out); break;
    case N_COND:
        ok = eval(in, n->b, s, &v);
        if (ok && (truth(v) || n->c))
            ok = eval(in, truth(v) ? n->a : n->c, s, out);
        else
            *out = v_undefined(NULL);
        break;
    case N_AND:
    case N_OR: ok = eval_logic(in, n, s, out); break;
    case N_NOT:
        ok = eval(in, n->a, s, &v);
        *out = v_bool(ok && !truth(v));
        break;
    case N_COMPARE: ok = eval_compare(in, n, s, out); break;
    case N_ARITH: ok = eval_arith(in, n, s, out); break;
    case N_CONCAT: ok = eval_concat(in, n, s, out); break;
    case N_NEG:
    case N_POS: ok = eval_sign(in, n, s, out); break;
    default: ok = eval_chain(in, n, s, NULL, out);
    }
    in->depth -= ok;
    return ok;
}

/* ---- statements ---- */

static bool output(struct interp *in, struct value v)
{
    const struct string *s;
    return value_str(in, v, &s) && sb_str(in, in->out, s);
}

/* The items for which the loop's own `if` holds. */
static bool filter_items(struct interp *in, const struct node *n, struct scope *outer, struct value **items, size_t *n_items)
{
    struct scope *s;
    struct seq *kept;
    if (!scope_new(in, outer, &s) || !seq_new(in, SEQ_LIST, 0, &kept))
        return false;
    for (size_t i = 0; i < *n_items; i++) {
        struct value v;
        if (!assign(in, n->a, s, (*items)[i]) || !eval(in, n->d, s, &v))
            return false;
        if (truth(v) && !seq_push(in, kept, (*items)[i]))
            return false;
    }
    *items = kept->v;
    *n_items = kept->n;
    return true;
}

static bool exec_for(struct interp *in, const struct node *n, struct value iterable, struct scope *outer, int64_t depth0, enum flow *flow)
{
    const struct symbol *loop_symbol = symbol(in, "loop");
    struct value *items;
    size_t n_items;
    struct loop *l;
    struct scope *s;
    *flow = FLOW_NEXT;
    if (!value_items(in, iterable, &items, &n_items) || (n->d && !filter_items(in, n, outer, &items, &n_items)) ||
        !scope_new(in, outer, &s))
        return false;
    if (!n_items)
        return exec_list(in, n->e, s, flow);
    l = ARENA_NEW(&in->arena, struct loop, 1);
    if (!l)
        return interp_memory(in);
    *l = (struct loop){ .def = n, .scope = outer, .items = items, .n = n_items, .depth0 = depth0, .recursive = n->flags };
    for (; l->i < n_items && *flow != FLOW_BREAK; l->i++) {
        s->n = 0;
        if (!spend(in, 1) || (loop_symbol && !scope_set(in, s, loop_symbol, (struct value){ .kind = V_LOOP, .u.loop = l })) ||
            !assign(in, n->a, s, items[l->i]) || !exec_list(in, n->c, s, flow))
            return false;
    }
    *flow = FLOW_NEXT;
    return true;
}

static bool exec_if(struct interp *in, const struct node *n, struct scope *s, enum flow *flow)
{
    for (const struct node *branch = n->a; branch; branch = branch->next) {
        struct value v = v_bool(true);
        if (branch->a && !eval(in, branch->a, s, &v))
            return false;
        if (truth(v))
            return exec_list(in, branch->c, s, flow);
    }
    return true;
}

static bool exec_with(struct interp *in, const struct node *n, struct scope *outer, enum flow *flow)
{
    struct scope *s;
    if (!scope_new(in, outer, &s))
        return false;
    for (const struct node *set = n->b; set; set = set->next) {
        struct value v;
        if (!eval(in, set->b, outer, &v) || !assign(in, set->a, s, v))
            return false;
    }
    return exec_list(in, n->c, s, flow);
}

/* A body as text through filters: set blocks and filter blocks. */
static bool exec_captured(struct interp *in, const struct node *n, struct scope *outer, enum flow *flow, struct value *out)
{
    const struct string *text;
    struct scope *s;
    if (!scope_new(in, outer, &s) || !capture(in, n->c, s, flow, &text))
        return false;
    *out = v_string(text);
    for (const struct node *link = n->b; link; link = link->next)
        if (!eval_link(in, link, outer, NULL, out))
            return false;
    return true;
}

static bool make_macro(struct interp *in, const struct node *n, struct scope *s, struct value *out)
{
    struct macro *m = ARENA_NEW(&in->arena, struct macro, 1);
    if (!m)
        return interp_memory(in);
    *m = (struct macro){ n, s };
    *out = (struct value){ .kind = V_MACRO, .u.macro = m };
    return true;
}

static bool exec(struct interp *in, const struct node *n, struct scope *s, enum flow *flow)
{
    struct value v;
    struct scope *inner;
    switch (n->kind) {
    case S_TEXT: return sb_str(in, in->out, n->v.u.s);
    case S_OUTPUT: return eval(in, n->a, s, &v) && output(in, v);
    case S_IF: return exec_if(in, n, s, flow);
    case S_FOR: return eval(in, n->b, s, &v) && exec_for(in, n, v, s, 0, flow);
    case S_SET: return eval(in, n->b, s, &v) && assign(in, n->a, s, v);
    case S_SETBLOCK: return exec_captured(in, n, s, flow, &v) && (*flow != FLOW_NEXT || assign(in, n->a, s, v));
    case S_FILTER: return exec_captured(in, n, s, flow, &v) && (*flow != FLOW_NEXT || output(in, v));
    case S_MACRO: return make_macro(in, n, s, &v) && scope_set(in, s, n->sym, v);
    case S_CALLBLOCK: return make_macro(in, n, s, &v) && eval_chain(in, n->a, s, &v, &v) && output(in, v);
    case S_WITH: return exec_with(in, n, s, flow);
    case S_SCOPE: return scope_new(in, s, &inner) && exec_list(in, n->c, inner, flow);
    case S_BREAK: *flow = FLOW_BREAK; return true;
    default: *flow = FLOW_CONTINUE; return true;
    }
}

static bool exec_list(struct interp *in, const struct node *n, struct scope *s, enum flow *flow)
{
    *flow = FLOW_NEXT;
    for (; n && *flow == FLOW_NEXT; n = n->next) {
        if (!enter(in))
            return false;
        in->line = n->line;
        if (!exec(in, n, s, flow))
            return false;
        in->depth--;
    }
    return true;
}

/* ---- rendering ---- */

static bool is_trusted(const char *const *trusted, const char *name)
{
    for (; trusted && *trusted; trusted++)
        if (strcmp(*trusted, name) == 0)
            return true;
    return false;
}

/* The roles templates name themselves are theirs: '<|im_start|>' + message.role is one control sequence. */
static bool trust_roles(struct interp *in, struct value messages)
{
    static const char *const known[] = { "system", "user", "assistant", "tool", "developer", "function", "ipython" };
    struct pair *p;
    if (messages.kind != V_SEQ)
        return true;
    for (size_t i = 0; i < messages.u.seq->n; i++) {
        struct value m = messages.u.seq->v[i];
        if (m.kind != V_DICT)
            continue;
        if (!dict_getz(in, m.u.dict, STR("role"), &p))
            return false;
        for (size_t k = 0; p && p->val.kind == V_STRING && k < ARRAY_LEN(known); k++) {
            const struct string *s = p->val.u.s;
            if (!str_eqz(string_str(s), known[k]))
                continue;
            if (!string_new(in, s->p, s->n, false, &s))
                return false;
            p->val = v_string(s);
            break;
        }
    }
    return true;
}

static bool bind_vars(struct interp *in, json_t *vars, const struct render_options *o, struct scope *s)
{
    for (void *it = json_object_iter(vars); it; it = json_object_iter_next(vars, it)) {
        const char *name = json_object_iter_key(it);
        const struct symbol *sym = symbol(in, name);
        struct value v;
        if (!sym)
            continue; /* the template never asks for it */
        if (!value_from_json(in, json_object_iter_value(it), !is_trusted(o->trusted, name), 0, &v) ||
            (o->trust_roles && strcmp(name, "messages") == 0 && !trust_roles(in, v)) || !scope_set(in, s, sym, v))
            return false;
    }
    return true;
}

void rendered_init(struct rendered *r)
{
    *r = (struct rendered){ .untrusted = NULL };
    buf_init(&r->text, LIMIT_TEMPLATE_OUTPUT_BYTES);
}

void rendered_free(struct rendered *r)
{
    buf_free(&r->text);
    free(r->untrusted);
    r->untrusted = NULL;
    r->n_untrusted = 0;
}

/* The runs of marked bytes; counted first, so that one allocation does. */
static bool publish(struct interp *in, const struct sbuf *b, struct rendered *out)
{
    size_t n = 0;
    for (size_t i = 0; i < b->len; i++)
        n += b->mask ? b->mask[i] && (!i || !b->mask[i - 1]) : b->tainted && !i;
    rendered_free(out);
    if (!buf_append(&out->text, b->text ? b->text : "", b->len) || (n && !(out->untrusted = calloc(n, sizeof *out->untrusted)))) {
        rendered_free(out);
        err_set(in->e, HEARTH_ENOMEM, "no memory left for the rendered text");
        return false;
    }
    for (size_t i = 0; i < b->len; i++) {
        if (b->mask ? !b->mask[i] : !b->tainted)
            continue;
        if (!out->n_untrusted || out->untrusted[out->n_untrusted - 1].end != i)
            out->untrusted[out->n_untrusted++].begin = i;
        out->untrusted[out->n_untrusted - 1].end = i + 1;
    }
    return true;
}

enum hearth_status template_render_with(const struct template *t, json_t *vars, struct render_options *o, struct rendered *out,
                                        struct err *e)
{
    struct err own = { 0 };
    struct sbuf text = { 0 };
    struct interp in = { .t = t, .e = &own, .steps_left = LIMIT_TEMPLATE_STEPS, .out = &text, .date = o->date, .line = 1 };
    struct scope globals = { 0 }, *top;
    enum flow flow;
    arena_init(&in.arena, o->memory_bytes ? o->memory_bytes : LIMIT_TEMPLATE_MEMORY_BYTES);
    if (bind_vars(&in, vars, o, &globals) && scope_new(&in, &globals, &top) && exec_list(&in, t->body, top, &flow))
        publish(&in, &text, out);
    arena_free(&in.arena);
    o->raised = in.raised;
    return own.status == HEARTH_OK ? HEARTH_OK : err_set(e, own.status, "%s", own.text);
}

enum hearth_status template_render(const struct template *t, json_t *vars, const char *const *trusted, struct rendered *out,
                                   struct err *e)
{
    struct render_options o = { .trusted = trusted };
    return template_render_with(t, vars, &o, out, e);
}

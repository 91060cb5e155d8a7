/* template_parse.c: tokens to a tree, by recursive descent over Jinja's grammar.
 *
 * Precedence, loosest first: a if b else c; or; and; not; comparisons (chained, in, not in); + -; ~;
 * * / // %; ** (to the left, as Jinja has it); unary minus; then what follows an operand: .name [key]
 * (call) |filter and "is test". A chain of one level is one node with a list, so a sum of a thousand
 * terms is flat; only real nesting recurses, and depth() stops that at LIMIT_TEMPLATE_DEPTH. So the tree
 * is never deep, whatever the source, and time and memory are linear in it.
 *
 * Names are interned; each knows whether a global function has it. Filters and tests are looked up here:
 * an unknown one is an error of the template, not of the render. Tags that load other templates
 * (extends, include, import, block) are refused: there is nothing to load. {% generation %} marks the
 * assistant's text for training and only opens a scope here.
 *
 * A parse function returns NULL (or false) when the error is set.
 */
#include "formats/template.h"

#include <string.h>

struct parser {
    struct lexer lex;
    struct token tok, ahead;
    bool has_ahead;
    unsigned depth, loops;
    struct node *macro; /* the innermost one being parsed */
    struct template *t;
    struct arena *arena;
    struct err *e;
};

#define parse_fail(p, ...) template_fail((p)->e, (p)->t->name, (p)->tok.line, HEARTH_EINVAL, __VA_ARGS__)

static struct node *parse_expression(struct parser *p);
static struct node *parse_primary(struct parser *p, bool as_target);
static bool parse_body(struct parser *p, const char *const *ends, struct node **out);

/* ---- tokens and nodes ---- */

static bool next(struct parser *p)
{
    if (p->has_ahead) {
        p->tok = p->ahead;
        p->has_ahead = false;
        return true;
    }
    return lexer_next(&p->lex, &p->tok);
}

static bool look(struct parser *p)
{
    if (!p->has_ahead && !lexer_next(&p->lex, &p->ahead))
        return false;
    p->has_ahead = true;
    return true;
}

static bool is_op(const struct parser *p, enum op op)
{
    return p->tok.kind == T_OP && p->tok.op == op;
}

static bool is_name(const struct parser *p, const char *name)
{
    return p->tok.kind == T_NAME && str_eqz(p->tok.text, name);
}

static bool unexpected(struct parser *p, const char *wanted)
{
    static const char *const kinds[] = { "end of template", "text", "{{", "}}", "{%", "%}", NULL, "a string", "a number", "a number" };
    static const char *const ops[] = { "+", "-", "*", "/", "//", "%", "**", "~", "[", "]", "(", ")", "{", "}", "==", "!=",
                                       ">", ">=", "<", "<=", "=", ".", ":", "|", ",", ";" };
    if (p->tok.kind == T_NAME)
        return parse_fail(p, "expected %s, got '%.*s'", wanted, STR_FMT(p->tok.text));
    return parse_fail(p, "expected %s, got '%s'", wanted, p->tok.kind == T_OP ? ops[p->tok.op] : kinds[p->tok.kind]);
}

static bool expect_op(struct parser *p, enum op op, const char *wanted)
{
    return is_op(p, op) ? next(p) : unexpected(p, wanted);
}

static bool expect_name(struct parser *p, const char *name)
{
    return is_name(p, name) ? next(p) : unexpected(p, name);
}

static struct node *new_node(struct parser *p, enum node_kind kind)
{
    struct node *n = ARENA_NEW(p->arena, struct node, 1);
    if (!n) {
        template_fail(p->e, p->t->name, p->tok.line, HEARTH_ENOMEM, "no memory left to compile the template");
        return NULL;
    }
    n->kind = (uint8_t)kind;
    n->line = p->tok.line;
    return n;
}

static bool depth(struct parser *p)
{
    if (++p->depth <= LIMIT_TEMPLATE_DEPTH)
        return true;
    return template_fail(p->e, p->t->name, p->tok.line, HEARTH_ELIMIT, "nested deeper than %d", LIMIT_TEMPLATE_DEPTH);
}

static size_t bucket(struct str name)
{
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < name.n; i++)
        h = (h ^ (unsigned char)name.p[i]) * 16777619u;
    return h % TEMPLATE_BUCKETS;
}

const struct symbol *template_symbol(const struct template *t, struct str name)
{
    for (const struct symbol *s = t->symbols[bucket(name)]; s; s = s->next)
        if (str_eq(s->name, name))
            return s;
    return NULL;
}

static const struct symbol *intern(struct parser *p, struct str name)
{
    const struct symbol *old = template_symbol(p->t, name);
    struct symbol *s;
    if (old)
        return old;
    s = ARENA_NEW(p->arena, struct symbol, 1);
    if (!s) {
        template_fail(p->e, p->t->name, p->tok.line, HEARTH_ENOMEM, "no memory left to compile the template");
        return NULL;
    }
    *s = (struct symbol){ name, global_find(name), p->t->symbols[bucket(name)] };
    p->t->symbols[bucket(name)] = s;
    return s;
}

static bool const_string(struct parser *p, struct str text, struct value *out)
{
    struct string *s = ARENA_NEW(p->arena, struct string, 1);
    if (!s)
        return template_fail(p->e, p->t->name, p->tok.line, HEARTH_ENOMEM, "no memory left to compile the template");
    *s = (struct string){ .p = text.p, .n = text.n };
    for (size_t i = 0; i < text.n; i++) /* counted now: a compiled template is shared between threads */
        s->n_chars += ((unsigned char)text.p[i] & 0xc0) != 0x80;
    *out = v_string(s);
    return true;
}

/* ---- operands ---- */

/* Items up to the closing bracket (already past the opening one); a trailing comma is allowed. */
static bool parse_items(struct parser *p, enum op close, struct node **list)
{
    struct node **tail = list;
    while (!is_op(p, close)) {
        struct node *item;
        if (tail != list && !expect_op(p, OP_COMMA, "','"))
            return false;
        if (is_op(p, close))
            break;
        if (!(item = parse_expression(p)))
            return false;
        *tail = item;
        tail = &item->next;
    }
    return next(p);
}

static struct node *parse_dict(struct parser *p)
{
    struct node *n = new_node(p, N_DICT), **tail = n ? &n->a : NULL;
    if (!n || !next(p))
        return NULL;
    while (!is_op(p, OP_RBRACE)) {
        struct node *pair;
        if (n->a && !expect_op(p, OP_COMMA, "','"))
            return NULL;
        if (is_op(p, OP_RBRACE))
            break;
        if (!(pair = new_node(p, N_PAIR)) || !(pair->a = parse_expression(p)) || !expect_op(p, OP_COLON, "':'") ||
            !(pair->b = parse_expression(p)))
            return NULL;
        *tail = pair;
        tail = &pair->next;
    }
    return next(p) ? n : NULL;
}

enum { TUPLE_TARGET = 1, TUPLE_PARENS = 2, TUPLE_NO_COND = 4 };
static struct node *parse_or(struct parser *p);

/* One expression, or several with commas as a tuple. stop: a name that ends it, or NULL. */
static struct node *parse_tuple(struct parser *p, int how, const char *stop)
{
    struct node *first = NULL, **tail = &first, *tuple;
    bool is_tuple = false;
    for (;;) {
        struct node *item;
        if (p->tok.kind == T_VAR_END || p->tok.kind == T_BLOCK_END || is_op(p, OP_RPAREN) || (stop && is_name(p, stop)))
            break;
        item = (how & TUPLE_TARGET) ? parse_primary(p, true) : (how & TUPLE_NO_COND) ? parse_or(p) : parse_expression(p);
        if (!item)
            return NULL;
        *tail = item;
        tail = &item->next;
        if (!is_op(p, OP_COMMA))
            break;
        is_tuple = true;
        if (!next(p))
            return NULL;
    }
    if (!is_tuple && first)
        return first;
    if (!is_tuple && !(how & TUPLE_PARENS)) {
        unexpected(p, "an expression");
        return NULL;
    }
    if (!(tuple = new_node(p, N_TUPLE)))
        return NULL;
    tuple->a = first;
    return tuple;
}

/* Adjacent literals are one. */
static struct node *parse_string(struct parser *p)
{
    struct node *n = new_node(p, N_CONST);
    struct str text = p->tok.text;
    if (!n || !next(p))
        return NULL;
    while (p->tok.kind == T_STRING) {
        char *both = arena_push(p->arena, text.n + p->tok.text.n + 1, 1, 1);
        if (!both) {
            template_fail(p->e, p->t->name, p->tok.line, HEARTH_ENOMEM, "no memory left to compile the template");
            return NULL;
        }
        if (text.n)
            memcpy(both, text.p, text.n);
        if (p->tok.text.n)
            memcpy(both + text.n, p->tok.text.p, p->tok.text.n);
        text = (struct str){ both, text.n + p->tok.text.n };
        if (!next(p))
            return NULL;
    }
    return const_string(p, text, &n->v) ? n : NULL;
}

static struct node *parse_name(struct parser *p, bool as_target)
{
    static const struct { const char *name; uint8_t kind; bool b; } constants[] = {
        { "true", V_BOOL, true }, { "True", V_BOOL, true }, { "false", V_BOOL, false }, { "False", V_BOOL, false },
        { "none", V_NONE, false }, { "None", V_NONE, false },
    };
    struct node *n = new_node(p, N_NAME);
    if (!n)
        return NULL;
    for (size_t i = 0; i < ARRAY_LEN(constants); i++) {
        if (is_name(p, constants[i].name)) {
            n->kind = N_CONST;
            n->v = (struct value){ .kind = constants[i].kind, .u.b = constants[i].b };
            return next(p) ? n : NULL;
        }
    }
    n->sym = intern(p, p->tok.text);
    if (!n->sym || !const_string(p, p->tok.text, &n->v))
        return NULL;
    if (p->macro)
        p->macro->flags |= (uint8_t)((is_name(p, "caller") ? MACRO_CALLER : 0) | (is_name(p, "varargs") ? MACRO_VARARGS : 0) |
                                     (is_name(p, "kwargs") ? MACRO_KWARGS : 0));
    if (!next(p))
        return NULL;
    if (as_target && is_op(p, OP_DOT)) {
        if (!next(p))
            return NULL;
        if (p->tok.kind != T_NAME) {
            unexpected(p, "a name");
            return NULL;
        }
        n->kind = N_NSREF;
        if (!const_string(p, p->tok.text, &n->v) || !next(p))
            return NULL;
    }
    return n;
}

static struct node *parse_bracketed(struct parser *p)
{
    struct node *n;
    if (is_op(p, OP_LBRACE))
        return parse_dict(p);
    if (is_op(p, OP_LBRACKET)) {
        n = new_node(p, N_LIST);
        return n && next(p) && parse_items(p, OP_RBRACKET, &n->a) ? n : NULL;
    }
    if (!is_op(p, OP_LPAREN)) {
        unexpected(p, "an expression");
        return NULL;
    }
    if (!next(p) || !(n = parse_tuple(p, TUPLE_PARENS, NULL)) || !expect_op(p, OP_RPAREN, "')'"))
        return NULL;
    return n;
}

static struct node *parse_primary(struct parser *p, bool as_target)
{
    struct node *n;
    switch (p->tok.kind) {
    case T_NAME: return parse_name(p, as_target);
    case T_STRING: return parse_string(p);
    case T_INT:
    case T_FLOAT:
        n = new_node(p, N_CONST);
        if (!n)
            return NULL;
        n->v = p->tok.kind == T_INT ? v_int(p->tok.i) : v_float(p->tok.f);
        return next(p) ? n : NULL;
    default: break;
    }
    return parse_bracketed(p);
}

/* ---- what follows an operand ---- */

static bool parse_argument(struct parser *p, struct node **out, unsigned *seen)
{
    struct node *n = new_node(p, A_POSITIONAL);
    if (!n)
        return false;
    if (is_op(p, OP_MUL) || is_op(p, OP_POW)) {
        n->kind = is_op(p, OP_MUL) ? A_STAR : A_STARSTAR;
        if (!next(p))
            return false;
    } else if (p->tok.kind == T_NAME) {
        if (!look(p))
            return false;
        if (p->ahead.kind == T_OP && p->ahead.op == OP_ASSIGN) {
            n->kind = A_KEYWORD;
            if (!const_string(p, p->tok.text, &n->v) || !next(p) || !next(p))
                return false;
        }
    }
    /* Positional before keywords and stars, one of each star, nothing behind a double star. */
    if ((n->kind == A_POSITIONAL && *seen) || (n->kind == A_KEYWORD && (*seen & 4)) || (n->kind == A_STAR && (*seen & 6)) ||
        (n->kind == A_STARSTAR && (*seen & 4)))
        return parse_fail(p, "invalid syntax for function call expression");
    *seen |= n->kind == A_KEYWORD ? 1u : n->kind == A_STAR ? 2u : n->kind == A_STARSTAR ? 4u : 0u;
    *out = n;
    return (n->a = parse_expression(p)) != NULL;
}

/* "(a, b=c)" with the parenthesis as the current token. */
static bool parse_arguments(struct parser *p, struct node **list)
{
    struct node **tail = list;
    unsigned seen = 0;
    if (!next(p))
        return false;
    while (!is_op(p, OP_RPAREN)) {
        if (tail != list && !expect_op(p, OP_COMMA, "','"))
            return false;
        if (is_op(p, OP_RPAREN))
            break;
        if (!parse_argument(p, tail, &seen))
            return false;
        tail = &(*tail)->next;
    }
    return next(p);
}

static struct node *parse_subscript(struct parser *p)
{
    struct node *n = new_node(p, P_ITEM), *parts[3] = { NULL, NULL, NULL };
    int n_colons = 0;
    if (!n || !next(p))
        return NULL;
    if (is_op(p, OP_RBRACKET)) { /* a[] is a[()] */
        n->a = new_node(p, N_TUPLE);
        return n->a && next(p) ? n : NULL;
    }
    while (!is_op(p, OP_RBRACKET) && !is_op(p, OP_COMMA)) {
        if (is_op(p, OP_COLON)) {
            if (++n_colons > 2) {
                unexpected(p, "']'");
                return NULL;
            }
            if (!next(p))
                return NULL;
        } else if (parts[n_colons]) {
            unexpected(p, "']'");
            return NULL;
        } else if (!(parts[n_colons] = parse_expression(p))) {
            return NULL;
        }
    }
    n->a = parts[0];
    if (n_colons) {
        n->kind = P_SLICE;
        n->b = parts[1];
        n->c = parts[2];
    } else if (is_op(p, OP_COMMA)) { /* a[1, 2] is a[(1, 2)] */
        struct node *tuple = new_node(p, N_TUPLE);
        if (!parts[0]) {
            unexpected(p, "an expression");
            return NULL;
        }
        if (!tuple || !next(p) || !parse_items(p, OP_RBRACKET, &parts[0]->next))
            return NULL;
        tuple->a = parts[0];
        n->a = tuple;
        return n;
    }
    return expect_op(p, OP_RBRACKET, "']'") ? n : NULL;
}

static struct node *parse_attribute(struct parser *p)
{
    struct node *n = new_node(p, P_ATTR);
    if (!n || !next(p))
        return NULL;
    if (p->tok.kind == T_NAME) {
        if (!const_string(p, p->tok.text, &n->v))
            return NULL;
    } else if (p->tok.kind == T_INT) {
        n->kind = P_ITEM;
        if (!(n->a = new_node(p, N_CONST)))
            return NULL;
        n->a->v = v_int(p->tok.i);
    } else {
        unexpected(p, "a name or a number");
        return NULL;
    }
    return next(p) ? n : NULL;
}

static struct node *parse_filter(struct parser *p)
{
    struct node *n = new_node(p, P_FILTER);
    if (!n)
        return NULL;
    if (p->tok.kind != T_NAME) {
        unexpected(p, "the name of a filter");
        return NULL;
    }
    n->fn = filter_find(p->tok.text);
    if (!n->fn) {
        template_fail(p->e, p->t->name, p->tok.line, HEARTH_EUNSUPPORTED, "no filter named '%.*s'", STR_FMT(p->tok.text));
        return NULL;
    }
    if (!next(p) || (is_op(p, OP_LPAREN) && !parse_arguments(p, &n->b)))
        return NULL;
    return n;
}

/* Behind "is": [not] name, with arguments in parentheses or one operand without. */
static struct node *parse_test(struct parser *p)
{
    struct node *n = new_node(p, P_TEST), *arg;
    if (!n || !next(p))
        return NULL;
    if (is_name(p, "not")) {
        n->flags = 1;
        if (!next(p))
            return NULL;
    }
    if (p->tok.kind != T_NAME) {
        unexpected(p, "the name of a test");
        return NULL;
    }
    n->fn = test_find(p->tok.text);
    if (!n->fn) {
        template_fail(p->e, p->t->name, p->tok.line, HEARTH_EUNSUPPORTED, "no test named '%.*s'", STR_FMT(p->tok.text));
        return NULL;
    }
    if (!next(p))
        return NULL;
    if (is_op(p, OP_LPAREN))
        return parse_arguments(p, &n->b) ? n : NULL;
    bool operand = p->tok.kind == T_STRING || p->tok.kind == T_INT || p->tok.kind == T_FLOAT || is_op(p, OP_LBRACKET) ||
                   is_op(p, OP_LBRACE) ||
                   (p->tok.kind == T_NAME && !is_name(p, "else") && !is_name(p, "or") && !is_name(p, "and") &&
                    !is_name(p, "if") && !is_name(p, "in") && !is_name(p, "not") && !is_name(p, "recursive"));
    if (!operand)
        return n;
    if (is_name(p, "is")) {
        parse_fail(p, "tests cannot be chained with 'is'");
        return NULL;
    }
    if (!(n->b = new_node(p, A_POSITIONAL)) || !(arg = parse_primary(p, false)))
        return NULL;
    n->b->a = arg;
    if (is_op(p, OP_DOT) || is_op(p, OP_LBRACKET)) {
        struct node *chain = new_node(p, N_POSTFIX), **tail = chain ? &chain->b : NULL;
        if (!chain)
            return NULL;
        chain->a = arg;
        n->b->a = chain;
        while (is_op(p, OP_DOT) || is_op(p, OP_LBRACKET)) {
            if (!(*tail = is_op(p, OP_DOT) ? parse_attribute(p) : parse_subscript(p)))
                return NULL;
            tail = &(*tail)->next;
        }
    }
    return n;
}

static struct node *parse_link(struct parser *p, bool *filters)
{
    struct node *link;
    if (is_op(p, OP_LPAREN)) {
        link = new_node(p, P_CALL);
        return link && parse_arguments(p, &link->b) ? link : NULL;
    }
    if (is_op(p, OP_DOT))
        return parse_attribute(p);
    if (is_op(p, OP_LBRACKET))
        return parse_subscript(p);
    *filters = true; /* behind the first filter only filters, tests and calls follow */
    if (is_op(p, OP_PIPE))
        return next(p) ? parse_filter(p) : NULL;
    return parse_test(p);
}

/* Appends to the chain whatever follows; `filters`: they may, too. */
static struct node *parse_chain(struct parser *p, struct node *base, bool filters)
{
    struct node *chain = NULL, **tail = NULL;
    bool filtered = false;
    while ((!filtered && (is_op(p, OP_DOT) || is_op(p, OP_LBRACKET))) || is_op(p, OP_LPAREN) ||
           (filters && (is_op(p, OP_PIPE) || is_name(p, "is")))) {
        if (!chain) {
            if (!(chain = new_node(p, N_POSTFIX)))
                return NULL;
            chain->a = base;
            tail = &chain->b;
        }
        if (!(*tail = parse_link(p, &filtered)))
            return NULL;
        tail = &(*tail)->next;
    }
    return chain ? chain : base;
}

static struct node *parse_unary(struct parser *p, bool filters)
{
    struct node *n;
    if (is_op(p, OP_SUB) || is_op(p, OP_ADD)) {
        n = new_node(p, is_op(p, OP_SUB) ? N_NEG : N_POS);
        if (!n || !depth(p) || !next(p))
            return NULL;
        n->a = parse_unary(p, false);
        p->depth--;
        if (!n->a)
            return NULL;
    } else if (!(n = parse_primary(p, false))) {
        return NULL;
    }
    return parse_chain(p, n, filters);
}

/* ---- operators ---- */

static struct node *unary_with_filters(struct parser *p)
{
    return parse_unary(p, true);
}

/* first, then (op operand)* for the operators of one level: a single N_ARITH with the list in b. */
static struct node *parse_level(struct parser *p, struct node *(*operand)(struct parser *), const uint8_t *ops, size_t n_ops)
{
    struct node *first = operand(p), *chain = NULL, **tail = NULL;
    while (first && p->tok.kind == T_OP && memchr(ops, p->tok.op, n_ops)) {
        struct node *step = new_node(p, N_OPERAND);
        if (!step)
            return NULL;
        step->op = p->tok.op;
        if (!chain) {
            if (!(chain = new_node(p, N_ARITH)))
                return NULL;
            chain->a = first;
            tail = &chain->b;
        }
        if (!next(p) || !(step->a = operand(p)))
            return NULL;
        *tail = step;
        tail = &step->next;
    }
    return chain ? chain : first;
}

static struct node *parse_pow(struct parser *p)
{
    static const uint8_t ops[] = { OP_POW };
    return parse_level(p, unary_with_filters, ops, 1);
}

static struct node *parse_product(struct parser *p)
{
    static const uint8_t ops[] = { OP_MUL, OP_DIV, OP_FLOORDIV, OP_MOD };
    return parse_level(p, parse_pow, ops, sizeof ops);
}

static struct node *parse_concat(struct parser *p)
{
    struct node *first = parse_product(p), *chain = NULL, *last;
    last = first;
    while (last && is_op(p, OP_TILDE)) {
        if (!chain) {
            if (!(chain = new_node(p, N_CONCAT)))
                return NULL;
            chain->a = first;
        }
        if (!next(p) || !(last->next = parse_product(p)))
            return NULL;
        last = last->next;
    }
    return chain && last ? chain : first;
}

static struct node *parse_sum(struct parser *p)
{
    static const uint8_t ops[] = { OP_ADD, OP_SUB };
    return parse_level(p, parse_concat, ops, sizeof ops);
}

/* The comparison at the current token, if it is one; *words: how many tokens it takes. */
static bool comparison(struct parser *p, enum op *op, int *words)
{
    *words = 1;
    if (p->tok.kind == T_OP && p->tok.op >= OP_EQ && p->tok.op <= OP_LE) {
        *op = p->tok.op;
        return true;
    }
    if (is_name(p, "in")) {
        *op = OP_IN;
        return true;
    }
    if (is_name(p, "not") && look(p) && p->ahead.kind == T_NAME && str_eqz(p->ahead.text, "in")) {
        *op = OP_NOT_IN;
        *words = 2;
        return true;
    }
    return false;
}

static struct node *parse_compare(struct parser *p)
{
    struct node *first = parse_sum(p), *chain = NULL, **tail = NULL;
    enum op op;
    int words;
    while (first && comparison(p, &op, &words)) {
        struct node *step = new_node(p, N_OPERAND);
        if (!step)
            return NULL;
        step->op = (uint8_t)op;
        if (!chain) {
            if (!(chain = new_node(p, N_COMPARE)))
                return NULL;
            chain->a = first;
            tail = &chain->b;
        }
        if (!next(p) || (words == 2 && !next(p)) || !(step->a = parse_sum(p)))
            return NULL;
        *tail = step;
        tail = &step->next;
    }
    return first && p->e->status == HEARTH_OK ? (chain ? chain : first) : NULL;
}

static struct node *parse_not(struct parser *p)
{
    struct node *n;
    if (!is_name(p, "not"))
        return parse_compare(p);
    n = new_node(p, N_NOT);
    if (!n || !depth(p) || !next(p))
        return NULL;
    n->a = parse_not(p);
    p->depth--;
    return n->a ? n : NULL;
}

static struct node *parse_logic(struct parser *p, struct node *(*operand)(struct parser *), const char *word, enum node_kind kind)
{
    struct node *first = operand(p), *chain = NULL, *last;
    last = first;
    while (last && is_name(p, word)) {
        if (!chain) {
            if (!(chain = new_node(p, kind)))
                return NULL;
            chain->a = first;
        }
        if (!next(p) || !(last->next = operand(p)))
            return NULL;
        last = last->next;
    }
    return chain ? chain : first;
}

static struct node *parse_and(struct parser *p)
{
    return parse_logic(p, parse_not, "and", N_AND);
}

static struct node *parse_or(struct parser *p)
{
    return parse_logic(p, parse_and, "or", N_OR);
}

static struct node *parse_conditional(struct parser *p)
{
    struct node *n = parse_or(p);
    while (n && is_name(p, "if")) {
        struct node *cond = new_node(p, N_COND);
        if (!cond || !next(p))
            return NULL;
        cond->a = n;
        if (!(cond->b = parse_or(p)))
            return NULL;
        if (is_name(p, "else") && (!next(p) || !(cond->c = parse_expression(p))))
            return NULL;
        n = cond;
        if (!depth(p)) /* a if b if c ... nests to the left */
            return NULL;
    }
    return n;
}

static struct node *parse_expression(struct parser *p)
{
    unsigned before = p->depth;
    struct node *n;
    if (!depth(p))
        return NULL;
    n = parse_conditional(p);
    p->depth = before;
    return n;
}

/* ---- statements ---- */

static bool is_target(const struct node *n)
{
    if (n->kind != N_TUPLE)
        return n->kind == N_NAME || n->kind == N_NSREF;
    for (const struct node *item = n->a; item; item = item->next)
        if (!is_target(item))
            return false;
    return true;
}

static struct node *parse_target(struct parser *p, const char *stop)
{
    struct node *n = parse_tuple(p, TUPLE_TARGET, stop);
    if (n && !is_target(n)) {
        parse_fail(p, "can only assign to names");
        return NULL;
    }
    return n;
}

static bool end_tag(struct parser *p, const char *name)
{
    return expect_name(p, name);
}

/* A body and its end: the name of the end tag is consumed, not the "%}" behind it. */
static bool parse_block(struct parser *p, const char *end, struct node **body)
{
    const char *const ends[] = { end, NULL };
    return parse_body(p, ends, body) && end_tag(p, end);
}

static struct node *parse_for(struct parser *p)
{
    static const char *const ends[] = { "endfor", "else", NULL };
    struct node *n = new_node(p, S_FOR);
    if (!n || !next(p) || !(n->a = parse_target(p, "in")) || !expect_name(p, "in") ||
        !(n->b = parse_tuple(p, TUPLE_NO_COND, "recursive")))
        return NULL;
    if (is_name(p, "if") && (!next(p) || !(n->d = parse_expression(p))))
        return NULL;
    if (is_name(p, "recursive")) {
        n->flags = 1;
        if (!next(p))
            return NULL;
    }
    p->loops++;
    if (!parse_body(p, ends, &n->c))
        return NULL;
    p->loops--;
    if (is_name(p, "else"))
        return next(p) && parse_block(p, "endfor", &n->e) ? n : NULL;
    return next(p) ? n : NULL;
}

static struct node *parse_if(struct parser *p)
{
    static const char *const ends[] = { "elif", "else", "endif", NULL };
    struct node *n = new_node(p, S_IF), **tail = n ? &n->a : NULL;
    if (!n)
        return NULL;
    for (;;) {
        struct node *branch = new_node(p, S_BRANCH);
        bool is_else = is_name(p, "else");
        if (!branch || !next(p) || (!is_else && !(branch->a = parse_tuple(p, TUPLE_NO_COND, NULL))))
            return NULL;
        *tail = branch;
        tail = &branch->next;
        if (is_else)
            return parse_block(p, "endif", &branch->c) ? n : NULL;
        if (!parse_body(p, ends, &branch->c))
            return NULL;
        if (is_name(p, "endif"))
            return next(p) ? n : NULL;
    }
}

/* "|a|b(c)" behind set, or "a|b" behind filter. */
static bool parse_filters(struct parser *p, struct node **list, bool starts_bare)
{
    struct node **tail = list;
    while (starts_bare || is_op(p, OP_PIPE)) {
        if (!starts_bare && !next(p))
            return false;
        starts_bare = false;
        if (!(*tail = parse_filter(p)))
            return false;
        tail = &(*tail)->next;
    }
    return true;
}

static struct node *parse_set(struct parser *p)
{
    struct node *n = new_node(p, S_SET);
    if (!n || !next(p) || !(n->a = parse_target(p, NULL)))
        return NULL;
    if (is_op(p, OP_ASSIGN))
        return next(p) && (n->b = parse_tuple(p, 0, NULL)) ? n : NULL;
    n->kind = S_SETBLOCK;
    return parse_filters(p, &n->b, false) && parse_block(p, "endset", &n->c) ? n : NULL;
}

/* "(a, b=1)" of a macro or a call block; the parenthesis is the current token. */
static bool parse_params(struct parser *p, struct node **list)
{
    struct node **tail = list;
    bool defaults = false;
    if (!expect_op(p, OP_LPAREN, "'('"))
        return false;
    while (!is_op(p, OP_RPAREN)) {
        struct node *param;
        if (tail != list && !expect_op(p, OP_COMMA, "','"))
            return false;
        if (is_op(p, OP_RPAREN))
            break;
        if (p->tok.kind != T_NAME)
            return unexpected(p, "the name of a parameter");
        if (!(param = new_node(p, S_PARAM)) || !(param->sym = intern(p, p->tok.text)) || !const_string(p, p->tok.text, &param->v) ||
            !next(p))
            return false;
        if (is_op(p, OP_ASSIGN)) {
            if (!next(p) || !(param->a = parse_expression(p)))
                return false;
            defaults = true;
        } else if (defaults) {
            return parse_fail(p, "non-default argument follows default argument");
        }
        *tail = param;
        tail = &param->next;
    }
    return next(p);
}

static bool parse_macro_body(struct parser *p, struct node *n, const char *end)
{
    struct node *outer = p->macro;
    unsigned loops = p->loops;
    bool ok;
    p->macro = n;
    p->loops = 0;
    ok = parse_block(p, end, &n->c);
    p->macro = outer;
    p->loops = loops;
    return ok;
}

static struct node *parse_macro(struct parser *p)
{
    struct node *n = new_node(p, S_MACRO);
    if (!n || !next(p))
        return NULL;
    if (p->tok.kind != T_NAME) {
        unexpected(p, "the name of a macro");
        return NULL;
    }
    if (!(n->sym = intern(p, p->tok.text)) || !next(p) || !parse_params(p, &n->b))
        return NULL;
    return parse_macro_body(p, n, "endmacro") ? n : NULL;
}

static struct node *parse_call(struct parser *p)
{
    struct node *n = new_node(p, S_CALLBLOCK), *last;
    if (!n || !next(p) || (is_op(p, OP_LPAREN) && !parse_params(p, &n->b)) || !(n->a = parse_expression(p)))
        return NULL;
    last = n->a->kind == N_POSTFIX ? n->a->b : NULL;
    while (last && last->next)
        last = last->next;
    if (!last || last->kind != P_CALL) {
        parse_fail(p, "expected a call behind 'call'");
        return NULL;
    }
    return parse_macro_body(p, n, "endcall") ? n : NULL;
}

static struct node *parse_with(struct parser *p)
{
    struct node *n = new_node(p, S_WITH), **tail = n ? &n->b : NULL;
    if (!n || !next(p))
        return NULL;
    while (p->tok.kind != T_BLOCK_END) {
        struct node *set;
        if (n->b && !expect_op(p, OP_COMMA, "','"))
            return NULL;
        if (!(set = new_node(p, S_SET)) || !(set->a = parse_target(p, NULL)) || !expect_op(p, OP_ASSIGN, "'='") ||
            !(set->b = parse_expression(p)))
            return NULL;
        *tail = set;
        tail = &set->next;
    }
    return parse_block(p, "endwith", &n->c) ? n : NULL;
}

static struct node *parse_jump(struct parser *p, enum node_kind kind)
{
    struct node *n = new_node(p, kind);
    if (!p->loops) {
        parse_fail(p, "'%s' outside a loop", kind == S_BREAK ? "break" : "continue");
        return NULL;
    }
    return n && next(p) ? n : NULL;
}

static struct node *parse_statement(struct parser *p)
{
    struct node *n;
    if (p->tok.kind != T_NAME) {
        unexpected(p, "the name of a tag");
        return NULL;
    }
    if (is_name(p, "for"))
        return parse_for(p);
    if (is_name(p, "if"))
        return parse_if(p);
    if (is_name(p, "set"))
        return parse_set(p);
    if (is_name(p, "macro"))
        return parse_macro(p);
    if (is_name(p, "call"))
        return parse_call(p);
    if (is_name(p, "with"))
        return parse_with(p);
    if (is_name(p, "break") || is_name(p, "continue"))
        return parse_jump(p, is_name(p, "break") ? S_BREAK : S_CONTINUE);
    if (is_name(p, "filter"))
        return (n = new_node(p, S_FILTER)) && next(p) && parse_filters(p, &n->b, true) && parse_block(p, "endfilter", &n->c) ? n : NULL;
    if (is_name(p, "generation"))
        return (n = new_node(p, S_SCOPE)) && next(p) && parse_block(p, "endgeneration", &n->c) ? n : NULL;
    if (is_name(p, "print")) {
        n = new_node(p, S_OUTPUT);
        return n && next(p) && (n->a = parse_tuple(p, 0, NULL)) ? n : NULL;
    }
    if (p->tok.text.n > 3 && memcmp(p->tok.text.p, "end", 3) == 0)
        parse_fail(p, "'%.*s' closes nothing", STR_FMT(p->tok.text));
    else
        template_fail(p->e, p->t->name, p->tok.line, HEARTH_EUNSUPPORTED, "the tag '%.*s' is not supported", STR_FMT(p->tok.text));
    return NULL;
}

static bool at_end(const struct parser *p, const char *const *ends)
{
    for (; ends && *ends; ends++)
        if (is_name(p, *ends))
            return true;
    return false;
}

/* One piece of a body: text, an output or a statement. *end: an end tag was met, its name is current. */
static bool parse_piece(struct parser *p, const char *const *ends, struct node **out, bool *end)
{
    struct node *n;
    *end = false;
    switch (p->tok.kind) {
    case T_DATA:
        n = *out = new_node(p, S_TEXT);
        return n && const_string(p, p->tok.text, &n->v) && next(p);
    case T_VAR_BEGIN:
        n = *out = new_node(p, S_OUTPUT);
        return n && next(p) && (n->a = parse_tuple(p, 0, NULL)) && (p->tok.kind == T_VAR_END ? next(p) : unexpected(p, "'}}'"));
    default: break;
    }
    if (!next(p))
        return false;
    if (at_end(p, ends)) {
        *end = true;
        return true;
    }
    return (*out = parse_statement(p)) && (p->tok.kind == T_BLOCK_END ? next(p) : unexpected(p, "'%}'"));
}

/* Behind "%}" of a tag (ends set) or from the start of the template (ends NULL). */
static bool parse_body(struct parser *p, const char *const *ends, struct node **out)
{
    struct node **tail = out;
    uint32_t line = p->tok.line;
    bool end = false;
    if (ends) {
        if (is_op(p, OP_COLON) && !next(p))
            return false;
        if (p->tok.kind != T_BLOCK_END)
            return unexpected(p, "'%}'");
        if (!next(p))
            return false;
    }
    if (!depth(p))
        return false;
    while (p->tok.kind != T_EOF) {
        if (!parse_piece(p, ends, tail, &end))
            return false;
        if (end)
            break;
        tail = &(*tail)->next;
    }
    p->depth--;
    if (ends && !end)
        return template_fail(p->e, p->t->name, line, HEARTH_EINVAL, "the block that begins here has no '%s'", ends[0]);
    return true;
}

enum hearth_status template_compile(struct template **out, const char *text, size_t n, const char *name, struct arena *a,
                                    struct err *e)
{
    struct err own = { 0 };
    struct parser p = { .arena = a, .e = &own };
    char *copy;
    if (n > LIMIT_TEMPLATE_BYTES)
        return err_set(e, HEARTH_ELIMIT, "%s: the template has %zu bytes, more than %zu", name, n, LIMIT_TEMPLATE_BYTES);
    p.t = ARENA_NEW(a, struct template, 1);
    copy = p.t ? arena_strndup(a, name, strlen(name)) : NULL;
    if (!copy)
        return err_set(e, HEARTH_ENOMEM, "%s: no memory left to compile the template", name);
    p.t->name = (struct str){ copy, strlen(name) };
    if (!lexer_open(&p.lex, text, n, p.t->name, a, &own) || !next(&p) || !parse_body(&p, NULL, &p.t->body))
        return err_set(e, own.status, "%s", own.text);
    *out = p.t;
    return HEARTH_OK;
}

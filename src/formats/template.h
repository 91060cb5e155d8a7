/* template.h: what the files of the template interpreter share; private to this folder.
 *
 *   template_lex.c      source text -> tokens, with Jinja's whitespace control
 *   template_parse.c    tokens -> tree of struct node in the compile arena
 *   template_eval.c     runs the tree: statements, scopes, macros, operators
 *   template_value.c    values as Python has them: truth, equality, order, printing, dicts, from JSON
 *   template_text.c     strings that know which of their bytes came from data, and what is done to them
 *   template_filters.c  filters and tests        template_methods.c  methods and global functions
 *   chat.c              a conversation through a template
 *
 * Taint. Every string says for each byte whether it came from the template (trusted) or from data: one
 * flag while it is uniform, a byte mask once it is mixed. Whatever cuts, joins or maps text carries the
 * marks along, so the output's untrusted ranges are exact, and "<|im_end|>" typed by a user stays data
 * through any number of filters. Numbers, punctuation of printed lists and JSON, and dates are trusted.
 *
 * Bounds. A render has fuel (one step per node visited, one more per 64 bytes moved), memory (one
 * arena), a depth, and no string longer than the output may be. Nothing is freed while it runs. The
 * parser's depth bounds the tree, the evaluator's depth bounds recursion through macros and loops, and
 * every walk over nested data has its own level: so the C stack is bounded for any input.
 */
#ifndef HEARTH_FORMATS_TEMPLATE_H
#define HEARTH_FORMATS_TEMPLATE_H

#include "formats/formats.h"

struct interp;
struct node;

/* ---- values ---- */

enum value_kind {
    V_MISSING, /* an argument that was not given; never seen by templates */
    V_UNDEFINED, V_NONE, V_BOOL, V_INT, V_FLOAT, V_STRING, V_SEQ, V_DICT, V_NAMESPACE, V_MACRO, V_FUNC,
    V_METHOD, V_LOOP
};

struct value {
    uint8_t kind; /* enum value_kind */
    union {
        bool b;
        int64_t i;
        double f;
        const struct string *s;
        const struct string *name; /* UNDEFINED: what was asked for, for the message; may be NULL */
        struct seq *seq;
        struct dict *dict; /* DICT, NAMESPACE */
        struct macro *macro;
        const struct builtin *fn;
        struct method *method;
        struct loop *loop;
    } u;
};

/* Immutable. Valid UTF-8 always: the template is checked, and JSON is. */
struct string {
    const char *p;
    size_t n;
    const uint8_t *mask; /* [n] 1: from data; NULL: all bytes are as `tainted` says */
    struct sbuf *owner;  /* where p lies, when it may be extended in place; else NULL */
    uint32_t n_chars;    /* code points; UINT32_MAX: not counted yet */
    bool tainted;
};

/* A string under construction; grows by doubling in the render arena. */
struct sbuf {
    char *text;
    uint8_t *mask; /* NULL while uniform */
    size_t len, cap;
    bool tainted; /* when uniform and len > 0 */
};

enum seq_flavour { SEQ_LIST, SEQ_TUPLE, SEQ_RANGE, SEQ_KEYS, SEQ_VALUES, SEQ_ITEMS, SEQ_ITER };

struct seq {
    uint8_t flavour;  /* enum seq_flavour. ITER: a generator: always true, no length, consumed once */
    size_t n, cap, pos; /* pos: consumed so far (ITER) */
    struct value *v;
    const int64_t *range; /* RANGE: start, stop, step as given, for printing */
};

struct pair {
    struct value key, val;
    uint64_t hash;
};
struct dict { /* in order of insertion */
    struct pair *pairs;
    size_t n, cap;
    uint32_t *index; /* open addressing, entry = position + 1; NULL while small */
    size_t n_index;
};

struct macro {
    const struct node *def; /* S_MACRO or S_CALLBLOCK */
    struct scope *scope;    /* where it was defined */
};
struct method {
    struct value self;
    const struct builtin *fn;
};
struct loop {
    const struct node *def;
    struct scope *scope;    /* around the loop, for loop(...) */
    struct value *items;
    size_t n, i;
    int64_t depth0;
    bool recursive;
    struct value changed;   /* last arguments of loop.changed, as a tuple */
};

static inline struct value v_none(void) { return (struct value){ .kind = V_NONE }; }
static inline struct value v_undefined(const struct string *name) { return (struct value){ .kind = V_UNDEFINED, .u.name = name }; }
static inline struct value v_bool(bool b) { return (struct value){ .kind = V_BOOL, .u.b = b }; }
static inline struct value v_int(int64_t i) { return (struct value){ .kind = V_INT, .u.i = i }; }
static inline struct value v_float(double f) { return (struct value){ .kind = V_FLOAT, .u.f = f }; }
static inline struct value v_string(const struct string *s) { return (struct value){ .kind = V_STRING, .u.s = s }; }
static inline struct value v_seq(struct seq *q) { return (struct value){ .kind = V_SEQ, .u.seq = q }; }

/* ---- the tree ---- */

enum op {
    OP_ADD, OP_SUB, OP_MUL, OP_DIV, OP_FLOORDIV, OP_MOD, OP_POW, OP_TILDE, OP_LBRACKET, OP_RBRACKET, OP_LPAREN,
    OP_RPAREN, OP_LBRACE, OP_RBRACE, OP_EQ, OP_NE, OP_GT, OP_GE, OP_LT, OP_LE, OP_ASSIGN, OP_DOT, OP_COLON,
    OP_PIPE, OP_COMMA, OP_SEMICOLON, OP_IN, OP_NOT_IN
};

enum node_kind {
    /* expressions: children a, b, c; lists hang on `next` */
    N_CONST, N_NAME, N_NSREF /* sym.v, as a target */, N_LIST, N_TUPLE, N_DICT /* of N_PAIR */, N_PAIR,
    N_COND /* a if b else c */, N_AND, N_OR, N_NOT, N_COMPARE, N_ARITH, N_OPERAND /* one step of a chain: op a */,
    N_CONCAT, N_NEG, N_POS,
    N_POSTFIX /* a, then the list b of: */, P_ATTR, P_ITEM, P_SLICE, P_CALL, P_FILTER, P_TEST,
    A_POSITIONAL, A_KEYWORD, A_STAR, A_STARSTAR, /* arguments: the list b of P_CALL, P_FILTER, P_TEST */
    /* statements */
    S_TEXT, S_OUTPUT, S_IF /* list a of S_BRANCH */, S_BRANCH /* a condition or NULL, c body */,
    S_FOR /* a target, b iterable, c body, d filter, e else */, S_SET, S_SETBLOCK /* a target, b filters, c body */,
    S_MACRO /* sym, b params, c body */, S_CALLBLOCK /* a call, b params, c body */, S_PARAM,
    S_FILTER /* b filters, c body */, S_WITH /* list b of S_SET, c body */, S_BREAK, S_CONTINUE, S_SCOPE /* c body */
};

enum { MACRO_CALLER = 1, MACRO_VARARGS = 2, MACRO_KWARGS = 4 }; /* names its body uses */

struct symbol {
    struct str name;
    const struct builtin *global; /* NULL: no function of that name */
    struct symbol *next;          /* in its bucket */
};

struct node {
    uint8_t kind, op;
    uint8_t flags; /* P_TEST: negated; S_FOR: recursive; S_MACRO: MACRO_* */
    uint32_t line;
    struct node *next, *a, *b, *c, *d, *e;
    const struct symbol *sym;
    const struct builtin *fn;
    struct value v;
};

enum { TEMPLATE_BUCKETS = 1024 };

struct template {
    struct str name;
    struct node *body;
    struct symbol *symbols[TEMPLATE_BUCKETS];
};

/* NULL when the template never mentions that name. */
const struct symbol *template_symbol(const struct template *t, struct str name);

/* ---- lexer ---- */

enum token_kind { T_EOF, T_DATA, T_VAR_BEGIN, T_VAR_END, T_BLOCK_BEGIN, T_BLOCK_END, T_NAME, T_STRING, T_INT, T_FLOAT, T_OP };
struct token {
    uint8_t kind, op;
    uint32_t line;
    struct str text; /* DATA, NAME, STRING (decoded) */
    int64_t i;
    double f;
};
struct lexer {
    const char *p; /* normalised source */
    size_t n, at;
    size_t line_at; /* lines were counted up to here */
    uint32_t line;
    uint8_t mode, want; /* what follows: text, inside {{, inside {% */
    size_t n_open;
    char open[128]; /* brackets not yet closed: inside them "}}" and "%}" do not end a tag */
    struct str name;
    struct arena *arena;
    struct err *e;
};
/* Copies the source with line ends as \n and one trailing newline dropped. */
bool lexer_open(struct lexer *x, const char *text, size_t n, struct str name, struct arena *a, struct err *e);
bool lexer_next(struct lexer *x, struct token *out);
bool template_fail(struct err *e, struct str name, uint32_t line, enum hearth_status st, const char *fmt, ...) PRINTF_LIKE(5, 6);

/* ---- running ---- */

struct binding {
    const struct symbol *sym;
    struct value v;
};
struct scope {
    struct scope *parent;
    struct binding *v;
    size_t n, cap;
};

struct interp {
    const struct template *t;
    struct arena arena;
    struct err *e;
    uint64_t steps_left;
    unsigned depth;
    uint32_t line;
    struct sbuf *out;      /* where output goes now */
    const char *date;      /* "YYYY-MM-DD", or NULL: the clock */
    bool raised;           /* the error came from raise_exception */
};

/* All below return false after setting in->e. */
bool interp_fail(struct interp *in, enum hearth_status st, const char *fmt, ...) PRINTF_LIKE(3, 4);
bool interp_memory(struct interp *in); /* the arena is full: fails */
bool spend(struct interp *in, uint64_t steps);

struct kwarg {
    struct str name;
    struct value v;
};
struct args {
    struct value *pos;
    size_t n_pos;
    struct kwarg *kw;
    size_t n_kw;
};

bool interp_arith(struct interp *in, enum op op, struct value a, struct value b, struct value *out);
bool interp_compare(struct interp *in, enum op op, struct value a, struct value b, bool *out); /* ==, <, in ... */
/* Calls a macro, method, function or loop. */
bool interp_call(struct interp *in, struct value callee, const struct args *args, struct value *out);

/* A filter, test, method or function. Its parameters are bound by name and position from `params` (at most
 * five, separated by spaces) before fn runs; those not given are V_MISSING. VARARGS: fn reads raw itself. */
enum { BUILTIN_PARAMS = 5, VARARGS = 255 };
struct builtin {
    const char *name;
    uint8_t n_required; /* or VARARGS */
    const char *params;
    bool (*fn)(struct interp *in, struct value self, const struct args *raw, const struct value *a, struct value *out);
};
bool builtin_call(struct interp *in, const struct builtin *b, struct value self, const struct args *args, struct value *out);
const struct builtin *builtin_find(const struct builtin *table, size_t n, struct str name);
const struct builtin *filter_find(struct str name);
const struct builtin *test_find(struct str name);
const struct builtin *global_find(struct str name);
/* NULL when the kind has no such attribute. */
const struct builtin *method_find(struct value self, struct str name);
bool loop_attribute(struct interp *in, struct loop *l, struct str name, struct value *out);

/* ---- values (template_value.c) ---- */

const char *type_name(struct value v);
bool truth(struct value v);
bool is_number(struct value v); /* bool, int, float */
double to_double(struct value v); /* of a number */
bool values_equal(struct interp *in, struct value a, struct value b, bool *out);
/* -1, 0, 1; fails for kinds Python does not order. op: for the message. */
bool values_order(struct interp *in, struct value a, struct value b, const char *op, int *out);
bool value_contains(struct interp *in, struct value container, struct value item, bool *out);
bool value_length(struct interp *in, struct value v, size_t *out);
/* The items a loop over v sees; a generator is consumed. *items stays valid for the render. */
bool value_items(struct interp *in, struct value v, struct value **items, size_t *n);
/* obj[key] and obj.name, Undefined when there is none. */
bool value_item(struct interp *in, struct value obj, struct value key, struct value *out);
bool value_attribute(struct interp *in, struct value obj, const struct string *name, struct value *out);
bool value_slice(struct interp *in, struct value obj, struct value start, struct value stop, struct value step, struct value *out);
bool value_str(struct interp *in, struct value v, const struct string **out); /* str(v) */
bool value_repr(struct interp *in, struct sbuf *b, struct value v, unsigned level);
bool seq_new(struct interp *in, enum seq_flavour flavour, size_t cap, struct seq **out);
bool seq_push(struct interp *in, struct seq *q, struct value v);
bool dict_new(struct interp *in, struct dict **out);
bool dict_set(struct interp *in, struct dict *d, struct value key, struct value val);
/* *out is NULL when absent. */
bool dict_get(struct interp *in, const struct dict *d, struct value key, struct pair **out);
bool dict_getz(struct interp *in, const struct dict *d, struct str key, struct pair **out);
bool dict_remove(struct interp *in, struct dict *d, struct value key, struct value *out, bool *found);
bool value_from_json(struct interp *in, const json_t *j, bool tainted, unsigned level, struct value *out);
void float_repr(double f, char out[32]);
double parse_double(const char *s, size_t n, bool *ok); /* Python's float(str), any locale */

/* ---- text (template_text.c) ---- */

bool sb_put(struct interp *in, struct sbuf *b, const char *p, size_t n, const uint8_t *mask, bool tainted);
bool sb_str(struct interp *in, struct sbuf *b, const struct string *s);
bool sb_lit(struct interp *in, struct sbuf *b, const char *z);
bool sb_code(struct interp *in, struct sbuf *b, uint32_t code, bool tainted);
struct sbuf *sb_new(struct interp *in); /* NULL: memory, error set */
bool sb_string(struct interp *in, struct sbuf *b, const struct string **out);
bool string_new(struct interp *in, const char *p, size_t n, bool tainted, const struct string **out); /* borrows p */
bool string_part(struct interp *in, const struct string *s, size_t begin, size_t end, const struct string **out);
bool string_concat(struct interp *in, const struct string *a, const struct string *b, const struct string **out);
size_t string_chars(const struct string *s);
size_t string_offset(const struct string *s, size_t i_char); /* byte offset of a character, or n */
bool string_equal(const struct string *a, const struct string *b);
static inline bool string_taint_at(const struct string *s, size_t i) { return s->mask ? s->mask[i] : s->tainted; }
static inline struct str string_str(const struct string *s) { return (struct str){ s->p, s->n }; }
uint32_t utf8_next(const char *p, size_t n, size_t *at); /* valid UTF-8 */
bool utf8_valid(const char *p, size_t n);
bool is_space(uint32_t code);
bool is_line_end(uint32_t code); /* str.splitlines() breaks there */
size_t find_bytes(const char *p, size_t n, const char *what, size_t n_what, size_t from); /* SIZE_MAX: none */
bool find_last(struct interp *in, const struct string *s, const struct string *part, size_t end, size_t *at);

enum text_case { CASE_UPPER, CASE_LOWER, CASE_TITLE, CASE_CAPITALIZE, CASE_SWAP, CASE_JINJA_TITLE };
bool text_case(struct interp *in, const struct string *s, enum text_case how, const struct string **out);
enum { STRIP_LEFT = 1, STRIP_RIGHT = 2 };
bool text_strip(struct interp *in, const struct string *s, const struct string *chars, int sides, const struct string **out);
bool text_replace(struct interp *in, const struct string *s, const struct string *from, const struct string *to, int64_t count, const struct string **out);
bool text_split(struct interp *in, const struct string *s, const struct string *sep, int64_t max, bool from_right, struct seq **out);
bool text_lines(struct interp *in, const struct string *s, bool keep_ends, struct seq **out);
bool text_repeat(struct interp *in, const struct string *s, int64_t times, const struct string **out);
bool text_escape(struct interp *in, const struct string *s, const struct string **out);
bool text_percent(struct interp *in, const struct string *format, const struct args *args, bool mapping, const struct string **out);
bool text_format(struct interp *in, const struct string *format, const struct args *args, const struct string **out);
struct json_style {
    bool ensure_ascii, sort_keys;
    const struct string *indent; /* NULL: one line */
    const struct string *item_separator, *key_separator; /* NULL: json.dumps' own */
};
bool text_json(struct interp *in, struct sbuf *b, struct value v, const struct json_style *style, unsigned level);

/* template_render with what chat_render knows besides: the date, and that role names are the template's own. */
struct render_options {
    const char *const *trusted;
    const char *date;
    bool trust_roles; /* messages[i].role when well known */
    size_t memory_bytes; /* 0: LIMIT_TEMPLATE_MEMORY_BYTES */
    bool raised;      /* out: the failure came from raise_exception */
};
MUST_CHECK enum hearth_status template_render_with(const struct template *t, json_t *vars, struct render_options *o,
                                                   struct rendered *out, struct err *e);

#endif

/* grammar_schema.c: JSON Schema (draft 2020-12) to a grammar.
 *
 * Each schema inside the schema becomes a rule, found by its address and made when its turn in the queue comes, so $ref may
 * point anywhere, also back. One schema is handled in this order:
 *
 *   true, {}                     any value
 *   only $ref / anyOf / oneOf    calls of the rules of what they name
 *   these beside other keywords  split: every choice of branches is merged with the rest to one plain schema (grammar_merge.c)
 *   enum, const                  their values as texts
 *   else                         one alternative for each type, bound by the keywords of that type
 *
 * The texts of the grammar are values the schema admits, though not all of them: properties come in the order in which they are
 * declared, required ones that are not declared behind them, others last; white space and numbers are those of
 * grammar_json.c; names of properties, enum values and texts under a pattern have one spelling only (escapes where they must be).
 * Of two branches of oneOf it must be certain that no value is in both, else the schema is refused. A second property of
 * the same undeclared name is not noticed. docs/GRAMMAR.md lists what is read, passed over, and refused by name.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/grammar_impl.h"
#include "formats/json.h"
#include "formats/tokenizer_impl.h"

enum { BRANCHES_MAX = 256, REF_HOPS_MAX = 64, MAP_SLOTS = 16384 };

struct pending { json_t *schema; uint32_t rule; };

struct schema {
    struct builder b;
    struct json_rules j;
    unsigned flags;
    json_t *root, *keep; /* keep: values made on the way, alive until the end */
    struct pending *queue; /* every schema that has a rule, in order of discovery */
    size_t n_queue, cap_queue;
    uint32_t *map;       /* [MAP_SLOTS] queue index + 1 by address */
    uint32_t never;      /* the rule of false */
};

static void unsupported(struct schema *s, const char *what)
{
    build_fail(&s->b, HEARTH_EUNSUPPORTED, "the schema's keyword \"%s\" is not supported", what);
}

static void wrong(struct schema *s, const char *key, const char *wanted)
{
    build_fail(&s->b, HEARTH_EINVAL, "the schema's \"%s\" is not %s", key, wanted);
}

/* ---- keywords ---- */

static bool is_one_of(const char *key, const char *const *list)
{
    for (; *list; list++)
        if (strcmp(key, *list) == 0)
            return true;
    return false;
}

/* Keywords that bind and that this file does not see to, of any draft and of OpenAPI. Unknown words are annotations. */
static const char *const refused[] = {
    "not", "if", "then", "else", "dependentSchemas", "dependentRequired", "dependencies", "patternProperties", "propertyNames",
    "minProperties", "maxProperties", "unevaluatedProperties", "unevaluatedItems", "additionalItems", "contains", "minContains",
    "maxContains", "multipleOf", "divisibleBy", "$dynamicRef", "$recursiveRef", "extends", "disallow", "nullable", NULL,
};
static const char *const combinators[] = { "$ref", "allOf", "anyOf", "oneOf", NULL };
static const char *const binding[] = {
    "type", "enum", "const", "properties", "required", "additionalProperties", "items", "prefixItems", "minItems", "maxItems",
    "minLength", "maxLength", "pattern", "format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", NULL,
};

/* Is a refused keyword harmless as it stands here? */
static bool says_nothing(const struct schema *s, const json_t *schema, const char *key, const json_t *v)
{
    bool has_if = json_object_get(schema, "if") != NULL, has_contains = json_object_get(schema, "contains") != NULL;
    if (strcmp(key, "then") == 0 || strcmp(key, "else") == 0)
        return !has_if;
    if (strcmp(key, "if") == 0)
        return !json_object_get(schema, "then") && !json_object_get(schema, "else");
    if (strcmp(key, "minContains") == 0 || strcmp(key, "maxContains") == 0)
        return !has_contains;
    if (strcmp(key, "minProperties") == 0)
        return json_is_number(v) && json_number_value(v) == 0;
    (void)s;
    return strcmp(key, "nullable") == 0 && json_is_false(v);
}

static bool check_keywords(struct schema *s, const json_t *schema)
{
    const char *key;
    json_t *v;
    if (!json_is_object(schema)) {
        build_fail(&s->b, HEARTH_EINVAL, "a schema must be an object, true or false");
        return false;
    }
    json_object_foreach((json_t *)(uintptr_t)schema, key, v) {
        if (is_one_of(key, refused) && !says_nothing(s, schema, key, v))
            unsupported(s, key);
        if (strcmp(key, "uniqueItems") == 0 && !json_is_false(v) && !(s->flags & SCHEMA_IGNORE_UNIQUE))
            unsupported(s, key);
        if (strcmp(key, "$id") == 0 && json_is_string(v) && schema != s->root)
            unsupported(s, "$id (in a part of the schema)");
        build_step(&s->b, 1);
    }
    return s->b.st == HEARTH_OK;
}

/* ---- rules of schemas ---- */

static bool is_any(const json_t *schema)
{
    return json_is_true(schema) || (json_is_object(schema) && json_object_size(schema) == 0);
}

static uint32_t rule_for(struct schema *s, json_t *schema)
{
    if (!schema || is_any(schema))
        return s->j.value;
    if (json_is_false(schema))
        return s->never;
    uint64_t h = (uint64_t)(uintptr_t)schema * 0x9E3779B97F4A7C15u;
    uint32_t at = (uint32_t)(h >> 50);
    void *v = s->queue;
    for (; s->map[at]; at = (at + 1) % MAP_SLOTS)
        if (s->queue[s->map[at] - 1].schema == schema)
            return s->queue[s->map[at] - 1].rule;
    if (s->n_queue >= MAP_SLOTS / 2)
        build_fail(&s->b, HEARTH_ELIMIT, "too complex: the schema has more than %d parts once it is merged", MAP_SLOTS / 2);
    if (!build_grow(&s->b, &v, s->n_queue, &s->cap_queue, sizeof *s->queue))
        return s->never;
    s->queue = v;
    s->queue[s->n_queue++] = (struct pending){ schema, build_rule(&s->b) };
    s->map[at] = (uint32_t)s->n_queue;
    return s->queue[s->n_queue - 1].rule;
}

static int hex_value(int c) { return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1; }

/* One step of a JSON pointer: ~0, ~1 and %XX undone. */
static void unescape_step(char *t)
{
    char *out = t;
    for (char *c = t; *c; c++) { /* percent first */
        int hi = *c == '%' ? hex_value((uint8_t)c[1]) : -1, lo = hi >= 0 ? hex_value((uint8_t)c[2]) : -1;
        *out++ = lo >= 0 ? (char)(hi * 16 + lo) : *c;
        c += lo >= 0 ? 2 : 0;
    }
    *out = 0;
    out = t;
    for (char *c = t; *c; c++) {
        bool is_escape = *c == '~' && (c[1] == '0' || c[1] == '1');
        *out++ = is_escape ? (c[1] == '0' ? '~' : '/') : *c;
        c += is_escape;
    }
    *out = 0;
}

/* What a $ref names, NULL after a failure. */
static json_t *resolve(struct schema *s, const json_t *ref)
{
    const char *text = json_string_value(ref), *id = json_string_value(json_object_get(s->root, "$id"));
    json_t *at = s->root;
    size_t n_id = id ? strlen(id) : 0;
    if (!text)
        return wrong(s, "$ref", "a text"), NULL;
    n_id -= n_id && id[n_id - 1] == '#';
    if (n_id && strncmp(text, id, n_id) == 0 && (text[n_id] == '#' || !text[n_id]))
        text += n_id;
    if (*text && (text[0] != '#' || (text[1] && text[1] != '/'))) {
        build_fail(&s->b, HEARTH_EUNSUPPORTED, "the schema's \"$ref\" to \"%.100s\" is not supported: it must begin with #/", text);
        return NULL;
    }
    text += *text == '#';
    while (at && *text == '/' && build_step(&s->b, 1)) {
        char step[512];
        size_t n = strcspn(++text, "/");
        if (n >= sizeof step)
            return wrong(s, "$ref", "short enough"), NULL;
        memcpy(step, text, n);
        step[n] = 0;
        unescape_step(step);
        text += n;
        at = json_is_array(at) ? (*step >= '0' && *step <= '9' ? json_array_get(at, strtoul(step, NULL, 10)) : NULL) : json_object_get(at, step);
        if (at && *text && json_is_string(json_object_get(at, "$id")))
            unsupported(s, "$id (in a part of the schema)");
    }
    if (!at)
        build_fail(&s->b, HEARTH_EINVAL, "the schema's \"$ref\" to \"%.100s\" leads nowhere", json_string_value(ref));
    return s->b.st == HEARTH_OK ? at : NULL;
}

/* Follows a schema that is nothing but $ref. */
static json_t *followed(struct schema *s, json_t *schema)
{
    for (int hops = 0; schema && json_is_object(schema) && json_object_size(schema) == 1 && json_object_get(schema, "$ref"); hops++) {
        if (hops == REF_HOPS_MAX)
            return build_fail(&s->b, HEARTH_EINVAL, "the schema's \"$ref\" goes in a circle"), NULL;
        schema = resolve(s, json_object_get(schema, "$ref"));
    }
    return schema;
}

static bool check_one_of(struct schema *s, json_t *branches)
{
    for (size_t i = 0; i < json_array_size(branches); i++)
        for (size_t k = 0; k < i && build_step(&s->b, 8); k++) {
            json_t *x = followed(s, json_array_get(branches, i)), *y = followed(s, json_array_get(branches, k));
            if (x && y && !schemas_are_apart(x, y))
                build_fail(&s->b, HEARTH_EUNSUPPORTED,
                           "the schema's keyword \"oneOf\" is only supported where no value fits two branches; branches %zu and %zu may overlap", k, i);
        }
    return s->b.st == HEARTH_OK;
}

/* ---- texts of values ---- */

/* A number of a dump: the shortest text that is the same double. */
static uint32_t number_text(struct builder *b, uint32_t at, const char *p, size_t n)
{
    char text[64], shortest[64];
    int precision = 1;
    if (n >= sizeof text || (!memchr(p, '.', n) && !memchr(p, 'e', n)))
        return build_text(b, at, p, n);
    memcpy(text, p, n);
    text[n] = 0;
    do
        snprintf(shortest, sizeof shortest, "%.*g", precision, strtod(text, NULL));
    while (strtod(shortest, NULL) != strtod(text, NULL) && ++precision <= 17);
    return build_text(b, at, shortest, strlen(shortest));
}

static uint32_t value_text(struct schema *s, uint32_t at, const json_t *v)
{
    struct builder *b = &s->b;
    char *dump = json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(17));
    if (!dump)
        return build_fail(b, HEARTH_EINVAL, "a value in the schema's \"enum\" cannot be written"), NOWHERE;
    for (const char *p = dump; *p && b->st == HEARTH_OK;) {
        size_t n = 1;
        if (*p == '"') {
            for (; p[n] != '"'; n++)
                n += p[n] == '\\';
            at = build_text(b, at, p, ++n);
        } else if (*p == '-' || (*p >= '0' && *p <= '9')) {
            n = strcspn(p, ",]}");
            at = number_text(b, at, p, n);
        } else {
            if (((*p == '}' || *p == ']')) && p > dump && p[-1] != '{' && p[-1] != '[')
                at = build_call(b, at, s->j.ws);
            at = build_text(b, at, p, 1);
            if (strchr("{[,:", *p))
                at = build_call(b, at, s->j.ws);
        }
        p += n;
    }
    free(dump);
    return at;
}

/* ---- numbers and strings ---- */

static struct bound bound_of(struct schema *s, const json_t *schema, const char *closed, const char *open, bool is_lo)
{
    struct bound a = { 0 }, c = { 0 };
    const json_t *x = json_object_get(schema, closed), *y = json_object_get(schema, open);
    if (x && (!json_is_number(x) || !bound_from_double(&a, json_number_value(x))))
        wrong(s, closed, "a number");
    if (y && (!json_is_number(y) || !bound_from_double(&c, json_number_value(y))))
        wrong(s, open, "a number");
    c.is_open = c.is_set;
    if (!a.is_set || !c.is_set)
        return a.is_set ? a : c;
    int order = bound_compare(&a, &c);
    return (is_lo ? order > 0 : order < 0) ? a : c;
}

static uint32_t number(struct schema *s, uint32_t at, const json_t *schema, bool is_integer)
{
    struct bound lo = bound_of(s, schema, "minimum", "exclusiveMinimum", true), hi = bound_of(s, schema, "maximum", "exclusiveMaximum", false);
    if (!lo.is_set && !hi.is_set)
        return build_call(&s->b, at, is_integer ? s->j.integer : s->j.number);
    return build_number(&s->b, at, &lo, &hi, is_integer);
}

/* A count of at most LIMIT_GRAMMAR_REPEAT; `none` when absent. */
static size_t count_of(struct schema *s, const json_t *schema, const char *key, size_t none)
{
    const json_t *v = json_object_get(schema, key);
    double d = json_number_value(v);
    if (!v)
        return none;
    if (!json_is_number(v) || d < 0 || d != floor(d))
        return wrong(s, key, "a count"), 0;
    if (d > LIMIT_GRAMMAR_REPEAT)
        return build_fail(&s->b, HEARTH_ELIMIT, "too complex: the schema's \"%s\" is %.0f; %d is possible", key, d, LIMIT_GRAMMAR_REPEAT), 0;
    return (size_t)d;
}

static uint32_t chars(struct schema *s, uint32_t at, size_t lo, size_t hi)
{
    struct builder *b = &s->b;
    uint32_t done = build_open_state(b), out;
    size_t n = hi == SIZE_MAX ? lo : hi;
    for (size_t i = 0; i < n && lo <= hi && b->st == HEARTH_OK; i++) {
        if (i >= lo) {
            at = build_fork(b, at, &out);
            build_link(b, out, done);
        }
        at = build_call(b, at, s->j.chr);
    }
    if (hi == SIZE_MAX) {
        uint32_t loop = build_open_state(b);
        build_link(b, at, loop);
        at = build_fork(b, loop, &out);
        build_link(b, build_call(b, out, s->j.chr), loop);
    }
    if (lo <= hi)
        build_link(b, at, done);
    return done;
}

static uint32_t string(struct schema *s, uint32_t at, const json_t *schema)
{
    struct builder *b = &s->b;
    const json_t *pattern = json_object_get(schema, "pattern"), *format = json_object_get(schema, "format");
    size_t lo = count_of(s, schema, "minLength", 0), hi = count_of(s, schema, "maxLength", SIZE_MAX);
    char what[100] = "the schema's \"pattern\"";
    const char *text = json_string_value(pattern);
    size_t n = json_string_length(pattern);
    if (pattern && !text)
        return wrong(s, "pattern", "a text"), NOWHERE;
    if (format) {
        const char *name = json_string_value(format), *known = name ? format_pattern((struct str){ name, strlen(name) }) : NULL;
        if (!known || pattern) {
            snprintf(what, sizeof what, known ? "format (beside pattern)" : "format: %.60s", name ? name : "?");
            return unsupported(s, what), NOWHERE;
        }
        text = known;
        n = strlen(known);
    }
    at = build_byte(b, at, '"', '"');
    at = text ? build_pattern(b, at, text, n, lo, hi, what) : chars(s, at, lo, hi);
    return build_byte(b, at, '"', '"');
}

/* ---- arrays ---- */

static uint32_t array(struct schema *s, uint32_t at, const json_t *schema)
{
    struct builder *b = &s->b;
    json_t *prefix = json_object_get(schema, "prefixItems"), *items = json_object_get(schema, "items");
    size_t lo = count_of(s, schema, "minItems", 0), hi = count_of(s, schema, "maxItems", SIZE_MAX), n_prefix = json_array_size(prefix);
    uint32_t end = build_open_state(b), close = build_open_state(b), out;
    if (prefix && !json_is_array(prefix))
        return wrong(s, "prefixItems", "an array"), NOWHERE;
    if (json_is_array(items)) { /* the tuple of older drafts: exactly these */
        prefix = items;
        n_prefix = json_array_size(items);
        items = json_false();
        lo = MAX(lo, n_prefix);
    }
    size_t n = hi != SIZE_MAX ? hi : MAX(lo, n_prefix);
    at = build_call(b, build_byte(b, at, '[', '['), s->j.ws);
    if (lo == 0) {
        at = build_fork(b, at, &out);
        build_link(b, out, end);
    }
    for (size_t i = 0; i < n && b->st == HEARTH_OK; i++) {
        if (i)
            at = build_call(b, build_byte(b, at, ',', ','), s->j.ws);
        at = build_call(b, at, rule_for(s, i < n_prefix ? json_array_get(prefix, i) : items));
        if (i + 1 >= lo) {
            at = build_fork(b, at, &out);
            build_link(b, out, close);
        }
    }
    if (hi == SIZE_MAX) { /* any number more: (first | , more) */
        uint32_t loop = build_open_state(b), again;
        if (n)
            at = build_call(b, build_byte(b, at, ',', ','), s->j.ws);
        build_link(b, at, loop);
        at = build_fork(b, build_call(b, loop, rule_for(s, items)), &again);
        build_link(b, build_call(b, build_byte(b, again, ',', ','), s->j.ws), loop);
        build_link(b, at, close);
    }
    build_link(b, build_call(b, close, s->j.ws), end);
    return build_byte(b, end, ']', ']');
}

/* ---- objects ---- */

struct property { const char *name; json_t *schema; bool is_required; };

static int by_name(const void *x, const void *y)
{
    return strcmp(((const struct property *)x)->name, ((const struct property *)y)->name);
}

/* The inside of a string that is none of the names, which are sorted, and its closing quote. */
static uint32_t other_name(struct schema *s, uint32_t at, const struct property *names, size_t n_names)
{
    struct builder *b = &s->b;
    struct prefix { size_t first, n, len; uint32_t at; } *todo = ARENA_NEW(&b->scratch, struct prefix, LIMIT_GRAMMAR_BYTES + 2);
    size_t n_todo = 0;
    uint32_t end = build_open_state(b), free_name = build_open_state(b), out;
    struct ranges all = { 0 };
    if (!todo)
        return build_fail(b, HEARTH_ENOMEM, "no memory for the schema"), NOWHERE;
    ranges_invert(b, &all);
    uint32_t loop = build_fork(b, free_name, &out);
    build_link(b, build_chars(b, loop, &all, true), free_name);
    build_link(b, build_byte(b, out, '"', '"'), end);
    todo[n_todo++] = (struct prefix){ 0, n_names, 0, at };
    while (n_todo && build_step(b, 1)) {
        struct prefix w = todo[--n_todo];
        struct ranges others = { 0 };
        size_t i = w.first;
        if (w.n && !names[i].name[w.len]) {
            while (i < w.first + w.n && !names[i].name[w.len])
                i++;
        } else {
            build_link(b, build_byte(b, build_fork(b, w.at, &w.at), '"', '"'), end);
        }
        while (i < w.first + w.n && b->st == HEARTH_OK) {
            uint32_t cp = 0;
            bool is_valid;
            size_t first = i, n = utf8_take(names[i].name + w.len, strlen(names[i].name + w.len), &cp, &is_valid);
            while (i < w.first + w.n && strncmp(names[i].name + w.len, names[first].name + w.len, n) == 0 && build_step(b, 1))
                i++;
            struct range one = { cp, cp };
            struct ranges single = { &one, 1, 1 };
            uint32_t next = build_chars(b, build_fork(b, w.at, &w.at), &single, true);
            ranges_add(b, &others, cp, cp);
            todo[n_todo++] = (struct prefix){ first, i - first, w.len + n, next };
        }
        ranges_invert(b, &others);
        build_link(b, build_chars(b, w.at, &others, true), free_name);
    }
    return end;
}

/* "name": value */
static uint32_t member(struct schema *s, uint32_t at, const struct property *p)
{
    json_t *name = json_string(p->name);
    if (!name)
        return build_fail(&s->b, HEARTH_ENOMEM, "no memory for the schema"), NOWHERE;
    at = value_text(s, at, name);
    json_decref(name);
    at = build_call(&s->b, build_byte(&s->b, at, ':', ':'), s->j.ws);
    return build_call(&s->b, at, rule_for(s, p->schema));
}

/* Declared properties in their order, then required ones that are not declared. */
static struct property *list_properties(struct schema *s, const json_t *schema, size_t *n)
{
    struct builder *b = &s->b;
    json_t *properties = json_object_get(schema, "properties"), *required = json_object_get(schema, "required"), *v;
    struct property *list = ARENA_NEW(&b->scratch, struct property, json_object_size(properties) + json_array_size(required) + 1);
    const char *name;
    *n = 0;
    if (!list)
        return build_fail(b, HEARTH_ENOMEM, "no memory for the schema"), NULL;
    if ((properties && !json_is_object(properties)) || (required && !json_is_array(required)))
        return wrong(s, properties && !json_is_object(properties) ? "properties" : "required", "of the right type"), NULL;
    json_object_foreach(properties, name, v)
        list[(*n)++] = (struct property){ name, v, false };
    for (size_t i = 0; i < json_array_size(required); i++) {
        size_t k = 0;
        if (!(name = json_string_value(json_array_get(required, i))))
            return wrong(s, "required", "a list of texts"), NULL;
        if (strlen(name) != json_string_length(json_array_get(required, i)))
            return wrong(s, "required", "a list of names without NUL"), NULL;
        while (k < *n && build_step(b, 1) && strcmp(list[k].name, name) != 0)
            k++;
        if (k == *n)
            list[(*n)++] = (struct property){ name, json_object_get(schema, "additionalProperties"), false };
        list[k].is_required = true;
    }
    return b->st == HEARTH_OK ? list : NULL;
}

/* Two rails: `bare` as long as no member was written, `more` behind one. A property is entered from either and leads to `more`. */
static uint32_t object(struct schema *s, uint32_t at, const json_t *schema)
{
    struct builder *b = &s->b;
    json_t *others = json_object_get(schema, "additionalProperties");
    size_t n;
    struct property *list = list_properties(s, schema, &n);
    uint32_t end = build_open_state(b), bare, more = build_open_state(b), skip;
    if (!list)
        return NOWHERE;
    if (!others && !(s->flags & SCHEMA_EXACT) && json_object_size(json_object_get(schema, "properties")))
        others = json_false();
    bare = build_call(b, build_byte(b, at, '{', '{'), s->j.ws);
    for (size_t i = 0; i < n && b->st == HEARTH_OK; i++) {
        uint32_t enter = build_open_state(b), next_bare = build_open_state(b), next_more = build_open_state(b);
        if (!list[i].is_required) {
            bare = build_fork(b, bare, &skip);
            build_link(b, skip, next_bare);
            more = build_fork(b, more, &skip);
            build_link(b, skip, next_more);
        }
        build_link(b, bare, enter);
        build_link(b, build_call(b, build_byte(b, more, ',', ','), s->j.ws), enter);
        build_link(b, member(s, enter, &list[i]), next_more);
        bare = next_bare;
        more = next_more;
    }
    if (!json_is_false(others)) {
        uint32_t enter = build_open_state(b), last = build_open_state(b), first, next;
        qsort(list, n, sizeof *list, by_name);
        build_link(b, more, last); /* behind any member, these too */
        first = build_fork(b, bare, &bare);
        build_link(b, first, enter);
        more = build_fork(b, last, &next);
        build_link(b, build_call(b, build_byte(b, next, ',', ','), s->j.ws), enter);
        next = build_byte(b, other_name(s, build_byte(b, enter, '"', '"'), list, n), ':', ':');
        build_link(b, build_call(b, build_call(b, next, s->j.ws), rule_for(s, others)), last);
    }
    build_link(b, bare, end);
    build_link(b, build_call(b, more, s->j.ws), end);
    return build_byte(b, end, '}', '}');
}

/* ---- plain schemas ---- */

static const struct { unsigned type; const char *const keys[7]; } of_type[] = {
    { T_OBJECT, { "properties", "required", "additionalProperties", NULL } },
    { T_ARRAY, { "items", "prefixItems", "minItems", "maxItems", "uniqueItems", NULL } },
    { T_STRING, { "minLength", "maxLength", "pattern", "format", NULL } },
    { T_INTEGER | T_FRACTION, { "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", NULL } },
};

static bool has_any(const json_t *schema, const char *const *keys)
{
    for (; *keys; keys++)
        if (json_object_get(schema, *keys))
            return true;
    return false;
}

/* The types to generate: what type says, or else what the other keywords speak of. */
static unsigned types_of(struct schema *s, const json_t *schema)
{
    unsigned types = schema_types(schema), spoken = 0;
    const json_t *type = json_object_get(schema, "type");
    bool is_listed = json_object_get(schema, "enum") || json_object_get(schema, "const");
    for (size_t i = 0; json_is_array(type) && i < json_array_size(type); i++)
        if (!json_is_string(json_array_get(type, i)))
            wrong(s, "type", "a name or a list of names");
    if (type && !json_is_string(type) && !json_is_array(type))
        wrong(s, "type", "a name or a list of names");
    for (size_t i = 0; i < ARRAY_LEN(of_type); i++)
        if (has_any(schema, of_type[i].keys))
            spoken |= of_type[i].type;
    return !type && !is_listed && spoken && !(s->flags & SCHEMA_EXACT) ? types & spoken : types;
}

/* Does a listed value satisfy the plain keywords beside the list? Where that is not looked into: refused. */
static bool value_fits(struct schema *s, const json_t *schema, unsigned types, const json_t *v)
{
    static const char *const easy[] = { "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength", "minItems", "maxItems", NULL };
    unsigned type = type_of_value(v);
    const json_t *k;
    double d = json_number_value(v);
    size_t n = json_array_size(v);
    if (!(type & types))
        return false;
    for (size_t i = 0; i < ARRAY_LEN(of_type); i++)
        for (const char *const *key = of_type[i].keys; (of_type[i].type & type) && *key; key++)
            if (json_object_get(schema, *key) && !is_one_of(*key, easy)) {
                char what[80];
                snprintf(what, sizeof what, "enum (beside %s)", *key);
                unsupported(s, what);
            }
    for (size_t i = 0; type == T_STRING && i < json_string_length(v); i++)
        n += ((uint8_t)json_string_value(v)[i] & 0xC0) != 0x80; /* characters */
    if (type == T_STRING || type == T_ARRAY)
        return n >= count_of(s, schema, type == T_STRING ? "minLength" : "minItems", 0) &&
               n <= count_of(s, schema, type == T_STRING ? "maxLength" : "maxItems", SIZE_MAX);
    if (!json_is_number(v))
        return true;
    return !(((k = json_object_get(schema, "minimum")) && d < json_number_value(k)) ||
             ((k = json_object_get(schema, "maximum")) && d > json_number_value(k)) ||
             ((k = json_object_get(schema, "exclusiveMinimum")) && d <= json_number_value(k)) ||
             ((k = json_object_get(schema, "exclusiveMaximum")) && d >= json_number_value(k)));
}

/* const, or each of enum (both: what is in both). */
static uint32_t listed(struct schema *s, uint32_t at, const json_t *schema, unsigned types)
{
    struct builder *b = &s->b;
    const json_t *values = json_object_get(schema, "enum"), *one = json_object_get(schema, "const");
    uint32_t join = build_open_state(b);
    bool has_one = false;
    if (values && !json_is_array(values))
        return wrong(s, "enum", "an array"), NOWHERE;
    for (size_t i = 0; i < json_array_size(values) && build_step(b, 1); i++) {
        const json_t *v = json_array_get(values, i);
        bool is_meant = !one || json_same(one, v);
        has_one = has_one || is_meant;
        if (is_meant && value_fits(s, schema, types, v))
            build_link(b, value_text(s, build_fork(b, at, &at), v), join);
    }
    if (!values && value_fits(s, schema, types, one))
        build_link(b, value_text(s, at, one), join);
    return join;
}

static uint32_t plain(struct schema *s, uint32_t at, const json_t *schema)
{
    struct builder *b = &s->b;
    unsigned types = types_of(s, schema), numbers = types & (T_INTEGER | T_FRACTION);
    uint32_t join = build_open_state(b);
    if (json_object_get(schema, "enum") || json_object_get(schema, "const"))
        return listed(s, at, schema, types);
    if (types == T_ALL && !has_any(schema, of_type[0].keys) && !has_any(schema, of_type[1].keys) && !has_any(schema, of_type[2].keys) &&
        !has_any(schema, of_type[3].keys))
        return build_call(b, at, s->j.value);
    if (types & T_OBJECT)
        build_link(b, object(s, build_fork(b, at, &at), schema), join);
    if (types & T_ARRAY)
        build_link(b, array(s, build_fork(b, at, &at), schema), join);
    if (types & T_STRING)
        build_link(b, string(s, build_fork(b, at, &at), schema), join);
    if (numbers)
        build_link(b, number(s, build_fork(b, at, &at), schema, numbers == T_INTEGER), join);
    if (types & T_BOOL) {
        build_link(b, build_text(b, build_fork(b, at, &at), "true", 4), join);
        build_link(b, build_text(b, build_fork(b, at, &at), "false", 5), join);
    }
    if (types & T_NULL)
        build_link(b, build_text(b, build_fork(b, at, &at), "null", 4), join);
    return join;
}

/* ---- combinators ---- */

/* A choice that is being made: what is merged so far, and schemas that wait to be. */
struct choice { json_t *merged, *waiting; };

static json_t *kept(struct schema *s, json_t *fresh)
{
    if (!fresh || json_array_append_new(s->keep, fresh) != 0)
        return build_fail(&s->b, HEARTH_ENOMEM, "no memory for the schema"), NULL;
    return fresh;
}

/* The keywords of a schema that bind by themselves. */
static json_t *own_keywords(struct schema *s, json_t *schema)
{
    json_t *out = kept(s, json_object()), *v;
    const char *key;
    json_object_foreach(schema, key, v) {
        if (is_one_of(key, binding) && json_object_set(out, key, v) != 0)
            build_fail(&s->b, HEARTH_ENOMEM, "no memory for the schema");
        if (strcmp(key, "items") == 0 && json_is_array(v))
            build_fail(&s->b, HEARTH_EUNSUPPORTED, "the schema's keyword \"items\" as a list is not supported inside allOf");
    }
    return s->b.st == HEARTH_OK ? out : NULL;
}

static bool push_choice(struct schema *s, struct choice *stack, size_t *n, json_t *merged, json_t *waiting)
{
    if (*n == BRANCHES_MAX) {
        build_fail(&s->b, HEARTH_ELIMIT, "too complex: the schema combines more than %d branches", BRANCHES_MAX);
        return false;
    }
    stack[(*n)++] = (struct choice){ merged, waiting };
    return merged && waiting;
}

/* Splits `c` at a list of branches. */
static bool split(struct schema *s, struct choice *stack, size_t *n, struct choice c, json_t *branches, const char *key)
{
    if (!json_is_array(branches) || !json_array_size(branches))
        return wrong(s, key, "a list of schemas"), false;
    if (strcmp(key, "oneOf") == 0 && !check_one_of(s, branches))
        return false;
    for (size_t i = json_array_size(branches); i-- > 0;) {
        json_t *waiting = kept(s, json_copy(c.waiting));
        if (!waiting || json_array_append(waiting, json_array_get(branches, i)) != 0 || !push_choice(s, stack, n, c.merged, waiting))
            return false;
    }
    return true;
}

/* Merges the next waiting schema into the choice; false: the choice is dead, or was split into others. */
static bool merge_next(struct schema *s, struct choice *stack, size_t *n, struct choice *c)
{
    json_t *last = json_array_get(c->waiting, json_array_size(c->waiting) - 1), *list, *own;
    json_t *schema = json_incref(last);
    bool goes_on = true;
    json_array_remove(c->waiting, json_array_size(c->waiting) - 1);
    if (json_is_boolean(schema)) {
        goes_on = json_is_true(schema);
    } else if (!check_keywords(s, schema) || !(own = own_keywords(s, schema)) || !(c->merged = schema_merge(&s->b, s->keep, c->merged, own))) {
        goes_on = false;
    } else {
        const json_t *ref = json_object_get(schema, "$ref");
        json_t *target = ref ? resolve(s, ref) : NULL;
        list = json_object_get(schema, "allOf");
        if (list && !json_is_array(list))
            wrong(s, "allOf", "a list of schemas");
        for (size_t i = json_array_size(list); i-- > 0;)
            json_array_append(c->waiting, json_array_get(list, i));
        if (target)
            json_array_append(c->waiting, target);
        json_t *any = json_object_get(schema, "anyOf"), *one = json_object_get(schema, "oneOf");
        if (any && one) { /* one now, the other as a schema of its own behind it */
            json_t *rest = kept(s, json_pack("{s:O}", "oneOf", one));
            if (rest)
                json_array_append(c->waiting, rest);
        }
        if (any || one) {
            split(s, stack, n, *c, any ? any : one, any ? "anyOf" : "oneOf");
            goes_on = false;
        }
    }
    json_decref(schema);
    return goes_on && s->b.st == HEARTH_OK;
}

/* Keywords beside combinators: all choices, each a plain schema. */
static uint32_t combined(struct schema *s, uint32_t at, json_t *schema)
{
    struct builder *b = &s->b;
    struct choice *stack = ARENA_NEW(&b->scratch, struct choice, BRANCHES_MAX);
    size_t n = 0, n_made = 0;
    uint32_t join = build_open_state(b);
    json_t *merged = kept(s, json_object()), *waiting = kept(s, json_pack("[O]", schema));
    if (!stack || !merged || !waiting)
        return build_fail(b, HEARTH_ENOMEM, "no memory for the schema"), NOWHERE;
    push_choice(s, stack, &n, merged, waiting);
    while (n && build_step(b, 1)) {
        struct choice c = stack[--n];
        bool is_alive = true;
        /* Merging copies: a schema that contains itself through allOf ends here, by the count of steps. */
        while (is_alive && json_array_size(c.waiting) && build_step(b, 1000))
            is_alive = merge_next(s, stack, &n, &c);
        if (!is_alive || b->st != HEARTH_OK)
            continue;
        if (++n_made > BRANCHES_MAX)
            build_fail(b, HEARTH_ELIMIT, "too complex: the schema combines more than %d branches", BRANCHES_MAX);
        build_link(b, plain(s, build_fork(b, at, &at), c.merged), join);
    }
    return join;
}

static uint32_t branches(struct schema *s, uint32_t at, json_t *list, const char *key)
{
    uint32_t join = build_open_state(&s->b);
    if (!json_is_array(list) || !json_array_size(list))
        return wrong(s, key, "a list of schemas"), NOWHERE;
    if (strcmp(key, "oneOf") == 0 && !check_one_of(s, list))
        return NOWHERE;
    for (size_t i = 0; i < json_array_size(list) && s->b.st == HEARTH_OK; i++)
        build_link(&s->b, build_call(&s->b, build_fork(&s->b, at, &at), rule_for(s, json_array_get(list, i))), join);
    return join;
}

static void make_rule(struct schema *s, struct pending p)
{
    struct builder *b = &s->b;
    uint32_t at = build_rule_begin(b, p.rule);
    const char *key, *only = NULL;
    size_t n_binding = 0, n_combinators = 0;
    json_t *v;
    if (!check_keywords(s, p.schema))
        return;
    json_object_foreach(p.schema, key, v) {
        n_binding += is_one_of(key, binding);
        if (is_one_of(key, combinators)) {
            n_combinators++;
            only = key;
        }
    }
    if (!n_combinators) {
        at = plain(s, at, p.schema);
    } else if (n_binding || n_combinators > 1 || strcmp(only, "allOf") == 0) {
        at = combined(s, at, p.schema);
    } else if (strcmp(only, "$ref") == 0) {
        json_t *target = resolve(s, json_object_get(p.schema, only));
        at = build_call(b, at, target ? rule_for(s, target) : s->never);
    } else {
        at = branches(s, at, json_object_get(p.schema, only), only);
    }
    build_rule_end(b, p.rule, at);
}

enum hearth_status grammar_from_schema(struct grammar **out, const char *text, size_t n, unsigned flags, struct arena *a, struct err *e)
{
    struct schema s = { .flags = flags };
    enum hearth_status st;
    *out = NULL;
    if (n > LIMIT_GRAMMAR_BYTES)
        return err_set(e, HEARTH_ELIMIT, "too complex: the schema has %zu bytes; %zu are possible", n, LIMIT_GRAMMAR_BYTES);
    if ((st = json_scan(text, n, LIMIT_JSON_DEPTH, LIMIT_GRAMMAR_NODES, "too complex: the schema", e)) != HEARTH_OK ||
        (st = json_parse(&s.root, text, n, "the schema", e)) != HEARTH_OK)
        return st;
    builder_open(&s.b, "schema", a, e);
    s.keep = json_array();
    s.map = ARENA_NEW(&s.b.scratch, uint32_t, MAP_SLOTS);
    if (!s.keep || !s.map)
        build_fail(&s.b, HEARTH_ENOMEM, "no memory for the schema");
    if (s.b.st == HEARTH_OK) {
        build_json_rules(&s.b, &s.j);
        s.never = build_rule(&s.b);
        build_rule_begin(&s.b, s.never);
        build_rule_end(&s.b, s.never, build_open_state(&s.b));
    }
    uint32_t root = s.b.st == HEARTH_OK ? rule_for(&s, s.root) : 0;
    for (size_t i = 0; i < s.n_queue && s.b.st == HEARTH_OK; i++)
        make_rule(&s, s.queue[i]);
    st = builder_finish(&s.b, out, root);
    json_decref(s.keep);
    json_decref(s.root);
    return st;
}

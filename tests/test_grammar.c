/* test_grammar.c: grammars from schemas and GBNF: what they accept, what they refuse, that they stay within their limits, and
 * that masks are what trying every token says.
 *
 * Data: grammar/ holds llama.cpp's own cases (accept_cases.json), its GBNF files, and the JSON Schema Test Suite, draft 2020-12.
 * The suite's instances are written in several ways (white space, order of properties): a valid one must be accepted in one of
 * them, an invalid one in none. Which schemas are supported, and which valid instances lie outside the part of JSON that is
 * generated (numbers beyond 16 digits and so on), is counted for each file and compared with suite_expected below.
 */
#include <dirent.h>
#include <malloc.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "formats/formats.h"
#include "support.h"

/* ---- running a grammar on whole texts ---- */

struct machine { struct arena a; struct grammar *g; struct grammar_cache *c; };

static enum hearth_status machine_open(struct machine *m, bool is_schema, const char *text, size_t n, unsigned flags, struct err *e)
{
    arena_init(&m->a, 0);
    enum hearth_status st = is_schema ? grammar_from_schema(&m->g, text, n, flags, &m->a, e) : grammar_from_gbnf(&m->g, text, n, &m->a, e);
    return st == HEARTH_OK ? grammar_cache_open(&m->c, m->g, NULL, 0, &m->a, e) : st;
}

static void machine_close(struct machine *m) { arena_free(&m->a); }

static bool accepts(struct machine *m, const char *p, size_t n)
{
    struct grammar_run r;
    struct err e = { 0 };
    assert_ok(grammar_run_open(&r, m->c, &e), &e);
    bool ok = grammar_accept_bytes(&r, p, n) && grammar_can_end(&r);
    grammar_run_close(&r);
    return ok;
}

static json_t *load(const char *name)
{
    json_error_t je;
    json_t *v = json_load_file(data_path(name), JSON_ALLOW_NUL, &je);
    if (!v)
        fail_msg("%s: %s", name, je.text);
    return v;
}

/* ---- llama.cpp's cases ---- */

static void test_accept_cases(void **state)
{
    need_data("grammar/accept_cases.json");
    json_t *root = load("grammar/accept_cases.json"), *c, *t;
    size_t i, k, n_accept = 0, n_reject = 0, n_wrong = 0;
    json_array_foreach(json_object_get(root, "cases"), i, c) {
        struct machine m;
        struct err e = { 0 };
        const char *text = json_string_value(json_object_get(c, "text")), *name = json_string_value(json_object_get(c, "name"));
        bool is_schema = strcmp(json_string_value(json_object_get(c, "kind")), "schema") == 0;
        if (strstr(text, "uniqueItems")) { /* their grammars pass over it; ours only when told */
            assert_int_equal(machine_open(&m, is_schema, text, strlen(text), 0, &e), HEARTH_EUNSUPPORTED);
            assert_non_null(strstr(e.text, "\"uniqueItems\""));
            machine_close(&m);
            err_clear(&e);
        }
        enum hearth_status st = machine_open(&m, is_schema, text, strlen(text), SCHEMA_IGNORE_UNIQUE, &e);
        if (st != HEARTH_OK)
            fail_msg("%s: %s", name, e.text);
        json_array_foreach(json_object_get(c, "accept"), k, t) {
            n_accept++;
            if (!accepts(&m, json_string_value(t), json_string_length(t)) && ++n_wrong)
                printf("%s: must accept %s\n", name, json_string_value(t));
        }
        json_array_foreach(json_object_get(c, "reject"), k, t) {
            n_reject++;
            if (accepts(&m, json_string_value(t), json_string_length(t)) && ++n_wrong)
                printf("%s: must refuse %s\n", name, json_string_value(t));
        }
        machine_close(&m);
    }
    json_decref(root);
    printf("%zu texts to accept, %zu to refuse\n", n_accept, n_reject);
    assert_int_equal(n_wrong, 0);
    assert_true(n_accept > 80 && n_reject > 80);
}

/* ---- GBNF ---- */

static const struct { const char *file, *accept[6], *refuse[6]; } gbnf_texts[] = {
    { "arithmetic", { "x=1\n", "a1 *(b -2)/c = 3\n", "x=y\nz=(1)\n" }, { "", "x=1", "x=1 +\n", "X=1\n", "(x=1\n" } },
    { "c", { "", "int f(){return 1;}", "int f(int x){return x+1;}float g(){y = 2;}" }, { "int", "int f(", "f(){}", "int f(){return 1}" } },
    { "chess", { "1. e4 e5\n2. Nf3 Nc6\n", "1. O-O O-O-O+\n2. exd5 e8=Q#\n" }, { "1. e4 e5\n", "1. e9 e5\n2. a1 a2\n", "2. e4 e5\n3. a1 a2\n" } },
    { "english", { "Hello World!", "a\nb" }, { "", "a  b", "a b ", "\xc3\xa4" } },
    { "japanese", { "\xe3\x81\x93\xe3\x82\x93 \xe4\xb8\x96" }, { "a", "\xe3\x81", "\xe3\x81\x93  \xe3\x81\x93" } },
    { "json", { "{}", "{\"a\": [1, 2.5, null, {\"b\": \"\\u00e4\\n\"}]}", "{ \"a\":true,\"b\":-1e5}" },
      { "[1]", "{\"a\"}", "{\"a\": 01}", "{\"a\": \"\n\"}", "{\"a\":1,}" } },
    { "json_arr", { "[\n1,\n2]", "[\n]", "[\n{\"a\":[]}]" }, { "[]", "[\n1, 2]", "{}" } },
    { "list", { "- a\n", "- a\n- \xe2\x82\xac b\n" }, { "", "- \n", "- a", "- a\xe2\x80\xa8\n", "a\n" } },
};

static void test_gbnf_files(void **state)
{
    need_data("grammar/gbnf/json.gbnf");
    for (size_t i = 0; i < ARRAY_LEN(gbnf_texts); i++) {
        struct machine m;
        struct err e = { 0 };
        char name[64], *text;
        size_t n;
        struct arena a;
        arena_init(&a, 0);
        snprintf(name, sizeof name, "grammar/gbnf/%s.gbnf", gbnf_texts[i].file);
        assert_ok(file_read_all(&text, &n, data_path(name), MIB, &a, &e), &e);
        assert_ok(machine_open(&m, false, text, n, 0, &e), &e);
        for (size_t k = 0; k < 6; k++) {
            const char *yes = gbnf_texts[i].accept[k], *no = gbnf_texts[i].refuse[k];
            if ((yes && !accepts(&m, yes, strlen(yes))) || (no && accepts(&m, no, strlen(no))))
                fail_msg("%s, text %zu", name, k);
        }
        machine_close(&m);
        arena_free(&a);
    }
}

/* One line of notation: a grammar, texts that match, texts that do not. */
static const struct { const char *grammar, *accept[4], *refuse[4]; } gbnf_notation[] = {
    { "root ::= \"\\x41\\u00e4\\U0001F600\\t\\\"\\\\\"", { "A\xc3\xa4\xf0\x9f\x98\x80\t\"\\" }, { "", "A" } },
    { "root ::= [a-c\\]-]{2,3}", { "a]", "-bc" }, { "a", "abca", "d]" } },
    { "root ::= [^a-y]+ # all but these\n", { "z", "\xc3\xa4", "\xf0\x9f\x98\x80z" }, { "", "a", "zb", "\xc3" } },
    { "root ::= . \"b\"", { "ab", "\nb", "\xe2\x82\xac" "b" }, { "b", "\xff" "b", "abb" } },
    { "root ::= a-1 | b_2\na-1 ::= \"x\" a-1 | \"y\"\nb_2 ::= (\"z\")", { "y", "xxxy", "z" }, { "x", "yz", "xz" } },
    { "root ::=\n  \"a\"\n  | \"b\" (\n \"c\"\n | \"d\" )", { "a", "bc", "bd" }, { "b", "ab" } },
    { "root ::= (\"ab\" | \"c\"){2,} \"!\"?", { "abc", "ccc!", "abab" }, { "ab", "c!", "abc!!" } },
    { "root ::= \"ab\"{0} \"c\"{3} [d]{,2}", { "ccc", "cccdd" }, { "abccc", "cc", "cccddd" } },
    { "root ::= ((\"a\"*)* | )+ \"b\"", { "b", "aaab" }, { "a", "" } },
    { "root ::= x x\nx ::= \"(\" x \")\" | ", { "", "()", "()(())" }, { "(", ")(", "(()" } },
    { "root ::= \"\" | [\\x00-\\x1f]", { "", "\x01" }, { "a" } },
};

static void test_gbnf_notation(void **state)
{
    for (size_t i = 0; i < ARRAY_LEN(gbnf_notation); i++) {
        struct machine m;
        struct err e = { 0 };
        assert_ok(machine_open(&m, false, gbnf_notation[i].grammar, strlen(gbnf_notation[i].grammar), 0, &e), &e);
        for (size_t k = 0; k < 4; k++) {
            const char *yes = gbnf_notation[i].accept[k], *no = gbnf_notation[i].refuse[k];
            if ((yes && !accepts(&m, yes, strlen(yes))) || (no && accepts(&m, no, strlen(no))))
                fail_msg("%s: text %zu", gbnf_notation[i].grammar, k);
        }
        machine_close(&m);
    }
}

static void test_gbnf_mistakes(void **state)
{
    static const struct { const char *text; enum hearth_status status; const char *says; } bad[] = {
        { "", HEARTH_EDAMAGED, "no rule \"root\"" },
        { "a ::= \"x\"", HEARTH_EDAMAGED, "no rule \"root\"" },
        { "root ::= a", HEARTH_EDAMAGED, "\"a\" is used and not defined" },
        { "root ::= \"x\"\nroot ::= \"y\"", HEARTH_EDAMAGED, "line 2, column 1" },
        { "root = \"x\"", HEARTH_EDAMAGED, "::= was expected" },
        { "root ::= \"x", HEARTH_EDAMAGED, "ends inside" },
        { "root ::= (\"x\"", HEARTH_EDAMAGED, ") was expected" },
        { "root ::= \"x\")", HEARTH_EDAMAGED, "column 13" },
        { "root ::= [b-a]", HEARTH_EDAMAGED, "ends before it begins" },
        { "root ::= \"\\q\"", HEARTH_EDAMAGED, "unknown escape" },
        { "root ::= \"\\ud800\"", HEARTH_EDAMAGED, "no such character" },
        { "root ::= *", HEARTH_EDAMAGED, "an item was expected" },
        { "root ::= \"a\"**", HEARTH_EDAMAGED, "parentheses" },
        { "root ::= \"a\"{3,2}", HEARTH_EDAMAGED, "ends before it begins" },
        { "root ::= \"a\"{1001}", HEARTH_ELIMIT, "too complex" },
        { "root ::= <think>", HEARTH_EDAMAGED, "tokens in grammars" },
        { "root ::= \"\xff\"", HEARTH_EDAMAGED, "not UTF-8" },
        { "root ::= root \"a\" | \"b\"", HEARTH_EUNSUPPORTED, "left recursion" },
        { "root ::= x\nx ::= y? z\ny ::= \"y\"\nz ::= x \"a\" | \"b\"", HEARTH_EUNSUPPORTED, "left recursion" },
        { "root ::= \"a\" root", HEARTH_EINVAL, "nothing satisfies" },
        { "root ::= [] \"a\"", HEARTH_EINVAL, "nothing satisfies" },
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct machine m;
        struct err e = { 0 };
        enum hearth_status st = machine_open(&m, false, bad[i].text, strlen(bad[i].text), 0, &e);
        if (st != bad[i].status || !strstr(e.text, bad[i].says))
            fail_msg("%s: %s: %s", bad[i].text, hearth_status_name(st), e.text);
        machine_close(&m);
    }
}

/* ---- the JSON Schema Test Suite ---- */

static void put_value(struct buf *out, const json_t *v, int style, int depth, uint64_t *seed)
{
    const char *colon = style ? ": " : ":", *comma = style == 1 ? ", " : ",";
    bool is_object = json_is_object(v);
    size_t n = is_object ? json_object_size(v) : json_array_size(v);
    if (json_is_real(v) && json_real_value(v) == floor(json_real_value(v)) && fabs(json_real_value(v)) < 1e15) {
        buf_printf(out, "%.0f", json_real_value(v)); /* 1.0 is the integer 1 */
        return;
    }
    if (json_is_real(v)) {
        char text[40];
        for (int p = 1; p <= 17; p++) {
            snprintf(text, sizeof text, "%.*g", p, json_real_value(v));
            if (strtod(text, NULL) == json_real_value(v))
                break;
        }
        buf_append(out, text, strlen(text));
        return;
    }
    if (!is_object && !json_is_array(v)) {
        char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
        assert_non_null(text);
        buf_append(out, text, strlen(text));
        free(text);
        return;
    }
    const char *keys[64];
    const char *key;
    json_t *item;
    size_t n_keys = 0;
    assert_true(n <= 64);
    json_object_foreach((json_t *)(uintptr_t)v, key, item)
        keys[n_keys++] = key;
    for (size_t i = n_keys; *seed && i > 1; i--) {
        size_t k = (size_t)(test_random(seed) % i);
        const char *t = keys[i - 1];
        keys[i - 1] = keys[k];
        keys[k] = t;
    }
    buf_append(out, is_object ? "{" : "[", 1);
    for (size_t i = 0; i < n; i++) {
        buf_append(out, comma, i ? strlen(comma) : 0);
        if (style == 2)
            buf_printf(out, "\n%*s", 2 * depth + 2, "");
        if (is_object) {
            json_t *name = json_string(keys[i]);
            put_value(out, name, style, depth, seed);
            json_decref(name);
            buf_append(out, colon, strlen(colon));
        }
        put_value(out, is_object ? json_object_get(v, keys[i]) : json_array_get(v, i), style, depth + 1, seed);
    }
    if (style == 2 && n)
        buf_printf(out, "\n%*s", 2 * depth, "");
    buf_append(out, is_object ? "}" : "]", 1);
}

/* How many of the ways to write v are accepted. A valid value needs one order of its properties, in each white space. */
static bool accepted_in_some_order(struct machine *m, const json_t *v, int style)
{
    bool any = false;
    for (uint64_t order = 0; order < 60 && !any; order++) {
        struct buf b;
        uint64_t seed = order * 77;
        buf_init(&b, 0);
        put_value(&b, v, style, 0, &seed);
        any = accepts(m, b.data, b.len);
        buf_free(&b);
    }
    return any;
}

/* Per file: schemas read, schemas refused, valid instances accepted, valid ones outside what is generated, invalid ones. */
struct suite_count { const char *file; int read, refused, accepted, outside, invalid; };
static const struct suite_count suite_expected[] = {
    { "additionalProperties", 5, 4, 5, 0, 3 },
    { "allOf", 11, 1, 9, 0, 13 },
    { "anchor", 0, 4, 0, 0, 0 },
    { "anyOf", 8, 0, 12, 0, 6 },
    { "boolean_schema", 2, 0, 9, 0, 9 },
    { "const", 17, 0, 22, 0, 32 },
    { "contains", 0, 7, 0, 0, 0 },
    { "content", 4, 0, 18, 0, 0 },
    { "default", 3, 0, 6, 0, 1 },
    { "defs", 0, 1, 0, 0, 0 },
    { "dependentRequired", 0, 4, 0, 0, 0 },
    { "dependentSchemas", 0, 4, 0, 0, 0 },
    { "enum", 15, 0, 22, 0, 29 },
    { "exclusiveMaximum", 1, 0, 2, 0, 2 },
    { "exclusiveMinimum", 1, 0, 2, 0, 2 },
    { "if-then-else", 4, 8, 8, 0, 0 },
    { "infinite-loop-detection", 1, 0, 1, 0, 1 },
    { "items", 10, 0, 17, 0, 12 },
    { "maxContains", 1, 4, 2, 0, 0 },
    { "maxItems", 2, 0, 4, 0, 2 },
    { "maxLength", 2, 0, 5, 0, 2 },
    { "maxProperties", 0, 3, 0, 0, 0 },
    { "maximum", 2, 0, 6, 0, 2 },
    { "minContains", 1, 7, 2, 0, 0 },
    { "minItems", 2, 0, 4, 0, 2 },
    { "minLength", 2, 0, 4, 0, 3 },
    { "minProperties", 0, 2, 0, 0, 0 },
    { "minimum", 2, 0, 8, 0, 3 },
    { "multipleOf", 0, 5, 0, 0, 0 },
    { "not", 0, 9, 0, 0, 0 },
    { "oneOf", 3, 8, 2, 0, 2 },
    { "pattern", 2, 1, 8, 0, 1 },
    { "patternProperties", 0, 6, 0, 0, 0 },
    { "prefixItems", 4, 0, 9, 0, 2 },
    { "properties", 5, 1, 12, 0, 8 },
    { "propertyNames", 0, 6, 0, 0, 0 },
    { "ref", 21, 15, 23, 0, 25 },
    { "required", 5, 0, 12, 0, 6 },
    { "type", 11, 0, 21, 0, 59 },
    { "unevaluatedItems", 0, 29, 0, 0, 0 },
    { "unevaluatedProperties", 0, 44, 0, 0, 0 },
    { "uniqueItems", 3, 3, 27, 0, 1 },
    { "optional/format/date", 1, 0, 23, 0, 58 },
    { "optional/format/time", 1, 0, 13, 6, 28 },
    { "optional/format/date-time", 1, 0, 11, 3, 19 },
    { "optional/format/uuid", 1, 0, 15, 0, 13 },
    { "optional/ecmascript-regex", 13, 7, 23, 0, 27 },
    { "optional/non-bmp-regex", 1, 1, 3, 0, 4 },
    { "optional/float-overflow", 0, 1, 0, 0, 0 },
    { "optional/refOfUnknownKeyword", 5, 0, 5, 0, 5 },
    { "optional/unknownKeyword", 0, 1, 0, 0, 0 },
    { "optional/no-schema", 1, 0, 2, 0, 1 },
    { "optional/anchor", 0, 1, 0, 0, 0 },
    { "optional/id", 0, 1, 0, 0, 0 },
};

static struct suite_count run_suite_file(const char *file)
{
    struct suite_count c = { .file = file };
    char path[200];
    snprintf(path, sizeof path, "grammar/json-schema-test-suite/draft2020-12/%s.json", file);
    need_data(path);
    json_t *root = load(path), *group, *t;
    size_t i, k;
    json_array_foreach(root, i, group) {
        struct machine m;
        struct err e = { 0 };
        char *schema = json_dumps(json_object_get(group, "schema"), JSON_ENCODE_ANY | JSON_COMPACT);
        enum hearth_status st = machine_open(&m, true, schema, strlen(schema), SCHEMA_EXACT, &e);
        bool is_empty = st == HEARTH_EINVAL && strstr(e.text, "nothing satisfies");
        if (st != HEARTH_OK && st != HEARTH_EUNSUPPORTED && !is_empty)
            fail_msg("%s, %s: %s: %s", file, json_string_value(json_object_get(group, "description")), hearth_status_name(st), e.text);
        if (getenv("VERBOSE") && st != HEARTH_OK)
            printf("%s: %s: %s\n", file, json_string_value(json_object_get(group, "description")), e.text);
        c.read += st != HEARTH_EUNSUPPORTED;
        c.refused += st == HEARTH_EUNSUPPORTED;
        json_array_foreach(json_object_get(group, "tests"), k, t) {
            bool valid = json_is_true(json_object_get(t, "valid"));
            const json_t *v = json_object_get(t, "data");
            int n_accepted = 0;
            if (st == HEARTH_EUNSUPPORTED)
                continue;
            for (int style = 0; style < 3 && !is_empty; style++)
                n_accepted += accepted_in_some_order(&m, v, style);
            if (valid ? n_accepted != 0 && n_accepted != 3 : n_accepted != 0)
                fail_msg("%s: %s: %s", file, json_string_value(json_object_get(group, "description")), json_string_value(json_object_get(t, "description")));
            if (getenv("VERBOSE") && valid && !n_accepted)
                printf("outside: %s: %s: %s\n", file, json_string_value(json_object_get(group, "description")), json_string_value(json_object_get(t, "description")));
            c.accepted += valid && n_accepted;
            c.outside += valid && !n_accepted;
            c.invalid += !valid;
        }
        free(schema);
        machine_close(&m);
    }
    json_decref(root);
    return c;
}

static void test_suite(void **state)
{
    struct suite_count sum = { 0 };
    bool same = true;
    for (size_t i = 0; i < ARRAY_LEN(suite_expected); i++) {
        const struct suite_count *x = &suite_expected[i];
        struct suite_count c = run_suite_file(x->file);
        bool is_same = c.read == x->read && c.refused == x->refused && c.accepted == x->accepted && c.outside == x->outside && c.invalid == x->invalid;
        if (!is_same)
            printf("    { \"%s\", %d, %d, %d, %d, %d },\n", c.file, c.read, c.refused, c.accepted, c.outside, c.invalid);
        same = same && is_same;
        sum.read += c.read, sum.refused += c.refused, sum.accepted += c.accepted, sum.outside += c.outside, sum.invalid += c.invalid;
    }
    printf("schemas: %d read, %d refused by name; valid instances: %d accepted, %d outside what is generated; %d invalid, all refused\n",
           sum.read, sum.refused, sum.accepted, sum.outside, sum.invalid);
    assert_true(same);
}

/* ---- schemas as applications write them ---- */

static const struct { unsigned flags; const char *schema, *accept[5], *refuse[6]; } schema_texts[] = {
    { 0, "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\"},\"age\":{\"type\":\"integer\"}},\"required\":[\"name\"]}",
      { "{\"name\":\"a\"}", "{\"name\": \"\\u00e4\", \"age\": -5}", "{\n  \"name\": \"x\"\n}" },
      { "{}", "{\"age\":1}", "{\"name\":\"a\",\"x\":1}", "{\"name\":1}", " {\"name\":\"a\"}", "{\"name\":\"a\"} " } },
    { SCHEMA_EXACT, "{\"properties\":{\"a\":{\"type\":\"null\"}}}", { "1", "{\"b\":1}", "{\"a\":null,\"b\":2}" }, { "{\"a\":1}", "{\"b\":1,\"a\":null}", "" } },
    { 0, "{\"$defs\":{\"n\":{\"type\":\"object\",\"properties\":{\"v\":{\"type\":\"integer\"},\"next\":{\"anyOf\":[{\"$ref\":\"#/$defs/n\"},{\"type\":\"null\"}]}},"
         "\"required\":[\"v\",\"next\"],\"additionalProperties\":false}},\"$ref\":\"#/$defs/n\"}",
      { "{\"v\":1,\"next\":null}", "{\"v\":1,\"next\":{\"v\":2,\"next\":{\"v\":3,\"next\":null}}}" }, { "{\"v\":1}", "{\"v\":1,\"next\":{\"v\":2}}", "null" } },
    { 0, "{\"type\":\"object\",\"additionalProperties\":{\"type\":\"integer\"},\"properties\":{\"k\\\"1\":{\"type\":\"null\"},\"k\":{\"type\":\"null\"}}}",
      { "{\"k\\\"1\": null}", "{\"k\\\"\": 1}", "{\"kk\": 1}", "{\"\": 1, \"\xc3\xa4\": 2}", "{\"k\": null, \"k1\": 2}" },
      { "{\"k\": 1}", "{\"k\\\"1\": 1}", "{\"\\u006b\": 1}", "{\"kk\": null}", "{\"a\": 1, \"k\": null}" } },
    { 0, "{\"anyOf\":[{\"type\":\"string\"},{\"type\":\"number\"}],\"description\":\"x\",\"maxLength\":2,\"maximum\":5}", { "\"ab\"", "4.5" }, { "\"abc\"", "6", "null" } },
    { 0, "{\"allOf\":[{\"properties\":{\"a\":{\"type\":\"integer\"}},\"required\":[\"a\"]},{\"properties\":{\"b\":{\"type\":\"null\"},\"a\":{\"minimum\":3}}}]}",
      { "{\"a\":3}", "{\"a\":4,\"b\":null}" }, { "{}", "{\"a\":2}", "{\"b\":null}", "{\"a\":3.5}" } },
    { 0, "{\"oneOf\":[{\"type\":\"object\",\"properties\":{\"kind\":{\"const\":\"a\"},\"x\":{\"type\":\"integer\"}},\"required\":[\"kind\",\"x\"]},"
         "{\"type\":\"object\",\"properties\":{\"kind\":{\"const\":\"b\"}},\"required\":[\"kind\"]}]}",
      { "{\"kind\":\"a\",\"x\":1}", "{\"kind\":\"b\"}" }, { "{\"kind\":\"a\"}", "{\"kind\":\"b\",\"x\":1}", "{}" } },
    { 0, "{\"type\":\"number\",\"minimum\":-1.25,\"exclusiveMaximum\":2.5}", { "-1.25", "0", "2.4999", "-0.5", "2" }, { "-1.26", "2.5", "3", "-2", "1e0", "-0" } },
    { 0, "{\"type\":\"number\",\"minimum\":99.5,\"maximum\":1000.01}", { "99.5", "100", "1000.01", "999.999", "99.50" }, { "99.49", "99", "1000.011", "1001", "5", "10000" } },
    { 0, "{\"type\":\"integer\",\"exclusiveMinimum\":-2.5,\"maximum\":-1}", { "-1", "-2" }, { "0", "-3", "-0", "-1.0", "-11" } },
    { 0, "{\"type\":\"integer\",\"minimum\":-20,\"maximum\":105}", { "-20", "-9", "0", "105", "99" }, { "-21", "-100", "106", "200", "1000", "-0" } },
    { 0, "{\"type\":[\"string\",\"null\"],\"pattern\":\"^[A-Z]{2}-\\\\d+$\",\"maxLength\":6}", { "\"AB-1\"", "\"AB-123\"", "null" }, { "\"AB-\"", "\"AB-1234\"", "\"ab-1\"", "\"AB-1\\n\"" } },
    { 0, "{\"type\":\"string\",\"pattern\":\"b\\\"\\n\",\"minLength\":5}", { "\"xxb\\\"\\n\"", "\"b\\\"\\nxx\"" }, { "\"b\\\"\\n\"", "\"xxxxx\"", "\"xb\\\"\\n\"" } },
    { 0, "{\"type\":\"string\",\"minLength\":2,\"maxLength\":3}", { "\"\xf0\x9f\x98\x80\xf0\x9f\x98\x80\"", "\"\\ud83d\\ude00a\"", "\"a\\n\\\"\"" },
      { "\"\\ud83d\\ude00\"", "\"a\"", "\"abcd\"", "\"\\ud83da\"", "\"ab", "\"\xff\xfe\"" } },
    { 0, "{\"type\":\"string\",\"format\":\"uuid\",\"maxLength\":36}", { "\"12345678-1234-1234-1234-1234567890ab\"" }, { "\"12345678\"" } },
    { 0, "{\"enum\":[1.5,\"a\\\"\\u00e4\",[1,{\"b\":[]}],1e20,0.1],\"title\":\"t\"}", { "1.5", "\"a\\\"\xc3\xa4\"", "[1, {\"b\": []}]", "0.1", "1e+20" }, { "1", "[1]", "\"a\"", "0.10" } },
    { 0, "{\"type\":\"string\",\"enum\":[\"a\",1,\"bcd\"],\"maxLength\":2}", { "\"a\"" }, { "1", "\"bcd\"" } },
    { 0, "{\"type\":\"array\",\"prefixItems\":[{\"type\":\"integer\"},{\"type\":\"null\"}],\"items\":false}", { "[]", "[1]", "[1, null]" }, { "[null]", "[1, null, 1]", "[,]" } },
    { 0, "{\"type\":\"array\",\"items\":{\"type\":\"boolean\"},\"minItems\":1,\"maxItems\":2}", { "[true]", "[ true, false ]" }, { "[]", "[true,true,true]", "[1]" } },
    { 0, "true", { "1", "{\"a\":[{}]}", "\"\"", "-0.5e-10" }, { "", "01", "{", "nul", "1e1000" } },
    { 0, "{\"$id\":\"http://x/y\",\"$ref\":\"http://x/y#/definitions/a~1b%25\",\"definitions\":{\"a/b%\":{\"const\":null}}}", { "null" }, { "1" } },
};

static void test_schema_texts(void **state)
{
    size_t n_wrong = 0;
    for (size_t i = 0; i < ARRAY_LEN(schema_texts); i++) {
        struct machine m;
        struct err e = { 0 };
        if (machine_open(&m, true, schema_texts[i].schema, strlen(schema_texts[i].schema), schema_texts[i].flags, &e) != HEARTH_OK)
            fail_msg("%s: %s", schema_texts[i].schema, e.text);
        for (size_t k = 0; k < 6; k++) {
            const char *yes = k < 5 ? schema_texts[i].accept[k] : NULL, *no = schema_texts[i].refuse[k];
            if (yes && !accepts(&m, yes, strlen(yes)) && ++n_wrong)
                printf("%s\n  must accept %s\n", schema_texts[i].schema, yes);
            if (no && accepts(&m, no, strlen(no)) && ++n_wrong)
                printf("%s\n  must refuse %s\n", schema_texts[i].schema, no);
        }
        machine_close(&m);
    }
    assert_int_equal(n_wrong, 0);
}

static void test_schema_refusals(void **state)
{
    static const struct { const char *text; enum hearth_status status; const char *says; } bad[] = {
        { "{", HEARTH_EDAMAGED, "not JSON" },
        { "1", HEARTH_EINVAL, "must be an object" },
        { "false", HEARTH_EINVAL, "nothing satisfies" },
        { "{\"type\":\"integer\",\"minimum\":3,\"maximum\":2}", HEARTH_EINVAL, "nothing satisfies" },
        { "{\"type\":\"integer\",\"exclusiveMinimum\":3,\"exclusiveMaximum\":4}", HEARTH_EINVAL, "nothing satisfies" },
        { "{\"type\":\"string\",\"minLength\":3,\"maxLength\":2}", HEARTH_EINVAL, "nothing satisfies" },
        { "{\"type\":\"string\",\"pattern\":\"^abc$\",\"maxLength\":2}", HEARTH_EINVAL, "nothing satisfies" },
        { "{\"type\":\"object\",\"properties\":{\"a\":{\"$ref\":\"#\"}},\"required\":[\"a\"]}", HEARTH_EINVAL, "nothing satisfies" },
        { "{\"$ref\":\"#\"}", HEARTH_EINVAL, "nothing satisfies" },
        { "{\"anyOf\":[{\"$ref\":\"#\"},{\"type\":\"null\"}]}", HEARTH_EUNSUPPORTED, "begins with itself" },
        { "{\"allOf\":[{\"$ref\":\"#\"}]}", HEARTH_ELIMIT, "too complex" },
        { "{\"$ref\":\"#/$defs/no\"}", HEARTH_EINVAL, "leads nowhere" },
        { "{\"$ref\":\"other.json\"}", HEARTH_EUNSUPPORTED, "other.json" },
        { "{\"not\":{}}", HEARTH_EUNSUPPORTED, "\"not\"" },
        { "{\"type\":\"integer\",\"multipleOf\":3}", HEARTH_EUNSUPPORTED, "\"multipleOf\"" },
        { "{\"type\":\"string\",\"format\":\"email\"}", HEARTH_EUNSUPPORTED, "format: email" },
        { "{\"type\":\"array\",\"uniqueItems\":true}", HEARTH_EUNSUPPORTED, "\"uniqueItems\"" },
        { "{\"oneOf\":[{\"type\":\"integer\"},{\"type\":\"number\"}]}", HEARTH_EUNSUPPORTED, "branches 0 and 1" },
        { "{\"type\":\"string\",\"pattern\":\"(?=a)\"}", HEARTH_EUNSUPPORTED, "look-around" },
        { "{\"type\":\"string\",\"pattern\":\"(a)\\\\1\"}", HEARTH_EUNSUPPORTED, "back references" },
        { "{\"type\":\"string\",\"pattern\":\"(\"}", HEARTH_EINVAL, "( without )" },
        { "{\"type\":\"string\",\"pattern\":\"[\"}", HEARTH_EINVAL, "no end" },
        { "{\"type\":\"string\",\"maxLength\":1001}", HEARTH_ELIMIT, "too complex" },
        { "{\"properties\":1}", HEARTH_EINVAL, "\"properties\"" },
        { "{\"type\":\"object\",\"required\":[1]}", HEARTH_EINVAL, "\"required\"" },
        { "{\"type\":7}", HEARTH_EINVAL, "\"type\"" },
        { "{\"enum\":[{\"a\":1}],\"required\":[\"a\"]}", HEARTH_EUNSUPPORTED, "enum (beside required)" },
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct machine m;
        struct err e = { 0 };
        enum hearth_status st = machine_open(&m, true, bad[i].text, strlen(bad[i].text), 0, &e);
        if (st != bad[i].status || !strstr(e.text, bad[i].says))
            fail_msg("%s: %s: %s", bad[i].text, hearth_status_name(st), e.text);
        machine_close(&m);
    }
}

/* ---- hostile texts, on a small stack ---- */

struct kill { bool is_schema; const char *head, *middle, *tail; size_t n; };
static const struct kill kills[] = {
    { false, "root ::= ", "(", "", 60000 }, { false, "root ::= ", "(", "", 64 }, { false, "root ::= \"a\"", "*", "", 60000 },
    { false, "root ::= ", "(\"a\"", "", 20000 }, { false, "root ::= \"", "a", "", 60000 }, { false, "root ::= \"", "a", "\"", 65000 },
    { false, "root ::= [", "a", "]", 60000 }, { false, "root ::= ", "[^a]", "", 15000 }, { false, "root ::= ", "|", "", 60000 },
    { false, "root ::= a\n", "a ::= a\n", "", 8000 }, { false, "root ::= (((((\"a\"{1000}){1000}){1000}){1000}){1000})", "", "", 0 },
    { false, "root ::= ((((((([^a]?){9})?){9})?){9})?){9}", "", "", 0 }, { false, "root ::= \"a\"{18446744073709551615}", "", "", 0 },
    { false, "root ::= \"a\"{", "9", "}", 60000 }, { false, "", "\n", "", 65000 }, { false, "root ::= #", "#", "", 65000 },
    { false, "root ::= ", "x", "", 65000 }, { false, "root ::= ", "x ", "", 30000 }, { false, "root ::= ((", "\"\"?", ")*)*", 15000 },
    { false, "root ::= ", "\"\"*", "", 16000 }, { false, "", "root ::= \"a\"\n", "", 6000 }, { false, "root ::= ", "<[1]>", "", 9000 },
    { true, "", "[", "", 60000 }, { true, "", "{\"a\":", "", 12000 }, { true, "", "{\"items\":", "", 60 }, { true, "", "{\"allOf\":[", "", 6000 },
    { true, "{\"enum\":[", "1,", "1]}", 30000 }, { true, "{\"enum\":[", "1,", "1]}", 4000 }, { true, "{\"const\":\"", "a", "\"}", 65000 },
    { true, "{\"type\":\"array\",\"maxItems\":18446744073709551615,\"items\":{\"$ref\":\"#\"}}", "", "", 0 },
    { true, "{\"type\":\"array\",\"maxItems\":1e300,\"items\":{\"$ref\":\"#\"}}", "", "", 0 },
    { true, "{\"type\":\"array\",\"minItems\":1000,\"maxItems\":1000,\"items\":{\"$ref\":\"#\"}}", "", "", 0 },
    { true, "{\"$ref\":\"#\",\"type\":\"object\"}", "", "", 0 }, { true, "{\"allOf\":[{\"$ref\":\"#\"},{\"$ref\":\"#\"}]}", "", "", 0 },
    { true, "{\"$ref\":\"#/", "a/", "\"}", 20000 },
    { true, "{\"type\":\"string\",\"pattern\":\"", "(", "\"}", 400 }, { true, "{\"type\":\"string\",\"pattern\":\"", "(a*)*", "b\"}", 90 },
    { true, "{\"type\":\"string\",\"pattern\":\"", "a", "\"}", 600 }, { true, "{\"type\":\"string\",\"pattern\":\"(a|b)*a(a|b){", "2", "0}\"}", 1 },
    { true, "{\"type\":\"string\",\"pattern\":\"((a{1000}){1000}){1000}\"}", "", "", 0 }, { true, "{\"type\":\"string\",\"pattern\":\"a{", "9", "}\"}", 400 },
    { true, "{\"type\":\"string\",\"pattern\":\"", "(x+x+)+", "y\",\"maxLength\":1000}", 60 },
    { true, "{\"type\":\"string\",\"pattern\":\"", "[^a]*b", "\",\"minLength\":999,\"maxLength\":1000}", 60 },
    { true, "{\"type\":\"string\",\"pattern\":\"*", "", "\"}", 0 }, { true, "{\"type\":\"string\",\"pattern\":\"\\\\p{", "L", "}\"}", 300 },
    { true, "{\"anyOf\":[{},{}],\"allOf\":[", "{\"anyOf\":[{\"minimum\":1},{\"minimum\":2}]},", "{}],\"minimum\":0}", 200 },
    { true, "{\"type\":\"number\",\"minimum\":-1e308,\"maximum\":1e308,\"x\":\"", "x", "\"}", 1 },
    { true, "{\"type\":\"number\",\"minimum\":5e-324,\"exclusiveMaximum\":1.7976931348623157e308}", "", "", 0 },
    { true, "{\"required\":[", "\"a\",", "\"b\"],\"properties\":{\"a\":{}}}", 4000 },
    { true, "{\"additionalProperties\":{},\"properties\":{\"", "a", "\":{}}}", 60000 },
};

static char *kill_text(const struct kill *k, size_t *n)
{
    size_t head = strlen(k->head), middle = strlen(k->middle), tail = strlen(k->tail);
    char *p = malloc(head + k->n * middle + tail + 1), *at = p;
    CHECK(p);
    memcpy(at, k->head, head);
    at += head;
    for (size_t i = 0; i < k->n; i++, at += middle)
        memcpy(at, k->middle, middle);
    memcpy(at, k->tail, tail + 1);
    *n = head + k->n * middle + tail;
    return p;
}

struct killed { size_t n_limit, n_other, n_made; uint64_t worst_ns; size_t worst; };

static void *run_kills(void *arg)
{
    struct killed *out = arg;
    for (size_t i = 0; i < ARRAY_LEN(kills); i++) {
        struct machine m;
        struct err e = { 0 };
        size_t n;
        char *text = kill_text(&kills[i], &n);
        uint64_t begin = clock_thread_ns();
        arena_init(&m.a, 0);
        enum hearth_status st = kills[i].is_schema ? grammar_from_schema(&m.g, text, n, 0, &m.a, &e) : grammar_from_gbnf(&m.g, text, n, &m.a, &e);
        uint64_t took = clock_thread_ns() - begin;
        if (took > out->worst_ns) {
            out->worst_ns = took;
            out->worst = i;
        }
        CHECK((st == HEARTH_OK) == !e.text[0] && st == e.status);
        CHECK(st != HEARTH_ELIMIT || strncmp(e.text, "too complex", 11) == 0);
        out->n_limit += st == HEARTH_ELIMIT;
        out->n_made += st == HEARTH_OK;
        out->n_other += st != HEARTH_ELIMIT && st != HEARTH_OK;
        if (st == HEARTH_OK && grammar_cache_open(&m.c, m.g, NULL, 0, &m.a, &e) == HEARTH_OK) {
            struct grammar_run r;
            if (grammar_run_open(&r, m.c, &e) == HEARTH_OK) {
                grammar_accept_bytes(&r, "[[[[[[aaaaaaaaaaaaaaaa", 22);
                for (int k = 0; k < 2000 && grammar_accept_bytes(&r, k % 2 ? "\"" : "a", 1); k++) {
                }
                grammar_run_close(&r);
            }
        }
        free(text);
        machine_close(&m);
    }
    return NULL;
}

static void test_kill_inputs(void **state)
{
    struct killed k = { 0 };
    pthread_t thread;
    pthread_attr_t attr;
    assert_int_equal(pthread_attr_init(&attr), 0);
    assert_int_equal(pthread_attr_setstacksize(&attr, 256 * KIB), 0);
    assert_int_equal(pthread_create(&thread, &attr, run_kills, &k), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    pthread_attr_destroy(&attr);
    printf("%zu hostile texts: %zu too complex, %zu refused otherwise, %zu made; slowest: text %zu, %.1f ms\n", ARRAY_LEN(kills), k.n_limit,
           k.n_other, k.n_made, k.worst, (double)k.worst_ns * 1e-6);
    assert_true(ARRAY_LEN(kills) >= 40 && k.n_limit >= 15);
}

/* A grammar that is read in thousands of ways at once meets the cache's limits, not the machine's. */
static void test_ambiguous(void **state)
{
    static const char text[] = "root ::= x x x x x x x x x x x x\nx ::= (\"a\" x \"b\" | \"a\" x \"c\" | \"a\"){0,20}";
    struct machine m;
    struct grammar_run r;
    struct err e = { 0 };
    assert_ok(machine_open(&m, false, text, strlen(text), 0, &e), &e);
    assert_ok(grammar_run_open(&r, m.c, &e), &e);
    for (int i = 0; i < 500 && grammar_accept_bytes(&r, "a", 1); i++) {
    }
    assert_true(grammar_accept_bytes(&r, "", 0));
    grammar_run_close(&r);
    assert_true(accepts(&m, "aab", 3)); /* and the cache goes on working */
    machine_close(&m);
}

/* ---- masks ---- */

struct words { struct arena a; struct gguf g; struct vocab v; struct tokenizer *t; struct grammar_vocab *trie; };

static void words_open(struct words *w, const char *name)
{
    struct err e = { 0 };
    *w = (struct words){ 0 };
    arena_init(&w->a, 0);
    if (strstr(name, ".gguf")) {
        assert_ok(gguf_open(&w->g, data_path(name), &w->a, &e), &e);
        assert_ok(vocab_from_gguf(&w->v, &w->g, &w->a, &e), &e);
    } else {
        assert_ok(vocab_from_files(&w->v, data_path(name), &w->a, &e), &e);
    }
    assert_ok(tokenizer_open(&w->t, &w->v, &w->a, &e), &e);
    assert_ok(grammar_vocab_open(&w->trie, w->t, &w->a, &e), &e);
}

static void words_close(struct words *w)
{
    tokenizer_close(w->t);
    gguf_close(&w->g);
    arena_free(&w->a);
}

/* What a token adds, by the public way. */
static struct str piece_of(const struct words *w, int32_t id, char buf[32])
{
    uint8_t type = w->v.tokens[id].type;
    struct str s = tokenizer_piece(w->t, id, false, buf);
    bool can = (type == TOKEN_NORMAL || type == TOKEN_BYTE || type == TOKEN_USER_DEFINED) && !tokenizer_is_eog(w->t, id);
    return can && s.n <= LIMIT_GRAMMAR_TOKEN_BYTES ? s : (struct str){ "", 0 };
}

static bool bit(const uint32_t *mask, size_t id) { return mask[id / 32] >> (id % 32) & 1; }

static const char *const mask_grammars[] = {
    ("S{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\"},\"age\":{\"type\":\"integer\",\"minimum\":0},\"tags\":{\"type\":\"array\","
    "\"items\":{\"type\":\"string\",\"maxLength\":12}},\"on\":{\"format\":\"date\"}},\"required\":[\"name\",\"age\"]}"),
    "S{}",
    "S{\"type\":\"object\",\"additionalProperties\":{\"$ref\":\"#\"},\"properties\":{\"a\":{\"enum\":[\"x\",\"xy\",1.5]},\"\xe6\x97\xa5\":{\"type\":\"null\"}}}",
    "S{\"type\":\"array\",\"items\":{\"type\":\"string\",\"maxLength\":300}}", /* very many states */
    "Groot ::= (\"- \" [^\\n]{1,30} \"\\n\")+",
    "Groot ::= [\xe3\x81\x81-\xe3\x82\x9f\xe4\xb8\x80-\xe9\xbf\xbf]{1,20} | \"(\" root \")\" | [a-z ]+",
};

static void open_mask_grammar(struct machine *m, const struct words *w, size_t i, size_t bytes)
{
    struct err e = { 0 };
    const char *text = mask_grammars[i] + 1;
    arena_init(&m->a, 0);
    assert_ok(mask_grammars[i][0] == 'S' ? grammar_from_schema(&m->g, text, strlen(text), 0, &m->a, &e)
                                         : grammar_from_gbnf(&m->g, text, strlen(text), &m->a, &e), &e);
    assert_ok(grammar_cache_open(&m->c, m->g, w->trie, bytes, &m->a, &e), &e);
}

/* Each token by itself through a cache without vocabulary, which makes no masks. */
static void check_mask(struct machine *plain, const struct words *w, const struct buf *text, const uint32_t *mask)
{
    struct grammar_run r;
    struct err e = { 0 };
    assert_ok(grammar_run_open(&r, plain->c, &e), &e);
    assert_true(grammar_accept_bytes(&r, text->len ? text->data : "", text->len));
    for (size_t id = 0; id < w->v.n_tokens; id++) {
        char buf[32];
        struct str s = piece_of(w, (int32_t)id, buf);
        bool fits = tokenizer_is_eog(w->t, (int32_t)id) ? grammar_can_end(&r) : s.n && grammar_accept_bytes(&r, s.p, s.n);
        if (fits && s.n)
            grammar_rollback(&r, 1);
        if (fits != bit(mask, id))
            fail_msg("after \"%.*s\": token %zu \"%.*s\" fits: %d, mask: %d", (int)text->len, text->data ? text->data : "", id, STR_FMT(s), fits,
                     bit(mask, id));
    }
    grammar_run_close(&r);
}

static int32_t random_allowed(const uint32_t *mask, size_t n_tokens, uint64_t *seed)
{
    size_t start = (size_t)(test_random(seed) % n_tokens);
    for (size_t k = 0; k < n_tokens; k++)
        if (bit(mask, (start + k) % n_tokens))
            return (int32_t)((start + k) % n_tokens);
    return -1;
}

/* Random texts by allowed tokens; at every third step the mask is compared with trying all tokens. small: a cache so small that
 * collections happen all the time. */
static void walk_randomly(const struct words *w, size_t i_grammar, uint64_t seed, bool is_small)
{
    struct machine m, plain;
    struct grammar_run r;
    struct err e = { 0 };
    struct buf text;
    open_mask_grammar(&m, w, i_grammar, is_small ? 1 : 0);
    open_mask_grammar(&plain, w, i_grammar, 0);
    buf_init(&text, 0);
    assert_ok(grammar_run_open(&r, m.c, &e), &e);
    for (int step = 0; step < 24; step++) {
        const uint32_t *mask;
        char buf[32];
        assert_ok(grammar_mask(&r, &mask, &e), &e);
        if (step % 3 == 0)
            check_mask(&plain, w, &text, mask);
        int32_t id = random_allowed(mask, w->v.n_tokens, &seed);
        assert_true(id >= 0);
        if (tokenizer_is_eog(w->t, id))
            break;
        struct str s = piece_of(w, id, buf);
        assert_true(grammar_accept_token(&r, id));
        buf_append(&text, s.p, s.n);
        if (grammar_is_over(&r))
            break;
    }
    grammar_run_close(&r);
    buf_free(&text);
    machine_close(&m);
    machine_close(&plain);
}

static void test_mask_is_brute_force(void **state)
{
    static const char *const vocabs[] = { "vocab/ggml-vocab-llama-spm.gguf", "vocab/ggml-vocab-gpt-2.gguf" };
    for (size_t i = 0; i < ARRAY_LEN(vocabs); i++) {
        struct words w;
        need_data(vocabs[i]);
        words_open(&w, vocabs[i]);
        for (size_t k = 0; k < ARRAY_LEN(mask_grammars); k++) {
            walk_randomly(&w, k, 11 + k, false);
            walk_randomly(&w, k, 5 + k, true);
        }
        words_close(&w);
    }
}

/* The token that brings the text nearer to its end: closing ones first. */
static int32_t closing_token(const struct words *w, const uint32_t *mask, uint64_t *seed)
{
    static const char *const wanted[] = { "\"", "}", "]", "\":", ":", "0", ",", "e", "1" };
    int32_t ends = -1;
    for (size_t id = 0; id < w->v.n_tokens && ends < 0; id++)
        if (tokenizer_is_eog(w->t, (int32_t)id) && bit(mask, id))
            ends = (int32_t)id;
    if (ends >= 0)
        return ends;
    size_t turn = (size_t)(test_random(seed) % 3); /* which of the first three comes first: none of them ends everything */
    for (size_t i = 0; i < ARRAY_LEN(wanted); i++)
        for (size_t id = 0; id < w->v.n_tokens; id++) {
            char buf[32];
            struct str s = piece_of(w, (int32_t)id, buf);
            if (s.n && bit(mask, id) && str_eqz(s, wanted[i < 3 ? (i + turn) % 3 : i]))
                return (int32_t)id;
        }
    return random_allowed(mask, w->v.n_tokens, seed);
}

/* Texts made of random allowed tokens, then led to an end: each is JSON, and the grammar's bytes say so too. Three runs share the
 * cache and take turns, drafts are tried and taken back on the way. */
static void test_random_texts(void **state)
{
    static const char vocab[] = "vocab/ggml-vocab-gpt-2.gguf";
    struct words w;
    size_t n_texts = 0;
    need_data(vocab);
    words_open(&w, vocab);
    for (size_t i = 0; i < 4; i++) {
        struct machine m;
        open_mask_grammar(&m, &w, i, i % 2 ? 1 : 0);
        for (uint64_t seed = 1; seed <= 6; seed++) {
            struct grammar_run runs[3];
            struct buf texts[3];
            bool done[3] = { false };
            struct err e = { 0 };
            uint64_t random = seed * 1000 + i;
            for (size_t k = 0; k < 3; k++) {
                assert_ok(grammar_run_open(&runs[k], m.c, &e), &e);
                buf_init(&texts[k], 0);
            }
            for (int step = 0; step < 3 * 1500 && !(done[0] && done[1] && done[2]); step++) {
                size_t k = (size_t)step % 3;
                const uint32_t *mask;
                char buf[32];
                if (done[k])
                    continue;
                size_t n_draft = (size_t)(test_random(&random) % 4), n_taken = 0;
                for (; n_taken < n_draft; n_taken++) { /* a draft, refused */
                    assert_ok(grammar_mask(&runs[k], &mask, &e), &e);
                    int32_t id = random_allowed(mask, w.v.n_tokens, &random);
                    if (tokenizer_is_eog(w.t, id) || !grammar_accept_token(&runs[k], id) || grammar_is_over(&runs[k])) {
                        n_taken += !tokenizer_is_eog(w.t, id);
                        break;
                    }
                }
                grammar_rollback(&runs[k], n_taken);
                assert_ok(grammar_mask(&runs[k], &mask, &e), &e);
                int32_t id = step < 90 ? random_allowed(mask, w.v.n_tokens, &random) : closing_token(&w, mask, &random);
                assert_true(grammar_accept_token(&runs[k], id));
                if (tokenizer_is_eog(w.t, id))
                    done[k] = true;
                else
                    buf_append(&texts[k], piece_of(&w, id, buf).p, piece_of(&w, id, buf).n);
            }
            for (size_t k = 0; k < 3; k++) {
                json_error_t je;
                if (!done[k])
                    fail_msg("no end: %.*s", (int)texts[k].len, texts[k].data);
                json_t *v = json_loadb(texts[k].data, texts[k].len, JSON_DECODE_ANY | JSON_ALLOW_NUL, &je);
                if (!v && !strstr(je.text, "real number overflow") && !strstr(je.text, "\\u0000"))
                    fail_msg("%s: %.*s", je.text, (int)texts[k].len, texts[k].data);
                n_texts += v != NULL;
                json_decref(v);
                assert_true(accepts(&m, texts[k].data, texts[k].len));
                grammar_run_close(&runs[k]);
                buf_free(&texts[k]);
            }
        }
        assert_true(i != 3 || grammar_cache_stats(m.c).n_collections > 10);
        machine_close(&m);
    }
    words_close(&w);
    printf("%zu texts of random tokens are JSON\n", n_texts);
    assert_true(n_texts > 60);
}

static void test_apply(void **state)
{
    float logits[75];
    uint32_t mask[3] = { UINT32_MAX, 0x80000001u, 5 };
    for (size_t i = 0; i < 75; i++)
        logits[i] = (float)i;
    grammar_apply(mask, logits, 70);
    for (size_t i = 0; i < 75; i++)
        assert_true(i >= 70 || bit(mask, i) ? logits[i] == (float)i : isinf(logits[i]) && logits[i] < 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accept_cases),
        cmocka_unit_test(test_gbnf_files),
        cmocka_unit_test(test_gbnf_notation),
        cmocka_unit_test(test_gbnf_mistakes),
        cmocka_unit_test(test_suite),
        cmocka_unit_test(test_schema_texts),
        cmocka_unit_test(test_schema_refusals),
        cmocka_unit_test(test_kill_inputs),
        cmocka_unit_test(test_ambiguous),
        cmocka_unit_test(test_mask_is_brute_force),
        cmocka_unit_test(test_random_texts),
        cmocka_unit_test(test_apply),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* test_template.c: chat templates against vectors no one here wrote, Python's ways of printing, hostile
 * templates, and where each byte of the output came from.
 *
 * Every case of the data holds as it stands; two kinds deserve a word. The two cases with .pop() and .append()
 * do not run in the sandbox that chat templates usually get, which forbids changing a list; they do in
 * plain Jinja, and hearth allows both because a render works on its own copy. And the conversation cases expect a
 * system text before the first user turn also where a template leaves system messages out without an error (Phi-3):
 * chat_render does that, and says why.
 */
#include "support.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "formats/template.h"

/* ---- help ---- */

static enum hearth_status render_text(const char *text, size_t n, json_t *vars, struct render_options *o, struct rendered *r, struct err *e)
{
    struct arena a;
    struct template *t;
    enum hearth_status st;
    arena_init(&a, 0);
    st = template_compile(&t, text, n, "test", &a, e);
    if (st == HEARTH_OK)
        st = template_render_with(t, vars, o, r, e);
    arena_free(&a);
    return st;
}

static json_t *load(const char *text)
{
    json_error_t error;
    json_t *j = json_loads(text, 0, &error);
    if (!j)
        fail_msg("%s: %s", text, error.text);
    return j;
}

static json_t *load_data(const char *name)
{
    json_error_t error;
    need_data(name);
    json_t *j = json_load_file(data_path(name), 0, &error);
    assert_non_null(j);
    return j;
}

static const char *string_of(const json_t *o, const char *key)
{
    return json_string_value(json_object_get(o, key));
}

static void check_text(const char *template, json_t *vars, const char *want)
{
    struct render_options o = { 0 };
    struct rendered r;
    struct err e = { 0 };
    rendered_init(&r);
    enum hearth_status st = render_text(template, strlen(template), vars, &o, &r, &e);
    if (st != HEARTH_OK)
        fail_msg("%s\n  failed: %s", template, e.text);
    if (strcmp(r.text.data ? r.text.data : "", want) != 0)
        fail_msg("%s\n  got:  '%s'\n  want: '%s'", template, r.text.data ? r.text.data : "", want);
    rendered_free(&r);
}

static void check_error(const char *template, json_t *vars, enum hearth_status want, const char *words)
{
    struct render_options o = { 0 };
    struct rendered r;
    struct err e = { 0 };
    rendered_init(&r);
    enum hearth_status st = render_text(template, strlen(template), vars, &o, &r, &e);
    if (st != want || e.status != want || !strstr(e.text, words))
        fail_msg("%.200s\n  got:  %s: %s\n  want: %s: ... %s ...", template, hearth_status_name(st), e.text, hearth_status_name(want), words);
    rendered_free(&r);
}

/* ---- the data's cases ---- */

static void engine_cases(void **state)
{
    json_t *all = load_data("templates/jinja_cases.json"), *cases = json_object_get(all, "cases");
    assert_int_equal(json_array_size(cases), 132);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        json_t *c = json_array_get(cases, i);
        check_text(string_of(c, "template"), json_object_get(c, "vars"), string_of(c, "expected"));
    }
    json_decref(all);
}

static void conversation_cases(void **state)
{
    json_t *all = load_data("templates/chat_cases.json"), *cases = json_object_get(all, "cases");
    assert_int_equal(json_array_size(cases), 16);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        json_t *c = json_array_get(cases, i);
        struct chat_options o = { .messages = json_object_get(all, "messages"), .bos = string_of(c, "bos_token"),
                                  .eos = string_of(c, "eos_token"), .add_generation_prompt = true };
        const char *text = string_of(c, "template"), *got;
        struct template *t;
        struct rendered r;
        struct arena a;
        struct err e = { 0 };
        arena_init(&a, 0);
        rendered_init(&r);
        assert_ok(template_compile(&t, text, strlen(text), string_of(c, "name"), &a, &e), &e);
        assert_ok(chat_render(t, &o, &r, &e), &e);
        got = r.text.data;
        if (*o.bos && strncmp(got, o.bos, strlen(o.bos)) == 0)
            got += strlen(o.bos); /* the file's note: a leading BOS is dropped */
        if (strcmp(got, string_of(c, "expected_jinja")) != 0)
            fail_msg("%s\n  got:  '%s'\n  want: '%s'", string_of(c, "name"), got, string_of(c, "expected_jinja"));
        rendered_free(&r);
        arena_free(&a);
    }
    json_decref(all);
}

static enum hearth_status status_named(const char *name)
{
    for (int st = HEARTH_EIO; st <= HEARTH_ENOTFOUND; st++)
        if (strcmp(hearth_status_name((enum hearth_status)st), name) == 0)
            return (enum hearth_status)st;
    fail_msg("no status '%s'", name);
    return HEARTH_OK;
}

/* Goldens made with Jinja 3.1 in the environment chat templates get: tests/data/template_cases.json. */
static void python_cases(void **state)
{
    json_error_t error;
    json_t *all = json_load_file(source_path("tests/data/template_cases.json"), 0, &error), *cases;
    assert_non_null(all);
    cases = json_object_get(all, "cases");
    assert_true(json_array_size(cases) > 200);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        json_t *c = json_array_get(cases, i);
        json_t *vars = json_object_get(c, "vars") ? json_object_get(c, "vars") : json_object_get(all, "vars");
        if (string_of(c, "text"))
            check_text(string_of(c, "template"), vars, string_of(c, "text"));
        else
            check_error(string_of(c, "template"), vars, status_named(string_of(c, "status")), "");
    }
    json_decref(all);
}

/* ---- hostile templates: a typed error, soon ---- */

static char *repeated(const char *head, const char *unit, size_t n, const char *tail)
{
    struct buf b;
    buf_init(&b, 0);
    buf_append(&b, head, strlen(head));
    for (size_t i = 0; i < n; i++)
        buf_append(&b, unit, strlen(unit));
    buf_append(&b, tail, strlen(tail));
    assert_false(b.failed);
    return b.data;
}

static void hostile_templates_end(void **state)
{
    static const struct { const char *text, *words; } kills[] = {
        { "{% for i in range(1000000000) %}x{% endfor %}", "10000 elements" },
        { "{{ range(-9223372036854775807, 9223372036854775807)|length }}", "10000 elements" },
        { "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}", "1000000 steps" },
        { "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "nest deeper than 400" },
        { "{% macro f(n) %}{{ f(n + 1) }}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}", "nest deeper than 400" },
        { "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}", "nest deeper than 400" },
        { "{% set ns = namespace(s='x') %}{% for i in range(100) %}{% set ns.s = ns.s + ns.s %}{% endfor %}", "1048576 bytes" },
        { "{% set ns = namespace(s=[1]) %}{% for i in range(100) %}{% set ns.s = ns.s + ns.s %}{% endfor %}", "" },
        { "{% set ns = namespace(s=[1]) %}{% for i in range(5000) %}{% set ns.s = [ns.s] %}{% endfor %}{{ ns.s }}", "deeper than 100" },
        { "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s|tojson }}", "1048576 bytes" },
        { "{% set ns = namespace(s=(1,), t=(1,)) %}{% for i in range(60) %}{% set ns.s = (ns.s, ns.s) %}{% set ns.t = (ns.t, ns.t) %}"
          "{% endfor %}{{ ns.s == ns.t }}", "1000000 steps" },
        { "{% set ns = namespace(s=(1,)) %}{% for i in range(60) %}{% set ns.s = (ns.s, ns.s) %}{% endfor %}{{ {ns.s: 1} }}", "1000000 steps" },
        { "{% set l = [] %}{{ l.append(l) }}{{ l }}", "deeper than 100" },
        { "{% set l = [] %}{{ l.append(l) }}{{ l|tojson }}", "deeper than 100" },
        { "{{ 'x' * 1000000000 }}", "1048576 bytes" },
        { "{{ [1] * 1000000000 }}", "1000000 steps" },
        { "{% for i in range(9999) %}{% set y = 'x' * 1000000 %}{% endfor %}", "" },
        { "{% set s = 'x' * 100000 %}{% for i in range(9999) %}{{ s[::-1]|length }}{% endfor %}", "" },
        { "{% set s = 'x' * 1000 %}{{ s.replace('x', s).replace('x', s) }}", "1048576 bytes" },
        { "{% set s = 'x' * 1000 %}{{ (s * 1000).replace('', s) }}", "1048576 bytes" },
        { "{% for i in range(9999) %}{% set y = ('x ' * 100000).split() %}{% endfor %}", "" },
        { "{{ 10 ** 1000 }}", "64 bits" },
        { "{{ (0 - 9223372036854775807 - 1) // -1 }}", "64 bits" },
        { "{{ 99999999999999999999 }}", "64 bits" },
        { "{{ 'x'|center(1000000000000) }}", "1048576 bytes" },
        { "{{ 'x'.zfill(1000000000000) }}", "1048576 bytes" },
        { "{{ 'x\n'|indent(1000000000) }}", "1048576 bytes" },
        { "{{ [[[[[1]]]]]|tojson(indent=1000000) }}", "1048576 bytes" },
        { "{{ '%1000000000d' % 1 }}", "width" },
        { "{{ [1]|batch(1000000000, 'x')|list }}", "" },
        { "{{ [1]|slice(1000000000)|list }}", "" },
        { "{{ (range(9999)|list * 20)|sort }}", "1000000 steps" },
        { "{{ 'ab' * 200000 }}{{ ('ab' * 200000).strip('c' * 100000 ~ 'ab') }}", "1000000 steps" },
        { "{{ ('a' * 200000 ~ 'b' ~ 'a' * 200000).rfind('a' * 50000 ~ 'b' ~ 'a') }}{{ ('a' * 400000).rsplit('a' ~ 'b' ~ 'a' * 100000) }}", "" },
        { "{% set s = 'é' * 200000 %}{% for i in range(9999) %}{{ s[i] }}{% endfor %}", "1000000 steps" },
        { "{{ ('Σ' * 300000).lower() }}", "1000000 steps" },
        { "{% set l = range(9999)|list %}{% for i in range(9999) %}{{ l.insert(0, 1) }}{% endfor %}", "1000000 steps" },
    };
    static const struct { const char *head, *unit; size_t n; const char *tail; const char *words; } deep[] = {
        { "{{ ", "(", 60000, "1", "nested deeper than 64" },     { "{{ ", "[", 60000, "", "nested deeper than 64" },
        { "{{ ", "{1:", 60000, "", "nested deeper than 64" },    { "{{ ", "not ", 60000, "1 }}", "nested deeper than 64" },
        { "{{ ", "-", 60000, "1 }}", "nested deeper than 64" },  { "", "{% if 1 %}", 20000, "", "nested deeper than 64" },
        { "", "{% for i in x %}", 10000, "", "nested deeper than 64" }, { "{{ ", "x(", 60000, "", "nested deeper than 64" },
        { "{{ ", "x[", 60000, "", "nested deeper than 64" },     { "{{ ", "1 if 0 else ", 20000, "2 }}", "nested deeper than 64" },
        { "{% for ", "(", 60000, "", "nested deeper than 64" },  { "{{ x is y ", "is not ", 20000, "", "" },
    };
    json_t *vars = json_object();
    uint64_t begin = clock_ns(), slowest = 0;
    for (size_t i = 0; i < ARRAY_LEN(kills); i++) {
        uint64_t t = clock_ns();
        check_error(kills[i].text, vars, HEARTH_ELIMIT, kills[i].words);
        slowest = MAX(slowest, clock_ns() - t);
    }
    for (size_t i = 0; i < ARRAY_LEN(deep); i++) {
        char *text = repeated(deep[i].head, deep[i].unit, deep[i].n, deep[i].tail);
        bool unknown = !deep[i].words[0];
        check_error(text, vars, unknown ? HEARTH_EUNSUPPORTED : HEARTH_ELIMIT, deep[i].words);
        free(text);
    }
    char *long_text = repeated("", "x", LIMIT_TEMPLATE_BYTES + 1, "");
    check_error(long_text, vars, HEARTH_ELIMIT, "262144");
    free(long_text);
    printf("hostile templates: %zu in %.0f ms, slowest %.0f ms\n", ARRAY_LEN(kills) + ARRAY_LEN(deep) + 1,
           (double)(clock_ns() - begin) / 1e6, (double)slowest / 1e6);
    json_decref(vars);
}

/* What is long but honest must still work. */
static void long_templates_work(void **state)
{
    static const struct { const char *head, *unit; size_t n; const char *tail; size_t want; } flat[] = {
        { "{{ 'a'", " + 'a'", 20000, " }}", 20001 }, { "{{ 'a'", " ~ 'a'", 20000, " }}", 20001 }, { "{{ 'a'", "|upper", 20000, " }}", 1 },
        { "{% if 0 %}", "{% elif 0 %}", 10000, "{% else %}x{% endif %}", 1 }, { "", "{{ 1 }}", 30000, "", 30000 },
        { "{{ 1", " and 1", 20000, " }}", 1 }, { "{{ 1", " == 1", 20000, " }}", 4 }, { "", "{# c #}{% set x = 1 %}\n", 8000, "", 0 },
    };
    json_t *vars = json_object();
    for (size_t i = 0; i < ARRAY_LEN(flat); i++) {
        char *text = repeated(flat[i].head, flat[i].unit, flat[i].n, flat[i].tail);
        struct render_options o = { 0 };
        struct rendered r;
        struct err e = { 0 };
        rendered_init(&r);
        assert_ok(render_text(text, strlen(text), vars, &o, &r, &e), &e);
        assert_int_equal(r.text.len, flat[i].want);
        rendered_free(&r);
        free(text);
    }
    json_decref(vars);
}

static void refusals_name_the_piece_and_the_line(void **state)
{
    json_t *vars = load("{\"l\": [1], \"s\": \"x\"}");
    check_error("a\nb\n{{ s|frobnicate }}", vars, HEARTH_EUNSUPPORTED, "line 3: no filter named 'frobnicate'");
    check_error("\n{{ s is frobnicated }}", vars, HEARTH_EUNSUPPORTED, "line 2: no test named 'frobnicated'");
    check_error("\n\n\n{% include 'x' %}", vars, HEARTH_EUNSUPPORTED, "line 4: the tag 'include' is not supported");
    check_error("{% extends 'x' %}", vars, HEARTH_EUNSUPPORTED, "the tag 'extends'");
    check_error("{% import 'x' as y %}", vars, HEARTH_EUNSUPPORTED, "the tag 'import'");
    check_error("{{ s.encode('utf-8') }}", vars, HEARTH_EUNSUPPORTED, "encode of str");
    check_error("{{ l|map('frobnicate')|list }}", vars, HEARTH_EUNSUPPORTED, "frobnicate");
    check_error("\n{{ nope.x }}", vars, HEARTH_EINVAL, "line 2: 'nope' is undefined");
    check_error("{{ s + 1 }}", vars, HEARTH_EINVAL, "can only concatenate str (not \"int\") to str");
    check_error("{% if x %}\n{% for a in l %}\n{% endif %}", vars, HEARTH_EINVAL, "'endif' closes nothing");
    check_error("{% if x %}\n", vars, HEARTH_EINVAL, "line 1: the block that begins here has no 'elif'");
    check_error("{{ strftime_now('%Q') }}", vars, HEARTH_EUNSUPPORTED, "%Q");
    check_error("{{ s.__class__.__mro__ }}", vars, HEARTH_EINVAL, "'__class__' is undefined");
    check_error("{{ ''.__class__.__base__.__subclasses__() }}", vars, HEARTH_EINVAL, "'__class__' is undefined");
    check_error("{{ range.__globals__['os'] }}", vars, HEARTH_EINVAL, "'__globals__' is undefined");
    check_error("{{ l[, 1] }}", vars, HEARTH_EINVAL, "expected an expression, got ','");
    check_error("\xff{{ s }}", vars, HEARTH_EINVAL, "UTF-8");
    check_error("{{ raise_exception('Only one\nthing: ' ~ s) }}", vars, HEARTH_EINVAL, "Only one thing: x");
    json_decref(vars);
}

/* Every prefix of a real template, and each with a byte changed: an error or a text, never worse. */
static void broken_templates_are_refused(void **state)
{
    static const char *const files[] = { "templates/jinja/Qwen-Qwen3-0.6B.jinja", "templates/jinja/mistralai-Mistral-Nemo-Instruct-2407.jinja" };
    json_t *vars = load("{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}], \"add_generation_prompt\": true}");
    uint64_t seed = 7;
    for (size_t k = 0; k < ARRAY_LEN(files); k++) {
        struct arena a;
        struct err e = { 0 };
        char *text;
        size_t n, n_ok = 0, n_bad = 0;
        arena_init(&a, 0);
        need_data(files[k]);
        assert_ok(file_read_all(&text, &n, data_path(files[k]), MIB, &a, &e), &e);
        for (size_t i = 0; i < n; i++) {
            char keep = text[i];
            struct render_options o = { 0 };
            struct rendered r;
            rendered_init(&r);
            err_clear(&e);
            *(render_text(text, i, vars, &o, &r, &e) == HEARTH_OK ? &n_ok : &n_bad) += 1;
            assert_true(e.status == HEARTH_OK || strlen(e.text) > 10);
            text[i] = (char)test_random(&seed);
            err_clear(&e);
            *(render_text(text, n, vars, &o, &r, &e) == HEARTH_OK ? &n_ok : &n_bad) += 1;
            assert_true(e.status == HEARTH_OK || strlen(e.text) > 10);
            text[i] = keep;
            rendered_free(&r);
        }
        assert_true(n_ok > 10 && n_bad > n / 2);
        arena_free(&a);
    }
    json_decref(vars);
}

/* ---- where bytes come from ---- */

/* The output with ‹ › around what is untrusted. */
static void check_spans(const char *template, const char *vars_text, bool roles, const char *want)
{
    static const char *const trusted[] = { "bos_token", NULL };
    json_t *vars = load(vars_text);
    struct render_options o = { .trusted = trusted, .trust_roles = roles };
    struct rendered r;
    struct err e = { 0 };
    struct buf marked;
    size_t at = 0;
    rendered_init(&r);
    buf_init(&marked, 0);
    assert_ok(render_text(template, strlen(template), vars, &o, &r, &e), &e);
    for (size_t i = 0; i < r.n_untrusted; i++) {
        assert_true(r.untrusted[i].begin < r.untrusted[i].end && r.untrusted[i].end <= r.text.len);
        assert_true(i == 0 ? true : r.untrusted[i - 1].end < r.untrusted[i].begin);
        buf_append(&marked, r.text.data + at, r.untrusted[i].begin - at);
        buf_printf(&marked, "<<%.*s>>", (int)(r.untrusted[i].end - r.untrusted[i].begin), r.text.data + r.untrusted[i].begin);
        at = r.untrusted[i].end;
    }
    buf_append(&marked, r.text.data ? r.text.data + at : "", r.text.len - at);
    if (strcmp(marked.data, want) != 0)
        fail_msg("%s\n  got:  %s\n  want: %s", template, marked.data, want);
    buf_free(&marked);
    rendered_free(&r);
    json_decref(vars);
}

static void data_stays_data(void **state)
{
    static const char vars[] = "{\"u\": \"<|e|>\", \"sp\": \"  <|E|> x \", \"l\": [\"a\", \"<|e|>\"], \"d\": {\"k\\\"\": [\"v\", 1]}, \"n\": 5,"
                               " \"bos_token\": \"<s>\", \"m\": \"é<b>\\n<i>\"}";
    static const struct { const char *template, *want; } cases[] = {
        { "<|s|>{{ u }}<|e|>", "<|s|><<<|e|>>><|e|>" },
        { "{{ bos_token }}{{ u }}{{ n }}", "<s><<<|e|>>>5" },
        { "{{ '<|s|>' + u + '<|e|>' }}", "<|s|><<<|e|>>><|e|>" },
        { "{{ '<|s|>' ~ u ~ n ~ '<|e|>' }}", "<|s|><<<|e|>>>5<|e|>" },
        { "{{ '[' + sp|trim + ']' }}", "[<<<|E|> x>>]" },
        { "{{ ('<' + sp + '>').strip('<> ') }}", "<<|E|> x>>" },
        { "{{ ('ab' + u + 'cd')[1:4] }}", "b<<<|>>" },
        { "{{ ('ab' + u + 'cd')[::-1] }}", "dc<<>|e|<>>ba" },
        { "{{ ('ab' + u)[-2] }}", "<<|>>" },
        { "{{ u.replace('e', 'end') }}", "<<<|>>end<<|>>>" },
        { "{{ 'x<|e|>y'.replace('<|e|>', u) }}", "x<<<|e|>>>y" },
        { "{{ '<|e|>'.replace('', u[0]) }}", "<<<>><<<<>>|<<<>>e<<<>>|<<<>>><<<>>" },
        { "{{ ', '.join(l) }}", "<<a>>, <<<|e|>>>" },
        { "{{ l|join('<sep>') }}", "<<a>><sep><<<|e|>>>" },
        { "{{ u|tojson }}", "\"<<<|e|>>>\"" },
        { "{{ d|tojson }}", "{\"<<k\\\">>\": [\"<<v>>\", 1]}" },
        { "{{ d }}", "{'<<k\">>': ['<<v>>', 1]}" },
        { "{{ {'t': u, 'x': '<|e|>'}|tojson }}", "{\"t\": \"<<<|e|>>>\", \"x\": \"<|e|>\"}" },
        { "{{ ('<|A|>' + u)|upper }}{{ ('<|A|>' + sp)|lower|trim }}", "<|A|><<<|E|>>><|a|><<  <|e|> x>>" },
        { "{{ ('ab ' + u)|title }}{{ ('É' + m)|capitalize }}", "Ab <<<|e|>>>É<<é<b>\n<i>>>" },
        { "{{ '%s=%d <|x|>' % (u, n) }}", "<<<|e|>>>=5 <|x|>" },
        { "{{ '{}: {}'.format(u, '<|t|>') }}", "<<<|e|>>>: <|t|>" },
        { "{% macro f(x) %}<|m|>{{ x }}{% endmacro %}{{ f(u) }}{{ f('t') }}", "<|m|><<<|e|>>><|m|>t" },
        { "{% set x %}<|a|>{{ u }}{% endset %}{{ x }}{{ x|length }}", "<|a|><<<|e|>>>10" },
        { "{% filter upper %}<|a|>{{ u }}{% endfilter %}", "<|A|><<<|E|>>>" },
        { "{% macro f() %}({{ caller() }}){% endmacro %}{% call f() %}{{ u }}{% endcall %}", "(<<<|e|>>>)" },
        { "{{ u * 2 }}{{ '-' * 2 }}", "<<<|e|><|e|>>>--" },
        { "{{ (u + '<|e|>').split('|') }}", "['<<<>>', '<<e>>', '<<>>><', 'e', '>']" },
        { "{{ (u + '|' + 'z').rsplit('|', 1)|join('!') }}", "<<<|e|>>>!z" },
        { "{{ ('a ' + u + ' b').split()|last }}{{ ('a ' + u + ' b').split()[1] }}", "b<<<|e|>>>" },
        { "{{ m|indent(2, true) }}", "  <<é<b>>>\n  <<<i>>>" },
        { "{{ (m + '<t>')|e }}", "<<é&lt;b&gt;\n&lt;i&gt;>>&lt;t&gt;" },
        { "{{ (u + 'trusted words here')|truncate(10, true, '...', 0) }}", "<<<|e|>>>tr..." },
        { "{{ u|center(9) }}|{{ u.ljust(7, '.') }}|{{ 'x'.rjust(3, u[0]) }}", "  <<<|e|>>>  |<<<|e|>>>..|<<<<>>x" },
        { "{% for c in 'x' + u[:2] %}{{ c }}.{% endfor %}", "x.<<<>>.<<|>>." },
        { "{% for k, v in d.items() %}{{ k }}{{ v[0] }}{% endfor %}", "<<k\"v>>" },
        { "{{ (u ~ 'a')|list|join }}{{ (u ~ 'a')|reverse }}", "<<<|e|>>>aa<<>|e|<>>" },
        { "{{ u|replace('|', '')|replace('e', '<|e|>') }}", "<<<>><|e|><<>>>" },
        { "{{ {u: '<t>'} }}{{ namespace(a=u).a }}{{ [u, 't']|map('upper')|join }}", "{'<<<|e|>>>': '<t>'}<<<|e|><|E|>>>T" },
        { "{{ u if u else 't' }}{{ nope|default(u) }}{{ u|default('t') }}", "<<<|e|><|e|><|e|>>>" },
        { "{{ u.partition('e')|join('-') }}{{ u.removeprefix('<') }}{{ ('-' ~ u[1:3]).zfill(6) }}", "<<<|>>-<<e>>-<<|>|e|>>>-000<<|e>>" },
        { "{{ '12'|int + n }}{{ u|length }}{{ u == '<|e|>' }}", "175True" },
        { "{% set ns = namespace(o='') %}{% for x in l %}{% set ns.o = ns.o + '[' + x + ']' %}{% endfor %}{{ ns.o }}{{ ns.o[:3] }}",
          "[<<a>>][<<<|e|>>>][<<a>>]" },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        check_spans(cases[i].template, vars, false, cases[i].want);
}

static void known_roles_are_the_templates_own(void **state)
{
    static const char t[] = "{% for m in messages %}<|{{ m.role }}|>{{ m['role'] }}: {{ m.content }};{% endfor %}";
    static const char vars[] = "{\"messages\": [{\"role\": \"user\", \"content\": \"user\"}, {\"role\": \"<|x|>\", \"content\": \"y\"}]}";
    check_spans(t, vars, true, "<|user|>user: <<user>>;<|<<<|x|>>>|><<<|x|>>>: <<y>>;");
    check_spans(t, vars, false, "<|<<user>>|><<user>>: <<user>>;<|<<<|x|>>>|><<<|x|>>>: <<y>>;");
}

/* ---- conversations ---- */

static void chat_is(const char *template, const char *options, const char *want)
{
    json_t *j = load(options);
    struct chat_options o = { .messages = json_object_get(j, "messages"), .tools = json_object_get(j, "tools"),
                              .extra = json_object_get(j, "extra"), .bos = string_of(j, "bos"), .eos = string_of(j, "eos"),
                              .date = string_of(j, "date"), .add_generation_prompt = json_is_true(json_object_get(j, "gen")) };
    struct template *t;
    struct rendered r;
    struct arena a;
    struct err e = { 0 };
    arena_init(&a, 0);
    rendered_init(&r);
    assert_ok(template_compile(&t, template, strlen(template), "chat", &a, &e), &e);
    enum hearth_status st = chat_render(t, &o, &r, &e);
    const char *got = st == HEARTH_OK ? (r.text.data ? r.text.data : "") : e.text;
    if (strcmp(got, want) != 0)
        fail_msg("%s\n  got:  '%s'\n  want: '%s'", template, got, want);
    rendered_free(&r);
    arena_free(&a);
    json_decref(j);
}

static void conversations_get_what_the_usual_tools_give(void **state)
{
    static const char show[] = "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}";
    static const char refuses[] = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
                                  "{{ m.role }}:{{ m.content }};{% endfor %}";
    static const char drops[] = "{% for m in messages %}{% if m.role != 'system' %}{{ m.role }}:{{ m.content }};{% endif %}{% endfor %}";
    static const char edits[] = "{% for m in messages %}{{ m.role }}:{{ m.content|replace('/no_think', '')|upper }};{% endfor %}";
    static const char talk[] = "{\"messages\": [{\"role\": \"system\", \"content\": \" Be kind. /no_think \"}, {\"role\": \"user\", \"content\": \"Hi\"}]}";
    chat_is("{{ tools is none }}{{ tools is defined }}{{ documents }}{{ add_generation_prompt }}[{{ bos_token }}{{ eos_token }}]", "{\"messages\": []}",
            "TrueTrueNoneFalse[]");
    chat_is("{{ tools[0].x }}{{ add_generation_prompt }}{{ bos_token }}{{ eos_token }}{{ flag }}",
            "{\"messages\": [], \"tools\": [{\"x\": 1}], \"extra\": {\"flag\": false, \"bos_token\": \"<bad>\"}, \"bos\": \"<s>\", \"eos\": \"</s>\","
            " \"gen\": true}", "1True<s></s>False");
    chat_is("{{ date_string }} {{ strftime_now('%A %-d %B %Y, %j %y %m/%d %H:%M %a %b %% %F') }}", "{\"messages\": [], \"date\": \"2024-07-06\"}",
            "06 Jul 2024 Saturday 6 July 2024, 188 24 07/06 00:00 Sat Jul % 2024-07-06");
    chat_is("{{ date_string is defined }}", "{\"messages\": []}", "False");
    chat_is("{{ date_string }}", "{\"messages\": [], \"date\": \"2024-13-06\"}", "the date '2024-13-06' is not YYYY-MM-DD");
    chat_is(show, talk, "system: Be kind. /no_think ;user:Hi;");
    chat_is(edits, talk, "system: BE KIND.  ;user:HI;"); /* not lost: a marker in its place comes through */
    chat_is(refuses, talk, "user: Be kind. /no_think \nHi;");
    chat_is(drops, talk, "user: Be kind. /no_think \nHi;");
    chat_is(refuses, "{\"messages\": [{\"role\": \"system\", \"content\": \"S\"}]}", "user:S;");
    chat_is(refuses, "{\"messages\": [{\"role\": \"system\", \"content\": \"S\"}, {\"role\": \"system\", \"content\": \"T\"}, {\"role\": \"assistant\","
                     " \"content\": \"A\"}, {\"role\": \"user\", \"content\": \"U\"}]}", "assistant:A;user:S\nT\nU;");
    chat_is(refuses, "{\"messages\": [{\"role\": \"user\", \"content\": \"U\"}, {\"role\": \"system\", \"content\": \"S\"}]}", "no system");
    chat_is("{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}{{ m.content|map(attribute='text')|join('|') }}{% endfor %}",
            "{\"messages\": [{\"role\": \"system\", \"content\": [{\"type\": \"text\", \"text\": \"S\"}]}, {\"role\": \"user\", \"content\": [{\"type\": \"text\","
            " \"text\": \"U\"}]}]}", "S\n|U");
    chat_is("{{ raise_exception('roles must alternate') }}", talk, "roles must alternate");
    chat_is(show, "{\"messages\": 5}", "messages must be an array");
}

static void today_comes_from_the_clock(void **state)
{
    char want[32];
    time_t now = time(NULL);
    struct tm t;
    assert_non_null(localtime_r(&now, &t));
    assert_true(strftime(want, sizeof want, "%Y-%m-%d", &t) > 0);
    chat_is("{{ strftime_now('%Y-%m-%d') }}", "{\"messages\": []}", want);
}

/* ---- memory ---- */

/* Compiling and rendering with every smaller limit: the same text, or one error, and nothing leaks. */
static void every_allocation_may_fail(void **state)
{
    static const char file[] = "templates/jinja/meta-llama-Llama-3.1-8B-Instruct.jinja";
    json_t *vars = load("{\"messages\": [{\"role\": \"system\", \"content\": \"s\"}, {\"role\": \"user\", \"content\": \"  hi \"}],"
                        "\"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"f\", \"parameters\": {\"x\": [1, 2.5, null]}}}],"
                        "\"add_generation_prompt\": true, \"bos_token\": \"<s>\", \"date_string\": \"today\"}");
    struct arena a, files;
    struct err e = { 0 };
    struct template *t = NULL;
    char *text;
    size_t n, n_refused = 0, cap, step = 61;
    arena_init(&files, 0);
    need_data(file);
    assert_ok(file_read_all(&text, &n, data_path(file), MIB, &files, &e), &e);
    for (cap = 1; !t; cap += step) {
        arena_init(&a, cap);
        err_clear(&e);
        if (template_compile(&t, text, n, "llama", &a, &e) == HEARTH_OK)
            break;
        assert_int_equal(e.status, HEARTH_ENOMEM);
        assert_null(t);
        arena_free(&a);
        n_refused++;
    }
    assert_true(n_refused > 100);
    n_refused = 0;
    for (cap = 1;; cap += step) {
        struct render_options o = { .memory_bytes = cap };
        struct rendered r;
        rendered_init(&r);
        err_clear(&e);
        enum hearth_status st = template_render_with(t, vars, &o, &r, &e);
        if (st == HEARTH_OK) {
            assert_non_null(strstr(r.text.data, "Today Date: today"));
            rendered_free(&r);
            break;
        }
        assert_int_equal(st, HEARTH_ELIMIT);
        assert_int_equal(r.text.len, 0);
        assert_null(r.untrusted);
        rendered_free(&r);
        n_refused++;
    }
    assert_true(n_refused > 100);
    arena_free(&a);
    arena_free(&files);
    json_decref(vars);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(engine_cases),
        cmocka_unit_test(conversation_cases),
        cmocka_unit_test(python_cases),
        cmocka_unit_test(hostile_templates_end),
        cmocka_unit_test(long_templates_work),
        cmocka_unit_test(refusals_name_the_piece_and_the_line),
        cmocka_unit_test(broken_templates_are_refused),
        cmocka_unit_test(data_stays_data),
        cmocka_unit_test(known_roles_are_the_templates_own),
        cmocka_unit_test(conversations_get_what_the_usual_tools_give),
        cmocka_unit_test(today_comes_from_the_clock),
        cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

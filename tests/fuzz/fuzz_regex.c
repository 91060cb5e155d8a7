/* fuzz_regex.c: any bytes as the pattern of a string; after a NUL byte, if there is one, the text of a string to try. What is
 * accepted must match for PCRE2 as well, which reads nearly the same language (where it reads the pattern at all).
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "fuzz_grammar.h"

#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

/* 1: matches, 0: does not, -1: PCRE2 will not say. */
static int pcre_says(const char *pattern, size_t n_pattern, const char *text, size_t n_text)
{
    int code, says = -1;
    PCRE2_SIZE at;
    uint32_t options = PCRE2_UTF | PCRE2_DOLLAR_ENDONLY | PCRE2_ALT_BSUX | PCRE2_NEVER_UCP | PCRE2_ALLOW_EMPTY_CLASS;
    pcre2_code *re = pcre2_compile((PCRE2_SPTR)pattern, n_pattern, options, &code, &at, NULL);
    pcre2_match_data *md = re ? pcre2_match_data_create_from_pattern(re, NULL) : NULL;
    pcre2_match_context *mc = pcre2_match_context_create(NULL);
    pcre2_set_match_limit(mc, 100000);
    pcre2_set_depth_limit(mc, 1000);
    if (md) {
        code = pcre2_match(re, (PCRE2_SPTR)text, n_text, 0, 0, md, mc);
        says = code >= 0 ? 1 : code == PCRE2_ERROR_NOMATCH ? 0 : -1;
    }
    pcre2_match_context_free(mc);
    pcre2_match_data_free(md);
    pcre2_code_free(re);
    return says;
}

/* Do both read the pattern alike? Not where ECMA-262 knows other spaces, ends of lines or escapes, or reads ? and + behind a
 * repeat, brackets or braces in another way. */
static bool is_common(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        bool is_escape = p[i] == '\\' && i + 1 < n;
        if ((uint8_t)p[i] >= 0x80 || p[i] == '.' || p[i] == '[' || p[i] == '{' || (p[i] == '(' && i + 1 < n && (p[i + 1] == '?' || p[i + 1] == '*')))
            return false;
        if (is_escape && !strchr("dDwWntr^$|()*+?\\/", p[i + 1]))
            return false;
        i += is_escape;
    }
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    const uint8_t *nul = n ? memchr(data, 0, n) : NULL;
    size_t n_text = nul ? (size_t)(nul - data) : n;
    const char *pattern = (const char *)data, *more = nul ? (const char *)nul + 1 : "";
    size_t n_more = nul ? n - n_text - 1 : 0;
    json_t *p = json_stringn(pattern, n_text), *text = json_stringn(more, n_more);
    json_t *schema = p ? json_pack("{s:s, s:O}", "type", "string", "pattern", p) : NULL;
    char *dump = schema ? json_dumps(schema, 0) : NULL, *instance = text ? json_dumps(text, JSON_ENCODE_ANY) : NULL;
    struct grammar *g;
    struct arena a;
    struct err e = { 0 };
    arena_init(&a, 64 * MIB);
    if (dump) {
        enum hearth_status st = grammar_from_schema(&g, dump, strlen(dump), 0, &a, &e);
        fuzz_run(st, &e, g, instance ? instance : "", instance ? strlen(instance) : 0, &a);
        if (st == HEARTH_OK && instance && is_common(pattern, n_text)) {
            struct grammar_cache *c;
            struct grammar_run r;
            int says = pcre_says(pattern, n_text, more, n_more);
            CHECK(grammar_cache_open(&c, g, NULL, 0, &a, &e) == HEARTH_OK);
            if (says >= 0 && grammar_run_open(&r, c, &e) == HEARTH_OK) {
                bool fits = grammar_accept_bytes(&r, instance, strlen(instance)) && grammar_can_end(&r);
                CHECK(fits == (says == 1));
                grammar_run_close(&r);
            }
        }
    }
    arena_free(&a);
    free(dump);
    free(instance);
    json_decref(schema);
    json_decref(p);
    json_decref(text);
    return 0;
}

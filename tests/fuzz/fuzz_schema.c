/* fuzz_schema.c: any bytes as a JSON schema, read both ways; after a NUL byte, if there is one, a text to run through it. What is
 * accepted as a whole must be JSON.
 */
#include "fuzz_grammar.h"

#include <string.h>

static void check_json(const struct grammar *g, const char *p, size_t n, struct arena *a)
{
    struct grammar_cache *c;
    struct grammar_run r;
    struct err e = { 0 };
    json_error_t je;
    CHECK(grammar_cache_open(&c, g, NULL, 0, a, &e) == HEARTH_OK);
    if (grammar_run_open(&r, c, &e) != HEARTH_OK)
        return;
    if (grammar_accept_bytes(&r, p, n) && grammar_can_end(&r)) {
        json_t *v = json_loadb(p, n, JSON_DECODE_ANY | JSON_ALLOW_NUL, &je);
        CHECK(v || strstr(je.text, "overflow") || strstr(je.text, "too big") || strstr(je.text, "u0000"));
        json_decref(v);
    }
    grammar_run_close(&r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    const uint8_t *nul = n ? memchr(data, 0, n) : NULL;
    size_t n_text = nul ? (size_t)(nul - data) : n, n_more = nul ? n - n_text - 1 : 0;
    const char *more = nul ? (const char *)nul + 1 : "";
    struct arena a;
    arena_init(&a, 256 * MIB);
    for (unsigned flags = 0; flags < 4; flags += 3) {
        struct grammar *g;
        struct err e = { 0 };
        enum hearth_status st = grammar_from_schema(&g, (const char *)data, n_text, flags, &a, &e);
        fuzz_run(st, &e, g, more, n_more, &a);
        if (st == HEARTH_OK)
            check_json(g, more, n_more, &a);
    }
    arena_free(&a);
    return 0;
}

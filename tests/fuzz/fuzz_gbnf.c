/* fuzz_gbnf.c: any bytes as a GBNF grammar; after a NUL byte, if there is one, a text to run through it. */
#include "fuzz_grammar.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    const uint8_t *nul = n ? memchr(data, 0, n) : NULL;
    size_t n_text = nul ? (size_t)(nul - data) : n;
    struct grammar *g;
    struct arena a;
    struct err e = { 0 };
    arena_init(&a, 64 * MIB);
    enum hearth_status st = grammar_from_gbnf(&g, (const char *)data, n_text, &a, &e);
    fuzz_run(st, &e, g, nul ? (const char *)nul + 1 : "", nul ? n - n_text - 1 : 0, &a);
    arena_free(&a);
    return 0;
}

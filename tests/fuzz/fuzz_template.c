/* fuzz_template.c: any bytes as a template; after a NUL byte, if there is one, JSON text as further variables.
 *
 * What must hold whatever the template does: a status with a sentence, or a text with sorted, disjoint ranges
 * inside it; the same result twice; and no byte of the data outside those ranges. For the last, all data here is
 * made of one character that has no case and that the template must not contain; a template could spell it with an
 * escape, so those with a backslash are not held to it.
 */
#define _GNU_SOURCE /* memmem */
#include "fuzz.h"

#include <string.h>

#include "formats/formats.h"

#define MARK "\xe4\xba\x9c" /* U+4E9C */

static const char vars_text[] =
    "{\"messages\": [{\"role\": \"" MARK "\", \"content\": \"" MARK MARK "\"}, {\"role\": \"system\", \"content\": \" " MARK "\\n" MARK " \"},"
    " {\"role\": \"user\", \"content\": \"" MARK " " MARK MARK "\", \"n\": 2}, {\"role\": \"assistant\", \"content\": null, \"tool_calls\":"
    " [{\"id\": \"" MARK MARK MARK "\", \"function\": {\"name\": \"" MARK "\", \"arguments\": {\"" MARK "\": [1, 2.5, null, true, \"" MARK "\"]}}}]}],"
    " \"tools\": [{\"type\": \"" MARK "\", \"function\": {\"name\": \"" MARK "\", \"parameters\": {\"" MARK "\": {}}}}], \"s\": \"" MARK ", " MARK "\","
    " \"l\": [3, 1, 2], \"ls\": [\"" MARK "\", \"b\"], \"d\": {\"" MARK "\": 1, \"k\": \"" MARK "\"}, \"n\": 7, \"f\": 2.5, \"t\": true, \"no\": null,"
    " \"add_generation_prompt\": true, \"bos_token\": \"<s>\", \"eos_token\": \"</s>\"}";

static void check_spans(const struct rendered *r)
{
    for (size_t i = 0; i < r->n_untrusted; i++) {
        CHECK(r->untrusted[i].begin < r->untrusted[i].end && r->untrusted[i].end <= r->text.len);
        CHECK(i == 0 || r->untrusted[i - 1].end < r->untrusted[i].begin);
    }
}

static void check_marks(const struct rendered *r)
{
    size_t i_span = 0;
    for (size_t at = 0; at + 3 <= r->text.len; at++) {
        if (memcmp(r->text.data + at, MARK, 3) != 0)
            continue;
        while (i_span < r->n_untrusted && r->untrusted[i_span].end <= at)
            i_span++;
        CHECK(i_span < r->n_untrusted && r->untrusted[i_span].begin <= at && r->untrusted[i_span].end >= at + 3);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static const char *const trusted[] = { "bos_token", "eos_token", NULL };
    const char *text = (const char *)data;
    const uint8_t *nul = n ? memchr(data, 0, n) : NULL;
    size_t n_text = nul ? (size_t)(nul - data) : n;
    struct template *t;
    struct rendered r, again;
    struct arena a;
    struct err e = { 0 };
    json_t *vars = json_loads(vars_text, 0, NULL), *more = nul ? json_loadb((const char *)nul + 1, n - n_text - 1, 0, NULL) : NULL;
    bool spells = memchr(data, '\\', n_text) || memchr(data, 0xe4, n_text) || more;
    CHECK(vars);
    if (json_is_object(more))
        CHECK(json_object_update(vars, more) == 0);
    arena_init(&a, 64 * MIB);
    rendered_init(&r);
    rendered_init(&again);
    enum hearth_status st = template_compile(&t, text, n_text, "fuzz", &a, &e);
    if (st == HEARTH_OK)
        st = template_render(t, vars, trusted, &r, &e);
    CHECK(st == e.status && (st == HEARTH_OK) == !e.text[0]);
    CHECK(st != HEARTH_OK || r.text.len <= LIMIT_TEMPLATE_OUTPUT_BYTES);
    CHECK(st == HEARTH_OK || !r.text.len);
    check_spans(&r);
    if (st == HEARTH_OK && !spells)
        check_marks(&r);
    if (st == HEARTH_OK && !memmem(text, n_text, "strftime", 8)) {
        CHECK(template_render(t, vars, trusted, &again, &e) == HEARTH_OK && again.text.len == r.text.len);
        CHECK(!r.text.len || memcmp(again.text.data, r.text.data, r.text.len) == 0);
        CHECK(again.n_untrusted == r.n_untrusted);
    }
    rendered_free(&r);
    rendered_free(&again);
    arena_free(&a);
    json_decref(vars);
    json_decref(more);
    return 0;
}

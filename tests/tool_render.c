/* tool_render.c: renders a template with variables, for tests that compare with other implementations.
 *
 *   tool_render                     reads one JSON object per line on stdin, answers one per line
 *
 * A request is {"template": text, "vars": {...}} or {"template": text, "chat": {messages, tools, extra, bos,
 * eos, date, add_generation_prompt}}; "spans": true asks for the untrusted ranges. The answer is
 * {"text": ..., "untrusted": [[begin, end], ...]} or {"error": status, "message": ...}. The last template
 * is kept compiled, so that many conversations over one template are cheap.
 */
#include <stdlib.h>
#include <string.h>

#include "formats/formats.h"

static const char *text_of(json_t *o, const char *key)
{
    return json_string_value(json_object_get(o, key));
}

static enum hearth_status render(const struct template *t, json_t *request, struct rendered *r, struct err *e)
{
    static const char *const trusted[] = { "bos_token", "eos_token", NULL };
    json_t *chat = json_object_get(request, "chat");
    if (!chat)
        return template_render(t, json_object_get(request, "vars"), trusted, r, e);
    struct chat_options o = {
        .messages = json_object_get(chat, "messages"), .tools = json_object_get(chat, "tools"),
        .extra = json_object_get(chat, "extra"),       .bos = text_of(chat, "bos"),
        .eos = text_of(chat, "eos"),                   .date = text_of(chat, "date"),
        .add_generation_prompt = json_is_true(json_object_get(chat, "add_generation_prompt")),
    };
    return chat_render(t, &o, r, e);
}

static json_t *answer(json_t *request, struct rendered *r, enum hearth_status st, const struct err *e)
{
    json_t *a = json_object();
    if (st != HEARTH_OK) {
        json_object_set_new(a, "error", json_string(hearth_status_name(st)));
        json_object_set_new(a, "message", json_string(e->text));
        return a;
    }
    json_object_set_new(a, "text", json_stringn(r->text.data ? r->text.data : "", r->text.len));
    if (json_is_true(json_object_get(request, "spans"))) {
        json_t *spans = json_array();
        for (size_t i = 0; i < r->n_untrusted; i++)
            json_array_append_new(spans, json_pack("[I,I]", (json_int_t)r->untrusted[i].begin, (json_int_t)r->untrusted[i].end));
        json_object_set_new(a, "untrusted", spans);
    }
    return a;
}

int main(void)
{
    struct arena arena;
    struct template *t = NULL;
    json_t *last = NULL, *request;
    json_error_t error;
    arena_init(&arena, 0);
    while ((request = json_loadf(stdin, JSON_DISABLE_EOF_CHECK | JSON_ALLOW_NUL, &error)) != NULL) {
        json_t *source = json_object_get(request, "template"), *a;
        struct rendered r;
        struct err e = { 0 };
        enum hearth_status st = HEARTH_OK;
        rendered_init(&r);
        if (!last || !json_equal(last, source)) {
            json_decref(last);
            last = json_incref(source);
            t = NULL;
            arena_reset(&arena);
            st = template_compile(&t, json_string_value(source), json_string_length(source), "template", &arena, &e);
        }
        if (st == HEARTH_OK)
            st = t ? render(t, request, &r, &e) : err_set(&e, HEARTH_EINVAL, "the template did not compile");
        a = answer(request, &r, st, &e);
        json_dumpf(a, stdout, JSON_COMPACT);
        putchar('\n');
        fflush(stdout);
        json_decref(a);
        rendered_free(&r);
        json_decref(request);
    }
    json_decref(last);
    arena_free(&arena);
    return 0;
}

/* chat.c: a conversation through a chat template.
 *
 * The template's variables are those that the usual tools give: messages, tools and documents (none when
 * absent), add_generation_prompt, bos_token, eos_token, whatever the caller adds, and date_string when a
 * date is given (else a template that knows it takes its own default). The tokens' text and the date are
 * trusted, and so are well-known role names; every other string in the data is not.
 *
 * Some templates refuse a system message with an error, some just leave it out. In both cases the system
 * text goes in front of the first user turn and the rendering is done again: a model that was told
 * nothing is the worse surprise. Whether it was left out is first looked for in the text (its trimmed
 * content must occur); where it does not, because a template may edit it, a second rendering with a
 * marker in its place decides. So the usual case costs one rendering, the odd ones two or three.
 */
#include "formats/template.h"

#include <stdlib.h>
#include <string.h>

static const char *const trusted_names[] = { "bos_token", "eos_token", "date_string", NULL };

static bool is_system(const json_t *message)
{
    const char *role = json_string_value(json_object_get(message, "role"));
    return role && (strcmp(role, "system") == 0 || strcmp(role, "developer") == 0);
}

/* "%d %b %Y", as templates with a date_string write it. */
static bool set_date(json_t *vars, const char *date)
{
    static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    int year, month, day, n = 0;
    char text[32];
    if (sscanf(date, "%4d-%2d-%2d%n", &year, &month, &day, &n) != 3 || date[n] || year < 1 || month < 1 || month > 12 || day < 1 ||
        day > 31)
        return false;
    snprintf(text, sizeof text, "%02d %.3s %d", day, months + 3 * (month - 1), year);
    return json_object_set_new(vars, "date_string", json_string(text)) == 0;
}

static enum hearth_status render_messages(const struct template *t, const struct chat_options *o, json_t *messages, bool *raised,
                                          struct rendered *out, struct err *e)
{
    struct render_options options = { .trusted = trusted_names, .date = o->date, .trust_roles = true };
    enum hearth_status st;
    json_t *vars = json_object();
    bool ok = vars && json_object_set(vars, "messages", messages) == 0 &&
              json_object_set_new(vars, "tools", o->tools ? json_incref(o->tools) : json_null()) == 0 &&
              json_object_set_new(vars, "documents", json_null()) == 0 &&
              json_object_set_new(vars, "add_generation_prompt", json_boolean(o->add_generation_prompt)) == 0 &&
              json_object_set_new(vars, "bos_token", json_string(o->bos ? o->bos : "")) == 0 &&
              json_object_set_new(vars, "eos_token", json_string(o->eos ? o->eos : "")) == 0;
    if (!ok) {
        json_decref(vars);
        return err_set(e, HEARTH_ENOMEM, "no memory left for the conversation, or a token's text is not UTF-8");
    }
    if (o->date && !set_date(vars, o->date)) {
        json_decref(vars);
        return err_set(e, HEARTH_EINVAL, "the date '%.40s' is not YYYY-MM-DD", o->date);
    }
    /* The caller's variables come last but may not replace what is trusted. */
    for (void *it = o->extra ? json_object_iter(o->extra) : NULL; it; it = json_object_iter_next(o->extra, it)) {
        const char *name = json_object_iter_key(it);
        bool taken = false;
        for (size_t i = 0; trusted_names[i]; i++)
            taken |= strcmp(name, trusted_names[i]) == 0;
        if (!taken)
            ok &= json_object_set(vars, name, json_object_iter_value(it)) == 0;
    }
    st = ok ? template_render_with(t, vars, &options, out, e) : err_set(e, HEARTH_ENOMEM, "no memory left for the conversation");
    *raised = options.raised;
    json_decref(vars);
    return st;
}

/* The text of a content: a string, or the text parts of a list; NULL when memory is out. */
static char *content_text(const json_t *content)
{
    struct buf b;
    buf_init(&b, 0);
    buf_append(&b, "", 0);
    if (json_is_string(content))
        buf_append(&b, json_string_value(content), json_string_length(content));
    for (size_t i = 0; json_is_array(content) && i < json_array_size(content); i++) {
        const json_t *text = json_object_get(json_array_get(content, i), "text");
        if (json_is_string(text))
            buf_append(&b, json_string_value(text), json_string_length(text));
    }
    if (b.failed)
        buf_free(&b);
    return b.data;
}

/* A copy of the message with text in front of its content. */
static json_t *with_prefix(const json_t *message, const char *text)
{
    json_t *copy = json_copy((json_t *)message), *content = json_object_get(message, "content"), *joined = NULL;
    if (json_is_array(content)) {
        joined = json_copy(content);
        if (joined && json_array_insert_new(joined, 0, json_pack("{s:s, s:s+}", "type", "text", "text", text, "\n")) != 0) {
            json_decref(joined);
            joined = NULL;
        }
    } else {
        joined = json_pack("s++", text, "\n", json_is_string(content) ? json_string_value(content) : "");
    }
    if (!copy || !joined || json_object_set_new(copy, "content", joined) != 0) {
        json_decref(copy);
        return NULL;
    }
    return copy;
}

/* The conversation without its leading system messages, their text in front of the first user turn (or
 * as a user turn of its own). NULL when memory is out. */
static json_t *fold_system(const json_t *messages)
{
    size_t n = json_array_size(messages), n_system = 0, i = 0;
    json_t *folded = json_array();
    bool placed = false;
    struct buf text;
    bool ok = folded != NULL;
    buf_init(&text, 0);
    for (; n_system < n && is_system(json_array_get(messages, n_system)); n_system++) {
        char *part = content_text(json_object_get(json_array_get(messages, n_system), "content"));
        ok = ok && part && (n_system == 0 || buf_append(&text, "\n", 1)) && buf_append(&text, part, strlen(part));
        free(part);
    }
    for (i = n_system; ok && i < n; i++) {
        const json_t *m = json_array_get(messages, i);
        const char *role = json_string_value(json_object_get(m, "role"));
        bool here = !placed && role && strcmp(role, "user") == 0;
        ok = json_array_append_new(folded, here ? with_prefix(m, text.data) : json_incref((json_t *)m)) == 0;
        placed |= here;
    }
    if (ok && !placed)
        ok = json_array_insert_new(folded, 0, json_pack("{s:s, s:s}", "role", "user", "content", text.data)) == 0;
    buf_free(&text);
    if (!ok) {
        json_decref(folded);
        return NULL;
    }
    return folded;
}

static bool occurs(const struct rendered *r, const char *text, size_t n)
{
    return find_bytes(r->text.data ? r->text.data : "", r->text.len, text, n, 0) != SIZE_MAX;
}

/* Whether the rendering lost the leading system message. */
static enum hearth_status system_is_lost(const struct template *t, const struct chat_options *o, const struct rendered *r, bool *lost,
                                         struct err *e)
{
    static const char marker[] = "7301946285501937"; /* no letters: their case may change */
    json_t *first = json_array_get(o->messages, 0), *probe, *message;
    char *text = content_text(json_object_get(first, "content"));
    size_t begin = 0, end = text ? strlen(text) : 0;
    enum hearth_status st = HEARTH_OK;
    struct rendered marked;
    bool raised, found;
    *lost = false;
    if (!text)
        return err_set(e, HEARTH_ENOMEM, "no memory left for the conversation");
    while (begin < end && is_space((unsigned char)text[begin]))
        begin++;
    while (end > begin && is_space((unsigned char)text[end - 1]))
        end--;
    found = begin == end || occurs(r, text + begin, end - begin);
    free(text);
    if (found)
        return HEARTH_OK;
    probe = json_copy(o->messages);
    message = json_copy(first);
    if (!probe || !message || json_object_set_new(message, "content", json_string(marker)) != 0 ||
        json_array_set(probe, 0, message) != 0)
        st = err_set(e, HEARTH_ENOMEM, "no memory left for the conversation");
    json_decref(message);
    rendered_init(&marked);
    if (st == HEARTH_OK) {
        struct err quiet = { 0 };
        *lost = render_messages(t, o, probe, &raised, &marked, &quiet) == HEARTH_OK && !occurs(&marked, marker, sizeof marker - 1);
    }
    rendered_free(&marked);
    json_decref(probe);
    return st;
}

enum hearth_status chat_render(const struct template *t, const struct chat_options *o, struct rendered *out, struct err *e)
{
    struct err first = { 0 };
    bool raised = false, lost = false;
    enum hearth_status st;
    json_t *folded;
    if (!json_is_array(o->messages))
        return err_set(e, HEARTH_EINVAL, "messages must be an array");
    st = render_messages(t, o, o->messages, &raised, out, &first);
    if (!is_system(json_array_get(o->messages, 0)) || (st != HEARTH_OK && !raised))
        return st == HEARTH_OK ? st : err_set(e, st, "%s", first.text);
    if (st == HEARTH_OK && ((st = system_is_lost(t, o, out, &lost, e)) != HEARTH_OK || !lost))
        return st;
    folded = fold_system(o->messages);
    if (!folded)
        return err_set(e, HEARTH_ENOMEM, "no memory left for the conversation");
    st = render_messages(t, o, folded, &raised, out, e);
    json_decref(folded);
    return st;
}

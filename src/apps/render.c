/* render.c: hearth render MODEL|TEMPLATE.jinja MESSAGES.json: the prompt that a chat template makes, byte for
 * byte, with nothing added.
 *
 * The messages file holds an array of messages, or an object with "messages" and, if it likes, "tools"; other
 * members become variables of the template. A GGUF gives its own template and the texts of its BOS and EOS;
 * for a bare template --bos and --eos give them.
 */
#include "apps/apps.h"

#include <string.h>

struct render_options {
    const char *tools, *bos, *eos, *date;
    bool no_generation_prompt;
};
static const struct option options[] = {
    { "tools", 0, OPT_STR, offsetof(struct render_options, tools), "FILE", "JSON array of tools" },
    { "bos", 0, OPT_STR, offsetof(struct render_options, bos), "TEXT", "text of the begin token" },
    { "eos", 0, OPT_STR, offsetof(struct render_options, eos), "TEXT", "text of the end token" },
    { "date", 0, OPT_STR, offsetof(struct render_options, date), "YYYY-MM-DD", "what the template takes for today" },
    { "no-generation-prompt", 0, OPT_FLAG, offsetof(struct render_options, no_generation_prompt), NULL,
      "do not open the assistant's turn" },
};

enum { MESSAGES_MAX_MIB = 64 };

/* What a rendering is made of. */
struct source {
    struct str text, bos, eos;
    json_t *root, *messages, *tools, *extra;
};

static enum hearth_status read_json(json_t **out, const char *path, struct arena *a, struct err *e)
{
    char *text;
    size_t n;
    enum hearth_status st;
    if (strcmp(path, "-") == 0) {
        struct buf b;
        buf_init(&b, 0);
        st = read_stdin(&b, MESSAGES_MAX_MIB * MIB, e);
        if (st == HEARTH_OK)
            st = json_parse(out, b.data ? b.data : "", b.len, "stdin", e);
        buf_free(&b);
        return st;
    }
    st = file_read_all(&text, &n, path, MESSAGES_MAX_MIB * MIB, a, e);
    return st == HEARTH_OK ? json_parse(out, text, n, path, e) : st;
}

static struct str token_text(const struct vocab *v, int32_t id)
{
    return id >= 0 && (size_t)id < v->n_tokens ? v->tokens[id].text : STR("");
}

/* A GGUF's own template, or the whole file as one. */
static enum hearth_status read_template(struct source *s, const char *path, struct arena *a, struct err *e)
{
    struct file f;
    char magic[4] = { 0 }, *text;
    struct gguf g;
    struct vocab v;
    enum hearth_status st = file_open(&f, path, e);
    if (st != HEARTH_OK)
        return st;
    bool is_gguf = f.size_bytes >= 4 && file_read(&f, magic, 4, 0, e) == HEARTH_OK && memcmp(magic, "GGUF", 4) == 0;
    file_close(&f);
    err_clear(e);
    if (!is_gguf) {
        st = file_read_all(&text, &s->text.n, path, LIMIT_TEMPLATE_BYTES, a, e);
        s->text.p = text;
        return st;
    }
    if ((st = gguf_open(&g, path, a, e)) != HEARTH_OK)
        return st;
    st = vocab_from_gguf(&v, &g, a, e);
    if (st == HEARTH_OK && v.chat_template.n == 0)
        st = err_set(e, HEARTH_EUNSUPPORTED, "%s: has no chat template", path);
    if (st == HEARTH_OK)
        *s = (struct source){ .text = v.chat_template, .bos = token_text(&v, v.bos), .eos = token_text(&v, v.eos) };
    gguf_close(&g);
    return st;
}

/* Sorts the messages file into messages, tools and further variables (borrowed from root). */
static enum hearth_status sort_messages(struct source *s, const char *path, struct err *e)
{
    s->messages = s->root;
    if (json_is_object(s->root)) {
        s->messages = json_object_get(s->root, "messages");
        if (!s->tools)
            s->tools = json_incref(json_object_get(s->root, "tools"));
        s->extra = json_copy(s->root);
        json_object_del(s->extra, "messages");
        json_object_del(s->extra, "tools");
    }
    if (!json_is_array(s->messages))
        return err_set(e, HEARTH_EDAMAGED, "%s: no array of messages", path);
    if (s->tools && !json_is_array(s->tools))
        return err_set(e, HEARTH_EDAMAGED, "%s: the tools are no array", path);
    return HEARTH_OK;
}

static enum hearth_status render(const char *template_path, const char *messages_path, const struct render_options *o,
                                 struct rendered *out, struct arena *a, struct err *e)
{
    struct source s = { 0 };
    struct template *t;
    enum hearth_status st = read_template(&s, template_path, a, e);
    if (st == HEARTH_OK)
        st = template_compile(&t, s.text.p, s.text.n, template_path, a, e);
    if (st == HEARTH_EINVAL)
        st = HEARTH_EDAMAGED; /* a template that is no Jinja is a damaged file */
    if (st == HEARTH_OK)
        st = read_json(&s.root, messages_path, a, e);
    if (st == HEARTH_OK && o->tools)
        st = read_json(&s.tools, o->tools, a, e);
    if (st == HEARTH_OK)
        st = sort_messages(&s, messages_path, e);
    if (st == HEARTH_OK) {
        const struct chat_options co = {
            .messages = s.messages, .tools = s.tools, .extra = s.extra, .date = o->date,
            .bos = o->bos ? o->bos : arena_strndup(a, s.bos.n ? s.bos.p : "", s.bos.n),
            .eos = o->eos ? o->eos : arena_strndup(a, s.eos.n ? s.eos.p : "", s.eos.n),
            .add_generation_prompt = !o->no_generation_prompt,
        };
        st = chat_render(t, &co, out, e);
    }
    json_decref(s.root);
    json_decref(s.tools);
    json_decref(s.extra);
    return st;
}

static bool is_date(const char *s)
{
    for (size_t i = 0; i < 10; i++)
        if (i == 4 || i == 7 ? s[i] != '-' : s[i] < '0' || s[i] > '9')
            return false;
    return !s[10];
}

int verb_render(int argc, char **argv)
{
    struct render_options o = { 0 };
    const struct command c = {
        "render", "MODEL|TEMPLATE.jinja MESSAGES.json|-",
        "Prints the prompt that a chat template makes of messages, byte for byte.",
        "MESSAGES.json is an array of {\"role\", \"content\"}, or an object with \"messages\", \"tools\" and further\n"
        "variables for the template.",
        { { "Options", options, ARRAY_LEN(options), &o } }, 2, 2,
    };
    struct arena a;
    struct err e = { 0 };
    struct rendered r;
    size_t n_args;
    int code = options_parse(&c, argc, argv, &n_args);
    if (code >= 0)
        return code;
    if (o.date && !is_date(o.date))
        return usage_error("render", "--date needs YYYY-MM-DD, not \"%s\"", o.date);
    arena_init(&a, 0);
    rendered_init(&r);
    enum hearth_status st = render(argv[0], argv[1], &o, &r, &a, &e);
    if (st == HEARTH_OK)
        fwrite(r.text.data ? r.text.data : "", 1, r.text.len, stdout);
    rendered_free(&r);
    arena_free(&a);
    return st == HEARTH_OK ? finish_output("render", EXIT_DONE) : fail("render", st, &e);
}

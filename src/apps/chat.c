/* chat.c: hearth chat MODEL: a conversation.
 *
 * Each turn renders all messages and hands the ids to the context, which keeps what it has computed already:
 * only what is new costs time (session.c). A turn is in the conversation whole or not at all: when it does not
 * fit the context, or fails, the user's message is taken out again and nothing was lost. Nothing is ever cut off
 * silently to make room. An answer stopped by Ctrl-C stays, as far as it went.
 *
 * Lines come from libedit on a terminal, with a history file, and from plain reading elsewhere, where no prompt
 * is shown, so that a script can hold a conversation through a pipe. A text over several lines stands between two
 * lines' """. Lines that begin with / are commands.
 *
 * A model without a chat template continues the text: messages and answers simply follow one another.
 */
#include "apps/apps.h"

#include <errno.h>
#include <histedit.h>
#include <inttypes.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wchar.h>

enum { MESSAGE_MAX_MIB = 16, HISTORY_LINES = 1000 };

struct chat_options_cli {
    const char *system;
    bool verbose;
};
static const struct option options[] = {
    { "system", 0, OPT_STR, offsetof(struct chat_options_cli, system), "TEXT", "the system message" },
    { "verbose", 'v', OPT_FLAG, offsetof(struct chat_options_cli, verbose), NULL, "timings after each answer" },
};

struct chat {
    struct chat_options_cli o;
    struct sampling_options sampling;
    struct session_options model;
    struct session s;
    json_t *messages; /* the system message, if any, is the first */
    struct generated last;
    atomic_int *interrupts;
    uint64_t n_regenerated;
    EditLine *editor; /* NULL: stdin is no terminal */
    History *history;
    char history_path[4096];
    const char *prompt;
    char *line; /* of getline */
    size_t line_cap;
    struct arena words; /* values given by /set */
    int code;           /* of the first turn that failed, when nobody is watching */
    bool leave;
};

/* ---- lines ---- */

/* Like libedit's own, but an interrupted read ends the line instead of going on. */
static int read_wide_char(EditLine *editor, wchar_t *out)
{
    struct pollfd wait[2] = { { STDIN_FILENO, POLLIN, 0 }, { interrupts_fd(), POLLIN, 0 } };
    mbstate_t state = { 0 };
    char c;
    (void)editor;
    for (;;) {
        if (poll(wait, 2, -1) < 0 && errno != EINTR)
            return -1;
        if (wait[1].revents)
            return -1;
        if (!wait[0].revents)
            continue;
        ssize_t n = read(STDIN_FILENO, &c, 1);
        if (n <= 0)
            return n == 0 ? 0 : -1;
        size_t len = mbrtowc(out, &c, 1, &state);
        if (len == (size_t)-1)
            state = (mbstate_t){ 0 }; /* not a character: drop it */
        else if (len != (size_t)-2)
            return 1;
    }
}

static const char *show_prompt(EditLine *editor)
{
    struct chat *c;
    el_get(editor, EL_CLIENTDATA, &c);
    return c->prompt;
}

/* Creates the folders of path, up to its last slash. */
static void make_folders(char *path)
{
    for (char *p = path + 1; *p; p++)
        if (*p == '/') {
            *p = 0;
            mkdir(path, 0700); /* what fails here shows when the file is written */
            *p = '/';
        }
}

static void find_history_path(struct chat *c)
{
    const char *home = getenv("HEARTH_HOME"), *state = getenv("XDG_STATE_HOME"), *user = getenv("HOME");
    int n;
    if (home && *home)
        n = snprintf(c->history_path, sizeof c->history_path, "%s/chat_history", home);
    else if (state && *state == '/')
        n = snprintf(c->history_path, sizeof c->history_path, "%s/hearth/chat_history", state);
    else
        n = snprintf(c->history_path, sizeof c->history_path, "%s/.local/state/hearth/chat_history", user ? user : "");
    if (n < 0 || (size_t)n >= sizeof c->history_path || c->history_path[0] != '/')
        c->history_path[0] = 0; /* nowhere to keep it */
}

static void open_editor(struct chat *c)
{
    HistEvent ev;
    if (!isatty(STDIN_FILENO))
        return;
    c->editor = el_init("hearth", stdin, stdout, stderr);
    c->history = history_init();
    CHECK(c->editor && c->history);
    el_set(c->editor, EL_CLIENTDATA, c);
    el_set(c->editor, EL_PROMPT, show_prompt);
    el_set(c->editor, EL_EDITOR, "emacs");
    el_set(c->editor, EL_SIGNAL, 0);
    el_set(c->editor, EL_GETCFN, read_wide_char);
    history(c->history, &ev, H_SETSIZE, HISTORY_LINES);
    history(c->history, &ev, H_SETUNIQUE, 1);
    el_set(c->editor, EL_HIST, history, c->history);
    el_set(c->editor, EL_BIND, "^[[1~", "ed-move-to-beg", NULL);
    el_set(c->editor, EL_BIND, "^[[4~", "ed-move-to-end", NULL);
    el_set(c->editor, EL_BIND, "^[[3~", "ed-delete-next-char", NULL);
    find_history_path(c);
    if (c->history_path[0])
        history(c->history, &ev, H_LOAD, c->history_path);
}

static void close_editor(struct chat *c)
{
    HistEvent ev;
    if (!c->editor)
        return;
    if (c->history_path[0]) {
        mode_t old = umask(077);
        make_folders(c->history_path);
        if (history(c->history, &ev, H_SAVE, c->history_path) < 0)
            fprintf(stderr, "hearth chat: %s: cannot write the history: %s\n", c->history_path, strerror(errno));
        umask(old);
    }
    history_end(c->history);
    el_end(c->editor);
}

/* One line without its end, valid until the next call. NULL at the end of input; *interrupted: Ctrl-C instead. */
static const char *read_line(struct chat *c, const char *prompt, bool *interrupted)
{
    *interrupted = false;
    if (!c->editor) {
        ssize_t n = getline(&c->line, &c->line_cap, stdin);
        *interrupted = n < 0 && atomic_load(c->interrupts) > 0;
        if (n > 0 && c->line[n - 1] == '\n')
            c->line[n - 1] = 0;
        return n < 0 ? NULL : c->line;
    }
    int n = 0;
    HistEvent ev;
    c->prompt = prompt;
    const char *text = el_gets(c->editor, &n);
    if (atomic_load(c->interrupts) > 0) {
        interrupts_clear();
        *interrupted = true;
        return NULL;
    }
    if (!text || n <= 0)
        return NULL;
    free(c->line);
    c->line = strndup(text, (size_t)n - (text[n - 1] == '\n'));
    CHECK(c->line);
    c->line_cap = 0; /* getline is not used on a terminal */
    if (c->line[0])
        history(c->history, &ev, H_ENTER, c->line);
    return c->line;
}

/* A message: one line, or what stands between """ and """. false at the end of input. */
static bool read_message(struct chat *c, struct buf *out, bool *interrupted)
{
    const char *line = read_line(c, ">>> ", interrupted), *end;
    out->len = 0;
    if (!line)
        return false;
    if (strncmp(line, "\"\"\"", 3) != 0) {
        buf_append(out, line, strlen(line));
        return true;
    }
    for (line += 3; !(end = strstr(line, "\"\"\"")); ) {
        buf_printf(out, "%s\n", line);
        if (!(line = read_line(c, "... ", interrupted)))
            return !*interrupted && out->len; /* an open text at the end of input counts */
    }
    buf_append(out, line, (size_t)(end - line));
    return true;
}

/* ---- turns ---- */

static void add_message(struct chat *c, const char *role, const char *text, size_t n)
{
    json_array_append_new(c->messages, json_pack("{s:s, s:o}", "role", role, "content", text_to_json((struct str){ text, n })));
}

static const char *role_at(const struct chat *c, size_t i)
{
    const char *role = json_string_value(json_object_get(json_array_get(c->messages, i), "role"));
    return role ? role : "";
}

/* Removes the last message if it is of this role. */
static bool drop_last(struct chat *c, const char *role)
{
    size_t n = json_array_size(c->messages);
    if (!n || strcmp(role_at(c, n - 1), role) != 0)
        return false;
    json_array_remove(c->messages, n - 1);
    return true;
}

static void turn_failed(struct chat *c, enum hearth_status st, const struct err *e)
{
    int code = fail("chat", st, e);
    if (st == HEARTH_ELIMIT)
        fprintf(stderr, "Nothing was lost: /undo takes the last turn back, /clear begins anew, --ctx makes room.\n");
    if (!c->code)
        c->code = code;
}

/* Answers the messages as they stand; the last is a user's. */
static void answer(struct chat *c)
{
    struct printer printer = { .skip_space = c->s.template != NULL };
    struct generate_options go;
    struct ids ids = { 0 };
    struct err e = { 0 };
    generated_free(&c->last);
    generated_init(&c->last);
    sampling_apply(&go, &c->sampling);
    if (c->sampling.seed.is_given)
        go.sampling.seed += c->n_regenerated; /* another answer, the same one in each run */
    enum hearth_status st = session_encode_chat(&c->s, c->messages, &ids, &e);
    if (st == HEARTH_OK)
        st = session_generate(&c->s, &ids, &go, c->interrupts, print_piece, &printer, &c->last, &e);
    ids_free(&ids);
    if (printer.last || st == HEARTH_OK)
        printf("\n");
    fflush(stdout);
    bool is_interrupted = st == HEARTH_OK && c->last.reason == FINISH_INTERRUPTED;
    if (is_interrupted && !c->editor)
        c->code = EXIT_INTERRUPTED, c->leave = true;
    interrupts_clear();
    if (st != HEARTH_OK || (is_interrupted && c->last.ids.n == 0)) {
        drop_last(c, "user");
        if (st != HEARTH_OK)
            turn_failed(c, st, &e);
        return;
    }
    add_message(c, "assistant", c->last.text.data ? c->last.text.data : "", c->last.text.len);
    if (c->last.reason == FINISH_CONTEXT)
        fprintf(stderr, "hearth chat: the answer ends here because the context of %zu tokens is full: /undo takes this turn back, "
                        "/clear begins anew\n", c->s.n_ctx);
    if (c->o.verbose)
        print_timings(&c->s, &c->last);
}

/* ---- commands ---- */

static void set_system(struct chat *c, const char *text)
{
    if (json_array_size(c->messages) && strcmp(role_at(c, 0), "system") == 0)
        json_array_remove(c->messages, 0);
    if (*text)
        json_array_insert_new(c->messages, 0, json_pack("{s:s, s:o}", "role", "system", "content",
                                                        text_to_json((struct str){ text, strlen(text) })));
}

static void show_settings(const struct chat *c)
{
    char value[512];
    for (size_t i = 0; i < N_SAMPLING_OPTIONS; i++) {
        option_show(&sampling_table[i], &c->sampling, value, sizeof value);
        printf("  %-18s %s\n", sampling_table[i].name, value);
    }
    printf("  %-18s %s\n", "verbose", c->o.verbose ? "on" : "off");
}

static bool set_named(struct chat *c, const char *name, const char *value)
{
    static const struct option verbose = { "verbose", 0, OPT_FLAG, offsetof(struct chat_options_cli, verbose) };
    const char *names[N_SAMPLING_OPTIONS + 2] = { "system", "verbose" };
    struct err e = { 0 };
    const struct option *o = strcmp(name, "verbose") == 0 ? &verbose : NULL;
    void *base = o ? (void *)&c->o : (void *)&c->sampling;
    for (size_t i = 0; i < N_SAMPLING_OPTIONS; i++) {
        names[i + 2] = sampling_table[i].name;
        if (strcmp(sampling_table[i].name, name) == 0)
            o = &sampling_table[i];
    }
    if (!o) {
        const char *near = nearest_name(name, names, ARRAY_LEN(names));
        fprintf(stderr, near ? "no setting %s, did you mean %s?\n" : "no setting %s; /set lists them\n", name, near);
        return false;
    }
    if (o->kind == OPT_LIST && strcmp(value, "none") == 0) {
        c->sampling.stop.n = 0;
        return true;
    }
    if (option_set(o, base, arena_strndup(&c->words, value, strlen(value)), &e))
        return true;
    fprintf(stderr, "%s\n", e.text + (strncmp(e.text, "--", 2) == 0 ? 2 : 0));
    return false;
}

/* The next word of *p, cut off in place. */
static char *take_word(char **p)
{
    char *word = *p + strspn(*p, " \t");
    *p = word + strcspn(word, " \t");
    if (**p)
        *(*p)++ = 0;
    *p += strspn(*p, " \t");
    return word;
}

static void cmd_set(struct chat *c, char *rest)
{
    char *name = take_word(&rest);
    if (strcmp(name, "parameter") == 0)
        name = take_word(&rest);
    if (!*name)
        show_settings(c);
    else if (strcmp(name, "system") == 0)
        set_system(c, rest);
    else if (!*rest)
        fprintf(stderr, "/set %s needs a value\n", name);
    else
        set_named(c, name, rest);
}

static void cmd_show(struct chat *c, char *rest)
{
    const struct model_info *info = engine_info(c->s.engine);
    const char *what = take_word(&rest);
    if (strcmp(what, "template") == 0) {
        if (c->s.vocab.chat_template.n)
            print_text(stdout, c->s.vocab.chat_template.p, c->s.vocab.chat_template.n);
        printf("\n");
        return;
    }
    if (strcmp(what, "history") == 0) {
        for (size_t i = 0; i < json_array_size(c->messages); i++) {
            const json_t *text = json_object_get(json_array_get(c->messages, i), "content");
            printf("%s: ", role_at(c, i));
            print_text(stdout, json_string_value(text), json_string_length(text));
            printf("\n");
        }
        return;
    }
    if (*what) {
        fprintf(stderr, "/show, /show template or /show history\n");
        return;
    }
    printf("model   ");
    print_quoted(stdout, info->name, 100);
    printf(" (%s: %.*s, %.4g million parameters, weights %s)\n", c->s.path, STR_FMT(info->arch), (double)info->n_params * 1e-6,
           human_bytes(info->weight_bytes));
    if (json_array_size(c->messages) && strcmp(role_at(c, 0), "system") == 0)
        printf("system  %s\n", json_string_value(json_object_get(json_array_get(c->messages, 0), "content")));
    show_settings(c);
}

static void cmd_stats(struct chat *c, char *rest)
{
    size_t n;
    (void)rest;
    (void)context_tokens(c->s.context, &n);
    printf("context   %zu of %zu tokens, K/V %s\n", n, c->s.n_ctx, human_bytes(context_kv_bytes(c->s.context)));
    printf("messages  %zu\n", json_array_size(c->messages));
    if (c->last.decode_ns) { /* the last turn got an answer */
        printf("prompt    %zu tokens, %zu of them kept, %.1f tokens/s\n", c->last.n_prompt, c->last.n_kept,
               per_second(c->last.n_prompt - c->last.n_kept, c->last.prompt_ns));
        printf("answer    %zu tokens, %.1f tokens/s, ended by: %s\n", c->last.ids.n, per_second(c->last.n_steps, c->last.decode_ns),
               finish_name(c->last.reason));
    }
    printf("memory    now %s, peak %s, predicted %s\n", human_bytes(memory_now_bytes()), human_bytes(memory_peak_bytes()),
           human_bytes(c->s.predicted_bytes));
}

static void cmd_clear(struct chat *c, char *rest)
{
    bool has_system = json_array_size(c->messages) && strcmp(role_at(c, 0), "system") == 0;
    (void)rest;
    while (json_array_size(c->messages) > has_system)
        json_array_remove(c->messages, json_array_size(c->messages) - 1);
    context_truncate(c->s.context, 0);
    printf("The conversation begins anew.\n");
}

static void cmd_undo(struct chat *c, char *rest)
{
    (void)rest;
    bool had_answer = drop_last(c, "assistant"), had_question = drop_last(c, "user");
    if (had_answer || had_question)
        printf("The last turn is gone.\n");
    else
        fprintf(stderr, "There is no turn to take back.\n");
}

static void cmd_regen(struct chat *c, char *rest)
{
    (void)rest;
    if (!drop_last(c, "assistant")) {
        fprintf(stderr, "There is no answer to make again.\n");
        return;
    }
    c->n_regenerated++;
    answer(c);
}

static void cmd_bye(struct chat *c, char *rest)
{
    (void)rest;
    c->leave = true;
}

static void cmd_help(struct chat *c, char *rest);

static const struct {
    const char *name, *args, *help;
    void (*run)(struct chat *c, char *rest);
} commands[] = {
    { "/set", "NAME VALUE", "a setting (temp, top-k, seed, predict ...); alone: all of them", cmd_set },
    { "/set", "system TEXT", "the system message; without TEXT: none", cmd_set },
    { "/show", "[template|history]", "the model and the settings", cmd_show },
    { "/stats", "", "context, memory and speed", cmd_stats },
    { "/undo", "", "take the last turn back", cmd_undo },
    { "/regen", "", "make the last answer again", cmd_regen },
    { "/clear", "", "forget the conversation", cmd_clear },
    { "/?", "", "this list (also /help)", cmd_help },
    { "/help", "", NULL, cmd_help },
    { "/bye", "", "leave (also Ctrl-D)", cmd_bye },
};

static void cmd_help(struct chat *c, char *rest)
{
    (void)c, (void)rest;
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        if (commands[i].help)
            printf("  %-6s %-19s %s\n", commands[i].name, commands[i].args, commands[i].help);
    printf("  \"\"\"text\"\"\" may go over several lines. Ctrl-C stops an answer.\n");
}

static void run_command(struct chat *c, char *line)
{
    const char *names[ARRAY_LEN(commands)], *near;
    char *rest = line, *name = take_word(&rest);
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        names[i] = commands[i].name;
        if (strcmp(names[i], name) == 0) {
            commands[i].run(c, rest);
            fflush(stdout);
            return;
        }
    }
    near = nearest_name(name, names, ARRAY_LEN(commands));
    fprintf(stderr, near ? "no command %s, did you mean %s?\n" : "no command %s; /? lists them\n", name, near);
}

/* ---- the conversation ---- */

static void converse(struct chat *c)
{
    struct buf message;
    bool interrupted;
    buf_init(&message, MESSAGE_MAX_MIB * MIB);
    while (!c->leave) {
        if (!read_message(c, &message, &interrupted)) {
            if (!interrupted)
                break;
            if (!c->editor) {
                c->code = EXIT_INTERRUPTED;
                break;
            }
            printf("\nCtrl-D or /bye leaves.\n");
            continue;
        }
        if (message.failed) {
            fprintf(stderr, "hearth chat: a message may have %d MiB\n", MESSAGE_MAX_MIB);
            c->code = EXIT_LIMIT;
            break;
        }
        if (!message.len || !message.data[strspn(message.data, " \t\n")])
            continue;
        if (message.data[0] == '/') {
            run_command(c, message.data);
            continue;
        }
        add_message(c, "user", message.data, message.len);
        answer(c);
    }
    if (c->editor && !c->leave)
        printf("\n");
    buf_free(&message);
}

static int chat(struct chat *c, const char *path)
{
    struct err e = { 0 };
    enum hearth_status st = session_open(&c->s, path, &c->model, &e);
    if (st != HEARTH_OK)
        return fail("chat", st, &e);
    c->messages = json_array();
    c->interrupts = interrupts_catch();
    if (c->o.system)
        set_system(c, c->o.system);
    open_editor(c);
    if (c->editor && !common.quiet) {
        printf("%s, context of %zu tokens. /? lists the commands.\n", path, c->s.n_ctx);
        if (!c->s.template)
            printf("This model has no chat template: it continues the text.\n");
    }
    converse(c);
    close_editor(c);
    json_decref(c->messages);
    generated_free(&c->last);
    free(c->line);
    session_close(&c->s);
    return finish_output("chat", (enum exit_code)(c->editor && c->code != EXIT_INTERRUPTED ? EXIT_DONE : c->code));
}

int verb_chat(int argc, char **argv)
{
    struct chat c = { 0 };
    sampling_options_init(&c.sampling);
    const struct command command = {
        "chat", "MODEL.gguf", "Holds a conversation. /? lists the commands, Ctrl-C stops an answer, Ctrl-D leaves.",
        "Reads lines from a pipe as well: each is a message or a command. The line history is kept in\n"
        "$HEARTH_HOME, or $XDG_STATE_HOME/hearth, or ~/.local/state/hearth.",
        { { "Options", options, ARRAY_LEN(options), &c.o },
          { "Choosing tokens", sampling_table, N_SAMPLING_OPTIONS, &c.sampling },
          { "Model", session_table, N_SESSION_OPTIONS, &c.model } },
        1, 1,
    };
    size_t n_args;
    int code = options_parse(&command, argc, argv, &n_args);
    if (code >= 0)
        return code;
    if (!setlocale(LC_CTYPE, "") || MB_CUR_MAX == 1)
        setlocale(LC_CTYPE, "C.UTF-8"); /* the line editor needs to know characters */
    arena_init(&c.words, 0);
    generated_init(&c.last);
    code = chat(&c, argv[0]);
    arena_free(&c.words);
    return code;
}

/* options.c: options of a verb from a table.
 *
 * A verb lists its options once: long name, letter, kind, where the value goes, range, one line of help.
 * From that table come parsing, range checks, "did you mean", and the text of --help, so that they cannot
 * disagree. Values go through offsets into the verb's own struct, set to its defaults beforehand.
 *
 * Accepted: --name value, --name=value, -n value, -nvalue, flags joined as -qv, "--" ends options, options
 * after positional arguments, "-" alone is positional, --no-NAME is only a flag of that very name. Numbers
 * must be whole words ("1k" is refused). There are no abbreviations: a script must not change its meaning
 * when an option is added.
 */
#include "apps/apps.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct common_options common;

static const struct option common_options[] = {
    { "quiet", 'q', OPT_FLAG, offsetof(struct common_options, quiet), NULL, "no progress, no remarks" },
    { "help", 'h', OPT_FLAG, offsetof(struct common_options, help), NULL, "this text" },
};
static const struct option_group common_group = { "Always", common_options, ARRAY_LEN(common_options), &common };

/* ---- names that are nearly right ---- */

enum { NAME_MAX_CHARS = 40 };

/* Edit distance where a swap of neighbours counts one, over short names. */
static size_t distance(const char *a, const char *b)
{
    size_t rows[3][NAME_MAX_CHARS + 1], na = strlen(a), nb = strlen(b);
    if (na > NAME_MAX_CHARS || nb > NAME_MAX_CHARS)
        return SIZE_MAX;
    for (size_t j = 0; j <= nb; j++)
        rows[0][j] = j;
    for (size_t i = 1; i <= na; i++) {
        size_t *now = rows[i % 3], *up = rows[(i + 2) % 3], *up2 = rows[(i + 1) % 3];
        now[0] = i;
        for (size_t j = 1; j <= nb; j++) {
            now[j] = MIN(MIN(now[j - 1], up[j]) + 1, up[j - 1] + (a[i - 1] != b[j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                now[j] = MIN(now[j], up2[j - 2] + 1);
        }
    }
    return rows[na % 3][nb];
}

const char *nearest_name(const char *name, const char *const *names, size_t n)
{
    const char *best = NULL;
    size_t best_distance = MIN(3, strlen(name) / 2 + 1); /* must be below */
    for (size_t i = 0; i < n; i++) {
        size_t d = distance(name, names[i]);
        size_t len = strlen(name);
        if (len >= 3 && strncmp(name, names[i], len) == 0)
            d = 1; /* the beginning of a name */
        if (d < best_distance) {
            best_distance = d;
            best = names[i];
        }
    }
    return best;
}

/* ---- values ---- */

static bool parse_number(const struct option *o, const char *text, double *out, struct err *e)
{
    char *end;
    errno = 0;
    *out = strtod(text, &end);
    bool is_whole = o->kind != OPT_FLOAT;
    if (end == text || *end || errno || !isfinite(*out) || (is_whole && *out != floor(*out))) {
        err_set(e, HEARTH_EINVAL, "--%s needs a %s, not \"%s\"", o->name, is_whole ? "whole number" : "number", text);
        return false;
    }
    if (*out < o->lo || *out > o->hi) {
        err_set(e, HEARTH_EINVAL, "--%s must be between %.12g and %.12g, not %s", o->name, o->lo, o->hi, text);
        return false;
    }
    return true;
}

static bool set_choice(const struct option *o, int *out, const char *text, struct err *e)
{
    char all[256] = "";
    for (int i = 0; o->choices[i]; i++) {
        if (strcmp(o->choices[i], text) == 0) {
            *out = i;
            return true;
        }
        snprintf(all + strlen(all), sizeof all - strlen(all), "%s%s", i ? ", " : "", o->choices[i]);
    }
    err_set(e, HEARTH_EINVAL, "--%s knows %s, not \"%s\"", o->name, all, text);
    return false;
}

static bool set_u64(const struct option *o, struct opt_u64 *out, const char *text, struct err *e)
{
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 0);
    if (*text < '0' || *text > '9' || *end || errno) {
        err_set(e, HEARTH_EINVAL, "--%s needs a whole number from 0 to 2^64-1, not \"%s\"", o->name, text);
        return false;
    }
    *out = (struct opt_u64){ v, true };
    return true;
}

static bool set_flag(const struct option *o, bool *out, const char *text, struct err *e)
{
    static const char *const yes[] = { "on", "true", "yes", "1" }, *const no[] = { "off", "false", "no", "0" };
    for (size_t i = 0; i < ARRAY_LEN(yes); i++) {
        if (strcmp(text, yes[i]) == 0 || strcmp(text, no[i]) == 0) {
            *out = strcmp(text, yes[i]) == 0;
            return true;
        }
    }
    err_set(e, HEARTH_EINVAL, "--%s is on or off, not \"%s\"", o->name, text);
    return false;
}

bool option_set(const struct option *o, void *base, const char *value, struct err *e)
{
    char *at = (char *)base + o->offset;
    struct str_list *list = (void *)at;
    double number = 0;
    switch (o->kind) {
    case OPT_FLAG:
        return set_flag(o, (bool *)at, value, e);
    case OPT_STR:
    case OPT_MAYBE:
        *(const char **)(void *)at = value;
        return true;
    case OPT_LIST:
        if (list->n == STR_LIST_MAX) {
            err_set(e, HEARTH_EINVAL, "--%s may be given %d times at most", o->name, STR_LIST_MAX);
            return false;
        }
        list->v[list->n++] = value;
        return true;
    case OPT_U64:
        return set_u64(o, (void *)at, value, e);
    case OPT_CHOICE:
        return set_choice(o, (void *)at, value, e);
    case OPT_SIZE:
    case OPT_INT:
    case OPT_FLOAT:
        break;
    }
    if (!parse_number(o, value, &number, e))
        return false;
    if (o->kind == OPT_SIZE)
        *(size_t *)(void *)at = (size_t)number;
    else if (o->kind == OPT_INT)
        *(int32_t *)(void *)at = (int32_t)number;
    else
        *(float *)(void *)at = (float)number;
    return true;
}

void option_show(const struct option *o, const void *base, char *out, size_t size)
{
    const char *at = (const char *)base + o->offset;
    const struct str_list *list = (const void *)at;
    const struct opt_u64 *u = (const void *)at;
    const char *text;
    switch (o->kind) {
    case OPT_FLAG:
        snprintf(out, size, "%s", *(const bool *)at ? "on" : "off");
        break;
    case OPT_STR:
    case OPT_MAYBE:
        text = *(const char *const *)(const void *)at;
        snprintf(out, size, "%s", text ? text : "none");
        break;
    case OPT_LIST:
        snprintf(out, size, "%s", list->n ? "" : "none");
        for (size_t i = 0; i < list->n; i++)
            snprintf(out + strlen(out), size - strlen(out), "%s\"%s\"", i ? " " : "", list->v[i]);
        break;
    case OPT_U64:
        if (u->is_given)
            snprintf(out, size, "%llu", (unsigned long long)u->value);
        else
            snprintf(out, size, "random");
        break;
    case OPT_CHOICE:
        snprintf(out, size, "%s", o->choices[*(const int *)(const void *)at]);
        break;
    case OPT_SIZE:
        snprintf(out, size, "%zu", *(const size_t *)(const void *)at);
        break;
    case OPT_INT:
        snprintf(out, size, "%d", *(const int32_t *)(const void *)at);
        break;
    case OPT_FLOAT:
        snprintf(out, size, "%g", (double)*(const float *)(const void *)at);
        break;
    }
}

/* ---- help ---- */

static void print_group(const struct option_group *g)
{
    printf("\n%s:\n", g->title);
    for (size_t i = 0; i < g->n_options; i++) {
        const struct option *o = &g->options[i];
        char left[64], letter[5] = "    ";
        if (o->letter)
            snprintf(letter, sizeof letter, "-%c, ", o->letter);
        snprintf(left, sizeof left, "%s--%s%s%s%s", letter, o->name, !o->arg ? "" : o->kind == OPT_MAYBE ? "[=" : " ",
                 o->arg ? o->arg : "", o->kind == OPT_MAYBE ? "]" : "");
        if (strlen(left) > 27)
            printf("  %s\n  %-27s %s\n", left, "", o->help);
        else
            printf("  %-27s %s\n", left, o->help);
    }
}

static void print_help(const struct command *c)
{
    printf("Usage: hearth %s [OPTION ...] %s\n\n%s\n", c->verb, c->args, c->summary);
    if (c->details)
        printf("\n%s\n", c->details);
    for (size_t i = 0; i < GROUPS_MAX && c->groups[i].n_options; i++)
        print_group(&c->groups[i]);
    print_group(&common_group);
}

/* ---- parsing ---- */

static const struct option_group *group_at(const struct command *c, size_t i)
{
    if (i < GROUPS_MAX && c->groups[i].n_options)
        return &c->groups[i];
    return i == 0 || (i <= GROUPS_MAX && c->groups[i - 1].n_options) ? &common_group : NULL;
}

/* By long name of n characters (letter 0) or by letter. */
static const struct option *find_option(const struct command *c, const char *name, size_t n, char letter, void **base)
{
    const struct option_group *g;
    for (size_t i = 0; (g = group_at(c, i)); i++)
        for (size_t k = 0; k < g->n_options; k++) {
            const struct option *o = &g->options[k];
            if (letter ? o->letter == letter : strncmp(o->name, name, n) == 0 && !o->name[n]) {
                *base = g->base;
                return o;
            }
        }
    return NULL;
}

static int unknown_option(const struct command *c, const char *word, size_t n)
{
    const char *names[128], *near;
    const struct option_group *g;
    size_t count = 0;
    char name[NAME_MAX_CHARS + 1];
    for (size_t i = 0; (g = group_at(c, i)); i++)
        for (size_t k = 0; k < g->n_options && count < ARRAY_LEN(names); k++)
            names[count++] = g->options[k].name;
    snprintf(name, sizeof name, "%.*s", (int)MIN(n, (size_t)NAME_MAX_CHARS), word);
    near = nearest_name(name, names, count);
    if (near)
        return usage_error(c->verb, "unknown option --%s, did you mean --%s?", name, near);
    return usage_error(c->verb, "unknown option --%s", name);
}

struct words {
    int argc, i;
    char **argv;
};

/* The value of an option: what stands behind it in the same word, or the next word. */
static int take_value(const struct command *c, const struct option *o, void *base, const char *attached, struct words *w)
{
    struct err e = { 0 };
    if (o->kind == OPT_FLAG) {
        if (attached)
            return usage_error(c->verb, "--%s takes no value", o->name);
        *((bool *)((char *)base + o->offset)) = true;
        return -1;
    }
    if (!attached && o->kind == OPT_MAYBE)
        attached = "";
    if (!attached) {
        if (w->i + 1 >= w->argc)
            return usage_error(c->verb, "--%s needs a value: %s", o->name, o->arg);
        attached = w->argv[++w->i];
    }
    if (!option_set(o, base, attached, &e))
        return usage_error(c->verb, "%s", e.text);
    return -1;
}

static int take_long(const struct command *c, const char *word, struct words *w)
{
    void *base = NULL;
    size_t n = strcspn(word, "=");
    const struct option *o = find_option(c, word, n, 0, &base);
    if (!o)
        return unknown_option(c, word, n);
    return take_value(c, o, base, word[n] ? word + n + 1 : NULL, w);
}

static int take_letters(const struct command *c, const char *word, struct words *w)
{
    for (const char *p = word; *p; p++) {
        void *base = NULL;
        const struct option *o = find_option(c, NULL, 0, *p, &base);
        int code;
        if (!o)
            return usage_error(c->verb, "unknown option -%c", *p);
        if (o->kind != OPT_FLAG)
            return take_value(c, o, base, p[1] ? p + 1 : NULL, w);
        if ((code = take_value(c, o, base, NULL, w)) >= 0)
            return code;
    }
    return -1;
}

int options_parse(const struct command *c, int argc, char **argv, size_t *n_args)
{
    struct words w = { argc, 1, argv };
    bool only_args = false;
    int code = -1;
    *n_args = 0;
    for (; w.i < argc && code < 0; w.i++) {
        char *word = argv[w.i];
        if (only_args || word[0] != '-' || !word[1])
            argv[(*n_args)++] = word; /* at or behind its place: never overtakes w.i */
        else if (strcmp(word, "--") == 0)
            only_args = true;
        else
            code = word[1] == '-' ? take_long(c, word + 2, &w) : take_letters(c, word + 1, &w);
    }
    if (code >= 0)
        return code;
    if (common.help) {
        print_help(c);
        return finish_output(c->verb, EXIT_DONE);
    }
    if (*n_args < c->min_args)
        return usage_error(c->verb, "missing argument: hearth %s %s", c->verb, c->args);
    if (*n_args > c->max_args)
        return usage_error(c->verb, "too many arguments: \"%s\" is not expected", argv[c->max_args]);
    return -1;
}

/* terminal.c: what goes to a person, and Ctrl-C.
 *
 * Error sentences in one form ("hearth VERB: what, where"), exit codes of a status, text of a model or a file
 * made harmless for the terminal it is shown on, sizes for people.
 *
 * Ctrl-C. The first sets a flag that the engine looks at before each layer; the verb then ends its answer
 * cleanly. The second, before the flag was cleared, ends the process at once. A verb that writes a file has
 * nothing to finish cleanly, so its first Ctrl-C removes the unfinished file and ends the process. The handler
 * calls only async-signal-safe functions.
 */
#include "apps/apps.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum exit_code exit_of(enum hearth_status st)
{
    switch (st) {
    case HEARTH_OK:
        return EXIT_DONE;
    case HEARTH_EDAMAGED:
    case HEARTH_EUNSUPPORTED:
        return EXIT_INPUT;
    case HEARTH_ENOMEM:
    case HEARTH_ELIMIT:
        return EXIT_LIMIT;
    case HEARTH_ECANCELLED:
        return EXIT_INTERRUPTED;
    case HEARTH_EIO:
    case HEARTH_EINVAL:
    case HEARTH_ENOTFOUND:
        break;
    }
    return EXIT_FAILED;
}

/* "hearth run: ", in bold where colours may go. */
static void print_prefix(const char *verb)
{
    bool colour = use_colour(stderr);
    fprintf(stderr, "%shearth %s:%s ", colour ? "\033[1m" : "", verb, colour ? "\033[0m" : "");
}

enum exit_code fail(const char *verb, enum hearth_status st, const struct err *e)
{
    fflush(stdout);
    if (st == HEARTH_ECANCELLED && !e->text[0])
        return EXIT_INTERRUPTED;
    print_prefix(verb);
    print_quoted(stderr, (struct str){ e->text, strlen(e->text) }, sizeof e->text);
    if (!e->text[0])
        fprintf(stderr, "%s", hearth_status_name(st));
    fprintf(stderr, "\n");
    return exit_of(st);
}

enum exit_code usage_error(const char *verb, const char *fmt, ...)
{
    va_list args;
    print_prefix(verb);
    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);
    fprintf(stderr, "\nTry: hearth help %s\n", verb);
    return EXIT_USAGE;
}

enum exit_code finish_output(const char *verb, enum exit_code code)
{
    bool failed = fflush(stdout) != 0;
    if (failed || ferror(stdout)) {
        fprintf(stderr, "hearth %s: cannot write the output: %s\n", verb, strerror(errno));
        return code == EXIT_DONE ? EXIT_FAILED : code;
    }
    return code;
}

bool use_colour(FILE *f)
{
    const char *no_colour = getenv("NO_COLOR"), *term = getenv("TERM");
    return !(no_colour && *no_colour) && isatty(fileno(f)) && !(term && strcmp(term, "dumb") == 0);
}

void print_text(FILE *f, const char *s, size_t n)
{
    if (!isatty(fileno(f))) {
        fwrite(s, 1, n, f);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        bool is_c1 = c == 0xC2 && i + 1 < n && (unsigned char)s[i + 1] < 0xA0; /* U+0080..U+009F */
        if (is_c1)
            i++;
        else if ((c >= 0x20 && c != 0x7F) || c == '\n' || c == '\t')
            putc(c, f);
    }
}

/* Bytes of the whole UTF-8 character at p, 0 when there is none (overlong and surrogate forms are let through:
 * they cannot steer a terminal). */
static size_t utf8_length(const char *p, size_t n)
{
    unsigned char c = (unsigned char)*p;
    size_t len = c < 0x80 ? 1 : c >= 0xC2 && c < 0xE0 ? 2 : c >= 0xE0 && c < 0xF0 ? 3 : c >= 0xF0 && c < 0xF5 ? 4 : 0;
    if (len > n)
        return 0;
    for (size_t i = 1; i < len; i++)
        if (((unsigned char)p[i] & 0xC0) != 0x80)
            return 0;
    return len;
}

void print_quoted(FILE *f, struct str s, size_t max)
{
    for (size_t i = 0, len; i < s.n; i += MAX(len, 1u)) {
        unsigned char c = (unsigned char)s.p[i];
        bool is_c1 = c == 0xC2 && i + 1 < s.n && (unsigned char)s.p[i + 1] < 0xA0;
        len = utf8_length(s.p + i, s.n - i);
        if (i >= max) {
            fprintf(f, "...");
            return;
        }
        if (c == '\n')
            fprintf(f, "\\n");
        else if (c == '\t')
            fprintf(f, "\\t");
        else if (len == 0 || c < 0x20 || c == 0x7F)
            fprintf(f, "\\x%02X", c);
        else if (is_c1)
            fprintf(f, "\\xC2\\x%02X", (unsigned char)s.p[i + 1]);
        else
            fwrite(s.p + i, 1, len, f);
    }
}

json_t *text_to_json(struct str s)
{
    json_t *j = json_stringn(s.p, s.n);
    struct buf b;
    if (j)
        return j;
    buf_init(&b, 0);
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        char two[2] = { (char)(0xC0 | c >> 6), (char)(0x80 | (c & 0x3F)) };
        buf_append(&b, c < 0x80 ? (const char *)&c : two, c < 0x80 ? 1 : 2);
    }
    j = json_stringn(b.data ? b.data : "", b.len);
    buf_free(&b);
    return j;
}

const char *human_bytes(uint64_t n)
{
    static const char *const units[] = { "kB", "MB", "GB", "TB", "PB", "EB" };
    static char out[8][24];
    static unsigned next;
    char *p = out[next++ % ARRAY_LEN(out)];
    double v = (double)n / 1000;
    size_t i = 0;
    if (n < 1000) {
        snprintf(p, sizeof out[0], "%llu B", (unsigned long long)n);
        return p;
    }
    for (; v >= 999.5 && i + 1 < ARRAY_LEN(units); i++)
        v /= 1000;
    snprintf(p, sizeof out[0], v < 9.995 ? "%.2f %s" : v < 99.95 ? "%.1f %s" : "%.0f %s", v, units[i]);
    return p;
}

enum hearth_status read_stdin(struct buf *out, size_t max_bytes, struct err *e)
{
    char block[65536];
    size_t n;
    while ((n = fread(block, 1, sizeof block, stdin)) > 0) {
        if (n > max_bytes - out->len)
            return err_set(e, HEARTH_ELIMIT, "stdin: more than %zu bytes", max_bytes);
        if (!buf_append(out, block, n))
            return err_set(e, HEARTH_ENOMEM, "stdin: out of memory after %zu bytes", out->len);
    }
    if (ferror(stdin))
        return err_set(e, HEARTH_EIO, "stdin: %s", strerror(errno));
    return HEARTH_OK;
}

/* ---- Ctrl-C ---- */

static atomic_int n_interrupts;
static int wake_pipe[2] = { -1, -1 }; /* written by the handler, for who waits in poll(2) */
static char unfinished_path[4096]; /* set before the handler is installed */

static void on_interrupt(int sig)
{
    if (unfinished_path[0]) {
        unlink(unfinished_path);
        _exit(EXIT_INTERRUPTED);
    }
    if (atomic_fetch_add(&n_interrupts, 1) > 0)
        _exit(EXIT_INTERRUPTED);
    int saved = errno;
    if (wake_pipe[1] >= 0 && write(wake_pipe[1], "", 1) < 0)
        errno = saved; /* it is full: whoever waits wakes all the same */
    errno = saved;
}

static void install_handler(void)
{
    struct sigaction act = { .sa_handler = on_interrupt }; /* no SA_RESTART: a read of the terminal wakes */
    sigemptyset(&act.sa_mask);
    sigaction(SIGINT, &act, NULL);
    sigaction(SIGTERM, &act, NULL);
}

int interrupts_fd(void)
{
    return wake_pipe[0];
}

atomic_int *interrupts_catch(void)
{
    /* A signal between looking at the flag and waiting for input would be lost without the pipe. */
    if (wake_pipe[0] < 0 && pipe(wake_pipe) == 0)
        for (int i = 0; i < 2; i++) {
            fcntl(wake_pipe[i], F_SETFL, O_NONBLOCK);
            fcntl(wake_pipe[i], F_SETFD, FD_CLOEXEC);
        }
    install_handler();
    return &n_interrupts;
}

void interrupts_clear(void)
{
    char drop[16];
    while (wake_pipe[0] >= 0 && read(wake_pipe[0], drop, sizeof drop) > 0)
        ;
    atomic_store(&n_interrupts, 0);
}

void interrupts_remove_unfinished(const char *out_path)
{
    if (!out_path) {
        unfinished_path[0] = 0;
        return;
    }
    /* The name that outfile_open (base/) writes under until it commits. */
    int n = snprintf(unfinished_path, sizeof unfinished_path, "%s.part-%ld", out_path, (long)getpid());
    if (n < 0 || (size_t)n >= sizeof unfinished_path) {
        unfinished_path[0] = 0;
        return;
    }
    install_handler();
}

void print_piece(const char *text, size_t n, void *arg)
{
    struct printer *p = arg;
    while (p->skip_space && n && (*text == ' ' || *text == '\n')) {
        text++;
        n--;
    }
    if (!n)
        return;
    p->skip_space = false;
    p->last = text[n - 1];
    print_text(stdout, text, n);
    fflush(stdout);
}

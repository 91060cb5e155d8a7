/* bench_peer.c: another engine on the same file, in turn with hearth.
 *
 * Two kinds. Without a path: llama.cpp as node-llama-cpp carries it, a package with prebuilt CPU code. A process of
 * Node.js runs our script (tools/peer/bench.mjs, built into this program), holds the model as hearth does, and answers
 * one question per line; while hearth is measured it sleeps in read(). Package and script stand in
 * $XDG_CACHE_HOME/hearth/peer (or $HEARTH_HOME/peer) and are put there on first use with npm, the only time that the network is needed.
 *
 * With a path: any llama-bench. It runs once for every measurement, with -o json. Depth is its -d; the forks that lack that
 * have -gp, which tells the speed of generating behind a prompt.
 *
 * HEARTH_CPU restricts the package too, to the library of the same instruction set, so that equals are compared.
 */
#define _GNU_SOURCE /* pipe2 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "apps/bench.h"
#include "peer_script.h"

#define PACKAGE_VERSION "3.22.1"
#if defined(__aarch64__)
#define PACKAGE_ARCH "arm64"
#else
#define PACKAGE_ARCH "x64"
#endif
#define PACKAGES "node-llama-cpp@" PACKAGE_VERSION, "@node-llama-cpp/linux-" PACKAGE_ARCH "@" PACKAGE_VERSION

enum { WORDS_MAX = 48 };

struct peer {
    const char *bench_path; /* of a llama-bench; NULL: the package */
    bool has_depth;         /* llama-bench knows -d */
    char dir[512], name[128];
    pid_t pid;              /* of the long-lived process; 0: none */
    FILE *to, *from;
    uint64_t *peak_bytes;   /* where runs of llama-bench leave their peak */
};

/* ---- processes ---- */

struct process {
    pid_t pid;
    FILE *to, *from; /* its standard input and output; to may be NULL: /dev/null */
};

/* Looks words[0] up in PATH. dir NULL: where we are. */
static enum hearth_status start_process(struct process *p, const char *const *words, const char *dir, bool with_input, struct err *e)
{
    int in[2] = { -1, -1 }, out[2] = { -1, -1 };
    *p = (struct process){ 0 };
    if ((with_input && pipe2(in, O_CLOEXEC) != 0) || pipe2(out, O_CLOEXEC) != 0 || (p->pid = fork()) < 0)
        return err_set(e, HEARTH_ENOMEM, "%s: no process could be started", words[0]);
    if (p->pid == 0) {
        int from = with_input ? in[0] : open("/dev/null", O_RDONLY);
        char *argv[WORDS_MAX + 1];
        size_t n = 0;
        for (; words[n] && n < WORDS_MAX; n++)
            argv[n] = strdup(words[n]);
        argv[n] = NULL;
        signal(SIGPIPE, SIG_DFL);
        if (from >= 0 && dup2(from, STDIN_FILENO) >= 0 && dup2(out[1], STDOUT_FILENO) >= 0 && (!dir || chdir(dir) == 0))
            execvp(argv[0], argv);
        _exit(127);
    }
    close(out[1]);
    p->from = fdopen(out[0], "r");
    if (with_input) {
        close(in[0]);
        p->to = fdopen(in[1], "w");
    }
    CHECK(p->from && (p->to || !with_input));
    return HEARTH_OK;
}

/* Closes the pipes and waits. The exit status, 128 and more for a signal; *peak (may be NULL): its peak of memory. */
static int end_process(struct process *p, uint64_t *peak)
{
    struct rusage u = { 0 };
    int state = 0;
    if (p->to)
        fclose(p->to);
    if (p->from)
        fclose(p->from);
    while (wait4(p->pid, &state, 0, &u) < 0 && errno == EINTR)
        ;
    if (peak)
        *peak = (uint64_t)u.ru_maxrss * 1024;
    *p = (struct process){ 0 };
    return WIFEXITED(state) ? WEXITSTATUS(state) : 128 + WTERMSIG(state);
}

/* All of a program's output, for programs that end by themselves. */
static enum hearth_status run_program(const char *const *words, const char *dir, struct buf *out, int *code, uint64_t *peak, struct err *e)
{
    struct process p;
    char piece[4096];
    size_t n;
    enum hearth_status st = start_process(&p, words, dir, false, e);
    if (st != HEARTH_OK)
        return st;
    while ((n = fread(piece, 1, sizeof piece, p.from)) > 0)
        if (st == HEARTH_OK)
            st = buf_append(out, piece, n) ? HEARTH_OK : err_set(e, HEARTH_ELIMIT, "%s printed too much", words[0]);
    *code = end_process(&p, peak);
    return st;
}

/* ---- the package ---- */

static bool cache_dir(char *out, size_t size)
{
    const char *home = getenv("HEARTH_HOME"), *cache = getenv("XDG_CACHE_HOME"), *user = getenv("HOME");
    int n;
    if (home && *home)
        n = snprintf(out, size, "%s/peer", home);
    else if (cache && *cache == '/')
        n = snprintf(out, size, "%s/hearth/peer", cache);
    else
        n = snprintf(out, size, "%s/.cache/hearth/peer", user ? user : "");
    return n > 0 && (size_t)n < size && out[0] == '/';
}

static void make_folders(char *path)
{
    for (char *p = path + 1; *p; p++)
        if (*p == '/') {
            *p = 0;
            mkdir(path, 0700);
            *p = '/';
        }
    mkdir(path, 0700); /* what fails here shows when a file is written */
}

static bool write_file(const char *dir, const char *name, const char *text)
{
    char path[640];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    bool ok = f && fputs(text, f) >= 0;
    return f && fclose(f) == 0 && ok;
}

/* Both packages, in the version that the script was written for? */
static bool is_installed(const char *dir)
{
    static const char *const names[] = { "node-llama-cpp", "@node-llama-cpp/linux-" PACKAGE_ARCH };
    bool all = true;
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        char path[700];
        snprintf(path, sizeof path, "%s/node_modules/%s/package.json", dir, names[i]);
        json_t *j = json_load_file(path, 0, NULL);
        const char *version = json_string_value(json_object_get(j, "version"));
        all = all && version && strcmp(version, PACKAGE_VERSION) == 0;
        json_decref(j);
    }
    return all;
}

static enum hearth_status check_node(struct err *e)
{
    static const char *const words[] = { "node", "--version", NULL };
    struct buf out;
    int code = 0;
    buf_init(&out, 4096);
    enum hearth_status st = run_program(words, NULL, &out, &code, NULL, e);
    int major = st == HEARTH_OK && code == 0 && out.len > 1 ? atoi(out.data + 1) : 0;
    if (st == HEARTH_OK && major < 20)
        st = err_set(e, HEARTH_ENOTFOUND, "the peer runs on Node.js 20 or newer, here is %s; install nodejs and npm, or name a llama-bench: --peer=PATH",
                     code == 0 && out.len ? "an older one" : "none");
    buf_free(&out);
    return st;
}

static enum hearth_status install(const char *dir, struct err *e)
{
    static const char *const words[] = { "npm", "i", PACKAGES, "--omit=optional", "--ignore-scripts", "--no-audit", "--no-fund", NULL };
    struct buf out;
    int code = 0;
    if (!common.quiet)
        fprintf(stderr, "hearth bench: putting node-llama-cpp " PACKAGE_VERSION " (90 MB) into %s with npm\n", dir);
    if (!write_file(dir, "package.json", "{ \"private\": true, \"type\": \"module\" }\n"))
        return err_set(e, HEARTH_EIO, "%s: cannot be written", dir);
    buf_init(&out, 1 << 20);
    enum hearth_status st = run_program(words, dir, &out, &code, NULL, e);
    buf_free(&out);
    if (st == HEARTH_OK && (code != 0 || !is_installed(dir)))
        st = err_set(e, HEARTH_EIO, code == 127 ? "npm was not found: install it, or name a llama-bench: --peer=PATH"
                                                : "npm could not put node-llama-cpp into %s (its messages are above): that needs the network once", dir);
    return st;
}

static enum hearth_status find_package(struct peer *p, struct err *e)
{
    enum hearth_status st = check_node(e);
    if (st != HEARTH_OK)
        return st;
    if (!cache_dir(p->dir, sizeof p->dir))
        return err_set(e, HEARTH_EINVAL, "no folder for the peer: HEARTH_HOME, XDG_CACHE_HOME or HOME must be an absolute path");
    make_folders(p->dir);
    if (!is_installed(p->dir))
        st = install(p->dir, e);
    if (st == HEARTH_OK && !write_file(p->dir, "bench.mjs", peer_script))
        st = err_set(e, HEARTH_EIO, "%s/bench.mjs: cannot be written", p->dir);
    snprintf(p->name, sizeof p->name, "node-llama-cpp " PACKAGE_VERSION);
    return st;
}

/* The package's library with the instructions that HEARTH_CPU allows; NULL: the best one. */
static const char *library_of_our_cpu(void)
{
    static const char *const pairs[][2] = { { "avx2", "haswell" }, { "avxvnni", "alderlake" }, { "avx512", "icelake" }, { "amx", "sapphirerapids" } };
    const char *cpu = getenv("HEARTH_CPU");
    for (size_t i = 0; i < ARRAY_LEN(pairs); i++)
        if (cpu && strcmp(cpu, pairs[i][0]) == 0)
            return pairs[i][1];
    return NULL;
}

/* One question, one answer; takes over the question. *answer is to be freed. */
static enum hearth_status ask(struct process *p, json_t *question, json_t **answer, struct err *e)
{
    char *line = NULL;
    size_t cap = 0;
    CHECK(question);
    json_dumpf(question, p->to, JSON_COMPACT);
    json_decref(question);
    fputc('\n', p->to);
    ssize_t n = fflush(p->to) == 0 ? getline(&line, &cap, p->from) : -1;
    *answer = n > 0 ? json_loadb(line, (size_t)n, 0, NULL) : NULL;
    free(line);
    if (!*answer)
        return err_set(e, HEARTH_EIO, "the peer ended early");
    const char *sentence = json_string_value(json_object_get(*answer, "error"));
    if (!sentence)
        return HEARTH_OK;
    enum hearth_status st = err_set(e, HEARTH_EUNSUPPORTED, "the peer failed: %s", sentence);
    json_decref(*answer);
    *answer = NULL;
    return st;
}

static enum hearth_status ask_number(struct process *p, json_t *question, const char *key, double *out, struct err *e)
{
    json_t *answer;
    enum hearth_status st = ask(p, question, &answer, e);
    if (st == HEARTH_OK)
        *out = json_number_value(json_object_get(answer, key));
    json_decref(answer);
    return st;
}

static json_t *context_question(const char *id, size_t size, size_t n_sequences, size_t fill)
{
    return json_pack("{s:s, s:s, s:I, s:I, s:I}", "do", "context", "id", id, "size", (json_int_t)size, "sequences", (json_int_t)n_sequences, "fill",
                     (json_int_t)fill);
}

static json_t *step_question(const char *id, size_t n_new, size_t n_sequences, size_t n_steps)
{
    return json_pack("{s:s, s:s, s:I, s:I, s:I}", "do", "step", "id", id, "tokens", (json_int_t)n_new, "sequences", (json_int_t)n_sequences, "steps",
                     (json_int_t)n_steps);
}

/* A process that holds the model. */
static enum hearth_status start_node(struct peer *p, const struct bench *b, struct process *proc, struct load_report *r, struct err *e)
{
    const char *const words[] = { "node", "bench.mjs", NULL };
    const char *library = library_of_our_cpu();
    char *path = realpath(b->path, NULL); /* it runs elsewhere */
    size_t n_threads = b->o.n_threads ? b->o.n_threads : b->engine ? pool_threads(engine_pool(b->engine)) : b->run.n_threads;
    json_t *answer = NULL;
    enum hearth_status st = path ? start_process(proc, words, p->dir, true, e) : err_set(e, HEARTH_EIO, "%s: not found", b->path);
    if (st == HEARTH_OK) {
        json_t *q = json_pack("{s:s, s:o, s:I, s:I, s:s}", "do", "load", "model", text_to_json((struct str){ path, strlen(path) }), "threads",
                              (json_int_t)n_threads, "vocab", (json_int_t)b->run.n_vocab, "kv", b->o.kv == KV_F32 ? "F32" : "F16");
        if (library)
            json_object_set_new(q, "cpu", json_string(library));
        st = ask(proc, q, &answer, e);
    }
    free(path);
    if (st == HEARTH_OK) {
        const char *backend = json_string_value(json_object_get(answer, "backend"));
        r->load_s = json_number_value(json_object_get(answer, "seconds"));
        r->base_bytes = (uint64_t)json_number_value(json_object_get(answer, "base_bytes"));
        snprintf(p->name, sizeof p->name, "node-llama-cpp " PACKAGE_VERSION " (%s)", backend ? backend : "?");
    }
    json_decref(answer);
    return st;
}

static enum hearth_status run_once(struct process *proc, struct load_report *r, struct err *e)
{
    double ignored, peak = 0;
    enum hearth_status st = ask_number(proc, context_question("run", RUN_PROMPT + RUN_TOKENS, 1, 0), "-", &ignored, e);
    if (st == HEARTH_OK)
        st = ask_number(proc, step_question("run", RUN_PROMPT, 1, 1), "seconds", &ignored, e);
    if (st == HEARTH_OK)
        st = ask_number(proc, step_question("run", 1, 1, RUN_TOKENS), "seconds", &ignored, e);
    if (st == HEARTH_OK)
        st = ask_number(proc, json_pack("{s:s}", "do", "memory"), "peak_bytes", &peak, e);
    r->peak_bytes = (uint64_t)peak;
    return st;
}

enum hearth_status peer_load(struct peer *p, const struct bench *b, bool with_run, struct load_report *out, struct err *e)
{
    struct process proc = { 0 };
    if (p->bench_path)
        return HEARTH_OK;
    enum hearth_status st = start_node(p, b, &proc, out, e);
    if (st == HEARTH_OK && with_run)
        st = run_once(&proc, out, e);
    if (proc.pid)
        end_process(&proc, NULL);
    return st;
}

static const char *context_id(const struct bench *b, const struct measure *m)
{
    static char id[24];
    snprintf(id, sizeof id, "m%zu", (size_t)(m - b->m));
    return id;
}

enum hearth_status peer_start(struct peer *p, struct bench *b, struct err *e)
{
    struct load_report ignored = { 0 };
    struct process proc = { 0 };
    p->peak_bytes = &b->peer_run.peak_bytes;
    if (p->bench_path)
        return HEARTH_OK;
    enum hearth_status st = start_node(p, b, &proc, &ignored, e);
    p->pid = proc.pid, p->to = proc.to, p->from = proc.from;
    for (size_t i = 0; i < b->n_measures && st == HEARTH_OK; i++) {
        const struct measure *m = &b->m[i];
        size_t fill = m->kind == MEASURE_PREFILL ? 0 : MAX(m->size, 1u);
        double ignored_s;
        if (m->skipped)
            continue;
        bar_update(&b->bar, "the peer fills its contexts", b->n_done, b->n_bar_steps);
        st = ask_number(&proc, context_question(context_id(b, m), fill + m->n_new * m->n_steps, m->n_sequences, fill), "-", &ignored_s, e);
    }
    return st;
}

/* ---- llama-bench ---- */

static enum hearth_status find_bench(struct peer *p, const char *path, struct err *e)
{
    const char *const words[] = { path, "--help", NULL };
    struct buf out;
    int code = 0;
    buf_init(&out, 1 << 20);
    enum hearth_status st = run_program(words, NULL, &out, &code, NULL, e);
    if (st == HEARTH_OK && (code == 127 || !out.data || !strstr(out.data, "-p")))
        st = err_set(e, HEARTH_ENOTFOUND, "%s: not a llama-bench that runs here", path);
    p->bench_path = path;
    p->has_depth = st == HEARTH_OK && strstr(out.data, "--n-depth");
    snprintf(p->name, sizeof p->name, "%.100s", strrchr(path, '/') ? strrchr(path, '/') + 1 : path);
    buf_free(&out);
    return st;
}

/* -p N | -n N -d DEPTH | -p N -d DEPTH | -gp DEPTH,N */
static size_t shape_words(const struct peer *p, const struct measure *m, char text[3][32], const char **words)
{
    bool is_decode = m->kind == MEASURE_DECODE;
    size_t depth = m->kind == MEASURE_PREFILL ? 0 : m->size, n_new = is_decode ? m->n_steps : m->n_new, n = 0;
    if (is_decode && depth && !p->has_depth) {
        snprintf(text[0], sizeof text[0], "%zu,%zu", depth, n_new);
        const char *const gp[] = { "-p", "0", "-n", "0", "-gp", text[0] };
        memcpy(words, gp, sizeof gp);
        return ARRAY_LEN(gp);
    }
    snprintf(text[0], sizeof text[0], "%zu", is_decode ? 0 : n_new);
    snprintf(text[1], sizeof text[1], "%zu", is_decode ? n_new : 0);
    snprintf(text[2], sizeof text[2], "%zu", depth);
    words[n++] = "-p", words[n++] = text[0], words[n++] = "-n", words[n++] = text[1];
    if (depth)
        words[n++] = "-d", words[n++] = text[2];
    return n;
}

static enum hearth_status run_bench(struct peer *p, const struct bench *b, const struct measure *m, double *seconds, struct err *e)
{
    char shape[3][32], threads[16], extra[512];
    const char *words[WORDS_MAX + 1] = { p->bench_path, "-m", b->path, "-o", "json", "-r", "1", "-fa", "1", "-t", threads };
    const char *kv = b->o.kv == KV_F32 ? "f32" : "f16";
    size_t n = 11;
    struct buf out;
    int code = 0;
    uint64_t peak = 0;
    snprintf(threads, sizeof threads, "%zu", pool_threads(engine_pool(b->engine)));
    words[n++] = "-ctk", words[n++] = kv, words[n++] = "-ctv", words[n++] = kv;
    n += shape_words(p, m, shape, words + n);
    snprintf(extra, sizeof extra, "%s", b->o.peer_args ? b->o.peer_args : "");
    for (char *rest = extra, *word; (word = strtok_r(rest, " ", &rest)) && n < WORDS_MAX; )
        words[n++] = word;
    buf_init(&out, 1 << 20);
    enum hearth_status st = run_program(words, NULL, &out, &code, &peak, e);
    json_t *list = st == HEARTH_OK && out.data ? json_loads(out.data, 0, NULL) : NULL;
    double rate = json_number_value(json_object_get(json_array_get(list, 0), "avg_ts"));
    if (st == HEARTH_OK && (code != 0 || !(rate > 0)))
        st = err_set(e, HEARTH_EUNSUPPORTED, "%s ended with status %d and told no speed (its messages are above)", p->bench_path, code);
    else if (st == HEARTH_OK)
        *seconds = (double)(m->n_new * m->n_steps) / rate;
    if (m->kind == MEASURE_PREFILL)
        *p->peak_bytes = MAX(*p->peak_bytes, peak);
    json_decref(list);
    buf_free(&out);
    return st;
}

/* ---- both ---- */

enum hearth_status peer_find(struct peer **out, const struct bench *b, struct err *e)
{
    struct peer *p = calloc(1, sizeof *p);
    CHECK(p);
    *out = p;
    return *b->o.peer ? find_bench(p, b->o.peer, e) : find_package(p, e);
}

void peer_close(struct peer *p)
{
    if (!p)
        return;
    struct process proc = { p->pid, p->to, p->from };
    if (p->pid)
        end_process(&proc, NULL);
    free(p);
}

const char *peer_name(const struct peer *p)
{
    return p->name;
}

bool peer_can(const struct peer *p, const struct measure *m)
{
    if (!p->bench_path)
        return !m->skipped;
    return !m->skipped && m->kind != MEASURE_BATCH && (p->has_depth || m->kind != MEASURE_APPEND);
}

enum hearth_status peer_run(struct peer *p, const struct bench *b, const struct measure *m, double *seconds, struct err *e)
{
    struct process proc = { p->pid, p->to, p->from };
    if (p->bench_path)
        return run_bench(p, b, m, seconds, e);
    enum hearth_status st = ask_number(&proc, step_question(context_id(b, m), m->n_new, m->n_sequences, m->n_steps), "seconds", seconds, e);
    if (st == HEARTH_OK && !(*seconds > 0))
        st = err_set(e, HEARTH_EIO, "the peer told no time");
    return st;
}

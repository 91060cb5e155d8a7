/* bench_child.c: load time and peak memory, each measured in a process of its own, as a user's is: nothing is warm but the
 * page cache, and no other measurement's memory counts.
 *
 * Forking is only safe before there are threads. So the first thing hearth bench does is to fork one process that waits
 * on a pipe; for each question it forks a child, which opens the model, answers on the other pipe and ends.
 */
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "apps/bench.h"

static uint64_t peak_bytes(void)
{
    struct rusage u;
    return getrusage(RUSAGE_SELF, &u) == 0 ? (uint64_t)u.ru_maxrss * 1024 : 0;
}

/* A prompt and some tokens more, as far as the model's positions go. */
static enum hearth_status run_model(struct session *s, struct load_report *r, struct err *e)
{
    int32_t tokens[RUN_PROMPT];
    size_t n_vocab = engine_info(s->engine)->n_vocab, n = MIN(s->n_ctx > RUN_TOKENS ? s->n_ctx - RUN_TOKENS : 1, (size_t)RUN_PROMPT);
    for (size_t i = 0; i < n; i++)
        tokens[i] = (int32_t)((i * 2654435761u >> 7) % n_vocab);
    enum hearth_status st = context_sync(s->context, tokens, n, NULL, NULL, NULL, NULL, e);
    for (size_t i = 0; i < RUN_TOKENS && n + i < s->n_ctx && st == HEARTH_OK; i++)
        st = context_append(s->context, tokens[i % n], NULL, e);
    r->kv_bytes = context_kv_bytes(s->context);
    return st;
}

static void answer(const struct bench *b, bool with_run, struct load_report *r)
{
    struct session s = { 0 };
    struct err e = { 0 };
    struct session_options o = { .n_threads = b->o.n_threads, .affinity = b->o.affinity, .power = b->o.power, .kv_type = b->o.kv, .raw = true,
                                 .no_pack = b->o.no_pack };
    r->base_bytes = peak_bytes();
    enum hearth_status st = session_open(&s, b->path, &o, &e);
    r->load_s = (double)s.load_ns * 1e-9;
    if (st == HEARTH_OK) {
        r->n_vocab = engine_info(s.engine)->n_vocab;
        r->n_threads = pool_threads(engine_pool(s.engine));
    }
    if (st == HEARTH_OK && with_run)
        st = run_model(&s, r, &e);
    if (st != HEARTH_OK)
        snprintf(r->error, sizeof r->error, "%s", e.text);
    r->peak_bytes = peak_bytes();
}

/* Waits for questions until the other end closes. */
static void serve(const struct bench *b, int from, int to)
{
    bool with_run;
    while (read(from, &with_run, sizeof with_run) == sizeof with_run) {
        int pid = fork(), state = 0;
        if (pid == 0) {
            struct load_report r = { 0 };
            answer(b, with_run, &r);
            _exit(write(to, &r, sizeof r) == sizeof r ? 0 : 1);
        }
        if (pid < 0 || waitpid(pid, &state, 0) != pid || !WIFEXITED(state) || WEXITSTATUS(state) != 0)
            return; /* the pipe closes, and that is the answer */
    }
}

enum hearth_status bench_child_open(struct bench_child *c, struct bench *b, struct err *e)
{
    int there[2] = { -1, -1 }, back[2] = { -1, -1 };
    if (pipe(there) != 0 || pipe(back) != 0 || (c->pid = fork()) < 0) {
        for (size_t i = 0; i < 2; i++) {
            if (there[i] >= 0)
                close(there[i]);
            if (back[i] >= 0)
                close(back[i]);
        }
        return err_set(e, HEARTH_ENOMEM, "no process for measuring could be started");
    }
    if (c->pid == 0) {
        close(there[1]);
        close(back[0]);
        serve(b, there[0], back[1]);
        _exit(0);
    }
    close(there[0]);
    close(back[1]);
    c->to = there[1];
    c->from = back[0];
    return HEARTH_OK;
}

enum hearth_status bench_child_measure(struct bench_child *c, bool with_run, struct load_report *out, struct err *e)
{
    *out = (struct load_report){ 0 };
    if (write(c->to, &with_run, sizeof with_run) != sizeof with_run || read(c->from, out, sizeof *out) != sizeof *out)
        return err_set(e, HEARTH_EIO, "the process that measures loading ended early");
    return HEARTH_OK;
}

void bench_child_close(struct bench_child *c)
{
    if (c->to < 0)
        return;
    close(c->to);
    close(c->from);
    waitpid(c->pid, NULL, 0);
    *c = (struct bench_child){ 0, -1, -1 };
}

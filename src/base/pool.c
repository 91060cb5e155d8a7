/* pool.c: worker threads that run the slices of one job and wait for the next.
 *
 * A job is (fn, arg, n_slices). The caller publishes it by raising `round`; every thread, the caller
 * included, takes slices from one atomic counter until none is left, so a slow core does less and both
 * finish together. The last one to finish lets the caller go on.
 *
 * Waiting. Between jobs a worker spins for SPIN_NS (the gap between two matrix products of one token is shorter than a
 * sleep and a wake), then sleeps on `round`: an idle pool uses no CPU. A caller that is out of slices waits for the
 * workers the same way, so that it burns nothing while the system runs something else in their place. A worker that
 * spins has a job in less than a microsecond, one that sleeps in some ten or twenty. Spinning is off when there are more
 * threads than CPUs, where it would only steal time from the one who works.
 *
 * A job is only published when every worker has reported the end of the last one, so a worker that wakes
 * late finds its own job still open and can never mix two.
 *
 * Power. With a limit of N percent each thread keeps books over its own CPU time: before each slice it looks how long
 * ago its window began and how much CPU time went by since, and when it is at least LEAST_REST_NS ahead of its share, it
 * sleeps that off and a new window begins. Counting CPU time and not slices means that waiting for others and time taken
 * by other programs count as rest, and that spinning does not. A window that saw less work than it might have ends after
 * WINDOW_NS, so that idle time cannot be saved up for a long burst. Slices are short (milliseconds), and so are the bursts.
 */
#include "base/base.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#if defined(__x86_64__)
#define CPU_RELAX() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define CPU_RELAX() __asm__ volatile("isb") /* a real pause; "yield" is a no-op on most cores */
#else
#define CPU_RELAX() ((void)0)
#endif

enum {
    SPIN_NS = 50000,
    TURNS_PER_LOOK = 32, /* pauses between two looks at the clock */
    LEAST_REST_NS = 2000000,
    WINDOW_NS = 50000000,
    NAP_NS = 20000000, /* a long rest looks at *cancel this often */
};

/* What a thread owes to the power limit: nobody else's business, so on a line of its own. */
struct duty {
    _Alignas(64) uint64_t begin_ns; /* of the window; 0: none yet */
    uint64_t begin_cpu_ns;
};

struct worker {
    struct pool *pool;
    pthread_t thread;
    size_t i_thread;
};

struct pool {
    size_t n_threads;
    uint64_t spin_ns;
    struct worker *workers; /* [n_threads - 1] */
    size_t n_started;
    unsigned power;
    struct duty *duties; /* [n_threads] */
    const atomic_int *cancel;

    struct cpu_list cpus;  /* n 0: anywhere */
    bool pins;
    struct cpu_list before; /* the caller's, to be put back; n 0: nothing to put back */
    pthread_t opener;

    /* Written by the caller before `round` is raised (release), read by workers after they saw it
     * (acquire); they stay unchanged until every worker has reported in `n_busy`. */
    pool_fn fn;
    void *arg;
    size_t n_slices;
    struct pool_times *times; /* NULL: nobody asks */

    _Alignas(64) atomic_uint round;   /* job number; a change means work, or the end */
    _Alignas(64) atomic_size_t next;  /* next slice of this job */
    _Alignas(64) atomic_uint n_busy;  /* workers that have not yet reported the end of this job */
    _Alignas(64) atomic_uint n_asleep;
    atomic_bool caller_sleeps;
    atomic_bool is_closing;
};

/* ---- power ---- */

static bool is_cancelled(const struct pool *p)
{
    return p->cancel && atomic_load_explicit(p->cancel, memory_order_relaxed);
}

static void rest(struct pool *p, size_t i_thread)
{
    struct duty *d = &p->duties[i_thread];
    uint64_t now = clock_ns(), cpu = clock_thread_ns(), due = d->begin_ns + (cpu - d->begin_cpu_ns) * 100 / p->power;
    if (now - d->begin_ns > WINDOW_NS && due <= now) { /* the first one, too */
        *d = (struct duty){ now, cpu };
        return;
    }
    if (due < now + LEAST_REST_NS)
        return;
    for (; now < due && !is_cancelled(p); now = clock_ns())
        sleep_ns(MIN(due - now, (uint64_t)NAP_NS));
    *d = (struct duty){ MIN(now, due), cpu }; /* what was slept too long counts for the new window */
}

/* ---- jobs ---- */

static void pool_work(struct pool *p, size_t i_thread)
{
    uint64_t begin = p->times ? clock_ns() : 0;
    for (;;) {
        if (p->power < 100)
            rest(p, i_thread);
        size_t i = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed);
        if (i >= p->n_slices)
            break;
        p->fn(p->arg, i, i_thread);
    }
    if (p->times)
        atomic_fetch_add(&p->times->busy_ns, clock_ns() - begin);
}

/* Spins until *word is not (or is) value, or for spin_ns; true when it came to that. */
static bool spin(const struct pool *p, atomic_uint *word, unsigned value, bool until_equal)
{
    uint64_t end = 0;
    if (p->spin_ns == 0)
        return false;
    for (unsigned turn = 0;; turn++) {
        if ((atomic_load_explicit(word, memory_order_acquire) == value) == until_equal)
            return true;
        CPU_RELAX();
        if (turn % TURNS_PER_LOOK == TURNS_PER_LOOK - 1) {
            uint64_t now = clock_ns();
            end = end ? end : now + p->spin_ns;
            if (now >= end)
                return false;
        }
    }
}

static unsigned wait_for_round(struct pool *p, unsigned seen)
{
    if (!spin(p, &p->round, seen, false)) {
        atomic_fetch_add(&p->n_asleep, 1); /* sequentially consistent against the caller's change of round */
        while (atomic_load(&p->round) == seen)
            word_wait(&p->round, seen);
        atomic_fetch_sub(&p->n_asleep, 1);
    }
    return atomic_load_explicit(&p->round, memory_order_acquire);
}

static void place_worker(const struct worker *w)
{
    const struct pool *p = w->pool;
    struct cpu_list one = { .n = 1 };
    if (p->cpus.n == 0)
        return;
    one.cpus[0] = p->cpus.cpus[w->i_thread % p->cpus.n];
    if (!cpu_list_bind(p->pins ? &one : &p->cpus))
        log_line(LOG_WARN, "thread %zu could not be kept on its CPU", w->i_thread);
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    struct pool *p = w->pool;
    unsigned seen = 0;
    place_worker(w);
    for (;;) {
        seen = wait_for_round(p, seen);
        if (atomic_load_explicit(&p->is_closing, memory_order_relaxed))
            return NULL;
        pool_work(p, w->i_thread);
        if (atomic_fetch_sub(&p->n_busy, 1) == 1 && atomic_load(&p->caller_sleeps))
            word_wake(&p->n_busy);
    }
}

static void announce(struct pool *p)
{
    atomic_fetch_add(&p->round, 1);
    if (atomic_load(&p->n_asleep))
        word_wake(&p->round);
}

static void wait_for_workers(struct pool *p)
{
    unsigned n;
    if (spin(p, &p->n_busy, 0, true))
        return;
    atomic_store(&p->caller_sleeps, true); /* sequentially consistent against the workers' change of n_busy */
    while ((n = atomic_load(&p->n_busy)) != 0)
        word_wait(&p->n_busy, n);
    atomic_store(&p->caller_sleeps, false);
}

void pool_run(struct pool *p, pool_fn fn, void *arg, size_t n_slices)
{
    if (p->n_threads == 1 || n_slices <= 1) {
        for (size_t i = 0; i < n_slices; i++) {
            pool_rest(p);
            fn(arg, i, 0);
        }
        return;
    }
    p->fn = fn;
    p->arg = arg;
    p->n_slices = n_slices;
    atomic_store_explicit(&p->next, 0, memory_order_relaxed);
    atomic_store_explicit(&p->n_busy, (unsigned)(p->n_threads - 1), memory_order_relaxed);
    uint64_t begin = p->times ? clock_ns() : 0;
    announce(p);
    pool_work(p, 0);
    uint64_t out_of_work = p->times ? clock_ns() : 0;
    wait_for_workers(p);
    if (p->times) {
        uint64_t end = clock_ns();
        p->times->n_jobs++;
        p->times->run_ns += end - begin;
        p->times->wait_ns += end - out_of_work;
    }
}

/* 0: closed, 1: open, LATCH_SLEPT_ON: closed, and somebody sleeps on it. */
enum { LATCH_SLEPT_ON = 2 };

void pool_latch_open(atomic_uint *latch)
{
    if (atomic_exchange(latch, 1) == LATCH_SLEPT_ON)
        word_wake(latch);
}

void pool_latch_wait(struct pool *p, atomic_uint *latch)
{
    if (spin(p, latch, 1, true))
        return;
    for (;;) {
        unsigned seen = 0;
        if (!atomic_compare_exchange_strong(latch, &seen, LATCH_SLEPT_ON) && seen == 1)
            return;
        word_wait(latch, LATCH_SLEPT_ON);
    }
}

void pool_rest(struct pool *p)
{
    if (p->power < 100)
        rest(p, 0);
}

void pool_heed(struct pool *p, const atomic_int *cancel)
{
    p->cancel = cancel;
}

void pool_measure(struct pool *p, struct pool_times *t)
{
    p->times = t;
}

/* ---- opening and closing ---- */

/* Thread 0 is the caller's own: it gets its CPU here and its old ones back from pool_close. */
static void place_caller(struct pool *p)
{
    struct cpu_list one = { .n = 1 };
    if (!p->pins || p->cpus.n == 0)
        return;
    cpu_list_now(&p->before);
    p->opener = pthread_self();
    one.cpus[0] = p->cpus.cpus[0];
    if (!cpu_list_bind(&one))
        log_line(LOG_WARN, "thread 0 could not be kept on its CPU");
}

static bool start_workers(struct pool *p)
{
    p->workers = calloc(p->n_threads, sizeof *p->workers);
    p->duties = aligned_alloc(64, p->n_threads * sizeof *p->duties);
    if (!p->workers || !p->duties)
        return false;
    for (size_t i = 0; i < p->n_threads; i++)
        p->duties[i] = (struct duty){ 0 };
    for (; p->n_started + 1 < p->n_threads; p->n_started++) {
        struct worker *w = &p->workers[p->n_started];
        *w = (struct worker){ .pool = p, .i_thread = p->n_started + 1 };
        if (pthread_create(&w->thread, NULL, worker_main, w) != 0)
            return false;
    }
    return true;
}

enum hearth_status pool_open_with(struct pool **out, const struct pool_options *o, struct err *e)
{
    struct pool *p;
    size_t n_cpus = (size_t)cpu_count();
    *out = NULL;
    if (o->n_threads < 1 || o->n_threads > LIMIT_THREADS)
        return err_set(e, HEARTH_EINVAL, "%zu threads asked; hearth takes 1 to %d", o->n_threads, LIMIT_THREADS);
    if (o->power > 100)
        return err_set(e, HEARTH_EINVAL, "a power of %u asked; hearth takes 1 to 100 percent", o->power);
    p = aligned_alloc(64, (sizeof *p + 63) & ~(size_t)63);
    if (!p)
        return err_set(e, HEARTH_ENOMEM, "no memory for a pool of %zu threads", o->n_threads);
    *p = (struct pool){ .n_threads = o->n_threads, .power = o->power ? o->power : 100, .pins = o->pins };
    if (o->cpus)
        p->cpus = *o->cpus;
    if (p->cpus.n)
        n_cpus = MIN(n_cpus, p->cpus.n);
    p->spin_ns = o->n_threads > n_cpus ? 0 : SPIN_NS;
    if (!start_workers(p)) {
        size_t n_started = p->n_started;
        pool_close(p);
        return err_set(e, HEARTH_ENOMEM, "only %zu of %zu worker threads could be started", n_started, o->n_threads - 1);
    }
    place_caller(p);
    *out = p;
    return HEARTH_OK;
}

enum hearth_status pool_open(struct pool **out, size_t n_threads, struct err *e)
{
    return pool_open_with(out, &(struct pool_options){ .n_threads = n_threads }, e);
}

void pool_close(struct pool *p)
{
    if (!p)
        return;
    atomic_store(&p->is_closing, true);
    announce(p);
    for (size_t i = 0; i < p->n_started; i++)
        pthread_join(p->workers[i].thread, NULL);
    if (p->before.n && pthread_equal(p->opener, pthread_self()))
        (void)cpu_list_bind(&p->before);
    free(p->duties);
    free(p->workers);
    free(p);
}

size_t pool_threads(const struct pool *p)
{
    return p->n_threads;
}

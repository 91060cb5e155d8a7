/* pool.c: worker threads that run the slices of one job and wait for the next.
 *
 * A job is (fn, arg, n_slices). The caller publishes it by raising `round`; every thread, the caller
 * included, takes slices from one atomic counter until none is left, so a slow core does less and both
 * finish together. The last one to finish lets the caller go on.
 *
 * Between jobs a worker spins for a few microseconds (the gap between two matrix products of one token is
 * shorter than a sleep and a wake), then sleeps on a condition variable: an idle pool uses no CPU. Spinning
 * is off when there are more threads than CPUs, where it would only steal time from the one who works.
 *
 * A job is only published when every worker has reported the end of the last one, so a worker that wakes
 * late finds its own job still open and can never mix two.
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

enum { SPIN_TURNS = 4000 };

struct worker {
    struct pool *pool;
    pthread_t thread;
    size_t i_thread;
};

struct pool {
    size_t n_threads;
    int spin_turns;
    struct worker *workers; /* [n_threads - 1] */
    size_t n_started;

    /* Written by the caller before `round` is raised (release), read by workers after they saw it
     * (acquire); they stay unchanged until every worker has reported in `n_idle`. */
    pool_fn fn;
    void *arg;
    size_t n_slices;
    struct pool_times *times; /* NULL: nobody asks */

    _Alignas(64) atomic_uint round;   /* job number; a change means work, or the end */
    _Alignas(64) atomic_size_t next;  /* next slice of this job */
    _Alignas(64) atomic_size_t n_idle; /* workers that are done with this job */
    atomic_bool is_closing;

    pthread_mutex_t lock; /* guards the two sleeps below; round and n_idle change under it when someone sleeps */
    pthread_cond_t wake, done;
    atomic_size_t n_asleep;
    atomic_bool caller_sleeps;
};

static void pool_work(struct pool *p, size_t i_thread)
{
    uint64_t begin = p->times ? clock_ns() : 0;
    for (;;) {
        size_t i = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed);
        if (i >= p->n_slices)
            break;
        p->fn(p->arg, i, i_thread);
    }
    if (p->times)
        atomic_fetch_add(&p->times->busy_ns, clock_ns() - begin);
}

static unsigned wait_for_round(struct pool *p, unsigned seen)
{
    unsigned round;
    for (int i = 0; i < p->spin_turns; i++) {
        if ((round = atomic_load_explicit(&p->round, memory_order_acquire)) != seen)
            return round;
        CPU_RELAX();
    }
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add(&p->n_asleep, 1); /* sequentially consistent against the caller's store to round */
    while ((round = atomic_load(&p->round)) == seen)
        pthread_cond_wait(&p->wake, &p->lock);
    atomic_fetch_sub(&p->n_asleep, 1);
    pthread_mutex_unlock(&p->lock);
    return round;
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    struct pool *p = w->pool;
    unsigned seen = 0;
    for (;;) {
        seen = wait_for_round(p, seen);
        if (atomic_load_explicit(&p->is_closing, memory_order_relaxed))
            return NULL;
        pool_work(p, w->i_thread);
        if (atomic_fetch_add(&p->n_idle, 1) + 1 == p->n_threads - 1 && atomic_load(&p->caller_sleeps)) {
            pthread_mutex_lock(&p->lock);
            pthread_cond_signal(&p->done);
            pthread_mutex_unlock(&p->lock);
        }
    }
}

static void announce(struct pool *p)
{
    atomic_fetch_add(&p->round, 1);
    if (atomic_load(&p->n_asleep)) {
        pthread_mutex_lock(&p->lock);
        pthread_cond_broadcast(&p->wake);
        pthread_mutex_unlock(&p->lock);
    }
}

static void wait_for_workers(struct pool *p)
{
    size_t n_workers = p->n_threads - 1;
    for (int i = 0; i < p->spin_turns; i++) {
        if (atomic_load_explicit(&p->n_idle, memory_order_acquire) == n_workers)
            return;
        CPU_RELAX();
    }
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->caller_sleeps, true);
    while (atomic_load(&p->n_idle) != n_workers)
        pthread_cond_wait(&p->done, &p->lock);
    atomic_store(&p->caller_sleeps, false);
    pthread_mutex_unlock(&p->lock);
}

void pool_run(struct pool *p, pool_fn fn, void *arg, size_t n_slices)
{
    if (p->n_threads == 1 || n_slices <= 1) {
        for (size_t i = 0; i < n_slices; i++)
            fn(arg, i, 0);
        return;
    }
    p->fn = fn;
    p->arg = arg;
    p->n_slices = n_slices;
    atomic_store_explicit(&p->next, 0, memory_order_relaxed);
    atomic_store_explicit(&p->n_idle, 0, memory_order_relaxed);
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

void pool_measure(struct pool *p, struct pool_times *t)
{
    p->times = t;
}

enum hearth_status pool_open(struct pool **out, size_t n_threads, struct err *e)
{
    struct pool *p;
    *out = NULL;
    if (n_threads < 1 || n_threads > LIMIT_THREADS)
        return err_set(e, HEARTH_EINVAL, "%zu threads asked; hearth takes 1 to %d", n_threads, LIMIT_THREADS);
    p = aligned_alloc(64, (sizeof *p + 63) & ~(size_t)63);
    if (!p)
        return err_set(e, HEARTH_ENOMEM, "no memory for a pool of %zu threads", n_threads);
    *p = (struct pool){ .n_threads = n_threads };
    p->spin_turns = n_threads > (size_t)cpu_count() ? 0 : SPIN_TURNS;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    pthread_cond_init(&p->done, NULL);
    p->workers = calloc(n_threads, sizeof *p->workers);
    for (size_t i = 0; p->workers && i + 1 < n_threads; i++) {
        p->workers[i] = (struct worker){ .pool = p, .i_thread = i + 1 };
        if (pthread_create(&p->workers[i].thread, NULL, worker_main, &p->workers[i]) != 0)
            break;
        p->n_started++;
    }
    if (!p->workers || p->n_started + 1 != n_threads) {
        size_t n_started = p->n_started;
        pool_close(p);
        return err_set(e, HEARTH_ENOMEM, "only %zu of %zu worker threads could be started", n_started, n_threads - 1);
    }
    *out = p;
    return HEARTH_OK;
}

void pool_close(struct pool *p)
{
    if (!p)
        return;
    atomic_store(&p->is_closing, true);
    announce(p);
    for (size_t i = 0; i < p->n_started; i++)
        pthread_join(p->workers[i].thread, NULL);
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->wake);
    pthread_cond_destroy(&p->done);
    free(p->workers);
    free(p);
}

size_t pool_threads(const struct pool *p)
{
    return p->n_threads;
}

/* test_pool.c: the worker pool, its CPUs and its power limit.
 *
 * Time here is CPU time wherever something is measured: on a busy machine a thread gets less of it, never more, so the
 * bounds hold there too.
 */
#define _GNU_SOURCE
#include "support.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static void count_slice(void *arg, size_t i, size_t i_thread)
{
    atomic_int *hits = arg;
    (void)i_thread;
    atomic_fetch_add(&hits[i], 1);
}

static void every_slice_runs_once(void **state)
{
    enum { N = 97 };
    static atomic_int hits[N];
    struct err e = { 0 };
    for (size_t n_threads = 1; n_threads <= 5; n_threads++) {
        struct pool *p;
        assert_ok(pool_open(&p, n_threads, &e), &e);
        for (int round = 0; round < 500; round++) {
            size_t n = (size_t)(round % N);
            memset(hits, 0, sizeof hits);
            pool_run(p, count_slice, hits, n);
            for (size_t i = 0; i < N; i++)
                assert_int_equal(atomic_load(&hits[i]), i < n);
            if (round % 100 == 0)
                usleep(2000); /* let the workers fall asleep */
        }
        pool_close(p);
    }
    struct pool *p;
    assert_int_equal(pool_open(&p, 0, &e), HEARTH_EINVAL);
    assert_int_equal(pool_open_with(&p, &(struct pool_options){ .n_threads = 1, .power = 101 }, NULL), HEARTH_EINVAL);
}

/* Far more threads than CPUs, all on one CPU: every order of events comes up. */
static void crowded_pools_lose_nothing(void **state)
{
    enum { N = 40, ROUNDS = 1500 };
    static atomic_int hits[N];
    struct err e = { 0 };
    struct cpu_list all, one = { .n = 1 };
    struct pool *p;
    uint64_t seed = 5;
    cpu_list_now(&all);
    assert_true(all.n > 0);
    one.cpus[0] = all.cpus[0];
    for (size_t k = 0; k < 2; k++) {
        assert_ok(pool_open_with(&p, &(struct pool_options){ .n_threads = 8, .cpus = k ? &one : NULL, .pins = k == 1 }, &e), &e);
        for (int round = 0; round < ROUNDS; round++) {
            size_t n = test_random(&seed) % (N + 1);
            memset(hits, 0, sizeof hits);
            pool_run(p, count_slice, hits, n);
            for (size_t i = 0; i < N; i++)
                assert_int_equal(atomic_load(&hits[i]), i < n);
            if (test_random(&seed) % 64 == 0)
                usleep(300);
        }
        pool_close(p);
    }
}

struct relay {
    struct pool *pool;
    atomic_uint latches[4], n_left[4];
    size_t values[4][5]; /* plain memory: seen by those who waited */
    atomic_size_t n_wrong;
};

/* Slices 0..19: five for each latch, the last to end opens it. Behind them: readers. */
static void run_relay(void *arg, size_t i, size_t i_thread)
{
    struct relay *r = arg;
    size_t k = i % 4;
    (void)i_thread;
    if (i < 20) {
        r->values[k][i / 4] = i + 1;
        if (i % 7 == 0)
            usleep(200);
        if (atomic_fetch_sub(&r->n_left[k], 1) == 1)
            pool_latch_open(&r->latches[k]);
        return;
    }
    pool_latch_wait(r->pool, &r->latches[k]);
    for (size_t j = 0; j < 5; j++)
        if (r->values[k][j] != 4 * j + k + 1)
            atomic_fetch_add(&r->n_wrong, 1);
}

static void slices_wait_for_slices(void **state)
{
    struct err e = { 0 };
    for (size_t n_threads = 1; n_threads <= 6; n_threads++) {
        struct relay r = { 0 };
        assert_ok(pool_open(&r.pool, n_threads, &e), &e);
        for (int round = 0; round < 60; round++) {
            memset(r.values, 0, sizeof r.values);
            for (size_t k = 0; k < 4; k++) {
                atomic_store(&r.latches[k], 0);
                atomic_store(&r.n_left[k], 5);
            }
            pool_run(r.pool, run_relay, &r, 32);
        }
        assert_int_equal(atomic_load(&r.n_wrong), 0);
        pool_close(r.pool);
    }
}

static void pools_close_at_any_moment(void **state)
{
    static atomic_int hits[8];
    struct err e = { 0 };
    for (unsigned i = 0; i < 60; i++) {
        struct pool *p;
        assert_ok(pool_open(&p, 1 + i % 4, &e), &e);
        if (i % 3)
            pool_run(p, count_slice, hits, 8);
        if (i % 2)
            usleep(500); /* the workers sleep; otherwise they spin, or have not even begun */
        pool_close(p);
    }
    pool_close(NULL);
}

static void jobs_are_measured_when_asked(void **state)
{
    static atomic_int hits[64];
    struct err e = { 0 };
    struct pool *p;
    struct pool_times t = { 0 };
    assert_ok(pool_open(&p, 2, &e), &e);
    pool_run(p, count_slice, hits, 64);
    assert_int_equal(t.n_jobs, 0);
    pool_measure(p, &t);
    for (size_t i = 1; i <= 100; i++) {
        pool_run(p, count_slice, hits, 64);
        pool_run(p, count_slice, hits, 1); /* the caller's alone */
        assert_int_equal(t.n_jobs, i);
    }
    assert_true(t.busy_ns > 0 && t.busy_ns <= 2 * t.run_ns && t.wait_ns <= t.run_ns);
    pool_measure(p, NULL);
    pool_run(p, count_slice, hits, 64);
    assert_int_equal(t.n_jobs, 100);
    pool_close(p);
}

/* ---- CPUs ---- */

static void lists_of_cpus_are_read(void **state)
{
    static const char *const bad[] = { "", ",", "0,", "-1", "0-", "x", "0x1", "1-0", "0,0", "0-0,0", "0 1", "4294967296", "1024", "0;1", "99999999999999999999" };
    struct cpu_list all, l;
    struct err e = { 0 };
    char text[32];
    cpu_list_now(&all);
    assert_true(all.n > 0);
    assert_int_equal(all.n, cpu_count());
    snprintf(text, sizeof text, "%d-%d", all.cpus[0], all.cpus[0]);
    assert_ok(cpu_list_parse(&l, text, &e), &e);
    assert_true(l.n == 1 && l.cpus[0] == all.cpus[0]);
    if (all.n > 1) { /* in the order written */
        snprintf(text, sizeof text, "%d,%d", all.cpus[all.n - 1], all.cpus[0]);
        assert_ok(cpu_list_parse(&l, text, &e), &e);
        assert_true(l.n == 2 && l.cpus[0] == all.cpus[all.n - 1] && l.cpus[1] == all.cpus[0]);
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(cpu_list_parse(&l, bad[i], NULL), HEARTH_EINVAL);
    }
    for (size_t cpu = 0; cpu < LIMIT_CPUS; cpu++) { /* one that is not ours */
        bool is_mine = false;
        for (size_t i = 0; i < all.n; i++)
            is_mine |= all.cpus[i] == cpu;
        if (is_mine)
            continue;
        snprintf(text, sizeof text, "%zu", cpu);
        assert_int_equal(cpu_list_parse(&l, text, &e), HEARTH_EINVAL);
        assert_non_null(strstr(e.text, "not one that this process may use"));
        break;
    }
}

static void write_number(const char *folder, size_t cpu, const char *name, const char *text)
{
    char path[400];
    snprintf(path, sizeof path, "%s/cpu%zu", folder, cpu);
    mkdir(path, 0700);
    snprintf(path, sizeof path, "%s/cpu%zu/cpufreq", folder, cpu);
    mkdir(path, 0700);
    snprintf(path, sizeof path, "%s/cpu%zu/%s", folder, cpu, name);
    write_file(path, text, strlen(text));
}

/* A machine described by files: our CPUs alternate between the two numbers. */
static void fast_cpus_are_preferred(void **state)
{
    static const struct {
        const char *name, *even, *odd;
        bool odd_is_fast;
    } cases[] = {
        { "cpu_capacity", "1024\n", "1024\n", true }, { "cpu_capacity", "1024\n", "512\n", true }, { "cpu_capacity", "1024\n", "280\n", false },
        { "cpufreq/cpuinfo_max_freq", "5000000\n", "4700000\n", true }, { "cpufreq/cpuinfo_max_freq", "5000000\n", "3800000\n", false },
        { "nothing", "1\n", "2\n", true }, { "cpu_capacity", "1024\n", "", true },
    };
    struct cpu_list all, l;
    cpu_list_now(&all);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char folder[300], name[16];
        snprintf(name, sizeof name, "sys%zu", i);
        snprintf(folder, sizeof folder, "%s", scratch_path(name));
        mkdir(folder, 0700);
        for (size_t k = 0; k < all.n; k++)
            write_number(folder, all.cpus[k], cases[i].name, k % 2 ? cases[i].odd : cases[i].even);
        cpu_list_fast(&l, folder);
        assert_int_equal(l.n, cases[i].odd_is_fast ? all.n : (all.n + 1) / 2);
        for (size_t k = 0; k < l.n; k++)
            assert_int_equal(l.cpus[k], all.cpus[cases[i].odd_is_fast ? k : 2 * k]);
    }
    cpu_list_fast(&l, NULL); /* this machine: some at least */
    assert_true(l.n >= 1 && l.n <= all.n);
}

struct places {
    int cpu[8];
    atomic_size_t n_allowed[8];
    atomic_int n_seen;
};

/* Waits until all threads have taken a slice, so that each shows where it is. */
static void note_place(void *arg, size_t i, size_t i_thread)
{
    struct places *p = arg;
    struct cpu_list now;
    (void)i;
    cpu_list_now(&now);
    p->cpu[i_thread] = now.cpus[0];
    atomic_store(&p->n_allowed[i_thread], now.n);
    atomic_fetch_add(&p->n_seen, 1);
    while (atomic_load(&p->n_seen) < 4)
        usleep(100);
}

static void threads_stay_where_they_are_put(void **state)
{
    struct cpu_list all, back, two;
    struct err e = { 0 };
    struct pool *p;
    cpu_list_now(&all);
    two = (struct cpu_list){ .n = MIN(all.n, 2u), .cpus = { all.cpus[all.n - 1], all.cpus[0] } };
    for (int pins = 0; pins < 2; pins++) {
        struct places places = { 0 };
        assert_ok(pool_open_with(&p, &(struct pool_options){ .n_threads = 4, .cpus = &two, .pins = pins }, &e), &e);
        pool_run(p, note_place, &places, 4);
        for (size_t i = 0; i < 4; i++) {
            if (pins) {
                assert_int_equal(places.n_allowed[i], 1);
                assert_int_equal(places.cpu[i], two.cpus[i % two.n]);
            } else
                assert_int_equal(places.n_allowed[i], i ? two.n : all.n); /* thread 0 is ours, and free */
        }
        pool_close(p);
        cpu_list_now(&back);
        assert_int_equal(back.n, all.n);
        assert_memory_equal(back.cpus, all.cpus, all.n * sizeof all.cpus[0]);
    }
}

/* ---- load ---- */

static uint64_t process_cpu_ns(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return ((uint64_t)u.ru_utime.tv_sec + (uint64_t)u.ru_stime.tv_sec) * 1000000000u +
           ((uint64_t)u.ru_utime.tv_usec + (uint64_t)u.ru_stime.tv_usec) * 1000u;
}

static void idle_pools_use_no_cpu(void **state)
{
    static atomic_int hits[64];
    struct err e = { 0 };
    struct pool *p;
    assert_ok(pool_open(&p, 4, &e), &e);
    pool_run(p, count_slice, hits, 64);
    usleep(20000);
    uint64_t before = process_cpu_ns();
    usleep(200000);
    assert_true(process_cpu_ns() - before < 10000000); /* four spinning threads would have used up to 800 ms */
    pool_close(p);
}

/* A millisecond of work. */
static void burn(void *arg, size_t i, size_t i_thread)
{
    (void)arg, (void)i, (void)i_thread;
    for (uint64_t end = clock_thread_ns() + 1000000; clock_thread_ns() < end;)
        ;
}

/* Share of its time that each of two threads works over about half a second of jobs and of the caller's own work. */
static double share_at(unsigned power)
{
    struct err e = { 0 };
    struct pool *p;
    assert_ok(pool_open_with(&p, &(struct pool_options){ .n_threads = 2, .power = power }, &e), &e);
    uint64_t begin = clock_ns(), cpu = process_cpu_ns();
    while (clock_ns() - begin < 500000000) {
        pool_run(p, burn, NULL, 7);
        pool_run(p, burn, NULL, 1);
        pool_rest(p);
    }
    double share = (double)(process_cpu_ns() - cpu) / (double)(clock_ns() - begin) / 2;
    pool_close(p);
    return share;
}

static void power_limits_the_work(void **state)
{
    static const unsigned powers[] = { 10, 25, 50, 75 };
    for (size_t i = 0; i < ARRAY_LEN(powers); i++)
        assert_true(share_at(powers[i]) < powers[i] / 100.0 + 0.06);
}

struct cancelled {
    atomic_int cancel;
    atomic_int n_done;
};

static void burn_and_cancel(void *arg, size_t i, size_t i_thread)
{
    struct cancelled *c = arg;
    burn(NULL, i, i_thread);
    if (atomic_fetch_add(&c->n_done, 1) == 3)
        atomic_store(&c->cancel, 1);
}

/* 400 ms of work at one percent on two threads would take twenty seconds. */
static void nobody_rests_once_cancelled(void **state)
{
    struct cancelled c = { 0 };
    struct err e = { 0 };
    struct pool *p;
    assert_ok(pool_open_with(&p, &(struct pool_options){ .n_threads = 2, .power = 1 }, &e), &e);
    pool_heed(p, &c.cancel);
    uint64_t begin = clock_ns();
    pool_run(p, burn_and_cancel, &c, 400);
    assert_int_equal(atomic_load(&c.n_done), 400);
    assert_true(clock_ns() - begin < 10000000000u);
    pool_heed(p, NULL);
    pool_close(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_slice_runs_once),
        cmocka_unit_test(crowded_pools_lose_nothing),
        cmocka_unit_test(slices_wait_for_slices),
        cmocka_unit_test(pools_close_at_any_moment),
        cmocka_unit_test(jobs_are_measured_when_asked),
        cmocka_unit_test(lists_of_cpus_are_read),
        cmocka_unit_test(fast_cpus_are_preferred),
        cmocka_unit_test(threads_stay_where_they_are_put),
        cmocka_unit_test(idle_pools_use_no_cpu),
        cmocka_unit_test(power_limits_the_work),
        cmocka_unit_test(nobody_rests_once_cancelled),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* base.h: the machine and the small tools under everything; knows nothing of models.
 *
 * Errors (struct err), assertions that stay on (CHECK), memory with a lifetime (struct arena),
 * arithmetic that notices overflow, bytes in a fixed order, files, the clock, and the worker pool.
 *
 * Three kinds of failure are never mixed: the world failed (return enum hearth_status, one sentence
 * in struct err), we can carry on worse (log once), we have a bug (CHECK aborts).
 */
#ifndef HEARTH_BASE_H
#define HEARTH_BASE_H

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "hearth.h"
#include "limits.h"

#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))
#define MUST_CHECK __attribute__((warn_unused_result))
#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

/* ---- errors ---- */

/* One sentence about what went wrong, written by whoever saw it; callers pass it on unchanged. */
struct err {
    enum hearth_status status;
    char text[480];
};

/* Writes the sentence (printf style) and returns status, so that `return err_set(...)` reads well.
 * e may be NULL. The first writer wins until err_clear: an outer layer cannot hide the cause. Control characters and
 * bytes that are not UTF-8 become '?' (newline, tab: a space): the sentence may quote a hostile file. */
enum hearth_status err_set(struct err *e, enum hearth_status status, const char *fmt, ...) PRINTF_LIKE(3, 4);
void err_clear(struct err *e);

/* A bug, not bad input: prints file, line and condition, then aborts. Always on. */
#define CHECK(cond) ((cond) ? (void)0 : check_failed(#cond, __FILE__, __LINE__))
#ifdef NDEBUG
#define DCHECK(cond) ((void)sizeof(cond))
#else
#define DCHECK(cond) CHECK(cond)
#endif
_Noreturn void check_failed(const char *cond, const char *file, int line);

/* ---- log: levelled lines on stderr, never prompt text ---- */

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };
void log_level_set(enum log_level level); /* default LOG_WARN */
void log_line(enum log_level level, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* ---- arithmetic on numbers from outside ---- */

static inline bool size_mul(size_t *out, size_t a, size_t b) /* false on overflow */
{
    return !__builtin_mul_overflow(a, b, out);
}
static inline bool size_add(size_t *out, size_t a, size_t b) /* false on overflow */
{
    return !__builtin_add_overflow(a, b, out);
}
/* Rounds up to a power of two; false on overflow. */
static inline bool size_align(size_t *out, size_t a, size_t align)
{
    size_t t;
    if (!size_add(&t, a, align - 1))
        return false;
    *out = t & ~(align - 1);
    return true;
}

static inline uint16_t load_le16(const void *p)
{
    const uint8_t *b = p;
    return (uint16_t)(b[0] | (unsigned)b[1] << 8);
}
static inline uint32_t load_le32(const void *p)
{
    const uint8_t *b = p;
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}
static inline uint64_t load_le64(const void *p)
{
    return (uint64_t)load_le32(p) | (uint64_t)load_le32((const uint8_t *)p + 4) << 32;
}
static inline float load_f32(const void *p)
{
    union { uint32_t u; float f; } v = { load_le32(p) };
    return v.f;
}

/* ---- memory with a lifetime ---- */

/* Blocks that are freed together. Four lifetimes use it: model, scratch, request, test. Pointers stay
 * valid until reset/free. limit_bytes bounds the sum of all pushes (and is how tests make the Nth
 * allocation fail). Not thread-safe: one owner. */
struct arena {
    struct arena_block *blocks; /* newest first; NULL when nothing is held */
    size_t limit_bytes;         /* 0: no limit */
    size_t used_bytes;          /* pushed so far, with alignment */
    size_t held_bytes;          /* taken from the system */
};
void arena_init(struct arena *a, size_t limit_bytes);
void arena_free(struct arena *a);  /* all blocks; the arena may be used again */
void arena_reset(struct arena *a); /* keeps the newest block for reuse, frees the others */
/* count * size bytes, zeroed; NULL when the limit or the machine has no room, or on overflow. */
void *arena_push(struct arena *a, size_t count, size_t size, size_t align) MUST_CHECK;
#define ARENA_NEW(a, type, count) ((type *)arena_push((a), (count), sizeof(type), _Alignof(type)))
char *arena_strndup(struct arena *a, const char *s, size_t n) MUST_CHECK; /* adds a NUL */

/* A byte string that grows; for text on its way out. Bounded by max_bytes. */
struct buf {
    char *data; /* always NUL-terminated once anything was appended; NULL before */
    size_t len, cap, max_bytes; /* max_bytes 0: no limit */
    bool failed; /* an append did not fit or memory ran out; sticky, len stays valid */
};
void buf_init(struct buf *b, size_t max_bytes);
void buf_free(struct buf *b);
bool buf_append(struct buf *b, const void *data, size_t n);
bool buf_printf(struct buf *b, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* ---- the operating system (os_linux.c) ---- */

/* A file held open for reading. All reads are positional, so threads may share it. */
struct file {
    int fd;             /* -1: not open */
    uint64_t size_bytes; /* at open */
    char *path;         /* owned */
};
MUST_CHECK enum hearth_status file_open(struct file *f, const char *path, struct err *e);
void file_close(struct file *f); /* accepts a closed one */
/* Exactly n bytes at offset or an error that names the file (short read: HEARTH_EDAMAGED). */
MUST_CHECK enum hearth_status file_read(const struct file *f, void *out, size_t n, uint64_t offset, struct err *e);
/* About the page cache; hints, never errors. will_need: starts reading, returns before it is done. forget: drops what is clean
 * and not mapped. is_cached: whether the byte at offset can be had without the disk; false where the system cannot say. */
void file_will_need(const struct file *f, uint64_t offset, uint64_t n);
void file_forget(const struct file *f);
bool file_is_cached(const struct file *f, uint64_t offset);
/* The whole file into the arena, with a NUL behind it; refuses more than max_bytes. */
MUST_CHECK enum hearth_status file_read_all(char **out, size_t *n_out, const char *path, size_t max_bytes,
                                 struct arena *a, struct err *e);

/* A read-only mapping of a whole file. If the file shrinks while mapped, the SIGBUS handler puts a
 * zero page there and map_is_damaged turns true: the step that read it must fail, the process lives. */
struct map {
    const uint8_t *data; /* NULL: not mapped */
    size_t size_bytes;
    int slot; /* in the table the SIGBUS handler looks at */
};
MUST_CHECK enum hearth_status map_open(struct map *m, const struct file *f, struct err *e);
void map_close(struct map *m);
bool map_is_damaged(const struct map *m);
/* These bytes will not be read soon: this process need not hold their pages (the page cache may). */
void map_forget(const struct map *m, size_t offset, size_t n);

/* A file under construction: written beside its final name, renamed into place by commit, removed by
 * abandon. So a full disk or a signal never leaves half a file. */
struct outfile {
    FILE *stream; /* NULL: not open */
    char *path, *temp_path;
};
MUST_CHECK enum hearth_status outfile_open(struct outfile *o, const char *path, struct err *e);
MUST_CHECK enum hearth_status outfile_commit(struct outfile *o, struct err *e); /* flush, fsync, rename */
void outfile_abandon(struct outfile *o);                             /* accepts a closed one */

/* The path without links and dots, malloc'd; NULL when nothing is there. */
char *path_real(const char *path);
/* Bytes this user may still write where the file (there or not) lies; UINT64_MAX when nobody knows. */
uint64_t disk_free_bytes(const char *path);

uint64_t clock_ns(void);          /* monotonic */
uint64_t clock_thread_ns(void);   /* processor time of the calling thread */
size_t memory_peak_bytes(void);   /* this process: peak resident set */
size_t memory_now_bytes(void);    /* this process: resident set */
size_t memory_total_bytes(void);  /* of the machine or the cgroup, whichever is less */
int cpu_count(void);              /* CPUs this process may run on */
void sleep_ns(uint64_t ns);       /* or less, when a signal comes */
/* Sleeps while *word is value; may also return early. word_wake wakes all sleepers. Within one process. */
void word_wait(atomic_uint *word, unsigned value);
void word_wake(atomic_uint *word);
void random_bytes(void *out, size_t n);
/* Anonymous zeroed pages, NULL on failure; untouched pages cost nothing. Blocks of 2 MiB and more ask for huge pages. */
void *pages_alloc(size_t bytes);
/* Makes every page of a fresh block really there: no later write can find memory short. Much cheaper than touching them one
 * by one. false: there is no room; the block is still to be freed. */
bool pages_commit(void *p, size_t bytes);
void pages_free(void *p, size_t bytes);

/* ---- CPUs (os_cpus.c) ---- */

struct cpu_list {
    size_t n;
    uint16_t cpus[LIMIT_CPUS];
};
void cpu_list_now(struct cpu_list *l);  /* those the calling thread may run on */
bool cpu_list_bind(const struct cpu_list *l); /* from now on the calling thread runs on these only */
/* "0,2-5", in that order. EINVAL: malformed, a CPU twice, or one this process may not use. */
MUST_CHECK enum hearth_status cpu_list_parse(struct cpu_list *l, const char *text, struct err *e);
/* Of the calling thread's CPUs those that are fast, where the machine has slow ones too; else all. folder NULL: the
 * machine's own /sys/devices/system/cpu. */
void cpu_list_fast(struct cpu_list *l, const char *folder);

/* ---- worker pool ---- */

/* n_threads - 1 workers plus the caller. pool_run calls fn(arg, i_slice, i_thread) once for each
 * slice, slices taken dynamically from one counter, in ascending order, and returns when all are done. Workers spin
 * briefly between jobs, then sleep: an idle pool uses no CPU. One job at a time, from one thread. */
struct pool;
typedef void (*pool_fn)(void *arg, size_t i_slice, size_t i_thread);
struct pool_options {
    size_t n_threads;
    unsigned power;              /* 1..100: no thread uses more than this share of a CPU's time; 0: 100 */
    const struct cpu_list *cpus; /* NULL: wherever the system likes; copied */
    bool pins;                   /* thread i on the i-th of cpus alone, the one that opens the pool as thread 0 (until it
                                  * closes it); else the workers on any of them */
};
MUST_CHECK enum hearth_status pool_open_with(struct pool **out, const struct pool_options *o, struct err *e);
MUST_CHECK enum hearth_status pool_open(struct pool **out, size_t n_threads, struct err *e); /* nothing but threads */
void pool_close(struct pool *p);
void pool_run(struct pool *p, pool_fn fn, void *arg, size_t n_slices);
size_t pool_threads(const struct pool *p);
/* A word that turns from 0 to 1: a slice waits for what another slice of the same job makes, spinning, then asleep. The one
 * that opens must come before all that wait; then it has been taken by somebody who is at work on it, and the job cannot
 * stand still. Everything written before the opening is seen behind the wait. */
void pool_latch_open(atomic_uint *latch);
void pool_latch_wait(struct pool *p, atomic_uint *latch);
/* The caller has worked alone for a while: sleeps here if `power` wants it. For free at power 100. */
void pool_rest(struct pool *p);
/* While *cancel is not zero nobody rests. NULL (the default): nothing to look at. Between jobs only; cancel must stay until another call. */
void pool_heed(struct pool *p, const atomic_int *cancel);

/* What jobs cost, added up while attached; jobs that ran on the caller alone are not counted. Times in nanoseconds. */
struct pool_times {
    size_t n_jobs;
    uint64_t run_ns;               /* from publishing a job to its end */
    uint64_t wait_ns;              /* of these, the caller had no slice left and waited for the workers */
    atomic_uint_fast64_t busy_ns;  /* in slices, all threads together: at most n_threads * run_ns */
};
/* t NULL (the default): nothing is measured. Between jobs only; t must stay until another call. */
void pool_measure(struct pool *p, struct pool_times *t);

#endif

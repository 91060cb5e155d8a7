/* os_linux.c: files, mappings, clock, memory and CPUs of the real machine; the only place in base/ with
 * Linux extras.
 *
 * Mapped files and SIGBUS. A mapping whose file was cut short raises SIGBUS when the lost part is read.
 * The handler looks the address up in a fixed table of mappings, puts one anonymous zero page over it and
 * raises the mapping's flag; the reader goes on with zeros and its step fails afterwards with one clear
 * sentence (map_is_damaged). A SIGBUS anywhere else goes to the handler that was there before. The
 * handler touches only atomics and mmap(2).
 *
 * Output files are written beside their final name and renamed, so that no failure leaves half a file.
 */
#define _GNU_SOURCE
#include "base/base.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#ifdef MADV_POPULATE_WRITE
#define ADVISE_POPULATE_WRITE MADV_POPULATE_WRITE
#else
#define ADVISE_POPULATE_WRITE 23 /* headers older than the kernel */
#endif

/* ---- files ---- */

enum hearth_status file_open(struct file *f, const char *path, struct err *e)
{
    struct stat st;
    *f = (struct file){ .fd = -1 };
    f->fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (f->fd < 0)
        return err_set(e, errno == ENOENT ? HEARTH_ENOTFOUND : HEARTH_EIO, "%s: %s", path, strerror(errno));
    if (fstat(f->fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        file_close(f);
        return err_set(e, HEARTH_EIO, "%s: not a regular file", path);
    }
    f->size_bytes = (uint64_t)st.st_size;
    f->path = strdup(path);
    if (!f->path) {
        file_close(f);
        return err_set(e, HEARTH_ENOMEM, "%s: out of memory", path);
    }
    return HEARTH_OK;
}

void file_close(struct file *f)
{
    if (f->fd >= 0)
        close(f->fd);
    free(f->path);
    *f = (struct file){ .fd = -1 };
}

enum hearth_status file_read(const struct file *f, void *out, size_t n, uint64_t offset, struct err *e)
{
    size_t done = 0;
    while (done < n) {
        ssize_t got = pread(f->fd, (char *)out + done, n - done, (off_t)(offset + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return err_set(e, HEARTH_EIO, "%s: %s while reading at byte %llu", f->path, strerror(errno),
                           (unsigned long long)(offset + done));
        if (got == 0)
            return err_set(e, HEARTH_EDAMAGED, "%s: ends at byte %llu, %zu more were expected", f->path,
                           (unsigned long long)(offset + done), n - done);
        done += (size_t)got;
    }
    return HEARTH_OK;
}

/* The kernel cuts one wish off at the device's read-ahead or largest request, without saying so; 128 KiB is never more. */
void file_will_need(const struct file *f, uint64_t offset, uint64_t n)
{
    const uint64_t step = 128 * KIB;
    for (uint64_t at = 0; at < n; at += step)
        (void)posix_fadvise(f->fd, (off_t)(offset + at), (off_t)MIN(step, n - at), POSIX_FADV_WILLNEED);
}

void file_forget(const struct file *f)
{
    (void)fdatasync(f->fd); /* pages that are not written yet would stay */
    (void)posix_fadvise(f->fd, 0, 0, POSIX_FADV_DONTNEED);
}

bool file_is_cached(const struct file *f, uint64_t offset)
{
    char byte;
    struct iovec v = { &byte, 1 };
    return preadv2(f->fd, &v, 1, (off_t)offset, RWF_NOWAIT) == 1;
}

enum hearth_status file_read_all(char **out, size_t *n_out, const char *path, size_t max_bytes, struct arena *a,
                                 struct err *e)
{
    struct file f;
    enum hearth_status st = file_open(&f, path, e);
    *out = NULL;
    *n_out = 0;
    if (st != HEARTH_OK)
        return st;
    if (f.size_bytes > max_bytes) {
        st = err_set(e, HEARTH_ELIMIT, "%s: %llu bytes, the limit here is %zu", path,
                     (unsigned long long)f.size_bytes, max_bytes);
        goto done;
    }
    char *text = arena_push(a, (size_t)f.size_bytes + 1, 1, 1);
    if (!text) {
        st = err_set(e, HEARTH_ENOMEM, "%s: no memory for %llu bytes", path, (unsigned long long)f.size_bytes);
        goto done;
    }
    st = file_read(&f, text, (size_t)f.size_bytes, 0, e);
    if (st == HEARTH_OK) {
        *out = text;
        *n_out = (size_t)f.size_bytes;
    }
done:
    file_close(&f);
    return st;
}

/* ---- mappings and SIGBUS ---- */

enum { MAP_SLOTS = 256 };

/* Written under map_lock by open/close; read by the signal handler, which sees either a whole entry or an
 * empty one because `begin` is stored last and cleared first. */
static struct {
    atomic_uintptr_t begin, end;
    atomic_bool damaged;
} map_table[MAP_SLOTS];
static pthread_mutex_t map_lock = PTHREAD_MUTEX_INITIALIZER;
static struct sigaction previous_sigbus;
static uintptr_t page_bytes; /* set before the handler */

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
    uintptr_t at = (uintptr_t)info->si_addr;
    for (size_t i = 0; i < MAP_SLOTS; i++) {
        uintptr_t begin = atomic_load(&map_table[i].begin);
        if (!begin || at < begin || at >= atomic_load(&map_table[i].end))
            continue;
        if (mmap((void *)(at & ~(page_bytes - 1)), page_bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
            MAP_FAILED)
            break;
        atomic_store(&map_table[i].damaged, true);
        return;
    }
    if (previous_sigbus.sa_flags & SA_SIGINFO) {
        previous_sigbus.sa_sigaction(sig, info, context);
    } else if (previous_sigbus.sa_handler != SIG_DFL && previous_sigbus.sa_handler != SIG_IGN) {
        previous_sigbus.sa_handler(sig);
    } else {
        signal(sig, SIG_DFL); /* returning repeats the access, which now ends the process */
    }
}

/* Looked at for every mapping: another library, or a test frame, may have put its own handler over ours. */
static void install_handler_locked(void)
{
    struct sigaction act = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_NODEFER }, now;
    if (sigaction(SIGBUS, NULL, &now) == 0 && (now.sa_flags & SA_SIGINFO) && now.sa_sigaction == on_sigbus)
        return;
    page_bytes = (uintptr_t)sysconf(_SC_PAGESIZE);
    sigemptyset(&act.sa_mask);
    sigaction(SIGBUS, &act, &previous_sigbus);
}

enum hearth_status map_open(struct map *m, const struct file *f, struct err *e)
{
    int slot = -1;
    *m = (struct map){ .slot = -1 };
    if (f->size_bytes == 0 || f->size_bytes > SIZE_MAX)
        return err_set(e, HEARTH_EDAMAGED, "%s: cannot map %llu bytes", f->path, (unsigned long long)f->size_bytes);
    void *p = mmap(NULL, (size_t)f->size_bytes, PROT_READ, MAP_SHARED, f->fd, 0);
    if (p == MAP_FAILED)
        return err_set(e, HEARTH_ENOMEM, "%s: cannot map %llu bytes: %s", f->path, (unsigned long long)f->size_bytes,
                       strerror(errno));
    pthread_mutex_lock(&map_lock);
    install_handler_locked();
    for (int i = 0; i < MAP_SLOTS && slot < 0; i++)
        if (!atomic_load(&map_table[i].begin))
            slot = i;
    if (slot >= 0) {
        atomic_store(&map_table[slot].damaged, false);
        atomic_store(&map_table[slot].end, (uintptr_t)p + (size_t)f->size_bytes);
        atomic_store(&map_table[slot].begin, (uintptr_t)p);
    }
    pthread_mutex_unlock(&map_lock);
    if (slot < 0) {
        munmap(p, (size_t)f->size_bytes);
        return err_set(e, HEARTH_ELIMIT, "%s: %d files are mapped already", f->path, MAP_SLOTS);
    }
    *m = (struct map){ .data = p, .size_bytes = (size_t)f->size_bytes, .slot = slot };
    return HEARTH_OK;
}

void map_close(struct map *m)
{
    if (m->data) {
        munmap((void *)(uintptr_t)m->data, m->size_bytes);
        pthread_mutex_lock(&map_lock);
        atomic_store(&map_table[m->slot].begin, 0);
        pthread_mutex_unlock(&map_lock);
    }
    *m = (struct map){ .slot = -1 };
}

bool map_is_damaged(const struct map *m)
{
    return m->data && atomic_load(&map_table[m->slot].damaged);
}

void map_forget(const struct map *m, size_t offset, size_t n)
{
    size_t begin = (offset + page_bytes - 1) & ~(size_t)(page_bytes - 1), end = (offset + n) & ~(size_t)(page_bytes - 1);
    if (m->data && begin < end && end <= m->size_bytes)
        madvise((void *)(uintptr_t)(m->data + begin), end - begin, MADV_DONTNEED);
}

/* ---- output files ---- */

enum hearth_status outfile_open(struct outfile *o, const char *path, struct err *e)
{
    size_t n = strlen(path) + 32;
    int fd;
    *o = (struct outfile){ .path = strdup(path), .temp_path = malloc(n) };
    if (!o->path || !o->temp_path) {
        outfile_abandon(o);
        return err_set(e, HEARTH_ENOMEM, "%s: out of memory", path);
    }
    snprintf(o->temp_path, n, "%s.part-%ld", path, (long)getpid());
    fd = open(o->temp_path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (fd < 0 || !(o->stream = fdopen(fd, "w+b"))) {
        enum hearth_status st = err_set(e, HEARTH_EIO, "%s: cannot write: %s", path, strerror(errno));
        if (fd >= 0) {
            close(fd);
            unlink(o->temp_path);
        }
        outfile_abandon(o);
        return st;
    }
    return HEARTH_OK;
}

enum hearth_status outfile_commit(struct outfile *o, struct err *e)
{
    enum hearth_status st = HEARTH_OK;
    bool failed = ferror(o->stream) || fflush(o->stream) != 0 || fsync(fileno(o->stream)) != 0;
    int cause = errno;
    if (fclose(o->stream) != 0 && !failed) {
        failed = true;
        cause = errno;
    }
    o->stream = NULL;
    if (!failed && rename(o->temp_path, o->path) != 0) {
        failed = true;
        cause = errno;
    }
    if (failed) {
        st = err_set(e, HEARTH_EIO, "%s: cannot write: %s", o->path, strerror(cause));
        unlink(o->temp_path);
    }
    outfile_abandon(o);
    return st;
}

void outfile_abandon(struct outfile *o)
{
    if (o->stream) {
        fclose(o->stream);
        unlink(o->temp_path);
    }
    free(o->path);
    free(o->temp_path);
    *o = (struct outfile){ .stream = NULL };
}

char *path_real(const char *path)
{
    return realpath(path, NULL);
}

uint64_t disk_free_bytes(const char *path)
{
    struct statvfs fs;
    char *folder = strdup(path), *slash = folder ? strrchr(folder, '/') : NULL;
    if (slash)
        slash[slash == folder] = 0;
    bool known = folder && statvfs(slash ? folder : ".", &fs) == 0;
    free(folder);
    return known ? (uint64_t)fs.f_bavail * fs.f_frsize : UINT64_MAX;
}

/* ---- the machine ---- */

static uint64_t read_clock(clockid_t id)
{
    struct timespec t;
    CHECK(clock_gettime(id, &t) == 0);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t clock_ns(void)
{
    return read_clock(CLOCK_MONOTONIC);
}

uint64_t clock_thread_ns(void)
{
    return read_clock(CLOCK_THREAD_CPUTIME_ID);
}

void sleep_ns(uint64_t ns)
{
    const struct timespec t = { .tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u) };
    nanosleep(&t, NULL);
}

/* ---- waiting for a word to change ---- */

_Static_assert(sizeof(atomic_uint) == 4, "the kernel waits on words of 32 bits");

void word_wait(atomic_uint *word, unsigned value)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

void word_wake(atomic_uint *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

/* ---- memory ---- */

/* Reads "KEY:  123 kB" from a /proc file; 0 when it is not there. */
static size_t proc_kib(const char *path, const char *key)
{
    char line[256];
    size_t kib = 0;
    FILE *f = fopen(path, "re");
    if (!f)
        return 0;
    while (fgets(line, sizeof line, f))
        if (strncmp(line, key, strlen(key)) == 0) {
            kib = (size_t)strtoull(line + strlen(key), NULL, 10);
            break;
        }
    fclose(f);
    return kib;
}

size_t memory_peak_bytes(void)
{
    size_t kib = proc_kib("/proc/self/status", "VmHWM:");
    struct rusage u;
    if (!kib && getrusage(RUSAGE_SELF, &u) == 0)
        kib = (size_t)u.ru_maxrss;
    return kib * KIB;
}

size_t memory_now_bytes(void)
{
    return proc_kib("/proc/self/status", "VmRSS:") * KIB;
}

static size_t cgroup_limit(const char *path)
{
    char line[64];
    size_t limit = SIZE_MAX;
    FILE *f = fopen(path, "re");
    if (!f)
        return SIZE_MAX;
    if (fgets(line, sizeof line, f) && line[0] >= '0' && line[0] <= '9')
        limit = (size_t)strtoull(line, NULL, 10);
    fclose(f);
    return limit;
}

size_t memory_total_bytes(void)
{
    size_t total = proc_kib("/proc/meminfo", "MemTotal:") * KIB;
    total = MIN(total, cgroup_limit("/sys/fs/cgroup/memory.max"));
    return MIN(total, cgroup_limit("/sys/fs/cgroup/memory/memory.limit_in_bytes"));
}

int cpu_count(void)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        return MAX(1, CPU_COUNT(&set));
    return 1;
}

void random_bytes(void *out, size_t n)
{
    size_t done = 0;
    while (done < n) {
        ssize_t got = getrandom((char *)out + done, n - done, 0);
        CHECK(got > 0 || errno == EINTR);
        if (got > 0)
            done += (size_t)got;
    }
}

enum { HUGE_PAGE = 2 << 20 };

/* A large block begins on a huge page's boundary, else its first and last megabytes would be small pages. What was
 * mapped too much for that is given back at once. */
void *pages_alloc(size_t bytes)
{
    size_t whole, page = (size_t)sysconf(_SC_PAGESIZE), slack = bytes >= HUGE_PAGE ? HUGE_PAGE : 0;
    if (!bytes || !size_align(&whole, bytes, page) || !size_add(&whole, whole, slack))
        return NULL;
    uint8_t *p = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    if (slack) {
        size_t before = (HUGE_PAGE - (uintptr_t)p % HUGE_PAGE) % HUGE_PAGE;
        if (before)
            munmap(p, before);
        if (slack > before)
            munmap(p + whole - (slack - before), slack - before);
        p += before;
        (void)madvise(p, whole - slack, MADV_HUGEPAGE); /* a wish: small pages do as well */
    }
    return p;
}

/* Where the kernel can (5.14), it fills the pages in one go; the loop then only looks. */
bool pages_commit(void *p, size_t bytes)
{
    volatile uint8_t *at = p;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (madvise(p, bytes, ADVISE_POPULATE_WRITE) != 0 && errno != EINVAL && errno != EAGAIN)
        return false;
    for (size_t i = 0; i < bytes; i += page)
        at[i] = 0;
    return true;
}

void pages_free(void *p, size_t bytes)
{
    if (p)
        munmap(p, bytes);
}

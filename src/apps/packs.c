/* packs.c: packs made on the side, in a cache folder, so that a plain GGUF starts at once from its second run on.
 *
 *   FILE.gguf, large --> packs/NAME-HASH.gguf there, and made from this very file?  --yes--> open the pack
 *                            |no: room on the disk? one process at a time: make it --done--> open the pack
 *                            +--no room, or anything else wrong------------------------> open FILE.gguf, pack in memory
 *
 * The folder is $HEARTH_HOME/packs, else $XDG_CACHE_HOME/hearth/packs, else ~/.cache/hearth/packs; it may vanish at any
 * time. HASH stands for the source's full path. A pack says what it was made from (weights.h, pack_source); a source
 * that changed gets a new pack in place of the old one. Packs whose source is gone are removed when a new one is made.
 *
 * Several processes: who makes a pack holds a lock on packs/lock; the others wait, then find it done. A pack appears whole or
 * not at all (base.h, outfile), so nobody reads half of one; who has an old one mapped keeps it. What a killed process left
 * is removed by the next one that holds the lock.
 *
 * The cache is a convenience: no failure here is one of the verb, except Ctrl-C.
 */
#include "apps/apps.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { PATH_BYTES = 4096, KEEP_FREE_MIB = 1024, WAIT_NS = 100 * 1000 * 1000 };

/* Matrices of fewer bytes are packed in memory in no time. */
static uint64_t pack_above(void)
{
    const char *text = getenv("HEARTH_PACK_ABOVE");
    return text && *text >= '0' && *text <= '9' ? strtoull(text, NULL, 10) : 64 * MIB;
}

struct cache {
    char folder[PATH_BYTES], pack[PATH_BYTES]; /* of the model in question */
};

static bool join(char *out, const char *fmt, const char *a, const char *b)
{
    int n = snprintf(out, PATH_BYTES, fmt, a, b);
    return n > 0 && n < PATH_BYTES;
}

static bool find_folder(struct cache *c)
{
    const char *home = getenv("HEARTH_HOME"), *cache = getenv("XDG_CACHE_HOME"), *user = getenv("HOME");
    if (home && *home)
        return join(c->folder, "%s/%s", home, "packs") && c->folder[0] == '/';
    if (cache && *cache == '/')
        return join(c->folder, "%s/%s", cache, "hearth/packs");
    return user && *user == '/' && join(c->folder, "%s/%s", user, ".cache/hearth/packs");
}

/* The pack's name: the source's, so that people know it, and its whole path's hash, so that two do not meet. */
static bool find_pack(struct cache *c, const char *path)
{
    char *real = path_real(path), name[256];
    uint64_t h = 0xcbf29ce484222325u;
    if (!real || !find_folder(c)) {
        free(real);
        return false;
    }
    for (const char *p = real; *p; p++)
        h = (h ^ (uint8_t)*p) * 0x100000001b3u;
    const char *base = strrchr(real, '/') + 1;
    size_t n = strlen(base);
    if (n > 5 && strcmp(base + n - 5, ".gguf") == 0)
        n -= 5;
    snprintf(name, sizeof name, "%.*s-%016" PRIx64 ".gguf", (int)MIN(n, 200u), base, h);
    free(real);
    return join(c->pack, "%s/%s", c->folder, name);
}

static void make_folder(const char *path)
{
    char copy[PATH_BYTES + 1];
    snprintf(copy, sizeof copy, "%s/", path);
    for (char *p = copy + 1; *p; p++)
        if (*p == '/') {
            *p = 0;
            mkdir(copy, 0700); /* what fails here shows when the pack is written */
            *p = '/';
        }
}

/* Opens the pack when it was made from this source: the file at path, or, of a split model, all parts of `plain` (which
 * may not be open yet: NULL). */
static bool open_pack(struct gguf *g, const struct cache *c, const char *path, const struct gguf *plain, struct arena *a)
{
    struct pack_source made_from, is = { 0 };
    struct file f = { .fd = -1 };
    if (access(c->pack, R_OK) != 0 || gguf_open(g, c->pack, a, NULL) != HEARTH_OK)
        return false;
    bool fits = pack_source_read(&made_from, NULL, g);
    if (fits && plain)
        fits = pack_source_of(&is, plain->files, plain->n_files, NULL) == HEARTH_OK;
    else if (fits)
        fits = made_from.n_files == 1 && file_open(&f, path, NULL) == HEARTH_OK && pack_source_of(&is, &f, 1, NULL) == HEARTH_OK;
    file_close(&f);
    if (fits && memcmp(&is, &made_from, sizeof is) == 0)
        return true;
    gguf_close(g);
    return false;
}

/* ---- making one ---- */

/* The name ends in ".part-PID" and that process is gone. */
static bool is_abandoned(const char *name)
{
    const char *part = strstr(name, ".gguf.part-");
    long pid = part ? strtol(part + 11, NULL, 10) : 0;
    return pid > 0 && kill((pid_t)pid, 0) != 0 && errno == ESRCH;
}

static bool is_orphan(const char *path)
{
    struct pack_source s;
    struct arena a;
    struct gguf g;
    struct str source;
    struct stat st;
    char text[PATH_BYTES] = "";
    arena_init(&a, 0);
    if (gguf_open(&g, path, &a, NULL) == HEARTH_OK) {
        if (pack_source_read(&s, &source, &g) && source.n < sizeof text)
            memcpy(text, source.p, source.n);
        gguf_close(&g);
    }
    arena_free(&a);
    return text[0] == '/' && stat(text, &st) != 0 && errno == ENOENT;
}

static void clean(const struct cache *c)
{
    DIR *d = opendir(c->folder);
    for (struct dirent *entry; d && (entry = readdir(d));) {
        char path[PATH_BYTES];
        size_t n = strlen(entry->d_name);
        bool is_pack = n > 5 && strcmp(entry->d_name + n - 5, ".gguf") == 0;
        if (join(path, "%s/%s", c->folder, entry->d_name) && (is_abandoned(entry->d_name) || (is_pack && is_orphan(path))))
            unlink(path);
    }
    if (d)
        closedir(d);
}

/* -1: no lock to be had. ECANCELLED by Ctrl-C. */
static enum hearth_status take_lock(int *fd, const struct cache *c, struct err *e)
{
    char path[PATH_BYTES];
    bool said = false;
    *fd = join(path, "%s/%s", c->folder, "lock") ? open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600) : -1;
    while (*fd >= 0 && flock(*fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK && errno != EINTR) {
            close(*fd);
            *fd = -1;
        } else if (atomic_load(interrupts_catch())) {
            close(*fd);
            return err_set(e, HEARTH_ECANCELLED, "stopped while another process packs a model");
        } else {
            if (!said && !common.quiet)
                fprintf(stderr, "hearth: another process is packing a model, waiting for it\n");
            said = true;
            nanosleep(&(struct timespec){ .tv_nsec = WAIT_NS }, NULL);
        }
    }
    return HEARTH_OK;
}

static void on_progress(size_t n_done, size_t n_total, void *arg)
{
    bar_update(arg, NULL, n_done, n_total);
}

static enum hearth_status write_pack(const struct gguf *g, const char *path, const struct cache *c, size_t n_threads, struct err *e)
{
    struct pool *pool;
    struct bar bar;
    enum hearth_status st = pool_open(&pool, n_threads ? n_threads : (size_t)cpu_count(), e);
    if (st != HEARTH_OK)
        return st;
    bar_open(&bar, "packing, once", "B");
    st = pack_write(g, path, c->pack, pool, on_progress, &bar, interrupts_catch(), e);
    bar_close(&bar);
    pool_close(pool);
    return st;
}

static bool has_room(const struct gguf *g, const struct cache *c)
{
    uint64_t need = pack_file_bytes(g), room = disk_free_bytes(c->pack);
    if (room >= need && room - need >= KEEP_FREE_MIB * (uint64_t)MIB)
        return true;
    if (!common.quiet)
        fprintf(stderr, "hearth: no room for a pack of %s in %s (%s free): packing in memory at each start\n", human_bytes(need),
                c->folder, human_bytes(room));
    return false;
}

/* From plain to its pack, if that can be: then *g is the pack's. */
static enum hearth_status make_pack(struct gguf *g, const char *path, const struct cache *c, size_t n_threads, struct arena *a,
                                    struct err *e)
{
    struct gguf plain = *g, pack;
    struct err why = { 0 };
    int lock;
    make_folder(c->folder);
    enum hearth_status st = take_lock(&lock, c, e);
    if (st != HEARTH_OK || lock < 0)
        return st;
    bool is_there = open_pack(&pack, c, path, &plain, a);
    if (!is_there) {
        clean(c);
        if (has_room(&plain, c)) {
            st = write_pack(&plain, path, c, n_threads, &why);
            is_there = st == HEARTH_OK && open_pack(&pack, c, path, &plain, a);
        }
    }
    close(lock);
    if (st == HEARTH_ECANCELLED)
        return err_set(e, st, "%s", why.text);
    if (st != HEARTH_OK && !common.quiet)
        fprintf(stderr, "hearth: %s: packing in memory\n", why.text);
    if (is_there) {
        gguf_close(&plain);
        *g = pack;
    }
    return HEARTH_OK;
}

enum hearth_status packs_open(struct gguf *g, const char *path, bool no_pack, size_t n_threads, struct arena *a, struct err *e)
{
    struct cache *c = no_pack ? NULL : ARENA_NEW(a, struct cache, 1);
    struct memory_plan p;
    struct stat source;
    bool may = c && stat(path, &source) == 0 && find_pack(c, path);
    if (may && (uint64_t)source.st_size > pack_above() && open_pack(g, c, path, NULL, a))
        return HEARTH_OK;
    enum hearth_status st = gguf_open(g, path, a, e);
    if (st != HEARTH_OK || !may || g->is_pack || pack_matrix_bytes(g) <= pack_above())
        return st;
    if (g->n_files > 1) {
        struct gguf pack;
        if (open_pack(&pack, c, path, g, a)) {
            gguf_close(g);
            *g = pack;
            return HEARTH_OK;
        }
    }
    if (engine_plan(&p, g, NULL, CHUNK_TOKENS, NULL) != HEARTH_OK)
        return HEARTH_OK; /* it will not run; whoever opened it says why */
    st = make_pack(g, path, c, n_threads, a, e);
    if (st != HEARTH_OK)
        gguf_close(g);
    return st;
}

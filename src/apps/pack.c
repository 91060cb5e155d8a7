/* pack.c: hearth pack MODEL.gguf: the same model as strips of eight rows, to be mapped and multiplied as it stands; with
 * --undo the way back.
 *
 * A pack opens at once and shares its memory between processes; a plain file is packed anew at each start, or once on the
 * side (packs.c). Room on the disk is looked for first, so that a full one is said before an hour of work, not after.
 */
#include "apps/apps.h"

#include <string.h>

struct pack_cli {
    const char *out;
    size_t n_threads;
    bool undo;
};
static const struct option options[] = {
    { "output", 'o', OPT_STR, offsetof(struct pack_cli, out), "FILE", "the file to write (MODEL.pack.gguf; with --undo: needed)" },
    { "undo", 0, OPT_FLAG, offsetof(struct pack_cli, undo), NULL, "make the plain file from a pack" },
    { "threads", 0, OPT_SIZE, offsetof(struct pack_cli, n_threads), "N", "threads (one per CPU, or HEARTH_THREADS)", 1, LIMIT_THREADS },
};

static void on_progress(size_t n_done, size_t n_total, void *arg)
{
    bar_update(arg, NULL, n_done, n_total);
}

/* MODEL.gguf -> MODEL.pack.gguf; split files lose their part number. */
static const char *default_out(const char *path, struct arena *a)
{
    size_t n = strlen(path);
    if (n > 5 && strcmp(path + n - 5, ".gguf") == 0)
        n -= 5;
    if (n > 15 && memcmp(path + n - 15, "-00001-of-", 10) == 0)
        n -= 15;
    char *out = arena_push(a, n + 16, 1, 1);
    if (out)
        snprintf(out, n + 16, "%.*s.pack.gguf", (int)n, path);
    return out;
}

static enum hearth_status turn(const struct pack_cli *o, const struct gguf *g, const char *path, struct err *e)
{
    struct pool *pool;
    struct bar bar;
    uint64_t need = pack_file_bytes(g), room = disk_free_bytes(o->out);
    if (need > room)
        return err_set(e, HEARTH_ELIMIT, "%s: about %s are needed, the disk has %s", o->out, human_bytes(need), human_bytes(room));
    enum hearth_status st = pool_open(&pool, o->n_threads ? o->n_threads : (size_t)cpu_count(), e);
    if (st != HEARTH_OK)
        return st;
    interrupts_remove_unfinished(o->out);
    bar_open(&bar, o->undo ? "unpack" : "pack", "B");
    if (o->undo)
        st = pack_undo(g, o->out, pool, on_progress, &bar, NULL, e);
    else
        st = pack_write(g, path, o->out, pool, on_progress, &bar, NULL, e);
    bar_close(&bar);
    pool_close(pool);
    return st;
}

int verb_pack(int argc, char **argv)
{
    struct pack_cli o = { 0 };
    const struct command c = {
        "pack", "MODEL.gguf", "Writes a model as it is multiplied, so that it starts at once.",
        "A pack holds what its source holds, in another order; --undo makes the source again.\n"
        "run, chat and bench make packs of large models by themselves, in the cache folder.",
        { { "Options", options, ARRAY_LEN(options), &o } }, 1, 1,
    };
    struct arena a;
    struct gguf g = { 0 };
    struct err e = { 0 };
    size_t n_args;
    int code = options_parse(&c, argc, argv, &n_args);
    if (code >= 0)
        return code;
    if (o.undo && !o.out)
        return usage_error("pack", "--undo needs a name for the plain file: -o FILE");
    arena_init(&a, 0);
    enum hearth_status st = gguf_open(&g, argv[0], &a, &e);
    if (st == HEARTH_OK && !o.out && !(o.out = default_out(argv[0], &a)))
        st = err_set(&e, HEARTH_ENOMEM, "no memory");
    if (st == HEARTH_OK)
        st = turn(&o, &g, argv[0], &e);
    gguf_close(&g);
    if (st == HEARTH_OK && !common.quiet)
        printf("%s\n", o.out);
    arena_free(&a);
    return st == HEARTH_OK ? finish_output("pack", EXIT_DONE) : fail("pack", st, &e);
}

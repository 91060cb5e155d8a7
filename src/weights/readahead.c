/* readahead.c: the weights of a cold file, asked for ahead of the step that reads them.
 *
 * A mapped file that is not in the page cache is read fault by fault, as far ahead as the device's setting says: often
 * 128 KiB, which gets a fifth of what the disk can give. Here a thread walks the tensors in the order in which they will be used
 * and asks for large pieces, a few ahead of the one that has arrived:
 *
 *   pieces    [arrived] [arrived] [under way] [under way] [under way] [under way] [  not yet  ] ...
 *                            compute ^                    wait for this one, then ask for the next
 *
 * So the disk always has large requests, computing goes on with what has arrived (layer i while layer i + 1 is read), and at most
 * PIECE_BYTES * LEAD are read for nothing when the program ends. Waiting is a read of one byte, which returns when its page is
 * there. Nothing is read twice: asking for what the cache holds, or what a fault has asked for, does nothing.
 *
 * The thread is started only when places looked at in the file are not in the cache, ends at the end of its list or
 * when it is closed, and touches no memory of the model. That it cannot be started is no error.
 */
#include "readahead.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { PIECE_BYTES = 4 << 20, LEAD = 8, PROBES = 64 };

struct readahead {
    const struct file *files;
    const struct file_range *ranges;
    size_t n_ranges;
    pthread_t thread;
    atomic_bool stop;
};

/* A place in the list of ranges. */
struct place {
    size_t i_range;
    uint64_t at;
};

/* The piece at the place, which moves on; false behind the last one. */
static bool next_piece(const struct readahead *r, struct place *p, struct file_range *piece)
{
    while (p->i_range < r->n_ranges && p->at >= r->ranges[p->i_range].n_bytes)
        *p = (struct place){ p->i_range + 1, 0 };
    if (p->i_range == r->n_ranges)
        return false;
    const struct file_range *range = &r->ranges[p->i_range];
    *piece = (struct file_range){ range->i_file, range->offset + p->at, MIN(range->n_bytes - p->at, (uint64_t)PIECE_BYTES) };
    p->at += piece->n_bytes;
    return true;
}

static void *walk(void *arg)
{
    struct readahead *r = arg;
    struct place asked = { 0 }, arrived = { 0 };
    struct file_range piece;
    char byte;
    for (size_t n_ahead = 0; !atomic_load(&r->stop);) {
        while (n_ahead < LEAD && next_piece(r, &asked, &piece)) {
            file_will_need(&r->files[piece.i_file], piece.offset, piece.n_bytes);
            n_ahead++;
        }
        if (!next_piece(r, &arrived, &piece) ||
            file_read(&r->files[piece.i_file], &byte, 1, piece.offset + piece.n_bytes - 1, NULL) != HEARTH_OK)
            break; /* the end, or a file that who computes will complain about */
        n_ahead--;
    }
    return NULL;
}

/* More than a few of the places looked at, evenly over all ranges, are not in the cache. */
static bool is_cold(const struct file *files, const struct file_range *ranges, size_t n)
{
    uint64_t total = 0, at = 0;
    size_t n_missing = 0, i_probe = 0;
    for (size_t i = 0; i < n; i++)
        total += ranges[i].n_bytes;
    for (size_t i = 0; i < n; at += ranges[i++].n_bytes)
        for (; i_probe < PROBES && total / PROBES * i_probe < at + ranges[i].n_bytes; i_probe++)
            n_missing += !file_is_cached(&files[ranges[i].i_file], ranges[i].offset + (total / PROBES * i_probe - at));
    return n_missing > PROBES / 32;
}

struct readahead *readahead_open(const struct file *files, const struct file_range *ranges, size_t n)
{
    struct readahead *r = n && is_cold(files, ranges, n) ? malloc(sizeof *r) : NULL;
    if (!r)
        return NULL;
    *r = (struct readahead){ .files = files, .ranges = ranges, .n_ranges = n };
    if (pthread_create(&r->thread, NULL, walk, r) == 0)
        return r;
    free(r);
    return NULL;
}

void readahead_close(struct readahead *r)
{
    if (!r)
        return;
    atomic_store(&r->stop, true);
    pthread_join(r->thread, NULL);
    free(r);
}

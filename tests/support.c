/* support.c: see support.h. */
#define _GNU_SOURCE
#include "support.h"

#include <ftw.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PATH_BYTES = 1024 };

static char scratch_dir[64];

static char *slot(void)
{
    static char paths[32][PATH_BYTES];
    static unsigned i;
    return paths[i++ % 32];
}

static const char *join(const char *dir, const char *name)
{
    char *p = slot();
    snprintf(p, PATH_BYTES, "%s/%s", dir, name);
    return p;
}

static const char *source_root(void)
{
    const char *root = getenv("HEARTH_SOURCE");
    return root ? root : ".";
}

const char *data_path(const char *name)
{
    const char *dir = getenv("HEARTH_DATA"), *root = source_root();
    char *path = slot(), *bundled = slot();
    snprintf(path, PATH_BYTES, dir ? "%s/%s" : "%s/../shared/data/%s", dir ? dir : root, name);
    snprintf(bundled, PATH_BYTES, "%s/tests/data/%s", root, name);
    return access(path, R_OK) != 0 && access(bundled, R_OK) == 0 ? bundled : path;
}

const char *source_path(const char *name)
{
    return join(source_root(), name);
}

void need_data(const char *name)
{
    if (access(data_path(name), R_OK) != 0) {
        printf("SKIP: no %s\n", data_path(name));
        skip();
    }
}

static int remove_entry(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st, (void)flag, (void)ftw;
    return remove(path);
}

static void remove_scratch(void)
{
    nftw(scratch_dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

const char *scratch_path(const char *name)
{
    if (!scratch_dir[0]) {
        strcpy(scratch_dir, "/tmp/hearth-test-XXXXXX");
        CHECK(mkdtemp(scratch_dir));
        atexit(remove_scratch);
    }
    return join(scratch_dir, name);
}

void write_file(const char *path, const void *data, size_t n)
{
    FILE *f = fopen(path, "wb");
    CHECK(f && fwrite(data, 1, n, f) == n);
    CHECK(fclose(f) == 0);
}

uint64_t test_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 2685821657736338717u;
}

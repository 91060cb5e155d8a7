/* fuzz.c: see fuzz.h. */
#define _GNU_SOURCE
#include "fuzz.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char folder[64];

static void remove_folder(void)
{
    DIR *dir = opendir(folder);
    struct dirent *d;
    while (dir && (d = readdir(dir)) != NULL)
        if (d->d_name[0] != '.')
            unlink(fuzz_path(d->d_name));
    if (dir)
        closedir(dir);
    rmdir(folder);
}

const char *fuzz_path(const char *name)
{
    static char paths[8][320];
    static unsigned i;
    char *p = paths[i++ % 8];
    if (!folder[0]) {
        strcpy(folder, "/dev/shm/hearth-fuzz-XXXXXX");
        if (!mkdtemp(folder)) {
            strcpy(folder, "/tmp/hearth-fuzz-XXXXXX");
            CHECK(mkdtemp(folder));
        }
        atexit(remove_folder);
    }
    snprintf(p, sizeof paths[0], "%s%s%s", folder, name[0] ? "/" : "", name);
    return p;
}

const char *fuzz_file(const char *name, const void *data, size_t n)
{
    const char *path = fuzz_path(name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    CHECK(fd >= 0 && write(fd, data, n) == (ssize_t)n);
    close(fd);
    return path;
}

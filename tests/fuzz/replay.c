/* replay.c: runs a fuzz target over files, without libFuzzer, so that every build and compiler does.
 *
 *   replay_NAME N_MUTATIONS PATH...      a path is a file or a folder of files
 *
 * Each file is given to the target as it is and N_MUTATIONS times changed: bytes flipped, set to extreme
 * values, removed, doubled, the end cut. The changes come from a fixed seed and the file's number in sorted
 * order, so a failure repeats. When the target dies, the last line on stderr names file and mutation.
 */
#define _GNU_SOURCE
#include "fuzz.h"

#include <dirent.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_INPUT_BYTES = 1 << 20 };

static char current[600];

static void on_death(int sig)
{
    size_t n = strlen(current);
    if (write(STDERR_FILENO, current, n) != (ssize_t)n)
        _exit(99);
    signal(sig, SIG_DFL);
    raise(sig);
}

static uint64_t next(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 2685821657736338717u;
}

/* Changes p[0..n), which has room for MAX_INPUT_BYTES; returns the new length. */
static size_t mutate(uint8_t *p, size_t n, uint64_t *seed)
{
    static const uint8_t extreme[] = { 0, 1, 0x7f, 0x80, 0xff, '"', '{', '[', '<', '%' };
    for (uint64_t k = 1 + next(seed) % 4; k > 0 && n > 0; k--) {
        size_t at = (size_t)(next(seed) % n), run = (size_t)(1 + next(seed) % 9);
        run = MIN(run, n - at);
        switch (next(seed) % 6) {
        case 0:
            p[at] ^= (uint8_t)(1 << next(seed) % 8);
            break;
        case 1:
            p[at] = extreme[next(seed) % sizeof extreme];
            break;
        case 2:
            memset(p + at, extreme[next(seed) % 5], run);
            break;
        case 3:
            memmove(p + at, p + at + run, n - at - run);
            n -= run;
            break;
        case 4:
            if (n + run <= MAX_INPUT_BYTES) {
                memmove(p + at + run, p + at, n - at);
                n += run;
            }
            break;
        default:
            n = at;
            break;
        }
    }
    return n;
}

static void run_one(const uint8_t *data, size_t n)
{
    uint8_t *copy = malloc(n ? n : 1); /* exact size, so that a sanitizer sees a read past the end */
    CHECK(copy);
    if (n)
        memcpy(copy, data, n);
    LLVMFuzzerTestOneInput(copy, n);
    free(copy);
}

static void run_file(const char *path, size_t i_file, unsigned n_mutations)
{
    static uint8_t original[MAX_INPUT_BYTES], changed[MAX_INPUT_BYTES];
    FILE *f = fopen(path, "rbe");
    size_t n;
    CHECK(f);
    n = fread(original, 1, sizeof original, f);
    fclose(f);
    for (unsigned k = 0; k <= n_mutations; k++) {
        uint64_t seed = 0x9e3779b97f4a7c15u * (i_file * 1000003u + k + 1);
        size_t n_changed = n;
        memcpy(changed, original, n);
        snprintf(current, sizeof current, "died in %.500s, mutation %u\n", path, k);
        if (k > 0)
            n_changed = mutate(changed, n, &seed);
        run_one(changed, n_changed);
    }
}

static size_t run_path(const char *path, size_t i_first, unsigned n_mutations)
{
    struct dirent **list;
    struct stat st;
    size_t n_run = 0;
    int n;
    if (stat(path, &st) == 0 && !S_ISDIR(st.st_mode)) {
        run_file(path, i_first, n_mutations);
        return 1;
    }
    n = scandir(path, &list, NULL, alphasort);
    if (n < 0)
        return 0;
    for (int i = 0; i < n; i++) {
        char full[1024];
        snprintf(full, sizeof full, "%s/%s", path, list[i]->d_name);
        if (list[i]->d_name[0] != '.')
            run_file(full, i_first + n_run++, n_mutations);
        free(list[i]);
    }
    free(list);
    return n_run;
}

int main(int argc, char **argv)
{
    static const int deaths[] = { SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGALRM };
    unsigned n_mutations = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 0;
    size_t n = 0;
    for (size_t i = 0; i < ARRAY_LEN(deaths); i++)
        signal(deaths[i], on_death);
    for (int i = 2; i < argc; i++)
        n += run_path(argv[i], n, n_mutations);
    printf("%zu files, each with %u mutations\n", n, n_mutations);
    if (n == 0)
        fprintf(stderr, "usage: %s N_MUTATIONS PATH...   (no files found)\n", argv[0]);
    return n == 0;
}

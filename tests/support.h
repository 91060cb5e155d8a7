/* support.h: what the C tests share: cmocka with its headers in the right order, where the data lies, and
 * scratch files that go away.
 */
#ifndef TEST_SUPPORT_H
#define TEST_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/base.h"

/* `name` under HEARTH_DATA, or ../shared/data beside the project, or else in tests/data, which holds the small
 * ones. Static storage, a few paths at a time. */
const char *data_path(const char *name);
/* A file under tests/ of the project. Same storage. */
const char *source_path(const char *name);
/* When data `name` is absent: prints "SKIP: ..." and makes the current cmocka test skip. */
void need_data(const char *name);
/* A path in a folder made for this process and removed, with all in it, at exit. Same storage. */
const char *scratch_path(const char *name);
void write_file(const char *path, const void *data, size_t n);
/* xorshift64*: the same numbers on every machine. */
uint64_t test_random(uint64_t *state);

/* Fails the test with the sentence of e unless st is OK. */
#define assert_ok(st, e)                                                   \
    do {                                                                   \
        if ((st) != HEARTH_OK)                                             \
            fail_msg("%s: %s", hearth_status_name(st), (e)->text);         \
    } while (0)

#endif

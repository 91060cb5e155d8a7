/* base.c: errors, assertions, arenas and growing buffers: the small tools of base.h that need no
 * operating system.
 *
 * An arena is a list of blocks, newest first; a push takes from the newest or opens a larger one, so a
 * pointer never moves. Block sizes double up to 1 MiB, then follow the request. Costs: one branch and an
 * add per push; memory is zeroed because most structs start as "nothing yet". Left out on purpose:
 * freeing one allocation, and threads.
 */
#include "base/base.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#ifndef HEARTH_VERSION
#error "the build defines HEARTH_VERSION"
#endif

const char *hearth_version(void)
{
    return HEARTH_VERSION;
}

const char *hearth_status_name(enum hearth_status status)
{
    static const char *const names[] = {
        [HEARTH_OK] = "ok",           [HEARTH_EIO] = "io error",     [HEARTH_EDAMAGED] = "damaged",
        [HEARTH_EUNSUPPORTED] = "unsupported", [HEARTH_ENOMEM] = "out of memory", [HEARTH_ELIMIT] = "over a limit",
        [HEARTH_EINVAL] = "invalid request", [HEARTH_ECANCELLED] = "cancelled", [HEARTH_ENOTFOUND] = "not found",
    };
    return (size_t)status < ARRAY_LEN(names) && names[status] ? names[status] : "unknown status";
}

/* Bytes of the UTF-8 character at s that may stand in a sentence; 0 for control characters and bytes that are no
 * UTF-8. Reads no byte behind a NUL. */
static size_t printable(const unsigned char *s)
{
    size_t n = s[0] < 0x80 ? 1 : s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : s[0] < 0xf5 ? 4 : 0;
    if (n == 1)
        return s[0] >= 0x20 && s[0] != 0x7f;
    for (size_t i = 1; i < n; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    if ((s[0] == 0xc2 && s[1] < 0xa0) || (s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
        (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
        return 0; /* C1 controls, overlong forms, surrogates, beyond Unicode */
    return n;
}

/* A sentence quotes what files and clients say, and goes to terminals, logs and JSON: it becomes one line of valid
 * UTF-8 without control characters. */
static void make_printable(char *text)
{
    for (unsigned char *s = (unsigned char *)text; *s;) {
        size_t n = printable(s);
        if (n == 0)
            *s = *s == '\n' || *s == '\t' ? ' ' : '?';
        s += MAX(n, (size_t)1);
    }
}

enum hearth_status err_set(struct err *e, enum hearth_status status, const char *fmt, ...)
{
    CHECK(status != HEARTH_OK);
    if (e && e->status == HEARTH_OK) {
        va_list args;
        va_start(args, fmt);
        vsnprintf(e->text, sizeof e->text, fmt, args);
        va_end(args);
        make_printable(e->text);
        e->status = status;
    }
    return status;
}

void err_clear(struct err *e)
{
    if (e) {
        e->status = HEARTH_OK;
        e->text[0] = 0;
    }
}

void check_failed(const char *cond, const char *file, int line)
{
    fprintf(stderr, "hearth: bug: %s:%d: %s does not hold\n", file, line, cond);
    abort();
}

/* ---- arena ---- */

struct arena_block {
    struct arena_block *next;
    size_t size, used; /* bytes behind this header */
    _Alignas(64) unsigned char data[];
};

enum { FIRST_BLOCK_BYTES = 16 * 1024, DOUBLING_STOPS_AT = 1024 * 1024 };

void arena_init(struct arena *a, size_t limit_bytes)
{
    *a = (struct arena){ .limit_bytes = limit_bytes };
}

void arena_free(struct arena *a)
{
    while (a->blocks) {
        struct arena_block *next = a->blocks->next;
        free(a->blocks);
        a->blocks = next;
    }
    a->used_bytes = a->held_bytes = 0;
}

void arena_reset(struct arena *a)
{
    struct arena_block *keep = a->blocks;
    if (!keep)
        return;
    a->blocks = keep->next;
    arena_free(a);
    keep->next = NULL;
    keep->used = 0;
    a->blocks = keep;
    a->held_bytes = keep->size;
}

static struct arena_block *arena_grow(struct arena *a, size_t need)
{
    size_t size = a->blocks ? a->blocks->size * 2 : FIRST_BLOCK_BYTES;
    size_t whole;
    struct arena_block *b;
    if (size > DOUBLING_STOPS_AT)
        size = DOUBLING_STOPS_AT;
    if (size < need)
        size = need;
    if (!size_add(&whole, size, sizeof *b) || !size_align(&whole, whole, 64))
        return NULL;
    b = aligned_alloc(64, whole);
    if (!b)
        return NULL;
    b->next = a->blocks;
    b->size = size;
    b->used = 0;
    a->blocks = b;
    a->held_bytes += size;
    return b;
}

void *arena_push(struct arena *a, size_t count, size_t size, size_t align)
{
    size_t bytes, start, end;
    struct arena_block *b = a->blocks;
    CHECK(align && !(align & (align - 1)) && align <= 64);
    if (!size_mul(&bytes, count, size) || bytes > SIZE_MAX / 2)
        return NULL;
    if (a->limit_bytes && (bytes > a->limit_bytes || a->used_bytes > a->limit_bytes - bytes))
        return NULL;
    if (b && size_align(&start, b->used, align) && size_add(&end, start, bytes) && end <= b->size) {
        b->used = end;
    } else {
        b = arena_grow(a, bytes);
        if (!b)
            return NULL;
        start = 0;
        b->used = bytes;
    }
    a->used_bytes += bytes;
    return memset(b->data + start, 0, bytes);
}

char *arena_strndup(struct arena *a, const char *s, size_t n)
{
    char *copy = arena_push(a, n + 1, 1, 1);
    if (copy && n)
        memcpy(copy, s, n);
    return copy;
}

/* ---- growing buffer ---- */

void buf_init(struct buf *b, size_t max_bytes)
{
    *b = (struct buf){ .max_bytes = max_bytes };
}

void buf_free(struct buf *b)
{
    free(b->data);
    buf_init(b, b->max_bytes);
}

static bool buf_reserve(struct buf *b, size_t n_more)
{
    size_t need, cap;
    if (b->failed || !size_add(&need, b->len, n_more) || need >= SIZE_MAX / 2 || (b->max_bytes && need > b->max_bytes))
        return false;
    if (need < b->cap)
        return true;
    cap = b->cap ? b->cap : 64;
    while (cap <= need)
        cap *= 2;
    char *data = realloc(b->data, cap);
    if (!data)
        return false;
    b->data = data;
    b->cap = cap;
    return true;
}

bool buf_append(struct buf *b, const void *data, size_t n)
{
    if (!buf_reserve(b, n)) {
        b->failed = true;
        return false;
    }
    if (n)
        memcpy(b->data + b->len, data, n);
    b->len += n;
    b->data[b->len] = 0;
    return true;
}

bool buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list args;
    int n;
    va_start(args, fmt);
    n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (n < 0 || !buf_reserve(b, (size_t)n)) {
        b->failed = true;
        return false;
    }
    va_start(args, fmt);
    vsnprintf(b->data + b->len, (size_t)n + 1, fmt, args);
    va_end(args);
    b->len += (size_t)n;
    return true;
}

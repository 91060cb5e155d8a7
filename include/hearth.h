/* hearth.h: what every program that speaks to hearth shares.
 *
 * This is the only header that is installed. For now it holds the status codes, which are also what
 * every internal function returns, and the version; the client library (connect, contexts, calls,
 * streams) is declared here too when the daemon exists.
 *
 * Promise: a value once given to a name never changes; new ones are added at the end.
 */
#ifndef HEARTH_H
#define HEARTH_H

#ifdef __cplusplus
extern "C" {
#endif

/* Every failure of the world (file, client, budget, cancel) is one of these; a bug aborts instead. */
enum hearth_status {
    HEARTH_OK = 0,
    HEARTH_EIO = 1,          /* the operating system refused: open, read, write, map */
    HEARTH_EDAMAGED = 2,     /* the bytes contradict their format or themselves */
    HEARTH_EUNSUPPORTED = 3, /* well formed, but hearth lacks a named piece for it */
    HEARTH_ENOMEM = 4,       /* the memory limit given to us, or the machine's, is too small */
    HEARTH_ELIMIT = 5,       /* refused by a stated limit (limits.h, or the caller's own) */
    HEARTH_EINVAL = 6,       /* the caller asked for something that makes no sense */
    HEARTH_ECANCELLED = 7,   /* the caller, or its signal, stopped it */
    HEARTH_ENOTFOUND = 8,    /* no such file, key, tensor, token */
};

/* The status as one lower-case word ("damaged"); never NULL. Any thread. */
const char *hearth_status_name(enum hearth_status status);

/* "0.1.0". Any thread. */
const char *hearth_version(void);

#ifdef __cplusplus
}
#endif
#endif

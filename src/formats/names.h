/* names.h: finding an entry of a table by its name; private to formats/.
 *
 * The table is an array of structs that begin with a struct str. Names come from hostile files, so the hash is
 * SipHash-1-3 under a key drawn for each table: nobody can prepare names that all fall into one slot, and adding n
 * names costs n steps whatever they are. Slots hold the entry's number + 1; linear probing, at most half full.
 */
#ifndef FORMATS_NAMES_H
#define FORMATS_NAMES_H

#include "formats/formats.h"

struct names {
    const void *entries; /* [..] structs of `stride` bytes that begin with struct str; kept */
    size_t stride;
    uint32_t *slots;     /* [mask + 1], in the arena; NULL: nothing was ever added */
    size_t mask;
    uint64_t key[2];
};
#define NAMES_NONE SIZE_MAX

/* Room for n_max entries. false: no memory. */
MUST_CHECK bool names_init(struct names *t, const void *entries, size_t stride, size_t n_max, struct arena *a);
/* Adds entry i, whose name stands in the table already. Returns the number of the entry that has the same name
 * and keeps that one, or NAMES_NONE. */
size_t names_add(struct names *t, size_t i);
/* NAMES_NONE when absent. */
size_t names_find(const struct names *t, struct str name);

#endif

/* chunk.h: the slots under one context; private to this folder.
 *
 * A chunk is the K and V of 32 consecutive tokens in all layers. Today a slot is either claimed (zeroed pages,
 * OPEN while tokens are appended, then at rest) or not there; the tiers to come add states behind the same calls.
 */
#ifndef HEARTH_CHUNK_H
#define HEARTH_CHUNK_H

#include "engine/engine.h"

struct chunk_list {
    const struct kv_layout *layout;
    uint8_t **slots;   /* [n_max]; the first n_claimed are there */
    size_t n_claimed, n_max;
};

/* slots: [n_max], the caller's, zeroed. */
void chunk_list_init(struct chunk_list *c, const struct kv_layout *layout, uint8_t **slots, size_t n_max);
/* Claims zeroed slots until n_tokens fit. ENOMEM leaves those that were claimed. n_tokens <= 32 * n_max. */
MUST_CHECK enum hearth_status chunk_list_reserve(struct chunk_list *c, size_t n_tokens, struct err *e);
/* Gives back the slots behind n_tokens and zeroes the lanes behind it in the last one kept. */
void chunk_list_truncate(struct chunk_list *c, size_t n_tokens);
void chunk_list_close(struct chunk_list *c);

#endif

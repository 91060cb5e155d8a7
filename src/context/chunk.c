/* chunk.c: claiming, clearing and giving back the K/V slots of a context.
 *
 * Slots come one by one as tokens come, each from the operating system as zeroed pages: a context of 128 k tokens
 * that holds 100 costs four chunks. A slot is never moved, so the list of pointers that attention walks stays valid.
 *
 * Invariant: every lane behind the context's last token is zero, or was written by a step that failed or for a guess that
 * was wrong, and will be overwritten or cleared before it is counted. The kernels promise that masked lanes do not matter; clearing them is
 * for what comes later (packing whole chunks) and so that a dropped conversation does not stay in memory.
 *
 * Costs: two system calls per 32 tokens, which make all pages of the slot resident: every layer will write to it, and
 * faults one by one, under the workers, would cost several times as much. Clearing a tail touches one chunk.
 */
#include "context/chunk.h"

#include <string.h>

void chunk_list_init(struct chunk_list *c, const struct kv_layout *layout, uint8_t **slots, size_t n_max)
{
    *c = (struct chunk_list){ .layout = layout, .slots = slots, .n_max = n_max };
}

enum hearth_status chunk_list_reserve(struct chunk_list *c, size_t n_tokens, struct err *e)
{
    size_t n = (n_tokens + CHUNK_TOKENS - 1) / CHUNK_TOKENS;
    CHECK(n <= c->n_max);
    while (c->n_claimed < n) {
        uint8_t *slot = pages_alloc(c->layout->chunk_bytes);
        if (slot && !pages_commit(slot, c->layout->chunk_bytes)) {
            pages_free(slot, c->layout->chunk_bytes);
            slot = NULL;
        }
        if (!slot)
            return err_set(e, HEARTH_ENOMEM, "no memory for another %zu bytes of K/V (%zu tokens are held)",
                           c->layout->chunk_bytes, c->n_claimed * CHUNK_TOKENS);
        c->slots[c->n_claimed++] = slot;
    }
    return HEARTH_OK;
}

/* K tiles have their lanes side by side, V tiles one after the other. */
static void clear_lanes(const struct kv_layout *l, uint8_t *slot, size_t first)
{
    size_t element = l->type == KV_F16 ? 2 : 4, n = CHUNK_TOKENS - first;
    for (size_t i = 0; i < l->n_layers; i++)
        for (size_t h = 0; h < l->n_kv_heads; h++) {
            uint8_t *k = slot + kv_k_offset(l, i, h), *v = slot + kv_v_offset(l, i, h);
            for (size_t d = 0; d < l->head_dim; d++)
                memset(k + (d * CHUNK_TOKENS + first) * element, 0, n * element);
            memset(v + first * l->head_dim * element, 0, n * l->head_dim * element);
        }
}

void chunk_list_truncate(struct chunk_list *c, size_t n_tokens)
{
    size_t n_keep = (n_tokens + CHUNK_TOKENS - 1) / CHUNK_TOKENS;
    while (c->n_claimed > n_keep) {
        pages_free(c->slots[--c->n_claimed], c->layout->chunk_bytes);
        c->slots[c->n_claimed] = NULL;
    }
    if (n_tokens % CHUNK_TOKENS && c->n_claimed == n_keep)
        clear_lanes(c->layout, c->slots[n_keep - 1], n_tokens % CHUNK_TOKENS);
}

void chunk_list_close(struct chunk_list *c)
{
    chunk_list_truncate(c, 0);
}

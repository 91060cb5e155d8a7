/* grammar_run.h: the state that grammar_run.c and grammar_mask.c share; private to formats/. See grammar_run.c. */
#ifndef FORMATS_GRAMMAR_RUN_H
#define FORMATS_GRAMMAR_RUN_H

#include "formats/grammar_impl.h"

enum { LAZY_UNKNOWN = 0, LAZY_DEAD = 1 };
enum { NO_MASK = UINT32_MAX };

struct frame { uint32_t ret, below, depth; };
struct config { uint32_t state, frame; };
struct visited { uint32_t stamp, state, frame; };
struct lazy {
    uint32_t first, n; /* configs */
    uint32_t hash;
    uint32_t mask;     /* which of the masks is its own, or NO_MASK */
    bool can_end;
};

struct grammar_cache {
    const struct grammar *g;
    const struct grammar_vocab *vocab;
    struct lazy *states;      /* [cap_states] */
    uint32_t *next;           /* [cap_states][n_classes] */
    uint32_t *state_slots, *state_moves;
    struct config *configs;   /* [cap_configs] */
    struct frame *frames;     /* [cap_frames]; 0: the empty stack */
    uint32_t *frame_slots, *frame_moves;
    uint32_t n_states, cap_states, n_state_slots, n_configs, cap_configs, n_frames, cap_frames, n_frame_slots;
    /* the closure that is being made */
    struct visited *visited;
    struct config *work, *found;
    uint32_t stamp, n_work, n_found;
    bool found_end, no_room, overflow;
    /* lazy states in use right now, by depth in the trie: collections keep and move them */
    uint32_t *walk;
    size_t n_walk;
    struct grammar_run *runs;
    uint32_t *masks;          /* [n_masks][vocab->n_words] */
    uint32_t *mask_owner;     /* [n_masks] lazy states, 0: free */
    uint64_t *mask_used;      /* [n_masks] time of the last use */
    uint32_t n_masks;
    uint64_t time;
    struct grammar_stats stats;
};

/* Preorder: a node's subtree is [node, next[node]). */
struct grammar_vocab {
    const struct tokenizer *t;
    size_t n_tokens, n_words, n_nodes, bytes;
    uint8_t *byte;     /* [n_nodes] */
    uint16_t *depth;   /* [n_nodes] 1: the first byte of a token */
    uint32_t *next;    /* [n_nodes] */
    uint32_t *token;   /* [n_nodes + 1] the tokens that end at a node are ids[token[i] .. token[i + 1]) */
    int32_t *ids;
    int32_t *ends;     /* tokens that end generation */
    size_t n_ends;
};
/* What a token adds to the text; empty: it cannot be chosen. */
struct str vocab_bytes_of(const struct grammar_vocab *v, int32_t id);

uint32_t lazy_step_slow(struct grammar_cache *c, size_t i_walk, uint8_t byte);
/* The successor of walk[i_walk], which must be live. */
static inline uint32_t lazy_step(struct grammar_cache *c, size_t i_walk, uint8_t byte)
{
    uint32_t to = c->next[(size_t)c->walk[i_walk] * c->g->n_classes + c->g->class_of[byte]];
    return to ? to : lazy_step_slow(c, i_walk, byte);
}

#endif

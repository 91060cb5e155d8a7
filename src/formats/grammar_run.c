/* grammar_run.c: a grammar while a text is being written.
 *
 * A place in the text is read in one or more ways; each way is a state of the automaton that waits for a byte, and the stack of
 * rules it will come back to. All ways together are one lazy state: sorted, stored once (hash-consed), with a row of successors
 * by byte class that fills as it is used. So a byte that was met in this state before costs one load, whatever the grammar;
 * JSON settles into a few hundred lazy states. This is a DFA made on demand, as in RE2, carried over to automata with a stack.
 *
 *   frame:  (return state, frame below)      stored once; a frame is always younger than the one below it
 *   config: (automaton state, frame)         0 is the empty stack
 *   lazy state: sorted configs, can_end      0: not known yet, 1: no way is left (dead)
 *
 * All tables have fixed sizes. When one is full, a collection keeps what is needed: the states that open runs remember (for
 * rollback), those of the walk that is going on, those with a mask. Frames and states move down in their order, so sorted
 * configs stay sorted, and a frame's parent is always moved before it. When too much of it is masks, these go as well.
 *
 * Limits: a way that would nest deeper than LIMIT_GRAMMAR_NESTING is dropped (such texts are not in the language); more than
 * LIMIT_GRAMMAR_CONFIGS ways at one place, or tables that are full of needed states, set c->overflow, which the caller turns into
 * ELIMIT. What is computed does not depend on when collections happen.
 */
#include "formats/grammar_run.h"

#include <string.h>

enum { VISITED_SLOTS = 32768, WORK_MAX = 16384 };

/* ---- frames ---- */

static uint32_t mix(uint32_t h, uint32_t v)
{
    h = (h ^ v) * 0x9E3779B1u;
    return h ^ h >> 15;
}

/* The frame's number, 0 when there is no room (the bottom is never asked for). */
static uint32_t frame_of(struct grammar_cache *c, uint32_t ret, uint32_t below)
{
    uint32_t mask = c->n_frame_slots - 1, at = mix(mix(1, ret), below) & mask;
    for (; c->frame_slots[at]; at = (at + 1) & mask) {
        const struct frame *f = &c->frames[c->frame_slots[at]];
        if (f->ret == ret && f->below == below)
            return c->frame_slots[at];
    }
    if (c->n_frames == c->cap_frames)
        return 0;
    c->frames[c->n_frames] = (struct frame){ ret, below, c->frames[below].depth + 1 };
    return c->frame_slots[at] = c->n_frames++;
}

/* ---- closure: all ways without reading a byte ---- */

static bool visit(struct grammar_cache *c, uint32_t state, uint32_t frame)
{
    uint32_t at = mix(mix(2, state), frame) % VISITED_SLOTS;
    for (; c->visited[at].stamp == c->stamp; at = (at + 1) % VISITED_SLOTS)
        if (c->visited[at].state == state && c->visited[at].frame == frame)
            return false;
    if (c->n_work == WORK_MAX) {
        c->overflow = true;
        return false;
    }
    c->visited[at] = (struct visited){ c->stamp, state, frame };
    c->work[c->n_work++] = (struct config){ state, frame };
    return true;
}

static void closure_begin(struct grammar_cache *c)
{
    if (++c->stamp == 0) { /* stamps of four thousand million closures ago */
        memset(c->visited, 0, VISITED_SLOTS * sizeof *c->visited);
        c->stamp = 1;
    }
    c->n_work = c->n_found = 0;
    c->found_end = c->no_room = false;
}

/* Work is a queue here, so that n_work bounds all ways that were met. */
static void closure_run(struct grammar_cache *c)
{
    for (uint32_t i = 0; i < c->n_work && !c->overflow && !c->no_room; i++) {
        const struct config w = c->work[i];
        const struct nfa_state *s = &c->g->s[w.state];
        uint32_t frame;
        switch ((enum op)s->op) {
        case OP_DEAD:
            break;
        case OP_SPLIT:
            visit(c, s->b, w.frame);
            visit(c, s->a, w.frame);
            break;
        case OP_EPS:
        case OP_TAIL:
            visit(c, s->a, w.frame);
            break;
        case OP_CALL:
            if (c->frames[w.frame].depth >= LIMIT_GRAMMAR_NESTING)
                break;
            if ((frame = frame_of(c, s->b, w.frame)))
                visit(c, s->a, frame);
            else
                c->no_room = true;
            break;
        case OP_END:
            if (w.frame)
                visit(c, c->frames[w.frame].ret, c->frames[w.frame].below);
            else
                c->found_end = true;
            break;
        case OP_BYTE:
            if (c->n_found == LIMIT_GRAMMAR_CONFIGS)
                c->overflow = true;
            else
                c->found[c->n_found++] = w;
            break;
        }
    }
}

/* ---- lazy states ---- */

static bool is_before(struct config a, struct config b) { return a.state != b.state ? a.state < b.state : a.frame < b.frame; }

/* Shell's sort: in place, and mostly a handful of ways. */
static void sort_found(struct grammar_cache *c)
{
    static const uint32_t gaps[] = { 1750, 701, 301, 132, 57, 23, 10, 4, 1 };
    for (size_t g = 0; g < ARRAY_LEN(gaps); g++)
        for (uint32_t i = gaps[g]; i < c->n_found; i++) {
            struct config x = c->found[i];
            uint32_t k = i;
            for (; k >= gaps[g] && is_before(x, c->found[k - gaps[g]]); k -= gaps[g])
                c->found[k] = c->found[k - gaps[g]];
            c->found[k] = x;
        }
}

static uint32_t state_hash(const struct config *v, uint32_t n, bool can_end)
{
    uint32_t h = mix(3, n * 2 + can_end);
    for (uint32_t i = 0; i < n; i++)
        h = mix(mix(h, v[i].state), v[i].frame);
    return h;
}

static void state_put_slot(struct grammar_cache *c, uint32_t s)
{
    uint32_t mask = c->n_state_slots - 1, at = c->states[s].hash & mask;
    while (c->state_slots[at])
        at = (at + 1) & mask;
    c->state_slots[at] = s;
}

/* What the closure found as a lazy state; 0: no room. */
static uint32_t intern(struct grammar_cache *c)
{
    if (!c->n_found && !c->found_end)
        return LAZY_DEAD;
    sort_found(c);
    uint32_t mask = c->n_state_slots - 1, hash = state_hash(c->found, c->n_found, c->found_end);
    for (uint32_t at = hash & mask; c->state_slots[at]; at = (at + 1) & mask) {
        const struct lazy *s = &c->states[c->state_slots[at]];
        if (s->hash == hash && s->n == c->n_found && s->can_end == c->found_end &&
            (!s->n || memcmp(c->configs + s->first, c->found, s->n * sizeof *c->found) == 0))
            return c->state_slots[at];
    }
    if (c->n_states == c->cap_states || c->cap_configs - c->n_configs < c->n_found)
        return 0;
    uint32_t i = c->n_states++;
    c->states[i] = (struct lazy){ .first = c->n_configs, .n = c->n_found, .hash = hash, .mask = NO_MASK, .can_end = c->found_end };
    if (c->n_found)
        memcpy(c->configs + c->n_configs, c->found, c->n_found * sizeof *c->found);
    memset(c->next + (size_t)i * c->g->n_classes, 0, c->g->n_classes * sizeof *c->next);
    c->n_configs += c->n_found;
    state_put_slot(c, i);
    return i;
}

/* ---- collection ---- */

static void keep_state(struct grammar_cache *c, uint32_t s)
{
    if (s > LAZY_DEAD)
        c->state_moves[s] = 1;
}

static void mark_roots(struct grammar_cache *c)
{
    memset(c->state_moves, 0, c->cap_states * sizeof *c->state_moves);
    memset(c->frame_moves, 0, c->cap_frames * sizeof *c->frame_moves);
    for (const struct grammar_run *r = c->runs; r; r = r->next)
        for (size_t k = 0; k <= r->n_back; k++)
            keep_state(c, r->states[(r->n_steps - k) % ARRAY_LEN(r->states)]);
    for (size_t i = 0; i < c->n_walk; i++)
        keep_state(c, c->walk[i]);
    for (uint32_t i = 0; i < c->n_masks; i++)
        keep_state(c, c->mask_owner[i]);
    for (uint32_t s = LAZY_DEAD + 1; s < c->n_states; s++)
        for (uint32_t k = 0; c->state_moves[s] && k < c->states[s].n; k++)
            c->frame_moves[c->configs[c->states[s].first + k].frame] = 1;
    for (uint32_t f = c->n_frames; f-- > 1;) /* from the youngest down: who lies below is needed too */
        if (c->frame_moves[f])
            c->frame_moves[c->frames[f].below] = 1;
}

static void move_frames(struct grammar_cache *c)
{
    uint32_t n = 1;
    memset(c->frame_slots, 0, c->n_frame_slots * sizeof *c->frame_slots);
    c->frame_moves[0] = 0;
    for (uint32_t f = 1; f < c->n_frames; f++) {
        if (!c->frame_moves[f])
            continue;
        struct frame moved = c->frames[f];
        moved.below = c->frame_moves[moved.below];
        c->frames[n] = moved;
        c->frame_moves[f] = n;
        uint32_t mask = c->n_frame_slots - 1, at = mix(mix(1, moved.ret), moved.below) & mask;
        while (c->frame_slots[at])
            at = (at + 1) & mask;
        c->frame_slots[at] = n++;
    }
    c->n_frames = n;
}

static void move_states(struct grammar_cache *c)
{
    uint32_t n = LAZY_DEAD + 1, n_configs = 0, n_classes = c->g->n_classes;
    memset(c->state_slots, 0, c->n_state_slots * sizeof *c->state_slots);
    for (uint32_t s = LAZY_DEAD + 1; s < c->n_states; s++) {
        struct lazy moved = c->states[s];
        if (!c->state_moves[s])
            continue;
        for (uint32_t k = 0; k < moved.n; k++) {
            struct config w = c->configs[moved.first + k];
            c->configs[n_configs + k] = (struct config){ w.state, c->frame_moves[w.frame] };
        }
        moved.first = n_configs;
        moved.hash = state_hash(c->configs + n_configs, moved.n, moved.can_end);
        n_configs += moved.n;
        c->states[n] = moved;
        memmove(c->next + (size_t)n * n_classes, c->next + (size_t)s * n_classes, n_classes * sizeof *c->next);
        state_put_slot(c, n);
        c->state_moves[s] = n++;
    }
    c->state_moves[LAZY_DEAD] = LAZY_DEAD;
    for (size_t i = (size_t)(LAZY_DEAD + 1) * n_classes; i < (size_t)n * n_classes; i++)
        c->next[i] = c->state_moves[c->next[i]];
    c->n_states = n;
    c->n_configs = n_configs;
}

static void collect(struct grammar_cache *c)
{
    c->stats.n_collections++;
    mark_roots(c);
    move_frames(c);
    move_states(c);
    for (struct grammar_run *r = c->runs; r; r = r->next)
        for (size_t k = 0; k <= r->n_back; k++) {
            uint32_t *s = &r->states[(r->n_steps - k) % ARRAY_LEN(r->states)];
            *s = c->state_moves[*s];
        }
    for (size_t i = 0; i < c->n_walk; i++)
        c->walk[i] = c->state_moves[c->walk[i]];
    for (uint32_t i = 0; i < c->n_masks; i++)
        c->mask_owner[i] = c->state_moves[c->mask_owner[i]];
}

static bool is_crowded(const struct grammar_cache *c)
{
    return c->n_states > c->cap_states / 4 * 3 || c->n_configs > c->cap_configs / 4 * 3 || c->n_frames > c->cap_frames / 4 * 3;
}

static void make_room(struct grammar_cache *c)
{
    collect(c);
    if (!is_crowded(c))
        return;
    for (uint32_t i = 0; i < c->n_masks; i++) {
        if (c->mask_owner[i])
            c->states[c->mask_owner[i]].mask = NO_MASK;
        c->mask_owner[i] = 0;
    }
    collect(c);
}

/* ---- steps ---- */

/* The states that follow walk[i] on a byte. The source is named by its place on the walk, since a collection moves states. */
static uint32_t compute(struct grammar_cache *c, size_t i_walk, uint8_t byte)
{
    for (int attempt = 0; attempt < 2 && !c->overflow; attempt++) {
        const struct lazy *s = &c->states[c->walk[i_walk]];
        closure_begin(c);
        for (uint32_t k = 0; k < s->n; k++) {
            const struct config w = c->configs[s->first + k];
            const struct nfa_state *q = &c->g->s[w.state];
            if (byte >= q->lo && byte <= q->hi)
                visit(c, q->a, w.frame);
        }
        closure_run(c);
        uint32_t to = c->overflow || c->no_room ? 0 : intern(c);
        if (to) {
            c->next[(size_t)c->walk[i_walk] * c->g->n_classes + c->g->class_of[byte]] = to;
            return to;
        }
        if (attempt == 0 && !c->overflow)
            make_room(c);
    }
    c->overflow = true;
    return LAZY_DEAD;
}

uint32_t lazy_step_slow(struct grammar_cache *c, size_t i_walk, uint8_t byte) { return compute(c, i_walk, byte); }

enum hearth_status grammar_run_open(struct grammar_run *r, struct grammar_cache *c, struct err *e)
{
    *r = (struct grammar_run){ 0 };
    uint32_t first = 0;
    c->overflow = false;
    for (int attempt = 0; attempt < 2 && !first && !c->overflow; attempt++) {
        if (attempt)
            make_room(c);
        closure_begin(c);
        visit(c, c->g->start, 0);
        closure_run(c);
        first = c->overflow || c->no_room ? 0 : intern(c);
    }
    if (!first)
        return err_set(e, HEARTH_ELIMIT, "too complex: the grammar's beginning can be read in more ways than its cache holds");
    r->cache = c;
    r->states[0] = first;
    r->next = c->runs;
    r->link = &c->runs;
    if (c->runs)
        c->runs->link = &r->next;
    c->runs = r;
    return HEARTH_OK;
}

void grammar_run_close(struct grammar_run *r)
{
    if (r->cache) {
        *r->link = r->next;
        if (r->next)
            r->next->link = r->link;
    }
    *r = (struct grammar_run){ 0 };
}

static uint32_t now(const struct grammar_run *r) { return r->states[r->n_steps % ARRAY_LEN(r->states)]; }

static void push(struct grammar_run *r, uint32_t s)
{
    r->n_steps++;
    r->n_back = MIN(r->n_back + 1, (size_t)LIMIT_GRAMMAR_ROLLBACK);
    r->states[r->n_steps % ARRAY_LEN(r->states)] = s;
}

bool grammar_can_end(const struct grammar_run *r) { return r->cache->states[now(r)].can_end; }

bool grammar_is_over(struct grammar_run *r)
{
    const struct lazy *s = &r->cache->states[now(r)];
    return s->can_end && s->n == 0;
}

bool grammar_accept_bytes(struct grammar_run *r, const char *p, size_t n)
{
    struct grammar_cache *c = r->cache;
    c->overflow = false;
    c->walk[0] = now(r);
    c->n_walk = 1;
    for (size_t i = 0; i < n && c->walk[0] != LAZY_DEAD; i++)
        c->walk[0] = lazy_step(c, 0, (uint8_t)p[i]);
    c->n_walk = 0;
    if (c->walk[0] == LAZY_DEAD)
        return false;
    push(r, c->walk[0]);
    return true;
}

bool grammar_accept_token(struct grammar_run *r, int32_t id)
{
    const struct grammar_vocab *v = r->cache->vocab;
    CHECK(v);
    if (tokenizer_is_eog(v->t, id)) {
        if (!grammar_can_end(r))
            return false;
        push(r, now(r));
        return true;
    }
    struct str text = vocab_bytes_of(v, id);
    return text.n && grammar_accept_bytes(r, text.p, text.n);
}

void grammar_rollback(struct grammar_run *r, size_t n)
{
    CHECK(n <= r->n_back);
    r->n_steps -= n;
    r->n_back -= n;
}

struct grammar_stats grammar_cache_stats(const struct grammar_cache *c)
{
    struct grammar_stats s = c->stats;
    s.n_states = c->n_states;
    return s;
}

/* ---- memory ---- */

static uint32_t power_above(size_t n)
{
    uint32_t p = 64;
    while (p < n)
        p *= 2;
    return p;
}

/* Half of the bytes are masks. Of the other half: rows of successors three parts, configs one, frames one. */
enum hearth_status grammar_cache_open(struct grammar_cache **out, const struct grammar *g, const struct grammar_vocab *v, size_t bytes,
                                      struct arena *a, struct err *e)
{
    struct grammar_cache *c = ARENA_NEW(a, struct grammar_cache, 1);
    size_t budget = (bytes ? bytes : 2 * MIB), part = budget / 10;
    size_t n_words = v ? v->n_words : 0, row = g->n_classes * sizeof(uint32_t) + sizeof(struct lazy) + 12;
    *out = NULL;
    if (!c)
        return err_set(e, HEARTH_ENOMEM, "no memory to run a grammar");
    *c = (struct grammar_cache){ .g = g, .vocab = v };
    c->cap_states = (uint32_t)MAX(3 * part / row, (size_t)512);
    c->cap_configs = (uint32_t)MAX(part / sizeof(struct config), (size_t)2 * LIMIT_GRAMMAR_CONFIGS);
    c->cap_frames = (uint32_t)MAX(part / (sizeof(struct frame) + 12), (size_t)4096);
    c->n_state_slots = power_above(2 * (size_t)c->cap_states);
    c->n_frame_slots = power_above(2 * (size_t)c->cap_frames);
    c->n_masks = n_words ? (uint32_t)MAX(budget / 2 / (n_words * 4), (size_t)4) : 0;
    c->states = ARENA_NEW(a, struct lazy, c->cap_states);
    c->next = ARENA_NEW(a, uint32_t, (size_t)c->cap_states * g->n_classes);
    c->state_moves = ARENA_NEW(a, uint32_t, c->cap_states);
    c->state_slots = ARENA_NEW(a, uint32_t, c->n_state_slots);
    c->configs = ARENA_NEW(a, struct config, c->cap_configs);
    c->frames = ARENA_NEW(a, struct frame, c->cap_frames);
    c->frame_moves = ARENA_NEW(a, uint32_t, c->cap_frames);
    c->frame_slots = ARENA_NEW(a, uint32_t, c->n_frame_slots);
    c->visited = ARENA_NEW(a, struct visited, VISITED_SLOTS);
    c->work = ARENA_NEW(a, struct config, WORK_MAX);
    c->found = ARENA_NEW(a, struct config, LIMIT_GRAMMAR_CONFIGS);
    c->walk = ARENA_NEW(a, uint32_t, LIMIT_GRAMMAR_TOKEN_BYTES + 1);
    c->masks = ARENA_NEW(a, uint32_t, c->n_masks * n_words + 1);
    c->mask_owner = ARENA_NEW(a, uint32_t, c->n_masks + 1);
    c->mask_used = ARENA_NEW(a, uint64_t, c->n_masks + 1);
    if (!c->states || !c->next || !c->state_moves || !c->state_slots || !c->configs || !c->frames || !c->frame_moves || !c->frame_slots ||
        !c->visited || !c->work || !c->found || !c->walk || !c->masks || !c->mask_owner || !c->mask_used)
        return err_set(e, HEARTH_ENOMEM, "no memory to run a grammar");
    c->n_states = LAZY_DEAD + 1;
    c->n_frames = 1;
    *out = c;
    return HEARTH_OK;
}

/* tool_logits.c: the logits of a model at every position of a given token sequence, for the oracles.
 *
 *   tool_logits MODEL IDS OUT [--kv f16|f32] [--ctx N] [--threads N] [--batch N]
 *               [--mutate NAME] [--greedy N]
 *
 * IDS is a text file of token ids; OUT receives [n_tokens][n_vocab] float32, little-endian, row i being the
 * logits after token i. --ctx is the context length (LongRoPE chooses by it). With --greedy N the N most likely next tokens are appended to the sequence first,
 * one at a time, and their ids go to standard output. --mutate makes the forward pass wrong on purpose
 * (engine_mutate), so that a comparison can show that it notices.
 */
#include <stdlib.h>
#include <string.h>

#include "context/context.h"

static _Noreturn void die(const struct err *e)
{
    fprintf(stderr, "tool_logits: %s\n", e->text);
    exit(1);
}

static enum engine_mutation mutation_by_name(const char *name)
{
    static const char *const names[] = {
        [MUTATE_NONE] = "none",           [MUTATE_NO_ROPE] = "no-rope",     [MUTATE_NO_MASK] = "no-mask",
        [MUTATE_WRONG_GQA] = "wrong-gqa", [MUTATE_NO_WINDOW] = "no-window", [MUTATE_SWAP_GATE_UP] = "swap-gate-up",
    };
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (strcmp(names[i], name) == 0)
            return (enum engine_mutation)i;
    fprintf(stderr, "tool_logits: no mutation is called %s\n", name);
    exit(2);
}

static void read_ids(struct ids *ids, const char *path)
{
    int id;
    FILE *f = fopen(path, "r");
    CHECK(f);
    while (fscanf(f, "%d", &id) == 1)
        CHECK(ids_push(ids, id));
    fclose(f);
}

static int32_t argmax(const float *v, size_t n)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (v[i] > v[best])
            best = i;
    return (int32_t)best;
}

int main(int argc, char **argv)
{
    struct engine_options o = { .n_threads = 1, .kv_type = KV_F16 };
    enum engine_mutation mutation = MUTATE_NONE;
    long n_greedy = 0;
    size_t n_ctx = 0;
    struct arena a;
    struct err e = { 0 };
    struct gguf g;
    struct engine *en;
    struct context *c;
    struct ids ids = { 0 };
    if (argc < 4) {
        fprintf(stderr, "usage: tool_logits MODEL IDS OUT [--kv f16|f32] [--ctx N] [--threads N] [--batch N] [--mutate M] [--greedy N]\n");
        return 2;
    }
    for (int i = 4; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--kv") == 0)
            o.kv_type = strcmp(argv[i + 1], "f32") == 0 ? KV_F32 : KV_F16;
        else if (strcmp(argv[i], "--ctx") == 0)
            n_ctx = (size_t)atol(argv[i + 1]);
        else if (strcmp(argv[i], "--threads") == 0)
            o.n_threads = (size_t)atol(argv[i + 1]);
        else if (strcmp(argv[i], "--batch") == 0)
            o.max_batch = (size_t)atol(argv[i + 1]);
        else if (strcmp(argv[i], "--mutate") == 0)
            mutation = mutation_by_name(argv[i + 1]);
        else if (strcmp(argv[i], "--greedy") == 0)
            n_greedy = atol(argv[i + 1]);
    }
    arena_init(&a, 0);
    read_ids(&ids, argv[2]);
    if (gguf_open(&g, argv[1], &a, &e) != HEARTH_OK || engine_open(&en, &g, &o, &e) != HEARTH_OK)
        die(&e);
    engine_mutate(en, mutation);
    size_t n_vocab = engine_info(en)->n_vocab;
    if (n_greedy > 0) {
        if (context_open(&c, en, n_ctx ? n_ctx : ids.n + (size_t)n_greedy, &e) != HEARTH_OK ||
            context_sync(c, ids.v, ids.n, NULL, NULL, NULL, NULL, &e) != HEARTH_OK)
            die(&e);
        for (long i = 0; i < n_greedy; i++) {
            int32_t id = argmax(context_logits(c), n_vocab);
            CHECK(ids_push(&ids, id));
            printf("%d\n", id);
            if (i + 1 < n_greedy && context_append(c, id, NULL, &e) != HEARTH_OK)
                die(&e);
        }
        context_close(c);
    }

    /* All rows of one sequence, in steps of the batch, straight through the engine. */
    const struct kv_layout *layout = engine_kv_layout(en);
    size_t n_chunks = (ids.n + CHUNK_TOKENS - 1) / CHUNK_TOKENS, step = MIN(engine_max_batch(en), (size_t)16);
    uint8_t **chunks = calloc(n_chunks, sizeof *chunks);
    float *logits = malloc(step * n_vocab * sizeof *logits);
    FILE *out = fopen(argv[3], "wb");
    CHECK(chunks && logits && out);
    for (size_t i = 0; i < n_chunks; i++)
        CHECK(chunks[i] = pages_alloc(layout->chunk_bytes));
    struct kv_view kv = { .chunks = chunks, .n_chunks = n_chunks, .n_ctx = n_ctx ? n_ctx : ids.n };
    for (size_t i = 0; i < ids.n; i += step) {
        size_t n = MIN(step, ids.n - i);
        struct slice s = { .kv = &kv, .tokens = ids.v + i, .n_tokens = n, .n_logits = n, .logits = logits };
        if (engine_step(en, &s, 1, NULL, &e) != HEARTH_OK)
            die(&e);
        CHECK(fwrite(logits, sizeof *logits * n_vocab, n, out) == n);
    }
    CHECK(fclose(out) == 0);
    for (size_t i = 0; i < n_chunks; i++)
        pages_free(chunks[i], layout->chunk_bytes);
    free(chunks);
    free(logits);
    ids_free(&ids);
    engine_close(en);
    gguf_close(&g);
    arena_free(&a);
    return 0;
}

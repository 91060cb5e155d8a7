/* engine_run.h: an engine over a file, and sequences run through it, for tests. */
#ifndef TEST_ENGINE_RUN_H
#define TEST_ENGINE_RUN_H

#include "engine/engine.h"
#include "tiny_models.h"

struct run {
    struct arena arena;
    struct gguf g;
    struct engine *en;
};
/* Fails the test when the model does not open. */
void run_open(struct run *r, const char *path, const struct engine_options *o);
/* Writes the model with matrices of the given type to a scratch file first. */
void run_open_tiny(struct run *r, const struct tiny *t, enum tensor_type type, const struct engine_options *o);
void run_close(struct run *r);

/* A sequence: zeroed chunks for n_ctx tokens. */
struct seq {
    struct kv_view kv;
    size_t chunk_bytes;
};
void seq_open(struct seq *s, const struct engine *en, size_t n_ctx);
void seq_close(struct seq *s);

/* Runs tokens in steps whose sizes repeat steps[0..n_steps), each at most the batch; malloc'd logits[n, n_vocab]. */
float *run_sequence(struct engine *en, const int32_t *tokens, size_t n, size_t n_ctx, const size_t *steps, size_t n_steps);

/* Seeded ids in [0, n_vocab); malloc'd. */
int32_t *random_tokens(size_t n, size_t n_vocab, uint64_t seed);

#endif

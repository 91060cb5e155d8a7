/* oracle_f64.h: a second implementation of every architecture, to compare the engine with.
 *
 * Plain nested loops in double precision over the whole sequence at once: no cache, no batches, no threads, no shared
 * code with src/engine. Written from the public definitions of the architectures and of the GGUF names.
 */
#ifndef TEST_ORACLE_F64_H
#define TEST_ORACLE_F64_H

#include "tiny_models.h"

/* logits[n, n_vocab] after each token. n_ctx: the context length that chooses LongRoPE's factors. */
void oracle_logits(double *logits, const struct tiny *t, const int32_t *tokens, size_t n, size_t n_ctx);

#endif

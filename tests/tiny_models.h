/* tiny_models.h: small random models of every architecture, in memory and as GGUF files, for tests.
 *
 * A spec gives the sizes; tiny_build fills in the keys and tensors a converter would write, with random weights
 * that make a wrong forward pass visible (attention peaked, residual balanced). Tests may then change or drop keys
 * and tensors before tiny_write. All failures abort: these are tests.
 */
#ifndef TEST_TINY_MODELS_H
#define TEST_TINY_MODELS_H

#include "formats/formats.h"

struct tiny_spec {
    const char *arch;
    size_t n_layers, n_embd, n_heads, n_kv_heads, head_dim, n_ff, n_vocab, n_ctx;
    size_t n_rot;              /* 0: head_dim */
    size_t window, period;     /* gemma2, gemma3, phi3; period 0: the architecture's own */
    double rope_base, rope_factor; /* 0: 10000; 0: none */
    const char *rope_scaling;  /* NULL: no key */
    size_t ctx_original;       /* 0: no key */
    double attn_factor;        /* 0: no key */
    double attn_cap, final_cap; /* gemma2; 0: no key */
    bool is_untied, has_biases, is_fused, has_rope_freqs, has_long_factors;
    bool is_blank;             /* all weights zero, quickly */
    uint64_t seed;
};

struct tiny_tensor {
    char name[LIMIT_GGUF_NAME_BYTES + 1];
    uint32_t n_dims;
    uint64_t dims[LIMIT_TENSOR_DIMS];
    float *data;
    enum tensor_type type; /* TYPE_COUNT: matrices in the type of tiny_write, vectors F32 */
};

struct tiny_key {
    char name[96];
    struct gguf_kv kv;
};

struct tiny {
    struct tiny_spec spec;
    struct tiny_key *keys;
    struct tiny_tensor *tensors;
    size_t n_keys, n_tensors;
};

void tiny_build(struct tiny *t, const struct tiny_spec *s);
void tiny_free(struct tiny *t);

/* "ARCH." in front of names that begin with a dot. Replaces or adds. */
void tiny_set_u32(struct tiny *t, const char *key, uint64_t v);
void tiny_set_f32(struct tiny *t, const char *key, double v);
void tiny_set_str(struct tiny *t, const char *key, const char *v); /* kept */
void tiny_set_kind(struct tiny *t, const char *key, enum gguf_kind kind); /* some value of that kind */
void tiny_set_u32s(struct tiny *t, const char *key, const uint32_t *v, size_t n); /* kept */
void tiny_drop_key(struct tiny *t, const char *key);
struct tiny_tensor *tiny_find(const struct tiny *t, const char *name); /* NULL when absent */
const float *tiny_global(const struct tiny *t, const char *name);              /* its data; NULL when absent */
const float *tiny_layer(const struct tiny *t, size_t layer, const char *name); /* "blk.LAYER.NAME" */
void tiny_drop_tensor(struct tiny *t, const char *name);
struct tiny_tensor *tiny_add_tensor(struct tiny *t, const char *name, uint64_t k, uint64_t n_rows); /* n_rows 0: a vector */

/* Matrices in the given type (rounded by the engine's own quantize_row; F32 leaves them as they are). */
void tiny_write(const struct tiny *t, const char *path, enum tensor_type type);

/* One spec of each architecture, NULL-terminated by arch. */
extern const struct tiny_spec tiny_specs[];

#endif

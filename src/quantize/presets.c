/* presets.c: the shapes of well-known models, and small ones of every architecture for tests.
 *
 * The numbers are those of the models' published configurations. The tiny ones are made so that a mistake shows in a
 * few milliseconds: grouped heads, rows that every block format divides, windows and LongRoPE's original context
 * shorter than the texts that tests use, tied and untied heads, and a head size unlike n_embd / n_heads where the
 * architecture allows it. tiny-gemma3 has six layers because only its every sixth attends globally.
 *
 * LongRoPE's factors here are made up (rising from near 1 for fast pairs to tens for slow ones, as the published
 * ones do), since no model's weights go with them.
 */
#include "shapes.h"

#include <pthread.h>
#include <string.h>
#include <strings.h>

/* One line of the table; the architecture's constants are added by shape_by_name. */
struct preset {
    const char *name, *arch;
    size_t n_layers, n_embd, n_heads, n_kv_heads, head_dim, n_ff, n_vocab, n_ctx;
    double rope_base;
    size_t window;
    enum rope_kind rope;
    double rope_factor;
    size_t rope_orig_ctx;
    bool tied;
    double attn_softcap, final_softcap;
};

static const struct preset presets[] = {
    { "Llama-3.2-1B", "llama", 16, 2048, 32, 8, 64, 8192, 128256, 131072, 500000, 0, ROPE_LLAMA3, 32, 8192, true },
    { "Llama-3.2-3B", "llama", 28, 3072, 24, 8, 128, 8192, 128256, 131072, 500000, 0, ROPE_LLAMA3, 32, 8192, true },
    { "Llama-3.1-8B", "llama", 32, 4096, 32, 8, 128, 14336, 128256, 131072, 500000, 0, ROPE_LLAMA3, 8, 8192, false },
    { "Llama-2-7B", "llama", 32, 4096, 32, 32, 128, 11008, 32000, 4096, 10000, 0, ROPE_PLAIN, 0, 0, false },
    { "TinyLlama-1.1B", "llama", 22, 2048, 32, 4, 64, 5632, 32000, 2048, 10000, 0, ROPE_PLAIN, 0, 0, false },
    { "SmolLM2-135M", "llama", 30, 576, 9, 3, 64, 1536, 49152, 8192, 100000, 0, ROPE_PLAIN, 0, 0, true },
    { "Phi-3-mini", "phi3", 32, 3072, 32, 32, 96, 8192, 32064, 4096, 10000, 2047, ROPE_PLAIN, 0, 4096, false },
    { "Phi-3-mini-128k", "phi3", 32, 3072, 32, 32, 96, 8192, 32064, 131072, 10000, 262144, ROPE_LONG, 0, 4096, false },
    { "Qwen2.5-0.5B", "qwen2", 24, 896, 14, 2, 64, 4864, 151936, 32768, 1000000, 0, ROPE_PLAIN, 0, 0, true },
    { "Qwen2.5-1.5B", "qwen2", 28, 1536, 12, 2, 128, 8960, 151936, 131072, 1000000, 0, ROPE_PLAIN, 0, 0, true },
    { "Qwen3-0.6B", "qwen3", 28, 1024, 16, 8, 128, 3072, 151936, 40960, 1000000, 0, ROPE_PLAIN, 0, 0, true },
    { "Qwen3-1.7B", "qwen3", 28, 2048, 16, 8, 128, 6144, 151936, 40960, 1000000, 0, ROPE_PLAIN, 0, 0, true },
    { "Gemma-2-2B", "gemma2", 26, 2304, 8, 4, 256, 9216, 256000, 8192, 10000, 4096, ROPE_PLAIN, 0, 0, true, 50, 30 },
    { "Gemma-3-1B", "gemma3", 26, 1152, 4, 1, 256, 6912, 262144, 32768, 1000000, 512, ROPE_PLAIN, 0, 0, true },
    { "OPT-125M", "opt", 12, 768, 12, 12, 64, 3072, 50272, 2048, 0, 0, ROPE_NONE, 0, 0, true },
    { "OPT-1.3B", "opt", 24, 2048, 32, 32, 64, 8192, 50272, 2048, 0, 0, ROPE_NONE, 0, 0, true },

    { "tiny-llama", "llama", 3, 256, 8, 2, 32, 768, 1024, 4096, 10000, 0, ROPE_PLAIN, 0, 0, false },
    { "tiny-llama3", "llama", 3, 256, 8, 4, 32, 512, 1024, 4096, 10000, 0, ROPE_LLAMA3, 8, 64, true },
    { "tiny-phi3", "phi3", 3, 256, 8, 4, 32, 512, 1024, 4096, 10000, 0, ROPE_LONG, 0, 512, false },
    { "tiny-qwen2", "qwen2", 3, 256, 8, 2, 32, 768, 1024, 4096, 10000, 0, ROPE_PLAIN, 0, 0, true },
    { "tiny-qwen3", "qwen3", 3, 256, 8, 2, 64, 768, 1024, 4096, 10000, 0, ROPE_PLAIN, 0, 0, true },
    { "tiny-gemma2", "gemma2", 4, 256, 8, 4, 64, 768, 1024, 4096, 10000, 32, ROPE_PLAIN, 0, 0, true, 10, 12 },
    { "tiny-gemma3", "gemma3", 6, 256, 8, 2, 64, 512, 1024, 4096, 20000, 24, ROPE_PLAIN, 0, 0, true },
    { "tiny-opt", "opt", 3, 256, 8, 8, 32, 768, 1024, 512, 0, 0, ROPE_NONE, 0, 0, true },
    { "tiny-gpt-postln", "gpt-postln", 3, 256, 8, 8, 32, 512, 1024, 512, 0, 0, ROPE_NONE, 0, 0, false },
};

static const char *names[ARRAY_LEN(presets) + 1];
static void fill_names(void)
{
    for (size_t i = 0; i < ARRAY_LEN(presets); i++)
        names[i] = presets[i].name;
}

const char *const *make_model_shapes(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, fill_names);
    return names;
}

bool shape_by_name(struct model_shape *s, const char *name)
{
    const struct preset *p = NULL;
    for (size_t i = 0; i < ARRAY_LEN(presets) && !p; i++)
        if (strcasecmp(name, presets[i].name) == 0)
            p = &presets[i];
    if (!p)
        return false;
    bool is_gemma = strncmp(p->arch, "gemma", 5) == 0, is_qwen = strncmp(p->arch, "qwen", 4) == 0;
    *s = (struct model_shape){
        .arch = arch_by_name(p->arch), .n_layers = p->n_layers, .n_embd = p->n_embd, .n_heads = p->n_heads,
        .n_kv_heads = p->n_kv_heads, .head_dim = p->head_dim, .n_ff = p->n_ff, .n_vocab = p->n_vocab, .n_ctx = p->n_ctx,
        .window = p->window, .rope_dim = p->head_dim, .norm_eps = is_gemma || is_qwen ? 1e-6 : 1e-5,
        .rope_base = p->rope_base, .attn_softcap = p->attn_softcap, .final_softcap = p->final_softcap,
        .rope = p->rope, .rope_factor = p->rope_factor, .rope_low = 1, .rope_high = 4,
        .rope_orig_ctx = p->rope_orig_ctx, .tied = p->tied,
    };
    return true;
}

static uint64_t rules_params(const struct model_shape *s, const struct tensor_rule *r)
{
    uint64_t n = 0;
    for (; r->gguf; r++)
        if (!(r->flags & RULE_ONLY_SOURCE))
            n += (uint64_t)shape_dim(s, r->rows) * shape_dim(s, r->cols);
    return n;
}

uint64_t shape_params(const struct model_shape *s)
{
    uint64_t n = rules_params(s, s->arch->globals) + s->n_layers * rules_params(s, s->arch->layers);
    return n + (s->tied ? 0 : (uint64_t)s->n_vocab * s->n_embd);
}

/* mix.c: which type each tensor of a model gets under a name like "Q4_K_M".
 *
 * A mix has a base type for the matrices; sensitive ones get more bits. Three facts stand behind the rules:
 * errors in attention's values and in ffn_down go straight into the residual stream; the first and last eighth of
 * the layers, and every third between, are worth more than the others ("layers with more bits" below); the
 * output matrix decides the next token and is used once. Where query heads share a value head four to one or more, attn_v is
 * so small that bits there are nearly free. The rules are those of the usual tools (llama-quantize without an importance
 * file), fact by fact, so that a name means the same file everywhere; test_mix.c holds tables that those tools
 * wrote.
 *
 * Not quantised at all: what is not two-dimensional or does not end in "weight" (norms, biases, rope factors), position
 * and token-type embeddings, the small gating matrices. mix_choose gives F32 for them, and quantize_model copies
 * them as they are.
 *
 * Rows that are no multiple of 256 cannot hold a k-quant and get the next larger type with blocks of 32; rows that
 * are no multiple of 32 get F16. Left out: mixtures of experts, which have rules of their own.
 */
#include <string.h>

#include "quantize/quantize.h"

/* general.file_type of GGUF. */
enum file_type {
    FILE_F32 = 0, FILE_F16 = 1, FILE_Q4_0 = 2, FILE_Q4_1 = 3, FILE_Q8_0 = 7, FILE_Q5_0 = 8, FILE_Q5_1 = 9,
    FILE_Q2_K = 10, FILE_Q3_K_S = 11, FILE_Q3_K_M = 12, FILE_Q3_K_L = 13, FILE_Q4_K_S = 14, FILE_Q4_K_M = 15,
    FILE_Q5_K_S = 16, FILE_Q5_K_M = 17, FILE_Q6_K = 18, FILE_Q2_K_S = 21, FILE_IQ4_NL = 25, FILE_IQ4_XS = 30,
    FILE_BF16 = 32
};

struct mix {
    const char *name, *alias; /* alias: the other name that the usual tools take, or NULL */
    enum file_type file_type;
    enum tensor_type base;
};

static const struct mix mixes[] = {
    { "F32", NULL, FILE_F32, TYPE_F32 },
    { "F16", NULL, FILE_F16, TYPE_F16 },
    { "BF16", NULL, FILE_BF16, TYPE_BF16 },
    { "Q8_0", NULL, FILE_Q8_0, TYPE_Q8_0 },
    { "Q6_K", NULL, FILE_Q6_K, TYPE_Q6_K },
    { "Q5_K_M", "Q5_K", FILE_Q5_K_M, TYPE_Q5_K },
    { "Q5_K_S", NULL, FILE_Q5_K_S, TYPE_Q5_K },
    { "Q5_1", NULL, FILE_Q5_1, TYPE_Q5_1 },
    { "Q5_0", NULL, FILE_Q5_0, TYPE_Q5_0 },
    { "Q4_K_M", "Q4_K", FILE_Q4_K_M, TYPE_Q4_K },
    { "Q4_K_S", NULL, FILE_Q4_K_S, TYPE_Q4_K },
    { "IQ4_NL", NULL, FILE_IQ4_NL, TYPE_IQ4_NL },
    { "IQ4_XS", NULL, FILE_IQ4_XS, TYPE_IQ4_XS },
    { "Q4_1", NULL, FILE_Q4_1, TYPE_Q4_1 },
    { "Q4_0", NULL, FILE_Q4_0, TYPE_Q4_0 },
    { "Q3_K_L", NULL, FILE_Q3_K_L, TYPE_Q3_K },
    { "Q3_K_M", "Q3_K", FILE_Q3_K_M, TYPE_Q3_K },
    { "Q3_K_S", NULL, FILE_Q3_K_S, TYPE_Q3_K },
    { "Q2_K", NULL, FILE_Q2_K, TYPE_Q2_K },
    { "Q2_K_S", NULL, FILE_Q2_K_S, TYPE_Q2_K },
};

static bool same_name(const char *a, const char *b)
{
    for (; *a && *b; a++, b++) {
        char x = *a >= 'a' && *a <= 'z' ? (char)(*a - 32) : *a;
        char y = *b >= 'a' && *b <= 'z' ? (char)(*b - 32) : *b;
        if (x != y)
            return false;
    }
    return *a == *b;
}

const struct mix *mix_by_name(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(mixes); i++)
        if (same_name(name, mixes[i].name) || (mixes[i].alias && same_name(name, mixes[i].alias)))
            return &mixes[i];
    return NULL;
}

const char *const *mix_names(void)
{
    static const char *const names[] = { "F32",    "F16",    "BF16",   "Q8_0",   "Q6_K", "Q5_K_M", "Q5_K_S",
                                         "Q5_1",   "Q5_0",   "Q4_K_M", "Q4_K_S", "IQ4_NL", "IQ4_XS", "Q4_1",
                                         "Q4_0",   "Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K",   "Q2_K_S", NULL };
    _Static_assert(ARRAY_LEN(names) == ARRAY_LEN(mixes) + 1, "every mix is named");
    return names;
}

const char *mix_name(const struct mix *m)
{
    return m->name;
}

uint32_t mix_file_type(const struct mix *m)
{
    return (uint32_t)m->file_type;
}

/* ---- what a tensor is, from its name ---- */

static bool contains(struct str s, const char *part)
{
    size_t n = strlen(part);
    for (size_t i = 0; i + n <= s.n; i++)
        if (memcmp(s.p + i, part, n) == 0)
            return true;
    return false;
}

static bool ends_with(struct str s, const char *part)
{
    size_t n = strlen(part);
    return s.n >= n && memcmp(s.p + s.n - n, part, n) == 0;
}

/* The N of "blk.N."; 0 without one. */
static size_t layer_of(struct str name)
{
    size_t n = 0;
    if (name.n < 4 || memcmp(name.p, "blk.", 4) != 0)
        return 0;
    for (size_t i = 4; i < name.n && name.p[i] >= '0' && name.p[i] <= '9' && n < LIMIT_LAYERS; i++)
        n = 10 * n + (size_t)(name.p[i] - '0');
    return n;
}

bool mix_is_matrix(struct str name, size_t n_dims)
{
    static const char *const kept[] = { "_norm.weight", "ffn_gate_inp.weight", ".position_embd", "ssm_conv1d", "attn_rel_b.weight" };
    if (n_dims < 2 || !ends_with(name, "weight") || str_eqz(name, "position_embd.weight") || str_eqz(name, "token_types.weight"))
        return false;
    for (size_t i = 0; i < ARRAY_LEN(kept); i++)
        if (contains(name, kept[i]))
            return false;
    return true;
}

/* ---- the rules ---- */

static bool has_more_bits(size_t i, size_t n)
{
    return i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2;
}

/* attn_v, and attn_qkv where the three are one matrix. */
static enum tensor_type value_type(const struct mix *m, const struct model_info *info, size_t i)
{
    bool few_heads = info->n_kv_heads && info->n_heads / info->n_kv_heads >= 4;
    enum tensor_type t = m->base;
    switch (m->file_type) {
    case FILE_Q2_K: t = few_heads ? TYPE_Q4_K : TYPE_Q3_K; break;
    case FILE_Q2_K_S: t = few_heads ? TYPE_Q4_K : t; break;
    case FILE_Q3_K_M: t = i < 2 ? TYPE_Q5_K : TYPE_Q4_K; break;
    case FILE_Q3_K_L: t = TYPE_Q5_K; break;
    case FILE_Q4_K_S: t = i < 4 ? TYPE_Q5_K : t; break;
    case FILE_Q4_K_M:
    case FILE_Q5_K_M: t = has_more_bits(i, info->n_layers) ? TYPE_Q6_K : t; break;
    case FILE_IQ4_NL:
    case FILE_IQ4_XS: t = few_heads ? TYPE_Q5_K : t; break;
    default: break;
    }
    /* Models of 80 layers: attn_v is an eighth of attn_q. */
    if (info->n_layers == 80 && (t == TYPE_Q3_K || t == TYPE_Q4_K))
        t = TYPE_Q5_K;
    return t;
}

static enum tensor_type down_type(const struct mix *m, const struct model_info *info, size_t i)
{
    size_t n = info->n_layers;
    switch (m->file_type) {
    case FILE_Q2_K: return TYPE_Q3_K;
    case FILE_Q2_K_S: return i < n / 8 ? TYPE_Q4_K : m->base;
    case FILE_Q3_K_M: return i < n / 16 ? TYPE_Q5_K : TYPE_Q4_K;
    case FILE_Q3_K_L: return TYPE_Q5_K;
    case FILE_Q4_K_S:
    case FILE_IQ4_NL:
    case FILE_IQ4_XS: return i < n / 8 ? TYPE_Q5_K : m->base;
    case FILE_Q4_K_M:
    case FILE_Q5_K_M: return has_more_bits(i, n) ? TYPE_Q6_K : m->base;
    default: return m->base;
    }
}

static enum tensor_type attention_output_type(const struct mix *m)
{
    switch (m->file_type) {
    case FILE_Q2_K: return TYPE_Q3_K;
    case FILE_Q3_K_M: return TYPE_Q4_K;
    case FILE_Q3_K_L: return TYPE_Q5_K;
    default: return m->base;
    }
}

/* The output matrix, or the embedding that serves as one. */
static enum tensor_type output_type(const struct mix *m, uint64_t n_columns)
{
    return n_columns % type_info((uint32_t)m->base)->block_len || m->base == TYPE_Q8_0 ? TYPE_Q8_0 : TYPE_Q6_K;
}

/* The next larger type whose block divides the row. */
static enum tensor_type fall_back(enum tensor_type t, uint64_t n_columns)
{
    if (n_columns % 32)
        return TYPE_F16;
    switch (t) {
    case TYPE_Q2_K:
    case TYPE_Q3_K: return TYPE_Q4_0;
    case TYPE_Q4_K: return TYPE_Q5_0;
    case TYPE_Q5_K: return TYPE_Q5_1;
    case TYPE_IQ4_XS: return TYPE_IQ4_NL;
    default: return TYPE_Q8_0; /* Q6_K */
    }
}

enum tensor_type mix_choose(const struct mix *m, const struct model_info *info, struct str tensor, size_t n_dims,
                            const uint64_t *dims, bool tied, bool *fell_back)
{
    enum tensor_type t = m->base;
    *fell_back = false;
    if (!mix_is_matrix(tensor, n_dims))
        return TYPE_F32;
    if (!type_info((uint32_t)t)->is_quantised)
        return t;
    if (str_eqz(tensor, "output.weight") || (tied && str_eqz(tensor, "token_embd.weight")))
        t = output_type(m, dims[0]);
    else if (contains(tensor, "attn_v.weight") || contains(tensor, "attn_qkv.weight"))
        t = value_type(m, info, layer_of(tensor));
    else if (contains(tensor, "ffn_down"))
        t = down_type(m, info, layer_of(tensor));
    else if (contains(tensor, "attn_output.weight"))
        t = attention_output_type(m);
    if (dims[0] % type_info((uint32_t)t)->block_len == 0)
        return t;
    *fell_back = true;
    return fall_back(t, dims[0]);
}

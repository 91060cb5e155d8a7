/* test_mix.c: the type each tensor gets under each mix, against tables that the usual tools wrote for six model
 * shapes (read back from the files they made).
 *
 * A table is a string of letters: token embedding, output matrix ('-': tied), then the layers, equal ones run
 * together as COUNT*TYPES with the matrices in the order of `matrices` that the architecture has.
 */
#include "support.h"

#include <stdlib.h>
#include <string.h>

#include "quantize/quantize.h"

static const struct {
    const char *arch;
    size_t n_layers, n_heads, n_kv_heads, n_embd, n_ff;
    bool tied;
} models[] = {
    { "llama", 16, 8, 2, 256, 512, true },  /* the proportions of Llama 3.2 1B: four heads a value head */
    { "llama", 32, 4, 4, 256, 512, false }, /* Llama 2 7B */
    { "phi3", 32, 4, 4, 256, 512, false },  /* Phi-3-mini: fused matrices */
    { "qwen2", 24, 14, 2, 448, 512, true }, /* Qwen2.5 0.5B: rows that are no multiple of 256 */
    { "gemma2", 26, 4, 2, 256, 512, true },
    { "llama", 2, 8, 4, 128, 384, true },   /* TinyStories-656K */
};

static const char *const matrices[] = { "attn_q", "attn_k", "attn_v", "attn_qkv", "attn_output", "ffn_gate", "ffn_up", "ffn_down" };

static const struct { int model; const char *mix, *types; } tables[] = {
    { 0, "F32", "A- 16*AAAAAAA" },
    { 0, "F16", "B- 16*BBBBBBB" },
    { 0, "Q4_0", "6- 16*0000000" },
    { 0, "Q4_1", "6- 16*1111111" },
    { 0, "Q8_0", "8- 16*8888888" },
    { 0, "Q5_0", "6- 16*aaaaaaa" },
    { 0, "Q5_1", "6- 16*bbbbbbb" },
    { 0, "Q2_K", "6- 16*2243223" },
    { 0, "Q3_K_S", "6- 16*3333333" },
    { 0, "Q3_K_M", "6- 1*3354335 1*3354334 14*3344334" },
    { 0, "Q3_K_L", "6- 16*3355335" },
    { 0, "Q4_K_S", "6- 2*4454445 2*4454444 12*4444444" },
    { 0, "Q4_K_M", "6- 2*4464446 2*4444444 1*4464446 2*4444444 1*4464446 2*4444444 1*4464446 2*4444444 3*4464446" },
    { 0, "Q5_K_S", "6- 16*5555555" },
    { 0, "Q5_K_M", "6- 2*5565556 2*5555555 1*5565556 2*5555555 1*5565556 2*5555555 1*5565556 2*5555555 3*5565556" },
    { 0, "Q6_K", "6- 16*6666666" },
    { 0, "IQ4_NL", "6- 2*nn5nnn5 14*nn5nnnn" },
    { 0, "IQ4_XS", "6- 2*xx5xxx5 14*xx5xxxx" },
    { 0, "BF16", "C- 16*CCCCCCC" },
    { 1, "F32", "AA 32*AAAAAAA" },
    { 1, "F16", "BB 32*BBBBBBB" },
    { 1, "Q4_0", "06 32*0000000" },
    { 1, "Q4_1", "16 32*1111111" },
    { 1, "Q8_0", "88 32*8888888" },
    { 1, "Q5_0", "a6 32*aaaaaaa" },
    { 1, "Q5_1", "b6 32*bbbbbbb" },
    { 1, "Q2_K", "26 32*2233223" },
    { 1, "Q3_K_S", "36 32*3333333" },
    { 1, "Q3_K_M", "36 2*3354335 30*3344334" },
    { 1, "Q3_K_L", "36 32*3355335" },
    { 1, "Q4_K_S", "46 4*4454445 28*4444444" },
    { 1, "Q4_K_M", "46 4*4464446 2*4444444 1*4464446 2*4444444 1*4464446 2*4444444 1*4464446 2*4444444 1*4464446 2*4444444 1*4464446 2*4444444 1*4464446 2*4444444 1*4464446 2*4444444 5*4464446" },
    { 1, "Q5_K_S", "56 32*5555555" },
    { 1, "Q5_K_M", "56 4*5565556 2*5555555 1*5565556 2*5555555 1*5565556 2*5555555 1*5565556 2*5555555 1*5565556 2*5555555 1*5565556 2*5555555 1*5565556 2*5555555 1*5565556 2*5555555 5*5565556" },
    { 1, "Q6_K", "66 32*6666666" },
    { 1, "IQ4_NL", "n6 4*nnnnnn5 28*nnnnnnn" },
    { 1, "IQ4_XS", "x6 4*xxxxxx5 28*xxxxxxx" },
    { 1, "BF16", "CC 32*CCCCCCC" },
    { 2, "F32", "AA 32*AAAA" },
    { 2, "F16", "BB 32*BBBB" },
    { 2, "Q4_0", "06 32*0000" },
    { 2, "Q4_1", "16 32*1111" },
    { 2, "Q8_0", "88 32*8888" },
    { 2, "Q5_0", "a6 32*aaaa" },
    { 2, "Q5_1", "b6 32*bbbb" },
    { 2, "Q2_K", "26 32*3323" },
    { 2, "Q3_K_S", "36 32*3333" },
    { 2, "Q3_K_M", "36 2*5435 30*4434" },
    { 2, "Q3_K_L", "36 32*5535" },
    { 2, "Q4_K_S", "46 4*5445 28*4444" },
    { 2, "Q4_K_M", "46 4*6446 2*4444 1*6446 2*4444 1*6446 2*4444 1*6446 2*4444 1*6446 2*4444 1*6446 2*4444 1*6446 2*4444 1*6446 2*4444 5*6446" },
    { 2, "Q5_K_S", "56 32*5555" },
    { 2, "Q5_K_M", "56 4*6556 2*5555 1*6556 2*5555 1*6556 2*5555 1*6556 2*5555 1*6556 2*5555 1*6556 2*5555 1*6556 2*5555 1*6556 2*5555 5*6556" },
    { 2, "Q6_K", "66 32*6666" },
    { 2, "IQ4_NL", "n6 4*nnn5 28*nnnn" },
    { 2, "IQ4_XS", "x6 4*xxx5 28*xxxx" },
    { 2, "BF16", "CC 32*CCCC" },
    { 3, "F32", "A- 24*AAAAAAA" },
    { 3, "F16", "B- 24*BBBBBBB" },
    { 3, "Q4_0", "8- 24*0000000" },
    { 3, "Q4_1", "8- 24*1111111" },
    { 3, "Q8_0", "8- 24*8888888" },
    { 3, "Q5_0", "8- 24*aaaaaaa" },
    { 3, "Q5_1", "8- 24*bbbbbbb" },
    { 3, "Q2_K", "8- 24*00a0003" },
    { 3, "Q3_K_S", "8- 24*0000003" },
    { 3, "Q3_K_M", "8- 1*00ba005 1*00ba004 22*00aa004" },
    { 3, "Q3_K_L", "8- 24*00bb005" },
    { 3, "Q4_K_S", "8- 3*aabaaa5 1*aabaaa4 20*aaaaaa4" },
    { 3, "Q4_K_M", "8- 3*aa8aaa6 2*aaaaaa4 1*aa8aaa6 2*aaaaaa4 1*aa8aaa6 2*aaaaaa4 1*aa8aaa6 2*aaaaaa4 1*aa8aaa6 2*aaaaaa4 1*aa8aaa6 2*aaaaaa4 4*aa8aaa6" },
    { 3, "Q5_K_S", "8- 24*bbbbbb5" },
    { 3, "Q5_K_M", "8- 3*bb8bbb6 2*bbbbbb5 1*bb8bbb6 2*bbbbbb5 1*bb8bbb6 2*bbbbbb5 1*bb8bbb6 2*bbbbbb5 1*bb8bbb6 2*bbbbbb5 1*bb8bbb6 2*bbbbbb5 4*bb8bbb6" },
    { 3, "Q6_K", "8- 24*8888886" },
    { 3, "IQ4_NL", "8- 3*nnbnnn5 21*nnbnnnn" },
    { 3, "IQ4_XS", "8- 3*nnbnnn5 21*nnbnnnx" },
    { 3, "BF16", "C- 24*CCCCCCC" },
    { 4, "F32", "A- 26*AAAAAAA" },
    { 4, "F16", "B- 26*BBBBBBB" },
    { 4, "Q4_0", "6- 26*0000000" },
    { 4, "Q4_1", "6- 26*1111111" },
    { 4, "Q8_0", "8- 26*8888888" },
    { 4, "Q5_0", "6- 26*aaaaaaa" },
    { 4, "Q5_1", "6- 26*bbbbbbb" },
    { 4, "Q2_K", "6- 26*2233223" },
    { 4, "Q3_K_S", "6- 26*3333333" },
    { 4, "Q3_K_M", "6- 1*3354335 1*3354334 24*3344334" },
    { 4, "Q3_K_L", "6- 26*3355335" },
    { 4, "Q4_K_S", "6- 3*4454445 1*4454444 22*4444444" },
    { 4, "Q4_K_M", "6- 3*4464446 2*4444444 1*4464446 2*4444444 1*4464446 2*4444444 1*4464446 2*4444444 1*4464446 2*4444444 1*4464446 2*4444444 1*4464446 1*4444444 4*4464446" },
    { 4, "Q5_K_S", "6- 26*5555555" },
    { 4, "Q5_K_M", "6- 3*5565556 2*5555555 1*5565556 2*5555555 1*5565556 2*5555555 1*5565556 2*5555555 1*5565556 2*5555555 1*5565556 2*5555555 1*5565556 1*5555555 4*5565556" },
    { 4, "Q6_K", "6- 26*6666666" },
    { 4, "IQ4_NL", "6- 3*nnnnnn5 23*nnnnnnn" },
    { 4, "IQ4_XS", "6- 3*xxxxxx5 23*xxxxxxx" },
    { 4, "BF16", "C- 26*CCCCCCC" },
    { 5, "F32", "A- 2*AAAAAAA" },
    { 5, "F16", "B- 2*BBBBBBB" },
    { 5, "Q4_0", "8- 2*0000000" },
    { 5, "Q4_1", "8- 2*1111111" },
    { 5, "Q8_0", "8- 2*8888888" },
    { 5, "Q5_0", "8- 2*aaaaaaa" },
    { 5, "Q5_1", "8- 2*bbbbbbb" },
    { 5, "Q2_K", "8- 2*0000000" },
    { 5, "Q3_K_S", "8- 2*0000000" },
    { 5, "Q3_K_M", "8- 2*00ba00a" },
    { 5, "Q3_K_L", "8- 2*00bb00b" },
    { 5, "Q4_K_S", "8- 2*aabaaaa" },
    { 5, "Q4_K_M", "8- 1*aaaaaaa 1*aa8aaa8" },
    { 5, "Q5_K_S", "8- 2*bbbbbbb" },
    { 5, "Q5_K_M", "8- 1*bbbbbbb 1*bb8bbb8" },
    { 5, "Q6_K", "8- 2*8888888" },
    { 5, "Q2_K_S", "8- 2*0000000" },
    { 5, "IQ4_NL", "8- 2*nnnnnnn" },
    { 5, "IQ4_XS", "8- 2*nnnnnnn" },
    { 5, "BF16", "C- 2*CCCCCCC" },
};

static enum tensor_type type_of_letter(char c)
{
    static const struct { char c; enum tensor_type t; } letters[] = {
        { 'A', TYPE_F32 },  { 'B', TYPE_F16 },  { 'C', TYPE_BF16 }, { '0', TYPE_Q4_0 }, { '1', TYPE_Q4_1 },
        { 'a', TYPE_Q5_0 }, { 'b', TYPE_Q5_1 }, { '8', TYPE_Q8_0 }, { '2', TYPE_Q2_K }, { '3', TYPE_Q3_K },
        { '4', TYPE_Q4_K }, { '5', TYPE_Q5_K }, { '6', TYPE_Q6_K }, { 'n', TYPE_IQ4_NL }, { 'x', TYPE_IQ4_XS },
    };
    for (size_t i = 0; i < ARRAY_LEN(letters); i++)
        if (letters[i].c == c)
            return letters[i].t;
    fail_msg("no type is called %c", c);
    return TYPE_COUNT;
}

static struct model_info info_of(int model)
{
    return (struct model_info){
        .arch = { models[model].arch, strlen(models[model].arch) }, .n_layers = models[model].n_layers,
        .n_embd = models[model].n_embd, .n_heads = models[model].n_heads, .n_kv_heads = models[model].n_kv_heads,
        .head_dim = models[model].n_embd / models[model].n_heads, .n_ff = models[model].n_ff, .n_vocab = 256,
    };
}

static enum tensor_type choose(int model, const char *mix, const char *tensor, uint64_t columns, bool *fell_back)
{
    const struct model_info info = info_of(model);
    const uint64_t dims[4] = { columns, 256, 1, 1 };
    return mix_choose(mix_by_name(mix), &info, (struct str){ tensor, strlen(tensor) }, 2, dims, models[model].tied, fell_back);
}

static void expect_type(int model, const char *mix, const char *tensor, char letter)
{
    uint64_t columns = strstr(tensor, "ffn_down") ? models[model].n_ff : models[model].n_embd;
    bool fell_back;
    enum tensor_type t = choose(model, mix, tensor, columns, &fell_back), want = type_of_letter(letter);
    if (t != want)
        fail_msg("model %d, %s, %s: %s, expected %s", model, mix, tensor, type_info((uint32_t)t)->name, type_info((uint32_t)want)->name);
}

static bool has_matrix(int model, const char *name)
{
    bool fused = !strcmp(models[model].arch, "phi3");
    if (!strcmp(name, "attn_qkv"))
        return fused;
    return !fused || !(strcmp(name, "attn_output") && strcmp(name, "ffn_up") && strcmp(name, "ffn_down"));
}

/* One layer's letters; returns what follows them. */
static const char *expect_layer(int model, const char *mix, size_t layer, const char *letters, size_t *n_checked)
{
    for (size_t k = 0; k < ARRAY_LEN(matrices); k++)
        if (has_matrix(model, matrices[k])) {
            char name[64];
            snprintf(name, sizeof name, "blk.%zu.%s.weight", layer, matrices[k]);
            expect_type(model, mix, name, *letters++);
            (*n_checked)++;
        }
    return letters;
}

static void types_are_the_usual_ones(void **state)
{
    size_t n_checked = 0;
    for (size_t i = 0; i < ARRAY_LEN(tables); i++) {
        int model = tables[i].model;
        const char *p = tables[i].types;
        size_t layer = 0;
        expect_type(model, tables[i].mix, "token_embd.weight", p[0]);
        if (p[1] != '-')
            expect_type(model, tables[i].mix, "output.weight", p[1]);
        assert_int_equal(p[1] == '-', models[model].tied);
        for (p += 2; *p;) {
            char *star;
            for (long count = strtol(p, &star, 10); count > 0; count--)
                p = expect_layer(model, tables[i].mix, layer++, star + 1, &n_checked);
        }
        assert_int_equal(layer, models[model].n_layers);
    }
    assert_true(n_checked > 10000);
}

/* Q2_K_S, which the usual tools only write with an importance file. */
static void q2_k_s(void **state)
{
    expect_type(0, "Q2_K_S", "blk.0.attn_v.weight", '4');
    expect_type(0, "Q2_K_S", "blk.1.ffn_down.weight", '4');
    expect_type(0, "Q2_K_S", "blk.2.ffn_down.weight", '2');
    expect_type(0, "Q2_K_S", "blk.3.attn_output.weight", '2');
    expect_type(1, "Q2_K_S", "blk.0.attn_v.weight", '2');
    expect_type(1, "Q2_K_S", "output.weight", '6');
}

static void falling_back_is_said(void **state)
{
    static const struct { const char *mix, *tensor; uint64_t columns; enum tensor_type type; bool fell_back; } cases[] = {
        { "Q4_K_S", "blk.9.ffn_up.weight", 256, TYPE_Q4_K, false },  { "Q4_K_S", "blk.9.ffn_up.weight", 128, TYPE_Q5_0, true },
        { "Q5_K_S", "blk.9.ffn_up.weight", 1184, TYPE_Q5_1, true },  { "Q6_K", "blk.9.ffn_up.weight", 864, TYPE_Q8_0, true },
        { "Q2_K", "blk.9.ffn_up.weight", 32, TYPE_Q4_0, true },      { "Q3_K_S", "blk.9.ffn_up.weight", 96, TYPE_Q4_0, true },
        { "IQ4_XS", "blk.9.ffn_up.weight", 96, TYPE_IQ4_NL, true },  { "IQ4_NL", "blk.9.ffn_up.weight", 96, TYPE_IQ4_NL, false },
        { "Q4_K_M", "blk.9.ffn_up.weight", 172, TYPE_F16, true },    { "Q4_0", "blk.9.ffn_down.weight", 172, TYPE_F16, true },
        { "Q8_0", "blk.9.ffn_down.weight", 172, TYPE_F16, true },    { "F16", "blk.9.ffn_down.weight", 172, TYPE_F16, false },
        { "BF16", "blk.9.ffn_down.weight", 7, TYPE_BF16, false },    { "Q4_0", "token_embd.weight", 64, TYPE_Q8_0, true },
        { "Q4_K_M", "token_embd.weight", 64, TYPE_Q8_0, false }, /* the rule for output matrices, not a fall */
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        bool fell_back;
        enum tensor_type t = choose(0, cases[i].mix, cases[i].tensor, cases[i].columns, &fell_back);
        if (t != cases[i].type || fell_back != cases[i].fell_back)
            fail_msg("%s, %s, %llu columns: %s%s", cases[i].mix, cases[i].tensor, (unsigned long long)cases[i].columns,
                     type_info((uint32_t)t)->name, fell_back ? ", fell back" : "");
    }
}

static void what_is_left_alone(void **state)
{
    static const struct { const char *name; size_t n_dims; bool is_matrix; } cases[] = {
        { "blk.0.attn_norm.weight", 1, false },   { "blk.0.attn_q_norm.weight", 1, false }, { "blk.0.attn_q.bias", 1, false },
        { "output_norm.weight", 1, false },       { "rope_factors_long.weight", 1, false }, { "position_embd.weight", 2, false },
        { "token_types.weight", 2, false },       { "blk.0.ffn_gate_inp.weight", 2, false }, { "blk.0.attn_norm.weight", 2, false },
        { "blk.0.ffn_down.bias", 2, false },      { "blk.0.attn_q.weight", 2, true },       { "token_embd.weight", 2, true },
        { "output.weight", 2, true },             { "blk.3.ffn_gate_up.weight", 2, true },  { "weight", 2, true },
        { "eight", 2, false },                    { "", 2, false },
    };
    const struct model_info info = info_of(0);
    const uint64_t dims[4] = { 256, 256, 1, 1 };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct str name = { cases[i].name, strlen(cases[i].name) };
        bool fell_back = true;
        if (mix_is_matrix(name, cases[i].n_dims) != cases[i].is_matrix)
            fail_msg("%s with %zu dimensions", cases[i].name, cases[i].n_dims);
        enum tensor_type t = mix_choose(mix_by_name("Q8_0"), &info, name, cases[i].n_dims, dims, true, &fell_back);
        assert_int_equal(t, cases[i].is_matrix ? TYPE_Q8_0 : TYPE_F32);
        assert_false(fell_back);
    }
}

static void names(void **state)
{
    size_t n = 0;
    for (const char *const *name = mix_names(); *name; name++, n++) {
        char lower[16] = { 0 };
        const struct mix *m = mix_by_name(*name);
        assert_non_null(m);
        assert_string_equal(mix_name(m), *name);
        for (size_t i = 0; (*name)[i]; i++)
            lower[i] = (char)((*name)[i] >= 'A' && (*name)[i] <= 'Z' ? (*name)[i] + 32 : (*name)[i]);
        assert_ptr_equal(mix_by_name(lower), m);
    }
    assert_int_equal(n, 20);
    assert_ptr_equal(mix_by_name("q4_k"), mix_by_name("Q4_K_M"));
    assert_ptr_equal(mix_by_name("Q5_K"), mix_by_name("Q5_K_M"));
    assert_ptr_equal(mix_by_name("Q3_K"), mix_by_name("Q3_K_M"));
    assert_null(mix_by_name("Q4_K_X"));
    assert_null(mix_by_name("Q4"));
    assert_null(mix_by_name(""));
    assert_int_equal(mix_file_type(mix_by_name("Q4_K_M")), 15);
    assert_int_equal(mix_file_type(mix_by_name("IQ4_XS")), 30);
    assert_int_equal(mix_file_type(mix_by_name("BF16")), 32);
    assert_int_equal(mix_file_type(mix_by_name("Q8_0")), 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(types_are_the_usual_ones), cmocka_unit_test(q2_k_s),  cmocka_unit_test(falling_back_is_said),
        cmocka_unit_test(what_is_left_alone),       cmocka_unit_test(names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* test_quantize_model.c: whole files through quantize_model.
 *
 * A small made-up file shows what is converted and what is copied, that keys survive, that threads change
 * nothing, and how each failure is said and leaves no file. What it costs in quality is measured on a trained model in
 * test_perplexity.c.
 */
#define _DEFAULT_SOURCE
#include "support.h"

#include <dirent.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "quantize/quantize.h"

enum { COLUMNS = 512, ROWS = 300, ODD = 172 };

static float values[COLUMNS * ROWS];

static void fill(uint64_t seed)
{
    for (size_t i = 0; i < ARRAY_LEN(values); i++) {
        double sum = 0;
        for (int k = 0; k < 4; k++)
            sum += (double)(test_random(&seed) >> 40) * 0x1p-24 - 0.5;
        values[i] = (float)(0.05 * sum);
    }
}

static struct str z(const char *s)
{
    return (struct str){ s, strlen(s) };
}

/* What the file below holds, in its order. */
static const struct { const char *name; uint32_t n_dims; uint64_t dims[3]; enum tensor_type type; } made[] = {
    { "token_embd.weight", 2, { COLUMNS, ROWS }, TYPE_F32 },
    { "blk.0.attn_norm.weight", 1, { COLUMNS }, TYPE_F32 },
    { "blk.0.attn_v.weight", 2, { COLUMNS, 64 }, TYPE_F32 },
    { "blk.0.attn_v.bias", 1, { 64 }, TYPE_F16 },
    { "blk.0.ffn_down.weight", 2, { ODD, 100 }, TYPE_F32 }, /* rows that no block divides */
    { "blk.0.ffn_up.weight", 2, { 96, 50 }, TYPE_F16 },     /* rows that no block of 256 divides */
    { "blk.0.ffn_gate.weight", 3, { 256, 10, 3 }, TYPE_BF16 },
    { "position_embd.weight", 2, { COLUMNS, 8 }, TYPE_F32 },
    { "routes", 1, { 7 }, TYPE_I32 }, /* of a type that hearth only knows by size */
};

static size_t made_values(size_t i)
{
    size_t n = 1;
    for (size_t d = 0; d < made[i].n_dims; d++)
        n *= (size_t)made[i].dims[d];
    return n;
}

/* Writes `made` with `values`; tensor `poisoned` has `poison` at value 1000. */
static void write_model(const char *path, const char *poisoned, float poison)
{
    static uint8_t bytes[sizeof values];
    struct arena a;
    struct gguf_writer *w;
    struct err e = { 0 };
    static const int32_t list[3] = { 3, -2, 1 };
    const struct str words[2] = { STR("a"), STR("") };
    arena_init(&a, 0);
    assert_ok(gguf_writer_open(&w, path, &a, &e), &e);
    gguf_put_str(w, "general.architecture", STR("llama"));
    gguf_put_u32(w, "llama.block_count", 16);
    gguf_put_u32(w, "llama.attention.head_count", 8);
    gguf_put_u32(w, "llama.attention.head_count_kv", 2);
    gguf_put_u32(w, "general.file_type", 0);
    gguf_put_f32(w, "test.number", 0.25f);
    gguf_put_bool(w, "test.flag", true);
    gguf_put_u64(w, "test.large", UINT64_MAX);
    gguf_put_array(w, "test.list", GGUF_I32, list, 3);
    gguf_put_strs(w, "test.words", words, 2);
    gguf_put_u32(w, "split.count", 1); /* of the file that this one once was a part of */
    for (size_t i = 0; i < ARRAY_LEN(made); i++)
        gguf_put_tensor(w, z(made[i].name), made[i].type, made[i].n_dims, made[i].dims);
    assert_ok(gguf_begin_data(w, &e), &e);
    for (size_t i = 0; i < ARRAY_LEN(made); i++) {
        size_t n = made_values(i), size;
        float kept = values[1000];
        assert_true(type_row_bytes(&size, (uint32_t)made[i].type, n));
        if (poisoned && !strcmp(poisoned, made[i].name))
            values[1000] = poison;
        if (!quantize_row(bytes, values, n, made[i].type, NULL))
            memcpy(bytes, values, size); /* the integers: any bits */
        values[1000] = kept;
        assert_ok(gguf_write_data(w, bytes, size, &e), &e);
    }
    assert_ok(gguf_writer_commit(w, &e), &e);
    arena_free(&a);
}

static enum hearth_status convert(const char *in, const char *out, const char *mix, size_t n_threads, struct quantize_stats *stats,
                                  struct err *e)
{
    struct progress none = { NULL, NULL, NULL };
    assert_non_null(mix_by_name(mix));
    err_clear(e);
    return quantize_model(in, out, mix_by_name(mix), n_threads, none, stats, e);
}

static void *read_tensor(const struct gguf *g, const char *name, struct arena *a)
{
    const struct gguf_tensor *t = gguf_find_tensor(g, name);
    struct err e = { 0 };
    void *p = t ? arena_push(a, 1, t->size_bytes, 64) : NULL;
    assert_non_null(p);
    assert_ok(file_read(&g->files[t->i_file], p, t->size_bytes, t->offset, &e), &e);
    return p;
}

/* ---- tests ---- */

static void tensors_get_their_types(void **state)
{
    static const struct { const char *mix; enum tensor_type types[9]; size_t n_converted, n_fell_back; } cases[] = {
        { "Q8_0", { TYPE_Q8_0, TYPE_F32, TYPE_Q8_0, TYPE_F16, TYPE_F16, TYPE_Q8_0, TYPE_Q8_0, TYPE_F32, TYPE_I32 }, 5, 1 },
        { "Q4_K_M", { TYPE_Q6_K, TYPE_F32, TYPE_Q6_K, TYPE_F16, TYPE_F16, TYPE_Q5_0, TYPE_Q4_K, TYPE_F32, TYPE_I32 }, 5, 2 },
        { "F16", { TYPE_F16, TYPE_F32, TYPE_F16, TYPE_F16, TYPE_F16, TYPE_F16, TYPE_F16, TYPE_F32, TYPE_I32 }, 4, 0 },
        { "F32", { TYPE_F32, TYPE_F32, TYPE_F32, TYPE_F16, TYPE_F32, TYPE_F32, TYPE_F32, TYPE_F32, TYPE_I32 }, 2, 0 },
        { "IQ4_XS", { TYPE_Q6_K, TYPE_F32, TYPE_Q5_K, TYPE_F16, TYPE_F16, TYPE_IQ4_NL, TYPE_IQ4_XS, TYPE_F32, TYPE_I32 }, 5, 2 },
    };
    struct err e = { 0 };
    fill(1);
    write_model(scratch_path("in.gguf"), NULL, 0);
    for (size_t c = 0; c < ARRAY_LEN(cases); c++) {
        struct quantize_stats stats;
        struct arena a;
        struct gguf g;
        uint64_t out_bytes = 0, in_bytes = 0;
        arena_init(&a, 0);
        assert_ok(convert(scratch_path("in.gguf"), scratch_path("out.gguf"), cases[c].mix, 2, &stats, &e), &e);
        assert_ok(gguf_open(&g, scratch_path("out.gguf"), &a, &e), &e);
        assert_int_equal(g.n_tensors, ARRAY_LEN(made));
        for (size_t i = 0; i < g.n_tensors; i++) {
            assert_true(str_eqz(g.tensors[i].name, made[i].name));
            assert_int_equal(g.tensors[i].n_dims, made[i].n_dims);
            assert_memory_equal(g.tensors[i].dims, made[i].dims, made[i].n_dims * sizeof(uint64_t));
            if (g.tensors[i].type != cases[c].types[i])
                fail_msg("%s: %s is %s", cases[c].mix, made[i].name, type_info((uint32_t)g.tensors[i].type)->name);
            out_bytes += g.tensors[i].size_bytes;
            size_t n;
            assert_true(type_row_bytes(&n, (uint32_t)made[i].type, made_values(i)));
            in_bytes += n;
        }
        assert_int_equal(stats.n_tensors, ARRAY_LEN(made));
        assert_int_equal(stats.n_converted, cases[c].n_converted);
        assert_int_equal(stats.n_fell_back, cases[c].n_fell_back);
        assert_int_equal(stats.bytes_in, in_bytes);
        assert_int_equal(stats.bytes_out, out_bytes);
        gguf_close(&g);
        arena_free(&a);
    }
}

/* Converted rows are what quantize_row gives, copied ones what they were. */
static void bytes_are_those_of_the_rows(void **state)
{
    static uint8_t want[sizeof values];
    struct err e = { 0 };
    struct arena a;
    struct gguf g;
    size_t n = 0;
    fill(2);
    write_model(scratch_path("in.gguf"), NULL, 0);
    assert_ok(convert(scratch_path("in.gguf"), scratch_path("out.gguf"), "Q4_K_M", 2, NULL, &e), &e);
    arena_init(&a, 0);
    assert_ok(gguf_open(&g, scratch_path("out.gguf"), &a, &e), &e);
    assert_true(quantize_row(want, values, COLUMNS * ROWS, TYPE_Q6_K, NULL) && type_row_bytes(&n, TYPE_Q6_K, COLUMNS * ROWS));
    assert_memory_equal(read_tensor(&g, "token_embd.weight", &a), want, n);
    assert_memory_equal(read_tensor(&g, "blk.0.attn_norm.weight", &a), values, COLUMNS * 4);
    assert_memory_equal(read_tensor(&g, "position_embd.weight", &a), values, COLUMNS * 8 * 4);
    assert_memory_equal(read_tensor(&g, "routes", &a), values, 7 * 4);
    float bf16[7680];
    for (size_t i = 0; i < 7680; i++)
        bf16[i] = bf16_to_float(float_to_bf16(values[i]));
    assert_true(quantize_row(want, bf16, 7680, TYPE_Q4_K, NULL) && type_row_bytes(&n, TYPE_Q4_K, 7680));
    assert_memory_equal(read_tensor(&g, "blk.0.ffn_gate.weight", &a), want, n);
    gguf_close(&g);
    arena_free(&a);
}

static void keys_survive(void **state)
{
    struct err e = { 0 };
    struct arena a;
    struct gguf g;
    uint64_t u;
    double f;
    bool b;
    struct str s;
    struct gguf_array list;
    fill(3);
    write_model(scratch_path("in.gguf"), NULL, 0);
    assert_ok(convert(scratch_path("in.gguf"), scratch_path("out.gguf"), "Q5_K_M", 1, NULL, &e), &e);
    arena_init(&a, 0);
    assert_ok(gguf_open(&g, scratch_path("out.gguf"), &a, &e), &e);
    assert_ok(gguf_get_u64(&g, "general.file_type", 0, 100, &u, &e), &e);
    assert_int_equal(u, 17);
    assert_ok(gguf_get_u64(&g, "general.quantization_version", 0, 100, &u, &e), &e);
    assert_int_equal(u, 2);
    assert_ok(gguf_get_u64(&g, "test.large", 0, UINT64_MAX, &u, &e), &e);
    assert_true(u == UINT64_MAX);
    assert_ok(gguf_get_f64(&g, "test.number", &f, &e), &e);
    assert_true(f == 0.25);
    assert_ok(gguf_get_bool(&g, "test.flag", &b, &e), &e);
    assert_true(b);
    assert_ok(gguf_get_str(&g, "general.architecture", &s, &e), &e);
    assert_true(str_eqz(s, "llama"));
    assert_ok(gguf_get_array(&g, "test.list", GGUF_I32, &list, &e), &e);
    assert_int_equal(list.count, 3);
    assert_int_equal((int32_t)load_le32(list.data + 4), -2);
    assert_ok(gguf_get_array(&g, "test.words", GGUF_STRING, &list, &e), &e);
    struct gguf_strings words = gguf_strings(&list);
    assert_true(list.count == 2 && str_eqz(gguf_next_string(&words), "a") && gguf_next_string(&words).n == 0);
    assert_null(gguf_find(&g, "split.count"));
    assert_int_equal(g.n_kvs, 11); /* twelve, less split.count, less and plus file_type, plus quantization_version */
    gguf_close(&g);
    arena_free(&a);
}

static void *slurp(const char *path, size_t *n, struct arena *a)
{
    struct err e = { 0 };
    char *p;
    assert_ok(file_read_all(&p, n, path, 64 * MIB, a, &e), &e);
    return p;
}

static void threads_change_nothing(void **state)
{
    struct err e = { 0 };
    struct arena a;
    size_t n1, n5;
    fill(4);
    write_model(scratch_path("in.gguf"), NULL, 0);
    assert_ok(convert(scratch_path("in.gguf"), scratch_path("one.gguf"), "Q3_K_M", 1, NULL, &e), &e);
    assert_ok(convert(scratch_path("in.gguf"), scratch_path("five.gguf"), "Q3_K_M", 5, NULL, &e), &e);
    arena_init(&a, 0);
    void *one = slurp(scratch_path("one.gguf"), &n1, &a), *five = slurp(scratch_path("five.gguf"), &n5, &a);
    assert_int_equal(n1, n5);
    assert_memory_equal(one, five, n1);
    arena_free(&a);
}

/* From any readable type; and there and back to the same values. */
static void from_quantised_files(void **state)
{
    struct err e = { 0 };
    struct arena a;
    fill(5);
    write_model(scratch_path("in.gguf"), NULL, 0);
    for (const char *const *mix = mix_names(); *mix; mix++) {
        struct gguf g;
        size_t n = COLUMNS * ROWS;
        double error = 0, sum = 0;
        assert_ok(convert(scratch_path("in.gguf"), scratch_path("q.gguf"), *mix, 2, NULL, &e), &e);
        assert_ok(convert(scratch_path("q.gguf"), scratch_path("back.gguf"), "F32", 2, NULL, &e), &e);
        arena_init(&a, 0);
        assert_ok(gguf_open(&g, scratch_path("back.gguf"), &a, &e), &e);
        const float *back = read_tensor(&g, "token_embd.weight", &a);
        for (size_t i = 0; i < n; i++) {
            error += pow((double)back[i] - (double)values[i], 2);
            sum += pow((double)values[i], 2);
        }
        assert_true(sqrt(error / sum) < 0.02); /* the embedding is the output matrix here: Q6_K or more */
        gguf_close(&g);
        arena_free(&a);
    }
}

static size_t n_files_in_scratch(void)
{
    char dir[1024];
    size_t n = 0;
    snprintf(dir, sizeof dir, "%s", scratch_path("."));
    DIR *d = opendir(dir);
    assert_non_null(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static void expect_failure(const char *mix, enum hearth_status status, const char *part1, const char *part2)
{
    struct err e = { 0 };
    size_t n = n_files_in_scratch();
    enum hearth_status st = convert(scratch_path("bad.gguf"), scratch_path("never.gguf"), mix, 2, NULL, &e);
    if (st != status || !strstr(e.text, part1) || !strstr(e.text, part2))
        fail_msg("%s: %s: %s", mix, hearth_status_name(st), e.text);
    assert_int_equal(n_files_in_scratch(), n); /* no output, and no half of one beside it */
}

static void bad_weights_are_named(void **state)
{
    fill(6);
    write_model(scratch_path("bad.gguf"), "blk.0.attn_v.weight", NAN);
    expect_failure("Q4_K_M", HEARTH_EDAMAGED, "blk.0.attn_v.weight", "row 1, column 488");
    write_model(scratch_path("bad.gguf"), "blk.0.ffn_down.weight", -INFINITY);
    expect_failure("F16", HEARTH_EDAMAGED, "blk.0.ffn_down.weight", "not a finite");
    write_model(scratch_path("bad.gguf"), "token_embd.weight", 70000);
    expect_failure("F16", HEARTH_EINVAL, "token_embd.weight", "the weight 70000 is more than F16");
    expect_failure("Q8_0", HEARTH_EINVAL, "token_embd.weight", "65504");
    struct err e = { 0 };
    assert_ok(convert(scratch_path("bad.gguf"), scratch_path("fine.gguf"), "BF16", 2, NULL, &e), &e);
}

static void bad_files_are_named(void **state)
{
    struct err e = { 0 };
    struct arena a;
    struct gguf_writer *w;
    size_t n;
    const uint64_t dims[2] = { 256, 2 };
    static uint8_t zeros[4096];
    fill(7);
    write_model(scratch_path("in.gguf"), NULL, 0);
    arena_init(&a, 0);
    void *whole = slurp(scratch_path("in.gguf"), &n, &a);
    write_file(scratch_path("bad.gguf"), whole, n - 5000);
    expect_failure("Q8_0", HEARTH_EDAMAGED, "bad.gguf", "");
    write_file(scratch_path("bad.gguf"), "GGUF", 4);
    expect_failure("Q8_0", HEARTH_EDAMAGED, "bad.gguf", "");
    unlink(scratch_path("bad.gguf"));
    expect_failure("Q8_0", HEARTH_ENOTFOUND, "bad.gguf", "");
    /* A matrix in a type that hearth cannot read. */
    assert_ok(gguf_writer_open(&w, scratch_path("bad.gguf"), &a, &e), &e);
    gguf_put_str(w, "general.architecture", STR("llama"));
    gguf_put_tensor(w, STR("blk.0.attn_q.weight"), TYPE_IQ2_XXS, 2, dims);
    assert_ok(gguf_begin_data(w, &e), &e);
    assert_ok(gguf_write_data(w, zeros, 2 * 66, &e), &e);
    assert_ok(gguf_writer_commit(w, &e), &e);
    expect_failure("Q8_0", HEARTH_EUNSUPPORTED, "blk.0.attn_q.weight", "IQ2_XXS");
    /* Onto itself, and to where nothing can be written. */
    assert_int_equal(convert(scratch_path("in.gguf"), scratch_path("in.gguf"), "Q8_0", 1, NULL, &e), HEARTH_EINVAL);
    assert_non_null(strstr(e.text, "in.gguf"));
    assert_int_equal(convert(scratch_path("in.gguf"), scratch_path("no/such/folder.gguf"), "Q8_0", 1, NULL, &e), HEARTH_EIO);
    arena_free(&a);
}

struct watch { uint64_t last, total; size_t n_calls; atomic_int cancel; };

static void watch_progress(const char *what, uint64_t done, uint64_t total, void *arg)
{
    struct watch *w = arg;
    assert_true(what && strlen(what) > 0);
    assert_true(done > w->last && done <= total);
    w->last = done;
    w->total = total;
    if (++w->n_calls == 3)
        atomic_store(&w->cancel, 1);
}

static void progress_and_cancel(void **state)
{
    struct err e = { 0 };
    struct watch w = { .n_calls = 100 };
    fill(8);
    write_model(scratch_path("in.gguf"), NULL, 0);
    struct progress p = { watch_progress, &w, &w.cancel };
    assert_ok(quantize_model(scratch_path("in.gguf"), scratch_path("p.gguf"), mix_by_name("Q8_0"), 1, p, NULL, &e), &e);
    assert_int_equal(w.last, w.total);
    assert_true(w.n_calls >= 100 + ARRAY_LEN(made));
    unlink(scratch_path("p.gguf"));
    size_t n = n_files_in_scratch();
    w = (struct watch){ .n_calls = 0 };
    p.cancel = &w.cancel;
    assert_int_equal(quantize_model(scratch_path("in.gguf"), scratch_path("p.gguf"), mix_by_name("Q8_0"), 1, p, NULL, &e), HEARTH_ECANCELLED);
    assert_int_equal(w.n_calls, 3);
    assert_int_equal(n_files_in_scratch(), n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tensors_get_their_types), cmocka_unit_test(bytes_are_those_of_the_rows),
        cmocka_unit_test(keys_survive),            cmocka_unit_test(threads_change_nothing),
        cmocka_unit_test(from_quantised_files),    cmocka_unit_test(bad_weights_are_named),
        cmocka_unit_test(bad_files_are_named),     cmocka_unit_test(progress_and_cancel),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

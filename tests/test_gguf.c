/* test_gguf.c: GGUF files: what is written is read back, real files open, bad ones are refused by name.
 */
#define _DEFAULT_SOURCE
#include "support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "formats/formats.h"

static const uint64_t dims_a[] = { 64, 3 }, dims_b[] = { 32 }, dims_c[] = { 5, 1, 2, 3 };
static const float floats[] = { 1.5f, -2, 0 };
static const int32_t ints[] = { INT32_MIN, 7 };

/* Every kind of value, three tensors. */
static void put_sample(struct gguf_writer *w)
{
    static const struct str words[] = { { "one", 3 }, { "", 0 }, { "z\0z", 3 } };
    static const bool flags[] = { true, false, true };
    const struct gguf_kv extra[] = {
        { STR("k.u8"), GGUF_U8, { .u = 255 } },          { STR("k.i8"), GGUF_I8, { .i = -128 } },
        { STR("k.u16"), GGUF_U16, { .u = 65535 } },      { STR("k.i16"), GGUF_I16, { .i = -32768 } },
        { STR("k.i64"), GGUF_I64, { .i = INT64_MIN } }, { STR("k.f64"), GGUF_F64, { .f = 0.1 } },
    };
    gguf_put_str(w, "general.architecture", STR("llama"));
    gguf_put_u32(w, "k.u32", UINT32_MAX);
    gguf_put_u64(w, "k.u64", UINT64_MAX);
    gguf_put_i32(w, "k.i32", INT32_MIN);
    gguf_put_f32(w, "k.f32", 1e-5f);
    gguf_put_bool(w, "k.bool", true);
    for (size_t i = 0; i < ARRAY_LEN(extra); i++)
        gguf_put_kv(w, &extra[i]);
    gguf_put_strs(w, "k.strings", words, 3);
    gguf_put_array(w, "k.floats", GGUF_F32, floats, 3);
    gguf_put_array(w, "k.ints", GGUF_I32, ints, 2);
    gguf_put_array(w, "k.bools", GGUF_BOOL, flags, 3);
    gguf_put_array(w, "k.none", GGUF_U8, NULL, 0);
    gguf_put_tensor(w, STR("a"), TYPE_Q8_0, 2, dims_a);
    gguf_put_tensor(w, STR("b"), TYPE_F32, 1, dims_b);
    gguf_put_tensor(w, STR("c.weight"), TYPE_F16, 4, dims_c);
}

static void write_sample(const char *path)
{
    struct gguf_writer *w;
    struct arena a;
    struct err e = { 0 };
    uint8_t data[256];
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i + 1);
    arena_init(&a, 0);
    assert_ok(gguf_writer_open(&w, path, &a, &e), &e);
    put_sample(w);
    assert_ok(gguf_begin_data(w, &e), &e);
    assert_ok(gguf_write_data(w, data, 200, &e), &e);
    assert_ok(gguf_write_data(w, data, 4, &e), &e);
    assert_ok(gguf_write_data(w, data, 128, &e), &e);
    assert_ok(gguf_write_data(w, data, 60, &e), &e);
    assert_ok(gguf_writer_commit(w, &e), &e);
    gguf_writer_abandon(w);
    arena_free(&a);
}

static void check_sample_values(const struct gguf *g)
{
    struct err e = { 0 };
    struct gguf_array v;
    struct str s;
    uint64_t u;
    double f;
    bool b;
    assert_ok(gguf_get_str(g, "general.architecture", &s, &e), &e);
    assert_true(str_eqz(s, "llama"));
    assert_ok(gguf_get_u64(g, "k.u8", 0, 255, &u, &e), &e);
    assert_int_equal(u, 255);
    assert_ok(gguf_get_u64(g, "k.u64", 0, UINT64_MAX, &u, &e), &e);
    assert_true(u == UINT64_MAX);
    assert_int_equal(gguf_find(g, "k.i8")->v.i, -128);
    assert_int_equal(gguf_find(g, "k.i16")->v.i, -32768);
    assert_int_equal(gguf_find(g, "k.i32")->v.i, INT32_MIN);
    assert_true(gguf_find(g, "k.i64")->v.i == INT64_MIN);
    assert_int_equal(gguf_find(g, "k.u16")->v.u, 65535);
    assert_ok(gguf_get_f64(g, "k.f32", &f, &e), &e);
    assert_true((float)f == 1e-5f);
    assert_ok(gguf_get_f64(g, "k.f64", &f, &e), &e);
    assert_true(f == 0.1);
    assert_ok(gguf_get_bool(g, "k.bool", &b, &e), &e);
    assert_true(b);
    assert_ok(gguf_get_array(g, "k.strings", GGUF_STRING, &v, &e), &e);
    assert_int_equal(v.count, 3);
    assert_true(str_eqz(v.strings[0], "one") && v.strings[1].n == 0 && str_eq(v.strings[2], STR("z\0z")));
    assert_ok(gguf_get_array(g, "k.floats", GGUF_F32, &v, &e), &e);
    assert_int_equal(v.count, 3);
    for (size_t i = 0; i < 3; i++)
        assert_true(load_f32(v.data + 4 * i) == floats[i]);
    assert_ok(gguf_get_array(g, "k.ints", GGUF_I32, &v, &e), &e);
    assert_true(v.count == 2 && (int32_t)load_le32(v.data) == INT32_MIN);
    assert_ok(gguf_get_array(g, "k.bools", GGUF_BOOL, &v, &e), &e);
    assert_true(v.count == 3 && v.data[0] && !v.data[1] && v.data[2]);
    assert_ok(gguf_get_array(g, "k.none", GGUF_U8, &v, &e), &e);
    assert_int_equal(v.count, 0);
    assert_int_equal(gguf_get_bool(g, "absent", &b, &e), HEARTH_ENOTFOUND);
    assert_int_equal(e.status, HEARTH_OK);
}

static void check_sample_tensors(const struct gguf *g)
{
    struct err e = { 0 };
    const struct gguf_tensor *t = gguf_find_tensor(g, "c.weight");
    uint8_t data[204];
    assert_int_equal(g->n_tensors, 3);
    assert_true(t == &g->tensors[2] && t->type == TYPE_F16 && t->n_dims == 4 && t->dims[0] == 5 && t->dims[3] == 3);
    assert_int_equal(t->size_bytes, 60);
    assert_int_equal(t->offset % g->alignment, 0);
    assert_ok(file_read(&g->files[t->i_file], data, 60, t->offset, &e), &e);
    for (size_t i = 0; i < 60; i++)
        assert_int_equal(data[i], i + 1);
    t = gguf_find_tensor(g, "a");
    assert_int_equal(t->size_bytes, 6 * 34);
    assert_ok(file_read(&g->files[0], data, 204, t->offset, &e), &e);
    for (size_t i = 0; i < 204; i++)
        assert_int_equal(data[i], i < 200 ? i + 1 : i - 199);
    assert_null(gguf_find_tensor(g, "absent"));
}

static void what_is_written_is_read(void **state)
{
    struct gguf g;
    struct arena a;
    struct err e = { 0 };
    arena_init(&a, 0);
    write_sample(scratch_path("sample.gguf"));
    assert_ok(gguf_open(&g, scratch_path("sample.gguf"), &a, &e), &e);
    assert_int_equal(g.version, 3);
    assert_int_equal(g.alignment, 32);
    assert_int_equal(g.files[0].size_bytes % 32, 0);
    check_sample_values(&g);
    check_sample_tensors(&g);
    gguf_close(&g);
    gguf_close(&g);
    arena_free(&a);
}

/* Copying key by key gives the same metadata bytes. */
static void copied_keys_are_the_same_bytes(void **state)
{
    static const char *const files[] = { "vocab/ggml-vocab-llama-spm.gguf", "vocab/ggml-vocab-gpt-2.gguf",
                                         "vocab/ggml-vocab-phi-3.gguf", "vocab/ggml-vocab-bert-bge.gguf" };
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        struct gguf g;
        struct gguf_writer *w;
        struct arena a;
        struct err e = { 0 };
        char *was, *is;
        size_t n_was, n_is;
        need_data(files[i]);
        arena_init(&a, 0);
        assert_ok(gguf_open(&g, data_path(files[i]), &a, &e), &e);
        assert_ok(gguf_writer_open(&w, scratch_path("copy.gguf"), &a, &e), &e);
        for (size_t k = 0; k < g.n_kvs; k++)
            gguf_put_kv(w, &g.kvs[k]);
        assert_ok(gguf_writer_commit(w, &e), &e);
        assert_ok(file_read_all(&was, &n_was, data_path(files[i]), SIZE_MAX, &a, &e), &e);
        assert_ok(file_read_all(&is, &n_is, scratch_path("copy.gguf"), SIZE_MAX, &a, &e), &e);
        assert_true(n_is >= n_was && n_is - n_was < 32);
        was[4] = 3; /* version 2 becomes 3 */
        assert_memory_equal(is, was, n_was);
        gguf_close(&g);
        arena_free(&a);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(copied_keys_are_the_same_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

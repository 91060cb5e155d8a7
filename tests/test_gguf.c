/* test_gguf.c: GGUF files: what is written is read back, real files open, bad ones are refused by name.
 *
 * Exhaustive where the space is small: every cut of a file, every placement of three tensors, every kind
 * against every getter, every combination of nasty dimensions against arithmetic done another way, every
 * allocation failing once. The writer's refusals are in test_gguf_write.c. test_gguf --dump FOLDER writes the
 * bad files out as a fuzz corpus.
 */
#define _DEFAULT_SOURCE
#include "support.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bad_files.h"
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
        { STR("k.u8"), GGUF_U8, { .u = 255 } },         { STR("k.i8"), GGUF_I8, { .i = -128 } },
        { STR("k.u16"), GGUF_U16, { .u = 65535 } },     { STR("k.i16"), GGUF_I16, { .i = -32768 } },
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
    struct gguf_strings words = gguf_strings(&v);
    assert_true(str_eqz(gguf_next_string(&words), "one"));
    assert_int_equal(gguf_next_string(&words).n, 0);
    assert_true(str_eq(gguf_next_string(&words), STR("z\0z")));
    assert_int_equal(gguf_next_string(&words).n, 0); /* behind the end */
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
    assert_true(t == &g->tensors[2] && t->type == TYPE_F16 && t->n_dims == 4 && t->dims[0] == 5 &&
                t->dims[3] == 3);
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

/* ---- opening what a recipe says ---- */

static void write_recipe(const char *name, const char *recipe)
{
    struct buf b;
    buf_init(&b, 0);
    build_recipe(&b, recipe);
    unlink(scratch_path(name)); /* file systems flush a file that is truncated and rewritten */
    write_file(scratch_path(name), b.data, b.len);
    buf_free(&b);
}

/* Opens and closes a file; e holds the sentence. */
static enum hearth_status try_open(const char *path, struct err *e)
{
    struct gguf g;
    struct arena a;
    enum hearth_status st;
    arena_init(&a, 0);
    err_clear(e);
    st = gguf_open(&g, path, &a, e);
    assert_int_equal(st, e->status);
    assert_int_equal(st == HEARTH_OK, g.n_files > 0);
    gguf_close(&g);
    arena_free(&a);
    return st;
}

static enum hearth_status try_recipe(const char *recipe, struct err *e)
{
    write_recipe("recipe.gguf", recipe);
    return try_open(scratch_path("recipe.gguf"), e);
}

static void bad_files_are_refused_by_name(void **state)
{
    size_t n = 0;
    for (size_t i = 0; i < n_bad_files; i++)
        if (bad_files[i].format == BAD_GGUF || bad_files[i].format == BAD_VOCAB) {
            check_bad_file(&bad_files[i], scratch_path("bad.gguf"));
            n++;
        }
    printf("%zu bad GGUF files of %zu bad files in all\n", n, n_bad_files);
    assert_true(n_bad_files >= 120);
}

static void every_cut_is_noticed(void **state)
{
    struct gguf g;
    struct arena a;
    struct err e = { 0 };
    const char *path = scratch_path("cut.gguf");
    uint64_t end = 0;
    size_t n_sentences = 0;
    write_sample(path);
    arena_init(&a, 0);
    assert_ok(gguf_open(&g, path, &a, &e), &e);
    for (size_t i = 0; i < g.n_tensors; i++)
        end = MAX(end, g.tensors[i].offset + g.tensors[i].size_bytes);
    gguf_close(&g);
    for (uint64_t n = end; n-- > 0;) {
        assert_int_equal(truncate(path, (off_t)n), 0);
        if (try_open(path, &e) != HEARTH_EDAMAGED)
            fail_msg("cut at byte %zu: %s", (size_t)n, e.text);
        assert_non_null(strstr(e.text, path));
        n_sentences +=
            strstr(e.text, "ends at byte") || strstr(e.text, "past the end") || strstr(e.text, "room for");
    }
    assert_int_equal(n_sentences, end); /* each says what is missing */
    arena_free(&a);
}

/* Three tensors of 1, 2 and 3 units, each anywhere on 8 places, in 6 to 7 units of data: refused exactly when
 * two share a unit or one leaves the data. */
static void every_placement_is_judged_rightly(void **state)
{
    struct err e = { 0 };
    size_t n_good = 0;
    for (unsigned code = 0; code < 8 * 8 * 8 * 2; code++) {
        unsigned at[3] = { code % 8, code / 8 % 8, code / 64 % 8 }, n_units = 6 + code / 512;
        unsigned used[16] = { 0 };
        bool is_good = true;
        char recipe[400];
        for (unsigned i = 0; i < 3; i++)
            for (unsigned u = at[i]; u <= at[i] + i; u++)
                is_good = is_good && u < n_units && used[u]++ == 0;
        snprintf(recipe, sizeof recipe,
                 "G w3 q3 q0 s'a' w1 q8 w0 q%u s'b' w1 q16 w0 q%u s'c' w1 q24 w0 q%u a32 z%u", at[0] * 32,
                 at[1] * 32, at[2] * 32, n_units * 32);
        if ((try_recipe(recipe, &e) == HEARTH_OK) != is_good)
            fail_msg("%s: %s", recipe, e.text);
        n_good += is_good;
    }
    /* 3! orders fill 6 units; in 7 units one free unit can stand in 4 places. */
    assert_int_equal(n_good, 6 + 6 * 4);
}

/* ---- sizes ---- */

/* The format's table once more, typed from its description: number, values and bytes of a block. */
static const struct {
    uint32_t type;
    unsigned len, bytes;
} blocks[] = {
    { 0, 1, 4 },      { 1, 1, 2 },      { 2, 32, 18 },   { 3, 32, 20 },    { 6, 32, 22 },    { 7, 32, 24 },
    { 8, 32, 34 },    { 9, 32, 36 },    { 10, 256, 84 }, { 11, 256, 110 }, { 12, 256, 144 }, { 13, 256, 176 },
    { 14, 256, 210 }, { 15, 256, 292 }, { 16, 256, 66 }, { 17, 256, 74 },  { 18, 256, 98 },  { 19, 256, 50 },
    { 20, 32, 18 },   { 21, 256, 110 }, { 22, 256, 82 }, { 23, 256, 136 }, { 24, 1, 1 },     { 25, 1, 2 },
    { 26, 1, 4 },     { 27, 1, 8 },     { 28, 1, 8 },    { 29, 256, 56 },  { 30, 1, 2 },     { 34, 256, 54 },
    { 35, 256, 66 },  { 39, 32, 17 },
};

static void extents_agree_with_wide_arithmetic(void **state)
{
    static const uint64_t nasty[] = {
        0,         1, 2, 32, 256, 0x7fffffff, 0x80000001, 0x100000000, 0x7fffffffffffffff, 0x8000000000000001,
        UINT64_MAX
    };
    const unsigned __int128 half = (unsigned __int128)1 << 63;
    size_t n_cases = 0, n_good = 0;
    for (size_t b = 0; b < ARRAY_LEN(blocks); b++)
        for (uint32_t n_dims = 0; n_dims <= 5; n_dims++) {
            unsigned n_codes = 1;
            for (uint32_t d = 0; d < MIN(n_dims, 4u); d++)
                n_codes *= ARRAY_LEN(nasty);
            for (unsigned code = 0, rest; code < n_codes; code++) {
                uint64_t dims[5] = { 1, 1, 1, 1, 1 };
                unsigned __int128 n = 1;
                bool is_good = n_dims >= 1 && n_dims <= 4;
                size_t bytes = 77;
                enum hearth_status st;
                rest = code;
                for (uint32_t d = 0; d < MIN(n_dims, 4u); d++, rest /= ARRAY_LEN(nasty)) {
                    dims[d] = nasty[rest % ARRAY_LEN(nasty)];
                    n = n < half ? n * dims[d] : half; /* stays below 2^127; a later 0 is refused anyway */
                    is_good = is_good && dims[d] != 0;
                }
                is_good = is_good && dims[0] % blocks[b].len == 0 && n < half &&
                          n / blocks[b].len * blocks[b].bytes < half;
                st = tensor_extent(&bytes, blocks[b].type, n_dims, dims, "t", NULL);
                if (st != (is_good ? HEARTH_OK : HEARTH_EDAMAGED) ||
                    (is_good && bytes != (size_t)(n / blocks[b].len * blocks[b].bytes)))
                    fail_msg("type %u, %u dims, code %u: status %d, %zu bytes", blocks[b].type, n_dims, code,
                             st, bytes);
                n_cases++;
                n_good += is_good;
            }
        }
    printf("%zu extents, %zu good\n", n_cases, n_good);
    assert_true(n_good > 1000 && n_good < n_cases / 2);
}

static void types_are_the_formats(void **state)
{
    size_t n = 0, n_strips = 0;
    for (uint32_t t = 0; t < 2000; t++) {
        const struct type_info *info = type_info(t);
        size_t bytes = 0;
        if (n < ARRAY_LEN(blocks) && blocks[n].type == t) {
            assert_non_null(info->name);
            assert_int_equal(info->block_len, blocks[n].len);
            assert_int_equal(info->block_bytes, blocks[n].bytes);
            assert_int_equal(type_by_name(info->name), t);
            assert_true(type_row_bytes(&bytes, t, 512) && bytes == 512 / blocks[n].len * blocks[n].bytes);
            assert_int_equal(type_row_bytes(&bytes, t, 33), blocks[n].len == 1);
            assert_int_equal(type_row_bytes(&bytes, t, SIZE_MAX / blocks[n].len * blocks[n].len),
                             blocks[n].bytes <= blocks[n].len);
            n++;
        } else if (t >= TYPE_R8 && type_info(t - TYPE_R8)->is_readable) {
            const struct type_info *rows = type_info(t - TYPE_R8);
            char name[32];
            snprintf(name, sizeof name, "%s_R8", rows->name);
            assert_string_equal(info->name, name);
            assert_true(info->block_len == rows->block_len && info->block_bytes == rows->block_bytes);
            assert_true(!info->is_readable && info->is_quantised == rows->is_quantised);
            assert_false(type_row_bytes(&bytes, t, 512)); /* there are no rows */
            n_strips++;
        } else {
            assert_null(info->name);
            assert_false(type_row_bytes(&bytes, t, 32));
        }
    }
    assert_int_equal(n, ARRAY_LEN(blocks));
    assert_int_equal(n_strips, 15);
    assert_null(type_info(UINT32_MAX)->name);
    assert_int_equal(type_by_name("q4_k"), TYPE_Q4_K);
    assert_int_equal(type_by_name("Bf16"), TYPE_BF16);
    assert_int_equal(type_by_name("q4_"), TYPE_COUNT);
    assert_int_equal(type_by_name("q4_kk"), TYPE_COUNT);
    assert_int_equal(type_by_name(""), TYPE_COUNT);
}

/* A type that hearth cannot compute with opens: it is the engine that refuses it. */
static void unreadable_types_open(void **state)
{
    struct err e = { 0 };
    assert_ok(
        try_recipe("G w3 q3 q0 s'a' w1 q256 w16 q0 s'b' w1 q2 w28 q96 s'c' w1 q32 w39 q128 a32 z145", &e),
        &e);
    assert_false(type_info(TYPE_IQ2_XXS)->is_readable);
}

/* ---- kinds ---- */

/* One key of each kind, and arrays of each kind but array: every getter on every key. */
static void kinds_are_never_confused(void **state)
{
    static const char *const values[] = {
        "b7", "b7", "h7", "h7", "w7", "w7", "w0x40e00000", "b1", "s'7'", "", "q7", "q7", "q0x401c000000000000"
    };
    struct gguf g;
    struct arena a;
    struct err e = { 0 };
    char recipe[2000] = "G w3 q0 q24";
    size_t n_right = 0;
    for (unsigned k = 0; k < GGUF_KIND_COUNT; k++)
        if (k != GGUF_ARRAY) {
            char part[120];
            snprintf(part, sizeof part, " s's%u' w%u %s s'a%u' w9 w%u q1 %s", k, k, values[k], k, k,
                     values[k]);
            strcat(recipe, part);
        }
    write_recipe("kinds.gguf", recipe);
    arena_init(&a, 0);
    assert_ok(gguf_open(&g, scratch_path("kinds.gguf"), &a, &e), &e);
    for (size_t i = 0; i < g.n_kvs; i++) {
        const struct gguf_kv *kv = &g.kvs[i];
        bool is_array = kv->kind == GGUF_ARRAY, b = false;
        bool is_float = kv->kind == GGUF_F32 || kv->kind == GGUF_F64;
        bool is_int = !is_array && !is_float && kv->kind != GGUF_BOOL && kv->kind != GGUF_STRING;
        char key[8] = { 0 };
        uint64_t u = 0;
        double f = 0;
        struct str s = { 0 };
        struct gguf_array v;
        memcpy(key, kv->key.p, kv->key.n);
#define EXPECT(call, is_right)                                                                               \
    do {                                                                                                     \
        enum hearth_status st_;                                                                              \
        err_clear(&e);                                                                                       \
        st_ = (call);                                                                                        \
        assert_int_equal(st_, (is_right) ? HEARTH_OK : HEARTH_EDAMAGED);                                     \
        if (st_ != HEARTH_OK)                                                                                \
            assert_true(strstr(e.text, key) && strstr(e.text, "kinds.gguf"));                                \
        n_right += st_ == HEARTH_OK;                                                                         \
    } while (0)
        EXPECT(gguf_get_u64(&g, key, 7, 7, &u, &e), is_int);
        EXPECT(gguf_get_f64(&g, key, &f, &e), is_float);
        EXPECT(gguf_get_bool(&g, key, &b, &e), kv->kind == GGUF_BOOL);
        EXPECT(gguf_get_str(&g, key, &s, &e), kv->kind == GGUF_STRING);
        for (unsigned k = 0; k < GGUF_KIND_COUNT; k++)
            EXPECT(gguf_get_array(&g, key, (enum gguf_kind)k, &v, &e), is_array && kv->v.a.kind == k);
        assert_true(!is_int || u == 7);
        assert_true(!is_float || f == 7);
        assert_true(kv->kind != GGUF_STRING || str_eqz(s, "7"));
    }
    assert_int_equal(n_right, 12 + 12);
    gguf_close(&g);
    arena_free(&a);
}

static void ranges_are_kept(void **state)
{
    struct gguf g;
    struct arena a;
    struct err e = { 0 };
    uint64_t u = 0;
    double f = 0;
    write_recipe("ranges.gguf", "G w3 q0 q5 s'six' w0 b6 s'u' w10 q-1 s'i' w5 w-1 s'nan' w6 w0x7fc00000 "
                                "s'inf' w12 q0x7ff0000000000000");
    arena_init(&a, 0);
    assert_ok(gguf_open(&g, scratch_path("ranges.gguf"), &a, &e), &e);
    assert_ok(gguf_get_u64(&g, "u", 0, UINT64_MAX, &u, &e), &e);
    assert_int_equal(gguf_get_u64(&g, "u", 0, UINT64_MAX - 1, &u, &e), HEARTH_EDAMAGED);
    assert_non_null(strstr(e.text, "key 'u': is 18446744073709551615, allowed is 0 to 18446744073709551614"));
    err_clear(&e);
    for (uint64_t v = 4; v <= 8; v++) /* the key holds 6 */
        assert_int_equal(gguf_get_u64(&g, "six", v, v + 1, &u, NULL),
                         v == 5 || v == 6 ? HEARTH_OK : HEARTH_EDAMAGED);
    assert_int_equal(gguf_get_u64(&g, "i", 0, UINT64_MAX, &u, &e), HEARTH_EDAMAGED);
    assert_non_null(strstr(e.text, "key 'i': is -1"));
    err_clear(&e);
    assert_int_equal(gguf_get_f64(&g, "nan", &f, &e), HEARTH_EDAMAGED);
    assert_int_equal(gguf_get_f64(&g, "inf", &f, &e), HEARTH_EDAMAGED);
    assert_non_null(strstr(e.text, "key 'nan': is not a finite number"));
    gguf_close(&g);
    assert_null(gguf_find(&g, "u"));
    assert_null(gguf_find_tensor(&g, "u"));
    arena_free(&a);
}

/* ---- limits: what is just allowed ---- */

static void what_is_at_the_limit_opens(void **state)
{
    static const char *const recipes[] = {
        "G w3 q0 q1 X256 w0 b0",
        "G w3 q0 q1 s'k' w8 X1048576",
        "G w3 q0 q1 s'tokenizer.chat_template' w8 X262144",
        "G w3 q0 q1 s'k' w9 w0 q4194304 z4194304",
        "G w3 q0 q1 s'k' w9 w8 q0",
        "G w3 q1 q0 X64 w1 q8 w0 q0 a32 z32",
        "G w3 q0 q4096 *4096( s'key#' w0 b0 )",
        "G w3 q65536 q0 *65536( s'tensor#' w1 q0x100000 w24 q0x80000000 )", /* far behind the end: refused
                                                                               below */
        "G w3 q1 q1 s'general.alignment' w4 w8 s't' w1 q2 w0 q8 a8 z16",
        "G w3 q1 q1 s'general.alignment' w4 w65536 s't' w1 q2 w0 q65536 a65536 z65544",
        "G w2 q1 q1 s'k' w0 b1 s't' w1 q8 w0 q0 a32 z32",
        "G w3 q0 q1 s'split.count' w2 h1024", /* refused: the other keys are missing */
    };
    struct err e = { 0 };
    for (size_t i = 0; i < ARRAY_LEN(recipes); i++) {
        enum hearth_status st = try_recipe(recipes[i], &e);
        if (i == 7)
            assert_non_null(strstr(e.text, "tensor 'tensor0': 1048576 bytes at offset 2147483648"));
        else if (i == 11)
            assert_non_null(strstr(e.text, "1024 parts, but"));
        else
            assert_ok(st, &e);
    }
}

static void many_tensors_in_any_order_take_little_time(void **state)
{
    enum { N = LIMIT_GGUF_TENSORS };
    struct gguf g;
    struct arena a;
    struct err e = { 0 };
    struct buf b;
    uint64_t began;
    buf_init(&b, 0);
    build_recipe(&b, "G w3 q65536 q0");
    for (uint64_t i = 0; i < N; i++) { /* file order is a permutation */
        uint64_t name_bytes = 6, at = i * 40503 % N * 32, one = 8;
        uint32_t n_dims = 1, type = 0;
        char name[8];
        snprintf(name, sizeof name, "t%05u", (unsigned)i);
        buf_append(&b, &name_bytes, 8);
        buf_append(&b, name, 6);
        buf_append(&b, &n_dims, 4);
        buf_append(&b, &one, 8);
        buf_append(&b, &type, 4);
        buf_append(&b, &at, 8);
    }
    assert_false(b.failed);
    write_file(scratch_path("many.gguf"), b.data, b.len);
    assert_int_equal(truncate(scratch_path("many.gguf"), (off_t)((b.len + 31) / 32 * 32 + N * 32)), 0);
    arena_init(&a, 0);
    began = clock_ns();
    assert_ok(gguf_open(&g, scratch_path("many.gguf"), &a, &e), &e);
    for (unsigned i = 0; i < N; i++) {
        char name[8];
        snprintf(name, sizeof name, "t%05u", i);
        assert_ptr_equal(gguf_find_tensor(&g, name), &g.tensors[i]);
    }
    printf("%d tensors opened and found in %.0f ms\n", N, (double)(clock_ns() - began) / 1e6);
    assert_true(clock_ns() - began < 20000000000u); /* a quadratic search takes minutes */
    gguf_close(&g);
    arena_free(&a);
    buf_free(&b);
}

/* 8 arrays of 32 MiB in a sparse file: the ninth is over the limit of 256 MiB before it is read. */
static void metadata_is_limited(void **state)
{
    struct err e = { 0 };
    FILE *f = fopen(scratch_path("big.gguf"), "wb");
    struct buf b;
    assert_non_null(f);
    buf_init(&b, 0);
    build_recipe(&b, "G w3 q0 q9");
    for (unsigned i = 0; i < 9; i++) {
        char recipe[80];
        snprintf(recipe, sizeof recipe, "s'k%u' w9 w10 q4194304", i);
        build_recipe(&b, recipe);
        fwrite(b.data, 1, b.len, f);
        fseek(f, 4194304L * 8, SEEK_CUR);
        buf_free(&b);
    }
    fputc(0, f);
    fclose(f);
    assert_int_equal(try_open(scratch_path("big.gguf"), &e), HEARTH_ELIMIT);
    assert_non_null(strstr(e.text, "key 'k7': the metadata is larger than the limit of 268435456 bytes"));
    unlink(scratch_path("big.gguf"));
}

/* A path too long for the sentence keeps its end, and the sentence what is wrong. */
static void long_paths_leave_room_for_the_cause(void **state)
{
    char dir[220], name[240];
    struct err e = { 0 };
    memset(dir, 'd', sizeof dir);
    dir[sizeof dir - 1] = 0;
    mkdir(scratch_path(dir), 0700);
    snprintf(name, sizeof name, "%s/long.gguf", dir);
    write_recipe(name, "G w3 q0 q1 s'k' w13 z8");
    assert_int_equal(try_open(scratch_path(name), &e), HEARTH_EDAMAGED);
    assert_non_null(strstr(e.text, "ddd/long.gguf: key 'k': value kind 13 does not exist"));
}

/* ---- splits ---- */

#define SPLIT(no, count, total)                                                                              \
    "s'split.no' w2 h" #no " s'split.count' w2 h" #count " s'split.tensors.count' w5 w" #total " "
static const char part1[] =
    "G w3 q2 q4 " SPLIT(0, 3, 4) "s'name' w8 s'x' s'a' w1 q8 w0 q0 s'b' w1 q8 w0 q32 a32 x64";
static const char part2[] = "G w3 q1 q3 " SPLIT(1, 3, 4) "s'c' w1 q16 w0 q0 a32 x64";
static const char part3[] =
    "G w3 q1 q4 " SPLIT(2, 3, 4) "s'general.alignment' w4 w64 s'd' w1 q16 w0 q64 a64 x128";

static enum hearth_status try_parts(const char *first, const char *second, const char *third, struct err *e)
{
    static const char *const names[] = { "m-00001-of-00003.gguf", "m-00002-of-00003.gguf",
                                         "m-00003-of-00003.gguf" };
    const char *recipes[] = { first, second, third };
    for (int i = 0; i < 3; i++) {
        unlink(scratch_path(names[i]));
        if (recipes[i])
            write_recipe(names[i], recipes[i]);
    }
    return try_open(scratch_path(names[0]), e);
}

static void expect_parts(const char *first, const char *second, const char *third, enum hearth_status st,
                         const char *says)
{
    struct err e = { 0 };
    if (try_parts(first, second, third, &e) != st || !strstr(e.text, says))
        fail_msg("expected \"%s\", got \"%s\"", says, e.text);
}

static void splits_are_one_model(void **state)
{
    struct gguf g;
    struct arena a;
    struct err e = { 0 };
    const struct gguf_tensor *t;
    char x = 0;
    assert_ok(try_parts(part1, part2, part3, &e), &e);
    arena_init(&a, 0);
    assert_ok(gguf_open(&g, scratch_path("m-00001-of-00003.gguf"), &a, &e), &e);
    assert_int_equal(g.n_files, 3);
    assert_int_equal(g.n_tensors, 4);
    assert_int_equal(g.n_kvs, 4);
    t = gguf_find_tensor(&g, "d");
    assert_true(t && t->i_file == 2 && t->offset % 64 == 0 && t->size_bytes == 64);
    assert_ok(file_read(&g.files[2], &x, 1, t->offset + 63, &e), &e);
    assert_int_equal(x, 'x');
    assert_int_equal(gguf_find_tensor(&g, "b")->i_file, 0);
    gguf_close(&g);
    arena_free(&a);
    assert_int_equal(try_open(scratch_path("m-00002-of-00003.gguf"), &e), HEARTH_EINVAL);
    assert_non_null(strstr(e.text, "part 2 of 3 of a split model; open the first part, "));
    assert_non_null(strstr(e.text, "m-00001-of-00003.gguf"));
    write_recipe("m-00001-of-00004.gguf", part1);
    assert_int_equal(try_open(scratch_path("m-00001-of-00004.gguf"), &e), HEARTH_EINVAL);
    assert_non_null(strstr(e.text, "its name should be"));
    expect_parts("G w3 q1 q1 s'k' w0 b0 s'a' w1 q8 w0 q0 a32 z32", NULL, NULL, HEARTH_OK,
                 ""); /* the metadata decides */
}

static void splits_that_disagree_are_refused(void **state)
{
    expect_parts(part1, part2, NULL, HEARTH_ENOTFOUND, "m-00003-of-00003.gguf");
    expect_parts(part1, part3, part2, HEARTH_EDAMAGED,
                 "m-00002-of-00003.gguf: header: is part 3 of 3 with 4 tensors in all, expected was part 2");
    expect_parts(part1, part1, part3, HEARTH_EDAMAGED, "is part 1 of 3");
    expect_parts(part1, "G w3 q1 q3 " SPLIT(1, 4, 4) "s'c' w1 q16 w0 q0 a32 x64", part3, HEARTH_EDAMAGED,
                 "part 2 of 4");
    expect_parts(part1, "G w3 q1 q3 " SPLIT(1, 3, 5) "s'c' w1 q16 w0 q0 a32 x64", part3, HEARTH_EDAMAGED,
                 "with 5 tensors");
    expect_parts(part1, "G w3 q1 q0 s'c' w1 q16 w0 q0 a32 x64", part3, HEARTH_EDAMAGED, "is part 1 of 0");
    expect_parts(part1, "G w3 q1 q3 " SPLIT(1, 3, 4) "s'a' w1 q16 w0 q0 a32 x64", part3, HEARTH_EDAMAGED,
                 "tensor 'a': is there twice");
    expect_parts(part1, "G w3 q1 q3 " SPLIT(1, 3, 4) "s'c' w1 q16 w0 q0 a32 x63", part3, HEARTH_EDAMAGED,
                 "past the end");
    expect_parts(part1, "G w3 q0 q3 " SPLIT(1, 3, 4), part3, HEARTH_EDAMAGED,
                 "3 tensors in all parts, but split.tensors.count is 4");
    expect_parts(part1,
                 "G w3 q3 q3 " SPLIT(1, 3, 4) "s'c' w1 q8 w0 q0 s'd' w1 q8 w0 q32 s'e' w1 q8 w0 q64 a32 x96",
                 part3, HEARTH_EDAMAGED, "more tensors in the parts than split.tensors.count, 4");
    expect_parts(part1, "x10", part3, HEARTH_EDAMAGED, "m-00002-of-00003.gguf: header: not a GGUF file");
}

/* ---- memory that runs out ---- */

static void every_allocation_may_fail(void **state)
{
    static const char *const paths[] = { "sample.gguf", "m-00001-of-00003.gguf", "unordered.gguf" };
    write_sample(scratch_path("sample.gguf"));
    write_recipe("unordered.gguf", "G w3 q2 q0 s'a' w1 q8 w0 q32 s'b' w1 q8 w0 q0 a32 x64");
    expect_parts(part1, part2, part3, HEARTH_OK, "");
    for (size_t i = 0; i < ARRAY_LEN(paths); i++) {
        enum hearth_status st = HEARTH_ENOMEM;
        size_t n_failed = 0;
        for (size_t cap = 1; st != HEARTH_OK; cap += 16, n_failed++) {
            struct gguf g;
            struct arena a;
            struct err e = { 0 };
            arena_init(&a, cap);
            st = gguf_open(&g, scratch_path(paths[i]), &a, &e);
            assert_true(st == HEARTH_OK ||
                        (st == HEARTH_ENOMEM && g.n_files == 0 && strstr(e.text, "no memory")));
            gguf_close(&g);
            arena_free(&a);
        }
        assert_true(n_failed > 10);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(bad_files_are_refused_by_name),
        cmocka_unit_test(every_cut_is_noticed),
        cmocka_unit_test(every_placement_is_judged_rightly),
        cmocka_unit_test(extents_agree_with_wide_arithmetic),
        cmocka_unit_test(types_are_the_formats),
        cmocka_unit_test(unreadable_types_open),
        cmocka_unit_test(kinds_are_never_confused),
        cmocka_unit_test(ranges_are_kept),
        cmocka_unit_test(what_is_at_the_limit_opens),
        cmocka_unit_test(many_tensors_in_any_order_take_little_time),
        cmocka_unit_test(metadata_is_limited),
        cmocka_unit_test(long_paths_leave_room_for_the_cause),
        cmocka_unit_test(splits_are_one_model),
        cmocka_unit_test(splits_that_disagree_are_refused),
        cmocka_unit_test(every_allocation_may_fail),
    };
    if (argc == 3 && strcmp(argv[1], "--dump") == 0) {
        dump_bad_files(argv[2], BAD_GGUF);
        dump_bad_files(argv[2], BAD_VOCAB);
        return 0;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}

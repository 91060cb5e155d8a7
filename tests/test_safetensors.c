/* test_safetensors.c: checkpoints of one and of several files; JSON of hostile origin.
 *
 * test_safetensors --dump FOLDER writes the bad files out as a fuzz corpus.
 */
#define _DEFAULT_SOURCE
#include "support.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "bad_files.h"
#include "formats/formats.h"

/* Writes length, header and n_data bytes 0, 1, 2 ... */
static void write_st(const char *path, const char *header, size_t n_data)
{
    size_t n = strlen(header);
    uint8_t *p = malloc(8 + n + n_data);
    CHECK(p);
    for (size_t i = 0; i < 8; i++)
        p[i] = (uint8_t)((uint64_t)n >> (8 * i));
    memcpy(p + 8, header, n);
    for (size_t i = 0; i < n_data; i++)
        p[8 + n + i] = (uint8_t)i;
    unlink(path); /* file systems flush a file that is truncated and rewritten */
    write_file(path, p, 8 + n + n_data);
    free(p);
}

static void one_file_is_read(void **state)
{
    struct safetensors s;
    struct arena a;
    struct err e = { 0 };
    uint8_t byte;
    const struct st_tensor *t;
    arena_init(&a, 0);
    write_st(scratch_path("one.safetensors"),
             "{\"__metadata__\":{\"format\":\"pt\"},\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_"
             "offsets\":[4,16]},"
             "\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}   ",
             16);
    assert_ok(st_open(&s, scratch_path("one.safetensors"), &a, &e), &e);
    assert_int_equal(s.n_tensors, 2);
    t = st_find(&s, "b");
    assert_true(t && t->type == TYPE_BF16 && t->n_dims == 2 && t->dims[0] == 2 && t->dims[1] == 3 &&
                t->size_bytes == 12);
    assert_ok(file_read(&s.files[0], &byte, 1, t->offset, &e), &e);
    assert_int_equal(byte, 4);
    t = st_find(&s, "a");
    assert_true(t && t->n_dims == 0 && t->size_bytes == 4);
    assert_null(st_find(&s, "__metadata__"));
    st_close(&s);
    st_close(&s);
    assert_null(st_find(&s, "a"));
    arena_free(&a);
}

static void a_folder_of_shards_is_read(void **state)
{
    static const char *const first = "{\"x\":{\"dtype\":\"I8\",\"shape\":[3],\"data_offsets\":[0,3]}}";
    static const char *const second = "{\"y\":{\"dtype\":\"I8\",\"shape\":[5],\"data_offsets\":[0,5]}}";
    static const char index[] = "{\"metadata\":{\"total_size\":8},\"weight_map\":{\"y\":\"m-2.safetensors\","
                                "\"x\":\"m-1.safetensors\"}}";
    struct safetensors s;
    struct arena a;
    struct err e = { 0 };
    arena_init(&a, 0);
    mkdir(scratch_path("shards"), 0700);
    assert_int_equal(st_open(&s, scratch_path("shards"), &a, &e), HEARTH_ENOTFOUND);
    err_clear(&e);
    write_st(scratch_path("shards/m-1.safetensors"), first, 3);
    write_st(scratch_path("shards/m-2.safetensors"), second, 5);
    write_file(scratch_path("shards/model.safetensors.index.json"), index, sizeof index - 1);
    assert_ok(st_open(&s, scratch_path("shards"), &a, &e), &e);
    assert_int_equal(s.n_files, 2);
    assert_int_equal(s.n_tensors, 2);
    assert_non_null(strstr(s.files[st_find(&s, "x")->i_file].path, "m-1"));
    assert_non_null(strstr(s.files[st_find(&s, "y")->i_file].path, "m-2"));
    st_close(&s);
    arena_free(&a);
}

static void real_checkpoints_open(void **state)
{
    static const struct {
        const char *path;
        size_t n_tensors;
        const char *name;
    } files[] = {
        { "models/tinystories-656k/model.safetensors", 20, "lm_head.weight" },
        { "models/tinystories-656k", 20, "model.norm.weight" },
        { "models/tinychat-relu", 53, NULL },
    };
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        struct safetensors s;
        struct arena a;
        struct err e = { 0 };
        need_data(files[i].path);
        arena_init(&a, 0);
        assert_ok(st_open(&s, data_path(files[i].path), &a, &e), &e);
        assert_int_equal(s.n_tensors, files[i].n_tensors);
        if (files[i].name)
            assert_non_null(st_find(&s, files[i].name));
        for (size_t k = 0; k < s.n_tensors; k++)
            assert_true(s.tensors[k].offset + s.tensors[k].size_bytes <= s.files[0].size_bytes);
        st_close(&s);
        arena_free(&a);
    }
}

/* nst/JSONTestSuite: y_ must parse, n_ must not. Duplicate keys are refused on purpose. */
static void the_json_test_suite_agrees(void **state)
{
    DIR *dir;
    struct dirent *d;
    size_t n_yes = 0, n_no = 0;
    need_data("api/json-parsing");
    dir = opendir(data_path("api/json-parsing"));
    assert_non_null(dir);
    while ((d = readdir(dir)) != NULL) {
        struct arena a;
        struct err e = { 0 };
        json_t *v = NULL;
        char path[512], *text;
        size_t n;
        enum hearth_status st;
        if (d->d_name[0] == '.')
            continue;
        arena_init(&a, 0);
        snprintf(path, sizeof path, "api/json-parsing/%s", d->d_name);
        assert_ok(file_read_all(&text, &n, data_path(path), 16 * MIB, &a, &e), &e);
        st = json_parse(&v, text, n, d->d_name, &e);
        if (d->d_name[0] == 'y' && strncmp(d->d_name, "y_object_duplicated_key", 23) != 0) {
            assert_ok(st, &e);
            n_yes++;
        } else if (d->d_name[0] == 'n') {
            if (st == HEARTH_OK)
                fail_msg("%s was accepted", d->d_name);
            assert_true(st == HEARTH_EDAMAGED || st == HEARTH_ELIMIT);
            assert_non_null(strstr(e.text, d->d_name));
            n_no++;
        }
        json_decref(v);
        arena_free(&a);
    }
    closedir(dir);
    printf("%zu accepted, %zu refused\n", n_yes, n_no);
    assert_true(n_yes > 30 && n_no > 60);
}

static enum hearth_status try_open(const char *path, struct err *e)
{
    struct safetensors s;
    struct arena a;
    enum hearth_status st;
    arena_init(&a, 0);
    err_clear(e);
    st = st_open(&s, path, &a, e);
    assert_int_equal(st, e->status);
    assert_int_equal(st == HEARTH_OK, s.n_files > 0);
    st_close(&s);
    arena_free(&a);
    return st;
}

static void bad_files_are_refused_by_name(void **state)
{
    size_t n = 0;
    for (size_t i = 0; i < n_bad_files; i++) {
        if (bad_files[i].format == BAD_SAFETENSORS)
            check_bad_file(&bad_files[i], scratch_path("bad.safetensors"));
        else if (bad_files[i].format == BAD_INDEX)
            check_bad_file(&bad_files[i], scratch_path("bad-folder"));
        n += bad_files[i].format != BAD_GGUF;
    }
    printf("%zu bad safetensors files\n", n);
}

static const char two_tensors[] = "{\"__metadata__\":{\"format\":\"pt\"},\"b\":{\"dtype\":\"BF16\",\"shape\":"
                                  "[2,3],\"data_offsets\":[4,16]},"
                                  "\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}";

static void every_cut_is_noticed(void **state)
{
    const char *path = scratch_path("cut.safetensors");
    struct err e = { 0 };
    write_st(path, two_tensors, 16);
    assert_ok(try_open(path, &e), &e);
    for (size_t n = 8 + sizeof two_tensors - 1 + 16; n-- > 0;) {
        assert_int_equal(truncate(path, (off_t)n), 0);
        if (try_open(path, &e) != HEARTH_EDAMAGED || !strstr(e.text, path))
            fail_msg("cut at byte %zu: %s", n, e.text);
    }
}

/* Tensors of 1, 2 and 3 bytes, each anywhere on 8 places, in 6 or 7 bytes of data: accepted exactly when they
 * cover the data and share nothing. */
static void every_placement_is_judged_rightly(void **state)
{
    struct err e = { 0 };
    size_t n_good = 0;
    for (unsigned code = 0; code < 8 * 8 * 8 * 2; code++) {
        unsigned at[3] = { code % 8, code / 8 % 8, code / 64 % 8 }, n_bytes = 6 + code / 512,
                 used[16] = { 0 };
        bool is_good = n_bytes == 6;
        char header[400] = "{";
        for (unsigned i = 0; i < 3; i++) {
            for (unsigned u = at[i]; u <= at[i] + i; u++)
                is_good = is_good && u < n_bytes && used[u]++ == 0;
            snprintf(header + strlen(header), 100,
                     "%s\"%c\":{\"dtype\":\"I8\",\"shape\":[%u],\"data_offsets\":[%u,%u]}", i ? "," : "",
                     'a' + (int)i, i + 1, at[i], at[i] + i + 1);
        }
        strcat(header, "}");
        write_st(scratch_path("placed.safetensors"), header, n_bytes);
        if ((try_open(scratch_path("placed.safetensors"), &e) == HEARTH_OK) != is_good)
            fail_msg("%s: %s", header, e.text);
        n_good += is_good;
    }
    assert_int_equal(n_good, 6);
}

/* A file with n tensors in scrambled order. */
static double open_time_ms(size_t n)
{
    struct buf b;
    struct err e = { 0 };
    double best = 1e9;
    buf_init(&b, 0);
    for (size_t i = 0; i < n; i++) {
        size_t at = i * 40503 % n;
        buf_printf(
            &b, "%c\"model.layers.%zu.weight\":{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[%zu,%zu]}",
            i ? ',' : '{', i, at, at + 1);
    }
    buf_printf(&b, "}");
    assert_false(b.failed);
    write_st(scratch_path("many.safetensors"), b.data, n);
    buf_free(&b);
    for (int round = 0; round < 3; round++) {
        clock_t began = clock(); /* of the processor: others may use the machine */
        assert_ok(try_open(scratch_path("many.safetensors"), &e), &e);
        best = MIN(best, (double)(clock() - began) * 1e3 / CLOCKS_PER_SEC);
    }
    return best;
}

static void time_grows_with_the_entries_only(void **state)
{
    double few = open_time_ms(1024), many = open_time_ms(65536);
    printf("1024 entries: %.2f ms, 65536 entries: %.1f ms\n", few, many);
    assert_true(many <
                few * 1024 +
                    100); /* linear is 64 times plus the caches' share, quadratic would be 4096 times */
}

static void every_allocation_may_fail(void **state)
{
    static const char index[] = "{\"weight_map\":{\"x\":\"1\",\"y\":\"2\",\"z\":\"2\"}}";
    const char *paths[2] = { scratch_path("oom.safetensors"), scratch_path("oom") };
    struct buf b;
    buf_init(&b, 0);
    write_st(paths[0], two_tensors, 16);
    mkdir(paths[1], 0700);
    for (int i = 0; i < 2; i++) {
        build_recipe(&b, good_shards[i]);
        write_file(scratch_path(i ? "oom/2" : "oom/1"), b.data, b.len);
        buf_free(&b);
    }
    write_file(scratch_path("oom/model.safetensors.index.json"), index, sizeof index - 1);
    for (int i = 0; i < 2; i++) {
        enum hearth_status st = HEARTH_ENOMEM;
        size_t n_failed = 0;
        for (size_t cap = 1; st != HEARTH_OK; cap += 16, n_failed++) {
            struct safetensors s;
            struct arena a;
            struct err e = { 0 };
            arena_init(&a, cap);
            st = st_open(&s, paths[i], &a, &e);
            if (st != HEARTH_OK && (st != HEARTH_ENOMEM || s.n_files != 0 || !strstr(e.text, "no memory")))
                fail_msg("limit %zu: %s", cap, e.text);
            st_close(&s);
            arena_free(&a);
        }
        assert_true(n_failed > 5);
    }
}

/* The same tensor in two shards; more shards than are allowed. */
static void shards_are_checked_against_each_other(void **state)
{
    struct err e = { 0 };
    struct buf b;
    const char *index = scratch_path("two/model.safetensors.index.json"), *dir = scratch_path("two");
    mkdir(dir, 0700);
    write_st(scratch_path("two/1"), "{\"x\":{\"dtype\":\"I8\",\"shape\":[3],\"data_offsets\":[0,3]}}", 3);
    write_st(scratch_path("two/2"), "{\"x\":{\"dtype\":\"I8\",\"shape\":[3],\"data_offsets\":[0,3]}}", 3);
    buf_init(&b, 0);
    buf_printf(&b, "{\"weight_map\":{\"x\":\"1\",\"y\":\"2\"}}");
    write_file(index, b.data, b.len);
    buf_free(&b);
    assert_int_equal(try_open(dir, &e), HEARTH_EDAMAGED);
    assert_non_null(strstr(e.text, "two/2: tensor 'x': is in two files"));
    for (int i = 0; i <= LIMIT_GGUF_SPLITS; i++)
        buf_printf(&b, "%s\"t%d\":\"f%d\"", i ? "," : "{\"weight_map\":{", i, i);
    buf_printf(&b, "}}");
    write_file(index, b.data, b.len);
    buf_free(&b);
    assert_int_equal(try_open(dir, &e), HEARTH_ELIMIT);
    assert_non_null(strstr(e.text, "more than 1024 files"));
}

/* ---- JSON ---- */

static void expect_json(const char *text, size_t n, enum hearth_status want, const char *says)
{
    struct err e = { 0 };
    json_t *v;
    enum hearth_status st = json_parse(&v, text, n, "the text", &e);
    if (st != want || (v != NULL) != (st == HEARTH_OK) ||
        (st != HEARTH_OK && (!strstr(e.text, says) || !strstr(e.text, "the text"))))
        fail_msg("%.100s: expected \"%s\", got \"%s\"", text, says, e.text);
    json_decref(v);
}

static void json_is_bounded(void **state)
{
    char deep[400] = { 0 };
    json_t *v;
    struct err e = { 0 };
    memset(deep, '[', 64);
    memset(deep + 64, ']', 64);
    expect_json(deep, 128, HEARTH_OK, "");
    memset(deep, '[', 65);
    memset(deep + 65, ']', 65);
    expect_json(deep, 130, HEARTH_ELIMIT, "nested deeper than 64 levels at byte 64");
    memset(deep, '[', 399);
    expect_json(deep, 399, HEARTH_ELIMIT, "nested deeper");
    expect_json("\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\"", 77,
                HEARTH_OK, "");
    expect_json("{\"a\":1,\"a\":2}", 13, HEARTH_EDAMAGED, "uplicate");
    expect_json("{\"a\":1,\"\\u0061\":2}", 18, HEARTH_EDAMAGED, "uplicate");
    expect_json("[1,\"\x1b[31m]", 10, HEARTH_EDAMAGED, "not JSON");
    expect_json("", 0, HEARTH_EDAMAGED, "not JSON");
    expect_json("[1]\0", 4, HEARTH_EDAMAGED, "a NUL byte at byte 3");
    expect_json("\"a\\", 3, HEARTH_EDAMAGED, "not JSON");
    expect_json("\"a\\\0\"", 5, HEARTH_EDAMAGED, "a NUL byte");
    expect_json("[1e400]", 7, HEARTH_EDAMAGED, "not JSON");
    assert_ok(json_parse(&v, "\"a\\u0000b\"", 10, "nul", &e), &e);
    assert_int_equal(json_string_length(v), 3);
    json_decref(v);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_file_is_read),
        cmocka_unit_test(a_folder_of_shards_is_read),
        cmocka_unit_test(real_checkpoints_open),
        cmocka_unit_test(bad_files_are_refused_by_name),
        cmocka_unit_test(every_cut_is_noticed),
        cmocka_unit_test(every_placement_is_judged_rightly),
        cmocka_unit_test(time_grows_with_the_entries_only),
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(shards_are_checked_against_each_other),
        cmocka_unit_test(the_json_test_suite_agrees),
        cmocka_unit_test(json_is_bounded),
    };
    if (argc == 3 && strncmp(argv[1], "--dump", 6) == 0) {
        dump_bad_files(argv[2], strcmp(argv[1], "--dump-index") == 0 ? BAD_INDEX : BAD_SAFETENSORS);
        return 0;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}

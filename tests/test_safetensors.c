/* test_safetensors.c: checkpoints of one and of several files; JSON of hostile origin.
 */
#define _DEFAULT_SOURCE
#include "support.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

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
             "{\"__metadata__\":{\"format\":\"pt\"},\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[4,16]},"
             "\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}   ", 16);
    assert_ok(st_open(&s, scratch_path("one.safetensors"), &a, &e), &e);
    assert_int_equal(s.n_tensors, 2);
    t = st_find(&s, "b");
    assert_true(t && t->type == TYPE_BF16 && t->n_dims == 2 && t->dims[0] == 2 && t->dims[1] == 3 && t->size_bytes == 12);
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
    static const char index[] = "{\"metadata\":{\"total_size\":8},\"weight_map\":{\"y\":\"m-2.safetensors\",\"x\":\"m-1.safetensors\"}}";
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
    static const struct { const char *path; size_t n_tensors; const char *name; } files[] = {
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_file_is_read),
        cmocka_unit_test(a_folder_of_shards_is_read),
        cmocka_unit_test(real_checkpoints_open),
        cmocka_unit_test(the_json_test_suite_agrees),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* test_gguf_write.c: the GGUF writer: copies, alignment, misuse, memory and disk that run out.
 */
#define _DEFAULT_SOURCE
#include "support.h"

#include <dirent.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "formats/formats.h"

static const uint64_t dims_b[] = { 32 };

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

static size_t files_in_scratch(const char *prefix)
{
    DIR *dir = opendir(scratch_path(""));
    struct dirent *d;
    size_t n = 0;
    assert_non_null(dir);
    while ((d = readdir(dir)) != NULL)
        n += strncmp(d->d_name, prefix, strlen(prefix)) == 0;
    closedir(dir);
    return n;
}

static void every_allocation_may_fail(void **state)
{
    enum hearth_status st = HEARTH_ENOMEM;
    for (size_t cap = 1; st != HEARTH_OK; cap += 16) {
        struct gguf_writer *w;
        struct arena a;
        struct err e = { 0 };
        arena_init(&a, cap);
        st = gguf_writer_open(&w, scratch_path("oom.gguf"), &a, &e);
        if (st == HEARTH_OK) {
            gguf_put_str(w, "general.architecture", STR("llama"));
            gguf_put_tensor(w, STR("a"), TYPE_F32, 1, (const uint64_t[]){ 1 });
            st = gguf_begin_data(w, &e);
            if (st == HEARTH_OK)
                st = gguf_write_data(w, "1234", 4, &e);
            st = gguf_writer_commit(w, &e);
        }
        assert_true(st == HEARTH_OK || (st == HEARTH_ENOMEM && files_in_scratch("oom") == 0));
        arena_free(&a);
    }
    assert_int_equal(files_in_scratch("oom"), 1);
}

enum misuse {
    TWO_KEYS,
    TWO_TENSORS,
    BAD_KEY,
    LONG_KEY,
    BAD_TENSOR_NAME,
    LONG_TENSOR_NAME,
    LONG_STRING,
    ZERO_DIM,
    ODD_ROW,
    NO_TYPE,
    BAD_ALIGNMENT,
    TOO_LITTLE,
    TOO_MUCH,
    BEHIND_THE_LAST,
    BEFORE_BEGIN,
    KEY_AFTER_BEGIN,
    TENSOR_AFTER_BEGIN,
    TOO_MANY_KEYS,
    TOO_MANY_TENSORS,
    LONG_ARRAY,
    LARGER_THAN_A_FILE,
    MISUSES
};

static void misuse(struct gguf_writer *w, enum misuse how, struct err *e)
{
    static char text[LIMIT_GGUF_STRING_BYTES + 1];
    char long_name[300];
    memset(text, 'x', sizeof text);
    memset(long_name, 'x', sizeof long_name);
    long_name[257] = 0;
    switch (how) {
    case TWO_KEYS:
        gguf_put_u32(w, "k", 2);
        break;
    case TWO_TENSORS:
        gguf_put_tensor(w, STR("b"), TYPE_F32, 1, dims_b);
        break;
    case BAD_KEY:
        gguf_put_u32(w, "a\nb", 2);
        break;
    case LONG_KEY:
        gguf_put_u32(w, long_name, 2);
        break;
    case BAD_TENSOR_NAME:
        gguf_put_tensor(w, STR(""), TYPE_F32, 1, dims_b);
        break;
    case LONG_TENSOR_NAME:
        gguf_put_tensor(w, (struct str){ long_name, 65 }, TYPE_F32, 1, dims_b);
        break;
    case LONG_STRING:
        gguf_put_str(w, "s", (struct str){ text, sizeof text });
        break;
    case ZERO_DIM:
        gguf_put_tensor(w, STR("c"), TYPE_F32, 2, (const uint64_t[]){ 3, 0 });
        break;
    case ODD_ROW:
        gguf_put_tensor(w, STR("c"), TYPE_Q4_0, 1, (const uint64_t[]){ 33 });
        break;
    case NO_TYPE:
        gguf_put_tensor(w, STR("c"), (enum tensor_type)5, 1, dims_b);
        break;
    case BAD_ALIGNMENT:
        gguf_put_u32(w, "general.alignment", 48);
        break;
    case TOO_MANY_KEYS:
        for (unsigned i = 0; i < LIMIT_GGUF_KEYS; i++) {
            char key[16];
            snprintf(key, sizeof key, "k%u", i);
            gguf_put_u32(w, key, i);
        }
        break;
    case TOO_MANY_TENSORS:
        for (unsigned i = 0; i < LIMIT_GGUF_TENSORS; i++) {
            snprintf(long_name, sizeof long_name, "t%u", i);
            gguf_put_tensor(w, (struct str){ long_name, strlen(long_name) }, TYPE_F32, 1, dims_b);
        }
        break;
    case LONG_ARRAY:
        gguf_put_array(w, "a", GGUF_U8, text, LIMIT_GGUF_ARRAY_ELEMENTS + 1);
        break;
    case LARGER_THAN_A_FILE:
        gguf_put_tensor(w, STR("c"), TYPE_I8, 1, (const uint64_t[]){ INT64_MAX });
        break;
    case BEFORE_BEGIN:
        assert_int_equal(gguf_write_data(w, text, 128, e), HEARTH_EINVAL);
        return;
    default:
        break;
    }
    if (gguf_begin_data(w, e) != HEARTH_OK)
        return;
    switch (how) {
    case TOO_LITTLE:
        assert_ok(gguf_write_data(w, text, 127, e), e);
        return;
    case TOO_MUCH:
        assert_int_equal(gguf_write_data(w, text, 129, e), HEARTH_EINVAL);
        return;
    case KEY_AFTER_BEGIN:
        gguf_put_u32(w, "l", 1);
        break;
    case TENSOR_AFTER_BEGIN:
        gguf_put_tensor(w, STR("c"), TYPE_F32, 1, dims_b);
        break;
    default:
        break;
    }
    if (gguf_write_data(w, text, 128, e) == HEARTH_OK)
        assert_int_equal(gguf_write_data(w, text, 1, e), HEARTH_EINVAL); /* BEHIND_THE_LAST */
}

static void the_writer_refuses_what_the_reader_would(void **state)
{
    static const char *const says[MISUSES] = {
        [TWO_KEYS] = "key 'k' was put twice",
        [TWO_TENSORS] = "tensor 'b' was put twice",
        [BAD_KEY] = "printable ASCII",
        [LONG_KEY] = "1 to 256 bytes",
        [BAD_TENSOR_NAME] = "1 to 64 bytes",
        [LONG_TENSOR_NAME] = "1 to 64 bytes",
        [LONG_STRING] = "a string of 1048577 bytes",
        [ZERO_DIM] = "dimension 1 is zero",
        [ODD_ROW] = "whole Q4_0 blocks",
        [NO_TYPE] = "type number 5",
        [BAD_ALIGNMENT] = "power of two",
        [TOO_LITTLE] = "tensor 'b' got 127 of its 128 bytes",
        [TOO_MUCH] = "tensor 'b' has 128 bytes, more were written",
        [BEHIND_THE_LAST] = "behind the last tensor",
        [BEFORE_BEGIN] = "before gguf_begin_data",
        [KEY_AFTER_BEGIN] = "after the data has begun",
        [TENSOR_AFTER_BEGIN] = "after the data has begun",
        [TOO_MANY_KEYS] = "more than 4096 keys",
        [TOO_MANY_TENSORS] = "more than 65536 tensors",
        [LONG_ARRAY] = "key 'a': an array of 4194305 values, the limit is 4194304",
        [LARGER_THAN_A_FILE] = "larger than a file",
    };
    for (unsigned how = 0; how < MISUSES; how++) {
        struct gguf_writer *w;
        struct arena a;
        struct err e = { 0 };
        enum hearth_status st;
        arena_init(&a, 0);
        assert_ok(gguf_writer_open(&w, scratch_path("misuse.gguf"), &a, &e), &e);
        gguf_put_u32(w, "k", 1);
        gguf_put_tensor(w, STR("b"), TYPE_F32, 1, dims_b);
        misuse(w, (enum misuse)how, &e);
        err_clear(&e);
        st = gguf_writer_commit(w, &e);
        if (st == HEARTH_OK || st != e.status || !strstr(e.text, says[how]) || !strstr(e.text, "misuse.gguf"))
            fail_msg("misuse %u: expected \"%s\", got \"%s\"", how, says[how], e.text);
        gguf_writer_abandon(w);
        assert_int_equal(files_in_scratch("misuse"), 0);
        arena_free(&a);
    }
    gguf_writer_abandon(NULL);
}

static void alignment_is_honoured(void **state)
{
    for (uint32_t align = LIMIT_GGUF_ALIGN_MIN; align <= LIMIT_GGUF_ALIGN_MAX; align *= 8192) {
        struct gguf_writer *w;
        struct gguf g;
        struct arena a;
        struct err e = { 0 };
        arena_init(&a, 0);
        assert_ok(gguf_writer_open(&w, scratch_path("aligned.gguf"), &a, &e), &e);
        gguf_put_tensor(w, STR("a"), TYPE_I8, 1, (const uint64_t[]){ 3 });
        gguf_put_tensor(w, STR("b"), TYPE_I8, 1, (const uint64_t[]){ 5 });
        gguf_put_u32(w, "general.alignment", align);
        assert_ok(gguf_begin_data(w, &e), &e);
        assert_ok(gguf_write_data(w, "abc", 3, &e), &e);
        assert_ok(gguf_write_data(w, "de", 2, &e), &e);
        assert_ok(gguf_write_data(w, "", 0, &e), &e);
        assert_ok(gguf_write_data(w, "fgh", 3, &e), &e);
        assert_ok(gguf_writer_commit(w, &e), &e);
        assert_ok(gguf_open(&g, scratch_path("aligned.gguf"), &a, &e), &e);
        assert_int_equal(g.alignment, align);
        for (size_t i = 0; i < 2; i++) {
            char text[6] = { 0 };
            assert_int_equal(g.tensors[i].offset % align, 0);
            assert_ok(file_read(&g.files[0], text, g.tensors[i].size_bytes, g.tensors[i].offset, &e), &e);
            assert_string_equal(text, i ? "defgh" : "abc");
        }
        assert_int_equal(g.files[0].size_bytes % align, 0);
        gguf_close(&g);
        arena_free(&a);
    }
}

/* The limit on file size stands in for a full disk: the same failing write, without filling one. */
static void a_full_disk_leaves_no_file(void **state)
{
    static const size_t limits[] = { 16, 4096, 200000 };
    struct rlimit was;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &was), 0);
    for (size_t i = 0; i < ARRAY_LEN(limits); i++) {
        static const char zeros[100000];
        struct rlimit now = { limits[i], was.rlim_max };
        struct gguf_writer *w;
        struct arena a;
        struct err e = { 0 };
        arena_init(&a, 0);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &now), 0);
        assert_ok(gguf_writer_open(&w, scratch_path("full.gguf"), &a, &e), &e);
        gguf_put_tensor(w, STR("a"), TYPE_I8, 1, (const uint64_t[]){ 300000 });
        enum hearth_status st = gguf_begin_data(w, &e);
        for (int k = 0; k < 3 && st == HEARTH_OK; k++)
            st = gguf_write_data(w, zeros, sizeof zeros, &e);
        err_clear(&e);
        assert_int_equal(gguf_writer_commit(w, &e), HEARTH_EIO);
        assert_non_null(strstr(e.text, "full.gguf: cannot write: File too large"));
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &was), 0);
        assert_int_equal(files_in_scratch("full"), 0);
        arena_free(&a);
    }
    signal(SIGXFSZ, handler);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(copied_keys_are_the_same_bytes),
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(the_writer_refuses_what_the_reader_would),
        cmocka_unit_test(alignment_is_honoured),
        cmocka_unit_test(a_full_disk_leaves_no_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

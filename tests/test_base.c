/* test_base.c: errors, arenas, buffers, files, mappings that lose their file. */
#define _DEFAULT_SOURCE
#include "support.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void first_error_wins(void **state)
{
    struct err e = { 0 };
    assert_int_equal(err_set(&e, HEARTH_EIO, "disk %d", 7), HEARTH_EIO);
    err_set(&e, HEARTH_ENOMEM, "later");
    assert_string_equal(e.text, "disk 7");
    assert_int_equal(e.status, HEARTH_EIO);
    err_clear(&e);
    err_set(&e, HEARTH_ENOMEM, "after");
    assert_string_equal(e.text, "after");
}

static void sentences_are_one_printable_line(void **state)
{
    static const struct { const char *in, *out; } cases[] = {
        { "a\nb\tc", "a b c" }, { "\x1b[31mred\x7f", "?[31mred?" }, { "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80" },
        { "\xc2\x9b" "1m", "??1m" }, { "\xc3", "?" }, { "\xe2\x82", "??" }, { "\xed\xa0\x80", "???" }, { "\xc0\xaf", "??" },
        { "\xff\xfe", "??" }, { "\xf4\x90\x80\x80", "????" }, { "\xe0\x80\xaf", "???" }, { "\xf0\x9f\x98x", "???x" },
    };
    char longer[600];
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct err e = { 0 };
        err_set(&e, HEARTH_EDAMAGED, "%s", cases[i].in);
        assert_string_equal(e.text, cases[i].out);
    }
    for (size_t i = 0; i + 1 < sizeof longer; i += 2)
        memcpy(longer + i, "\xc3\xa9", 2);
    longer[sizeof longer - 1] = longer[sizeof longer - 2] = 0;
    struct err e = { 0 };
    err_set(&e, HEARTH_EDAMAGED, "x%s", longer); /* cut inside a character or not, it stays valid */
    assert_true(strlen(e.text) == sizeof e.text - 1);
    err_clear(&e);
    err_set(&e, HEARTH_EDAMAGED, "%s", longer);
    assert_true(e.text[sizeof e.text - 2] == '?');
}

static void overflow_is_seen(void **state)
{
    size_t out;
    assert_false(size_mul(&out, SIZE_MAX / 2 + 1, 2));
    assert_false(size_add(&out, SIZE_MAX, 1));
    assert_false(size_align(&out, SIZE_MAX - 3, 64));
    assert_true(size_align(&out, 65, 64) && out == 128);
}

static void arena_keeps_its_limit_and_zeroes(void **state)
{
    struct arena a;
    arena_init(&a, 100000);
    for (size_t i = 1; i < 400; i++) {
        unsigned char *p = arena_push(&a, i, 1, 64);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 64, 0);
        for (size_t k = 0; k < i; k++)
            assert_int_equal(p[k], 0);
        memset(p, 0xee, i);
    }
    assert_null(arena_push(&a, 100000, 1, 1));
    assert_null(arena_push(&a, SIZE_MAX / 4, 8, 8));
    arena_reset(&a);
    unsigned char *q = arena_push(&a, 1000, 1, 1);
    for (size_t k = 0; q && k < 1000; k++)
        assert_int_equal(q[k], 0);
    arena_free(&a);
}

static void buffers_are_bounded(void **state)
{
    struct buf b;
    buf_init(&b, 10);
    assert_true(buf_append(&b, "12345", 5));
    assert_true(buf_printf(&b, "%d", 678));
    assert_false(buf_append(&b, "xyz", 3));
    assert_true(b.failed);
    assert_string_equal(b.data, "12345678");
    buf_free(&b);
}

static void short_files_are_named(void **state)
{
    struct file f;
    struct err e = { 0 };
    char out[8];
    write_file(scratch_path("five"), "12345", 5);
    assert_ok(file_open(&f, scratch_path("five"), &e), &e);
    assert_ok(file_read(&f, out, 5, 0, &e), &e);
    assert_int_equal(file_read(&f, out, 6, 0, &e), HEARTH_EDAMAGED);
    assert_non_null(strstr(e.text, "five"));
    file_close(&f);
    file_close(&f);
    err_clear(&e);
    assert_int_equal(file_open(&f, scratch_path("absent"), &e), HEARTH_ENOTFOUND);
    err_clear(&e);
    assert_int_equal(file_open(&f, "/tmp", &e), HEARTH_EIO);
}

static void a_file_cut_short_does_not_kill(void **state)
{
    struct file f;
    struct map m;
    struct err e = { 0 };
    size_t n = 1 << 20;
    unsigned char *zeros = malloc(n);
    unsigned sum = 0;
    memset(zeros, 1, n);
    write_file(scratch_path("cut"), zeros, n);
    assert_ok(file_open(&f, scratch_path("cut"), &e), &e);
    assert_ok(map_open(&m, &f, &e), &e);
    assert_int_equal(m.data[n - 1], 1);
    assert_int_equal(truncate(scratch_path("cut"), 4096), 0);
    assert_false(map_is_damaged(&m));
    for (size_t i = 0; i < n; i += 4096)
        sum += m.data[i];
    assert_int_equal(sum, 1);
    assert_true(map_is_damaged(&m));
    map_close(&m);
    file_close(&f);
    free(zeros);
}

static void output_appears_whole_or_not_at_all(void **state)
{
    struct outfile o;
    struct err e = { 0 };
    const char *path = scratch_path("out");
    assert_ok(outfile_open(&o, path, &e), &e);
    fputs("half", o.stream);
    outfile_abandon(&o);
    assert_int_equal(access(path, F_OK), -1);
    assert_ok(outfile_open(&o, path, &e), &e);
    fputs("whole", o.stream);
    assert_ok(outfile_commit(&o, &e), &e);
    assert_int_equal(access(path, F_OK), 0);
    assert_int_equal(outfile_open(&o, "/nonexistent/x", &e), HEARTH_EIO);
}

/* Small and large blocks, some not whole pages: zeroed, as long as asked, and resident once committed. */
static void committed_pages_are_there(void **state)
{
    static const size_t sizes[] = { 1, 4096, 70 * KIB + 5, 2 * MIB, 24 * MIB + 123 };
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        uint8_t *p = pages_alloc(sizes[i]), sum = 0;
        assert_non_null(p);
        assert_true(sizes[i] < 2 * MIB || (uintptr_t)p % (2 * MIB) == 0);
        size_t before = memory_now_bytes();
        assert_true(pages_commit(p, sizes[i]));
#ifndef __SANITIZE_THREAD__
        assert_true(memory_now_bytes() + MIB > before + sizes[i]);
#endif
        for (size_t k = 0; k < sizes[i]; k++)
            sum |= p[k];
        assert_int_equal(sum, 0);
        memset(p, 1, sizes[i]);
        pages_free(p, sizes[i]);
    }
    assert_null(pages_alloc(0));
    assert_null(pages_alloc(SIZE_MAX - 100));
}

/* Hints about the page cache never fail and change no byte; where pages can be dropped they are missed and come back. */
static void the_page_cache_can_be_asked(void **state)
{
    struct file f;
    struct err e = { 0 };
    char *data = calloc(1, 3 * MIB), *back = calloc(1, 3 * MIB);
    assert_true(data && back);
    memset(data, 7, 3 * MIB);
    write_file(scratch_path("cached"), data, 3 * MIB);
    assert_ok(file_open(&f, scratch_path("cached"), &e), &e);
    file_forget(&f);
    bool was_dropped = !file_is_cached(&f, 2 * MIB);
    file_will_need(&f, 0, 3 * MIB);
    file_will_need(&f, 100 * MIB, 3 * MIB); /* behind the end */
    assert_ok(file_read(&f, back, 3 * MIB, 0, &e), &e);
    assert_memory_equal(data, back, 3 * MIB);
    if (was_dropped)
        assert_true(file_is_cached(&f, 2 * MIB) || !file_is_cached(&f, 0)); /* a file system may not say */
    assert_false(file_is_cached(&f, 100 * MIB));
    file_close(&f);
    free(data);
    free(back);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_error_wins),
        cmocka_unit_test(sentences_are_one_printable_line),
        cmocka_unit_test(overflow_is_seen),
        cmocka_unit_test(arena_keeps_its_limit_and_zeroes),
        cmocka_unit_test(buffers_are_bounded),
        cmocka_unit_test(short_files_are_named),
        cmocka_unit_test(a_file_cut_short_does_not_kill),
        cmocka_unit_test(output_appears_whole_or_not_at_all),
        cmocka_unit_test(committed_pages_are_there),
        cmocka_unit_test(the_page_cache_can_be_asked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

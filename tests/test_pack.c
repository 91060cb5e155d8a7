/* test_pack.c: a pack holds what its source holds: the same logits bit for bit, and the source again, byte for byte.
 *
 * Every type that can be packed, every architecture, tied and untied heads, rows that fill no strip, split files, every key
 * kind. Then what goes wrong: Ctrl-C, a disk that fills up, damaged and cut packs, a pack written over its source.
 */
#define _GNU_SOURCE
#include "support.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine_run.h"
#include "quantize/quantize.h"
#include "tiny_models.h"

static const int32_t tokens[] = { 1, 7, 30, 200, 5, 5, 90, 41, 260, 12, 3 };
enum { N = ARRAY_LEN(tokens) };

static struct pool *pool;

static void make(const char *path, const char *shape, const char *type, size_t n_vocab)
{
    struct err e = { 0 };
    struct progress silent = { 0 };
    struct make_model_options o = { .shape = shape, .n_vocab = n_vocab, .n_layers = 1, .type = mix_by_name(type), .seed = 3 };
    assert_non_null(o.type);
    assert_ok(make_model(path, &o, silent, &e), &e);
}

static enum hearth_status turn(const char *in, const char *out, bool undo, const atomic_int *cancel, struct err *e)
{
    struct arena a;
    struct gguf g;
    arena_init(&a, 0);
    enum hearth_status st = gguf_open(&g, in, &a, e);
    if (st == HEARTH_OK)
        st = undo ? pack_undo(&g, out, pool, NULL, NULL, cancel, e) : pack_write(&g, in, out, pool, NULL, NULL, cancel, e);
    gguf_close(&g);
    arena_free(&a);
    return st;
}

static void same_files(const char *x, const char *y)
{
    struct arena a;
    struct err e = { 0 };
    char *p, *q;
    size_t n, m;
    arena_init(&a, 0);
    assert_ok(file_read_all(&p, &n, x, 256 * MIB, &a, &e), &e);
    assert_ok(file_read_all(&q, &m, y, 256 * MIB, &a, &e), &e);
    assert_int_equal(n, m);
    assert_memory_equal(p, q, n);
    arena_free(&a);
}

static float *logits_of(const char *path, size_t *n_strips)
{
    struct engine_options o = { .n_threads = 2 };
    struct run r;
    size_t steps[] = { 7, 1 };
    run_open(&r, path, &o);
    *n_strips = 0;
    for (size_t i = 0; i < r.g.n_tensors; i++) {
        *n_strips += r.g.tensors[i].type >= TYPE_R8;
        assert_int_equal(r.g.tensors[i].offset % r.g.alignment, 0);
    }
    assert_true(!gguf_find(&r.g, "hearth.source.path") || r.g.alignment == 4096);
    float *x = run_sequence(r.en, tokens, N, 64, steps, 2);
    run_close(&r);
    return x;
}

/* There and back, and the same answers on the way. */
static void check_round_trip(const char *plain)
{
    struct err e = { 0 };
    struct run r;
    struct engine_options o = { .n_threads = 1 };
    size_t n_strips;
    const char *pack = scratch_path("p.pack.gguf"), *back = scratch_path("p.back.gguf");
    assert_ok(turn(plain, pack, false, NULL, &e), &e);
    assert_ok(turn(pack, back, true, NULL, &e), &e);
    run_open(&r, plain, &o);
    size_t n = N * engine_info(r.en)->n_vocab;
    if (r.g.n_files == 1)
        same_files(plain, back);
    run_close(&r);
    float *x = logits_of(plain, &n_strips);
    assert_int_equal(n_strips, 0);
    float *y = logits_of(pack, &n_strips);
    assert_true(n_strips >= 4);
    assert_memory_equal(x, y, n * sizeof *x);
    free(x);
    free(y);
}

static void every_type(void **state)
{
    static const char *const types[] = { "F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K_S", "Q5_1", "Q5_0", "Q4_K_M", "IQ4_NL", "IQ4_XS",
                                         "Q4_1", "Q4_0", "Q3_K_S", "Q2_K" };
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        make(scratch_path("p.gguf"), "tiny-llama", types[i], 300);
        check_round_trip(scratch_path("p.gguf"));
    }
}

/* Tied heads, tables read row by row, biases, fused matrices; vocabularies that fill no strip. */
static void every_architecture(void **state)
{
    static const char *const shapes[] = { "tiny-llama3", "tiny-phi3", "tiny-qwen2", "tiny-qwen3", "tiny-gemma2", "tiny-gemma3", "tiny-opt",
                                          "tiny-gpt-postln" };
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
        make(scratch_path("p.gguf"), shapes[i], i % 2 ? "Q4_0" : "F16", 301 + i);
        check_round_trip(scratch_path("p.gguf"));
    }
}

/* An embedding as strips although the output matrix is another: the engine reads rows out of strips. */
static void tables_may_be_strips(void **state)
{
    struct arena a;
    struct gguf g;
    struct gguf_writer *w;
    struct err e = { 0 };
    size_t n_strips, k = 256, n_vocab = 300;
    make(scratch_path("p.gguf"), "tiny-llama", "Q8_0", n_vocab);
    arena_init(&a, 0);
    assert_ok(gguf_open(&g, scratch_path("p.gguf"), &a, &e), &e);
    assert_ok(gguf_writer_open(&w, scratch_path("q.gguf"), &a, &e), &e);
    gguf_put_str(w, "hearth.layout", STR(LAYOUT_R8));
    for (size_t i = 0; i < g.n_kvs; i++)
        gguf_put_kv(w, &g.kvs[i]);
    for (size_t i = 0; i < g.n_tensors; i++)
        gguf_put_tensor(w, g.tensors[i].name, g.tensors[i].type + (str_eqz(g.tensors[i].name, "token_embd.weight") ? TYPE_R8 : 0),
                        g.tensors[i].n_dims, g.tensors[i].dims);
    assert_ok(gguf_begin_data(w, &e), &e);
    for (size_t i = 0; i < g.n_tensors; i++) {
        const struct gguf_tensor *t = &g.tensors[i];
        uint8_t *rows = arena_push(&a, t->size_bytes, 1, 64), *strips = arena_push(&a, t->size_bytes + 8 * 272 * k, 1, 64);
        size_t row_bytes, strip_bytes;
        assert_true(rows && strips);
        assert_ok(file_read(&g.files[0], rows, t->size_bytes, t->offset, &e), &e);
        if (!str_eqz(t->name, "token_embd.weight")) {
            assert_ok(gguf_write_data(w, rows, t->size_bytes, &e), &e);
            continue;
        }
        assert_true(type_row_bytes(&row_bytes, t->type, k) && r8_strip_bytes(&strip_bytes, t->type, k));
        for (size_t row = 0; row < n_vocab; row += R8_ROWS)
            r8_pack(strips + row / R8_ROWS * strip_bytes, rows + row * row_bytes, row_bytes, MIN(n_vocab - row, (size_t)R8_ROWS),
                    (enum tensor_type)t->type, k);
        assert_ok(gguf_write_data(w, strips, (n_vocab + 7) / 8 * strip_bytes, &e), &e);
    }
    assert_ok(gguf_writer_commit(w, &e), &e);
    gguf_close(&g);
    arena_free(&a);
    float *x = logits_of(scratch_path("p.gguf"), &n_strips), *y = logits_of(scratch_path("q.gguf"), &n_strips);
    assert_int_equal(n_strips, 1);
    assert_memory_equal(x, y, N * n_vocab * sizeof *x);
    free(x);
    free(y);
}

/* Tensors dealt out over two files; the pack is one, and so is what comes back. */
static void split_sources(void **state)
{
    const char *parts[] = { scratch_path("s-00001-of-00002.gguf"), scratch_path("s-00002-of-00002.gguf") };
    struct arena a;
    struct gguf g;
    struct err e = { 0 };
    make(scratch_path("p.gguf"), "tiny-llama", "Q4_0", 300);
    arena_init(&a, 0);
    assert_ok(gguf_open(&g, scratch_path("p.gguf"), &a, &e), &e);
    for (uint32_t no = 0; no < 2; no++) {
        size_t begin = no ? g.n_tensors / 2 : 0, end = no ? g.n_tensors : g.n_tensors / 2;
        struct gguf_writer *w;
        assert_ok(gguf_writer_open(&w, parts[no], &a, &e), &e);
        for (size_t i = 0; no == 0 && i < g.n_kvs; i++)
            gguf_put_kv(w, &g.kvs[i]);
        gguf_put_u32(w, "split.no", no);
        gguf_put_u32(w, "split.count", 2);
        gguf_put_i32(w, "split.tensors.count", (int32_t)g.n_tensors);
        for (size_t i = begin; i < end; i++)
            gguf_put_tensor(w, g.tensors[i].name, g.tensors[i].type, g.tensors[i].n_dims, g.tensors[i].dims);
        for (size_t i = begin; i < end; i++) {
            uint8_t *data = arena_push(&a, g.tensors[i].size_bytes, 1, 64);
            assert_ok(file_read(&g.files[0], data, g.tensors[i].size_bytes, g.tensors[i].offset, &e), &e);
            assert_ok(gguf_begin_data(w, &e), &e);
            assert_ok(gguf_write_data(w, data, g.tensors[i].size_bytes, &e), &e);
        }
        assert_ok(gguf_writer_commit(w, &e), &e);
    }
    gguf_close(&g);
    check_round_trip(parts[0]);
    same_files(scratch_path("p.gguf"), scratch_path("p.back.gguf"));
    struct pack_source is, said;
    assert_ok(gguf_open(&g, parts[0], &a, &e), &e);
    assert_ok(pack_source_of(&is, g.files, g.n_files, &e), &e);
    gguf_close(&g);
    assert_ok(gguf_open(&g, scratch_path("p.pack.gguf"), &a, &e), &e);
    assert_true(pack_source_read(&said, NULL, &g));
    assert_memory_equal(&is, &said, sizeof is);
    assert_int_equal(said.n_files, 2);
    gguf_close(&g);
    arena_free(&a);
}

/* Keys of every kind, and an alignment of the source's own, which comes back at its place. */
static void every_key_survives(void **state)
{
    static const uint64_t dims[2] = { 32, 9 };
    static const enum gguf_kind kinds[] = { GGUF_U8, GGUF_I8, GGUF_U16, GGUF_I16, GGUF_U32, GGUF_I32, GGUF_F32, GGUF_U64, GGUF_I64, GGUF_F64, GGUF_BOOL };
    static const uint8_t zeros[9 * 32 * 4];
    struct arena a;
    struct gguf_writer *w;
    struct err e = { 0 };
    arena_init(&a, 0);
    assert_ok(gguf_writer_open(&w, scratch_path("k.gguf"), &a, &e), &e);
    gguf_put_str(w, "general.architecture", STR("none of ours"));
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        char key[32];
        uint8_t *values = ARENA_NEW(&a, uint8_t, 16000);
        snprintf(key, sizeof key, "list.%zu", i);
        for (size_t b = 0; b < 16000; b++)
            values[b] = kinds[i] == GGUF_BOOL ? b % 2 : (uint8_t)(b * 7);
        gguf_put_array(w, key, kinds[i], values, 2000);
        snprintf(key, sizeof key, "one.%zu", i);
        struct gguf_kv kv = { .key = { key, strlen(key) }, .kind = kinds[i] };
        if (kinds[i] == GGUF_F32 || kinds[i] == GGUF_F64)
            kv.v.f = 1.5;
        else if (kinds[i] == GGUF_BOOL)
            kv.v.b = true;
        else
            kv.v.u = 77;
        gguf_put_kv(w, &kv);
    }
    gguf_put_u32(w, "general.alignment", 64);
    gguf_put_strs(w, "words", (struct str[]){ STR("a"), STR(""), STR("c\0d") }, 3);
    gguf_put_tensor(w, STR("m.weight"), TYPE_F32, 2, dims);
    gguf_put_tensor(w, STR("v.weight"), TYPE_F32, 1, dims);
    assert_ok(gguf_begin_data(w, &e), &e);
    assert_ok(gguf_write_data(w, zeros, 9 * 32 * 4, &e), &e);
    assert_ok(gguf_write_data(w, zeros, 32 * 4, &e), &e);
    assert_ok(gguf_writer_commit(w, &e), &e);
    arena_free(&a);
    assert_ok(turn(scratch_path("k.gguf"), scratch_path("k.pack.gguf"), false, NULL, &e), &e);
    assert_ok(turn(scratch_path("k.pack.gguf"), scratch_path("k.back.gguf"), true, NULL, &e), &e);
    same_files(scratch_path("k.gguf"), scratch_path("k.back.gguf"));
}

static void wrong_ways_are_refused(void **state)
{
    struct err e = { 0 };
    atomic_int cancel = 1;
    const char *plain = scratch_path("w.gguf"), *pack = scratch_path("w.pack.gguf"), *out = scratch_path("w.out.gguf");
    make(plain, "tiny-llama", "Q4_0", 300);
    assert_ok(turn(plain, pack, false, NULL, &e), &e);
    assert_int_equal(turn(pack, out, false, NULL, &e), HEARTH_EINVAL);
    assert_non_null(strstr(e.text, "is a pack already"));
    err_clear(&e);
    assert_int_equal(turn(plain, out, true, NULL, &e), HEARTH_EINVAL);
    assert_non_null(strstr(e.text, "is not a pack"));
    err_clear(&e);
    assert_int_equal(turn(plain, plain, false, NULL, &e), HEARTH_EINVAL);
    assert_non_null(strstr(e.text, "is the file being read"));
    err_clear(&e);
    assert_int_equal(turn(plain, out, false, &cancel, &e), HEARTH_ECANCELLED);
    err_clear(&e);
    assert_int_equal(turn(plain, scratch_path("no/such/folder/x.gguf"), false, NULL, &e), HEARTH_EIO);
    assert_int_equal(access(out, F_OK), -1);
    struct progress silent = { 0 };
    err_clear(&e);
    assert_int_equal(quantize_model(pack, out, mix_by_name("Q8_0"), 1, silent, NULL, &e), HEARTH_EINVAL);
    assert_non_null(strstr(e.text, "pack --undo"));
}

/* Files may not grow beyond a limit: the same as a disk that fills up, at several places. */
static void a_full_disk_leaves_nothing(void **state)
{
    static const rlim_t limits[] = { 0, 4096, 100000, 400000 };
    const char *plain = scratch_path("f.gguf"), *out = scratch_path("f.pack.gguf");
    struct rlimit before;
    make(plain, "tiny-llama", "F32", 300);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, SIG_IGN);
    for (size_t i = 0; i < ARRAY_LEN(limits); i++) {
        struct err e = { 0 };
        struct rlimit small = { limits[i], before.rlim_max };
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
        enum hearth_status st = turn(plain, out, false, NULL, &e);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
        assert_int_equal(st, HEARTH_EIO);
        assert_non_null(strstr(e.text, "f.pack.gguf"));
        assert_int_equal(access(out, F_OK), -1);
        char part[1024];
        snprintf(part, sizeof part, "%s.part-%ld", out, (long)getpid());
        assert_int_equal(access(part, F_OK), -1);
    }
    signal(SIGXFSZ, SIG_DFL);
}

/* Every place of the directory cut or bent: a typed error or a pack that opens, never more. */
static void damaged_packs_are_refused(void **state)
{
    struct arena a;
    struct err e = { 0 };
    char *bytes;
    size_t n, n_head;
    uint64_t seed = 9;
    struct gguf g;
    make(scratch_path("d.gguf"), "tiny-llama3", "Q4_0", 300);
    assert_ok(turn(scratch_path("d.gguf"), scratch_path("d.pack.gguf"), false, NULL, &e), &e);
    arena_init(&a, 0);
    assert_ok(file_read_all(&bytes, &n, scratch_path("d.pack.gguf"), 64 * MIB, &a, &e), &e);
    assert_ok(gguf_open(&g, scratch_path("d.pack.gguf"), &a, &e), &e);
    n_head = (size_t)g.tensors[0].offset;
    gguf_close(&g);
    for (size_t i = 0; i < 400; i++) {
        struct arena b;
        struct engine *en = NULL;
        struct err why = { 0 };
        char *copy = malloc(n);
        size_t len = i % 4 == 0 ? test_random(&seed) % n : n;
        CHECK(copy);
        memcpy(copy, bytes, n);
        if (len == n)
            for (size_t k = 0; k <= i % 3; k++)
                copy[test_random(&seed) % n_head] = (char)test_random(&seed);
        write_file(scratch_path("d.bad.gguf"), copy, len);
        arena_init(&b, 0);
        enum hearth_status st = gguf_open(&g, scratch_path("d.bad.gguf"), &b, &why);
        if (st == HEARTH_OK)
            st = engine_open(&en, &g, NULL, &why);
        assert_true(st == HEARTH_OK || why.status == st);
        if (len < n / 2)
            assert_int_not_equal(st, HEARTH_OK);
        engine_close(en);
        gguf_close(&g);
        arena_free(&b);
        free(copy);
    }
    arena_free(&a);
}

/* Strips are read where they are mapped: when the file shrinks, the step fails and the process lives. */
static void a_pack_cut_short_fails_the_step(void **state)
{
    struct run r;
    struct seq s;
    struct err e = { 0 };
    struct engine_options o = { .n_threads = 2 };
    int32_t token = 3;
    static float logits[300];
    const char *pack = scratch_path("c.pack.gguf");
    make(scratch_path("c.gguf"), "tiny-llama", "F32", 300);
    assert_ok(turn(scratch_path("c.gguf"), pack, false, NULL, &e), &e);
    run_open(&r, pack, &o);
    seq_open(&s, r.en, 64);
    struct slice sl = { .kv = &s.kv, .tokens = &token, .n_tokens = 1, .n_logits = 1, .logits = logits };
    assert_ok(engine_step(r.en, &sl, 1, NULL, &e), &e);
    assert_int_equal(truncate(pack, 400 * 1024), 0);
    assert_int_equal(engine_step(r.en, &sl, 1, NULL, &e), HEARTH_EIO);
    assert_non_null(strstr(e.text, "c.pack.gguf"));
    assert_int_equal(s.kv.n_tokens, 1);
    seq_close(&s);
    run_close(&r);
}

/* From a cold page cache, plain or packed, whole or split: the same logits, and closing at any time ends the reading. */
static void cold_files_give_the_same(void **state)
{
    struct err e = { 0 };
    struct progress silent = { 0 };
    struct make_model_options big = { .shape = "tiny-llama", .n_ff = 4096, .n_layers = 3, .n_vocab = 300, .type = mix_by_name("F16") };
    const char *files[] = { scratch_path("cold.gguf"), scratch_path("cold.pack.gguf") };
    size_t n_strips;
    assert_ok(make_model(files[0], &big, silent, &e), &e);
    assert_ok(turn(files[0], files[1], false, NULL, &e), &e);
    float *want = logits_of(files[0], &n_strips);
    for (size_t i = 0; i < 12; i++) {
        struct file f;
        struct run r;
        assert_ok(file_open(&f, files[i % 2], &e), &e);
        file_forget(&f);
        file_close(&f);
        if (i < 4) {
            float *is = logits_of(files[i % 2], &n_strips);
            assert_memory_equal(is, want, N * 300 * sizeof *is);
            free(is);
        } else { /* opened and closed at once; in the last rounds the file shrinks meanwhile */
            struct engine_options o = { .n_threads = 1 };
            run_open(&r, files[i % 2], &o);
            if (i >= 10)
                assert_int_equal(truncate(files[i % 2], 64 * 1024), 0);
            run_close(&r);
        }
    }
    free(want);
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) /* their shadow memory is resident, too */
/* A pack is mapped, not copied: opening it takes no memory of this process for the weights. */
static void a_pack_costs_no_memory(void **state)
{
    struct arena a;
    struct gguf g;
    struct engine *en;
    struct err e = { 0 };
    struct progress silent = { 0 };
    struct engine_options o = { .n_threads = 1, .max_batch = 8 };
    struct make_model_options big = { .shape = "tiny-llama", .n_ff = 16384, .n_layers = 2, .type = mix_by_name("F16") };
    assert_ok(make_model(scratch_path("m.gguf"), &big, silent, &e), &e);
    assert_ok(turn(scratch_path("m.gguf"), scratch_path("m.pack.gguf"), false, NULL, &e), &e);
    arena_init(&a, 0);
    assert_ok(gguf_open(&g, scratch_path("m.pack.gguf"), &a, &e), &e);
    assert_true(g.files[0].size_bytes > 40 * MIB);
    size_t before = memory_now_bytes();
    assert_ok(engine_open(&en, &g, &o, &e), &e);
    assert_true(memory_now_bytes() < before + 12 * MIB);
    engine_close(en);
    gguf_close(&g);
    arena_free(&a);
}
#endif

static int open_pool(void **state)
{
    struct err e = { 0 };
    (void)state;
    return pool_open(&pool, 2, &e) == HEARTH_OK ? 0 : -1;
}

static int close_pool(void **state)
{
    (void)state;
    pool_close(pool);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type),
        cmocka_unit_test(every_architecture),
        cmocka_unit_test(tables_may_be_strips),
        cmocka_unit_test(split_sources),
        cmocka_unit_test(every_key_survives),
        cmocka_unit_test(wrong_ways_are_refused),
        cmocka_unit_test(a_full_disk_leaves_nothing),
        cmocka_unit_test(damaged_packs_are_refused),
        cmocka_unit_test(a_pack_cut_short_fails_the_step),
        cmocka_unit_test(cold_files_give_the_same),
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
        cmocka_unit_test(a_pack_costs_no_memory),
#endif
    };
    return cmocka_run_group_tests(tests, open_pool, close_pool);
}

/* fuzz_gguf.c: any bytes as a GGUF file, or as two parts of a split one.
 *
 * Bytes that begin with 'S' are: a u16 length (little-endian), then that many bytes of the first part, then
 * the second part. What opens must keep the promises of gguf_open, checked here the slow way, and answer
 * every getter.
 */
#include "fuzz.h"

#include <math.h>
#include <string.h>

#include "formats/formats.h"

static uint64_t end_of(const struct gguf_tensor *t)
{
    return t->offset + t->size_bytes;
}

static void check_tensors(const struct gguf *g)
{
    struct err e = { 0 };
    for (size_t i = 0; i < g->n_tensors; i++) {
        const struct gguf_tensor *t = &g->tensors[i];
        char name[LIMIT_GGUF_NAME_BYTES + 1] = { 0 };
        uint8_t byte;
        memcpy(name, t->name.p, t->name.n);
        CHECK(gguf_find_tensor(g, name) == t);
        CHECK(t->i_file < g->n_files && t->size_bytes > 0 && type_info(t->type)->name);
        CHECK(file_read(&g->files[t->i_file], &byte, 1, t->offset, &e) == HEARTH_OK);
        CHECK(file_read(&g->files[t->i_file], &byte, 1, end_of(t) - 1, &e) == HEARTH_OK);
        for (size_t k = 0; k < i && i < 100; k++)
            CHECK(t->i_file != g->tensors[k].i_file || end_of(t) <= g->tensors[k].offset ||
                  end_of(&g->tensors[k]) <= t->offset);
    }
}

static void check_array(const struct gguf_array *a)
{
    static volatile uint8_t sink; /* every byte can be read */
    CHECK(a->kind < GGUF_KIND_COUNT && a->kind != GGUF_ARRAY);
    for (size_t i = 0; i < a->n_bytes; i++)
        sink = a->data[i];
    struct gguf_strings s = gguf_strings(a);
    for (size_t i = 0; a->kind == GGUF_STRING && i < a->count; i++) {
        struct str text = gguf_next_string(&s);
        if (text.n)
            sink = (uint8_t)text.p[text.n - 1];
    }
    CHECK(s.p == s.end);
    (void)sink;
}

static void check_kvs(const struct gguf *g)
{
    for (size_t i = 0; i < g->n_kvs; i++) {
        const struct gguf_kv *kv = &g->kvs[i];
        char key[LIMIT_GGUF_KEY_BYTES + 1] = { 0 };
        struct err e = { 0 };
        struct gguf_array a;
        struct str s;
        uint64_t u;
        double f;
        bool b;
        memcpy(key, kv->key.p, kv->key.n);
        CHECK(gguf_find(g, key) == kv);
        if (gguf_get_u64(g, key, 1, 1000, &u, &e) == HEARTH_OK)
            CHECK(u >= 1 && u <= 1000);
        if (gguf_get_f64(g, key, &f, &e) == HEARTH_OK)
            CHECK(isfinite(f));
        CHECK((gguf_get_bool(g, key, &b, &e) == HEARTH_OK) == (kv->kind == GGUF_BOOL));
        CHECK((gguf_get_str(g, key, &s, &e) == HEARTH_OK) == (kv->kind == GGUF_STRING));
        for (unsigned k = 0; k < GGUF_KIND_COUNT; k++)
            if (gguf_get_array(g, key, (enum gguf_kind)k, &a, &e) == HEARTH_OK)
                check_array(&a);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct gguf g;
    struct arena a;
    struct err e = { 0 };
    const char *path;
    enum hearth_status st;
    if (n >= 3 && data[0] == 'S') {
        size_t n_first = MIN((size_t)load_le16(data + 1), n - 3);
        fuzz_file("f-00002-of-00002.gguf", data + 3 + n_first, n - 3 - n_first);
        path = fuzz_file("f-00001-of-00002.gguf", data + 3, n_first);
    } else {
        path = fuzz_file("f.gguf", data, n);
    }
    arena_init(&a, 64 * MIB);
    st = gguf_open(&g, path, &a, &e);
    if (st == HEARTH_OK) {
        check_kvs(&g);
        check_tensors(&g);
    } else {
        CHECK(st == e.status && e.text[0] && g.n_files == 0);
        CHECK(st != HEARTH_ENOMEM || n > 4096); /* little text cannot ask for much memory */
    }
    gguf_close(&g);
    arena_free(&a);
    return 0;
}

/* fuzz_safetensors.c: any bytes as a safetensors file; bytes that begin with '{' as the index of a folder
 * that holds two good shards, "1" and "2", with the tensors "x" and "y".
 *
 * What opens must keep the promises of st_open, checked here the slow way.
 */
#include "fuzz.h"

#include <string.h>
#include <unistd.h>

#include "formats/formats.h"

static const char shard_x[] =
    "\x34\0\0\0\0\0\0\0{\"x\":{\"dtype\":\"I8\",\"shape\":[3],\"data_offsets\":[0,3]}}abc";
static const char shard_y[] =
    "\x35\0\0\0\0\0\0\0{\"y\":{\"dtype\":\"I8\",\"shape\":[3],\"data_offsets\":[0,3]}} abc";

static void check_open(const struct safetensors *s)
{
    struct err e = { 0 };
    uint64_t n_bytes = 0, n_data = 0;
    for (size_t i = 0; i < s->n_files; i++) {
        uint8_t head[8];
        CHECK(file_read(&s->files[i], head, 8, 0, &e) == HEARTH_OK);
        n_data += s->files[i].size_bytes - 8 - load_le64(head);
    }
    for (size_t i = 0; i < s->n_tensors; i++) {
        const struct st_tensor *t = &s->tensors[i];
        char name[LIMIT_GGUF_KEY_BYTES + 1] = { 0 };
        memcpy(name, t->name.p, t->name.n);
        CHECK(st_find(s, name) == t);
        CHECK(t->i_file < s->n_files && t->size_bytes > 0 && t->n_dims <= 4);
        CHECK(t->offset + t->size_bytes <= s->files[t->i_file].size_bytes);
        for (size_t k = 0; k < i && i < 100; k++)
            CHECK(t->i_file != s->tensors[k].i_file || t->offset + t->size_bytes <= s->tensors[k].offset ||
                  s->tensors[k].offset + s->tensors[k].size_bytes <= t->offset);
        n_bytes += t->size_bytes;
    }
    CHECK(n_bytes == n_data); /* with no overlap: covered */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct safetensors s;
    struct arena a;
    struct err e = { 0 };
    const char *path;
    enum hearth_status st;
    if (n && data[0] == '{') {
        fuzz_file("1", shard_x, sizeof shard_x - 1);
        fuzz_file("2", shard_y, sizeof shard_y - 1);
        fuzz_file("model.safetensors.index.json", data, n);
        path = fuzz_path("");
    } else {
        path = fuzz_file("f.safetensors", data, n);
    }
    arena_init(&a, 64 * MIB);
    st = st_open(&s, path, &a, &e);
    if (st == HEARTH_OK)
        check_open(&s);
    else
        CHECK(st == e.status && e.text[0] && s.n_files == 0);
    st_close(&s);
    arena_free(&a);
    return 0;
}

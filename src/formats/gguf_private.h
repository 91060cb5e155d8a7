/* gguf_private.h: what gguf.c, gguf_get.c and gguf_write.c share. */
#ifndef FORMATS_GGUF_PRIVATE_H
#define FORMATS_GGUF_PRIVATE_H

#include "formats/names.h"

/* Every value kind: its name for messages, the bytes it takes in a file (of a string or array: the least). */
extern const struct gguf_kind_info { const char *name; size_t bytes; } gguf_kinds[GGUF_KIND_COUNT];

/* The longest string the key may hold; templates have their own limit. */
size_t gguf_string_limit(struct str key);

/* Behind struct gguf.index. */
struct gguf_index {
    struct names kvs, tensors;
};

#endif

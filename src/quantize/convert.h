/* convert.h (private to quantize/): what the readers of checkpoints hand to the one writer of GGUF files.
 *
 * A reader (convert_hf.c, convert_llama2c.c) checks its source completely and fills a struct conversion: the shape,
 * the vocabulary, and for each tensor of the output where its bytes lie and what is done to them. convert.c then
 * writes the file, a piece at a time.
 */
#ifndef HEARTH_QUANTIZE_CONVERT_H
#define HEARTH_QUANTIZE_CONVERT_H

#include "shapes.h"

/* One tensor of the output: rows of cols values. Its source is a range of a file, or values in memory. */
struct out_tensor {
    struct str name;
    uint32_t n_dims;            /* 1: rows * cols values in a line; 2 */
    size_t rows, cols;
    bool is_f32;                /* stays F32 whatever the matrices become */
    const char *source_name;    /* for messages */

    const struct file *file;    /* NULL: values */
    uint64_t offset;            /* of the first value */
    enum tensor_type source_type; /* F32 F16 BF16 F64, or I8 with one F32 scale per group of consecutive values */
    uint64_t scales_offset;
    size_t group;
    size_t permute_rows;        /* rows of one head, whose halves are woven into adjacent pairs; 0: none */
    float shift;                /* added to each value */
    const float *values;
};

struct conversion {
    struct arena *arena;
    struct model_shape shape;
    struct vocab vocab;
    const char *source;
    struct str name;
    struct str stop_text;       /* text that ends an answer where no token does; empty: none */
    struct out_tensor *tensors;
    size_t n_tensors, cap;

    struct safetensors safetensors; /* the source's files: closed by convert_model */
    struct file file;
};

/* A new, zeroed tensor whose name is made printf-style; NULL when memory is short. */
struct out_tensor *conversion_add(struct conversion *c, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* The readers. c is as convert_model made it: arena, source, closed files. */
MUST_CHECK enum hearth_status convert_hf(struct conversion *c, const struct convert_options *o, struct err *e);
MUST_CHECK enum hearth_status convert_llama2c(struct conversion *c, const struct convert_options *o, struct err *e);

#endif

/* bad_files.h: model files that must be refused, made from recipes, with the answer each must get.
 *
 * One row is one file: the threat it belongs to (V1 counts, V2 size arithmetic, V3 extents, V4 types, V6 vocabularies, V7
 * safetensors; V5, hyper-parameters, is in test_model.c),
 * the status, a fragment of the sentence, and a recipe of bytes. The tests open them all; test_gguf --dump FOLDER
 * and test_safetensors --dump FOLDER write the small ones out, which is how the fuzz corpora were made.
 */
#ifndef BAD_FILES_H
#define BAD_FILES_H

#include "base/base.h"

enum bad_format {
    BAD_GGUF,        /* a GGUF file */
    BAD_VOCAB,       /* a GGUF file that opens, but whose vocabulary does not */
    BAD_SAFETENSORS, /* a safetensors file */
    BAD_INDEX,       /* a model.safetensors.index.json beside good_shards */
};

struct bad_file {
    const char *threat;
    enum bad_format format;
    enum hearth_status status;
    const char *says;
    const char *recipe;
};
extern const struct bad_file bad_files[];
extern const size_t n_bad_files;

/* Recipes are steps with spaces between:
 *   b5 h5 w5 q5    a number of 1, 2, 4, 8 bytes, little-endian; also 0x.., -1
 *   s'text'        8 bytes of length, then the text;     t'text'   the text alone
 *   X300           as s'..' with 300 times x;            x300      300 times x
 *   z300           300 zero bytes;                       a32       zeros up to a multiple of 32
 *   *3( steps )    three times; # in a text becomes 0, 1, 2 (nothing nests)
 *   G              t'GGUF' */
void build_recipe(struct buf *out, const char *recipe);

/* Two shards for BAD_INDEX: file "1" holds tensor x, file "2" holds tensors y and z. */
extern const char *const good_shards[2];

/* Opens the file of a row at `path` (a folder for BAD_INDEX) and fails the cmocka test unless the answer is the row's
 * and the sentence is one clean line that names the file. */
void check_bad_file(const struct bad_file *f, const char *path);
/* Writes the rows of a format, those below 4 KiB, into a folder. */
void dump_bad_files(const char *folder, enum bad_format format);

#endif

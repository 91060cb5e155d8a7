/* bad_files.c: see bad_files.h. The rows first, then the recipe builder and the checks. */
#include "bad_files.h"

#include "support.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "formats/formats.h"

/* Header: counts of tensors and keys. Key: name and kind. Tensor: name, dimensions..., type, offset. */
#define H(n_tensors, n_keys) "G w3 q" #n_tensors " q" #n_keys " "
#define K(name, kind) "s'" name "' w" #kind " "
#define T1(name, d0, type, at) "s'" name "' w1 q" #d0 " w" #type " q" #at " "
#define T2(name, d0, d1, type, at) "s'" name "' w2 q" #d0 " q" #d1 " w" #type " q" #at " "
#define T4(name, d0, d1, d2, d3, type, at) "s'" name "' w4 q" #d0 " q" #d1 " q" #d2 " q" #d3 " w" #type " q" #at " "
#define PACK K("hearth.layout", 8) "s'r8/1' "
#define ALIGN(v) H(1, 1) K("general.alignment", 4) "w" #v " " T1("t", 8, 0, 0) "z131072"
/* One safetensors entry. */
#define E(name, dtype, shape, offsets) \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"
#define X3 E("x", "I8", "[3]", "[0,3]")
#define MAP(entries) "t'{\"metadata\":{},\"weight_map\":{" entries "}}'"

/* A vocabulary: number of keys, model; three tokens. */
#define VOCAB(n_keys, model) H(0, n_keys) K("tokenizer.ggml.model", 8) "s'" model "' "
#define TOKENS K("tokenizer.ggml.tokens", 9) "w8 q3 s'a' s'b' s'ab' "
#define BYTE_TOKEN(text) VOCAB(3, "llama") K("tokenizer.ggml.tokens", 9) "w8 q1 " text " " K("tokenizer.ggml.token_type", 9) "w5 q1 w6"

#define DAMAGED HEARTH_EDAMAGED
#define UNSUPPORTED HEARTH_EUNSUPPORTED
#define LIMIT HEARTH_ELIMIT
#define NOTFOUND HEARTH_ENOTFOUND
#define INVALID HEARTH_EINVAL

const struct bad_file bad_files[] = {
    /* ---- V1: counts ---- */
    { "V1", BAD_GGUF, DAMAGED, "room for 0", H(-1, 0) },
    { "V1", BAD_GGUF, DAMAGED, "9223372036854775808 tensors", H(0x8000000000000000, 0) },
    { "V1", BAD_GGUF, DAMAGED, "4294967297 tensors", H(0x100000001, 0) "z64" },
    { "V1", BAD_GGUF, DAMAGED, "tensors", H(0x07c1f07c1f07c1f1, 0) "z64" /* * 33 wraps to 1 */ },
    { "V1", BAD_GGUF, DAMAGED, "says there are 1 tensors", H(1, 0) },
    { "V1", BAD_GGUF, DAMAGED, "says there are 3 tensors", H(3, 0) T1("a", 8, 0, 0) T1("b", 8, 0, 32) },
    { "V1", BAD_GGUF, LIMIT, "65537 tensors, the limit is 65536", H(65537, 0) "z2200000" },
    { "V1", BAD_GGUF, DAMAGED, "room for 0", H(0, -1) },
    { "V1", BAD_GGUF, DAMAGED, "9223372036854775808 keys", H(0, 0x8000000000000000) "z64" },
    { "V1", BAD_GGUF, LIMIT, "4097 keys, the limit is 4096", H(0, 4097) "z60000" },
    { "V1", BAD_GGUF, DAMAGED, "key number 0: needs 18446744073709551615 bytes", H(0, 1) "q-1 z64" },
    { "V1", BAD_GGUF, DAMAGED, "key number 0: needs 61 bytes", H(0, 1) "q61 z60" },
    { "V1", BAD_GGUF, LIMIT, "its name of 257 bytes, the limit is 256", H(0, 1) "X257 w0 b0" },
    { "V1", BAD_GGUF, DAMAGED, "its name is empty", H(0, 1) "q0 w0 b0 z64" },
    { "V1", BAD_GGUF, DAMAGED, "key 'k': needs 18446744073709551615 bytes", H(0, 1) K("k", 8) "q-1 z64" },
    { "V1", BAD_GGUF, DAMAGED, "key 'k': needs 9223372036854775808 bytes", H(0, 1) K("k", 8) "q0x8000000000000000 z64" },
    { "V1", BAD_GGUF, DAMAGED, "key 'k': needs 65 bytes", H(0, 1) K("k", 8) "q65 z64" },
    { "V1", BAD_GGUF, LIMIT, "a string of 1048577 bytes, the limit is 1048576", H(0, 1) K("k", 8) "X1048577" },
    { "V1", BAD_GGUF, LIMIT, "the limit is 262144", H(0, 1) K("tokenizer.chat_template", 8) "X262145" },
    { "V1", BAD_GGUF, LIMIT, "the limit is 262144", H(0, 1) K("tokenizer.chat_template.tool_use", 8) "X262145" },
    { "V1", BAD_GGUF, DAMAGED, "18446744073709551615 values of kind u8", H(0, 1) K("k", 9) "w0 q-1 z64" },
    { "V1", BAD_GGUF, DAMAGED, "room for 8", H(0, 1) K("k", 9) "w10 q0x2000000000000001 z64" /* * 8 wraps */ },
    { "V1", BAD_GGUF, DAMAGED, "room for 16", H(0, 1) K("k", 9) "w4 q0x4000000000000001 z64" /* * 4 wraps */ },
    { "V1", BAD_GGUF, DAMAGED, "room for 32", H(0, 1) K("k", 9) "w2 q0x8000000000000001 z64" /* * 2 wraps */ },
    { "V1", BAD_GGUF, DAMAGED, "values of kind string", H(0, 1) K("k", 9) "w8 q0x1000000000000001 z64" /* * 16 wraps */ },
    { "V1", BAD_GGUF, DAMAGED, "65 values of kind u8, but the file has room for 64", H(0, 1) K("k", 9) "w0 q65 z64" },
    { "V1", BAD_GGUF, DAMAGED, "9 values of kind string, but the file has room for 8", H(0, 1) K("k", 9) "w8 q9 z64" },
    { "V1", BAD_GGUF, LIMIT, "an array of 4194305 values, the limit is 4194304", H(0, 1) K("k", 9) "w0 q4194305 z4194305" },
    { "V1", BAD_GGUF, DAMAGED, "key 'k': needs 18446744073709551615 bytes", H(0, 1) K("k", 9) "w8 q2 s'a' q-1 z64" },
    { "V1", BAD_GGUF, LIMIT, "an array holds a string of 1048577 bytes", H(0, 1) K("k", 9) "w8 q1 X1048577" },
    { "V1", BAD_GGUF, UNSUPPORTED, "arrays inside arrays", H(0, 1) K("k", 9) "w9 q1 w0 q1 b0 z64" },
    { "V1", BAD_GGUF, UNSUPPORTED, "arrays inside arrays", H(0, 1) K("k", 9) "*100( w9 q1 ) w0 q1 b0 z64" },
    { "V1", BAD_GGUF, DAMAGED, "tensor number 0: needs 18446744073709551615", H(1, 0) "q-1 z64" },
    { "V1", BAD_GGUF, LIMIT, "its name of 65 bytes, the limit is 64", H(1, 0) "X65 w1 q8 w0 q0 z64" },
    { "V1", BAD_GGUF, DAMAGED, "its name is empty", H(1, 0) "q0 w1 q8 w0 q0 z64" },
    { "V1", BAD_GGUF, LIMIT, "1025 parts, the limit is 1024", H(0, 1) K("split.count", 2) "h1025" },

    /* ---- V2: size arithmetic, alignment ---- */
    { "V2", BAD_GGUF, DAMAGED, "more than 2^64", H(1, 0) T2("t", 0x100000000, 0x100000000, 0, 0) "z64" },
    { "V2", BAD_GGUF, DAMAGED, "more than 2^64", H(1, 0) T2("t", 0x8000000000000000, 2, 24, 0) "z64" },
    { "V2", BAD_GGUF, DAMAGED, "more than 2^64", H(1, 0) T2("t", 0x100000000, 0x100000001, 24, 0) "z64" },
    { "V2", BAD_GGUF, DAMAGED, "more than 2^64", H(1, 0) T4("t", 65536, 65536, 65536, 65536, 24, 0) "z64" },
    { "V2", BAD_GGUF, DAMAGED, "more than 2^64", H(1, 0) T4("t", 3, 0x5555555555555556, 1, 1, 24, 0) "z64" /* = 2 */ },
    { "V2", BAD_GGUF, DAMAGED, "more than memory", H(1, 0) T1("t", 0x4000000000000000, 0, 0) "z64" /* bytes = 0 */ },
    { "V2", BAD_GGUF, DAMAGED, "more than memory", H(1, 0) T1("t", 0x4000000000000001, 0, 0) "z64" /* bytes = 4 */ },
    { "V2", BAD_GGUF, DAMAGED, "more than memory", H(1, 0) T1("t", 0x2000000000000000, 0, 0) "z64" },
    { "V2", BAD_GGUF, DAMAGED, "more than memory", H(1, 0) T1("t", 0x8000000000000000, 24, 0) "z64" /* negative */ },
    { "V2", BAD_GGUF, DAMAGED, "more than memory", H(1, 0) T1("t", 0xffffffffffffffe0, 2, 0) "z64" /* blocks, -32 */ },
    { "V2", BAD_GGUF, DAMAGED, "more than memory", H(1, 0) T1("t", -1, 24, 0) "z64" },
    { "V2", BAD_GGUF, DAMAGED, "past the end", H(1, 0) T1("t", 0x7fffffffffffffff, 24, 0) "z64" },
    { "V2", BAD_GGUF, DAMAGED, "dimension 0 is zero", H(1, 0) T1("t", 0, 0, 0) "z64" },
    { "V2", BAD_GGUF, DAMAGED, "dimension 1 is zero", H(1, 0) T2("t", 32, 0, 2, 0) "z64" },
    { "V2", BAD_GGUF, DAMAGED, "dimension 3 is zero", H(1, 0) T4("t", 32, 1, 1, 0, 2, 0) "z64" },
    { "V2", BAD_GGUF, DAMAGED, "has 0 dimensions", H(1, 0) "s't' w0 w0 q0 z64" },
    { "V2", BAD_GGUF, DAMAGED, "has 5 dimensions", H(1, 0) "s't' w5 q1 q1 q1 q1 q1 w0 q0 z64" },
    { "V2", BAD_GGUF, DAMAGED, "has 4294967295 dimensions", H(1, 0) "s't' w-1 z64" },
    { "V2", BAD_GGUF, DAMAGED, "whole Q8_0 blocks of 32", H(1, 0) T1("t", 31, 8, 0) "z64" },
    { "V2", BAD_GGUF, DAMAGED, "whole Q4_0 blocks of 32", H(1, 0) T2("t", 33, 32, 2, 0) "z640" },
    { "V2", BAD_GGUF, DAMAGED, "whole Q4_K blocks of 256", H(1, 0) T2("t", 128, 2, 12, 0) "z640" /* 256 in all */ },
    { "V2", BAD_GGUF, DAMAGED, "past the end", H(1, 0) T1("t", 16, 0, 0xffffffffffffffe0) "z640" /* end wraps to 32 */ },
    { "V2", BAD_GGUF, DAMAGED, "past the end", H(1, 0) T1("t", 8, 0, 0xffffffffffffffe0) "z640" /* end wraps to 0 */ },
    { "V2", BAD_GGUF, DAMAGED, "past the end", H(1, 0) T1("t", 8, 0, 0x8000000000000000) "z640" },
    { "V2", BAD_GGUF, DAMAGED, "is 0, it must be a power of two", ALIGN(0) },
    { "V2", BAD_GGUF, DAMAGED, "is 1, it must be a power of two", ALIGN(1) },
    { "V2", BAD_GGUF, DAMAGED, "is 4, it must be a power of two", ALIGN(4) },
    { "V2", BAD_GGUF, DAMAGED, "is 24, it must be a power of two", ALIGN(24) },
    { "V2", BAD_GGUF, DAMAGED, "is 65535, it must be", ALIGN(65535) },
    { "V2", BAD_GGUF, DAMAGED, "is 131072, it must be", ALIGN(131072) },
    { "V2", BAD_GGUF, DAMAGED, "is 2147483648, it must be", ALIGN(0x80000000) },
    { "V2", BAD_GGUF, DAMAGED, "is 4294967295, it must be", ALIGN(-1) },
    { "V2", BAD_GGUF, DAMAGED, "is of kind string, it must be u32", H(0, 1) K("general.alignment", 8) "s'\x20'" },
    { "V2", BAD_GGUF, DAMAGED, "is of kind u64, it must be u32", H(0, 1) K("general.alignment", 10) "q32" },
    { "V2", BAD_GGUF, DAMAGED, "is of kind i32, it must be u32", H(0, 1) K("general.alignment", 5) "w32" },
    { "V2", BAD_GGUF, DAMAGED, "is of kind bool, it must be u32", H(0, 1) K("general.alignment", 7) "b1" },
    { "V2", BAD_GGUF, DAMAGED, "is of kind f32, it must be u32", H(0, 1) K("general.alignment", 6) "w0x42000000" },
    { "V2", BAD_GGUF, DAMAGED, "is of kind array, it must be u32", H(0, 1) K("general.alignment", 9) "w4 q1 w32" },

    /* ---- V3: extents ---- */
    { "V3", BAD_GGUF, DAMAGED, "header: needs 4 bytes at byte 0, but the file ends at byte 0", "" },
    { "V3", BAD_GGUF, DAMAGED, "ends at byte 2", "t'GG'" },
    { "V3", BAD_GGUF, DAMAGED, "ends at byte 4", "G" },
    { "V3", BAD_GGUF, DAMAGED, "ends at byte 16", "G w3 q0" },
    { "V3", BAD_GGUF, DAMAGED, "key 'kkkkkk': needs 4 bytes", H(0, 1) "s'kkkkkk'" },
    { "V3", BAD_GGUF, DAMAGED, "32 bytes at offset 0 of the data go past the end", H(1, 0) T1("t", 8, 0, 0) "a32 z31" },
    { "V3", BAD_GGUF, DAMAGED, "past the end", H(1, 0) T1("t", 8, 0, 0) },
    { "V3", BAD_GGUF, DAMAGED, "past the end", H(1, 0) T1("t", 8, 0, 64) "a32 z64" },
    { "V3", BAD_GGUF, DAMAGED, "past the end", H(1, 0) T1("t", 8, 0, 96) "a32 z64" },
    { "V3", BAD_GGUF, DAMAGED, "past the end", H(1, 1) K("general.alignment", 4) "w65536 " T1("t", 8, 0, 0) "z640" },
    { "V3", BAD_GGUF, DAMAGED, "offset 1 is not a multiple of the alignment 32", H(1, 0) T1("t", 8, 0, 1) "z640" },
    { "V3", BAD_GGUF, DAMAGED, "offset 16 is not a multiple of the alignment 32", H(1, 0) T1("t", 8, 0, 16) "z640" },
    { "V3", BAD_GGUF, DAMAGED, "alignment 64", H(1, 1) K("general.alignment", 4) "w64 " T1("t", 8, 0, 32) "z640" },
    { "V3", BAD_GGUF, DAMAGED, "overlaps tensor", H(2, 0) T1("a", 8, 0, 0) T1("b", 8, 0, 0) "z640" },
    { "V3", BAD_GGUF, DAMAGED, "tensor 'b': at byte", H(2, 0) T1("a", 9, 0, 0) T1("b", 8, 0, 32) "z640" },
    { "V3", BAD_GGUF, DAMAGED, "overlaps tensor 'a'", H(2, 0) T1("a", 64, 0, 0) T1("b", 8, 0, 96) "z640" },
    { "V3", BAD_GGUF, DAMAGED, "overlaps tensor 'b'", H(2, 0) T1("a", 8, 0, 64) T1("b", 64, 0, 0) "z640" },
    { "V3", BAD_GGUF, DAMAGED, "overlaps tensor 'a'", H(3, 0) T1("a", 33, 0, 0) T1("c", 8, 0, 192) T1("b", 8, 0, 128) "z640" },
    { "V3", BAD_GGUF, DAMAGED, "tensor 'a': is there twice", H(2, 0) T1("a", 8, 0, 0) T1("a", 8, 0, 32) "z640" },
    { "V3", BAD_GGUF, DAMAGED, "key 'k': is there twice", H(0, 2) K("k", 0) "b1 " K("k", 0) "b1 z64" },
    { "V3", BAD_GGUF, DAMAGED, "key 'k': is there twice", H(0, 3) K("k", 0) "b1 " K("j", 0) "b1 " K("k", 8) "s'x' z64" },
    { "V3", BAD_GGUF, INVALID, "part 1 of 2 of a split model, but the file name does not end",
      H(0, 3) K("split.count", 2) "h2 " K("split.no", 2) "h0 " K("split.tensors.count", 5) "w0" },
    { "V3", BAD_GGUF, INVALID, "part 2 of 2", H(0, 3) K("split.count", 2) "h2 " K("split.no", 2) "h1 " K("split.tensors.count", 5) "w0" },
    { "V3", BAD_GGUF, DAMAGED, "split.no is missing", H(0, 2) K("split.count", 2) "h2 " K("split.tensors.count", 5) "w0" },
    { "V3", BAD_GGUF, DAMAGED, "split.tensors.count is missing", H(0, 2) K("split.count", 2) "h2 " K("split.no", 2) "h0" },
    { "V3", BAD_GGUF, DAMAGED, "out of its range 0 to 1", H(0, 3) K("split.count", 2) "h2 " K("split.no", 2) "h2 " K("split.tensors.count", 5) "w0" },
    { "V3", BAD_GGUF, DAMAGED, "split.tensors.count is 0",
      H(1, 3) K("split.count", 2) "h2 " K("split.no", 2) "h0 " K("split.tensors.count", 5) "w0 " T1("t", 8, 0, 0) "z64" },
    { "V3", BAD_GGUF, DAMAGED, "key 'split.tensors.count': is out of its range",
      H(0, 3) K("split.count", 2) "h2 " K("split.no", 2) "h0 " K("split.tensors.count", 5) "w-1" },

    /* ---- V4: types, magic, names ---- */
    { "V4", BAD_GGUF, DAMAGED, "value kind 13 does not exist", H(0, 1) K("k", 13) "z64" },
    { "V4", BAD_GGUF, DAMAGED, "value kind 255 does not exist", H(0, 1) K("k", 255) "z64" },
    { "V4", BAD_GGUF, DAMAGED, "value kind 4294967295 does not exist", H(0, 1) K("k", -1) "z64" },
    { "V4", BAD_GGUF, DAMAGED, "value kind 13 does not exist", H(0, 1) K("k", 9) "w13 q1 z64" },
    { "V4", BAD_GGUF, DAMAGED, "value kind 4294967295 does not exist", H(0, 1) K("k", 9) "w-1 q1 z64" },
    { "V4", BAD_GGUF, UNSUPPORTED, "tensor 't': is of type number 40, which is unknown", H(1, 0) T1("t", 32, 40, 0) "z64" },
    { "V4", BAD_GGUF, UNSUPPORTED, "type number 4, which the format has withdrawn", H(1, 0) T1("t", 32, 4, 0) "z64" },
    { "V4", BAD_GGUF, UNSUPPORTED, "type number 31, which the format has withdrawn", H(1, 0) T1("t", 32, 31, 0) "z64" },
    { "V4", BAD_GGUF, UNSUPPORTED, "type number 36", H(1, 0) T1("t", 32, 36, 0) "z64" },
    { "V4", BAD_GGUF, UNSUPPORTED, "type number 4294967295", H(1, 0) T1("t", 32, -1, 0) "z64" },
    { "V4", BAD_GGUF, UNSUPPORTED, "tensor 't': is of type number 1002, which is unknown", H(1, 0) T2("t", 32, 8, 1002, 0) "z640" },
    { "V4", BAD_GGUF, UNSUPPORTED, "layout \"r8/2\"", H(1, 1) K("hearth.layout", 8) "s'r8/2' " T2("t", 32, 8, 1002, 0) "z640" },
    { "V4", BAD_GGUF, DAMAGED, "'hearth.layout': is of kind u32", H(1, 1) K("hearth.layout", 4) "w8 " T2("t", 32, 8, 1002, 0) "z640" },
    { "V4", BAD_GGUF, UNSUPPORTED, "type number 1040", H(1, 1) PACK T2("t", 32, 8, 1040, 0) "z640" },
    { "V4", BAD_GGUF, UNSUPPORTED, "type number 1024", H(1, 1) PACK T2("t", 32, 8, 1024, 0) "z640" },
    { "V4", BAD_GGUF, DAMAGED, "has 1 dimensions, but type Q4_0_R8", H(1, 1) PACK T1("t", 32, 1002, 0) "z640" },
    { "V4", BAD_GGUF, DAMAGED, "has 4 dimensions, but type F32_R8", H(1, 1) PACK T4("t", 8, 8, 1, 1, 1000, 0) "z640" },
    { "V2", BAD_GGUF, DAMAGED, "1152 bytes at offset 0 of the data go past the end", H(1, 1) PACK T2("t", 256, 1, 1012, 0) "a32 z1151" },
    { "V2", BAD_GGUF, DAMAGED, "whole Q4_K_R8 blocks of 256", H(1, 1) PACK T2("t", 128, 2, 1012, 0) "z2640" },
    { "V2", BAD_GGUF, DAMAGED, "more than 2^64", H(1, 1) PACK T2("t", 32, -1, 1002, 0) "z640" },
    { "V2", BAD_GGUF, DAMAGED, "more than memory", H(1, 1) PACK T2("t", 0x400000000, 0x3ffffff1, 1000, 0) "z640" },
    { "V4", BAD_GGUF, UNSUPPORTED, "type number 2147483648", H(1, 0) T1("t", 32, 0x80000000, 0) "z64" },
    { "V4", BAD_GGUF, DAMAGED, "a bool holds 2", H(0, 1) K("k", 7) "b2" },
    { "V4", BAD_GGUF, DAMAGED, "a bool holds 255", H(0, 1) K("k", 9) "w7 q3 b1 b0 b255" },
    { "V4", BAD_GGUF, DAMAGED, "not a GGUF file", "z64" },
    { "V4", BAD_GGUF, DAMAGED, "not a GGUF file", "t'gguf' w3 z64" },
    { "V4", BAD_GGUF, DAMAGED, "not a GGUF file", "b0x1f b0x8b b8 z64" /* gzip */ },
    { "V4", BAD_GGUF, DAMAGED, "not a GGUF file", "t'PK' b3 b4 z64" /* zip: PyTorch */ },
    { "V4", BAD_GGUF, UNSUPPORTED, "before GGUF", "t'tjgg' w3 z64" },
    { "V4", BAD_GGUF, UNSUPPORTED, "before GGUF", "t'lmgg' w3 z64" },
    { "V4", BAD_GGUF, UNSUPPORTED, "GGUF version 1 is not", "G w1 w0 w0 z64" },
    { "V4", BAD_GGUF, UNSUPPORTED, "GGUF version 0 is not", "G w0 q0 q0" },
    { "V4", BAD_GGUF, UNSUPPORTED, "GGUF version 4 is not", "G w4 q0 q0" },
    { "V4", BAD_GGUF, UNSUPPORTED, "big-endian", "G w0x03000000 q0 q0" },
    { "V4", BAD_GGUF, DAMAGED, "its name holds byte 0x1b", H(0, 1) "s'\x1b[31m' w0 b0 z64" },
    { "V4", BAD_GGUF, DAMAGED, "its name holds byte 0x00", H(0, 1) "q3 t'a' b0 t'b' w0 b0 z64" },
    { "V4", BAD_GGUF, DAMAGED, "its name holds byte 0xc3", H(0, 1) "s'\xc3\xa9' w0 b0 z64" },
    { "V4", BAD_GGUF, DAMAGED, "its name holds byte 0x0a", H(1, 0) T1("a\nb", 8, 0, 0) "z64" },
    { "V4", BAD_GGUF, DAMAGED, "its name holds byte 0x7f", H(1, 0) T1("\x7f", 8, 0, 0) "z64" },
    { "V4", BAD_GGUF, DAMAGED, "key 'split.count': is of kind string", H(0, 1) K("split.count", 8) "s'2'" },
    { "V4", BAD_GGUF, DAMAGED, "key 'split.count': is of kind f32", H(0, 1) K("split.count", 6) "w0x40000000" },
    { "V4", BAD_GGUF, DAMAGED, "key 'split.count': is out of its range", H(0, 1) K("split.count", 3) "h-2" },
    { "V4", BAD_GGUF, DAMAGED, "key 'split.no': is of kind array",
      H(0, 3) K("split.count", 2) "h2 " K("split.no", 9) "w2 q1 h0 " K("split.tensors.count", 5) "w0" },

    /* ---- V6: vocabularies ---- */
    { "V6", BAD_VOCAB, NOTFOUND, "no vocabulary", H(0, 0) },
    { "V6", BAD_VOCAB, UNSUPPORTED, "\"made-up\" are not supported", VOCAB(1, "made-up") },
    { "V6", BAD_VOCAB, UNSUPPORTED, "\"?[31m\" are not", VOCAB(1, "\x1b[31m") },
    { "V6", BAD_VOCAB, DAMAGED, "it must be a string", H(0, 1) K("tokenizer.ggml.model", 9) "w8 q1 s'llama'" },
    { "V6", BAD_VOCAB, DAMAGED, "tokenizer.ggml.tokens is missing", VOCAB(1, "llama") },
    { "V6", BAD_VOCAB, DAMAGED, "is an array of u32", VOCAB(2, "llama") K("tokenizer.ggml.tokens", 9) "w4 q1 w7" },
    { "V6", BAD_VOCAB, NOTFOUND, "no tokens", VOCAB(2, "llama") K("tokenizer.ggml.tokens", 9) "w8 q0" },
    { "V6", BAD_VOCAB, LIMIT, "1048577 tokens", VOCAB(2, "llama") K("tokenizer.ggml.tokens", 9) "w8 q1048577 z8388616" },
    { "V6", BAD_VOCAB, LIMIT, "has 65537 bytes", VOCAB(2, "llama") K("tokenizer.ggml.tokens", 9) "w8 q1 X65537" },
    { "V6", BAD_VOCAB, DAMAGED, "has 2 entries for 3 tokens", VOCAB(3, "llama") TOKENS K("tokenizer.ggml.scores", 9) "w6 q2 z8" },
    { "V6", BAD_VOCAB, DAMAGED, "is an array of f64", VOCAB(3, "llama") TOKENS K("tokenizer.ggml.scores", 9) "w12 q3 z24" },
    { "V6", BAD_VOCAB, DAMAGED, "score of token 1", VOCAB(3, "llama") TOKENS K("tokenizer.ggml.scores", 9) "w6 q3 w0 w0x7fc00000 w0" },
    { "V6", BAD_VOCAB, DAMAGED, "score of token 2", VOCAB(3, "t5") TOKENS K("tokenizer.ggml.scores", 9) "w6 q3 w0 w0 w0xff800000" },
    { "V6", BAD_VOCAB, DAMAGED, "token 2 has type 7", VOCAB(3, "llama") TOKENS K("tokenizer.ggml.token_type", 9) "w5 q3 w1 w1 w7" },
    { "V6", BAD_VOCAB, DAMAGED, "token 0 has type 255", VOCAB(3, "llama") TOKENS K("tokenizer.ggml.token_type", 9) "w5 q3 w-1 w1 w1" },
    { "V6", BAD_VOCAB, DAMAGED, "has 4 entries for 3 tokens", VOCAB(3, "llama") TOKENS K("tokenizer.ggml.token_type", 9) "w5 q4 w1 w1 w1 w1" },
    { "V6", BAD_VOCAB, DAMAGED, "reads \"<0x-1>\", not <0xHH>", BYTE_TOKEN("s'<0x-1>'") },
    { "V6", BAD_VOCAB, DAMAGED, "not <0xHH>", BYTE_TOKEN("s'<0x1>'") },
    { "V6", BAD_VOCAB, DAMAGED, "not <0xHH>", BYTE_TOKEN("s'<0x100>'") },
    { "V6", BAD_VOCAB, DAMAGED, "not <0xHH>", BYTE_TOKEN("s'<0xG0>'") },
    { "V6", BAD_VOCAB, DAMAGED, "not <0xHH>", BYTE_TOKEN("s'<0x 1>'") },
    { "V6", BAD_VOCAB, DAMAGED, "not <0xHH>", BYTE_TOKEN("s'<0x+1>'") },
    { "V6", BAD_VOCAB, DAMAGED, "not <0xHH>", BYTE_TOKEN("q0") },
    { "V6", BAD_VOCAB, DAMAGED, "reads \"?]0;x?\"", BYTE_TOKEN("s'\x1b]0;x\x07'") },
    { "V6", BAD_VOCAB, DAMAGED, "bos_token_id is 3, outside the 3 tokens", VOCAB(3, "llama") TOKENS K("tokenizer.ggml.bos_token_id", 4) "w3" },
    { "V6", BAD_VOCAB, DAMAGED, "is 4294967295, outside", VOCAB(3, "llama") TOKENS K("tokenizer.ggml.unknown_token_id", 4) "w-1" },
    { "V6", BAD_VOCAB, DAMAGED, "key 'tokenizer.ggml.eos_token_id': is -1", VOCAB(3, "llama") TOKENS K("tokenizer.ggml.eos_token_id", 5) "w-1" },
    { "V6", BAD_VOCAB, DAMAGED, "allowed is 0 to 4294967295", VOCAB(3, "llama") TOKENS K("tokenizer.ggml.eos_token_id", 10) "q0x100000000" },
    { "V6", BAD_VOCAB, DAMAGED, "it must be bool", VOCAB(3, "llama") TOKENS K("tokenizer.ggml.add_bos_token", 4) "w1" },
    { "V6", BAD_VOCAB, DAMAGED, "merges is missing", VOCAB(2, "gpt2") TOKENS },
    { "V6", BAD_VOCAB, DAMAGED, "merge 0 (\"ab\") is not two tokens", VOCAB(3, "gpt2") TOKENS K("tokenizer.ggml.merges", 9) "w8 q1 s'ab'" },
    { "V6", BAD_VOCAB, DAMAGED, "merge 1 (\"a c\") is not two tokens", VOCAB(3, "gpt2") TOKENS K("tokenizer.ggml.merges", 9) "w8 q2 s'a b' s'a c'" },
    { "V6", BAD_VOCAB, DAMAGED, "merge 0 (\"\")", VOCAB(3, "gpt2") TOKENS K("tokenizer.ggml.merges", 9) "w8 q1 q0" },
    { "V6", BAD_VOCAB, DAMAGED, "contradicts its own sizes", VOCAB(3, "t5") TOKENS K("tokenizer.ggml.precompiled_charsmap", 9) "w0 q4 w-1" },
    { "V6", BAD_VOCAB, DAMAGED, "contradicts its own sizes", VOCAB(3, "t5") TOKENS K("tokenizer.ggml.precompiled_charsmap", 9) "w0 q3 z3" },

    /* ---- V7: safetensors ---- */
    { "V7", BAD_SAFETENSORS, DAMAGED, "0 bytes are too few", "" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "7 bytes are too few", "z7" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "18446744073709551615 bytes does not fit", "q-1 t'{}'" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "does not fit", "q0x8000000000000000 t'{}'" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "a header of 3 bytes does not fit into the file's 10", "q3 t'{}'" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "does not begin with", "q0" },
    { "V7", BAD_SAFETENSORS, LIMIT, "the limit is 16777216", "q16777217 x16777217" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "does not begin with", "s' {" X3 "}' z3" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "does not begin with", "s'[]'" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "not JSON", "s'{" X3 "' z3" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "not JSON", "s'{" X3 ",}' z3" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "not JSON", "s'{" X3 "}}' z3" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "not JSON", "s'{" X3 "} x' z3" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "not JSON", "s'{\"\xff\":1}'" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "a NUL byte", "q3 t'{}' b0" },
    { "V7", BAD_SAFETENSORS, LIMIT, "nested deeper than 4", "s'{\"x\":[[[[3]]]]}'" },
    { "V7", BAD_SAFETENSORS, LIMIT, "nested deeper than 4", "q100001 t'{' *100000( t'[' )" },
    { "V7", BAD_SAFETENSORS, LIMIT, "more than 851968 values", "q2000004 t'{\"x\":' *999999( t'[]' ) z100" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "uplicate", "s'{" X3 "," X3 "}' z3" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "uplicate", "s'{\"x\":{\"dtype\":\"I8\",\"dtype\":\"I8\",\"shape\":[3],\"data_offsets\":[0,3]}}' z3" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "an entry must have", "s'{\"x\":3}'" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "an entry must have", "s'{\"x\":{\"shape\":[3],\"data_offsets\":[0,3]}}' z3" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "an entry must have", "s'{\"x\":{\"dtype\":\"I8\",\"data_offsets\":[0,3]}}' z3" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "an entry must have", "s'{\"x\":{\"dtype\":\"I8\",\"shape\":[3]}}' z3" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "and nothing else", "s'{\"x\":{\"dtype\":\"I8\",\"shape\":[3],\"data_offsets\":[0,3],\"y\":1}}' z3" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "an entry must have", "s'{\"x\":{\"dtype\":8,\"shape\":[3],\"data_offsets\":[0,3]}}' z3" },
    { "V7", BAD_SAFETENSORS, UNSUPPORTED, "tensor 'x': dtype U8 is not", "s'{" E("x", "U8", "[3]", "[0,3]") "}' z3" },
    { "V7", BAD_SAFETENSORS, UNSUPPORTED, "dtype F8_E4M3 is not", "s'{" E("x", "F8_E4M3", "[3]", "[0,3]") "}' z3" },
    { "V7", BAD_SAFETENSORS, UNSUPPORTED, "dtype i8 is not", "s'{" E("x", "i8", "[3]", "[0,3]") "}' z3" },
    { "V7", BAD_SAFETENSORS, UNSUPPORTED, "dtype Q4_0 is not", "s'{" E("x", "Q4_0", "[32]", "[0,18]") "}' z18" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "shape is not an array", "s'{" E("x", "I8", "3", "[0,3]") "}' z3" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "dimension 0 is not a whole number", "s'{" E("x", "I8", "[-3]", "[0,3]") "}' z3" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "dimension 1 is not a whole number", "s'{" E("x", "I8", "[3,1.0]", "[0,3]") "}' z3" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "dimension 0 is not a whole number", "s'{" E("x", "I8", "[\"3\"]", "[0,3]") "}' z3" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "dimension 0 is not a whole number", "s'{" E("x", "I8", "[[3]]", "[0,3]") "}' z3" },
    { "V7", BAD_SAFETENSORS, UNSUPPORTED, "5 dimensions", "s'{" E("x", "I8", "[3,1,1,1,1]", "[0,3]") "}' z3" },
    { "V7", BAD_SAFETENSORS, UNSUPPORTED, "without elements", "s'{" E("x", "I8", "[0]", "[0,0]") "}'" },
    { "V7", BAD_SAFETENSORS, UNSUPPORTED, "without elements", "s'{" X3 "," E("y", "I8", "[3,0]", "[1,1]") "}' z3" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "more than 2^64", "s'{" E("x", "I8", "[4294967296,4294967296]", "[0,0]") "}'" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "more than memory", "s'{" E("x", "F32", "[4611686018427387905]", "[0,4]") "}' z4" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "not JSON", "s'{" E("x", "I8", "[18446744073709551619]", "[0,3]") "}' z3" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "two whole numbers", "s'{" E("x", "I8", "[3]", "[3]") "}' z3" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "two whole numbers", "s'{" E("x", "I8", "[3]", "[0,3,3]") "}' z3" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "two whole numbers", "s'{" E("x", "I8", "[3]", "[\"0\",3]") "}' z3" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "two whole numbers", "s'{" E("x", "I8", "[3]", "[-3,0]") "}' z3" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "two whole numbers", "s'{" E("x", "I8", "[3]", "[0,3.0]") "}' z3" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "two whole numbers", "s'{" E("x", "I8", "[3]", "{}") "}' z3" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "do not lie in order", "s'{" E("x", "I8", "[3]", "[3,0]") "}' z3" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "inside the 3 bytes of data", "s'{" E("x", "I8", "[4]", "[0,4]") "}' z3" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "do not lie in order", "s'{" E("x", "I8", "[3]", "[9223372036854775804,9223372036854775807]") "}' z3" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "hold 2 bytes, its shape and dtype need 3", "s'{" E("x", "I8", "[3]", "[0,2]") "}' z3" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "hold 3 bytes, its shape and dtype need 2", "s'{" E("x", "I8", "[2]", "[0,3]") "}' z3" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "hold 4 bytes, its shape and dtype need 8", "s'{" E("x", "F64", "[]", "[0,4]") "}' z4" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "they overlap", "s'{" X3 "," E("y", "I8", "[3]", "[0,3]") "}' z3" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "they overlap", "s'{" X3 "," E("y", "I8", "[3]", "[2,5]") "}' z5" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "(a hole)", "s'{" E("x", "I8", "[3]", "[1,4]") "}' z4" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "(a hole)", "s'{" E("y", "I8", "[3]", "[4,7]") "," X3 "}' z7" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "end at byte 3 of 4 bytes", "s'{" X3 "}' z4" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "end at byte 0 of 1 bytes", "s'{}' z1" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "__metadata__ is not an object", "s'{\"__metadata__\":[]," X3 "}' z3" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "__metadata__: 'a' is not a string", "s'{\"__metadata__\":{\"a\":1}," X3 "}' z3" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "name must be 1 to 256 bytes", "s'{" E("", "I8", "[3]", "[0,3]") "}' z3" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "printable ASCII", "s'{" E("\\u001b[31m", "I8", "[3]", "[0,3]") "}' z3" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "not JSON", "s'{" E("a\\u0000b", "I8", "[3]", "[0,3]") "}' z3" },
    { "V7", BAD_SAFETENSORS, DAMAGED, "name must be 1 to 256 bytes", "q309 t'{\"' x257 t'\":{\"dtype\":\"I8\",\"shape\":[3],\"data_offsets\":[0,3]}}' z3" },
    { "V7", BAD_SAFETENSORS, LIMIT, "65537 tensors, the limit is 65536",
      "q644257 t'{\"x\":3' *65536( t',\"#\":3' ) t'}'" },

    { "V7", BAD_INDEX, DAMAGED, "no weight_map", "t'{}'" },
    { "V7", BAD_INDEX, DAMAGED, "no weight_map", "t'3'" },
    { "V7", BAD_INDEX, DAMAGED, "no weight_map", MAP("") },
    { "V7", BAD_INDEX, DAMAGED, "no weight_map", "t'{\"weight_map\":[\"1\"]}'" },
    { "V7", BAD_INDEX, DAMAGED, "not JSON", "t'{\"weight_map\":'" },
    { "V7", BAD_INDEX, DAMAGED, "not JSON", "" },
    { "V7", BAD_INDEX, DAMAGED, "uplicate", MAP("\"x\":\"1\",\"x\":\"2\"") },
    { "V7", BAD_INDEX, DAMAGED, "something else than file names", MAP("\"x\":1") },
    { "V7", BAD_INDEX, DAMAGED, "plain file name", MAP("\"x\":\"\"") },
    { "V7", BAD_INDEX, DAMAGED, "plain file name", MAP("\"x\":\"..\"") },
    { "V7", BAD_INDEX, DAMAGED, "plain file name", MAP("\"x\":\".hidden\"") },
    { "V7", BAD_INDEX, DAMAGED, "plain file name", MAP("\"x\":\"../1\"") },
    { "V7", BAD_INDEX, DAMAGED, "plain file name", MAP("\"x\":\"/etc/passwd\"") },
    { "V7", BAD_INDEX, DAMAGED, "plain file name", MAP("\"x\":\"a/../1\"") },
    { "V7", BAD_INDEX, DAMAGED, "plain file name", MAP("\"x\":\"a\\\\1\"") },
    { "V7", BAD_INDEX, DAMAGED, "plain file name", MAP("\"x\":\"1\\u0000\"") },
    { "V7", BAD_INDEX, DAMAGED, "plain file name", MAP("\"x\":\"1\\n\"") },
    { "V7", BAD_INDEX, NOTFOUND, "absent", MAP("\"x\":\"absent\"") },
    { "V7", BAD_INDEX, DAMAGED, "tensor 'y' is not in 1, where weight_map says", MAP("\"x\":\"1\",\"y\":\"1\"") },
    { "V7", BAD_INDEX, DAMAGED, "tensor 'x' is not in 2, where weight_map says", MAP("\"x\":\"2\",\"y\":\"1\",\"z\":\"2\"") },
    { "V7", BAD_INDEX, DAMAGED, "more tensors than the index lists", MAP("\"x\":\"1\",\"y\":\"2\"") },
    { "V7", BAD_INDEX, LIMIT, "nested deeper", "t'{\"weight_map\":[[[[]]]]}'" },
};
const size_t n_bad_files = ARRAY_LEN(bad_files);

const char *const good_shards[2] = {
    "s'{" E("x", "I8", "[3]", "[0,3]") "}' t'abc'",
    "s'{" E("y", "I8", "[3]", "[0,3]") "," E("z", "I8", "[1]", "[3,4]") "}' t'abcd'",
};

/* ---- recipes ---- */

static void put_number(struct buf *out, uint64_t v, size_t n)
{
    uint8_t b[8];
    for (size_t i = 0; i < 8; i++)
        b[i] = (uint8_t)(v >> (8 * i));
    CHECK(buf_append(out, b, n));
}

static void put_fill(struct buf *out, char c, size_t n)
{
    char *p = malloc(n + 1);
    CHECK(p);
    memset(p, c, n);
    CHECK(buf_append(out, p, n));
    free(p);
}

/* Text up to the closing quote, # replaced by the turn; *at ends behind the quote. */
static void put_text(struct buf *out, const char **at, bool with_length, unsigned turn)
{
    struct buf text;
    const char *p = *at;
    CHECK(*p == '\'');
    buf_init(&text, 0);
    for (p++; *p != '\''; p++) {
        CHECK(*p);
        if (*p == '#')
            buf_printf(&text, "%u", turn);
        else
            buf_append(&text, p, 1);
    }
    if (with_length)
        put_number(out, text.len, 8);
    CHECK(!text.failed && buf_append(out, text.data, text.len));
    buf_free(&text);
    *at = p + 1;
}

static uint64_t take_number(const char **at)
{
    char *end;
    bool negative = **at == '-';
    uint64_t v = strtoull(*at + negative, &end, 0);
    CHECK(end != *at + negative);
    *at = end;
    return negative ? -v : v;
}

static void put_step(struct buf *out, const char **at, unsigned turn)
{
    char step = *(*at)++;
    uint64_t v;
    if (step == 'G') {
        CHECK(buf_append(out, "GGUF", 4));
        return;
    }
    if (step == 's' || step == 't') {
        put_text(out, at, step == 's', turn);
        return;
    }
    v = take_number(at);
    switch (step) {
    case 'b': put_number(out, v, 1); break;
    case 'h': put_number(out, v, 2); break;
    case 'w': put_number(out, v, 4); break;
    case 'q': put_number(out, v, 8); break;
    case 'X': put_number(out, v, 8); put_fill(out, 'x', (size_t)v); break;
    case 'x': put_fill(out, 'x', (size_t)v); break;
    case 'z': put_fill(out, 0, (size_t)v); break;
    case 'a': put_fill(out, 0, (size_t)(-out->len & (v - 1))); break;
    default: CHECK(step == 0);
    }
}

/* Steps up to the end or a closing bracket. */
static void put_steps(struct buf *out, const char **at, unsigned turn)
{
    for (;;) {
        *at += strspn(*at, " ");
        if (!**at || **at == ')' || **at == '*')
            return;
        put_step(out, at, turn);
    }
}

void build_recipe(struct buf *out, const char *recipe)
{
    const char *at = recipe;
    for (put_steps(out, &at, 0); *at; put_steps(out, &at, 0)) {
        unsigned n;
        const char *body, *end = NULL;
        CHECK(*at == '*');
        at++;
        n = (unsigned)take_number(&at);
        CHECK(*at == '(');
        body = at + 1;
        for (unsigned i = 0; i < n; i++) {
            end = body;
            put_steps(out, &end, i);
            CHECK(*end == ')');
        }
        at = end + 1;
    }
}

/* ---- checks ---- */

static enum hearth_status open_row(const struct bad_file *f, const char *path, struct arena *a, struct err *e)
{
    if (f->format == BAD_GGUF || f->format == BAD_VOCAB) {
        struct gguf g;
        struct vocab v;
        enum hearth_status st = gguf_open(&g, path, a, e);
        assert_int_equal(g.n_files != 0, st == HEARTH_OK);
        if (f->format == BAD_VOCAB) {
            assert_ok(st, e);
            st = vocab_from_gguf(&v, &g, a, e);
        }
        gguf_close(&g);
        return st;
    } else {
        struct safetensors s;
        enum hearth_status st = st_open(&s, path, a, e);
        assert_int_equal(s.n_files != 0, st == HEARTH_OK);
        st_close(&s);
        return st;
    }
}

static void write_recipe(const char *path, const char *recipe)
{
    struct buf b;
    buf_init(&b, 0);
    build_recipe(&b, recipe);
    write_file(path, b.data ? b.data : "", b.len);
    buf_free(&b);
}

void check_bad_file(const struct bad_file *f, const char *path)
{
    struct arena a;
    struct err e = { 0 };
    enum hearth_status st;
    char file[600];
    snprintf(file, sizeof file, "%s%s", path, f->format == BAD_INDEX ? "/model.safetensors.index.json" : "");
    if (f->format == BAD_INDEX) {
        mkdir(path, 0700);
        for (int i = 0; i < 2; i++) {
            char shard[600];
            snprintf(shard, sizeof shard, "%s/%d", path, i + 1);
            write_recipe(shard, good_shards[i]);
        }
    }
    write_recipe(file, f->recipe);
    arena_init(&a, 32 * MIB);
    st = open_row(f, path, &a, &e);
    if (st != f->status || st != e.status || !strstr(e.text, f->says) || !strstr(e.text, path))
        fail_msg("%s, row %zu: expected \"%s\" (%s), got \"%s\" (%s)\nrecipe: %.300s", f->threat, (size_t)(f - bad_files), f->says,
                 hearth_status_name(f->status), e.text, hearth_status_name(st), f->recipe);
    for (const char *p = e.text; *p; p++)
        if ((unsigned char)*p < 0x20 || (unsigned char)*p > 0x7e)
            fail_msg("row %zu: the sentence holds byte 0x%02x", (size_t)(f - bad_files), (unsigned char)*p);
    arena_free(&a);
}

void dump_bad_files(const char *folder, enum bad_format format)
{
    for (size_t i = 0; i < n_bad_files; i++) {
        struct buf b;
        char path[600];
        buf_init(&b, 0);
        build_recipe(&b, bad_files[i].recipe);
        snprintf(path, sizeof path, "%s/bad-%03zu", folder, i);
        if (bad_files[i].format == format && b.len < 4096)
            write_file(path, b.data ? b.data : "", b.len);
        buf_free(&b);
    }
}

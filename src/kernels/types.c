/* types.c: what the element type numbers of GGUF mean: name, values per block, bytes per block.
 *
 * Every number that the format gives a meaning today is here, also those that hearth cannot compute with
 * (is_readable false): a file that holds one is opened and shown, and refused by name when it should run. Numbers
 * that the format withdrew (4, 5: Q4_2, Q4_3; 31-33, 36-38: rows interleaved for one machine) have no name, so
 * they are refused like any unknown number.
 *
 * Where the block sizes come from (sizes in bytes; d, m, dmin are fp16 of 2 bytes unless said):
 *   32 values    Q4_0 d+16   Q4_1 d+m+16   Q5_0 d+4+16   Q5_1 d+m+4+16   Q8_0 d+32   Q8_1 d+s+32
 *                IQ4_NL d+16   MXFP4 1+16 (an 8-bit exponent)
 *   256 values   Q2_K 16+64+d+dmin   Q3_K 32+64+12+d   Q4_K d+dmin+12+128   Q5_K d+dmin+12+32+128
 *                Q6_K 128+64+16+d   Q8_K 4 (a float)+256+32
 *                IQ2_XXS d+64   IQ2_XS d+64+8   IQ2_S d+64+8+8   IQ3_XXS d+96   IQ3_S d+64+8+32+4
 *                IQ1_S d+32+16   IQ1_M 32+16+8   IQ4_XS d+2+4+128   TQ1_0 48+4+d   TQ2_0 64+d
 *
 * The table is indexed with a number from a file, so type_info tests it first and never returns NULL.
 */
#include <ctype.h>

#include "kernels/kernels.h"

#define PLAIN(bytes, readable) .block_len = 1, .block_bytes = (bytes), .is_readable = (readable)
#define BLOCK(len, bytes, readable) \
    .block_len = (len), .block_bytes = (bytes), .is_readable = (readable), .is_quantised = true

static const struct type_info table[] = {
    [TYPE_F32] = { "F32", PLAIN(4, true) },
    [TYPE_F16] = { "F16", PLAIN(2, true) },
    [TYPE_Q4_0] = { "Q4_0", BLOCK(32, 2 + 16, true) },
    [TYPE_Q4_1] = { "Q4_1", BLOCK(32, 2 + 2 + 16, true) },
    [TYPE_Q5_0] = { "Q5_0", BLOCK(32, 2 + 4 + 16, true) },
    [TYPE_Q5_1] = { "Q5_1", BLOCK(32, 2 + 2 + 4 + 16, true) },
    [TYPE_Q8_0] = { "Q8_0", BLOCK(32, 2 + 32, true) },
    [TYPE_Q8_1] = { "Q8_1", BLOCK(32, 2 + 2 + 32, false) },
    [TYPE_Q2_K] = { "Q2_K", BLOCK(256, 16 + 64 + 2 + 2, true) },
    [TYPE_Q3_K] = { "Q3_K", BLOCK(256, 32 + 64 + 12 + 2, true) },
    [TYPE_Q4_K] = { "Q4_K", BLOCK(256, 2 + 2 + 12 + 128, true) },
    [TYPE_Q5_K] = { "Q5_K", BLOCK(256, 2 + 2 + 12 + 32 + 128, true) },
    [TYPE_Q6_K] = { "Q6_K", BLOCK(256, 128 + 64 + 16 + 2, true) },
    [TYPE_Q8_K] = { "Q8_K", BLOCK(256, 4 + 256 + 32, false) },
    [TYPE_IQ2_XXS] = { "IQ2_XXS", BLOCK(256, 2 + 64, false) },
    [TYPE_IQ2_XS] = { "IQ2_XS", BLOCK(256, 2 + 64 + 8, false) },
    [TYPE_IQ3_XXS] = { "IQ3_XXS", BLOCK(256, 2 + 96, false) },
    [TYPE_IQ1_S] = { "IQ1_S", BLOCK(256, 2 + 32 + 16, false) },
    [TYPE_IQ4_NL] = { "IQ4_NL", BLOCK(32, 2 + 16, true) },
    [TYPE_IQ3_S] = { "IQ3_S", BLOCK(256, 2 + 64 + 8 + 32 + 4, false) },
    [TYPE_IQ2_S] = { "IQ2_S", BLOCK(256, 2 + 64 + 8 + 8, false) },
    [TYPE_IQ4_XS] = { "IQ4_XS", BLOCK(256, 2 + 2 + 4 + 128, true) },
    [TYPE_I8] = { "I8", PLAIN(1, false) },
    [TYPE_I16] = { "I16", PLAIN(2, false) },
    [TYPE_I32] = { "I32", PLAIN(4, false) },
    [TYPE_I64] = { "I64", PLAIN(8, false) },
    [TYPE_F64] = { "F64", PLAIN(8, false) },
    [TYPE_IQ1_M] = { "IQ1_M", BLOCK(256, 32 + 16 + 8, false) },
    [TYPE_BF16] = { "BF16", PLAIN(2, true) },
    [TYPE_TQ1_0] = { "TQ1_0", BLOCK(256, 48 + 4 + 2, false) },
    [TYPE_TQ2_0] = { "TQ2_0", BLOCK(256, 64 + 2, false) },
    [TYPE_MXFP4] = { "MXFP4", BLOCK(32, 1 + 16, false) },
};
_Static_assert(ARRAY_LEN(table) == TYPE_COUNT, "one entry per number");

/* What numbers without a meaning get; the lengths are 1 so that nobody divides by zero. */
static const struct type_info unknown = { .name = NULL, .block_len = 1, .block_bytes = 1 };

/* Strips of eight rows (r8.h), in packs: the lengths are those of the rows' blocks. Not readable, so that nothing looks
 * for a row where there is none. */
#define STRIPS(type, name, len, bytes) [type] = { name, .block_len = (len), .block_bytes = (bytes), .is_quantised = (len) > 1 }
static const struct type_info strips[TYPE_COUNT] = {
    STRIPS(TYPE_F32, "F32_R8", 1, 4),
    STRIPS(TYPE_F16, "F16_R8", 1, 2),
    STRIPS(TYPE_BF16, "BF16_R8", 1, 2),
    STRIPS(TYPE_Q4_0, "Q4_0_R8", 32, 18),
    STRIPS(TYPE_Q4_1, "Q4_1_R8", 32, 20),
    STRIPS(TYPE_Q5_0, "Q5_0_R8", 32, 22),
    STRIPS(TYPE_Q5_1, "Q5_1_R8", 32, 24),
    STRIPS(TYPE_Q8_0, "Q8_0_R8", 32, 34),
    STRIPS(TYPE_IQ4_NL, "IQ4_NL_R8", 32, 18),
    STRIPS(TYPE_Q2_K, "Q2_K_R8", 256, 84),
    STRIPS(TYPE_Q3_K, "Q3_K_R8", 256, 110),
    STRIPS(TYPE_Q4_K, "Q4_K_R8", 256, 144),
    STRIPS(TYPE_Q5_K, "Q5_K_R8", 256, 176),
    STRIPS(TYPE_Q6_K, "Q6_K_R8", 256, 210),
    STRIPS(TYPE_IQ4_XS, "IQ4_XS_R8", 256, 136),
};

const struct type_info *type_info(uint32_t type)
{
    if (type >= TYPE_R8 && type - TYPE_R8 < TYPE_COUNT && strips[type - TYPE_R8].name)
        return &strips[type - TYPE_R8];
    return type < TYPE_COUNT && table[type].name ? &table[type] : &unknown;
}

static bool same_name(const char *a, const char *b)
{
    while (*a && toupper((unsigned char)*a) == toupper((unsigned char)*b)) {
        a++;
        b++;
    }
    return *a == 0 && *b == 0;
}

enum tensor_type type_by_name(const char *name)
{
    for (uint32_t t = 0; t < TYPE_COUNT; t++)
        if (table[t].name && same_name(table[t].name, name))
            return (enum tensor_type)t;
    return TYPE_COUNT;
}

bool type_row_bytes(size_t *bytes, uint32_t type, size_t n)
{
    const struct type_info *info = type_info(type);
    return type < TYPE_COUNT && info->name && n % info->block_len == 0 && size_mul(bytes, n / info->block_len, info->block_bytes);
}

/* test_r8.c: strips of eight rows: every bit of every block type survives packing, and stands where r8.h says.
 *
 * Rows are bytes at random, so that every bit of every field is exercised; float types included. The places are tested
 * by decoding a strip from the text of r8.h alone (value_in_strip), for types that between them use every plane.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/kernels.h"

enum { K_MAX = 1024, ROW_MAX = K_MAX * 4 };

static uint64_t state = 42;
static uint8_t random_byte(void)
{
    state ^= state >> 12, state ^= state << 25, state ^= state >> 27;
    return (uint8_t)(state * 2685821657736338717u >> 40);
}

static void fill(uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        p[i] = random_byte();
}

static void packing_is_lossless(void **s)
{
    static uint8_t rows[8][ROW_MAX], back[8][ROW_MAX + 16], strip[8 * ROW_MAX + 64], again[8 * ROW_MAX];
    size_t n_types = 0;
    (void)s;
    for (uint32_t type = 0; type < TYPE_COUNT; type++) {
        const struct type_info *info = type_info(type);
        if (!info->is_readable)
            continue;
        n_types++;
        for (size_t n_rows = 1; n_rows <= 8; n_rows++)
            for (size_t k = info->block_len; k <= K_MAX; k += info->block_len == 1 ? 37 : info->block_len == 32 ? 96 : 256) {
                size_t row_bytes = 0, strip_bytes = 0;
                assert_true(type_row_bytes(&row_bytes, type, k) && r8_strip_bytes(&strip_bytes, type, k));
                assert_int_equal(strip_bytes, 8 * row_bytes);
                fill(rows[0], sizeof rows);
                memset(strip, 0xa5, sizeof strip);
                memset(back, 0x5a, sizeof back);
                r8_pack(strip, rows, ROW_MAX, n_rows, (enum tensor_type)type, k);
                for (size_t i = 0; i < 64; i++)
                    assert_int_equal(strip[strip_bytes + i], 0xa5);
                r8_unpack(back, sizeof back[0], 8, strip, (enum tensor_type)type, k);
                for (size_t r = 0; r < 8; r++)
                    for (size_t i = 0; i < row_bytes; i++)
                        assert_int_equal(back[r][i], r < n_rows ? rows[r][i] : 0);
                for (size_t i = 0; i < 16; i++)
                    assert_int_equal(back[7][row_bytes + i], 0x5a);
                r8_pack(again, back, sizeof back[0], 8, (enum tensor_type)type, k);
                assert_memory_equal(again, strip, strip_bytes);
            }
    }
    assert_int_equal(n_types, 15);
}

static void parts_and_rows_agree_with_the_whole(void **s)
{
    static uint8_t rows[8][ROW_MAX], strip[8 * ROW_MAX], part[8][ROW_MAX];
    static float want[K_MAX], got[K_MAX];
    const struct kernels *t = kernels_by_name("ref");
    (void)s;
    for (uint32_t type = 0; type < TYPE_COUNT; type++) {
        const struct type_info *info = type_info(type);
        if (!info->is_readable)
            continue;
        const size_t k = 768, len = info->block_len, bytes = info->block_bytes;
        fill(rows[0], sizeof rows);
        r8_pack(strip, rows, ROW_MAX, 8, (enum tensor_type)type, k);
        r8_unpack_part(part, ROW_MAX, 8, strip, (enum tensor_type)type, 1, k - 2 * len);
        for (size_t r = 0; r < 8; r++) {
            assert_memory_equal(part[r], rows[r] + bytes, (k / len - 2) * bytes);
            t->dequant_row[type](want, rows[r], k);
            r8_dequant_row(t, got, strip, r, (enum tensor_type)type, k);
            assert_memory_equal(got, want, k * sizeof *got);
        }
    }
}

/* Value k < 32 of row r in the first part of a unit whose head is `head` bytes long: as r8.h describes the planes. */
static unsigned value_in_strip(const uint8_t *unit, size_t head, enum tensor_type type, size_t r, size_t k)
{
    const uint8_t *p = unit + head;
    size_t g = k / 4, j = k % 4;
    unsigned nibble = p[32 * (g % 4) + 4 * r + j] >> (g < 4 ? 0 : 4) & 15;
    unsigned two, one;
    switch (type) {
    case TYPE_Q4_0:
    case TYPE_Q4_K:
        return nibble;
    case TYPE_Q5_0:
        one = p[128 + 4 * r + j] >> g & 1;
        return nibble | one << 4;
    case TYPE_Q6_K:
        two = p[128 + 32 * (k / 16) + 4 * r + j] >> 2 * (g % 4) & 3;
        return nibble | two << 4;
    case TYPE_Q3_K:
        two = p[32 * (k / 16) + 4 * r + j] >> 2 * (g % 4) & 3;
        one = p[64 + 4 * r + j] >> g & 1;
        return two | one << 2;
    default:
        return p[32 * g + 4 * r + j]; /* Q8_0 */
    }
}

/* The same value read from the block as GGUF has it. */
static unsigned value_in_block(const uint8_t *b, enum tensor_type type, size_t k)
{
    switch (type) {
    case TYPE_Q4_0:
        return b[2 + k % 16] >> (k < 16 ? 0 : 4) & 15;
    case TYPE_Q4_K:
        return b[16 + k] & 15u;
    case TYPE_Q5_0:
        return (b[6 + k % 16] >> (k < 16 ? 0 : 4) & 15) | (b[2 + k / 8] >> k % 8 & 1u) << 4;
    case TYPE_Q6_K:
        return (b[k] & 15u) | (b[128 + k] & 3u) << 4;
    case TYPE_Q3_K:
        return (b[32 + k] & 3u) | (b[k] & 1u) << 2;
    default:
        return b[2 + k];
    }
}

static void values_stand_where_the_header_says(void **s)
{
    static const struct { enum tensor_type type; size_t head; } cases[] = {
        { TYPE_Q4_0, 16 }, { TYPE_Q5_0, 16 }, { TYPE_Q8_0, 16 }, { TYPE_Q4_K, 128 }, { TYPE_Q6_K, 144 }, { TYPE_Q3_K, 112 },
    };
    static uint8_t rows[8][256], unit[2048];
    (void)s;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        fill(rows[0], sizeof rows);
        r8_pack(unit, rows, sizeof rows[0], 8, cases[i].type, type_info(cases[i].type)->block_len);
        for (size_t r = 0; r < 8; r++) {
            for (size_t k = 0; k < 32; k++)
                assert_int_equal(value_in_strip(unit, cases[i].head, cases[i].type, r, k), value_in_block(rows[r], cases[i].type, k));
            if (cases[i].type != TYPE_Q6_K && cases[i].type != TYPE_Q3_K)
                assert_memory_equal(unit + 2 * r, rows[r], 2); /* d */
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packing_is_lossless),
        cmocka_unit_test(parts_and_rows_agree_with_the_whole),
        cmocka_unit_test(values_stand_where_the_header_says),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

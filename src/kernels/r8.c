/* r8.c: between rows of blocks and strips of eight rows (r8.h has the layout).
 *
 * All block types go the same way. 32 values of each row become *codes*, one byte per value: the stored number without
 * scales. Codes meet the strip as 32-bit words (one group of one row), a word operation for four weights:
 *
 *   8 blocks --codes_of, per 32 k--> codes[8][32] --words--> nibble, two-bit, one-bit planes
 *   8 blocks --fields-------------> d[8], dmin[8], six-bit planes, scales
 *
 * and back. A type is a row of a table: which planes its codes fill, and how its block holds them.
 */
#include "r8.h"

#include "blocks.h"

/* What a 32-wide part of a unit is made of, in this order. */
enum { NIBBLES = 1, TWO_BITS = 2, ONE_BIT = 4, BYTES = 8 };

typedef uint8_t codes[R8_ROWS][QK];

struct form {
    int planes;           /* of the above */
    size_t head_bytes;    /* of a unit, before its parts */
    void (*get_codes)(uint8_t c[QK], const uint8_t *block, size_t j);
    void (*put_codes)(uint8_t *block, const uint8_t c[QK], size_t j); /* into a block of zero bytes */
    void (*get_head)(uint8_t *head, const uint8_t *block, size_t r);  /* into a head of zero bytes */
    void (*put_head)(uint8_t *block, const uint8_t *head, size_t r);
};

/* ---- planes ---- */

static uint32_t load_word(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static void store_word(uint8_t *p, uint32_t v)
{
    memcpy(p, &v, sizeof v);
}

/* Bytes of one 32-wide part. */
static size_t part_bytes(int planes)
{
    return (planes & BYTES ? 256u : 0u) + (planes & NIBBLES ? 128u : 0u) + (planes & TWO_BITS ? 64u : 0u) +
           (planes & ONE_BIT ? 32u : 0u);
}

static void pack_part(uint8_t *out, const codes c, int planes)
{
    if (planes & BYTES)
        for (size_t g = 0; g < 8; g++, out += 32)
            for (size_t r = 0; r < R8_ROWS; r++)
                store_word(out + 4 * r, load_word(c[r] + 4 * g));
    if (planes & NIBBLES)
        for (size_t g = 0; g < 4; g++, out += 32)
            for (size_t r = 0; r < R8_ROWS; r++)
                store_word(out + 4 * r, (load_word(c[r] + 4 * g) & 0x0f0f0f0f) | (load_word(c[r] + 16 + 4 * g) & 0x0f0f0f0f) << 4);
    const unsigned two_at = planes & NIBBLES ? 4 : 0, one_at = planes & NIBBLES ? 4 : 2;
    if (planes & TWO_BITS)
        for (size_t p = 0; p < 2; p++, out += 32)
            for (size_t r = 0; r < R8_ROWS; r++) {
                uint32_t v = 0;
                for (size_t i = 0; i < 4; i++)
                    v |= (load_word(c[r] + 16 * p + 4 * i) >> two_at & 0x03030303) << 2 * i;
                store_word(out + 4 * r, v);
            }
    if (planes & ONE_BIT)
        for (size_t r = 0; r < R8_ROWS; r++) {
            uint32_t v = 0;
            for (size_t g = 0; g < 8; g++)
                v |= (load_word(c[r] + 4 * g) >> one_at & 0x01010101) << g;
            store_word(out + 4 * r, v);
        }
}

/* The 32 codes of row r. */
static void unpack_part(uint8_t c[QK], const uint8_t *in, size_t r, int planes)
{
    in += 4 * r;
    if (planes & BYTES)
        for (size_t g = 0; g < 8; g++, in += 32)
            memcpy(c + 4 * g, in, 4);
    if (planes & NIBBLES)
        for (size_t g = 0; g < 4; g++, in += 32) {
            store_word(c + 4 * g, load_word(in) & 0x0f0f0f0f);
            store_word(c + 16 + 4 * g, load_word(in) >> 4 & 0x0f0f0f0f);
        }
    else if (!(planes & BYTES))
        memset(c, 0, QK);
    const unsigned two_at = planes & NIBBLES ? 4 : 0, one_at = planes & NIBBLES ? 4 : 2;
    if (planes & TWO_BITS)
        for (size_t p = 0; p < 2; p++, in += 32)
            for (size_t i = 0; i < 4; i++) {
                uint8_t *at = c + 16 * p + 4 * i;
                store_word(at, load_word(at) | (load_word(in) >> 2 * i & 0x03030303) << two_at);
            }
    if (planes & ONE_BIT)
        for (size_t g = 0; g < 8; g++)
            store_word(c + 4 * g, load_word(c + 4 * g) | (load_word(in) >> g & 0x01010101) << one_at);
}

/* ---- codes of blocks ---- */

static void get_nibbles(uint8_t c[QK], const uint8_t qs[16])
{
    for (size_t i = 0; i < 16; i++) {
        c[i] = qs[i] & 15;
        c[i + 16] = qs[i] >> 4;
    }
}

static void put_nibbles(uint8_t qs[16], const uint8_t c[QK])
{
    for (size_t i = 0; i < 16; i++)
        qs[i] = (uint8_t)((c[i] & 15) | (c[i + 16] & 15) << 4);
}

static void get_fifth(uint8_t c[QK], const uint8_t qh[4])
{
    const uint32_t bits = load_le32(qh);
    for (size_t i = 0; i < QK; i++)
        c[i] = (uint8_t)(c[i] | (bits >> i & 1) << 4);
}

static void put_fifth(uint8_t qh[4], const uint8_t c[QK])
{
    for (size_t i = 0; i < QK; i++)
        qh[i / 8] = (uint8_t)(qh[i / 8] | (c[i] >> 4 & 1) << i % 8);
}

/* Blocks of 32 and where their nibbles stand. */
#define SMALL_CODES(name, nibbles_at)                                        \
    static void get_##name(uint8_t c[QK], const uint8_t *b, size_t j)                    \
    {                                                                                    \
        (void)j;                                                                         \
        get_nibbles(c, b + (nibbles_at));                                                \
    }                                                                                    \
    static void put_##name(uint8_t *b, const uint8_t c[QK], size_t j)                    \
    {                                                                                    \
        (void)j;                                                                         \
        put_nibbles(b + (nibbles_at), c);                                                \
    }
SMALL_CODES(q4_0, 2)
SMALL_CODES(q4_1, 4)

#define FIVE_BIT_CODES(name, bits_at)                                                    \
    static void get_##name(uint8_t c[QK], const uint8_t *b, size_t j)                    \
    {                                                                                    \
        (void)j;                                                                         \
        get_nibbles(c, b + (bits_at) + 4);                                               \
        get_fifth(c, b + (bits_at));                                                     \
    }                                                                                    \
    static void put_##name(uint8_t *b, const uint8_t c[QK], size_t j)                    \
    {                                                                                    \
        (void)j;                                                                         \
        put_nibbles(b + (bits_at) + 4, c);                                               \
        put_fifth(b + (bits_at), c);                                                     \
    }
FIVE_BIT_CODES(q5_0, 2)
FIVE_BIT_CODES(q5_1, 4)

static void get_q8_0(uint8_t c[QK], const uint8_t *b, size_t j)
{
    (void)j;
    memcpy(c, b + 2, QK);
}

static void put_q8_0(uint8_t *b, const uint8_t c[QK], size_t j)
{
    (void)j;
    memcpy(b + 2, c, QK);
}

static void get_iq4_xs(uint8_t c[QK], const uint8_t *b, size_t j)
{
    get_nibbles(c, b + 8 + 16 * j);
}

static void put_iq4_xs(uint8_t *b, const uint8_t c[QK], size_t j)
{
    put_nibbles(b + 8 + 16 * j, c);
}

/* 32 bytes hold block j in the low nibbles (j even) or the high ones. */
static void get_k_nibbles(uint8_t c[QK], const uint8_t *qs, size_t j)
{
    const unsigned shift = 4 * (j % 2);
    for (size_t i = 0; i < QK; i++)
        c[i] = (uint8_t)(qs[32 * (j / 2) + i] >> shift & 15);
}

static void put_k_nibbles(uint8_t *qs, const uint8_t c[QK], size_t j)
{
    const unsigned shift = 4 * (j % 2);
    for (size_t i = 0; i < QK; i++)
        qs[32 * (j / 2) + i] = (uint8_t)(qs[32 * (j / 2) + i] | (c[i] & 15) << shift);
}

static void get_q4_k(uint8_t c[QK], const uint8_t *b, size_t j)
{
    get_k_nibbles(c, b + 16, j);
}

static void put_q4_k(uint8_t *b, const uint8_t c[QK], size_t j)
{
    put_k_nibbles(b + 16, c, j);
}

static void get_q5_k(uint8_t c[QK], const uint8_t *b, size_t j)
{
    get_k_nibbles(c, b + 48, j);
    for (size_t i = 0; i < QK; i++)
        c[i] = (uint8_t)(c[i] | (b[16 + i] >> j & 1) << 4);
}

static void put_q5_k(uint8_t *b, const uint8_t c[QK], size_t j)
{
    put_k_nibbles(b + 48, c, j);
    for (size_t i = 0; i < QK; i++)
        b[16 + i] = (uint8_t)(b[16 + i] | (c[i] >> 4 & 1) << j);
}

static void get_q6_k(uint8_t c[QK], const uint8_t *b, size_t j)
{
    const uint8_t *low = b + 64 * (j / 4) + 32 * (j % 2), *high = b + 128 + 32 * (j / 4);
    const unsigned low_shift = 4 * (j / 2 % 2), high_shift = 2 * (j % 4);
    for (size_t i = 0; i < QK; i++)
        c[i] = (uint8_t)((low[i] >> low_shift & 15) | (high[i] >> high_shift & 3) << 4);
}

static void put_q6_k(uint8_t *b, const uint8_t c[QK], size_t j)
{
    uint8_t *low = b + 64 * (j / 4) + 32 * (j % 2), *high = b + 128 + 32 * (j / 4);
    const unsigned low_shift = 4 * (j / 2 % 2), high_shift = 2 * (j % 4);
    for (size_t i = 0; i < QK; i++) {
        low[i] = (uint8_t)(low[i] | (c[i] & 15) << low_shift);
        high[i] = (uint8_t)(high[i] | (c[i] >> 4 & 3) << high_shift);
    }
}

static void get_k_pairs(uint8_t c[QK], const uint8_t *qs, size_t j)
{
    const unsigned shift = 2 * (j % 4);
    for (size_t i = 0; i < QK; i++)
        c[i] = (uint8_t)(qs[32 * (j / 4) + i] >> shift & 3);
}

static void put_k_pairs(uint8_t *qs, const uint8_t c[QK], size_t j)
{
    const unsigned shift = 2 * (j % 4);
    for (size_t i = 0; i < QK; i++)
        qs[32 * (j / 4) + i] = (uint8_t)(qs[32 * (j / 4) + i] | (c[i] & 3) << shift);
}

static void get_q3_k(uint8_t c[QK], const uint8_t *b, size_t j)
{
    get_k_pairs(c, b + 32, j);
    for (size_t i = 0; i < QK; i++)
        c[i] = (uint8_t)(c[i] | (b[i] >> j & 1) << 2);
}

static void put_q3_k(uint8_t *b, const uint8_t c[QK], size_t j)
{
    put_k_pairs(b + 32, c, j);
    for (size_t i = 0; i < QK; i++)
        b[i] = (uint8_t)(b[i] | (c[i] >> 2 & 1) << j);
}

static void get_q2_k(uint8_t c[QK], const uint8_t *b, size_t j)
{
    get_k_pairs(c, b + 16, j);
}

static void put_q2_k(uint8_t *b, const uint8_t c[QK], size_t j)
{
    put_k_pairs(b + 16, c, j);
}

/* ---- heads of units ---- */

static void put_six_bits(uint8_t *head, size_t r, size_t j, unsigned a, unsigned b)
{
    uint8_t *low = head + 8 * j + r, *high = head + 64 + 8 * (j / 2) + r;
    *low = (uint8_t)((a & 15) | (b & 15) << 4);
    *high = (uint8_t)(*high | ((a >> 4) | (b >> 4) << 2) << 4 * (j % 2));
}

static void get_six_bits(unsigned *a, unsigned *b, const uint8_t *head, size_t r, size_t j)
{
    unsigned low = head[8 * j + r], high = (unsigned)head[64 + 8 * (j / 2) + r] >> 4 * (j % 2);
    *a = (low & 15) | (high & 3) << 4;
    *b = low >> 4 | (high >> 2 & 3) << 4;
}

static void head_d(uint8_t *head, const uint8_t *b, size_t r)
{
    memcpy(head + 2 * r, b, 2);
}

static void block_d(uint8_t *b, const uint8_t *head, size_t r)
{
    memcpy(b, head + 2 * r, 2);
}

static void head_d_m(uint8_t *head, const uint8_t *b, size_t r)
{
    memcpy(head + 2 * r, b, 2);
    memcpy(head + 16 + 2 * r, b + 2, 2);
}

static void block_d_m(uint8_t *b, const uint8_t *head, size_t r)
{
    memcpy(b, head + 2 * r, 2);
    memcpy(b + 2, head + 16 + 2 * r, 2);
}

static void head_k(uint8_t *head, const uint8_t *b, size_t r)
{
    head_d_m(head, b, r);
    for (size_t j = 0; j < 8; j++) {
        uint8_t sc, mn;
        k_scale_min(&sc, &mn, b + 4, j);
        put_six_bits(head + 32, r, j, sc, mn);
    }
}

static void block_k(uint8_t *b, const uint8_t *head, size_t r)
{
    uint8_t *s = b + 4;
    block_d_m(b, head, r);
    for (size_t j = 0; j < 8; j++) {
        unsigned sc, mn;
        get_six_bits(&sc, &mn, head + 32, r, j);
        if (j < 4) {
            s[j] = (uint8_t)(s[j] | sc);
            s[j + 4] = (uint8_t)(s[j + 4] | mn);
        } else {
            s[j + 4] = (uint8_t)(s[j + 4] | (sc & 15) | (mn & 15) << 4);
            s[j - 4] = (uint8_t)(s[j - 4] | sc >> 4 << 6);
            s[j] = (uint8_t)(s[j] | mn >> 4 << 6);
        }
    }
}

static void head_q6_k(uint8_t *head, const uint8_t *b, size_t r)
{
    memcpy(head + 2 * r, b + 208, 2);
    for (size_t i = 0; i < 16; i++)
        head[16 + 8 * i + r] = b[192 + i];
}

static void block_q6_k(uint8_t *b, const uint8_t *head, size_t r)
{
    memcpy(b + 208, head + 2 * r, 2);
    for (size_t i = 0; i < 16; i++)
        b[192 + i] = head[16 + 8 * i + r];
}

static void head_q3_k(uint8_t *head, const uint8_t *b, size_t r)
{
    memcpy(head + 2 * r, b + 108, 2);
    for (size_t j = 0; j < 8; j++)
        put_six_bits(head + 16, r, j, (unsigned)(q3_scale(b + 96, 2 * j) + 32), (unsigned)(q3_scale(b + 96, 2 * j + 1) + 32));
}

static void block_q3_k(uint8_t *b, const uint8_t *head, size_t r)
{
    uint8_t *s = b + 96;
    memcpy(b + 108, head + 2 * r, 2);
    for (size_t i = 0; i < 16; i++) {
        unsigned pair[2];
        get_six_bits(&pair[0], &pair[1], head + 16, r, i / 2);
        s[i % 8] = (uint8_t)(s[i % 8] | (pair[i % 2] & 15) << 4 * (i / 8));
        s[8 + i % 4] = (uint8_t)(s[8 + i % 4] | pair[i % 2] >> 4 << 2 * (i / 4));
    }
}

static void head_q2_k(uint8_t *head, const uint8_t *b, size_t r)
{
    head_d_m(head, b + 80, r);
    for (size_t i = 0; i < 16; i++)
        head[32 + 8 * i + r] = b[i];
}

static void block_q2_k(uint8_t *b, const uint8_t *head, size_t r)
{
    block_d_m(b + 80, head, r);
    for (size_t i = 0; i < 16; i++)
        b[i] = head[32 + 8 * i + r];
}

static void head_iq4_xs(uint8_t *head, const uint8_t *b, size_t r)
{
    memcpy(head + 2 * r, b, 2);
    for (size_t j = 0; j < 8; j++) {
        unsigned ls = (unsigned)(iq4_xs_scale((const struct block_iq4_xs *)b, j) + 32);
        uint8_t *low = head + 16 + 8 * (j / 2) + r, *high = head + 48 + 8 * (j / 4) + r;
        *low = (uint8_t)(*low | (ls & 15) << 4 * (j % 2));
        *high = (uint8_t)(*high | ls >> 4 << 2 * (j % 4));
    }
}

static void block_iq4_xs(uint8_t *b, const uint8_t *head, size_t r)
{
    memcpy(b, head + 2 * r, 2);
    for (size_t j = 0; j < 8; j++) {
        unsigned low = (unsigned)head[16 + 8 * (j / 2) + r] >> 4 * (j % 2) & 15;
        unsigned high = (unsigned)head[48 + 8 * (j / 4) + r] >> 2 * (j % 4) & 3;
        b[4 + j / 2] = (uint8_t)(b[4 + j / 2] | low << 4 * (j % 2));
        b[2 + j / 4] = (uint8_t)(b[2 + j / 4] | high << 2 * (j % 4));
    }
}

/* ---- the table ---- */

static const struct form forms[TYPE_COUNT] = {
    [TYPE_Q4_0] = { NIBBLES, 16, get_q4_0, put_q4_0, head_d, block_d },
    [TYPE_IQ4_NL] = { NIBBLES, 16, get_q4_0, put_q4_0, head_d, block_d },
    [TYPE_Q4_1] = { NIBBLES, 32, get_q4_1, put_q4_1, head_d_m, block_d_m },
    [TYPE_Q5_0] = { NIBBLES | ONE_BIT, 16, get_q5_0, put_q5_0, head_d, block_d },
    [TYPE_Q5_1] = { NIBBLES | ONE_BIT, 32, get_q5_1, put_q5_1, head_d_m, block_d_m },
    [TYPE_Q8_0] = { BYTES, 16, get_q8_0, put_q8_0, head_d, block_d },
    [TYPE_Q4_K] = { NIBBLES, 128, get_q4_k, put_q4_k, head_k, block_k },
    [TYPE_Q5_K] = { NIBBLES | ONE_BIT, 128, get_q5_k, put_q5_k, head_k, block_k },
    [TYPE_Q6_K] = { NIBBLES | TWO_BITS, 144, get_q6_k, put_q6_k, head_q6_k, block_q6_k },
    [TYPE_Q3_K] = { TWO_BITS | ONE_BIT, 112, get_q3_k, put_q3_k, head_q3_k, block_q3_k },
    [TYPE_Q2_K] = { TWO_BITS, 160, get_q2_k, put_q2_k, head_q2_k, block_q2_k },
    [TYPE_IQ4_XS] = { NIBBLES, 64, get_iq4_xs, put_iq4_xs, head_iq4_xs, block_iq4_xs },
};

static void pack_unit(uint8_t *out, const uint8_t *rows, size_t row_bytes, size_t n_rows, const struct form *f, size_t n_parts)
{
    codes c;
    memset(out, 0, f->head_bytes);
    for (size_t r = 0; r < n_rows; r++)
        f->get_head(out, rows + r * row_bytes, r);
    out += f->head_bytes;
    memset(c, 0, sizeof c);
    for (size_t j = 0; j < n_parts; j++) {
        for (size_t r = 0; r < n_rows; r++)
            f->get_codes(c[r], rows + r * row_bytes, j);
        pack_part(out, (const uint8_t(*)[QK])c, f->planes);
        out += part_bytes(f->planes);
    }
}

static void unpack_block(uint8_t *block, const uint8_t *unit, size_t r, const struct form *f, size_t n_parts, size_t block_bytes)
{
    memset(block, 0, block_bytes);
    f->put_head(block, unit, r);
    unit += f->head_bytes;
    for (size_t j = 0; j < n_parts; j++, unit += part_bytes(f->planes)) {
        uint8_t c[QK];
        unpack_part(c, unit, r, f->planes);
        f->put_codes(block, c, j);
    }
}

/* ---- the contract ---- */

bool r8_strip_bytes(size_t *bytes, uint32_t type, size_t k)
{
    size_t row;
    return type_row_bytes(&row, type, k) && size_mul(bytes, row, R8_ROWS);
}

void r8_pack(void *strip, const void *rows, size_t row_bytes, size_t n_rows, enum tensor_type type, size_t k)
{
    const struct type_info *info = type_info((uint32_t)type);
    const size_t size = info->block_bytes, n_units = k / info->block_len;
    const uint8_t *in = rows;
    uint8_t *out = strip;
    CHECK(n_rows >= 1 && n_rows <= R8_ROWS && info->is_readable);
    for (size_t i = 0; i < n_units; i++, in += size, out += R8_ROWS * size) {
        if (info->is_quantised) {
            pack_unit(out, in, row_bytes, n_rows, &forms[type], info->block_len / QK);
            continue;
        }
        for (size_t r = 0; r < n_rows; r++)
            memcpy(out + r * size, in + r * row_bytes, size);
        memset(out + n_rows * size, 0, (R8_ROWS - n_rows) * size);
    }
}

void r8_unpack_part(void *rows, size_t row_bytes, size_t n_rows, const void *strip, enum tensor_type type, size_t i_unit, size_t k)
{
    const struct type_info *info = type_info((uint32_t)type);
    const size_t size = info->block_bytes, n_units = k / info->block_len;
    const uint8_t *in = (const uint8_t *)strip + i_unit * R8_ROWS * size;
    uint8_t *out = rows;
    CHECK(n_rows <= R8_ROWS && info->is_readable);
    for (size_t i = 0; i < n_units; i++, in += R8_ROWS * size, out += size)
        for (size_t r = 0; r < n_rows; r++) {
            if (info->is_quantised)
                unpack_block(out + r * row_bytes, in, r, &forms[type], info->block_len / QK, size);
            else
                memcpy(out + r * row_bytes, in + r * size, size);
        }
}

void r8_unpack(void *rows, size_t row_bytes, size_t n_rows, const void *strip, enum tensor_type type, size_t k)
{
    r8_unpack_part(rows, row_bytes, n_rows, strip, type, 0, k);
}

void r8_dequant_row(const struct kernels *t, float *y, const void *strip, size_t i_row, enum tensor_type type, size_t k)
{
    const struct type_info *info = type_info((uint32_t)type);
    const size_t size = info->block_bytes, n_units = k / info->block_len;
    const uint8_t *in = strip;
    CHECK(i_row < R8_ROWS && info->is_readable);
    for (size_t i = 0; i < n_units; i++, in += R8_ROWS * size, y += info->block_len) {
        uint8_t block[256];
        CHECK(size <= sizeof block);
        if (info->is_quantised)
            unpack_block(block, in, i_row, &forms[type], info->block_len / QK, size);
        else
            memcpy(block, in + i_row * size, size);
        t->dequant_row[type](y, block, info->block_len);
    }
}

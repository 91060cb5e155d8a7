/* matmul_amx.c: matrix products of many columns with the tiles of AMX.
 *
 * Integer sums of 32 k, for 12 tokens and 32 rows, are two tile instructions:
 *
 *     A   a row per token: 32 activation bytes, straight from the act_blocks
 *     B   unpacked weights of 16 rows: a row per 4 k, 64 bytes (unpack_vnni.h, zero point taken off)
 *     C   int32, a row per token, a column per weight row: a row of C is a vector of vec512.h
 *
 * An instruction takes as many cycles as A has rows, however small k is, and is not what costs most: that is rule 2's end
 * of every 32 k: store C, convert, multiply by the scale, multiply-add with the activations' scale. Its float sums, 24
 * vectors, stay in registers for a panel of K; 12 tokens by 2 vectors of rows need the fewest loads for that. Types whose
 * 32 k end with more than one multiply-add gain nothing over byte dot products and are left to matmul_avx512.c, as are few
 * columns.
 *
 * The integer sums of a unit are made while the floats of the one before are added up, across the border of two
 * tiles of tokens as well: two places in memory take turns.
 *
 * Rows come 32 at a time: for a chunk of tokens that leaves the L1 cache in peace, a panel of K is unpacked into the
 * stack, all tokens of the chunk meet it 12 at a time, and their sums rest in the stack until the next panel, whose bytes
 * are asked for meanwhile. Where tokens do not fill the last tile it begins earlier and computes some of them twice: they
 * give the same bits.
 *
 * Tile state lives from the start to the end of a call. Measured on Sapphire Rapids: 1.3 to 1.5 times matmul_avx512.c at 128 columns.
 */
#include "amx.h"
#include "vec512.h"

#include "strips_vnni.h"

enum {
    TOKENS = 12,      /* of a tile */
    VECTORS = 2,      /* of rows */
    PANEL_UNITS = 16,
    CHUNK_TILES = 12, /* tiles of tokens */
    UNIT_SIZE = 9,    /* registers of a plain unit */
    MIN_COLS = 24     /* fewer columns do not pay for unpacking */
};

/* C tiles of a unit: a vector of rows each. */
struct sums {
    int32_t of[VECTORS][TOKENS][LANES];
};

struct weights {
    vint groups[8];
};

/* What a call keeps in the stack. */
struct tiles {
    const struct matmul *a;
    size_t n_units; /* of the panel */
    size_t turn;    /* which of the sums come next */
    vint panel[PANEL_UNITS * VECTORS * UNIT_SIZE];
    struct sums sums[2];
    vflt y[CHUNK_TILES][VECTORS][TOKENS];
};

/* ---- weights ---- */

ALWAYS_INLINE void unpack_signed(vint *panel, const struct strips *s, size_t n_units, unpack_fn unpack, struct kind kd)
{
    for (size_t v = 0; v < VECTORS; v++) {
        struct strips at = s[v];
        for (size_t i = 0; i < n_units; i += kd.n_units) {
            for (size_t j = 0; j < kd.n_units; j++) {
                vint u[UNIT_MAX], *out = panel + ((i + j) * VECTORS + v) * UNIT_SIZE;
                unpack(u, at, j);
                UNROLL
                for (size_t g = 0; g < 8; g++)
                    out[AT_W + g] = sub8(u[AT_W + g], set8(kd.zero));
                out[AT_D] = u[AT_D];
            }
            at = advance(at, kd.block_bytes);
        }
    }
}

/* ---- a unit ---- */

/* Tiles: 0 and 1 C, 2 A, 3 and 4 B. */
static void configure(void)
{
    struct tile_shapes s = {
        .palette = 1,
        .row_bytes = { 64, 64, 32, 64, 64 },
        .rows = { TOKENS, TOKENS, TOKENS, 8, 8 },
    };
    tiles_configure(&s);
}

/* The integer sums of a unit; q is the first token's activations. */
ALWAYS_INLINE void multiply(struct sums *out, const vint *u, const uint8_t *q, size_t stride)
{
    tile_zero(0);
    tile_zero(1);
    tile_load(2, q, stride, struct act_block);
    tile_load(3, u, 64, struct weights);
    tile_dot(0, 2, 3);
    tile_load(4, u + UNIT_SIZE, 64, struct weights);
    tile_dot(1, 2, 4);
    tile_store(0, out->of[0], 64, struct sums);
    tile_store(1, out->of[1], 64, struct sums);
}

/* y[v][t] += the unit times token t, from the integer sums. */
ALWAYS_INLINE void add_sums(vflt (*y)[TOKENS], const struct sums *sums, const vint *u, const struct columns *x)
{
    UNROLL
    for (size_t t = 0; t < TOKENS; t++) {
        const vflt d = broadcast_f(&column(x, t)->d);
        UNROLL
        for (size_t v = 0; v < VECTORS; v++) {
            const vflt i = to_floats(_mm512_loadu_si512(sums->of[v][t]));
            y[v][t] = fma_f(mul_f(as_floats(u[v * UNIT_SIZE + AT_D]), i), d, y[v][t]);
        }
    }
}

/* ---- a tile of tokens meets the panel ---- */

/* Tokens from `col` on. Float sums come from and go to `rest`, or to y behind the last panel. The integer sums of the
 * first unit are there already; those of `next`, where the next tile's activations begin, are left for it. */
static void tile_of_tokens(struct tiles *w, size_t row, size_t col, const uint8_t *next, size_t i_unit, vflt (*rest)[TOKENS])
{
    const struct matmul *a = w->a;
    const size_t left = a->n_rows - row;
    struct columns x = columns_at(a, col, i_unit);
    const vint *u = w->panel;
    vflt y[VECTORS][TOKENS];
    UNROLL
    for (size_t v = 0; v < VECTORS; v++)
        UNROLL
        for (size_t t = 0; t < TOKENS; t++)
            y[v][t] = i_unit == 0 ? no_floats() : rest[v][t];
    for (size_t i = 0; i < w->n_units; i++, u += VECTORS * UNIT_SIZE) {
        struct sums *sums = &w->sums[w->turn];
        w->turn = 1 - w->turn;
        if (i + 1 < w->n_units)
            multiply(&w->sums[w->turn], u + VECTORS * UNIT_SIZE, x.at[0] + sizeof(struct act_block), x.stride);
        else
            multiply(&w->sums[w->turn], w->panel, next, x.stride);
        add_sums(y, sums, u, &x);
        next_unit(&x);
    }
    const bool is_last = i_unit + w->n_units == a->k / QK;
    UNROLL
    for (size_t v = 0; v < VECTORS; v++)
        UNROLL
        for (size_t t = 0; t < TOKENS; t++) {
            if (!is_last)
                rest[v][t] = y[v][t];
            else if (left > v * LANES)
                store_rows(a->y + (col + t) * a->y_stride + row + v * LANES, y[v][t], left - v * LANES);
        }
}

/* ---- rows ---- */

/* The first token of a tile: the last one may begin inside the one before. */
ALWAYS_INLINE size_t first_token(const struct matmul *a, size_t token)
{
    return MIN(token, a->n_cols - TOKENS);
}

ALWAYS_INLINE const uint8_t *activations(const struct matmul *a, size_t token, size_t i_unit)
{
    return (const uint8_t *)a->x + first_token(a, token) * a->x_stride_bytes + i_unit * sizeof(struct act_block);
}

/* Asks for part i of n of the next panel: `bytes` of each strip from s on or, behind the last panel, of the next rows. */
ALWAYS_INLINE void prefetch_part(const struct tiles *w, const struct strips *s, bool is_last, size_t bytes, size_t i, size_t n)
{
    const size_t jump = is_last ? (VECTORS * N_STRIPS - 1) * w->a->strip_bytes : 0;
    for (size_t at = bytes * i / n / 64 * 64; at < bytes * (i + 1) / n; at += 64)
        UNROLL
        for (size_t v = 0; v < VECTORS; v++)
            UNROLL
            for (size_t j = 0; j < N_STRIPS; j++)
                _mm_prefetch((const char *)((uintptr_t)s[v].p[j] + jump + at), _MM_HINT_T1);
}

/* Tokens first .. first + n - 1 meet 32 rows. */
ALWAYS_INLINE void chunk_of_tokens(struct tiles *w, size_t row, size_t first, size_t n, unpack_fn unpack, struct kind kd)
{
    const struct matmul *a = w->a;
    const size_t n_units = a->k / QK, n_tiles = (n + TOKENS - 1) / TOKENS;
    struct strips s[VECTORS];
    UNROLL
    for (size_t v = 0; v < VECTORS; v++)
        s[v] = strips_at(a, row + v * LANES < a->n_rows ? row + v * LANES : row);
    for (size_t i = 0; i < n_units; i += w->n_units) {
        w->n_units = MIN(n_units - i, (size_t)PANEL_UNITS);
        unpack_signed(w->panel, s, w->n_units, unpack, kd);
        const size_t bytes = w->n_units / kd.n_units * kd.block_bytes;
        UNROLL
        for (size_t v = 0; v < VECTORS; v++)
            s[v] = advance(s[v], bytes);
        w->turn = 0;
        multiply(&w->sums[0], w->panel, activations(a, first, i), a->x_stride_bytes);
        for (size_t t = 0; t < n_tiles; t++) {
            prefetch_part(w, s, i + w->n_units == n_units, bytes, t, n_tiles);
            tile_of_tokens(w, row, first_token(a, first + t * TOKENS), activations(a, first + (t + 1) * TOKENS, i), i, w->y[t]);
        }
    }
}

ALWAYS_INLINE void run(const struct matmul *a, unpack_fn unpack, struct kind kd)
{
    const size_t chunk = CHUNK_TILES * TOKENS;
    struct tiles w;
    w.a = a;
    configure();
    for (size_t row = 0; row < a->n_rows; row += VECTORS * LANES)
        for (size_t c = 0; c < a->n_cols; c += chunk)
            chunk_of_tokens(&w, row, c, MIN(a->n_cols - c, chunk), unpack, kd);
    tiles_release();
}

#define MATMUL_AMX(name, type, kind)                        \
    static void matmul_##name(const struct matmul *a)       \
    {                                                       \
        if (a->n_cols >= MIN_COLS && a->k > 0)              \
            run(a, unpack_##name, kind);                    \
        else                                                \
            avx512_matmul[type](a);                         \
    }
FOR_EACH_PLAIN_KIND(MATMUL_AMX)

#define SET(name, type, kind) t->matmul[type] = matmul_##name;

void amx_matmul_init(struct kernels *t)
{
    FOR_EACH_PLAIN_KIND(SET)
}

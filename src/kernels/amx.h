/* amx.h: the tile instructions of AMX, as this project uses them. Private.
 *
 * A tile is up to 16 rows of 64 bytes. tile_dot(c, a, b) adds to each int32 of c (a row per token, 16 columns) the
 * products of the signed bytes of a (a row per token, 4 per k group) and of b (a row per k group, 4 bytes for each of the
 * 16 columns). Tile numbers are constants. The shapes hold from tiles_configure to tiles_release, of one thread.
 *
 * Written as assembly because the compilers' own macros do not say which memory a tile instruction reads and writes.
 */
#ifndef HEARTH_AMX_H
#define HEARTH_AMX_H

#include "avx2.h"

enum { N_TILES = 8 };

struct tile_shapes {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};
_Static_assert(sizeof(struct tile_shapes) == 64, "ldtilecfg reads 64 bytes");


ALWAYS_INLINE void tiles_configure(const struct tile_shapes *s)
{
    __asm__ volatile("ldtilecfg %0" : : "m"(*s));
}
ALWAYS_INLINE void tiles_release(void)
{
    __asm__ volatile("tilerelease");
}

/* `what` is the type of an object at p that covers what is read or written. */
#define tile_zero(n) __asm__ volatile("tilezero %%tmm" #n : :)
#define tile_load(n, p, stride, what)                                                                                   \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #n : : "r"(p), "r"((size_t)(stride)), "m"(*(const what *)(p)))
#define tile_store(n, p, stride, what)                                                                                  \
    __asm__ volatile("tilestored %%tmm" #n ", (%1,%2,1)" : "=m"(*(what *)(p)) : "r"(p), "r"((size_t)(stride)))
#define tile_dot(c, a, b) __asm__ volatile("tdpbssd %%tmm" #b ", %%tmm" #a ", %%tmm" #c : :)

#endif

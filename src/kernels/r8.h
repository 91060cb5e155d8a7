/* r8.h: the layout in which every matrix is multiplied: strips of eight rows, interleaved.
 *
 * A strip holds rows 8i .. 8i+7 of a matrix, k values each, as a sequence of *units*: 8 rows x the type's own block (32
 * or 256 k; one k for float types). Rows behind the last one of the matrix are blocks of zero bytes. Nothing is added and
 * nothing is lost: a strip has exactly the bytes of its eight rows, and r8_unpack gives them back bit by bit.
 *
 * The building stones; r = row 0..7 in the strip, a *group* g is 4 consecutive k (4g .. 4g+3) of a 32-wide block:
 *
 *   group      32 bytes: byte 4r + j is k = 4g + j of row r. One 256-bit register (two of 128: rows 0-3, 4-7) that meets a
 *              broadcast of 4 activation bytes; each 32-bit lane is a row, so sums of rows never mix.
 *   nibbles    4 groups of 32 bytes for 32 k: byte (r, j) of group g has k = 4g + j in its low nibble, k = 16 + 4g + j in the
 *              high one.
 *   two bits   2 planes of 32 bytes for 32 k: byte (r, j) of plane p has k = 16p + 4i + j in bits 2i, 2i+1 (i = 0..3).
 *   one bit    1 plane of 32 bytes for 32 k: byte (r, j) has k = 4g + j in bit g (g = 0..7).
 *   d[8]       one fp16 per row, 16 bytes.
 *   six bits   two numbers a, b of 6 bits for each of 8 sub-blocks j and each row: 64 bytes, byte 8j + r = low four bits of a,
 *              of b << 4; then 32 bytes, byte 8(j/2) + r: nibble j%2 = high two bits of a, of b << 2.
 *
 * Units (n = the stored number without its zero point, as in blocks.h):
 *
 *   Q4_0, IQ4_NL   d[8]  nibbles n                                                        144 bytes
 *   Q4_1           d[8] m[8]  nibbles n                                                   160
 *   Q5_0           d[8]  nibbles n & 15, one bit n >> 4                                   176
 *   Q5_1           d[8] m[8]  nibbles, one bit                                            192
 *   Q8_0           d[8]  8 groups of int8                                                 272
 *   Q4_K           d[8] dmin[8]  six bits (a = sc, b = mn)  8 x nibbles                   1152
 *   Q5_K           d[8] dmin[8]  six bits (sc, mn)  8 x (nibbles, one bit)                1408
 *   Q6_K           d[8]  scales 128: byte 8(2j + h) + r = int8 of 16 values h of block j
 *                  8 x (nibbles n & 15, two bits n >> 4)                                  1680
 *   Q3_K           d[8]  six bits (a, b = scale + 32 of the two halves of block j)
 *                  8 x (two bits n & 3, one bit n >> 2)                                   880
 *   Q2_K           d[8] dmin[8]  scales 128: byte 8(2j + h) + r = sc | mn << 4
 *                  8 x two bits                                                           672
 *   IQ4_XS         d[8]  32 bytes: byte 8(j/2) + r, nibble j%2 = low four bits of ls of block j;
 *                  16 bytes: byte 8(j/4) + r, bits 2(j%4) = high two bits of ls           1088
 *                  8 x nibbles
 *   F32 F16 BF16   the eight values of one k                                              32, 16
 *
 * In files the number of a packed type is that of its source + TYPE_R8. Plain C, any thread. Part of kernels.h.
 */
#ifndef HEARTH_R8_H
#define HEARTH_R8_H

#include "kernels/kernels.h"

enum { R8_ROWS = 8, TYPE_R8 = 1000 };

/* Bytes of a strip of rows of k values: eight times type_row_bytes; false as there. */
bool r8_strip_bytes(size_t *bytes, uint32_t type, size_t k);

/* The first n_rows (1..8) rows, row_bytes apart, to a strip; the other rows become zero bytes. The type is readable, k a
 * multiple of its block length. */
void r8_pack(void *strip, const void *rows, size_t row_bytes, size_t n_rows, enum tensor_type type, size_t k);
/* The inverse: writes n_rows rows, row_bytes apart. */
void r8_unpack(void *rows, size_t row_bytes, size_t n_rows, const void *strip, enum tensor_type type, size_t k);
/* Blocks of k values of a strip from unit i_unit on (k a multiple of the block length); the same as cutting them out of
 * r8_unpack's rows. */
void r8_unpack_part(void *rows, size_t row_bytes, size_t n_rows, const void *strip, enum tensor_type type, size_t i_unit, size_t k);
/* y[k] = the values of row i_row (0..7) of a strip. */
void r8_dequant_row(const struct kernels *t, float *y, const void *strip, size_t i_row, enum tensor_type type, size_t k);

#endif

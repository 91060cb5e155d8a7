/* kernels.h: arithmetic on pointers. No allocation, no I/O, no mutable globals; any thread.
 *
 * A struct kernels is a table of operations. ref.c fills every entry with plain loops: it is the
 * specification. avx2.c, neon.c ... replace the entries they make faster. kernels_get() chooses once,
 * by CPU and by HEARTH_CPU=ref|avx2|avxvnni|avx512|amx|neon|dotprod|i8mm (a name this CPU lacks is an error of the caller).
 *
 * ============================ THE CANONICAL ORDER OF ARITHMETIC ============================
 *
 * Every instruction set gives the same bits, for every thread count, every split of a prompt into
 * batches, every neighbour in a batch. That holds because the order of every floating operation is
 * fixed here, once, and because vector lanes are always *independent outputs* (rows of a matrix,
 * tokens of a K chunk, channels of a V chunk), never parts of one sum, except where a sum is said to
 * have eight lanes. Notation: fma(a,b,c) is one rounding (fmaf); every other operation rounds to
 * binary32; conversions round to nearest even; int sums are exact, so their order is free.
 *
 * 1. Activations.  quantize_act, per block of 32 values x[0..31]:
 *      amax = max |x[i]|, taken as 0 below 2^-96 (127 / amax stays finite)
 *      d = amax / 127;  id = amax > 0 ? 127 / amax : 0
 *      q[i] = rint(x[i] * id)          (in -127..127; clamped, so a rounding up of id cannot leave it)
 *      sum16[h] = sum of q[16h..16h+15];  lane[p] = sum of the q[i] with (i mod 4) / 2 == p
 *      sd = d * (float)(sum16[0] + sum16[1])
 *    Non-finite input gives unspecified finite q, never a trap.
 *
 * 2. Matrix products, y[c][r] = sum over k of W[r][k] x[c][k].  One float accumulator per output,
 *    starting at +0, blocks in ascending k. Per block (d, m, dmin, sc ... are the block's fields as float
 *    or int; a = activation block; W8 = the integer weights):
 *      F32, F16, BF16   for each k: y = fma((float)w[k], x[k], y)               x is float, unquantised
 *      Q4_0, Q5_0, Q8_0, IQ4_NL
 *                       i = sum W8*a.q (zero point 8, 16, none, table)          y = fma(d * (float)i, a.d, y)
 *      Q4_1, Q5_1       i = sum W8*a.q (no zero point)       y = fma(d * (float)i, a.d, y); y = fma(m, a.sd, y)
 *      Q4_K, Q5_K       per 32-sub-block j: i = sum W8*a.q
 *                       y = fma((d * (float)sc[j]) * (float)i, a.d, y); y = fma(-(dmin * (float)mn[j]), a.sd, y)
 *      IQ4_XS           per 32-sub-block j: i = sum table*a.q
 *                       y = fma((d * (float)(ls[j] - 32)) * (float)i, a.d, y)
 *      Q6_K, Q3_K       per 32 values, two 16-wide sub-blocks h with int scales:
 *                       i = sum_h sc[h] * sum W8*a.q   (zero point 32; 4 via the high bit)
 *                       y = fma(d * (float)i, a.d, y)
 *      Q2_K             i as above with 4-bit scales, no zero point;  im = sum_h mn[h] * a.sum16[h]
 *                       y = fma(d * (float)i, a.d, y); y = fma(-(dmin * (float)im), a.d, y)
 *    d, m, dmin are exact fp16 -> fp32. K is a multiple of the block length for block types.
 *
 * 3. Sums over a vector (norms) have eight lanes: lane[j] takes elements j, j+8, ... in ascending order,
 *    s = ((l0+l4) + (l2+l6)) + ((l1+l5) + (l3+l7)).
 *      rms_norm    ss: lane = fma(x, x, lane); r = 1 / sqrt(s / n + eps);       y = (x * r) * w
 *      layer_norm  mean = s(x) / n;  t = x - mean;  var = s(fma(t,t,lane)) / n
 *                  r = 1 / sqrt(var + eps);                                     y = fma(t * r, w, b)
 *
 * 4. exp, and what is made of it, are the polynomials of scalar.h (ref_exp), the same operations
 *    everywhere, not libm's. silu(x) = x / (1 + exp(-x)); tanh and gelu are built on the same exp, in
 *    the order that scalar.h writes. A NaN gives some NaN: its sign and payload are not part of the contract.
 *
 * 5. Attention, per query row and head; K and V are rounded to their stored type before use.
 *      score[t] = (((fma over d ascending of q[d] * K[d][t], from +0)) * scale), then softcap if any
 *      masked lanes: score = -inf
 *      per chunk of 32 tokens with at least one visible lane:
 *        m' = max(m, max_t score) + 0;  c = exp(m - m')  (0 if m = -inf);  p[t] = exp(score[t] - m')
 *        l = fma(l, c, S), S: four groups of eight lanes, lane[j] = ((p[j] + p[j+8]) + p[j+16]) + p[j+24],
 *        then the tree of 3;   o[d] = o[d] * c;  for visible t ascending o[d] = fma(p[t], V[t][d], o[d])
 *      A masked lane has p = +0 and its V is not added, so it is an exact no-op whatever stands there.
 *      Scores are finite (finite inputs of sane size); others give NaN or infinity, never a trap.
 *      Chunks are walked in ascending order inside ranges of ATTN_RANGE_TOKENS at fixed absolute
 *      positions; each range has its own (m, l, o); attn_merge joins them left to right:
 *        m' = max(m1, m2); a = exp(m1 - m'); b = exp(m2 - m'); l = fma(l1, a, l2 * b); o = fma(o1, a, o2 * b)
 *      attn_finish: o = o * (1 / l).
 *
 * 6. Rotary tables (cos, sin per position and pair) are made once per step in double, rounded to
 *    float, outside the kernels. rope: y0 = fma(x0, cos, -(x1 * sin)); y1 = fma(x0, sin, x1 * cos).
 *
 * Unless a contract says otherwise: no alignment, any tail, no reads or writes past the end, inputs and
 * outputs do not overlap.
 */
#ifndef HEARTH_KERNELS_H
#define HEARTH_KERNELS_H

#include "base/base.h"

/* ---- element types: GGUF's numbers ---- */

enum tensor_type {
    TYPE_F32 = 0, TYPE_F16 = 1, TYPE_Q4_0 = 2, TYPE_Q4_1 = 3, TYPE_Q5_0 = 6, TYPE_Q5_1 = 7, TYPE_Q8_0 = 8,
    TYPE_Q8_1 = 9, TYPE_Q2_K = 10, TYPE_Q3_K = 11, TYPE_Q4_K = 12, TYPE_Q5_K = 13, TYPE_Q6_K = 14, TYPE_Q8_K = 15,
    TYPE_IQ2_XXS = 16, TYPE_IQ2_XS = 17, TYPE_IQ3_XXS = 18, TYPE_IQ1_S = 19, TYPE_IQ4_NL = 20, TYPE_IQ3_S = 21,
    TYPE_IQ2_S = 22, TYPE_IQ4_XS = 23, TYPE_I8 = 24, TYPE_I16 = 25, TYPE_I32 = 26, TYPE_I64 = 27, TYPE_F64 = 28,
    TYPE_IQ1_M = 29, TYPE_BF16 = 30, TYPE_TQ1_0 = 34, TYPE_TQ2_0 = 35, TYPE_MXFP4 = 39,
    TYPE_COUNT = 40
};

struct type_info {
    const char *name;      /* "Q4_K"; NULL: the number means nothing */
    uint16_t block_len;    /* values per block; 1 for plain types */
    uint16_t block_bytes;
    bool is_readable;      /* hearth has dequant_row and matmul for it */
    bool is_quantised;     /* matmul wants act_block activations; else float */
};
/* Never NULL; a number out of range gives an entry with name NULL. The numbers of r8.h (type + TYPE_R8) have names of their own
 * and are not readable. */
const struct type_info *type_info(uint32_t type);
/* By name ("q4_k", any case); TYPE_COUNT if unknown. */
enum tensor_type type_by_name(const char *name);

/* ---- half precision ---- */
float half_to_float(uint16_t h);
uint16_t float_to_half(float f);  /* nearest even; overflow gives infinity */
float bf16_to_float(uint16_t h);
uint16_t float_to_bf16(float f);  /* nearest even; NaN stays NaN */

/* ---- activations ---- */

/* 32 activations as int8 with what every weight type needs beside them (rule 1). */
struct act_block {
    int8_t q[32];
    float d, sd;
    int16_t sum16[2], lane[2];
};
_Static_assert(sizeof(struct act_block) == 48, "act_block is read by vector code");

/* One matrix product (rule 2).
 *   w  [ceil(n_rows / 8)] strips of eight rows of k values in r8 form (r8.h), strip_bytes apart, in the type of the entry
 *   x  [n_cols] columns, x_stride_bytes apart: float[k], or act_block[k / 32] for quantised types
 *   y  y[c * y_stride + r], float; overwritten. Only n_rows rows are written, also when that is no multiple of 8
 * Any n_rows, n_cols >= 0; block types: k a multiple of the block length. A caller splits work by whole strips (or by
 * columns) freely: the bits do not change. w needs no alignment; 16 bytes or more make it faster. */
struct matmul {
    const void *w;
    const void *x;
    float *y;
    size_t strip_bytes, x_stride_bytes, y_stride, n_rows, n_cols, k;
};

/* ---- K/V chunks ---- */

enum kv_type { KV_F16 = 0, KV_F32 = 1, KV_TYPE_COUNT = 2 };

/* What one query row sees of a walk: tokens [begin, end), begin < end, counted from the first lane of its first chunk. */
struct attn_span {
    uint32_t begin, end;
};

/* Consecutive chunks of one K/V head against n_q query rows, one chunk after the other (rule 5).
 *   chunks  [n_chunks], of 32 tokens each; in a chunk, at k_at bytes, K [head_dim][32], at v_at V [32][head_dim],
 *           in the kv_type of the entry; lanes never written are zero
 *   q, o    rows of head_dim (at most LIMIT_HEAD_DIM) floats, q_stride / o_stride floats apart;  m, l  [n_q]
 *   seen    [n_q]; neither begin nor end falls from one row to the next. A chunk of which a row sees nothing leaves
 *           the row as it is.
 * Start with m = -INFINITY, l = 0, o = 0. softcap 0: none. */
struct attn_walk {
    const float *q;
    const uint8_t *const *chunks;
    const struct attn_span *seen;
    float *m, *l, *o;
    size_t k_at, v_at, n_chunks, q_stride, o_stride, n_q, head_dim;
    float scale, softcap;
};

struct kernels {
    const char *name; /* "ref", "avx2", "avx512", "dotprod" ... */

    /* y[n] = the values of n stored ones; n a multiple of the block length. NULL where not readable. */
    void (*dequant_row[TYPE_COUNT])(float *y, const void *w, size_t n);
    void (*matmul[TYPE_COUNT])(const struct matmul *a);
    /* out[n / 32] from x[n]; n a multiple of 32. */
    void (*quantize_act)(struct act_block *out, const float *x, size_t n);

    /* y[n] from x[n]; w[n] (and b[n], may be NULL meaning 0 in layer_norm). y may be x. w may be NULL: all 1. */
    void (*rms_norm)(float *y, const float *x, const float *w, size_t n, float eps);
    void (*layer_norm)(float *y, const float *x, const float *w, const float *b, size_t n, float eps);

    void (*add)(float *y, const float *x, size_t n);              /* y += x */
    void (*scale)(float *y, float s, size_t n);                   /* y *= s */
    void (*softcap)(float *y, float cap, size_t n);               /* y = cap * tanh(y / cap) */
    void (*exp_scaled)(float *y, float shift, float rate, size_t n); /* y = exp((y - shift) * rate) */
    void (*relu)(float *y, size_t n);
    void (*gelu)(float *y, size_t n);                             /* tanh form */
    void (*silu_mul)(float *y, const float *gate, const float *up, size_t n); /* silu(gate) * up; y may be gate */
    void (*gelu_mul)(float *y, const float *gate, const float *up, size_t n);

    /* In place on one head: pairs (2i, 2i+1) for rope_pairs, (i, i + n_pairs) for rope_halves; cos, sin
     * [n_pairs]; elements from 2 * n_pairs on stay. */
    void (*rope_pairs)(float *x, const float *cos, const float *sin, size_t n_pairs);
    void (*rope_halves)(float *x, const float *cos, const float *sin, size_t n_pairs);

    /* Stores one token's key and value head at lane 0..31 of a chunk's tiles. */
    void (*kv_store[KV_TYPE_COUNT])(void *k_tile, void *v_tile, size_t lane, const float *k, const float *v,
                                    size_t head_dim);
    void (*attn_walk[KV_TYPE_COUNT])(const struct attn_walk *a);
    /* (m1,l1,o1) <- merge with (m2,l2,o2); o has n floats. One query row. A side with l = 0 is a no-op. */
    void (*attn_merge)(float *m1, float *l1, float *o1, const float *m2, const float *l2, const float *o2, size_t n);
    void (*attn_finish)(float *o, float l, size_t n);

    /* What the machine can do at most, for hearth bench. bench_read reads n_bytes (a multiple of 128) and returns all
     * their 64-bit words, xor'd. bench_int8 multiplies in registers, in the mix that bench_int8_mix names, and returns the
     * operations done (2 per multiply-add); *out depends on the work. */
    uint64_t (*bench_read)(const void *data, size_t n_bytes);
    uint64_t (*bench_int8)(size_t n_rounds, float *out);
    const char *bench_int8_mix;
};

/* The table for this CPU and HEARTH_CPU; the same pointer every time. *e names an unknown or absent name. */
const struct kernels *kernels_get(struct err *e);
/* By name, for tests: NULL when this CPU cannot run it or it is not built in. */
const struct kernels *kernels_by_name(const char *name);
/* Names built in, NULL-terminated, "ref" first. */
const char *const *kernels_names(void);

/* The specification's exp, for callers that need the same bits (sampler, tests). */
float ref_exp(float x);

/* ---- storing weights in a block format (quant.c) ---- */

/* Bytes of a row of n values, false when n is not a multiple of the block length or it overflows. */
bool type_row_bytes(size_t *bytes, uint32_t type, size_t n);
/* Rounds n values (a multiple of the block length) to the type. importance: [n] weights of the squared
 * error per value, or NULL for quant.c's own weighting (rms of the group + |x|). Scales that half precision cannot hold
 * saturate, values that are not finite become 0 in block types: look before where that matters.
 * false when hearth cannot write the type. Deterministic on every machine. */
bool quantize_row(void *out, const float *x, size_t n, enum tensor_type type, const float *importance);

/* ---- strips of eight rows ---- */
#include "kernels/r8.h"

#endif

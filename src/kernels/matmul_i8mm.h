/* matmul_i8mm.h: several columns with SMMLA. Part of matmul_neon.c where the compiler may use it.
 *
 * SMMLA multiplies a register of 2 rows x 8 k with one of 2 columns x 8 k and adds to 2 x 2 sums:
 *
 *     (r0 c0, r0 c1, r1 c0, r1 c1)
 *
 * Everything of a panel has that order, up to the float sums: scales are stored twice (d0 d0 d1 d1), and what belongs to
 * columns as pairs (c0 c1 c0 c1), so nothing is permuted in the inner loop:
 *
 *   weights   two neighbouring groups of four k, zipped once per panel: w[4 q + p], k = 8q .. 8q+7 of rows 2p, 2p+1
 *   columns   copied once for four strips: q[pair][q], k = 8q .. 8q+7 of two columns, with their d, sd and sums
 *   y         zipped when a panel begins, unzipped when it ends
 *
 * Where n_cols is odd the last pair repeats its column, and the second half of it is not stored.
 */
#ifndef HEARTH_MATMUL_I8MM_H
#define HEARTH_MATMUL_I8MM_H

typedef struct {
    int8x16_t w[16];
    float32x4_t d[4], m[4];
    int32x4_t sc[2][4];
    int16x4_t mn[2][4];
} panel_unit;

/* 32 k of four columns, two pairs. s[pair][h]: sums of 16 values. */
struct columns_unit {
    int8x16_t q[2][4];
    float32x4_t d[2], sd[2];
    int16x4_t s[2][2];
};

ALWAYS_INLINE void twice_floats(float32x4_t out[4], const float32x4_t v[2])
{
    UNROLL
    for (size_t i = 0; i < 2; i++) {
        out[2 * i] = vzip1q_f32(v[i], v[i]);
        out[2 * i + 1] = vzip2q_f32(v[i], v[i]);
    }
}

ALWAYS_INLINE void put_unit(panel_unit *out, const struct unit *u, struct kind kd)
{
    UNROLL
    for (size_t i = 0; i < 8; i++) { /* groups 2q, 2q+1 with q = i / 2, rows of v = i % 2 */
        const int32x4_t low = vreinterpretq_s32_u8(u->w[i / 2 * 4 + i % 2]);
        const int32x4_t high = vreinterpretq_s32_u8(u->w[i / 2 * 4 + i % 2 + 2]);
        out->w[2 * i] = vreinterpretq_s8_s32(vzip1q_s32(low, high));
        out->w[2 * i + 1] = vreinterpretq_s8_s32(vzip2q_s32(low, high));
    }
    twice_floats(out->d, u->d);
    if (kd.has_min || kd.has_mins)
        twice_floats(out->m, u->m);
    UNROLL
    for (size_t i = 0; i < 4; i++) { /* half h = i / 2, rows of v = i % 2 */
        const size_t h = i / 2, v = i % 2;
        if (kd.form == SCALED) {
            out->sc[h][2 * v] = vzip1q_s32(u->sc[h][v], u->sc[h][v]);
            out->sc[h][2 * v + 1] = vzip2q_s32(u->sc[h][v], u->sc[h][v]);
        }
        if (kd.has_mins) {
            out->mn[h][2 * v] = vzip1_s16(u->mn[h][v], u->mn[h][v]);
            out->mn[h][2 * v + 1] = vzip2_s16(u->mn[h][v], u->mn[h][v]);
        }
    }
}

/* Columns c0 and c1 as pair i. */
ALWAYS_INLINE void put_pair(struct columns_unit *out, size_t i, const struct act_block *c0, const struct act_block *c1)
{
    UNROLL
    for (size_t h = 0; h < 2; h++) {
        const int64x2_t q0 = vreinterpretq_s64_s8(vld1q_s8(c0->q + 16 * h));
        const int64x2_t q1 = vreinterpretq_s64_s8(vld1q_s8(c1->q + 16 * h));
        out->q[i][2 * h] = vreinterpretq_s8_s64(vzip1q_s64(q0, q1));
        out->q[i][2 * h + 1] = vreinterpretq_s8_s64(vzip2q_s64(q0, q1));
    }
    const float64x2_t floats = vreinterpretq_f64_f32(vzip1q_f32(act_floats(c0), act_floats(c1)));
    out->d[i] = vreinterpretq_f32_f64(vdupq_laneq_f64(floats, 0));
    out->sd[i] = vreinterpretq_f32_f64(vdupq_laneq_f64(floats, 1));
    const int32x4_t sums = vreinterpretq_s32_s16(vzip2q_s16(act_sums(c0), act_sums(c1)));
    out->s[i][0] = vreinterpret_s16_s32(vdup_laneq_s32(sums, 0));
    out->s[i][1] = vreinterpret_s16_s32(vdup_laneq_s32(sums, 1));
}

/* Half h of a unit with n_pairs pairs: s[pair][p] += rows 2p, 2p+1. */
ALWAYS_INLINE void matrix_half(int32x4_t s[][4], const panel_unit *u, const struct columns_unit *x, size_t n_pairs,
                               size_t h)
{
    UNROLL
    for (size_t i = 0; i < 8; i++) {
        const size_t q = 2 * h + i / 4, p = i % 4;
        const int8x16_t w = u->w[4 * q + p];
        UNROLL
        for (size_t c = 0; c < n_pairs; c++)
            s[c][p] = vmmlaq_s32(s[c][p], w, x->q[c][q]);
    }
}

ALWAYS_INLINE void matrix_sums(float32x4_t f[][4], const panel_unit *u, const struct columns_unit *x, size_t n_pairs,
                               struct kind kd)
{
    int32x4_t s[2][4], sum[2][4];
    UNROLL
    for (size_t h = 0; h < 2; h++) {
        UNROLL
        for (size_t i = 0; i < 4 * n_pairs; i++)
            if (kd.form == SCALED || h == 0)
                s[i / 4][i % 4] = kd.form == SCALED ? vdupq_n_s32(0) : magic_start();
        matrix_half(s, u, x, n_pairs, h);
        UNROLL
        for (size_t i = 0; i < 4 * n_pairs; i++) {
            const size_t c = i / 4, p = i % 4;
            if (kd.form == SCALED)
                sum[c][p] = h == 0 ? vmulq_s32(s[c][p], u->sc[0][p]) : vmlaq_s32(sum[c][p], s[c][p], u->sc[1][p]);
        }
    }
    UNROLL
    for (size_t i = 0; i < 4 * n_pairs; i++) {
        const size_t c = i / 4, p = i % 4;
        f[c][p] = kd.form == SCALED ? vcvtq_f32_s32(sum[c][p]) : from_magic(s[c][p], kd.is_negated);
    }
}

ALWAYS_INLINE void add_matrix_unit(float32x4_t y[][4], const panel_unit *u, const struct columns_unit *x, size_t n_pairs,
                                   struct kind kd)
{
    float32x4_t f[2][4];
    matrix_sums(f, u, x, n_pairs, kd);
    UNROLL
    for (size_t i = 0; i < 4 * n_pairs; i++) {
        const size_t c = i / 4, p = i % 4;
        y[c][p] = vfmaq_f32(y[c][p], vmulq_f32(u->d[p], f[c][p]), x->d[c]);
    }
    UNROLL
    for (size_t i = 0; i < 4 * n_pairs; i++) {
        const size_t c = i / 4, p = i % 4;
        if (kd.has_min)
            y[c][p] = vfmaq_f32(y[c][p], u->m[p], x->sd[c]);
        if (kd.has_mins) {
            int32x4_t m = vmlal_s16(vmull_s16(u->mn[0][p], x->s[c][0]), u->mn[1][p], x->s[c][1]);
            y[c][p] = vfmsq_f32(y[c][p], vmulq_f32(u->m[p], vcvtq_f32_s32(m)), x->d[c]);
        }
    }
}

/* A strip's panel meets n columns, 1..4, of n_pairs pairs. */
ALWAYS_INLINE void panel_pairs(const struct matmul *a, size_t row, size_t col, size_t n, size_t n_pairs, size_t k,
                               size_t n_units, const panel_unit *panel, const struct columns_unit *x, struct kind kd)
{
    float32x4_t y[2][4];
    float *out = a->y + col * a->y_stride + row;
    UNROLL
    for (size_t i = 0; i < n_pairs; i++) {
        float32x4_t c0[2] = { vdupq_n_f32(0), vdupq_n_f32(0) }, c1[2] = { c0[0], c0[0] };
        if (k > 0) {
            load_rows(c0, out + 2 * i * a->y_stride, a->n_rows - row);
            if (2 * i + 1 < n)
                load_rows(c1, out + (2 * i + 1) * a->y_stride, a->n_rows - row);
        }
        UNROLL
        for (size_t v = 0; v < 2; v++) {
            y[i][2 * v] = vzip1q_f32(c0[v], c1[v]);
            y[i][2 * v + 1] = vzip2q_f32(c0[v], c1[v]);
        }
    }
    for (size_t i = 0; i < n_units; i++)
        add_matrix_unit(y, panel + i, x + i, n_pairs, kd);
    UNROLL
    for (size_t i = 0; i < n_pairs; i++) {
        const float32x4_t c0[2] = { vuzp1q_f32(y[i][0], y[i][1]), vuzp1q_f32(y[i][2], y[i][3]) };
        const float32x4_t c1[2] = { vuzp2q_f32(y[i][0], y[i][1]), vuzp2q_f32(y[i][2], y[i][3]) };
        store_rows(out + 2 * i * a->y_stride, c0, a->n_rows - row);
        if (2 * i + 1 < n)
            store_rows(out + (2 * i + 1) * a->y_stride, c1, a->n_rows - row);
    }
}

ALWAYS_INLINE void all_columns(const struct matmul *a, size_t row, size_t n_strips, size_t k, size_t n_units,
                               const panel_unit *panel, struct kind kd)
{
    struct columns_unit x[PANEL_UNITS];
    for (size_t col = 0; col < a->n_cols; col += COLS) {
        const size_t n = MIN(a->n_cols - col, (size_t)COLS), last = col + n - 1;
        for (size_t pair = 0; 2 * pair < n; pair++) {
            const struct act_block *c0 = column_at(a, col + 2 * pair, k);
            const struct act_block *c1 = column_at(a, MIN(col + 2 * pair + 1, last), k);
            for (size_t i = 0; i < n_units; i++)
                put_pair(&x[i], pair, c0 + i, c1 + i);
        }
        for (size_t s = 0; s < n_strips; s++) {
            const panel_unit *of_strip = panel + s * PANEL_UNITS;
            if (n > 2)
                panel_pairs(a, row + s * R8_ROWS, col, n, 2, k, n_units, of_strip, x, kd);
            else
                panel_pairs(a, row + s * R8_ROWS, col, n, 1, k, n_units, of_strip, x, kd);
        }
    }
}

#endif

/* check_kernels.c: every entry of every instruction set that this CPU has, against ref, bit for bit.
 *
 * For each entry: --cases N (default 1000) random cases. A case draws sizes (odd tails included), contents (ordinary
 * numbers, zeros, huge, denormal, alternating extremes, infinities and NaN), and a placement: inputs and outputs lie
 * in mappings between two inaccessible pages, pushed against the one behind or the one before, so a read or write
 * past either end kills the test; outputs are compared with everything around them. Matrix products are also computed
 * in two calls, split by rows or by columns, which must not change a bit.
 *
 * Equal means equal bytes, or both NaN: which NaN comes out is not part of the contract. Attention with non-finite
 * scores is only required not to trap. A full run also compares a hash of what ref computed with the known one, so
 * that a compiler or a machine on which ref itself differs is noticed.
 *
 *   check_kernels [--list] [--isa NAME] [--entry SUBSTRING] [--cases N] [--seed N]
 *
 * How fast they are: hearth bench --kernels.
 *
 * Standalone on purpose: it needs only base and kernels, so it also builds for a machine whose other libraries are
 * not at hand. What it does not check: whether ref is right (test_dequant.c does, in double precision).
 */
#define _DEFAULT_SOURCE
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "kernels/kernels.h"

static uint64_t seed_state = 1;
static size_t n_cases = 1000;
static const char *current_isa = "", *current = "";
static uint64_t case_seed;

static uint64_t rnd(void)
{
    seed_state ^= seed_state >> 12;
    seed_state ^= seed_state << 25;
    seed_state ^= seed_state >> 27;
    return seed_state * 2685821657736338717u;
}
static size_t below(size_t n)
{
    return (size_t)(rnd() >> 20) % n;
}
static size_t between(size_t a, size_t b)
{
    return a + below(b - a + 1);
}
static float unit(void) /* [-1, 1) */
{
    return (float)(int32_t)(rnd() >> 32) * 0x1p-31f;
}

/* ---- memory between two guard pages ---- */

enum { REGION_BYTES = 1 << 20, N_REGIONS = 16 };
static uint8_t *regions[N_REGIONS];
static size_t n_taken;
static int side; /* 0: against the page before, 1: against the page behind */

static void regions_open(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (size_t i = 0; i < N_REGIONS; i++) {
        uint8_t *p = mmap(NULL, REGION_BYTES + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(p != MAP_FAILED);
        CHECK(mprotect(p + page, REGION_BYTES, PROT_READ | PROT_WRITE) == 0);
        regions[i] = p + page;
    }
}

/* Room for n bytes at the chosen side; the other side has a margin of canaries. `align` must divide n when the room
 * is to touch the guard page behind. */
static void *take(size_t n, size_t align)
{
    CHECK(n_taken < N_REGIONS && n + 64 <= REGION_BYTES);
    uint8_t *base = regions[n_taken++];
    size_t at = side ? (REGION_BYTES - n) / align * align : 0;
    if (side == 0 && align == 1)
        at = below(4); /* any alignment */
    memset(base + (at >= 32 ? at - 32 : 0), 0xa5, n + (at >= 32 ? 32 : at));
    memset(base + at + n, 0xa5, MIN((size_t)32, REGION_BYTES - at - n));
    return base + at;
}

static void fresh_case(void)
{
    n_taken = 0;
    side = (int)below(2);
}

/* Fails the run when the margins of an output were touched. */
static void check_margin(const void *p, size_t n)
{
    const uint8_t *b = p;
    size_t before = 0, behind = 0;
    for (size_t i = 0; i < N_REGIONS; i++)
        if (b >= regions[i] && b < regions[i] + REGION_BYTES) {
            before = MIN((size_t)32, (size_t)(b - regions[i]));
            behind = MIN((size_t)32, (size_t)(regions[i] + REGION_BYTES - (b + n)));
        }
    for (size_t i = 1; i <= before; i++)
        CHECK(b[-(ptrdiff_t)i] == 0xa5);
    for (size_t i = 0; i < behind; i++)
        CHECK(b[n + i] == 0xa5);
}

/* ---- contents ---- */

enum fill { PLAIN, ZERO, HUGE_VALUES, TINY_VALUES, EXTREMES, NON_FINITE, N_FILLS };

static enum fill draw_fill(void)
{
    size_t r = below(16);
    return r < 10 ? PLAIN : (enum fill)(r - 10);
}

static float draw(enum fill fill, size_t i)
{
    static const float odd[] = { INFINITY, -INFINITY, NAN, 0.0f, -0.0f, 3.4e38f, 1e-42f, 1.0f };
    switch (fill) {
    case ZERO:
        return rnd() & 1 ? 0.0f : -0.0f;
    case HUGE_VALUES:
        return unit() * 3e38f;
    case TINY_VALUES:
        return unit() * (below(2) ? 1e-38f : 1e-41f);
    case EXTREMES:
        return i & 1 ? -100.0f : 100.0f;
    case NON_FINITE:
        return below(4) ? unit() : odd[below(ARRAY_LEN(odd))];
    default:
        return unit() * 4.0f * (below(16) ? 1.0f : 20.0f);
    }
}

static void fill_floats(float *x, size_t n, enum fill fill)
{
    for (size_t i = 0; i < n; i++)
        x[i] = draw(fill, i);
}

static float *floats(size_t n, enum fill fill)
{
    float *x = take(n * sizeof *x, sizeof *x);
    fill_floats(x, n, fill);
    return x;
}

static void *copy_of(const void *p, size_t n, size_t align)
{
    void *q = take(n, align);
    memcpy(q, p, n);
    return q;
}

static void put16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)(v & 255);
    p[1] = (uint8_t)(v >> 8);
}

static bool is_nan_bits(uint32_t u)
{
    return (u & 0x7fffffff) > 0x7f800000;
}

/* FNV-1a over what ref computed in the first HASHED cases of each entry: the same on every machine. */
enum { HASHED = 20 };
static const uint64_t expected_hash = 0x4803899eff87c357u;
static uint64_t ref_hash = 0xcbf29ce484222325u;
static bool is_hashing;

static void hash_bytes(const void *p, size_t n)
{
    const uint8_t *b = p;
    for (size_t i = 0; is_hashing && i < n; i++)
        ref_hash = (ref_hash ^ b[i]) * 0x100000001b3u;
}

static void hash_floats(const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, &x[i], 4);
        u = is_nan_bits(u) ? 0x7fc00000 : u;
        hash_bytes(&u, 4);
    }
}

static void check_floats(const float *got, const float *want, size_t n)
{
    hash_floats(want, n);
    if (memcmp(got, want, n * sizeof *got) == 0)
        return;
    for (size_t i = 0; i < n; i++) {
        uint32_t g, w;
        memcpy(&g, &got[i], 4);
        memcpy(&w, &want[i], 4);
        if (g == w || (is_nan_bits(g) && is_nan_bits(w)))
            continue;
        fprintf(stderr, "%s %s: element %zu of %zu is %.9g (%08x), ref has %.9g (%08x); case seed %llu\n", current_isa, current,
                i, n, (double)got[i], g, (double)want[i], w, (unsigned long long)case_seed);
        exit(1);
    }
}

static void check_bytes(const void *got, const void *want, size_t n)
{
    const uint8_t *g = got, *w = want;
    hash_bytes(want, n);
    for (size_t i = 0; i < n; i++)
        if (g[i] != w[i]) {
            fprintf(stderr, "%s %s: byte %zu of %zu is %02x, ref has %02x; case seed %llu\n", current_isa, current, i,
                    n, g[i], w[i], (unsigned long long)case_seed);
            exit(1);
        }
}

/* Scale fields (fp16) of a block: where they stand; -1 ends the list. */
static const int scale_at[TYPE_COUNT][3] = {
    [TYPE_Q4_0] = { 0, -1 }, [TYPE_Q4_1] = { 0, 2, -1 }, [TYPE_Q5_0] = { 0, -1 }, [TYPE_Q5_1] = { 0, 2, -1 },
    [TYPE_Q8_0] = { 0, -1 }, [TYPE_IQ4_NL] = { 0, -1 }, [TYPE_Q2_K] = { 80, 82, -1 }, [TYPE_Q3_K] = { 108, -1 },
    [TYPE_Q4_K] = { 0, 2, -1 }, [TYPE_Q5_K] = { 0, 2, -1 }, [TYPE_Q6_K] = { 208, -1 }, [TYPE_IQ4_XS] = { 0, -1 },
};

/* Rows of stored weights. Block types: bytes at random or all alike, with sane scales but for one fill in 16. */
static void fill_weights(uint8_t *w, size_t n_bytes, enum tensor_type type, enum fill fill)
{
    static const uint8_t alike[] = { 0x00, 0xff, 0x80, 0x7f, 0x88, 0x0f, 0xf0 };
    const struct type_info *info = type_info(type);
    if (!info->is_quantised) {
        for (size_t i = 0; i < n_bytes / info->block_bytes; i++) {
            float f = draw(fill, i);
            if (type == TYPE_F32)
                memcpy(w + 4 * i, &f, 4);
            else
                put16(w + 2 * i, type == TYPE_F16 ? float_to_half(f) : float_to_bf16(f));
        }
        return;
    }
    uint8_t byte = alike[below(ARRAY_LEN(alike))];
    bool same = below(4) == 0;
    for (size_t i = 0; i < n_bytes; i++)
        w[i] = same ? byte : (uint8_t)(rnd() >> 40);
    if (fill == NON_FINITE)
        return;
    for (size_t i = 0; i < n_bytes; i += info->block_bytes)
        for (const int *at = scale_at[type]; *at >= 0; at++)
            put16(w + i + *at, float_to_half(fill == TINY_VALUES ? unit() * 1e-7f : unit() * 0.1f));
}

/* A strip of n_rows rows; the rest is what packing puts there. */
static void fill_strip(uint8_t *strip, size_t n_rows, enum tensor_type type, size_t k, enum fill fill)
{
    static uint8_t rows[R8_ROWS][32768];
    size_t bytes;
    CHECK(type_row_bytes(&bytes, (uint32_t)type, k) && bytes <= sizeof rows[0]);
    for (size_t r = 0; r < n_rows; r++)
        fill_weights(rows[r], bytes, type, fill);
    r8_pack(strip, rows, sizeof rows[0], n_rows, type, k);
}

/* Activations of n values; some extremes that quantize_act cannot be talked into easily. */
static struct act_block *acts(size_t n, enum fill fill)
{
    struct act_block *a = take(n / 32 * sizeof *a, _Alignof(struct act_block));
    size_t kind = below(6);
    for (size_t i = 0; i < n / 32; i++) {
        int s[2] = { 0, 0 }, lane[2] = { 0, 0 };
        for (size_t j = 0; j < 32; j++) {
            int q = kind == 0 ? 127 : kind == 1 ? -127 : kind == 2 ? (j & 1 ? -127 : 127) : (int)below(255) - 127;
            a[i].q[j] = (int8_t)q;
            s[j / 16] += q;
            lane[j % 4 / 2] += q;
        }
        a[i].d = fill == PLAIN ? fabsf(unit()) * 0.1f : fabsf(draw(fill, 0));
        a[i].sd = a[i].d * (float)(s[0] + s[1]);
        for (size_t h = 0; h < 2; h++) {
            a[i].sum16[h] = (int16_t)s[h];
            a[i].lane[h] = (int16_t)lane[h];
        }
    }
    return a;
}

/* ---- one check per kind of entry: draws a case, runs ref and t, compares ---- */

static const struct kernels *ref;

/* Sizes as given, everything else drawn. */
static void check_product(const struct kernels *t, size_t type, size_t n_rows, size_t n_cols, size_t k)
{
    const struct type_info *info = type_info((uint32_t)type);
    enum fill fill = draw_fill();
    struct matmul a = { .n_rows = n_rows, .n_cols = n_cols, .k = k };
    CHECK(r8_strip_bytes(&a.strip_bytes, (uint32_t)type, k));
    size_t used_bytes = a.strip_bytes, n_strips = (a.n_rows + R8_ROWS - 1) / R8_ROWS;
    if (below(4) == 0)
        a.strip_bytes += below(9);
    uint8_t *w = take((n_strips - 1) * a.strip_bytes + used_bytes, 1);
    for (size_t i = 0; i < n_strips; i++)
        fill_strip(w + i * a.strip_bytes, MIN(a.n_rows - i * R8_ROWS, (size_t)R8_ROWS), (enum tensor_type)type, k, fill);
    a.w = w;
    if (info->is_quantised) {
        a.x = acts(k * a.n_cols, fill);
        a.x_stride_bytes = k / 32 * sizeof(struct act_block);
    } else {
        a.x = floats(k * a.n_cols, fill);
        a.x_stride_bytes = k * 4;
    }
    a.y_stride = a.n_rows + below(3);
    size_t n_y = (a.n_cols - 1) * a.y_stride + a.n_rows;
    float *want = floats(n_y, PLAIN), *got = copy_of(want, n_y * 4, 4);
    a.y = want;
    ref->matmul[type](&a);
    a.y = got;
    struct matmul b = a, c = a;
    if (below(2) && n_strips > 1) {
        b.n_rows = R8_ROWS * between(1, n_strips - 1);
        c.n_rows -= b.n_rows;
        c.w = w + b.n_rows / R8_ROWS * a.strip_bytes;
        c.y = got + b.n_rows;
        t->matmul[type](&b);
        t->matmul[type](&c);
    } else if (below(2) && a.n_cols > 1) {
        b.n_cols = between(1, a.n_cols - 1);
        c.n_cols -= b.n_cols;
        c.x = (const uint8_t *)a.x + b.n_cols * a.x_stride_bytes;
        c.y = got + b.n_cols * a.y_stride;
        t->matmul[type](&b);
        t->matmul[type](&c);
    } else {
        t->matmul[type](&a);
    }
    check_floats(got, want, n_y);
    check_margin(got, n_y * 4);
}

static void check_matmul(const struct kernels *t, size_t type)
{
    const struct type_info *info = type_info((uint32_t)type);
    size_t step = info->is_quantised ? info->block_len : 1;
    size_t k = info->block_len == 256 ? 256 * between(1, 3) : step * between(step == 1 ? 0 : 1, step == 1 ? 90 : 9);
    size_t n_rows = between(1, 40);
    check_product(t, type, n_rows, below(3) ? between(1, 5) : between(1, 17), k);
}

/* Many columns, as prompts have: what does not pay for a few. */
static void check_matmul_many(const struct kernels *t, size_t type)
{
    const struct type_info *info = type_info((uint32_t)type);
    const bool is_wide = below(8) == 0;
    size_t k = info->block_len == 256 ? 256 * between(1, 5) : info->is_quantised ? 32 * between(1, 40) : between(1, 200);
    size_t n_rows = is_wide ? between(1, 10) : between(1, 70);
    check_product(t, type, n_rows, is_wide ? between(100, 300) : between(18, 50), k);
}

/* Long rows: several K panels, and few of them so that it stays quick. */
static void check_matmul_long(const struct kernels *t, size_t type)
{
    const struct type_info *info = type_info((uint32_t)type);
    struct matmul a = { .n_rows = between(1, 19), .n_cols = between(1, 6), .k = 256 * between(4, 20) };
    size_t n_strips = (a.n_rows + R8_ROWS - 1) / R8_ROWS;
    CHECK(r8_strip_bytes(&a.strip_bytes, (uint32_t)type, a.k));
    uint8_t *w = take(n_strips * a.strip_bytes, 1);
    for (size_t i = 0; i < n_strips; i++)
        fill_strip(w + i * a.strip_bytes, MIN(a.n_rows - i * R8_ROWS, (size_t)R8_ROWS), (enum tensor_type)type, a.k, PLAIN);
    a.w = w;
    a.x = info->is_quantised ? (void *)acts(a.k * a.n_cols, PLAIN) : (void *)floats(a.k * a.n_cols, PLAIN);
    a.x_stride_bytes = info->is_quantised ? a.k / 32 * sizeof(struct act_block) : a.k * 4;
    a.y_stride = a.n_rows;
    float *want = floats(a.n_rows * a.n_cols, PLAIN), *got = floats(a.n_rows * a.n_cols, PLAIN);
    a.y = want;
    ref->matmul[type](&a);
    a.y = got;
    t->matmul[type](&a);
    check_floats(got, want, a.n_rows * a.n_cols);
}

static void check_dequant(const struct kernels *t, size_t type)
{
    const struct type_info *info = type_info((uint32_t)type);
    size_t n = info->block_len * between(1, info->block_len == 1 ? 70 : 5);
    size_t n_bytes = n / info->block_len * info->block_bytes;
    uint8_t *w = take(n_bytes, 1);
    fill_weights(w, n_bytes, (enum tensor_type)type, draw_fill());
    float *want = floats(n, PLAIN), *got = floats(n, PLAIN);
    ref->dequant_row[type](want, w, n);
    t->dequant_row[type](got, w, n);
    check_floats(got, want, n);
    check_margin(got, n * 4);
}

static void check_quantize_act(const struct kernels *t, size_t unused)
{
    (void)unused;
    size_t n = 32 * between(1, 12);
    enum fill fill = draw_fill();
    float *x = floats(n, fill), range = powf(2.0f, (float)below(240) - 130.0f);
    struct act_block *want = take(n / 32 * sizeof *want, 4), *got = take(n / 32 * sizeof *got, 4);
    if (fill == PLAIN && below(2))
        for (size_t i = 0; i < n; i++)
            x[i] *= range;
    if (fill == PLAIN && below(4) == 0) /* ties */
        for (size_t i = 0; i < n; i++)
            x[i] = i % 32 == 0 ? 127.0f : (float)((int)below(254) - 127) + 0.5f;
    ref->quantize_act(want, x, n);
    t->quantize_act(got, x, n);
    for (size_t i = 0; i < n / 32; i++)
        if (isnan(want[i].sd) && isnan(got[i].sd))
            got[i].sd = want[i].sd = NAN;
    check_bytes(got, want, n / 32 * sizeof *got);
    check_margin(got, n / 32 * sizeof *got);
}

static size_t vector_length(void)
{
    return below(2) ? between(0, 70) : between(1, 600);
}

static void check_norm(const struct kernels *t, size_t is_layer)
{
    size_t n = MAX((size_t)1, vector_length());
    enum fill fill = draw_fill();
    float *x = floats(n, fill), *w = below(4) ? floats(n, PLAIN) : NULL, *b = below(4) ? floats(n, PLAIN) : NULL;
    float *want = floats(n, PLAIN), *got = floats(n, PLAIN), eps = below(4) ? 1e-5f : 0.0f;
    bool in_place = below(2);
    if (in_place)
        memcpy(got, x, n * 4);
    if (is_layer) {
        ref->layer_norm(want, x, w, b, n, eps);
        t->layer_norm(got, in_place ? got : x, w, b, n, eps);
    } else {
        ref->rms_norm(want, x, w, n, eps);
        t->rms_norm(got, in_place ? got : x, w, n, eps);
    }
    check_floats(got, want, n);
    check_margin(got, n * 4);
}

enum { OP_ADD, OP_SCALE, OP_SOFTCAP, OP_EXP, OP_RELU, OP_GELU };

static void run_unary(const struct kernels *t, size_t op, float *y, const float *x, float s, size_t n)
{
    switch (op) {
    case OP_ADD: t->add(y, x, n); break;
    case OP_SCALE: t->scale(y, s, n); break;
    case OP_SOFTCAP: t->softcap(y, fabsf(s) + 0.5f, n); break;
    case OP_EXP: t->exp_scaled(y, s, s < 0 ? 1.0f : 0.7f, n); break;
    case OP_RELU: t->relu(y, n); break;
    default: t->gelu(y, n); break;
    }
}

static void check_unary(const struct kernels *t, size_t op)
{
    size_t n = vector_length();
    enum fill fill = draw_fill();
    float *x = floats(n, fill), *want = floats(n, fill), *got = copy_of(want, n * 4, 4), s = draw(PLAIN, 0);
    run_unary(ref, op, want, x, s, n);
    run_unary(t, op, got, x, s, n);
    check_floats(got, want, n);
    check_margin(got, n * 4);
}

static void check_gated(const struct kernels *t, size_t is_gelu)
{
    size_t n = vector_length();
    float *gate = floats(n, draw_fill()), *up = floats(n, draw_fill());
    float *want = floats(n, PLAIN), *got = floats(n, PLAIN);
    bool in_place = below(2);
    if (in_place)
        memcpy(got, gate, n * 4);
    (is_gelu ? ref->gelu_mul : ref->silu_mul)(want, gate, up, n);
    (is_gelu ? t->gelu_mul : t->silu_mul)(got, in_place ? got : gate, up, n);
    check_floats(got, want, n);
    check_margin(got, n * 4);
}

static void check_rope(const struct kernels *t, size_t is_halves)
{
    size_t n_pairs = between(0, 70), n = 2 * n_pairs + below(9);
    float *cosine = floats(n_pairs, PLAIN), *sine = floats(n_pairs, PLAIN);
    float *want = floats(n, draw_fill()), *got = copy_of(want, n * 4, 4);
    (is_halves ? ref->rope_halves : ref->rope_pairs)(want, cosine, sine, n_pairs);
    (is_halves ? t->rope_halves : t->rope_pairs)(got, cosine, sine, n_pairs);
    check_floats(got, want, n);
    check_margin(got, n * 4);
}

static void check_kv_store(const struct kernels *t, size_t type)
{
    size_t hd = between(1, 70), size = type == KV_F16 ? 2 : 4, n = hd * 32 * size, lane = below(32);
    float *k = floats(hd, draw_fill()), *v = floats(hd, draw_fill());
    uint8_t *wk = take(n, 4), *wv = take(n, 4), *gk = take(n, 4), *gv = take(n, 4);
    memset(wk, 1, n), memset(wv, 2, n), memset(gk, 1, n), memset(gv, 2, n);
    ref->kv_store[type](wk, wv, lane, k, v, hd);
    t->kv_store[type](gk, gv, lane, k, v, hd);
    check_bytes(gk, wk, n);
    check_bytes(gv, wv, n);
    check_margin(gk, n);
    check_margin(gv, n);
}

/* A chunk of one head: the tile of K and that of V, the one that begins at byte 0 first, side by side. */
static uint8_t *kv_chunk(size_t type, size_t n, enum fill fill)
{
    if (type == KV_F32)
        return (uint8_t *)floats(2 * n, fill);
    uint8_t *p = take(2 * n * 2, 2);
    for (size_t i = 0; i < 2 * n; i++)
        put16(p + 2 * i, float_to_half(draw(fill, i)));
    return p;
}

/* Whatever stands in lanes that no row sees must not matter. */
static void spoil_hidden_lanes(const struct attn_walk *a, size_t type)
{
    static const uint8_t nan16[2] = { 0, 0x7e };
    const float nan32 = NAN;
    const size_t size = type == KV_F16 ? 2 : 4;
    const void *bad = type == KV_F16 ? (const void *)nan16 : (const void *)&nan32;
    for (size_t t = 0; t < 32 * a->n_chunks; t++) {
        uint8_t *chunk = (uint8_t *)(uintptr_t)a->chunks[t / 32], *k = chunk + a->k_at, *v = chunk + a->v_at;
        for (size_t d = 0; d < a->head_dim && (t < a->seen[0].begin || t >= a->seen[a->n_q - 1].end); d++) {
            memcpy(k + (d * 32 + t % 32) * size, bad, size);
            memcpy(v + (t % 32 * a->head_dim + d) * size, bad, size);
        }
    }
}

/* What the rows of a walk see: the same, as in decoding; or the causal edge moving on, with a window behind it. */
static void draw_spans(struct attn_span *seen, size_t n_q, size_t n_tokens)
{
    const size_t per_token = between(1, 5), window = below(2) ? n_tokens : between(1, n_tokens);
    const bool is_causal = below(2);
    size_t last = is_causal ? below(n_tokens) : n_tokens - 1;
    for (size_t i = 0; i < n_q; i++) {
        if (is_causal && i && i % per_token == 0 && last + 1 < n_tokens)
            last++;
        seen[i] = (struct attn_span){ (uint32_t)(last >= window ? last - window + 1 : 0), (uint32_t)last + 1 };
    }
    if (!is_causal && below(2))
        for (size_t i = 0, begin = below(n_tokens); i < n_q; i++)
            seen[i].begin = (uint32_t)begin;
}

/* Some chunks, as attention walks them. */
static void check_attn(const struct kernels *t, size_t type)
{
    enum { MAX_CHUNKS = 4, MAX_Q = 140 };
    static const size_t usual[] = { 8, 32, 64, 80, 96, 128, 256 };
    size_t hd = below(2) ? usual[below(ARRAY_LEN(usual))] : between(1, 100), tile = hd * 32 * (type == KV_F16 ? 2 : 4);
    enum fill fill = below(12) ? PLAIN : NON_FINITE;
    const uint8_t *chunks[MAX_CHUNKS];
    struct attn_walk a = { .chunks = chunks, .n_chunks = between(1, MAX_CHUNKS), .head_dim = hd, .scale = 1.0f / sqrtf((float)hd) };
    a.n_q = below(8) ? between(1, 12) : between(1, 4 * hd < 512 ? MAX_Q : 30);
    a.q_stride = hd + below(3);
    a.o_stride = hd + below(3);
    a.softcap = below(3) ? 0.0f : 30.0f;
    *(below(2) ? &a.k_at : &a.v_at) = tile;
    size_t n_o = (a.n_q - 1) * a.o_stride + hd;
    a.q = floats((a.n_q - 1) * a.q_stride + hd, fill);
    float *o[2], *m[2], *l[2];
    for (size_t i = 0; i < 2; i++) {
        o[i] = floats(n_o, ZERO);
        m[i] = floats(a.n_q, PLAIN);
        l[i] = floats(a.n_q, PLAIN);
        memset(o[i], 0, n_o * 4);
        memset(l[i], 0, a.n_q * 4);
        for (size_t j = 0; j < a.n_q; j++)
            m[i][j] = -INFINITY;
    }
    for (size_t i = 0; i < a.n_chunks; i++)
        chunks[i] = kv_chunk(type, hd * 32, fill);
    struct attn_span *seen = take(a.n_q * sizeof *seen, 4);
    draw_spans(seen, a.n_q, a.n_chunks * 32);
    a.seen = seen;
    if (below(2))
        spoil_hidden_lanes(&a, type);
    a.o = o[0], a.m = m[0], a.l = l[0];
    ref->attn_walk[type](&a);
    a.o = o[1], a.m = m[1], a.l = l[1];
    t->attn_walk[type](&a);
    if (fill == NON_FINITE)
        return;
    check_floats(m[1], m[0], a.n_q);
    check_floats(l[1], l[0], a.n_q);
    check_floats(o[1], o[0], n_o);
    check_margin(m[1], a.n_q * 4);
    check_margin(l[1], a.n_q * 4);
    check_margin(o[1], n_o * 4);
}

static void check_merge(const struct kernels *t, size_t is_finish)
{
    size_t n = between(0, 140);
    float *want = floats(n, PLAIN), *got = copy_of(want, n * 4, 4), *o2 = floats(n, PLAIN);
    float m[3] = { unit() * 9, 0, unit() * 9 }, l[3] = { fabsf(unit()) + 0.1f, 0, fabsf(unit()) + 0.1f };
    size_t empty = below(6);
    if (empty == 0)
        l[0] = 0, m[0] = -INFINITY;
    if (empty == 1)
        l[2] = 0, m[2] = -INFINITY;
    m[1] = m[0], l[1] = l[0];
    if (is_finish) {
        ref->attn_finish(want, l[0] + 0.5f, n);
        t->attn_finish(got, l[0] + 0.5f, n);
    } else {
        ref->attn_merge(&m[0], &l[0], want, &m[2], &l[2], o2, n);
        t->attn_merge(&m[1], &l[1], got, &m[2], &l[2], o2, n);
        check_floats(&m[1], &m[0], 1);
        check_floats(&l[1], &l[0], 1);
    }
    check_floats(got, want, n);
    check_margin(got, n * 4);
}

/* Everything is read, nothing else is. */
static void check_bench_read(const struct kernels *t, size_t arg)
{
    size_t n = 128 * below(100);
    uint8_t *data = take(n, 128);
    (void)arg;
    for (size_t i = 0; i < n; i++)
        data[i] = (uint8_t)rnd();
    CHECK(t->bench_read(data, n) == ref->bench_read(data, n));
}

/* Operations are counted by rounds, and the work gives some number. */
static void check_bench_int8(const struct kernels *t, size_t arg)
{
    size_t n = 1 + below(200);
    float a = NAN, b = NAN;
    (void)arg;
    uint64_t ops = t->bench_int8(n, &a), twice = t->bench_int8(2 * n, &b);
    CHECK(ops >= n && twice == 2 * ops && isfinite(a) && isfinite(b) && a != b && *t->bench_int8_mix);
}

/* ---- the list of entries ---- */

struct entry {
    char name[40];
    void (*check)(const struct kernels *t, size_t arg);
    size_t arg, share; /* cases = n_cases / share */
};
static struct entry entries[96];
static size_t n_entries;

static void entry(const char *name, const char *of, void (*check)(const struct kernels *, size_t), size_t arg,
                  size_t share)
{
    CHECK(n_entries < ARRAY_LEN(entries));
    struct entry *e = &entries[n_entries++];
    snprintf(e->name, sizeof e->name, "%s%s%s", name, of ? " " : "", of ? of : "");
    e->check = check;
    e->arg = arg;
    e->share = share;
}

static void list_entries(void)
{
    for (uint32_t type = 0; type < TYPE_COUNT; type++)
        if (type_info(type)->is_readable) {
            entry("matmul", type_info(type)->name, check_matmul, type, 1);
            entry("matmul_many", type_info(type)->name, check_matmul_many, type, 10);
            entry("matmul_long", type_info(type)->name, check_matmul_long, type, 50);
            entry("dequant_row", type_info(type)->name, check_dequant, type, 1);
        }
    entry("quantize_act", NULL, check_quantize_act, 0, 1);
    entry("rms_norm", NULL, check_norm, 0, 1);
    entry("layer_norm", NULL, check_norm, 1, 1);
    entry("add", NULL, check_unary, OP_ADD, 1);
    entry("scale", NULL, check_unary, OP_SCALE, 1);
    entry("softcap", NULL, check_unary, OP_SOFTCAP, 1);
    entry("exp_scaled", NULL, check_unary, OP_EXP, 1);
    entry("relu", NULL, check_unary, OP_RELU, 1);
    entry("gelu", NULL, check_unary, OP_GELU, 1);
    entry("silu_mul", NULL, check_gated, 0, 1);
    entry("gelu_mul", NULL, check_gated, 1, 1);
    entry("rope_pairs", NULL, check_rope, 0, 1);
    entry("rope_halves", NULL, check_rope, 1, 1);
    entry("kv_store", "f16", check_kv_store, KV_F16, 1);
    entry("kv_store", "f32", check_kv_store, KV_F32, 1);
    entry("attn_walk", "f16", check_attn, KV_F16, 1);
    entry("attn_walk", "f32", check_attn, KV_F32, 1);
    entry("attn_merge", NULL, check_merge, 0, 1);
    entry("attn_finish", NULL, check_merge, 1, 1);
    entry("bench_read", NULL, check_bench_read, 0, 1);
    entry("bench_int8", NULL, check_bench_int8, 0, 50);
}

static void check_entry(const struct kernels *t, const struct entry *e, uint64_t seed)
{
    current_isa = t->name;
    current = e->name;
    for (size_t i = 0; i < MAX(n_cases / e->share, MIN(n_cases, (size_t)HASHED)); i++) {
        is_hashing = t == ref && seed == 1 && i < HASHED;
        case_seed = seed + i;
        seed_state = case_seed * 0x9e3779b97f4a7c15u | 1;
        rnd();
        fresh_case();
        e->check(t, e->arg);
    }
}

int main(int argc, char **argv)
{
    const char *isa = NULL, *part = NULL;
    bool do_list = false;
    uint64_t seed = 1;
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(argv[i], "--list") == 0)
            do_list = true;
        else if (value && strcmp(argv[i], "--isa") == 0)
            isa = argv[++i];
        else if (value && strcmp(argv[i], "--entry") == 0)
            part = argv[++i];
        else if (value && strcmp(argv[i], "--cases") == 0)
            n_cases = (size_t)strtoull(argv[++i], NULL, 10);
        else if (value && strcmp(argv[i], "--seed") == 0)
            seed = strtoull(argv[++i], NULL, 10);
        else
            return fprintf(stderr, "check_kernels: unknown argument %s\n", argv[i]), 2;
    }
    ref = kernels_by_name("ref");
    list_entries();
    regions_open();
    size_t n_checked = 0;
    for (const char *const *name = kernels_names(); *name; name++) {
        const struct kernels *t = kernels_by_name(*name);
        if (!t)
            printf("%s: this CPU lacks it\n", *name);
        /* ref against itself shows that the placement is sound and that it keeps to its bounds. */
        for (size_t i = 0; t && i < n_entries; i++) {
            if ((isa && strcmp(isa, *name) != 0) || (part && !strstr(entries[i].name, part)))
                continue;
            if (do_list)
                printf("%s %s\n", *name, entries[i].name);
            else
                check_entry(t, &entries[i], seed);
            n_checked++;
        }
    }
    if (do_list)
        return n_checked ? 0 : 1;
    printf("%zu entries, %zu cases each: equal to ref; bits of ref: %016llx\n", n_checked, n_cases,
           (unsigned long long)ref_hash);
    if (!isa && !part && seed == 1 && n_cases >= HASHED && ref_hash != expected_hash) {
        fprintf(stderr, "check_kernels: ref should give %016llx: this build computes differently, or the canonical "
                        "order or the cases of this test were changed (then change expected_hash)\n",
                (unsigned long long)expected_hash);
        return 1;
    }
    return n_checked ? 0 : 1;
}

/* products.c: matrix products of a step, spread over the pool by strips of weight rows.
 *
 * Each byte of weights is read by one thread, once per step, whatever the number of activation rows. Strips are taken from
 * one counter in ascending order, so every thread streams through its part of memory and all end together.
 */
#include "engine/engine_internal.h"

enum { MAX_PRODUCTS = 3, STRIPS_PER_THREAD = 24, FEW_ROWS_STRIP_BYTES = 48 * 1024, MANY_ROWS_STRIP = 64, MANY_ROWS_UNIT = 32 };

struct product_job {
    const struct engine *en;
    struct input in;
    size_t n_rows, n_products, strip_rows;
    size_t first_strip[MAX_PRODUCTS + 1];
    struct product p[MAX_PRODUCTS];
};

/* Rows of a matrix that are a slice of a job, a multiple of `unit`: small enough that the last one to finish keeps nobody
 * waiting for long, large enough that taking a slice costs nothing beside it. For few activation rows that is some ten
 * microseconds of reading (decoding takes the same time with 16 and with 512 rows on one thread). For many, all
 * activations pass through the cache for each slice: with 16 rows a prompt takes a third longer than with 64; and kernels
 * for many columns take 32 rows at a time. */
size_t strip_rows_for(const struct engine *en, size_t n_weight_rows, size_t strip_bytes, size_t n_rows, size_t unit)
{
    size_t n = n_weight_rows / (en->n_threads * STRIPS_PER_THREAD);
    if (n_rows <= FEW_ROWS) {
        n = MIN(n, FEW_ROWS_STRIP_BYTES / MAX(strip_bytes / R8_ROWS, (size_t)1));
    } else {
        n = MAX(n, MIN((size_t)MANY_ROWS_STRIP, n_weight_rows / (en->n_threads * 4)));
        unit = MAX(unit, (size_t)MANY_ROWS_UNIT);
    }
    return MAX((n + unit - 1) / unit, (size_t)1) * unit;
}

void multiply(const struct engine *en, const struct matrix *w, size_t row, size_t n, const struct input *in, size_t n_cols, float *y,
              size_t y_stride)
{
    bool is_quantised = type_info((uint32_t)w->type)->is_quantised;
    const struct matmul a = {
        .w = (const uint8_t *)w->data + row / R8_ROWS * w->strip_bytes,
        .x = is_quantised ? (const void *)in->act : in->x,
        .y = y,
        .strip_bytes = w->strip_bytes,
        .x_stride_bytes = is_quantised ? w->k / 32 * sizeof *in->act : in->x_stride * sizeof *in->x,
        .y_stride = y_stride,
        .n_rows = n,
        .n_cols = n_cols,
        .k = w->k,
    };
    en->k->matmul[w->type](&a);
}

static void product_strip(void *arg, size_t i_strip, size_t i_thread)
{
    const struct product_job *j = arg;
    size_t i = 0;
    (void)i_thread;
    while (i_strip >= j->first_strip[i + 1])
        i++;
    const struct product *p = &j->p[i];
    size_t row = (i_strip - j->first_strip[i]) * j->strip_rows;
    multiply(j->en, p->w, row, MIN(j->strip_rows, p->w->n_rows - row), &j->in, j->n_rows, p->y + row, p->y_stride);
}

void run_products(struct step *st, enum engine_phase phase, struct input in, const struct product *p, size_t n)
{
    struct engine *en = st->en;
    struct product_job j = { .en = en, .in = in, .n_rows = st->n_rows, .n_products = n };
    size_t n_weight_rows = 0, n_macs = 0;
    CHECK(n >= 1 && n <= MAX_PRODUCTS);
    while (!p[n - 1].w->data)
        n--;
    for (size_t i = 0; i < n; i++) {
        n_weight_rows += p[i].w->n_rows;
        n_macs += p[i].w->n_rows * p[i].w->k * st->n_rows;
    }
    j.strip_rows = strip_rows_for(en, n_weight_rows, p[0].w->strip_bytes, st->n_rows, R8_ROWS);
    for (size_t i = 0; i < n; i++) {
        j.p[i] = p[i];
        j.first_strip[i + 1] = j.first_strip[i] + (p[i].w->n_rows + j.strip_rows - 1) / j.strip_rows;
    }
    run_job(en, product_strip, &j, j.first_strip[n], n_macs);
    phase_done(en, phase);
}

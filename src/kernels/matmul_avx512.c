/* matmul_avx512.c: matrix products with AVX-512 VNNI: vectors of sixteen rows. See matmul_vnni.h. */
#include "vec512.h"

#include "matmul_vnni.h"

#define ENTRY(name, type, kind) [type] = matmul_##name,

void (*const avx512_matmul[TYPE_COUNT])(const struct matmul *a) = { FOR_EACH_KIND(ENTRY) };

void avx512_matmul_init(struct kernels *t)
{
    for (size_t i = 0; i < TYPE_COUNT; i++)
        if (avx512_matmul[i])
            t->matmul[i] = avx512_matmul[i];
}

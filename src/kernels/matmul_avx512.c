/* matmul_avx512.c: matrix products with AVX-512 VNNI: vectors of sixteen rows. See matmul_vnni.h. */
#include "vec512.h"

#include "matmul_vnni.h"

#define SET(name, type, kind) t->matmul[type] = matmul_##name;

void avx512_matmul_init(struct kernels *t)
{
    FOR_EACH_KIND(SET)
}

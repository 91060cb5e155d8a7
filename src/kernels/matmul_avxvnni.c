/* matmul_avxvnni.c: matrix products with the VNNI instructions on 256 bits: vectors of eight rows. See matmul_vnni.h. */
#include "vec256.h"

#include "matmul_vnni.h"

#define SET(name, type, kind) t->matmul[type] = matmul_##name;

void avxvnni_matmul_init(struct kernels *t)
{
    FOR_EACH_KIND(SET)
}

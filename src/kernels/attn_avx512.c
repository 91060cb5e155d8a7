/* attn_avx512.c: attention over chunks of 32 tokens, two registers of 16. */
#include "init.h"

void avx512_attn_init(struct kernels *t)
{
    (void)t;
}

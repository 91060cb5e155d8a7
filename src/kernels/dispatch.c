/* dispatch.c: which table of kernels this process uses.
 *
 * A row per instruction set: its name, whether this CPU (and its operating system) can run it, and how its table is
 * filled. Rows stand in ascending order of preference; kernels_get takes the last that works, unless HEARTH_CPU names
 * another. Tables are filled once, on first use, and never change afterwards.
 *
 * x86-64: AVX2 is usable when cpuid says AVX2, FMA and F16C and the system saves the upper halves of the vector
 * registers (xgetbv bits 1 and 2); an old kernel or a hypervisor may hide either. arm64: NEON is always there, the
 * dot-product instructions are announced in the auxiliary vector.
 *
 * All tables give the same bits (kernels.h), so the choice is only about speed.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "init.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

struct isa {
    const char *name;
    bool (*is_usable)(void);
    void (*fill)(struct kernels *t);
};

static bool always(void)
{
    return true;
}

static void fill_ref(struct kernels *t)
{
    ref_vector_init(t);
    ref_matmul_init(t);
    ref_attn_init(t);
}

#if defined(__x86_64__)
static bool has_avx2(void)
{
    unsigned a, b, c, d, xcr0_low, xcr0_high;
    const unsigned fma = 1u << 12, osxsave = 1u << 27, avx = 1u << 28, f16c = 1u << 29, need = fma | osxsave | avx | f16c;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & need) != need)
        return false;
    __asm__("xgetbv" : "=a"(xcr0_low), "=d"(xcr0_high) : "c"(0));
    if ((xcr0_low & 6) != 6)
        return false;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & 1u << 5);
}

static void fill_avx2(struct kernels *t)
{
    scalar_avx2_vector_init(t);
    scalar_avx2_matmul_init(t);
    scalar_avx2_attn_init(t);
    avx2_vector_init(t);
    avx2_matmul_init(t);
    avx2_attn_init(t);
    avx2_bench_init(t);
}
#endif

#if defined(__aarch64__)
static bool has_dotprod(void)
{
    const unsigned long asimddp = 1ul << 20;
    return getauxval(AT_HWCAP) & asimddp;
}

static void fill_neon(struct kernels *t)
{
    fill_ref(t);
    neon_vector_init(t);
    neon_matmul_init(t);
    neon_attn_init(t);
}

static void fill_dotprod(struct kernels *t)
{
    fill_neon(t);
    dotprod_matmul_init(t);
}
#endif

static const struct isa isas[] = {
    { "ref", always, fill_ref },
#if defined(__x86_64__)
    { "avx2", has_avx2, fill_avx2 },
#elif defined(__aarch64__)
    { "neon", always, fill_neon },
    { "dotprod", has_dotprod, fill_dotprod },
#endif
};

static struct kernels tables[ARRAY_LEN(isas)];
static const char *names[ARRAY_LEN(isas) + 1];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void fill_all(void)
{
    for (size_t i = 0; i < ARRAY_LEN(isas); i++) {
        names[i] = isas[i].name;
        if (!isas[i].is_usable())
            continue;
        dequant_init(&tables[i]);
        ref_bench_init(&tables[i]);
        isas[i].fill(&tables[i]);
        tables[i].name = isas[i].name;
    }
}

const char *const *kernels_names(void)
{
    pthread_once(&once, fill_all);
    return names;
}

const struct kernels *kernels_by_name(const char *name)
{
    pthread_once(&once, fill_all);
    for (size_t i = 0; i < ARRAY_LEN(isas); i++)
        if (strcmp(isas[i].name, name) == 0)
            return tables[i].name ? &tables[i] : NULL;
    return NULL;
}

static bool is_built_in(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(isas); i++)
        if (strcmp(isas[i].name, name) == 0)
            return true;
    return false;
}

const struct kernels *kernels_get(struct err *e)
{
    const char *wanted = getenv("HEARTH_CPU");
    if (wanted && *wanted) {
        const struct kernels *t = kernels_by_name(wanted);
        if (!t)
            err_set(e, HEARTH_EINVAL, "HEARTH_CPU=%s: %s", wanted,
                    is_built_in(wanted) ? "this CPU lacks it" : "no such instruction set in this build");
        return t;
    }
    pthread_once(&once, fill_all);
    size_t best = 0;
    for (size_t i = 0; i < ARRAY_LEN(isas); i++)
        if (tables[i].name)
            best = i;
    return &tables[best];
}

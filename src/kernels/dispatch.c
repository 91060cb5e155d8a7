/* dispatch.c: which table of kernels this process uses.
 *
 * A row per instruction set: its name, whether this CPU (and its operating system) can run it, and how its table is
 * filled. Rows stand in ascending order of preference; kernels_get takes the last that works, unless HEARTH_CPU names
 * another. Tables are filled once, on first use, and never change afterwards.
 *
 * x86-64: a row is usable when cpuid has its instructions and the system saves its registers (xgetbv: bits 1 and 2 for
 * AVX, 5 to 7 for AVX-512, 17 and 18 for the tiles of AMX, which Linux wants asked for besides); an old kernel or a
 * hypervisor may hide either. arm64: NEON is always there, the dot-product and the matrix instructions are announced
 * in the auxiliary vector.
 *
 * All tables give the same bits (kernels.h), so the choice is only about speed.
 */
#define _DEFAULT_SOURCE /* syscall */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "init.h"

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
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
/* What cpuid and xgetbv say, as far as the rows ask. */
struct x86 {
    unsigned leaf1_c, leaf7_b, leaf7_c, leaf7_d, leaf7_1_a, xcr0;
};

static struct x86 x86_look(void)
{
    struct x86 x = { 0 };
    unsigned a, b, c, d, high;
    const unsigned osxsave = 1u << 27;
    if (!__get_cpuid(1, &a, &b, &x.leaf1_c, &d) || !(x.leaf1_c & osxsave))
        return (struct x86){ 0 };
    __asm__("xgetbv" : "=a"(x.xcr0), "=d"(high) : "c"(0));
    if (__get_cpuid_count(7, 0, &a, &x.leaf7_b, &x.leaf7_c, &x.leaf7_d) && a >= 1)
        __get_cpuid_count(7, 1, &x.leaf7_1_a, &b, &c, &d);
    return x;
}

static bool has_all(unsigned bits, unsigned need)
{
    return (bits & need) == need;
}

static bool has_avx2(void)
{
    const unsigned fma = 1u << 12, avx = 1u << 28, f16c = 1u << 29, avx2 = 1u << 5;
    struct x86 x = x86_look();
    return has_all(x.leaf1_c, fma | avx | f16c) && has_all(x.leaf7_b, avx2) && has_all(x.xcr0, 6);
}

static bool has_avxvnni(void)
{
    return has_avx2() && has_all(x86_look().leaf7_1_a, 1u << 4);
}

static bool has_avx512(void)
{
    const unsigned f = 1u << 16, dq = 1u << 17, bw = 1u << 30, vl = 1u << 31, vnni = 1u << 11;
    struct x86 x = x86_look();
    return has_avx2() && has_all(x.leaf7_b, f | dq | bw | vl) && has_all(x.leaf7_c, vnni) && has_all(x.xcr0, 0xe6);
}

/* Linux lets a process use the tiles when it has asked: they make the registers saved on a signal 8 KiB larger. */
static bool may_use_tiles(void)
{
#if defined(__linux__)
    const long request = 0x1023, tile_data = 18; /* ARCH_REQ_XCOMP_PERM */
    return syscall(SYS_arch_prctl, request, tile_data) == 0;
#else
    return false;
#endif
}

static bool has_amx(void)
{
    const unsigned tile = 1u << 24, int8 = 1u << 25;
    struct x86 x = x86_look();
    return has_avx512() && has_all(x.leaf7_d, tile | int8) && has_all(x.xcr0, 3u << 17) && may_use_tiles();
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

static void fill_avxvnni(struct kernels *t)
{
    fill_avx2(t);
    avxvnni_matmul_init(t);
    avxvnni_bench_init(t);
}

static void fill_avx512(struct kernels *t)
{
    fill_avx2(t);
    avx512_vector_init(t);
    avx512_matmul_init(t);
    avx512_attn_init(t);
    avx512_bench_init(t);
}

static void fill_amx(struct kernels *t)
{
    fill_avx512(t);
    amx_matmul_init(t);
}
#endif

#if defined(__aarch64__)
static bool has_dotprod(void)
{
    const unsigned long asimddp = 1ul << 20;
    return getauxval(AT_HWCAP) & asimddp;
}

static bool has_i8mm(void)
{
    const unsigned long i8mm = 1ul << 13;
    return has_dotprod() && (getauxval(AT_HWCAP2) & i8mm);
}

static void fill_neon(struct kernels *t)
{
    fill_ref(t);
    neon_vector_init(t);
    neon_attn_init(t);
    neon_matmul_float_init(t);
    neon_matmul_init(t);
    neon_bench_init(t);
}

static void fill_dotprod(struct kernels *t)
{
    fill_neon(t);
    dotprod_matmul_init(t);
    dotprod_bench_init(t);
}

static void fill_i8mm(struct kernels *t)
{
    fill_neon(t);
    i8mm_matmul_init(t);
    i8mm_bench_init(t);
}
#endif

static const struct isa isas[] = {
    { "ref", always, fill_ref },
#if defined(__x86_64__)
    { "avx2", has_avx2, fill_avx2 },
    { "avxvnni", has_avxvnni, fill_avxvnni },
    { "avx512", has_avx512, fill_avx512 },
    { "amx", has_amx, fill_amx },
#elif defined(__aarch64__)
    { "neon", always, fill_neon },
    { "dotprod", has_dotprod, fill_dotprod },
    { "i8mm", has_i8mm, fill_i8mm },
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

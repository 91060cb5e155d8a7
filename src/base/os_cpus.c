/* os_cpus.c: which CPUs there are for us, which of them are fast, and keeping a thread on some of them.
 *
 * A list of CPUs is written as the kernel writes it: "0,2-5". It only ever names CPUs that this process may use, so a
 * container's share of a machine is respected.
 *
 * Phones and many laptops mix fast and slow cores. A job that all threads share ends with its slowest thread, and a slow
 * core that takes the last slice keeps everybody waiting; where the weights come from memory, the fast cores alone already
 * use all of its bandwidth. So the engine prefers the fast ones. The kernel says which those are:
 *
 *   cpuN/cpu_capacity               arm64, and newer kernels on hybrid x86: 1024 for the fastest, fast from half of that on
 *                                   (the middle cluster of a phone counts, the small one does not)
 *   cpuN/cpufreq/cpuinfo_max_freq   elsewhere: fast from 85 % of the highest clock on (favoured cores of one kind differ by
 *                                   less than that, the two kinds of a hybrid by more)
 *
 * A CPU of which neither is known counts as fast. Linux only, as os_linux.c.
 */
#define _GNU_SOURCE
#include "base/base.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(CPU_SETSIZE == LIMIT_CPUS, "a list has room for all that a mask can name");

void cpu_list_now(struct cpu_list *l)
{
    cpu_set_t set;
    l->n = 0;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) != 0)
        return;
    for (size_t i = 0; i < LIMIT_CPUS; i++)
        if (CPU_ISSET(i, &set))
            l->cpus[l->n++] = (uint16_t)i;
}

bool cpu_list_bind(const struct cpu_list *l)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    for (size_t i = 0; i < l->n; i++)
        CPU_SET(l->cpus[i], &set);
    return sched_setaffinity(0, sizeof set, &set) == 0;
}

static bool list_has(const struct cpu_list *l, size_t cpu)
{
    for (size_t i = 0; i < l->n; i++)
        if (l->cpus[i] == cpu)
            return true;
    return false;
}

/* A number at *at, which moves behind it; false when there is none that could be a CPU. */
static bool take_cpu(size_t *out, const char **at)
{
    char *end;
    if (**at < '0' || **at > '9')
        return false;
    errno = 0;
    unsigned long v = strtoul(*at, &end, 10);
    *out = v;
    *at = end;
    return errno == 0 && v < LIMIT_CPUS;
}

enum hearth_status cpu_list_parse(struct cpu_list *l, const char *text, struct err *e)
{
    struct cpu_list mine;
    const char *at = text;
    cpu_list_now(&mine);
    l->n = 0;
    for (;;) {
        size_t first, last;
        if (!take_cpu(&first, &at))
            goto malformed;
        last = first;
        if (*at == '-') {
            at++;
            if (!take_cpu(&last, &at) || last < first)
                goto malformed;
        }
        for (size_t i = first; i <= last; i++) {
            if (!list_has(&mine, i))
                return err_set(e, HEARTH_EINVAL, "CPU %zu of \"%.40s\" is not one that this process may use", i, text);
            if (list_has(l, i))
                return err_set(e, HEARTH_EINVAL, "CPU %zu stands twice in \"%.40s\"", i, text);
            l->cpus[l->n++] = (uint16_t)i;
        }
        if (*at == '\0')
            return HEARTH_OK;
        if (*at++ != ',')
            goto malformed;
    }
malformed:
    return err_set(e, HEARTH_EINVAL, "\"%.40s\" is no list of CPUs such as 0,2-5", text);
}

/* The number in a file of one line; 0 when there is none. */
static unsigned long read_number(const char *folder, size_t cpu, const char *name)
{
    char path[256], line[32] = "";
    snprintf(path, sizeof path, "%s/cpu%zu/%s", folder, cpu, name);
    FILE *f = fopen(path, "re");
    if (!f)
        return 0;
    if (!fgets(line, sizeof line, f))
        line[0] = 0;
    fclose(f);
    return strtoul(line, NULL, 10);
}

/* Keeps the CPUs whose number is at least percent of the largest; false when no CPU has one. */
static bool keep_fast(struct cpu_list *l, const char *folder, const char *name, double percent)
{
    unsigned long speed[LIMIT_CPUS], most = 0;
    size_t n = 0;
    for (size_t i = 0; i < l->n; i++) {
        speed[i] = read_number(folder, l->cpus[i], name);
        most = MAX(most, speed[i]);
    }
    if (most == 0)
        return false;
    for (size_t i = 0; i < l->n; i++)
        if (speed[i] == 0 || (double)speed[i] * 100 >= (double)most * percent)
            l->cpus[n++] = l->cpus[i];
    l->n = n;
    return true;
}

void cpu_list_fast(struct cpu_list *l, const char *folder)
{
    if (!folder)
        folder = "/sys/devices/system/cpu";
    cpu_list_now(l);
    if (!keep_fast(l, folder, "cpu_capacity", 50))
        keep_fast(l, folder, "cpufreq/cpuinfo_max_freq", 85);
}

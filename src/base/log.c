/* log.c: levelled lines on stderr. One write per line, so lines of several threads do not mix. Prompt
 * text, completions and tokens never go here (threat T27): callers log sizes and names only.
 */
#include "base/base.h"

#include <stdatomic.h>
#include <unistd.h>

static atomic_int current_level = LOG_WARN; /* relaxed: a late line more or less does no harm */

void log_level_set(enum log_level level)
{
    atomic_store_explicit(&current_level, (int)level, memory_order_relaxed);
}

void log_line(enum log_level level, const char *fmt, ...)
{
    static const char *const names[] = { "error", "warning", "info", "debug" };
    char line[1024];
    va_list args;
    int n;
    CHECK((size_t)level < ARRAY_LEN(names));
    if ((int)level > atomic_load_explicit(&current_level, memory_order_relaxed))
        return;
    n = snprintf(line, sizeof line, "hearth: %s: ", names[level]);
    va_start(args, fmt);
    n += vsnprintf(line + n, sizeof line - (size_t)n - 1, fmt, args);
    va_end(args);
    n = MIN(n, (int)sizeof line - 2);
    line[n++] = '\n';
    if (write(STDERR_FILENO, line, (size_t)n) < 0)
        return; /* nowhere left to say it */
}

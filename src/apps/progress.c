/* progress.c: how far a long piece of work is, on stderr.
 *
 * On a terminal one line is redrawn at most ten times a second: label, bar, percent, rate, time left. Where
 * stderr is no terminal, one plain line at each quarter of work that takes longer than two seconds, so that a log stays
 * readable. With --quiet nothing.
 * The rate is the mean since the start: it moves slowly and ends at the truth.
 */
#include "apps/apps.h"

#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { REDRAW_NS = 100 * 1000 * 1000, BAR_CELLS = 24, PATIENCE_S = 2 };

static size_t terminal_columns(void)
{
    struct winsize w;
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col ? w.ws_col : 80;
}

void bar_open(struct bar *b, const char *label, const char *unit)
{
    *b = (struct bar){ .label = label, .unit = unit, .begin_ns = clock_ns(), .is_open = true };
}

static void format_rate(char *out, size_t size, const struct bar *b, uint64_t done, double seconds)
{
    double rate = seconds > 0 ? (double)done / seconds : 0;
    if (strcmp(b->unit, "B") == 0)
        snprintf(out, size, "%s/s", human_bytes((uint64_t)rate));
    else
        snprintf(out, size, rate < 10 ? "%.2f %s/s" : "%.0f %s/s", rate, b->unit);
}

static void draw(struct bar *b, const char *what, uint64_t done, uint64_t total, double seconds)
{
    char cells[BAR_CELLS + 1], rate[48], line[256], left[32] = "";
    double share = total ? (double)done / (double)total : 0;
    size_t filled = (size_t)(share * BAR_CELLS), columns = MIN(terminal_columns(), sizeof line) - 1;
    for (size_t i = 0; i < BAR_CELLS; i++)
        cells[i] = i < filled ? '#' : '.';
    cells[BAR_CELLS] = 0;
    format_rate(rate, sizeof rate, b, done, seconds);
    if (share > 0 && share < 1) {
        double rest = seconds / share - seconds;
        snprintf(left, sizeof left, "  %d:%02d left", (int)rest / 60, (int)rest % 60);
    }
    snprintf(line, sizeof line, "%s [%s] %3.0f%%  %s%s  %.60s", b->label, cells, 100 * share, rate, left, what ? what : "");
    size_t n = MIN(strlen(line), columns);
    fprintf(stderr, "\r%.*s%*s", (int)n, line, (int)(b->width > n ? b->width - n : 0), "");
    fflush(stderr);
    b->width = n;
}

void bar_update(struct bar *b, const char *what, uint64_t done, uint64_t total)
{
    uint64_t now = clock_ns();
    double seconds = (double)(now - b->begin_ns) * 1e-9;
    if (common.quiet || !b->is_open || !total)
        return;
    done = MIN(done, total);
    if (isatty(STDERR_FILENO)) {
        if (done < total && now - b->last_ns < REDRAW_NS)
            return;
        b->last_ns = now;
        draw(b, what, done, total, seconds);
        return;
    }
    int quarter = (int)(4.0 * (double)done / (double)total);
    if (quarter > b->last_quarter && seconds > PATIENCE_S) {
        char rate[48];
        format_rate(rate, sizeof rate, b, done, seconds);
        fprintf(stderr, "%s: %d%%, %.1f s, %s\n", b->label, quarter * 25, seconds, rate);
        b->last_quarter = quarter;
    }
}

void bar_close(struct bar *b)
{
    if (b->is_open && b->width)
        fprintf(stderr, "\r%*s\r", (int)b->width, "");
    b->is_open = false;
}

static void on_progress(const char *what, uint64_t done, uint64_t total, void *arg)
{
    bar_update(arg, what, done, total);
}

struct progress bar_progress(struct bar *b)
{
    return (struct progress){ .fn = on_progress, .arg = b };
}

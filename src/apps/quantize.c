/* quantize.c: hearth quantize IN.gguf OUT.gguf TYPE: the same model with other types of weights.
 *
 * TYPE is a mix, which chooses a type per tensor as the usual tools do (Q4_K_M), or a plain type. Tensors whose
 * rows are no multiple of the type's block get the type that the usual tools fall back to; how many is said.
 */
#include "apps/apps.h"

#include <string.h>

struct quantize_cli {
    size_t n_threads;
};
static const struct option options[] = {
    { "threads", 0, OPT_SIZE, offsetof(struct quantize_cli, n_threads), "N", "threads (one per CPU, or HEARTH_THREADS)", 1, LIMIT_THREADS },
};

/* "Q4_0, Q4_1, ..." of all mixes. */
static const char *all_mixes(void)
{
    static char text[1024];
    text[0] = 0;
    for (const char *const *n = mix_names(); *n; n++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s%s", text[0] ? " " : "", *n);
    return text;
}

int verb_quantize(int argc, char **argv)
{
    struct quantize_cli o = { 0 };
    char details[1200];
    snprintf(details, sizeof details, "TYPE is one of\n  %s", all_mixes());
    const struct command c = {
        "quantize", "IN.gguf OUT.gguf TYPE", "Writes a model with other types of weights.", details,
        { { "Options", options, ARRAY_LEN(options), &o } }, 3, 3,
    };
    struct quantize_stats stats = { 0 };
    struct bar bar;
    struct err e = { 0 };
    size_t n_args;
    int code = options_parse(&c, argc, argv, &n_args);
    if (code >= 0)
        return code;
    const struct mix *mix = mix_by_name(argv[2]);
    if (!mix)
        return usage_error("quantize", "no type \"%s\"; there are %s", argv[2], all_mixes());
    interrupts_remove_unfinished(argv[1]);
    bar_open(&bar, "quantize", "B");
    enum hearth_status st = quantize_model(argv[0], argv[1], mix, o.n_threads, bar_progress(&bar), &stats, &e);
    bar_close(&bar);
    if (st != HEARTH_OK)
        return fail("quantize", st, &e);
    if (!common.quiet) {
        printf("%s: %s, before %s; %zu of %zu tensors converted (%s)", argv[1], human_bytes(stats.bytes_out), human_bytes(stats.bytes_in),
               stats.n_converted, stats.n_tensors, mix_name(mix));
        if (stats.n_fell_back)
            printf("; %zu of them fell back to another type: their rows are no multiple of the block", stats.n_fell_back);
        printf("\n");
    }
    return finish_output("quantize", EXIT_DONE);
}

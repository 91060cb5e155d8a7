/* make_model.c: hearth make-model OUT.gguf: seeded random weights at real shapes.
 *
 * Speed, memory and agreement with other engines depend on the shape of a model, not on what it knows. A file
 * made here has the shape, the types and, with --vocab, the vocabulary of a real model, and says nothing
 * sensible. The same options give the same bytes on every machine.
 */
#include "apps/apps.h"

#include <string.h>
#include <sys/stat.h>

struct make_cli {
    struct make_model_options m;
    const char *type;
};
#define M(field) offsetof(struct make_cli, m.field)
static const struct option options[] = {
    { "arch", 0, OPT_STR, M(arch), "A", "llama phi3 qwen2 qwen3 gemma2 gemma3 opt gpt-postln (the shape's)" },
    { "shape", 0, OPT_STR, M(shape), "NAME", "a shape from the list above" },
    { "type", 0, OPT_STR, offsetof(struct make_cli, type), "T", "a type or mix, as for hearth quantize (F16)" },
    { "vocab", 0, OPT_STR, M(vocab), "FILE", "take the vocabulary of this GGUF or tokenizer file" },
    { "seed", 0, OPT_SIZE, M(seed), "N", "seed of the weights (0)", 0, 4294967295.0 },
};
static const struct option numbers[] = {
    { "layers", 0, OPT_SIZE, M(n_layers), "N", "layers", 1, LIMIT_LAYERS },
    { "embd", 0, OPT_SIZE, M(n_embd), "N", "width", 1, LIMIT_EMBD },
    { "heads", 0, OPT_SIZE, M(n_heads), "N", "query heads", 1, LIMIT_HEADS },
    { "kv-heads", 0, OPT_SIZE, M(n_kv_heads), "N", "key and value heads", 1, LIMIT_HEADS },
    { "head-dim", 0, OPT_SIZE, M(head_dim), "N", "width of a head", 1, LIMIT_HEAD_DIM },
    { "ff", 0, OPT_SIZE, M(n_ff), "N", "width of the feed-forward", 1, LIMIT_FF },
    { "vocab-size", 0, OPT_SIZE, M(n_vocab), "N", "tokens of the synthetic vocabulary", 1, LIMIT_VOCAB },
    { "ctx", 0, OPT_SIZE, M(n_ctx), "N", "context length", 1, LIMIT_CONTEXT },
    { "window", 0, OPT_SIZE, M(window), "N", "sliding window", 1, LIMIT_CONTEXT },
    { "untied", 0, OPT_FLAG, M(untied), NULL, "an output matrix of its own" },
};

static const char *details(void)
{
    static char text[1024];
    size_t column = 0;
    snprintf(text, sizeof text, "Shapes:");
    for (const char *const *n = make_model_shapes(); *n; n++) {
        bool wraps = column == 0 || column + strlen(*n) > 90;
        snprintf(text + strlen(text), sizeof text - strlen(text), wraps ? "\n  %s" : " %s", *n);
        column = (wraps ? 2 : column + 1) + strlen(*n);
    }
    return text;
}

int verb_make_model(int argc, char **argv)
{
    struct make_cli o = { .type = "F16" };
    const struct command c = {
        "make-model", "OUT.gguf", "Makes a model of random weights at a real shape, for measurements.", details(),
        { { "Options", options, ARRAY_LEN(options), &o }, { "Numbers in place of the shape's", numbers, ARRAY_LEN(numbers), &o } },
        1, 1,
    };
    struct bar bar;
    struct err e = { 0 };
    struct stat st_out;
    size_t n_args;
    int code = options_parse(&c, argc, argv, &n_args);
    if (code >= 0)
        return code;
    if (!(o.m.type = mix_by_name(o.type)))
        return usage_error("make-model", "--type: no type \"%s\"", o.type);
    interrupts_remove_unfinished(argv[0]);
    bar_open(&bar, "make-model", "B");
    enum hearth_status st = make_model(argv[0], &o.m, bar_progress(&bar), &e);
    bar_close(&bar);
    if (st == HEARTH_EINVAL)
        return usage_error("make-model", "%s", e.text);
    if (st != HEARTH_OK)
        return fail("make-model", st, &e);
    if (!common.quiet && stat(argv[0], &st_out) == 0)
        printf("%s: %s\n", argv[0], human_bytes((uint64_t)st_out.st_size));
    return finish_output("make-model", EXIT_DONE);
}

/* convert.c: hearth convert DIR|FILE OUT.gguf: checkpoints of other programs to GGUF.
 *
 * Sources are Hugging Face folders (config.json, safetensors, tokenizer files) and llama2.c checkpoints with
 * their tokenizer.bin. The output appears whole or not at all; Ctrl-C removes what was begun.
 */
#include "apps/apps.h"

#include <string.h>
#include <sys/stat.h>

struct convert_cli {
    const char *tokenizer, *type, *name;
};
static const struct option options[] = {
    { "tokenizer", 0, OPT_STR, offsetof(struct convert_cli, tokenizer), "FILE", "tokenizer.bin of llama2.c, or a vocabulary's file or folder" },
    { "type", 0, OPT_STR, offsetof(struct convert_cli, type), "T", "type of the matrices: F32, F16, BF16, Q8_0 ... (as the source)" },
    { "name", 0, OPT_STR, offsetof(struct convert_cli, name), "NAME", "name written into the file" },
};

int verb_convert(int argc, char **argv)
{
    struct convert_cli o = { 0 };
    const struct command c = {
        "convert", "DIR|FILE OUT.gguf", "Converts a checkpoint to GGUF.",
        "DIR is a Hugging Face folder: config.json, safetensors and tokenizer files. FILE is a llama2.c checkpoint,\n"
        "with --tokenizer tokenizer.bin.",
        { { "Options", options, ARRAY_LEN(options), &o } }, 2, 2,
    };
    struct convert_options co = { .type = TYPE_COUNT };
    struct bar bar;
    struct err e = { 0 };
    struct stat st_out;
    size_t n_args;
    int code = options_parse(&c, argc, argv, &n_args);
    if (code >= 0)
        return code;
    if (o.type && (co.type = type_by_name(o.type)) == TYPE_COUNT)
        return usage_error("convert", "--type: no type \"%s\"", o.type);
    co.tokenizer = o.tokenizer;
    co.name = o.name;
    interrupts_remove_unfinished(argv[1]);
    bar_open(&bar, "convert", "B");
    enum hearth_status st = convert_model(argv[0], argv[1], &co, bar_progress(&bar), &e);
    bar_close(&bar);
    if (st != HEARTH_OK)
        return fail("convert", st, &e);
    if (!common.quiet && stat(argv[1], &st_out) == 0)
        printf("%s: %s\n", argv[1], human_bytes((uint64_t)st_out.st_size));
    return finish_output("convert", EXIT_DONE);
}

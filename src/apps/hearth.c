/* hearth.c: the command line: finds the verb and calls it.
 *
 * Exit codes: 0 done, 1 failed, 2 usage, 3 unsupported or damaged input, 4 refused by a limit, 130
 * interrupted. Options stand behind the verb, so that "hearth run --help" and "hearth help run" are the same
 * text, made from the verb's own table (options.c).
 */
#include "apps/apps.h"

#include <string.h>

struct verb {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *summary;
};

static const struct verb verbs[] = {
    { "run", verb_run, "answer one prompt" },
    { "chat", verb_chat, "hold a conversation" },
    { "inspect", verb_inspect, "what a model file holds and needs" },
    { "tokenize", verb_tokenize, "text to tokens" },
    { "render", verb_render, "the prompt a chat template makes of messages" },
    { "perplexity", verb_perplexity, "how well a model predicts a text" },
    { "convert", verb_convert, "checkpoints of other programs to GGUF" },
    { "quantize", verb_quantize, "a smaller model file from a larger one" },
    { "pack", verb_pack, "a model file that starts at once" },
    { "make-model", verb_make_model, "random weights at real shapes, for measurements" },
    { "bench", verb_bench, "speed, as a share of what the machine can do" },
};

static void print_overview(FILE *f)
{
    fprintf(f, "Usage: hearth VERB [OPTION ...] ARGUMENT ...\n\nRuns language models on this machine.\n\n");
    for (size_t i = 0; i < ARRAY_LEN(verbs); i++)
        fprintf(f, "  %-12s %s\n", verbs[i].name, verbs[i].summary);
    fprintf(f, "\n  hearth help VERB   all about one verb\n  hearth --version   the version\n\n"
               "Environment: HEARTH_THREADS, HEARTH_AFFINITY (0,2-5), HEARTH_POWER (percent),\n"
               "HEARTH_CPU (ref, avx2, ...), HEARTH_HOME, HEARTH_PACK_ABOVE, NO_COLOR.\n"
               "Exit codes: 0 done, 1 failed, 2 usage, 3 unsupported or damaged input,\n"
               "4 refused by a limit, 130 interrupted.\n");
}

static const struct verb *find_verb(const char *name)
{
    const char *names[ARRAY_LEN(verbs)], *near;
    for (size_t i = 0; i < ARRAY_LEN(verbs); i++) {
        if (strcmp(verbs[i].name, name) == 0)
            return &verbs[i];
        names[i] = verbs[i].name;
    }
    near = nearest_name(name, names, ARRAY_LEN(verbs));
    if (near)
        fprintf(stderr, "hearth: no verb \"%s\", did you mean \"%s\"?\nTry: hearth help\n", name, near);
    else
        fprintf(stderr, "hearth: no verb \"%s\"\nTry: hearth help\n", name);
    return NULL;
}

static int help(int argc, char **argv)
{
    static char ask[] = "--help";
    if (argc < 2) {
        print_overview(stdout);
        return finish_output("help", EXIT_DONE);
    }
    const struct verb *v = find_verb(argv[1]);
    if (!v)
        return EXIT_USAGE;
    char *args[] = { argv[1], ask, NULL };
    return v->run(2, args);
}

int main(int argc, char **argv)
{
    const char *word = argc > 1 ? argv[1] : NULL;
    if (!word) {
        print_overview(stderr);
        return EXIT_USAGE;
    }
    if (strcmp(word, "--version") == 0 || strcmp(word, "version") == 0) {
        printf("hearth %s\n", hearth_version());
        return finish_output("version", EXIT_DONE);
    }
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0)
        return help(argc - 1, argv + 1);
    const struct verb *v = find_verb(word);
    return v ? v->run(argc - 1, argv + 1) : EXIT_USAGE;
}

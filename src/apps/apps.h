/* apps.h: what the verbs of the command line share.
 *
 * hearth.c looks a verb up and calls it; a verb parses its options (options.c), calls the libraries and
 * prints. What a person sees while waiting is progress.c; a model with its tokenizer, template and context
 * held together for a conversation is session.c. A verb returns an exit code, never calls exit().
 *
 * stdout carries results only; messages, progress and timings go to stderr.
 */
#ifndef HEARTH_APPS_H
#define HEARTH_APPS_H

#include "context/context.h"
#include "quantize/quantize.h"

enum exit_code { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_INPUT = 3, EXIT_LIMIT = 4, EXIT_INTERRUPTED = 130 };
enum exit_code exit_of(enum hearth_status st);

/* ---- options (options.c) ---- */

enum option_kind {
    OPT_FLAG,   /* bool, becomes true */
    OPT_STR,    /* const char * */
    OPT_MAYBE,  /* const char *: --name gives "", --name=value the value */
    OPT_LIST,   /* struct str_list: may be given several times */
    OPT_SIZE,   /* size_t in [lo, hi] */
    OPT_U64,    /* uint64_t and, behind it, a bool that says it was given: struct opt_u64 */
    OPT_INT,    /* int32_t in [lo, hi] */
    OPT_FLOAT,  /* float in [lo, hi] */
    OPT_CHOICE, /* int: index into choices */
};
struct opt_u64 {
    uint64_t value;
    bool is_given;
};
enum { STR_LIST_MAX = 16 };
struct str_list {
    const char *v[STR_LIST_MAX];
    size_t n;
};

struct option {
    const char *name; /* long name without dashes */
    char letter;      /* 0: none */
    enum option_kind kind;
    size_t offset;   /* of the value in the group's struct */
    const char *arg; /* placeholder in the help; NULL for flags */
    const char *help;
    double lo, hi;
    const char *const *choices; /* NULL-terminated */
};
struct option_group {
    const char *title; /* heading in the help */
    const struct option *options;
    size_t n_options;
    void *base; /* the struct that offsets point into */
};
enum { GROUPS_MAX = 4 };
struct command {
    const char *verb;
    const char *args;    /* "MODEL [PROMPT ...]" */
    const char *summary; /* one line */
    const char *details; /* paragraphs of the help, may be NULL */
    struct option_group groups[GROUPS_MAX];
    size_t min_args, max_args;
};
/* What every verb understands. */
struct common_options {
    bool quiet, help;
};
extern struct common_options common;

/* Sorts argv into options (stored through the groups) and positional arguments (moved to the front of argv,
 * counted in *n_args). Returns -1 to go on, or the exit code to return at once: 0 after --help, 2 after a
 * usage error that has been printed. */
int options_parse(const struct command *c, int argc, char **argv, size_t *n_args);
/* Sets one option from text, as options_parse does: for "/set NAME VALUE". false with a sentence in e. */
bool option_set(const struct option *o, void *base, const char *value, struct err *e);
/* The name nearest to `name` among n names, NULL when none is near. */
const char *nearest_name(const char *name, const char *const *names, size_t n);
/* Writes one option's current value as text ("0.8", "on"). */
void option_show(const struct option *o, const void *base, char *out, size_t size);

/* ---- messages (terminal.c) ---- */

/* "hearth run: SENTENCE" on stderr; returns the exit code of the status. */
enum exit_code fail(const char *verb, enum hearth_status st, const struct err *e);
/* The same for a mistake on the command line; adds where help is. */
enum exit_code usage_error(const char *verb, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* stdout flushed and written without error? Otherwise says so and returns EXIT_FAILED. */
enum exit_code finish_output(const char *verb, enum exit_code code);

/* May colours go to this stream? Not when NO_COLOR is set, it is no terminal, or TERM is dumb. */
bool use_colour(FILE *f);
/* Text from a file or a model for people: on a terminal, control characters other than newline and tab are
 * left out, so that no model can steer the terminal; elsewhere the bytes go out as they are. */
void print_text(FILE *f, const char *s, size_t n);

/* Streams the pieces of an answer to stdout; arg: a struct printer. Behind a template the white space before the
 * first word is left out (skip_space); last is the last byte printed, 0 before any. */
struct printer {
    bool skip_space;
    char last;
};
void print_piece(const char *text, size_t n, void *arg);
/* A string of a file on one line: control characters and bytes that are no UTF-8
 * as \xNN, cut after max bytes with "...". */
void print_quoted(FILE *f, struct str s, size_t max);
/* Bytes as a JSON string; where they are no UTF-8 each byte above 127 becomes the character of that number. */
json_t *text_to_json(struct str s);
/* "1.3 GB" (decimal), in one of eight static buffers. */
const char *human_bytes(uint64_t n);
/* All of stdin, at most max_bytes, into out. */
MUST_CHECK enum hearth_status read_stdin(struct buf *out, size_t max_bytes, struct err *e);

/* Ctrl-C: the first sets *interrupted(), the second ends the process at once with 130. `unlink_path`, when
 * not NULL, is an unfinished output file that a Ctrl-C ends at once and removes. */
atomic_int *interrupts_catch(void);
int interrupts_fd(void); /* becomes readable with the first Ctrl-C; for poll(2) */
void interrupts_clear(void); /* the answer is stopped; the next Ctrl-C is a first one again */
void interrupts_remove_unfinished(const char *out_path); /* NULL: there is none any more */

/* ---- progress (progress.c) ---- */

/* A bar on a terminal; elsewhere a line at each quarter; nothing with --quiet. */
struct bar {
    const char *label, *unit; /* unit "B": bytes with a rate; else things per second */
    uint64_t begin_ns, last_ns;
    int last_quarter;
    size_t width; /* of the text on the line now */
    bool is_open;
};
void bar_open(struct bar *b, const char *label, const char *unit);
void bar_update(struct bar *b, const char *what, uint64_t done, uint64_t total);
void bar_close(struct bar *b); /* wipes the line */
struct progress bar_progress(struct bar *b); /* the callback of quantize.h on this bar */

/* ---- packs made on the side (packs.c) ---- */

/* gguf_open for verbs that run a model: a large plain GGUF is opened by its pack in the cache, which is made when there is
 * none and the disk has room. Whatever is wrong with the pack, the plain file opens. Statuses of gguf_open, ECANCELLED. */
MUST_CHECK enum hearth_status packs_open(struct gguf *g, const char *path, bool no_pack, size_t n_threads, struct arena *a, struct err *e);

/* ---- a model held for a conversation (session.c) ---- */

struct session_options {
    size_t n_ctx;     /* 0: what the model was trained for, at most 4096 */
    size_t n_threads, power; /* 0: HEARTH_THREADS or the CPUs of this process; HEARTH_POWER or 100 */
    const char *affinity;    /* NULL: HEARTH_AFFINITY, or the engine's choice */
    int kv_type;      /* enum kv_type */
    const char *chat_template; /* a file that replaces the model's own, NULL: none */
    bool raw;         /* no template */
    bool no_pack;     /* never look for a pack or make one */
};
/* A place where the ids of a text can be cut: the end of a prompt or of an answer. */
struct cut {
    size_t text_len, n_ids;
};
struct session {
    const char *path;
    struct arena arena;
    struct gguf gguf;
    struct vocab vocab;
    struct tokenizer *tokenizer;
    struct template *template; /* NULL: none, or raw */
    struct str_list stop;      /* strings that end an answer of this model where no token does; none when raw */
    struct engine *engine;
    struct context *context;
    size_t n_ctx;
    struct memory_plan plan;
    size_t predicted_bytes; /* of the whole process: what it held before the weights, and the plan */
    uint64_t load_ns;
    const char *bos_text, *eos_text; /* for templates */
    /* The conversation so far as rendered text and the ids that stand for it, cut after cut. */
    struct buf history_text;
    struct ids history_ids;
    struct cut *cuts;
    size_t n_cuts, cap_cuts;
};
MUST_CHECK enum hearth_status session_open(struct session *s, const char *path, const struct session_options *o, struct err *e);
void session_close(struct session *s); /* accepts a closed or zeroed one */

enum { RAW_NO_BOS = 1, RAW_SPECIAL = 2 }; /* RAW_SPECIAL: control tokens written in the text count */
/* The ids of plain text, BOS in front as the vocabulary wants it. */
MUST_CHECK enum hearth_status session_encode_raw(struct session *s, const char *text, size_t n, unsigned flags, struct ids *out, struct err *e);
/* The ids of a conversation through the template (without one: the texts joined), message texts untrusted.
 * As far as the rendered text begins like the history, the ids of the history are kept up to a cut: a model's
 * own answer does not always tokenise back to the ids it was made of. */
MUST_CHECK enum hearth_status session_encode_chat(struct session *s, json_t *messages, struct ids *out, struct err *e);

struct generate_options {
    struct sampler_params sampling;
    size_t n_max;         /* 0: until the end or the context is full */
    size_t n_draft;       /* tokens guessed ahead in a step, at most; changes nothing but the time */
    struct str_list stop; /* strings that end the answer, not part of it */
    const struct grammar *grammar; /* the answer is one of its texts, as far as it comes; NULL: none */
};
enum finish_reason { FINISH_STOP, FINISH_LENGTH, FINISH_CONTEXT, FINISH_INTERRUPTED };
const char *finish_name(enum finish_reason r); /* "stop", "length", "context", "interrupted" */
struct generated {
    struct ids ids;  /* without the end-of-generation token */
    struct buf text; /* whole characters, without the stop string */
    enum finish_reason reason;
    size_t n_prompt, n_kept; /* tokens of the prompt; how many of them needed no computing */
    size_t n_steps;          /* tokens computed after the prompt */
    uint64_t n_drafted, n_accepted; /* of the tokens computed ahead; those that the answer took */
    uint64_t prompt_ns, decode_ns;
};
void generated_init(struct generated *g);
void generated_free(struct generated *g);
typedef void (*text_sink)(const char *text, size_t n, void *arg);
/* Makes the context equal to the prompt, then generates. Text goes to the sink as soon as it is certain: whole
 * characters, nothing that may yet become a stop string. *cancel ends it: FINISH_INTERRUPTED and HEARTH_OK.
 * ELIMIT when the prompt does not fit the context, or when no token fits the grammar. */
MUST_CHECK enum hearth_status session_generate(struct session *s, const struct ids *prompt, const struct generate_options *o,
                                    const atomic_int *cancel, text_sink sink, void *arg, struct generated *out, struct err *e);
double per_second(size_t n, uint64_t ns);
void print_timings(const struct session *s, const struct generated *g); /* on stderr */

/* Options that several verbs share. */
#define AFFINITY_HELP "keep each thread on a CPU, as 0,2-5; none: anywhere (HEARTH_AFFINITY, or fast CPUs)"
#define POWER_HELP "percent of the time that threads may work, for less heat (100, or HEARTH_POWER)"
struct sampling_options {
    float temp, top_p, min_p, repeat_penalty, presence_penalty, frequency_penalty;
    int32_t top_k;
    size_t repeat_last_n, n_max, n_draft;
    struct opt_u64 seed;
    struct str_list stop;
};
extern const struct option sampling_table[], session_table[];
enum { N_SAMPLING_OPTIONS = 12, N_SESSION_OPTIONS = 7 };
void sampling_options_init(struct sampling_options *o);
/* A random seed is chosen unless one was given. */
void sampling_apply(struct generate_options *g, const struct sampling_options *o);

/* ---- verbs: argv[0] is the verb ---- */

int verb_run(int argc, char **argv);
int verb_chat(int argc, char **argv);
int verb_inspect(int argc, char **argv);
int verb_tokenize(int argc, char **argv);
int verb_render(int argc, char **argv);
int verb_perplexity(int argc, char **argv);
int verb_convert(int argc, char **argv);
int verb_quantize(int argc, char **argv);
int verb_make_model(int argc, char **argv);
int verb_pack(int argc, char **argv);
int verb_bench(int argc, char **argv);

#endif

/* inspect.c: hearth inspect FILE: what a GGUF holds, what it would need, and what is missing for it to run.
 *
 * Reads the directory only, never a weight. Everything shown comes from the file and is escaped, since a file
 * may say anything. Shape numbers are read straight from the metadata, so that a model of an unknown
 * architecture can be looked at too; whether it runs is the engine's own answer (engine_plan), not a second
 * list kept here.
 */
#include "apps/apps.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct inspect_options {
    bool tensors, keys;
    int format;
    size_t n_ctx;
    int kv;
};
static const char *const formats[] = { "text", "json", NULL };
static const char *const kv_names[] = { "f16", "f32", NULL };
static const struct option options[] = {
    { "tensors", 't', OPT_FLAG, offsetof(struct inspect_options, tensors), NULL, "list every tensor" },
    { "keys", 'k', OPT_FLAG, offsetof(struct inspect_options, keys), NULL, "list every metadata key" },
    { "format", 0, OPT_CHOICE, offsetof(struct inspect_options, format), "text|json", "json holds everything", 0, 0, formats },
    { "ctx", 0, OPT_SIZE, offsetof(struct inspect_options, n_ctx), "N", "context length to predict memory for", 1, LIMIT_CONTEXT },
    { "kv", 0, OPT_CHOICE, offsetof(struct inspect_options, kv), "f16|f32", "type of K/V to predict memory for", 0, 0, kv_names },
};

struct inspection {
    struct gguf g;
    struct vocab vocab;
    enum hearth_status vocab_status, plan_status;
    struct err vocab_err, plan_err;
    struct memory_plan plan;
    size_t n_ctx;
    uint64_t n_params, tensor_bytes;
    struct { size_t n; uint64_t bytes; } types[2 * TYPE_COUNT]; /* strips behind the rows */
};

/* The type number that an entry of types[] counts. */
static uint32_t type_at(size_t i)
{
    return (uint32_t)(i < TYPE_COUNT ? i : i - TYPE_COUNT + TYPE_R8);
}

static const char *const vocab_kinds[] = {
    [VOCAB_NONE] = "none", [VOCAB_SPM] = "SentencePiece BPE", [VOCAB_BPE] = "byte-level BPE",
    [VOCAB_WPM] = "WordPiece", [VOCAB_UGM] = "unigram", [VOCAB_CHAR] = "characters",
};
static const char *const kind_names[GGUF_KIND_COUNT] = { "u8", "i8", "u16", "i16", "u32", "i32", "f32",
                                                         "bool", "string", "array", "u64", "i64", "f64" };

/* The value of "ARCH.NAME", 0 when absent or not a number. */
static uint64_t shape(const struct gguf *g, const char *name)
{
    char key[LIMIT_GGUF_KEY_BYTES];
    struct str arch;
    uint64_t v = 0;
    if (gguf_get_str(g, "general.architecture", &arch, NULL) != HEARTH_OK)
        return 0;
    snprintf(key, sizeof key, "%.*s.%s", STR_FMT(arch), name);
    return gguf_get_u64(g, key, 0, UINT64_MAX, &v, NULL) == HEARTH_OK ? v : 0;
}

/* A file without tensors is a vocabulary: there is nothing that could be missing. */
static bool is_vocabulary_only(const struct inspection *in)
{
    return in->g.n_tensors == 0;
}

static enum hearth_status look(struct inspection *in, const char *path, const struct inspect_options *o, struct arena *a, struct err *e)
{
    enum hearth_status st = gguf_open(&in->g, path, a, e);
    if (st != HEARTH_OK)
        return st;
    for (size_t i = 0; i < in->g.n_tensors; i++) {
        const struct gguf_tensor *t = &in->g.tensors[i];
        uint64_t n = t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3]; /* tensor_extent has tested the product */
        in->n_params += n;
        in->tensor_bytes += t->size_bytes;
        size_t at = t->type < TYPE_COUNT ? t->type : t->type - TYPE_R8 + TYPE_COUNT;
        CHECK(at < ARRAY_LEN(in->types)); /* tensor_extent knows the type */
        in->types[at].n++;
        in->types[at].bytes += t->size_bytes;
    }
    in->vocab_status = vocab_from_gguf(&in->vocab, &in->g, a, &in->vocab_err);
    uint64_t trained = shape(&in->g, "context_length");
    in->n_ctx = o->n_ctx ? o->n_ctx : MIN(trained ? (size_t)trained : 4096, 4096);
    if (!is_vocabulary_only(in)) {
        struct engine_options eo = { .kv_type = (enum kv_type)o->kv };
        in->plan_status = engine_plan(&in->plan, &in->g, &eo, in->n_ctx, &in->plan_err);
    }
    return HEARTH_OK;
}

/* What stops the model from running here; NULL when nothing does. */
static const char *what_is_missing(const struct inspection *in)
{
    if (in->plan_status != HEARTH_OK)
        return in->plan_err.text;
    return in->vocab_status != HEARTH_OK ? in->vocab_err.text : NULL;
}

/* ---- text ---- */

static void print_value(const struct gguf_kv *kv)
{
    struct gguf_strings strings;
    switch (kv->kind) {
    case GGUF_U8: case GGUF_U16: case GGUF_U32: case GGUF_U64:
        printf("%" PRIu64, kv->v.u);
        break;
    case GGUF_I8: case GGUF_I16: case GGUF_I32: case GGUF_I64:
        printf("%" PRId64, kv->v.i);
        break;
    case GGUF_F32: case GGUF_F64:
        printf("%.9g", kv->v.f);
        break;
    case GGUF_BOOL:
        printf("%s", kv->v.b ? "true" : "false");
        break;
    case GGUF_STRING:
        printf("\"");
        print_quoted(stdout, kv->v.s, 120);
        printf("\"");
        break;
    case GGUF_ARRAY:
        printf("%zu x %s", kv->v.a.count, kind_names[kv->v.a.kind]);
        strings = gguf_strings(&kv->v.a);
        for (size_t i = 0; kv->v.a.kind == GGUF_STRING && i < MIN(kv->v.a.count, 6u); i++) {
            printf(i ? ", \"" : ": \"");
            print_quoted(stdout, gguf_next_string(&strings), 20);
            printf("\"");
        }
        break;
    case GGUF_KIND_COUNT:
        break;
    }
}

static void print_tensors(const struct gguf *g)
{
    printf("\n%-40s %-10s %-20s %s\n", "tensor", "type", "shape", "size");
    for (size_t i = 0; i < g->n_tensors; i++) {
        const struct gguf_tensor *t = &g->tensors[i];
        const char *type = type_info(t->type)->name;
        char dims[96];
        int n = 0;
        for (uint32_t d = 0; d < t->n_dims; d++)
            n += snprintf(dims + n, sizeof dims - (size_t)n, d ? " x %" PRIu64 : "%" PRIu64, t->dims[d]);
        print_quoted(stdout, t->name, LIMIT_GGUF_NAME_BYTES);
        printf("%*s %-10s %-20s %s\n", t->name.n < 40 ? (int)(40 - t->name.n) : 0, "", type ? type : "?", dims,
               human_bytes(t->size_bytes));
    }
}

static void print_shape(const struct inspection *in)
{
    const struct gguf *g = &in->g;
    uint64_t n_heads = shape(g, "attention.head_count"), n_embd = shape(g, "embedding_length");
    uint64_t n_kv = shape(g, "attention.head_count_kv"), head_dim = shape(g, "attention.key_length");
    printf("parameters    %.4g million\n", (double)in->n_params * 1e-6);
    printf("shape         %" PRIu64 " layers, width %" PRIu64 ", feed-forward %" PRIu64 ", %" PRIu64 " heads of %" PRIu64
           " (%" PRIu64 " for K/V)\n",
           shape(g, "block_count"), n_embd, shape(g, "feed_forward_length"), n_heads,
           head_dim ? head_dim : n_heads ? n_embd / n_heads : 0, n_kv ? n_kv : n_heads);
    printf("context       trained for %" PRIu64 " tokens\n", shape(g, "context_length"));
    printf("weights       %s:", human_bytes(in->tensor_bytes));
    for (size_t i = 0, n = 0; i < ARRAY_LEN(in->types); i++)
        if (in->types[i].n)
            printf("%s %zu %s %s", n++ ? "," : "", in->types[i].n, type_info(type_at(i))->name, human_bytes(in->types[i].bytes));
    printf("\n");
}

static void print_vocab(const struct inspection *in)
{
    const struct vocab *v = &in->vocab;
    if (in->vocab_status != HEARTH_OK) {
        printf("vocabulary    none that can be used: %s\n", in->vocab_err.text);
        return;
    }
    printf("vocabulary    %s, %zu tokens", vocab_kinds[v->kind], v->n_tokens);
    if (v->pre.n) {
        printf(", pre-split ");
        print_quoted(stdout, v->pre, 40);
    }
    printf("\ntemplate      ");
    if (v->chat_template.n)
        printf("yes, %zu bytes\n", v->chat_template.n);
    else
        printf("none: the model continues text\n");
}

static void print_report(const struct inspection *in, const char *path, const struct inspect_options *o)
{
    struct str arch = STR("?"), name = STR(""), source = STR("another file");
    uint64_t file_bytes = 0;
    for (size_t i = 0; i < in->g.n_files; i++)
        file_bytes += in->g.files[i].size_bytes;
    (void)gguf_get_str(&in->g, "general.architecture", &arch, NULL);
    (void)gguf_get_str(&in->g, "general.name", &name, NULL);
    (void)gguf_get_str(&in->g, "hearth.source.path", &source, NULL);
    printf("file          %s: %s, GGUF v%" PRIu32, path, human_bytes(file_bytes), in->g.version);
    printf(in->g.n_files > 1 ? ", %zu files\nname          " : "\nname          ", in->g.n_files);
    print_quoted(stdout, name, 100);
    if (in->g.is_pack) {
        printf("\npack of       ");
        print_quoted(stdout, source, 200);
    }
    printf("\narchitecture  ");
    print_quoted(stdout, arch, 60);
    printf("\n");
    if (!is_vocabulary_only(in))
        print_shape(in);
    print_vocab(in);
    if (is_vocabulary_only(in))
        printf("supported     vocabulary only: for tokenize, render and make-model\n");
    else if (what_is_missing(in))
        printf("supported     no: %s\n", what_is_missing(in));
    else {
        printf("memory        weights %s + K/V %s (%zu tokens, %s) + scratch %s = %s\n",
               human_bytes(in->plan.weight_bytes), human_bytes(in->plan.kv_bytes), in->n_ctx, kv_names[o->kv],
               human_bytes(in->plan.scratch_bytes), human_bytes(in->plan.total_bytes));
        printf("supported     yes\n");
    }
    if (o->keys)
        printf("\n");
    for (size_t i = 0; o->keys && i < in->g.n_kvs; i++) {
        print_quoted(stdout, in->g.kvs[i].key, LIMIT_GGUF_KEY_BYTES);
        printf(" = ");
        print_value(&in->g.kvs[i]);
        printf("\n");
    }
    if (o->tensors)
        print_tensors(&in->g);
}

/* ---- JSON ---- */

static json_t *json_value(const struct gguf_kv *kv)
{
    switch (kv->kind) {
    case GGUF_U8: case GGUF_U16: case GGUF_U32: case GGUF_U64:
        return kv->v.u <= INT64_MAX ? json_integer((json_int_t)kv->v.u) : json_real((double)kv->v.u);
    case GGUF_I8: case GGUF_I16: case GGUF_I32: case GGUF_I64:
        return json_integer(kv->v.i);
    case GGUF_F32: case GGUF_F64:
        return json_real(kv->v.f); /* NULL for what JSON cannot say */
    case GGUF_BOOL:
        return json_boolean(kv->v.b);
    case GGUF_STRING:
        return text_to_json(kv->v.s);
    case GGUF_ARRAY:
        return json_pack("{s:s, s:I}", "array_of", kind_names[kv->v.a.kind], "count", (json_int_t)kv->v.a.count);
    case GGUF_KIND_COUNT:
        break;
    }
    return NULL;
}

static json_t *json_tensors(const struct gguf *g)
{
    json_t *list = json_array();
    for (size_t i = 0; i < g->n_tensors; i++) {
        const struct gguf_tensor *t = &g->tensors[i];
        json_t *dims = json_array();
        for (uint32_t d = 0; d < t->n_dims; d++)
            json_array_append_new(dims, json_integer((json_int_t)t->dims[d]));
        json_array_append_new(list, json_pack("{s:o, s:s?, s:o, s:I}", "name", text_to_json(t->name), "type",
                                              type_info(t->type)->name, "shape", dims, "bytes", (json_int_t)t->size_bytes));
    }
    return list;
}

static void print_json(const struct inspection *in, const char *path)
{
    const char *missing = is_vocabulary_only(in) ? NULL : what_is_missing(in);
    json_t *root = json_object(), *keys = json_object(), *types = json_object();
    for (size_t i = 0; i < in->g.n_kvs; i++) {
        char key[LIMIT_GGUF_KEY_BYTES + 1];
        snprintf(key, sizeof key, "%.*s", (int)MIN(in->g.kvs[i].key.n, (size_t)LIMIT_GGUF_KEY_BYTES), in->g.kvs[i].key.p);
        json_t *v = json_value(&in->g.kvs[i]);
        json_object_set_new(keys, key, v ? v : json_null());
    }
    for (size_t i = 0; i < ARRAY_LEN(in->types); i++)
        if (in->types[i].n)
            json_object_set_new(types, type_info(type_at(i))->name, json_integer((json_int_t)in->types[i].bytes));
    json_object_set_new(root, "file", text_to_json((struct str){ path, strlen(path) }));
    json_object_set_new(root, "gguf_version", json_integer(in->g.version));
    json_object_set_new(root, "files", json_integer((json_int_t)in->g.n_files));
    json_object_set_new(root, "pack", json_boolean(in->g.is_pack));
    json_object_set_new(root, "supported", json_boolean(!missing));
    json_object_set_new(root, "vocabulary_only", json_boolean(is_vocabulary_only(in)));
    json_object_set_new(root, "missing", missing ? text_to_json((struct str){ missing, strlen(missing) }) : json_null());
    json_object_set_new(root, "parameters", json_integer((json_int_t)in->n_params));
    json_object_set_new(root, "weight_bytes_by_type", types);
    if (!missing && !is_vocabulary_only(in))
        json_object_set_new(root, "memory", json_pack("{s:I, s:I, s:I, s:I, s:I}", "context", (json_int_t)in->n_ctx, "weights",
                                                      (json_int_t)in->plan.weight_bytes, "kv", (json_int_t)in->plan.kv_bytes,
                                                      "scratch", (json_int_t)in->plan.scratch_bytes, "total",
                                                      (json_int_t)in->plan.total_bytes));
    if (in->vocab_status == HEARTH_OK)
        json_object_set_new(root, "vocabulary", json_pack("{s:s, s:I, s:b}", "kind", vocab_kinds[in->vocab.kind], "tokens",
                                                          (json_int_t)in->vocab.n_tokens, "has_template",
                                                          in->vocab.chat_template.n > 0));
    json_object_set_new(root, "metadata", keys);
    json_object_set_new(root, "tensors", json_tensors(&in->g));
    json_dumpf(root, stdout, JSON_INDENT(1) | JSON_ENSURE_ASCII);
    printf("\n");
    json_decref(root);
}

int verb_inspect(int argc, char **argv)
{
    struct inspect_options o = { 0 };
    const struct command c = {
        "inspect", "FILE", "Shows what a model file holds, the memory it would need, and what is missing to run it.",
        "Reads the directory of the file only. Exit code 3 when the model cannot run here.",
        { { "Options", options, ARRAY_LEN(options), &o } }, 1, 1,
    };
    struct inspection *in = calloc(1, sizeof *in);
    struct arena a;
    struct err e = { 0 };
    size_t n_args;
    int code = options_parse(&c, argc, argv, &n_args);
    CHECK(in);
    arena_init(&a, 0);
    if (code >= 0)
        goto done;
    enum hearth_status st = look(in, argv[0], &o, &a, &e);
    if (st != HEARTH_OK) {
        code = fail("inspect", st, &e);
        goto done;
    }
    if (o.format)
        print_json(in, argv[0]);
    else
        print_report(in, argv[0], &o);
    code = is_vocabulary_only(in) || !what_is_missing(in) ? EXIT_DONE : EXIT_INPUT;
    code = finish_output("inspect", (enum exit_code)code);
    gguf_close(&in->g);
done:
    arena_free(&a);
    free(in);
    return code;
}

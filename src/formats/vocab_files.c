/* vocab_files.c: vocabularies from a folder or a file as model makers publish them.
 *
 * A folder is looked at in this order: tokenizer.json; tokenizer.model (SentencePiece, or tiktoken's text, told
 * apart by their first line); vocab.json with merges.txt; vocab.json of single characters. Around it stand
 * tokenizer_config.json, special_tokens_map.json, config.json and chat_template.jinja (vocab_apply_config), each of which
 * may be missing: they name the special tokens and say what is put around a text.
 *
 * vocab.json with merges.txt does not say which tokens are special, nor how text is cut. In byte-level BPE a normal
 * token is one byte or the result of a merge; what is neither cannot come out of text, so it is special (when it looks
 * like <...> or [...]) or unused. The pre-split rule follows from tokenizer_class, config.json's model_type or the
 * folder's name; without any of them it is GPT-2's, whose file format this is.
 *
 * Ids beyond the listed tokens (config.json's vocab_size pads many vocabularies) become unused "[PADn]".
 */
#include "formats/vocab_files.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- building ---- */

enum hearth_status build_token(struct vocab_build *b, uint64_t id, struct str text, float score, int type, unsigned flags,
                               struct err *e)
{
    struct vocab *v = b->v;
    if (!text.p)
        return err_set(e, HEARTH_ENOMEM, "%s: no room for its tokens", b->what);
    if (id >= LIMIT_VOCAB)
        return err_set(e, HEARTH_ELIMIT, "%s: token id %llu; at most %u tokens are taken", b->what, (unsigned long long)id,
                       LIMIT_VOCAB);
    if (id >= b->cap) {
        size_t cap = MAX(b->cap * 2, 1024);
        while (cap <= id)
            cap *= 2;
        struct vocab_token *tokens = ARENA_NEW(b->a, struct vocab_token, cap);
        if (!tokens)
            return err_set(e, HEARTH_ENOMEM, "%s: no room for its tokens", b->what);
        if (v->n_tokens)
            memcpy(tokens, v->tokens, v->n_tokens * sizeof *tokens);
        v->tokens = tokens;
        b->cap = cap;
    }
    v->n_tokens = MAX(v->n_tokens, (size_t)id + 1);
    v->tokens[id] = (struct vocab_token){ text, score, (uint8_t)type, (uint8_t)flags };
    return HEARTH_OK;
}

enum hearth_status build_finish(struct vocab_build *b, size_t n_tokens, struct err *e)
{
    n_tokens = MAX(n_tokens, b->v->n_tokens);
    for (size_t i = 0; i < n_tokens; i++) {
        char text[32];
        if (i < b->v->n_tokens && b->v->tokens[i].type)
            continue;
        int n = snprintf(text, sizeof text, "[PAD%zu]", i);
        struct str copy = { arena_strndup(b->a, text, (size_t)n), (size_t)n };
        enum hearth_status st = build_token(b, i, copy, -10000, TOKEN_UNUSED, 0, e);
        if (st != HEARTH_OK)
            return st;
    }
    return HEARTH_OK;
}

int32_t build_find(const struct vocab_build *b, struct str text)
{
    for (size_t i = b->v->n_tokens; i-- > 0;) {
        if (b->v->tokens[i].type && str_eq(b->v->tokens[i].text, text))
            return (int32_t)i;
    }
    return -1;
}

struct str json_text(const json_t *s, struct arena *a)
{
    size_t n = json_string_length(s);
    return (struct str){ arena_strndup(a, json_string_value(s), n), n };
}

const char *path_join(struct arena *a, const char *folder, const char *name)
{
    size_t n = strlen(folder) + strlen(name) + 2;
    char *p = arena_push(a, n, 1, 1);
    if (p)
        snprintf(p, n, "%s/%s", folder, name);
    return p;
}

/* "model_max_length": 1000000000000000019884624838656 stands in very many files and is more than 64 bits, which the JSON
 * parser refuses. Integers of 19 digits and more become the greatest of 18 digits. */
static void shorten_integers(char *text, size_t n)
{
    bool in_string = false;
    for (size_t i = 0; i < n; i++) {
        size_t end = i;
        if (text[i] == '\\' && in_string) {
            i++;
            continue;
        }
        in_string ^= text[i] == '"';
        while (!in_string && end < n && text[end] >= '0' && text[end] <= '9')
            end++;
        if (end == i)
            continue;
        bool is_integer = end == n || (text[end] != '.' && text[end] != 'e' && text[end] != 'E');
        if (end - i >= 19 && is_integer && text[i] != '0' && (i == 0 || (text[i - 1] != '.' && text[i - 1] != '+'))) {
            memset(text + i, '9', 18);
            memset(text + i + 18, ' ', end - i - 18);
        }
        i = end - 1;
    }
}

enum hearth_status json_file(json_t **out, const char *folder, const char *name, struct err *e)
{
    struct arena scratch;
    char *text;
    size_t n;
    const char *path;
    enum hearth_status st;
    *out = NULL;
    arena_init(&scratch, 0);
    path = path_join(&scratch, folder, name);
    if (!path)
        st = err_set(e, HEARTH_ENOMEM, "no room for the name of %s", name);
    else if (access(path, F_OK) != 0)
        st = HEARTH_ENOTFOUND;
    else if ((st = file_read_all(&text, &n, path, LIMIT_VOCAB_FILE_BYTES, &scratch, e)) == HEARTH_OK) {
        shorten_integers(text, n);
        st = json_parse(out, text, n, path, e);
    }
    arena_free(&scratch);
    return st;
}

/* ---- what stands around a vocabulary ---- */

/* "text", or {"content": "text"}. */
static const json_t *special_text(const json_t *config, const char *key)
{
    const json_t *s = json_object_get(config, key);
    return json_is_object(s) ? json_object_get(s, "content") : s;
}

static void set_special(struct vocab_build *b, int32_t *id, const json_t *config, const char *key)
{
    const json_t *s = special_text(config, key);
    if (!json_is_string(s))
        return;
    int32_t found = build_find(b, (struct str){ json_string_value(s), json_string_length(s) });
    if (found >= 0)
        *id = found;
}

static void set_specials(struct vocab_build *b, const json_t *config)
{
    struct vocab *v = b->v;
    set_special(b, &v->bos, config, "bos_token");
    set_special(b, &v->eos, config, "eos_token");
    set_special(b, &v->unk, config, "unk_token");
    set_special(b, &v->pad, config, "pad_token");
    set_special(b, &v->sep, config, "sep_token");
    set_special(b, &v->cls, config, "cls_token");
    set_special(b, &v->mask, config, "mask_token");
}

/* {"151643": {"content": ..., "special": true, ...}, ...} */
static enum hearth_status read_added_decoder(struct vocab_build *b, const json_t *list, struct err *e)
{
    const char *key;
    json_t *item;
    json_object_foreach((json_t *)list, key, item) {
        const json_t *content = json_object_get(item, "content");
        char *end;
        unsigned long long id = strtoull(key, &end, 10);
        unsigned flags = (json_is_true(json_object_get(item, "lstrip")) ? TOKEN_LSTRIP : 0u) |
                         (json_is_true(json_object_get(item, "rstrip")) ? TOKEN_RSTRIP : 0u) |
                         (json_is_true(json_object_get(item, "single_word")) ? TOKEN_SINGLE_WORD : 0u);
        if (*end || end == key || *key == '-' || !json_is_string(content))
            return err_set(e, HEARTH_EDAMAGED, "%s: tokenizer_config.json: added token \"%.40s\" has no id or no content", b->what, key);
        bool is_special = json_is_true(json_object_get(item, "special"));
        float score = id < b->v->n_tokens ? b->v->tokens[id].score : 0;
        enum hearth_status st = build_token(b, id, json_text(content, b->a), score,
                                            is_special ? TOKEN_CONTROL : TOKEN_USER_DEFINED, flags, e);
        if (st != HEARTH_OK)
            return st;
    }
    return HEARTH_OK;
}

static enum hearth_status read_chat_template(struct vocab_build *b, const json_t *config, const char *folder, struct err *e)
{
    const json_t *s = json_object_get(config, "chat_template"), *named;
    size_t i;
    json_t *item;
    const char *path = path_join(b->a, folder, "chat_template.jinja");
    json_array_foreach(s, i, item) { /* [{"name": "default", "template": "..."}, ...] */
        named = json_object_get(item, "name");
        if (json_is_string(named) && strcmp(json_string_value(named), "default") == 0) {
            s = json_object_get(item, "template");
            break;
        }
    }
    if (json_is_string(s)) {
        b->v->chat_template = json_text(s, b->a);
        if (!b->v->chat_template.p)
            return err_set(e, HEARTH_ENOMEM, "%s: no room for its chat template", b->what);
    } else if (path && access(path, F_OK) == 0) {
        char *text;
        size_t n;
        enum hearth_status st = file_read_all(&text, &n, path, LIMIT_TEMPLATE_BYTES, b->a, e);
        if (st != HEARTH_OK)
            return st;
        b->v->chat_template = (struct str){ text, n };
    }
    return HEARTH_OK;
}

static void read_switch(bool *out, const json_t *config, const char *key)
{
    const json_t *s = json_object_get(config, key);
    if (json_is_boolean(s))
        *out = json_is_true(s);
}

/* How many rows the model's embedding has. */
static enum hearth_status read_vocab_size(size_t *n, const char *folder, struct err *e)
{
    json_t *config;
    enum hearth_status st = json_file(&config, folder, "config.json", e);
    *n = 0;
    if (st == HEARTH_OK) {
        const json_t *size = json_object_get(config, "vocab_size");
        if (!json_is_integer(size))
            size = json_object_get(json_object_get(config, "text_config"), "vocab_size");
        if (json_is_integer(size) && json_integer_value(size) > 0 && json_integer_value(size) <= (json_int_t)LIMIT_VOCAB)
            *n = (size_t)json_integer_value(size);
    }
    json_decref(config);
    return st == HEARTH_ENOTFOUND ? HEARTH_OK : st;
}

enum hearth_status vocab_apply_config(struct vocab_build *b, const char *folder, bool has_types, struct err *e)
{
    json_t *config = NULL, *map = NULL;
    size_t n_rows;
    enum hearth_status st = json_file(&config, folder, "tokenizer_config.json", e), st_map = HEARTH_ENOTFOUND;
    if (st == HEARTH_OK || st == HEARTH_ENOTFOUND)
        st_map = json_file(&map, folder, "special_tokens_map.json", e);
    if ((st != HEARTH_OK && st != HEARTH_ENOTFOUND) || (st_map != HEARTH_OK && st_map != HEARTH_ENOTFOUND)) {
        st = st != HEARTH_OK && st != HEARTH_ENOTFOUND ? st : st_map;
        goto done;
    }
    if (!has_types && (st = read_added_decoder(b, json_object_get(config, "added_tokens_decoder"), e)) != HEARTH_OK)
        goto done;
    set_specials(b, map);
    set_specials(b, config);
    if (b->v->kind == VOCAB_WPM) {
        b->v->bos = b->v->cls >= 0 ? b->v->cls : b->v->bos;
        b->v->eos = b->v->eos >= 0 ? b->v->eos : b->v->sep;
    }
    read_switch(&b->v->add_bos, config, "add_bos_token");
    read_switch(&b->v->add_eos, config, "add_eos_token");
    if (!has_types) /* a tokenizer.json says it by its steps */
        read_switch(&b->v->add_space_prefix, config, "add_prefix_space");
    if ((st = read_chat_template(b, config, folder, e)) == HEARTH_OK && (st = read_vocab_size(&n_rows, folder, e)) == HEARTH_OK)
        st = build_finish(b, n_rows, e);
done:
    json_decref(config);
    json_decref(map);
    return st;
}

/* ---- vocab.json ---- */

static bool is_one_char(const char *p, size_t n)
{
    uint32_t cp;
    bool is_valid;
    return n > 0 && utf8_take(p, n, &cp, &is_valid) == n && is_valid;
}

/* A list (index = id) or an object (text -> id) of single characters. */
static enum hearth_status read_chars(struct vocab_build *b, const json_t *root, struct err *e)
{
    const char *key;
    size_t i;
    json_t *item;
    enum hearth_status st = HEARTH_OK;
    b->v->kind = VOCAB_CHAR;
    b->v->pre = STR("default");
    json_array_foreach(root, i, item) {
        if (!json_is_string(item) || !is_one_char(json_string_value(item), json_string_length(item)))
            return err_set(e, HEARTH_EDAMAGED, "%s: entry %zu is not one character", b->what, i);
        if ((st = build_token(b, i, json_text(item, b->a), 0, TOKEN_NORMAL, 0, e)) != HEARTH_OK)
            return st;
    }
    json_object_foreach((json_t *)root, key, item) {
        size_t n = strlen(key);
        if (!json_is_integer(item) || json_integer_value(item) < 0 || !is_one_char(key, n))
            return err_set(e, HEARTH_EDAMAGED, "%s: \"%.40s\" is not one character with an id (and there is no merges.txt)",
                           b->what, key);
        struct str text = { arena_strndup(b->a, key, n), n };
        if ((st = build_token(b, (uint64_t)json_integer_value(item), text, 0, TOKEN_NORMAL, 0, e)) != HEARTH_OK)
            return st;
    }
    return st;
}

static enum hearth_status read_merges_txt(struct vocab_build *b, const char *path, struct err *e)
{
    struct vocab *v = b->v;
    struct text_index index;
    struct arena scratch;
    char *text, *p;
    size_t n, n_lines = 0;
    enum hearth_status st = file_read_all(&text, &n, path, LIMIT_VOCAB_FILE_BYTES, b->a, e);
    if (st != HEARTH_OK)
        return st;
    for (size_t i = 0; i < n; i++)
        n_lines += text[i] == '\n';
    if (n_lines > LIMIT_MERGES)
        return err_set(e, HEARTH_ELIMIT, "%s: %zu lines; at most %u merges are taken", path, n_lines, LIMIT_MERGES);
    v->merges = ARENA_NEW(b->a, struct vocab_merge, n_lines + 1);
    arena_init(&scratch, 0);
    if (!v->merges || !text_index_build(&index, v->tokens, v->n_tokens, &scratch))
        st = err_set(e, HEARTH_ENOMEM, "%s: no room for its merges", path);
    for (p = text; p < text + n && st == HEARTH_OK;) {
        char *end = memchr(p, '\n', (size_t)(text + n - p));
        end = end ? end : text + n;
        struct str line = { p, (size_t)(end - p) };
        bool is_first = p == text;
        p = end + 1;
        if (line.n && line.p[line.n - 1] == '\r')
            line.n--;
        if (line.n == 0 || (is_first && line.n >= 9 && memcmp(line.p, "#version:", 9) == 0))
            continue;
        if (!vocab_split_merge(&v->merges[v->n_merges], &index, line))
            st = err_set(e, HEARTH_EDAMAGED, "%s: merge %zu (\"%.*s\") is not two tokens", path, v->n_merges, STR_FMT(line));
        else
            v->n_merges++;
    }
    arena_free(&scratch);
    return st;
}

/* Tokens that no text can give are special or unused. */
static enum hearth_status mark_unreachable(struct vocab_build *b, struct err *e)
{
    struct vocab *v = b->v;
    struct text_index index;
    struct arena scratch;
    struct buf both;
    arena_init(&scratch, 0);
    buf_init(&both, 0);
    uint8_t *reachable = ARENA_NEW(&scratch, uint8_t, v->n_tokens + 1);
    if (!reachable || !text_index_build(&index, v->tokens, v->n_tokens, &scratch)) {
        arena_free(&scratch);
        return err_set(e, HEARTH_ENOMEM, "%s: no room for its tokens", b->what);
    }
    for (size_t i = 0; i < v->n_merges; i++) {
        struct str left = v->tokens[v->merges[i].left].text, right = v->tokens[v->merges[i].right].text;
        both.len = 0;
        buf_append(&both, left.p, left.n);
        buf_append(&both, right.p, right.n);
        int32_t id = both.failed ? -1 : text_index_find(&index, both.data, both.len);
        if (id >= 0)
            reachable[id] = 1;
    }
    for (size_t i = 0; i < v->n_tokens; i++) {
        struct vocab_token *k = &v->tokens[i];
        if (k->type != TOKEN_NORMAL || reachable[i] || is_one_char(k->text.p, k->text.n) || k->text.n < 3)
            continue;
        char first = k->text.p[0], last = k->text.p[k->text.n - 1];
        k->type = (first == '<' && last == '>') || (first == '[' && last == ']') ? TOKEN_CONTROL : TOKEN_UNUSED;
    }
    buf_free(&both);
    arena_free(&scratch);
    return HEARTH_OK;
}

static bool mentions(const char *text, const char *what)
{
    for (; text && *text; text++) {
        size_t k = 0;
        while (what[k] && (text[k] | 0x20) == what[k])
            k++;
        if (!what[k])
            return true;
    }
    return false;
}

/* The pre-split rule of a vocab.json + merges.txt. */
static enum hearth_status guess_pre(struct vocab_build *b, const char *folder, bool *is_opt, struct err *e)
{
    json_t *config, *model;
    enum hearth_status st = json_file(&config, folder, "tokenizer_config.json", e), st2;
    const char *base = strrchr(folder, '/');
    if (st != HEARTH_OK && st != HEARTH_ENOTFOUND)
        return st;
    st2 = json_file(&model, folder, "config.json", e);
    const char *class = json_string_value(json_object_get(config, "tokenizer_class"));
    const char *type = json_string_value(json_object_get(model, "model_type"));
    base = base ? base + 1 : folder;
    *is_opt = type ? strcmp(type, "opt") == 0 : !class && (mentions(base, "opt") || mentions(base, "galactica"));
    if (class ? mentions(class, "qwen2") : mentions(type ? type : base, "qwen"))
        b->v->pre = STR("qwen2");
    else if (!class || mentions(class, "gpt2") || mentions(class, "roberta") || mentions(class, "bart"))
        b->v->pre = STR("gpt-2");
    else if (st2 == HEARTH_OK || st2 == HEARTH_ENOTFOUND)
        st2 = err_set(e, HEARTH_EUNSUPPORTED, "%s: how texts are cut for tokenizer_class \"%.60s\" is not known without a tokenizer.json",
                      b->what, class);
    json_decref(config);
    json_decref(model);
    return st2 == HEARTH_ENOTFOUND ? HEARTH_OK : st2;
}

/* Where nothing says otherwise: fairseq's vocabularies begin with <s> <pad> </s> <unk>, and OPT puts </s> in front. */
static void set_gpt2_specials(struct vocab_build *b, bool is_opt)
{
    struct vocab *v = b->v;
    int32_t s = build_find(b, STR("<s>")), end = build_find(b, STR("</s>")), text_end = build_find(b, STR("<|endoftext|>"));
    if (s == 0 && end == 2) {
        v->bos = is_opt ? end : s;
        v->eos = end;
        v->unk = build_find(b, STR("<unk>"));
        v->pad = build_find(b, STR("<pad>"));
        v->mask = build_find(b, STR("<mask>"));
        v->add_bos = true;
        v->add_eos = !is_opt;
    } else if (text_end >= 0) {
        v->bos = v->eos = text_end;
    }
}

static enum hearth_status read_vocab_json(struct vocab_build *b, const json_t *root, const char *folder, struct err *e)
{
    const char *merges = path_join(b->a, folder, "merges.txt"), *key;
    json_t *id;
    bool is_opt = false;
    enum hearth_status st = HEARTH_OK;
    if (!merges)
        return err_set(e, HEARTH_ENOMEM, "%s: no room for its name", b->what);
    if (json_is_array(root) || access(merges, F_OK) != 0)
        return read_chars(b, root, e);
    b->v->kind = VOCAB_BPE;
    json_object_foreach((json_t *)root, key, id) {
        size_t n = strlen(key);
        struct str text = { arena_strndup(b->a, key, n), n };
        if (!json_is_integer(id) || json_integer_value(id) < 0)
            return err_set(e, HEARTH_EDAMAGED, "%s: token \"%.60s\" has no id", b->what, key);
        if ((st = build_token(b, (uint64_t)json_integer_value(id), text, 0, TOKEN_NORMAL, 0, e)) != HEARTH_OK)
            return st;
    }
    if ((st = guess_pre(b, folder, &is_opt, e)) != HEARTH_OK || (st = read_merges_txt(b, merges, e)) != HEARTH_OK ||
        (st = mark_unreachable(b, e)) != HEARTH_OK)
        return st;
    set_gpt2_specials(b, is_opt);
    return HEARTH_OK;
}

/* ---- dispatch ---- */

static enum hearth_status from_json(struct vocab_build *b, const char *folder, const char *name, struct err *e)
{
    json_t *root;
    enum hearth_status st = json_file(&root, folder, name, e);
    if (st != HEARTH_OK)
        return st;
    bool is_tokenizer = json_is_object(root) && json_is_object(json_object_get(root, "model"));
    st = is_tokenizer ? vocab_from_tokenizer_json(b, root, e) : read_vocab_json(b, root, folder, e);
    if (st == HEARTH_OK)
        st = vocab_apply_config(b, folder, is_tokenizer, e);
    json_decref(root);
    return st;
}

/* tokenizer.model: tiktoken's text is lines of base64, a space, a number; else it must be a protobuf. */
static enum hearth_status from_model(struct vocab_build *b, const char *folder, const char *path, struct err *e)
{
    char *data;
    size_t n, i = 0;
    enum hearth_status st = file_read_all(&data, &n, path, LIMIT_VOCAB_FILE_BYTES, b->a, e);
    if (st != HEARTH_OK)
        return st;
    while (i < n && data[i] > ' ' && data[i] < 127)
        i++;
    if (i > 0 && i + 1 < n && data[i] == ' ' && data[i + 1] >= '0' && data[i + 1] <= '9')
        st = vocab_from_tiktoken(b, data, n, e);
    else
        st = vocab_from_sentencepiece(b, data, n, e);
    return st == HEARTH_OK ? vocab_apply_config(b, folder, false, e) : st;
}

static bool exists(struct arena *a, const char *folder, const char *name)
{
    const char *path = path_join(a, folder, name);
    return path && access(path, F_OK) == 0;
}

static enum hearth_status from_folder(struct vocab_build *b, const char *folder, struct err *e)
{
    static const char *const names[] = { "tokenizer.json", "tokenizer.model", "vocab.json" };
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (!exists(b->a, folder, names[i]))
            continue;
        b->what = path_join(b->a, folder, names[i]);
        if (!b->what)
            return err_set(e, HEARTH_ENOMEM, "%s: no room for its name", folder);
        return i == 1 ? from_model(b, folder, b->what, e) : from_json(b, folder, names[i], e);
    }
    return err_set(e, HEARTH_ENOTFOUND, "%s: holds no tokenizer.json, tokenizer.model or vocab.json", folder);
}

enum hearth_status vocab_from_files(struct vocab *v, const char *path, struct arena *a, struct err *e)
{
    struct vocab_build b = { v, a, path, 0 };
    struct stat sb;
    size_t n = strlen(path);
    enum hearth_status st;
    vocab_init(v);
    if (stat(path, &sb) != 0)
        return err_set(e, HEARTH_ENOTFOUND, "%s: not there", path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    char *folder = arena_strndup(a, path, n);
    if (!folder)
        return err_set(e, HEARTH_ENOMEM, "%s: no room for its name", path);
    if (S_ISDIR(sb.st_mode)) {
        st = from_folder(&b, folder, e);
    } else {
        char *slash = strrchr(folder, '/');
        const char *name = slash ? slash + 1 : folder;
        size_t n_name = strlen(name);
        if (slash)
            *slash = 0;
        bool is_json = n_name > 5 && strcmp(name + n_name - 5, ".json") == 0;
        const char *dir = slash ? (*folder ? folder : "/") : ".";
        st = is_json ? from_json(&b, dir, name, e) : from_model(&b, dir, path, e);
        folder = (char *)dir;
    }
    if (st != HEARTH_OK)
        return st;
    const char *base = strrchr(folder, '/');
    v->name = (struct str){ base ? base + 1 : folder, strlen(base ? base + 1 : folder) };
    return vocab_check(v, b.what, e);
}

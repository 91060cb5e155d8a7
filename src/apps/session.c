/* session.c: a model file opened for a conversation, and one answer made with it.
 *
 *   messages --template--> text + trust spans --tokenizer--> ids --context_sync--> logits --sampler--> id
 *                              ^                    ^                                               |
 *                              |  history_text      |  history_ids                                  v
 *                              +--------------------+------------------------- answer, text and ids kept
 *
 * The history is rendered text and the ids that stand for it, with cuts where both may be split: the end of
 * each prompt and of each answer. The next prompt is rendered whole, compared with history_text, and only
 * what lies behind the last common cut is tokenised. So the ids of an answer are those the model made, its
 * K/V is never computed twice, and undoing a turn falls back to an older cut. A cut is taken only where what
 * follows tokenises alone as it would in the whole: nothing follows, or a control token does, or the vocabulary puts no
 * space in front of a text. Otherwise the whole is tokenised again, which is always right.
 *
 * Trust: message texts are untrusted, control tokens in them stay ordinary text; the template's own text is
 * trusted. The texts of BOS and EOS come from the vocabulary.
 *
 * Under a grammar each pick is made among the tokens that its mask leaves; the answer ends where nothing may follow. Guesses
 * need no care: every token is picked from its own logits, one after the other, whatever was computed ahead.
 *
 * Text on its way out is held back while its end could be the beginning of a stop string or of a character.
 */
#include "apps/apps.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_CTX = 4096 };

static const char *const kv_names[] = { "f16", "f32", NULL };
const struct option session_table[] = {
    { "ctx", 0, OPT_SIZE, offsetof(struct session_options, n_ctx), "N", "tokens the context holds (the model's, at most 4096)", 1, LIMIT_CONTEXT },
    { "threads", 0, OPT_SIZE, offsetof(struct session_options, n_threads), "N", "threads (one per CPU, or HEARTH_THREADS)", 1, LIMIT_THREADS },
    { "affinity", 0, OPT_STR, offsetof(struct session_options, affinity), "CPUS", AFFINITY_HELP },
    { "power", 0, OPT_SIZE, offsetof(struct session_options, power), "N", POWER_HELP, 1, 100 },
    { "kv", 0, OPT_CHOICE, offsetof(struct session_options, kv_type), "f16|f32", "type of the K/V cache (f16)", 0, 0, kv_names },
    { "chat-template", 0, OPT_STR, offsetof(struct session_options, chat_template), "FILE", "a Jinja template instead of the model's own" },
    { "no-pack", 0, OPT_FLAG, offsetof(struct session_options, no_pack), NULL, "pack the weights in memory, neither look for a pack nor make one" },
};
_Static_assert(ARRAY_LEN(session_table) == N_SESSION_OPTIONS, "apps.h counts these");

#define SAMPLING(field) offsetof(struct sampling_options, field)
const struct option sampling_table[] = {
    { "temp", 't', OPT_FLOAT, SAMPLING(temp), "T", "temperature, 0 takes the likeliest token always (0.8)", 0, 100 },
    { "top-k", 0, OPT_INT, SAMPLING(top_k), "K", "choose among the K likeliest, 0: all (40)", 0, LIMIT_VOCAB },
    { "top-p", 0, OPT_FLOAT, SAMPLING(top_p), "P", "choose among the likeliest that make up P, 1: all (0.95)", 0, 1 },
    { "min-p", 0, OPT_FLOAT, SAMPLING(min_p), "P", "leave out what is below P of the likeliest, 0: off (0.05)", 0, 1 },
    { "repeat-penalty", 0, OPT_FLOAT, SAMPLING(repeat_penalty), "X", "divide the chance of recent tokens, 1: off (1)", 0.01, 100 },
    { "presence-penalty", 0, OPT_FLOAT, SAMPLING(presence_penalty), "X", "subtract for recent tokens, 0: off (0)", -100, 100 },
    { "frequency-penalty", 0, OPT_FLOAT, SAMPLING(frequency_penalty), "X", "subtract per recent use, 0: off (0)", -100, 100 },
    { "repeat-last-n", 0, OPT_SIZE, SAMPLING(repeat_last_n), "N", "how many tokens are recent (64)", 0, LIMIT_CONTEXT },
    { "seed", 's', OPT_U64, SAMPLING(seed), "N", "the same seed gives the same answer (random)" },
    { "predict", 'n', OPT_SIZE, SAMPLING(n_max), "N", "most tokens to answer with, 0: until the end (0)", 0, LIMIT_CONTEXT },
    { "stop", 0, OPT_LIST, SAMPLING(stop), "TEXT", "end the answer before TEXT (may be repeated)" },
    { "draft", 0, OPT_SIZE, SAMPLING(n_draft), "N", "tokens guessed ahead at most where text repeats; 0: none; the answer is the same (15)", 0, LIMIT_DRAFT },
};
_Static_assert(ARRAY_LEN(sampling_table) == N_SAMPLING_OPTIONS, "apps.h counts these");

void sampling_options_init(struct sampling_options *o)
{
    struct sampler_params p = sampler_defaults();
    *o = (struct sampling_options){
        .temp = p.temperature, .top_k = p.top_k, .top_p = p.top_p, .min_p = p.min_p, .repeat_penalty = p.repeat_penalty,
        .presence_penalty = p.presence_penalty, .frequency_penalty = p.frequency_penalty, .repeat_last_n = 64,
        .n_draft = 15,
    };
}

void sampling_apply(struct generate_options *g, const struct sampling_options *o)
{
    uint32_t random; /* short enough to be typed again */
    random_bytes(&random, sizeof random);
    *g = (struct generate_options){
        .sampling = { .temperature = o->temp, .top_k = o->top_k, .top_p = o->top_p, .min_p = o->min_p,
                      .repeat_penalty = o->repeat_penalty, .presence_penalty = o->presence_penalty,
                      .frequency_penalty = o->frequency_penalty, .penalty_window = o->repeat_last_n,
                      .seed = o->seed.is_given ? o->seed.value : random },
        .n_max = o->n_max, .n_draft = o->n_draft, .stop = o->stop,
    };
}

/* ---- opening ---- */

static const char *token_text(struct session *s, int32_t id)
{
    if (id < 0 || (size_t)id >= s->vocab.n_tokens)
        return "";
    struct str t = s->vocab.tokens[id].text;
    const char *copy = arena_strndup(&s->arena, t.p, t.n);
    return copy ? copy : "";
}

/* A template that is no Jinja is a damaged file, whoever wrote it. */
static enum hearth_status compile(struct template **out, const char *text, size_t n, const char *name, struct arena *a, struct err *e)
{
    enum hearth_status st = template_compile(out, text, n, name, a, e);
    return st == HEARTH_EINVAL ? HEARTH_EDAMAGED : st;
}

static enum hearth_status open_template(struct session *s, const struct session_options *o, struct err *e)
{
    char *text = NULL;
    size_t n = 0;
    const char *name = s->path;
    enum hearth_status st;
    if (o->raw)
        return HEARTH_OK;
    if (o->chat_template) {
        name = o->chat_template;
        if ((st = file_read_all(&text, &n, name, LIMIT_TEMPLATE_BYTES, &s->arena, e)) != HEARTH_OK)
            return st;
        return compile(&s->template, text, n, name, &s->arena, e);
    }
    if (!s->vocab.chat_template.n)
        return HEARTH_OK;
    return compile(&s->template, s->vocab.chat_template.p, s->vocab.chat_template.n, name, &s->arena, e);
}

/* hearth.stop_strings: what ends an answer in models whose vocabulary has no token for it. */
static enum hearth_status read_stop_strings(struct session *s, const struct session_options *o, struct err *e)
{
    struct gguf_array list = { 0 };
    enum hearth_status st = gguf_get_array(&s->gguf, "hearth.stop_strings", GGUF_STRING, &list, e);
    if (st == HEARTH_ENOTFOUND || (st == HEARTH_OK && o->raw))
        return HEARTH_OK;
    struct gguf_strings strings = gguf_strings(&list);
    for (size_t i = 0; st == HEARTH_OK && i < list.count && s->stop.n < STR_LIST_MAX; i++) {
        struct str text = gguf_next_string(&strings);
        if (!text.n || memchr(text.p, 0, text.n))
            return err_set(e, HEARTH_EDAMAGED, "%s: hearth.stop_strings[%zu] is empty or holds a zero byte", s->path, i);
        if (!(s->stop.v[s->stop.n++] = arena_strndup(&s->arena, text.p, text.n)))
            return err_set(e, HEARTH_ENOMEM, "%s: no memory", s->path);
    }
    return st;
}

/* The context length to use; the sizes it leads to must fit the machine. */
static enum hearth_status plan_memory(struct session *s, const struct session_options *o, const struct engine_options *eo, struct err *e)
{
    char key[LIMIT_GGUF_KEY_BYTES];
    struct str arch = STR("");
    uint64_t trained = 0;
    size_t total = memory_total_bytes();
    (void)gguf_get_str(&s->gguf, "general.architecture", &arch, NULL);
    snprintf(key, sizeof key, "%.*s.context_length", STR_FMT(arch));
    (void)gguf_get_u64(&s->gguf, key, 1, LIMIT_CONTEXT, &trained, NULL);
    s->n_ctx = o->n_ctx ? o->n_ctx : MIN(trained ? (size_t)trained : DEFAULT_CTX, DEFAULT_CTX);
    if (trained && s->n_ctx > trained && !common.quiet)
        fprintf(stderr, "hearth: %s was trained for %llu tokens; beyond that its answers may lose their sense\n", s->path,
                (unsigned long long)trained);
    enum hearth_status st = engine_plan(&s->plan, &s->gguf, eo, s->n_ctx, e);
    if (st != HEARTH_OK)
        return st;
    s->predicted_bytes = memory_now_bytes() + s->plan.total_bytes;
    if (s->plan.kv_bytes + s->plan.scratch_bytes > total)
        return err_set(e, HEARTH_ELIMIT, "%s: K/V for %zu tokens takes %s, this machine has %s: use a smaller --ctx", s->path,
                       s->n_ctx, human_bytes(s->plan.kv_bytes), human_bytes(total));
    if (s->predicted_bytes > total && !common.quiet)
        fprintf(stderr, "hearth: %s needs %s, this machine has %s: weights will be read from disk again and again\n", s->path,
                human_bytes(s->predicted_bytes), human_bytes(total));
    return HEARTH_OK;
}

enum hearth_status session_open(struct session *s, const char *path, const struct session_options *o, struct err *e)
{
    struct engine_options eo = { .n_threads = o->n_threads, .affinity = o->affinity, .power = (unsigned)o->power,
                                 .kv_type = (enum kv_type)o->kv_type };
    uint64_t begin = clock_ns();
    *s = (struct session){ .path = path };
    arena_init(&s->arena, 0);
    buf_init(&s->history_text, 0);
    enum hearth_status st = packs_open(&s->gguf, path, o->no_pack, o->n_threads, &s->arena, e);
    if (st != HEARTH_OK)
        goto fail;
    st = vocab_from_gguf(&s->vocab, &s->gguf, &s->arena, e);
    if (st == HEARTH_ENOTFOUND)
        st = err_set(e, HEARTH_EUNSUPPORTED, "%s: holds no vocabulary", path);
    if (st == HEARTH_OK)
        st = tokenizer_open(&s->tokenizer, &s->vocab, &s->arena, e);
    if (st == HEARTH_OK)
        st = open_template(s, o, e);
    if (st == HEARTH_OK)
        st = read_stop_strings(s, o, e);
    if (st == HEARTH_OK)
        st = plan_memory(s, o, &eo, e);
    if (st == HEARTH_OK)
        st = engine_open(&s->engine, &s->gguf, &eo, e);
    if (st == HEARTH_OK)
        st = context_open(&s->context, s->engine, s->n_ctx, e);
    if (st != HEARTH_OK)
        goto fail;
    s->bos_text = token_text(s, s->vocab.bos);
    s->eos_text = token_text(s, s->vocab.eos);
    s->load_ns = clock_ns() - begin;
    return HEARTH_OK;
fail:
    session_close(s);
    return st;
}

void session_close(struct session *s)
{
    context_close(s->context);
    engine_close(s->engine);
    tokenizer_close(s->tokenizer);
    gguf_close(&s->gguf);
    arena_free(&s->arena);
    buf_free(&s->history_text);
    ids_free(&s->history_ids);
    free(s->cuts);
    *s = (struct session){ 0 };
}

/* ---- text to ids ---- */

/* Generation goes on behind the text, so BOS may stand in front but never EOS behind. Where the template or
 * the text itself begins with BOS, no second one is added. */
static enum hearth_status encode_whole(struct session *s, const char *text, size_t n, unsigned flags, const struct text_span *untrusted,
                                       size_t n_untrusted, struct ids *out, struct err *e)
{
    bool wants_bos = s->vocab.add_bos && !(flags & RAW_NO_BOS) && s->vocab.bos >= 0;
    struct ids tail = { 0 };
    enum hearth_status st = tokenizer_encode(s->tokenizer, text, n, flags & RAW_SPECIAL ? ENCODE_SPECIAL : 0, untrusted,
                                             n_untrusted, &tail, NULL, e);
    bool fits = true;
    if (st == HEARTH_OK && wants_bos && !(tail.n && tail.v[0] == s->vocab.bos))
        fits = ids_push(out, s->vocab.bos);
    for (size_t i = 0; st == HEARTH_OK && fits && i < tail.n; i++)
        fits = ids_push(out, tail.v[i]);
    if (!fits)
        st = err_set(e, HEARTH_ENOMEM, "out of memory for %zu tokens", tail.n);
    ids_free(&tail);
    return st;
}

enum hearth_status session_encode_raw(struct session *s, const char *text, size_t n, unsigned flags, struct ids *out, struct err *e)
{
    enum hearth_status st = encode_whole(s, text, n, flags, NULL, 0, out, e);
    if (st == HEARTH_OK && out->n == 0 && s->vocab.bos >= 0 && !(flags & RAW_NO_BOS) && !ids_push(out, s->vocab.bos))
        st = err_set(e, HEARTH_ENOMEM, "out of memory");
    if (st == HEARTH_OK && out->n == 0)
        st = err_set(e, HEARTH_EINVAL, "the prompt is empty, and the vocabulary has no token to begin a text with");
    return st;
}

/* Without a template: the texts one after the other, all of them untrusted. */
static enum hearth_status join_messages(json_t *messages, struct rendered *r, struct err *e)
{
    for (size_t i = 0; i < json_array_size(messages); i++) {
        const json_t *content = json_object_get(json_array_get(messages, i), "content");
        buf_append(&r->text, json_string_value(content), json_string_length(content));
    }
    r->untrusted = malloc(sizeof *r->untrusted);
    if (r->text.failed || !r->untrusted)
        return err_set(e, HEARTH_ENOMEM, "out of memory");
    r->untrusted[0] = (struct text_span){ 0, r->text.len };
    r->n_untrusted = r->text.len > 0;
    return HEARTH_OK;
}

static size_t common_prefix(const struct buf *a, const struct buf *b)
{
    size_t n = MIN(a->len, b->len), i = 0;
    while (i < n && a->data[i] == b->data[i])
        i++;
    return i;
}

/* May the text behind a cut be tokenised alone? first: its first id. */
static bool cut_is_clean(const struct session *s, const struct ids *tail)
{
    if (tail->n == 0)
        return true;
    uint8_t type = s->vocab.tokens[tail->v[0]].type;
    return type == TOKEN_CONTROL || type == TOKEN_USER_DEFINED || s->vocab.kind == VOCAB_BPE || s->vocab.kind == VOCAB_CHAR;
}

/* Ids of r from text_len on, trust spans moved along; into an empty tail. */
static enum hearth_status encode_tail(struct session *s, const struct rendered *r, size_t text_len, struct ids *tail, struct err *e)
{
    struct text_span *spans = malloc((r->n_untrusted + 1) * sizeof *spans);
    size_t n_spans = 0;
    if (!spans)
        return err_set(e, HEARTH_ENOMEM, "out of memory");
    for (size_t i = 0; i < r->n_untrusted; i++)
        if (r->untrusted[i].end > text_len)
            spans[n_spans++] = (struct text_span){ MAX(r->untrusted[i].begin, text_len) - text_len, r->untrusted[i].end - text_len };
    enum hearth_status st = tokenizer_encode(s->tokenizer, r->text.data + text_len, r->text.len - text_len, ENCODE_SPECIAL, spans,
                                             n_spans, tail, NULL, e);
    free(spans);
    return st;
}

static bool add_cut(struct session *s, size_t text_len, size_t n_ids)
{
    if (s->n_cuts == s->cap_cuts) {
        size_t cap = s->cap_cuts ? 2 * s->cap_cuts : 64;
        struct cut *grown = realloc(s->cuts, cap * sizeof *grown);
        if (!grown)
            return false;
        s->cuts = grown;
        s->cap_cuts = cap;
    }
    s->cuts[s->n_cuts++] = (struct cut){ text_len, n_ids };
    return true;
}

/* Replaces everything behind the newest n_cuts by the rest of a prompt. */
static enum hearth_status set_history(struct session *s, size_t n_cuts, const struct buf *text, const struct ids *tail, struct err *e)
{
    struct cut from = n_cuts ? s->cuts[n_cuts - 1] : (struct cut){ 0, 0 };
    s->n_cuts = n_cuts;
    s->history_text.len = from.text_len;
    s->history_ids.n = from.n_ids;
    bool fits = buf_append(&s->history_text, text->data + from.text_len, text->len - from.text_len);
    for (size_t i = 0; fits && i < tail->n; i++)
        fits = ids_push(&s->history_ids, tail->v[i]);
    if (!fits || !add_cut(s, s->history_text.len, s->history_ids.n))
        return err_set(e, HEARTH_ENOMEM, "out of memory for %zu tokens", tail->n);
    return HEARTH_OK;
}

/* Chooses the last cut that serves and brings the history to the rendered prompt. */
static enum hearth_status follow(struct session *s, const struct rendered *r, struct err *e)
{
    size_t same = common_prefix(&s->history_text, &r->text), n_cuts = s->n_cuts;
    struct ids tail = { 0 };
    enum hearth_status st = HEARTH_OK;
    bool is_clean = false;
    while (n_cuts && s->cuts[n_cuts - 1].text_len > same)
        n_cuts--;
    if (n_cuts) {
        st = encode_tail(s, r, s->cuts[n_cuts - 1].text_len, &tail, e);
        is_clean = st == HEARTH_OK && cut_is_clean(s, &tail);
    }
    if (st == HEARTH_OK && !is_clean) {
        n_cuts = 0;
        tail.n = 0;
        st = encode_whole(s, r->text.data, r->text.len, RAW_SPECIAL, r->untrusted, r->n_untrusted, &tail, e);
    }
    if (st == HEARTH_OK)
        st = set_history(s, n_cuts, &r->text, &tail, e);
    ids_free(&tail);
    return st;
}

enum hearth_status session_encode_chat(struct session *s, json_t *messages, struct ids *out, struct err *e)
{
    struct rendered r;
    const struct chat_options o = { .messages = messages, .bos = s->bos_text, .eos = s->eos_text, .add_generation_prompt = true };
    rendered_init(&r);
    enum hearth_status st = s->template ? chat_render(s->template, &o, &r, e) : join_messages(messages, &r, e);
    if (st == HEARTH_OK && r.text.len == 0)
        st = err_set(e, HEARTH_EINVAL, "there is no text to answer");
    if (st == HEARTH_OK)
        st = follow(s, &r, e);
    for (size_t i = 0; st == HEARTH_OK && i < s->history_ids.n; i++)
        if (!ids_push(out, s->history_ids.v[i]))
            st = err_set(e, HEARTH_ENOMEM, "out of memory for %zu tokens", s->history_ids.n);
    rendered_free(&r);
    return st;
}

/* ---- one answer ---- */

const char *finish_name(enum finish_reason r)
{
    static const char *const names[] = { "stop", "length", "context", "interrupted" };
    return names[r];
}

void generated_init(struct generated *g)
{
    *g = (struct generated){ 0 };
    buf_init(&g->text, 0);
}

void generated_free(struct generated *g)
{
    ids_free(&g->ids);
    buf_free(&g->text);
}

/* Text on its way out: what was sent, and what may still turn into a stop string. */
struct stream {
    const struct str_list *stop;
    text_sink sink;
    void *arg;
    size_t n_sent;
    bool stopped; /* a stop string was met; the text ends before it */
    const char *met; /* that string, if the last token ended with it: then the ids say text and string exactly */
};

static void send_until(struct stream *s, const struct buf *text, size_t end)
{
    if (end > s->n_sent && s->sink)
        s->sink(text->data + s->n_sent, end - s->n_sent, s->arg);
    s->n_sent = MAX(end, s->n_sent);
}

/* Looks for stop strings in what was not sent (they cannot begin before that), sends what is certain. */
static void stream_text(struct stream *s, struct buf *text)
{
    size_t certain = text->len, found = SIZE_MAX;
    for (size_t i = 0; i < s->stop->n; i++) {
        const char *stop = s->stop->v[i];
        size_t n = strlen(stop);
        for (size_t at = s->n_sent; n && at < text->len; at++) {
            size_t have = MIN(n, text->len - at);
            if (memcmp(text->data + at, stop, have) != 0)
                continue;
            if (have == n && at < found) {
                found = at;
                s->met = at + n == text->len ? stop : NULL;
            }
            certain = MIN(certain, at);
            break;
        }
    }
    if (found != SIZE_MAX) {
        text->len = found;
        text->data[found] = 0;
        s->stopped = true;
    }
    send_until(s, text, MIN(certain, text->len));
}

static void on_prefill(size_t n_done, size_t n_total, void *arg)
{
    struct bar *b = arg;
    if (!b->is_open)
        bar_open(b, "reading the prompt", "tok");
    if (n_total > 512 && n_done < n_total) /* short ones need no bar */
        bar_update(b, NULL, n_done, n_total);
}

static enum hearth_status compute_prompt(struct session *s, const struct ids *prompt, const atomic_int *cancel, struct generated *out,
                                         struct err *e)
{
    struct bar bar = { 0 };
    uint64_t begin = clock_ns();
    out->n_prompt = prompt->n;
    if (prompt->n > s->n_ctx)
        return err_set(e, HEARTH_ELIMIT, "the prompt has %zu tokens, the context holds %zu", prompt->n, s->n_ctx);
    bar_open(&bar, "reading the prompt", "tok");
    enum hearth_status st = context_sync(s->context, prompt->v, prompt->n, &out->n_kept, cancel, on_prefill, &bar, e);
    bar_close(&bar);
    out->prompt_ns = clock_ns() - begin;
    return st;
}

/* The token that goes on; -1: the grammar lets the text end here and nowhere else. run NULL: any token. */
static enum hearth_status pick(int32_t *id, struct session *s, struct sampler *sampler, struct grammar_run *run, struct err *e)
{
    size_t n;
    const int32_t *tokens = context_tokens(s->context, &n);
    float *logits = context_logits(s->context);
    const uint32_t *mask;
    *id = -1;
    if (run && grammar_is_over(run))
        return HEARTH_OK;
    if (run) {
        enum hearth_status st = grammar_mask(run, &mask, e);
        if (st != HEARTH_OK)
            return st;
        grammar_apply(mask, logits, MIN(s->vocab.n_tokens, engine_info(s->engine)->n_vocab));
    }
    *id = sampler_pick(sampler, logits, tokens, n, n);
    if (run && !grammar_accept_token(run, *id)) /* all that were left are beyond what the model computes */
        return err_set(e, HEARTH_ELIMIT, "no token of the model fits what the grammar wants next");
    return HEARTH_OK;
}

/* The loop of tokens. HEARTH_OK with out->reason set, or a failure. Guesses are the context's business: whatever it
 * computed ahead, each token is picked here, one by one, from its own logits. */
static enum hearth_status decode(struct session *s, struct sampler *sampler, struct grammar_run *run, const struct generate_options *o,
                                 const atomic_int *cancel, struct decoder *decoder, struct stream *stream, struct generated *out, struct err *e)
{
    for (;;) {
        size_t n;
        int32_t id;
        context_tokens(s->context, &n);
        enum hearth_status st = pick(&id, s, sampler, run, e);
        if (st != HEARTH_OK)
            return st;
        /* A model that begins another text has ended this one (llama2.c's models have no other end). */
        if (id < 0 || tokenizer_is_eog(s->tokenizer, id) || id == s->vocab.bos) {
            out->reason = FINISH_STOP;
            return HEARTH_OK;
        }
        decoder_push(decoder, id, &out->text);
        if (!ids_push(&out->ids, id) || out->text.failed)
            return err_set(e, HEARTH_ENOMEM, "out of memory after %zu tokens", out->ids.n);
        stream_text(stream, &out->text);
        out->reason = stream->stopped ? FINISH_STOP : o->n_max && out->ids.n >= o->n_max ? FINISH_LENGTH : FINISH_CONTEXT;
        if (out->reason != FINISH_CONTEXT || n == s->n_ctx)
            return HEARTH_OK;
        /* Of the tokens still wanted one comes from this step anyway. */
        size_t n_draft = o->n_max ? MIN(o->n_draft, o->n_max - out->ids.n - 1) : o->n_draft;
        st = context_append_ahead(s->context, id, n_draft, cancel, e);
        if (st != HEARTH_OK)
            return st;
        out->n_steps++;
    }
}

/* The answer becomes part of the history if its text (and the stop string behind it) is exactly what its ids say. */
static void keep_answer(struct session *s, const struct ids *prompt, const struct generated *out, const char *stop)
{
    if (!s->history_text.len || s->history_ids.n != prompt->n)
        return;
    size_t text_len = s->history_text.len;
    bool fits = buf_append(&s->history_text, out->text.data, out->text.len) && buf_append(&s->history_text, stop, strlen(stop));
    for (size_t i = 0; fits && i < out->ids.n; i++)
        fits = ids_push(&s->history_ids, out->ids.v[i]);
    if (!fits || !add_cut(s, s->history_text.len, s->history_ids.n)) {
        s->history_text.len = text_len; /* the older cuts still hold */
        s->history_ids.n = prompt->n;
    }
}

/* A run of the grammar; the trie of the vocabulary and the cache live in the arena, for this answer. */
static enum hearth_status open_grammar(struct grammar_run *run, const struct session *s, const struct grammar *g, struct arena *a, struct err *e)
{
    struct grammar_vocab *trie;
    struct grammar_cache *cache;
    enum hearth_status st = grammar_vocab_open(&trie, s->tokenizer, a, e);
    if (st == HEARTH_OK)
        st = grammar_cache_open(&cache, g, trie, 0, a, e);
    return st == HEARTH_OK ? grammar_run_open(run, cache, e) : st;
}

enum hearth_status session_generate(struct session *s, const struct ids *prompt, const struct generate_options *o,
                                    const atomic_int *cancel, text_sink sink, void *arg, struct generated *out, struct err *e)
{
    struct grammar_run grammar = { 0 };
    struct arena arena;
    struct sampler *sampler;
    struct decoder decoder;
    struct str_list stop = o->stop;
    for (size_t i = 0; i < s->stop.n && stop.n < STR_LIST_MAX; i++)
        stop.v[stop.n++] = s->stop.v[i];
    struct stream stream = { .stop = &stop, .sink = sink, .arg = arg };
    /* Some models have more rows of logits than tokens with a text. */
    size_t n_choices = MIN(s->vocab.n_tokens, engine_info(s->engine)->n_vocab);
    bool at_start = prompt->n == 1 && prompt->v[0] == s->vocab.bos && !o->grammar; /* a grammar counts every byte */
    arena_init(&arena, 0);
    enum hearth_status st = sampler_open(&sampler, &o->sampling, n_choices, &arena, e);
    if (st == HEARTH_OK)
        st = context_speculate(s->context, o->n_draft, e);
    if (st == HEARTH_OK && o->grammar)
        st = open_grammar(&grammar, s, o->grammar, &arena, e);
    if (st == HEARTH_OK)
        st = compute_prompt(s, prompt, cancel, out, e);
    if (st == HEARTH_OK) {
        struct draft_stats before = context_draft_stats(s->context), after;
        uint64_t begin = clock_ns();
        decoder_init(&decoder, s->tokenizer, false, at_start);
        st = decode(s, sampler, o->grammar ? &grammar : NULL, o, cancel, &decoder, &stream, out, e);
        out->decode_ns = clock_ns() - begin;
        context_truncate(s->context, SIZE_MAX); /* guesses that nobody will ask for */
        after = context_draft_stats(s->context);
        out->n_drafted = after.n_drafted - before.n_drafted;
        out->n_accepted = after.n_accepted - before.n_accepted;
        bool is_exact = decoder.n_pending == 0 && (!stream.stopped || stream.met);
        if (!stream.stopped)
            decoder_flush(&decoder, &out->text);
        send_until(&stream, &out->text, out->text.len);
        if (is_exact && out->ids.n && !out->text.failed)
            keep_answer(s, prompt, out, stream.met ? stream.met : "");
    }
    if (st == HEARTH_ECANCELLED) {
        err_clear(e);
        out->reason = FINISH_INTERRUPTED;
        st = HEARTH_OK;
    }
    grammar_run_close(&grammar);
    arena_free(&arena);
    return st;
}

double per_second(size_t n, uint64_t ns)
{
    return ns ? (double)n * 1e9 / (double)ns : 0;
}

void print_timings(const struct session *s, const struct generated *g)
{
    size_t n_new = g->n_prompt - g->n_kept;
    fprintf(stderr, "load      %.3f s\n", (double)s->load_ns * 1e-9);
    fprintf(stderr, "prompt    %zu tokens (%zu kept), %.3f s, %.1f tokens/s\n", g->n_prompt, g->n_kept, (double)g->prompt_ns * 1e-9,
            per_second(n_new, g->prompt_ns));
    fprintf(stderr, "answer    %zu tokens, %.3f s, %.1f tokens/s, ended by: %s\n", g->ids.n, (double)g->decode_ns * 1e-9,
            per_second(g->n_steps, g->decode_ns), finish_name(g->reason));
    fprintf(stderr, "drafts    %" PRIu64 " tokens guessed ahead, %" PRIu64 " of them right\n", g->n_drafted, g->n_accepted);
    fprintf(stderr, "memory    predicted %s (weights %s, K/V for %zu tokens %s, scratch %s), peak %s\n", human_bytes(s->predicted_bytes),
            human_bytes(s->plan.weight_bytes), s->n_ctx, human_bytes(s->plan.kv_bytes), human_bytes(s->plan.scratch_bytes),
            human_bytes(memory_peak_bytes()));
}

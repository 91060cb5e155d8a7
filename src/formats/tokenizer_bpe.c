/* tokenizer_bpe.c: byte-level BPE: cut by the family's patterns, then merge bytes by rank.
 *
 * A stretch of text goes through the patterns of its pre-split rule one after the other (struct cutter: a stack of
 * one frame per pattern, so no recursion and no list of all pieces). Each piece of the last pattern is a word: its
 * bytes are the first symbols, pairs of ids are looked up in the table of merges. Vocabularies that say so take a
 * word that is a token as it stands, whatever the merges.
 *
 * PCRE2's interpreter does the matching. Bad UTF-8 is cut out first and becomes words of its own, byte by byte, so
 * the patterns only ever see valid text and need not check it at every call. They see it through a window that
 * begins at the piece and reaches WINDOW bytes past the present position: a match that touches the end of the window
 * is looked for again with a fresh one, and if it begins the window it is cut there: words of 64 KiB and more are
 * split. A match that exceeds its step limit ends in a split as well. So time is linear in the text for patterns
 * that look at each position a bounded number of times, as those of the table do.
 *
 * Sources: Sennrich et al., arXiv 1508.07909; Radford et al., "Language models are unsupervised multitask learners".
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "formats/tokenizer_impl.h"

#include <stdlib.h>
#include <string.h>

enum {
    WINDOW = LIMIT_PIECE_BYTES + 512,
    MATCH_LIMIT = 1 << 20, /* steps of one match: a window with a wide margin */
    LIMIT_CUT = 1024,      /* bytes split off when it is exceeded */
};

/* White_Space as the inside of a class. */
#define SPACES "\\x{09}-\\x{0d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"

/* Copies a pattern, \s and \S spelled out, inside and outside of classes. */
static bool spell_out(struct buf *out, const char *p)
{
    bool in_class = false, ok = true;
    for (; *p && ok; p++) {
        if (*p == '\\' && p[1] == 's') {
            ok = buf_printf(out, in_class ? "%s" : "[%s]", SPACES);
            p++;
        } else if (*p == '\\' && p[1] == 'S') {
            CHECK(!in_class);
            ok = buf_printf(out, "[^%s]", SPACES);
            p++;
        } else if (*p == '\\') {
            ok = buf_append(out, p, 2);
            p++;
        } else {
            if (*p == '[' && !in_class)
                in_class = true;
            else if (*p == ']')
                in_class = false;
            ok = buf_append(out, p, 1);
        }
    }
    return ok;
}

static enum hearth_status compile(struct tokenizer *t, const char *pattern, struct err *e)
{
    struct buf text;
    int code;
    PCRE2_SIZE at;
    buf_init(&text, 0);
    if (!spell_out(&text, pattern)) {
        buf_free(&text);
        return err_set(e, HEARTH_ENOMEM, "no room for a pattern of the tokenizer");
    }
    t->patterns[t->n_patterns] =
        pcre2_compile((PCRE2_SPTR)text.data, text.len, PCRE2_UTF | PCRE2_UCP, &code, &at, NULL);
    buf_free(&text);
    if (!t->patterns[t->n_patterns]) {
        CHECK(code == PCRE2_ERROR_HEAP_FAILED); /* the patterns are ours; a test compiles them all */
        return err_set(e, HEARTH_ENOMEM, "no room for a pattern of the tokenizer");
    }
    t->n_patterns++;
    return HEARTH_OK;
}

enum hearth_status open_bpe(struct tokenizer *t, struct arena *a, struct err *e)
{
    const struct pre_rule *rule = pre_rule_find(t->v.pre);
    enum hearth_status st = HEARTH_OK;
    if (!rule)
        return err_set(e, HEARTH_EUNSUPPORTED, "pre-tokenizer \"%.*s\" is not known", STR_FMT(t->v.pre));
    t->has_bytes = true;
    for (int b = 0; b < 256; b++) {
        char text[4];
        size_t n = utf8_put(text, byte_to_alphabet((uint8_t)b));
        t->byte_ids[b] = find_plain(t, text, n);
        t->has_bytes &= t->byte_ids[b] >= 0;
    }
    for (size_t i = 0; i < MAX_PRE_PATTERNS && rule->patterns[i] && st == HEARTH_OK; i++)
        st = compile(t, rule->patterns[i], e);
    return st == HEARTH_OK ? open_pairs(t, a, e) : st;
}

void close_bpe(struct tokenizer *t)
{
    for (size_t i = 0; i < t->n_patterns; i++)
        pcre2_code_free(t->patterns[i]);
    t->n_patterns = 0;
}

void work_free_bpe(struct work *w)
{
    pcre2_match_data_free(w->match_data);
    pcre2_match_context_free(w->match_context);
}

/* ---- words ---- */

static int32_t whole_word(struct work *w, const char *p, size_t n)
{
    if (n > w->t->max_token_bytes)
        return -1;
    w->n_text = 0;
    for (size_t i = 0; i < n; i++) {
        char c[4];
        if (!work_text(w, c, utf8_put(c, byte_to_alphabet((uint8_t)p[i]))))
            return -1;
    }
    w->steps += n;
    return find_plain(w->t, w->text, w->n_text);
}

static bool encode_word(struct work *w, const char *p, size_t n)
{
    const struct tokenizer *t = w->t;
    int32_t id = t->v.ignore_merges ? whole_word(w, p, n) : -1;
    if (id >= 0)
        return work_push(w, id);
    if (!work_reserve(w, &w->symbols, &w->cap_symbols, n, sizeof *w->symbols))
        return false;
    w->n_symbols = n;
    for (size_t i = 0; i < n; i++)
        w->symbols[i] = (struct symbol){ (uint32_t)i, 1, (int32_t)i - 1, i + 1 < n ? (int32_t)i + 1 : -1,
                                         t->byte_ids[(uint8_t)p[i]] };
    w->steps += n;
    if (!merge_symbols(w, p, MERGE_BY_PAIR, 0))
        return false;
    for (int32_t i = n ? 0 : -1; i >= 0; i = w->symbols[i].next) {
        id = w->symbols[i].id;
        if (id >= 0 ? !work_push(w, id) : t->v.unk >= 0 && !work_push(w, t->v.unk))
            return false;
    }
    return true;
}

/* Words of LIMIT_PIECE_BYTES and more are cut, between characters. */
static bool encode_words(struct work *w, const char *p, size_t n)
{
    while (n > LIMIT_PIECE_BYTES) {
        size_t cut = utf8_floor(p, LIMIT_PIECE_BYTES);
        cut = cut ? cut : LIMIT_PIECE_BYTES;
        if (!encode_word(w, p, cut))
            return false;
        p += cut, n -= cut;
    }
    return encode_word(w, p, n);
}

/* ---- cutting ---- */

/* One level of the stack: pattern i works on text[begin..end), all before pos is done. */
struct frame { size_t begin, end, pos, match_begin, match_end; bool has_match; };

/* The next match at or after f->pos; none: match_begin = the end of what was looked at. */
static void find_match(struct work *w, const char *text, struct frame *f, size_t i_pattern)
{
    size_t window = f->end;
    PCRE2_SIZE *at;
    int rc;
    if (window - f->pos > WINDOW)
        window = utf8_floor(text, f->pos + WINDOW);
    rc = pcre2_match(w->t->patterns[i_pattern], (PCRE2_SPTR)(text + f->begin), window - f->begin, f->pos - f->begin,
                     PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY, w->match_data, w->match_context);
    at = pcre2_get_ovector_pointer(w->match_data);
    f->has_match = rc > 0 && at[1] > at[0];
    if (f->has_match) {
        f->match_begin = f->begin + at[0];
        f->match_end = f->begin + at[1];
        if (f->match_end == window && window < f->end && f->match_begin > f->pos)
            f->has_match = false; /* cut by the window: up to there it is a gap, then look again */
    } else if (rc == PCRE2_ERROR_NOMATCH) {
        f->match_begin = window < f->end ? utf8_floor(text, window - 256) : f->end;
    } else { /* a limit: split here */
        f->match_begin = f->end - f->pos > LIMIT_CUT ? utf8_floor(text, f->pos + LIMIT_CUT) : f->end;
    }
    w->steps += f->match_begin - f->pos + 1;
}

/* text is valid UTF-8. */
static bool cut(struct work *w, const char *text, size_t n)
{
    struct frame stack[MAX_PRE_PATTERNS];
    size_t level = 0, n_patterns = w->t->n_patterns;
    stack[0] = (struct frame){ .end = n };
    for (;;) {
        struct frame *f = &stack[level];
        size_t from = f->pos, to;
        if (from == f->end) {
            if (level == 0)
                return true;
            level--;
            continue;
        }
        if (!f->has_match)
            find_match(w, text, f, level);
        if (f->has_match && f->match_begin == from) {
            to = f->match_end;
            f->has_match = false;
        } else {
            to = f->match_begin;
        }
        f->pos = to;
        if (level + 1 < n_patterns)
            stack[++level] = (struct frame){ .begin = from, .end = to, .pos = from };
        else if (!encode_words(w, text + from, to - from))
            return false;
    }
}

static bool open_match(struct work *w)
{
    if (w->match_data)
        return true;
    w->match_data = pcre2_match_data_create(1, NULL);
    w->match_context = pcre2_match_context_create(NULL);
    if (!w->match_data || !w->match_context)
        return false;
    pcre2_set_match_limit(w->match_context, MATCH_LIMIT);
    return true;
}

enum hearth_status encode_bpe(struct work *w, const char *text, size_t n, bool is_first)
{
    size_t valid = 0, i = 0, len; /* text[valid..i) is valid and not yet encoded */
    char *copy = NULL;
    bool ok = open_match(w), is_valid;
    uint32_t cp;
    (void)is_first; /* byte-level prefixes hang on the text, not on what stood before */
    if (ok && w->t->v.add_space_prefix && n && *text != ' ') {
        ok = (copy = malloc(n + 1)) != NULL;
        if (ok) {
            copy[0] = ' ';
            memcpy(copy + 1, text, n);
            text = copy;
            n++;
        }
    }
    while (ok && i < n) {
        len = (uint8_t)text[i] < 0x80 ? (is_valid = true, 1) : utf8_take(text + i, n - i, &cp, &is_valid);
        if (!is_valid) {
            ok = (i == valid || cut(w, text + valid, i - valid)) && encode_words(w, text + i, len);
            valid = i + len;
        }
        i += len;
    }
    ok = ok && (valid == n || cut(w, text + valid, n - valid));
    free(copy);
    return ok ? HEARTH_OK : work_nomem(w);
}

/* tokenizer_decode.c: token ids to text, whole or as they come.
 *
 * tokenizer_open works out once what each token appends (open_plain): SentencePiece's U+2581 is a space and byte tokens
 * are their byte; byte-level tokens are taken back from the byte alphabet; WordPiece's words get a space in front,
 * continuations none. Added tokens stand for their text.
 *
 * Three families need more than joining. SentencePiece and unigram: encoding put a space in front of the text, so the
 * first byte that comes out, if it is a space, is dropped. WordPiece: the same, and the usual clean-up of English
 * (" ." -> ".", " ' " -> "'", " 's" -> "'s" and so on), done by three small machines in a row, each holding back
 * at most three bytes, so that it works on a stream: the first joins . ? ! , to the left, the second " ' ", the third
 * the short forms.
 *
 * A stream may only hand on whole characters: bytes of an unfinished one (at most three) wait in `pending`; a sequence
 * that cannot become one any more is written as U+FFFD, one for each maximal bad part. pending[0..2] holds these bytes,
 * pending[5..7] the states of the clean-up machines.
 */
#include "formats/tokenizer_impl.h"

#include <string.h>

/* ---- what a token appends ---- */

/* Each writes to out what the text stands for, at most its length (WordPiece: and a space), and returns how much. */
static size_t plain_pieces(char *out, struct str text)
{
    size_t n = 0;
    for (size_t i = 0; i < text.n; i++) {
        if (text.n - i >= 3 && memcmp(text.p + i, "\xE2\x96\x81", 3) == 0)
            out[n++] = ' ', i += 2;
        else
            out[n++] = text.p[i];
    }
    return n;
}

static size_t plain_bytes(char *out, struct str text)
{
    size_t n = 0, len;
    uint32_t cp;
    bool is_valid;
    for (size_t i = 0; i < text.n; i += len) {
        len = 1;
        out[n] = text.p[i];
        if ((uint8_t)text.p[i] < 0x80) { /* stands for itself, or is not in the alphabet and stays */
            n++;
            continue;
        }
        len = utf8_take(text.p + i, text.n - i, &cp, &is_valid);
        int byte = is_valid ? alphabet_to_byte(cp) : -1;
        if (byte >= 0) {
            out[n++] = (char)byte;
        } else { /* not in the alphabet: an added token of a careless file; keep it as it is */
            memcpy(out + n, text.p + i, len);
            n += len;
        }
    }
    return n;
}

static size_t plain_word(char *out, const struct vocab_token *k)
{
    struct str text = k->text;
    size_t skip = text.n >= 3 && memcmp(text.p, "\xE2\x96\x81", 3) == 0 ? 3 : 0, n = 0;
    if (skip || !token_is_plain(k) || k->type == TOKEN_USER_DEFINED) /* else it goes on with the word */
        out[n++] = ' ';
    memcpy(out + n, text.p + skip, text.n - skip);
    return n + text.n - skip;
}

static size_t plain_token(char *out, const struct tokenizer *t, const struct vocab_token *k)
{
    bool is_text = token_is_plain(k) || k->type == TOKEN_BYTE;
    bool is_pieces = t->v.kind == VOCAB_SPM || t->v.kind == VOCAB_UGM;
    if (t->v.kind == VOCAB_WPM)
        return plain_word(out, k);
    if (t->v.kind == VOCAB_BPE && is_text && k->type != TOKEN_USER_DEFINED)
        return plain_bytes(out, k->text);
    if (is_pieces && k->type == TOKEN_BYTE) {
        out[0] = (char)byte_token_value(k->text);
        return 1;
    }
    if (is_pieces && is_text)
        return plain_pieces(out, k->text);
    if (k->text.n)
        memcpy(out, k->text.p, k->text.n);
    return k->text.n;
}

bool open_plain(struct tokenizer *t, struct arena *a)
{
    size_t n_bytes = 1, at = 0;
    for (size_t i = 0; i < t->v.n_tokens; i++)
        n_bytes += t->v.tokens[i].text.n + (t->v.kind == VOCAB_WPM || t->v.tokens[i].type == TOKEN_BYTE);
    t->plain = n_bytes <= UINT32_MAX ? arena_push(a, n_bytes, 1, 1) : NULL;
    t->plain_at = ARENA_NEW(a, uint32_t, t->v.n_tokens + 1);
    if (!t->plain || !t->plain_at)
        return false;
    for (size_t i = 0; i < t->v.n_tokens; i++) {
        t->plain_at[i] = (uint32_t)at;
        at += plain_token(t->plain + at, t, &t->v.tokens[i]);
    }
    t->plain_at[t->v.n_tokens] = (uint32_t)at;
    return true;
}

struct str tokenizer_piece(const struct tokenizer *t, int32_t id, bool show_control, char buf[32])
{
    (void)buf;
    if (id < 0 || (size_t)id >= t->v.n_tokens)
        return (struct str){ "", 0 };
    if (!show_control && (t->v.tokens[id].type == TOKEN_CONTROL || t->v.tokens[id].type == TOKEN_UNKNOWN))
        return (struct str){ "", 0 };
    return token_plain(t, id);
}

/* ---- WordPiece clean-up ---- */

/* Where decoded bytes go. is_raw: as they are (whole decoding); else whole characters only. */
struct sink { struct decoder *d; struct buf *out; bool is_raw; };

static void sink_byte(struct sink *s, char c);

/* What the third machine holds back in each of its states. */
static const char *const short_held[] = { "", " ", " n", " n'", " '", " 'v", " 'r" };

enum { JOIN_STATE = 5, QUOTE_STATE = 6, SHORT_STATE = 7 };

/* The third machine: " n't", " 'm", " 's", " 've", " 're" lose their space. State: how much of one is held back. */
static void short_forms(struct sink *s, char c)
{
    char *state = &s->d->pending[SHORT_STATE];
    int now = *state;
    if (now == 1 && (c == 'n' || c == '\'')) {
        *state = c == 'n' ? 2 : 4;
    } else if (now == 2 && c == '\'') {
        *state = 3;
    } else if (now == 4 && (c == 'v' || c == 'r')) {
        *state = c == 'v' ? 5 : 6;
    } else {
        bool drop = (now == 3 && c == 't') || (now == 4 && (c == 'm' || c == 's')) || (now >= 5 && c == 'e');
        for (const char *p = short_held[now] + (drop ? 1 : 0); *p; p++)
            sink_byte(s, *p);
        *state = c == ' ' ? 1 : 0;
        if (c != ' ')
            sink_byte(s, c);
    }
}

/* The second machine: " ' " becomes "'". */
static void quotes(struct sink *s, char c)
{
    char *state = &s->d->pending[QUOTE_STATE];
    if (*state == 1 && c == '\'') {
        *state = 2;
        return;
    }
    if (*state == 2 && c == ' ') {
        *state = 0;
        short_forms(s, '\'');
        return;
    }
    if (*state >= 1)
        short_forms(s, ' ');
    if (*state == 2)
        short_forms(s, '\'');
    *state = c == ' ' ? 1 : 0;
    if (c != ' ')
        short_forms(s, c);
}

/* The first machine: no space in front of . ? ! , */
static void join_left(struct sink *s, char c)
{
    char *state = &s->d->pending[JOIN_STATE];
    if (*state && !(c == '.' || c == '?' || c == '!' || c == ','))
        quotes(s, ' ');
    *state = c == ' ';
    if (c != ' ')
        quotes(s, c);
}

static void flush_clean_up(struct sink *s)
{
    char *state = s->d->pending;
    if (state[JOIN_STATE])
        quotes(s, ' ');
    for (int i = 0; i < state[QUOTE_STATE]; i++)
        short_forms(s, " '"[i]);
    for (const char *p = short_held[(int)state[SHORT_STATE]]; *p; p++)
        sink_byte(s, *p);
    state[JOIN_STATE] = state[QUOTE_STATE] = state[SHORT_STATE] = 0;
}

/* ---- characters ---- */

/* Writes what of pending is a character or can no longer become one. */
static void settle(struct sink *s, bool at_end)
{
    struct decoder *d = s->d;
    while (d->n_pending > 0) {
        uint32_t cp;
        bool is_valid;
        size_t len = utf8_take(d->pending, d->n_pending, &cp, &is_valid);
        if (!is_valid && len == d->n_pending && !at_end && len < 4) {
            /* All of it is bad so far; is it only short? Any continuation that would mend it says so. */
            char more[4] = { 0 };
            bool mends = false;
            memcpy(more, d->pending, len);
            for (int k = 0; k < 4 && !mends && len < 4; k++) {
                uint32_t ignored;
                bool ok;
                more[len] = "\x80\x8F\x90\xBF"[k];
                mends = utf8_take(more, len + 1, &ignored, &ok) > len;
            }
            if (mends)
                return;
        }
        if (is_valid)
            buf_append(s->out, d->pending, len);
        else
            buf_append(s->out, "\xEF\xBF\xBD", 3);
        d->n_pending -= len;
        memmove(d->pending, d->pending + len, d->n_pending);
    }
}

static void sink_byte(struct sink *s, char c)
{
    struct decoder *d = s->d;
    if (s->is_raw || (d->n_pending == 0 && (uint8_t)c < 0x80)) {
        buf_append(s->out, &c, 1);
        return;
    }
    d->pending[d->n_pending++] = c;
    CHECK(d->n_pending <= 4);
    settle(s, false);
}

static void push(struct sink *s, int32_t id)
{
    struct decoder *d = s->d;
    const struct vocab *v = &d->t->v;
    char buf[32];
    struct str piece = tokenizer_piece(d->t, id, d->show_control, buf);
    if (piece.n == 0)
        return;
    if (d->at_start && piece.p[0] == ' ' && (v->kind == VOCAB_WPM || v->add_space_prefix)) {
        piece.p++;
        piece.n--;
    }
    d->at_start = false;
    if (v->kind == VOCAB_WPM) {
        for (size_t i = 0; i < piece.n; i++)
            join_left(s, piece.p[i]);
    } else if (s->is_raw) {
        buf_append(s->out, piece.p, piece.n);
    } else {
        for (size_t i = 0; i < piece.n; i++)
            sink_byte(s, piece.p[i]);
    }
}

void decoder_init(struct decoder *d, const struct tokenizer *t, bool show_control, bool at_start)
{
    *d = (struct decoder){ .t = t, .show_control = show_control, .at_start = at_start };
}

void decoder_push(struct decoder *d, int32_t id, struct buf *out)
{
    push(&(struct sink){ d, out, false }, id);
}

void decoder_flush(struct decoder *d, struct buf *out)
{
    struct sink s = { d, out, false };
    flush_clean_up(&s);
    settle(&s, true);
}

enum hearth_status tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, bool show_control, struct buf *out)
{
    struct decoder d;
    struct sink s = { &d, out, true };
    decoder_init(&d, t, show_control, true);
    for (size_t i = 0; i < n; i++)
        push(&s, ids[i]);
    flush_clean_up(&s);
    return out->failed ? HEARTH_ENOMEM : HEARTH_OK;
}

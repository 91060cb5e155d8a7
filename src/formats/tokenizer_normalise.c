/* tokenizer_normalise.c: what SentencePiece does to a text before it looks for pieces.
 *
 * Four steps, each only if the vocabulary asks for it: the precompiled character map (NFKC and the like), runs of
 * white space shortened to one and trimmed at both ends, one space put in front, every space written as U+2581.
 *
 * The map is a byte string of the model file: 4 bytes size of a double-array trie (little-endian), the trie, then
 * NUL-terminated replacements. At each position the longest key that matches is replaced; a character without a key
 * stays. A unit of the trie: bits 0-7 label (bit 31 with it), bit 8 "a value hangs below", bits 10-30 offset, shifted
 * by 8 more if bit 9 is set. Every index is tested against the array, so a false map can at worst replace wrongly.
 * (Format: Darts-clone; SentencePiece's normalizer.)
 *
 * A longest key is at most LONGEST_KEY bytes here, so the walk is linear in the text.
 */
#include "formats/tokenizer_impl.h"

#include <string.h>

enum { LONGEST_KEY = 256, LONGEST_REPLACEMENT = 256 };

struct charsmap { const uint8_t *units; size_t n_units; const char *strings; size_t n_strings; };

static bool charsmap_open(struct charsmap *m, struct str blob)
{
    if (blob.n < 4)
        return false;
    size_t bytes = load_le32(blob.p);
    if (bytes % 4 || bytes < 4 || bytes > blob.n - 4)
        return false;
    *m = (struct charsmap){ (const uint8_t *)blob.p + 4, bytes / 4, blob.p + 4 + bytes, blob.n - 4 - bytes };
    return m->n_strings > 0 && m->strings[m->n_strings - 1] == 0; /* so that every string ends */
}

bool charsmap_is_sane(struct str blob)
{
    struct charsmap m;
    return charsmap_open(&m, blob);
}

static uint32_t unit_offset(uint32_t unit)
{
    return (unit >> 10) << ((unit & 1u << 9) >> 6);
}

/* Longest key at p: its length and replacement; 0: none. */
static size_t charsmap_match(const struct charsmap *m, const char *p, size_t n, const char **replacement)
{
    size_t node = unit_offset(load_le32(m->units)), longest = 0;
    for (size_t i = 0; i < n && i < LONGEST_KEY; i++) {
        uint8_t c = (uint8_t)p[i];
        node ^= c;
        if (c == 0 || node >= m->n_units)
            break;
        uint32_t unit = load_le32(m->units + 4 * node);
        if ((unit & (1u << 31 | 0xffu)) != c)
            break;
        node ^= unit_offset(unit);
        if (unit >> 8 & 1 && node < m->n_units) {
            size_t at = load_le32(m->units + 4 * node) & 0x7fffffffu;
            if (at < m->n_strings) {
                *replacement = m->strings + at;
                longest = i + 1;
            }
        }
    }
    return longest;
}

struct spacing {
    struct work *w;
    bool collapse, pending, any; /* pending: a space is due before the next character; any: something was written */
    bool want_prefix;
};

/* One character of the mapped text. */
static bool put_char(struct spacing *s, const char *p, size_t n)
{
    static const char space[] = "\xE2\x96\x81";
    bool is_space = n == 1 && *p == ' ';
    if (is_space && s->collapse) {
        s->pending = s->any;
        return true;
    }
    if (!s->any && s->want_prefix && !work_text(s->w, space, 3))
        return false;
    s->any = true;
    if (s->pending && !work_text(s->w, space, 3))
        return false;
    s->pending = false;
    return is_space ? work_text(s->w, space, 3) : work_text(s->w, p, n);
}

static bool put_string(struct spacing *s, const char *p, size_t n)
{
    uint32_t cp;
    bool is_valid;
    for (size_t len; n > 0; p += len, n -= len) {
        len = utf8_take(p, n, &cp, &is_valid);
        if (!put_char(s, p, len))
            return false;
    }
    return true;
}

bool normalise_pieces(struct work *w, const char *text, size_t n, bool is_first)
{
    const struct vocab *v = &w->t->v;
    struct spacing s = { .w = w, .collapse = v->remove_extra_whitespaces, .want_prefix = v->add_space_prefix && is_first };
    struct charsmap map;
    bool has_map = v->charsmap.n && charsmap_open(&map, v->charsmap), is_valid, ok = true;
    uint32_t cp;
    w->n_text = 0;
    for (size_t i = 0, len; i < n && ok; i += len) {
        const char *replacement = NULL;
        w->steps++;
        len = has_map ? charsmap_match(&map, text + i, n - i, &replacement) : 0;
        if (len) {
            ok = put_string(&s, replacement, strnlen(replacement, LONGEST_REPLACEMENT));
            continue;
        }
        len = utf8_take(text + i, n - i, &cp, &is_valid);
        ok = !is_valid && !w->t->has_bytes ? put_char(&s, "\xEF\xBF\xBD", 3) : put_char(&s, text + i, len);
    }
    return ok;
}

/* tokenizer_impl.h: what the tokenizer_*.c and vocab_*.c files share; private to src/formats.
 *
 * A tokenizer is a vocabulary plus tables that make its lookups fast: text -> id (hash), pair of ids ->
 * rank (hash), byte -> id, added tokens (two Aho-Corasick machines), tries for the families that match
 * longest pieces. All tables lie in the arena of tokenizer_open and never change after it; what one call of
 * encode needs lies in its struct work. So any number of threads encode at once.
 */
#ifndef HEARTH_TOKENIZER_IMPL_H
#define HEARTH_TOKENIZER_IMPL_H

#include "formats/formats.h"

/* ---- UTF-8 (unicode.c) ---- */

/* Takes one character. Returns its length and its code point; where the bytes are not UTF-8, the length of
 * the maximal bad part (>= 1), *cp = U+FFFD and *is_valid = false. n >= 1. */
size_t utf8_take(const char *p, size_t n, uint32_t *cp, bool *is_valid);
size_t utf8_put(char out[4], uint32_t cp);
/* Length of the character that its first byte announces, at most n; for text known to be valid. */
size_t utf8_len(const char *p, size_t n);
/* The largest i <= at that begins a character of valid text (so cutting there splits none). */
size_t utf8_floor(const char *p, size_t at);
bool cp_is_space(uint32_t cp);       /* Unicode White_Space */
bool cp_is_word(uint32_t cp);        /* \w: letters, marks, decimal digits, connectors */
bool cp_is_punctuation(uint32_t cp); /* category P* */
bool cp_is_symbol(uint32_t cp);      /* category S* */
bool cp_is_control(uint32_t cp);     /* categories Cc, Cf, Cs, Co, Cn */
bool cp_is_mark_nonspacing(uint32_t cp); /* category Mn */
/* The byte alphabet of byte-level BPE: every byte stands for a printable character. */
uint32_t byte_to_alphabet(uint8_t byte);
int alphabet_to_byte(uint32_t cp); /* -1: not in the alphabet */
/* "<0xAB>" with exactly two upper- or lower-case hex digits; -1 for everything else. */
int byte_token_value(struct str text);

/* ---- text -> id ---- */

/* Open addressing over the tokens' texts. Where two tokens share a text, the later one wins, but never a
 * control token over a plain one. */
struct text_slot { uint32_t id_1, hash; }; /* id + 1, 0: empty; another part of the hash than the place, so that hardly
                                            * ever a wrong text is looked at */
struct text_index {
    const struct vocab_token *tokens;
    size_t n_tokens;
    struct text_slot *slots;
    size_t mask;
    uint64_t seed;
};
bool text_index_build(struct text_index *x, const struct vocab_token *tokens, size_t n_tokens, struct arena *a);
int32_t text_index_find(const struct text_index *x, const char *p, size_t n); /* -1: no such token */
/* The same for n <= FIND_MANY texts, whose cache misses overlap: several times as fast for large vocabularies. */
enum { FIND_MANY = 32 };
void text_index_find_many(int32_t *ids, const struct text_index *x, const struct str *texts, size_t n);

/* ---- tries and Aho-Corasick machines (tokenizer_trie.c) ---- */

struct trie_edge { uint32_t key, to; }; /* key: state << 8 | byte; to 0: empty, since the root is no target */
struct trie {
    uint32_t root[256];
    struct trie_edge *edges;
    size_t mask;
    uint32_t n_states;
    int32_t *value; /* [n_states] id that ends here (after trie_link: or the longest proper suffix that does), or -1 */
    uint32_t *fail; /* [n_states] after trie_link */
    uint32_t *parent, *depth; /* only while building */
    uint8_t *byte;
};
enum { TRIE_MAX_BYTES = 12 << 20 }; /* of all texts together; a state number must fit 24 bits */
bool trie_init(struct trie *t, size_t n_bytes, bool will_link, struct arena *a); /* n_bytes: sum of all texts */
void trie_insert(struct trie *t, const char *p, size_t n, bool backwards, int32_t id);
bool trie_link(struct trie *t, struct arena *a); /* makes it an Aho-Corasick machine */
static inline uint32_t trie_child(const struct trie *t, uint32_t state, uint8_t byte) /* 0: none */
{
    uint32_t key = state << 8 | byte;
    if (state == 0)
        return t->root[byte];
    for (size_t i = (key * (uint64_t)0x9E3779B97F4A7C15u >> 32) & t->mask;; i = (i + 1) & t->mask) {
        if (t->edges[i].to == 0)
            return 0;
        if (t->edges[i].key == key)
            return t->edges[i].to;
    }
}

/* ---- pair of ids -> rank ---- */

/* Merge r joins pairs[r] to merged[r]; the slots hold r + 1, 0: empty. */
struct pair_table {
    const struct vocab_merge *pairs; /* the vocabulary's */
    int32_t *merged;                 /* -1: this merge does not count */
    uint32_t *slots;
    size_t mask;
};
/* The rank of the pair, or -1. */
int32_t pair_find(const struct pair_table *t, int32_t left, int32_t right);

/* ---- the tokenizer ---- */

enum { MAX_PRE_PATTERNS = 8, MAX_EOG = 32 };

struct tokenizer {
    struct vocab v;
    struct text_index index;
    int32_t byte_ids[256]; /* BPE: token of one byte; SPM, unigram: byte token; -1: none */
    bool has_bytes;        /* all 256 are there */
    size_t max_token_bytes;
    char *plain;           /* bytes that decoding appends, token after token */
    uint32_t *plain_at;    /* [n_tokens + 1] where they begin */
    int32_t eog[MAX_EOG];  /* tokens that end a generation */
    size_t n_eog;
    struct trie user, control; /* added tokens, backwards; n_states 0: none */
    struct pair_table pairs;   /* BPE, SPM with merges */
    uint64_t *adjacent;        /* SPM: bit hash(c1, c2): some token holds c1 c2 side by side */
    bool has_unused;           /* SPM: some token is of type UNUSED */
    void *patterns[MAX_PRE_PATTERNS]; /* pcre2_code */
    size_t n_patterns;
    struct trie pieces;        /* WPM, unigram */
    float unk_score;           /* unigram */
};

/* ---- one call of encode ---- */

struct symbol {
    uint32_t start, len; /* bytes of the text; len 0: merged into its left neighbour */
    int32_t prev, next;  /* -1: none */
    int32_t id;          /* token it stands for, or -1 */
};
struct candidate {
    uint64_t key;   /* order << 32 | left symbol; the smallest is merged first */
    uint32_t right; /* symbol */
    uint32_t size;  /* bytes of both; when they differ from the symbols' now, it is stale */
    int32_t merged;
};
struct added_hit { size_t at; int32_t id; };

struct work {
    const struct tokenizer *t;
    struct ids *out;
    struct err *e;
    uint64_t steps;
    struct symbol *symbols;
    size_t n_symbols, cap_symbols;
    struct candidate *heap;
    size_t n_heap, cap_heap;
    struct added_hit *hits;
    size_t n_hits, cap_hits;
    char *text; /* the segment as normalised */
    size_t n_text, cap_text;
    uint32_t *split;  /* SPM with unused tokens: [n_tokens] bytes of the left half of an unused token */
    void *lattice;    /* unigram */
    size_t cap_lattice;
    void *match_data, *match_context; /* PCRE2 */
    bool prev_was_unk; /* the last token was an unknown one and the next joins it */
};
enum hearth_status work_nomem(struct work *w);
/* Makes room for `need` elements of `size` bytes; false (and the error set) when memory is short. */
bool work_reserve(struct work *w, void *array, size_t *cap, size_t need, size_t size);
bool work_push(struct work *w, int32_t id);
bool work_text(struct work *w, const char *p, size_t n); /* appends to w->text */

/* How two neighbours are judged. */
enum merge_rule {
    MERGE_BY_SCORE, /* their text is a token: higher score first */
    MERGE_BY_PAIR,  /* the pair of ids is in t->pairs: lower rank first */
    MERGE_BY_ID,    /* their text is a token with a smaller id than `below`: lower id first (tiktoken) */
};
/* Merges w->symbols[0..n_symbols), a list over `text` in order, until nothing can be merged. O(n log n). */
bool merge_symbols(struct work *w, const char *text, enum merge_rule rule, int32_t below);
bool push_symbol(struct work *w, uint32_t start, uint32_t len, int32_t id);

/* Fills w->text as SentencePiece would (tokenizer_normalise.c). */
bool normalise_pieces(struct work *w, const char *text, size_t n, bool is_first);
bool charsmap_is_sane(struct str blob);

/* Each encodes one stretch of ordinary text; is_first: at the start or behind an added token. */
enum hearth_status encode_spm(struct work *w, const char *text, size_t n, bool is_first);
enum hearth_status encode_bpe(struct work *w, const char *text, size_t n, bool is_first);
enum hearth_status encode_wpm(struct work *w, const char *text, size_t n, bool is_first);
enum hearth_status encode_unigram(struct work *w, const char *text, size_t n, bool is_first);
enum hearth_status encode_char(struct work *w, const char *text, size_t n, bool is_first);
void work_free_bpe(struct work *w);

/* Parts of tokenizer_open. */
enum hearth_status open_pairs(struct tokenizer *t, struct arena *a, struct err *e);
enum hearth_status open_spm(struct tokenizer *t, struct arena *a, struct err *e);
enum hearth_status open_bpe(struct tokenizer *t, struct arena *a, struct err *e);
enum hearth_status open_wpm(struct tokenizer *t, struct arena *a, struct err *e);
enum hearth_status open_unigram(struct tokenizer *t, struct arena *a, struct err *e);
bool open_plain(struct tokenizer *t, struct arena *a); /* t->plain, t->plain_at */
void close_bpe(struct tokenizer *t);

static inline bool token_is_plain(const struct vocab_token *k) /* may come out of ordinary text */
{
    return k->type == TOKEN_NORMAL || k->type == TOKEN_USER_DEFINED || k->type == TOKEN_UNUSED;
}
static inline struct str token_plain(const struct tokenizer *t, int32_t id)
{
    return (struct str){ t->plain + t->plain_at[id], t->plain_at[id + 1] - t->plain_at[id] };
}
/* Plain token with this text, or -1. */
static inline int32_t find_plain(const struct tokenizer *t, const char *p, size_t n)
{
    int32_t id = n <= t->max_token_bytes ? text_index_find(&t->index, p, n) : -1;
    return id >= 0 && token_is_plain(&t->v.tokens[id]) ? id : -1;
}

/* ---- pre-split rules (tokenizer_pre.c) ---- */

struct pre_rule {
    const char *name;       /* tokenizer.ggml.pre */
    const char *patterns[MAX_PRE_PATTERNS]; /* PCRE2, applied one after the other; NULL-terminated */
    unsigned flags;
};
enum { PRE_IGNORE_MERGES = 1, PRE_ADD_BOS = 2, PRE_ADD_SEP = 4 }; /* what the name implies where a GGUF is silent */
const struct pre_rule *pre_rule_find(struct str name); /* NULL: unknown */
/* The rule whose steps a tokenizer.json lists; signature as pre_signature of vocab_hf.c writes it. */
const char *pre_name_of_signature(const char *signature);

/* ---- vocabularies ---- */

/* Ranges, scores and texts are sane; called by every reader. what names the file. */
enum hearth_status vocab_check(struct vocab *v, const char *what, struct err *e);
void vocab_init(struct vocab *v);
/* Phi-3 files say nothing of flags: control tokens swallow the white space to their right. */
void vocab_apply_family_flags(struct vocab *v);
/* "left right" of a merge list, cut so that both halves and the whole are tokens. */
bool vocab_split_merge(struct vocab_merge *m, const struct text_index *x, struct str line);

#endif

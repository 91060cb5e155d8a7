/* formats.h: bytes to structs. All input here is hostile: every count, offset, length and type is
 * tested before it is used, and a refusal is one sentence that names file, key, tensor and limit.
 *
 * Model files (gguf.c, safetensors.c), vocabularies and tokenizers (vocab*.c, tokenizer*.c), chat
 * templates (template*.c, chat.c), grammars that bind what a model may write (grammar*.c). Results live in the arena the caller gives; strings are not
 * NUL-terminated unless said.
 */
#ifndef HEARTH_FORMATS_H
#define HEARTH_FORMATS_H

#include <jansson.h>

#include "base/base.h"
#include "kernels/kernels.h"

/* A borrowed byte string. */
struct str {
    const char *p;
    size_t n;
};
#define STR(literal) ((struct str){ (literal), sizeof(literal) - 1 })
#define STR_FMT(s) (int)MIN((s).n, 200u), (s).p /* for "%.*s" */
bool str_eq(struct str a, struct str b);
bool str_eqz(struct str a, const char *b);

/* ================================ GGUF (v3, little-endian, splits) ================================ */

enum gguf_kind {
    GGUF_U8 = 0, GGUF_I8 = 1, GGUF_U16 = 2, GGUF_I16 = 3, GGUF_U32 = 4, GGUF_I32 = 5, GGUF_F32 = 6,
    GGUF_BOOL = 7, GGUF_STRING = 8, GGUF_ARRAY = 9, GGUF_U64 = 10, GGUF_I64 = 11, GGUF_F64 = 12, GGUF_KIND_COUNT = 13
};

/* Long arrays lie in a mapping of the file, which gguf_close ends and which another process may write to: whatever a
 * check found in `data` may be different at the next look, so look once, or copy. */
struct gguf_array {
    enum gguf_kind kind;      /* never ARRAY: nested arrays are refused */
    size_t count, n_bytes;
    const uint8_t *data;      /* [n_bytes] count little-endian scalars, unaligned; strings: gguf_strings walks them */
};
/* Walks an array of strings, count steps: for (s = gguf_strings(&a); ...;) text = gguf_next_string(&s). Always inside
 * the array, whatever its bytes say now; behind its end the strings are empty. */
struct gguf_strings { const uint8_t *p, *end; };
struct gguf_strings gguf_strings(const struct gguf_array *a);
struct str gguf_next_string(struct gguf_strings *s);

struct gguf_kv {
    struct str key;
    enum gguf_kind kind;
    union {
        uint64_t u;  /* U8 U16 U32 U64 */
        int64_t i;   /* I8 I16 I32 I64 */
        double f;    /* F32 F64 */
        bool b;
        struct str s;
        struct gguf_array a;
    } v;
};

struct gguf_tensor {
    struct str name;
    uint32_t type;           /* enum tensor_type, not necessarily readable; in a pack also that + TYPE_R8 */
    uint32_t n_dims;         /* 1..4 */
    uint64_t dims[LIMIT_TENSOR_DIMS]; /* dims[0] is the contiguous one (columns, k); unused ones are 1 */
    uint64_t offset;         /* absolute in its file */
    size_t size_bytes;
    uint32_t i_file;
};

struct gguf {
    struct file *files;      /* [n_files]: more than one when split */
    size_t n_files;
    const struct gguf_kv *kvs;
    size_t n_kvs;
    const struct gguf_tensor *tensors; /* of all splits, in file order */
    size_t n_tensors;
    uint32_t version, alignment;
    bool is_pack;            /* matrices are strips of eight rows: hearth.layout is LAYOUT_R8 */
    const char *path;        /* as given, for messages */
    struct map map;          /* of the first file, once an array was long enough */
    void *index;             /* private: names to entries */
};

/* Opens and checks the whole directory (not the weights). A path of a first split "-00001-of-000NN.gguf"
 * opens all; another part is refused (EINVAL) with the name of the first. On failure *g is closed. EIO, EDAMAGED,
 * EUNSUPPORTED, ELIMIT, ENOMEM, ENOTFOUND. */
MUST_CHECK enum hearth_status gguf_open(struct gguf *g, const char *path, struct arena *a, struct err *e);
/* The files and long arrays (texts of a vocabulary); the arena keeps the directory. Accepts a closed one. */
void gguf_close(struct gguf *g);

const struct gguf_kv *gguf_find(const struct gguf *g, const char *key);           /* NULL when absent */
const struct gguf_tensor *gguf_find_tensor(const struct gguf *g, const char *name); /* NULL when absent */

/* Typed getters. ENOTFOUND (e untouched) when absent; EDAMAGED with a sentence when the kind is wrong or
 * the value is outside [lo, hi]. Any integer kind satisfies get_u64/get_i64; f64 accepts F32 and F64. */
enum hearth_status gguf_get_u64(const struct gguf *g, const char *key, uint64_t lo, uint64_t hi, uint64_t *out, struct err *e);
enum hearth_status gguf_get_f64(const struct gguf *g, const char *key, double *out, struct err *e); /* finite */
enum hearth_status gguf_get_bool(const struct gguf *g, const char *key, bool *out, struct err *e);
enum hearth_status gguf_get_str(const struct gguf *g, const char *key, struct str *out, struct err *e);
enum hearth_status gguf_get_array(const struct gguf *g, const char *key, enum gguf_kind kind, struct gguf_array *out, struct err *e);

#define LAYOUT_R8 "r8/1"

/* The one computation of a tensor's size (V2): n_dims 1..4, no zero dims, dims[0] a multiple of the
 * type's block, no overflow; strips (type + TYPE_R8): two dimensions, rows padded to eight. what: for the message. */
enum hearth_status tensor_extent(size_t *bytes, uint32_t type, uint32_t n_dims, const uint64_t *dims,
                                 const char *what, struct err *e);

/* Writing: open, put keys, declare tensors (order = file order), begin_data, write each tensor's bytes
 * in the declared order (in as many pieces as you like, none across two tensors), commit. Any failure is sticky and
 * reported by the next call that can, at the latest by commit, which also begins the data when nobody did. What the
 * reader would refuse is refused here too. commit (whether it succeeds or not) and abandon end the writer; abandon
 * removes the unfinished file. general.alignment, when put (u32), is honoured; else it is 32. */
struct gguf_writer;
MUST_CHECK enum hearth_status gguf_writer_open(struct gguf_writer **out, const char *path, struct arena *a, struct err *e);
void gguf_put_u32(struct gguf_writer *w, const char *key, uint32_t v);
void gguf_put_u64(struct gguf_writer *w, const char *key, uint64_t v);
void gguf_put_i32(struct gguf_writer *w, const char *key, int32_t v);
void gguf_put_f32(struct gguf_writer *w, const char *key, float v);
void gguf_put_bool(struct gguf_writer *w, const char *key, bool v);
void gguf_put_str(struct gguf_writer *w, const char *key, struct str v);
void gguf_put_strs(struct gguf_writer *w, const char *key, const struct str *v, size_t n);
void gguf_put_array(struct gguf_writer *w, const char *key, enum gguf_kind kind, const void *v, size_t n); /* scalars, native */
void gguf_put_kv(struct gguf_writer *w, const struct gguf_kv *kv); /* copies a key of another file */
void gguf_put_tensor(struct gguf_writer *w, struct str name, uint32_t type, uint32_t n_dims, const uint64_t *dims);
MUST_CHECK enum hearth_status gguf_begin_data(struct gguf_writer *w, struct err *e);
MUST_CHECK enum hearth_status gguf_write_data(struct gguf_writer *w, const void *data, size_t bytes, struct err *e);
MUST_CHECK enum hearth_status gguf_writer_commit(struct gguf_writer *w, struct err *e);
void gguf_writer_abandon(struct gguf_writer *w); /* accepts NULL and a committed one */

/* ================================ safetensors ================================ */

struct st_tensor {
    struct str name;
    enum tensor_type type;   /* F32 F16 BF16 F64 I8 I16 I32 I64 */
    uint32_t n_dims;         /* 0..4; dims in the file's order: dims[0] the slowest */
    uint64_t dims[LIMIT_TENSOR_DIMS];
    uint64_t offset;         /* absolute in its file */
    size_t size_bytes;
    uint32_t i_file;
};
struct safetensors {
    struct file *files;
    size_t n_files;
    const struct st_tensor *tensors;
    size_t n_tensors;
    void *index;             /* private: names to entries */
};
/* path: one .safetensors file, or a folder with model.safetensors or model.safetensors.index.json. On failure *s is
 * closed. EIO, EDAMAGED, EUNSUPPORTED (dtype, tensors without elements, > 4 dimensions), ELIMIT, ENOMEM, ENOTFOUND. */
MUST_CHECK enum hearth_status st_open(struct safetensors *s, const char *path, struct arena *a, struct err *e);
void st_close(struct safetensors *s);
const struct st_tensor *st_find(const struct safetensors *s, const char *name);

/* JSON text of hostile origin: depth scanned first (<= LIMIT_JSON_DEPTH), duplicates refused. The caller
 * owns *out (json_decref). what: for the message. */
MUST_CHECK enum hearth_status json_parse(json_t **out, const char *text, size_t n, const char *what, struct err *e);

/* ================================ vocabularies and tokenizers ================================ */

enum vocab_kind {
    VOCAB_NONE,
    VOCAB_SPM,  /* SentencePiece BPE with byte fallback: GGUF "llama" */
    VOCAB_BPE,  /* byte-level BPE with a pre-split pattern: GGUF "gpt2" */
    VOCAB_WPM,  /* WordPiece: GGUF "bert" */
    VOCAB_UGM,  /* unigram: GGUF "t5" */
    VOCAB_CHAR, /* one token per character: hearth's own "char" */
};
enum token_type { TOKEN_NORMAL = 1, TOKEN_UNKNOWN = 2, TOKEN_CONTROL = 3, TOKEN_USER_DEFINED = 4, TOKEN_UNUSED = 5, TOKEN_BYTE = 6 };
enum { TOKEN_LSTRIP = 1, TOKEN_RSTRIP = 2, TOKEN_SINGLE_WORD = 4 }; /* flags of added tokens */

struct vocab_token {
    struct str text; /* as stored: SPM uses U+2581 for space, BPE the byte alphabet */
    float score;
    uint8_t type;    /* enum token_type */
    uint8_t flags;
};
struct vocab_merge { int32_t left, right; }; /* two tokens that join to a third */
struct text_index;

/* What a vocabulary file says, whatever its format; convert writes it to GGUF unchanged. */
struct vocab {
    enum vocab_kind kind;
    struct str pre;             /* name of the pre-split rule: "llama-bpe", "qwen2", "gpt-2", "default" ... */
    struct vocab_token *tokens;
    size_t n_tokens;
    struct vocab_merge *merges; /* rank order. Present for BPE; for SPM only when the source ranks pairs */
    size_t n_merges;
    int32_t bos, eos, eot, unk, pad, sep, cls, mask; /* -1: none */
    bool add_bos, add_eos, add_space_prefix, remove_extra_whitespaces, ignore_merges, byte_fallback;
    bool lowercase, strip_accents; /* WordPiece: what its normaliser does */
    struct str charsmap;        /* precompiled normaliser of unigram models; empty: none */
    struct str chat_template;   /* empty: none */
    struct str name;            /* general.name or folder name: Phi-3's flags hang on it */
    const struct text_index *index; /* private: made by the reader, of these very tokens; NULL: none */
};

/* From an opened GGUF. ENOTFOUND when it holds no vocabulary. Strings borrow from g, until gguf_close. */
MUST_CHECK enum hearth_status vocab_from_gguf(struct vocab *v, const struct gguf *g, struct arena *a, struct err *e);
/* From a folder or one file: tokenizer.json (+ tokenizer_config.json, special_tokens_map.json),
 * tokenizer.model (SentencePiece protobuf, or tiktoken text), vocab.json + merges.txt, vocab.json of characters. */
MUST_CHECK enum hearth_status vocab_from_files(struct vocab *v, const char *path, struct arena *a, struct err *e);
/* llama2.c's tokenizer.bin; n_tokens comes from the checkpoint. */
MUST_CHECK enum hearth_status vocab_from_llama2c(struct vocab *v, const char *path, size_t n_tokens, struct arena *a, struct err *e);
/* All tokenizer.* keys, so that vocab_from_gguf gives the same vocabulary back. */
void vocab_to_gguf(const struct vocab *v, struct gguf_writer *w);

/* Immutable after open; any number of threads encode and decode at once. */
struct tokenizer;
MUST_CHECK enum hearth_status tokenizer_open(struct tokenizer **out, const struct vocab *v, struct arena *a, struct err *e);
void tokenizer_close(struct tokenizer *t); /* what lies outside the arena (compiled patterns); accepts NULL */
const struct vocab *tokenizer_vocab(const struct tokenizer *t);

enum {
    ENCODE_BOS = 1,     /* add BOS (and EOS, [CLS] ... [SEP]) as the vocabulary says it wants */
    ENCODE_SPECIAL = 2, /* control tokens are recognised in trusted text; without it their text is ordinary text */
};
/* Ranges of the text that came from outside: control tokens are never recognised in (or across) them (T24).
 * Sorted, disjoint. */
struct text_span { size_t begin, end; };

struct ids { int32_t *v; size_t n, cap; }; /* malloc'd by encode; ids_free */
void ids_free(struct ids *ids);
bool ids_push(struct ids *ids, int32_t id);

/* Appends the ids of text[0..n) to *out. Invalid UTF-8 is taken as U+FFFD per maximal bad part (byte-fallback
 * and byte-level kinds keep the bytes). Time is linear (up to log) in n for any text. ENOMEM, ELIMIT.
 * n_steps (may be NULL) receives the work done, for the linearity tests. */
MUST_CHECK enum hearth_status tokenizer_encode(const struct tokenizer *t, const char *text, size_t n, unsigned flags,
                                    const struct text_span *untrusted, size_t n_untrusted,
                                    struct ids *out, uint64_t *n_steps, struct err *e);

/* The bytes one token stands for, as decoding appends them (SPM: U+2581 is a space; byte tokens: the byte).
 * Control tokens give their text when show_control, else nothing. Borrowed from buf[32] or the vocabulary. */
struct str tokenizer_piece(const struct tokenizer *t, int32_t id, bool show_control, char buf[32]);
/* Whole-sequence decode: pieces joined, with the family's rule for the leading space (SPM drops the one that
 * encoding put in front) and WordPiece clean-up. */
MUST_CHECK enum hearth_status tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, bool show_control, struct buf *out);

/* Streaming decode: feeds one token, appends to out only whole UTF-8 characters; the rest waits. flush
 * appends what is left as U+FFFD. The concatenation equals tokenizer_decode for valid text. */
struct decoder {
    const struct tokenizer *t;
    char pending[8];
    size_t n_pending;
    bool show_control, at_start;
};
void decoder_init(struct decoder *d, const struct tokenizer *t, bool show_control, bool at_start);
void decoder_push(struct decoder *d, int32_t id, struct buf *out);
void decoder_flush(struct decoder *d, struct buf *out);

bool tokenizer_is_eog(const struct tokenizer *t, int32_t id); /* end of generation: EOS, EOT, <|end|>, <|im_end|> ... */

/* ================================ chat templates ================================ */

/* The Jinja that real templates use, bounded in steps, depth and output (V8). Immutable after compile. */
struct template;
MUST_CHECK enum hearth_status template_compile(struct template **out, const char *text, size_t n, const char *name,
                                    struct arena *a, struct err *e);

/* What a rendering gives: the text, and which ranges of it came from data (messages, tools), not from the template. */
struct rendered {
    struct buf text;
    struct text_span *untrusted; /* malloc'd, sorted, disjoint */
    size_t n_untrusted;
};
void rendered_init(struct rendered *r);
void rendered_free(struct rendered *r);

/* vars: an object of the template's variables. trusted: names of top-level variables whose text counts as the
 * template's own (bos_token, eos_token ...), NULL-terminated, may be NULL. raise_exception gives EINVAL with its text;
 * a limit gives ELIMIT. */
MUST_CHECK enum hearth_status template_render(const struct template *t, json_t *vars, const char *const *trusted,
                                   struct rendered *out, struct err *e);

struct chat_options {
    json_t *messages;          /* array of {role, content, ...} */
    json_t *tools;             /* array or NULL */
    json_t *extra;             /* object of further variables (enable_thinking ...) or NULL */
    const char *bos, *eos;     /* text of the tokens; NULL: "" */
    const char *date;          /* "YYYY-MM-DD" for strftime_now and date_string; NULL: today */
    bool add_generation_prompt;
};
/* Renders a conversation. Where the template refuses a system role, the system text goes before the first user
 * turn (one newline between) and the rendering is done again. Role names count as trusted only when they are the
 * well-known ones (system, user, assistant, tool, developer, function, ipython). */
MUST_CHECK enum hearth_status chat_render(const struct template *t, const struct chat_options *o, struct rendered *out, struct err *e);

/* ================================ grammars: what a model may write ================================ */

/* A set of texts, as an automaton over bytes with a stack. Immutable after it is made, any number of threads use it.
 * Making one is bounded (V13): text, nesting, nodes, repeats, pattern bytes, automaton states and steps have limits
 * (limits.h), and what goes beyond is ELIMIT with a sentence that begins "too complex". */
struct grammar;

enum {
    /* Without it a schema is read as people write them for generation: keywords of one type imply that type, and an
     * object that names its properties has no others unless additionalProperties says so. With it, what a schema
     * does not speak of is allowed. Either way each text is a value that the schema admits. */
    SCHEMA_EXACT = 1,
    SCHEMA_IGNORE_UNIQUE = 2, /* uniqueItems, which no automaton can see to, is passed over instead of refused */
};
/* JSON Schema (draft 2020-12, the part that docs/GRAMMAR.md lists). EDAMAGED: not JSON. EINVAL: no schema, or no value
 * satisfies it. EUNSUPPORTED: names the keyword. ELIMIT, ENOMEM. */
MUST_CHECK enum hearth_status grammar_from_schema(struct grammar **out, const char *text, size_t n, unsigned flags, struct arena *a, struct err *e);
/* GBNF as llama.cpp writes it, beginning at the rule "root". EDAMAGED: line and column of the mistake. EUNSUPPORTED: left
 * recursion. EINVAL: no text matches. ELIMIT, ENOMEM. */
MUST_CHECK enum hearth_status grammar_from_gbnf(struct grammar **out, const char *text, size_t n, struct arena *a, struct err *e);
/* Any JSON object, or (any_value) any JSON value. */
MUST_CHECK enum hearth_status grammar_any_json(struct grammar **out, bool any_value, struct arena *a, struct err *e);

/* The tokens of a tokenizer as a trie of their bytes; control tokens and those without bytes are not in it. Immutable,
 * lives in the arena, borrows the tokenizer. About 12 bytes per trie node: 4 MB for 128 k tokens. ENOMEM. */
struct grammar_vocab;
MUST_CHECK enum hearth_status grammar_vocab_open(struct grammar_vocab **out, const struct tokenizer *t, struct arena *a, struct err *e);
size_t grammar_vocab_bytes(const struct grammar_vocab *v); /* memory held */

/* What was learnt while running one grammar on one vocabulary: states of the automaton and the masks of the tokens that
 * may follow them, for all runs together, within `bytes` (0: 2 MiB; raised to what the vocabulary's masks need at least).
 * One thread at a time. All memory comes from the arena here: running allocates nothing. vocab NULL: bytes only. */
struct grammar_cache;
MUST_CHECK enum hearth_status grammar_cache_open(struct grammar_cache **out, const struct grammar *g, const struct grammar_vocab *v, size_t bytes,
                                      struct arena *a, struct err *e);
struct grammar_stats { size_t n_states, n_masks_made, n_masks_found, n_collections; };
struct grammar_stats grammar_cache_stats(const struct grammar_cache *c);

/* One text being written. Caller-allocated, must not move while open. */
struct grammar_run {
    struct grammar_cache *cache;             /* NULL: closed */
    struct grammar_run *next, **link;        /* in the cache's list */
    uint32_t states[LIMIT_GRAMMAR_ROLLBACK + 1]; /* ring: after each of the last steps */
    size_t n_steps, n_back;                  /* made; how many can be taken back now */
};
/* At the beginning of a text. ELIMIT when the grammar alone overflows the cache. */
MUST_CHECK enum hearth_status grammar_run_open(struct grammar_run *r, struct grammar_cache *c, struct err *e);
void grammar_run_close(struct grammar_run *r); /* accepts a closed or zeroed one */
/* May the text end here? May nothing but the end follow? */
bool grammar_can_end(const struct grammar_run *r);
bool grammar_is_over(struct grammar_run *r);
/* One step. false: the grammar does not allow it, and the run is as before. A token that ends generation is allowed where
 * the text may end, and changes nothing. */
bool grammar_accept_bytes(struct grammar_run *r, const char *p, size_t n);
bool grammar_accept_token(struct grammar_run *r, int32_t id);
/* Takes back the last n steps, at most LIMIT_GRAMMAR_ROLLBACK: for drafts that were refused. */
void grammar_rollback(struct grammar_run *r, size_t n);
/* Which tokens may come next: bit id % 32 of word id / 32, (n_tokens + 31) / 32 words, valid until the next call with this
 * cache. Tokens that end generation are in it exactly where the text may end. ELIMIT: no token fits (nested too deeply,
 * or the vocabulary cannot write it), or the grammar is too ambiguous for the cache. */
MUST_CHECK enum hearth_status grammar_mask(struct grammar_run *r, const uint32_t **mask, struct err *e);
/* logits[i] = -infinity where the mask says no. */
void grammar_apply(const uint32_t *mask, float *logits, size_t n_logits);

#endif

/* vocab_files.h: what the readers of vocabulary files share; private to src/formats. */
#ifndef HEARTH_VOCAB_FILES_H
#define HEARTH_VOCAB_FILES_H

#include "formats/tokenizer_impl.h"

/* A vocabulary under construction: ids may come in any order and leave gaps. */
struct vocab_build {
    struct vocab *v;
    struct arena *a;
    const char *what; /* file, for messages */
    size_t cap;
};
MUST_CHECK enum hearth_status build_token(struct vocab_build *b, uint64_t id, struct str text, float score, int type, unsigned flags,
                                          struct err *e); /* text is kept; overwrites */
/* Fills gaps up to n_tokens (at least the highest id + 1) with unused "[PADn]". */
MUST_CHECK enum hearth_status build_finish(struct vocab_build *b, size_t n_tokens, struct err *e);
/* Id of the token with this text, -1: none. Slow: a scan; for the few special tokens of a configuration. */
int32_t build_find(const struct vocab_build *b, struct str text);

struct str json_text(const json_t *s, struct arena *a); /* a copy; p NULL: no memory. s must be a string */
/* ENOTFOUND (e untouched) when the file is not there. */
MUST_CHECK enum hearth_status json_file(json_t **out, const char *folder, const char *name, struct err *e);
const char *path_join(struct arena *a, const char *folder, const char *name); /* NULL: no memory */

bool base64_decode(struct str *out, struct str in, struct arena *a); /* false: not base64, or no memory */

/* The readers. data stays in the arena, as texts may point into it. */
MUST_CHECK enum hearth_status vocab_from_tiktoken(struct vocab_build *b, const char *data, size_t n, struct err *e);
MUST_CHECK enum hearth_status vocab_from_sentencepiece(struct vocab_build *b, const char *data, size_t n, struct err *e);
MUST_CHECK enum hearth_status vocab_from_tokenizer_json(struct vocab_build *b, const json_t *root, struct err *e);
/* tokenizer_config.json, special_tokens_map.json, config.json, chat_template.jinja of the folder: special tokens, what is
 * put around a text, the template, how many tokens the model has. has_types: tokenizer.json has already said which
 * added tokens are special. Ends with build_finish. */
MUST_CHECK enum hearth_status vocab_apply_config(struct vocab_build *b, const char *folder, bool has_types, struct err *e);

#endif

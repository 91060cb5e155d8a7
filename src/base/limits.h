/* limits.h: every limit of hearth in one table, so that a reader can find what bounds what.
 *
 * A limit on hostile input is tested before memory is allocated for it. Where a limit follows from a
 * known attack, the number of its line in the threat list (V1 ...) stands behind it.
 */
#ifndef HEARTH_LIMITS_H
#define HEARTH_LIMITS_H

#define KIB ((size_t)1024)
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)

/* Model files (V1-V7). */
#define LIMIT_GGUF_TENSORS 65536
#define LIMIT_GGUF_KEYS 4096
#define LIMIT_GGUF_KEY_BYTES 256
#define LIMIT_GGUF_STRING_BYTES (1 * MIB)
#define LIMIT_GGUF_ARRAY_ELEMENTS (4u << 20)
#define LIMIT_GGUF_META_BYTES (256 * MIB)
#define LIMIT_GGUF_ALIGN_MIN 8
#define LIMIT_GGUF_ALIGN_MAX 65536
#define LIMIT_GGUF_NAME_BYTES 64
#define LIMIT_GGUF_SPLITS 1024
#define LIMIT_TENSOR_DIMS 4
#define LIMIT_SAFETENSORS_HEADER_BYTES (16 * MIB)
#define LIMIT_SAFETENSORS_ENTRIES 65536
#define LIMIT_JSON_DEPTH 64

/* Hyper-parameters (V5): what a file may claim before its tensors are looked at. */
#define LIMIT_LAYERS 512
#define LIMIT_EMBD 65536
#define LIMIT_FF 262144
#define LIMIT_HEADS 1024
#define LIMIT_HEAD_DIM 256
#define LIMIT_VOCAB (1u << 20)
#define LIMIT_CONTEXT (16u << 20)

/* Text (V8, V14). */
#define LIMIT_TEMPLATE_BYTES (256 * KIB)
#define LIMIT_TEMPLATE_STEPS 1000000
#define LIMIT_TEMPLATE_DEPTH 64       /* of the source: blocks and brackets */
#define LIMIT_TEMPLATE_EVAL_DEPTH 400 /* while running: macros calling macros */
#define LIMIT_TEMPLATE_NESTING 100    /* of data that is printed, compared, hashed */
#define LIMIT_TEMPLATE_MEMORY_BYTES (64 * MIB)
#define LIMIT_TEMPLATE_OUTPUT_BYTES (1 * MIB)
#define LIMIT_TEMPLATE_RANGE 10000
#define LIMIT_PIECE_BYTES (64 * KIB)
#define LIMIT_TOKEN_BYTES (64 * KIB)
#define LIMIT_TEXT_BYTES (64 * MIB)          /* one call of the tokenizer */
#define LIMIT_ADDED_TOKEN_BYTES (4 * MIB)    /* texts of all added tokens of a vocabulary */
#define LIMIT_MERGES (2u << 20)
#define LIMIT_VOCAB_FILE_BYTES (128 * MIB)
#define LIMIT_COMBINING_RUN 30

/* Grammars (V13). */
#define LIMIT_GRAMMAR_BYTES (64 * KIB)       /* of a schema or a GBNF text */
#define LIMIT_GRAMMAR_NODES 4096             /* JSON values of a schema; rules of a GBNF text */
#define LIMIT_GRAMMAR_DEPTH 64               /* groups in groups */
#define LIMIT_GRAMMAR_REPEAT 1000
#define LIMIT_GRAMMAR_STATES (128u * 1024)   /* of the automaton */
#define LIMIT_GRAMMAR_STEPS 4000000          /* of making one: under 50 ms */
#define LIMIT_PATTERN_BYTES 512
#define LIMIT_PATTERN_STATES 10000           /* of its deterministic automaton */
#define LIMIT_GRAMMAR_NESTING 256            /* open rules while running */
#define LIMIT_GRAMMAR_CONFIGS 4096           /* ways in which one text can be read */
#define LIMIT_GRAMMAR_ROLLBACK 64
#define LIMIT_GRAMMAR_TOKEN_BYTES 1024       /* longer tokens are never chosen under a grammar */

/* The machine. */
#define LIMIT_THREADS 256
#define LIMIT_CPUS 1024
#define LIMIT_BATCH 16384 /* tokens of one engine step */
#define LIMIT_DRAFT 31    /* tokens guessed ahead in one step */

/* The KV cache: tokens in one chunk, always (design of the chunk tiers). */
#define CHUNK_TOKENS 32
/* Attention over a long context is cut at these absolute positions and merged left to right. */
#define ATTN_RANGE_TOKENS 512

#endif

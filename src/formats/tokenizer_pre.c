/* tokenizer_pre.c: how byte-level BPE cuts text before it merges: one table of rules by name.
 *
 * A rule is a list of patterns. The first is looked for in the text; what it matches and what lies between are
 * pieces, in which the next pattern is looked for, and so on. Names are those of tokenizer.ggml.pre. A
 * tokenizer.json lists its steps instead; vocab_hf.c writes them down as a signature, one step a line, and
 * pre_name_of_signature turns the exact signature of a known family into its name. What is not in the table is
 * refused by name: cutting differently gives different tokens and a silently worse model.
 *
 * In these patterns \s and \S mean Unicode's White_Space (tokenizer_bpe.c spells them out, since PCRE2's \s
 * counts U+180E too). Letter case is ignored where the families' own patterns do.
 *
 * Two patterns are written differently from their source, with the same effect: "\s+$" of deepseek-llm would try
 * every suffix of a run of spaces (quadratic); looking behind makes it try once. Classes nested in bloom's class are
 * written flat.
 *
 * Sources: the tokenizer.json of the families, as llama.cpp's llama-vocab.cpp quotes them.
 */
#include "formats/tokenizer_impl.h"

#include <string.h>

/* clang-format off */
#define GPT2 \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define LLAMA3 \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N" \
    "}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define QWEN2 \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r" \
    "\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define QWEN35 \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p" \
    "{M}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define GPT4O \
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?i:" \
    "'s|'t|'re|'ve|'m|'ll|'d)?|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{" \
    "Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]" \
    "+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define TEKKEN \
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|[^\\r" \
    "\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|\\p{N}| " \
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define DEEPSEEK_V3 \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}" \
    "]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
#define LETTERS \
    "[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ" \
    "-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\u1F7Dᾀ-ᾴᾶ-ᾼ\u1FBEῂ-ῄῆ-ῌῐ-\u1FD3ῖ-\u1FDBῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212A-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ" \
    "-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+"
#define HAN \
    "[一-龥ࠀ-一가-퟿]+"

static const struct pre_rule rules[] = {
    { "default", { "[\\p{P}\\$\\+<=>\\^~\\|]+",
      GPT2,
      "\\p{N}+",
      "[0-9][0-9][0-9]" }, 0 },
    { "gpt-2", { GPT2 }, 0 },
    { "phi-2", { GPT2 }, 0 },
    { "jina-es", { GPT2 }, 0 },
    { "jina-de", { GPT2 }, 0 },
    { "gigachat", { GPT2 }, 0 },
    { "jina-v2-es", { GPT2 }, 0 },
    { "jina-v2-de", { GPT2 }, 0 },
    { "a.x-4.0", { GPT2 }, 0 },
    { "mellum", { GPT2 }, 0 },
    { "modern-bert", { GPT2 }, 0 },
    { "exaone4", { GPT2 }, 0 },
    { "mpt", { GPT2 }, 0 },
    { "olmo", { GPT2 }, 0 },
    { "jais", { GPT2 }, 0 },
    { "trillion", { GPT2 }, 0 },
    { "granite-docling", { GPT2 }, 0 },
    { "roberta-bpe", { GPT2 }, 0 },
    { "jina-v1-en", { GPT2 }, 0 },
    { "jina-v2-code", { GPT2 }, 0 },
    { "llama-bpe", { LLAMA3 }, PRE_IGNORE_MERGES | PRE_ADD_BOS },
    { "llama3", { LLAMA3 }, PRE_IGNORE_MERGES | PRE_ADD_BOS },
    { "llama-v3", { LLAMA3 }, PRE_IGNORE_MERGES | PRE_ADD_BOS },
    { "falcon3", { LLAMA3 }, PRE_IGNORE_MERGES | PRE_ADD_BOS },
    { "falcon-h1", { LLAMA3 }, PRE_IGNORE_MERGES | PRE_ADD_BOS },
    { "pixtral", { LLAMA3 }, PRE_IGNORE_MERGES | PRE_ADD_BOS },
    { "midm-2.0", { LLAMA3 }, PRE_IGNORE_MERGES | PRE_ADD_BOS },
    { "lfm2", { LLAMA3 }, PRE_IGNORE_MERGES | PRE_ADD_BOS },
    { "jina-v5-nano", { LLAMA3 }, PRE_IGNORE_MERGES | PRE_ADD_BOS },
    { "dbrx", { LLAMA3 }, 0 },
    { "smaug-bpe", { LLAMA3 }, 0 },
    { "chatglm-bpe", { LLAMA3 }, 0 },
    { "glm4", { LLAMA3 }, 0 },
    { "qwen2", { QWEN2 }, 0 },
    { "deepseek-r1-qwen", { QWEN2 }, 0 },
    { "kormo", { QWEN2 }, 0 },
    { "f2llmv2", { QWEN2 }, 0 },
    { "stablelm2", { QWEN2 }, 0 },
    { "megrez", { QWEN2 }, 0 },
    { "hunyuan", { QWEN2 }, 0 },
    { "solar-open", { QWEN2 }, 0 },
    { "grok-2", { QWEN2 }, 0 },
    { "qwen35", { QWEN35 }, 0 },
    { "gpt-4o", { GPT4O }, 0 },
    { "llama4", { GPT4O }, 0 },
    { "kanana2", { GPT4O }, 0 },
    { "talkie", { GPT4O }, 0 },
    { "minimax-m2", { GPT4O }, 0 },
    { "tekken", { TEKKEN }, PRE_IGNORE_MERGES | PRE_ADD_BOS },
    { "smollm", { "\\p{N}",
      GPT2 }, 0 },
    { "starcoder", { "\\p{N}",
      GPT2 }, 0 },
    { "refact", { "\\p{N}",
      GPT2 }, 0 },
    { "command-r", { "\\p{N}",
      GPT2 }, 0 },
    { "codeshell", { "\\p{N}",
      GPT2 }, 0 },
    { "exaone", { "\\p{N}",
      GPT2 }, 0 },
    { "minerva-7b", { "\\p{N}",
      GPT2 }, 0 },
    { "mellum2", { "\\p{N}",
      GPT2 }, 0 },
    { "falcon", { "[\\p{P}\\$\\+<=>\\^~\\|`]+",
      GPT2,
      "[0-9]+",
      "[0-9][0-9][0-9]" }, 0 },
    { "deepseek-llm", { "[\r\n]",
      "\\s?" LETTERS,
      "\\s?[!-/:-~！-／：-～‘-‟　-。]+",
      "(?<!\\s)\\s++\\z",
      HAN,
      "\\p{N}+" }, 0 },
    { "deepseek-coder", { "[\r\n]",
      "\\s?\\p{L}+",
      "\\s?\\p{P}+",
      HAN,
      "\\p{N}" }, 0 },
    { "deepseek-v3", { "\\p{N}{1,3}",
      "[一-龥぀-ゟ゠-ヿ]+",
      DEEPSEEK_V3 }, 0 },
    { "hunyuan-dense", { "\\p{N}{1,3}",
      "[一-龥぀-ゟ゠-ヿ]+",
      DEEPSEEK_V3 }, 0 },
    { "joyai-llm", { "\\p{N}{1,3}",
      "[一-龥぀-ゟ゠-ヿ]+",
      DEEPSEEK_V3 }, 0 },
    { "bloom", { " ?[^(\\s|.,!?…。，、।۔،)]+" }, 0 },
    { "poro-chat", { " ?[^(\\s|.,!?…。，、।۔،)]+" }, 0 },
    { "gpt3-finnish", { " ?[^(\\s|.,!?…。，、।۔،)]+" }, 0 },
    { "viking", { " ?[^(\\s|.,!?…。，、।۔،)]+",
      "\\p{N}" }, 0 },
    { "bailingmoe", { "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*"
      "|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+" }, 0 },
    { "bailingmoe2", { "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*"
      "|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+" }, 0 },
    { "llada-moe", { "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*"
      "|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+" }, 0 },
    { "seed-coder", { "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1}| ?[^\\s\\p{L}\\p{N}\r\n]"
      "+|\\s*[\r\n]+|\\s+(?!\\S)|\\s+" }, 0 },
    { "minicpm5", { "\\p{N}{1,3}",
      "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}+| ?[^\\s\\p{L}\\p{N}]+["
      "\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+" }, PRE_IGNORE_MERGES },
};

/* What a tokenizer.json lists -> name. */
static const struct { const char *signature, *name; } signatures[] = {
    { "ByteLevel", "gpt-2" },
    { "Split:" LLAMA3, "llama-bpe" },
    { "Split:" QWEN2, "qwen2" },
    { "Split:" QWEN35, "qwen35" },
    { "Split:" GPT4O, "gpt-4o" },
    { "Split:" TEKKEN, "tekken" },
    { "Digits:each\nByteLevel", "smollm" },
    { "Punctuation\nByteLevel\nDigits\nSplit:[0-9][0-9][0-9]", "falcon" },
    { "Split:[\r\n]\nSplit:\\s?" LETTERS "\nSplit:\\s?[!-/:-~！-／：-～‘-‟　-。]+\nSplit:\\s+$\nSplit:" HAN "\nDigits", "deepseek-llm" },
    { "Split:[\r\n]\nSplit:\\s?\\p{L}+\nSplit:\\s?\\p{P}+\nSplit:" HAN "\nDigits:each", "deepseek-coder" },
    { "Split:\\p{N}{1,3}\nSplit:[一-龥぀-ゟ゠-ヿ]+\nSplit:" DEEPSEEK_V3, "deepseek-v3" },
    { "Split: ?[^(\\s|[.,!?…。，、।۔،])]+", "bloom" },
    { "Split:'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]++["
      "\\r\\n]*|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+", "bailingmoe" },
    { "Split:(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1}| ?[^\\s\\p{L}\\p"
      "{N}\r\n]+|\\s*[\r\n]+|\\s+(?!\\S)|\\s+", "seed-coder" },
    { "Split:\\p{N}{1,3}\nSplit:(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{"
      "N}+| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+", "minicpm5" },
};
/* clang-format on */

const struct pre_rule *pre_rule_find(struct str name)
{
    for (size_t i = 0; i < ARRAY_LEN(rules); i++) {
        if (str_eqz(name, rules[i].name))
            return &rules[i];
    }
    return NULL;
}

const char *pre_name_of_signature(const char *signature)
{
    for (size_t i = 0; i < ARRAY_LEN(signatures); i++) {
        if (strcmp(signature, signatures[i].signature) == 0)
            return signatures[i].name;
    }
    return NULL;
}

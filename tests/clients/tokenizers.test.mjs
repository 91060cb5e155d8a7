// tokenizers.test.mjs: hearth's tokenizers against two that others wrote, on the same texts.
//
//   HEARTH_BUILD=build node --test tokenizers.test.mjs
//
// hearth answers through tests/tool_tokenize. Peers: node-llama-cpp (llama.cpp) for every GGUF vocabulary, with and without
// special tokens, and @huggingface/tokenizers for tokenizer.json files, which hearth reads itself. Texts: the test vectors,
// edge cases, slices of the corpora, random Unicode (HEARTH_SEED). Where a peer differs on purpose or is known to be wrong,
// `explained` says why; such texts are counted and printed, and bounded, so that an excuse cannot swallow a test.
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, isAbsolute, join } from "node:path";
import { createInterface } from "node:readline";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const build = process.env.HEARTH_BUILD ?? join(here, "../../build");
const data = process.env.HEARTH_DATA ?? join(here, "../../../shared/data");
const tool = join(build, "tests/tool_tokenize");
const skip = existsSync(join(data, "vocab")) ? false : "SKIP: no vocabularies in " + data;

// ---- texts ----

let state = BigInt(process.env.HEARTH_SEED ?? 88172645463325252n);
function random(n) {
  state ^= (state << 13n) & 0xffffffffffffffffn;
  state ^= state >> 7n;
  state ^= (state << 17n) & 0xffffffffffffffffn;
  return Number(state % BigInt(n));
}

const alphabets = [
  () => "abcdefghijklmnopqrstuvwxyz"[random(26)],
  () => "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[random(26)],
  () => " "[0].repeat(1 + random(4)),
  () => "0123456789"[random(10)],
  () => "\n\r\t \u00a0\u2003\u3000\u0085\u2028"[random(9)],
  () => "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"[random(32)],
  () => ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'LL"][random(9)],
  () => String.fromCodePoint(0xc0 + random(0x180)),
  () => String.fromCodePoint(0x370 + random(0x200)),
  () => String.fromCodePoint(0x5d0 + random(0x150)),
  () => String.fromCodePoint(0x900 + random(0x80)),
  () => String.fromCodePoint(0x300 + random(0x70)),
  () => String.fromCodePoint(0x4e00 + random(0x5000)),
  () => String.fromCodePoint(0x3040 + random(0xc0)),
  () => String.fromCodePoint(0xac00 + random(0x2ba0)),
  () => String.fromCodePoint(0x1f300 + random(0x300)) + (random(2) ? "\u200d\ufe0f" : ""),
  () => ["the ", "Hello", " world", "You", "un", "ing ", "tion", "don't", "  ", "\n\n"][random(10)],
];

function randomText() {
  let text = "";
  const n = 1 + random(40);
  let kind = alphabets[random(alphabets.length)];
  for (let i = 0; i < n; i++) {
    if (random(3) === 0) kind = alphabets[random(alphabets.length)];
    text += kind();
  }
  return text;
}

function slices(file, n) {
  const path = join(data, file);
  if (!existsSync(path)) return [];
  const text = readFileSync(path, "utf8");
  const out = [];
  for (let i = 0; i < n; i++) {
    const at = random(text.length), len = 1 + random(400);
    out.push([...text.slice(at, at + len)].join("").replace(/^[\udc00-\udfff]|[\ud800-\udbff]$/g, ""));
  }
  return out;
}

const vectors = skip ? [] : readFileSync(join(data, "vocab/ggml-vocab-gpt-2.gguf.inp"), "utf8").split("\n__ggml_vocab_test__\n");
const texts = [
  ...vectors,
  "a", " ", "  ", "\n", "\t\n \n", " a", "a ", " a b  c   d    e", "▁", "▁▁a", "<0x41>", "'", "''", "'S 'LL 'tis", "1234567890",
  "x".repeat(300), " ".repeat(300), "\n".repeat(50), "ab".repeat(100), "é".repeat(40), "e\u0301".repeat(20),
  "日本語のテキスト、中文文本。한국어 텍스트", "👩‍👩‍👧‍👦👍🏽🇩🇪", "नमस्ते दुनिया", "مرحبا بالعالم", "שלום עולם", "สวัสดีชาวโลก",
  ...slices("text/tinyshakespeare.txt", 60), ...slices("text/wikitext2-raw-test.txt", 60),
  ...slices("text/tinystories-valid-a.txt", 60), ...slices("text/translate/eng-deu-1000.tsv", 60),
  ...Array.from({ length: 600 }, randomText),
].filter((t) => t.length > 0 && t.isWellFormed?.() !== false);

// ---- hearth ----

async function hearth(vocabulary, queries) {
  const child = spawn(tool, [isAbsolute(vocabulary) ? vocabulary : join(data, vocabulary)], { stdio: ["pipe", "pipe", "inherit"] });
  const replies = [];
  const lines = createInterface({ input: child.stdout });
  lines.on("line", (line) => replies.push(JSON.parse(line)));
  const done = new Promise((resolve, reject) => child.on("close", (code) => (code === 0 ? resolve() : reject(new Error(`${tool} exited with ${code}`)))));
  for (const q of queries) child.stdin.write(JSON.stringify(q) + "\n");
  child.stdin.end();
  await done;
  await new Promise((resolve) => setImmediate(resolve));
  if (replies.length !== queries.length) throw new Error(`${replies.length} replies to ${queries.length} queries`);
  return replies;
}

// ---- comparing ----

function compare(name, queries, ours, theirs, explained) {
  let same = 0, different = 0;
  const reasons = new Map();
  queries.forEach((q, i) => {
    const a = JSON.stringify(ours[i].ids), b = JSON.stringify(theirs[i]);
    if (a === b) return same++;
    const why = explained(q, ours[i].ids, theirs[i]);
    if (why) return reasons.set(why, (reasons.get(why) ?? 0) + 1);
    if (different++ < 5) console.log(`${name}: ${JSON.stringify(q)}\n  hearth ${a}\n  peer   ${b}`);
  });
  console.log(`${name}: ${queries.length} texts, ${same} the same, ${different} different` +
    [...reasons].map(([why, n]) => `, ${n} explained (${why})`).join(""));
  assert.equal(different, 0, `${name}: ${different} of ${queries.length} texts differ`);
  // More excuses than results would test nothing.
  assert.ok(same >= 0.7 * queries.length, `${name}: only ${same} of ${queries.length} texts are the same`);
}

// ---- llama.cpp ----

const ggufs = {
  "llama-spm": ["<s>", "</s>", "<unk>"],
  "phi-3": ["<|user|>", "<|end|>", "<|assistant|>", "<|system|>", "<s>", "<|endoftext|>", "<unk>", "</s>", "<|placeholder1|>"],
  "gpt-2": ["<|endoftext|>"],
  "bert-bge": ["[CLS]", "[SEP]", "[MASK]", "[UNK]", "[PAD]"],
};

function withSpecials(specials) {
  const out = [];
  const fillers = ["", " ", "\n", "\n\n", " hello", "hello ", "x", "\n x", "  ", "\t", "<", "|>"];
  for (let i = 0; i < 300; i++) {
    let text = "";
    for (let k = 1 + random(6); k > 0; k--) text += fillers[random(fillers.length)] + specials[random(specials.length)];
    out.push(text + fillers[random(fillers.length)]);
  }
  return out;
}

const explainedByName = {
  // BertNormalizer drops control characters of categories Cc, Cf, Co and gives up words over 100 characters; llama.cpp
  // has other tables for both, and takes apart accents with a table of single characters.
  "bert-bge": (q) => (/[\uac00-\ud7a3]/.test(q.text) ? "Hangul is not decomposed" : [...q.text].some((c) => /[\p{M}\p{C}\p{Lm}]/u.test(c) && !/\s/u.test(c)) ? "other Unicode tables"
    : /\S{100}/u.test(q.text) ? "words over 100 characters" : null),
  // llama.cpp turns "</s>" of Phi-3, a user-defined token, into a control token because of its text.
  "phi-3": (q) => (!q.special && q.text.includes("</s>") ? "</s> is user-defined" : null),
};

async function againstLlamaCpp() {
  const { getLlama, LlamaLogLevel } = await import("node-llama-cpp");
  const llama = await getLlama({ build: "never", skipDownload: true, gpu: false, logLevel: LlamaLogLevel.error });
  for (const [name, specials] of Object.entries(ggufs)) {
    const file = `vocab/ggml-vocab-${name}.gguf`;
    const model = await llama.loadModel({ modelPath: join(data, file), vocabOnly: true });
    const queries = [
      ...texts.map((text) => ({ text, special: false })),
      ...texts.map((text) => ({ text, special: true })),
      ...withSpecials(specials).flatMap((text) => [{ text, special: true }, { text, special: false }]),
    ];
    const theirs = queries.map((q) => model.tokenize(q.text, q.special));
    compare(`llama.cpp ${name}`, queries, await hearth(file, queries), theirs, explainedByName[name] ?? (() => null));
    await model.dispose();
  }
  await llama.dispose();
}

// Vocabularies that came in other forms, as GGUF files that hearth writes: llama.cpp reads the same out of them. For
// tinystories-656k, whose merges are ranked, it goes by the scores hearth derives from the ranks; it cannot represent what
// that vocabulary has no piece for, hence plain stories.
const stories = skip ? [] : readFileSync(join(data, "text/tinystories-valid-a.txt"), "latin1").replace(/[^\x20-\x7e\n]/g, "")
  .split("<|endoftext|>").map((t) => t.trim()).filter((t) => t).slice(0, 200);
const written = {
  "tinystories-656k": { path: "models/tinystories-656k", specials: [], its: stories },
  "qwen2": { path: "vocab/qwen2", specials: ["<|im_start|>", "<|im_end|>", "<|endoftext|>"] },
  "llama3": { path: "vocab/llama3/tokenizer.model", specials: ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|reserved_special_token_5|>"] },
  "opt": { path: "vocab/opt", specials: ["</s>", "<pad>"] },
};

async function writtenFilesInLlamaCpp() {
  const { getLlama, LlamaLogLevel } = await import("node-llama-cpp");
  const llama = await getLlama({ build: "never", skipDownload: true, gpu: false, logLevel: LlamaLogLevel.disabled });
  const folder = mkdtempSync(join(tmpdir(), "hearth-tokenizers-"));
  try {
    for (const [name, { path, specials, its }] of Object.entries(written)) {
      const file = join(folder, `${name}.gguf`);
      execFileSync(tool, [join(data, path), file]);
      const model = await llama.loadModel({ modelPath: file, vocabOnly: true });
      const queries = [...(its ?? texts).map((text) => ({ text, special: false })), ...(its ? [] : withSpecials(specials)).map((text) => ({ text, special: true }))];
      const theirs = queries.map((q) => model.tokenize(q.text, q.special));
      compare(`llama.cpp, written ${name}`, queries, await hearth(file, queries), theirs, () => null);
      await model.dispose();
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
  await llama.dispose();
}

// ---- @huggingface/tokenizers ----

// Tokens, types, scores and merges of a GGUF file: just enough of the format.
function readGguf(path) {
  const b = readFileSync(path);
  let o = 16;
  const u64 = () => Number(b.readBigUInt64LE((o += 8) - 8));
  const text = () => { const n = u64(); return b.toString("utf8", o, (o += n)); };
  const size = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8];
  const value = (kind) => {
    if (kind === 8) return text();
    if (kind === 9) {
      const of = b.readUInt32LE((o += 4) - 4), n = u64();
      return Array.from({ length: n }, () => value(of));
    }
    o += size[kind];
    return kind === 6 ? b.readFloatLE(o - 4) : size[kind] === 4 ? b.readInt32LE(o - 4) : b[o - size[kind]];
  };
  const keys = {}, n = u64();
  for (let i = 0; i < n; i++) {
    const key = text(), kind = b.readUInt32LE((o += 4) - 4);
    keys[key] = value(kind);
  }
  return keys;
}

const added = (id, content, more = {}) =>
  ({ id, content, special: true, single_word: false, lstrip: false, rstrip: false, normalized: false, ...more });
const byteLevel = (more = {}) => ({ type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true, ...more });
const noRegex = byteLevel({ use_regex: false });
const split = (regex) => ({ type: "Split", pattern: { Regex: regex }, behavior: "Isolated", invert: false });
const sequence = (...pretokenizers) => ({ type: "Sequence", pretokenizers });
const short = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const tail = String.raw` ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`;
const upper = String.raw`[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`, lower = String.raw`[\p{Ll}\p{Lm}\p{Lo}\p{M}]`;
const tail4 = String.raw` ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`;
const han = "[一-龥ࠀ-一가-퟿]+";

// How families cut text, as their tokenizer.json has it. Their vocabularies are not here; GPT-2's does for this.
const cuts = {
  "gpt-2": byteLevel(),
  "llama-bpe": sequence(split(short + String.raw`|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|` + tail), noRegex),
  "qwen2": sequence(split(short + String.raw`|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|` + tail), noRegex),
  "smollm": sequence({ type: "Digits", individual_digits: true }, byteLevel()),
  "gpt-4o": sequence(split(String.raw`[^\r\n\p{L}\p{N}]?${upper}*${lower}+${short}?|[^\r\n\p{L}\p{N}]?${upper}+${lower}*${short}?|\p{N}{1,3}|` + tail4), noRegex),
  "tekken": sequence(split(String.raw`[^\r\n\p{L}\p{N}]?${upper}*${lower}+|[^\r\n\p{L}\p{N}]?${upper}+${lower}*|\p{N}|` + tail4), noRegex),
  "falcon": sequence({ type: "Punctuation", behavior: "Contiguous" }, byteLevel(), { type: "Digits", individual_digits: false }, split("[0-9][0-9][0-9]")),
  "deepseek-coder": sequence(split("[\r\n]"), split(String.raw`\s?\p{L}+`), split(String.raw`\s?\p{P}+`), split(han), { type: "Digits", individual_digits: true }, noRegex),
  "deepseek-v3": sequence(split(String.raw`\p{N}{1,3}`), split("[一-龥぀-ゟ゠-ヿ]+"),
    split("[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"), noRegex),
};

function bpeJson(vocab, merges, pre, addedTokens, more = {}) {
  return { version: "1.0", truncation: null, padding: null, added_tokens: addedTokens, normalizer: null, pre_tokenizer: pre,
    post_processor: null, decoder: byteLevel(),
    model: { type: "BPE", dropout: null, unk_token: null, continuing_subword_prefix: "", end_of_word_suffix: "", fuse_unk: false,
      byte_fallback: false, ignore_merges: false, vocab, merges, ...more } };
}

// JavaScript's \s lacks U+0085, which Rust's, PCRE2's and llama.cpp's have, and has U+FEFF, which they lack.
const explainedSpaces = (q) => (/[\u0085\ufeff]/.test(q.text) ? "JavaScript's white space" : null);

function* huggingFaceCases() {
  const tiny = (name) => JSON.parse(readFileSync(join(data, "models/tinystories-656k", name), "utf8"));
  const specials = ["<|start_story|>", "<|end_story|>", "<unk>"];
  yield { name: "tinystories-656k", json: tiny("tokenizer.json"), config: tiny("tokenizer_config.json"), texts };
  // Its added tokens say "normalized": true, so Hugging Face looks for "▁<|end_story|>" and misses it behind a letter. hearth
  // and llama.cpp find added tokens wherever they stand. With the flag off all agree.
  const plainTokens = tiny("tokenizer.json");
  for (const t of plainTokens.added_tokens) t.normalized = false;
  const plainConfig = tiny("tokenizer_config.json");
  for (const t of Object.values(plainConfig.added_tokens_decoder)) t.normalized = false;
  yield { name: "tinystories-656k, added tokens", json: plainTokens, config: plainConfig, texts: withSpecials(specials) };

  const gpt2 = readGguf(join(data, "vocab/ggml-vocab-gpt-2.gguf"));
  const gpt2Vocab = Object.fromEntries(gpt2["tokenizer.ggml.tokens"].map((t, i) => [t, i]));
  const end = [added(50256, "<|endoftext|>"), added(50257, "<|x|>", { rstrip: true }), added(50258, "<|y|>", { lstrip: true, special: false }),
    added(50259, "word", { special: false }), added(50260, "<|x|><|y|>")]; // (the peer knows no single_word)
  for (const [name, pre] of Object.entries(cuts))
    yield { name: `cut as ${name}`, json: bpeJson(gpt2Vocab, gpt2["tokenizer.ggml.merges"], pre, [end[0]]), config: {}, texts,
      explained: (q) => explainedSpaces(q) ?? (/Digits/.test(JSON.stringify(pre)) && /[^\P{N}0-9]/u.test(q.text) ? "the peer's digits are ASCII" : null) };
  yield { name: "flags of added tokens", json: bpeJson(gpt2Vocab, gpt2["tokenizer.ggml.merges"], byteLevel(), end), config: {},
    texts: withSpecials(["<|endoftext|>", "<|x|>", "<|y|>", "word", "words", "aword", " word "]) };
  yield { name: "ignore_merges, prefix", config: {}, texts, explained: explainedSpaces,
    json: bpeJson(gpt2Vocab, gpt2["tokenizer.ggml.merges"], byteLevel({ add_prefix_space: true }), [end[0]], { ignore_merges: true }) };

  const qwen = JSON.parse(readFileSync(join(data, "vocab/qwen2/vocab.json"), "utf8"));
  const qwenMerges = readFileSync(join(data, "vocab/qwen2/merges.txt"), "utf8").split("\n").filter((l) => l && !l.startsWith("#version"));
  yield { name: "qwen2", config: {}, texts: [...texts, ...withSpecials(["<|im_start|>", "<|im_end|>", "<|endoftext|>"])],
    json: bpeJson(qwen, qwenMerges, cuts.qwen2, [added(151643, "<|endoftext|>"), added(151644, "<|im_start|>"), added(151645, "<|im_end|>")]) };

  const bert = readGguf(join(data, "vocab/ggml-vocab-bert-bge.gguf"));
  const types = bert["tokenizer.ggml.token_type"];
  const bertVocab = Object.fromEntries(bert["tokenizer.ggml.tokens"].map((t, i) => [types[i] === 3 ? t : t.startsWith("▁") ? t.slice(1) : "##" + t, i]));
  yield { name: "bert", config: {}, texts: [...texts, ...withSpecials(ggufs["bert-bge"])],
    explained: (q) => (/\p{Mn}/u.test(q.text.normalize("NFD").replace(/[\u0300-\u036f]/g, "")) ? "the peer strips U+0300..036F only" : null),
    json: { version: "1.0", truncation: null, padding: null,
      added_tokens: ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map((t) => added(bertVocab[t], t)),
      normalizer: { type: "BertNormalizer", clean_text: true, handle_chinese_chars: true, strip_accents: null, lowercase: true },
      pre_tokenizer: { type: "BertPreTokenizer" },
      post_processor: { type: "TemplateProcessing",
        single: [{ SpecialToken: { id: "[CLS]", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }, { SpecialToken: { id: "[SEP]", type_id: 0 } }],
        pair: [], special_tokens: Object.fromEntries(["[CLS]", "[SEP]"].map((t) => [t, { id: t, ids: [bertVocab[t]], tokens: [t] }])) },
      decoder: { type: "WordPiece", prefix: "##", cleanup: true },
      model: { type: "WordPiece", unk_token: "[UNK]", continuing_subword_prefix: "##", max_input_chars_per_word: 100, vocab: bertVocab } } };

  // No unigram vocabulary is at hand; Llama's pieces with scores by length and rank make one.
  const llama = readGguf(join(data, "vocab/ggml-vocab-llama-spm.gguf"));
  const pieces = llama["tokenizer.ggml.tokens"].slice(259).map((t, i) => [t, -5 - Math.log(i + 1) + (i % 97) / 1000]);
  const metaspace = { type: "Metaspace", replacement: "▁", add_prefix_space: true, prepend_scheme: "always" };
  const unigrams = [["unigram", metaspace, texts],
    // WhitespaceSplit takes all white space for spaces, SentencePiece's normaliser only after a character map says so.
    ["unigram, words", sequence({ type: "WhitespaceSplit" }, metaspace), texts.map((t) => t.replace(/[\s\u0085]+/g, " "))]];
  for (const [name, pre, itsTexts] of unigrams) yield { name, config: {}, texts: itsTexts,
    // SentencePiece puts its space in front whatever the text begins with; Metaspace does not when it begins with one.
    explained: (q, ours, theirs) => (/^[ ▁]/.test(q.text) ? "Metaspace puts no second space in front"
      : [...ours].sort().join() === [...theirs].sort().join() ? "a tie of scores" : null),
    json: { version: "1.0", truncation: null, padding: null, added_tokens: [added(0, "<unk>")], normalizer: null,
      pre_tokenizer: pre, post_processor: null, decoder: metaspace,
      model: { type: "Unigram", unk_id: 0, byte_fallback: false, vocab: [["<unk>", 0], ...pieces] } } };
}

async function againstHuggingFace() {
  const { Tokenizer } = await import("@huggingface/tokenizers");
  const folder = mkdtempSync(join(tmpdir(), "hearth-tokenizers-"));
  try {
    for (const c of huggingFaceCases()) {
      writeFileSync(join(folder, "tokenizer.json"), JSON.stringify(c.json));
      writeFileSync(join(folder, "tokenizer_config.json"), JSON.stringify(c.config));
      const peer = new Tokenizer(c.json, c.config);
      const queries = c.texts.map((text) => ({ text, special: true, bos: true }));
      const theirs = queries.map((q) => Array.from(peer.encode(q.text).ids));
      compare(`huggingface ${c.name}`, queries, await hearth(folder, queries), theirs, c.explained ?? (() => null));
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
}

test("ids agree with @huggingface/tokenizers", { skip }, againstHuggingFace);
test("ids agree with llama.cpp", { skip }, againstLlamaCpp);
test("llama.cpp reads the vocabularies that hearth writes", { skip }, writtenFilesInLlamaCpp);

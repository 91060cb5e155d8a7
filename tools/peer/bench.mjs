// bench.mjs: the peer that `hearth bench --peer` measures: llama.cpp's CPU code as node-llama-cpp carries it.
//
// hearth writes one JSON object per line to our standard input and reads one per line from our standard output; in
// between we sleep. The model is loaded once, so that two programs can be measured in turn, minute by minute.
//
//   {"do": "load", "model", "threads", "vocab", "kv", "cpu"?} -> {"seconds", "version", "backend", "base_bytes"}
//   {"do": "context", "id", "size", "sequences", "fill"}      -> {}   sequences that hold `fill` tokens each
//   {"do": "step", "id", "tokens", "sequences", "steps"}      -> {"seconds"}
//        `steps` times the same: `tokens` more tokens for each of the sequences, logits for the last one of each;
//        afterwards the context is cut back to what it held
//   {"do": "memory"}                                          -> {"peak_bytes"}
//
// A failure answers {"error": "..."}. base_bytes is what this process took before the model.
//
// Evaluations go straight to the binding (initBatch, addToBatch, decodeBatch: one llama_decode and its end), past the
// sampling and scheduling that the package's own loops add, so what is measured is llama.cpp at its best. These are
// internal names, hence the pinned version. Batches are 512 tokens, flash attention is on, as hearth has it.
//
// "cpu" names one of the package's CPU libraries (haswell, icelake ...) in place of the best one for this machine:
// we load it, from a folder that holds a link to it alone, before the package looks, which then keeps it.
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, symlinkSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const BATCH = 512;
const modules = fileURLToPath(new URL("node_modules", import.meta.url));
const contexts = new Map();
let model, settings;

const peakBytes = () => process.resourceUsage().maxRSS * 1024;

function takeOnlyThisLibrary(cpu) {
    const bins = join(modules, "@node-llama-cpp", `linux-${process.arch}`, "bins"), name = `libggml-cpu-${cpu}.so`;
    const found = readdirSync(bins).map((d) => join(bins, d)).find((d) => existsSync(join(d, name)));
    if (!found) throw new Error(`the peer has no ${name}`);
    const folder = mkdtempSync(join(tmpdir(), "hearth-peer-"));
    process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
    symlinkSync(join(found, name), join(folder, name));
    const addon = createRequire(import.meta.url)(join(found, "llama-addon.node"));
    addon.setLogger(() => {}); // it would announce the library
    addon.loadBackends(folder);
}

/** The CPU library that this process really runs. */
const backend = () => readFileSync("/proc/self/maps", "utf8").match(/libggml-cpu-?([a-z0-9_]*)[^/]*\.so/)?.[1] || "unknown";

async function load(request) {
    settings = request;
    if (settings.cpu) takeOnlyThisLibrary(settings.cpu);
    const { getLlama } = await import("node-llama-cpp");
    const { version } = JSON.parse(readFileSync(join(modules, "node-llama-cpp/package.json")));
    const llama = await getLlama({ build: "never", skipDownload: true, gpu: false, maxThreads: settings.threads, logLevel: "error" });
    const base_bytes = peakBytes(), begin = performance.now();
    model = await llama.loadModel({ modelPath: settings.model, gpuLayers: 0, ignoreMemorySafetyChecks: true });
    return { seconds: (performance.now() - begin) / 1000, version, backend: backend(), base_bytes };
}

/** Arbitrary ids, the same in every run: speed does not depend on them. */
function arbitrary(n, x = 2463534242) {
    return Uint32Array.from({ length: n }, () => {
        x ^= x << 13; x >>>= 0; x ^= x >>> 17; x ^= x << 5; x >>>= 0;
        return x % settings.vocab;
    });
}

/** One evaluation of n tokens from position `at` on for each of the sequences. */
function evaluate(binding, at, n, sequences) {
    binding.initBatch(n * sequences.length);
    for (const s of sequences) binding.addToBatch(s, at, arbitrary(n, 1 + at + s), Uint32Array.of(n - 1));
    return binding.decodeBatch();
}

async function context({ id, size, sequences, fill }) {
    const owner = await model.createContext({
        contextSize: size, sequences, batchSize: BATCH, flashAttention: true, threads: settings.threads, ignoreMemorySafetyChecks: true,
        experimentalKvCacheKeyType: settings.kv, experimentalKvCacheValueType: settings.kv,
    });
    const c = { binding: owner._ctx, all: Array.from({ length: sequences }, (_, i) => i), fill, owner };
    c.binding.setThreads(settings.threads);
    contexts.set(id, c);
    for (const s of c.all)
        for (let at = 0; at < fill; at += BATCH) await evaluate(c.binding, at, Math.min(BATCH, fill - at), [s]);
    return {};
}

async function step({ id, tokens, sequences, steps }) {
    const c = contexts.get(id), group = c.all.slice(0, sequences), begin = performance.now();
    let at = c.fill;
    for (const end = c.fill + tokens * steps; at < end; ) {
        const n = Math.min(tokens, BATCH, end - at);
        await evaluate(c.binding, at, n, group);
        at += n;
    }
    const seconds = (performance.now() - begin) / 1000;
    for (const s of group) c.binding.removeTokenCellsFromSequence(s, c.fill, -1);
    return { seconds };
}

const verbs = { load, context, step, memory: () => ({ peak_bytes: peakBytes() }) };
for await (const line of createInterface({ input: process.stdin })) {
    let answer;
    try {
        const request = JSON.parse(line);
        answer = await verbs[request.do](request);
    } catch (e) {
        answer = { error: String(e?.message ?? e) };
    }
    process.stdout.write(JSON.stringify(answer) + "\n");
}
process.exit(0);

// lib.mjs: what the client tests share: where the build, the data and scratch files are; running hearth;
// log-softmax and KL divergence in double; the oracle (llama.cpp through node-llama-cpp).
import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

export const source = resolve(dirname(fileURLToPath(import.meta.url)), "../..");
export const build = resolve(process.env.HEARTH_BUILD ?? join(source, "build"));
export const data = resolve(process.env.HEARTH_DATA ?? join(source, "../shared/data"));
export const scratch = mkdtempSync(join(tmpdir(), "hearth-clients-"));
process.on("exit", () => rmSync(scratch, { recursive: true, force: true }));

/** Runs the built command line; returns its standard output. Throws with its standard error. */
export function hearth(...args) {
    return execFileSync(join(build, "src/apps/hearth"), args, { maxBuffer: 1 << 28, stdio: ["ignore", "pipe", "pipe"] }).toString();
}

/** Logits of hearth's engine at every position of ids: an array of Float32Array rows. */
export function hearthLogits(model, ids, options = {}) {
    const idsFile = join(scratch, "ids.txt"), out = join(scratch, "logits.bin");
    writeFileSync(idsFile, ids.join(" "));
    const args = [model, idsFile, out];
    for (const [name, value] of Object.entries(options)) args.push("--" + name, String(value));
    const printed = execFileSync(join(build, "tests/tool_logits"), args, { maxBuffer: 1 << 26, stdio: ["ignore", "pipe", "pipe"] }).toString();
    const bytes = readFileSync(out);
    const greedy = printed.split("\n").filter(Boolean).map(Number);
    const nRows = ids.length + greedy.length, nVocab = bytes.length / 4 / nRows;
    const all = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
    const rows = Array.from({ length: nRows }, (_, i) => all.slice(i * nVocab, (i + 1) * nVocab));
    return { rows, greedy };
}

export function logSoftmax(row) {
    let max = -Infinity, sum = 0;
    for (const v of row) if (v > max) max = v;
    for (const v of row) sum += Math.exp(v - max);
    const norm = max + Math.log(sum);
    return Float64Array.from(row, (v) => v - norm);
}

export function klDivergence(p, q) {
    const a = logSoftmax(p), b = logSoftmax(q);
    let kl = 0;
    for (let i = 0; i < a.length; i++) kl += Math.exp(a[i]) * (a[i] - b[i]);
    return kl;
}

export const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;

/** Reproducible ids in [lo, hi): xorshift32. */
export function randomIds(n, lo, hi, seed) {
    let s = seed >>> 0 || 1;
    return Array.from({ length: n }, () => {
        s ^= s << 13; s >>>= 0; s ^= s >>> 17; s ^= s << 5; s >>>= 0;
        return lo + (s % (hi - lo));
    });
}

/** Skips the whole file's tests when data is absent; .ci/run treats a SKIP as a failure. */
export const haveData = existsSync(join(data, "README.md"));

let llamaPromise;
export async function oracle() {
    llamaPromise ??= import("node-llama-cpp").then(({ getLlama }) =>
        getLlama({ build: "never", skipDownload: true, gpu: false, logLevel: "error", maxThreads: 2 }));
    return llamaPromise;
}

/** Logits of llama.cpp at every position of ids, K/V in `kv`, plain attention. */
export async function oracleLogits(modelPath, ids, { kv = "F32", ctx = ids.length } = {}) {
    const llama = await oracle();
    const model = await llama.loadModel({ modelPath, gpuLayers: 0 });
    const context = await model.createContext({
        contextSize: ctx, batchSize: 64, flashAttention: false, threads: 2,
        experimentalKvCacheKeyType: kv, experimentalKvCacheValueType: kv,
    });
    const rows = [];
    await context.getSequence().controlledEvaluate(
        ids.map((id) => [id, { generateNext: { logits: true } }]),
        { onTokenResult(i, result) {
            const row = new Float32Array(result.next.logits.size);
            for (const [id, v] of result.next.logits) row[id] = v;
            rows[i] = row;
            result.next.logits.clear();
        } });
    await context.dispose();
    await model.dispose();
    return rows;
}

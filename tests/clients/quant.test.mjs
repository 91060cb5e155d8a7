// quant.test.mjs: what quantised arithmetic costs, hearth against llama.cpp.
//
// The exact answer is hearth on the same dequantised weights in float32 with float activations (hearth quantize X F32).
// hearth and llama.cpp both quantise activations; the mean KL divergence of each from the exact answer is measured over the
// same positions, and hearth's may be no more than 1.1 times llama.cpp's.
import assert from "node:assert/strict";
import { join } from "node:path";
import test from "node:test";
import { hearth, hearthLogits, klDivergence, mean, oracleLogits, randomIds, scratch } from "./lib.mjs";

// The mixes in which a k-quant type carries most tensors; rows here are a multiple of 256, so nothing falls back.
const TYPES = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K_S", "Q3_K_S", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q6_K", "IQ4_NL", "IQ4_XS"];
const N_TOKENS = 512;

const base = join(scratch, "base.gguf");
hearth("make-model", "--shape", "tiny-llama", "--type", "F32", "--seed", "11", base);
const ids = [1, ...randomIds(N_TOKENS - 1, 300, 500, 5)];

for (const type of TYPES) {
    test(`${type}: distance from exact is at most llama.cpp's`, async (t) => {
        const model = join(scratch, `${type}.gguf`), exact = join(scratch, `${type}-exact.gguf`);
        hearth("quantize", base, model, type);
        hearth("quantize", model, exact, "F32");
        const truth = hearthLogits(exact, ids, { kv: "f32" }).rows;
        const ours = hearthLogits(model, ids, { kv: "f32" }).rows;
        const theirs = await oracleLogits(model, ids);
        const klOurs = mean(truth.map((row, i) => klDivergence(row, ours[i])));
        const klTheirs = mean(truth.map((row, i) => klDivergence(row, theirs[i])));
        t.diagnostic(`KL hearth ${klOurs.toExponential(3)}, llama.cpp ${klTheirs.toExponential(3)}, ratio ${(klOurs / klTheirs).toFixed(3)}`);
        assert.ok(klTheirs > 0 && klOurs > 0, "no distance at all: the weights were not quantised");
        assert.ok(klOurs <= 1.1 * klTheirs, `${klOurs} against ${klTheirs}`);
    });
}

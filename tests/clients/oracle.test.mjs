// oracle.test.mjs: hearth against llama.cpp, which no one here wrote, on the same GGUF files.
//
// For each architecture that llama.cpp knows: a random model that can fail (hearth make-model), teacher-forced over
// 192 tokens; log-probabilities of every token at every position agree within the stated tolerance, and the best
// token is the same wherever the oracle's two best differ by more than that. Then the same forward pass made wrong on purpose
// must miss the tolerance, so the comparison is known to see such mistakes.
import assert from "node:assert/strict";
import { join } from "node:path";
import test from "node:test";
import { data, haveData, hearth, hearthLogits, logSoftmax, oracleLogits, randomIds, scratch } from "./lib.mjs";

// Largest difference of a log-probability. F32: both sum in float32, in other orders. F16: on some CPUs llama.cpp also
// rounds the activations of each product to half precision; hearth keeps them in float32. The gemma families: llama.cpp takes
// GELU from a table of half-precision values (the double-precision oracle of test_engine holds hearth to 1e-3 there).
const TOLERANCE = { F32: 1e-3, F16: 8e-2 };
const TOLERANCE_GELU = { F32: 4e-2, F16: 8e-2 };
const toleranceOf = (arch, type) => (arch.startsWith("gemma") ? TOLERANCE_GELU : TOLERANCE)[type];
const N_TOKENS = 192;

// By the name of make-model's tiny shape.
const ARCHITECTURES = {
    llama: ["no-rope", "no-mask", "wrong-gqa", "swap-gate-up"],
    llama3: ["no-rope", "no-mask", "wrong-gqa", "swap-gate-up"], // Llama 3.x: rope factors, tied
    phi3: ["no-rope", "no-mask", "wrong-gqa", "swap-gate-up"],
    qwen2: ["no-rope", "no-mask", "wrong-gqa", "swap-gate-up"],
    qwen3: ["no-rope", "no-mask", "wrong-gqa", "swap-gate-up"],
    gemma2: ["no-rope", "no-mask", "wrong-gqa", "no-window", "swap-gate-up"],
    gemma3: ["no-rope", "no-mask", "wrong-gqa", "no-window", "swap-gate-up"],
};

function compare(ours, theirs) {
    let worst = 0, at = 0;
    assert.equal(ours.length, theirs.length);
    for (let i = 0; i < ours.length; i++) {
        const a = logSoftmax(ours[i]), b = logSoftmax(theirs[i]);
        assert.equal(a.length, b.length);
        for (let k = 0; k < a.length; k++) {
            const d = Math.abs(a[k] - b[k]);
            if (!(d <= worst)) { worst = d; at = i; }
        }
    }
    return { worst, at };
}

function checkBest(ours, theirs, tolerance) {
    let decided = 0;
    for (let i = 0; i < theirs.length; i++) {
        const best = theirs[i].indexOf(theirs[i].reduce((a, b) => Math.max(a, b)));
        const second = theirs[i].reduce((a, v, k) => (k !== best && v > a ? v : a), -Infinity);
        if (theirs[i][best] - second <= tolerance) continue;
        decided++;
        assert.equal(ours[i].indexOf(ours[i].reduce((a, b) => Math.max(a, b))), best, `best token after position ${i}`);
    }
    assert.ok(decided > theirs.length / 2, `only ${decided} of ${theirs.length} positions were decided`);
}

for (const [arch, mutations] of Object.entries(ARCHITECTURES)) {
    for (const type of ["F32", "F16"]) {
        test(`${arch} ${type} agrees with llama.cpp`, async (t) => {
            const model = join(scratch, `${arch}-${type}.gguf`), tolerance = toleranceOf(arch, type);
            hearth("make-model", "--shape", `tiny-${arch}`, "--type", type, "--seed", "7", model);
            // A prompt of arbitrary tokens, then what hearth itself makes of it: both kinds of text are compared.
            const prompt = [1, ...randomIds(63, 300, 500, 42)];
            const first = hearthLogits(model, prompt, { kv: "f32", greedy: N_TOKENS - prompt.length });
            assert.ok(new Set(first.greedy.slice(0, 64)).size >= 20, `only ${new Set(first.greedy.slice(0, 64)).size} distinct tokens`);
            const ids = [...prompt, ...first.greedy];
            const theirs = await oracleLogits(model, ids);
            const { worst, at } = compare(first.rows, theirs);
            t.diagnostic(`largest difference ${worst.toExponential(2)} (position ${at}) of ${tolerance}`);
            assert.ok(worst <= tolerance, `differs by ${worst} at position ${at}`);
            checkBest(first.rows, theirs, tolerance);
            if (type !== "F32") return;
            for (const mutation of mutations) {
                const wrong = compare(hearthLogits(model, ids, { kv: "f32", mutate: mutation }).rows, theirs).worst;
                t.diagnostic(`${mutation}: ${wrong.toPrecision(3)}`);
                assert.ok(!(wrong <= 10 * tolerance), `${mutation} is off by only ${wrong}: the comparison would not see it`);
            }
        });
    }
}

test("LongRoPE: a context longer than the original one takes the long factors", async (t) => {
    const model = join(scratch, "phi3-long.gguf"), ids = [1, ...randomIds(160, 300, 500, 43)], rows = {};
    hearth("make-model", "--shape", "tiny-phi3", "--type", "F32", "--seed", "9", model); // original context: 512
    for (const ctx of [256, 1024]) {
        rows[ctx] = hearthLogits(model, ids, { kv: "f32", ctx }).rows;
        const { worst } = compare(rows[ctx], await oracleLogits(model, ids, { ctx }));
        t.diagnostic(`context ${ctx}: ${worst.toExponential(2)}`);
        assert.ok(worst <= TOLERANCE.F32, `context ${ctx}: differs by ${worst}`);
    }
    assert.ok(compare(rows[256], rows[1024]).worst > 1, "the two sets of factors make no difference");
});

test("trained models agree with llama.cpp", { skip: !haveData && "no data" }, async (t) => {
    const cases = {
        "tinystories-656k": ["convert", join(data, "models/tinystories-656k")],
        stories260K: ["convert", join(data, "models/stories260K/stories260K.bin"), "--tokenizer", join(data, "models/stories260K/tok512.bin")],
    };
    for (const [name, [verb, source, ...options]] of Object.entries(cases)) {
        const model = join(scratch, `${name}.gguf`);
        hearth(verb, source, model, ...options);
        const first = hearthLogits(model, [1], { kv: "f32", greedy: N_TOKENS });
        const theirs = await oracleLogits(model, [1, ...first.greedy]);
        const { worst } = compare(first.rows, theirs);
        t.diagnostic(`${name}: ${worst.toExponential(2)}`);
        assert.ok(worst <= TOLERANCE.F32, `${name} differs by ${worst}`);
        checkBest(first.rows, theirs, TOLERANCE.F32);
    }
});

// bench.test.mjs: `hearth bench --peer` really drives the peer: shape and plausibility of what it prints, not speed.
//
// The package that these tests install is the version that hearth would install itself: a link to it spares a second download.
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import test from "node:test";
import { build, scratch, source } from "./lib.mjs";

const model = join(source, "models/stories260K.gguf"), home = join(scratch, "bench-home");
const binary = join(build, "src/apps/hearth");
mkdirSync(join(home, "peer"), { recursive: true });
symlinkSync(join(source, "tests/clients/node_modules"), join(home, "peer/node_modules"));

function bench(args, env = {}) {
    return execFileSync(binary, ["bench", "--quiet", "--peer", ...args], {
        maxBuffer: 1 << 26, stdio: ["ignore", "pipe", "inherit"], env: { ...process.env, HEARTH_HOME: home, HEARTH_THREADS: "1", ...env },
    }).toString();
}

const isSpread = (s) => s.min > 0 && s.min <= s.median && s.median <= s.max && Number.isFinite(s.max);

test("every measurement has the peer's figure beside it", () => {
    const j = JSON.parse(bench(["--json", "--reps", "2", "--prefill", "32,700", "--decode", "0,64", "--tokens", "4", model]));
    const all = [...j.prefill, ...j.decode, ...j.append, ...j.batch];
    assert.match(j.peer.name, /^node-llama-cpp 3\.22\.1 \([a-z0-9_.]+\)$/);
    assert.deepEqual(all.map((m) => m.skipped), [false, true, false, false, false, false]); // 700 tokens are more than the model has
    for (const m of all.filter((m) => !m.skipped)) {
        assert.ok(isSpread(m.tokens_per_s) && isSpread(m.peer_tokens_per_s) && isSpread(m.ratio), JSON.stringify(m));
        assert.ok(m.ratio.max >= m.tokens_per_s.min / m.peer_tokens_per_s.max && m.ratio.min <= m.tokens_per_s.max / m.peer_tokens_per_s.min);
        assert.ok(m.peer_tokens_per_s.max < 1e6, "faster than anything: the peer did not compute");
    }
    assert.deepEqual([j.append[0].depth, j.append[0].new_tokens, j.batch[0].sequences], [64, 8, 8]);
    for (const start of [j.start, j.peer.start])
        assert.ok(isSpread(start.load_s) && start.load_s.max < 60 && start.peak_bytes > statBytes(model), JSON.stringify(start));
    assert.equal(readFileSync(join(home, "peer/bench.mjs"), "utf8"), readFileSync(join(source, "tools/peer/bench.mjs"), "utf8"));
});

test("the table has hearth, the peer and their ratio; HEARTH_CPU holds for both", { skip: process.arch !== "x64" && "x86-64 only" }, () => {
    const table = bench(["--markdown", "--reps", "1", "--prefill", "16", "--decode", "0", "--tokens", "2", model], { HEARTH_CPU: "avx2" });
    const rows = table.split("\n").filter((l) => l.startsWith("|")).map((l) => l.split("|").slice(1, -1).map((c) => c.trim()));
    assert.deepEqual(rows[0], ["", "hearth", "share of the limit", "node-llama-cpp 3.22.1 (haswell)", "ratio"]);
    assert.deepEqual(rows.slice(2).map((r) => r[0]), ["prefill of 16", "decode at depth 0", "8 new tokens at depth 1", "8 sequences", "load", "peak memory"]);
    for (const row of rows.slice(2)) assert.match(row[4], /^[0-9.]+ x/, row.join(" | "));
});

test("a model that the peer does not know is an error that says so", () => {
    const opt = join(scratch, "opt.gguf");
    execFileSync(binary, ["make-model", "--quiet", "--shape", "tiny-gpt-postln", "--type", "F32", opt]);
    const r = spawnSync(binary, ["bench", "--quiet", "--peer", "--reps", "1", opt], { env: { ...process.env, HEARTH_HOME: home } });
    assert.equal(r.status, 3);
    assert.match(r.stderr.toString(), /the peer failed: /);
});

function statBytes(path) {
    return readFileSync(path).length;
}

// grammar.test.mjs: answers under a schema are values that ajv takes.
//
//   HEARTH_BUILD=build node --test grammar.test.mjs
//
// The bundled model writes at a temperature where it knows nothing, so that the grammar alone makes the answer; each schema
// is answered under several seeds. Schemas of the JSON Schema Test Suite that hearth reads are answered too, where the
// suite has valid instances at all.
import Ajv2020 from "ajv/dist/2020.js";
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { build, data, scratch, source } from "./lib.mjs";

const model = join(source, "models/stories260K.gguf");
const suite = join(data, "grammar/json-schema-test-suite/draft2020-12");

const isDate = (s) => /^\d{4}-\d{2}-\d{2}$/.test(s) && !Number.isNaN(Date.parse(s + "T00:00:00Z")) && new Date(s + "T00:00:00Z").toISOString().startsWith(s);
const isTime = (s) => /^\d{2}:\d{2}:\d{2}(\.\d+)?(z|[+-]\d{2}:\d{2})$/i.test(s) && !Number.isNaN(Date.parse("2000-01-01T" + s.toUpperCase()));
const formats = { date: isDate, time: isTime, "date-time": (s) => isDate(s.slice(0, 10)) && /t/i.test(s[10]) && isTime(s.slice(11)),
    uuid: /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i };
const validator = (schema) => new Ajv2020({ strict: false, formats }).compile(schema);

/** The answer and how it ended, or null where hearth refuses the schema (exit code 3) or nothing satisfies it. */
function answer(schema, seed, limit) {
    const file = join(scratch, "schema.json");
    writeFileSync(file, JSON.stringify(schema));
    try {
        return JSON.parse(execFileSync(join(build, "src/apps/hearth"), ["run", "--json", "--format", file, "--seed", String(seed), "-n", String(limit),
            "--temp", "3", "--top-k", "0", "--top-p", "1", "--min-p", "0", model, "Once"], { stdio: ["ignore", "pipe", "pipe"] }).toString());
    } catch (error) {
        assert.match(error.stderr.toString(), /supported|nothing satisfies|left recursion/, error.stderr.toString());
        return null;
    }
}

const short = { type: "string", maxLength: 8 };
const schemas = {
    person: { type: "object", properties: { name: short, born: { type: "string", format: "date" }, id: { type: "string", format: "uuid" },
        height: { type: "number", minimum: 0.5, exclusiveMaximum: 2.75 }, tags: { type: "array", items: short, minItems: 1, maxItems: 3 } },
        required: ["name", "born", "height"], additionalProperties: false },
    call: { oneOf: ["add", "remove"].map((op) => ({ type: "object", properties: { op: { const: op }, at: { type: "integer", minimum: -3, maximum: 12 } }, required: ["op", "at"] })) },
    times: { type: "array", prefixItems: [{ format: "date-time", type: "string" }, { format: "time", type: "string" }], items: false, minItems: 2 },
    tree: { $defs: { node: { type: "object", properties: { v: { enum: [1, "two", null, [3]] }, next: { anyOf: [{ type: "null" }, { $ref: "#/$defs/node" }] } },
        required: ["v", "next"] } }, $ref: "#/$defs/node" },
    merged: { allOf: [{ type: "object", properties: { a: { type: "integer" } }, required: ["a"] }, { properties: { a: { minimum: 10, maximum: 2000 }, b: { type: "boolean" } }, required: ["b"] }] },
    patterns: { type: "object", properties: { plate: { type: "string", pattern: "^[A-Z]{1,3}-[0-9]{2,4}$" }, free: { type: "string", pattern: "x\"\\d", maxLength: 9 } }, required: ["plate", "free"] },
    others: { type: "object", properties: { a: { type: "null" } }, additionalProperties: { type: "integer", maximum: 9 } },
};

test("schemas of applications", () => {
    let n = 0;
    for (const [name, schema] of Object.entries(schemas)) {
        const validate = validator(schema);
        for (let seed = 1; seed <= 8; seed++) {
            const out = answer(schema, seed, 400);
            assert.ok(out, name);
            if (out.finish_reason !== "stop") continue;
            assert.ok(validate(JSON.parse(out.text)), `${name}, seed ${seed}: ${out.text}\n${JSON.stringify(validate.errors)}`);
            n++;
        }
    }
    console.log(`${n} of ${8 * Object.keys(schemas).length} answers came to their end; ajv takes all of these`);
    assert.ok(n >= 6 * Object.keys(schemas).length);
});

test("schemas of the test suite", { skip: !existsSync(suite) && "no data" }, () => {
    let nRead = 0, nEnded = 0;
    for (const file of ["additionalProperties", "allOf", "anyOf", "const", "enum", "items", "maxItems", "maximum", "minItems", "minLength", "oneOf", "pattern", "prefixItems", "properties", "required", "type"])
        for (const group of JSON.parse(readFileSync(join(suite, file + ".json"), "utf8"))) {
            const out = answer(group.schema, 5, 150);
            if (!out) continue;
            nRead++;
            if (out.finish_reason !== "stop") continue;
            const validate = validator(group.schema);
            assert.ok(validate(JSON.parse(out.text)), `${file}, ${group.description}: ${out.text}`);
            nEnded++;
        }
    console.log(`${nRead} schemas read, ${nEnded} answers came to their end`);
    assert.ok(nRead >= 90 && nEnded >= 50);
});

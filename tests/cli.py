#!/usr/bin/env python3
"""cli.py HEARTH: the command line from outside, as people and scripts meet it.

Runs the built program: help, exit codes, messages, JSON, pipes, signals, a terminal session, memory predicted and
used. Needs nothing but the bundled model and what hearth itself can make. Each test is a function; the last lines
give the counts that tools/summarise.py reads.
"""
import json
import os
import pty
import re
import resource
import select
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import termios
import time
import traceback

HEARTH = os.path.abspath(sys.argv[1])
SOURCE = os.environ.get("HEARTH_SOURCE") or os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DATA = os.environ.get("HEARTH_DATA") or os.path.join(SOURCE, "../shared/data")
MODEL = os.path.join(SOURCE, "models/stories260K.gguf")
SCRATCH = tempfile.mkdtemp(prefix="hearth-cli-")
VERBS = ["run", "chat", "inspect", "tokenize", "render", "perplexity", "convert", "quantize", "pack", "make-model", "bench"]
CHAT_TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
SLOW = float(os.environ.get("HEARTH_TEST_SLOWNESS", "1"))  # sanitizers and emulators take longer
ENV = {k: v for k, v in os.environ.items() if not k.startswith(("HEARTH_", "XDG_"))}
ENV.update(HEARTH_HOME=os.path.join(SCRATCH, "home"), TERM="xterm", LC_ALL="C.UTF-8")


class Skip(Exception):
    pass


def hearth(*args, stdin=None, env=None, timeout=240):
    r = subprocess.run([HEARTH, *map(str, args)], input=stdin, capture_output=True, timeout=timeout * SLOW,
                       env={**ENV, **(env or {})}, **({} if stdin is not None else {"stdin": subprocess.DEVNULL}))
    assert b"runtime error" not in r.stderr and b"Sanitizer" not in r.stderr, r.stderr.decode()  # in builds that look
    return r


def ok(*args, **more):
    r = hearth(*args, **more)
    assert r.returncode == 0, f"{args}: exit {r.returncode}: {r.stderr.decode()}"
    return r.stdout.decode()


def fails(code, sentence, *args, **more):
    r = hearth(*args, **more)
    text = r.stderr.decode()
    assert r.returncode == code, f"{args}: exit {r.returncode}, not {code}: {text}"
    assert re.search(sentence, text), f"{args}: {text!r} does not say {sentence!r}"
    assert text.count("\n") <= 2, f"{args}: more than a sentence: {text}"
    return r


def scratch(name, content=None):
    path = os.path.join(SCRATCH, name)
    if content is not None:
        with open(path, "wb") as f:
            f.write(content if isinstance(content, bytes) else content.encode())
    return path


def need(name):
    path = os.path.join(DATA, name)
    if not os.path.exists(path):
        raise Skip(f"no {path}")
    return path


# ---- help, usage, errors ----


def test_help_of_every_verb():
    overview = ok("help")
    assert ok("--help") == overview
    for verb in VERBS:
        assert verb in overview
        text = ok(verb, "--help")
        assert text == ok("help", verb) and text.startswith(f"Usage: hearth {verb} ") and "--help" in text
        assert max(map(len, text.split("\n"))) <= 120


def test_version():
    assert re.fullmatch(r"hearth \d+\.\d+\.\d+\n", ok("--version"))


def test_usage_errors():
    assert hearth().returncode == 2
    fails(2, 'no verb "rnu", did you mean "run"', "rnu")
    fails(2, "unknown option --tmp, did you mean --temp", "run", "--tmp", "1", MODEL, "x")
    fails(2, "--power must be between 1 and 100", "run", "--power", "0", MODEL, "x")
    fails(1, "no list of CPUs", "run", "--affinity", "0-", MODEL, "x")
    fails(2, "unknown option -Z", "run", "-Z", MODEL)
    fails(2, "missing argument", "run")
    fails(2, "too many arguments", "inspect", MODEL, "b")
    fails(2, "--temp needs a number", "run", "--temp", "warm", MODEL, "x")
    fails(2, "--top-p must be between 0 and 1", "run", "--top-p=1.5", MODEL, "x")
    fails(2, "--predict needs a whole number", "run", "-n", "1.5", MODEL, "x")
    fails(2, "--predict needs a value", "run", MODEL, "x", "-n")
    fails(2, "--seed needs a whole number", "run", "--seed", "-1", MODEL, "x")
    fails(2, "--json takes no value", "run", "--json=1", MODEL, "x")
    fails(2, "--kv knows f16, f32", "run", "--kv", "f8", MODEL, "x")
    fails(2, "--date needs YYYY-MM-DD", "render", "--date", "tomorrow", "a", "b")
    fails(2, 'no type "Q9"', "quantize", MODEL, scratch("o.gguf"), "Q9")
    fails(2, "--prefill needs", "bench", "--prefill", "1,,2", MODEL)
    fails(2, "not both", "bench", "--json", "--markdown", MODEL)
    fails(2, "--peer=PATH", "bench", "--peer", "--peer-args", "-rtr 1", MODEL)
    fails(1, "not a llama-bench", "bench", "--quiet", "--peer=/no/such/bench", MODEL)
    fails(1, "none; install nodejs", "bench", "--quiet", "--peer", MODEL, env={"PATH": "/nonexistent"})


def test_input_errors():
    missing = scratch("no-such.gguf")
    for verb, rest in [("run", ["x"]), ("chat", []), ("inspect", []), ("tokenize", ["x"]), ("bench", []), ("perplexity", ["x"]),
                       ("quantize", [scratch("o.gguf"), "Q8_0"])]:
        fails(1, f"hearth {verb}: .*no-such.gguf: (not found|No such file)", verb, missing, *rest)
    whole = open(MODEL, "rb").read()
    cut = scratch("cut.gguf", whole[: len(whole) // 2])
    text = scratch("text.gguf", "this is no model\n" * 10)
    strange = scratch("strange.gguf", whole.replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0lxama", 1))
    for verb, rest in [("run", ["x"]), ("inspect", []), ("bench", [])]:
        fails(3, "cut.gguf", verb, cut, *rest)
        fails(3, "text.gguf", verb, text, *rest)
    fails(3, "lxama", "run", strange, "x")
    r = hearth("inspect", strange)
    assert r.returncode == 3 and b"supported     no: " in r.stdout and b"lxama" in r.stdout
    assert json.loads(hearth("inspect", "--format", "json", strange).stdout)["supported"] is False
    fails(1, "HEARTH_CPU=nothing", "run", MODEL, "x", env={"HEARTH_CPU": "nothing"})


def test_output_errors():
    if not os.path.exists("/dev/full"):
        raise Skip("no /dev/full")
    with open("/dev/full", "wb") as full:
        r = subprocess.run([HEARTH, "inspect", "--keys", MODEL], stdout=full, stderr=subprocess.PIPE, env=ENV)
        assert r.returncode == 1 and b"cannot write" in r.stderr
    fails(1, "cannot write", "quantize", MODEL, "/nonexistent/dir/o.gguf", "Q8_0")


# ---- inspect, tokenize, render ----


def test_inspect():
    text = ok("inspect", MODEL)
    for word in ["llama", "memory", "weights", "supported     yes", "vocabulary"]:
        assert word in text, word
    long = ok("inspect", "--tensors", "--keys", MODEL)
    assert "blk.0.attn_q.weight" in long and "general.architecture = \"llama\"" in long
    j = json.loads(ok("inspect", "--format", "json", MODEL))
    assert j["supported"] and j["missing"] is None and j["metadata"]["general.architecture"] == "llama"
    assert j["memory"]["total"] == j["memory"]["weights"] + j["memory"]["kv"] + j["memory"]["scratch"]
    assert sum(t["bytes"] for t in j["tensors"]) == sum(j["weight_bytes_by_type"].values())
    longer = json.loads(ok("inspect", "--format", "json", "--ctx", "512", "--kv", "f32", MODEL))
    shorter = json.loads(ok("inspect", "--format", "json", "--ctx", "256", "--kv", "f16", MODEL))
    assert longer["memory"]["kv"] == 4 * shorter["memory"]["kv"]


def test_vocabulary_only():
    vocab = need("vocab/ggml-vocab-phi-3.gguf")
    assert "vocabulary only" in ok("inspect", vocab)
    assert json.loads(ok("tokenize", "--ids", "--no-bos", vocab, "Hello world")) == [15043, 3186]
    assert json.loads(ok("tokenize", "--ids", vocab, "<|user|>"))[-1] == 32010
    assert 32010 not in json.loads(ok("tokenize", "--ids", "--no-special", vocab, "<|user|>"))
    fails(3, "phi-3.gguf", "run", vocab, "x")


def test_tokenize():
    ids = json.loads(ok("tokenize", "--ids", MODEL, "Once upon a time"))
    assert ids == [1, 403, 407, 261, 378]
    assert json.loads(ok("tokenize", "--ids", MODEL, "-", stdin=b"Once upon a time")) == ids
    assert json.loads(ok("tokenize", "--ids", "--no-bos", MODEL, "Once upon a time")) == ids[1:]
    lines = ok("tokenize", MODEL, "Once upon a time").splitlines()
    assert [int(line.split()[0]) for line in lines] == ids
    assert "".join(re.search(r'"(.*)"$', line)[1] for line in lines[1:]).strip() == "Once upon a time"
    assert json.loads(ok("tokenize", "--ids", "--no-bos", MODEL, "</s>")) == [2]
    assert json.loads(ok("tokenize", "--ids", "--no-bos", "--no-special", MODEL, "</s>")) != [2]
    assert json.loads(ok("tokenize", "--ids", "--no-bos", MODEL, "--", "-- a")) == \
        json.loads(ok("tokenize", "--ids", "--no-bos", MODEL, "-", stdin=b"-- a"))
    raw = hearth("tokenize", MODEL, "-", stdin=b"\x1b[31m\xff\xfe")
    assert raw.returncode == 0 and b"\x1b" not in raw.stdout and b"\xff" not in raw.stdout


def test_render():
    t = scratch("t.jinja", CHAT_TEMPLATE)
    messages = [{"role": "user", "content": "Hi <there>\n"}, {"role": "assistant", "content": "é"}]
    m = scratch("m.json", json.dumps(messages))
    assert ok("render", t, m) == "[user]Hi <there>\n\n[assistant]é\n[assistant]"
    assert ok("render", "--no-generation-prompt", t, "-", stdin=json.dumps({"messages": messages[:1]}).encode()) == "[user]Hi <there>\n\n"
    more = scratch("more.jinja", "{{ bos_token }}{{ eos_token }}{{ tools[0].x }}{{ strftime_now('%d.%m.%Y') }}{{ colour }}")
    tools = scratch("tools.json", '[{"x": 1}]')
    everything = scratch("e.json", json.dumps({"messages": messages, "colour": "red"}))
    assert ok("render", "--bos", "<s>", "--eos", "</s>", "--date", "2024-07-26", "--tools", tools, more, everything) == "<s></s>126.07.2024red"
    refuses = scratch("r.jinja", "{{ raise_exception('only red') }}")
    fails(1, "only red", "render", refuses, m)
    fails(3, "no array of messages", "render", t, scratch("x.json", "{}"))
    fails(3, "x2.json", "render", t, scratch("x2.json", "[1,"))
    fails(3, "no chat template", "render", MODEL, m)
    fails(3, "bad.jinja", "render", scratch("bad.jinja", "{% for x %}"), m)


# ---- run ----


def run_json(*args, **more):
    return json.loads(ok("run", "--json", *args, **more))


def test_run_greedy_words():
    text = ok("run", "--temp", "0", "-n", "12", MODEL, "Once upon a time")
    assert text == ", there was a little girl named Lily. She\n", text
    echoed = ok("run", "--echo", "--temp", "0", "-n", "12", MODEL, "Once", "upon", "a", "time")
    assert echoed == "Once upon a time" + text


def test_run_json_and_stream_agree():
    j = run_json("--seed", "7", "-n", "40", MODEL, "Once upon a time")
    assert j["finish_reason"] in ("length", "stop") and j["usage"]["completion_tokens"] == len(j["tokens"]) and j["seed"] == 7
    assert j["usage"]["prompt_tokens"] == 5 and j["memory"]["peak"] > 0 and j["timings"]["decode_tokens_per_s"] > 0
    assert ok("run", "--seed", "7", "-n", "40", MODEL, "Once upon a time").rstrip("\n") == j["text"].rstrip("\n")


def test_drafts_change_nothing():
    prompt = "Tom has a red ball. Sue has a red ball. Tom has a red ball. Sue has"
    for more in (["--temp", "0"], ["--temp", "0", "--stop", "ball", "-n", "60"], ["--seed", "3", "--repeat-penalty", "1.1"],
                 ["--seed", "4", "-n", "17"], ["--temp", "0", "--ctx", "64"]):
        without = run_json("--draft", "0", *more, MODEL, prompt)
        assert without["speculation"] == {"drafted": 0, "accepted": 0}, without
        for n in ("1", "15", "31"):
            j = run_json("--draft", n, *more, MODEL, prompt)
            assert j["speculation"]["accepted"] <= j["speculation"]["drafted"]
            for key in ("text", "tokens", "finish_reason", "usage"):
                assert j[key] == without[key], (more, n, key, j[key], without[key])
    fails(2, "--draft must be between 0 and 31", "run", "--draft", "32", MODEL, "x")


def test_run_in_a_format():
    schema = scratch("cat.json", json.dumps({
        "type": "object", "required": ["name", "age", "kind"],
        "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer", "minimum": 1, "maximum": 99},
                       "kind": {"enum": ["cat", "dog"]}}}))
    for more in (["--temp", "0"], ["--seed", "3"], ["--seed", "4", "--temp", "2", "--top-k", "0", "--top-p", "1", "--min-p", "0"]):
        j = run_json("--format", schema, *more, MODEL, "Once upon a time")
        v = json.loads(j["text"])
        assert list(v) == ["name", "age", "kind"] and len(v["name"]) <= 20 and 1 <= v["age"] <= 99 and v["kind"] in ("cat", "dog"), v
        assert j["finish_reason"] == "stop" and ok("run", "--format", schema, *more, MODEL, "Once upon a time") == j["text"] + "\n"
        for n in ("0", "31"):
            assert run_json("--draft", n, "--format", schema, *more, MODEL, "Once upon a time")["tokens"] == j["tokens"]
    rules = scratch("rules.gbnf", 'root ::= ("the " [a-z]{2,6} " "?){3} "."')
    assert re.fullmatch(r"(the [a-z]{2,6} ?){3}\.\n", ok("run", "--temp", "0", "--format", rules, MODEL, "Once"))
    assert ok("run", "--seed", "1", "-n", "1", "--format", "json", MODEL, "Once").startswith("{")
    fails(3, "line 1, column 10", "run", "--format", scratch("bad.gbnf", "root ::= )"), MODEL, "x")
    fails(3, '"not"', "run", "--format", scratch("not.json", '{"not": {}}'), MODEL, "x")
    fails(4, "too complex", "run", "--format", scratch("long.json", '{"type": "string", "maxLength": 100000}'), MODEL, "x")
    fails(1, "no-such-file", "run", "--format", "no-such-file", MODEL, "x")


def test_run_is_deterministic():
    first = run_json("--seed", "42", "-n", "100", "--threads", "1", MODEL, "Lily")
    for more in (["--threads", "2"], ["--threads", "3"], ["--power", "50"], ["--affinity", "none"], ["--affinity", str(min(os.sched_getaffinity(0)))], []):
        assert run_json("--seed", "42", "-n", "100", *more, MODEL, "Lily")["tokens"] == first["tokens"]
    assert run_json("--seed", "42", "-n", "100", MODEL, "Lily", env={"HEARTH_CPU": "ref"})["tokens"] == first["tokens"]
    others = [run_json("--seed", seed, "-n", "100", MODEL, "Lily")["tokens"] for seed in (43, 44)]
    assert others[0] != others[1] != first["tokens"]
    seeds = [run_json("-n", "1", MODEL, "Lily")["seed"] for _ in range(2)]
    assert seeds[0] != seeds[1]  # random unless given


def test_run_prompt_sources():
    want = run_json("--temp", "0", "-n", "20", MODEL, "Tom had a\n\nbig dog")["tokens"]
    assert run_json("--temp", "0", "-n", "20", MODEL, "big dog", stdin=b"Tom had a\n")["tokens"] == want
    assert run_json("--temp", "0", "-n", "20", MODEL, stdin=b"Tom had a\n\nbig dog\n")["tokens"] == want
    assert run_json("--temp", "0", "-n", "20", MODEL, "-", stdin=b"Tom had a\n\nbig dog")["tokens"] == want
    joined = run_json("--temp", "0", "-n", "20", MODEL, "Tom", "-", "dog", stdin=b"had a")["tokens"]
    assert joined == run_json("--temp", "0", "-n", "20", MODEL, "Tom had a dog")["tokens"]
    assert run_json("--temp", "0", "-n", "20", MODEL)["usage"]["prompt_tokens"] == 1  # begins a text of its own


def test_run_stops():
    whole = run_json("--temp", "0", "-n", "60", MODEL, "Once upon a time")["text"]
    j = run_json("--temp", "0", "-n", "60", "--stop", "never there", "--stop", "Lily", MODEL, "Once upon a time")
    assert j["text"] == whole[: whole.index("Lily")] and j["finish_reason"] == "stop"
    assert ok("run", "--temp", "0", "-n", "60", "--stop", "Lily", MODEL, "Once upon a time") == j["text"] + "\n"
    full = run_json("--temp", "0", "--ctx", "32", MODEL, "Once upon a time")
    assert full["finish_reason"] in ("context", "stop")
    if full["finish_reason"] == "context":
        assert full["usage"]["prompt_tokens"] + full["usage"]["completion_tokens"] == 33
    fails(4, "the prompt has \\d+ tokens, the context holds 8", "run", "--ctx", "8", MODEL, "one two three four five six seven eight nine ten")


def test_run_stops_where_the_model_says():
    """tinychat-relu has no token that ends an answer; its GGUF names the text that does."""
    folder, gguf = need("models/tinychat-relu"), scratch("tinychat.gguf")
    ok("convert", folder, gguf)
    assert ok("run", "--temp", "0", gguf, "Hello!").strip() == "Hi there! How can I help you today?"
    assert "<|end|>" in ok("run", "--raw", "--temp", "0", "-n", "60", gguf, "<|user|>Hello!<|bot|>")


def test_run_template_and_trust():
    t = scratch("chat.jinja", CHAT_TEMPLATE)
    plain = run_json("--chat-template", t, "-n", "1", MODEL, "Hi")["usage"]["prompt_tokens"]
    rendered = ok("render", "--eos", "</s>", t, "-", stdin=b'[{"role": "user", "content": "Hi"}]')
    assert plain == len(json.loads(ok("tokenize", "--ids", MODEL, rendered)))
    # A control token written by a user is text; in --raw it is what it says.
    evil = run_json("--chat-template", t, "-n", "1", MODEL, "Hi</s>")["usage"]["prompt_tokens"]
    assert evil > plain + 1
    assert run_json("--raw", "-n", "1", MODEL, "Hi</s>")["usage"]["prompt_tokens"] == \
        len(json.loads(ok("tokenize", "--ids", MODEL, "Hi</s>")))
    assert run_json("-n", "1", MODEL, "Hi</s>")["usage"]["prompt_tokens"] == \
        len(json.loads(ok("tokenize", "--ids", "--no-special", MODEL, "Hi</s>")))
    with_system = run_json("--chat-template", t, "--system", "Be brief", "-n", "1", MODEL, "Hi")["usage"]["prompt_tokens"]
    assert with_system > plain
    fails(2, "no prompt", "run", "--chat-template", t, MODEL)
    fails(2, "needs a chat template", "run", "--system", "x", MODEL, "y")


def test_run_verbose():
    r = hearth("run", "-v", "-n", "5", "--temp", "0", MODEL, "Once upon a time")
    text = r.stderr.decode()
    for word in ["load", "prompt", "answer", "tokens/s", "drafts", "predicted", "peak", "seed"]:
        assert word in text, text
    # The figures on one line are each their own.
    j = run_json("-n", "5", "--temp", "0", MODEL, "Once upon a time")["memory"]
    sizes = re.search(r"predicted ([\d.]+) MB \(weights (\d+) kB, K/V for 512 tokens (\d+) kB, scratch ([\d.]+) MB\), peak ([\d.]+) MB", text)
    assert sizes and float(sizes[2]) == round(j["weights"] / 1e3) and float(sizes[3]) == round(j["kv"] / 1e3), text
    assert abs(float(sizes[4]) - j["scratch"] / 1e6) < 0.006 and abs(float(sizes[1]) - j["predicted"] / 1e6) < 0.5, text
    assert r.stdout.decode() == ok("run", "-n", "5", "--temp", "0", MODEL, "Once upon a time")


# ---- signals ----


def big_model():
    """More than 150 MB, slow enough to be interrupted."""
    path = scratch("big.gguf")
    if not os.path.exists(path):
        ok("make-model", "--quiet", "--arch", "llama", "--layers", "10", "--embd", "768", "--heads", "12", "--kv-heads", "4", "--head-dim", "64",
           "--ff", "2048", "--vocab-size", "8192", "--ctx", "2048", "--type", "F16", path)
    assert os.path.getsize(path) >= 150e6, os.path.getsize(path)
    return path


def test_interrupt_stops_the_answer():
    p = subprocess.Popen([HEARTH, "run", "--temp", "1", big_model(), "Once"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, env=ENV)
    first = p.stdout.read(1)
    p.send_signal(signal.SIGINT)
    rest, errors = p.communicate(timeout=30 * SLOW)
    assert first and p.returncode == 130, (p.returncode, errors)
    assert rest.endswith(b"\n"), rest[-20:]


def wait_for_interrupt_handler(process):
    """Before that, an interrupt simply kills it."""
    for _ in range(int(400 * SLOW)):
        with open(f"/proc/{process.pid}/status", encoding="ascii") as f:
            caught = next(int(line.split()[1], 16) for line in f if line.startswith("SigCgt:"))
        if caught & 1 << (signal.SIGINT - 1):
            return
        time.sleep(0.05)
    raise AssertionError("no handler for interrupts")


def test_second_interrupt_quits():
    p = subprocess.Popen([HEARTH, "run", big_model(), "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENV)
    p.stdin.write(b"Once upon a time " * 60)
    p.stdin.close()
    wait_for_interrupt_handler(p)
    for _ in range(2):
        p.send_signal(signal.SIGINT)
        time.sleep(0.01)
    assert p.wait(timeout=30 * SLOW) == 130


def test_interrupt_leaves_no_half_file():
    out = scratch("half.gguf")
    p = subprocess.Popen([HEARTH, "make-model", "--shape", "Llama-3.2-1B", "--type", "F16", out], stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, env=ENV)
    for _ in range(200):
        if any(name.startswith("half.gguf.part") for name in os.listdir(SCRATCH)):
            break
        time.sleep(0.05)
    p.send_signal(signal.SIGINT)
    assert p.wait(timeout=30 * SLOW) == 130
    assert not [name for name in os.listdir(SCRATCH) if name.startswith("half.gguf")]


# ---- chat ----


def chat(lines, *args):
    r = hearth("chat", "--temp", "0", "-n", "12", *args, MODEL, stdin="\n".join(lines).encode() + b"\n")
    return r.returncode, r.stdout.decode(), r.stderr.decode()


def test_chat_through_a_pipe():
    code, out, err = chat(["Once upon a time", "/stats", "/bye", "never read"])
    assert code == 0 and not err, err
    assert out.startswith(", there was a little girl named Lily. She\n"), out
    assert ">>>" not in out and "never" not in out
    assert re.search(r"context +16 of 512 tokens", out), out


def test_chat_commands():
    t = scratch("chat.jinja", CHAT_TEMPLATE)
    code, out, err = chat(["/?", "/set", "/set temp 0.5", "/set parameter top-k 3", "/set system Be kind", "/set stop END", "/set stop none", "/show",
                           "/show template", "/show history", "Hello", "/show history", "/regen", "/undo", "/show history", "/clear",
                           "/set system", "/show history", "/stats", "/bye"], "--chat-template", t, "--seed", "1")
    assert code == 0 and not err, err
    assert out.count("system: Be kind") == 3 and out.count("user: Hello") == 1 and out.count("assistant: ") == 1
    assert re.search(r"temp +0\.5\n", out) and re.search(r"top-k +3\n", out) and "system  Be kind" in out
    assert "The last turn is gone." in out and "begins anew" in out
    code, out, err = chat(["/undo", "/regen", "/set temp hot", "/set tmp 1", "/stat", "/set temp"])
    assert code == 0
    for sentence in ["no turn to take back", "no answer to make again", "temp needs a number", "did you mean temp", "did you mean /stats", "needs a value"]:
        assert sentence in err, (sentence, err)


def test_chat_keeps_what_it_computed():
    t = scratch("chat.jinja", CHAT_TEMPLATE)
    code, out, err = chat(["Once upon a time", "/stats", "And then", "/stats", "/regen", "/stats"], "--chat-template", t)
    assert code == 0 and not err, err
    prompts = [tuple(map(int, m)) for m in re.findall(r"prompt +(\d+) tokens, (\d+) of them kept", out)]
    held = [int(m) for m in re.findall(r"context +(\d+) of", out)]
    assert len(prompts) == 3 and prompts[0][1] == 0
    # The second turn computes neither the first prompt nor the first answer again ...
    assert prompts[1][1] >= held[0] - 1, (prompts, held)
    # ... and to answer again computes one token: the logits of the last.
    assert prompts[2][0] == prompts[1][0] and prompts[2][1] == prompts[2][0] - 1


def test_chat_with_a_trained_model():
    """A model that was trained to chat, has its own template, and ends its answers with a string, not a token."""
    model = scratch("tinychat.gguf")
    ok("convert", need("models/tinychat-relu"), model)
    r = hearth("chat", "--temp", "0", "--kv", "f32", model, stdin=b"Hello!\n/stats\n/set predict 4\nWhat is your name?\n/stats\n/undo\n/undo\n/set predict 0\nHello!\n")
    out = r.stdout.decode()
    assert r.returncode == 0 and not r.stderr, r.stderr
    assert out.count("Hi there! How can I help you today?\n") == 2 and "<|end|>" not in out and "<|user|>" not in out, out
    held = [int(m) for m in re.findall(r"context +(\d+) of", out)]
    prompts = [tuple(map(int, m)) for m in re.findall(r"prompt +(\d+) tokens, (\d+) of them kept", out)]
    assert prompts[1][1] >= held[0] - 1, (prompts, held)
    assert ok("run", "--temp", "0", "--kv", "f32", model, "Hello!") == "Hi there! How can I help you today?\n"


def test_chat_multi_line():
    a = chat(['"""Once', 'upon a time"""', "/show history"])
    assert a[0] == 0 and "user: Once\nupon a time\n" in a[1], a
    assert "user: one line\n" in chat(['"""one line"""', "/show history"])[1]


def test_chat_full_context():
    code, out, err = chat(["Once upon a time", "Once upon a time there was a boy and a dog and a cat and a bird", "/show history", "/undo", "/show history"],
                          "--ctx", "24")
    assert code == 4 and "/undo" in err and "/clear" in err, (code, err)
    assert out.count("user: ") == 1 and "a cat" not in out  # the turn that did not fit is not in the history


class Terminal:
    """hearth under a pseudo-terminal, read until it says what is expected."""

    def __init__(self, *args, env=None):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(HEARTH, [HEARTH, *args], {**ENV, **(env or {})})
        self.seen = b""

    def expect(self, text, seconds=30):
        end = time.time() + seconds * SLOW
        while text not in self.seen:
            left = end - time.time()
            assert left > 0, f"{text!r} did not come: {self.seen!r}"
            if select.select([self.fd], [], [], left)[0]:
                try:
                    data = os.read(self.fd, 65536)
                except OSError:
                    data = b""
                assert data, f"ended before {text!r}: {self.seen!r}"
                self.seen += data
        before, _, self.seen = self.seen.partition(text)
        return before

    def prompt(self):
        """Waits for the prompt and until the line editor has taken the terminal over: before that, the kernel would edit."""
        self.expect(b">>> ")
        end = time.time() + 30 * SLOW
        while termios.tcgetattr(self.fd)[3] & termios.ICANON:
            assert time.time() < end, "the line editor did not take the terminal over"
            time.sleep(0.01)

    def send(self, data):
        os.write(self.fd, data)

    def end(self):
        rest = self.seen
        try:
            while True:
                data = os.read(self.fd, 65536)
                if not data:
                    break
                rest += data
        except OSError:
            pass
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]), rest


def test_chat_on_a_terminal():
    home = scratch("tty-home")
    t = Terminal("chat", "--temp", "0", "-n", "12", MODEL, env={"HEARTH_HOME": home})
    t.prompt()
    t.send("Once upon a timé\x7fe\r".encode())  # a character of two bytes, taken back by one Backspace
    t.expect(b"a little girl named Lily")
    t.prompt()
    t.send(b"\x03")  # Ctrl-C at the prompt leaves nothing
    t.expect(b"Ctrl-D or /bye leaves")
    t.prompt()
    t.send(b"half a li")
    t.expect(b"half a li")
    t.send(b"\x03")
    t.expect(b"Ctrl-D or /bye leaves")
    t.prompt()
    t.send(b'"""a\r')
    t.expect(b"... ")
    t.send(b'b"""\r')
    t.prompt()
    t.send(b"/show history\r")
    t.expect(b"user: Once upon a time\r\n")
    t.expect(b"user: a\r\nb\r\n")
    t.prompt()
    t.send(b"\x04")
    code, _ = t.end()
    assert code == 0
    path = os.path.join(home, "chat_history")
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600 and b"upon" in open(path, "rb").read()
    t = Terminal("chat", "--temp", "0", "-n", "3", MODEL, env={"HEARTH_HOME": home})
    t.prompt()
    t.send(b"\x1b[A\x1b[A\x1b[A\x1b[A\r")  # up: what was typed last time
    t.expect(b"Once upon a time")
    t.prompt()
    t.send(b"/bye\r")
    assert t.end()[0] == 0


def test_interrupt_in_a_terminal_chat():
    t = Terminal("chat", "--temp", "1", big_model())
    t.prompt()
    t.send(b"Once\r")
    t.expect(b"Once\r\n")
    time.sleep(1.0 * SLOW)
    t.send(b"\x03")
    t.prompt()
    t.send(b"/stats\r")
    t.expect(b"ended by: interrupted")
    t.send(b"/bye\r")
    assert t.end()[0] == 0


def test_colour():
    """Bold only on a terminal, and never with NO_COLOR or TERM=dumb."""
    for env, bold in (({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)):
        code, out = Terminal("inspect", scratch("no-such.gguf"), env=env).end()
        assert code == 1 and (b"\x1b[1m" in out) == bold, (env, out)
    assert b"\x1b" not in hearth("inspect", scratch("no-such.gguf")).stderr


def test_no_control_characters_reach_a_terminal():
    """A template-less model whose metadata is hostile cannot steer the terminal."""
    whole = open(MODEL, "rb").read()
    name = re.search(rb"general\.name\x08\0\0\0(........)", whole, re.S)
    n = struct.unpack("<Q", name[1])[0]
    evil = scratch("evil.gguf", whole[: name.end()] + b"\x1b]0;x\x07\x9b"[:n].ljust(n, b"\x1b") + whole[name.end() + n:])
    out = hearth("inspect", "--keys", evil).stdout
    assert b"\x1b" not in out and b"\\x1B" in out
    json.loads(hearth("inspect", "--format", "json", evil).stdout)
    t = Terminal("inspect", evil)
    assert b"\x1b" not in t.end()[1]


# ---- files, measures ----


def test_convert():
    folder, out = need("models/tinystories-656k"), scratch("ts.gguf")
    assert "MB" in ok("convert", folder, out)
    assert json.loads(ok("inspect", "--format", "json", out))["supported"]
    story, out = need("models/stories260K"), scratch("s260.gguf")
    ok("convert", os.path.join(story, "stories260K.bin"), out, "--tokenizer", os.path.join(story, "tok512.bin"))
    want = json.load(open(os.path.join(story, "expected.json")))["expected_text"]
    assert ok("run", "--temp", "0", "--kv", "f32", "-n", "200", out).startswith(want)
    r = hearth("convert", folder, out, "--tokenizer", scratch("no-such-tokenizer"))
    assert r.returncode != 0 and b"no-such-tokenizer" in r.stderr


def test_quantize_and_perplexity():
    q8, text = scratch("q8.gguf"), scratch("t.txt")
    stories = "Once upon a time, there was a boy named Tim. He had a red ball. He played with it in the park. One day the ball was lost. Tim was sad. " \
              "His mom said, \"Let us look for it.\" They found the ball under a big tree. Tim was happy and said, \"Thank you, mom!\" They went home.\n"
    scratch("t.txt", stories * 8)
    out = ok("quantize", MODEL, q8, "q8_0")
    assert "before" in out and "(Q8_0)" in out and os.path.getsize(q8) < 0.75 * os.path.getsize(MODEL)
    a = json.loads(ok("perplexity", "--format", "json", "--ctx", "128", MODEL, text))
    b = json.loads(ok("perplexity", "--format", "json", "--ctx", "128", q8, text))
    assert a["window_tokens"] == 128 and a["tokens_scored"] == a["windows"] * 63 and a["windows"] >= 4 and 1 < a["perplexity"] < 10
    assert abs(a["perplexity"] / b["perplexity"] - 1) < 0.02
    kl = json.loads(ok("perplexity", "--format", "json", "--ctx", "128", "--kl", MODEL, q8, text))
    assert abs(kl["base_perplexity"] - a["perplexity"]) < 1e-9 and abs(kl["perplexity"] - b["perplexity"]) < 1e-9
    assert 0 < kl["kl_mean"] < 0.05 and kl["same_top"] > 0.9
    assert json.loads(ok("perplexity", "--format", "json", "--ctx", "128", "--kl", q8, q8, text))["kl_mean"] < 1e-12
    said = ok("perplexity", "--ctx", "128", MODEL, text)
    assert "do not overlap" in said and "second half" in said and "begin token" in said
    fails(1, "window", "perplexity", "--ctx", "512", MODEL, scratch("short.txt", "Once"))


def tiny_model(name, seed=0, more=()):
    out = scratch(name)
    ok("make-model", "--quiet", "--arch", "llama", "--layers", "2", "--embd", "256", "--heads", "8", "--kv-heads", "4", "--head-dim", "32",
       "--ff", "512", "--vocab-size", "600", "--ctx", "256", "--type", "Q4_0", "--seed", str(seed), *more, out)
    return out


def test_pack():
    """Made, shown, used by every verb, and undone."""
    plain, pack, back = tiny_model("tp.gguf"), scratch("tp.pack.gguf"), scratch("tp.back.gguf")
    assert ok("pack", plain).strip() == pack and os.path.getsize(pack) >= os.path.getsize(plain)
    assert ok("pack", "--undo", pack, "-o", back).strip() == back
    assert open(plain, "rb").read() == open(back, "rb").read()
    shown = json.loads(ok("inspect", "--format", "json", pack))
    assert shown["pack"] and shown["supported"] and "Q4_0_R8" in shown["weight_bytes_by_type"], shown
    assert shown["metadata"]["hearth.source.path"] == os.path.realpath(plain)
    assert "pack of" in ok("inspect", pack) and "Q4_0_R8" in ok("inspect", "-t", pack)
    a, b = (run_json("--temp", "0", "-n", "20", m, "hello there") for m in (plain, pack))
    assert a["tokens"] == b["tokens"]
    assert ok("tokenize", plain, "hello") == ok("tokenize", pack, "hello")
    text = scratch("tp.txt", "the same words again and again " * 40)
    p, q = (json.loads(ok("perplexity", "--format", "json", "--ctx", "64", m, text)) for m in (plain, pack))
    assert p["perplexity"] == q["perplexity"]
    ok("chat", pack, stdin=b"hi\n")
    ok("bench", "-r", "1", "--prefill", "8", "--decode", "0", "-n", "1", pack)
    fails(1, "pack --undo", "quantize", pack, scratch("x.gguf"), "Q8_0")
    fails(1, "is a pack already", "pack", pack, "-o", scratch("x.gguf"))
    fails(1, "is not a pack", "pack", "--undo", plain, "-o", scratch("x.gguf"))
    fails(2, "needs a name", "pack", "--undo", pack)
    assert not os.path.exists(scratch("x.gguf"))


def test_packs_on_the_side():
    """A large plain file is packed once, by one process; what has changed is packed again, what is gone is cleared away."""
    plain, home = tiny_model("side.gguf"), scratch("packs-home")
    folder, env = os.path.join(home, "packs"), {"HEARTH_HOME": home, "HEARTH_PACK_ABOVE": "1000"}
    packs = lambda: sorted(n for n in os.listdir(folder) if n != "lock")
    ask = ("run", "--temp", "0", "-n", "8", plain, "hello")
    want = ok(*ask, env={"HEARTH_HOME": home})  # too small for a pack
    assert not os.path.exists(folder)
    assert ok(*ask[:1], "--no-pack", *ask[1:], env=env) == want and not os.path.exists(folder)
    many = [subprocess.Popen([HEARTH, *ask], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**ENV, **env})
            for _ in range(6)]
    for p in many:
        out, err = p.communicate(timeout=120 * SLOW)
        assert p.returncode == 0 and out.decode() == want, err
    assert len(packs()) == 1 and packs()[0].startswith("side-")
    made = os.stat(os.path.join(folder, packs()[0]))
    assert ok(*ask, env=env) == want
    assert os.stat(os.path.join(folder, packs()[0])).st_mtime_ns == made.st_mtime_ns, "made again without need"
    # Another file at the same path.
    tiny_model("side.gguf", seed=5)
    other = ok(*ask, env=env)
    assert other == ok(*ask, env={"HEARTH_HOME": home}) and len(packs()) == 1
    # A damaged pack is made again; so is one that is no pack at all.
    path = os.path.join(folder, packs()[0])
    for content in (open(path, "rb").read()[:5000], b"GGUF", b""):
        open(path, "wb").write(content)
        assert ok(*ask, env=env) == other
        assert json.loads(ok("inspect", "--format", "json", path))["pack"]
    # Left by a process that is gone, and of a source that is gone.
    open(os.path.join(folder, "x.gguf.part-999999999"), "wb").write(b"half")
    gone = tiny_model("gone.gguf", seed=6)
    ok("run", "-n", "1", gone, "a", env=env)
    assert len(packs()) == 2, packs()
    os.unlink(gone)
    ok("run", "-n", "1", tiny_model("third.gguf", seed=7), "a", env=env)
    assert [n.split("-")[0] for n in packs()] == ["side", "third"], packs()


def test_packs_where_none_can_be():
    """No folder, no room, a disk that fills up: the model runs all the same."""
    plain, blocker = tiny_model("none.gguf"), scratch("blocker", "a file")
    ask = ("run", "--temp", "0", "-n", "8", plain, "hello")
    want = ok(*ask)
    assert ok(*ask, env={"HEARTH_HOME": os.path.join(blocker, "x"), "HEARTH_PACK_ABOVE": "1000"}) == want
    env, home = {"HEARTH_PACK_ABOVE": "1000"}, scratch("full-home")
    env["HEARTH_HOME"] = home

    def small_files():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))
    r = subprocess.run([HEARTH, *ask], stdin=subprocess.DEVNULL, capture_output=True, env={**ENV, **env}, preexec_fn=small_files,
                       timeout=120 * SLOW)
    assert r.returncode == 0 and r.stdout.decode() == want, r.stderr
    assert b"packing in memory" in r.stderr and os.listdir(os.path.join(home, "packs")) == ["lock"], r.stderr


def test_bundled_model():
    """What is shipped continues like the weights it was made from: the known 200 steps."""
    want = ("Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw a big, red ball. "
            "She wanted to play with it, but it was too high.\nLily's mom said, \"Lily, let's go to the park.\" Lily was sad and didn't know what to "
            "do. She said, \"I want to play with your ball, but I can't find it.\"\nLily was sad and didn't know what to do. She said, \"I'm sorry, "
            "Lily. I didn't know what to do.\"\nLily didn't want to help her mom, so she")
    assert ok("run", "--temp", "0", "-n", "200", "--kv", "f32", MODEL).startswith(want)
    whole = run_json("--temp", "0", MODEL)
    assert whole["finish_reason"] == "stop" and whole["text"].startswith(want)  # it ends where another story would begin
    assert os.path.getsize(MODEL) <= 1.5e6


def test_make_model():
    a, b, c = scratch("a.gguf"), scratch("b.gguf"), scratch("c.gguf")
    small = ["--quiet", "--layers", "2", "--embd", "64", "--heads", "4", "--kv-heads", "2", "--head-dim", "16", "--ff", "128", "--vocab-size", "300", "--ctx", "128"]
    ok("make-model", "--arch", "qwen2", "--type", "F32", "--seed", "1", *small, a)
    ok("make-model", "--arch", "qwen2", "--type", "F32", "--seed", "1", *small, b)
    ok("make-model", "--arch", "qwen2", "--type", "F32", "--seed", "2", *small, c)
    assert open(a, "rb").read() == open(b, "rb").read() != open(c, "rb").read()
    shape = json.loads(ok("inspect", "--format", "json", a))["metadata"]
    assert shape["general.architecture"] == "qwen2" and shape["qwen2.block_count"] == 2
    for name in ("--arch", "--shape"):
        r = hearth("make-model", name, "nonsense", a)
        assert r.returncode in (2, 3) and b"nonsense" in r.stderr


def test_progress():
    """A bar on a terminal; next to nothing elsewhere; nothing with --quiet."""
    out = scratch("bar.gguf")
    size = ["--arch", "llama", "--layers", "4", "--embd", "512", "--heads", "8", "--head-dim", "64", "--ff", "2048", "--vocab-size", "4096"]
    code, text = Terminal("make-model", *size, out).end()
    assert code == 0 and re.search(rb"\rmake-model \[#+\.*\] +\d+%  .*B/s", text), text
    code, text = Terminal("make-model", "--quiet", *size, out).end()
    assert code == 0 and text == b""
    assert b"\r" not in hearth("make-model", *size, out).stderr


def test_bench():
    j = json.loads(ok("bench", "--json", "--quiet", "--prefill", "8,32,9999", "--decode", "0,64", "--reps", "3", "-n", "4", MODEL))
    assert j["rounds"] == 3 and [p["tokens"] for p in j["prefill"]] == [8, 32, 9999] and j["prefill"][2]["skipped"]
    (append,), (batch,) = j["append"], j["batch"]
    assert (append["depth"], append["new_tokens"], append["sequences"]) == (64, 8, 1)
    assert (batch["new_tokens"], batch["sequences"]) == (1, 8) and batch["ops"] > 8 * j["decode"][0]["bytes"] / 8
    assert j["start"]["load_s"]["min"] > 0 and j["start"]["peak_bytes"] > j["start"]["kv_bytes"] > 0
    for m in (*j["prefill"][:2], *j["decode"], append, batch):
        t = m["tokens_per_s"]
        assert 0 < t["min"] <= t["median"] <= t["max"] and 0 < m["share"]["median"] < 50  # so small a model stays in the caches
    assert j["read_bytes_per_s"]["median"] > 1e8 and j["int8_ops_per_s"]["median"] > 1e8
    text = ok("bench", "--quiet", "--prefill", "8,9999", "--decode", "0", "--reps", "1", "-n", "4", MODEL)
    assert re.search(r"prefill of 9999 +skipped", text) and "of the bandwidth" in text and "peak memory" in text
    text = ok("bench", "--quiet", "--markdown", "--profile", "--prefill", "8", "--decode", "0", "--new", "0", "--sequences", "0", "--reps", "1", "-n", "4", MODEL)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert any(r.startswith("| prefill of 8 |") for r in rows) and not any("new tokens" in r or "sequences" in r for r in rows)
    assert {r.count("|") for r in rows} == {4, 11}, rows  # the table, and the profiles
    j = json.loads(ok("bench", "--json", "--quiet", "--profile", "--prefill", "32", "--decode", "0", "--reps", "1", "-n", "4", MODEL))
    prefill, decode, append, batch = j["profiles"]
    assert (append["what"], append["size"], batch["what"]) == ("append", 1, "batch")
    assert batch["phases"]["logits"]["ops"] == 8 * append["phases"]["logits"]["ops"]
    assert (prefill["what"], prefill["size"], decode["what"], decode["size"]) == ("prefill", 32, "decode", 0)
    for p in (prefill, decode):
        assert set(p["phases"]) == {"qkv", "attention", "out", "gate_up", "down", "logits", "rows"}
        assert abs(sum(x["share"] for x in p["phases"].values()) - 1) < 1e-6 and 0 < p["phases"]["gate_up"]["ms"] < p["ms"]
        assert all(0 <= x["idle"] <= 1 for x in p["phases"].values()) and p["phases"]["logits"]["limit_share"] > 0
    assert prefill["phases"]["gate_up"]["ops"] == 32 * decode["phases"]["gate_up"]["ops"]
    assert sum(x.get("ops", 0) for x in prefill["phases"].values()) == j["prefill"][0]["ops"]
    text = ok("bench", "--quiet", "--profile", "--prefill", "8", "--decode", "0", "--reps", "1", "-n", "4", MODEL)
    assert "prefill of 8" in text and "decode at depth 0" in text and re.search(r"gate, up +[0-9.]+ ", text)


def test_bench_start():
    j = json.loads(ok("bench", "--start", "-r", "2", "--json", MODEL))
    assert j["file_bytes"] == os.path.getsize(MODEL) and 0 <= j["left"]["median"] <= 1
    assert 0 < j["open_s"]["median"] < j["first_token_s"]["max"] and j["plain_read_s"]["median"] > 0 and j["share"]["median"] > 0
    text = ok("bench", "--start", "-r", "1", MODEL)
    assert "warm page cache" in text and "share of the disk" in text


def test_bench_kernels():
    fails(2, "missing argument", "bench")
    fails(2, "takes no model", "bench", "--kernels", MODEL)
    fails(2, "not built in", "bench", "--kernels", "--isa", "z80")
    fails(2, "no type", "bench", "--kernels", "--type", "q4_9")
    j = json.loads(ok("bench", "--kernels", "--json", "--quiet", "--reps", "1", "--type", "q4_0"))
    names = [t["name"] for t in j["tables"]]
    assert names[0] == "ref" and not set(names) & set(j["not_on_this_cpu"]), j
    for table in j["tables"]:
        assert [t["type"] for t in table["types"]] == ["Q4_0"] and table["int8_mix"]
        products = table["types"][0]["products"]
        assert {(p["columns"], p["threads"]) for p in products} == {(c, n) for c in (1, 8, 128) for n in {1, j["threads"]}}
        for p in products:
            for key in ("bytes_per_s", "ops_per_s", "share", "read_bytes_per_s", "int8_ops_per_s"):
                assert 0 < p[key]["min"] <= p[key]["median"] <= p[key]["max"], (table["name"], p)
            # Counted from the same seconds: 4096 weights are 2304 bytes and twice as many operations per column.
            assert abs(p["ops_per_s"]["median"] / p["bytes_per_s"]["median"] - 2 * 4096 * p["columns"] / 2304) < 0.01
        assert set(table["other"]["values_per_s"]) == {"quantize_act", "rms_norm", "silu_mul"}
        assert table["name"] == "ref" or all(a["flops_per_s"] > 0 for a in table["other"]["attention"])
    text = ok("bench", "--kernels", "--quiet", "--reps", "1", "--isa", names[-1], "--type", "Q8_0")
    assert "Q8_0" in text and "built in, but not on this CPU:" in text and "Q4_0" not in text


def test_bench_speculate():
    texts = [os.path.join(SOURCE, "tests/data/replay", name) for name in ("quote.txt", "plain.txt")]
    args = [word for path in texts for word in ("--speculate", path)]
    j = json.loads(ok("bench", "--quiet", "--json", "--reps", "1", *args, MODEL))
    quote, plain = j["texts"]
    assert quote["text"] == texts[0] and quote["prompt_tokens"] > 500 and quote["answer_tokens"] > 100
    assert quote["accepted"] > 0 and quote["drafted"] >= quote["accepted"]  # how many depends on the clock
    assert all(t["gain"]["median"] > 0 and t["tokens_per_s"]["min"] > 0 for t in j["texts"])
    assert [s["tokens"] for s in j["steps"]][:3] == [1, 2, 3] and all(s["seconds"]["min"] > 0 for s in j["steps"])
    text = ok("bench", "--quiet", "--reps", "1", "--speculate", texts[1], MODEL)
    assert "with guesses" in text and "steps over one" in text
    fails(1, "absent.txt", "bench", "--speculate", scratch("absent.txt"), MODEL)
    with open(scratch("short.txt"), "w") as f:
        f.write("A prompt of some words, long enough.\n====\nNo.\n")
    fails(1, "at least 8 tokens", "bench", "--speculate", scratch("short.txt"), MODEL)


def test_memory_is_predicted():
    model = big_model()
    # A mapped pack counts as far as it was read: of its embedding only the rows near those that were used.
    for ctx, kv, lowest, more in ((512, "f16", 0.95, ["--no-pack"]), (1024, "f32", 0.95, ["--no-pack"]), (1024, "f32", 0.9, [])):
        # Many different tokens, so that the whole embedding is used as in a real conversation.
        text = "".join(chr(33 + (i * i * 31 + i * 17) % 90) for i in range(20000)).encode()
        n = len(json.loads(ok("tokenize", "--ids", model, "-", stdin=text)))
        text = text[: int(len(text) * (ctx - 72) / n)]
        j = run_json(*more, "--ctx", ctx, "--kv", kv, "-n", "32", "--temp", "5", "--top-k", "0", "--top-p", "1", "--min-p", "0", "--seed", "1",
                     model, "-", stdin=text)
        used = j["usage"]["prompt_tokens"] + j["usage"]["completion_tokens"]
        assert ctx - 80 <= used <= ctx, (used, ctx)
        ratio = j["memory"]["peak"] / j["memory"]["predicted"]
        print(f"    ctx {ctx} {kv}: predicted {j['memory']['predicted'] / 1e6:.1f} MB, peak {j['memory']['peak'] / 1e6:.1f} MB, ratio {ratio:.3f}")
        if "HEARTH_TEST_SANITIZED" not in os.environ:  # a sanitizer's own memory is not ours to predict
            assert lowest <= ratio <= 1.05, ratio


def test_manual_names_everything():
    page = open(os.path.join(SOURCE, "docs/hearth.1"), encoding="utf-8").read().replace("\\-", "-")
    for verb in VERBS:
        assert re.search(rf"^\.S[sh] .*\b{verb}\b", page, re.M), verb
        for name in re.findall(r"^ +(?:-., )?--([a-z-]+)", ok("help", verb), re.M):
            assert re.search(rf"Fl -{name}\b", page), f"hearth {verb} --{name} is not in the manual page"
    mandoc = shutil.which("mandoc")
    if mandoc:
        r = subprocess.run([mandoc, "-T", "lint", "-W", "warning", os.path.join(SOURCE, "docs/hearth.1")], capture_output=True)
        assert r.returncode == 0, r.stdout.decode()


def main():
    chosen = sys.argv[2:]
    counts = {"pass": 0, "fail": 0, "skip": 0}
    for name, function in [(n, f) for n, f in globals().items() if n.startswith("test_")]:
        if chosen and not any(c in name for c in chosen):
            continue
        begin = time.time()
        try:
            function()
            word = "pass"
        except Skip as reason:
            word = "skip"
            print(f"SKIP: {name}: {reason}")
        except Exception:
            word = "fail"
            traceback.print_exc(file=sys.stdout)
        counts[word] += 1
        print(f"{word} {name} ({time.time() - begin:.1f} s)", flush=True)
    shutil.rmtree(SCRATCH, ignore_errors=True)
    for word, n in counts.items():
        print(f"# {word} {n}")
    return 1 if counts["fail"] else 0


sys.exit(main())

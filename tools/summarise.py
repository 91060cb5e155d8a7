#!/usr/bin/env python3
"""summarise.py MESON_LOG TAP_LOG MESON_CODE CLIENTS_CODE: one line at the end of `make check`.

Counts cmocka's tests inside each program (a program that printed no count is one test), and the TAP of the
client tests. A run that ended badly without naming a failed test counts as one failed test, so that the line
can never say "0 failed" when something went wrong. Skipped tests are shown, with what they said. The exit code is 0 only
when nothing failed.
"""
import json
import os
import re
import sys


def meson_results(path):
    passed = failed = skipped = 0
    notes = []
    if not os.path.exists(path):
        return passed, failed, skipped, notes
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            test = json.loads(line)
            text = (test.get("stdout") or "") + "\n" + (test.get("stderr") or "")
            notes += [f"{test['name']}: {s}" for s in re.findall(r"^SKIP:? .*$", text, re.M)]
            n_passed = sum(map(int, re.findall(r"^\[  PASSED  \] (\d+) test", text, re.M)))
            n_skipped = sum(map(int, re.findall(r"^\[  SKIPPED \] (\d+) test", text, re.M)))
            n_failed = sum(map(int, re.findall(r"^\[  FAILED  \] (\d+) test", text, re.M)))
            for word, n in re.findall(r"^# (pass|fail|skip)\w* (\d+)$", text, re.M):  # what tests/cli.py prints
                n_passed += int(n) if word == "pass" else 0
                n_failed += int(n) if word == "fail" else 0
                n_skipped += int(n) if word == "skip" else 0
            if test["result"] in ("OK", "EXPECTEDFAIL"):
                passed += n_passed or 1
                skipped += n_skipped
            elif test["result"] == "SKIP":
                skipped += 1
            else:
                passed += n_passed
                skipped += n_skipped
                failed += n_failed or 1
                notes.append(f"{test['name']}: {test['result']}")
    return passed, failed, skipped, notes


def tap_results(path):
    counts = {"pass": 0, "fail": 0, "cancelled": 0, "skipped": 0, "todo": 0}
    notes = []
    if os.path.exists(path):
        with open(path, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                total = re.match(r"# (pass|fail|cancelled|skipped|todo) (\d+)$", line)
                if total:
                    counts[total[1]] = int(total[2])
                result = re.match(r"(not )?ok \d+ - (.*)$", line)
                if result and (result[1] or "# SKIP" in result[2]):
                    notes.append(f"clients: {result[2]}" + (" FAILED" if result[1] else ""))
    return counts["pass"], counts["fail"] + counts["cancelled"], counts["skipped"] + counts["todo"], notes


def main():
    meson_log, tap_log, meson_code, clients_code = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    p1, f1, s1, n1 = meson_results(meson_log)
    p2, f2, s2, n2 = tap_results(tap_log)
    if meson_code and not f1:
        f1 = 1
        n1.append(f"meson test ended with {meson_code}")
    if clients_code and not f2:
        f2 = 1
        n2.append(f"the client tests ended with {clients_code}")
    for note in n1 + n2:
        print(note)
    if s1 + s2:
        print(f"{s1 + s2} skipped")
    print(f"{p1 + p2} passed, {f1 + f2} failed")
    return 1 if f1 + f2 else 0


sys.exit(main())

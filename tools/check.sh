#!/bin/sh
# check.sh BUILD_DIR [SANITIZERS]: runs Meson's tests, then the client tests in tests/clients, and ends with one
# line, "N passed, N failed". Under sanitizers the client tests are left out: node could not load what they
# compare with, and they run hearth through the same entry points as tests/cli.py does.
set -u
build_dir=$1
sanitizers=${2:-}
here=$(cd "$(dirname "$0")/.." && pwd)
build_dir=$(cd "$build_dir" && pwd)
clients_log=$build_dir/clients.tap
rm -f "$build_dir"/meson-logs/testlog.json "$clients_log"
[ -x "$build_dir/node/bin/node" ] && PATH="$build_dir/node/bin:$PATH" && export PATH

# Timeouts are against hangs, not for measuring: sanitizers, emulation and a busy machine get time.
meson test -C "$build_dir" --no-rebuild --print-errorlogs --timeout-multiplier "${TIMEOUT_MULTIPLIER:-6}"
meson_code=$?

clients_code=0
if [ -z "$sanitizers" ] && [ -f "$here/tests/clients/package.json" ]; then
    (cd "$here/tests/clients" && npm i --no-save --omit=optional --ignore-scripts --no-audit --no-fund) || clients_code=1
    if [ $clients_code = 0 ]; then
        HEARTH_BUILD=$build_dir node --test --test-concurrency=1 --test-reporter=spec --test-reporter-destination=stdout \
            --test-reporter=tap --test-reporter-destination="$clients_log" "$here"/tests/clients/*.test.mjs
        clients_code=$?
    fi
fi
python3 "$here/tools/summarise.py" "$build_dir/meson-logs/testlog.json" "$clients_log" $meson_code $clients_code

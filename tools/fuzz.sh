#!/bin/sh
# fuzz.sh [SECONDS [NAME ...]]: libFuzzer with AddressSanitizer and UndefinedBehaviorSanitizer on each target of
# tests/fuzz (or those named), starting from its corpus. What it finds goes to build-fuzz/found/NAME, crashes to
# build-fuzz/crash-NAME-*; an input that shows a bug belongs into tests/fuzz/corpus/NAME with its repair.
set -eu
seconds=${1:-60}
[ $# -gt 0 ] && shift
cd "$(dirname "$0")/.."
tools/install-deps.sh ci
build=build-fuzz
[ -f $build/build.ninja ] ||
    CC=clang meson setup $build -Dfuzzers=true -Db_sanitize=address,undefined -Db_lundef=false
ninja -C $build
failed=0
for name in ${*:-$(ls tests/fuzz/corpus)}; do
    echo "==== $name, $seconds s"
    mkdir -p $build/found/$name
    $build/tests/fuzz/fuzz_$name -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 \
        -artifact_prefix=$build/crash-$name- $build/found/$name tests/fuzz/corpus/$name 2>&1 | tail -n 12 || failed=1
    ls $build/crash-$name-* >/dev/null 2>&1 && failed=1
done
exit $failed

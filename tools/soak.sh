#!/bin/sh
# soak.sh [SECONDS_PER_FUZZER]: the long tests. In turn: the unit tests with their long forms (10 million round trips
# of the tokenizers, every hostile family at every size), the unit tests under ThreadSanitizer and under
# AddressSanitizer with UndefinedBehaviorSanitizer, then every fuzzer for the given time (600 s).
# New inputs that a fuzzer finds stay in build-fuzz/found/NAME. Ends with what failed, if anything.
set -u
seconds=${1:-600}
cd "$(dirname "$0")/.." || exit 1
failed=

run() # what, command ...
{
    what=$1
    shift
    echo "==== $what"
    "$@" || failed="$failed
  $what"
}

run "long forms" env HEARTH_SOAK=1 TIMEOUT_MULTIPLIER=60 sh -c 'make tests-built BUILD=build && tools/check.sh build unit'
run "threads" make check SAN=thread
run "memory and undefined behaviour" make check SAN=address,undefined
tools/fuzz.sh "$seconds" || failed="$failed
  fuzzing"
if [ -n "$failed" ]; then
    echo "failed:$failed"
    exit 1
fi
echo "all long tests passed"

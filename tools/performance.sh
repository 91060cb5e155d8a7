#!/bin/sh
# performance.sh [HEARTH [MODEL.gguf ...]]: measures again and puts the figures into docs/PERFORMANCE.md, between its two marks.
#
# Without models it makes those of the table (random weights at real shapes) in the cache folder, once. On a quiet machine:
# OPTIONS are those of hearth bench (default: five rounds of everything), CPUS the values of HEARTH_CPU to measure with
# ("best": none), KERNELS options of the table of kernels, PEER= leaves the peer out.
set -eu
cd "$(dirname "$0")/.."
hearth=${1:-build/src/apps/hearth}
[ $# -gt 0 ] && shift
models=${XDG_CACHE_HOME:-$HOME/.cache}/hearth/bench-models
out=$(mktemp)
trap 'rm -f "$out"' EXIT

if [ $# -eq 0 ]; then
    mkdir -p "$models"
    for shape in Llama-3.2-1B Phi-3-mini; do
        for type in Q4_0 Q4_K_M Q8_0; do
            model=$models/$shape-$type.gguf
            [ -f "$model" ] || "$hearth" make-model --shape "$shape" --type "$type" "$model"
            set -- "$@" "$model"
        done
    done
fi

{
    echo "Measured on $(date -u +%Y-%m-%d) at commit $(git rev-parse --short HEAD), load average $(cut -d' ' -f1 /proc/loadavg) at the start."
    for model in "$@"; do
        for cpu in ${CPUS-best avx2}; do
            options="${PEER---peer} --markdown --profile ${OPTIONS-}"
            [ "$cpu" = best ] && setting= || setting="HEARTH_CPU=$cpu"
            printf '\n### %s, %s\n\n`%shearth bench %s %s`\n\n' "$(basename "$model" .gguf)" "$cpu" "${setting:+$setting }" "$(basename "$model")" "$options"
            env $setting "$hearth" bench "$model" $options | sed "s|$(dirname "$model")/||"
        done
    done
    printf '\n### Kernels\n\n`hearth bench --kernels %s`\n\n```\n' "${KERNELS-}"
    "$hearth" bench --kernels ${KERNELS-}
    printf '```\n'
} > "$out"

python3 - "$out" docs/PERFORMANCE.md <<'END'
import sys
figures, page = open(sys.argv[1], encoding="utf-8").read(), open(sys.argv[2], encoding="utf-8").read()
begin, end = "<!-- figures -->\n", "<!-- end of figures -->\n"
head, rest = page.split(begin)
open(sys.argv[2], "w", encoding="utf-8").write(head + begin + "\n" + figures + "\n" + end + rest.split(end)[1])
END

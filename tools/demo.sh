#!/bin/sh
# demo.sh HEARTH: the bundled model tells a story; then what to try next.
set -eu
hearth=$1
model=$(ls "$(dirname "$0")"/../models/*.gguf | head -n 1)
model=$(realpath --relative-to=. "$model")
seed=${SEED:-$(date +%s)}

echo
echo "\$ $hearth run $model --seed $seed --echo --verbose \"Once upon a time\""
echo
"$hearth" run "$model" --seed "$seed" --echo --verbose "Once upon a time"
cat <<END

That was a language model of $(stat -c %s "$model") bytes on this machine's CPU. Try next:
  make demo                                      another story
  $hearth run $model --echo "Lily had a red ball"
  $hearth inspect $model
  $hearth bench $model
  $hearth chat YOUR-MODEL.gguf                   with a model that can talk
  $hearth help
END

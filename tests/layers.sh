#!/bin/sh
# The folders of src/ depend one way (docs/ARCHITECTURE.md). Across folders only FOLDER/FOLDER.h may be
# included; base/limits.h and hearth.h anywhere. Prints each line that breaks the rule and fails.
cd "${HEARTH_SOURCE:-.}/src" || exit 2
bad=0
allowed() # folder -> the folders it may include
{
    case $1 in
    base) echo "" ;;
    kernels) echo "base" ;;
    formats) echo "base kernels" ;;
    weights) echo "base kernels formats" ;;
    engine) echo "base kernels formats weights" ;;
    context) echo "base kernels formats weights engine" ;;
    quantize) echo "base kernels formats weights engine" ;;
    apps) echo "base kernels formats weights engine context quantize" ;;
    *) echo "?" ;;
    esac
}
for folder in */; do
    folder=${folder%/}
    may=$(allowed "$folder")
    if [ "$may" = "?" ]; then
        echo "src/$folder: tests/layers.sh does not know this folder"
        bad=1
        continue
    fi
    for line in $(grep -Hno '#include "[^"]*"' "$folder"/*.c "$folder"/*.h 2>/dev/null | tr -d ' '); do
        file=${line%%:*}
        header=$(echo "$line" | sed 's/.*"\(.*\)"/\1/')
        case $header in
        */*)
            from=${header%%/*}
            name=${header#*/}
            [ "$header" = base/limits.h ] && continue
            [ "$from" = "$folder" ] && continue
            if [ "$name" != "$from.h" ]; then
                echo "src/$file: includes $header; only $from/$from.h is $from's contract"
                bad=1
            elif ! echo " $may " | grep -q " $from "; then
                echo "src/$file: $folder must not know $from ($header)"
                bad=1
            fi
            ;;
        esac
    done
done
[ $bad = 0 ] && echo "the folders depend one way"
exit $bad

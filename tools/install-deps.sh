#!/bin/sh
# install-deps.sh build|check|ci [BUILD_DIR]: installs what is missing on Debian and its relatives, and nothing
# that is there already. On other systems it says what is needed and leaves the rest to Meson's own checks.
#
# For `check` it also finds a Node.js of at least version 20 with npm; where the system's is older, one goes
# into the build folder, where check.sh looks for it.
set -eu
tier=$1
build_dir=${2:-build}
[ "${OFFLINE:-}" = 1 ] && exit 0

packages="meson ninja-build pkg-config python3 libc6-dev libjansson-dev libpcre2-dev libutf8proc-dev libedit-dev"
command -v "${CC:-cc}" >/dev/null 2>&1 || packages="$packages gcc"
if [ "$tier" = ci ]; then
    # A second compiler with its sanitizers, and arm64: compiler, emulator, libraries.
    packages="$packages clang libclang-rt-14-dev gcc-aarch64-linux-gnu qemu-user"
    for p in libc6-dev libjansson-dev libpcre2-dev libutf8proc-dev libedit-dev libcmocka-dev; do
        packages="$packages $p:arm64"
    done
fi
if [ "$tier" != build ]; then
    packages="$packages libcmocka-dev"
    command -v node >/dev/null 2>&1 || packages="$packages nodejs"
    command -v npm >/dev/null 2>&1 || packages="$packages npm"
fi

if ! command -v dpkg-query >/dev/null 2>&1 || ! command -v apt-get >/dev/null 2>&1; then
    echo "hearth needs (by their Debian names): $packages"
else
    missing=
    native=$(dpkg --print-architecture)
    for p in $packages; do
        # A package may be there for several architectures; what counts is the one asked for, or this machine's.
        case $p in
        *:*) wanted=${p#*:} ;;
        *) wanted="$native\|all" ;;
        esac
        dpkg-query -W -f '${Architecture} ${db:Status-Status}\n' "$p" 2>/dev/null | grep -qx "\($wanted\) installed" || missing="$missing $p"
    done
    # A tool that came another way (pip, a tarball) is as good as its package.
    for pair in meson:meson ninja:ninja-build pkg-config:pkg-config python3:python3; do
        command -v "${pair%%:*}" >/dev/null 2>&1 && missing=$(echo " $missing " | sed "s/ ${pair#*:} / /")
    done
    missing=$(echo $missing)
    if [ -n "$missing" ]; then
        as_root=
        if [ "$(id -u)" != 0 ]; then
            as_root=sudo
            command -v sudo >/dev/null 2>&1 || { echo "Please install, as root: apt-get install $missing"; exit 1; }
        fi
        echo "Installing packages: $missing"
        [ "$tier" != ci ] || $as_root dpkg --add-architecture arm64
        $as_root apt-get update
        $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing
    fi
fi

if [ "$tier" != build ]; then
    major=$(node --version 2>/dev/null | sed 's/^v\([0-9]*\).*/\1/')
    if [ "${major:-0}" -lt 20 ] && [ ! -x "$build_dir/node/bin/node" ]; then
        echo "Node.js here is ${major:-absent}, the client tests need 20: putting 22 into $build_dir/node"
        mkdir -p "$build_dir/node/bin"
        echo '{ "private": true }' > "$build_dir/node/package.json"
        (cd "$build_dir/node" && npm i --no-audit --no-fund node@22)
        ln -sf ../node_modules/node/bin/node "$build_dir/node/bin/node"
        "$build_dir/node/bin/node" --version
    fi
fi

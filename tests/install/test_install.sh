#!/bin/sh
# SPDX-License-Identifier: MIT
# Installs a build into a folder of its own, then compiles, links and runs a small program against
# what is installed, with the shared and with the static library, as pkg-config says.
# usage: test_install.sh BUILD-DIR CC [CFLAGS]
set -eu

build=$1
cc=$2
cflags=${3:-}
source_dir=$(dirname "$0")

fail() {
	echo "failed: $*" >&2
	exit 1
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM HUP
prefix=$work/prefix

cmake --install "$build" --prefix "$prefix" >"$work/log" || {
	cat "$work/log"
	fail 'cmake --install'
}

for file in share/man/man1/tidemark.1 share/bash-completion/completions/tidemark; do
	[ -s "$prefix/$file" ] || fail "$file is not installed"
done

pc=$(find "$prefix" -name tidemark.pc)
[ -n "$pc" ] || fail 'no tidemark.pc is installed'
PKG_CONFIG_PATH=$(dirname "$pc")${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}
export PKG_CONFIG_PATH
lib=$(pkg-config --variable=libdir tidemark)

# The sanitizers' and the coverage flags of this build are in CFLAGS, so words must split.
# shellcheck disable=SC2046,SC2086
"$cc" $cflags -Wall -Werror -o "$work/shared" "$source_dir/embedder.c" \
	$(pkg-config --cflags --libs tidemark)
readelf -d "$work/shared" | grep -q 'NEEDED.*libtidemark\.so\.0' ||
	fail 'the program does not ask for libtidemark.so.0'
LD_LIBRARY_PATH=$lib "$work/shared"

# Every exported symbol is public API, and every public function of the headers is exported.
nm -D --defined-only --format=posix "$lib/libtidemark.so" | awk '$2 != "A" {sub(/@.*/, "", $1); print $1}' |
	sort >"$work/exported"
find "$prefix/include" -name '*.h' -exec cat {} + | grep -v '^#' | tr '\n' ' ' | grep -o 'TIDE_API [^;({]*(' |
	sed 's/.*[ *]\(tide_[a-z0-9_]*\)(/\1/' | sort >"$work/declared"
[ -s "$work/declared" ] || fail 'no public function was found in the headers'
diff "$work/declared" "$work/exported" ||
	fail 'the library exports something else than its headers declare (<: declared, >: exported)'

# With the shared library out of the way the linker takes the static one.
rm "$lib"/libtidemark.so*
# shellcheck disable=SC2046,SC2086
"$cc" $cflags -Wall -Werror -o "$work/static" "$source_dir/embedder.c" \
	$(pkg-config --cflags --libs --static tidemark)
"$work/static"

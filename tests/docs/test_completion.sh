#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# What bash offers after "tidemark ...", with the built program.
# usage: test_completion.sh COMPLETION-FILE [TIDEMARK]
set -eu

completion=$1
tidemark=${2:-}
if [ -z "$tidemark" ]; then
	echo 'skipped completion: this build has no tidemark command'
	exit 77
fi
result=0

# shellcheck source=/dev/null
. "$completion"

# offers WANTED WORD...: completing the last WORD offers a word that is WANTED.
offers() {
	local wanted=$1 offer
	shift
	COMP_WORDS=("$tidemark" "$@")
	COMP_CWORD=$#
	COMPREPLY=()
	_tidemark
	for offer in "${COMPREPLY[@]}"; do
		[ "$offer" != "$wanted" ] || return 0
	done
	printf 'tidemark %s: %s is not offered, but: %s\n' "$*" "$wanted" "${COMPREPLY[*]}" >&2
	result=1
}

offers send se
offers --version --v
offers --json check --
offers --max-downtime send --max-d
offers lz4 send --compress l
offers zstd send --compress z
offers auto send --compress a
offers anonymous wss --kind a
offers MLOCKED pages --columns ml
offers $$ pages "${$:0:1}"
offers $$ check "${$:0:1}"
offers "$completion" verify "${completion%sh}"
exit "$result"

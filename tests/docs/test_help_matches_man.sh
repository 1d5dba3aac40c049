#!/bin/sh
# SPDX-License-Identifier: MIT
# Every command and option that --help tells of is in the man page, and the other way round.
# usage: test_help_matches_man.sh MAN-DIR [TIDEMARK]
set -eu

man_dir=$1
tidemark=${2:-}
if [ -z "$tidemark" ]; then
	echo 'skipped help_matches_man: this build has no tidemark command'
	exit 77
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM HUP
result=0

differ() {
	echo "$1: --help (<) and the man page (>) differ" >&2
	result=1
}

"$tidemark" --help >"$work/help"
sed -n '/^Commands:/,/^$/s/^  \([a-z]\{1,\}\) .*/\1/p' "$work/help" | sort >"$work/commands"
[ -s "$work/commands" ] || {
	echo 'failed: no command was found in the help' >&2
	exit 1
}
sed -n 's/^\.It Ic \([a-z]*\)$/\1/p' "$man_dir/tidemark.1" | sort >"$work/commands.man"
diff "$work/commands" "$work/commands.man" || differ tidemark

# What the argument parser adds to every command by itself is no option of ours.
ours() {
	grep -vxE -- '--(help|usage|version)' || true
}

while read -r command; do
	page=$man_dir/tidemark-$command.1
	if [ ! -f "$page" ]; then
		echo "tidemark $command has no man page" >&2
		result=1
		continue
	fi
	"$tidemark" "$command" --help >"$work/help"
	# An option stands at the start of its line, behind its short form or alone.
	sed -n 's/^  \(-., \|    \)\(--[a-z][a-z-]*\).*/\2/p' "$work/help" | ours | sort -u \
		>"$work/options"
	sed -n 's/^\.It .*Fl -\([a-z][a-z-]*\).*/--\1/p' "$page" | ours | sort -u >"$work/options.man"
	diff "$work/options" "$work/options.man" || differ "tidemark $command"
done <"$work/commands"
exit "$result"

#!/bin/bash
# SPDX-License-Identifier: MIT
# demo.sh BUILD: an agent, a process that writes 512 MiB while checking itself, a send, and the proof.
set -euo pipefail
build=$1
tidemark=$build/cli/tidemark
workload=$build/tests/workloads/workload_writer
rate=${TIDEMARK_DEMO_RATE:-50}

work=$(mktemp -d "${TMPDIR:-/tmp}/tidemark-demo-XXXXXX")
pids=()
cleanup() {
	for pid in "${pids[@]}"; do
		kill -KILL "$pid" 2>/dev/null || true
		wait "$pid" 2>/dev/null || true
	done
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

# Reads lines from descriptor $1 until one has the words; prints it.
wait_line() {
	local line
	while IFS= read -r -u "$1" line; do
		if [[ $line == *"$2"* ]]; then
			printf '%s\n' "$line"
			return
		fi
	done
	return 1
}

say "An agent listens on loopback and keeps images in a store"
exec 3< <(exec "$tidemark" agent --listen tcp://127.0.0.1:0 --store "$work/store" 2>"$work/agent.err")
pids+=($!)
line=$(wait_line 3 'listening on') || { cat "$work/agent.err" >&2; exit 1; }
address=${line#listening on }
echo "$address"

say "A process fills 512 MiB and goes on writing $rate MiB a second, checking every page before it writes it anew"
exec 4< <(exec "$workload" 512 "$rate" 2>&1)
writer=$!
pids+=("$writer")
wait_line 4 ready
echo "process $writer"

say "tidemark send $writer $address --name demo --max-downtime 20ms --leave-stopped"
"$tidemark" send "$writer" "$address" --name demo --max-downtime 20ms --leave-stopped

say "The process stands still now: tidemark compare holds every page of it against the image"
"$tidemark" compare "$work/store/demo" "$writer"

say "tidemark list"
"$tidemark" list "$work/store"

say "The process goes on, and checks all of its memory a last time"
kill -CONT "$writer"
kill -TERM "$writer"
verdict=$(wait_line 4 checked) || { echo "the process did not end as it should" >&2; exit 1; }
echo "$verdict"
[[ $verdict == *", 0 wrong" ]] || { echo "the process found itself damaged" >&2; exit 1; }
say "Done."

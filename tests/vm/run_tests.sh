#!/bin/bash
# SPDX-License-Identifier: MIT
# Runs in the guest: each test of the list, one after the other, and leaves of each NAME.output, and
# NAME.result with its exit status and seconds, in the folder of the list. NAME.output without NAME.result
# is a test that the guest did not survive.
# usage: run_tests.sh LIST
# LIST is shell text (lane.py writes it): a line a test, "run NAME TIMEOUT FOLDER COMMAND...".
set -u
results=$(dirname "$1")

run() {
	local name=$1 timeout=$2 folder=$3 started=$EPOCHREALTIME status=0
	shift 3
	(cd "$folder" && exec timeout --kill-after 5 "$timeout" "$@") \
		>"$results/$name.output" 2>&1 </dev/null || status=$?
	awk -v status="$status" -v from="$started" -v to="$EPOCHREALTIME" \
		'BEGIN { printf "%d %.2f\n", status, to - from }' >"$results/$name.result.new"
	mv "$results/$name.result.new" "$results/$name.result"
	printf '%s %s\n' "$name" "$(cat "$results/$name.result")"
}

# shellcheck source=/dev/null
. "$1"

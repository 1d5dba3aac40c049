#!/bin/sh
# SPDX-License-Identifier: MIT
# Holds the closing lines of `./dev test` against a run of CTest whose outcome is known.
# usage: test_summary.sh
set -eu

summarize=$(cd "$(dirname "$0")" && pwd)/summary.py
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM HUP
cd "$work"

fail() {
	echo "failed: $*" >&2
	exit 1
}

# program NAME: makes a script of its standard input and a test of that.
program() {
	{
		echo '#!/bin/sh'
		cat
	} >"$1"
	chmod +x "$1"
	echo "add_test($1 $work/$1)"
	echo "set_tests_properties($1 PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 60)"
}

run() {
	rm -f report.xml
	ctest --output-junit report.xml --test-output-size-passed 100000 \
		--test-output-size-failed 100000 "$@" >/dev/null 2>&1 || true
	python3 "$summarize" here=report.xml >summary
}

{
	program script_passes <<'END'
echo fine
END
	program script_skips <<'END'
echo one
echo 'this kernel cannot'
exit 77
END
	program suite_passes_and_skips_one <<'END'
echo '               tests      5      5      5      0        0'
echo 'skipped test_swap: there is no <swap> here'
END
	program suite_skips_all <<'END'
echo '               tests      2      2      2      0        0'
echo 'skipped test_a: not root'
echo 'skipped test_b: not root'
exit 77
END
} >CTestTestfile.cmake
run || fail 'a run without a failure exits with 0'
[ "$(tail -n 1 summary)" = '5 passed, 0 failed, 4 skipped' ] || {
	cat summary
	fail 'the counts of a good run'
}
grep -qxF '  here: script_skips: this kernel cannot' summary || fail 'the reason of a script'
grep -qxF '  here: suite_passes_and_skips_one/test_swap: there is no <swap> here' summary ||
	fail 'the reason of one test in a suite'

{
	program suite_fails_two <<'END'
seq 1 200
echo 'page 7 differs'
echo '  Test: test_pages ...FAILED'
echo '    1. pages.c:12  - CU_ASSERT(same)'
seq 201 400
echo '               tests      5      5      3      2        0'
exit 1
END
	program suite_leaks_at_its_end <<'END'
echo '               tests      2      2      2      0        0'
exit 23
END
	program suite_crashes <<'END'
echo '  Test: test_a ...passed'
kill -SEGV $$
END
	echo 'add_test(is_missing /nonexistent/program)'
} >>CTestTestfile.cmake
if run; then
	fail 'a run with failures exits with 1'
fi
[ "$(tail -n 1 summary)" = '10 passed, 5 failed, 4 skipped' ] || {
	cat summary
	fail 'the counts of a bad run'
}
for name in suite_fails_two suite_leaks_at_its_end suite_crashes is_missing; do
	grep -qxF "  here: $name" summary || fail "$name is not named"
done
for line in 'page 7 differs' '    1. pages.c:12  - CU_ASSERT(same)' 400; do
	grep -qxF "    | $line" summary || fail "what a failed test said lacks '$line'"
done
if grep -qxF '    | 100' summary; then
	fail 'a failed test is quoted whole'
fi

if run --tests-regex skips_all; then
	fail 'a run in which nothing passed exits with 1'
fi
if run --tests-regex no_such_name; then
	fail 'a run of no test exits with 1'
fi
if python3 "$summarize" here=missing.xml >summary; then
	fail 'a missing report is a failure'
fi

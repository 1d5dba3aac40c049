#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Sums up test runs: what failed, what was skipped and why, and one closing line.

usage: summary.py PRESET=JUNIT-FILE...

A CUnit binary counts with each of its tests; any other test counts as one. The last line on stdout
is "N passed, N failed, N skipped". What a failed test said stands above that: the record of a run on
another machine may be all that is left of it. Exit status: 0; 1 where a test failed or none passed.
"""
import re
import sys
import xml.etree.ElementTree as ET

# CUnit's own table:   "tests      5      5      5      0        0"
CUNIT_TESTS = re.compile(r"^\s*tests +\d+ +(\d+) +(\d+) +(\d+) +\d+\s*$", re.MULTILINE)
# What the harness and the test scripts print: "skipped NAME: reason"
SKIPPED = re.compile(r"^skipped (\S+): (.*)$", re.MULTILINE)
SKIP_STATUS = "SKIP_RETURN_CODE"
# Where a test that failed is quoted: what it said just before, and the assertions behind.
FAILED = re.compile(r"FAILED|ERROR: |runtime error: |out of time")
LINES_BEFORE, LINES_BEHIND, LINES_AT_MOST = 12, 8, 120


def told(output):
    """The lines of a failed test's output that tell why."""
    lines = [line.rstrip() for line in output.split("\n") if line.strip()]
    chosen = set(range(max(0, len(lines) - LINES_BEHIND), len(lines)))
    for i, line in enumerate(lines):
        if FAILED.search(line):
            chosen.update(range(max(0, i - LINES_BEFORE), min(len(lines), i + LINES_BEHIND)))
    return [lines[i] for i in sorted(chosen)][:LINES_AT_MOST]


class Counts:
    def __init__(self):
        self.passed = self.failed = 0
        self.failures = []  # (name, lines of its output)
        self.skips = []  # (name, reason)

    def add(self, where, case):
        name = f"{where}: {case.get('name')}"
        output = case.findtext("system-out") or ""
        skipped = case.find("skipped")
        whole_skipped = skipped is not None and SKIP_STATUS in (skipped.get("message") or "")
        ok = case.get("status") == "run" or whole_skipped

        skips = [
            (name if test == case.get("name") else f"{name}/{test}", reason)
            for test, reason in SKIPPED.findall(output)
        ]
        if whole_skipped and not skips:
            lines = output.split("\n")
            said = [line.strip() for line in lines if line.strip()]
            skips = [(name, said[-1] if said else "no reason was given")]
        self.skips += skips

        table = CUNIT_TESTS.search(output)
        if table and not whole_skipped:
            ran, passed, failed = (int(n) for n in table.groups())
            # CUnit takes a test that was skipped for one that passed.
            self.passed += passed - len(skips)
            # A crash or a leak after the last test fails the binary and none of its tests.
            self.failed += max(failed, 0 if ok else 1)
        elif ok:
            self.passed += 0 if whole_skipped else 1
        else:
            self.failed += 1
        if not ok:
            self.failures.append((name, told(output)))


def main(reports):
    counts = Counts()
    for report in reports:
        preset, _, path = report.partition("=")
        try:
            cases = ET.parse(path).getroot().findall("testcase")
        except (OSError, ET.ParseError) as reason:
            print(f"no results of {preset}: {reason}")
            counts.failed += 1
            continue
        for case in cases:
            counts.add(preset, case)

    if counts.passed == 0:
        print("No test passed.")
    if counts.skips:
        print("Skipped:")
        for name, reason in counts.skips:
            print(f"  {name}: {reason}")
    if counts.failures:
        print("Failed:")
        for name, lines in counts.failures:
            print(f"  {name}")
            for line in lines:
                print(f"    | {line}")
    print(f"{counts.passed} passed, {counts.failed} failed, {len(counts.skips)} skipped")
    return 0 if counts.failed == 0 and counts.passed > 0 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs tests in guests that have another kernel: those that carry CTest's label "vm".

usage: lane.py [--kernel RELEASE]... [--timeout SECONDS] BUILD-FOLDER LOG-FOLDER [CTEST-ARG...]

Per kernel this leaves in LOG-FOLDER: test-vm-RELEASE.xml, as CTest writes it, for summary.py;
vm-RELEASE.log, what the tests printed; vm-RELEASE.console.log, what the kernel did. CTest's arguments
narrow the choice. A kernel that cannot be had counts as one skipped test. Exit status: 0; 1 where a
test failed or a guest did not live to the end; 2 where no test is chosen.
"""
import argparse
import json
import os
import pathlib
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ET

HERE = pathlib.Path(__file__).resolve().parent
KERNELS = ["6.12", "6.1"]
CANNOT, TIME_IS_UP = 77, 124

speaking = threading.Lock()


def say(kernel, text):
    with speaking:
        print(f"{kernel:>5}: {text}", flush=True)


class Test:
    """One test of CTest's, as `ctest --show-only=json-v1` describes it."""

    def __init__(self, described):
        properties = {p["name"]: p["value"] for p in described.get("properties", [])}
        self.name = described["name"]
        self.command = described["command"]
        self.folder = properties.get("WORKING_DIRECTORY", ".")
        self.timeout = int(properties.get("TIMEOUT", 300))
        self.environment = properties.get("ENVIRONMENT", [])
        self.skip_status = properties.get("SKIP_RETURN_CODE")

    def line(self):
        words = ["run", self.name, str(self.timeout), self.folder]
        if self.environment:
            words += ["env", *self.environment]
        return shlex.join(words + self.command)


def chosen_tests(build, ctest_args):
    listing = subprocess.run(
        ["ctest", "--test-dir", build, "--show-only=json-v1", "--label-regex", "^vm$", *ctest_args],
        check=True, stdout=subprocess.PIPE,
    )
    return [Test(t) for t in json.loads(listing.stdout)["tests"]]


def lacking():
    """Why this machine cannot boot a guest, or None."""
    if platform.machine() != "x86_64":
        return "the guests are x86-64 machines, with this machine's programs"
    if os.geteuid() != 0:
        return "sharing files with a guest takes root"
    for program in ["qemu-system-x86_64", "/usr/lib/qemu/virtiofsd", "/bin/busybox", "cpio"]:
        if not shutil.which(program):
            return f"{program} is not installed"
    return None


class Report:
    """The outcome on one kernel, in the words of CTest's JUnit files."""

    def __init__(self, kernel):
        self.kernel = kernel
        self.root = ET.Element("testsuite", name=f"vm-{kernel}")
        self.log = []
        self.passed = self.failed = self.skipped = 0

    def add(self, name, status, output, seconds=0.0, skip_status=CANNOT):
        """status: an exit status, or None where there is none to tell of."""
        case = ET.SubElement(self.root, "testcase", name=name, time=f"{seconds:.2f}")
        if status == 0:
            self.passed += 1
            case.set("status", "run")
            word = "passed"
        elif status is not None and status == skip_status:
            self.skipped += 1
            case.set("status", "notrun")
            ET.SubElement(case, "skipped", message=f"SKIP_RETURN_CODE={status}")
            word = "skipped"
        else:
            self.failed += 1
            case.set("status", "fail")
            word = "failed" if status is None else f"failed with {status}"
            if status == TIME_IS_UP:
                word = "failed: out of time"
            ET.SubElement(case, "failure", message=word)
        # XML has no characters for what a dying test may print.
        printable = "".join(c if c in "\n\t" or c >= " " else "?" for c in output)
        ET.SubElement(case, "system-out").text = printable
        self.log.append(f"==== {name}: {word} after {seconds:.2f} s\n{output}")
        return word

    def write(self, folder):
        ET.ElementTree(self.root).write(folder / f"test-vm-{self.kernel}.xml", encoding="unicode")
        (folder / f"vm-{self.kernel}.log").write_text("\n".join(self.log))


def text_of(path):
    return path.read_text(errors="replace") if path.exists() else ""


def collect(report, tests, share, why):
    """Reads what the guest left. `why` tells how it ended, where that was before its time."""
    not_reached = []
    for test in tests:
        output, result = text_of(share / f"{test.name}.output"), text_of(share / f"{test.name}.result")
        if result:
            status, seconds = result.split()
            report.add(test.name, int(status), output, float(seconds), test.skip_status)
        elif (share / f"{test.name}.output").exists():
            report.add(test.name, None, f"{output}\n\nthe guest did not survive this test\n{why}")
            say(report.kernel, f"{test.name}: failed, and the guest with it")
        else:
            not_reached.append(test.name)
    if why or not_reached:
        report.add("guest", None, f"{why}\nnot reached: {' '.join(not_reached) or 'nothing'}")
        for line in why.splitlines():
            say(report.kernel, line)


def follow(report, tests, output):
    """Tells of each test as the guest says that it is done."""
    skips = {t.name: t.skip_status for t in tests}
    for line in output:
        words = line.split()
        if len(words) != 3 or words[0] not in skips:
            continue
        name, status, seconds = words
        word = {0: "passed", skips[name]: "skipped", TIME_IS_UP: "out of time"}.get(
            int(status), f"failed with {status}")
        say(report.kernel, f"{name}: {word}, {seconds} s")


def run_on(kernel, tests, timeout, logs):
    report = Report(kernel)
    started = time.monotonic()
    missing = lacking()
    if missing:
        report.add("kernel", CANNOT, missing)
        say(kernel, f"skipped: {missing}")
        return report
    fetched = subprocess.run([HERE / "fetch_kernel.sh", kernel], stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True)
    if fetched.returncode != 0:
        why = fetched.stderr.strip() or "no kernel was fetched"
        report.add("kernel", fetched.returncode, why)
        say(kernel, why.splitlines()[-1])
        return report

    with tempfile.TemporaryDirectory(prefix="tidemark-vm-") as folder:
        share = pathlib.Path(folder)
        (share / "list").write_text("".join(f"{t.line()}\n" for t in tests))
        booted = time.monotonic()
        guest = subprocess.Popen(
            [HERE / "boot.sh", "--timeout", str(timeout), "--share", folder,
             "--console", logs / f"vm-{kernel}.console.log",
             fetched.stdout.strip(), "bash", HERE / "run_tests.sh", "/vm/share/list"],
            stdout=subprocess.PIPE, stderr=open(share / "boot.errors", "wb"), text=True,
            errors="replace")
        follow(report, tests, guest.stdout)
        status = guest.wait()
        collect(report, tests, share, "" if status == 0 else
                text_of(share / "boot.errors") or f"the guest ended with {status}")
        booted = time.monotonic() - booted
    took = time.monotonic() - started
    say(kernel, f"{report.passed} of {len(tests)} passed, {report.failed} failed, {report.skipped} "
        f"skipped; {took:.0f} s, {booted:.0f} of them in the guest")
    return report


def main():
    parser = argparse.ArgumentParser(usage=__doc__.split("\n\n")[1], add_help=False)
    parser.add_argument("--kernel", action="append")
    parser.add_argument("--timeout", type=int, default=900)
    parser.add_argument("build")
    parser.add_argument("logs", type=pathlib.Path)
    parser.add_argument("ctest_args", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    tests = chosen_tests(options.build, options.ctest_args)
    if not tests:
        print("no test of this choice carries the label vm")
        return 2
    logs = options.logs.resolve()
    logs.mkdir(parents=True, exist_ok=True)

    # All at once: a guest's tests wait about as much as they compute.
    kernels = options.kernel or KERNELS
    reports = []
    def one(kernel):
        report = run_on(kernel, tests, options.timeout, logs)
        report.write(logs)
        reports.append(report)
    threads = [threading.Thread(target=one, args=(k,)) for k in kernels]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 0 if len(reports) == len(kernels) and not any(r.failed for r in reports) else 1


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""How fast a process is sent, beside what the machine gives.

    send.py BUILD [--sizes 1024,4096] [--rate 100] [--runs 3] [--json FILE]

A process of each size (MiB), half compressible, writes RATE MiB a second and is sent to an agent on loopback whose store is in memory.
The limits are measured on the same process in the same run, in turn with the sends. The first run warms up and is not counted; medians
of the others are printed.
"""
import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile

LIMIT_MEMORY = 256 << 20


class Child:
    """A program whose lines are read, ended with this one."""

    def __init__(self, *argv):
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)

    def wait_line(self, words):
        for line in self.process.stdout:
            if words in line:
                return line.rstrip("\n")
        raise SystemExit(f"{self.process.args[0]} ended before it said '{words}'")

    def end(self):
        """SIGTERM; its largest resident size in bytes."""
        self.process.send_signal(signal.SIGTERM)
        self.process.stdout.close()
        _, status, usage = os.wait4(self.process.pid, 0)
        self.process.returncode = status
        return usage.ru_maxrss * 1024


def run_send(tidemark, pid, address, name):
    """One send: its JSON objects, and the largest resident size of the sender."""
    process = subprocess.Popen(
        [tidemark, "send", str(pid), address, "--name", name, "--json"], stdout=subprocess.PIPE, text=True)
    lines = [json.loads(line) for line in process.stdout]
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = status
    if status != 0:
        raise SystemExit(f"the send failed with {status}")
    return lines, usage


def limits(build, pid, runs):
    out = subprocess.run([f"{build}/bench/bench_limits", str(pid), str(runs)], check=True,
                         stdout=subprocess.PIPE, text=True).stdout
    roads = {}
    for line in out.splitlines():
        measured = json.loads(line)
        roads.setdefault(measured["road"], []).append(measured["bytes"] / measured["seconds"] / 1e6)
    return roads


def bench_size(build, mib, rate, runs, store_parent):
    tidemark = f"{build}/cli/tidemark"
    store = tempfile.mkdtemp(prefix="tidemark-bench-", dir=store_parent)
    writer = Child(f"{build}/tests/workloads/workload_writer", str(mib), str(rate))
    agent = Child(tidemark, "agent", "--listen", "tcp://127.0.0.1:0", "--store", f"{store}/store")
    sends, roads, sender_peak = [], {}, 0
    try:
        writer.wait_line("ready")
        address = agent.wait_line("listening on").split(" ")[2]
        pid = writer.process.pid
        for run in range(runs + 1):
            name = f"run-{run}"
            lines, usage = run_send(tidemark, pid, address, name)
            os.unlink(f"{store}/store/{name}.tide")
            sender_peak = max(sender_peak, usage.ru_maxrss * 1024)
            for road, speeds in limits(build, pid, 1).items():
                if run > 0:
                    roads.setdefault(road, []).extend(speeds)
            if run > 0:
                sends.append(lines)
    finally:
        agent_peak = agent.end()
        writer.end()
        shutil.rmtree(store)

    rounds = [[o for o in lines if o["kind"] == "round"] for lines in sends]
    summaries = [next(o for o in lines if o["kind"] == "summary") for lines in sends]
    first = [r[0]["bytes"] / r[0]["time_ms"] / 1e3 for r in rounds]
    middle = rounds[first.index(sorted(first)[len(first) // 2])]
    return {
        "mib": mib,
        "dirty_mib_per_second": rate,
        "runs": runs,
        "first_round_mb_per_second": statistics.median(first),
        "later_rounds_ms": [round(r["time_ms"], 2) for r in middle[1:-1]],
        "last_round_ms": round(middle[-1]["time_ms"], 2),
        "downtime_ms": statistics.median(s["downtime_ms"] for s in summaries),
        "ratio": statistics.median(s["ratio"] for s in summaries),
        "sender_peak_bytes": sender_peak,
        "agent_peak_bytes": agent_peak,
        "limits_mb_per_second": {road: statistics.median(speeds) for road, speeds in roads.items()},
    }


def print_result(r):
    print(f"\n{r['mib']} MiB, half compressible, {r['dirty_mib_per_second']} MiB/s written, median of {r['runs']}")
    rows = [("first round", f"{r['first_round_mb_per_second']:.0f} MB/s"),
            ("later rounds", ", ".join(f"{ms:g} ms" for ms in r["later_rounds_ms"]) or "none"),
            ("last round (frozen)", f"{r['last_round_ms']:g} ms"),
            ("downtime", f"{r['downtime_ms']:.2f} ms"),
            ("ratio on the wire", f"{r['ratio']:.2f}"),
            ("sender's memory", f"{r['sender_peak_bytes'] / 2**20:.0f} MiB at most"),
            ("agent's memory", f"{r['agent_peak_bytes'] / 2**20:.0f} MiB at most")]
    rows += [(f"limit: {road}", f"{speed:.0f} MB/s") for road, speed in r["limits_mb_per_second"].items()]
    for name, value in rows:
        print(f"  {name:26} {value}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("build")
    parser.add_argument("--sizes", default="1024,4096")
    parser.add_argument("--rate", type=int, default=100)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--store", default="/dev/shm", help="where the store is made: in memory, or on a real disk")
    parser.add_argument("--json", help="write the results there")
    args = parser.parse_args()
    results = []
    for mib in map(int, args.sizes.split(",")):
        result = bench_size(args.build, mib, args.rate, args.runs, args.store)
        print_result(result)
        sys.stdout.flush()
        results.append(result)
    if args.json:
        with open(args.json, "w") as f:
            json.dump({"benchmark": "send", "results": results}, f, indent=2)
            f.write("\n")
    over = [r for r in results if max(r["sender_peak_bytes"], r["agent_peak_bytes"]) > LIMIT_MEMORY]
    if over:
        raise SystemExit("the sender or the agent took more than 256 MiB")


main()

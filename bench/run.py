#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Benchmarks, beside the limits of this machine."""
import argparse
import json
import os
import signal
import subprocess
import sys
import textwrap
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.dont_write_bytecode = True

from bench.benchmarks import ALL, DEFAULT  # noqa: E402
from bench.harness import machine, table  # noqa: E402
from bench.harness.children import Failed  # noqa: E402
from bench.harness.context import Context  # noqa: E402
from bench.harness.tidemark import Workshop  # noqa: E402

WIDTH = 100


def about_all():
    lines = ["The benchmarks:", ""]
    for name, module in ALL.items():
        lines += textwrap.wrap(" ".join(module.ABOUT.split()), WIDTH, initial_indent=f"  {name}: ", subsequent_indent="    ")
    return "\n".join(lines + [
        "",
        "Each is run once to warm up, which is not counted, and then --runs times; medians are printed. What is compared is measured",
        "in turn. A row that this machine or this build cannot measure is left out with a word.",
        "bench/peers.sh runs peers. bench/plot draws saved results, bench/tables puts them into docs/performance.md.",
    ])


def parse():
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__, epilog=about_all(),
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", metavar="NAME", nargs="*", help="which benchmarks; all but peers if none is named")
    parser.add_argument("--quick", action="store_true",
                        help="processes of 256 MiB and one run, to see that everything works; no figures to speak of")
    parser.add_argument("--runs", type=int, help="how many runs count (5; 1 with --quick)")
    parser.add_argument("--sizes", metavar="MIB,...", default="", help="sizes of processes, instead of those of each benchmark")
    parser.add_argument("--json", metavar="FILE", help="write the results there, too (bench/results/NAME.json for those to be kept)")
    parser.add_argument("--store", metavar="DIR", default="/dev/shm", help="where stores are made and removed (/dev/shm)")
    parser.add_argument("--build", metavar="DIR", default="build/release", help="whose programs are measured (build/release)")
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in ALL]
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]}; there are {', '.join(ALL)}")
    if args.runs is not None and args.runs < 1:
        parser.error("--runs wants 1 or more")
    if not all(size.isdigit() and int(size) > 0 for size in filter(None, args.sizes.split(","))):
        parser.error("--sizes wants numbers of MiB, with commas between")
    return args


def commit():
    described = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=12"], stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL, text=True, check=False)
    return described.stdout.strip() or "unknown"


def measure(name, context):
    print(f"\n{name}", file=sys.stderr)
    began = time.monotonic()
    rows = ALL[name].measure(context)
    return {"benchmark": name, "runs": context.runs, "quick": context.quick, "took_seconds": round(time.monotonic() - began, 1),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "rows": rows}


def print_result(result):
    module = ALL[result["benchmark"]]
    print(f"\n{result['benchmark']} (median of {result['runs']})\n")
    print("\n".join(textwrap.wrap(" ".join(module.ABOUT.split()), WIDTH)) + "\n")
    print("\n".join(table.text_table(module.COLUMNS, result["rows"])), flush=True)


def main():
    args = parse()
    document = {"machine": machine.facts(), "commit": commit(), "results": []}
    runs = args.runs or (1 if args.quick else 5)
    with Workshop(args.build, args.store) as workshop:
        context = Context(workshop, runs, args.quick, tuple(int(size) for size in args.sizes.split(",") if size))
        for name in args.names or DEFAULT:
            result = measure(name, context)
            print_result(result)
            document["results"].append(result)
            if args.json:
                os.makedirs(os.path.dirname(os.path.abspath(args.json)), exist_ok=True)
                # After each, so that a long run that ends early leaves what it has.
                with open(args.json, "w", encoding="utf-8") as f:
                    json.dump(document, f, indent=1)
                    f.write("\n")


if __name__ == "__main__":
    # Also then what was started is ended, and what was made removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        main()
    except Failed as why:
        sys.exit(f"bench: {why}")
    except KeyboardInterrupt:
        sys.exit(130)

# SPDX-License-Identifier: MIT
"""Saved results: bench/results/*.json."""
import glob
import json
import os

from .table import show_bytes


def load(folder):
    """By benchmark the newest result, with the machine and commit that its file names."""
    newest = {}
    for path in sorted(glob.glob(os.path.join(folder, "*.json"))):
        with open(path, encoding="utf-8") as f:
            document = json.load(f)
        for result in document["results"]:
            result = {**result, "machine": document["machine"], "commit": document["commit"]}
            known = newest.get(result["benchmark"])
            if not known or known["finished"] < result["finished"]:
                newest[result["benchmark"]] = result
    return newest


def measured(result):
    """The rows that have figures, labels and medians in one."""
    rows = result["rows"] if result else []
    return [{**row["labels"], **row["median"]} for row in rows if "median" in row]


def origin(result):
    """Where and how a result was measured, in a sentence."""
    machine = result["machine"]
    quick = " A quick run, to see that it works: no figures to go by." if result["quick"] else ""
    return (f"{machine['cores']} cores ({machine['processor']}), {show_bytes(machine['memory_bytes'])}, Linux {machine['kernel']}; "
            f"median of {result['runs']}, {result['finished'][:10]}, commit {result['commit']}.{quick}")

# SPDX-License-Identifier: MIT
"""What the machine gives, measured in turn with what uses it."""
import json
import time

from .children import run

# Of each road its figure: bytes a second.
ALL = ("process_vm_readv", "memcpy", "tcp", "store", "pipe", "pipe_2_threads")


def measure(workshop, pid, roads=ALL, every=1, wait_seconds=0):
    """A sample: for each road NAME, NAME_rate and NAME_seconds, and what the whole pipe costs in CPU. Begins so long after there
    is memory for the store."""
    with workshop.store() as store:
        time.sleep(wait_seconds)
        lines = run(workshop.tool("limits"), pid, store, "--every", every, *roads).stdout.splitlines()
    sample = {}
    for took in map(json.loads, lines):
        sample[took["road"] + "_rate"] = took["bytes"] / took["seconds"]
        sample[took["road"] + "_seconds"] = took["seconds"]
        sample[took["road"] + "_cpu"] = took["cpu_seconds"] / (took["bytes"] / 1e9)
    return sample

# SPDX-License-Identifier: MIT
import os
import shutil
import time

from ..harness.children import Failed, Skip
from ..harness.experiment import Case


def sample(context, memory):
    """gdb writes a core file; the process stands still all the while."""
    with context.workshop.store() as folder:
        began = time.monotonic()
        with context.workshop.counted("gcore", "-o", f"{folder}/core", memory.process.pid, stderr=-1) as gcore:
            gcore.process.stdout.read()
            usage = gcore.wait()
        took = time.monotonic() - began
        if usage.status != 0:
            raise Failed(f"gcore failed with {usage.status}")
        return {"first_round_rate": memory.bytes / took, "downtime_seconds": took, "total_seconds": took,
                "wire_bytes": os.path.getsize(f"{folder}/core.{memory.process.pid}"),
                "sender_cpu": usage.cpu_seconds / (memory.bytes / 1e9), "sender_peak_bytes": usage.peak_bytes}


def cases(context, memory):
    if not shutil.which("gcore"):
        raise Skip("gcore is not installed")
    return [Case({"what": "gcore"}, lambda: sample(context, memory))]

# SPDX-License-Identifier: MIT
from ..harness.children import Skip
from ..harness.experiment import in_turn, skipped_row
from ..harness.machine import need_memory
from ..harness.table import Column
from .later_rounds import paced_case

ABOUT = """How long a process of which 100 MB a second are written stands still, by its size and by the limit that the
sender is given (`--max-downtime`; 100 ms unless said), over loopback, going on afterwards. Zero-heavy memory shows how
the freeze grows with the size alone. `downtime` is what the sender says, `longest wait` what the process saw: how long
a write waited at most after it was due."""

COLUMNS = [
    Column("size", "size", "bytes"),
    Column("content", "memory"),
    Column("max_downtime", "limit"),
    Column("downtime_seconds", "downtime", "seconds"),
    Column("longest_wait", "longest wait", "seconds"),
    Column("last_round_seconds", "last round", "seconds", detail=True),
    Column("rounds", "rounds", "count"),
    Column("total_seconds", "total", "seconds"),
    Column("wire_bytes", "on the wire", "bytes"),
    Column("sender_cpu", "CPU, sender", "cpu"),
    Column("agent_cpu", "CPU, agent", "cpu"),
    Column("sender_peak_bytes", "memory, sender", "bytes"),
    Column("agent_peak_bytes", "memory, agent", "bytes"),
]

RATE = 100
LIMITS = ("5ms", "20ms", "100ms")
# What a store holds of a process, at most.
STORED_SHARE = {"zero": 0.1, "half": 1.1}


def measure_process(context, mib, content, limits):
    labels = {"size": mib << 20, "content": content}
    try:
        need_memory(int((1 + STORED_SHARE[content]) * mib) << 20)
        with context.workshop.writer(mib, content) as writer:
            cases = [paced_case(context, writer, {**labels, "max_downtime": limit}, RATE, ["--max-downtime", limit]) for limit in limits]
            return in_turn(context.runs, cases)
    except Skip as why:
        return [skipped_row(labels, why)]


def measure(context):
    rows = [row for mib in context.sizes(1024, 4096) for row in measure_process(context, mib, "half", LIMITS)]
    rows += [row for mib in context.sizes(1024, 2048, 4096, 8192, 16384)
             for row in measure_process(context, mib, "zero", LIMITS[1:2])]
    return rows

# SPDX-License-Identifier: MIT
from ..harness import limits, tidemark
from ..harness.children import Skip
from ..harness.experiment import Case, in_turn, skipped_row
from ..harness.machine import need_memory
from ..harness.table import Column

ABOUT = """How fast the first round carries all of a process that writes nothing, by what its memory holds, how it is
compressed, and over how many connections; sender and agent on this machine, the store in memory. The limits are
measured on the same process in turn with the sends: `pipe` reads it with process_vm_readv, carries it through loopback
TCP to another process and writes it to a file in the same store, and does nothing else; with two threads it does so
twice side by side."""

COLUMNS = [
    Column("size", "size", "bytes"),
    Column("content", "memory"),
    Column("what", "what"),
    Column("streams", "streams", "count"),
    Column("first_round_rate", "first round", "rate"),
    Column("of_pipe", "of the pipe", "share"),
    Column("ratio", "ratio", "ratio", detail=True),
    Column("wire_bytes", "on the wire", "bytes"),
    Column("sender_cpu", "CPU, sender", "cpu"),
    Column("agent_cpu", "CPU, agent", "cpu"),
    Column("both_cpu", "CPU, both", "cpu"),
    Column("sender_peak_bytes", "memory, sender", "bytes"),
    Column("agent_peak_bytes", "memory, agent", "bytes"),
]

CONTENTS = ("zero", "text", "half", "random")
CODECS = ("none", "lz4", "zstd")
MORE_STREAMS = (2, 4)
# Of larger processes only what a send does unasked, beside the pipes: the rest would tell nothing new, and take half an hour.
ALL_WAYS_MIB = 1024


def send_case(context, pid, labels, options):
    def sample():
        figures = tidemark.figures(tidemark.send(context.workshop, pid, options))
        figures["both_cpu"] = figures["sender_cpu"] + figures["agent_cpu"]
        return figures

    return Case(labels, sample)


def limit_case(context, pid, labels, road):
    def sample():
        measured = limits.measure(context.workshop, pid, [road])
        if road + "_rate" not in measured:
            raise Skip("this kernel cannot")
        return {"first_round_rate": measured[road + "_rate"], "both_cpu": measured[road + "_cpu"]}

    return Case({**labels, "what": f"limit: {road}"}, sample)


def cases(context, pid, labels):
    sends = [send_case(context, pid, {**labels, "what": "default", "streams": 1}, [])]
    if labels["size"] > ALL_WAYS_MIB << 20:
        return sends + [limit_case(context, pid, labels, road) for road in limits.ALL if road.startswith("pipe")]
    sends += [send_case(context, pid, {**labels, "what": codec, "streams": 1}, ["--compress", codec]) for codec in CODECS]
    sends += [send_case(context, pid, {**labels, "what": "default", "streams": n}, ["--streams", n])
              for n in MORE_STREAMS]
    return sends + [limit_case(context, pid, labels, road) for road in limits.ALL]


def compare_with_pipe(rows):
    """Adds of_pipe, against the better of the two."""
    pipes = [row["median"]["first_round_rate"] for row in rows if "median" in row and row["labels"]["what"].startswith("limit: pipe")]
    for row in rows:
        if pipes and "median" in row and not row["labels"]["what"].startswith("limit"):
            row["median"]["of_pipe"] = row["median"]["first_round_rate"] / max(pipes)
    return rows


def measure_process(context, mib, content):
    labels = {"size": mib << 20, "content": content}
    try:
        need_memory(2 * mib << 20)
        with context.workshop.writer(mib, content) as writer:
            return compare_with_pipe(in_turn(context.runs, cases(context, writer.pid, labels)))
    except Skip as why:
        return [skipped_row(labels, why)]


def measure(context):
    return [row for mib in context.sizes(1024, 4096) for content in CONTENTS for row in measure_process(context, mib, content)]

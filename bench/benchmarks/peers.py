# SPDX-License-Identifier: MIT
import os
from contextlib import contextmanager

from ..harness import tidemark
from ..harness.children import Skip
from ..harness.experiment import Case, in_turn, skipped_row
from ..harness.machine import need_memory
from ..harness.table import Column
from ..peers import Memory, criu, gcore, qemu

ABOUT = """Other programs on the same bytes, half compressible and not written meanwhile: CRIU dumps the process to its
page server over loopback; QEMU migrates a guest with this memory, which does not run and so has no downtime, over
loopback (its peaks are with the memory of the guest); gcore writes a core file. What goes over the wire is as each of
them counts it, and QEMU 7.2 counts before it compresses. `rate` is the size by the whole time that each takes; of
tidemark it is the time of the whole send. CRIU and gcore have the process stand still all the while."""

COLUMNS = [
    Column("size", "size", "bytes"),
    Column("content", "memory"),
    Column("what", "what"),
    Column("first_round_rate", "rate", "rate"),
    Column("downtime_seconds", "downtime", "seconds"),
    Column("total_seconds", "total", "seconds"),
    Column("wire_bytes", "on the wire", "bytes"),
    Column("sender_cpu", "CPU, sender", "cpu"),
    Column("agent_cpu", "CPU, receiver", "cpu"),
    Column("sender_peak_bytes", "memory, sender", "bytes"),
    Column("agent_peak_bytes", "memory, receiver", "bytes"),
]

OWN = "tidemark"
CONTENT = "half"


@contextmanager
def memory_of(context, mib):
    """A process and a file with the same bytes."""
    path = os.path.join(context.workshop.new_folder(), "memory")
    with context.workshop.writer(mib, CONTENT, file=path):
        pass
    try:
        with context.workshop.writer(mib, CONTENT) as process:
            yield Memory(mib, CONTENT, process, path)
    finally:
        os.unlink(path)


def own_case(context, memory):
    def sample():
        figures = tidemark.figures(tidemark.send(context.workshop, memory.process.pid))
        return {**figures, "first_round_rate": memory.bytes / figures["total_seconds"]}

    return Case({"what": OWN}, sample)


def measure_size(context, mib):
    labels = {"size": mib << 20, "content": CONTENT}
    skipped = []
    # The process, the file, and a guest or a store.
    need_memory(int(3.2 * mib) << 20)
    with memory_of(context, mib) as memory:
        cases = [own_case(context, memory)]
        for name, peer in (("CRIU", criu), ("QEMU", qemu), ("gcore", gcore)):
            try:
                cases += peer.cases(context, memory)
            except Skip as why:
                skipped.append(skipped_row({**labels, "what": name}, why))
        for case in cases:
            case.labels = {**labels, **case.labels}
        return in_turn(context.runs, cases) + skipped


def measure(context):
    rows = []
    for mib in context.sizes(1024, 4096):
        try:
            rows += measure_size(context, mib)
        except Skip as why:
            rows.append(skipped_row({"size": mib << 20}, why))
    return rows

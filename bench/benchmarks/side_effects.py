# SPDX-License-Identifier: MIT
import time

from ..harness import limits, phases, tidemark
from ..harness.children import Skip
from ..harness.experiment import Case, in_turn, skipped_row
from ..harness.machine import need_memory
from ..harness.stats import change
from ..harness.table import Column

ABOUT = """What being sent costs the process that is sent: its own count of its writes and how long each took, before,
during and after a send. At a pace the load is open: a write counts from when it was due, so the freeze shows. As fast
as it can, it is bound by the processor, and loses what the first write to each page costs after every round, and the
processor time that sender and agent take on the same cores. `first writes` is the share of the time that those cost by
the measured price of one, `frozen` that of the freeze; what was lost beyond both went to sender and agent. The sends
are paced at 200 MB/s, or not at all."""

PHASES = ("before", "during", "after")
COLUMNS = [
    Column("size", "size", "bytes"),
    Column("load", "load"),
    Column("what", "send"),
    Column("during_loss", "lost during", "share"),
    Column("first_writes_share", "first writes", "share"),
    Column("frozen_share", "frozen", "share"),
    Column("of_explained", "lost : explained", "ratio"),
    *[Column(f"{phase}_per_second", f"writes/s {phase}", "count") for phase in PHASES],
    *[Column(f"{phase}_p50", f"p50 {phase}", "seconds", detail=True) for phase in PHASES],
    *[Column(f"{phase}_p99", f"p99 {phase}", "seconds") for phase in PHASES],
    *[Column(f"{phase}_max", f"longest {phase}", "seconds") for phase in PHASES],
    Column("downtime_seconds", "downtime", "seconds"),
    Column("total_seconds", "total", "seconds"),
    Column("sender_cpu", "CPU, sender", "cpu"),
    Column("agent_cpu", "CPU, agent", "cpu"),
    Column("sender_peak_bytes", "memory, sender", "bytes"),
    Column("agent_peak_bytes", "memory, agent", "bytes"),
]

LOADS = (("100 MB/s", "100"), ("as fast as it can", "max"))
WAYS = (("paced at 200 MB/s", ("--max-bandwidth", "200MB/s")), ("not paced", ()))


def around_a_send(load, seconds, send):
    """The figures of a load in each phase, those of the send, and what it lost."""
    load.say("phase before")
    time.sleep(seconds)
    load.say("phase during")
    sent = send()
    load.say("phase after")
    time.sleep(seconds)
    load.say("phase rest")
    seen = phases.report(load)
    figures = tidemark.figures(sent)
    for name in PHASES:
        figures.update(phases.figures(seen[name], name))
    figures["during_loss"] = -change(figures["before_per_second"], figures["during_per_second"])
    return sent, figures


def explained(context, writer, sent):
    """What of the time is known to be lost: pages that were written after they had been protected, times what one such write
    adds; and the freeze."""
    price = limits.measure(context.workshop, writer.pid, ["first_write"]).get("first_write_rate")
    if not price:
        return {}
    nbytes = sum(r["bytes"] for r in sent.rounds[1:])
    return {"first_writes_share": nbytes / price / (sent.summary["total_ms"] / 1e3),
            "frozen_share": sent.summary["downtime_ms"] / sent.summary["total_ms"]}


def case(context, writer, labels, rate, options):
    seconds = 1 if context.quick else 5

    def sample():
        writer.say(f"rate {rate}")
        try:
            sent, figures = around_a_send(writer, seconds, lambda: tidemark.send(context.workshop, writer.pid, options))
        finally:
            writer.say("rate 0")
        figures.update(explained(context, writer, sent))
        if rate == "max" and "first_writes_share" in figures:
            figures["of_explained"] = figures["during_loss"] / (figures["first_writes_share"] + figures["frozen_share"])
        return figures

    return Case(labels, sample)


def measure(context):
    mib = context.sizes(1024)[0]
    labels = {"size": mib << 20}
    try:
        need_memory(2 * mib << 20)
    except Skip as why:
        return [skipped_row(labels, why)]
    with context.workshop.writer(mib, "half") as writer:
        cases = [case(context, writer, {**labels, "load": load, "what": what}, rate, options)
                 for load, rate in LOADS for what, options in WAYS]
        return in_turn(context.runs, cases)

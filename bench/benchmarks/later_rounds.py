# SPDX-License-Identifier: MIT
from ..harness import limits, tidemark
from ..harness.children import Skip
from ..harness.experiment import Case, in_turn, skipped_row
from ..harness.machine import need_memory
from ..harness.phases import longest_wait
from ..harness.table import Column

ABOUT = """What follows the first round, of a half compressible process that writes pages at random at a pace, each page
once before any twice. `1 % written` is one round: every hundredth page was written, once or more, during the first
round. Its limit is what a scan of the whole process takes (PAGEMAP_SCAN, nothing armed) and the pipe of first_round for
just those pages, begun as long after memory was freed for it as the round is: what has been free for seconds is slower
to get. `longest wait` is what the process itself saw of it, the freeze included: how long a write waited at
most after it was due."""

COLUMNS = [
    Column("size", "size", "bytes"),
    Column("written", "written"),
    Column("what", "what"),
    Column("rounds", "rounds", "count"),
    Column("live_round_seconds", "a live round", "seconds", detail=True),
    Column("live_round_rate", "live rounds", "rate"),
    Column("round_1_pages", "pages in round 1", "count", detail=True),
    Column("round_1_seconds", "round 1", "seconds"),
    Column("of_limit", "of the limit", "ratio"),
    Column("last_round_seconds", "last round", "seconds", detail=True),
    Column("downtime_seconds", "downtime", "seconds"),
    Column("longest_wait", "longest wait", "seconds"),
    Column("total_seconds", "total", "seconds"),
    Column("later_bytes", "later rounds", "bytes", detail=True),
    Column("later_wire_bytes", "on the wire", "bytes"),
    Column("sender_cpu", "CPU, sender", "cpu"),
    Column("agent_cpu", "CPU, agent", "cpu"),
    Column("sender_peak_bytes", "memory, sender", "bytes"),
    Column("agent_peak_bytes", "memory, agent", "bytes"),
]

# What does not converge is frozen all the same, for as long as it takes.
PATIENT = ["--freeze-timeout", "10s"]
RATES = (0, 10, 100, 500)
EVERY = 100
# Writes every hundredth page before a first round of less than 8 GB/s is over, whatever the size.
SPARSE_RATE = 8000 // EVERY


def paced_case(context, writer, labels, rate, options):
    def sample():
        writer.say(f"rate {rate}")
        writer.say("phase during")
        figures = tidemark.figures(tidemark.send(context.workshop, writer.pid, options))
        writer.say("phase after")
        if rate:
            figures["longest_wait"] = longest_wait(writer, "during")
        writer.say("rate 0")
        return figures

    return Case(labels, sample)


def sparse_case(context, writer, labels, first_round):
    """The pages that were written are those of round 1, as the writer stops when round 0 has ended."""
    def stop(round_figures):
        if round_figures["round"] == 0:
            writer.say("rate 0")

    def sample():
        writer.say(f"rate {SPARSE_RATE}")
        sent = tidemark.send(context.workshop, writer.pid, ["--max-downtime", "1ms"], on_round=stop)
        writer.say("rate 0")
        first_round["seconds"] = sent.rounds[0]["time_ms"] / 1e3
        return {**tidemark.figures(sent), "round_1_pages": sent.rounds[1]["pages"], "round_1_seconds": sent.rounds[1]["time_ms"] / 1e3}

    return Case({**labels, "what": "default"}, sample)


def sparse_limit(context, writer, labels, first_round):
    def sample():
        measured = limits.measure(context.workshop, writer.pid, ["scan", "pipe"], every=EVERY, wait_seconds=first_round["seconds"])
        if "scan_seconds" not in measured:
            raise Skip("there is no PAGEMAP_SCAN")
        return {"round_1_seconds": measured["scan_seconds"] + measured["pipe_seconds"]}

    return Case({**labels, "what": "limit: scan + pipe"}, sample)


def measure_paced(context, mib):
    with context.workshop.writer(mib, "half") as writer:
        cases = [paced_case(context, writer, {"size": mib << 20, "written": f"{rate} MB/s", "what": "default"}, rate, PATIENT)
                 for rate in RATES]
        return in_turn(context.runs, cases)


def measure_sparse(context, mib):
    labels = {"size": mib << 20, "written": f"{100 // EVERY} %"}
    with context.workshop.writer(mib, "half", every=EVERY) as writer:
        first_round = {"seconds": 0}
        rows = in_turn(context.runs, [make(context, writer, labels, first_round) for make in (sparse_case, sparse_limit)])
    own, limit = rows
    if "median" in own and "median" in limit:
        own["median"]["of_limit"] = own["median"]["round_1_seconds"] / limit["median"]["round_1_seconds"]
    return rows


def measure(context):
    rows = []
    for mib in context.sizes(1024, 4096):
        try:
            need_memory(2 * mib << 20)
            rows += measure_paced(context, mib) + measure_sparse(context, mib)
        except Skip as why:
            rows.append(skipped_row({"size": mib << 20}, why))
    return rows

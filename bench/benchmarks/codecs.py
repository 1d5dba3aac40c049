# SPDX-License-Identifier: MIT
from ..harness import tidemark
from ..harness.children import Skip
from ..harness.experiment import Case, in_turn, skipped_row
from ..harness.link import Link
from ..harness.machine import need_memory
from ..harness.table import Column

ABOUT = """What a written page costs on a link of 1 Gbit/s, where pages are not new: `counter` adds to four words of
each page that it writes, `rewrite` writes the bytes that were there before. Delta (the difference from what was sent
last) is held against LZ4 alone, and the later rounds against the first. The process goes on for a set number of rounds.
Bytes are those on the wire, for each page that was written, sent or not."""

COLUMNS = [
    Column("size", "size", "bytes"),
    Column("pattern", "writes"),
    Column("what", "what"),
    Column("rounds", "rounds", "count"),
    Column("later_pages", "pages later", "count", detail=True),
    Column("later_wire_bytes", "later rounds, wire", "bytes"),
    Column("first_page_bytes", "a page, first round", "bytes"),
    Column("later_page_bytes", "a page, later", "bytes"),
    Column("fewer", "times fewer", "ratio"),
    Column("less", "less than LZ4", "share"),
    Column("total_seconds", "total", "seconds", detail=True),
    Column("downtime_seconds", "downtime", "seconds", detail=True),
    Column("sender_cpu", "CPU, sender", "cpu"),
    Column("agent_cpu", "CPU, agent", "cpu"),
    Column("sender_peak_bytes", "memory, sender", "bytes"),
    Column("agent_peak_bytes", "memory, agent", "bytes"),
]

GIGABIT = 10**9
RATE = 60
ROUNDS = ("--max-rounds", "6", "--max-downtime", "1ms")
BASE = "lz4 alone"
# A name, and the first of these lines of options that the build takes.
WAYS = (
    (BASE, (("--compress", "lz4", "--delta-cache", "0"), ("--compress", "lz4"))),
    ("delta", (("--compress", "lz4", "--delta-cache", "64M"),)),
    ("default", ((),)),
)


def send_first_known(context, pid, lines, place):
    *others, last = lines
    for options in others:
        try:
            return tidemark.send(context.workshop, pid, [*options, *ROUNDS], place)
        except Skip:
            pass
    return tidemark.send(context.workshop, pid, [*last, *ROUNDS], place)


def page_figures(sent):
    first, *later = sent.rounds
    pages = sum(r["pages"] + r["unchanged_pages"] for r in later)
    wire = sum(r["wire_bytes"] for r in later)
    return {"later_pages": pages, "first_page_bytes": first["wire_bytes"] / max(first["pages"], 1),
            "later_page_bytes": wire / pages if pages else None}


def case(context, writer, labels, lines, place):
    def sample():
        writer.say(f"rate {RATE}")
        sent = send_first_known(context, writer.pid, lines, place)
        writer.say("rate 0")
        return {**tidemark.figures(sent), **page_figures(sent)}

    return Case(labels, sample)


def compare(rows):
    """Adds how many times fewer bytes a page takes than by LZ4 alone, and what part of them is saved."""
    base = next((r["median"]["later_page_bytes"] for r in rows if "median" in r and r["labels"]["what"] == BASE), None)
    for row in rows:
        own = row.get("median", {}).get("later_page_bytes")
        if base and own and row["labels"]["what"] != BASE:
            row["median"]["fewer"] = base / own
            row["median"]["less"] = 1 - own / base
    return rows


# The pages that are written, 48 MiB of 1 GiB, fit into the cache.
def measure_pattern(context, place, mib, pattern):
    labels = {"size": mib << 20, "pattern": pattern}
    need_memory(2 * mib << 20)
    with context.workshop.writer(mib, "half", pattern=pattern, hot=mib * 3 // 64) as writer:
        return compare(in_turn(context.runs, [case(context, writer, {**labels, "what": name}, lines, place) for name, lines in WAYS]))


def measure(context):
    mib = context.sizes(1024)[0]
    try:
        with Link(context.workshop, GIGABIT, 0) as place:
            return [row for pattern in ("counter", "rewrite") for row in measure_pattern(context, place, mib, pattern)]
    except Skip as why:
        return [skipped_row({"size": mib << 20}, why)]

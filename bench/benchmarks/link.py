# SPDX-License-Identifier: MIT
from ..harness import tidemark
from ..harness.children import Skip
from ..harness.experiment import Case, in_turn, skipped_row
from ..harness.link import Link
from ..harness.machine import need_memory
from ..harness.phases import longest_wait
from ..harness.table import Column

ABOUT = """Through a link of 1 Gbit/s with a round trip of 10 ms: sender and agent are in network namespaces of their
own, with tc's token bucket on the wire between them and a relay that delays every byte by 5 ms each way. (The relay
ends the TCP connection, so what a slow start over a long way costs is not in it.) The process has 10 MB a second
written. `of the link` is the rate on the wire, in all rounds, against that of plain bytes through the same link."""

COLUMNS = [
    Column("size", "size", "bytes"),
    Column("content", "memory"),
    Column("what", "what"),
    Column("first_round_rate", "first round", "rate"),
    Column("wire_rate", "on the wire", "rate"),
    Column("of_link", "of the link", "share"),
    Column("ratio", "ratio", "ratio"),
    Column("rounds", "rounds", "count"),
    Column("downtime_seconds", "downtime", "seconds"),
    Column("longest_wait", "longest wait", "seconds"),
    Column("total_seconds", "total", "seconds"),
    Column("wire_bytes", "wire bytes", "bytes", detail=True),
    Column("sender_cpu", "CPU, sender", "cpu"),
    Column("agent_cpu", "CPU, agent", "cpu"),
    Column("sender_peak_bytes", "memory, sender", "bytes"),
    Column("agent_peak_bytes", "memory, agent", "bytes"),
]

GIGABIT = 10**9
DELAY_MS = 5
RATE = 10
PLAIN_BYTES = 128 << 20
LIMIT = "limit: plain bytes"
WAYS = (("default", ()),) + tuple((codec, ("--compress", codec)) for codec in ("none", "lz4", "zstd"))


def send_case(context, place, writer, labels, options):
    def sample():
        writer.say(f"rate {RATE}")
        writer.say("phase during")
        figures = tidemark.figures(tidemark.send(context.workshop, writer.pid, options, place))
        writer.say("phase after")
        figures["longest_wait"] = longest_wait(writer, "during")
        writer.say("rate 0")
        figures["wire_rate"] = figures["wire_bytes"] / figures["total_seconds"]
        return figures

    return Case(labels, sample)


def compare_with_link(rows):
    plain = next((r["median"]["wire_rate"] for r in rows if "median" in r and r["labels"]["what"] == LIMIT), None)
    for row in rows:
        if plain and "median" in row and row["labels"]["what"] != LIMIT:
            row["median"]["of_link"] = row["median"]["wire_rate"] / plain
    return rows


def measure_content(context, place, mib, content):
    labels = {"size": mib << 20, "content": content}
    need_memory(2 * mib << 20)
    with context.workshop.writer(mib, content) as writer:
        cases = [send_case(context, place, writer, {**labels, "what": what}, options) for what, options in WAYS]
        cases.append(Case({**labels, "what": LIMIT}, lambda: {"wire_rate": place.stream_rate(PLAIN_BYTES)}))
        return compare_with_link(in_turn(context.runs, cases))


def measure(context):
    mib = context.sizes(1024)[0]
    try:
        with Link(context.workshop, GIGABIT, DELAY_MS) as place:
            return [row for content in ("half", "text") for row in measure_content(context, place, mib, content)]
    except Skip as why:
        return [skipped_row({"size": mib << 20}, why)]

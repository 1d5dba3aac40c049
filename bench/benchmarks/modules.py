# SPDX-License-Identifier: MIT
import json

from ..harness.children import run
from ..harness.stats import medians
from ..harness.table import Column

ABOUT = """Two parts by themselves, by one thread: `codec` encodes and decodes batches of pages, with memcpy of the same
bytes beside it; `session` is the agent without its network: a first round, one of 1 % at random and one of every other
page, then commit and reading."""

COLUMNS = [
    Column("part", "part"),
    Column("memory", "memory"),
    Column("what", "what"),
    Column("ratio", "ratio", "ratio"),
    Column("encode_rate", "encode", "rate"),
    Column("decode_rate", "decode", "rate"),
    Column("rate", "rate", "rate"),
    Column("seconds", "time", "seconds"),
]


def codec_row(said):
    """It takes its own medians."""
    median = {"ratio": said["ratio"], "encode_rate": said["encode_mb_per_second"] * 1e6, "decode_rate": said["decode_mb_per_second"] * 1e6}
    return {"labels": {"part": "codec", "memory": said["memory"], "what": said["codec"]}, "median": median, "samples": [median]}


def session_run(context, mib):
    folder = context.workshop.new_folder()
    lines = run(context.workshop.tool("session"), "--json", "--size", mib << 20, f"{folder}/store").stdout.splitlines()
    said = [line for line in map(json.loads, lines) if "ms" in line]
    return {(s["memory"], s["what"]): {"seconds": s["ms"] / 1e3, "rate": s["mb_per_second"] * 1e6 or None} for s in said}


def session_rows(context, mib):
    runs = [session_run(context, mib) for _ in range(context.runs + 1)][1:]
    for memory, what in runs[0]:
        samples = [sample[memory, what] for sample in runs]
        yield {"labels": {"part": "session", "memory": memory, "what": what}, "median": medians(samples), "samples": samples}


def measure(context):
    codec = run(context.workshop.tool("codec"), "--json").stdout.splitlines()
    return [codec_row(json.loads(line)) for line in codec] + list(session_rows(context, context.sizes(1024)[0]))

# SPDX-License-Identifier: MIT
"""One file a benchmark. Each has ABOUT (what it measures, a paragraph for readers), COLUMNS, and measure(context), which returns rows
(harness/experiment.py). A new one is a file and a line here."""
from . import codecs, downtime, first_round, later_rounds, link, modules, peers, redis, side_effects

ALL = {
    "first_round": first_round,
    "later_rounds": later_rounds,
    "downtime": downtime,
    "codecs": codecs,
    "side_effects": side_effects,
    "redis": redis,
    "link": link,
    "modules": modules,
    "peers": peers,
}

# What runs where none is named: not other people's programs.
DEFAULT = [name for name in ALL if name != "peers"]

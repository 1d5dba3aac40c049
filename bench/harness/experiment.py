# SPDX-License-Identifier: MIT
"""Cases are measured in turn, run after run, so that a change of the machine's speed hits them all. The first run warms up and is not
counted."""
import sys
from dataclasses import dataclass, field
from typing import Callable

from .children import Skip
from .stats import medians
from .table import label_text


@dataclass
class Case:
    """A row: what tells it from the others, and what measures it once."""
    labels: dict
    sample: Callable[[], dict]
    samples: list = field(default_factory=list)
    skipped: str = ""

    def row(self):
        if self.skipped:
            return {"labels": self.labels, "skipped": self.skipped}
        return {"labels": self.labels, "median": medians(self.samples), "samples": self.samples}


def skipped_row(labels, why):
    return {"labels": labels, "skipped": str(why)}


def _take(case, counts):
    try:
        sample = case.sample()
    except Skip as why:
        case.skipped = str(why)
        return
    if counts:
        case.samples.append(sample)


def in_turn(runs, cases, say=None):
    """Rows of the cases, each with the medians of `runs` samples."""
    say = say or (lambda words: print(words, file=sys.stderr, flush=True))
    for run in range(runs + 1):
        for case in cases:
            if not case.skipped:
                say(f"    {'warming up' if run == 0 else f'run {run} of {runs}'}: {label_text({'labels': case.labels})}")
                _take(case, run > 0)
    return [case.row() for case in cases]

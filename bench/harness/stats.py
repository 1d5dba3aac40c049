# SPDX-License-Identifier: MIT
"""Many samples become one row."""
import statistics


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def medians(samples):
    """The median of each figure over the samples that have it."""
    names = {name: None for sample in samples for name, value in sample.items() if is_number(value)}
    return {name: statistics.median(s[name] for s in samples if is_number(s.get(name))) for name in names}


def spread(values):
    """How far apart the values lie, as a share of their median; 0 for fewer than two."""
    values = [v for v in values if is_number(v)]
    middle = statistics.median(values) if values else 0
    return (max(values) - min(values)) / middle if middle else 0.0


def change(before, after):
    """The relative change, or None where there is nothing to compare with."""
    return after / before - 1 if before else None

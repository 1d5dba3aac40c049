# SPDX-License-Identifier: MIT
"""What a load with phases (bench/workloads/phases.h) tells."""


def report(load):
    """The phases of a load by name."""
    return {phase["name"]: phase for phase in load.ask("report")["phases"]}


def longest_wait(load, name):
    """The longest that an operation of a phase waited, in seconds."""
    return report(load)[name]["max_us"] / 1e6


def figures(phase, when):
    """The figures of a phase, named after `when` it was."""
    return {
        f"{when}_per_second": phase["per_second"],
        f"{when}_p50": phase["p50_us"] / 1e6,
        f"{when}_p99": phase["p99_us"] / 1e6,
        f"{when}_max": phase["max_us"] / 1e6,
        f"{when}_in_time": phase["in_time"] / phase["due"] if phase["due"] else 1.0,
    }

# SPDX-License-Identifier: MIT
import contextlib
import os
import shutil

from ..harness import tidemark
from ..harness.children import Child, Failed, Skip, run
from ..harness.experiment import Case, in_turn, skipped_row
from ..harness.machine import need_memory
from ..harness.table import Column
from .side_effects import PHASES, WAYS, around_a_send

ABOUT = """What being sent costs a Redis server and those who use it. Requests, half GET and half SET of values of 1
KiB, come when they are due at half of the rate at which redis-benchmark saturates the server, whether or not those
before were answered; an answer counts from when its request was due, and as in time within 10 ms. Server, load, sender
and agent share the cores of this machine."""

COLUMNS = [
    Column("keys", "keys", "count"),
    Column("what", "send"),
    Column("load", "requests/s", "count"),
    *[Column(f"{phase}_in_time", f"in time {phase}", "share") for phase in PHASES],
    Column("p99_times", "p99 during : before", "ratio"),
    *[Column(f"{phase}_p50", f"p50 {phase}", "seconds", detail=True) for phase in PHASES],
    *[Column(f"{phase}_p99", f"p99 {phase}", "seconds") for phase in PHASES],
    *[Column(f"{phase}_max", f"longest {phase}", "seconds") for phase in PHASES],
    *[Column(f"{phase}_per_second", f"answers/s {phase}", "count", detail=True) for phase in PHASES],
    Column("downtime_seconds", "downtime", "seconds"),
    Column("total_seconds", "total", "seconds"),
    Column("sender_cpu", "CPU, sender", "cpu"),
    Column("agent_cpu", "CPU, agent", "cpu"),
    Column("sender_peak_bytes", "memory, sender", "bytes"),
    Column("agent_peak_bytes", "memory, agent", "bytes"),
]

VALUE_BYTES = 1024
CONNECTIONS = 16


@contextlib.contextmanager
def server(folder):
    socket = os.path.join(folder, "redis.sock")
    with Child("redis-server", "--port", 0, "--unixsocket", socket, "--save", "", "--appendonly", "no", "--daemonize", "no",
               "--dir", folder) as redis:
        redis.wait_line("eady to accept connections")
        yield redis, socket


def saturation(socket, keys, requests):
    """Requests a second, half GET, half SET, by redis-benchmark."""
    out = run("redis-benchmark", "-s", socket, "-t", "set,get", "-r", keys, "-n", requests, "-c", CONNECTIONS, "-d", VALUE_BYTES,
              "--csv").stdout
    rates = [float(line.split(",")[1].strip('"')) for line in out.splitlines() if line.startswith(('"SET"', '"GET"'))]
    if len(rates) != 2:
        raise Failed(f"redis-benchmark said: {out}")
    return 2 / sum(1 / rate for rate in rates)


def case(context, redis, load, labels, rate, options):
    seconds = 1 if context.quick else 5

    def sample():
        load.say(f"rate {rate}")
        try:
            _, figures = around_a_send(load, seconds, lambda: tidemark.send(context.workshop, redis.pid, options))
        finally:
            load.say("rate 0")
        return {**figures, "p99_times": figures["during_p99"] / figures["before_p99"]}

    return Case({**labels, "load": rate}, sample)


def measure(context):
    keys = 100_000 if context.quick else 500_000
    labels = {"keys": keys}
    for program in ("redis-server", "redis-benchmark"):
        if not shutil.which(program):
            return [skipped_row(labels, f"{program} is not installed")]
    try:
        need_memory(4 * keys * VALUE_BYTES)
    except Skip as why:
        return [skipped_row(labels, why)]
    folder = context.workshop.new_folder()
    with server(folder) as (redis, socket), \
            Child(context.workshop.tool("redis_load"), socket, "--keys", keys, "--value", VALUE_BYTES,
                  "--connections", CONNECTIONS) as load:
        load.wait_line("ready")
        rate = round(saturation(socket, keys, 20_000 if context.quick else 200_000) / 2)
        return in_turn(context.runs, [case(context, redis, load, {**labels, "what": what}, rate, options) for what, options in WAYS])

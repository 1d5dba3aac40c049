# SPDX-License-Identifier: MIT
"""One send, with an agent of its own."""
import contextlib
import json
import os
import secrets
import shutil
import subprocess
import tempfile
from dataclasses import dataclass

from .children import Child, Counted, Failed, Skip, Usage

USAGE_STATUS = 2


MIB = bytes(1 << 20)
WARM_MAX_MIB = 4096


class Workshop:
    """The programs of a build, and a folder in memory for stores, keys and sockets. Removed at the end of the `with`.

    While there is a writer, memory for what is measured is kept warm. A virtual machine gives memory that has been free for seconds back
    to its host, and who gets it next waits for the host, page by page: that would be measured instead of the programs. So there is
    a file as large as the writer, up to WARM_MAX_MIB, which is removed before each measurement and made again after it."""

    def __init__(self, build, store_parent):
        self.build = build
        self.warm_mib = 0
        self.folder = tempfile.mkdtemp(prefix="tidemark-bench-", dir=store_parent)
        self.key = os.path.join(self.folder, "key")
        descriptor = os.open(self.key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as f:
            f.write(secrets.token_hex(32) + "\n")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def tidemark(self):
        return os.path.join(self.build, "cli/tidemark")

    def tool(self, name):
        return os.path.join(self.build, "bench", f"bench_{name}")

    def new_folder(self):
        return tempfile.mkdtemp(dir=self.folder)

    @contextlib.contextmanager
    def warm_memory(self):
        """Is free inside of the `with`."""
        self._keep_warm(0)
        try:
            yield
        finally:
            self._keep_warm(self.warm_mib)

    def _keep_warm(self, mib):
        path = os.path.join(self.folder, "warm")
        if os.path.exists(path):
            os.unlink(path)
        if mib:
            with open(path, "wb", buffering=0) as f:
                for _ in range(mib):
                    f.write(MIB)

    @contextlib.contextmanager
    def store(self):
        """A folder for what is kept by what is measured. Removed afterwards."""
        with self.warm_memory():
            folder = self.new_folder()
            try:
                yield folder
            finally:
                shutil.rmtree(folder)

    def counted(self, *argv, **options):
        """A program of which is counted what it takes."""
        return Counted(self.tool("usage"), self.folder, *argv, **options)

    @contextlib.contextmanager
    def writer(self, mib, content="half", **options):
        """A process with memory that is known, filled: see bench/workloads/writer.c."""
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        with Child(self.tool("writer"), "--size", mib, "--content", content, *words) as child:
            child.wait_line("ready")
            self.warm_mib = min(mib, WARM_MAX_MIB)
            self._keep_warm(self.warm_mib)
            yield child
        self.warm_mib = 0
        self._keep_warm(0)


@dataclass
class Sent:
    rounds: list
    summary: dict
    sender: Usage
    agent: Usage


class Loopback:
    """Where sender and agent are: here, on this machine."""
    sender_prefix = ()
    agent_prefix = ()
    listen = "tcp://127.0.0.1:0"

    @contextlib.contextmanager
    def road_to(self, address):
        """The address by which the sender reaches an agent at `address`."""
        yield address


def _read_rounds(sender, on_round):
    objects = []
    for line in sender.process.stdout:
        objects.append(json.loads(line))
        if objects[-1]["kind"] == "round" and on_round:
            on_round(objects[-1])
    return objects


def _run_sender(workshop, pid, address, options, place, on_round):
    with workshop.counted(workshop.tidemark, "send", pid, address, "--name", "bench", "--json", "--key-file", workshop.key,
                          *options, prefix=place.sender_prefix, stderr=subprocess.PIPE) as sender:
        objects = _read_rounds(sender, on_round)
        words = sender.process.stderr.read().strip().splitlines()
        usage = sender.wait()
        said = words[0] if words else "nothing"
    if usage.status == USAGE_STATUS and options:
        raise Skip(f"this build does not take {' '.join(options)} ({said})")
    if usage.status != 0:
        raise Failed(f"tidemark send failed with {usage.status}: {said}")
    return objects, usage


def send(workshop, pid, options=(), place=Loopback(), on_round=None):
    """Sends process `pid` to an agent that is started for it, whose store is removed afterwards. Raises Skip where this build does not
    know one of the options. `on_round` is called with each round's figures when it has ended."""
    options = [str(word) for word in options]
    with workshop.store() as store, \
            workshop.counted(workshop.tidemark, "agent", "--once", "--listen", place.listen, "--store", os.path.join(store, "store"),
                             "--key-file", workshop.key, prefix=place.agent_prefix, stderr=subprocess.DEVNULL) as agent:
        own_address = agent.wait_line("listening on").split()[2]
        with place.road_to(own_address) as address:
            objects, sender_usage = _run_sender(workshop, pid, address, options, place, on_round)
        agent_usage = agent.wait()
    return Sent([o for o in objects if o["kind"] == "round"], next(o for o in objects if o["kind"] == "summary"),
                sender_usage, agent_usage)


def figures(sent):
    """What a send says of itself, in bytes and seconds."""
    first, *later = sent.rounds
    live = [r for r in later if not r["final"]]
    gigabytes = sent.summary["bytes"] / 1e9
    own = {
        "first_round_rate": first["bytes"] / (first["time_ms"] / 1e3),
        "first_round_seconds": first["time_ms"] / 1e3,
        "ratio": sent.summary["ratio"],
        "rounds": len(sent.rounds),
        "later_bytes": sum(r["bytes"] for r in later),
        "later_wire_bytes": sum(r["wire_bytes"] for r in later),
        "last_round_seconds": sent.rounds[-1]["time_ms"] / 1e3,
        "downtime_seconds": sent.summary["downtime_ms"] / 1e3,
        "total_seconds": sent.summary["total_ms"] / 1e3,
        "wire_bytes": sent.summary["wire_bytes"],
        "sender_cpu": sent.sender.cpu_seconds / gigabytes,
        "agent_cpu": sent.agent.cpu_seconds / gigabytes,
        "sender_peak_bytes": sent.sender.peak_bytes,
        "agent_peak_bytes": sent.agent.peak_bytes,
        "summary": sent.summary,
    }
    seconds = sum(r["time_ms"] for r in live) / 1e3
    if seconds:
        own["live_round_rate"] = sum(r["bytes"] for r in live) / seconds
        own["live_round_seconds"] = seconds / len(live)
    return own

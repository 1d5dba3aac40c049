# SPDX-License-Identifier: MIT
import contextlib
import os
import shutil
import socket
import subprocess
import time

from ..harness.children import Failed, Skip, run
from ..harness.experiment import Case

START_SECONDS = 10


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as s:
        return s.getsockname()[1]


def wait_until_listening(port):
    """A look instead of a connection, of which the server takes one only."""
    wanted = f":{port:04X} 00000000:0000 0A"
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        with open("/proc/net/tcp", encoding="ascii") as f:
            if wanted in f.read():
                return
        time.sleep(0.01)
    raise Failed("criu page-server does not listen")


@contextlib.contextmanager
def page_server(context, folder, port):
    with context.workshop.counted("criu", "page-server", "--images-dir", folder, "--address", "127.0.0.1", "--port", port,
                                  stderr=subprocess.STDOUT) as server:
        wait_until_listening(port)
        yield server


def folder_bytes(folder):
    return sum(entry.stat().st_size for entry in os.scandir(folder))


def sample(context, memory):
    """A dump to a page server over loopback; the process stands still all the while, and goes on."""
    port = free_port()
    gigabytes = memory.bytes / 1e9
    with context.workshop.store() as folder:
        here, there = (os.path.join(folder, name) for name in ("here", "there"))
        os.mkdir(here)
        os.mkdir(there)
        with page_server(context, there, port) as server:
            began = time.monotonic()
            with context.workshop.counted("criu", "dump", "--tree", memory.process.pid, "--images-dir", here, "--page-server",
                                          "--address", "127.0.0.1", "--port", port, "--leave-running", "--shell-job",
                                          stderr=subprocess.STDOUT) as dump:
                said = dump.process.stdout.read().strip()
                dumped = dump.wait()
            took = time.monotonic() - began
            if dumped.status != 0:
                raise Failed(f"criu dump failed with {dumped.status}: {said[-300:]}")
            served = server.wait()
        return {"first_round_rate": memory.bytes / took, "downtime_seconds": took, "total_seconds": took,
                "wire_bytes": folder_bytes(here) + folder_bytes(there), "sender_cpu": dumped.cpu_seconds / gigabytes,
                "agent_cpu": served.cpu_seconds / gigabytes, "sender_peak_bytes": dumped.peak_bytes,
                "agent_peak_bytes": served.peak_bytes}


def cases(context, memory):
    if not shutil.which("criu"):
        raise Skip("criu is not installed")
    checked = run("criu", "check", check=False)
    if checked.returncode != 0:
        words = (checked.stderr + checked.stdout).strip().splitlines() or ["nothing"]
        raise Skip(f"criu does not start on this kernel (criu check says: {words[-1]})")
    version = run("criu", "--version").stdout.split()[1]
    return [Case({"what": f"CRIU {version}"}, lambda: sample(context, memory))]

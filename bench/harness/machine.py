# SPDX-License-Identifier: MIT
"""What the figures were measured on."""
import os
import platform

from .children import Skip
from .table import show_bytes

# What is left to the machine: so much, or an eighth of a small one.
RESERVE_BYTES = 1536 << 20


def _read(path, default=""):
    try:
        with open(path, encoding="utf-8") as f:
            return f.read()
    except OSError:
        return default


def _meminfo(key):
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    return 0


def facts():
    cpuinfo = _read("/proc/cpuinfo").splitlines()
    model = next((line.split(":", 1)[1].strip() for line in cpuinfo if line.startswith("model name")), "unknown")
    huge = _read("/sys/kernel/mm/transparent_hugepage/enabled")
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": model,
        "kernel": platform.release().split("-")[0],
        "memory_bytes": _meminfo("MemTotal"),
        "transparent_huge_pages": huge[huge.find("[") + 1:huge.find("]")] if "[" in huge else "unknown",
        "load_at_start": os.getloadavg()[0],
    }


def need_memory(nbytes):
    """Skips where so much would leave the machine short."""
    free = _meminfo("MemAvailable")
    reserve = min(RESERVE_BYTES, _meminfo("MemTotal") // 8)
    if nbytes + reserve > free:
        raise Skip(f"needs {show_bytes(nbytes)} and {show_bytes(reserve)} to spare, {show_bytes(free)} are free")

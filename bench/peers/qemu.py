# SPDX-License-Identifier: MIT
import contextlib
import json
import os
import shutil
import time

from ..harness.children import Child, Failed, Skip, run
from ..harness.experiment import Case

PROGRAM = "qemu-system-x86_64"
NO_LIMIT = 1 << 40
WAYS = {"": {}, ", multifd": {"multifd-channels": 2}, ", multifd and zstd": {"multifd-channels": 2, "multifd-compression": "zstd"}}


class Guest(Child):
    """A guest that never runs an instruction, spoken to in QMP on its standard streams."""

    def __init__(self, mib, memory_options, *options):
        super().__init__(PROGRAM, "-accel", "tcg", "-machine", "q35,memory-backend=memory", "-m", mib, "-object",
                         f"{memory_options},id=memory,size={mib}M", "-S", "-nodefaults", "-display", "none", "-qmp", "stdio", *options)
        self._read()
        self.command("qmp_capabilities")

    def _read(self):
        line = self.process.stdout.readline()
        if not line:
            raise Failed(f"{PROGRAM} ended")
        return json.loads(line)

    def command(self, name, **arguments):
        self.say(json.dumps({"execute": name, "arguments": arguments}))
        while True:
            answer = self._read()
            if "error" in answer:
                raise Failed(f"{PROGRAM}: {name}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]

    def cpu_seconds(self):
        with open(f"/proc/{self.pid}/stat", encoding="utf-8") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_bytes(self):
        with open(f"/proc/{self.pid}/status", encoding="utf-8") as f:
            return next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmHWM:"))

    def set_up(self, parameters):
        if parameters:
            self.command("migrate-set-capabilities", capabilities=[{"capability": "multifd", "state": True}])
            self.command("migrate-set-parameters", **parameters)


def migrate(source, destination):
    """Until it is done: what the source says of it."""
    destination.command("migrate-incoming", uri="tcp:127.0.0.1:0")
    port = destination.command("query-migrate")["socket-address"][0]["port"]
    source.command("migrate-set-parameters", **{"max-bandwidth": NO_LIMIT})
    source.command("migrate", uri=f"tcp:127.0.0.1:{port}")
    while True:
        said = source.command("query-migrate")
        # The times are filled in a moment after the status.
        if said["status"] == "completed" and said["total-time"] > 0:
            return said
        if said["status"] in ("failed", "cancelled"):
            raise Failed(f"{PROGRAM}: the migration {said['status']}: {said.get('error-desc', '')}")
        time.sleep(0.01)


def sample(context, memory, parameters):
    with contextlib.ExitStack() as stack:
        stack.enter_context(context.workshop.warm_memory())
        source = stack.enter_context(Guest(memory.mib, f"memory-backend-file,mem-path={memory.file},share=off"))
        destination = stack.enter_context(Guest(memory.mib, "memory-backend-ram", "-incoming", "defer"))
        for guest in (source, destination):
            guest.set_up(parameters)
        before = source.cpu_seconds(), destination.cpu_seconds()
        said = migrate(source, destination)
        gigabytes = memory.bytes / 1e9
        seconds = said["total-time"] / 1e3
        # No downtime: a guest that does not run has none.
        return {"first_round_rate": memory.bytes / seconds, "total_seconds": seconds,
                "wire_bytes": said["ram"]["transferred"], "sender_cpu": (source.cpu_seconds() - before[0]) / gigabytes,
                "agent_cpu": (destination.cpu_seconds() - before[1]) / gigabytes, "sender_peak_bytes": source.peak_bytes(),
                "agent_peak_bytes": destination.peak_bytes()}


def cases(context, memory):
    if not shutil.which(PROGRAM):
        raise Skip(f"{PROGRAM} is not installed")
    version = run(PROGRAM, "--version").stdout.split()[3].split("(")[0]
    return [Case({"what": f"QEMU {version}{name}"}, lambda parameters=parameters: sample(context, memory, parameters))
            for name, parameters in WAYS.items()]

# SPDX-License-Identifier: MIT
"""A slower link between two network namespaces: its rate by tc's token bucket, its delay by a relay of our own. The namespaces have no
names and end with the processes that hold them."""
import contextlib
import os
import shutil

from .children import Child, Failed, Skip, run

BURST_BYTES = 256 << 10
SOURCE_HOST, AGENT_HOST = "10.77.0.1", "10.77.0.2"


def _namespace(stack):
    """A process that does nothing but hold a namespace."""
    holder = stack.enter_context(Child("unshare", "--net", "sh", "-c", "echo held; read _"))
    holder.wait_line("held")
    return holder


def _inside(holder):
    return ("nsenter", f"--net=/proc/{holder.pid}/ns/net")


class Link:
    """A place for sender and agent (see tidemark.Loopback) with a link of `rate_bits` a second between; `delay_ms` each way."""

    def __init__(self, workshop, rate_bits, delay_ms):
        self._stack = contextlib.ExitStack()
        self._workshop = workshop
        self._rate_bits = rate_bits
        self._delay_ms = delay_ms

    def __enter__(self):
        for program in ("unshare", "nsenter", "ip", "tc"):
            if not shutil.which(program):
                raise Skip(f"there is no {program} here")
        if os.geteuid() != 0:
            raise Skip("network namespaces want root")
        try:
            self._build()
        except Failed as why:
            self._stack.close()
            raise Skip(f"network namespaces and tc's token bucket are not to be had: {why}") from why
        return self

    def __exit__(self, *_):
        self._stack.close()

    def _build(self):
        source, agent = _namespace(self._stack), _namespace(self._stack)
        self.sender_prefix, self.agent_prefix = _inside(source), _inside(agent)
        run("ip", "link", "add", "tide0", "type", "veth", "peer", "name", "tide0", "netns", agent.pid,
            prefix=self.sender_prefix)
        for prefix, host in ((self.sender_prefix, SOURCE_HOST), (self.agent_prefix, AGENT_HOST)):
            run("ip", "link", "set", "lo", "up", prefix=prefix)
            run("ip", "address", "add", f"{host}/24", "dev", "tide0", prefix=prefix)
            run("ip", "link", "set", "tide0", "up", prefix=prefix)
            run("tc", "qdisc", "add", "dev", "tide0", "root", "tbf", "rate", f"{self._rate_bits}bit",
                "burst", BURST_BYTES, "latency", "50ms", prefix=prefix)

    listen = "tcp://127.0.0.1:0"

    @contextlib.contextmanager
    def road_to(self, address):
        port = address.rsplit(":", 1)[1]
        with Child(self._workshop.tool("relay"), self._delay_ms, f"127.0.0.1:{port}", prefix=self.agent_prefix) as relay:
            yield f"tcp://{AGENT_HOST}:{relay.wait_line('listening on').split()[2]}"

    def stream_rate(self, nbytes):
        """How fast plain bytes go through, in bytes a second."""
        here = os.path.join(os.path.dirname(os.path.abspath(__file__)), "stream.py")
        with Child("python3", here, "take", prefix=self.agent_prefix) as taker:
            with self.road_to("tcp:" + taker.wait_line("listening on").split()[2]) as address:
                run("python3", here, "give", address.removeprefix("tcp://"), nbytes, prefix=self.sender_prefix)
            return nbytes / float(taker.wait_line("seconds").split()[1])

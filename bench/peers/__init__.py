# SPDX-License-Identifier: MIT
"""Other programs that move or save memory. Each module has cases(context, memory), which returns rows to be measured or raises Skip.
They are run as anybody would run them; nothing is taken from them."""
from dataclasses import dataclass

from ..harness.children import Child


@dataclass
class Memory:
    """The bytes that all of them are given: in a process, and in a file."""
    mib: int
    content: str
    process: Child
    file: str

    @property
    def bytes(self):
        return self.mib << 20

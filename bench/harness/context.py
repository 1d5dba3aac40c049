# SPDX-License-Identifier: MIT
"""What a benchmark is given."""
from dataclasses import dataclass

from .tidemark import Workshop


@dataclass
class Context:
    workshop: Workshop
    runs: int
    quick: bool

    def sizes(self, *mib):
        """Sizes of processes in MiB; one small one in a quick run."""
        return (256,) if self.quick else mib

# SPDX-License-Identifier: MIT
"""What a benchmark is given."""
from dataclasses import dataclass

from .tidemark import Workshop


@dataclass
class Context:
    workshop: Workshop
    runs: int
    quick: bool
    own_sizes: tuple = ()

    def sizes(self, *mib):
        """Sizes of processes in MiB: those that were asked for, or one small one in a quick run."""
        return self.own_sizes or ((256,) if self.quick else mib)

# SPDX-License-Identifier: MIT
"""What all benchmarks share. Python's standard library is all that is needed."""

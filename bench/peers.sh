#!/bin/sh
# SPDX-License-Identifier: MIT
# Runs CRIU, QEMU and gcore on the bytes that tidemark is measured with, and prints the same columns.
# What is not installed, or does not start on this kernel, is left out with a word. Takes the options
# of ./dev bench.
exec "$(dirname "$0")/run.py" peers "$@"

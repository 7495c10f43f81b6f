#!/bin/sh
# What of bsszoo takes a GPU, on one card: every part, then one table. The words are those of gpu.py (--help).
#
#     benchmarks/gpu.sh                          everything; the same command goes on where it was cut off
#     benchmarks/gpu.sh --seconds 500            begins nothing that would not end within 500 s
#     benchmarks/gpu.sh --part amp --part paper  these parts
#     benchmarks/gpu.sh --toy                    the same parts on a CPU, at toy size, in minutes
#
# Needs bsszoo's dependencies in the Python of $PYTHON (python3); bsszoo itself is taken from this checkout.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python3}" "$root/benchmarks/gpu.py" "$@"

"""Two ways of training in turns, each run a process of its own: what the benchmarks of training share."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence

Runs = dict[str, list[dict[str, float]]]


def take_turns(names: tuple[str, str], repeats: int, run: Callable[[str], dict[str, float]], label: str) -> Runs:
    """The results of both ways, as often as each; every second pair begins with the other one."""
    runs: Runs = {name: [] for name in names}
    for repeat in range(repeats):
        for name in names if repeat % 2 == 0 else names[::-1]:
            runs[name].append(run(name))
            print(f"{label} {repeat + 1}/{repeats} {name}: {runs[name][-1]}", file=sys.stderr)
    return runs


def result_of(words: Sequence[str]) -> dict[str, float]:
    """What a process prints as its last line, in JSON."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def cells(runs: Runs, peer: str, forms: Sequence[tuple[str, str]]) -> list[str]:
    """Of each figure and its form the peer's median, and the median ratio of ours to it (least to most)."""
    out = []
    for name, form in forms:
        theirs = [run[name] for run in runs[peer]]
        ratios = [a[name] / b for a, b in zip(runs["ours"], theirs, strict=True)]
        out += [
            form.format(statistics.median(theirs)),
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        ]
    return out


def peak_mb(device: str) -> float:
    """The most memory that this process has used, on its GPU where it has one [MB]."""
    import torch

    peak = (
        torch.cuda.max_memory_allocated()
        if device.startswith("cuda")
        else (1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    )
    return peak / 2**20

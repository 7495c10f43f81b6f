"""Small stand-ins for the published tables, in their formats, with results from a formula."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path

import numpy as np
from searching.task import Box, Task

LAYERS = [f"l{i}" for i in range(1, 9)]


def network(arch: str) -> tuple[object, ...]:
    """What is built: the two layers of stage 1; of the others the first layer and those of the rest that exist."""
    stages = arch[2:5], arch[5:8]
    return (arch[:2], *((s[0], s[1:].replace("0", "")) for s in stages))


def macro_entry(arch: str) -> dict[str, object]:
    """An entry of the published JSON; the same for all spellings of a network."""
    rng = np.random.default_rng([int(c) for c in repr(network(arch)) if c.isdigit()] + [len(repr(network(arch)))])
    depth = sum(c != "0" for c in arch)
    results = [round(60 + 3 * depth + float(v), 2) for v in rng.normal(0, 1, 3)]
    flops = 1_000_000 * (1 + sum(int(c) * (i % 3 + 1) for i, c in enumerate(repr(network(arch))) if c.isdigit()))
    return {"test_acc": results, "mean_acc": sum(results) / 3, "std": 0.1, "params": 5, "flops": flops}


def macro_archs() -> list[str]:
    return ["".join(digits) for digits in itertools.product("012", repeat=8)]


def write_macro_json(path: Path, archs: list[str]) -> Path:
    path.write_text(json.dumps({a: macro_entry(a) for a in archs}))
    return path


def write_macro_csv(path: Path, archs: list[str], canon: dict[str, str] | None = None) -> Path:
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        more = ["canon"] if canon else []
        out.writerow(["arch", *LAYERS, "mean_acc", "acc_s0", "acc_s1", "acc_s2", "params", "flops", *more])
        for a in archs:
            entry = macro_entry(a)
            results = entry["test_acc"]
            assert isinstance(results, list)
            out.writerow([a, *a, entry["mean_acc"], *results, 5, entry["flops"], *([canon[a]] if canon else [])])
    return path


TRANSNAS = """arch,m1,m2,m3,m4,m5,m6,macs_m,class_scene,jigsaw
a,1,2,3,4,1,0,10.5,50.0,90.0
b,1,1,1,1,1,4,20.25,51.0,
c,4,1,1,3,0,0,30.0,nan,91.5
d,2,2,1,1,1,1,5.0,49.0,89.0
"""


def dense_task(*, noise: float = 0.3, levels: int = 3, entries: int = 5) -> Task:
    """A dense space whose cheaper half is feasible."""
    rng = np.random.default_rng(7)
    codes = np.array(list(itertools.product(range(levels), repeat=entries)))
    macs = 100 + codes @ np.arange(10, 10 + entries)
    trained = codes.sum(axis=1)[:, None] + rng.normal(0, noise, (len(codes), 3))
    limit = int(np.quantile(macs, 0.5))
    within = np.flatnonzero(macs <= limit)
    rows = np.full(len(codes), -1)
    rows[within] = np.arange(len(within))
    names = tuple(f"x{j}" for j in range(entries))
    box = Box(codes, rows, macs, trained, limit)
    return Task("dense", "made up", names, codes[within], macs[within], trained[within], box)

"""Tasks made from a seed: what a table of trained networks might look like, and what it should not be taken for.

Each is a dense space of three widths and three depths of five levels, under the median of its MACs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from searching.task import Box, FloatArray, Task

GROUP = "synthetic"
NAMES = ("width1", "width2", "width3", "depth1", "depth2", "depth3")
LEVELS = 5
TRAININGS = 3


@dataclass(frozen=True)
class Family:
    """A kind of response: ``value`` makes one from levels in [0, 1] [N, d], ``noise`` is a training's deviation."""

    value: Callable[[FloatArray, np.random.Generator], FloatArray]
    noise: float


def _additive(x: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Each entry helps, the more the smaller it is."""
    return np.asarray(np.sqrt(x) @ rng.uniform(0.2, 1, x.shape[1]))


def _interacting(x: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Entries help or harm in pairs."""
    pairs = np.triu(rng.normal(0, 1, (x.shape[1], x.shape[1])), 1)
    centred = 2 * x - 1
    return np.asarray(_additive(x, rng) + np.einsum("ni,ij,nj->n", centred, pairs, centred) / 3)


def _falling(x: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Most entries harm, so that the best code is a cheap one."""
    slope = rng.uniform(0.2, 1, x.shape[1]) * np.where(np.arange(x.shape[1]) == rng.integers(x.shape[1]), 1, -1)
    return np.asarray(x @ slope + 0.3 * np.sin(3 * x) @ rng.normal(0, 1, x.shape[1]))


def _peak(x: FloatArray, rng: np.random.Generator) -> FloatArray:
    """The best code lies inside the budget, not at it."""
    return np.asarray(-((x - rng.uniform(0.2, 0.5, x.shape[1])) ** 2) @ rng.uniform(0.5, 2, x.shape[1]))


FAMILIES = {
    "additive": Family(_additive, 0.05),
    "interacting": Family(_interacting, 0.05),
    "falling": Family(_falling, 0.05),
    "peak": Family(_peak, 0.05),
    "noisy": Family(_interacting, 0.5),
}


def synthetic_tasks(seed: int = 0) -> list[Task]:
    """One task of each family; the same seed gives the same tasks."""
    codes = np.array(list(itertools.product(range(1, LEVELS + 1), repeat=len(NAMES))), dtype=np.int64)
    widths, depths = codes[:, :3], codes[:, 3:]
    # A stage costs its width squared a block; later stages are wider and work on fewer pixels.
    macs = (1_000_000 * (widths**2 * depths).sum(axis=1)).astype(np.int64)
    limit = int(np.quantile(macs, 0.5))
    within = np.flatnonzero(macs <= limit)
    rows = np.full(len(codes), -1, dtype=np.int64)
    rows[within] = np.arange(len(within))
    x = (codes - 1) / (LEVELS - 1)
    tasks = []
    for name, family in FAMILIES.items():
        rng = np.random.default_rng([seed, *name.encode()])
        value = family.value(x, rng)
        value = (value - value[within].mean()) / value[within].std()
        trained = value[:, None] + rng.normal(0, family.noise, (len(codes), TRAININGS))
        box = Box(codes, rows, macs, trained, limit)
        tasks.append(Task(f"synthetic/{name}", GROUP, NAMES, codes[within], macs[within], trained[within], box))
    return tasks

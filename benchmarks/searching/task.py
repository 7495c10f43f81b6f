"""``Task``: the codes that a sampler may choose from, and what training each of them gave."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bsszoo.search import CandidateSet

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

#: A code counts as a hit when no more than this share of a task's codes is better.
TOP_SHARE = 0.005


class TableError(ValueError):
    """A table cannot be read, or holds something other than it should."""


@dataclass(frozen=True, eq=False)
class Box:
    """Every code of a dense space, those over the budget included: what a sampler of constraints may be told."""

    codes: IntArray  # [N, d]
    rows: IntArray  # the task's row of the same network, -1 over the budget [N]
    macs: IntArray  # [N]
    trained: FloatArray  # [N, s]
    limit: int

    @cached_property
    def place(self) -> dict[tuple[int, ...], int]:
        """Where each code stands."""
        return {tuple(int(v) for v in code): i for i, code in enumerate(self.codes)}


@dataclass(frozen=True, eq=False)
class Task:
    """One search problem. Row i of every array is the same network; no network has two rows.

    Args:
        name: Unique among the tasks of a comparison.
        group: The table it comes from; the plot has one panel for each.
        names: The entries of a code.
        codes: The feasible codes [n, d].
        macs: Their multiply-adds [n].
        trained: The result of each training of each code [n, s], larger is better.
        box: All codes of the space, where the table holds every one of them.
        curve: The result after each epoch [n, epochs], where the table has them; the last is the result.
    """

    name: str
    group: str
    names: tuple[str, ...]
    codes: IntArray
    macs: IntArray
    trained: FloatArray
    box: Box | None = field(default=None, repr=False)
    curve: FloatArray | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        n = len(self.codes)
        if not (n == len(self.macs) == len(self.trained)) or not np.isfinite(self.trained).all():
            raise TableError(
                f"{self.name}: {n} codes, {len(self.macs)} MACs and {len(self.trained)} results, which "
                "must be as many, and finite."
            )
        if len(np.unique(self.codes, axis=0)) != n:
            raise TableError(f"{self.name}: a code stands in two rows.")

    def __len__(self) -> int:
        return len(self.codes)

    @cached_property
    def mean(self) -> FloatArray:
        """Mean result of each code over its trainings [n]."""
        return np.asarray(self.trained.mean(axis=1))

    @cached_property
    def best(self) -> float:
        """The mean of the best feasible code, against which regret is counted."""
        return float(self.mean.max())

    @cached_property
    def hits(self) -> NDArray[np.bool_]:
        """Which codes are in the top half a per cent."""
        return np.asarray(self.mean >= np.quantile(self.mean, 1 - TOP_SHARE))

    @cached_property
    def candidates(self) -> CandidateSet:
        """The feasible codes as bsszoo's samplers take them, in the same order."""
        return CandidateSet(self.codes, names=self.names, macs=self.macs)

    @cached_property
    def standardised(self) -> FloatArray:
        """Codes with mean 0 and standard deviation 1 in each entry [n, d]; constant entries are 0."""
        codes = self.codes.astype(np.float64)
        spread = codes.std(axis=0)
        return np.asarray((codes - codes.mean(axis=0)) / np.where(spread > 0, spread, 1))

    @cached_property
    def digest(self) -> str:
        """Names this exact problem, so that runs of a table that has since changed are not mixed in."""
        parts: tuple[Any, ...] = (self.codes, self.macs, np.round(self.trained, 6))
        return hashlib.sha256(b"|".join(np.ascontiguousarray(p).tobytes() for p in parts)).hexdigest()[:12]

    def nearest(self, code: IntArray, free: NDArray[np.bool_], rng: np.random.Generator) -> int:
        """The free row whose standardised code is nearest to this one [d]; ties are broken at random."""
        codes = self.codes.astype(np.float64)
        spread = codes.std(axis=0)
        z = (np.asarray(code) - codes.mean(axis=0)) / np.where(spread > 0, spread, 1)
        rows = np.flatnonzero(free)
        distance = ((self.standardised[rows] - z) ** 2).sum(axis=1)
        return int(rng.choice(rows[distance <= distance.min() + 1e-9]))

    def neighbours(self, row: int) -> NDArray[np.bool_]:
        """Which codes differ from that of ``row`` in exactly one entry [n]."""
        return np.asarray((self.codes != self.codes[row]).sum(axis=1) == 1)

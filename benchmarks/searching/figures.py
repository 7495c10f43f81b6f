"""Regrets relative to random search, with bootstrap intervals, from finished runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from searching.protocol import Run
from searching.task import FloatArray

#: What all regrets are divided by.
REFERENCE = "random"

#: Bootstrap replicates, and the share of them between the ends of an interval.
REPLICATES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A figure and its interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if not np.isfinite(self.value):
            return "-"
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


class Comparison:
    """The runs of one protocol, by sampler and task."""

    def __init__(self, runs: Iterable[Run]) -> None:
        self.runs: dict[str, dict[str, list[Run]]] = {}
        self.groups: dict[str, list[str]] = {}
        # Sorted, so that the same runs give the same replicates in whatever order they ended.
        for run in sorted(runs, key=lambda r: (r.task, r.seed)):
            self.runs.setdefault(run.sampler, {}).setdefault(run.task, []).append(run)
            tasks = self.groups.setdefault(run.group, [])
            if run.task not in tasks:
                tasks.append(run.task)

    def tasks(self, sampler: str, among: Sequence[str]) -> list[str]:
        """Those tasks that both the sampler and random search have runs of."""
        return [t for t in among if t in self.runs.get(sampler, {}) and t in self.runs.get(REFERENCE, {})]

    def ratios(self, sampler: str, among: Sequence[str], of: str) -> list[Estimate]:
        """Regret by number of evaluations: mean regret over random's on each task, then the mean over tasks.

        Seeds are resampled within each task. A task on which random search has no regret left counts no further.
        """
        points, clouds = [], []
        for task in self.tasks(sampler, among):
            ours, reference = self._regrets(sampler, task, of), self._regrets(REFERENCE, task, of)
            with np.errstate(divide="ignore", invalid="ignore"):
                point = ours.mean(axis=0) / reference.mean(axis=0)
                cloud = _replicates(ours, sampler, task) / _replicates(reference, REFERENCE, task)
            usable = reference.mean(axis=0) > 0
            points.append(np.where(usable, point, np.nan))
            clouds.append(np.where(usable & np.isfinite(cloud), cloud, np.nan))
        return _estimates(points, clouds)

    def hit_rate(self, sampler: str, among: Sequence[str]) -> tuple[Estimate, float]:
        """The share of runs that evaluated a code in the top half a per cent, mean over tasks; and the worst task's."""
        points, clouds = [], []
        for task in self.tasks(sampler, among):
            hits = np.array([[float(run.hit is not None)] for run in self.runs[sampler][task]])
            points.append(hits.mean(axis=0))
            clouds.append(_replicates(hits, sampler, task))
        estimates = _estimates(points, clouds)
        return (estimates[0], float(min(p[0] for p in points))) if points else (Estimate(*[float("nan")] * 3), 0.0)

    def regret(self, sampler: str, task: str, of: str) -> FloatArray:
        """Mean regret by number of evaluations, in the task's own unit."""
        return np.asarray(self._regrets(sampler, task, of).mean(axis=0))

    def seconds(self, sampler: str, among: Sequence[str]) -> float:
        """Seconds an ask: the median over runs of a run's mean, which counts a fit that many asks share."""
        means = [float(np.mean(r.ask_seconds)) for t in self.tasks(sampler, among) for r in self.runs[sampler][t]]
        return float(np.median(means))

    def count(self, sampler: str, among: Sequence[str]) -> int:
        """Number of runs."""
        return sum(len(self.runs[sampler][t]) for t in self.tasks(sampler, among))

    def _regrets(self, sampler: str, task: str, of: str) -> FloatArray:
        return np.array([getattr(run, of) for run in self.runs[sampler][task]], dtype=np.float64)


def checkpoints(evaluations: int, batch: int) -> list[int]:
    """The ends of the batches nearest after each quarter of the evaluations.

    >>> checkpoints(64, 16), checkpoints(30, 4), checkpoints(5, 5)
    ([16, 32, 48, 64], [8, 16, 24, 30], [5])
    """
    return sorted({min(evaluations, -(-evaluations * k // (4 * batch)) * batch) for k in range(1, 5)})


def _replicates(values: FloatArray, sampler: str, task: str) -> FloatArray:
    """Means of resampled rows [REPLICATES, k]; of one sampler on one task always the same ones."""
    n = len(values)
    rng = np.random.default_rng([*sampler.encode(), 0, *task.encode()])
    return np.asarray(rng.multinomial(n, np.full(n, 1 / n), size=REPLICATES) @ values / n)


def _estimates(points: Sequence[FloatArray], clouds: Sequence[FloatArray]) -> list[Estimate]:
    if not points:
        return []
    estimates = []
    for k in range(len(points[0])):
        known = [i for i, p in enumerate(points) if np.isfinite(p[k])]
        if not known:
            estimates.append(Estimate(*[float("nan")] * 3))
            continue
        cloud = np.mean([clouds[i][:, k] for i in known], axis=0)
        low, high = np.nanquantile(cloud, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        estimates.append(Estimate(float(np.mean([points[i][k] for i in known])), float(low), float(high)))
    return estimates

"""Samplers without a model: random search, regularized evolution and hill climbing, over the candidate set itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from searching.task import Task


class RandomSearch:
    """Uniform over the candidates, without replacement."""

    def __init__(self, task: Task, seed: int) -> None:
        self.task = task
        self.rng = np.random.default_rng([seed, *type(self).__name__.encode()])
        self.free: NDArray[np.bool_] = np.ones(len(task), dtype=bool)

    def ask(self) -> int:
        """See ``Sampler``."""
        return self._take(self.free)

    def tell(self, rows: Sequence[int], values: Sequence[float]) -> None:
        """See ``Sampler``."""

    def _take(self, among: NDArray[np.bool_]) -> int:
        row = int(self.rng.choice(np.flatnonzero(among)))
        self.free[row] = False
        return row


class Evolution(RandomSearch):
    """Regularized evolution (Real et al., 2019): the oldest die, parents win a tournament, one entry mutates.

    The published tournament is a quarter of the population, which here is half of 64 evaluations. A child that is no
    candidate or was evaluated is never made: the mutation is drawn from those that are left.
    """

    POPULATION = 32
    TOURNAMENT = 8

    def __init__(self, task: Task, seed: int) -> None:
        super().__init__(task, seed)
        self.population: list[tuple[int, float]] = []

    def ask(self) -> int:
        """See ``Sampler``."""
        # A parent whose neighbours are all taken leaves its place to the winner of another tournament.
        for _ in range(self.POPULATION if self.population else 0):
            size = min(self.TOURNAMENT, len(self.population))
            drawn = self.rng.choice(len(self.population), size, replace=False)
            parent = max((self.population[i] for i in drawn), key=lambda member: member[1])[0]
            children = self.task.neighbours(parent) & self.free
            if children.any():
                return self._take(children)
        return self._take(self.free)

    def tell(self, rows: Sequence[int], values: Sequence[float]) -> None:
        """See ``Sampler``."""
        self.population = [*self.population, *zip(rows, values, strict=True)][-self.POPULATION :]


class HillClimbing(RandomSearch):
    """Evaluates the neighbours of the best code so far; when all are taken, those of the next best, and so on.

    It begins anew at random when no evaluated code has a neighbour left. To leave a local optimum for a random batch
    at once, as is usual, was tried and is worse at 64 evaluations.
    """

    def __init__(self, task: Task, seed: int) -> None:
        super().__init__(task, seed)
        self.climbed: list[tuple[int, float]] = []

    def ask(self) -> int:
        """See ``Sampler``."""
        for row, _ in sorted(self.climbed, key=lambda member: -member[1]):
            around = self.task.neighbours(row) & self.free
            if around.any():
                return self._take(around)
        return self._take(self.free)

    def tell(self, rows: Sequence[int], values: Sequence[float]) -> None:
        """See ``Sampler``."""
        self.climbed += zip(rows, values, strict=True)

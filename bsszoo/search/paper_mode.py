"""The paper's search (appendix A.1), step by step; the mathematics stands beside it.

codes -> refining.refine -> clustering.representatives -> gp.condition (1) -> acquisition: EI (2), EEI (3) -> code
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bsszoo.search.acquisition import expected_expected_improvement
from bsszoo.search.clustering import farthest, representatives
from bsszoo.search.gp import Posterior, condition
from bsszoo.search.history import History
from bsszoo.search.kernels import ETA, SquaredExponential, sigma_rule
from bsszoo.search.refining import refine, standardise_codes
from bsszoo.spaces.candidate_set import CandidateSet

FloatArray = NDArray[np.float64]

#: Clusters of refined codes whose centres are judged at each step (step 4 of the search).
CLUSTERS = 256


@dataclass(frozen=True, eq=False)
class _Model:
    """What one set of finished results teaches: the refining map, the representatives and the process."""

    map: FloatArray  # [m, m]
    rows: NDArray[np.int64]  # candidates that stand for the clusters [q]
    posterior: Posterior[SquaredExponential]


class PaperMode:
    """Dispersed codes first; then the cluster centre with the largest EI, in expectation over pending results.

    Args:
        candidates: The codes to choose from.
        batch_size: Codes in the first iteration.
        seed: Seed of every random choice.
        clusters: Number of clusters of refined codes.
    """

    def __init__(self, candidates: CandidateSet, *, batch_size: int, seed: int, clusters: int = CLUSTERS) -> None:
        self.batch_size, self.seed, self.clusters = batch_size, seed, clusters
        codes = candidates.codes
        self._mean, self._std = codes.mean(axis=0), codes.std(axis=0)
        self._Z = standardise_codes(codes, self._mean, self._std)
        self._first: NDArray[np.int64] | None = None
        self._memo: tuple[object, _Model] | None = None

    def suggest(self, history: History, free: NDArray[np.bool_]) -> int:
        """The row of the next code, given what the study holds and which rows [n] may still be suggested."""
        held = len(history.numbers)
        if held < self.batch_size:
            centres = self._first_rows()
            if free[centres].any():
                return int(centres[free[centres]][0])
        if history.done.sum() < 2:
            # Nothing to model yet (the first iteration failed or still runs): the code farthest from all others.
            rows = np.flatnonzero(free)
            return int(rows[farthest(self._Z[rows], self._points(history.codes))])
        model = self._model(history)
        rows = model.rows[free[model.rows]]
        if not len(rows):
            rows = np.flatnonzero(free)
        rng = self._rng("eei", int(history.done.sum()), held)
        pending = self._points(history.codes[history.running])
        gain = expected_expected_improvement(model.posterior, pending @ model.map.T, self._Z[rows] @ model.map.T, rng)
        return int(rows[np.argsort(-gain, kind="stable")[0]])

    def _first_rows(self) -> NDArray[np.int64]:
        """Step 2: dispersed cluster centres of the standardised codes."""
        if self._first is None:
            self._first = representatives(self._Z, self.batch_size, self._rng("first"))
        return self._first

    def _model(self, history: History) -> _Model:
        """Steps 3 to 5, remembered for as long as no further result comes in."""
        done = history.done
        numbers, y = history.numbers[done], history.values[done]
        key = (numbers.tobytes(), y.tobytes())
        if self._memo is None or self._memo[0] != key:
            Z, Y = self._points(history.codes[done]), standardise(y)
            refining = refine(Z, Y)
            rows = representatives(self._Z @ refining.T, self.clusters, self._rng("clusters", len(numbers)))
            X = Z @ refining.T
            last = history.numbers[: self.batch_size][-1]
            head = int((numbers <= last).sum())
            self._memo = key, _Model(refining, rows, condition(SquaredExponential(sigma_rule(X, Y, head)), X, Y))
        return self._memo[1]

    def _points(self, codes: NDArray[np.int64]) -> FloatArray:
        """Standardised codes [n, m]; codes outside the candidate set teach as well as those inside."""
        return standardise_codes(codes, self._mean, self._std)

    def _rng(self, purpose: str, *counts: int) -> np.random.Generator:
        """A generator that depends on the seed, the purpose and the state of the study, never on who asks."""
        return np.random.default_rng([self.seed, *purpose.encode(), *counts])


def standardise(y: FloatArray, *, eta: float = ETA) -> FloatArray:
    """y [n] shifted and scaled to mean 0 and variance 1 + eta^2; zeros when all are equal."""
    spread = y.std()
    if not spread > 1e-12 * max(1.0, float(np.abs(y).max(initial=0.0))):
        return np.zeros_like(y)
    return np.asarray((y - y.mean()) / spread * np.sqrt(1 + eta**2))

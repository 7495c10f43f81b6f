"""The paper's search (appendix A.1), step by step.

    codes -> refine -> clustering.representatives -> gp.condition (1) -> acquisition: EI (2), EEI (3) -> code

Refining (step 3) learns a map after which distance reflects difference in accuracy. The paper's main text was not
available, so the loss differs: distance relates linearly to accuracy difference when every pair has the same ratio of
the two, that is when the variance of r_p over the pairs is zero. A ridge pulls A to the identity, because a study
begins with fewer codes than A has numbers.

Notation:
    n      evaluated codes            m      entries of a code
    Z      standardised codes [n, m]  y      their accuracies, standardised [n]
    A      the map [m, m]             x = A z, the refined code (x in the paper's equations)
    p      a pair i < j               r_p = log |A (z_i - z_j)| - log |y_i - y_j|
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from bsszoo.search.acquisition import expected_expected_improvement
from bsszoo.search.clustering import farthest, representatives
from bsszoo.search.gp import Posterior, condition
from bsszoo.search.history import History
from bsszoo.search.kernels import ETA, SquaredExponential, sigma_rule
from bsszoo.spaces.candidate_set import CandidateSet

FloatArray = NDArray[np.float64]

#: Clusters of refined codes whose centres are scored at each step (step 4 of the search).
CLUSTERS = 256
#: The weight of |A - I|^2 / m beside the variance of the log ratios.
RIDGE = 0.3
# Differences of accuracy below the noise carry no information on distance: they count as this large
# (the sampler's eta, in standard deviations of y).
NOISE = 0.1


@dataclass(frozen=True, eq=False)
class _Model:
    """The refining map, the representatives and the process fitted to the finished results."""

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
        self._cached: tuple[object, _Model] | None = None

    def suggest(self, history: History, free: NDArray[np.bool_]) -> int:
        """The row of the next code, from the study's history and the rows that may still be suggested, ``free`` [n]."""
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
        """Steps 3 to 5, cached until a further result comes in."""
        done = history.done
        numbers, y = history.numbers[done], history.values[done]
        key = (numbers.tobytes(), y.tobytes())
        if self._cached is None or self._cached[0] != key:
            Z, Y = self._points(history.codes[done]), standardise(y)
            refining = refine(Z, Y)
            rows = representatives(self._Z @ refining.T, self.clusters, self._rng("clusters", len(numbers)))
            X = Z @ refining.T
            last = history.numbers[: self.batch_size][-1]
            head = int((numbers <= last).sum())
            self._cached = key, _Model(refining, rows, condition(SquaredExponential(sigma_rule(X, Y, head)), X, Y))
        return self._cached[1]

    def _points(self, codes: NDArray[np.int64]) -> FloatArray:
        """Standardised codes [n, m]; codes outside the candidate set inform the model too."""
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


def standardise_codes(codes: NDArray[np.int64], mean: FloatArray, std: FloatArray) -> FloatArray:
    """Codes [n, m], each entry shifted and scaled by the candidates' mean and deviation; constant entries give 0."""
    return np.where(std > 0, (codes - mean) / np.where(std > 0, std, 1.0), 0.0)


def refine(Z: FloatArray, y: FloatArray, *, ridge: float = RIDGE, noise: float = NOISE) -> FloatArray:
    """The map A [m, m] that minimises Var_p(r_p) + ridge |A - I|^2 / m.

    Args:
        Z: Standardised codes of the evaluated networks, shape [n, m].
        y: Their accuracies, standardised, shape [n].
        ridge: Pull towards the identity; with a large one refining leaves codes as they are.
        noise: Floor of an accuracy difference, added in squares.

    Returns the identity where there is nothing to learn from: fewer than three codes, or all accuracies equal.
    """
    n, m = Z.shape
    identity = np.eye(m)
    i, j = np.triu_indices(n, k=1)
    D = Z[i] - Z[j]  # [P, m]
    apart = (D**2).sum(axis=1) > 0
    D, gap = D[apart], (y[i] - y[j])[apart]
    if n < 3 or len(D) < 2 or not np.ptp(y):
        return identity
    log_gap = 0.5 * np.log(gap**2 + 2 * noise**2)  # two noisy accuracies stand in each difference

    def loss(flat: FloatArray) -> tuple[float, FloatArray]:
        A = flat.reshape(m, m)
        R = D @ A.T  # [P, m]
        squared = (R**2).sum(axis=1) + 1e-12
        r = 0.5 * np.log(squared) - log_gap
        centred = r - r.mean()
        value = (centred**2).mean() + ridge * ((A - identity) ** 2).sum() / m
        # d r_p / dA = A D_p D_p^T / |A D_p|^2, and the mean's derivative cancels since centred sums to 0.
        weights = 2 * centred / len(r) / squared
        gradient = R.T @ (weights[:, None] * D) + 2 * ridge * (A - identity) / m
        return float(value), gradient.ravel()

    optimum = minimize(loss, identity.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 200})
    return np.asarray(optimum.x, dtype=np.float64).reshape(m, m)

"""The inputs of the default mode's model: its entries and the logarithms of its costs, standardised.

Results tend to follow cost along a curve, and a budget leaves candidates of many costs; a model that sees only the
entries has to learn that curve through each of them. A set without costs has entries only.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from bsszoo.spaces.candidate_set import CandidateSet

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Costs that become features, where the set has them.
COSTS: Final = ("macs", "params")
#: Standard deviation of a cost among the candidates, where an entry's is 1: each cost sums many entries up, and a
#: larger unit lets the model bend along it more readily than along one entry.
COST_WEIGHT: Final = 1.5
# A feature with more values than this is rounded to this many steps in the shortlist (never in the model).
_STEPS: Final = 256
# Codes outside the set are not taken for farther away than this, in standard deviations: the model could not be solved.
_FAR: Final = 20.0
# Candidates from which the costs of codes outside the set are estimated.
_SAMPLE: Final = 20_000


class Features:
    """Standardised features of the candidates of a set, d entries and c costs.

    Columns are stored as small integers, ``indices`` [d + c, n] into the tables ``values``, so that a million
    candidates fit; exact features are computed for the rows that are asked for.

    Args:
        candidates: The set.
    """

    def __init__(self, candidates: CandidateSet) -> None:
        self.candidates = candidates
        codes = candidates.codes
        self._costs = [np.asarray(v, dtype=np.float64) for c in COSTS if (v := getattr(candidates, c)) is not None]
        self._costs = [c for c in self._costs if c.min() > 0]
        self.d, self.size = codes.shape[1], codes.shape[1] + len(self._costs)
        self._mean, self._std = np.empty(self.size), np.empty(self.size)
        self.values: list[FloatArray] = []  # standardised, rising, for each column
        self.indices = np.empty((self.size, len(codes)), dtype=np.uint16)
        for j in range(self.size):
            column = codes[:, j].astype(np.float64) if j < self.d else np.log(self._costs[j - self.d])
            self._mean[j], std = column.mean(), column.std()
            self._std[j] = (std if std > 1e-12 else 1.0) / (1.0 if j < self.d else COST_WEIGHT)
            values = np.unique(column)
            if len(values) > _STEPS:
                values = np.linspace(column.min(), column.max(), _STEPS)
                self.indices[j] = np.rint((column - values[0]) / (values[1] - values[0]))
            else:
                self.indices[j] = np.searchsorted(values, column)
            self.values.append((values - self._mean[j]) / self._std[j])
        self._estimate: FloatArray | None = None

    def of_rows(self, rows: IntArray) -> FloatArray:
        """Features of candidates by row [q], shape [q, d + c]."""
        costs = [np.log(c[rows]) for c in self._costs]
        return self._standardised(self.candidates.codes[rows], costs)

    def of_codes(self, codes: IntArray, rows: IntArray) -> FloatArray:
        """Features of any codes [n, d]; ``rows`` [n] says which candidates they are, -1 for codes outside the set.

        The costs of codes outside are estimated by a regression of the candidates' log costs on
        their entries and the entries' logarithms.
        """
        costs = [np.where(rows >= 0, np.log(c[rows]), 0.0) for c in self._costs]
        if self._costs and (rows < 0).any():
            estimated = self._terms(codes[rows < 0]) @ self._coefficients()
            for j, cost in enumerate(costs):
                cost[rows < 0] = estimated[:, j]
        return self._standardised(codes, costs)

    def _standardised(self, codes: IntArray, costs: list[FloatArray]) -> FloatArray:
        columns = np.concatenate([codes.astype(np.float64), *(c[:, None] for c in costs)], axis=1)
        return np.asarray(np.clip((columns - self._mean) / self._std, -_FAR, _FAR))

    def _coefficients(self) -> FloatArray:
        if self._estimate is None:
            step = -(-len(self.candidates) // _SAMPLE)
            terms = self._terms(self.candidates.codes[::step])
            logs = np.stack([np.log(c[::step]) for c in self._costs], axis=1)
            # A little ridge: entries that never vary, or always together, have no coefficient.
            gram = terms.T @ terms + 1e-6 * len(terms) * np.eye(terms.shape[1])
            self._estimate = np.linalg.solve(gram, terms.T @ logs)
        return self._estimate

    def _terms(self, codes: IntArray) -> FloatArray:
        z = (codes - self._mean[: self.d]) / self._std[: self.d]
        low = np.array([low for low, _ in self.candidates.bounds])
        return np.concatenate([np.ones((len(codes), 1)), z, np.log1p(np.maximum(codes - low, 0))], axis=1)

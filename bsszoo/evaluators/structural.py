"""``structural``: a closed form of the layer list, for searches without data. A heuristic, not an accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from bsszoo.codes.code import Code
from bsszoo.codes.cost import Cost, depth
from bsszoo.codes.detector import DetectorHead, network_cost
from bsszoo.errors import BudgetError
from bsszoo.evaluators.base import Evaluator, EvaluatorInfo, Score, Trial
from bsszoo.evaluators.registry import Request
from bsszoo.spaces.candidate_set import CandidateSet
from bsszoo.spaces.cost_array import depth_array
from bsszoo.spaces.limits import Caps
from bsszoo.spaces.space import Space

FloatArray = NDArray[np.float64]

CAUTION: Final = (
    "This score is a heuristic of the architecture, not an accuracy: nothing was trained. Over six public tables of "
    "trained networks its Kendall tau among networks of equal MACs averaged about 0.25 and was negative on one; five "
    "to ten really trained candidates beat it. Take the codes as candidates to train, not as an answer."
)
# How near to the candidates' MACs a control has to be.
_NEAR: Final = 0.9
MEASURES: Final = "z(log depth) + z(log params) + z(log activations)"


@dataclass(frozen=True)
class StructuralEvaluator(Evaluator):
    """Judges a code by z(log depth) + z(log params) + z(log activations), unweighted.

    Each term is standardised over random codes at the budget, so a score of 0 is an average candidate and each term
    counts alike. Depth is the number of convolutions on the main path. On public tables of trained networks published
    zero-cost proxies were unreliable among networks of equal MACs, and those that worked agreed with closed forms
    like this one (rank correlation above 0.97); see docs/how-compression-works.

    ``StructuralEvaluator().over(space, candidates)`` standardises the terms over candidates.

    Args:
        mean: Means of log depth, log params and log activations over the candidates.
        std: Their standard deviations; a term that does not vary counts nothing.
        head: Of the detector whose backbones are judged; params and activations are then the detector's.
    """

    # Its maximum runs to extremes.
    caps = Caps(depth=1.5, stage_depth=2.0, params=(0.85, 1.25))
    free: ClassVar[bool] = True

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    head: DetectorHead | None = None

    @classmethod
    def requested(cls, request: Request) -> StructuralEvaluator:  # noqa: ARG003  the contract
        """The evaluator; nothing that is asked for changes it before the candidates are drawn."""
        return cls()

    def over(self, space: Space, candidates: CandidateSet) -> StructuralEvaluator:
        """The evaluator standardised over a set of random codes of a space; ``BudgetError`` without their costs."""
        if candidates.params is None or candidates.activations is None:
            raise BudgetError("The structural score needs candidates with params and activations.")
        terms = _terms(depth_array(space, candidates.codes), candidates.params, candidates.activations)
        mean, std = terms.mean(axis=0), terms.std(axis=0)
        return StructuralEvaluator(tuple(map(float, mean)), tuple(map(float, std)), space.head)  # type: ignore[arg-type]

    @property
    def info(self) -> EvaluatorInfo:
        """Its name, formula and caution."""
        return EvaluatorInfo("structural", MEASURES, CAUTION, heuristic=True)

    def evaluate(self, code: Code, trial: Trial) -> Score:
        """The score of one code."""
        cost = network_cost(code, self.head)
        terms = _terms(*(np.array([v]) for v in (depth(code), cost.params, cost.activations)))
        return Score(float(self._total(terms)[0]), MEASURES)

    def compares(self, cost: Cost, candidates: CandidateSet, most_macs: int) -> bool:
        """Only beside candidates of about its cost: of a network so much cheaper, or dearer, the score says nothing."""
        assert candidates.macs is not None  # drawn from a space, with costs
        least, most = int(candidates.macs.min()) * _NEAR, int(candidates.macs.max()) / _NEAR
        return least <= cost.macs <= min(most_macs, most)

    def scores(self, space: Space, candidates: CandidateSet) -> FloatArray:
        """The scores of all candidates at once [n], equal to one call for each."""
        if candidates.params is None or candidates.activations is None:
            raise BudgetError("The structural score needs candidates with params and activations.")
        depths = depth_array(space, candidates.codes)
        return self._total(_terms(depths, candidates.params, candidates.activations))

    def _total(self, terms: FloatArray) -> FloatArray:
        std = np.array(self.std)
        varies = std > 1e-12
        z = (terms - np.array(self.mean)) / np.where(varies, std, 1.0)
        return np.asarray(np.where(varies, z, 0.0).sum(axis=1))


def _terms(depths: NDArray[np.int64], params: NDArray[np.int64], activations: NDArray[np.int64]) -> FloatArray:
    """Log depth, log params and log activations, shape [n, 3]."""
    return np.log(np.stack([depths, params, activations], axis=1).astype(np.float64))

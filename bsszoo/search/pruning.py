"""Which codes are worth their next rung: asynchronous successive halving, as an Optuna pruner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from optuna.pruners import BasePruner
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from bsszoo.options import REDUCTION

if TYPE_CHECKING:
    from optuna.study import Study

# Trials that have a value at both of two rungs, from which these are compared.
_LEAST_PAIRS: Final = 5


class HalvingPruner(BasePruner):
    """Stops a trial whose last report is not among the best 1 in ``reduction`` at its rung.

    Asynchronous successive halving (Li et al. 2020, "A system for massively parallel hyperparameter tuning"): the
    trial is compared with all trials that have reported at the rung by then, running and pruned ones too, and the best
    of them continues however few they are. Optuna's ``SuccessiveHalvingPruner`` does the same for rungs at powers of
    its reduction factor; here rungs are the evaluator's, numbered from 0.

    With ``pilots`` a rung has to earn that: its first trials continue whatever they reported, and as long as the
    reports do not rise with those of the next rung (or the results, after the last one), nothing is stopped by them.
    So trials become longer only while rankings disagree (as in PASHA, Bohdal et al. 2023).

    Args:
        reduction: One trial in ``reduction`` continues to the next rung; 1 stops none.
        pilots: The first trials at each rung that continue; 0 trusts every rung from the first report on.

    Raises:
        ValueError: ``reduction`` is below 1, or ``pilots`` below 0.
    """

    def __init__(self, reduction: int = REDUCTION, *, pilots: int = 0) -> None:
        if reduction < 1:
            raise ValueError(f"reduction is at least 1; got {reduction}.")
        if pilots < 0:
            raise ValueError(f"pilots is at least 0; got {pilots}.")
        self.reduction, self.pilots = reduction, pilots

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether the trial, which has just reported, should stop."""
        rung = trial.last_step
        if rung is None or self.reduction == 1:
            return False
        sign = 1.0 if study.direction == StudyDirection.MAXIMIZE else -1.0
        value = sign * trial.intermediate_values[rung]
        # A failed trial's code may be evaluated again, and would count twice.
        others = [
            t
            for t in study.get_trials(deepcopy=False)
            if t.number != trial.number and t.state != TrialState.FAIL and rung in t.intermediate_values
        ]
        if len(others) < self.pilots or (self.pilots and not agree(others, rung)):
            return False
        better = sum(sign * t.intermediate_values[rung] > value for t in others)
        return better >= max(1, (len(others) + 1) // self.reduction)


def agree(trials: Sequence[FrozenTrial], rung: int) -> bool:
    """Whether what trials report at a rung rises with what they give at the next one.

    That is a positive correlation over the trials that have both; True where they are fewer than five. Pearson's, so
    that a code far from the others says more than the order of codes that are alike.
    """
    pairs = []
    for trial in trials:
        further = trial.intermediate_values.get(rung + 1)
        if further is None and trial.state == TrialState.COMPLETE:
            further = trial.value
        if further is not None and np.isfinite(further):
            pairs.append((trial.intermediate_values[rung], further))
    if len(pairs) < _LEAST_PAIRS:
        return True
    here, there = np.array(pairs, dtype=np.float64).T
    return bool(((here - here.mean()) * (there - there.mean())).sum() > 0)

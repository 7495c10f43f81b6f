"""Which codes are worth their next rung: asynchronous successive halving, as an Optuna pruner."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optuna.pruners import BasePruner
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from bsszoo.options import REDUCTION

if TYPE_CHECKING:
    from optuna.study import Study


class HalvingPruner(BasePruner):
    """Stops a trial whose last report is not among the best 1 in ``reduction`` at its rung.

    Asynchronous successive halving (Li et al. 2020, "A system for massively parallel hyperparameter tuning"): the
    trial is compared with all trials that have reported at the rung by then, running and pruned ones too, and the best
    of them continues however few they are. Optuna's ``SuccessiveHalvingPruner`` does the same for rungs at powers of
    its reduction factor; here rungs are the evaluator's, numbered from 0.

    Args:
        reduction: One trial in ``reduction`` continues to the next rung; 1 stops none.

    Raises:
        ValueError: It is below 1.
    """

    def __init__(self, reduction: int = REDUCTION) -> None:
        if reduction < 1:
            raise ValueError(f"reduction is at least 1; got {reduction}.")
        self.reduction = reduction

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether the trial, which has just reported, should stop."""
        rung = trial.last_step
        if rung is None or self.reduction == 1:
            return False
        sign = 1.0 if study.direction == StudyDirection.MAXIMIZE else -1.0
        value = sign * trial.intermediate_values[rung]
        # A failed trial's code may be evaluated again, and would count twice.
        others = [
            sign * t.intermediate_values[rung]
            for t in study.get_trials(deepcopy=False)
            if t.number != trial.number and t.state != TrialState.FAIL and rung in t.intermediate_values
        ]
        better = sum(other > value for other in others)
        return better >= max(1, (len(others) + 1) // self.reduction)

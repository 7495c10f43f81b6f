"""The loop of a search: ask a batch, evaluate, tell, and go on where a killed run stopped."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from optuna.trial import FrozenTrial, Trial, TrialState

from bsszoo.codes.code import Code
from bsszoo.codes.cost import code_cost
from bsszoo.search.evaluator import Evaluator
from bsszoo.search.result import TrialRow

if TYPE_CHECKING:
    from optuna.study import Study

    from bsszoo.codes.space import Space
    from bsszoo.search.candidates import CandidateSet

# Where a failed trial keeps its reason, and every trial its seconds.
_ERROR, _SECONDS = "error", "seconds"


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """What a search needs beside its study: where codes come from, who judges them, how many and how many at once."""

    space: Space
    candidates: CandidateSet
    evaluator: Evaluator
    trials: int
    batch_size: int


def run_search(study: Study, plan: SearchPlan, on_trial: Callable[[TrialRow], None]) -> None:
    """Evaluate codes until the study holds ``plan.trials`` of them, or every candidate.

    Codes are suggested a batch at a time and evaluated in the order of their numbers. A trial that an earlier process
    left running is evaluated again under its number, so that the study goes on as if it had never stopped; only one
    process at a time may run this on a study. An evaluator that raises, or gives no finite number, makes a failed
    trial whose reason is kept; the search goes on.

    The last batch is asked for whole even where fewer trials are wanted, and its rest stays running, so that a later
    call with more trials goes on exactly.

    Args:
        study: Any Optuna study whose sampler suggests whole codes.
        plan: The search.
        on_trial: Called with each trial as it finishes.
    """
    distributions = plan.candidates.distributions
    wanted = min(plan.trials, len(plan.candidates))
    while True:
        pending = _abandon_halves(study, plan)
        asked = len(_whole_trials(study, plan))
        # A batch cut short by a kill is filled before its codes are evaluated, as it was when it was asked for.
        target = min(-(-asked // plan.batch_size) * plan.batch_size, len(plan.candidates))
        if asked == target and not pending and asked < wanted:
            target = min(asked + plan.batch_size, len(plan.candidates))
        for _ in range(target - asked):
            study.ask(fixed_distributions=distributions)
        pending = _abandon_halves(study, plan)
        places = {t.number: place for place, t in enumerate(_whole_trials(study, plan))}
        left = [trial for trial in pending if places[trial.number] < wanted]
        if not left:
            return
        for trial in left:
            on_trial(_row(plan, places[trial.number], _evaluate(study, plan, trial)))


def trial_rows(study: Study, plan: SearchPlan) -> list[TrialRow]:
    """The finished trials of a study in the order of their numbers."""
    whole = enumerate(_whole_trials(study, plan))
    return [_row(plan, place, trial) for place, trial in whole if trial.state.is_finished()]


def _row(plan: SearchPlan, place: int, trial: FrozenTrial) -> TrialRow:
    """A finished trial; its ``place`` among all whole ones tells its batch."""
    code = _code_of(plan, trial)
    complete = trial.state == TrialState.COMPLETE
    return TrialRow(
        number=trial.number,
        code=code,
        cost=code_cost(code),
        score=trial.value if complete else None,
        state="complete" if complete else "failed",
        seconds=float(trial.user_attrs.get(_SECONDS, 0.0)),
        batch=place // plan.batch_size,
        error=None if complete else trial.user_attrs.get(_ERROR, "no reason was recorded"),
    )


def _evaluate(study: Study, plan: SearchPlan, frozen: FrozenTrial) -> FrozenTrial:
    trial = Trial(study, frozen._trial_id)
    start = time.perf_counter()
    try:
        value: float | None = plan.evaluator(_code_of(plan, frozen)).value
    except (Exception, SystemExit) as error:
        # Any fault of a user's function ends its trial only, sys.exit() in it too; Ctrl-C ends the run.
        value = None
        trial.set_user_attr(_ERROR, reason(error))
    trial.set_user_attr(_SECONDS, round(time.perf_counter() - start, 6))
    return study.tell(trial, state=TrialState.FAIL) if value is None else study.tell(trial, value)


def reason(error: BaseException) -> str:
    """Why an evaluation failed, as text that every file takes and that is no longer than a person reads."""
    text = f"{type(error).__name__}: {error}".encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= 2000 else text[:2000] + " .."


def _whole_trials(study: Study, plan: SearchPlan) -> list[FrozenTrial]:
    """The trials that hold a whole code, by number: a process killed in the middle of an ask leaves a half one."""
    return [t for t in study.get_trials(deepcopy=False) if plan.candidates.is_whole(t.params)]


def _abandon_halves(study: Study, plan: SearchPlan) -> list[FrozenTrial]:
    """Fail the trials that hold half a code, and return the running ones that hold a whole one."""
    whole = {t.number for t in _whole_trials(study, plan)}
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    for trial in running:
        if trial.number not in whole:
            study.tell(trial.number, state=TrialState.FAIL)
    return [t for t in running if t.number in whole]


def _code_of(plan: SearchPlan, trial: FrozenTrial) -> Code:
    return plan.space.code([trial.params[n] for n in plan.candidates.names])

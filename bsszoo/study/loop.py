"""The loop of a search: ask for a code, evaluate it, tell; alone on a study or with any number of other workers."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from optuna.exceptions import TrialPruned, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from bsszoo.codes.code import Code
from bsszoo.errors import RunError
from bsszoo.evaluators.base import Evaluator, Trial, checked_report
from bsszoo.options import REDUCTION
from bsszoo.optuna_parts import finish, read_again, suggest, write_attribute, write_params, write_report
from bsszoo.search.history import (
    ENDED,
    MOST_DEATHS,
    RESULT,
    RETURNED,
    STARTED,
    SURPLUS,
    code_of,
    deaths,
    dropped,
    holders,
    is_number,
    replicate_of,
    result_of,
)
from bsszoo.study.leases import Heartbeat, Lease, give_up, settle
from bsszoo.study.result import TrialRow
from bsszoo.texts import one_line

if TYPE_CHECKING:
    from optuna.study import Study

    from bsszoo.spaces.candidate_set import CandidateSet
    from bsszoo.spaces.space import Space

#: Seconds between two looks at a study in which others still evaluate.
POLL: Final = 0.2
# Lines of a failed evaluation's traceback that are stored: the fault is at the end.
_TRACE_LINES = 12

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """What a search needs beside its study: the candidates, the evaluator, and the number of trials.

    ``batch_size`` is that of the dispersed first codes; later it only groups the rows of the result. Of the codes that
    report at a rung one in ``reduction`` continues to the next, after the first ``pilots`` of them. ``replicates`` and
    ``first`` are the sampler's.
    """

    space: Space
    candidates: CandidateSet
    evaluator: Evaluator
    trials: int
    batch_size: int
    reduction: int = REDUCTION
    replicates: float = 0.0
    first: tuple[tuple[int, ...], ...] = ()
    pilots: int = 0

    @property
    def wanted(self) -> int:
        """How many trials there are: as many as asked for, or one of every candidate."""
        return min(self.trials, len(self.candidates))


def run_search(
    study: Study,
    plan: SearchPlan,
    on_trial: Callable[[TrialRow], None],
    *,
    lease: Lease | None = None,
    waiting: Callable[[int], None] | None = None,
) -> None:
    """Evaluate codes one after the other until the study holds ``plan.trials`` of them, or every candidate.

    An evaluator that raises, or gives no finite number, makes a failed trial with its reason; one that stops after a
    rung makes a pruned trial with its reports and no score. The search continues after either. A code whose evaluation
    ends the process (out of memory, a crash) twice fails as well: the next process fails its trial.

    Args:
        study: Any Optuna study whose sampler suggests whole codes.
        plan: The search.
        on_trial: Called with each trial as it finishes, those of other workers included.
        lease: None when no other process works on the study: trials that an earlier process left running are
            evaluated again under the same numbers, so that the study resumes as if it had never stopped. Otherwise
            the study may be shared: running trials are other workers', until they have no heartbeat for the grace time.
        waiting: Called once when only trials of other workers are left, with their number; the call returns when
            these are finished, or were lost and evaluated here.
    """
    notifier = Notifier(study, plan, on_trial)
    with ExitStack() as stack:
        heartbeat = None if lease is None else stack.enter_context(Heartbeat(study, plan.candidates.names, lease))
        if heartbeat is None:
            left = abandoned(study, plan)
            notifier.notify()
            for trial in left:
                evaluate(study, plan, trial)
                notifier.notify()
        else:
            settle_all(study)
        waiting_reported = False
        while True:
            if work_once(study, plan, heartbeat):
                waiting_reported = False
                notifier.notify()
                continue
            others = left_running(study, plan)
            if heartbeat is None or not others:
                break
            if waiting is not None and not waiting_reported:
                waiting(len(others))
                waiting_reported = True
            time.sleep(POLL)
            notifier.notify()
    notifier.notify()


def work_once(study: Study, plan: SearchPlan, heartbeat: Heartbeat | None) -> bool:
    """Ask for one code and evaluate it; False when no more are wanted for now."""
    trial = next_trial(study, plan)
    if trial is None:
        return False
    evaluate(study, plan, trial, heartbeat)
    return True


def next_trial(study: Study, plan: SearchPlan) -> FrozenTrial | None:
    """Ask for one code: a running trial that holds it; None when no more are wanted for now."""
    while missing(study, plan) > 0:
        try:
            trial = study.ask()
        except UpdateFinishedTrialError:
            # This process was suspended for so long that its ask counted as dead.
            continue
        except RunError:
            if len(holders(study.get_trials(deepcopy=False), plan.candidates.names)) >= plan.wanted:
                return None  # others took the last codes in the meantime
            raise
        everything = study.get_trials(deepcopy=False)
        frozen = next(t for t in everything if t.number == trial.number)
        if code_of(frozen, plan.candidates.names) is None:
            # Another sampler, which writes no code before its parameters are suggested.
            for name, distribution in plan.candidates.distributions.items():
                suggest(trial, name, distribution)
            everything = study.get_trials(deepcopy=False)
            frozen = next(t for t in everything if t.number == trial.number)
        indices = {t.number: index for index, (t, _) in enumerate(holders(everything, plan.candidates.names))}
        if indices.get(trial.number, 0) >= plan.wanted:
            give_up(study, frozen, SURPLUS)
            return None
        if not _evaluated_elsewhere(everything, frozen, plan):
            return frozen
        give_up(study, frozen, SURPLUS)  # two processes enqueued one code, as two --retry-failed do
    return None


def missing(study: Study, plan: SearchPlan) -> int:
    """How many codes still have to be asked for; an enqueued trial holds its code already and is one of them."""
    held = holders(study.get_trials(deepcopy=False), plan.candidates.names)
    return plan.wanted - sum(t.state != TrialState.WAITING for t, _ in held)


def _evaluated_elsewhere(trials: Sequence[FrozenTrial], trial: FrozenTrial, plan: SearchPlan) -> bool:
    """Whether an earlier trial has the same code and is not a failed or given-up one."""
    names = plan.candidates.names
    code = code_of(trial, names)
    return any(
        t.number < trial.number
        and t.state in (TrialState.RUNNING, TrialState.WAITING, TrialState.COMPLETE)
        and dropped(t) is None
        and code_of(t, names) == code
        and replicate_of(t) == replicate_of(trial)
        for t in trials
    )


def abandoned(study: Study, plan: SearchPlan) -> list[FrozenTrial]:
    """The trials that a dead process left running with a code, for a caller that alone works on the study.

    Trials without one are failed, those with a result are told, and those beyond the number wanted stay. A code whose
    evaluation ended two processes is failed, since it would end this one too.
    """
    left, names = [], plan.candidates.names
    everything = study.get_trials(deepcopy=False)
    # Where several were left, it was the machine that stopped, and not one of the codes.
    alone = sum(t.state == TrialState.RUNNING and code_of(t, names) is not None for t in everything) == 1
    for trial in everything:
        if trial.state != TrialState.RUNNING:
            continue
        if code_of(trial, names) is None or dropped(trial) is not None:
            finish(study, trial, TrialState.FAIL)
        elif settle(study, trial):
            continue
        elif alone and deaths(trial, everything, names) >= MOST_DEATHS:
            fail_dead(study, plan, trial)
        else:
            left.append(trial)
    held = holders(study.get_trials(deepcopy=False), names)
    near = {t.number for t, _ in held[: plan.wanted]}
    return [t for t in left if t.number in near]


def died(trial: FrozenTrial, plan: SearchPlan) -> str:
    """A message: the code that ended two processes, and how the last one ended."""
    entries = code_of(trial, plan.candidates.names)
    assert entries is not None
    how = trial.user_attrs.get(ENDED)
    last = f"the last one {one_line(how, 80)}" if how else "killed, out of memory, or by a crash"
    return f"Two processes died while they evaluated {plan.space.code(list(entries))}, {last}"


def fail_dead(study: Study, plan: SearchPlan, trial: FrozenTrial) -> None:
    """Fail a running trial whose code ended as many processes as it may."""
    why = f"{died(trial, plan)}. It is not tried again, unless --retry-failed asks for it"
    fail(study, trial, why)


def fail(study: Study, trial: FrozenTrial, why: str) -> None:
    """Fail a running trial for a reason."""
    conclude(study, trial, {"value": None, "seconds": 0.0, "error": why, "trace": None})


def conclude(study: Study, trial: FrozenTrial, result: dict[str, object]) -> None:
    """Write the result of a running trial's evaluation, and tell it.

    The result is one write before the trial is told, so that a kill between the two loses nothing.
    """
    write_attribute(study, trial, RESULT, result)
    settle(study, read_again(study, trial))


def settle_all(study: Study) -> None:
    """Tell the running trials that have a result: their workers were killed before they could, or are about to."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        settle(study, trial)


def left_running(study: Study, plan: SearchPlan) -> list[FrozenTrial]:
    """The trials among the wanted ones that are still running, and those that are being asked for."""
    trials = study.get_trials(deepcopy=False)
    near = {t.number for t, _ in holders(trials, plan.candidates.names)[: plan.wanted]}
    return [
        t
        for t in trials
        if t.state == TrialState.RUNNING and (t.number in near or code_of(t, plan.candidates.names) is None)
    ]


def evaluate(study: Study, plan: SearchPlan, frozen: FrozenTrial, heartbeat: Heartbeat | None = None) -> None:
    """Evaluate a running trial's code and tell its result.

    When this process is stopped (Ctrl-C) while others share the study, the code is returned to them at once.
    """
    begun = started(frozen)
    try:
        if heartbeat is not None:
            heartbeat.hold(frozen)
        code = describe(study, plan, frozen)
        # If the attribute remains after the process ended, the evaluation ended the process.
        write_attribute(study, frozen, STARTED, begun + 1)
        conclude(study, frozen, evaluated(plan.evaluator, code, StudyTrial(study, frozen)))
    except UpdateFinishedTrialError:
        _log.warning(
            "Trial %d was given up as lost, since this process sent no heartbeat for too long; its result is dropped.",
            frozen.number,
        )
    except (Exception, KeyboardInterrupt, SystemExit):
        with suppress(Exception):  # a storage that is gone must not hide why
            write_attribute(study, frozen, STARTED, begun)
        if heartbeat is not None:
            heartbeat.release(frozen)
            with suppress(Exception):
                give_up(study, frozen, RETURNED)
        raise
    finally:
        if heartbeat is not None:
            heartbeat.release(frozen)


def started(trial: FrozenTrial) -> int:
    """How many evaluations of a trial began and did not end."""
    count = trial.user_attrs.get(STARTED)
    return count if isinstance(count, int) and count > 0 else 0


def survived(study: Study, trials: Sequence[FrozenTrial]) -> None:
    """Record that the processes of running trials were ended from outside: their codes are not the cause."""
    for trial in trials:
        if started(trial) and RESULT not in trial.user_attrs:
            with suppress(UpdateFinishedTrialError):
                write_attribute(study, trial, STARTED, started(trial) - 1)


def describe(study: Study, plan: SearchPlan, frozen: FrozenTrial) -> Code:
    """Write into a running trial what its code is; the code.

    Its entries are the trial's parameters; its text and costs are user attributes, for Optuna's dashboard and plots.
    What an earlier process wrote stays.
    """
    entries = code_of(frozen, plan.candidates.names)
    assert entries is not None
    params = {
        name: (distribution.to_internal_repr(value), distribution)
        for (name, distribution), value in zip(plan.candidates.distributions.items(), entries, strict=True)
        if name not in frozen.params
    }
    if params:
        write_params(study, frozen, params)
    code = plan.space.code(list(entries))
    cost = plan.space.cost(code)
    for name, value in (("code", str(code)), ("macs", cost.macs), ("params", cost.params)):
        if name not in frozen.user_attrs:
            write_attribute(study, frozen, name, value)
    return code


class StudyTrial:
    """A running trial of a study, as an evaluator sees it (``bsszoo.evaluators.Trial``).

    Its reports are the intermediate values of the Optuna trial, and the study's pruner says whether it should stop.
    """

    def __init__(self, study: Study, frozen: FrozenTrial) -> None:
        self._study, self._frozen = study, frozen
        self.number, self.replicate, self.stopped = frozen.number, replicate_of(frozen), False

    def report(self, value: float, rung: int) -> None:
        """Record the value at the end of a rung; one that an earlier process recorded is replaced."""
        value, rung = checked_report(value, rung)
        write_report(self._study, self._frozen, value, rung)

    def should_stop(self) -> bool:
        """Whether the study's pruner stops it after its last report."""
        self.stopped = self._study.pruner.prune(self._study, read_again(self._study, self._frozen))
        return self.stopped


class Stoppable(Trial, Protocol):
    """A trial that says whether its evaluator was told to stop."""

    @property
    def stopped(self) -> bool:
        """Whether ``should_stop`` was true."""
        ...


def evaluated(evaluator: Evaluator, code: Code, trial: Stoppable) -> dict[str, object]:
    """The result of an evaluation as it is stored in a study, of one that failed too."""
    start = time.perf_counter()
    value, error, trace = None, None, None
    repeats: tuple[float, ...] = ()
    pruned = False
    try:
        score = evaluator.evaluate(code, trial)
        pruned = trial.stopped
        if not pruned:
            value, repeats = score.value, score.repeats
    except TrialPruned:
        pruned = True
    except (Exception, SystemExit) as fault:
        # Any fault of a user's function ends its trial only, sys.exit() in it too; Ctrl-C ends the run.
        error = reason(fault)
        lines = "".join(traceback.format_exception(fault)).splitlines()
        trace = _plain("\n".join(lines[-_TRACE_LINES:]), 4000)
    result: dict[str, object] = {
        "value": value,
        "seconds": round(time.perf_counter() - start, 6),
        "error": error,
        "trace": trace,
    }
    return result | ({"pruned": True} if pruned else {}) | ({"repeats": list(repeats)} if repeats else {})


def reason(error: BaseException) -> str:
    """Why an evaluation failed, as text that any file encoding takes, cut to 2,000 characters."""
    return _plain(f"{type(error).__name__}: {error}", 2000)


def _plain(text: str, most: int) -> str:
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= most else text[:most] + " .."


class Notifier:
    """Calls ``on_trial`` with each trial of a study that finishes from now on, whoever evaluated it."""

    def __init__(self, study: Study, plan: SearchPlan, on_trial: Callable[[TrialRow], None]) -> None:
        self._study, self._plan, self._on_trial = study, plan, on_trial
        self._seen = {t.number for t in _finished(study, plan).values()}

    def notify(self) -> int:
        """Call ``on_trial`` with the trials finished since the last call; how many of them have a result."""
        done = _finished(self._study, self._plan)
        fresh = {index: trial for index, trial in done.items() if trial.number not in self._seen}
        for index, trial in fresh.items():
            self._seen.add(trial.number)
            self._on_trial(_row(self._plan, index, trial))
        return sum(RESULT in trial.user_attrs for trial in fresh.values())


def retry_failed(study: Study, plan: SearchPlan) -> int:
    """Have the failed codes of a study evaluated again before any other; how many they are."""
    names = plan.candidates.names
    held = holders(study.get_trials(deepcopy=False), names)
    failed = [code for trial, code in held[: plan.wanted] if trial.state == TrialState.FAIL]
    for code in failed:
        study.enqueue_trial(dict(zip(names, code, strict=True)))
    return len(failed)


def trial_rows(study: Study, plan: SearchPlan) -> list[TrialRow]:
    """The finished trials of a study in the order of their numbers; given-up ones are not among them."""
    return [_row(plan, index, trial) for index, trial in _finished(study, plan).items()]


def held_trials(study: Study, plan: SearchPlan) -> int:
    """How many trials hold a code, finished ones and those that a stopped process left."""
    return len(holders(study.get_trials(deepcopy=False), plan.candidates.names))


def _finished(study: Study, plan: SearchPlan) -> dict[int, FrozenTrial]:
    """The finished trials that hold a code, by their index among all that hold one."""
    held = enumerate(holders(study.get_trials(deepcopy=False), plan.candidates.names))
    return {index: trial for index, (trial, _) in held if trial.state.is_finished()}


def _row(plan: SearchPlan, index: int, trial: FrozenTrial) -> TrialRow:
    """A finished trial; its ``index`` among all that hold a code gives its batch."""
    entries = code_of(trial, plan.candidates.names)
    assert entries is not None
    code = plan.space.code(list(entries))
    complete, pruned = trial.state == TrialState.COMPLETE and is_number(trial.value), trial.state == TrialState.PRUNED
    result = result_of(trial) or {}
    lost = died(trial, plan) if dropped(trial) else "no reason was recorded"
    return TrialRow(
        number=trial.number,
        code=code,
        cost=plan.space.cost(code),
        score=trial.value if complete else None,
        state="complete" if complete else "pruned" if pruned else "failed",
        seconds=float(result.get("seconds", 0.0)),
        batch=index // plan.batch_size,
        error=None if complete or pruned else result.get("error") or lost,
        trace=result.get("trace"),
        repeats=result.get("repeats", ()),
        reports=tuple(sorted(trial.intermediate_values.items())),
    )

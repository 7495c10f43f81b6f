"""``run_on_ray``: one driver asks for codes, and each is evaluated as a task of a Ray cluster.

The driver alone writes the study, so that the order of results is all that differs from a search by one process: with
one task at a time it ends with the same codes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from optuna.trial import FrozenTrial

from bsszoo.codes.code import Code
from bsszoo.errors import EvaluationError
from bsszoo.evaluators.base import Evaluator, tell
from bsszoo.optuna_parts import read_again, write_attribute
from bsszoo.search.history import ENDED, MOST_DEATHS, STARTED
from bsszoo.study.loop import (
    Notifier,
    SearchPlan,
    StudyTrial,
    abandoned,
    conclude,
    describe,
    evaluated,
    fail,
    fail_dead,
    next_trial,
    reason,
    started,
)
from bsszoo.study.ray_cluster import RayCluster, Resources
from bsszoo.study.ray_tasks import Ended, RayTasks, RemoteTrial
from bsszoo.study.result import TrialRow

if TYPE_CHECKING:
    from optuna.study import Study

# Seconds until the driver looks for nodes that joined, and tells how far trainings are.
_LOOK: Final = 1.0

_log = logging.getLogger(__name__)


def run_on_ray(
    study: Study,
    plan: SearchPlan,
    on_trial: Callable[[TrialRow], None],
    cluster: RayCluster,
    *,
    most: int | None = None,
) -> None:
    """As ``run_search``, alone on the study, each code evaluated as a task of a Ray cluster.

    A code whose process dies is evaluated again, once, as it is with ``run_workers``; one whose node is lost runs again
    on another. Whoever listens (``evaluators.base.listening``) hears of the updates of all trainings
    under way, added up.

    Args:
        study: A study that no other process works on.
        plan: The search; its evaluator is sent to the nodes.
        on_trial: Called with each trial as it finishes.
        cluster: A cluster that this process is connected to.
        most: Codes under way at the same time, of which those that the cluster has no room for wait for a node; None
            for as many as its nodes hold, those that join meanwhile too.

    Raises:
        SettingsError: The evaluator cannot be sent.
        RunError: The cluster is lost, or a node cannot evaluate codes.
    """
    running: dict[int, tuple[FrozenTrial, Code]] = {}

    def died(number: int, deaths: int, where: str) -> None:
        trial, code = running[number]
        write_attribute(study, trial, STARTED, deaths)
        write_attribute(study, trial, ENDED, where)
        then = "it is evaluated again" if deaths < MOST_DEATHS else "it counts as a failed trial"
        _log.warning("A process died while it evaluated %s, %s: %s.", code, where, then)

    with RayTasks(cluster, partial(_judged, plan.evaluator), died=died) as tasks:

        def start(trial: FrozenTrial) -> None:
            code = describe(study, plan, trial)
            seen = StudyTrial(study, trial)
            running[trial.number] = trial, code
            tasks.submit(trial.number, code, seen.replicate, answers=partial(_answered, seen), deaths=started(trial))

        notifier = Notifier(study, plan, on_trial)
        left = abandoned(study, plan)
        over = False
        while True:
            while not over and len(tasks) < max(1, cluster.holds() if most is None else most):
                # One that waited here may be beyond the number of trials, where that was lowered.
                trial = left.pop(0) if left else next_trial(study, plan)
                over = trial is None
                if trial is not None:
                    start(trial)
            if not len(tasks):
                break
            for number, result in tasks.wait(_LOOK):
                trial, _ = running.pop(number)
                if not isinstance(result, Ended):
                    conclude(study, trial, result)
                elif started(now := read_again(study, trial)) >= MOST_DEATHS:
                    fail_dead(study, plan, now)
                else:
                    fail(study, trial, result.how)
                # A failed or given-up code may be asked for again.
                over = False
            notifier.notify()
            if (updates := tasks.updates)[1]:
                tell(*updates)
    notifier.notify()


def _judged(evaluator: Evaluator, code: Code, replicate: int, asks: Callable[..., Any]) -> dict[str, object]:
    """In a task: the result of a code's evaluation, as it is stored."""
    return evaluated(evaluator, code, RemoteTrial(replicate, asks))


def _answered(trial: StudyTrial, what: str, values: tuple[Any, ...]) -> bool:
    """In the driver: what an evaluator asks of its trial."""
    if what == "should_stop":
        return trial.should_stop()
    trial.report(*values)
    return False


def each_on_ray(
    cluster: RayCluster,
    call: Callable[..., Any],
    values: Sequence[tuple[Any, ...]],
    *,
    most: int | None = None,
    resources: Resources | None = None,
) -> Iterator[tuple[int, Callable[[], Any]]]:
    """Calls outside a study, such as trainings, as tasks: the index of each that finishes, with what gives its result.

    That raises an ``EvaluationError`` where the call failed, or ended two processes.

    Args:
        cluster: A cluster that this process is connected to.
        call: A function of a module, or a bound method.
        values: What it is called with.
        most: Tasks at the same time; None for all.
        resources: What each takes, in place of the cluster's.
    """
    with RayTasks(cluster, partial(_called, call), resources=resources) as tasks:
        waiting = list(enumerate(values))
        while waiting or len(tasks):
            while waiting and (most is None or len(tasks) < most):
                index, arguments = waiting.pop(0)
                tasks.submit(index, *arguments)
            finished = tasks.wait(_LOOK)
            if (updates := tasks.updates)[1] and not finished:
                tell(*updates)
            for index, result in finished:
                yield index, partial(_result, result)


def _called(call: Callable[..., Any], *values: Any) -> tuple[str, Any]:
    """In a task: what a call returned, or why it failed."""
    *arguments, _ = values
    try:
        return "value", call(*arguments)
    except (Exception, SystemExit) as error:
        return "failed", reason(error)


def _result(result: Any) -> Any:
    if isinstance(result, Ended):
        raise EvaluationError(f"{result.how}.")
    kind, value = result
    if kind == "failed":
        raise EvaluationError(value)
    return value

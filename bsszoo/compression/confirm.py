"""``confirm``: the best code found and the controls at its budget, trained afresh and measured on unseen pictures.

The score of the best of many candidates flatters it: it was the best partly by luck. So it is trained again, with seeds
that the search did not use, beside the original rescaled uniformly and random feasible codes, each in the same way; all
are measured once on a split that nothing was chosen by. Kept in the study, so that a run that was stopped goes on, and
machines that share a study share these trainings too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Protocol, runtime_checkable

import numpy as np

from bsszoo.codes.code import Code
from bsszoo.compression.plan import Plan
from bsszoo.compression.verdict import Interval, mean_interval, verdict
from bsszoo.search.history import is_number
from bsszoo.study.crew import share_of_threads
from bsszoo.study.loop import reason
from bsszoo.study.result import Confirmation, ConfirmedRow

if TYPE_CHECKING:
    from optuna.study import Study

#: Fresh trainings of the code found and of the uniformly rescaled network, and the number of random codes.
TRAININGS: Final = 3
_KEPT: Final = "bsszoo:test"


@runtime_checkable
class Tester(Protocol):
    """An evaluator that can also measure a code on what the search never saw (``TrainingEvaluator`` is one)."""

    @property
    def test_measures(self) -> str:
        """What ``tested`` measures, in words."""
        ...

    @property
    def test_unit(self) -> str:
        """What a difference of two results is counted in, such as ``points of test accuracy``."""
        ...

    def tested(self, code: Code, number: int) -> float:
        """The result of fresh training ``number`` of a code."""
        ...


@dataclass(frozen=True, slots=True)
class _Task:
    label: str
    role: Literal["uniform", "random", "found"]
    code: Code
    number: int

    @property
    def key(self) -> str:
        return f"{_KEPT}:{self.code}:{self.number}"


def confirm(
    judge: Tester,
    plan: Plan,
    best: Code,
    study: Study,
    *,
    trainings: int = TRAININGS,
    workers: int = 1,
    seed: int = 0,
    on_result: Callable[[str, int, int], None] = lambda *_: None,
) -> Confirmation:
    """The best code beside the controls, on unseen pictures.

    Args:
        judge: What trains and measures.
        plan: The search's plan: its candidates are what random codes are drawn from.
        best: The best code found.
        study: Keeps the results.
        trainings: Fresh trainings each of the best code and the uniformly rescaled network, and the number of random
            feasible codes, of one training each. From 3 on intervals can be given.
        workers: Trainings at the same time.
        seed: Decides which random codes are drawn.
        on_result: Called with what was done and how many of how many are done.
    """
    tasks = list(_tasks(plan, best, trainings, seed))
    known = {t.key: float(v) for t in tasks if is_number(v := study.user_attrs.get(t.key))}
    notes = []
    left = [t for t in tasks if t.key not in known]
    on_result("", len(known), len(tasks))
    with share_of_threads(workers), ThreadPoolExecutor(workers) as pool:
        running = {pool.submit(judge.tested, t.code, t.number): t for t in left}
        try:
            for future in as_completed(running):
                task = running[future]
                try:
                    value = future.result()
                except (Exception, SystemExit) as error:
                    notes.append(f"A training of the {task.label} code failed: {reason(error)}")
                    continue
                known[task.key] = value
                study.set_user_attr(task.key, value)
                on_result(f"{task.label}: {value:.2f}", len(known), len(tasks))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    rows = list(_rows(plan, tasks, known))
    return Confirmation(judge.test_measures, tuple(rows), tuple(_verdicts(rows, judge.test_unit)), tuple(notes))


def _tasks(plan: Plan, best: Code, trainings: int, seed: int) -> Iterator[_Task]:
    """Training by training over all networks, so that one that is stopped early has some of each."""
    rng = np.random.default_rng([seed, *b"control"])
    rows = rng.permutation(len(plan.candidates))[: trainings + 1]
    drawn = [c for row in rows if (c := plan.space.code(plan.candidates.codes[row].tolist())) != best][:trainings]
    for number in range(trainings):
        yield _Task("found 1", "found", best, number)
        yield _Task("uniform", "uniform", plan.uniform, number)
        if number < len(drawn):
            yield _Task(f"random {number + 1}", "random", drawn[number], 0)


def _rows(plan: Plan, tasks: Sequence[_Task], known: dict[str, float]) -> Iterator[ConfirmedRow]:
    order = {"uniform": 0, "random": 1, "found": 2}
    for label, role, code in sorted({(t.label, t.role, t.code) for t in tasks}, key=lambda r: (order[r[1]], r[0])):
        tests = tuple(known[t.key] for t in tasks if (t.label, t.code) == (label, code) and t.key in known)
        found = mean_interval(tests) if tests else Interval(0.0)
        yield ConfirmedRow(label, role, code, plan.space.cost(code), tests, found.low, found.high)


def _verdicts(rows: Sequence[ConfirmedRow], unit: str) -> Iterator[str]:
    found = [v for r in rows if r.role == "found" for v in r.tests]
    groups = (("the uniformly rescaled network", "uniform"), ("random feasible codes", "random"))
    for name, role in groups:
        control = [v for r in rows if r.role == role for v in r.tests]
        if found and control:
            yield verdict(found, control, name, unit)

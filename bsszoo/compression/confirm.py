"""``confirm``: the best code and the controls at its budget, trained again and measured on unseen images.

The score of the best of many candidates flatters it: it was the best partly by luck. So it is trained again, with seeds
that the search did not use, beside the original rescaled uniformly and random feasible codes, each in the same way; all
are measured once on a split that nothing was chosen by. Results are stored in the study, so that a stopped run resumes
and machines that share a study share these trainings too.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, runtime_checkable

import numpy as np

from bsszoo.codes.code import Code
from bsszoo.compression.plan import Plan
from bsszoo.compression.trainers import Trainers
from bsszoo.evaluators.base import tell
from bsszoo.search.history import is_number
from bsszoo.study.loop import reason
from bsszoo.study.result import Confirmation, ConfirmedRow
from bsszoo.study.workers import share_of_threads, threads_each

if TYPE_CHECKING:
    from optuna.study import Study


_PREFIX: Final = "bsszoo:test"
# How often the updates of trainings in other processes are told [s].
_LOOK_SECONDS: Final = 0.5
# Draws of the networks' means, from which each one's probability of being the best is counted.
_DRAWS: Final = 20_000
# Roles of the networks of which one is recommended.
_CHOSEN_FROM: Final = ("found", "uniform")


@runtime_checkable
class Tester(Protocol):
    """An evaluator that can also measure a code on what the search never saw."""

    @property
    def test_measures(self) -> str:
        """What ``tested`` measures, as a sentence."""
        ...

    @property
    def test_unit(self) -> str:
        """Unit of a difference of two results, such as ``points of test accuracy``."""
        ...

    def tested(self, code: Code, number: int) -> float | tuple[float, float]:
        """The result of fresh training ``number`` of a code on unseen images.

        With a second figure that is its result on the images that networks are chosen by.
        """
        ...


@runtime_checkable
class Deliverer(Protocol):
    """A tester whose trainings are what a user takes away: of several leaders, beside controls."""

    @property
    def controls(self) -> Literal["original", "random"]:
        """What stands beside the leaders and the uniformly rescaled network.

        Once the network as it is, or as many random feasible codes as there are trainings of a leader.
        """
        ...

    @property
    def leaders(self) -> int:
        """How many of the best codes are trained."""
        ...

    @property
    def screened(self) -> int:
        """How many of the best codes are trained once; the best ``leaders`` of these by that are trained further."""
        ...

    @property
    def undecided(self) -> int:
        """How many times ``trainings`` leaders are trained that nothing sets apart, where no number is set."""
        ...

    @property
    def alike(self) -> float:
        """A difference of two results up to which one network is as good as the other."""
        ...

    def deliver(self, code: Code, number: int, folder: Path) -> None:
        """Copy the network of fresh training ``number`` of a code to a folder, with its configuration."""
        ...


@runtime_checkable
class InProcesses(Protocol):
    """A tester of short trainings, several of which take less time side by side than one after the other."""

    def processes(self, codes: Sequence[Code], workers: int) -> int:
        """In how many processes these trainings are best done, each with its share of the cores; 0 for this one.

        Args:
            codes: One for each training.
            workers: Trainings at the same time that were asked for; 1 leaves it to the judge.
        """
        ...

    def open_test(self) -> None:
        """Make the files that all trainings are measured on, before there are several processes."""
        ...


class Elsewhere(Protocol):
    """Runs calls on other machines."""

    def __call__(
        self, call: Callable[..., Any], values: Sequence[tuple[Any, ...]], /
    ) -> Iterator[tuple[int, Callable[[], Any]]]:
        """The index of each call that has finished, with what gives its result or raises why there is none."""
        ...


@dataclass(frozen=True, slots=True)
class _Task:
    label: str
    role: Literal["original", "uniform", "random", "found"]
    code: Code
    number: int
    mark: str = ""

    @property
    def key(self) -> str:
        return f"{_PREFIX}{self.mark and ':'}{self.mark}:{self.code}:{self.number}"


def confirm(
    judge: Tester,
    plan: Plan,
    leaders: Sequence[Code],
    study: Study,
    *,
    trainings: int,
    most: int | None = None,
    workers: int = 1,
    seed: int = 0,
    mark: str = "",
    on_result: Callable[[str, int, int], None] = lambda *_: None,
    elsewhere: Elsewhere | None = None,
) -> Confirmation:
    """The best codes beside the controls, on unseen images.

    Args:
        judge: What trains and measures.
        plan: The search's plan: random codes are drawn from its candidates.
        leaders: The best codes, best first. Of a ``Deliverer`` with more than ``judge.leaders`` all are trained once,
            and the best by these trainings are those that are trained further.
        study: Stores the results.
        trainings: Fresh trainings each of the best codes and the uniformly rescaled network, and the number of random
            feasible codes, of one training each, unless a ``Deliverer`` wants the network as it is in their place.
            Intervals need 3 or more.
        most: Of a ``Deliverer``, trainings each at most: those that the interval of their paired differences neither
            sets apart from the best nor shows to be as good are trained once more, and again. By default
            ``judge.undecided`` times as many, where an interval says something.
        workers: Trainings at the same time; with 1 a judge of short ones decides itself.
        seed: Decides which random codes are drawn.
        mark: Of the results in the study; those of another mark were measured otherwise, and are no results here.
        on_result: Called with the last result as text, the number of finished trainings and their total.
        elsewhere: Runs the trainings on other machines, in place of processes here.
    """
    original = isinstance(judge, Deliverer) and judge.controls == "original"
    drawn = list(_tasks(plan, leaders, trainings, seed, original=original))
    kept = judge.leaders if isinstance(judge, Deliverer) else len(leaders)
    # What does not depend on which leaders are trained further.
    tasks = [replace(t, mark=mark) for t in drawn if t.role != "found" or not t.number or len(leaders) <= kept]
    more = (len(drawn) - len(tasks)) // max(1, len(leaders)) * kept
    results: dict[str, tuple[float, ...]] = {}
    notes: list[str] = []

    def unfinished(wanted: Sequence[_Task]) -> list[_Task]:
        """Those without a result, which the study may hold."""
        kept = study.user_attrs  # a copy of all of them
        results.update({t.key: r for t in wanted if (r := _stored(kept.get(t.key))) is not None})
        return list({t.key: t for t in wanted if t.key not in results}.values())

    def train(left: Sequence[_Task]) -> None:
        for task, result in _each(judge, left, workers, trainers, elsewhere):
            try:
                found = _results(result())
            except (Exception, SystemExit) as error:
                notes.append(f"A training of the {task.label} code failed: {reason(error)}")
                continue
            results[task.key] = found
            study.set_user_attr(task.key, list(found) if len(found) > 1 else found[0])
            on_result(f"{task.label}: {found[0]:.2f}", len(results), len(tasks) + more)

    def going_on() -> list[_Task]:
        """The further trainings of the leaders that are the best by their first one."""
        first = [row for row in _rows(plan, tasks, results) if row.role == "found" and row.tests]
        best = sorted(first, key=lambda row: -(row.held or row.tests)[0])[:kept]
        codes = {row.code for row in best}
        return [replace(t, mark=mark) for t in drawn if t.role == "found" and t.number and t.code in codes]

    left = unfinished(tasks)
    if more and not left:
        # As an earlier run left it.
        tasks += going_on()
        left, more = unfinished(tasks), 0
    on_result("", len(results), len(tasks) + more)
    # By all of them, so that a resumed run goes on in the same way.
    number, trainers = 0, None
    if elsewhere is None:
        number, trainers = _trainers(judge, [task.code for task in drawn], workers)
    elif left and isinstance(judge, InProcesses):
        judge.open_test()
    workers = number or workers
    with ExitStack() as stack:
        if trainers is not None:
            stack.enter_context(trainers)
        elif workers > 1 and elsewhere is None:
            stack.enter_context(share_of_threads(workers))
        train(left)
        if more:
            tasks += going_on()
            more = 0
            train(unfinished(tasks))
        rows = list(_rows(plan, tasks, results))
        if isinstance(judge, Deliverer):
            for further in range(trainings, trainings_most(judge, trainings, most)):
                open_rows = _not_told_apart(rows, judge.alike)
                if not open_rows:
                    break
                again = [_Task(row.label, row.role, row.code, further, mark) for row in open_rows]
                tasks += again
                if left := unfinished(again):
                    names = ", ".join(sorted(task.label for task in again))
                    on_result(f"not told apart, trained once more: {names}", len(results), len(tasks))
                    train(left)
                rows = list(_rows(plan, tasks, results))
    return Confirmation(
        judge.test_measures,
        tuple(rows),
        tuple(_verdicts(rows, judge.test_unit, leaders=isinstance(judge, Deliverer))),
        tuple(notes),
    )


def _trainers(judge: Tester, codes: Sequence[Code], workers: int) -> tuple[int, Trainers | None]:
    """The processes that train, and their number; none where the trainings are done otherwise."""
    if not isinstance(judge, InProcesses) or not (number := judge.processes(codes, workers)):
        return 0, None
    import torch

    environment = threads_each(number, torch.get_num_threads() if workers == 1 else None)
    try:
        trainers = Trainers(judge, environment)
    except (TypeError, AttributeError, pickle.PicklingError):  # of a class that another process cannot find
        return 0, None
    judge.open_test()
    return number, trainers


def trainings_most(judge: Deliverer, trainings: int, most: int | None) -> int:
    """How many trainings each there are at most; ``most`` None is the judge's default."""
    if most is not None:
        return most
    return trainings * (judge.undecided if trainings >= LEAST_TRAININGS else 1)


def _not_told_apart(rows: Sequence[ConfirmedRow], alike: float) -> list[ConfirmedRow]:
    """The best network and those that may be better or worse than it; none where all is clear.

    By the images that networks are chosen by, of trainings of the same number, which saw the same batches.
    """
    best = chosen(rows)
    if best is None:
        return []
    mine, rest = dict(zip(best.numbers, best.held or best.tests, strict=True)), []
    for row in rows:
        theirs = dict(zip(row.numbers, row.held or row.tests, strict=True))
        shared = sorted(mine.keys() & theirs.keys())
        if row.code == best.code or row.role not in _CHOSEN_FROM or not shared:
            continue
        gap = mean_interval([mine[number] - theirs[number] for number in shared])
        # Differences without any spread are of few images, and say less than an interval.
        if gap.low is None or gap.high is None or (gap.low <= 0 and not -alike <= gap.low <= gap.high <= alike):
            rest.append(row)
    return [best, *rest] if rest else []


def _each(
    judge: Tester, tasks: Sequence[_Task], workers: int, trainers: Trainers | None, elsewhere: Elsewhere | None
) -> Iterator[tuple[_Task, Callable[[], Any]]]:
    """Each task with what gives its result, in this thread, which Ctrl-C reaches; with more workers as they finish.

    Meanwhile whoever listens here hears of the updates in the processes of ``trainers``.
    """
    if elsewhere is not None:
        for index, result in elsewhere(judge.tested, [(task.code, task.number) for task in tasks]):
            yield tasks[index], result
        return
    if workers == 1:
        for task in tasks:
            yield task, partial(judge.tested, task.code, task.number)
        return
    tested = judge.tested if trainers is None else trainers.tested
    with ThreadPoolExecutor(workers) as pool:
        running = {pool.submit(tested, t.code, t.number): t for t in tasks}
        try:
            while running:
                done, _ = wait(running, _LOOK_SECONDS, FIRST_COMPLETED)
                if trainers is not None and not done and (updates := trainers.updates)[1]:
                    tell(*updates)
                for future in done:
                    yield running.pop(future), future.result
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            if trainers is not None:
                trainers.stop()
            raise


def _results(value: Any) -> tuple[float, ...]:
    """One or two results of a training as a tuple."""
    return tuple(map(float, value if isinstance(value, (list, tuple)) else [value]))


def _stored(value: Any) -> tuple[float, ...] | None:
    """The results that a study holds of a training; None where it holds none."""
    values = value if isinstance(value, (list, tuple)) else [value]
    return _results(value) if values and all(map(is_number, values)) else None


def _tasks(
    plan: Plan, leaders: Sequence[Code], trainings: int, seed: int, *, original: bool = False
) -> Iterator[_Task]:
    """Training by training over all networks, so that one that is stopped early has some of each."""
    drawn: list[Code] = []
    if original:
        yield _Task("original", "original", plan.reference, 0)
    else:
        rng = np.random.default_rng([seed, *b"control"])
        rows = rng.permutation(len(plan.candidates))[: trainings + 1]
        random = (plan.space.code(plan.candidates.codes[row].tolist()) for row in rows)
        drawn = [code for code in random if code not in leaders][:trainings]
    for number in range(trainings):
        for rank, code in enumerate(leaders, start=1):
            yield _Task(f"found {rank}", "found", code, number)
        yield _Task("uniform", "uniform", plan.uniform, number)
        if number < len(drawn):
            yield _Task(f"random {number + 1}", "random", drawn[number], 0)


def _rows(plan: Plan, tasks: Sequence[_Task], results: dict[str, tuple[float, ...]]) -> Iterator[ConfirmedRow]:
    order = {"original": 0, "uniform": 1, "random": 2, "found": 3}
    for label, role, code in sorted({(t.label, t.role, t.code) for t in tasks}, key=lambda r: (order[r[1]], r[0])):
        done = [t for t in tasks if (t.label, t.code) == (label, code) and t.key in results]
        mine, numbers = [results[t.key] for t in done], tuple(t.number for t in done)
        tests = tuple(result[0] for result in mine)
        held = tuple(result[1] for result in mine) if all(len(result) > 1 for result in mine) else ()
        interval = mean_interval(tests).within_percent(tests) if tests else Interval(0.0)
        yield ConfirmedRow(label, role, code, plan.space.cost(code), tests, interval.low, interval.high, held, numbers)


def chosen(rows: Sequence[ConfirmedRow], roles: Sequence[str] = _CHOSEN_FROM) -> ConfirmedRow | None:
    """The network of the best mean on the images that networks are chosen by; on the unseen ones where those lack.

    One that was trained once, where others were trained further, was not among the best then.
    """
    trained = [row for row in rows if row.role in roles and row.tests]
    if any(len(row.tests) > 1 for row in trained if row.role == "found"):
        trained = [row for row in trained if len(row.tests) > 1]
    by_held = all(row.held for row in trained)

    def mean(row: ConfirmedRow) -> float:
        values = row.held if by_held else row.tests
        return sum(values) / len(values)

    return max(trained, key=mean, default=None)


def probabilities(rows: Sequence[ConfirmedRow]) -> dict[str, float]:
    """By label the probability of each network of which one is recommended to be the best of them.

    By the images that networks are chosen by, of those that were trained more than once, most probable first; empty
    where fewer than two were. Their means given the trainings, which vary normally and alike around them: with the
    pooled variance each is distributed as Student's t.
    """
    several = [row for row in rows if row.role in _CHOSEN_FROM and len(row.tests) > 1]
    results = [row.held if all(r.held for r in several) else row.tests for row in several]
    if len(several) < 2:
        return {}
    freedom = sum(len(values) - 1 for values in results)
    pooled = sum(float(np.var(values)) * len(values) for values in results) / freedom
    rng = np.random.default_rng(0)
    spread = np.sqrt(pooled * freedom / rng.chisquare(freedom, _DRAWS))[:, None]
    means, deviations = np.array([[np.mean(values), len(values) ** -0.5] for values in results]).T
    best = (means + spread * deviations * rng.standard_normal((_DRAWS, len(means)))).argmax(axis=1)
    shares = np.bincount(best, minlength=len(means)) / _DRAWS
    order = np.argsort(-shares, kind="stable")
    return {several[i].label: float(shares[i]) for i in order}


def _verdicts(rows: Sequence[ConfirmedRow], unit: str, *, leaders: bool = False) -> Iterator[str]:
    found = chosen(rows, ("found",))
    best = [] if found is None else found.tests
    groups = (("the uniformly rescaled network", "uniform"), ("random feasible codes", "random"))
    for name, role in groups:
        control = [v for r in rows if r.role == role for v in r.tests]
        if best and control:
            yield verdict(best, control, name, unit)
    if leaders and (shares := probabilities(rows)):
        words = ", ".join(f"{label} {100 * share:.0f}%" for label, share in shares.items())
        yield f"How probably each of those trained several times is the best, by the images that judge codes: {words}."


# Whether the best code is better than the controls: intervals over fresh trainings, and sentences that follow them


#: Trainings of each from which an interval says something.
LEAST_TRAININGS: Final = 3
#: Every interval holds the true value with this probability, if trainings vary normally.
LEVEL: Final = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and its interval; ``low`` and ``high`` are None where there is only one value, or no spread at all."""

    mean: float
    low: float | None = None
    high: float | None = None

    def within_percent(self, values: Sequence[float]) -> Interval:
        """The interval cut to 0 to 100, which Student's may leave, where all values [%] are within."""
        if self.low is None or self.high is None or not all(0 <= v <= 100 for v in values):
            return self
        return Interval(self.mean, max(0.0, self.low), min(100.0, self.high))

    @property
    def above_zero(self) -> bool:
        """Whether the whole interval is above zero; False without one."""
        return self.low is not None and self.low > 0

    @property
    def below_zero(self) -> bool:
        """Whether the whole interval is below zero; False without one."""
        return self.high is not None and self.high < 0


def mean_interval(values: Sequence[float]) -> Interval:
    """The mean of values and Student's interval of it.

    Raises:
        ValueError: There is no value.
    """
    from scipy import stats

    if not values:
        raise ValueError("An interval needs at least one value.")
    mean, n = float(np.mean(values)), len(values)
    spread = float(np.std(values, ddof=1)) if n > 1 else 0.0
    if not spread:
        return Interval(mean)
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * spread / math.sqrt(n)
    return Interval(mean, mean - half, mean + half)


def difference(of: Sequence[float], against: Sequence[float]) -> Interval:
    """The difference of the means of two groups, and Welch's interval of it (their variances may differ).

    Raises:
        ValueError: A group has no value.
    """
    from scipy import stats

    if not of or not against:
        raise ValueError("A difference needs at least one value on each side.")
    mean = float(np.mean(of) - np.mean(against))
    if min(len(of), len(against)) < 2 or not np.ptp(of) or not np.ptp(against):
        return Interval(mean)
    bounds = stats.ttest_ind(of, against, equal_var=False).confidence_interval(LEVEL)
    return Interval(mean, float(bounds.low), float(bounds.high))


def format_interval(interval: Interval, *, sign: bool = False, digits: int = 2) -> str:
    """``91.20 (90.80 to 91.60)``, or the mean alone."""
    form = f"{'+' if sign else ''}.{digits}f"
    # Rounded first, and minus nought made nought.
    mean, low, high = (
        None if v is None else round(v, digits) + 0.0 for v in (interval.mean, interval.low, interval.high)
    )
    text = format(mean, form)
    return text if low is None or high is None else f"{text} ({format(low, form)} to {format(high, form)})"


def verdict(best: Sequence[float], control: Sequence[float], name: str, unit: str = "points of test accuracy") -> str:
    """One sentence that says "better" or "worse" only when the whole interval does.

    Args:
        best: Results of the best code [n].
        control: Results of the control [m].
        name: The control's name.
        unit: Unit of the results.
    """
    gap = difference(best, control)
    counts = f"{len(best)} against {len(control)} trainings"
    if gap.low is None:
        why = "All trainings of one gave the same, so there is no interval, and nothing is claimed."
        if min(len(best), len(control)) < LEAST_TRAININGS:
            why = "Too few trainings for an interval, and nothing is claimed: give --confirm 3 or more."
        return f"Against {name}: {format_interval(gap, sign=True)} {unit}, {counts}. {why}"
    word = "better than" if gap.above_zero else "worse than" if gap.below_zero else "not distinguishable from"
    interval = f"{format_interval(gap, sign=True)} {unit}, {100 * LEVEL:.0f}% interval"
    return f"The best code is {word} {name}: {interval}, {counts}."

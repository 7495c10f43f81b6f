"""Samplers of Optuna, ours among them, through ``study.ask`` and ``study.tell`` of a study in memory."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.trial import TrialState, create_trial

from bsszoo.search import AutoBSSSampler
from searching.protocol import ProtocolError, observe_outside
from searching.task import Task

#: Completed trials before GPSampler fits its model, its own default.
GP_STARTUP = 10


class _Study:
    """A study whose trials hold codes of the task, and which of them are taken."""

    def __init__(self, task: Task, seed: int, sampler: BaseSampler) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        logging.captureWarnings(True)
        warnings.filterwarnings("ignore", module="optuna")
        self.task = task
        self.seed = seed
        self.rng = np.random.default_rng([seed, *type(self).__name__.encode()])
        self.free: NDArray[np.bool_] = np.ones(len(task), dtype=bool)
        # Optuna's HyperbandPruner draws brackets by the name.
        name = f"{task.name} {seed}"
        self.study = optuna.create_study(direction="maximize", sampler=sampler, study_name=name)
        self.numbers: dict[int, int] = {}

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """The box that the sampler suggests from."""
        return self.task.candidates.distributions

    def tell(self, rows: Sequence[int], values: Sequence[float]) -> None:
        """See ``Sampler``."""
        for row, value in zip(rows, values, strict=True):
            self.study.tell(self.numbers[row], value)

    def _take(self, row: int, number: int) -> int:
        self.free[row] = False
        self.numbers[row] = number
        return row

    def _run(self, row: int, constraints: dict[str, float] | None = None) -> int:
        """Begins a trial of a code that the sampler did not suggest.

        Enqueued and asked, the trial would make the sampler suggest once more, in vain: it would be timed twice.
        """
        code = dict(zip(self.task.names, (int(v) for v in self.task.codes[row]), strict=True))
        self.study.add_trial(
            create_trial(
                state=TrialState.RUNNING, params=code, distributions=self.distributions, constraints=constraints
            )
        )
        return self._take(row, self.study.get_trials(deepcopy=False)[-1].number)

    def _suggestion(self) -> tuple[Any, NDArray[np.int64]]:
        trial = self.study.ask(fixed_distributions=self.distributions)
        return trial, np.array([trial.params[name] for name in self.task.names], dtype=np.int64)


class Repaired(_Study):
    """Any sampler of a box. A suggestion that is no candidate, or is taken, fails; the nearest free code is run."""

    def ask(self) -> int:
        """See ``Sampler``."""
        trial, code = self._suggestion()
        row = self.task.candidates.row(code)
        if row is not None and self.free[row]:
            return self._take(row, trial.number)
        self.study.tell(trial.number, state=TrialState.FAIL)
        return self._run(self.task.nearest(code, self.free, self.rng))


class Constrained(_Study):
    """``GPSampler`` with the budget as a constraint, over a box of which the table holds every code.

    What is over the budget is told at once, with its result and its violation, and costs no evaluation: the peer
    learns more than it paid for. After ``FREE`` such suggestions for one evaluation a random feasible code is run.
    """

    FREE = 3

    def __init__(self, task: Task, seed: int) -> None:
        super().__init__(task, seed, GPSampler(seed=seed))
        assert task.box is not None
        self.box = task.box

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """The whole box, the codes over the budget included."""
        low, high = self.box.codes.min(axis=0), self.box.codes.max(axis=0)
        return {n: IntDistribution(int(a), int(b)) for n, a, b in zip(self.task.names, low, high, strict=True)}

    def ask(self) -> int:
        """See ``Sampler``."""
        for _ in range(self.FREE + 1):
            trial, code = self._suggestion()
            place = self.box.place[tuple(int(v) for v in code)]
            row = int(self.box.rows[place])
            excess = float(self.box.macs[place]) / self.box.limit - 1
            if row >= 0 and self.free[row]:
                trial.set_constraint("macs", excess)
                return self._take(row, trial.number)
            if row >= 0:
                # A network that is evaluated or being evaluated, in this spelling or its other one.
                self.study.tell(trial.number, state=TrialState.FAIL)
                return self._feasible(self.task.nearest(code, self.free, self.rng))
            trial.set_constraint("macs", excess)
            self.study.tell(trial.number, observe_outside(self.task, place, self.seed))
        return self._feasible(int(self.rng.choice(np.flatnonzero(self.free))))

    def _feasible(self, row: int) -> int:
        return self._run(row, {"macs": float(self.task.macs[row]) / self.box.limit - 1})


class _OverCandidates(GPSampler):
    """``GPSampler`` whose acquisition is evaluated at every free candidate instead of being climbed in the box.

    ``_optimize_acqf`` is private, and Optuna says so; nothing but this benchmark depends on it.
    """

    CHUNK = 512

    def __init__(self, task: Task, free: NDArray[np.bool_], seed: int) -> None:
        super().__init__(seed=seed)
        self.task = task
        self.free = free
        self.points: NDArray[np.float64] | None = None

    def _optimize_acqf(self, acqf: Any, best_params: Any) -> Any:
        if self.points is None:
            codes: list[dict[str, Any]] = [
                dict(zip(self.task.names, code, strict=True)) for code in self.task.codes.tolist()
            ]
            nothing: list[Any] = [None] * len(codes)
            self.points = np.asarray(acqf.search_space.get_normalized_params(nothing, codes))
        points = self.points[self.free]
        gain = np.concatenate(
            [acqf.eval_acqf_no_grad(points[i : i + self.CHUNK]) for i in range(0, len(points), self.CHUNK)]
        )
        return points[int(np.argmax(gain))]


class OverCandidates(_Study):
    """GPSampler's own model, acquisition and treatment of running trials, over the free candidates."""

    def __init__(self, task: Task, seed: int) -> None:
        self.searched = _OverCandidates(task, np.ones(len(task), dtype=bool), seed)
        super().__init__(task, seed, self.searched)
        self.searched.free = self.free
        self.told = 0

    def ask(self) -> int:
        """See ``Sampler``."""
        if self.told < GP_STARTUP:
            # As GPSampler itself begins: at random, only here among the candidates.
            return self._run(int(self.rng.choice(np.flatnonzero(self.free))))
        trial, code = self._suggestion()
        row = self.task.candidates.row(code)
        assert row is not None, "the suggestion came from the candidates"
        return self._take(row, trial.number)

    def tell(self, rows: Sequence[int], values: Sequence[float]) -> None:
        """See ``Sampler``."""
        super().tell(rows, values)
        self.told += len(rows)


class Ours(_Study):
    """``AutoBSSSampler``, which suggests free candidates only."""

    def ask(self) -> int:
        """See ``Sampler``."""
        trial, code = self._suggestion()
        row = self.task.candidates.row(code)
        if row is None or not self.free[row]:
            raise ProtocolError(f"AutoBSSSampler suggested {code.tolist()}, which is no candidate or taken.")
        return self._take(row, trial.number)


class OursAgain(Ours):
    """``AutoBSSSampler`` that trains leaders again, and recommends."""

    def __init__(self, task: Task, seed: int, sampler: AutoBSSSampler) -> None:
        super().__init__(task, seed, sampler)
        self.sampler = sampler
        self.asked: list[int] = []

    def ask(self) -> int:
        """See ``Sampler``."""
        trial, code = self._suggestion()
        row = self.task.candidates.row(code)
        assert row is not None, "every suggestion is a candidate"
        self.asked.append(trial.number)
        return row

    def tell(self, rows: Sequence[int], values: Sequence[float]) -> None:
        """See ``Sampler``."""
        for number, value in zip(self.asked, values, strict=True):
            self.study.tell(number, value)
        self.asked = []

    def recommended(self) -> int:
        """See ``Replicating``."""
        params = self.sampler.recommend(self.study, 1)[0].params
        row = self.task.candidates.row([params[name] for name in self.task.names])
        assert row is not None, "every code is a candidate"
        return row


def tpe(task: Task, seed: int) -> Repaired:
    """TPESampler as shipped."""
    return Repaired(task, seed, TPESampler(seed=seed))


def gp_repair(task: Task, seed: int) -> Repaired:
    """GPSampler as shipped."""
    return Repaired(task, seed, GPSampler(seed=seed))


def ours_again(task: Task, seed: int) -> OursAgain:
    """AutoBSSSampler that trains leaders again."""
    return OursAgain(task, seed, AutoBSSSampler(task.candidates, seed=seed, replicates=0.25))


def ours(task: Task, seed: int, mode: Literal["default", "paper"], batch: int) -> Ours:
    """AutoBSSSampler in one of its modes."""
    size = batch if mode == "paper" else 16  # the default one ends the first iteration by itself
    return Ours(task, seed, AutoBSSSampler(task.candidates, mode=mode, batch_size=size, seed=seed))

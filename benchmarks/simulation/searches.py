"""Searches on the virtual clock: the real sampler in a real Optuna study, or random search, on a task of known results.

Virtual time is counted in mean evaluations. A code's evaluation takes log-normal time that grows with its MACs:

    (1/2 + 1/2 MACs / mean MACs) exp(s e - s^2 / 2),   e ~ N(0, 1),   s = 0.3

and the same code takes the same time, and gives the same result, in all searches of the same seed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import optuna
from searching.plain import RandomSearch
from searching.protocol import judge, observe
from searching.task import Task

from bsszoo.search import AutoBSSSampler
from simulation.clock import Evaluation, simulate, told_order, waiting_share

SPREAD: Final = 0.3
# Half of an evaluation is taken to depend on the network: data, start-up and validation do not.
FIXED: Final = 0.5


class Search(Protocol):
    """What a search looks like to the simulation."""

    def ask(self) -> int:
        """The row of a code that was never asked before."""

    def tell(self, row: int, value: float) -> None:
        """What a code gave that was asked for."""


class StudySearch:
    """``AutoBSSSampler`` in an Optuna study that is kept in memory."""

    def __init__(self, task: Task, seed: int, batch: int) -> None:
        self.candidates = task.candidates
        sampler = AutoBSSSampler(task.candidates, batch_size=batch, seed=seed)
        self.study = optuna.create_study(direction="maximize", sampler=sampler)
        self.running: dict[int, optuna.Trial] = {}

    def ask(self) -> int:
        """See ``Search``."""
        trial = self.study.ask(fixed_distributions=self.candidates.distributions)
        row = self.candidates.index(trial.params)
        assert row is not None
        self.running[row] = trial
        return row

    def tell(self, row: int, value: float) -> None:
        """See ``Search``."""
        self.study.tell(self.running.pop(row), value)


class RandomOrder:
    """Random search without replacement."""

    def __init__(self, task: Task, seed: int) -> None:
        self._search = RandomSearch(task, seed)

    def ask(self) -> int:
        """See ``Search``."""
        return self._search.ask()

    def tell(self, row: int, value: float) -> None:
        """See ``Search``."""


@dataclass(frozen=True)
class Setting:
    """What is searched, by whom, with how many workers; ``batch`` is the sampler's ``batch_size``, 0 for random."""

    task: str
    batch: int
    workers: int
    seed: int
    evaluations: int
    evaluation_seconds: float


@dataclass(frozen=True)
class Outcome:
    """One simulated search. Lists have one figure for each result, in the order in which results came in.

    ``picked`` is the regret of the code that looks best so far, in standard deviations of the task's codes.
    """

    setting: Setting
    digest: str
    ended: list[float]
    picked: list[float]
    hit: int | None
    ask_seconds: list[float]
    waiting: float


def duration(task: Task, row: int, seed: int) -> float:
    """Virtual time of a code's evaluation."""
    noise = np.random.default_rng([seed, row, *b"time"]).normal()
    size = FIXED + (1 - FIXED) * float(task.macs[row] / task.macs.mean())
    return size * float(np.exp(SPREAD * noise - SPREAD**2 / 2))


def play(task: Task, search: Search, setting: Setting, *, ask_cost: float | None = None) -> list[Evaluation]:
    """The evaluations of one search.

    An ask takes the processor time it really takes; ``ask_cost`` sets it instead [s].
    """

    def ask() -> tuple[int, float]:
        began = time.process_time()
        row = search.ask()
        seconds = time.process_time() - began if ask_cost is None else ask_cost
        return row, seconds / setting.evaluation_seconds

    def evaluate(row: int) -> tuple[float, float]:
        return observe(task, row, setting.seed), duration(task, row, setting.seed)

    return simulate(ask, evaluate, search.tell, workers=setting.workers, evaluations=setting.evaluations)


def run(task: Task, setting: Setting, *, ask_cost: float | None = None) -> Outcome:
    """Plays a search and judges it."""
    search: Search = (
        StudySearch(task, setting.seed, setting.batch) if setting.batch else RandomOrder(task, setting.seed)
    )
    made = play(task, search, setting, ask_cost=ask_cost)
    told = told_order(made)
    judged = judge(task, "", setting.seed, [e.row for e in told], [e.value for e in told], [], batch=setting.batch)
    spread = float(task.mean.std())
    return Outcome(
        setting=setting,
        digest=task.digest,
        ended=[round(e.ended, 5) for e in told],
        picked=[round(v / spread, 5) for v in judged.picked],
        hit=judged.hit,
        ask_seconds=[round((e.began - e.served) * setting.evaluation_seconds, 5) for e in made],
        waiting=round(waiting_share(made), 6),
    )

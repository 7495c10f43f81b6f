"""Which runs are still to be made, and making them, in one process or several."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass

from searching.ledger import Key, Ledger
from searching.protocol import Run, Sampler, play
from searching.samplers import SAMPLERS
from searching.task import Task


@dataclass(frozen=True)
class Plan:
    """What is compared: samplers on tasks, under one protocol."""

    tasks: Sequence[Task]
    samplers: Sequence[str]
    seeds: int
    evaluations: int
    batch: int

    def left(self, done: Iterable[Key]) -> list[tuple[int, str, int]]:
        """(place of the task, sampler, seed) of the runs not made: sampler by sampler, in it seed by seed.

        Interrupted, a comparison so holds all tasks alike.
        """
        made = set(done)
        return [
            (i, name, seed)
            for name in self.samplers
            for seed in range(self.seeds)
            for i, task in enumerate(self.tasks)
            if (task.name, name, seed) not in made and (task.box is not None or not SAMPLERS[name].needs_box)
        ]


_PLANS: list[Plan] = []


def _begin(plan: Plan) -> None:
    """A worker process gets the tasks once, not with every run."""
    _PLANS[:] = [plan]


def _one(what: tuple[int, str, int]) -> Run:
    plan, (i, name, seed) = _PLANS[0], what
    make = SAMPLERS[name].make

    def made(task: Task, seed: int) -> Sampler:
        return make(task, seed, plan.batch)

    return play(plan.tasks[i], name, made, seed, evaluations=plan.evaluations, batch=plan.batch)


def execute(plan: Plan, ledger: Ledger, done: Iterable[Key], *, jobs: int) -> None:
    """Makes the runs that are left and adds each to the ledger as it ends."""
    left = plan.left(done)
    began, last = time.monotonic(), 0.0
    for count, run in enumerate(_results(plan, left, jobs), 1):
        ledger.append([run])
        if count == len(left) or time.monotonic() - last > 5:
            last = time.monotonic()
            print(
                f"{count}/{len(left)} runs, {last - began:.0f} s; last: {run.sampler} on {run.task}, seed {run.seed}",
                file=sys.stderr,
                flush=True,
            )


def _results(plan: Plan, left: Sequence[tuple[int, str, int]], jobs: int) -> Iterator[Run]:
    if jobs == 1:
        _begin(plan)
        yield from map(_one, left)
        return
    # Spawned, not forked: torch's threads do not survive a fork.
    with ProcessPoolExecutor(
        jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_begin, initargs=(plan,)
    ) as pool:
        futures = [pool.submit(_one, what) for what in left]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise

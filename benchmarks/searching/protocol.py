"""The protocol: how many trainings a sampler has, what it sees of each, and what is written down."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from searching.task import Task


class Sampler(Protocol):
    """What a search algorithm looks like to the protocol."""

    def ask(self) -> int:
        """The row of a code to train; the results of the batch under way are not known.

        It was never asked before, unless the sampler trains codes again (``Replicating``).
        """

    def tell(self, rows: Sequence[int], values: Sequence[float]) -> None:
        """What the codes of the batch gave, in the order they were asked."""


@runtime_checkable
class Replicating(Protocol):
    """A sampler that trains codes again, and says itself which code it would take."""

    def recommended(self) -> int:
        """The row of the code to take after what was told."""


#: Makes a sampler for a task from the seed of a repeat.
MakeSampler = Callable[[Task, int], Sampler]


class ProtocolError(RuntimeError):
    """A sampler asked for a code twice that trains none again, or for one outside the set."""


@dataclass(frozen=True)
class Run:
    """One repeat of one sampler on one task. Lists have one figure for each evaluation, which is one training.

    ``picked`` is the regret of the code that looked best so far, or that the sampler recommends (as of the last whole
    batch), ``best`` that of the best code evaluated so far, both in mean results; ``hit`` is the number of evaluations
    until a code in the top half a per cent, None for never.
    """

    task: str
    group: str
    sampler: str
    seed: int
    evaluations: int
    batch: int
    digest: str
    rows: list[int]
    picked: list[float]
    best: list[float]
    hit: int | None
    ask_seconds: list[float]


def observe(task: Task, row: int, seed: int, training: int = 0) -> float:
    """One of the trainings of a code, drawn with replacement. Every sampler sees the same ones in the same repeat."""
    words = [seed, row, training] if training else [seed, row]
    return float(task.trained[row, np.random.default_rng(words).integers(task.trained.shape[1])])


def observe_outside(task: Task, place: int, seed: int) -> float:
    """The same for a code of the task's box that is over the budget, by its place there."""
    assert task.box is not None
    drawn = np.random.default_rng([seed, len(task) + place]).integers(task.box.trained.shape[1])
    return float(task.box.trained[place, drawn])


def play(task: Task, name: str, make: MakeSampler, seed: int, *, evaluations: int, batch: int) -> Run:
    """Lets a sampler evaluate codes, a batch at a time.

    Raises:
        ProtocolError: The sampler asked for a code twice, or for one outside the set.
    """
    sampler = make(task, seed)
    rows: list[int] = []
    values: list[float] = []
    seconds = []
    recommended: list[int] = []
    replicating = isinstance(sampler, Replicating)
    while len(rows) < evaluations:
        start = len(rows)
        for _ in range(min(batch, evaluations - start)):
            began = time.perf_counter()
            row = sampler.ask()
            seconds.append(time.perf_counter() - began)
            if (row in rows and not replicating) or not 0 <= row < len(task):
                raise ProtocolError(
                    f"{name} asked for row {row} of {task.name}, which it "
                    f"{'has had' if row in rows else 'does not have'}."
                )
            rows.append(row)
        values += [observe(task, row, seed, rows[:i].count(row)) for i, row in enumerate(rows) if i >= start]
        sampler.tell(rows[start:], values[start:])
        if isinstance(sampler, Replicating):
            # Within a batch the code of the batch before is recommended; in the first one the first.
            recommended += [recommended[-1] if recommended else rows[0]] * (len(rows) - start - 1)
            recommended.append(sampler.recommended())
    return judge(task, name, seed, rows, values, seconds, batch=batch, recommended=recommended)


def judge(
    task: Task,
    name: str,
    seed: int,
    rows: list[int],
    values: Sequence[float],
    seconds: list[float],
    *,
    batch: int,
    recommended: Sequence[int] = (),
) -> Run:
    """The regrets of a finished run."""
    mean = task.mean[rows]
    # The first of equals is picked, as it would be by a user who keeps the best so far.
    top = recommended or [rows[int(np.argmax(values[: k + 1]))] for k in range(len(rows))]
    hits = np.flatnonzero(task.hits[rows])
    return Run(
        task=task.name,
        group=task.group,
        sampler=name,
        seed=seed,
        evaluations=len(rows),
        batch=batch,
        digest=task.digest,
        rows=rows,
        picked=[round(float(task.best - task.mean[row]), 9) for row in top],
        best=[round(float(v), 9) for v in task.best - np.maximum.accumulate(mean)],
        hit=int(hits[0]) + 1 if len(hits) else None,
        ask_seconds=[round(s, 6) for s in seconds],
    )

"""Many workers on one study in virtual time: an event queue in place of hours of training.

A worker asks, evaluates, tells, and asks again. Asks are served one after the other, in the order in which they are
made (trial numbers are tickets, see ``bsszoo.search.turns``), and an ask knows the results told before it was served.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Evaluation:
    """One code on its way, with times on the virtual clock."""

    worker: int
    requested: float  # the worker is free and asks
    served: float  # those before it have their codes; the results known now are the ones that count
    began: float  # it has its code
    ended: float  # it tells
    row: int
    value: float


def simulate(
    ask: Callable[[], tuple[int, float]],
    evaluate: Callable[[int], tuple[float, float]],
    tell: Callable[[int, float], None],
    *,
    workers: int,
    evaluations: int,
) -> list[Evaluation]:
    """Evaluations in the order in which their codes were asked for; all are told before it returns.

    Args:
        ask: Gives a row and the virtual time that choosing it takes.
        evaluate: Gives the value of a row and the virtual time that the evaluation takes.
        tell: Takes a row and its value.
        workers: How many there are; each evaluates one code at a time, and all begin at 0.
        evaluations: How many codes are asked for in all.
    """
    made: list[Evaluation] = []
    waiting = deque((0.0, w) for w in range(workers))
    ends: list[tuple[float, int]] = []
    free_from = 0.0  # when the ask being served is through
    while ends or len(made) < evaluations:
        served = max(waiting[0][0], free_from) if waiting and len(made) < evaluations else None
        if served is None or (ends and ends[0][0] <= served):
            ended, number = heapq.heappop(ends)
            tell(made[number].row, made[number].value)
            waiting.append((ended, made[number].worker))
            continue
        requested, worker = waiting.popleft()
        row, choosing = ask()
        value, lasting = evaluate(row)
        free_from = served + choosing
        made.append(Evaluation(worker, requested, served, free_from, free_from + lasting, row, value))
        heapq.heappush(ends, (made[-1].ended, len(made) - 1))
    return made


def told_order(made: list[Evaluation]) -> list[Evaluation]:
    """Evaluations by the time of their results."""
    return [e for _, _, e in sorted((e.ended, i, e) for i, e in enumerate(made))]


def busiest(made: list[Evaluation]) -> int:
    """The largest number of evaluations at one time."""
    now = most = 0
    # At the same instant an end comes before a beginning: the worker that told is the one that asks.
    for _, step in sorted([(e.began, 1) for e in made] + [(e.ended, -1) for e in made]):
        now += step
        most = max(most, now)
    return most


def waiting_share(made: list[Evaluation]) -> float:
    """The share of a worker's time that goes into asking, its turn and the choice, over all evaluations."""
    asking = sum(e.began - e.requested for e in made)
    return asking / (asking + sum(e.ended - e.began for e in made))

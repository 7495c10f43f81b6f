"""The tables of the simulation: medians over the seeds with their intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from simulation.searches import Outcome

#: Evaluations after which regrets are shown.
CHECKPOINTS: Final = (64, 128, 256, 512)
LEVEL: Final = 0.95


def interval(values: Iterable[float]) -> tuple[float, float, float]:
    """The median and two order statistics that hold it with a probability of 95%; the extremes of fewer than six.

    Runs that never got there count as infinity.

    >>> interval([3, 1, 2])
    (2, 1, 3)
    >>> interval(range(20))
    (9.5, 5, 14)
    """
    ordered = sorted(values)
    n, k, tail = len(ordered), 0, 0.0
    # The k-th smallest lies above the median with the probability of fewer than k values below it.
    while k < (n - 1) // 2 and tail + math.comb(n, k) / 2**n <= (1 - LEVEL) / 2:
        tail += math.comb(n, k) / 2**n
        k += 1
    k = max(k - 1, 0)
    return statistics.median(ordered), ordered[k], ordered[n - 1 - k]


def cell(values: Iterable[float], digits: int) -> str:
    """A median and its interval, as a cell of a table."""
    texts = [f"{v:,.{digits}f}" if math.isfinite(v) else "never" for v in interval(values)]
    return f"{texts[0]} ({texts[1]} to {texts[2]})"


def first_below(outcome: Outcome, regret: float) -> float:
    """Evaluations until the code that looks best has at most so much regret; infinite for never."""
    return next((k for k, r in enumerate(outcome.picked, 1) if r <= regret), math.inf)


def hours(outcome: Outcome, evaluations: float) -> float:
    """Virtual time of the result with this number [h]."""
    if not math.isfinite(evaluations):
        return math.inf
    return outcome.ended[int(evaluations) - 1] * outcome.setting.evaluation_seconds / 3600


def markdown(outcomes: Sequence[Outcome], regret: float) -> str:
    """All tables."""
    parts = []
    for task in dict.fromkeys(o.setting.task for o in outcomes):
        mine = [o for o in outcomes if o.setting.task == task]
        parts += [_of_task(task, mine, regret)]
    return "\n\n".join(parts)


def _of_task(task: str, outcomes: Sequence[Outcome], regret: float) -> str:
    groups: dict[tuple[int, str], list[Outcome]] = {}
    for o in sorted(outcomes, key=lambda o: (o.setting.batch == 0, o.setting.workers, o.setting.batch)):
        groups.setdefault(
            (o.setting.workers, f"`batch_size` {o.setting.batch}" if o.setting.batch else "random"), []
        ).append(o)
    evaluations, seconds = outcomes[0].setting.evaluations, outcomes[0].setting.evaluation_seconds
    lines = [
        f"{task}: {evaluations} evaluations of {seconds / 3600:g} h on average, median (interval) over the seeds",
        "",
        f"| workers | search | seeds | hours to regret {regret:g} | evaluations until then | speed-up "
        "| efficiency | hours to the top 0.5% | evaluations until then | hours for all |",
        "|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]

    def until(o: Outcome) -> float:
        return first_below(o, regret)

    def hit(o: Outcome) -> float:
        return math.inf if o.hit is None else o.hit

    for (workers, name), group in groups.items():
        whole = statistics.median(o.ended[-1] for o in group) * seconds / 3600
        alone = {o.setting.seed: o for o in groups.get((1, name if name == "random" else "`batch_size` 16"), [])}
        times = [
            (hours(alone[o.setting.seed], until(alone[o.setting.seed])), hours(o, until(o)))
            for o in group
            if o.setting.seed in alone
        ]
        ratio = statistics.median(a for a, _ in times) / statistics.median(b for _, b in times) if times else math.nan
        speed = f"{ratio:.1f} | {ratio / workers:.2f}" if math.isfinite(ratio) and ratio > 0 else "- | -"
        lines.append(
            f"| {workers} | {name} | {len(group)} | {_each(group, lambda o: hours(o, until(o)), 1)} | "
            f"{_each(group, until, 0)} | {speed} | {_each(group, lambda o: hours(o, hit(o)), 1)} | "
            f"{_each(group, hit, 0)} | {whole:,.1f} |"
        )
    shown = [c for c in CHECKPOINTS if c <= evaluations]
    lines += [
        "",
        "| workers | search | "
        + " | ".join(f"regret after {c}" for c in shown)
        + " | seconds an ask, median / mean / largest | time spent asking |",
        "|---:|---|" + "---:|" * (len(shown) + 2),
    ]
    for (workers, name), group in groups.items():
        regrets = " | ".join(cell((o.picked[c - 1] for o in group), 2) for c in shown)
        asks = [s for o in group for s in o.ask_seconds]
        lines.append(
            f"| {workers} | {name} | {regrets} | {statistics.median(asks):.3f} / {statistics.mean(asks):.3f} "
            f"/ {max(asks):.2f} | {statistics.median(o.waiting for o in group):.2%} |"
        )
    return "\n".join(lines)


def _each(group: Sequence[Outcome], figure: Callable[[Outcome], float], digits: int) -> str:
    return cell(map(figure, group), digits)

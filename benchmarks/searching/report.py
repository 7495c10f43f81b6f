"""The comparison as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from searching.figures import LEVEL, REFERENCE, REPLICATES, Comparison, checkpoints
from searching.protocol import Run
from searching.samplers import SAMPLERS


def markdown(runs: Sequence[Run], absent: Mapping[str, str]) -> str:
    """Tables for all tasks, for each group of them, and for each task.

    Args:
        runs: Runs of one protocol, some of them random search's.
        absent: Samplers that could not run, and why.
    """
    return "\n".join(_lines(runs, absent))


def _lines(runs: Sequence[Run], absent: Mapping[str, str]) -> Iterator[str]:
    comparison = Comparison(runs)
    every = [task for tasks in comparison.groups.values() for task in tasks]
    names = [n for n in SAMPLERS if n in comparison.runs]
    at = checkpoints(runs[0].evaluations, runs[0].batch)
    yield (
        f"{len(runs)} runs of {runs[0].evaluations} evaluations in batches of {runs[0].batch}. Regret divided by "
        f"that of random search on the same task, mean over tasks; in brackets the {LEVEL:.0%} interval of "
        f"{REPLICATES} bootstrap replicates, seeds resampled within each task."
    )
    for name, why in absent.items():
        yield f"\n`{name}`: {why}."
    sections = {"All tasks": every} if len(comparison.groups) > 1 else {}
    for title, tasks in (sections | comparison.groups).items():
        yield f"\n## {title}\n"
        partial = [n for n in names if 0 < len(comparison.tasks(n, tasks)) < len(tasks)]
        yield f"{len(tasks)} tasks: {', '.join(tasks)}."
        if partial:
            yield (
                f"Not on all of them, so not to be compared with the other rows: "
                f"{', '.join(f'{n} ({len(comparison.tasks(n, tasks))} tasks)' for n in partial)}."
            )
        present = [n for n in names if comparison.tasks(n, tasks)]
        yield "\nRegret of the picked code, the best observed so far, after so many evaluations:\n"
        yield from _regrets(comparison, present, tasks, "picked", at)
        yield "\nRegret of the best code evaluated, and how often a code of the top 0.5% was evaluated:\n"
        yield from _regrets(comparison, present, tasks, "best", at, hits=True)
    for k in sorted({at[len(at) // 2 - 1], at[-1]}):
        yield f"\n## Each task, picked code after {k}\n"
        yield "Regret relative to random search; the first row is random search's own, in the task's unit.\n"
        yield from _each(comparison, names, every, k)


def _regrets(
    comparison: Comparison,
    names: Sequence[str],
    tasks: Sequence[str],
    of: str,
    at: Sequence[int],
    *,
    hits: bool = False,
) -> Iterator[str]:
    more = ["found", "worst task"] if hits else ["runs", "s an ask"]
    yield from _head(["sampler", *(str(k) for k in at), *more])
    for name in names:
        estimates = comparison.ratios(name, tasks, of)
        cells = ["1" if name == REFERENCE else str(estimates[k - 1]) for k in at]
        if hits:
            rate, worst = comparison.hit_rate(name, tasks)
            cells += [str(rate), f"{worst:.2f}"]
        else:
            cells += [str(comparison.count(name, tasks)), _seconds(comparison.seconds(name, tasks))]
        yield _row([f"`{name}`", *cells])


def _each(comparison: Comparison, names: Sequence[str], tasks: Sequence[str], k: int) -> Iterator[str]:
    yield from _head(["sampler", *tasks])
    yield _row(
        [
            "regret of random",
            *(
                f"{comparison.regret(REFERENCE, t, 'picked')[k - 1]:.4g}" if comparison.tasks(REFERENCE, [t]) else "-"
                for t in tasks
            ),
        ]
    )
    for name in (n for n in names if n != REFERENCE):
        cells = []
        for task in tasks:
            estimates = comparison.ratios(name, [task], "picked")
            cells.append(str(estimates[k - 1]) if estimates else "-")
        yield _row([f"`{name}`", *cells])


def _head(columns: Sequence[str]) -> Iterator[str]:
    yield _row(columns)
    yield "|---|" + "---:|" * (len(columns) - 1)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _seconds(value: float) -> str:
    return f"{value:.3f}" if value >= 0.0005 else "<0.001"

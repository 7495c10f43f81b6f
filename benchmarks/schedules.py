"""Searches with trainings of several lengths, compared on tables that have the accuracy after every epoch.

    python benchmarks/schedules.py --table naap440.csv --table tiny_resnets.csv --out runs      # resumes
    python benchmarks/schedules.py --out runs --show

What is compared, each at several numbers of codes:

  i-epoch      so many random codes are trained for i epochs, then the best in full (Egele et al., arXiv:2404.04111), or
               the best three or six: the baseline
  halving      random codes by synchronous successive halving, rungs of a ninth and a third of the epochs
  hyperband, tpe-hyperband, gp-halving
               Optuna's RandomSampler and TPESampler with its HyperbandPruner, and its GPSampler with its
               SuccessiveHalvingPruner, all repaired to candidates as in search.py; the best that was trained in full
  bsszoo       AutoBSSSampler with HalvingPruner(3, pilots=8): a ninth and a third of the epochs, then the six that it
               recommends in full

A training that goes on costs the further epochs only, as if one could continue it. With ``--whole`` each length is a
training of its own from the start, as bsszoo does them. Costs are counted in whole trainings, regret in points of
accuracy against the task's best code. The last column is a method's cost as a share of what i-epoch needs for the same
regret, by straight lines between the numbers of codes and lengths that are best for i-epoch, random search in full
among them. Brackets hold 95% intervals of a bootstrap over the repeats.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

if __name__ == "__main__":
    # Read when numpy loads: several threads of so small arrays only hinder each other.
    for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[_variable] = "1"

import numpy as np
import optuna
from optuna.pruners import BasePruner, HyperbandPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import Trial, TrialState
from searching.studies import Ours, Repaired
from searching.tables import NAAP, read_table
from searching.task import FloatArray, Task

from bsszoo.search import AutoBSSSampler, HalvingPruner

FILE = "schedules.jsonl"
#: Epochs of the rungs: annealed ones of NAAP-440; of the ResNets, whose rate drops at epoch 36, before and after that.
RUNGS = {True: (9, 27), False: (15, 45)}
REDUCTION = 3
LEADERS = 6
REPLICATES = 2000


@dataclass(frozen=True)
class Run:
    """One repeat: its cost if trainings can go on, and if each is whole [trainings in full], and its regret."""

    method: str
    codes: int
    task: str
    seed: int
    cost: float
    whole: float
    regret: float


class Bill:
    """What has been trained, and what it cost."""

    def __init__(self, task: Task) -> None:
        assert task.curve is not None
        self.curve, self.epochs = task.curve, task.curve.shape[1]
        self.rungs = RUNGS[task.group == NAAP]
        self.longest: dict[int, int] = {}
        self.going_on = self.from_start = 0

    def train(self, row: int, epochs: int) -> float:
        """The accuracy of a code after so many epochs; one that was trained so far costs nothing again."""
        before = self.longest.get(row, 0)
        if epochs > before:
            self.longest[row] = epochs
            self.going_on += epochs - before
            self.from_start += epochs
        return float(self.curve[row, epochs - 1])

    def end(self, rows: Sequence[int]) -> float:
        """The regret of the best of some codes, trained in full."""
        return float(self.curve[:, -1].max() - max(self.train(row, self.epochs) for row in rows))


def drawn(task: Task, codes: int, seed: int) -> list[int]:
    """Random codes; fewer where the task has no more."""
    order = np.random.default_rng([seed, *b"drawn"]).permutation(len(task))
    return [int(row) for row in order[:codes]]


def best_of(values: dict[int, float], number: int) -> list[int]:
    """The rows of the largest values."""
    return sorted(values, key=lambda row: -values[row])[:number]


def i_epoch(task: Task, codes: int, seed: int, bill: Bill, *, rung: int, leaders: int) -> float:
    values = {row: bill.train(row, bill.rungs[rung]) for row in drawn(task, codes, seed)}
    return bill.end(best_of(values, leaders))


def in_full(task: Task, codes: int, seed: int, bill: Bill) -> float:
    return bill.end(drawn(task, codes, seed))


def halving(task: Task, codes: int, seed: int, bill: Bill) -> float:
    rows = drawn(task, codes, seed)
    for epochs in bill.rungs:
        values = {row: bill.train(row, epochs) for row in rows}
        rows = best_of(values, max(1, len(rows) // REDUCTION))
    return bill.end(rows)


def of_optuna(
    task: Task,
    codes: int,
    seed: int,
    bill: Bill,
    *,
    sampler: Callable[..., BaseSampler],
    pruner: Callable[[Bill], BasePruner],
) -> float:
    """A study that trains in full what its pruner lets through; the best of these is taken."""
    asking = Repaired(task, seed, sampler(seed=seed))
    asking.study.pruner = pruner(bill)
    for _ in range(min(codes, len(task))):
        row = asking.ask()
        trial = trial_of(asking.study, asking.numbers[row])
        for epochs in (*bill.rungs, bill.epochs):
            value = bill.train(row, epochs)
            trial.report(value, epochs)
            if epochs < bill.epochs and trial.should_prune():
                asking.study.tell(trial.number, state=TrialState.PRUNED)
                break
        else:
            asking.study.tell(trial.number, value)
    done = {row: float(bill.curve[row, -1]) for row, epochs in bill.longest.items() if epochs == bill.epochs}
    if not done:  # a bracket may stop all of the first ones
        done = {row: float(bill.curve[row, epochs - 1]) for row, epochs in bill.longest.items()}
    return bill.end(best_of(done, 1))


def bsszoo(task: Task, codes: int, seed: int, bill: Bill) -> float:
    sampler = AutoBSSSampler(task.candidates, batch_size=16, seed=seed)
    asking = Ours(task, seed, sampler)
    asking.study.pruner = HalvingPruner(REDUCTION, pilots=8)
    for _ in range(min(codes, len(task))):
        row = asking.ask()
        trial = trial_of(asking.study, asking.numbers[row])
        for rung, epochs in enumerate(bill.rungs[:-1]):
            trial.report(bill.train(row, epochs), rung)
            if trial.should_prune():
                asking.study.tell(trial.number, state=TrialState.PRUNED)
                break
        else:
            asking.study.tell(trial.number, bill.train(row, bill.rungs[-1]))
    leaders = [task.candidates.row(list(one.params.values())) for one in sampler.recommend(asking.study, LEADERS)]
    return bill.end([row for row in leaders if row is not None])


def trial_of(study: optuna.Study, number: int) -> Trial:
    """The trial of a number, to report to."""
    return Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)


def hyperband(bill: Bill) -> BasePruner:
    return HyperbandPruner(min_resource=bill.rungs[0], max_resource=bill.epochs, reduction_factor=REDUCTION)


def successive(bill: Bill) -> BasePruner:
    return SuccessiveHalvingPruner(min_resource=bill.rungs[0], reduction_factor=REDUCTION)


#: By name: numbers of codes, and what makes a run of one.
METHODS: dict[str, tuple[tuple[int, ...], Callable[[Task, int, int, Bill], float]]] = {
    **{
        f"i-epoch {share}{f' best {leaders}' if leaders > 1 else ''}": (
            (16, 24, 32, 48, 64, 96),
            partial(i_epoch, rung=rung, leaders=leaders),
        )
        for rung, share in enumerate(("1/9", "1/3"))
        for leaders in (1, 3, LEADERS)
    },
    "i-epoch in full": ((16, 24, 32, 48, 64, 96), in_full),
    "halving": ((16, 24, 32, 48, 64, 96), halving),
    "hyperband": ((32, 64, 96), partial(of_optuna, sampler=RandomSampler, pruner=hyperband)),
    "tpe-hyperband": ((32, 64, 96), partial(of_optuna, sampler=TPESampler, pruner=hyperband)),
    "gp-halving": ((32, 64), partial(of_optuna, sampler=GPSampler, pruner=successive)),
    "bsszoo": ((16, 24, 32, 48, 64), bsszoo),
}
BASELINE = "i-epoch"


def wanted(tasks: Sequence[Task], names: Sequence[str], seeds: int) -> Iterator[tuple[str, int, Task, int]]:
    """All runs, those of few seeds first."""
    for seed in range(seeds):
        for name in names:
            for codes in METHODS[name][0]:
                for task in tasks:
                    yield name, codes, task, seed


def read(file: Path) -> list[Run]:
    """The runs of a file, without a last line that was cut off."""
    if not file.exists():
        return []
    lines = file.read_text(encoding="utf-8").split("\n")
    return [Run(**json.loads(line)) for line in lines[:-1]]


def costs(runs: Sequence[Run], *, whole: bool) -> dict[tuple[str, int], FloatArray]:
    """Cost and regret [2, tasks, seeds] of each method and number of codes, of the seeds that all tasks have."""
    found: dict[tuple[str, int], dict[str, dict[int, tuple[float, float]]]] = {}
    for run in runs:
        by_task = found.setdefault((run.method, run.codes), {}).setdefault(run.task, {})
        by_task[run.seed] = (run.whole if whole else run.cost, run.regret)
    arrays = {}
    for key, tasks in found.items():
        seeds = sorted(set.intersection(*(set(by_seed) for by_seed in tasks.values())))
        values = [[tasks[task][seed] for seed in seeds] for task in sorted(tasks)]
        arrays[key] = np.moveaxis(np.array(values, dtype=np.float64), -1, 0)
    return arrays


def frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of (cost, regret) those that no other one has at most the cost and regret of, by rising cost."""
    kept: list[tuple[float, float]] = []
    for cost, regret in sorted(points):
        if not kept or regret < kept[-1][1]:
            kept.append((cost, regret))
    return kept


def cost_at(points: Sequence[tuple[float, float]], regret: float) -> float:
    """What a frontier needs for a regret; infinite beyond its end, and at its start no less than that."""
    if regret >= points[0][1]:
        return points[0][0]
    for (cost, high), (further, low) in itertools.pairwise(points):
        if low <= regret:
            return cost + (further - cost) * (high - regret) / (high - low)
    return float("inf")


def table(runs: Sequence[Run], *, whole: bool) -> str:
    """The comparison as Markdown."""
    arrays = costs(runs, whole=whole)
    rng = np.random.default_rng(0)

    def means(*, sample: bool) -> dict[tuple[str, int], tuple[float, float]]:
        drawn_means = {}
        for key, values in arrays.items():
            picks = rng.integers(values.shape[2], size=values.shape[2]) if sample else slice(None)
            cost, regret = values[:, :, picks].mean(axis=(1, 2))
            drawn_means[key] = (float(cost), float(regret))
        return drawn_means

    def shares(points: dict[tuple[str, int], tuple[float, float]]) -> dict[tuple[str, int], float]:
        base = frontier([point for (name, _), point in points.items() if name.startswith(BASELINE)])
        return {key: cost / cost_at(base, regret) for key, (cost, regret) in points.items()} if base else {}

    points = means(sample=False)
    share = shares(points)
    clouds = [shares(means(sample=True)) for _ in range(REPLICATES)]
    lines = [
        "| method | codes | cost [whole trainings] | regret [points] | share of i-epoch's cost | repeats |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for key in sorted(points, key=lambda k: (list(METHODS).index(k[0]), k[1])):
        (name, codes), (cost, regret) = key, points[key]
        deviation = arrays[key][1].mean(axis=0).std(ddof=1) / np.sqrt(arrays[key].shape[2])
        words = "-"
        if key in share and not name.startswith(BASELINE):
            low, high = np.quantile([cloud[key] for cloud in clouds], [0.025, 0.975])
            words = f"{share[key]:.2f} ({low:.2f} to {high:.2f})" if share[key] else "i-epoch does not reach it"
        lines.append(
            f"| {name} | {codes} | {cost:.1f} | {regret:.2f} ± {1.96 * deviation:.2f} | {words} | "
            f"{arrays[key].shape[2]} |"
        )
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="append", default=[], type=Path, metavar="PATH")
    parser.add_argument("--only", metavar="A,B", help=f"only these of {', '.join(METHODS)}")
    parser.add_argument("--seeds", type=int, default=40, help="repeats (default 40)")
    parser.add_argument("--out", type=Path, default=Path("schedules"), metavar="DIR")
    parser.add_argument("--whole", action="store_true", help="count each length as a training from the start")
    parser.add_argument("--show", action="store_true", help="run nothing; print what DIR holds")
    given = parser.parse_args(words)
    names = list(METHODS) if given.only is None else [name.strip() for name in given.only.split(",")]
    if unknown := [name for name in names if name not in METHODS]:
        parser.error(f"--only takes {', '.join(METHODS)}; given was {unknown[0]!r}")
    tasks = [task for path in given.table for task in read_table(path)]
    if without := [task.name for task in tasks if task.curve is None]:
        parser.error(f"there are no results of single epochs for {', '.join(without)}")
    if not tasks and not given.show:
        parser.error("nothing to search: give --table PATH (--help)")
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / FILE
    runs = read(file)
    if file.exists():  # a line that was cut off goes
        file.write_text("".join(json.dumps(asdict(run)) + "\n" for run in runs), encoding="utf-8")
    done = {(run.method, run.codes, run.task, run.seed) for run in runs}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    left = (
        []
        if given.show
        else [w for w in wanted(tasks, names, given.seeds) if (w[0], w[1], w[2].name, w[3]) not in done]
    )
    for number, (name, codes, task, seed) in enumerate(left, start=1):
        bill = Bill(task)
        regret = METHODS[name][1](task, codes, seed, bill)
        run = Run(name, codes, task.name, seed, bill.going_on / bill.epochs, bill.from_start / bill.epochs, regret)
        runs.append(run)
        with file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(run)) + "\n")
        if number % 100 == 0 or number == len(left):
            print(f"{number} of {len(left)} runs", file=sys.stderr)
    print(table([run for run in runs if run.method in names], whole=given.whole))


if __name__ == "__main__":
    main()

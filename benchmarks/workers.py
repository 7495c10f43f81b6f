"""What grows with the number of workers: regret and time on a virtual clock, and what storages carry.

    python benchmarks/workers.py --seeds 5                     1, 8, 64 and 256 workers on the virtual clock
    python benchmarks/workers.py --table nas_bench_macro.csv   the same on a table of trained networks
    python benchmarks/workers.py --storages --postgresql URL   real client processes on real storages
    python benchmarks/workers.py --feed 0.03,0.1               workers that wait, for asks of so many seconds

On the virtual clock the real sampler chooses, in a real Optuna study in memory; its asks are served one after the other
and take the processor time that they really take, against evaluations of an hour on average. Finished searches are
appended to a file, and the same command goes on where it was interrupted. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    # Read when numpy loads, so before it: the threads of several processes only hinder each other.
    for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[_variable] = "1"

import optuna
from searching.synthetic import synthetic_tasks
from searching.tables import read_table
from searching.task import TableError, Task
from simulation.feeding import table
from simulation.report import markdown
from simulation.searches import Outcome, Setting, run

if TYPE_CHECKING:
    from collections.abc import Sequence

BATCH = 16
STORAGES = ("memory", "journal", "postgresql", "grpc", "sqlite")
#: The synthetic tasks searched unless others are named: little noise and much.
TASKS = ("synthetic/interacting", "synthetic/noisy")


def arguments_of(words: Sequence[str] | None) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--table",
        action="append",
        default=[],
        type=Path,
        metavar="PATH",
        help="a table that benchmarks/search.py reads; without one, synthetic tasks are searched",
    )
    parser.add_argument(
        "--tasks", metavar="A,B", help=f"only these tasks (default of synthetic ones {','.join(TASKS)})"
    )
    parser.add_argument("--seeds", type=int, default=5, help="repeats of each search (default 5)")
    parser.add_argument(
        "--workers", default="1,8,64,256", metavar="A,B", help="numbers of workers (default 1,8,64,256)"
    )
    parser.add_argument("--evaluations", type=int, help="codes a search evaluates (default 512; 256 on a table)")
    parser.add_argument(
        "--evaluation-seconds",
        type=float,
        default=3600.0,
        metavar="S",
        help="seconds that an evaluation takes on average (default 3600)",
    )
    parser.add_argument(
        "--regret",
        type=float,
        default=0.1,
        metavar="R",
        help="regret to be reached, in standard deviations of the task's codes (default 0.1)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("workers-benchmark.jsonl"),
        metavar="FILE",
        help="file of the finished searches (default workers-benchmark.jsonl)",
    )
    parser.add_argument("--show", action="store_true", help="run nothing; print what FILE holds")
    parser.add_argument(
        "--storages",
        nargs="?",
        const=",".join(STORAGES),
        metavar="A,B",
        help=f"measure storages instead, all or some of {','.join(STORAGES)}",
    )
    parser.add_argument("--postgresql", metavar="URL", help="an empty database for --storages")
    parser.add_argument(
        "--feed", metavar="S,S", help="print how many workers a study feeds whose asks take so long [s]"
    )
    parser.add_argument("--trials", type=int, default=96, help="trials of each row of --storages (default 96)")
    given = parser.parse_args(words)
    try:
        given.numbers = [int(w) for w in given.workers.split(",")]
        given.asks = [float(s) for s in given.feed.split(",")] if given.feed is not None else []
    except ValueError:
        parser.error(
            f"--workers and --feed take numbers separated by commas; given were {given.workers!r} and {given.feed!r}"
        )
    if any(s <= 0 for s in given.asks):
        parser.error(f"--feed takes seconds above 0; given was {given.feed!r}")
    if given.storages is not None and (not given.storages or set(given.storages.split(",")) - set(STORAGES)):
        parser.error(f"--storages takes some of {','.join(STORAGES)}; given was {given.storages!r}")
    for name, value in (
        ("workers", min(given.numbers)),
        ("seeds", given.seeds),
        ("trials", given.trials),
        ("evaluations", given.evaluations or 1),
    ):
        if value < 1:
            parser.error(f"--{name} is at least 1; given was {value}")
    if not given.evaluation_seconds > 0:
        parser.error(f"--evaluation-seconds is above 0; given was {given.evaluation_seconds}")
    return parser, given


def tasks_of(given: argparse.Namespace) -> list[Task]:
    """The tasks to be searched.

    Raises:
        TableError: A table cannot be read, or there is no task of a given name.
    """
    tasks = [t for path in given.table for t in read_table(path)] if given.table else synthetic_tasks()
    names = [t.name for t in tasks]
    wanted = given.tasks.split(",") if given.tasks else names if given.table else list(TASKS)
    unknown = [n for n in wanted if n not in names]
    if unknown:
        raise TableError(f"There is no task {', '.join(unknown)}; there are {', '.join(names)}.")
    return [t for t in tasks if t.name in wanted]


def settings_of(given: argparse.Namespace, tasks: Sequence[Task]) -> list[tuple[Task, Setting]]:
    """All searches, seed by seed, so that what an interruption leaves holds all numbers of workers alike."""
    most = given.evaluations or (256 if given.table else 512)
    found = []
    for seed in range(given.seeds):
        for task in tasks:
            for workers in given.numbers:
                # A first iteration of as many codes as workers, beside the usual one of 16; and random search.
                for batch in sorted({0, BATCH, max(workers, BATCH)}):
                    evaluations = min(most, len(task))
                    found.append(
                        (task, Setting(task.name, batch, workers, seed, evaluations, given.evaluation_seconds))
                    )
    return found


def read(path: Path) -> list[Outcome]:
    """The searches of a file; a line cut short by an interruption is passed over."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            entry: dict[str, Any] = json.loads(line)
            found.append(Outcome(**{**entry, "setting": Setting(**entry["setting"])}))
        except (ValueError, KeyError, TypeError):
            print(f"{path}: passed over a line that is no whole search", file=sys.stderr)
    return found


def append(path: Path, outcome: Outcome) -> None:
    torn = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
    with path.open("a", encoding="utf-8") as file:
        file.write(("\n" if torn else "") + json.dumps(dataclasses.asdict(outcome)) + "\n")


def main(words: Sequence[str] | None = None) -> None:
    parser, given = arguments_of(words)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if given.asks:
        print("\n".join(table(given.asks)))
        return
    if given.storages:
        # Only here: it takes the drivers of databases.
        from simulation.traffic import tables

        names = [n for n in given.storages.split(",") if n != "postgresql" or given.postgresql]
        for line in tables(names, given.postgresql, given.trials):
            print(line, flush=True)
        return
    try:
        plan = settings_of(given, tasks_of(given))
    except TableError as error:
        parser.error(str(error))
    done = {(o.setting, o.digest): o for o in read(given.out)}
    for count, (task, setting) in enumerate(plan, 1):
        if given.show or (setting, task.digest) in done:
            continue
        done[setting, task.digest] = outcome = run(task, setting)
        append(given.out, outcome)
        print(
            f"{count}/{len(plan)}: {setting.task}, seed {setting.seed}, {setting.workers} workers, batch_size "
            f"{setting.batch}: regret {outcome.picked[-1]}",
            file=sys.stderr,
            flush=True,
        )
    outcomes = [done[setting, task.digest] for task, setting in plan if (setting, task.digest) in done]
    if not outcomes:
        parser.error(f"{given.out} holds no such search")
    print(markdown(outcomes, given.regret))


if __name__ == "__main__":
    main()

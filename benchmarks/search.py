"""Search algorithms compared on tables of trained networks, at equal numbers of evaluations."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    # Read when numpy and torch load, so before both: several threads of several processes only hinder each other.
    for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[_variable] = "1"

from searching.ledger import FILE, Ledger, chosen, key_of
from searching.report import markdown
from searching.samplers import SAMPLERS, missing
from searching.schedule import Plan, execute
from searching.synthetic import synthetic_tasks
from searching.tables import read_table
from searching.task import TableError, Task

if TYPE_CHECKING:
    from collections.abc import Sequence

PLOTS = (".svg", ".png", ".pdf")

DETAILS = f"""
Examples:
  python benchmarks/search.py --synthetic --seeds 5 --only random,hill,default
  python benchmarks/search.py --table nas_bench_macro.csv --table transnas_macro_subset.csv --out runs --plot runs.svg
  python benchmarks/search.py --out runs --show

Tables, known by their columns; none comes with bsszoo:
  NAS-Bench-Macro, github.com/xiusu/NAS-Bench-Macro (Apache-2.0), its nas-bench-macro_cifar10.json or a CSV of it with
      the columns l1 .. l8, flops, acc_s0 ..: three tasks, the networks up to the 0.3, 0.5 and 0.7 quantile of MACs
  TransNAS-Bench-101 macro subset, github.com/automl/NASLib, branch zerocost (Apache-2.0), as a CSV with the columns
      m1 .. m6, macs_m and the tasks' results: seven tasks
  NAAP-440, github.com/talcs/NAAP-440 (MIT): 440 small networks on CIFAR-10, three tasks, the thirds by MACs
  ResNets on TinyImageNet, github.com/MITAutoML/accelerating_nas (MIT): four tasks, the quarters by cost

Samplers:
{chr(10).join(f"  {name:15} {entry.what}" for name, entry in SAMPLERS.items())}

The protocol: the budget is counted in trainings. A sampler has codes trained in batches and learns a batch's results
when it is complete. What it learns of a code is one of the code's trainings, the same one for all samplers in the same
repeat; one that has a code trained again learns another. Regret is counted in mean
results, against the best code of the task. Figures are divided by those of random search on the same task.

Runs are appended to DIR/{FILE} as they end. The same command again goes on where it was interrupted, and prints.
"""


def arguments_of(words: Sequence[str] | None) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """The command line, checked as far as it can be without reading a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=DETAILS, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--table",
        action="append",
        default=[],
        type=Path,
        metavar="PATH",
        help="a table of trained networks; may be given several times",
    )
    parser.add_argument("--synthetic", action="store_true", help="also five tasks made from a seed; needs no table")
    parser.add_argument("--only", metavar="A,B", help="only these samplers (and random, which all is relative to)")
    parser.add_argument("--seeds", type=int, default=40, help="repeats of each sampler on each task (default 40)")
    parser.add_argument("--evaluations", type=int, default=64, help="codes a run evaluates (default 64)")
    parser.add_argument("--batch", type=int, default=16, help="codes evaluated at a time (default 16)")
    parser.add_argument("--jobs", type=int, default=1, help="processes, of one thread each (default 1)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("search-benchmark"),
        metavar="DIR",
        help="folder of the runs (default search-benchmark)",
    )
    parser.add_argument("--show", action="store_true", help="run nothing; print what DIR holds")
    parser.add_argument("--plot", type=Path, metavar="FILE", help=f"also draw the regrets: {', '.join(PLOTS)}")
    given = parser.parse_args(words)
    for name in ("seeds", "evaluations", "batch", "jobs"):
        if getattr(given, name) < 1:
            parser.error(f"--{name} is at least 1; given was {getattr(given, name)}")
    if given.plot is not None and given.plot.suffix.lower() not in PLOTS:
        parser.error(f"--plot ends in one of {', '.join(PLOTS)}; given was {given.plot}")
    names = list(SAMPLERS) if given.only is None else [n.strip() for n in given.only.split(",") if n.strip()]
    unknown = [n for n in names if n not in SAMPLERS]
    if unknown or not names:
        parser.error(f"--only takes samplers, separated by commas: {', '.join(SAMPLERS)}; given was {given.only!r}")
    given.names = [n for n in SAMPLERS if n in names or n == "random"]
    if not (given.table or given.synthetic or given.show):
        parser.error("nothing to search: give --table PATH, --synthetic or both (--help says where tables come from)")
    return parser, given


def tasks_of(given: argparse.Namespace) -> list[Task]:
    """The tasks of all tables.

    Raises:
        TableError: A table is unknown, two hold the same tasks, or one holds fewer codes than a run evaluates.
    """
    tasks = [task for path in given.table for task in read_table(path)]
    if given.synthetic:
        tasks += synthetic_tasks()
    names = [t.name for t in tasks]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise TableError(f"Two tables hold the same tasks: {', '.join(twice)}. Give one of them.")
    small = [f"{t.name} ({len(t)} codes)" for t in tasks if len(t) < given.evaluations]
    if small:
        raise TableError(f"--evaluations {given.evaluations} is more than {', '.join(small)} can give.")
    return tasks


def main(words: Sequence[str] | None = None) -> None:
    parser, given = arguments_of(words)
    try:
        tasks = tasks_of(given)
    except TableError as error:
        parser.error(str(error))
    by_name = {t.name: t for t in tasks} or None
    ledger = Ledger(given.out)
    protocol = {"evaluations": given.evaluations, "batch": given.batch}
    if not given.show:
        plan = Plan(tasks, [n for n in given.names if n not in missing()], given.seeds, **protocol)
        done = [key_of(run) for run in chosen(ledger.read(), tasks=by_name, **protocol)]
        try:
            execute(plan, ledger, done, jobs=given.jobs)
        except KeyboardInterrupt:
            print(f"Interrupted; {ledger.path} holds what was run, and the same command goes on.", file=sys.stderr)
            raise SystemExit(130) from None
    runs = chosen(ledger.read(), tasks=by_name, seeds=given.seeds, **protocol)
    runs = [run for run in runs if run.sampler in given.names]
    if not any(run.sampler == "random" for run in runs):
        parser.error(
            f"{ledger.path} holds no run of random search with {given.evaluations} evaluations in batches of "
            f"{given.batch}, which all figures are relative to"
        )
    absent = {n: why for n, why in missing().items() if n in given.names and all(r.sampler != n for r in runs)}
    print(markdown(runs, absent))
    if given.plot is not None:
        from searching.plot import draw

        draw(runs, given.plot)
        print(f"Plot: {given.plot}", file=sys.stderr)


if __name__ == "__main__":
    main()

"""Does it help a smaller network to start from the weights of the original, or to be taught by it, at equal epochs?

    python benchmarks/inheriting.py recipe.yaml --data DIR --original NAME_OR_CODE --weights WEIGHTS --code CODE

Trains the code by the recipe with fresh weights, from the original's (`--inherit` of `bsszoo compress`), taught by the
original (`--teacher`) and both, for each number of epochs and each seed, by what `bsszoo compress --finish` runs, and
prints a table of accuracies on the validation split with 95% intervals over the seeds. Trainings are kept in --out; the
same command goes on.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bsszoo.codes.code import Code
from bsszoo.compression.confirm import difference, format_interval, mean_interval
from bsszoo.compression.finish import Finish, finish
from bsszoo.models.names import resolve_code
from bsszoo.train.classification.recipe import read_recipe, with_values

WAYS = ("fresh", "inherit", "teacher", "both")


def main() -> None:
    given = _arguments()
    original, code = resolve_code(given.original), resolve_code(given.code)
    print("| epochs | start | top-1 [%] | against fresh | trainings |\n|---:|---|---:|---:|---:|")
    carried = ""
    for epochs in (int(e) for e in given.epochs.split(",")):
        fresh: list[float] = []
        for way in given.ways.split(","):
            found = []
            for seed in range(given.seeds):
                top1, words = _train(given, way, epochs, seed, code, original)
                found.append(top1)
                carried = words or carried
                print(f"{way}, {epochs} epochs, seed {seed}: {top1:.2f}", file=sys.stderr, flush=True)
            fresh = found if way == "fresh" else fresh
            against = "" if way == "fresh" or not fresh else format_interval(difference(found, fresh), sign=True)
            print(
                f"| {epochs} | {way} | {format_interval(mean_interval(found))} | {against} | {len(found)} |", flush=True
            )
    if carried:
        print(f"\nInherited: {carried}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="a recipe's YAML file; its network does not matter")
    parser.add_argument("--data", help="the folder of the images")
    parser.add_argument("--original", required=True, metavar="NAME_OR_CODE")
    parser.add_argument("--weights", required=True, help="the original's weights, as bsszoo.create takes them")
    parser.add_argument("--code", required=True, metavar="NAME_OR_CODE", help="the smaller network")
    parser.add_argument("--epochs", default="1,4", metavar="A,B", help="numbers of epochs (default 1,4)")
    parser.add_argument("--ways", default=",".join(WAYS), metavar="A,B", help=f"of {', '.join(WAYS)} (default all)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--subset", type=float, help="share of the images to train on")
    parser.add_argument("--out", type=Path, default=Path("inheriting"))
    given = parser.parse_args()
    if unknown := set(given.ways.split(",")) - set(WAYS):
        parser.error(f"--ways takes {', '.join(WAYS)}; given was {', '.join(sorted(unknown))}")
    return given


def _train(
    given: argparse.Namespace, way: str, epochs: int, seed: int, code: Code, original: Code
) -> tuple[float, str | None]:
    recipe = read_recipe(given.recipe)
    warm = recipe.schedule.warmup_epochs * epochs / recipe.schedule.epochs
    recipe = with_values(
        recipe,
        schedule={"epochs": epochs, "warmup_epochs": warm},
        run={"seed": seed},
        data={} if given.subset is None else {"subset": given.subset},
    )
    how = Finish(
        recipe,
        given.data,
        teacher=given.weights if way in ("teacher", "both") else None,
        inherit=given.weights if way in ("inherit", "both") else None,
    )
    folder = given.out / f"{way}_epochs{epochs}_seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    done = finish(how, code, original, folder)
    return done.top1, done.inherited


if __name__ == "__main__":
    main()

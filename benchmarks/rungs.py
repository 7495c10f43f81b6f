"""How well each rung of a trained network's compression ranks subnetworks as a fine-tuning in full does.

    python benchmarks/rungs.py --folder work           # goes on where it stopped; data and bases are compression.py's
    python benchmarks/rungs.py --folder work --table

Random subnetworks within a budget are fitted (rung 0), fine-tuned for 300 updates (rung 1, the score), and in full by
the loop of ``compression.py``. Spearman's correlation of each rung's figures with the test accuracy in full, over the
codes of a network and budget; intervals by bootstrap over codes.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
import types
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import compression as rivals

FIGURES = {
    "fitted, divergence": "fitted_nearness",
    "fitted, accuracy": "fitted_top1",
    "300 updates, divergence": "short_nearness",
    "300 updates, accuracy": "short_top1",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--networks", nargs="+", default=list(rivals.CODES), choices=list(rivals.CODES))
    parser.add_argument("--pictures", default="fashion", choices=rivals.PICTURES)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.5, 0.3])
    parser.add_argument("--codes", type=int, default=16, help="of each network and share (default 16)")
    parser.add_argument("--seeds", type=int, default=1, help="fine-tunings in full of each (default 1)")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--source", type=Path, default=rivals.DEBIAN)
    parser.add_argument("--table", action="store_true", help="print the table of what is there, and end")
    given = parser.parse_args()
    out = given.folder / "rungs.jsonl"
    if not given.table:
        os.environ["OMP_NUM_THREADS"] = "1"
        for network in given.networks:
            for share in given.shares:
                run(given, network, share, out)
    table(out)


def run(given: Any, network: str, share: float, out: Path) -> None:
    """All figures of the codes of a network and share that are not yet in the file."""
    import torch

    from bsszoo.evaluators.inherited import InheritedEvaluator
    from bsszoo.evaluators.registry import Request
    from bsszoo.models.resolve import resolve
    from bsszoo.options import TrainingOptions
    from bsszoo.spaces import Limits, draw_candidates
    from bsszoo.train.classification.in_memory import accuracy, outputs

    torch.set_num_threads(1)
    done = {(r["network"], r["share"], r["code"]) for r in read(out)}
    job = rivals.Job("rungs", (), given.pictures, network, 0, share)
    settings = types.SimpleNamespace(**vars(given), device="cpu", base_epochs=6)
    data = make_base(settings, job)
    original = rivals.original_of(settings, job, data)
    options = TrainingOptions(data=str(given.folder / given.pictures / "tools"), image_size=rivals.SIZE)
    folder = given.folder / f"rungs_{given.pictures}_{network}"
    request = Request(resolve(str(rivals.base_file(settings, job))), options, folder, tested=False)
    judge = InheritedEvaluator.requested(request)
    shared, space = judge.shared(), judge.space(request.network)
    whole = space.cost(request.network.code).macs
    limits = Limits(min_macs=int(0.9 * share * whole), max_macs=int(share * whole))
    drawn = draw_candidates(space, limits, 2000, 0)
    if drawn is None:
        raise SystemExit(f"{network} has no subnetwork of {share:.0%} of the MACs")
    for row in drawn.codes[: given.codes]:
        code = space.code(row)
        if (network, share, str(code)) in done:
            continue
        fitted = shared.subnetwork(code)
        short = copy.deepcopy(fitted)
        shared.fine_tune(short, judge.judging, epochs=judge.epochs, seed=0, threads=1)
        found = {"network": network, "share": share, "code": str(code), "macs": space.cost(code).macs}
        for name, made in (("fitted", fitted), ("short", short)):
            held = accuracy(outputs(made, shared.held, shared.normalise), shared.held.labels)
            found |= {f"{name}_nearness": shared.nearness(made), f"{name}_top1": held.top1}
        ends = [
            rivals.tuned(settings, job, fitted, data, original, rivals.RATES[True][0], seed)[0]
            for seed in range(given.seeds)
        ]
        found["full_top1"] = float(np.mean(ends))
        with out.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(found) + "\n")
        print(json.dumps(found), file=sys.stderr, flush=True)


def make_base(settings: Any, job: rivals.Job) -> rivals.Pictures:
    """The pictures, and a base network where there is none."""
    if not (settings.folder / job.pictures).exists():
        rivals.draw(settings, job, None)
    data = rivals.Pictures(settings, job.pictures)
    if not rivals.base_file(settings, job).exists():
        print(rivals.base(settings, job, data), file=sys.stderr)
    return data


def read(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()] if out.exists() else []


def table(out: Path) -> None:
    """Spearman's correlations, with 95% bootstrap intervals."""
    from scipy.stats import spearmanr

    groups: dict[tuple[str, float], list[dict[str, Any]]] = defaultdict(list)
    for row in read(out):
        groups[row["network"], row["share"]].append(row)
    rng = np.random.default_rng(0)
    print(f"| network | MACs | codes | accuracy in full | {' | '.join(FIGURES)} |")
    print("|---" * (4 + len(FIGURES)) + "|")
    for (network, share), rows in groups.items():
        full = np.array([row["full_top1"] for row in rows])
        cells = []
        for key in FIGURES.values():
            values = np.array([row[key] for row in rows])
            again = []
            for _ in range(2000):
                some = rng.integers(0, len(rows), len(rows))
                again.append(spearmanr(values[some], full[some]).statistic)
            low, high = np.nanquantile(again, (0.025, 0.975))
            cells.append(f"{spearmanr(values, full).statistic:.2f} ({low:.2f} to {high:.2f})")
        print(f"| {network} | {share:.0%} | {len(rows)} | {full.min():.1f} to {full.max():.1f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

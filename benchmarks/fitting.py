"""What fitting the layers of a subnetwork by least squares gives, before any fine-tuning.

    python benchmarks/fitting.py runs/mine --data pictures

Prints a Markdown table: the accuracy on held-out training images of uniformly narrower subnetworks of a trained
network, their weights inherited as they are, and fitted to the network's own layers; with the processor seconds.
Channels are chosen by the norms of weights, or by the change of the loss (Taylor). One network, no training: a figure
varies with the network and its training, not with a seed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", help="a training's folder, or another network with weights")
    parser.add_argument("--data", help="the folder of the images that it was trained on")
    parser.add_argument("--dataset", help="how the folder is read (default folder)")
    parser.add_argument("--subset", type=float, help="share of the training images")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.5, 0.3], help="of the MACs (default 0.5 0.3)")
    given = parser.parse_args()
    for line in rows(given):
        print(line, flush=True)


def rows(given: Any) -> Any:
    from bsszoo.evaluators.inherited import InheritedEvaluator
    from bsszoo.evaluators.registry import Request
    from bsszoo.models.build import build
    from bsszoo.models.inherit import Reference, inherit_weights
    from bsszoo.models.resolve import resolve
    from bsszoo.options import TrainingOptions
    from bsszoo.spaces.space import fit_subnetwork
    from bsszoo.train.classification.in_memory import accuracy, outputs, recompute_norms
    from bsszoo.train.classification.trained import NORM_IMAGES

    with tempfile.TemporaryDirectory() as folder:
        network = resolve(given.network)
        options = TrainingOptions(data=given.data, dataset=given.dataset, subset=given.subset)
        judge = InheritedEvaluator.requested(Request(network, options, Path(folder), tested=False))
        shared, space = judge.shared(), judge.space(judge.searched(network))
        chosen = shared.train.some(1000)
        images, labels = shared.normalise(shared.train.centres(chosen)), shared.train.labels[chosen.tolist()]
        ways = {
            "inherited": None,
            "fitted": Reference(shared.network, shared.code, images),
            "fitted, channels by Taylor": Reference(shared.network, shared.code, images, labels),
        }
        whole = space.cost(shared.code).macs
        yield "| network | MACs | weights | held-out accuracy [%] | processor seconds |"
        yield "|---|---|---|---|---|"
        yield f"| {shared.code} | 100% | its own | {shared.accuracy.top1:.2f} of {shared.accuracy.images:,} | |"
        for share in given.shares:
            code = fit_subnetwork(space, int(share * whole))
            if code is None:
                yield f"| none within {share:g} | | | | |"
                continue
            for name, reference in ways.items():
                start = time.process_time()
                small = build(code, num_classes=space.num_classes, in_chans=space.in_chans).to(shared.device)
                inherit_weights(small, code, shared.network, shared.code, reference=reference)
                recompute_norms(small, shared.train, shared.normalise, number=NORM_IMAGES)
                seconds = time.process_time() - start
                found = accuracy(outputs(small, shared.held, shared.normalise), shared.held.labels)
                macs = 100 * space.cost(code).macs / whole
                yield f"| {code} | {macs:.0f}% | {name} | {found.top1:.2f} | {seconds:.1f} |"


if __name__ == "__main__":
    main()

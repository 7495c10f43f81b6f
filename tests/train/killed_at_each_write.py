"""Trains in child processes that kill themselves at each replacement of a file in turn, and resumes each.

    python killed_at_each_write.py FOLDER

Writes FOLDER/found.json: for the training that nothing stopped and for each other one the digests of its files.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import signal
import sys
from pathlib import Path

import torch

from bsszoo.train.classification.recipe import read_recipe
from bsszoo.train.loop import train

# The second epoch is the better one, so that the best weights are written twice.
TEXT = """
model: {name: 'resnet18_c8-8-8-8_l1-1-1-1', num_classes: 4}
data: {dataset: synthetic/32, image_size: 32}
optim: {lr: 0.05, batch_size: 16, weight_decay: 0.001}
schedule: {epochs: 2}
ema: {decay: 0.3}
run: {seed: 6, workers: 0, device_batch: 8}
"""


def main(root: Path) -> None:
    torch.set_num_threads(1)
    (root / "recipe.yaml").write_text(TEXT)
    assert _child(root, root / "whole", None) == 0
    found = {"whole": _files(root / "whole")}
    for number in range(100):
        out = root / f"killed{number}"
        status = _child(root, out, number)
        if status == 0:
            break
        assert status == -signal.SIGKILL, status
        assert _child(root, out, None) == 0
        found[out.name] = _files(out)
    (root / "found.json").write_text(json.dumps(found))


def _child(root: Path, out: Path, kill_at: int | None) -> int:
    """Train in a process of its own; killed right before its replacement ``kill_at`` of a file."""
    child = os.fork()
    if not child:
        status = 1
        try:
            if kill_at is not None:
                _die_at(kill_at)
            train(read_recipe(root / "recipe.yaml"), None, out, device="cpu")
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _die_at(number: int) -> None:
    replace, left = Path.replace, iter(range(number))

    def counted(self: Path, target: Path) -> Path:
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(self, target)

    Path.replace = counted  # type: ignore[method-assign, assignment]


def _files(out: Path) -> dict[str, object]:
    summary = json.loads((out / "summary.json").read_text())
    rows = list(csv.DictReader((out / "metrics.csv").open()))
    checksums = {
        k: hashlib.sha256((out / k).read_bytes()).hexdigest() for k in ("model.safetensors", "best.safetensors")
    }
    return {
        **checksums,
        "summary": {k: summary[k] for k in ("best_epoch", "best_top1", "top1", "sha256", "best_sha256")},
        "rows": [[r[k] for k in ("epoch", "update", "train_loss", "val_loss", "top1")] for r in rows],
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))

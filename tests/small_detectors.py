"""Data and recipes of detectors that train in seconds, and the command that trains them in processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked

from bsszoo.train.detection.recipe import DetectionRecipe, read_any_recipe

MASKS = "maskrcnn_fpn8_resnet18_c8-8-16-16_l1-1-1-1"
BOXES = "retinanet_fpn8_mobilenetv2_c8-8-16-16-24-24_l1-1-1-1-1-1_t3-3-3-3-3-3_stem8_stage2-8x1"

TEXT = f"""
model: {{name: {MASKS}, anchor_size: 8, proposals: 8, detections: 20}}
data: {{train_split: train, val_split: val, image_size: 64, max_size: 128}}
optim: {{lr: 0.01, batch_size: 4, weight_decay: 0.0001}}
schedule: {{updates: 6, warmup_updates: 2, validate_every: 4}}
run: {{workers: 0, device_batch: 2, checkpoint_minutes: 0.00001}}
"""


def changed_copy(shapes: Path, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of a data set in COCO's format below a folder, the training split's annotations changed."""
    root = folder / "changed"
    shutil.copytree(shapes, root)
    file = root / "annotations" / "instances_train.json"
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))
    return root


def small_recipe(folder: Path, *assignments: str) -> DetectionRecipe:
    file = folder / "small.yaml"
    file.write_text(TEXT, encoding="utf-8")
    recipe = read_any_recipe(file, assignments)
    assert isinstance(recipe, DetectionRecipe)
    return recipe


def command(folder: Path, data: Path, out: Path, *assignments: str, processes: int = 1) -> list[str]:
    file = folder / "small.yaml"
    file.write_text(TEXT, encoding="utf-8")
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    sets = [part for a in assignments for part in ("--set", a)]
    return [
        *launcher,
        "-m",
        "bsszoo",
        "train",
        str(file),
        "--data",
        str(data),
        "--out",
        str(out),
        "--device",
        "cpu",
        *sets,
    ]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def run(folder: Path, data: Path, out: Path, *assignments: str, processes: int = 1) -> subprocess.CompletedProcess[str]:
    words = command(folder, data, out, *assignments, processes=processes)
    if processes == 1:
        return forked.run(words[1:], env=environment())
    return subprocess.run(words, capture_output=True, text=True, env=environment())

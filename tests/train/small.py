"""A recipe that trains in seconds, and the command that trains it in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import forked

from bsszoo.train.classification.recipe import Recipe, read_recipe

CODE = "mobilenetv2_c8-8-16-16-24-24_l1-1-1-1-1-1_t3-3-3-3-3-3_stem8_stage2-8x1"

TEXT = f"""
model: {{name: {CODE}, num_classes: 4, drop_rate: 0.2, drop_path_rate: 0.1}}
data: {{dataset: synthetic/256, image_size: 32}}
augment: {{auto_augment: original, erase: 0.0, color_jitter: 0.2}}
optim: {{lr: 0.05, batch_size: 32, weight_decay: 0.0001}}
schedule: {{epochs: 2, warmup_epochs: 0.5}}
loss: {{label_smoothing: 0.1}}
run: {{workers: 0, device_batch: 16, checkpoint_minutes: 0.00001}}
"""


def small_recipe(folder: Path, *assignments: str) -> Recipe:
    file = folder / "small.yaml"
    file.write_text(TEXT, encoding="utf-8")
    return read_recipe(file, assignments)


def command(folder: Path, out: Path, *assignments: str, processes: int = 1, torchrun: bool = False) -> list[str]:
    file = folder / "small.yaml"
    file.write_text(TEXT, encoding="utf-8")
    launcher = [sys.executable]
    if processes > 1 or torchrun:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    sets = [part for a in assignments for part in ("--set", a)]
    return [*launcher, "-m", "bsszoo", "train", str(file), "--out", str(out), "--device", "cpu", *sets]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def run(
    folder: Path, out: Path, *assignments: str, processes: int = 1, torchrun: bool = False
) -> subprocess.CompletedProcess[str]:
    words = command(folder, out, *assignments, processes=processes, torchrun=torchrun)
    if processes == 1 and not torchrun:
        return forked.run(words[1:], env=environment())
    return subprocess.run(words, capture_output=True, text=True, env=environment())

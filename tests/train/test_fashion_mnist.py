"""Real images: Fashion-MNIST as Debian's package dataset-fashion-mnist installs it. Skipped where it is not there."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from train.small import environment

from bsszoo.train.classification.validate import validate

RECIPE = Path(__file__).parents[2] / "recipes" / "fashion_mnist" / "resnet18_130m.yaml"


def killed_and_resumed(data: Path, out: Path, *assignments: str, after: str) -> dict[str, float]:
    """The summary of a training that is killed (SIGKILL) once a file is there, and then run again."""
    words = [
        sys.executable,
        "-m",
        "bsszoo",
        "train",
        str(RECIPE),
        "--data",
        str(data),
        "--out",
        str(out),
        "--device",
        "cpu",
        *(part for a in assignments for part in ("--set", a)),
    ]
    process = subprocess.Popen(words, env=environment(), stderr=subprocess.DEVNULL)
    while process.poll() is None and not (out / after).exists():
        time.sleep(0.05)
    time.sleep(0.5)
    assert process.poll() is None, "it ended before it was killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    again = subprocess.run(words, env=environment(), capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "resumed after" in again.stderr
    summary: dict[str, float] = json.loads((out / "summary.json").read_text())
    return summary


@pytest.mark.slow
def test_a_tenth_of_the_images_teaches_it_most_classes_in_seconds(clothes: Path, tmp_path: Path) -> None:
    summary = killed_and_resumed(
        clothes,
        tmp_path,
        "data.subset=0.1",
        "schedule.epochs=3",
        "schedule.warmup_epochs=0.3",
        "run.checkpoint_minutes=0.01",
        after="metrics.csv",
    )
    assert (summary["train_pictures"], summary["val_pictures"]) == (6000, 10000)
    assert summary["top1"] > 70
    assert validate(tmp_path, clothes, device="cpu").top1 == summary["top1"]


@pytest.mark.slow
def test_a_130m_network_learns_it_to_ninety_per_cent_killed_and_resumed_on_the_way(
    clothes: Path, tmp_path: Path
) -> None:
    assert killed_and_resumed(clothes, tmp_path, after="metrics.csv")["top1"] >= 90

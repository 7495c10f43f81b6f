"""Images a second and peak memory of a detector's training, beside torchvision's reference training."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from functools import partial

from in_turns import result_of

from on_gpu.data import coco
from on_gpu.steps import ROOT, Part, Row, Rows, Setting, Step

#: Pairs of runs of each precision.
PAIRS = {"float32": 2, "bfloat16": 1, "float16": 1}
TOY_PAIRS = {"float32": 1, "float16": 1}


def beside(setting: Setting, rows: Rows) -> None:
    """``benchmarks/detection.py`` on drawn shapes as large as COCO's images, one process for each run."""
    toy = setting.toy
    data = coco(setting, train=16 if toy else 160, val=4, times=1 if toy else 4)
    batch, updates, px, proposals = (2, 4, 64, 8) if toy else (4, 30, 800, 512)
    words = ["--data", str(data), "--models", "maskrcnn_resnet50", "--torchvision", "--device", setting.device]
    words += ["--batch", str(batch), "--updates", str(updates), "--image-size", str(px), "--anchor-size", "32"]
    words += ["--proposals", str(proposals), "--workers", str(min(8, setting.workers))]
    for precision, pairs in (TOY_PAIRS if toy else PAIRS).items():
        names: Row = {"precision": precision, "batch": batch, "px": px, "updates": updates}
        if precision == "float16" and not setting.gpu:
            rows.keep(precision, lambda names=names: {**names, "skipped": "float16 takes a GPU"})  # type: ignore[misc]
            continue
        for pair in range(pairs):
            for who in ("ours", "reference") if pair % 2 == 0 else ("reference", "ours"):
                run = partial(_run, [*words, "--precision", precision, "--one", who], {**names, "who": who})
                rows.keep(f"{precision} {pair + 1} {who}", run)


def _run(words: Sequence[str], names: Row) -> Row:
    return {**names, **result_of([sys.executable, str(ROOT / "benchmarks" / "detection.py"), *words])}


def table(rows: Sequence[Row]) -> list[str]:
    """Medians over runs (least to most)."""
    lines = [
        "| Mask R-CNN, ResNet-50 | batch | torchvision's loop [images/s] | bsszoo [images/s] | bsszoo / torchvision "
        "| runs | peak memory, torchvision [MB] | bsszoo / torchvision |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for precision in dict.fromkeys(row["precision"] for row in rows):
        own = [row for row in rows if row["precision"] == precision]
        names = f"| {precision}, shorter side {own[0]['px']} px | {own[0]['batch']} |"
        ours, theirs = ([r for r in own if r.get("who") == who] for who in ("ours", "reference"))
        if "skipped" in own[0] or not ours or not theirs:
            lines.append(f"{names} {own[0].get('skipped', 'not finished')} | | | | | |")
            continue
        speeds = [[r["images_per_s"] for r in group] for group in (theirs, ours)]
        memory = [max(r["peak_mb"] for r in group) for group in (theirs, ours)]
        shown = [f"{statistics.median(s):.1f} ({min(s):.1f} to {max(s):.1f})" for s in speeds]
        ratio = statistics.median(speeds[1]) / statistics.median(speeds[0])
        lines.append(
            f"{names} {shown[0]} | {shown[1]} | {ratio:.3f} | {len(theirs)} + {len(ours)} | {memory[0]:,.0f} "
            f"| {memory[1] / memory[0]:.3f} |"
        )
    return lines


PART = Part(
    "detection",
    "A detector's training beside torchvision's reference training; the second half of the updates of each run",
    [Step("detection", beside, 130, 330)],
    table,
)

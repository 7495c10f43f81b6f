"""A detector's training beside torchvision's reference training: images a second and peak memory of the same model.

    python examples/detection/shapes_coco.py shapes --train 400 --val 40
    python benchmarks/detection.py --data shapes                        what the README quotes, on this machine's CPU
    python benchmarks/detection.py --data /data/coco --train-split train2017 --val-split val2017 --device cuda \\
        --models maskrcnn_resnet50,maskrcnn_resnet50_autobss --image-size 800 --batch 2 --updates 300 --workers 4

Each run is a process of its own; the second half of its updates is timed. Ours is `bsszoo.train.detection.task`'s
training; the peer is the loop below, which does what torchvision's references/detection does: COCO's polygons to masks
by pycocotools, a random flip, images grouped by aspect ratio, SGD, one update a batch, autocast and a gradient scaler
where asked. Both train the same module, or ``--torchvision`` the same architecture, and take turns.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from in_turns import cells, peak_mb, result_of, take_turns

FORMS = (("images_per_s", "{:.1f}"), ("peak_mb", "{:,.0f}"))
NARROW = "maskrcnn_fpn32_resnet18_c32-64-128-256_l1-1-1-1"


def main() -> None:
    given = _arguments()
    if given.one is not None:
        print(json.dumps(_one(given)))
        return
    rows = []
    for model in given.models.split(","):
        runs = take_turns(("ours", "reference"), given.repeats, partial(_process, given, model), model)
        rows.append(f"| {model} | {' | '.join(cells(runs, 'reference', FORMS))} |")
    print(
        f"{given.device}, batch {given.batch}, shorter side {given.image_size} px, {given.updates} updates, "
        f"{given.precision}, {given.workers} reading processes, {given.repeats} pairs in turns\n"
    )
    print("| model | reference, images/s | ours / reference | peak memory, reference [MB] | ours / reference |")
    print("|---|---:|---:|---:|---:|")
    print("\n".join(rows))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a folder in COCO's format")
    parser.add_argument("--train-split", default="train")
    parser.add_argument("--val-split", default="val")
    parser.add_argument("--models", default=NARROW, metavar="A,B")
    parser.add_argument("--image-size", type=int, default=128, metavar="PX")
    parser.add_argument("--anchor-size", type=int, default=12)
    parser.add_argument("--proposals", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--updates", type=int, default=40)
    parser.add_argument("--workers", type=int, default=1, help="processes that read images (default 1)")
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument(
        "--torchvision",
        action="store_true",
        help="the reference trains torchvision's own maskrcnn_resnet50_fpn, beside our maskrcnn_resnet50",
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5, help="pairs of runs (default 5)")
    parser.add_argument("--one", choices=["ours", "reference"], help=argparse.SUPPRESS)
    return parser.parse_args()


def _process(given: argparse.Namespace, model: str, who: str) -> dict[str, float]:
    words = [sys.executable, __file__, "--one", who, "--models", model]
    for name in (
        "data",
        "train_split",
        "val_split",
        "image_size",
        "anchor_size",
        "proposals",
        "batch",
        "updates",
        "workers",
        "precision",
        "device",
    ):
        words += [f"--{name.replace('_', '-')}", str(getattr(given, name))]
    words += ["--torchvision"] if given.torchvision else []
    return result_of(words)


def _recipe(given: argparse.Namespace) -> Any:
    from bsszoo.train.detection.recipe import (
        CocoPart,
        DetectionOptim,
        DetectionRecipe,
        DetectionRun,
        DetectionSchedule,
        DetectorPart,
    )

    return DetectionRecipe(
        model=DetectorPart(name=given.models, anchor_size=given.anchor_size, proposals=given.proposals),
        optim=DetectionOptim(lr=0.005, batch_size=given.batch, weight_decay=1e-4, decay_norm_and_bias=True),
        schedule=DetectionSchedule(updates=given.updates, validate_every=given.updates),
        data=CocoPart(
            train_split=given.train_split,
            val_split=given.val_split,
            image_size=given.image_size,
            max_size=round(given.image_size * 5 / 3),
            broken="skip",
        ),
        run=DetectionRun(
            device_batch=given.batch, workers=given.workers, precision=given.precision, checkpoint_minutes=1e6
        ),
    )


def _one(given: argparse.Namespace) -> dict[str, float]:
    import torch

    torch.manual_seed(0)
    times = _ours(given) if given.one == "ours" else _reference(given)
    last = times[len(times) // 2 :]
    return {"images_per_s": (len(last) - 1) * given.batch / (last[-1] - last[0]), "peak_mb": peak_mb(given.device)}


class _Enough(BaseException):
    """The updates are done; the validation that would follow is not timed."""


def _ours(given: argparse.Namespace) -> list[float]:
    from bsszoo.train import loop
    from bsszoo.train.callbacks import NoCallback, TrainingState
    from bsszoo.train.detection.task import train_detector

    class Times(NoCallback):
        def __init__(self) -> None:
            self.at: list[float] = []

        def updated(self, state: TrainingState) -> None:
            self.at.append(time.perf_counter())
            if state.update == given.updates:
                raise _Enough

    times = Times()
    loop._REPORT = 0.0  # type: ignore[misc]  # told of every update, not once a second
    with tempfile.TemporaryDirectory() as out:
        try:
            train_detector(_recipe(given), given.data, out, device=given.device, callback=times)
        except _Enough:
            return times.at
    raise SystemExit("The training ended before its last update.")


class _Reference:
    """What torchvision's coco_utils and presets make of an image: masks by pycocotools, then a random flip."""

    def __init__(self, given: argparse.Namespace) -> None:
        from torchvision.datasets import CocoDetection

        root = Path(given.data)
        self.dataset: Any = CocoDetection(
            str(root / given.train_split), str(root / "annotations" / f"instances_{given.train_split}.json")
        )
        self.dataset.ids = [
            i
            for i in self.dataset.ids
            if any(not a["iscrowd"] and min(a["bbox"][2:]) > 0 for a in self.dataset.coco.imgToAnns[i])
        ]
        self.numbers = {c: i + 1 for i, c in enumerate(sorted(self.dataset.coco.cats))}

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, place: int) -> tuple[Any, dict[str, Any]]:
        import numpy as np
        import torch
        from torchvision import tv_tensors
        from torchvision.transforms import v2

        image, annotations = self.dataset[place]
        own = [a for a in annotations if not a["iscrowd"] and min(a["bbox"][2:]) > 0]
        boxes = torch.tensor([a["bbox"] for a in own], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        masks = np.stack([self.dataset.coco.annToMask(a) for a in own])
        size = (image.height, image.width)
        target = {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size),
            "masks": tv_tensors.Mask(torch.from_numpy(masks)),
            "labels": torch.tensor([self.numbers[a["category_id"]] for a in own]),
        }
        flip = v2.Compose([v2.PILToTensor(), v2.RandomHorizontalFlip(0.5), v2.ToDtype(torch.float32, scale=True)])
        made: tuple[Any, dict[str, Any]] = flip(image, target)
        return made


def _grouped(data: _Reference, batch: int) -> Iterator[list[int]]:
    """Batches of images of one aspect ratio, epoch after epoch."""
    import torch

    images = [data.dataset.coco.imgs[i] for i in data.dataset.ids]
    while True:
        waiting: dict[bool, list[int]] = {True: [], False: []}
        for place in torch.randperm(len(images)).tolist():
            group = waiting[images[place]["height"] > images[place]["width"]]
            group.append(place)
            if len(group) == batch:
                yield list(group)
                group.clear()


def _reference(given: argparse.Namespace) -> list[float]:
    """torchvision's references/detection/train.py and engine.py without their logging: the peer."""
    import contextlib
    import itertools

    import torch

    from bsszoo.models.detector import create_detector

    device = torch.device(given.device)
    with contextlib.redirect_stdout(sys.stderr):
        data = _Reference(given)
    loader: Any = torch.utils.data.DataLoader(
        data,  # type: ignore[arg-type]
        batch_sampler=list(itertools.islice(_grouped(data, given.batch), given.updates)),
        num_workers=given.workers,
        collate_fn=lambda samples: tuple(zip(*samples, strict=True)),
    )
    how: dict[str, Any] = {
        "num_classes": len(data.numbers) + 1,
        "min_size": given.image_size,
        "max_size": round(given.image_size * 5 / 3),
        "box_batch_size_per_image": given.proposals,
    }
    model: Any
    if given.torchvision:
        from torchvision.models.detection import maskrcnn_resnet50_fpn

        # Fresh weights, all trained, and so batch normalisation that is not frozen, as in ours.
        model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, **how)
    else:
        model = create_detector(given.models, anchor_size=given.anchor_size, **how)
    model = model.to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.005, momentum=0.9, weight_decay=1e-4)
    model.train()
    dtype = torch.bfloat16 if given.precision == "bfloat16" else torch.float16
    scaler = torch.amp.GradScaler(device.type, enabled=given.precision == "float16")
    times = []
    for images, targets in loader:
        images = [image.to(device) for image in images]
        targets = [{k: v.to(device) for k, v in target.items()} for target in targets]
        with torch.autocast(device.type, dtype=dtype, enabled=given.precision != "float32"):
            losses = model(images, targets)
            total = sum(losses.values())
        if not torch.isfinite(total):
            raise SystemExit(f"The loss is {total}.")
        optimizer.zero_grad()
        scaler.scale(total).backward()
        scaler.step(optimizer)
        scaler.update()
        times.append(time.perf_counter())
    return times


if __name__ == "__main__":
    main()

"""Training beside a plain loop on timm: images a second and peak memory of the same network, images and batch.

    python benchmarks/training.py                                     what the README quotes, on this machine's CPU
    python benchmarks/training.py --device cuda --batch 256 --image-size 224 --precision bfloat16 --channels-last \\
        --images 20480 --workers 8

Each run is a process of its own and trains two epochs; the second is timed, from its first update to its last. Ours is
`bsszoo.train.loop.train`; the peer is the loop below, made of timm's loader, augmentation, optimiser, schedule and loss
as its training script puts them together. The two take turns. JPEG files are made once, of noise over a gradient.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from in_turns import cells, peak_mb, result_of, take_turns

if TYPE_CHECKING:
    import torch

    from bsszoo.train.classification.recipe import Recipe

CLASSES = 10
EPOCHS = 2
FORMS = (("images_per_s", "{:.0f}"), ("peak_mb", "{:,.0f}"))


def main() -> None:
    given = _arguments()
    if given.one is not None:
        print(json.dumps(_one(given)))
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for kind in given.inputs.split(","):
            if kind == "jpeg":
                _write_jpegs(Path(folder), given.images, int(given.image_size * 1.25))
            for network in given.networks.split(","):
                runs = take_turns(
                    ("ours", "plain"),
                    given.repeats,
                    partial(_process, given, network, kind, folder),
                    f"{network} {kind}",
                )
                rows.append(f"| {network} | {kind} | {' | '.join(cells(runs, 'plain', FORMS))} |")
    print(
        f"{given.device}, batch {given.batch} at {given.image_size} px, {given.precision}, {given.images} images "
        f"an epoch, {given.workers} reading processes, {given.repeats} pairs in turns\n"
    )
    print("| network | input | plain timm loop, images/s | ours / plain | peak memory, plain [MB] | ours / plain |")
    print("|---|---|---:|---:|---:|---:|")
    print("\n".join(rows))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="resnet50,mobilenetv2", metavar="A,B")
    parser.add_argument("--inputs", default="synthetic,jpeg", metavar="A,B", help="synthetic, jpeg or both")
    parser.add_argument("--images", type=int, default=320, help="of an epoch (default 320)")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--image-size", type=int, default=64, metavar="PX")
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--workers", type=int, default=1, help="processes that read images (default 1)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=7, help="pairs of runs (default 7)")
    parser.add_argument("--one", choices=["ours", "plain"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args()


def _process(given: argparse.Namespace, network: str, kind: str, folder: str, who: str) -> dict[str, float]:
    words = [sys.executable, __file__, "--one", who, "--networks", network, "--inputs", kind, "--folder", folder]
    for name in ("images", "batch", "image_size", "precision", "workers", "device"):
        words += [f"--{name.replace('_', '-')}", str(getattr(given, name))]
    words += ["--channels-last"] if given.channels_last else []
    return result_of(words)


def _write_jpegs(folder: Path, images: int, side: int) -> None:
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for split, number in (("train", images), ("validation", CLASSES)):
        for i in range(number):
            place = folder / split / f"class{i % CLASSES}"
            place.mkdir(parents=True, exist_ok=True)
            slope = np.linspace(0, 160, side)[:, None, None]
            pixels = (slope + rng.integers(0, 96, (side, side, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(place / f"{i:05}.jpg", quality=90)


def _recipe(given: argparse.Namespace) -> Recipe:
    from bsszoo.train.classification.recipe import (
        DataPart,
        LossPart,
        ModelPart,
        OptimPart,
        Recipe,
        RunPart,
        SchedulePart,
    )

    jpeg = given.inputs == "jpeg"
    return Recipe(
        model=ModelPart(name=given.networks, num_classes=CLASSES),
        optim=OptimPart(lr=0.01, batch_size=given.batch, weight_decay=1e-4),
        schedule=SchedulePart(epochs=EPOCHS),
        loss=LossPart(label_smoothing=0.1),
        data=DataPart(dataset="folder" if jpeg else f"synthetic/{given.images}", image_size=given.image_size),
        run=RunPart(
            device_batch=given.batch,
            workers=given.workers,
            precision=given.precision,
            channels_last=given.channels_last,
            checkpoint_minutes=1e6,
        ),
    )


def _one(given: argparse.Namespace) -> dict[str, float]:
    data = given.folder if given.inputs == "jpeg" else None
    speed = _ours(given, data) if given.one == "ours" else _plain(given, data)
    return {"images_per_s": speed, "peak_mb": peak_mb(given.device)}


def _ours(given: argparse.Namespace, data: str | None) -> float:
    from bsszoo.train import loop
    from bsszoo.train.callbacks import NoCallback, TrainingState

    class Times(NoCallback):
        def __init__(self) -> None:
            self.at: list[float] = []

        def updated(self, state: TrainingState) -> None:
            self.at.append(time.perf_counter())

    times = Times()
    loop._REPORT = 0.0  # type: ignore[misc]  # told of every update, not once a second
    with tempfile.TemporaryDirectory() as out:
        loop.train(_recipe(given), data, out, device=given.device, callback=times)
    return _speed(times.at, given.batch)


def _speed(times: list[float], batch: int) -> float:
    """Pictures a second over the second half of the updates, whose ends are given [s]."""
    last = times[len(times) // EPOCHS :]
    return (len(last) - 1) * batch / (last[-1] - last[0])


class InMemory:
    """The images of our own synthetic data set, as timm's loader takes a data set."""

    def __init__(self, recipe: Recipe) -> None:
        from bsszoo.train.classification.data import open_splits

        self.split: Any = open_splits(recipe.data, None, num_classes=CLASSES)[0]
        self.transform: Any = None

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, place: int) -> tuple[Any, int]:
        return self.transform(self.split.image(place, "RGB")), int(self.split.labels[place])


def timm_loader(recipe: Recipe, data: str | None, workers: int, device: torch.device) -> Any:
    """timm's loader of the images of a folder, or of our own synthetic ones, augmented as the recipe says."""
    from timm.data import create_dataset, create_loader

    part, augment = recipe.data, recipe.augment
    dataset: Any = InMemory(recipe) if data is None else create_dataset("", f"{data}/train")
    return create_loader(
        dataset,
        input_size=(3, part.image_size, part.image_size),
        batch_size=recipe.optim.batch_size,
        is_training=True,
        use_prefetcher=True,
        scale=augment.scale,
        ratio=augment.ratio,
        hflip=augment.hflip,
        color_jitter=0.0,
        interpolation=part.interpolation,
        mean=part.mean,
        std=part.std,
        num_workers=workers,
        device=device,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
    )


def _plain(given: argparse.Namespace, data: str | None) -> float:
    """What one writes with timm alone: the peer."""
    import torch
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2

    import bsszoo

    recipe = _recipe(given)
    device = torch.device(given.device)
    loader = timm_loader(recipe, data, given.workers, device)
    model: Any = bsszoo.create(given.networks, num_classes=CLASSES).to(device)
    if given.channels_last:
        model = model.to(memory_format=torch.channels_last)
    optimizer: Any = create_optimizer_v2(model, opt="sgd", lr=0.01, momentum=0.9, weight_decay=1e-4)
    schedule: Any = create_scheduler_v2(
        optimizer, sched="cosine", num_epochs=EPOCHS, step_on_epochs=False, updates_per_epoch=len(loader)
    )[0]
    against = LabelSmoothingCrossEntropy(0.1)
    model.train()
    times = []
    for epoch in range(EPOCHS):
        for update, (images, labels) in enumerate(loader):
            if given.channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=given.precision == "bfloat16"):
                loss = against(model(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step_update(epoch * len(loader) + update + 1)
            if device.type == "cuda" and update + 1 == len(loader):
                torch.cuda.synchronize()
            times.append(time.perf_counter())
    return _speed(times, given.batch)


if __name__ == "__main__":
    main()

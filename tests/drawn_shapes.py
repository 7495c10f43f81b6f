"""Pictures of shapes that a small network learns in seconds, in one folder a class, and how it is trained on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from bsszoo.train.classification.recipe import DataPart, ModelPart, OptimPart, Recipe, RunPart, SchedulePart

CLASSES = ("bar", "cross", "disc")
#: The network that ``conftest.drawn_base`` trains.
BASE = "resnet18_c16-24-32-48_l1-2-1-1_px32"


def draw(kind: str, rng: np.random.Generator) -> Image.Image:
    """A bright shape of some size at some place, on noise."""
    pixels = rng.integers(0, 110, (32, 32, 3))
    y, x = np.mgrid[:32, :32]
    top, left = rng.integers(11, 21, 2)
    size = rng.integers(6, 10)
    near = (abs(y - top) < size) & (abs(x - left) < size)
    inside = {
        "bar": near & (abs(y - top) < 3),
        "cross": near & ((abs(y - top) < 3) | (abs(x - left) < 3)),
        "disc": (y - top) ** 2 + (x - left) ** 2 < size**2,
    }[kind]
    pixels[inside] += rng.integers(60, 140, 3)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def write(root: Path) -> Path:
    """100 images of each class to train on, and 40 to test; the folder."""
    rng = np.random.default_rng(0)
    for split, number in (("train", 100), ("test", 40)):
        for kind in CLASSES:
            folder = root / split / kind
            folder.mkdir(parents=True)
            for i in range(number):
                draw(kind, rng).save(folder / f"{i}.png")
    return root


def recipe(code: str) -> Recipe:
    """A code's training on them, with a tenth of the images held out."""
    return Recipe(
        model=ModelPart(name=code, num_classes=3),
        optim=OptimPart(lr=0.1, batch_size=30, weight_decay=5e-4),
        schedule=SchedulePart(epochs=14, warmup_epochs=1),
        data=DataPart(image_size=32, crop_pct=1.0, holdout=0.1),
        run=RunPart(workers=0, device_batch=30),
    )

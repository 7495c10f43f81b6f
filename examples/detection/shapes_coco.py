"""Write a small data set in COCO's format: drawn circles, squares, triangles and stars with their boxes and masks.

    python examples/detection/shapes_coco.py shapes
    bsszoo train recipes/shapes/maskrcnn_narrow.yaml --data shapes --out runs/shapes

It has what COCO's files have: pictures of different sizes, wide and tall ones; ids of categories with gaps; polygons
for whole objects, runs for those that others cover in part, crowds as runs; pictures without an object. The same seed
writes the same files.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from pycocotools import mask as coder

CATEGORIES = {1: "circle", 2: "square", 4: "triangle", 7: "star"}
#: Less of an object than this many pixels in sight, and it is not annotated.
LEAST = 20

Points = list[tuple[float, float]]


def outline(kind: int, x: float, y: float, radius: float, turn: float) -> Points:
    """The corners of a shape around a point."""
    corners = {1: 32, 2: 4, 4: 3, 7: 10}[kind]
    out = []
    for i in range(corners):
        reach = radius * (0.45 if kind == 7 and i % 2 else 1.0)
        angle = turn + 2 * math.pi * i / corners
        out.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
    return out


def runs(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """A mask as COCO's uncompressed runs: column by column, of zeros and ones in turn, zeros first."""
    flat = mask.ravel(order="F").astype(np.int8)
    changes = np.flatnonzero(np.diff(np.concatenate([[0], flat, [1 - flat[-1]]])))
    counts = np.diff(np.concatenate([[0], changes]))
    return {"size": list(mask.shape), "counts": counts.tolist()}


def background(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Coarse noise of some colour, so that an object is not merely what is not flat."""
    base = rng.integers(40, 216, 3)
    coarse = np.clip(base + rng.normal(0, 28, (height // 6 + 1, width // 6 + 1, 3)), 0, 255).astype(np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def picture(rng: np.random.Generator, shapes: int) -> tuple[Image.Image, list[dict[str, Any]]]:
    """A picture with so many shapes, and its annotations without ids."""
    width, height = (int(v) for v in rng.integers(96, 161, 2))
    image = background(rng, width, height)
    owner = np.zeros((height, width), dtype=np.int32)  # which shape is seen at each pixel
    drawn: list[tuple[int, Points]] = []
    for number in range(1, shapes + 1):
        kind = int(rng.choice(list(CATEGORIES)))
        radius = float(rng.uniform(8, 28))
        x, y = float(rng.uniform(radius, width - radius)), float(rng.uniform(radius, height - radius))
        points = outline(kind, x, y, radius, float(rng.uniform(0, 2 * math.pi)))
        colour = tuple(int(v) for v in rng.integers(0, 256, 3))
        ImageDraw.Draw(image).polygon(points, fill=colour, outline=tuple(255 - v for v in colour))
        seen = Image.new("1", (width, height))
        ImageDraw.Draw(seen).polygon(points, fill=1)
        owner[np.asarray(seen)] = number
        drawn.append((kind, points))
    annotations = []
    for number, (kind, points) in enumerate(drawn, start=1):
        mask = owner == number
        if mask.sum() < LEAST:
            continue
        whole = Image.new("1", (width, height))
        ImageDraw.Draw(whole).polygon(points, fill=1)
        covered = mask.sum() < np.asarray(whole).sum()
        shape: Any = runs(mask) if covered else [[round(v, 2) for point in points for v in point]]
        annotations.append(annotation(shape, kind, height, width, crowd=False))
    if rng.random() < 0.05:
        annotations.append(crowd(rng, image, owner))
    return image.filter(ImageFilter.GaussianBlur(0.6)), annotations


def crowd(rng: np.random.Generator, image: Image.Image, owner: NDArray[np.int32]) -> dict[str, Any]:
    """Many small circles in a corner, annotated as one crowd."""
    mask = np.zeros_like(owner, dtype=bool)
    colour = tuple(int(v) for v in rng.integers(0, 256, 3))
    for x, y in rng.uniform(4, 40, (12, 2)):
        ImageDraw.Draw(image).ellipse([x - 3, y - 3, x + 3, y + 3], fill=colour)
        mask[int(y) - 3 : int(y) + 4, int(x) - 3 : int(x) + 4] = True
    return annotation(runs(mask), 1, *mask.shape, crowd=True)


def annotation(shape: Any, kind: int, height: int, width: int, *, crowd: bool) -> dict[str, Any]:
    """An object as COCO writes it, box and area from its mask."""
    coded = coder.frPyObjects(shape, height, width)
    coded = coder.merge(coded) if isinstance(coded, list) else coded
    return {
        "category_id": kind,
        "iscrowd": int(crowd),
        "segmentation": shape,
        "area": float(coder.area(coded)),
        "bbox": [float(v) for v in coder.toBbox(coded)],
    }


def write_split(root: Path, split: str, pictures: int, seed: int) -> int:
    """Write a split; the number of its objects."""
    rng = np.random.default_rng(seed)
    folder = root / split
    folder.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(1, pictures + 1):
        # One in fifty shows nothing.
        image, own = picture(rng, 0 if rng.random() < 0.02 else int(rng.integers(1, 7)))
        name = f"{number:06d}.jpg"
        image.save(folder / name, quality=92)
        images.append({"id": number, "file_name": name, "width": image.width, "height": image.height})
        for one in own:
            annotations.append({"id": len(annotations) + 1, "image_id": number, **one})
    file = root / "annotations" / f"instances_{split}.json"
    file.parent.mkdir(exist_ok=True)
    categories = [{"id": i, "name": name, "supercategory": "shape"} for i, name in CATEGORIES.items()]
    info = {"description": "drawn shapes", "version": "1.0"}
    file.write_text(
        json.dumps(
            {"info": info, "licenses": [], "images": images, "annotations": annotations, "categories": categories}
        ),
        encoding="utf-8",
    )
    return len(annotations)


def main() -> None:
    """Write both splits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=2000, help="training pictures")
    parser.add_argument("--val", type=int, default=400, help="validation pictures")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for split, pictures, seed in (("train", given.train, 2 * given.seed), ("val", given.val, 2 * given.seed + 1)):
        objects = write_split(given.folder, split, pictures, seed)
        print(f"{given.folder / split}: {pictures:,} pictures, {objects:,} objects")


if __name__ == "__main__":
    main()

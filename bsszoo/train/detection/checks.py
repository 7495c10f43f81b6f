"""Faults of annotations in COCO's format."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from bsszoo.texts import one_line

#: COCO's boxes reach over the edge of their image by rounding; further out a box is wrong [px].
SLACK: Final = 1.0
# pycocotools samples outlines in steps of a fifth of a pixel, all of which are in memory [px].
_LONGEST: Final = 1_000_000
# A whole number that every library takes: of 63 bits.
_LARGEST: Final = 2**63 - 1
# Bits of a run's difference in COCO's coded runs; the largest image that is read has 28.
_RUN_BITS: Final = 40


@dataclass(frozen=True, slots=True)
class Fault:
    """A broken annotation: its index in the file, the kind of fault, and a sentence."""

    index: int
    kind: str
    text: str


def faults_of(
    annotations: Sequence[Mapping[str, Any]],
    images: Sequence[Mapping[str, Any]],
    categories: Sequence[Mapping[str, Any]],
    *,
    masks: bool,
) -> list[Fault]:
    """The first fault of each annotation that has one.

    Args:
        annotations, images, categories: As COCO writes them, with the keys that each has to have.
        masks: Whether outlines are looked at.
    """
    by_id = {p["id"]: p for p in images}
    category_ids = {c["id"] for c in categories}
    out = []
    seen: set[Any] = set()
    for index, annotation in enumerate(annotations):
        fault = _fault(annotation, by_id, category_ids, masks=masks)
        number = annotation.get("id")
        if fault is None and is_id(number):
            fault = ("with a duplicate id", "another annotation has the same id") if number in seen else None
            seen.add(number)
        if fault is not None:
            kind, words = fault
            image = _image_of(annotation, by_id)
            where = f" of {one_line(image['file_name'])}" if image is not None else ""
            named = f"annotation {one_line(number, 40)}" if is_id(number) else f"number {index} of 'annotations'"
            out.append(Fault(index, kind, f"{named}{where}: {words}"))
    return out


def _fault(
    annotation: Mapping[str, Any], images: Mapping[Any, Mapping[str, Any]], categories: set[Any], *, masks: bool
) -> tuple[str, str] | None:
    category = annotation["category_id"]
    image = _image_of(annotation, images)
    if image is None:
        return "of an unknown image", f"there is no image with the id {_excerpt(annotation['image_id'])}"
    if type(category) is not int or category not in categories:
        return "of an unknown category", f"there is no category with the id {_excerpt(category)}"
    crowd = annotation.get("iscrowd")
    if not (crowd is None or (type(crowd) in (int, bool) and crowd in (0, 1))):
        # Any text is true for a program, "0" and "false" too.
        return "with a broken crowd flag", (
            f"its 'iscrowd' is {_excerpt(crowd)}; it is 0 or 1, true or false, or left out"
        )
    width, height = image["width"], image["height"]
    box = annotation["bbox"]
    if not _numbers(box) or len(box) != 4:
        return "without a box", f"its box is {_excerpt(box)}; a box is four numbers, [left, top, width, height]"
    left, top, w, h = box
    if w <= 0 or h <= 0:
        return "with an empty box", f"its box {_formatted(box)} is empty"
    if left < -SLACK or top < -SLACK or left + w > width + SLACK or top + h > height + SLACK:
        return (
            "with a box outside the image",
            f"its box {_formatted(box)} reaches outside the image of {width} x {height} px",
        )
    if not (_remains(left, left + w, width) and _remains(top, top + h, height)):
        return "with an empty box", f"nothing of its box {_formatted(box)} lies in the image of {width} x {height} px"
    area = annotation.get("area")
    if area is not None and (not _numbers([area]) or area < 0):
        return "with a broken area", f"its area is {_excerpt(area)}; it is a number of pixels, or left out"
    return _outline_fault(annotation.get("segmentation"), width, height) if masks else None


def _image_of(annotation: Mapping[str, Any], images: Mapping[Any, Mapping[str, Any]]) -> Mapping[str, Any] | None:
    image_id = annotation["image_id"]
    return images.get(image_id) if is_id(image_id) else None


def is_id(value: object) -> bool:
    """Whether a value names something: a whole number of 64 bits, or a text. True is no number here."""
    return isinstance(value, str) or (type(value) is int and abs(value) <= _LARGEST)


def _outline_fault(outline: object, width: int, height: int) -> tuple[str, str] | None:
    if isinstance(outline, Mapping):
        size, counts = outline.get("size"), outline.get("counts")
        if size != [height, width] or any(type(side) is not int for side in size):
            return "with a broken mask", (
                f"its mask is of {_excerpt(size)}, and the image of {[height, width]} px (h, w)"
            )
        area = width * height
        runs = counts if isinstance(counts, list) else _decoded(counts, area)
        # Of runs that are no counts, or too few, pycocotools makes pixels of whatever is in memory.
        right = len(runs) <= area + 1 and all(type(n) is int and 0 <= n <= area for n in runs)
        return (
            None
            if right and sum(runs) == area
            else (
                "with a broken mask",
                f"the runs of its mask ('counts') are not whole numbers from 0 that add up to {area}",
            )
        )
    if not isinstance(outline, list) or not outline:
        return "without an outline", (
            "it has no outline ('segmentation' is missing or empty), which Mask R-CNN learns from"
        )
    length = 0.0
    for polygon in outline:
        if not _numbers(polygon) or len(polygon) < 6 or len(polygon) % 2:
            return "with an empty polygon", (
                f"its polygon {_excerpt(polygon)} is empty; one has at least three points, [x, y, x, y, x, y]"
            )
        points = np.array(polygon, dtype=np.float64).reshape(-1, 2)
        sides = np.array([width, height])
        if (points < -sides).any() or (points > 2 * sides).any():
            far = points[((points < -sides) | (points > 2 * sides)).any(axis=1)][0]
            return "with a polygon far outside the image", (
                f"its polygon has the point {_formatted(far.tolist())}, far outside the image of {width} x {height} px"
            )
        if not ((points.max(axis=0) > 0) & (points.min(axis=0) < sides)).all():
            return "with a polygon outside the image", (
                f"nothing of its polygon {_excerpt(polygon)} lies in the image of {width} x {height} px"
            )
        length += float(np.abs(np.diff(points, axis=0, append=points[:1])).max(axis=1).sum())
    if length > _LONGEST:
        return "with an endless polygon", f"its polygons are {length:,.0f} px long, and at most {_LONGEST:,} are drawn"
    return None


def _remains(low: float, high: float, side: int) -> bool:
    """Whether some of a stretch lies inside the image, in the precision that a detector computes in."""
    return bool(np.float32(min(high, side)) > np.float32(max(low, 0)))


def _decoded(coded: object, area: int) -> list[int]:
    """The runs of COCO's text for them: six bits a character, the lower five of value; from the fourth run on
    the difference to the run two before. Empty for what is no such text, or no runs of ``area`` pixels.
    """
    text = coded.decode("ascii", "replace") if isinstance(coded, bytes) else coded
    runs: list[int] = []
    if not isinstance(text, str):
        return runs
    value = bits = 0
    for character in text:
        code = ord(character) - 48
        # Without bounds a text of some MB is a number of as many bits.
        if not 0 <= code < 64 or bits > _RUN_BITS or len(runs) > area:
            return []
        value |= (code & 31) << bits
        bits += 5
        if not code & 32:
            value -= (code >> 4 & 1) << bits
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = bits = 0
    return runs if not bits else []


def _numbers(values: object) -> bool:
    return isinstance(values, list) and all(
        math.isfinite(v) if type(v) is float else type(v) is int and abs(v) <= _LARGEST for v in values
    )


def _excerpt(value: object) -> str:
    """A value of the file in one short line."""
    return one_line(repr(value)[:400], 80)


def _formatted(box: Sequence[float]) -> str:
    return f"[{', '.join(f'{v:g}' for v in box)}]"

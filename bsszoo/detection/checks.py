"""What is wrong with annotations in COCO's format, each fault in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

#: COCO's own boxes reach over the edge of their picture by rounding; further out a box is wrong [px].
SLACK: Final = 1.0


@dataclass(frozen=True, slots=True)
class Fault:
    """A broken annotation: its place in the file, the kind of fault, and a sentence."""

    place: int
    kind: str
    text: str


def faults_of(
    annotations: Sequence[Mapping[str, Any]], pictures: Sequence[Mapping[str, Any]],
    categories: Sequence[Mapping[str, Any]], *, masks: bool,
) -> list[Fault]:
    """The first fault of each annotation that has one.

    Args:
        annotations, pictures, categories: As COCO writes them, with the keys that each has to have.
        masks: Whether outlines are looked at.
    """
    by_id = {p["id"]: p for p in pictures}
    known = {c["id"] for c in categories}
    out = []
    for place, annotation in enumerate(annotations):
        found = _fault(annotation, by_id, known, masks=masks)
        if found is not None:
            kind, words = found
            picture = by_id.get(annotation["image_id"])
            where = f" of {picture['file_name']}" if picture is not None else ""
            named = f"annotation {annotation['id']}" if "id" in annotation else f"number {place} of 'annotations'"
            out.append(Fault(place, kind, f"{named}{where}: {words}"))
    return out


def _fault(
    annotation: Mapping[str, Any], pictures: Mapping[Any, Mapping[str, Any]], categories: set[Any], *, masks: bool
) -> tuple[str, str] | None:
    picture = pictures.get(annotation["image_id"])
    if picture is None:
        return "of an unknown picture", f"there is no picture with the id {annotation['image_id']!r}"
    if annotation["category_id"] not in categories:
        return "of an unknown category", f"there is no category with the id {annotation['category_id']!r}"
    width, height = picture["width"], picture["height"]
    box = annotation["bbox"]
    if not _numbers(box) or len(box) != 4:
        return "without a box", f"its box is {box!r}; a box is four numbers, [left, top, width, height]"
    left, top, w, h = box
    if w <= 0 or h <= 0:
        return "with an empty box", f"its box {_shown(box)} is empty"
    if left < -SLACK or top < -SLACK or left + w > width + SLACK or top + h > height + SLACK:
        return ("with a box outside the picture",
                f"its box {_shown(box)} reaches outside the picture of {width} x {height} px")
    return _outline_fault(annotation.get("segmentation"), width, height) if masks else None


def _outline_fault(outline: object, width: int, height: int) -> tuple[str, str] | None:
    if isinstance(outline, Mapping):
        size, counts = outline.get("size"), outline.get("counts")
        if size != [height, width]:
            return "with a broken mask", f"its mask is of {size!r}, and the picture of {[height, width]} px (h, w)"
        if isinstance(counts, list) and (not _numbers(counts) or sum(counts) != width * height):
            return "with a broken mask", f"the runs of its mask do not add up to {width * height} px"
        return None if isinstance(counts, (list, str, bytes)) and counts else (
            "with a broken mask", "its mask has no runs ('counts')")
    if not isinstance(outline, list) or not outline:
        return "without an outline", "it has no polygon ('segmentation' is empty), which Mask R-CNN learns from"
    for polygon in outline:
        if not _numbers(polygon) or len(polygon) < 6 or len(polygon) % 2:
            return "with an empty polygon", (f"its polygon {str(polygon)[:60]} is empty; one has at least three "
                                             "points, [x, y, x, y, x, y]")
    return None


def _numbers(values: object) -> bool:
    return isinstance(values, list) and all(
        isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in values)


def _shown(box: Sequence[float]) -> str:
    return f"[{', '.join(f'{v:g}' for v in box)}]"

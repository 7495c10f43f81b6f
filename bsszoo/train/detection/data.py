"""COCO's format: one JSON file of images, objects and categories for each split, read and checked as a whole.

What is checked decides whether a training can be right: every object belongs to an image and a category that exist,
its box lies inside its image, its outline encloses something, and every image has its file.
"""

from __future__ import annotations

import hashlib
import pickle
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bsszoo.errors import DataError
from bsszoo.texts import one_line, parse_json
from bsszoo.train.detection.checks import Fault, faults_of, is_id
from bsszoo.train.detection.recipe import CocoPart
from bsszoo.train.seeds import mixed

# Broken annotations that are named; the rest are counted.
_NAMED: Final = 5
# Pixels of the largest image that PIL decodes.
_MOST_PIXELS: Final = 178_956_970


class Packed(Sequence[Any]):
    """A sequence of plain values stored as bytes, so that reading processes share its memory with their training.

    Python's lists are copied page by page as soon as a process looks at them, for the counts of references.
    """

    def __init__(self, values: Sequence[Any]) -> None:
        parts = [pickle.dumps(v, protocol=pickle.HIGHEST_PROTOCOL) for v in values]
        self._ends = np.cumsum([len(p) for p in parts], dtype=np.int64)
        self._bytes = np.frombuffer(b"".join(parts), dtype=np.uint8)

    def digest(self) -> bytes:
        """SHA-256 of the values."""
        return hashlib.sha256(self._bytes.tobytes()).digest()

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: Any) -> Any:
        begin = int(self._ends[index - 1]) if index else 0
        return pickle.loads(self._bytes[begin : int(self._ends[index])].tobytes())


@dataclass(frozen=True, eq=False)
class CocoSplit:
    """The images of a split with their objects, as COCO writes them; ``indices`` are those that belong to it.

    ``categories`` are (id, name) in the order of their ids; ``folder`` holds the images; ``notes`` say what was left
    out. An image is (its dict, the list of its annotations).
    """

    name: str
    folder: Path
    categories: tuple[tuple[int, str], ...]
    images: Packed
    sizes: NDArray[np.int64]  # [n, 2] width, height [px]
    objects: NDArray[np.int64]  # [n] objects that are no crowd
    crowds: NDArray[np.int64]  # [n]
    indices: NDArray[np.int64]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
        return (self.image(index) for index in range(len(self)))

    def image(self, index: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The image at an index, and its annotations."""
        image: tuple[dict[str, Any], list[dict[str, Any]]] = self.images[int(self.indices[index])]
        return image

    def file(self, image: Mapping[str, Any]) -> Path:
        """The path of an image."""
        return self.folder / str(image["file_name"])

    def of(self, indices: NDArray[np.int64]) -> CocoSplit:
        """The same split with other indices."""
        return replace(self, indices=indices)

    def as_coco(self) -> dict[str, Any]:
        """The split as one dictionary in COCO's format."""
        both = list(self)
        return {
            "images": [p for p, _ in both],
            "annotations": [a for _, annotations in both for a in annotations],
            "categories": [{"id": i, "name": name} for i, name in self.categories],
        }


def open_coco(part: CocoPart, path: str | Path | None, *, masks: bool) -> tuple[CocoSplit, CocoSplit]:
    """The training and the validation images of a recipe.

    Args:
        part: The recipe's data section. With ``holdout`` the validation images are taken out of the training ones;
            with ``subset`` the rest is thinned out. Which ones they are is the same for every training.
        path: The folder of the data.
        masks: Whether outlines are needed, and checked.

    Raises:
        DataError: A missing or broken file, an annotation that cannot be right, an empty split: the text names it.
    """
    train = open_coco_split(part, path, part.train_split, masks=masks)
    indices = train.indices
    if part.holdout:
        order = np.random.default_rng(mixed(0, 1)).permutation(indices)
        held = min(max(1, round(part.holdout * len(order))), len(order) - 1)
        val = replace(train.of(np.sort(order[:held])), name=f"{part.holdout:g} of {part.train_split}, held out")
        indices = np.sort(order[held:])
    else:
        val = open_coco_split(part, path, part.val_split, masks=masks)
        if val.categories != train.categories:
            raise DataError(
                f"The splits {part.train_split!r} and {part.val_split!r} in {path} have other categories: "
                f"{_differing(train.categories, val.categories)}."
            )
    if part.subset < 1:
        order = np.random.default_rng(mixed(0, 2)).permutation(indices)
        indices = np.sort(order[: max(1, round(part.subset * len(order)))])
    notes = train.notes
    if not part.keep_empty:
        filled = indices[train.objects[indices] > 0]
        if len(filled) < len(indices):
            notes = (
                *notes,
                f"{len(indices) - len(filled):,} training images without an object are left out "
                "(data.keep_empty=true uses them)",
            )
        indices = filled
    crowds = int(train.crowds[indices].sum())
    if crowds:
        notes = (
            *notes,
            f"{crowds:,} annotation{'s are crowds' if crowds > 1 else ' is a crowd'} ('iscrowd') and not "
            "trained on; where it is measured they are neither hits nor misses",
        )
    train = replace(train, indices=indices, notes=notes)
    for split in (train, val):
        check_objects(split)
    return train, val


def check_objects(split: CocoSplit) -> None:
    """A ``DataError`` for a split without objects: nothing can be learnt from it, and no AP measured."""
    if not split.objects[split.indices].sum():
        raise DataError(
            f"There is no object in the {len(split):,} images of the split {split.name!r} in {split.folder}."
        )


def open_coco_split(part: CocoPart, path: str | Path | None, split: str, *, masks: bool) -> CocoSplit:
    """One split as it lies on disk; arguments and errors as ``open_coco``."""
    if path is None:
        raise DataError("A detector's images are in a folder in COCO's format: give it with --data.")
    root = Path(path).expanduser()
    file, folder = (root / name.replace("{split}", split) for name in (part.annotations, part.images))
    data = _read(root, file, split)
    if not folder.is_dir():
        raise DataError(
            f"There is no folder {folder} of the images of the split {split!r}. It is set by "
            f"data.images, here {part.images!r}.{_inside(root)}"
        )
    images = _records(data, "images", file, ("id", "file_name", "width", "height"))
    categories = _records(data, "categories", file, ("id", "name"))
    annotations = _records(data, "annotations", file, ("image_id", "category_id", "bbox"))
    for what, records in (("images", images), ("categories", categories)):
        twice = [i for i, n in Counter(r["id"] for r in records).items() if n > 1]
        if twice:
            raise DataError(f"{file} has several {what} with the id {one_line(repr(twice[0]))}; ids are distinct.")
    _check_files(images, folder, file)
    faults = faults_of(annotations, images, categories, masks=masks)
    if faults and part.broken == "refuse":
        raise DataError(_refusal(faults, len(annotations), file))
    notes = (*_alike(categories, file), *([_skipped(faults, file)] if faults else []))
    broken = {f.index for f in faults}
    by_image: dict[Any, list[dict[str, Any]]] = {p["id"]: [] for p in images}
    for index, annotation in enumerate(annotations):
        if index not in broken:
            by_image[annotation["image_id"]].append(_completed(annotation, index, masks=masks))
    return CocoSplit(
        split,
        folder,
        tuple(sorted((c["id"], c["name"]) for c in categories)),
        Packed([({k: p[k] for k in ("id", "file_name", "width", "height")}, by_image[p["id"]]) for p in images]),
        np.array([(p["width"], p["height"]) for p in images], dtype=np.int64).reshape(-1, 2),
        np.array([sum(not a["iscrowd"] for a in by_image[p["id"]]) for p in images], dtype=np.int64),
        np.array([sum(a["iscrowd"] for a in by_image[p["id"]]) for p in images], dtype=np.int64),
        np.arange(len(images), dtype=np.int64),
        notes,
    )


def _completed(annotation: Mapping[str, Any], index: int, *, masks: bool) -> dict[str, Any]:
    """An annotation with what its evaluation needs; a file may leave the crowd flag, the area and the id out."""
    box = [float(v) for v in annotation["bbox"]]
    area = annotation.get("area")
    completed = {
        "id": index + 1,
        "image_id": annotation["image_id"],
        "category_id": annotation["category_id"],
        "bbox": box,
        "iscrowd": int(bool(annotation.get("iscrowd"))),
        "area": box[2] * box[3] if area is None else float(area),
    }
    return completed | ({"segmentation": annotation["segmentation"]} if masks else {})


def _read(root: Path, file: Path, split: str) -> dict[str, Any]:
    if not root.is_dir():
        raise DataError(f"There is no folder {root}.")
    try:
        data = parse_json(file.read_bytes())
    except FileNotFoundError:
        raise DataError(
            f"There is no {file}, the annotations of the split {split!r}. A folder in COCO's format has "
            "annotations/instances_SPLIT.json and the images in SPLIT/; other paths are set by "
            f"data.train_split, data.val_split, data.annotations and data.images.{_inside(root)}"
        ) from None
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}.") from None
    except ValueError as error:
        raise DataError(f"{file} is no JSON that can be read: {one_line(error)}.") from None
    if not isinstance(data, dict):
        raise DataError(
            f"{file} is not in COCO's format: it holds a {type(data).__name__}, not images, annotations and categories."
        )
    return data


def _records(data: Mapping[str, Any], name: str, file: Path, keys: Sequence[str]) -> list[dict[str, Any]]:
    records = data.get(name)
    if not isinstance(records, list):
        raise DataError(f"{file} is not in COCO's format: it has no list of {name!r}.")
    for index, record in enumerate(records):
        lost = [k for k in keys if not isinstance(record, dict) or k not in record]
        if lost:
            raise DataError(f"{file}: number {index} of {name!r} has no {lost[0]!r}.")
    if name == "images":
        _check_images(records, file)
    if name == "categories":
        for record in records:
            if type(record["id"]) is not int or record["id"] < 0 or not is_id(record["id"]):
                raise DataError(
                    f"{file}: the ids of categories are whole numbers from 0 of at most 63 bits; one is "
                    f"{one_line(repr(record['id']))}."
                )
            if not isinstance(record["name"], str) or not record["name"].strip():
                raise DataError(
                    f"{file}: the category {record['id']} has the name {one_line(repr(record['name']))}; "
                    "names are texts."
                )
    if not records and name != "annotations":
        raise DataError(f"{file} lists no {name}.")
    return records


def _check_images(images: Sequence[Mapping[str, Any]], file: Path) -> None:
    kinds = {type(image["id"]) for image in images}
    if not kinds <= {int} and not kinds <= {str}:
        raise DataError(
            f"{file}: the ids of images are all whole numbers or all texts; there are "
            f"{', '.join(sorted(k.__name__ for k in kinds))}."
        )
    for image in images:
        name, number, sides = image["file_name"], image["id"], (image["width"], image["height"])
        if not is_id(number):
            raise DataError(f"{file}: an image has the id {number}; whole numbers have at most 63 bits here.")
        if not isinstance(name, str) or not name or "\0" in name:
            raise DataError(
                f"{file}: the image {one_line(repr(number))} has the file name {one_line(repr(name))}; "
                "file names are texts."
            )
        if not all(type(s) is int and s > 0 for s in sides):
            size = " x ".join(one_line(repr(s), 40) for s in sides)
            raise DataError(
                f"{file}: the image {one_line(name)} has the size {size}; width and height are whole "
                "numbers of pixels above zero."
            )
        if sides[0] * sides[1] > _MOST_PIXELS:
            raise DataError(
                f"{file}: the image {one_line(name)} has the size {sides[0]} x {sides[1]}; images of "
                f"more than {_MOST_PIXELS:,} pixels are not read."
            )


def _alike(categories: Sequence[Mapping[str, Any]], file: Path) -> list[str]:
    """A note on categories that share a name, which labels and predictions go by."""
    twice = [name for name, n in Counter(c["name"] for c in categories).items() if n > 1]
    return (
        [
            f"{file} gives {Counter(c['name'] for c in categories)[twice[0]]} categories the name "
            f"{one_line(repr(twice[0]))}: predictions cannot tell them apart"
        ]
        if twice
        else []
    )


def _check_files(images: Sequence[Mapping[str, Any]], folder: Path, file: Path) -> None:
    # Listing a folder once is faster than asking for each of a hundred thousand files.
    listed: dict[Path, set[str]] = {}
    lost = []
    for image in images:
        path = folder / image["file_name"]
        if path.parent not in listed:
            listed[path.parent] = {p.name for p in path.parent.iterdir()} if path.parent.is_dir() else set()
        if path.name not in listed[path.parent]:
            lost.append(path)
    if lost:
        more = f" (nor {len(lost) - 1:,} others)" if len(lost) > 1 else ""
        raise DataError(f"{file} lists {len(images):,} images, but there is no {one_line(lost[0])}{more}.")


def _refusal(faults: Sequence[Fault], annotations: int, file: Path) -> str:
    kinds = Counter(f.kind for f in faults)
    if kinds["without an outline"] == annotations:
        return (
            f"No annotation of {file} has an outline, which Mask R-CNN learns from. A RetinaNet (retinanet_..) "
            "takes boxes alone."
        )
    corners = 2 * kinds["with a box outside the image"] > annotations
    hint = " They look like corners; COCO's boxes are [left, top, width, height]." if corners else ""
    named = "; ".join(f.text for f in faults[:_NAMED])
    more = f"; and {len(faults) - _NAMED:,} more" if len(faults) > _NAMED else ""
    return (
        f"{file} has {len(faults):,} broken annotation{'s' if len(faults) > 1 else ''}: {named}{more}.{hint} Repair "
        "the file, or leave them out with data.broken=skip."
    )


def _skipped(faults: Sequence[Fault], file: Path) -> str:
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in Counter(f.kind for f in faults).most_common())
    return f"{len(faults):,} broken annotations of {file} are left out ({kinds}); the first: {faults[0].text}"


def _differing(one: Sequence[tuple[int, str]], other: Sequence[tuple[int, str]]) -> str:
    lost, new = sorted(set(one) - set(other)), sorted(set(other) - set(one))
    only = [
        f"{one_line(repr(name), 60)} (id {i}) only in the {where}"
        for where, entries in (("first", lost), ("second", new))
        for i, name in entries[:2]
    ]
    return ", ".join(only)


def _inside(root: Path) -> str:
    names = [one_line(p.name, 60) for p in sorted(root.iterdir())[:8]]
    return f" {root} has {', '.join(names)}." if names else f" {root} is empty."

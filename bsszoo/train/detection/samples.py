"""Pictures and targets of a detector: which an update takes, flipped or not, and on which device.

Pictures go through the network in passes of ``m``. The passes of an epoch are made of a permutation of the pictures;
with ``group_by_aspect`` wide and tall ones fill passes of their own, so that little is padded. Epochs follow each other
without regard to updates: update ``u`` takes the passes ``u K .. (u + 1) K - 1`` of that sequence, whatever the number
of processes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset, Sampler

from bsszoo.errors import DataError, RecipeError
from bsszoo.images import converted, read_image
from bsszoo.texts import one_line
from bsszoo.train.classification.samples import Division, end_readers, pass_error, reading_loader, shares, small_pass
from bsszoo.train.detection.data import CocoSplit
from bsszoo.train.detection.labels import Labels
from bsszoo.train.detection.recipe import DetectionRecipe, DetectionRun
from bsszoo.train.devices import Place
from bsszoo.train.seeds import drawing, mixed

#: Pictures of a pass, uint8 [3, h, w] each, and what is in each of them.
Sample = tuple[torch.Tensor, dict[str, torch.Tensor]]
Draw = tuple[int, int, int]  # epoch, place in the epoch, place in the split


def divide_detection(recipe: DetectionRecipe, pictures: int, world: int) -> Division:
    """How the batch of an update is divided; ``updates`` are those of the whole training.

    Raises:
        RecipeError: The batch does not divide by the number of processes, there are too few pictures for a pass, or
            batch normalisation, where it is not frozen, would see far fewer pictures than fit.
    """
    batch, most = recipe.optim.batch_size, recipe.run.device_batch
    size, passes = shares(batch, most, world)
    fault = small_pass(size, batch // world, most)
    if recipe.model.norm != "frozen" and not recipe.run.sync_bn and fault is not None:
        raise pass_error(batch, most, world, pictures, f"{fault} (model.norm=frozen does without)")
    if pictures < 2 * size:
        raise RecipeError(
            f"The training split has {pictures} pictures; it takes at least {2 * size}, two passes of "
            f"{size} pictures. Set run.device_batch lower."
        )
    return Division(size=size, passes=passes, updates=recipe.schedule.updates)


class DetectionBatches:
    """The passes of a process, on its device; ``batches.between(u, v)`` gives those of the updates ``u .. v - 1``."""

    def __init__(
        self,
        split: CocoSplit,
        labels: Labels,
        recipe: DetectionRecipe,
        division: Division,
        place: Place,
        *,
        masks: bool,
    ) -> None:
        self._split, self._device = split, place.device
        self._order = _Order(split, recipe, division, place)
        self._dataset = _Augmented(split, labels, recipe, masks=masks)
        self._loader = reading_loader(self._dataset, recipe.run, place, list, batch_sampler=self._order)

    def between(self, first: int, last: int) -> Iterator[list[Sample]]:
        """The passes of some updates: images float32 [3, h, w] in 0..1, and targets as torchvision takes them."""
        self._order.first, self._order.last = first, last
        return (self._on_device(samples) for samples in self._loader)

    def again(self, update: int, passed: int) -> dict[str, Any]:
        """The pictures of one pass, read anew for a look."""
        draws = self._order.draws(update, passed)
        samples = [self._dataset[d] for d in draws]
        files = [str(self._split.file(self._split.picture(d[2])[0])) for d in draws]
        return {"images": [s[0] for s in samples], "targets": [s[1] for s in samples], "files": files}

    def close(self) -> None:
        """End the processes that read."""
        end_readers(self._loader)

    def _on_device(self, samples: list[Sample]) -> list[Sample]:
        return [
            (to_float(image, self._device), {k: v.to(self._device, non_blocking=True) for k, v in target.items()})
            for image, target in samples
        ]


def evaluation_loader(split: CocoSplit, run: DetectionRun, place: Place) -> Any:
    """Batches of (uint8 image [3, h, w], COCO's id of the picture) of the pictures that this process evaluates."""
    return reading_loader(
        _Plain(split), run, place, list, sampler=range(place.rank, len(split), place.world), batch_size=run.device_batch
    )


def to_float(image: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A picture on the device, float32 in 0..1, as torchvision's detectors take it."""
    return image.to(device, non_blocking=True).float() / 255


def read_picture(split: CocoSplit, picture: Mapping[str, Any]) -> Image.Image:
    """A picture in RGB, turned as its annotations are.

    Annotations are of the picture as viewers show it, its EXIF orientation applied. Where their size fits the stored
    picture only, they were made without it, and so is the picture taken.

    Raises:
        DataError: It is broken, or of another size than annotated; the text names the file.
    """
    path, size = split.file(picture), (picture["width"], picture["height"])
    made = read_image(path)
    if made.size != size and made.size == size[::-1]:
        stored = read_image(path, oriented=False)
        made = stored if stored.size == size else made
    if made.size != size:
        raise DataError(
            f"{one_line(path)} has {made.size[0]} x {made.size[1]} px, and its annotations say {size[0]} x "
            f"{size[1]}: its boxes would be wrong."
        )
    return converted(made, "RGB", one_line(path))


class _Order(Sampler[list[Draw]]):
    """The pictures of this process's passes."""

    def __init__(self, split: CocoSplit, recipe: DetectionRecipe, division: Division, place: Place) -> None:
        sizes = split.sizes[split.rows]
        tall = sizes[:, 1] > sizes[:, 0] if recipe.data.group_by_aspect else np.zeros(len(sizes), dtype=bool)
        groups = [g for g in (np.flatnonzero(~tall), np.flatnonzero(tall)) if len(g)]
        # Too few of one shape for a pass go with the others: no picture is left out for good.
        small = any(len(g) < division.size for g in groups)
        self._groups = [np.arange(len(sizes))] if small else groups
        self._seed, self._division, self._place = recipe.run.seed, division, place
        self._passes = sum(len(g) // division.size for g in self._groups)  # of an epoch
        self.first, self.last = 0, division.updates
        self._known: tuple[int, NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        return (self.last - self.first) * self._division.passes

    def __iter__(self) -> Iterator[list[Draw]]:
        for update in range(self.first, self.last):
            for passed in range(self._division.passes):
                yield self.draws(update, passed)

    def draws(self, update: int, passed: int) -> list[Draw]:
        """The pictures of one pass."""
        each, world, rank = self._division.passes, self._place.world, self._place.rank
        epoch, number = divmod(update * each * world + rank * each + passed, self._passes)
        if self._known is None or self._known[0] != epoch:
            self._known = epoch, self._of_epoch(epoch)
        size = self._division.size
        return [(epoch, number * size + i, int(row)) for i, row in enumerate(self._known[1][number])]

    def _of_epoch(self, epoch: int) -> NDArray[np.int64]:
        """All passes of an epoch [passes, m], in the order in which their last pictures were drawn."""
        rng, size = np.random.default_rng(mixed(self._seed, epoch)), self._division.size
        drawn, ends = [], []
        pictures = sum(map(len, self._groups))
        times = rng.permutation(pictures)  # when each picture is drawn
        for group, when in zip(
            self._groups, np.split(times, np.cumsum([len(g) for g in self._groups])[:-1]), strict=True
        ):
            order = np.argsort(when)
            whole = len(group) // size * size
            drawn.append(group[order[:whole]].reshape(-1, size))
            ends.append(when[order[:whole]].reshape(-1, size)[:, -1])
        return np.concatenate(drawn)[np.argsort(np.concatenate(ends))]


class _Augmented(Dataset[Sample]):
    def __init__(self, split: CocoSplit, labels: Labels, recipe: DetectionRecipe, *, masks: bool) -> None:
        self._split, self._labels, self._masks = split, labels, masks
        self._hflip, self._seed = recipe.augment.hflip, recipe.run.seed

    def __getitem__(self, draw: Draw) -> Sample:
        epoch, place, row = draw
        picture, annotations = self._split.picture(row)
        pixels = np.array(read_picture(self._split, picture))
        own = [a for a in annotations if not a["iscrowd"]]
        height, width = pixels.shape[:2]
        boxes = np.array([a["bbox"] for a in own], dtype=np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes[:, 0::2] = boxes[:, 0::2].clip(0, width)
        boxes[:, 1::2] = boxes[:, 1::2].clip(0, height)
        masks = (
            np.stack([mask_of(a, height, width) for a in own])
            if self._masks and own
            else np.zeros((0, height, width), dtype=np.uint8)
        )
        with drawing(self._seed, epoch, place):
            flipped = random.random() < self._hflip
        if flipped:
            pixels, masks = pixels[:, ::-1], masks[:, :, ::-1]
            boxes[:, 0::2] = width - boxes[:, 2::-2]
        target = {
            "boxes": torch.from_numpy(boxes),
            "labels": torch.tensor([self._labels.label(a["category_id"]) for a in own], dtype=torch.int64),
        }
        if self._masks:
            target["masks"] = torch.from_numpy(np.ascontiguousarray(masks))
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))), target


class _Plain(Dataset[tuple[torch.Tensor, Any]]):
    def __init__(self, split: CocoSplit) -> None:
        self._split = split

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, Any]:
        picture, _ = self._split.picture(place)
        pixels = np.array(read_picture(self._split, picture))
        return torch.from_numpy(pixels.transpose(2, 0, 1)), picture["id"]


def mask_of(annotation: Mapping[str, Any], height: int, width: int) -> NDArray[np.uint8]:
    """The pixels of an object, 0 or 1 [h, w], from its polygons or runs, as pycocotools draws them."""
    from pycocotools import mask as coder

    outline = annotation["segmentation"]
    if isinstance(outline, list):
        runs = coder.merge(coder.frPyObjects(outline, height, width))
    elif isinstance(outline["counts"], list):
        runs = coder.frPyObjects(outline, height, width)
    else:
        runs = outline
    drawn: NDArray[np.uint8] = coder.decode(runs)
    return drawn

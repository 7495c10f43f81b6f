"""Images and targets of a detector: those of each update, their random flips and their device.

Images go through the network in micro-batches of ``m``. Those of an epoch are made of a permutation of the images; with
``group_by_aspect`` wide and tall ones fill separate micro-batches, so that little is padded. Epochs follow each other
without regard to updates: update ``u`` takes the micro-batches ``u K .. (u + 1) K - 1`` of that sequence, on any number
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
from bsszoo.train.classification.samples import (
    Division,
    division_error,
    end_readers,
    reading_loader,
    shares,
    small_micro_batch,
)
from bsszoo.train.detection.data import CocoSplit
from bsszoo.train.detection.labels import Labels
from bsszoo.train.detection.recipe import DetectionRecipe, DetectionRun
from bsszoo.train.devices import Process
from bsszoo.train.seeds import drawing, mixed

#: Images of a micro-batch, uint8 [3, h, w] each, and what is in each of them.
Sample = tuple[torch.Tensor, dict[str, torch.Tensor]]
Draw = tuple[int, int, int]  # epoch, index in the epoch, index in the split


def divide_detection(recipe: DetectionRecipe, images: int, world: int) -> Division:
    """How the batch of an update is divided; ``updates`` are those of the whole training.

    Raises:
        RecipeError: The batch does not divide by the number of processes, there are too few images for a micro-batch,
            or batch normalisation, where it is not frozen, would see far fewer images than fit.
    """
    batch, most = recipe.optim.batch_size, recipe.run.device_batch
    size, micro_batches = shares(batch, most, world)
    fault = small_micro_batch(size, batch // world, most)
    if recipe.model.norm != "frozen" and not recipe.run.sync_bn and fault is not None:
        raise division_error(batch, most, world, images, f"{fault} (model.norm=frozen does without)")
    if images < 2 * size:
        raise RecipeError(
            f"The training split has {images} images; it takes at least {2 * size}, two micro-batches of "
            f"{size} images. Set run.device_batch lower."
        )
    return Division(size=size, micro_batches=micro_batches, updates=recipe.schedule.updates)


class DetectionBatches:
    """The micro-batches of a process, on its device; ``between(u, v)`` gives those of the updates ``u .. v - 1``."""

    def __init__(
        self,
        split: CocoSplit,
        labels: Labels,
        recipe: DetectionRecipe,
        division: Division,
        process: Process,
        *,
        masks: bool,
    ) -> None:
        self._split, self._device = split, process.device
        self._order = _Order(split, recipe, division, process)
        self._dataset = _Augmented(split, labels, recipe, masks=masks)
        self._loader = reading_loader(self._dataset, recipe.run, process, list, batch_sampler=self._order)

    def between(self, first: int, last: int) -> Iterator[list[Sample]]:
        """Micro-batches of some updates: images float32 [3, h, w] in 0..1, and targets as torchvision takes them."""
        self._order.first, self._order.last = first, last
        return (self._on_device(samples) for samples in self._loader)

    def reread(self, update: int, micro_batch: int) -> dict[str, Any]:
        """The images of one micro-batch, read again."""
        draws = self._order.draws(update, micro_batch)
        samples = [self._dataset[d] for d in draws]
        files = [str(self._split.file(self._split.image(d[2])[0])) for d in draws]
        return {"images": [s[0] for s in samples], "targets": [s[1] for s in samples], "files": files}

    def close(self) -> None:
        """End the processes that read."""
        end_readers(self._loader)

    def _on_device(self, samples: list[Sample]) -> list[Sample]:
        return [
            (to_float(image, self._device), {k: v.to(self._device, non_blocking=True) for k, v in target.items()})
            for image, target in samples
        ]


def evaluation_loader(split: CocoSplit, run: DetectionRun, process: Process) -> Any:
    """Batches of (uint8 image [3, h, w], COCO's id of the image) of the images that this process evaluates."""
    return reading_loader(
        _Plain(split),
        run,
        process,
        list,
        sampler=range(process.rank, len(split), process.world),
        batch_size=run.device_batch,
    )


def to_float(image: torch.Tensor, device: torch.device) -> torch.Tensor:
    """An image on the device, float32 in 0..1, as torchvision's detectors take it."""
    return image.to(device, non_blocking=True).float() / 255


def read_annotated_image(split: CocoSplit, record: Mapping[str, Any]) -> Image.Image:
    """An image in RGB, turned as its annotations are.

    Annotations are of the image as viewers display it, its EXIF orientation applied. Where their size fits the stored
    image only, they were made without it, and so is the image taken.

    Raises:
        DataError: It is broken, or of another size than annotated; the text names the file.
    """
    path, size = split.file(record), (record["width"], record["height"])
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
    """The images of this process's micro-batches."""

    def __init__(self, split: CocoSplit, recipe: DetectionRecipe, division: Division, process: Process) -> None:
        sizes = split.sizes[split.indices]
        tall = sizes[:, 1] > sizes[:, 0] if recipe.data.group_by_aspect else np.zeros(len(sizes), dtype=bool)
        groups = [g for g in (np.flatnonzero(~tall), np.flatnonzero(tall)) if len(g)]
        # Too few of one shape for a micro-batch go with the others: no image is left out for good.
        small = any(len(g) < division.size for g in groups)
        self._groups = [np.arange(len(sizes))] if small else groups
        self._seed, self._division, self._process = recipe.run.seed, division, process
        self._micro_batches = sum(len(g) // division.size for g in self._groups)  # of an epoch
        self.first, self.last = 0, division.updates
        self._cached: tuple[int, NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        return (self.last - self.first) * self._division.micro_batches

    def __iter__(self) -> Iterator[list[Draw]]:
        for update in range(self.first, self.last):
            for micro_batch in range(self._division.micro_batches):
                yield self.draws(update, micro_batch)

    def draws(self, update: int, micro_batch: int) -> list[Draw]:
        """The images of one micro-batch."""
        each, world, rank = self._division.micro_batches, self._process.world, self._process.rank
        epoch, number = divmod(update * each * world + rank * each + micro_batch, self._micro_batches)
        if self._cached is None or self._cached[0] != epoch:
            self._cached = epoch, self._of_epoch(epoch)
        size = self._division.size
        return [(epoch, number * size + i, int(row)) for i, row in enumerate(self._cached[1][number])]

    def _of_epoch(self, epoch: int) -> NDArray[np.int64]:
        """All micro-batches of an epoch [micro-batches, m], in the order in which their last images were drawn."""
        rng, size = np.random.default_rng(mixed(self._seed, epoch)), self._division.size
        drawn, ends = [], []
        images = sum(map(len, self._groups))
        times = rng.permutation(images)  # when each image is drawn
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
        epoch, position, index = draw
        record, annotations = self._split.image(index)
        pixels = np.array(read_annotated_image(self._split, record))
        objects = [a for a in annotations if not a["iscrowd"]]
        height, width = pixels.shape[:2]
        boxes = np.array([a["bbox"] for a in objects], dtype=np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes[:, 0::2] = boxes[:, 0::2].clip(0, width)
        boxes[:, 1::2] = boxes[:, 1::2].clip(0, height)
        masks = (
            np.stack([mask_of(a, height, width) for a in objects])
            if self._masks and objects
            else np.zeros((0, height, width), dtype=np.uint8)
        )
        with drawing(self._seed, epoch, position):
            flipped = random.random() < self._hflip
        if flipped:
            pixels, masks = pixels[:, ::-1], masks[:, :, ::-1]
            boxes[:, 0::2] = width - boxes[:, 2::-2]
        target = {
            "boxes": torch.from_numpy(boxes),
            "labels": torch.tensor([self._labels.label(a["category_id"]) for a in objects], dtype=torch.int64),
        }
        if self._masks:
            target["masks"] = torch.from_numpy(np.ascontiguousarray(masks))
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))), target


class _Plain(Dataset[tuple[torch.Tensor, Any]]):
    def __init__(self, split: CocoSplit) -> None:
        self._split = split

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Any]:
        record, _ = self._split.image(index)
        pixels = np.array(read_annotated_image(self._split, record))
        return torch.from_numpy(pixels.transpose(2, 0, 1)), record["id"]


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

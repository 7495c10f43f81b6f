"""Batches of a training: the images of each update, their order, augmentation and device.

An update takes ``batch_size`` images in micro-batches of ``m``: micro-batch ``k`` of ``K = batch_size / m`` takes the
indices ``k m .. (k + 1) m - 1``. Process ``r`` of ``R`` computes the micro-batches ``r K / R .. (r + 1) K / R - 1``. So
which images go through the network together does not depend on the number of processes, only on ``m``.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from timm.data import create_transform
from timm.data.loader import PrefetchLoader, fast_collate
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, get_worker_info

from bsszoo.errors import DataError, RecipeError
from bsszoo.images import MODES, converted, prepared
from bsszoo.train.classification.data import ImageSplit, Split, Stream
from bsszoo.train.classification.recipe import with_values
from bsszoo.train.seeds import drawing, mixed

if TYPE_CHECKING:
    from bsszoo.train.classification.recipe import Recipe, RunPart
    from bsszoo.train.devices import Process

Batch = tuple[torch.Tensor, torch.Tensor]
Draw = tuple[int, int, int]  # epoch, index in the epoch, index of the image

# Seconds that a reader runs on after SIGTERM, longer than any update; and between two checks of its training.
_GRACE: Final = 1800
# The least micro-batch, as a share of the images that would fit: below it divisors were chosen badly, not memory.
_LEAST_SHARE: Final = 0.25
_CHECK: Final = 5
#: Images that are evaluated at once where they are in memory.
EVALUATION_BATCH: Final = 500


@dataclass(frozen=True, slots=True)
class Division:
    """The division of an update's batch: ``micro_batches`` of ``size`` images in a process; ``updates`` an epoch."""

    size: int
    micro_batches: int
    updates: int


def divide(recipe: Recipe, images: int, world: int) -> Division:
    """The division of a recipe's batch over ``world`` processes.

    Raises:
        RecipeError: The batch does not divide by the number of processes, is larger than the training split, or would
            be divided into micro-batches that batch normalisation, mixup or cutmix cannot take.
    """
    batch, most = recipe.optim.batch_size, recipe.run.device_batch
    size, micro_batches = shares(batch, most, world)
    paired = bool(recipe.augment.mixup or recipe.augment.cutmix)
    fault = small_micro_batch(size, batch // world, most)
    if size * (world if recipe.run.sync_bn else 1) == 1:
        fault = "batch normalisation over one image is no training"
    elif fault is None and paired and size % 2:
        fault = "augment.mixup and augment.cutmix mix pairs, and so take an even number"
    if fault is not None:
        raise division_error(batch, most, world, images, fault)
    if images < batch:
        raise RecipeError(
            f"optim.batch_size is {batch}, and the training split has {images} images; it has to "
            "fill at least one batch. Set optim.batch_size lower (and optim.scale_lr=true, to scale the "
            "learning rate with it)."
        )
    return Division(size=size, micro_batches=micro_batches, updates=images // batch)


def small_micro_batch(size: int, share: int, most: int) -> str | None:
    """Why micro-batches are too small for batch normalisation where larger ones would fit; None where they are not.

    Args:
        size: Images of a micro-batch.
        share: Images of a process in an update.
        most: ``run.device_batch``.
    """
    fitting = min(share, most)
    if size < _LEAST_SHARE * fitting or size == 1 < fitting:
        return "batch normalisation would see few images, and the micro-batches would take long"
    return None


def division_error(batch: int, most: int, world: int, images: int, fault: str) -> RecipeError:
    """The error for a batch that divides badly; it names the nearest ones that divide well.

    Args:
        batch, most, world: As ``shares`` takes them.
        images: Of the training split, which holds at least a batch.
        fault: What is wrong with its micro-batches.
    """
    size, _ = shares(batch, most, world)
    return RecipeError(
        f"optim.batch_size is {batch}, which is divided into micro-batches of {size} "
        f"image{'' if size == 1 else 's'} (the largest divisor of {batch // world} up to "
        f"run.device_batch, {most}): {fault}. {_advice(batch, most, world, images)}"
    )


def _advice(batch: int, most: int, world: int, images: int) -> str:
    """A sentence with the nearest batches of large, even micro-batches, or with micro-batches that divide this one."""

    def good(number: int) -> bool:
        size, _ = shares(number, most, world)
        return size % 2 == 0 and 2 * size >= min(number // world, most)

    if most == 1:
        return "Set run.device_batch to 2 or more."
    below = next((n for n in range((batch - 1) // world * world, 0, -world) if good(n)), None)
    above = next((n for n in range((batch // world + 1) * world, images + 1, world) if good(n)), None)
    near = " or ".join(str(n) for n in (below, above) if n is not None)
    share = batch // world
    fits = (d for d in range(most + 1, min(share, 8 * most) + 1) if share % d == 0)
    larger = next((d for d in fits if d % 2 == 0 or share % 2), None)
    ways = [
        *([f"optim.batch_size to {near}"] if near else []),
        *([f"run.device_batch to {larger}, for micro-batches of that size"] if larger is not None else []),
    ]
    return f"Set {', or '.join(ways)}." if ways else "Set run.device_batch and optim.batch_size anew."


def shares(batch: int, most: int, world: int) -> tuple[int, int]:
    """The images of a micro-batch, at most ``most``, and the micro-batches of each of ``world`` processes in an update.

    Raises:
        RecipeError: The batch does not divide by the number of processes.
    """
    if batch % world:
        raise RecipeError(
            f"optim.batch_size is {batch}, which {world} processes cannot share equally. Choose "
            f"as many processes as divide it, or set it to {batch // world * world or world}."
        )
    mine = batch // world
    size = max(d for d in range(1, min(mine, most) + 1) if mine % d == 0)
    return size, mine // size


class TrainingBatches:
    """The micro-batches of a process, on its device; ``between(u, v)`` gives those of the updates ``u .. v - 1``."""

    def __init__(self, split: Split, recipe: Recipe, division: Division, process: Process) -> None:
        self._split, self._recipe, self._division, self._process = split, recipe, division, process
        transform = training_transform(recipe)
        mode = _mode(recipe.model.in_chans)
        self._sampler: _Order | None = None
        if isinstance(split, ImageSplit):
            self._sampler = _Order(len(split), recipe, division, process)
            dataset: Any = _Augmented(split, transform, mode, recipe.run.seed)
            self._loader = reading_loader(dataset, recipe.run, process, fast_collate, batch_sampler=self._sampler)
        else:
            self._stream = _AugmentedStream(split, transform, recipe, division)
            self._loader = reading_loader(
                self._stream, recipe.run, process, fast_collate, batch_size=division.size, drop_last=True
            )
        self._on_device = on_device(self._loader, recipe, process)

    def between(self, first: int, last: int) -> Iterator[Batch]:
        """The micro-batches from an update to the end of its epoch: normalised images [m, c, s, s] and labels [m]."""
        epoch, start = divmod(first, self._division.updates)
        if self._sampler is not None:
            self._sampler.epoch, self._sampler.start = epoch, start
            return iter(self._on_device)
        return self._streamed(epoch, start * self._division.micro_batches)

    def _streamed(self, epoch: int, skip: int) -> Iterator[Batch]:
        # timm's readers shuffle by the workers' seeds, which torch draws from this generator.
        self._loader.generator = torch.Generator().manual_seed(mixed(self._recipe.run.seed, epoch))
        self._stream.begin(epoch, skip)
        wanted = self._division.updates * self._division.micro_batches
        for number, batch in enumerate(iter(self._on_device)):
            if number >= wanted:
                return
            if number >= skip:
                yield batch

    def close(self) -> None:
        """End the processes that read."""
        end_readers(self._on_device)

    def reread(self, update: int, micro_batch: int) -> dict[str, Any]:
        """The images of one micro-batch, read again: images (uint8), labels, files; empty for a stream."""
        if self._sampler is None or not isinstance(self._split, ImageSplit):
            return {}
        draws = self._sampler.draws(*divmod(update, self._division.updates), micro_batch)
        dataset: Any = self._loader.dataset
        images = np.stack([dataset[d][0] for d in draws])
        return {
            "images": torch.from_numpy(images),
            "labels": [int(self._split.labels[d[2]]) for d in draws],
            "files": [self._split.name(d[2]) for d in draws],
        }


def training_transform(recipe: Recipe) -> Callable[[Any], Any]:
    """timm's transform for training: a PIL image to an augmented uint8 array [c, s, s].

    Raises:
        RecipeError: ``augment.auto_augment`` is no policy of timm's.
    """
    augment, data = recipe.augment, recipe.data
    size = (recipe.model.in_chans, data.image_size, data.image_size)
    try:
        transform: Callable[[Any], Any] = create_transform(
            size,
            is_training=True,
            use_prefetcher=True,
            train_crop_mode=augment.crop_mode,
            scale=augment.scale,
            ratio=augment.ratio,
            hflip=augment.hflip,
            vflip=augment.vflip,
            color_jitter=augment.color_jitter,
            auto_augment=augment.auto_augment,
            interpolation=data.interpolation,
            mean=data.mean,
            std=data.std,
        )
    except (AssertionError, KeyError, ValueError) as error:
        raise RecipeError(
            f"augment.auto_augment is {augment.auto_augment!r}, which timm does not take "
            f"({type(error).__name__}: {error}); examples are original, v0, rand-m9-mstd0.5."
        ) from None
    return transform


def evaluation_transform(recipe: Recipe) -> Callable[[Any], Any]:
    """timm's transform for evaluation: a PIL image to the uint8 array [c, s, s] of its centre."""
    data = recipe.data
    interpolation = "bilinear" if data.interpolation == "random" else data.interpolation
    transform: Callable[[Any], Any] = create_transform(
        (recipe.model.in_chans, data.image_size, data.image_size),
        is_training=False,
        use_prefetcher=True,
        interpolation=interpolation,
        mean=data.mean,
        std=data.std,
        crop_pct=data.crop_pct,
    )
    return transform


def decoded(split: ImageSplit, recipe: Recipe, side: int) -> Iterator[NDArray[np.uint8]]:
    """The images of a split one by one, their shorter side resized to ``side`` [px] and cut to it, uint8 [c, s, s]."""
    transform = evaluation_transform(with_values(recipe, data={"image_size": side, "crop_pct": 1.0}))
    mode = _mode(recipe.model.in_chans)
    for index in range(len(split)):
        yield _uint8(transform(split.image(index, mode)))


def evaluation_batches(split: Split, recipe: Recipe, process: Process) -> Any:
    """Batches of the images that this process evaluates, each image in one process and once.

    Args:
        split: The images.
        recipe: Gives the input's size, the normalisation, the batch and the number of reading processes.
        process: This process among all.
    """
    size = recipe.run.device_batch
    transform = evaluation_transform(recipe)
    if isinstance(split, ImageSplit):
        dataset: Any = _Plain(split, transform, _mode(recipe.model.in_chans))
        loader = reading_loader(
            dataset,
            recipe.run,
            process,
            fast_collate,
            sampler=range(process.rank, len(split), process.world),
            batch_size=size,
        )
    else:
        loader = reading_loader(
            _PlainStream(split, transform, recipe, size), recipe.run, process, fast_collate, batch_size=size
        )
    return on_device(loader, recipe, process)


def on_device(loader: Any, recipe: Recipe, process: Process) -> Any:
    """timm's prefetching loader: batches on the device, normalised there."""
    data = recipe.data
    if len(data.mean) not in (1, recipe.model.in_chans):
        raise RecipeError(
            f"data.mean has {len(data.mean)} numbers for the {recipe.model.in_chans} channels of "
            "model.in_chans; give one for each channel, or one for all."
        )
    return PrefetchLoader(loader, mean=data.mean, std=data.std, channels=recipe.model.in_chans, device=process.device)


#: Most processes that read images where nothing says how many.
MOST_READERS: Final = 16


def _mode(channels: int) -> str:
    if channels not in MODES:
        raise RecipeError(f"model.in_chans is {channels}; images can be read with 1, 3 or 4 channels.")
    return MODES[channels]


def reading_loader(dataset: Any, run: RunPart, process: Process, collate: Callable[[Any], Any], **how: Any) -> Any:
    """torch's loader with a training's reading processes, which end when the training ends them, or is gone.

    Args:
        dataset: What is read.
        run: Gives the most processes; there are no more than cores, unless images are read in a fixed order.
        process: Images for a GPU are read into memory that it copies from.
        collate: Makes a batch of its samples.
        how: The sampler and the batch size, as ``DataLoader`` takes them.
    """
    # What is read in a fixed order is divided among the readers, so their number decides which image follows which.
    fixed = isinstance(dataset, IterableDataset)
    workers = run.workers if fixed else min(run.workers, own_cores())
    return DataLoader(
        dataset,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=process.device.type == "cuda",
        persistent_workers=workers > 0 and not fixed,
        worker_init_fn=_leave_signals_to_the_training,
        **how,
    )


def own_cores() -> int:
    """This process's share of the cores that it may use; the processes that torchrun starts share them."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, allowed // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def default_readers() -> int:
    """Processes that read images where nothing says how many: one for each core, up to 16."""
    return min(MOST_READERS, own_cores())


def _leave_signals_to_the_training(_: int) -> None:
    # Ctrl-C and most schedulers signal the whole group. The training still needs its readers for the update that it
    # is in, and then ends them. A reader that is terminated otherwise goes a little later.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not hasattr(signal, "alarm"):
        return
    training = os.getppid()
    ends: list[float] = []

    def check(number: int, _: FrameType | None) -> None:
        if number == signal.SIGTERM and not ends:
            ends.append(time.monotonic() + _GRACE)
        if os.getppid() != training or time.monotonic() > ends[0]:
            os._exit(0)
        signal.alarm(_CHECK)

    signal.signal(signal.SIGTERM, check)
    signal.signal(signal.SIGALRM, check)


def plain(error: DataError) -> DataError:
    """An error of a reading process as it was raised there: torch puts that process's traceback before it."""
    head, separator, message = str(error).rpartition(f"{DataError.__name__}: ")
    return DataError(message.strip()) if separator and "Original Traceback" in head else error


def end_readers(batches: Any) -> None:
    """End the processes that read for a loader, or one of ``on_device``; it starts others when it is used again."""
    loader = getattr(batches, "loader", batches)
    iterator = getattr(loader, "_iterator", None)
    if iterator is not None and hasattr(iterator, "_shutdown_workers"):
        iterator._shutdown_workers()
        loader._iterator = None


class _Order(Sampler[list[Draw]]):
    """The images of this process's micro-batches: an epoch's permutation depends on the seed and the epoch only."""

    def __init__(self, images: int, recipe: Recipe, division: Division, process: Process) -> None:
        self._images, self._seed, self._batch = images, recipe.run.seed, recipe.optim.batch_size
        self._division, self._first = division, process.rank * division.micro_batches
        self.epoch = self.start = 0

    def __len__(self) -> int:
        return (self._division.updates - self.start) * self._division.micro_batches

    def __iter__(self) -> Iterator[list[Draw]]:
        order = self._permutation(self.epoch)
        for update in range(self.start, self._division.updates):
            for micro_batch in range(self._division.micro_batches):
                yield self._draws(order, self.epoch, update, micro_batch)

    def draws(self, epoch: int, update: int, micro_batch: int) -> list[Draw]:
        """The images of one micro-batch."""
        return self._draws(self._permutation(epoch), epoch, update, micro_batch)

    def _draws(self, order: NDArray[np.int64], epoch: int, update: int, micro_batch: int) -> list[Draw]:
        first = update * self._batch + (self._first + micro_batch) * self._division.size
        return [(epoch, p, int(order[p])) for p in range(first, first + self._division.size)]

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng(mixed(self._seed, epoch)).permutation(self._images)


class _Augmented(Dataset[tuple[Any, int]]):
    def __init__(self, split: ImageSplit, transform: Callable[[Any], Any], mode: str, seed: int) -> None:
        self._split, self._transform, self._mode, self._seed = split, transform, mode, seed
        self._labels = split.labels

    def __getitem__(self, draw: Draw) -> tuple[Any, int]:
        epoch, position, index = draw
        image = self._split.image(index, self._mode)
        with drawing(self._seed, epoch, position):
            return _uint8(self._transform(image)), int(self._labels[index])


class _Plain(Dataset[tuple[Any, int]]):
    def __init__(self, split: ImageSplit, transform: Callable[[Any], Any], mode: str) -> None:
        self._split, self._transform, self._mode = split, transform, mode
        self._labels = split.labels

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return _uint8(self._transform(self._split.image(index, self._mode))), int(self._labels[index])


class _AugmentedStream(IterableDataset[tuple[Any, int]]):
    """A stream's images, augmented; those of micro-batches to skip come as placeholders that cost nothing."""

    def __init__(self, split: Stream, transform: Callable[[Any], Any], recipe: Recipe, division: Division) -> None:
        dataset: Any = split.open(division.size)
        dataset.set_loader_cfg(num_workers=recipe.run.workers)
        self._dataset = dataset
        self._transform, self._recipe, self._division = transform, recipe, division
        self._name = split.name
        self._epoch = self._skip = 0

    def begin(self, epoch: int, skip: int) -> None:
        """Set which epoch is read next, and how many of this process's micro-batches of it are skipped."""
        self._epoch, self._skip = epoch, skip
        self._dataset.set_epoch(epoch)

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        size, channels = self._recipe.data.image_size, self._recipe.model.in_chans
        nothing = np.zeros((channels, size, size), dtype=np.uint8)
        for count, (image, label) in enumerate(_Checked(self._dataset, self._recipe, self._name)):
            # The loader takes batches of its workers in turn.
            if count // self._division.size * workers + number < self._skip:
                yield nothing, 0
                continue
            with drawing(self._recipe.run.seed, self._epoch, number, count):
                yield _uint8(self._transform(image)), label


class _PlainStream(IterableDataset[tuple[Any, int]]):
    """A stream's images for evaluation."""

    def __init__(self, split: Stream, transform: Callable[[Any], Any], recipe: Recipe, batch: int) -> None:
        self._images, self._transform = _Checked(split.open(batch), recipe, split.name), transform

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        return ((_uint8(self._transform(image)), label) for image, label in self._images)


class _Checked(IterableDataset[tuple[Any, int]]):
    """timm's stream, which must neither skip broken samples nor give labels that the network has no output for.

    Its images are in the mode that they were decoded in, and are checked, oriented and converted as those of files are.
    """

    def __init__(self, dataset: Any, recipe: Recipe, name: str) -> None:
        self._dataset, self._name = dataset, name
        self._num_classes, self._mode = recipe.model.num_classes, _mode(recipe.model.in_chans)

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        import logging

        def refuse(record: logging.LogRecord) -> bool:
            if "Ignoring" in record.getMessage():
                raise DataError(f"A sample of {self._name} cannot be read: {record.getMessage()}")
            return True

        reader = logging.getLogger("timm.data.readers.reader_wds")
        reader.addFilter(refuse)
        try:
            for count, (image, label) in enumerate(self._dataset):
                if not 0 <= label < self._num_classes:
                    raise DataError(
                        f"Sample {count} of {self._name} has the label {label}, and the network "
                        f"{self._num_classes} outputs. Set model.num_classes."
                    )
                name = f"Sample {count} of {self._name}"
                yield converted(prepared(image, name), self._mode, name), label
        finally:
            reader.removeFilter(refuse)


def _uint8(image: Any) -> Any:
    # Several augmentations (augmix, jsd splits) return float; fast_collate holds uint8 only.
    return image if isinstance(image, np.ndarray) else np.asarray(image, dtype=np.uint8)

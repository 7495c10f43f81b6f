"""Short trainings in this process, of images in memory: what judges the subnetworks of a trained network.

The images of a split are decoded once, at a little more than the input's size, into a file that all workers of a run
map into their memory. A training takes random crops and flips of them, and nothing else of it touches the disk: beside
the training itself a code costs the making of its network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bsszoo.errors import RunError
from bsszoo.files import whole_file
from bsszoo.models.inherit import average_norms
from bsszoo.train.classification.data import ImageSplit
from bsszoo.train.classification.evaluation import Accuracy
from bsszoo.train.classification.recipe import Recipe
from bsszoo.train.classification.samples import EVALUATION_BATCH, decoded
from bsszoo.train.optim import Objective, make_optimizer

#: Most bytes of the decoded images of a split.
MOST_BYTES: Final = 2 * 2**30


@dataclass(frozen=True, eq=False)
class Images:
    """Decoded images of a split, uint8 [n, c, side, side], their labels [n], and the input's size [px]."""

    pixels: NDArray[np.uint8]
    labels: torch.Tensor
    size: int

    def __len__(self) -> int:
        return len(self.labels)

    def some(self, number: int) -> NDArray[np.int64]:
        """Rows of up to so many images, at random, as they may be sorted by class; always the same ones."""
        return np.random.default_rng(0).permutation(len(self))[:number]

    def centres(self, rows: slice | NDArray[np.int64]) -> torch.Tensor:
        """The centres of some images as the input, uint8 [m, c, s, s]."""
        start = (self.pixels.shape[-1] - self.size) // 2
        span = slice(start, start + self.size)
        return torch.from_numpy(np.array(self.pixels[rows][:, :, span, span]))

    def crops(self, rows: NDArray[np.int64], rng: np.random.Generator, *, flip: float) -> torch.Tensor:
        """Random crops of images, some of them flipped, uint8 [m, c, s, s]."""
        free = self.pixels.shape[-1] - self.size
        top, left = rng.integers(0, free + 1, (2, len(rows)))
        flipped = rng.random(len(rows)) < flip
        out = np.empty((len(rows), self.pixels.shape[1], self.size, self.size), dtype=np.uint8)
        for i, row in enumerate(rows):
            crop = self.pixels[row, :, top[i] : top[i] + self.size, left[i] : left[i] + self.size]
            out[i] = crop[:, :, ::-1] if flipped[i] else crop
        return torch.from_numpy(out)


def decode(
    split: ImageSplit, recipe: Recipe, file: Path | None = None, on_image: Callable[[int, int], None] = lambda *_: None
) -> Images:
    """The images of a split in memory, from a file that is written where there is none.

    Args:
        split: The images.
        recipe: Gives the input's size, crop and channels.
        file: Where they are stored, of the split's fingerprint; None to store them nowhere.
        on_image: Called with the number of images decoded and their total.

    Raises:
        DataError: An image cannot be read.
    """
    size = recipe.data.image_size
    side = max(size, round(size / recipe.data.crop_pct))
    shape = (len(split), recipe.model.in_chans, side, side)
    labels = torch.from_numpy(split.labels.astype(np.int64))
    if file is None:
        pixels = np.empty(shape, dtype=np.uint8)
        for i, image in enumerate(decoded(split, recipe, side)):
            pixels[i] = image
            on_image(i + 1, len(split))
        return Images(pixels, labels, size)
    if not file.is_file():
        with whole_file(file) as scratch:
            stored = np.lib.format.open_memmap(scratch, mode="w+", dtype=np.uint8, shape=shape)
            for i, image in enumerate(decoded(split, recipe, side)):
                stored[i] = image
                on_image(i + 1, len(split))
            stored.flush()
            del stored
    pixels = np.load(file, mmap_mode="r")
    if pixels.shape != shape or pixels.dtype != np.uint8:
        raise RunError(f"{file} does not hold the decoded images of this run. Remove it; it is written again.")
    return Images(pixels, labels, size)


class Normaliser:
    """Pixels as a network takes them: floating point, less the mean, over the deviation, on its device."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.device = device
        shape = (1, -1, 1, 1)
        self.mean = 255 * torch.tensor(recipe.data.mean, device=device).reshape(shape)
        self.std = 255 * torch.tensor(recipe.data.std, device=device).reshape(shape)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Images uint8 [m, c, s, s] as float32."""
        # Not in channels-last format, which CPUs compute in 0.7 to 0.9 of the time: backward of a pointwise convolution
        # of stride 2 with fewer than 8 input channels then writes beyond its memory (PyTorch 2.14.1, x86-64).
        return (pixels.to(self.device, non_blocking=True).float() - self.mean) / self.std


@torch.inference_mode()
def outputs(network: nn.Module, images: Images, normalise: Normaliser) -> torch.Tensor:
    """The outputs of a network for all images, float32 [n, k], on the CPU."""
    network.eval()
    parts = [
        network(normalise(images.centres(slice(start, start + EVALUATION_BATCH)))).float().cpu()
        for start in range(0, len(images), EVALUATION_BATCH)
    ]
    return torch.cat(parts)


def accuracy(outputs: torch.Tensor, labels: torch.Tensor) -> Accuracy:
    """The accuracy of outputs [n, k]."""
    hit = outputs.topk(min(5, outputs.shape[1]), dim=1).indices == labels[:, None]
    loss = float(nn.functional.cross_entropy(outputs, labels))
    return Accuracy(100 * float(hit[:, 0].float().mean()), 100 * float(hit.any(1).float().mean()), loss, len(labels))


def recompute_norms(
    network: nn.Module, images: Images, normalise: Normaliser, *, number: int, batch: int = 256
) -> None:
    """Set the means and variances of batch normalisations to those of some training images, averaged over batches."""
    average_norms(network, norm_batches(images, normalise, number=number, batch=batch))


def norm_batches(images: Images, normalise: Normaliser, *, number: int, batch: int = 256) -> Iterator[torch.Tensor]:
    """Batches of about so many images as a network's input, always the same ones."""
    rows = images.some(number)
    for start in range(0, len(rows) // batch * batch or 1, batch):
        yield normalise(images.centres(rows[start : start + batch]))


@contextmanager
def at_most_threads(number: int) -> Iterator[None]:
    """Compute with at most so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(number, before))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fine_tune(
    network: nn.Module,
    images: Images,
    recipe: Recipe,
    normalise: Normaliser,
    *,
    epochs: float,
    seed: int,
    objective: Objective | None = None,
    on_update: Callable[[int, int], None] = lambda *_: None,
) -> float:
    """Train a network in place by a recipe's optimiser, its rate falling to 0 along a cosine over these epochs.

    Args:
        network: On the normaliser's device.
        images: The training images.
        recipe: Gives the optimiser, its batch, and how often images are flipped.
        normalise: Makes the network's input.
        epochs: Passes over the images; a part of one takes that share of the updates.
        seed: Of the order, crops and flips.
        objective: The loss; by default the recipe's, without a teacher.
        on_update: Called with the number of updates done and their total.

    Returns:
        The loss of the last update.
    """
    batch = min(recipe.optim.batch_size, len(images))
    total = max(1, round(epochs * (len(images) // batch)))
    objective = objective or Objective(recipe)
    optimizer = make_optimizer(recipe.optim, network)
    rng = np.random.default_rng([seed, *b"tune"])
    network.train()
    for update, rows in enumerate(_batches(len(images), batch, total, rng)):
        for group in optimizer.param_groups:
            group["lr"] = 0.5 * recipe.optim.peak_lr * (1 + math.cos(math.pi * update / total))
        inputs = normalise(images.crops(rows, rng, flip=recipe.augment.hflip))
        labels = images.labels[torch.from_numpy(rows)].to(normalise.device)
        loss = objective(network(inputs), labels, inputs)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        on_update(update + 1, total)
    last = float(loss.detach())
    if not math.isfinite(last):
        raise RunError(f"The loss of the last of {total} updates is {last}: a lower optim.lr may help.")
    return last


def _batches(images: int, batch: int, total: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """``total`` batches of indices, epoch after epoch in another order; what does not fill a batch is left out."""
    done = 0
    while done < total:
        order = rng.permutation(images)
        for start in range(0, images - batch + 1, batch):
            if done == total:
                return
            yield order[start : start + batch]
            done += 1

"""``Task``: what a training learns and how that is measured; the loop uses nothing else of it.

    loop.run:  Task --> network, batches --(loss of a micro-batch)--> updates --> validate --> Row --> conclude

A round is what lies between two validations: an epoch of a classifier, some thousand updates of a detector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from bsszoo.train.checkpoint import Folder, Row
from bsszoo.train.classification.samples import Division
from bsszoo.train.devices import Process


@dataclass(frozen=True, slots=True)
class Round:
    """The results of a round of training: its number from 1, updates done in all, and means over the round."""

    number: int
    update: int
    lr: float  # of the round's last update
    train_loss: float
    images_per_s: float  # training only
    seconds: float  # training and validation


class Batches(Protocol):
    """The micro-batches of a process, on its device."""

    def between(self, first: int, last: int) -> Iterator[Any]:
        """The micro-batches of the updates ``first .. last - 1``, which lie in one round."""

    def reread(self, update: int, micro_batch: int) -> dict[str, Any]:
        """The images of one micro-batch, read again to be looked at; empty where that is not possible."""

    def close(self) -> None:
        """End the processes that read."""


class Task(Protocol):
    """A training's data and network in one process, opened and checked."""

    division: Division
    #: The updates after which it is validated; the last is the training's length.
    ends: tuple[int, ...]
    #: Differs between two sets of images, whatever folders they are in; a checkpoint is resumed on the same only.
    fingerprint: str
    train_images: int
    val_images: int
    #: Sentences for the user before the first update.
    notes: tuple[str, ...]
    #: What a line of ``metrics.csv`` holds.
    row_kind: type[Row]

    def network(self, *, fresh: bool) -> nn.Module:
        """The network on the CPU; with the weights that training starts from where it is ``fresh``."""

    def schedule(self, optimizer: torch.optim.Optimizer) -> Any:
        """A schedule of timm's, stepped before each update by ``step_update(number)``."""

    def to_device(self) -> None:
        """Bring what the loss needs besides the network to the device."""

    def batches(self) -> Batches:
        """The micro-batches to train on."""

    def loss(self, forward: nn.Module, batch: Any) -> torch.Tensor:
        """The loss of a micro-batch, a scalar."""

    def validate(
        self, network: nn.Module, on_batch: Callable[[int], None] | None, stopping: Callable[[], bool] | None
    ) -> Any | None:
        """The figures of a network on the validation images, over all processes; None when it was stopped."""

    def test(
        self, network: nn.Module, on_batch: Callable[[int], None] | None, stopping: Callable[[], bool] | None
    ) -> Any | None:
        """The same on the test images; not called where ``has_test`` is false."""

    has_test: bool

    def row(self, trained: Round, figures: Any) -> Row:
        """The line of a round."""

    def conclude(self, network: nn.Module, folder: Folder, rows: Sequence[Any], tested: Any | None) -> dict[str, Any]:
        """Write the trained network and its summary, which is returned; in the first process."""

    def close(self) -> None:
        """End the processes that read for ``validate``."""


#: Makes the task of a recipe in a process; raises what does not fit before the first update.
Opener = Callable[[Process], Task]

"""``Task``: what a training learns and how that is measured; the loop knows nothing else of it.

    loop.run:  Task.open --> network, batches --(loss of a pass)--> updates --> rounds --> validate --> Row --> conclude

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
from bsszoo.train.devices import Place


@dataclass(frozen=True, slots=True)
class Round:
    """What a round of training gave: its number from 1, updates done in all, and means over the round."""

    number: int
    update: int
    lr: float  # of the round's last update
    train_loss: float
    images_per_s: float  # training only
    seconds: float  # training and validation


class Batches(Protocol):
    """The passes of a process, on its device."""

    def between(self, first: int, last: int) -> Iterator[Any]:
        """The passes of the updates ``first .. last - 1``, which lie in one round."""

    def again(self, update: int, passed: int) -> dict[str, Any]:
        """One pass, read anew for a look; nothing where that is not possible."""

    def close(self) -> None:
        """End the processes that read."""


class Task(Protocol):
    """A training's data and network in one process, opened and checked."""

    division: Division
    #: The updates after which it is validated; the last is the training's length.
    ends: tuple[int, ...]
    #: What tells one set of pictures from another, whichever folder it lies in.
    mark: str
    train_pictures: int
    val_pictures: int
    #: What a person should know before the first update.
    notes: tuple[str, ...]
    #: What a line of ``metrics.csv`` holds.
    row_kind: type[Row]

    def network(self, *, fresh: bool) -> nn.Module:
        """The network on the CPU; with the weights that training starts from where it is ``fresh``."""

    def schedule(self, optimizer: torch.optim.Optimizer) -> Any:
        """A schedule of timm's, stepped before each update by ``step_update(number)``."""

    def place(self) -> None:
        """Bring what the loss needs beside the network to the device."""

    def batches(self) -> Batches:
        """The passes to train on."""

    def loss(self, forward: nn.Module, batch: Any) -> torch.Tensor:
        """The loss of a pass, a scalar."""

    def validate(
        self, network: nn.Module, on_batch: Callable[[int], None] | None, stopping: Callable[[], bool] | None
    ) -> Any | None:
        """The figures of a network on the validation pictures, over all processes; None when it was stopped."""

    def test(
        self, network: nn.Module, on_batch: Callable[[int], None] | None, stopping: Callable[[], bool] | None
    ) -> Any | None:
        """The same on the test pictures; not called where ``has_test`` is false."""

    has_test: bool

    def row(self, trained: Round, figures: Any) -> Row:
        """The line of a round."""

    def conclude(self, network: nn.Module, folder: Folder, rows: Sequence[Any], tested: Any | None) -> dict[str, Any]:
        """Write the trained network and its summary, which is returned; in the first process."""

    def close(self) -> None:
        """End what ``validate`` keeps open."""


#: Makes the task of a recipe in a process; raises what does not fit before the first update.
Opener = Callable[[Place], Task]

"""``TrainingCallback``: what a training calls at its start, during its updates and after each round."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bsszoo.train.checkpoint import Row
from bsszoo.train.classification.samples import Division
from bsszoo.train.detection.recipe import AnyRecipe
from bsszoo.train.devices import Process


@dataclass(frozen=True, slots=True)
class Start:
    """What a training starts with."""

    recipe: AnyRecipe
    train: int  # images
    val: int
    division: Division
    ends: tuple[int, ...]  # the updates after which it is validated
    process: Process
    resumed: int  # updates done before it was resumed
    folder: Path

    @property
    def total(self) -> int:
        """Updates of the whole training."""
        return self.ends[-1]


@dataclass(frozen=True, slots=True)
class TrainingState:
    """A training after an update."""

    update: int
    loss: float  # mean of the round so far
    lr: float
    images_per_s: float


class TrainingCallback(Protocol):
    """Called during a training, in the first process only."""

    def started(self, start: Start) -> None:
        """Called before the first update, when everything is checked and opened."""

    def updated(self, state: TrainingState) -> None:
        """Called about once a second."""

    def validating(self, images: int) -> None:
        """Called after each batch of the validation split, with the number of its images done in this process."""

    def validated(self, row: Row) -> None:
        """Called after each round, such as an epoch."""

    def note(self, text: str) -> None:
        """Called with a sentence for the user."""


class NoCallback:
    """A callback that does nothing."""

    def started(self, start: Start) -> None:
        """Do nothing."""

    def updated(self, state: TrainingState) -> None:
        """Do nothing."""

    def validating(self, images: int) -> None:
        """Do nothing."""

    def validated(self, row: Row) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""


class Callbacks:
    """Several callbacks as one, which are called in turn."""

    def __init__(self, *callbacks: TrainingCallback) -> None:
        self._callbacks = callbacks

    def started(self, start: Start) -> None:
        """Call all."""
        for callback in self._callbacks:
            callback.started(start)

    def updated(self, state: TrainingState) -> None:
        """Call all."""
        for callback in self._callbacks:
            callback.updated(state)

    def validating(self, images: int) -> None:
        """Call all."""
        for callback in self._callbacks:
            callback.validating(images)

    def validated(self, row: Row) -> None:
        """Call all."""
        for callback in self._callbacks:
            callback.validated(row)

    def note(self, text: str) -> None:
        """Call all."""
        for callback in self._callbacks:
            callback.note(text)

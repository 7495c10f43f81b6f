"""Who is told of a training as it goes on, and what."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bsszoo.train.checkpoint import Row
from bsszoo.train.classification.samples import Division
from bsszoo.train.detection.recipe import AnyRecipe
from bsszoo.train.devices import Place


@dataclass(frozen=True, slots=True)
class Start:
    """What a training begins with, for those who watch it."""

    recipe: AnyRecipe
    train: int  # pictures
    val: int
    division: Division
    ends: tuple[int, ...]  # the updates after which it is validated
    place: Place
    resumed: int  # updates already done
    folder: Path

    @property
    def total(self) -> int:
        """Updates of the whole training."""
        return self.ends[-1]


@dataclass(frozen=True, slots=True)
class Now:
    """A training at an update."""

    update: int
    loss: float  # mean of the round so far
    lr: float
    images_per_s: float


class Watcher(Protocol):
    """Who is told of a training as it goes on; called in the first process only."""

    def started(self, start: Start) -> None:
        """Everything is checked and opened; the first update follows."""

    def updated(self, now: Now) -> None:
        """About once a second."""

    def validating(self, pictures: int) -> None:
        """So many pictures of the validation split are done, in this process."""

    def validated(self, row: Row) -> None:
        """A round is over, such as an epoch."""

    def note(self, text: str) -> None:
        """Something that a person should know."""


class Unwatched:
    """A watcher that says nothing."""

    def started(self, start: Start) -> None:
        """Say nothing."""

    def updated(self, now: Now) -> None:
        """Say nothing."""

    def validating(self, pictures: int) -> None:
        """Say nothing."""

    def validated(self, row: Row) -> None:
        """Say nothing."""

    def note(self, text: str) -> None:
        """Say nothing."""

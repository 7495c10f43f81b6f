"""How a training goes on, on a terminal or in a file: what was understood, the loss, the time left, each validation."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from bsszoo.train.checkpoint import Row
    from bsszoo.train.classification.recipe import Recipe
    from bsszoo.train.detection.recipe import DetectionRecipe
    from bsszoo.train.watching import Now, Start

# On a terminal one line is rewritten; into a file a line is written after this many seconds at the earliest.
_LINE_SECONDS = 10.0


class Line:
    """A line that is rewritten on a terminal; elsewhere lines, not too many of them."""

    def __init__(self, console: Console) -> None:
        self._console, self._last = console, time.monotonic()

    def write(self, text: str) -> None:
        """Show a text in place of the one before."""
        if self._console.is_terminal:
            self._console.file.write(f"\r\x1b[2K{text[: self._console.width - 1]}")
            self._console.file.flush()
        elif time.monotonic() - self._last > _LINE_SECONDS:
            self._last = time.monotonic()
            self.say(text)

    def say(self, text: str) -> None:
        """A line that stays."""
        self.end()
        self._console.print(text, markup=False, soft_wrap=not self._console.is_terminal)

    def end(self) -> None:
        """Take the rewritten line away."""
        if self._console.is_terminal:
            self._console.file.write("\r\x1b[2K")


class TrainingProgress:
    """Says how a training goes on: pictures a second, loss, time left; a line for each validation."""

    def __init__(self, console: Console) -> None:
        self._line = Line(console)
        self._start: Start | None = None
        self._unit = ""

    def started(self, start: Start) -> None:
        """Say what was understood."""
        from bsszoo.train.classification.recipe import Recipe
        from bsszoo.train.detection.recipe import DetectionRecipe

        self._start = start
        recipe, division, place = start.recipe, start.division, start.place
        if isinstance(recipe, DetectionRecipe):
            words, data, self._unit = _detector_words(recipe), "COCO format", "to validation"
            length = f"{start.total:,} updates, {len(start.ends)} validations"
        else:
            assert isinstance(recipe, Recipe)
            words, data, self._unit = _classifier_words(recipe), recipe.data.dataset, "epoch"
            length = f"{division.updates} updates an epoch, {len(start.ends)} epochs"
        self._line.say(words)
        self._line.say(f"Data: {data}, {start.train:,} pictures to train on, {start.val:,} to validate on")
        self._line.say(
            f"Batch {recipe.optim.batch_size} = {place.world} processes x {division.passes} passes x "
            f"{division.size} pictures; {length}; learning rate up to {recipe.optim.peak_lr:g}; "
            f"{place.device}"
        )
        going_on = f" (going on after {start.resumed} of {start.total} updates)" if start.resumed else ""
        self._line.say(f"Folder: {start.folder}{going_on}")

    def updated(self, now: Now) -> None:
        """The loss so far, and the time left."""
        assert self._start is not None
        ends = self._start.ends
        left = (self._start.total - now.update) * self._start.recipe.optim.batch_size / max(now.images_per_s, 1e-9)
        number = sum(end < now.update for end in ends) + 1
        digits = 0 if now.images_per_s >= 100 else 1 if now.images_per_s >= 1 else 3
        self._line.write(
            f"{self._unit} {number}/{len(ends)}, update {now.update}/{self._start.total}: loss "
            f"{now.loss:.4f}, lr {now.lr:.4g}, {now.images_per_s:,.{digits}f} images/s, about "
            f"{_span(left)} left"
        )

    def validating(self, pictures: int) -> None:
        """How far validation is."""
        assert self._start is not None
        self._line.write(f"validating: {pictures:,} of {self._start.val:,} pictures")

    def validated(self, row: Row) -> None:
        """The line of a validation."""
        assert self._start is not None
        self._line.say(row.text(len(self._start.ends)))

    def note(self, text: str) -> None:
        """A note."""
        self._line.say(f"Note: {text}")


def _classifier_words(recipe: Recipe) -> str:
    from bsszoo.codes.cost import code_cost
    from bsszoo.models.names import resolve_code
    from bsszoo.report.figures import human

    part = recipe.model
    cost = code_cost(
        resolve_code(part.name), recipe.data.image_size, num_classes=part.num_classes, in_chans=part.in_chans
    )
    return (
        f"Training {part.name} at {recipe.data.image_size} px: {human(cost.macs)} MACs, {human(cost.params)} parameters"
    )


def _detector_words(recipe: DetectionRecipe) -> str:
    from bsszoo.codes.detector import detector_cost
    from bsszoo.report.figures import human

    size = recipe.data.image_size
    cost = detector_cost(recipe.detector, size)
    return (
        f"Training {recipe.model.name}, shorter side {size} px: {human(cost.macs)} MACs at {size} x {size} px as "
        "the paper counts detectors"
    )


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"

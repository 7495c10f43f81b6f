"""The progress of a training, on a terminal or in a file: the recipe, the loss, the time left, each validation."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from bsszoo.train.callbacks import Start, TrainingState
    from bsszoo.train.checkpoint import Row
    from bsszoo.train.classification.recipe import Recipe
    from bsszoo.train.detection.recipe import DetectionRecipe

# Outside a terminal the least time between two lines [s].
_LINE_SECONDS = 10.0


class Bars:
    """rich's bars on a terminal, a row for each unit that is counted; elsewhere lines of text, at intervals."""

    def __init__(self, console: Console) -> None:
        self._console, self._last = console, time.monotonic()
        self._progress: Progress | None = None
        self._rows: dict[str, TaskID] = {}

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def show(
        self, title: str, done: int, total: int | None, *, unit: str = "images", words: str = "", left: float = 0
    ) -> None:
        """Show ``done`` of ``total`` units, further words, and the time left [s]."""
        if self._console.is_terminal:
            progress = self._opened()
            if unit not in self._rows:
                self._rows[unit] = progress.add_task(title, total=total, completed=done, words=words)
            progress.update(self._rows[unit], description=title, completed=done, total=total, words=words, refresh=True)
        elif time.monotonic() - self._last > _LINE_SECONDS:
            self._last = time.monotonic()
            of = "" if total is None else f" of {total:,}"
            parts = [f"{title}: {done:,}{of} {unit}", words, f"about {_span(left)} left" if left else ""]
            self.say(", ".join(part for part in parts if part))

    def _opened(self) -> Progress:
        if self._progress is None:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
            from rich.table import Column

            # No thread redraws them: processes that read images are forked meanwhile and would inherit its lock.
            self._progress = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=None),
                MofNCompleteColumn(table_column=Column(no_wrap=True)),
                TextColumn("{task.fields[words]}", markup=False),
                TimeRemainingColumn(table_column=Column(no_wrap=True)),
                console=self._console,
                auto_refresh=False,
                expand=True,
                transient=True,
            )
            self._progress.start()
        return self._progress

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, markup=False, soft_wrap=not self._console.is_terminal)

    def remove(self, unit: str) -> None:
        """Take a row away."""
        if self._progress is not None and unit in self._rows:
            self._progress.remove_task(self._rows.pop(unit))

    def close(self) -> None:
        """Take all rows away."""
        if self._progress is not None:
            self._progress.stop()
        self._progress, self._rows = None, {}


class TrainingProgress:
    """Shows a training: images per second, loss, time left; a line for each validation."""

    def __init__(self, console: Console) -> None:
        self._bars = Bars(console)
        self._start: Start | None = None
        self._round = ""

    def __enter__(self) -> TrainingProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the bars away."""
        self._bars.close()

    def started(self, start: Start) -> None:
        """Print the recipe, the data and the batch."""
        from bsszoo.train.classification.recipe import Recipe

        self._start = start
        recipe, division, process = start.recipe, start.division, start.process
        if isinstance(recipe, Recipe):
            words, data, self._round = _classifier_words(recipe), recipe.data.dataset, "epoch"
            length = f"{division.updates} updates an epoch, {len(start.ends)} epochs"
        else:
            words, data, self._round = _detector_words(recipe), "COCO format", "round"
            length = f"{start.total:,} updates, {len(start.ends)} validations"
        self._bars.say(words)
        self._bars.say(f"Data: {data}, {start.train:,} images to train on, {start.val:,} to validate on")
        self._bars.say(
            f"Batch {recipe.optim.batch_size} = {process.world} processes x {division.micro_batches} micro-batches x "
            f"{division.size} images; {length}; learning rate up to {recipe.optim.peak_lr:g}; "
            f"{process.device}"
        )
        resumed = f" (resumed after {start.resumed} of {start.total} updates)" if start.resumed else ""
        self._bars.say(f"Folder: {start.folder}{resumed}")

    def updated(self, state: TrainingState) -> None:
        """The loss so far, and the time left."""
        assert self._start is not None
        ends = self._start.ends
        digits = 0 if state.images_per_s >= 100 else 1 if state.images_per_s >= 1 else 3
        self._bars.show(
            f"{self._round} {sum(end < state.update for end in ends) + 1}/{len(ends)}",
            state.update,
            self._start.total,
            unit="updates",
            words=f"loss {state.loss:.4f}, lr {state.lr:.4g}, {state.images_per_s:,.{digits}f} images/s",
            left=(self._start.total - state.update)
            * self._start.recipe.optim.batch_size
            / max(state.images_per_s, 1e-9),
        )

    def validating(self, images: int) -> None:
        """The progress of a validation."""
        assert self._start is not None
        self._bars.show("validating", images, self._start.val)

    def validated(self, row: Row) -> None:
        """The line of a validation."""
        assert self._start is not None
        self._bars.remove("images")
        self._bars.say(row.text(len(self._start.ends)))

    def note(self, text: str) -> None:
        """A note."""
        self._bars.say(f"Note: {text}")


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

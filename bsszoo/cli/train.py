"""``bsszoo train`` and ``bsszoo validate``: a recipe's training, its progress and its closing lines."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from bsszoo.train.checkpoint import EpochRow
    from bsszoo.train.recipe import Recipe
    from bsszoo.train.watching import Now, Start

# On a terminal one line is rewritten; into a file a line is written after this many seconds at the earliest.
_LINE_SECONDS = 10.0

_Data = Annotated[
    str | None, typer.Option("--data", metavar="DIR", show_default=False, help="The folder of the pictures.")
]
_Dataset = Annotated[
    str | None,
    typer.Option(metavar="NAME", show_default="the recipe's",
                 help="How the folder is read: folder (train/CLASS/*.jpg), torch/fashion_mnist, torch/cifar10, "
                 "wds/NAME, hfds/NAME, or synthetic (no --data needed)."),
]
_Device = Annotated[
    str | None, typer.Option(metavar="DEVICE", show_default="a GPU where there is one", help="cpu, cuda, cuda:1, mps.")
]


def train_command(
    recipe: Annotated[
        str,
        typer.Argument(metavar="RECIPE", show_default=False,
                       help="A YAML file, such as recipes/imagenet/resnet50_autobss.yaml, or paper:NAME_OR_CODE for "
                       "the paper's settings on ImageNet."),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", show_default=False,
                                      help="Folder of the training; the same command goes on with it.")],
    data: _Data = None,
    dataset: _Dataset = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", show_default=False,
                     help="Another value than the recipe's, such as optim.lr=0.35. May be given several times."),
    ] = None,
    device: _Device = None,
    check_files: Annotated[
        bool,
        typer.Option("--check-files", help="First decode every picture of a folder, however many there are. Without it "
                     "up to 20,000 of a split are opened, not decoded."),
    ] = False,
) -> None:
    """Train a network by a recipe.

    Everything is kept: Ctrl-C, SIGTERM or a crash lose at most the updates since the last checkpoint, and the same
    command goes on, in the middle of an epoch too, to the same weights.

    Examples:

      bsszoo train recipes/imagenet/mobilenetv2.yaml --data /data/imagenet --out runs/mobilenetv2

      torchrun --nproc-per-node 8 -m bsszoo train recipes/imagenet/resnet50.yaml --data /data/imagenet --out runs/r50

      bsszoo train paper:resnet18 --dataset synthetic --out smoke --set optim.batch_size=64 --set schedule.epochs=6
    """
    from bsszoo.cli.console import progress_console, show
    from bsszoo.train.loop import train
    from bsszoo.train.paper import recipe_of
    from bsszoo.train.parent import end_with_parent

    end_with_parent()
    read = recipe_of(recipe, [*(assignments or []), *([f"data.dataset={dataset}"] if dataset else [])])
    if check_files and os.environ.get("RANK", "0") == "0":
        _check_all(read, data)
    watcher = TrainingProgress(progress_console())
    summary = train(read, data, out, device=device, watcher=watcher)
    if not summary:
        return  # one of several processes; the first one reports
    show(f"Trained {summary['model']}: top-1 {summary['top1']:.2f}%, top-5 {summary['top5']:.2f}% of "
         f"{summary['val_pictures']:,} pictures ({summary['validated_on']}), {summary['epochs']} epochs, seed "
         f"{summary['seed']}", *_tested(summary),
         f"Best epoch: {summary['best_epoch']}, top-1 {summary['best_top1']:.2f}%",
         f"Weights: {out / 'model.safetensors'} (load with bsszoo.create('local-dir:{out}', "
         "pretrained=True))",
         f"Figures: {out / 'metrics.csv'}, {out / 'summary.json'}")


def _check_all(recipe: Recipe, data: str | None) -> None:
    """Decode every picture of both splits; ``DataError`` names the first that is broken."""
    from bsszoo.cli.console import progress_console
    from bsszoo.train.data import Pictures, open_splits

    line = _Line(progress_console())
    for split, name in zip(open_splits(recipe.data, data, num_classes=recipe.model.num_classes),
                           ("training", "validation"), strict=True):
        if isinstance(split, Pictures):
            for place in range(len(split)):
                split.picture(place, "RGB")
                if not place % 100:
                    line.write(f"checking: {place:,} of {len(split):,} {name} pictures")
    line.end()


def _tested(summary: dict[str, Any]) -> list[str]:
    if "test_top1" not in summary:
        return []
    return [f"Test: top-1 {summary['test_top1']:.2f}%, top-5 {summary['test_top5']:.2f}% of "
            f"{summary['test_pictures']:,} pictures ({summary['tested_on']})"]


def validate_command(
    what: Annotated[str, typer.Argument(metavar="RUN_OR_NAME", show_default=False,
                                        help="The folder of a training, a zoo name or a code's text.")],
    data: _Data = None,
    dataset: _Dataset = None,
    weights: Annotated[
        str | None,
        typer.Option(metavar="WEIGHTS", show_default="published ones, a training's own",
                     help="For a name or a code: a tag, hf-hub:org/name, local-dir:PATH or a file."),
    ] = None,
    split: Annotated[str | None, typer.Option(metavar="NAME", show_default="validation", help="The split.")] = None,
    batch: Annotated[int | None, typer.Option(metavar="N", show_default="128", help="Pictures of a batch.")] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", show_default="4", help="Processes that read pictures.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(metavar="P", show_default="float32", help="float32, bfloat16 or float16.")
    ] = None,
    device: _Device = None,
) -> None:
    """Measure the accuracy of a trained network.

    For the folder of a training it gives the figure that ended the training.

    Examples:

      bsszoo validate runs/mobilenetv2 --data /data/imagenet

      bsszoo validate resnet50 --weights a1_in1k --data /data/imagenet
    """
    from bsszoo.cli.console import progress_console, show
    from bsszoo.train.validate import validate

    settings: dict[str, Any] = {k: v for k, v in (("dataset", dataset), ("val_split", split)) if v is not None}
    line = _Line(progress_console())
    accuracy = validate(what, data, weights=weights or True, settings=settings, batch=batch, workers=workers,
                        precision=precision, device=device, on_batch=lambda n: line.write(f"{n:,} pictures done"))
    line.end()
    show(f"top-1 {accuracy.top1:.3f}%, top-5 {accuracy.top5:.3f}%, loss {accuracy.loss:.4f}, of "
         f"{accuracy.pictures:,} pictures")


class _Line:
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
    """Says how a training goes on: pictures a second, loss, time left; a line for each epoch."""

    def __init__(self, console: Console) -> None:
        self._line = _Line(console)
        self._start: Start | None = None

    def started(self, start: Start) -> None:
        """Say what was understood."""
        from bsszoo.codes.cost import code_cost
        from bsszoo.report.figures import human
        from bsszoo.zoo.entry import resolve_code

        self._start = start
        recipe, division, place = start.recipe, start.division, start.place
        code = resolve_code(recipe.model.name)
        cost = code_cost(code, recipe.data.image_size, num_classes=recipe.model.num_classes,
                         in_chans=recipe.model.in_chans)
        self._line.say(f"Training {recipe.model.name} at {recipe.data.image_size} px: {human(cost.macs)} MACs, "
                       f"{human(cost.params)} parameters")
        self._line.say(f"Data: {recipe.data.dataset}, {start.train:,} pictures to train on, {start.val:,} to validate "
                       "on")
        self._line.say(f"Batch {recipe.optim.batch_size} = {place.world} processes x {division.passes} passes x "
                       f"{division.size} pictures; {division.updates} updates an epoch, {recipe.schedule.epochs} "
                       f"epochs; learning rate up to {recipe.optim.peak_lr:g}; {place.device}")
        going_on = f" (going on after {start.resumed} of {start.total} updates)" if start.resumed else ""
        self._line.say(f"Folder: {start.folder}{going_on}")

    def updated(self, now: Now) -> None:
        """The loss so far, and the time left."""
        assert self._start is not None
        batch = self._start.recipe.optim.batch_size
        left = (self._start.total - now.update) * batch / max(now.images_per_s, 1e-9)
        epoch = (now.update - 1) // self._start.division.updates + 1
        self._line.write(f"epoch {epoch}/{self._start.recipe.schedule.epochs}, update {now.update}/"
                         f"{self._start.total}: loss {now.loss:.4f}, lr {now.lr:.4g}, {now.images_per_s:,.0f} "
                         f"images/s, about {_span(left)} left")

    def validating(self, pictures: int) -> None:
        """How far validation is."""
        assert self._start is not None
        self._line.write(f"validating: {pictures:,} of {self._start.val:,} pictures")

    def validated(self, row: EpochRow) -> None:
        """The line of an epoch."""
        assert self._start is not None
        self._line.say(f"epoch {row.epoch}/{self._start.recipe.schedule.epochs}: train loss {row.train_loss:.4f}, "
                       f"validation loss {row.val_loss:.4f}, top-1 {row.top1:.2f}%, top-5 {row.top5:.2f}%, "
                       f"{row.images_per_s:,.0f} images/s")

    def note(self, text: str) -> None:
        """A note."""
        self._line.say(f"Note: {text}")


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"

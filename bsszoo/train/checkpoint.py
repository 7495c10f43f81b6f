"""``Checkpoint``: the whole state of a training between two updates, and the folder it is kept in."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol

import torch
from torch import nn

from bsszoo.errors import RecipeError, RunError, SettingsError
from bsszoo.files import PART, whole_file, write_whole
from bsszoo.train.recipe import read_tree_of, recipe_text
from bsszoo.train.strict import as_mapping, paths

if TYPE_CHECKING:
    from bsszoo.train.task import TrainingRecipe

LAST, METRICS, RECIPE, SUMMARY, WEIGHTS, BEST = (
    "last.pt", "metrics.csv", "recipe.yaml", "summary.json", "model.safetensors", "best.safetensors"
)

#: Keys that may differ when a training goes on: they say how devices are used, not what is computed.
FREE: Final = ("run.workers", "run.checkpoint_minutes", "run.tensorboard", "run.compile", "run.channels_last",
               "run.device_batch")


class Row(Protocol):
    """One line of ``metrics.csv``: what a round of training gave; a frozen dataclass of numbers."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def score(self) -> float:
        """The figure that the best weights are chosen by; higher is better."""

    def text(self, rounds: int) -> str:
        """The line that a person reads, of so many."""


@dataclass(frozen=True, slots=True)
class EpochRow:
    """One line of ``metrics.csv``: what an epoch gave. Accuracies in percent, losses in nats."""

    epoch: int  # from 1
    update: int  # updates done
    lr: float  # of the epoch's last update
    train_loss: float
    val_loss: float
    top1: float
    top5: float
    images_per_s: float  # training only
    seconds: float  # training and validation

    @property
    def score(self) -> float:
        """Top-1 accuracy [%]."""
        return self.top1

    def text(self, rounds: int) -> str:
        """The line of an epoch."""
        return (f"epoch {self.epoch}/{rounds}: train loss {self.train_loss:.4f}, validation loss {self.val_loss:.4f}, "
                f"top-1 {self.top1:.2f}%, top-5 {self.top5:.2f}%, {self.images_per_s:,.0f} images/s")


@dataclass(slots=True)
class Progress:
    """How far a training is: updates done, what the round has summed up so far, and the rounds before."""

    update: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0  # of the round so far
    rows: list[Any] = field(default_factory=list)  # of the task's kind of row


def pack(
    progress: Progress, model: nn.Module, optimizer: torch.optim.Optimizer, *, ema: nn.Module | None, scaler: Any,
    data: str,
) -> dict[str, Any]:
    """The state of a training as ``torch.save`` takes it; tensors are copied to the CPU.

    Raises:
        RunError: A weight is not finite: such a state is never kept.
    """
    state = {
        "format": 1, "data": data, "update": progress.update, "loss_sum": progress.loss_sum,
        "seconds": progress.seconds, "rows": [asdict(row) for row in progress.rows],
        "model": _on_cpu(model.state_dict()), "optimizer": _on_cpu(optimizer.state_dict()),
        "ema": None if ema is None else _on_cpu(ema.state_dict()),
        "scaler": None if scaler is None else scaler.state_dict(),
    }
    wrong = [n for n, v in state["model"].items() if v.is_floating_point() and not torch.isfinite(v).all()]
    if wrong:
        raise RunError(f"{len(wrong)} weights are no longer finite ({wrong[0]}); this state is not kept.")
    return state


def unpack_progress(state: Mapping[str, Any], row_kind: type[Row]) -> Progress:
    """How far the training of a checkpoint was."""
    rows = [row_kind(**row) for row in state["rows"]]
    return Progress(state["update"], state["loss_sum"], state["seconds"], rows)


class Folder:
    """What a training leaves on disk; the first process holds it while it trains."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def held(self, recipe: TrainingRecipe) -> Iterator[None]:
        """Hold the folder for a training with this recipe; it is written there when it is new.

        Raises:
            SettingsError: It cannot be written, holds other files, another process trains in it, or its training has
                another recipe; the text names what differs.
        """
        from filelock import FileLock, Timeout

        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / ".lock", timeout=0)
            lock.acquire()
        except Timeout:
            raise SettingsError(f"Another process trains in {self.path}. Wait for it, or give another --out.") from None
        except OSError as error:
            raise SettingsError(f"The output folder {self.path} cannot be written: {error.strerror or error}. Give "
                                "another with --out.") from None
        try:
            self._check(recipe)
            for left in self.path.glob(f".*{PART}"):  # by a process that was killed while it wrote
                left.unlink(missing_ok=True)
            write_whole(self.path / RECIPE, recipe_text(recipe))
            yield
        finally:
            lock.release()

    def _check(self, recipe: TrainingRecipe) -> None:
        file = self.path / RECIPE
        if not file.exists():
            if any(not p.name.startswith(".") for p in self.path.iterdir() if p.name != "log.txt"):
                raise SettingsError(f"{self.path} holds other files and no training. Give an empty folder with --out.")
            return
        try:
            earlier = read_tree_of(type(recipe), file)
        except RecipeError as error:
            raise SettingsError(f"{self.path} holds a training that cannot go on: {error}") from None
        if not (self.path / LAST).exists():
            return
        differing = [p for p in differences(earlier, recipe) if p not in FREE]
        if differing:
            path = differing[0]
            raise SettingsError(
                f"{self.path} holds a training with another recipe: {path} is {value_at(earlier, path)!r} there and "
                f"{value_at(recipe, path)!r} now" + (f" ({len(differing) - 1} other keys differ too)"
                                                     if len(differing) > 1 else "")
                + ". Give another --out, or the same recipe to go on.")

    def load(self) -> dict[str, Any] | None:
        """The checkpoint of the folder, or None where there is none yet.

        Raises:
            SettingsError: The file is broken.
        """
        file = self.path / LAST
        if not file.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever the unpickler raises on a broken file
            raise SettingsError(f"The checkpoint {file} cannot be read ({type(error).__name__}: {error}). Take the "
                                "file away to start anew.") from None
        return state

    def save(self, state: Mapping[str, Any], row_kind: type[Row]) -> None:
        """Write the checkpoint, and ``metrics.csv`` as of it; each as a whole."""
        with whole_file(self.path / LAST) as scratch:
            torch.save(dict(state), scratch)
        self._write_metrics(state["rows"], [f.name for f in fields(row_kind)])

    def _write_metrics(self, rows: Sequence[Mapping[str, float]], names: Sequence[str]) -> None:
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(names)
        for row in rows:
            table.writerow([_figure(row[name]) for name in names])
        write_whole(self.path / METRICS, text.getvalue())

    def save_weights(self, name: str, state: Mapping[str, torch.Tensor]) -> None:
        """Write a state dict as a safetensors file."""
        from safetensors.torch import save_file

        with whole_file(self.path / name) as scratch:
            save_file({k: v.contiguous() for k, v in _on_cpu(state).items()}, scratch, metadata={"format": "pt"})

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write ``summary.json``; it is there only when the training has come to its end."""
        write_whole(self.path / SUMMARY, json.dumps(summary, indent=2) + "\n")

    def summary(self) -> dict[str, Any] | None:
        """``summary.json``, or None while the training has not come to its end."""
        file = self.path / SUMMARY
        try:
            found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise SettingsError(f"{file} is broken: {error}. Take it away; the same command writes it anew.") from None
        return found


def differences(one: TrainingRecipe, other: TrainingRecipe) -> list[str]:
    """The dotted paths of the values in which two recipes of one task differ."""
    return [p for p in paths(type(one)) if value_at(one, p) != value_at(other, p)]


def value_at(recipe: TrainingRecipe, path: str) -> Any:
    """The value at a dotted path, as YAML has it."""
    value: Any = as_mapping(recipe)
    for part in path.split("."):
        value = value[part]
    return value


def _on_cpu(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        # A copy also on the CPU: the training goes on while, or after, it is written.
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {k: _on_cpu(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_on_cpu(v) for v in value]
    return value


def _figure(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"

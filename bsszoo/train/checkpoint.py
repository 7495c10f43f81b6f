"""``Checkpoint``: the whole state of a training between two updates, and the folder that it is stored in."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, TypeVar

import torch
from torch import nn

from bsszoo.errors import BssZooError, RunError, SettingsError
from bsszoo.files import PART, whole_file
from bsszoo.models.saved_config import SECTION
from bsszoo.models.weights import sha256_of
from bsszoo.texts import one_line, parse_json
from bsszoo.train.checkpoint_contents import read_checkpoint
from bsszoo.train.classification.recipe import read_tree_of, recipe_text
from bsszoo.train.strict import as_mapping, paths

if TYPE_CHECKING:
    from bsszoo.train.detection.recipe import AnyRecipe

LAST, METRICS, RECIPE, SUMMARY, WEIGHTS, BEST, CONFIG = (
    "last.pt",
    "metrics.csv",
    "recipe.yaml",
    "summary.json",
    "model.safetensors",
    "best.safetensors",
    "config.json",
)

#: Keys that may differ when a training is resumed: they say how devices are used, not what is computed.
FREE: Final = (
    "run.workers",
    "run.checkpoint_minutes",
    "run.tensorboard",
    "run.compile",
    "run.channels_last",
    "run.device_batch",
)

#: Kinds of values, as a summary's entries have them.
Kinds = Mapping[str, tuple[type, ...]]
_TEXT: Final = (str,)
_COUNT: Final = (int,)
_NUMBER: Final = (int, float)
# Suffix of a damaged file that cannot be restored.
_ASIDE: Final = ".damaged"
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Row(Protocol):
    """One line of ``metrics.csv``: the results of a round of training; a frozen dataclass of numbers."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    #: What the summary of such a training holds at least.
    summary_kinds: ClassVar[Kinds]

    @property
    def score(self) -> float:
        """The figure that the best weights are chosen by; higher is better."""

    def text(self, rounds: int) -> str:
        """The line on screen, with the number of rounds in all."""


SomeRow = TypeVar("SomeRow", bound=Row)


def best_of(rows: Sequence[SomeRow]) -> SomeRow:
    """The row whose weights are in ``best.safetensors``: that of the highest score, the first of equals."""
    return max(rows, key=lambda row: row.score)


@dataclass(frozen=True, slots=True)
class EpochRow:
    """One line of ``metrics.csv``: the results of an epoch. Accuracies in percent, losses in nats."""

    summary_kinds: ClassVar[Kinds] = {
        "model": _TEXT,
        "validated_on": _TEXT,
        "top1": _NUMBER,
        "top5": _NUMBER,
        "val_loss": _NUMBER,
        "val_pictures": _COUNT,
        "epochs": _COUNT,
        "seed": _COUNT,
        "best_epoch": _COUNT,
        "best_top1": _NUMBER,
    }

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
        return (
            f"epoch {self.epoch}/{rounds}: train loss {self.train_loss:.4f}, validation loss {self.val_loss:.4f}, "
            f"top-1 {self.top1:.2f}%, top-5 {self.top5:.2f}%, {self.images_per_s:,.0f} images/s"
        )


@dataclass(slots=True)
class Progress:
    """How far a training is: updates done, sums over the current round, and the rows of the rounds before."""

    update: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0  # of the round so far
    rows: list[Any] = field(default_factory=list)  # of the task's kind of row


def pack(
    progress: Progress,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    ema: nn.Module | None,
    scaler: Any,
    data: str,
) -> dict[str, Any]:
    """The state of a training as ``torch.save`` takes it; tensors are copied to the CPU.

    Raises:
        RunError: A weight is not finite: such a state is never saved.
    """
    state = {
        "format": 1,
        "data": data,
        "update": progress.update,
        "loss_sum": progress.loss_sum,
        "seconds": progress.seconds,
        "rows": [asdict(row) for row in progress.rows],
        "model": _on_cpu(model.state_dict()),
        "optimizer": _on_cpu(optimizer.state_dict()),
        "ema": None if ema is None else _on_cpu(ema.state_dict()),
        "scaler": None if scaler is None else scaler.state_dict(),
    }
    wrong = [n for n, v in state["model"].items() if v.is_floating_point() and not torch.isfinite(v).all()]
    if wrong:
        raise RunError(f"{len(wrong)} weights are no longer finite ({wrong[0]}); this state is not saved.")
    return state


def unpack_progress(state: Mapping[str, Any], row_kind: type[Row]) -> Progress:
    """How far the training of a checkpoint was; its contents are checked before (``contents_fault``)."""
    rows = [row_kind(**row) for row in state["rows"]]
    return Progress(state["update"], state["loss_sum"], state["seconds"], rows)


class Folder:
    """The files of a training on disk; the first process locks it while it trains.

    Attributes:
        path: The folder.
        best: SHA-256 of ``best.safetensors`` as it has to be; None before the first validation, and where the file
            was lost.
        notes: Sentences on the files for the user.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.best: str | None = None
        self.notes: list[str] = []

    @contextmanager
    def locked(self, recipe: AnyRecipe) -> Iterator[None]:
        """Lock the folder for a training with this recipe, which is written there when the folder is new.

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
            raise SettingsError(
                f"The output folder {self.path} cannot be written: {error.strerror or error}. Give another with --out."
            ) from None
        try:
            self._check(recipe)
            for partial in self.path.glob(f".*{PART}"):  # by a process that was killed while it wrote
                partial.unlink(missing_ok=True)
            self.write_text(RECIPE, recipe_text(recipe))
            yield
        finally:
            lock.release()

    def _check(self, recipe: AnyRecipe) -> None:
        file = self.path / RECIPE
        if not file.exists():
            if (self.path / LAST).exists():
                raise SettingsError(
                    f"{self.path} holds a training whose {RECIPE} is missing. Put its "
                    "recipe there under that name, or give another --out."
                )
            if any(not p.name.startswith(".") for p in self.path.iterdir() if p.name != "log.txt"):
                raise SettingsError(f"{self.path} holds other files and no training. Give an empty folder with --out.")
            return
        try:
            earlier = read_tree_of(type(recipe), file)
        except BssZooError as error:
            raise SettingsError(
                f"{self.path} holds a training that cannot be resumed: {error} Give another --out; or, if "
                f"{RECIPE} was damaged, put the training's recipe there again."
            ) from None
        if not (self.path / LAST).exists():
            return
        differing = [p for p in differences(earlier, recipe) if p not in FREE]
        if differing:
            path = differing[0]
            raise SettingsError(
                f"{self.path} holds a training with another recipe: {path} is {value_at(earlier, path)!r} there and "
                f"{value_at(recipe, path)!r} now"
                + (f" ({len(differing) - 1} other keys differ too)" if len(differing) > 1 else "")
                + ". Give another --out, or the same recipe to resume it."
            )

    # -- the checkpoint -------------------------------------------------------------------------------------------

    def load(self) -> dict[str, Any] | None:
        """The checkpoint of the folder, or None where there is none yet.

        Raises:
            SettingsError: The file is damaged.
        """
        file = self.path / LAST
        return read_checkpoint(file) if file.exists() else None

    def save(self, state: Mapping[str, Any], row_kind: type[Row]) -> None:
        """Write the checkpoint, and ``metrics.csv`` as of it; each as a whole.

        Raises:
            RunError: They cannot be written, such as to a full disk.
        """
        with self.writing(LAST) as scratch, scratch.open("wb") as file:
            _save(dict(state, best=self.best), file)
        self._write_metrics(state["rows"], [f.name for f in fields(row_kind)])

    def restore(self, state: Mapping[str, Any], rows: Sequence[Row], weights: Mapping[str, torch.Tensor]) -> None:
        """Bring the files beside a checkpoint to its moment.

        A kill between two writes leaves ``metrics.csv`` and ``best.safetensors`` older than the checkpoint.

        Args:
            state: The checkpoint, checked.
            rows: Its rows.
            weights: Those of its moment that are validated.
        """
        if not rows:
            return
        self._write_metrics(state["rows"], [f.name for f in fields(rows[0])])
        file, best = self.path / BEST, best_of(rows)
        checksum = sha256_of(file) if file.is_file() else None
        if best is rows[-1] and state["update"] == _update(best):
            self.best = weights_sha256(weights)
            if checksum != self.best:
                self.save_weights(BEST, weights)
            return
        if "best" in state:
            self.best = state["best"] if checksum == state["best"] else None
        elif checksum is not None and [row.score for row in rows].count(best.score) == 1 and _holds_tensors(file):
            # Checkpoints of 0.1.0 have no checksum; of equal rounds it left the last one's weights.
            self.best = checksum
        if self.best is None:
            what, aside = "missing", ""
            if file.exists():
                what = (
                    "not the file that the checkpoint recorded"
                    if "best" in state
                    else ("damaged, or of another round: version 0.1.0 did not record which file it was")
                )
                other = _free(file.with_name(BEST + _ASIDE))
                file.replace(other)
                aside = f" What was there is now {other.name}."
            self.notes.append(
                f"{file}, the weights after {_update(best):,} updates, the best so far, is {what}, and "
                f"cannot be made again from {LAST}. A better round writes a new one.{aside}"
            )

    def _write_metrics(self, rows: Sequence[Mapping[str, float]], names: Sequence[str]) -> None:
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(names)
        for row in rows:
            table.writerow([_figure(row[name]) for name in names])
        self.write_text(METRICS, text.getvalue())

    # -- single files ---------------------------------------------------------------------------------------------

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """A path to write to, which replaces the folder's file ``name`` when the block ends.

        Raises:
            RunError: The disk is full, or refuses the file otherwise; what was there before stays.
        """
        try:
            with whole_file(self.path / name) as scratch:
                yield scratch
        except OSError as error:
            last = (
                f"The last checkpoint, {LAST}, is whole"
                if (self.path / LAST).is_file()
                else ("There is no checkpoint yet")
            )
            mended = "there is room" if error.errno in _FULL else "that is mended"
            raise RunError(
                f"{self.path / name} cannot be written: {error.strerror or error}. {last}: once {mended}, "
                "the same command resumes from there."
            ) from None

    def write_text(self, name: str, text: str) -> None:
        """Write a text file as a whole; ``RunError`` as ``writing``."""
        with self.writing(name) as scratch:
            scratch.write_text(text, encoding="utf-8", newline="\n")

    def save_weights(self, name: str, state: Mapping[str, torch.Tensor]) -> str:
        """Write a state dict as a safetensors file; its SHA-256."""
        data = _safetensors(state)
        with self.writing(name) as scratch:
            scratch.write_bytes(data)
        return hashlib.sha256(data).hexdigest()

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write ``summary.json``; it is there only when the training is finished."""
        self.write_text(SUMMARY, json.dumps(summary, indent=2) + "\n")

    # -- a finished training --------------------------------------------------------------------------------------

    def finished(self, row_kind: type[Row]) -> dict[str, Any] | None:
        """The summary of a finished training, or None.

        Files that are missing or damaged are written again from the last checkpoint, where there is one.

        Raises:
            SettingsError: ``summary.json`` is damaged, or the weights are and there is no checkpoint.
        """
        summary = self.summary(row_kind)
        if summary is None:
            return None
        faults = {
            name: fault
            for name, fault in (
                (WEIGHTS, self._weights_fault(WEIGHTS, summary.get("sha256"))),
                (CONFIG, self._config_fault(summary.get("sha256"))),
                (BEST, self._weights_fault(BEST, summary["best_sha256"]) if summary.get("best_sha256") else None),
            )
            if fault is not None
        }
        if not faults:
            return summary
        wrong = f"In {self.path} {' and '.join(f'{name} {fault}' for name, fault in faults.items())}"
        if (self.path / LAST).exists():
            self.notes.append(f"{wrong}; what can be is written again from {LAST}.")
            return None
        if faults.keys() == {BEST}:
            self.notes.append(f"{wrong}.")
            return summary
        raise SettingsError(
            f"{wrong}. The training came to its end, but there is no {LAST} to write it from. Bring "
            f"the file back from a copy; or take {SUMMARY} away, and the same command trains anew."
        )

    def _weights_fault(self, name: str, recorded: str | None) -> str | None:
        file = self.path / name
        if not file.is_file():
            return "is missing"
        # Version 0.1.0 recorded nothing.
        right = _holds_tensors(file) if recorded is None else sha256_of(file) == recorded
        return None if right else "is not the file that was written"

    def _config_fault(self, recorded: str | None) -> str | None:
        if recorded is None:
            return None
        try:
            config = parse_json((self.path / CONFIG).read_bytes())
            return None if config[SECTION]["sha256"] == recorded else "is of other weights"
        except FileNotFoundError:
            return "is missing"
        except (OSError, ValueError, TypeError, KeyError):
            return "is damaged"

    def summary(self, row_kind: type[Row]) -> dict[str, Any] | None:
        """``summary.json``, or None while the training is not finished.

        Raises:
            SettingsError: It is damaged.
        """
        file = self.path / SUMMARY
        try:
            summary: Any = parse_json(file.read_bytes())
            _check_summary(summary, row_kind.summary_kinds)
        except FileNotFoundError:
            return None
        except (ValueError, OSError) as error:
            # The parser's texts quote what the file holds.
            raise SettingsError(
                f"{file} is damaged: {one_line(error)}. Take it away; the same command writes it anew."
            ) from None
        checked: dict[str, Any] = summary
        return checked


def weights_sha256(state: Mapping[str, torch.Tensor]) -> str:
    """The SHA-256 of the file that ``Folder.save_weights`` makes of a state dict."""
    return hashlib.sha256(_safetensors(state)).hexdigest()


def differences(one: AnyRecipe, other: AnyRecipe) -> list[str]:
    """The dotted paths of the values in which two recipes of one task differ."""
    return [p for p in paths(type(one)) if value_at(one, p) != value_at(other, p)]


def value_at(recipe: AnyRecipe, path: str) -> Any:
    """The value at a dotted path, as YAML has it."""
    value: Any = as_mapping(recipe)
    for part in path.split("."):
        value = value[part]
    return value


def _on_cpu(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        # A copy also on the CPU: the training continues while, or after, it is written.
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {k: _on_cpu(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_on_cpu(v) for v in value]
    return value


def _figure(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def _free(path: Path) -> Path:
    """The path, or it with the first number behind it that nothing has yet."""
    names = (path, *(path.with_name(f"{path.name}{n}") for n in range(2, 1000)))
    return next(p for p in names if not p.exists())


def _update(row: Any) -> int:
    return int(row.update)


def _safetensors(state: Mapping[str, torch.Tensor]) -> bytes:
    from safetensors.torch import save

    return save({k: v.contiguous() for k, v in _on_cpu(state).items()}, metadata={"format": "pt"})


def _holds_tensors(file: Path) -> bool:
    """Whether a file is a complete safetensors file, by its header."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            return bool(opened.keys())
    except (SafetensorError, OSError):
        return False


class _Remembering:
    """Wraps a file and stores the error of its ``write``: torch makes a page of C++ addresses of it."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return int(self._file.write(data))
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


def _save(state: Mapping[str, Any], file: Any) -> None:
    remembering = _Remembering(file)
    try:
        torch.save(dict(state), remembering)  # type: ignore[arg-type]
    except (RuntimeError, OSError):
        if remembering.error is not None:
            raise remembering.error from None
        raise


def _check_summary(summary: object, kinds: Kinds) -> None:
    if not isinstance(summary, dict):
        raise ValueError("it holds no object")
    for name, allowed in kinds.items():
        value = summary.get(name)
        if type(value) not in allowed:
            raise ValueError(f"its {name!r} is {value!r}" if name in summary else f"it has no {name!r}")
    for name in ("sha256", "best_sha256"):
        if not isinstance(summary.get(name), (str, type(None))):
            raise ValueError(f"its {name!r} is no text")

"""``TrainingEvaluator``: a code is judged by training its network, as the paper does, on pictures of one's own."""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import gettempdir
from typing import Any, Final

from bsszoo.codes.code import Code
from bsszoo.errors import DataError, EvaluationError, SettingsError
from bsszoo.files import write_whole
from bsszoo.study.evaluator import Score
from bsszoo.study.result import EvaluatorInfo
from bsszoo.train.checkpoint import SUMMARY
from bsszoo.train.data import Split, Stream, open_split, open_splits, open_test
from bsszoo.train.paper import imagenet_recipe, paper_recipe
from bsszoo.train.parent import PARENT
from bsszoo.train.recipe import Recipe, read_recipe, recipe_text, with_values

#: Share of the training pictures that candidates are validated on: the test split stays unseen by the search.
HOLDOUT: Final = 0.1
# Seeds of trainings that are measured on the test split begin so far above the search's.
_FRESH: Final = 1000
# Lines of a failed training's log that its error repeats; the file holds all.
_LOG_LINES: Final = 6


def training_recipe(
    family: str, data: str | Path | None, *, recipe: str | Path | None = None, dataset: str | None = None,
    epochs: int | None = None, image_size: int | None = None, subset: float | None = None,
    assignments: Sequence[str] = (),
) -> Recipe:
    """The recipe that candidates of a family are trained by: a file's, or the paper's, changed where asked.

    Args:
        family: A family's name.
        data: The folder of the pictures.
        recipe: A YAML file; None for the paper's recipe, with as many classes as the data has.
        dataset, image_size, subset: Values of the data section.
        epochs: Epochs, in place of the recipe's; the warm-up keeps its share of them.
        assignments: ``key.key=value`` texts.

    Raises:
        RecipeError, DataError: As ``read_recipe`` and ``open_splits``.
    """
    if recipe is not None:
        made = read_recipe(recipe, assignments)
    else:
        if assignments:
            raise SettingsError("--set changes a recipe file: give it with --recipe.")
        part = imagenet_recipe(family).data  # the family's own input size and crop
        part = part if dataset is None else replace(part, dataset=dataset)
        split = open_split(part, data, training=True, num_classes=sys.maxsize)
        if isinstance(split, Stream):
            raise DataError(f"{part.dataset} does not say how many classes it has: give a recipe with "
                            "model.num_classes.")
        made = paper_recipe(family, num_classes=int(split.labels.max()) + 1, data=part)
    changed: dict[str, Any] = {k: v for k, v in (
        ("dataset", dataset), ("image_size", image_size), ("subset", subset)) if v is not None}
    made = with_values(made, data={"holdout": made.data.holdout or HOLDOUT, **changed})
    if epochs is not None:
        warm = made.schedule.warmup_epochs * epochs / made.schedule.epochs
        made = with_values(made, schedule={"epochs": epochs, "warmup_epochs": warm})
    return made


@dataclass(frozen=True)
class TrainingEvaluator:
    """Judges a code by its top-1 accuracy [%] on held-out training pictures after a training by ``recipe``.

    Each training is a process of its own with its own folder and log, so that one that crashes or runs out of memory
    is one failed trial. A folder is found again by its code and seed: a training that was cut off is taken up at its
    checkpoint, by whichever worker gets its code, and a finished one is not repeated. With several GPUs each process
    of this machine takes a free one.

    Args:
        recipe: How candidates are trained; its network's name does not matter.
        data: The folder of the pictures, as ``bsszoo train --data``; None for synthetic ones.
        folder: Where the trainings go.
        repeats: Trainings of each code, with the seeds ``run.seed``, ``run.seed + 1``, ..; the score is their mean.
        device: As ``bsszoo train --device``; a free GPU where there is one by default.

    Raises:
        DataError: The pictures cannot be used; checked here, before any training.
        RecipeError: They do not fill one batch.
    """

    recipe: Recipe
    data: str | None
    folder: Path
    repeats: int = 1
    device: str | None = None
    _updates: int = field(default=0, init=False, repr=False, compare=False)
    _held: int = field(default=0, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 1 <= self.repeats <= _FRESH:
            raise SettingsError(f"--repeats is {self.repeats}; it takes a number from 1 to {_FRESH}.")
        train, held = open_splits(self.recipe.data, self.data, num_classes=self.recipe.model.num_classes)
        object.__setattr__(self, "_updates", updates_of(self.recipe, train))
        object.__setattr__(self, "_held", len(held))

    @property
    def info(self) -> EvaluatorInfo:
        """What is measured, on what, after how much training."""
        recipe = self.recipe
        data = recipe.data
        times = f", mean of {self.repeats} trainings" if self.repeats > 1 else ""
        measures = (f"top-1 accuracy [%] on {100 * data.holdout:g}% of the training pictures, held out, after "
                    f"{_epochs(recipe)} ({self._updates:,} updates of {recipe.optim.batch_size:,} pictures) at "
                    f"{data.image_size} px{_thinned(recipe)}{times}")
        return EvaluatorInfo(f"training-{self.mark}", measures)

    @property
    def test_measures(self) -> str:
        """What ``tested`` measures."""
        data = self.recipe.data
        return (f"top-1 accuracy [%] on the split {data.val_split!r} of {data.dataset}, which the search never saw, of "
                f"fresh trainings of {_epochs(self.recipe)} at {data.image_size} px{_thinned(self.recipe)}")

    def doubt(self, best: float) -> str | None:
        """A sentence where the best score of a search is one that untrained networks get too; else None.

        By chance a network is right once in as many pictures as there are classes; four standard deviations above that,
        over the pictures held out, are more than the luck of the best of some hundred codes.
        """
        chance = 1 / self.recipe.model.num_classes
        deviation = 100 * math.sqrt(chance * (1 - chance) / max(self._held, 1))
        if best > 100 * chance + 4 * deviation:
            return None
        return (f"The best score, {best:.2f}%, is what guessing among {self.recipe.model.num_classes} classes gives: "
                f"the trainings, of {self._updates:,} updates each, taught nothing, and the codes' order is luck. "
                "More --epochs, a larger --subset or a recipe with a smaller optim.batch_size give them more updates.")

    @property
    def mark(self) -> str:
        """What tells one way of judging from another: the recipe's values but the network, and the repeats."""
        neutral = with_values(self.recipe, model={"name": "code"}, run={"workers": 0})
        return hashlib.sha256(f"{recipe_text(neutral)} {self.repeats}".encode()).hexdigest()[:8]

    def __call__(self, code: Code) -> Score:
        """The mean top-1 accuracy of a code's trainings.

        Raises:
            EvaluationError: A training failed; the text has the end of its log and where the whole of it is.
        """
        found = self.accuracies(code)
        return Score(sum(found) / len(found), "top-1 accuracy [%]", tuple(found))

    def accuracies(self, code: Code) -> list[float]:
        """The top-1 accuracy [%] of each training of a code; trainings that are finished are only read."""
        seed = self.recipe.run.seed
        return [float(self._trained(code, seed + i)["top1"]) for i in range(self.repeats)]

    def tested(self, code: Code, number: int) -> float:
        """The top-1 accuracy [%], on the recipe's validation split, of a training that no choice was made by.

        Its seed is none of the search's; the split is measured once, after the last update.

        Args:
            code: The code.
            number: Which of its fresh trainings, from 0.

        Raises:
            EvaluationError: As a call.
        """
        return float(self._trained(code, self.recipe.run.seed + _FRESH + number, test=True)["test_top1"])

    def check_test(self) -> None:
        """A ``DataError`` where the split that ``tested`` measures on cannot be used."""
        recipe = self._recipe(test=True)
        open_test(recipe.data, self.data, num_classes=recipe.model.num_classes)

    def has_test(self) -> bool:
        """Whether there is a split that ``tested`` can measure on."""
        try:
            self.check_test()
        except DataError:
            return False
        return True

    def training_folder(self, code: Code, seed: int) -> Path:
        """The folder of one training of a code."""
        return self.folder / f"{hashlib.sha256(f'{code} {self.mark}'.encode()).hexdigest()[:16]}_seed{seed}"

    def _recipe(self, *, test: bool) -> Recipe:
        part = self.recipe.data
        return with_values(self.recipe, data={"test_split": part.val_split if test else part.test_split})

    def _trained(self, code: Code, seed: int, *, test: bool = False) -> dict[str, Any]:
        out = self.training_folder(code, seed)
        if not (out / SUMMARY).is_file():
            out.mkdir(parents=True, exist_ok=True)
            recipe = with_values(self._recipe(test=test), model={"name": str(code)}, run={"seed": seed})
            wanted = out.with_suffix(".yaml")
            write_whole(wanted, recipe_text(recipe))
            with self._free_device() as device:
                self._run(wanted, out, device)
        found: dict[str, Any] = json.loads((out / SUMMARY).read_text(encoding="utf-8"))
        return found

    def _run(self, recipe: Path, out: Path, device: str | None) -> None:
        command = [sys.executable, "-m", "bsszoo", "train", str(recipe), "--out", str(out)]
        command += ["--data", self.data] if self.data is not None else []
        command += ["--device", device] if device is not None else []
        log = out / "log.txt"
        environment = {**os.environ, PARENT: str(os.getpid())}
        # A search keeps its own linear algebra to one thread; a training may use what the machine has.
        with log.open("ab") as said:
            process = subprocess.Popen(command, stdout=said, stderr=said, stdin=subprocess.DEVNULL, env=environment)
            try:
                status = process.wait()
            except BaseException:
                process.terminate()  # it writes a checkpoint first
                process.wait()
                raise
        if status:
            lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
            how = f"was ended by signal {-status}" if status < 0 else f"ended with {status}"
            raise EvaluationError(f"The training in {out} {how}: {' | '.join(lines[-_LOG_LINES:])}. Its log is {log}.")

    @contextmanager
    def _free_device(self) -> Iterator[str | None]:
        """A device that no other training of this machine's searches uses; None leaves the choice to the training."""
        import torch
        from filelock import FileLock, Timeout

        if self.device is not None or not torch.cuda.is_available():
            yield self.device
            return
        for number in range(torch.cuda.device_count()):
            lock = FileLock(Path(gettempdir()) / f"bsszoo-gpu{number}-{Path.home().name}.lock", timeout=0)
            try:
                lock.acquire()
            except Timeout:
                continue
            try:
                yield f"cuda:{number}"
            finally:
                lock.release()
            return
        # More workers than GPUs: the first one is shared.
        yield "cuda:0"


def updates_of(recipe: Recipe, train: Split) -> int:
    """The updates of a whole training in one process.

    Raises:
        RecipeError: The pictures do not fill one batch.
    """
    from bsszoo.train.batches import divide

    return divide(recipe, len(train), 1).updates * recipe.schedule.epochs


def _thinned(recipe: Recipe) -> str:
    subset = recipe.data.subset
    return f", {100 * subset:g}% of the pictures" if subset < 1 else ""


def _epochs(recipe: Recipe) -> str:
    number = recipe.schedule.epochs
    return f"{number} epoch" if number == 1 else f"{number} epochs"

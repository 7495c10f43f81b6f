"""``finish``: the best code of a search, trained in full; the original may be its teacher, or pass its weights on.

    best code --finish--> Recipe, which names the original and its weights --> train.loop

All settings are in the recipe that is written beside the training, so that ``bsszoo train`` (or ``torchrun``, on
several devices) does the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bsszoo.codes.code import Code
from bsszoo.errors import RecipeError, SettingsError
from bsszoo.files import write_whole
from bsszoo.study.result import Finished
from bsszoo.texts import parse_json
from bsszoo.train.classification.paper import paper_recipe
from bsszoo.train.classification.recipe import Recipe, read_recipe, recipe_text, with_values

if TYPE_CHECKING:
    from bsszoo.train.callbacks import TrainingCallback

#: In place of a recipe's file: the paper's recipe of the family.
PAPER: Final = "paper"


@dataclass(frozen=True, slots=True)
class Finish:
    """How the best code is trained in full.

    Args:
        recipe: Its network is replaced. ``read_finish`` makes one of the option ``--finish``.
        data: The folder of the images, as ``bsszoo train --data``.
        teacher: Weights of the original, as ``bsszoo.create`` takes them, whose outputs are distilled; None for no
            teacher. The recipe sets their share: ``loss.teacher_share`` and ``loss.temperature``.
        inherit: Weights of the original that the code's network starts from, as far as shapes allow; None for fresh
            ones.
        device: As ``bsszoo train --device``.
    """

    recipe: Recipe
    data: str | None
    teacher: str | None = None
    inherit: str | None = None
    device: str | None = None

    def recipe_of(self, code: Code, original: Code) -> Recipe:
        """The recipe of a code's training, in which the original and its weights are named."""
        from bsszoo.train.classification.trained import fixed

        model: dict[str, str | None] = {"name": str(code)}
        loss = {}
        if self.inherit is not None:
            model |= {"inherit": str(original), "inherit_weights": fixed(self.inherit), "pretrained": None}
        if self.teacher is not None:
            loss = {"teacher": str(original), "teacher_weights": fixed(self.teacher)}
        return with_values(self.recipe, model=model, loss=loss)

    def check(self, original: Code) -> None:
        """Check before the search what is needed after it: images, and weights of the original for them.

        Raises:
            DataError, WeightsError, RecipeError, SettingsError: They cannot be used.
        """
        from bsszoo.evaluators.training import updates_of
        from bsszoo.train.classification.data import class_names, open_splits
        from bsszoo.train.classification.trained import open_inherited, open_teacher

        train, _ = open_splits(self.recipe.data, self.data, num_classes=self.recipe.model.num_classes)
        try:
            updates_of(self.recipe, train)
        except RecipeError as error:
            raise RecipeError(f"--finish: {error}") from None
        recipe, classes = self.recipe_of(original, original), class_names(train)
        open_inherited(recipe, classes)
        open_teacher(recipe, classes)


def read_finish(what: str, family: str, candidates: Callable[[], Recipe], data: str | None = None) -> Recipe:
    """The recipe that ``--finish`` names.

    Args:
        what: A YAML file, or ``"paper"``: Table 1's of the family, on the images of the search, with their
            validation split.
        family: A family's name.
        candidates: Returns the recipe by which candidates are trained; not called for a file.
        data: The folder of the images: where it has no validation split, training images are held out for the
            paper's recipe, as they are for candidates.

    Raises:
        SettingsError: There is no such file.
        RecipeError: As ``read_recipe``.
    """
    if what != PAPER:
        if not Path(what).is_file():
            raise SettingsError(
                f"--finish is {what!r}; it takes a recipe's YAML file, or {PAPER} for the one of the paper."
            )
        return read_recipe(what)
    from bsszoo.train.classification.data import has_split

    judged = candidates()
    holdout = 0.0 if has_split(judged.data, data, judged.data.val_split) else judged.data.holdout
    whole = with_values(judged, data={"holdout": holdout, "subset": 1.0, "test_split": None})
    made = paper_recipe(family, num_classes=whole.model.num_classes, data=whole.data)
    machine = ("device_batch", "precision", "channels_last", "workers")
    return with_values(made, model={"in_chans": whole.model.in_chans}, run={k: getattr(whole.run, k) for k in machine})


def finish(
    how: Finish,
    code: Code,
    original: Code,
    folder: Path,
    callback: TrainingCallback | None = None,
    elsewhere: Callable[[Path, Path], None] | None = None,
) -> Finished:
    """Train the best code in a run's folder, or resume that training.

    Args:
        how: The recipe, data and weights.
        code: The code.
        original: The network that was compressed: the teacher, and whose weights are inherited.
        folder: The run's folder. The training is in ``finish_FINGERPRINT`` in it, of the code's fingerprint, and
            its recipe in ``finish_FINGERPRINT.yaml``.
        callback: Called during the training.
        elsewhere: Trains on another machine by the recipe of the first path in the folder of the second one.

    Raises:
        WeightsError, DataError, RecipeError, RunError, StoppedError: As ``train``.
        SettingsError: The folder's training began with other weights.
    """
    from bsszoo.train.checkpoint import SUMMARY
    from bsszoo.train.loop import train

    recipe = how.recipe_of(code, original)
    out = training_folder(folder, code)
    write_whole(out.with_suffix(".yaml"), recipe_text(recipe))
    if elsewhere is None:
        summary = train(recipe, how.data, out, device=how.device, callback=callback)
    else:
        elsewhere(out.with_suffix(".yaml").absolute(), out.absolute())
        summary = parse_json((out / SUMMARY).read_bytes())
    return Finished(
        code=str(code),
        folder=out.name,
        top1=summary["top1"],
        top5=summary["top5"],
        images=summary["val_pictures"],
        measured_on=summary["validated_on"],
        epochs=summary["epochs"],
        inherited=summary.get("inherited", {}).get("words"),
        teacher=how.teacher,
    )


def train_here(recipe: Path, out: Path, data: str | None, device: str | None, processes: int) -> None:
    """Train by a recipe's file in a folder, in a process of its own or in several, each of which takes a GPU.

    Raises:
        EvaluationError: It failed.
    """
    from bsszoo.evaluators.trainings import run_training

    out.mkdir(parents=True, exist_ok=True)
    run_training(recipe, out, data, device, processes)


def training_folder(folder: Path, code: Code) -> Path:
    """The folder of a code's training in full in a run's folder; another best code has another one."""
    return folder / f"finish_{hashlib.sha256(str(code).encode()).hexdigest()[:6]}"

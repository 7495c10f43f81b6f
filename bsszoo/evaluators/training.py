"""``TrainingEvaluator``: a code is judged by training its network, as the paper does, on the user's images."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bsszoo.codes.code import Code
from bsszoo.codes.families import family_of
from bsszoo.errors import DataError, SettingsError
from bsszoo.evaluators.base import EvaluatorInfo
from bsszoo.evaluators.registry import Request
from bsszoo.evaluators.trainings import HOLDOUT, Trainings
from bsszoo.train.classification.data import (
    Split,
    Stream,
    class_names,
    open_split,
    open_splits,
    open_test,
    split_notes,
    unseen_split,
)
from bsszoo.train.classification.paper import imagenet_recipe, paper_recipe
from bsszoo.train.classification.recipe import Recipe, read_recipe, with_values


def training_recipe(
    family: str,
    data: str | Path | None,
    *,
    recipe: str | Path | None = None,
    dataset: str | None = None,
    epochs: int | None = None,
    image_size: int | None = None,
    subset: float | None = None,
    assignments: Sequence[str] = (),
) -> Recipe:
    """The recipe of a family's candidates: a file's, or the paper's, with the options' changes.

    Args:
        family: A family's name.
        data: The folder of the images.
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
        part = imagenet_recipe(family_of(family).original_name).data  # the family's input size and crop
        part = part if dataset is None else part.replaced(dataset=dataset)
        split = open_split(part, data, training=True, num_classes=sys.maxsize)
        if isinstance(split, Stream):
            raise DataError(
                f"{part.dataset} does not say how many classes it has: give a recipe with model.num_classes."
            )
        made = paper_recipe(family, num_classes=int(split.labels.max()) + 1, data=part)
    changed: dict[str, Any] = {
        k: v for k, v in (("dataset", dataset), ("image_size", image_size), ("subset", subset)) if v is not None
    }
    made = with_values(made, data={"holdout": made.data.holdout or HOLDOUT, **changed})
    if epochs is not None:
        warm = made.schedule.warmup_epochs * epochs / made.schedule.epochs
        made = with_values(made, schedule={"epochs": epochs, "warmup_epochs": warm})
    return made


def candidates_recipe(request: Request) -> Recipe:
    """The recipe by which the candidates of a search are trained, or would be."""
    how = request.training
    return training_recipe(
        request.network.code.family,
        how.data,
        recipe=how.recipe,
        dataset=how.dataset,
        epochs=how.epochs,
        image_size=how.image_size,
        subset=how.subset,
    )


@dataclass(frozen=True)
class TrainingEvaluator(Trainings):
    """Judges a code by its top-1 accuracy [%] on held-out training images after a training by ``recipe``.

    How the trainings are run, and the arguments: ``Trainings``.

    Raises:
        DataError: The images cannot be used; checked here, before any training.
        RecipeError: They do not fill one batch.
    """

    recipe: Recipe
    _updates: int = field(default=0, init=False, repr=False, compare=False)
    _held: int = field(default=0, init=False, repr=False, compare=False)
    _notes: tuple[str, ...] = field(default=(), init=False, repr=False, compare=False)
    _classes: tuple[str, ...] | None = field(default=None, init=False, repr=False, compare=False)

    @classmethod
    def requested(cls, request: Request) -> TrainingEvaluator:
        """Trainings by the recipe of the request, or the paper's.

        Raises:
            SettingsError, RecipeError, DataError: The recipe or the images cannot be used.
        """
        how = request.training
        if how.ap is not None:
            raise SettingsError(
                "--ap says what a detector's search is judged by; give a detector, such as maskrcnn_resnet50."
            )
        made = cls(candidates_recipe(request), how.folder, (request.folder / "trainings").absolute(), how.repeats)
        if request.tested:
            made.check_test()
        return made

    def __post_init__(self) -> None:
        super().__post_init__()
        train, held = open_splits(self.recipe.data, self.data, num_classes=self.recipe.model.num_classes)
        object.__setattr__(self, "_updates", updates_of(self.recipe, train))
        object.__setattr__(self, "_held", len(held))
        object.__setattr__(self, "_notes", split_notes(train, held))
        object.__setattr__(self, "_classes", class_names(train))

    @property
    def info(self) -> EvaluatorInfo:
        """What is measured, on what, after how much training."""
        recipe = self.recipe
        data = recipe.data
        times = f", mean of {self.repeats} trainings" if self.repeats > 1 else ""
        measures = (
            f"top-1 accuracy [%] on {100 * data.holdout:g}% of the training images, held out, after "
            f"{_epochs(recipe)} ({self._updates:,} updates of {recipe.optim.batch_size:,} images) at "
            f"{data.image_size} px{self.thinned}{times}"
        )
        return EvaluatorInfo(
            f"training-{self.fingerprint}", measures, ". ".join(self._notes) + "." if self._notes else None
        )

    @property
    def test_measures(self) -> str:
        """What ``tested`` measures."""
        data = self.recipe.data
        split = unseen_split(data, self.data)
        return (
            f"top-1 accuracy [%] on the split {split!r} of {data.dataset}, which the search never saw, of "
            f"fresh trainings of {_epochs(self.recipe)} at {data.image_size} px{self.thinned}"
        )

    @property
    def test_unit(self) -> str:
        """What a difference of two results of ``tested`` is counted in."""
        return "points of test accuracy"

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs of the networks, and channels of their input."""
        return self.recipe.model.num_classes, self.recipe.model.in_chans

    def doubt(self, best: float) -> str | None:
        """A sentence where the best score of a search is one that untrained networks get too; else None.

        By chance a network is right once in as many images as there are classes; four standard deviations above that,
        over the images held out, are more than the luck of the best of some hundred codes.
        """
        chance = 1 / self.recipe.model.num_classes
        deviation = 100 * math.sqrt(chance * (1 - chance) / max(self._held, 1))
        if best > 100 * chance + 4 * deviation:
            return None
        return (
            f"The best score, {best:.2f}%, is what guessing among {self.recipe.model.num_classes} classes gives: "
            f"the trainings, of {self._updates:,} updates each, taught nothing, and the codes' order is luck. "
            "More --epochs, a larger --subset or a recipe with a smaller optim.batch_size give them more updates."
        )

    measured = "top-1 accuracy [%]"

    def result_of(self, summary: Mapping[str, Any], *, test: bool) -> float:
        """The top-1 accuracy [%]."""
        return float(summary["test_top1" if test else "top1"])

    def accuracies(self, code: Code) -> list[float]:
        """The top-1 accuracy [%] of each training of a code; trainings that are finished are only read."""
        return list(self(code).repeats)

    def recipe_for(self, *, test: bool) -> Recipe:
        """The recipe; with ``test`` a split that the search never sees is measured once, after the last update."""
        if not test:
            return self.recipe
        return with_values(self.recipe, data={"test_split": unseen_split(self.recipe.data, self.data)})

    def check_test(self) -> None:
        """A ``DataError`` where the split that ``tested`` measures on cannot be used."""
        recipe = self.recipe_for(test=True)
        open_test(recipe.data, self.data, num_classes=recipe.model.num_classes, classes=self._classes)


def updates_of(recipe: Recipe, train: Split) -> int:
    """The updates of a whole training in one process.

    Raises:
        RecipeError: The images do not fill one batch.
    """
    from bsszoo.train.classification.samples import divide

    return divide(recipe, len(train), 1).updates * recipe.schedule.epochs


def _epochs(recipe: Recipe) -> str:
    number = recipe.schedule.epochs
    return f"{number} epoch" if number == 1 else f"{number} epochs"

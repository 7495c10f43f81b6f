"""``DetectionEvaluator``: a backbone's code is judged by training the detector on it, as the paper does (B.3.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

from bsszoo.codes.code import Code
from bsszoo.codes.detector import DetectorHead
from bsszoo.errors import RecipeError, SettingsError
from bsszoo.evaluators.base import EvaluatorInfo
from bsszoo.evaluators.registry import Request
from bsszoo.evaluators.trainings import HOLDOUT, FromScratch, Trainings
from bsszoo.models.names import find_detector
from bsszoo.models.resolve import Network
from bsszoo.options import refuse_dataset
from bsszoo.train.classification.recipe import assigned, recipe_text, with_values
from bsszoo.train.detection.data import check_objects, open_coco, open_coco_split
from bsszoo.train.detection.labels import labels_of
from bsszoo.train.detection.paper import coco_recipe
from bsszoo.train.detection.recipe import DetectionRecipe, read_any_recipe
from bsszoo.train.detection.samples import divide_detection

Measure = Literal["mask", "box"]

# A detector that learnt nothing has an average precision of some hundredths of a percent.
_NOTHING: Final = 1.0


def detection_recipe(
    network: str,
    data: str | Path | None,
    *,
    recipe: str | Path | None = None,
    epochs: int | None = None,
    image_size: int | None = None,
    subset: float | None = None,
    assignments: Sequence[str] = (),
) -> DetectionRecipe:
    """The recipe of the candidates of a detector's search: a file's, or the paper's, with the options' changes.

    Args:
        network: The detector's name.
        data: The folder of the images, in COCO's format.
        recipe: A YAML file; None for the paper's recipe, with as many classes as the data has.
        epochs: Passes over the training images, in place of the recipe's updates; its warm-up and its steps keep
            their shares of them.
        image_size, subset: Values of the data section; the longer side keeps its ratio to the shorter one.
        assignments: ``key.key=value`` texts.

    Raises:
        RecipeError, DataError: The recipe or the images cannot be used.
    """
    if recipe is not None:
        read = read_any_recipe(recipe, assignments)
        if not isinstance(read, DetectionRecipe):
            raise RecipeError(
                f"{recipe} is the recipe of a classifier, {read.model.name}; {network} is a detector. "
                "recipes/coco has the paper's for detectors."
            )
        wanted = find_detector(network)
        if wanted is not None and (read.detector.kind, read.detector.channels) != (wanted.kind, wanted.channels):
            raise RecipeError(
                f"{recipe} is the recipe of {read.model.name}, and {network} is another kind of "
                "detector, or of another width."
            )
        made = read
    else:
        made = with_values(
            coco_recipe(network), model={"num_classes": None}, data={"label_by": "order"}, run={"sync_bn": False}
        )
        made = assigned(made, assignments)
    changed: dict[str, Any] = {} if subset is None else {"subset": subset}
    if image_size is not None:
        longer = round(made.data.max_size * image_size / made.data.image_size)
        changed |= {"image_size": image_size, "max_size": longer}
    made = with_values(made, data={"holdout": made.data.holdout or HOLDOUT, **changed})
    if epochs is not None:
        made = over_epochs(made, data, epochs)
        made = with_values(made, schedule={"validate_every": made.schedule.updates})
    return made


def over_epochs(recipe: DetectionRecipe, data: str | Path | None, epochs: int) -> DetectionRecipe:
    """A recipe of so many passes over the training images; its warm-up, steps and validations keep their shares.

    Raises:
        SettingsError: ``epochs`` is below 1.
        DataError: As ``open_coco``.
    """
    if epochs < 1:
        raise SettingsError(f"--epochs is {epochs}; it takes a whole number from 1.")
    train, _ = open_coco(recipe.data, data, masks=recipe.detector.kind == "maskrcnn")
    plan = recipe.schedule
    updates = max(1, round(epochs * len(train) / recipe.optim.batch_size))
    share = updates / plan.updates
    steps = sorted({min(max(1, round(m * share)), updates - 1) for m in plan.milestones}) if updates > 1 else []
    return with_values(
        recipe,
        schedule={
            "updates": updates,
            "milestones": tuple(steps),
            "validate_every": min(max(1, round(plan.validate_every * share)), updates),
            "warmup_updates": min(round(plan.warmup_updates * share), updates - 1),
        },
    )


@dataclass(frozen=True)
class DetectionEvaluator(FromScratch, Trainings):
    """Judges a backbone's code by the AP [%] of its detector on held-out training images after a training.

    How the trainings are run, and the first arguments: ``Trainings``.

    Args:
        head: The detector's parts besides the backbone.
        measure: ``mask`` or ``box`` AP; None for masks where the detector has them.

    Raises:
        DataError, RecipeError: The images cannot be used; checked here, before any training.
        SettingsError: Mask AP of a detector without masks.
    """

    recipe: DetectionRecipe
    head: DetectorHead = field(kw_only=True)
    measure: Measure | None = field(default=None, kw_only=True)
    #: Outputs of the detectors' classifiers.
    classes: int = field(default=0, init=False, repr=False, compare=False)
    _held: int = field(default=0, init=False, repr=False, compare=False)

    @classmethod
    def requested(cls, request: Request) -> DetectionEvaluator:
        """Trainings by the recipe of the request, or the paper's.

        Raises:
            SettingsError, RecipeError, DataError: The recipe or the images cannot be used.
        """
        how, detector = request.training, request.network.detector
        if detector is None:
            raise SettingsError(f"--evaluator detection judges detectors, and {request.network.code} is none.")
        refuse_dataset(how.dataset)
        recipe = detection_recipe(
            str(detector),
            how.data,
            recipe=how.recipe,
            epochs=how.epochs,
            image_size=how.image_size,
            subset=how.subset,
            assignments=how.assignments,
        )
        made = cls(
            recipe,
            how.folder,
            (request.folder / "trainings").absolute(),
            how.repeats,
            head=DetectorHead.of(detector),
            measure=how.ap,  # type: ignore[arg-type]  # checked there
        )
        if request.tested:
            made.check_test()
        return made

    def searched(self, network: Network) -> Network:
        """The detector with as many outputs as the images have categories."""
        assert network.detector is not None
        detector = replace(network.detector, num_classes=self.classes)
        return network if detector == network.detector else replace(network, detector=detector)

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs of the networks, and channels of their input."""
        return self.classes, 3

    def __post_init__(self) -> None:
        super().__post_init__()
        masks = self.head.kind == "maskrcnn"
        if self.measure is None:
            object.__setattr__(self, "measure", "mask" if masks else "box")
        if self.measure not in ("mask", "box"):
            raise SettingsError(f"--ap is {self.measure!r}; it takes mask or box.")
        if self.measure == "mask" and not masks:
            raise SettingsError("--ap is mask, and RetinaNet finds no masks: give --ap box.")
        train, held = open_coco(self.recipe.data, self.data, masks=masks)
        labels = labels_of(self.head.kind, train.categories, self.recipe.data.label_by, self.recipe.model.num_classes)
        divide_detection(self.recipe, len(train), 1)
        object.__setattr__(self, "classes", labels.classes)
        object.__setattr__(self, "_held", len(held))

    @property
    def info(self) -> EvaluatorInfo:
        """What is measured, on what, after how much training."""
        data = self.recipe.data
        times = f", mean of {self.repeats} trainings" if self.repeats > 1 else ""
        measures = (
            f"{self.measure} AP [%] on {100 * data.holdout:g}% of the training images ({self._held:,}), held "
            f"out, {self._after()}{times}"
        )
        return EvaluatorInfo(f"training-{self.fingerprint}", measures)

    @property
    def test_measures(self) -> str:
        """What ``tested`` measures."""
        return (
            f"{self.measure} AP [%] on the split {self.recipe.data.val_split!r}, which the search never saw, of "
            f"fresh trainings {self._after()}"
        )

    @property
    def test_unit(self) -> str:
        """What a difference of two results of ``tested`` is counted in."""
        return f"points of test {self.measure} AP"

    def doubt(self, best: float) -> str | None:
        """A sentence where the best score of a search is about that of untrained detectors; else None."""
        if best > _NOTHING:
            return None
        return (
            f"The best score, {best:.2f}% AP, is about what an untrained detector has: the trainings, of "
            f"{self.recipe.schedule.updates:,} updates each, taught next to nothing, and the codes' order is luck. "
            "More --epochs or a recipe with a higher optim.lr teach them more."
        )

    def name_of(self, code: Code) -> str:
        """The detector on a code."""
        return str(self.head.on(code))

    @property
    def measured(self) -> str:
        """Which AP a result is."""
        return f"{self.measure} AP [%]"

    def result_of(self, summary: Mapping[str, Any], *, test: bool) -> float:
        """The AP [%]."""
        return float(summary["test"][self.measure]["ap"] if test else summary[f"{self.measure}_ap"])

    def check_test(self) -> None:
        """A ``DataError`` where the split that ``tested`` measures on cannot be used."""
        part = self.recipe.data
        check_objects(open_coco_split(part, self.data, part.val_split, masks=self.head.kind == "maskrcnn"))

    def _neutral(self, recipe: DetectionRecipe) -> str:
        # Any detector of the kind: a recipe holds no name that is none.
        plain = with_values(recipe, model={"name": f"{self.head.kind}_resnet50"})
        return f"{recipe_text(plain)} {self.measure} {self.head}"

    def _after(self) -> str:
        recipe = self.recipe
        return (
            f"after {recipe.schedule.updates:,} updates of {recipe.optim.batch_size} images at "
            f"{recipe.data.image_size} px{self.thinned}"
        )

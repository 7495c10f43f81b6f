"""``DetectionRecipe``: everything that decides what a detector's training gives; read from YAML, checked strictly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from bsszoo.codes.detector import SIZE, Detector
from bsszoo.errors import RecipeError
from bsszoo.models.names import TORCHVISION, find_detector, is_detector
from bsszoo.train.classification.recipe import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    EmaPart,
    OptimPart,
    Recipe,
    RunPart,
    read_tree_of,
    recipe_file,
)
from bsszoo.train.strict import Section, load_mapping

#: Images of an update as the paper trains detectors: 8 GPUs with 2 each.
PAPER_BATCH: Final = 16


class DetectorPart(Section):
    """The detector: a name of the zoo, or ``maskrcnn_`` or ``retinanet_`` and a code's text."""

    name: str
    #: Outputs of the classifiers, of Mask R-CNN with the background; null for as many as the data has.
    num_classes: int | None = Field(None, ge=1)
    #: The backbone's normalisation: batch, or frozen at the statistics that its weights came with (ResNets).
    norm: Literal["batch", "frozen"] = "batch"
    #: Side of the anchors on the finest level [px of the resized image]; they double from level to level.
    anchor_size: int = Field(32, ge=1)
    #: Proposals of an image that Mask R-CNN's heads learn from; a quarter of them may hold an object.
    proposals: int = Field(512, ge=4)
    #: Most detections of an image.
    detections: int = Field(100, ge=1)
    #: Least score of a detection.
    least_score: float = Field(0.05, ge=0, lt=1)
    #: A file of the whole detector's weights to start from, or torchvision; null for fresh ones.
    pretrained: str | None = None
    #: Weights of the backbone as a classifier: a tag, hf-hub:org/name, local-dir:PATH or a file; null for fresh ones.
    backbone_weights: str | None = None


class CocoPart(Section):
    """Where images and objects come from: COCO's format, one JSON file and one folder of images for each split."""

    train_split: str = "train2017"
    val_split: str = "val2017"
    #: The JSON file of a split, in the data's folder.
    annotations: str = "annotations/instances_{split}.json"
    #: The folder that a split's file names are in.
    images: str = "{split}"
    #: Shorter side of an image at the network's input [px]; the longer one is at most ``max_size``.
    image_size: int = Field(SIZE, ge=16)
    max_size: int = Field(1333, ge=16)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    #: order: the classes are the categories in the order of their ids. id: the ids themselves, as torchvision's
    #: published weights have them.
    label_by: Literal["order", "id"] = "order"
    #: What is done with annotations that cannot be right: refuse names them and stops, skip leaves them out.
    broken: Literal["refuse", "skip"] = "refuse"
    #: Whether training images without an object are used.
    keep_empty: bool = False
    #: Whether wide and tall images go through the network in separate micro-batches, which saves padding.
    group_by_aspect: bool = True
    #: Share of the training images held out, and validated on instead of ``val_split``.
    holdout: float = Field(0.0, ge=0, lt=1)
    #: A split that is measured once, after the last update; null for none.
    test_split: str | None = None
    #: Share of the (rest of the) training images that is used.
    subset: float = Field(1.0, gt=0, le=1)


class DetectionAugment(Section):
    """Random augmentation of training images."""

    hflip: float = Field(0.5, ge=0, le=1)


class DetectionOptim(OptimPart):
    """The optimiser and its batch; the paper's batch is 16 and its momentum the plain one."""

    batch_size: int = Field(PAPER_BATCH, ge=1)
    lr_batch_size: int = Field(PAPER_BATCH, ge=1)
    nesterov: bool = False


class DetectionSchedule(Section):
    """The learning rate over the updates, and its length."""

    updates: int = Field(ge=1)
    name: Literal["steps", "cosine"] = "steps"
    #: Updates after which the rate is multiplied by ``decay``.
    milestones: tuple[Annotated[int, Field(ge=1)], ...] = ()
    decay: float = Field(0.1, gt=0, le=1)
    #: Updates over which the rate rises linearly, from ``warmup_from`` times its peak; part of ``updates``.
    warmup_updates: int = Field(0, ge=0)
    warmup_from: float = Field(0.0, ge=0, le=1)
    min_lr: float = Field(0.0, ge=0)
    #: Updates between two validations; there is one at the end.
    validate_every: int = Field(5000, ge=1)

    @property
    def ends(self) -> tuple[int, ...]:
        """The updates after which it is validated."""
        return (*range(self.validate_every, self.updates, self.validate_every), self.updates)


class DetectionRun(RunPart):
    """The seed, and how the devices are used."""

    #: Most images that a device passes through the network at once; the batch of batch normalisation.
    device_batch: int = Field(2, ge=1)


class DetectionRecipe(Section):
    """A detector's whole training.

    Raises:
        RecipeError: Parts that contradict each other.
        UnknownNameError, CodeError: There is no such detector.

    Example:
        >>> recipe = DetectionRecipe(
        ...     model=DetectorPart(name="maskrcnn_resnet50"),
        ...     optim=DetectionOptim(lr=0.02),
        ...     schedule=DetectionSchedule(updates=12000),
        ... )
        >>> recipe.optim.batch_size, recipe.schedule.ends
        (16, (5000, 10000, 12000))
    """

    model: DetectorPart
    optim: DetectionOptim
    schedule: DetectionSchedule
    data: CocoPart = CocoPart()
    augment: DetectionAugment = DetectionAugment()
    ema: EmaPart = EmaPart()
    run: DetectionRun = DetectionRun()

    @model_validator(mode="after")
    def _agree(self) -> DetectionRecipe:
        plan, data = self.schedule, self.data
        if plan.warmup_updates >= plan.updates and plan.warmup_updates:
            raise RecipeError(
                f"schedule.warmup_updates is {plan.warmup_updates}; allowed is less than "
                f"schedule.updates, {plan.updates}."
            )
        if list(plan.milestones) != sorted(set(plan.milestones)) or any(m >= plan.updates for m in plan.milestones):
            raise RecipeError(
                f"schedule.milestones is {list(plan.milestones)}; it takes rising numbers of updates "
                f"below schedule.updates, {plan.updates}."
            )
        if plan.milestones and plan.name != "steps":
            raise RecipeError(f"schedule.milestones are of schedule.name steps, and it is {plan.name}.")
        if data.max_size < data.image_size:
            raise RecipeError(
                f"data.max_size is {data.max_size}, the longer side; it is at least data.image_size, {data.image_size}."
            )
        if min(data.std) <= 0:
            raise RecipeError(f"data.std is {list(data.std)}; allowed are numbers above zero.")
        if "{split}" not in data.annotations:
            raise RecipeError(
                f"data.annotations is {data.annotations!r}; it names a split's file, with {{split}} for "
                "the split's name."
            )
        if self.run.compile:
            raise RecipeError(
                "run.compile is for classifiers: a detector's images differ in size, and it would be "
                "compiled anew for each."
            )
        if self.model.pretrained is not None and self.model.backbone_weights is not None:
            raise RecipeError(
                "model.pretrained are weights of the whole detector and model.backbone_weights those of "
                "its backbone; give one of the two."
            )
        if self.model.pretrained == TORCHVISION and self.model.norm != "frozen":
            raise RecipeError(
                "model.pretrained is torchvision, whose weights go with frozen normalisation: set model.norm to frozen."
            )
        if self.model.norm == "frozen" and self.model.pretrained is None and self.model.backbone_weights is None:
            raise RecipeError(
                "model.norm is frozen, which keeps the statistics that weights came with: give "
                "model.pretrained or model.backbone_weights, or set it to batch."
            )
        if plan.min_lr and plan.name == "steps":
            raise RecipeError(
                f"schedule.min_lr is {plan.min_lr:g}, which schedule.name cosine ends at; steps fall by schedule.decay."
            )
        self.detector  # noqa: B018 - raises for a name that is none
        return self

    @property
    def detector(self) -> Detector:
        """The detector that ``model.name`` means, with its kind's number of classes."""
        detector = find_detector(self.model.name)
        if detector is None:
            raise RecipeError(
                f"model.name is {self.model.name!r}, which is no detector: names are maskrcnn_.. and "
                "retinanet_.., then a code's name or text. A classifier's recipe has other sections."
            )
        return detector


#: A recipe of either task.
AnyRecipe = Recipe | DetectionRecipe


def read_any_recipe(path: str | Path, assignments: Sequence[str] = ()) -> AnyRecipe:
    """The recipe of a YAML file: a detector's where ``model.name`` names one, else a classifier's.

    Raises:
        RecipeError: As ``read_recipe``.
    """
    data = load_mapping(recipe_file(path), str(path))
    names = [a.partition("=")[2] for a in assignments if a.partition("=")[0].strip() == "model.name"]
    model = data.get("model")
    name = names[-1] if names else model.get("name") if isinstance(model, dict) else None
    if isinstance(name, str) and is_detector(name):
        return read_tree_of(DetectionRecipe, path, assignments)
    return read_tree_of(Recipe, path, assignments)

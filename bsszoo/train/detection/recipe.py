"""``DetectionRecipe``: everything that decides what a detector's training gives; read from YAML, checked strictly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bsszoo.codes.detector import SIZE, Detector
from bsszoo.errors import RecipeError
from bsszoo.models.detectors import TORCHVISION, find_detector
from bsszoo.models.names import is_detector
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
from bsszoo.train.strict import bounded, choice, load_mapping

#: Pictures of an update as the paper trains detectors: 8 GPUs with 2 each.
PAPER_BATCH: Final = 16


@dataclass(frozen=True)
class DetectorPart:
    """The detector: a name of the zoo, or ``maskrcnn_`` or ``retinanet_`` and a code's text."""

    name: str
    #: Outputs of the classifiers, of Mask R-CNN with the background; null for as many as the data has.
    num_classes: int | None = bounded(None, low=1)
    #: The backbone's normalisation: batch, or frozen at the statistics that its weights came with (ResNets).
    norm: str = choice("batch", "batch", "frozen")
    #: Side of the anchors on the finest level [px of the resized picture]; they double from level to level.
    anchor_size: int = bounded(32, low=1)
    #: Proposals of a picture that Mask R-CNN's heads learn from; a quarter of them may hold an object.
    proposals: int = bounded(512, low=4)
    #: Most detections of a picture.
    detections: int = bounded(100, low=1)
    #: Least score of a detection.
    least_score: float = bounded(0.05, low=0, high=1, open_high=True)
    #: A file of the whole detector's weights to start from, or torchvision; null for fresh ones.
    pretrained: str | None = None
    #: Weights of the backbone as a classifier: a tag, hf-hub:org/name, local-dir:PATH or a file; null for fresh ones.
    backbone_weights: str | None = None


@dataclass(frozen=True)
class CocoPart:
    """Where pictures and objects come from: COCO's format, one JSON file and one folder of pictures for each split."""

    train_split: str = "train2017"
    val_split: str = "val2017"
    #: The JSON file of a split, in the data's folder.
    annotations: str = "annotations/instances_{split}.json"
    #: The folder that a split's file names are in.
    images: str = "{split}"
    #: Shorter side of a picture at the network's input [px]; the longer one is at most ``max_size``.
    image_size: int = bounded(SIZE, low=16)
    max_size: int = bounded(1333, low=16)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    #: order: the classes are the categories in the order of their ids. id: the ids themselves, as torchvision's
    #: published weights have them.
    label_by: str = choice("order", "order", "id")
    #: What is done with annotations that cannot be right: refuse names them and stops, skip leaves them out.
    broken: str = choice("refuse", "refuse", "skip")
    #: Whether training pictures without an object are used.
    keep_empty: bool = False
    #: Whether wide and tall pictures go through the network apart, which saves padding.
    group_by_aspect: bool = True
    #: Share of the training pictures held out, and validated on instead of ``val_split``.
    holdout: float = bounded(0.0, low=0, high=1, open_high=True)
    #: A split that is measured once, after the last update; null for none.
    test_split: str | None = None
    #: Share of the (rest of the) training pictures that is used.
    subset: float = bounded(1.0, low=0, high=1, open_low=True)


@dataclass(frozen=True)
class DetectionAugment:
    """What is done at random to training pictures."""

    hflip: float = bounded(0.5, low=0, high=1)


@dataclass(frozen=True)
class DetectionOptim(OptimPart):
    """The optimiser and its batch; the paper's batch is 16 and its momentum the plain one."""

    batch_size: int = bounded(PAPER_BATCH, low=1)
    lr_batch_size: int = bounded(PAPER_BATCH, low=1)
    nesterov: bool = False


@dataclass(frozen=True)
class DetectionSchedule:
    """The learning rate over the updates, and how long it goes."""

    updates: int = bounded(low=1)
    name: str = choice("steps", "steps", "cosine")
    #: Updates after which the rate is multiplied by ``decay``.
    milestones: tuple[int, ...] = bounded((), low=1)
    decay: float = bounded(0.1, low=0, high=1, open_low=True)
    #: Updates over which the rate rises linearly, from ``warmup_from`` times its peak; part of ``updates``.
    warmup_updates: int = bounded(0, low=0)
    warmup_from: float = bounded(0.0, low=0, high=1)
    min_lr: float = bounded(0.0, low=0)
    #: Updates between two validations; there is one at the end.
    validate_every: int = bounded(5000, low=1)

    @property
    def ends(self) -> tuple[int, ...]:
        """The updates after which it is validated."""
        return (*range(self.validate_every, self.updates, self.validate_every), self.updates)


@dataclass(frozen=True)
class DetectionRun(RunPart):
    """The seed, and how the devices are used."""

    #: Most pictures that a device passes through the network at once; batch normalisation sees so many.
    device_batch: int = bounded(2, low=1)


@dataclass(frozen=True)
class DetectionRecipe:
    """A detector's whole training.

    Raises:
        RecipeError: Parts that contradict each other.
        UnknownNameError, CodeError: There is no such detector.

    Example:
        >>> recipe = DetectionRecipe(DetectorPart("maskrcnn_resnet50"), DetectionOptim(lr=0.02),
        ...                          DetectionSchedule(updates=12000))
        >>> recipe.optim.batch_size, recipe.schedule.ends
        (16, (5000, 10000, 12000))
    """

    model: DetectorPart
    optim: DetectionOptim
    schedule: DetectionSchedule
    data: CocoPart = field(default_factory=CocoPart)
    augment: DetectionAugment = field(default_factory=DetectionAugment)
    ema: EmaPart = field(default_factory=EmaPart)
    run: DetectionRun = field(default_factory=DetectionRun)

    def __post_init__(self) -> None:
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
                "run.compile is for classifiers: a detector's pictures differ in size, and it would be "
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

    @property
    def detector(self) -> Detector:
        """The detector that ``model.name`` means, with its family's own number of classes."""
        found = find_detector(self.model.name)
        if found is None:
            raise RecipeError(
                f"model.name is {self.model.name!r}, which is no detector: names are maskrcnn_.. and "
                "retinanet_.., then a code's name or text. A classifier's recipe has other sections."
            )
        return found


#: A recipe of either task.
AnyRecipe = Recipe | DetectionRecipe


def read_any_recipe(path: str | Path, assignments: Sequence[str] = ()) -> AnyRecipe:
    """The recipe of a YAML file: a detector's where ``model.name`` names one, else a classifier's.

    Raises:
        RecipeError: As ``train.recipe.read_recipe``.
    """
    data = load_mapping(recipe_file(path), str(path))
    names = [a.partition("=")[2] for a in assignments if a.partition("=")[0].strip() == "model.name"]
    model = data.get("model")
    name = names[-1] if names else model.get("name") if isinstance(model, dict) else None
    if isinstance(name, str) and is_detector(name):
        return read_tree_of(DetectionRecipe, path, assignments)
    return read_tree_of(Recipe, path, assignments)

"""The paper's settings on COCO (section B.3.3), with our choices where it is silent; recipes/README.md lists both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bsszoo.codes.detector import CLASSES
from bsszoo.errors import UnknownNameError
from bsszoo.models.names import find_detector, is_detector
from bsszoo.train.classification.paper import PREFIX, recipe_of
from bsszoo.train.classification.recipe import assigned
from bsszoo.train.detection.recipe import (
    AnyRecipe,
    CocoPart,
    DetectionOptim,
    DetectionRecipe,
    DetectionRun,
    DetectionSchedule,
    DetectorPart,
    read_any_recipe,
)

#: The paper's training: iterations, those of the warm-up, and those after which the rate falls to a tenth.
UPDATES: Final = 270_000
WARMUP: Final = 2_500
MILESTONES: Final = (210_000, 250_000)


def coco_recipe(detector: str) -> DetectionRecipe:
    """The paper's recipe of a detector on COCO, as ``recipes/coco`` holds for those of the paper's Table 5.

    Args:
        detector: A detector's name.

    Raises:
        UnknownNameError, CodeError: There is no such detector.

    Example:
        >>> coco_recipe("maskrcnn_resnet50_autobss").schedule.milestones
        (210000, 250000)
    """
    parsed = find_detector(detector)
    if parsed is None:
        raise UnknownNameError(f"{detector!r} names no detector; names are maskrcnn_.. and retinanet_.., then a code.")
    masks = parsed.kind == "maskrcnn"
    return DetectionRecipe(
        model=DetectorPart(name=detector, num_classes=CLASSES[parsed.kind]),
        optim=DetectionOptim(lr=0.02, weight_decay=0.0001),
        schedule=DetectionSchedule(
            updates=UPDATES, milestones=MILESTONES, warmup_updates=WARMUP, warmup_from=0.001, validate_every=30_000
        ),
        # The paper counts Mask R-CNN with an output for each of COCO's ids.
        data=CocoPart(label_by="id" if masks else "order", broken="skip"),
        run=DetectionRun(sync_bn=True),
    )


def any_recipe_of(what: str | Path, assignments: Sequence[str] = ()) -> AnyRecipe:
    """The recipe of a YAML file, or of ``paper:NETWORK``, for classifiers and detectors; with assignments.

    Raises:
        RecipeError, UnknownNameError, CodeError: As ``read_any_recipe`` and ``coco_recipe``.
    """
    name = str(what).removeprefix(PREFIX)
    if not str(what).startswith(PREFIX):
        return read_any_recipe(what, assignments)
    return assigned(coco_recipe(name), assignments) if is_detector(name) else recipe_of(what, assignments)

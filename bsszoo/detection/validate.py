"""``validate_detector``: the average precision of a finished training, or of a detector by name, on a split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from bsszoo.codes.detector import Detector
from bsszoo.detection.coco import open_coco, open_coco_split
from bsszoo.detection.evaluation import DetectionFigures, evaluate_detector
from bsszoo.detection.labels import Labels, check_same_categories, labels_of
from bsszoo.detection.recipe import CocoPart, DetectionRecipe, DetectionRun, is_detector
from bsszoo.detection.samples import evaluation_loader
from bsszoo.errors import DataError, SettingsError
from bsszoo.train.batches import end_readers, plain
from bsszoo.train.checkpoint import RECIPE, WEIGHTS
from bsszoo.train.devices import joined
from bsszoo.train.recipe import read_tree_of
from bsszoo.train.strict import check_tree
from bsszoo.zoo.detector_weights import LOCAL, create_detector, saved_detector
from bsszoo.zoo.detectors import find_detector


def is_detection(what: str | Path) -> bool:
    """Whether a person's word for a network means a detector: its name, or the folder of its training."""
    folder = Path(str(what).removeprefix(LOCAL)).expanduser()
    if folder.is_dir():
        if saved_detector(folder) is not None:
            return True
        try:
            read_tree_of(DetectionRecipe, folder / RECIPE)
        except ValueError:
            return False
        return True
    return is_detector(str(what))


def validate_detector(
    what: str | Path, data: str | Path | None, *, weights: str | None = None,
    settings: Mapping[str, Any] | None = None, batch: int | None = None, workers: int | None = None,
    precision: str | None = None, device: str | None = None, on_batch: Callable[[int], None] | None = None,
) -> DetectionFigures:
    """The average precision of a detector; for a training's folder the figures that ended it.

    Args:
        what: The folder of a training, or a detector's name.
        data: The folder of the pictures, in COCO's format.
        weights: Of a name: a file, a training's folder, or ``torchvision``.
        settings: Values of the recipe's data section in place of the training's, or of COCO's own.
        batch: Pictures of a batch.
        workers: Processes that read the pictures.
        precision: ``float32``, ``bfloat16`` or ``float16``.
        device: As in ``train``.
        on_batch: Called after each batch with the pictures done, in this process.

    Raises:
        SettingsError: The folder holds no finished training, or a name comes without weights.
        WeightsError, DataError, RecipeError: As their makers.
    """
    folder = Path(str(what).removeprefix(LOCAL)).expanduser()
    labels: Labels | None = None
    if folder.is_dir():
        detector, labels, model, part, run = _trained(folder)
    else:
        if weights is None:
            raise SettingsError(f"Nobody has published weights of {what}. Give a file, a training's folder or "
                                "torchvision with --weights.")
        detector, model = _named(str(what), weights)
        kept = saved_detector(Path(weights).expanduser())
        labels = None if kept is None else Labels.from_dict(kept.labels)
        part, run = CocoPart(label_by="id" if detector.num_classes == 91 else "order"), DetectionRun()
    given = settings or {}
    part = replace(part, **given)
    how: dict[str, Any] = {"device_batch": batch, "workers": workers, "precision": precision}
    run = replace(run, **{k: v for k, v in how.items() if v is not None})
    for section in (part, run):
        check_tree(section)
    masks = detector.kind == "maskrcnn"
    with ExitStack() as stack:
        place = stack.enter_context(joined(device))
        if part.holdout and "val_split" not in given:
            split = open_coco(part, data, masks=masks)[1]
        else:
            split = open_coco_split(part, data, part.val_split, masks=masks)
        if labels is None:
            labels = labels_of(detector.kind, split.categories, part.label_by, detector.num_classes)
        check_same_categories(labels, split.categories, f"The split {split.name!r}")
        batches = evaluation_loader(split, run, place)
        stack.callback(end_readers, batches)
        try:
            figures = evaluate_detector(model.to(place.device), batches, split, labels, place, masks=masks,
                                        precision=run.precision, on_batch=on_batch)
        except DataError as error:
            raise plain(error) from None
    assert figures is not None  # nothing asked it to stop
    return figures


def _trained(folder: Path) -> tuple[Detector, Labels, nn.Module, CocoPart, DetectionRun]:
    kept = saved_detector(folder)
    if kept is None or not (folder / WEIGHTS).is_file():
        raise SettingsError(f"The training in {folder} has not come to its end; the same `bsszoo train` command goes "
                            "on with it.")
    part, run = CocoPart(), DetectionRun()
    if (folder / RECIPE).is_file():
        recipe = read_tree_of(DetectionRecipe, folder / RECIPE)
        part, run = recipe.data, recipe.run
    model = create_detector(f"{LOCAL}{folder}", pretrained=True)
    return kept.detector, Labels.from_dict(kept.labels), model, part, run


def _named(name: str, weights: str) -> tuple[Detector, nn.Module]:
    from bsszoo.zoo.detector_weights import TORCHVISION

    kept = saved_detector(Path(weights).expanduser())
    if kept is not None:
        return kept.detector, create_detector(f"{LOCAL}{weights}", pretrained=True)
    detector = find_detector(name)
    assert detector is not None
    model: Any = create_detector(detector, pretrained=weights)
    return (Detector(detector.kind, detector.backbone, 91) if weights == TORCHVISION else detector), model

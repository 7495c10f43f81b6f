"""``validate_detector``: the average precision of a finished training, or of a detector by name, on a split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bsszoo.errors import DataError
from bsszoo.models.names import TORCHVISION_CLASSES
from bsszoo.train.classification.samples import default_readers, end_readers, plain
from bsszoo.train.detection.data import check_objects, open_coco, open_coco_split
from bsszoo.train.detection.evaluation import DetectionFigures, evaluate_detector
from bsszoo.train.detection.labels import labels_for, labels_of
from bsszoo.train.detection.opening import open_detector
from bsszoo.train.detection.recipe import CocoPart, DetectionRun
from bsszoo.train.detection.samples import evaluation_loader
from bsszoo.train.devices import joined


def validate_detector(
    what: str | Path,
    data: str | Path | None,
    *,
    weights: str | None = None,
    settings: Mapping[str, Any] | None = None,
    batch: int | None = None,
    workers: int | None = None,
    precision: str | None = None,
    device: str | None = None,
    on_batch: Callable[[int], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> DetectionFigures:
    """The average precision of a detector; for a training's folder the figures of its end.

    Args:
        what: The folder of a training, or a detector's name.
        data: The folder of the images, in COCO's format.
        weights: Of a name: a file, a training's folder, or ``torchvision``.
        settings: Values of the recipe's data section in place of the training's, or of COCO's.
        batch: Images of a batch.
        workers: Processes that read the images; by default those of the training, else one for each core, up to 16.
        precision: ``float32``, ``bfloat16`` or ``float16``.
        device: As in ``train``.
        on_batch: Called after each batch with the images done, in this process.
        on_note: Called with sentences for the user, such as on annotations that were left out.

    Raises:
        SettingsError: The folder holds no finished training.
        WeightsError, DataError, RecipeError: As their makers.
    """
    opened = open_detector(what, weights)
    part, run = (CocoPart(), DetectionRun()) if opened.recipe is None else (opened.recipe.data, opened.recipe.run)
    if opened.recipe is None and opened.detector.num_classes == TORCHVISION_CLASSES:
        part = part.replaced(label_by="id")
    part = part.replaced(**(settings or {}))
    if workers is None and opened.recipe is None:
        workers = default_readers()
    how: dict[str, Any] = {"device_batch": batch, "workers": workers, "precision": precision}
    run = run.replaced(**{k: v for k, v in how.items() if v is not None})
    masks = opened.detector.kind == "maskrcnn"
    with ExitStack() as stack:
        process = stack.enter_context(joined(device))
        if part.holdout and "val_split" not in (settings or {}):
            split = open_coco(part, data, masks=masks)[1]
        else:
            split = open_coco_split(part, data, part.val_split, masks=masks)
        check_objects(split)
        if opened.labels is not None:
            labels, notes = labels_for(opened.labels, split.categories, f"The split {split.name!r}")
        else:
            labels = labels_of(opened.detector.kind, split.categories, part.label_by, opened.detector.num_classes)
            order = "at the outputs of their ids" if part.label_by == "id" else "in the order of their ids"
            notes = (
                f"The weights do not say which output is which category; those of the data are taken {order}, "
                f"from {split.categories[0][1]!r} to {split.categories[-1][1]!r} (data.label_by)",
            )
        for note in (*split.notes, *notes):
            if on_note is not None and process.first:
                on_note(note)
        batches = evaluation_loader(split, run, process)
        stack.callback(end_readers, batches)
        try:
            figures = evaluate_detector(
                opened.model.to(process.device),
                batches,
                split,
                labels,
                process,
                masks=masks,
                precision=run.precision,
                on_batch=on_batch,
            )
        except DataError as error:
            raise plain(error) from None
    assert figures is not None  # nothing asked it to stop
    return figures

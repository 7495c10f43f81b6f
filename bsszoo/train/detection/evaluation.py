"""Average precision of a detector on a split, by pycocotools: the same in a training and in ``bsszoo validate``."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bsszoo.errors import DataError
from bsszoo.train.classification.evaluation import autocast
from bsszoo.train.detection.data import CocoSplit
from bsszoo.train.detection.labels import Labels
from bsszoo.train.detection.samples import to_float
from bsszoo.train.devices import Place

# COCO's twelve figures, of which the first six are average precisions.
_AP, _AP50, _AP75, _SMALL, _MEDIUM, _LARGE = range(6)
#: COCO's word for an average precision of no object.
NONE: Final = -1.0
#: A pixel belongs to an object where the mask's probability is above it, as torchvision and Detectron have it.
MASK_THRESHOLD: Final = 0.5


@dataclass(frozen=True, slots=True)
class Precision:
    """COCO's average precisions [%]: over IoU 0.5 to 0.95, at 0.5, at 0.75, and of small, medium and large objects.

    None where there is no such object.
    """

    ap: float
    ap50: float
    ap75: float
    small: float | None
    medium: float | None
    large: float | None

    def __str__(self) -> str:
        sizes = ", ".join(
            f"{name} {'-' if v is None else f'{v:.2f}%'}"
            for name, v in (("small", self.small), ("medium", self.medium), ("large", self.large))
        )
        return f"AP {self.ap:.2f}%, AP50 {self.ap50:.2f}%, AP75 {self.ap75:.2f}% ({sizes})"


@dataclass(frozen=True, slots=True)
class DetectionFigures:
    """What a detector's predictions are worth on a split; ``mask`` is None without masks.

    ``split`` names what was measured on.
    """

    box: Precision
    mask: Precision | None
    pictures: int
    objects: int
    split: str = ""

    @property
    def score(self) -> float:
        """Mask AP where there are masks, else box AP [%]."""
        return self.box.ap if self.mask is None else self.mask.ap

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values, which ``from_dict`` takes."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DetectionFigures:
        """Figures as they were written."""
        mask = data["mask"]
        return cls(
            Precision(**data["box"]),
            None if mask is None else Precision(**mask),
            data["pictures"],
            data["objects"],
            data.get("split", ""),
        )


@torch.inference_mode()
def evaluate_detector(
    model: nn.Module,
    batches: Iterable[Any],
    split: CocoSplit,
    labels: Labels,
    place: Place,
    *,
    masks: bool,
    precision: str = "float32",
    on_batch: Callable[[int], None] | None = None,
    stopping: Callable[[], bool] | None = None,
) -> DetectionFigures | None:
    """The average precision of a detector over all processes' pictures.

    Args:
        model: The detector, on the place's device; it is left in evaluation mode.
        batches: This process's pictures, as ``samples.evaluation_loader`` gives them.
        split: The whole split.
        labels: Which output stands for which category.
        place: This process among all.
        masks: Whether the detector predicts masks.
        precision: ``float32``, ``bfloat16`` or ``float16``.
        on_batch: Called after each batch with the pictures done so far, in this process.
        stopping: Asked after each batch; when it says yes, None is returned. For one process only.

    Raises:
        DataError: There is no object in the split.
    """
    model.eval()
    context = autocast(place, precision)
    found: list[dict[str, Any]] = []
    done = 0
    for batch in batches:
        with context():
            outputs = model([to_float(image, place.device) for image, _ in batch])
        for (_, picture), output in zip(batch, outputs, strict=True):
            found += detections(output, picture, labels, masks=masks)
        done += len(batch)
        if on_batch is not None:
            on_batch(done)
        if stopping is not None and stopping():
            return None
    every = place.gathered(found)
    # The evaluator takes minutes on a large split, and one process of it is enough.
    figures = (
        average_precision(split.as_coco(), [d for part in every for d in part], masks=masks).to_dict()
        if (place.first)
        else None
    )
    return replace(DetectionFigures.from_dict(place.from_first(figures)), split=split.name)


def detections(
    output: Mapping[str, torch.Tensor], picture: Any, labels: Labels, *, masks: bool
) -> list[dict[str, Any]]:
    """What a detector found in a picture, as COCO's results list it.

    Args:
        output: torchvision's: boxes [n, 4] as corners, labels [n], scores [n], and with ``masks`` masks [n, 1, h, w].
        picture: COCO's id of the picture.
        labels: Detections whose label stands for no category are left out.
        masks: Whether masks are written, as runs.
    """
    corners = output["boxes"].float().cpu().numpy().astype(np.float64)
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    kinds, scores = output["labels"].tolist(), output["scores"].tolist()
    runs = runs_of((output["masks"][:, 0] > MASK_THRESHOLD).cpu().numpy()) if masks else [None] * len(kinds)
    out = []
    for box, kind, score, run in zip(boxes.tolist(), kinds, scores, runs, strict=True):
        category = labels.ids[kind]
        if category is not None:
            one = {"image_id": picture, "category_id": category, "bbox": box, "score": score}
            out.append(one if run is None else one | {"segmentation": run})
    return out


def runs_of(masks: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """COCO's coded runs of masks [n, h, w]."""
    from pycocotools import mask as coder

    # pycocotools reads column by column.
    columns = np.asfortranarray(masks.astype(np.uint8).transpose(1, 2, 0))
    return list(coder.encode(columns)) if len(masks) else []


def average_precision(truth: Mapping[str, Any], found: Sequence[Mapping[str, Any]], *, masks: bool) -> DetectionFigures:
    """COCO's figures of some predictions, by pycocotools.

    Args:
        truth: Pictures, annotations and categories in COCO's format; crowds are neither hits nor misses.
        found: COCO's results.
        masks: Whether masks are measured as well as boxes.

    Raises:
        DataError: The pictures hold no object.
    """
    objects = sum(not a["iscrowd"] for a in truth["annotations"])
    if not objects:
        raise DataError("There is no object in the pictures, so that there is no average precision.")
    return DetectionFigures(
        box=_precision(truth, found, "bbox"),
        mask=_precision(truth, found, "segm") if masks else None,
        pictures=len(truth["images"]),
        objects=objects,
    )


def _precision(
    truth: Mapping[str, Any], found: Sequence[Mapping[str, Any]], kind: Literal["bbox", "segm"]
) -> Precision:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with redirect_stdout(io.StringIO()):  # it tells of its steps
        whole = COCO()
        whole.dataset = dict(truth)
        whole.createIndex()
        # pycocotools takes the area from the masks where a result has both.
        rows = [{k: v for k, v in d.items() if k != ("segmentation" if kind == "bbox" else "bbox")} for d in found]
        if not rows:
            stats = _nothing_found(whole)
        else:
            evaluator = COCOeval(whole, whole.loadRes(rows), kind)
            evaluator.evaluate()
            evaluator.accumulate()
            evaluator.summarize()
            stats = evaluator.stats
    percent = [None if v == NONE else 100.0 * float(v) for v in stats[:6]]
    return Precision(
        percent[_AP] or 0.0,
        percent[_AP50] or 0.0,
        percent[_AP75] or 0.0,
        percent[_SMALL],
        percent[_MEDIUM],
        percent[_LARGE],
    )


def _nothing_found(whole: Any) -> list[float]:
    """The figures where nothing was found, which pycocotools does not take: 0, or none where there is no object."""
    areas = [a["area"] for a in whole.dataset["annotations"] if not a["iscrowd"]]
    ends = ((0, 32**2), (32**2, 96**2), (96**2, 1e10))
    sizes = [0.0 if any(low <= a <= high for a in areas) else NONE for low, high in ends]
    return [0.0, 0.0, 0.0, *sizes]

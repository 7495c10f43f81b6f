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
from bsszoo.train.devices import Process

# COCO's twelve figures, of which the first six are average precisions.
_AP, _AP50, _AP75, _SMALL, _MEDIUM, _LARGE = range(6)
#: COCO's value of an average precision of no object.
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
    """Average precisions of a detector's predictions on a split; ``mask`` is None without masks.

    ``split`` is the name of the split.
    """

    box: Precision
    mask: Precision | None
    images: int
    objects: int
    split: str = ""

    @property
    def score(self) -> float:
        """Mask AP where there are masks, else box AP [%]."""
        return self.box.ap if self.mask is None else self.mask.ap

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values, which ``from_dict`` takes."""
        return {"pictures" if name == "images" else name: value for name, value in asdict(self).items()}

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
    process: Process,
    *,
    masks: bool,
    precision: str = "float32",
    on_batch: Callable[[int], None] | None = None,
    stopping: Callable[[], bool] | None = None,
) -> DetectionFigures | None:
    """The average precision of a detector over all processes' images.

    Args:
        model: The detector, on the process's device; it is left in evaluation mode.
        batches: This process's images, as ``samples.evaluation_loader`` gives them.
        split: The whole split.
        labels: Which output stands for which category.
        process: This process among all.
        masks: Whether the detector predicts masks.
        precision: ``float32``, ``bfloat16`` or ``float16``.
        on_batch: Called after each batch with the images done so far, in this process.
        stopping: Asked after each batch; where it is True, None is returned. For one process only.

    Raises:
        DataError: There is no object in the split.
    """
    model.eval()
    context = autocast(process, precision)
    results: list[dict[str, Any]] = []
    done = 0
    for batch in batches:
        with context():
            outputs = model([to_float(image, process.device) for image, _ in batch])
        for (_, image_id), output in zip(batch, outputs, strict=True):
            results += detections(output, image_id, labels, masks=masks)
        done += len(batch)
        if on_batch is not None:
            on_batch(done)
        if stopping is not None and stopping():
            return None
    every = process.gathered(results)
    # The evaluator takes minutes on a large split, and one process of it is enough.
    figures = (
        average_precision(split.as_coco(), [d for part in every for d in part], masks=masks).to_dict()
        if (process.first)
        else None
    )
    return replace(DetectionFigures.from_dict(process.broadcast(figures)), split=split.name)


def detections(
    output: Mapping[str, torch.Tensor], image_id: Any, labels: Labels, *, masks: bool
) -> list[dict[str, Any]]:
    """The detections in an image as entries of COCO's results.

    Args:
        output: torchvision's: boxes [n, 4] as corners, labels [n], scores [n], and with ``masks`` masks [n, 1, h, w].
        image_id: COCO's id of the image.
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
            one = {"image_id": image_id, "category_id": category, "bbox": box, "score": score}
            out.append(one if run is None else one | {"segmentation": run})
    return out


def runs_of(masks: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """COCO's coded runs of masks [n, h, w]."""
    from pycocotools import mask as coder

    # pycocotools reads column by column.
    columns = np.asfortranarray(masks.astype(np.uint8).transpose(1, 2, 0))
    return list(coder.encode(columns)) if len(masks) else []


def average_precision(
    truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], *, masks: bool
) -> DetectionFigures:
    """COCO's figures of some predictions, by pycocotools.

    Args:
        truth: Images, annotations and categories in COCO's format; crowds are neither hits nor misses.
        results: COCO's results.
        masks: Whether masks are measured as well as boxes.

    Raises:
        DataError: The images hold no object.
    """
    objects = sum(not a["iscrowd"] for a in truth["annotations"])
    if not objects:
        raise DataError("There is no object in the images, so that there is no average precision.")
    return DetectionFigures(
        box=_precision(truth, results, "bbox"),
        mask=_precision(truth, results, "segm") if masks else None,
        images=len(truth["images"]),
        objects=objects,
    )


def _precision(
    truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], kind: Literal["bbox", "segm"]
) -> Precision:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with redirect_stdout(io.StringIO()):  # it prints its steps
        whole = COCO()
        whole.dataset = dict(truth)
        whole.createIndex()
        # pycocotools takes the area from the masks where a result has both.
        rows = [{k: v for k, v in d.items() if k != ("segmentation" if kind == "bbox" else "bbox")} for d in results]
        if not rows:
            stats = _without_results(whole)
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


def _without_results(whole: Any) -> list[float]:
    """The figures where nothing was detected, which pycocotools does not take: 0, or none where there is no object."""
    areas = [a["area"] for a in whole.dataset["annotations"] if not a["iscrowd"]]
    ends = ((0, 32**2), (32**2, 96**2), (96**2, 1e10))
    sizes = [0.0 if any(low <= a <= high for a in areas) else NONE for low, high in ends]
    return [0.0, 0.0, 0.0, *sizes]

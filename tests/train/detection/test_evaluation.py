"""Average precision: that of faster-coco-eval, an independent evaluator, on fixed predictions."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coder
from torch import nn

from bsszoo.errors import DataError
from bsszoo.train.detection.data import CocoSplit, open_coco
from bsszoo.train.detection.evaluation import DetectionFigures, average_precision, evaluate_detector
from bsszoo.train.detection.labels import labels_of
from bsszoo.train.detection.recipe import CocoPart, DetectionRun
from bsszoo.train.detection.samples import evaluation_loader, mask_of
from bsszoo.train.devices import Process

CPU = Process(torch.device("cpu"))
NAMES = ("ap", "ap50", "ap75", "small", "medium", "large")


@pytest.fixture(scope="module")
def split(shapes: Path) -> CocoSplit:
    # The training split has more objects, and crowds.
    return open_coco(CocoPart(train_split="val", val_split="train"), shapes, masks=True)[1]


class Shaken(nn.Module):
    """Finds what is there, shifted, with scores and some labels at random, and now and then what is not there."""

    def __init__(self, split: CocoSplit, shift: float) -> None:
        super().__init__()
        self.split, self.shift, self.index = split, shift, 0
        self.labels = labels_of("maskrcnn", split.categories, "order", None)
        self.rng = np.random.default_rng(0)

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        out = []
        for image in images:
            record, annotations = self.split.image(self.index)
            self.index += 1
            height, width = image.shape[1:]
            assert (record["height"], record["width"]) == (height, width)
            boxes, labels, masks = [], [], []
            for annotation in annotations:
                for _ in range(2):
                    x, y, w, h = annotation["bbox"]
                    dx, dy = self.rng.normal(0, self.shift, 2)
                    boxes.append([x + dx, y + dy, x + w + dx, y + h + dy])
                    wrong = self.shift and self.rng.random() < 0.1
                    labels.append(
                        int(self.rng.integers(1, 5)) if wrong else self.labels.label(annotation["category_id"])
                    )
                    masks.append(np.roll(mask_of(annotation, height, width), (int(dy), int(dx)), (0, 1)))
            scores = self.rng.uniform(0.05, 1, len(boxes))
            out.append(
                {
                    "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
                    "labels": torch.tensor(labels),
                    "scores": torch.tensor(scores, dtype=torch.float32),
                    "masks": torch.tensor(np.array(masks, dtype=np.float32)).reshape(-1, 1, height, width),
                }
            )
        return out


def measured(split: CocoSplit, shift: float) -> DetectionFigures:
    model = Shaken(split, shift)
    figures = evaluate_detector(
        model, evaluation_loader(split, DetectionRun(workers=0), CPU), split, model.labels, CPU, masks=True
    )
    assert figures is not None
    return figures


def results(split: CocoSplit, shift: float) -> list[dict[str, Any]]:
    """The same predictions as COCO's results, written by other lines than ours."""
    model, out = Shaken(split, shift), []
    for image, _ in split:
        output = model([torch.zeros(3, image["height"], image["width"])])[0]
        for box, label, score, mask in zip(*(output[k] for k in ("boxes", "labels", "scores", "masks")), strict=True):
            runs = coder.encode(np.asfortranarray(mask[0].numpy().astype(np.uint8)))
            left, top, right, bottom = box.tolist()
            out.append(
                {
                    "image_id": image["id"],
                    "category_id": (0, 1, 2, 4, 7)[int(label)],
                    "score": float(score),
                    "bbox": [left, top, right - left, bottom - top],
                    "segmentation": {"size": runs["size"], "counts": runs["counts"].decode()},
                }
            )
    return out


@pytest.mark.parametrize("shift", [0.0, 1.5, 4.0])
def test_the_figures_are_those_of_another_evaluator(split: CocoSplit, shapes: Path, shift: float) -> None:
    from faster_coco_eval import COCO, COCOeval_faster

    ours = measured(split, shift)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(shapes / "annotations" / "instances_train.json"))
        for kind, precision in (("bbox", ours.box), ("segm", ours.mask)):
            # Whichever of the two a result holds gives the area, in pycocotools too.
            rows = [
                {k: v for k, v in r.items() if k != ("segmentation" if kind == "bbox" else "bbox")}
                for r in results(split, shift)
            ]
            theirs = COCOeval_faster(truth, truth.loadRes(json.loads(json.dumps(rows))), kind)
            theirs.evaluate()
            theirs.accumulate()
            theirs.summarize()
            for name, value in zip(NAMES, theirs.stats[:6], strict=True):
                figure = getattr(precision, name)
                assert (-1 if figure is None else figure / 100) == pytest.approx(value, abs=1e-9), (kind, name)
    assert ours.objects == sum(not a["iscrowd"] for _, objects in split for a in objects)


def test_finding_everything_is_all_and_finding_nothing_is_none(split: CocoSplit) -> None:
    whole = measured(split, 0.0)
    assert whole.mask is not None
    truth = split.as_coco()
    perfect = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 1.0}
        for a in truth["annotations"]
    ]
    assert average_precision(truth, perfect, masks=False).box.ap == pytest.approx(100)
    assert whole.box.ap50 < 100  # every object is detected twice, which costs
    nothing = average_precision(truth, [], masks=True)
    assert nothing.mask is not None
    assert (nothing.box.ap, nothing.mask.ap50, nothing.box.small, nothing.box.large) == (0, 0, 0, None)
    with pytest.raises(DataError, match="There is no object in the images"):
        average_precision({**truth, "annotations": []}, [], masks=False)


def test_every_image_is_measured_once_whatever_the_batch(split: CocoSplit) -> None:
    for size in (1, 5, 24):
        batches = list(evaluation_loader(split, DetectionRun(workers=0, device_batch=size), CPU))
        assert [i for b in batches for _, i in b] == [p["id"] for p, _ in split]
    shares = [evaluation_loader(split, DetectionRun(workers=0), Process(CPU.device, rank, 3)) for rank in range(3)]
    assert sorted(i for share in shares for b in share for _, i in b) == sorted(p["id"] for p, _ in split)

"""The drawn shapes: a set that pycocotools reads, and that a narrow detector learns (slow)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import shapes_coco
from package_tree import ROOT
from PIL import Image
from pycocotools.coco import COCO

from bsszoo.train.detection.recipe import DetectionRecipe, read_any_recipe
from bsszoo.train.detection.task import train_detector


def test_the_same_seed_writes_the_same_set_and_its_masks_are_what_is_drawn(shapes: Path, tmp_path: Path) -> None:
    shapes_coco.write_split(tmp_path, "val", 8, 1)
    for file in ("annotations/instances_val.json", *(f"val/{p.name}" for p in (shapes / "val").iterdir())):
        assert (tmp_path / file).read_bytes() == (shapes / file).read_bytes()
    read = COCO(str(shapes / "annotations" / "instances_train.json"))
    kinds = set()
    for annotation in read.anns.values():
        mask = read.annToMask(annotation)
        rows, columns = np.nonzero(mask)
        kinds.add(type(annotation["segmentation"]).__name__)
        left, top, width, height = annotation["bbox"]
        assert mask.sum() == annotation["area"] >= shapes_coco.LEAST
        # Polygons' boxes are of their corners, masks of whole pixels.
        assert (columns.min(), rows.min()) == pytest.approx((left, top), abs=1.5)
        assert (np.ptp(columns) + 1, np.ptp(rows) + 1) == pytest.approx((width, height), abs=2.5)
    assert kinds == {"list", "dict"}
    for image in read.imgs.values():
        with Image.open(shapes / "train" / image["file_name"]) as opened:
            assert opened.size == (image["width"], image["height"])
    data = json.loads((shapes / "annotations" / "instances_train.json").read_text())
    assert {a["category_id"] for a in data["annotations"]} == set(shapes_coco.CATEGORIES)


@pytest.mark.slow
def test_a_narrow_detector_learns_them_from_scratch(tmp_path: Path) -> None:
    shapes_coco.write_split(tmp_path, "train", 600, 0)
    shapes_coco.write_split(tmp_path, "val", 60, 1)
    recipe = read_any_recipe(
        ROOT / "recipes" / "shapes" / "maskrcnn_narrow.yaml",
        ["schedule.updates=500", "schedule.milestones=[400]", "schedule.validate_every=500"],
    )
    assert isinstance(recipe, DetectionRecipe)
    summary = train_detector(recipe, tmp_path, tmp_path / "out", device="cpu")
    # An untrained one has some hundredths of a percent.
    assert summary["box_ap"] > 5
    assert summary["mask_ap"] > 5

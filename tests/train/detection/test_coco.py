"""Images and objects in COCO's format: what is read, what is refused by name, and what a detector gets."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapes_coco
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coder
from pycocotools.coco import COCO
from small_detectors import BOXES, changed_copy, small_recipe
from torchvision import tv_tensors
from torchvision.transforms import v2

from bsszoo.errors import DataError, RecipeError
from bsszoo.train.detection.checks import _decoded
from bsszoo.train.detection.data import CocoSplit, Packed, open_coco
from bsszoo.train.detection.labels import Labels, labels_of
from bsszoo.train.detection.recipe import CocoPart, DetectionRecipe
from bsszoo.train.detection.samples import DetectionBatches, divide_detection
from bsszoo.train.devices import Process

PART = CocoPart(train_split="train", val_split="val")
CPU = torch.device("cpu")


def opened(shapes: Path, recipe: DetectionRecipe) -> tuple[CocoSplit, Labels]:
    split, _ = open_coco(recipe.data, shapes, masks=True)
    return split, labels_of(recipe.detector.kind, split.categories, recipe.data.label_by, None)


def batches(shapes: Path, recipe: DetectionRecipe, process: Process = Process(CPU)) -> DetectionBatches:  # noqa: B008
    split, labels = opened(shapes, recipe)
    return DetectionBatches(
        split, labels, recipe, divide_detection(recipe, len(split), process.world), process, masks=True
    )


def test_the_objects_are_those_of_the_file_as_pycocotools_reads_it(shapes: Path) -> None:
    train, _ = open_coco(PART, shapes, masks=True)
    theirs = COCO(str(shapes / "annotations" / "instances_train.json"))
    assert train.categories == ((1, "circle"), (2, "square"), (4, "triangle"), (7, "star"))
    assert {p["id"] for p, _ in train} == {i for i in theirs.imgs if theirs.getAnnIds(i, iscrowd=False)}
    for image, objects in train:
        assert [a["bbox"] for a in objects] == [a["bbox"] for a in theirs.loadAnns(theirs.getAnnIds(image["id"]))]


def test_a_detector_is_shown_what_torchvision_would_show_it(shapes: Path, tmp_path: Path) -> None:
    theirs = COCO(str(shapes / "annotations" / "instances_train.json"))
    by_name = {i["file_name"]: i for i in theirs.imgs.values()}
    for chance in (0.0, 1.0):
        recipe = small_recipe(tmp_path, f"augment.hflip={chance}")
        made = batches(shapes, recipe)
        for update in range(4):
            for (pixels, target), file in zip(
                next(made.between(update, update + 1)), made.reread(update, 0)["files"], strict=True
            ):
                image = by_name[Path(file).name]
                objects = theirs.loadAnns(theirs.getAnnIds(image["id"], iscrowd=False))
                size = (image["height"], image["width"])
                boxes = tv_tensors.BoundingBoxes(
                    torch.tensor([a["bbox"] for a in objects]), format="XYWH", canvas_size=size
                )
                boxes = v2.functional.convert_bounding_box_format(boxes, new_format=tv_tensors.BoundingBoxFormat.XYXY)
                masks = tv_tensors.Mask(np.stack([theirs.annToMask(a) for a in objects]))
                image = tv_tensors.Image(Image.open(file))
                if chance:
                    image, boxes, masks = (v2.functional.horizontal_flip(v) for v in (image, boxes, masks))
                assert torch.equal((pixels * 255).round().to(torch.uint8), torch.as_tensor(image))
                assert torch.allclose(target["boxes"], torch.as_tensor(boxes).float())
                assert torch.equal(target["masks"], torch.as_tensor(masks))
                label_of = {1: 1, 2: 2, 4: 3, 7: 4}  # after the background
                assert target["labels"].tolist() == [label_of[a["category_id"]] for a in objects]


def test_the_images_of_an_update_are_the_same_for_any_number_of_processes(shapes: Path, tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path)
    one = batches(shapes, recipe)
    two = [batches(shapes, recipe, Process(CPU, rank, 2)) for rank in (0, 1)]
    for update in range(9):
        alone = [one.reread(update, micro_batch)["files"] for micro_batch in (0, 1)]
        assert alone == [b.reread(update, 0)["files"] for b in two]


def test_an_epoch_shows_every_image_once_and_keeps_wide_and_tall_ones_apart(shapes: Path, tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, "schedule.updates=12")
    split, _ = opened(shapes, recipe)
    tall = {str(split.file(p)): p["height"] > p["width"] for p, _ in split}
    made = batches(shapes, recipe)
    micro_batches = [made.reread(update, micro_batch)["files"] for update in range(12) for micro_batch in (0, 1)]
    assert all(len({tall[f] for f in files}) == 1 for files in micro_batches)
    whole = sum(n // 2 for n in Counter(tall.values()).values())
    for epoch in range(2):
        seen = [f for files in micro_batches[epoch * whole : (epoch + 1) * whole] for f in files]
        assert len(seen) == len(set(seen)) == 2 * whole
    assert micro_batches[:whole] != micro_batches[whole : 2 * whole]


def test_too_few_images_of_one_shape_for_a_micro_batch_go_with_the_others(shapes: Path, tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, "schedule.updates=12")
    split, labels = opened(shapes, recipe)
    tall = split.sizes[split.indices, 1] > split.sizes[split.indices, 0]
    few = split.of(np.concatenate([split.indices[tall][:1], split.indices[~tall][:5]]))
    made = DetectionBatches(few, labels, recipe, divide_detection(recipe, len(few), 1), Process(CPU), masks=True)
    seen = {f for update in range(6) for micro_batch in (0, 1) for f in made.reread(update, micro_batch)["files"]}
    assert len(seen) == 6


def test_null_and_odd_values_are_as_absent_or_named(shapes: Path, tmp_path: Path) -> None:
    root = changed_copy(shapes, tmp_path, lambda d: d["annotations"][0].update(area=None, iscrowd=None))
    assert len(open_coco(PART, root, masks=True)[0])
    for number, (change, words) in enumerate(
        {
            "owner": (lambda d: d["annotations"][0].update(image_id=[1]), "there is no image with the id \\[1\\]"),
            "kind": (lambda d: d["annotations"][0].update(category_id=None), "there is no category with the id None"),
            "area": (lambda d: d["annotations"][0].update(area="big"), "its area is 'big'"),
            "ids": (lambda d: d["images"][0].update(id="1"), "all whole numbers or all texts; there are int, str"),
        }.values()
    ):
        with pytest.raises(DataError, match=words):
            open_coco(PART, changed_copy(shapes, tmp_path / str(number), change), masks=True)


def test_images_of_more_than_eight_bits_are_not_bleached(shapes: Path, tmp_path: Path) -> None:
    root = tmp_path / "deep"
    shutil.copytree(shapes, root)
    for file in (root / "train").glob("*.jpg"):
        Image.fromarray(np.full((60, 50), 40_000, dtype=np.uint16)).save(file, "PNG")
    with pytest.raises(DataError, match=r"has more than 8 bits a channel \(PIL's mode I;16\)"):
        next(batches(root, small_recipe(tmp_path)).between(0, 1))


def test_held_out_images_are_none_of_those_to_train_on(shapes: Path) -> None:
    part = CocoPart(train_split="train", val_split="val", holdout=0.25, subset=0.5)
    train, held = open_coco(part, shapes, masks=True)
    ours, theirs = ({p["id"] for p, _ in split} for split in (train, held))
    assert len(theirs) == 6
    assert not ours & theirs
    assert len(ours) == pytest.approx(9, abs=1)  # half of the rest, those that show nothing left out
    assert {p["id"] for p, _ in open_coco(part, shapes, masks=True)[1]} == theirs


def test_outputs_are_categories_in_order_or_by_their_ids() -> None:
    categories = [(1, "person"), (3, "car"), (90, "toothbrush")]
    assert labels_of("retinanet", categories, "order", None).ids == (1, 3, 90)
    by_id = labels_of("maskrcnn", categories, "id", 91)
    assert (by_id.classes, by_id.label(90), by_id.ids[2], by_id.names[3]) == (91, 90, None, "car")
    assert Labels.from_dict(json.loads(json.dumps(by_id.to_dict()))) == by_id
    with pytest.raises(RecipeError, match=r"model\.num_classes is 3, .* 3 categories and the background need 4"):
        labels_of("maskrcnn", categories, "order", 3)
    with pytest.raises(RecipeError, match=r"'nothing' has the id 0, which is Mask R-CNN's output for the background"):
        labels_of("maskrcnn", [(0, "nothing")], "id", None)


def polygon(data: dict[str, Any]) -> dict[str, Any]:
    annotation: dict[str, Any] = next(a for a in data["annotations"] if isinstance(a["segmentation"], list))
    return annotation


def whole(data: dict[str, Any], counts: Any) -> dict[str, Any]:
    """Runs of the first image; to a list is added what is left."""
    image = next(i for i in data["images"] if i["id"] == data["annotations"][0]["image_id"])
    area = image["width"] * image["height"]
    return {
        "size": [image["height"], image["width"]],
        "counts": [*counts, area - sum(counts)] if isinstance(counts, list) else counts,
    }


FAULTS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "box": (
        lambda d: d["annotations"][2].update(bbox=[90, 10, 500, 20]),
        r"annotation 3 of 0000\d\d\.jpg: its box \[90, 10, 500, 20\] reaches outside the image of \d+ x \d+ px",
    ),
    "empty box": (lambda d: d["annotations"][0].update(bbox=[5, 5, 0, 9]), r"annotation 1 .*\[5, 5, 0, 9\] is empty"),
    "no box": (lambda d: d["annotations"][0].update(bbox=[5, 5, None, 9]), r"a box is four numbers"),
    "polygon": (lambda d: polygon(d).update(segmentation=[[1, 2, 3, 4]]), r"its polygon \[1, 2, 3, 4\] is empty"),
    "outline": (lambda d: polygon(d).update(segmentation=[]), r"it has no outline"),
    "mask": (
        lambda d: d["annotations"][1].update(segmentation={"size": [1, 1], "counts": [1]}),
        r"annotation 2 .*its mask is of \[1, 1\], and the image of \[\d+, \d+\] px",
    ),
    "box at the edge": (
        lambda d: d["annotations"][0].update(bbox=[-0.9, 10, 0.9, 20]),
        r"annotation 1 .*nothing of its box \[-0\.9, 10, 0\.9, 20\] lies in the image",
    ),
    "thin box": (lambda d: d["annotations"][0].update(bbox=[50, 10, 1e-9, 20]), "nothing of its box"),
    "runs": (lambda d: d["annotations"][0].update(segmentation=whole(d, [-100, 100])), "are not whole numbers from 0"),
    "parts of runs": (lambda d: d["annotations"][0].update(segmentation=whole(d, [0.5])), "are not whole numbers"),
    "coded runs": (lambda d: d["annotations"][0].update(segmentation=whole(d, "0")), "add up to"),
    "category": (lambda d: d["annotations"][4].update(category_id=3), r"annotation 5 .*no category with the id 3"),
    "image": (lambda d: d["annotations"][4].update(image_id=999), r"annotation 5: there is no image with the id"),
    "twice": (lambda d: d["images"].append(d["images"][0]), r"has several images with the id 1"),
    "id": (lambda d: d["annotations"][6].update(id=6), "annotation 6 .*another annotation has the same id"),
    "corners": (
        lambda d: [a.update(bbox=[a["bbox"][0], a["bbox"][1], 158.0, 158.0]) for a in d["annotations"]],
        "They look like corners; COCO's boxes are",
    ),
    "no outlines": (lambda d: [a.pop("segmentation") for a in d["annotations"]], "A RetinaNet .* takes boxes alone"),
    "file": (lambda d: d["images"][3].update(file_name="gone.jpg"), r"lists 24 images, but there is no .*gone\.jpg"),
    "size": (lambda d: d["images"][3].update(width=0), r"has the size 0 x \d+"),
    "key": (lambda d: d["annotations"][0].pop("bbox"), r"number 0 of 'annotations' has no 'bbox'"),
    "format": (lambda d: d.pop("categories"), r"is not in COCO's format: it has no list of 'categories'"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_broken_annotations_are_named(shapes: Path, tmp_path: Path, name: str) -> None:
    change, words = FAULTS[name]
    with pytest.raises(DataError, match=words):
        open_coco(PART, changed_copy(shapes, tmp_path, change), masks=True)


def test_broken_annotations_can_be_left_out_and_are_counted(shapes: Path, tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        data["annotations"][0]["bbox"] = [5, 5, 0, 9]
        data["annotations"][1]["category_id"] = 3
        data["annotations"][2]["bbox"][0] = -0.7  # COCO's boxes reach out by rounding

    root = changed_copy(shapes, tmp_path, change)
    with pytest.raises(DataError, match=r"2 broken annotations: .*data\.broken=skip"):
        open_coco(PART, root, masks=True)
    train, _ = open_coco(CocoPart(train_split="train", val_split="val", broken="skip"), root, masks=True)
    whole, _ = open_coco(PART, shapes, masks=True)
    assert sum(len(objects) for _, objects in train) == sum(len(objects) for _, objects in whole) - 2
    assert any(
        "instances_train.json are left out (1 with an empty box, 1 of an unknown category)" in note
        for note in train.notes
    )


def test_retinanet_takes_annotations_without_outlines(shapes: Path, tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        for annotation in data["annotations"]:
            del annotation["segmentation"]

    root = changed_copy(shapes, tmp_path, change)
    assert small_recipe(tmp_path, f"model.name={BOXES}").detector.kind == "retinanet"
    assert len(open_coco(PART, root, masks=False)[0])
    with pytest.raises(DataError, match=r"No annotation of .* has an outline"):
        open_coco(PART, root, masks=True)


def test_a_folder_that_is_none_says_what_it_should_hold(shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There is no folder .*nowhere"):
        open_coco(PART, tmp_path / "nowhere", masks=True)
    with pytest.raises(DataError, match=r"instances_train2017\.json.*has annotations, train, val"):
        open_coco(CocoPart(), shapes, masks=True)
    with pytest.raises(DataError, match="give it with --data"):
        open_coco(PART, None, masks=True)


def test_an_image_of_another_size_than_annotated_is_named(shapes: Path, tmp_path: Path) -> None:
    root = tmp_path / "turned"
    shutil.copytree(shapes, root)
    for file in (root / "train").glob("*.jpg"):
        Image.new("RGB", (50, 60)).save(file)
    made = batches(root, small_recipe(tmp_path))
    with pytest.raises(DataError, match=r"\.jpg has 50 x 60 px, and its annotations say"):
        next(made.between(0, 1))


@given(st.lists(st.integers(0, 400), min_size=1, max_size=40), st.binary(max_size=30))
def test_coded_runs_are_read_as_pycocotools_reads_them(rows: list[int], noise: bytes) -> None:
    mask = np.zeros((20, 20), dtype=np.uint8)
    mask.ravel()[[r % 400 for r in rows]] = 1
    coded = coder.encode(np.asfortranarray(mask))
    runs = shapes_coco.runs(mask.astype(bool))
    assert _decoded(coded["counts"], 400) == _decoded(coded["counts"].decode(), 400) == runs["counts"]
    read = _decoded(noise, 400)
    assert all(isinstance(n, int) for n in read)


def test_packed_values_are_the_values() -> None:
    values = [("a", [1.5, None]), {"b": 2}, (), "c" * 1000]
    packed = Packed(values)
    assert [packed[i] for i in range(len(packed))] == values

"""Files in COCO's format from anywhere: each is read rightly or refused by its name, and none crashes or hangs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapes_coco
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coder
from small_detectors import changed_copy, environment

from bsszoo.errors import DataError
from bsszoo.train.detection.checks import faults_of
from bsszoo.train.detection.data import CocoSplit, open_coco
from bsszoo.train.detection.recipe import CocoPart

PART = CocoPart(train_split="train", val_split="val")
SKIP = CocoPart(train_split="train", val_split="val", broken="skip")


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("few") / "shapes"
    shapes_coco.write_split(root, "train", 6, 0)
    shapes_coco.write_split(root, "val", 2, 1)
    return root


def polygon(data: dict[str, Any]) -> dict[str, Any]:
    annotation: dict[str, Any] = next(a for a in data["annotations"] if isinstance(a["segmentation"], list))
    return annotation


def crowds(split: CocoSplit) -> list[Any]:
    return [a["id"] for _, objects in split for a in objects if a["iscrowd"]]


@pytest.mark.parametrize("value", ["0", "1", "false", "", "no", 2, -1, 0.5, 1.0, [], {}, [1], float("nan")])
def test_a_crowd_flag_that_is_none_is_a_fault(few: Path, tmp_path: Path, value: object) -> None:
    root = changed_copy(few, tmp_path, lambda d: d["annotations"][0].update(iscrowd=value))
    with pytest.raises(DataError, match=r"annotation 1 .*its 'iscrowd' is .*; it is 0 or 1, true or"):
        open_coco(PART, root, masks=True)
    train, _ = open_coco(SKIP, root, masks=True)
    assert any("1 with a broken crowd flag" in note for note in train.notes)


@pytest.mark.parametrize(("value", "crowd"), [(0, 0), (1, 1), (False, 0), (True, 1), (None, 0)])
def test_a_crowd_flag_is_zero_or_one_true_or_false_or_left_out(
    few: Path, tmp_path: Path, value: object, crowd: int
) -> None:
    root = changed_copy(few, tmp_path, lambda d: [a.update(iscrowd=value) for a in d["annotations"][:1]])
    train, _ = open_coco(PART, root, masks=True)
    flags = {a["id"]: a["iscrowd"] for _, objects in train for a in objects}
    assert flags[1] == crowd


def test_crowds_are_counted_in_a_note(few: Path, tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        for annotation in data["annotations"]:
            annotation["iscrowd"] = int(annotation["id"] in (1, 2))

    train, _ = open_coco(PART, changed_copy(few, tmp_path, change), masks=True)
    assert len(crowds(train)) == 2
    assert any(note.startswith("2 annotations are crowds ('iscrowd') and not trained on") for note in train.notes)

    def none(data: dict[str, Any]) -> None:
        for annotation in data["annotations"]:
            del annotation["iscrowd"]

    train, _ = open_coco(PART, changed_copy(few, tmp_path / "none", none), masks=True)
    assert not any("crowd" in note for note in train.notes)


def outlined(*points: float) -> Callable[[dict[str, Any]], object]:
    return lambda d: polygon(d).update(segmentation=[list(points)])


def counted(counts: object) -> Callable[[dict[str, Any]], object]:
    def change(data: dict[str, Any]) -> None:
        one = polygon(data)
        image = next(p for p in data["images"] if p["id"] == one["image_id"])
        one["segmentation"] = {"size": [image["height"], image["width"]], "counts": counts}

    return change


FAULTS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "far": (outlined(1, 1, 50, 1, 1e9, 50), r"its polygon has the point \[1e\+09, 50\], far outside the image of"),
    "far to the left": (outlined(1, 1, 50, 1, -1e9, 50), r"the point \[-1e\+09, 50\], far outside"),
    "just too far": (outlined(1, 1, 50, 1, 50, 330), r"the point \[50, 330\], far outside"),
    "wholly outside": (outlined(-9, 1, -5, 1, -5, 9), r"nothing of its polygon \[-9, 1, -5, 1, -5, 9\] lies in"),
    "below": (outlined(1, 170, 9, 170, 9, 180), "nothing of its polygon"),
    "not a number": (outlined(1, 1, 50, 1, float("nan"), 50), "is empty; one has at least three points"),
    "infinite": (outlined(1, 1, 50, 1, float("inf"), 50), "is empty; one has at least three points"),
    "large": (outlined(1, 1, 50, 1, 10**19, 50), "is empty; one has at least three points"),
    "truth": (lambda d: polygon(d).update(segmentation=[[True, 1, 50, 1, 50, 50]]), "is empty; one has at least"),
    "endless": (outlined(*[1, 1, 90, 90] * 9000), r"polygons are 1,6\d\d,\d\d\d px long, and at most 1,000,000 are"),
    "a text of megabytes": (counted("o" * 3_000_000), "the runs of its mask .* are not whole numbers"),
    "another": (counted("0" * 3_000_000), "the runs of its mask"),
    "many runs": (counted([0] * 2_000_000), "the runs of its mask"),
    "true runs": (counted([True]), "the runs of its mask"),
    "a box's number": (lambda d: d["annotations"][0].update(bbox=[0, 0, 10**19, 9]), "its box is .*four numbers"),
    "a box that is nan": (lambda d: d["annotations"][0].update(bbox=[0, 0, float("nan"), 9]), "four numbers"),
    "area": (lambda d: d["annotations"][0].update(area=-5), "its area is -5; it is a number of pixels"),
    "a truth for an image": (lambda d: d["annotations"][0].update(image_id=True), "no image with the id True"),
    "a truth for a category": (lambda d: d["annotations"][0].update(category_id=True), "no category with the id True"),
    "wide": (lambda d: d["images"][0].update(width=10**9), r"the size 1000000000 x \d+; images of more than 178,95"),
    "true width": (lambda d: d["images"][0].update(width=True), r"the size True x \d+; width and height are whole"),
    "long width": (lambda d: d["images"][0].update(width=10**400), "a whole number of 401 digits"),
    "id": (lambda d: d["images"][0].update(id=2**64), "an image has the id 18446744073709551616"),
    "true id": (lambda d: d["images"][0].update(id=True), "all whole numbers or all texts; there are bool, int"),
    "category's id": (lambda d: d["categories"][0].update(id=True), "whole numbers from 0 of at most 63 bits; one is"),
    "category's large id": (lambda d: d["categories"][0].update(id=2**63), "whole numbers from 0 of at most 63 bits"),
    "category's name": (lambda d: d["categories"][0].update(name=None), "the category 1 has the name None; names are"),
    "file name": (lambda d: d["images"][0].update(file_name=None), "the image 1 has the file name None"),
    "terminal": (lambda d: d["images"][0].update(file_name="a\x1b[2J.jpg"), r"there is no .*a\\x1b\[2J\.jpg"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_cannot_be_right_is_named(few: Path, tmp_path: Path, name: str) -> None:
    change, words = FAULTS[name]
    root = changed_copy(few, tmp_path, change)
    with pytest.raises(DataError, match=words) as caught:
        open_coco(PART, root, masks=True)
    assert str(root / "annotations" / "instances_train.json") in str(caught.value)


def test_numbers_of_python_that_no_file_holds_are_faults_too() -> None:
    image = {"id": 1, "file_name": "a.jpg", "width": 9, "height": 9}
    for number in (10**400, float("inf"), -(10**400)):
        annotation = {"image_id": 1, "category_id": 1, "bbox": [0, 0, number, 5]}
        [fault] = faults_of([annotation], [image], [{"id": 1, "name": "a"}], masks=False)
        assert fault.kind == "without a box"


def test_outlines_that_reach_out_a_little_are_right(few: Path, tmp_path: Path) -> None:
    train, _ = open_coco(PART, changed_copy(few, tmp_path, outlined(-20, 1, 50, 1, 50, 200)), masks=True)
    assert len(train)


@pytest.mark.parametrize(
    "text", ["", "[", "null", "[" * 200_000, '{"a": ' * 50_000, '{"images": ' + "1" * 5000 + "}", "\x00", "NaN"]
)
def test_what_is_no_json_is_refused_with_the_files_name(few: Path, tmp_path: Path, text: str) -> None:
    root = changed_copy(few, tmp_path, lambda _: None)
    file = root / "annotations" / "instances_train.json"
    for data in (text.encode(), text.encode() + b"\xff\xfe\xfd"):
        file.write_bytes(data)
        with pytest.raises(DataError, match=r"instances_train\.json is no"):
            open_coco(PART, root, masks=True)


def test_names_given_twice_are_said(few: Path, tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        data["categories"][1]["name"] = data["categories"][0]["name"]

    root = changed_copy(few, tmp_path, change)
    shutil.copy(root / "annotations" / "instances_train.json", root / "annotations" / "instances_both.json")
    shutil.copytree(root / "train", root / "both")
    train, _ = open_coco(CocoPart(train_split="train", val_split="both"), root, masks=True)
    assert any("gives 2 categories the name 'circle': predictions cannot tell them apart" in n for n in train.notes)


def test_other_fields_in_the_patterns_of_paths_are_only_text(few: Path, tmp_path: Path) -> None:
    part = CocoPart(train_split="train", val_split="val", annotations="annotations/{0}{split}{x.y}.json")
    with pytest.raises(DataError, match=r"There is no .*\{0\}train\{x\.y\}\.json"):
        open_coco(part, changed_copy(few, tmp_path, lambda _: None), masks=True)


@given(st.integers(1, 12), st.integers(1, 12), st.binary(min_size=1, max_size=40), st.data())
def test_coded_runs_that_are_taken_are_drawn_as_pycocotools_draws_them(
    height: int, width: int, bits: bytes, data: st.DataObject
) -> None:
    flat = np.resize(np.unpackbits(np.frombuffer(bits, dtype=np.uint8)), height * width)
    coded = coder.encode(np.asfortranarray(flat.reshape((height, width), order="F")))["counts"].decode()
    # Right ones, and right ones with a character changed.
    if data.draw(st.booleans()):
        index = data.draw(st.integers(0, len(coded) - 1))
        coded = coded[:index] + chr(data.draw(st.integers(48, 111))) + coded[index + 1 :]
        flat = None
    image = {"id": 1, "file_name": "a.jpg", "width": width, "height": height}
    outline = {"size": [height, width], "counts": coded}
    annotation = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "segmentation": outline}
    faults = faults_of([annotation], [image], [{"id": 1, "name": "a"}], masks=True)
    if flat is not None:
        assert faults == []
    if not faults:
        drawn = coder.decode(outline)
        assert set(drawn.ravel().tolist()) <= {0, 1}
        assert int(coder.area(outline)) == int(drawn.sum())
        assert flat is None or np.array_equal(drawn.ravel(order="F"), flat)


def test_mutations_of_a_right_file_are_read_or_refused(few: Path, tmp_path: Path) -> None:
    root = tmp_path / "shapes"
    shutil.copytree(few, root)
    fuzzer = Path(__file__).with_name("coco_fuzzer.py")
    done = subprocess.run(
        [sys.executable, str(fuzzer), str(root), "0", "300"], env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ends = json.loads(done.stdout)
    assert ends.keys() == {"read", "refused"}
    assert sum(ends.values()) == 300
    assert min(ends.values()) > 30

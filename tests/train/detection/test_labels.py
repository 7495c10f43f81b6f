"""Which output stands for which category: by the names that a detector was trained with, whatever ids data have."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_detectors import MASKS, small_recipe

import bsszoo
from bsszoo.errors import DataError, RecipeError, WeightsError
from bsszoo.train.detection.labels import Labels, labels_for, labels_of
from bsszoo.train.detection.task import train_detector
from bsszoo.train.detection.validate import validate_detector

TRAINED = labels_of("maskrcnn", [(1, "circle"), (2, "square"), (4, "star")], "order", None)


@pytest.fixture(scope="module")
def run(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    recipe = small_recipe(folder, "schedule.updates=2", "schedule.warmup_updates=0", "model.least_score=0.0")
    train_detector(recipe, shapes, folder / "out", device="cpu")
    return folder / "out"


def other(shapes: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    root = tmp_path / "other"
    shutil.copytree(shapes, root)
    file = root / "annotations" / "instances_val.json"
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))
    return root


def renumbered(data: dict[str, Any]) -> None:
    """The same names under other ids, in another order."""
    ids = {c["id"]: 20 - c["id"] for c in data["categories"]}
    for category in data["categories"]:
        category["id"] = ids[category["id"]]
    for annotation in data["annotations"]:
        annotation["category_id"] = ids[annotation["category_id"]]


def test_outputs_follow_the_names() -> None:
    made, notes = labels_for(TRAINED, [(1, "star"), (7, "circle"), (9, "square")], "The split 'val'")
    assert made == Labels((None, 7, 9, 1), ("-", "circle", "square", "star"))
    assert notes == (
        "The split 'val' gives its categories other ids than the training's data; they are taken by their names",
    )
    assert labels_for(TRAINED, [(1, "circle"), (2, "square"), (4, "star")], "It") == (TRAINED, ())
    made, notes = labels_for(TRAINED, [(2, "square")], "The split 'val'")
    assert made.ids == (None, None, 2, None)
    assert notes == ("The split 'val' lacks 2 of the network's categories (circle, star): they are not measured",)


def test_a_category_that_the_network_was_not_trained_with_is_refused() -> None:
    with pytest.raises(
        DataError,
        match=r"It has the category 'heart' \(id 1\), which the network was not "
        r"trained with\. Its categories are circle, square, star",
    ):
        labels_for(TRAINED, [(1, "heart"), (2, "square")], "It")


def test_a_name_given_twice_is_taken_under_its_own_ids_only() -> None:
    twice = labels_of("maskrcnn", [(1, "cat"), (2, "cat")], "order", None)
    assert labels_for(twice, [(1, "cat"), (2, "cat")], "It") == (twice, ())
    with pytest.raises(DataError, match="The network has several categories with the name 'cat'"):
        labels_for(twice, [(3, "cat")], "It")
    with pytest.raises(DataError, match="It has several categories with the name 'star'"):
        labels_for(TRAINED, [(4, "star"), (5, "star")], "It")


def test_outputs_by_ids_have_a_bound() -> None:
    with pytest.raises(
        RecipeError, match=r"the category 'far' has the id 1000000000000: more than 10,000 outputs are not made"
    ):
        labels_of("maskrcnn", [(1, "near"), (10**12, "far")], "id", None)
    assert labels_of("maskrcnn", [(1, "near"), (10**12, "far")], "order", None).classes == 3


def test_a_detector_is_measured_by_names_whatever_ids_the_data_give_them(
    run: Path, shapes: Path, tmp_path: Path
) -> None:
    whole = validate_detector(run, shapes, device="cpu")
    notes: list[str] = []
    assert validate_detector(run, other(shapes, tmp_path, renumbered), device="cpu", on_note=notes.append) == whole
    assert any("other ids than the training's data" in note for note in notes)
    assert whole.split == "val"

    def renamed(data: dict[str, Any]) -> None:
        data["categories"][0]["name"] = "disc"

    with pytest.raises(DataError, match="has the category 'disc'"):
        validate_detector(run, other(shapes, tmp_path / "renamed", renamed), device="cpu")


def test_a_split_that_is_missing_is_never_another_one(run: Path, shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There is no .*instances_test\.json, the annotations of the split 'test'"):
        validate_detector(run, shapes, settings={"val_split": "test"}, device="cpu")
    recipe = small_recipe(tmp_path, "data.test_split=test")
    with pytest.raises(DataError, match=r"instances_test\.json"):
        train_detector(recipe, shapes, tmp_path / "out", device="cpu")


def test_figures_name_the_split_that_was_read(shapes: Path, tmp_path: Path) -> None:
    recipe = small_recipe(
        tmp_path, "data.holdout=0.25", "data.test_split=val", "schedule.updates=2", "schedule.warmup_updates=0"
    )
    summary = train_detector(recipe, shapes, tmp_path / "out", device="cpu")
    assert summary["validated_on"] == "0.25 of train, held out"
    assert summary["tested_on"] == summary["test"]["split"] == "val"
    assert validate_detector(tmp_path / "out", shapes, device="cpu").split == "0.25 of train, held out"


def test_weights_that_do_not_say_their_categories_are_measured_with_a_note(shapes: Path, tmp_path: Path) -> None:
    torch.save(bsszoo.create(MASKS).state_dict(), tmp_path / "weights.pt")
    notes: list[str] = []
    validate_detector(
        MASKS,
        shapes,
        weights=str(tmp_path / "weights.pt"),
        device="cpu",
        workers=0,
        on_note=notes.append,
        settings={"val_split": "val", "image_size": 64, "max_size": 128},
    )
    assert any(
        "do not say which output is which category; those of the data are taken at the outputs of their "
        "ids, from 'circle' to 'star'" in note
        for note in notes
    )


def test_a_flipped_bit_in_a_detectors_weights_is_noticed(run: Path, shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(run, out)
    data = bytearray((out / "model.safetensors").read_bytes())
    data[-2] ^= 4
    (out / "model.safetensors").write_bytes(bytes(data))
    with pytest.raises(WeightsError, match="are not those that its config"):
        validate_detector(out, shapes, device="cpu")

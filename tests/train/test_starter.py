"""``bsszoo recipe``: recipes to begin with read as what they say, and train."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from bsszoo.cli.main import app
from bsszoo.errors import DataError
from bsszoo.evaluators.starter import starter_recipe
from bsszoo.train.classification.data import ImageSplit, open_split, open_splits, open_test, split_notes
from bsszoo.train.classification.paper import imagenet_recipe
from bsszoo.train.classification.recipe import DataPart, read_recipe
from bsszoo.train.detection.paper import coco_recipe
from bsszoo.train.detection.recipe import read_any_recipe

CODE = "resnet18_c8-16-16-32_l1-1-1-1_px32"


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of three classes, 40, 30 and 20, in a folder without splits."""
    root = tmp_path_factory.mktemp("flat")
    rng = np.random.default_rng(0)
    for label, number in enumerate((40, 30, 20)):
        (root / f"class{label}").mkdir()
        for i in range(number):
            pixels = rng.integers(0, 90, (36, 36, 3), dtype=np.uint8)
            pixels[5:20, 5:20, label] += 150
            Image.fromarray(pixels).save(root / f"class{label}" / f"{i}.png")
    (root / ".hidden").mkdir()
    return root


def written(text: str, folder: Path) -> Path:
    (folder / "recipe.yaml").write_text(text)
    return folder / "recipe.yaml"


@pytest.mark.parametrize("name", ["mobilenetv2", "convnext_atto", "resnet50_autobss", CODE])
def test_without_images_it_is_the_published_one(name: str, tmp_path: Path) -> None:
    assert read_recipe(written(starter_recipe(name), tmp_path)) == imagenet_recipe(name)


def test_of_a_detector_it_is_cocos(tmp_path: Path) -> None:
    text = starter_recipe("retinanet_resnet50", assignments=["optim.lr=0.01"])
    read = read_any_recipe(written(text, tmp_path))
    assert read.model == coco_recipe("retinanet_resnet50").model
    assert read.optim.lr == 0.01


def test_it_fits_a_folder_trains_and_goes_on_as_a_fine_tuning(flat: Path, tmp_path: Path) -> None:
    file, run = tmp_path / "mine.yaml", tmp_path / "run"
    words = ["recipe", CODE, "--data", flat, "--out", file, "--set", "schedule.epochs=3"]
    words += ["--set", "schedule.warmup_epochs=1", "--set", "run.workers=0"]
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == 0, done.output
    assert f"bsszoo train {file} --data {flat}" in done.output
    recipe = read_recipe(file)
    assert (recipe.model.num_classes, recipe.model.name, recipe.data.holdout) == (3, CODE, 0.0)
    assert recipe.schedule.epochs == 3
    trained = CliRunner().invoke(app, ["train", str(file), "--data", str(flat), "--out", str(run), "--json", "-q"])
    assert trained.exit_code == 0, trained.output
    assert json.loads(trained.stdout)["val_pictures"] == 9
    # One that is there is kept.
    again = CliRunner().invoke(app, list(map(str, words)))
    assert "There is a file" in str(again.exception)
    tuned = read_recipe(written(starter_recipe(str(run), flat), tmp_path))
    assert tuned.model.pretrained == f"local-dir:{run}"
    assert tuned.optim.lr < recipe.optim.lr


def test_a_folder_without_splits_is_divided_once_and_for_all(flat: Path) -> None:
    part = DataPart(image_size=32, test_split="test")
    train, val = open_splits(part, flat, num_classes=3)
    test = open_test(part, flat, num_classes=3, splits=(train, val))
    names = [{split.name(i) for i in range(len(split))} for split in (train, val, test)]
    assert [len(n) for n in names] == [72, 9, 9]
    assert len(set.union(*names)) == 90
    for split, each in ((train, (32, 24, 16)), (val, (4, 3, 2)), (test, (4, 3, 2))):
        assert isinstance(split, ImageSplit)
        assert tuple(np.bincount(split.labels)) == each
        assert all(f"class{split.labels[i]}/" in split.name(i) for i in range(len(split)))
    (note,) = split_notes(train, val, test)
    assert "90 images are divided" in note
    assert "72 for train, 9 for validation, 9 for test" in note
    alone = open_split(part, flat, training=False, num_classes=3, classes=("class2", "class1", "class0"))
    assert {alone.name(i) for i in range(len(alone))} == names[1]
    assert tuple(np.bincount(alone.labels)) == (2, 3, 4)


def test_folders_of_splits_are_no_classes(flat: Path, tmp_path: Path) -> None:
    for split in ("training_data", "validation_data"):
        (tmp_path / split).symlink_to(flat)
    with pytest.raises(DataError, match="has no folder 'train'"):
        open_split(DataPart(), tmp_path, training=True, num_classes=3)
    (tmp_path / "pair").mkdir()
    for name in ("class0", "test"):
        (tmp_path / "pair" / name).symlink_to(flat / "class0")
    with pytest.raises(DataError, match="has no folder 'train'"):
        open_split(DataPart(), tmp_path / "pair", training=True, num_classes=3)
    with pytest.raises(DataError, match="has no folder 'train'"):
        open_split(DataPart(train_split="train"), flat / "class0", training=True, num_classes=3)


def test_a_broken_file_of_a_folder_without_splits_is_named_before_training(flat: Path, tmp_path: Path) -> None:
    shutil.copytree(flat, tmp_path / "flat")
    for file in (tmp_path / "flat" / "class0").iterdir():
        file.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"class0/\d+.png cannot be read"):
        open_split(DataPart(), tmp_path / "flat", training=True, num_classes=3)

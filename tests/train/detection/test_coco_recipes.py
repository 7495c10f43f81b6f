"""The recipes for COCO say what the paper says (B.3.3, B.4), and every one of their keys stands in the file."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from package_tree import ROOT

import bsszoo
from bsszoo.errors import SettingsError
from bsszoo.evaluators.detection import over_epochs
from bsszoo.train.detection.data import open_coco
from bsszoo.train.detection.paper import any_recipe_of
from bsszoo.train.detection.recipe import DetectionRecipe, read_any_recipe
from bsszoo.train.strict import paths

FILES = sorted((ROOT / "recipes" / "coco").glob("*.yaml"))
# Table 5, in millions, of models with these numbers of outputs.
PARAMS = {
    "maskrcnn_resnet50": 44.455,
    "maskrcnn_resnet50_autobss": 49.207,
    "retinanet_resnet50": 37.969,
    "retinanet_resnet50_autobss": 41.313,
}
each_file = pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)


def recipe_in(file: Path) -> DetectionRecipe:
    recipe = read_any_recipe(file)
    assert isinstance(recipe, DetectionRecipe)
    return recipe


def test_there_is_a_file_for_each_row_of_the_table() -> None:
    assert {f.stem for f in FILES} == set(PARAMS)


@each_file
def test_it_says_what_the_paper_says(file: Path) -> None:
    recipe = recipe_in(file)
    optim, plan, run, data = recipe.optim, recipe.schedule, recipe.run, recipe.data
    assert recipe.model.name == file.stem
    assert (recipe.model.pretrained, recipe.model.backbone_weights, recipe.model.norm) == (None, None, "batch")
    assert (optim.batch_size, run.device_batch, run.sync_bn) == (8 * 2, 2, True)
    assert (optim.name, optim.peak_lr, optim.weight_decay, optim.momentum) == ("sgd", 0.02, 0.0001, 0.9)
    assert (plan.updates, plan.warmup_updates, plan.milestones, plan.decay) == (270_000, 2_500, (210_000, 250_000), 0.1)
    assert (recipe.augment.hflip, data.image_size, data.train_split, data.val_split) == (
        0.5,
        800,
        "train2017",
        "val2017",
    )
    assert bsszoo.cost(file.stem, num_classes=recipe.model.num_classes).params / 1e6 == pytest.approx(
        PARAMS[file.stem], abs=1e-3
    )


@each_file
def test_every_key_stands_in_it_and_the_package_has_the_same_recipe(file: Path) -> None:
    written = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert {f"{section}.{key}" for section in written for key in written[section]} == set(paths(DetectionRecipe))
    assert any_recipe_of(f"paper:{file.stem}") == recipe_in(file)


def test_the_recipe_of_the_drawn_shapes_reads() -> None:
    recipe = recipe_in(ROOT / "recipes" / "shapes" / "maskrcnn_narrow.yaml")
    assert recipe.schedule.ends == (300, 600, 900, 1200)


def test_other_epochs_keep_the_shares_of_the_schedule(shapes: Path) -> None:
    splits = ["data.train_split=train", "data.val_split=val"]
    recipe = any_recipe_of("paper:retinanet_resnet50", ["optim.batch_size=2", *splits])
    assert isinstance(recipe, DetectionRecipe)
    before = recipe.schedule
    after = over_epochs(recipe, shapes, 1000).schedule
    assert after.updates == 1000 * len(open_coco(recipe.data, shapes, masks=False)[0]) // 2
    share = after.updates / before.updates
    for one, other in zip(
        (*before.milestones, before.warmup_updates, before.validate_every),
        (*after.milestones, after.warmup_updates, after.validate_every),
        strict=True,
    ):
        assert other == pytest.approx(share * one, abs=1)
    with pytest.raises(SettingsError, match="--epochs is 0"):
        over_epochs(recipe, shapes, 0)

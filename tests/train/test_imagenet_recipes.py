"""The ImageNet recipes say what the paper's Table 1 says, in whole files that mark what it does not say."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import yaml

import bsszoo
from bsszoo.train.classification.paper import recipe_of
from bsszoo.train.classification.recipe import Recipe, read_recipe
from bsszoo.train.classification.samples import training_transform
from bsszoo.train.strict import paths

RECIPES = Path(__file__).parents[2] / "recipes"
FILES = sorted((RECIPES / "imagenet").glob("*.yaml"))

# Appendix B.1, Table 1: weight decay, initial learning rate, epochs, fixed AutoAugment.
TABLE_1 = {
    "resnet18": (0.00004, 0.4, 120, False),
    "resnet50": (0.0001, 0.7, 120, False),
    "mobilenetv2": (0.00002, 0.7, 120, False),
    "efficientnet_b0": (0.00002, 0.7, 350, True),
    "efficientnet_b1": (0.00002, 0.7, 350, True),
}
NAMES = {f"{n}{kind}" for n in TABLE_1 for kind in ("", "_rand", "_autobss")}
NAMES |= {"mobilenetv2_130m_uniform", "mobilenetv2_130m_autobss"}

CHOICES = {
    "data.crop_pct",
    "data.interpolation",
    "data.mean",
    "data.std",
    "augment.crop_mode",
    "augment.scale",
    "augment.ratio",
    "augment.hflip",
    "augment.color_jitter",
    "optim.momentum",
    "optim.nesterov",
    "optim.decay_norm_and_bias",
    "schedule.warmup_epochs",
    "schedule.warmup_from",
    "schedule.min_lr",
    "run.seed",
}
PAPER = {
    "optim.name",
    "optim.batch_size",
    "optim.lr",
    "optim.weight_decay",
    "schedule.name",
    "schedule.epochs",
    "loss.label_smoothing",
}
DEVICES = {"run.device_batch", "run.precision", "run.channels_last", "run.workers"}

each_file = pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)


def _row(file: Path) -> str:
    return next(n for n in TABLE_1 if file.stem == n or file.stem.startswith(f"{n}_"))


def _comments(file: Path) -> dict[str, str]:
    values, section = {}, ""
    for line in file.read_text(encoding="utf-8").splitlines():
        if top := re.fullmatch(r"(\w+):", line):
            section = top[1]
        elif key := re.fullmatch(r"  (\w+): [^#]+?(?:  # (.*))?", line):
            values[f"{section}.{key[1]}"] = key[2] or ""
    return values


def test_there_is_a_file_for_each_network() -> None:
    assert {f.stem for f in FILES} == NAMES


@each_file
def test_it_names_its_network(file: Path) -> None:
    recipe = read_recipe(file)
    assert recipe.model.name == file.stem
    assert file.stem in bsszoo.list_models()
    # The size is the one at which the network is counted.
    assert bsszoo.cost(file.stem, recipe.data.image_size).macs == bsszoo.cost(file.stem).macs


@each_file
def test_it_says_what_table_1_says(file: Path) -> None:
    recipe = read_recipe(file)
    optim, schedule = recipe.optim, recipe.schedule
    policy = recipe.augment.auto_augment
    assert (optim.weight_decay, optim.lr, schedule.epochs, policy is not None) == TABLE_1[_row(file)]
    assert (optim.name, optim.batch_size, schedule.name, recipe.loss.label_smoothing) == ("sgd", 1024, "cosine", 0.1)
    assert (optim.peak_lr, optim.scale_lr) == (optim.lr, False)


@each_file
def test_our_choices(file: Path) -> None:
    recipe = read_recipe(file)
    model, data, augment, optim = recipe.model, recipe.data, recipe.augment, recipe.optim
    efficient = file.stem.startswith("efficientnet")
    assert (optim.momentum, optim.nesterov, optim.decay_norm_and_bias, optim.clip_grad) == (0.9, True, False, None)
    assert (recipe.schedule.warmup_epochs, recipe.schedule.warmup_from, recipe.schedule.min_lr) == (5, 0.25, 0)
    assert (augment.crop_mode, augment.scale, augment.ratio) == ("rrc", (0.08, 1), (3 / 4, 4 / 3))
    assert (augment.hflip, augment.vflip, augment.color_jitter) == (0.5, 0, 0)
    assert (augment.erase, augment.mixup, augment.cutmix, recipe.ema.decay) == (0, 0, 0, None)
    assert augment.auto_augment == ("original" if efficient else None)
    sides = (240, 272) if file.stem.startswith("efficientnet_b1") else (224, 256)
    assert (data.image_size, math.floor(data.image_size / data.crop_pct)) == sides
    assert data.interpolation == ("bicubic" if efficient else "bilinear")
    assert (model.drop_rate, model.drop_path_rate) == ((0.2, 0.2) if efficient else (0, 0))
    assert (model.pretrained, recipe.loss.teacher, data.holdout, data.subset, data.test_split) == (
        None,
        None,
        0,
        1,
        None,
    )
    run = recipe.run
    assert (run.precision, run.channels_last, run.device_batch, run.workers) == ("bfloat16", True, 128, 8)
    training_transform(recipe)


@each_file
def test_the_recipe_that_comes_with_the_package_is_the_same(file: Path) -> None:
    assert recipe_of(f"paper:{file.stem}") == read_recipe(file)


@each_file
def test_every_key_stands_in_it(file: Path) -> None:
    written = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert [f"{section}.{key}" for section in written for key in written[section]] == list(_comments(file))
    # What inherits weights is written where it is set.
    assert set(_comments(file)) == set(paths(Recipe)) - {"model.inherit", "model.inherit_weights"}


@each_file
def test_it_marks_where_each_value_comes_from(file: Path) -> None:
    comments = _comments(file)
    efficient, rescaled = file.stem.startswith("efficientnet"), "_130m_" in file.stem
    stated = {"optim.lr", "optim.weight_decay", "schedule.epochs"}
    choices = CHOICES | ({"model.drop_rate", "model.drop_path_rate", "augment.auto_augment"} if efficient else set())
    choices |= stated | {"augment.auto_augment"} if rescaled else set()
    assert {k for k, c in comments.items() if re.search(r"\bchoice: \S", c)} == choices
    for key in PAPER - (stated if rescaled else set()):
        assert comments[key].startswith("paper: Table 1"), key
    for key in DEVICES:
        assert comments[key].startswith("devices"), key


def test_the_readme_has_a_row_for_each() -> None:
    text = (RECIPES / "README.md").read_text(encoding="utf-8")
    for name in NAMES:
        cost = bsszoo.cost(name)
        assert f"| [{name}](imagenet/{name}.yaml) | {cost.macs / 1e6:.1f}M | {cost.params / 1e6:.2f}M |" in text

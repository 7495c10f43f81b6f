"""A recipe is read strictly: what is wrong is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from train.small import TEXT, small_recipe
from typer.testing import CliRunner

from bsszoo.cli.main import app
from bsszoo.errors import RecipeError
from bsszoo.train.checkpoint import differences
from bsszoo.train.classification.outcome import start_network
from bsszoo.train.classification.paper import imagenet_recipe, paper_recipe
from bsszoo.train.classification.recipe import DataPart, OptimPart, Recipe, read_recipe, recipe_text, with_values
from bsszoo.train.strict import paths


def test_a_recipe_written_and_read_is_the_same(tmp_path: Path) -> None:
    inheriting = ("model.inherit=mobilenetv2", "model.inherit_weights=big.pth")
    recipe = small_recipe(tmp_path, "ema.decay=0.99", "data.mean=[0.5]", "data.std=[0.25]", *inheriting)
    (tmp_path / "again.yaml").write_text(recipe_text(recipe), encoding="utf-8")
    assert read_recipe(tmp_path / "again.yaml") == recipe
    # Every key stands in the file.
    written = yaml.safe_load(recipe_text(recipe))
    assert {f"{section}.{key}" for section, keys in written.items() for key in keys} == set(paths(Recipe))


def test_without_inherited_weights_a_recipe_s_text_is_that_of_version_0_1_0() -> None:
    old = Path(__file__).parents[1] / "golden" / "training_of_0.1.0" / "recipe.yaml"
    assert recipe_text(read_recipe(old)) == old.read_text()


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("optim.learning_rate=1", "no key 'optim.learning_rate' to set"),
        ("optim.lr", "takes KEY=VALUE"),
        ("optim.lr=fast", "optim.lr is the text 'fast'; it takes a number"),
        ("optim.lr=0", "optim.lr is 0; allowed is more than 0"),
        ("optim.batch_size=1.5", "optim.batch_size is 1.5; it takes a whole number"),
        ("optim.nesterov=1", "optim.nesterov is 1; it takes true or false"),
        ("optim.lr=true", "it takes a number"),
        ("schedule.name=cosin", "schedule.name is the text 'cosin'; allowed are 'cosine'"),
        ("schedule.epochs=null", "schedule.epochs is nothing"),
        ("schedule.warmup_epochs=2", "allowed is less than"),
        ("loss.label_smoothing=1", "allowed is at least 0 and less than 1"),
        ("augment.scale=[1.0, 0.5]", "the least comes first"),
        ("augment.scale=[1.0]", "it takes a list of 2 numbers"),
        ("loss.teacher=resnet50", "go together"),
        ("model.inherit=resnet50", "go together"),
        ("data.std=[0, 1, 1]", "above zero"),
        ("optim.lr=[", "is no YAML value"),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, assignment: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message.replace("[", r"\[")):
        small_recipe(tmp_path, assignment)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TEXT.replace("weight_decay", "wieght_decay"), "no key 'optim.wieght_decay'. Did you mean 'weight_decay'"),
        (TEXT.replace("lr: 0.05, ", ""), "the key 'optim.lr' is missing"),
        (TEXT.replace("lr: 0.05", "lr: 0.05, lr: 0.1"), "the key 'lr' occurs twice"),
        (TEXT + "\noptimizer: {}\n", "no key 'optimizer'"),
        ("- 1\n", "a recipe holds sections of keys"),
        ("model: [", "is no YAML file"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "wrong.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match=message) as error:
        read_recipe(tmp_path / "wrong.yaml")
    assert "wrong.yaml" in str(error.value)


def test_a_file_that_is_not_there_says_where_recipes_are(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read"):
        read_recipe(tmp_path / "none.yaml")


def test_a_power_of_ten_without_a_dot_is_a_number(tmp_path: Path) -> None:
    # YAML 1.1 has 4e-5 as text.
    assert small_recipe(tmp_path, "optim.weight_decay=4e-5").optim.weight_decay == 4e-5


@given(batch=st.integers(1, 4096), lr=st.floats(1e-4, 10))
def test_another_batch_changes_the_rate_only_when_asked(batch: int, lr: float) -> None:
    plain = OptimPart(lr=lr, batch_size=batch)
    assert plain.peak_lr == lr
    assert plain.replaced(scale_lr=True).peak_lr == pytest.approx(lr * batch / 1024)


def test_a_list_may_be_set_without_brackets(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, "data.mean=0.1, 0.2,0.3", "augment.scale=0.5,1", "schedule.name=poly")
    assert (recipe.data.mean, recipe.augment.scale, recipe.schedule.name) == ((0.1, 0.2, 0.3), (0.5, 1.0), "poly")


def test_other_epochs_keep_the_warm_ups_share(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, "schedule.epochs=8", "schedule.warmup_epochs=2")
    (tmp_path / "recipe.yaml").write_text(recipe_text(recipe))
    out = tmp_path / "run"
    words = ["train", str(tmp_path / "recipe.yaml"), "--out", str(out), "--epochs", "1", "--json"]
    done = CliRunner().invoke(app, words)
    assert json.loads(done.stdout)["epochs"] == 1
    assert read_recipe(out / "recipe.yaml").schedule.warmup_epochs == 0.25
    assert isinstance(CliRunner().invoke(app, [*words[:-2], "0"]).exception, RecipeError)


def test_values_set_in_python_are_checked_too(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path)
    longer = with_values(recipe, schedule={"epochs": 3})
    assert differences(recipe, longer) == ["schedule.epochs"]
    with pytest.raises(RecipeError, match=r"schedule\.epochs is 0; allowed is at least 1"):
        with_values(recipe, schedule={"epochs": 0, "warmup_epochs": 0.0})
    with pytest.raises(RecipeError, match=r"^epochs is 0; allowed is at least 1 and at most 1,000,000\.$"):
        recipe.schedule.replaced(epochs=0)
    with pytest.raises(RecipeError, match="the key 'lr' is missing"):
        OptimPart()  # type: ignore[call-arg]
    with pytest.raises(RecipeError, match=r"model\.in_chans is 5; allowed"):
        Recipe(model={"name": "resnet18", "in_chans": 5}, optim=recipe.optim, schedule=recipe.schedule)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match=r"there is no key 'optimizer'\. Did you mean 'optim'"):
        with_values(recipe, optimizer={"lr": 1.0})


def test_the_paper_s_recipe_begins_with_classifiers_as_large_as_imagenet_s_for_few_classes_too() -> None:
    def spread(family: str, classes: int) -> float:
        recipe = paper_recipe(family, num_classes=classes, data=DataPart(dataset="synthetic"))
        torch.manual_seed(0)
        return start_network(recipe, fresh=True).get_classifier().weight.std().item()

    for family in ("mobilenetv2", "efficientnet_b0", "resnet18"):
        assert spread(family, 10) == pytest.approx(spread(family, 1000), rel=0.1), family


def test_the_means_are_those_of_timm() -> None:
    assert (DataPart().mean, DataPart().std) == (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)


def test_published_networks_of_one_family_are_trained_as_each_of_them_is() -> None:
    rows = {name: imagenet_recipe(name) for name in ("efficientnet_b2", "efficientnet_b7", "tf_efficientnetv2_b3")}
    assert {name: (row.data.image_size, row.model.drop_rate) for name, row in rows.items()} == {
        "efficientnet_b2": (260, 0.3),
        "efficientnet_b7": (600, 0.5),
        "tf_efficientnetv2_b3": (300, 0.3),
    }
    assert rows["efficientnet_b7"].data.crop_pct == 0.949  # as timm evaluates it
    # Of other fixed parts: as the family's own, B4.
    narrower = "efficientnet_c16-28-56-80-136-224_l4-4-6-6-8-2_t6-6-6-6-6-6_stem24_stage2-12x2"
    assert imagenet_recipe(narrower).model.drop_rate == 0.4

"""The best code trained in full: by which recipe, from which weights, taught by whom. Real, short trainings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from train.small import small_recipe

import bsszoo
from bsszoo.compression.finish import Finish, read_finish, training_folder
from bsszoo.compression.folder import read_json
from bsszoo.errors import SettingsError, WeightsError
from bsszoo.models.inherit import inherit_weights
from bsszoo.models.names import resolve_code
from bsszoo.train.classification.recipe import Recipe, read_recipe
from bsszoo.train.classification.task import Classification
from bsszoo.train.classification.trained import START
from bsszoo.train.devices import Process

ORIGINAL = "mobilenetv2_c16-16-24-24-32-32_l2-1-1-1-1-1_t6-6-6-6-6-6_stem16_stage2-8x1"
SMALL = {"flops": "60%", "trials": 3, "batch": 3, "measure": False}


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return small_recipe(tmp_path, "data.dataset=synthetic/64", "schedule.epochs=1", "schedule.warmup_epochs=0")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(3)
    save_file(bsszoo.create(ORIGINAL, num_classes=4).state_dict(), tmp_path / "original.safetensors")
    return tmp_path / "original.safetensors"


def finished(folder: Path, how: Finish, **settings):
    return bsszoo.compress(ORIGINAL, finish=how, out=folder, **{**SMALL, **settings})


def test_the_best_code_is_trained_and_a_finished_training_is_not_repeated(tmp_path: Path, recipe: Recipe) -> None:
    result = finished(tmp_path / "run", Finish(recipe, None, device="cpu"))
    out = training_folder(tmp_path / "run", result.best.code)
    summary = json.loads((out / "summary.json").read_text())
    assert resolve_code(summary["model"]) == result.best.code
    assert (result.finished.top1, result.finished.epochs) == (summary["top1"], 1)
    assert result.finished.inherited is result.finished.teacher is None
    assert "Trained in full" in (tmp_path / "run" / "report.html").read_text()
    before = (out / "model.safetensors").stat().st_mtime_ns
    again = finished(tmp_path / "run", Finish(recipe, None, device="cpu"))
    assert again.finished == result.finished
    assert (out / "model.safetensors").stat().st_mtime_ns == before
    # Without asking for it again it is still shown.
    assert bsszoo.compress(ORIGINAL, out=tmp_path / "run", **SMALL).finished == result.finished


def test_it_starts_from_the_original_and_learns_from_it(tmp_path: Path, recipe: Recipe, weights: Path) -> None:
    how = Finish(recipe, None, teacher=str(weights), inherit=str(weights), device="cpu")
    result = finished(tmp_path / "run", how)
    best, original = result.best.code, resolve_code(ORIGINAL)
    out = training_folder(tmp_path / "run", best)
    written = read_recipe(out.with_suffix(".yaml"))
    assert (written.loss.teacher, written.loss.teacher_weights) == (ORIGINAL, str(weights))
    assert (written.model.inherit, written.model.inherit_weights) == (ORIGINAL, str(weights))
    source = bsszoo.create(original, num_classes=4, pretrained=weights)
    found = inherit_weights(bsszoo.create(best, num_classes=4), best, source, original)
    assert result.finished.inherited.startswith(str(found))
    assert 0 < found.inherited <= found.params
    # As the same recipe of `bsszoo train` begins.
    wanted = Classification(written, None, Process(torch.device("cpu"))).network(fresh=True)
    start = load_file(out / START)
    assert all(torch.equal(start[name], value) for name, value in wanted.state_dict().items())
    assert f"inherited {found}" in str(result.finished)
    other = tmp_path / "other.safetensors"
    save_file(source.state_dict(), other)
    how = Finish(recipe, None, teacher=str(weights), inherit=str(other), device="cpu")
    with pytest.raises(SettingsError, match=r"model\.inherit_weights is '.*original.* there and '.*other"):
        finished(tmp_path / "run", how)


def test_missing_weights_are_an_error_before_the_search(tmp_path: Path, recipe: Recipe) -> None:
    with pytest.raises(WeightsError, match="no weights file"):
        finished(tmp_path / "run", Finish(recipe, None, inherit=str(tmp_path / "none.safetensors")))
    assert read_json(tmp_path / "run" / "result.json") is None


def test_the_paper_s_recipe_takes_all_images_of_the_search(recipe: Recipe) -> None:
    made = read_finish("paper", "resnet18", lambda: recipe)
    assert (made.optim.lr, made.schedule.epochs, made.loss.label_smoothing) == (0.4, 120, 0.1)
    assert (made.data.dataset, made.data.image_size, made.model.num_classes) == ("synthetic/64", 32, 4)
    assert (made.data.holdout, made.data.subset, made.run.device_batch) == (0.0, 1.0, recipe.run.device_batch)
    with pytest.raises(SettingsError, match=r"--finish is 'none\.yaml'"):
        read_finish("none.yaml", "resnet18", lambda: recipe)

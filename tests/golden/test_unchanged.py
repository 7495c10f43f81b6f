"""What a user relies on is as it was recorded before the code moved: names, costs, tensors, suggestions, commands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import record
from safetensors.torch import load_file

import bsszoo
from bsszoo.train import loop
from bsszoo.train.classification.recipe import read_recipe

RECORDED: dict[str, Any] = json.loads(record.FILE.read_text(encoding="utf-8"))
OLD = Path(__file__).with_name("training_of_0.1.0")


@pytest.mark.parametrize("what", ["names", "costs", "tensors", "printed"])
def test_it_is_as_recorded(what: str) -> None:
    found = json.loads(json.dumps(getattr(record, what)()))
    recorded = RECORDED[what]
    if what == "names":
        assert [name for name in found if name in recorded] == recorded
    else:
        assert {key: found[key] for key in recorded} == recorded


@pytest.mark.usefixtures("no_plots")
def test_seeds_suggest_the_same_codes_and_results_hold_the_same_figures() -> None:
    found, recorded = json.loads(json.dumps(record.searches())), RECORDED["searches"]
    for name, search in recorded.items():
        if " paper " in name:
            # Its seventh code on is a matter of the last digits, which differ from processor to processor.
            for one in (found[name], search):
                del one["networks"], one["suggested"][6:]
    assert found == recorded


def test_a_training_of_0_1_0_goes_on_and_its_weights_load(tmp_path: Path) -> None:
    folder = tmp_path / "old"
    shutil.copytree(OLD, folder)
    before = torch.load(folder / "last.pt", weights_only=True)
    recipe = read_recipe(folder / "recipe.yaml")
    assert 16 < before["update"] < 32, "stopped in its second epoch"
    summary = loop.train(recipe, None, folder, device="cpu")
    assert (summary["epochs"], summary["train_pictures"]) == (2, 512)
    assert (folder / "metrics.csv").read_text().splitlines()[1] == (OLD / "metrics.csv").read_text().splitlines()[1]
    state = load_file(folder / "model.safetensors")
    network = bsszoo.create(f"local-dir:{folder}", pretrained=True)
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())

"""``--data digits``: a first run on real pictures, on which a network without weights is trained first."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import bsszoo
from bsszoo.digits import digits_folder
from bsszoo.errors import BudgetError
from bsszoo.evaluators.inherited import InheritedEvaluator
from bsszoo.files import cache_folder


def test_the_pictures_are_those_of_scikit_learn_once_each() -> None:
    found, folder = load_digits(), digits_folder()
    files = sorted(folder.glob("t*/*/*.png"), key=lambda file: file.stem)
    assert [int(file.stem) for file in files] == list(range(len(found.target)))
    assert [int(file.parent.name) for file in files] == found.target.tolist()
    assert sum(file.parts[-3] == "test" for file in files) == 500
    pixels = np.stack([np.asarray(Image.open(file)) for file in files[:50]])
    assert (np.round(pixels / 255 * 16) == found.images[:50]).all()


@pytest.mark.extended
def test_a_network_without_weights_is_trained_on_them_and_compressed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(InheritedEvaluator, "leaders", 1)
    code = "resnet18_c8-16-16-24_l1-1-1-1_px32"
    settings = {"flops": "60%", "data": "digits", "trials": 2, "batch": 2, "confirm": 1, "epochs": 4, "measure": False}
    result = bsszoo.compress(code, out=tmp_path / "run", **settings)
    written = json.loads((tmp_path / "run" / "result.json").read_text())
    assert written["original"]["code"] == code
    assert written["original"]["test_accuracy"] > 85
    assert written["recommended"]["test_accuracy"] > 60
    assert (tmp_path / "run" / written["recommended"]["weights"]).is_file()
    # No digit is mirrored: the network's own training had none.
    assert "hflip: 0.0" in (tmp_path / "run" / "training_recipe.yaml").read_text()
    # The network's training is kept, and a run goes on with it.
    weights = next((cache_folder() / "digits" / "trainings").rglob("model.safetensors"))
    before = weights.stat().st_mtime_ns
    assert bsszoo.compress(code, out=tmp_path / "run", **settings).trials == result.trials
    assert weights.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"flops": "0.1%"}, r"The limit of at most \S+ MACs binds"),
        ({"flops": "60%", "params": "100"}, "parameters binds"),
        ({"flops": "200%"}, "would make it larger"),
    ],
)
def test_a_budget_that_nothing_keeps_is_said_before_anything_is_trained(
    tmp_path: Path, limits: dict[str, str], said: str
) -> None:
    code = "resnet18_c8-16-16-32_l1-1-1-1_px32"
    with pytest.raises(BudgetError, match=said):
        bsszoo.compress(code, data="digits", out=tmp_path / "run", **limits)
    assert not (cache_folder() / "digits" / "trainings" / code).exists()
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        "convnext_atto_c16-24-32-48_l1-1-2-1_t4-4-4-4_px32",
        "convnextv2_tiny_c16-24-32-48_l1-1-2-1_t4-4-4-4_px32",
        "vit_patch8_c96-96-96-96_l1-1-1-1_b32-32-32-32_g16-16-16-16_stem48_px32",
        "ghostnet_c16-24-32-40-48_l1-1-2-1-2_t3-3-3-3-3_stem8_stage2-8x1_head128_px32",
    ],
)
def test_a_network_of_another_family_is_trained_on_them_and_compressed(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(InheritedEvaluator, "leaders", 1)
    settings = {"flops": "60%", "data": "digits", "trials": 4, "batch": 4, "confirm": 1, "measure": False}
    bsszoo.compress(code, out=tmp_path / "run", **settings)
    written = json.loads((tmp_path / "run" / "result.json").read_text())
    assert written["original"]["test_accuracy"] > 90
    assert written["recommended"]["test_accuracy"] > written["original"]["test_accuracy"] - 3
    recommended = bsszoo.create(f"local-dir:{tmp_path / 'run' / 'recommended'}", pretrained=True)
    macs = bsszoo.cost(recommended, num_classes=10).macs
    assert macs <= 0.6 * bsszoo.cost(code, num_classes=10).macs

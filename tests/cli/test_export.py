"""``bsszoo export`` as a person runs it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import bsszoo
from bsszoo.cli.main import app
from bsszoo.errors import BssZooError
from bsszoo.models.build import build

CODE = "resnet18_c64-8-16-24_l1-1-1-1_px64"


def run(*words: str) -> str:
    done = CliRunner().invoke(app, ["export", *words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_file(build(bsszoo.Code.parse(CODE), num_classes=5).state_dict(), tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


def test_a_weights_file(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    output = run(str(weights), "--code", CODE, "--format", "torch")
    assert "File: net.safetensors.pt2 (torch.export program" in output
    assert "images [batch, 3, 64, 64] float32" in output
    assert "logits [batch, 5]" in output
    assert "real ones (grace_hopper.jpg" in output
    net = bsszoo.create(CODE, pretrained=weights).eval()
    images = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(torch.export.load("net.safetensors.pt2").module()(images), net(images))


def test_random_weights_are_asked_for_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    output = run(CODE, "--random", "--format", "torch", "--out", str(tmp_path / "net.pt2"))
    assert "Its weights are random" in output
    with pytest.raises(BssZooError, match=r"No weights are published .* --weights SOURCE, or --random"):
        run(CODE, "--format", "torch", "--out", str(tmp_path / "other.pt2"))
    with pytest.raises(BssZooError, match="exclude each other"):
        run(CODE, "--random", "--weights", "x", "--format", "torch", "--out", str(tmp_path / "other.pt2"))
    (tmp_path / "net.safetensors").write_bytes(b"")
    with pytest.raises(BssZooError, match=r"Cannot read .* as weights"):
        run(str(tmp_path / "net.safetensors"))
    with pytest.raises(BssZooError, match="There is no model 'resnet19'"):
        run("resnet19")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.pt2", "net.safetensors"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet50", 'timm.create_model("resnet50"'),
        ("resnet18_c64-8-16-24_l1-1-1-1", "channels=[64, 8, 16, 24]"),
        ("efficientnet_b1_autobss", "ir_r3_k3_s2_e6_c24_se0.25"),
    ],
)
def test_timms_words_build_the_network(name: str, words: str) -> None:
    script = run(name, "--timm")
    assert words in script
    names: dict[str, torch.nn.Module] = {}
    exec(script, names)
    assert sum(p.numel() for p in names["model"].parameters()) == bsszoo.cost(name).params
    with pytest.raises(BssZooError, match="timm has no arguments that build exactly"):
        run("resnet18_autobss", "--timm")

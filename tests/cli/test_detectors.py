"""``bsszoo cost`` and ``bsszoo show`` of detectors."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

import bsszoo
from bsszoo.cli.main import app
from bsszoo.errors import SettingsError


def run(*words: str) -> str:
    done = CliRunner().invoke(app, words)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_cost_of_a_detector_and_of_its_backbone_are_two_things() -> None:
    detector, backbone = json.loads(run("cost", "maskrcnn_resnet50_autobss", "resnet50_maskrcnn_autobss", "--json"))
    assert detector["macs"] == bsszoo.cost("maskrcnn_resnet50_autobss").macs == 116_868_809_216
    assert backbone["macs"] == bsszoo.cost("resnet50_maskrcnn_autobss").macs == 50_128_384_000
    assert (
        json.loads(run("cost", "resnet18", "--num-classes", "10", "--json"))[0]["params"]
        == bsszoo.cost("resnet18", num_classes=10).params
    )
    with pytest.raises(SettingsError, match="does not support detectors"):
        run("cost", "maskrcnn_resnet50", "--check")


def test_the_layers_of_a_detector() -> None:
    output = run("show", "retinanet_resnet50_autobss")
    assert "RetinaNet on ResNet-50" in output
    assert "146.1B" in output
    assert "head.classification_head.cls_logits" in output
    assert "each proposal" in run("show", "maskrcnn_resnet50", "--image-size", "400")
    assert "maskrcnn_resnet50_autobss" in run("list")

"""Weights are taken only as what they are: finite floating-point numbers, of a network as large as its code's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import bsszoo
from bsszoo.errors import WeightsError
from bsszoo.hub.push import push
from bsszoo.models.create import create
from bsszoo.models.resolve import resolve

CODE = "resnet18_c8-8-8-8_l1-1-1-1"
HUGE = "resnet18_c65536-65536-65536-65536_l1000-1000-1000-1000"

Change = Callable[[torch.Tensor], torch.Tensor]


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {k: v.contiguous() for k, v in create(CODE, num_classes=3).state_dict().items()}


def with_one(value: float, dtype: torch.dtype = torch.float32) -> Change:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        changed = tensor.to(dtype).clone()
        changed.view(-1)[1] = value
        return changed

    return change


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (
            "layer1.0.conv1.weight",
            with_one(float("nan")),
            "1 values of 576 in layer1.0.conv1.weight that are no finite",
        ),
        ("fc.bias", with_one(float("inf")), "in fc.bias that are no finite"),
        ("bn1.running_var", with_one(float("-inf")), "in bn1.running_var that are no finite"),
        ("fc.weight", with_one(1e300, torch.float64), "in fc.weight that are no finite"),
        ("fc.weight", with_one(float("nan"), torch.bfloat16), "in fc.weight that are no finite"),
        ("fc.weight", lambda t: t > 0, "holds fc.weight as bool, where floating-point"),
        ("fc.weight", lambda t: t.to(torch.int32), "holds fc.weight as int32, where floating-point"),
        ("fc.weight", lambda t: t.to(torch.uint8), "holds fc.weight as uint8, where floating-point"),
        ("fc.weight", lambda t: t.to(torch.complex64), "holds fc.weight as complex64, where floating-point"),
        ("bn1.num_batches_tracked", lambda t: t.to(torch.float32), "bn1.num_batches_tracked as float32, where whole"),
        ("bn1.num_batches_tracked", lambda t: t > 0, "bn1.num_batches_tracked as bool, where whole"),
    ],
)
@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_numbers_that_no_training_writes_are_refused_by_name(
    name: str, change: Change, words: str, ending: str, tmp_path: Path
) -> None:
    changed = state()
    changed[name] = change(changed[name])
    path = tmp_path / f"net.{ending}"
    if ending == "pth":
        torch.save(changed, path)
    else:
        save_file(changed, path)
    with pytest.raises(WeightsError, match=words):
        create(CODE, pretrained=path)
    with pytest.raises(WeightsError, match=words):
        push(path, "me/net", code=CODE, dry_run=tmp_path / "card")
    assert not (tmp_path / "card" / "model.safetensors").exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_widths_of_floating_point_are_taken(dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state().items()}
    save_file(tensors, tmp_path / "net.safetensors")
    read = create(CODE, pretrained=tmp_path / "net.safetensors").state_dict()
    assert all(torch.equal(read[name], tensor.to(read[name].dtype)) for name, tensor in tensors.items())


def test_a_detectors_weights_are_as_strict(tmp_path: Path) -> None:
    name = "retinanet_fpn8_resnet18_c8-8-8-8_l1-1-1-1"
    tensors: dict[str, torch.Tensor] = {k: v.contiguous() for k, v in create(name, num_classes=2).state_dict().items()}
    key = next(k for k, v in tensors.items() if k.startswith("head") and v.numel() > 1)
    for changed, words in ((with_one(float("nan"))(tensors[key]), "no finite"), (tensors[key] > 0, "as bool")):
        save_file({**tensors, key: changed}, tmp_path / "net.safetensors")
        with pytest.raises(WeightsError, match=words):
            create(name, num_classes=2, pretrained=tmp_path / "net.safetensors")


def folder(path: Path, code: str, **config: Any) -> str:
    path.mkdir()
    save_file(state(), path / "model.safetensors")
    data = {
        "architecture": "bsszoo_code",
        "num_classes": 3,
        "model_args": {"code": bsszoo.Code.parse(code).to_dict()},
        **config,
    }
    (path / "config.json").write_text(json.dumps(data))
    return f"local-dir:{path}"


def test_a_code_far_larger_than_its_weights_is_never_built(tmp_path: Path) -> None:
    source = folder(tmp_path / "net", HUGE)
    for attempt in (
        lambda: create(source, pretrained=True),
        lambda: create(HUGE, pretrained=tmp_path / "net"),
        lambda: push(tmp_path / "net", "me/net", dry_run=tmp_path / "card"),
    ):
        with pytest.raises(WeightsError, match="holds the weights of another network: 6,195 parameters"):
            attempt()
    # Without its weights, or to be measured.
    for attempt in (lambda: create(source), lambda: resolve(source).check_size()):
        with pytest.raises(WeightsError, match="at most 500,000,000 are built"):
            attempt()
    large = tmp_path / "detector"
    large.mkdir()
    section = {
        "detector": f"retinanet_{HUGE}",
        "p6_from": "c5",
        "norm": "batch",
        "settings": {},
        "labels": {"ids": [1], "names": ["a"]},
    }
    (large / "config.json").write_text(json.dumps({"num_classes": 1, "bsszoo": section}))
    save_file(state(), large / "model.safetensors")
    for pretrained, words in ((False, "at most 500,000,000 are built"), (True, "holds the weights of another network")):
        with pytest.raises(WeightsError, match=words):
            create(f"local-dir:{large}", pretrained=pretrained)
    with pytest.raises(WeightsError, match="holds the weights of another network"):
        create(CODE.replace("l1-", "l1000-"), pretrained=tmp_path / "net" / "model.safetensors")

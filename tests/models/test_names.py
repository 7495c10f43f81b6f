"""What is said of names that only timm knows, and of objects that are no names."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import nn

import bsszoo
from bsszoo.codes.code import Code
from bsszoo.codes.named import named_entries
from bsszoo.errors import BssZooError, CodeError, UnknownNameError, WeightsError, formatted
from bsszoo.models.create import create
from bsszoo.models.names import resolve_code


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("nf_regnet_b0", "regnety_008"),
        ("convnext_tiny_hnf", "convnext_tiny"),
        ("tf_efficientnet_b3", "efficientnet_b0"),
        ("tf_efficientnetv2_m", "efficientnetv2_s"),
        ("ghostnetv2_100", "ghostnet_100"),
        ("mobilenetv3_rw", "mobilenetv3_large_100"),
        ("mobilenetv4_hybrid_medium", "mobilenetv4_conv_medium"),
        ("mobilenetv4_conv_aa_medium", "mobilenetv4_conv_medium"),
        ("mobilenet_edgetpu_v2_xs", "mobilenetv2"),
        ("swin_tiny_patch4_window7_224", "resnet50"),
        ("deit3_small_patch16_224", "deit_tiny_patch16_224"),
        ("vit_small_patch14_dinov2", "vit_tiny_patch16_224"),
        ("resnet18d", "resnet18"),
        ("resnet101d", "resnet101"),
        ("seresnext26d_32x4d", "seresnext50_32x4d"),
        ("ecaresnext26t_32x4d", "resnext50_32x4d"),
        ("seresnet152d", "seresnet50"),
    ],
)
def test_a_network_of_timms_alone_is_said_to_be_one(name: str, near: str) -> None:
    assert timm.is_model(name)
    for act in (bsszoo.cost, create, lambda value: bsszoo.compress(value, flops="60%")):
        with pytest.raises(UnknownNameError) as refused:
            act(name)
        message = str(refused.value)
        assert f"timm has {name!r}, and bsszoo has not" in message
        assert f"The nearest of them is {near!r}" in message
        assert f"timm.create_model({name!r})" in message
        assert "docs/own-family.md" in message


def test_a_network_that_timm_names_otherwise_is_the_same_one() -> None:
    for entry in named_entries().values():
        if entry.timm is not None and entry.timm not in named_entries():
            with pytest.raises(UnknownNameError, match=f"bsszoo calls {entry.name!r}"):
                resolve_code(entry.timm)
            assert bsszoo.cost(entry.timm) == entry.cost
    theirs = timm.create_model("mobilenetv2_100", device=torch.device("meta"))
    assert sum(p.numel() for p in theirs.parameters()) == bsszoo.cost("mobilenetv2_100").params


def test_a_typo_is_answered_as_one() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'mobilenetv2'"):
        bsszoo.cost("mobilnetv2")


def test_names_that_are_known_ask_timm_nothing() -> None:
    program = "import sys, bsszoo; bsszoo.cost('mobilenetv2'); bsszoo.list_models(); assert 'timm' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


class Wordy:
    def __repr__(self) -> str:
        return "word " * 10_000


CODE = Code.parse("resnet18_c8-8-8-8_l1-1-1-1")
NETWORK = timm.create_model("resnet18", device=torch.device("meta"))
#: What takes a built network.
TAKE_NETWORKS = (bsszoo.cost, lambda v: bsszoo.compress(v, flops="60%"))


@pytest.mark.parametrize(
    "value",
    [
        NETWORK,
        nn.Linear(2, 2),
        Wordy(),
        torch.zeros(1000),
        [NETWORK],
        list(range(10_000)),
        {"a": "b" * 10_000},
        b"x" * 10_000,
        10**5000,
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize(
    "act",
    [
        *TAKE_NETWORKS,
        create,
        lambda v: create(CODE, pretrained=v),
        lambda v: create(CODE, num_classes=v),
        lambda v: create(CODE, in_chans=v),
        lambda v: bsszoo.cost(CODE, v),
        lambda v: create(CODE, output_stride=v),
        lambda v: Code("resnet18", v, (1,) * 4),
        Code.parse,
        Code.from_dict,
        lambda v: Code(v, (8,) * 4, (1,) * 4),
        lambda v: Code("resnet18", (8,) * 4, (1,) * 4, image_size=v),
        lambda v: Code.from_entries("resnet18", v),
        lambda v: Code("resnet18", (8, 8, 8, v), (1,) * 4),
        lambda v: bsszoo.compress("resnet18", flops=v),
        lambda v: bsszoo.Space.of(v),
    ],
)
def test_an_object_that_is_no_name_is_not_printed_whole(act: Callable[[Any], object], value: object) -> None:
    if value is NETWORK and act in TAKE_NETWORKS:
        return
    with pytest.raises(BssZooError) as refused:
        act(value)
    message = str(refused.value)
    assert len(message) < 700, message[:300]
    assert "\n" not in message


def test_a_built_network_is_counted_by_its_tensors_and_not_made_again() -> None:
    assert bsszoo.cost(NETWORK) == bsszoo.cost("resnet18")
    with pytest.raises(CodeError, match="create makes a network, and got a built one: resnet18_c64-128-256-512"):
        create(NETWORK)
    with pytest.raises(WeightsError, match="this Linear holds no network that bsszoo recognises"):
        bsszoo.cost(nn.Linear(2, 2))


def test_short_values_are_shown_as_they_are() -> None:
    assert [formatted(v) for v in (None, 3, "x", (1, 2), 0.5)] == ["None", "3", "'x'", "(1, 2)", "0.5"]
    assert formatted("x" * 500).endswith("(500 characters)")
    assert formatted(Wordy()) == f"an object ({__name__}.Wordy)"

"""A code in timm's own words gives the same network: the same tensors, and the same numbers from the same weights."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import timm
import torch
from strategies import VITS
from torch import nn

from bsszoo.codes.code import Code
from bsszoo.codes.named import named_entries
from bsszoo.models.build import build
from bsszoo.models.timm_arguments import timm_arch_def, timm_arguments


@torch.no_grad()
def same(ours: nn.Module, theirs: nn.Module) -> bool:
    for tensor in ours.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.02, 0.2)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    size = getattr(getattr(theirs, "patch_embed", None), "img_size", (64, 64))  # the only one that timm's ViTs take
    x = torch.randn(2, 3, *size)
    return torch.equal(ours.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize(
    "text",
    [
        "resnet18_c64-96-160-256_l2-3-2-1",
        "resnet18_c64-64-64-64_l1-1-1-1",
        "resnet18_c64-8-512-24_l3-1-1-2",
        "resnet50_c64-128-256-512_l1-2-3-1_b16-32-64-128",
        "resnet50_c32-32-32-96_l1-1-1-1_b8-8-8-24",
        "resnet50_c32-64-128-256_l1-1-1-1_b16-32-64-128",  # a Wide ResNet
        "resnet50_c32-64-128-256_l1-1-1-1_b6-12-24-48",
        "seresnet18_c64-96-160-256_l2-3-2-1",
        "seresnet50_c64-128-256-512_l1-2-3-1_b16-32-64-128",
        "seresnext_c64-128-256-512_l1-2-1-1_b32-64-128-256_g4-8-16-32",
        "resnext_c64-128-256-512_l1-2-1-1_b32-64-128-256_g4-8-16-32",
        "convnext_atto_c16-24-24-40_l1-2-1-1_t4-4-4-4",
        "convnextv2_tiny_c16-24-24-40_l1-2-1-1_b64-96-96-160",
        "deit_c48-48-48-48_l1-2-1-1_b32-32-32-32_g16-16-16-16_stem32_px64",
        "vit_patch32_c64-64-64-64_l1-1-1-1_b32-32-32-32_g32-32-32-32_stem32",
    ],
)
def test_a_code_in_timms_words(text: str) -> None:
    torch.manual_seed(0)
    code = Code.parse(text)
    form = timm_arguments(code)
    assert form is not None
    assert same(build(code, num_classes=7), timm.create_model(form.architecture, **form.arguments, num_classes=7))


@pytest.mark.parametrize(
    "text",
    [
        "resnet18_c48-96-160-256_l2-3-2-1",  # a stem that is not timm's
        "resnet50_c64-128-256-512_l1-2-3-1_b16-32-64-100",  # bottlenecks that are different shares
        "resnet50_c64-128-256-512_l1-2-3-1_b16-32-64-128_stride1x1",  # another place of the stride, same tensors
        "mobilenetv2_c16-20-40-56-96-192_l2-3-4-3-3-1_t6-6-6-6-6-6",
        "resnext_c64-128-256-512_l1-2-1-1_b32-64-128-256_g4-4-4-4",  # the same group width in each stage
        "convnext_atto_c16-24-24-40_l1-2-1-1_t4-4-3-4",
        "convnext_tiny_c16-24-24-40_l1-2-1-1_t4-4-4-4_stem8",
        "deit_c48-48-64-48_l1-2-1-1_b32-32-32-32_g16-16-16-16_stem32",  # MLPs that differ
        "deit_c48-48-48-48_l1-2-1-1_b16-16-16-16_g16-16-16-16_stem32",  # fewer heads than the stream has room for
        "deit_c48-48-48-48_l1-2-1-1_b32-32-32-32_g8-16-16-16_stem32",
    ],
)
def test_what_timm_has_no_arguments_for(text: str) -> None:
    assert timm_arguments(Code.parse(text)) is None


@pytest.mark.parametrize("name", [e.name for e in named_entries().values() if e.timm])
def test_an_original_is_timms_own(name: str) -> None:
    form = timm_arguments(named_entries()[name].code)
    assert form is not None
    assert (form.architecture, form.arguments) == (named_entries()[name].timm, {})
    other = timm_arguments(replace(named_entries()[name].code, image_size=64))
    assert other is not None
    if named_entries()[name].code.family in VITS:
        assert other.arguments["img_size"] == 64
    else:
        assert other == form


@pytest.mark.parametrize(
    "text",
    [
        "mobilenetv2_c24-40-64-96-120-240_l1-2-1-1-2-1_t3-6-6-3-6-6",
        "efficientnet_b0_c24-40-80-112-192-320_l1-1-1-2-1-1_t6-6-6-6-6-6",
        "efficientnet_b1_c16-24-40-48-64-80_l1-2-1-1-1-1_t1-2-3-4-5-6",
        "efficientnet_lite_c16-24-40-48-64-80_l1-2-1-1-1-1_t1-2-3-4-5-6",
        "tf_efficientnet_lite_c16-24-40-48-64-80_l1-2-1-1-1-1_t1-2-3-4-5-6",
        "semnasnet_c16-24-40-48-64-80_l1-2-1-1-1-1_t1-2-3-4-5-6",
        "mnasnet_c16-24-40-48-64-80_l1-2-1-1-1-1_t1-2-3-4-5-6_head64",
        "efficientnetv2_c16-24-40-48-64_l1-2-1-1-1_t1-2-3-4-5",
        "tf_efficientnetv2_c16-24-40-48-64_l1-2-1-1-1_t1-2-3-4-5_stage2-24x3",
    ],
)
def test_an_arch_def_as_timm_reads_it(text: str) -> None:
    torch.manual_seed(0)
    code = Code.parse(text)
    form = timm_arch_def(code)
    assert form is not None
    assert same(build(code, num_classes=7), form.build(7))
    names: dict[str, nn.Module] = {}
    exec(form.script(7), names)
    assert same(build(code, num_classes=7), names["model"])


def test_a_width_that_timm_rounds_has_no_arch_def() -> None:
    # 28 x 3 = 84 expanded channels, of which timm makes 88.
    assert timm_arch_def(Code.parse("mobilenetv2_c24-28-64-96-120-240_l1-2-2-1-1-1_t3-3-3-3-6-6")) is None
    assert timm_arch_def(Code.parse("resnet18_c64-96-160-256_l2-3-2-1")) is None
    # Not timm's EfficientNet but its MobileNetV3.
    assert timm_arch_def(Code.parse("mobilenetv3_small_c16-24-40-48_l1-2-1-1_t1-2-3-4")) is None
    assert timm_arch_def(Code.parse("mobilenetv4_conv_medium_c48-80-160-256_l1-2-3-4_t4-2-4-4")) is None


def test_the_script_needs_timm_only() -> None:
    form = timm_arguments(Code.parse("resnet18_c64-96-160-256_l2-3-2-1"))
    assert form is not None
    checks = "assert sum(p.numel() for p in model.parameters()) > 0\nimport sys\nassert 'bsszoo' not in sys.modules"
    subprocess.run([sys.executable, "-c", form.script(3) + checks], check=True)

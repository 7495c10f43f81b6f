"""Counts of a built network that know nothing of ``bsszoo.codes``: hooks on its layers, and thop."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import thop
import torch
from strategies import VITS
from thop.vision.basic_hooks import count_convNd, count_linear, zero_ops
from timm.layers import Conv2dSame
from timm.layers.attention import Attention
from timm.layers.linear import Linear
from torch import nn

from bsszoo.codes import Code
from bsszoo.models.build import build

SMALL = {
    "resnet18": "resnet18_c20-24-24-40_l1-2-1-1",
    "resnet50": "resnet50_c32-32-64-72_l1-2-1-1_b12-8-20-24",
    "caffe": "resnet50_c32-32-64-72_l1-2-1-1_b12-8-20-24_stride1x1",
    "resnext": "resnext_c32-32-64-72_l1-2-1-1_b12-8-20-24_g3-4-1-24",
    "seresnet18": "seresnet18_c20-24-200-40_l1-2-1-1",
    "seresnet18 subnetwork": "seresnet18_c20-24-24-40_l1-2-1-2_b12-20-24-8",
    "seresnext": "seresnext_c32-32-64-72_l1-2-1-1_b12-8-20-24_g3-4-1-24",
    "mobilenetv2": "mobilenetv2_c12-20-28-28-40-84_l1-2-1-1-1-1_t3-1-3-6-2-3_stem10_stage2-6x2",
    "resnet18 subnetwork": "resnet18_c20-24-24-40_l1-2-1-2_b12-20-24-8",
    "mobilenetv2 subnetwork": "mobilenetv2_c12-20-28-28-40-84_l1-2-1-2-1-1_b12-30-28-50-40-12_e12-8-20-24-40-12_stem10",
    "gates in some stages": "semnasnet_c12-20-28-28-40-84_l1-2-1-1-1-1_t3-1-3-6-2-3_stem10_stage2-6x2_head40",
    "mobilenetv3_large": "mobilenetv3_large_c12-20-28-28-40-84_l1-2-1-2-1-1_t3-1-3-6-2-3_stem10_stage2-6x2_head40",
    "mobilenetv3_small": "mobilenetv3_small_c12-20-28-84_l1-2-1-1_b12-30-60-90_stem10_stage2-6x2_head40",
    "mobilenetv4_conv_small": "mobilenetv4_conv_small_c12-20-28-28_l2-1-6-3_t1-3-3-2_stem10_head40",
    "mobilenetv4 subnetwork": "mobilenetv4_conv_medium_c12-20-28-36_l2-1-7-6_b24-30-50-41_e20-24-60-72_stem10_head40",
    "ghostnet": "ghostnet_c12-20-28-28-40_l1-2-3-2-4_t3-1-3-6-2_stem10_stage2-6x2_head40",
    "ghostnet subnetwork": "ghostnet_c12-21-27-30-41_l2-1-4-1-3_b30-17-60-50-33_e12-30-28-50-40_stem12_stage2-12x1",
    "fused": "tf_efficientnetv2_c12-20-28-28-40_l1-2-1-2-1_t1-3-3-1-2_stem10_stage2-10x2_head40",
    "fused subnetwork": "efficientnetv2_c12-20-28-28-40_l1-2-1-2-1_b12-30-28-50-40_e20-30-28-40-40_stem10_stage2-6x2",
    "same padding": "tf_efficientnet_lite_c12-20-28-28-40-84_l1-2-1-1-1-1_t3-1-3-6-2-3_stem10_stage2-6x2_head40",
    "efficientnet": "efficientnet_b0_c28-28-20-140-12-16_l2-1-1-1-1-1_t3-1-6-3-3-3",
    "convnext": "convnext_atto_c20-24-24-40_l1-2-1-1_t4-2-3-4_stem12",
    "convnext subnetwork": "convnext_tiny_c20-24-24-40_l2-1-1-2_b30-8-24-100",
    "convnextv2": "convnextv2_tiny_c20-24-24-40_l1-2-1-1_t4-2-3-4",
    "vit": "vit_patch8_c40-56-80-40_l1-2-1-1_b32-48-32-8_g16-16-8-8_stem24_px64",
}


def small(kind: str) -> Code:
    """A small code with odd widths, equal neighbours and blocks without expansion."""
    return Code.parse(SMALL[kind])


def attention_products(code: Code, size: int) -> int:
    """MACs of a ViT's products of queries with keys, and of their weights with values; 0 of other networks."""
    if code.family not in VITS:
        return 0
    tokens = (size // VITS[code.family]) ** 2 + 1
    return sum(2 * tokens**2 * b * depth for b, depth in zip(code.bottlenecks, code.depths, strict=True))


@dataclass(frozen=True)
class Counted:
    macs: int
    activations: int


def on_meta(code: Code, **arguments: Any) -> nn.Module:
    """The network without memory: shapes are exact, arithmetic is not done."""
    return build(code, device="meta", **arguments).eval()


def count_by_hooks(net: nn.Module, size: int, in_chans: int = 3) -> Counted:
    """MACs of all convolution and linear layers and elements of all convolution outputs, for one image.

    A linear layer on each pixel [1, h, w, c], or token [1, n, c], is a 1x1 convolution. Attention multiplies queries by
    keys and their weights by values.
    """
    macs = activations = 0

    def conv(module: nn.Module, _: Any, out: torch.Tensor) -> None:
        nonlocal macs, activations
        assert isinstance(module, nn.Conv2d)
        kernel = module.kernel_size[0] * module.kernel_size[1]
        macs += out.numel() * kernel * module.in_channels // module.groups
        activations += out.numel()

    def linear(module: nn.Module, _: Any, out: torch.Tensor) -> None:
        nonlocal macs, activations
        assert isinstance(module, nn.Linear)
        macs += out.numel() * module.in_features
        activations += out.numel() if out.ndim > 2 else 0

    def attention(module: nn.Module, inputs: Any, _: Any) -> None:
        nonlocal macs
        assert isinstance(module, Attention)
        tokens = inputs[0].shape[1]
        for _head in range(module.num_heads):
            macs += tokens * tokens * module.head_dim + tokens * tokens * module.head_dim

    hooks = []
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(conv))
        elif isinstance(module, nn.Linear):
            hooks.append(module.register_forward_hook(linear))
        elif isinstance(module, Attention):
            hooks.append(module.register_forward_hook(attention))
    with torch.no_grad():
        net(torch.empty(1, in_chans, size, size, device="meta"))
    for hook in hooks:
        hook.remove()
    return Counted(macs, activations)


def count_by_thop(net: nn.Module, size: int, in_chans: int = 3) -> int:
    """MACs as thop counts them, with normalisation and pooling zeroed; attention's products are not among them.

    Not its parameters: it counts those of modules without children only, and timm's BatchNormAct2d has some.
    """
    # A copy: thop leaves buffers behind that break strict loading.
    macs, _ = thop.profile(
        copy.deepcopy(net),
        inputs=(torch.empty(1, in_chans, size, size, device="meta"),),
        custom_ops={
            nn.BatchNorm2d: zero_ops,
            nn.AdaptiveAvgPool2d: zero_ops,
            Conv2dSame: count_convNd,
            Linear: count_linear,
        },
        verbose=False,
    )
    return round(macs)

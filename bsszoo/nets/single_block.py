"""One block of a network on its own, as the networks have it: what a latency table times."""

from __future__ import annotations

from typing import Any

from timm.layers.create_act import get_act_layer
from torch import nn

from bsszoo.codes.chain import BlockShape
from bsszoo.codes.families import family_of
from bsszoo.codes.layers import Block
from bsszoo.nets import mbconv, resnet
from bsszoo.nets.placement import Placement


def build_block(shape: BlockShape, family: str) -> nn.Module:
    """The module of one block of a family's networks, freshly initialised; its input is ``block_input(shape)``.

    A ResNet's stem has its max pooling behind it.

    Example:
        >>> import torch
        >>> shape = BlockShape("mbconv", 16, 24, 96, 3, 2, 0, 32)
        >>> build_block(shape, "mobilenetv2").eval()(torch.zeros(1, *block_input(shape))).shape
        torch.Size([1, 24, 16, 16])
    """
    block: Block[int] = Block(
        shape.kind, shape.kind, shape.in_width, shape.out_width, shape.mid_width,  # type: ignore[arg-type]
        shape.kernel, shape.stride, shape.squeeze_width or None, "1x1" if shape.stride1x1 else "3x3",
    )
    place = Placement(block.stride, 1, 1, 0.0)
    act: Any = get_act_layer(family_of(family).activation)
    if block.kind == "classifier":
        return nn.Sequential(nn.Flatten(), nn.Linear(block.in_width, block.out_width))
    if block.kind in ("stem", "head_conv"):
        layers: list[nn.Module] = [
            nn.Conv2d(block.in_width, block.out_width, block.kernel, block.stride, block.kernel // 2, bias=False),
            nn.BatchNorm2d(block.out_width), act(inplace=True),
        ]
        if block.kind == "stem" and family_of(family).block != "mbconv":
            layers.append(nn.MaxPool2d(3, 2, 1))
        return nn.Sequential(*layers)
    if block.kind == "mbconv":
        return mbconv.build_mbconv(block, place, act, {})
    return resnet.build_residual(block, place, {})


def block_input(shape: BlockShape) -> tuple[int, int, int]:
    """Channels, height and width [px] of the block's input."""
    return shape.in_width, shape.size, shape.size

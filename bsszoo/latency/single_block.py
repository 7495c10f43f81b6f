"""One block of a network on its own, as the networks have it: what a latency table times."""

from __future__ import annotations

from torch import nn

from bsszoo.codes.families import family_of
from bsszoo.codes.layers import Placement
from bsszoo.spaces.chain import BlockShape


def build_block(shape: BlockShape, family: str) -> nn.Module:
    """The module of one block of a family's networks, freshly initialised; its input is ``block_input(shape)``.

    A ResNet's stem has its max pooling behind it.

    Example:
        >>> import torch
        >>> shape = BlockShape("mbconv", 16, 24, 96, 3, 2, 0, 32)
        >>> build_block(shape, "mobilenetv2").eval()(torch.zeros(1, *block_input(shape))).shape
        torch.Size([1, 24, 16, 16])
    """
    data = family_of(family)
    block = data.block_of_kind(
        shape.kind,
        shape.kind,
        shape.in_width,
        shape.out_width,
        shape.mid_width,
        shape.kernel,
        shape.stride,
        shape.squeeze_width or None,
        "1x1" if shape.stride1x1 else "3x3",
        shape.group_width or None,
    )
    return block.build(Placement(block.stride), data.activation, {})


def block_input(shape: BlockShape) -> tuple[int, int, int]:
    """Channels, height and width [px] of the block's input."""
    return shape.in_width, shape.size, shape.size

"""Codes of all families of ResNets as timm ResNets, module by module from the code's stages."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from timm.layers.classifier import create_classifier
from timm.layers.drop import DropPath
from timm.layers.squeeze_excite import SEModule
from timm.models.resnet import BasicBlock, Bottleneck, ResNet, downsample_conv
from torch import nn

from bsszoo.codes.layers import Block, Placement, Stage


class CodeBasicBlock(BasicBlock):
    """timm's ``BasicBlock`` with an inner width of its own."""

    def __init__(
        self, block: Block[int], placement: Placement, downsample: nn.Module | None, dd: dict[str, Any]
    ) -> None:
        # Not the parent's: its inner width is the output width. Every attribute that its forward reads is set here.
        nn.Module.__init__(self)
        first, second = placement.first_dilation, placement.dilation
        self.conv1 = nn.Conv2d(
            block.in_width, block.mid_width, 3, stride=placement.stride, padding=first, dilation=first, bias=False, **dd
        )
        self.bn1 = nn.BatchNorm2d(block.mid_width, **dd)
        self.drop_block = nn.Identity()
        self.act1 = nn.ReLU(inplace=True)
        self.aa = nn.Identity()
        self.conv2 = nn.Conv2d(block.mid_width, block.out_width, 3, padding=second, dilation=second, bias=False, **dd)
        self.bn2 = nn.BatchNorm2d(block.out_width, **dd)
        self.se = _squeeze(block, dd)
        self.act2 = nn.ReLU(inplace=True)
        self.downsample = downsample
        self.stride = placement.stride
        self.dilation = placement.dilation
        self.drop_path = _drop_path(placement)


class CodeBottleneck(Bottleneck):
    """timm's ``Bottleneck`` with the code's inner width and position of the stride."""

    expansion = 1

    def __init__(
        self, block: Block[int], placement: Placement, downsample: nn.Module | None, dd: dict[str, Any]
    ) -> None:
        # Not the parent's: it derives the widths from each other. Every attribute that its forward reads is set here.
        nn.Module.__init__(self)
        first, second = (placement.stride, 1) if block.stride_in == "1x1" else (1, placement.stride)
        dilation = placement.dilation if block.stride_in == "1x1" else placement.first_dilation
        mid = block.mid_width
        self.conv1 = nn.Conv2d(block.in_width, mid, 1, stride=first, bias=False, **dd)
        self.bn1 = nn.BatchNorm2d(mid, **dd)
        self.act1 = nn.ReLU(inplace=True)
        groups = 1 if block.group_width is None else mid // block.group_width
        self.conv2 = nn.Conv2d(
            mid, mid, 3, stride=second, padding=dilation, dilation=dilation, groups=groups, bias=False, **dd
        )
        self.bn2 = nn.BatchNorm2d(mid, **dd)
        self.drop_block = nn.Identity()
        self.act2 = nn.ReLU(inplace=True)
        self.aa = nn.Identity()
        self.conv3 = nn.Conv2d(mid, block.out_width, 1, bias=False, **dd)
        self.bn3 = nn.BatchNorm2d(block.out_width, **dd)
        self.se = _squeeze(block, dd)
        self.act3 = nn.ReLU(inplace=True)
        self.downsample = downsample
        self.stride = placement.stride
        self.dilation = placement.dilation
        self.drop_path = _drop_path(placement)


class CodeResNet(ResNet):
    """A timm ``ResNet`` built from a code; everything but the constructor is timm's.

    Args:
        stages: Of a code of a ResNet's family with ``in_chans`` input channels.
        num_classes: Outputs of the classifier; 0 for none.
        in_chans: Channels of the input.
        output_stride: 32, 16 or 8 [px of input per px of the last features]; smaller ones turn strides into dilation.
        global_pool: timm's pooling name: ``avg``, ``max``, ``avgmax``, ``catavgmax`` or empty.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth of the last block; it rises linearly from 0 at the first.
        zero_init_last: Start each residual branch at zero, as timm does.
        device, dtype: Where and as what the parameters are made.
    """

    def __init__(
        self,
        stages: tuple[Stage[int], ...],
        num_classes: int = 1000,
        in_chans: int = 3,
        output_stride: int = 32,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        *,
        zero_init_last: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        nn.Module.__init__(self)
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.grad_checkpointing = False
        stem, *body, _ = stages

        first = stem.first
        self.conv1: Any = nn.Conv2d(
            in_chans, first.out_width, first.kernel, stride=first.stride, padding=first.kernel // 2, bias=False, **dd
        )
        self.bn1 = nn.BatchNorm2d(first.out_width, **dd)
        self.act1 = nn.ReLU(inplace=True)
        self.maxpool: Any = nn.MaxPool2d(kernel_size=3, stride=stem.pool, padding=1)
        self.feature_info = [{"num_chs": first.out_width, "reduction": first.stride, "module": "act1"}]

        reduction, dilation, previous = first.stride * stem.pool, 1, 1
        last, index = sum(stage.depth for stage in body) - 1, 0
        for stage in body:
            blocks = []
            for block in stage.blocks():
                stride = block.stride
                if stride > 1 and reduction >= output_stride:
                    dilation, stride = dilation * stride, 1
                reduction *= stride
                placement = Placement(stride, dilation, previous, drop_path_rate * index / last)
                blocks.append(build_residual(block, placement, dd))
                previous = dilation
                index += 1
            self.add_module(stage.name, nn.Sequential(*blocks))
            self.feature_info.append({"num_chs": stage.first.out_width, "reduction": reduction, "module": stage.name})

        self.num_features = body[-1].first.out_width
        self.global_pool, self.fc = create_classifier(self.num_features, num_classes, pool_type=global_pool, **dd)
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        self.init_weights(zero_init_last=zero_init_last)


def build_residual(block: Block[int], placement: Placement, dd: dict[str, Any]) -> nn.Module:
    """The module of one basic or bottleneck block, with the projection that its shapes call for."""
    downsample = None
    # The code's stride decides, not the placement's: weights must fit at every output stride.
    if block.stride != 1 or block.in_width != block.out_width:
        downsample = downsample_conv(
            block.in_width, block.out_width, kernel_size=1, stride=placement.stride, norm_layer=nn.BatchNorm2d, **dd
        )
    if block.kind == "bottleneck":
        return CodeBottleneck(block, placement, downsample, dd)
    if block.mid_width != block.out_width:
        return CodeBasicBlock(block, placement, downsample, dd)
    attention: Any = None if block.squeeze_width is None else partial(SEModule, rd_channels=block.squeeze_width)
    made: nn.Module = BasicBlock(
        block.in_width,
        block.out_width,
        placement.stride,
        downsample,
        dilation=placement.dilation,
        first_dilation=placement.first_dilation,
        attn_layer=attention,
        drop_path=_drop_path(placement),
        **dd,
    )
    return made


def _squeeze(block: Block[int], dd: dict[str, Any]) -> nn.Module | None:
    """timm's squeeze-and-excitation of the block's output."""
    return None if block.squeeze_width is None else SEModule(block.out_width, rd_channels=block.squeeze_width, **dd)


def _drop_path(placement: Placement) -> nn.Module | None:
    return DropPath(placement.drop_path) if placement.drop_path > 0 else None

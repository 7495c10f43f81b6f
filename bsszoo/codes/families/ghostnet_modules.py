"""GhostNet codes as timm's ``GhostNet``, module by module from their stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d
from timm.layers.linear import Linear
from timm.models import FeatureInfo
from timm.models._efficientnet_blocks import ConvBnAct
from timm.models.ghostnet import GhostBottleneck, GhostNet
from torch import nn

from bsszoo.codes.layers import Block, Stage
from bsszoo.errors import CodeError


class CodeGhostNet(GhostNet):
    """A timm ``GhostNet`` built from a code; everything but the constructor is timm's.

    Args:
        stages: Of a GhostNet code with ``in_chans`` input channels.
        num_classes: Outputs of the classifier; 0 for none.
        in_chans: Channels of the input.
        output_stride: 32 [px of input per px of the last features]: timm's blocks have no dilation.
        global_pool: timm's pooling name: ``avg``, ``max``, ``avgmax`` or empty.
        drop_rate: Dropout before the classifier.
        drop_path_rate: 0: timm's blocks have no stochastic depth.
        device, dtype: Where and as what the parameters are made.

    Raises:
        CodeError: Another output stride, or a rate of stochastic depth.
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
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        nn.Module.__init__(self)
        _check(output_stride, drop_path_rate)
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.num_classes = num_classes
        self.drop_rate = drop_rate
        *trunk, last, head, _ = stages
        self.feature_info = _add_trunk(self, trunk, in_chans, dd)
        self.stage_ends = [-1] + [int(info["module"].split(".")[-1]) for info in self.feature_info[1:]]
        wide = last.first
        self.blocks.append(nn.Sequential(ConvBnAct(wide.in_width, wide.out_width, 1, **dd)))
        # timm's types of these are those of its own assignments.
        net: Any = self
        net.pool_dim = net.num_features = wide.out_width
        net.head_hidden_size = head.first.out_width
        self.global_pool = SelectAdaptivePool2d(pool_type=global_pool)
        pooled = wide.out_width * self.global_pool.feat_mult()
        self.conv_head = nn.Conv2d(pooled, head.first.out_width, 1, bias=True, **dd)
        net.act2 = nn.ReLU(inplace=True)
        self.flatten = nn.Flatten(1) if global_pool else nn.Identity()
        # As timm has it: its own Linear.
        self.classifier: Any = Linear(head.first.out_width, num_classes, **dd) if num_classes > 0 else nn.Identity()


class CodeGhostNetFeatures(nn.Module):
    """The trunk of ``CodeGhostNet`` that returns its features at each stride: those of the last block at each.

    timm's own are those of the first block at each stride. ``out_indices`` are indices into the list of features (by
    default all five); other arguments as ``CodeGhostNet``'s.
    """

    # What ``_add_trunk`` adds.
    conv_stem: Any
    bn1: Any
    act1: Any
    blocks: Any

    def __init__(
        self,
        stages: tuple[Stage[int], ...],
        in_chans: int = 3,
        output_stride: int = 32,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        out_indices: tuple[int, ...] = (0, 1, 2, 3, 4),
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _check(output_stride, drop_path_rate)
        self.drop_rate = drop_rate
        trunk = stages[:-3]
        _add_trunk(self, trunk, in_chans, {"device": device, "dtype": dtype})
        # Each module with a stride is followed by one without.
        widths = {int(block.name.split(".")[1]): block.out_width for stage in trunk[1:] for block in stage.blocks()}
        features = [
            {
                "num_chs": max((i, w) for i, w in widths.items() if i <= at)[1],
                "reduction": 2 << k,
                "module": f"blocks.{at}",
            }
            for k, at in enumerate(range(0, len(self.blocks), 2))
        ]
        self.feature_info = FeatureInfo(features, out_indices)
        self._modules_out = [int(name.split(".")[1]) for name in self.feature_info.module_name()]

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The features [b, c, h, w], the finest first."""
        x = self.act1(self.bn1(self.conv_stem(x)))
        features = []
        for i, module in enumerate(self.blocks):
            x = module(x)
            if i in self._modules_out:
                features.append(x)
        return features


def _check(output_stride: int, drop_path_rate: float) -> None:
    if output_stride != 32:
        raise CodeError(f"output_stride is {output_stride}, and a GhostNet's is 32: timm's blocks have no dilation.")
    if drop_path_rate:
        raise CodeError(
            f"drop_path_rate is {drop_path_rate}, and a GhostNet's is 0: timm's blocks have no stochastic depth."
        )


def _add_trunk(net: Any, trunk: Sequence[Stage[int]], in_chans: int, dd: dict[str, Any]) -> list[dict[str, Any]]:
    """The features of the trunk (stem and blocks) that this adds to ``net``, as timm lists them."""
    net.in_chans = in_chans
    net.grad_checkpointing = False
    stem, *body = trunk
    first = stem.first
    net.conv_stem = nn.Conv2d(
        in_chans, first.out_width, first.kernel, first.stride, first.kernel // 2, bias=False, **dd
    )
    net.bn1 = nn.BatchNorm2d(first.out_width, **dd)
    net.act1 = nn.ReLU(inplace=True)
    features: list[dict[str, Any]] = [{"num_chs": first.out_width, "reduction": first.stride, "module": "conv_stem"}]
    reduction, made = first.stride, dict[int, list[nn.Module]]()
    for stage in body:
        for block in stage.blocks():
            module = int(block.name.split(".")[1])
            made.setdefault(module, []).append(build_ghost(block, dd))
            if block.stride > 1:
                reduction *= block.stride
                features.append({"num_chs": block.out_width, "reduction": reduction, "module": f"blocks.{module}"})
    # A stage of one block leaves the module behind it empty.
    modules = range(max(made) + 1 + max(made) % 2)
    net.blocks = nn.Sequential(*(nn.Sequential(*made.get(i, [])) for i in modules))
    return features


def build_ghost(block: Block[int], dd: dict[str, Any]) -> nn.Module:
    """timm's module of a block."""
    share = None if block.squeeze_width is None else block.squeeze_width / block.mid_width
    return GhostBottleneck(
        block.in_width, block.mid_width, block.out_width, block.kernel, block.stride, se_ratio=share or 0.0, **dd
    )

"""ConvNeXt codes as timm's ``ConvNeXt``: its constructor, and MLPs and a stem of other widths where a code has them."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.create_act import get_act_layer
from timm.layers.mlp import GlobalResponseNormMlp, Mlp
from timm.layers.norm import LayerNorm2d
from timm.models import FeatureInfo
from timm.models._manipulate import named_apply
from timm.models.convnext import ConvNeXt, ConvNeXtBlock, _init_weights
from torch import nn

from bsszoo.codes.layers import Block, Placement, Stage

# What timm's networks begin their layer scales with, the paper's.
_SCALE = 1e-6


class CodeConvNeXt(ConvNeXt):
    """A timm ``ConvNeXt`` of a code.

    Args:
        stages: Of a ConvNeXt code with ``in_chans`` input channels.
        linear, responds: As ``ConvNeXtBlock``'s.

    Others as ``bsszoo.models.build``.
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
        linear: bool,
        responds: bool,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        stem, *body, _, _ = stages
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        super().__init__(
            in_chans=in_chans,
            num_classes=num_classes,
            global_pool=global_pool,
            output_stride=output_stride,
            depths=tuple(stage.depth for stage in body),
            dims=tuple(stage.first.out_width for stage in body),
            conv_mlp=not linear,
            use_grn=responds,
            ls_init_value=None if responds else _SCALE,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
            **dd,
        )
        made: list[Any] = list(self.stages)
        if stem.first.out_width != body[0].first.out_width:
            self.stem = patches(stem.first, dd)
            made[0].downsample = _downsampling(body[0].first, dd)
            named_apply(_init_weights, self.stem)
            named_apply(_init_weights, made[0].downsample)
        for stage, module in zip(body, made, strict=True):
            for block, each in zip(stage.blocks(), module.blocks, strict=True):
                if block.mid_width != each.mlp.fc1.weight.shape[0]:
                    each.mlp = _mlp(block, "gelu", dd)
                    named_apply(_init_weights, each.mlp)


class CodeConvNeXtFeatures(CodeConvNeXt):
    """A ``CodeConvNeXt`` without a head that returns its features at each stride; arguments as its.

    ``out_indices`` are indices into the list of features (by default all four).
    """

    def __init__(
        self,
        stages: tuple[Stage[int], ...],
        in_chans: int = 3,
        output_stride: int = 32,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        out_indices: tuple[int, ...] = (0, 1, 2, 3),
        **parts: Any,
    ) -> None:
        super().__init__(stages, 0, in_chans, output_stride, "avg", drop_rate, drop_path_rate, **parts)
        self.head: Any = nn.Identity()
        self.feature_info: Any = FeatureInfo(self.feature_info, out_indices)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:  # type: ignore[override]
        """The features [b, c, h, w], the finest first."""
        features: Any = self.forward_intermediates(
            x, indices=list(self.feature_info.out_indices), intermediates_only=True
        )
        return list(features)


def patches(block: Block[int], dd: dict[str, Any]) -> nn.Sequential:
    """The stem: a convolution with a stride of its kernel's side, and its normalisation."""
    k = block.kernel
    return nn.Sequential(nn.Conv2d(block.in_width, block.out_width, k, k, **dd), LayerNorm2d(block.out_width, **dd))


def build_block(block: Any, placement: Placement, activation: str, dd: dict[str, Any]) -> nn.Module:
    """timm's block, and the downsampling before it where it has one."""
    act: Any = get_act_layer(activation)
    made: Any = ConvNeXtBlock(
        block.out_width,
        kernel_size=block.kernel,
        dilation=placement.dilation,
        conv_mlp=not block.linear,
        use_grn=block.responds,
        ls_init_value=None if block.responds else _SCALE,
        act_layer=act,
        drop_path=placement.drop_path,
        **dd,
    )
    if block.mid_width != made.mlp.fc1.weight.shape[0]:
        made.mlp = _mlp(block, activation, dd)
    whole: nn.Module = nn.Sequential(_downsampling(block, dd), made) if block.layers()[0].present else made
    return whole


def _downsampling(block: Block[int], dd: dict[str, Any]) -> nn.Sequential:
    """The downsampling of a stage, by its first block."""
    s = block.stride
    return nn.Sequential(LayerNorm2d(block.in_width, **dd), nn.Conv2d(block.in_width, block.out_width, s, s, **dd))


def _mlp(block: Any, activation: str, dd: dict[str, Any]) -> nn.Module:
    """timm's MLP with the block's inner width."""
    make: Any = GlobalResponseNormMlp if block.responds else Mlp
    made: nn.Module = make(
        block.out_width, block.mid_width, act_layer=get_act_layer(activation), use_conv=not block.linear, **dd
    )
    return made

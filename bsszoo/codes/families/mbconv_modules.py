"""Codes of inverted residual blocks as timm's EfficientNets and MobileNetV3s, module by module from their stages."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d
from timm.layers.classifier import create_classifier
from timm.layers.conv_bn_act import ConvNormAct
from timm.layers.create_act import get_act_layer
from timm.layers.create_conv2d import create_conv2d
from timm.layers.create_norm_act import get_norm_act_layer
from timm.layers.drop import DropPath
from timm.layers.linear import Linear
from timm.models import FeatureInfo
from timm.models._efficientnet_blocks import (
    ConvBnAct,
    DepthwiseSeparableConv,
    EdgeResidual,
    InvertedResidual,
    SqueezeExcite,
    UniversalInvertedResidual,
)
from timm.models._efficientnet_builder import efficientnet_init_weights
from timm.models.efficientnet import EfficientNet, EfficientNetFeatures
from timm.models.mobilenetv3 import MobileNetV3, MobileNetV3Features
from torch import nn

from bsszoo.codes.layers import Block, Placement, Stage

# timm's function has no types.
_conv: Any = create_conv2d


@dataclass(frozen=True, slots=True)
class Style:
    """What the blocks of a network share: timm's name of their activation, the epsilon of their normalisations, and
    timm's name of their padding: empty for as much on both sides, ``same`` for TensorFlow's.
    """

    activation: str
    norm_eps: float = 1e-5
    padding: str = ""

    def act(self, block: Block[int] | None = None) -> type[nn.Module]:
        """The activation of a block, or of the network."""
        layer: type[nn.Module] = get_act_layer(
            self.activation if block is None else block.activation or self.activation
        )
        return layer

    @property
    def norm(self) -> Any:
        """What makes a normalisation."""
        # timm's own default is the class itself, not a partial of it: what it prints and saves stays the same.
        return nn.BatchNorm2d if self.norm_eps == 1e-5 else partial(nn.BatchNorm2d, eps=self.norm_eps)

    def norm_act(self, block: Block[int] | None = None) -> Any:
        """What makes a normalisation with the activation behind it."""
        return get_norm_act_layer(self.norm, self.act(block))


class CodeInvertedResidual(InvertedResidual):
    """timm's ``InvertedResidual`` with exactly the code's expanded and squeeze widths.

    timm rounds the expanded width to a multiple of 8; the paper's figures come out only without.
    """

    def __init__(self, block: Block[int], placement: Placement, style: Style, dd: dict[str, Any]) -> None:
        # Not the parent's, which rounds. Every attribute that its forward reads is set here.
        nn.Module.__init__(self)
        norm_act, pad = style.norm_act(block), style.padding
        mid = block.mid_width
        self.has_skip = _has_skip(block)
        self.conv_s2d = None
        self.bn_s2d = None
        self.conv_pw = _conv(block.in_width, mid, 1, padding=pad, **dd)
        self.bn1 = norm_act(mid, inplace=True, **dd)
        self.conv_dw = _conv(
            mid,
            mid,
            block.kernel,
            stride=placement.stride,
            dilation=placement.first_dilation,
            groups=mid,
            padding=pad,
            **dd,
        )
        self.bn2 = norm_act(mid, inplace=True, **dd)
        self.aa = nn.Identity()
        self.se = _squeeze_excite(block, mid, style, dd)
        self.conv_pwl = _conv(mid, block.out_width, 1, padding=pad, **dd)
        self.bn3 = norm_act(block.out_width, apply_act=False, **dd)
        self.drop_path = DropPath(placement.drop_path) if placement.drop_path else nn.Identity()


class CodeEdgeResidual(EdgeResidual):
    """timm's ``EdgeResidual``, a fused block, with exactly the code's expanded width."""

    def __init__(self, block: Block[int], placement: Placement, style: Style, dd: dict[str, Any]) -> None:
        # Not the parent's, which rounds. Every attribute that its forward reads is set here.
        nn.Module.__init__(self)
        norm_act, mid = style.norm_act(block), block.mid_width
        self.has_skip = _has_skip(block)
        self.conv_exp = _conv(
            block.in_width,
            mid,
            block.kernel,
            stride=placement.stride,
            dilation=placement.first_dilation,
            padding=style.padding,
            **dd,
        )
        self.bn1 = norm_act(mid, inplace=True, **dd)
        self.aa = nn.Identity()
        self.se = nn.Identity()
        self.conv_pwl = _conv(mid, block.out_width, 1, padding=style.padding, **dd)
        self.bn2 = norm_act(block.out_width, apply_act=False, **dd)
        self.drop_path = DropPath(placement.drop_path) if placement.drop_path else nn.Identity()


class CodeUniversalInvertedResidual(UniversalInvertedResidual):
    """timm's ``UniversalInvertedResidual`` with exactly the code's expanded width."""

    def __init__(self, block: Block[int], placement: Placement, style: Style, dd: dict[str, Any]) -> None:
        # Not the parent's, which rounds. Every attribute that its forward reads is set here.
        nn.Module.__init__(self)
        self.has_skip = _has_skip(block)
        widths = block.in_width, block.mid_width, block.out_width
        layers = {layer.name.split(".")[-2]: layer for layer in block.layers()}
        # timm's types of these are those of its own assignments.
        net: Any = self
        for name, (before, after) in {
            "dw_start": (widths[0], widths[0]),
            "pw_exp": widths[:2],
            "dw_mid": (widths[1], widths[1]),
            "pw_proj": widths[1:],
        }.items():
            layer = layers.get(name)
            if layer is None:
                setattr(self, name, nn.Identity())
                continue
            depthwise = name.startswith("dw")
            made = ConvNormAct(
                before,
                after,
                layer.kernel,
                placement.stride if layer.stride > 1 else 1,
                style.padding,
                placement.first_dilation if depthwise else 1,
                before if depthwise else 1,
                apply_act=name in ("pw_exp", "dw_mid"),
                norm_layer=style.norm,
                act_layer=style.act(block),
                **dd,
            )
            setattr(self, name, made)
        net.se = nn.Identity()
        net.dw_end = nn.Identity()
        net.layer_scale = nn.Identity()
        net.drop_path = DropPath(placement.drop_path) if placement.drop_path else nn.Identity()


class CodeEfficientNet(EfficientNet):
    """A timm ``EfficientNet`` built from a code; everything but the constructor is timm's.

    Args:
        stages: Of a MobileNetV2 or EfficientNet code with ``in_chans`` input channels.
        style: Activation, normalisation and padding of its blocks.
        num_classes: Outputs of the classifier; 0 for none.
        in_chans: Channels of the input.
        output_stride: 32, 16 or 8 [px of input per px of the last features]; smaller ones turn strides into dilation.
        global_pool: timm's pooling name: ``avg``, ``max``, ``avgmax``, ``catavgmax`` or empty.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth; block i of n drops with ``drop_path_rate * i / n``.
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
        style: Style,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        nn.Module.__init__(self)
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.num_classes = num_classes
        self.feature_info = add_trunk(self, stages, style, in_chans, output_stride, drop_rate, drop_path_rate, dd)
        self.stage_ends = [info["stage"] for info in self.feature_info]

        head = stages[-2].first
        self.conv_head = _conv(head.in_width, head.out_width, head.kernel, padding=style.padding, **dd)
        self.bn2 = style.norm_act()(head.out_width, inplace=True, **dd)
        self.num_features = head.out_width
        self.global_pool, self.classifier = create_classifier(
            self.num_features, num_classes, pool_type=global_pool, **dd
        )
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        efficientnet_init_weights(self)


class CodeEfficientNetFeatures(EfficientNetFeatures):
    """The trunk of ``CodeEfficientNet`` that returns its features at each stride, as timm's ``features_only`` does.

    Arguments as ``CodeEfficientNet``; ``out_indices`` are indices into the list of features (by default all five).
    """

    def __init__(
        self,
        stages: tuple[Stage[int], ...],
        in_chans: int = 3,
        output_stride: int = 32,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        out_indices: tuple[int, ...] = (0, 1, 2, 3, 4),
        *,
        style: Style,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        nn.Module.__init__(self)
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        features = add_trunk(self, stages, style, in_chans, output_stride, drop_rate, drop_path_rate, dd)
        self.feature_info = FeatureInfo(features, out_indices)
        self._stage_out_idx = {info["stage"]: info["index"] for info in self.feature_info.get_dicts()}
        self.feature_hooks = None
        efficientnet_init_weights(self)


class CodeMobileNetV3(MobileNetV3):
    """A timm ``MobileNetV3`` built from a code; everything but the constructor is timm's.

    Arguments as ``CodeEfficientNet``.
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
        style: Style,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        nn.Module.__init__(self)
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.num_classes = num_classes
        last, head = stages[-3], stages[-2].first
        self.feature_info = add_trunk(self, stages, style, in_chans, output_stride, drop_rate, drop_path_rate, dd, last)
        self.stage_ends = [info["stage"] for info in self.feature_info]
        # timm's types of these are those of its own assignments.
        net: Any = self
        net.num_features = last.first.out_width
        net.head_hidden_size = head.out_width
        self.global_pool = SelectAdaptivePool2d(pool_type=global_pool)
        pooled = self.num_features * self.global_pool.feat_mult()
        normed = head.layers()[0].norm != ""
        self.conv_head = _conv(pooled, head.out_width, 1, padding=style.padding, bias=not normed, **dd)
        # timm's normalisation has the activation behind it.
        net.norm_head = style.norm_act()(head.out_width, **dd) if normed else nn.Identity()
        net.act2 = nn.Identity() if normed else style.act()(inplace=True)
        self.flatten = nn.Flatten(1) if global_pool else nn.Identity()
        # As timm has it: its own Linear.
        self.classifier: Any = Linear(self.head_hidden_size, num_classes, **dd) if num_classes > 0 else nn.Identity()
        efficientnet_init_weights(self)


class CodeMobileNetV3Features(MobileNetV3Features):
    """The trunk of ``CodeMobileNetV3`` that returns its features at each stride; the last ones are the last block's.

    timm's own last features are those of the 1x1 convolution behind it, six times as many. Arguments as
    ``CodeEfficientNetFeatures``.
    """

    def __init__(
        self,
        stages: tuple[Stage[int], ...],
        in_chans: int = 3,
        output_stride: int = 32,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        out_indices: tuple[int, ...] = (0, 1, 2, 3, 4),
        *,
        style: Style,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        nn.Module.__init__(self)
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        features = add_trunk(self, stages, style, in_chans, output_stride, drop_rate, drop_path_rate, dd)
        self.act1 = nn.Identity()  # in the normalisation, as in the whole network
        self.feature_info = FeatureInfo(features, out_indices)
        self._stage_out_idx = {info["stage"]: info["index"] for info in self.feature_info.get_dicts()}
        self.feature_hooks = None
        efficientnet_init_weights(self)


def add_trunk(
    net: Any,
    stages: tuple[Stage[int], ...],
    style: Style,
    in_chans: int,
    output_stride: int,
    drop_rate: float,
    drop_path_rate: float,
    dd: dict[str, Any],
    last: Stage[int] | None = None,
) -> list[dict[str, Any]]:
    """The features of the trunk (stem and blocks) that this adds to ``net``, as timm's builder lists them.

    ``last`` is a convolution behind the blocks that timm's trunk includes.
    """
    net.in_chans = in_chans
    net.drop_rate = drop_rate
    net.grad_checkpointing = False
    stem, *rest = stages
    body = [stage for stage in rest if stage.first.stacked]
    first = stem.first
    net.conv_stem = _conv(in_chans, first.out_width, first.kernel, stride=first.stride, padding=style.padding, **dd)
    net.bn1 = style.norm_act()(first.out_width, inplace=True, **dd)

    features: list[dict[str, Any]] = []
    reduction, dilation, index = first.stride, 1, 0
    if body[0].first.stride > 1:
        features.append({"module": "bn1", "num_chs": first.out_width, "stage": 0, "reduction": reduction})
    blocks_of_net = sum(len(block.parts()) for stage in body for block in stage.blocks()) + (last is not None)
    made: dict[str, list[nn.Module]] = {}
    for i, stage in enumerate(body):
        blocks = made.setdefault(stage.name, [])
        for block in stage.blocks():
            stride, previous = block.stride, dilation
            if stride > 1 and reduction * stride > output_stride:
                dilation, stride = dilation * stride, 1
            reduction *= stride
            rates = [drop_path_rate * (index + i) / blocks_of_net for i in range(len(block.parts()))]
            placement = Placement(stride, dilation, previous, rates[0])
            if len(rates) == 1:
                blocks.append(build_mbconv(block, placement, style, dd))
            else:
                blocks += conv_pair(block, placement, style, rates[1], dd)
            index += len(rates)
        if _ends_level(body, i) and (last is None or i + 1 < len(body)):
            features.append(_feature(made, stage, reduction))
    if last is not None:
        block = last.first
        made[last.name] = [
            ConvBnAct(
                block.in_width,
                block.out_width,
                block.kernel,
                pad_type=style.padding,
                act_layer=style.act(),
                norm_layer=style.norm,
                drop_path_rate=drop_path_rate * index / blocks_of_net,
                **dd,
            )
        ]
        features.append(_feature(made, last, reduction))
    net.blocks = nn.Sequential(*(nn.Sequential(*blocks) for blocks in made.values()))
    return features


def _feature(made: dict[str, list[nn.Module]], stage: Stage[int], reduction: int) -> dict[str, Any]:
    return {"stage": len(made), "reduction": reduction, "module": stage.name, "num_chs": stage.first.out_width}


def _ends_level(body: list[Stage[int]], i: int) -> bool:
    # The code's strides decide, so that the levels stay the same ones when dilation replaces a stride.
    return i + 1 == len(body) or body[i + 1].first.stride > 1


def conv_pair(
    block: Block[int], placement: Placement, style: Style, drop_path: float, dd: dict[str, Any]
) -> tuple[nn.Module, nn.Module]:
    """The modules of two convolutions that follow one another; ``drop_path`` is the second one's probability."""
    wide = replace(block, out_width=block.mid_width)
    narrow = replace(block, in_width=block.mid_width, kernel=1)
    behind = replace(placement, stride=1, drop_path=drop_path)
    return _conv_act(wide, placement, style, dd, skip=False), _conv_act(narrow, behind, style, dd, skip=False)


def _conv_act(block: Block[int], placement: Placement, style: Style, dd: dict[str, Any], *, skip: bool) -> nn.Module:
    made: nn.Module = ConvBnAct(
        block.in_width,
        block.out_width,
        block.kernel,
        placement.stride,
        placement.first_dilation,
        pad_type=style.padding,
        skip=skip,
        act_layer=style.act(block),
        norm_layer=style.norm,
        drop_path_rate=placement.drop_path,
        **dd,
    )
    return made


def build_mbconv(block: Block[int], placement: Placement, style: Style, dd: dict[str, Any]) -> nn.Module:
    """The module of one block; of an inverted residual one without expansion it is timm's depthwise-separable one."""
    made: nn.Module
    if block.kind == "conv":
        return _conv_act(block, placement, style, dd, skip=_has_skip(block))
    if block.kind.startswith("uib"):
        return CodeUniversalInvertedResidual(block, placement, style, dd)
    if block.kind.startswith("fused"):
        return CodeEdgeResidual(block, placement, style, dd)
    if block.layers()[0].present:
        return CodeInvertedResidual(block, placement, style, dd)
    squeeze: Any = (
        None if block.squeeze_width is None else partial(_squeeze_layer(block), rd_channels=block.squeeze_width)
    )
    made = DepthwiseSeparableConv(
        block.in_width,
        block.out_width,
        block.kernel,
        placement.stride,
        placement.first_dilation,
        pad_type=style.padding,
        noskip=not _has_skip(block),
        act_layer=style.act(block),
        norm_layer=style.norm,
        se_layer=squeeze,
        drop_path_rate=placement.drop_path,
        **dd,
    )
    return made


def _has_skip(block: Block[int]) -> bool:
    # As trained at the full stride: a block whose stride became dilation has no skip, or its weights would not fit.
    return block.stride == 1 and block.in_width == block.out_width


def _squeeze_excite(block: Block[int], width: int, style: Style, dd: dict[str, Any]) -> nn.Module:
    if block.squeeze_width is None:
        return nn.Identity()
    made: nn.Module = _squeeze_layer(block)(width, rd_channels=block.squeeze_width, act_layer=style.act(block), **dd)
    return made


def _squeeze_layer(block: Block[int]) -> Any:
    return (
        partial(SqueezeExcite, gate_layer="hard_sigmoid", force_act_layer=nn.ReLU) if block.hard_gate else SqueezeExcite
    )

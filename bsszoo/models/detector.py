"""Detectors: torchvision's Mask R-CNN and RetinaNet on the networks of codes, through a feature pyramid."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from functools import partial
from typing import Any, Final, Literal

import torch
from torch import nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection import MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from bsszoo.codes.code import Code
from bsszoo.codes.detector import BOX_HEAD, Detector
from bsszoo.codes.families import family_of
from bsszoo.errors import CodeError
from bsszoo.models.build import build
from bsszoo.models.synchronised import synchronised

Norm = Literal["batch", "sync", "frozen"]

#: Side of the anchors on the finest level, as both papers have them [px].
ANCHOR_SIZE: Final = 32


class _Body(nn.Module):
    """A features-only network under torchvision's interface: an ordered mapping of features."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> OrderedDict[str, torch.Tensor]:
        """Features by their place in the pyramid."""
        return OrderedDict((str(i), feature) for i, feature in enumerate(self.network(images)))


class _P6FromC5(LastLevelP6P7):  # type: ignore[misc]  # torchvision carries no types
    """torchvision's, which takes the pyramid's feature wherever both happen to have as many channels."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels)
        self.use_P5 = False


class CodeBackbone(nn.Module):
    """The features of a code's network and the pyramid on them; its modules are named as torchvision's are."""

    def __init__(self, detector: Detector, body: nn.Module, widths: list[int]) -> None:
        super().__init__()
        self.body = body
        chosen = [widths[i] for i in detector.levels]
        wide = detector.channels
        extra: Any = (
            LastLevelMaxPool()
            if detector.kind == "maskrcnn"
            else (_P6FromC5(chosen[-1], wide) if detector.p6_from == "c5" else LastLevelP6P7(wide, wide))
        )
        self.fpn = FeaturePyramidNetwork(chosen, wide, extra_blocks=extra)
        self.out_channels = wide

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """The pyramid's levels by name, the finest first."""
        levels: dict[str, torch.Tensor] = self.fpn(self.body(images))
        return levels


def build_detector(
    detector: Detector,
    *,
    norm: Norm = "batch",
    frozen_eps: float = 1e-5,
    anchor_size: int = ANCHOR_SIZE,
    **settings: Any,
) -> nn.Module:
    """torchvision's detector of a code, with freshly initialised weights.

    Its convolutions are exactly those of the backbone's code and of ``codes.detector.detector_layers``. A ResNet
    backbone has torchvision's state dict keys.

    Args:
        detector: The detector.
        norm: ``batch``; ``sync``, one normalisation over all processes (the paper trains from scratch so); or
            ``frozen``, torchvision's FrozenBatchNorm2d, for its published weights.
        frozen_eps: What frozen normalisation adds to variances; torchvision's COCO_V1 weights go with 0.
        anchor_size: Side of the anchors on the finest level [px]; those of each further level are twice as large.
        settings: Passed on to torchvision's ``MaskRCNN`` or ``RetinaNet``: ``min_size``, ``max_size``,
            ``box_score_thresh``, ``score_thresh``, ``rpn_pre_nms_top_n_test``, ..

    Raises:
        CodeError: An unknown ``norm`` or setting.
    """
    if isinstance(anchor_size, bool) or not isinstance(anchor_size, int) or anchor_size < 1:
        raise CodeError(f"anchor_size is {anchor_size!r}; it takes a whole number of pixels from 1.")
    if norm not in ("batch", "sync", "frozen"):
        raise CodeError(f"norm is {norm!r}; it is batch, sync or frozen.")
    body, widths = _body(detector)
    backbone: nn.Module = CodeBackbone(detector, body, widths)
    backbone = _normalised(backbone, norm, frozen_eps)
    size = {"min_size": 800, "max_size": 1333}
    masks = detector.kind == "maskrcnn"
    make = MaskRCNN if masks else RetinaNet
    allowed = set(inspect.signature(make).parameters) - {"backbone", "num_classes", "kwargs"}
    if unknown := sorted(set(settings) - allowed):  # which torchvision would take without a word
        raise CodeError(
            f"torchvision's {make.__name__} does not take {unknown[0]!r}; it takes {', '.join(sorted(allowed))}."
        )
    parts = {"rpn_anchor_generator" if masks else "anchor_generator": _anchors(detector, anchor_size)}
    if masks:
        parts |= _heads(detector)
        # The predictors of torchvision's heads come with their numbers of classes.
        made: nn.Module = make(backbone, None, **{**size, **parts, **settings})
    else:
        made = make(backbone, detector.num_classes, **{**size, **parts, **settings})
    return made


def _heads(detector: Detector) -> dict[str, nn.Module]:
    """Mask R-CNN's heads as torchvision makes them, as wide as the pyramid."""
    wide, classes = detector.channels, detector.num_classes
    return {
        "box_head": TwoMLPHead(wide * 49, BOX_HEAD * wide),
        "box_predictor": FastRCNNPredictor(BOX_HEAD * wide, classes),
        "mask_head": MaskRCNNHeads(wide, (wide,) * 4, 1),
        "mask_predictor": MaskRCNNPredictor(wide, wide, classes),
    }


def _body(detector: Detector) -> tuple[nn.Module, list[int]]:
    code: Code = detector.backbone
    if not family_of(code.family).torchvision_body:
        places = [place + 1 for place in detector.levels]
        features: Any = build(code, features_only=True, out_indices=places)
        found = dict(zip(detector.levels, features.feature_info.channels(), strict=True))
        return _Body(features), [found.get(i, 0) for i in range(4)]
    network = build(code, num_classes=0)
    layers = {f"layer{place + 1}": str(i) for i, place in enumerate(detector.levels)}
    return IntermediateLayerGetter(network, layers), list(code.widths)


def _normalised(module: nn.Module, norm: Norm, eps: float) -> nn.Module:
    if norm == "sync":
        return synchronised(module)
    if norm == "frozen":
        _freeze(module, partial(FrozenBatchNorm2d, eps=eps))
    return module


def _freeze(module: nn.Module, frozen: Any) -> None:
    for name, child in module.named_children():
        if type(child) is nn.BatchNorm2d:
            setattr(module, name, frozen(child.num_features))
        elif isinstance(child, nn.BatchNorm2d):
            raise CodeError(
                "norm is frozen, which exists for ResNet backbones only: those of the other families "
                "hold their activations in their normalisation."
            )
        else:
            _freeze(child, frozen)


def _anchors(detector: Detector, smallest: int) -> AnchorGenerator:
    octaves = [smallest * 2**level for level in range(5)]
    # One size at each level; RetinaNet's three are an octave apart in thirds, as its paper and torchvision have them.
    sizes: tuple[tuple[int, ...], ...] = (
        tuple((x,) for x in octaves)
        if detector.kind == "maskrcnn"
        else tuple((x, int(x * 2 ** (1.0 / 3)), int(x * 2 ** (2.0 / 3))) for x in octaves)
    )
    return AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))

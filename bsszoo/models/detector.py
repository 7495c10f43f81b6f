"""Detectors: torchvision's Mask R-CNN and RetinaNet on the networks of codes, through a feature pyramid.

Of a name or of the folder of a training, with weights from there, a file, or torchvision's.
"""

from __future__ import annotations

import inspect
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
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
from bsszoo.codes.detector import BOX_HEAD, Detector, detector_cost
from bsszoo.codes.families import family_of
from bsszoo.errors import BssZooError, CodeError, WeightsError
from bsszoo.models.build import build, synchronised
from bsszoo.models.hub_files import WEIGHTS_FILE
from bsszoo.models.loading import check_same, check_values, read_state
from bsszoo.models.names import LOCAL, TORCHVISION, TORCHVISION_CLASSES, find_detector
from bsszoo.models.saved_config import SECTION
from bsszoo.models.weights import Weights, check_recorded, check_size
from bsszoo.texts import one_line, parse_json

Norm = Literal["batch", "sync", "frozen"]

#: Side of the anchors on the finest level, as both papers have them [px].
ANCHOR_SIZE: Final = 32


class _Body(nn.Module):
    """A features-only network under torchvision's interface: an ordered mapping of features."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> OrderedDict[str, torch.Tensor]:
        """Features by their index in the pyramid."""
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
    if unknown := sorted(set(settings) - allowed):  # which torchvision would ignore silently
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
    family = family_of(code.family)
    if not family.torchvision_body:
        indices = [family.feature_strides.index(4 * 2**level) for level in detector.levels]
        features: Any = build(code, features_only=True, out_indices=indices)
        channels = dict(zip(detector.levels, features.feature_info.channels(), strict=True))
        return _Body(features), [channels.get(i, 0) for i in range(4)]
    network = build(code, num_classes=0)
    layers = {f"layer{level + 1}": str(i) for i, level in enumerate(detector.levels)}
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


# With weights, and from the folder of a training


#: The file in a detector's folder from which the network is rebuilt.
CONFIG: Final = "config.json"
# Parameters by which a detector may exceed its file before it is built, to say what differs: 80 MB.
_SLACK: Final = 20_000_000
_MOST_BYTES: Final = 1 << 24
# The largest number among a detector's settings: pixels and counts of proposals are some thousands.
_MOST_SETTING: Final = 20_000


def create_detector(
    detector: Detector | str,
    *,
    pretrained: bool | str | Path = False,
    num_classes: int | None = None,
    norm: Norm = "batch",
    refused: Sequence[str] = (),
    **settings: Any,
) -> nn.Module:
    """torchvision's detector on a code; it takes lists of images [3, h, w] of any sizes, as torchvision's do.

    With a training's folder, ``label_names`` holds the name of each output.

    Args:
        detector: A detector, its name, or ``local-dir:PATH``, the folder of its training: rebuilt as it was trained.
        pretrained: False for fresh weights; True for those of the folder; the path of a weights file of this network,
            or of such a folder; or ``torchvision`` for its COCO weights, which are of ResNet-50 with the stride on the
            3x3 convolution (``resnet50_.._px800``).
        num_classes: Outputs of the classifiers: 91 for Mask R-CNN, one of them the background, 80 for RetinaNet.
        norm: ``batch``, ``sync`` or ``frozen``: see ``build_detector``.
        refused: Arguments that a detector does not take.
        settings: Passed on to torchvision's class.

    Raises:
        CodeError: No such detector, or an argument that it does not take.
        WeightsError: The weights do not exist or do not fit.
    """
    if refused:
        raise CodeError(
            f"A detector does not take {', '.join(refused)}. See bsszoo.models.detector."
            "create_detector for what it takes."
        )
    if isinstance(detector, str) and detector.startswith(LOCAL):
        return _from_folder(Path(detector.removeprefix(LOCAL)).expanduser(), pretrained, num_classes, norm, settings)
    if isinstance(detector, str):
        named = find_detector(detector)
        if named is None:
            raise CodeError(f"{detector!r} names no detector; names are maskrcnn_.. and retinanet_.., then a code.")
        detector = named
    if num_classes is not None:
        detector = replace(detector, num_classes=num_classes)
    if pretrained is True:
        raise WeightsError(
            f"Nobody has published weights of {detector}. Pass a file, pretrained='PATH', or "
            f"pretrained={TORCHVISION!r} for torchvision's, which are of ResNet-50 with the stride on "
            "the 3x3 convolution."
        )
    if pretrained is False:
        return build_detector(detector, norm=norm, **settings)
    if pretrained == TORCHVISION:
        return _from_torchvision(detector, settings)
    path = Path(str(pretrained).removeprefix(LOCAL)).expanduser()
    path = path / WEIGHTS_FILE if path.is_dir() else path
    if not path.is_file():
        raise WeightsError(f"There is no weights file {str(pretrained)!r}. Allowed are a file and {TORCHVISION!r}.")
    state = read_state(Weights(path, str(path)))
    stored, expected = sum(tensor.numel() for tensor in state.values()), detector_cost(detector).params
    if expected > 2 * stored + _SLACK:
        raise WeightsError(
            f"{path} holds the weights of another network: {stored:,} numbers, and {detector} for "
            f"{detector.num_classes:,} classes has {expected:,} parameters."
        )
    model = build_detector(detector, norm=norm, **settings)
    check_same(state, model.state_dict(), model.state_dict(), set(), str(path))
    check_values(state, model.state_dict(), str(path))
    model.load_state_dict(state, strict=False)  # counters of batches alone may be missing
    return model


@dataclass(frozen=True)
class SavedDetector:
    """The contents of a detector's folder: ``settings`` as ``create_detector`` takes them, ``labels`` as trained."""

    detector: Detector
    norm: Norm
    settings: Mapping[str, Any]
    labels: Mapping[str, Any]


def saved_text(detector: Detector, *, norm: str, settings: Mapping[str, Any], labels: Mapping[str, Any]) -> str:
    """The ``config.json`` of a detector, which ``saved_detector`` reads."""
    section = {
        "detector": str(detector),
        "p6_from": detector.p6_from,
        "norm": norm,
        "settings": dict(settings),
        "labels": dict(labels),
    }
    return (
        json.dumps({"architecture": detector.kind, "num_classes": detector.num_classes, SECTION: section}, indent=2)
        + "\n"
    )


def saved_detector(folder: Path) -> SavedDetector | None:
    """The detector of a folder, None where there is none.

    Raises:
        WeightsError: Its ``config.json`` is broken.
    """
    file = folder / CONFIG
    if not file.is_file():
        return None
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise ValueError(f"it has {file.stat().st_size:,} bytes, and at most {_MOST_BYTES:,} are read")
        data = parse_json(file.read_text(encoding="utf-8"))
        section = data.get(SECTION) if isinstance(data, dict) else None
        if not isinstance(section, dict) or "detector" not in section:
            return None
        named = find_detector(section["detector"]) if isinstance(section["detector"], str) else None
        if named is None:
            raise ValueError(f"{one_line(section['detector'])!r} is no detector")
        detector = replace(named, num_classes=data["num_classes"], p6_from=section["p6_from"])
        norm, settings, labels = section["norm"], section["settings"], section["labels"]
        if norm not in ("batch", "sync", "frozen"):
            raise ValueError(f"its norm is {one_line(norm)!r}")
        if not isinstance(settings, dict) or not all(_is_setting(value) for value in settings.values()):
            raise ValueError("its settings are no plain values")
        if (
            not isinstance(labels, dict)
            or not isinstance(labels.get("names"), list)
            or not isinstance(labels.get("ids"), list)
            or not all(isinstance(label, str) for label in labels["names"])
        ):
            raise ValueError("its labels name no classes")
        return SavedDetector(detector, norm, settings, labels)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise WeightsError(
            f"The config.json of {folder} is broken: {one_line(error)}. The same `bsszoo train` command "
            "rewrites it once summary.json is removed; a pulled one is pulled again."
        ) from error


def _is_setting(value: object) -> bool:
    """Whether a file's value may be a setting of torchvision's detectors: a size, count, share or flag, no module."""
    if isinstance(value, (list, tuple)):
        return len(value) <= 16 and all(_is_setting(one) for one in value)
    if isinstance(value, str):
        return len(value) <= 100
    return isinstance(value, bool) or (isinstance(value, (int, float)) and abs(value) <= _MOST_SETTING)


def _from_folder(
    folder: Path,
    pretrained: bool | str | Path,  # noqa: FBT001 - a source
    num_classes: int | None,
    norm: Norm,
    settings: Mapping[str, Any],
) -> nn.Module:
    saved = saved_detector(folder)
    if saved is None:
        raise WeightsError(f"{folder} holds no detector.")
    if pretrained is False:
        check_size(saved.detector, f"local-dir:{folder}")
    if pretrained is True and (folder / WEIGHTS_FILE).is_file():
        check_recorded(folder / WEIGHTS_FILE, folder / CONFIG, f"local-dir:{folder}")
    try:
        made: Any = create_detector(
            saved.detector,
            pretrained=folder / WEIGHTS_FILE if pretrained is True else pretrained,
            num_classes=num_classes,
            norm=saved.norm if norm == "batch" else norm,
            **{**saved.settings, **settings},
        )
    except BssZooError:
        raise
    except Exception as error:  # whatever torchvision's classes raise on settings of the wrong kind
        raise WeightsError(
            f"The detector of {folder} cannot be built with the settings in its config.json: {one_line(error)}."
        ) from error
    if num_classes in (None, saved.detector.num_classes):
        made.label_names = tuple(saved.labels["names"])
    network: nn.Module = made
    return network


def _from_torchvision(detector: Detector, settings: dict[str, Any]) -> nn.Module:
    original = Code.parse("resnet50{256,512,1024,2048,3,4,6,3,64,128,256,512}")
    if replace(detector.backbone, image_size=original.image_size) != original:
        raise WeightsError(
            "torchvision's weights are of ResNet-50 with the stride on the 3x3 convolution, and this "
            f"is {detector.backbone}. Create {detector.kind}_{original}_px800."
        )
    if detector.num_classes not in (TORCHVISION_CLASSES, Detector(detector.kind, original).num_classes):
        raise WeightsError(
            f"torchvision's weights have {TORCHVISION_CLASSES} classes, and num_classes is {detector.num_classes}."
        )
    from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights, RetinaNet_ResNet50_FPN_Weights

    masks = detector.kind == "maskrcnn"
    weights: Any = (MaskRCNN_ResNet50_FPN_Weights if masks else RetinaNet_ResNet50_FPN_Weights).COCO_V1
    theirs = replace(detector, num_classes=TORCHVISION_CLASSES, p6_from="c5" if masks else "p5")
    model = build_detector(theirs, norm="frozen", **{**settings, "frozen_eps": 0.0})
    try:
        state = weights.get_state_dict(progress=False, check_hash=True)
    except Exception as error:  # urllib's errors, and a wrong hash
        raise WeightsError(f"torchvision's weights cannot be fetched from {weights.url}: {error}.") from error
    model.load_state_dict(state)
    return model

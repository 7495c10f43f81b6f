"""A detector by its name or the folder of its training, with weights from there, a file, or torchvision's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from torch import nn

from bsszoo.codes.code import Code
from bsszoo.codes.detector import Detector, detector_cost
from bsszoo.errors import BssZooError, CodeError, WeightsError
from bsszoo.models.detector import Norm, build_detector
from bsszoo.models.detectors import TORCHVISION, TORCHVISION_CLASSES, find_detector
from bsszoo.models.hub_files import WEIGHTS_FILE
from bsszoo.models.loading import check_same, check_values, read_state
from bsszoo.models.names import LOCAL
from bsszoo.models.saved_config import OWN
from bsszoo.models.weights import Weights, check_recorded, check_size
from bsszoo.texts import one_line, parse_json

#: What says in a detector's folder how it is rebuilt, and the file of its weights there.
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
    """torchvision's detector on a code; it takes lists of pictures [3, h, w] of any sizes, as torchvision's do.

    Of a training's folder its ``label_names`` say what each output stands for.

    Args:
        detector: A detector, its name, or ``local-dir:PATH``, the folder of its training: rebuilt as it was trained.
        pretrained: False for fresh weights; True for those of the folder; the path of a file of this network's own, or
            of such a folder; or ``torchvision`` for its COCO weights, which are those of ResNet-50 with the stride on
            the 3x3 convolution (``resnet50_.._px800``).
        num_classes: Outputs of the classifiers: 91 for Mask R-CNN, one of them the background, 80 for RetinaNet.
        norm: ``batch``, ``sync`` or ``frozen``: see ``models.detector.build_detector``.
        refused: Arguments that were given and that a detector does not take.
        settings: Passed on to torchvision's class.

    Raises:
        CodeError: No such detector, or an argument that it does not take.
        WeightsError: The weights do not exist or do not fit.
    """
    if refused:
        raise CodeError(
            f"A detector does not take {', '.join(refused)}. See bsszoo.models.detector_weights."
            "create_detector for what it takes."
        )
    if isinstance(detector, str) and detector.startswith(LOCAL):
        return _from_folder(Path(detector.removeprefix(LOCAL)).expanduser(), pretrained, num_classes, norm, settings)
    if isinstance(detector, str):
        found = find_detector(detector)
        if found is None:
            raise CodeError(f"{detector!r} names no detector; names are maskrcnn_.. and retinanet_.., then a code.")
        detector = found
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
    held, counted = sum(tensor.numel() for tensor in state.values()), detector_cost(detector).params
    if counted > 2 * held + _SLACK:
        raise WeightsError(
            f"{path} holds the weights of another network: {held:,} numbers, and {detector} for "
            f"{detector.num_classes:,} classes has {counted:,} parameters."
        )
    model = build_detector(detector, norm=norm, **settings)
    check_same(state, model.state_dict(), model.state_dict(), set(), str(path))
    check_values(state, model.state_dict(), str(path))
    model.load_state_dict(state, strict=False)  # counters of batches alone may be missing
    return model


@dataclass(frozen=True)
class SavedDetector:
    """What a detector's folder says of it: ``settings`` as ``create_detector`` takes them, ``labels`` as trained."""

    detector: Detector
    norm: Norm
    settings: Mapping[str, Any]
    labels: Mapping[str, Any]


def saved_text(detector: Detector, *, norm: str, settings: Mapping[str, Any], labels: Mapping[str, Any]) -> str:
    """The ``config.json`` of a detector, which ``saved_detector`` reads."""
    own = {
        "detector": str(detector),
        "p6_from": detector.p6_from,
        "norm": norm,
        "settings": dict(settings),
        "labels": dict(labels),
    }
    return json.dumps({"architecture": detector.kind, "num_classes": detector.num_classes, OWN: own}, indent=2) + "\n"


def saved_detector(folder: Path) -> SavedDetector | None:
    """The detector of a folder, None where it holds something else or nothing.

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
        own = data.get(OWN) if isinstance(data, dict) else None
        if not isinstance(own, dict) or "detector" not in own:
            return None
        named = find_detector(own["detector"]) if isinstance(own["detector"], str) else None
        if named is None:
            raise ValueError(f"{one_line(own['detector'])!r} is no detector")
        detector = replace(named, num_classes=data["num_classes"], p6_from=own["p6_from"])
        norm, settings, labels = own["norm"], own["settings"], own["labels"]
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
            "writes it anew once summary.json is taken away; a pulled one is pulled again."
        ) from error


def _is_setting(value: object) -> bool:
    """What a setting of torchvision's detectors may be in a file: sizes, counts, shares and flags, not modules."""
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
    kept = saved_detector(folder)
    if kept is None:
        raise WeightsError(f"{folder} holds no detector.")
    if pretrained is False:
        check_size(kept.detector, f"local-dir:{folder}")
    if pretrained is True and (folder / WEIGHTS_FILE).is_file():
        check_recorded(folder / WEIGHTS_FILE, folder / CONFIG, f"local-dir:{folder}")
    try:
        made: Any = create_detector(
            kept.detector,
            pretrained=folder / WEIGHTS_FILE if pretrained is True else pretrained,
            num_classes=num_classes,
            norm=kept.norm if norm == "batch" else norm,
            **{**kept.settings, **settings},
        )
    except BssZooError:
        raise
    except Exception as error:  # whatever torchvision's classes say of settings of the wrong kind
        raise WeightsError(
            f"The detector of {folder} cannot be built with the settings in its config.json: {one_line(error)}."
        ) from error
    if num_classes in (None, kept.detector.num_classes):
        made.label_names = tuple(kept.labels["names"])
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

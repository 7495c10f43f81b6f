"""A detector by its name, with weights from a file or torchvision's published ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from bsszoo.codes.code import Code
from bsszoo.codes.detector import Detector
from bsszoo.errors import CodeError, WeightsError
from bsszoo.nets.detector import Norm, build_detector
from bsszoo.zoo.loading import check_same, read_state
from bsszoo.zoo.weights import Weights

#: What names torchvision's COCO weights of the two ResNet-50 detectors.
TORCHVISION = "torchvision"
_CLASSES = 91  # of torchvision's COCO weights, for both kinds


def create_detector(
    detector: Detector | str, *, pretrained: bool | str | Path = False, num_classes: int | None = None,
    norm: Norm = "batch", refused: Sequence[str] = (), **settings: Any,
) -> nn.Module:
    """torchvision's detector on a code; it takes lists of pictures [3, h, w] of any sizes, as torchvision's do.

    Args:
        detector: A detector or its name.
        pretrained: False for fresh weights; the path of a file of this network's own; or ``torchvision`` for its COCO
            weights, which are those of ResNet-50 with the stride on the 3x3 convolution (``resnet50_.._px800``).
        num_classes: Outputs of the classifiers: 91 for Mask R-CNN, one of them the background, 80 for RetinaNet.
        norm: ``batch``, ``sync`` or ``frozen``: see ``nets.detector.build_detector``.
        refused: Arguments that were given and that a detector does not take.
        settings: Passed on to torchvision's class.

    Raises:
        CodeError: No such detector, or an argument that it does not take.
        WeightsError: The weights do not exist or do not fit.
    """
    from bsszoo.zoo.detectors import find_detector

    if refused:
        raise CodeError(f"A detector does not take {', '.join(refused)}. See bsszoo.zoo.detector_weights."
                        "create_detector for what it takes.")
    if isinstance(detector, str):
        found = find_detector(detector)
        if found is None:
            raise CodeError(f"{detector!r} names no detector; names are maskrcnn_.. and retinanet_.., then a code.")
        detector = found
    if num_classes is not None:
        detector = replace(detector, num_classes=num_classes)
    if pretrained is True:
        raise WeightsError(f"Nobody has published weights of {detector}. Pass a file, pretrained='PATH', or "
                           f"pretrained={TORCHVISION!r} for torchvision's, which are of ResNet-50 with the stride on "
                           "the 3x3 convolution.")
    if pretrained is False:
        return build_detector(detector, norm=norm, **settings)
    if pretrained == TORCHVISION:
        return _from_torchvision(detector, settings)
    path = Path(pretrained).expanduser()
    if not path.is_file():
        raise WeightsError(f"There is no weights file {str(pretrained)!r}. Allowed are a file and {TORCHVISION!r}.")
    model = build_detector(detector, norm=norm, **settings)
    state = read_state(Weights(path, str(path)))
    check_same(state, model.state_dict(), model.state_dict(), set(), str(path))
    model.load_state_dict(state, strict=False)  # counters of batches alone may be missing
    return model


def _from_torchvision(detector: Detector, settings: dict[str, Any]) -> nn.Module:
    original = Code.parse("resnet50{256,512,1024,2048,3,4,6,3,64,128,256,512}")
    if replace(detector.backbone, image_size=original.image_size) != original:
        raise WeightsError("torchvision's weights are of ResNet-50 with the stride on the 3x3 convolution, and this "
                           f"is {detector.backbone}. Create {detector.kind}_{original}_px800.")
    if detector.num_classes not in (_CLASSES, Detector(detector.kind, original).num_classes):
        raise WeightsError(f"torchvision's weights have {_CLASSES} classes, and num_classes is {detector.num_classes}.")
    from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights, RetinaNet_ResNet50_FPN_Weights

    masks = detector.kind == "maskrcnn"
    weights: Any = (MaskRCNN_ResNet50_FPN_Weights if masks else RetinaNet_ResNet50_FPN_Weights).COCO_V1
    theirs = replace(detector, num_classes=_CLASSES, p6_from="c5" if masks else "p5")
    model = build_detector(theirs, norm="frozen", frozen_eps=0.0, **settings)
    try:
        state = weights.get_state_dict(progress=False, check_hash=True)
    except Exception as error:  # urllib's errors, and a wrong hash
        raise WeightsError(f"torchvision's weights cannot be fetched from {weights.url}: {error}.") from error
    model.load_state_dict(state)
    return model

"""The names of detectors. Loads neither torch nor timm."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from bsszoo.codes.detector import CHANNELS, SIZE, Detector, Kind
from bsszoo.models.names import entries, resolve_code

#: The detectors of the paper's Table 5, and RetinaNet's code as it is printed there.
DETECTORS: Final = (
    "maskrcnn_resnet50",
    "maskrcnn_resnet50_autobss",
    "retinanet_resnet50",
    "retinanet_resnet50_autobss",
    "retinanet_resnet50_autobss_printed",
)
# The codes that were searched for each kind, by the entries of their backbones.
_SEARCHED: Final = {
    "resnet50_autobss": "resnet50_{}_autobss",
    "resnet50_autobss_printed": "resnet50_{}_autobss_printed",
}
#: What names torchvision's COCO weights of the two ResNet-50 detectors, and their outputs, by the categories' ids.
TORCHVISION: Final = "torchvision"
TORCHVISION_CLASSES: Final = 91
_WIDTH: Final = re.compile(r"fpn(\d{1,6})_", re.IGNORECASE)


def find_detector(name: str) -> Detector | None:
    """The detector that a name means, None for a text that names none.

    ``maskrcnn_resnet50`` and ``retinanet_resnet50`` have the paper's caffe layout (stride on the first 1x1), and so
    have their ``_autobss`` codes, which were searched for each; ``retinanet_resnet50_autobss_printed`` has the code as
    printed. After the kind any other name of the zoo, or a code's text, is the backbone as it stands. Between them
    ``fpn64`` says that pyramid and heads are 64 channels wide, in place of 256: ``maskrcnn_fpn64_resnet18``.

    Raises:
        CodeError: The text after the kind is a broken code.
        UnknownNameError: It is no name of the zoo.
    """
    head, separator, rest = name.strip().partition("_")
    kind: Kind
    if head.lower() == "maskrcnn":
        kind = "maskrcnn"
    elif head.lower() == "retinanet":
        kind = "retinanet"
    else:
        return None
    if not separator or not rest:
        return None
    channels = CHANNELS
    if (width := _WIDTH.match(rest)) is not None:
        channels, rest = int(width.group(1)), rest[width.end() :]
    entry = entries().get(_SEARCHED.get(rest.lower(), "").format(kind))
    if entry is not None:
        return Detector(kind, entry.code, channels=channels)
    code = resolve_code(rest)
    if rest.lower() == "resnet50":
        code = replace(code, stride_in="1x1")
    return Detector(kind, replace(code, image_size=SIZE), channels=channels)

"""The names of detectors. Loads neither torch nor timm."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from bsszoo.codes.detector import SIZE, Detector, Kind
from bsszoo.zoo.entry import entries, resolve_code

#: The detectors of the paper's Table 5, and RetinaNet's code as it is printed there.
DETECTORS: Final = ("maskrcnn_resnet50", "maskrcnn_resnet50_autobss", "retinanet_resnet50",
                    "retinanet_resnet50_autobss", "retinanet_resnet50_autobss_printed")
# The codes that were searched for each kind, by the entries of their backbones.
_SEARCHED: Final = {
    "resnet50_autobss": "resnet50_{}_autobss", "resnet50_autobss_printed": "resnet50_{}_autobss_printed",
}


def find_detector(name: str) -> Detector | None:
    """The detector that a name means, None for a text that names none.

    ``maskrcnn_resnet50`` and ``retinanet_resnet50`` have the paper's caffe layout (stride on the first 1x1), and so
    have their ``_autobss`` codes, which were searched for each; ``retinanet_resnet50_autobss_printed`` has the code as
    printed. After the kind any other name of the zoo, or a code's text, is the backbone as it stands.

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
    entry = entries().get(_SEARCHED.get(rest.lower(), "").format(kind))
    if entry is not None:
        return Detector(kind, entry.code)
    code = resolve_code(rest)
    if rest.lower() == "resnet50":
        code = replace(code, stride_in="1x1")
    return Detector(kind, replace(code, image_size=SIZE))

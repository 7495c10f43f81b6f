"""SE-ResNets and SE-ResNeXts: squeeze-and-excitation of each block's branch (arXiv:1709.01507)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from bsszoo.codes.families.base import Training
from bsszoo.codes.families.resnet18 import RESNET18, ResNet, ResNet18
from bsszoo.codes.families.resnet50 import RESNET50, ResNet50
from bsszoo.codes.families.resnet50 import published as published_resnet
from bsszoo.codes.families.resnext import SETTINGS, ResNeXt, published
from bsszoo.codes.layers import N


class Squeezed(ResNet):
    """ResNets whose blocks weigh the channels of their branch before it is added to the shortcut."""

    def squeeze(self, width: N) -> N | None:
        """A sixteenth of a block's width, to the nearest multiple of 8 (ties up), at least 8: timm's ``SEModule``."""
        eighths = (width + 64) // 128
        return 8 * (eighths + (eighths == 0))


class SEResNet18(Squeezed, ResNet18):
    """Of basic blocks."""


class SEResNet50(Squeezed, ResNet50):
    """Of bottlenecks."""


class SEResNeXt(Squeezed, ResNeXt):
    """Of bottlenecks in groups."""


# The rate falls in steps there. The paper states no weight decay: it is that of the ResNets it builds on.
_TRAINING: Final = Training(
    1e-4,
    0.6,
    100,
    head_scaled=False,
    label_smoothing=0.0,
    source="the SENet paper (arXiv:1709.01507), but for a cosine schedule",
)


def _settings(of: ResNet) -> dict[str, Any]:
    return {name: getattr(of, name) for name in of.__dataclass_fields__}


SERESNET18 = SEResNet18(
    **{
        **_settings(RESNET18),
        "name": "seresnet18",
        "title": "SE-ResNet-18",
        "training": _TRAINING,
        "published": {
            "seresnet18": replace(
                RESNET18.published["resnet34"], entries=RESNET18.original, title="SE-ResNet-18", tags=()
            ),
            "seresnet34": replace(RESNET18.published["resnet34"], title="SE-ResNet-34", tags=()),
        },
    }
)

SERESNET50 = SEResNet50(
    **{
        **_settings(RESNET50),
        "name": "seresnet50",
        "title": "SE-ResNet-50",
        "training": _TRAINING,
        "published": {
            "seresnet50": published_resnet("SE-ResNet-50", (3, 4, 6, 3), "a1_in1k", "a2_in1k", "a3_in1k", "ra2_in1k"),
            "seresnet101": published_resnet("SE-ResNet-101", (3, 4, 23, 3)),
            "seresnet152": published_resnet("SE-ResNet-152", (3, 8, 36, 3)),
        },
    }
)

SERESNEXT = SEResNeXt(
    **{
        **SETTINGS,
        "name": "seresnext",
        "title": "SE-ResNeXt",
        "training": _TRAINING,
        "published": {
            "seresnext50_32x4d": published("SE-ResNeXt-50 32x4d", (3, 4, 6, 3), 32, 4, "racm_in1k", "gluon_in1k"),
            "seresnext101_32x4d": published("SE-ResNeXt-101 32x4d", (3, 4, 23, 3), 32, 4, "gluon_in1k"),
            "seresnext101_32x8d": published("SE-ResNeXt-101 32x8d", (3, 4, 23, 3), 32, 8, "ah_in1k"),
            "seresnext101_64x4d": published("SE-ResNeXt-101 64x4d", (3, 4, 23, 3), 64, 4, "gluon_in1k"),
        },
    }
)

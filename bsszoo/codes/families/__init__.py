"""The families: each is one file here, and one line in ``FAMILIES``; others are found by entry points (``registry``).

Nothing here computes costs or searches. Sources are the AutoBSS paper (NeurIPS 2020): figure 1 (ResNets), table 2
(MobileNetV2), section B.2.2 (ranges), tables 3 and 4 (codes); for EfficientNet its own paper (arXiv:1905.11946,
table 1); for RegNets theirs (arXiv:2003.13678) and timm; for ConvNeXts theirs (arXiv:2201.03545, 2301.00808) and timm;
for GhostNets theirs (arXiv:1911.11907) and timm; for ViTs theirs (arXiv:2010.11929), DeiT's (arXiv:2012.12877) and
timm.
"""

from __future__ import annotations

from typing import Final

from bsszoo.codes.families.base import FIELDS, Family, Fixed, Published, WidthRange
from bsszoo.codes.families.convnext import CONVNEXT_ATTO, CONVNEXT_TINY
from bsszoo.codes.families.convnextv2 import CONVNEXTV2_ATTO, CONVNEXTV2_TINY
from bsszoo.codes.families.efficientnet import EFFICIENTNET, EFFICIENTNET_B0, EFFICIENTNET_B1
from bsszoo.codes.families.efficientnet_lite import EFFICIENTNET_LITE, TF_EFFICIENTNET_LITE
from bsszoo.codes.families.efficientnetv2 import EFFICIENTNETV2, TF_EFFICIENTNETV2
from bsszoo.codes.families.ghostnet import GHOSTNET
from bsszoo.codes.families.mnasnet import MNASNET, MNASNET_SMALL, SEMNASNET
from bsszoo.codes.families.mobilenetv2 import MOBILENETV2
from bsszoo.codes.families.mobilenetv3 import MOBILENETV3_LARGE, MOBILENETV3_SMALL
from bsszoo.codes.families.mobilenetv4 import MOBILENETV4_CONV_LARGE, MOBILENETV4_CONV_MEDIUM, MOBILENETV4_CONV_SMALL
from bsszoo.codes.families.registry import Families
from bsszoo.codes.families.regnetx import REGNETX
from bsszoo.codes.families.regnety import REGNETY
from bsszoo.codes.families.resnet18 import RESNET18
from bsszoo.codes.families.resnet50 import RESNET50
from bsszoo.codes.families.resnext import RESNEXT
from bsszoo.codes.families.seresnet import SERESNET18, SERESNET50, SERESNEXT
from bsszoo.codes.families.vit import DEIT, VIT_PATCH4, VIT_PATCH8, VIT_PATCH16, VIT_PATCH32
from bsszoo.errors import UnknownNameError, close_matches, formatted

__all__ = ["FAMILIES", "FIELDS", "Family", "Fixed", "Published", "WidthRange", "family_of"]

FAMILIES: Final = Families(
    (
        RESNET18,
        RESNET50,
        MOBILENETV2,
        EFFICIENTNET_B0,
        EFFICIENTNET_B1,
        EFFICIENTNET,
        EFFICIENTNET_LITE,
        TF_EFFICIENTNET_LITE,
        EFFICIENTNETV2,
        TF_EFFICIENTNETV2,
        MNASNET,
        SEMNASNET,
        MNASNET_SMALL,
        MOBILENETV3_LARGE,
        MOBILENETV3_SMALL,
        MOBILENETV4_CONV_SMALL,
        MOBILENETV4_CONV_MEDIUM,
        MOBILENETV4_CONV_LARGE,
        GHOSTNET,
        REGNETX,
        REGNETY,
        RESNEXT,
        SERESNET18,
        SERESNET50,
        SERESNEXT,
        CONVNEXT_ATTO,
        CONVNEXT_TINY,
        CONVNEXTV2_ATTO,
        CONVNEXTV2_TINY,
        DEIT,
        VIT_PATCH16,
        VIT_PATCH32,
        VIT_PATCH8,
        VIT_PATCH4,
    )
)


def family_of(name: str) -> Family:
    """The family with this name; an unknown name raises ``UnknownNameError`` with close matches."""
    try:
        return FAMILIES[name]
    except (KeyError, TypeError):
        raise UnknownNameError(
            f"There is no family {formatted(name)}.{close_matches(formatted(name), FAMILIES)}"
        ) from None

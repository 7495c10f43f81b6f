"""ConvNeXt V2: ConvNeXt with a global response normalisation in place of the layer scale (arXiv:2301.00808)."""

from __future__ import annotations

from typing import Final

from bsszoo.codes.families.convnext import RATIO, TRAINING, convnext, published

_TAGS: Final = ("fcmae_ft_in22k_in1k", "fcmae_ft_in22k_in1k_384", "fcmae_ft_in1k")

CONVNEXTV2_ATTO = convnext(
    "convnextv2_atto",
    "ConvNeXt V2-Atto",
    linear=False,
    responds=True,
    original=(40, 80, 160, 320, 2, 2, 6, 2, *(RATIO,) * 4),
    training=TRAINING,
    published={
        "convnextv2_atto": published("ConvNeXt V2-Atto", 40, (2, 2, 6, 2), "fcmae_ft_in1k"),
        "convnextv2_femto": published("ConvNeXt V2-Femto", 48, (2, 2, 6, 2), "fcmae_ft_in1k"),
        "convnextv2_pico": published("ConvNeXt V2-Pico", 64, (2, 2, 6, 2), "fcmae_ft_in1k"),
        "convnextv2_nano": published("ConvNeXt V2-Nano", 80, (2, 2, 8, 2), *_TAGS),
    },
)
CONVNEXTV2_TINY = convnext(
    "convnextv2_tiny",
    "ConvNeXt V2-Tiny",
    linear=True,
    responds=True,
    original=(96, 192, 384, 768, 3, 3, 9, 3, *(RATIO,) * 4),
    training=TRAINING,
    published={
        "convnextv2_tiny": published("ConvNeXt V2-Tiny", 96, (3, 3, 9, 3), *_TAGS),
        "convnextv2_small": published("ConvNeXt V2-Small", 96, (3, 3, 27, 3)),
        "convnextv2_base": published("ConvNeXt V2-Base", 128, (3, 3, 27, 3), *_TAGS),
    },
)

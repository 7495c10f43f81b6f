"""Random codes for the property-based tests: inside and far outside the paper's spaces."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import strategies as st

from bsszoo.codes import FAMILIES, Code

FAMILY_NAMES = sorted(FAMILIES)
RESNETS = ("resnet18", "resnet50", "resnext", "seresnet18", "seresnet50", "seresnext")
REGNETS = ("regnetx", "regnety")
#: Families whose blocks are bottlenecks, in groups or not.
BOTTLENECKS = ("resnet50", "resnext", "seresnet50", "seresnext")
RESNEXTS = ("resnext", "seresnext")
MOBILENETV4S = ("mobilenetv4_conv_small", "mobilenetv4_conv_medium", "mobilenetv4_conv_large")
CONVNEXTS = ("convnext_atto", "convnext_tiny", "convnextv2_atto", "convnextv2_tiny")
#: Plain vision transformers by the sides of their patches.
VITS = {"deit": 16, "vit_patch4": 4, "vit_patch8": 8, "vit_patch16": 16, "vit_patch32": 32}
#: The least side of an image that a family's networks take [px].
LEAST_SIDES = {**dict.fromkeys(CONVNEXTS, 32), **VITS}


#: A family of each kind of block.
KINDS = (
    *("resnet18", "resnext", "seresnet50", "regnety", "mobilenetv2", "efficientnet_b0", "mobilenetv3_small"),
    *("mobilenetv4_conv_medium", "tf_efficientnetv2", "ghostnet", "convnext_tiny", "convnextv2_atto", "vit_patch8"),
)


def some_by_default(values: Iterable[Any], kept: Iterable[Any]) -> list[Any]:
    """Parameters of a test, of which those that are not ``kept`` are run with ``-m extended`` alone."""
    usual = list(kept)
    return [
        value
        if value in usual
        else pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.extended)
        for value in values
    ]


@st.composite
def codes(draw: st.DrawFn, *, max_width: int = 2000, max_depth: int = 12, fixed_parts: bool = True) -> Code:
    """Any code of any family, with odd widths, inner ones too, and, unless told otherwise, fixed parts of its own."""
    family = draw(st.sampled_from(FAMILY_NAMES))
    mbconv = family not in RESNETS + REGNETS + CONVNEXTS + tuple(VITS)
    stages = FAMILIES[family].stages
    width, depth = st.integers(1, max_width), st.integers(1, max_depth)
    parts: dict[str, object] = {}
    inner = family not in REGNETS and draw(st.booleans())
    if family in (*BOTTLENECKS, *VITS) or inner:
        parts["bottlenecks"] = tuple(draw(width) for _ in range(stages))
    if family in (*RESNEXTS, *VITS):
        groups = tuple(draw(st.integers(1, min(b, 64))) for b in parts["bottlenecks"])
        parts["group_widths"] = groups
        parts["bottlenecks"] = tuple(b // g * g for b, g in zip(parts["bottlenecks"], groups, strict=True))
    if family in BOTTLENECKS and fixed_parts:
        parts["stride_in"] = draw(st.sampled_from(["3x3", "1x1"]))
    if mbconv and inner and draw(st.booleans()):
        parts["first_bottlenecks"] = tuple(draw(width) for _ in range(stages))
    if (mbconv or family in CONVNEXTS) and not inner:
        parts["expansions"] = tuple(draw(st.integers(1, 8)) for _ in range(stages))
    if fixed_parts:
        names = ["stem_width", "image_size"] + (["head_width"] if mbconv else [])
        names += ["stage2_width", "stage2_depth"] if mbconv and family not in MOBILENETV4S else []
        limits = dict.fromkeys(names, max_width) | {"stage2_depth": max_depth, "image_size": 512}
        for name in names:
            if draw(st.booleans()):
                # A ConvNeXt reads whole patches of whole patches: 32 px at least; a ViT whole patches.
                least = LEAST_SIDES.get(family, 1) if name == "image_size" else 1
                parts[name] = draw(st.integers(least, limits[name]))
    widths = tuple(draw(width) for _ in range(stages))
    if family in REGNETS:
        parts["group_widths"] = tuple(draw(st.integers(1, min(c, 64))) for c in widths)
        widths = tuple(c // g * g for c, g in zip(widths, parts["group_widths"], strict=True))
    depths = tuple(draw(depth) for _ in range(stages))
    return Code(family, widths, depths, **parts)  # type: ignore[arg-type]

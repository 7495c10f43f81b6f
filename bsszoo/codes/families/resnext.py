"""ResNeXt: ResNet-50's stages, whose 3x3 convolutions are in groups (Xie et al., CVPR 2017, arXiv:1611.05431)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any, Final

from bsszoo.codes.families.base import CodeFields, Fixed, Published, Shapes, Training, scaled
from bsszoo.codes.families.resnet50 import RESNET50, ResNet50
from bsszoo.codes.layers import Block, N


class ResNeXt(ResNet50):
    """ResNets of bottlenecks in groups: the number of groups ("cardinality") of a stage is B / G.

    Searches and subnetworks change how many groups there are and leave each as wide as it is.
    """

    def blocks(
        self, index: int, width_in: N, width: N, thirds: Mapping[str, N], fixed: Fixed
    ) -> tuple[Block[N], Block[N]]:
        """Bottlenecks with groups of ``G`` channels."""
        first, rest = super().blocks(index, width_in, width, thirds, fixed)
        return replace(first, group_width=thirds["G"]), replace(rest, group_width=thirds["G"])

    @property
    def grid_divisors(self) -> tuple[int, ...]:
        """Every share of a width is made of whole groups."""
        shares = math.lcm(*(share.denominator for share in self.third_values))
        return tuple(math.lcm(self.grid_divisor, shares * group) for group in self.fixed_groups)

    def rescaled_entries(self, code: CodeFields, scale: float) -> dict[str, tuple[int, ...]]:
        """Widths and inner widths rescaled, these to whole groups, which stay as wide."""
        inner, groups = code.thirds[: self.stages], code.thirds[self.stages :]
        return {
            "widths": tuple(scaled(scale * c, self.uniform_divisor) for c in code.widths),
            "bottlenecks": tuple(
                scaled(scale * b, math.lcm(g, self.uniform_divisor if b % self.uniform_divisor == 0 else 1))
                for b, g in zip(inner, groups, strict=True)
            ),
            "group_widths": groups,
        }

    def timm_arguments(self, code: CodeFields) -> tuple[str, dict[str, Any]] | None:
        """timm's ResNeXt with other layers, channels, cardinality and base width, the last two of all stages."""
        if code.stride_in != "3x3":
            return None
        planes, groups = [width // 4 for width in code.widths], code.thirds[self.stages :]
        base_width = 64 * groups[0] / max(1, planes[0])
        return self.original_name, {
            "layers": list(code.depths),
            "channels": planes,
            "cardinality": code.thirds[0] // groups[0],
            "base_width": int(base_width) if base_width.is_integer() else base_width,
        }

    def code_of(self, shapes: Shapes) -> dict[str, Any] | None:
        """As of a ResNet-50, with the group widths off ``layer1.0.conv2``; None of one group in every stage."""
        fields = super().code_of(shapes)
        if fields is None:
            return None
        convs = [shapes.get(f"{self.stage_name(s)}.0.conv2.weight", ()) for s in range(self.stages)]
        if any(len(shape) != 4 for shape in convs):
            return None
        groups = tuple(int(shape[1]) for shape in convs)
        return None if groups == fields["bottlenecks"] else {**fields, "group_widths": groups}


def published(title: str, depths: tuple[int, ...], cardinality: int, width: int, *tags: str) -> Published:
    """A published ResNeXt: ``cardinality`` groups of ``width`` channels, twice as wide in each further stage."""
    groups = tuple(width * 2**stage for stage in range(4))
    inner = tuple(cardinality * group for group in groups)
    return Published((256, 512, 1024, 2048, *depths, *inner, *groups), title, tags)


_FB: Final = ("fb_ssl_yfcc100m_ft_in1k", "fb_swsl_ig1b_ft_in1k")
_50, _101 = (3, 4, 6, 3), (3, 4, 23, 3)

#: What all families of ResNeXt blocks have.
SETTINGS: Final[dict[str, Any]] = {
    **{name: getattr(RESNET50, name) for name in RESNET50.__dataclass_fields__},
    "letter": "BG",
    "original": published("", _50, 32, 4).entries,
    "third_values": (Fraction(1, 4), Fraction(1, 2), Fraction(3, 4), Fraction(1)),
}

RESNEXT = ResNeXt(
    **{
        **SETTINGS,
        "name": "resnext",
        "title": "ResNeXt",
        # At a batch of 256 the rate is 0.1, and it falls in steps, in both; torchvision's epochs.
        "training": Training(
            1e-4,
            0.4,
            100,
            head_scaled=False,
            label_smoothing=0.0,
            source="the ResNeXt paper and torchvision's references, but for the batch and a cosine schedule",
        ),
        "published": {
            "resnext50_32x4d": published(
                "ResNeXt-50 32x4d",
                _50,
                32,
                4,
                *("a1h_in1k", "a1_in1k", "a2_in1k", "a3_in1k", "ra_in1k", "tv_in1k", "tv2_in1k", *_FB, "gluon_in1k"),
            ),
            "resnext101_32x4d": published("ResNeXt-101 32x4d", _101, 32, 4, *_FB, "gluon_in1k"),
            "resnext101_32x8d": published(
                "ResNeXt-101 32x8d", _101, 32, 8, "tv_in1k", "tv2_in1k", "fb_wsl_ig1b_ft_in1k", *_FB
            ),
            "resnext101_64x4d": published("ResNeXt-101 64x4d", _101, 64, 4, "c1_in1k", "tv_in1k", "gluon_in1k"),
            "resnext101_32x16d": published("ResNeXt-101 32x16d", _101, 32, 16, "fb_wsl_ig1b_ft_in1k", *_FB),
            "resnext101_32x32d": published("ResNeXt-101 32x32d", _101, 32, 32, "fb_wsl_ig1b_ft_in1k"),
        },
    }
)

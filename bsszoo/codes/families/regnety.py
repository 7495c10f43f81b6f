"""RegNetY: RegNetX with squeeze-and-excitation."""

from __future__ import annotations

from bsszoo.codes.families.base import multiples
from bsszoo.codes.families.regnetx import RegNet, published, regnet
from bsszoo.codes.layers import N


class RegNetY(RegNet):
    """RegNets with squeeze-and-excitation."""

    def squeeze(self, width_in: N) -> N | None:
        """A quarter of the block's input width, to the nearest integer (ties to the even one), at least 1: timm's."""
        quarter, rest = width_in // 4, width_in % 4
        nearest = quarter + 1 * (rest == 3) + 1 * (rest == 2) * (quarter % 2)
        return nearest + (nearest == 0)


REGNETY = regnet(
    RegNetY,
    "regnety",
    "RegNetY",
    original=(72, 216, 576, 1512, 2, 5, 13, 1, 24, 24, 24, 24),
    width_ranges=multiples((24, 24, 48, 72), (24, 48, 144, 360), (168, 504, 1296, 3024)),
    max_depths=(5, 9, 18, 8),
    published={
        "regnety_002": published("RegNetY-200MF", (24, 56, 152, 368), (1, 1, 4, 7), 8),
        "regnety_004": published("RegNetY-400MF", (48, 104, 208, 440), (1, 3, 6, 6), 8, "tv2_in1k"),
        "regnety_006": published("RegNetY-600MF", (48, 112, 256, 608), (1, 3, 7, 4), 16),
        "regnety_008": published("RegNetY-800MF", (64, 128, 320, 768), (1, 3, 8, 2), 16),
        "regnety_016": published("RegNetY-1.6GF", (48, 120, 336, 888), (2, 6, 17, 2), 24, "tv2_in1k"),
        "regnety_032": published("RegNetY-3.2GF", (72, 216, 576, 1512), (2, 5, 13, 1), 24, "ra_in1k", "tv2_in1k"),
    },
)

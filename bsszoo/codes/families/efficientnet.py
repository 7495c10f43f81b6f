"""EfficientNet-B0 and B1: MobileNetV2's blocks with squeeze-and-excitation, larger kernels and SiLU."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Final

from bsszoo.codes.families.base import Shapes, Training, counted, multiples
from bsszoo.codes.families.mobilenetv2 import MBConvNet, torchvision_ends
from bsszoo.codes.layers import N

_INSIDE: Final = {
    "block.0.0": "conv_pw",
    "block.0.1": "bn1",
    "block.1.0": "conv_dw",
    "block.1.1": "bn2",
    "block.3.0": "conv_pwl",
    "block.3.1": "bn3",
    "block.2.fc1": "se.conv_reduce",
    "block.2.fc2": "se.conv_expand",
}
# Of a block without expansion.
_ALONE: Final = {
    "block.0.0": "conv_dw",
    "block.0.1": "bn1",
    "block.2.0": "conv_pw",
    "block.2.1": "bn2",
    "block.1.fc1": "se.conv_reduce",
    "block.1.fc2": "se.conv_expand",
}


class EfficientNet(MBConvNet):
    """EfficientNets."""

    def from_torchvision(self, shapes: Shapes) -> Mapping[str, str] | None:
        """``features.2.0.block.1.0`` is ``blocks.1.0.conv_dw``, and so on."""
        if "features.1.0.block.0.0.weight" not in shapes:
            return None
        stages = counted(shapes, lambda i: f"features.{i + 1}.0.block.0.0")
        names = torchvision_ends(stages + 1)
        for stage in range(stages):
            for block in range(counted(shapes, lambda i, s=stage: f"features.{s + 1}.{i}.block.0.0")):
                at = f"features.{stage + 1}.{block}"
                inside = _ALONE if f"{at}.block.1.fc1.weight" in shapes else _INSIDE
                names |= {f"{at}.{theirs}": f"blocks.{stage}.{block}.{ours}" for theirs, ours in inside.items()}
        return names

    def squeeze(self, width_in: N) -> N | None:
        """A quarter of the block's input width (not of the expanded width), at least 1: their reference code."""
        quarter = width_in // 4
        return quarter + (quarter == 0)


def _efficientnet(name: str, title: str, size: int, depths: tuple[int, ...], stage2_depth: int) -> EfficientNet:
    return EfficientNet(
        name=name,
        title=title,
        letter="T",
        first_stage=3,
        strides=(2, 2, 2, 1, 2, 1),
        kernels=(3, 5, 3, 5, 5, 3),
        stem_kernel=3,
        stem_width=32,
        stage2=(16, 1),
        activation="silu",
        image_size=size,
        original=(24, 40, 80, 112, 192, 320, *depths, 6, 6, 6, 6, 6, 6),
        original_stage2_depth=stage2_depth,
        width_ranges=multiples((4, 8, 16, 28, 48, 80), (16, 24, 48, 56, 144, 160), (32, 64, 160, 280, 480, 640)),
        max_depths=(6, 6, 7, 7, 8, 5),
        third_values=(Fraction(3), Fraction(6)),
        grid_divisor=1,
        uniform_divisor=4,
        interpolation="bicubic",
        first_conv="conv_stem",
        classifier="classifier",
        training=Training(
            2e-5,
            0.7,
            350,
            autoaugment=True,
            drop_rate=0.2,
            drop_path_rate=0.2,
            crop_pct=0.882 if size == 240 else 0.875,
            interpolation="bicubic",
        ),
    )


EFFICIENTNET_B0 = _efficientnet("efficientnet_b0", "EfficientNet-B0", 224, (2, 2, 3, 3, 4, 1), 1)
# The original B1 has two blocks in stage 2; the searched codes' figures come out only with one.
EFFICIENTNET_B1 = _efficientnet("efficientnet_b1", "EfficientNet-B1", 240, (3, 3, 4, 4, 5, 2), 2)

"""MnasNets: inverted residual blocks of searched kernels, expansions and squeeze-and-excitation (arXiv:1807.11626).

Three families: B1, which has no squeeze-and-excitation (timm's ``mnasnet_100``), A1, which has it in three stages
(``semnasnet_100``), and the small one of their code. timm's networks of other widths are each family's published ones:
of them the stem and stage 2 are rescaled as well, the last convolution is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Any, Final

from bsszoo.codes.families.base import Published, Shapes, Training, counted, multiples
from bsszoo.codes.families.mobilenetv2 import MBConvNet

_ENDS_OF_TORCHVISION: Final = {
    "layers.0": "conv_stem",
    "layers.1": "bn1",
    "layers.3": "blocks.0.0.conv_dw",
    "layers.4": "blocks.0.0.bn1",
    "layers.6": "blocks.0.0.conv_pw",
    "layers.7": "blocks.0.0.bn2",
    "layers.14": "conv_head",
    "layers.15": "bn2",
    "classifier.1": "classifier",
}
_INSIDE: Final = {"0": "conv_pw", "1": "bn1", "3": "conv_dw", "4": "bn2", "6": "conv_pwl", "7": "bn3"}
#: The first of torchvision's parts that is a searched stage.
_FIRST: Final = 8


@dataclass(frozen=True)
class MnasNet(MBConvNet):
    """MnasNets."""

    def from_torchvision(self, shapes: Shapes) -> Mapping[str, str] | None:
        """``layers.8.0.layers.3`` is ``blocks.1.0.conv_dw``, and so on."""
        if "layers.8.0.layers.3.weight" not in shapes:
            return None
        names = dict(_ENDS_OF_TORCHVISION)
        for stage in range(self.stages):
            at = f"layers.{_FIRST + stage}"
            for block in range(counted(shapes, lambda i, at=at: f"{at}.{i}.layers.3")):
                ours = f"{self.stage_name(stage)}.{block}"
                names |= {f"{at}.{block}.layers.{theirs}": f"{ours}.{name}" for theirs, name in _INSIDE.items()}
        return names


def _family(name: str, title: str, **settings: Any) -> MnasNet:
    return MnasNet(
        name=name,
        title=title,
        letter="T",
        first_stage=3,
        strides=(2, 2, 2, 1, 2, 1),
        stem_kernel=3,
        activation="relu",
        image_size=224,
        original_stage2_depth=1,
        third_values=(Fraction(3), Fraction(6)),
        grid_divisor=1,
        uniform_divisor=4,
        interpolation="bicubic",
        first_conv="conv_stem",
        classifier="classifier",
        training=Training(
            2e-5, 0.7, 120, drop_rate=0.2, source="the AutoBSS paper's Table 1 for MobileNetV2, dropout of their paper"
        ),
        head_width=1280,
        **settings,
    )


def _published(title: str, entries: tuple[int, ...], stem: int, stage2: int, *tags: str) -> Published:
    return Published(entries, title, tags, fixed=MappingProxyType({"stem_width": stem, "stage2_width": stage2}))


def _b1(*widths: int) -> tuple[int, ...]:
    return (*widths, 3, 3, 3, 2, 4, 1, 3, 3, 6, 6, 6, 6)


def _a1(*widths: int) -> tuple[int, ...]:
    return (*widths, 2, 3, 4, 2, 3, 1, 6, 3, 6, 6, 6, 6)


MNASNET: Final = _family(
    "mnasnet",
    "MnasNet-B1",
    kernels=(3, 5, 5, 3, 5, 3),
    stem_width=32,
    stage2=(16, 1),
    original=_b1(24, 40, 80, 96, 192, 320),
    width_ranges=multiples((4, 8, 16, 24, 48, 80), (12, 24, 48, 48, 96, 160), (32, 64, 160, 192, 384, 640)),
    max_depths=(6, 6, 6, 5, 8, 4),
    published={
        "mnasnet_050": _published("MnasNet-B1 0.5", _b1(16, 24, 40, 48, 96, 160), 16, 8),
        "mnasnet_075": _published("MnasNet-B1 0.75", _b1(24, 32, 64, 72, 144, 240), 24, 16),
        "mnasnet_100": _published("MnasNet-B1", _b1(24, 40, 80, 96, 192, 320), 32, 16, "rmsp_in1k"),
        "mnasnet_140": _published("MnasNet-B1 1.4", _b1(32, 56, 112, 136, 272, 448), 48, 24),
    },
)
SEMNASNET: Final = _family(
    "semnasnet",
    "MnasNet-A1",
    kernels=(3, 5, 3, 3, 5, 3),
    stem_width=32,
    stage2=(16, 1),
    original=_a1(24, 40, 80, 112, 160, 320),
    width_ranges=multiples((4, 8, 16, 28, 40, 80), (12, 24, 48, 56, 80, 160), (32, 64, 160, 224, 320, 640)),
    max_depths=(5, 6, 8, 5, 6, 4),
    gates=(False, False, True, False, True, True, False),
    published={
        "semnasnet_050": _published("MnasNet-A1 0.5", _a1(16, 24, 40, 56, 80, 160), 16, 8),
        "semnasnet_075": _published("MnasNet-A1 0.75", _a1(24, 32, 64, 88, 120, 240), 24, 16, "rmsp_in1k"),
        "semnasnet_100": _published("MnasNet-A1", _a1(24, 40, 80, 112, 160, 320), 32, 16, "rmsp_in1k"),
        "semnasnet_140": _published("MnasNet-A1 1.4", _a1(32, 56, 112, 160, 224, 448), 48, 24),
    },
)
MNASNET_SMALL: Final = _family(
    "mnasnet_small",
    "MnasNet-Small",
    kernels=(3, 3, 5, 3, 5, 3),
    stem_width=8,
    stage2=(8, 1),
    original=(16, 16, 32, 32, 88, 144, 1, 2, 4, 3, 3, 1, 3, 6, 6, 6, 6, 6),
    width_ranges=multiples((4, 4, 8, 8, 22, 36), (8, 8, 16, 16, 44, 72), (32, 32, 64, 64, 176, 288)),
    max_depths=(4, 5, 8, 6, 6, 4),
    gates=(False, False, False, True, True, True, False),
    published={
        "mnasnet_small": Published(
            (16, 16, 32, 32, 88, 144, 1, 2, 4, 3, 3, 1, 3, 6, 6, 6, 6, 6), "MnasNet-Small", ("lamb_in1k",)
        )
    },
)

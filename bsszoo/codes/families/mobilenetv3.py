"""MobileNetV3: inverted residual blocks with hard-swish, behind them a head on pooled features (arXiv:1905.02244).

The first stages have ReLU, some squeeze-and-excitation by hard sigmoids. Behind the last block comes a 1x1 convolution
to six times as many channels, the pooling, and a second 1x1 convolution in front of the classifier.

The published networks have inner widths that no whole expansion gives (4.5, 3.67, 2.3 times the input), and so are
written as subnetworks are, with ``b`` and ``e``; the search space has whole expansions. A stage of a code has one inner
width for its first block and one for its others. The fourth stage of the large network has three different ones: in
timm's module ``blocks.3`` are two stages of a code, its first block and the further ones, of stride 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, Final

from bsszoo.codes.families.base import Fixed, Published, Training, multiples
from bsszoo.codes.families.mobilenetv2 import InnerMBConv, MBConv, MBConvNet
from bsszoo.codes.layers import HeadConv, N, PooledConv, Stage

#: What the last 1x1 convolution before the pooling multiplies channels by: the last block's expansion.
_LAST: Final = 6


class HardMBConv(MBConv[N]):
    """An inverted residual block whose squeeze-and-excitation has a hard sigmoid."""

    __slots__ = ()

    hard_gate: ClassVar[bool] = True


class HardInnerMBConv(InnerMBConv[N]):
    """The same with an inner width of its own."""

    __slots__ = ()

    hard_gate: ClassVar[bool] = True


class ReluMBConv(HardMBConv[N]):
    """The same with ReLU."""

    __slots__ = ()

    kind: ClassVar[str] = "mbconv_relu"
    activation: ClassVar[str] = "relu"


class ReluInnerMBConv(HardInnerMBConv[N]):
    """The same with ReLU and an inner width of its own."""

    __slots__ = ()

    kind: ClassVar[str] = "inverted_relu"
    activation: ClassVar[str] = "relu"


@dataclass(frozen=True)
class MobileNetV3(MBConvNet):
    """MobileNetV3s.

    Args:
        relu_stages: Searched stages with ReLU: the first ones, and stage 2.
        network_name: The zoo's name of the published network of the family's own widths.
    """

    relu_stages: int = 0
    network_name: str = ""

    @property
    def original_name(self) -> str:
        """Its published network, which has not the whole expansions of ``original``."""
        return self.network_name

    def gate(self, stage: int, width_in: N, mid_width: N) -> N | None:
        """A quarter of the inner width, to a multiple of 8 that is not below 0.9 of it: timm's ``round_channels``."""
        if not self.gates[stage + 1]:
            return None
        nearest = (mid_width + 16) // 32 * 8  # 8 floor((m/4 + 4) / 8)
        nearest = nearest + 8 * (nearest == 0)
        return nearest + 8 * (40 * nearest < 9 * mid_width)

    def plain_block(self, stage: int) -> type[MBConv[Any]]:
        """With ReLU in the first stages."""
        return ReluMBConv if stage < self.relu_stages else HardMBConv

    def inner_block(self, stage: int) -> type[MBConv[Any]]:
        """With ReLU in the first stages."""
        return ReluInnerMBConv if stage < self.relu_stages else HardInnerMBConv

    def behind(self, width: N, fixed: Fixed) -> list[Stage[N]]:
        """The convolution before the pooling, and the one behind it."""
        number, name = self.first_stage + self.stages, f"blocks.{self._last_module}"
        wide, head = _LAST * width, 0 * width + fixed.head_width
        last: HeadConv[N] = HeadConv(name, width, wide, wide, 1, 1, layer=f"{name}.0.conv", norm_layer=f"{name}.0.bn1")
        pooled: PooledConv[N] = PooledConv("conv_head", wide, head, head, 1, 1, layer="conv_head")
        return [self.single(last, number, name), self.single(pooled, number, "conv_head")]

    @property
    def _last_module(self) -> int:
        return 1 + (self.modules[-1] if self.modules else self.stages)

    def rescaled_stem(self, width: int, scale: float) -> int:
        """The same: all published networks have a stem of 16 channels."""
        return width

    def network(self) -> Any:
        """timm's ``MobileNetV3``, module by module."""
        from bsszoo.codes.families.mbconv_modules import CodeMobileNetV3

        return partial(CodeMobileNetV3, style=self.style)

    def features(self) -> Any:
        """A separate class, whose keys stay those of the whole network."""
        from bsszoo.codes.families.mbconv_modules import CodeMobileNetV3Features

        return partial(CodeMobileNetV3Features, style=self.style)


def _family(name: str, title: str, **settings: Any) -> MobileNetV3:
    return MobileNetV3(
        name=name,
        title=title,
        letter="T",
        first_stage=3,
        stem_kernel=3,
        stem_width=16,
        stage2=(16, 1),
        activation="hard_swish",
        image_size=224,
        original_stage2_depth=1,
        third_values=(Fraction(3), Fraction(4), Fraction(6)),
        grid_divisor=1,
        uniform_divisor=4,
        interpolation="bicubic",
        first_conv="conv_stem",
        classifier="classifier",
        training=Training(
            2e-5, 0.7, 120, drop_rate=0.2, source="the AutoBSS paper's Table 1 for MobileNetV2, dropout of their paper"
        ),
        **settings,
    )


def _published(
    title: str,
    depths: Sequence[int],
    widths: Sequence[int],
    first: Sequence[int],
    further: Sequence[int],
    stage2: int,
    *tags: str,
) -> Published:
    """A published network, by the inner widths of the first and of the further blocks of each stage."""
    fixed = MappingProxyType({"stage2_width": stage2})
    return Published((*widths, *depths, *further, *first), title, tags, form="BE", fixed=fixed)


_LARGE: Final = (2, 3, 1, 3, 2, 3)
_SMALL: Final = (2, 3, 2, 3)

MOBILENETV3_LARGE: Final = _family(
    "mobilenetv3_large",
    "MobileNetV3-Large",
    strides=(2, 2, 2, 1, 1, 2),
    kernels=(3, 5, 3, 3, 3, 5),
    # Published: 4 and 3, 3, 6, 2.5 and 2.3, 6, 6 times the input.
    original=(24, 40, 80, 80, 112, 160, *_LARGE, 3, 3, 6, 3, 6, 6),
    width_ranges=multiples((4, 8, 16, 16, 28, 40), (12, 24, 48, 48, 56, 80), (48, 80, 160, 160, 224, 320)),
    max_depths=(5, 6, 3, 6, 5, 6),
    head_width=1280,
    gates=(False, False, True, False, False, True, True),
    modules=(1, 2, 3, 3, 4, 5),
    relu_stages=2,
    network_name="mobilenetv3_large_100",
    published={
        "mobilenetv3_large_075": _published(
            "MobileNetV3-Large 0.75",
            _LARGE,
            (24, 32, 64, 64, 88, 120),
            (64, 72, 192, 160, 384, 528),
            (72, 96, 192, 144, 528, 720),
            16,
        ),
        "mobilenetv3_large_100": _published(
            "MobileNetV3-Large",
            _LARGE,
            (24, 40, 80, 80, 112, 160),
            (64, 72, 240, 200, 480, 672),
            (72, 120, 240, 184, 672, 960),
            16,
            "ra_in1k",
            "ra4_e3600_r224_in1k",
            "miil_in21k_ft_in1k",
            "miil_in21k",
        ),
    },
)
MOBILENETV3_SMALL: Final = _family(
    "mobilenetv3_small",
    "MobileNetV3-Small",
    strides=(2, 2, 1, 2),
    kernels=(3, 5, 5, 5),
    # Published: 4.5 and 3.67, 4 and 6, 3, 6 times the input.
    original=(24, 40, 48, 96, *_SMALL, 4, 6, 3, 6),
    width_ranges=multiples((4, 8, 8, 16), (12, 24, 24, 48), (48, 80, 96, 192)),
    max_depths=(5, 6, 5, 6),
    head_width=1024,
    gates=(True, False, True, True, True),
    stage2_stride=2,
    relu_stages=1,
    network_name="mobilenetv3_small_100",
    published={
        "mobilenetv3_small_050": _published(
            "MobileNetV3-Small 0.5", _SMALL, (16, 24, 24, 48), (40, 64, 72, 144), (56, 144, 72, 288), 8, "lamb_in1k"
        ),
        "mobilenetv3_small_075": _published(
            "MobileNetV3-Small 0.75", _SMALL, (24, 32, 40, 72), (72, 96, 96, 240), (88, 192, 120, 432), 16, "lamb_in1k"
        ),
        "mobilenetv3_small_100": _published(
            "MobileNetV3-Small", _SMALL, (24, 40, 48, 96), (72, 96, 120, 288), (88, 240, 144, 576), 16, "lamb_in1k"
        ),
    },
)

"""EfficientNetV2: fused inverted residual blocks in the first stages, those of EfficientNet behind (arXiv:2104.00298).

A fused block has one dense 3x3 convolution in place of the 1x1 and the depthwise one. Stage 2 is fixed: convolutions
that add their input. timm has the networks in two forms with the same tensors, padded as PyTorch does and as TensorFlow
(``tf_``), with the epsilon of its normalisations; as of EfficientNet-Lite, each is a family.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final

from bsszoo.codes.families.base import Fixed, Published, Training, multiples
from bsszoo.codes.families.efficientnet import efficientnet_training
from bsszoo.codes.families.mobilenetv2 import MBConv, MBConvNet
from bsszoo.codes.layers import Block, Layer, N, Placement

if TYPE_CHECKING:
    from torch import nn


class ConvBlock(Block[N]):
    """A convolution and its activation, beside an identity where the shapes are equal."""

    __slots__ = ()

    kind: ClassVar[str] = "conv"
    activated: ClassVar[bool] = True

    def layers(self) -> list[Layer[N]]:
        """The convolution."""
        return [self._conv("conv", self.in_width, self.out_width, "bn1", self.kernel, self.stride)]

    def build(self: Block[int], placement: Placement, activation: str, dd: dict[str, Any]) -> nn.Module:
        """timm's block."""
        from bsszoo.codes.families.mbconv_modules import Style, build_mbconv

        return build_mbconv(self, placement, Style(activation), dd)

    def title(self: Block[int]) -> str:
        """``Conv 3x3``."""
        return f"Conv {self.kernel}x{self.kernel}"


class FusedMBConv(MBConv[N]):
    """A dense convolution to ``mid_width`` and a 1x1 convolution to the output width."""

    __slots__ = ()

    kind: ClassVar[str] = "fused"

    def layers(self) -> list[Layer[N]]:
        """Both convolutions, of any expansion."""
        return [
            self._conv("conv_exp", self.in_width, self.mid_width, "bn1", self.kernel, self.stride),
            self._conv("conv_pwl", self.mid_width, self.out_width, "bn2"),
        ]

    def title(self: Block[int]) -> str:
        """``Fused-MBConv k3``."""
        return f"Fused-MBConv k{self.kernel}"


class InnerFusedMBConv(FusedMBConv[N]):
    """A fused block with an inner width of its own."""

    __slots__ = ()

    kind: ClassVar[str] = "fused_inverted"
    letter: ClassVar[str] = "B"

    def third(self: Block[int]) -> int:
        """The inner width, B or E."""
        return self.mid_width


@dataclass(frozen=True)
class EfficientNetV2(MBConvNet):
    """EfficientNetV2s; their first ``fused`` searched stages have fused blocks."""

    fused: int = 2

    def plain_block(self, stage: int) -> type[Block[Any]]:
        """Fused in the first stages."""
        return FusedMBConv if stage < self.fused else super().plain_block(stage)

    def inner_block(self, stage: int) -> type[Block[Any]]:
        """Fused in the first stages."""
        return InnerFusedMBConv if stage < self.fused else super().inner_block(stage)

    def block(self, name: str, width_in: N, width: N, third: N, kernel: int, stride: int, fixed: Fixed) -> Block[N]:
        """A convolution of the fixed stage 2."""
        return ConvBlock(name, width_in, width, width, kernel, stride)

    def spatial(self, stage: int) -> str:
        """The name of the convolution with a kernel in the blocks of a searched stage, or of stage 2 (-1)."""
        return "conv" if stage < 0 else "conv_exp" if stage < self.fused else "conv_dw"


def _training(size: int, drop_rate: float) -> Training:
    """As EfficientNet-B1, with dropout of their code, and larger images whole."""
    source = "the AutoBSS paper's Table 1 for EfficientNet-B1, dropout of EfficientNetV2's code"
    return efficientnet_training(size, drop_rate, crop_pct=1.0 if size > 300 else None, source=source)


def _published(
    title: str,
    widths: tuple[int, ...],
    depths: tuple[int, ...],
    stem: int,
    stage2: tuple[int, int],
    head: int,
    size: int,
    drop_rate: float,
    *tags: str,
) -> Published:
    fixed = {
        "stem_width": stem,
        "stage2_width": stage2[0],
        "stage2_depth": stage2[1],
        "head_width": head,
        "image_size": size,
    }
    return Published(
        (*widths, *depths, 4, 4, 4, 6, 6),
        title,
        tags,
        fixed=MappingProxyType(fixed),
        training=_training(size, drop_rate),
    )


_S: Final = ((48, 64, 128, 160, 256), (4, 4, 6, 9, 15), 24, (24, 2), 1280, 384, 0.2)

EFFICIENTNETV2: Final = EfficientNetV2(
    name="efficientnetv2",
    title="EfficientNetV2",
    letter="T",
    first_stage=3,
    strides=(2, 2, 2, 1, 2),
    kernels=(3, 3, 3, 3, 3),
    stem_kernel=3,
    stem_width=24,
    stage2=(24, 2),
    activation="silu",
    image_size=384,
    original=(48, 64, 128, 160, 256, 4, 4, 6, 9, 15, 4, 4, 4, 6, 6),
    original_stage2_depth=2,
    # S has four steps of each width.
    width_ranges=multiples((12, 16, 32, 40, 64), (24, 32, 64, 80, 128), (84, 112, 224, 280, 448)),
    max_depths=(8, 8, 10, 14, 22),
    third_values=(Fraction(2), Fraction(4), Fraction(6)),
    grid_divisor=1,
    uniform_divisor=4,
    interpolation="bicubic",
    first_conv="conv_stem",
    classifier="classifier",
    training=_training(384, 0.2),
    published={
        "efficientnetv2_rw_t": _published(
            "EfficientNetV2-T", (40, 48, 104, 128, 208), (4, 4, 6, 9, 14), 24, (24, 2), 1024, 288, 0.2, "ra2_in1k"
        ),
        "efficientnetv2_s": _published("EfficientNetV2-S", *_S),
    },
    head_width=1280,
    gates=(False, False, False, True, True, True),
)
TF_EFFICIENTNETV2: Final = replace(
    EFFICIENTNETV2,
    name="tf_efficientnetv2",
    title="EfficientNetV2 (TensorFlow)",
    published={
        "tf_efficientnetv2_b0": _published(
            "EfficientNetV2-B0", (32, 48, 96, 112, 192), (2, 2, 3, 5, 8), 32, (16, 1), 1280, 224, 0.2, "in1k"
        ),
        "tf_efficientnetv2_b1": _published(
            "EfficientNetV2-B1", (32, 48, 96, 112, 192), (3, 3, 4, 6, 9), 32, (16, 2), 1280, 240, 0.2, "in1k"
        ),
        "tf_efficientnetv2_b2": _published(
            "EfficientNetV2-B2", (32, 56, 104, 120, 208), (3, 3, 4, 6, 10), 32, (16, 2), 1408, 260, 0.3, "in1k"
        ),
        "tf_efficientnetv2_b3": _published(
            "EfficientNetV2-B3",
            (40, 56, 112, 136, 232),
            (3, 3, 5, 7, 12),
            40,
            (16, 2),
            1536,
            300,
            0.3,
            "in21k_ft_in1k",
            "in1k",
            "in21k",
        ),
        "tf_efficientnetv2_s": _published("EfficientNetV2-S", *_S, "in21k_ft_in1k", "in1k", "in21k"),
    },
    padding="same",
    norm_eps=1e-3,
)

"""The five families as data: the parts of the network that a code leaves fixed, and the ranges of section B.2.2.

Nothing here computes. ``layers.py`` turns a code and its family into layers; ``space.py`` turns the ranges into
a search space. Sources are the AutoBSS paper (NeurIPS 2020): figure 1 (ResNets), table 2 (MobileNetV2), section
B.2.2 (ranges), tables 3 and 4 (codes); for EfficientNet its own paper (arXiv:1905.11946, table 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Literal

from bsszoo.errors import UnknownNameError, close_matches, shown

BlockKind = Literal["basic", "bottleneck", "mbconv"]


@dataclass(frozen=True, slots=True)
class WidthRange:
    """The widths one stage may have: ``low``, then on by ``step`` (or by doubling), up to ``high`` [channels]."""

    step: int
    low: int
    high: int
    doubling: bool = False


@dataclass(frozen=True, slots=True)
class Family:
    """What all codes of one family share.

    ``stem_width`` is None where the stem follows the first width of the code (ResNet-18, see docs/findings).
    ``stage2`` is the (width, depth) of the fixed second stage of MobileNetV2 and EfficientNet, None for ResNets.
    ``original`` holds the entries of the published network: widths, depths, then bottlenecks or expansions;
    ``original_stage2_depth`` differs from the searched codes' in EfficientNet-B1 only.
    """

    name: str
    title: str
    block: BlockKind
    first_stage: int
    strides: tuple[int, ...]
    kernels: tuple[int, ...]
    stem_kernel: int
    stem_width: int | None
    stage2: tuple[int, int] | None
    head_width: int | None
    squeeze_excite: bool
    activation: Literal["relu", "relu6", "silu"]
    image_size: int
    original: tuple[int, ...]
    original_stage2_depth: int
    widths: tuple[WidthRange, ...]
    max_depths: tuple[int, ...]
    bottleneck_ratios: tuple[Fraction, ...]
    expansions: tuple[int, ...]

    @property
    def stages(self) -> int:
        """Number of stages whose stacking the code chooses: 4 for ResNets, 6 for the others."""
        return len(self.strides)

    @property
    def letter(self) -> str:
        """The third letter of the code: ``B`` (bottleneck width), ``T`` (expansion factor) or none."""
        return {"basic": "", "bottleneck": "B", "mbconv": "T"}[self.block]

    @property
    def entry_names(self) -> tuple[str, ...]:
        """The paper's names of the entries in order, e.g. ``C3 .. C8, L3 .. L8, T3 .. T8``."""
        stages = range(self.first_stage, self.first_stage + self.stages)
        return tuple(f"{letter}{i}" for letter in "CL" + self.letter for i in stages)

    @property
    def form(self) -> str:
        """The entries in words, for messages: ``6 widths, 6 depths, 6 expansions``."""
        third = {"": "", "B": f", {self.stages} bottleneck widths", "T": f", {self.stages} expansions"}[self.letter]
        return f"{self.stages} widths, {self.stages} depths{third}"


def _multiples(steps: tuple[int, ...], low: tuple[int, ...], high: tuple[int, ...]) -> tuple[WidthRange, ...]:
    return tuple(WidthRange(s, a, b) for s, a, b in zip(steps, low, high, strict=True))


def _efficientnet(name: str, title: str, size: int, depths: tuple[int, ...], stage2_depth: int) -> Family:
    return Family(
        name=name,
        title=title,
        block="mbconv",
        first_stage=3,
        strides=(2, 2, 2, 1, 2, 1),
        kernels=(3, 5, 3, 5, 5, 3),
        stem_kernel=3,
        stem_width=32,
        stage2=(16, 1),
        head_width=1280,
        squeeze_excite=True,
        activation="silu",
        image_size=size,
        original=(24, 40, 80, 112, 192, 320, *depths, 6, 6, 6, 6, 6, 6),
        original_stage2_depth=stage2_depth,
        widths=_multiples((4, 8, 16, 28, 48, 80), (16, 24, 48, 56, 144, 160), (32, 64, 160, 280, 480, 640)),
        max_depths=(6, 6, 7, 7, 8, 5),
        bottleneck_ratios=(),
        expansions=(3, 6),
    )


_RESNET18 = Family(
    name="resnet18",
    title="ResNet-18",
    block="basic",
    first_stage=2,
    strides=(1, 2, 2, 2),
    kernels=(3, 3, 3, 3),
    stem_kernel=7,
    stem_width=None,
    stage2=None,
    head_width=None,
    squeeze_excite=False,
    activation="relu",
    image_size=224,
    original=(64, 128, 256, 512, 2, 2, 2, 2),
    original_stage2_depth=0,
    widths=tuple(
        WidthRange(low, low, high, doubling=True)
        for low, high in ((32, 256), (32, 1024), (64, 2048), (128, 2048))
    ),
    max_depths=(16, 16, 16, 16),
    bottleneck_ratios=(),
    expansions=(),
)

_RESNET50 = Family(
    name="resnet50",
    title="ResNet-50",
    block="bottleneck",
    first_stage=2,
    strides=(1, 2, 2, 2),
    kernels=(3, 3, 3, 3),
    stem_kernel=7,
    stem_width=64,
    stage2=None,
    head_width=None,
    squeeze_excite=False,
    activation="relu",
    image_size=224,
    original=(256, 512, 1024, 2048, 3, 4, 6, 3, 64, 128, 256, 512),
    original_stage2_depth=0,
    widths=_multiples((64, 128, 256, 512), (64, 128, 256, 512), (320, 768, 1536, 3072)),
    max_depths=(11, 11, 11, 11),
    bottleneck_ratios=(Fraction(1, 8), Fraction(1, 4), Fraction(3, 8), Fraction(1, 2)),
    expansions=(),
)

_MOBILENETV2 = Family(
    name="mobilenetv2",
    title="MobileNetV2",
    block="mbconv",
    first_stage=3,
    strides=(2, 2, 2, 1, 2, 1),
    kernels=(3, 3, 3, 3, 3, 3),
    stem_kernel=3,
    stem_width=32,
    stage2=(16, 1),
    head_width=1280,
    squeeze_excite=False,
    activation="relu6",
    image_size=224,
    original=(24, 32, 64, 96, 160, 320, 2, 3, 4, 3, 3, 1, 6, 6, 6, 6, 6, 6),
    original_stage2_depth=1,
    widths=_multiples((4, 8, 16, 24, 40, 80), (12, 16, 32, 48, 80, 160), (32, 64, 128, 192, 320, 640)),
    max_depths=(5, 6, 7, 6, 6, 4),
    bottleneck_ratios=(),
    expansions=(3, 6),
)

FAMILIES: Final[dict[str, Family]] = {
    f.name: f
    for f in (
        _RESNET18,
        _RESNET50,
        _MOBILENETV2,
        _efficientnet("efficientnet_b0", "EfficientNet-B0", 224, (2, 2, 3, 3, 4, 1), 1),
        # The original B1 has two blocks in stage 2; the searched codes' figures come out only with one.
        _efficientnet("efficientnet_b1", "EfficientNet-B1", 240, (3, 3, 4, 4, 5, 2), 2),
    )
}


def family_of(name: str) -> Family:
    """The family with this name; an unknown name raises ``UnknownNameError`` with close matches."""
    try:
        return FAMILIES[name]
    except (KeyError, TypeError):
        raise UnknownNameError(f"There is no family {shown(name)}.{close_matches(shown(name), FAMILIES)}") from None

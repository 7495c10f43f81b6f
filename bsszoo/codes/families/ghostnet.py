"""GhostNet: blocks that make half of their channels by a cheap operation (arXiv:1911.11907, timm's ``GhostNet``).

A ghost module makes the first half of its channels by a 1x1 convolution, and from each of them one more by a depthwise
3x3 convolution, its ghost: channel i and channel i of the second half are a pair. Of an odd number of channels the last
ghost is cut off. A block is a ghost module to the inner width, a depthwise convolution where it has a stride,
squeeze-and-excitation in some, and a ghost module to the output width; a depthwise and a 1x1 convolution are its
shortcut where shapes differ. Behind the last block come a 1x1 convolution to six times as many channels, the pooling,
and a second 1x1 convolution in front of the classifier.

The published networks have inner widths that no whole expansion gives, and so are written as subnetworks are, with
``b`` and ``e``. The first block of a stage with a stride is alone in a module of timm's, the further ones are in the
next. Two things are no entries of a code. In stage 5 the blocks behind the second are a little narrower inside than
that: 23/25 times, to the nearest multiple of 4 (184 channels beside 200, as published). And in stage 7 every other
block, from the second on, lacks squeeze-and-excitation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final

from bsszoo.codes.families.base import CodeFields, Fixed, Published, Shapes, Training, counted, multiples, widths_in
from bsszoo.codes.families.mobilenetv2 import MBConvNet
from bsszoo.codes.layers import Block, HeadConv, Layer, N, Placement, PooledConv, Stage

if TYPE_CHECKING:
    from torch import nn

#: What the last 1x1 convolution before the pooling multiplies channels by: the last block's expansion.
_LAST: Final = 6
#: Indices of the stages whose further blocks differ: stage 5 in their inner widths, stage 7 in their gates.
_NARROWING: Final = 2
_ALTERNATING: Final = 4


class GhostBlock(Block[N]):
    """Ghost module to ``mid_width``, depthwise where it has a stride, squeeze-and-excitation if any, ghost module."""

    __slots__ = ()

    kind: ClassVar[str] = "ghost"
    waisted: ClassVar[bool] = True
    letter: ClassVar[str] = "T"
    paired: ClassVar[bool] = True

    def layers(self) -> list[Layer[N]]:
        """The convolutions of both ghost modules and between them, then the shortcut, which only some have."""
        a: N = self.in_width
        m: N = self.mid_width
        k = self.kernel
        between: list[Layer[N]] = []
        if self.stride > 1:
            between.append(self._conv("conv_dw", m, m, "bn_dw", k, self.stride, group_width=1))
        if (s := self.squeeze_width) is not None:
            between += [
                self._conv("se.conv_reduce", m, s, "", role="gate"),
                self._conv("se.conv_expand", s, m, "", role="gate"),
            ]
        present = 1 if self.stride != 1 else 1 * (a != self.out_width)
        return [
            *self._ghost("ghost1", a, m),
            *between,
            *self._ghost("ghost2", m, self.out_width),
            self._conv(
                "shortcut.0", a, a, "shortcut.1", k, self.stride, group_width=1, role="shortcut", present=present
            ),
            self._conv("shortcut.2", a, self.out_width, "shortcut.3", role="shortcut", present=present),
        ]

    def _ghost(self, name: str, width_in: N, width: N) -> list[Layer[N]]:
        """Both convolutions of a ghost module."""
        half = (width + 1) // 2
        cheap = self._conv(f"{name}.cheap_operation.0", half, half, f"{name}.cheap_operation.1", 3, group_width=1)
        return [
            self._conv(f"{name}.primary_conv.0", width_in, half, f"{name}.primary_conv.1"),
            replace(cheap, appended=True),
        ]

    def build(self: Block[int], placement: Placement, activation: str, dd: dict[str, Any]) -> nn.Module:
        """timm's block."""
        from bsszoo.codes.families.ghostnet_modules import build_ghost

        return build_ghost(self, dd)

    def title(self: Block[int]) -> str:
        """``Ghost k5 + SE``."""
        return f"Ghost k{self.kernel}" + (" + SE" if self.squeeze_width is not None else "")

    def third(self: Block[int]) -> int:
        """The expansion T."""
        return self.mid_width // self.in_width

    @staticmethod
    def numbered(stage: str, index: int) -> str:
        """``blocks.5.0``, ``blocks.6.0``, ``blocks.6.1``, ..; all of an even module's blocks are in that."""
        parent, _, number = stage.rpartition(".")
        alone = int(number) % 2 == 1 and index > 0
        return f"{parent}.{int(number) + 1}.{index - 1}" if alone else f"{stage}.{index}"


class InnerGhostBlock(GhostBlock[N]):
    """A block with an inner width of its own."""

    __slots__ = ()

    letter: ClassVar[str] = "B"

    def third(self: Block[int]) -> int:
        """The inner width, B or E."""
        return self.mid_width


def _narrower(inner: N) -> N:
    """The inner width of the blocks of stage 5 behind the second, by that of the second; not more than that."""
    nearest = (23 * inner + 50) // 100 * 4
    return inner + (nearest - inner) * (nearest > 0) * (nearest < inner)


@dataclass(frozen=True)
class GhostNet(MBConvNet):
    """GhostNets."""

    @property
    def original_name(self) -> str:
        """Its published network, which has not the whole expansions of ``original``."""
        return "ghostnet_100"

    @property
    def always_expands(self) -> bool:
        """A ghost module makes the inner channels, also where they are as many as its input's."""
        return True

    def gate(self, stage: int, width_in: N, mid_width: N) -> N | None:
        """A quarter of the inner width, to a multiple of 4 that is not below 0.9 of it: timm's ``make_divisible``."""
        if not self.gates[stage + 1]:
            return None
        nearest = (mid_width + 8) // 16 * 4  # 4 floor((m/4 + 2) / 4)
        nearest = nearest + 4 * (nearest == 0)
        return nearest + 4 * (40 * nearest < 9 * mid_width)

    def plain_block(self, stage: int) -> type[Block[Any]]:
        """A block with an expansion."""
        return GhostBlock

    def inner_block(self, stage: int) -> type[Block[Any]]:
        """A block with an inner width of its own."""
        return InnerGhostBlock

    def published_thirds(self, code: CodeFields) -> tuple[int, ...] | None:
        """The expansions, where inner widths are whole multiples of the input's, each of one factor a stage."""
        before = (code.stage2_width, *code.widths[:-1])
        inner, first = code.thirds[: self.stages], code.thirds[self.stages :]
        factors = tuple(e // width for e, width in zip(first, before, strict=True))
        whole = all(
            t >= 1 and e == t * a and (depth == 1 or b == t * c)
            for t, a, c, b, e, depth in zip(factors, before, code.widths, inner, first, code.depths, strict=True)
        )
        return factors if whole else None

    def blocks(
        self, index: int, width_in: N, width: N, thirds: Mapping[str, N], fixed: Fixed
    ) -> tuple[Block[N], Block[N]]:
        """The second block of stage 7 lacks squeeze-and-excitation."""
        first, second = super().blocks(index, width_in, width, thirds, fixed)
        return first, replace(second, squeeze_width=None) if index == _ALTERNATING else second

    def further(self, index: int, width: N, thirds: Mapping[str, N], fixed: Fixed) -> tuple[Block[N], ...]:
        """Of stage 5 a narrower block, and of stage 7 one with squeeze-and-excitation."""
        if index not in (_NARROWING, _ALTERNATING):
            return ()
        _, second = super().blocks(index, width, width, thirds, fixed)
        return (replace(second, mid_width=_narrower(second.mid_width)) if index == _NARROWING else second,)

    def repeats(self, index: int) -> int:
        """In stage 7 blocks without and with squeeze-and-excitation go on in turn."""
        return 2 if index == _ALTERNATING else 1

    def layout(
        self,
        widths: Sequence[N],
        depths: Sequence[N],
        thirds: Sequence[N],
        fixed: Fixed,
        num_classes: int,
        in_chans: int,
    ) -> tuple[Stage[N], ...]:
        """As ``Family.layout``; stage 6 goes on in the module of the further blocks of stage 5."""
        out = list(super().layout(widths, depths, thirds, fixed, num_classes, in_chans))
        at = next(i for i, stage in enumerate(out) if stage.name == "blocks.6")
        out[at] = replace(out[at], offset=out[at - 1].depth - 1)
        return tuple(out)

    def behind(self, width: N, fixed: Fixed) -> list[Stage[N]]:
        """The convolution before the pooling, and the one behind it."""
        number, name = self.first_stage + self.stages, "blocks.9"
        wide, head = _LAST * width, 0 * width + fixed.head_width
        last: HeadConv[N] = HeadConv(name, width, wide, wide, 1, 1, layer=f"{name}.0.conv", norm_layer=f"{name}.0.bn1")
        pooled: PooledConv[N] = PooledConv("conv_head", wide, head, head, 1, 1, layer="conv_head")
        return [self.single(last, number, name), self.single(pooled, number, "conv_head")]

    def rescaled_stem(self, width: int, scale: float) -> int:
        """The nearest multiple of 4, as the published networks'."""
        return self.rescaled(width, 0, scale)[0]

    @property
    def grows_with_scale(self) -> bool:
        """Where stages 5 and 6 become as wide as each other a shortcut loses its convolutions."""
        return False

    def network(self) -> Any:
        """timm's ``GhostNet``, module by module."""
        from bsszoo.codes.families.ghostnet_modules import CodeGhostNet

        return CodeGhostNet

    def features(self) -> Any:
        """A separate class, whose keys stay those of the whole network."""
        from bsszoo.codes.families.ghostnet_modules import CodeGhostNetFeatures

        return CodeGhostNetFeatures

    def code_of(self, shapes: Shapes) -> dict[str, Any] | None:
        """Read off ``blocks.0.0.ghost1.primary_conv.0`` and the like, which read all channels of what is before them.

        What a ghost module writes has one of two widths by its own tensors.
        """
        if "blocks.0.0.ghost1.primary_conv.0.weight" not in shapes:
            return None

        def read_by(convolution: str) -> int:
            return int(shapes[f"{convolution}.weight"][1])

        modules = [
            [f"{at}.{i}" for i in range(counted(shapes, lambda i, at=at: f"{at}.{i}.ghost1.primary_conv.0"))]
            for at in (f"blocks.{i}" for i in range(9))
        ]
        gated = [f"{block}.se.conv_reduce.weight" in shapes for block in modules[6]]
        sixth = gated.index(True)  # what has none is no network of the family's: a ValueError
        stages = [
            modules[1] + modules[2],
            modules[3] + modules[4],
            modules[5] + modules[6][:sixth],
            modules[6][sixth:],
            modules[7] + modules[8],
        ]
        following = [f"{stage[0]}.ghost1.primary_conv.0" for stage in stages[1:]] + ["blocks.9.0.conv"]
        return {
            "widths": tuple(read_by(name) for name in following),
            "depths": tuple(len(stage) for stage in stages),
            "bottlenecks": tuple(read_by(f"{stage[:2][-1]}.ghost2.primary_conv.0") for stage in stages),
            "first_bottlenecks": tuple(read_by(f"{stage[0]}.ghost2.primary_conv.0") for stage in stages),
            "stem_width": widths_in(shapes, "conv_stem"),
            "stage2_width": read_by(f"{stages[0][0]}.ghost1.primary_conv.0"),
            "stage2_depth": len(modules[0]),
            "head_width": widths_in(shapes, "conv_head"),
        }

    def from_torchvision(self, shapes: Shapes) -> Mapping[str, str] | None:
        """torchvision has none."""
        return None


def _published(
    title: str, width: Sequence[int], first: Sequence[int], second: Sequence[int], stem: int, *tags: str
) -> Published:
    """A published network, by the inner widths of the first and of the second blocks of each stage."""
    fixed = MappingProxyType({"stem_width": stem, "stage2_width": stem})
    return Published((*width, *_DEPTHS, *second, *first), title, tags, form="BE", fixed=fixed)


_DEPTHS: Final = (2, 2, 4, 2, 5)

GHOSTNET: Final = GhostNet(
    name="ghostnet",
    title="GhostNet",
    letter="T",
    first_stage=3,
    strides=(2, 2, 2, 1, 2),
    kernels=(3, 5, 3, 3, 5),
    stem_kernel=3,
    stem_width=16,
    stage2=(16, 1),
    activation="relu",
    image_size=224,
    # Published: 3, 3, 6 and 2.3, 6, 4.2 and 6 times the input.
    original=(24, 40, 80, 112, 160, *_DEPTHS, 3, 3, 3, 6, 6),
    original_stage2_depth=1,
    width_ranges=multiples((4, 8, 16, 28, 40), (12, 24, 48, 56, 80), (48, 80, 160, 224, 320)),
    max_depths=(5, 6, 8, 5, 8),
    third_values=(Fraction(2), Fraction(3), Fraction(4), Fraction(6)),
    grid_divisor=1,
    uniform_divisor=4,
    interpolation="bicubic",
    first_conv="conv_stem",
    classifier="classifier",
    training=Training(
        2e-5,
        0.7,
        120,
        drop_rate=0.2,
        source="the AutoBSS paper's Table 1 for MobileNetV2, dropout of the GhostNet authors' code",
    ),
    head_width=1280,
    gates=(False, False, True, False, True, True),
    modules=(1, 3, 5, 6, 7),
    published={
        "ghostnet_050": _published(
            "GhostNet 0.5", (12, 20, 40, 56, 80), (24, 36, 120, 240, 336), (36, 60, 100, 336, 480), 8
        ),
        "ghostnet_100": _published(
            "GhostNet", (24, 40, 80, 112, 160), (48, 72, 240, 480, 672), (72, 120, 200, 672, 960), 16, "in1k"
        ),
        "ghostnet_130": _published(
            "GhostNet 1.3", (32, 52, 104, 144, 208), (64, 92, 312, 624, 872), (92, 156, 260, 872, 1248), 20
        ),
    },
)

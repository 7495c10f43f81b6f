"""MobileNetV2: stages of inverted residual blocks. The base that EfficientNets share with it is here too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from bsszoo.codes.families.base import CodeFields, Family, Fixed, Shapes, Training, counted, multiples, widths_in
from bsszoo.codes.layers import Block, HeadConv, Layer, N, Placement, Stage, Stem, never

if TYPE_CHECKING:
    from torch import nn


class MBConv(Block[N]):
    """1x1 to ``mid_width``, depthwise, squeeze-and-excitation if any, 1x1 to the output width."""

    __slots__ = ()

    kind: ClassVar[str] = "mbconv"
    waisted: ClassVar[bool] = True
    letter: ClassVar[str] = "T"

    def layers(self) -> list[Layer[N]]:
        """The convolutions; without expansion timm's block is the depthwise-separable one."""
        a, m = self.in_width, self.mid_width
        expanded = self._expanded()
        alone = never(expanded)
        out: list[Layer[N]] = [
            self._conv("conv_pw", a, m, "bn1", present=expanded),
            self._conv("conv_dw", m, m, "bn1" if alone else "bn2", self.kernel, self.stride, group_width=1),
        ]
        if (s := self.squeeze_width) is not None:
            out += [
                self._conv("se.conv_reduce", m, s, "", role="gate"),
                self._conv("se.conv_expand", s, m, "", role="gate"),
            ]
        return [*out, self._conv("conv_pw" if alone else "conv_pwl", m, self.out_width, "bn2" if alone else "bn3")]

    def build(self: Block[int], placement: Placement, activation: str, dd: dict[str, Any]) -> nn.Module:
        """timm's block, with exactly these widths."""
        from bsszoo.codes.families.mbconv_modules import Style, build_mbconv

        return build_mbconv(self, placement, Style(activation), dd)

    def _expanded(self) -> N | int:
        """1 where it has the first convolution, else 0."""
        return 1 * (self.mid_width != self.in_width)

    def title(self: Block[int]) -> str:
        """``MBConv k5 + SE``."""
        return f"MBConv k{self.kernel}" + (" + SE" if self.squeeze_width is not None else "")

    def third(self: Block[int]) -> int:
        """The expansion T."""
        return self.mid_width // self.in_width


class InnerMBConv(MBConv[N]):
    """An inverted residual block with an inner width of its own; it expands, even to as many channels as it reads."""

    __slots__ = ()

    kind: ClassVar[str] = "inverted"
    letter: ClassVar[str] = "B"

    def _expanded(self) -> N | int:
        return 1

    def third(self: Block[int]) -> int:
        """The inner width, B or E."""
        return self.mid_width


def _stages_of(blocks: Sequence[tuple[int, int]], stages: int) -> list[Sequence[tuple[int, int]]]:
    """The blocks (output and inner width) of a module as so many stages of a code, the first one as short as can be.

    A stage has one output width, and one inner width for its first block and one for the others.
    """
    if stages == 1:
        return [blocks]
    for depth in range(1, len(blocks)):
        first, rest = blocks[:depth], blocks[depth:]
        if all(len({w for w, _ in part}) == 1 and len({m for _, m in part[1:]}) <= 1 for part in (first, rest)):
            return [first, *_stages_of(rest, stages - 1)]
    return [blocks[:1], *_stages_of(blocks[1:], stages - 1)]


def torchvision_ends(last: int) -> dict[str, str]:
    """Our names of a torchvision network's layers before and behind its blocks; ``last`` is its last part's number."""
    return {
        "features.0.0": "conv_stem",
        "features.0.1": "bn1",
        "classifier.1": "classifier",
        f"features.{last}.0": "conv_head",
        f"features.{last}.1": "bn2",
    }


@dataclass(frozen=True)
class MBConvNet(Family):
    """What MobileNetV2 and EfficientNets share: stem, fixed stage 2, head, the names of the modules, the builder.

    Args:
        gates: Whether the blocks of stage 2 and of each searched stage have squeeze-and-excitation; empty for none.
        modules: Number of timm's stage that holds each searched one; they count on from stage 2's where none are given.
        stage2_stride: Of the first block of stage 2.
        padding: timm's name of how convolutions pad: empty for as much on both sides, ``same`` for TensorFlow's.
        norm_eps: Of the normalisations.
    """

    gates: tuple[bool, ...] = ()
    modules: tuple[int, ...] = ()
    stage2_stride: int = 1
    padding: str = ""
    norm_eps: float = 1e-5

    def gate(self, stage: int, width_in: N, mid_width: N) -> N | None:
        """The hidden width of squeeze-and-excitation in a block with this input; None in a stage without.

        A quarter of the block's input width (not of the expanded width), at least 1: EfficientNet's reference code.

        Args:
            stage: Index of the searched stage, -1 of the fixed stage 2.
            width_in: Channels of the block's input.
            mid_width: Its inner width.
        """
        if not self.gates or not self.gates[stage + 1]:
            return None
        quarter = width_in // 4
        return quarter + (quarter == 0)

    def block_of(self, stage: int, name: str, width_in: N, width: N, third: N, stride: int, fixed: Fixed) -> Block[N]:
        """An inverted residual block of the searched stage with this index."""
        mid = third if fixed.form == "BE" else width_in * third
        made = self.inner_block(stage) if fixed.form == "BE" else self.plain_block(stage)
        return made(name, width_in, width, mid, self.kernels[stage], stride, self.gate(stage, width_in, mid))

    def plain_block(self, stage: int) -> type[Block[Any]]:
        """The class of the blocks of a searched stage, or of stage 2 (-1), with an expansion."""
        return MBConv

    def inner_block(self, stage: int) -> type[Block[Any]]:
        """The class of the blocks of a searched stage that have inner widths of their own."""
        return InnerMBConv

    def block(self, name: str, width_in: N, width: N, third: N, kernel: int, stride: int, fixed: Fixed) -> Block[N]:
        """An inverted residual block of the fixed stage 2."""
        mid = width_in * third
        return self.plain_block(-1)(name, width_in, width, mid, kernel, stride, self.gate(-1, width_in, mid))

    @property
    def forms(self) -> tuple[str, ...]:
        """Expansions, or inner widths."""
        return ("T", "BE")

    def published_thirds(self, code: CodeFields) -> tuple[int, ...] | None:
        """The expansions, where inner widths are whole multiples of the input's, each of one factor above 1 a stage."""
        before = (code.stage2_width, *code.widths[:-1])
        inner, first = code.thirds[: self.stages], code.thirds[self.stages :]
        factors = tuple(e // width for e, width in zip(first, before, strict=True))
        whole = all(
            t > 1 and e == t * a and (depth == 1 or b == t * c)
            for t, a, c, b, e, depth in zip(factors, before, code.widths, inner, first, code.depths, strict=True)
        )
        return factors if whole else None

    def stem(self, in_chans: N, width: N) -> Stage[N]:
        """A 3x3 convolution with stride 2."""
        block: Block[N] = Stem("stem", in_chans, width, width, self.stem_kernel, 2, layer="conv_stem", norm_layer="bn1")
        return self.single(block, 1, "conv_stem")

    def before(self, width: N, fixed: Fixed) -> list[Stage[N]]:
        """Stage 2: kernel 3, no expansion (T = 1)."""
        wide = fixed.stage2_width
        first, rest = (
            self.block("blocks.0", a, wide, 1, 3, stride, fixed)
            for a, stride in ((width, self.stage2_stride), (wide, 1))
        )
        return [Stage(2, "blocks.0", first, rest, fixed.stage2_depth)]

    def behind(self, width: N, fixed: Fixed) -> list[Stage[N]]:
        """The last 1x1 convolution."""
        wide = 0 * width + fixed.head_width
        block: Block[N] = HeadConv("conv_head", width, wide, wide, 1, 1, layer="conv_head", norm_layer="bn2")
        return [self.single(block, self.first_stage + self.stages, "conv_head")]

    def stage_name(self, index: int) -> str:
        """``blocks.1`` .. ``blocks.6``: ``blocks.0`` is the fixed stage 2."""
        return f"blocks.{self.modules[index] if self.modules else index + 1}"

    def network(self) -> Any:
        """timm's ``EfficientNet``, module by module."""
        from bsszoo.codes.families.mbconv_modules import CodeEfficientNet

        return partial(CodeEfficientNet, style=self.style)

    def features(self) -> Any:
        """A separate class, as for timm's EfficientNets, whose keys stay those of the whole network."""
        from bsszoo.codes.families.mbconv_modules import CodeEfficientNetFeatures

        return partial(CodeEfficientNetFeatures, style=self.style)

    @property
    def style(self) -> Any:
        """The style of its blocks' modules."""
        from bsszoo.codes.families.mbconv_modules import Style

        return Style(self.activation, self.norm_eps, self.padding)

    def code_of(self, shapes: Shapes) -> dict[str, Any] | None:
        """Read off ``blocks.1.0.conv_pwl`` and the like, of this family's squeeze-and-excitation and kernels only."""
        paths = ["blocks.0", *(self.stage_name(stage) for stage in range(self.stages))]
        gates = tuple(f"{path}.0.se.conv_reduce.weight" in shapes for path in paths)
        if "conv_stem.weight" not in shapes or gates != (self.gates or (False,) * len(gates)):
            return None
        widths: list[int] = []
        depths, firsts, inners = [], [], []
        for path, kernel in zip(paths[1:], self.kernels, strict=True):
            spatial = shapes.get(f"{path}.0.{self.spatial(paths.index(path) - 1)}.weight", (0,))
            if spatial[-1] != kernel:
                return None
        for path in dict.fromkeys(paths[1:]):
            name = self.spatial(paths.index(path) - 1)
            blocks = [
                (
                    widths_in(shapes, f"{path}.{i}.conv_pwl") or widths_in(shapes, f"{path}.{i}.conv_pw"),
                    widths_in(shapes, f"{path}.{i}.{name}"),
                )
                for i in range(counted(shapes, lambda i, at=path, of=name: f"{at}.{i}.{of}"))
            ]
            for stage in _stages_of(blocks, paths.count(path)):
                widths.append(stage[0][0])
                depths.append(len(stage))
                firsts.append(stage[0][1])
                inners.append(stage[min(1, len(stage) - 1)][1])
        stage2 = widths_in(shapes, "blocks.0.0.conv_pw") or widths_in(shapes, "blocks.0.0.conv")
        expanded = all(f"{path}.0.conv_pwl.weight" in shapes for path in paths[1:])
        if expanded:
            inside = {"bottlenecks": tuple(inners), "first_bottlenecks": tuple(firsts)}
        else:  # a block without expansion has none in the other form
            before = (stage2, *widths)
            if any(first % width for first, width in zip(firsts, before, strict=False)):
                return None
            inside = {"expansions": tuple(first // width for first, width in zip(firsts, before, strict=False))}
        return {
            "widths": tuple(widths),
            "depths": tuple(depths),
            **inside,
            "stem_width": widths_in(shapes, "conv_stem"),
            "stage2_width": stage2,
            "stage2_depth": counted(shapes, lambda i: f"blocks.0.{i}.{self.spatial(-1)}"),
            "head_width": widths_in(shapes, "conv_head"),
        }

    @property
    def beside_tensors(self) -> str:
        """Its padding and the epsilon of its normalisations, where they are TensorFlow's."""
        return "padded and normalised as TensorFlow does" if self.padding == "same" else ""

    def runs_as(self, module: Any) -> bool:
        """Whether it pads and normalises as the family's networks do: of TensorFlow's weights timm's do otherwise."""
        from timm.layers.conv2d_same import Conv2dSame
        from torch import nn

        norms = {m.eps for m in module.modules() if isinstance(m, nn.BatchNorm2d)}
        same = any(isinstance(m, Conv2dSame) for m in module.modules())
        return norms == {self.norm_eps} and same == (self.padding == "same")

    def from_torchvision(self, shapes: Shapes) -> Mapping[str, str] | None:
        """torchvision's MobileNetV2 numbers its blocks consecutively: a stage begins where the width changes."""
        if "features.1.conv.0.0.weight" not in shapes:
            return None
        blocks = counted(shapes, lambda i: f"features.{i + 1}.conv.0.0")
        names = torchvision_ends(blocks + 1)
        stage, index, width = -1, 0, 0
        for i in range(1, blocks + 1):
            at = f"features.{i}.conv"
            alone = f"{at}.1.weight" in shapes  # without expansion
            out = widths_in(shapes, f"{at}.1" if alone else f"{at}.2")
            stage, index = (stage, index + 1) if out == width else (stage + 1, 0)
            width = out
            inside = (
                {"0.0": "conv_dw", "0.1": "bn1", "1": "conv_pw", "2": "bn2"}
                if alone
                else {"0.0": "conv_pw", "0.1": "bn1", "1.0": "conv_dw", "1.1": "bn2", "2": "conv_pwl", "3": "bn3"}
            )
            names |= {f"{at}.{theirs}": f"blocks.{stage}.{index}.{ours}" for theirs, ours in inside.items()}
        return names

    def spatial(self, stage: int) -> str:
        """The name of the convolution with a kernel in the blocks of a searched stage, or of stage 2 (-1)."""
        return "conv_dw"


MOBILENETV2 = MBConvNet(
    name="mobilenetv2",
    title="MobileNetV2",
    letter="T",
    first_stage=3,
    strides=(2, 2, 2, 1, 2, 1),
    kernels=(3, 3, 3, 3, 3, 3),
    stem_kernel=3,
    stem_width=32,
    stage2=(16, 1),
    activation="relu6",
    image_size=224,
    original=(24, 32, 64, 96, 160, 320, 2, 3, 4, 3, 3, 1, 6, 6, 6, 6, 6, 6),
    original_stage2_depth=1,
    width_ranges=multiples((4, 8, 16, 24, 40, 80), (12, 16, 32, 48, 80, 160), (32, 64, 128, 192, 320, 640)),
    max_depths=(5, 6, 7, 6, 6, 4),
    third_values=(Fraction(3), Fraction(6)),
    grid_divisor=1,
    uniform_divisor=4,
    interpolation="bicubic",
    first_conv="conv_stem",
    classifier="classifier",
    training=Training(2e-5, 0.7, 120),
    head_width=1280,
)

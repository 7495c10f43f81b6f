"""MobileNetV4's convolutional networks: universal inverted bottlenecks of several forms (arXiv:2404.10518).

A universal inverted bottleneck is two 1x1 convolutions, the first to the inner width, with up to two depthwise ones:
one before both, of the block's input, and one between them. The published networks have four forms of it: with both,
with the middle one alone (an inverted residual block), with the first alone (as ConvNeXt's) and with none. The first
stages have dense convolutions. Behind the last block comes a 1x1 convolution, the pooling, and a second 1x1 convolution
to 1280 channels with a normalisation, in front of the classifier.

Which form and which kernels the first, second, .. block of a stage has, and how its inner width relates to the second
block's, the family says; a code says widths, depths and expansions. A stage of fewer blocks than the published one has
the first ones of its forms, a deeper one goes on in the last form. As these differ, small, medium and large are three
families.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final

from bsszoo.codes.families.base import (
    CodeFields,
    Fixed,
    Published,
    Shapes,
    Training,
    WidthRange,
    counted,
    multiples,
    scaled,
    widths_in,
)
from bsszoo.codes.families.efficientnetv2 import FusedMBConv, InnerFusedMBConv
from bsszoo.codes.families.mobilenetv2 import MBConvNet
from bsszoo.codes.layers import Block, HeadConv, Layer, N, NormedPooledConv, Part, Placement, Stage

if TYPE_CHECKING:
    from torch import nn

#: Channels of the convolution behind the pooling, of all widths of the network.
_FEATURES: Final = 1280


@dataclass(frozen=True, slots=True)
class UniversalBlock(Block[N]):
    """1x1 to ``mid_width``, depthwise of ``kernel`` unless that is 0, 1x1 to the output width.

    ``ratio`` is how many times the stage's expansion its own is.
    """

    ratio: Fraction = Fraction(1)

    kind: ClassVar[str] = "uib"
    waisted: ClassVar[bool] = True
    letter: ClassVar[str] = "T"
    #: Kernel of the depthwise convolution of the input; 0 without.
    start_kernel: ClassVar[int] = 0

    def layers(self) -> list[Layer[N]]:
        """The convolutions; the stride is that of the last depthwise one."""
        a, m = self.in_width, self.mid_width
        start, middle = self.start_kernel, self.kernel
        out: list[Layer[N]] = []
        if start:
            stride = 1 if middle else self.stride
            out.append(self._conv("dw_start.conv", a, a, "dw_start.bn", start, stride, group_width=1))
        out.append(self._conv("pw_exp.conv", a, m, "pw_exp.bn"))
        if middle:
            out.append(self._conv("dw_mid.conv", m, m, "dw_mid.bn", middle, self.stride, group_width=1))
        return [*out, self._conv("pw_proj.conv", m, self.out_width, "pw_proj.bn")]

    def build(self: Block[int], placement: Placement, activation: str, dd: dict[str, Any]) -> nn.Module:
        """timm's block, with exactly these widths."""
        from bsszoo.codes.families.mbconv_modules import Style, build_mbconv

        return build_mbconv(self, placement, Style(activation), dd)

    def title(self) -> str:
        """The paper's name of its form: ``ExtraDW k5-k3``, ``IB k3``, ``ConvNext k5`` or ``FFN``."""
        kernels = "-".join(f"k{layer.kernel}" for layer in self.layers() if layer.group_width == 1)
        forms = {(False, True): "IB", (True, False): "ConvNext", (True, True): "ExtraDW"}
        form = forms.get((self.start_kernel > 0, self.kernel > 0), "FFN")
        return f"{form} {kernels}".strip()

    def third(self) -> int:
        """The stage's expansion T."""
        return -(-int(self.mid_width) * self.ratio.denominator // (int(self.in_width) * self.ratio.numerator))


class StartedBlock3(UniversalBlock[N]):
    """The same with a depthwise 3x3 convolution of the input."""

    __slots__ = ()

    kind: ClassVar[str] = "uib_dw3"
    start_kernel: ClassVar[int] = 3


class StartedBlock5(UniversalBlock[N]):
    """The same with a depthwise 5x5 convolution of the input."""

    __slots__ = ()

    kind: ClassVar[str] = "uib_dw5"
    start_kernel: ClassVar[int] = 5


class InnerUniversalBlock(UniversalBlock[N]):
    """A universal inverted bottleneck with an inner width of its own."""

    __slots__ = ()

    letter: ClassVar[str] = "B"

    def third(self) -> int:
        """The inner width, B or E."""
        return int(self.mid_width)


class InnerStartedBlock3(InnerUniversalBlock[N], StartedBlock3[N]):
    """The same with a depthwise 3x3 convolution of the input."""

    __slots__ = ()


class InnerStartedBlock5(InnerUniversalBlock[N], StartedBlock5[N]):
    """The same with a depthwise 5x5 convolution of the input."""

    __slots__ = ()


class ConvPair(Block[N]):
    """A dense convolution to ``mid_width`` and a 1x1 convolution to the output width, each with its activation.

    They are two modules of the network, ``blocks.0.0`` and ``blocks.0.1``, and nothing is added to their output.
    """

    __slots__ = ()

    kind: ClassVar[str] = "conv_pair"
    waisted: ClassVar[bool] = True
    letter: ClassVar[str] = "T"
    activated: ClassVar[bool] = True
    residual: ClassVar[bool] = False

    def layers(self) -> list[Layer[N]]:
        """Both convolutions."""
        wide = self._conv("conv", self.in_width, self.mid_width, "bn1", self.kernel, self.stride)
        path, m = self._second(), self.mid_width
        return [wide, Layer(f"{path}.conv", m, self.out_width, 1, 1, m, False, f"{path}.bn1")]

    def parts(self) -> list[Part[N]]:
        """Both modules."""
        wide, narrow = self.layers()
        return [Part(self.name, [wide], joined=False), Part(self._second(), [narrow], joined=False)]

    def _second(self) -> str:
        """The module path of the second convolution."""
        stage, _, index = self.name.rpartition(".")
        return f"{stage}.{int(index) + 1}" if index.isdigit() else f"{self.name}.1"

    def build(self: Block[int], placement: Placement, activation: str, dd: dict[str, Any]) -> nn.Module:
        """timm's modules, one behind the other."""
        from torch import nn

        from bsszoo.codes.families.mbconv_modules import Style, conv_pair

        return nn.Sequential(*conv_pair(self, placement, Style(activation), placement.drop_path, dd))

    def title(self: Block[int]) -> str:
        """``Conv 3x3 + 1x1``."""
        return f"Conv {self.kernel}x{self.kernel} + 1x1"

    def third(self: Block[int]) -> int:
        """The expansion T."""
        return self.mid_width // self.in_width

    @staticmethod
    def numbered(stage: str, index: int) -> str:
        """Every second module: ``blocks.0.0``, ``blocks.0.2``, .."""
        return f"{stage}.{2 * index}"


class InnerConvPair(ConvPair[N]):
    """Both convolutions with an inner width of their own."""

    __slots__ = ()

    letter: ClassVar[str] = "B"

    def third(self: Block[int]) -> int:
        """The inner width, B or E."""
        return self.mid_width


@dataclass(frozen=True, slots=True)
class Form:
    """What the family says of the block at one place of a stage.

    Args:
        start: Kernel of the depthwise convolution of the input; 0 without.
        middle: Kernel of the depthwise convolution between the 1x1 ones; 0 without. Of dense blocks their kernel.
        ratio: Its expansion over the stage's, which the second block of the stage has.
        dense: ``pair`` or ``fused`` for blocks of dense convolutions.
    """

    start: int
    middle: int
    ratio: Fraction = Fraction(1)
    dense: str = ""

    def block(self, *, inner: bool) -> type[Block[Any]]:
        """The class of such a block, with an expansion or with an inner width of its own."""
        if self.dense == "pair":
            return InnerConvPair if inner else ConvPair
        if self.dense == "fused":
            return InnerFusedMBConv if inner else FusedMBConv
        plain = {0: UniversalBlock, 3: StartedBlock3, 5: StartedBlock5}
        own = {0: InnerUniversalBlock, 3: InnerStartedBlock3, 5: InnerStartedBlock5}
        return (own if inner else plain)[self.start]

    def inner(self, width: N, expansion: N | int) -> N:
        """Its inner width, as a block of this input width: a whole number of channels, one at least."""
        whole: N = width * expansion
        if self.ratio != 1:
            whole = whole * self.ratio.numerator // self.ratio.denominator
            whole = whole + (whole == 0)
        return whole


@dataclass(frozen=True)
class MobileNetV4(MBConvNet):
    """MobileNetV4s of convolutions.

    Args:
        patterns: The forms of each searched stage's blocks, the last one for all further blocks too.
        expansions: Those that each stage of the space may have.
    """

    patterns: tuple[tuple[Form, ...], ...] = ()
    expansions: tuple[tuple[int, ...], ...] = ()

    def form_at(self, stage: int, place: int) -> Form:
        """The form of a block of a searched stage."""
        pattern = self.patterns[stage]
        return pattern[min(place, len(pattern) - 1)]

    def _block_at(
        self, stage: int, place: int, width_in: N, width: N, thirds: Mapping[str, N], fixed: Fixed
    ) -> Block[N]:
        form = self.form_at(stage, place)
        if fixed.form == "BE":
            mid = thirds["E"] if place == 0 else form.inner(thirds["B"], 1)
        else:
            mid = form.inner(width_in, thirds["T"])
        more: dict[str, Any] = {} if form.dense else {"ratio": form.ratio}
        stride = 1 if place else self.strides[stage]
        made = form.block(inner=fixed.form == "BE")
        return made(self.stage_name(stage), width_in, width, mid, form.middle, stride, **more)

    def blocks(
        self, index: int, width_in: N, width: N, thirds: Mapping[str, N], fixed: Fixed
    ) -> tuple[Block[N], Block[N]]:
        """The first and the second block of a searched stage."""
        return (
            self._block_at(index, 0, width_in, width, thirds, fixed),
            self._block_at(index, 1, width, width, thirds, fixed),
        )

    def further(self, index: int, width: N, thirds: Mapping[str, N], fixed: Fixed) -> tuple[Block[N], ...]:
        """Those behind the second."""
        places = range(2, len(self.patterns[index]))
        return tuple(self._block_at(index, place, width, width, thirds, fixed) for place in places)

    @property
    def always_expands(self) -> bool:
        """All blocks have an inner width."""
        return True

    def thirds_at(self, steps: Any) -> tuple[tuple[Fraction, ...], ...]:
        """The stages differ in theirs."""
        return tuple(tuple(Fraction(t) for t in values) for values in self.expansions)

    def published_thirds(self, code: CodeFields) -> tuple[int, ...] | None:
        """The expansions, where all inner widths of a stage are of one."""
        n, before = self.stages, (code.stem_width, *code.widths)
        factors = []
        for i, (inner, first, depth) in enumerate(zip(code.thirds[:n], code.thirds[n:], code.depths, strict=True)):
            form = self.form_at(i, 0)
            # The least expansion that gives as many channels, unless it gives more.
            t = -(-first * form.ratio.denominator // (before[i] * form.ratio.numerator))
            if form.inner(before[i], t) != first or (depth > 1 and inner != t * code.widths[i]):
                return None
            factors.append(t)
        return tuple(factors)

    def before(self, width: N, fixed: Fixed) -> list[Stage[N]]:
        """No stage is fixed."""
        return []

    def behind(self, width: N, fixed: Fixed) -> list[Stage[N]]:
        """The convolution before the pooling, and the one behind it."""
        number, name = self.first_stage + self.stages, f"blocks.{self.stages}"
        wide, head = 0 * width + fixed.head_width, 0 * width + _FEATURES
        last: HeadConv[N] = HeadConv(name, width, wide, wide, 1, 1, layer=f"{name}.0.conv", norm_layer=f"{name}.0.bn1")
        pooled: NormedPooledConv[N] = NormedPooledConv(
            "conv_head", wide, head, head, 1, 1, layer="conv_head", norm_layer="norm_head"
        )
        return [self.single(last, number, name), self.single(pooled, number, "conv_head")]

    def stage_name(self, index: int) -> str:
        """``blocks.0`` .. ``blocks.3``."""
        return f"blocks.{index}"

    def rescaled_stem(self, width: int, scale: float) -> int:
        """The same in narrower networks, as in the published ones."""
        return width if scale <= 1 else scaled(scale * width, 8)

    def network(self) -> Any:
        """timm's ``MobileNetV3``, module by module."""
        from bsszoo.codes.families.mbconv_modules import CodeMobileNetV3

        return partial(CodeMobileNetV3, style=self.style)

    def features(self) -> Any:
        """A separate class, whose keys stay those of the whole network."""
        from bsszoo.codes.families.mbconv_modules import CodeMobileNetV3Features

        return partial(CodeMobileNetV3Features, style=self.style)

    def code_of(self, shapes: Shapes) -> dict[str, Any] | None:
        """Read off ``blocks.2.0.pw_exp.conv`` and the like; kernels and forms say which of the families it is."""
        if "conv_stem.weight" not in shapes or "norm_head.weight" not in shapes:
            return None
        widths, depths, inners, firsts = [], [], [], []
        for stage, pattern in enumerate(self.patterns):
            path, dense = self.stage_name(stage), pattern[0].dense
            step = 2 if dense == "pair" else 1
            inside = {"pair": "conv", "fused": "conv_exp"}.get(dense, "pw_exp.conv")
            outside = {"fused": "conv_pwl"}.get(dense, "pw_proj.conv")
            depth = counted(shapes, lambda i, at=path, of=inside, step=step: f"{at}.{step * i}.{of}")
            widths.append(widths_in(shapes, f"{path}.1.conv" if dense == "pair" else f"{path}.0.{outside}"))
            depths.append(depth)
            firsts.append(widths_in(shapes, f"{path}.0.{inside}"))
            inners.append(widths_in(shapes, f"{path}.{step * min(1, depth - 1)}.{inside}"))
        return {
            "widths": tuple(widths),
            "depths": tuple(depths),
            "bottlenecks": tuple(inners),
            "first_bottlenecks": tuple(firsts),
            "stem_width": widths_in(shapes, "conv_stem"),
            "head_width": widths_in(shapes, f"blocks.{self.stages}.0.conv"),
        }

    def runs_as(self, module: Any) -> bool:
        """Whether it pads, normalises and subsamples as the family's networks do."""
        from torch import nn

        smooth = any(not isinstance(getattr(m, "aa", None), (nn.Identity, type(None))) for m in module.modules())
        return not smooth and super().runs_as(module)

    def from_torchvision(self, shapes: Shapes) -> None:
        """torchvision has none."""
        return


def _uib(start: int, middle: int, ratio: Fraction | int = 1) -> Form:
    return Form(start, middle, Fraction(ratio))


_PAIR: Final = (Form(0, 3, dense="pair"),)
_FUSED: Final = (Form(0, 3, dense="fused"),)
_HALF: Final = Fraction(1, 2)
_WIDER: Final = Fraction(3, 2)


def _family(name: str, title: str, **settings: Any) -> MobileNetV4:
    return MobileNetV4(
        name=name,
        title=title,
        letter="T",
        first_stage=2,
        strides=(2, 2, 2, 2),
        kernels=(3, 3, 3, 3),
        stem_kernel=3,
        stage2=None,
        activation="relu",
        original_stage2_depth=0,
        third_values=(),
        grid_divisor=1,
        uniform_divisor=4,
        interpolation="bicubic",
        first_conv="conv_stem",
        classifier="classifier",
        head_width=960,
        **settings,
    )


def _training(weight_decay: float, lr: float, epochs: int, drop_rate: float, policy: str, **settings: Any) -> Training:
    """As the authors' code trains them, but for AdamW's first beta, which is 0.6 in theirs of the small network."""
    return Training(
        weight_decay,
        lr,
        epochs,
        drop_rate=drop_rate,
        interpolation="bicubic",
        source="the code of MobileNetV4's authors",
        optimiser="adamw",
        warmup_from=0.0,
        policy=policy,
        # Of few images a small one learns 20 epochs of digits to 97% by SGD, and to 87% by AdamW at 0.002.
        short_optimiser="sgd",
        **settings,
    )


def _ranges(steps: tuple[int, ...], low: tuple[int, ...]) -> tuple[WidthRange, ...]:
    """From some widths to four times these."""
    return multiples(steps, low, tuple(4 * width for width in low))


MOBILENETV4_CONV_SMALL: Final = _family(
    "mobilenetv4_conv_small",
    "MobileNetV4-Conv-Small",
    stem_width=32,
    image_size=224,
    original=(32, 64, 96, 128, 1, 1, 6, 6, 1, 3, 2, 4),
    width_ranges=_ranges((4, 8, 16, 16), (16, 32, 48, 64)),
    max_depths=(1, 1, 8, 8),
    expansions=((1, 2), (2, 3, 4), (1, 2, 3, 4), (2, 3, 4, 6)),
    patterns=(
        _PAIR,
        _PAIR,
        (_uib(5, 5, _WIDER), *(_uib(0, 3),) * 4, _uib(3, 0, 2)),
        (_uib(3, 3, _WIDER), _uib(5, 5), _uib(0, 5), _uib(0, 5, Fraction(3, 4)), _uib(0, 3), _uib(0, 3)),
    ),
    training=_training(0.01, 2e-3, 9600, 0.3, "rand-m9-p0.5", batch_size=4096, ema=0.9999),
    published={
        "mobilenetv4_conv_small_035": Published(
            (16, 24, 32, 48, 1, 1, 6, 6, 16, 32, 64, 192, 16, 32, 72, 192),
            "MobileNetV4-Conv-Small 0.35",
            form="BE",
            fixed=MappingProxyType({"head_width": 336}),
        ),
        "mobilenetv4_conv_small_050": Published(
            (16, 32, 48, 64, 1, 1, 6, 6, 16, 48, 96, 256, 16, 48, 96, 288),
            "MobileNetV4-Conv-Small 0.5",
            ("e3000_r224_in1k",),
            form="BE",
            fixed=MappingProxyType({"head_width": 480}),
        ),
        "mobilenetv4_conv_small": Published(
            (32, 64, 96, 128, 1, 1, 6, 6, 1, 3, 2, 4),
            "MobileNetV4-Conv-Small",
            ("e2400_r224_in1k", "e1200_r224_in1k", "e3600_r256_in1k"),
        ),
    },
)
MOBILENETV4_CONV_MEDIUM: Final = _family(
    "mobilenetv4_conv_medium",
    "MobileNetV4-Conv-Medium",
    stem_width=32,
    image_size=256,
    original=(48, 80, 160, 256, 1, 2, 8, 11, 4, 2, 4, 4),
    width_ranges=_ranges((8, 8, 16, 32), (24, 40, 80, 128)),
    max_depths=(2, 4, 12, 16),
    expansions=((2, 4, 6), (1, 2, 3), (2, 3, 4), (2, 3, 4)),
    patterns=(
        _FUSED,
        (_uib(3, 5, 2), _uib(3, 3)),
        (_uib(3, 5, _WIDER), _uib(3, 3), _uib(3, 3), _uib(3, 5), _uib(3, 3), _uib(3, 0), _uib(0, 0, _HALF), _uib(3, 0)),
        (
            _uib(5, 5, _WIDER),
            _uib(5, 5),
            _uib(3, 5),
            _uib(3, 5),
            _uib(0, 0),
            _uib(3, 0),
            _uib(3, 5, _HALF),
            _uib(5, 5),
            _uib(0, 0),
            _uib(0, 0),
            _uib(5, 0, _HALF),
        ),
    ),
    training=_training(0.1, 4e-3, 500, 0.2, "rand-m15-p0.7", batch_size=4096, drop_path_rate=0.075, crop_pct=0.95),
    published={
        "mobilenetv4_conv_medium": Published(
            (48, 80, 160, 256, 1, 2, 8, 11, 4, 2, 4, 4),
            "MobileNetV4-Conv-Medium",
            (
                "e500_r256_in1k",
                "e500_r224_in1k",
                "e250_r384_in12k_ft_in1k",
                "e180_r384_in12k",
                "e180_ad_r384_in12k",
                "e250_r384_in12k",
            ),
        )
    },
)
MOBILENETV4_CONV_LARGE: Final = _family(
    "mobilenetv4_conv_large",
    "MobileNetV4-Conv-Large",
    stem_width=24,
    image_size=384,
    original=(48, 96, 192, 512, 1, 2, 11, 13, 4, 4, 4, 4),
    width_ranges=_ranges((8, 8, 16, 32), (24, 48, 96, 256)),
    max_depths=(2, 4, 16, 18),
    expansions=((2, 4, 6), (2, 3, 4), (2, 3, 4), (2, 3, 4)),
    patterns=(
        _FUSED,
        (_uib(3, 5), _uib(3, 3)),
        (_uib(3, 5), *(_uib(3, 3),) * 3, _uib(3, 5), *(_uib(5, 3),) * 5, _uib(3, 0)),
        (
            *(_uib(5, 5),) * 4,
            _uib(5, 0),
            _uib(5, 3),
            _uib(5, 0),
            _uib(5, 0),
            _uib(5, 3),
            _uib(5, 5),
            *(_uib(5, 0),) * 3,
        ),
    ),
    # Their rate of dropped paths is the same in all blocks.
    training=_training(
        0.2,
        4e-3,
        500,
        0.2,
        "rand-m15-p0.5",
        batch_size=16384,
        warmup_epochs=20.0,
        drop_path_rate=0.2,
        mixup=0.8,
        cutmix=1.0,
        crop_pct=0.95,
    ),
    published={
        "mobilenetv4_conv_large": Published(
            (48, 96, 192, 512, 1, 2, 11, 13, 4, 4, 4, 4), "MobileNetV4-Conv-Large", ("e600_r384_in1k", "e500_r256_in1k")
        )
    },
)

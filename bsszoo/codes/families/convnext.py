"""ConvNeXt: stages of depthwise 7x7 convolutions and an MLP on each pixel, with layer normalisation (arXiv:2201.03545).

Two families, as timm has two forms of the same block: the MLPs of ``convnext_atto``, femto, pico and nano are 1x1
convolutions, those of ``convnext_tiny``, small and base linear layers on channels-last features. Published networks
have inner widths of four times the stage's; a code has one such factor, T, for each stage. ConvNeXt V2 is in
``convnextv2.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final

from bsszoo.codes.families.base import (
    CodeFields,
    Family,
    Fixed,
    Published,
    Shapes,
    Training,
    counted,
    multiples,
    widths_in,
)
from bsszoo.codes.layers import Block, Layer, N, Part, Placement, Stage, Stem, Vector

if TYPE_CHECKING:
    from torch import nn

#: Inner width of the published networks' MLPs over their stage's width.
RATIO: Final = 4


def layer_norm(name: str, width: N, axis: Any = "out") -> tuple[Vector[N], ...]:
    """Scale and shift of a layer normalisation."""
    return Vector(f"{name}.weight", width, axis), Vector(f"{name}.bias", width, axis)


class PatchStem(Stem[N]):
    """A convolution of patches that do not overlap, and its layer normalisation."""

    __slots__ = ()

    def output_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Whole patches only."""
        return size[0] // self.stride, size[1] // self.stride

    def layers(self) -> list[Layer[N]]:
        """The convolution."""
        return [
            Layer(
                self.layer,
                self.in_width,
                self.out_width,
                self.kernel,
                self.stride,
                self.in_width,
                True,
                "",
                vectors=layer_norm(self.norm_layer, self.out_width),
                padded=False,
            )
        ]

    def build(self: Block[int], placement: Placement, activation: str, dd: dict[str, Any]) -> nn.Module:
        """Both."""
        from bsszoo.codes.families.convnext_modules import patches

        return patches(self, dd)

    def title(self: Block[int]) -> str:
        """``Conv 4x4 + LN``."""
        return f"Conv {self.kernel}x{self.kernel} + LN"


@dataclass(frozen=True, slots=True)
class ConvNeXtBlock(Block[N]):
    """Depthwise convolution, layer normalisation, 1x1 to ``mid_width``, 1x1 to the output width, beside a skip.

    The first block of a stage has the stage's downsampling before it: layer normalisation and a 2x2 convolution with
    stride 2; without a stride a 1x1 convolution, where input and output differ. ``linear`` says that its MLP is of
    linear layers, ``responds`` that it has a global response normalisation in place of a layer scale.
    """

    linear: bool = False
    responds: bool = False
    stage: str = ""

    kind: ClassVar[str] = "convnext"
    waisted: ClassVar[bool] = True
    letter: ClassVar[str] = "T"

    def output_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Half of an odd side, less half a pixel: the downsampling reads no pixel beyond the edge."""
        return size[0] // self.stride, size[1] // self.stride

    def layers(self) -> list[Layer[N]]:
        """The downsampling, which only some have, and the three of the block."""
        a, b, m = self.in_width, self.out_width, self.mid_width
        path = f"{self.name}." if self.name else ""
        before = f"{self.stage}.downsample"
        response = layer_norm(f"{path}mlp.grn", m) if self.responds else ()
        scale = "" if self.responds else f"{path}gamma"
        present = 1 if self.stride != 1 else 1 * (a != b)

        def mlp(name: str, width_in: N, width: N, vectors: tuple[Vector[N], ...], scale: str = "") -> Layer[N]:
            return Layer(
                f"{path}mlp.{name}",
                width_in,
                width,
                1,
                1,
                width_in,
                True,
                "",
                "main",
                1,
                vectors,
                scale,
                True,
                self.linear,
            )

        return [
            Layer(
                f"{before}.1",
                a,
                b,
                self.stride,
                self.stride,
                a,
                True,
                "",
                "main",
                present,
                layer_norm(f"{before}.0", a, "in"),
                padded=False,
            ),
            Layer(f"{path}conv_dw", b, b, self.kernel, 1, 1, True, "", "main", 1, layer_norm(f"{path}norm", b)),
            mlp("fc1", b, m, response),
            mlp("fc2", m, b, () if self.responds else (Vector(scale, b),), scale),
        ]

    def parts(self) -> list[Part[N]]:
        """The downsampling, where there is one, and the block."""
        before, *layers = self.layers()
        block = Part(self.name, layers, True)
        return [Part(f"{self.stage}.downsample", [before], False), block] if before.present else [block]

    def build(self: Block[int], placement: Placement, activation: str, dd: dict[str, Any]) -> nn.Module:
        """timm's block, behind its downsampling."""
        from bsszoo.codes.families.convnext_modules import build_block

        return build_block(self, placement, activation, dd)

    def title(self: Block[int]) -> str:
        """``ConvNeXt 7x7``, of V2 ``ConvNeXt 7x7 + GRN``."""
        return f"ConvNeXt {self.kernel}x{self.kernel}" + (" + GRN" if self.layers()[2].vectors else "")

    def third(self: Block[int]) -> int:
        """The expansion T."""
        return self.mid_width // self.out_width

    @staticmethod
    def numbered(stage: str, index: int) -> str:
        """``stages.0.blocks.0``, ``stages.0.blocks.1``, .."""
        return f"{stage}.blocks.{index}"


class InnerConvNeXtBlock(ConvNeXtBlock[N]):
    """A block with an inner width of its own."""

    __slots__ = ()

    letter: ClassVar[str] = "B"

    def third(self: Block[int]) -> int:
        """The inner width B."""
        return self.mid_width


class HeadNorm(Block[N]):
    """The layer normalisation of pooled features; ``name`` is its module path."""

    __slots__ = ()

    kind: ClassVar[str] = "head_norm"
    stacked: ClassVar[bool] = False
    in_features: ClassVar[bool] = False
    pooled: ClassVar[bool] = True

    def layers(self) -> list[Layer[N]]:
        """The normalisation."""
        a = self.in_width
        return [Layer(self.name, a, a, 1, 1, 1, False, "", "norm", vectors=layer_norm(self.name, a, "in"))]

    def build(self: Block[int], placement: Placement, activation: str, dd: dict[str, Any]) -> nn.Module:
        """timm's layer."""
        from timm.layers.norm import LayerNorm2d

        return LayerNorm2d(self.in_width, **dd)

    def title(self: Block[int]) -> str:
        """``LayerNorm``."""
        return "LayerNorm"


@dataclass(frozen=True)
class ConvNeXt(Family):
    """ConvNeXts. ``linear`` and ``responds`` as ``ConvNeXtBlock``'s."""

    linear: bool = False
    responds: bool = False

    def block(self, name: str, width_in: N, width: N, third: N, kernel: int, stride: int, fixed: Fixed) -> Block[N]:
        """A block with expansion T or, of subnetworks, inner width B."""
        parts: dict[str, Any] = {"linear": self.linear, "responds": self.responds, "stage": name}
        if fixed.form == "B":
            return InnerConvNeXtBlock(name, width_in, width, third, kernel, stride, **parts)
        return ConvNeXtBlock(name, width_in, width, width * third, kernel, stride, **parts)

    @property
    def forms(self) -> tuple[str, ...]:
        """Expansions, or inner widths."""
        return ("T", "B")

    def published_thirds(self, code: CodeFields) -> tuple[int, ...] | None:
        """The expansions, where inner widths are whole multiples of the stages' widths."""
        pairs = list(zip(code.thirds, code.widths, strict=True))
        return tuple(b // c for b, c in pairs) if all(b % c == 0 for b, c in pairs) else None

    def stem(self, in_chans: N, width: N) -> Stage[N]:
        """Patches of 4x4 px."""
        k = self.stem_kernel
        block: Block[N] = PatchStem("stem", in_chans, width, width, k, k, layer="stem.0", norm_layer="stem.1")
        return self.single(block, 1, "stem")

    def behind(self, width: N, fixed: Fixed) -> list[Stage[N]]:
        """The layer normalisation of the pooled features."""
        block: Block[N] = HeadNorm("head.norm", width, width, width, 1, 1)
        return [self.single(block, self.first_stage + self.stages, "head.norm")]

    def stage_name(self, index: int) -> str:
        """``stages.0`` .. ``stages.3``."""
        return f"stages.{index}"

    @property
    def feature_strides(self) -> tuple[int, ...]:
        """There are none at stride 2: the stem has stride 4."""
        return (4, 8, 16, 32)

    def last_side(self, side: int) -> int:
        """Whole patches of whole patches."""
        return side // 32

    def network(self) -> Any:
        """timm's ``ConvNeXt``."""
        from bsszoo.codes.families.convnext_modules import CodeConvNeXt

        return partial(CodeConvNeXt, linear=self.linear, responds=self.responds)

    def features(self) -> Any:
        """Its stages alone, whose keys stay those of the whole network."""
        from bsszoo.codes.families.convnext_modules import CodeConvNeXtFeatures

        return partial(CodeConvNeXtFeatures, linear=self.linear, responds=self.responds)

    def timm_arguments(self, code: CodeFields) -> tuple[str, dict[str, Any]] | None:
        """timm's network of the family with other depths and widths, where all inner widths are four times these."""
        if code.form != "T" or set(code.thirds) != {RATIO}:
            return None
        return self.name, {"depths": list(code.depths), "dims": list(code.widths)}

    def code_of(self, shapes: Shapes) -> dict[str, Any] | None:
        """Read off ``stages.0.blocks.0.mlp.fc2`` and the like, of this family's form of MLPs and normalisation only."""
        second = shapes.get("stages.0.blocks.0.mlp.fc2.weight", ())
        if len(second) != (2 if self.linear else 4) or ("stages.0.blocks.0.gamma" in shapes) == self.responds:
            return None
        stages = [self.stage_name(s) for s in range(self.stages)]
        return {
            "widths": tuple(widths_in(shapes, f"{stage}.blocks.0.mlp.fc2") for stage in stages),
            "depths": tuple(counted(shapes, lambda i, at=stage: f"{at}.blocks.{i}.conv_dw") for stage in stages),
            "bottlenecks": tuple(widths_in(shapes, f"{stage}.blocks.0.mlp.fc1") for stage in stages),
            "stem_width": widths_in(shapes, "stem.0"),
        }

    def from_torchvision(self, shapes: Shapes) -> Mapping[str, str] | None:
        """``features.1.0.block.3`` is ``stages.0.blocks.0.mlp.fc1``, and so on; torchvision has linear MLPs only."""
        if not self.linear or self.responds or "features.1.0.layer_scale" not in shapes:
            return None
        names = {"features.0.0": "stem.0", "features.0.1": "stem.1", "classifier.0": "head.norm"}
        names["classifier.2"] = "head.fc"
        inside = {"0": "conv_dw", "2": "norm", "3": "mlp.fc1", "5": "mlp.fc2"}
        for stage in range(self.stages):
            ours, theirs = self.stage_name(stage), f"features.{2 * stage + 1}"
            names |= {f"features.{2 * stage}.{i}": f"{ours}.downsample.{i}" for i in (0, 1) if stage}
            for block in range(counted(shapes, lambda i, at=theirs: f"{at}.{i}.block.0")):
                names[f"{theirs}.{block}.layer_scale"] = f"{ours}.blocks.{block}.gamma"
                names |= {f"{theirs}.{block}.block.{i}": f"{ours}.blocks.{block}.{name}" for i, name in inside.items()}
        return names


def published(title: str, width: int, depths: tuple[int, int, int, int], *tags: str) -> Published:
    """A published ConvNeXt: its stages' widths double."""
    return Published((width, 2 * width, 4 * width, 8 * width, *depths, *(RATIO,) * 4), title, tags)


#: As the authors' code trains ConvNeXt-T on ImageNet-1K; they drop more paths of S (0.4) and B (0.5). V2's weights
#: begin with a masked autoencoder (FCMAE), for which there is no recipe here.
TRAINING: Final = Training(
    0.05,
    4e-3,
    300,
    drop_path_rate=0.1,
    head_scaled=False,
    interpolation="bicubic",
    source="the code of ConvNeXt's authors",
    optimiser="adamw",
    batch_size=4096,
    warmup_epochs=20.0,
    warmup_from=0.0,
    min_lr=1e-6,
    policy="rand-m9-mstd0.5-inc1",
    mixup=0.8,
    cutmix=1.0,
    erase=0.25,
    ema=0.9999,
    short_lr=2e-3,
)


def convnext(name: str, title: str, *, linear: bool, responds: bool = False, **settings: Any) -> ConvNeXt:
    """A family of ConvNeXts: what all share, and its ``settings``: training and published networks.

    The ranges of widths and depths, of which the papers have none, are ours: those of the published networks of its
    form of MLPs, and about as much below and above.
    """
    steps = (16, 32, 64, 128) if linear else (8, 16, 32, 64)
    low = (48, 96, 192, 384) if linear else (24, 48, 96, 192)
    high = (160, 320, 640, 1280) if linear else (96, 192, 384, 768)
    return ConvNeXt(
        name=name,
        title=title,
        letter="T",
        first_stage=2,
        strides=(1, 2, 2, 2),
        kernels=(7, 7, 7, 7),
        stem_kernel=4,
        stem_width=None,
        stage2=None,
        activation="gelu",
        image_size=224,
        original_stage2_depth=0,
        width_ranges=multiples(steps, low, high),
        max_depths=(5, 5, 30, 5) if linear else (4, 4, 12, 4),
        third_values=(Fraction(2), Fraction(3), Fraction(4)),
        grid_divisor=8,
        uniform_divisor=8,
        interpolation="bicubic",
        first_conv="stem.0",
        classifier="head.fc",
        linear=linear,
        responds=responds,
        **settings,
    )


CONVNEXT_ATTO = convnext(
    "convnext_atto",
    "ConvNeXt-Atto",
    linear=False,
    original=(40, 80, 160, 320, 2, 2, 6, 2, *(RATIO,) * 4),
    training=TRAINING,
    published={
        "convnext_atto": published("ConvNeXt-Atto", 40, (2, 2, 6, 2), "d2_in1k"),
        "convnext_femto": published("ConvNeXt-Femto", 48, (2, 2, 6, 2), "d1_in1k"),
        "convnext_pico": published("ConvNeXt-Pico", 64, (2, 2, 6, 2), "d1_in1k"),
        "convnext_nano": published(
            "ConvNeXt-Nano", 80, (2, 2, 8, 2), "in12k_ft_in1k", "d1h_in1k", "r384_in12k_ft_in1k"
        ),
    },
)
_TAGS: Final = ("in12k_ft_in1k", "in12k_ft_in1k_384", "fb_in22k_ft_in1k", "fb_in1k", "fb_in22k_ft_in1k_384")

CONVNEXT_TINY = convnext(
    "convnext_tiny",
    "ConvNeXt-Tiny",
    linear=True,
    original=(96, 192, 384, 768, 3, 3, 9, 3, *(RATIO,) * 4),
    training=TRAINING,
    published={
        "convnext_tiny": published("ConvNeXt-Tiny", 96, (3, 3, 9, 3), *_TAGS),
        "convnext_small": published("ConvNeXt-Small", 96, (3, 3, 27, 3), *_TAGS),
        "convnext_base": published(
            "ConvNeXt-Base",
            128,
            (3, 3, 27, 3),
            *_TAGS[2:],
            "clip_laion2b_augreg_ft_in12k_in1k",
            "clip_laion2b_augreg_ft_in12k_in1k_384",
            "clip_laion2b_augreg_ft_in1k",
            "clip_laiona_augreg_ft_in1k_384",
        ),
    },
)

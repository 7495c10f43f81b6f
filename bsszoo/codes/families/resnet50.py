"""ResNet-50: stages of bottleneck blocks."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, ClassVar, Final

from bsszoo.codes.families.base import CodeFields, Fixed, Published, Shapes, Training, multiples, scaled, widths_in
from bsszoo.codes.families.resnet18 import Residual, ResNet
from bsszoo.codes.layers import Block, Layer, N


class Bottleneck(Residual[N]):
    """1x1 to ``mid_width``, 3x3, 1x1 to the output width."""

    __slots__ = ()

    kind: ClassVar[str] = "bottleneck"
    waisted: ClassVar[bool] = True
    letter: ClassVar[str] = "B"

    def layers(self) -> list[Layer[N]]:
        """The three, the second in groups where there are any, squeeze-and-excitation if any, and the projection."""
        m = self.mid_width
        first, second = (self.stride, 1) if self.stride_in == "1x1" else (1, self.stride)
        return [
            self._conv("conv1", self.in_width, m, "bn1", 1, first),
            self._conv("conv2", m, m, "bn2", 3, second, group_width=self.group_width),
            self._conv("conv3", m, self.out_width, "bn3"),
            *self.gate(),
            self.shortcut(),
        ]

    def title(self: Block[int]) -> str:
        """``Bottleneck 3x3``, ``Bottleneck 3x3, groups of 4 + SE``."""
        groups = f", groups of {self.group_width}" if self.group_width is not None else ""
        gate = " + SE" if self.squeeze_width is not None else ""
        return f"Bottleneck {self.kernel}x{self.kernel}{groups}{gate}"

    def third(self: Block[int]) -> int:
        """The bottleneck width B."""
        return self.mid_width


class ResNet50(ResNet):
    """ResNets of bottleneck blocks."""

    def block(self, name: str, width_in: N, width: N, third: N, kernel: int, stride: int, fixed: Fixed) -> Block[N]:
        """A bottleneck."""
        return Bottleneck(name, width_in, width, third, kernel, stride, self.squeeze(width), fixed.stride_in)

    @property
    def shares_width(self) -> bool:
        """B is held as its share of C."""
        return True

    @property
    def loses_projection(self) -> bool:
        """The stem has 64 channels whatever C2 is, and stage 2 has no stride."""
        return True

    def rescaled(self, width: int, third: int, scale: float) -> tuple[int, int]:
        """Both rescaled."""
        return scaled(scale * width, self.uniform_divisor), scaled(scale * third, self.uniform_divisor)

    def timm_arguments(self, code: CodeFields) -> tuple[str, dict[str, Any]] | None:
        """timm's ResNet-50 with other layers, channels and one share of the inner widths for all stages."""
        if code.stride_in != "3x3" or code.form != self.letter:
            return None
        # timm's inner width is a quarter of the width x base_width / 64.
        planes = [width // 4 for width in code.widths]
        base_width = 64 * code.thirds[0] / max(1, planes[0])
        wider = {} if base_width == 64 else {"base_width": int(base_width) if base_width.is_integer() else base_width}
        return self.name, {"layers": list(code.depths), "channels": planes, **wider}

    def code_of(self, shapes: Shapes) -> dict[str, Any] | None:
        """Read off ``layer1.0.conv3`` and the like."""
        if (stages := self._stages_in(shapes, "conv3")) is None:
            return None
        widths, depths = stages
        inner = tuple(widths_in(shapes, f"{self.stage_name(s)}.0.conv1") for s in range(self.stages))
        return {
            "widths": tuple(widths),
            "depths": tuple(depths),
            "bottlenecks": inner,
            "stem_width": widths_in(shapes, "conv1"),
        }


_TAGS: Final = ("a1h_in1k", "a1_in1k", "a2_in1k", "a3_in1k", "tv_in1k", "tv2_in1k", "gluon_in1k")


def published(title: str, depths: tuple[int, ...], *tags: str, wider: int = 1) -> Published:
    """A published network: inner widths of 64 to 512, in Wide ResNets (arXiv:1605.07146) twice these."""
    return Published((256, 512, 1024, 2048, *depths, *(wider * b for b in (64, 128, 256, 512))), title, tags)


RESNET50 = ResNet50(
    name="resnet50",
    title="ResNet-50",
    letter="B",
    first_stage=2,
    strides=(1, 2, 2, 2),
    kernels=(3, 3, 3, 3),
    stem_kernel=7,
    stem_width=64,
    stage2=None,
    activation="relu",
    image_size=224,
    original=(256, 512, 1024, 2048, 3, 4, 6, 3, 64, 128, 256, 512),
    original_stage2_depth=0,
    width_ranges=multiples((64, 128, 256, 512), (64, 128, 256, 512), (320, 768, 1536, 3072)),
    max_depths=(11, 11, 11, 11),
    third_values=(Fraction(1, 8), Fraction(1, 4), Fraction(3, 8), Fraction(1, 2)),
    grid_divisor=8,
    uniform_divisor=8,
    interpolation="bilinear",
    first_conv="conv1",
    classifier="fc",
    training=Training(1e-4, 0.7, 120, head_scaled=False),
    published={
        "resnet26": published("ResNet-26", (2, 2, 2, 2), "bt_in1k"),
        "resnet101": published("ResNet-101", (3, 4, 23, 3), *_TAGS),
        "resnet152": published("ResNet-152", (3, 8, 36, 3), *_TAGS),
        "resnet200": published("ResNet-200", (3, 24, 36, 3)),
        "wide_resnet50_2": published("Wide ResNet-50-2", (3, 4, 6, 3), "racm_in1k", "tv_in1k", "tv2_in1k", wider=2),
        "wide_resnet101_2": published("Wide ResNet-101-2", (3, 4, 23, 3), "tv_in1k", "tv2_in1k", wider=2),
    },
)

"""ResNet-18: stages of basic blocks. The base of all ResNets is here too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from bsszoo.codes.families.base import (
    CodeFields,
    Family,
    Fixed,
    Published,
    Shapes,
    Training,
    WidthRange,
    counted,
    widths_in,
)
from bsszoo.codes.layers import Block, Layer, N, Placement, Stage, Stem

if TYPE_CHECKING:
    from torch import nn


class PooledStem(Stem[N]):
    """The first convolution, with the max pooling that follows it in its module."""

    __slots__ = ()

    def build(self: Block[int], placement: Placement, activation: str, dd: dict[str, Any]) -> nn.Module:
        """The convolution, its normalisation, its activation and the pooling."""
        from torch import nn

        return nn.Sequential(Stem.build(self, placement, activation, dd), nn.MaxPool2d(3, 2, 1))


class Residual(Block[N]):
    """A block beside a shortcut, which is a projection where the shapes differ."""

    __slots__ = ()

    def shortcut(self) -> Layer[N]:
        """The projection."""
        present = 1 if self.stride != 1 else 1 * (self.in_width != self.out_width)
        return self._conv(
            "downsample.0",
            self.in_width,
            self.out_width,
            "downsample.1",
            1,
            self.stride,
            role="shortcut",
            present=present,
        )

    def gate(self) -> list[Layer[N]]:
        """Squeeze-and-excitation of the branch's output, where there is any."""
        b, s = self.out_width, self.squeeze_width
        if s is None:
            return []
        return [self._conv("se.fc1", b, s, "", role="gate"), self._conv("se.fc2", s, b, "", role="gate")]

    def build(self: Block[int], placement: Placement, activation: str, dd: dict[str, Any]) -> nn.Module:
        """timm's block."""
        from bsszoo.codes.families.resnet_modules import build_residual

        return build_residual(self, placement, dd)


class BasicBlock(Residual[N]):
    """Two 3x3 convolutions; ``mid_width`` is the output width, but of subnetworks."""

    __slots__ = ()

    kind: ClassVar[str] = "basic"

    def layers(self) -> list[Layer[N]]:
        """Both, squeeze-and-excitation if any, and the projection."""
        a, m, b = self.in_width, self.mid_width, self.out_width
        convs: list[Layer[N]] = [self._conv("conv1", a, m, "bn1", 3, self.stride), self._conv("conv2", m, b, "bn2", 3)]
        return [*convs, *self.gate(), self.shortcut()]

    def title(self: Block[int]) -> str:
        """``BasicBlock 3x3``, ``BasicBlock 3x3 + SE``."""
        gate = " + SE" if self.squeeze_width is not None else ""
        return f"BasicBlock {self.kernel}x{self.kernel}{gate}"


class InnerBasicBlock(BasicBlock[N]):
    """A basic block with an inner width of its own."""

    __slots__ = ()

    waisted: ClassVar[bool] = True
    letter: ClassVar[str] = "B"

    def third(self: Block[int]) -> int:
        """The inner width B."""
        return self.mid_width


class ResNet(Family):
    """What ResNets share: the stem with its pooling, the names of the modules, the builder."""

    def squeeze(self, width: N) -> N | None:
        """The hidden width of squeeze-and-excitation in a block of this width; None without."""
        return None

    def stem(self, in_chans: N, width: N) -> Stage[N]:
        """A 7x7 convolution and a max pooling."""
        block: Block[N] = PooledStem(
            "stem", in_chans, width, width, self.stem_kernel, 2, layer="conv1", norm_layer="bn1"
        )
        return self.single(block, 1, "conv1", pool=2)

    def stage_name(self, index: int) -> str:
        """``layer1`` .. ``layer4``."""
        return f"layer{index + 1}"

    def network(self) -> Any:
        """timm's ``ResNet``, module by module."""
        from bsszoo.codes.families.resnet_modules import CodeResNet

        return CodeResNet

    @property
    def torchvision_body(self) -> bool:
        """torchvision's detectors are on ResNets."""
        return True

    def timm_arguments(self, code: CodeFields) -> tuple[str, dict[str, Any]] | None:
        """timm's network of the family with other layers and channels."""
        # With the stride on the first 1x1 convolution the tensors are the same, and the network is another one.
        if code.stride_in != "3x3" or code.form != self.letter:
            return None
        return self.name, {"layers": list(code.depths), "channels": list(code.widths)}

    def _stages_in(self, shapes: Shapes, last: str) -> tuple[list[int], list[int]] | None:
        """Widths and depths of the four stages, by the last convolution of their blocks, gated as this family's are."""
        if ("layer1.0.se.fc1.weight" in shapes) != (self.squeeze(8) is not None):
            return None
        depths = [
            counted(shapes, lambda i, s=stage: f"{self.stage_name(s)}.{i}.{last}") for stage in range(self.stages)
        ]
        if not all(depths):
            return None
        return [widths_in(shapes, f"{self.stage_name(s)}.0.{last}") for s in range(self.stages)], depths


class ResNet18(ResNet):
    """ResNets of basic blocks."""

    def block(self, name: str, width_in: N, width: N, third: N, kernel: int, stride: int, fixed: Fixed) -> Block[N]:
        """A basic block."""
        if fixed.form == "B":
            return InnerBasicBlock(name, width_in, width, third, kernel, stride, self.squeeze(width))
        return BasicBlock(name, width_in, width, width, kernel, stride, self.squeeze(width))

    @property
    def forms(self) -> tuple[str, ...]:
        """Without inner widths, or with them."""
        return ("", "B")

    def published_thirds(self, code: CodeFields) -> tuple[int, ...] | None:
        """None are needed where the inner widths are the widths."""
        return () if code.thirds == code.widths else None

    def code_of(self, shapes: Shapes) -> dict[str, Any] | None:
        """Read off ``layer1.0.conv2`` and the like."""
        if "layer1.0.conv3.weight" in shapes or (stages := self._stages_in(shapes, "conv2")) is None:
            return None
        widths, depths = stages
        return {
            "widths": tuple(widths),
            "depths": tuple(depths),
            "bottlenecks": tuple(widths_in(shapes, f"{self.stage_name(s)}.0.conv1") for s in range(self.stages)),
            "stem_width": widths_in(shapes, "conv1"),
        }


RESNET18 = ResNet18(
    name="resnet18",
    title="ResNet-18",
    letter="",
    first_stage=2,
    strides=(1, 2, 2, 2),
    kernels=(3, 3, 3, 3),
    stem_kernel=7,
    stem_width=None,
    stage2=None,
    activation="relu",
    image_size=224,
    original=(64, 128, 256, 512, 2, 2, 2, 2),
    original_stage2_depth=0,
    width_ranges=tuple(
        WidthRange(low, low, high, doubling=True) for low, high in ((32, 256), (32, 1024), (64, 2048), (128, 2048))
    ),
    max_depths=(16, 16, 16, 16),
    third_values=(),
    # As ResNet-50's, whose B = C/8 has to be an integer.
    grid_divisor=8,
    uniform_divisor=8,
    interpolation="bilinear",
    first_conv="conv1",
    classifier="fc",
    training=Training(4e-5, 0.4, 120, head_scaled=False),
    published={
        "resnet34": Published(
            (64, 128, 256, 512, 3, 4, 6, 3),
            "ResNet-34",
            ("a1_in1k", "a2_in1k", "a3_in1k", "bt_in1k", "ra4_e3600_r224_in1k", "tv_in1k", "gluon_in1k"),
        )
    },
)

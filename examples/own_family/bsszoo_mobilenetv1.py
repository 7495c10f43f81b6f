"""MobileNetV1 (arXiv:1704.04861) as a family of bsszoo, in a distribution of its own.

``docs/own-family.md`` goes through this file. torch and timm are imported inside functions: names, codes and costs need
neither.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from bsszoo.codes.families.base import Family, Fixed, Published, Shapes, counted, multiples, widths_in
from bsszoo.codes.families.mobilenetv2 import MOBILENETV2
from bsszoo.codes.layers import Block, Layer, N, Placement, Stage, Stem

if TYPE_CHECKING:
    from torch import nn


class Separable(Block[N]):
    """A depthwise convolution and a 1x1 convolution, each with normalisation and activation."""

    __slots__ = ()

    kind: ClassVar[str] = "separable"
    residual: ClassVar[bool] = False

    def layers(self) -> list[Layer[N]]:
        """Both, in the order of the forward, with the paths of their modules inside the block."""
        a, b = self.in_width, self.out_width
        return [
            self._conv("conv_dw", a, a, "bn1", self.kernel, self.stride, group_width=1),
            self._conv("conv_pw", a, b, "bn2"),
        ]

    def build(self: Block[int], placement: Placement, activation: str, dd: dict[str, Any]) -> nn.Module:
        """timm's block; latency tables time it alone."""
        from timm.layers.create_act import get_act_layer
        from timm.models._efficientnet_blocks import DepthwiseSeparableConv

        act: Any = get_act_layer(activation)
        made: nn.Module = DepthwiseSeparableConv(
            self.in_width,
            self.out_width,
            self.kernel,
            placement.stride,
            placement.first_dilation,
            noskip=True,
            pw_act=True,
            act_layer=act,
            **dd,
        )
        return made

    def title(self: Block[int]) -> str:
        """``Separable 3x3``, for tables."""
        return f"Separable {self.kernel}x{self.kernel}"


class MobileNetV1(Family):
    """Five stages of separable blocks; a code is their widths and depths."""

    def stem(self, in_chans: N, width: N) -> Stage[N]:
        """A 3x3 convolution with stride 2."""
        block: Block[N] = Stem("stem", in_chans, width, width, self.stem_kernel, 2, layer="conv_stem", norm_layer="bn1")
        return self.single(block, 1, "conv_stem")

    def stage_name(self, index: int) -> str:
        """``blocks.0`` .. ``blocks.4``."""
        return f"blocks.{index}"

    def block(self, name: str, width_in: N, width: N, third: N, kernel: int, stride: int, fixed: Fixed) -> Block[N]:
        """A separable block; ``third`` is 0, as codes have no third entries."""
        return Separable(name, width_in, width, width_in, kernel, stride)

    def network(self) -> Any:
        """timm's ``EfficientNet``, whose blocks may be these."""
        return build_network

    def features(self) -> Any:
        """timm's ``EfficientNetFeatures``: what detectors stand on."""
        return build_features

    def code_of(self, shapes: Shapes) -> dict[str, Any] | None:
        """Read off ``blocks.0.0.conv_pw`` and the like, where no block has a third convolution."""
        names = [f"{self.stage_name(stage)}.0.conv_pw" for stage in range(self.stages)]
        depths = [
            counted(shapes, lambda i, s=stage: f"{self.stage_name(s)}.{i}.conv_pw") for stage in range(self.stages)
        ]
        if not all(depths) or "blocks.1.0.conv_pwl.weight" in shapes:
            return None
        return {
            "widths": tuple(widths_in(shapes, name) for name in names),
            "depths": tuple(depths),
            "stem_width": widths_in(shapes, "conv_stem"),
        }


def build_network(stages: tuple[Stage[int], ...], *, num_classes: int = 1000, **arguments: Any) -> nn.Module:
    """The network of a code's stages; the arguments are those of ``bsszoo.models.build`` that timm's classes take."""
    from timm.models.efficientnet import EfficientNet

    made: nn.Module = EfficientNet(_blocks(stages), num_classes=num_classes, num_features=0, **_rest(stages, arguments))
    return made


def build_features(stages: tuple[Stage[int], ...], **arguments: Any) -> nn.Module:
    """The same without a classifier; it returns the features at strides 2 to 32."""
    from timm.models.efficientnet import EfficientNetFeatures

    made: nn.Module = EfficientNetFeatures(_blocks(stages), **_rest(stages, arguments))
    return made


def _blocks(stages: tuple[Stage[int], ...]) -> Any:
    from timm.models._efficientnet_builder import decode_arch_def

    # timm's text of a stage: "dsa" is a separable block without a skip, with an activation at its end.
    return decode_arch_def(
        [
            [f"dsa_r{stage.depth}_k{stage.first.kernel}_s{stage.first.stride}_c{stage.first.out_width}"]
            for stage in stages
            if stage.first.stacked
        ]
    )


def _rest(stages: tuple[Stage[int], ...], arguments: dict[str, Any]) -> dict[str, Any]:
    from timm.layers.create_act import get_act_layer

    return {
        "stem_size": stages[0].first.out_width,
        "fix_stem": True,
        "round_chs_fn": int,  # widths as they are
        "act_layer": get_act_layer(MOBILENETV1.activation),
        **arguments,
    }


MOBILENETV1 = MobileNetV1(
    name="mobilenetv1",
    title="MobileNetV1",
    letter="",
    first_stage=2,
    strides=(1, 2, 2, 2, 2),
    kernels=(3, 3, 3, 3, 3),
    stem_kernel=3,
    stem_width=32,
    stage2=None,
    activation="relu6",
    image_size=224,
    original=(64, 128, 256, 512, 1024, 1, 2, 2, 6, 2),
    original_stage2_depth=0,
    width_ranges=multiples((8, 16, 32, 64, 128), (16, 32, 64, 128, 256), (96, 192, 384, 768, 1536)),
    max_depths=(2, 4, 4, 12, 4),
    third_values=(),
    grid_divisor=8,
    uniform_divisor=8,
    interpolation="bicubic",
    first_conv="conv_stem",
    classifier="classifier",
    training=replace(MOBILENETV2.training, source="MobileNetV2's row of the AutoBSS paper's Table 1, our choice"),
    published={
        "mobilenetv1_100": Published((64, 128, 256, 512, 1024, 1, 2, 2, 6, 2), "MobileNetV1", ("ra4_e3600_r224_in1k",))
    },
)

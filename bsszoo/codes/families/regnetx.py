"""RegNetX: stages of bottlenecks without a narrow waist, whose 3x3 convolution is grouped (arXiv:2003.13678).

timm's networks have one group width for all stages; a code may have one for each. Every group width divides its stage's
width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
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
    scaled,
    widths_in,
)
from bsszoo.codes.layers import Block, Layer, N, Placement, Stage, Stem

if TYPE_CHECKING:
    from torch import nn


class GroupedBottleneck(Block[N]):
    """1x1, grouped 3x3 and 1x1, all of the output width, beside a shortcut that is a projection where shapes differ."""

    __slots__ = ()

    kind: ClassVar[str] = "regnet"
    letter: ClassVar[str] = "G"

    def layers(self) -> list[Layer[N]]:
        """The three, squeeze-and-excitation behind the second if any, and the projection."""
        a, b, s = self.in_width, self.out_width, self.squeeze_width
        out: list[Layer[N]] = [
            self._conv("conv1.conv", a, b, "conv1.bn"),
            self._conv("conv2.conv", b, b, "conv2.bn", self.kernel, self.stride, group_width=self.group_width),
        ]
        if s is not None:
            out += [self._conv("se.fc1", b, s, "", role="gate"), self._conv("se.fc2", s, b, "", role="gate")]
        present = 1 if self.stride != 1 else 1 * (a != b)
        return [
            *out,
            self._conv("conv3.conv", b, b, "conv3.bn"),
            self._conv("downsample.conv", a, b, "downsample.bn", 1, self.stride, role="shortcut", present=present),
        ]

    def build(self: Block[int], placement: Placement, activation: str, dd: dict[str, Any]) -> nn.Module:
        """timm's block."""
        from timm.layers.create_act import get_act_layer
        from timm.models.regnet import Bottleneck

        act: Any = get_act_layer(activation)
        made: nn.Module = Bottleneck(
            self.in_width,
            self.out_width,
            placement.stride,
            (placement.first_dilation, placement.dilation),
            group_size=self.group_width or 1,
            se_ratio=(self.squeeze_width or 0) / self.in_width,
            act_layer=act,
            drop_path_rate=placement.drop_path,
            **dd,
        )
        return made

    def title(self: Block[int]) -> str:
        """``RegNet 3x3, groups of 24 + SE``."""
        gate = " + SE" if self.squeeze_width is not None else ""
        return f"RegNet {self.kernel}x{self.kernel}, groups of {self.group_width}{gate}"

    def third(self: Block[int]) -> int:
        """The group width G."""
        return self.group_width or 0

    @staticmethod
    def numbered(stage: str, index: int) -> str:
        """``s1.b1``, ``s1.b2``, .."""
        return f"{stage}.b{index + 1}"


class RegNet(Family):
    """RegNets; RegNetY's have squeeze-and-excitation."""

    def squeeze(self, width_in: N) -> N | None:
        """The hidden width of squeeze-and-excitation in a block with this input; None without."""
        return None

    @property
    def whole_groups(self) -> bool:
        """A stage is made of whole groups."""
        return True

    def block(self, name: str, width_in: N, width: N, third: N, kernel: int, stride: int, fixed: Fixed) -> Block[N]:
        """A bottleneck with groups of ``third`` channels."""
        return GroupedBottleneck(
            name, width_in, width, width, kernel, stride, self.squeeze(width_in), group_width=third
        )

    def stem(self, in_chans: N, width: N) -> Stage[N]:
        """A 3x3 convolution with stride 2."""
        block: Block[N] = Stem(
            "stem", in_chans, width, width, self.stem_kernel, 2, layer="stem.conv", norm_layer="stem.bn"
        )
        return self.single(block, 1, "stem")

    def stage_name(self, index: int) -> str:
        """``s1`` .. ``s4``."""
        return f"s{index + 1}"

    def thirds_at(self, steps: Sequence[int]) -> tuple[tuple[Fraction, ...], ...]:
        """All multiples of 8 that divide a stage's step, so that every width is made of whole groups."""
        return tuple(tuple(Fraction(g) for g in range(8, step + 1, 8) if step % g == 0) for step in steps)

    def rescaled(self, width: int, third: int, scale: float) -> tuple[int, int]:
        """A group width rescaled to a multiple of 8, and the nearest width of whole groups."""
        group = scaled(scale * third, 8) if third % 8 == 0 else scaled(scale * third, 1)
        return scaled(scale * width, group), group

    def rescaled_stem(self, width: int, scale: float) -> int:
        """The same: all published RegNets have a stem of 32 channels."""
        return width

    @property
    def grows_with_scale(self) -> bool:
        """Where a larger group width becomes due, widths may fall to a lower multiple of it."""
        return False

    def network(self) -> Any:
        """timm's ``RegNet``, module by module."""
        return build_regnet

    def timm_arguments(self, code: CodeFields) -> tuple[str, dict[str, Any]] | None:
        """None: timm's RegNets follow from four numbers, which no other code has."""
        return None

    def code_of(self, shapes: Shapes) -> dict[str, Any] | None:
        """Read off ``s1.b1.conv2.conv`` and the like, of this family's squeeze-and-excitation only."""
        gated = any(".se." in name for name in shapes)
        if "s1.b1.conv2.conv.weight" not in shapes or gated != (self.squeeze(8) is not None):
            return None
        paths = [GroupedBottleneck.numbered(self.stage_name(s), 0) for s in range(self.stages)]
        depths = [
            counted(shapes, lambda i, s=s: f"{GroupedBottleneck.numbered(self.stage_name(s), i)}.conv2.conv")
            for s in range(self.stages)
        ]
        if not all(depths):
            return None
        groups = tuple(int(shapes[f"{path}.conv2.conv.weight"][1]) for path in paths)
        return {
            "widths": tuple(widths_in(shapes, f"{path}.conv2.conv") for path in paths),
            "depths": tuple(depths),
            "group_widths": groups,
            "stem_width": widths_in(shapes, "stem.conv"),
        }

    def from_torchvision(self, shapes: Shapes) -> Mapping[str, str] | None:
        """``trunk_output.block1.block1-0.f.b.0`` is ``s1.b1.conv2.conv``, and so on."""
        if "trunk_output.block1.block1-0.f.b.0.weight" not in shapes:
            return None
        names = {"stem.0": "stem.conv", "stem.1": "stem.bn", "fc": "head.fc"}
        for stage in range(1, self.stages + 1):
            at = f"trunk_output.block{stage}.block{stage}"
            for block in range(counted(shapes, lambda i, at=at: f"{at}-{i}.f.b.0")):
                ours = GroupedBottleneck.numbered(self.stage_name(stage - 1), block)
                names |= {f"{at}-{block}.{theirs}": f"{ours}.{name}" for theirs, name in _TORCHVISION.items()}
        return names


_TORCHVISION: Final = {
    "f.a.0": "conv1.conv",
    "f.a.1": "conv1.bn",
    "f.b.0": "conv2.conv",
    "f.b.1": "conv2.bn",
    "f.c.0": "conv3.conv",
    "f.c.1": "conv3.bn",
    "f.se.fc1": "se.fc1",
    "f.se.fc2": "se.fc2",
    "proj.0": "downsample.conv",
    "proj.1": "downsample.bn",
}


def build_regnet(
    stages: tuple[Stage[int], ...],
    num_classes: int = 1000,
    in_chans: int = 3,
    output_stride: int = 32,
    global_pool: str = "avg",
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    *,
    device: Any = None,
    dtype: Any = None,
) -> nn.Module:
    """A timm ``RegNet`` of a code: what timm's constructor makes of a configuration, made of the code's stages.

    Arguments as ``bsszoo.models.build``.
    """
    from collections import OrderedDict
    from functools import partial

    import torch
    from timm.layers.classifier import ClassifierHead
    from timm.layers.conv_bn_act import ConvNormAct
    from timm.models._manipulate import named_apply
    from timm.models.regnet import RegNet as TimmRegNet
    from timm.models.regnet import RegStage, _init_weights
    from torch import nn

    dd: dict[str, Any] = {"device": device, "dtype": dtype}
    net: Any = TimmRegNet.__new__(TimmRegNet)
    nn.Module.__init__(net)
    net.num_classes, net.in_chans, net.drop_rate = num_classes, in_chans, drop_rate
    stem, *body, _ = stages
    conv: Any = ConvNormAct
    net.stem = conv(
        in_chans,
        stem.first.out_width,
        stem.first.kernel,
        stride=stem.first.stride,
        act_layer="relu",
        norm_layer="batchnorm",
        **dd,
    )
    net.feature_info = [{"num_chs": stem.first.out_width, "reduction": 2, "module": "stem"}]
    reduction, dilation, index = 2, 1, 0
    drop_paths = torch.linspace(0, drop_path_rate, sum(stage.depth for stage in body), device="cpu").tolist()
    for stage in body:
        # timm's container, whose forward supports gradient checkpointing.
        made: Any = RegStage.__new__(RegStage)
        nn.Module.__init__(made)
        made.grad_checkpointing = False
        blocks: dict[str, nn.Module] = OrderedDict()
        for block in stage.blocks():
            stride, previous = block.stride, dilation
            if stride > 1 and reduction >= output_stride:
                dilation, stride = dilation * stride, 1
            reduction *= stride
            placement = Placement(stride, dilation, previous, drop_paths[index])
            blocks[block.name.rpartition(".")[2]] = block.build(placement, "relu", dd)
            index += 1
        for name, module in blocks.items():
            made.add_module(name, module)
        net.add_module(stage.name, made)
        net.feature_info.append({"num_chs": stage.first.out_width, "reduction": reduction, "module": stage.name})
    net.final_conv = nn.Identity()
    net.num_features = body[-1].first.out_width
    net.head = ClassifierHead(net.num_features, num_classes, pool_type=global_pool, drop_rate=drop_rate, **dd)
    net.head_hidden_size = net.head.num_features
    named_apply(partial(_init_weights, zero_init_last=True), net)
    built: nn.Module = net
    return built


def published(title: str, widths: tuple[int, ...], depths: tuple[int, ...], group_width: int, *tags: str) -> Published:
    """A published RegNet, with its one group width."""
    return Published((*widths, *depths, *(group_width,) * len(widths)), title, (*tags, "pycls_in1k"))


#: As the configurations of its authors' pycls have it, for a batch of 1024.
TRAINING: Final = Training(
    5e-5, 0.8, 100, head_scaled=False, label_smoothing=0.0, source="pycls, the code of RegNet's authors"
)


def regnet(make: type[RegNet], name: str, title: str, **settings: Any) -> RegNet:
    """A family of RegNets: what all share, and its ``settings``: original, ranges, depths and published networks."""
    return make(
        name=name,
        title=title,
        letter="G",
        first_stage=2,
        strides=(2, 2, 2, 2),
        kernels=(3, 3, 3, 3),
        stem_kernel=3,
        stem_width=32,
        stage2=None,
        activation="relu",
        image_size=224,
        original_stage2_depth=0,
        third_values=(),
        grid_divisor=8,
        uniform_divisor=8,
        interpolation="bicubic",
        first_conv="stem.conv",
        classifier="head.fc",
        training=TRAINING,
        **settings,
    )


REGNETX = regnet(
    RegNet,
    "regnetx",
    "RegNetX",
    original=(96, 192, 432, 1008, 2, 6, 15, 2, 48, 48, 48, 48),
    width_ranges=multiples((48, 48, 48, 48), (48, 48, 144, 384), (240, 480, 1056, 2304)),
    max_depths=(5, 9, 20, 12),
    published={
        "regnetx_002": published("RegNetX-200MF", (24, 56, 152, 368), (1, 1, 4, 7), 8),
        "regnetx_004": published("RegNetX-400MF", (32, 64, 160, 384), (1, 2, 7, 12), 16),
        "regnetx_006": published("RegNetX-600MF", (48, 96, 240, 528), (1, 3, 5, 7), 24),
        "regnetx_008": published("RegNetX-800MF", (64, 128, 288, 672), (1, 3, 7, 5), 16, "tv2_in1k"),
        "regnetx_016": published("RegNetX-1.6GF", (72, 168, 408, 912), (2, 4, 10, 2), 24, "tv2_in1k"),
        "regnetx_032": published("RegNetX-3.2GF", (96, 192, 432, 1008), (2, 6, 15, 2), 48, "tv2_in1k"),
    },
)

"""EfficientNets: MobileNetV2's blocks with squeeze-and-excitation, larger kernels and SiLU (arXiv:1905.11946).

B0 and B1 are families of their own, as in the AutoBSS paper. B2 to B7 are published networks of one family: they differ
in widths and depths, which a code holds, and in its fixed parts: stem, stage 2, last convolution and size of the image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Final

from bsszoo.codes.families.base import TABLE_1, Published, Shapes, Training, counted, multiples, widths_in
from bsszoo.codes.families.mobilenetv2 import MBConvNet, torchvision_ends
from bsszoo.errors import WeightsError

_INSIDE: Final = {
    "block.0.0": "conv_pw",
    "block.0.1": "bn1",
    "block.1.0": "conv_dw",
    "block.1.1": "bn2",
    "block.3.0": "conv_pwl",
    "block.3.1": "bn3",
    "block.2.fc1": "se.conv_reduce",
    "block.2.fc2": "se.conv_expand",
}
# Of a block without expansion.
_ALONE: Final = {
    "block.0.0": "conv_dw",
    "block.0.1": "bn1",
    "block.2.0": "conv_pw",
    "block.2.1": "bn2",
    "block.1.fc1": "se.conv_reduce",
    "block.1.fc2": "se.conv_expand",
}

_ENDS_OF_EFFICIENTNET_PYTORCH: Final = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}

_OTHER_OUTPUTS: Final = (
    "The networks of bsszoo's families, which have the same tensors, would give other outputs; give weights of timm's "
    "network."
)
#: Channels in front of torchvision's classifier: 1792 of B4, 2048 of B5.
_LEAST_HEAD_OF_B5: Final = 2048


@dataclass(frozen=True)
class EfficientNet(MBConvNet):
    """EfficientNets."""

    def from_torchvision(self, shapes: Shapes) -> Mapping[str, str] | None:
        """``features.2.0.block.1.0`` is ``blocks.1.0.conv_dw``, and so on.

        The names of L. Melas-Kyriazi's ``efficientnet_pytorch``, in which weights of TensorFlow's networks spread, are
        read as well.

        Raises:
            WeightsError: The names are of networks that compute something else than the families', which have their
                tensors: ``efficientnet_pytorch``'s with squeeze-and-excitation, and torchvision's B5 to B7.
        """
        if "_blocks.0._depthwise_conv.weight" in shapes:
            if "_blocks.0._se_reduce.weight" in shapes:
                raise WeightsError(
                    "These tensors are an EfficientNet of the package efficientnet_pytorch, which pads as TensorFlow "
                    f"does, with an epsilon of 0.001 in its normalisations. {_OTHER_OUTPUTS}"
                )
            return _from_efficientnet_pytorch(shapes)
        if "features.1.0.block.0.0.weight" not in shapes:
            return None
        if widths_in(shapes, "features.8.0") >= _LEAST_HEAD_OF_B5:
            raise WeightsError(
                "These tensors are torchvision's EfficientNet-B5, B6 or B7, whose normalisations have an epsilon of "
                f"0.001. {_OTHER_OUTPUTS}"
            )
        stages = counted(shapes, lambda i: f"features.{i + 1}.0.block.0.0")
        names = torchvision_ends(stages + 1)
        for stage in range(stages):
            for block in range(counted(shapes, lambda i, s=stage: f"features.{s + 1}.{i}.block.0.0")):
                at = f"features.{stage + 1}.{block}"
                inside = _ALONE if f"{at}.block.1.fc1.weight" in shapes else _INSIDE
                names |= {f"{at}.{theirs}": f"blocks.{stage}.{block}.{ours}" for theirs, ours in inside.items()}
        return names


def _from_efficientnet_pytorch(shapes: Shapes) -> dict[str, str]:
    """timm's module names by ``efficientnet_pytorch``'s, whose blocks are numbered through; a stage has one width."""
    names = dict(_ENDS_OF_EFFICIENTNET_PYTORCH)
    stage, index, width = -1, 0, 0
    for i in range(counted(shapes, lambda i: f"_blocks.{i}._depthwise_conv")):
        at = f"_blocks.{i}"
        expanded = f"{at}._expand_conv.weight" in shapes
        out = widths_in(shapes, f"{at}._project_conv")
        stage, index = (stage, index + 1) if out == width else (stage + 1, 0)
        width = out
        inside = {"_depthwise_conv": "conv_dw", "_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
        if expanded:
            inside |= {
                "_expand_conv": "conv_pw",
                "_bn0": "bn1",
                "_bn1": "bn2",
                "_project_conv": "conv_pwl",
                "_bn2": "bn3",
            }
        else:
            inside |= {"_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
        names |= {f"{at}.{theirs}": f"blocks.{stage}.{index}.{ours}" for theirs, ours in inside.items()}
    return names


def efficientnet_training(
    size: int,
    drop_rate: float,
    *,
    autoaugment: bool = True,
    crop_pct: float | None = None,
    source: str = "the AutoBSS paper's Table 1 for EfficientNet-B1, dropout of the EfficientNet paper",
) -> Training:
    """The paper's rates and epochs of B0 and B1, with the dropout of a network; ``source`` says where that is from.

    The border of the image, 32 px beside ``size``, is that of the EfficientNet paper's code.
    """
    return Training(
        2e-5,
        0.7,
        350,
        autoaugment=autoaugment,
        drop_rate=drop_rate,
        drop_path_rate=0.2,
        crop_pct=round(size / (size + 32), 3) if crop_pct is None else crop_pct,
        interpolation="bicubic",
        source=source,
    )


def _efficientnet(name: str, title: str, size: int, depths: tuple[int, ...], stage2_depth: int) -> EfficientNet:
    return EfficientNet(
        name=name,
        title=title,
        letter="T",
        first_stage=3,
        strides=(2, 2, 2, 1, 2, 1),
        kernels=(3, 5, 3, 5, 5, 3),
        stem_kernel=3,
        stem_width=32,
        stage2=(16, 1),
        activation="silu",
        image_size=size,
        original=(24, 40, 80, 112, 192, 320, *depths, 6, 6, 6, 6, 6, 6),
        original_stage2_depth=stage2_depth,
        width_ranges=multiples((4, 8, 16, 28, 48, 80), (16, 24, 48, 56, 144, 160), (32, 64, 160, 280, 480, 640)),
        max_depths=(6, 6, 7, 7, 8, 5),
        third_values=(Fraction(3), Fraction(6)),
        grid_divisor=1,
        uniform_divisor=4,
        interpolation="bicubic",
        first_conv="conv_stem",
        classifier="classifier",
        training=efficientnet_training(size, 0.2, source=TABLE_1),
        head_width=1280,
        gates=(True,) * 7,
    )


EFFICIENTNET_B0 = _efficientnet("efficientnet_b0", "EfficientNet-B0", 224, (2, 2, 3, 3, 4, 1), 1)
# The original B1 has two blocks in stage 2; the searched codes' figures come out only with one.
EFFICIENTNET_B1 = _efficientnet("efficientnet_b1", "EfficientNet-B1", 240, (3, 3, 4, 4, 5, 2), 2)


def _published(
    number: int,
    widths: tuple[int, ...],
    depths: tuple[int, ...],
    stem: int,
    stage2: tuple[int, int],
    size: int,
    drop_rate: float,
    *tags: str,
) -> Published:
    head = 4 * widths[-1]
    fixed = {
        "stem_width": stem,
        "stage2_width": stage2[0],
        "stage2_depth": stage2[1],
        "head_width": head,
        "image_size": size,
    }
    return Published(
        (*widths, *depths, 6, 6, 6, 6, 6, 6),
        f"EfficientNet-B{number}",
        tags,
        fixed=MappingProxyType(fixed),
        training=efficientnet_training(size, drop_rate),
    )


EFFICIENTNET = EfficientNet(
    name="efficientnet",
    title="EfficientNet",
    letter="T",
    first_stage=3,
    strides=(2, 2, 2, 1, 2, 1),
    kernels=(3, 5, 3, 5, 5, 3),
    stem_kernel=3,
    stem_width=48,
    stage2=(24, 2),
    activation="silu",
    image_size=380,
    original=(32, 56, 112, 160, 272, 448, 4, 4, 6, 6, 8, 2, 6, 6, 6, 6, 6, 6),
    original_stage2_depth=2,
    # From half of B4 to more than B7; B4 has four steps of each.
    width_ranges=multiples((8, 14, 28, 40, 68, 112), (16, 28, 56, 80, 136, 224), (56, 98, 224, 280, 476, 784)),
    max_depths=(8, 8, 12, 12, 15, 6),
    third_values=(Fraction(3), Fraction(6)),
    grid_divisor=1,
    uniform_divisor=4,
    interpolation="bicubic",
    first_conv="conv_stem",
    classifier="classifier",
    training=efficientnet_training(380, 0.4),
    published={
        "efficientnet_b2": _published(
            2, (24, 48, 88, 120, 208, 352), (3, 3, 4, 4, 5, 2), 32, (16, 2), 260, 0.3, "ra_in1k"
        ),
        "efficientnet_b3": _published(
            3, (32, 48, 96, 136, 232, 384), (3, 3, 5, 5, 6, 2), 40, (24, 2), 300, 0.3, "ra2_in1k"
        ),
        "efficientnet_b4": _published(
            4, (32, 56, 112, 160, 272, 448), (4, 4, 6, 6, 8, 2), 48, (24, 2), 380, 0.4, "ra2_in1k"
        ),
        "efficientnet_b5": _published(
            5, (40, 64, 128, 176, 304, 512), (5, 5, 7, 7, 9, 3), 48, (24, 3), 456, 0.4, "sw_in12k_ft_in1k", "sw_in12k"
        ),
        "efficientnet_b6": _published(6, (40, 72, 144, 200, 344, 576), (6, 6, 8, 8, 11, 3), 56, (32, 3), 528, 0.5),
        "efficientnet_b7": _published(7, (48, 80, 160, 224, 384, 640), (7, 7, 10, 10, 13, 4), 64, (32, 4), 600, 0.5),
    },
    head_width=1792,
    gates=(True,) * 7,
)

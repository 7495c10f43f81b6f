"""EfficientNet-Lite: EfficientNets without squeeze-and-excitation and with ReLU6, for integer hardware.

M. Tan's configurations (github.com/tensorflow/tpu, models/official/efficientnet/lite). Wider networks have the stem and
the last convolution of Lite0, and deeper ones its first and last stage.

timm has them in two forms with the same tensors: padded as PyTorch does, and as TensorFlow (``tf_``), with the
epsilon of its normalisations, for the weights that were trained there. Each is a family here, since the same weights
compute something else in the other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from types import MappingProxyType
from typing import Final

from bsszoo.codes.families.base import Published, Training, multiples
from bsszoo.codes.families.efficientnet import efficientnet_training
from bsszoo.codes.families.mobilenetv2 import MBConvNet


@dataclass(frozen=True)
class EfficientNetLite(MBConvNet):
    """EfficientNet-Lites."""

    def rescaled_stem(self, width: int, scale: float) -> int:
        """The same: all published Lites have a stem of 32 channels."""
        return width


def _training(size: int, drop_rate: float) -> Training:
    """As EfficientNets, without AutoAugment."""
    source = "the AutoBSS paper's Table 1 for EfficientNet-B0, dropout of EfficientNet-Lite's code"
    return efficientnet_training(size, drop_rate, autoaugment=False, source=source)


def _published(
    number: int,
    widths: tuple[int, ...],
    depths: tuple[int, ...],
    stage2: int,
    size: int,
    drop_rate: float,
    tags: tuple[str, ...],
) -> Published:
    return Published(
        (*widths, *depths, 6, 6, 6, 6, 6, 6),
        f"EfficientNet-Lite{number}",
        tags,
        fixed=MappingProxyType({"stage2_width": stage2, "image_size": size}),
        training=_training(size, drop_rate),
    )


def _networks(*tags: tuple[str, ...]) -> tuple[Published, ...]:
    """Lite0 to Lite4, each with its tags of weights."""
    first, second, third, fourth, fifth = tags
    return (
        _published(0, (24, 40, 80, 112, 192, 320), (2, 2, 3, 3, 4, 1), 16, 224, 0.2, first),
        _published(1, (24, 40, 80, 112, 192, 320), (3, 3, 4, 4, 5, 1), 16, 240, 0.2, second),
        _published(2, (24, 48, 88, 120, 208, 352), (3, 3, 4, 4, 5, 1), 16, 260, 0.3, third),
        _published(3, (32, 48, 96, 136, 232, 384), (3, 3, 5, 5, 6, 1), 24, 280, 0.3, fourth),
        _published(4, (32, 56, 112, 160, 272, 448), (4, 4, 6, 6, 8, 1), 24, 300, 0.3, fifth),
    )


def _named(prefix: str, networks: tuple[Published, ...]) -> dict[str, Published]:
    return {f"{prefix}{number}": network for number, network in enumerate(networks)}


EFFICIENTNET_LITE: Final = EfficientNetLite(
    name="efficientnet_lite",
    title="EfficientNet-Lite",
    letter="T",
    first_stage=3,
    strides=(2, 2, 2, 1, 2, 1),
    kernels=(3, 5, 3, 5, 5, 3),
    stem_kernel=3,
    stem_width=32,
    stage2=(16, 1),
    activation="relu6",
    image_size=224,
    original=(24, 40, 80, 112, 192, 320, 2, 2, 3, 3, 4, 1, 6, 6, 6, 6, 6, 6),
    original_stage2_depth=1,
    # EfficientNet-B0's, which hold Lite4's depths.
    width_ranges=multiples((4, 8, 16, 28, 48, 80), (16, 24, 48, 56, 144, 160), (32, 64, 160, 280, 480, 640)),
    max_depths=(6, 6, 7, 7, 8, 5),
    third_values=(Fraction(3), Fraction(6)),
    grid_divisor=1,
    uniform_divisor=4,
    interpolation="bicubic",
    first_conv="conv_stem",
    classifier="classifier",
    training=_training(224, 0.2),
    published=_named("efficientnet_lite", _networks(("ra_in1k",), (), (), (), ())),
    head_width=1280,
)
TF_EFFICIENTNET_LITE: Final = replace(
    EFFICIENTNET_LITE,
    name="tf_efficientnet_lite",
    title="EfficientNet-Lite (TensorFlow)",
    published=_named("tf_efficientnet_lite", _networks(*(("in1k",),) * 5)),
    padding="same",
    norm_eps=1e-3,
)

"""A second count of a network's cost, by thop on the built network: nothing of ``codes`` is used but the code."""

from __future__ import annotations

from typing import Any

from bsszoo.codes.code import Code
from bsszoo.codes.cost import ImageSize, checked_size


def recount(
    code: Code, image_size: ImageSize | None = None, *, num_classes: int = 1000, in_chans: int = 3
) -> tuple[int, int]:
    """MACs by thop and parameters by torch of the built network, at the code's image size by default.

    thop counts a batch norm at 4 operations an element and an average pooling at its inputs; both are zeroed, since
    the paper's FLOPs count convolutions and linear layers only.
    """
    import torch
    from thop import profile
    from torch import nn

    from bsszoo.models.build import build

    def nothing(module: Any, _inputs: Any, _output: Any) -> None:
        module.total_ops += torch.DoubleTensor([0])

    height, width = checked_size(code.image_size if image_size is None else image_size)
    model = build(code, num_classes=num_classes, in_chans=in_chans).eval()
    params = sum(p.numel() for p in model.parameters())
    zeroed = dict.fromkeys((nn.BatchNorm2d, nn.AdaptiveAvgPool2d, nn.AvgPool2d), nothing)
    with torch.no_grad():
        macs, _ = profile(model, inputs=(torch.zeros(1, in_chans, height, width),), custom_ops=zeroed, verbose=False)
    return int(macs), params

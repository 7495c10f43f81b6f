"""Inherited weights, fitted: each layer of a subnetwork by least squares to what the trained network's layer gives.

A layer that loses inputs computes something else. What it computed can mostly be had from the inputs that are left: the
weights A and shifts c of a convolution with its normalisation are those that come nearest to the trained layer's
output,

    min over A, c of  mean |T - A X - c|^2 + ridge |A - A0|^2

over sampled positions of some images. The inputs X are those of the subnetwork as fitted so far, so that each layer
makes up for the errors before it; the last layer of a block is fitted to the sum that its block adds up to, and stands
in for blocks that were removed behind it. No labels are needed, and no steps of a training: about as long as a pass
over the images.

A layer normalisation takes the mean and the variance over channels, so that without some of them it gives others
something else. What reads it is fitted to that; the shift c is then the layer's bias.

Notation:
    n  sampled positions   T  targets [n, out]   X  patches [n, in * k * k]   A0  the inherited weights
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from timm.layers import Conv2dSame
from timm.layers.padding import get_same_padding
from torch import nn

#: Positions of a layer's output that it is fitted at.
ROWS: Final = 8000
#: Weight of the inherited weights, in mean variances of a layer's inputs.
RIDGE: Final = 0.03
# A channel whose normalisation scales it by less than this is written with a scale of this size.
_LEAST_SLOPE: Final = 1e-2


@dataclass(eq=False)
class Samples:
    """Positions at which outputs are compared, the same for all layers of one output size.

    Args:
        images: Number of images.
        rows: Positions of an output size, at most.
        seed: Of the choice.
        tokens: How many tokens stand before those of the pixels. Half of the positions are theirs, drawn with
            replacement: the classifier reads the class token, which is one of very many.
    """

    images: int
    rows: int = ROWS
    seed: int = 0
    tokens: int = 0
    _positions: dict[tuple[int, int], tuple[torch.Tensor, ...]] = field(default_factory=dict)

    def of_size(self, height: int, width: int) -> tuple[torch.Tensor, ...]:
        """Image, row and column of each position [n]."""
        if (height, width) not in self._positions:
            total = self.images * height * width
            generator = torch.Generator().manual_seed(self.seed)
            if self.tokens and height == 1:
                self._positions[height, width] = self._of_tokens(width, generator)
                return self._positions[height, width]
            drawn = torch.randperm(total, generator=generator)[: self.rows].sort().values
            image, rest = drawn // (height * width), drawn % (height * width)
            self._positions[height, width] = image, rest // width, rest % width
        return self._positions[height, width]

    def _of_tokens(self, width: int, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
        """Those of tokens, which are one row of pixels."""
        rows, patches = min(self.rows, self.images * width), width - self.tokens
        first, token = (torch.randint(most, (rows // 2,), generator=generator) for most in (self.images, self.tokens))
        drawn = torch.randperm(self.images * patches, generator=generator)[: rows - rows // 2]
        image = torch.cat([first, drawn // patches])
        return image, torch.zeros_like(image), torch.cat([token, drawn % patches + self.tokens])

    def values(self, outputs: torch.Tensor) -> torch.Tensor:
        """Outputs [images, c, h, w] at the positions of their size, [n, c]."""
        image, row, column = (p.to(outputs.device) for p in self.of_size(outputs.shape[2], outputs.shape[3]))
        sampled: torch.Tensor = outputs[image, :, row, column]
        return sampled

    def patches(self, inputs: torch.Tensor, conv: Any) -> torch.Tensor:
        """What a convolution, or a linear layer on each pixel, reads at the positions of its output, [n, c, k * k]."""
        if isinstance(conv, nn.Linear):
            return self.values(channels_first(inputs, conv)).unsqueeze(2)
        (kernel, _), (stride, _), (dilation, _) = conv.kernel_size, conv.stride, conv.dilation
        span = dilation * (kernel - 1) + 1
        pads = [_padding(conv, side) for side in inputs.shape[2:]]
        height, width = (
            (side + sum(pad) - span) // stride + 1 for side, pad in zip(inputs.shape[2:], pads, strict=True)
        )
        image, row, column = (p.to(inputs.device) for p in self.of_size(height, width))
        if kernel == 1:
            taken: torch.Tensor = inputs[image, :, row * stride, column * stride]
            return taken.unsqueeze(2)
        padded = nn.functional.pad(inputs, (*pads[1], *pads[0]))
        steps = dilation * torch.arange(kernel, device=inputs.device)
        rows, columns = row[:, None] * stride + steps, column[:, None] * stride + steps
        patches: torch.Tensor = padded[image[:, None, None], :, rows[:, :, None], columns[:, None, :]]  # [n, k, k, c]
        return patches.permute(0, 3, 1, 2).flatten(2)


def _padding(conv: Any, side: int) -> tuple[int, int]:
    """Zeros before and behind a side of an input [px] that a convolution reads."""
    if not isinstance(conv, Conv2dSame):
        return conv.padding[0], conv.padding[0]
    total = get_same_padding(side, conv.kernel_size[0], conv.stride[0], conv.dilation[0])
    return total // 2, total - total // 2


def channels_first(features: torch.Tensor, layer: nn.Module) -> torch.Tensor:
    """What a layer reads or gives as [images, c, h, w]: of a linear layer on each pixel it is [images, h, w, c].

    Tokens [images, n, c] are one row of pixels.
    """
    if features.dim() == 3:
        return features.transpose(1, 2).unsqueeze(2)
    return features.permute(0, 3, 1, 2) if isinstance(layer, nn.Linear) else features


def normalised(conv_output: torch.Tensor, norm: Any) -> torch.Tensor:
    """A convolution's output [n, c] after its normalisation, in evaluation."""
    slope = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    output: torch.Tensor = conv_output * slope + (norm.bias - slope * norm.running_mean)
    return output


def fit(layer: Any, patches: torch.Tensor, targets: torch.Tensor, ridge: float) -> None:
    """Set a convolution and its normalisation, or its bias and layer scale, to what comes nearest to targets.

    Args:
        layer: Has ``conv`` and ``norm``, whose statistics are those of the trained layer; without a ``norm`` the conv
            has a bias, and may have a layer ``scale`` behind it. ``weight`` is the convolution's [out, in, k, k]. Of a
            convolution in groups of several channels each channel's scale and shift are fitted alone.
        patches: [n, in, k * k].
        targets: [n, out].
        ridge: Weight of the layer's weights as they are.
    """
    norm, weight = layer.norm, layer.weight
    if norm is not None:
        slope = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    else:
        slope = torch.ones_like(layer.conv.bias) if layer.scale is None else layer.scale.clone()
    inherited = (weight * slope[:, None, None, None]).flatten(1)  # [out, in / groups * k * k]
    if layer.groups == 1:
        fitted = ridge_fit(patches.flatten(1)[None], targets[None], inherited[None], ridge)
        weights, shift, mean, var = (part[0] for part in fitted)
    elif layer.groups == layer.in_channels == layer.out_channels:
        fitted = ridge_fit(patches.transpose(0, 1), targets.T[:, :, None], inherited[:, None], ridge)
        weights, shift, mean, var = (part[:, 0] for part in fitted)
    else:
        grouped = patches.reshape(len(patches), layer.groups, -1)
        by_group = inherited.reshape(layer.groups, -1, inherited.shape[1])
        outputs = torch.einsum("ngk,gok->ngo", grouped, by_group).flatten(1).T[:, :, None]
        ones = torch.ones(len(outputs), 1, 1, device=outputs.device)
        fitted = ridge_fit(outputs, targets.T[:, :, None], ones, ridge)
        factor, shift, mean, var = (part[:, 0] for part in fitted)
        weights = inherited * factor
    # The convolution keeps its scale and the normalisation the statistics of its output, so that a training that begins
    # here, whose batches have about these statistics, begins with this function.
    scale = torch.where(slope < 0, -1.0, 1.0) * slope.abs().clamp_min(_LEAST_SLOPE)
    weight.copy_((weights / scale[:, None]).reshape(weight.shape))
    if norm is None:
        layer.conv.bias.copy_(shift / scale)
        if layer.scale is not None:
            layer.scale.copy_(scale)
        return
    norm.running_mean.copy_(mean / scale)
    norm.running_var.copy_(var / scale**2)
    norm.weight.copy_(scale * torch.sqrt(norm.running_var + norm.eps))
    norm.bias.copy_(shift + mean)


def fit_linear(linear: nn.Linear, inputs: torch.Tensor, targets: torch.Tensor, ridge: float) -> None:
    """Set a linear layer to what comes nearest to targets [n, out] from inputs [n, in]."""
    weights, shift, _, _ = ridge_fit(inputs[None], targets[None], linear.weight[None], ridge)
    linear.weight.copy_(weights[0])
    linear.bias.copy_(shift[0])


def fit_affine(scale: torch.Tensor, shift: torch.Tensor, values: torch.Tensor, targets: torch.Tensor) -> None:
    """Set the scale and shift [c] of a normalisation that gave some values [n, c] to what comes nearest to targets."""
    ones = torch.ones(values.shape[1], 1, 1, device=values.device)
    factor, added, _, _ = ridge_fit(values.T[:, :, None], targets.T[:, :, None], ones, 1e-6)
    scale.mul_(factor[:, 0, 0])
    shift.mul_(factor[:, 0, 0]).add_(added[:, 0])


def ridge_fit(
    X: torch.Tensor, T: torch.Tensor, A0: torch.Tensor, ridge: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The ridge regressions of targets T [b, n, out] on X [b, n, k], around A0 [b, out, k].

    Returns the weights A [b, out, k], the shifts [b, out], and the mean and variance of A X over the rows.
    """
    n = X.shape[1]
    mean_x, mean_t = X.mean(1), T.mean(1)
    centred = X - mean_x[:, None]
    rest = (T - mean_t[:, None]) - centred @ A0.transpose(1, 2)
    # The factorisation of nearly collinear inputs needs the digits.
    gram = (centred.transpose(1, 2) @ centred).double() / n
    right = (centred.transpose(1, 2) @ rest).double() / n
    size = gram.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-10)
    gram = gram + ridge * size[:, None, None] * torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    A = A0 + torch.linalg.solve(gram, right).transpose(1, 2).to(A0)
    mean = (A @ mean_x[:, :, None])[:, :, 0]
    return A, mean_t - mean, mean, ((centred @ A.transpose(1, 2)) ** 2).mean(1)


def input_of(module: nn.Module, run: Callable[[], Any]) -> torch.Tensor:
    """The input that a module gets when something runs."""
    seen: list[torch.Tensor] = []
    hook = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        run()
    finally:
        hook.remove()
    return seen[0]

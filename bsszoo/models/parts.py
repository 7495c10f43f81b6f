"""A built network taken apart by its code's layer list: the layers, gates and blocks whose channels have to agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import nn

from bsszoo.codes.code import Code, stages_of
from bsszoo.codes.layers import Block, Layer, Part
from bsszoo.models.reconstruct import Samples, channels_first, normalised

#: In a map of channels, one that the trained network has not.
FRESH: Final = -1
#: What the name of an axis has behind it where a layer reads or writes the first channels of its pairs alone.
HALF: Final = "/2"


class NetLayer(NamedTuple):
    """A convolution with its normalisation, if any: it reads the axis ``reads`` of its block and writes ``writes``.

    ``conv`` may be a linear layer on each pixel. Without a batch normalisation ``norm`` is None; ``scale`` is then the
    layer scale behind it, if any, and ``vectors`` are all learned vectors beside it with their axes, ``in`` or ``out``.
    ``pooled`` says that it reads pooled features, of which each image has one position. A ``fused`` one writes each
    channel of its axis several times, and an axis of heads is made of whole ones of ``head_width`` channels.
    """

    conv: Any
    norm: Any
    reads: str
    writes: str
    scale: Any = None
    vectors: tuple[tuple[torch.Tensor, str], ...] = ()
    pooled: bool = False
    fused: int = 1
    head_width: int = 1

    @property
    def axis_width(self) -> int:
        """The channels of the axis that it writes."""
        return self.out_channels // self.fused

    def outputs(self, channels: torch.Tensor, have: int) -> torch.Tensor:
        """The map of its outputs, of a trained layer's, from that of its axis, of which the trained one has so many."""
        copies = [torch.where(channels == FRESH, FRESH, channels + k * have) for k in range(self.fused)]
        return torch.cat(copies)

    def over_axis(self, values: torch.Tensor) -> torch.Tensor:
        """The sum of values of its outputs [out_channels] over those of one channel of its axis."""
        return values.reshape(self.fused, -1).sum(0)

    @property
    def weight(self) -> torch.Tensor:
        """Its weight as a convolution's, [out, in of a group, k, k]."""
        weight: torch.Tensor = self.conv.weight
        return weight if weight.dim() == 4 else weight[:, :, None, None]

    @property
    def groups(self) -> int:
        """The groups of its channels."""
        return int(getattr(self.conv, "groups", 1))

    @property
    def out_channels(self) -> int:
        """The channels that it writes."""
        return self.weight.shape[0]

    @property
    def in_channels(self) -> int:
        """The channels that it reads."""
        return self.weight.shape[1] * self.groups

    def normalised(self, outputs: torch.Tensor) -> torch.Tensor:
        """What is behind it for outputs [n, c] of its convolution."""
        if self.norm is not None:
            return normalised(outputs, self.norm)
        return outputs if self.scale is None else outputs * self.scale

    def sampled(self, outputs: torch.Tensor, samples: Samples) -> torch.Tensor:
        """Outputs of its convolution at the samples' positions [n, c]."""
        return samples.values(channels_first(outputs, self.conv))


class NetPair(NamedTuple):
    """Two layers that write the first and the second channels of an axis of ``width`` pairs' channels."""

    first: NetLayer
    second: NetLayer
    width: int


class NetGate(NamedTuple):
    """Squeeze-and-excitation of an axis: its two layers, and the module whose output is the gated one."""

    reduce: Any
    expand: Any
    module: nn.Module
    axis: str


class NetBlock(NamedTuple):
    """A block's branch in the order of its forward, its projection and its squeeze-and-excitation, where it has them.

    ``names``, its layers' with their kernels, identify the type of block; ``joined`` says whether its skip is the
    identity, so that input and output share one set of channels; ``activated`` whether an activation follows the
    branch. ``module`` is the whole block, or a part of one: a downsampling that stands alone before it, or one of
    several branches; only the last part is ``counted`` as a block. ``entry`` is the module of the network that gets
    its input, and ``end`` the last one in it: the same one, but for a branch beside a skip that is in no module.
    Without a shortcut (``residual`` False) each block of a stage has channels of its own. ``width`` is the number of
    its output channels, which with the inner ones are pairs where it is ``paired``; the last two layers of the branch
    then write one half of them each.
    """

    module: nn.Module
    entry: nn.Module
    end: nn.Module

    branch: list[NetLayer]
    shortcut: list[NetLayer]
    gate: NetGate | None
    names: tuple[tuple[str, int], ...]
    joined: bool
    width: int
    counted: bool = True
    activated: bool = False
    residual: bool = True
    paired: bool = False

    @property
    def last(self) -> list[NetLayer]:
        """The layers of the branch that write the output."""
        return self.branch[-2:] if self.paired else self.branch[-1:]

    @property
    def writers(self) -> list[NetLayer | NetPair]:
        """What writes the output: the branch, and a projection."""
        end: NetLayer | NetPair = (
            NetPair(self.branch[-2], self.branch[-1], self.width) if self.paired else self.branch[-1]
        )
        return [end, *self.shortcut[-1:]]

    def size(self, axis: str) -> int:
        """The channels of an axis inside the branch."""
        return next(layer.in_channels for layer in self.branch if layer.reads == axis)

    @property
    def gated(self) -> NetGate | None:
        """The squeeze-and-excitation of what the branch adds to the skip, where it has it there."""
        return self.gate if self.gate is not None and self.gate.axis == "out" else None


def parts_of(
    network: nn.Module, code: Code
) -> tuple[NetLayer, list[list[NetBlock]], list[NetLayer], list[torch.Tensor], Any]:
    """Stem, blocks of each stage, convolutions behind them, the vectors of a normalisation that stands alone before
    the classifier, and the classifier of a code's model, by its layer list.
    """
    stem, *body, classifier = stages_of(code)
    stages = [
        [part for block in stage.blocks() for part in _blocks(network, block)] for stage in body if stage.first.stacked
    ]
    behind = [
        (layer, stage.first.pooled) for stage in body if not stage.first.stacked for layer in stage.first.layers()
    ]
    heads = [_layer(network, layer)._replace(pooled=pooled) for layer, pooled in behind if layer.role != "norm"]
    norms = [network.get_parameter(v.name) for layer, _ in behind if layer.role == "norm" for v in layer.vectors]
    try:
        last: Any = network.get_submodule(classifier.name)
    except AttributeError:  # without a classifier
        last = None
    return _layer(network, stem.first.layers()[0]), stages, heads, [*norms], last


def _layer(network: nn.Module, layer: Layer[int], reads: str = "in", writes: str = "out") -> NetLayer:
    return NetLayer(
        network.get_submodule(layer.name),
        network.get_submodule(layer.norm) if layer.norm else None,
        reads,
        writes,
        network.get_parameter(layer.scale) if layer.scale else None,
        tuple((network.get_parameter(vector.name), vector.axis) for vector in layer.vectors),
        fused=layer.fused,
        head_width=int(layer.head_width),
    )


def _blocks(network: nn.Module, block: Block[int]) -> list[NetBlock]:
    """The modules of a block, and of a downsampling before it.

    The axes inside a block are numbered; a depthwise convolution writes the one that it reads.
    """
    parts = block.parts()
    return [_block(network, block, part, counted=i + 1 == len(parts)) for i, part in enumerate(parts)]


class _Branch(nn.Module):
    """A branch behind its normalisation, and its input added: a part of a block whose skip is in no module."""

    def __init__(self, norm: nn.Module, inner: nn.Module) -> None:
        super().__init__()
        self.norm, self.inner = norm, inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The sum."""
        total: torch.Tensor = x + self.inner(self.norm(x))
        return total


def _block(network: nn.Module, block: Block[int], part: Part[int], *, counted: bool) -> NetBlock:
    path, layers = part.path, part.layers
    end = network.get_submodule(path)
    entry = network.get_submodule(part.norm) if part.norm else end
    main = [layer for layer in layers if layer.role == "main"]
    branch = []
    axes = ["in"]  # what a layer reads, and behind it what the next one does
    for i, layer in enumerate(main):
        depthwise = layer.group_width == 1 and layer.in_width == layer.out_width
        axis = axes[-1]
        if layer.appended:
            branch.append(_layer(network, layer, axis, axis))
            axes.append(axis.removesuffix(HALF))
            continue
        halved = i + 1 < len(main) and main[i + 1].appended
        last = i + 1 + halved == len(main)
        writes = "out" if last else axis if depthwise and not halved else f"inner{i}"
        writes += HALF if halved else ""
        branch.append(_layer(network, layer, axis, writes))
        axes.append(writes)
    beside = [layer for layer in layers if layer.role == "shortcut"]
    shortcut = [_layer(network, layer, "in", "out" if layer is beside[-1] else "in") for layer in beside]
    return NetBlock(
        _Branch(entry, end) if part.norm else end,
        entry,
        end,
        branch,
        shortcut,
        _gate(network, [layer for layer in layers if layer.role != "shortcut"], axes[1:]),
        tuple((layer.name.removeprefix(path), layer.kernel) for layer in layers if layer.role != "shortcut"),
        part.joined,
        block.out_width if block.paired else branch[-1].out_channels,
        counted,
        block.activated,
        block.residual,
        block.paired,
    )


def _gate(network: nn.Module, layers: Sequence[Layer[int]], axes: Sequence[str]) -> NetGate | None:
    """The squeeze-and-excitation among a block's layers in the order of the forward, of what the one before writes."""
    first = next((i for i, layer in enumerate(layers) if layer.role == "gate"), None)
    if first is None:
        return None
    reduce, expand = (network.get_submodule(layer.name) for layer in layers[first : first + 2])
    return NetGate(reduce, expand, network.get_submodule(layers[first].name.rpartition(".")[0]), axes[first - 1])


def whole_blocks(parts: Sequence[NetBlock]) -> list[list[NetBlock]]:
    """The parts of a stage's blocks by block; a downsampling stands alone."""
    whole: list[list[NetBlock]] = []
    for part in parts:
        if whole and whole[-1][-1].joined and not whole[-1][-1].counted:
            whole[-1].append(part)
        else:
            whole.append([part])
    return whole


def is_normalised(stem: NetLayer) -> bool:
    """Whether a layer normalisation follows the stem."""
    return stem.norm is None and all(vector.dim() == 1 for vector, _ in stem.vectors)

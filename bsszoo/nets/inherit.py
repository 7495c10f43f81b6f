"""``inherit_weights``: a network starts from the weights of a trained one of its family, as far as their shapes allow.

Block i of a stage takes its weights from a block of the trained network's same stage, channel by channel. Which
channels are taken is decided once for all that have to agree: everything that writes or reads the outputs of a stage
uses the same ones, and so do the layers inside a block.

    a narrower axis takes the most important channels, in their order; a wider one all of them, and then fresh ones
    a shallower stage takes its first block and the most important others, in their order; a deeper one all of them

The importance of a channel is the root mean square that its normalisation layers give it, sqrt(gamma^2 + beta^2),
summed over the layers that write it; inside a block times the L1 norm of the weights that read it.

Notation:
    map  integer array [channels of the new network]: the channel of the trained one, or -1 for a fresh one
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch
from torch import nn

from bsszoo.codes.code import Code
from bsszoo.errors import CodeError

FRESH: Final = -1


@dataclass(frozen=True, slots=True)
class Inheritance:
    """How much of a network came from another: ``carried`` of ``params`` parameters, ``blocks`` of ``of_blocks``."""

    carried: int
    params: int
    blocks: int
    of_blocks: int

    def __str__(self) -> str:
        return (f"{self.carried:,} of {self.params:,} parameters ({100 * self.carried / self.params:.1f}%), in "
                f"{self.blocks} of {self.of_blocks} blocks")


class _Layer(NamedTuple):
    """A convolution with its normalisation: it reads the axis ``reads`` of its block and writes ``writes``."""

    conv: Any
    norm: Any
    reads: str
    writes: str

    @property
    def depthwise(self) -> bool:
        return bool(self.conv.groups > 1)


@torch.no_grad()
def inherit_weights(network: nn.Module, code: Code, trained: nn.Module, trained_code: Code) -> Inheritance:
    """Give a fresh network the weights of a trained one of the same family, where their shapes allow.

    A network inherits itself exactly. Blocks that a deeper stage has beyond the trained one's keep their fresh weights,
    but begin as the identity where they have a skip; the weights by which carried channels read fresh ones begin at 0.
    The classifier is carried when both have as many classes, the first layer when both have as many input channels.

    Args:
        network: The model of ``code``, changed in place.
        code: Its code.
        trained: The model of ``trained_code``; left as it is.
        trained_code: The code of the trained network.

    Raises:
        CodeError: The codes are of different families.

    Example:
        >>> from bsszoo.nets.build import build
        >>> small = Code.parse("mobilenetv2_c12-16-32-48-80-160_l1-2-2-2-2-1_t3-3-3-3-3-3")
        >>> large = Code.parse("mobilenetv2_c24-32-64-96-160-320_l2-3-4-3-3-1_t6-6-6-6-6-6")
        >>> print(inherit_weights(build(small), small, build(large), large))
        1,654,324 of 1,654,324 parameters (100.0%), in 11 of 11 blocks
    """
    if code.family != trained_code.family:
        raise CodeError(f"A {code.family} code cannot inherit the weights of a {trained_code.family} one: their blocks "
                        "differ. Give the weights of a network of its own family.")
    carry = _Carry()
    (stem, stages, head, classifier), (from_stem, from_stages, from_head, from_classifier) = (
        _parts(network), _parts(trained))
    stream = _chosen(_loudness([from_stem.norm]), stem.conv.out_channels)
    stream = _tied(stream, stages[0], from_stages[0])
    if (inputs := stem.conv.in_channels) == from_stem.conv.in_channels:
        carry.layer(stem, from_stem, _straight(inputs, inputs), stream)
    carried = 0
    for number, (blocks, from_blocks) in enumerate(zip(stages, from_stages, strict=True)):
        first, from_first = blocks[0], from_blocks[0]
        if number and _joined(first) and _joined(from_first):
            out = stream  # the skip of the first block adds the stage before: one set of channels for both
        else:
            out = _chosen(_loudness([_layers(b)[-1].norm for b in from_blocks]), _layers(first)[-1].conv.out_channels)
        if number == 0 and _joined(first) and _joined(from_first):
            out = stream
        taken = _kept_blocks(from_blocks, len(blocks))
        for i, block in enumerate(blocks):
            source = taken[i] if i < len(taken) else None
            if source is None or type(source) is not type(block):
                _silence(block)
            else:
                carry.block(block, source, stream, out)
                carried += 1
            stream = out
    if head is not None:
        features = _chosen(_loudness([from_head.norm]), head.conv.out_channels)
        carry.layer(head, from_head, stream, features)
        stream = features
    if isinstance(classifier, nn.Linear) and isinstance(from_classifier, nn.Linear) and (
            classifier.out_features == from_classifier.out_features):
        same = _straight(classifier.out_features, from_classifier.out_features)
        carry.weight(classifier.weight, from_classifier.weight, same, stream)
        carry.vector(classifier.bias, from_classifier.bias, same)
    params = sum(p.numel() for p in network.parameters())
    return Inheritance(carry.count, params, carried, sum(len(blocks) for blocks in stages))


class _Carry:
    """Copies weights by maps, and counts the parameters it copied."""

    def __init__(self) -> None:
        self.count = 0

    def weight(self, to: torch.Tensor, source: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> None:
        """A weight [out, in, ..]: carried rows read fresh columns by zero, so that the carried function stays."""
        have_rows, have_columns = rows != FRESH, columns != FRESH
        fresh = to.clone()
        fresh[have_rows] = 0
        block = source[rows[have_rows]][:, columns[have_columns]]
        places = torch.where(have_rows)[0][:, None], torch.where(have_columns)[0][None]
        fresh[places] = block.to(fresh)
        to.copy_(fresh)
        self.count += block.numel()

    def vector(self, to: torch.Tensor | None, source: torch.Tensor | None, rows: torch.Tensor, *,
               counted: bool = True) -> None:
        """A bias, or a vector of a normalisation layer."""
        if to is None or source is None:
            return
        have = rows != FRESH
        to[have] = source[rows[have]].to(to)
        self.count += int(have.sum()) if counted else 0

    def layer(self, to: _Layer, source: _Layer, reads: torch.Tensor, writes: torch.Tensor) -> None:
        """A convolution and its normalisation."""
        if to.conv.kernel_size != source.conv.kernel_size:
            return
        depthwise = to.depthwise
        self.weight(to.conv.weight, source.conv.weight, writes, _straight(1, 1) if depthwise else reads)
        for name, counted in (("weight", True), ("bias", True), ("running_mean", False), ("running_var", False)):
            self.vector(getattr(to.norm, name), getattr(source.norm, name), writes, counted=counted)
        to.norm.num_batches_tracked.copy_(source.norm.num_batches_tracked)

    def block(self, to: nn.Module, source: nn.Module, reads: torch.Tensor, writes: torch.Tensor) -> None:
        """A block whose inner channels are chosen by their importance in the trained one."""
        maps = {"in": reads, "out": writes}
        mine, theirs = _layers(to), _layers(source)
        for layer in mine:
            if layer.writes not in maps:
                maps[layer.writes] = _chosen(_inner_importance(theirs, layer.writes), layer.conv.out_channels)
        for layer, from_layer in zip(mine, theirs, strict=True):
            self.layer(layer, from_layer, maps[layer.reads], maps[layer.writes])
        downsample, from_downsample = _downsample(to), _downsample(source)
        if downsample is not None and from_downsample is not None:
            self.layer(downsample, from_downsample, reads, writes)
        squeeze: Any = getattr(to, "se", None)
        from_squeeze: Any = getattr(source, "se", None)
        if hasattr(squeeze, "conv_reduce") and hasattr(from_squeeze, "conv_reduce"):
            self._squeeze(squeeze, from_squeeze, maps[next(x.writes for x in mine if x.depthwise)])

    def _squeeze(self, to: Any, source: Any, channels: torch.Tensor) -> None:
        importance = _norms(source.conv_reduce.weight, 0) * _norms(source.conv_expand.weight, 1)
        inner = _chosen(importance, to.conv_reduce.out_channels)
        self.weight(to.conv_reduce.weight, source.conv_reduce.weight, inner, channels)
        self.vector(to.conv_reduce.bias, source.conv_reduce.bias, inner)
        self.weight(to.conv_expand.weight, source.conv_expand.weight, channels, inner)
        self.vector(to.conv_expand.bias, source.conv_expand.bias, channels)


def _parts(network: Any) -> tuple[_Layer, list[list[nn.Module]], Any, Any]:
    """Stem, blocks of each stage, head convolution (or None) and classifier of a code's model."""
    if hasattr(network, "conv_stem"):
        stem = _Layer(network.conv_stem, network.bn1, "in", "out")
        head = _Layer(network.conv_head, network.bn2, "in", "out")
        return stem, [list(stage) for stage in network.blocks], head, network.classifier
    stages = [list(getattr(network, name)) for name in ("layer1", "layer2", "layer3", "layer4")]
    return _Layer(network.conv1, network.bn1, "in", "out"), stages, None, network.fc


def _layers(block: Any) -> list[_Layer]:
    """The layers of a block's branch in the order of its forward; the last one writes the block's output."""
    if hasattr(block, "conv_pwl"):
        return [_Layer(block.conv_pw, block.bn1, "in", "inner"), _Layer(block.conv_dw, block.bn2, "inner", "inner"),
                _Layer(block.conv_pwl, block.bn3, "inner", "out")]
    if hasattr(block, "conv_dw"):
        return [_Layer(block.conv_dw, block.bn1, "in", "in"), _Layer(block.conv_pw, block.bn2, "in", "out")]
    if hasattr(block, "conv3"):
        return [_Layer(block.conv1, block.bn1, "in", "inner"), _Layer(block.conv2, block.bn2, "inner", "inner2"),
                _Layer(block.conv3, block.bn3, "inner2", "out")]
    return [_Layer(block.conv1, block.bn1, "in", "inner"), _Layer(block.conv2, block.bn2, "inner", "out")]


def _downsample(block: Any) -> _Layer | None:
    made = getattr(block, "downsample", None)
    if made is None:
        return None
    convs, norms = (next(m for m in made if isinstance(m, kind)) for kind in (nn.Conv2d, nn.BatchNorm2d))
    return _Layer(convs, norms, "in", "out")


def _joined(block: Any) -> bool:
    """Whether a block adds its input to its output as it is, so that both are one set of channels."""
    if hasattr(block, "conv_dw"):
        return bool(block.has_skip)
    return block.downsample is None


def _tied(stem: torch.Tensor, blocks: Sequence[nn.Module], from_blocks: Sequence[nn.Module]) -> torch.Tensor:
    """The stem's map, by what the first stage writes as well where its first block adds the stem's outputs."""
    if not (_joined(blocks[0]) and _joined(from_blocks[0])):
        return stem
    return _chosen(_loudness([_layers(b)[-1].norm for b in from_blocks]), len(stem))


def _chosen(importance: torch.Tensor, size: int) -> torch.Tensor:
    """The map of an axis of ``size``: the most important channels in their order, or all and then fresh ones."""
    have = len(importance)
    if size >= have:
        return _straight(size, have)
    return importance.topk(size).indices.sort().values


def _straight(size: int, have: int) -> torch.Tensor:
    places = torch.arange(size)
    return torch.where(places < have, places, torch.full_like(places, FRESH))


def _loudness(norms: Sequence[Any]) -> torch.Tensor:
    """Root mean square of each channel after normalisation, summed over layers [channels]."""
    return torch.stack([torch.sqrt(n.weight**2 + n.bias**2) for n in norms]).sum(dim=0).cpu()


def _inner_importance(layers: Sequence[_Layer], axis: str) -> torch.Tensor:
    written = [x for x in layers if x.writes == axis][-1]
    read = sum(_norms(x.conv.weight, 1) for x in layers if x.reads == axis and not x.depthwise)
    return _loudness([written.norm]) * read


def _norms(weight: torch.Tensor, axis: int) -> torch.Tensor:
    """L1 norm of a weight's slices along an axis."""
    return weight.abs().sum(dim=[d for d in range(weight.dim()) if d != axis]).cpu()


def _kept_blocks(blocks: Sequence[nn.Module], depth: int) -> list[nn.Module]:
    """The blocks that a stage of some depth takes: the first, and of the others those that add most, in their order."""
    if depth >= len(blocks):
        return list(blocks)
    loud = torch.stack([_loudness([_layers(b)[-1].norm]).sum() for b in blocks[1:]]) if len(blocks) > 1 else None
    kept = [] if loud is None else (1 + loud.topk(depth - 1).indices).sort().values.tolist()
    return [blocks[i] for i in (0, *kept)]


def _silence(block: nn.Module) -> None:
    """Let a fresh block begin as the identity, where it has a skip."""
    if _joined(block):
        last = _layers(block)[-1].norm
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

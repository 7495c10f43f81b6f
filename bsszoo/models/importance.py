"""Which channels and blocks of a trained network are worth most, and the maps of those that a smaller one takes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from bsszoo.models.parts import FRESH, HALF, NetBlock, NetLayer, NetPair, whole_blocks


def channel_map(importance: torch.Tensor, size: int) -> torch.Tensor:
    """The map of an axis of ``size``: the most important channels in their order, or all and then fresh ones."""
    have = len(importance)
    if size >= have:
        return identity_map(size, have)
    return importance.topk(size).indices.sort().values


def group_map(importance: torch.Tensor, wide: int, groups: int) -> torch.Tensor:
    """The map of an axis of whole groups of channels, each as wide, by the sums of their importances."""
    chosen = channel_map(importance.reshape(-1, wide).sum(1), groups)
    whole = chosen[:, None] * wide + torch.arange(wide)
    whole[chosen == FRESH] = FRESH
    return whole.reshape(-1)


def axis_map(importance: torch.Tensor, size: int, *, paired: bool) -> torch.Tensor:
    """``channel_map``; of an axis of pairs both channels of each that is chosen, the first ones before the second."""
    if not paired:
        return channel_map(importance, size)
    have = len(importance)
    half = (have + 1) // 2
    of_pairs = nn.functional.pad(importance, (0, 2 * half - have)).reshape(2, half).sum(0)
    first = channel_map(of_pairs, (size + 1) // 2)
    second = torch.where((first == FRESH) | (first + half >= have), torch.full_like(first, FRESH), first + half)
    return torch.cat([first, second])[:size]


def identity_map(size: int, have: int) -> torch.Tensor:
    """The map that keeps every channel in its place, of the ``have`` that there are."""
    indices = torch.arange(size)
    return torch.where(indices < have, indices, torch.full_like(indices, FRESH))


def inner_importance(block: NetBlock, axis: str) -> torch.Tensor:
    """The importance of each channel of an axis inside a block."""
    branch = block.branch
    writers: list[NetLayer | NetPair] = [x for x in branch if x.writes == axis]
    if halves := [x for x in branch if x.writes == axis + HALF]:
        writers.append(NetPair(halves[0], halves[1], block.size(axis)))
    return importance_of(writers, [x for x in branch if x.reads == axis != x.writes])


def writers_of(blocks: Sequence[NetBlock]) -> list[NetLayer | NetPair]:
    """The layers that write a stage's output."""
    return [x for b in blocks for x in b.writers]


def readers_of(blocks: Sequence[NetBlock], behind: Sequence[NetBlock]) -> list[NetLayer]:
    """The layers that read a stage's output: in its further blocks, and in the first one behind it."""
    return [x for b in (*blocks, *behind) for x in (*b.branch, *b.shortcut) if x.reads == "in"]


def importance_of(writers: Sequence[NetLayer | NetPair], readers: Sequence[NetLayer]) -> torch.Tensor:
    """L2 norm of the weights that write or read each channel [channels]; 0 where its normalisations make it 0."""
    written = [_written_squares(x) for x in writers]
    squares = torch.stack([*written, *(_read_squares(x) for x in readers)])
    return torch.sqrt(squares.sum(0)) * (output_rms(writers) > 0)


def _written_squares(layer: NetLayer | NetPair) -> torch.Tensor:
    """Sum of squares of the weights that write each output channel [out_channels]."""
    if isinstance(layer, NetPair):
        return torch.cat([_written_squares(x) for x in (layer.first, layer.second)])[: layer.width]
    return layer.over_axis(squared_norms(layer.weight, 0)) * _scales(layer) ** 2


def _read_squares(layer: NetLayer) -> torch.Tensor:
    """Sum of squares of the weights that read each input channel [in_channels], also of a grouped convolution."""
    weight = layer.weight
    return squared_norms(weight.reshape(layer.groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1), 0)


def output_rms(layers: Sequence[NetLayer | NetPair]) -> torch.Tensor:
    """Root mean square of each channel after normalisation, summed over layers [channels].

    Without a batch normalisation behind them, of inputs that vary independently, with a variance of 1.
    """
    each = []
    for layer in layers:
        if isinstance(layer, NetPair):
            each.append(torch.cat([output_rms([x]) for x in (layer.first, layer.second)])[: layer.width])
        elif layer.norm is not None:
            each.append(torch.sqrt(layer.norm.weight**2 + layer.norm.bias**2).cpu())
        else:
            squares = squared_norms(layer.weight, 0) + layer.conv.bias.cpu() ** 2
            each.append(torch.sqrt(layer.over_axis(squares)) * _scales(layer))
    return torch.stack(each).sum(dim=0)


def _scales(layer: NetLayer) -> torch.Tensor | float:
    """What the layer scale multiplies each channel by, without sign [channels]."""
    return 1.0 if layer.scale is None else layer.scale.abs().cpu()


def squared_norms(weight: torch.Tensor, axis: int) -> torch.Tensor:
    """Sum of squares of a weight's slices along an axis."""
    return (weight**2).sum(dim=[d for d in range(weight.dim()) if d != axis]).cpu()


def absolute_norms(weight: torch.Tensor, axis: int) -> torch.Tensor:
    """L1 norm of a weight's slices along an axis."""
    return weight.abs().sum(dim=[d for d in range(weight.dim()) if d != axis]).cpu()


def selected_blocks(blocks: Sequence[NetBlock], wanted: Sequence[NetBlock]) -> list[NetBlock]:
    """The blocks that a stage inherits: the first, and of those of the same types the ones with the largest outputs.

    They stay in their order, in which each is of the type of the one that inherits it. Blocks of several types that add
    nothing to their input read what the one before them writes: of these the first ones.
    """
    whole, to = whole_blocks(blocks), whole_blocks(wanted)
    if len(to) >= len(whole):
        return list(blocks)
    types = [[part.names for part in parts] for parts in whole]
    if not blocks[0].residual and any(names != types[0] for names in types):
        return [part for parts in whole[: len(to)] for part in parts]
    rest = whole[1:]
    outputs = [sum(float(output_rms(part.writers[:1]).sum()) for part in parts) for parts in rest]
    chosen = best_in_order(types[1:], outputs, [[part.names for part in parts] for parts in to[1:]])
    return [part for parts in (whole[0], *(rest[j] for j in chosen)) for part in parts]


def best_in_order(types: Sequence[object], values: Sequence[float], wanted: Sequence[object]) -> tuple[int, ...]:
    """The rising indices, into ``types``, of the ``wanted`` ones in their order, with the largest sum of values.

    Where there are none, of the first ones.
    """
    # Of the first j: the largest sum of values with one for each wanted type so far, and which.
    best: list[tuple[float, tuple[int, ...]] | None] = [(0.0, ())] * (len(types) + 1)
    for one in wanted:
        row: list[tuple[float, tuple[int, ...]] | None] = [None]
        for j, (found, value) in enumerate(zip(types, values, strict=True)):
            before, without = best[j], row[j]
            taken = None
            if before is not None and found == one:
                taken = before[0] + value, (*before[1], j)
            row.append(taken if without is None or (taken is not None and taken[0] > without[0]) else without)
        best = row
    return tuple(range(len(wanted))) if best[-1] is None else best[-1][1]

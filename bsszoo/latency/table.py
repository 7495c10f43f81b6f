"""A latency table measured on this machine: each distinct block of a space timed once, alone."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from bsszoo.codes.code import Code
from bsszoo.codes.families import family_of
from bsszoo.codes.layers import Placement
from bsszoo.errors import BudgetError
from bsszoo.latency.timer import time_forwards
from bsszoo.models.build import build
from bsszoo.spaces.chain import BlockShape, space_shapes
from bsszoo.spaces.limits import NS_PER_MS, LatencyTable
from bsszoo.spaces.space import Space

#: Most blocks that are measured; a space of section B.2.2 has 120 to 662.
MOST_BLOCKS = 5_000
# Turns in which all blocks are timed: a slow spell of the machine then affects none in all of them.
_TURNS = 4


def measure_latency_table(
    space: Space,
    *,
    device: str = "cpu",
    batch: int = 1,
    seconds_each: float = 0.05,
    networks: int = 8,
    on_block: Callable[[int, int], None] | None = None,
) -> LatencyTable:
    """Time every distinct block of a space: eager float32 forwards of one batch, random weights, the least of several.

    Each block is built from the same description as the networks. A block that is run alone finds its weights in the
    cache, so the sum is too small: some whole networks are timed as well, and all times multiplied by one factor that
    makes their sums right at the median. Use the table on the machine it was measured on, for that device and batch.

    Args:
        space: Whose codes' blocks to time. What ``bsszoo compress`` searches under a budget is
            ``bsszoo.compression.plan.budget_space(reference, macs)``.
        device: A torch device.
        batch: Images at a time.
        seconds_each: How long to repeat each block, at least three times; 600 blocks take half a minute and more.
        networks: Random networks of the space to fit that factor to; 0 leaves the blocks' times as they are.
        on_block: Called with the timings done and all timings, after each; every block is timed in four turns.

    Raises:
        BudgetError: The space has more than 5,000 distinct blocks: give it coarser widths.

    Example:
        >>> from dataclasses import replace
        >>> space = replace(Space.of("resnet18"), image_size=32).replace(
        ...     C2=[32], C3=[32, 64], C4=[64], C5=[128], L2=[1], L3=[1], L4=[1], L5=[1])
        >>> table = measure_latency_table(space, seconds_each=0.0, networks=1)
        >>> len(table), table.of(space.smallest) > 0
        (8, True)
    """
    shapes = space_shapes(space)
    if len(shapes) > MOST_BLOCKS:
        raise BudgetError(
            f"The space has {len(shapes):,} distinct blocks; at most {MOST_BLOCKS:,} are measured. Give "
            "it fewer widths, for example every other one."
        )
    table = _measured(shapes, space.family, device, batch, seconds_each, on_block)
    if not networks:
        return table
    factor = _factor(table, [space.code(row) for row in space.sample(networks, 0)], device, batch)
    return LatencyTable({shape: factor * table.nanoseconds(shape) / NS_PER_MS for shape in shapes}, name=table.name)


def _measured(
    shapes: Sequence[BlockShape],
    family: str,
    device: str,
    batch: int,
    seconds_each: float,
    on_block: Callable[[int, int], None] | None,
) -> LatencyTable:
    times: dict[BlockShape | str, float] = {}
    for turn in range(_TURNS):
        for done, shape in enumerate(shapes):
            module = build_block(shape, family).eval().to(device)
            image = torch.randn(batch, *block_input(shape), device=device)
            ms = _least_ms(partial(module, image), device, seconds_each / _TURNS)
            times[shape] = min(ms, times.get(shape, ms))
            if on_block is not None:
                on_block(turn * len(shapes) + done + 1, _TURNS * len(shapes))
    return LatencyTable(times, name=f"table measured on {device}")


def _factor(table: LatencyTable, codes: Sequence[Code], device: str, batch: int) -> float:
    """What the sums of a table have to be multiplied by to be the networks' times, at the median of some networks."""
    times = [float("inf")] * len(codes)
    models = [build(code).eval().to(device) for code in codes]
    image = torch.randn(batch, 3, codes[0].image_size, codes[0].image_size, device=device)
    for _ in range(_TURNS):
        times = [
            min(least, _least_ms(partial(model, image), device, 0.0))
            for least, model in zip(times, models, strict=True)
        ]
    return statistics.median(ms / table.of(code) for ms, code in zip(times, codes, strict=True))


def _least_ms(forward: Callable[[], object], device: str, seconds: float) -> float:
    """The least, not the median: other work on the machine only ever lengthens a time, and 600 blocks take no turns."""
    (latency,) = time_forwards([forward], device=device, seconds=seconds)
    return max(min(latency.times), 1e-6)


def build_block(shape: BlockShape, family: str) -> nn.Module:
    """The module of one block of a family's networks, freshly initialised; its input is ``block_input(shape)``.

    A ResNet's stem has its max pooling behind it.

    Example:
        >>> import torch
        >>> shape = BlockShape("mbconv", 16, 24, 96, 3, 2, 0, 32)
        >>> build_block(shape, "mobilenetv2").eval()(torch.zeros(1, *block_input(shape))).shape
        torch.Size([1, 24, 16, 16])
    """
    data = family_of(family)
    block = data.block_of_kind(
        shape.kind,
        shape.kind,
        shape.in_width,
        shape.out_width,
        shape.mid_width,
        shape.kernel,
        shape.stride,
        shape.squeeze_width or None,
        "1x1" if shape.stride1x1 else "3x3",
        shape.group_width or None,
    )
    return block.build(Placement(block.stride), data.activation, {})


def block_input(shape: BlockShape) -> tuple[int, int, int]:
    """Channels, height and width [px] of the block's input."""
    return shape.in_width, shape.size, shape.size

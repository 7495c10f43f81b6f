"""The costs of all codes of a space as sums over a chain of stages, and the distinct blocks that its codes are made of.

What a stage adds to a cost depends on its own entries and on the width before it, on nothing else:

    cost(code) = sum over stages i of  terms[i][C_(i-1), C_i, L_i, third_i]

A space of 10^11 codes has a few thousand such terms. Sums of looked-up terms count costs, bound them over parts of the
space without assuming that costs grow with every entry, and hold for anything additive over blocks: a latency table
too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bsszoo.codes.code import Code, stages_of
from bsszoo.codes.cost import block_cost, blocks_by_stage, checked_size
from bsszoo.codes.detector import DetectorHead, head_cost
from bsszoo.codes.layers import Block
from bsszoo.errors import CodeError, SpaceError
from bsszoo.spaces.space import Space

IntArray = NDArray[np.int64]

#: What a chain counts, in the order of its rows; a value of each block may follow as one more.
KINDS: Final = ("macs", "params", "activations", "depth")

# Beyond it float64, in which the columns are multiplied, is not exact.
_EXACT: Final = 2**53

_SHAPE = re.compile(
    r"(?P<kind>[a-z][a-z0-9_]*?)_in(?P<in_width>\d+)_out(?P<out_width>\d+)_mid(?P<mid_width>\d+)_k(?P<kernel>\d+)"
    r"_s(?P<stride>\d+)(?:_g(?P<group_width>\d+))?(?:_se(?P<squeeze_width>\d+))?(?:_mlp(?P<mlp_width>\d+))?"
    r"_px(?P<size>\d+)(?P<stride1x1>_stride1x1)?"
)


class BlockShape(NamedTuple):
    """What the time of one block depends on, beside its family's activation function.

    ``kind`` is ``stem``, ``basic``, ``bottleneck``, ``mbconv``, ``uib_dw3``, ``regnet``, ``convnext``, ``ghost``,
    ``transformer``, ``head_conv``, ``head_norm`` or ``classifier``; widths in channels, ``mid_width`` as in
    ``layers.Block``; ``squeeze_width`` 0 without squeeze-and-excitation; ``size`` the side of the block's input [px];
    ``stride1x1`` whether a bottleneck has its stride on the first 1x1 convolution; ``group_width`` of a grouped 3x3
    convolution or of attention's heads, ``mlp_width`` of an MLP beside attention, 0 of any other.

    Example:
        >>> shape = BlockShape("mbconv", 16, 24, 96, 3, 2, 0, 112)
        >>> str(shape)
        'mbconv_in16_out24_mid96_k3_s2_px112'
        >>> BlockShape.parse(str(shape)) == shape
        True
    """

    kind: str
    in_width: int
    out_width: int
    mid_width: int
    kernel: int
    stride: int
    squeeze_width: int
    size: int
    stride1x1: bool = False
    group_width: int = 0
    mlp_width: int = 0

    def __str__(self) -> str:
        gate = f"_g{self.group_width}" if self.group_width else ""
        gate += f"_se{self.squeeze_width}" if self.squeeze_width else ""
        gate += f"_mlp{self.mlp_width}" if self.mlp_width else ""
        return (
            f"{self.kind}_in{self.in_width}_out{self.out_width}_mid{self.mid_width}_k{self.kernel}_s{self.stride}"
            f"{gate}_px{self.size}{'_stride1x1' if self.stride1x1 else ''}"
        )

    @classmethod
    def parse(cls, text: str) -> BlockShape:
        """The shape that ``str`` wrote; a ``CodeError`` for any other text."""
        match = _SHAPE.fullmatch(text.strip())
        if match is None:
            raise CodeError(
                f"{text!r} is no block; one is written like mbconv_in16_out24_mid96_k3_s2_px112 "
                "(kind, channels in, out and inside, kernel, stride, side of its input)."
            )
        parts = match.groupdict()
        numbers = {name: int(parts[name] or 0) for name in cls._fields if name not in ("kind", "stride1x1")}
        return cls(kind=parts["kind"], stride1x1=parts["stride1x1"] is not None, **numbers)


def block_shapes(code: Code, *, num_classes: int = 1000, in_chans: int = 3) -> list[BlockShape]:
    """The shapes of all blocks of a code's network in the order of the forward, stem, head and classifier included."""
    out, size = [], (code.image_size, code.image_size)
    for stage in stages_of(code, num_classes=num_classes, in_chans=in_chans):
        if stage.first.pooled:
            size = (1, 1)
        for block in stage.blocks():
            out.append(_shape(block, size[0]))
            size = block_cost(block, size)[1]
        size = (-(-size[0] // stage.pool), -(-size[1] // stage.pool))
    return out


def space_shapes(space: Space) -> list[BlockShape]:
    """The distinct shapes of all blocks of all codes of a space, sorted; MobileNetV2's default space has 560."""
    shapes: set[BlockShape] = set()

    def record(shape: BlockShape) -> int:
        shapes.add(shape)
        return 0

    Chain.of(space, record)
    return sorted(shapes)


def _shape(block: Block[int], size: int) -> BlockShape:
    return BlockShape(
        block.kind,
        block.in_width,
        block.out_width,
        block.mid_width,
        block.kernel,
        block.stride,
        block.squeeze_width or 0,
        size,
        block.stride_in == "1x1",
        block.group_width or 0,
        block.mlp_width or 0,
    )


@dataclass(frozen=True, eq=False)
class Chain:
    """The terms of a space. Make one with ``Chain.of``.

    ``terms[i]`` is int64 of shape [kinds, before, widths, depths, thirds]: what stage i adds to each of ``kinds`` for
    each index on the axes of the width before it, its width, depth and third entry (axes of length 1 where there are
    none). The first term holds all that stands before the first stage as well, the last one the head.

    Example:
        >>> chain = Chain.of(Space.of("resnet18"))
        >>> chain.costs(np.zeros((1, 8), dtype=np.int64))[:, 0].tolist()  # the smallest code, 154.7M MACs
        [154670080, 459848, 733824, 9]
    """

    space: Space
    kinds: tuple[str, ...]
    terms: tuple[IntArray, ...]

    @classmethod
    def of(cls, space: Space, block_value: Callable[[BlockShape], int] | None = None) -> Chain:
        """The terms of a space; ``block_value`` gives an integer for each block, summed as a further kind, ``value``.

        Raises:
            CodeError: A cost is beyond 2^53.
        """
        block_values: dict[BlockShape, int] = {}
        terms = tuple(_stage_terms(space, i, block_value, block_values) for i in range(len(space.widths)))
        if sum(int(t.max()) for t in terms) >= _EXACT:
            raise CodeError("The largest codes of the space cost more than 2^53; give it narrower ranges.")
        return cls(space, KINDS + (("value",) if block_value else ()), terms)

    def costs(self, indices: IntArray) -> IntArray:
        """The sums of all kinds, int64 [kinds, n], of the codes at these indices [n, d] into the space's axes."""
        total = np.zeros((len(self.kinds), len(indices)), dtype=np.int64)
        for i, term in enumerate(self.terms):
            total += term.reshape(len(self.kinds), -1)[:, self.cells(i, indices)]
        return total

    def cells(self, stage: int, indices: IntArray) -> IntArray:
        """Indices [n] into a stage's flattened terms of the codes at these indices [n, d]."""
        n = len(self.terms)
        _, _, widths, depths, thirds = self.terms[stage].shape
        before: Any = indices[:, stage - 1] if stage else 0
        third: Any = indices[:, 2 * n + stage] if self.space.thirds else 0
        return np.asarray(((before * widths + indices[:, stage]) * depths + indices[:, n + stage]) * thirds + third)

    def envelope(self, *, least: bool) -> Chain:
        """The chain whose terms are the least of this one's from both of their widths on, or the most up to them.

        Both are the stage's own width and that before it. The terms are this chain's where costs grow with every width,
        and others where a shortcut needs no projection between two equal widths.
        """

        def bound(term: IntArray) -> IntArray:
            out = term
            for axis in (1, 2):
                out = (
                    np.flip(np.minimum.accumulate(np.flip(out, axis), axis), axis)
                    if least
                    else np.maximum.accumulate(out, axis)
                )
            return np.ascontiguousarray(out)

        return Chain(self.space, self.kinds, tuple(map(bound, self.terms)))

    def falls(self, stage: int) -> bool:
        """Whether a cost falls anywhere as a stage's width grows to the next one on its axis, by the exact counts."""
        terms = [self.terms[stage][: len(KINDS)].swapaxes(1, 2)]
        terms += [self.terms[stage + 1][: len(KINDS)]] if stage + 1 < len(self.terms) else []
        return any(bool((np.diff(term, axis=1) < 0).any()) for term in terms)

    def extremes(self) -> tuple[IntArray, IntArray]:
        """The least and the greatest sum of each kind over all codes, each int64 [kinds]; exact."""
        out = []
        for best in (np.min, np.max):
            ends = best(self.terms[0], axis=(3, 4))[:, 0]
            for term in self.terms[1:]:
                ends = best(ends[:, :, None] + best(term, axis=(3, 4)), axis=1)
            out.append(np.asarray(best(ends, axis=1)))
        return out[0], out[1]


def indices_of(space: Space, codes: IntArray) -> IntArray:
    """The indices [n, d] into the space's axes of its codes [n, d], as ``Space.rows`` takes them.

    Raises:
        SpaceError: A code is outside the space.
    """
    rows = np.asarray(codes, dtype=np.int64)
    n = len(space.widths)
    indices = np.empty(rows.shape, dtype=np.int64)
    for j, axis in enumerate(space.axes):
        fractions = [Fraction(v) for v in axis]
        # Values as multiples of one unit, so that bottlenecks (shares of a width) compare as integers.
        unit = math.lcm(*(v.denominator for v in fractions))
        values = np.array([int(v * unit) for v in fractions], dtype=np.int64)
        wanted = rows[:, j] * unit
        if j >= 2 * n and space.shares_width:
            wanted, remainder = np.divmod(wanted, rows[:, j - 2 * n])
            wanted = np.where(remainder == 0, wanted, -1)
        indices[:, j] = np.searchsorted(values, wanted).clip(0, len(values) - 1)
        wrong = values[indices[:, j]] != wanted
        if wrong.any():
            row = rows[int(wrong.argmax())]
            raise SpaceError(f"The code {row.tolist()} is outside the space: its {space.entry_names[j]} is {row[j]}.")
    return indices


def _stage_terms(
    space: Space, stage: int, block_value: Callable[[BlockShape], int] | None, block_values: dict[BlockShape, int]
) -> IntArray:
    n = len(space.widths)
    before = len(space.widths[stage - 1]) if stage else 1
    third = len(space.thirds[stage]) if space.thirds else 1
    shape = (before, len(space.widths[stage]), len(space.depths[stage]), third)
    p, c, depth, t = (grid.ravel() for grid in np.indices(shape))
    indices = np.zeros((len(p), len(space.axes)), dtype=np.int64)
    if stage:
        indices[:, stage - 1] = p
    indices[:, stage], indices[:, n + stage] = c, depth
    if space.thirds:
        indices[:, 2 * n + stage] = t
    columns = np.ascontiguousarray(space.columns(space.rows(indices)).T, dtype=np.float64)
    kinds = len(KINDS) + (block_value is not None)
    total = np.zeros((kinds, len(p)))
    template = space.template
    side = checked_size(template.image_size)
    for block, times, size in blocks_by_stage(template, columns, side, space.num_classes, space.in_chans, space.form)[
        stage
    ]:
        # A detector takes the features before the classifier's layers.
        beside = space.head is not None and not block.in_features
        cost, _ = block_cost(block, size)
        for kind, one in enumerate(cost if not beside else ()):
            total[kind] += one * times
        total[3] += sum(layer.present for layer in block.layers() if layer.role == "main") * times
        if block_value is not None and not beside:
            total[4] += _values(block, times, size[0], block_value, block_values) * times
    if space.head is not None:
        _add_head(total, space.head, space.template, stage, n, columns[stage])
    return total.astype(np.int64).reshape(kinds, *shape)


def _add_head(total: Any, head: DetectorHead, template: Code, stage: int, stages: int, widths: Any) -> None:
    """Add what a detector's head costs for a stage's widths [N]; what no width changes goes to the last stage."""
    cost = head_cost(head, template)
    for index, one in cost.by_stage:
        if index == stage:
            for kind, amount in enumerate((one.macs, one.params, one.activations)):
                total[kind] += amount * widths
    if stage == stages - 1:
        for kind, amount in enumerate((cost.fixed.macs, cost.fixed.params, cost.fixed.activations)):
            total[kind] += amount


def _values(
    block: Block[Any],
    times: Any,
    size: int,
    block_value: Callable[[BlockShape], int],
    block_values: dict[BlockShape, int],
) -> Any:
    """The value of a block for each row [N]; 0 where it does not occur, so that it needs no value."""
    squeeze = block.squeeze_width if block.squeeze_width is not None else 0
    group = block.group_width if block.group_width is not None else 0
    mlp = block.mlp_width if block.mlp_width is not None else 0
    widths = np.stack(
        np.broadcast_arrays(block.in_width, block.out_width, block.mid_width, squeeze, group, mlp, times * 1.0)
    )
    widths[6] = widths[6] > 0
    rows, where = np.unique(widths.astype(np.int64), axis=1, return_inverse=True)
    values = []
    for a, b, m, s, g, mlp, occurs in rows.T.tolist():
        shape = BlockShape(block.kind, a, b, m, block.kernel, block.stride, s, size, block.stride_in == "1x1", g, mlp)
        if occurs and shape not in block_values:
            block_values[shape] = block_value(shape)
        values.append(block_values[shape] if occurs else 0)
    return np.array(values, dtype=np.float64)[where.reshape(-1)]

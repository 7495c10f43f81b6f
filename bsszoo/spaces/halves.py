"""All codes of a space as pairs of halves, searched as one tree against another.

A chain of stages is cut at one of them: the stages before it, for each width that they may end with, are one list of
rows; those after it, for each width that they start from, another; the stage between is a short list of offsets. A
space of 10^11 codes is a few hundred thousand rows, and

    cost(code) = cost(left row) + cost(offset) + cost(right row)      for each limited kind, exactly.

Each list is a k-d tree in the space of its costs. A pair of nodes with an offset is a block of codes whose costs lie
between two sums. Blocks outside the limits are dropped, undecided ones split, until most of what is left keeps the
limits. No cost has to grow with an entry, so a latency table is a cost like any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bsszoo.spaces.chain import Chain
from bsszoo.spaces.limits import Bounds

IntArray = NDArray[np.int64]

# Rows of both lists together; about a second and 150 MB.
_MOST_ROWS: Final = 3_000_000
# Nodes are split in so many; those of so few rows are not split on.
_WAYS: Final = 4
_LEAF: Final = 8


def cut_of(chain: Chain) -> int | None:
    """The stage at which a chain is best cut in halves, or None when the halves are too large to be listed."""
    shapes = [term.shape[1:] for term in chain.terms]
    rows = {}
    for cut in range(1, len(shapes) - 1):
        left = right = 1
        for _, widths, depths, thirds in shapes[:cut]:
            left *= widths * depths * thirds
        for _, widths, depths, thirds in shapes[cut + 1 :]:
            right *= widths * depths * thirds
        rows[cut] = left + shapes[cut + 1][0] * right
    best = min(rows, key=lambda cut: rows[cut])
    return best if rows[best] <= _MOST_ROWS else None


class Forest:
    """Trees over rows of costs, one for each of t boundary widths, grown level by level where they are needed.

    ``costs`` [t * n, kinds] and ``order`` [t * n], the row of its tree, stand in the trees' own order; a node holds the
    rows from ``start`` to ``stop``, whose costs lie between ``low`` and ``high`` [nodes, kinds]. ``child`` is the first
    of a node's children, which follow each other, or -1.
    """

    def __init__(self, rows: IntArray, scale: NDArray[np.float64]) -> None:
        kinds, trees, n = rows.shape
        self.trees, self.n, self.scale = trees, n, scale
        self.costs = np.ascontiguousarray(rows.reshape(kinds, -1).T)
        self.order = np.tile(np.arange(n, dtype=np.int64), trees)
        self.levels = 0
        while n // _WAYS ** (self.levels + 1) >= _LEAF // 2:
            self.levels += 1
        self.depth = -1
        self.low = self.high = np.empty((0, kinds), dtype=np.int64)
        self.start = self.stop = self.child = np.empty(0, dtype=np.int64)
        self._add_level()

    def _add_level(self) -> None:
        self.depth += 1
        parts = _WAYS**self.depth
        inside = np.arange(parts + 1, dtype=np.int64) * self.n // parts
        start = (np.arange(self.trees)[:, None] * self.n + inside[:-1]).ravel()
        stop = (np.arange(self.trees)[:, None] * self.n + inside[1:]).ravel()
        self.low = np.concatenate([self.low, np.minimum.reduceat(self.costs, start, axis=0)])
        self.high = np.concatenate([self.high, np.maximum.reduceat(self.costs, start, axis=0)])
        if self.depth:
            first = len(self.start) - self.trees * parts // _WAYS
            self.child[first:] = len(self.start) + np.arange(len(start) // _WAYS) * _WAYS
        self.start, self.stop = np.concatenate([self.start, start]), np.concatenate([self.stop, stop])
        self.child = np.concatenate([self.child, np.full(len(start), -1)])

    def grow(self) -> bool:
        """Split the deepest nodes along the cost in which each is widest; False where they are small enough."""
        if self.depth >= self.levels:
            return False
        last = self.trees * _WAYS**self.depth
        low, high = self.low[-last:], self.high[-last:]
        axis = np.argmax((high - low) / self.scale, axis=1)
        each = np.arange(last)
        node = np.repeat(each, self.stop[-last:] - self.start[-last:])
        span = (high - low)[each, axis] + 1.0
        place = (self.costs[np.arange(len(node)), axis[node]] - low[each, axis][node]) / span[node]
        # Rows stay in their node: each takes its own unit of the sort key.
        rank = np.argsort(node + place * (1 - 1e-6), kind="stable")
        self.costs, self.order = self.costs[rank], self.order[rank]
        self._add_level()
        return True


@dataclass(frozen=True, eq=False)
class Blocks:
    """Blocks of codes: a left node, an offset and a right node each, int32 [b]."""

    left: NDArray[np.int32]
    offset: NDArray[np.int32]
    right: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.left)

    def keep(self, which: NDArray[np.bool_] | IntArray) -> Blocks:
        """Those of the blocks."""
        return Blocks(self.left[which], self.offset[which], self.right[which])

    def join(self, other: Blocks) -> Blocks:
        """These blocks and others."""
        return Blocks(
            np.concatenate([self.left, other.left]),
            np.concatenate([self.offset, other.offset]),
            np.concatenate([self.right, other.right]),
        )


class Halves:
    """The two lists of a space for some of its chain's ``kinds``; see the module.

    A code's number is (offset * left rows + left row) * right rows + right row, below the size of the space.
    """

    def __init__(self, chain: Chain, kinds: IntArray, bounds: Bounds, cut: int) -> None:
        self.chain, self.cut, self.kinds = chain, cut, kinds
        terms = [term[kinds] for term in chain.terms]
        low, high = bounds.low[kinds].astype(np.float64), bounds.high[kinds].astype(np.float64)
        # What a difference in each cost counts: the window between its limits, or a part of its one limit.
        two_sided = (low > -(2.0**61)) & (high < 2.0**61)
        one_limit = np.where(high < 2.0**61, high, low)
        self.scale = np.maximum(np.where(two_sided, high - low, 0.05 * np.abs(one_limit)), 1.0)
        self.left = Forest(_before(terms[:cut]), self.scale)
        self.right = Forest(_after(terms[cut + 1 :]), self.scale)
        middle = terms[cut]
        self.offsets = np.ascontiguousarray(middle.reshape(len(kinds), -1).T)
        self._middle_shape = middle.shape[1:]

    def whole(self) -> Blocks:
        """The space: one block for each offset."""
        offset = np.arange(len(self.offsets), dtype=np.int32)
        before, width, _, _ = np.unravel_index(offset, self._middle_shape)
        return Blocks(before.astype(np.int32), offset, width.astype(np.int32))

    def sizes(self, blocks: Blocks) -> NDArray[np.float64]:
        """The number of codes of each block [b]."""
        left, right = self.left, self.right
        return np.asarray((left.stop - left.start)[blocks.left] * (right.stop - right.start)[blocks.right] * 1.0)

    def between(self, blocks: Blocks) -> tuple[IntArray, IntArray]:
        """The bounds of each block's costs, [b, kinds] each."""
        offset = self.offsets[blocks.offset]
        return (
            self.left.low[blocks.left] + offset + self.right.low[blocks.right],
            self.left.high[blocks.left] + offset + self.right.high[blocks.right],
        )

    def possible(self, bounds: Bounds, blocks: Blocks) -> tuple[Blocks, NDArray[np.bool_]]:
        """The blocks that may hold a code within the bounds, and which of them hold no other."""
        least, most = self.between(blocks)
        low, high = bounds.low[self.kinds], bounds.high[self.kinds]
        may = np.asarray(((least <= high) & (most >= low)).all(axis=1))
        all_in = np.asarray(((most <= high) & (least >= low)).all(axis=1))
        return blocks.keep(may), all_in[may]

    def split(self, blocks: Blocks) -> tuple[Blocks, Blocks]:
        """The children of the blocks, cut in the half in which each is wider, and the blocks that are too small."""
        wide = [
            ((tree.high[node] - tree.low[node]) / self.scale).max(axis=1)
            for tree, node in ((self.left, blocks.left), (self.right, blocks.right))
        ]
        for tree, node in ((self.left, blocks.left), (self.right, blocks.right)):
            if (tree.child[node] < 0).any():
                tree.grow()
        leaf_left, leaf_right = self.left.child[blocks.left] < 0, self.right.child[blocks.right] < 0
        on_left = ~leaf_left & ((wide[0] >= wide[1]) | leaf_right)
        on_right = ~leaf_right & ~on_left
        step = np.arange(_WAYS, dtype=np.int32)
        a, b = blocks.keep(on_left), blocks.keep(on_right)
        children = Blocks(
            np.concatenate([(self.left.child[a.left, None] + step).ravel(), np.repeat(b.left, _WAYS)]).astype(np.int32),
            np.repeat(np.concatenate([a.offset, b.offset]), _WAYS),
            np.concatenate([np.repeat(a.right, _WAYS), (self.right.child[b.right, None] + step).ravel()]).astype(
                np.int32
            ),
        )
        return children, blocks.keep(leaf_left & leaf_right)

    # -- codes -----------------------------------------------------------------------------------------------

    def drawn(
        self, blocks: Blocks, sizes: NDArray[np.float64], n: int, rng: np.random.Generator
    ) -> tuple[IntArray, IntArray]:
        """``n`` codes drawn uniformly from the blocks: their numbers [n] and costs [kinds, n]."""
        ends = np.cumsum(sizes)
        which = np.searchsorted(ends, rng.random(n) * ends[-1], side="right").clip(max=len(ends) - 1)
        chosen = blocks.keep(which)
        rows = []
        for tree, node in ((self.left, chosen.left), (self.right, chosen.right)):
            low = tree.start[node]
            rows.append(low + rng.integers(0, tree.stop[node] - low))
        return self.numbered(rows[0], chosen.offset, rows[1])

    def listed(self, blocks: Blocks, start: int, stop: int) -> tuple[IntArray, IntArray]:
        """The codes of the blocks, counted one block after the other, from ``start`` to before ``stop``, likewise."""
        ends = np.cumsum(self.sizes(blocks).astype(np.int64))
        place = np.arange(start, min(stop, int(ends[-1])))
        which = np.searchsorted(ends, place, side="right")
        place -= np.concatenate([[0], ends])[which]
        node_left, node_right = blocks.left[which], blocks.right[which]
        width = (self.right.stop - self.right.start)[node_right]
        return self.numbered(
            self.left.start[node_left] + place // width,
            blocks.offset[which],
            self.right.start[node_right] + place % width,
        )

    def numbered(self, left: IntArray, offset: NDArray[np.int32], right: IntArray) -> tuple[IntArray, IntArray]:
        """The codes of left rows, offsets and right rows, each [n], in the trees' order: their numbers and costs."""
        costs = self.left.costs[left] + self.offsets[offset] + self.right.costs[right]
        numbers = (offset * np.int64(self.left.n) + self.left.order[left]) * self.right.n + self.right.order[right]
        return numbers, costs.T

    def places(self, numbers: IntArray) -> IntArray:
        """The places [n, d] on the space's axes of the codes with these numbers [n]."""
        terms, stages = self.chain.terms, len(self.chain.terms)
        out = np.zeros((len(numbers), len(self.chain.space.axes)), dtype=np.int64)

        def put(stage: int, width: IntArray, rest: IntArray) -> None:
            depth, third = np.divmod(rest, terms[stage].shape[4])
            out[:, stage], out[:, stages + stage] = width, depth
            if self.chain.space.thirds:
                out[:, 2 * stages + stage] = third

        left, right = np.divmod(numbers, self.right.n)
        offset, left = np.divmod(left, self.left.n)
        before, width, depth, third = np.unravel_index(offset, self._middle_shape)
        put(self.cut, width, depth * self._middle_shape[3] + third)
        for stage in range(self.cut - 1, -1, -1):
            left, rest = np.divmod(left, terms[stage].shape[3] * terms[stage].shape[4])
            put(stage, before, rest)
            if stage:
                before, left = np.divmod(left, _rows_of(terms, stage))
        size = self.right.n
        for stage in range(self.cut + 1, stages):
            _, widths, depths, thirds = terms[stage].shape[1:]
            size //= widths * depths * thirds
            first, right = np.divmod(right, size)
            width, rest = np.divmod(first, depths * thirds)
            put(stage, width, rest)
        return out


def _rows_of(terms: tuple[IntArray, ...], stages: int) -> int:
    """The rows of the first ``stages`` stages that end with one width."""
    rows = 1
    for i in range(stages):
        before, _, depths, thirds = terms[i].shape[1:]
        rows *= before * depths * thirds
    return rows


def _before(terms: list[IntArray]) -> IntArray:
    """The sums of the first stages, [kinds, last width, rows]; a row is (width before, its row, depth, third)."""
    kinds = len(terms[0])
    rows = terms[0][:, 0].reshape(kinds, terms[0].shape[2], -1)
    for term in terms[1:]:
        _, before, widths = term.shape[:3]
        own = term.transpose(0, 2, 1, 3, 4).reshape(kinds, widths, before, 1, -1)
        rows = (rows[:, None, :, :, None] + own).reshape(kinds, widths, -1)
    return rows


def _after(terms: list[IntArray]) -> IntArray:
    """The sums of the last stages, [kinds, width before them, rows]; a row is (width, depth, third, the rest's row)."""
    kinds, before = terms[-1].shape[:2]
    rows = terms[-1].reshape(kinds, before, -1)
    for term in reversed(terms[:-1]):
        _, before, widths = term.shape[:3]
        rows = (term.reshape(kinds, before, widths, -1, 1) + rows[:, None, :, None, :]).reshape(kinds, before, -1)
    return rows

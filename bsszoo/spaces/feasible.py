"""Drawing candidates: uniform among the codes of a space that keep all limits, also when few of very many do.

Three ways to the same set, by the share of the codes that keep the limits and the size of the space:

    many keep them       codes of the whole space are drawn, and those outside the limits thrown away
    few keep them        ``Halves``: a tree of half-codes against another one, which no assumption on costs narrows down
    few, and the halves  ``Boxes``: ranges of indices into each axis, narrowed down because costs grow with every entry;
    cannot be listed     MobileNetV2 in steps of 4 channels with every expansion has 12 million half-codes, for one

Each draws uniformly from parts of the space that together hold every feasible code, and throws away what is outside.
When few codes are left all are listed, and none is missed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bsszoo.spaces.candidate_set import CandidateSet, GrowthInSpace, row_keys
from bsszoo.spaces.chain import KINDS, Chain
from bsszoo.spaces.limits import NS_PER_MS, Bounds, Limits
from bsszoo.spaces.space import Space

IntArray = NDArray[np.int64]

# Drawn at once: few enough that the columns of a draw take 40 MB.
_DRAW: Final = 250_000
# Drawn to estimate the share of codes that keep the limits.
_TEST: Final = 20_000
# The whole space is drawn from while at least this share keeps the limits; narrowing stops at this share.
_ENOUGH: Final = 0.25
# With no more codes than this left they are listed instead of drawn; or than a multiple of what is wanted, since
# drawing the last few of a set takes long. Times the share above it is more than one, so that where fewer codes are
# feasible than wanted they are listed.
_LIST: Final = 400_000
_LIST_TIMES: Final = 8
# Codes that a latency function is asked about, for each one wanted, before the search for more is given up, and before
# the search for a first one is. Counts, not seconds: a run that is resumed has to draw the same codes.
_ASKED_TIMES: Final = 4
_ASKED_IN_VAIN: Final = 5_000


def draw_candidates(
    space: Space, limits: Limits, n: int, rng: np.random.Generator | int, *, max_draws: int = 20_000_000
) -> CandidateSet | None:
    """Up to ``n`` distinct codes drawn uniformly among those of the space within the limits.

    None when there are none: proven, unless ``max_draws`` ran out first. Fewer than ``n`` when there are no more, or
    when ``max_draws`` ran out. The set's ``maximal`` is judged in the space under the upper limits.

    Args:
        space: Where to draw.
        limits: What a code has to keep. A latency table is one more cost and costs no more than the others. A latency
            function is asked about every code that keeps the rest, up to 4 for each one wanted.
        n: How many distinct codes to gather.
        rng: A seed or a numpy generator.
        max_draws: When to give up; some million codes are drawn a second.

    Raises:
        BudgetError: The latency table lacks a block of the space, or the latency function failed.

    Example:
        >>> space = Space.of("mobilenetv2")
        >>> candidates = draw_candidates(space, Limits(max_macs=80_000_000), 100, 0)  # a share of 3 in a million
        >>> len(candidates), int(candidates.macs.max()) <= 80_000_000
        (100, True)
    """
    generator = np.random.default_rng(rng)
    chain = limits.chain(space)
    bounds = limits.bounds(chain)
    least, most = chain.extremes()
    if (least > bounds.high).any() or (most < bounds.low).any():
        return None
    parts = _parts(chain, bounds, generator)
    if parts is None:
        return None
    pool = _Pool(parts, space, generator, max_draws, max(_LIST, _LIST_TIMES * n))
    if limits.function is None:
        pool.grow(n)
        chosen = pool.indices[:n]
        return _candidates(chain, limits, chosen, None) if len(chosen) else None
    indices, ms = _within_latency(pool, limits, n)
    return _candidates(chain, limits, indices, ms) if len(indices) else None


def _within_latency(pool: _Pool, limits: Limits, n: int) -> tuple[IntArray, NDArray[np.float64]]:
    """The first ``n`` codes of a pool that keep a latency function's limit: their indices and milliseconds."""
    indices, times, asked, wanted = [], [], 0, min(n, _ASKED_IN_VAIN)
    while True:
        pool.grow(wanted)
        fresh = pool.indices[asked:wanted].astype(np.int64)
        asked += len(fresh)
        if len(fresh):
            inside, ms = limits.keeps_latency(pool.space, pool.space.rows(fresh))
            indices.append(fresh[inside])
            times.append(ms[inside])
        feasible = sum(map(len, indices))
        most = max(_ASKED_TIMES * n, _ASKED_IN_VAIN)
        if feasible >= n or not len(fresh) or asked >= (most if feasible else _ASKED_IN_VAIN):
            break
        share = max(feasible / asked, 1 / most)
        wanted = min(asked + min(max(int(1.1 * (n - feasible) / share), 64), 4 * asked), most)
    d = len(pool.space.axes)
    return np.concatenate([np.empty((0, d), dtype=np.int64), *indices])[:n], np.concatenate([np.empty(0), *times])[:n]


def _candidates(chain: Chain, limits: Limits, indices: IntArray, ms: NDArray[np.float64] | None) -> CandidateSet:
    space = chain.space
    codes = np.empty(indices.shape, dtype=np.int64)
    costs = np.empty((len(chain.kinds), len(indices)), dtype=np.int64)
    for start in range(0, len(indices), _DRAW):
        part = slice(start, start + _DRAW)
        rows = indices[part].astype(np.int64)
        codes[part], costs[:, part] = space.rows(rows), chain.costs(rows)
    codes.flags.writeable = False  # so that the set takes them as they are
    if limits.table is not None:
        ms = costs[-1] / NS_PER_MS
    return CandidateSet(
        codes,
        names=space.entry_names,
        macs=costs[0],
        params=costs[1],
        activations=costs[2],
        latency=ms,
        bounds=space.bounds,
        growth=GrowthInSpace(space, limits),
    )


class _Pool:
    """Distinct codes in the order in which they were drawn: any first n of them are uniform."""

    def __init__(self, parts: _Parts, space: Space, rng: np.random.Generator, max_draws: int, most_listed: int) -> None:
        self.parts, self.space, self.rng, self.left = parts, space, rng, max_draws
        # Indices in as few bytes as they need: a million int64 codes of 18 entries would take 144 MB.
        self._type = np.min_scalar_type(max(len(axis) for axis in space.axes))
        self.indices = np.empty((0, len(space.axes)), dtype=self._type)
        self._keys: IntArray = np.empty(0, dtype=np.int64)
        every = parts.every(most_listed)
        if every is not None:
            self.indices = np.concatenate([self.indices, *(indices.astype(self._type) for indices in every)])
            self.indices = self.indices[rng.permutation(len(self.indices))]
            self.left = 0

    def grow(self, n: int) -> None:
        """Draw until there are ``n`` codes, or no more draws."""
        while len(self.indices) < n and self.left > 0:
            wanted = min(int(1.05 * (n - len(self.indices)) / max(self.parts.share, 1e-4)) + 1000, self.left)
            self.left -= wanted
            drawn = []
            while wanted > 0:
                keys, indices = self.parts.draw(min(_DRAW, wanted), self.rng)
                drawn.append((keys, indices.astype(self._type)))
                wanted -= _DRAW
            self._add(np.concatenate([k for k, _ in drawn]), np.concatenate([p for _, p in drawn]))

    def _add(self, keys: IntArray, indices: IntArray) -> None:
        _, first = np.unique(keys, return_index=True)
        first.sort()
        if len(self._keys):
            at = np.searchsorted(self._keys, keys[first]).clip(max=len(self._keys) - 1)
            first = first[self._keys[at] != keys[first]]
        self.indices = np.concatenate([self.indices, indices[first]])
        self._keys = np.sort(np.concatenate([self._keys, keys[first]]))


class _Parts(ABC):
    """Parts of a space that together hold every code within the bounds; codes are drawn uniformly from them.

    ``sizes`` is the number of codes of each part, ``share`` the share of them that keeps the bounds.
    """

    sizes: NDArray[np.float64]
    share = 1.0

    @abstractmethod
    def draw(self, n: int, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
        """Those of ``n`` codes drawn that keep the bounds: distinct keys [m] and indices [m, d]."""

    @abstractmethod
    def listed(self, start: int, stop: int) -> IntArray:
        """The indices [m, d] of those codes that keep the bounds, of the parts' from number ``start`` to ``stop``."""

    @abstractmethod
    def split(self) -> _Parts | None:
        """Smaller parts without those that hold no code within the bounds; None where there are enough of them."""

    def every(self, most: int) -> Iterator[IntArray] | None:
        """The indices [m, d] of every code within the bounds, some at a time; None with more than ``most`` to check."""
        total = self.sizes.sum()
        return None if total > most else (self.listed(a, a + _DRAW) for a in range(0, int(total), _DRAW))

    def estimate(self, rng: np.random.Generator) -> float:
        """Set and return ``share``, estimated from some codes drawn."""
        self.share = len(self.draw(_TEST, rng)[0]) / _TEST
        return self.share


def _parts(chain: Chain, bounds: Bounds, rng: np.random.Generator) -> _Parts | None:
    """Parts to draw codes from, narrowed down while it pays; None when no code keeps the bounds."""
    whole = Boxes.whole(chain, bounds)
    if whole.estimate(rng) >= _ENOUGH or chain.space.size <= _LIST:
        return whole
    cut = cut_of(chain)
    parts: _Parts = whole.reachable() if cut is None else Blocks.whole(Halves(chain, bounds, cut))
    while len(parts.sizes):
        if parts.sizes.sum() <= _LIST or parts.estimate(rng) >= _ENOUGH:
            return parts
        narrower = parts.split()
        if narrower is None:
            return parts
        parts = narrower
    return None


# -- boxes ----------------------------------------------------------------------------------------------------

# Number of boxes at which narrowing stops (about half a second's work).
_MOST_BOXES: Final = 16_384


class Boxes(_Parts):
    """Ranges of indices into every axis: the least and the greatest index of each, both inclusive, int64 [b, d].

    Costs grow with every entry of a code, but where a shortcut needs no projection between two equal widths, which
    the chain's envelopes allow for. So a box holds no code within the bounds when its least corner breaks an upper
    limit or its greatest one stays below a lower limit. A latency table need not grow with an entry, so it splits
    nothing off and is left to rejection.
    """

    def __init__(
        self, chain: Chain, bounds: Bounds, low: IntArray, high: IntArray, envelopes: tuple[Chain, Chain] | None = None
    ) -> None:
        self.chain, self.bounds, self.low, self.high = chain, bounds, low, high
        self.envelopes = envelopes or (chain.envelope(least=True), chain.envelope(least=False))
        # Floats, since a space may hold 10^20 codes.
        self.sizes = (high - low + 1).astype(np.float64).prod(axis=1)

    @classmethod
    def whole(cls, chain: Chain, bounds: Bounds) -> Boxes:
        """The space as one box, but for a ResNet-50 whose first width may be below the stem's.

        A block exactly as wide as the stem needs no projection, so it costs less than a narrower one.
        """
        space = chain.space
        low = np.zeros((1, len(space.axes)), dtype=np.int64)
        high = np.array([[len(axis) - 1 for axis in space.axes]])
        narrower = sum(width < space.stem_width for width in space.widths[0])
        if 0 < narrower < len(space.widths[0]) and space.loses_projection:
            below, rest = high.copy(), low.copy()
            below[0, 0], rest[0, 0] = narrower - 1, narrower
            low, high = np.concatenate([low, rest]), np.concatenate([below, high])
        return cls(chain, bounds, low, high)

    def reachable(self) -> Boxes:
        """The boxes that may hold a code within the bounds."""
        grows = len(KINDS)
        lower, upper = self.envelopes
        least = lower.costs(self.low)[:grows] <= self.bounds.high[:grows, None]
        most = upper.costs(self.high)[:grows] >= self.bounds.low[:grows, None]
        may = np.asarray((least & most).all(axis=0))
        single = np.flatnonzero(may & (self.sizes == 1))  # which no split makes smaller
        costs = self.chain.costs(self.low[single])[:grows]
        may[single] = ((costs >= self.bounds.low[:grows, None]) & (costs <= self.bounds.high[:grows, None])).all(axis=0)
        return Boxes(self.chain, self.bounds, self.low[may], self.high[may], self.envelopes)

    def split(self) -> Boxes | None:
        """The boxes with the larger half of them (at least 64) cut in two where it changes the cost most."""
        if len(self.sizes) > _MOST_BOXES:
            return None
        order = np.argsort(-self.sizes, kind="stable")
        cut = order[: max(64, len(order) // 2)]
        cut = cut[self.sizes[cut] > 1]
        low, high = self.low[cut], self.high[cut]
        d = low.shape[1]
        # Each axis alone at its greatest index, the others at their least: [b * d, d].
        raised = np.repeat(low, d, axis=0)
        raised[np.arange(len(raised)), np.tile(np.arange(d), len(cut))] = high.ravel()
        base, more = self.chain.costs(low), self.chain.costs(raised)
        gain = sum(np.log(b.reshape(-1, d) / a[:, None]) for a, b in zip(base[:2], more[:2], strict=True))
        gain = np.where(high > low, gain + 1e-9, -1.0)
        at = np.argmax(gain, axis=1)
        each = np.arange(len(cut))
        middle = (low[each, at] + high[each, at]) // 2
        below, above = high.copy(), low.copy()
        below[each, at], above[each, at] = middle, middle + 1
        uncut = np.ones(len(order), dtype=bool)
        uncut[cut] = False
        halved = Boxes(
            self.chain, self.bounds, np.concatenate([low, above]), np.concatenate([below, high]), self.envelopes
        ).reachable()
        return Boxes(
            self.chain,
            self.bounds,
            np.concatenate([self.low[uncut], halved.low]),
            np.concatenate([self.high[uncut], halved.high]),
            self.envelopes,
        )

    def draw(self, n: int, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
        """As ``_Parts.draw``; the boxes do not overlap."""
        which = rng.choice(len(self.sizes), size=n, p=self.sizes / self.sizes.sum())
        indices = self._inside(rng.integers(self.low[which], self.high[which] + 1))
        return row_keys(indices).view(np.int64), indices

    def listed(self, start: int, stop: int) -> IntArray:
        """As ``_Parts.listed``, one box after the other."""
        ends = np.cumsum(self.sizes.astype(np.int64))
        left = np.arange(start, min(stop, int(ends[-1])))
        which = np.searchsorted(ends, left, side="right")
        left -= np.concatenate([[0], ends])[which]
        indices = np.empty((len(which), self.low.shape[1]), dtype=np.int64)
        for j in range(indices.shape[1]):
            width = (self.high[:, j] - self.low[:, j] + 1)[which]
            indices[:, j] = self.low[which, j] + left % width
            left //= width
        return self._inside(indices)

    def _inside(self, indices: IntArray) -> IntArray:
        return indices[self.bounds.hold(self.chain.costs(indices))]


# -- halves ---------------------------------------------------------------------------------------------------

# Rows of both lists together; about a second and 150 MB.
_MOST_ROWS: Final = 3_000_000
# Number of children of a node; rows of a node that is not split further.
_WAYS: Final = 4
_LEAF: Final = 8
# Number of blocks at which narrowing stops (about a second's work).
_MOST_BLOCKS: Final = 400_000


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


class Halves:
    """All codes of a space as pairs of halves, for the kinds of its chain that have a limit.

    A chain of stages is cut at one of them: the stages before it, for each width that they may end with, are one list
    of rows; those after it, for each width that they start from, another; the stage between is a short list of offsets.
    A space of 10^11 codes is a few hundred thousand rows, and

        cost(code) = cost(left row) + cost(offset) + cost(right row)      for each limited kind, exactly.

    No cost has to grow with an entry, so a latency table is a cost like any other. A code's number is
    (offset * left rows + left row) * right rows + right row, below the size of the space.
    """

    def __init__(self, chain: Chain, bounds: Bounds, cut: int) -> None:
        kinds = bounds.limited
        self.chain, self.cut = chain, cut
        self.bounds = Bounds(bounds.low[kinds], bounds.high[kinds])
        terms = [term[kinds] for term in chain.terms]
        low, high = (side.astype(np.float64) for side in self.bounds)
        # What a difference in each cost counts: the window between its limits, or a part of its one limit.
        two_sided = (low > -(2.0**61)) & (high < 2.0**61)
        one_limit = np.where(high < 2.0**61, high, low)
        self.scale = np.maximum(np.where(two_sided, high - low, 0.05 * np.abs(one_limit)), 1.0)
        self.left = Forest(_before(terms[:cut]), self.scale)
        self.right = Forest(_after(terms[cut + 1 :]), self.scale)
        self.offsets = np.ascontiguousarray(terms[cut].reshape(len(kinds), -1).T)
        self.middle_shape = terms[cut].shape[1:]

    def inside(self, left: IntArray, offset: NDArray[np.int32], right: IntArray) -> IntArray:
        """The numbers [m] of those codes of left rows, offsets and right rows [n] each that keep the bounds."""
        costs = self.left.costs[left] + self.offsets[offset] + self.right.costs[right]
        numbers = (offset * np.int64(self.left.n) + self.left.order[left]) * self.right.n + self.right.order[right]
        return np.asarray(numbers[self.bounds.hold(costs.T)])

    def indices(self, numbers: IntArray) -> IntArray:
        """The indices [n, d] into the space's axes of the codes with these numbers [n]."""
        terms, stages = self.chain.terms, len(self.chain.terms)
        out = np.zeros((len(numbers), len(self.chain.space.axes)), dtype=np.int64)

        def put(stage: int, width: IntArray, rest: IntArray) -> None:
            depth, third = np.divmod(rest, terms[stage].shape[4])
            out[:, stage], out[:, stages + stage] = width, depth
            if self.chain.space.thirds:
                out[:, 2 * stages + stage] = third

        left, right = np.divmod(numbers, self.right.n)
        offset, left = np.divmod(left, self.left.n)
        before, width, depth, third = np.unravel_index(offset, self.middle_shape)
        put(self.cut, width, depth * self.middle_shape[3] + third)
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


class Forest:
    """Trees over rows of costs, one for each of t boundary widths, grown level by level where they are needed.

    ``costs`` [t * n, kinds] and ``order`` [t * n], the row of its tree, are in the order of the trees' leaves; a node
    holds the rows from ``start`` to ``stop``, whose costs lie between ``low`` and ``high`` [nodes, kinds]. ``child`` is
    the first of a node's children, which follow each other, or -1.
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
        position = (self.costs[np.arange(len(node)), axis[node]] - low[each, axis][node]) / span[node]
        # Rows stay in their node: each node takes one unit of the sort key.
        rank = np.argsort(node + position * (1 - 1e-6), kind="stable")
        self.costs, self.order = self.costs[rank], self.order[rank]
        self._add_level()
        return True


class Blocks(_Parts):
    """Blocks of codes, each a left node, an offset and a right node: the rows of ``nodes``, int32 [3, b].

    The costs of a block lie between two sums. Blocks outside the bounds are dropped, those in ``open`` [b] may hold
    codes on both sides and can be split.
    """

    def __init__(self, halves: Halves, nodes: NDArray[np.int32], open_: NDArray[np.bool_]) -> None:
        self.halves, self.nodes, self.open = halves, nodes, open_
        left, right = halves.left, halves.right
        self.sizes = (left.stop - left.start)[nodes[0]] * (right.stop - right.start)[nodes[2]] * 1.0

    @classmethod
    def whole(cls, halves: Halves) -> Blocks:
        """The space, one block for each offset, without those outside the bounds."""
        offset = np.arange(len(halves.offsets))
        before, width, _, _ = np.unravel_index(offset, halves.middle_shape)
        return cls._reachable(halves, np.stack([before, offset, width]).astype(np.int32))

    @classmethod
    def _reachable(cls, halves: Halves, nodes: NDArray[np.int32]) -> Blocks:
        """Those of the blocks [3, b] that may hold a code within the bounds."""
        left, offset, right = nodes
        middle = halves.offsets[offset]
        least = halves.left.low[left] + middle + halves.right.low[right]
        most = halves.left.high[left] + middle + halves.right.high[right]
        low, high = halves.bounds
        may = ((least <= high) & (most >= low)).all(axis=1)
        whole = ((most <= high) & (least >= low)).all(axis=1)
        return cls(halves, nodes[:, may], ~whole[may])

    def split(self) -> Blocks | None:
        """The blocks with the largest open ones split in the half in which each is wider and has children."""
        open_ = np.flatnonzero(self.open)
        if not len(open_) or len(self.sizes) > _MOST_BLOCKS:
            return None
        order = open_[np.argsort(-self.sizes[open_], kind="stable")]
        weight = np.cumsum(self.sizes[order])
        cut = order[: int(np.searchsorted(weight, 0.9 * weight[-1])) + 1][: _MOST_BLOCKS // 4]
        uncut = np.ones(len(self.sizes), dtype=bool)
        uncut[cut] = False
        children, leaves = self._children(self.nodes[:, cut])
        inner = Blocks._reachable(self.halves, children)
        return Blocks(
            self.halves,
            np.concatenate([self.nodes[:, uncut], leaves, inner.nodes], axis=1),
            np.concatenate([self.open[uncut], np.zeros(leaves.shape[1], dtype=bool), inner.open]),
        )

    def _children(self, nodes: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The children of blocks, and those that have none."""
        left, right = self.halves.left, self.halves.right
        wide = []
        for tree, node in ((left, nodes[0]), (right, nodes[2])):
            wide.append(((tree.high[node] - tree.low[node]) / self.halves.scale).max(axis=1))
            if (tree.child[node] < 0).any():
                tree.grow()
        leaf_left, leaf_right = left.child[nodes[0]] < 0, right.child[nodes[2]] < 0
        on_left = ~leaf_left & ((wide[0] >= wide[1]) | leaf_right)
        on_right = ~leaf_right & ~on_left
        step = np.arange(_WAYS)
        a, b = (np.repeat(nodes[:, side], _WAYS, axis=1) for side in (on_left, on_right))
        a[0] = (left.child[nodes[0, on_left], None] + step).ravel()
        b[2] = (right.child[nodes[2, on_right], None] + step).ravel()
        return np.concatenate([a, b], axis=1), nodes[:, leaf_left & leaf_right]

    def draw(self, n: int, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
        """As ``_Parts.draw``; a code's key is its number."""
        ends = np.cumsum(self.sizes)
        which = np.searchsorted(ends, rng.random(n) * ends[-1], side="right").clip(max=len(ends) - 1)
        left, offset, right = self.nodes[:, which]
        rows = []
        for tree, node in ((self.halves.left, left), (self.halves.right, right)):
            low = tree.start[node]
            rows.append(low + rng.integers(0, tree.stop[node] - low))
        numbers = self.halves.inside(rows[0], offset, rows[1])
        return numbers, self.halves.indices(numbers)

    def listed(self, start: int, stop: int) -> IntArray:
        """As ``_Parts.listed``, one block after the other."""
        ends = np.cumsum(self.sizes.astype(np.int64))
        number = np.arange(start, min(stop, int(ends[-1])))
        which = np.searchsorted(ends, number, side="right")
        number -= np.concatenate([[0], ends])[which]
        left, offset, right = self.nodes[:, which]
        trees = self.halves
        width = (trees.right.stop - trees.right.start)[right]
        rows = trees.left.start[left] + number // width, trees.right.start[right] + number % width
        return trees.indices(trees.inside(rows[0], offset, rows[1]))


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
        added = term.transpose(0, 2, 1, 3, 4).reshape(kinds, widths, before, 1, -1)
        rows = (rows[:, None, :, :, None] + added).reshape(kinds, widths, -1)
    return rows


def _after(terms: list[IntArray]) -> IntArray:
    """The sums of the last stages, [kinds, width before them, rows]; a row is (width, depth, third, the rest's row)."""
    kinds, before = terms[-1].shape[:2]
    rows = terms[-1].reshape(kinds, before, -1)
    for term in reversed(terms[:-1]):
        _, before, widths = term.shape[:3]
        rows = (term.reshape(kinds, before, widths, -1, 1) + rows[:, None, :, None, :]).reshape(kinds, before, -1)
    return rows

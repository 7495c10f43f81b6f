"""Drawing candidates: uniform among the codes of a space that keep all limits, also when few of very many do.

Three ways to the same set, by the share of the codes that keep the limits and the size of the space:

    many keep them       codes of the whole space are drawn, and those outside the limits thrown away
    few keep them        ``halves``: a tree of half-codes against another one, which no assumption on costs narrows down
    few, and the halves  ``boxes``: ranges of places on every axis, narrowed down because costs grow with every entry
    cannot be listed

Each draws uniformly from parts of the space that together hold every feasible code, and throws away what is outside.
When few codes are left all are listed, and none is missed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from bsszoo.spaces import boxes as box
from bsszoo.spaces.candidate_set import CandidateSet, GrowthInSpace, row_keys
from bsszoo.spaces.chain import Chain
from bsszoo.spaces.halves import Blocks, Halves, cut_of
from bsszoo.spaces.limits import NS_PER_MS, Bounds, Limits
from bsszoo.spaces.space import Space

__all__ = ["Limits", "draw_candidates"]

IntArray = NDArray[np.int64]

# Drawn at once: few enough that the columns of a draw take 40 MB.
_DRAW: Final = 250_000
# Drawn to estimate the share of codes that keep the limits.
_TEST: Final = 20_000
# The whole space is drawn from while at least this share keeps the limits; narrowing stops at this share, or with so
# many blocks or boxes (about a second's work).
_ENOUGH: Final = 0.25
_MOST_BLOCKS: Final = 400_000
_MOST_BOXES: Final = 16_384
# With no more codes than this left they are listed instead of drawn; or than a multiple of what is wanted, since
# drawing the last few of a set takes long. Times the share above it is more than one, so that where fewer codes are
# feasible than wanted they are listed.
_LIST: Final = 400_000
_LIST_TIMES: Final = 8
# A latency function is asked about so many codes for each one wanted before the search for more is given up, and about
# so many before the search for a first one is. Counts, not seconds: a run that is resumed has to draw the same codes.
_ASKED_TIMES: Final = 4
_ASKED_IN_VAIN: Final = 5_000


class _Source(Protocol):
    """Codes within the bounds, drawn uniformly; ``share`` of what it draws from keeps them."""

    share: float

    def draw(self, n: int, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
        """Those of ``n`` codes drawn that keep the bounds: keys [m] that tell them apart and places [m, d]."""
        ...

    def every(self) -> Iterator[IntArray] | None:
        """The places [m, d] of every code within the bounds, in parts; None when they are too many to be listed."""
        ...


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
        >>> found = draw_candidates(space, Limits(max_macs=80_000_000), 100, 0)  # a share of 3 in a million
        >>> len(found), int(found.macs.max()) <= 80_000_000
        (100, True)
    """
    generator = np.random.default_rng(rng)
    chain = limits.chain(space)
    bounds = limits.bounds(chain)
    least, most = chain.extremes()
    if (least > bounds.high).any() or (most < bounds.low).any():
        return None
    source = _source(chain, bounds, n, generator)
    if source is None:
        return None
    pool = _Pool(source, space, generator, max_draws)
    if limits.function is None:
        pool.grow(n)
        chosen = pool.places[:n]
        return _candidates(chain, limits, chosen, None) if len(chosen) else None
    places, ms = _within_latency(pool, limits, n)
    return _candidates(chain, limits, places, ms) if len(places) else None


def _within_latency(pool: _Pool, limits: Limits, n: int) -> tuple[IntArray, NDArray[np.float64]]:
    """The first ``n`` codes of a pool that keep a latency function's limit: their places and milliseconds."""
    places, times, asked, wanted = [], [], 0, min(n, _ASKED_IN_VAIN)
    while True:
        pool.grow(wanted)
        fresh = pool.places[asked:wanted].astype(np.int64)
        asked += len(fresh)
        if len(fresh):
            inside, ms = limits.keeps_latency(pool.space, pool.space.rows(fresh))
            places.append(fresh[inside])
            times.append(ms[inside])
        found = sum(map(len, places))
        most = max(_ASKED_TIMES * n, _ASKED_IN_VAIN)
        if found >= n or not len(fresh) or asked >= (most if found else _ASKED_IN_VAIN):
            break
        share = max(found / asked, 1 / most)
        wanted = min(asked + min(max(int(1.1 * (n - found) / share), 64), 4 * asked), most)
    d = len(pool.space.axes)
    return np.concatenate([np.empty((0, d), dtype=np.int64), *places])[:n], np.concatenate([np.empty(0), *times])[:n]


def _candidates(chain: Chain, limits: Limits, places: IntArray, ms: NDArray[np.float64] | None) -> CandidateSet:
    space = chain.space
    codes = np.empty(places.shape, dtype=np.int64)
    costs = np.empty((len(chain.kinds), len(places)), dtype=np.int64)
    for start in range(0, len(places), _DRAW):
        part = slice(start, start + _DRAW)
        rows = places[part].astype(np.int64)
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

    def __init__(self, source: _Source, space: Space, rng: np.random.Generator, max_draws: int) -> None:
        self.source, self.space, self.rng, self.left = source, space, rng, max_draws
        # Places in as few bytes as they need: a million int64 codes of 18 entries would take 144 MB.
        self._type = np.min_scalar_type(max(len(axis) for axis in space.axes))
        self.places = np.empty((0, len(space.axes)), dtype=self._type)
        self._keys: IntArray = np.empty(0, dtype=np.int64)
        every = source.every()
        if every is not None:
            self.places = np.concatenate([self.places, *(places.astype(self._type) for places in every)])
            self.places = self.places[rng.permutation(len(self.places))]
            self.left = 0

    def grow(self, n: int) -> None:
        """Draw until there are ``n`` codes, or no more draws."""
        while len(self.places) < n and self.left > 0:
            wanted = min(int(1.05 * (n - len(self.places)) / max(self.source.share, 1e-4)) + 1000, self.left)
            self.left -= wanted
            parts = []
            while wanted > 0:
                keys, places = self.source.draw(min(_DRAW, wanted), self.rng)
                parts.append((keys, places.astype(self._type)))
                wanted -= _DRAW
            self._add(np.concatenate([k for k, _ in parts]), np.concatenate([p for _, p in parts]))

    def _add(self, keys: IntArray, places: IntArray) -> None:
        _, first = np.unique(keys, return_index=True)
        first.sort()
        if len(self._keys):
            at = np.searchsorted(self._keys, keys[first]).clip(max=len(self._keys) - 1)
            first = first[self._keys[at] != keys[first]]
        self.places = np.concatenate([self.places, places[first]])
        self._keys = np.sort(np.concatenate([self._keys, keys[first]]))


def _source(chain: Chain, bounds: Bounds, n: int, rng: np.random.Generator) -> _Source | None:
    """Where to draw ``n`` codes from; None when no code keeps the bounds."""
    parts = _Boxed(chain, bounds, box.whole(chain.space), max(_LIST, _LIST_TIMES * n))
    parts.share = len(parts.draw(_TEST, rng)[0]) / _TEST
    if chain.space.size <= _LIST or parts.share >= _ENOUGH:
        return parts
    cut = cut_of(chain)
    if cut is not None and len(bounds.limited):
        return _halved(Halves(chain, bounds.limited, bounds, cut), bounds, n, rng)
    return _boxed(chain, bounds, n, rng)


# -- by halves ------------------------------------------------------------------------------------------------


class _Halved:
    def __init__(self, halves: Halves, bounds: Bounds, blocks: Blocks, most: float) -> None:
        self.halves, self.blocks, self.most, self.share = halves, blocks, most, 1.0
        self.bounds = Bounds(bounds.low[halves.kinds], bounds.high[halves.kinds])
        self.sizes = halves.sizes(blocks)

    def draw(self, n: int, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
        numbers = self._kept(*self.halves.drawn(self.blocks, self.sizes, n, rng))
        return numbers, self.halves.places(numbers)

    def every(self) -> Iterator[IntArray] | None:
        total = self.sizes.sum()
        return (
            None
            if total > self.most
            else (
                self.halves.places(self._kept(*self.halves.listed(self.blocks, a, a + _DRAW)))
                for a in range(0, int(total), _DRAW)
            )
        )

    def _kept(self, numbers: IntArray, costs: IntArray) -> IntArray:
        return numbers[self.bounds.hold(costs)]


def _halved(halves: Halves, bounds: Bounds, n: int, rng: np.random.Generator) -> _Source | None:
    """Blocks that hold all feasible codes, split until many of their codes are feasible, or few are left."""
    blocks, sure = halves.possible(bounds, halves.whole())
    stuck = np.zeros(len(blocks), dtype=bool)
    while len(blocks):
        source = _Halved(halves, bounds, blocks, max(_LIST, _LIST_TIMES * n))
        if source.sizes.sum() <= _LIST:
            return source
        source.share = len(source.draw(_TEST, rng)[0]) / _TEST
        open_ = np.flatnonzero(~sure & ~stuck)
        if source.share >= _ENOUGH or not len(open_) or len(blocks) > _MOST_BLOCKS:
            return source
        order = open_[np.argsort(-source.sizes[open_], kind="stable")]
        weight = np.cumsum(source.sizes[order])
        cut = order[: int(np.searchsorted(weight, 0.9 * weight[-1])) + 1][: _MOST_BLOCKS // 4]
        kept = np.ones(len(blocks), dtype=bool)
        kept[cut] = False
        children, small = halves.split(blocks.keep(cut))
        children, inside = halves.possible(bounds, children)
        blocks = blocks.keep(kept).join(small).join(children)
        stuck = np.concatenate([stuck[kept], np.ones(len(small), dtype=bool), np.zeros(len(children), dtype=bool)])
        sure = np.concatenate([sure[kept], np.zeros(len(small), dtype=bool), inside])
    return None


# -- by boxes -------------------------------------------------------------------------------------------------


class _Boxed:
    def __init__(self, chain: Chain, bounds: Bounds, boxes: box.Boxes, most: float) -> None:
        self.chain, self.bounds, self.boxes, self.most, self.share = chain, bounds, boxes, most, 1.0

    def draw(self, n: int, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
        return self._kept(box.drawn(self.boxes, n, rng))

    def every(self) -> Iterator[IntArray] | None:
        total = self.boxes.sizes.sum()
        return (
            None
            if total > self.most
            else (self._kept(box.listed(self.boxes, a, a + _DRAW))[1] for a in range(0, int(total), _DRAW))
        )

    def _kept(self, places: IntArray) -> tuple[IntArray, IntArray]:
        places = places[self.bounds.hold(self.chain.costs(places))]
        return row_keys(places).view(np.int64), places


def _boxed(chain: Chain, bounds: Bounds, n: int, rng: np.random.Generator) -> _Source | None:
    boxes = box.reachable(chain, bounds, box.whole(chain.space))
    while len(boxes):
        source = _Boxed(chain, bounds, boxes, max(_LIST, _LIST_TIMES * n))
        if boxes.sizes.sum() <= _LIST:
            return source
        source.share = len(source.draw(_TEST, rng)[0]) / _TEST
        if source.share >= _ENOUGH or len(boxes) > _MOST_BOXES:
            return source
        boxes = box.split(chain, bounds, boxes)
    return None

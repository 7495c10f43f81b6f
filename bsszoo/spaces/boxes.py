"""Boxes of codes, for spaces too large for ``halves``: ranges of places on every axis.

Costs grow with every entry of a code. So a box holds no feasible code when its least corner breaks an upper limit or
its greatest one stays below a lower limit. Such boxes are split off until what is left is tight enough. A latency
table need not grow with an entry, so it splits nothing off and is left to rejection.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bsszoo.codes.families import family_of
from bsszoo.spaces.chain import KINDS, Chain
from bsszoo.spaces.limits import Bounds
from bsszoo.spaces.space import Space

IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Boxes:
    """b boxes of codes: the least and the greatest place on each axis, both inclusive, each [b, d]."""

    low: IntArray
    high: IntArray

    def __len__(self) -> int:
        return len(self.low)

    @property
    def sizes(self) -> NDArray[np.float64]:
        """The number of codes of each box [b]; floats, since a space may hold 10^20."""
        return np.asarray((self.high - self.low + 1).astype(np.float64).prod(axis=1))

    def keep(self, which: NDArray[np.bool_]) -> Boxes:
        """Those of the boxes."""
        return Boxes(self.low[which], self.high[which])


def whole(space: Space) -> Boxes:
    """The space as boxes in which costs grow with every entry.

    It is one box, but for a ResNet-50 whose first width may be below the stem's: a block exactly as wide as the stem
    needs no projection, so it costs less than a narrower one.
    """
    low = np.zeros((1, len(space.axes)), dtype=np.int64)
    high = np.array([[len(axis) - 1 for axis in space.axes]])
    narrower = sum(width < space.stem_width for width in space.widths[0])
    if not narrower or narrower == len(space.widths[0]) or not family_of(space.family).loses_projection:
        return Boxes(low, high)
    below, rest = high.copy(), low.copy()
    below[0, 0], rest[0, 0] = narrower - 1, narrower
    return Boxes(np.concatenate([low, rest]), np.concatenate([below, high]))


def reachable(chain: Chain, bounds: Bounds, boxes: Boxes) -> Boxes:
    """The boxes that may hold a code within the bounds."""
    grows = len(KINDS)
    least = chain.costs(boxes.low)[:grows] <= bounds.high[:grows, None]
    most = chain.costs(boxes.high)[:grows] >= bounds.low[:grows, None]
    return boxes.keep(np.asarray((least & most).all(axis=0)))


def split(chain: Chain, bounds: Bounds, boxes: Boxes) -> Boxes:
    """The boxes with the larger half of them (at least 64) cut in two where it changes the cost most."""
    order = np.argsort(-boxes.sizes, kind="stable")
    cut = order[: max(64, len(boxes) // 2)]
    cut = cut[boxes.sizes[cut] > 1]
    low, high = boxes.low[cut], boxes.high[cut]
    d = low.shape[1]
    # Each axis alone at its greatest place, the others at their least: [b * d, d].
    raised = np.repeat(low, d, axis=0)
    axis = np.tile(np.arange(d), len(cut))
    raised[np.arange(len(raised)), axis] = high.ravel()
    base, more = chain.costs(low), chain.costs(raised)
    gain = sum(np.log(b.reshape(-1, d) / a[:, None]) for a, b in zip(base[:2], more[:2], strict=True))
    gain = np.where(high > low, gain + 1e-9, -1.0)
    at = np.argmax(gain, axis=1)
    each = np.arange(len(cut))
    middle = (low[each, at] + high[each, at]) // 2
    below, above = high.copy(), low.copy()
    below[each, at], above[each, at] = middle, middle + 1
    kept = np.ones(len(boxes), dtype=bool)
    kept[cut] = False
    halves = reachable(chain, bounds, Boxes(np.concatenate([low, above]), np.concatenate([below, high])))
    rest = boxes.keep(kept)
    return Boxes(np.concatenate([rest.low, halves.low]), np.concatenate([rest.high, halves.high]))


def drawn(boxes: Boxes, n: int, generator: np.random.Generator) -> IntArray:
    """The places [n, d] of codes drawn uniformly from the union of the boxes, which do not overlap."""
    sizes = boxes.sizes
    which = generator.choice(len(boxes), size=n, p=sizes / sizes.sum())
    return generator.integers(boxes.low[which], boxes.high[which] + 1)


def listed(boxes: Boxes, start: int, stop: int) -> IntArray:
    """The places [n, d] of the codes of the boxes, one box after the other, from number ``start`` to ``stop``."""
    ends = np.cumsum(boxes.sizes.astype(np.int64))
    left = np.arange(start, min(stop, int(ends[-1])))
    which = np.searchsorted(ends, left, side="right")
    left -= np.concatenate([[0], ends])[which]
    places = np.empty((len(which), boxes.low.shape[1]), dtype=np.int64)
    for j in range(places.shape[1]):
        width = (boxes.high[:, j] - boxes.low[:, j] + 1)[which]
        places[:, j] = boxes.low[which, j] + left % width
        left //= width
    return places

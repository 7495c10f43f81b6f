"""Drawing candidates: uniform among the codes of a space that keep all limits, also when few of very many do.

Costs grow with every entry of a code. So a box of codes (a range of places on every axis) holds no feasible code when
its least corner breaks an upper limit or its greatest one stays below a lower limit. Such boxes are split off until
what is left is tight enough; codes drawn uniformly from the rest and thrown away when outside the limits are uniform
among the feasible ones. When few codes are left all are listed, and none is missed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bsszoo.codes.cost import cost_array, depth_array
from bsszoo.codes.space import Space
from bsszoo.errors import BudgetError
from bsszoo.search.candidates import CandidateSet, first_of_each

IntArray = NDArray[np.int64]

# Drawn at once: large enough for numpy, small enough to stop soon after enough codes are found.
_DRAW: Final = 50_000
# Boxes are split on while fewer drawn codes than this are feasible, up to this many boxes (a second's work).
_ENOUGH: Final = 0.02
_MOST_BOXES: Final = 16_384
# With no more codes than this in all boxes, they are listed instead of drawn.
_LIST: Final = 400_000


@dataclass(frozen=True, slots=True)
class Limits:
    """Inclusive limits on a code; None where there is none. ``depth`` counts convolutions on the main path."""

    min_macs: int | None = None
    max_macs: int | None = None
    min_params: int | None = None
    max_params: int | None = None
    max_depth: int | None = None

    def __post_init__(self) -> None:
        for name in ("macs", "params"):
            low, high = getattr(self, f"min_{name}"), getattr(self, f"max_{name}")
            if (high is not None and high < 1) or (low is not None and high is not None and low > high):
                raise BudgetError(f"No code has from {low or 0} to {high} {name}.")

    @property
    def upper(self) -> Limits:
        """The upper limits alone."""
        return replace(self, min_macs=None, min_params=None)

    @property
    def lower(self) -> Limits:
        """The lower limits alone."""
        return Limits(min_macs=self.min_macs, min_params=self.min_params)

    def hold(self, space: Space, codes: IntArray) -> tuple[NDArray[np.bool_], IntArray, IntArray, IntArray]:
        """Which of the codes [n, d] are inside, and all their MACs, params and activations, each [n]."""
        costs = cost_array(space, codes)
        inside = np.ones(len(codes), dtype=bool)
        for values, low, high in ((costs.macs, self.min_macs, self.max_macs),
                                  (costs.params, self.min_params, self.max_params)):
            if low is not None:
                inside &= values >= low
            if high is not None:
                inside &= values <= high
        if self.max_depth is not None and inside.any():
            inside[inside] = depth_array(space, codes[inside]) <= self.max_depth
        return inside, *costs


@dataclass(frozen=True, eq=False)
class _Boxes:
    """b boxes of codes: the least and the greatest place on each axis, both inclusive, each [b, d]."""

    low: IntArray
    high: IntArray

    def __len__(self) -> int:
        return len(self.low)

    @property
    def sizes(self) -> NDArray[np.float64]:
        """The number of codes of each box [b]; floats, since a space may hold 10^12."""
        return np.asarray((self.high - self.low + 1).astype(np.float64).prod(axis=1))

    def keep(self, which: NDArray[np.bool_]) -> _Boxes:
        return _Boxes(self.low[which], self.high[which])


def draw_candidates(
    space: Space, limits: Limits, n: int, rng: np.random.Generator | int, *, max_draws: int = 20_000_000
) -> CandidateSet | None:
    """Up to ``n`` distinct codes drawn uniformly among those of the space within the limits.

    None when there are none: proven, unless ``max_draws`` ran out first. Fewer than ``n`` when there are no more, or
    when ``max_draws`` ran out.

    Args:
        space: Where to draw.
        limits: What a code has to keep.
        n: How many distinct codes to gather.
        rng: A seed or a numpy generator.
        max_draws: When to give up; about 2,000,000 codes are drawn a second.
    """
    generator = np.random.default_rng(rng)
    boxes = _reachable(space, limits, _whole(space))
    found: tuple[IntArray, ...] | None = None
    left = max_draws
    while len(boxes):
        if boxes.sizes.sum() <= _LIST:
            return _candidates(space, _listed(space, limits, boxes), n, generator)
        codes = _drawn(space, boxes, min(_DRAW, left), generator)
        left -= len(codes)
        inside, *costs = limits.hold(space, codes)
        fresh = (codes[inside], *(c[inside] for c in costs))
        found = fresh if found is None else tuple(np.concatenate(pair) for pair in zip(found, fresh, strict=True))
        keep = first_of_each(found[0])
        found = tuple(part[keep] for part in found)
        if len(keep) >= n or left <= 0:
            return _candidates(space, tuple(part[:n] for part in found), n, generator)
        if inside.mean() < _ENOUGH and len(boxes) < _MOST_BOXES:
            boxes = _split(space, limits, boxes)
    return None


def _candidates(
    space: Space, found: tuple[IntArray, ...], n: int, generator: np.random.Generator
) -> CandidateSet | None:
    if not len(found[0]):
        return None
    if len(found[0]) > n:
        chosen = generator.choice(len(found[0]), size=n, replace=False)
        found = tuple(part[chosen] for part in found)
    codes, macs, params, activations = found
    return CandidateSet(codes, names=space.entry_names, macs=macs, params=params, activations=activations,
                        bounds=space.bounds)


def _whole(space: Space) -> _Boxes:
    """The space as boxes in which costs grow with every entry.

    It is one box, but for a ResNet-50 whose first width may be below the stem's: a block exactly as wide as the stem
    needs no projection, so it costs less than a narrower one.
    """
    low = np.zeros((1, len(space.axes)), dtype=np.int64)
    high = np.array([[len(axis) - 1 for axis in space.axes]])
    narrower = sum(width < space.stem_width for width in space.widths[0])
    if not narrower or narrower == len(space.widths[0]) or space.template.bottlenecks == ():
        return _Boxes(low, high)
    below, rest = high.copy(), low.copy()
    below[0, 0], rest[0, 0] = narrower - 1, narrower
    return _Boxes(np.concatenate([low, rest]), np.concatenate([below, high]))


def _reachable(space: Space, limits: Limits, boxes: _Boxes) -> _Boxes:
    """The boxes that may hold a code within the limits."""
    least = limits.upper.hold(space, space.rows(boxes.low))[0]
    most = limits.lower.hold(space, space.rows(boxes.high))[0]
    return boxes.keep(least & most)


def _split(space: Space, limits: Limits, boxes: _Boxes) -> _Boxes:
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
    base, more = cost_array(space, space.rows(low)), cost_array(space, space.rows(raised))
    gain = sum(np.log(b.reshape(-1, d) / a[:, None]) for a, b in zip(base[:2], more[:2], strict=True))
    gain = np.where(high > low, gain + 1e-9, -1.0)
    at = np.argmax(gain, axis=1)
    each = np.arange(len(cut))
    middle = (low[each, at] + high[each, at]) // 2
    below, above = high.copy(), low.copy()
    below[each, at], above[each, at] = middle, middle + 1
    kept = np.ones(len(boxes), dtype=bool)
    kept[cut] = False
    halves = _reachable(space, limits, _Boxes(np.concatenate([low, above]), np.concatenate([below, high])))
    rest = boxes.keep(kept)
    return _Boxes(np.concatenate([rest.low, halves.low]), np.concatenate([rest.high, halves.high]))


def _drawn(space: Space, boxes: _Boxes, n: int, generator: np.random.Generator) -> IntArray:
    """``n`` codes [n, d] drawn uniformly from the union of the boxes, which do not overlap."""
    sizes = boxes.sizes
    which = generator.choice(len(boxes), size=n, p=sizes / sizes.sum())
    return space.rows(generator.integers(boxes.low[which], boxes.high[which] + 1))


def _listed(space: Space, limits: Limits, boxes: _Boxes) -> tuple[IntArray, ...]:
    """All codes of the boxes that keep the limits, with their costs."""
    sizes = boxes.sizes.astype(np.int64)
    which = np.repeat(np.arange(len(boxes)), sizes)
    left = np.arange(len(which)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    places = np.empty((len(which), boxes.low.shape[1]), dtype=np.int64)
    for j in range(places.shape[1]):
        width = (boxes.high[:, j] - boxes.low[:, j] + 1)[which]
        places[:, j] = boxes.low[which, j] + left % width
        left //= width
    codes = space.rows(places)
    inside, *costs = limits.hold(space, codes)
    return (codes[inside], *(c[inside] for c in costs))

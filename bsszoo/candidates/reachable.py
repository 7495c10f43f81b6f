"""What can be reached where limits contradict each other: which limit binds, and the nearest code beyond it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from bsszoo.candidates.feasible import draw_candidates
from bsszoo.candidates.latency import NS_PER_MS
from bsszoo.candidates.least import least
from bsszoo.candidates.limits import FIGURES, Bounds, Limits
from bsszoo.codes.chain import Chain
from bsszoo.codes.code import Code
from bsszoo.codes.space import Space


@dataclass(frozen=True)
class Nearest:
    """The nearest code found beyond one limit that keeps all others.

    Args:
        figure: What the limit is on: ``macs``, ``params``, ``activations``, ``depth`` or ``latency``.
        upper: Whether the limit is an upper one.
        limit: The limit; ms for a latency, else a count.
        value: The code's figure.
        bound: No code that keeps the other limits has less (for a lower limit: more).
        code: The code.
        alone: No code of the space keeps this limit, whatever the others are; they are not kept by ``code``.
    """

    figure: str
    upper: bool
    limit: float
    value: float
    bound: float
    code: Code
    alone: bool = False

    @property
    def exact(self) -> bool:
        """Whether no code that keeps the other limits is nearer."""
        return self.value == self.bound

    @property
    def proven(self) -> bool:
        """Whether no code keeps all limits."""
        return self.bound > self.limit if self.upper else self.bound < self.limit

    @property
    def stretch(self) -> float:
        """By which factor the limit has to give way; at most 1 where the code keeps it."""
        pair = (self.value, self.limit) if self.upper else (self.limit, self.value)
        return pair[0] / max(pair[1], 1e-9)


def contradiction(space: Space, limits: Limits, *, effort: float = 1.0) -> tuple[Nearest, ...]:
    """How each limit alone would have to give way for a code to keep all; the one that has to least stands first.

    Empty when a code keeps all limits, and where it could not be proven by that much work that none does. A limit that
    no code of the space keeps even alone stands by itself. A latency function's limit is left out: only asking it about
    each code could tell.

    Args:
        space: The codes.
        limits: The limits.
        effort: How much work to do, in multiples of the usual, which takes about half a second.

    Example:
        >>> space = Space.of("resnet18")
        >>> for n in contradiction(space, Limits(max_macs=400_000_000, min_params=9_000_000)):
        ...     print(n.figure, n.value, n.exact, n.code)
        macs 585107456.0 True resnet18_c32-32-64-256_l1-1-1-8
        params 4965192.0 True resnet18_c32-32-64-128_l1-1-2-16
    """
    chain = limits.chain(space)
    bounds = limits.bounds(chain)
    given = list(_given(bounds))
    low, high = chain.extremes()
    alone = [(k, upper) for k, upper in given if (low[k] > bounds.high[k] if upper else high[k] < bounds.low[k])]
    if alone:
        free = Bounds(np.full_like(bounds.low, -(2**62)), np.full_like(bounds.high, 2**62))
        ways = [_nearest(chain, bounds, free, k, upper, effort) for k, upper in alone]
        found = [way and replace(way, alone=True) for way in ways]
    else:
        found = []
        for k, upper in given:
            nearest = _nearest(chain, bounds, _relaxed(bounds, k, upper=upper), k, upper, effort)
            if nearest is not None and nearest.stretch <= 1:
                return ()
            found.append(nearest)
    known = [nearest for nearest in found if nearest is not None]
    if not any(nearest.proven for nearest in known):
        return ()
    return tuple(sorted(known, key=lambda nearest: nearest.stretch))


def least_latency(space: Space, limits: Limits, rng: np.random.Generator | int, asked: int = 500) -> Nearest | None:
    """The fastest of some codes that keep the other limits, as a latency function tells; None when none keeps them."""
    assert limits.max_latency is not None
    drawn = draw_candidates(space, replace(limits, max_latency=None), asked, rng)
    if drawn is None or drawn.latency is None:
        return None
    row = int(drawn.latency.argmin())
    return Nearest("latency", True, limits.max_latency, float(drawn.latency[row]), 0.0, space.code(drawn.codes[row]))


def _given(bounds: Bounds) -> Iterator[tuple[int, bool]]:
    """The limits given: (kind, whether it is the upper one)."""
    for k in bounds.limited:
        if bounds.high[k] < 2**61:
            yield int(k), True
        if bounds.low[k] > -(2**61):
            yield int(k), False


def _relaxed(bounds: Bounds, kind: int, *, upper: bool) -> Bounds:
    low, high = bounds.low.copy(), bounds.high.copy()
    if upper:
        high[kind] = 2**62
    else:
        low[kind] = -(2**62)
    return Bounds(low, high)


def _nearest(
    chain: Chain,
    bounds: Bounds,
    rest: Bounds,
    kind: int,
    upper: bool,  # noqa: FBT001
    effort: float,
) -> Nearest | None:
    """The code that keeps ``rest`` and has the least (most) of a kind, or any within its limit; None without one."""
    sign, limit = (1, int(bounds.high[kind])) if upper else (-1, int(bounds.low[kind]))
    found = least(chain, kind, sign, rest.low, rest.high, effort, sign * limit)
    if found.places is None:
        return None
    unit = NS_PER_MS if FIGURES[kind] == "latency" else 1
    code = chain.space.code(chain.space.rows(found.places)[0])
    value = int(chain.costs(found.places)[kind, 0])
    return Nearest(FIGURES[kind], upper, limit / unit, value / unit, sign * found.bound / unit, code)

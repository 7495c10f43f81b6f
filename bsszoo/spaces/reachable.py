"""What can be reached where limits contradict each other: which limit binds, and the nearest code beyond it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bsszoo.codes.code import Code
from bsszoo.spaces.chain import Chain
from bsszoo.spaces.feasible import draw_candidates
from bsszoo.spaces.limits import FIGURES, NS_PER_MS, Bounds, Limits
from bsszoo.spaces.space import Space


@dataclass(frozen=True)
class Nearest:
    """The nearest code beyond one limit that keeps all others.

    Args:
        figure: What the limit is on: ``macs``, ``params``, ``activations``, ``depth`` or ``latency``.
        upper: Whether the limit is an upper one.
        limit: The limit; ms for a latency, else a count.
        value: The code's figure.
        bound: No code that keeps the other limits has less (for a lower limit: more).
        code: The code.
        alone: No code of the space keeps this limit, whatever the others are; ``code`` may break them.
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
    """How each limit alone would have to give way for a code to keep all, the smallest change first.

    Empty when a code keeps all limits, and where that much work did not prove that none does. Limits that no code of
    the space keeps even alone are returned without the others. A latency function's limit is left out: it would have to
    be asked about each code.

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
    sides = list(_limited_sides(bounds))
    low, high = chain.extremes()
    alone = [(k, upper) for k, upper in sides if (low[k] > bounds.high[k] if upper else high[k] < bounds.low[k])]
    if alone:
        free = Bounds(np.full_like(bounds.low, -(2**62)), np.full_like(bounds.high, 2**62))
        ways = [_nearest(chain, bounds, free, k, upper, effort) for k, upper in alone]
        changes = [way and replace(way, alone=True) for way in ways]
    else:
        changes = []
        for k, upper in sides:
            nearest = _nearest(chain, bounds, _relaxed(bounds, k, upper=upper), k, upper, effort)
            if nearest is not None and nearest.stretch <= 1:
                return ()
            changes.append(nearest)
    reachable = [nearest for nearest in changes if nearest is not None]
    if not any(nearest.proven for nearest in reachable):
        return ()
    return tuple(sorted(reachable, key=lambda nearest: nearest.stretch))


def least_latency(space: Space, limits: Limits, rng: np.random.Generator | int, asked: int = 500) -> Nearest | None:
    """The fastest of some codes that keep the other limits, by a latency function; None when none keeps them."""
    assert limits.max_latency is not None
    drawn = draw_candidates(space, replace(limits, max_latency=None), asked, rng)
    if drawn is None or drawn.latency is None:
        return None
    row = int(drawn.latency.argmin())
    return Nearest("latency", True, limits.max_latency, float(drawn.latency[row]), 0.0, space.code(drawn.codes[row]))


def _limited_sides(bounds: Bounds) -> Iterator[tuple[int, bool]]:
    """The limits that are set: (kind, whether it is the upper one)."""
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
    best = least(chain, kind, sign, rest.low, rest.high, effort, sign * limit)
    if best.indices is None:
        return None
    unit = NS_PER_MS if FIGURES[kind] == "latency" else 1
    code = chain.space.code(chain.space.rows(best.indices)[0])
    value = int(chain.costs(best.indices)[kind, 0])
    return Nearest(FIGURES[kind], upper, limit / unit, value / unit, sign * best.bound / unit, code)


# The code of a space that has the least of one cost within limits on the others


IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

# Weights tried at once, those that are refined, and how far from them the next ones are, in powers of e.
_WEIGHTS: Final = 64
_REFINED: Final = 8
_SPREAD: Final = (4.0, 0.93)
# Codes from which neighbours are tried, and how many steps are taken at most.
_BEAM: Final = 48
_STEPS: Final = 24
# Work is counted, not timed, so that a question has one answer on every machine, busy or not. A larger effort takes as
# many times more of it: rounds of weights, each of which narrows them; codes that are judged; and sums of
# partial codes, of which the exact search with one limit has too many where widths go in steps of one channel.
_ROUNDS: Final = 24
_MOST_JUDGED: Final = 20_000
_MOST_SUMS: Final = 4_000_000


class _TooManyError(Exception):
    """The exact search would take more sums than it may."""


@dataclass(frozen=True, eq=False)
class Least:
    """``indices`` [1, d] of the best code, None without one; no code within the limits costs less than ``bound``."""

    indices: IntArray | None
    bound: float


def least(
    chain: Chain, kind: int, sign: int, low: IntArray, high: IntArray, effort: float = 1.0, stop: float = -np.inf
) -> Least:
    """The least of ``sign`` x one kind among the codes whose sums of all kinds lie between ``low`` and ``high``.

    Args:
        chain: The space's terms.
        kind: The row of the chain that shall be least, or with ``sign`` -1 most.
        sign: 1 or -1.
        low, high: Limits [kinds]; beyond 2^61 there is none.
        effort: How much work to do, in multiples of the usual.
        stop: A code with so little is good enough.
    """
    lower = [(k, -1, -low[k]) for k in range(len(low)) if low[k] > -(2**61)]
    upper = [(k, 1, high[k]) for k in range(len(high)) if high[k] < 2**61]
    # Where the cost grows with the others, limits that hold it down as well seldom matter: first without them.
    against = lower if sign > 0 else upper
    if len(against) <= 1:
        try:
            indices = _with_one_limit(chain, [(kind, sign, 2**62), *against], round(effort * _MOST_SUMS))
        except _TooManyError:
            return _with_weights(chain, kind, sign, lower + upper, effort, stop)
        if indices is None:
            return Least(None, np.inf)
        costs = chain.costs(indices)
        if ((costs[:, 0] >= low) & (costs[:, 0] <= high)).all():
            return Least(indices, float(sign * costs[kind, 0]))
    return _with_weights(chain, kind, sign, lower + upper, effort, stop)


# -- one limit ------------------------------------------------------------------------------------------------


def _with_one_limit(chain: Chain, rows: list[tuple[int, int, int]], most: int) -> IntArray | None:
    """The indices [1, d] of the code with the least of the first row, (kind, sign, limit), within the second, if any.

    A ``_TooManyError`` where it takes more than ``most`` sums.
    """
    kinds, signs, top = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
    terms = [term[kinds] * signs[:, None, None, None, None] for term in chain.terms]
    # The least that the stages after i add, for each width of stage i.
    left = [np.zeros((len(kinds), terms[-1].shape[2]), dtype=np.int64)]
    for term in reversed(terms[1:]):
        left.append((term.min(axis=(3, 4)) + left[-1][:, None, :]).min(axis=2))
    left.reverse()

    partial: list[list[IntArray]] = []  # of each stage and width: signed sums [m, k]
    origin: list[list[IntArray]] = []  # and (width before, its row, index of depth and third) [m, 3]
    for i, term in enumerate(terms):
        k, before, widths, _, _ = term.shape
        cells = term.reshape(k, before, widths, -1)
        partial.append([])
        origin.append([])
        for c in range(widths):
            sums, froms = [], []
            for p in range(before):
                prior = partial[i - 1][p] if i else np.zeros((1, k), dtype=np.int64)
                most -= len(prior) * cells.shape[3]
                if most < 0:
                    raise _TooManyError
                added = (prior[:, None, :] + cells[:, p, c].T[None, :, :]).reshape(-1, k)
                fits = np.flatnonzero((added + left[i][:, c] <= top).all(axis=1))
                fits = fits[_pareto_rows(added[fits])]
                prior_row, cell = np.divmod(fits, cells.shape[3])
                sums.append(added[fits])
                froms.append(np.stack([np.full(len(fits), p), prior_row, cell], axis=1))
            together = np.concatenate(sums)
            pareto = _pareto_rows(together)
            partial[i].append(together[pareto])
            origin[i].append(np.concatenate(froms)[pareto])
    ends = [int(rows[:, 0].min()) if len(rows) else 2**62 for rows in partial[-1]]
    width = int(np.argmin(ends))
    if ends[width] == 2**62:
        return None
    row = int(partial[-1][width][:, 0].argmin())
    path: list[tuple[int, int]] = []
    for i in range(len(terms) - 1, -1, -1):
        previous, previous_row, cell_index = (int(v) for v in origin[i][width][row])
        path.append((width, cell_index))
        width, row = previous, previous_row
    return _indices(chain, np.array([path[::-1]]))


def _pareto_rows(sums: IntArray) -> IntArray:
    """The Pareto optimal rows of ``sums`` [n, 1 or 2], smaller is better; of equal rows the first."""
    if len(sums) < 2:
        return np.arange(len(sums))
    order = np.lexsort(sums.T[::-1])
    if sums.shape[1] == 1:
        return order[:1]
    second = sums[order, 1]
    lowest = np.minimum.accumulate(second)
    return np.asarray(order[np.concatenate([[True], second[1:] < lowest[:-1]])])


# -- several limits -------------------------------------------------------------------------------------------


def _with_weights(
    chain: Chain, kind: int, sign: int, rows: list[tuple[int, int, int]], effort: float, stop: float
) -> Least:
    kinds, signs, top = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
    unit = np.maximum(np.abs(top), 1).astype(np.float64)
    lowest, most = (side[kind] for side in chain.extremes())
    size = max(abs(float(lowest)), abs(float(most)), 1.0)
    # Everything in shares of its limit, so that weights near 1 count a per cent of each alike.
    terms = [
        np.concatenate([sign * term[kind][None] / size, term[kinds] * (signs / unit)[:, None, None, None, None]])
        for term in chain.terms
    ]
    rng = np.random.default_rng(0)
    best, best_value, bound = None, np.inf, -np.inf
    centres, spread = np.zeros((1, len(rows))), _SPREAD[0]
    rounds, judged = max(1, round(effort * _ROUNDS)), effort * _MOST_JUDGED
    promising: list[IntArray] = []

    def evaluate(indices: IntArray, weights: FloatArray) -> FloatArray:
        """The cost of each code plus weighted penalties for broken limits; updates the best code within the limits."""
        nonlocal best, best_value
        costs = chain.costs(indices)
        broken = np.maximum(costs[kinds].T * signs - top, 0) / unit
        values = np.where(broken.any(axis=1), np.inf, sign * costs[kind])
        if values.min() < best_value:
            at = int(values.argmin())
            best, best_value = indices[at : at + 1], float(values[at])
        return np.asarray(sign * costs[kind] / size + broken @ weights)

    for _ in range(rounds):
        if spread <= 0.01 or best_value <= stop:
            break
        near = centres[rng.integers(len(centres), size=_WEIGHTS)]
        logs = near + spread * rng.standard_normal(near.shape)
        # Most limits do not matter for the best code: their weights shall get to nothing.
        logs[rng.random(logs.shape) < 0.1] = -30.0
        sums, indices = _least_weighted(chain, terms, np.concatenate([np.ones((_WEIGHTS, 1)), np.exp(logs)], axis=1))
        bounds = (sums - (np.exp(logs) * (top / unit)).sum(axis=1)) * size
        bound = max(bound, float(bounds.max()))
        evaluate(indices, np.exp(logs[0]))
        promising.append(indices[np.argsort(-bounds)[:_REFINED]])
        centres = np.concatenate([logs[np.argsort(-bounds)[:_REFINED]], centres[:2]])
        spread *= _SPREAD[1]
    # From the codes of the best weights on to better neighbours; what breaks a limit costs more than it can gain.
    weights = 1.0 + 4.0 * np.exp(centres[0])
    beam = np.concatenate(promising[-6:])
    for _ in range(_STEPS):
        # Without any code within the limits there is no answer, so the search for one continues for longer.
        if best_value <= stop or judged < (0 if best is not None else -effort * _MOST_JUDGED):
            break
        tried = np.unique(np.concatenate([beam, _neighbours(chain, beam)]), axis=0)
        penalised = evaluate(tried, weights)
        judged -= len(tried)
        after = tried[np.argsort(penalised, kind="stable")[:_BEAM]]
        if after.shape == beam.shape and (after == beam).all():
            break
        beam = after
    # The bound is a sum of floats: a millionth of its size is left for their rounding, and costs are whole numbers.
    return Least(best, min(float(np.ceil(bound - 1e-9 * size)), best_value))


def _neighbours(chain: Chain, indices: IntArray) -> IntArray:
    """All codes that differ from one of these [b, d] in one entry."""
    out = []
    for j, axis in enumerate(chain.space.axes):
        each = np.repeat(indices, len(axis), axis=0)
        each[:, j] = np.tile(np.arange(len(axis)), len(indices))
        out.append(each)
    return np.concatenate(out)


def _least_weighted(chain: Chain, terms: list[FloatArray], weights: FloatArray) -> tuple[FloatArray, IntArray]:
    """For each of b weightings [b, k] the least weighted sum over all codes [b] and the indices of its code [b, d]."""
    b = len(weights)
    ends, picks, froms = np.zeros((b, 1)), [], []
    for term in terms:
        k, before, widths = term.shape[:3]
        weighted = (weights @ term.reshape(k, -1)).reshape(b, before, widths, -1)
        picks.append(weighted.argmin(axis=3))
        total = ends[:, :, None] + weighted.min(axis=3)
        froms.append(total.argmin(axis=1))
        ends = total.min(axis=1)
    each = np.arange(b)
    width = ends.argmin(axis=1)
    cells = np.zeros((b, len(terms), 2), dtype=np.int64)
    for i in range(len(terms) - 1, -1, -1):
        before_width = froms[i][each, width]
        cells[:, i, 0], cells[:, i, 1] = width, picks[i][each, before_width, width]
        width = before_width
    return ends.min(axis=1), _indices(chain, cells)


def _indices(chain: Chain, cells: IntArray) -> IntArray:
    """Indices [b, d] of codes from (width, index of depth and third) of each stage, [b, stages, 2]."""
    stages = len(chain.terms)
    out = np.zeros((len(cells), len(chain.space.axes)), dtype=np.int64)
    for i, term in enumerate(chain.terms):
        out[:, i] = cells[:, i, 0]
        out[:, stages + i], third = np.divmod(cells[:, i, 1], term.shape[4])
        if chain.space.thirds:
            out[:, 2 * stages + i] = third
    return out

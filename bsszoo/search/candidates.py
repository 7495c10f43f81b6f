"""``CandidateSet``: the codes a search chooses from (the paper's Omega), and how they are drawn under limits.

Knowing the feasible codes exactly, before any network is built, is what lets the sampler never suggest one that
breaks the budget. A set is built here from a ``Space`` and ``Limits``, or by a user from any integer array.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bsszoo.codes.cost import cost_array, depth_array
from bsszoo.codes.space import Space
from bsszoo.errors import SpaceError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

IntArray = NDArray[np.int64]

# Drawn at once: large enough for numpy, small enough to stop soon after enough codes are found.
_DRAW = 100_000


@dataclass(frozen=True, eq=False)
class CandidateSet:
    """Distinct codes with their costs, row by row.

    Args:
        codes: Integers of shape [n, d]; repeated rows are dropped, the first one stays.
        names: The d entry names, which become the Optuna parameters' names; ``x0, x1, ..`` by default.
        macs: Multiply-adds of each code, shape [n], or None when the set knows no costs.
        params: Parameters of each code, shape [n], or None.
        activations: Activations of each code, shape [n], or None.
        bounds: The box of each entry, by default the codes' own least and largest. Machines that share a study need
            the same box, so a set drawn from a space takes the space's.

    Raises:
        SpaceError: The arrays disagree in shape, hold no code or no integers.

    Example:
        >>> import numpy as np
        >>> tiny = CandidateSet(np.array([[16, 1], [16, 2], [32, 1], [16, 2]]), names=("width", "depth"))
        >>> len(tiny), tiny.index({"width": 32, "depth": 1}), tiny.index({"width": 32, "depth": 2})
        (3, 2, None)
    """

    codes: IntArray
    names: tuple[str, ...] = ()
    macs: IntArray | None = None
    params: IntArray | None = None
    activations: IntArray | None = None
    bounds: tuple[tuple[int, int], ...] = ()
    _order: IntArray = field(init=False, repr=False)
    _keys: NDArray[np.uint64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        codes = np.asarray(self.codes)
        if codes.ndim != 2 or not len(codes) or not codes.shape[1] or not np.issubdtype(codes.dtype, np.integer):
            raise SpaceError(f"A candidate set takes integers of shape [n, d] with n and d at least 1; given was "
                             f"{codes.dtype} of shape {list(codes.shape)}.")
        d = codes.shape[1]
        names = tuple(self.names) or tuple(f"x{j}" for j in range(d))
        if len(names) != d or len(set(names)) != d:
            raise SpaceError(f"A candidate set with {d} entries takes {d} distinct names; given were {names}.")
        columns = {c: getattr(self, c) for c in ("macs", "params", "activations")}
        for column, values in columns.items():
            if values is not None and np.shape(values) != (len(codes),):
                raise SpaceError(f"{column} has the shape {list(np.shape(values))}; it takes one figure for each of "
                                 f"the {len(codes)} codes.")
        codes = codes.astype(np.int64)
        keep = _first_of_each(codes)
        codes = np.ascontiguousarray(codes[keep])
        codes.flags.writeable = False
        bounds = tuple(self.bounds) or tuple(
            (int(a), int(b)) for a, b in zip(codes.min(axis=0), codes.max(axis=0), strict=True)
        )
        if len(bounds) != d or any(low > codes[:, j].min() or high < codes[:, j].max()
                                   for j, (low, high) in enumerate(bounds)):
            raise SpaceError(f"The bounds {bounds} do not hold all codes of the set.")
        keys = _keys_of(codes)
        order = np.argsort(keys, kind="stable")
        for name, value in {"codes": codes, "names": names, "bounds": bounds, "_order": order,
                            "_keys": keys[order]}.items():
            object.__setattr__(self, name, value)
        for column, values in columns.items():
            if values is not None:
                object.__setattr__(self, column, np.asarray(values, dtype=np.int64)[keep])

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """One Optuna integer distribution for each entry, for ``study.ask(fixed_distributions=...)``."""
        from optuna.distributions import IntDistribution

        return {n: IntDistribution(low, high) for n, (low, high) in zip(self.names, self.bounds, strict=True)}

    def index(self, params: Mapping[str, Any]) -> int | None:
        """The row of the code with these entries (``trial.params``), or None when the set does not hold it."""
        try:
            row = np.array([[int(params[n]) for n in self.names]], dtype=np.int64)
        except KeyError:
            return None
        return self.row(row[0])

    def row(self, code: Sequence[int] | IntArray) -> int | None:
        """The row that holds this code [d], or None."""
        wanted = np.asarray(code, dtype=np.int64)
        key = _keys_of(wanted[None, :])[0]
        low, high = np.searchsorted(self._keys, key, "left"), np.searchsorted(self._keys, key, "right")
        for i in self._order[low:high]:
            if np.array_equal(self.codes[i], wanted):
                return int(i)
        return None


@dataclass(frozen=True, slots=True)
class Limits:
    """Inclusive limits on a code; None where there is none. ``depth`` counts convolutions on the main path."""

    min_macs: int | None = None
    max_macs: int | None = None
    min_params: int | None = None
    max_params: int | None = None
    max_depth: int | None = None

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


def within_reach(space: Space, limits: Limits) -> Space | None:
    """The space without the values that no code within the limits can have; None when it holds no such code.

    Costs grow with every entry. So a value is out when the code with it and the least of all else breaks an upper
    limit, or the one with it and the most of all else stays below a lower one. Repeated until nothing changes: what is
    left holds every code within the limits, and rejection from it wastes far fewer draws.
    """
    while True:
        axes = space.axes
        d = len(axes)
        values = [(j, k) for j, axis in enumerate(axes) for k in range(len(axis))]
        least, most = np.zeros((len(values), d), dtype=np.int64), np.empty((len(values), d), dtype=np.int64)
        most[:] = [len(axis) - 1 for axis in axes]
        for i, (j, k) in enumerate(values):
            least[i, j] = most[i, j] = k
        inside = limits.upper.hold(space, space.rows(least))[0] & limits.lower.hold(space, space.rows(most))[0]
        kept = [[axis[k] for i, (at, k) in enumerate(values) if at == j and inside[i]] for j, axis in enumerate(axes)]
        if not all(kept):
            return None
        if inside.all():
            return space
        space = space.replace(dict(zip(space.entry_names, kept, strict=True)))


def draw_candidates(
    space: Space, limits: Limits, n: int, rng: np.random.Generator | int, *, max_draws: int = 20_000_000
) -> CandidateSet | None:
    """Up to ``n`` distinct codes drawn uniformly among those of the space within the limits, or None when none is met.

    Rejection: values that no feasible code has are left out (``within_reach``), codes are drawn uniformly from the rest
    and those outside the limits thrown away, so what stays is uniform among the feasible ones. It ends after
    ``max_draws`` codes (about 2,000,000 a second), or after 16 times the number of codes left when that is less; a
    small space then is met almost whole.

    Args:
        space: Where to draw.
        limits: What a code has to keep.
        n: How many distinct codes to gather.
        rng: A seed or a numpy generator.
        max_draws: When to give up.
    """
    generator = np.random.default_rng(rng)
    reach = within_reach(space, limits)
    if reach is None:
        return None
    left = min(max_draws, max(16 * reach.size, _DRAW))
    found: list[tuple[IntArray, ...]] = []
    distinct = 0
    while left > 0 and distinct < n:
        codes = reach.sample(min(_DRAW, left), generator)
        left -= len(codes)
        inside, *costs = limits.hold(space, codes)
        found.append((codes[inside], *(c[inside] for c in costs)))
        merged = tuple(np.concatenate(parts) for parts in zip(*found, strict=True))
        keep = _first_of_each(merged[0])
        found = [tuple(part[keep] for part in merged)]
        distinct = len(keep)
    if not distinct:
        return None
    codes, macs, params, activations = (part[:n] for part in found[0])
    return CandidateSet(codes, names=space.entry_names, macs=macs, params=params, activations=activations,
                        bounds=space.bounds)


def _keys_of(codes: IntArray) -> NDArray[np.uint64]:
    """A 64-bit key for each row: equal rows have equal keys, different ones almost never do (and are compared)."""
    multipliers = np.random.default_rng(2010).integers(1, 2**63, size=codes.shape[1], dtype=np.uint64) | np.uint64(1)
    mixed = (codes.astype(np.uint64) * multipliers).sum(axis=1, dtype=np.uint64)
    return np.asarray((mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9))


def _first_of_each(codes: IntArray) -> IntArray:
    """The rows, in their order, that no earlier row repeats."""
    if not len(codes):
        return np.empty(0, dtype=np.int64)
    keys = _keys_of(codes)
    order = np.argsort(keys, kind="stable")
    same = (keys[order][1:] == keys[order][:-1]) & (codes[order][1:] == codes[order][:-1]).all(axis=1)
    return np.sort(order[np.concatenate([[True], ~same])])

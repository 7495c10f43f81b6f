"""``CandidateSet``: the codes a search chooses from (the paper's Omega).

Knowing the feasible codes exactly, before any network is built, is what lets the sampler never suggest one that
breaks the budget. ``feasible.py`` draws a set from a space under limits; a user makes one from any integer array.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bsszoo.errors import SpaceError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

IntArray = NDArray[np.int64]

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
        keep = first_of_each(codes)
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

    def __repr__(self) -> str:
        known = [c for c in ("macs", "params", "activations") if getattr(self, c) is not None]
        return f"CandidateSet({len(self)} codes of {', '.join(self.names)}; known: {', '.join(known) or 'no costs'})"

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """One Optuna integer distribution for each entry, for ``study.ask(fixed_distributions=...)``."""
        from optuna.distributions import IntDistribution

        return {n: IntDistribution(low, high) for n, (low, high) in zip(self.names, self.bounds, strict=True)}

    def index(self, params: Mapping[str, Any]) -> int | None:
        """The row of the code with these entries (``trial.params``), or None when the set does not hold it."""
        if not self.is_whole(params):
            return None
        return self.row([int(params[n]) for n in self.names])

    def is_whole(self, params: Mapping[str, Any]) -> bool:
        """Whether these parameters of a trial hold every entry: a process killed in an ask leaves some out."""
        return all(name in params for name in self.names)

    def row(self, code: Sequence[int] | IntArray) -> int | None:
        """The row that holds this code [d], or None."""
        wanted = np.asarray(code, dtype=np.int64)
        key = _keys_of(wanted[None, :])[0]
        low, high = np.searchsorted(self._keys, key, "left"), np.searchsorted(self._keys, key, "right")
        for i in self._order[low:high]:
            if np.array_equal(self.codes[i], wanted):
                return int(i)
        return None


def _keys_of(codes: IntArray) -> NDArray[np.uint64]:
    """A 64-bit key for each row: equal rows have equal keys, different ones almost never do (and are compared)."""
    multipliers = np.random.default_rng(2010).integers(1, 2**63, size=codes.shape[1], dtype=np.uint64) | np.uint64(1)
    mixed = (codes.astype(np.uint64) * multipliers).sum(axis=1, dtype=np.uint64)
    return np.asarray((mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9))


def first_of_each(codes: IntArray) -> IntArray:
    """The rows, in their order, that no earlier row repeats."""
    if not len(codes):
        return np.empty(0, dtype=np.int64)
    keys = _keys_of(codes)
    order = np.argsort(keys, kind="stable")
    same = (keys[order][1:] == keys[order][:-1]) & (codes[order][1:] == codes[order][:-1]).all(axis=1)
    return np.sort(order[np.concatenate([[True], ~same])])

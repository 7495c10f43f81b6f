"""``CandidateSet``: the codes a search chooses from (the paper's Omega), and which of them are maximal.

The feasible codes are exact and drawn before any network is built, so the sampler never suggests one that breaks the
budget. ``feasible.py`` draws a set from a space under limits; a user makes one from any integer array.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from bsszoo.errors import SpaceError
from bsszoo.spaces.chain import Chain, indices_of
from bsszoo.spaces.limits import Limits
from bsszoo.spaces.space import Space

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import BaseTrial

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_COLUMNS: Final = {"macs": np.int64, "params": np.int64, "activations": np.int64, "latency": np.float64}


@dataclass(frozen=True, eq=False)
class CandidateSet:
    """Distinct codes with their costs, row by row.

    Args:
        codes: Integers of shape [n, d]; repeated rows are dropped, the first one stays. A read-only int64 array is
            taken as it is, any other one is copied.
        names: The d entry names, which become the Optuna parameters' names; ``x0, x1, ..`` by default.
        macs: Multiply-adds of each code, shape [n], or None for a set without costs.
        params: Parameters of each code, shape [n], or None.
        activations: Activations of each code, shape [n], or None.
        latency: Milliseconds of each code, shape [n], or None.
        bounds: The box of each entry, by default the codes' own least and largest. Machines that share a study need
            the same box, so a set drawn from a space takes the space's.
        growth: Decides which codes are ``maximal``; by default the set itself. A set drawn from a space is a sample,
            so ``draw_candidates`` gives it the space.

    Raises:
        SpaceError: The arrays disagree in shape, hold no code or no integers.

    Example:
        >>> import numpy as np
        >>> tiny = CandidateSet(np.array([[16, 1], [16, 2], [32, 1], [16, 2]]), names=("width", "depth"))
        >>> len(tiny), tiny.index({"width": 32, "depth": 1}), tiny.index({"width": 32, "depth": 2})
        (3, 2, None)
        >>> tiny.maximal
        array([False,  True,  True])
    """

    codes: IntArray
    names: tuple[str, ...] = ()
    macs: IntArray | None = None
    params: IntArray | None = None
    activations: IntArray | None = None
    bounds: tuple[tuple[int, int], ...] = ()
    latency: FloatArray | None = None
    growth: Growth | None = None
    _order: IntArray = field(init=False, repr=False)
    _keys: NDArray[np.uint64] = field(init=False, repr=False)
    _maximal: BoolArray | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        codes = np.asarray(self.codes)
        if codes.ndim != 2 or not len(codes) or not codes.shape[1] or not np.issubdtype(codes.dtype, np.integer):
            raise SpaceError(
                f"A candidate set takes integers of shape [n, d] with n and d at least 1; got "
                f"{codes.dtype} of shape {list(codes.shape)}."
            )
        d = codes.shape[1]
        names = tuple(self.names) or tuple(f"x{j}" for j in range(d))
        if len(names) != d or len(set(names)) != d:
            raise SpaceError(f"A candidate set with {d} entries takes {d} distinct names; got {names}.")
        columns = {c: getattr(self, c) for c in _COLUMNS}
        for column, values in columns.items():
            if values is not None and np.shape(values) != (len(codes),):
                raise SpaceError(
                    f"{column} has the shape {list(np.shape(values))}; it takes one value for each of "
                    f"the {len(codes)} codes."
                )
        keys = row_keys(codes)
        order = np.argsort(keys, kind="stable")
        distinct = _first_rows(codes, keys, order)
        if len(distinct) < len(codes):
            codes = codes[distinct]
            keys = keys[distinct]
            order = np.argsort(keys, kind="stable")
        # A copy, since nobody else may change the set, unless nobody can.
        read_only = codes.dtype == np.int64 and codes.flags.c_contiguous and not codes.flags.writeable
        codes = codes if read_only else np.array(codes, dtype=np.int64, order="C")
        codes.flags.writeable = False
        lows, highs = codes.min(axis=0), codes.max(axis=0)
        bounds = tuple(self.bounds) or tuple((int(a), int(b)) for a, b in zip(lows, highs, strict=True))
        if len(bounds) != d or any(low > lows[j] or high < highs[j] for j, (low, high) in enumerate(bounds)):
            raise SpaceError(f"The bounds {bounds} do not hold all codes of the set.")
        for name, value in {
            "codes": codes,
            "names": names,
            "bounds": bounds,
            "_order": order,
            "_keys": keys[order],
        }.items():
            object.__setattr__(self, name, value)
        for column, values in columns.items():
            if values is not None:
                object.__setattr__(self, column, _column(column, values)[distinct])

    def __repr__(self) -> str:
        costs = [c for c in _COLUMNS if getattr(self, c) is not None]
        return f"CandidateSet({len(self)} codes of {', '.join(self.names)}; costs: {', '.join(costs) or 'none'})"

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def maximal(self) -> BoolArray:
        """Which codes cannot grow in any one entry, bool [n]; counted when first asked for.

        In a set drawn from a space: no entry can grow to a larger value of the space within the upper limits, whether
        or not the grown code was drawn (``GrowthInSpace``). In any other: no code of the set has the same entries but
        one that is larger (``GrowthInSet``), since a list is taken as all that the budget allows.
        """
        if self._maximal is None:
            growth: Growth = GrowthInSet(self.codes) if self.growth is None else self.growth
            maximal = np.asarray(growth.maximal(self.codes), dtype=bool)
            maximal.flags.writeable = False
            object.__setattr__(self, "_maximal", maximal)
        assert self._maximal is not None
        return self._maximal

    def without_twins(self, key: Sequence[Any] | NDArray[Any]) -> CandidateSet:
        """The set with the first code of each network only, where codes with equal keys [n] build the same network.

        Its ``maximal`` still counts what was left out: a network is maximal when none of its codes can grow to a code
        of another network.

        Raises:
            SpaceError: There is not one key for each code.

        Example:
            >>> three = CandidateSet(np.array([[1, 3], [2, 1], [2, 2]]), macs=np.array([5, 7, 7]))
            >>> three.without_twins(["a", "b", "b"]).codes.tolist()
            [[1, 3], [2, 1]]
        """
        labels = np.asarray(key)
        if labels.shape != (len(self),):
            raise SpaceError(
                f"key has the shape {list(labels.shape)}; it takes one label for each of the {len(self)} codes."
            )
        _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
        rows = np.sort(first)
        growth = self.growth
        if growth is None:
            growth = GrowthInSet(self.codes, inverse.reshape(-1))
        columns = {c: values[rows] for c in _COLUMNS if (values := getattr(self, c)) is not None}
        return CandidateSet(self.codes[rows], names=self.names, bounds=self.bounds, growth=growth, **columns)

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """One Optuna integer distribution for each entry, for ``study.ask(fixed_distributions=...)``."""
        from optuna.distributions import IntDistribution

        return {n: IntDistribution(low, high) for n, (low, high) in zip(self.names, self.bounds, strict=True)}

    def suggest(self, trial: BaseTrial) -> dict[str, int]:
        """Ask a trial of an Optuna study for every entry: its code by the names of the entries.

        Where ``AutoBSSSampler`` samples the study that is a code of the set; of other samplers it is any one within the
        bounds, since they know the ranges only.

        Example:
            >>> import optuna
            >>> pairs = CandidateSet(np.array([[16, 2], [32, 1]]), names=("width", "depth"))
            >>> pairs.suggest(optuna.trial.FixedTrial({"width": 32, "depth": 1}))
            {'width': 32, 'depth': 1}
        """
        return {n: trial.suggest_int(n, low, high) for n, (low, high) in zip(self.names, self.bounds, strict=True)}

    def index(self, params: Mapping[str, Any]) -> int | None:
        """The row of the code with these entries (``trial.params``), or None when the set does not hold it."""
        if not is_whole(params, self.names):
            return None
        return self.row([int(params[n]) for n in self.names])

    def row(self, code: Sequence[int] | IntArray) -> int | None:
        """The row that holds this code [d], or None."""
        wanted = np.asarray(code, dtype=np.int64)
        key = row_keys(wanted[None, :])[0]
        low, high = np.searchsorted(self._keys, key, "left"), np.searchsorted(self._keys, key, "right")
        for i in self._order[low:high]:
            if np.array_equal(self.codes[i], wanted):
                return int(i)
        return None

    def rows(self, codes: IntArray) -> IntArray:
        """The row that holds each of the codes [q, d], -1 where the set does not hold it; shape [q]."""
        wanted = np.asarray(codes, dtype=np.int64).reshape(-1, self.codes.shape[1])
        keys = row_keys(wanted)
        positions = np.minimum(np.searchsorted(self._keys, keys), len(self) - 1)
        rows = self._order[positions]
        rows = np.where((self.codes[rows] == wanted).all(axis=1), rows, -1)
        for i in np.flatnonzero((rows < 0) & (self._keys[positions] == keys)):
            row = self.row(wanted[i])  # another code with the same key comes first
            rows[i] = -1 if row is None else row
        return np.asarray(rows, dtype=np.int64)


def is_whole(params: Mapping[str, Any], names: Sequence[str]) -> bool:
    """Whether these parameters of a trial hold every entry: a process killed in an ask leaves some out."""
    return all(name in params for name in names)


def _column(name: str, values: Any) -> NDArray[Any]:
    """A column of costs: int64 for whole numbers, float64 for costs in another unit (millions, say)."""
    column = np.asarray(values)
    if not np.issubdtype(column.dtype, np.number) or not np.isfinite(column).all():
        raise SpaceError(f"{name} holds values that are not finite numbers; leave out an unknown cost (None).")
    if _COLUMNS[name] is np.int64 and (column == np.rint(column)).all():
        return column.astype(np.int64)
    return column.astype(np.float64)


@lru_cache
def _multipliers(d: int) -> NDArray[np.uint64]:
    return np.asarray(np.random.default_rng(2010).integers(1, 2**63, size=d, dtype=np.uint64) | np.uint64(1))


def row_keys(codes: NDArray[Any]) -> NDArray[np.uint64]:
    """A 64-bit key for each row: equal rows have equal keys, different ones almost never do (and are compared)."""
    mixed = np.zeros(len(codes), dtype=np.uint64)
    # Column by column: the products of all at once take twice the set's memory.
    for j, multiplier in enumerate(_multipliers(codes.shape[1])):
        mixed += codes[:, j].astype(np.uint64) * multiplier
    return np.asarray((mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9))


def _first_rows(codes: NDArray[Any], keys: NDArray[np.uint64], order: IntArray) -> IntArray:
    """The rows, in their order, that no earlier row repeats; ``order`` sorts their keys stably."""
    equal = np.flatnonzero(keys[order[1:]] == keys[order[:-1]])
    same = (codes[order[equal + 1]] == codes[order[equal]]).all(axis=1)
    repeated = np.zeros(len(codes), dtype=bool)
    repeated[order[equal[same] + 1]] = True
    return np.flatnonzero(~repeated)


# Maximal codes: those none of whose entries can grow within the budget


# Codes judged at once: few enough that the columns of a draw stay in the caches.
_CHUNK: Final = 65_536


class Growth(Protocol):
    """Decides which codes of a set of candidates are maximal."""

    def maximal(self, codes: IntArray) -> BoolArray:
        """Which of the codes [n, d] cannot grow in any one entry, [n]."""
        ...


@dataclass(frozen=True)
class GrowthInSpace:
    """Codes drawn from a space: an entry grows to a larger value on its axis, all others stay the same.

    The grown code has to keep the upper limits; the lower ones it keeps. A ResNet-50 width grows with its bottleneck,
    whose axis is the ratio of the two. Where costs grow with every entry only the next value is tried; with a latency
    limit, or where a projection falls away between equal widths, every larger one is.
    """

    space: Space
    limits: Limits

    def maximal(self, codes: IntArray) -> BoolArray:
        """Which of the codes [n, d] of the space cannot grow, [n]."""
        chain = self.limits.chain(self.space)
        out = np.empty(len(codes), dtype=bool)
        for start in range(0, len(codes), _CHUNK):
            out[start : start + _CHUNK] = self._chunk(chain, indices_of(self.space, codes[start : start + _CHUNK]))
        return out

    def _chunk(self, chain: Chain, indices: IntArray) -> BoolArray:
        stages, lengths = len(chain.terms), [len(axis) for axis in self.space.axes]
        high = self.limits.bounds(chain).high
        costs = chain.costs(indices)
        grows = self.limits.max_latency is None
        maximal = np.ones(len(indices), dtype=bool)
        falls = [chain.falls(stage) for stage in range(stages)]
        for j, length in enumerate(lengths):
            stage = j % stages
            # A stage as wide as what is before it can cost less than a narrower one: its projection falls away.
            monotone = grows and not (j < stages and falls[j])
            touched = [stage, *([stage + 1] if j < stages and stage + 1 < stages else [])]
            for step in range(1, 2 if monotone else length):
                rows = np.flatnonzero(maximal & (indices[:, j] + step < length))
                if not len(rows):
                    break
                grown = indices[rows]
                old = _terms(chain, touched, grown)
                grown[:, j] += step
                new = costs[:, rows] + _terms(chain, touched, grown) - old
                fits = np.asarray((new <= high[:, None]).all(axis=0))
                if self.limits.function is not None and fits.any():
                    which = np.flatnonzero(fits)
                    fits[which] = self.limits.keeps_latency(self.space, self.space.rows(grown[which]))[0]
                maximal[rows[fits]] = False
        return maximal


def _terms(chain: Chain, stages: list[int], indices: IntArray) -> IntArray:
    """What these stages add to each kind, [kinds, n]."""
    total: Any = 0
    for i in stages:
        total = total + chain.terms[i].reshape(len(chain.kinds), -1)[:, chain.cells(i, indices)]
    return np.asarray(total)


@dataclass(frozen=True, eq=False)
class GrowthInSet:
    """Codes of a list: one can grow where another one has the same entries but one that is larger.

    Args:
        codes: The list, distinct rows [n, d].
        labels: Equal labels [n] mark codes of the same network; by default all differ. A network can grow where any of
            its codes can grow to a code of another network.
    """

    codes: IntArray
    labels: IntArray | None = None

    def maximal(self, codes: IntArray) -> BoolArray:
        """Which of the codes [n, d], all of the list, cannot grow, [n]."""
        can_grow = self._can_grow()
        if self.labels is not None:
            grows = np.zeros(int(self.labels.max()) + 1, dtype=bool)
            grows[self.labels[can_grow]] = True
            can_grow = grows[self.labels]
        if codes is self.codes:
            return ~can_grow
        ranks = _ranks(np.concatenate([self.codes, codes]))
        keys = _numbers(ranks)
        list_keys = keys[: len(self.codes)]
        order = np.argsort(list_keys)
        return np.asarray(~can_grow[order[np.searchsorted(list_keys[order], keys[len(self.codes) :])]])

    def _can_grow(self) -> BoolArray:
        ranks = _ranks(self.codes)
        grows = np.zeros(len(ranks), dtype=bool)
        counts = [int(column.max()) + 1 for column in ranks.T]
        # One number for each row, if those of all columns and once more the longest one fit 63 bits.
        weights = [math.prod(counts[j + 1 :]) for j in range(len(counts))]
        fits = math.prod(counts) * max(counts) < 2**63
        whole = _numbers(ranks) if fits else None
        for j, count in enumerate(counts):
            if count == 1:
                continue
            # Rows that differ in this entry alone are adjacent, in its rising order.
            rank = ranks[:, j].astype(np.int64)
            others = _numbers(np.delete(ranks, j, axis=1), room=count) if whole is None else whole - rank * weights[j]
            order = np.argsort(others * count + rank)
            group = others[order]
            ends = np.concatenate([group[1:] != group[:-1], [True]])
            if self.labels is None:
                grows[order[~ends]] = True
                continue
            # A row can grow where its run of one label ends before its group of rows does.
            label = self.labels[order]
            runs = ends | np.concatenate([label[1:] != label[:-1], [True]])
            grows[order[_next(runs) < _next(ends)]] = True
        return grows


def _next(which: BoolArray) -> IntArray:
    """For each index the first one from it on where ``which`` holds; it holds at the last one."""
    ends = np.flatnonzero(which)
    return np.repeat(ends, np.diff(ends, prepend=-1))


def _ranks(codes: IntArray) -> NDArray[np.uint32]:
    """Each entry's rank among the values of its column, [n, d]: small numbers, whatever the entries are."""
    out = np.empty(codes.shape, dtype=np.uint32)
    for j in range(codes.shape[1]):
        column = codes[:, j]
        low, high = int(column.min()), int(column.max())
        if high - low < max(4 * len(column), 1024):
            seen = np.zeros(high - low + 1, dtype=bool)
            seen[column - low] = True
            out[:, j] = (np.cumsum(seen) - 1)[column - low]
        else:
            out[:, j] = np.unique(column, return_inverse=True)[1].reshape(-1)
    return out


def _numbers(ranks: NDArray[np.uint32], room: int = 1) -> IntArray:
    """A number for each row [n], the same for equal rows only; ``room`` times as large ones still fit 63 bits."""
    total = np.zeros(len(ranks), dtype=np.int64)
    most = 1
    for j in range(ranks.shape[1]):
        count = int(ranks[:, j].max()) + 1
        if most * count * room >= 2**63:
            total = np.unique(total, return_inverse=True)[1].reshape(-1).astype(np.int64)
            most = int(total.max()) + 1
        total = total * count + ranks[:, j]
        most *= count
    return total

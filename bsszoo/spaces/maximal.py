"""Maximal codes: those none of whose entries can grow within the budget."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from bsszoo.codes.families import family_of
from bsszoo.spaces.chain import Chain, places_of
from bsszoo.spaces.limits import Limits
from bsszoo.spaces.space import Space

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

# Codes judged at once: few enough that the columns of a draw stay in the caches.
_CHUNK: Final = 65_536


class Growth(Protocol):
    """What a set of candidates knows about codes that are larger in one entry."""

    def maximal(self, codes: IntArray) -> BoolArray:
        """Which of the codes [n, d] cannot grow in any one entry, [n]."""
        ...


@dataclass(frozen=True)
class GrowthInSpace:
    """Codes drawn from a space: an entry grows to a larger value on its axis, all others staying in their places.

    The grown code has to keep the upper limits; the lower ones it keeps. A ResNet-50 width grows with its bottleneck,
    whose axis is the ratio of the two. Where costs grow with every entry only the next value is tried; with a latency
    limit, or beside a ResNet-50 stem, every larger one is.
    """

    space: Space
    limits: Limits

    def maximal(self, codes: IntArray) -> BoolArray:
        """Which of the codes [n, d] of the space cannot grow, [n]."""
        chain = self.limits.chain(self.space)
        out = np.empty(len(codes), dtype=bool)
        for start in range(0, len(codes), _CHUNK):
            out[start : start + _CHUNK] = self._chunk(chain, places_of(self.space, codes[start : start + _CHUNK]))
        return out

    def _chunk(self, chain: Chain, places: IntArray) -> BoolArray:
        stages, lengths = len(chain.terms), [len(axis) for axis in self.space.axes]
        high = self.limits.bounds(chain).high
        costs = chain.costs(places)
        family = family_of(self.space.family)
        grows = self.limits.max_latency is None
        maximal = np.ones(len(places), dtype=bool)
        for j, length in enumerate(lengths):
            stage = j % stages
            # Beside a stem of fixed width a wider first stage can cost less: its projection falls away.
            monotone = grows and not (j == 0 and family.loses_projection)
            touched = [stage, *([stage + 1] if j < stages and stage + 1 < stages else [])]
            for step in range(1, 2 if monotone else length):
                rows = np.flatnonzero(maximal & (places[:, j] + step < length))
                if not len(rows):
                    break
                grown = places[rows]
                old = _terms(chain, touched, grown)
                grown[:, j] += step
                new = costs[:, rows] + _terms(chain, touched, grown) - old
                fits = np.asarray((new <= high[:, None]).all(axis=0))
                if self.limits.function is not None and fits.any():
                    which = np.flatnonzero(fits)
                    fits[which] = self.limits.keeps_latency(self.space, self.space.rows(grown[which]))[0]
                maximal[rows[fits]] = False
        return maximal


def _terms(chain: Chain, stages: list[int], places: IntArray) -> IntArray:
    """What these stages add to each kind, [kinds, n]."""
    total: Any = 0
    for i in stages:
        total = total + chain.terms[i].reshape(len(chain.kinds), -1)[:, chain.cells(i, places)]
    return np.asarray(total)


@dataclass(frozen=True, eq=False)
class GrowthInSet:
    """Codes of a list: one can grow where another one has the same entries but one that is larger.

    Args:
        codes: The list, distinct rows [n, d].
        labels: Equal labels [n] tell codes of the same network; by default all differ. A network can grow where any of
            its codes can grow to a code of another network.
    """

    codes: IntArray
    labels: IntArray | None = None

    def maximal(self, codes: IntArray) -> BoolArray:
        """Which of the codes [n, d], all of the list, cannot grow, [n]."""
        alone = self._can_grow()
        if self.labels is not None:
            grows = np.zeros(int(self.labels.max()) + 1, dtype=bool)
            grows[self.labels[alone]] = True
            alone = grows[self.labels]
        if codes is self.codes:
            return ~alone
        ranks = _ranks(np.concatenate([self.codes, codes]))
        keys = _numbers(ranks)
        known = keys[: len(self.codes)]
        order = np.argsort(known)
        return np.asarray(~alone[order[np.searchsorted(known[order], keys[len(self.codes) :])]])

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
            # Rows that differ in this entry alone stand beside each other, in its rising order.
            own = ranks[:, j].astype(np.int64)
            others = _numbers(np.delete(ranks, j, axis=1), room=count) if whole is None else whole - own * weights[j]
            order = np.argsort(others * count + own)
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
    """The first place from each one on that is marked; the last one is."""
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

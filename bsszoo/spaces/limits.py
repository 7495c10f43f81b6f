"""``Limits``: what a code has to keep before anything is built, counted for all codes of a space at once."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bsszoo.errors import BudgetError
from bsszoo.spaces.chain import Chain
from bsszoo.spaces.latency import NS_PER_MS, LatencyModel, LatencyTable, as_latency_model
from bsszoo.spaces.space import Space

IntArray = NDArray[np.int64]

#: The figures that limits are on, in the order of a chain's kinds.
FIGURES: Final = ("macs", "params", "activations", "depth", "latency")
_NONE: Final = (-(2**62), 2**62)


class Bounds(NamedTuple):
    """The least and the greatest sum allowed of each kind of a chain, int64 [kinds] each, both inclusive."""

    low: IntArray
    high: IntArray

    def hold(self, costs: IntArray) -> NDArray[np.bool_]:
        """Which columns of costs [kinds, n] are inside [n]."""
        inside = np.ones(costs.shape[1], dtype=bool)
        for low, high, values in zip(self.low, self.high, costs, strict=True):
            if low > _NONE[0]:
                inside &= values >= low
            if high < _NONE[1]:
                inside &= values <= high
        return inside

    @property
    def limited(self) -> IntArray:
        """The kinds with a limit."""
        return np.flatnonzero((self.low > _NONE[0]) | (self.high < _NONE[1]))


@dataclass(frozen=True, slots=True)
class Caps:
    """How far a candidate may go from the uniformly rescaled network; None leaves a direction open.

    ``depth`` and ``stage_depth`` are multiples of its depth (convolutions on the main path) and of each stage's number
    of blocks; ``params`` the least and largest multiple of its parameters.
    """

    depth: float | None = None
    stage_depth: float | None = None
    params: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """Inclusive limits on a code; None where there is none.

    Args:
        min_macs, max_macs: Multiply-adds.
        min_params, max_params: Parameters.
        min_activations, max_activations: Elements of the outputs of all convolutions.
        max_depth: Convolutions on the main path.
        max_latency: Milliseconds, as ``latency`` tells them.
        latency: A ``LatencyTable`` (or a mapping, or its file), or a function of a code that returns milliseconds.
            Without ``max_latency`` it only fills the candidates' column.

    Raises:
        BudgetError: A limit is below 1, a lower one is above its upper one, or a latency is limited that nothing tells.

    Example:
        >>> Limits(max_macs=130_000_000, max_activations=4_000_000).upper_limits
        {'macs': 130000000, 'activations': 4000000}
    """

    min_macs: int | None = None
    max_macs: int | None = None
    min_params: int | None = None
    max_params: int | None = None
    max_depth: int | None = None
    min_activations: int | None = None
    max_activations: int | None = None
    max_latency: float | None = None
    latency: Any = None

    def __post_init__(self) -> None:
        for name in ("macs", "params", "activations"):
            low, high = getattr(self, f"min_{name}"), getattr(self, f"max_{name}")
            if (high is not None and high < 1) or (low is not None and high is not None and low > high):
                raise BudgetError(
                    f"No code has from {low or 0} to {high} {name}; a limit is at least 1, and a lower "
                    "one at most its upper one."
                )
        if self.latency is not None:
            object.__setattr__(self, "latency", as_latency_model(self.latency))
        if self.max_latency is not None:
            if not isinstance(self.max_latency, (int, float)) or not 0 < self.max_latency < 1e9:
                raise BudgetError(f"max_latency is {self.max_latency!r}; it takes milliseconds above 0.")
            if self.latency is None:
                raise BudgetError(
                    f"max_latency is {self.max_latency} ms, but nothing tells a code's latency: give a "
                    "latency table or a latency function with it."
                )

    @property
    def upper_limits(self) -> dict[str, float]:
        """The upper limits by the name of their figure."""
        given = {name: getattr(self, f"max_{name}") for name in FIGURES}
        return {name: value for name, value in given.items() if value is not None}

    def without(self, figure: str) -> Limits:
        """These limits without any on one figure; without ``latency`` the model goes as well."""
        names = {f"min_{figure}", f"max_{figure}"} | ({"latency"} if figure == "latency" else set())
        return replace(self, **{f.name: None for f in fields(self) if f.name in names})

    @property
    def table(self) -> LatencyTable | None:
        """The latency table, which is additive over blocks; None for none and for any other model."""
        return self.latency if isinstance(self.latency, LatencyTable) else None

    @property
    def function(self) -> LatencyModel | None:
        """The latency model that has to be asked code by code; None for none and for a table."""
        model: LatencyModel | None = self.latency
        return None if isinstance(self.latency, LatencyTable) else model

    def chain(self, space: Space) -> Chain:
        """The terms of a space for these limits; the latency table's are nanoseconds."""
        return _chain(space, self.table)

    def bounds(self, chain: Chain) -> Bounds:
        """The limits on the kinds of a chain; a latency function's is not among them."""
        rows = [
            (self.min_macs, self.max_macs),
            (self.min_params, self.max_params),
            (self.min_activations, self.max_activations),
            (None, self.max_depth),
        ]
        if len(chain.kinds) > len(rows):
            top = None if self.max_latency is None else int(self.max_latency * NS_PER_MS + 1e-6)
            rows.append((None, top))
        return Bounds(
            *(
                np.array([_NONE[side] if row[side] is None else row[side] for row in rows], dtype=np.int64)
                for side in (0, 1)
            )
        )

    def keeps_latency(self, space: Space, codes: IntArray) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Which codes [n, d] keep the limit on a latency function's milliseconds, and these, each [n]."""
        assert self.function is not None
        ms = self.function.latencies(space, codes)
        top = np.inf if self.max_latency is None else self.max_latency
        return ms <= top, ms


@lru_cache(maxsize=4)
def _chain(space: Space, table: LatencyTable | None) -> Chain:
    # One run draws several times from one or two spaces: with all caps, and with one after the other given up.
    return Chain.of(space, None if table is None else table.nanoseconds)

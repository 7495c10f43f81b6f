"""``Limits``: what a code has to keep before anything is built, counted for all codes of a space at once.

A limit on latency takes a table of milliseconds for each block, or a function that predicts a code's milliseconds.
"""

from __future__ import annotations

import csv
import hashlib
import inspect
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from bsszoo.codes.code import Code
from bsszoo.errors import BudgetError, CodeError
from bsszoo.spaces.chain import BlockShape, Chain, block_shapes, space_shapes
from bsszoo.spaces.space import Space
from bsszoo.texts import parse_json

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

#: The costs that limits are on, in the order of a chain's kinds.
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
        min_latency, max_latency: Milliseconds, as ``latency`` predicts them.
        latency: A ``LatencyTable`` (or a mapping, or its file), or a function of a code that returns milliseconds.
            Without ``max_latency`` it only fills the candidates' column.

    Raises:
        BudgetError: A limit is below 1, a lower one is above its upper one, or ``max_latency`` has no ``latency``.
    """

    min_macs: int | None = None
    max_macs: int | None = None
    min_params: int | None = None
    max_params: int | None = None
    max_depth: int | None = None
    min_activations: int | None = None
    max_activations: int | None = None
    max_latency: float | None = None
    min_latency: float | None = None
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
                    f"max_latency is {self.max_latency} ms, but no model predicts a code's latency: give a "
                    "latency table or a latency function with it."
                )

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
            low = None if self.min_latency is None else math.ceil(self.min_latency * NS_PER_MS)
            rows.append((low, None if self.max_latency is None else int(self.max_latency * NS_PER_MS + 1e-6)))
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
        low, top = self.min_latency or 0.0, np.inf if self.max_latency is None else self.max_latency
        return (ms >= low) & (ms <= top), ms


@lru_cache(maxsize=4)
def _chain(space: Space, table: LatencyTable | None) -> Chain:
    # One run draws several times from one or two spaces: with all caps, and with one after the other given up.
    return Chain.of(space, None if table is None else table.nanoseconds)


# Latency models


#: Latencies are summed as whole nanoseconds, so that a sum does not depend on the order of its terms.
NS_PER_MS = 1_000_000


@runtime_checkable
class LatencyModel(Protocol):
    """Predicts the latencies of codes before they are built."""

    @property
    def name(self) -> str:
        """Its name in messages and settings."""
        ...

    def latencies(self, space: Space, codes: IntArray) -> FloatArray:
        """The latency of each of the codes [n, d] of a space, [n] in ms."""
        ...


@dataclass(frozen=True, eq=False)
class LatencyTable:
    """Milliseconds of each block; a code's latency is the sum over its blocks, stem, head and classifier included.

    The sum leaves out what blocks share (caches, overlapping launches on a GPU), so it ranks codes better than it
    predicts their milliseconds. ``bsszoo.latency.table.measure_latency_table`` makes one for a space on this machine.

    Args:
        blocks: Milliseconds, above 0, for each ``BlockShape`` or its text (``mbconv_in16_out24_mid96_k3_s2_px112``).
        name: Its name in messages.
        notes: What stands beside the blocks in its file, such as where it was measured.

    Raises:
        BudgetError: There is no block, a key is no block, or a time is no positive number.

    Example:
        >>> code = Code.parse("resnet18_c64-128-256-512_l2-2-2-2")
        >>> table = LatencyTable({shape: 0.5 for shape in block_shapes(code)})
        >>> table.of(code)  # a stem, eight blocks and a classifier
        5.0
    """

    blocks: Mapping[BlockShape | str, float]
    name: str = "latency table"
    notes: Mapping[str, Any] = field(default_factory=dict)
    _ns: dict[BlockShape, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.blocks, Mapping) or not self.blocks:
            raise BudgetError(f"{self.name} holds no block; it takes a mapping from a block to its milliseconds.")
        ns: dict[BlockShape, int] = {}
        for key, ms in self.blocks.items():
            try:
                shape = key if isinstance(key, BlockShape) else BlockShape.parse(str(key))
            except CodeError as error:
                raise BudgetError(f"{self.name}: {error}") from None
            value = _number(ms)
            if value is None or not 0 < value < 1e9:
                raise BudgetError(f"{self.name} has {ms!r} for {shape}; it takes milliseconds above 0.")
            ns[shape] = max(1, round(value * NS_PER_MS))
        object.__setattr__(self, "_ns", ns)

    def __len__(self) -> int:
        return len(self._ns)

    @property
    def shapes(self) -> tuple[BlockShape, ...]:
        """The blocks that it holds."""
        return tuple(self._ns)

    def nanoseconds(self, shape: BlockShape) -> int:
        """Whole nanoseconds of one block; a ``BudgetError`` when the table does not hold it."""
        try:
            return self._ns[shape]
        except KeyError:
            near = [s for s in self._ns if s.kind == shape.kind and s.size == shape.size]
            hint = f" At {shape.size} px it has e.g. {near[0]}." if near else ""
            raise BudgetError(
                f"{self.name} has no time for {shape}.{hint} A table has to hold every block of the "
                "space; measure_latency_table(space) makes one, space_shapes(space) lists them."
            ) from None

    def milliseconds(self, shape: BlockShape) -> float:
        """The time of one block [ms]; a ``BudgetError`` when the table does not hold it."""
        return self.nanoseconds(shape) / NS_PER_MS

    def of(self, code: Code, *, num_classes: int = 1000, in_chans: int = 3) -> float:
        """The latency of one code [ms]."""
        shapes = block_shapes(code, num_classes=num_classes, in_chans=in_chans)
        return sum(self.nanoseconds(shape) for shape in shapes) / NS_PER_MS

    def missing(self, space: Space) -> list[BlockShape]:
        """The blocks of a space's codes that the table does not hold, sorted."""
        return [shape for shape in space_shapes(space) if shape not in self._ns]

    def latencies(self, space: Space, codes: IntArray) -> FloatArray:
        """The latency of each of the codes [n, d] of a space, [n] in ms."""
        shape = {"num_classes": space.num_classes, "in_chans": space.in_chans}
        return np.array([self.of(space.code(row), **shape) for row in np.asarray(codes)], dtype=np.float64)

    def digest(self) -> str:
        """A fingerprint of its content."""
        text = "\n".join(sorted(f"{shape} {ns}" for shape, ns in self._ns.items()))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def save(self, file: str | Path, **notes: Any) -> None:
        """Write it as JSON, or as CSV (columns ``block`` and ``ms``) where the name ends in ``.csv``.

        ``notes`` (where it was measured, say) are written to the JSON beside the blocks.
        """
        path = Path(file)
        if path.suffix.lower() == ".csv":
            rows = ((shape, ns / NS_PER_MS) for shape, ns in sorted(self._ns.items()))
            text = "block,ms\n" + "".join(f"{block},{ms}\n" for block, ms in rows)
        else:
            text = self.text(**notes)
        path.write_text(text, encoding="utf-8")

    def text(self, **notes: Any) -> str:
        """Its JSON, with notes beside the blocks."""
        rows = {str(shape): ns / NS_PER_MS for shape, ns in sorted(self._ns.items())}
        return json.dumps({"unit": "ms", **self.notes, **notes, "blocks": rows}, indent=1) + "\n"

    @classmethod
    def load(cls, file: str | Path) -> LatencyTable:
        """The table in a JSON file (an object, or its ``blocks``) or a CSV file with the columns ``block`` and ``ms``.

        Raises:
            BudgetError: The file cannot be read or holds something else.
        """
        path = Path(file)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BudgetError(f"The latency table {path} cannot be read: {error}.") from None
        if path.suffix.lower() == ".csv":
            rows = list(csv.DictReader(text.splitlines()))
            if not rows or not {"block", "ms"} <= set(rows[0]):
                raise BudgetError(f"The latency table {path} takes the columns block and ms, and a row for each block.")
            return cls({row["block"] or "": row["ms"] for row in rows}, name=path.name)  # type: ignore[misc]
        try:
            content = parse_json(text)
        except ValueError as error:
            raise BudgetError(f"The latency table {path} is no JSON: {error}.") from None
        blocks = content.get("blocks", content) if isinstance(content, dict) else None
        if not isinstance(blocks, dict):
            raise BudgetError(f"The latency table {path} holds no JSON object of blocks and milliseconds.")
        notes = {k: v for k, v in content.items() if k not in ("unit", "blocks")} if "blocks" in content else {}
        return cls(blocks, name=path.name, notes=notes)


@dataclass(frozen=True, eq=False)
class LatencyFunction:
    """A user's prediction of latency as a ``LatencyModel``.

    Args:
        function: Takes a ``Code`` and returns its milliseconds, or, with ``arrays``, an integer array of codes [n, d]
            and returns an array [n]. It is called for every candidate that keeps the other limits.
        arrays: Which of the two.
        name: Its name in messages; by default the function's.

    Example:
        >>> from bsszoo.spaces import Space
        >>> model = LatencyFunction(lambda codes: codes.sum(axis=1) / 100, arrays=True)
        >>> model.latencies(Space.of("resnet18"), np.array([[64, 128, 256, 512, 2, 2, 2, 2]]))
        array([9.68])
    """

    function: Callable[..., Any]
    arrays: bool = False
    name: str = ""

    def __post_init__(self) -> None:
        if not callable(self.function) or isinstance(self.function, type):
            raise BudgetError(f"A latency function takes a code and returns milliseconds; got {self.function!r}.")
        default = f"{getattr(self.function, '__module__', '')}:{getattr(self.function, '__qualname__', 'function')}"
        object.__setattr__(self, "name", self.name or default)

    def __call__(self, codes: Any) -> Any:
        """What the function returns."""
        return self.function(codes)

    def latencies(self, space: Space, codes: IntArray) -> FloatArray:
        """The function's milliseconds [n] of the codes [n, d]; a ``BudgetError`` when they are no finite numbers."""
        try:
            returned = self.function(codes) if self.arrays else [self.function(space.code(row)) for row in codes]
        except Exception as error:
            raise BudgetError(f"The latency function {self.name} failed: {type(error).__name__}: {error}") from error
        try:
            values = np.asarray(returned, dtype=np.float64)
        except (TypeError, ValueError):
            values = np.empty(0)
        if values.shape != (len(codes),) or not np.isfinite(values).all():
            wanted = "an array [n] of" if self.arrays else "finite"
            raise BudgetError(
                f"The latency function {self.name} takes "
                f"{'codes [n, d]' if self.arrays else 'a code'} and returns {wanted} milliseconds; for "
                f"{len(codes)} codes it returned {str(returned)[:80]}."
            )
        return values


def predicted(model: LatencyModel | None, code: Code, space: Space) -> float | None:
    """A model's prediction for one code [ms], also for one outside the space; None where it has none."""
    try:
        if isinstance(model, LatencyTable):
            return model.of(code, num_classes=space.num_classes, in_chans=space.in_chans)
        if isinstance(model, LatencyFunction):
            ms = model.function(np.array([space.row(code)])) if model.arrays else [model.function(code)]
            return _number(ms[0])
    except Exception:  # a table that lacks a block; a user's function that takes the grid's codes only
        return None
    return None


def as_latency_model(value: object) -> LatencyModel:
    """A model unchanged, a mapping or a file as a ``LatencyTable``, a function of a code as a ``LatencyFunction``."""
    if isinstance(value, LatencyModel) and not isinstance(value, type):
        return value
    if isinstance(value, Mapping):
        return LatencyTable(value)
    if isinstance(value, (str, Path)):
        return LatencyTable.load(value)
    if callable(value) and not inspect.iscoroutinefunction(value):
        return LatencyFunction(value)
    raise BudgetError(
        f"latency is {value!r}; it takes a LatencyTable (or a mapping, or its file), a function of a "
        "code that returns milliseconds, or a LatencyFunction."
    )


def _number(value: object) -> float | None:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and not isinstance(value, bool) else None

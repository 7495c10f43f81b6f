"""Budgets as people write them: ``130M``, ``0.13G``, ``60%``, and what tells a code's latency."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bsszoo.codes.code import Code
from bsszoo.codes.cost import Cost
from bsszoo.errors import BudgetError, shown
from bsszoo.evaluators.base import FunctionEvaluator, digest, load_function
from bsszoo.options import Budget
from bsszoo.report.figures import human
from bsszoo.spaces.limits import LatencyFunction, LatencyModel, LatencyTable, as_latency_model
from bsszoo.study.result import ResolvedBudget

# A budget may exceed the network's own by one in so many.
_ROUNDING: Final = 100
_UNITS: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}
_NUMBER = re.compile(r"\s*(\d+\.?\d*(?:e\+?\d+)?|\.\d+(?:e\+?\d+)?)\s*([kmgb%]?)\s*", re.IGNORECASE)


def parse_amount(text: str | float, *, of: int, what: str) -> int:
    """The whole number that an amount stands for.

    Args:
        text: ``130M``, ``0.13G``, ``1.8B``, ``130e6``, a plain number, or ``60%`` of ``of``.
        of: What a percentage is taken of.
        what: The amount's name for the error, e.g. ``--flops``.

    Raises:
        BudgetError: The text is no positive amount.
    """
    match = _NUMBER.fullmatch(text if isinstance(text, str) else shown(text))
    hint = "write 130M, 0.13G or 130e6, or 60% for a share of the reference network"
    if not match or isinstance(text, bool):
        raise BudgetError(f"{what} is {shown(text)}; {hint}.")
    number, unit = float(match.group(1)), match.group(2).lower()
    value = number / 100 * of if unit == "%" else number * _UNITS[unit]
    if not math.isfinite(value) or value < 1:
        raise BudgetError(f"{what} is {shown(text)}, less than one; {hint}.")
    return round(value)


def plausible(macs: int, text: object) -> str:
    """A hint for a budget that was given without its unit: `` Did you mean 130M?``, else nothing."""
    return f" Did you mean {text}M?" if macs < 100_000 and str(text).strip().isdigit() else ""


def check_not_larger(network: str, own: int, macs: int) -> None:
    """A ``BudgetError`` for a budget above the network's own multiply-adds, as ``compress`` would make it larger.

    One percent is left to rounding: ResNet-50, of 4.09B, is 4.1B in the paper.
    """
    if macs > own + own // _ROUNDING:
        raise BudgetError(
            f"{network} has {human(own)} MACs; a budget of {human(macs)} would make it larger. Give a "
            "smaller one (60% is a share of its own), or --grow (grow=True in Python) if larger networks "
            "are what you look for."
        )


def resolved_budget(budget: Budget, cost: Cost, latency: LatencyLimit | None) -> ResolvedBudget:
    """A budget in numbers, of a network of a cost.

    Raises:
        BudgetError: An amount is none.
    """

    def amount(name: str) -> int | None:
        given = getattr(budget, name)
        return None if given is None else parse_amount(given, of=getattr(cost, name), what=f"--{name}")

    macs = parse_amount(budget.flops, of=cost.macs, what="--flops")
    if hint := plausible(macs, budget.flops):
        raise BudgetError(f"--flops is {budget.flops!r}, {macs} multiply-adds.{hint}")
    return ResolvedBudget(
        macs=macs,
        min_macs=int(macs * (1 - budget.slack)),
        params=amount("params"),
        activations=amount("activations"),
        latency_ms=None if latency is None else latency.most,
    )


@dataclass(frozen=True, slots=True)
class LatencyLimit:
    """What tells a code's latency, the most it may be [ms], and what a run's settings keep of it."""

    model: LatencyModel
    most: float | None
    settings: Mapping[str, Any]


def latency_limit(
    most: str | float | None,
    table: str | Path | Mapping[Any, float] | LatencyTable | None,
    model: str | Callable[[Code], Any] | LatencyModel | None,
) -> LatencyLimit | None:
    """The limit on latency that was asked for; None without one.

    Args:
        most: Most milliseconds.
        table: A ``LatencyTable``, a mapping from blocks to ms, or a JSON or CSV file of one.
        model: ``"module:function"``, a function of a code that returns ms, or a ``LatencyFunction``.

    Raises:
        BudgetError: Both or neither tell the latency that is limited, or one of them is no such thing.
        UnknownNameError: There is no such module or function.

    Example:
        >>> limit = latency_limit("12.5", None, lambda code: 0.1 * sum(code.depths))
        >>> limit.most
        12.5
    """
    if table is None and model is None:
        if most is None:
            return None
        raise BudgetError(
            f"--max-latency is {shown(most)} ms, but nothing tells a code's latency before it is built: "
            "give --latency-table FILE or --latency-model MODULE:FUNCTION with it."
        )
    if table is not None and model is not None:
        raise BudgetError("--latency-table and --latency-model were both given; one of them tells the latency.")
    top = None if most is None else _milliseconds(most)
    if table is not None:
        known = as_latency_model(table)
        kept: dict[str, Any] = {
            "latency_table": str(Path(table).absolute()) if isinstance(table, (str, Path)) else known.name
        }
        mark = known.digest() if isinstance(known, LatencyTable) else ""
    else:
        if isinstance(model, str):
            loaded = load_function(model, "latency model", "MODULE:FUNCTION")
            known = (
                loaded
                if not callable(loaded) or isinstance(loaded, LatencyModel)
                else LatencyFunction(loaded, name=model)
            )
        known = as_latency_model(known if isinstance(model, str) else model)
        kept = {"latency_model": model if isinstance(model, str) else known.name}
        mark = digest(FunctionEvaluator(known.function if isinstance(known, LatencyFunction) else type(known)))
    return LatencyLimit(known, top, {"latency_ms": top, **kept, "latency_source": mark})


def _milliseconds(given: str | float) -> float:
    try:
        value = float(str(given).strip().lower().removesuffix("ms"))
    except ValueError:
        value = math.nan
    if isinstance(given, bool) or not 0 < value < 1e9:
        raise BudgetError(f"--max-latency is {shown(given)}; it takes milliseconds above 0, such as 12.5.")
    return value

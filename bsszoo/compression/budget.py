"""Budgets as people write them: ``130M``, ``0.13G``, ``60%``, and models of a code's latency."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bsszoo.codes.code import Code
from bsszoo.codes.cost import Cost
from bsszoo.errors import BudgetError, formatted
from bsszoo.evaluators.base import FunctionEvaluator, digest, load_function
from bsszoo.options import Budget
from bsszoo.report.figures import human
from bsszoo.spaces.limits import LatencyFunction, LatencyModel, LatencyTable, as_latency_model
from bsszoo.study.result import ResolvedBudget

# A budget may exceed the network's cost by this part of it.
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
    match = _NUMBER.fullmatch(text if isinstance(text, str) else formatted(text))
    hint = "write 130M, 0.13G or 130e6, or 60% for a share of the reference network"
    if not match or isinstance(text, bool):
        raise BudgetError(f"{what} is {formatted(text)}; {hint}.")
    number, unit = float(match.group(1)), match.group(2).lower()
    value = number / 100 * of if unit == "%" else number * _UNITS[unit]
    if not math.isfinite(value) or value < 1:
        raise BudgetError(f"{what} is {formatted(text)}, less than one; {hint}.")
    return round(value)


def plausible(macs: int, text: object) -> str:
    """A hint for a budget without its unit: `` Did you mean 130M?``, else nothing."""
    return f" Did you mean {text}M?" if macs < 100_000 and str(text).strip().isdigit() else ""


def check_not_larger(network: str, reference: int, macs: int) -> None:
    """A ``BudgetError`` for a budget above the network's multiply-adds, as ``compress`` would make it larger.

    One percent is left to rounding: ResNet-50, of 4.09B, is 4.1B in the paper.
    """
    if macs > reference + reference // _ROUNDING:
        raise BudgetError(
            f"{network} has {human(reference)} MACs; a budget of {human(macs)} would make it larger. Give a "
            "smaller one (60% is a share of its MACs), or --grow (grow=True in Python) if larger networks "
            "are what you look for."
        )


def resolved_budget(budget: Budget, cost: Cost, latency: LatencyLimit | None) -> ResolvedBudget:
    """A budget in numbers, of a network of a cost.

    Raises:
        BudgetError: An amount is none.
    """

    def amount(name: str) -> int | None:
        value = getattr(budget, name)
        return None if value is None else parse_amount(value, of=getattr(cost, name), what=f"--{name}")

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
    """A latency model, the upper limit [ms], and their entries in a run's settings."""

    model: LatencyModel
    most: float | None
    settings: Mapping[str, Any]


def latency_limit(
    most: str | float | None,
    table: str | Path | Mapping[Any, float] | LatencyTable | None,
    model: str | Callable[[Code], Any] | LatencyModel | None,
) -> LatencyLimit | None:
    """The limit on latency; None without a limit and a model.

    Args:
        most: Upper limit [ms].
        table: A ``LatencyTable``, a mapping from blocks to ms, or a JSON or CSV file of one.
        model: ``"module:function"``, a function of a code that returns ms, or a ``LatencyFunction``.

    Raises:
        BudgetError: A limit without a model, both models, or an invalid value.
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
            f"--max-latency is {formatted(most)} ms, but nothing predicts a code's latency: "
            "give --latency-table FILE or --latency-model MODULE:FUNCTION with it."
        )
    if table is not None and model is not None:
        raise BudgetError("--latency-table and --latency-model are both set; give one of them.")
    top = None if most is None else _milliseconds(most)
    if table is not None:
        latency = as_latency_model(table)
        entries: dict[str, Any] = {
            "latency_table": str(Path(table).absolute()) if isinstance(table, (str, Path)) else latency.name
        }
        fingerprint = latency.digest() if isinstance(latency, LatencyTable) else ""
    else:
        if isinstance(model, str):
            loaded = load_function(model, "latency model", "MODULE:FUNCTION")
            latency = (
                loaded
                if not callable(loaded) or isinstance(loaded, LatencyModel)
                else LatencyFunction(loaded, name=model)
            )
        latency = as_latency_model(latency if isinstance(model, str) else model)
        entries = {"latency_model": model if isinstance(model, str) else latency.name}
        function = latency.function if isinstance(latency, LatencyFunction) else type(latency)
        fingerprint = digest(FunctionEvaluator(function))
    return LatencyLimit(latency, top, {"latency_ms": top, **entries, "latency_source": fingerprint})


def _milliseconds(value: str | float) -> float:
    try:
        number = float(str(value).strip().lower().removesuffix("ms"))
    except ValueError:
        number = math.nan
    if isinstance(value, bool) or not 0 < number < 1e9:
        raise BudgetError(f"--max-latency is {formatted(value)}; it takes milliseconds above 0, such as 12.5.")
    return number

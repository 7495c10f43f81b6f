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


def plausible(macs: int, text: object, *, share: bool = False) -> str:
    """A hint for a budget without its unit: `` Did you mean 130M?``, else nothing; of a network also a share of it."""
    if macs >= 100_000 or not str(text).strip().isdigit():
        return ""
    which = f"{text}%, a share of the network's, or " if share and macs < 100 else ""
    return f" Did you mean {which}{text}M?"


def check_not_larger(
    network: str, budget: Budget, cost: Cost, limits: ResolvedBudget, own_ms: float | None = None
) -> None:
    """A ``BudgetError`` for a budget above the network's own cost, as ``compress`` would make it larger.

    One percent is left to rounding: ResNet-50, of 4.09B, is 4.1B in the paper. Where the budget is not about
    multiply-adds the network has to keep one of the others less than it does: ``own_ms`` is its predicted latency.
    """
    if limits.macs > cost.macs + cost.macs // _ROUNDING:
        raise BudgetError(
            f"{network} has {human(cost.macs)} MACs; a budget of {human(limits.macs)} would make it larger. Give a "
            "smaller one (60% is a share of its MACs), or --grow (grow=True in Python) if larger networks "
            "are what you look for."
        )
    if budget.flops is not None:
        return
    smaller = limits.params is not None and limits.params < cost.params
    faster = limits.latency_ms is not None and (own_ms is None or limits.latency_ms < own_ms)
    if not smaller and not faster:
        figure = f"{own_ms:.4g} ms" if limits.params is None else f"{human(cost.params)} parameters"
        raise BudgetError(
            f"{network} has {figure}, which keeps the budget as it is. Give a smaller one; 60% is a share of its own."
        )


def resolved_budget(budget: Budget, cost: Cost, latency: LatencyLimit | None) -> ResolvedBudget:
    """A budget in numbers, of a network of a cost.

    The lower limit is on what the budget is about: multiply-adds, without a limit on them parameters, else latency.
    Multiply-adds are at most the network's own where nothing else is said.

    Raises:
        BudgetError: An amount is none.
    """

    def amount(name: str) -> int | None:
        value = getattr(budget, name)
        return None if value is None else parse_amount(value, of=getattr(cost, name), what=f"--{name}")

    macs, least, params = cost.macs, 1 - budget.slack, amount("params")
    if budget.flops is not None:
        macs = parse_amount(budget.flops, of=cost.macs, what="--flops")
        if hint := plausible(macs, budget.flops, share=True):
            raise BudgetError(f"--flops is {budget.flops!r}, {macs} multiply-adds.{hint}")
    most = None if latency is None else latency.most
    return ResolvedBudget(
        macs=macs,
        min_macs=0 if budget.flops is None else int(macs * least),
        params=params,
        activations=amount("activations"),
        latency_ms=most,
        min_params=int(params * least) if budget.flops is None and params is not None else None,
        min_latency_ms=most * least if budget.flops is None and params is None and most is not None else None,
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
    own: Callable[[LatencyModel], float | None] = lambda _: None,
) -> LatencyLimit | None:
    """The limit on latency; None without a limit and a model.

    Args:
        most: Upper limit [ms], or a share of the network's own such as ``"60%"``.
        table: A ``LatencyTable``, a mapping from blocks to ms, or a JSON or CSV file of one.
        model: ``"module:function"``, a function of a code that returns ms, or a ``LatencyFunction``.
        own: What a model predicts for the network that is compressed [ms]; a share is taken of it.

    Raises:
        BudgetError: A limit without a model, both models, an invalid value, a limit that the network keeps as it is.
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
            f"--latency is {formatted(most)}, but nothing predicts a code's latency: a run measures a table, and "
            "here one has to be given."
        )
    if table is not None and model is not None:
        raise BudgetError("--latency-table and --latency-model are both set; give one of them.")
    if most is not None:
        read_latency(most)
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
    top = None if most is None else _milliseconds(most, own(latency), latency.name)
    return LatencyLimit(latency, top, {"latency_ms": top, **entries, "latency_source": fingerprint})


def read_latency(value: str | float) -> tuple[float, bool]:
    """A limit on latency as a number, and whether it is a share of the network's own instead of milliseconds.

    Raises:
        BudgetError: It is neither.
    """
    text = str(value).strip().lower()
    try:
        number = float(text.removesuffix("ms").removesuffix("%"))
    except ValueError:
        number = math.nan
    if isinstance(value, bool) or not 0 < number < 1e9:
        raise BudgetError(
            f"--latency is {formatted(value)}; it takes milliseconds above 0, such as 12.5, or 60% of the "
            "network's own."
            + (" Write --no-measure (measure=False) to measure nothing at the end." if value is False else "")
        )
    return (number / 100, True) if text.endswith("%") else (number, False)


def _milliseconds(value: str | float, own: float | None, name: str) -> float:
    number, share = read_latency(value)
    if share and own is None:
        raise BudgetError(f"--latency is {value}, and {name} has no time for the network itself: give milliseconds.")
    return number * (own or 0.0) if share else number

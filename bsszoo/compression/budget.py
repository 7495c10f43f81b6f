"""Budgets as people write them: ``130M``, ``0.13G``, ``60%``."""

from __future__ import annotations

import math
import re
from typing import Final

from bsszoo.errors import BudgetError

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
    match = _NUMBER.fullmatch(str(text))
    hint = "write 130M, 0.13G or 130e6, or 60% for a share of the reference network"
    if not match or isinstance(text, bool):
        raise BudgetError(f"{what} is {text!r}; {hint}.")
    number, unit = float(match.group(1)), match.group(2).lower()
    value = number / 100 * of if unit == "%" else number * _UNITS[unit]
    if not math.isfinite(value) or value < 1:
        raise BudgetError(f"{what} is {text!r}, less than one; {hint}.")
    return round(value)


def plausible(macs: int, text: object) -> str:
    """A hint for a budget that was given without its unit: `` Did you mean 130M?``, else nothing."""
    return f" Did you mean {text}M?" if macs < 100_000 and str(text).strip().isdigit() else ""


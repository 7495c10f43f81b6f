"""Whether a found code is better than the controls: intervals over fresh trainings, and words that obey them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

#: Every interval holds the true value with this probability, if trainings vary normally.
LEVEL: Final = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and its interval; ``low`` and ``high`` are None where there is only one value, or no spread at all."""

    mean: float
    low: float | None = None
    high: float | None = None

    @property
    def above_zero(self) -> bool:
        """Whether the whole interval is above zero; never without one."""
        return self.low is not None and self.low > 0

    @property
    def below_zero(self) -> bool:
        """Whether the whole interval is below zero; never without one."""
        return self.high is not None and self.high < 0


def mean_interval(values: Sequence[float]) -> Interval:
    """The mean of values and Student's interval of it.

    Raises:
        ValueError: There is no value.
    """
    from scipy import stats

    if not values:
        raise ValueError("An interval needs at least one value.")
    mean, n = float(np.mean(values)), len(values)
    spread = float(np.std(values, ddof=1)) if n > 1 else 0.0
    if not spread:
        return Interval(mean)
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * spread / math.sqrt(n)
    return Interval(mean, mean - half, mean + half)


def difference(of: Sequence[float], against: Sequence[float]) -> Interval:
    """The difference of the means of two groups, and Welch's interval of it (their variances may differ).

    Raises:
        ValueError: A group has no value.
    """
    from scipy import stats

    if not of or not against:
        raise ValueError("A difference needs at least one value on each side.")
    mean = float(np.mean(of) - np.mean(against))
    if min(len(of), len(against)) < 2 or not np.ptp(of) or not np.ptp(against):
        return Interval(mean)
    bounds = stats.ttest_ind(of, against, equal_var=False).confidence_interval(LEVEL)
    return Interval(mean, float(bounds.low), float(bounds.high))


def shown(interval: Interval, *, sign: bool = False, digits: int = 2) -> str:
    """``91.20 (90.80 to 91.60)``, or the mean alone."""
    form = f"{'+' if sign else ''}.{digits}f"
    # Rounded first, and minus nought made nought.
    mean, low, high = (
        None if v is None else round(v, digits) + 0.0 for v in (interval.mean, interval.low, interval.high)
    )
    text = format(mean, form)
    return text if low is None or high is None else f"{text} ({format(low, form)} to {format(high, form)})"


def verdict(found: Sequence[float], control: Sequence[float], name: str, unit: str = "points of test accuracy") -> str:
    """One sentence that says "better" or "worse" only when the whole interval does.

    Args:
        found: Results of the code found [n].
        control: Results of the control [m].
        name: The control in words.
        unit: What the results are counted in.
    """
    gap = difference(found, control)
    counts = f"{len(found)} against {len(control)} trainings"
    if gap.low is None:
        return (
            f"Against {name}: {shown(gap, sign=True)} {unit}, {counts}. No interval can be given, so nothing is "
            "claimed: --confirm 3 or more trainings give one."
        )
    word = "better than" if gap.above_zero else "worse than" if gap.below_zero else "not distinguishable from"
    return f"The code found is {word} {name}: {shown(gap, sign=True)} {unit}, {100 * LEVEL:.0f}% interval, {counts}."

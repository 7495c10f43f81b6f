"""Numbers as text for a reader: every cost in a table, page or message is formatted here, so that all look alike."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from bsszoo.study.result import ConfirmedRow, Quantised

#: Names of the two ways of counting, wherever a cost is displayed. One multiply-add is one MAC.
MACS_NAME: Final = "MACs"
TWO_MACS_NAME: Final = "2 x MACs"
MACS_NOTE: Final = "the paper's FLOPs"
TWO_MACS_NOTE: Final = "what tools counting a multiply-add as two call FLOPs, e.g. NVIDIA Model Optimizer"

#: Placeholder of a missing figure: not measured, or failed.
ABSENT: Final = "-"

_UNITS: Final = ("", "k", "M", "B", "T", "P")


def human(count: int) -> str:
    """A count in a few digits: ``9,408``, ``296.5M``, ``4.03B``; exact below ten thousand.

    Two decimals below a hundred of the unit and one above, which tells two codes of one budget apart.
    """
    if abs(count) < 10_000:
        return f"{count:,}"
    value, unit = float(count), 0
    # 999.95 and not 1000: 999,960,000 would print as 1000.0M.
    while abs(value) >= 999.95 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    digits = 2 if abs(value) < 99.995 else 1
    return f"{value:.{digits}f}{_UNITS[unit]}"


def both_macs(macs: int) -> str:
    """MACs and 2 x MACs in one line, each with its name and who calls it FLOPs."""
    return f"{MACS_NAME} {human(macs)} ({MACS_NOTE}) | {TWO_MACS_NAME} {human(2 * macs)} ({TWO_MACS_NOTE})"


def score(value: float | None) -> str:
    """A score with four decimals, or in four digits where those would hide it; ``-`` when there is none."""
    if value is None or not math.isfinite(value):
        return ABSENT
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:.4f}"
    return f"{value:.4g}"


def latency(milliseconds: float | None) -> str:
    """A latency [ms] in two to four digits, without its unit; ``-`` when it was not measured."""
    if milliseconds is None or not math.isfinite(milliseconds):
        return ABSENT
    return f"{milliseconds:.{3 if milliseconds < 1 else 2 if milliseconds < 100 else 0}f}"


def counted_at(sizes: Iterable[int]) -> str:
    """The input size at which the costs of some networks are counted, as a sentence."""
    distinct = sorted(set(sizes))
    if len(distinct) == 1:
        return f"Counted at an input of {distinct[0]} x {distinct[0]} px."
    return sizes_differ(distinct) or "Counted at each network's input size."


def sizes_differ(sizes: Iterable[int]) -> str:
    """A caution where networks take inputs of different sizes; empty where they do not."""
    distinct = sorted(set(sizes))
    if len(distinct) < 2:
        return ""
    return (
        f"The networks take inputs of different sizes ({', '.join(map(str, distinct))} px): MACs, activations and "
        "times are each at its size, so they compare the networks together with their inputs."
    )


def percent(part: float, whole: float) -> str:
    """``part`` as a percentage of ``whole`` with one decimal; ``-`` of nothing."""
    return f"{100 * part / whole:.1f}%" if whole else ABSENT


def duration(seconds: float) -> str:
    """A time span in the two units that matter: ``0.84 s``, ``1 min 52 s``, ``3 h 07 min``."""
    if not math.isfinite(seconds):
        return ABSENT
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(whole / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def test_cells(row: ConfirmedRow) -> tuple[str, str, str]:
    """Mean, 95% interval of it and each of the results of a network's fresh trainings, as text."""
    if not row.tests:
        return ABSENT, ABSENT, "every training failed"
    interval = ABSENT if row.low is None else f"{row.low:.2f} to {row.high:.2f}"
    return f"{sum(row.tests) / len(row.tests):.2f}", interval, ", ".join(f"{v:.2f}" for v in row.tests)


def megabytes(size: int) -> str:
    """A file's size [MB, 10^6 bytes], without its unit."""
    return f"{size / 1e6:.{2 if size < 1e8 else 0}f}"


def quantised_words(quantised: Quantised) -> str:
    """What the figures of quantised networks are, and how they were quantised and timed."""
    text = (
        f"Quantised: each network's best training, {quantised.measures}. {quantised.method}, of which there were "
        f"{quantised.calibrated:,}."
    )
    return text if quantised.timed is None else f"{text} Latency: {quantised.timed}."


def noise_words(noise: float) -> str:
    """The spread of repeated evaluations, as a sentence."""
    return (
        f"Noise: one evaluation of a code varies by {noise:.2f} (standard deviation). Codes whose scores differ by "
        "less than about twice that may well be in the other order."
    )

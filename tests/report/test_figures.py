"""Numbers as a person reads them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsszoo.report.figures import both_macs, duration, human, latency, percent, score

UNITS = {"k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12, "P": 1e15}


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (464, "464"),
        (9_999, "9,999"),
        (10_000, "10.00k"),
        (309_760, "309.8k"),
        (3_504_872, "3.50M"),
        (99_994_000, "99.99M"),
        (99_996_000, "100.0M"),
        (296_523_456, "296.5M"),
        (593_046_912, "593.0M"),
        (999_940_000, "999.9M"),
        (999_960_000, "1.00B"),
        (4_033_000_000, "4.03B"),
        (117_070_000_000, "117.1B"),
    ],
)
def test_human(count: int, text: str) -> None:
    assert human(count) == text


@given(st.integers(0, 10**16))
def test_human_is_within_its_last_digit(count: int) -> None:
    text = human(count).replace(",", "")
    if text.isdigit():
        assert int(text) == count
        return
    digits = text[:-1]
    assert len(digits.replace(".", "")) in (3, 4) or count >= 10**15
    last = 10.0 ** -len(digits.split(".")[1])
    assert abs(float(digits) * UNITS[text[-1]] - count) <= 0.5001 * last * UNITS[text[-1]]


def test_both_macs_names_each_figure() -> None:
    assert both_macs(296_523_456) == (
        "MACs 296.5M (the paper's FLOPs) | 2 x MACs 593.0M (what tools counting a multiply-add as two call FLOPs, "
        "e.g. NVIDIA Model Optimizer)"
    )


@pytest.mark.parametrize("absent", [None, math.nan, math.inf])
def test_what_is_no_figure_is_a_dash(absent: float | None) -> None:
    assert score(absent) == latency(absent) == "-"


def test_scores_keep_the_digits_that_tell_them_apart() -> None:
    assert [score(v) for v in (0.0, -1.25, 76.31234, 1.25e-7, 3.2e9)] == [
        "0.0000",
        "-1.2500",
        "76.3123",
        "1.25e-07",
        "3.2e+09",
    ]


def test_shares_and_spans() -> None:
    assert percent(1, 8) == "12.5%"
    assert percent(1, 0) == "-"
    spans = [duration(s) for s in (0.004, 9.99, 9.996, 59.6, 101.3, 3599.7, 11_220)]
    assert spans == ["0.00 s", "9.99 s", "10 s", "1 min 00 s", "1 min 41 s", "1 h 00 min", "3 h 07 min"]


@pytest.mark.parametrize(
    ("ms", "text"), [(0.0456, "0.046"), (0.9, "0.900"), (1.234, "1.23"), (99.0, "99.00"), (150.4, "150")]
)
def test_a_short_latency_has_as_many_digits_as_a_long_one(ms: float, text: str) -> None:
    assert latency(ms) == text

"""Intervals against scipy's and a simulation; no word that the interval does not carry."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bsszoo.compression.confirm import Interval, difference, format_interval, mean_interval, verdict

FIGURES = st.lists(st.floats(0, 100, width=32), min_size=2, max_size=8).filter(lambda v: np.std(v) > 1e-3)


@given(FIGURES)
def test_the_interval_of_a_mean_is_student_s(values):
    found = mean_interval(values)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


@given(FIGURES, FIGURES)
def test_the_difference_is_welch_s_by_its_formula(a, b):
    found = difference(a, b)
    va, vb = np.var(a, ddof=1) / len(a), np.var(b, ddof=1) / len(b)
    freedom = (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1))
    half = stats.t.ppf(0.975, freedom) * np.sqrt(va + vb)
    gap = np.mean(a) - np.mean(b)
    assert found.mean == pytest.approx(gap, abs=1e-9)
    assert (found.low, found.high) == (pytest.approx(gap - half, abs=1e-6), pytest.approx(gap + half, abs=1e-6))


def test_of_two_equal_groups_better_or_worse_is_said_about_once_in_twenty_times():
    rng = np.random.default_rng(0)
    message = [verdict(list(rng.normal(90, 0.3, 3)), list(rng.normal(90, 0.3, 3)), "it") for _ in range(2000)]
    claims = np.mean(["better" in text or "worse" in text for text in message])
    assert 0.02 < claims < 0.06


@pytest.mark.parametrize(
    ("best", "control", "word"),
    [
        ([91.0, 91.1, 91.2], [90.0, 90.1, 90.2], "is better than the other"),
        ([90.0, 90.1, 90.2], [91.0, 91.1, 91.2], "is worse than the other"),
        ([90.0, 91.0, 92.0], [90.1, 90.9, 91.7], "is not distinguishable from the other"),
        ([95.0], [90.0], "nothing is claimed"),
        ([95.0], [90.0, 90.1, 90.2], "nothing is claimed"),
        ([95.0, 95.0], [90.0, 90.0], "nothing is claimed"),
    ],
)
def test_the_words_follow_the_interval(best, control, word):
    text = verdict(best, control, "the other")
    assert word in text
    assert ("better than" in text) == (difference(best, control).above_zero)


def test_one_value_has_no_interval_and_none_is_an_error():
    assert mean_interval([90.0]) == Interval(90.0)
    assert format_interval(mean_interval([90.0])) == "90.00"
    assert format_interval(Interval(1.0, -0.5, 2.5), sign=True) == "+1.00 (-0.50 to +2.50)"
    with pytest.raises(ValueError, match="at least one value"):
        mean_interval([])
    with pytest.raises(ValueError, match="each side"):
        difference([1.0], [])


def test_an_interval_of_percentages_stays_within_them():
    assert mean_interval([99.0, 98.2]).within_percent([99.0, 98.2]).high == 100
    assert mean_interval([0.5, 2.0]).within_percent([0.5, 2.0]).low == 0
    # Of other figures nothing is known.
    other = mean_interval([99.0, 101.0])
    assert other.within_percent([99.0, 101.0]) == other
    assert mean_interval([50.0]).within_percent([50.0]) == Interval(50.0)


def test_without_an_interval_nothing_is_claimed_and_the_reason_is_said():
    few = verdict([90.0], [80.0, 81.0], "it")
    assert "Too few trainings for an interval, and nothing is claimed: give --confirm 3 or more." in few
    equal = verdict([99.2, 99.2, 99.2], [99.0, 99.2, 99.4], "it")
    assert "All trainings of one gave the same, so there is no interval, and nothing is claimed." in equal

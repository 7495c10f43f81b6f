"""Budgets as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsszoo.compression.budget import parse_amount
from bsszoo.errors import BudgetError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("130M", 130_000_000), ("130m", 130_000_000), ("0.13G", 130_000_000), ("1.8B", 1_800_000_000),
        ("130e6", 130_000_000), ("130000000", 130_000_000), (" 130 M ", 130_000_000), ("60%", 600), ("2.5k", 2500),
        (130_000_000, 130_000_000), (1.3e8, 130_000_000), (".5M", 500_000),
    ],
)
def test_amounts(text, value):
    assert parse_amount(text, of=1000, what="--flops") == value


@pytest.mark.parametrize(
    "text", ["", "M", "-5M", "130X", "0", "0.6", "0%", "nan", "inf", "1e999", "13 0M", True, "60 %%"]
)
def test_what_is_no_amount_is_named(text):
    with pytest.raises(BudgetError, match="--flops is"):
        parse_amount(text, of=1000, what="--flops")


@given(st.integers(1, 10**13))
def test_plain_numbers_stay(n):
    assert parse_amount(str(n), of=1, what="--flops") == n

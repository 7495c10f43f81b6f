"""The uniformly rescaled network: Table 4's row, and the largest scale that a budget allows."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import FAMILY_NAMES

from bsszoo.codes import FAMILIES, Code, code_cost
from bsszoo.spaces.space import MAX_SCALE, MIN_SCALE, fit_scale, uniform_code


def original(family: str) -> Code:
    return Code.from_entries(family, FAMILIES[family].original)


def test_mobilenetv2_at_0_6_is_table_4s_uniformly_rescaled_row() -> None:
    code = uniform_code(original("mobilenetv2"), 0.6)
    assert code.entries == (16, 20, 40, 56, 96, 192, 2, 3, 4, 3, 3, 1, 6, 6, 6, 6, 6, 6)
    assert (code.stem_width, code.stage2_width, code.stage2_depth) == (16, 12, 1)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_scale_1_changes_nothing_and_depths_are_always_kept(family: str) -> None:
    code = original(family)
    assert uniform_code(code, 1) == code
    half = uniform_code(code, 0.5)
    assert (half.depths, half.expansions) == (code.depths, code.expansions)
    assert all(a < b for a, b in zip(half.widths, code.widths, strict=True))


@cache
def ladder(family: str) -> dict[int, int]:
    """MACs at every fifth scale, by thousandths."""
    steps = range(round(1000 * MIN_SCALE), round(1000 * MAX_SCALE) + 1, 5)
    return {s: code_cost(uniform_code(original(family), s / 1000)).macs for s in steps}


@given(st.sampled_from(FAMILY_NAMES), st.floats(0.002, 12))
def test_fit_scale_is_the_largest_of_all_scales_that_keep_the_budget(family: str, share: float) -> None:
    code = original(family)
    budget = int(share * code_cost(code).macs)
    # Bisection needs MACs that never fall when the scale grows; the ladder shows whether they do.
    inside = [s for s, macs in ladder(family).items() if macs <= budget]
    fitted = fit_scale(code, budget)
    if fitted is None:
        assert inside == []
        return
    assert code_cost(uniform_code(code, fitted)).macs <= budget
    if FAMILIES[family].grows_with_scale:
        assert inside == [s for s in ladder(family) if s <= 1000 * fitted + 1e-6]
    else:
        assert all(s <= 1000 * fitted + 1e-6 for s in inside)

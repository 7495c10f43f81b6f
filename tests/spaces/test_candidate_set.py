"""Candidate sets: look-ups, repeats, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bsszoo.errors import SpaceError
from bsszoo.spaces import CandidateSet


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 80), st.integers(1, 6))
def test_a_row_is_found_again_and_repeats_are_dropped(seed, n, d):
    codes = np.random.default_rng(seed).integers(1, 4, size=(n, d))
    candidates = CandidateSet(codes, macs=np.arange(n))
    assert len(candidates) == len(np.unique(codes, axis=0))
    for i, row in enumerate(candidates.codes):
        assert candidates.index(dict(zip(candidates.names, row.tolist(), strict=True))) == i
        assert (codes[candidates.macs[i]] == row).all()
        assert candidates.macs[i] == np.flatnonzero((codes == row).all(axis=1))[0]
    assert candidates.row(np.full(d, 9)) is None


def test_distributions_span_the_bounds():
    candidates = CandidateSet(np.array([[2, 7], [4, 7]]), names=("a", "b"), bounds=((1, 9), (7, 7)))
    assert {n: (x.low, x.high) for n, x in candidates.distributions.items()} == {"a": (1, 9), "b": (7, 7)}
    assert candidates.index({"a": 2}) is None


@pytest.mark.parametrize(
    "arguments",
    [
        {"codes": np.empty((0, 3), dtype=int)},
        {"codes": np.ones(3, dtype=int)},
        {"codes": np.ones((2, 2))},
        {"codes": np.ones((2, 2), dtype=int), "names": ("a",)},
        {"codes": np.ones((2, 2), dtype=int), "names": ("a", "a")},
        {"codes": np.ones((2, 2), dtype=int), "macs": np.ones(3)},
        {"codes": np.array([[5]]), "bounds": ((1, 4),)},
    ],
)
def test_arrays_that_disagree_are_refused(arguments):
    with pytest.raises(SpaceError):
        CandidateSet(**arguments)


def test_the_set_cannot_be_changed():
    candidates = CandidateSet(np.array([[1, 2]]))
    with pytest.raises(ValueError, match="read-only"):
        candidates.codes[0, 0] = 5


def test_costs_in_another_unit_are_kept_and_unknown_ones_refused():
    codes = np.array([[1], [2], [3]])
    np.testing.assert_array_equal(CandidateSet(codes, macs=np.array([0.5, 1.25, 2.0])).macs, [0.5, 1.25, 2.0])
    assert CandidateSet(codes, macs=np.array([5.0, 6.0, 7.0])).macs.dtype == np.int64
    with pytest.raises(SpaceError, match="finite"):
        CandidateSet(codes, macs=np.array([1.0, np.nan, 2.0]))

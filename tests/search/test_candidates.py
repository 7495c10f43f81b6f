"""Candidate sets: look-ups, limits, and drawing that is uniform among the feasible codes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from bsszoo.codes import Space, code_cost, cost_array
from bsszoo.errors import SpaceError
from bsszoo.search import CandidateSet, Limits, draw_candidates
from bsszoo.search.candidates import within_reach


def _tiny():
    """648 codes, so that every one can be listed."""
    return Space.of("resnet18").replace(
        C2=[32, 64, 128], C3=[64, 128], C4=[128, 256, 512], C5=[512, 1024, 2048],
        L2=[1, 2], L3=[1], L4=[1, 2, 3], L5=[1, 3],
    )


def _all_codes(space):
    return np.array(list(itertools.product(*space.axes)), dtype=np.int64)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 80), st.integers(1, 6))
def test_a_row_is_found_again_and_repeats_are_dropped(seed, n, d):
    codes = np.random.default_rng(seed).integers(1, 4, size=(n, d))
    found = CandidateSet(codes, macs=np.arange(n))
    assert len(found) == len(np.unique(codes, axis=0))
    for i, row in enumerate(found.codes):
        assert found.index(dict(zip(found.names, row.tolist(), strict=True))) == i
        assert (codes[found.macs[i]] == row).all()
        assert found.macs[i] == np.flatnonzero((codes == row).all(axis=1))[0]
    assert found.row(np.full(d, 9)) is None


def test_distributions_span_the_bounds():
    found = CandidateSet(np.array([[2, 7], [4, 7]]), names=("a", "b"), bounds=((1, 9), (7, 7)))
    assert {n: (x.low, x.high) for n, x in found.distributions.items()} == {"a": (1, 9), "b": (7, 7)}
    assert found.index({"a": 2}) is None


@pytest.mark.parametrize(
    "arguments",
    [
        {"codes": np.empty((0, 3), dtype=int)}, {"codes": np.ones(3, dtype=int)}, {"codes": np.ones((2, 2))},
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
    found = CandidateSet(np.array([[1, 2]]))
    with pytest.raises(ValueError, match="read-only"):
        found.codes[0, 0] = 5


def _limits(space):
    costs = cost_array(space, _all_codes(space))
    return Limits(
        min_macs=int(np.quantile(costs.macs, 0.4)), max_macs=int(np.quantile(costs.macs, 0.7)),
        max_params=int(np.quantile(costs.params, 0.8)),
    )


def test_drawing_a_small_space_finds_exactly_the_feasible_codes():
    space = _tiny()
    limits = _limits(space)
    every = _all_codes(space)
    inside = [tuple(c) for c in every if _keeps(space, c, limits)]
    found = draw_candidates(space, limits, 10_000, 0)
    assert sorted(map(tuple, found.codes)) == sorted(inside)
    for row, macs, params, activations in zip(found.codes, found.macs, found.params, found.activations, strict=True):
        cost = code_cost(space.code(row))
        assert (cost.macs, cost.params, cost.activations) == (macs, params, activations)


def _keeps(space, row, limits):
    cost = code_cost(space.code(row))
    return limits.min_macs <= cost.macs <= limits.max_macs and cost.params <= limits.max_params


def test_drawing_is_uniform_among_the_feasible_codes():
    space = _tiny()
    limits = _limits(space)
    counts: dict[tuple[int, ...], int] = {}
    for seed in range(60):
        for row in draw_candidates(space, limits, 25, seed).codes:
            counts[tuple(row)] = counts.get(tuple(row), 0) + 1
    every = draw_candidates(space, limits, 10_000, 0)
    observed = [counts.get(tuple(row), 0) for row in every.codes]
    assert chisquare(observed).pvalue > 0.001


def test_within_reach_keeps_every_feasible_code_and_drops_values_that_none_has():
    space = _tiny()
    tight = Limits(max_macs=int(code_cost(space.smallest).macs * 1.1))
    for limits in (_limits(space), tight):
        reach = within_reach(space, limits)
        kept = [c for c in _all_codes(space) if limits.hold(space, c[None])[0][0]]
        assert all(space.code(c) in reach for c in kept)
        assert reach.size <= space.size
    assert within_reach(space, tight).size < space.size


def test_limits_that_no_code_keeps_draw_nothing():
    assert draw_candidates(_tiny(), Limits(max_macs=1), 10, 0) is None
    assert draw_candidates(_tiny(), Limits(min_macs=10**15), 10, 0) is None


def test_the_same_seed_draws_the_same_codes():
    space = Space.of("mobilenetv2")
    a, b, c = (draw_candidates(space, Limits(max_macs=300_000_000), 500, s) for s in (1, 1, 2))
    np.testing.assert_array_equal(a.codes, b.codes)
    assert not np.array_equal(a.codes, c.codes)
    assert a.bounds == space.bounds

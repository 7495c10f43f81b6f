"""Drawing candidates: uniform among the feasible codes, complete where they are few, also one in a hundred million."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from bsszoo.codes import Space, code_cost, cost_array
from bsszoo.search import Limits, draw_candidates, feasible


def _tiny():
    """648 codes, so that every one can be listed."""
    return Space.of("resnet18").replace(
        C2=[32, 64, 128], C3=[64, 128], C4=[128, 256, 512], C5=[512, 1024, 2048],
        L2=[1, 2], L3=[1], L4=[1, 2, 3], L5=[1, 3],
    )


def _all_codes(space):
    return np.array(list(itertools.product(*space.axes)), dtype=np.int64)


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


def test_a_proven_empty_set_is_told_at_once_and_one_code_among_many_is_found():
    space = Space.of("mobilenetv2")  # 2 x 10^11 codes
    least = code_cost(space.smallest)
    assert draw_candidates(space, Limits(max_macs=least.macs - 1), 5, 0, max_draws=1000) is None
    found = draw_candidates(space, Limits(max_macs=least.macs), 5, 0)
    assert [space.code(row) for row in found.codes] == [space.smallest]
    most = code_cost(space.largest)
    found = draw_candidates(space, Limits(min_macs=most.macs), 5, 0)
    assert [space.code(row) for row in found.codes] == [space.largest]


@pytest.mark.parametrize("seed", range(3))
def test_near_the_largest_code_none_is_missed_whatever_the_seed(seed):
    # A share of one in a hundred million: 2,260 codes, as counted by splitting the space exactly.
    limits = Limits(min_macs=2_196_000_000, max_macs=2_440_000_000)
    assert len(draw_candidates(Space.of("mobilenetv2"), limits, 20_000, seed)) == 2260


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_boxes_lose_no_feasible_code_also_where_a_width_below_the_stem_costs_more(seed):
    rng = np.random.default_rng(seed)
    # A ResNet-50 block as wide as the stem has no projection: 56 costs more than 64 there.
    space = Space.of("resnet50").replace(
        C2=[48, 56, 64, 128], C3=[128, 256], C4=[256, 512], C5=[512], B2=[1 / 8], B3=[1 / 4], B4=[1 / 8], B5=[1 / 8],
        L2=[1, 2], L3=[1, 3], L4=[1], L5=[1, 2],
    )
    every = space.rows(np.array(list(itertools.product(*(range(len(axis)) for axis in space.axes)))))
    costs = cost_array(space, every)
    low, high = np.sort(rng.choice(costs.macs, 2))
    limits = Limits(min_macs=int(low), max_macs=int(high), max_params=int(rng.choice(costs.params)))
    inside = every[(costs.macs >= low) & (costs.macs <= high) & (costs.params <= limits.max_params)]
    with_boxes = _split_far(space, limits)
    found = np.empty((0, every.shape[1]), dtype=int) if with_boxes is None else with_boxes.codes
    assert sorted(map(tuple, found)) == sorted(map(tuple, inside))


def _split_far(space, limits):
    """Draw as from a huge space: split to single codes before anything is listed."""
    boxes = feasible._reachable(space, limits, feasible._whole(space))
    for _ in range(12):
        boxes = feasible._split(space, limits, boxes) if len(boxes) else boxes
    if not len(boxes):
        return None
    return feasible._candidates(space, feasible._listed(space, limits, boxes), 10**6, np.random.default_rng(0))


def test_limits_that_no_code_keeps_draw_nothing():
    assert draw_candidates(_tiny(), Limits(max_macs=1), 10, 0) is None
    assert draw_candidates(_tiny(), Limits(min_macs=10**15), 10, 0) is None


def test_the_same_seed_draws_the_same_codes():
    space = Space.of("mobilenetv2")
    a, b, c = (draw_candidates(space, Limits(max_macs=300_000_000), 500, s) for s in (1, 1, 2))
    np.testing.assert_array_equal(a.codes, b.codes)
    assert not np.array_equal(a.codes, c.codes)
    assert a.bounds == space.bounds

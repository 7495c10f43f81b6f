"""Maximal codes, judged against brute force: in a space under limits, and in a list of codes with and without twins."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bsszoo.codes import code_cost, depth
from bsszoo.errors import SpaceError
from bsszoo.spaces import CandidateSet, LatencyTable, Limits, Space, cost_array, draw_candidates
from bsszoo.spaces.chain import space_shapes


def _brute(codes, labels):
    """A code is maximal when no code of another network has the same entries but one larger; so for its network."""
    grows = set()
    for a, label in zip(codes, labels, strict=True):
        for b, other in zip(codes, labels, strict=True):
            if (a != b).sum() == 1 and (b >= a).all() and label != other:
                grows.add(label)
    return np.array([label not in grows for label in labels])


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 5), st.sampled_from([3, 7, 2**40]))
def test_a_list_is_judged_against_itself(seed, n, d, factor):
    rng = np.random.default_rng(seed)
    codes = np.unique(rng.integers(1, 4, size=(n, d)), axis=0) * factor
    rng.shuffle(codes)
    candidates = CandidateSet(codes)
    assert candidates.maximal.tolist() == _brute(codes, np.arange(len(codes))).tolist()
    assert not candidates.maximal.flags.writeable


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 4), st.integers(1, 12))
def test_twins_leave_the_first_with_its_costs_and_a_network_is_maximal_when_no_twin_can_grow(seed, n, d, networks):
    rng = np.random.default_rng(seed)
    codes = np.unique(rng.integers(1, 4, size=(n, d)), axis=0)
    rng.shuffle(codes)
    keys = rng.integers(networks, size=len(codes)).astype(str)
    whole = CandidateSet(codes, macs=np.arange(len(codes)), latency=np.arange(len(codes)) / 2)
    single = whole.without_twins(keys)
    first = [list(keys).index(k) for k in dict.fromkeys(keys)]
    assert single.macs.tolist() == first
    assert (single.codes == codes[first]).all()
    assert (single.latency == np.array(first) / 2).all()
    assert single.maximal.tolist() == _brute(codes, keys)[first].tolist()
    again = single.without_twins(np.arange(len(single)))
    assert again.maximal.tolist() == single.maximal.tolist()
    assert single.bounds == whole.bounds


def test_many_columns_of_many_values_are_told_apart():
    # More combinations than 63 bits hold: 40 columns of 50 values.
    rng = np.random.default_rng(0)
    base = rng.integers(1, 50, size=(60, 40))
    grown = base.copy()
    grown[np.arange(60), rng.integers(40, size=60)] += 1
    candidates = CandidateSet(np.concatenate([base, grown]))
    assert candidates.maximal.tolist() == [False] * 60 + [True] * 60


def test_keys_that_are_not_one_for_each_code_are_refused():
    with pytest.raises(SpaceError, match="one label for each of the 2 codes"):
        CandidateSet(np.array([[1], [2]])).without_twins(["a"])


def _mobile():
    return Space.of("mobilenetv2").replace(
        C3=[12, 16],
        C4=[16, 24],
        C5=[32],
        C6=[48, 72],
        C7=[80],
        C8=[160, 240],
        L3=[1, 2],
        L4=[1],
        L5=[1, 3],
        L6=[1],
        L7=[1, 2],
        L8=[1],
        T3=[3, 6],
        T4=[3],
        T5=[3],
        T6=[3, 6],
        T7=[6],
        T8=[3],
    )


def _stemmed():
    return Space.of("resnet50").replace(
        C2=[48, 56, 64, 128],
        C3=[128, 256],
        C4=[256],
        C5=[512],
        B2=[1 / 8, 1 / 2],
        B3=[1 / 4],
        B4=[1 / 8, 1 / 4],
        B5=[1 / 8],
        L2=[1, 2],
        L3=[1, 3],
        L4=[1, 2],
        L5=[1],
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.booleans())
def test_a_drawn_set_is_judged_against_its_space(seed, stemmed, timed):
    rng = np.random.default_rng(seed)
    space = _stemmed() if stemmed else _mobile()
    indices = np.array(list(itertools.product(*(range(len(axis)) for axis in space.axes))))
    costs = cost_array(space, space.rows(indices))
    table = LatencyTable({shape: float(rng.integers(1, 900)) for shape in space_shapes(space)}) if timed else None
    limits = Limits(
        max_macs=int(np.quantile(costs.macs, rng.uniform(0.2, 1))),
        max_params=int(rng.choice(costs.params)),
        max_activations=int(rng.choice(costs.activations)),
        max_depth=40,
        **({"latency": table, "max_latency": float(rng.integers(2000, 9000))} if table else {}),
    )
    drawn = draw_candidates(space, limits, 12, seed)
    if drawn is None:
        return
    index_of = {tuple(row): tuple(at) for at, row in zip(indices, space.rows(indices), strict=True)}
    for row, maximal in zip(drawn.codes, drawn.maximal, strict=True):
        at = np.array(index_of[tuple(row)])
        larger = [
            at + step * np.eye(len(at), dtype=int)[j]
            for j in range(len(at))
            for step in range(1, len(space.axes[j]) - at[j])
        ]
        assert maximal == (not any(_keeps(space, p, limits, table) for p in larger))


def _keeps(space, index, limits, table):
    code = space.code(space.rows(index[None])[0])
    cost = code_cost(code)
    return (
        cost.macs <= limits.max_macs
        and cost.params <= limits.max_params
        and cost.activations <= limits.max_activations
        and depth(code) <= limits.max_depth
        and (table is None or table.of(code) <= limits.max_latency)
    )


def test_a_latency_function_holds_growth_back_too():
    space = _mobile()
    limits = Limits(max_latency=3.0, latency=_depths)
    drawn = draw_candidates(space, limits, 10_000, 0)
    # Nothing else is limited: of (L3, L5) only (1, 1) and (2, 1) are fast enough, and all others grow to their most.
    largest = np.array(space.largest.entries)
    largest[8] = 1
    assert drawn.codes[drawn.maximal].tolist() == [largest.tolist()]
    again = pickle.loads(pickle.dumps(drawn))
    assert (again.maximal == drawn.maximal).all()


def _depths(code):
    return float(code.depths[0] + code.depths[2])


def test_a_sample_is_not_judged_against_itself():
    space = Space.of("mobilenetv2")
    drawn = draw_candidates(space, Limits(max_macs=10**12), 50, 0)
    assert not drawn.maximal.any()  # nothing is limited, so only the largest code of 10^11 is maximal
    assert CandidateSet(drawn.codes).maximal.all()


def test_a_read_only_array_is_taken_as_it_is_and_any_other_copied():
    codes = np.array([[1, 2], [3, 4]])
    copied = CandidateSet(codes)
    codes[0, 0] = 9
    assert copied.codes.tolist() == [[1, 2], [3, 4]]
    codes.flags.writeable = False
    assert CandidateSet(codes).codes is codes

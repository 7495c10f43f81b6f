"""Drawing candidates: uniform among the feasible codes, complete where they are few, also one in a hundred million."""

from __future__ import annotations

import itertools
import pickle
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from bsszoo.codes import code_cost
from bsszoo.errors import BudgetError
from bsszoo.spaces import (
    LatencyFunction,
    LatencyTable,
    Limits,
    Space,
    cost_array,
    depth_array,
    draw_candidates,
    feasible,
)
from bsszoo.spaces.chain import space_shapes

# How codes are drawn: thrown away when outside, from pairs of half-codes, from boxes.
WAYS = ("plain", "halves", "boxes")


def _tiny():
    """648 codes, so that every one can be listed."""
    return Space.of("resnet18").replace(
        C2=[32, 64, 128],
        C3=[64, 128],
        C4=[128, 256, 512],
        C5=[512, 1024, 2048],
        L2=[1, 2],
        L3=[1],
        L4=[1, 2, 3],
        L5=[1, 3],
    )


def _stemmed():
    """768 codes of ResNet-50 whose first block costs less at the stem's 64 channels than at 56."""
    return Space.of("resnet50").replace(
        C2=[48, 56, 64, 128],
        C3=[128, 256],
        C4=[256, 512],
        C5=[512],
        B2=[1 / 8, 1 / 2],
        B3=[1 / 4],
        B4=[1 / 8, 1 / 4, 3 / 8],
        B5=[1 / 8],
        L2=[1, 2],
        L3=[1, 3],
        L4=[1, 2],
        L5=[1, 2],
    )


def _shared():
    """768 codes of a GhostNet, where stage 6 costs less where it is as wide as stage 5 than where it is narrower."""
    return Space.of("ghostnet").replace(
        C3=[16],
        C4=[24],
        C5=[48, 56, 64, 72],
        C6=[56, 64, 72],
        C7=[80],
        L3=[1],
        L4=[1],
        L5=[1, 2],
        L6=[1, 2],
        L7=[1, 4],
        T3=[2],
        T4=[2, 6],
        T5=[1, 2],
        T6=[1],
        T7=[1, 2],
    )


def _all_codes(space):
    return space.rows(np.array(list(itertools.product(*(range(len(axis)) for axis in space.axes)))))


def _limits(space):
    costs = cost_array(space, _all_codes(space))
    return Limits(
        min_macs=int(np.quantile(costs.macs, 0.4)),
        max_macs=int(np.quantile(costs.macs, 0.7)),
        max_params=int(np.quantile(costs.params, 0.8)),
        max_activations=int(np.quantile(costs.activations, 0.9)),
    )


def _inside(space, limits):
    every = _all_codes(space)
    costs = cost_array(space, every)
    inside = np.ones(len(every), dtype=bool)
    for figure in ("macs", "params", "activations"):
        low, high = getattr(limits, f"min_{figure}"), getattr(limits, f"max_{figure}")
        inside &= (getattr(costs, figure) >= (low or 0)) & (getattr(costs, figure) <= (high or np.inf))
    return every[inside & (depth_array(space, every) <= (limits.max_depth or np.inf))]


def _force(monkeypatch, way, *, listing):
    """Draw as from a huge space, in one of the ways, listing nothing unless asked to."""
    monkeypatch.setattr(feasible, "_ENOUGH", {"plain": 0.0, "halves": 0.9, "boxes": 0.9}[way])
    if way == "boxes":
        monkeypatch.setattr(feasible, "cut_of", lambda _: None)
    if not listing:
        monkeypatch.setattr(feasible, "_LIST", 0)
        monkeypatch.setattr(feasible, "_LIST_TIMES", 0)
    monkeypatch.setattr(feasible, "_TEST", 500)


@pytest.mark.parametrize("space", [_tiny(), _stemmed()], ids=lambda s: s.family)
@pytest.mark.parametrize("way", WAYS)
def test_a_small_space_gives_exactly_the_feasible_codes(monkeypatch, space, way):
    _force(monkeypatch, way, listing=True)
    monkeypatch.setattr(feasible, "_LIST", 64)
    limits = _limits(space)
    drawn = draw_candidates(space, limits, 10_000, 0)
    assert sorted(map(tuple, drawn.codes)) == sorted(map(tuple, _inside(space, limits)))
    for row, macs, params, activations in zip(drawn.codes, drawn.macs, drawn.params, drawn.activations, strict=True):
        cost = code_cost(space.code(row))
        assert (cost.macs, cost.params, cost.activations) == (macs, params, activations)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("listing", [True, False])
def test_drawing_is_uniform_among_the_feasible_codes(monkeypatch, way, listing):
    _force(monkeypatch, way, listing=listing)
    space = _tiny()
    limits = _limits(space)
    every = _inside(space, limits)
    counts = dict.fromkeys(map(tuple, every), 0)
    for seed in range(60):
        drawn = draw_candidates(space, limits, 25, seed, max_draws=2000)
        assert len(drawn) == 25
        for row in drawn.codes:
            counts[tuple(row)] += 1
    assert chisquare(list(counts.values())).pvalue > 0.001


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["halves", "boxes"]), st.sampled_from([_tiny, _stemmed, _shared]))
def test_no_feasible_code_is_lost_and_none_outside_is_drawn(seed, way, make):
    rng = np.random.default_rng(seed)
    space = make()
    every = _all_codes(space)
    costs = cost_array(space, every)
    low, high = np.sort(rng.choice(costs.macs, 2))
    limits = Limits(
        min_macs=int(low),
        max_macs=int(high),
        max_params=int(rng.choice(costs.params)),
        max_activations=int(rng.choice(costs.activations)),
        max_depth=int(rng.choice(depth_array(space, every))),
    )
    with pytest.MonkeyPatch.context() as patch:
        _force(patch, way, listing=True)
        patch.setattr(feasible, "_LIST", 10)
        drawn = draw_candidates(space, limits, 10_000, 0)
    codes = np.empty((0, every.shape[1]), dtype=int) if drawn is None else drawn.codes
    assert sorted(map(tuple, codes)) == sorted(map(tuple, _inside(space, limits)))


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6))
def test_a_latency_table_is_kept_exactly_whatever_it_holds(seed):
    # Wider and deeper may be faster: no bound may assume that times grow.
    rng = np.random.default_rng(seed)
    space = _tiny()
    table = LatencyTable({shape: float(rng.integers(1, 2000)) / 1000 for shape in space_shapes(space)})
    every = _all_codes(space)
    ms = np.array([table.of(space.code(row)) for row in every])
    limits = Limits(
        max_latency=float(rng.choice(ms)), latency=table, max_macs=int(rng.choice(cost_array(space, every).macs))
    )
    inside = every[(ms <= limits.max_latency) & (cost_array(space, every).macs <= limits.max_macs)]
    with pytest.MonkeyPatch.context() as patch:
        _force(patch, "halves", listing=True)
        patch.setattr(feasible, "_LIST", 10)
        drawn = draw_candidates(space, limits, 10_000, 0)
    assert sorted(map(tuple, [] if drawn is None else drawn.codes)) == sorted(map(tuple, inside))
    if drawn is not None:
        assert [table.of(space.code(row)) for row in drawn.codes] == drawn.latency.tolist()


def test_a_latency_function_is_asked_about_each_code_once_and_kept():
    space, asked = _tiny(), []

    def ms(code):
        asked.append(code)
        return code.depths[0] + code.widths[3] / 1024

    limits = Limits(max_latency=2.0, latency=ms, max_macs=10**10)
    drawn = draw_candidates(space, limits, 10_000, 0)
    assert len(asked) == len(set(asked)) == len(_inside(space, limits))
    expected = [row for row in _inside(space, limits) if row[4] + row[3] / 1024 <= 2]
    assert sorted(map(tuple, drawn.codes)) == sorted(map(tuple, expected))
    assert drawn.latency.max() <= 2
    by_arrays = LatencyFunction(lambda codes: codes[:, 4] + codes[:, 3] / 1024, arrays=True)
    again = draw_candidates(space, Limits(max_latency=2.0, latency=by_arrays, max_macs=10**10), 10_000, 0)
    np.testing.assert_array_equal(again.codes, drawn.codes)
    assert draw_candidates(space, Limits(max_latency=0.1, latency=by_arrays), 10, 0) is None


@pytest.mark.parametrize("returned", [np.array([1.0]), np.array([[1.0, 2.0]]), [np.nan, 1.0], ["fast", "slow"], None])
def test_a_latency_function_that_returns_no_numbers_is_an_error(returned):
    model = LatencyFunction(lambda _: returned, arrays=True, name="mine")
    with pytest.raises(BudgetError, match="The latency function mine"):
        model.latencies(_tiny(), _all_codes(_tiny())[:2])


@pytest.mark.parametrize("way", ["halves", "boxes"])
def test_a_proven_empty_set_is_told_at_once_and_one_code_among_many_is_found(monkeypatch, way):
    if way == "boxes":
        monkeypatch.setattr(feasible, "cut_of", lambda _: None)
    space = Space.of("mobilenetv2")  # 2 x 10^11 codes
    least = code_cost(space.smallest)
    assert draw_candidates(space, Limits(max_macs=least.macs - 1), 5, 0, max_draws=1000) is None
    drawn = draw_candidates(space, Limits(max_macs=least.macs), 5, 0)
    assert [space.code(row) for row in drawn.codes] == [space.smallest]
    most = code_cost(space.largest)
    drawn = draw_candidates(space, Limits(min_macs=most.macs), 5, 0)
    assert [space.code(row) for row in drawn.codes] == [space.largest]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("way", ["halves", "boxes"])
def test_near_the_largest_code_none_is_missed_whatever_the_seed(monkeypatch, way, seed):
    if way == "boxes":
        monkeypatch.setattr(feasible, "cut_of", lambda _: None)
    # A share of one in a hundred million: 2,260 codes, as counted by splitting the space exactly.
    limits = Limits(min_macs=2_196_000_000, max_macs=2_440_000_000)
    assert len(draw_candidates(Space.of("mobilenetv2"), limits, 20_000, seed)) == 2260


def test_halves_and_boxes_draw_from_the_same_codes():
    # The means of two independent uniform samples agree within five standard errors.
    space, limits = Space.of("mobilenetv2"), Limits(min_macs=150_000_000, max_macs=170_000_000, max_params=2_200_000)
    samples = [draw_candidates(space, limits, 4000, 0)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feasible, "cut_of", lambda _: None)
        samples.append(draw_candidates(space, limits, 4000, 1))
    a, b = (s.codes.astype(float) for s in samples)
    error = np.sqrt(a.var(axis=0) / len(a) + b.var(axis=0) / len(b))
    assert (np.abs(a.mean(axis=0) - b.mean(axis=0)) < 5 * error + 1e-12).all()


def test_a_space_beyond_63_bits_is_drawn_from():
    space = Space.of("mobilenetv2")
    fine = {n: range(a[0], a[-1] + 1) for n, a in zip(space.entry_names, space.widths, strict=False)}
    space = space.replace(fine, T3=range(1, 7))
    assert space.size > 2**63
    drawn = draw_candidates(space, Limits(max_macs=300_000_000), 50, 0)
    assert len(drawn) == 50
    assert drawn.macs.max() <= 300_000_000
    assert all(space.code(row) in space for row in drawn.codes)


def test_limits_that_no_code_keeps_draw_nothing():
    assert draw_candidates(_tiny(), Limits(max_macs=1), 10, 0) is None
    assert draw_candidates(_tiny(), Limits(min_macs=10**15), 10, 0) is None


def test_the_same_seed_draws_the_same_codes():
    space = Space.of("mobilenetv2")
    draw = partial(draw_candidates, space, Limits(max_macs=100_000_000), 500)
    a, b, c = draw(1), draw(1), draw(2)
    np.testing.assert_array_equal(a.codes, b.codes)
    assert not np.array_equal(a.codes, c.codes)
    assert a.bounds == space.bounds
    again = pickle.loads(pickle.dumps(a))
    np.testing.assert_array_equal(again.maximal, a.maximal)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"max_macs": 0}, "a limit is at least 1"),
        ({"min_params": 5, "max_params": 4}, "from 5 to 4 params"),
        ({"min_activations": 9, "max_activations": 3}, "from 9 to 3 activations"),
        ({"max_latency": 3.0}, "no model predicts a code's latency"),
        ({"max_latency": -1.0, "latency": len}, "above 0"),
        ({"latency": 3}, "it takes a LatencyTable"),
        ({"latency": {}}, "holds no block"),
        ({"latency": {"stem": 1.0}}, "is no block"),
        ({"latency": {"mbconv_in16_out24_mid96_k3_s2_px112": 0}}, "milliseconds above 0"),
    ],
)
def test_limits_that_make_no_sense_are_refused(fields, words):
    with pytest.raises(BudgetError, match=words):
        Limits(**fields)


def test_a_table_that_lacks_a_block_is_told():
    space = _tiny()
    table = LatencyTable(dict.fromkeys(space_shapes(space)[1:], 1.0))
    assert table.missing(space) == space_shapes(space)[:1]
    with pytest.raises(BudgetError, match="has no time for basic_in"):
        draw_candidates(space, Limits(max_latency=100.0, latency=table), 10, 0)


@pytest.mark.parametrize("name", ["table.json", "table.csv"])
def test_a_table_is_written_and_read_back(tmp_path, name):
    table = LatencyTable({shape: 0.001 + i / 7 for i, shape in enumerate(space_shapes(_tiny()))})
    table.save(tmp_path / name)
    assert LatencyTable.load(tmp_path / name).digest() == table.digest()
    (tmp_path / name).write_text("[1, 2")
    with pytest.raises(BudgetError, match="latency table"):
        LatencyTable.load(tmp_path / name)
    with pytest.raises(BudgetError, match="cannot be read"):
        LatencyTable.load(tmp_path / "missing.json")

"""Contradictory limits: which one binds and the nearest code, against brute force where the space is small."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bsszoo.codes import code_cost
from bsszoo.spaces import LatencyTable, Limits, Space, cost_array, depth_array
from bsszoo.spaces.chain import space_shapes
from bsszoo.spaces.reachable import contradiction


def _small():
    return Space.of("efficientnet_b0").replace(
        C3=[16, 20],
        C4=[24, 32],
        C5=[48],
        C6=[56, 84],
        C7=[144],
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


SPACE = _small()
EVERY = SPACE.rows(np.array(list(itertools.product(*(range(len(axis)) for axis in SPACE.axes)))))


def _figures(table):
    costs = cost_array(SPACE, EVERY)
    return {
        "macs": costs.macs,
        "params": costs.params,
        "activations": costs.activations,
        "depth": depth_array(SPACE, EVERY),
        "latency": np.array([table.of(SPACE.code(row)) for row in EVERY]),
    }


def _table(seed):
    rng = np.random.default_rng(seed)
    return LatencyTable({shape: float(rng.integers(1, 900)) for shape in space_shapes(SPACE)})


TABLE = _table(1)
FIGURES = _figures(TABLE)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 4))
def test_what_is_called_contradictory_is_and_what_is_called_exact_is_the_nearest(seed, count):
    rng = np.random.default_rng(seed)
    sides = [(f, s) for f in FIGURES for s in ("max", "min") if hasattr(Limits, f"{s}_{f}")]
    chosen = [sides[i] for i in rng.choice(len(sides), size=count, replace=False)]
    given_limits = {f"{side}_{figure}": FIGURES[figure][rng.integers(len(EVERY))].item() for figure, side in chosen}
    if any(given_limits.get(f"min_{f}", 0) > given_limits.get(f"max_{f}", np.inf) for f in FIGURES):
        return
    limits = Limits(latency=TABLE, **given_limits)
    inside = {
        (f, s): FIGURES[f] <= given_limits[f"{s}_{f}"] if s == "max" else FIGURES[f] >= given_limits[f"{s}_{f}"]
        for f, s in chosen
    }
    feasible = np.all(list(inside.values()), axis=0).any()
    ways = contradiction(SPACE, limits)
    assert not (ways and feasible)
    if not ways:
        return
    assert [w.stretch for w in ways] == sorted(w.stretch for w in ways)
    assert any(w.proven for w in ways)
    for way in ways:
        side = "max" if way.upper else "min"
        others = np.ones(len(EVERY), dtype=bool)
        for key, which in inside.items():
            others &= which | (key == (way.figure, side)) | way.alone
        values = FIGURES[way.figure][others]
        nearest = values.min() if way.upper else values.max()
        row = (np.array(way.code.entries) == EVERY).all(axis=1)
        assert others[row].all()
        assert FIGURES[way.figure][row][0] == way.value
        # The bound holds, and where it is reached nothing is nearer.
        assert way.bound <= nearest <= way.value if way.upper else way.bound >= nearest >= way.value
        if way.exact:
            assert way.value == nearest


def test_one_opposing_limit_gives_the_exact_nearest_code_of_a_huge_space():
    space = Space.of("mobilenetv2")
    ways = contradiction(space, Limits(min_macs=270_000_000, max_macs=300_000_000, max_params=1_650_000))
    way = next(w for w in ways if w.figure == "params")
    assert code_cost(way.code).params == way.value == 1_660_760
    assert 270_000_000 <= code_cost(way.code).macs <= 300_000_000
    assert way.proven
    assert way.exact or way.bound > 1_650_000


def test_a_limit_that_no_code_keeps_stands_by_itself():
    ways = contradiction(Space.of("mobilenetv2"), Limits(max_macs=10**9, max_params=1000, max_activations=10**9))
    assert [(w.figure, w.value, w.alone, w.exact) for w in ways] == [
        ("params", code_cost(Space.of("mobilenetv2").smallest).params, True, True)
    ]


def test_limits_that_a_code_keeps_contradict_nothing():
    assert contradiction(SPACE, Limits(max_macs=int(FIGURES["macs"].max()))) == ()
    assert contradiction(SPACE, Limits()) == ()

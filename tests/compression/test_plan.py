"""From a budget to candidates: all inside, on the right grid, near the control, and clear words where nothing fits."""

from __future__ import annotations

import numpy as np
import pytest
from strategies import some_by_default

from bsszoo.codes import FAMILIES, Code, code_cost, depth
from bsszoo.compression.plan import around_uniform, budget_space, make_plan
from bsszoo.errors import BudgetError
from bsszoo.evaluators.structural import StructuralEvaluator
from bsszoo.search import LatencyFunction, LatencyTable
from bsszoo.spaces.chain import space_shapes
from bsszoo.spaces.limits import Caps
from bsszoo.spaces.space import Space, uniform_code
from bsszoo.study.result import ResolvedBudget

STRUCTURAL_CAPS = StructuralEvaluator.caps


def _original(family):
    return Code.from_entries(family, FAMILIES[family].original)


def _plan(family="mobilenetv2", macs=130_000_000, *, caps=STRUCTURAL_CAPS, params=None, candidates=2000, **more):
    """On the paper's own grid, unless ``more`` says otherwise."""
    return make_plan(
        _original(family),
        ResolvedBudget(macs, int(0.9 * macs), params),
        caps=caps,
        seed=0,
        candidates=candidates,
        **{"divisor": None, **more},
    )


def test_130m_gives_table_4s_grid_and_control():
    plan = _plan()
    assert [axis[0] for axis in plan.space.widths] == [6, 10, 20, 28, 48, 96]
    assert str(plan.uniform) == "mobilenetv2_c16-20-40-56-96-192_l2-3-4-3-3-1_t6-6-6-6-6-6_stem16_stage2-12x1"
    assert code_cost(plan.uniform).macs == 129_616_880
    assert (plan.space.stem_width, plan.space.stage2_width) == (16, 12)


def test_steps_are_what_devices_like_by_default_and_the_control_stays():
    space = budget_space(_original("mobilenetv2"), 130_000_000)
    assert [axis[0] // 3 if i < 1 else axis[0] // 2 for i, axis in enumerate(space.widths)] == [2, 4, 8, 16, 24, 48]
    plan = _plan(divisor=8)
    assert plan.uniform == _plan().uniform
    assert (plan.space.stem_width, plan.space.stage2_width) == (16, 12)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("share", [0.2, 0.43, 0.6, 1.0])
@pytest.mark.parametrize("divisor", [8, 16])
def test_widths_and_inner_widths_are_multiples_finer_where_the_original_is_narrow(family, share, divisor):
    macs = int(code_cost(_original(family)).macs * share)
    exact = budget_space(_original(family), macs, divisor=None)
    space = budget_space(_original(family), macs, divisor=divisor)
    assert space.scale == exact.scale
    assert [len(axis) for axis in space.widths] == [len(axis) for axis in exact.widths]
    assert space.depths == exact.depths
    n = len(space.widths)
    entries = FAMILIES[family].original
    for i, axis in enumerate(space.widths):
        # At least 8 multiples in the width of the network that the grid is around, or as fine as 2.
        own, step = round(space.scale * entries[i]), divisor
        while step > 2 and own < 8 * step:
            step //= 2
        assert all(width % step == 0 for width in axis)
        if space.shares_width:
            own, step = round(space.scale * entries[2 * n + i]), divisor
            while step > 2 and own < 8 * step:
                step //= 2
            assert all((share * width) % step == 0 for share in space.thirds[i] for width in axis)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("share", some_by_default([0.3, 0.6, 1.0], [0.6]))
def test_every_candidate_keeps_every_limit(family, share):
    macs = int(code_cost(_original(family)).macs * share)
    plan = _plan(family, macs, candidates=300)
    ref = code_cost(plan.uniform)
    for row in plan.candidates.codes[:100]:
        code = plan.space.code(row)
        cost = code_cost(code)
        assert code in plan.space
        assert 0.9 * macs - 1 <= cost.macs <= macs
        assert 0.85 * ref.params - 1 <= cost.params <= 1.25 * ref.params + 1
        assert depth(code) <= 1.5 * depth(plan.uniform)
        assert all(a <= 2 * b for a, b in zip(code.depths, plan.uniform.depths, strict=True))
    assert len(plan.caps) == 3


def test_the_control_never_exceeds_the_budget_and_the_next_scale_does():
    for macs in (40_000_000, 130_000_000, 222_000_000, 500_000_000):
        plan = _plan(macs=macs, caps=Caps(), candidates=50)
        assert code_cost(plan.uniform).macs <= macs
    wider = uniform_code(_original("mobilenetv2"), 0.605)
    assert code_cost(wider).macs > 130_000_000


def test_a_budget_that_leaves_nothing_inside_the_caps_drops_them_and_says_so():
    flat = Caps(depth=0.2, stage_depth=2.0, params=(0.5, 2.0))
    plan = _plan("resnet50", 4_000_000_000, params=12_000_000, caps=flat)
    assert any("drops the cap on depth" in note for note in plan.notes)
    assert plan.candidates.params.max() <= 12_000_000
    assert plan.candidates.macs.max() <= 4_000_000_000
    assert len(plan.caps) == 2


def test_caps_that_were_asked_for_are_not_dropped():
    with pytest.raises(BudgetError, match="inside the caps asked for"):
        _plan("resnet50", 4_000_000_000, caps=Caps(depth=0.2), strict=True)


def test_the_control_keeps_the_limit_on_parameters_too():
    plan = _plan("mobilenetv2", 150_000_000, params=2_100_000)
    assert code_cost(plan.uniform).params <= 2_100_000
    assert code_cost(plan.uniform).macs <= 150_000_000


def test_a_limit_on_parameters_that_needs_fewer_macs_gives_up_the_lower_limit_only():
    # Among codes of 270M to 300M MACs none has so few parameters; among those with fewer MACs some have.
    plan = _plan(macs=300_000_000, params=1_650_000, caps=Caps(), candidates=50)
    assert any("the lower limit of 270.0M MACs" in note for note in plan.notes)
    assert plan.candidates.params.max() <= 1_650_000
    assert plan.budget.min_macs == 0


@pytest.mark.parametrize(
    ("macs", "params", "words"),
    [
        (1_000_000, None, ["at most 1.00M MACs", "binds", "least is 7.64M MACs (7636476)", "Raise --flops to 7636476"]),
        (10**12, None, ["above the largest MobileNetV2 code", "2.45B (2454315648)"]),
        (130_000_000, 1_000_000, ["at most 1.00M parameters", "(1444384)", "Raise --params to 1444384"]),
    ],
)
def test_unreachable_budgets_name_the_limit_and_the_nearest_figure(macs, params, words):
    with pytest.raises(BudgetError) as error:
        _plan(macs=macs, params=params)
    assert all(word in str(error.value) for word in words)


def test_the_nearest_figures_named_are_reachable():
    # The smallest budget that the error names works, and one less does not.
    assert len(_plan(macs=7_636_476, caps=Caps(), candidates=10).candidates) >= 1
    with pytest.raises(BudgetError):
        _plan(macs=7_636_475, caps=Caps(), candidates=10)


def test_a_custom_scale_is_used():
    plan = _plan(scale=0.5, caps=Caps(), candidates=50)
    assert plan.space.scale == 0.5
    assert [axis[0] for axis in plan.space.widths] == [6, 8, 16, 24, 40, 80]


def test_structural_scores_are_standardised_and_equal_one_by_one():
    plan = _plan()
    judge = StructuralEvaluator().over(plan.space, plan.candidates)
    scores = judge.scores(plan.space, plan.candidates)
    assert scores.mean() == pytest.approx(0, abs=1e-9)
    for i in range(0, 2000, 97):
        assert judge(plan.space.code(plan.candidates.codes[i])).value == pytest.approx(scores[i])
    # The formula once more, from the definition.
    codes = [plan.space.code(row) for row in plan.candidates.codes[:300]]
    costs = [code_cost(c) for c in codes]
    terms = np.log([[depth(c), k.params, k.activations] for c, k in zip(codes, costs, strict=True)])
    z = (terms - np.array(judge.mean)) / np.array(judge.std)
    np.testing.assert_allclose(z.sum(axis=1), scores[:300])
    assert "not an accuracy" in (judge.info.caution or "")


def _timed(**more):
    """A plan under four limits at once, and the table that its latencies come from."""
    space = budget_space(_original("mobilenetv2"), 130_000_000)
    rng = np.random.default_rng(0)
    table = LatencyTable({shape: 0.1 + rng.random() for shape in space_shapes(space)})
    budget = ResolvedBudget(130_000_000, 117_000_000, 2_500_000, 4_000_000, **more)
    return table, make_plan(_original("mobilenetv2"), budget, caps=Caps(), seed=0, candidates=300, latency=table)


def test_macs_params_activations_and_latency_are_limited_at_once():
    table, plan = _timed(latency_ms=14.0)
    for i in range(0, 300, 7):
        code = plan.space.code(plan.candidates.codes[i])
        cost = code_cost(code)
        assert 117_000_000 <= cost.macs <= 130_000_000
        assert cost.params <= 2_500_000
        assert cost.activations <= 4_000_000
        assert table.of(code) == plan.candidates.latency[i] <= 14.0
    assert any("activations, beyond the limit of 4.00M" in note for note in plan.notes)


def test_a_latency_that_is_not_limited_is_a_column_only():
    _, plan = _timed()
    assert plan.candidates.latency.max() > 14.0


@pytest.mark.parametrize(("stem", "noted"), [(64, True), (4, False)])
def test_a_stem_that_takes_much_of_the_budget_is_noted(stem, noted):
    code = Code.parse(f"resnet18_c16-32-64-128_l2-2-2-2_stem{stem}_px32")
    space = Space.subnetworks(code, divisor=1, num_classes=10)
    macs = space.cost(code).macs // 2
    plan = make_plan(code, ResolvedBudget(macs, int(0.9 * macs)), caps=Caps(), seed=0, candidates=5, space=space)
    # By hand: 7 x 7 of 3 channels, at half of the input's side.
    share = 49 * 3 * stem * 16 * 16 / macs
    found = [note for note in plan.notes if "in front of the searched stages" in note]
    assert [f"are {100 * share:.0f}% of the budget" in note for note in found] == [True] * noted


@pytest.mark.parametrize(
    ("budget", "latency", "words"),
    [
        ({"activations": 1_000_000}, None, ["at most 1.00M activations", "Raise --activations to 1371216"]),
        ({"latency_ms": 5.0}, lambda code: 1.0 * sum(code.depths), ["gives at most 5 ms", "Raise --latency"]),
        ({"latency_ms": 0.5}, "table", ["at most 0.5 ms", "binds", "Raise --latency to"]),
        ({"latency_ms": 9.0}, "other", ["lacks", "the first one"]),
    ],
)
def test_limits_on_activations_and_latency_that_nothing_keeps_are_named(budget, latency, words):
    space = budget_space(_original("mobilenetv2"), 130_000_000)
    shapes = space_shapes(space)
    known = {"table": LatencyTable(dict.fromkeys(shapes, 0.3)), "other": LatencyTable(dict.fromkeys(shapes[:9], 0.3))}
    model = known[latency] if isinstance(latency, str) else latency and LatencyFunction(latency)
    with pytest.raises(BudgetError) as error:
        make_plan(
            _original("mobilenetv2"),
            ResolvedBudget(130_000_000, 117_000_000, **budget),
            caps=Caps(),
            seed=0,
            candidates=50,
            latency=model,
        )
    assert [word for word in words if word not in str(error.value)] == []


def test_limits_that_contradict_each_other_name_the_nearest_code_for_each():
    with pytest.raises(BudgetError) as error:
        make_plan(
            _original("mobilenetv2"),
            ResolvedBudget(130_000_000, 117_000_000, None, 2_500_000),
            caps=Caps(params=(2.0, 3.0)),
            seed=0,
            strict=True,
        )
    text = str(error.value)
    assert "inside the caps asked for has at most 130.0M MACs" in text
    assert "at most 2.50M activations" in text
    assert "The limit of at least 4.42M parameters binds." in text
    assert "Loosen --params-cap, or raise --flops to" in text


def test_codes_around_the_uniform_one_are_near_it_and_off_it_in_different_directions():
    plan = _plan("resnet18", 1_000_000_000, caps=Caps(), candidates=4000)
    centre, codes = np.array(plan.uniform.entries), plan.candidates.codes
    around = np.array(around_uniform(plan, 6))
    assert len(np.unique(around, axis=0)) == 6
    assert all(plan.candidates.row(code) is not None for code in around)
    offsets = [(these - centre) / codes.std(axis=0) for these in (around, codes)]
    mine, every = (np.linalg.norm(offset, axis=1) for offset in offsets)
    # The nearest of all is the first, and the others are among the nearest twentieth.
    assert mine[0] == every.min()
    assert mine.max() <= np.quantile(every, 0.05)
    directions = offsets[0] / mine[:, None]
    angles = (directions @ directions.T)[np.triu_indices(6, k=1)]
    drawn = (offsets[1] / every[:, None])[np.argsort(every)[:120]]
    assert angles.mean() < (drawn @ drawn.T).mean() - 0.1
    # Blocks move from one stage to another, to both sides.
    depths = around[:, 4:] - centre[4:]
    assert (depths > 0).any()
    assert (depths < 0).any()
    assert around_uniform(plan, 0) == ()

"""Insight, against independent values: Sobol indices, explicit refits, explicit loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from bsszoo.search import CandidateSet
from bsszoo.search.default_mode import DefaultMode
from bsszoo.search.gp import condition
from bsszoo.search.insight import insight_of_rows, study_insight

GRID = np.array(list(itertools.product(range(8), repeat=3)))


def seen(count, seed=0, grid=GRID):
    return grid[np.random.default_rng(seed).choice(len(grid), count, replace=False)]


def additive(codes):
    return 3 * codes[:, 0] + np.sqrt(3) * codes[:, 1]


def sobol(function, grid):
    """First-order indices on a full grid, by the definition, and the share of the best additive function."""
    y = function(grid)
    shares = []
    for j in range(grid.shape[1]):
        means = np.array([y[grid[:, j] == v].mean() for v in grid[:, j]])
        shares.append(means.var() / y.var())
    return shares


def test_shares_of_an_additive_function_are_its_sobol_indices():
    codes = seen(60)
    insight = study_insight(CandidateSet(GRID), codes, additive(codes))
    true = sobol(additive, GRID)
    assert true == pytest.approx([0.75, 0.25, 0])
    for share, expected in zip(insight.importance, true, strict=True):
        assert share.median == pytest.approx(expected, abs=0.03)
        assert share.low <= share.median <= share.high
    assert insight.additive.median > 0.98
    assert insight.together.median < 0.02


def test_shares_of_a_function_with_combinations():
    def function(codes):
        x = (codes - 3.5) / np.std(np.arange(8))
        return x[:, 0] + x[:, 1] * x[:, 2]

    codes = seen(120)
    insight = study_insight(CandidateSet(GRID), codes, function(codes))
    assert sobol(function, GRID) == pytest.approx([0.5, 0, 0], abs=1e-9)
    assert [s.median for s in insight.importance] == pytest.approx([0.5, 0, 0], abs=0.06)
    assert insight.additive.median == pytest.approx(0.5, abs=0.06)
    assert insight.together.median == pytest.approx(1 - insight.additive.median, abs=1e-9)


def test_under_a_budget_shares_overlap_and_the_additive_one_stays_below_one():
    grid = GRID[GRID.sum(axis=1) == 10]
    codes = seen(30, grid=grid)
    insight = study_insight(CandidateSet(grid), codes, codes[:, 0] * 1.0)
    # x0 alone explains all; x1 tells of x0 through the budget, which is what a first-order share counts.
    y = grid[:, 0] * 1.0
    other = np.array([y[grid[:, 1] == v].mean() for v in grid[:, 1]]).var() / y.var()
    assert other > 0.1
    assert insight.importance[0].median > 0.97
    assert insight.importance[1].median == pytest.approx(other, abs=0.08)
    assert insight.additive is not None
    assert insight.additive.median <= 1


def test_a_cost_that_the_model_sees_is_counted_as_a_function_of_the_code():
    macs = (GRID[:, 0] + 1) * 1000 + GRID[:, 1]
    candidates = CandidateSet(GRID, macs=macs)
    codes = seen(60)
    values = np.log(macs[candidates.rows(codes)])
    insight = study_insight(candidates, codes, values)
    assert insight.importance[0].median > 0.95
    assert [s.name for s in insight.costs] == ["macs"]
    assert insight.costs[0].median > 0.9
    assert len(insight.importance) == 3


def test_a_curve_is_the_average_of_the_candidates_with_a_value():
    codes = seen(80)
    insight = study_insight(CandidateSet(GRID), codes, additive(codes))
    curve = insight.effects[0]
    assert curve.values.tolist() == list(range(8))
    expected = [additive(GRID[GRID[:, 0] == v]).mean() for v in range(8)]
    assert curve.mean == pytest.approx(expected, abs=0.3)
    assert (curve.low <= curve.mean).all()
    assert (curve.mean <= curve.high).all()


@pytest.mark.parametrize("n", [3, 5, 9])
def test_each_value_of_a_small_set_has_its_own_point(n):
    line = np.array([[v] for v in range(n)])
    codes = np.repeat(line, 6, axis=0)
    results = codes[:, 0] ** 2 + np.tile(np.linspace(-0.1, 0.1, 6), n)
    curve = study_insight(CandidateSet(line), codes, results).effects[0]
    assert curve.values.tolist() == list(range(n))
    assert curve.mean == pytest.approx(np.arange(n) ** 2, abs=0.05 * (n - 1) ** 2)


def test_many_values_are_put_into_groups_with_their_means():
    line = np.array([[v] for v in range(500)])
    codes = line[::20]
    insight = study_insight(CandidateSet(line), codes, codes[:, 0] / 100)
    curve = insight.effects[0]
    assert 8 <= len(curve.values) <= 12
    assert curve.mean == pytest.approx(curve.values / 100, abs=0.1)
    # The variance inside twelve groups of a line is a 144th of the whole.
    assert insight.importance[0].median == pytest.approx(1 - 1 / 144, abs=0.01)


def test_leave_one_out_is_a_refit_without_the_point():
    codes = seen(12)
    values = additive(codes) + np.random.default_rng(3).normal(size=12)
    candidates = CandidateSet(GRID)
    insight = study_insight(candidates, codes, values)
    mode = DefaultMode(candidates, batch_size=1, seed=0)
    from bsszoo.search.insight import _history

    model = mode.model(_history(candidates, codes, values))
    posterior = model.posterior
    for i in range(12):
        left = np.arange(12) != i
        without = condition(posterior.kernel, posterior.X[left], posterior.Y[left])
        mean, var = without.mean_var(posterior.X[i : i + 1])
        assert insight.check.predicted[i] == pytest.approx(model.centre + model.spread * mean[0], rel=1e-6)
        noisy = np.sqrt(var[0] + posterior.kernel.noise)
        assert insight.check.deviation[i] == pytest.approx(model.spread * noisy, rel=1e-4)
    inside = np.abs(insight.check.predicted - values) <= 1.6449 * insight.check.deviation
    assert insight.check.coverage == pytest.approx(inside.mean())
    assert insight.check.correlation == pytest.approx(np.corrcoef(insight.check.predicted, values)[0, 1])


def test_the_check_that_fits_anew_is_not_flattered_by_noise():
    plain, anew = [], []
    for seed in range(6):
        codes = seen(50, seed)
        check = study_insight(CandidateSet(GRID), codes, np.random.default_rng(seed).normal(size=50)).check
        plain.append(check.correlation)
        anew.append(check.refitted_correlation)
    assert np.mean(anew) < 0.2
    assert np.mean(anew) < np.mean(plain)
    codes = seen(50)
    check = study_insight(CandidateSet(GRID), codes, additive(codes)).check
    assert check.refitted_correlation > 0.99


def test_the_noise_is_found_in_the_unit_of_the_score():
    codes = seen(300)
    values = 1000 * (additive(codes) + np.random.default_rng(1).normal(scale=2.0, size=300))
    insight = study_insight(CandidateSet(GRID), codes, values)
    assert insight.noise == pytest.approx(2000, rel=0.2)
    assert 0.8 <= insight.check.coverage <= 0.97


@pytest.mark.parametrize("maximise", [True, False])
def test_the_best_expected_score_for_a_cost(maximise):
    macs = 100 + GRID.sum(axis=1) * 10
    candidates = CandidateSet(GRID, macs=macs)
    codes = seen(100)
    sign = 1 if maximise else -1
    insight = study_insight(candidates, codes, sign * codes.sum(axis=1) * 1.0, maximise=maximise).cost
    assert (np.diff(insight.best_macs) > 0).all()
    assert (sign * np.diff(insight.best) > 0).all()
    assert (insight.best_low <= insight.best).all()
    assert (insight.best <= insight.best_high).all()
    # The dearest candidate is the best one, and a code of MACs c has the score (c - 100) / 10.
    assert insight.best_macs[-1] == macs.max()
    assert insight.best == pytest.approx(sign * (insight.best_macs - 100) / 10, abs=0.8)
    assert len(insight.macs) == len(insight.mean) == len(insight.deviation) == 512
    assert insight.mean == pytest.approx(sign * (insight.macs - 100) / 10, abs=1.0)


def test_minimising_changes_no_share_and_keeps_the_sign_of_scores():
    codes = seen(40)
    up = study_insight(CandidateSet(GRID), codes, additive(codes))
    down = study_insight(CandidateSet(GRID), codes, -additive(codes), maximise=False)
    assert [s.median for s in up.importance] == pytest.approx([s.median for s in down.importance])
    assert up.effects[0].mean == pytest.approx(-down.effects[0].mean)
    assert up.effects[0].low == pytest.approx(-down.effects[0].high)
    assert (down.effects[0].low <= down.effects[0].high).all()


def test_equal_results_teach_nothing():
    insight = study_insight(CandidateSet(GRID), seen(9), np.full(9, 0.3))
    assert insight.flat
    assert (insight.importance, insight.effects, insight.check, insight.cost) == ((), (), None, None)


@pytest.mark.parametrize("d", [1, 2, 30])
@pytest.mark.parametrize("n", [2, 3, 20])
def test_any_size_has_an_insight(d, n):
    rng = np.random.default_rng(d)
    candidates = CandidateSet(rng.integers(1, 9, size=(1500, d)), macs=None)
    codes = rng.integers(1, 9, size=(n, d))
    insight = study_insight(candidates, codes, rng.normal(size=n))
    assert len(insight.importance) == len(insight.effects) == d
    for share in insight.importance:
        assert 0 <= share.low <= share.median <= share.high <= 1
    assert all(np.isfinite(e.mean).all() for e in insight.effects)
    assert (insight.check.correlation is None) == (n < 5)
    assert 0 <= insight.check.refitted_coverage <= 1


def test_few_candidates_leave_the_sum_of_curves_open():
    rng = np.random.default_rng(0)
    candidates = CandidateSet(rng.integers(1, 5, size=(20, 12)))
    insight = study_insight(candidates, candidates.codes[:6], np.arange(6.0))
    assert insight.additive is None
    assert insight.together is None
    one = study_insight(CandidateSet(candidates.codes[:1]), candidates.codes[:3], np.arange(3.0))
    assert all(s.median == 0 for s in one.importance)


def test_two_results_leave_wide_intervals():
    insight = study_insight(CandidateSet(GRID), GRID[[0, -1]], np.array([0.0, 1.0]))
    assert all(s.high - s.low > 0.4 for s in insight.importance)


def test_equal_arguments_give_equal_insights():
    codes = seen(20)
    first, second = (study_insight(CandidateSet(GRID), codes, additive(codes)) for _ in range(2))
    assert first.importance == second.importance
    assert np.array_equal(first.effects[1].low, second.effects[1].low)


@pytest.mark.parametrize(
    ("codes", "values"),
    [(GRID[:1], [1.0]), (GRID[:3], [1.0, 2.0]), (GRID[:2], [1.0, np.nan]), (GRID[:2, :2], [1.0, 2.0])],
)
def test_what_is_no_result_is_refused(codes, values):
    with pytest.raises(ValueError, match="takes two finite results or more"):
        study_insight(CandidateSet(GRID), codes, np.array(values))


def test_failed_trials_teach_nothing():
    from report.finished_run import example_run

    run = example_run(trials=12, failed=(5,))
    candidates = CandidateSet(np.array([t.code.entries for t in run.trials]))
    assert insight_of_rows(candidates, run.trials).results == 11
    assert insight_of_rows(candidates, run.trials[:1]) is None

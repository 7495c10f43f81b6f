"""Judging a shortlist of very many candidates finds what judging all of them finds."""

from __future__ import annotations

import numpy as np
import pytest

from bsszoo.search import CandidateSet
from bsszoo.search.acquisition import expected_improvement
from bsszoo.search.default_mode import EACH, cheap_scores, shortlist
from bsszoo.search.features import COST_WEIGHT, Features
from bsszoo.search.gp import condition
from bsszoo.search.kernels import fit_kernel


def _set(n=12_000, d=8, seed=0):
    rng = np.random.default_rng(seed)
    codes = np.unique(rng.integers(1, 9, size=(n, d)), axis=0)
    macs = (codes * rng.integers(1, 40, size=d)).sum(axis=1) + 100
    return CandidateSet(codes, macs=macs, params=macs + rng.integers(0, 30, size=len(macs)))


def _posterior(candidates, features, n=60, seed=0):
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(candidates), n, replace=False)
    gains = rng.gamma(1.0, 1.0, size=candidates.codes.shape[1])
    truth = np.log(candidates.codes) @ gains + 0.5 * np.minimum(candidates.codes[:, 0], candidates.codes[:, 3])
    y = truth[rows] + 0.2 * rng.normal(size=n)
    Z = features.of_rows(rows)
    Y = (y - y.mean()) / y.std()
    return condition(fit_kernel(Z, Y), Z, Y), rows


def test_features_are_the_standardised_entries_and_log_costs():
    candidates = _set(500)
    features = Features(candidates)
    Z = features.of_rows(np.arange(len(candidates)))
    columns = np.column_stack([candidates.codes, np.log(candidates.macs), np.log(candidates.params)])
    unit = np.array([1.0] * features.d + [COST_WEIGHT] * 2)
    np.testing.assert_allclose(Z, unit * (columns - columns.mean(axis=0)) / columns.std(axis=0), atol=1e-9)


def test_places_stand_for_values():
    candidates = _set(5000)
    features = Features(candidates)
    Z = features.of_rows(np.arange(len(candidates)))
    for j, values in enumerate(features.values):
        step = 1e-9 if j < features.d else 1.01 * (values[1] - values[0]) / 2
        assert np.abs(values[features.indices[j]] - Z[:, j]).max() <= step


def test_a_set_without_costs_has_entries_only():
    assert Features(CandidateSet(np.array([[1, 2], [3, 4]]))).size == 2


def test_costs_of_codes_outside_the_set_are_estimated_near_the_truth():
    candidates = _set(4000)
    features = Features(candidates)
    inside = features.of_codes(candidates.codes[:200], np.arange(200))
    outside = features.of_codes(candidates.codes[:200], np.full(200, -1))
    np.testing.assert_allclose(inside[:, : features.d], outside[:, : features.d])
    assert np.corrcoef(inside[:, features.d], outside[:, features.d])[0, 1] > 0.98


def test_the_cheap_mean_is_the_posterior_mean_of_the_linear_and_additive_parts():
    candidates = _set(3000)
    features = Features(candidates)
    posterior, _ = _posterior(candidates, features)
    Zq = features.of_rows(np.arange(len(candidates)))
    kernel = posterior.kernel
    exact = posterior.weights @ (kernel.additive(posterior.X, Zq) + kernel.v_lin / features.size * (posterior.X @ Zq.T))
    mean, bound = cheap_scores(posterior, features)
    assert np.abs(mean - exact).max() < 0.02 * exact.std()  # costs are looked up in steps
    assert (bound >= mean).all()


@pytest.mark.parametrize("seed", range(4))
def test_the_best_of_the_shortlist_is_nearly_the_best_of_all(seed):
    candidates = _set(seed=seed)
    features = Features(candidates)
    posterior, rows = _posterior(candidates, features, seed=seed)
    free = np.ones(len(candidates), dtype=bool)
    free[rows] = False
    chosen = shortlist(posterior, features, free, np.random.default_rng(0))
    assert len(chosen) <= 3 * EACH < free.sum()
    assert free[chosen].all()
    gain, short = (
        expected_improvement(*posterior.mean_var(features.of_rows(rows)), posterior.fitted.max())
        for rows in (np.flatnonzero(free), chosen)
    )
    assert short.max() >= 0.9 * gain.max()


def test_few_candidates_are_all_judged():
    candidates = _set(600)
    features = Features(candidates)
    posterior, rows = _posterior(candidates, features)
    free = np.ones(len(candidates), dtype=bool)
    free[rows] = False
    np.testing.assert_array_equal(shortlist(posterior, features, free, np.random.default_rng(0)), np.flatnonzero(free))

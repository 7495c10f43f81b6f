"""Equation (1) and the sigma rule, against the textbook conditional of a joint Gaussian and explicit loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bsszoo.search.gp import ETA, kernel, posterior, sigma_rule, standardise


def _kappa(a, b, sigma):
    return float(np.exp(-sum((p - q) ** 2 for p, q in zip(a, b, strict=True)) / (2 * sigma**2)))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 8), st.integers(1, 4), st.floats(0.3, 4.0))
def test_posterior_is_the_conditional_of_the_joint_gaussian(seed, n, m, sigma):
    rng = np.random.default_rng(seed)
    X, Xq, Y = rng.normal(size=(n, m)), rng.normal(size=(5, m)), rng.normal(size=n)
    everything = np.concatenate([X, Xq])
    joint = np.array([[_kappa(a, b, sigma) for b in everything] for a in everything])
    seen = joint[:n, :n] + ETA**2 * np.eye(n)
    mean = joint[n:, :n] @ np.linalg.solve(seen, Y)
    cov = joint[n:, n:] - joint[n:, :n] @ np.linalg.solve(seen, joint[:n, n:])
    process = posterior(X, Y, sigma)
    got_mean, got_cov = process.mean_cov(Xq)
    np.testing.assert_allclose(got_mean, mean, atol=1e-8)
    np.testing.assert_allclose(got_cov, cov, atol=1e-8)
    np.testing.assert_allclose(process.mean_var(Xq)[1], np.diag(cov), atol=1e-8)


def test_one_observation_has_the_closed_form():
    process = posterior(np.zeros((1, 2)), np.array([1.5]), 2.0, eta=0.1)
    mean, var = process.mean_var(np.array([[2.0, 0.0]]))
    k = np.exp(-0.5)
    assert mean[0] == pytest.approx(k * 1.5 / 1.01)
    assert var[0] == pytest.approx(1 - k**2 / 1.01)


def test_without_observations_it_is_the_prior():
    mean, var = posterior(np.empty((0, 3)), np.empty(0), 1.0).mean_var(np.ones((4, 3)))
    assert (mean == 0).all()
    assert (var == 1).all()


def test_standardised_accuracies_have_the_papers_moments():
    y = standardise(np.array([70.1, 71.3, 69.2, 74.4, 72.0]))
    assert y.mean() == pytest.approx(0, abs=1e-12)
    assert y.var() == pytest.approx(1 + ETA**2)
    assert (standardise(np.full(5, 3.3)) == 0).all()


def test_kernel_is_squared_exponential():
    rng = np.random.default_rng(0)
    X, Z = rng.normal(size=(4, 3)), rng.normal(size=(5, 3))
    np.testing.assert_allclose(kernel(X, Z, 1.7), [[_kappa(a, b, 1.7) for b in Z] for a in X])


def _sigma_by_loops(X, y, first):
    """The rule as the appendix tells it, pair by pair."""
    head = [abs(y[i] - y[j]) for i, j in itertools.combinations(range(first), 2)]
    threshold = sum(head) / len(head)
    distances = sorted(
        float(np.linalg.norm(X[i] - X[j]))
        for i, j in itertools.combinations(range(len(y)), 2)
        if abs(y[i] - y[j]) > threshold
    )
    return distances[len(distances) // 20] / 2


@pytest.mark.parametrize("seed", range(10))
def test_sigma_follows_the_rule(seed):
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(40, 6)), rng.normal(size=40)
    assert sigma_rule(X, y, 16) == pytest.approx(_sigma_by_loops(X, y, 16))


def test_sigma_has_a_value_where_the_rule_has_none():
    X = np.random.default_rng(0).normal(size=(6, 2))
    assert sigma_rule(X, np.full(6, 1.0), 6) > 0
    assert sigma_rule(X[:1], np.array([1.0]), 1) == 1.0
    assert sigma_rule(np.zeros((5, 2)), np.arange(5.0), 5) == 1.0

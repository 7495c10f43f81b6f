"""Equation (1), under both kernels, against the textbook conditional of a joint Gaussian."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bsszoo.search.gp import condition
from bsszoo.search.kernels import ETA, AdditiveMatern, SquaredExponential


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
    process = condition(SquaredExponential(sigma), X, Y)
    got_mean, got_cov = process.mean_cov(Xq)
    np.testing.assert_allclose(got_mean, mean, atol=1e-8)
    np.testing.assert_allclose(got_cov, cov, atol=1e-8)
    np.testing.assert_allclose(process.mean_var(Xq)[1], np.diag(cov), atol=1e-8)


def test_one_observation_has_the_closed_form():
    process = condition(SquaredExponential(2.0), np.zeros((1, 2)), np.array([1.5]))
    mean, var = process.mean_var(np.array([[2.0, 0.0]]))
    k = np.exp(-0.5)
    assert mean[0] == pytest.approx(k * 1.5 / 1.01)
    assert var[0] == pytest.approx(1 - k**2 / 1.01)


def test_without_observations_it_is_the_prior():
    mean, var = condition(SquaredExponential(1.0), np.empty((0, 3)), np.empty(0)).mean_var(np.ones((4, 3)))
    assert (mean == 0).all()
    assert (var == 1).all()


def test_it_is_the_conditional_under_the_default_kernel_too():
    rng = np.random.default_rng(3)
    Z, Zq, Y = rng.normal(size=(20, 4)), rng.normal(size=(6, 4)), rng.normal(size=20)
    kernel = AdditiveMatern(*rng.uniform(0.5, 3, (2, 4)), v_ard=0.4, v_add=0.7, v_lin=0.3, noise=0.1)
    K = kernel(Z, Z) + kernel.noise * np.eye(20)
    k = kernel(Z, Zq)
    mean, cov = k.T @ np.linalg.solve(K, Y), kernel(Zq, Zq) - k.T @ np.linalg.solve(K, k)
    process = condition(kernel, Z, Y)
    np.testing.assert_allclose(process.mean(Zq), mean, atol=1e-9)
    np.testing.assert_allclose(process.mean_var(Zq)[1], np.diag(cov), atol=1e-9)
    np.testing.assert_allclose(process.mean_cov(Zq)[1], cov, atol=1e-9)
    np.testing.assert_allclose(process.fitted, process.mean(Z), atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 12), st.integers(1, 6))
def test_further_results_change_it_as_if_all_had_been_there_at_once(seed, n, u):
    rng = np.random.default_rng(seed)
    Z, Zq, Y = rng.normal(size=(n + u, 4)), rng.normal(size=(6, 4)), rng.normal(size=n + u)
    kernel = AdditiveMatern(*rng.uniform(0.5, 3, (2, 4)), v_ard=0.4, v_add=0.7, v_lin=0.3, noise=0.1)
    once, stepwise = condition(kernel, Z, Y), condition(kernel, Z[:n], Y[:n]).with_results(Z[n:], Y[n:])
    for a, b in ((once.mean_cov(Zq), stepwise.mean_cov(Zq)), (once.mean_var(Zq), stepwise.mean_var(Zq))):
        np.testing.assert_allclose(a[0], b[0], atol=1e-9)
        np.testing.assert_allclose(a[1], b[1], atol=1e-9)
    np.testing.assert_allclose(once.fitted, stepwise.fitted, atol=1e-9)
    np.testing.assert_allclose(once.solve(Z), stepwise.solve(Z), atol=1e-8)

"""Equations (2) and (3): EI and its logarithm against integration, EEI against conditioning draw by draw."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from bsszoo.search.acquisition import (
    draw_pending,
    expected_expected_improvement,
    expected_improvement,
    log_expected_improvement,
)
from bsszoo.search.gp import condition
from bsszoo.search.kernels import ETA, AdditiveMatern, SquaredExponential


@settings(max_examples=60, deadline=None)
@given(st.floats(-3, 3), st.floats(0.01, 3), st.floats(-3, 3))
def test_ei_is_the_integral_of_the_improvement(mean, std, tau):
    # Over the part above tau only: below it the improvement is 0, and quad would have to find the kink.
    high = max(mean, tau) + 12 * std
    integral = quad(lambda f: (f - tau) * norm.pdf(f, mean, std), tau, high, points=[max(mean, tau)], limit=200)[0]
    got = float(expected_improvement(np.array([mean]), np.array([std**2]), tau)[0])
    assert got == pytest.approx(integral, rel=1e-6, abs=1e-9)


def test_ei_of_a_known_value_is_its_gain():
    got = expected_improvement(np.array([1.0, -1.0]), np.zeros(2), 0.5)
    np.testing.assert_array_equal(got, [0.5, 0.0])


def _log_h(z):
    """log of the integral over t > 0 of t phi(t - z), with what underflows taken out of it."""
    if z > -1:
        return np.log(quad(lambda t: t * norm.pdf(t - z), 0, max(z, 0) + 12, points=[max(z, 0)])[0])
    # t = x / -z: phi(t - z) = phi(z) exp(-x - x^2 / (2 z^2)).
    tail = quad(lambda x: x * np.exp(-x - 0.5 * (x / z) ** 2), 0, np.inf, epsabs=0, epsrel=1e-12)[0]
    return norm.logpdf(z) + np.log(tail) - 2 * np.log(-z)


@pytest.mark.parametrize("z", [8.0, 1.0, 0.0, -0.9, -1.1, -5.0, -38.0, -40.0, -400.0, -999.0, -1001.0, -1e5, -1e8])
@pytest.mark.parametrize("std", [0.01, 3.0])
def test_log_ei_is_the_logarithm_of_the_integral_where_ei_is_zero_too(z, std):
    got = log_expected_improvement(np.array([0.7 + z * std]), np.array([std**2]), 0.7)
    # The mean carries z to about a unit in the last place of the larger of z std and 0.7.
    assert got[0] == pytest.approx(np.log(std) + _log_h(z), rel=1e-9, abs=1e-9)


def test_log_ei_has_the_order_of_ei_and_goes_on_where_ei_is_zero():
    z = -np.logspace(-2, 6, 4001)
    log = log_expected_improvement(z, np.ones_like(z), 0.0)
    assert (np.diff(log) < 0).all()
    ei = expected_improvement(z, np.ones_like(z), 0.0)
    np.testing.assert_allclose(np.exp(log[ei > 1e-300]), ei[ei > 1e-300], rtol=1e-9)
    assert (ei[z < -39] == 0).all()


def test_log_ei_of_a_known_value_is_that_of_its_gain():
    got = log_expected_improvement(np.array([1.0, -1.0]), np.zeros(2), 0.5)
    np.testing.assert_array_equal(got, [np.log(0.5), -np.inf])


def _problem(seed, n=7, u=3, q=6, m=3):
    rng = np.random.default_rng(seed)
    X, pending, Xq = rng.normal(size=(n, m)), rng.normal(size=(u, m)), rng.normal(size=(q, m))
    return condition(SquaredExponential(1.2), X, rng.normal(size=n)), pending, Xq


def _default_problem(seed, n=12, u=3, q=5, m=3):
    rng = np.random.default_rng(seed)
    kernel = AdditiveMatern(*rng.uniform(0.5, 3, (2, m)), v_ard=0.4, v_add=0.7, v_lin=0.3, noise=0.1)
    X, pending, Xq = rng.normal(size=(n, m)), rng.normal(size=(u, m)), rng.normal(size=(q, m))
    return condition(kernel, X, rng.normal(size=n)), pending, Xq


def _eei_one_after_the_other(posterior, pending, Xq, rng, draws, tau):
    """Equation (3) as it is written: draw a result, condition on it, draw the next, and take EI at the end."""
    gains = []
    for _ in range(draws):
        now = posterior
        for x in pending:
            mean, var = now.mean_var(x[None])
            y = rng.normal(mean[0], np.sqrt(var[0] + now.kernel.noise))
            now = condition(now.kernel, np.concatenate([now.X, x[None]]), np.append(now.Y, y))
        best = now.Y.max() if tau == "result" else now.mean(now.X).max()
        gains.append(expected_improvement(*now.mean_var(Xq), best))
    return np.mean(gains, axis=0), np.std(gains, axis=0) / np.sqrt(draws)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("problem", "tau"), [(_problem, "result"), (_default_problem, "mean")])
def test_eei_is_the_mean_over_results_drawn_one_after_the_other(problem, tau, seed):
    posterior, pending, Xq = problem(seed)
    slow, error = _eei_one_after_the_other(posterior, pending, Xq, np.random.default_rng(5), 3000, tau)
    fast = expected_expected_improvement(posterior, pending, Xq, np.random.default_rng(6), draws=40_000, tau=tau)
    assert (np.abs(fast - slow) < 5 * error + 1e-4).all()
    log = expected_expected_improvement(
        posterior, pending, Xq, np.random.default_rng(6), draws=40_000, tau=tau, log=True
    )
    np.testing.assert_allclose(np.exp(log), fast, rtol=1e-9)


@pytest.mark.parametrize(("problem", "tau"), [(_problem, "result"), (_default_problem, "mean")])
def test_without_draws_each_pending_result_is_its_expectation(problem, tau):
    posterior, pending, Xq = problem(0)
    believed = posterior
    for x in pending:
        mean = believed.mean(x[None])
        believed = condition(believed.kernel, np.concatenate([believed.X, x[None]]), np.append(believed.Y, mean))
    best = believed.Y.max() if tau == "result" else believed.mean(believed.X).max()
    got = expected_expected_improvement(posterior, pending, Xq, np.random.default_rng(0), draws=0, tau=tau)
    np.testing.assert_allclose(got, expected_improvement(*believed.mean_var(Xq), best), atol=1e-9)


def test_eei_without_pending_codes_is_ei():
    posterior, _, Xq = _problem(3)
    ei = expected_improvement(*posterior.mean_var(Xq), posterior.Y.max())
    got = expected_expected_improvement(posterior, np.empty((0, 3)), Xq, np.random.default_rng(0))
    np.testing.assert_array_equal(got, ei)


def test_a_pending_code_is_hardly_worth_asking_again():
    posterior, pending, Xq = _problem(4)
    both = np.concatenate([pending[:1], Xq])
    alone = expected_improvement(*posterior.mean_var(both), posterior.Y.max())
    with_it = expected_expected_improvement(posterior, pending[:1], both, np.random.default_rng(0), draws=4000)
    assert with_it[0] < 0.35 * alone[0]


def test_draws_have_the_joint_moments_of_the_pending_results():
    posterior, pending, _ = _problem(6)
    drawn = draw_pending(posterior, pending, np.random.default_rng(0), draws=200_000)
    mean, cov = posterior.mean_cov(pending)
    np.testing.assert_allclose(drawn.mean(axis=0), mean, atol=0.01)
    np.testing.assert_allclose(np.cov(drawn.T), cov + ETA**2 * np.eye(len(mean)), atol=0.015)

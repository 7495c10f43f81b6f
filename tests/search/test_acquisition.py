"""Equations (2) and (3): EI against integration, EEI against conditioning draw by draw."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from bsszoo.search.acquisition import draw_pending, expected_expected_improvement, expected_improvement
from bsszoo.search.gp import condition
from bsszoo.search.kernels import ETA, SquaredExponential


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


def _problem(seed, n=7, u=3, q=6, m=3):
    rng = np.random.default_rng(seed)
    X, pending, Xq = rng.normal(size=(n, m)), rng.normal(size=(u, m)), rng.normal(size=(q, m))
    return condition(SquaredExponential(1.2), X, rng.normal(size=n)), pending, Xq


def _eei_one_after_the_other(given, pending, Xq, rng, draws):
    """Equation (3) as it is written: draw a result, condition on it, draw the next, and take EI at the end."""
    total = np.zeros(len(Xq))
    for _ in range(draws):
        now = given
        for x in pending:
            mean, var = now.mean_var(x[None])
            y = rng.normal(mean[0], np.sqrt(var[0] + ETA**2))
            now = condition(now.kernel, np.concatenate([now.X, x[None]]), np.append(now.Y, y))
        total += expected_improvement(*now.mean_var(Xq), now.Y.max())
    return total / draws


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_eei_is_the_mean_over_results_drawn_one_after_the_other(seed):
    given, pending, Xq = _problem(seed)
    slow = _eei_one_after_the_other(given, pending, Xq, np.random.default_rng(5), draws=4000)
    fast = expected_expected_improvement(given, pending, Xq, np.random.default_rng(6), draws=40_000)
    # The standard error of the slow estimate is below 2% of EI's own scale here.
    np.testing.assert_allclose(fast, slow, atol=0.02 * max(1.0, slow.max()), rtol=0.08)


def test_eei_without_pending_codes_is_ei():
    given, _, Xq = _problem(3)
    ei = expected_improvement(*given.mean_var(Xq), given.Y.max())
    got = expected_expected_improvement(given, np.empty((0, 3)), Xq, np.random.default_rng(0))
    np.testing.assert_array_equal(got, ei)


def test_a_pending_code_is_hardly_worth_asking_again():
    given, pending, Xq = _problem(4)
    both = np.concatenate([pending[:1], Xq])
    alone = expected_improvement(*given.mean_var(both), given.Y.max())
    with_it = expected_expected_improvement(given, pending[:1], both, np.random.default_rng(0), draws=4000)
    assert with_it[0] < 0.35 * alone[0]


def test_draws_have_the_joint_moments_of_the_pending_results():
    given, pending, _ = _problem(6)
    drawn = draw_pending(given, pending, np.random.default_rng(0), draws=200_000)
    mean, cov = given.mean_cov(pending)
    np.testing.assert_allclose(drawn.mean(axis=0), mean, atol=0.01)
    np.testing.assert_allclose(np.cov(drawn.T), cov + ETA**2 * np.eye(len(mean)), atol=0.015)

"""Both kernels against explicit formulas; the sigma rule against loops, the fit against finite differences."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.optimize import check_grad

from bsszoo.search import kernels
from bsszoo.search.gp import condition
from bsszoo.search.kernels import AdditiveMatern, SquaredExponential, fit_kernel, sigma_rule


def _codes(n, d, seed=0):
    X = np.random.default_rng(seed).integers(0, 5, size=(n, d)).astype(float)
    X[:, -1] = np.random.default_rng(seed + 1).normal(size=n)  # a cost: all values differ
    return X


def _some_kernel(d, seed=0):
    rng = np.random.default_rng(seed)
    return AdditiveMatern(rng.uniform(0.5, 3, d), rng.uniform(0.5, 3, d), v_ard=0.4, v_add=0.7, v_lin=0.3, noise=0.1)


def _by_hand(kernel, x, z):
    def m(r):
        return (1 + np.sqrt(5) * r + 5 * r**2 / 3) * np.exp(-np.sqrt(5) * r)

    d = len(x)
    joint = m(np.sqrt(sum(((x[j] - z[j]) / kernel.joint_scale[j]) ** 2 for j in range(d))))
    additive = sum(m(abs(x[j] - z[j]) / kernel.additive_scale[j]) for j in range(d)) / d
    return kernel.v_ard * joint + kernel.v_add * additive + kernel.v_lin * sum(x * z) / d


def test_the_kernel_is_the_sum_of_its_three_parts():
    A, B, kernel = _codes(7, 4), _codes(9, 4, seed=3), _some_kernel(4)
    expected = np.array([[_by_hand(kernel, a, b) for b in B] for a in A])
    np.testing.assert_allclose(kernel(A, B), expected, rtol=1e-9)
    np.testing.assert_allclose(kernel.diagonal(A), [_by_hand(kernel, a, a) for a in A], rtol=1e-9)


@pytest.mark.parametrize(("n", "d"), [(12, 2), (40, 6), (20, 30)])
def test_the_gradient_of_the_density_is_its_slope(n, d):
    Z = _codes(n, d)
    Y = np.random.default_rng(1).normal(size=n)
    median, width = kernels._prior(d)
    density = kernels._Density(Z, Y, median, width, np.random.default_rng(3).uniform(0, 0.5, n))
    theta = median + 0.4 * np.random.default_rng(2).normal(size=len(median))
    error = check_grad(lambda t: density(t)[0], lambda t: density(t)[1], theta)
    assert error < 1e-4 * np.abs(density(theta)[1]).max()


def test_the_density_is_that_of_the_results_and_the_prior():
    Z, d = _codes(15, 3), 3
    Y = np.random.default_rng(1).normal(size=15)
    median, width = kernels._prior(d)
    density = kernels._Density(Z, Y, median, width, np.zeros(15))
    theta = median + 0.3
    K = kernels._kernel(theta, d)(Z, Z) + (np.exp(theta[-1])) * np.eye(15)
    results = 0.5 * Y @ np.linalg.solve(K, Y) + 0.5 * np.linalg.slogdet(K)[1]
    by_hand = results + 0.5 * (((theta - median) / width) ** 2).sum()
    assert density(theta)[0] == pytest.approx(by_hand, rel=1e-9)


def test_fitting_finds_which_entries_matter_and_the_noise():
    rng = np.random.default_rng(0)
    Z = rng.normal(size=(120, 4))
    Y = np.sin(2 * Z[:, 0]) + Z[:, 1] + 0.3 * rng.normal(size=120)
    Y = (Y - Y.mean()) / Y.std()
    kernel = fit_kernel(Z, Y)
    assert np.sqrt(kernel.noise) * 1.25 == pytest.approx(0.3, abs=0.1)  # Y was divided by its deviation of about 1.25
    posterior = condition(kernel, Z, Y)
    fresh = rng.normal(size=(300, 4))
    truth = np.sin(2 * fresh[:, 0]) + fresh[:, 1]
    assert np.corrcoef(posterior.mean(fresh), truth)[0, 1] > 0.95


def test_no_results_give_the_prior():
    kernel = fit_kernel(np.zeros((0, 3)), np.zeros(0))
    assert kernel.v_add == pytest.approx(kernels._VARIANCES[1])


def test_the_papers_kernel_is_squared_exponential():
    def kappa(a, b):
        return np.exp(-sum((p - q) ** 2 for p, q in zip(a, b, strict=True)) / (2 * 1.7**2))

    rng = np.random.default_rng(0)
    X, Z = rng.normal(size=(4, 3)), rng.normal(size=(5, 3))
    np.testing.assert_allclose(SquaredExponential(1.7)(X, Z), [[kappa(a, b) for b in Z] for a in X])


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

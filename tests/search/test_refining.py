"""Refining: distance of refined codes should tell accuracy difference better than distance of the codes does."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr

from bsszoo.search import paper_mode
from bsszoo.search.paper_mode import refine, standardise_codes


def _one_entry_matters(seed, n=48, m=6):
    rng = np.random.default_rng(seed)
    Z = rng.normal(size=(n, m))
    return Z, Z[:, 2] + 0.02 * rng.normal(size=n)


@pytest.mark.parametrize("seed", range(4))
def test_distance_tells_difference_better_after_refining(seed):
    Z, y = _one_entry_matters(seed)
    fresh, answer = _one_entry_matters(seed + 100)
    A = refine(Z, y)
    gaps = pdist(answer[:, None])
    assert spearmanr(pdist(fresh @ A.T), gaps)[0] > spearmanr(pdist(fresh), gaps)[0] + 0.2
    assert np.linalg.norm(A[:, 2]) > 2 * max(np.linalg.norm(A[:, j]) for j in (0, 1, 3, 4, 5))


def test_the_loss_falls_to_a_point_where_its_numeric_gradient_vanishes(monkeypatch):
    losses = {}
    original = paper_mode.minimize

    def spy(fun, start, **options):
        losses["fun"], losses["start"] = fun, start
        return original(fun, start, **options)

    monkeypatch.setattr(paper_mode, "minimize", spy)
    Z, y = _one_entry_matters(1, n=20, m=4)
    A = refine(Z, y)
    numeric = approx_fprime(losses["start"], lambda f: losses["fun"](f)[0], 1e-7)
    np.testing.assert_allclose(losses["fun"](losses["start"])[1], numeric, atol=1e-5)
    assert losses["fun"](A.ravel())[0] < losses["fun"](losses["start"])[0]
    assert np.abs(losses["fun"](A.ravel())[1]).max() < 1e-3


def test_nothing_to_learn_from_gives_the_identity():
    Z = np.random.default_rng(0).normal(size=(8, 3))
    np.testing.assert_array_equal(refine(Z, np.full(8, 2.0)), np.eye(3))
    np.testing.assert_array_equal(refine(Z[:2], np.array([1.0, 2.0])), np.eye(3))
    np.testing.assert_array_equal(refine(np.ones((8, 3)), np.arange(8.0)), np.eye(3))


def test_a_strong_ridge_leaves_codes_as_they_are():
    Z, y = _one_entry_matters(0)
    np.testing.assert_allclose(refine(Z, y, ridge=1e9), np.eye(6), atol=1e-6)


def test_constant_entries_standardise_to_zero():
    codes = np.array([[1, 5], [3, 5]])
    got = standardise_codes(codes, codes.mean(axis=0), codes.std(axis=0))
    np.testing.assert_array_equal(got, [[-1, 0], [1, 0]])

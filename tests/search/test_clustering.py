"""Representatives: distinct rows, one for each real cluster, and no more left over than by scipy's k-means."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.vq import kmeans2
from scipy.spatial.distance import cdist

from bsszoo.search.clustering import farthest, representatives


def test_each_separate_cluster_has_its_representative():
    rng = np.random.default_rng(0)
    centres = 100 * rng.normal(size=(8, 5))
    points = np.concatenate([c + rng.normal(size=(50, 5)) for c in centres])
    rows = representatives(points, 8, np.random.default_rng(1))
    assert sorted(r // 50 for r in rows) == list(range(8))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 80), st.integers(1, 3))
def test_rows_are_distinct_points(seed, n, k, m):
    points = np.random.default_rng(seed).integers(0, 4, size=(n, m)).astype(float)
    rows = representatives(points, k, np.random.default_rng(seed))
    chosen = points[rows]
    assert len(np.unique(chosen, axis=0)) == len(rows) == min(k, len(np.unique(points, axis=0)))


@pytest.mark.parametrize("seed", range(3))
def test_what_is_left_over_is_no_more_than_with_scipys_kmeans(seed):
    points = np.random.default_rng(seed).normal(size=(2000, 6))
    ours = representatives(points, 40, np.random.default_rng(seed))
    scipys, _ = kmeans2(points, 40, iter=10, minit="++", rng=np.random.default_rng(seed))
    nearest = [int(np.argmin(d)) for d in cdist(scipys, points)]
    left = [(cdist(points, points[rows]).min(axis=1) ** 2).mean() for rows in (ours, nearest)]
    assert left[0] < 1.05 * left[1]


def test_the_same_generator_gives_the_same_rows():
    points = np.random.default_rng(3).normal(size=(500, 4))
    a, b = (representatives(points, 20, np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(a, b)


def test_farthest_maximises_the_least_distance():
    points = np.array([[0.0], [1.0], [5.0], [9.0]])
    assert farthest(points, np.array([[0.0], [9.0]])) == 2
    assert farthest(points, np.empty((0, 1))) == 0

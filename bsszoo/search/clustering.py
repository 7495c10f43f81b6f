"""Dispersed codes: k-means centres stand for their clusters (steps 2 and 4 of the search)."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from scipy.spatial import cKDTree

FloatArray = NDArray[np.float64]

_ITERATIONS = 10


def representatives(points: FloatArray, k: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """The rows of ``k`` distinct points [n, m] that stand for the k-means clusters of all points.

    Each is the point nearest to a cluster's centre that stands for no other. k-means++ starts, ten iterations follow.
    Fewer distinct points than ``k`` give fewer rows.
    """
    distinct = np.unique(points, axis=0, return_index=True)[1]
    if len(distinct) <= k:
        return np.sort(distinct)
    with warnings.catch_warnings():
        # An empty cluster stays at its old centre, whose nearest free point still is a dispersed one.
        warnings.filterwarnings("ignore", message="One of the clusters is empty")
        centres, _ = kmeans2(points, _spread(points, k, rng), iter=_ITERATIONS, minit="matrix")
    return nearest_distinct(points[distinct], centres, distinct)


def _spread(points: FloatArray, k: int, rng: np.random.Generator) -> FloatArray:
    """k-means++ (Arthur and Vassilvitskii, 2007): each start is drawn by its squared distance to the starts so far.

    scipy's recomputes all distances for each start; storing the nearest one makes k starts cost k n, not k^2 n.
    """
    starts = [int(rng.integers(len(points)))]
    nearest = np.full(len(points), np.inf)
    for _ in range(k - 1):
        nearest = np.minimum(nearest, ((points - points[starts[-1]]) ** 2).sum(axis=1))
        total = np.cumsum(nearest)
        starts.append(int(np.searchsorted(total, rng.random() * total[-1], side="right")))
    return points[starts]


def nearest_distinct(points: FloatArray, centres: FloatArray, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each centre the nearest point not yet taken, as an entry of ``rows``; needs at least as many points."""
    tree = cKDTree(points)
    taken: set[int] = set()
    for centre in centres:
        near = 1
        while True:
            neighbours = np.atleast_1d(tree.query(centre, k=near)[1])
            free = [int(i) for i in neighbours if int(i) not in taken]
            if free:
                taken.add(free[0])
                break
            near = min(2 * near, len(points))
    return rows[list(taken)]


def farthest(points: FloatArray, used: FloatArray) -> int:
    """The row of the point whose nearest used point is the farthest; the first row when none is used yet."""
    if not len(used):
        return 0
    gap = cKDTree(used).query(points, k=1)[0]
    return int(np.argmax(gap))

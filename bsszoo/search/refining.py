"""Refining a code (step 3 of the search): a learned map after which distance tells difference in accuracy.

Notation:
    n      evaluated codes            m      entries of a code
    Z      standardised codes [n, m]  y      their accuracies, standardised [n]
    A      the map [m, m]             x = A z, the refined code (x in the paper's equations)
    p      a pair i < j               r_p = log |A (z_i - z_j)| - log |y_i - y_j|

The paper's main text is not at hand, so the loss is ours: distance relates linearly to accuracy difference when
every pair has the same ratio of the two, that is when the variance of r_p over the pairs is zero. A ridge pulls A to
the identity, because a study begins with fewer codes than A has numbers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

FloatArray = NDArray[np.float64]

#: The weight of |A - I|^2 / m beside the variance of the log ratios.
RIDGE = 0.3

# Differences of accuracy below the noise say nothing of distance: they are taken as if they were this large
# (the sampler's eta, in standard deviations of y).
NOISE = 0.1


def standardise_codes(codes: NDArray[np.int64], mean: FloatArray, std: FloatArray) -> FloatArray:
    """Codes [n, m], each entry shifted and scaled by the candidates' mean and deviation; constant entries give 0."""
    return np.where(std > 0, (codes - mean) / np.where(std > 0, std, 1.0), 0.0)


def refine(Z: FloatArray, y: FloatArray, *, ridge: float = RIDGE, noise: float = NOISE) -> FloatArray:
    """The map A [m, m] that minimises Var_p(r_p) + ridge |A - I|^2 / m.

    Args:
        Z: Standardised codes of the evaluated networks, shape [n, m].
        y: Their accuracies, standardised, shape [n].
        ridge: Pull towards the identity; with a large one refining leaves codes as they are.
        noise: Floor of an accuracy difference, added in squares.

    Returns the identity where there is nothing to learn from: fewer than three codes, or all accuracies equal.
    """
    n, m = Z.shape
    identity = np.eye(m)
    i, j = np.triu_indices(n, k=1)
    D = Z[i] - Z[j]  # [P, m]
    apart = (D**2).sum(axis=1) > 0
    D, gap = D[apart], (y[i] - y[j])[apart]
    if n < 3 or len(D) < 2 or not np.ptp(y):
        return identity
    log_gap = 0.5 * np.log(gap**2 + 2 * noise**2)  # two noisy accuracies stand in each difference

    def loss(flat: FloatArray) -> tuple[float, FloatArray]:
        A = flat.reshape(m, m)
        R = D @ A.T  # [P, m]
        squared = (R**2).sum(axis=1) + 1e-12
        r = 0.5 * np.log(squared) - log_gap
        centred = r - r.mean()
        value = (centred**2).mean() + ridge * ((A - identity) ** 2).sum() / m
        # d r_p / dA = A D_p D_p^T / |A D_p|^2, and the mean's own derivative cancels since centred sums to 0.
        weights = 2 * centred / len(r) / squared
        gradient = R.T @ (weights[:, None] * D) + 2 * ridge * (A - identity) / m
        return float(value), gradient.ravel()

    found = minimize(loss, identity.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 200})
    return np.asarray(found.x, dtype=np.float64).reshape(m, m)

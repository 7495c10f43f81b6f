"""The Gaussian process of the search (appendix A.1): standardised accuracies, the kernel, its width, equation (1).

Notation:
    n      evaluated codes         q      codes to judge          m      entries of a refined code
    X      refined codes [n, m]    Xq     refined codes [q, m]
    y      accuracies [n]          Y      standardised accuracies [n], mean 0 and variance 1 + eta^2
    K      kernel matrix [n, n]    k      kernel between X and Xq [n, q]
    sigma  width of the kernel     eta    standard deviation of the noise, 0.1 in the paper
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.spatial.distance import cdist, pdist

FloatArray = NDArray[np.float64]

#: The paper's noise: "we simply set eta = 0.1".
ETA = 0.1


def standardise(y: FloatArray, *, eta: float = ETA) -> FloatArray:
    """y [n] shifted and scaled to mean 0 and variance 1 + eta^2; zeros when all are equal."""
    spread = y.std()
    if not spread > 1e-12 * max(1.0, float(np.abs(y).max(initial=0.0))):
        return np.zeros_like(y)
    return np.asarray((y - y.mean()) / spread * np.sqrt(1 + eta**2))


def kernel(X: FloatArray, Xq: FloatArray, sigma: float) -> FloatArray:
    """kappa(x, x') = exp(-|x - x'|^2 / (2 sigma^2)), shape [n, q]."""
    return np.exp(-cdist(X, Xq, "sqeuclidean") / (2 * sigma**2))


def sigma_rule(X: FloatArray, y: FloatArray, first: int) -> float:
    """The kernel's width by the paper's rule.

    The mean accuracy difference over the pairs of the first iteration is a threshold. All evaluated pairs with a
    larger difference are kept and their code distances sorted, Dis_0 < .. < Dis_{l-1}; sigma = Dis_{l/20} / 2.

    Args:
        X: Refined codes [n, m], in the order they were suggested.
        y: Their accuracies [n] in any unit.
        first: How many of them, from the front, make up the first iteration.

    Where no pair is kept (all accuracies equal, or fewer than two codes) the median distance stands in for Dis_{l/20};
    1 where all codes are the same.
    """
    if len(y) < 2:
        return 1.0
    gaps = pdist(y[:, None])
    distances = pdist(X)
    head = pdist(y[: max(first, 2), None])
    kept = np.sort(distances[(gaps > head.mean()) & (distances > 0)])
    if len(kept):
        return float(kept[len(kept) // 20] / 2)
    positive = distances[distances > 0]
    return float(np.median(positive) / 2) if len(positive) else 1.0


@dataclass(frozen=True, eq=False)
class Posterior:
    """The process given n observations: equation (1). Build it with ``posterior``."""

    X: FloatArray  # [n, m]
    Y: FloatArray  # [n]
    sigma: float
    eta: float
    chol: FloatArray  # lower triangle L with L L^T = K + eta^2 I  [n, n]
    weights: FloatArray  # (K + eta^2 I)^-1 Y  [n]

    def mean_var(self, Xq: FloatArray) -> tuple[FloatArray, FloatArray]:
        """mu_n(x) and kappa_n(x, x) at each row of Xq, two arrays [q]."""
        k = kernel(self.X, Xq, self.sigma)  # [n, q]
        half = solve_triangular(self.chol, k, lower=True)
        return k.T @ self.weights, np.maximum(1.0 - (half**2).sum(axis=0), 0.0)

    def mean_cov(self, Xq: FloatArray) -> tuple[FloatArray, FloatArray]:
        """mu_n(x) [q] and kappa_n(x, x') for all pairs of rows of Xq [q, q]."""
        k = kernel(self.X, Xq, self.sigma)
        half = solve_triangular(self.chol, k, lower=True)
        return k.T @ self.weights, kernel(Xq, Xq, self.sigma) - half.T @ half


def posterior(X: FloatArray, Y: FloatArray, sigma: float, *, eta: float = ETA) -> Posterior:
    """Condition the process on observations.

    mu_n(x) = k^T (K + eta^2 I)^-1 Y,   kappa_n(x, x') = kappa(x, x') - k^T (K + eta^2 I)^-1 k'      (1)

    Args:
        X: Refined codes [n, m]; n may be 0, which gives the prior.
        Y: Standardised accuracies [n].
        sigma: Width of the kernel.
        eta: Standard deviation of the noise.
    """
    n = len(Y)
    gram = kernel(X, X, sigma) + eta**2 * np.eye(n) if n else np.zeros((0, 0))
    chol = np.tril(cho_factor(gram, lower=True)[0]) if n else gram
    weights = cho_solve((chol, True), Y) if n else np.zeros(0)
    return Posterior(X, Y, sigma, eta, chol, np.asarray(weights))

"""The kernels of both searches, and how their parameters follow from the results.

The paper's (appendix A.1), on refined codes, its width by a rule and its noise fixed:

    kappa(x, x') = exp(-|x - x'|^2 / (2 sigma^2))

The default search's: a linear, an additive and a joint part, with fitted length scales.

    k_lin(z, z') = v_lin / d  sum_j z_j z'_j                      each entry contributes linearly
    k_add(z, z') = v_add / d  sum_j m(|z_j - z'_j| / s_j)         each entry contributes a curve
    k_ard(z, z') = v_ard  m(sqrt(sum_j (z_j - z'_j)^2 / l_j^2))   entries interact
    m(r)         = (1 + sqrt(5) r + 5/3 r^2) exp(-sqrt(5) r)      Matern, nu = 5/2

Block stacking codes respond nearly additively: few results pin the first two parts down, and the third corrects them
where there is more to learn. Length scales, variances and the noise are those of largest posterior density (MAP)
under log-normal priors, which keep a fit to sixteen results sane.

Notation:
    n  evaluated codes   q  candidates       d  entries   theta  logarithms of l [d], s [d], v_ard, v_add, v_lin, noise
    Z  standardised codes [n, d]   Y  standardised results [n]   W = a a^T - K^-1 with a = K^-1 Y
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.optimize import minimize
from scipy.spatial.distance import cdist, pdist

FloatArray = NDArray[np.float64]

#: Standard deviation of the paper's noise: "we simply set eta = 0.1".
ETA: Final = 0.1

_SQRT5: Final = np.sqrt(5.0)
_STEPS: Final = 60
#: Prior medians of the variances v_ard, v_add, v_lin and of the noise, and the widths of their logarithms.
_VARIANCES: Final = (0.1, 0.5, 0.5, 0.05)
_WIDTHS: Final = (1.2, 1.2, 1.2, 1.0)
#: Prior median of s, and the width of the logarithms of l and s; l has the median sqrt(d), as distances grow with d.
_ADDITIVE_SCALE, _SCALE_WIDTH = 1.5, 0.9
#: Bounds of the logarithms: length scales, variances, noise.
_BOUNDS: Final = ((-2.5, 4.0), (-7.0, 3.0), (float(np.log(1e-3)), float(np.log(0.7))))


@dataclass(frozen=True)
class SquaredExponential:
    """The paper's kernel kappa of width sigma."""

    sigma: float
    noise: float = ETA**2  # variance of the noise

    def __call__(self, X: FloatArray, Xq: FloatArray) -> FloatArray:
        """The kernel between rows of X [n, m] and of Xq [q, m], shape [n, q]."""
        return np.exp(-cdist(X, Xq, "sqeuclidean") / (2 * self.sigma**2))

    def diagonal(self, X: FloatArray) -> FloatArray:
        """The prior variance of f at rows of X [n, m], shape [n]: 1 everywhere."""
        return np.ones(len(X))


def sigma_rule(X: FloatArray, y: FloatArray, first: int) -> float:
    """The kernel's width by the paper's rule.

    The mean accuracy difference over the pairs of the first iteration is a threshold. All evaluated pairs with a
    larger difference are selected and their code distances sorted, Dis_0 < .. < Dis_{l-1}; sigma = Dis_{l/20} / 2.

    Args:
        X: Refined codes [n, m], in the order they were suggested.
        y: Their accuracies [n] in any unit.
        first: How many of them, from the front, make up the first iteration.

    Where no pair is selected (all accuracies equal, or fewer than two codes) the median distance replaces Dis_{l/20};
    1 where all codes are the same.
    """
    if len(y) < 2:
        return 1.0
    gaps = pdist(y[:, None])
    distances = pdist(X)
    head = pdist(y[: max(first, 2), None])
    selected = np.sort(distances[(gaps > head.mean()) & (distances > 0)])
    if len(selected):
        return float(selected[len(selected) // 20] / 2)
    positive = distances[distances > 0]
    return float(np.median(positive) / 2) if len(positive) else 1.0


def matern(r: FloatArray) -> FloatArray:
    """m(r), the Matern kernel of nu = 5/2 with unit scale; any shape."""
    return np.asarray((1 + _SQRT5 * r + 5 / 3 * r * r) * np.exp(-_SQRT5 * r))


@dataclass(frozen=True, eq=False)
class AdditiveMatern:
    """The default search's kernel: the sum of the linear, the additive and the joint part."""

    joint_scale: FloatArray  # l [d]
    additive_scale: FloatArray  # s [d]
    v_ard: float
    v_add: float
    v_lin: float
    noise: float  # variance of the noise

    def __call__(self, A: FloatArray, B: FloatArray) -> FloatArray:
        """The kernel between rows of A [n, d] and of B [q, d], shape [n, q]."""
        return np.asarray(self.joint(A, B) + self.additive(A, B) + self.v_lin / A.shape[1] * (A @ B.T))

    def joint(self, A: FloatArray, B: FloatArray) -> FloatArray:
        """k_ard alone."""
        a, b = A / self.joint_scale, B / self.joint_scale
        squares = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)[None] - 2 * (a @ b.T)
        return np.asarray(self.v_ard * matern(np.sqrt(np.maximum(squares, 0.0))))

    def additive(self, A: FloatArray, B: FloatArray) -> FloatArray:
        """k_add alone: entries take few values, so the Matern is evaluated once for each pair of values."""
        out = np.zeros((len(B), len(A)))
        for j in range(A.shape[1]):
            b, at_b = np.unique(B[:, j], return_inverse=True)
            if 2 * len(b) > len(B):  # a cost: hardly a value comes twice
                out += self.curve(j, B[:, j], A[:, j])
            else:
                a, at_a = np.unique(A[:, j], return_inverse=True)
                out += self.curve(j, b, a)[:, at_a].take(at_b, axis=0)
        return np.asarray(out.T)

    def curve(self, j: int, a: FloatArray, b: FloatArray) -> FloatArray:
        """The additive part's kernel of entry j between values a and b, shape [len(a), len(b)]."""
        share = self.v_add / len(self.additive_scale)
        return np.asarray(share * matern(np.abs(a[:, None] - b[None]) / self.additive_scale[j]))

    def diagonal(self, A: FloatArray) -> FloatArray:
        """The prior variance of f at rows of A [n, d], shape [n]."""
        return np.asarray(self.v_ard + self.v_add + self.v_lin / A.shape[1] * (A * A).sum(axis=1))


def fit_kernel(Z: FloatArray, Y: FloatArray, extra: FloatArray | None = None) -> AdditiveMatern:
    """The kernel of largest posterior density for standardised codes [n, d] and results [n]; the prior's for n = 0.

    ``extra`` [n] is the variance of each result's own noise beside the kernel's, which is fitted. L-BFGS with the
    analytic gradient from the prior's medians, so the result depends on the arguments alone.
    """
    d = Z.shape[1]
    median, width = _prior(d)
    bounds = [_BOUNDS[0]] * (2 * d) + [_BOUNDS[1]] * 3 + [_BOUNDS[2]]
    start = np.clip(median, [b[0] for b in bounds], [b[1] for b in bounds])
    if not len(Y):
        return _kernel(start, d)
    density = _Density(Z, Y, median, width, np.zeros(len(Y)) if extra is None else extra)
    optimum = minimize(density, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": _STEPS})
    return _kernel(optimum.x, d)


def _prior(d: int) -> tuple[FloatArray, FloatArray]:
    median = np.log(np.concatenate([np.full(d, np.sqrt(d)), np.full(d, _ADDITIVE_SCALE), _VARIANCES]))
    return median, np.concatenate([np.full(2 * d, _SCALE_WIDTH), _WIDTHS])


def _kernel(theta: FloatArray, d: int) -> AdditiveMatern:
    v_ard, v_add, v_lin, noise = (float(v) for v in np.exp(theta[2 * d :]))
    return AdditiveMatern(np.exp(theta[:d]), np.exp(theta[d : 2 * d]), v_ard, v_add, v_lin, noise)


class _Density:
    """Negative logarithm of the posterior density of theta, and its gradient.

    Sums over pairs of codes are matrix products: for the joint part sum_pq M_pq (z_p - z_q)^2 is
    2 (sum_p M_p. z_p^2 - z^T M z), for the additive part W is first summed over the codes that share a value.
    """

    def __init__(self, Z: FloatArray, Y: FloatArray, median: FloatArray, width: FloatArray, extra: FloatArray) -> None:
        self.Z, self.Y, self.median, self.width, self.extra = Z, Y, median, width, extra
        self.n, self.d = Z.shape
        self.linear = Z @ Z.T / self.d
        values, indices = zip(*(np.unique(Z[:, j], return_inverse=True) for j in range(self.d)), strict=True)
        self.gaps = [np.abs(v[:, None] - v[None]) for v in values]  # [v_j, v_j] each
        offsets = np.concatenate([[0], np.cumsum([len(v) for v in values])])
        self.parts = [slice(a, b) for a, b in pairwise(offsets)]
        self.one_hot = np.zeros((self.n, offsets[-1]))  # which value each code has, entry by entry
        for j in range(self.d):
            self.one_hot[np.arange(self.n), offsets[j] + indices[j]] = 1.0

    def __call__(self, theta: FloatArray) -> tuple[float, FloatArray]:
        d, n = self.d, self.n
        kernel = _kernel(theta, d)
        scaled = self.Z / kernel.joint_scale
        norms = (scaled * scaled).sum(axis=1)
        squares = np.maximum(norms[:, None] + norms[None] - 2 * (scaled @ scaled.T), 0.0)
        r = np.sqrt(squares)
        decay = kernel.v_ard * np.exp(-_SQRT5 * r)
        joint = (1 + _SQRT5 * r + 5 / 3 * squares) * decay
        steepness = 5 / 3 * (1 + _SQRT5 * r) * decay  # minus dk/d(log l_j) is this times the scaled square of entry j

        share = kernel.v_add / d
        tables = np.zeros((self.one_hot.shape[1],) * 2)
        slopes = []
        for j, part in enumerate(self.parts):
            q = self.gaps[j] / kernel.additive_scale[j]
            fall = np.exp(-_SQRT5 * q)
            tables[part, part] = share * (1 + _SQRT5 * q + 5 / 3 * q * q) * fall
            slopes.append(share * 5 / 3 * q * q * (1 + _SQRT5 * q) * fall)
        additive = self.one_hot @ tables @ self.one_hot.T
        linear = kernel.v_lin * self.linear

        K = joint + additive + linear
        K[np.diag_indices(n)] += kernel.noise + self.extra
        try:
            factor = cho_factor(K, lower=True)
        except LinAlgError:
            return 1e10, np.zeros_like(theta)
        a = cho_solve(factor, self.Y)
        W = np.outer(a, a) - cho_solve(factor, np.eye(n))

        gradient = np.empty_like(theta)
        M = W * steepness
        gradient[:d] = -((M.sum(axis=1) @ (scaled * scaled)) - (scaled * (M @ scaled)).sum(axis=0))
        by_value = W @ self.one_hot
        for j, part in enumerate(self.parts):
            gradient[d + j] = -0.5 * float((self.one_hot[:, part].T @ by_value[:, part] * slopes[j]).sum())
        for index, part_of_k in zip(range(2 * d, 2 * d + 3), (joint, additive, linear), strict=True):
            gradient[index] = -0.5 * float((W * part_of_k).sum())
        gradient[-1] = -0.5 * kernel.noise * float(np.trace(W))

        z = (theta - self.median) / self.width
        value = 0.5 * float(self.Y @ a) + float(np.log(np.diag(factor[0])).sum()) + 0.5 * float(z @ z)
        return value, gradient + z / self.width

"""The Gaussian process of both searches: its posterior under any kernel.

    mu_n(x) = k^T (K + N)^-1 Y,   kappa_n(x, x') = kappa(x, x') - k^T (K + N)^-1 k',   N = noise I      (1)

Results may have more noise than the kernel's: N is diagonal then, the kernel's noise and each result's own.

Notation:
    n  evaluated codes          q   candidates                   m  entries of a point
    X  evaluated points [n, m]  Xq  candidates' points [q, m]       Y  standardised results [n]
    K  kernel matrix [n, n]     k   kernel between X and Xq [n, q]
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from threadpoolctl import ThreadpoolController

FloatArray = NDArray[np.float64]


class Kernel(Protocol):
    """A covariance function of f, and the noise of a result around f."""

    @property
    def noise(self) -> float:
        """Variance of the noise."""
        ...

    def __call__(self, X: FloatArray, Xq: FloatArray, /) -> FloatArray:
        """Covariances of f between rows of X [n, m] and of Xq [q, m], shape [n, q]."""
        ...

    def diagonal(self, X: FloatArray, /) -> FloatArray:
        """Prior variance of f at rows of X [n, m], shape [n]."""
        ...


KernelT = TypeVar("KernelT", bound=Kernel)


@dataclass(frozen=True, eq=False)
class Posterior(Generic[KernelT]):
    """The process conditioned on n results: equation (1). Made by ``condition``."""

    kernel: KernelT
    X: FloatArray  # [n, m]
    Y: FloatArray  # [n]
    chol: FloatArray  # lower triangle L with L L^T = K + N  [n, n]
    weights: FloatArray  # (K + N)^-1 Y  [n]
    extra: FloatArray  # variance of each result's own noise beside the kernel's  [n]

    @property
    def fitted(self) -> FloatArray:
        """The posterior mean of f at the evaluated codes [n]: k^T (K + N)^-1 Y = Y - N (K + N)^-1 Y."""
        return np.asarray(self.Y - (self.kernel.noise + self.extra) * self.weights)

    def values(self) -> tuple[FloatArray, FloatArray]:
        """The posterior mean [n] and covariance [n, n] of the evaluated codes' own values.

        The kernel's noise is taken for what sets a code apart from f, and each result's own for its trainings': with
        E = diag(extra), Y - E (K + N)^-1 Y and E - E (K + N)^-1 E.
        """
        cov = np.diag(self.extra) - self.extra[:, None] * self.solve(np.diag(self.extra))
        return self.Y - self.extra * self.weights, (cov + cov.T) / 2

    def mean(self, Xq: FloatArray) -> FloatArray:
        """mu_n(x) at each row of Xq, shape [q]."""
        return np.asarray(self.kernel(self.X, Xq).T @ self.weights)

    def mean_var(self, Xq: FloatArray) -> tuple[FloatArray, FloatArray]:
        """mu_n(x) and kappa_n(x, x) at each row of Xq, two arrays [q]."""
        k = self.kernel(self.X, Xq)  # [n, q]
        half = self.half_solve(k)
        return k.T @ self.weights, np.maximum(self.kernel.diagonal(Xq) - (half**2).sum(axis=0), 0.0)

    def mean_cov(self, Xq: FloatArray) -> tuple[FloatArray, FloatArray]:
        """mu_n(x) [q] and kappa_n(x, x') for all pairs of rows of Xq [q, q]."""
        k = self.kernel(self.X, Xq)
        half = self.half_solve(k)
        return k.T @ self.weights, self.kernel(Xq, Xq) - half.T @ half

    def with_results(self, X: FloatArray, Y: FloatArray) -> Posterior[KernelT]:
        """The process conditioned on results Y [u] at X [u, m] too: O(n^2 u), where ``condition`` is O((n + u)^3)."""
        n = len(self.Y)
        side = self.half_solve(self.kernel(self.X, X))  # [n, u]
        rest = self.kernel(X, X) + self.kernel.noise * np.eye(len(Y)) - side.T @ side
        chol = np.zeros((n + len(Y), n + len(Y)))
        chol[:n, :n], chol[n:, :n], chol[n:, n:] = self.chol, side.T, np.linalg.cholesky(rest)
        all_Y = np.concatenate([self.Y, Y])
        weights = np.asarray(cho_solve((chol, True), all_Y, check_finite=False))
        extra = np.concatenate([self.extra, np.zeros(len(Y))])
        return Posterior(self.kernel, np.concatenate([self.X, X]), all_Y, chol, weights, extra)

    def solve(self, B: FloatArray) -> FloatArray:
        """(K + N)^-1 B, of the shape of B [n, ..]."""
        return np.asarray(cho_solve((self.chol, True), B, check_finite=False))

    def half_solve(self, B: FloatArray) -> FloatArray:
        """L^-1 B, of the shape of B [n, ..]; the squares of its columns are what results take off the variance."""
        return np.asarray(solve_triangular(self.chol, B, lower=True, check_finite=False))


def condition(kernel: KernelT, X: FloatArray, Y: FloatArray, extra: FloatArray | None = None) -> Posterior[KernelT]:
    """The process conditioned on standardised results Y [n] at X [n, m]; n = 0: prior.

    Their noise is the kernel's, and where given the variance ``extra`` [n] of each result's own beside it.
    """
    extra = np.zeros(len(Y)) if extra is None else extra
    gram = kernel(X, X) + np.diag(kernel.noise + extra)
    chol = np.tril(cho_factor(gram, lower=True)[0])
    return Posterior(kernel, X, Y, chol, np.asarray(cho_solve((chol, True), Y)), extra)


def one_thread() -> AbstractContextManager[Any]:
    """A context in which numpy and scipy multiply and factorise on one thread; torch's threads stay.

    The search's matrices have some hundred rows: the threads of a BLAS cost more than they save there, many times more
    where workers or an evaluation share the cores.
    """
    limit: AbstractContextManager[Any] = _controller().limit(limits=1, user_api="blas")
    return limit


@lru_cache
def _controller() -> ThreadpoolController:
    """The BLAS libraries that are loaded; looking them up takes longer than an ask may."""
    return ThreadpoolController()

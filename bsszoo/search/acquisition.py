"""What to evaluate next: expected improvement, equation (2), and its expectation over pending results, equation (3).

Notation:
    q      codes to judge         u      pending codes: suggested, result unknown     s      Monte Carlo draws
    tau    the best observed Y    mu, var  posterior mean and variance of f at the judged codes [q]
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from bsszoo.search.gp import KernelT, Posterior, condition

FloatArray = NDArray[np.float64]

#: Monte Carlo draws of the pending results.
DRAWS = 256


def expected_improvement(mean: FloatArray, var: FloatArray, tau: float | FloatArray) -> FloatArray:
    """E max(0, f - tau) for f ~ N(mean, var), equation (2) in closed form; shapes broadcast.

    With z = (mean - tau) / sqrt(var) it is (mean - tau) Phi(z) + sqrt(var) phi(z), and max(0, mean - tau) at var = 0.
    """
    std = np.sqrt(var)
    gain = mean - tau
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(std > 0, gain / np.where(std > 0, std, 1.0), 0.0)
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    return np.where(std > 0, np.maximum(gain * ndtr(z) + std * density, 0.0), np.maximum(gain, 0.0))


def draw_pending(
    posterior: Posterior[KernelT], X_pending: FloatArray, rng: np.random.Generator, *, draws: int = DRAWS
) -> FloatArray:
    """Draws [s, u] of the pending results: each Gaussian, given the observations and the results drawn before it.

    Drawing one after the other is drawing from their joint distribution, N(mu, kappa_n + noise I): the factor of
    its covariance does both at once.
    """
    mean, cov = posterior.mean_cov(X_pending)
    factor = np.linalg.cholesky(cov + posterior.kernel.noise * np.eye(len(mean)))
    return np.asarray(mean + rng.standard_normal((draws, len(mean))) @ factor.T)


def expected_expected_improvement(
    posterior: Posterior[KernelT],
    X_pending: FloatArray,
    Xq: FloatArray,
    rng: np.random.Generator,
    *,
    draws: int = DRAWS,
) -> FloatArray:
    """The expected value of EI over the unknown results of pending codes, equation (3), by Monte Carlo.

    Each draw of the pending results is taken as observed: it moves the mean at the judged codes and may raise tau.
    The variance does not depend on the results drawn, so one factorisation serves all draws.

    Args:
        posterior: The process given the finished results.
        X_pending: Refined codes whose results are unknown [u, m]; with u = 0 this is equation (2).
        Xq: Refined codes to judge [q, m].
        rng: Source of the draws.
        draws: Number of draws s; the standard error falls with its square root.

    Returns an array [q].
    """
    tau = float(posterior.Y.max())
    if not len(X_pending):
        return expected_improvement(*posterior.mean_var(Xq), tau)
    drawn = draw_pending(posterior, X_pending, rng, draws=draws)  # [s, u]
    X, Y = np.concatenate([posterior.X, X_pending]), np.concatenate([posterior.Y, np.zeros(len(X_pending))])
    # The mean is linear in Y: with Y_s the observations of draw s, mu_s(x) = W^T Y_s, W = (K + noise I)^-1 k.
    base = condition(posterior.kernel, X, Y)
    mean0, var = base.mean_var(Xq)
    mean = mean0 + drawn @ base.solve(base.kernel(X, Xq))[-len(X_pending) :]  # [s, q]
    best = np.maximum(drawn.max(axis=1), tau)  # [s]
    return np.asarray(expected_improvement(mean, var, best[:, None]).mean(axis=0))

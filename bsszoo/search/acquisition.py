"""What to evaluate next: expected improvement, its logarithm, and its expectation over pending results.

Notation:
    q      candidates             u      pending codes: suggested, result unknown     s      Monte Carlo draws
    tau    the best Y so far      mu, var  posterior mean and variance of f at the candidates [q]

Expected improvement is E max(0, f - tau) for f ~ N(mu, var), equation (2). With z = (mu - tau) / sqrt(var) it is
sqrt(var) h(z), h(z) = phi(z) + z Phi(z), which is 0 in doubles from z = -39 on. Its logarithm never is, so its
maximum always is the most promising code: S. Ament et al., Unexpected improvements to expected improvement for Bayesian
optimization, NeurIPS 2023.
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfcx, logsumexp, ndtr

from bsszoo.search.gp import KernelT, Posterior, condition

FloatArray = NDArray[np.float64]

#: Monte Carlo draws of the pending results.
DRAWS: Final = 256

# From here down the two terms of h(z) cancel in all but their last digits, and its series takes over.
_SERIES_BELOW: Final = -1e3


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


def expected_rise(mean: FloatArray, var: FloatArray, noise: float, others: FloatArray) -> FloatArray:
    """How much the largest posterior mean rises, expectedly, by one more training of each code [n].

    A training of a code of posterior N(mean, var) moves its mean by a Gaussian of the variance var^2 / (var + noise).
    The largest mean rises where that takes it above the others', and of the code that has it where it falls below the
    second largest, which then is the largest: the knowledge gradient, codes taken for independent (P. Frazier,
    W. Powell and S. Dayanik, A knowledge-gradient policy for sequential information collection, SIAM Journal on Control
    and Optimization, 2008).

    Args:
        mean, var: The posterior of the codes' values [n].
        noise: Variance of a training around its code's value.
        others: Posterior means of codes of which no training is asked, any number.
    """
    order = np.sort(np.concatenate([mean, others]))
    if len(order) == 1:
        return np.zeros_like(mean)  # the only code is recommended whatever it gives
    second, first = order[-2:]
    moves = mean_moves(var, noise)
    # Of the largest mean m: E max(m + move, second) - m.
    falls = expected_improvement(np.full_like(mean, second), moves, first)
    return np.where(mean == first, falls, expected_improvement(mean, moves, first))


def mean_moves(var: FloatArray, noise: float) -> FloatArray:
    """The variance by which a training of that noise moves the posterior mean of a code's value; any shape."""
    return np.where(var > 0, var**2 / np.maximum(var + noise, np.finfo(float).tiny), 0.0)


def log_expected_improvement(mean: FloatArray, var: FloatArray, tau: float | FloatArray) -> FloatArray:
    """The logarithm of ``expected_improvement``, finite wherever var > 0; shapes broadcast.

    log h(z) = log phi(z) + log(1 + z M(z)) with the Mills ratio M = Phi / phi, M(z) = sqrt(pi / 2) erfcx(-z / sqrt(2)),
    and 1 + z M(z) tends to z^-2 - 3 z^-4 as z falls. At var = 0 it is log max(0, mean - tau).
    """
    std = np.sqrt(var)
    gain = mean - tau
    certain = std == 0
    z = np.where(certain, 0.0, gain / np.where(certain, 1.0, std))
    log_density = -0.5 * z**2 - 0.5 * np.log(2 * np.pi)
    near, low, far = np.maximum(z, -1.0), np.clip(z, _SERIES_BELOW, -1.0), np.minimum(z, _SERIES_BELOW)
    log_h = np.where(
        z > -1,
        np.log(np.exp(-0.5 * near**2) / np.sqrt(2 * np.pi) + near * ndtr(near)),
        log_density
        + np.where(
            z > _SERIES_BELOW,
            np.log1p(low * np.sqrt(np.pi / 2) * erfcx(-low / np.sqrt(2))),
            np.log1p(-3 / far**2) - 2 * np.log(-far),
        ),
    )
    with np.errstate(divide="ignore"):
        return np.where(certain, np.log(np.maximum(gain, 0.0)), np.log(np.where(certain, 1.0, std)) + log_h)


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
    tau: Literal["result", "mean"] = "result",
    log: bool = False,
) -> FloatArray:
    """The expected value of EI over the unknown results of pending codes, equation (3), by Monte Carlo.

    Each draw of the pending results is conditioned on: it moves the mean at the candidates and may raise tau.
    The variance does not depend on the results drawn, so one factorisation serves all draws.

    Args:
        posterior: The process conditioned on the finished results, at least one.
        X_pending: Points of codes whose results are unknown [u, m]; with u = 0 this is equation (2).
        Xq: Points of the candidates [q, m].
        rng: Source of the draws.
        draws: Number of draws s; the standard error falls with its square root. 0 replaces each pending result by
            its posterior mean instead (the kriging believer).
        tau: The largest result, observed or drawn; or the largest posterior mean of f at the evaluated and pending
            codes, since the largest of noisy results is too high a bar.
        log: The logarithm of the expected value.

    Returns an array [q].
    """
    improvement = log_expected_improvement if log else expected_improvement
    u = len(X_pending)
    if u and not draws:
        posterior = posterior.with_results(X_pending, posterior.mean(X_pending))
    if not (u and draws):
        best = posterior.Y if tau == "result" else posterior.fitted
        return improvement(*posterior.mean_var(Xq), float(best.max()))
    drawn = draw_pending(posterior, X_pending, rng, draws=draws)  # [s, u]
    X, Y = np.concatenate([posterior.X, X_pending]), np.concatenate([posterior.Y, np.zeros(u)])
    # The mean is linear in Y: with Y_s the observations of draw s, mu_s(x) = W^T Y_s, W = (K + N)^-1 k.
    base = condition(posterior.kernel, X, Y, np.concatenate([posterior.extra, np.zeros(u)]))
    mean0, var = base.mean_var(Xq)
    mean = mean0 + drawn @ base.solve(base.kernel(X, Xq))[-u:]  # [s, q]
    results = np.concatenate([np.tile(posterior.Y, (draws, 1)), drawn], axis=1)  # Y_s of each draw [s, n + u]
    if tau == "mean":
        results = results - (base.kernel.noise + base.extra) * base.solve(results.T).T
    gain = improvement(mean, var, results.max(axis=1, keepdims=True))
    return np.asarray(logsumexp(gain, axis=0) - np.log(draws) if log else gain.mean(axis=0))

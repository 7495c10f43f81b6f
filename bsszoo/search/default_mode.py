"""The default search: a Gaussian process with fitted length scales, and expected improvement over all feasible codes.

    first codes: dispersed -> results_of -> kernels.fit_kernel -> shortlist -> LogEI, pending results expected -> code

Where codes are trained again (``replicates``), results are of codes (``by_code``), and after LogEI ``_again`` says
whether another training of a leader promises more.

It differs from the paper's search (``paper_mode``) in what docs/comparison.md shows to pay: the model sees costs beside
entries and learns its length scales, and every candidate is scored instead of 256 centres.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bsszoo.search.acquisition import expected_expected_improvement, expected_improvement, expected_rise, mean_moves
from bsszoo.search.clustering import farthest, nearest_distinct, representatives
from bsszoo.search.features import Features
from bsszoo.search.gp import Posterior, condition
from bsszoo.search.history import History
from bsszoo.search.kernels import AdditiveMatern, fit_kernel
from bsszoo.spaces.candidate_set import CandidateSet

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# Results further below the median than this many times its distance to the lower quartile are raised to that bound.
_REACH: Final = 3.0
# Codes with both a report and a score from which the one tells of the other.
_LEAST_PAIRS: Final = 5
# Before codes were trained again: the share of the fitted noise that is the trainings'.
_TRAININGS_SHARE: Final = 0.5
# Prior of the variance of trainings around their code, as a share of the results'; it is worth one degree of freedom.
_TRAINING_PRIOR: Final = 0.05
# What another training of a leader has to promise, as a multiple of what a new code does, which also teaches the model.
_AGAIN: Final = 2.0
# Trainings again that all gave what the code's first one had: the objective has no noise.
_ALIKE: Final = 2
# Draws of all codes' values, from which each one's probability of being the best is counted.
_DRAWS: Final = 10_000
# Results from which on codes are suggested by the model: more dispersed ones teach it less than what it asks for.
_EARLY: Final = 8
# Number of candidates, drawn from all, among which the first codes are chosen.
_FIRST_FROM: Final = 20_000
# Most results that the kernel's parameters are fitted to; the process itself is conditioned on all.
_FIT_MOST: Final = 256
#: Number of free candidates up to which all are scored exactly.
ALL: Final = 4096
#: Otherwise the number with the largest cheap mean, with the largest upper bound, and drawn at random, each.
EACH: Final = 384
# Candidates looked up at once: what fits the cache.
_CHUNK: Final = 32_768


@dataclass(frozen=True, eq=False)
class Model:
    """The Gaussian process fitted to the standardised results, (y - centre) / spread.

    ``results`` are what it was fitted to where those are of codes; the kernel's noise is then what sets a code apart
    from the process, and ``training`` the variance of a training around its code.
    """

    posterior: Posterior[AdditiveMatern]
    centre: float
    spread: float
    results: ByCode | None = None
    training: float = 0.0


@dataclass(frozen=True, slots=True)
class Leader:
    """A code as a recommendation, in the study's units.

    ``params`` are its entries by name; ``mean`` and ``deviation`` describe what is known of its value after its
    ``trainings``, by them and by those of all other codes; ``probability`` is that of being the best of all codes
    that have a result.
    """

    params: dict[str, int]
    mean: float
    deviation: float
    trainings: int
    probability: float


class DefaultMode:
    """Dispersed codes first; then the candidate with the largest expected improvement, pending codes accounted for.

    Args:
        candidates: The codes to choose from.
        batch_size: Most codes in the first iteration, which ends with the eighth result (or the fourth beside
            those of ``first``, where these are many).
        seed: Seed of every random choice.
        replicates: The share of the trials, at most, that train a code again.
        first: Rows of the first iteration's first codes; the others are dispersed.
    """

    def __init__(
        self,
        candidates: CandidateSet,
        *,
        batch_size: int,
        seed: int,
        replicates: float = 0.0,
        first: Sequence[int] = (),
    ) -> None:
        self.candidates, self.batch_size, self.seed, self.replicates = candidates, batch_size, seed, replicates
        self._given = np.array(first[:batch_size], dtype=np.int64)
        self.features = Features(candidates)
        self._first: IntArray | None = None
        self._fitted: tuple[object, AdditiveMatern] | None = None
        self._cached: tuple[object, Model] | None = None

    def suggest(self, history: History, free: NDArray[np.bool_], *, new: bool = False) -> int:
        """The row of the next code, from the study's history and the rows not suggested before, ``free`` [n].

        With replicates it may be the row of a code that has a result, unless it shall be ``new``, and is one where no
        row is free.
        """
        held = len(history.numbers)
        if held < self.batch_size and history.done.sum() < max(_EARLY, len(self._given) + _EARLY // 2):
            first = self._first_rows()
            if free[first].any():
                return int(first[free[first]][0])
        rng = np.random.default_rng([self.seed, *b"gain", held, int(history.done.sum())])
        if history.done.sum() < 2:
            # Nothing to model yet (the first iteration failed or still runs): the code farthest from all others.
            rows = np.flatnonzero(free)
            rows = rows if len(rows) <= _FIRST_FROM else np.sort(rng.choice(rows, _FIRST_FROM, replace=False))
            used = self.features.of_codes(history.codes, history.rows)
            return int(rows[farthest(self.features.of_rows(rows), used)])
        model = self.model_of_codes(history) if self.replicates else self.model(history)
        posterior, waited = model.posterior, history.running.copy()
        if model.results is not None:
            with_result = set(map(tuple, model.results.codes.tolist()))
            waited &= [tuple(code) not in with_result for code in history.codes.tolist()]
        pending = self.features.of_codes(history.codes[waited], history.rows[waited])
        if not free.any():
            return self._again(model, pending, None)[0]
        rows = shortlist(posterior, self.features, free, rng)
        # Pending results at their expectation, since averaging over draws of them was a little worse; tau by the mean,
        # since the largest of noisy results is too high a bar; logarithms, since gains of 0 would leave the first row.
        Xq = self.features.of_rows(rows)
        gain = expected_expected_improvement(posterior, pending, Xq, rng, draws=0, tau="mean", log=True)
        best = int(np.argmax(gain))
        replicates = held - len(np.unique(history.codes, axis=0))
        # Whether results have noise at all is known from two of them; no more than four are spent on it.
        known = model.results is not None and (model.results.freedom >= _ALIKE or replicates < 2 * _ALIKE)
        if known and not new and replicates + 1 <= self.replicates * (held + 1):
            row, again = self._again(model, pending, Xq[best])
            if again:
                return row
        return int(rows[best])

    def _again(self, model: Model, pending: FloatArray, new: FloatArray | None) -> tuple[int, bool]:
        """The row of the code whose next training promises most, and whether it is more than that of a new code.

        What a training promises is the expected rise of the largest posterior mean. Those under way of the same code
        have made its value surer; a new code adds what sets it apart from the process.
        """
        posterior, results = model.posterior, model.results
        assert results is not None
        mean, cov = posterior.values()
        var = cov.diagonal()
        if results.begun.any():
            counts = np.where(results.times > 0, results.times + results.begun, 1)
            extra = np.where(results.times > 0, model.training / counts, posterior.extra)
            var = condition(posterior.kernel, posterior.X, posterior.Y, extra).values()[1].diagonal()
        trained = (results.times > 0) & (results.rows >= 0)
        others = np.concatenate([mean[(results.times > 0) & ~trained], posterior.mean(pending)])
        rise = np.zeros(len(mean))
        rise[trained] = expected_rise(mean[trained], np.maximum(var[trained], 0.0), model.training, others)
        # One whose training fails would be asked for again and again.
        best = int(np.argmax(np.where(trained & ~results.failed, rise, -1.0)))
        row = int(results.rows[best])
        if new is None or not model.training:
            return row, new is None
        if len(pending):
            posterior = posterior.with_results(pending, posterior.mean(pending))
        at_new, spread = posterior.mean_var(new[None])
        moves = mean_moves(spread + posterior.kernel.noise, model.training)
        # However large its mean, an untrained code is not recommended.
        rise_new = expected_improvement(at_new, moves, np.concatenate([mean[trained], others]).max())
        return row, bool(rise[best] > _AGAIN * rise_new[0])

    def leaders(self, history: History, number: int, sign: float) -> list[Leader]:
        """The codes of the largest posterior means, best first, as ``AutoBSSSampler.recommend`` returns them."""
        model = self.model_of_codes(history)
        assert model.results is not None
        mean, cov = model.posterior.values()
        trained = np.flatnonzero(model.results.times > 0)
        mean, cov = mean[trained], cov[np.ix_(trained, trained)]
        values, vectors = np.linalg.eigh(cov)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        draws = mean + np.random.default_rng([self.seed, *b"best"]).standard_normal((_DRAWS, len(mean))) @ root.T
        wins = np.bincount(draws.argmax(axis=1), minlength=len(mean)) / _DRAWS
        return [
            Leader(
                params=dict(zip(self.candidates.names, model.results.codes[trained[i]].tolist(), strict=True)),
                mean=float(sign * (model.centre + model.spread * mean[i])),
                deviation=float(model.spread * np.sqrt(max(cov[i, i], 0.0))),
                trainings=int(model.results.times[trained[i]]),
                probability=float(wins[i]),
            )
            for i in np.argsort(-mean, kind="stable")[:number]
        ]

    def model_of_codes(self, history: History) -> Model:
        """The process conditioned on each code's mean result, where some have several trainings."""
        results = by_code(history)
        arrays = (results.codes, results.values, results.own, results.times)
        key = ("codes", results.within, *(array.tobytes() for array in arrays))
        cached = self._cached
        if cached is None or cached[0] != key:
            Z = self.features.of_codes(results.codes, results.rows)
            Y, centre, spread = standardise_results(results.values)
            trained, training = results.times > 0, 0.0
            if results.freedom and not results.alike:
                within = results.within / spread**2
                training = (_TRAINING_PRIOR + within) / (1 + results.freedom)
            shares = np.where(trained, 1 / np.maximum(results.times, 1), 0.0)
            own = np.sqrt(training * shares * spread**2 + results.own**2)
            kernel = self._kernel(Z, results.values, own)
            if not results.freedom:
                training = _TRAININGS_SHARE * kernel.noise
                kernel = replace(kernel, noise=kernel.noise - training)
            posterior = condition(kernel, Z, Y, training * shares + (results.own / spread) ** 2)
            cached = key, Model(posterior, centre, spread, results, training)
            self._cached = cached
        # The trainings under way are no part of the process.
        return replace(cached[1], results=results)

    def model(self, history: History) -> Model:
        """The process conditioned on the results, cached until a further one comes in.

        The results are the scores, and what the reports of pruned codes say of theirs (``results_of``).
        """
        known, y, own = results_of(history)
        codes = history.codes[known]
        key = (history.numbers[known].tobytes(), codes.tobytes(), y.tobytes(), own.tobytes())
        cached = self._cached  # read once: another thread may be asking for another study
        if cached is None or cached[0] != key:
            Z = self.features.of_codes(codes, history.rows[known])
            Y, centre, spread = standardise_results(y)
            kernel = self._kernel(Z, y, own)
            cached = key, Model(condition(kernel, Z, Y, (own / spread) ** 2), centre, spread)
            self._cached = cached
        return cached[1]

    def _kernel(self, Z: FloatArray, y: FloatArray, own: FloatArray) -> AdditiveMatern:
        """The kernel fitted to the first m results, where m follows n in steps that grow with n."""
        n = len(y)
        m = n - n % max(1, 2 ** (n.bit_length() - 6))
        key = (Z[:m].tobytes(), y[:m].tobytes(), own[:m].tobytes())
        fitted = self._fitted
        if fitted is None or fitted[0] != key:
            some = np.linspace(0, m - 1, min(m, _FIT_MOST)).astype(np.int64)
            Y, _, spread = standardise_results(y[some])
            fitted = key, fit_kernel(Z[some], Y, (own[some] / spread) ** 2)
            self._fitted = fitted
        return fitted[1]

    def _first_rows(self) -> IntArray:
        """The given ones, then dispersed candidates, costs included: k-means centres' nearest ones.

        The first few of these are a dispersed set themselves, should no more of them be asked for.
        """
        if self._first is None:
            number = self.batch_size - len(self._given)
            rng = np.random.default_rng([self.seed, *b"first"])
            n = len(self.candidates)
            rows = np.arange(n) if n <= _FIRST_FROM else np.sort(rng.choice(n, _FIRST_FROM, replace=False))
            Z = self.features.of_rows(rows)
            dispersed = rows[representatives(Z, number, rng)] if number else rows[:0]
            if len(dispersed) > _EARLY:
                centres = Z[representatives(Z, _EARLY, rng)]
                early = nearest_distinct(self.features.of_rows(dispersed), centres, dispersed)
                dispersed = np.concatenate([early, np.setdiff1d(dispersed, early)])
            self._first = np.array(list(dict.fromkeys([*self._given.tolist(), *dispersed.tolist()])), dtype=np.int64)
        return self._first


@dataclass(frozen=True, eq=False)
class ByCode:
    """The results of a history by code, in the order in which codes had their first one."""

    codes: IntArray  # [n, d]
    rows: IntArray  # among the candidates, -1 for codes outside [n]
    values: FloatArray  # the mean of the trainings, or what a report tells of it [n]
    own: FloatArray  # deviation of the noise of what a report tells, 0 for trainings [n]
    times: IntArray  # trainings with a result, 0 where there is a report only [n]
    begun: IntArray  # trainings under way [n]
    failed: NDArray[np.bool_]  # whether a training of it ended without a result [n]
    within: float  # sum of squares of trainings around their codes' means
    freedom: int  # its degrees of freedom
    alike: bool  # whether all trainings of each code gave exactly the same


def by_code(history: History) -> ByCode:
    """The results of codes, from those of trials."""
    known, y, own = results_of(history)
    results: dict[tuple[int, ...], list[tuple[float, float, int]]] = {}
    codes = list(map(tuple, history.codes.tolist()))
    rows = dict(zip(codes, history.rows.tolist(), strict=True))
    for i, value, deviation in zip(np.flatnonzero(known), y.tolist(), own.tolist(), strict=True):
        results.setdefault(codes[i], []).append((value, deviation, int(history.done[i])))
    # A report says nothing beside a training in full.
    trained = {code: [v for v, _, done in all_ if done] for code, all_ in results.items()}
    under_way = Counter(code for code, running in zip(codes, history.running, strict=True) if running)
    ended = zip(codes, ~known & ~history.running, strict=True)
    without = {code for code, nothing in ended if nothing}
    several = [np.array(values) for values in trained.values() if len(values) > 1]
    freedom = sum(len(values) - 1 for values in several)
    return ByCode(
        codes=np.array(list(results), dtype=np.int64).reshape(len(results), history.codes.shape[1]),
        rows=np.array([rows[code] for code in results], dtype=np.int64),
        values=np.array([np.mean(trained[code] or [all_[0][0]]) for code, all_ in results.items()], dtype=np.float64),
        own=np.array([0.0 if trained[code] else all_[0][1] for code, all_ in results.items()], dtype=np.float64),
        times=np.array([len(trained[code]) for code in results], dtype=np.int64),
        begun=np.array([under_way[code] for code in results], dtype=np.int64),
        failed=np.array([code in without for code in results], dtype=np.bool_),
        within=float(sum(((values - values.mean()) ** 2).sum() for values in several)),
        freedom=freedom,
        # One may be chance: accuracies are counts of images.
        alike=freedom >= _ALIKE and not any(map(np.ptp, several)),
    )


def results_of(history: History) -> tuple[NDArray[np.bool_], FloatArray, FloatArray]:
    """What a model learns from: which held codes have a result [h], the results [n], their own noise's deviations [n].

    A code that was stopped after a rung has a report at its end. Reports v and scores y of the codes that have both
    give a regression y = a + b z on z, the report standardised over all codes that reported there: a slope on z is not
    biased by stopping codes of low z. With s^2 the variance around it, r^2 = b^2 / (b^2 + s^2) is the squared
    correlation of scores and reports over all codes, and z measures the score as a + b z / r^2 with a noise of the
    variance (b^2 + s^2) (1 - r^2) / r^2. Where scores do not rise with the reports, or fewer than ``_LEAST_PAIRS``
    codes have both, those reports are not used.
    """
    y, own = history.values.copy(), np.zeros(len(history.values))
    done = history.done
    if history.reports:
        last = np.array([max(r, default=-1) for r in history.reports])
        stopped = ~done & ~history.running & (last >= 0)
        for rung in np.unique(last[stopped]):
            v = np.array([r.get(int(rung), np.nan) for r in history.reports])
            both, here = done & np.isfinite(v), stopped & (last == rung)
            spread = v[np.isfinite(v)].std()
            if both.sum() < _LEAST_PAIRS or not spread > 0:
                continue
            z = (v - v[np.isfinite(v)].mean()) / spread
            # Bad reports say how bad only: they would bend the line.
            z = np.maximum(z, np.median(z[np.isfinite(z)]) - _REACH)
            scores, centred = history.values[both], z[both] - z[both].mean()
            if not (scores * centred).sum() > 1e-9 * np.abs(scores).max():
                continue
            slope = (scores * centred).sum() / (centred**2).sum()
            at_0 = scores.mean() - slope * z[both].mean()
            around = ((scores - at_0 - slope * z[both]) ** 2).sum() / (both.sum() - 2)
            share = slope**2 / (slope**2 + around)
            y[here] = at_0 + slope * z[here] / share
            own[here] = np.sqrt((slope**2 + around) * (1 - share) / share)
    known = np.isfinite(y)
    return known, y[known], own[known]


def standardise_results(y: FloatArray) -> tuple[FloatArray, float, float]:
    """Results of mean 0 and standard deviation 1, the mean and the deviation; zeros where all are equal.

    Results far below the rest are raised to ``median - 3 (median - lower quartile)`` first: how bad a bad code is says
    little of the good ones, and a few collapsed networks would set the scale for all others.
    """
    unit = float(np.abs(y).max())  # sums and squares of very large or very small results stay numbers
    if not unit > 0:
        return np.zeros_like(y), 0.0, 1.0
    y = y / unit
    median, quartile = np.quantile(y, [0.5, 0.25])
    if quartile < median:
        y = np.maximum(y, median - _REACH * (median - quartile))
    centre, spread = float(y.mean()), float(y.std())
    if not spread > 1e-12:
        return np.zeros_like(y), centre * unit, 1.0
    return (y - centre) / spread, centre * unit, spread * unit


def shortlist(
    posterior: Posterior[AdditiveMatern], features: Features, free: NDArray[np.bool_], rng: np.random.Generator
) -> IntArray:
    """Rows of free candidates to score exactly, rising [q]; all of them where they are few.

    The linear and the additive part of the process are sums over entries, so their posterior mean and a bound of their
    deviation are tables, one value for each value of an entry; a million codes cost a look-up each. The joint part
    matters near evaluated codes, which is where the neighbours of the best ones are.
    """
    rows = np.flatnonzero(free)
    if len(rows) <= ALL:
        return rows
    mean, bound = cheap_scores(posterior, features)
    mean[~free], bound[~free] = -np.inf, -np.inf
    top = [np.argpartition(-scores, EACH)[:EACH] for scores in (mean, bound)]
    return np.unique(np.concatenate([*top, rng.choice(rows, EACH, replace=False)]))


def cheap_scores(posterior: Posterior[AdditiveMatern], features: Features) -> tuple[FloatArray, FloatArray]:
    """Posterior mean of the linear and additive parts at all candidates [n], and mean plus a standard deviation.

    The deviation takes the entries' contributions for independent. Single precision: it only ranks.
    """
    n = features.indices.shape[1]
    tables = [_table(posterior, features, j) for j in range(features.size)]
    mean, bound = np.empty(n, dtype=np.float32), np.empty(n, dtype=np.float32)
    for start in range(0, n, _CHUNK):
        part = slice(start, min(start + _CHUNK, n))
        total = np.zeros(part.stop - start, dtype=np.complex64)  # mean + i variance: one look-up serves both
        for table, indices in zip(tables, features.indices[:, part], strict=True):
            total += table[indices]
        mean[part] = total.real
        bound[part] = total.real + np.sqrt(np.maximum(total.imag, 0.0))
    return mean, bound


def _table(posterior: Posterior[AdditiveMatern], features: Features, j: int) -> NDArray[np.complex64]:
    """Posterior mean and variance of entry j's contribution at each of its values."""
    kernel, values, column = posterior.kernel, features.values[j], posterior.X[:, j]
    slope = kernel.v_lin / features.size
    cross = kernel.curve(j, values, column) + slope * np.outer(values, column)  # [v, n]
    half = posterior.half_solve(cross.T)
    prior = kernel.v_add / features.size + slope * values * values
    return np.asarray(cross @ posterior.weights + 1j * (prior - (half * half).sum(axis=0)), dtype=np.complex64)

"""What finished results show about the codes: importance of entries, score against cost, and a check of the model.

    results -> default_mode's process f -> draws of f at a sample of the candidates -> shares, curves, envelope

The process is always the default search's, whatever searched: the question is what the results show, not what the
search assumed. Everything is about f, the score without its noise, *as a function of the code over the candidates*:
a cost, which is a feature of the process, is a function of the code too, so its part is counted with the entries that
make it up; the costs are listed beside them with what a cost alone explains.

Notation:
    n  results   m  candidates sampled   d  entries   s  draws   v  groups of one entry's values   F  draws of f [s, m]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from bsszoo.codes.code import Code, entries_of
from bsszoo.search.default_mode import DefaultMode, Leader, Model
from bsszoo.search.gp import Posterior, condition, one_thread
from bsszoo.search.history import History
from bsszoo.search.kernels import AdditiveMatern, fit_kernel
from bsszoo.spaces.candidate_set import CandidateSet

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Candidates at which f is drawn jointly, and the number of draws.
SAMPLE: Final = 1000
DRAWS: Final = 200
#: Candidates among which the best expected score for a cost is taken.
ENVELOPE: Final = 5000
#: Most groups that the values of an entry or of a cost are put into.
GROUPS: Final = 12
#: Results that the process is conditioned on at most; of more, this number evenly spaced in their order.
RESULTS: Final = 2000
#: Every band and interval holds this share, from LOW to HIGH; Z is the normal quantile of the latter.
LEVEL: Final = 0.9
LOW, HIGH, Z = 0.05, 0.95, 1.6448536269514722
# Folds of the check that fits anew, and most results that each of its kernels is fitted to.
_FOLDS: Final = 5
_FOLD_FIT: Final = 128
# A correlation over fewer results says nothing.
_LEAST_CORRELATED: Final = 5


class Evaluated(Protocol):
    """A code and its score, None where the evaluation failed."""

    @property
    def code(self) -> Code:
        """The code."""
        ...

    @property
    def score(self) -> float | None:
        """Its score."""
        ...


@dataclass(frozen=True, slots=True)
class Share:
    """Part of the variance of f that something explains, 0 to 1: the median of the draws and their 90% interval."""

    name: str
    median: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Effect:
    """Average f of the candidates that share a value (or a group of values) of one entry, in the score's unit."""

    name: str
    values: FloatArray  # mean value of each group, rising [v]
    mean: FloatArray  # [v]
    low: FloatArray  # [v]
    high: FloatArray  # [v]


@dataclass(frozen=True, eq=False)
class CostView:
    """f against MACs: a sample of candidates, and the best expected score up to each cost.

    The best is taken among up to ``ENVELOPE`` candidates drawn and those that were evaluated.
    """

    macs: IntArray  # of the sample [m]
    mean: FloatArray  # [m]
    deviation: FloatArray  # [m]
    best_macs: IntArray  # where the best expected score rises, increasing [k]
    best: FloatArray  # [k]
    best_low: FloatArray  # 90% interval of f at that code [k]
    best_high: FloatArray  # [k]


@dataclass(frozen=True, eq=False)
class Check:
    """Results predicted from others, in two ways.

    ``predicted``, ``deviation``, ``correlation`` and ``coverage`` leave out one result at a time at the kernel that was
    fitted to all. That flatters: on results of pure noise the correlation comes out around 0.4. The ``refitted``
    figures leave out a fifth at a time (one at a time below ten results) and refit the kernel; judge the model
    by these. Correlations are None for fewer than five results or equal predictions. A coverage is the share
    of results inside their 90% intervals, noise included: far below 0.9 such intervals are too narrow.
    """

    observed: FloatArray  # [n]
    predicted: FloatArray  # [n]
    deviation: FloatArray  # [n]
    correlation: float | None
    coverage: float
    refitted_correlation: float | None
    refitted_coverage: float


@dataclass(frozen=True, eq=False)
class Insight:
    """What the results of a study show, in the scores' sign and unit.

    ``importance`` has one share for each entry alone: the variance, over the candidates, of the average f conditioned
    on the entry's value. Under a budget entries are not independent (a wide stage leaves less for the others), so the
    shares overlap and may add up to more than 1. ``additive`` is what the best sum of one curve for each entry
    explains; ``together`` is the rest, which entries explain only in combination; both are None where candidates are
    too few to tell. ``costs`` is what MACs, or parameters, explain alone. Where ``flat``, all results are equal: no
    shares, no curves, no check.
    """

    results: int
    maximise: bool
    flat: bool
    noise: float  # standard deviation of a result around f, in the score's unit
    importance: tuple[Share, ...] = ()
    costs: tuple[Share, ...] = ()
    additive: Share | None = None
    together: Share | None = None
    effects: tuple[Effect, ...] = ()
    cost: CostView | None = None
    check: Check | None = None


def study_insight(
    candidates: CandidateSet, codes: IntArray, values: FloatArray, *, maximise: bool = True, seed: int = 0
) -> Insight:
    """The insight from finished results.

    Args:
        candidates: The codes that shares and curves average over; the evaluated codes need not be among them.
        codes: Evaluated codes, shape [n, d].
        values: Their results, shape [n], all finite.
        maximise: Whether larger results are better; it matters for the best expected score at a cost only.
        seed: Seed of the sample and of the draws; equal arguments give equal insights.

    Raises:
        ValueError: There are fewer than two results, one is not finite, or the shapes disagree.

    Example:
        >>> import numpy as np
        >>> codes = np.array([[w, d] for w in range(8) for d in range(8)])
        >>> evaluated = codes[::3]
        >>> insight = study_insight(CandidateSet(codes, names=("width", "depth")), evaluated, evaluated[:, 0] * 1.0)
        >>> [share.name for share in insight.importance if share.median > 0.9]
        ['width']
    """
    codes, values = np.asarray(codes, dtype=np.int64), np.asarray(values, dtype=np.float64)
    if len(values) < 2 or codes.shape != (len(values), len(candidates.names)) or not np.isfinite(values).all():
        raise ValueError(
            f"An insight takes two finite results or more, of codes [n, {len(candidates.names)}]; got "
            f"codes {list(codes.shape)} and values {list(values.shape)}."
        )
    with one_thread():
        return _insight(candidates, codes, values, maximise=maximise, seed=seed)


def _insight(candidates: CandidateSet, codes: IntArray, values: FloatArray, *, maximise: bool, seed: int) -> Insight:
    n = len(values)
    if float(np.ptp(values)) <= 1e-12 * float(np.abs(values).max()):
        return Insight(results=n, maximise=maximise, flat=True, noise=0.0)
    if n > RESULTS:
        some = np.linspace(0, n - 1, RESULTS).astype(np.int64)
        codes, values = codes[some], values[some]
    sign = 1.0 if maximise else -1.0
    mode = DefaultMode(candidates, batch_size=1, seed=seed)
    history = _history(candidates, codes, sign * values)
    model = mode.model(history)
    rng = np.random.default_rng([seed, *b"insight"])
    rows = np.sort(rng.choice(len(candidates), min(SAMPLE, len(candidates)), replace=False))
    mean, cov = model.posterior.mean_cov(mode.features.of_rows(rows))
    F = _drawn(mean, cov, rng)  # standardised, larger is better
    sampled = candidates.codes[rows]

    groups = [_grouped(sampled[:, j].astype(np.float64), least=1) for j in range(len(candidates.names))]
    named = list(zip(candidates.names, groups, strict=True))
    costs = [(c, v[rows].astype(np.float64)) for c in ("macs", "params") if (v := getattr(candidates, c)) is not None]
    sample = len(rows) < len(candidates)
    additive = _additive(F, [group_of for group_of, _ in groups], sample=sample)
    scale = sign * model.spread
    return Insight(
        results=n,
        maximise=maximise,
        flat=False,
        noise=float(np.sqrt(model.posterior.kernel.noise)) * model.spread,
        importance=tuple(_share(name, _explained(F, group_of, sample=sample)) for name, (group_of, _) in named),
        costs=tuple(_share(name, _explained(F, _grouped(v)[0], sample=sample)) for name, v in costs),
        additive=None if additive is None else _share("additive", additive),
        together=None if additive is None else _share("together", 1 - additive),
        effects=tuple(
            _effect(name, F, group_of, centres, sign * model.centre, scale) for name, (group_of, centres) in named
        ),
        cost=_cost_view(mode, model, rows, mean, cov, history.rows, sign, rng),
        check=_check(model, sign, rng),
    )


def insight_of_rows(candidates: CandidateSet, rows: Sequence[Evaluated], *, seed: int = 0) -> Insight | None:
    """The insight from the finished trials of a search (larger scores are better); None for fewer than two results."""
    done = [t for t in rows if t.score is not None]
    if len(done) < 2:
        return None
    codes, scores = _results(candidates, done)
    return study_insight(candidates, codes, scores, seed=seed)


def leaders_of_rows(candidates: CandidateSet, rows: Sequence[Evaluated], *, seed: int = 0) -> dict[Code, Leader]:
    """All codes of the finished trials of a search, as ``AutoBSSSampler.recommend`` judges them."""
    done = [t for t in rows if t.score is not None]
    if not done:
        return {}
    codes, scores = _results(candidates, done)
    with one_thread():
        mode = DefaultMode(candidates, batch_size=1, seed=seed)
        leaders = mode.leaders(_history(candidates, codes, scores), len(done), 1.0)
    found = {tuple(leader.params.values()): leader for leader in leaders}
    return {t.code: found[tuple(code)] for t, code in zip(done, codes.tolist(), strict=True)}


def _results(candidates: CandidateSet, done: Sequence[Evaluated]) -> tuple[IntArray, FloatArray]:
    """The entries [n, d] and scores [n] of finished trials."""
    # Of subnetworks the rows hold the inner widths, whatever the form that a code has by itself.
    inner = any(name.startswith("B") for name in candidates.names)
    codes = np.array([entries_of(t.code, "B") if inner else t.code.entries for t in done], dtype=np.int64)
    return codes, np.array([t.score for t in done], dtype=np.float64)


def _history(candidates: CandidateSet, codes: IntArray, values: FloatArray) -> History:
    n = len(values)
    rows = np.asarray(candidates.rows(codes), dtype=np.int64)
    return History(
        codes=codes,
        numbers=np.arange(n),
        values=values,
        running=np.zeros(n, dtype=np.bool_),
        rows=rows,
        due=np.zeros(0, dtype=np.int64),
    )


def _drawn(mean: FloatArray, cov: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Joint draws of f [s, m]; directions without uncertainty have variances around zero, of either sign."""
    variances, directions = np.linalg.eigh((cov + cov.T) / 2)
    root = directions * np.sqrt(np.maximum(variances, 0.0))
    return np.asarray(mean + rng.standard_normal((DRAWS, len(mean))) @ root.T)


def _grouped(column: FloatArray, *, least: int = 5) -> tuple[IntArray, FloatArray]:
    """The group of each value [m] and the groups' mean values, rising [v].

    Every value is one group where they are few; else groups hold about equally many, on average at least
    ``least``. An entry's rare values are not merged: a reader takes a group for one value.
    """
    values, group_of = np.unique(column, return_inverse=True)
    most = min(GROUPS, max(2, len(column) // least))
    if len(values) > most:
        edges = np.unique(np.quantile(column, np.linspace(0, 1, most + 1)[1:-1]))
        _, group_of = np.unique(np.searchsorted(edges, column, side="right"), return_inverse=True)
    group_of = group_of.reshape(-1).astype(np.int64)
    return group_of, np.bincount(group_of, weights=column) / np.bincount(group_of)


def _means(F: FloatArray, group_of: IntArray) -> tuple[FloatArray, FloatArray]:
    """Mean of each draw in each group [s, v], and the groups' sizes [v]."""
    sizes = np.bincount(group_of).astype(np.float64)
    member = np.zeros((len(group_of), len(sizes)))
    member[np.arange(len(group_of)), group_of] = 1.0
    return np.asarray(F @ member / sizes), sizes


def _explained(F: FloatArray, group_of: IntArray, *, sample: bool) -> FloatArray:
    """Share of each draw's variance that the group explains [s].

    In a sample the groups' means differ by chance too; what v groups explain by chance is taken off (epsilon squared).
    """
    means, sizes = _means(F, group_of)
    m, v = len(group_of), len(sizes)
    centred = means - F.mean(axis=1, keepdims=True)
    between = (centred * centred) @ sizes
    total = F.var(axis=1) * m
    return _adjusted(between, total, v - 1 if sample else 0, m)


def _additive(F: FloatArray, columns: list[IntArray], *, sample: bool) -> FloatArray | None:
    """Share of each draw's variance that the best sum of one curve for each entry explains [s]."""
    m = F.shape[1]
    blocks = []
    for group_of in columns:
        block = np.zeros((m, int(group_of.max()) + 1))
        block[np.arange(m), group_of] = 1.0
        blocks.append(block - block.mean(axis=0))
    U, sizes, _ = np.linalg.svd(np.concatenate(blocks, axis=1), full_matrices=False)
    basis = U[:, sizes > 1e-8 * max(float(sizes[0]), 1e-300)]
    # A sum with about as many free values as there are candidates fits anything.
    if 2 * basis.shape[1] > m:
        return None
    projected = (F - F.mean(axis=1, keepdims=True)) @ basis
    freedom = basis.shape[1] if sample else 0
    return _adjusted((projected * projected).sum(axis=1), F.var(axis=1) * m, freedom, m)


def _adjusted(explained: FloatArray, total: FloatArray, freedom: int, m: int) -> FloatArray:
    """Explained over total variance without what ``freedom`` free values explain by chance, inside [0, 1]."""
    left = (total - explained) / max(m - 1 - freedom, 1)
    safe = np.where(total > 0, total, 1.0)
    return np.asarray(np.clip(np.where(total > 0, (explained - freedom * left) / safe, 0.0), 0.0, 1.0))


def _share(name: str, drawn: FloatArray) -> Share:
    low, median, high = np.quantile(drawn, (LOW, 0.5, HIGH))
    return Share(name, float(median), float(low), float(high))


def _effect(name: str, F: FloatArray, group_of: IntArray, centres: FloatArray, centre: float, scale: float) -> Effect:
    means = centre + scale * _means(F, group_of)[0]
    low, high = np.quantile(means, (LOW, HIGH), axis=0)
    return Effect(name, centres, means.mean(axis=0), low, high)


def _cost_view(
    mode: DefaultMode,
    model: Model,
    rows: IntArray,
    mean: FloatArray,
    cov: FloatArray,
    evaluated: IntArray,
    sign: float,
    rng: np.random.Generator,
) -> CostView | None:
    macs = mode.candidates.macs
    if macs is None:
        return None
    # Most of the best codes are among those that the search evaluated.
    more = np.union1d(rng.choice(len(macs), min(ENVELOPE, len(macs)), replace=False), evaluated[evaluated >= 0])
    expected = model.posterior.mean(mode.features.of_rows(more))
    order = np.lexsort((-expected, macs[more]))
    best = np.maximum.accumulate(expected[order])
    rises = order[np.concatenate([[True], best[1:] > best[:-1]])]
    middle, var = model.posterior.mean_var(mode.features.of_rows(more[rises]))
    half = Z * np.sqrt(var) * model.spread
    unit = sign * (model.centre + model.spread * middle)
    return CostView(
        macs=macs[rows],
        mean=sign * (model.centre + model.spread * mean),
        deviation=model.spread * np.sqrt(np.maximum(np.diag(cov), 0.0)),
        best_macs=macs[more[rises]],
        best=unit,
        best_low=unit - half,
        best_high=unit + half,
    )


def _check(model: Model, sign: float, rng: np.random.Generator) -> Check:
    """Leave-one-out in closed form: with K^-1 alone, the prediction of y_i is y_i - (K^-1 y)_i / (K^-1)_ii."""
    posterior = model.posterior
    inverse = np.diag(posterior.solve(np.eye(len(posterior.Y))))
    predicted, deviation = posterior.Y - posterior.weights / inverse, 1 / np.sqrt(inverse)
    anew, anew_deviation = _refitted(posterior, rng)
    return Check(
        observed=sign * (model.centre + model.spread * posterior.Y),
        predicted=sign * (model.centre + model.spread * predicted),
        deviation=model.spread * deviation,
        correlation=_correlation(posterior.Y, predicted),
        coverage=float((np.abs(posterior.Y - predicted) <= Z * deviation).mean()),
        refitted_correlation=_correlation(posterior.Y, anew),
        refitted_coverage=float((np.abs(posterior.Y - anew) <= Z * anew_deviation).mean()),
    )


def _refitted(posterior: Posterior[AdditiveMatern], rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Prediction and deviation of each result [n] by kernels fitted without it and the others of its fold."""
    n = len(posterior.Y)
    folds = rng.permutation(n) % (_FOLDS if n >= 2 * _FOLDS else n)
    predicted, deviation = np.empty(n), np.empty(n)
    for fold in range(int(folds.max()) + 1):
        out = folds == fold
        rest, y = posterior.X[~out], posterior.Y[~out]
        centre, spread = float(y.mean()), float(y.std()) or 1.0
        some = np.linspace(0, len(y) - 1, min(len(y), _FOLD_FIT)).astype(np.int64)
        kernel = fit_kernel(rest[some], (y[some] - centre) / spread)
        mean, var = condition(kernel, rest, (y - centre) / spread).mean_var(posterior.X[out])
        predicted[out] = centre + spread * mean
        deviation[out] = spread * np.sqrt(var + kernel.noise)
    return predicted, deviation


def _correlation(observed: FloatArray, predicted: FloatArray) -> float | None:
    if len(observed) < _LEAST_CORRELATED or float(predicted.std()) <= 1e-9:
        return None
    return float(np.corrcoef(observed, predicted)[0, 1])

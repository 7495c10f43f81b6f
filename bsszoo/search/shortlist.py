"""Which of very many candidates are worth an exact posterior: ranked by the model's cheap part first.

The linear and the additive part of the process are sums over entries, so their posterior mean and a bound of their
deviation are tables, one value for each value of an entry; a million codes cost a look-up each. The joint part matters
near evaluated codes, which is where the neighbours of the best ones are. All free candidates are judged where there
are few.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from bsszoo.search.features import Features
from bsszoo.search.gp import Posterior
from bsszoo.search.kernels import AdditiveMatern

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Up to so many free candidates all are judged.
ALL: Final = 4096
#: Otherwise so many with the largest cheap mean, as many with the largest upper bound, and as many drawn.
EACH: Final = 384
# Candidates looked up at once: what fits the cache.
_CHUNK: Final = 32_768


def shortlist(
    posterior: Posterior[AdditiveMatern], features: Features, free: NDArray[np.bool_], rng: np.random.Generator
) -> IntArray:
    """Rows of free candidates to judge exactly, rising [q]; all of them where they are few."""
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
    n = features.places.shape[1]
    tables = [_table(posterior, features, j) for j in range(features.size)]
    mean, bound = np.empty(n, dtype=np.float32), np.empty(n, dtype=np.float32)
    for start in range(0, n, _CHUNK):
        part = slice(start, min(start + _CHUNK, n))
        total = np.zeros(part.stop - start, dtype=np.complex64)  # mean + i variance: one look-up serves both
        for table, places in zip(tables, features.places[:, part], strict=True):
            total += table[places]
        mean[part] = total.real
        bound[part] = total.real + np.sqrt(np.maximum(total.imag, 0.0))
    return mean, bound


def _table(posterior: Posterior[AdditiveMatern], features: Features, j: int) -> NDArray[np.complex64]:
    """Posterior mean and variance of entry j's own contribution at each of its values."""
    kernel, values, column = posterior.kernel, features.values[j], posterior.X[:, j]
    slope = kernel.v_lin / features.size
    cross = kernel.curve(j, values, column) + slope * np.outer(values, column)  # [v, n]
    half = posterior.half_solve(cross.T)
    prior = kernel.v_add / features.size + slope * values * values
    return np.asarray(cross @ posterior.weights + 1j * (prior - (half * half).sum(axis=0)), dtype=np.complex64)

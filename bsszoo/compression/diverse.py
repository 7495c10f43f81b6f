"""Several good codes that differ, instead of one winner: a heuristic's best is no answer, a handful to train is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial.distance import cdist

from bsszoo.study.result import TrialRow


def diverse(trials: Sequence[TrialRow], most: int) -> list[TrialRow]:
    """Up to ``most`` finished trials of different codes, best first.

    Taken from the better half by score: the best one, then always the best that lies at least a gap from all taken.
    The gap is the largest (shrinking from the median distance of the evaluated codes, each entry divided by its spread)
    at which enough codes are found, so they are as different as their number allows.
    """
    done = sorted((t for t in trials if t.score is not None), key=lambda t: (-float(t.score or 0), t.number))
    seen: set[object] = set()
    done = [t for t in done if not (t.code in seen or seen.add(t.code))]  # type: ignore[func-returns-value]
    if len(done) <= 1:
        return done[:most]
    entries = np.array([t.code.entries for t in done], dtype=np.float64)
    spread = entries.std(axis=0)
    points = entries / np.where(spread > 0, spread, 1.0)
    distance = cdist(points, points)
    pool = range(-(-len(done) // 2))
    gap = float(np.median(distance[np.triu_indices(len(done), k=1)]))
    for _ in range(60):
        taken: list[int] = []
        for i in pool:
            if len(taken) < most and all(distance[i, j] >= gap for j in taken):
                taken.append(i)
        if len(taken) == min(most, len(pool)):
            break
        gap *= 0.9
    return [done[i] for i in taken]

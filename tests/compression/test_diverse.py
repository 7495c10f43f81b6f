"""Diverse codes: the best first, good ones only, none twice, and farther apart than the best few by score."""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import pdist

from bsszoo.codes import Space, code_cost
from bsszoo.compression.diverse import diverse
from bsszoo.search.result import TrialRow

SPACE = Space.of("mobilenetv2")


def _trials(n, seed=0, failed=()):
    rows = SPACE.sample(n, seed)
    out = []
    for i, row in enumerate(rows):
        code = SPACE.code(row)
        # Neighbouring codes have neighbouring scores, as real ones do.
        score = None if i in failed else float(row @ np.linspace(0, 1, len(row)))
        out.append(TrialRow(i, code, code_cost(code), score, "failed" if i in failed else "complete", 0.0, 0))
    return out


def test_best_first_and_from_the_better_half():
    trials = _trials(64)
    found = diverse(trials, 8)
    scores = sorted((t.score for t in trials), reverse=True)
    assert len(found) == 8
    assert found[0].score == scores[0]
    assert [t.score for t in found] == sorted((t.score for t in found), reverse=True)
    assert all(t.score >= scores[31] for t in found)


def test_farther_apart_than_the_best_by_score():
    # Eight codes and seven near copies of each, as a search leaves them behind.
    trials = []
    for base in _trials(8, seed=3):
        for k in range(8):
            entries = list(base.code.entries)
            entries[6 + k % 6] = entries[6 + k % 6] % 3 + 1 if k else entries[6]
            code = SPACE.code(entries)
            trials.append(TrialRow(len(trials), code, code_cost(code), base.score + 0.01 * k, "complete", 0.0, 0))
    spread = np.array([t.code.entries for t in trials]).std(axis=0)
    spread[spread == 0] = 1.0

    def nearest(rows):
        return pdist(np.array([t.code.entries for t in rows]) / spread).min()

    best = sorted(trials, key=lambda t: -t.score)[:8]
    assert nearest(diverse(trials, 8)) > nearest(best)


def test_failed_trials_and_repeats_are_left_out():
    trials = _trials(10, failed={0, 4})
    assert len(diverse([*trials, *trials], 8)) == 8
    assert all(t.score is not None for t in diverse(trials, 8))
    assert diverse(_trials(3, failed={0, 1, 2}), 8) == []
    assert len(diverse(_trials(1), 8)) == 1

"""Diverse codes: the best first, good ones only, none twice, and farther apart than the best few by score."""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import pdist

from bsszoo.codes import Code, code_cost
from bsszoo.compression.result import closing, diverse, leading
from bsszoo.spaces import Space
from bsszoo.study.result import TrialRow

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


def _families(n=16, copies=4, seed=3):
    """Codes that lie far apart, each with near copies that differ in one entry and score next to it."""
    trials = []
    for rank, base in enumerate(_trials(n, seed=seed)):
        for k in range(copies):
            entries = list(base.code.entries)
            if k:
                entries[5 + k] = entries[5 + k] % 3 + 1
            code = SPACE.code(entries)
            trials.append(TrialRow(len(trials), code, code_cost(code), rank + 0.01 * k, "complete", 0.0, 0))
    assert len({t.code for t in trials}) == n * copies
    return trials


def test_near_copies_of_the_best_make_room_for_codes_far_apart():
    trials = _families()
    spread = np.array([t.code.entries for t in trials]).std(axis=0)
    points = {t.number: np.array(t.code.entries) / np.where(spread > 0, spread, 1.0) for t in trials}

    def nearest(rows):
        return pdist(np.array([points[t.number] for t in rows])).min()

    found, best = diverse(trials, 8), sorted(trials, key=lambda t: -t.score)[:8]
    assert len(found) == 8
    assert nearest(best) > 0
    assert nearest(found) > 3 * nearest(best)
    # The better half holds eight families of four: one code of each, and of no family two.
    assert sorted(t.number // 4 for t in found) == list(range(8, 16))


def test_failed_trials_and_repeats_are_left_out():
    trials = _trials(10, failed={0, 4})
    assert len(diverse([*trials, *trials], 8)) == 4  # the better half of eight
    assert all(t.score is not None for t in diverse(trials, 8))
    assert diverse(_trials(3, failed={0, 1, 2}), 8) == []
    assert len(diverse(_trials(1), 8)) == 1


def test_where_scores_were_measured_the_best_codes_come_first_and_then_those_that_differ():
    trials = _families()
    best, differ, found = leading(trials, 3), diverse(trials, 8), closing(trials, 8, leaders=3)
    assert found[:3] == best
    assert len(found) == len({t.code for t in found}) == 8
    assert {t.code for t in found[3:]} <= {t.code for t in differ}
    assert not {t.code for t in best[1:]} & {t.code for t in differ}  # near copies of the first
    assert [t.score for t in found] == sorted((t.score for t in found), reverse=True)
    assert closing(trials, 8, leaders=0) == differ
    assert closing(trials, 2, leaders=3) == best[:2]


def test_codes_of_subnetworks_may_be_written_in_two_forms():
    whole, cut, narrow = (
        Code.parse(f"resnet18_c24-48-96-192_l2-2-1-2{inner}_px32") for inner in ("", "_b24-48-96-184", "_b8-16-24-40")
    )
    trials = [
        TrialRow(i, code, code_cost(code), score, "complete", 0.0, 0)
        for i, (code, score) in enumerate([(whole, 3.0), (cut, 2.0), (narrow, 1.5), (narrow, 1.0)])
    ]
    assert [t.code for t in diverse(trials, 2)] == [whole, cut]  # of three codes the better half
    assert [t.code for t in closing(trials, 3, leaders=3)] == [whole, cut, narrow]

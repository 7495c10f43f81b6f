"""The best code beside controls on what the search never saw: each training once, whatever is stopped in between."""

from __future__ import annotations

import json
import threading

import pytest

import bsszoo
from bsszoo.codes.code import Code
from bsszoo.compression.reopen import report_study
from bsszoo.evaluators import Evaluator, EvaluatorInfo, Score, Trial
from bsszoo.study.result import Confirmation

SMALL = {"flops": "130M", "trials": 4, "batch": 4, "measure": False}


class Judge(Evaluator):
    """Scores by the number of blocks; a fresh training gives nearly the same."""

    info = EvaluatorInfo("blocks", "blocks of the network")
    test_measures = "blocks, counted again"
    test_unit = "blocks"

    def __init__(self) -> None:
        self.calls: list[tuple[Code, int]] = []
        self.stop_at: int | None = None
        self.failing: Code | None = None
        self._lock = threading.Lock()

    def evaluate(self, code: Code, trial: Trial) -> Score:
        value = float(sum(code.depths))
        return Score(value, "blocks", (value - 0.5, value + 0.5))

    def tested(self, code: Code, number: int) -> float:
        with self._lock:
            if self.stop_at is not None and len(self.calls) >= self.stop_at:
                raise KeyboardInterrupt
            self.calls.append((code, number))
        if code == self.failing:
            raise RuntimeError("no memory left")
        return sum(code.depths) + 0.01 * number


@pytest.fixture
def judge() -> Judge:
    return Judge()


def confirmed(judge: Judge, folder, **settings):
    return bsszoo.compress("mobilenetv2", evaluator=judge, out=folder, **{**SMALL, **settings})


def test_the_best_code_and_the_uniform_network_are_trained_afresh_and_random_codes_once_each(judge, tmp_path):
    result = confirmed(judge, tmp_path, confirm=3)
    rows = result.confirmation.rows
    assert [(r.role, len(r.tests)) for r in rows] == [("uniform", 3), *[("random", 1)] * 3, ("found", 3)]
    assert sorted(judge.calls, key=str) == sorted([(r.code, i) for r in rows for i in range(len(r.tests))], key=str)
    assert rows[-1].code == result.best.code
    assert rows[-1].tests == tuple(sum(result.best.code.depths) + 0.01 * i for i in range(3))
    random = [r.code for r in rows if r.role == "random"]
    assert len({*random, result.best.code}) == 4
    assert all(result.budget.min_macs <= r.cost.macs <= result.budget.macs for r in rows if r.role != "uniform")
    assert "The best code is better than the uniformly rescaled network" in result.confirmation.verdicts[0]
    assert "random feasible codes" in result.confirmation.verdicts[1]
    assert result.noise == pytest.approx(0.5 * 2**0.5)


def test_it_is_stored_and_reported_and_not_trained_again(judge, tmp_path):
    first = confirmed(judge, tmp_path, confirm=2)
    calls = list(judge.calls)
    again = confirmed(judge, tmp_path, confirm=2)
    assert judge.calls == calls
    assert again.confirmation == first.confirmation
    kept = json.loads((tmp_path / "result.json").read_text())
    assert Confirmation.from_dict(kept["confirmation"]) == first.confirmation
    assert kept["noise"] == pytest.approx(first.noise)
    sentence = first.confirmation.verdicts[0]
    for page in (tmp_path / "report.html", report_study(str(tmp_path), out=tmp_path / "again.html").path):
        text = page.read_text()
        assert "Confirmed on unseen images" in text
        assert sentence.replace("&", "&amp;") in text


def test_another_best_code_is_confirmed_anew_and_the_controls_are_not(judge, tmp_path):
    first = confirmed(judge, tmp_path, confirm=2)
    calls = len(judge.calls)
    longer = confirmed(judge, tmp_path, confirm=2, trials=12)
    assert longer.best.code != first.best.code
    assert judge.calls[calls:] == [(longer.best.code, 0), (longer.best.code, 1)]


def test_stopped_in_the_middle_only_the_rest_is_trained(judge, tmp_path):
    judge.stop_at = 5
    with pytest.raises(KeyboardInterrupt):
        confirmed(judge, tmp_path, confirm=3)
    assert json.loads((tmp_path / "result.json").read_text())["confirmation"] is None
    judge.stop_at = None
    result = confirmed(judge, tmp_path, confirm=3)
    assert len(judge.calls) == len(set(judge.calls)) == 9
    assert [len(r.tests) for r in result.confirmation.rows] == [3, 1, 1, 1, 3]


def test_machines_that_share_a_study_share_the_trainings(judge, tmp_path):
    shared = {"storage": f"sqlite:///{tmp_path / 'shared.db'}", "study": "s", "confirm": 2}
    one = confirmed(judge, tmp_path / "a", **shared)
    calls = len(judge.calls)
    other = confirmed(judge, tmp_path / "b", **shared)
    assert len(judge.calls) == calls
    assert other.confirmation == one.confirmation


def test_a_training_that_fails_is_a_note_and_nothing_is_claimed_by_it(judge, tmp_path):
    plain = confirmed(Judge(), tmp_path / "a", confirm=3)
    judge.failing = next(r.code for r in plain.confirmation.rows if r.role == "uniform")
    result = confirmed(judge, tmp_path / "b", confirm=3, workers=1)
    uniform = result.confirmation.rows[0]
    assert (uniform.role, uniform.tests) == ("uniform", ())
    assert not any("uniformly" in sentence for sentence in result.confirmation.verdicts)
    assert sum("A training of the uniform code failed: RuntimeError: no memory left" in n for n in result.notes) == 3
    assert "every training failed" in (tmp_path / "b" / "report.html").read_text()


def test_nothing_is_confirmed_where_it_was_not_asked_for_or_cannot_be(judge, tmp_path):
    assert confirmed(judge, tmp_path / "a", confirm=0).confirmation is None
    assert judge.calls == []
    plain = bsszoo.compress("mobilenetv2", evaluator=lambda code: float(sum(code.depths)), out=tmp_path / "b", **SMALL)
    assert plain.confirmation is None
    assert plain.noise is None

"""The best code beside controls on what the search never saw: each training once, whatever is stopped in between."""

from __future__ import annotations

import json
import threading
from collections import Counter

import numpy as np
import optuna
import pytest
from scipy import stats

import bsszoo
from bsszoo.codes.code import Code
from bsszoo.codes.cost import code_cost
from bsszoo.compression import Event, LogLines
from bsszoo.compression.confirm import confirm, probabilities
from bsszoo.compression.plan import make_plan
from bsszoo.compression.reopen import report_study
from bsszoo.errors import SettingsError
from bsszoo.evaluators import Evaluator, EvaluatorInfo, Score, Trial
from bsszoo.evaluators.base import tell
from bsszoo.models.names import resolve_code
from bsszoo.spaces.limits import Caps
from bsszoo.study.result import Confirmation, ConfirmedRow, ResolvedBudget

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


# -- leaders that are not told apart -----------------------------------------------------------------------------


class Racing(Judge):
    """A judge whose networks are taken away; ``held`` are the results by which they are chosen, by role and number."""

    leaders, screened, undecided, alike, controls = 2, 2, 2, 0.0, "original"

    def __init__(self, **held: list[float]) -> None:
        super().__init__()
        self.held, self.roles = held, {}
        self.failing_number: int | None = None
        self.delivered: tuple[Code, int] | None = None

    def tested(self, code: Code, number: int) -> tuple[float, float]:
        super().tested(code, number)
        if number == self.failing_number:
            raise RuntimeError("no memory left")
        tell(1, 2)
        return 50.0 + number, self.held[self.roles.get(code, "first")][number]

    def deliver(self, code: Code, number: int, folder) -> None:
        self.delivered = code, number
        folder.mkdir(exist_ok=True)
        (folder / "model.safetensors").write_bytes(b"")


def raced(held: dict[str, list[float]], trainings: int, most: int | None = None, *, alike: float = 0.0):
    """How often the networks were trained, their confirmation, what was said, and the judge."""
    plan = make_plan(
        resolve_code("mobilenetv2"), ResolvedBudget(130_000_000, 117_000_000), caps=Caps(), seed=0, candidates=100
    )
    first, second = (plan.space.code(plan.candidates.codes[i].tolist()) for i in (0, 1))
    judge = Racing(original=[90.0], **held)
    judge.alike = alike
    judge.roles = {first: "first", second: "second", plan.uniform: "uniform", plan.reference: "original"}
    said: list[str] = []
    study = optuna.create_study()

    def run():
        return confirm(
            judge, plan, [first, second], study, trainings=trainings, most=most, on_result=lambda *s: said.append(s[0])
        )

    found = run()
    calls = list(judge.calls)
    assert run() == found  # all of it is in the study
    assert judge.calls == calls
    counts = Counter(judge.roles[code] for code, _ in calls)
    assert len(set(calls)) == len(calls)
    assert counts.pop("original") == 1
    return counts, found, said, judge


NOISY = {
    "first": [90.0, 91.0, 90.0, 91.0, 90.0, 91.0],
    "second": [91.0, 90.0, 90.5, 90.0, 91.0, 89.0],
    "uniform": [80.0, 80.5, 80.0, 80.2, 80.1, 80.0],
}


def test_leaders_that_differ_by_chance_are_trained_again_and_those_that_are_clear_are_not():
    counts, found, said, _ = raced(NOISY, 3, 5)
    assert counts == {"first": 5, "second": 5, "uniform": 3}
    assert [text for text in said if "apart" in text] == ["not told apart, trained once more: found 1, found 2"] * 2
    assert {r.label: (r.held, r.numbers) for r in found.rows if r.role == "found"} == {
        "found 1": (tuple(NOISY["first"][:5]), (0, 1, 2, 3, 4)),
        "found 2": (tuple(NOISY["second"][:5]), (0, 1, 2, 3, 4)),
    }


def test_it_ends_when_the_interval_decides():
    # Apart from the fourth training on: differences 1, 0, 2, 1, then 1.1 and 1.2 have their whole interval above 0.
    held = NOISY | {"first": [91.0, 91.0, 92.0, 91.0, 91.1, 91.2], "second": [90.0, 91.0, 90.0, 90.0, 90.0, 90.0]}
    counts, *_ = raced(held, 3, 6)
    assert counts["uniform"] == 3
    decided = next(
        n for n in range(3, 7) if stats.ttest_rel(held["first"][:n], held["second"][:n]).confidence_interval().low > 0
    )
    assert 3 < decided < 6
    assert counts["first"] == counts["second"] == decided


def test_leaders_as_good_as_each_other_need_no_more():
    held = NOISY | {"first": [90.0, 90.1, 90.0], "second": [90.1, 90.0, 90.05]}
    counts, *_ = raced(held, 3, 6, alike=0.5)
    assert counts == {"first": 3, "second": 3, "uniform": 3}


def test_the_same_results_of_few_images_are_no_proof():
    held = NOISY | {"first": [90.0] * 6, "second": [89.0, 89.0, 89.0, 88.0, 89.5, 89.0]}
    counts, *_ = raced(held, 3, 6, alike=0.5)
    assert counts["first"] == counts["second"] > 3
    assert counts["uniform"] == 3


@pytest.mark.parametrize(("trainings", "most"), [(1, 1), (2, 2), (3, 6)])
def test_by_default_twice_as_many_where_an_interval_says_something(trainings: int, most: int):
    counts, *_ = raced(NOISY, trainings)
    assert counts["first"] == most


def test_the_best_training_is_delivered_where_others_failed(tmp_path):
    judge = Racing(first=[91.0, 90.0, 92.0])
    judge.failing_number = 0
    result = confirmed(judge, tmp_path, confirm=3, confirm_most=3)
    row = result.confirmed(result.recommended.code)
    assert (row.held, row.numbers, judge.delivered) == ((90.0, 92.0), (1, 2), (row.code, 2))
    assert Confirmation.from_dict(json.loads((tmp_path / "result.json").read_text())["confirmation"]).rows == (
        result.confirmation.rows
    )


def screening(tmp_path, first: dict[str, float], later: list[float], *, stop_at: int | None = None, **settings):
    """A search whose four best codes are trained once, and two of them further: its result and its judge.

    ``first`` are the results of the first trainings by label, ``later`` those of the others, of all alike.
    """

    class Screening(Racing):
        screened, controls = 4, "random"

        def tested(self, code: Code, number: int) -> tuple[float, float]:
            Judge.tested(self, code, number)
            label = {str(row.code): row.label for row in judged.networks}.get(str(code))
            return 50.0 + number, later[number] if number else first.get(label, 80.0)

    judge = Screening()
    judge.held = {"first": [80.0] * 9}
    judged = confirmed(judge, tmp_path, confirm=0, trials=8)
    judge.stop_at = stop_at
    return judge, (lambda: confirmed(judge, tmp_path, trials=8, **settings))


def test_the_probability_of_being_the_best():
    def row(label: str, held: tuple[float, ...], role: str = "found") -> ConfirmedRow:
        code = resolve_code("mobilenetv2")
        return ConfirmedRow(label, role, code, code_cost(code), tuple(v + 1 for v in held), held=held)

    two = row("found 1", (90.0, 91.0, 92.0)), row("uniform", (89.0, 90.5, 91.0), "uniform")
    shares = probabilities(two)
    # Of two, their difference over its deviation is Student's t, with the pooled variance.
    pooled = (np.var(two[0].held, ddof=1) + np.var(two[1].held, ddof=1)) / 2
    gap = np.mean(two[0].held) - np.mean(two[1].held)
    assert shares["found 1"] == pytest.approx(stats.t.cdf(gap / np.sqrt(pooled * 2 / 3), 4), abs=0.01)
    assert sum(shares.values()) == pytest.approx(1)
    assert list(shares) == ["found 1", "uniform"]
    # A single training, a random code and the original have no part in it.
    more = row("found 2", (99.0,)), row("random 1", (99.0, 99.0), "random"), row("original", (99.0, 99.5), "original")
    assert probabilities([*two, *more]) == shares
    assert probabilities(two[:1]) == {}
    alike = row("found 1", (90.0, 90.0)), row("uniform", (91.0, 91.0), "uniform")
    assert probabilities(alike) == {"uniform": 1.0, "found 1": 0.0}


def test_the_best_codes_by_one_training_are_trained_further(tmp_path):
    first = {"found 1": 88.0, "found 2": 95.0, "found 3": 91.0, "found 4": 93.0}
    judge, run = screening(tmp_path, first, [0.0, 90.0, 90.0], stop_at=7, confirm=3, confirm_most=3)
    with pytest.raises(KeyboardInterrupt):
        run()
    judge.stop_at = None
    result = run()
    rows = {row.label: row for row in result.confirmation.rows}
    assert {label: len(row.tests) for label, row in rows.items()} == {
        "uniform": 3,
        **{f"random {i}": 1 for i in (1, 2, 3)},
        "found 1": 1,
        "found 2": 3,
        "found 3": 1,
        "found 4": 3,
    }
    assert len(judge.calls) == len(set(judge.calls)) == 14
    assert result.recommended.label == "found 2"
    assert "is the best, by the images that judge codes: found 2 " in result.confirmation.verdicts[-1]
    calls = len(judge.calls)
    assert run().confirmation == result.confirmation
    assert len(judge.calls) == calls


def test_a_code_of_one_lucky_training_is_not_taken_where_others_were_trained_further(tmp_path):
    # After three trainings the two that went on are below what the third had in its one.
    first = {"found 1": 88.0, "found 2": 95.0, "found 3": 92.0, "found 4": 93.0}
    result = screening(tmp_path, first, [0.0, 85.0, 85.0], confirm=3, confirm_most=3)[1]()
    assert result.recommended.label == "found 2"
    # With one training each, all stand beside each other.
    once = screening(tmp_path / "once", first, [], confirm=1)[1]()
    assert {row.label: len(row.tests) for row in once.confirmation.rows if row.role == "found"} == {
        f"found {i}": 1 for i in (1, 2, 3, 4)
    }
    assert once.recommended.label == "found 2"


def test_leaders_stand_beside_random_codes_where_the_original_is_not_trained_again(tmp_path):
    judge = Racing(first=[91.0, 90.0])
    judge.controls = "random"
    result = confirmed(judge, tmp_path, confirm=2)
    rows = {row.label: row for row in result.confirmation.rows}
    assert {label: len(row.tests) for label, row in rows.items()} == {
        "uniform": 2,
        "random 1": 1,
        "random 2": 1,
        "found 1": 2,
        "found 2": 2,
    }
    # All are alike: the first of them is taken, of which the sentence says how far it is from the uniform one.
    assert result.recommendation.startswith("Take the uniformly rescaled network: 50.50")
    assert result.recommendation.endswith("; no code found did better.")
    judge.roles = {rows["found 2"].code: "second"}
    judge.held = {"first": [91.0, 90.0], "second": [92.0, 93.0]}
    again = confirmed(judge, tmp_path / "again", confirm=2)
    assert again.recommended.label == "found 2"
    assert again.recommendation.endswith(", 0.00 points above the uniformly rescaled network's 50.50%.")
    assert judge.delivered == (rows["found 2"].code, 1)


def test_a_training_s_updates_are_events(tmp_path):
    events: list[Event] = []
    lines: list[str] = []
    judge = Racing(first=[90.0, 91.0])
    confirmed(judge, tmp_path, confirm=2, callbacks=[events.append, LogLines(lines.append, seconds=0)])
    inside = [e for e in events if e.inside is not None]
    assert inside
    assert all((e.phase, e.inside, e.minor, e.trial) == ("confirm", (1, 2), True, None) for e in inside)
    assert any(line.endswith("trainings, training: 1 of 2 updates") for line in lines)


def test_fewer_at_most_than_at_least_are_refused():
    with pytest.raises(SettingsError, match="--confirm-most is 2; it takes an integer from 3"):
        bsszoo.compress("mobilenetv2", flops="130M", confirm=3, confirm_most=2)

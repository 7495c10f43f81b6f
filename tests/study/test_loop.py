"""The loop: how many trials, failed ones, and going on in a real file after a kill (test_kills.py: at any write)."""

from __future__ import annotations

import math
import sys

import optuna
import pytest
from optuna.trial import TrialState

from bsszoo.codes import code_cost
from bsszoo.errors import EvaluationError, UnknownNameError
from bsszoo.evaluators import FunctionEvaluator, Score
from bsszoo.evaluators.registry import Request, make_evaluator
from bsszoo.models.resolve import resolve
from bsszoo.options import TrainingOptions
from bsszoo.search import AutoBSSSampler, Limits, draw_candidates
from bsszoo.spaces import Space
from bsszoo.study import SearchPlan, open_storage, run_search, trial_rows

optuna.logging.set_verbosity(optuna.logging.ERROR)
SPACE = Space.of("mobilenetv2")
CANDIDATES = draw_candidates(SPACE, Limits(min_macs=270_000_000, max_macs=300_000_000), 400, 0)


def _params(code):
    """Parameters in millions."""
    return code_cost(code).params / 1e6


def _plan(function=_params, trials=20, batch=8):
    return SearchPlan(SPACE, CANDIDATES, FunctionEvaluator(function), trials, batch)


def _study(storage=None):
    sampler = AutoBSSSampler(CANDIDATES, batch_size=8, seed=1, clusters=64)
    return optuna.create_study(
        storage=storage, study_name="s", sampler=sampler, direction="maximize", load_if_exists=True
    )


class _KilledError(BaseException):
    """Stands for the end of the process: nothing in the loop may catch it."""


def test_it_evaluates_the_number_asked_for_in_batches():
    seen = []
    study = _study()
    run_search(study, _plan(), seen.append)
    assert [r.number for r in seen] == list(range(20))
    assert [r.batch for r in seen] == [0] * 8 + [1] * 8 + [2] * 4
    assert seen == trial_rows(study, _plan())
    assert all(r.score == pytest.approx(r.cost.params / 1e6) for r in seen)
    assert all(r.cost == code_cost(r.code) and r.cost.macs <= 300_000_000 for r in seen)


@pytest.mark.parametrize("evaluations", [0, 11])
def test_killed_after_any_evaluation_it_ends_with_the_same_codes(tmp_path, evaluations):
    unbroken = _study()
    run_search(unbroken, _plan(), lambda _: None)
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    left = evaluations

    def dies(code):
        nonlocal left
        if not left:
            raise _KilledError
        left -= 1
        return _params(code)

    with pytest.raises(_KilledError):
        run_search(_study(open_storage(storage)), _plan(dies), lambda _: None)
    resumed = _study(open_storage(storage))
    run_search(resumed, _plan(), lambda _: None)
    assert [(r.code, r.score) for r in trial_rows(resumed, _plan())] == [
        (r.code, r.score) for r in trial_rows(unbroken, _plan())
    ]


@pytest.mark.parametrize("fewer", [3, 13, 16])
def test_more_trials_go_on_from_where_fewer_ended(fewer):
    study, longer = _study(), _study()
    run_search(study, _plan(trials=fewer), lambda _: None)
    first = [r.code for r in trial_rows(study, _plan())]
    assert len(first) == fewer
    run_search(study, _plan(trials=20), lambda _: None)
    run_search(longer, _plan(trials=20), lambda _: None)
    assert [r.code for r in trial_rows(study, _plan())][:fewer] == first
    assert [r.code for r in trial_rows(study, _plan())] == [r.code for r in trial_rows(longer, _plan())]


def test_an_evaluator_that_fails_makes_failed_trials_with_reasons():
    calls = 0

    def shaky(code):
        nonlocal calls
        calls += 1
        if calls % 8 == 4:
            sys.exit(3)
        if calls % 4 == 0:
            raise ValueError("out of memory: caf\udce9.jpg")
        return math.nan if calls % 4 == 1 else "many" if calls % 4 == 2 else _params(code)

    study = _study()
    run_search(study, _plan(shaky), lambda _: None)
    rows = trial_rows(study, _plan())
    assert len(rows) == 20
    reasons = {r.error for r in rows if r.state == "failed"}
    assert "ValueError: out of memory: caf\\udce9.jpg" in reasons
    assert "SystemExit: 3" in reasons
    assert any("finite number; the evaluator gave nan" in r for r in reasons)
    assert any("the evaluator gave 'many' (str)" in r for r in reasons)
    assert all((r.score is None) == (r.state == "failed") for r in rows)
    assert len(study.get_trials(states=(TrialState.COMPLETE,))) == sum(r.state == "complete" for r in rows) == 5


def test_fewer_candidates_than_trials_end_when_all_are_evaluated():
    few = draw_candidates(SPACE, Limits(max_macs=300_000_000), 5, 0)
    study = optuna.create_study(direction="maximize", sampler=AutoBSSSampler(few, batch_size=2, seed=0))
    plan = SearchPlan(SPACE, few, FunctionEvaluator(_params), 20, 2)
    run_search(study, plan, lambda _: None)
    assert len({r.code for r in trial_rows(study, plan)}) == 5


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, None, "3", True, [1.0]])
def test_a_score_is_a_finite_number(value):
    with pytest.raises(EvaluationError):
        Score(value)


def test_functions_are_found_by_name(tmp_path, monkeypatch):
    (tmp_path / "mine_for_a_test.py").write_text(
        "def widest(code):\n    '''Widest stage.\n\n    More.'''\n    return max(code.widths)\n\nbroken = 3\n\n\n"
        "class Kind:\n    pass\n"
    )
    (tmp_path / "exits_for_a_test.py").write_text("raise SystemExit\n")
    (tmp_path / "raises_for_a_test.py").write_text("1 / 0\n")
    (tmp_path / "needs_for_a_test.py").write_text("import not_installed_anywhere\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    request = Request(resolve("resnet18"), TrainingOptions(), tmp_path)
    evaluator = make_evaluator("mine_for_a_test:widest", request)
    assert evaluator(SPACE.largest).value == 640
    assert evaluator.info.measures == "Widest stage."
    for spec, error, text in (
        ("mine_for_a_test:widst", UnknownNameError, "Did you mean 'widest'"),
        ("no_such_module:f", UnknownNameError, "no module 'no_such_module'"),
        ("nocolon", UnknownNameError, "MODULE:FUNCTION"),
        ("./mine_for_a_test:f", UnknownNameError, "MODULE:FUNCTION"),
        ("mine_for_a_test.py:f", UnknownNameError, "Leave out '.py'"),
        ("exits_for_a_test:f", EvaluationError, "exits when it is imported"),
        ("mine_for_a_test:Kind", EvaluationError, "is a class"),
        ("mine_for_a_test:broken", EvaluationError, "is 3"),
        ("raises_for_a_test:f", EvaluationError, "ZeroDivisionError"),
        ("needs_for_a_test:f", EvaluationError, "not_installed_anywhere"),
    ):
        with pytest.raises(error, match=text):
            make_evaluator(spec, request)


def test_a_failed_code_that_two_processes_had_tried_again_is_evaluated_once_more_only():
    from bsszoo.study.loop import retry_failed

    broken, seen = [True], []

    def judge(code):
        seen.append(code)
        if len(seen) == 3 and broken[0]:
            raise RuntimeError("no luck")
        return _params(code)

    study = _study()
    run_search(study, _plan(judge, trials=10), lambda _: None)
    failed = seen[2]
    broken[0] = False
    before = study.get_trials()
    assert retry_failed(study, _plan(judge, trials=10)) == 1
    # Another process read the study before the first one wrote.
    names = CANDIDATES.names
    study.enqueue_trial({n: before[2].params[n] for n in names})
    run_search(study, _plan(judge, trials=12), lambda _: None)
    assert seen.count(failed) == 2
    rows = trial_rows(study, _plan(judge, trials=12))
    assert len({r.code for r in rows}) == len(rows) == 12
    assert all(r.state == "complete" for r in rows)

"""Heartbeats: which worker counts as dead, when, and what becomes of the code."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from bsszoo.errors import SettingsError
from bsszoo.evaluators import FunctionEvaluator
from bsszoo.search import AutoBSSSampler, CandidateSet
from bsszoo.search.history import DROPPED, LOST, RESULT, RETURNED, SURPLUS, codes_due, holders, read_history
from bsszoo.spaces import Space
from bsszoo.study import Lease, SearchPlan, leases, run_search, trial_rows
from bsszoo.study.leases import BEAT, Heartbeat, Observer, give_up, owner
from bsszoo.study.loop import retry_failed, work_once

optuna.logging.set_verbosity(optuna.logging.ERROR)
NAMES = ("C1", "C2", "C3", "C4", "L1", "L2", "L3", "L4")
CANDIDATES = CandidateSet(
    np.array([(64, 128, 256, 512, a, b, c, 2) for a in (1, 2, 3) for b in (1, 2, 3) for c in (1, 2, 3)]), names=NAMES
)


@pytest.fixture
def study():
    return optuna.create_study(direction="maximize", sampler=AutoBSSSampler(CANDIDATES, batch_size=6, seed=0))


@pytest.fixture
def clock(monkeypatch):
    """Seconds of the observer's clock, which a test sets."""

    class Clock:
        now = 1000.0

    monkeypatch.setattr(leases, "time", SimpleNamespace(monotonic=lambda: Clock.now))
    return Clock


def _plan(function=lambda code: sum(code.depths), trials=6):
    return SearchPlan(Space.of("resnet18"), CANDIDATES, FunctionEvaluator(function), trials, 6)


def _trial(study, number):
    return study.get_trials(deepcopy=False)[number]


def _code(trial):
    return [trial.params[n] for n in NAMES]


def test_a_trial_whose_count_does_not_change_is_given_up_after_the_grace_time(study, clock):
    asked = study.ask(fixed_distributions=CANDIDATES.distributions)
    asked.set_user_attr(BEAT, ["other", 0])
    observer = Observer(study, NAMES, Lease(8.0))
    observer.look()
    for count in range(1, 20):  # it lives
        clock.now += 2.0
        asked.set_user_attr(BEAT, ["other", count])
        assert observer.look() == []
    for _ in range(3):
        clock.now += 2.0
        assert observer.look() == []
    clock.now += 2.0
    assert observer.look() == [0]
    lost = _trial(study, 0)
    assert (lost.state, lost.user_attrs[DROPPED], owner(lost)) == (TrialState.FAIL, LOST, "other")
    assert study.ask(fixed_distributions=CANDIDATES.distributions).params == asked.params


def test_an_outage_or_a_sleep_of_the_observer_does_not_count_as_silence(study, clock):
    study.ask(fixed_distributions=CANDIDATES.distributions)
    observer = Observer(study, NAMES, Lease(8.0))
    observer.look()
    clock.now += 3600.0
    assert observer.look() == []
    assert _trial(study, 0).state == TrialState.RUNNING


def test_an_ask_that_never_gets_a_code_is_failed_and_held_trials_are_left_alone(study, clock):
    held = study.ask(fixed_distributions=CANDIDATES.distributions)
    study._storage.create_new_trial(study._study_id)
    observer = Observer(study, NAMES, Lease(4.0))
    states = []
    for _ in range(70):
        clock.now += 1.0
        observer.look(frozenset([held.number]))
        states.append([t.state for t in study.get_trials()])
    # Before its first heartbeat a worker has a minute, however short the grace time: an ask may take long.
    assert states[50] == [TrialState.RUNNING, TrialState.RUNNING]
    assert states[-1] == [TrialState.RUNNING, TrialState.FAIL]
    assert [t.number for t, _ in holders(study.get_trials(), NAMES)] == [0]


def test_giving_up_twice_is_harmless_and_a_result_in_the_meantime_stays(study):
    first = study.ask(fixed_distributions=CANDIDATES.distributions)
    give_up(study, _trial(study, 0), LOST)
    give_up(study, _trial(study, 0), SURPLUS)
    assert _trial(study, 0).user_attrs[DROPPED] == LOST
    again = study.ask(fixed_distributions=CANDIDATES.distributions)
    assert again.params == first.params
    stale = study._storage.get_trial(again._trial_id)
    again.set_user_attr(RESULT, {"value": 3.5, "seconds": 1.0, "error": None, "trace": None})
    give_up(study, stale, LOST)
    assert (_trial(study, 1).state, _trial(study, 1).value) == (TrialState.COMPLETE, 3.5)
    assert codes_due(study.get_trials(), NAMES) == []


def test_a_code_lost_twice_is_a_failed_one_and_one_returned_is_not(study):
    for why in (RETURNED, RETURNED, LOST, LOST):
        study.ask(fixed_distributions=CANDIDATES.distributions)
        give_up(study, study.get_trials()[-1], why)
    codes = [_code(t) for t in study.get_trials()]
    assert codes == codes[:1] * 4
    history = read_history(study.get_trials(), CANDIDATES, maximise=True)
    assert history.numbers.tolist() == [3]
    assert history.due.tolist() == []
    assert not history.running.any()
    run_search(study, _plan(), lambda _: None)
    rows = trial_rows(study, _plan())
    assert len(rows) == len({r.code for r in rows}) == 6
    assert [r.state for r in rows] == ["failed"] + ["complete"] * 5
    assert f"Two processes died while they evaluated {rows[0].code}" in rows[0].error


def test_the_result_of_a_worker_that_counted_as_dead_is_dropped(study, caplog):
    def slow(_code):
        give_up(study, study.get_trials()[-1], LOST)  # as another machine does
        return 1.0

    with Heartbeat(study, NAMES, Lease(60)) as heartbeat:
        assert work_once(study, _plan(slow), heartbeat)
    assert _trial(study, 0).state == TrialState.FAIL
    assert "given up as lost" in caplog.text
    run_search(study, _plan(trials=3), lambda _: None)
    assert len({r.code for r in trial_rows(study, _plan())}) == 3


def test_ctrl_c_returns_a_shared_code_at_once(study):
    def interrupted(_code):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_search(study, _plan(interrupted), lambda _: None, lease=Lease(60))
    assert _trial(study, 0).user_attrs[DROPPED] == RETURNED
    assert codes_due(study.get_trials(), NAMES) == [tuple(_code(_trial(study, 0)))]


def test_a_heartbeat_counts_up_while_the_evaluation_runs(study):
    counts = []

    def slow(_code):
        for _ in range(100):
            counts.append(study.get_trials()[-1].user_attrs[BEAT][1])
            if counts[-1] >= 2:
                return 1.0
            time.sleep(0.05)
        return 0.0

    run_search(study, _plan(slow, trials=1), lambda _: None, lease=Lease(0.4))
    assert trial_rows(study, _plan())[0].score == 1.0


def test_one_too_many_is_surplus_and_its_code_is_free_again(study):
    plan = _plan(trials=2)
    run_search(study, plan, lambda _: None)
    extra = study.ask(fixed_distributions=CANDIDATES.distributions)
    give_up(study, study._storage.get_trial(extra._trial_id), SURPLUS)
    assert not work_once(study, plan, None)
    assert [r.number for r in trial_rows(study, plan)] == [0, 1]
    assert study.ask(fixed_distributions=CANDIDATES.distributions).params == extra.params


def test_failed_codes_are_evaluated_again_when_asked_for(study):
    def fails(code):
        if code.depths[0] == 1:
            raise MemoryError("no room")
        return 1.0

    run_search(study, _plan(fails), lambda _: None)
    failed = [r for r in trial_rows(study, _plan()) if r.state == "failed"]
    assert failed
    assert "MemoryError: no room" in failed[0].trace
    assert "in fails" in failed[0].trace
    assert retry_failed(study, _plan()) == len(failed)
    run_search(study, _plan(), lambda _: None)
    rows = trial_rows(study, _plan())
    assert len(rows) == len({r.code for r in rows}) == 6
    assert {r.state for r in rows} == {"complete"}


@pytest.mark.parametrize("grace", [0, -1.0, float("nan"), True, "60"])
def test_a_grace_time_is_a_number_above_0(grace):
    with pytest.raises(SettingsError, match="--grace"):
        Lease(grace)

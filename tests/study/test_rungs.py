"""Rungs: what is reported, what is stopped, what a stopped trial leaves, and what the search makes of it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

import bsszoo
from bsszoo.compression.reopen import report_study
from bsszoo.evaluators import Evaluator, EvaluatorInfo, FunctionEvaluator, Score, Trial
from bsszoo.search import AutoBSSSampler, CandidateSet
from bsszoo.search.history import read_history
from bsszoo.search.pruning import HalvingPruner
from bsszoo.spaces import Space
from bsszoo.study import SearchPlan, StudyAddress, open_storage, run_search, run_workers, trial_rows

optuna.logging.set_verbosity(optuna.logging.ERROR)
SPACE = Space.of("resnet18")
CODES = [(64, 128, 256, 512, a, b, c, 2) for a in (1, 2, 3) for b in (1, 2, 3) for c in (1, 2, 3, 4)]
CANDIDATES = CandidateSet(np.array(CODES), names=SPACE.entry_names)
FINAL = 3


def at_rung(code, rung):
    """What a code is worth after a rung: nearer to its final worth each time, and never equal to it before."""
    noise = (7 * code.depths[0] + 5 * code.depths[1] + 3 * code.depths[2]) % 11
    return code.depths[0] + 2 * code.depths[1] + 0.1 * code.depths[2] + noise / 2 ** (rung + 1)


def climbing(code, trial):
    """Worth after three rungs."""
    for rung in range(FINAL):
        trial.report(at_rung(code, rung), rung)
        if rung < FINAL - 1 and trial.should_stop():
            break
    return at_rung(code, FINAL)


def plan(function=climbing, trials=24, reduction=3):
    return SearchPlan(SPACE, CANDIDATES, FunctionEvaluator(function), trials, 8, reduction)


def study_at(url: str | None = None, reduction: int = 3, pilots: int = 0):
    storage = None if url is None else open_storage(url)
    return optuna.create_study(
        storage=storage,
        study_name="s",
        direction="maximize",
        load_if_exists=True,
        sampler=AutoBSSSampler(CANDIDATES, batch_size=8, seed=0),
        pruner=HalvingPruner(reduction, pilots=pilots),
    )


def halved(rows, reduction=3):
    """Brute force: the rungs that trials reach when they come one after the other in the order of ``rows``."""
    held: list[list[float]] = [[] for _ in range(FINAL)]
    for row in rows:
        for rung in range(FINAL):
            value = at_rung(row.code, rung)
            held[rung].append(value)
            ranked = sorted(held[rung], reverse=True)
            if rung < FINAL - 1 and value < ranked[max(1, len(ranked) // reduction) - 1]:
                yield rung + 1
                break
        else:
            yield FINAL


@pytest.mark.parametrize("reduction", [1, 2, 3])
def test_one_code_in_so_many_goes_on_and_a_stopped_one_keeps_its_reports_only(reduction):
    study = study_at(reduction=reduction)
    run_search(study, plan(), lambda _: None)
    rows = trial_rows(study, plan())
    assert len(rows) == 24
    assert [len(row.reports) for row in rows] == list(halved(rows, reduction))
    for row in rows:
        assert row.reports == tuple((rung, at_rung(row.code, rung)) for rung in range(len(row.reports)))
        complete = len(row.reports) == FINAL
        assert row.state == ("complete" if complete else "pruned")
        assert row.score == (at_rung(row.code, FINAL) if complete else None)
        assert row.error is None
    assert any(row.state == "pruned" for row in rows) == (reduction > 1)
    # As Optuna's tell: a pruned trial's value is its last report, and it never is the best trial.
    for trial in study.trials:
        assert (trial.state == TrialState.PRUNED) == (len(trial.intermediate_values) < FINAL)
    assert study.best_trial.state == TrialState.COMPLETE


def piloted(values, pilots, reduction=3):
    """Brute force: which of the trials with these values at the rungs stop, and where, one after the other."""
    held: list[tuple[float, ...]] = []
    for ladder in values:
        reached = len(ladder)
        for rung in range(len(ladder) - 1):
            before = [h for h in held if len(h) > rung]
            pairs = [(h[rung], h[rung + 1]) for h in before if len(h) > rung + 1]
            trusted = len(before) >= pilots and (len(pairs) < 5 or np.corrcoef(*zip(*pairs, strict=True))[0, 1] > 0)
            ranked = sorted([*(h[rung] for h in before), ladder[rung]], reverse=True)
            if trusted and ladder[rung] < ranked[max(1, len(ranked) // reduction) - 1]:
                reached = rung + 1
                break
        held.append(tuple(ladder[:reached]))
    return [len(h) for h in held]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("pilots", [6, 8])
def test_the_first_codes_go_on_and_a_rung_that_disagrees_with_the_next_stops_none(pilots, sign):
    """Once the second of two rungs is opposite to the first and to the result, once it is left out."""

    def ladder(code):
        worth = code.depths[0] + 2 * code.depths[1] + 0.1 * code.depths[2]
        return (worth + 0.01 * code.depths[2], -2 * worth, worth)

    for ladder_of in (ladder, lambda code: ladder(code)[::2]):

        def judged_by(code, trial, ladder_of=ladder_of):
            *reports, final = ladder_of(code)
            for rung, value in enumerate(reports):
                trial.report(sign * value, rung)
                if trial.should_stop():
                    break
            return sign * final

        study = study_at(pilots=pilots)
        the_plan = plan(judged_by)
        run_search(study, the_plan, lambda _: None)
        rows = trial_rows(study, the_plan)
        values = [[sign * v for v in ladder_of(row.code)] for row in rows]
        reached = [len(row.reports) + (row.state == "complete") for row in rows]
        assert reached == piloted(values, pilots)
        assert all(n == len(values[0]) for n in reached[:pilots])
        stopped_at = {n for n in reached if n < len(values[0])}
        # In the longer ladder either rung disagrees with what follows, so neither stops any.
        assert stopped_at == (set() if len(values[0]) == 3 else {1})


def test_senseless_numbers_of_pilots_are_refused():
    with pytest.raises(ValueError, match="pilots is at least 0; got -1"):
        HalvingPruner(pilots=-1)


def test_pruned_values_never_enter_the_model():
    """Two studies that differ in the values of their pruned trials suggest the same codes; reports count as reports."""
    suggested = []
    for offset in (0.0, 1e3):
        study = study_at()
        for i, code in enumerate(CODES[:12]):
            values = {n: int(v) for n, v in zip(CANDIDATES.names, code, strict=True)}
            pruned = i % 3 == 0
            study.add_trial(
                optuna.trial.create_trial(
                    params=values,
                    distributions=CANDIDATES.distributions,
                    state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
                    value=float(code[4]) + (offset if pruned else 0.0),
                    intermediate_values={0: float(code[4])},
                )
            )
        history = read_history(study.trials, CANDIDATES, maximise=True)
        assert history.done.tolist() == [i % 3 != 0 for i in range(12)]
        suggested.append([study.ask().number and dict(study.trials[-1].system_attrs) for _ in range(3)])
        held = {tuple(study.trials[-k].system_attrs["bsszoo:code"]) for k in (1, 2, 3)}
        assert not held & set(CODES[:12]), "a pruned code is suggested again"
    assert suggested[0] == suggested[1]


class _KilledError(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("reports", [1, 2, 9, 20])
def test_killed_after_any_report_it_ends_as_if_it_had_not_been(tmp_path, reports):
    unbroken = study_at()
    run_search(unbroken, plan(), lambda _: None)
    url, seen = f"sqlite:///{tmp_path / 's.db'}", [0]

    def dies(code, trial):
        class Counting:
            def report(self, value, rung):
                trial.report(value, rung)
                seen[0] += 1
                if seen[0] == reports:
                    raise _KilledError

            def should_stop(self):
                return trial.should_stop()

        return climbing(code, Counting())

    with pytest.raises(_KilledError):
        run_search(study_at(url), plan(dies), lambda _: None)
    study = study_at(url)
    run_search(study, plan(), lambda _: None)
    of = [[(r.code, r.state, r.score, r.reports) for r in trial_rows(s, plan())] for s in (unbroken, study)]
    assert of[0] == of[1]


def test_workers_share_the_rungs(tmp_path):
    url = f"sqlite:///{tmp_path / 's.db'}"
    study_at(url)
    reported = []
    run_workers(StudyAddress(url, "s", 0), plan(), reported.append, workers=2)
    rows = trial_rows(study_at(url), plan())
    assert sorted(r.number for r in reported) == [r.number for r in rows]
    assert len({r.code for r in rows}) == len(rows) == 24
    # Which codes stop depends on which came first; what each leaves does not, and some stop in any order.
    for row in rows:
        assert row.reports == tuple((rung, at_rung(row.code, rung)) for rung in range(len(row.reports)))
        assert (row.state == "complete") == (len(row.reports) == FINAL) == (row.score is not None)
    assert {r.state for r in rows} == {"complete", "pruned"}


def test_a_report_is_a_finite_number_at_a_whole_rung_and_trial_pruned_ends_a_trial():
    def wrong(code, trial):
        if code.depths[0] == 1:
            trial.report(math.nan, 0)
        if code.depths[0] == 2:
            trial.report(1.0, -1)
        trial.report(1.0, 0)
        raise optuna.TrialPruned

    study = study_at()
    run_search(study, plan(wrong), lambda _: None)
    for row in trial_rows(study, plan()):
        assert row.state == ("pruned" if row.code.depths[0] == 3 else "failed")
        wanted = {1: "finite number", 2: "whole number from 0"}.get(row.code.depths[0])
        assert wanted in (row.error or "") if wanted else row.reports == ((0, 1.0),)


class Climbing(Evaluator):
    """Three rungs; how far each code came is counted."""

    reached: dict[str, int]

    def __init__(self) -> None:
        self.reached = {}

    @property
    def info(self) -> EvaluatorInfo:
        return EvaluatorInfo("climbing", "worth after three rungs")

    def evaluate(self, code: bsszoo.Code, trial: Trial) -> Score:
        for rung in range(FINAL):
            self.reached[str(code)] = rung + 1
            trial.report(at_rung(code, rung), rung)
            if rung < FINAL - 1 and trial.should_stop():
                break
        return Score(at_rung(code, FINAL))


def test_a_compression_says_what_was_stopped_everywhere(tmp_path: Path) -> None:
    judge = Climbing()
    settings = {"flops": "60%", "trials": 20, "batch": 8, "measure": False, "out": tmp_path / "run"}
    result = bsszoo.compress("resnet18", evaluator=judge, **settings)
    pruned = [t for t in result.trials if t.state == "pruned"]
    assert pruned
    assert all(len(t.reports) == judge.reached[str(t.code)] for t in result.trials)
    # Controls are not stopped, and no stopped code is among those that are listed.
    assert all(judge.reached[str(n.code)] == FINAL for n in result.networks if n.score is not None)
    assert not {t.code for t in pruned} & {n.code for n in result.networks if n.role == "found"}
    counts = json.loads((tmp_path / "run" / "result.json").read_text())["trials"]
    assert counts == {"complete": 20 - len(pruned), "pruned": len(pruned), "failed": 0}
    table = (tmp_path / "run" / "trials.csv").read_text()
    assert f"0:{pruned[0].reports[0][1]!r}" in table
    page = (tmp_path / "run" / "report.html").read_text()
    assert f"{len(pruned)} of them pruned" in page
    assert f"stopped after rung {len(pruned[0].reports)}" in page
    assert not any("failed" in note for note in result.notes)
    # Written again from the study alone, it says the same.
    again = report_study(str(tmp_path / "run"), out=tmp_path / "again.html")
    assert f"{len(pruned)} pruned" in again.trials
    assert f"{len(pruned)} of them pruned" in again.path.read_text()
    # It goes on with more trials, and another reduction is another run.
    longer = bsszoo.compress("resnet18", evaluator=judge, **{**settings, "trials": 24})
    assert longer.trials[:20] == result.trials
    with pytest.raises(bsszoo.BssZooError, match="reduction"):
        bsszoo.compress("resnet18", evaluator=judge, reduction=2, **settings)

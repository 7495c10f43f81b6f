"""A compression phase by phase: each resumes where the last one stopped, in whichever process; events and result."""

from __future__ import annotations

import html
import inspect
import json
import re
from collections import defaultdict
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from strategies import some_by_default

import bsszoo
from bsszoo.codes import Code, code_cost
from bsszoo.compression import Budget, Compression, CompressResult, Event, LogLines
from bsszoo.compression.plan import around_uniform
from bsszoo.compression.reopen import report_study
from bsszoo.errors import BssZooError, BudgetError, SettingsError
from bsszoo.evaluators import Evaluator, EvaluatorInfo, Score, Trial
from bsszoo.models import resolve_code
from bsszoo.options import GROUPS, Options, options_of
from bsszoo.study.result import Confirmation, ConfirmedRow

SMALL = {"trials": 6, "batch": 3, "evaluator": None}


class Judge(Evaluator):
    """Parameters as a score; a fresh training of the uniform network is the best."""

    @property
    def info(self) -> EvaluatorInfo:
        return EvaluatorInfo("params", "millions of parameters")

    def evaluate(self, code: Code, trial: Trial) -> Score:
        return Score(code_cost(code).params / 1e6)

    test_measures = "what a test gives"
    test_unit = "points"

    def __init__(self, favourite: str = "") -> None:
        self.favourite = favourite

    def tested(self, code: Code, number: int) -> float:
        return 50.0 + number + 10 * (str(code) == self.favourite)


def job(folder, judge=None, **options):
    settings = {**SMALL, "evaluator": judge or Judge(), "out": folder, "confirm": 2, **options}
    return Compression("resnet18", Budget(flops="60%"), **settings)


def figures(result: CompressResult) -> dict[str, object]:
    return {
        name: value for name, value in result.to_dict().items() if name not in ("seconds", "networks", "best", "notes")
    }


@pytest.mark.extended
def test_phases_by_several_processes_give_what_one_call_gives(tmp_path):
    whole = bsszoo.compress(
        "resnet18", flops="60%", out=tmp_path / "whole", **{**SMALL, "evaluator": Judge()}, confirm=2
    )
    folder = tmp_path / "parts"
    searched = job(folder, trials=3).search()
    assert len(searched.trials) == 3
    assert searched.confirmation is None
    assert len(job(folder).search().trials) == 6
    measured = job(folder).measure()
    assert all(row.latency_ms is not None for row in measured.networks)
    confirmed = job(folder).confirm()
    # A phase keeps what the others gave.
    assert [r.latency_ms for r in confirmed.networks] == [r.latency_ms for r in measured.networks]
    assert figures(confirmed) == figures(whole)
    assert figures(job(folder).result()) == figures(whole)
    written = json.loads((folder / "result.json").read_text())
    assert {name: written[name] for name in figures(whole)} == figures(whole)
    # The page that is written again from the folder holds what the phases noted and gave.
    page = report_study(str(folder), out=tmp_path / "again.html").path.read_text()
    assert "Latency: median of 15 forwards of one image" in page
    assert confirmed.confirmation.verdicts[0] in html.unescape(page)


class Noisy(Judge):
    """How near to 6 million the parameters are, with the noise of a training: the same in every run."""

    replicates = 0.25
    around = 3

    def evaluate(self, code: Code, trial: Trial) -> Score:
        noise = np.random.default_rng([*code.entries, trial.replicate]).normal()
        return Score(-abs(code_cost(code).params / 1e6 - 6) + 0.3 * noise)


def test_a_search_with_noise_trains_leaders_again_and_ranks_codes_by_all_trainings(tmp_path):
    settings = {"trials": 48, "batch": 8, "confirm": 0}
    run = job(tmp_path / "whole", Noisy(), **settings)
    result = run.search()
    scores = defaultdict(list)
    for trial in result.trials:
        scores[trial.code].append(trial.score)
    repeated = [code for code, values in scores.items() if len(values) > 1]
    assert repeated
    assert 48 - len(scores) <= 12
    assert all(len(set(values)) == len(values) for values in scores.values())
    # The table holds each code once, and its score is no single training's, but between those and the model's.
    found = [row for row in result.networks if row.role == "found"]
    assert len({row.code for row in found}) == len(found)
    assert [row.score for row in found] == sorted((row.score for row in found), reverse=True)
    assert found[0].score < max(trial.score for trial in result.trials)
    # It begins around the uniformly rescaled network.
    plan = run._prepared.plan
    first = [trial.code.entries for trial in result.trials[:3]]
    assert first == list(around_uniform(plan, 3))
    # A run in two parts, and its page, are the same.
    job(tmp_path / "parts", Noisy(), **{**settings, "trials": 29}).search()
    again = job(tmp_path / "parts", Noisy(), **settings).search()
    assert [(t.code, t.score) for t in again.trials] == [(t.code, t.score) for t in result.trials]
    page = report_study(str(tmp_path / "whole"), out=tmp_path / "page.html").path.read_text()
    assert str(found[0].code) in page
    # Without a share each code is trained once.
    once = job(tmp_path / "once", Noisy(), replicates=0, **settings).search()
    assert len({trial.code for trial in once.trials}) == 48
    with pytest.raises(SettingsError, match=r"--replicates is 2; it takes a share from 0 to 1"):
        job(tmp_path / "wrong", Noisy(), replicates=2)
    with pytest.raises(SettingsError, match="--replicates is for the default search"):
        job(tmp_path / "wrong", Noisy(), replicates=0.5, search="paper")


def test_all_phases_ask_once_how_a_code_is_trained_in_full(tmp_path):
    """The answer lists the images' folder, which takes long where they are many."""
    asked = []

    class Asked(Judge):
        def full_training(self):
            asked.append(1)

    job(tmp_path / "run", Asked()).run()
    assert asked == [1]


def test_the_folder_is_held_for_as_long_as_the_context(tmp_path):
    with job(tmp_path / "run") as held:
        held.search()
        with pytest.raises(SettingsError, match="Another process is running a search"):
            job(tmp_path / "run").search()
        held.confirm()
    job(tmp_path / "run").search()


def test_the_recommended_network_is_what_fresh_trainings_favour(tmp_path):
    first = job(tmp_path / "a").search()
    assert first.recommended is first.best
    uniform = next(row for row in first.networks if row.role == "uniform")
    for favourite, role in ((str(uniform.code), "uniform"), (str(first.best.code), "found")):
        run = job(tmp_path / role, Judge(favourite))
        run.search()
        assert run.confirm().recommended.role == role
    # A network whose trainings all failed is no winner.
    none = Confirmation("", (ConfirmedRow("uniform", "uniform", uniform.code, uniform.cost, ()),), ())
    assert replace(first, confirmation=none).recommended is first.best


@pytest.mark.parametrize(
    ("found", "uniform", "ms", "role"),
    [
        ((91.0, 91.2, 91.1), (90.9, 91.0, 91.1), 0.9, "found"),
        ((91.0, 91.2, 91.1), (90.9, 91.0, 91.1), 1.04, "found"),  # alike
        ((91.0, 91.2, 91.1), (90.9, 91.0, 91.1), 1.2, "uniform"),  # slower for nothing that is certain
        ((92.0, 92.2, 92.1), (90.9, 91.0, 91.1), 1.2, "found"),  # slower, and better beyond doubt
        ((90.0, 90.2, 90.1), (90.9, 91.0, 91.1), 0.9, "uniform"),
    ],
)
def test_a_slower_network_is_recommended_only_where_it_is_clearly_better(tmp_path, found, uniform, ms, role):
    first = job(tmp_path / "run").search()
    rows = {row.role: row for row in reversed(first.networks)}
    times = {"original": 2.0, "uniform": 1.0, "found": ms}
    tests = {"original": (93.0,), "uniform": uniform, "found": found}
    measured = [
        ConfirmedRow(row.label, role, row.code, row.cost, tests[role], None, None, tests[role])
        for role, row in rows.items()
    ]
    result = replace(
        first,
        networks=tuple(replace(row, latency_ms=times[row.role]) for row in first.networks),
        confirmation=Confirmation("", tuple(measured), ()),
    )
    assert result.recommended.role == role
    assert result.recommendation.startswith("Take the uniformly" if role == "uniform" else "Take found 1")
    assert f" and {times[role]:.3g} ms ({50 * times[role]:.0f}%)" in result.recommendation
    drop = 93 - sum(tests[role]) / 3
    assert f"{drop:.2f} points below the network's 93.00%" in result.recommendation
    assert ("No network of this budget" in result.recommendation) == (drop > 1)
    better = replace(result, confirmation=Confirmation("", (replace(measured[-1], tests=(94.0,)), *measured[:-1]), ()))
    assert ("above the network's" in better.recommendation) == (measured[-1].role == role)


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ({"flops": "60%"}, r"one of 1\.4\dB MACs \(80%\) would"),
        ({"params": "60%"}, r"one of 9\.\d+M parameters \(8\d%\) would"),
    ],
)
def test_where_much_is_lost_a_sufficient_budget_is_named(tmp_path, budget, words):
    first = Compression("resnet18", Budget(**budget), trials=4, batch=4, measure=False, out=tmp_path / "run").search()
    rows = {row.role: row for row in reversed(first.networks)}
    tests = {"original": (93.0,), "uniform": (91.0,), "found": (90.0,)}
    measured = [ConfirmedRow(r.label, role, r.code, r.cost, tests[role], None, None) for role, r in rows.items()]
    result = replace(first, confirmation=Confirmation("", tuple(measured), ()))
    assert re.search(words, result.recommendation), result.recommendation
    # Half of what is lost by what was removed: so is half of that.
    named = float(re.search(r"\((\d+)%\) would", result.recommendation)[1])
    cost = "macs" if "flops" in budget else "params"
    kept = getattr(rows["uniform"].cost, cost) / getattr(rows["original"].cost, cost)
    assert named == pytest.approx(100 * (1 + kept) / 2, abs=0.6)
    near = [replace(row, tests=(92.5,)) if row.role == "uniform" else row for row in measured]
    other = replace(result, confirmation=Confirmation("", tuple(near), ()))
    assert "No network of this budget" not in other.recommendation


@pytest.mark.parametrize(
    ("threads", "words"), some_by_default([(1, "CPU, 1 thread,"), (2, "CPU, 2 threads,")], [(2, "CPU, 2 threads,")])
)
@pytest.mark.usefixtures("short_timings")
def test_latencies_at_the_end_are_of_the_threads_asked_for(tmp_path, threads, words):
    before = torch.get_num_threads()
    torch.set_num_threads(3 - threads)
    try:
        few = {"trials": 2, "batch": 2, "threads": threads, "out": tmp_path / "run"}
        result = bsszoo.compress("resnet18_c16-32-64-64_l1-1-1-1_px32", flops="60%", **few)
        assert torch.get_num_threads() == 3 - threads
    finally:
        torch.set_num_threads(before)
    assert any(words in note for note in result.notes)


def test_a_run_says_what_it_assumes_of_a_weights_file_unless_its_code_is_named(tmp_path):
    settings = {"flops": "70%", "trials": 2, "batch": 2, "measure": False}
    named = Code.parse("vit_patch8_c192-192-192-192_l1-1-1-1_b192-192-192-192_g32-32-32-32_stem192_px32")
    torch.save(bsszoo.create(named, num_classes=5).state_dict(), tmp_path / "net.pth")
    job = Compression(tmp_path / "net.pth", out=tmp_path / "run", **settings)
    result = job.search()
    assert {row.code.group_widths[0] for row in result.networks} == {64}
    assert any("heads are taken to have 64 channels" in note for note in result.notes)
    result = Compression(tmp_path / "net.pth", out=tmp_path / "other", code=str(named), **settings).search()
    assert str(next(row.code for row in result.networks if row.role == "original")) == str(named)
    assert not any("heads" in note for note in result.notes)


def test_a_result_prints_as_its_table_and_builds_its_network(tmp_path):
    result = job(tmp_path / "run").search()
    text, page = str(result), result._repr_html_()
    for row in result.networks:
        assert row.label in text
        assert row.label in page
        assert str(row.code) in text.replace("\n", "")
    assert page.startswith("<pre")
    assert result.folder == tmp_path / "run"
    model = result.build(num_classes=7)
    assert sum(p.numel() for p in model.parameters()) == code_cost(result.best.code, num_classes=7).params
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 7)
    original = result.build(result.networks[0], num_classes=7)
    assert sum(p.numel() for p in original.parameters()) == code_cost(resolve_code("resnet18"), num_classes=7).params


def test_a_notebook_shows_a_result_once_and_an_ipython_terminal_its_table(tmp_path, monkeypatch):
    result = job(tmp_path / "run").search()
    text, page = str(result), result._repr_html_()
    shown: list[object] = []
    # What rich does in a notebook, wherever its console writes to.
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr("rich.jupyter.display", lambda *parts: shown.append(parts))
    assert (str(result), result._repr_html_()) == (text, page)
    assert shown == []

    class Printer:
        text = shown.append

    result._repr_pretty_(Printer(), False)
    assert shown == [text]


def test_one_kind_of_event_tells_of_every_phase(tmp_path):
    events: list[Event] = []
    job(tmp_path / "run", callbacks=[events.append]).run()
    phases = list(dict.fromkeys(e.phase for e in events))
    assert phases == ["plan", "controls", "search", "measure", "confirm"]
    trials = [e for e in events if e.trial is not None]
    assert [e.done for e in trials] == [1, 2, 3, 4, 5, 6]
    assert {e.total for e in trials} == {6}
    assert [e.trial.number for e in trials] == list(range(6))
    best = max(t.trial.score for t in trials)
    assert trials[-1].best.score == best
    assert all(e.folder == tmp_path / "run" for e in events[1:])
    done = [(e.done, e.total) for e in events if e.phase == "confirm"]
    assert done == [(n, done[0][1]) for n in range(len(done))]
    assert done[-1][0] == done[-1][1]


def test_log_lines_hold_each_step_once_and_of_many_trials_the_last(tmp_path):
    lines: list[str] = []
    job(tmp_path / "run", callbacks=[LogLines(lines.append, seconds=1e9)]).search()
    assert any(line.startswith("Compressing resnet18_") for line in lines)
    assert sum("trials, best so far" in line for line in lines) == 1
    assert lines[-1].startswith("6/6 trials, best so far: score ")
    assert "resnet18_c" in lines[-1]


def test_options_are_described_once(tmp_path):
    """Of the function few are named, all others are those of the command line."""
    # Functions of a network are of the function alone.
    functions = {"evaluate", "fine_tune", "test", "images"}
    named = inspect.signature(bsszoo.compress).parameters.keys() - functions
    assert len(named) <= 10
    known = options_of(*GROUPS.values())
    assert named - {"network", "callbacks", "options"} <= known.keys()
    assert all(field.metadata["help"] for field in known.values())
    with pytest.raises(SettingsError, match=r"no option 'trails'\. Did you mean 'trials'"):
        bsszoo.compress("resnet18", flops="60%", trails=3, out=tmp_path)
    with pytest.raises(BudgetError, match="A compression needs a budget"):
        Compression("resnet18", trials=3)
    with pytest.raises(SettingsError, match="--reduction is 0"):
        Options.of(flops="60%", reduction=0)
    with pytest.raises(BudgetError, match="--slack is 2"):
        Budget(flops="60%", slack=2)
    with pytest.raises(BssZooError, match="give the images with --data"):
        Options.of(flops="60%", epochs=3)
    assert not any(tmp_path.iterdir())
    for group in GROUPS.values():
        assert {f.name for f in fields(group)} == options_of(group).keys()

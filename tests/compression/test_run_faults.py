"""What goes wrong around a run: nothing is lost, nothing is mixed, and every end says why."""

from __future__ import annotations

import json
import sys

import forked
import optuna
import pytest

import bsszoo
from bsszoo.codes import code_cost
from bsszoo.errors import BudgetError, EvaluationError, SettingsError
from bsszoo.evaluators import EvaluatorInfo, Score
from bsszoo.study.storages import masked

SMALL = {"flops": "130M", "trials": 4, "batch": 2, "measure": False}


def _blocks(code):
    return float(sum(code.depths))


def _other(code):
    return 1000.0 - sum(code.depths)


@pytest.mark.parametrize("name", ["a?b", "q%41x#y", "with space", "caf\u00e9"])
def test_any_folder_name_holds_one_study(tmp_path, name):
    bsszoo.compress("mobilenetv2", evaluator=_blocks, out=tmp_path / name, **SMALL)
    assert (tmp_path / name / "study.db").stat().st_size > 0
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_folders_of_one_name_share_a_storage_but_no_study(tmp_path):
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    a = bsszoo.compress("mobilenetv2", evaluator=_blocks, storage=url, out=tmp_path / "a" / "run", **SMALL)
    b = bsszoo.compress(
        "mobilenetv2", evaluator=_blocks, storage=url, out=tmp_path / "b" / "run", **{**SMALL, "flops": "140M"}
    )
    assert len(optuna.get_all_study_names(url)) == 2
    assert {t.code for t in a.trials} != {t.code for t in b.trials}


def test_a_changed_evaluator_does_not_mix_its_scores_with_the_old_ones(tmp_path):
    first, second = _blocks, _other
    second.__qualname__ = first.__qualname__  # as when the body of one function was edited
    bsszoo.compress("mobilenetv2", evaluator=first, out=tmp_path, **SMALL)
    with pytest.raises(SettingsError, match="the evaluator, its file or what it trains on, has changed"):
        bsszoo.compress("mobilenetv2", evaluator=second, out=tmp_path, **SMALL)


def test_another_storage_or_a_lost_study_does_not_overwrite_results(tmp_path):
    bsszoo.compress("mobilenetv2", evaluator=_blocks, out=tmp_path / "run", **SMALL)
    kept = (tmp_path / "run" / "trials.csv").read_text()
    with pytest.raises(SettingsError, match="storage was None"):
        bsszoo.compress(
            "mobilenetv2",
            evaluator=_blocks,
            out=tmp_path / "run",
            storage=f"sqlite:///{tmp_path / 'other.db'}",
            **SMALL,
        )
    (tmp_path / "run" / "study.db").unlink()
    with pytest.raises(SettingsError, match="lists 4 trials and the study holds 0"):
        bsszoo.compress("mobilenetv2", evaluator=_blocks, out=tmp_path / "run", **SMALL)
    assert (tmp_path / "run" / "trials.csv").read_text() == kept


def test_a_wrong_storage_is_an_error_before_candidates_are_drawn_and_a_failed_run_makes_no_file(tmp_path, monkeypatch):
    def drawn(*_args, **_settings):
        raise BudgetError("drawn")

    monkeypatch.setattr("bsszoo.compression.session.make_plan", drawn)
    monkeypatch.chdir(tmp_path)
    for url in (
        "sqlite:///nowhere/search.db",
        f"journal://{tmp_path}/nowhere/search.log",
        "search.db",
        "postgresql://nobody@127.0.0.1:1/none",
    ):
        with pytest.raises(SettingsError, match="cannot be opened"):
            bsszoo.compress("mobilenetv2", evaluator=_blocks, storage=url, **SMALL)
    for url in ("sqlite:///search.db", f"journal://{tmp_path}/search.log"):
        with pytest.raises(BudgetError, match="drawn"):
            bsszoo.compress("mobilenetv2", evaluator=_blocks, storage=url, **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_a_start_that_failed_leaves_the_folder_free(tmp_path):
    with pytest.raises(SettingsError, match="cannot be opened"):
        bsszoo.compress("mobilenetv2", evaluator=_blocks, storage="nowhere://x", out=tmp_path / "run", **SMALL)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".DS_Store").write_text("a file manager was here")
    assert bsszoo.compress("mobilenetv2", evaluator=_blocks, seed=3, out=tmp_path / "run", **SMALL).trials


def test_files_that_cannot_be_read(tmp_path):
    bsszoo.compress("mobilenetv2", evaluator=_blocks, out=tmp_path, **SMALL)
    (tmp_path / "controls.json").write_text("")
    assert bsszoo.compress("mobilenetv2", evaluator=_blocks, out=tmp_path, **SMALL).networks[0].score == 16.0
    (tmp_path / "settings.json").write_text("[]")
    with pytest.raises(SettingsError, match="cannot be read"):
        bsszoo.compress("mobilenetv2", evaluator=_blocks, out=tmp_path, **SMALL)


@pytest.mark.extended
def test_a_full_disk_is_an_error_in_words_and_the_run_resumes_later(tmp_path):
    script = tmp_path / "search.py"
    script.write_text(
        "import sys, resource\nimport bsszoo.cli.main, bsszoo.report.page, matplotlib\n"
        "if sys.argv[1] == 'full':\n    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))\n"
        "sys.argv = ['bsszoo', 'compress', 'mobilenetv2', '--flops', '130M', '--trials', '32', '--no-measure', "
        "'--out', 'run']\nbsszoo.cli.main.main()\n"
    )
    full = forked.run([script, "full"], tmp_path)
    assert full.returncode == 1
    assert "cannot be written" in full.stderr
    assert "Traceback" not in full.stderr
    assert forked.run([script, "free"], tmp_path).returncode == 0
    assert json.loads((tmp_path / "run" / "result.json").read_text())["trials"]["complete"] == 32


def test_an_evaluator_that_exits_makes_failed_trials_only(tmp_path):
    def exits(code):
        if code.depths[1] % 2:
            sys.exit(0)
        return _blocks(code)

    result = bsszoo.compress("mobilenetv2", evaluator=exits, out=tmp_path, **{**SMALL, "trials": 12})
    failed = [t for t in result.trials if t.state == "failed"]
    assert failed
    assert {t.error for t in failed} == {"SystemExit: 0"}
    assert any(note.startswith("The original network has no score: SystemExit") for note in result.notes)


def test_a_control_that_failed_is_tried_again(tmp_path):
    seen = []

    def once(code):
        seen.append(code)
        if len(seen) == 1:
            raise MemoryError("just then")
        return _blocks(code)

    first = bsszoo.compress("mobilenetv2", evaluator=once, out=tmp_path, **SMALL)
    assert first.networks[0].score is None
    again = bsszoo.compress("mobilenetv2", evaluator=once, out=tmp_path, **SMALL)
    assert again.networks[0].score == _blocks(again.networks[0].code)
    assert not any("no score" in note for note in again.notes)


def test_the_structural_score_of_a_network_beyond_the_budget_is_left_out(tmp_path):
    original, uniform, *_ = bsszoo.compress("mobilenetv2", out=tmp_path, **SMALL).networks
    assert original.cost.macs > 130_000_000
    assert original.score is None
    assert uniform.score is not None


def test_a_custom_evaluator_is_recorded_by_its_info(tmp_path):
    class Judge:
        info = EvaluatorInfo("mine", "accuracy after 1 epoch [%]", "one epoch only")

        def __call__(self, code):
            return Score(code_cost(code).params / 1e6)

    result = bsszoo.compress("mobilenetv2", evaluator=Judge(), out=tmp_path, **SMALL)
    assert result.evaluator == Judge.info
    assert "one epoch only" in (tmp_path / "report.html").read_text()
    with pytest.raises(EvaluationError, match="is a class"):
        bsszoo.compress("mobilenetv2", evaluator=Judge, out=tmp_path / "x", **SMALL)


def test_passwords_are_not_shown():
    assert "secret" not in masked("postgresql://me:secret@host/db")
    assert "host" in masked("postgresql://me:secret@host/db")

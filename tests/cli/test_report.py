"""``bsszoo report``: a study opened again, its page written, every mistake named; the study is left as it was."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import forked
import optuna
import pytest
from report.test_page import Page

from bsszoo import compress
from bsszoo.compression.folder import run_folder
from bsszoo.compression.reopen import report_study
from bsszoo.errors import SettingsError

optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of ten trials in a folder."""
    folder = tmp_path_factory.mktemp("run") / "small"
    return compress("resnet18", flops="70%", trials=10, batch=4, out=folder, measure=False), folder


def held(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_a_finished_run_gives_the_page_that_it_wrote_itself(run):
    result, folder = run
    written = (folder / "report.html").read_text()
    before = held(folder / "study.db")
    done = report_study(str(folder), out=folder.parent / "again.html")
    assert (done.study, done.trials) == ("bsszoo", "10 complete")
    again = done.path.read_text()
    # But for the command that trains its codes: none that a user copies is read from a folder.
    train = re.search(
        r"<h2>What to do next</h2>\s*<h3>Train the candidates on your pictures</h3>.*?</pre>\n*", written, re.DOTALL
    )
    assert train is not None
    assert " --evaluator structural " in train.group()
    assert "".join(again.split()) == "".join(written.replace(train.group(), "").split())
    assert str(result.best.code) in again
    assert held(folder / "study.db") == before
    assert report_study(str(folder)).path == folder / "report.html"


@pytest.mark.parametrize("form", ["file", "url"])
def test_a_file_or_a_url_gives_the_same_study(run, form, tmp_path):
    result, folder = run
    storage = str(folder / "study.db") if form == "file" else f"sqlite:///{folder / 'study.db'}"
    page = Page(report_study(storage, study="bsszoo", out=tmp_path / "x.html").path.read_text())
    assert page.text.count(str(result.best.code)) >= 1
    for network in result.networks:
        assert any(len(row) == 7 and row[0] == network.label and row[5] != "" for row in page.rows)
    uniform = next(n for n in result.networks if n.role == "uniform")
    assert any(row[0] == "uniform" and row[5] == f"{uniform.score:.4f}" for row in page.rows if len(row) == 7)


@pytest.fixture
def under_way(run, tmp_path):
    """The folder of a run in the middle of its search, and nothing in it that a finished one writes."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("study.db", "settings.json"):
        (copy / name).write_bytes((run[1] / name).read_bytes())
    study = optuna.load_study(study_name="bsszoo", storage=f"sqlite:///{copy / 'study.db'}")
    study.ask()
    study.enqueue_trial({})
    return copy


def test_a_search_that_still_runs_has_a_page(under_way):
    with run_folder(under_way):
        done = report_study(str(under_way))
        assert done.trials == "10 complete, 1 running, 1 waiting"
        assert "1 running, 1 waiting when this page was written: the search was still running." in done.path.read_text()
        with pytest.raises(SettingsError, match="Another process is running"), run_folder(under_way):
            pass


def test_the_page_of_a_search_that_was_stopped_does_not_say_that_it_runs(under_way):
    done = report_study(str(under_way))
    assert done.trials == "10 complete, 1 cut off, 1 waiting"
    assert "1 cut off, 1 waiting when this page was written: the search was stopped" in done.path.read_text()
    assert {p.name for p in under_way.iterdir()} == {"study.db", "settings.json", "report.html"}
    # By its address alone nobody can tell whether another machine searches in it.
    done = report_study(f"sqlite:///{under_way / 'study.db'}", out=under_way / "other.html")
    assert done.trials == "10 complete, 1 running, 1 waiting"
    assert "the search was still running, or was stopped." in done.path.read_text()


def test_an_evaluator_of_the_users_is_not_loaded_again(tmp_path):
    def judge(code):
        """What the judge measures."""
        return float(sum(code.depths))

    folder = tmp_path / "own"
    compress("resnet18", flops="70%", evaluator=judge, trials=3, batch=3, out=folder, measure=False)
    assert "What the judge measures" in report_study(str(folder)).path.read_text()
    (folder / "result.json").unlink()
    (folder / "controls.json").unlink()
    page = report_study(str(folder)).path.read_text()
    assert "no score of it was stored: original, uniform" in page
    assert "Only 3 results" in page


def test_a_journal_is_read(tmp_path):
    path, folder = tmp_path / "search.log", tmp_path / "run"
    journal = f"journal://{path}"
    result = compress("resnet18", flops="70%", trials=3, batch=3, out=folder, storage=journal, study="j", measure=False)
    before = held(path)
    for storage in (str(path), journal):
        done = report_study(storage, out=tmp_path / "j.html")
        assert (done.study, done.trials) == ("j", "3 complete")
        assert str(result.best.code) in done.path.read_text()
    assert held(path) == before


def test_a_search_without_a_complete_trial_says_so(run, tmp_path):
    storage = f"sqlite:///{tmp_path / 's.db'}"
    study = optuna.create_study(storage=storage, study_name="early", direction="maximize")
    study.set_user_attr("settings", json.loads((run[1] / "settings.json").read_text()))
    with pytest.raises(SettingsError, match=r"'early' has no complete trial \(no trials\): there is nothing to report"):
        report_study(storage)
    study.ask()
    study.tell(study.ask(), state=optuna.trial.TrialState.FAIL)
    with pytest.raises(SettingsError, match=r"has no complete trial \(1 failed, 1 running\)"):
        report_study(storage)


def test_a_study_that_something_else_made_is_left_to_optunas_own_tools(tmp_path):
    storage = f"sqlite:///{tmp_path / 'plain.db'}"
    optuna.create_study(storage=storage, study_name="lr").optimize(lambda t: t.suggest_float("rate", 0, 1), n_trials=2)
    before = held(tmp_path / "plain.db")
    with pytest.raises(SettingsError) as raised:
        report_study(storage, out=tmp_path / "page.html")
    message = str(raised.value)
    assert "The study 'lr' in " in message
    assert "is not one of `bsszoo compress`" in message
    assert f"optuna-dashboard {storage}" in message
    assert "optuna.visualization" in message
    assert [p.name for p in tmp_path.iterdir()] == ["plain.db"]
    assert held(tmp_path / "plain.db") == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "There is no 'nowhere': give a run's folder"),
        (["sqlite:///nowhere.db"], "There is no file 'nowhere.db'"),
        (["folder"], "holds no run of bsszoo"),
        (["text.txt"], "is no storage of Optuna, neither SQLite nor a journal"),
        (["journal:///nowhere/at.all"], "There is no file"),
        (["other.db"], "is no storage of Optuna"),
        (["foo://bar"], "there is no database 'foo'"),
        (["two.db", "--study", "first run "], "Did you mean 'first run'?"),
        (["two.db"], "holds 2 studies; choose one with --study: b, first run"),
        (["two.db", "--study", "b"], "is not one of `bsszoo compress`"),
    ],
)
def test_a_mistake_is_named_and_nothing_is_made(tmp_path, monkeypatch, arguments, words):
    import sqlite3

    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.txt").write_text("no journal\n")
    with sqlite3.connect(tmp_path / "other.db") as database:
        database.execute("CREATE TABLE mine (x)")
    optuna.create_study(storage="sqlite:///two.db", study_name="first run")
    two = optuna.create_study(storage="sqlite:///two.db", study_name="b", directions=["minimize", "maximize"])
    two.optimize(lambda t: (t.suggest_int("x", 0, 3), 1.0), n_trials=2)
    before = {p: held(p) for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(SettingsError) as raised:
        report_study(arguments[0], study=arguments[2] if len(arguments) > 1 else None)
    assert words in str(raised.value)
    assert {p: held(p) for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_run_whose_study_is_elsewhere_says_where(run, tmp_path):
    settings = json.loads((run[1] / "settings.json").read_text())
    (tmp_path / "settings.json").write_text(json.dumps({**settings, "storage": "postgresql://me:***@host/db"}))
    with pytest.raises(SettingsError, match=r"is in postgresql://me:\*\*\*@host/db: give that URL, with its password"):
        report_study(str(tmp_path))


def test_a_file_elsewhere_is_asked_for_without_a_password(run, tmp_path):
    settings = json.loads((run[1] / "settings.json").read_text())
    (tmp_path / "settings.json").write_text(json.dumps({**settings, "storage": "sqlite:///shared.db"}))
    with pytest.raises(SettingsError, match=r"is in sqlite:///shared\.db: give that URL and --out"):
        report_study(str(tmp_path))


def test_the_command_prints_what_it_wrote_and_exits_2_on_a_mistake(run, tmp_path):
    (tmp_path / "copy.db").write_bytes((run[1] / "study.db").read_bytes())

    def bsszoo(*arguments):
        return forked.run(["-m", "bsszoo", "report", *arguments], cwd=tmp_path)

    done = bsszoo("copy.db", "--study", "bsszoo")
    assert done.returncode == 0, done.stderr
    assert "Study: bsszoo, 10 complete" in done.stdout
    assert "Report: report_bsszoo.html" in done.stdout
    assert (tmp_path / "report_bsszoo.html").exists()
    wrong = bsszoo("copy.db", "--study", "x")
    assert (wrong.returncode, "Traceback" in wrong.stderr) == (2, False)
    assert "There is no study 'x'" in wrong.stderr
    help_text = bsszoo("--help").stdout
    assert "--study" in help_text
    assert "optuna-dashboard" in help_text

"""One search by several processes and several folders, through ``compress`` and the command line."""

from __future__ import annotations

import csv
import json
import os
import socket
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

import bsszoo
from bsszoo.compression import storage
from bsszoo.compression.folder import run_folder
from bsszoo.errors import RunError, SettingsError

SMALL = {"flops": "130M", "trials": 4, "batch": 4, "measure": False}
_JUDGE = """
import os, sys
def judge(code):
    'Blocks.'
    with open('seen.txt', 'a') as out:
        out.write(str(code) + '\\n')
    return sum(code.depths)
def dies(code):
    'Kills a worker, but not the process that judges the controls.'
    if 'bsszoo.study.worker' in ' '.join(sys.orig_argv):
        os._exit(7)
    return 1.0
"""


def _blocks(code):
    return float(sum(code.depths))


def _command(folder, *options, expect=0):
    command = [
        sys.executable,
        "-c",
        "from bsszoo.cli.main import main; main()",
        "compress",
        "resnet18",
        "--flops",
        "60%",
        "--no-measure",
        *options,
    ]
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        timeout=300,
    )
    assert done.returncode == expect, done.stderr
    return done


def test_the_command_with_workers_ends_as_one_worker_does_with_distinct_codes(tmp_path):
    (tmp_path / "mine.py").write_text(_JUDGE)
    _command(tmp_path, "--evaluator", "mine:judge", "--workers", "2", "--trials", "10", "--out", "run")
    rows = list(csv.DictReader((tmp_path / "run" / "trials.csv").open()))
    seen = (tmp_path / "seen.txt").read_text().split()
    assert len(rows) == len({r["code"] for r in rows}) == 10
    assert len(seen) == len(set(seen)) == 10 + 2  # and the two controls
    assert json.loads((tmp_path / "run" / "result.json").read_text())["trials"] == {
        "complete": 10,
        "pruned": 0,
        "failed": 0,
    }


@pytest.mark.extended
def test_two_commands_share_one_search_through_a_grpc_proxy(tmp_path):
    pytest.importorskip("grpc")
    (tmp_path / "mine.py").write_text(_JUDGE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = (
        "from optuna.storages import run_grpc_proxy_server\nfrom bsszoo.study import open_storage\n"
        f"run_grpc_proxy_server(open_storage('sqlite:///{tmp_path}/search.db'), host='127.0.0.1', port={port})"
    )
    server = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        with ThreadPoolExecutor(2) as both:
            shared = (
                "--evaluator",
                "mine:judge",
                "--trials",
                "12",
                "--batch",
                "6",
                "--storage",
                f"grpc://127.0.0.1:{port}",
                "--study",
                "s",
            )
            runs = [both.submit(_command, tmp_path, *shared, "--workers", n, "--out", f"run{n}") for n in ("1", "2")]
            for run in runs:
                run.result()
    finally:
        server.terminate()
        server.wait()
    tables = [(tmp_path / f"run{n}" / "trials.csv").read_text() for n in (1, 2)]
    assert tables[0] == tables[1]
    codes = [r["code"] for r in csv.DictReader(tables[0].splitlines())]
    seen = Counter((tmp_path / "seen.txt").read_text().split())
    assert len(codes) == len(set(codes)) == 12
    assert all(seen[code] == 1 for code in codes)


@pytest.mark.extended
def test_an_evaluator_that_kills_its_process_ends_the_run_with_words(tmp_path):
    (tmp_path / "mine.py").write_text(_JUDGE)
    done = _command(tmp_path, "--evaluator", "mine:dies", "--workers", "2", "--trials", "10", expect=1)
    assert "worker processes died one after the other" in done.stderr
    assert "exit code 7" in done.stderr
    assert "Traceback" not in done.stderr


def test_workers_need_an_evaluator_that_another_process_can_import(tmp_path):
    with pytest.raises(SettingsError, match="--workers 2 sends the evaluator"):
        bsszoo.compress("mobilenetv2", evaluator=lambda code: _blocks(code), workers=2, out=tmp_path, **SMALL)


def test_two_folders_share_one_study_and_each_holds_the_result(tmp_path):
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    calls = []

    def judge(code):
        calls.append(code)
        return _blocks(code)

    first = bsszoo.compress("mobilenetv2", evaluator=judge, storage=url, study="s", out=tmp_path / "a", **SMALL)
    assert len(calls) == 4 + 2
    second = bsszoo.compress(
        "mobilenetv2", evaluator=judge, storage=url, study="s", out=tmp_path / "b", **{**SMALL, "trials": 6}
    )
    assert len(calls) == 8  # two more trials, and no control once more
    assert second.trials[:4] == first.trials
    assert second.networks[0].score == first.networks[0].score
    assert len(list(csv.DictReader((tmp_path / "b" / "trials.csv").open()))) == 6


def test_what_differs_from_the_shared_study_is_named(tmp_path):
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    bsszoo.compress("mobilenetv2", evaluator=_blocks, storage=url, study="s", out=tmp_path / "a", **SMALL)
    with pytest.raises(SettingsError, match="seed was 0 and now is 1"):
        bsszoo.compress("mobilenetv2", evaluator=_blocks, storage=url, study="s", out=tmp_path / "b", seed=1, **SMALL)
    with pytest.raises(SettingsError, match="search was 'default' and now is 'paper'"):
        bsszoo.compress(
            "mobilenetv2", evaluator=_blocks, storage=url, study="s", out=tmp_path / "c", search="paper", **SMALL
        )


def test_a_study_of_something_else_is_left_alone(tmp_path, monkeypatch):
    import optuna

    monkeypatch.setattr(storage, "_NEW_STUDY_SECONDS", 0.1)
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    optuna.create_study(storage=url, study_name="other").optimize(lambda trial: trial.suggest_float("x", 0, 1), 1)
    with pytest.raises(SettingsError, match="not of bsszoo"):
        bsszoo.compress("mobilenetv2", evaluator=_blocks, storage=url, study="other", out=tmp_path / "a", **SMALL)


def test_folders_of_one_path_on_two_machines_do_not_both_own_a_study(tmp_path):
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    bsszoo.compress("mobilenetv2", evaluator=_blocks, storage=url, out=tmp_path / "run", **SMALL)
    assert bsszoo.compress("mobilenetv2", evaluator=_blocks, storage=url, out=tmp_path / "run", **SMALL).trials
    for file in (tmp_path / "run").iterdir():  # as on another machine
        file.unlink()
    with pytest.raises(SettingsError, match="on another machine"):
        bsszoo.compress("mobilenetv2", evaluator=_blocks, storage=url, out=tmp_path / "run", **SMALL)


def test_a_shared_run_without_a_folder_takes_the_first_free_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    bsszoo.compress("mobilenetv2", evaluator=_blocks, storage=url, study="s", **SMALL)
    [folder] = (tmp_path / "bsszoo-runs").iterdir()
    with run_folder(folder):
        bsszoo.compress("mobilenetv2", evaluator=_blocks, storage=url, study="s", **SMALL)
    assert sorted(p.name for p in folder.parent.iterdir()) == [folder.name, f"{folder.name}_2"]


def test_failed_trials_are_evaluated_again_when_asked_for(tmp_path):
    fails = True

    def judge(code):
        if fails:
            raise RuntimeError("no GPU is free")
        return _blocks(code)

    with pytest.raises(RunError, match="--retry-failed"):
        bsszoo.compress("mobilenetv2", evaluator=judge, out=tmp_path, **SMALL)
    fails = False
    result = bsszoo.compress("mobilenetv2", evaluator=judge, out=tmp_path, retry_failed=True, **SMALL)
    assert [t.state for t in result.trials] == ["complete"] * 4


def test_the_traceback_of_a_failed_trial_is_in_the_table(tmp_path):
    def judge(code):
        return 1 / (code.depths[0] - 1) if code.depths[0] % 2 else _blocks(code)

    bsszoo.compress("mobilenetv2", evaluator=judge, out=tmp_path, **{**SMALL, "trials": 12})
    rows = list(csv.DictReader((tmp_path / "trials.csv").open()))
    traces = [r["trace"] for r in rows if r["state"] == "failed"]
    assert traces
    assert all("ZeroDivisionError" in t and "in judge" in t for t in traces)
    assert not any(r["trace"] for r in rows if r["state"] == "complete")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"study": "s"}, "--study is 's' without --storage"),
        ({"workers": 0}, "--workers is 0"),
        ({"grace": 0.0}, "--grace"),
        ({"search": "random"}, "--search is 'random'"),
        ({"study": " ", "storage": "sqlite:///x.db"}, "--study is ' '"),
    ],
)
def test_invalid_settings_are_named(tmp_path, settings, words):
    with pytest.raises(SettingsError, match=words):
        bsszoo.compress("mobilenetv2", evaluator=_blocks, out=tmp_path, **SMALL, **settings)

"""``bsszoo push``, ``pull`` and ``hub show`` as a person runs them, against a Hub on a local socket."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hub.child import hub_environment
from local_hub import LocalHub
from safetensors.torch import save_file

import bsszoo
from bsszoo.cli.main import main
from bsszoo.models.build import build

CODE = "resnet18_c64-8-16-24_l1-1-1-1"


def run(endpoint: str, home: Path, *words: str, token: str | None = "hf_me") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bsszoo", *words],
        capture_output=True,
        text=True,
        cwd=home,
        env={**hub_environment(endpoint, home / "cache", token), "OMP_NUM_THREADS": "1"},
        timeout=120,
    )


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    save_file(build(bsszoo.Code.parse(CODE), num_classes=5).state_dict(), tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


@pytest.mark.slow
def test_push_show_and_pull(weights: Path, tmp_path: Path) -> None:
    hub = LocalHub()
    with hub.serve() as address:
        pushed = run(address, tmp_path, "push", str(weights), "me/net", "--code", CODE, "--license", "mit", "--private")
        assert pushed.returncode == 0, pushed.stderr
        assert f"Pushed: {address}/me/net (commit {hub.repositories['me/net'].refs['main']})" in pushed.stdout
        assert "hf_me" not in pushed.stdout + pushed.stderr
        again = run(address, tmp_path, "push", str(weights), "me/net", "--code", CODE, "--license", "mit")
        assert "Nothing had changed" in again.stdout
        shown = run(address, tmp_path, "hub", "show", "me/net")
        assert shown.returncode == 0, shown.stderr
        assert f"code          {CODE}" in shown.stdout
        assert "Accuracy: not measured" in shown.stdout
        assert "licence mit" in shown.stdout
        facts = json.loads(run(address, tmp_path, "hub", "show", "me/net", "--json").stdout)
        cost = bsszoo.cost(CODE, num_classes=5)
        assert (facts["macs"], facts["params"], facts["num_classes"]) == (cost.macs, cost.params, 5)
        pulled = run(address, tmp_path, "pull", "me/net")
        assert pulled.returncode == 0, pulled.stderr
        assert bsszoo.create(f"local-dir:{tmp_path / 'net'}", pretrained=True).num_classes == 5
        refused = run(address, tmp_path, "hub", "show", "me/net", token=None)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert "or it is private" in refused.stderr


def test_mistakes_are_one_text_and_exit_2(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for words, code, message in (
        (["push", str(weights), "me/net", "--dry-run", "out", "--code", "resnet19"], 2, "There is no model 'resnet19'"),
        (["push", "nowhere", "me/net"], 2, "There is no 'nowhere'"),
        (["pull", "a/b/c"], 2, "names no Hub repository"),
    ):
        monkeypatch.setattr(sys, "argv", ["bsszoo", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        assert (ended.value.code, shown.out) == (code, ""), shown.err
        assert message in shown.err
    # The Hub's address is read when its client is imported, so this needs a process of its own.
    away = run("http://127.0.0.1:9", tmp_path, "push", str(weights), "me/net", "--code", CODE)
    assert (away.returncode, away.stdout) == (1, ""), away.stderr
    assert "cannot be reached" in away.stderr
    assert "Traceback" not in away.stderr

"""What a compression and a training log to tracking services, read back through each service's own reader."""

from __future__ import annotations

import importlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from train.small import small_recipe
from typer.testing import CliRunner

import bsszoo
from bsszoo.cli.main import app
from bsszoo.errors import SettingsError
from bsszoo.tracking import SERVICES, MlflowCallback, TrackioCallback, WandbCallback, tracking
from bsszoo.train.loop import train

CODE = "resnet18_c16-32-64-64_l1-1-1-1_px32"
FEW: dict[str, Any] = {"flops": "60%", "trials": 3, "batch": 3, "measure": False}


def test_a_compression_goes_on_in_the_same_run_of_mlflow(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    for trials in (3, 5):
        with MlflowCallback("vision", tracking_uri=uri) as callback:
            result = bsszoo.compress(CODE, **{**FEW, "trials": trials}, out=tmp_path / "run", callbacks=[callback])
    client = mlflow.MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name("vision").experiment_id])
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert run.data.params["seed"] == "0"
    logged = {m.step: m.value for m in client.get_metric_history(run.info.run_id, "score")}
    assert logged == {t.number: t.score for t in result.trials}
    best = [m.value for m in client.get_metric_history(run.info.run_id, "best_score")]
    assert best[-1] == max(logged.values())
    assert run.data.metrics["recommended.macs"] == result.recommended.cost.macs
    assert run.data.tags["recommendation"] == result.recommendation


def test_a_training_logs_its_epochs_to_mlflow(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    recipe = small_recipe(tmp_path)
    with MlflowCallback(tracking_uri=uri) as callback:
        summary = train(recipe, tmp_path, tmp_path / "run", callback=callback)
    client = mlflow.MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name("bsszoo").experiment_id])
    history = client.get_metric_history(run.info.run_id, "val_loss")
    assert len(history) == recipe.schedule.epochs
    assert run.data.params["optim.lr"] == str(recipe.optim.lr)
    assert run.data.metrics["final.best_top1"] == summary["best_top1"]


def test_a_run_of_wandb_holds_trials_and_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with WandbCallback(mode="offline", dir=str(tmp_path)) as callback:
        result = bsszoo.compress(CODE, **FEW, out=tmp_path / "run", callbacks=[callback])
    wandb.teardown()  # its process writes the file, and may do so only when it ends
    (file,) = tmp_path.rglob("*.wandb")  # what `wandb sync` sends
    history, summary, identifiers = [], {}, set()
    for record in wandb_records(file):
        if record.HasField("run"):
            identifiers.add(record.run.run_id)
        items = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
        history += [items] if items else []
        summary |= {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.summary.update}
    assert {row["_step"]: row["score"] for row in history if "score" in row} == {
        t.number: t.score for t in result.trials
    }
    assert summary["recommended.macs"] == result.recommended.cost.macs
    assert {json.loads((tmp_path / "run" / "tracking.json").read_text())["wandb"]} == identifiers


def wandb_records(file: Path) -> Iterator[Any]:
    """The records of a run's file: LevelDB's log format, in blocks of 32 KiB, after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, whole = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if (left := 2**15 - place % 2**15) < 7:  # no record begins in the last bytes of a block
            place += left
            continue
        length, kind = struct.unpack("<HB", data[place + 4 : place + 7])
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            record = Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def test_a_run_of_trackio_holds_the_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    with TrackioCallback("vision", embed=False) as callback:
        result = bsszoo.compress(CODE, **FEW, out=tmp_path / "run", callbacks=[callback])
    storage = importlib.import_module("trackio.sqlite_storage").SQLiteStorage
    rows = storage.get_logs("vision", "run")
    assert {row["step"]: row["score"] for row in rows if "score" in row} == {t.number: t.score for t in result.trials}
    assert rows[-1]["recommended.macs"] == result.recommended.cost.macs


def test_an_unknown_service_and_one_that_is_not_installed_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="Did you mean 'mlflow'"):
        tracking("ml-flow")
    assert set(SERVICES) == {"wandb", "mlflow", "trackio"}
    real = importlib.import_module

    def absent(name: str, *more: Any) -> Any:
        if name == "wandb":
            raise ImportError(name)
        return real(name, *more)

    monkeypatch.setattr(importlib, "import_module", absent)
    done = CliRunner().invoke(app, ["compress", CODE, "--flops", "60%", "--track", "wandb"])
    assert 'pip install "bsszoo[wandb]"' in str(done.exception)

"""Budgets of latency and of parameters alone: what candidates keep, what is measured, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import bsszoo
from bsszoo.compression import Compression
from bsszoo.compression.events import Event
from bsszoo.compression.reopen import report_study
from bsszoo.compression.result import prediction_error, slower_than_uniform
from bsszoo.errors import BudgetError, SettingsError
from bsszoo.spaces.chain import block_shapes
from bsszoo.spaces.limits import LatencyTable

SMALL = "resnet18_c64-64-96-128_l2-2-2-2_px64"
FEW = {"trials": 6, "batch": 3}


def test_parameters_alone_are_a_budget(tmp_path: Path) -> None:
    own = bsszoo.cost("resnet18")
    result = bsszoo.compress("resnet18", params="50%", out=tmp_path / "run", measure=False, **FEW)
    for trial in result.trials:
        assert 0.45 * own.params - 1 <= trial.cost.params <= 0.5 * own.params
        assert trial.cost.macs <= own.macs
    uniform = next(row for row in result.networks if row.role == "uniform")
    assert uniform.cost.params <= 0.5 * own.params
    assert result.to_dict()["budget"]["min_params"] == int(0.45 * own.params)
    assert report_study(str(tmp_path / "run")).path.exists()


def test_latency_alone_is_a_budget_by_a_function(tmp_path: Path) -> None:
    def ms(code: bsszoo.Code) -> float:
        return sum(code.depths) + sum(code.widths) / 1000

    result = bsszoo.compress("resnet18", latency="75%", latency_model=ms, out=tmp_path / "run", measure=False, **FEW)
    own = ms(bsszoo.Code.parse("resnet18_c64-128-256-512_l2-2-2-2"))
    assert result.budget.latency_ms == 0.75 * own
    for trial in result.trials:
        assert 0.9 * 0.75 * own <= ms(trial.code) <= 0.75 * own


@pytest.mark.slow
def test_latency_alone_is_a_budget_by_a_table_that_the_run_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bsszoo.latency.table.SECONDS_EACH", 0.0)
    events: list[Event] = []
    with Compression(SMALL, latency="70%", out=tmp_path / "run", callbacks=[events.append], **FEW) as job:
        result = job.run()
    timings = [e for e in events if e.phase == "latency" and e.total]
    assert timings[-1].done == timings[-1].total
    table = LatencyTable.load(tmp_path / "run" / "latency_table.json")
    limit = result.budget.latency_ms
    rows = {row.role: row for row in result.networks}
    assert limit == pytest.approx(0.7 * table.of(rows["original"].code))
    for trial in result.trials:
        assert 0.9 * limit - 1e-5 <= table.of(trial.code) <= limit
    assert rows["uniform"].predicted_ms <= limit
    assert rows["uniform"].code.depths == rows["original"].code.depths
    assert any(note.startswith("Predicted latencies differ from the measured ones by") for note in result.notes)
    # The same command goes on without measuring again, in another process too: the table is kept.
    events.clear()
    again = Compression(SMALL, latency="70%", out=tmp_path / "run", callbacks=[events.append], **FEW).result()
    assert replace(again, seconds=result.seconds) == result
    assert not [e for e in events if e.phase == "latency" and e.total]
    assert report_study(str(tmp_path / "run")).path.exists()


@pytest.mark.usefixtures("short_timings")
def test_without_data_candidates_are_no_slower_than_the_uniform_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bsszoo.latency.table.SECONDS_EACH", 0.0)
    events: list[Event] = []

    def job(name: str, **more: object) -> Compression:
        return Compression(SMALL, flops="60%", out=tmp_path / name, callbacks=[events.append], **{**FEW, **more})

    result = job("run").search()
    assert [e for e in events if e.phase == "latency" and e.total]
    table = LatencyTable.load(tmp_path / "run" / "latency_table.json")
    uniform = next(row for row in result.networks if row.role == "uniform")
    assert result.budget.latency_ms == uniform.predicted_ms == pytest.approx(table.of(uniform.code))
    assert all(table.of(trial.code) <= result.budget.latency_ms for trial in result.trials)
    # The control is what it is without, and the recommended one.
    plain = job("plain", measure=False).search()
    assert uniform.code == next(row for row in plain.networks if row.role == "uniform").code
    assert result.recommended.code == uniform.code
    assert plain.budget.latency_ms is None
    # It goes on with its own table, whatever the cache holds and the machine is; and so without one.
    events.clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    monkeypatch.setattr("bsszoo.latency.engines.processor", lambda: "another")
    assert job("run", trials=8).search().trials[: len(result.trials)] == result.trials
    assert job("run", trials=8, measure=False).search().budget == result.budget
    assert job("plain").search().trials == plain.trials
    assert not [e for e in events if e.phase == "latency"]
    page = report_study(str(tmp_path / "run"), out=tmp_path / "again.html").path.read_text()
    assert "are not those of the run" not in page


@pytest.mark.usefixtures("short_timings")
def test_where_nothing_is_as_fast_the_limit_is_dropped_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bsszoo.latency.table.SECONDS_EACH", 0.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    settings = {"flops": "60%", **FEW}
    first = Compression(SMALL, out=tmp_path / "first", **settings).search()
    uniform = next(row for row in first.networks if row.role == "uniform")
    # As on a machine on which every other block is slow.
    (file,) = (tmp_path / "cache").rglob("latency/*.json")
    table, mark = LatencyTable.load(file), json.loads(file.read_text())["fingerprint"]
    fast = set(block_shapes(uniform.code))
    LatencyTable({shape: 1.0 if shape in fast else 99.0 for shape in table.shapes}).save(file, fingerprint=mark)
    result = Compression(SMALL, out=tmp_path / "run", **settings).search()
    assert len(result.trials) == FEW["trials"]
    assert result.budget.latency_ms is None
    assert any(note.startswith("Too few codes are as fast as the uniformly rescaled network") for note in result.notes)
    # It goes on as it began, though the cache is gone.
    file.unlink()
    assert Compression(SMALL, out=tmp_path / "run", **settings).result().trials == result.trials
    assert not file.exists()


def test_codes_that_are_measured_to_be_slower_than_the_uniform_network_are_named(tmp_path: Path) -> None:
    result = bsszoo.compress("resnet18", flops="60%", out=tmp_path / "run", measure=False, **FEW)
    times = {"original": 3.0, "uniform": 2.0, "found 1": 2.09, "found 2": 2.2}
    rows = [replace(row, latency_ms=times.get(row.label, 1.0)) for row in result.networks]
    assert slower_than_uniform(rows) == ["Measured to be slower than the uniformly rescaled network: found 2 (+10%)."]
    assert slower_than_uniform(result.networks) == []


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({}, BudgetError, "A compression needs a budget: --flops 50%"),
        ({"params": "100%"}, BudgetError, "keeps the budget as it is"),
        ({"latency": 3}, BudgetError, "has 1 ms, which keeps the budget as it is"),
        ({"latency": "fast"}, BudgetError, "--latency is 'fast'"),
        ({"latency": False}, BudgetError, "Write --no-measure"),
        ({"latency": 1, "threads": 0}, SettingsError, "--threads is 0"),
        ({"latency": "50%", "study": "s", "storage": "sqlite:///s.db"}, SettingsError, "need one table of latencies"),
    ],
)
def test_what_is_no_budget_is_refused(tmp_path: Path, options: dict, error: type, words: str) -> None:
    model = {"latency_model": lambda _: 1.0} if options.get("latency") == 3 else {}
    with pytest.raises(error, match=words):
        bsszoo.compress(SMALL, out=tmp_path / "run", **options, **model)
    assert not (tmp_path / "run").exists()


def test_predictions_are_held_against_what_was_measured(tmp_path: Path) -> None:
    networks = bsszoo.compress("resnet18", flops="60%", out=tmp_path / "run", measure=False, **FEW).networks
    rows = [replace(row, predicted_ms=2.0, latency_ms=2.0) for row in networks]
    assert prediction_error(rows, 2.0) == [
        f"Predicted latencies differ from the measured ones by 0% at the median, +0% to +0%, over {len(rows)} networks."
    ]
    rows[-1] = replace(rows[-1], latency_ms=2.5)
    first, second = prediction_error(rows, 2.0)
    assert "-20% to +0%" in first
    assert second == (
        f"Measured to be slower than the limit of 2 ms: {rows[-1].label}. --latency 1.6 leaves room for it."
    )
    assert prediction_error(networks, 2.0) == []

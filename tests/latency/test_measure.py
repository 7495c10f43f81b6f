"""Measured speed: real processes, real engines; the figures agree with the times."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from typer.testing import CliRunner

import bsszoo
from bsszoo.cli.main import app
from bsszoo.codes import Code, code_cost
from bsszoo.errors import RunError, SettingsError
from bsszoo.latency.engines import _start_of_peak
from bsszoo.latency.measure import Speed, measure, next_median
from bsszoo.report.tables import speed_table

SMALL = Code.parse("mobilenetv2_c8-8-16-16-24-24_l1-1-1-1-1-1_t3-3-3-3-3-3_stem8_stage2-8x1_px64")


@pytest.mark.extended
def test_engines_take_turns_and_every_figure_is_over_the_processes() -> None:
    pytest.importorskip("onnxruntime")
    seen: list[tuple[int, int, str]] = []
    measured = measure(
        [("small", SMALL)],
        engines=("eager", "onnx"),
        threads=1,
        processes=2,
        seconds=0.1,
        on_process=lambda *step: seen.append(step),
    )
    assert seen == [(0, 4, "small, eager"), (1, 4, "small, onnx"), (2, 4, "small, eager"), (3, 4, "small, onnx")]
    for row in measured.rows:
        assert row.error is None
        assert row.processes == 2
        assert row.forwards >= 10
        assert 0 < row.p10 <= row.median <= row.p99  # type: ignore[operator]
        assert (row.low, row.high) == (None, None), "two processes are too few for an interval"
        assert row.lowest <= row.median <= row.highest  # type: ignore[operator]
        assert row.image_size == 64
        assert row.images_per_s == pytest.approx(1e3 / row.median)  # type: ignore[operator]
        assert row.memory > 0  # type: ignore[operator]
        assert row.cost == code_cost(SMALL)
    assert (measured.threads, measured.batch) == (1, 1)
    assert measured.where.startswith("CPU ")
    assert json.loads(json.dumps(measured.to_dict()))["networks"][0]["cost"]["macs"] == code_cost(SMALL).macs


@pytest.mark.slow
def test_an_engine_that_fails_is_a_row_that_says_why_and_the_others_go_on() -> None:
    words = ["measure", str(SMALL), "--engines", "eager,onnx", "--fp16", "--processes", "1", "--seconds", "0", "--json"]
    eager, onnx = json.loads(CliRunner().invoke(app, words).stdout)["networks"]
    assert (eager["engine"], eager["low"], eager["high"], eager["image_size"]) == ("eager", None, None, 64)
    assert eager["median"] > 0
    assert (onnx["median"], onnx["error"]) == (None, "RuntimeError: onnxruntime is measured on the CPU in float32 only")
    with pytest.raises(RunError, match=r"Nothing could be measured\. eager: .*"):
        measure([("small", SMALL)], engines=("eager",), device="cuda:99", processes=1, seconds=0.0)


def test_the_interval_holds_one_more_median_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    draws = np.exp(rng.normal(1.0, 0.05, (2000, 6)))
    inside = [low < row[5] < high for row in draws for low, high in [next_median(row[:5].tolist())]]  # type: ignore[operator]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.015)
    # Against scipy's interval of a mean, widened from the mean to one more draw.
    logs = np.log(draws[0, :5])
    low, high = stats.t.interval(0.95, 4, logs.mean(), logs.std(ddof=1) * math.sqrt(1.2))
    assert next_median(draws[0, :5].tolist()) == pytest.approx((math.exp(low), math.exp(high)))
    for few in (1, 2, 3):
        assert next_median(draws[0, :few].tolist()) == (None, None)
    assert None not in next_median(draws[0, :4].tolist())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"engines": ("fast",)}, "--engines is 'fast'"),
        ({"engines": ()}, "names none"),
        ({"batch": 0}, "--batch"),
        ({"processes": 0}, "--processes"),
        ({"threads": -1}, "--threads"),
        ({"seconds": -1.0}, "--seconds"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        measure([("small", SMALL)], **settings)  # type: ignore[arg-type]


def test_the_command_prints_a_table() -> None:
    words = ["measure", str(SMALL), "--engines", "eager", "--threads", "1", "--processes", "2", "--seconds", "0.05"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "eager" in done.stdout
    assert "1 thread, batch 1, float32, 2 processes" in done.stdout
    assert "Range" in done.stdout
    assert "95%" not in done.stdout
    assert "an interval takes 4 processes" in done.stdout


@pytest.mark.extended
def test_networks_at_different_inputs_are_not_compared_without_a_word() -> None:
    words = [
        "measure",
        str(SMALL),
        f"{SMALL}".replace("px64", "px96"),
        "--engines",
        "eager",
        "--threads",
        "1",
        "--processes",
        "1",
        "--seconds",
        "0",
    ]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "inputs of different sizes (64, 96 px)" in done.stdout
    assert "--image-size PX measures all of them at one" in done.stdout
    assert " px " in done.stdout


def test_a_table_says_whether_it_has_intervals_or_ranges() -> None:
    cost = bsszoo.cost(SMALL)
    ranged = Speed(
        "small",
        str(SMALL),
        "eager",
        cost,
        64,
        median=1.0,
        lowest=0.9,
        highest=1.2,
        p10=0.9,
        p90=1.1,
        p99=1.2,
        warm_ms=5.0,
        memory=10**6,
        images_per_s=1000.0,
        forwards=40,
        processes=3,
    )
    assert [str(c.header) for c in speed_table([ranged]).columns].count("Range") == 1
    certain = replace(ranged, low=0.8, high=1.3, processes=4)
    assert [str(c.header) for c in speed_table([certain]).columns].count("95%") == 1


@pytest.mark.slow
def test_two_runs_agree_within_the_printed_interval_and_torch_compile_is_measured() -> None:
    one, two = (
        measure([("small", SMALL)], engines=("eager", "compile"), threads=1, processes=5, seconds=0.5) for _ in range(2)
    )
    for a, b in zip(one.rows, two.rows, strict=True):
        assert a.error is b.error is None
        assert max(a.low, b.low) < min(a.high, b.high)  # type: ignore[type-var]


def test_cuda_is_started_before_its_memory_statistics_are_reset() -> None:
    # What PyTorch has of a device with a number: no statistics before the start.
    calls: list[str] = []

    class Cuda:
        def init(self) -> None:
            calls.append("init")

        def reset_peak_memory_stats(self, _: object) -> None:
            assert calls == ["init"]

        def memory_allocated(self, _: object) -> int:
            return 5

    assert _start_of_peak(SimpleNamespace(cuda=Cuda()), torch.device("cuda:0")) == 5

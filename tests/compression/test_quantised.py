"""A run's trained networks in int8: what the table says is what the files do, each made and measured once."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import drawn_shapes
import numpy as np
import pytest
import torch
from exported_files import RUN, SUFFIX, facts_of
from PIL import Image
from timm.data import create_transform

import bsszoo
from bsszoo.codes import Code
from bsszoo.compression import Event
from bsszoo.compression.reopen import report_study
from bsszoo.compression.result import CompressResult
from bsszoo.compression.session import Compression
from bsszoo.errors import SettingsError
from bsszoo.evaluators.inherited import InheritedEvaluator
from bsszoo.models.build import input_config
from bsszoo.report.page import render_page
from bsszoo.study.result import Quantised

BASE = Code.parse(drawn_shapes.BASE)
SETTINGS: dict[str, Any] = {
    "flops": "60%",
    "trials": 2,
    "batch": 2,
    "confirm": 1,
    "epochs": 2,
    "measure": False,
    "divisor": 1,
}


@pytest.fixture(scope="module")
def run(drawn: Path, drawn_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CompressResult]:
    """A finished run without quantised networks, to which they are then added, and its result."""
    pytest.importorskip("onnxruntime")
    out = tmp_path_factory.mktemp("search") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InheritedEvaluator, "leaders", 1)
        bsszoo.compress(drawn_base, data=drawn, out=out, **SETTINGS)
        before = sorted((out / "trainings").rglob("*"))
        result = bsszoo.compress(drawn_base, data=drawn, out=out, quantize="int8", **SETTINGS)
        assert sorted((out / "trainings").rglob("*")) == before, "nothing was trained again"
    return out, result


def settings_of(patch: pytest.MonkeyPatch) -> dict[str, Any]:
    patch.setattr(InheritedEvaluator, "leaders", 1)
    return {**SETTINGS, "quantize": "int8"}


def _right(out: Path, int8: Path, drawn: Path) -> tuple[Any, Any]:
    """Which test pictures the file has right, and the network in PyTorch; prepared by timm as for its own models."""
    network = bsszoo.create(f"local-dir:{out / 'recommended'}", pretrained=True).eval()
    transform = create_transform(**input_config(network), is_training=False)
    files = [(label, f) for label, kind in enumerate(drawn_shapes.CLASSES) for f in (drawn / "test" / kind).iterdir()]
    images = torch.stack([transform(Image.open(file)) for _, file in files])
    labels = np.array([label for label, _ in files])
    with torch.no_grad():
        expected = network(images).argmax(1).numpy()
    (run,) = [RUN[name][0] for name, suffix in SUFFIX.items() if suffix == int8.suffix]
    return run(int8, images).argmax(1).numpy() == labels, expected == labels


def test_figures_are_those_of_a_plain_loop_over_the_files(drawn: Path, run: tuple[Path, CompressResult]) -> None:
    out, result = run
    written = json.loads((out / "result.json").read_text())
    quantised = result.quantised
    assert quantised is not None
    assert Quantised.from_dict(written["quantised"]) == quantised
    labels = [row.label for row in quantised.rows]
    assert labels == [label for label in ("original", "uniform") if label != result.recommended.label] + [
        result.recommended.label
    ]
    last = quantised.rows[-1]
    int8 = out / written["recommended"]["onnx_int8"]
    assert (last.code, last.bytes) == (result.recommended.code, int8.stat().st_size)
    assert all(0 < row.bytes < row.float_bytes for row in quantised.rows)
    assert all(row.ms is None for row in quantised.rows)
    assert not (out / "quantised").exists()
    right, float_right = _right(out, int8, drawn)
    assert last.images == len(right) == 120
    assert last.top1 == pytest.approx(100 * right.mean())
    assert last.float_top1 == pytest.approx(100 * float_right.mean())
    assert (last.lost, last.won) == ((float_right & ~right).sum(), (right & ~float_right).sum())
    # The float32 accuracies are those of the trainings that are taken.
    for row in quantised.rows:
        confirmed = result.confirmed(row.code)
        assert confirmed is not None
        assert row.float_top1 == pytest.approx(confirmed.tests[confirmed.numbers.index(row.number)])
    facts = facts_of(int8)
    assert (facts["network"], facts["calibration_images"]) == (str(last.code), "256")


def test_it_is_shown_with_the_trained_networks_and_on_the_page(run: tuple[Path, CompressResult]) -> None:
    out, result = run
    assert result.quantised is not None
    text = " ".join(str(result).split())
    assert "Network fp32 [%] int8 [%] fp32 [MB] int8 [MB]" in text
    assert "Quantised: each network's best training, top-1 accuracy [%] on the split 'test' of folder, which" in text
    page = (out / "report.html").read_text()
    assert "<h2>Quantised</h2>" in page
    for shown in (text, page, report_study(str(out), out=out.parent / "again.html").path.read_text()):
        for sentence in result.quantised.verdicts:
            assert sentence in shown
    # One that loses more than a point is named.
    row = replace(result.quantised.rows[-1], label="found 2", float_top1=90.0, top1=85.0, lost=7, won=1)
    sentence = (
        "found 2 quantises badly: 85.00% in int8, 5.00 points below its 90.00% in float32; of 120 images 7 are lost "
        "and 1 gained."
    )
    bad = replace(result, quantised=replace(result.quantised, rows=(row,), timed="by a clock"))
    assert bad.quantised is not None
    assert bad.quantised.verdicts == (sentence,)
    assert sentence in render_page(bad)
    assert sentence in " ".join(str(bad).split())
    assert "Latency: by a clock." in " ".join(str(bad).split())
    whole = replace(row, label="original")
    assert replace(result.quantised, rows=(whole,)).verdicts[0].startswith("The original network quantises badly: ")


@pytest.mark.extended
def test_figures_that_are_there_are_not_measured_again_and_latencies_are_added(
    drawn: Path, drawn_base: Path, run: tuple[Path, CompressResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, result = run
    settings = settings_of(monkeypatch)
    files = [out / name for name in ("result.json", "report.html", "recommended/model.int8.onnx")]
    before = [file.stat().st_mtime_ns for file in files]
    with monkeypatch.context() as patch:
        patch.setattr("bsszoo.quantise.quantise", None)
        patch.setattr("bsszoo.quantise.compare", None)
        again = bsszoo.compress(drawn_base, data=drawn, out=out, **settings)
    assert again.quantised == result.quantised
    assert [file.stat().st_mtime_ns for file in files] == before
    # Without the option the figures stay.
    assert (
        bsszoo.compress(drawn_base, data=drawn, out=out, **{**settings, "quantize": None}).quantised == result.quantised
    )
    # The file that is delivered is made again where it was removed, without measuring again.
    int8 = out / "recommended" / "model.int8.onnx"
    bytes_before = int8.read_bytes()
    int8.unlink()
    with monkeypatch.context() as patch:
        patch.setattr("bsszoo.quantise.compare", None)
        assert bsszoo.compress(drawn_base, data=drawn, out=out, **settings).quantised == result.quantised
    assert int8.read_bytes() == bytes_before
    # Accuracies stand, and latencies are added.
    with monkeypatch.context() as patch:
        patch.setattr("bsszoo.quantise.compare", None)
        timed = bsszoo.compress(drawn_base, data=drawn, out=out, **{**settings, "measure": True}).quantised
    assert timed is not None
    assert timed.timed is not None
    assert "onnxruntime" in timed.timed
    assert result.quantised is not None
    assert all(row.ms and row.float_ms for row in timed.rows)
    assert tuple(replace(row, ms=None, float_ms=None) for row in timed.rows) == result.quantised.rows
    # Another version of the runtime, or another method: all is measured again.
    written = json.loads((out / "result.json").read_text())
    written["quantised"]["method"] = "an older one"
    (out / "result.json").write_text(json.dumps(written))
    assert bsszoo.compress(drawn_base, data=drawn, out=out, **settings).quantised == result.quantised


@pytest.mark.extended
def test_a_run_that_is_killed_while_it_quantises_goes_on(
    drawn: Path, drawn_base: Path, run: tuple[Path, CompressResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import bsszoo.quantise as module

    out, result = tmp_path / "run", run[1]
    shutil.copytree(run[0], out)
    written = json.loads((out / "result.json").read_text())
    del written["quantised"]
    (out / "result.json").write_text(json.dumps(written))
    (out / "recommended" / "model.int8.onnx").unlink()
    calls = {"quantise": 0, "compare": 0}
    real = {name: getattr(module, name) for name in calls}

    def counted(name: str) -> Any:
        def call(*arguments: Any) -> Any:
            calls[name] += 1
            if calls == {"quantise": 2, "compare": 2} and name == "compare":
                raise KeyboardInterrupt
            return real[name](*arguments)

        return call

    for name in calls:
        monkeypatch.setattr(module, name, counted(name))
    settings = settings_of(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        bsszoo.compress(drawn_base, data=drawn, out=out, **settings)
    kept = json.loads((out / "result.json").read_text())["quantised"]["networks"]
    assert [row["label"] for row in kept] == ["original"]
    events: list[Event] = []
    again = bsszoo.compress(drawn_base, data=drawn, out=out, callbacks=[events.append], **settings)
    assert again.quantised == result.quantised
    assert again.quantised is not None
    number = len(again.quantised.rows)
    # The second network's file was there, and the first one's figures.
    assert calls == {"quantise": number, "compare": number + 1}
    said = [(event.done, event.total) for event in events if event.phase == "quantise"]
    assert said[0] == (1, number)
    assert said[-1] == (number, number)
    assert not (out / "quantised").exists()
    assert (out / "recommended" / "model.int8.onnx").read_bytes() == (
        run[0] / "recommended" / "model.int8.onnx"
    ).read_bytes()


@pytest.mark.extended
@pytest.mark.parametrize(
    ("runtime", "tool", "files"),
    [
        ("openvino", "nncf", ["model.int8.xml", "model.int8.bin"]),
        ("litert", "ai_edge_quantizer", ["model.int8.tflite"]),
    ],
)
def test_networks_are_quantised_by_the_tool_of_the_runtime(
    runtime: str,
    tool: str,
    files: list[str],
    drawn: Path,
    drawn_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip(tool)
    settings = {**settings_of(monkeypatch), "runtime": runtime, "measure": True, "out": tmp_path / "run"}
    result = bsszoo.compress(drawn_base, data=drawn, **settings)
    recommended = tmp_path / "run" / "recommended"
    assert sorted(recommended.glob("model.int8.*")) == sorted(recommended / name for name in files)
    written = json.loads((tmp_path / "run" / "result.json").read_text())
    assert written["recommended"][f"{runtime}_int8"] == f"recommended/{files[0]}"
    assert result.quantised is not None
    assert result.quantised.method.startswith(f"int8 by {tool.replace('_', '-').replace('nncf', 'NNCF')} ")
    assert result.quantised.method in " ".join(str(result).split())
    assert runtime in str(result.quantised.timed)
    assert all(row.ms and row.float_ms for row in result.quantised.rows)
    last = result.quantised.rows[-1]
    assert last.bytes == sum((recommended / name).stat().st_size for name in files)
    right, float_right = _right(tmp_path / "run", recommended / files[0], drawn)
    assert last.top1 == pytest.approx(100 * right.mean())
    assert last.float_top1 == pytest.approx(100 * float_right.mean())
    # A kill between OpenVINO's two files leaves the second: both are made again, and nothing is measured again.
    (recommended / files[0]).unlink()
    (tmp_path / "run" / "quantised").mkdir()
    (tmp_path / "run" / "quantised" / f"{last.training}.bin").touch()
    with monkeypatch.context() as patch:
        patch.setattr("bsszoo.quantise.compare", None)
        assert bsszoo.compress(drawn_base, data=drawn, **settings).quantised == result.quantised
    assert (_right(tmp_path / "run", recommended / files[0], drawn)[0] == right).all()
    assert not (tmp_path / "run" / "quantised").exists()
    monkeypatch.setitem(sys.modules, tool, None)
    with pytest.raises(SettingsError, match=rf"--quantize needs the package {tool.replace('_', '-')}"):
        bsszoo.compress(drawn_base, data=drawn, **{**settings, "out": tmp_path / "other"})
    assert not (tmp_path / "other").exists()


def test_rows_of_other_trainings_are_left_out(
    drawn: Path, drawn_base: Path, run: tuple[Path, CompressResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, result = run
    assert result.quantised is not None
    kept = (out / "result.json").read_text()
    written = json.loads(kept)
    for row in written["quantised"]["networks"]:
        row["number"] += row["label"] != "original"
    (out / "result.json").write_text(json.dumps(written))
    job = Compression(drawn_base, data=drawn, out=out, **settings_of(monkeypatch))
    found = job.result().quantised
    assert found is not None
    assert [row.label for row in found.rows] == ["original"]
    (out / "result.json").write_text(kept)


def test_what_cannot_be_quantised_is_said_before_the_search(
    drawn: Path, drawn_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(network: Any, match: str, **settings: Any) -> None:
        given = {"flops": "60%", "quantize": "int8", "trials": 1, "out": tmp_path / "run", **settings}
        with pytest.raises(SettingsError, match=match):
            bsszoo.compress(network, **given)

    refused("resnet18", "give them with --data")
    refused(drawn_base, "--quantize is 'int4'; it takes int8", data=drawn, quantize="int4")
    refused(drawn_base, "--confirm is 0", data=drawn, confirm=0)
    refused("maskrcnn_resnet50", "for classifiers", flops="90B", data=drawn)
    refused(drawn_base, "with --finish one code alone is trained", data=drawn, finish="paper", evaluator="structural")
    refused("resnet18", "give them with --data", evaluator=lambda _: 1.0)
    own = {"evaluate": lambda _: 1.0, "fine_tune": lambda _: None}
    refused(bsszoo.create(drawn_base, pretrained=True), "your functions take PyTorch's networks", **own)
    for module in ("onnx", "onnxscript"):
        monkeypatch.setitem(sys.modules, module, sys)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    refused(drawn_base, r"needs the package onnxruntime.* pip install 'bsszoo\[onnx\]'", data=drawn)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_networks_trained_from_scratch_at_another_size_are_quantised(drawn: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    settings = {**SETTINGS, "evaluator": "structural", "image_size": 24, "quantize": "int8", "epochs": 10}
    result = bsszoo.compress(replace(BASE, image_size=224), data=drawn, out=tmp_path / "run", **settings)
    assert result.quantised is not None
    for row in result.quantised.rows:
        confirmed = result.confirmed(row.code)
        assert confirmed is not None
        assert row.float_top1 == pytest.approx(confirmed.tests[0])
    assert {row.label for row in result.quantised.rows} == {"original", "uniform", result.recommended.label}
    session = onnxruntime.InferenceSession(str(tmp_path / "run" / "recommended" / "model.int8.onnx"))
    assert session.get_inputs()[0].shape[1:] == [3, 24, 24]

"""A quantised file is smaller, near the float32 file for any batch, and compared with it as a plain loop does."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import bsszoo
from bsszoo.cli.main import app
from bsszoo.errors import RunError, SettingsError
from bsszoo.export import export, export_int8
from bsszoo.quantise import compare, outputs_of, quantise, session_of

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

RESNET = "resnet50_c32-32-64-72_l1-2-1-1_b12-8-20-24_px64"
SERESNEXT = "seresnext_c32-64-96-128_l1-1-2-1_b16-32-48-64_g4-8-16-32_px64"
HARD_SWISH = "mobilenetv3_small_c8-16-24-32_l2-3-2-3_b16-48-48-96_e16-24-40-48_stage2-8x1_px64"
TINY = "resnet18_c8-16-24-32_l1-1-1-1_px32"
CONVNEXT = "convnextv2_tiny_c16-24-32-48_l1-1-2-1_t4-4-4-4_px64"
VIT = "vit_patch8_c64-48-64-96_l1-2-1-1_b32-32-48-16_g16-16-16-8_stem48_px64"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def network(code: str) -> torch.nn.Module:
    net = bsszoo.create(code, num_classes=7)
    for name, tensor in net.state_dict().items():
        if "running_mean" in name:
            tensor.normal_(0, 0.1)
        elif "running_var" in name:
            tensor.uniform_(0.5, 1.5)
    return net.eval()


def noise(number: int) -> Any:
    return torch.randn(number, 3, 64, 64).numpy()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return export(network(TINY), tmp_path_factory.mktemp("tiny") / "net.onnx").path


def small_noise(number: int) -> Any:
    return torch.randn(number, 3, 32, 32).numpy()


@pytest.mark.parametrize("code", [RESNET, SERESNEXT, HARD_SWISH, CONVNEXT, VIT])
def test_a_quantised_file_is_smaller_and_near_for_any_batch(code: str, tmp_path: Path) -> None:
    source = export(network(code), tmp_path / "net.onnx", label=code).path
    made = quantise(source, tmp_path / "net.int8.onnx", noise(40))
    assert (made.size, made.float_size) == (made.path.stat().st_size, source.stat().st_size)
    assert made.size < 0.8 * made.float_size
    assert made.calibrated == 40
    model = onnx.load(str(made.path))
    facts, before = ({p.key: p.value for p in m.metadata_props} for m in (model, onnx.load(str(source))))
    assert facts.items() > before.items()
    assert facts["quantised"].startswith("int8 by onnxruntime ")
    assert [o.version for o in model.opset_import if o.domain == ""] == [18]
    # Every weight of a convolution is stored in 8 bits with a scale for each output channel.
    stored = {i.name: i for i in model.graph.initializer}
    made_by = {o: n for n in model.graph.node for o in n.output}
    layers = [n for n in model.graph.node if n.op_type == "Conv"]
    assert layers
    for layer in layers:
        values, scales = (stored[name] for name in made_by[layer.input[1]].input[:2])
        assert values.data_type == onnx.TensorProto.INT8
        assert list(scales.dims) == [values.dims[0]]
    assert str(tmp_path).encode() not in made.path.read_bytes()
    images = noise(8)
    theirs, mine = (outputs_of(session_of(file), images) for file in (source, made.path))
    assert mine.dtype == np.float32
    # Rounding to 8 bits in each layer, of random weights.
    bound = 0.01 if code in (CONVNEXT, VIT) else 0.1  # sums along the skips of these stay float32
    assert 0 < np.square(theirs - mine).mean() < bound * np.square(theirs).mean()
    for start in range(0, 8, 2):
        part = outputs_of(session_of(made.path), images[start : start + 2])
        np.testing.assert_allclose(part, mine[start : start + 2], rtol=1e-3, atol=1e-3)


def test_two_files_are_compared_as_a_plain_loop_does(exported: Path, tmp_path: Path) -> None:
    source = exported
    made = quantise(source, tmp_path / "net.int8.onnx", small_noise(16))
    images = small_noise(60)
    labels = outputs_of(session_of(source), images).argmax(1)
    labels[::5] = 0  # and some that the float32 file has wrong
    found = compare(source, made.path, [(images[i : i + 25], labels[i : i + 25]) for i in range(0, 60, 25)])
    counts = dict.fromkeys(("float_right", "right", "lost", "won", "agree"), 0)
    sessions = [onnxruntime.InferenceSession(str(f), providers=["CPUExecutionProvider"]) for f in (source, made.path)]
    for image, label in zip(images, labels, strict=True):
        first, second = (int(s.run(None, {"images": image[None]})[0].argmax()) for s in sessions)
        counts["float_right"] += first == label
        counts["right"] += second == label
        counts["lost"] += first == label != second
        counts["won"] += second == label != first
        counts["agree"] += first == second
    assert {name: getattr(found, name) for name in counts} == counts
    assert found.images == 60
    assert found.float_right - found.lost + found.won == found.right
    unlabelled = compare(source, made.path, [(images, None)])
    assert (unlabelled.right, unlabelled.agree) == (0, counts["agree"])


def test_what_cannot_be_quantised_leaves_no_file(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = exported, tmp_path / "net.int8.onnx"
    with pytest.raises(SettingsError, match="there is none"):
        quantise(source, target, small_noise(0))
    with pytest.raises(RunError, match="The network cannot be quantised: "):
        quantise(source, target, np.zeros((2, 3, 48, 32), dtype=np.float32))
    with pytest.raises(RunError, match="cannot be written"):
        quantise(source, tmp_path / "nowhere" / "net.int8.onnx", small_noise(2))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(SettingsError, match=r"needs the package onnxruntime.* pip install 'bsszoo\[onnx\]'"):
        quantise(source, target, small_noise(2))
    assert list(tmp_path.iterdir()) == []


def pictures(folder: Path, number: int) -> Path:
    rng = np.random.default_rng(0)
    for i in range(number):
        (folder / f"{i % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (70, 80, 3), dtype=np.uint8)).save(folder / f"{i % 2}" / f"{i}.png")
    return folder


@pytest.mark.parametrize(
    ("number", "most", "calibrated", "compared"), [(60, 256, 45, 15), (3, 256, 3, 3), (60, 9, 9, 9)]
)
def test_a_network_is_exported_calibrated_and_compared_on_other_images(
    number: int, most: int, calibrated: int, compared: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bsszoo.export.CALIBRATION", most)
    net = network(TINY)
    done = export_int8(net, tmp_path / "net.onnx", [pictures(tmp_path / "pictures", number)], label="mine")
    assert (done.file.calibrated, done.compared.images, done.unseen) == (calibrated, compared, number > 3)
    assert done.exported.share < 1e-4
    assert done.compared.agree > 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.onnx", "pictures"]
    facts = {p.key: p.value for p in onnx.load(str(tmp_path / "net.onnx")).metadata_props}
    assert (facts["network"], facts["calibration_images"]) == ("mine", str(calibrated))
    assert json.loads(facts["input_size"]) == [3, 32, 32]


def run(*words: str) -> str:
    done = CliRunner().invoke(app, ["export", TINY, "--random", *words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = str(pictures(tmp_path / "pictures", 20))
    text = " ".join(run("--quantize", "int8", "--images", folder).split())
    assert f"File: {TINY}.int8.onnx (ONNX, operator set 18, int8, " in text
    assert "Calibrated on 15 images. On 5 other images it has the class of the float32 file for " in text
    data = json.loads(run("--quantize", "int8", "--images", folder, "--json", "--out", "a.onnx"))
    assert data["file"]["path"] == "a.onnx"
    assert data["file"]["size"] < data["file"]["float_size"]
    assert data["compared"]["images"] == 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.onnx", "pictures", f"{TINY}.int8.onnx"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--quantize", "int4"), "--quantize is 'int4'; it takes int8"),
        (("--quantize", "int8"), "give some hundreds, --images DIR"),
        (("--quantize", "int8", "--fp16", "--images", "x"), "leave out --fp16"),
        (("--quantize", "int8", "--format", "torch", "--images", "x"), "leave out --format torch"),
    ],
)
def test_what_does_not_go_together(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        run(*words)

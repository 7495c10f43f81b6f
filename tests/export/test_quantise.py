"""A quantised file is smaller, near the float32 file for any batch, and compared with it as a plain loop does."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exported_files import RUN, SUFFIX, facts_of
from PIL import Image
from typer.testing import CliRunner

import bsszoo
from bsszoo.cli.main import app
from bsszoo.errors import RunError, SettingsError
from bsszoo.export import export, export_int8
from bsszoo.quantise import compare, quantise, session_of

pytestmark = pytest.mark.usefixtures("seeded")

#: What quantises a format.
TOOLS = {"onnx": "onnxruntime", "openvino": "nncf", "litert": "ai_edge_quantizer"}
RESNET = "resnet50_c32-32-64-72_l1-2-1-1_b12-8-20-24_px64"
SERESNEXT = "seresnext_c32-64-96-128_l1-1-2-1_b16-32-48-64_g4-8-16-32_px64"
HARD_SWISH = "mobilenetv3_small_c8-16-24-32_l2-3-2-3_b16-48-48-96_e16-24-40-48_stage2-8x1_px64"
TINY = "resnet18_c8-16-24-32_l1-1-1-1_px32"
#: Of more than 256 KiB in int8, which LiteRT's quantiser writes in another way.
WIDE = "resnet18_c16-32-128-192_l1-1-1-1_px64"
CONVNEXT = "convnextv2_tiny_c16-24-32-48_l1-1-2-1_t4-4-4-4_px64"
VIT = "vit_patch8_c64-48-64-96_l1-2-1-1_b32-32-48-16_g16-16-16-8_stem48_px64"


def network(code: str) -> torch.nn.Module:
    net = bsszoo.create(code, num_classes=7)
    for name, tensor in net.state_dict().items():
        if "running_mean" in name:
            tensor.normal_(0, 0.1)
        elif "running_var" in name:
            tensor.uniform_(0.5, 1.5)
        elif tensor.dim() == 1 and name.endswith("weight") and not tensor.any():
            tensor.uniform_(0.5, 1.5)  # at 0 a residual branch is nothing, which a converter leaves out
    return net.eval()


def noise(number: int) -> Any:
    return torch.randn(number, 3, 64, 64).numpy()


@pytest.fixture(scope="module", params=list(TOOLS))
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip(TOOLS[request.param])
    torch.manual_seed(0)
    target = tmp_path_factory.mktemp("tiny") / f"net{SUFFIX[request.param]}"
    return export(network(TINY), target, format=request.param).path


def small_noise(number: int) -> Any:
    return torch.randn(number, 3, 32, 32).numpy()


def weights_of_onnx(path: Path) -> list[tuple[Any, int, int]]:
    """Of each convolution the type of its weights, its output channels, and the number of scales."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(str(path))
    assert [o.version for o in model.opset_import if o.domain == ""] == [18]
    stored = {i.name: i for i in model.graph.initializer}
    made_by = {o: n for n in model.graph.node for o in n.output}
    found = []
    for layer in (n for n in model.graph.node if n.op_type == "Conv"):
        values, scales = (stored[name] for name in made_by[layer.input[1]].input[:2])
        found.append((np.int8 if values.data_type == onnx.TensorProto.INT8 else None, values.dims[0], scales.dims[0]))
    return found


def weights_of_openvino(path: Path) -> list[tuple[Any, int, int]]:
    found = []
    for layer in pytest.importorskip("openvino").Core().read_model(path).get_ops():
        if layer.get_type_name() not in ("Convolution", "GroupConvolution"):
            continue
        left, constants = [layer.input_value(1).get_node()], []
        while left:
            node = left.pop()
            if node.get_type_name() == "Constant":
                constants.append(node)
            left += [value.get_node() for value in node.input_values()]
        (values,) = [c for c in constants if c.get_element_type().get_type_name() == "i8"]
        scales = max(c.data.size for c in constants if c.get_element_type().get_type_name() == "f32")
        shape = layer.output(0).get_partial_shape()
        found.append((values.data.dtype, shape[1].get_length(), scales))
    return found


def weights_of_litert(path: Path) -> list[tuple[Any, int, int]]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))
    details = {d["index"]: d for d in interpreter.get_tensor_details()}
    found = []
    for operation in interpreter._get_ops_details():
        if operation["op_name"] in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            weights = details[operation["inputs"][1]]
            channels = details[operation["outputs"][0]]["shape"][-1]
            found.append((weights["dtype"], channels, len(weights["quantization_parameters"]["scales"])))
    return found


WEIGHTS = {"onnx": weights_of_onnx, "openvino": weights_of_openvino, "litert": weights_of_litert}


@pytest.mark.parametrize(
    ("format", "code"),
    [("onnx", code) for code in (RESNET, CONVNEXT, VIT)]
    + [("openvino", RESNET)]
    + [("litert", code) for code in (WIDE, HARD_SWISH, CONVNEXT, VIT)]
    + [pytest.param("onnx", code, marks=pytest.mark.extended) for code in (SERESNEXT, HARD_SWISH)]
    + [pytest.param("openvino", code, marks=pytest.mark.extended) for code in (CONVNEXT, VIT)],
)
def test_a_quantised_file_is_smaller_and_near_for_any_batch(format: Any, code: str, tmp_path: Path) -> None:
    pytest.importorskip(TOOLS[format])
    source = export(network(code), tmp_path / f"net{SUFFIX[format]}", format=format, label=code)
    made = quantise(source.path, tmp_path / f"net.int8{SUFFIX[format]}", noise(40))
    assert (made.size, made.float_size) == (sum(file.stat().st_size for file in made.files), source.size)
    # Of OpenVINO the second file has the weights.
    assert made.files[-1].stat().st_size < 0.8 * source.files[-1].stat().st_size
    assert (made.calibrated, made.free_batch) == (40, format == "onnx")
    facts, before = facts_of(made.path), facts_of(source.path)
    assert facts.items() > before.items()
    assert (facts["quantised"].split(" ")[:2], facts["calibration_images"]) == (["int8", "by"], "40")
    # Every weight of a convolution is stored in 8 bits with a scale for each output channel.
    layers = WEIGHTS[format](made.path)
    assert layers
    for kind, channels, scales in layers:
        assert (kind, channels) == (np.int8, scales)
    assert all(str(tmp_path).encode() not in file.read_bytes() for file in made.files)
    images = torch.from_numpy(noise(8))
    run = RUN[format][0]
    theirs, mine = run(source.path, images), run(made.path, images)
    assert mine.dtype == torch.float32
    # Rounding to 8 bits in each layer, of random weights.
    bound = 0.01 if code in (CONVNEXT, VIT) else 0.1  # sums along the skips of these stay float32
    assert 0 < (theirs - mine).square().mean() < bound * theirs.square().mean()
    for start in range(0, 8, 2):
        part = images[start : start + 2]
        # A value between two of 256 steps may go to either, as a runtime orders its sums.
        for outputs in (run(made.path, part).numpy(), session_of(made.path)(part.numpy())):
            np.testing.assert_allclose(outputs, mine[start : start + 2], rtol=0, atol=0.02 * float(mine.abs().max()))


def test_two_files_are_compared_as_a_plain_loop_does(exported: Path, tmp_path: Path) -> None:
    source, run = exported, {SUFFIX[name]: run for name, (run, _) in RUN.items()}[exported.suffix]
    made = quantise(source, tmp_path / f"net.int8{source.suffix}", small_noise(16))
    images = small_noise(60)
    labels = session_of(source)(images).argmax(1)
    labels[::5] = 0  # and some that the float32 file has wrong
    found = compare(source, made.path, [(images[i : i + 25], labels[i : i + 25]) for i in range(0, 60, 25)])
    counts = dict.fromkeys(("float_right", "right", "lost", "won", "agree"), 0)
    chosen = [run(path, torch.from_numpy(images)).argmax(1).tolist() for path in (source, made.path)]
    for label, first, second in zip(labels, *chosen, strict=True):
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
    source, target = exported, tmp_path / f"net.int8{exported.suffix}"
    with pytest.raises(SettingsError, match="there is none"):
        quantise(source, target, small_noise(0))
    with pytest.raises(RunError, match="The network cannot be quantised: "):
        quantise(source, target, np.zeros((2, 3, 48, 32), dtype=np.float32))
    with pytest.raises(RunError, match="cannot be written"):
        quantise(source, tmp_path / "nowhere" / target.name, small_noise(2))
    for path, message in (Path("net.pt2"), "it takes one of onnx, openvino or litert"), (Path("n.h5"), "no exported"):
        with pytest.raises(SettingsError, match=message):
            quantise(path, target, small_noise(2))
    (name,) = [name for name, suffix in SUFFIX.items() if suffix == exported.suffix]
    monkeypatch.setitem(sys.modules, TOOLS[name], None)
    package = TOOLS[name].replace("_", "-")
    with pytest.raises(SettingsError, match=rf"needs the package {package}.* pip install 'bsszoo\[{name}\]'"):
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
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr("bsszoo.export.CALIBRATION", most)
    net = network(TINY)
    done = export_int8(net, tmp_path / "net.onnx", [pictures(tmp_path / "pictures", number)], label="mine")
    assert (done.file.calibrated, done.compared.images, done.unseen) == (calibrated, compared, number > 3)
    assert done.exported.share < 1e-4
    assert done.compared.agree > 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.onnx", "pictures"]
    facts = facts_of(tmp_path / "net.onnx")
    assert (facts["network"], facts["calibration_images"]) == ("mine", str(calibrated))
    assert json.loads(facts["input_size"]) == [3, 32, 32]


def run(*words: str) -> str:
    done = CliRunner().invoke(app, ["export", TINY, "--random", *words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("format", list(TOOLS))
def test_the_command(format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(TOOLS[format])
    monkeypatch.chdir(tmp_path)
    folder, suffix = str(pictures(tmp_path / "pictures", 20)), SUFFIX[format]
    names = [f"{TINY}.int8{suffix}", *([f"{TINY}.int8.bin"] if format == "openvino" else [])]
    words = ("--format", format, "--quantize", "int8", "--images", folder)
    text = " ".join(run(*words).split())
    kind = {"onnx": "ONNX, operator set 18", "openvino": "OpenVINO", "litert": "LiteRT"}[format]
    assert f"File: {' and '.join(names)} ({kind}, int8, " in text
    assert "Calibrated on 15 images. On 5 other images it has the class of the float32 file for " in text
    assert ("one image at a time" in text) == (format != "onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*names, "pictures"])
    if format == "onnx":
        data = json.loads(run(*words, "--json", "--out", "a.onnx"))
        assert data["file"]["path"] == "a.onnx"
        assert data["file"]["size"] < data["file"]["float_size"]
        assert data["compared"]["images"] == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--quantize", "int4"), "--quantize is 'int4'; it takes int8"),
        (("--quantize", "int8"), "give some hundreds, --images DIR"),
        (("--quantize", "int8", "--fp16", "--images", "x"), "leave out --fp16"),
        (("--quantize", "int8", "--format", "torch", "--images", "x"), "litert, not 'torch'"),
    ],
)
def test_what_does_not_go_together(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        run(*words)

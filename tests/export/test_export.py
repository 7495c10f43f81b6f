"""An exported file gives PyTorch's outputs, for any batch size, or there is no file."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import bsszoo
from bsszoo.errors import DataError, RunError, SettingsError
from bsszoo.export import export

CODE = "mobilenetv2_c12-20-28-28-40-84_l1-2-1-1-1-1_t3-1-3-6-2-3_stem10_stage2-6x2_px64"
RESNET = "resnet50_c32-32-64-72_l1-2-1-1_b12-8-20-24_px64"
SERESNEXT = "seresnext_c32-64-96-128_l1-1-2-1_b16-32-48-64_g4-8-16-32_px64"
VIT = "vit_patch8_c64-48-64-96_l1-2-1-1_b32-32-48-16_g16-16-16-8_stem48_px64"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def network(code: str = CODE, **arguments: int) -> torch.nn.Module:
    net = bsszoo.create(code, num_classes=7, **arguments)
    for name, tensor in net.state_dict().items():
        if "running_mean" in name:
            tensor.normal_(0, 0.1)
        elif "running_var" in name:
            tensor.uniform_(0.5, 1.5)
    return net.eval()


def by_onnxruntime(path: Path, images: torch.Tensor) -> torch.Tensor:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: images.numpy()})[0])


@pytest.mark.parametrize("code", [CODE, RESNET, SERESNEXT, VIT])
def test_an_onnx_file_gives_pytorchs_outputs_for_any_batch_and_says_what_it_is(code: str, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    net = network(code)
    done = export(net, tmp_path / "net.onnx", label=code)
    for batch in (1, 3, 8):
        images = torch.randn(batch, 3, 64, 64)
        with torch.no_grad():
            torch.testing.assert_close(by_onnxruntime(done.path, images), net(images), rtol=1e-3, atol=1e-4)
    model = onnx.load(str(done.path))
    assert [o.version for o in model.opset_import if o.domain == ""] == [done.opset] == [18]
    facts = {p.key: p.value for p in model.metadata_props}
    assert facts["network"] == code
    assert json.loads(facts["input_size"]) == [3, 64, 64]
    assert json.loads(facts["mean"]) == list(done.mean)
    assert done.images, "it was checked on real images too"
    assert 0 < done.share < 1e-4
    assert (done.outputs, done.size) == (7, done.path.stat().st_size)
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


@pytest.mark.parametrize("format", ["onnx", "torch"])
def test_no_path_of_this_machine_is_in_the_file_and_nothing_else_is_overwritten(format: str, tmp_path: Path) -> None:
    if format == "onnx":
        pytest.importorskip("onnxruntime")
    done = export(network(), tmp_path / "net", format=format)  # type: ignore[arg-type]
    data = done.path.read_bytes()
    if format == "torch":
        with zipfile.ZipFile(done.path) as archive:
            data = b"".join(archive.read(name) for name in archive.namelist())
    for place in (torch.__file__, timm.__file__, bsszoo.__file__, str(tmp_path)):
        assert str(Path(place).parent).encode() not in data
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"weights")
    with pytest.raises(SettingsError, match="exists already and is no exported file"):
        export(network(), weights, format=format)  # type: ignore[arg-type]
    assert weights.read_bytes() == b"weights"


def test_a_torch_program_gives_pytorchs_outputs_for_any_batch(tmp_path: Path) -> None:
    net = network()
    done = export(net, tmp_path / "net.pt2", format="torch")
    program = torch.export.load(done.path).module()
    for batch in (1, 5):
        images = torch.randn(batch, 3, 64, 64)
        with torch.no_grad():
            torch.testing.assert_close(program(images), net(images))


@pytest.mark.parametrize("format", ["onnx", "torch"])
def test_half_precision_is_smaller_near_and_leaves_the_network_as_it_was(format: str, tmp_path: Path) -> None:
    if format == "onnx":
        pytest.importorskip("onnxruntime")
    net = network()
    half = export(net, tmp_path / "half", format=format, half=True)  # type: ignore[arg-type]
    assert all(p.dtype == torch.float32 for p in net.parameters())
    assert 0 < half.share < 2e-2
    images = torch.randn(2, 3, 64, 64)
    found = by_onnxruntime(half.path, images) if format == "onnx" else torch.export.load(half.path).module()(images)
    assert found.dtype == torch.float32
    with torch.no_grad():
        assert (found - net(images)).abs().max() < 2e-2 * net(images).abs().max() + 1e-3


def test_outputs_that_differ_leave_no_file(tmp_path: Path) -> None:
    old = tmp_path / "net.pt2"
    old.write_bytes(b"an earlier file")
    with pytest.raises(RunError, match=r"differ from PyTorch's by up to .* the bound is 1e-30\. No file was written"):
        export(network(), old, format="torch", half=True, bound=1e-30)
    assert old.read_bytes() == b"an earlier file"
    assert [p.name for p in tmp_path.iterdir()] == ["net.pt2"]


def test_a_network_whose_outputs_are_no_numbers_is_not_exported(tmp_path: Path) -> None:
    net = network()
    net.get_classifier().bias.data.fill_(float("nan"))  # type: ignore[operator]
    with pytest.raises(RunError, match="No file was written"):
        export(net, tmp_path / "net.pt2", format="torch")
    assert list(tmp_path.iterdir()) == []


def test_the_images_are_those_of_the_argument_in_the_networks_colours(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 80, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    grey = network(in_chans=1)
    done = export(grey, tmp_path / "net.pt2", format="torch", images=[tmp_path])
    assert done.images == ("a.png",)
    assert done.input_shape == (1, 64, 64)
    (tmp_path / "b.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"b\.jpg cannot be read"):
        export(grey, tmp_path / "net.pt2", format="torch", images=[tmp_path / "b.jpg"])
    with pytest.raises(DataError, match="There is no image"):
        export(grey, tmp_path / "net.pt2", format="torch", images=["nowhere.png"])
    # Of five channels there are no images: random ones alone.
    assert export(network(in_chans=5), tmp_path / "net.pt2", format="torch").real is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "tflite"}, "it takes onnx or torch"),
        ({"opset": 9}, "from 18 to 23"),
        ({"bound": 0.0}, "--bound"),
        ({"path": "no/such/folder/net.onnx"}, "which is no folder"),
    ],
)
def test_invalid_settings(settings: dict[str, object], message: str, tmp_path: Path) -> None:
    given = {"path": tmp_path / "net.onnx", **settings}
    with pytest.raises(SettingsError, match=message):
        export(network(), **given)  # type: ignore[arg-type]

"""An exported file gives PyTorch's outputs, for any batch size, or there is no file."""

from __future__ import annotations

import itertools
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from exported_files import RUN, SUFFIX, by_openvino, facts_of
from PIL import Image
from strategies import some_by_default

import bsszoo
from bsszoo.errors import DataError, RunError, SettingsError
from bsszoo.export import export

pytestmark = pytest.mark.usefixtures("seeded")

CODE = "mobilenetv2_c12-20-28-28-40-84_l1-2-1-1-1-1_t3-1-3-6-2-3_stem10_stage2-6x2_px64"
RESNET = "resnet50_c32-32-64-72_l1-2-1-1_b12-8-20-24_px64"
SERESNEXT = "seresnext_c32-64-96-128_l1-1-2-1_b16-32-48-64_g4-8-16-32_px64"
CONVNEXT = "convnextv2_tiny_c16-24-32-48_l1-1-2-1_t4-4-4-4_px64"
TINY = "resnet18_c8-16-24-32_l1-1-1-1_px32"
VIT = "vit_patch8_c64-48-64-96_l1-2-1-1_b32-32-48-16_g16-16-16-8_stem48_px64"


def network(code: str = CODE, **arguments: int) -> torch.nn.Module:
    net = bsszoo.create(code, num_classes=7, **arguments)
    for name, tensor in net.state_dict().items():
        if "running_mean" in name:
            tensor.normal_(0, 0.1)
        elif "running_var" in name:
            tensor.uniform_(0.5, 1.5)
        elif tensor.dim() == 1 and name.endswith("weight") and not tensor.any():
            tensor.uniform_(0.5, 1.5)  # at 0 a residual branch is nothing, which a converter leaves out
    return net.eval()


@pytest.mark.parametrize(
    ("format", "code"),
    [
        *itertools.product(["onnx", "litert"], [CODE, RESNET, SERESNEXT, VIT, CONVNEXT]),
        *itertools.product(["openvino"], [CODE, VIT]),
        *(pytest.param("openvino", code, marks=pytest.mark.extended) for code in (RESNET, SERESNEXT, CONVNEXT)),
    ],
)
def test_a_file_gives_pytorchs_outputs_for_any_batch_and_says_what_it_is(
    format: Any, code: str, tmp_path: Path
) -> None:
    run, package = RUN[format]
    pytest.importorskip(package)
    net = network(code)
    target = tmp_path / f"net{SUFFIX[format]}"
    done = export(net, target, format=format, label=code)
    assert done.free_batch == (format != "litert")
    for batch in (1, 3, 8):
        images = torch.randn(batch, 3, 64, 64)
        with torch.no_grad():
            torch.testing.assert_close(run(done.path, images), net(images), rtol=1e-3, atol=1e-4)
    facts = facts_of(done.path)
    assert facts["network"] == code
    assert json.loads(facts["input_size"]) == [3, 64, 64]
    assert json.loads(facts["mean"]) == list(done.mean)
    assert done.images, "it was checked on real images too"
    assert 0 < done.share < 1e-4
    names = ["net.bin", "net.xml"] if format == "openvino" else [target.name]
    assert [p.name for p in sorted(tmp_path.iterdir())] == sorted(file.name for file in done.files) == names
    assert (done.outputs, done.size) == (7, sum(file.stat().st_size for file in tmp_path.iterdir()))
    if format == "onnx":
        model = pytest.importorskip("onnx").load(str(done.path))
        assert [o.version for o in model.opset_import if o.domain == ""] == [done.opset] == [18]
        assert "Resize" not in {node.op_type for node in model.graph.node}, "positions of a ViT are not resampled"


@pytest.mark.parametrize("format", list(SUFFIX))
def test_no_path_of_this_machine_is_in_the_file_and_nothing_else_is_overwritten(format: Any, tmp_path: Path) -> None:
    pytest.importorskip(RUN[format][1])
    done = export(network(TINY), tmp_path / f"net{SUFFIX[format]}", format=format)
    data = b"".join(file.read_bytes() for file in done.files)
    if format == "torch":
        with zipfile.ZipFile(done.path) as archive:
            data = b"".join(archive.read(name) for name in archive.namelist())
    for place in (torch.__file__, timm.__file__, bsszoo.__file__, str(tmp_path)):
        assert str(Path(place).parent).encode() not in data
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"weights")
    message = "ends with .xml" if format == "openvino" else "exists already and is no exported file"
    with pytest.raises(SettingsError, match=message):
        export(network(TINY), weights, format=format)
    assert weights.read_bytes() == b"weights"


@pytest.mark.extended
def test_openvinos_two_files_are_replaced_as_one(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    target, weights = tmp_path / "net.xml", tmp_path / "net.bin"
    # A file that is not of a pair is somebody else's.
    for other in (target, weights):
        other.write_bytes(b"of another program")
        with pytest.raises(SettingsError, match=rf"{other.name} exists already and is no exported file"):
            export(network(TINY), target, format="openvino")
        assert other.read_bytes() == b"of another program"
        other.unlink()
    export(network(TINY), target, format="openvino")
    before = target.read_bytes(), weights.read_bytes()
    with pytest.raises(RunError, match="No file was written"):
        export(network(TINY), target, format="openvino", half=True, bound=1e-30)
    assert (target.read_bytes(), weights.read_bytes()) == before
    net = network(TINY)  # with other statistics
    export(net, target, format="openvino")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(by_openvino(target, images), net(images), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("format", some_by_default(SUFFIX, ["onnx", "torch"]))
def test_half_precision_is_smaller_near_and_leaves_the_network_as_it_was(format: Any, tmp_path: Path) -> None:
    run, package = RUN[format]
    pytest.importorskip(package)
    net = network(TINY)
    half = export(net, tmp_path / f"half{SUFFIX[format]}", format=format, half=True)
    assert all(p.dtype == torch.float32 for p in net.parameters())
    assert 0 < half.share < 2e-2
    images = torch.randn(2, 3, 32, 32)
    found = run(half.path, images)
    assert found.dtype == torch.float32
    with torch.no_grad():
        assert (found - net(images)).abs().max() < 2e-2 * net(images).abs().max() + 1e-3
    whole = export(net, tmp_path / f"whole{SUFFIX[format]}", format=format)
    weights = 4 * sum(p.numel() for p in net.parameters())
    assert half.size < whole.size - 0.35 * weights


@pytest.mark.parametrize("format", ["onnx", "openvino", "litert"])
def test_a_package_that_is_missing_is_named_with_its_extra(
    format: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = RUN[format][1]
    for name in ("onnx", "onnxscript"):
        monkeypatch.setitem(sys.modules, name, sys)
    monkeypatch.setitem(sys.modules, module, None)
    package = module.replace("_", "-")
    with pytest.raises(SettingsError, match=rf"needs the package {package}.* pip install 'bsszoo\[{format}\]'"):
        export(network(TINY), tmp_path / f"net{SUFFIX[format]}", format=format)
    assert list(tmp_path.iterdir()) == []


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
        ({"format": "tflite"}, "it takes onnx, openvino, litert or torch"),
        ({"opset": 9}, "from 18 to 23"),
        ({"bound": 0.0}, "--bound"),
        ({"path": "no/such/folder/net.onnx"}, "which is no folder"),
    ],
)
def test_invalid_settings(settings: dict[str, object], message: str, tmp_path: Path) -> None:
    given = {"path": tmp_path / "net.onnx", **settings}
    with pytest.raises(SettingsError, match=message):
        export(network(), **given)  # type: ignore[arg-type]

"""torch.export, ONNX and torch.compile give the network's own numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from models.counting import SMALL, small
from strategies import some_by_default

from bsszoo.codes.named import named_entries
from bsszoo.models.build import build

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.mark.parametrize(
    "kind",
    some_by_default(
        SMALL,
        ["caffe", "seresnext", "mobilenetv2 subnetwork", "mobilenetv4 subnetwork", "ghostnet", "same padding", "vit"],
    ),
)
def test_torch_export(kind: str) -> None:
    net = build(small(kind), num_classes=5).eval()
    x = torch.randn(2, 3, 64, 64)
    exported = torch.export.export(net, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=2, max=64)},))
    y = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(exported.module()(y), net(y))


def onnx_agrees(net: torch.nn.Module, x: torch.Tensor, path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.onnx.export(net, (x,), path, dynamo=True, verbose=False)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(logits), net(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "kind",
    some_by_default(
        [
            *["caffe", "mobilenetv2", "efficientnet", "mobilenetv3_small", "same padding", "fused"],
            *["mobilenetv4 subnetwork", "ghostnet"],
        ],
        ["same padding", "mobilenetv4 subnetwork", "ghostnet"],
    ),
)
def test_onnx(kind: str, tmp_path: Path) -> None:
    onnx_agrees(build(small(kind), num_classes=5).eval(), torch.randn(1, 3, 64, 64), tmp_path / "net.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("name", [e.name for e in named_entries().values() if "printed" not in e.name])
def test_onnx_of_the_zoo(name: str, tmp_path: Path) -> None:
    onnx_agrees(build(named_entries()[name].code).eval(), torch.randn(1, 3, 64, 64), tmp_path / "net.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("kind", SMALL)
def test_torch_compile(kind: str) -> None:
    net = build(small(kind), num_classes=5).eval()
    x = torch.randn(2, 3, 64, 64)
    # The networks of a class are compiled from the same code, of which a process keeps a limited number.
    torch.compiler.reset()
    compiled = torch.compile(net, fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), net(x), rtol=1e-3, atol=1e-4)
    net.train()
    torch.compile(net, fullgraph=True)(x).sum().backward()
    assert all(p.grad is not None for p in net.parameters())

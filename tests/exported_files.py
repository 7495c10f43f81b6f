"""Exported files run and read by their own packages, without bsszoo."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch


def by_onnxruntime(path: Path, images: torch.Tensor) -> torch.Tensor:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: images.numpy()})[0])


def by_openvino(path: Path, images: torch.Tensor) -> torch.Tensor:
    openvino = pytest.importorskip("openvino")
    # As a user opens it, with the batch that it has; its own choice of a precision may be bfloat16.
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    batch = compiled.input("images").get_partial_shape()[0]
    parts = [images] if batch.is_dynamic else images.split(batch.get_length())
    return torch.cat([torch.from_numpy(compiled({"images": part.numpy()})["logits"].copy()) for part in parts])


def by_litert(path: Path, images: torch.Tensor) -> torch.Tensor:
    interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    outputs = []
    for image in images.numpy():
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image[None])
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
    return torch.from_numpy(np.concatenate(outputs))


def by_torch(path: Path, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return torch.export.load(path).module()(images)  # type: ignore[no-any-return]


#: What runs a format, and the package without which it is not tested.
RUN = {
    "onnx": (by_onnxruntime, "onnxruntime"),
    "openvino": (by_openvino, "openvino"),
    "litert": (by_litert, "litert_torch"),
    "torch": (by_torch, "torch"),
}
SUFFIX = {"onnx": ".onnx", "openvino": ".xml", "litert": ".tflite", "torch": ".pt2"}


def facts_of(path: Path) -> dict[str, str]:
    """What a file says of itself, read without bsszoo."""
    if path.suffix == ".onnx":
        return {p.key: p.value for p in pytest.importorskip("onnx").load(str(path)).metadata_props}
    if path.suffix == ".xml":
        section = ElementTree.parse(path).find("rt_info/bsszoo")
        assert section is not None
        return {entry.tag: entry.attrib["value"] for entry in section}
    utilities = pytest.importorskip("ai_edge_litert.tools.flatbuffer_utils")
    model = utilities.read_model(str(path))
    (entry,) = [entry for entry in model.metadata if entry.name == b"bsszoo"]
    return json.loads(bytes(model.buffers[entry.buffer].data))  # type: ignore[no-any-return]

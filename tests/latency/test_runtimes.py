"""The runtimes: they compute what PyTorch does, on the threads asked for, and are missed with a remedy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import bsszoo
from bsszoo.codes import Code
from bsszoo.errors import SettingsError
from bsszoo.latency.runtimes import RUNTIMES, engine_of, network_to_time, runtime_of
from bsszoo.latency.table import block_input, build_block
from bsszoo.latency.timer import measure_latencies
from bsszoo.models.build import build
from bsszoo.spaces.chain import BlockShape

EXPORTED = [name for name, runtime in RUNTIMES.items() if runtime.export is not None]
SMALL = "resnet18_c8-16-24-32_l1-1-1-1_px32"
VIT = "vit_patch4_c32-32-48-32_l1-1-1-1_b16-24-16-16_g8-8-8-8_stem16"
BLOCKS = {
    "basic_in12_out20_mid12_k3_s2_px8": "resnet18",
    "bottleneck_in16_out32_mid8_k3_s1_px8": "resnet50",
    "inverted_in16_out16_mid40_k3_s1_px8": "mobilenetv2",
    "mbconv_in16_out24_mid96_k5_s2_se4_px8": "efficientnet_b0",
    "regnet_in16_out24_mid24_k3_s2_g8_se4_px8": "regnety",
    "ghost_in16_out25_mid49_k5_s2_se12_px8": "ghostnet",
    "ghost_in16_out16_mid40_k3_s1_px8": "ghostnet",
    "convnext_in16_out24_mid96_k7_s2_px9": "convnext_atto",
    "convnext_in16_out16_mid40_k7_s1_px8": "convnextv2_tiny",
    "head_norm_in16_out16_mid16_k1_s1_px1": "convnext_tiny",
    "stem_in3_out16_mid16_k4_s4_px16": "vit_patch4",
    "transformer_in16_out16_mid24_k1_s1_g8_mlp40_px5": "vit_patch4",
}


@pytest.mark.parametrize("name", EXPORTED)
def test_a_runtime_computes_what_pytorch_does(name: str) -> None:
    pytest.importorskip(RUNTIMES[name].modules[0])
    runtime = engine_of(name)
    shapes = [(BlockShape.parse(text), family) for text, family in BLOCKS.items()]
    made = [(build_block(shape, family), block_input(shape)) for shape, family in shapes]
    made.append((build(Code.parse(SMALL), num_classes=7), (3, 32, 32)))
    for module, size in made:
        for norm in module.modules():
            if isinstance(norm, torch.nn.BatchNorm2d):
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2.0)
        images = torch.randn(2, *size)
        with torch.inference_mode():
            expected = module.eval()(images).numpy()
        computed = runtime.forward(module, images)()
        assert computed.shape == expected.shape
        assert np.abs(computed - expected).max() < 1e-4 * max(1.0, np.abs(expected).max())
    assert runtime.label == f"{name} {runtime.version}"


@pytest.mark.parametrize("name", EXPORTED)
def test_a_network_to_time_has_all_of_its_layers(name: str) -> None:
    pytest.importorskip(RUNTIMES[name].modules[0])
    network = network_to_time(Code.parse(SMALL), num_classes=7, in_chans=3)
    params = sum(parameter.numel() for parameter in network.parameters())
    exported = RUNTIMES[name].export(network, torch.randn(1, 3, 32, 32))
    assert len(exported) > 0.95 * 4 * params


@pytest.mark.parametrize("text", [SMALL, "convnextv2_atto_c8-16-24-32_l1-1-1-1_t4-4-4-4_px32", VIT])
def test_no_scale_of_a_network_to_time_is_0(text: str) -> None:
    def zeros(network: torch.nn.Module) -> int:
        return sum(not p.any() for name, p in network.named_parameters() if name.endswith("weight"))

    code = Code.parse(text)
    assert text == VIT or zeros(build(code, num_classes=7)) > 0
    assert zeros(network_to_time(code, num_classes=7, in_chans=3)) == 0


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted on Linux")
def test_onnxruntime_works_on_as_many_threads_as_asked_for() -> None:
    pytest.importorskip("onnxruntime")
    runtime, images = runtime_of("onnxruntime"), torch.randn(1, 3, 8, 8)
    exported = runtime.export(torch.nn.Conv2d(3, 8, 3).eval(), images)
    held = []
    for threads in (1, 4):
        before = _threads()
        held.append(runtime.load(exported, images, threads))
        assert _threads() - before == threads - 1


def _threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


@pytest.mark.parametrize("name", [name for name in EXPORTED if RUNTIMES[name].timed])
def test_networks_are_timed_with_a_runtime_and_its_name_is_said(name: str) -> None:
    pytest.importorskip(RUNTIMES[name].modules[0])
    for latency in measure_latencies([Code.parse(SMALL)] * 2, threads=1, rounds=3, runtime=name):
        assert latency.where == f"{runtime_of(name).label}, CPU, 1 thread"
        assert latency.runs == 3


def test_what_is_not_installed_is_missed_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RUNTIMES, "onnxruntime", replace(RUNTIMES["onnxruntime"], modules=("no_such_module",)))
    with pytest.raises(SettingsError, match=r'onnxruntime is not installed.*pip install "bsszoo\[onnx\]"'):
        bsszoo.compress(SMALL, flops="60%", runtime="onnxruntime", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_names_that_are_no_runtime_are_refused(tmp_path: Path) -> None:
    for name in ("onnx", "compile", "tflite", ""):
        with pytest.raises(SettingsError, match=r"--runtime is '.*'; it takes pytorch.* or "):
            bsszoo.compress(SMALL, latency="60%", runtime=name, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert engine_of("onnx") is engine_of("onnxruntime")
    assert engine_of("eager") is engine_of("pytorch")
    with pytest.raises(SettingsError, match="--engines is 'fast'; it takes some of eager, compile, onnx"):
        engine_of("fast")


@pytest.mark.usefixtures("short_timings")
def test_a_run_measures_with_its_runtime_and_another_one_is_another_run(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    few = {"flops": "60%", "trials": 4, "batch": 2, "out": tmp_path / "run"}
    result = bsszoo.compress("resnet18_c64-64-96-128_l2-2-2-2_px64", runtime="onnxruntime", **few)
    label = runtime_of("onnxruntime").label
    assert any(note.startswith("Latency: median of") and label in note for note in result.notes)
    assert all(row.latency_ms > 0 for row in result.networks)
    data = result.to_dict()
    assert (data["runtime"], f"onnxruntime {data['versions']['onnxruntime']}") == ("onnxruntime", label)
    assert "Latency: measured with onnxruntime." in str(result)
    assert "of onnxruntime on the machine of the run" in (tmp_path / "run" / "report.html").read_text()
    with pytest.raises(SettingsError, match="runtime was 'onnxruntime' and now is None"):
        bsszoo.compress("resnet18_c64-64-96-128_l2-2-2-2_px64", **few)

"""The runtimes that forwards are timed with: one registry for ``compress``, ``latency-table`` and ``measure``.

A runtime is imported when it is used: what is not installed is missed only where it was asked for.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final, Literal

from bsszoo.errors import SettingsError, formatted

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bsszoo.codes.code import Code

#: One forward, whose time is taken.
Forward = Callable[[], object]

_INPUT, _OUTPUT = "images", "logits"


@dataclass(frozen=True, slots=True)
class Runtime:
    """How a network is run.

    Args:
        name: As ``--runtime`` takes it.
        load: Makes the forward of what ``export`` returned (or of a file with it), or of the module itself, on images
            [n, c, h, w] and a number of CPU threads.
        export: The module's network as a file's bytes, for the shape of these images; None where the module is run.
        modules: What is imported for it; the last one is the runtime.
        extra: bsszoo's extra that installs it; None for what is always there.
        timed: Of a table of many blocks about so many are timed with it, and at least so many of each kind and place;
            None where no table is measured with it.
        networks: Number of networks at random that figures of a table are fitted to.
        lines: How the times of a kind of block follow from channels: ``plain`` in proportion to their products,
            ``vectors`` to those of whole vectors of channels too, ``uneven`` less evenly, so that times that were
            measured are nearer than any line.
    """

    name: str
    load: Callable[[Any, torch.Tensor, int], Forward]
    export: Callable[[nn.Module, torch.Tensor], bytes] | None = None
    modules: tuple[str, ...] = ("torch",)
    extra: str | None = None
    timed: tuple[int, int] | None = None
    networks: int = 0
    lines: Literal["plain", "vectors", "uneven"] = "plain"

    def check(self) -> None:
        """A ``SettingsError`` with what to install unless it is installed."""
        if any(find_spec(module) is None for module in self.modules):
            raise SettingsError(
                f"The runtime {self.name} is not installed; it is one of bsszoo's extras: "
                f'pip install "bsszoo[{self.extra}]".'
            )

    @property
    def version(self) -> str:
        """The runtime's version."""
        return str(import_module(self.modules[-1]).__version__)

    @property
    def label(self) -> str:
        """Its name and version, for messages."""
        return f"{self.name} {self.version}"

    def forward(self, module: nn.Module, images: torch.Tensor) -> Forward:
        """The forward of a module in evaluation mode on images, with as many threads as PyTorch has now."""
        import torch

        network = module if self.export is None else self.export(module, images)
        return self.load(network, images, torch.get_num_threads())


def _module(module: Any, images: torch.Tensor, _threads: int) -> Forward:
    return lambda: module(images)


def _compiled(module: Any, images: torch.Tensor, _threads: int) -> Forward:
    import torch

    compiled: Any = torch.compile(module, dynamic=False)
    return lambda: compiled(images)


def _onnx(module: nn.Module, images: torch.Tensor) -> bytes:
    """The network as ONNX, by the older exporter: it takes 20 ms for a block, the other one a second."""
    import torch

    file: Any = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (images,), file, dynamo=False, input_names=[_INPUT], output_names=[_OUTPUT])
    exported: bytes = file.getvalue()
    return exported


def _onnxruntime(exported: bytes | str, images: torch.Tensor, threads: int) -> Forward:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # The threads of a network at rest would else spin while another's forward is timed.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(exported, options, providers=["CPUExecutionProvider"])
    inputs = {_INPUT: images.numpy()}
    return lambda: session.run([_OUTPUT], inputs)


@cache
def _core() -> Any:
    import openvino

    return openvino.Core()


def _openvino(exported: bytes | str, images: torch.Tensor, threads: int) -> Forward:
    import openvino

    # Its own choice of a precision is bfloat16 where the processor has it. A thread that is bound to a core waits for
    # whatever else runs there.
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": False,
    }
    request = _core().compile_model(_core().read_model(exported), "CPU", settings).create_infer_request()
    request.set_input_tensor(openvino.Tensor(images.numpy(), shared_memory=True))
    return lambda: request.infer()


@cache
def _quiet_litert() -> None:
    """Import the converter without what it says to a terminal of itself, of each network too."""
    # Read where its libraries load.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        import_module("litert_torch")
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _tflite(module: nn.Module, images: torch.Tensor) -> bytes:
    _quiet_litert()
    import litert_torch

    with TemporaryDirectory(prefix="bsszoo-litert-") as folder, redirect_stdout(io.StringIO()):
        file = Path(folder) / "network.tflite"
        litert_torch.convert(module, (images,)).export(str(file))
        return file.read_bytes()


def _litert(exported: bytes | str, images: torch.Tensor, threads: int) -> Forward:
    from ai_edge_litert.interpreter import Interpreter

    file = {"model_path": exported} if isinstance(exported, str) else {"model_content": exported}
    interpreter = Interpreter(**file, num_threads=threads)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], images.numpy())
    output = interpreter.get_output_details()[0]["index"]

    def forward() -> object:
        interpreter.invoke()
        return [interpreter.get_tensor(output)]

    return forward


#: The runtimes by name. Blocks' times are less even, and shorter, in a runtime that they are exported to, so more of
#: them are timed there. LiteRT's converter takes two seconds for a block, torch.compile longer still.
RUNTIMES: Final = {
    runtime.name: runtime
    for runtime in (
        Runtime("pytorch", _module, timed=(300, 12), networks=16),
        Runtime("compile", _compiled),
        Runtime("onnxruntime", _onnxruntime, _onnx, ("onnxruntime",), "onnx", (600, 24), 64, "uneven"),
        Runtime("openvino", _openvino, _onnx, ("openvino",), "openvino", (600, 24), 64, "uneven"),
        Runtime("litert", _litert, _tflite, ("litert_torch", "ai_edge_litert"), "litert", (120, 8), 16, "vectors"),
    )
}
#: Of a table and of measured networks where nothing else is said.
DEFAULT: Final = "pytorch"
#: The names of ``bsszoo measure``, which takes the others too.
ENGINES: Final = {"eager": "pytorch", "compile": "compile", "onnx": "onnxruntime"}


def network_to_time(code: Code, *, num_classes: int, in_chans: int) -> nn.Module:
    """A code's network in evaluation mode, of random weights that no runtime can leave out.

    Residual branches begin at zero in a new network; LiteRT's converter makes nothing of such a branch, so its forward
    would take a half or a third of a trained network's time.
    """
    from bsszoo.models.build import build

    return with_all_layers(build(code, num_classes=num_classes, in_chans=in_chans).eval())


def with_all_layers(network: nn.Module) -> nn.Module:
    """A network whose scales that begin at 0, of batch and response normalisations, are 1: it is changed in-place."""
    import torch

    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("weight") and parameter.dim() == 1 and not parameter.any():
                parameter.fill_(1.0)
    return network


def runtime_of(name: str) -> Runtime:
    """The runtime that tables and networks are timed with; its packages are installed.

    Raises:
        SettingsError: There is none of this name, or a package of it is not installed.
    """
    names = [one.name for one in RUNTIMES.values() if one.timed is not None]
    if name not in names:
        raise SettingsError(f"--runtime is {formatted(name)}; it takes {', '.join(names[:-1])} or {names[-1]}.")
    RUNTIMES[name].check()
    return RUNTIMES[name]


def engine_of(name: str) -> Runtime:
    """The runtime of a name of ``bsszoo measure``.

    Raises:
        SettingsError: There is none.
    """
    if name not in ENGINES and name not in RUNTIMES:
        names = ", ".join(dict.fromkeys((*ENGINES, *(n for n in RUNTIMES if n not in ENGINES.values()))))
        raise SettingsError(f"--engines is {formatted(name)}; it takes some of {names}, with commas.")
    return RUNTIMES[ENGINES.get(name, name)]

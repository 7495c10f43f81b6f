"""The runtimes that forwards are timed with: one registry for ``compress``, ``latency-table`` and ``measure``.

A runtime is imported when it is used: what is not installed is missed only where it was asked for.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from bsszoo.errors import SettingsError, formatted
from bsszoo.formats import FORMATS, INPUT, OUTPUT, Format, litert_bytes

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bsszoo.codes.code import Code

#: One forward, whose time is taken.
Forward = Callable[[], object]


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


def _opened(format: str) -> Callable[[Any, torch.Tensor, int], Forward]:
    """What loads the networks of a format: its bytes, or the path of a file with them."""

    def load(exported: bytes | str, images: torch.Tensor, threads: int) -> Forward:
        network = exported if isinstance(exported, bytes) else Path(exported)
        return FORMATS[format].session(network, threads).bind(images.numpy())

    return load


def _onnx(module: nn.Module, images: torch.Tensor) -> bytes:
    """The network as ONNX, by the older exporter: it takes 20 ms for a block, the other one a second."""
    import torch

    file: Any = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (images,), file, dynamo=False, input_names=[INPUT], output_names=[OUTPUT])
    exported: bytes = file.getvalue()
    return exported


#: The runtimes by name. Blocks' times are less even, and shorter, in a runtime that they are exported to, so more of
#: them are timed there. LiteRT's converter takes two seconds for a block, torch.compile longer still.
RUNTIMES: Final = {
    runtime.name: runtime
    for runtime in (
        Runtime("pytorch", _module, timed=(300, 12), networks=16),
        Runtime("compile", _compiled),
        Runtime("onnxruntime", _opened("onnx"), _onnx, ("onnxruntime",), "onnx", (600, 24), 64, "uneven"),
        # It reads ONNX too, which is written in a tenth of the time.
        Runtime("openvino", _opened("openvino"), _onnx, ("openvino",), "openvino", (600, 24), 64, "uneven"),
        Runtime(
            "litert",
            _opened("litert"),
            litert_bytes,
            ("litert_torch", "ai_edge_litert"),
            "litert",
            (120, 8),
            16,
            "vectors",
        ),
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


def int8_format(runtime: str) -> Format:
    """The format whose tool quantises networks for a runtime, and whose files it runs; of PyTorch ONNX."""
    return next((one for one in FORMATS.values() if one.runtime == runtime and one.quantisers), FORMATS["onnx"])


def engine_of(name: str) -> Runtime:
    """The runtime of a name of ``bsszoo measure``.

    Raises:
        SettingsError: There is none.
    """
    if name not in ENGINES and name not in RUNTIMES:
        names = ", ".join(dict.fromkeys((*ENGINES, *(n for n in RUNTIMES if n not in ENGINES.values()))))
        raise SettingsError(f"--engines is {formatted(name)}; it takes some of {names}, with commas.")
    return RUNTIMES[ENGINES.get(name, name)]

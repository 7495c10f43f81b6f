"""``export``: a network as an ONNX or a torch.export file whose outputs are PyTorch's, or no file at all."""

from __future__ import annotations

import copy
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from timm.data import create_transform
from torch import nn

from bsszoo.errors import RunError, SettingsError
from bsszoo.files import plain_name, whole_file
from bsszoo.images import MODES, converted, image_files, read_image
from bsszoo.models.build import input_config
from bsszoo.quantise import CALIBRATION, Compared, QuantisedFile, check_packages, compare, quantise
from bsszoo.version import __version__

Format = Literal["onnx", "torch"]

#: ONNX operator set; what runtimes of recent years read.
OPSET: Final = 18
# Real images on which a float32 file is checked that is quantised.
_CHECKED: Final = 8
_OPSETS: Final = range(18, 24)
SUFFIXES: Final[dict[str, str]] = {"onnx": ".onnx", "torch": ".pt2"}
#: Largest difference that counts as rounding, as a share of the largest output: in float32, and in float16.
BOUNDS: Final = {False: 1e-4, True: 2e-2}


@dataclass(frozen=True, slots=True)
class Exported:
    """An exported file, and the differences of its outputs from PyTorch's.

    ``random`` and ``real`` are the largest absolute differences over the random and the real images, ``largest`` the
    largest absolute output; ``real`` is None without real images. ``input_shape`` has no batch dimension.
    """

    path: Path
    format: Format
    size: int
    opset: int | None
    half: bool
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    outputs: int
    random: float
    real: float | None
    images: tuple[str, ...]
    largest: float

    @property
    def share(self) -> float:
        """The largest difference as a share of the largest output."""
        return max(self.random, self.real or 0.0) / max(self.largest, 1e-30)


class _Half(nn.Module):
    """A network computed in float16 whose input and output stay float32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).half()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """float32 images to float32 outputs."""
        outputs: torch.Tensor = self.network(images.half())
        return outputs.float()


def file_name(source: str, format: str) -> str:
    """The name of the exported file of a network, from its path, repository, name or code."""
    path = Path(source)
    short = path.name if path.exists() else source.removeprefix("hf-hub:").partition("@")[0].rpartition("/")[2]
    return (plain_name(short).strip("-") or "network") + SUFFIXES.get(format, "")


def export(
    network: nn.Module,
    path: str | Path,
    *,
    format: Format = "onnx",
    half: bool = False,
    opset: int = OPSET,
    images: Sequence[str | Path] | None = None,
    bound: float | None = None,
    label: str = "",
) -> Exported:
    """Write a network to a file, run the file, and delete it unless its outputs are PyTorch's.

    The batch is dynamic, the size of the input is not. Any batch size gives the same outputs, which the
    check uses. The normalisation of the input is not part of the file but of ONNX's metadata.

    Args:
        network: In evaluation mode, on the CPU, float32.
        path: The file; it is written whole or not at all.
        format: ``onnx``, or ``torch`` for torch.export's program.
        half: Weights and arithmetic in float16; input and output stay float32.
        opset: ONNX operator set, 18 to 23.
        images: Files or folders of real images to check on; two photographs by default.
        bound: Largest difference allowed, as a share of the largest output; 0.0001, with ``half`` 0.02.
        label: The network's name, for the metadata.

    Raises:
        SettingsError: A setting is invalid, or the packages that run the file are not installed.
        DataError: An image cannot be read.
        RunError: The network cannot be exported, or the file's outputs differ; no file is left.
    """
    target = Path(path).expanduser()
    allowed = BOUNDS[half] if bound is None else bound
    _check_settings(format, opset, allowed, target)
    config = input_config(network)
    check = check_inputs(config, images)
    expected = _outputs(network, check)  # before the weights are rounded
    running = _Half(network).eval() if half else network
    sample = check.random[:2]
    try:
        with whole_file(target) as scratch, _quiet():
            # The writers go by the file's ending.
            written = scratch.with_name(f"{scratch.name}{SUFFIXES[format]}")
            try:
                run = (
                    _write_onnx(running, sample, written, opset, _facts(network, config, label))
                    if format == "onnx"
                    else _write_program(running, sample, written)
                )
                random, real, largest = _differences(run, check, expected)
                share = max(random, real or 0.0) / max(largest, 1e-30)
                if not share <= allowed:
                    raise RunError(
                        f"The outputs of the exported file differ from PyTorch's by up to "
                        f"{max(random, real or 0.0):.3g}, {share:.2g} of the largest output; the bound is "
                        f"{allowed:g}. No file was written. "
                        + (
                            "float16 may be too coarse for this network; leave out --fp16."
                            if half
                            else "This is a bug of an exporter or a runtime: please report it with the versions of "
                            "torch, onnx and onnxruntime."
                        )
                    )
                written.replace(scratch)
            finally:
                written.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"{target} cannot be written: {error.strerror or error}.") from error
    return Exported(
        path=target,
        format=format,
        size=target.stat().st_size,
        opset=opset if format == "onnx" else None,
        half=half,
        input_shape=tuple(config["input_size"]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        outputs=int(expected[0].shape[-1]),
        random=random,
        real=real,
        images=check.names,
        largest=largest,
    )


@dataclass(frozen=True, slots=True)
class ExportedInt8:
    """A quantised file, the float32 file that it was made from, which is not kept, and the two on real images.

    ``unseen`` says whether these are other images than those of the calibration.
    """

    file: QuantisedFile
    exported: Exported
    compared: Compared
    unseen: bool


def export_int8(
    network: nn.Module,
    path: str | Path,
    images: Sequence[str | Path],
    *,
    opset: int = OPSET,
    bound: float | None = None,
    label: str = "",
) -> ExportedInt8:
    """Write a network to an ONNX file with weights and activations of 8 bits, by onnxruntime's quantisation.

    Up to 256 of the images, at random, calibrate it, and up to as many others compare it with the float32 file, which
    is checked against PyTorch as ``export`` does. How much accuracy it loses labels alone would say.

    Args:
        network: In evaluation mode, on the CPU, float32.
        path: The file; it is written whole or not at all.
        images: Files or folders of images like those that the network is for.
        opset, bound, label: As ``export``.

    Raises:
        SettingsError, DataError, RunError: As ``export``.
    """
    target = Path(path).expanduser()
    _check_settings("onnx", opset, BOUNDS[False] if bound is None else bound, target)
    check_packages()
    config, found = input_config(network), image_files(images, most=None)
    if config["input_size"][0] not in MODES:
        raise SettingsError(
            f"Images are read with 1, 3 or 4 channels, and the network takes {config['input_size'][0]}."
        )
    files = [found[i] for i in np.random.default_rng(0).permutation(len(found))]
    number = min(CALIBRATION, len(files) - len(files) // 4)  # of few some are kept apart
    calibration, others = files[:number], files[number : number + CALIBRATION]
    with tempfile.TemporaryDirectory(prefix="bsszoo-export-") as folder:
        source = Path(folder) / "float32.onnx"
        exported = export(network, source, opset=opset, images=calibration[:_CHECKED], bound=bound, label=label)
        inputs = _inputs(config, calibration).numpy()
        made = quantise(source, target, inputs)
        unseen = _inputs(config, others).numpy() if others else inputs
        compared = compare(source, target, ((batch, None) for batch in _parts(unseen)))
    return ExportedInt8(made, exported, compared, bool(others))


def _parts(images: NDArray[np.float32], size: int = 32) -> Iterator[NDArray[np.float32]]:
    return (images[start : start + size] for start in range(0, len(images), size))


def _refused(error: Exception) -> RunError:
    message = (str(error).splitlines() or [""])[0]
    return RunError(f"The network cannot be exported: {type(error).__name__}: {message}")


Runner = Callable[[torch.Tensor], torch.Tensor]


def _write_onnx(network: nn.Module, sample: torch.Tensor, path: Path, opset: int, facts: dict[str, str]) -> Runner:
    import onnx
    import onnxruntime

    try:
        torch.onnx.export(
            network,
            (sample,),
            path,
            dynamo=True,
            verbose=False,
            opset_version=opset,
            external_data=False,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
        model = onnx.load(str(path))
        # The exporter notes on each node which line of which file of this machine it comes from.
        for part in (*model.graph.node, *model.graph.value_info, model.graph):
            del part.metadata_props[:]
        onnx.helper.set_model_props(model, facts)
        onnx.checker.check_model(model)
        onnx.save(model, str(path))
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # the exporter and the runtime have no class of their own for what they cannot do
        raise _refused(error) from error

    def run(images: torch.Tensor) -> torch.Tensor:
        (outputs,) = session.run(["logits"], {"images": images.numpy()})
        return torch.from_numpy(outputs)

    return run


def _write_program(network: nn.Module, sample: torch.Tensor, path: Path) -> Runner:
    try:
        program = torch.export.export(network, (sample,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # lines of files of this machine
        torch.export.save(program, path)
    except Exception as error:  # as above
        raise _refused(error) from error
    loaded = torch.export.load(path).module()

    def run(images: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            outputs: torch.Tensor = loaded(images)
        return outputs

    return run


def _outputs(network: nn.Module, check: Check) -> tuple[torch.Tensor, torch.Tensor | None]:
    with torch.inference_mode():
        return network(check.random), None if check.real is None else network(check.real)


def _differences(
    run: Runner, check: Check, expected: tuple[torch.Tensor, torch.Tensor | None]
) -> tuple[float, float | None, float]:
    """The largest differences on random and on real images, and the largest output; in batches of several sizes."""
    random, largest = 0.0, float(expected[0].abs().max())
    for size in (1, 2, len(check.random)):
        for start in range(0, len(check.random), size):
            part = slice(start, start + size)
            random = max(random, _largest(run(check.random[part]) - expected[0][part]))
    if check.real is None or expected[1] is None:
        return random, None, largest
    real = max(_largest(run(image[None]) - output[None]) for image, output in zip(check.real, expected[1], strict=True))
    return random, real, max(largest, float(expected[1].abs().max()))


def _largest(difference: torch.Tensor) -> float:
    # A comparison with NaN is never true; infinity is over every bound.
    return float(difference.abs().nan_to_num(nan=float("inf")).max())


def _facts(network: nn.Module, config: dict[str, Any], label: str) -> dict[str, str]:
    """ONNX's metadata, as text: what a user of the file needs beside it."""
    made: Any = network
    labels = made.default_cfg.get("label_names")
    facts = {
        "network": label,
        "input_size": json.dumps(list(config["input_size"])),
        "mean": json.dumps(list(config["mean"])),
        "std": json.dumps(list(config["std"])),
        "interpolation": str(config["interpolation"]),
        "crop_pct": str(config["crop_pct"]),
        "bsszoo": __version__,
        "torch": torch.__version__,
    }
    return {**facts, **({"label_names": json.dumps(labels)} if labels else {})}


def _check_settings(format: str, opset: int, bound: float, target: Path) -> None:
    if format not in SUFFIXES:
        raise SettingsError(f"--format is {format!r}; it takes {' or '.join(SUFFIXES)}.")
    if opset not in _OPSETS:
        raise SettingsError(f"--opset is {opset!r}; it takes a number from {_OPSETS[0]} to {_OPSETS[-1]}.")
    if not 0 < bound < float("inf"):
        raise SettingsError(f"--bound is {bound!r}; it takes a share above 0, such as 0.0001.")
    if target.is_dir() or not target.parent.is_dir():
        what = "is a folder" if target.is_dir() else f"lies in {target.parent}, which is no folder"
        raise SettingsError(f"{target} {what}: give a file with --out.")
    if target.is_file() and target.suffix not in SUFFIXES.values():
        raise SettingsError(f"{target} exists already and is no exported file: give another with --out.")
    if format == "onnx":
        check_onnx()


def check_onnx() -> None:
    """A ``SettingsError`` where the packages that write and run ONNX files are not installed."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            __import__(package)
        except ImportError:
            raise SettingsError(
                f"ONNX needs the package {package}, which is not installed: pip install 'bsszoo[onnx]'."
            ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters' remarks, which are for their developers."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


# The images that an exported network is checked on: random ones, and real ones as the network's users give them


_RANDOM: Final = 5
#: Real images that come with matplotlib, the default.
_BUNDLED: Final = ("grace_hopper.jpg", "Minduka_Present_Blue_Pack.png")


@dataclass(frozen=True, slots=True)
class Check:
    """Images to compare two networks on: ``random`` [n, c, s, s] and ``real`` ones, or None."""

    random: torch.Tensor
    real: torch.Tensor | None
    names: tuple[str, ...]


def check_inputs(config: Mapping[str, Any], images: Sequence[str | Path] | None, *, seed: int = 0) -> Check:
    """Random images, and real ones with timm's evaluation transform.

    Args:
        config: The network's ``input_config``.
        images: Files or folders of images; two photographs that come with matplotlib by default.
        seed: Seed of the random ones.

    Raises:
        DataError: There is no such image, or it cannot be read.
    """
    channels, height, width = config["input_size"]
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(_RANDOM, channels, height, width, generator=generator)
    files = _bundled() if images is None else image_files(images)
    if channels not in MODES or not files:
        return Check(noise, None, ())
    return Check(noise, _inputs(config, files), tuple(file.name for file in files))


def _inputs(config: Mapping[str, Any], files: Sequence[Path]) -> torch.Tensor:
    """Images as a network takes them in evaluation, [n, c, s, s]."""
    transform = create_transform(**config, is_training=False)
    mode = MODES[config["input_size"][0]]
    return torch.stack([transform(converted(read_image(file), mode, str(file))) for file in files])


def _bundled() -> list[Path]:
    from matplotlib import get_data_path

    folder = Path(get_data_path()) / "sample_data"
    return [folder / name for name in _BUNDLED if (folder / name).is_file()]

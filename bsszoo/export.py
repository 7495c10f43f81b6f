"""``export``: a network as a file of another runtime whose outputs are PyTorch's, or no file at all."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from timm.data import create_transform
from torch import nn

from bsszoo.errors import RunError, SettingsError
from bsszoo.files import plain_name
from bsszoo.formats import FORMATS, QUANTISED, Format, FormatName, Session, either, quiet
from bsszoo.images import MODES, converted, image_files, read_image
from bsszoo.models.build import input_config
from bsszoo.quantise import CALIBRATION, SUFFIX, Compared, QuantisedFile, compare, quantise
from bsszoo.version import __version__

#: ONNX operator set; what runtimes of recent years read.
OPSET: Final = 18
# Real images on which a float32 file is checked that is quantised.
_CHECKED: Final = 8
_OPSETS: Final = range(18, 24)
#: Largest difference that counts as rounding, as a share of the largest output: in float32, and in float16.
BOUNDS: Final = {False: 1e-4, True: 2e-2}


@dataclass(frozen=True, slots=True)
class Exported:
    """An exported file, and the differences of its outputs from PyTorch's.

    ``random`` and ``real`` are the largest absolute differences over the random and the real images, ``largest`` the
    largest absolute output; ``real`` is None without real images. ``input_shape`` has no batch dimension; the file
    takes any number of images, where ``free_batch`` is set, or one. ``size`` is that of all ``files``: ``path``, and of
    OpenVINO the weights beside it.
    """

    path: Path
    format: FormatName
    files: tuple[Path, ...]
    free_batch: bool
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


def file_name(source: str, format: str, *, int8: bool = False) -> str:
    """The name of the exported file of a network, from its path, repository, name or code."""
    path = Path(source)
    short = path.name if path.exists() else source.removeprefix("hf-hub:").partition("@")[0].rpartition("/")[2]
    suffix = FORMATS[format].suffix if format in FORMATS else ""
    return (plain_name(short).strip("-") or "network") + (SUFFIX if int8 else "") + suffix


def export(
    network: nn.Module,
    path: str | Path,
    *,
    format: FormatName = "onnx",
    half: bool = False,
    opset: int = OPSET,
    images: Sequence[str | Path] | None = None,
    bound: float | None = None,
    label: str = "",
) -> Exported:
    """Write a network to a file, run the file, and delete it unless its outputs are PyTorch's.

    The size of the input is fixed; the batch is free, of LiteRT one image. The check goes through batches of several
    sizes. The normalisation of the input is not part of the file but of its metadata, which torch.export's has not.

    Args:
        network: In evaluation mode, on the CPU, float32.
        path: The file; it is written whole or not at all. Of OpenVINO it ends with ``.xml``, and a file that ends with
            ``.bin`` is written beside it.
        format: ``onnx``, ``openvino``, ``litert``, or ``torch`` for torch.export's program.
        half: Weights in float16, and in ONNX and torch.export's program the arithmetic too; OpenVINO and LiteRT choose
            that when they run. Input and output stay float32.
        opset: ONNX operator set, 18 to 23.
        images: Files or folders of real images to check on; two photographs by default.
        bound: Largest difference allowed, as a share of the largest output; 0.0001, with ``half`` 0.02.
        label: The network's name, for the metadata.

    Raises:
        SettingsError: A setting is invalid, or the packages that write and run the file are not installed.
        DataError: An image cannot be read.
        RunError: The network cannot be exported, or the file's outputs differ; no file is left.
    """
    target = Path(path).expanduser()
    allowed = BOUNDS[half] if bound is None else bound
    chosen = _checked(format, opset, allowed, target)
    config = input_config(network)
    check = check_inputs(config, images)
    expected = _outputs(network, check)  # before the weights are rounded
    running = _Half(network).eval() if half and not chosen.half_weights else network
    facts = _facts(network, config, label)
    try:
        with tempfile.TemporaryDirectory(prefix="bsszoo-export-") as folder, quiet():
            written = Path(folder) / f"network{chosen.suffix}"
            try:
                chosen.write(running, check.random[:2], written, facts, opset=opset, half=half)
                session = chosen.session(written, torch.get_num_threads())
            except Exception as error:  # the exporters and runtimes have no class of their own for what they cannot do
                raise _refused(error) from error
            random, real, largest = _differences(session, chosen, check, expected)
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
                        f"{', '.join(('torch', *chosen.modules))}."
                    )
                )
            chosen.copy(written, target)
    except OSError as error:
        raise RunError(f"{target} cannot be written: {error.strerror or error}.") from error
    return Exported(
        path=target,
        format=format,
        files=chosen.files(target),
        free_batch=chosen.free_batch,
        size=chosen.size(target),
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
    format: FormatName = "onnx",
    opset: int = OPSET,
    bound: float | None = None,
    label: str = "",
) -> ExportedInt8:
    """Write a network to a file with weights and activations of 8 bits, by the quantisation of the format's runtime.

    Up to 256 of the images, at random, calibrate it, and up to as many others compare it with the float32 file, which
    is checked against PyTorch as ``export`` does. How much accuracy it loses labels alone would say.

    Args:
        network: In evaluation mode, on the CPU, float32.
        path: The file; it is written whole or not at all.
        images: Files or folders of images like those that the network is for.
        format: ``onnx`` (onnxruntime), ``openvino`` (NNCF) or ``litert`` (ai-edge-quantizer).
        opset, bound, label: As ``export``.

    Raises:
        SettingsError, DataError, RunError: As ``export``.
    """
    target = Path(path).expanduser()
    if format not in QUANTISED:
        raise SettingsError(f"--quantize takes the formats {either(QUANTISED)}, not {format!r}.")
    chosen = _checked(format, opset, BOUNDS[False] if bound is None else bound, target)
    chosen.check(quantises=True)
    config, found = input_config(network), image_files(images, most=None)
    if config["input_size"][0] not in MODES:
        raise SettingsError(
            f"Images are read with 1, 3 or 4 channels, and the network takes {config['input_size'][0]}."
        )
    files = [found[i] for i in np.random.default_rng(0).permutation(len(found))]
    number = min(CALIBRATION, len(files) - len(files) // 4)  # of few some are kept apart
    calibration, others = files[:number], files[number : number + CALIBRATION]
    with tempfile.TemporaryDirectory(prefix="bsszoo-export-") as folder:
        source = Path(folder) / f"float32{chosen.suffix}"
        checked = calibration[:_CHECKED]
        exported = export(network, source, format=format, opset=opset, images=checked, bound=bound, label=label)
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


def _outputs(network: nn.Module, check: Check) -> tuple[torch.Tensor, torch.Tensor | None]:
    with torch.inference_mode():
        return network(check.random), None if check.real is None else network(check.real)


def _differences(
    session: Session, format: Format, check: Check, expected: tuple[torch.Tensor, torch.Tensor | None]
) -> tuple[float, float | None, float]:
    """The largest differences on random and on real images, and the largest output; in batches of several sizes."""

    def run(images: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(session(images.numpy()))

    random, largest = 0.0, float(expected[0].abs().max())
    for size in (1, 2, len(check.random)) if format.free_batch else (1,):
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
    """The file's metadata, as text: what its user needs to know."""
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


def _checked(format: str, opset: int, bound: float, target: Path) -> Format:
    """The format; a ``SettingsError`` where a setting is invalid or a package is not installed."""
    if format not in FORMATS:
        raise SettingsError(f"--format is {format!r}; it takes {either(tuple(FORMATS))}.")
    chosen = FORMATS[format]
    if opset not in _OPSETS:
        raise SettingsError(f"--opset is {opset!r}; it takes a number from {_OPSETS[0]} to {_OPSETS[-1]}.")
    if not 0 < bound < float("inf"):
        raise SettingsError(f"--bound is {bound!r}; it takes a share above 0, such as 0.0001.")
    if target.is_dir() or not target.parent.is_dir():
        what = "is a folder" if target.is_dir() else f"lies in {target.parent}, which is no folder"
        raise SettingsError(f"{target} {what}: give a file with --out.")
    if chosen.beside and target.suffix != chosen.suffix:
        raise SettingsError(f"{target}: the name of an {chosen.title} file ends with {chosen.suffix}.")
    files = chosen.files(target)
    known = target.suffix in {one.suffix for one in FORMATS.values()}
    for file in files:
        # A pair is replaced as one.
        if file.is_file() and not (known and all(one.is_file() for one in files)):
            raise SettingsError(f"{file} exists already and is no exported file: give another with --out.")
    chosen.check()
    return chosen


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

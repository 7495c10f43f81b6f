"""``quantise``: an exported ONNX file with weights and activations of 8 bits, by onnxruntime's own tool.

    float32 file --quant_pre_process--> shapes inferred, batch normalisations folded
                 --quantize_static, calibrated--> int8 file, QuantizeLinear and DequantizeLinear around layers

Post-training quantisation: nothing is trained. Weights have a scale for each output channel; activations one for each
tensor, by the lowest and the highest value that it has on the calibration images. Of networks with layer
normalisations (ConvNeXts, ViTs) convolutions and matrix products alone are quantised.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bsszoo.errors import RunError, SettingsError
from bsszoo.files import whole_file

Images = NDArray[np.float32]

#: Calibration images where there are so many: more of them move the extremes of activations little.
CALIBRATION: Final = 256
#: Of a file ``NAME.onnx`` that is quantised.
SUFFIX: Final = ".int8.onnx"
# Calibration images of a forward.
_BATCH: Final = 16
# What is quantised of a network with layer normalisations: sums along its skips, which they rescale, have extremes that
# leave few of 256 steps to the rest (the outputs of a DeiT then differ five times as much, and take as long).
_NORM: Final = "LayerNormalization"
_PRODUCTS: Final = ["Conv", "MatMul", "Gemm"]
_PACKAGES: Final = ("onnx", "onnxruntime")


@dataclass(frozen=True, slots=True)
class QuantisedFile:
    """A quantised file, its bytes and those of the float32 file, and the number of calibration images."""

    path: Path
    size: int
    float_size: int
    calibrated: int


@dataclass(frozen=True, slots=True)
class Compared:
    """Two files on the same images.

    ``right`` and ``float_right`` are the numbers of images whose label is the output's first choice, of ``images``;
    ``lost`` those that only the float32 file has right, ``won`` those that only the quantised one has. ``agree`` is the
    number of images for which both have the same first choice, ``difference`` the largest difference of two outputs,
    and ``largest`` the largest absolute output of the float32 file.
    """

    images: int
    float_right: int
    right: int
    lost: int
    won: int
    agree: int
    difference: float
    largest: float


def check_packages() -> None:
    """A ``SettingsError`` where the packages that quantise are not installed."""
    for package in _PACKAGES:
        try:
            __import__(package)
        except ImportError:
            raise SettingsError(
                f"--quantize needs the package {package}, which is not installed: pip install 'bsszoo[onnx]'."
            ) from None


def method() -> str:
    """How networks are quantised, in words, with the runtime's version."""
    from importlib.metadata import version

    return (
        f"int8 by onnxruntime {version('onnxruntime')}: static, QDQ, weights per channel, activations per tensor "
        "between their extremes on calibration images"
    )


def quantise(source: Path, target: Path, images: Images) -> QuantisedFile:
    """Write an exported file with weights and activations of 8 bits.

    Args:
        source: A float32 file of ``export``.
        target: The quantised file; it is written whole or not at all, with the metadata of ``source``.
        images: Calibration images as the network takes them, float32 [n, c, h, w].

    Raises:
        SettingsError: There is no image, or the packages are not installed.
        RunError: The file cannot be quantised, or the result cannot be run; no file is left.
    """
    check_packages()
    if not len(images):
        raise SettingsError("Quantisation takes images to calibrate on, and there is none.")
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    (name, *_) = session_of(source).get_inputs()
    try:
        with tempfile.TemporaryDirectory(prefix="bsszoo-int8-") as folder, _quiet():
            prepared, written = Path(folder) / "prepared.onnx", Path(folder) / "int8.onnx"
            # Exported files have the shapes; onnxruntime's symbolic inference of them fails on ConvNeXt V2's norms.
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            nodes = {node.op_type for node in onnx.load(str(prepared)).graph.node}
            quantize_static(
                str(prepared),
                str(written),
                _reader(name.name, images),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=_PRODUCTS if _NORM in nodes else None,
                per_channel=True,
                # On x86 onnxruntime computes these products fastest; signed activations took three times as long.
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
            )
            model = onnx.load(str(written))
            before = {p.key: p.value for p in onnx.load(str(source), load_external_data=False).metadata_props}
            onnx.helper.set_model_props(
                model, {**before, "quantised": method(), "calibration_images": str(len(images))}
            )
            onnx.checker.check_model(model)
            with whole_file(target) as scratch:
                onnx.save(model, str(scratch))
                outputs = outputs_of(session_of(scratch), images[:2])
                if not np.isfinite(outputs).all():
                    raise RunError("The outputs of the quantised file are no numbers. No file was written.")
    except (RunError, SettingsError):
        raise
    except OSError as error:
        raise RunError(f"{target} cannot be written: {error.strerror or error}.") from error
    except Exception as error:  # the quantiser has no class of its own for what it cannot do
        message = (str(error).splitlines() or [""])[0]
        raise RunError(f"The network cannot be quantised: {type(error).__name__}: {message}") from error
    return QuantisedFile(target, target.stat().st_size, source.stat().st_size, len(images))


def session_of(file: Path) -> Any:
    """onnxruntime's session of a file, on the CPU, with as many threads as PyTorch has now."""
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def outputs_of(session: Any, images: Images) -> Images:
    """The outputs of a session for images, float32 [n, k]."""
    (name, *_) = session.get_inputs()
    outputs: Images = session.run(None, {name.name: images})[0]
    return outputs


def compare(source: Path, quantised: Path, batches: Iterable[tuple[Images, NDArray[np.int64] | None]]) -> Compared:
    """The float32 file and the quantised one on the same images.

    Args:
        source, quantised: The files.
        batches: Images as the network takes them, float32 [m, c, h, w], with their labels [m]; None where they have
            none, which are then right for neither.
    """
    sessions = session_of(source), session_of(quantised)
    counts = dict.fromkeys(("images", "float_right", "right", "lost", "won", "agree"), 0)
    difference = largest = 0.0
    for images, labels in batches:
        theirs, mine = (outputs_of(session, images) for session in sessions)
        first, second = theirs.argmax(1), mine.argmax(1)
        known = np.full(len(images), -1) if labels is None else labels
        before, after = first == known, second == known
        for key, hits in (
            ("images", np.ones(len(images), dtype=bool)),
            ("float_right", before),
            ("right", after),
            ("lost", before & ~after),
            ("won", after & ~before),
            ("agree", first == second),
        ):
            counts[key] += int(hits.sum())
        difference = max(difference, float(np.abs(theirs - mine).max()))
        largest = max(largest, float(np.abs(theirs).max()))
    return Compared(**counts, difference=difference, largest=largest)


def _reader(name: str, images: Images) -> Any:
    """The quantiser's reader of calibration images."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # a class of a package without types
        def __init__(self) -> None:
            self._starts = iter(range(0, len(images), _BATCH))

        def get_next(self) -> dict[str, Images] | None:
            start = next(self._starts, None)
            return None if start is None else {name: np.ascontiguousarray(images[start : start + _BATCH])}

    return Reader()


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the quantiser's remarks, which it writes to the root logger and to the screen."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(level)

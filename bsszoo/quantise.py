"""``quantise``: an exported file with weights and activations of 8 bits, by its runtime's own tool; and ``compare``.

Post-training quantisation: nothing is trained. What each tool does is in ``formats``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bsszoo.errors import RunError, SettingsError
from bsszoo.formats import QUANTISED, Images, Session, either, format_of, quiet

#: Calibration images where there are so many: more of them move the extremes of activations little.
CALIBRATION: Final = 256
#: Of a file ``NAME.onnx`` that is quantised, in front of the format's suffix.
SUFFIX: Final = ".int8"


@dataclass(frozen=True, slots=True)
class QuantisedFile:
    """A quantised file, its bytes and those of the float32 file, and the number of calibration images.

    ``files`` are ``path`` and, of OpenVINO, the weights beside it; ``size`` is that of all of them. It takes any number
    of images, where ``free_batch`` is set, or one.
    """

    path: Path
    files: tuple[Path, ...]
    size: int
    float_size: int
    calibrated: int
    free_batch: bool


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


def quantise(source: Path, target: Path, images: Images) -> QuantisedFile:
    """Write an exported file with weights and activations of 8 bits.

    Args:
        source: A float32 file of ``export``, of ONNX, OpenVINO or LiteRT.
        target: The quantised file, of the same format; it is written whole or not at all, with the metadata of
            ``source``.
        images: Calibration images as the network takes them, float32 [n, c, h, w].

    Raises:
        SettingsError: There is no image, ``source`` is of no such format, or the packages are not installed.
        RunError: The file cannot be quantised, or the result cannot be run; no file is left.
    """
    format = format_of(source)
    if format.name not in QUANTISED:
        raise SettingsError(f"{source} is a {format.title} file; it takes one of {either(QUANTISED)}.")
    format.check(quantises=True)
    if not len(images):
        raise SettingsError("Quantisation takes images to calibrate on, and there is none.")
    facts = {"quantised": format.method, "calibration_images": str(len(images))}
    try:
        with tempfile.TemporaryDirectory(prefix="bsszoo-int8-") as folder, quiet():
            written = Path(folder) / f"network{format.suffix}"
            format.quantise(source, written, images, facts)
            if not np.isfinite(format.session(written, 1)(images[:2])).all():
                raise RunError("The outputs of the quantised file are no numbers. No file was written.")
            format.copy(written, target)
    except (RunError, SettingsError):
        raise
    except OSError as error:
        raise RunError(f"{target} cannot be written: {error.strerror or error}.") from error
    except Exception as error:  # the quantisers have no class of their own for what they cannot do
        message = (str(error).splitlines() or [""])[0]
        raise RunError(f"The network cannot be quantised: {type(error).__name__}: {message}") from error
    sizes = format.size(target), format.size(source)
    return QuantisedFile(target, format.files(target), *sizes, len(images), format.free_batch_int8)


def session_of(file: Path) -> Session:
    """A file opened by the runtime of its format, on the CPU, with as many threads as PyTorch has now."""
    import torch

    return format_of(file).session(file, torch.get_num_threads())


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
        theirs, mine = (session(images) for session in sessions)
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

"""``quantise_networks``: the trained networks of a run's end in int8, beside float32 through the same runtime.

    weights of a fresh training --export--> float32 file --quantise, calibrated on training images--> int8 file
         both --on the split that the search never sees--> accuracies, sizes, latencies

Files are in ``quantised/`` of the run's folder until all figures are known, so that a run that was killed goes on with
them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from bsszoo.codes.code import Code
from bsszoo.compression.folder import QUANTISED, int8_file
from bsszoo.formats import Format
from bsszoo.options import INT8
from bsszoo.study.result import Quantised, QuantisedRow

if TYPE_CHECKING:
    from torch import nn


@runtime_checkable
class WithNetworks(Protocol):
    """A tester whose fresh trainings leave networks, and which has the images that they are measured on."""

    @property
    def test_split(self) -> str:
        """What images ``tested`` measures on, as the end of a sentence."""
        ...

    def training_name(self, code: Code, number: int) -> str:
        """A name, as a file's, that stands for the weights of a fresh training."""
        ...

    def trained_network(self, code: Code, number: int) -> nn.Module:
        """The network of a fresh training, in evaluation mode on the CPU."""
        ...

    def calibration_images(self, number: int) -> Any:
        """Up to so many training images as networks take them, float32 [n, c, s, s]."""
        ...

    def test_batches(self) -> Iterator[tuple[Any, Any]]:
        """The images that ``tested`` measures on, as networks take them, and their labels."""
        ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """A network to quantise: its label, its code, and which of its fresh trainings has the weights."""

    label: str
    code: Code
    number: int


@dataclass(frozen=True, slots=True)
class Timing:
    """The forwards that are timed: images at a time, and CPU threads (0: PyTorch's)."""

    batch: int
    threads: int


def quantise_networks(
    judge: WithNetworks,
    wanted: Sequence[Wanted],
    folder: Path,
    earlier: Quantised | None,
    *,
    format: Format,
    timing: Timing | None,
    on_network: Callable[[Quantised, int, str], None] = lambda *_: None,
) -> Quantised:
    """What quantisation changes of some networks; what ``earlier`` has of them is not measured again.

    The last one's int8 file is written as ``recommended/model.int8.onnx`` too, or with the suffix of another format.

    Args:
        judge: What trained the networks.
        wanted: The networks; the last one is the recommended.
        folder: The run's folder.
        earlier: The figures so far.
        format: Whose tool quantises, and whose runtime runs and times both files.
        timing: How forwards are timed; None leaves latencies out.
        on_network: Called with the figures so far, the number of networks done and a text, before each network and
            before the latencies.

    Raises:
        SettingsError: The packages that quantise are not installed.
        RunError: A network cannot be exported or quantised.
    """
    from bsszoo.quantise import CALIBRATION

    names = [judge.training_name(one.code, one.number) for one in wanted]
    made = Quantised(INT8, format.method, 0, f"top-1 accuracy [%] on {judge.test_split}", ())
    if earlier is not None and (earlier.method, earlier.measures) == (made.method, made.measures):
        made = replace(earlier, rows=())
        known = {row.training: row for row in earlier.rows}
    else:
        known = {}
    rows = {
        name: replace(known[name], label=one.label) for name, one in zip(names, wanted, strict=True) if name in known
    }
    made = replace(made, rows=tuple(rows.values()))
    to_time = timing is not None and any(name not in rows or rows[name].ms is None for name in names)
    complete = len(rows) == len(names) and not to_time
    target = folder / int8_file(format)
    work = folder / QUANTISED
    if complete and target.is_file():
        shutil.rmtree(work, ignore_errors=True)  # a kill may have left it
        return made
    work.mkdir(exist_ok=True)
    suffixes = format.suffix, f".int8{format.suffix}"
    files = {name: (work / f"{name}{suffixes[0]}", work / f"{name}{suffixes[1]}") for name in names}
    images = judge.calibration_images(CALIBRATION)
    made = replace(made, calibrated=len(images))
    for done, (name, one) in enumerate(zip(names, wanted, strict=True)):
        # Latencies take turns, so they take the files of all networks; the int8 file of the last is delivered.
        if name in rows and not to_time and name != names[-1]:
            continue
        on_network(made, done, f"Quantising the {one.label} network ...")
        _make(judge, one, files[name], images, format)
        if name not in rows:
            rows[name] = _measured(judge, one, name, files[name], format)
        made = replace(made, rows=tuple(rows[n] for n in names if n in rows))
        on_network(made, done + 1, "")
    if to_time and timing is not None:
        on_network(made, len(names), "Measuring latencies in float32 and int8 ...")
        made = _timed(made, names, files, images.shape[1:], timing)
    format.copy(files[names[-1]][1], target)
    shutil.rmtree(work)
    return made


def _make(judge: WithNetworks, one: Wanted, files: tuple[Path, Path], images: Any, format: Format) -> None:
    """Write the two files of a network, those that are not there."""
    from bsszoo.export import export
    from bsszoo.quantise import quantise

    source, target = files
    if not source.is_file():
        for file in format.files(source):  # a kill may have left one of two
            file.unlink(missing_ok=True)
        network = judge.trained_network(one.code, one.number)
        export(network, source, format=format.name, label=str(one.code))
    if not target.is_file():
        quantise(source, target, images)


def _measured(judge: WithNetworks, one: Wanted, name: str, files: tuple[Path, Path], format: Format) -> QuantisedRow:
    from bsszoo.quantise import compare

    found = compare(*files, judge.test_batches())
    return QuantisedRow(
        one.label,
        one.code,
        name,
        one.number,
        found.images,
        100 * found.float_right / found.images,
        100 * found.right / found.images,
        found.lost,
        found.won,
        *(format.size(file) for file in files),
    )


def _timed(
    made: Quantised, names: Sequence[str], files: dict[str, tuple[Path, Path]], shape: tuple[int, ...], timing: Timing
) -> Quantised:
    from bsszoo.latency.timer import measure_files

    several = [file for name in names for file in files[name]]
    latencies = measure_files(several, shape, batch=timing.batch, threads=timing.threads)
    times = [latency.median_ms for latency in latencies]
    pairs = dict(zip(names, zip(times[::2], times[1::2], strict=True), strict=True))
    rows = tuple(replace(row, float_ms=pairs[row.training][0], ms=pairs[row.training][1]) for row in made.rows)
    number = "one image" if timing.batch == 1 else f"{timing.batch} images"
    how = f"median of {latencies[0].runs} forwards of {number}, {latencies[0].where}, all files taking turns"
    return replace(made, rows=rows, timed=how)

"""A command's result once more, from its folder's files alone, where nothing has changed since it ended.

    command --digest--> finished.json of a run --stamps of inputs and files, versions--> result.json and trials.csv

Going on with a finished run gives the same result, and loads PyTorch, the weights and the images to find that nothing
is left to do; a command line that is asked again should answer at once. What cannot be told from stamps, such as a Hub
or a shared study, goes the long way, and so does a folder of which any file is not as it was left.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from bsszoo.codes.code import Code
from bsszoo.codes.cost import Cost
from bsszoo.codes.detector import DetectorHead
from bsszoo.compression.folder import RECOMMENDED, RESULT, in_use, read_json, trials_in, write_json
from bsszoo.compression.result import CompressResult, versions
from bsszoo.evaluators.base import EvaluatorInfo
from bsszoo.study.result import Confirmation, Finished, NetworkRow, Quantised, ResolvedBudget, TrainingFacts

#: What command a run's folder is the end of.
FINISHED: Final = "finished.json"
#: Where runs are that were given no folder.
_RUNS: Final = Path("bsszoo-runs")
# Several machines or processes write these.
_SHARED: Final = ("storage", "study", "ray")
_RUNTIMES: Final = ("torchvision", "onnx", "onnxruntime", "openvino", "nncf", "ai-edge-litert", "ai-edge-quantizer")
_ONLINE: Final = ("hf-hub:", "hfds/")
# Of the images in ROOT/SPLIT/CLASS and ROOT/CLASS there are too many to look at each; those that come or go change the
# time of their folder.
_IMAGES: Final = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


class Command:
    """A command line, and the files that it names as they are now: before it is run.

    Args:
        network, options: As on the command line.
    """

    def __init__(self, network: str, options: Mapping[str, Any]) -> None:
        given = {name: value for name, value in options.items() if value is not None}
        text = json.dumps([network, given], sort_keys=True, default=str)
        self._digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        self._out = None if options.get("out") is None else Path(options["out"])
        self._inputs = _inputs({"network": network, **given})

    def result(self) -> CompressResult | None:
        """The result of the run that ended this command before; None without one, or if anything has changed since."""
        if self._inputs is None:
            return None
        folders = sorted(path.parent for path in _RUNS.glob(f"*/{FINISHED}")) if self._out is None else [self._out]
        for folder in folders:
            record = read_json(folder / FINISHED) or {}
            if (record.get("command"), record.get("inputs")) != (self._digest, self._inputs) or in_use(folder):
                continue
            if record.get("versions") != _versions() or record.get("files") != _files(folder):
                continue
            try:
                return _read(folder, record)
            except (LookupError, ValueError, TypeError, AttributeError, OSError):
                return None  # the long way says what is wrong with it
        return None

    def ended(self, result: CompressResult) -> None:
        """Leave in a run's folder that this command has ended with it, where that can be told again."""
        folder = result.folder
        if folder is None or self._inputs is None:
            return
        rows = () if result.confirmation is None else result.confirmation.rows
        record = {
            "command": self._digest,
            "versions": _versions(),
            "inputs": self._inputs,
            "files": _files(folder),
            # What a result has beside its files.
            "evaluator_is_heuristic": result.evaluator.heuristic,
            "head": None if result.head is None else asdict(result.head),
            "train": result.train,
            "costs": {str(row.code): [row.cost.macs, row.cost.params, row.cost.activations] for row in rows},
        }
        with suppress(OSError):  # the long way does without
            write_json(folder / FINISHED, record)


def _versions() -> dict[str, str]:
    """Versions of what results depend on, the runtimes that are installed among it."""
    found = versions()
    for name in _RUNTIMES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _inputs(given: Mapping[str, Any]) -> dict[str, str] | None:
    """Stamps of the files and folders that options name; None where something else may change."""
    network, dataset = str(given["network"]), str(given.get("dataset", ""))
    tagged = "." in network and not _exists(Path(network))  # published weights
    if tagged or dataset.startswith(_ONLINE) or any(name in given for name in _SHARED):
        return None
    stamps = {}
    for name, value in given.items():
        for text in value if isinstance(value, (list, tuple)) else [value]:
            if name == "out" or not isinstance(text, (str, Path)):
                continue
            path = Path(text)
            if str(text).startswith(_ONLINE):
                return None
            if name in ("evaluator", "latency_model") and ":" in str(text):
                path = Path(*str(text).partition(":")[0].split(".")).with_suffix(".py")
                if not path.is_file():  # elsewhere on the path of modules
                    return None
            if _exists(path):
                stamps[str(path.absolute())] = _stamp(path)
    return stamps


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a text that is too long for a path, or that is none
        return False


def _stamp(path: Path) -> str:
    """A digest of a file's size and time, or of those of a folder's files and of the folders in it."""
    seen = hashlib.sha256()
    for place, found in _walk(path):
        size = found.st_size if stat.S_ISREG(found.st_mode) else 0
        seen.update(f"{place}\0{size}\0{found.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return seen.hexdigest()[:16]


def _walk(path: Path) -> Iterator[tuple[str, os.stat_result]]:
    """A file; or a folder, its files and folders, and the folders and other files than images in these."""
    yield "", path.stat()
    if not path.is_dir():
        return
    for inside in sorted(os.scandir(path), key=lambda entry: entry.name):
        yield inside.name, inside.stat()
        if inside.is_dir():
            for entry in sorted(os.scandir(inside.path), key=lambda entry: entry.name):
                if not entry.name.lower().endswith(_IMAGES):
                    yield f"{inside.name}/{entry.name}", entry.stat()


def _files(folder: Path) -> dict[str, list[int]]:
    """Size and time of the run's own files, and of the recommended network's."""
    found = {}
    for place in (folder, folder / RECOMMENDED):
        for path in sorted(place.iterdir()) if place.is_dir() else ():
            if path.is_file() and path.name != FINISHED and not path.name.startswith("."):
                about = path.stat()
                found[path.relative_to(folder).as_posix()] = [about.st_size, about.st_mtime_ns]
    return found


def _read(folder: Path, record: Mapping[str, Any]) -> CompressResult:
    """The result in a run's files. Nothing that they name is imported or called."""
    data = read_json(folder / RESULT) or {}
    costs = {Code.parse(code): Cost(*map(int, cost)) for code, cost in record["costs"].items()}

    def told(name: str, kind: Any) -> Any:
        return kind.from_dict(data[name]) if data.get(name) else None

    judge = data["evaluator"]
    return CompressResult(
        family=data["family"],
        reference=data["reference"],
        budget=ResolvedBudget(**data["budget"]),
        evaluator=EvaluatorInfo(
            judge["name"], judge["measures"], judge["caution"], heuristic=record["evaluator_is_heuristic"]
        ),
        seed=data["seed"],
        scale=data["scale"],
        candidates=data["candidates"],
        caps=tuple(data["caps"]),
        notes=tuple(data["notes"]),
        networks=tuple(
            NetworkRow(
                row["label"],
                row["role"],
                Code.parse(row["code"]),
                Cost(row["macs"], row["params"], row["activations"]),
                row["score"],
                row["latency_ms"],
                row["predicted_latency_ms"],
            )
            for row in data["networks"]
        ),
        trials=trials_in(folder),
        seconds=data["seconds"],
        versions=data["versions"],
        confirmation=Confirmation.from_dict(data["confirmation"], costs.__getitem__) if data["confirmation"] else None,
        finished=told("finished", Finished),
        training=told("training", TrainingFacts),
        head=None if record["head"] is None else DetectorHead(**record["head"]),
        runtime=data["runtime"],
        train=record["train"],
        quantised=told("quantised", Quantised),
        folder=folder,
    )

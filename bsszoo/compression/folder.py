"""The files of a run: settings, study, ``result.json``, ``trials.csv``, ``report.html``; one run at a time."""

from __future__ import annotations

import csv
import json
import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bsszoo.codes.code import Code
from bsszoo.codes.cost import Cost
from bsszoo.errors import BssZooError, SettingsError
from bsszoo.files import write_whole
from bsszoo.search.history import is_number
from bsszoo.study.result import Result, TrialRow
from bsszoo.texts import one_line, parse_json

if TYPE_CHECKING:
    from bsszoo.formats import Format

SETTINGS, CONTROLS, RESULT, TRIALS, REPORT, LATENCIES, NOTES = (
    "settings.json",
    "controls.json",
    "result.json",
    "trials.csv",
    "report.html",
    "latency_table.json",
    "notes.json",
)
#: How the best code is trained on the user's images.
TRAINING_RECIPE = "training_recipe.yaml"
#: The folder of the recommended network: its weights and configuration, as timm's.
RECOMMENDED = "recommended"
RECOMMENDED_WEIGHTS = f"{RECOMMENDED}/model.safetensors"
#: In it, where it was asked for: the network for other runtimes.
ONNX = f"{RECOMMENDED}/model.onnx"
#: The files of networks that are being quantised.
QUANTISED = "quantised"
# The path of a latency table may differ from machine to machine: ``latency_source`` is the fingerprint of its content.
_PATHS = ("latency_table",)
# Settings that are fingerprints: a message says what changed instead of their values.
_HASHES = {
    "evaluator_source": "the evaluator, its file or what it trains on, has changed",
    "latency_source": "the model of the latency has changed",
    "candidates": "other candidates were drawn, as another version of bsszoo or numpy does",
}
# Settings that follow from the budget: named only where that has not changed.
_BUDGET, _DERIVED = ("macs", "params", "latency_ms"), ("min_macs", "min_params", "min_latency_ms", "scale")
_LOCK, _STUDY = ".lock", "study.db"


def int8_file(format: Format) -> str:
    """The recommended network's file of a format in int8."""
    return f"{RECOMMENDED}/model.int8{format.suffix}"


class FolderInUseError(SettingsError):
    """Another process is running a search in a folder."""


@contextmanager
def first_free_folder(path: Path) -> Iterator[Path]:
    """Lock the folder, or, where other processes run in it, the first free one of ``path_2``, ``path_3``, ..

    Raises:
        SettingsError: As ``run_folder``.
    """
    with ExitStack() as stack:
        for i in range(1, 1000):
            folder = path if i == 1 else path.with_name(f"{path.name}_{i}")
            try:
                stack.enter_context(run_folder(folder))
            except FolderInUseError:
                continue
            yield folder
            return
    raise FolderInUseError(f"{path} and 998 folders beside it are in use. Give another with --out.")


@contextmanager
def run_folder(path: Path) -> Iterator[None]:
    """Lock the folder of a run: within, it exists, can be written and no other process uses it.

    Raises:
        SettingsError: It cannot be written, holds other files, or another process is running there.
    """
    from filelock import FileLock, Timeout

    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise SettingsError(
            f"The output folder {path} cannot be written: {error.strerror or error}. Give another with --out."
        ) from None
    # Names with a dot are a file manager's, or were left by a kill in the middle of writing.
    # Damaged settings that were moved to another name show as well that a run of bsszoo was here.
    ours = (path / _STUDY).exists() or any(path.glob(f"{SETTINGS}*"))
    if not ours and any(not p.name.startswith((".", _STUDY)) for p in path.iterdir()):
        raise SettingsError(f"{path} holds other files and no search of bsszoo. Give an empty folder with --out.")
    lock = FileLock(path / _LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise FolderInUseError(
            f"Another process is running a search in {path}. Wait for it, or give another --out."
        ) from None
    except OSError as error:
        raise SettingsError(
            f"{path / _LOCK}, which keeps a second process out, cannot be written: "
            f"{error.strerror or error}. Move it away, or give another --out."
        ) from None
    try:
        yield
    finally:
        lock.release()


def in_use(path: Path) -> bool:
    """Whether a process is running a search in a folder; the folder stays as it is."""
    from filelock import FileLock, Timeout

    if not (path / _LOCK).exists():
        return False
    try:
        FileLock(path / _LOCK, timeout=0).acquire().lock.release()
    except Timeout:
        return True
    except OSError:
        return False  # a copy that cannot be written: no process searches there
    return False


def check_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """A ``SettingsError`` that names what differs, unless the folder is new or its run has these settings."""
    file = path / SETTINGS
    if not file.exists():
        return
    earlier = read_json(file)
    if earlier is None:
        raise SettingsError(
            f"{file} cannot be read, or holds no settings. {_aside(file)} The study has the settings "
            "too, and all trials: the same command resumes and writes the file again."
        )
    if differ := differences(earlier, settings):
        raise SettingsError(
            f"{path} holds a search with other settings: {differ}. Give the same settings to resume "
            "it, or another --out to start a new one."
        )


def differences(earlier: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """What differs between two runs' settings, as text; empty when nothing does."""
    keys = [k for k in dict.fromkeys([*earlier, *settings]) if k not in _PATHS and earlier.get(k) != settings.get(k)]
    shown = [k for k in keys if k not in _HASHES]
    changed = [
        f"{one_line(k, 40)} was {one_line(repr(earlier.get(k)))} and now is {one_line(repr(settings.get(k)))}"
        for k in shown
        if k not in _DERIVED or not set(shown) & set(_BUDGET)
    ]
    # Another budget or evaluator changes the fingerprints too: these are named only where nothing else changed.
    return "; ".join(changed or [_HASHES[k] for k in keys])


def check_trials(path: Path, trials: int) -> None:
    """A ``SettingsError`` if the folder's results list more trials than the study holds: they would be overwritten."""
    result = read_result(path) or {}
    counts = result.get("trials")
    listed = sum(n for n in counts.values() if isinstance(n, int)) if isinstance(counts, dict) else 0
    if listed > trials:
        raise SettingsError(
            f"{path / RESULT} lists {listed} trials and the study holds {trials}: it is not the study of "
            "these results. Restore that one, or give another --out."
        )


def read_result(path: Path) -> dict[str, Any] | None:
    """The content of ``result.json`` in a run's folder; None when there is none.

    Raises:
        SettingsError: It cannot be read.
    """
    file = path / RESULT
    result = read_json(file)
    if result is None and file.exists():
        raise SettingsError(f"{file} cannot be read, or holds no results. {result_aside(path)}")
    return result


def result_aside(path: Path) -> str:
    """What to do with damaged results, as text."""
    return (
        f"{_aside(path / RESULT)} The same command writes it again: the trials are in the study; latencies are "
        "measured again."
    )


def _aside(file: Path) -> str:
    """How to move a damaged file away, as text."""
    return f"Move it to another name: mv {shlex.quote(str(file))} {shlex.quote(f'{file}.damaged')}"


@contextmanager
def understood(what: object, remedy: str) -> Iterator[None]:
    """Turn any error of reading something from outside into one that names it.

    Args:
        what: What is read: a file, a study.
        remedy: What to do, as a sentence.

    Raises:
        SettingsError: It could not be read.
    """
    try:
        yield
    except SettingsError:
        raise
    except (
        BssZooError,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        ArithmeticError,
        AssertionError,
        RecursionError,
    ) as error:
        name = "" if isinstance(error, BssZooError) else f"{type(error).__name__}: "
        why = one_line(f"{name}{error}", 300).rstrip(".")
        raise SettingsError(f"{what} cannot be used: {why}. {remedy}") from error


def read_json(file: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None when there is no file or it holds something else."""
    try:
        data = parse_json(file.read_bytes())
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def scores_in(data: object) -> dict[str, float]:
    """The scores of controls by code in the data of a file or a study; other values than numbers are left out."""
    items = data.items() if isinstance(data, Mapping) else ()
    return {str(code): float(value) for code, value in items if is_number(value)}


def notes_in(path: Path) -> dict[str, list[str]]:
    """The notes of a run's phases, by phase; other values than texts are left out."""
    phases = read_json(path / NOTES) or {}
    return {
        phase: [note for note in notes if isinstance(note, str)]
        for phase, notes in phases.items()
        if isinstance(notes, list)
    }


def write_json(file: Path, data: Mapping[str, Any]) -> None:
    """Write an object as JSON, whole or not at all."""
    write_whole(file, json_text(data))


def json_text(data: Mapping[str, Any]) -> str:
    """An object as the text of a JSON file."""
    return json.dumps(dict(data), indent=2) + "\n"


def default_storage(path: Path) -> str:
    """The SQLite file in the run's folder, as an Optuna storage URL."""
    from sqlalchemy.engine import URL

    return URL.create("sqlite", database=str((path / _STUDY).resolve())).render_as_string()


def write_result(path: Path, result: Result) -> None:
    """Write ``result.json`` and ``trials.csv``."""
    write_trials(path, result.trials)
    write_json(path / RESULT, result.to_dict())


def is_written(path: Path, result: Result) -> bool:
    """Whether the files of a run hold exactly this result, and the page was written whole after it."""
    files = {RESULT: json_text(result.to_dict()), TRIALS: trials_text(result.trials)}
    try:
        if any((path / name).read_bytes() != text.encode() for name, text in files.items()):
            return False
        page = path / REPORT
        newer = page.stat().st_mtime_ns >= (path / RESULT).stat().st_mtime_ns
        return newer and page.read_bytes().rstrip().endswith(b"</html>")
    except OSError:
        return False


def write_trials(path: Path, trials: Sequence[TrialRow]) -> None:
    """Write ``trials.csv``: a row for each trial, failed ones with their reason."""
    write_whole(path / TRIALS, trials_text(trials))


def trials_text(trials: Sequence[TrialRow]) -> str:
    """The text of ``trials.csv``."""
    import io

    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(
        [
            "number",
            "batch",
            "state",
            "score",
            "macs",
            "two_x_macs",
            "params",
            "activations",
            "seconds",
            "code",
            "error",
            "trace",
            "repeats",
            "reports",
        ]
    )
    for t in trials:
        score = "" if t.score is None else repr(t.score)
        writer.writerow(
            [
                t.number,
                t.batch,
                t.state,
                score,
                t.cost.macs,
                t.cost.macs2,
                t.cost.params,
                t.cost.activations,
                t.seconds,
                t.code,
                t.error or "",
                t.trace or "",
                " ".join(map(repr, t.repeats)),
                " ".join(f"{rung}:{value!r}" for rung, value in t.reports),
            ]
        )
    return out.getvalue()


def trials_in(path: Path) -> tuple[TrialRow, ...]:
    """The trials in ``trials.csv``, as they were written.

    Raises:
        OSError: It cannot be read.
        ValueError, KeyError: It holds something else.
    """
    with (path / TRIALS).open(encoding="utf-8", newline="") as file:
        return tuple(_trial(row) for row in csv.DictReader(file))


def _trial(row: Mapping[str, str]) -> TrialRow:
    state = row["state"]
    if state not in ("complete", "pruned", "failed"):
        raise ValueError(state)
    return TrialRow(
        number=int(row["number"]),
        code=Code.parse(row["code"]),
        cost=Cost(int(row["macs"]), int(row["params"]), int(row["activations"])),
        score=float(row["score"]) if row["score"] else None,
        state=state,  # type: ignore[arg-type]
        seconds=float(row["seconds"]),
        batch=int(row["batch"]),
        error=row["error"] or None,
        trace=row["trace"] or None,
        repeats=tuple(float(value) for value in row["repeats"].split()),
        reports=tuple((int(rung), float(value)) for rung, value in (r.split(":") for r in row["reports"].split())),
    )

"""What a run leaves on disk: settings, study, ``result.json``, ``trials.csv``, ``report.html``; one run at a time."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bsszoo.errors import SettingsError
from bsszoo.search.result import CompressResult, TrialRow

SETTINGS, CONTROLS, RESULT, TRIALS, REPORT = (
    "settings.json", "controls.json", "result.json", "trials.csv", "report.html"
)
_LOCK, _STUDY = ".lock", "study.db"


@contextmanager
def run_folder(path: Path, settings: Mapping[str, Any]) -> Iterator[bool]:
    """Hold the folder of a run; yields whether it holds an earlier run of the same settings, to be resumed.

    Raises:
        SettingsError: The folder cannot be written, another process is running there, or it belongs to a run with other
            settings, which are named.
    """
    from filelock import FileLock, Timeout

    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise SettingsError(f"The output folder {path} cannot be written: {error.strerror or error}. "
                       "Give another with --out.") from None
    lock = FileLock(path / _LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise SettingsError(f"Another process is running a search in {path}. Wait for it, or give another "
                            "--out.") from None
    try:
        yield _same_settings(path, settings)
    finally:
        lock.release()


def _same_settings(path: Path, settings: Mapping[str, Any]) -> bool:
    file = path / SETTINGS
    if not file.exists():
        if any(p.name not in (_LOCK,) for p in path.iterdir()):
            raise SettingsError(f"{path} holds other files and no search of ours. Give an empty folder with --out.")
        write_text(file, json.dumps(dict(settings), indent=2) + "\n")
        return False
    try:
        earlier = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        raise SettingsError(f"{file} is not readable as JSON. Remove {path}, or give another --out.") from None
    keys = list(dict.fromkeys([*earlier, *settings]))
    differ = [f"{k} was {earlier.get(k)!r} and now is {settings.get(k)!r}" for k in keys
              if earlier.get(k) != settings.get(k)]
    if differ:
        raise SettingsError(f"{path} holds a search with other settings: {'; '.join(differ)}. Give the same "
                            "settings to resume it, or another --out to start a new one.")
    return True


def default_storage(path: Path) -> str:
    """The SQLite file in the run's own folder, as an Optuna storage URL."""
    return f"sqlite:///{(path / _STUDY).resolve()}"


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: a kill in the middle leaves the old one."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        # mkstemp makes the file for its owner alone; results are for whoever may read the folder.
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_result(path: Path, result: CompressResult) -> None:
    """Write ``result.json`` and ``trials.csv``."""
    write_trials(path, result.trials)
    write_text(path / RESULT, json.dumps(result.to_dict(), indent=2) + "\n")


def write_trials(path: Path, trials: Sequence[TrialRow]) -> None:
    """Write ``trials.csv``: one row a trial, failed ones with their reason."""
    import io

    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["number", "batch", "state", "score", "macs", "two_x_macs", "params", "activations", "seconds",
                     "code", "error"])
    for t in trials:
        score = "" if t.score is None else repr(t.score)
        writer.writerow([t.number, t.batch, t.state, score, t.cost.macs, t.cost.macs2, t.cost.params,
                         t.cost.activations, t.seconds, t.code, t.error or ""])
    write_text(path / TRIALS, out.getvalue())

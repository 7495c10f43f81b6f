"""The folder of a pulled network: which names enter it, the manifest of the pull's files, and how they get there.

A name from a repository or a manifest reaches a path only through ``refuse_names`` or ``earlier_files``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from bsszoo.errors import SettingsError, WeightsError
from bsszoo.files import PART, write_whole
from bsszoo.texts import one_line, parse_json, printable

# What is pulled: everything that a push writes, exported networks, and nothing that can run when it is opened.
_SUFFIXES: Final = (".safetensors", ".json", ".md", ".yaml", ".csv", ".png", ".svg", ".txt", ".onnx")
#: In a pulled folder: from where, and which files are the pull's. Nothing else in the folder is ever touched.
MANIFEST: Final = ".pulled.json"
# The most bytes of one part of a name, and of a whole one, that every usual file system takes.
_PART_BYTES, _NAME_BYTES = 200, 800
_MANIFEST_BYTES: Final = 1 << 22


def refuse_names(names: Collection[str], label: str) -> None:
    """A ``WeightsError`` where a repository lists a name that must never become a path, or a file that is a folder."""
    folders = {"/".join(name.split("/")[:depth]) for name in names for depth in range(1, name.count("/") + 1)}
    for name in names:
        reason = _danger(name) or ("which is a folder as well" if name in folders else "")
        if reason:
            raise WeightsError(f"{label} lists a file {one_line(name)!r}, {reason}. Nothing was taken from it.")


def is_taken(name: str) -> bool:
    """Whether a file of a repository is one that is pulled: of a kind that cannot run, and not hidden."""
    return name.endswith(_SUFFIXES) and not _hidden(name)


def earlier_files(folder: Path) -> frozenset[str]:
    """The files of an earlier pull in a folder; none of a new or empty one.

    Raises:
        SettingsError: It holds anything that is no pull's, or a manifest that no pull can have written.
    """
    other = f"{folder} exists already and is no pulled network: give a new folder with --out."
    if not os.path.lexists(folder):
        return frozenset()
    manifest = folder / MANIFEST
    try:
        if not folder.is_dir():
            raise SettingsError(other)
        if not any(folder.iterdir()):
            return frozenset()
        if not stat.S_ISREG(manifest.lstat().st_mode) or manifest.stat().st_size > _MANIFEST_BYTES:
            raise SettingsError(other)
        names = parse_json(manifest.read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, SettingsError):
            raise
        raise SettingsError(other) from None
    if not isinstance(names, list):
        raise SettingsError(other)
    for name in names:
        if not isinstance(name, str) or _danger(name) or not is_taken(name):
            raise SettingsError(
                f"{manifest} lists {one_line(name)!r}, which no pull can have written. Nothing was "
                "changed: give a new folder with --out, or remove this one."
            )
    return frozenset(names)


def check_room(folder: Path, names: Collection[str], earlier: Collection[str]) -> None:
    """A ``SettingsError`` where these files cannot be written without touching a file that is no pull's."""
    for name in sorted({*names, *earlier}):
        new = name in names
        *parents, last = name.split("/")
        path = folder
        for part in parents:
            path /= part
            mode = _mode(path)
            if mode is None or not (stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
                if mode is not None and new and not _is_pulls(folder, path, earlier):
                    raise _foreign(folder, path)
                break  # there is nothing yet, or a pulled file that is replaced
            if stat.S_ISLNK(mode):
                raise SettingsError(
                    f"{path} is a link. Nothing was changed: a pull does not write through links; "
                    "remove it, or give a new folder with --out."
                )
        else:
            path /= last
            mode = _mode(path)
            if mode is None or (stat.S_ISREG(mode) and name in earlier):
                continue
            if stat.S_ISDIR(mode):
                if new and (other := _not_pulls(folder, path, earlier)):
                    raise _foreign(folder, other)
            elif new or stat.S_ISLNK(mode):
                raise _foreign(folder, path)


def move_into(
    scratch: Path, folder: Path, names: Collection[str], earlier: Collection[str], about: Mapping[str, str]
) -> None:
    """Move fetched files into their folder, and delete those of an earlier pull that are no longer among them.

    Raises:
        SettingsError: As ``check_room``, which comes first; or the folder cannot be written.
    """
    check_room(folder, names, earlier)
    gone = sorted(set(earlier) - set(names), reverse=True)
    try:
        folder.mkdir(exist_ok=True)
        for leftover in folder.glob(f".{MANIFEST}.*{PART}"):
            leftover.unlink(missing_ok=True)
        # First what it will hold: a pull that is cut off from here on is an earlier pull to the next one.
        _write_manifest(folder, {*names, *earlier}, about)
        for name in gone:
            _remove(folder, name)
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (scratch / name).replace(folder / name)
        _write_manifest(folder, names, about)
    except OSError as error:
        raise SettingsError(
            f"{folder} cannot be written: {error.strerror or error}. The pull stopped half-way; the "
            "same command finishes it once that is fixed."
        ) from None


@contextmanager
def scratch_beside(folder: Path) -> Iterator[Path]:
    """An empty folder on the same disk, for files on their way into ``folder``.

    It is the same one for every pull into that folder, under a lock: the next pull deletes what a killed
    one left.

    Raises:
        SettingsError: Another process is pulling into the folder, or nothing can be written there.
    """
    fingerprint = hashlib.sha256(os.fsencode(folder.name)).hexdigest()[:16]
    scratch = folder.parent / f".bsszoo-pull-{fingerprint}"
    lock = FileLock(scratch / "lock", timeout=0)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch.mkdir(mode=0o700, exist_ok=True)
        status = scratch.lstat()
        # In a folder that others may write, such as /tmp, it could be another user's, or a link.
        if not stat.S_ISDIR(status.st_mode) or (hasattr(os, "getuid") and status.st_uid != os.getuid()):
            raise SettingsError(
                f"{scratch} is not a folder of yours, and a pull needs it. Remove it, or give another "
                "folder with --out."
            )
        lock.acquire()
    except Timeout:
        raise SettingsError(
            f"Another process is pulling into {folder}. Wait until it is done, or give another folder with --out."
        ) from None
    except OSError as error:
        raise SettingsError(f"{folder} cannot be written: {error.strerror or error}.") from None
    try:
        files = scratch / "files"
        try:
            if files.is_symlink() or files.exists():
                shutil.rmtree(files)
            files.mkdir()
        except OSError as error:
            raise SettingsError(f"{files} cannot be written: {error.strerror or error}.") from None
        yield files
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        with suppress(OSError):
            lock.release()


def _danger(name: str) -> str:
    """Why a name must not become a path; empty where it may."""
    parts = name.split("/")
    if name.startswith("/") or "\\" in name or ":" in name or not {"", ".", ".."}.isdisjoint(parts):
        return "which would be written outside its folder"
    if printable(name) != name or "\n" in name or "\t" in name:
        return "whose name holds control characters"
    if len(name.encode()) > _NAME_BYTES or any(len(part.encode()) > _PART_BYTES for part in parts):
        return "whose name is too long"
    return ""


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _mode(path: Path) -> int | None:
    try:
        return path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror or error}.") from None


def _is_pulls(folder: Path, path: Path, earlier: Collection[str]) -> bool:
    mode = _mode(path)
    return mode is not None and stat.S_ISREG(mode) and path.relative_to(folder).as_posix() in earlier


def _not_pulls(folder: Path, inside: Path, earlier: Collection[str]) -> Path | None:
    """A file in a folder that is no earlier pull's, None where there is none."""
    for root, folders, files in os.walk(inside):
        for name in (*files, *(one for one in folders if Path(root, one).is_symlink())):
            if not _is_pulls(folder, Path(root, name), earlier):
                return Path(root, name)
    return None


def _foreign(folder: Path, path: Path) -> SettingsError:
    return SettingsError(
        f"{folder} holds {printable(path.relative_to(folder).as_posix())}, which no pull wrote, "
        "under the name of a file of the repository. Nothing was changed: move it, or give a new "
        "folder with --out."
    )


def _remove(folder: Path, name: str) -> None:
    """Delete a pulled file, and the folders that held nothing else."""
    path = folder / name
    mode = _mode(path)
    if mode is not None and stat.S_ISREG(mode):
        path.unlink()
    for parent in path.parents:
        if parent == folder:
            break
        with suppress(OSError):
            parent.rmdir()


def _write_manifest(folder: Path, names: Iterable[str], about: Mapping[str, str]) -> None:
    data: dict[str, Any] = {**about, "files": sorted(names)}
    write_whole(folder / MANIFEST, json.dumps(data, indent=2) + "\n")

"""Optuna's journal file with an end that is repaired: a record that was written in part never stands before another.

A journal is one JSON object a line. A writer that is killed, or finds the disk full, leaves half a line; Optuna then
writes the next record behind it, and nobody can read the file any more. Here each writer looks at the end first, under
the lock that writers share, and so does whoever opens the file.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import quote

from optuna.exceptions import OptunaError
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.storages.journal._file import get_lock_file

from bsszoo.errors import SettingsError
from bsszoo.texts import one_line, parse_json

_log = logging.getLogger(__name__)

# Bytes read at once in search of the last line's start.
_CHUNK: Final = 65_536
# What replaying a record with missing or wrong fields raises.
_FAULTS: Final = (KeyError, ValueError, TypeError, AttributeError, IndexError, AssertionError, OverflowError)


class _DamagedLineError(Exception):
    """A line that ends and is no record: its number, from 1, and why."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(number, reason)
        self.number, self.reason = number, reason


class RepairedJournalFile(JournalFileBackend):
    """A journal file whose half-written last line is removed, or completed, before anything is written behind it.

    Args:
        path: The file, which is made where there is none.
        repair: Whether the end is repaired now; it always is before a record is written.

    Raises:
        OSError: The file cannot be made or repaired.
    """

    def __init__(self, path: Path, *, repair: bool = True) -> None:
        # Windows makes symbolic links, Optuna's usual lock, for administrators only.
        super().__init__(str(path), JournalFileOpenLock(str(path)) if os.name == "nt" else None)
        self.path = path
        if repair and not self._ends_whole():
            with get_lock_file(self._lock):
                self._repair()

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        """The records from a number on, up to the last line that ends.

        Raises:
            SettingsError: A line is damaged; the text names it.
        """
        try:
            return iter(self._records(log_number_from))
        except _DamagedLineError:
            pass
        try:
            # Another process may have cut off a half line just then, which moved what stands behind it.
            with get_lock_file(self._lock):
                return iter(self._records(log_number_from))
        except _DamagedLineError as error:
            raise self.damaged(error.number, error.reason) from None

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write records behind the last whole one; what was written of them is removed when the disk is full."""
        text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with get_lock_file(self._lock):
            if not self._ends_whole():
                self._repair()
            size = self.path.stat().st_size
            try:
                with self.path.open("ab") as file:
                    file.write(text.encode("utf-8"))
                    file.flush()
                    os.fsync(file.fileno())
            except OSError:
                with suppress(OSError):
                    os.truncate(self.path, size)
                raise

    def damaged(self, number: int, reason: str) -> SettingsError:
        """The error for a line, counted from 1."""
        copy = self.path.with_name(f"{self.path.name}.repaired")
        files = f"{shlex.quote(str(self.path))} > {shlex.quote(str(copy))}"
        return SettingsError(
            f"Line {number} of the journal {self.path} is damaged ({one_line(reason, 120)}). Nothing was changed. "
            f"Bring a copy of the file back, or go on with the records before that line: head -n {number - 1} {files}, "
            f"then the same command with journal://{quote(copy.as_posix())}."
        )

    def record(self, number: int) -> dict[str, Any]:
        """The record of a line that was read, counted from 1."""
        with self.path.open("rb") as file:
            file.seek(self._log_number_offset[number - 1])
            found: dict[str, Any] = parse_json(file.readline())
        return found

    def _records(self, first: int) -> list[dict[str, Any]]:
        found = []
        offsets = self._log_number_offset
        start = first if first in offsets else 0
        with self.path.open("rb") as file:
            file.seek(offsets[start])
            for number, line in enumerate(file, start=start):
                if not line.endswith(b"\n"):
                    break  # another process is writing it, or was killed while it did
                if number >= first:
                    found.append(_record(line, number + 1))
                offsets[number + 1] = offsets[number] + len(line)
        return found

    def _ends_whole(self) -> bool:
        with self.path.open("rb") as file:
            return not _half_line(file)

    def _repair(self) -> None:
        """Complete the last line, or remove it; the lock is held."""
        with self.path.open("rb+") as file:
            half = _half_line(file)
            if not half:
                return
            file.seek(-len(half), os.SEEK_END)
            try:
                whole = isinstance(parse_json(half), dict)
            except ValueError:
                whole = False
            if whole:
                file.seek(0, os.SEEK_END)
                file.write(b"\n")
            else:
                file.truncate()
            file.flush()
            os.fsync(file.fileno())
        done = "it is whole, and its end was added" if whole else "it holds nothing that was finished, and was removed"
        _log.warning("The last line of the journal %s was cut off (%d bytes): %s.", self.path, len(half), done)


class RepairedJournal(JournalStorage):
    """Optuna's storage in such a file; a record that cannot be replayed is an error that names its line."""

    def __init__(self, backend: RepairedJournalFile) -> None:
        self._file = backend
        super().__init__(backend)

    def _sync_with_backend(self) -> None:
        try:
            super()._sync_with_backend()
        except (OptunaError, SettingsError):
            raise
        except _FAULTS as error:
            number = self._replay_result.log_number_read
            # What this process asked for itself may be wrong, and then says so.
            if not number or self._file.record(number).get("worker_id") == self._replay_result.worker_id:
                raise
            raise self._file.damaged(number, f"{type(error).__name__}: {error}") from None


def _half_line(file: IO[bytes]) -> bytes:
    """What stands behind the last line end of a file."""
    end = file.seek(0, os.SEEK_END)
    half = b""
    while end:
        start = max(0, end - _CHUNK)
        file.seek(start)
        _, found, after = file.read(end - start).rpartition(b"\n")
        half = after + half
        if found:
            break
        end = start
    return half


def _record(line: bytes, number: int) -> dict[str, Any]:
    try:
        found = parse_json(line)
    except ValueError as error:
        raise _DamagedLineError(number, str(error)) from None
    if not isinstance(found, dict) or not isinstance(found.get("op_code"), int) or "worker_id" not in found:
        raise _DamagedLineError(number, "it is no record of a journal")
    return found

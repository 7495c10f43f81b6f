"""Optuna's journal file with an end that is repaired: a record that was written in part never precedes another.

A journal is one JSON object a line. A writer that is killed, or finds the disk full, leaves half a line; Optuna then
writes the next record behind it, and the file cannot be read any more. Here each writer looks at the end first, under
the lock that writers share, and so does whoever opens the file.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import quote

from optuna.exceptions import OptunaError
from optuna.storages.journal import BaseJournalBackend, JournalFileOpenLock, JournalFileSymlinkLock

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


class RepairedJournalFile(BaseJournalBackend):
    """A journal file whose half-written last line is removed, or completed, before anything is written behind it.

    Args:
        path: The file, which is made where there is none.
        repair: Whether the end is repaired now; it always is before a record is written.

    Raises:
        OSError: The file cannot be made or repaired.
    """

    def __init__(self, path: Path, *, repair: bool = True) -> None:
        self.path = path
        # Windows makes symbolic links, Optuna's usual lock, for administrators only.
        self._lock = (JournalFileOpenLock if os.name == "nt" else JournalFileSymlinkLock)(str(path))
        self._offsets = {0: 0}
        if not path.exists():
            path.open("ab").close()
        if repair and not self._ends_whole():
            with self._locked():
                self._repair()

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """The records from a number on, up to the last line that ends.

        Raises:
            SettingsError: A line is damaged; the text names it.
        """
        try:
            return iter(self._records(log_number_from))
        except _DamagedLineError:
            pass
        try:
            # Another process may have cut off a half line just then, which moved what follows it.
            with self._locked():
                return iter(self._records(log_number_from))
        except _DamagedLineError as error:
            raise self.damaged(error.number, error.reason) from None

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write records behind the last whole one; what was written of them is removed when the disk is full."""
        text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with self._locked():
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
            f"Bring a copy of the file back, or continue with the records before that line: head -n {number - 1} "
            f"{files}, then the same command with journal://{quote(copy.as_posix())}."
        )

    def explained(self, error: Exception, number: int, worker_id: str) -> Exception:
        """The error for one that replaying the record of a line raised, where another process wrote the line.

        An error in a record that ``worker_id``, this thread, wrote itself is returned unchanged.
        """
        if not number or not isinstance(error, _FAULTS) or isinstance(error, (OptunaError, SettingsError)):
            return error
        with self.path.open("rb") as file:
            file.seek(self._offsets[number - 1])
            if parse_json(file.readline()).get("worker_id") == worker_id:
                return error
        return self.damaged(number, f"{type(error).__name__}: {error}")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._lock.acquire()
        try:
            yield
        finally:
            self._lock.release()

    def _records(self, first: int) -> list[dict[str, Any]]:
        records = []
        offsets = self._offsets
        start = first if first in offsets else 0
        with self.path.open("rb") as file:
            file.seek(offsets[start])
            for number, line in enumerate(file, start=start):
                if not line.endswith(b"\n"):
                    break  # another process is writing it, or was killed while it did
                if number >= first:
                    records.append(_record(line, number + 1))
                offsets[number + 1] = offsets[number] + len(line)
        return records

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
        done = "it is whole, and its end was added" if whole else "it holds no complete record, and was removed"
        _log.warning("The last line of the journal %s was cut off (%d bytes): %s.", self.path, len(half), done)


def _half_line(file: IO[bytes]) -> bytes:
    """The bytes after the last line end of a file."""
    end = file.seek(0, os.SEEK_END)
    half = b""
    while end:
        start = max(0, end - _CHUNK)
        file.seek(start)
        _, line_end, after = file.read(end - start).rpartition(b"\n")
        half = after + half
        if line_end:
            break
        end = start
    return half


def _record(line: bytes, number: int) -> dict[str, Any]:
    try:
        record = parse_json(line)
    except ValueError as error:
        raise _DamagedLineError(number, str(error)) from None
    if not isinstance(record, dict) or not isinstance(record.get("op_code"), int) or "worker_id" not in record:
        raise _DamagedLineError(number, "it is no record of a journal")
    return record

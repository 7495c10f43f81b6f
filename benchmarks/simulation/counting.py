"""What a client makes its storage do: calls, the client's processor time in them, SQL statements, bytes written."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from optuna.storages import BaseStorage

_METHODS: Final = tuple(n for n in vars(BaseStorage) if not n.startswith("_") and n != "remove_session")


@dataclass(frozen=True)
class Work:
    """What a storage has done for this process."""

    calls: int = 0
    statements: int = 0
    seconds: float = 0.0

    def __sub__(self, before: Work) -> Work:
        return Work(self.calls - before.calls, self.statements - before.statements, self.seconds - before.seconds)


class Watch:
    """Counts the calls to a storage from outside it; what its methods call of each other is one call."""

    def __init__(self, storage: BaseStorage) -> None:
        self.names: Counter[str] = Counter()
        self._calls = self._statements = 0
        self._seconds = 0.0
        self._inside = threading.local()
        for name in _METHODS:
            setattr(storage, name, self._counted(name, getattr(storage, name)))
        engine = engine_of(storage)
        if engine is not None:
            from sqlalchemy import event

            event.listen(engine, "before_cursor_execute", self._executed)

    def read(self) -> Work:
        """All so far."""
        return Work(self._calls, self._statements, self._seconds)

    def _executed(self, *_: Any) -> None:
        self._statements += 1

    def _counted(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            if getattr(self._inside, "busy", False):
                return method(*arguments, **more)
            self._inside.busy = True
            began = time.thread_time()
            try:
                return method(*arguments, **more)
            finally:
                self._inside.busy = False
                self._calls += 1
                self.names[name] += 1
                self._seconds += time.thread_time() - began

        return call


def engine_of(storage: BaseStorage) -> Any:
    """SQLAlchemy's engine of a relational storage that ``open_storage`` opened; None for others."""
    return getattr(getattr(storage, "database", None), "engine", None)


def bytes_written() -> int | None:
    """Bytes that this process has written to files; None where the system does not say."""
    try:
        lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("wchar:")), None)


def log_written(storage: BaseStorage) -> int | None:
    """Bytes of a PostgreSQL server's write-ahead log; None for other storages."""
    engine = engine_of(storage)
    if engine is None or engine.dialect.name != "postgresql":
        return None
    from sqlalchemy import text

    with engine.connect() as connection:
        return int(connection.execute(text("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn")).scalar())

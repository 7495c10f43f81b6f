"""SIGTERM and Ctrl-C as a request to stop, which a training serves between two updates."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from types import FrameType
from typing import Any


class StopSignals:
    """Within its context the first SIGTERM or Ctrl-C is only noted, in ``received``; a second one has its usual effect.

    ``message`` is written to stderr at once: the current update may take a while.
    """

    def __init__(self, message: str = "") -> None:
        self._message = message
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        # Only the main thread may set handlers; elsewhere the caller's stay.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, _: FrameType | None) -> None:
        self.received = number
        self._restore()
        if self._message:
            # Not by print, which the signal may have interrupted.
            with suppress(OSError):
                os.write(2, f"\n{self._message}\n".encode())

    def _restore(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)

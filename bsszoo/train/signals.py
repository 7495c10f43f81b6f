"""SIGTERM and Ctrl-C as a wish that the training grants between two updates."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from types import FrameType
from typing import Any


class StopSignals:
    """Within its context the first SIGTERM or Ctrl-C is only noted, in ``received``; a second one acts as ever.

    ``said`` is what a person is told at once, on stderr; the update that is going on may take a while.
    """

    def __init__(self, said: str = "") -> None:
        self._said = said
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        # Only the main thread may set handlers; elsewhere the caller's own stay.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, _: FrameType | None) -> None:
        self.received = number
        self._restore()
        if self._said:
            # Not by print, which the signal may have interrupted.
            with suppress(OSError):
                os.write(2, f"\n{self._said}\n".encode())

    def _restore(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)

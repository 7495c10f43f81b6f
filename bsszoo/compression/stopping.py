"""SIGTERM handled as Ctrl-C is: a command that is ended from outside is no failure of the code that it evaluates."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from bsszoo.errors import StoppedError


class _TerminatedError(KeyboardInterrupt):
    """SIGTERM, where Python has an exception for Ctrl-C only."""


@contextmanager
def ends_in_order(where: object) -> Iterator[None]:
    """Let SIGTERM end what runs within as Ctrl-C does; a handler that the caller has set stays.

    Args:
        where: What holds the finished trials, for the message.

    Raises:
        StoppedError: SIGTERM was received.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    process, received = os.getpid(), False

    def end(number: int, _: object) -> None:
        nonlocal received
        if os.getpid() == process:
            received = True
            raise _TerminatedError
        # A copy of this process (fork), such as a loader of images, ends as it would without this handler.
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    except KeyboardInterrupt:
        # Ray, where it waits, raises a KeyboardInterrupt of its own in place of any.
        if not received:
            raise
        error = StoppedError(
            f"Stopped by SIGTERM. Finished trials are saved in {where}; the same command resumes from there."
        )
        error.signal = signal.SIGTERM
        raise error from None
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

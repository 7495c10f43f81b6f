"""A training that another process started ends with it: nothing runs on unnoticed when a search's worker is killed."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import Final

#: Environment variable with the number of the process that started the training.
PARENT: Final = "BSSZOO_PARENT"
_LOOK: Final = 1.0  # seconds


def end_with_parent() -> None:
    """Send this process SIGTERM, so that it writes a checkpoint, once the one named in ``PARENT`` is gone."""
    started_by = os.environ.get(PARENT)
    if started_by is not None and started_by.isdigit():
        threading.Thread(target=_watch, args=(int(started_by),), daemon=True).start()


def torchrun() -> None:
    """torchrun, which ends with the process named in ``PARENT``, and the processes that it starts with it."""
    from torch.distributed.run import main

    end_with_parent()
    os.environ.pop(PARENT, None)
    main(sys.argv[1:])


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK)
    os.kill(os.getpid(), signal.SIGTERM)

"""Where the commands print: one console for results on stdout, one for what goes on meanwhile on stderr."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


def show(*parts: RenderableType) -> None:
    """Print renderables to stdout; into a file or a pipe codes stay on one line."""
    from rich.console import Console

    class Pipe(Console):
        def on_broken_pipe(self) -> None:
            # `bsszoo list | head`: the reader has gone, which is no fault. Nothing may be flushed into the closed pipe.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(0)

    console = Pipe(highlight=False) if sys.stdout.isatty() else Pipe(highlight=False, width=120)
    for part in parts:
        console.print(part, soft_wrap=True)


def progress_console() -> Console:
    """The console for progress and messages, on stderr, so that results can be piped."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)

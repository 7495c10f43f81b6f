"""Where the commands print: one console for results on stdout, one for what goes on meanwhile on stderr."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


def say(*sentences: str) -> None:
    """Print sentences to stdout, broken between words on a terminal."""
    from rich.text import Text

    if sys.stdout.isatty():
        _console().print(*(Text(s) for s in sentences), sep="\n")
    else:
        show(*sentences)


def show(*parts: RenderableType) -> None:
    """Print renderables and codes to stdout, no line broken, so that what is copied is whole."""
    console = _console()
    for part in parts:
        console.print(part, soft_wrap=True)


def _console() -> Console:
    from rich.console import Console

    class Pipe(Console):
        def on_broken_pipe(self) -> None:
            # `bsszoo list | head`: the reader has gone, which is no fault. Nothing may be flushed into the closed pipe.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(0)

    return Pipe(highlight=False, markup=False, width=None if sys.stdout.isatty() else 120)


def progress_console() -> Console:
    """The console for progress and messages, on stderr, so that results can be piped."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)

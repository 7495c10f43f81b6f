"""Where the commands print: one console for results on stdout, one for progress on stderr."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bsszoo.texts import printable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType


JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]

# Whether progress and notes are left out, as --quiet asks.
_quiet = False


def be_quiet(quiet: bool) -> None:
    """Leave out progress and notes, or no longer."""
    global _quiet
    _quiet = quiet


def show_json(value: Any) -> None:
    """Print a value as JSON on stdout: a dataclass as its fields, codes and paths as their text."""
    typer.echo(json.dumps(value, indent=2, default=_plain))


def _plain(value: Any) -> Any:
    # A code is a dataclass too, and its text is what any command takes.
    if dataclasses.is_dataclass(value) and type(value).__str__ is object.__str__:
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return str(value)


def say(*sentences: str) -> None:
    """Print sentences to stdout, broken between words on a terminal."""
    from rich.text import Text

    if sys.stdout.isatty():
        _console().print(*(Text(s) for s in sentences), sep="\n")
    else:
        show(*sentences)


def show(*parts: RenderableType) -> None:
    """Print renderables and codes to stdout, without breaking lines, so that they can be copied."""
    console = _console()
    for part in parts:
        console.print(part, soft_wrap=True)


def message(text: str) -> None:
    """Print a message to stderr without control characters: it may hold texts of files and repositories."""
    print(printable(text), file=sys.stderr)


def _console() -> Console:
    """The console of results."""
    from rich.console import Console

    class Pipe(_safe(Console)):  # type: ignore[misc]
        def on_broken_pipe(self) -> None:
            # `bsszoo list | head`: the reader has closed, which is no error. Nothing may be flushed into the pipe.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(0)

    return Pipe(highlight=False, markup=False, width=None if sys.stdout.isatty() else 120)


def progress_console() -> Console:
    """The console for progress and messages, on stderr, so that results can be piped."""
    from rich.console import Console

    made: Console = _safe(Console)(stderr=True, highlight=False, markup=False, quiet=_quiet)
    return made


def _safe(console: type[Console]) -> Any:
    """A console class that strips control characters from all texts; its styles stay."""
    from rich.segment import Segment

    class Safe(console):  # type: ignore[valid-type, misc]
        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                yield segment if segment.control else Segment(printable(segment.text), segment.style)

    return Safe

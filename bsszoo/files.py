"""Files that are written as a whole or not at all, even when the process is killed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

#: Suffix of unfinished files; those of killed processes may be removed.
PART: Final = ".part"


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to; at the end of the block it replaces ``path``, synced to disk.

    When the block raises, or the process is killed in it, ``path`` is unchanged.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=PART, dir=path.parent)
    os.close(handle)
    scratch = Path(name)
    try:
        yield scratch
        # mkstemp lets nobody else read the file; results are as readable as other new files.
        umask = os.umask(0)
        os.umask(umask)
        scratch.chmod(0o666 & ~umask)
        with scratch.open("rb+") as file:
            os.fsync(file.fileno())
        scratch.replace(path)
        _sync_folder(path.parent)
    except BaseException:
        with suppress(OSError):
            scratch.unlink()
        raise


def plain_name(text: str) -> str:
    """A text as a part of a file's name: anything but letters, digits, dots, lines and underscores becomes a ``-``."""
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in text)


def write_whole(path: Path, text: str) -> None:
    """Write a text file (UTF-8, line ends unchanged) as a whole; ``OSError`` when it cannot be written."""
    with whole_file(path) as scratch:
        scratch.write_text(text, encoding="utf-8", newline="\n")


def _sync_folder(folder: Path) -> None:
    # Without it a power cut may lose the renaming. Not every system lets folders be opened.
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def cache_folder() -> Path:
    """What bsszoo keeps for later runs: ``bsszoo`` in ``XDG_CACHE_HOME``, by default in ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bsszoo"

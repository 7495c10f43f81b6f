"""Writing a file whole or not at all, for everything that a run leaves on disk."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write a text file (UTF-8, line ends as they are): a kill or an error in the middle leaves the old one.

    Raises:
        OSError: The file cannot be written.
    """
    # Beside the target, so that the replacement stays on one file system; the process id keeps two runs apart.
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draft.write_text(text, encoding="utf-8", newline="\n")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)

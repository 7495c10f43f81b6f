"""The epochs of a training for TensorBoard, where a recipe asks for it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from bsszoo.errors import RecipeError
from bsszoo.train.checkpoint import Row


class Events:
    """Writes the figures of each round into ``FOLDER/tensorboard``; nothing when not ``wanted``.

    Raises:
        RecipeError: The package ``tensorboard`` is not installed.
    """

    def __init__(self, folder: Path, done: int, *, wanted: bool) -> None:
        self._writer: Any = None
        if wanted:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise RecipeError('run.tensorboard needs a package that is not installed: pip install '
                                  '"bsszoo[tensorboard]"') from None
            # Epochs after the checkpoint that is gone on from are hidden: they are trained again.
            self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=done + 1)

    def add(self, row: Row) -> None:
        """Write an epoch's figures."""
        if self._writer is None:
            return
        figures = {entry.name: getattr(row, entry.name) for entry in fields(row)}
        number = figures.pop(next(iter(figures)))
        for name in figures.keys() - {"update", "seconds"}:
            self._writer.add_scalar(name, figures[name], number)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()

"""The epochs of a training for TensorBoard, where a recipe asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from bsszoo.errors import RecipeError
from bsszoo.train.checkpoint import Row


class Events:
    """Writes the figures of each round into ``FOLDER/tensorboard``; nothing when not ``wanted``.

    ``rows`` are those of the checkpoint that is resumed from.

    Raises:
        RecipeError: The package ``tensorboard`` is not installed.
    """

    def __init__(self, folder: Path, rows: Sequence[Row], *, wanted: bool) -> None:
        self._writer: Any = None
        if wanted:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise RecipeError(
                    'run.tensorboard needs a package that is not installed: pip install "bsszoo[tensorboard]"'
                ) from None
            # Epochs after the checkpoint are hidden: they are trained again. Its last one may not have been written.
            self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=max(len(rows), 1))
            for row in rows[-1:]:
                self.add(row)

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

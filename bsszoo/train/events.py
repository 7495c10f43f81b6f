"""The epochs of a training for TensorBoard, where a recipe asks for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bsszoo.errors import RecipeError
from bsszoo.train.checkpoint import EpochRow


class Events:
    """Writes the figures of each epoch into ``FOLDER/tensorboard``; nothing when not ``wanted``.

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

    def add(self, row: EpochRow) -> None:
        """Write an epoch's figures."""
        if self._writer is None:
            return
        for name in ("lr", "train_loss", "val_loss", "top1", "top5", "images_per_s"):
            self._writer.add_scalar(name, getattr(row, name), row.epoch)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()

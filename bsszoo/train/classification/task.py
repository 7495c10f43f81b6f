"""Classification as a ``Task``: images with one label each, cross-entropy, accuracy after each epoch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bsszoo.train.checkpoint import EpochRow, Folder, Row
from bsszoo.train.classification.data import class_names, open_splits, open_test, split_notes
from bsszoo.train.classification.evaluation import Accuracy, autocast, evaluate
from bsszoo.train.classification.outcome import conclude, data_fingerprint, start_network
from bsszoo.train.classification.recipe import Recipe
from bsszoo.train.classification.samples import TrainingBatches, divide, end_readers, evaluation_batches
from bsszoo.train.classification.trained import Trained, open_teacher, saved_start, start_record, start_state
from bsszoo.train.devices import Process
from bsszoo.train.optim import Objective, make_schedule
from bsszoo.train.task import Batches, Round


class Classification:
    """The task of a ``Recipe``.

    Args:
        recipe: The recipe.
        data: The folder of the images.
        process: This process.
        folder: The training's, in which the weights are written that it starts from, where some are inherited.
        note: Called in the first process before something takes long.

    Raises:
        RecipeError, DataError: The images cannot be used, or do not fit the recipe.
    """

    row_kind: type[Row] = EpochRow

    def __init__(
        self,
        recipe: Recipe,
        data: str | Path | None,
        process: Process,
        folder: Path | None = None,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._recipe, self._process, self._folder, self._note = recipe, process, folder, note
        self._teacher: Trained | None = None
        classes = recipe.model.num_classes
        self._splits = open_splits(recipe.data, data, num_classes=classes)
        self._test = open_test(recipe.data, data, num_classes=classes, splits=self._splits)
        self.has_test = self._test is not None
        names = class_names(self._splits[0])
        self.notes: tuple[str, ...] = split_notes(*self._splits, self._test)
        if names is not None and len(names) < classes:
            self.notes += (
                f"the network has {classes} outputs and the data {len(names)} classes: the others are never trained",
            )
        self.train_images, self.val_images = map(len, self._splits)
        self.division = divide(recipe, self.train_images, process.world)
        self.ends = tuple(self.division.updates * (epoch + 1) for epoch in range(recipe.schedule.epochs))
        self.fingerprint = data_fingerprint(recipe, self._splits)
        self._val_batches: Any = None
        self._context = autocast(process, recipe.run.precision)

    def network(self, *, fresh: bool) -> nn.Module:
        """The recipe's network."""
        inherits = fresh and self._recipe.model.inherit is not None
        network = start_network(self._recipe, fresh=fresh)
        if inherits:
            network.load_state_dict(self._inherited())
        return network

    def _inherited(self) -> dict[str, torch.Tensor]:
        """The weights that the training starts from; the first process makes them, and the others wait for it."""
        state: dict[str, torch.Tensor] | None = None
        if self._process.first:
            recipe, train, device = self._recipe, self._splits[0], self._process.device
            start = saved_start(
                self._folder, recipe, self.fingerprint, lambda: start_state(recipe, train, device, self._note)
            )
            self.notes += (f"inherited from {recipe.model.inherit_weights}: {start.record['words']}", *start.notes)
            state = start.state
        received: dict[str, torch.Tensor] = self._process.broadcast(state)
        return received

    def schedule(self, optimizer: torch.optim.Optimizer) -> Any:
        """The recipe's schedule over the updates of its epochs."""
        return make_schedule(self._recipe, optimizer, self.division.updates)

    def to_device(self) -> None:
        """Make the objective, with its teacher on the device."""
        self._teacher = teacher = open_teacher(self._recipe, class_names(self._splits[0]))
        self._objective = Objective(self._recipe, None if teacher is None else teacher.network.to(self._process.device))
        self.notes += () if teacher is None else teacher.doubts(self._recipe)

    def batches(self) -> Batches:
        """Augmented images and labels."""
        return TrainingBatches(self._splits[0], self._recipe, self.division, self._process)

    def loss(self, forward: nn.Module, batch: Any) -> torch.Tensor:
        """The mean loss of a micro-batch [nats]."""
        images, targets = self._objective.mixed(*batch)
        if self._recipe.run.channels_last:
            # As in evaluation. The network's first layer would convert them by itself, again in its backward.
            images = images.contiguous(memory_format=torch.channels_last)
        with self._context():
            return self._objective(forward(images), targets, images)

    def validate(
        self, network: nn.Module, on_batch: Callable[[int], None] | None, stopping: Callable[[], bool] | None
    ) -> Accuracy | None:
        """The accuracy on the validation images."""
        if self._val_batches is None:
            self._val_batches = evaluation_batches(self._splits[1], self._recipe, self._process)
        return self._accuracy(network, self._val_batches, on_batch, stopping)

    def test(
        self, network: nn.Module, on_batch: Callable[[int], None] | None, stopping: Callable[[], bool] | None
    ) -> Accuracy | None:
        """The accuracy on a split by which nothing was chosen."""
        assert self._test is not None
        batches = evaluation_batches(self._test, self._recipe, self._process)
        try:
            return self._accuracy(network, batches, on_batch, stopping)
        finally:
            end_readers(batches)

    def row(self, trained: Round, figures: Accuracy) -> EpochRow:
        """The line of an epoch."""
        return EpochRow(
            epoch=trained.number,
            update=trained.update,
            lr=trained.lr,
            train_loss=trained.train_loss,
            val_loss=figures.loss,
            top1=figures.top1,
            top5=figures.top5,
            images_per_s=trained.images_per_s,
            seconds=trained.seconds,
        )

    def conclude(
        self, network: nn.Module, folder: Folder, rows: Sequence[EpochRow], tested: Accuracy | None
    ) -> dict[str, Any]:
        """Write the trained network as timm's folder, and its summary."""
        records = {
            "inherited": start_record(self._folder, self._recipe),
            "teacher": None if self._teacher is None else self._teacher.record,
        }
        return conclude(
            self._recipe,
            network,
            folder,
            rows,
            self._splits,
            self._process,
            tested,
            test=self._test,
            trained={key: record for key, record in records.items() if record is not None},
        )

    def close(self) -> None:
        """End the processes that read validation images."""
        if self._val_batches is not None:
            end_readers(self._val_batches)

    def _accuracy(
        self,
        network: nn.Module,
        batches: Any,
        on_batch: Callable[[int], None] | None,
        stopping: Callable[[], bool] | None,
    ) -> Accuracy | None:
        run = self._recipe.run
        return evaluate(
            network,
            batches,
            self._process,
            precision=run.precision,
            channels_last=run.channels_last,
            on_batch=on_batch,
            stopping=stopping,
        )

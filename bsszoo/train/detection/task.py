"""Detection as a ``Task``: images with boxes and masks, torchvision's losses, average precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from timm.scheduler import create_scheduler_v2
from torch import nn

from bsszoo.train.callbacks import TrainingCallback
from bsszoo.train.checkpoint import Folder, Row
from bsszoo.train.classification.evaluation import autocast
from bsszoo.train.classification.samples import end_readers
from bsszoo.train.detection.data import CocoSplit, check_objects, open_coco, open_coco_split
from bsszoo.train.detection.evaluation import DetectionFigures, evaluate_detector
from bsszoo.train.detection.labels import Labels, labels_for, labels_of
from bsszoo.train.detection.outcome import DetectionRow, conclude_detection, data_fingerprint, start_detector
from bsszoo.train.detection.recipe import DetectionRecipe
from bsszoo.train.detection.samples import DetectionBatches, divide_detection, evaluation_loader
from bsszoo.train.devices import Process
from bsszoo.train.loop import run
from bsszoo.train.task import Batches, Round


def train_detector(
    recipe: DetectionRecipe,
    data: str | Path | None,
    out: str | Path,
    *,
    device: str | None = None,
    callback: TrainingCallback | None = None,
) -> dict[str, Any]:
    """Train a recipe's detector in a folder, or resume the training there; its summary.

    Arguments, folder and errors are those of ``train.loop.train``; ``data`` is a folder in COCO's format, and
    ``bsszoo.create("local-dir:OUT", pretrained=True)`` makes the detector from the folder afterwards.
    """
    return run(recipe, lambda process: Detection(recipe, data, process), out, device=device, callback=callback)


class Detection:
    """The task of a ``DetectionRecipe``.

    Raises:
        RecipeError, DataError: The images cannot be used, or do not fit the recipe.
    """

    row_kind: type[Row] = DetectionRow

    def __init__(self, recipe: DetectionRecipe, data: str | Path | None, process: Process) -> None:
        self._recipe, self._process = recipe, process
        detector = recipe.detector
        self._masks = detector.kind == "maskrcnn"
        self._splits = open_coco(recipe.data, data, masks=self._masks)
        self._labels = labels_of(
            detector.kind, self._splits[0].categories, recipe.data.label_by, recipe.model.num_classes
        )
        self._test: CocoSplit | None = None
        self._test_labels = self._labels
        notes: list[str] = []
        if recipe.data.test_split is not None:
            self._test = open_coco_split(recipe.data, data, recipe.data.test_split, masks=self._masks)
            self._test_labels, differences = labels_for(
                self._labels, self._test.categories, f"The split {recipe.data.test_split!r}"
            )
            notes += differences
            if (self._test.folder, self._test.name) == (self._splits[1].folder, self._splits[1].name):
                notes.append(
                    f"data.test_split is {recipe.data.test_split!r}, which is validated on as well: its figure "
                    "is no test of what validation chose"
                )
            check_objects(self._test)
        self.has_test = self._test is not None
        self.train_images, self.val_images = map(len, self._splits)
        self.division = divide_detection(recipe, self.train_images, process.world)
        self.ends = recipe.schedule.ends
        opened = (*self._splits, *(() if self._test is None else (self._test,)))
        self.fingerprint = data_fingerprint(opened)
        # With images held out both splits are of one file.
        self.notes = tuple(dict.fromkeys([*(note for split in opened for note in split.notes), *notes]))
        self._context = autocast(process, recipe.run.precision)
        self._val_batches: Any = None

    def network(self, *, fresh: bool) -> nn.Module:
        """The recipe's detector."""
        return start_detector(self._recipe, self._labels, fresh=fresh)

    def schedule(self, optimizer: torch.optim.Optimizer) -> Any:
        """The recipe's schedule, timm's, with an update for each of its epochs."""
        plan, peak = self._recipe.schedule, self._recipe.optim.peak_lr
        steps = plan.name == "steps"
        # timm counts a step down one early: at the milestone minus one.
        milestones = [m + 1 for m in plan.milestones] or [plan.updates + 2]
        schedule, _ = create_scheduler_v2(
            optimizer,
            sched="multistep" if steps else "cosine",
            num_epochs=plan.updates if steps else plan.updates - plan.warmup_updates,
            decay_milestones=milestones,
            decay_rate=plan.decay if steps else 1.0,
            warmup_epochs=plan.warmup_updates,
            warmup_lr=plan.warmup_from * peak,
            warmup_prefix=not steps,
            min_lr=plan.min_lr,
            step_on_epochs=False,
            updates_per_epoch=1,
        )
        return schedule

    def to_device(self) -> None:
        """Nothing but the network is needed."""

    def batches(self) -> Batches:
        """Images and targets, flipped at random."""
        return DetectionBatches(
            self._splits[0], self._labels, self._recipe, self.division, self._process, masks=self._masks
        )

    def loss(self, forward: nn.Module, batch: Any) -> torch.Tensor:
        """The sum of torchvision's losses, each a mean over the micro-batch."""
        with self._context():
            losses = forward([image for image, _ in batch], [target for _, target in batch])
        total: torch.Tensor = torch.stack([value.float() for value in losses.values()]).sum()
        return total

    def validate(
        self, network: nn.Module, on_batch: Callable[[int], None] | None, stopping: Callable[[], bool] | None
    ) -> DetectionFigures | None:
        """The average precision on the validation images."""
        if self._val_batches is None:
            self._val_batches = evaluation_loader(self._splits[1], self._recipe.run, self._process)
        return self._precision(network, self._val_batches, self._splits[1], self._labels, on_batch, stopping)

    def test(
        self, network: nn.Module, on_batch: Callable[[int], None] | None, stopping: Callable[[], bool] | None
    ) -> DetectionFigures | None:
        """The average precision on a split by which nothing was chosen."""
        assert self._test is not None
        batches = evaluation_loader(self._test, self._recipe.run, self._process)
        try:
            return self._precision(network, batches, self._test, self._test_labels, on_batch, stopping)
        finally:
            end_readers(batches)

    def row(self, trained: Round, figures: DetectionFigures) -> DetectionRow:
        """The line of a validation."""
        return DetectionRow.of(trained, figures)

    def conclude(
        self, network: nn.Module, folder: Folder, rows: Sequence[DetectionRow], tested: DetectionFigures | None
    ) -> dict[str, Any]:
        """Write the trained detector and its summary."""
        return conclude_detection(
            self._recipe, network, folder, rows, self._labels, self._splits, self._process, tested, self.notes
        )

    def close(self) -> None:
        """End the processes that read validation images."""
        if self._val_batches is not None:
            end_readers(self._val_batches)

    def _precision(
        self,
        network: nn.Module,
        batches: Any,
        split: CocoSplit,
        labels: Labels,
        on_batch: Callable[[int], None] | None,
        stopping: Callable[[], bool] | None,
    ) -> DetectionFigures | None:
        return evaluate_detector(
            network,
            batches,
            split,
            labels,
            self._process,
            masks=self._masks,
            precision=self._recipe.run.precision,
            on_batch=on_batch,
            stopping=stopping,
        )

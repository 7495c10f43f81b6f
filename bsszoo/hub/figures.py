"""The accuracies that were measured of a trained network, with the pictures that they were measured on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Measured:
    """One measurement: top-1 and top-5 accuracy [%] on a split of a data set."""

    dataset: str
    split: str
    top1: float
    top5: float
    pictures: int

    @property
    def dataset_id(self) -> str:
        """The data set as the Hub's cards name it."""
        kind, slash, name = self.dataset.partition("/")
        return name if slash and kind in ("torch", "hfds", "hfids", "tfds", "wds") else self.dataset


def measured_of(summary: Mapping[str, Any] | None) -> tuple[Measured, ...]:
    """What the summary of a training says was measured: on its validation pictures, and on its test split if any."""
    if summary is None:
        return ()
    dataset = str(summary["dataset"])
    found = [Measured(dataset, str(summary["validated_on"]), float(summary["top1"]), float(summary["top5"]),
                      int(summary["val_pictures"]))]
    if summary.get("test_top1") is not None:
        found.append(Measured(dataset, str(summary["tested_on"]), float(summary["test_top1"]),
                              float(summary["test_top5"]), int(summary["test_pictures"])))
    return tuple(found)
